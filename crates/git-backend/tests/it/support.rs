//! Repositories made by stock git, cut off from whatever the machine's git is set up to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use git_backend::{GitIsolator, GitSettings, Repository};
use pool_core::{
    Base, Branch, BranchWish, CommitId, Condition, Discovered, Isolator, LeaseId, LeaseName, Plan,
    RescueArchive, SlotId, Wish,
};
use tempfile::TempDir;

/// A repository in a directory of its own, which goes away at the end.
pub(crate) struct Fixture {
    pub(crate) root: TempDir,
    pub(crate) repo: PathBuf,
}

impl Fixture {
    /// One branch `main` with a commit of a few files.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With further arguments for `git init`.
    pub(crate) fn with(init: &[&str]) -> Self {
        let root = TempDir::new().expect("a temporary directory");
        let repo = root.path().canonicalize().expect("it exists").join("demo");
        fs::create_dir(&repo).expect("created");
        let args = [&["init", "-q", "-b", "main"], init].concat();
        git(&repo, &args);
        write(&repo, ".gitignore", "target/\n.env\n*.local\n");
        write(&repo, "README.md", "demo\n");
        write(&repo, "src/main.rs", "fn main() {}\n");
        write(&repo, "src/lib/deep.rs", "pub fn deep() {}\n");
        commit(&repo, "first");
        Self { root, repo }
    }

    pub(crate) fn pool_dir(&self) -> PathBuf {
        self.root.path().canonicalize().expect("it exists").join("pool")
    }

    pub(crate) fn isolator(&self) -> GitIsolator {
        self.isolator_with(settings())
    }

    pub(crate) fn isolator_with(&self, settings: GitSettings) -> GitIsolator {
        let repository = Repository::find(&self.repo).expect("found");
        GitIsolator::open(&repository, &self.pool_dir(), settings).expect("opened")
    }

    pub(crate) fn head(&self) -> String {
        git(&self.repo, &["rev-parse", "HEAD"])
    }
}

/// Settings that keep the machine's git configuration out.
pub(crate) fn settings() -> GitSettings {
    GitSettings { user_config: false, ..Default::default() }
}

/// Runs git and returns what it printed; fails the test if git does.
pub(crate) fn git(dir: &Path, args: &[&str]) -> String {
    let output = command(dir, args).output().expect("git runs");
    assert!(
        output.status.success(),
        "git {args:?} in {}: {}",
        dir.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
}

/// Whether git succeeds.
pub(crate) fn git_succeeds(dir: &Path, args: &[&str]) -> bool {
    command(dir, args).output().expect("git runs").status.success()
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"GIT_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("HOME", dir)
        .env("LC_ALL", "C")
        .env("GIT_AUTHOR_NAME", "a")
        .env("GIT_AUTHOR_EMAIL", "a@example.com")
        .env("GIT_COMMITTER_NAME", "a")
        .env("GIT_COMMITTER_EMAIL", "a@example.com")
        .args(args);
    command
}

/// Writes a file, and the directories it needs.
pub(crate) fn write(dir: &Path, path: &str, content: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().expect("it has one")).expect("created");
    fs::write(path, content).expect("written");
}

/// Commits all there is, and returns the commit.
pub(crate) fn commit(dir: &Path, message: &str) -> String {
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-q", "--no-verify", "-m", message]);
    git(dir, &["rev-parse", "HEAD"])
}

pub(crate) fn name(text: &str) -> LeaseName {
    LeaseName::new(text).expect("valid")
}

/// The plan for a lease on a generated branch, from where the repository stands.
pub(crate) async fn plan(isolator: &GitIsolator, slot: u32, lease: &str) -> Plan {
    let base = isolator.resolve(&Wish::default(), &name(lease)).await.expect("resolved");
    plan_of(slot, lease, base)
}

/// The plan for a lease without a branch.
pub(crate) async fn detached(isolator: &GitIsolator, slot: u32, lease: &str) -> Plan {
    let wish = Wish { branch: BranchWish::Detached, ..Default::default() };
    let base = isolator.resolve(&wish, &name(lease)).await.expect("resolved");
    plan_of(slot, lease, base)
}

pub(crate) fn plan_of(slot: u32, lease: &str, base: Base) -> Plan {
    Plan {
        slot: SlotId(slot),
        lease: Some((LeaseId::generate(jiff::Timestamp::now()), name(lease))),
        base,
    }
}

/// A base on a branch that is to be made.
pub(crate) fn base(commit: &str, branch: &str) -> Base {
    Base {
        commit: CommitId::new(commit).expect("valid"),
        branch: Some(Branch { name: branch.to_owned(), created: true }),
    }
}

/// Looks, saves what there is, and gives the proof.
pub(crate) async fn proof(isolator: &GitIsolator, plan: &Plan) -> pool_core::Preserved {
    let inspection = isolator.inspect(plan).await.expect("inspected");
    match pool_core::Preserved::nothing_to_lose(inspection) {
        Ok(proof) => proof,
        Err(inspection) => isolator.preserve(inspection).await.expect("preserved"),
    }
}

/// `git status` of a worktree, ignored files left out.
pub(crate) fn status(worktree: &Path) -> String {
    git(worktree, &["status", "--porcelain"])
}

/// How many linked worktrees git knows.
pub(crate) fn registrations(repo: &Path) -> usize {
    git(repo, &["worktree", "list", "--porcelain"]).matches("worktree ").count() - 1
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).expect("it is there")
}

pub(crate) fn mtime(path: impl AsRef<Path>) -> SystemTime {
    fs::metadata(path).expect("it is there").modified().expect("it is there")
}

/// Makes a change of the modification time visible, whatever the clock's grain.
pub(crate) fn backdate(path: impl AsRef<Path>) -> SystemTime {
    let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
    fs::File::options()
        .write(true)
        .open(path.as_ref())
        .expect("it is there")
        .set_modified(then)
        .expect("it is there");
    mtime(path)
}

/// The rescues.
pub(crate) fn archive(isolator: &GitIsolator) -> &dyn RescueArchive {
    isolator.rescues().expect("git has some")
}

/// Says why a test proves nothing here.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub(crate) fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// So many bytes that no compression makes fewer.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

/// A slot that is in that condition.
pub(crate) fn found(slot: u32, condition: Condition) -> Discovered {
    Discovered { slot: SlotId(slot), condition }
}
