//! Every method may be cancelled at every await.
//!
//! Each case runs a method again and again, and drops it a little later each time, until it gets to
//! its end. A method that works on a thread of its own may go on there for a while after it was
//! dropped; whatever is asked next must wait for that, or stop it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pool_core::{Condition, MemoryStore, Plan, Pool, Release, Request, Settings, SlotId};

use super::{Harness, Steps as _, suspend};
use crate::store::LateStore;

const ONE: SlotId = SlotId(1);

/// No method of a backend has this many awaits; one that does is caught in a loop.
const ENOUGH: usize = 10_000;

/// What was interrupted can be found, looked at, and taken away; and the slot can be used again.
async fn clear<H: Harness>(harness: &H, plan: &Plan, at: usize) {
    let condition = harness.condition(ONE).await;
    let expected = matches!(
        condition,
        None | Some(Condition::Sound | Condition::HalfMade | Condition::Missing)
    );
    assert!(expected, "dropped at await {at}: {condition:?}");
    harness.end(plan).await;
}

/// A provision that was dropped leaves no workspace that can't be taken away, and no branch.
pub async fn provision_dropped_at_each_await<H: Harness>(harness: &H) {
    let isolator = harness.isolator();
    for at in 0..ENOUGH {
        let plan = harness.plan(ONE, &format!("try-{at}")).await;
        let done = {
            let provision = pin!(isolator.provision(&plan));
            suspend(provision, at).await
        };
        match done {
            None => {
                clear(harness, &plan, at).await;
                harness.assert_no_branch(&plan).await;
            }
            Some(made) => {
                made.expect("the slot is empty");
                harness.end(&plan).await;
                return;
            }
        }
    }
    panic!("provision never ends");
}

/// An inspection that was dropped has changed nothing.
pub async fn inspect_dropped_at_each_await<H: Harness>(harness: &H) {
    let isolator = harness.isolator();
    let plan = harness.lease(ONE, "looked-at").await;
    harness.write(ONE, "work.txt", b"work\n").await;
    let files = harness.files(ONE).await;
    for at in 0..ENOUGH {
        let done = {
            let inspect = pin!(isolator.inspect(&plan));
            suspend(inspect, at).await
        };
        assert_eq!(harness.condition(ONE).await, Some(Condition::Sound));
        assert_eq!(harness.files(ONE).await, files);
        if let Some(found) = done {
            assert_eq!(found.expect("it can be looked at").losses.untracked, 1);
            harness.end(&plan).await;
            return;
        }
    }
    panic!("inspect never ends");
}

/// A preservation that was dropped leaves the workspace with all that is in it.
pub async fn preserve_dropped_at_each_await<H: Harness>(harness: &H) {
    let isolator = harness.isolator();
    let plan = harness.lease(ONE, "saved").await;
    harness.write(ONE, "work.txt", b"work\n").await;
    let files = harness.files(ONE).await;
    for at in 0..ENOUGH {
        let found = harness.look(&plan).await;
        let done = {
            let preserve = pin!(isolator.preserve(found));
            suspend(preserve, at).await
        };
        assert_eq!(harness.condition(ONE).await, Some(Condition::Sound));
        assert_eq!(harness.files(ONE).await, files);
        assert_eq!(harness.look(&plan).await.losses.untracked, 1);
        if let Some(proof) = done {
            let proof = proof.expect("it can be saved");
            assert!(proof.rescue().is_some());
            isolator.dispose(proof).await.expect("it can be removed");
            harness.assert_gone(ONE).await;
            return;
        }
    }
    panic!("preserve never ends");
}

/// A recycling that was dropped loses nothing: what was there is in the rescue, what was to be there
/// can be taken away with its branch.
pub async fn recycle_dropped_at_each_await<H: Harness>(harness: &H) {
    let isolator = harness.isolator();
    for at in 0..ENOUGH {
        let first = harness.lease(ONE, &format!("first-{at}")).await;
        harness.write(ONE, "work.txt", b"work\n").await;
        let next = harness.plan(ONE, &format!("next-{at}")).await;
        let proof = harness.save(&first).await;
        let rescue = proof.rescue().expect("there was something to save").clone();
        let done = {
            let recycle = pin!(isolator.recycle(&next, proof));
            suspend(recycle, at).await
        };
        if let Some(archive) = isolator.rescues() {
            let contents = archive.contents(&rescue.id).await.expect("the rescue is there");
            assert_eq!(contents.len(), 1);
        }
        if let Some(made) = done {
            made.expect("it can be used again");
            assert_eq!(harness.read(ONE, "work.txt").await, None);
            harness.end(&next).await;
            return;
        }
        clear(harness, &next, at).await;
        harness.assert_no_branch(&next).await;
        // Which of both leases the slot was last of is not known to who was interrupted.
        harness.end(&first).await;
        harness.assert_no_branch(&first).await;
    }
    panic!("recycle never ends");
}

/// A disposal that was dropped can be done again.
pub async fn dispose_dropped_at_each_await<H: Harness>(harness: &H) {
    let isolator = harness.isolator();
    for at in 0..ENOUGH {
        let plan = harness.lease(ONE, &format!("try-{at}")).await;
        harness.write(ONE, "work.txt", b"work\n").await;
        let proof = harness.save(&plan).await;
        let done = {
            let dispose = pin!(isolator.dispose(proof));
            suspend(dispose, at).await
        };
        let ended = done.is_some();
        match done {
            None => clear(harness, &plan, at).await,
            Some(gone) => gone.expect("it can be removed"),
        }
        harness.assert_gone(ONE).await;
        harness.assert_no_branch(&plan).await;
        if ended {
            return;
        }
    }
    panic!("dispose never ends");
}

/// How often a case looks whether a dropped request was cleaned up, and how long it waits in between.
const LOOKS: u32 = 2_000;
const PAUSE: Duration = Duration::from_millis(10);

/// A pool takes back a request that was dropped, at whichever await, without a reconciliation; also
/// with a store that applies a change after the future that asked for it was dropped.
pub async fn requests_dropped_at_each_await<H: Harness>(harness: &H) {
    for turns in [0, 7] {
        let settings = Settings { max_leases: 1, ..Settings::default() };
        let pool = Pool::builder(harness.isolator())
            .store(Arc::new(LateStore::new(Arc::new(MemoryStore::new()), turns)))
            .settings(settings)
            .open()
            .expect("a pool over the backend");
        let mut leased = false;
        for at in 0..ENOUGH {
            let done = {
                let acquire = pin!(pool.acquire(Request::new("dropped")));
                suspend(acquire, at).await
            };
            leased = done.is_some();
            if let Some(lease) = done {
                let lease = lease.expect("the only slot is free");
                lease.release(Release::default()).await.expect("it is a lease");
            }
            assert_empty(&pool, at).await;
            if leased {
                break;
            }
        }
        assert!(leased, "acquire never ends");
    }
}

/// Waits until the pool has neither a slot nor a waiter.
async fn assert_empty(pool: &Pool, at: usize) {
    for _ in 0..LOOKS {
        let state = pool.list().await.expect("the records can be read");
        if state.slots.is_empty() && state.waiters.is_empty() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("dropped at await {at}: {:#?}", pool.list().await);
}
