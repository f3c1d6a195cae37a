//! What a lease costs, beside `git worktree add` and `git worktree remove` in the same run, on a
//! repository of 2,000 files that is made for it. Run it with `cargo bench -p git-backend`; with
//! `WTPOOL_BENCH_REPO=/a/repository` it uses (a clone of) a real one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use git_backend::{GitIsolator, GitSettings, Repository};
use pool_core::{Pool, PruneOptions, Release, Request, SessionId, Settings};
use tokio::runtime::Runtime;

const FILES: usize = 2_000;
const SLOTS: u32 = 100;

struct Ground {
    _scratch: tempfile::TempDir,
    repo: PathBuf,
    pool_dir: PathBuf,
}

fn git(dir: &Path, args: &[&str]) {
    let status = Command::new("git")
        .current_dir(dir)
        .args(["-c", "user.name=bench", "-c", "user.email=bench@localhost"])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("git runs");
    assert!(status.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&status.stderr));
}

/// Beside the build output, so that it is on a disk and not in memory.
fn ground() -> Ground {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
    let repo = scratch.path().join("repo");
    match std::env::var_os("WTPOOL_BENCH_REPO") {
        Some(real) => {
            let real = PathBuf::from(real);
            let real = real.to_str().expect("a path in UTF-8");
            git(scratch.path(), &["clone", "-q", "--no-hardlinks", real, "repo"]);
        }
        None => generate(&repo),
    }
    let pool_dir = scratch.path().join("pool");
    Ground { _scratch: scratch, repo, pool_dir }
}

fn generate(repo: &Path) {
    std::fs::create_dir(repo).expect("a new directory");
    git(repo, &["init", "-q", "-b", "main"]);
    for n in 0..FILES {
        let dir = repo.join(format!("crates/c{}/src", n / 50));
        std::fs::create_dir_all(&dir).expect("a directory");
        let text = format!("// file {n}\n").repeat(100);
        std::fs::write(dir.join(format!("m{n}.rs")), text).expect("a file");
    }
    git(repo, &["add", "."]);
    git(repo, &["commit", "-q", "-m", "base"]);
}

fn open(ground: &Ground, keep_warm: u32) -> Pool {
    let repository = Repository::find(&ground.repo).expect("a repository");
    let isolator = GitIsolator::open(&repository, &ground.pool_dir, GitSettings::default());
    Pool::builder(Arc::new(isolator.expect("a backend")))
        .settings(Settings { max_leases: SLOTS + 10, keep_warm, ..Settings::default() })
        .open()
        .expect("a pool")
}

fn request() -> Request {
    let session = SessionId::new("bench").expect("valid");
    Request { session: Some((session, None)), ..Request::new("bench") }
}

#[derive(Clone, Copy)]
enum Part {
    Acquire,
    Release,
}

/// Times one part of `rounds` leases.
async fn leases(pool: &Pool, rounds: u64, part: Part) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..rounds {
        let begin = Instant::now();
        let lease = pool.acquire(request()).await.expect("a lease");
        let acquired = begin.elapsed();
        let begin = Instant::now();
        lease.release(Release::default()).await.expect("released");
        spent += match part {
            Part::Acquire => acquired,
            Part::Release => begin.elapsed(),
        };
        // What the reaper does in the background, outside of what is timed.
        pool.isolator().sweep(&|_| ()).await.expect("swept");
    }
    spent
}

fn bench(c: &mut Criterion) {
    let ground = ground();
    let runtime = Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("lease");
    group.sample_size(10).measurement_time(Duration::from_secs(5));

    for (name, verb) in [("git-worktree-add", true), ("git-worktree-remove", false)] {
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let begin = Instant::now();
                    git(&ground.repo, &["worktree", "add", "-q", "-b", "bench", "../bench"]);
                    let added = begin.elapsed();
                    let begin = Instant::now();
                    git(&ground.repo, &["worktree", "remove", "../bench"]);
                    spent += if verb { added } else { begin.elapsed() };
                    git(&ground.repo, &["branch", "-q", "-D", "bench"]);
                }
                spent
            });
        });
    }
    for (name, keep_warm, part) in [
        ("acquire-cold", 0, Part::Acquire),
        ("acquire-warm", 4, Part::Acquire),
        ("release-and-remove", 0, Part::Release),
        ("release-and-keep", 4, Part::Release),
    ] {
        let pool = open(&ground, keep_warm);
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| runtime.block_on(leases(&pool, rounds, part)));
        });
        let all = PruneOptions { all: true, ..PruneOptions::default() };
        runtime.block_on(pool.prune(all, &|_| ())).expect("pruned");
    }
    let pool = open(&ground, SLOTS);
    runtime.block_on(pool.warm(SLOTS, None, None, &|| ())).expect("warmed");
    group.bench_function(format!("reconcile-{SLOTS}-idle-slots"), |b| {
        b.iter_custom(|rounds| {
            runtime.block_on(async {
                let begin = Instant::now();
                for _ in 0..rounds {
                    pool.reconcile().await.expect("reconciled");
                }
                begin.elapsed()
            })
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
