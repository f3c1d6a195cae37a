//! One cache of compilations, with a real sccache. Where there is none, these tests say so and do nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cache_share::{Private, Sccache, Setup};
use git_backend::{GitIsolator, GitSettings, Repository};
use pool_core::{CacheStrategy, LeaseGuard, Pool, PruneOptions, Release, Request, SessionId};
use tempfile::TempDir;
use testkit::{git, truth};

/// The program of that name, if there is one; says so if there is none.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// sccache, if there is one.
pub(crate) fn program() -> Option<PathBuf> {
    on_path("sccache")
}

/// Waits until a pool's server has ended, which takes it some seconds.
pub(crate) fn wait_for_server(pool_dir: &Path) {
    eventually("the server ends", || servers(pool_dir).is_empty());
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(90), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes that were started with a socket in that pool's directory. A server is one.
fn servers(pool_dir: &Path) -> Vec<u32> {
    let ours = format!("SCCACHE_SERVER_UDS={}/", pool_dir.display());
    let has = |pid: &u32| {
        let vars = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        vars.split(|byte| *byte == 0).any(|var| var.starts_with(ours.as_bytes()))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(has).collect()
}

/// A repository with a package that depends on one from a registry.
struct Bench {
    root: PathBuf,
    pool: Pool,
    cache: Arc<Sccache>,
    _dir: TempDir,
}

impl Bench {
    fn new(program: Option<&Path>, env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().canonicalize().expect("it exists");
        // All crates there are, in a directory.
        let registry = root.join("registry");
        let config = format!(
            "[source.crates-io]\nreplace-with = \"here\"\n[source.here]\ndirectory = {registry:?}\n"
        );
        write(&root.join(".cargo/config.toml"), &config);
        write(&registry.join("leaf/Cargo.toml"), &manifest("leaf", ""));
        write(
            &registry.join("leaf/src/lib.rs"),
            "pub fn word() -> &'static str {\n    \"leaf\"\n}\n",
        );
        write(&registry.join("leaf/.cargo-checksum.json"), "{\"files\":{}}");
        let repo = root.join("repo");
        write(&repo.join(".gitignore"), "target/\n");
        write(&repo.join("Cargo.toml"), &manifest("app", "[dependencies]\nleaf = \"0.1\"\n"));
        write(&repo.join("src/main.rs"), "fn main() {\n    println!(\"{}\", leaf::word());\n}\n");
        git(&repo).args(["init", "-q", "-b", "main"]).ok();
        let lock = truth::cargo(&repo, &BTreeMap::new()).arg("generate-lockfile").output();
        assert!(lock.expect("cargo runs").status.success());
        commit(&repo);
        let pool_dir = root.join("pool");
        let repository = Repository::find(&repo).expect("there is a repository");
        let settings = GitSettings { user_config: false, ..GitSettings::default() };
        let isolator = GitIsolator::open(&repository, &pool_dir, settings).expect("it opens");
        let isolator = Arc::new(isolator);
        let setup = Setup {
            wrapper: Some(env!("CARGO_BIN_EXE_wtpool-rustc").into()),
            ..Setup::new(&pool_dir, isolator.clone())
        };
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let cache = Arc::new(Sccache::new(setup, program.map(Path::to_owned), env.collect()));
        let pool = Pool::builder(isolator).cache(cache.clone()).open().expect("it opens");
        Self { root, pool, cache, _dir: dir }
    }

    fn repo(&self) -> PathBuf {
        self.root.join("repo")
    }

    fn pool_dir(&self) -> PathBuf {
        self.root.join("pool")
    }

    async fn lease(&self) -> LeaseGuard {
        self.pool.acquire(Request::new("a test")).await.expect("there is room")
    }

    /// Ends the pool, and with it the server.
    async fn end(self) {
        let options = PruneOptions { all: true, ..PruneOptions::default() };
        self.pool.prune(options, &|_| ()).await.expect("the pool can be pruned");
        wait_for_server(&self.pool_dir());
    }
}

impl Drop for Bench {
    /// A test that failed did not end it.
    fn drop(&mut self) {
        if servers(&self.pool_dir()).is_empty() {
            return;
        }
        let socket = self.pool_dir().join("cache/sccache/socket");
        let mut stop = Command::new("sccache");
        let stopped = stop.arg("--stop-server").env("SCCACHE_SERVER_UDS", socket).output();
        assert!(stopped.is_ok() && std::thread::panicking(), "a server was left");
    }
}

fn manifest(name: &str, rest: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n{rest}")
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    fs::write(path, content).expect("written");
}

fn commit(repo: &Path) {
    git(repo).args(["add", "."]).ok();
    git(repo).args(["commit", "-qm", "a commit"]).ok();
}

/// What cargo prints to stdout in a lease.
fn cargo(lease: &LeaseGuard, args: &[&str]) -> String {
    let attachment = &lease.lease().attachment;
    let output = truth::cargo(&lease.path(), &attachment.env).args(args).output();
    let output = output.expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// How many compilations of Rust the server answered from the cache, and how many it did itself.
fn counts(lease: &LeaseGuard, program: &Path) -> (u64, u64) {
    let output = Command::new(program)
        .args(["--show-stats", "--stats-format=json"])
        .envs(&lease.lease().attachment.env)
        .output()
        .expect("sccache runs");
    let stats: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let count = |name: &str| stats["stats"][name]["counts"]["Rust"].as_u64().unwrap_or_default();
    (count("cache_hits"), count("cache_misses"))
}

async fn release(lease: LeaseGuard) {
    lease.release(Release::default()).await.expect("the lease is live");
}

#[tokio::test]
async fn what_one_compiled_the_next_one_finds() {
    let Some(program) = program() else { return };
    let bench = Bench::new(Some(&program), &[]);
    let one = bench.lease().await;
    let attachment = &one.lease().attachment;
    assert_eq!((attachment.strategy.as_str(), attachment.warm), (Sccache::NAME, false));
    assert_eq!(cargo(&one, &["run", "-q"]), "leaf\n");
    assert_eq!(counts(&one, &program), (0, 1), "only what is of the registry");
    let other = bench.lease().await;
    assert!(other.lease().attachment.warm);
    assert_eq!(cargo(&other, &["run", "-q"]), "leaf\n");
    assert_eq!(counts(&other, &program), (1, 1));
    // Incrementally, as far as it is the workspace's own.
    let state = fs::read_dir(other.path().join("target/debug/incremental")).expect("there is one");
    assert_ne!(state.count(), 0);

    let used = bench.cache.usage().await.expect("it can be told");
    assert!(used > 0);
    assert_eq!(bench.cache.trim(used).await.expect("trimmed"), 0, "it fits already");
    assert_ne!(bench.cache.trim(0).await.expect("trimmed"), 0);
    let store = bench.pool_dir().join("cache/sccache/store");
    assert_eq!(fs::read_dir(store).expect("it is there").count(), 0);
    eventually("the server ends", || servers(&bench.pool_dir()).is_empty());
    // There is none now, and nothing in the cache. The next build starts one.
    cargo(&other, &["clean"]);
    assert_eq!(cargo(&other, &["run", "-q"]), "leaf\n");
    assert_eq!(counts(&other, &program), (0, 1));
    assert_ne!(bench.cache.usage().await.expect("it can be told"), 0);
    release(one).await;
    assert!(!servers(&bench.pool_dir()).is_empty(), "the other one still needs it");
    release(other).await;
    bench.end().await;
}

/// A slot is used again at its path. What a macro made of a file there, which only the macro knows of,
/// must not come back with it, even if the slot's `target` is gone.
#[tokio::test]
async fn what_a_macro_read_is_read_again_at_the_same_path() {
    let Some(program) = program() else { return };
    let bench = Bench::new(Some(&program), &[]);
    let repo = bench.repo();
    let member =
        "[workspace]\nmembers = [\"shape\"]\n[dependencies]\nshape = { path = \"shape\" }\n";
    write(&repo.join("Cargo.toml"), &manifest("app", member));
    write(&repo.join("shape/Cargo.toml"), &manifest("shape", "[lib]\nproc-macro = true\n"));
    let expand = "let path = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap() + \"/word.txt\";\n    \
                  format!(\"{:?}\", std::fs::read_to_string(path).unwrap()).parse().unwrap()";
    let shape = format!(
        "use proc_macro::TokenStream;\n\n#[proc_macro]\n\
         pub fn word(_: TokenStream) -> TokenStream {{\n    {expand}\n}}\n"
    );
    write(&repo.join("shape/src/lib.rs"), &shape);
    write(&repo.join("src/lib.rs"), "pub const WORD: &str = shape::word!();\n");
    write(&repo.join("src/main.rs"), "fn main() {\n    println!(\"{}\", app::WORD);\n}\n");
    fs::remove_file(repo.join("Cargo.lock")).expect("removed");
    let lock = truth::cargo(&repo, &BTreeMap::new()).arg("generate-lockfile").output();
    assert!(lock.expect("cargo runs").status.success());
    let mut places = Vec::new();
    for word in ["one", "two"] {
        write(&repo.join("word.txt"), word);
        commit(&repo);
        // In a session, the slot is kept.
        let session = Some((SessionId::new("s").expect("valid"), None));
        let request = Request { session, ..Request::new("a test") };
        let lease = bench.pool.acquire(request).await.expect("there is room");
        let _ = fs::remove_dir_all(lease.path().join("target"));
        assert_eq!(cargo(&lease, &["run", "-q", "--release"]).trim(), word);
        places.push(lease.path());
        release(lease).await;
    }
    assert_eq!(places[0], places[1], "nothing is tested");
    bench.end().await;
}

#[tokio::test]
async fn an_environment_that_wants_incremental_builds_does_not_break_them() {
    let Some(program) = program() else { return };
    let bench = Bench::new(Some(&program), &[]);
    let lease = bench.lease().await;
    let mut cargo = truth::cargo(&lease.path(), &lease.lease().attachment.env);
    let ran = cargo.args(["run", "-q"]).env("CARGO_INCREMENTAL", "1").output();
    let ran = ran.expect("cargo runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(counts(&lease, &program), (0, 1));
    release(lease).await;
    bench.end().await;
}

/// A program that is to pass for sccache.
#[cfg(unix)]
fn script(dir: &Path, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("sccache");
    write(&path, &format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    path
}

#[cfg(unix)]
#[tokio::test]
async fn without_one_that_works_builds_are_private() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let broken =
        script(&dir.path().join("broken"), "echo sccache: error: out of order >&2; exit 2");
    let old = script(&dir.path().join("old"), "exit 0");
    let gone = dir.path().join("gone/sccache");
    let cases = [
        (None, "not installed"),
        (Some(gone.as_path()), "can't be started"),
        (Some(broken.as_path()), "out of order"),
        (Some(old.as_path()), "too old"),
    ];
    for (program, why) in cases {
        let bench = Bench::new(program, &[]);
        let lease = bench.lease().await;
        let attachment = &lease.lease().attachment;
        assert_eq!(attachment.strategy, Private::NAME);
        let reason = attachment.reason.as_deref().unwrap_or_default();
        assert!(reason.starts_with("sccache can't be used: ") && reason.contains(why), "{reason}");
        assert!(attachment.env.is_empty() && attachment.writable_roots.is_empty());
        assert_eq!(cargo(&lease, &["run", "-q"]), "leaf\n");
        release(lease).await;
        bench.end().await;
    }
}

/// A program of another name gets what sccache would, and no server.
#[cfg(unix)]
#[tokio::test]
async fn another_program_may_stand_in() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let seen = dir.path().join("seen");
    let note = format!("case \"$*\" in *--crate-name*) echo \"$*\" >> {};; esac", seen.display());
    let sccache = script(dir.path(), &format!("{note}\nexec \"$@\""));
    let program = dir.path().join("another");
    fs::rename(sccache, &program).expect("renamed");
    let bench = Bench::new(Some(&program), &[("SCCACHE_REDIS", "redis://nowhere")]);
    let lease = bench.lease().await;
    assert_eq!(lease.lease().attachment.strategy, Sccache::NAME);
    assert_eq!(cargo(&lease, &["run", "-q"]), "leaf\n");
    let calls = fs::read_to_string(&seen).expect("it was called");
    let calls: Vec<&str> = calls.lines().collect();
    assert!(matches!(calls[..], [call] if call.contains("--crate-name leaf")), "{calls:?}");
    // Gone in the middle of a lease.
    fs::remove_file(&program).expect("removed");
    cargo(&lease, &["clean"]);
    assert_eq!(cargo(&lease, &["run", "-q"]), "leaf\n");
    assert!(servers(&bench.pool_dir()).is_empty());
    release(lease).await;
    bench.end().await;
}

/// A Redis at a free port of this machine, which keeps nothing.
struct Redis {
    process: Child,
    url: String,
}

impl Redis {
    fn start(dir: &Path) -> Option<Self> {
        let program = on_path("redis-server")?;
        let log = dir.join("redis.log");
        // Somebody else may take a free port before it does.
        for _ in 0..10 {
            let port = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr());
            let port = port.expect("a free port").port().to_string();
            let mut process = Command::new(&program)
                .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                .arg("--dir")
                .arg(dir)
                .arg("--logfile")
                .arg(&log)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .expect("it starts");
            let mut ready = false;
            eventually("Redis is ready or has failed", || {
                ready = fs::read_to_string(&log).is_ok_and(|log| log.contains("eady to accept"));
                ready || process.try_wait().expect("it can be asked").is_some()
            });
            let found = Self { process, url: format!("redis://127.0.0.1:{port}") };
            if ready {
                return Some(found);
            }
            fs::remove_file(&log).expect("it wrote why");
        }
        panic!("no port is free");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Two pools that have nothing in common but what a fleet has: a Redis, and crates at the same path.
#[tokio::test]
async fn a_fleet_shares_one_cache() {
    let Some(program) = program() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let Some(redis) = Redis::start(dir.path()) else { return };
    let env = [("SCCACHE_REDIS_ENDPOINT", redis.url.as_str())];
    let (one, other) = (Bench::new(Some(&program), &env), Bench::new(Some(&program), &env));
    // The same crate at the same place.
    let config = fs::read_to_string(one.root.join(".cargo/config.toml")).expect("there is one");
    write(&other.root.join(".cargo/config.toml"), &config);
    for (bench, expected) in [(&one, (0, 1)), (&other, (1, 0))] {
        let lease = bench.lease().await;
        let attachment = &lease.lease().attachment;
        assert_eq!(attachment.strategy, Sccache::NAME, "{attachment:?}");
        assert!(!attachment.env.contains_key("SCCACHE_DIR"));
        assert!(!attachment.env.values().any(|value| value.contains(&redis.url)));
        assert_eq!(cargo(&lease, &["run", "-q"]), "leaf\n");
        assert_eq!(counts(&lease, &program), expected);
        assert_eq!(bench.cache.usage().await.expect("it can be told"), 0);
        assert_eq!(bench.cache.trim(0).await.expect("nothing to trim"), 0);
        release(lease).await;
    }
    one.end().await;
    other.end().await;
}
