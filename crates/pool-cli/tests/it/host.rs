//! A host that embeds the library, as its documentation says, beside the program.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::time::Duration;

use git_backend::{GitIsolator, GitSettings, Repository};
use pool_core::{MemoryStore, Owner, Pool, Release, Request, SessionId};

use crate::bench::{Bench, finish};

/// A process of this test binary that plays [`as_a_host`].
struct Host {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Host {
    fn start(bench: &Bench, kind: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        let args = ["--exact", "host::as_a_host", "--ignored", "--nocapture", "--test-threads=1"];
        let mut command = bench.command(program.to_str().expect("UTF-8"), &args);
        let child = command.env("HOST_OF_TEST", kind).stdin(Stdio::piped()).spawn();
        let mut child = child.expect("start the host");
        let (to, from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, to, from: BufReader::new(from) }
    }

    /// The next thing that it says.
    fn says(&mut self) -> String {
        for line in (&mut self.from).lines() {
            if let Some((_, said)) = line.expect("UTF-8").split_once("host: ") {
                return said.to_owned();
            }
        }
        panic!("the host has ended");
    }

    fn asked(&mut self, what: &str) -> String {
        writeln!(self.to, "{what}").expect("the host listens");
        self.says()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
#[ignore = "other tests run it as a process of its own"]
#[expect(clippy::print_stdout, reason = "it is a program of its own")]
async fn as_a_host() {
    let Ok(kind) = std::env::var("HOST_OF_TEST") else { return };
    let here = std::env::current_dir().expect("a working directory");
    let repository = Repository::find(&here).expect("found");
    let settings = GitSettings { user_config: false, ..GitSettings::default() };
    let opened = GitIsolator::open(&repository, &repository.default_pool_dir(), settings);
    let builder = Pool::builder(Arc::new(opened.expect("opened")));
    let builder = match kind.as_str() {
        "in memory" => builder.store(Arc::new(MemoryStore::new())),
        _ => builder,
    };
    let pool = match builder.open() {
        Ok(pool) => pool,
        Err(error) => return println!("host: {error}"),
    };
    let request = match kind.as_str() {
        "in a session" => Request {
            session: Some((SessionId::new("nightly").expect("valid"), None)),
            owner: Owner::Detached,
            ttl: Some(Duration::from_secs(3600)),
            ..Request::new("the host")
        },
        _ => Request::new("the host"),
    };
    let lease = pool.acquire(request).await.expect("leased");
    println!("host: {}", lease.lease().id);
    for line in std::io::stdin().lines() {
        match line.expect("a line").as_str() {
            "reconcile" => {
                println!("host: {:?}", pool.reconcile().await.expect("reconciled").done);
            }
            _ => break,
        }
    }
    let report = lease.release(Release::default()).await.expect("released");
    println!("host: {:?}, by another: {}", report.reason, report.by_another);
}

fn live(bench: &Bench) -> usize {
    bench.slots().iter().filter(|slot| slot["state"] == "leased").count()
}

#[test]
fn host_and_program_end_neither_the_others_leases() {
    let bench = Bench::new();
    let mut host = Host::start(&bench, "as documented");
    let lease = host.says();
    let mine = bench.json(&["acquire", "--name", "mine"]);
    for _ in 0..3 {
        assert_eq!(host.asked("reconcile"), "[]");
        bench.ok(&["prune"]);
        assert_eq!(live(&bench), 2, "{:?}", bench.slots());
    }
    assert_eq!(bench.run(&["release", &lease]).code, Some(5), "its holder is seen to live");
    assert_eq!(bench.json(&["show", &lease])["holder"], "the host");
    assert_eq!(host.asked("release"), "Released, by another: false");
    bench.ok(&["release", mine["lease"].as_str().expect("an id")]);
}

#[test]
fn program_ends_the_lease_of_a_dead_host() {
    let bench = Bench::new();
    let mut host = Host::start(&bench, "as documented");
    let lease = host.says();
    let _ = host.child.kill();
    let _ = host.child.wait();
    bench.ok(&["prune"]);
    let shown = bench.json(&["show", &lease]);
    assert!(shown["reason"] == "holder-gone" || shown["state"] == "lingering", "{shown}");
}

#[test]
fn host_learns_that_the_program_ended_its_lease() {
    let bench = Bench::new();
    let mut host = Host::start(&bench, "in a session");
    host.says();
    bench.ok(&["end-session", "nightly"]);
    assert_eq!(host.asked("release"), "SessionEnded, by another: true");
}

#[test]
fn host_with_records_in_memory_and_program_refuse_each_other() {
    let bench = Bench::new();
    let mut host = Host::start(&bench, "in memory");
    assert_eq!(host.says().len(), 26, "a lease, since no pool was there");
    for verb in [&["acquire"][..], &["list"], &["prune"], &["release", "some"]] {
        let ran = bench.run(verb);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{verb:?}: {ran:?}");
        assert!(ran.err.contains("keeps its records in memory"), "{verb:?}: {ran:?}");
    }
    assert_eq!(host.asked("release"), "Released, by another: false");
    drop(host);

    let path = bench.acquire(&["--name", "mine"]);
    let mut host = Host::start(&bench, "in memory");
    let said = host.says();
    assert!(said.contains("cannot"), "{said}");
    assert!(path.is_dir() && live(&bench) == 1);
    bench.kill_reaper();
    let said = Host::start(&bench, "in memory").says();
    assert!(said.contains("there is a pool on disk"), "{said}");
    assert!(path.is_dir() && live(&bench) == 1);
}

#[test]
fn host_of_another_repository_is_refused() {
    let (bench, other) = (Bench::new(), Bench::new());
    bench.acquire(&["--name", "mine"]);
    let repository = Repository::find(&other.repo()).expect("found");
    let opened = GitIsolator::open(&repository, &bench.pool(), GitSettings::default());
    let error = opened.expect_err("the pool is not that repository's");
    assert!(error.to_string().contains("belongs to another repository"), "{error}");
    let elsewhere = GitIsolator::open(&repository, other.home.path(), GitSettings::default());
    drop(elsewhere.expect("an empty directory will do"));
    crate::bench::write(other.home.path().join("precious"), "work");
    let opened = GitIsolator::open(&repository, other.home.path(), GitSettings::default());
    assert!(opened.expect_err("not empty").to_string().contains("is not a pool"));
}

/// A verb that only looks makes no pool, and takes in nothing of one that is made meanwhile.
#[test]
fn looking_where_no_pool_is_makes_none() {
    let bench = Bench::new();
    for verb in [&["list"][..], &["prune"], &["prune", "--all"], &["events"], &["doctor"]] {
        let ran = finish(&mut bench.wtpool(verb));
        assert!(!bench.pool().exists(), "{verb:?}: {ran:?}");
    }
    std::fs::create_dir_all(bench.pool()).expect("created");
    bench.ok(&["prune"]);
    let left = std::fs::read_dir(bench.pool()).expect("listed").count();
    assert_eq!(left, 0, "an empty directory stays one");
}
