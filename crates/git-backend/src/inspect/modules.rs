//! The repositories of submodules in a worktree's administrative directory. They go with it,
//! whether or not the submodules are still checked out in the worktree.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::index::entry::Mode;
use pool_core::{Error, Result};

use super::{Survey, admin, commits, failed, staged, tree_of};
use crate::provision::CLONED_REFS;
use crate::registration::LOCK;
use crate::site::{Site, entries, open_untrusted, read_link_file, resolved};

/// Tells `found` why each of the repositories has to stay, apart from those of `seen`, whose
/// submodules were looked into. `base`: the commit that the lease began with.
pub(super) fn look_into(
    site: &Site,
    survey: &Survey,
    base: ObjectId,
    seen: &BTreeSet<PathBuf>,
    found: &mut dyn FnMut(String),
) -> Result<()> {
    let Some(admin) = &survey.admin else { return Ok(()) };
    let mut pending = vec![admin.join("modules")];
    let mut all = Vec::new();
    while let Some(dir) = pending.pop() {
        let is_repository = is_repository(&dir);
        for name in subdirectories(&dir)? {
            let belongs_to_it = ["objects", "refs", "logs", "hooks", "info", "lfs"];
            if !(is_repository && belongs_to_it.iter().any(|own| name == *own)) {
                pending.push(dir.join(name));
            }
        }
        if is_repository {
            all.push(resolved(&dir));
        }
    }
    all.retain(|dir| !seen.contains(dir));
    if all.is_empty() {
        return Ok(());
    }
    // Outer ones before those inside of them.
    all.sort();
    let mut bases = submodules_of(&survey.repo, base);
    for dir in all {
        let shown = dir.display();
        match without_tree(site, &dir, &mut bases) {
            Ok(None) => {}
            Ok(Some(why)) => found(format!(
                "{shown} is a submodule's repository that {why}; if that can go, run: \
                 rm -rf {shown}"
            )),
            Err(e) => found(format!(
                "{shown} is a submodule's repository that cannot be looked into: {e}"
            )),
        }
    }
    Ok(())
}

/// Why a repository whose submodule is not checked out any more has to stay.
fn without_tree(
    site: &Site,
    git_dir: &Path,
    bases: &mut HashSet<ObjectId>,
) -> Result<Option<String>> {
    let repo = open_untrusted(git_dir, &site.settings)?;
    let nested: Vec<_> = bases.iter().flat_map(|base| submodules_of(&repo, *base)).collect();
    bases.extend(nested);
    if admin::operation(git_dir).is_some() {
        return Ok(Some("is in the middle of an operation".into()));
    }
    let staged = count_staged(&repo)?;
    if staged > 0 {
        return Ok(Some(format!("has {}", counted(staged, "staged path"))));
    }
    obstacle(site, &repo, git_dir, bases.iter().copied())
}

/// Returns why a submodule's repository has to stay, whatever is in the submodule's tree: it has
/// other worktrees, or commits that are nowhere else. `elsewhere`: commits that are.
pub(super) fn obstacle(
    site: &Site,
    repo: &gix::Repository,
    git_dir: &Path,
    elsewhere: impl IntoIterator<Item = ObjectId>,
) -> Result<Option<String>> {
    let mut known = BTreeSet::new();
    let worktrees = git_dir.join("worktrees");
    for name in subdirectories(&worktrees)? {
        let admin = worktrees.join(name);
        if let Some(why) = worktree(site, &admin)? {
            return Ok(Some(why));
        }
        known.extend(commits::mentioned_in(repo, &admin)?);
    }
    // Everything that it knows has to be on a remote, in the commit that the lease began with, or
    // have come with it.
    for name in ["HEAD", "ORIG_HEAD", "packed-refs"] {
        if let Ok(content) = fs::read(git_dir.join(name)) {
            commits::mentioned(repo, &content, &mut known);
        }
    }
    for dir in ["refs", "logs"] {
        admin::files(&git_dir.join(dir), &mut |path, _| {
            let content = fs::read(path).unwrap_or_default();
            commits::mentioned(repo, &content, &mut known);
            Ok(())
        })?;
    }
    let mut kept = commits::kept_by_refs(repo, |name| !name.starts_with("refs/remotes/"))?;
    kept.extend(elsewhere);
    let mut cloned = BTreeSet::new();
    let noted = fs::read(git_dir.join(CLONED_REFS)).unwrap_or_default();
    commits::mentioned(repo, &noted, &mut cloned);
    kept.extend(cloned);
    let lost = commits::unreached(repo, &known, &kept).count;
    Ok((lost > 0).then(|| format!("has {} that no remote has", counted(lost, "commit"))))
}

/// Why a linked worktree of the submodule's repository, by its administrative directory there,
/// keeps that repository. One that git would prune does so only by what is staged; its commits are
/// counted with the repository's.
fn worktree(site: &Site, admin: &Path) -> Result<Option<String>> {
    let gitdir = admin.join("gitdir");
    let root = match read_link_file(&gitdir, b"") {
        Ok(back) => {
            let dot_git = resolved(&admin.join(back));
            dot_git.parent().map(Path::to_owned).unwrap_or(dot_git)
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            admin.to_owned()
        }
        Err(e) => return Err(Error::io(format_args!("read {}", gitdir.display()), e)),
    };
    let shown = root.display();
    let is_gone = match fs::symlink_metadata(root.join(".git")) {
        Ok(_) => root == admin,
        Err(e) => matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    };
    if !is_gone {
        return Ok(Some(format!(
            "has the linked worktree {shown}: push or copy what is in it, then run \
             `git -C {shown} worktree remove {shown}`"
        )));
    }
    let lock = admin.join(LOCK);
    if fs::symlink_metadata(&lock).is_ok() {
        return Ok(Some(format!(
            "has the linked worktree {shown}, which is locked and not there: put it back, or run \
             `rm {}`",
            lock.display()
        )));
    }
    let staged = count_staged(&open_untrusted(admin, &site.settings)?)?;
    Ok((staged > 0).then(|| {
        let staged = counted(staged, "staged path");
        format!("has {staged} of the linked worktree {shown}, which is gone")
    }))
}

fn count_staged(repo: &gix::Repository) -> Result<u64> {
    let reading = || format!("read the index {}", repo.index_path().display());
    let index =
        gix::index::File::at(repo.index_path(), repo.object_hash(), false, Default::default());
    let index = match index {
        Ok(index) => index,
        // Nothing was ever checked out.
        Err(_) if fs::symlink_metadata(repo.index_path()).is_err() => return Ok(0),
        Err(e) => return Err(failed(reading(), e)),
    };
    let tree = repo.head_tree_id_or_empty().map_err(|e| failed(reading(), e))?.detach();
    let mut count = 0;
    staged::compare(repo, tree, &index, &mut |_| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

/// The commits that a commit names for its submodules; none if the repository does not have it.
fn submodules_of(repo: &gix::Repository, commit: ObjectId) -> HashSet<ObjectId> {
    let tree = tree_of(repo, Some(commit)).and_then(|tree| staged::tree_index(repo, tree));
    let Ok(index) = tree else { return HashSet::new() };
    index.entries().iter().filter(|entry| entry.mode == Mode::COMMIT).map(|e| e.id).collect()
}

fn is_repository(dir: &Path) -> bool {
    let has = |name: &str| fs::symlink_metadata(dir.join(name)).is_ok();
    has("HEAD") && has("objects")
}

/// The names of the directories in `dir`, which need not exist. A symlink is none: what it leads to
/// stays.
fn subdirectories(dir: &Path) -> Result<Vec<OsString>> {
    let reading = |e| Error::io(format_args!("read {}", dir.display()), e);
    let mut found = Vec::new();
    for entry in entries(dir)? {
        if entry.file_type().map_err(reading)?.is_dir() {
            found.push(entry.file_name());
        }
    }
    Ok(found)
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
