//! What was saved can be had back.

use pool_core::{ErrorKind, RescueId, SlotId};

use super::{Harness, Steps as _};

const ONE: SlotId = SlotId(1);
const TWO: SlotId = SlotId(2);

/// Files to save, as far as the backend has such: path, content, and what a rescue calls it.
fn work<H: Harness>(harness: &H) -> Vec<(String, Vec<u8>, &'static str)> {
    let capabilities = harness.capabilities();
    let mut work = vec![
        ("notes.txt".to_owned(), b"remember\n".to_vec(), "untracked"),
        ("deep/er/bytes.bin".to_owned(), (0..=255).collect(), "untracked"),
        ("empty.txt".to_owned(), Vec::new(), "untracked"),
    ];
    work.extend(capabilities.tracked.map(|path| (path, b"changed\n".to_vec(), "modified")));
    work.extend(capabilities.ignored.map(|path| (path, b"SECRET=1\n".to_vec(), "ignored")));
    work
}

/// A rescue lists what it holds, and makes a directory with each byte of it.
pub async fn a_rescue_can_be_restored_into_a_directory<H: Harness>(harness: &H) {
    let isolator = harness.isolator();
    let Some(archive) = isolator.rescues() else { return };
    assert_eq!(archive.list().await.expect("it can be listed"), []);
    let plan = harness.lease(ONE, "lost").await;
    let work = work(harness);
    for (path, bytes, _) in &work {
        harness.write(ONE, path, bytes).await;
    }
    let rescue = harness.save(&plan).await.rescue().expect("there was something to save").clone();
    harness.end(&plan).await;
    let listed = archive.list().await.expect("it can be listed");
    assert!(listed.contains(&rescue), "{listed:?}");
    assert_eq!(archive.head(&rescue.id).await.expect("it is known"), plan.base.commit);

    let contents = archive.contents(&rescue.id).await.expect("it can be listed");
    assert_eq!(contents.len(), work.len(), "{contents:?}");
    for (path, bytes, status) in &work {
        let held = contents.iter().find(|held| held.path == *path);
        let held = held.unwrap_or_else(|| panic!("{path} is not in {contents:?}"));
        assert_eq!((held.status.as_str(), held.bytes), (*status, bytes.len() as u64), "{path}");
    }

    let dir = tempfile::tempdir().expect("a directory can be made");
    let occupied = dir.path().join("occupied");
    std::fs::create_dir(&occupied).expect("it can be made");
    std::fs::write(occupied.join("mine.txt"), "mine\n").expect("it can be written");
    let refused = archive.restore_into(&rescue.id, &occupied).await.expect_err("it is in use");
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused:?}");
    let mine: Vec<_> = occupied.read_dir().expect("it can be read").collect();
    assert_eq!(mine.len(), 1, "something was put beside the user's file");

    for name in ["absent", "empty"] {
        let into = dir.path().join(name);
        if name == "empty" {
            std::fs::create_dir(&into).expect("it can be made");
        }
        archive.restore_into(&rescue.id, &into).await.expect("it can be restored");
        for (path, bytes, _) in &work {
            let restored = std::fs::read(into.join(path));
            assert_eq!(restored.unwrap_or_else(|e| panic!("{path}: {e}")), *bytes, "{path}");
        }
    }
    assert_eq!(archive.list().await.expect("it can be listed"), listed, "restoring took it away");
}

/// A rescue can be brought into a fresh workspace, which then has the same to lose.
pub async fn a_rescue_can_be_restored_onto_a_workspace<H: Harness>(harness: &H) {
    let isolator = harness.isolator();
    let Some(archive) = isolator.rescues() else { return };
    let plan = harness.lease(ONE, "lost").await;
    let work = work(harness);
    for (path, bytes, _) in &work {
        harness.write(ONE, path, bytes).await;
    }
    if harness.capabilities().staging {
        harness.write(ONE, "half.txt", b"staged\n").await;
        harness.stage(ONE, "half.txt").await;
        harness.write(ONE, "half.txt", b"and changed\n").await;
    }
    let (files, found) = (harness.files(ONE).await, harness.look(&plan).await);
    let rescue = harness.save(&plan).await.rescue().expect("there was something to save").clone();
    harness.end(&plan).await;

    let fresh = harness.lease(TWO, "found").await;
    assert_eq!(archive.head(&rescue.id).await.expect("it is known"), fresh.base.commit);
    archive.restore_onto(&rescue.id, &fresh).await.expect("it can be restored");
    assert_eq!(harness.files(TWO).await, files);
    for (path, bytes, _) in &work {
        assert_eq!(harness.read(TWO, path).await.as_ref(), Some(bytes), "{path}");
    }
    assert_eq!(harness.look(&fresh).await.losses, found.losses);
    harness.end(&fresh).await;
}

/// A rescue outlives everything but [`drop_rescue`](pool_core::RescueArchive::drop_rescue); an
/// unknown one is an error.
pub async fn a_rescue_survives_its_workspace_and_can_be_dropped<H: Harness>(harness: &H) {
    let isolator = harness.isolator();
    let Some(archive) = isolator.rescues() else { return };
    let mut rescues = Vec::new();
    for n in 1..=3 {
        let plan = harness.lease(ONE, &format!("lost-{n}")).await;
        harness.write(ONE, "n.txt", format!("{n}\n").as_bytes()).await;
        rescues.push(harness.save(&plan).await.rescue().expect("something was saved").id.clone());
        harness.end(&plan).await;
    }
    isolator.sweep(&|_| ()).await.expect("the trash can be emptied");
    let ids = async || {
        let all = archive.list().await.expect("it can be listed");
        all.into_iter().map(|rescue| rescue.id).collect::<Vec<_>>()
    };
    for id in &rescues {
        assert!(ids().await.contains(id));
    }
    let given_up = rescues.remove(1);
    archive.drop_rescue(&given_up).await.expect("it can be dropped");
    assert!(!ids().await.contains(&given_up));
    for id in &rescues {
        let contents = archive.contents(id).await.expect("the others stay");
        assert_eq!(contents.len(), 1);
    }
    let plan = harness.lease(ONE, "other").await;
    let into = tempfile::tempdir().expect("a directory can be made");
    for id in [given_up, RescueId::new("no-such-rescue").expect("a good id")] {
        for error in [
            archive.contents(&id).await.expect_err("contents"),
            archive.head(&id).await.expect_err("head"),
            archive.restore_into(&id, into.path()).await.expect_err("restore_into"),
            archive.restore_onto(&id, &plan).await.expect_err("restore_onto"),
            archive.drop_rescue(&id).await.expect_err("drop_rescue"),
        ] {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        }
    }
    harness.end(&plan).await;
}
