//! The variables that git, and the filters that it runs, get from the caller.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Variables that say where git's configuration is.
const CONFIGURATION: [&str; 6] = [
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_ATTR_NOSYSTEM",
];
const CONFIGURATION_PREFIXES: [&str; 2] = ["GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_"];

/// Variables that name a file of configuration.
const FILES: [&str; 2] = ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"];

/// Variables that say how git reaches a remote, as LFS and partial clones need it, and where git is.
const TRANSPORT: [&str; 7] = [
    "GIT_ALLOW_PROTOCOL",
    "GIT_ASKPASS",
    "GIT_EXEC_PATH",
    "GIT_PROTOCOL_FROM_USER",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
];
const TRANSPORT_PREFIXES: [&str; 4] = ["GIT_HTTP_", "GIT_LFS_", "GIT_PROXY_", "GIT_SSL_"];

/// The `GIT_*` variables that git gets from the caller: those that say where configuration is, how a
/// remote is reached, and what LFS is to do. Any other, such as `GIT_DIR`, is left out.
///
/// ```
/// use git_backend::GitEnvironment;
/// let variables = [("GIT_CONFIG_GLOBAL", "gitconfig"), ("GIT_DIR", "/elsewhere")];
/// let variables = variables.map(|(name, value)| (name.into(), value.into()));
/// let environment = GitEnvironment::of(variables, "/home/me".as_ref());
/// let kept: Vec<_> = environment.variables().collect();
/// assert_eq!(kept, [("GIT_CONFIG_GLOBAL".as_ref(), "/home/me/gitconfig".as_ref())]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitEnvironment(Vec<(OsString, OsString)>);

impl GitEnvironment {
    /// Takes what git may have of the caller's variables. Paths of configuration files are taken
    /// relative to `directory`, where the caller runs.
    pub fn of(variables: impl IntoIterator<Item = (OsString, OsString)>, directory: &Path) -> Self {
        let mut kept: Vec<_> = variables
            .into_iter()
            .filter(|(name, _)| is_of_configuration(name) || is_of_transport(name))
            .map(|(name, value)| match FILES.iter().any(|file| name == *file) {
                true if !value.is_empty() => (name, directory.join(value).into_os_string()),
                _ => (name, value),
            })
            .collect();
        kept.sort();
        Self(kept)
    }

    /// The variables, sorted by name.
    pub fn variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Those that git gets where the user's configuration holds, or does not.
    pub(crate) fn given(&self, user_config: bool) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables().filter(move |(name, _)| user_config || !is_of_configuration(name))
    }

    /// Whether any says where configuration is.
    pub(crate) fn configures(&self) -> bool {
        self.0.iter().any(|(name, _)| is_of_configuration(name))
    }

    /// Whether the attributes of the whole system are left out.
    pub(crate) fn without_system_attributes(&self) -> bool {
        self.0.iter().any(|(name, value)| name == "GIT_ATTR_NOSYSTEM" && is_true(value))
    }
}

fn is_true(value: &OsStr) -> bool {
    let off = ["", "0", "no", "off", "false"];
    !off.iter().any(|off| value.eq_ignore_ascii_case(off))
}

fn is_of_configuration(name: &OsStr) -> bool {
    is_one_of(name, &CONFIGURATION, &CONFIGURATION_PREFIXES)
}

fn is_of_transport(name: &OsStr) -> bool {
    is_one_of(name, &TRANSPORT, &TRANSPORT_PREFIXES)
}

fn is_one_of(name: &OsStr, names: &[&str], prefixes: &[&str]) -> bool {
    let begins = |prefix: &&str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
    names.iter().any(|known| name == *known) || prefixes.iter().any(begins)
}
