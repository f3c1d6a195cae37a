//! Deleting what was put into the trash.

use std::fs;
use std::sync::Arc;

use pool_core::{Isolator, SlotId};

use crate::support::{Fixture, plan, proof, read, write};

#[cfg(unix)]
#[tokio::test]
async fn trash_is_deleted_without_following_links_and_read_only_directories_are_no_obstacle() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "linked").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(SlotId(1));
    let outside = fixture.repo.parent().unwrap().join("outside");
    write(&outside, "precious.txt", "precious");
    let target = place.join("target");
    fs::create_dir(&target).unwrap();
    symlink(&outside, target.join("dir")).unwrap();
    symlink(outside.join("precious.txt"), target.join("file")).unwrap();
    write(&target, "ro/inner/file", "");
    write(&target, "sealed/file", "");
    fs::set_permissions(target.join("ro/inner"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(target.join("ro"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(target.join("sealed"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut deep = target.join("deep");
    for _ in 0..300 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();

    let settled = proof(&isolator, &plan).await;
    isolator.dispose(settled).await.unwrap();
    let deleted = std::sync::atomic::AtomicU64::new(0);
    isolator
        .sweep(&|count| {
            deleted.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        })
        .await
        .unwrap();
    assert_eq!(fs::read_dir(fixture.pool_dir().join("trash")).unwrap().count(), 0);
    assert_eq!(read(outside.join("precious.txt")), "precious");
    assert!(deleted.into_inner() > 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_sweepers_do_not_disturb_each_other() {
    let fixture = Fixture::new();
    let trash = fixture.pool_dir().join("trash");
    for n in 0..500 {
        write(&trash, &format!("{}/{}/{n}", n % 7, n % 11), "");
    }
    let isolator = Arc::new(fixture.isolator());
    let sweepers: Vec<_> = (0..4)
        .map(|_| {
            let isolator = Arc::clone(&isolator);
            tokio::spawn(async move { isolator.sweep(&|_| {}).await })
        })
        .collect();
    for sweeper in sweepers {
        sweeper.await.unwrap().unwrap();
    }
    assert_eq!(fs::read_dir(trash).unwrap().count(), 0);
}
