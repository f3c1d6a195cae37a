//! Claims and processes, with real files and real children.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pool_core::{BootId, ClaimKey, ErrorKind, FileLiveness, Liveness, ProcessIdentity, Vital};

fn key(name: &str) -> ClaimKey {
    ClaimKey::new(name).unwrap()
}

/// A child that other tests start at this moment has copies of all descriptors until it executes
/// its program, so a claim may outlive its drop for an instant.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("after a minute still not: {what}");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = dir
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_claim_is_held_until_it_is_dropped() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("claims");
    let (mine, theirs) = (FileLiveness::new(&dir), FileLiveness::new(&dir));
    assert_eq!(theirs.holds(&key("a")), Vital::Gone);
    assert!(!dir.exists(), "looking creates nothing");

    let claim = mine.claim(&key("a")).unwrap();
    assert_eq!(claim.key(), &key("a"));
    assert_eq!(theirs.holds(&key("a")), Vital::Alive);
    assert_eq!(mine.holds(&key("a")), Vital::Alive);
    assert_eq!(theirs.holds(&key("b")), Vital::Gone);

    theirs.forget(&key("a"));
    assert_eq!(theirs.sweep().unwrap(), 0);
    assert_eq!(theirs.holds(&key("a")), Vital::Alive, "a held claim is never forgotten");
    assert_eq!(names(&dir), ["a"]);

    drop(claim);
    eventually("the claim is gone", || theirs.holds(&key("a")) == Vital::Gone);
    theirs.forget(&key("a"));
    assert!(names(&dir).is_empty());
}

#[test]
fn a_key_is_claimed_once() {
    let tmp = tempfile::tempdir().unwrap();
    let liveness = FileLiveness::new(tmp.path());
    let first = liveness.claim(&key("a")).unwrap();
    let error = liveness.claim(&key("a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(&*tmp.path().to_string_lossy()), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(liveness.holds(&key("a")), Vital::Alive);
    assert_eq!(names(tmp.path()), ["a"], "the second attempt leaves nothing behind");
    drop(first);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("file");
    std::fs::write(&file, "").unwrap();
    let liveness = FileLiveness::new(file.join("claims"));
    let error = liveness.claim(&key("a")).unwrap_err();
    assert!(error.to_string().contains("claims"), "{error}");
    // Not a directory: nobody can know what is below it.
    assert_eq!(liveness.holds(&key("a")), Vital::Unknown);
}

#[test]
fn a_sweep_takes_dead_claims_only() {
    let tmp = tempfile::tempdir().unwrap();
    let liveness = FileLiveness::new(tmp.path());
    let held = liveness.claim(&key("held")).unwrap();
    drop(liveness.claim(&key("dead")).unwrap());
    std::fs::write(tmp.path().join(".claim-half"), "").unwrap();
    std::fs::write(tmp.path().join(".somebody-else"), "").unwrap();
    std::fs::create_dir(tmp.path().join("directory")).unwrap();

    let mut swept = 0;
    eventually("both are swept", || {
        swept += liveness.sweep().unwrap();
        swept == 2
    });
    assert_eq!(names(tmp.path()), [".somebody-else", "directory", "held"]);
    assert_eq!(liveness.holds(&key("held")), Vital::Alive);
    drop(held);
}

#[test]
fn neither_lookers_nor_sweepers_disturb_a_claimer() {
    let tmp = tempfile::tempdir().unwrap();
    let liveness = FileLiveness::new(tmp.path());
    let keys: Vec<_> = (0..200).map(|n| key(&format!("k{n}"))).collect();
    let done = AtomicBool::new(false);
    // They outlive the scope, and thus the last look.
    let claims: Vec<_> = std::thread::scope(|scope| {
        for n in 0..4 {
            let (liveness, keys, done) = (&liveness, &keys, &done);
            scope.spawn(move || {
                // Once seen alive, a claim that is never dropped must not be seen dead.
                let mut alive = vec![false; keys.len()];
                while !done.load(Ordering::Relaxed) {
                    if n == 0 {
                        liveness.sweep().unwrap();
                    }
                    for (key, alive) in keys.iter().zip(&mut alive) {
                        let now = liveness.holds(key);
                        assert!(now == Vital::Alive || !*alive, "{key}: {now:?} after alive");
                        *alive |= now == Vital::Alive;
                    }
                }
            });
        }
        let claims = keys
            .iter()
            .map(|key| {
                let claim = liveness.claim(key);
                (claim, liveness.holds(key))
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        claims
    });
    for (claim, seen) in &claims {
        assert!(claim.is_ok(), "{claim:?}");
        assert_eq!(*seen, Vital::Alive);
    }
}

#[test]
fn this_process_runs() {
    let liveness = FileLiveness::new("unused");
    let me = liveness.identify(std::process::id()).unwrap();
    assert_eq!(me.pid, std::process::id());
    assert_eq!(liveness.runs(&me), Vital::Alive);
    assert_eq!(liveness.identify(me.pid), Some(me.clone()), "identity does not change");

    // By more than a tick of the clock: ids are used again only when all others were.
    let earlier = ProcessIdentity { start_time: me.start_time - 2, ..me };
    assert_eq!(liveness.runs(&earlier), Vital::Gone, "the process id was used again");
    // Larger than the kernel ever gives out.
    assert_eq!(liveness.identify(u32::MAX), None);
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_of_another_boot_is_gone() {
    let liveness = FileLiveness::new("unused");
    let me = liveness.identify(std::process::id()).unwrap();
    let before = ProcessIdentity { boot: BootId("before".into()), ..me };
    assert_eq!(liveness.runs(&before), Vital::Gone);
}

#[cfg(target_os = "linux")]
#[test]
fn whether_a_process_of_another_container_runs_is_unknown() {
    let liveness = FileLiveness::new("unused");
    let me = liveness.identify(std::process::id()).unwrap();
    let namespace = me.namespace.map(|own| own + 1);
    assert!(namespace.is_some());
    let other = ProcessIdentity { pid: u32::MAX, namespace, ..me.clone() };
    assert_eq!(liveness.runs(&other), Vital::Unknown);
    let before = ProcessIdentity { boot: BootId("before".into()), ..other };
    assert_eq!(liveness.runs(&before), Vital::Gone);
    // As it was written down by those who did not look at namespaces yet.
    let old = ProcessIdentity { namespace: None, ..me };
    assert_eq!(liveness.runs(&old), Vital::Alive);
}

#[cfg(unix)]
mod children {
    use std::process::{Child, Command, Stdio};

    use command_fds::{CommandFdExt as _, FdMapping};

    use super::*;

    /// Ends with the test, however that ends.
    struct Sleeper(Child);

    impl Sleeper {
        fn command() -> Command {
            let mut command = Command::new("sleep");
            command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        }

        fn start(command: &mut Command) -> Self {
            Self(command.spawn().unwrap())
        }

        fn kill(&mut self) {
            self.0.kill().unwrap();
        }

        fn end(&mut self) {
            self.kill();
            self.0.wait().unwrap();
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    #[test]
    fn a_child_that_inherits_the_file_keeps_the_claim() {
        let tmp = tempfile::tempdir().unwrap();
        let liveness = FileLiveness::new(tmp.path());
        let claim = liveness.claim(&key("a")).unwrap();
        let other = liveness.claim(&key("other")).unwrap();

        let mut command = Sleeper::command();
        let parent_fd = claim.file().unwrap().try_clone().unwrap().into();
        command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).unwrap();
        let mut child = Sleeper::start(&mut command);
        // The command itself keeps a duplicate of the descriptor.
        drop(command);
        drop(claim);
        drop(other);

        eventually("what was not handed over is gone", || {
            liveness.holds(&key("other")) == Vital::Gone
        });
        assert_eq!(liveness.holds(&key("a")), Vital::Alive);
        liveness.forget(&key("a"));
        assert_eq!(liveness.holds(&key("a")), Vital::Alive);

        child.end();
        eventually("the claim dies with the child", || liveness.holds(&key("a")) == Vital::Gone);
        liveness.forget(&key("a"));
        assert!(!tmp.path().join("a").exists());
    }

    #[test]
    fn a_killed_child_is_gone_even_before_it_is_reaped() {
        let liveness = FileLiveness::new("unused");
        let mut child = Sleeper::start(&mut Sleeper::command());
        let identity = liveness.identify(child.0.id()).unwrap();
        assert_eq!(liveness.runs(&identity), Vital::Alive);

        child.kill();
        eventually("the zombie counts as gone", || liveness.runs(&identity) == Vital::Gone);
        assert_eq!(liveness.identify(identity.pid), None);
        child.end();
        assert_eq!(liveness.runs(&identity), Vital::Gone);
    }

    /// The ids of those who stand in `dir`, our own children only: what else runs here is
    /// not for a test to say.
    fn standing(dir: &Path) -> Vec<u32> {
        let liveness = FileLiveness::new("unused");
        let mut found = liveness.occupants(&[dir]).unwrap();
        assert_eq!(found.len(), 1);
        found.remove(0).into_iter().map(|occupant| occupant.pid).collect()
    }

    #[test]
    fn who_stands_in_a_directory_or_below_is_found() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        for dir in ["1/deep/er", "10", "2"] {
            std::fs::create_dir_all(at(dir)).unwrap();
        }
        std::os::unix::fs::symlink("1", at("link")).unwrap();
        let mut inside = Sleeper::start(Sleeper::command().current_dir(at("1/deep/er")));
        let beside = Sleeper::start(Sleeper::command().current_dir(at("10")));
        let (inside_pid, beside_pid) = (inside.0.id(), beside.0.id());

        let liveness = FileLiveness::new("unused");
        let (one, ten, two, link, absent) = (at("1"), at("10"), at("2"), at("link"), at("absent"));
        let found = liveness.occupants(&[&one, &ten, &two, &link, &absent]).unwrap();
        let pids: Vec<Vec<u32>> =
            found.iter().map(|of| of.iter().map(|occupant| occupant.pid).collect()).collect();
        assert_eq!(pids, [vec![inside_pid], vec![beside_pid], vec![], vec![inside_pid], vec![]]);
        assert_eq!(found[0][0].name, "sleep");
        assert_eq!(found[0][0].to_string(), format!("process {inside_pid} (sleep)"));

        inside.kill();
        eventually("a zombie stands nowhere", || standing(&one).is_empty());
        assert!(liveness.occupants(&[]).unwrap().is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn who_stands_in_a_removed_directory_is_found() {
        let tmp = tempfile::tempdir().unwrap();
        let slot = tmp.path().join("slot");
        let odd = tmp.path().join("odd (deleted)");
        std::fs::create_dir_all(slot.join("src")).unwrap();
        std::fs::create_dir(&odd).unwrap();
        let below = Sleeper::start(Sleeper::command().current_dir(slot.join("src")));
        let oddly = Sleeper::start(Sleeper::command().current_dir(&odd));

        std::fs::remove_dir(slot.join("src")).unwrap();
        assert_eq!(standing(&slot), [below.0.id()]);
        std::fs::remove_dir(&slot).unwrap();
        assert_eq!(standing(&slot), [below.0.id()]);

        assert_eq!(standing(&odd), [oddly.0.id()], "the name only looks like the kernel's mark");
        std::fs::remove_dir(&odd).unwrap();
        assert_eq!(standing(&odd), [oddly.0.id()]);
    }

    /// A program with two threads. The first ends, or the second stands in a directory of its own.
    #[cfg(target_os = "linux")]
    const TWO_THREADS: &str = r#"
        #define _GNU_SOURCE
        #include <pthread.h>
        #include <sched.h>
        #include <unistd.h>
        static void *second(void *dir) {
            if (dir && (unshare(CLONE_FS) || chdir(dir))) _exit(1);
            write(1, "", 1);
            for (;;) pause();
        }
        int main(int argc, char **argv) {
            pthread_t thread;
            pthread_create(&thread, 0, second, argc > 1 ? argv[1] : 0);
            if (argc == 1) pthread_exit(0);
            for (;;) pause();
        }
    "#;

    /// One that runs, with its second thread in place.
    #[cfg(target_os = "linux")]
    fn two_threads(tmp: &Path, change: impl FnOnce(&mut Command) -> &mut Command) -> Sleeper {
        use std::io::Read as _;
        let (source, program) = (tmp.join("two.c"), tmp.join("two"));
        std::fs::write(&source, TWO_THREADS).unwrap();
        let built = Command::new("cc").arg("-pthread").arg("-o").args([&program, &source]).status();
        assert!(built.unwrap().success(), "the linker that Rust uses builds C, too");
        let mut command = Command::new(program);
        let mut child = change(&mut command).stdout(Stdio::piped()).spawn().unwrap();
        let said = child.stdout.take().unwrap().read_exact(&mut [0]);
        let sleeper = Sleeper(child);
        said.unwrap();
        sleeper
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_lives_as_long_as_any_of_its_threads() {
        let tmp = tempfile::tempdir().unwrap();
        let slot = tmp.path().join("slot");
        std::fs::create_dir(&slot).unwrap();
        let mut child = two_threads(tmp.path(), |command| command.current_dir(&slot));
        let stat = format!("/proc/{}/stat", child.0.id());
        eventually("its first thread has ended", || {
            std::fs::read_to_string(&stat).unwrap().contains(") Z ")
        });
        let liveness = FileLiveness::new("unused");
        let identity = liveness.identify(child.0.id()).unwrap();
        assert_eq!(liveness.runs(&identity), Vital::Alive);
        assert_eq!(standing(&slot), [child.0.id()]);
        child.kill();
        eventually("all of it is gone", || liveness.runs(&identity) == Vital::Gone);
        assert_eq!(standing(&slot), [0; 0]);
        child.end();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_stands_elsewhere_than_its_process_is_found() {
        let tmp = tempfile::tempdir().unwrap();
        let slot = tmp.path().join("slot");
        std::fs::create_dir(&slot).unwrap();
        let child = two_threads(tmp.path(), |command| command.arg(&slot));
        assert_eq!(standing(&slot), [child.0.id()]);
    }

    /// So deep that the kernel does not say where.
    #[cfg(target_os = "linux")]
    #[test]
    fn who_stands_very_deep_is_found_and_is_in_nobody_elses_way() {
        use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
        use std::os::fd::AsRawFd as _;
        let tmp = tempfile::tempdir().unwrap();
        let (slot, other) = (tmp.path().join("slot"), tmp.path().join("other"));
        std::fs::create_dir_all(&slot).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        let name = "d".repeat(240);
        let open = |dir: &std::os::fd::OwnedFd, name: &str| {
            openat(dir, name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
        };
        let mut deep = openat(CWD, &slot, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..20 {
            mkdirat(&deep, &name, Mode::RWXU).unwrap();
            deep = open(&deep, &name);
        }
        let there = format!("/proc/self/fd/{}", deep.as_raw_fd());
        let child = Sleeper(Command::new("sleep").arg("600").current_dir(there).spawn().unwrap());
        assert_eq!(standing(&slot), [child.0.id()]);
        assert_eq!(standing(&other), [0; 0]);
    }

    /// As an agent in a container does.
    #[cfg(target_os = "linux")]
    #[test]
    fn who_stands_in_a_directory_that_is_mounted_elsewhere_is_found() {
        use std::io::Read as _;
        let tmp = tempfile::tempdir().unwrap();
        let (slot, elsewhere) = (tmp.path().join("slot"), tmp.path().join("else where"));
        std::fs::create_dir_all(slot.join("src")).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        for mounted in [slot.clone(), slot.join("src")] {
            let script =
                "mount --bind \"$1\" \"$2\" && cd \"$2\" && echo in place && exec sleep 1000";
            let mut child = Command::new("unshare")
                .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
                .args([&mounted, &elsewhere])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = String::new();
            let mut out = child.stdout.take().unwrap();
            let child = Sleeper(child);
            // The end of it, where nothing can be mounted; there is nothing to be seen then.
            while !said.ends_with('\n') {
                let mut byte = [0];
                match out.read(&mut byte).unwrap() {
                    0 => return,
                    _ => said.push(char::from(byte[0])),
                }
            }
            assert_eq!(standing(&slot), [child.0.id()], "{}", mounted.display());
            assert_eq!(standing(&elsewhere), [child.0.id()], "by its path");
        }
    }
}
