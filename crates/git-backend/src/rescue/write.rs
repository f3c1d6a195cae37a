//! Making a rescue.

use gix::ObjectId;
use gix::bstr::{BString, ByteSlice};
use gix::objs::Kind;
use gix::objs::tree::EntryKind;
use pool_core::{
    Error, ErrorKind, Inspection, LeaseId, Losses, Plan, Preserved, Rescue, RescueId, Result,
};

use super::manifest::{
    DirectoryRecord, Manifest, Name, PathRecord, PathStatus, SubmoduleRecord, VERSION,
};
use super::objects::{self, Objects, Staging};
use crate::conversions;
use crate::durable;
use crate::git::Git;
use crate::inspect::commits::Unreached;
use crate::inspect::compare::hash_file;
use crate::inspect::staged::Staged;
use crate::inspect::walk::{Seen, Status, Submodule};
use crate::inspect::{
    Finding, Look, Survey, Tree, admin, again_while_repacked, failed, is_attributes, look,
    look_again, object_id, os, staged,
};
use crate::references::{self, settled};
use crate::site::Site;

/// How often a worktree that changes while it is being saved is saved again.
const ATTEMPTS: usize = 3;

/// Looks again, saves what there is, and gives the proof.
pub(crate) fn preserve(site: &Site, inspection: Inspection) -> Result<Preserved> {
    let plan = inspection.plan;
    again_while_repacked(|| preserve_now(site, &plan))
}

fn preserve_now(site: &Site, plan: &Plan) -> Result<Preserved> {
    objects::take_back(site, plan.slot)?;
    let mut seen = look(site, plan)?;
    let mut damaged = None;
    'attempts: for _ in 0..ATTEMPTS {
        if !seen.inspection.losses.unsavable.is_empty() {
            return Err(refusal(site, plan, &seen.inspection.losses));
        }
        let is_clean = |tree: &&Tree| tree.losses.is_empty();
        for tree in seen.trees.iter().filter(is_clean) {
            keep_commits(site, plan, &tree.survey, &tree.unreached, Vec::new())?;
        }
        if seen.inspection.losses.is_empty() {
            site.seen(plan.slot, seen.fingerprint);
            return Preserved::nothing_to_lose(seen.inspection)
                .map_err(|i| refusal(site, plan, &i.losses));
        }
        // By tree, what was saved of it, and as what. The slot's own comes first.
        let mut saved: Vec<(Tree, Rescue)> = Vec::new();
        let mut last = None;
        for tree in seen.trees.iter().filter(|tree| !is_clean(tree)) {
            match save(site, plan, tree)? {
                Attempt::Saved { tree, rescue, again } => {
                    saved.push((*tree, rescue));
                    last = Some(again);
                }
                Attempt::Failed { again, error } => {
                    (seen, damaged) = (again, error.or(damaged));
                    continue 'attempts;
                }
            }
        }
        let Some(again) = last else { break };
        // While one was being saved, another may have been written to, or made.
        let is_saved = |tree: &Tree| {
            let as_saved = saved.iter().map(|(saved, _)| saved);
            let mut before = as_saved.chain(seen.trees.iter().filter(is_clean));
            let before = before.find(|before| before.key() == tree.key());
            before.is_some_and(|before| {
                before.fingerprint == tree.fingerprint && before.losses == tree.losses
            })
        };
        if !again.trees.iter().all(is_saved) {
            seen = again;
            continue;
        }
        let mut rescues = saved.into_iter().map(|(_, rescue)| rescue);
        let Some(mut rescue) = rescues.next() else { break };
        rescue.nested = rescues.collect();
        site.seen(plan.slot, again.fingerprint);
        return Preserved::by_rescue(again.inspection, rescue)
            .map_err(|i| refusal(site, plan, &i.losses));
    }
    Err(damaged.unwrap_or_else(|| {
        let message = format!(
            "{} is being written to, and could not be saved as a whole",
            site.place(plan.slot).display()
        );
        Error::new(ErrorKind::WouldLoseWork, message)
            .with_hint("end the processes that work in it and try again")
    }))
}

/// What became of one attempt to save a tree. `again`: what the slot's trees were afterwards.
enum Attempt {
    Saved { tree: Box<Tree>, rescue: Rescue, again: Look },
    Failed { again: Look, error: Option<Error> },
}

/// Saves one of the slot's worktrees, which was just `seen`.
fn save(site: &Site, plan: &Plan, seen: &Tree) -> Result<Attempt> {
    let exact = seen.attributes_changed || is_restored_otherwise(site, seen, plan)?;
    let staging = Staging::new(site, plan.slot)?;
    let mut capture = Capture { exact, ..Capture::new(&staging) };
    let tree = look_again(site, plan, seen.key(), &mut |finding| capture.take(finding))?;
    let savable = |tree: &Tree| !tree.losses.is_empty() && tree.losses.unsavable.is_empty();
    let Some(tree) = tree.filter(savable) else {
        return Ok(Attempt::Failed { again: look(site, plan)?, error: None });
    };
    pool_core::fail_point!("git-backend::rescue::captured");
    let commits = capture.finish(site, plan, &tree)?;
    pool_core::fail_point!("git-backend::rescue::trees-written");
    // Whatever was written since the saving began is not in it for certain.
    let again = look(site, plan)?;
    let found = again.trees.iter().find(|found| found.key() == tree.key());
    if !found
        .is_some_and(|found| found.fingerprint == tree.fingerprint && found.losses == tree.losses)
    {
        return Ok(Attempt::Failed { again, error: None });
    }
    match publish(site, plan, &tree.survey, &commits, &tree.unreached, &staging) {
        Err(error) if error.kind() == ErrorKind::Store => {
            tracing::debug!(%error, "a rescue is made again");
            Ok(Attempt::Failed { again, error: Some(error) })
        }
        published => Ok(Attempt::Saved { tree: Box::new(tree), rescue: published?, again }),
    }
}

/// Whether what is unchanged may be otherwise than a restore would write it: when the lease's commits changed
/// attributes, since files that were checked out before that are as the old ones say, and unchanged to git all the
/// same; and where only git does the conversions that they ask for.
fn is_restored_otherwise(site: &Site, seen: &Tree, plan: &Plan) -> Result<bool> {
    let survey = &seen.survey;
    if conversions::are_only_gits(&survey.repo, &survey.index, &site.settings) {
        return Ok(true);
    }
    let base = object_id(plan.base.commit.as_str())?;
    if survey.head == Some(base) {
        return Ok(false);
    }
    let repo = &survey.repo;
    let found = |tree| -> Result<Vec<(BString, ObjectId)>> {
        let index = staged::tree_index(repo, tree)?;
        let all = index.entries().iter().map(|entry| (entry.path(&index), entry.id));
        let found = all.filter(|(path, _)| is_attributes(path));
        Ok(found.map(|(path, id)| (path.to_owned(), id)).collect())
    };
    let tree = repo.find_commit(base).and_then(|commit| Ok(commit.tree_id()?.detach()));
    // What can't be told is taken for changed: then all files are read, and nothing else is different.
    let Ok(before) = tree.map_err(|e| failed("read the base", e)).and_then(found) else {
        return Ok(true);
    };
    Ok(before != found(survey.tree)?)
}

fn refusal(site: &Site, plan: &Plan, losses: &Losses) -> Error {
    let place = site.place(plan.slot);
    Error::new(
        ErrorKind::WouldLoseWork,
        format!("{} holds what no rescue can: {}", place.display(), losses.unsavable.join("; ")),
    )
    .with_hint("move these paths elsewhere, push their commits, or delete them, and try again")
}

/// What has been stored so far. Everything goes to the disk at once; the memory needed grows with the
/// number of changed paths, not with their size.
struct Capture<'a> {
    staging: &'a Staging,
    repo: Option<gix::Repository>,
    /// The trees of the index and of the worktree, as changes.
    index: Vec<(BString, Option<(EntryKind, ObjectId)>)>,
    worktree: Vec<(BString, Option<(EntryKind, ObjectId)>)>,
    paths: Vec<PathRecord>,
    directories: Vec<DirectoryRecord>,
    modes: Vec<DirectoryRecord>,
    submodules: Vec<SubmoduleRecord>,
    /// Whether what is unchanged is stored byte for byte as well.
    exact: bool,
    written: Vec<ObjectId>,
    /// What others wrote to the repository.
    found: Vec<ObjectId>,
    file_mode: u32,
    directory_mode: u32,
}

impl<'a> Capture<'a> {
    fn new(staging: &'a Staging) -> Self {
        Self {
            staging,
            repo: None,
            index: Vec::new(),
            worktree: Vec::new(),
            paths: Vec::new(),
            directories: Vec::new(),
            modes: Vec::new(),
            submodules: Vec::new(),
            exact: false,
            written: Vec::new(),
            found: Vec::new(),
            file_mode: 0,
            directory_mode: 0,
        }
    }

    fn take(&mut self, finding: Finding<'_>) -> Result<()> {
        match finding {
            Finding::Begin(survey) => {
                self.repo = Some(survey.repo.clone());
                // What the umask was at the checkout can be told from git's own file.
                let mode = |path: Option<std::path::PathBuf>| {
                    path.and_then(|p| p.symlink_metadata().ok()).map(|m| os::mode(&m))
                };
                self.file_mode =
                    mode(survey.root.as_ref().map(|r| r.join(".git"))).unwrap_or(0o644);
                self.directory_mode = mode(survey.root.clone()).unwrap_or(0o755);
                Ok(())
            }
            Finding::Staged(staged) => {
                self.staged(staged);
                Ok(())
            }
            Finding::Path(seen) => self.path(seen),
        }
    }

    fn staged(&mut self, staged: &Staged<'_>) {
        let path = staged.path();
        if let Staged::Set(_, _, id) = staged {
            // By `git add`, which leaves it to the system when that comes to the disk.
            self.found.push(*id);
        }
        let size = match (staged, &self.repo) {
            (Staged::Set(_, kind, id), Some(repo))
                if !matches!(kind, EntryKind::Tree | EntryKind::Commit) =>
            {
                repo.find_header(*id).map_or(0, |header| header.size())
            }
            _ => 0,
        };
        self.index.push((
            path.to_owned(),
            match staged {
                Staged::Set(_, kind, id) => Some((*kind, *id)),
                Staged::Removed(_) | Staged::Unmerged(_) => None,
            },
        ));
        self.paths.push(PathRecord {
            path: Name::new(path),
            status: PathStatus::Staged,
            mode: None,
            bytes: size,
        });
    }

    fn path(&mut self, seen: &Seen<'_>) -> Result<()> {
        let status = match &seen.status {
            Status::Modified => PathStatus::Modified,
            Status::Deleted => PathStatus::Deleted,
            Status::Untracked => PathStatus::Untracked,
            Status::Ignored => PathStatus::Ignored,
            Status::Equivalent => PathStatus::Raw,
            Status::Unchanged { .. } if self.exact && seen.meta.is_some_and(|m| m.is_file()) => {
                PathStatus::Raw
            }
            Status::Submodule(found) => {
                self.submodule(seen, found);
                return Ok(());
            }
            Status::Unchanged { executable } => {
                if let Some(meta) = seen.meta.filter(|m| m.is_file()) {
                    let mode = os::mode(meta);
                    let to_execute = self.file_mode | (self.file_mode & 0o444) >> 2;
                    if mode != if *executable { to_execute } else { self.file_mode } {
                        self.modes.push(DirectoryRecord { path: Name::new(seen.path), mode });
                    }
                }
                return Ok(());
            }
            Status::Directory { empty } => {
                if let Some(mode) =
                    seen.meta.map(os::mode).filter(|mode| *empty || *mode != self.directory_mode)
                {
                    self.directories.push(DirectoryRecord { path: Name::new(seen.path), mode });
                }
                return Ok(());
            }
            // The whole attempt is given up when the walk has ended.
            Status::Unsavable(_) => return Ok(()),
        };
        let (Some(meta), Some(repo)) = (seen.meta, &self.repo) else {
            self.worktree.push((seen.path.to_owned(), None));
            self.paths.push(PathRecord {
                path: Name::new(seen.path),
                status,
                mode: None,
                bytes: 0,
            });
            return Ok(());
        };
        let objects = Objects::new(self.staging);
        let root = repo
            .workdir()
            .ok_or_else(|| Error::new(ErrorKind::Other, "a worktree without a directory"))?;
        let full = root.join(os::path(seen.path));
        let (kind, id, mode) = if meta.file_type().is_symlink() {
            let target = std::fs::read_link(&full)
                .map_err(|e| Error::io(format_args!("read {}", full.display()), e))?;
            (EntryKind::Link, objects.write(Kind::Blob, &os::bytes(target.as_os_str()))?, None)
        } else {
            let mode = os::mode(meta);
            let kind = if mode & 0o100 != 0 { EntryKind::BlobExecutable } else { EntryKind::Blob };
            let known = match status {
                PathStatus::Raw => {
                    hash_file(repo, &full, meta.len())?.filter(|id| objects::is_readable(repo, *id))
                }
                _ => None,
            };
            (kind, known.map_or_else(|| store_file(&objects, &full), Ok)?, Some(mode))
        };
        self.written.append(&mut objects.into_written());
        self.worktree.push((seen.path.to_owned(), Some((kind, id))));
        self.paths.push(PathRecord { path: Name::new(seen.path), status, mode, bytes: meta.len() });
        Ok(())
    }

    fn submodule(&mut self, seen: &Seen<'_>, found: &Submodule) {
        let at = match found {
            Submodule::Empty => return,
            Submodule::Absent => None,
            Submodule::AsStaged(at) => Some(at.to_string()),
            Submodule::Moved(at) => {
                self.worktree.push((seen.path.to_owned(), Some((EntryKind::Commit, *at))));
                self.paths.push(PathRecord {
                    path: Name::new(seen.path),
                    status: PathStatus::Modified,
                    mode: None,
                    bytes: 0,
                });
                Some(at.to_string())
            }
        };
        self.submodules.push(SubmoduleRecord { path: Name::new(seen.path), at });
    }

    /// Writes trees and commits.
    fn finish(mut self, site: &Site, plan: &Plan, tree: &Tree) -> Result<Commits> {
        let survey = &tree.survey;
        let repo = &survey.repo;
        let objects = Objects::with_written(self.staging, self.written);
        let losses = &tree.losses;

        let mut editor = objects::edit(repo, survey.tree)?;
        apply(&mut editor, &self.index)?;
        let index_tree = objects::write_tree(&objects, &mut editor)?;
        // An editor reads trees that it has written, and these are not in the repository.
        let mut editor = objects::edit(repo, survey.tree)?;
        apply(&mut editor, &self.index)?;
        apply(&mut editor, &self.worktree)?;
        let worktree_tree = objects::write_tree(&objects, &mut editor)?;

        let manifest = Manifest {
            version: VERSION,
            lease: plan.lease.as_ref().map(|(id, _)| id.clone()),
            name: plan.lease.as_ref().map(|(_, name)| name.clone()),
            branch: survey.branch.clone(),
            head: survey.head.map(|id| id.to_string()),
            base: plan.base.commit.to_string(),
            registered: survey.admin.is_some(),
            present: survey.root.is_some(),
            worktree: tree.nested.as_ref().map(|nested| nested.label(site, plan.slot)),
            files: losses.files(),
            commits: losses.commits,
            paths: self.paths,
            directories: self.directories,
            modes: self.modes,
            submodules: self.submodules,
        };
        let metadata_tree =
            metadata(&objects, survey, &manifest, &tree.unreached, &mut self.found)?;
        Ok(Commits {
            head: survey.head,
            index_tree,
            worktree_tree,
            metadata_tree,
            others: tree.unreached.tips.clone(),
            files: manifest.files,
            count: manifest.commits,
            written: objects.into_written(),
            found: self.found,
        })
    }
}

/// Stores a file as it is at one moment: when it changes while it is read, it is read again.
fn store_file(objects: &Objects<'_>, full: &std::path::Path) -> Result<ObjectId> {
    let stat = || {
        full.symlink_metadata()
            .map_err(|e| Error::io(format_args!("look at {}", full.display()), e))
    };
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let before = stat()?;
        match objects.write_file(full, before.len()) {
            Ok(id) if os::stamp(&stat()?) == os::stamp(&before) => return Ok(id),
            Ok(_) => {}
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| {
        Error::new(
            ErrorKind::WouldLoseWork,
            format!("{} changes while it is being saved", full.display()),
        )
        .with_hint("end the process that writes to it and try again")
    }))
}

fn apply(
    editor: &mut gix::objs::tree::Editor<'_>,
    changes: &[(BString, Option<(EntryKind, ObjectId)>)],
) -> Result<()> {
    // First what goes: a file may have become a directory, or a directory a file.
    for (path, _) in changes.iter().filter(|(_, to)| to.is_none()) {
        objects::take(editor, path.as_bstr())?;
    }
    for (path, to) in changes {
        if let Some((kind, id)) = to {
            objects::put(editor, path.as_bstr(), *kind, *id)?;
        }
    }
    Ok(())
}

/// The tree of the metadata commit.
fn metadata(
    objects: &Objects<'_>,
    survey: &Survey,
    manifest: &Manifest,
    unreached: &Unreached,
    found: &mut Vec<ObjectId>,
) -> Result<ObjectId> {
    let repo = &survey.repo;
    let mut editor = objects::edit(repo, repo.empty_tree().id)?;
    let json = serde_json::to_vec_pretty(manifest)
        .map_err(|e| Error::new(ErrorKind::Other, format!("cannot encode the manifest: {e}")))?;
    objects::put(
        &mut editor,
        "manifest.json".into(),
        EntryKind::Blob,
        objects.write(Kind::Blob, &json)?,
    )?;
    if let Some(dir) = &survey.admin {
        admin::files(dir, &mut |path, name| {
            let id = store_file(objects, path)?;
            objects::put(&mut editor, format!("state/{name}").as_str().into(), EntryKind::Blob, id)
        })?;
    }
    // The index names these, and no tree does.
    let mut loose: Vec<ObjectId> = Vec::new();
    for entry in survey.index.entries() {
        use gix::index::entry::{Flags, Stage};
        if entry.stage() != Stage::Unconflicted || entry.flags.contains(Flags::INTENT_TO_ADD) {
            loose.extend((!entry.mode.is_submodule()).then_some(entry.id));
        }
    }
    for id in loose {
        if repo.has_object(id) {
            found.push(id);
            objects::put(&mut editor, format!("stages/{id}").as_str().into(), EntryKind::Blob, id)?;
        }
    }
    for (id, kind) in &unreached.others {
        match kind {
            Kind::Tree => objects::put(
                &mut editor,
                format!("trees/{id}").as_str().into(),
                EntryKind::Tree,
                *id,
            )?,
            Kind::Blob => objects::put(
                &mut editor,
                format!("blobs/{id}").as_str().into(),
                EntryKind::Blob,
                *id,
            )?,
            _ => {
                // A tree can't hold a tag: its text is kept, from which it is made again.
                let tag = repo
                    .find_object(*id)
                    .map_err(|e| failed(format_args!("read the object {id}"), e))?;
                let copy = objects.write(Kind::Blob, &tag.data)?;
                objects::put(
                    &mut editor,
                    format!("tags/{id}").as_str().into(),
                    EntryKind::Blob,
                    copy,
                )?;
            }
        }
    }
    objects::write_tree(objects, &mut editor)
}

/// A rescue, but for its last commit and its name.
struct Commits {
    head: Option<ObjectId>,
    index_tree: ObjectId,
    worktree_tree: ObjectId,
    metadata_tree: ObjectId,
    others: Vec<ObjectId>,
    files: u64,
    count: u64,
    written: Vec<ObjectId>,
    /// What others wrote to the repository, of which it is made as well.
    found: Vec<ObjectId>,
}

/// Writes the commits and the reference, brings them to the disk and reads them back. When a rescue
/// of the same lease holds the very same already, that one is given.
fn publish(
    site: &Site,
    plan: &Plan,
    survey: &Survey,
    parts: &Commits,
    unreached: &Unreached,
    staging: &Staging,
) -> Result<Rescue> {
    let repo = &survey.repo;
    let label = super::label(plan);
    for existing in super::read::all(repo)? {
        if existing.id.as_str().starts_with(&format!("{label}-"))
            && existing.holds(
                repo,
                parts.head,
                [parts.worktree_tree, parts.index_tree, parts.metadata_tree],
            )
        {
            // Whoever made it may have been killed before it was on the disk.
            let mut found = [&*parts.written, &*parts.found].concat();
            found.extend(existing.commits(repo)?);
            keep_commits(site, plan, survey, unreached, found)?;
            durable::files(durable::reference(&site.common_dir, &super::reference(&existing.id)))?;
            return existing.summary(repo);
        }
    }
    let created_at = jiff::Timestamp::now();
    let unique = LeaseId::generate(created_at).to_string().to_lowercase();
    let id = RescueId::new(format!("{label}-{unique}"))?;
    let reference = super::reference(&id);
    let objects = Objects::with_written(staging, parts.written.clone());
    let commit = |tree, parents: Vec<ObjectId>, message: String| {
        let who = super::signature(created_at);
        objects.write_object(&gix::objs::Commit {
            tree,
            parents: parents.into(),
            author: who.clone(),
            committer: who,
            encoding: None,
            message: message.into(),
            extra_headers: Vec::new(),
        })
    };
    let index =
        commit(parts.index_tree, Vec::from_iter(parts.head), format!("index of {label}\n"))?;
    let metadata = commit(parts.metadata_tree, Vec::new(), format!("state of {label}\n"))?;
    let mut parents = Vec::from_iter(parts.head);
    parents.extend([index, metadata]);
    parents.extend(parts.others.iter().filter(|id| Some(**id) != parts.head));
    let branch =
        survey.branch.as_deref().map_or("a detached HEAD", |b| b.trim_start_matches("refs/heads/"));
    let message = format!(
        "work on {branch} rescued from {label}\n\n{} files, {} commits\n",
        parts.files, parts.count
    );
    let whole = commit(parts.worktree_tree, parents, message)?;
    // Until it was read back.
    let _kept = objects.publish(site, &format!("the rescue {id} is being made"))?;
    keep_commits(site, plan, survey, unreached, parts.found.clone())?;
    pool_core::fail_point!("git-backend::rescue::objects-written");

    references::create(site, &reference, whole, "wtpool: rescue")?;
    pool_core::fail_point!("git-backend::rescue::reference-written");
    durable::files(durable::reference(&site.common_dir, &reference))?;

    let verified = || {
        let repo = site.repo();
        let written = super::read::open(&repo, &id)?;
        written.verify(&repo, &parts.written)?;
        written.summary(&repo)
    };
    verified().inspect_err(|error| {
        // The work is where it was, and a reference to what is not there would be in every later git's way.
        tracing::debug!(rescue = %id, %error, "a rescue that can't be read back is taken back");
        if let Err(error) = references::delete(site, &reference, whole) {
            tracing::warn!(rescue = %id, %error, "and can't be deleted");
        }
    })
}

/// Brings everything to the disk that will be all there is of the work once the worktree is gone: the objects
/// that were `found`, and the commits since the base, which git itself leaves to the system for half a minute, with the
/// branches that lead to them.
fn keep_commits(
    site: &Site,
    plan: &Plan,
    survey: &Survey,
    unreached: &Unreached,
    mut found: Vec<ObjectId>,
) -> Result<()> {
    let base = plan.base.commit.as_str();
    let mut tips: Vec<String> = survey.head.iter().map(ToString::to_string).collect();
    let own = plan.base.branch.as_ref().map(|branch| format!("refs/heads/{}", branch.name));
    let repo = &survey.repo;
    let tip = own.as_deref().and_then(|own| settled(repo, || repo.try_find_reference(own)).ok()?);
    tips.extend(tip.iter().filter_map(gix::Reference::try_id).map(|id| id.to_string()));
    tips.extend(unreached.tips.iter().map(ToString::to_string));
    tips.extend(unreached.others.iter().map(|(id, _)| id.to_string()));
    tips.retain(|tip| tip != base);
    if tips.is_empty() {
        return objects::sync(&survey.repo, &found);
    }
    tips.sort();
    tips.dedup();
    // Named on the command line as long as that is sure to have the room: there is one for each abandoned line of
    // commits, as a rule none or one.
    let listed = (tips.len() < 1000).then(|| {
        Git::in_worktree(site, &site.common_dir, &site.common_dir)
            .args(["rev-list", "--objects", "--no-object-names", "--unpacked"])
            .args(tips)
            .args(["--not", base])
            .run()
    });
    match listed {
        Some(Ok(listed)) => {
            found.extend(listed.lines().filter_map(|id| ObjectId::from_hex(id).ok()));
            objects::sync(&survey.repo, &found)?;
        }
        // Something of it is missing, which is not for this to judge.
        _ => {
            objects::sync(&survey.repo, &found)?;
            durable::filesystem(&site.common_dir)?;
        }
    }
    let branches = survey.branch.iter().chain(&own);
    durable::files(branches.flat_map(|name| durable::reference(&site.common_dir, name)))
}
