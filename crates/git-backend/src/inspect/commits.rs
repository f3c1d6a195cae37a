//! Commits that only a worktree's own administrative files still know.

use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::fs;
use std::path::Path;

use gix::ObjectId;
use gix::objs::Kind;
use pool_core::{Error, Result};

use super::even_if_repacked;
use crate::references;

/// Reference names that belong to one worktree alone.
const PRIVATE: [&str; 3] = ["refs/bisect/", "refs/worktree/", "refs/rewritten/"];

/// The tags and commits that references keep, except those of `private` names and those that
/// `excluded` names.
pub(crate) fn kept_by_refs(
    repo: &gix::Repository,
    excluded: impl Fn(&str) -> bool,
) -> Result<HashSet<ObjectId>> {
    let mut kept = HashSet::new();
    // One that is broken keeps nothing.
    for reference in references::all(repo, "refs/")?.into_iter().flatten() {
        let name = reference.name().as_bstr().to_string();
        // One that only names another keeps what that one keeps, if it does.
        let is_symbolic = reference.target().try_id().is_none();
        if is_symbolic || PRIVATE.iter().any(|p| name.starts_with(p)) || excluded(&name) {
            continue;
        }
        kept.extend(reference.target().try_id().map(ToOwned::to_owned));
        let peel = || reference.clone().peel_to_id().ok().map(gix::Id::detach);
        kept.extend(even_if_repacked(peel));
    }
    Ok(kept)
}

/// All object ids that occur in the files below `dir`: HEAD, its reflog, references of its own, the
/// state of whatever operation is in progress. A number that is no object does no harm, so there
/// is no need to know the format of each file, nor which there will be in later versions of git.
pub(crate) fn mentioned_in(repo: &gix::Repository, dir: &Path) -> Result<BTreeSet<ObjectId>> {
    let mut ids = BTreeSet::new();
    super::admin::files(dir, &mut |path, name| {
        // The index holds binary ids, of blobs; that is looked at elsewhere.
        if name != "index" && !name.starts_with("sharedindex.") {
            let content = fs::read(path)
                .map_err(|e| Error::io(format_args!("read {}", path.display()), e))?;
            mentioned(repo, &content, &mut ids);
        }
        Ok(())
    })?;
    Ok(ids)
}

/// All object ids in one text.
pub(crate) fn mentioned(repo: &gix::Repository, content: &[u8], ids: &mut BTreeSet<ObjectId>) {
    let len = repo.object_hash().len_in_hex();
    let words = content.split(|b| !b.is_ascii_hexdigit()).filter(|word| word.len() == len);
    ids.extend(words.filter_map(|word| ObjectId::from_hex(word).ok()).filter(|id| !id.is_null()));
}

/// What nothing else reaches.
#[derive(Debug, Default)]
pub(crate) struct Unreached {
    /// How many commits, and tags that are objects.
    pub(crate) count: u64,
    /// Those commits from which all others are reached.
    pub(crate) tips: Vec<ObjectId>,
    /// Objects other than commits, with their kind.
    pub(crate) others: Vec<(ObjectId, Kind)>,
}

/// Sorts out of `candidates` what nothing that is kept reaches: neither `at_hand`, which usually does, nor what `all` lists.
/// There may be tens of thousands of references, and this is asked several times at each end of a lease.
///
/// # Errors
///
/// Those of `all`.
pub(crate) fn reached_by_none(
    repo: &gix::Repository,
    candidates: &BTreeSet<ObjectId>,
    at_hand: HashSet<ObjectId>,
    all: impl FnOnce() -> Result<HashSet<ObjectId>>,
) -> Result<Unreached> {
    let found = unreached(repo, candidates, &at_hand);
    if found.tips.is_empty() && found.others.is_empty() {
        return Ok(found);
    }
    let mut kept = all()?;
    kept.extend(at_hand);
    Ok(unreached(repo, candidates, &kept))
}

/// Sorts out of `candidates` what `kept` does not reach.
pub(crate) fn unreached(
    repo: &gix::Repository,
    candidates: &BTreeSet<ObjectId>,
    kept: &HashSet<ObjectId>,
) -> Unreached {
    let mut found = Unreached::default();
    let mut tips = Vec::new();
    let mut pending: Vec<_> = candidates.iter().filter(|id| !kept.contains(*id)).copied().collect();
    while let Some(id) = pending.pop() {
        let kind = || Some(repo.try_find_header(id).ok()??.kind());
        match even_if_repacked(kind) {
            Some(Kind::Commit) => tips.push(id),
            Some(kind) => {
                found.others.push((id, kind));
                // That may be a tag as well, or a tree or blob.
                let target = || repo.find_tag(id).ok()?.target_id().ok().map(gix::Id::detach);
                pending.extend((kind == Kind::Tag).then(|| even_if_repacked(target)).flatten());
            }
            None => {}
        }
    }
    let painted = paint(repo, &tips, kept);
    // Trees and blobs are what git notes of its own accord.
    let tags = found.others.iter().filter(|(_, kind)| *kind == Kind::Tag).count();
    found.count = (painted.only.len() + tags) as u64;
    found.tips = tips
        .into_iter()
        .filter(|id| painted.only.contains(id) && !painted.parents.contains(id))
        .collect();
    found.tips.sort_unstable();
    found.tips.dedup();
    found
}

/// How many commits `tip` has that `base` has not.
pub(crate) fn ahead(repo: &gix::Repository, tip: ObjectId, base: ObjectId) -> u64 {
    paint(repo, &[tip], &HashSet::from([base])).only.len() as u64
}

/// Sorts out of `commits` those that `tip` reaches and `base` does not.
pub(crate) fn among(
    repo: &gix::Repository,
    commits: &BTreeSet<ObjectId>,
    tip: ObjectId,
    base: ObjectId,
) -> BTreeSet<ObjectId> {
    let ahead = paint(repo, &[tip], &HashSet::from([base])).only;
    commits.iter().filter(|id| ahead.contains(*id)).copied().collect()
}

struct Painted {
    /// Reached from the tips, and not from what is kept.
    only: HashSet<ObjectId>,
    /// Parents of those.
    parents: HashSet<ObjectId>,
}

/// Walks back from both sides, newest first, until everything left is reached from what is kept.
/// Commit times that run backwards can make it stop early: it then calls a commit unreached that
/// is not, never the other way round, and a commit too many in a rescue costs nothing.
fn paint(repo: &gix::Repository, tips: &[ObjectId], kept: &HashSet<ObjectId>) -> Painted {
    let mut queue = BinaryHeap::new();
    // `true`: known to be kept.
    let mut state: HashMap<ObjectId, bool> = HashMap::new();
    let mut open = 0usize;
    let mut painted = Painted { only: HashSet::new(), parents: HashSet::new() };
    if tips.iter().all(|id| kept.contains(id)) {
        return painted;
    }
    let commit = |id: ObjectId| even_if_repacked(|| repo.find_commit(id).ok());
    let time = |id: ObjectId| commit(id).and_then(|c| c.time().ok()).map(|t| t.seconds);
    for (ids, is_kept) in
        [(&mut kept.iter() as &mut dyn Iterator<Item = &ObjectId>, true), (&mut tips.iter(), false)]
    {
        for id in ids {
            let Some(seconds) = time(*id) else { continue };
            if !state.contains_key(id) {
                state.insert(*id, is_kept);
                queue.push((seconds, *id));
                open += usize::from(!is_kept);
            }
        }
    }
    let mut oldest = i64::MAX;
    while let Some((seconds, id)) = queue.pop() {
        // Commits of the same second come in any order, so those are all looked at.
        if open == 0 && (painted.only.is_empty() || seconds < oldest) {
            break;
        }
        let is_kept = state.get(&id).copied().unwrap_or(true);
        if !is_kept {
            open -= 1;
            oldest = oldest.min(seconds);
            painted.only.insert(id);
        }
        let Some(commit) = commit(id) else { continue };
        for parent in commit.parent_ids().map(gix::Id::detach) {
            if !is_kept {
                painted.parents.insert(parent);
            }
            match state.get(&parent).copied() {
                None => {
                    // Beyond the boundary of a shallow clone.
                    let Some(seconds) = time(parent) else { continue };
                    state.insert(parent, is_kept);
                    queue.push((seconds, parent));
                    open += usize::from(!is_kept);
                }
                Some(false) if is_kept => {
                    state.insert(parent, true);
                    if painted.only.remove(&parent) {
                        // Counted already, too early: its own parents have to learn it as well.
                        queue.push((time(parent).unwrap_or(0), parent));
                    } else {
                        open -= 1;
                    }
                }
                Some(_) => {}
            }
        }
    }
    painted
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    /// A `git gc` that never ends: a commit is in a file of its own, then in a pack, then in a file
    /// again, and at each moment in one of the two at least.
    #[test]
    fn what_is_on_its_way_into_a_pack_is_found() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let git = |args: &[&str]| testkit::git(dir.path()).args(args).stdout();
        git(&["init", "--quiet", "--bare"]);
        let tree = git(&["write-tree"]);
        let id = git(&["commit-tree", "-m", "first", &tree]);
        git(&["update-ref", "refs/heads/main", &id]);
        let objects = dir.path().join("objects");
        let loose = objects.join(&id[..2]).join(&id[2..]);
        let away = dir.path().join("away");
        fs::create_dir(&away).expect("made");
        fs::copy(&loose, away.join("loose")).expect("copied");
        git(&["repack", "-a", "-d", "-q"]);
        let packs = objects.join("pack");
        let names: Vec<_> = fs::read_dir(&packs)
            .expect("read")
            .map(|entry| entry.expect("read").file_name())
            .filter(|name| {
                name.to_string_lossy().ends_with(".pack")
                    || name.to_string_lossy().ends_with(".idx")
            })
            .collect();
        // The pack first and its index last, as git puts them in place; and the other way round.
        let [idx, pack] = ["idx", "pack"].map(|ext| {
            names.iter().find(|name| name.to_string_lossy().ends_with(ext)).expect("a pack").clone()
        });
        let pause = || std::thread::sleep(Duration::from_millis(1));

        let over = AtomicBool::new(false);
        let id = ObjectId::from_hex(id.as_bytes()).expect("an id");
        let (mut unkept, mut unseen) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fs::create_dir_all(loose.parent().expect("in one")).expect("made");
                    fs::copy(away.join("loose"), loose.with_extension("new")).expect("copied");
                    fs::rename(loose.with_extension("new"), &loose).expect("there");
                    pause();
                    fs::rename(packs.join(&idx), away.join(&idx)).expect("away");
                    fs::rename(packs.join(&pack), away.join(&pack)).expect("away");
                    pause();
                    fs::rename(away.join(&pack), packs.join(&pack)).expect("there");
                    fs::rename(away.join(&idx), packs.join(&idx)).expect("there");
                    pause();
                    fs::remove_file(&loose).expect("removed");
                    pause();
                }
            });
            for _ in 0..3000 {
                let repo = gix::open(dir.path()).expect("opened");
                let kept = kept_by_refs(&repo, |_| false).expect("read");
                unkept += u32::from(!kept.contains(&id));
                let found = unreached(&repo, &BTreeSet::from([id]), &HashSet::new());
                unseen += u32::from(found.tips != [id]);
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!((unkept, unseen), (0, 0), "of 3,000 looks");
    }
}
