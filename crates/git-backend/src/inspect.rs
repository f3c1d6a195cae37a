//! Finding what would be lost if a slot were reset.
//!
//! The question is always the same: which bytes and which commits would no longer be reachable from
//! a reference if the worktree, its index and its administrative directory were gone? Everything is
//! decided from the disk and from git's own files; no bit, cache or monitor that says "unchanged" is
//! believed.

pub(crate) mod admin;
pub(crate) mod commits;
pub(crate) mod compare;
mod modules;
pub(crate) mod os;
pub(crate) mod staged;
mod submodule;
pub(crate) mod walk;
pub(crate) mod whereabouts;

use std::collections::{BTreeSet, HashSet};
use std::fmt::Display;
use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use gix::ObjectId;
use gix::bstr::{BStr, ByteSlice};
use pool_core::{BranchReport, Error, ErrorKind, Inspection, Losses, Plan, Result};

use crate::aside;
use crate::copy::Copied;
use crate::nested::{self, At, Nested, State, misplaced};
use crate::patterns::Patterns;
use crate::provision::{OWN_CONFIG, remembered};
use crate::references::settled;
use crate::site::{Place, Site};
use commits::Unreached;
use staged::Staged;
use walk::{Ground, Seen, Status, Submodule};

/// How many paths that can't be saved are named, at most.
const NAMED: usize = 20;

/// Up to what size a file of git's is compared by its content, in bytes.
const READ_WHOLE: u64 = 1 << 20;

/// How often is looked again for an object that was there and is not found.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);
const LOOKS_FOR_ABSENT: u32 = 3;

/// Looks for what would be lost. Changes nothing.
pub(crate) fn inspect(site: &Site, plan: &Plan) -> Result<Inspection> {
    let look = again_while_repacked(|| look(site, plan))?;
    site.seen(plan.slot, look.fingerprint);
    Ok(look.inspection)
}

/// Whether a slot's trees, which were [set aside](crate::aside::take) since, still are as they were when they were
/// looked at last.
///
/// # Errors
///
/// When one can't be looked at.
pub(crate) fn is_as_seen(site: &Site, plan: &Plan) -> Result<bool> {
    let Some(seen) = site.last_seen(plan.slot) else { return Ok(true) };
    again_while_repacked(|| Ok(look_at(site, plan, At::Aside)?.fingerprint == seen))
}

/// Runs `work`, and runs it again when an object was not found: somebody's `git gc` may be moving it
/// from a file of its own into a pack, and reads between the two find it in neither.
///
/// # Errors
///
/// Those of `work`.
pub(crate) fn again_while_repacked<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let mut looks = 1;
    loop {
        match work() {
            Err(error) if looks < LOOKS && is_of_a_missing_object(&error) => {
                looks += 1;
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

/// The same for what may well not be there at all. Git puts a pack in place before it removes what went
/// into it, so that the next look, without a pause, finds it.
pub(crate) fn even_if_repacked<T>(mut find: impl FnMut() -> Option<T>) -> Option<T> {
    (0..LOOKS_FOR_ABSENT).find_map(|_| find())
}

fn is_of_a_missing_object(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    source.and_then(|e| e.downcast_ref::<gix::Error>()).is_some_and(gix::Error::is_not_found)
}

/// One finding, for whoever wants to save it.
pub(crate) enum Finding<'a> {
    /// Told once, before all others.
    Begin(&'a Survey),
    /// A staged change.
    Staged(&'a Staged<'a>),
    /// A path of the worktree.
    Path(&'a Seen<'a>),
}

/// An inspection, and what a rescue needs besides.
pub(crate) struct Look {
    pub(crate) inspection: Inspection,
    /// What there is of the slot, and each linked worktree nested in it.
    pub(crate) trees: Vec<Tree>,
    /// Changes whenever anything that was found does.
    pub(crate) fingerprint: u64,
}

/// What was found in the slot's own worktree, or in one that is nested in its directory.
pub(crate) struct Tree {
    /// The nested worktree; `None` if it is the slot's own.
    pub(crate) nested: Option<Nested>,
    /// Where it stands.
    pub(crate) survey: Survey,
    /// What would be lost with it.
    pub(crate) losses: Losses,
    /// What no reference keeps.
    pub(crate) unreached: Unreached,
    /// Changes whenever anything that was found does.
    pub(crate) fingerprint: u64,
    /// Whether attributes are among the changes: a checkout may then write what is unchanged otherwise
    /// than it is.
    pub(crate) attributes_changed: bool,
    last_write: Option<SystemTime>,
}

impl Tree {
    /// The administrative directory by which a nested worktree is told from others.
    pub(crate) fn key(&self) -> Option<&Path> {
        self.nested.as_ref().map(|nested| nested.admin.as_path())
    }
}

/// A slot's git state, as found.
pub(crate) struct Survey {
    pub(crate) repo: gix::Repository,
    /// The administrative directory; `None` after `git worktree prune`.
    pub(crate) admin: Option<PathBuf>,
    /// The worktree; `None` when it is gone.
    pub(crate) root: Option<PathBuf>,
    pub(crate) index: gix::index::File,
    /// The branch that HEAD names, in full.
    pub(crate) branch: Option<String>,
    /// The commit that is checked out; `None` before the first one.
    pub(crate) head: Option<ObjectId>,
    /// The tree of that commit, or the empty tree.
    pub(crate) tree: ObjectId,
}

impl Survey {
    /// Opens what there is of a slot.
    fn open(site: &Site, plan: &Plan, moved: Option<&Path>) -> Result<Option<Self>> {
        let place = site.place(plan.slot);
        let (admin, root) = match site.look(plan.slot)? {
            Place::Ours(admin) => (Some(admin), Some(place)),
            Place::Pruned(_) => (None, Some(place)),
            Place::Foreign(what) => return Err(crate::site::foreign(&place, &what)),
            Place::Absent => match site.registration_of(plan.slot)? {
                Some(admin) => (Some(admin), moved.map(Path::to_owned)),
                None if moved.is_some() => (None, moved.map(Path::to_owned)),
                None => return Ok(None),
            },
        };
        if let Some(admin) = admin {
            if let Some(root) = &root
                && moved.is_some()
                && !site.is_worktree_of(&admin, root)
            {
                let what = "it is not what was set aside";
                return Err(crate::site::foreign(root, what));
            }
            return Self::of(site, plan, admin, root).map(Some);
        }
        // After `git worktree prune` only the files are left. They are compared with the commit that
        // most likely was checked out: a wrong guess makes the rescue larger, nothing else.
        let mut repo = site.repo();
        if let Some(root) = &root {
            repo.set_workdir(root.clone())
                .map_err(|e| failed(format_args!("open {}", root.display()), e))?;
        }
        let (tip, branch) = match &plan.base.branch {
            Some(branch) => {
                (branch_tip(&repo, &branch.name)?, Some(format!("refs/heads/{}", branch.name)))
            }
            None => (None, None),
        };
        let head = Some(tip.map_or_else(|| object_id(plan.base.commit.as_str()), Ok)?);
        let branch = branch.filter(|_| tip.is_some());
        let tree = tree_of(&repo, head)?;
        let index =
            gix::index::File::from_state(staged::tree_index(&repo, tree)?, repo.index_path());
        Ok(Some(Self { repo, admin: None, root, index, branch, head, tree }))
    }

    /// Opens a registered worktree of the slot: its own, or one that is nested in its directory.
    fn of(site: &Site, plan: &Plan, admin: PathBuf, root: Option<PathBuf>) -> Result<Self> {
        // What an agent's own worktree has of it, git has copied from the slot's.
        let made_with = std::fs::read(remembered(site, plan.slot, OWN_CONFIG[0])).ok();
        let mut repo = site.open_used(&admin, made_with.as_deref())?;
        if let Some(root) = &root {
            // Not what `core.worktree` says.
            repo.set_workdir(root.clone())
                .map_err(|e| failed(format_args!("open {}", root.display()), e))?;
        }
        let reading = || format!("read HEAD of {}", admin.display());
        let (head, id) = settled(&repo, || Ok((repo.head()?, repo.head_id())))
            .map_err(|e: gix::Error| failed(reading(), e))?;
        let branch = head.referent_name().map(|name| name.as_bstr().to_string());
        let head = match id {
            Ok(id) => Some(id.detach()),
            Err(_) if head.is_unborn() => None,
            Err(e) => return Err(failed(reading(), e)),
        };
        let tree = tree_of(&repo, head)?;
        let index = gix::index::File::at_or_default(
            repo.index_path(),
            repo.object_hash(),
            false,
            Default::default(),
        )
        .map_err(|e| failed(format_args!("read the index {}", repo.index_path().display()), e))?;
        Ok(Self { repo, admin: Some(admin), root, index, branch, head, tree })
    }
}

/// The inspection of the slot's own worktree and of all that are nested in its directory.
pub(crate) fn look(site: &Site, plan: &Plan) -> Result<Look> {
    look_at(site, plan, At::Home)
}

/// The same, of trees that may have been moved away from their places.
fn look_at(site: &Site, plan: &Plan, at: At) -> Result<Look> {
    let nothing = |branch| Look {
        inspection: Inspection {
            plan: plan.clone(),
            losses: Losses::default(),
            branch,
            last_write: None,
            fingerprint: None,
            present: false,
        },
        trees: Vec::new(),
        fingerprint: 0,
    };
    if site.is_half_made(plan.slot) {
        // Its branch may be half made as well, and not readable.
        return Ok(nothing(report(&site.repo(), plan).unwrap_or(None)));
    }
    let branch = report(&site.repo(), plan)?;
    let all = nested::find(site, plan.slot, at)?;
    let own = open(site, plan, at)?;
    let mut trees = Vec::new();
    let mut found: Vec<(Option<&Nested>, Survey)> = Vec::new();
    found.extend(own.map(|survey| (None, survey)));
    for one in &all {
        found.push((Some(one), open_nested(site, plan, one)?));
    }
    for (nested, survey) in found {
        let look = look_into(site, plan, nested, survey, &all, branch.as_ref(), &mut |_| Ok(()))?;
        trees.push(look);
    }
    let Some(first) = trees.first() else { return Ok(nothing(branch)) };
    let mut fingerprint = first.fingerprint;
    if !all.is_empty() {
        let mut hasher = DefaultHasher::new();
        for tree in &trees {
            let place = tree.nested.as_ref().map(|one| (&one.admin, &one.root));
            (place, tree.survey.root.is_some(), tree.fingerprint).hash(&mut hasher);
        }
        fingerprint = hasher.finish();
    }
    let misplaced = misplaced::find(site, plan.slot, &all)?;
    if !misplaced.is_empty() {
        let mut hasher = DefaultHasher::new();
        (fingerprint, &misplaced).hash(&mut hasher);
        fingerprint = hasher.finish();
    }
    let own = trees.iter().find(|tree| tree.nested.is_none()).map(|tree| &tree.survey);
    let admins: Vec<&Path> = trees.iter().filter_map(Tree::key).collect();
    let branch = match own {
        Some(own) => whereabouts::complete(site, own, &admins, plan, branch)?,
        None => branch,
    };
    let last_write = trees.iter().filter_map(|tree| tree.last_write).max();
    let mut losses = total(site, &trees, plan);
    losses.unsavable.extend(misplaced.into_iter().take(NAMED));
    let inspection = Inspection {
        plan: plan.clone(),
        losses,
        branch,
        last_write: last_write.and_then(|t| jiff::Timestamp::try_from(t).ok()),
        fingerprint: Some(fingerprint),
        present: own.is_some_and(|own| own.root.is_some()),
    };
    Ok(Look { inspection, trees, fingerprint })
}

/// The losses of all trees together.
fn total(site: &Site, trees: &[Tree], plan: &Plan) -> Losses {
    let mut total = Losses::default();
    for tree in trees {
        let Losses { staged, modified, untracked, ignored, commits, operation, unsavable } =
            &tree.losses;
        total.staged += staged;
        total.modified += modified;
        total.untracked += untracked;
        total.ignored += ignored;
        total.commits += commits;
        total.operation = total.operation.or_else(|| operation.clone());
        total.unsavable.extend(unsavable.iter().map(|why| match &tree.nested {
            // Unless it is about that worktree as a whole.
            Some(nested) if nested.obstacle(site, plan.slot).as_ref() != Some(why) => {
                format!("in the linked worktree {}: {why}", nested.root.display())
            }
            _ => why.clone(),
        }));
    }
    total
}

/// Opens what there is of a slot's own worktree.
fn open(site: &Site, plan: &Plan, at: At) -> Result<Option<Survey>> {
    let aside = aside::path(site, plan.slot);
    let is_moved = at == At::Aside && aside::is_there(&aside);
    Survey::open(site, plan, is_moved.then_some(&*aside))
}

fn open_nested(site: &Site, plan: &Plan, nested: &Nested) -> Result<Survey> {
    let root = (nested.state == State::Sound).then(|| nested.now.clone());
    Survey::of(site, plan, nested.admin.clone(), root)
}

/// Looks at one worktree of the slot once more, telling `saver` about everything as it is found. `key` says which,
/// see [`Tree::key`]; `None` if it is gone.
pub(crate) fn look_again(
    site: &Site,
    plan: &Plan,
    key: Option<&Path>,
    saver: &mut dyn FnMut(Finding<'_>) -> Result<()>,
) -> Result<Option<Tree>> {
    let all = nested::find(site, plan.slot, At::Home)?;
    let nested = all.iter().find(|one| Some(&*one.admin) == key);
    let survey = match (key, nested) {
        (None, _) => open(site, plan, At::Home)?,
        (Some(_), Some(nested)) => Some(open_nested(site, plan, nested)?),
        (Some(_), None) => None,
    };
    let Some(survey) = survey else { return Ok(None) };
    let branch = report(&site.repo(), plan)?;
    look_into(site, plan, nested, survey, &all, branch.as_ref(), saver).map(Some)
}

/// Looks at one worktree: the slot's own, or one of `all` that are nested in its directory. `branch`: the report
/// on the lease's.
fn look_into(
    site: &Site,
    plan: &Plan,
    nested: Option<&Nested>,
    survey: Survey,
    all: &[Nested],
    branch: Option<&BranchReport>,
    saver: &mut dyn FnMut(Finding<'_>) -> Result<()>,
) -> Result<Tree> {
    saver(Finding::Begin(&survey))?;
    let mut tally = Tally::default();
    if let Some(why) = nested.and_then(|nested| nested.obstacle(site, plan.slot)) {
        tally.unsavable(why);
    }
    staged::compare(&survey.repo, survey.tree, &survey.index, &mut |staged| {
        tally.staged(&survey.repo, staged);
        saver(Finding::Staged(staged))
    })?;
    let looked_at = submodule::Repositories::default();
    if let Some(root) = &survey.root {
        let regenerable = Patterns::new(&site.settings.regenerable);
        let copies = match nested {
            Some(_) => Copied::default(),
            None => Copied::load(site, plan.slot)?,
        };
        let keep = |path: &BStr, dir: &Path| {
            submodule::look_into(&survey, site, plan, path, dir, &looked_at)
        };
        let inside = all.iter().filter(|one| one.state == State::Sound);
        let inside = inside.filter_map(|one| one.now.strip_prefix(root).ok());
        let ground = Ground {
            repo: &survey.repo,
            index: &survey.index,
            root,
            regenerable: &regenerable,
            copies: &copies,
            submodule: &keep,
            nested: inside.map(|path| os::bytes(path.as_os_str()).into_owned().into()).collect(),
        };
        walk::walk(&ground, &mut |seen| {
            tally.path(seen);
            saver(Finding::Path(seen))
        })?;
    }
    let base = object_id(plan.base.commit.as_str())?;
    modules::look_into(site, &survey, base, &looked_at.borrow(), &mut |why| {
        why.hash(&mut tally.hasher);
        tally.unsavable(why);
    })?;
    let unreached = unreached(site, &survey, plan, branch, nested.is_some(), &mut tally)?;
    tally.losses.commits = unreached.count;
    if let Some(admin) = &survey.admin {
        tally.losses.operation = admin::operation(admin);
        admin::files(admin, &mut |path, name| {
            let meta = std::fs::symlink_metadata(path)
                .map_err(|e| Error::io(format_args!("look at {}", path.display()), e))?;
            if ["index", "HEAD", "logs/HEAD"].contains(&name) {
                tally.written(meta.modified().ok());
            }
            // Any `git gc` in the repository writes the logs of all worktrees again, as they were.
            match Some(name).filter(|name| *name != "index" && meta.len() <= READ_WHOLE) {
                // The larger part of a split index is named by its content, and git touches it whenever it is read.
                Some(_) if name.starts_with("sharedindex.") => name.hash(&mut tally.hasher),
                Some(_) => {
                    let content = std::fs::read(path)
                        .map_err(|e| Error::io(format!("read {}", path.display()), e))?;
                    (name, content).hash(&mut tally.hasher);
                }
                None => (name, os::stamp(&meta)).hash(&mut tally.hasher),
            }
            Ok(())
        })?;
    }
    Ok(Tree {
        nested: nested.cloned(),
        fingerprint: tally.hasher.finish(),
        attributes_changed: tally.attributes_changed,
        losses: tally.losses(),
        last_write: tally.last_write,
        survey,
        unreached,
    })
}

/// Counts what is found.
#[derive(Default)]
struct Tally {
    losses: Losses,
    more_unsavable: usize,
    last_write: Option<SystemTime>,
    hasher: DefaultHasher,
    attributes_changed: bool,
}

impl Tally {
    fn staged(&mut self, repo: &gix::Repository, staged: &Staged<'_>) {
        self.losses.staged += 1;
        self.attributes_changed |= is_attributes(staged.path());
        if let Some(why) = staged::missing(repo, staged) {
            self.unsavable(why);
        }
    }

    fn path(&mut self, seen: &Seen<'_>) {
        match &seen.status {
            Status::Modified | Status::Deleted | Status::Submodule(Submodule::Moved(_)) => {
                self.losses.modified += 1
            }
            Status::Untracked => self.losses.untracked += 1,
            Status::Ignored => self.losses.ignored += 1,
            Status::Unsavable(why) => self.unsavable(format!("{}: {why}", text(seen.path))),
            Status::Equivalent
            | Status::Unchanged { .. }
            | Status::Submodule(_)
            | Status::Directory { .. } => return,
        }
        self.attributes_changed |= is_attributes(seen.path);
        if let Status::Submodule(Submodule::Moved(at)) = &seen.status {
            at.hash(&mut self.hasher);
        }
        let kind = match &seen.status {
            Status::Modified => 1u8,
            Status::Deleted => 2,
            Status::Untracked => 3,
            Status::Ignored => 4,
            _ => 5,
        };
        (seen.path.as_bytes(), kind, seen.meta.map(os::stamp)).hash(&mut self.hasher);
        self.written(seen.meta.and_then(|m: &Metadata| m.modified().ok()));
        self.written(seen.parent_written);
    }

    fn unsavable(&mut self, why: String) {
        if self.losses.unsavable.len() < NAMED {
            self.losses.unsavable.push(why);
        } else {
            self.more_unsavable += 1;
        }
    }

    fn written(&mut self, at: Option<SystemTime>) {
        self.last_write = self.last_write.max(at);
    }

    fn losses(&mut self) -> Losses {
        let mut losses = std::mem::take(&mut self.losses);
        if self.more_unsavable > 0 {
            losses.unsavable.push(format!("and {} more", self.more_unsavable));
        }
        losses
    }
}

/// Whether a path is a file of attributes.
pub(crate) fn is_attributes(path: &BStr) -> bool {
    path.rsplit(|b| *b == b'/').next() == Some(b".gitattributes")
}

/// What only this worktree knows.
fn unreached(
    site: &Site,
    survey: &Survey,
    plan: &Plan,
    branch: Option<&BranchReport>,
    is_nested: bool,
    tally: &mut Tally,
) -> Result<Unreached> {
    let repo = &survey.repo;
    let own = plan
        .base
        .branch
        .as_ref()
        .filter(|_| !branch.is_some_and(|b| b.kept))
        .map(|b| format!("refs/heads/{}", b.name));
    let mut candidates = BTreeSet::from_iter(survey.head);
    if let Some(admin) = &survey.admin {
        candidates.extend(commits::mentioned_in(repo, admin)?);
    }
    if let Some(own) = own.as_ref().filter(|_| !is_nested) {
        candidates.extend(branch_tip(repo, own.trim_start_matches("refs/heads/"))?);
        // The log of a branch goes when the branch does.
        if let Ok(log) = std::fs::read(repo.common_dir().join("logs").join(own)) {
            commits::mentioned(repo, &log, &mut candidates);
        }
    }
    // What a rescue of this very lease keeps is asked for again each time, so that looking twice
    // finds the same twice.
    let rescues = crate::rescue::prefix(plan);
    // Not the base as such: it may have been another lease's, and may be reached by this one alone.
    // But what the user's own worktrees stand on is theirs, and theirs to keep.
    let mut at_hand: HashSet<_> = site.heads_outside().into_iter().collect();
    if let Some(branch) = branch.filter(|branch| branch.kept) {
        let name = format!("refs/heads/{}", branch.name);
        let found = settled(repo, || repo.try_find_reference(name.as_str()));
        let found = found.map_err(|e| failed(format_args!("read {name}"), e))?;
        // One that only names another keeps nothing.
        at_hand.extend(found.iter().filter_map(gix::Reference::try_id).map(gix::Id::detach));
    }
    let found = commits::reached_by_none(repo, &candidates, at_hand, || {
        commits::kept_by_refs(repo, |name| {
            Some(name) == own.as_deref() || name.starts_with(&rescues)
        })
    })?;
    for tip in &found.tips {
        tip.hash(&mut tally.hasher);
    }
    Ok(found)
}

/// What is to become of the lease's branch.
fn report(repo: &gix::Repository, plan: &Plan) -> Result<Option<BranchReport>> {
    let Some(branch) = &plan.base.branch else { return Ok(None) };
    let base = object_id(plan.base.commit.as_str())?;
    let tip = branch_tip(repo, &branch.name)?;
    let commits = tip.map_or(0, |tip| commits::ahead(repo, tip, base));
    let kept = tip.is_some_and(|tip| commits > 0 || !branch.created || tip != base);
    let name = branch.name.clone();
    Ok(Some(BranchReport { name, kept, commits, renamed_to: None, elsewhere: Vec::new() }))
}

/// Where a local branch stands, if it exists.
fn branch_tip(repo: &gix::Repository, name: &str) -> Result<Option<ObjectId>> {
    let name = format!("refs/heads/{name}");
    let reading = || format!("read {name}");
    let found = settled(repo, || repo.try_find_reference(name.as_str()));
    match found.map_err(|e| failed(reading(), e))? {
        Some(mut found) => Ok(Some(found.peel_to_id().map_err(|e| failed(reading(), e))?.detach())),
        None => Ok(None),
    }
}

fn tree_of(repo: &gix::Repository, commit: Option<ObjectId>) -> Result<ObjectId> {
    let Some(commit) = commit else { return Ok(repo.empty_tree().id) };
    let read = repo.find_commit(commit).and_then(|c| Ok(c.tree_id()?.detach()));
    read.map_err(|e| failed(format_args!("read the commit {commit}"), e))
}

/// Parses an object id of the contract.
pub(crate) fn object_id(text: &str) -> Result<ObjectId> {
    ObjectId::from_hex(text.as_bytes())
        .map_err(|_| Error::new(ErrorKind::InvalidInput, format!("{text:?} is not an object id")))
}

/// A path for people: bytes that are not UTF-8, and control characters, as escapes.
pub(crate) fn text(path: &BStr) -> String {
    let mut out = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
        }
        out.extend(chunk.invalid().iter().map(|b| format!("\\x{b:02x}")));
    }
    out
}

/// An error of gix, or of anything else.
pub(crate) fn failed(doing: impl Display, error: impl Into<gix::Error>) -> Error {
    crate::site::gix_error(doing, error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_is_not_found_is_looked_for_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let repo = gix::init_bare(dir.path()).expect("made");
        let absent = ObjectId::from_hex(&[b'1'; 40]).expect("an id");
        let mut looks = 0;
        let found = again_while_repacked(|| {
            looks += 1;
            match looks {
                3 => Ok(looks),
                _ => Err(failed("read", repo.find_object(absent).expect_err("absent"))),
            }
        });
        assert_eq!(found.expect("found at last"), 3);

        let mut others = 0;
        let failed: Result<()> = again_while_repacked(|| {
            others += 1;
            Err(Error::new(ErrorKind::Other, "something else"))
        });
        assert!(failed.is_err());
        assert_eq!(others, 1);
    }
}
