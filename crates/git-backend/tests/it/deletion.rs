//! What must not be reached by deleting: other places that a link or a mount leads to.

#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pool_core::{ErrorKind, Isolator, SlotId};

use crate::support::{Fixture, plan, proof, read, skip, write};

/// Whatever is mounted below a directory, wherever it was moved since, is unmounted in the end.
struct Mounts(PathBuf);

impl Mounts {
    fn mount(&self, args: &[&str], at: &Path) -> bool {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(args).arg(at).output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        if !mounted {
            skip("mounting is not permitted here");
        }
        mounted
    }

    fn all(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|point| point.starts_with(&self.0)).collect()
    }

    fn unmount(&self) {
        for point in self.all() {
            let _ = Command::new("umount").arg("-l").arg(point).output();
        }
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// A bind mount has the device number of what surrounds it: that alone would not tell it.
#[tokio::test]
async fn what_is_mounted_inside_stays_as_it_is() {
    for kind in ["bind", "tmpfs"] {
        let fixture = Fixture::new();
        let mounts = Mounts(fixture.root.path().canonicalize().unwrap());
        let isolator = fixture.isolator();
        let plan = plan(&isolator, 1, "mounted").await;
        isolator.provision(&plan).await.unwrap();
        let inside = isolator.place(SlotId(1)).join("target/debug/inside");
        let outside = mounts.0.join("outside");
        write(&outside, "deep/precious.txt", "precious");
        let args = match kind {
            "bind" => ["--bind", outside.to_str().unwrap()],
            _ => ["-ttmpfs", "tmpfs"],
        };
        if !mounts.mount(&args, &inside) {
            return;
        }
        write(&inside, "deep/precious.txt", "precious");
        write(&inside, "new.txt", "new");
        let precious = || {
            let [at] = mounts.all().try_into().expect("it stays mounted, in one place");
            let at: PathBuf = at;
            assert_eq!(read(at.join("deep/precious.txt")), "precious", "{kind}");
            assert_eq!(read(at.join("new.txt")), "new", "{kind}");
        };
        // Build outputs are nobody's work, so the slot may go; what is mounted there may not.
        let settled = proof(&isolator, &plan).await;
        isolator.dispose(settled).await.unwrap();
        for _ in 0..2 {
            let stopped = isolator.sweep(&|_| {}).await.unwrap_err();
            assert_eq!(stopped.kind(), ErrorKind::Busy, "{kind}: {stopped}");
            assert!(stopped.to_string().contains("inside"), "{stopped}");
            precious();
        }
        mounts.unmount();
        isolator.sweep(&|_| {}).await.unwrap();
        assert_eq!(fs::read_dir(fixture.pool_dir().join("trash")).unwrap().count(), 0);
        assert_eq!(read(outside.join("deep/precious.txt")), "precious");
    }
}

/// A mount point cannot be renamed. So the slot is not handed out with what is mounted there.
#[tokio::test]
async fn slot_whose_build_output_is_a_mount_point_is_not_used_again() {
    let fixture = Fixture::new();
    let mounts = Mounts(fixture.root.path().canonicalize().unwrap());
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "mounted").await;
    isolator.provision(&first).await.unwrap();
    let target = isolator.place(SlotId(1)).join("target");
    let outside = mounts.0.join("outside");
    write(&outside, "debug/app", "the last holder's");
    if !mounts.mount(&["--bind", outside.to_str().unwrap()], &target) {
        return;
    }
    let second = plan(&isolator, 1, "next").await;
    let settled = proof(&isolator, &first).await;
    isolator.recycle(&second, settled).await.unwrap_err();
    // As the pool does then.
    let settled = proof(&isolator, &second).await;
    isolator.dispose(settled).await.unwrap();
    assert!(!isolator.place(SlotId(1)).exists());
    isolator.provision(&second).await.unwrap();
    assert!(!target.exists());
    assert_eq!(read(outside.join("debug/app")), "the last holder's");
    mounts.unmount();
    assert_eq!(read(outside.join("debug/app")), "the last holder's");
}

#[tokio::test]
async fn a_slot_in_which_something_is_mounted_is_kept() {
    let fixture = Fixture::new();
    let mounts = Mounts(fixture.root.path().canonicalize().unwrap());
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "mounted").await;
    isolator.provision(&plan).await.unwrap();
    let inside = isolator.place(SlotId(1)).join("inside");
    let outside = mounts.0.join("outside");
    write(&outside, "precious.txt", "precious");
    if !mounts.mount(&["--bind", outside.to_str().unwrap()], &inside) {
        return;
    }
    let found = isolator.inspect(&plan).await.unwrap();
    let [unsavable] = found.losses.unsavable.as_slice() else { panic!("{:?}", found.losses) };
    assert!(unsavable.contains("another filesystem is mounted here"), "{unsavable}");
    assert_eq!(isolator.preserve(found).await.unwrap_err().kind(), ErrorKind::WouldLoseWork);
    assert_eq!(read(inside.join("precious.txt")), "precious");
    mounts.unmount();
    assert_eq!(isolator.inspect(&plan).await.unwrap().losses, Default::default());
}

/// Somebody swaps a directory for a link to elsewhere, again and again, while it is being deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_swapped_for_a_link_while_it_is_deleted_leads_nowhere() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let bin = fixture.pool_dir().join("trash/bin");
    let outside = fixture.pool_dir().with_file_name("outside");
    write(&outside, "precious.txt", "precious");
    let done = Arc::new(AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let (bin, done) = (bin.clone(), Arc::clone(&done));
        move || {
            let mut swaps = 0_u64;
            while !done.load(Ordering::Relaxed) {
                let swapped = renameat_with(
                    CWD,
                    bin.join("swapped"),
                    CWD,
                    bin.join("link"),
                    RenameFlags::EXCHANGE,
                );
                swaps += u64::from(swapped.is_ok());
            }
            swaps
        }
    });
    for _ in 0..100 {
        for n in 0..8 {
            write(&bin, &format!("swapped/{n}"), "");
        }
        let _ = std::os::unix::fs::symlink(&outside, bin.join("link"));
        // It may find that what it was about to delete is something else by now.
        let _ = isolator.sweep(&|_| {}).await;
        assert_eq!(read(outside.join("precious.txt")), "precious");
        let _ = fs::remove_file(bin.join("swapped"));
        let _ = fs::remove_file(bin.join("link"));
    }
    done.store(true, Ordering::Relaxed);
    assert!(swapper.join().unwrap() > 0, "nothing was ever swapped");
    assert_eq!(read(outside.join("precious.txt")), "precious");
    isolator.sweep(&|_| {}).await.unwrap();
}
