//! What a hazard is made of: files, commits, and a script.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::git;

/// Whose lease: `'A'`, `'B'`, `'C'`.
pub(crate) type Who = char;

/// Paths and what they are to contain; `None`: to be deleted.
pub(crate) type Change = BTreeMap<&'static str, Option<String>>;

/// A small workspace, its commits, and what is done with it.
///
/// Commit 0 is what caches are warmed with; the others are children of it.
#[derive(Clone, Debug)]
pub struct Hazard {
    name: &'static str,
    about: &'static str,
    pub(crate) files: Change,
    pub(crate) commits: Vec<Change>,
    pub(crate) script: Vec<Step>,
    /// Where there are workspaces that need a lock file.
    pub(crate) workspaces: Vec<&'static str>,
    /// Whether the leases with which the script begins are taken at the same moment.
    pub(crate) together: bool,
    /// What the user's own `.env` says, of which each lease is to get a copy.
    pub(crate) dot_env: Option<&'static str>,
    /// The configuration of cargo in a directory above the repository and the pool.
    pub(crate) above: Option<&'static str>,
    /// Whether what is shown comes from debug information.
    pub(crate) of_debug_information: bool,
}

/// One step of a script.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Somebody takes a lease that starts at that commit, maybe in the slot somebody gave back.
    Lease(Who, usize, Option<Who>),
    /// A file is written; under an old date, if so wished.
    Edit { who: Who, path: &'static str, content: String, old: bool },
    /// All changes are committed.
    Commit(Who),
    /// Another commit is checked out.
    Switch(Who, usize),
    /// These do the same thing, at the same time, and what each sees is compared.
    Act(Vec<Who>, Act),
    /// The lease is given back.
    Release(Who),
}

/// Something whose outcome is compared.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// cargo, with these arguments, in that directory, with further variables. Whether it must fail is
    /// part of the script: a workspace that is broken by mistake tests nothing.
    Cargo { args: String, dir: &'static str, env: Vec<(&'static str, &'static str)>, fails: bool },
    /// A program that was built before in that directory.
    Program { name: &'static str, dir: &'static str },
    /// The documentation of a crate that was built before.
    Page { name: &'static str },
}

impl Act {
    /// Whether it must fail.
    pub(crate) fn fails(&self) -> bool {
        matches!(self, Self::Cargo { fails: true, .. })
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cargo { args, dir, env, .. } => {
                for (name, value) in env {
                    write!(f, "{name}={value} ")?;
                }
                write!(f, "cargo {args}")?;
                if dir.is_empty() { Ok(()) } else { write!(f, " (in {dir})") }
            }
            Self::Program { name, dir: "" } => write!(f, "the program {name}"),
            Self::Program { name, dir } => write!(f, "the program {name} of {dir}"),
            Self::Page { name } => write!(f, "the documentation of {name}"),
        }
    }
}

impl Hazard {
    pub(crate) fn new(name: &'static str, about: &'static str) -> Self {
        let (files, commits, script) = Default::default();
        let hazard = Self {
            name,
            about,
            files,
            commits,
            script,
            workspaces: vec![""],
            together: false,
            dot_env: None,
            above: None,
            of_debug_information: false,
        };
        hazard.file(".gitignore", "target/\n.env\n")
    }

    /// Its name, by which it is asked for.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it is about, in a line.
    pub fn about(&self) -> &'static str {
        self.about
    }

    pub(crate) fn file(mut self, path: &'static str, content: impl Into<String>) -> Self {
        self.files.insert(path, Some(content.into()));
        self
    }

    /// There is another workspace, in that directory.
    pub(crate) fn workspace(mut self, dir: &'static str) -> Self {
        self.workspaces.push(dir);
        self
    }

    /// The leases with which the script begins are taken at the same moment.
    pub(crate) fn together(mut self) -> Self {
        self.together = true;
        self
    }

    /// The user has a `.env`, which git ignores.
    pub(crate) fn dot_env(mut self, content: &'static str) -> Self {
        self.dot_env = Some(content);
        self
    }

    /// The user has that configuration of cargo above the repository and the pool. Fresh clones are elsewhere.
    pub(crate) fn above(mut self, config: &'static str) -> Self {
        self.above = Some(config);
        self
    }

    /// What is shown comes from debug information, of which a strategy may have less.
    pub(crate) fn of_debug_information(mut self) -> Self {
        self.of_debug_information = true;
        self
    }

    /// The next commit: how it differs from commit 0.
    pub(crate) fn commit<const N: usize>(mut self, changes: [(&'static str, &str); N]) -> Self {
        let changes = changes.map(|(path, content)| (path, Some(content.to_owned())));
        self.commits.push(changes.into());
        self
    }

    /// The last commit lacks that file too.
    pub(crate) fn without(mut self, path: &'static str) -> Self {
        self.commits.last_mut().expect("there is a commit").insert(path, None);
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.script.push(step);
        self
    }

    pub(crate) fn lease(self, who: Who, commit: usize) -> Self {
        self.step(Step::Lease(who, commit, None))
    }

    /// A lease in the slot that `previous` gave back.
    pub(crate) fn lease_after(self, previous: Who, who: Who, commit: usize) -> Self {
        self.step(Step::Lease(who, commit, Some(previous)))
    }

    pub(crate) fn edit(self, who: Who, path: &'static str, content: impl Into<String>) -> Self {
        self.step(Step::Edit { who, path, content: content.into(), old: false })
    }

    /// An edit under a date long before any build.
    pub(crate) fn edit_old(self, who: Who, path: &'static str, content: impl Into<String>) -> Self {
        self.step(Step::Edit { who, path, content: content.into(), old: true })
    }

    pub(crate) fn commit_in(self, who: Who) -> Self {
        self.step(Step::Commit(who))
    }

    pub(crate) fn switch(self, who: Who, commit: usize) -> Self {
        self.step(Step::Switch(who, commit))
    }

    pub(crate) fn release(self, who: Who) -> Self {
        self.step(Step::Release(who))
    }

    /// cargo at the root, by several at once if there are several.
    pub(crate) fn cargo(self, who: &str, args: &str) -> Self {
        self.cargo_in(who, "", args)
    }

    pub(crate) fn cargo_in(self, who: &str, dir: &'static str, args: &str) -> Self {
        let act = Act::Cargo { args: args.to_owned(), dir, env: Vec::new(), fails: false };
        self.step(Step::Act(who.chars().collect(), act))
    }

    /// cargo at the root, with a complaint.
    pub(crate) fn cargo_fails(self, who: Who, args: &str) -> Self {
        let act = Act::Cargo { args: args.to_owned(), dir: "", env: Vec::new(), fails: true };
        self.step(Step::Act(vec![who], act))
    }

    pub(crate) fn cargo_with(
        self,
        who: Who,
        env: (&'static str, &'static str),
        args: &str,
    ) -> Self {
        let act = Act::Cargo { args: args.to_owned(), dir: "", env: vec![env], fails: false };
        self.step(Step::Act(vec![who], act))
    }

    /// Runs what the last `cargo build` made, without asking cargo.
    pub(crate) fn program(self, who: Who, name: &'static str) -> Self {
        self.program_in(who, "", name)
    }

    pub(crate) fn program_in(self, who: Who, dir: &'static str, name: &'static str) -> Self {
        self.step(Step::Act(vec![who], Act::Program { name, dir }))
    }

    pub(crate) fn page(self, who: Who, name: &'static str) -> Self {
        self.step(Step::Act(vec![who], Act::Page { name }))
    }

    /// Whether cargo is run with this word, such as `clippy` or `--release`, in the script.
    pub fn runs(&self, word: &str) -> bool {
        self.script.iter().any(|step| match step {
            Step::Act(_, Act::Cargo { args, .. }) => args.split_whitespace().any(|arg| arg == word),
            _ => false,
        })
    }

    /// Makes the repository. Equal lock files give equal commits, which are returned.
    pub(crate) fn make(&self, repo: &Path, locks: &Locks) -> Vec<String> {
        write_all(repo, &self.files);
        for (path, content) in locks {
            write(repo, path, content);
        }
        git(repo).args(["init", "--quiet", "-b", "main"]).ok();
        let mut ids = vec![commit_all(repo, "base")];
        for (number, change) in self.commits.iter().enumerate() {
            git(repo).args(["checkout", "--quiet", "-b", &format!("v{}", number + 1), "main"]).ok();
            write_all(repo, change);
            ids.push(commit_all(repo, &format!("variant {}", number + 1)));
        }
        git(repo).args(["checkout", "--quiet", "main"]).ok();
        if let Some(content) = self.dot_env {
            write(repo, ".env", content);
        }
        ids
    }
}

/// Lock files, by path.
pub(crate) type Locks = BTreeMap<String, String>;

/// Commits all there is, and returns the commit.
pub(crate) fn commit_all(repo: &Path, message: &str) -> String {
    git(repo).args(["add", "--all"]).ok();
    git(repo).args(["commit", "--quiet", "--allow-empty", "-m", message]).ok();
    git(repo).args(["rev-parse", "HEAD"]).stdout()
}

fn write_all(dir: &Path, change: &Change) {
    for (path, content) in change {
        match content {
            Some(content) => write(dir, path, content),
            None => std::fs::remove_file(dir.join(path))
                .unwrap_or_else(|e| panic!("remove {path} in {}: {e}", dir.display())),
        }
    }
}

/// Writes a file, and the directories it needs. What begins with `#!` can be executed; what begins with `->`
/// is a symbolic link.
pub(crate) fn write(dir: &Path, path: &str, content: &str) {
    let path = dir.join(path);
    let parent = path.parent().expect("it is in a directory");
    std::fs::create_dir_all(parent).unwrap_or_else(|e| panic!("make {}: {e}", parent.display()));
    #[cfg(unix)]
    if let Some(link) = content.strip_prefix("-> ") {
        std::os::unix::fs::symlink(link, &path).expect("a place of one's own");
        return;
    }
    std::fs::write(&path, content).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    #[cfg(unix)]
    if content.starts_with("#!") {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("one's own file");
    }
}
