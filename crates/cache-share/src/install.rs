//! What reaches every cargo inside a slot: a `.cargo/config.toml` in the directory above the worktree, which
//! cargo merges with the repository's own (and the latter wins). Nothing is written into the worktree.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use pool_core::{Error, Result, open_plain};
use serde::{Deserialize, Serialize};

use crate::confine::Confinement;
use crate::files;
use crate::rustc::{CONFIG, Config, PROGRAM};

/// The part of cargo's configuration that strategies use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CargoConfig {
    pub(crate) build: Build,
    /// Variables for what cargo runs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) env: BTreeMap<String, Variable>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) profile: BTreeMap<String, Profile>,
}

/// A variable in `[env]`. Cargo merges those of several files only if they have the same shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Variable {
    Plain(String),
    Table { value: String },
}

/// `[build]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Build {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rustc_wrapper: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) build_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jobs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) incremental: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) rustdocflags: Vec<String>,
}

/// `[profile.<name>]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inherits: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) codegen_units: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) build_override: Option<Package>,
    pub(crate) package: BTreeMap<String, Package>,
}

/// `[profile.<name>.package.<package>]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Package {
    pub(crate) codegen_units: u32,
}

/// Where a worktree stands for incremental compilations, whichever it is.
///
/// # Errors
///
/// When the directory can't be made.
pub(crate) fn canonical(cache: &Path) -> Result<PathBuf> {
    let path = cache.join("worktree");
    fs::create_dir_all(&path).map_err(|e| Error::io(format!("create {}", path.display()), e))?;
    Ok(path)
}

/// Writes the configuration for what is built below `dir`, and puts the wrapper of rustc beside it. Returns
/// the wrapper.
///
/// # Errors
///
/// When something can't be written. What was there before holds as far as it was not replaced.
pub(crate) fn put(
    dir: &Path,
    wrapper: Option<&Path>,
    rustc: &Config,
    cargo: &CargoConfig,
) -> Result<Option<PathBuf>> {
    let place = dir.join(".cargo");
    let failed = |path: &Path, e: io::Error| Error::io(format!("write {}", path.display()), e);
    fs::create_dir_all(&place).map_err(|e| failed(&place, e))?;
    let mut cargo = cargo.clone();
    let mut installed = None;
    if let Some(wrapper) = wrapper {
        // Where a host names a path by way of a link, cargo and rustc see where it leads.
        let root = files::real(&rustc.root);
        let target = rustc.target.strip_prefix(&rustc.root).map(|inside| root.join(inside));
        let target = target.unwrap_or_else(|_| rustc.target.clone());
        let rustc = Config { root, target, ..rustc.clone() };
        let json = serde_json::to_vec(&rustc).map_err(|e| failed(&place, e.into()))?;
        let config = place.join(CONFIG);
        files::write(&config, &json).map_err(|e| failed(&config, e))?;
        let program = place.join(PROGRAM).with_extension(std::env::consts::EXE_EXTENSION);
        put_program(wrapper, &program).map_err(|e| failed(&program, e))?;
        cargo.build.rustc_wrapper = Some(program.clone());
        installed = Some(program);
    }
    pool_core::fail_point!("cache-share::install::wrapper-put");
    let text = toml::to_string(&cargo).map_err(|e| failed(&place, io::Error::other(e)))?;
    let path = place.join("config.toml");
    files::write(&path, text.as_bytes()).map_err(|e| failed(&path, e))?;
    Ok(installed)
}

/// Keeps builds below `dir` apart from others, and leaves nothing else of what was put there. Where nothing needs to be
/// said for that, there is no file.
///
/// # Errors
///
/// When it can't be written, or what was there can't be removed.
pub(crate) fn put_only(dir: &Path, confinement: &Confinement) -> Result<()> {
    take_away(dir)?;
    let cargo = confinement.within(CargoConfig::default());
    if cargo != CargoConfig::default() {
        put(dir, None, &Config::default(), &cargo)?;
    }
    Ok(())
}

/// Removes what was put there.
///
/// # Errors
///
/// When it can't be removed.
pub(crate) fn take_away(dir: &Path) -> Result<()> {
    pool_core::fail_point!("cache-share::install::leaving");
    files::discard_tree(&dir.join(".cargo"))
}

/// The wrapper of rustc on the filesystem of the cache, so that all have one file of it, wherever the program
/// itself is installed.
///
/// # Errors
///
/// When it can't be written.
pub(crate) fn near(cache: &Path, program: &Path) -> Result<PathBuf> {
    let near = cache.join(PROGRAM).with_extension(std::env::consts::EXE_EXTENSION);
    let failed = |e| Error::io(format!("write {}", near.display()), e);
    fs::create_dir_all(cache).map_err(failed)?;
    if !fs::canonicalize(program).is_ok_and(|program| is_same(&program, &near)) {
        let lock = wrapper_lock(cache).map_err(failed)?;
        fs4::FileExt::lock(&lock).map_err(failed)?;
        put_program(program, &near).map_err(failed)?;
    }
    Ok(near)
}

/// Held by whoever puts the wrapper into the cache.
fn wrapper_lock(cache: &Path) -> io::Result<File> {
    open_plain(File::options().create(true).append(true), &cache.join("wrapper.lock"))
}

/// Removes a wrapper that whoever was putting it into the cache was killed with.
///
/// # Errors
///
/// When it can't be removed.
pub(crate) fn tidy(cache: &Path) -> Result<()> {
    let unfinished = cache.join(UNFINISHED);
    if fs::symlink_metadata(&unfinished).is_err() {
        return Ok(());
    }
    let failed = |e| Error::io(format!("remove {}", unfinished.display()), e);
    let lock = wrapper_lock(cache).map_err(failed)?;
    if fs4::FileExt::try_lock(&lock).is_err() {
        return Ok(());
    }
    files::remove(&unfinished).map_err(failed)
}

/// The wrapper's name until it is whole.
const UNFINISHED: &str = ".wrapper-new";

/// A second name of the program, so that it stays when that is installed anew or removed; a copy
/// where it is on another filesystem. One process at a time does it for one directory.
fn put_program(program: &Path, to: &Path) -> io::Result<()> {
    let program = fs::canonicalize(program)?;
    if is_same(&program, to) {
        return Ok(());
    }
    let new = to.with_file_name(UNFINISHED);
    files::remove(&new)?;
    if fs::hard_link(&program, &new).is_err() {
        fs::copy(&program, &new)?;
    }
    pool_core::fail_point!("cache-share::install::linked");
    fs::rename(&new, to)
}

fn is_same(one: &Path, other: &Path) -> bool {
    let (Ok(one), Ok(other)) = (fs::metadata(one), fs::metadata(other)) else { return false };
    // A copy has a later time than what it was copied from.
    one.len() == other.len() && one.modified().ok() <= other.modified().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapper_that_was_not_finished_goes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let unfinished = dir.path().join(UNFINISHED);
        tidy(dir.path()).expect("nothing is there");
        fs::write(&unfinished, "half").expect("written");
        let putting = wrapper_lock(dir.path()).expect("opened");
        fs4::FileExt::lock(&putting).expect("locked");
        tidy(dir.path()).expect("it is somebody's");
        assert!(unfinished.exists());
        drop(putting);
        tidy(dir.path()).expect("removed");
        assert!(!unfinished.exists());
        fs::write(&unfinished, "half").expect("written");
        let program = dir.path().join("program");
        fs::write(&program, "whole").expect("written");
        let near = near(dir.path(), &program).expect("put");
        assert_eq!(fs::read_to_string(near).expect("read"), "whole");
        assert!(!unfinished.exists());
    }

    #[test]
    fn what_is_put_is_toml_that_cargo_reads() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let program = dir.path().join("program");
        fs::write(&program, "#!/bin/sh\n").expect("written");
        let mut cargo = CargoConfig::default();
        let package = ("a".to_owned(), Package { codegen_units: 7 });
        let profile = Profile { package: BTreeMap::from([package]), ..Profile::default() };
        cargo.profile.insert("dev".to_owned(), profile);
        let rustc = Config { root: "/w".into(), ..Config::default() };
        let installed = put(dir.path(), Some(&program), &rustc, &cargo).expect("written");
        let installed = installed.expect("there is a wrapper");
        assert!(installed.is_file());
        let text = fs::read_to_string(dir.path().join(".cargo/config.toml")).expect("read");
        let read: toml::Table = text.parse().expect("TOML");
        assert_eq!(read["build"]["rustc-wrapper"].as_str(), installed.to_str());
        assert_eq!(read["profile"]["dev"]["package"]["a"]["codegen-units"].as_integer(), Some(7));
        // A second time changes nothing, and taking it away leaves nothing.
        put(dir.path(), Some(&program), &rustc, &cargo).expect("written");
        take_away(dir.path()).expect("removed");
        take_away(dir.path()).expect("nothing to remove");
        assert!(!dir.path().join(".cargo").exists());
    }
}
