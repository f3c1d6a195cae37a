//! Bringing along ignored set-up files, such as `.env`, from the main worktree.
//!
//! What was copied is noted beside the worktree with its content's hash, so that an unchanged copy
//! is known to be no loss, and a changed one is.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gix::bstr::{BStr, BString};
use gix::glob::wildmatch;
use pool_core::{Error, Result, SlotId};
use serde::{Deserialize, Serialize};

use crate::site::{Site, gix_error};

/// What was copied into a slot: path relative to the worktree, and the hash of its content as a git
/// blob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Copied(BTreeMap<String, String>);

impl Copied {
    /// Reads the note; without one, nothing was copied.
    pub(crate) fn load(site: &Site, slot: SlotId) -> Result<Self> {
        let path = note(site, slot);
        match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
            // An unreadable note only means that every copy counts as changed.
            Ok(json) => Ok(serde_json::from_slice(&json).unwrap_or_default()),
        }
    }

    /// Whether `path` in that worktree is a copy that nobody has changed.
    pub(crate) fn is_unchanged(
        &self,
        repo: &gix::Repository,
        worktree: &Path,
        path: &BStr,
    ) -> bool {
        let Ok(path) = std::str::from_utf8(path) else { return false };
        let Some(hash) = self.0.get(path) else { return false };
        let file = worktree.join(path);
        fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_file())
            && hash_of(repo, &file).is_ok_and(|found| found == *hash)
    }
}

/// Brings all set-up files into a slot, and notes what was copied. Files that are there with the
/// right content keep their modification time.
pub(crate) fn bring_along(site: &Site, slot: SlotId) -> Result<()> {
    let copied = bring_into(site, &site.place(slot), || site.open_slot(slot))?;
    pool_core::fail_point!("git-backend::copy::copied");
    let path = note(site, slot);
    let json = serde_json::to_vec_pretty(&copied).map_err(|e| Error::io("write JSON", e.into()))?;
    fs::write(&path, json).map_err(|e| Error::io(format!("write {}", path.display()), e))
}

/// Brings all set-up files into a checkout, and says what was copied. `open` opens it, if there is anything
/// to bring.
pub(crate) fn bring_into(
    site: &Site,
    checkout: &Path,
    open: impl FnOnce() -> Result<gix::Repository>,
) -> Result<Copied> {
    let mut copied = Copied::default();
    let wanted = wanted(site)?;
    if wanted.is_empty() {
        return Ok(copied);
    }
    let repo = open()?;
    let index = repo.index_or_empty().map_err(|e| gix_error("read the index", e))?;
    let mut excludes = repo
        .excludes(&index, None, gix::worktree::stack::state::ignore::Source::IdMapping)
        .map_err(|e| gix_error("read the ignore files", e))?;
    for (path, source) in wanted {
        let ignored = excludes
            .at_path(&path, Some(gix::index::entry::Mode::FILE))
            .map(|found| found.is_excluded())
            .unwrap_or(false);
        let tracked = index.entry_by_path(path.as_str().into()).is_some();
        if tracked || !ignored {
            tracing::warn!(%path, tracked, "not copied: only ignored files are brought along");
            continue;
        }
        let hash = hash_of(&repo, &source)?;
        if copy_file(checkout, &path, &source, &repo, &hash)? {
            copied.0.insert(path, hash);
        }
    }
    Ok(copied)
}

/// The set-up files as they are in the main worktree, with their content's hashes.
pub(crate) fn current(site: &Site) -> Result<Vec<(PathBuf, String)>> {
    let repo = site.repo();
    wanted(site)?
        .into_iter()
        .map(|(path, source)| Ok((path.into(), hash_of(&repo, &source)?)))
        .collect()
}

/// The note beside the worktree.
pub(crate) fn note(site: &Site, slot: SlotId) -> PathBuf {
    site.slot_dir(slot).join("copied.json")
}

/// The set-up files that are there, relative path and source.
fn wanted(site: &Site) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let Some(main) = &site.main_worktree else { return Ok(found) };
    for pattern in &site.settings.copy {
        let parts: Vec<&str> =
            pattern.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.iter().any(|part| *part == ".." || part.eq_ignore_ascii_case(".git"))
            || pattern.starts_with('/')
        {
            return Err(Error::new(
                pool_core::ErrorKind::InvalidInput,
                format!("`copy` names {pattern:?}, which is not a path inside the main worktree"),
            )
            .with_hint("name files relative to the main worktree's root"));
        }
        expand(main, main, &parts, &mut found)?;
    }
    Ok(found)
}

/// Adds the files under `dir` that match the rest of a pattern; all of them when nothing is left.
fn expand(
    main: &Path,
    dir: &Path,
    parts: &[&str],
    found: &mut BTreeMap<String, PathBuf>,
) -> Result<()> {
    let (part, rest) = match parts {
        [] => ("*", parts),
        [part, rest @ ..] => (*part, rest),
    };
    let literal = !part.contains(['*', '?', '[', '\\']);
    let names: Vec<PathBuf> = if literal {
        vec![dir.join(part)]
    } else {
        match fs::read_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io(format!("read {}", dir.display()), e)),
            Ok(entries) => entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| {
                    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
                        name != ".git"
                            && gix::glob::wildmatch(
                                part.into(),
                                name.into(),
                                wildmatch::Mode::NO_MATCH_SLASH_LITERAL,
                            )
                    })
                })
                .collect(),
        }
    };
    for path in names {
        // Where a link leads decides, not where it is: what lies outside is not the project's to
        // hand out.
        let Ok(real) = path.canonicalize() else { continue };
        if !real.starts_with(main) || real.components().any(|part| part.as_os_str() == ".git") {
            tracing::warn!(path = %path.display(), "not copied: it leads out of the main worktree");
            continue;
        }
        let is_link = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink());
        if real.is_dir() {
            // A linked directory could contain itself.
            if !is_link {
                expand(main, &path, rest, found)?;
            }
        } else if rest.is_empty() && real.is_file() {
            let relative = path.strip_prefix(main).ok().and_then(Path::to_str);
            if let Some(relative) = relative {
                found.insert(relative.replace('\\', "/"), real);
            }
        }
    }
    Ok(())
}

/// Copies one file unless something is in its way; tells whether the copy is there now.
fn copy_file(
    place: &Path,
    path: &str,
    source: &Path,
    repo: &gix::Repository,
    hash: &str,
) -> Result<bool> {
    let target = place.join(path);
    let doing = || format!("copy {} to {}", source.display(), target.display());
    let mut dir = place.to_owned();
    let parents = Path::new(path).parent().into_iter().flat_map(Path::components);
    for part in parents {
        dir.push(part);
        match fs::symlink_metadata(&dir) {
            Ok(meta) if meta.is_dir() => {}
            // A link that is tracked could lead anywhere.
            Ok(_) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&dir).map_err(|e| Error::io(doing(), e))?;
            }
            Err(e) => return Err(Error::io(doing(), e)),
        }
    }
    if let Ok(meta) = fs::symlink_metadata(&target) {
        return Ok(meta.is_file() && hash_of(repo, &target).is_ok_and(|found| found == hash));
    }
    let mut to = fs::File::options()
        .write(true)
        .create_new(true)
        .open(&target)
        .map_err(|e| Error::io(doing(), e))?;
    let mut from = fs::File::open(source).map_err(|e| Error::io(doing(), e))?;
    io::copy(&mut from, &mut to)
        .and_then(|_| to.set_permissions(from.metadata()?.permissions()))
        .map_err(|e| Error::io(doing(), e))?;
    Ok(true)
}

fn hash_of(repo: &gix::Repository, file: &Path) -> Result<String> {
    let content = fs::read(file).map_err(|e| Error::io(format!("read {}", file.display()), e))?;
    gix::objs::compute_hash(repo.object_hash(), gix::objs::Kind::Blob, &content)
        .map(|id| id.to_string())
        .map_err(|e| {
            Error::new(pool_core::ErrorKind::Other, format!("cannot hash {}: {e}", file.display()))
        })
}

/// The set-up files of the slot, whose tree is at `root`, that can stay as they are: unchanged since they were copied, and the
/// same in the main worktree today.
pub(crate) fn still_good(
    site: &Site,
    slot: SlotId,
    repo: &gix::Repository,
    root: &Path,
) -> Result<Vec<BString>> {
    let copied = Copied::load(site, slot)?;
    if copied.0.is_empty() {
        return Ok(Vec::new());
    }
    let mut good = Vec::new();
    for (path, source) in wanted(site)? {
        let same =
            copied.0.get(&path).is_some_and(|h| hash_of(repo, &source).is_ok_and(|now| now == *h));
        if same && copied.is_unchanged(repo, root, path.as_str().into()) {
            good.push(path.into());
        }
    }
    Ok(good)
}
