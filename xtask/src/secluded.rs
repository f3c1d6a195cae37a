//! Programs that see nobody's own settings.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Settings of git's and of wtpool's, and where more of them may be.
pub(crate) const SETTINGS: [&str; 3] = ["GIT_", "WTPOOL_", "XDG_"];

/// A command in `dir` whose user is `who`, at home in `home`, without the variables that begin with one of these.
pub(crate) fn command(
    program: impl AsRef<OsStr>,
    dir: &Path,
    home: &Path,
    who: &str,
    without: &[&str],
) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if without.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    let email = format!("{}@example.invalid", who.to_lowercase());
    command
        .current_dir(dir)
        .env("HOME", home)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", who)
        .env("GIT_AUTHOR_EMAIL", &email)
        .env("GIT_COMMITTER_NAME", who)
        .env("GIT_COMMITTER_EMAIL", &email)
        .stdin(Stdio::null());
    command
}
