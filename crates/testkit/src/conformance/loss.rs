//! What would be lost is seen, and saved before anything is removed.

use pool_core::{Condition, Losses, Preserved, SlotId};

use super::{Harness, Steps as _};

const ONE: SlotId = SlotId(1);

/// [`inspect`](pool_core::Isolator::inspect) sees each kind of loss, alone, and counts it where it
/// belongs; no proof can be had without a rescue.
pub async fn every_kind_of_loss_is_seen<H: Harness>(harness: &H) {
    type Seen = fn(&Losses) -> u64;
    let capabilities = harness.capabilities();
    let mut kinds: Vec<(&str, Seen)> = vec![("untracked", |losses| losses.untracked)];
    if capabilities.tracked.is_some() {
        kinds.push(("modified", |losses| losses.modified));
        kinds.push(("deleted", |losses| losses.modified));
    }
    if capabilities.staging {
        kinds.push(("staged", |losses| losses.staged));
    }
    if capabilities.ignored.is_some() {
        kinds.push(("ignored", |losses| losses.ignored));
    }
    if capabilities.detaching {
        kinds.push(("commits", |losses| losses.commits));
    }
    let tracked = capabilities.tracked.unwrap_or_default();
    for (kind, seen) in kinds {
        let plan = harness.lease(ONE, kind).await;
        match kind {
            "untracked" => harness.write(ONE, "new.txt", b"new\n").await,
            "modified" => harness.write(ONE, &tracked, b"changed\n").await,
            "deleted" => harness.remove(ONE, &tracked).await,
            "staged" => {
                harness.write(ONE, "staged.txt", b"staged\n").await;
                harness.stage(ONE, "staged.txt").await;
            }
            "ignored" => {
                let path = capabilities.ignored.as_deref().unwrap_or_default();
                harness.write(ONE, path, b"SECRET=1\n").await;
            }
            _ => {
                harness.detach(ONE).await;
                harness.write(ONE, "detached.txt", b"detached\n").await;
                harness.commit(ONE).await;
            }
        }
        let found = harness.look(&plan).await;
        assert_eq!(seen(&found.losses), 1, "{kind}: {}", found.losses);
        let others = found.losses.files() + found.losses.commits;
        assert_eq!(others, 1, "{kind}, and nothing else: {}", found.losses);
        let found = Preserved::nothing_to_lose(found).expect_err("there is something to lose");
        let proof = harness.isolator().preserve(found).await.expect("it can be saved");
        let rescue = proof.rescue().expect("it had to be saved").clone();
        assert_eq!((rescue.files + rescue.commits, rescue.lease.as_ref()), {
            let lease = plan.lease.as_ref().map(|(id, _)| id);
            (1, lease)
        });
        harness.isolator().dispose(proof).await.expect("it can be removed");
        harness.assert_gone(ONE).await;
    }

    // What can be made again is no loss.
    if let Some(path) = capabilities.regenerable {
        let plan = harness.lease(ONE, "regenerable").await;
        harness.write(ONE, &path, b"output\n").await;
        let found = harness.look(&plan).await;
        assert!(found.losses.is_empty(), "{}", found.losses);
        harness.end(&plan).await;
    }
}

/// Looking, however often, changes nothing.
pub async fn looking_changes_nothing<H: Harness>(harness: &H) {
    let plan = harness.lease(ONE, "looked-at").await;
    harness.write(ONE, "a.txt", b"a\n").await;
    harness.commit(ONE).await;
    harness.write(ONE, "b.txt", b"b\n").await;
    let (files, first) = (harness.files(ONE).await, harness.look(&plan).await);
    for _ in 0..3 {
        let again = harness.look(&plan).await;
        assert_eq!((&again.losses, &again.branch), (&first.losses, &first.branch));
        assert_eq!(harness.condition(ONE).await, Some(Condition::Sound));
    }
    assert_eq!(harness.files(ONE).await, files);
    harness.end(&plan).await;
}

/// [`preserve`](pool_core::Isolator::preserve) leaves everything as it is, so that the agent's
/// workspace can be looked at afterwards, and doing it again does no harm.
pub async fn preserving_leaves_the_workspace_as_it_is<H: Harness>(harness: &H) {
    let capabilities = harness.capabilities();
    let plan = harness.lease(ONE, "preserved").await;
    harness.write(ONE, "work.txt", b"work\n").await;
    if let Some(path) = &capabilities.ignored {
        harness.write(ONE, path, b"SECRET=1\n").await;
    }
    if capabilities.staging {
        harness.write(ONE, "staged.txt", b"staged\n").await;
        harness.stage(ONE, "staged.txt").await;
        harness.write(ONE, "staged.txt", b"staged, then changed\n").await;
    }
    let (files, before) = (harness.files(ONE).await, harness.look(&plan).await);
    for _ in 0..2 {
        let proof = harness.save(&plan).await;
        assert!(proof.rescue().is_some());
        assert_eq!(proof.slot(), ONE);
        assert_eq!(harness.files(ONE).await, files);
        assert_eq!(harness.read(ONE, "work.txt").await.as_deref(), Some(b"work\n".as_slice()));
        let after = harness.look(&plan).await;
        assert_eq!(after.losses, before.losses);
    }
    harness.end(&plan).await;
}

/// [`preserve`](pool_core::Isolator::preserve) looks again: what was written after the inspection is
/// saved as well, or it refuses.
pub async fn what_changed_after_the_look_is_preserved_too<H: Harness>(harness: &H) {
    let plan = harness.lease(ONE, "late").await;
    let clean = harness.look(&plan).await;
    harness.write(ONE, "late.txt", b"late\n").await;
    let isolator = harness.isolator();
    let Ok(proof) = isolator.preserve(clean).await else {
        assert!(harness.read(ONE, "late.txt").await.is_some(), "refused, and lost it");
        return harness.end(&plan).await;
    };
    let rescue = proof.rescue().expect("the late file was saved").clone();
    isolator.dispose(proof).await.expect("it can be removed");
    if let Some(archive) = isolator.rescues() {
        let contents = archive.contents(&rescue.id).await.expect("it can be listed");
        assert!(contents.iter().any(|held| held.path == "late.txt"), "{contents:?}");
    }
}

/// A workspace that a user deleted is seen to be gone, and its slot can be used again.
pub async fn a_workspace_deleted_by_hand_is_freed<H: Harness>(harness: &H) {
    let plan = harness.lease(ONE, "deleted").await;
    harness.delete_by_hand(ONE).await;
    let condition = harness.condition(ONE).await;
    assert!(matches!(condition, None | Some(Condition::Missing)), "{condition:?}");
    let found = harness.look(&plan).await;
    assert!(!found.present);
    assert!(found.losses.is_empty(), "{}", found.losses);
    harness.end(&plan).await;
    harness.assert_no_branch(&plan).await;
    let again = harness.lease(ONE, "again").await;
    harness.end(&again).await;
}

/// Deleting the files of a workspace does not lose what was committed in it.
pub async fn deleted_by_hand_keeps_commits<H: Harness>(harness: &H) {
    let plan = harness.lease(ONE, "on-a-branch").await;
    harness.write(ONE, "done.txt", b"done\n").await;
    let tip = harness.commit(ONE).await;
    harness.delete_by_hand(ONE).await;
    harness.end(&plan).await;
    let branch = plan.base.branch.as_ref().expect("it had a branch");
    assert_eq!(harness.branch_tip(&branch.name).await, Some(tip));

    if harness.capabilities().detaching {
        let plan = harness.lease(ONE, "on-no-branch").await;
        harness.detach(ONE).await;
        harness.write(ONE, "done.txt", b"done\n").await;
        let tip = harness.commit(ONE).await;
        harness.delete_by_hand(ONE).await;
        let found = harness.look(&plan).await;
        assert_eq!((found.present, found.losses.commits), (false, 1), "{}", found.losses);
        let proof = harness.save(&plan).await;
        let rescue = proof.rescue().expect("nothing else keeps the commit").clone();
        harness.isolator().dispose(proof).await.expect("it can be removed");
        harness.assert_gone(ONE).await;
        if let Some(archive) = harness.isolator().rescues() {
            assert_eq!(archive.head(&rescue.id).await.expect("it is known"), tip);
        }
    }
}

/// A slot in which nothing was ever made can be inspected and disposed of: that is how a pool
/// clears up after a crash.
pub async fn what_was_never_there_can_be_disposed_of<H: Harness>(harness: &H) {
    let plan = harness.plan(ONE, "never").await;
    let found = harness.look(&plan).await;
    assert!(!found.present);
    assert!(found.losses.is_empty(), "{}", found.losses);
    harness.end(&plan).await;
    harness.assert_no_branch(&plan).await;
}
