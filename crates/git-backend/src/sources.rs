//! The files of commits and checkouts, for caches that reuse what was built from the same ones.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gix::index::entry::Stat;
use pool_core::{CommitId, ContentId, Error, Result, SlotId};

use crate::baseline;
use crate::branch;
use crate::copy;
use crate::git::Git;
use crate::inspect::os;
use crate::site::{Site, gix_error, open_repository};

/// See [`pool_core::Sources::files`].
pub(crate) fn files(site: &Site, commit: &CommitId) -> Result<BTreeMap<PathBuf, ContentId>> {
    let repo = site.repo();
    let reading = |e| gix_error(format!("read the commit {commit}"), e);
    let tree =
        repo.find_commit(branch::object_id(commit)?).and_then(|c| c.tree_id()).map_err(reading)?;
    let index = repo.index_from_tree(&tree).map_err(reading)?;
    let path = |entry: &gix::index::Entry| os::path(entry.path(&index));
    // What a checkout writes depends on the attributes, too: those of another commit make all files
    // other ones.
    let mut attributes = String::new();
    for entry in index.entries() {
        if path(entry).file_name().is_some_and(|name| name == ".gitattributes") {
            attributes.push_str(&format!(" {} {}", entry.path(&index), entry.id));
        }
    }
    let set_up = copy::current(site)?.into_iter();
    let set_up = set_up.map(|(path, hash)| (path, ContentId(format!("set-up {hash}"))));
    let entries = index.entries().iter().map(|entry| {
        let content = format!("{:o} {}{attributes}", entry.mode.bits(), entry.id);
        (path(entry), ContentId(content))
    });
    // What is tracked is not brought along.
    Ok(set_up.chain(entries).collect())
}

/// See [`pool_core::Sources::export`]. The checkout has an administrative directory of its own that no
/// repository lists, so nobody else sees, prunes or locks it; `HEAD` is the commit, and references
/// and objects are the repository's.
pub(crate) fn export(site: &Site, commit: &CommitId, into: &Path) -> Result<()> {
    let admin = into.with_extension("git");
    let failed = |path: &Path, e: io::Error| Error::io(format!("write {}", path.display()), e);
    fs::create_dir(into).map_err(|e| failed(into, e))?;
    fs::create_dir(&admin).map_err(|e| failed(&admin, e))?;
    let write = |path: PathBuf, lines: &[&[u8]]| {
        fs::write(&path, [&lines.concat()[..], b"\n"].concat()).map_err(|e| failed(&path, e))
    };
    let dot_git = into.join(".git");
    let bytes = |path: &Path| os::bytes(path.as_os_str()).into_owned();
    write(admin.join("HEAD"), &[commit.as_str().as_bytes()])?;
    write(admin.join("commondir"), &[&bytes(&site.common_dir)])?;
    write(admin.join("gitdir"), &[&bytes(&dot_git)])?;
    write(dot_git, &[b"gitdir: ", &bytes(&admin)])?;
    Git::in_worktree(site, &admin, into)
        .args(["reset", "--hard", "--quiet", "--no-recurse-submodules", commit.as_str()])
        .run()?;
    copy::bring_into(site, into, || open_repository(&admin, &site.settings)).map(drop)
}

/// See [`pool_core::Sources::stamp`].
pub(crate) fn stamp(
    site: &Site,
    slot: SlotId,
    times: &BTreeMap<PathBuf, SystemTime>,
) -> Result<()> {
    let admin = site.admin_dir(slot)?;
    let place = site.place(slot);
    let repo = site.open_admin(&admin)?;
    let doing = || format!("bring the index of {} in step", place.display());
    let mut index = repo.open_index().map_err(|e| gix_error(doing(), e))?;
    let paths: Vec<PathBuf> =
        index.entries().iter().map(|entry| os::path(entry.path(&index))).collect();
    let mut changed = false;
    let mut followed = Vec::new();
    for (entry, path) in index.entries_mut().iter_mut().zip(paths) {
        let Some(time) = times.get(&path) else { continue };
        let full = place.join(&path);
        let stat_of = |full: &Path| {
            gix::index::fs::Metadata::from_path_no_follow(full)
                .and_then(|found| Stat::from_fs(&found).map_err(io::Error::other))
        };
        let before = stat_of(&full);
        match os::set_modified(&full, *time) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => {
                other.map_err(|e| Error::io(format!("set the time of {}", full.display()), e))?
            }
        }
        let now =
            stat_of(&full).map_err(|e| Error::io(format!("look at {}", full.display()), e))?;
        entry.stat = now;
        if let Ok(before) = before {
            followed.push((os::bytes(path.as_os_str()).into_owned(), before, now));
        }
        changed = true;
    }
    if changed {
        index.write(Default::default()).map_err(|e| gix_error(doing(), e))?;
        baseline::follow(site, slot, &repo, &followed)?;
    }
    Ok(())
}
