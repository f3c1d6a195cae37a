//! What a user may choose about the worktrees of a pool.

use serde::{Deserialize, Serialize};

use crate::environment::GitEnvironment;

/// How worktrees are made and what of them matters. All of it is given by the caller: this crate
/// reads no setting from the environment or from a file.
///
/// ```
/// let settings = git_backend::GitSettings {
///     copy: vec![".env".into(), "config/*.local.toml".into()],
///     ..Default::default()
/// };
/// assert!(settings.regenerable.iter().any(|pattern| pattern == "target"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GitSettings {
    /// Ignored set-up files of the main worktree that each lease gets a copy of, such as `.env`:
    /// paths relative to its root, with `/` between components; `*`, `?` and `[…]` match within one
    /// component. A directory brings everything in it. What is tracked, or not ignored in the main
    /// worktree, is not copied; nor is anything that a symbolic link reaches outside the main
    /// worktree. Where the rule that hides a file is in an untracked `.gitignore`, that is copied
    /// too; where the commit leaves a file visible to `git add`, that is not copied.
    pub copy: Vec<String>,
    /// Ignored paths that need no rescue since they can be made again, in the notation of
    /// `.gitignore`. When a lease ends they are removed unsaved, like all that is ignored: the next
    /// lease of the slot has none of them. A path that matches, but that git doesn't ignore, is work
    /// like any other.
    pub regenerable: Vec<String>,
    /// What becomes of submodules.
    pub submodules: SubmoduleMode,
    /// What the names of generated branches begin with.
    pub branch_prefix: String,
    /// Whether the user's and the system's git configuration hold, as they do when the user runs
    /// git: filters such as LFS are usually set up there. The repository's own configuration always
    /// holds. Hooks, `core.fsmonitor` and `submodule.recurse` never do.
    pub user_config: bool,
    /// The caller's variables for git and the filters that it runs. It is no part of a document.
    #[serde(skip)]
    pub environment: GitEnvironment,
}

impl Default for GitSettings {
    fn default() -> Self {
        let regenerable = [
            "target",
            "node_modules",
            ".venv",
            "__pycache__",
            ".pytest_cache",
            ".mypy_cache",
            ".ruff_cache",
            ".tox",
            ".gradle",
            ".direnv",
            "*.pyc",
            ".DS_Store",
        ];
        Self {
            copy: Vec::new(),
            regenerable: regenerable.map(str::to_owned).to_vec(),
            submodules: SubmoduleMode::default(),
            branch_prefix: "wtpool/".to_owned(),
            user_config: true,
            environment: GitEnvironment::default(),
        }
    }
}

/// What becomes of submodules in a new worktree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubmoduleMode {
    /// Their directories are there and empty, as after `git worktree add`; whoever needs them runs
    /// `git submodule update --init`.
    #[default]
    Ignore,
    /// They are initialised and checked out, recursively. That may need the network; and git clones
    /// one from a local path only if the user's own configuration has `protocol.file.allow=always`.
    Init,
    /// No lease is given for a commit that has submodules.
    Refuse,
}
