//! Submodules. The repository of one that was initialised in a linked worktree lies in that
//! worktree's administrative directory, and is lost together with it. No rescue holds a repository,
//! so such a slot is kept unless everything in the submodule is known to be elsewhere.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::bstr::{BStr, ByteSlice};
use pool_core::{Plan, Result};

use super::walk::{Ground, Status, Submodule};
use super::{Survey, admin, failed, modules, object_id, staged, text};
use crate::copy::Copied;
use crate::patterns::Patterns;
use crate::site::{Site, open_untrusted, resolved};

/// What is known of a submodule: the commit that is checked out, `None` without any; or why what is in
/// its place can't be let go.
type Judgement = std::result::Result<Option<ObjectId>, String>;

/// The repositories of the submodules that were looked into.
pub(super) type Repositories = RefCell<BTreeSet<PathBuf>>;

/// Looks at what is in the place of a submodule, and adds its repository to `looked_at`.
pub(super) fn look_into(
    survey: &Survey,
    site: &Site,
    plan: &Plan,
    path: &BStr,
    dir: &Path,
    looked_at: &Repositories,
) -> Result<Judgement> {
    let base = object_id(plan.base.commit.as_str())?;
    judge(site, recorded(&survey.repo, base, path), dir, looked_at)
}

/// The commit of a submodule that a commit names.
fn recorded(repo: &gix::Repository, commit: ObjectId, path: &BStr) -> Option<ObjectId> {
    let tree = repo.find_commit(commit).ok()?.tree().ok()?;
    Some(tree.lookup_entry(path.split_str("/")).ok()??.object_id())
}

/// `recorded`: the commit that the lease's base names for it.
fn judge(
    site: &Site,
    recorded: Option<ObjectId>,
    dir: &Path,
    looked_at: &Repositories,
) -> Result<Judgement> {
    let dot_git = dir.join(".git");
    let Ok(meta) = std::fs::symlink_metadata(&dot_git) else {
        return Ok(match std::fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
            Ok(true) => Ok(None),
            Ok(false) => {
                Err("files are in the place of a submodule that is not initialised".into())
            }
            Err(e) => Err(format!("it cannot be read: {e}")),
        });
    };
    if meta.is_dir() {
        return Ok(Err("a submodule whose repository lies inside the worktree".into()));
    }
    Ok(match look(site, recorded, dir, looked_at) {
        Ok(Ok(head)) => Ok(head),
        Ok(Err(why)) => Err(format!("a submodule that {why}")),
        Err(e) => Err(format!("a submodule that cannot be looked into: {e}")),
    })
}

fn look(
    site: &Site,
    base: Option<ObjectId>,
    dir: &Path,
    looked_at: &Repositories,
) -> Result<Judgement> {
    let opening = || format!("open the submodule {}", dir.display());
    let git_dir = gix::discover::path::from_gitdir_file(&dir.join(".git")).map_err(|e| {
        super::Error::new(super::ErrorKind::Other, format!("cannot {}: {e:?}", opening()))
    })?;
    looked_at.borrow_mut().insert(resolved(&git_dir));
    let mut repo = open_untrusted(&git_dir, &site.settings)?;
    repo.set_workdir(dir.to_owned()).map_err(|e| failed(opening(), e))?;
    let index = gix::index::File::at_or_default(
        repo.index_path(),
        repo.object_hash(),
        false,
        Default::default(),
    )
    .map_err(|e| failed(opening(), e))?;
    if admin::operation(&git_dir).is_some() {
        return Ok(Err("is in the middle of an operation".into()));
    }

    let mut changed = 0u64;
    // What the user must look for: the first path, and whether all of them are ignored.
    let mut first = None;
    let mut only_ignored = true;
    let tree = repo.head_tree_id_or_empty().map_err(|e| failed(opening(), e))?.detach();
    staged::compare(&repo, tree, &index, &mut |staged| {
        changed += 1;
        only_ignored = false;
        first.get_or_insert_with(|| format!("{} is staged", text(staged.path())));
        Ok(())
    })?;
    let nested = |path: &BStr, dir: &Path| {
        judge(site, base.and_then(|base| recorded(&repo, base, path)), dir, looked_at)
    };
    let regenerable = Patterns::new(&site.settings.regenerable);
    let copies = Copied::default();
    let ground = Ground {
        repo: &repo,
        index: &index,
        root: dir,
        regenerable: &regenerable,
        copies: &copies,
        submodule: &nested,
        nested: Default::default(),
    };
    let mut unsavable = None;
    super::walk::walk(&ground, &mut |seen| {
        match &seen.status {
            Status::Unchanged { .. } | Status::Equivalent | Status::Directory { .. } => {}
            Status::Submodule(found) if !matches!(found, Submodule::Moved(_)) => {}
            Status::Unsavable(why) => {
                unsavable.get_or_insert_with(|| format!("holds {}: {why}", text(seen.path)));
            }
            status => {
                changed += 1;
                only_ignored &= matches!(status, Status::Ignored);
                let what = match status {
                    Status::Ignored => "is ignored",
                    Status::Untracked => "is untracked",
                    Status::Deleted => "is deleted",
                    _ => "is modified",
                };
                first.get_or_insert_with(|| format!("{} {what}", text(seen.path)));
            }
        }
        Ok(())
    })?;
    if changed > 0 {
        let paths = if changed == 1 { "path" } else { "paths" };
        let first = first.unwrap_or_default();
        let advice =
            if only_ignored { "; if it can be made again, add it to `regenerable`" } else { "" };
        return Ok(Err(format!("has {changed} uncommitted {paths}: {first}{advice}")));
    }
    if let Some(why) = unsavable {
        return Ok(Err(why));
    }

    if let Some(why) = modules::obstacle(site, &repo, &git_dir, base)? {
        return Ok(Err(why));
    }
    // A branch without a commit is as good as none.
    Ok(Ok(repo.head_id().ok().map(gix::Id::detach)))
}
