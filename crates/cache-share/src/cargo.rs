//! What cargo and rustc say of themselves, and of a workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pool_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Where cargo builds and by what: handed down from around the pool they would defeat what the pool
/// arranges.
pub const STEERING: [&str; 8] = [
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_BUILD_BUILD_DIR",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_MAKEFLAGS",
];

/// What else decides which units cargo builds.
const FLAGS: [&str; 8] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_INCREMENTAL",
    "CARGO_PROFILE_DEV_DEBUG",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
];

/// By what something was built. What another one built is of no use, and cargo knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Toolchain {
    /// What `rustc -vV` says.
    pub(crate) rustc: String,
    /// The variables that decide on units.
    pub(crate) flags: BTreeMap<String, String>,
}

impl Toolchain {
    /// The one in force in a directory.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn find(dir: &Path) -> Result<Self> {
        let text = output(Command::new("rustc").arg("-vV").current_dir(dir))?;
        let flags = FLAGS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect();
        Ok(Self { rustc: text.trim().to_owned(), flags })
    }

    /// How another one differs, for people; `None` if it does not.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let version = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        if self.rustc != other.rustc {
            let (theirs, ours) = (version(&self.rustc), version(&other.rustc));
            return Some(format!("it was built by {theirs}, and here is {ours}"));
        }
        let names = self.flags.keys().chain(other.flags.keys());
        let mut differ = names.filter(|name| self.flags.get(*name) != other.flags.get(*name));
        differ.next().map(|name| format!("it was built with another {name}"))
    }
}

/// A workspace of cargo's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workspace {
    /// Where it builds.
    pub(crate) target: PathBuf,
    /// Where intermediate files go; the same by default.
    pub(crate) build: PathBuf,
    /// Its members: names, and where their manifests are.
    pub(crate) members: Vec<(String, PathBuf)>,
}

impl Workspace {
    /// The one whose root is `dir`, without its dependencies.
    ///
    /// # Errors
    ///
    /// When cargo does not understand it.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let metadata = metadata(dir, &["--offline"]).no_deps().exec();
        let metadata = metadata.map_err(|e| {
            let message = format!("cargo does not understand {}: {e}", dir.display());
            Error::new(ErrorKind::Unsupported, message)
        })?;
        let target = metadata.target_directory.into_std_path_buf();
        let build = metadata.build_directory.map_or_else(|| target.clone(), Into::into);
        let members = metadata
            .packages
            .into_iter()
            .filter_map(|package| {
                let dir = package.manifest_path.parent()?.to_owned().into_std_path_buf();
                Some((package.name.to_string(), dir))
            })
            .collect();
        Ok(Self { target, build, members })
    }
}

/// What asks cargo about the workspace in a directory, steered by nothing from around the pool.
fn metadata(dir: &Path, options: &[&str]) -> cargo_metadata::MetadataCommand {
    let mut command = cargo_metadata::MetadataCommand::new();
    for name in STEERING {
        command.env_remove(name);
    }
    let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
    command.current_dir(dir).other_options(options);
    command
}

/// Where the packages are that a workspace depends on by a path outside of `dir`: anybody may change them, at any time
/// and to any date. None where cargo can't tell.
pub(crate) fn packages_outside(dir: &Path) -> BTreeSet<PathBuf> {
    let metadata = metadata(dir, &["--offline"]).exec();
    let packages = metadata.into_iter().flat_map(|metadata| metadata.packages);
    packages
        .filter(|package| package.source.is_none() && !package.manifest_path.starts_with(dir))
        .filter_map(|package| Some(package.manifest_path.parent()?.to_owned().into_std_path_buf()))
        .collect()
}

/// The packages in a worktree that are not members of its workspace, but that it depends on.
///
/// # Errors
///
/// When cargo can't tell without changing anything: the lock file is missing or out of date, or a
/// dependency is not downloaded yet.
pub(crate) fn local_packages(dir: &Path) -> Result<BTreeSet<String>> {
    let mut command = metadata(dir, &["--offline", "--locked"]);
    // Cargo asks the compiler about itself, and the repository's configuration may name any program as
    // that, or as a wrapper of it. To be leased runs nothing.
    command.env("RUSTC", "rustc").env("RUSTC_WRAPPER", "").env("RUSTC_WORKSPACE_WRAPPER", "");
    let metadata = command.exec().map_err(|e| {
        let message = format!("cargo can't tell what {} depends on: {e}", dir.display());
        Error::new(ErrorKind::Unsupported, message)
    })?;
    // By where they are, and not by where they come from: a vendored package may be edited, too.
    let changeable = |package: &&cargo_metadata::Package| {
        (package.source.is_none() || package.manifest_path.starts_with(&metadata.workspace_root))
            && !metadata.workspace_members.contains(&package.id)
    };
    Ok(metadata
        .packages
        .iter()
        .filter(changeable)
        .map(|package| package.name.to_string())
        .collect())
}

/// A command of cargo's in a directory, steered by nothing but the configuration there.
pub(crate) fn command(dir: &Path, program: &OsStr) -> Command {
    let mut command = Command::new(program);
    for name in STEERING {
        command.env_remove(name);
    }
    // Set by cargo for what it runs; the pool itself may be run by it.
    for (name, _) in std::env::vars_os() {
        let name_of = name.to_string_lossy();
        if name_of.starts_with("CARGO_PKG_") || name_of.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command.current_dir(dir).env("PWD", dir).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> Result<String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::io(format!("run {shown}"), e).with_hint("is Rust installed?"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(ErrorKind::Other, format!("{shown} failed: {}", said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toolchains_differ_by_compiler_and_by_flags() {
        let rustc = "rustc 1.95.0 (59807616e)\nbinary: rustc\nhost: x86_64";
        let ours = Toolchain { rustc: rustc.to_owned(), ..Toolchain::default() };
        assert_eq!(ours.difference(&ours.clone()), None);
        let older = Toolchain { rustc: rustc.replace("1.95", "1.94"), ..Toolchain::default() };
        let why = older.difference(&ours).expect("they differ");
        let expected =
            "it was built by rustc 1.94.0 (59807616e), and here is rustc 1.95.0 (59807616e)";
        assert_eq!(why, expected);
        // Another host of the same version.
        let elsewhere = Toolchain { rustc: rustc.replace("x86_64", "arm"), ..Toolchain::default() };
        assert!(elsewhere.difference(&ours).is_some());
        let flags = |value: &str| BTreeMap::from([("RUSTFLAGS".to_owned(), value.to_owned())]);
        let flagged = Toolchain { flags: flags("--cfg one"), ..ours.clone() };
        let expected = Some("it was built with another RUSTFLAGS".to_owned());
        assert_eq!(flagged.difference(&ours), expected);
        assert_eq!(ours.difference(&flagged), expected);
        let other = Toolchain { flags: flags("--cfg two"), ..ours.clone() };
        assert_eq!(flagged.difference(&other), expected);
        assert_eq!(flagged.difference(&flagged.clone()), None);
    }
}
