//! Which unit of cargo's a process works for. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::rustc;

/// What is seen belongs to one of these.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Unit {
    /// A compilation, by cargo's hash of it.
    Compilation(String),
    /// The run of a build script, by its `OUT_DIR`.
    Script(PathBuf),
}

/// The unit that a program begins which cargo started; `None` if it begins none. `executable` is its
/// file, `variables` is its environment, separated by null bytes.
pub(super) fn begun_by(
    executable: &Path,
    arguments: &[OsString],
    variables: &[u8],
) -> Option<Unit> {
    let name = executable.file_name()?.as_bytes();
    if name.starts_with(b"build-script-") || name == b"build_script_build" {
        let out_dir = variables.split(|byte| *byte == 0).find_map(|v| v.strip_prefix(b"OUT_DIR="));
        return out_dir.map(|dir| Unit::Script(OsStr::from_bytes(dir).into()));
    }
    // Started by the wrapper, or as it: what the wrapper itself looks at belongs to the unit as well.
    rustc::hash_of(arguments.get(1..)?).map(Unit::Compilation)
}

/// Whether a program is a git whose answer depends on the commit alone that is checked out: as in
/// `git rev-parse --short HEAD`.
pub(super) fn asks_for_commit(executable: &Path, arguments: &[OsString]) -> bool {
    let is_harmless = |argument: &OsString| {
        let argument = argument.to_str().unwrap_or_default();
        let length = argument.strip_prefix("--short=").map(str::parse::<u32>);
        ["--short", "--verify", "--quiet", "-q"].contains(&argument)
            || length.is_some_and(|length| length.is_ok())
    };
    let is_git = executable.file_name().is_some_and(|name| name == "git");
    match arguments {
        [_, command, options @ .., what] if is_git => {
            command == "rev-parse" && what == "HEAD" && options.iter().all(is_harmless)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn git_is_asked_for_the_commit_and_nothing_else() {
        let asks = |line: &str| asks_for_commit("/usr/bin/git".as_ref(), &words(line));
        for commit in ["git rev-parse HEAD", "git rev-parse --short=10 HEAD"] {
            assert!(asks(commit), "{commit}");
        }
        for more in [
            "git rev-parse --abbrev-ref HEAD",
            "git rev-parse HEAD~1",
            "git describe --always",
            "git -C /elsewhere rev-parse HEAD",
            "git status",
        ] {
            assert!(!asks(more), "{more}");
        }
        assert!(!asks_for_commit("/usr/bin/gitk".as_ref(), &words("git rev-parse HEAD")));
    }

    #[test]
    fn a_unit_is_known_by_its_hash_or_its_output_directory() {
        let call = "wtpool-rustc /bin/rustc --crate-name app --out-dir /t/debug/deps \
                    -C metadata=1 -C extra-filename=-0123456789abcdef";
        let begun = |exe: &str, args: &str, env: &[u8]| begun_by(exe.as_ref(), &words(args), env);
        let hash = "0123456789abcdef".to_owned();
        assert_eq!(begun("/w/wtpool-rustc", call, b""), Some(Unit::Compilation(hash)));
        let env = b"A=1\0OUT_DIR=/t/debug/build/a-1/out\0B=2\0";
        let script = Some(Unit::Script("/t/debug/build/a-1/out".into()));
        assert_eq!(begun("/t/debug/build/a-2/build-script-build", "x", env), script);
        for questions in ["wtpool-rustc /bin/rustc -vV", "cargo build", "sh -c true"] {
            assert_eq!(begun("/bin/sh", questions, env), None, "{questions}");
        }
    }
}
