//! Bringing along ignored set-up files, such as `.env`, from the main worktree, or what is one's
//! [`source`](crate::source).
//!
//! Git's verdict in that worktree decides what is ignored there: every `.gitignore`, tracked or
//! not, `info/exclude`, and `core.excludesFile`. A rule in an untracked `.gitignore` comes along with
//! what it hides, since `git add --all` in the lease would commit that otherwise.
//!
//! What was copied is noted beside the worktree with its content's hash, so that an unchanged copy
//! is known to be no loss, and a changed one is. What was wanted and not copied is noted as well.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gix::bstr::BStr;
use gix::glob::wildmatch;
use pool_core::{Error, Result, SlotId};
use serde::{Deserialize, Serialize};

use crate::site::{Site, gix_error, remove_file};
use crate::source::Source;

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

/// Brings all set-up files into a slot, in which none is, and notes what was copied.
pub(crate) fn bring_along(site: &Site, slot: SlotId) -> Result<()> {
    let brought = bring_into(site, &site.place(slot), || site.open_slot(slot))?;
    pool_core::fail_point!("git-backend::copy::copied");
    let write = |path: PathBuf, json: serde_json::Result<Vec<u8>>| {
        let json = json.map_err(|e| Error::io("write JSON", e.into()))?;
        fs::write(&path, json).map_err(|e| Error::io(format!("write {}", path.display()), e))
    };
    write(note(site, slot), serde_json::to_vec_pretty(&brought.copied))?;
    match brought.left_out.is_empty() {
        true => remove_file(&note_of_left_out(site, slot)),
        false => write(note_of_left_out(site, slot), serde_json::to_vec(&brought.left_out)),
    }
}

/// What became of the set-up files that are wanted in a checkout.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    copied: Copied,
    /// A sentence for each kind of file, or pattern, that was not copied.
    left_out: Vec<String>,
}

/// Returns what of the set-up files that the settings name was not copied into a slot, and why.
pub(crate) fn left_out(site: &Site, slot: SlotId) -> Vec<String> {
    let noted = fs::read(note_of_left_out(site, slot)).unwrap_or_default();
    serde_json::from_slice(&noted).unwrap_or_default()
}

/// Brings all set-up files into a checkout, and says what was copied. `open` opens it, if there is
/// anything to bring.
pub(crate) fn bring_into(
    site: &Site,
    checkout: &Path,
    open: impl FnOnce() -> Result<gix::Repository>,
) -> Result<Brought> {
    let mut brought = Brought::default();
    let wanted = wanted(site)?;
    if site.settings.copy.is_empty() {
        return Ok(brought);
    }
    let Some(source) = &site.source else {
        let common_dir = site.common_dir.display();
        brought.left_out.push(format!(
            "`copy` has no source: no worktree of {common_dir} is known; run wtpool in the one that has them"
        ));
        return Ok(brought);
    };
    let source = Rules::of(source.open(site)?, &source.path)?;
    let target = Rules::of(open()?, checkout)?;
    let mut excluded = source.excludes()?;
    let mut visible: Vec<String> = Vec::new();
    for (pattern, files) in &wanted.by_pattern {
        let mut why = None;
        let mut some = false;
        for (path, from) in files {
            if source.tracks(path) || target.tracks(path) {
                why = why.or(Some(format!("{path} is tracked")));
            } else if !is_excluded(&mut excluded, path) {
                why = why.or(Some(format!("{path} is not ignored")));
            } else if !bring(&target, path, from, &mut brought.copied)? {
                why = why.or(Some(format!("something tracked is in the way of {path}")));
            } else {
                some = true;
                visible.push(path.clone());
            }
        }
        if !some {
            let is_left =
                wanted.outside.iter().chain(&wanted.directories).any(|(of, _)| of == pattern);
            match why {
                Some(why) => brought.left_out.push(format!("`{pattern}`: {why}")),
                None if is_left => {}
                None => brought.left_out.push(format!("`{pattern}` matches nothing")),
            }
        }
    }
    brought.left_out.extend(summed(&wanted.outside, "leads out of the main worktree"));
    brought.left_out.extend(summed(&wanted.directories, "is a link to a directory"));
    hide(&source, &target, visible, &mut brought)?;
    Ok(brought)
}

/// Sees to it that git ignores the copies, so that `git add --all` passes over them: brings along the
/// untracked `.gitignore` that hides one in the main worktree, and takes back what is visible still.
fn hide(
    source: &Rules,
    target: &Rules,
    mut copies: Vec<String>,
    brought: &mut Brought,
) -> Result<()> {
    let mut excluded = target.excludes()?;
    copies.retain(|path| !is_excluded(&mut excluded, path));
    if copies.is_empty() {
        return Ok(());
    }
    for path in &copies {
        for dir in Path::new(path).ancestors().skip(1).filter_map(Path::to_str) {
            let rules =
                if dir.is_empty() { GITIGNORE.to_owned() } else { format!("{dir}/{GITIGNORE}") };
            let from = source.root.join(&rules);
            let is_file = fs::symlink_metadata(&from).is_ok_and(|meta| meta.is_file());
            let is_known = brought.copied.0.contains_key(&rules);
            if is_file && !is_known && !source.tracks(&rules) && !target.tracks(&rules) {
                bring(target, &rules, &from, &mut brought.copied)?;
            }
        }
    }
    let mut excluded = target.excludes()?;
    copies.retain(|path| !is_excluded(&mut excluded, path));
    // Only what was copied here: rules need not hide themselves.
    copies.retain(|path| !path.ends_with(GITIGNORE));
    for path in &copies {
        brought.copied.0.remove(path);
        remove_file(&target.root.join(path))?;
    }
    let all: Vec<_> = copies.into_iter().map(|path| (String::new(), path)).collect();
    brought.left_out.extend(summed(&all, "is ignored by a rule that this commit does not have"));
    Ok(())
}

const GITIGNORE: &str = ".gitignore";

/// A worktree, and what git tracks and ignores there.
struct Rules {
    repo: gix::Repository,
    root: PathBuf,
    index: gix::worktree::IndexPersistedOrInMemory,
}

impl Rules {
    fn of(mut repo: gix::Repository, root: &Path) -> Result<Self> {
        repo.set_workdir(root.to_owned())
            .map_err(|e| gix_error(format!("open {}", root.display()), e))?;
        let index = repo
            .index_or_empty()
            .map_err(|e| gix_error(format!("read the index of {}", root.display()), e))?;
        let index = gix::worktree::IndexPersistedOrInMemory::Persisted(index);
        Ok(Self { repo, root: root.to_owned(), index })
    }

    fn tracks(&self, path: &str) -> bool {
        self.index.entry_by_path(path.into()).is_some()
    }

    /// The ignore rules as the files in the worktree say them now.
    fn excludes(&self) -> Result<gix::AttributeStack<'_>> {
        use gix::worktree::stack::state::ignore::Source;
        let source = Source::WorktreeThenIdMappingIfNotSkipped;
        self.repo
            .excludes(&self.index, None, source)
            .map_err(|e| gix_error(format!("read the ignore files of {}", self.root.display()), e))
    }
}

fn is_excluded(excludes: &mut gix::AttributeStack<'_>, path: &str) -> bool {
    excludes
        .at_path(path, Some(gix::index::entry::Mode::FILE))
        .is_ok_and(|found| found.is_excluded())
}

/// Copies one file into a checkout, unless something else is in its way, and notes it.
fn bring(target: &Rules, path: &str, from: &Path, copied: &mut Copied) -> Result<bool> {
    let hash = hash_of(&target.repo, from)?;
    let is_there = copy_file(&target.root, path, from, &target.repo, &hash)?;
    if is_there {
        copied.0.insert(path.to_owned(), hash);
    }
    Ok(is_there)
}

/// One sentence about all of them, if there are any.
fn summed(files: &[(String, String)], what: &str) -> Option<String> {
    let (_, first) = files.first()?;
    Some(match files.len() - 1 {
        0 => format!("{first} {what}"),
        more => format!("{first} {what}, and so for {more} more"),
    })
}

/// The set-up files as they are in the main worktree, with their content's hashes.
pub(crate) fn current(site: &Site) -> Result<Vec<(PathBuf, String)>> {
    let repo = site.repo();
    wanted(site)?
        .all()
        .into_iter()
        .map(|(path, source)| Ok((path.into(), hash_of(&repo, &source)?)))
        .collect()
}

/// The note beside the worktree.
pub(crate) fn note(site: &Site, slot: SlotId) -> PathBuf {
    site.slot_dir(slot).join("copied.json")
}

pub(crate) fn note_of_left_out(site: &Site, slot: SlotId) -> PathBuf {
    site.slot_dir(slot).join(".left-out")
}

/// What the patterns of the settings match in the main worktree.
#[derive(Debug, Default)]
struct Wanted {
    /// For each pattern, the files: relative path and source.
    by_pattern: Vec<(String, BTreeMap<String, PathBuf>)>,
    /// Pattern and path of the links that lead out of the main worktree.
    outside: Vec<(String, String)>,
    /// Pattern and path of the links to directories.
    directories: Vec<(String, String)>,
}

impl Wanted {
    /// All files, relative path and source.
    fn all(self) -> BTreeMap<String, PathBuf> {
        self.by_pattern.into_iter().flat_map(|(_, files)| files).collect()
    }
}

/// Looks for the set-up files.
fn wanted(site: &Site) -> Result<Wanted> {
    let mut found = Wanted::default();
    let Some(Source { path: main, .. }) = &site.source else { return Ok(found) };
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
        found.by_pattern.push((pattern.clone(), BTreeMap::new()));
        expand(main, main, &parts, &mut found)?;
    }
    Ok(found)
}

/// Adds the files under `dir` that match the rest of a pattern; all of them when nothing is left.
fn expand(main: &Path, dir: &Path, parts: &[&str], found: &mut Wanted) -> Result<()> {
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
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let real = path.canonicalize().unwrap_or_default();
        let relative = path.strip_prefix(main).ok().and_then(Path::to_str);
        let relative = relative.map(|relative| relative.replace('\\', "/"));
        let Some((pattern, files)) = found.by_pattern.last_mut() else { continue };
        if !real.starts_with(main) || real.components().any(|part| part.as_os_str() == ".git") {
            found.outside.extend(relative.map(|relative| (pattern.clone(), relative)));
            continue;
        }
        let is_link = meta.is_symlink();
        if real.is_dir() {
            // A linked directory could contain itself.
            if !is_link {
                expand(main, &path, rest, found)?;
            } else {
                found.directories.extend(relative.map(|relative| (pattern.clone(), relative)));
            }
        } else if rest.is_empty() && real.is_file() {
            files.extend(relative.map(|relative| (relative, real)));
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
