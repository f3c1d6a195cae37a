//! What every test stands on: a repository of its own, the program, and a clean end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testkit::fixture::{Fixture, Layout};

/// So long something may take that is to happen by itself. Far more than it needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The program itself.
pub(crate) const WTPOOL: &str = env!("CARGO_BIN_EXE_wtpool");

/// The program in a line of a shell's, wherever the checkout lies.
pub(crate) fn quoted() -> String {
    format!("'{}'", WTPOOL.replace('\'', r"'\''"))
}

/// The variable that names a copy of the program, for a user who can't reach the program itself.
pub(crate) const PROGRAM_COPY: &str = "TEST_WTPOOL_COPY";

/// A repository, and the program for it. When dropped, nothing of it runs any more.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) fixture: Fixture,
    pub(crate) home: TempDir,
    vars: Vec<(String, String)>,
    pool_dir: Option<PathBuf>,
}

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::of(Layout::Plain)
    }

    pub(crate) fn of(layout: Layout) -> Self {
        let home = tempfile::tempdir().expect("a home");
        Self { fixture: Fixture::new(layout), home, vars: Vec::new(), pool_dir: None }
    }

    /// A setting for every run of the program.
    pub(crate) fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another pool directory than the default one.
    pub(crate) fn in_pool_dir(mut self, dir: &Path) -> Self {
        self.pool_dir = Some(dir.to_owned());
        self.var("WTPOOL_POOL_DIR", dir.to_str().expect("UTF-8"))
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.fixture.repo()
    }

    /// The program with these arguments, in the repository.
    pub(crate) fn wtpool(&self, args: &[&str]) -> Command {
        match std::env::var(PROGRAM_COPY) {
            Ok(copy) => self.command(&copy, args),
            Err(_) => self.command(WTPOOL, args),
        }
    }

    /// Another program, in the same surroundings.
    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WTPOOL_") {
                command.env_remove(name);
            }
        }
        testkit::scrub(&mut command)
            .args(args)
            .current_dir(self.repo())
            .env("HOME", self.home.path())
            .env("XDG_CONFIG_HOME", self.home.path().join("config"))
            .env("WTPOOL_REAP_INTERVAL", "200ms")
            .envs(self.vars.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        finish(&mut self.wtpool(args))
    }

    /// Runs it, and expects it to succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        ran
    }

    /// Runs it with `--json`, expects success and exactly one document.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.insert(args.iter().position(|a| *a == "--").unwrap_or(args.len()), "--json");
        let ran = self.ok(&all);
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{args:?}: {e}: {ran:?}"))
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.wtpool(args).spawn().expect("start wtpool")
    }

    /// Leases a worktree and returns its path.
    pub(crate) fn acquire(&self, args: &[&str]) -> PathBuf {
        let ran = self.ok(&[&["acquire"], args].concat());
        assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
        let path = PathBuf::from(ran.out.trim_end_matches('\n'));
        assert!(path.is_absolute() && path.is_dir(), "{ran:?}");
        path
    }

    pub(crate) fn slots(&self) -> Vec<Value> {
        self.json(&["list"])["slots"].as_array().expect("an array").clone()
    }

    /// The process ids of the pool's reapers. One that a verb started is among them when the verb ends.
    pub(crate) fn reapers(&self) -> Vec<String> {
        let pool = self.pool();
        let is_ours = |process: &Path| {
            let words = fs::read(process.join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
            words.get(1) == Some(&&b"reaper"[..])
                && words.contains(&pool.as_os_str().as_encoded_bytes())
        };
        let processes = fs::read_dir("/proc").expect("processes");
        let processes = processes.map(|process| process.expect("a process").path());
        let name = |process: PathBuf| process.file_name()?.to_str().map(str::to_owned);
        processes.filter(|process| is_ours(process)).filter_map(name).collect()
    }

    /// The lock of the pool's reaper, once that watches.
    pub(crate) fn reaper_lock(&self) -> File {
        let path = self.pool().join("reaper.lock");
        eventually("there is a reaper", || path.exists());
        let lock = File::open(&path).expect("it is there");
        eventually("a reaper watches", || !is_free(&lock));
        lock
    }

    /// Ends the reaper as it never ends itself, and waits until it is gone.
    pub(crate) fn kill_reaper(&self) {
        let lock = File::open(self.pool().join("reaper.lock")).expect("there was a reaper");
        self.reapers().iter().for_each(|pid| kill(pid, rustix::process::Signal::KILL));
        eventually("the reaper is gone", || is_free(&lock));
    }

    pub(crate) fn rescues(&self) -> Vec<Value> {
        self.json(&["rescue", "list"]).as_array().expect("an array").clone()
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        let ran = self.ok(&["events", "--json"]);
        ran.out.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    }

    pub(crate) fn branches(&self) -> Vec<String> {
        let format = "--format=%(refname:short)";
        self.fixture.git().args(["branch", format]).stdout().lines().map(str::to_owned).collect()
    }

    pub(crate) fn worktrees(&self) -> usize {
        let list = self.fixture.git().args(["worktree", "list", "--porcelain"]).stdout();
        list.lines().filter(|line| line.starts_with("worktree ")).count()
    }

    /// Where the pool is.
    pub(crate) fn pool(&self) -> PathBuf {
        match &self.pool_dir {
            Some(dir) => dir.clone(),
            None => {
                let repository = git_backend::Repository::find(&self.repo()).expect("a repository");
                repository.default_pool_dir()
            }
        }
    }

    /// Waits until the slots are gone by themselves.
    pub(crate) fn eventually_empty(&self) {
        eventually("all slots are gone", || self.slots().is_empty());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let pool = self.pool();
        let Ok(lock) = File::open(pool.join("reaper.lock")) else { return };
        let pool_arg = pool.to_str().expect("UTF-8");
        let list = self.run(&["list", "--json", "--pool-dir", pool_arg]);
        let list: Value = serde_json::from_str(&list.out).unwrap_or_default();
        for slot in list["slots"].as_array().into_iter().flatten() {
            if let Some(lease) = slot["lease"]["lease"].as_str() {
                self.run(&["release", lease, "--linger", "0s", "--pool-dir", pool_arg]);
            }
        }
        self.run(&["prune", "--all", "--pool-dir", pool_arg]);
        let begun = Instant::now();
        loop {
            // A slot that has to be kept ends with the fixture; a reaper ends with its pool, but may put
            // something there just now.
            let _ = fs::remove_dir_all(&pool).inspect_err(|_| open_up(&pool));
            if is_free(&lock) {
                return;
            }
            if begun.elapsed() > PATIENCE {
                assert!(std::thread::panicking(), "the reaper of {} lives on", pool.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Makes all directories below that one such that what is in them can be removed.
fn open_up(dir: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

pub(crate) fn finish(command: &mut Command) -> Ran {
    ran(command.output().expect("start wtpool"))
}

pub(crate) fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits for something that happens by itself.
pub(crate) fn eventually(what: &str, is: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, is);
}

/// The same, for what takes long where machines are slow.
pub(crate) fn eventually_within(patience: Duration, what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < patience, "in vain waited until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process to be the owner or parent of something. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Sleeper(Child);

impl Sleeper {
    pub(crate) fn new() -> Self {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn();
        Self(child.expect("start sleep"))
    }

    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }

    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Dead already, at worst.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn kill(pid: &str, signal: rustix::process::Signal) {
    let pid = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("kill");
}

pub(crate) fn write(path: impl AsRef<Path>, text: &str) {
    fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()));
}

/// Says why a test proves nothing here.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub(crate) fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// Whether nobody holds that lock: no reaper watches.
pub(crate) fn is_free(lock: &File) -> bool {
    let free = fs4::FileExt::try_lock_shared(lock).is_ok();
    if free {
        fs4::FileExt::unlock(lock).expect("unlock");
    }
    free
}
