//! Building a base.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use pool_core::{CommitId, ContentId, Error, ErrorKind, Prepared, Result, Sources};

use super::life::{self, Building, LOG, Leftover};
use super::strays::Traces;
use super::{Base, FORMAT, Manifest, all, analysis, lock, times};
use crate::cargo::{self, Toolchain, Workspace};
use crate::confine::{Confinement, Surroundings};
use crate::files;
use crate::install::{self, CargoConfig};
use crate::observe::{self, Observation};
use crate::rustc::{Config, may_unshare};
use crate::seeded::blocking;

/// How a base is built.
pub(crate) struct Recipe {
    /// The strategy's directory.
    pub(crate) cache: PathBuf,
    /// The wrapper of rustc, if there is one.
    pub(crate) wrapper: Option<PathBuf>,
    /// A command in place of the usual ones.
    pub(crate) command: Option<String>,
    /// Spare debug information of dependencies, and have it compressed in programs.
    pub(crate) spare: bool,
    /// How many jobs cargo may run at once.
    pub(crate) jobs: Option<u32>,
    /// What outside of the repository says where cargo builds.
    pub(crate) surroundings: Surroundings,
    /// Tells which bases slots refer to at that moment.
    pub(crate) used: Box<dyn Fn() -> Vec<u64> + Send + Sync>,
}

/// Whether there is a base of `commit` that is whole, and that was made as one would be made today.
fn is_present(cache: &Path, commit: &CommitId) -> bool {
    all(cache).iter().any(|base| {
        base.load().is_some_and(|manifest| {
            manifest.commit == *commit
                && base.has_state(&manifest)
                && base.obsolete(&manifest, &base.tree()).is_none()
        })
    })
}

/// Builds a base of `commit`, unless there is one, or another process builds.
///
/// # Errors
///
/// When no base could be built, and there is none that slots can start from.
pub(crate) async fn build(
    sources: &dyn Sources,
    recipe: Recipe,
    commit: &CommitId,
    progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
) -> Result<Prepared> {
    let (cache, same) = (recipe.cache.clone(), commit.clone());
    let failed = |e| Error::io(format!("lock the bases in {}", recipe.cache.display()), e);
    let Some(turn) = lock::turn(&cache).map_err(failed)? else { return Ok(Prepared::Busy) };
    let (present, recipe) = blocking(move || {
        // What can't be deleted is in no way of this; it is told after the build.
        let _ = life::tidy(&cache, usize::MAX, &*recipe.used);
        Ok((is_present(&cache, &same), recipe))
    })
    .await?;
    if present {
        return Ok(Prepared::Present);
    }
    let building = Building::reserve(&recipe.cache)?;
    pool_core::fail_point!("cache-share::base::begun");
    progress("checking out");
    let files = match export(sources, commit, &building.base).await {
        Ok(files) => files,
        Err(error) => {
            blocking(move || {
                building.abandon();
                Ok(())
            })
            .await?;
            return Err(error);
        }
    };
    pool_core::fail_point!("cache-share::base::exported");
    progress("building");
    let commit = commit.clone();
    let work = tokio::task::spawn_blocking(move || {
        let prepared = build_in(building, &recipe, commit, files);
        drop(turn);
        prepared
    });
    work.await.unwrap_or_else(|e| {
        let message = "the building of a base ended unexpectedly";
        Err(Error::new(ErrorKind::Other, message).with_source(e))
    })
}

async fn export(
    sources: &dyn Sources,
    commit: &CommitId,
    base: &Base,
) -> Result<BTreeMap<PathBuf, ContentId>> {
    sources.export(commit, &base.tree()).await?;
    let mut files = sources.files(commit).await?;
    super::keep_unicode(&mut files);
    Ok(files)
}

fn build_in(
    building: Building,
    recipe: &Recipe,
    commit: CommitId,
    files: BTreeMap<PathBuf, ContentId>,
) -> Result<Prepared> {
    let manifest = match make(&building, recipe, commit.clone(), files) {
        Ok(manifest) => manifest,
        // It would be the same the next time.
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            building.fail(error.to_string(), &commit)?;
            return Err(error);
        }
        Err(error) => {
            building.abandon();
            return Err(error);
        }
    };
    pool_core::fail_point!("cache-share::base::built");
    if let Some(why) = came_to_nothing(&manifest, recipe)
        && building.damage(&manifest).is_none()
    {
        let log = building.base.dir.join(LOG);
        let end = end_of(&log);
        building.fail(why.clone(), &commit)?;
        warn(&life::tidy(&recipe.cache, usize::MAX, &*recipe.used));
        return came_to_nothing_because(&recipe.cache, &why, &log, &end);
    }
    let trouble = manifest.trouble.clone();
    building.complete(&manifest)?;
    warn(&life::tidy(&recipe.cache, 1, &*recipe.used));
    Ok(Prepared::Built { trouble })
}

/// Why nothing that was built is of use to slots, if so.
fn came_to_nothing(manifest: &Manifest, recipe: &Recipe) -> Option<String> {
    if !manifest.units.is_empty() {
        return None;
    }
    manifest.trouble.clone().or_else(|| {
        // Without the wrapper, what was built can't be told.
        recipe.wrapper.as_ref()?;
        let command = recipe.command.as_ref()?;
        Some(format!("`{command}` built nothing in the base's target directory"))
    })
}

/// What is told of a build that came to nothing: an error, unless slots can start from another
/// base.
fn came_to_nothing_because(cache: &Path, why: &str, log: &Path, end: &str) -> Result<Prepared> {
    let others = all(cache).into_iter().filter_map(|base| Some((base.load()?, base)));
    let mut whole = others.filter(|(manifest, base)| base.damage(manifest).is_none());
    if let Some((_, base)) = whole.next() {
        let why = format!("{why}; new worktrees start from base {}{end}", base.number());
        return Ok(Prepared::Failed { why });
    }
    Err(Error::new(ErrorKind::Other, format!("cannot build a base: {why}{end}"))
        .with_hint(format!("the whole log: {}", log.display())))
}

/// The last lines of a log, each on a line of its own after a line that says so; empty if there are
/// none.
fn end_of(log: &Path) -> String {
    /// So much of it is looked at.
    const BYTES: u64 = 16 * 1024;
    const LINES: usize = 20;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut text = Vec::new();
        file.take(BYTES).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    match last {
        [] => String::new(),
        _ => format!("\nthe end of its log:\n  {}", last.join("\n  ")),
    }
}

fn warn(left: &[Leftover]) {
    left.iter().for_each(Leftover::warn);
}

fn make(
    building: &Building,
    recipe: &Recipe,
    commit: CommitId,
    files: BTreeMap<PathBuf, ContentId>,
) -> Result<Manifest> {
    let base = &building.base;
    let tree = base.tree();
    let confinement = Confinement::of(&tree, &base.dir, &recipe.surroundings);
    install::put_only(&base.dir, &confinement)?;
    let workspace = Workspace::read(&tree)?;
    let target = analysis::target_of(&workspace, &tree)?;
    let toolchain = Toolchain::find(&tree)?;
    let canonical = install::canonical(&recipe.cache)?;
    let mut rustc = Config {
        root: tree.clone(),
        target: tree.join(&target),
        record: Some(base.calls()),
        spare: recipe.spare,
        ..Config::default()
    };
    let wrapper = recipe.wrapper.as_deref();
    let cargo = confinement.within(CargoConfig::default());
    let put = |rustc: &Config| install::put(&base.dir, wrapper, rustc, &cargo);
    let installed = put(&rustc)?;
    if let Some(program) = &installed
        && may_unshare(program, &tree, &canonical)
    {
        rustc.canonical = Some(canonical);
        put(&rustc)?;
    }
    for path in files.keys().map(|path| tree.join(path)) {
        // A link may lead to what is not ours; and what is not there can't be an input.
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
            let _ = files::set_modified(&path, times::of_sources());
        }
    }
    let observer = installed.as_deref().filter(|program| observe::is_possible(program));
    let observed = match observer {
        // Each unit by itself, which says more.
        Some(_) => None,
        None => Observed::begin(base, files.keys()),
    };
    let begun = SystemTime::now();
    let trouble = run(building, recipe, observer)?;
    // First of all, since looking at anything else lists it.
    let listed = observed.as_ref().map(|observed| observed.listed(&tree)).unwrap_or_default();
    let traces = Traces::take(&tree, &files, begun);
    times::send_back(&tree.join(&target), begun)?;
    let written = written(&tree, &target, &files);
    let read_silently = observed.map(|observed| observed.read(&tree, files.keys()));
    let outside = cargo::packages_outside(&tree);
    // Without a log, nothing that was observed is given.
    let observation = observer.map(|_| Observation::read(&base.looks()).unwrap_or_default());
    let (tree, target, outside) = (&*tree, &*target, &outside);
    let found = analysis::Analysis {
        base,
        tree,
        target,
        outside,
        files: &files,
        observation: observation.as_ref(),
        canonical: rustc.canonical.as_deref(),
        traces: &traces,
    };
    let found = match installed {
        Some(_) => found.units()?,
        None => Default::default(),
    };
    let read_silently =
        read_silently.map(|read| read.into_iter().filter(|path| !found.is_input(path)).collect());
    Ok(Manifest {
        format: FORMAT,
        commit,
        toolchain,
        target: target.to_owned(),
        canonical: rustc.canonical,
        files,
        units: found.units,
        looks: found.looks.into_looks(),
        read_silently,
        listed,
        written,
        growth: found.growth,
        states: found.states,
        size: files::allocated(&[&base.dir]),
        trouble,
    })
}

/// Runs what builds. What it says goes to a log; its failure is no error: what was built is of use
/// nevertheless.
fn run(building: &Building, recipe: &Recipe, observer: Option<&Path>) -> Result<Option<String>> {
    let base = &building.base;
    let path = base.dir.join(LOG);
    let writing = |e: io::Error| Error::io(format!("write {}", path.display()), e);
    let log = File::create(&path).map_err(writing)?;
    let (shown, mut command) = match &recipe.command {
        Some(line) => {
            let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
            let mut command = command(base, observer, shell);
            command.args([flag, line]);
            (&**line, command)
        }
        None => {
            let mut command = command(base, observer, "cargo");
            command.args(["build", "--workspace", "--keep-going"]);
            ("cargo build --workspace", command)
        }
    };
    if let Some(jobs) = recipe.jobs {
        command.env("CARGO_BUILD_JOBS", jobs.to_string());
    }
    let (out, err) = (log.try_clone().map_err(writing)?, log);
    // If this process is killed, the base stays locked until the build has ended.
    #[cfg(unix)]
    command.stdin(building.lock.for_child().map_err(|e| Error::io("share a lock", e))?);
    let status = command.stdout(out).stderr(err).status();
    let status = status.map_err(|e| Error::io(format!("run {shown}"), e))?;
    Ok((!status.success())
        .then(|| format!("`{shown}` failed in the base ({status}), see {}", path.display())))
}

/// The command that runs this program in the tree of the base, observed where that is possible.
fn command(base: &Base, observer: Option<&Path>, program: &str) -> Command {
    match observer {
        Some(observer) => {
            let mut command = cargo::command(&base.tree(), observer.as_os_str());
            observe::with(&mut command, &base.looks(), OsStr::new(program));
            command
        }
        None => cargo::command(&base.tree(), OsStr::new(program)),
    }
}

/// The files that came or changed while a base was built, other than where cargo builds.
fn written(tree: &Path, target: &Path, files: &BTreeMap<PathBuf, ContentId>) -> Vec<PathBuf> {
    let is_source = |entry: &walkdir::DirEntry| {
        let path = entry.path();
        entry.file_name() != ".git" && path != tree.join(target) && !path.join(TAG).exists()
    };
    let entries = walkdir::WalkDir::new(tree).into_iter().filter_entry(is_source).flatten();
    let mut found = Vec::new();
    for entry in entries.filter(|entry| entry.file_type().is_file()) {
        let Ok(path) = entry.path().strip_prefix(tree) else { continue };
        let modified = entry.metadata().ok().and_then(|meta| meta.modified().ok());
        let as_it_was = files.contains_key(path) && modified == Some(times::of_sources());
        // Cargo writes that where it is not tracked, and in a slot again.
        if !as_it_was && !path.ends_with("Cargo.lock") && path.to_str().is_some() {
            found.push(path.to_owned());
        }
    }
    found
}

/// What tells a target directory, of another workspace too.
pub(super) const TAG: &str = "CACHEDIR.TAG";

/// Which files are read while a base is built: by their access times, where the filesystem keeps them.
struct Observed {
    since: SystemTime,
    /// All directories that have files, relative to the tree.
    dirs: Vec<PathBuf>,
}

impl Observed {
    /// Sets the access times of all files far back, so that the next reading shows (with *relatime*,
    /// only the first one after a change does). `None` where none would show.
    fn begin<'a>(base: &Base, files: impl Iterator<Item = &'a PathBuf>) -> Option<Self> {
        let long_ago = SystemTime::UNIX_EPOCH;
        let forget = |path: &Path| {
            let times = fs::FileTimes::new().set_accessed(long_ago);
            File::open(path).and_then(|file| file.set_times(times))
        };
        let probe = base.dir.join("probe");
        fs::write(&probe, "x").ok()?;
        forget(&probe).ok()?;
        let shows = |read: io::Result<()>, path: &Path| {
            let accessed = read.and_then(|()| fs::metadata(path)?.accessed());
            accessed.is_ok_and(|accessed| accessed > long_ago)
        };
        let files_show = shows(fs::read(&probe).map(drop), &probe);
        forget(&base.dir).ok()?;
        let dirs_show = shows(fs::read_dir(&base.dir).map(|all| all.for_each(drop)), &base.dir);
        let _ = fs::remove_file(&probe);
        if !(files_show && dirs_show) {
            return None;
        }
        let mut dirs = BTreeSet::new();
        for path in files {
            dirs.extend(path.ancestors().skip(1));
            let path = base.tree().join(path);
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
                forget(&path).ok()?;
            }
        }
        for dir in &dirs {
            forget(&base.tree().join(dir)).ok()?;
        }
        let dirs = dirs.into_iter().map(Path::to_owned).collect();
        Some(Self { since: long_ago, dirs })
    }

    /// The directories that were listed. What cargo itself lists, it does again.
    fn listed(&self, tree: &Path) -> BTreeSet<PathBuf> {
        let was_listed = |dir: &&PathBuf| {
            let accessed = fs::metadata(tree.join(dir)).and_then(|meta| meta.accessed());
            accessed.is_ok_and(|at| at > self.since)
        };
        self.dirs.iter().filter(was_listed).cloned().collect()
    }

    fn read<'a>(&self, tree: &Path, files: impl Iterator<Item = &'a PathBuf>) -> Vec<PathBuf> {
        let was_read = |path: &&PathBuf| {
            let meta = fs::symlink_metadata(tree.join(path));
            meta.is_ok_and(|meta| meta.is_file() && meta.accessed().is_ok_and(|at| at > self.since))
        };
        // Cargo's own, of which it keeps track in its own way; and git's.
        let known = |path: &&PathBuf| {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let own = ["Cargo.toml", "Cargo.lock", "rust-toolchain", "rust-toolchain.toml"];
            let git = [".gitignore", ".gitattributes", ".gitmodules"];
            own.contains(&name) || git.contains(&name) || path.starts_with(".cargo")
        };
        files.filter(was_read).filter(|path| !known(path)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_log_is_its_last_lines() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join(LOG);
        assert_eq!(end_of(&log), "");
        fs::write(&log, "").expect("written");
        assert_eq!(end_of(&log), "");
        let text: String = (0..3000).map(|n| format!("line {n}\n\n")).collect();
        fs::write(&log, text).expect("written");
        let end = end_of(&log);
        assert!(end.starts_with("\nthe end of its log:\n  line 2980\n"), "{end}");
        assert!(end.ends_with("\n  line 2999"), "{end}");
    }
}
