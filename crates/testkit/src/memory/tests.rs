use pool_core::{Condition, LeaseId};

use super::*;

const SLOT: SlotId = SlotId(1);

fn plan(name: &str, isolator: &MemoryIsolator) -> Plan {
    let name = LeaseName::new(name).expect("a good name");
    let base = Base {
        commit: isolator.branch("main").expect("it is there"),
        branch: Some(Branch { name: format!("wtpool/{name}"), created: true }),
    };
    let lease = Some((LeaseId::generate(jiff::Timestamp::UNIX_EPOCH), name));
    Plan { slot: SLOT, lease, base }
}

async fn proof(isolator: &MemoryIsolator, plan: &Plan) -> Preserved {
    let found = isolator.inspect(plan).await.expect("it can be looked at");
    isolator.preserve(found).await.expect("it can be saved")
}

#[tokio::test]
async fn two_calls_at_once_are_noted() {
    let isolator = MemoryIsolator::new();
    let plan = plan("one", &isolator);
    let (a, b) = tokio::join!(isolator.provision(&plan), isolator.provision(&plan));
    assert!(a.is_ok() != b.is_ok());
    let complaint = isolator.audit().expect_err("the second call was one too many");
    assert!(complaint.contains("provision of slot 1 while provision"), "{complaint}");
}

#[tokio::test]
async fn a_workspace_upon_another_is_noted() {
    let isolator = MemoryIsolator::new();
    isolator.provision(&plan("one", &isolator)).await.expect("the slot is empty");
    isolator.audit().expect("all is well so far");
    isolator.provision(&plan("two", &isolator)).await.expect_err("it is not empty any more");
    assert!(isolator.audit().expect_err("noted").contains("not empty"));
}

#[tokio::test]
async fn a_proof_that_is_too_old_is_refused() {
    let isolator = MemoryIsolator::new();
    let plan = plan("one", &isolator);
    isolator.provision(&plan).await.expect("the slot is empty");
    isolator.write(SLOT, "a.txt", "first");
    let old = proof(&isolator, &plan).await;
    isolator.write(SLOT, "a.txt", "second");
    let refused = isolator.dispose(old).await.expect_err("it does not cover the second");
    assert_eq!(refused.kind(), ErrorKind::WouldLoseWork);
    assert_eq!(isolator.read(SLOT, "a.txt").as_deref(), Some(b"second".as_slice()));
    isolator.dispose(proof(&isolator, &plan).await).await.expect("now it does");
    isolator.audit().expect("both are in rescues");
    assert_eq!(isolator.list().await.expect("it can be read").len(), 2);
}

#[tokio::test]
async fn the_proof_of_another_lease_is_noted() {
    let isolator = MemoryIsolator::new();
    let first = plan("one", &isolator);
    isolator.provision(&first).await.expect("the slot is empty");
    isolator.write(SLOT, "a.txt", "first");
    let old = proof(&isolator, &first).await;
    let now = proof(&isolator, &first).await;
    let second = plan("two", &isolator);
    isolator.recycle(&second, now).await.expect("it is saved");
    isolator.write(SLOT, "b.txt", "second");
    isolator.dispose(old).await.expect_err("that was the first lease's");
    assert!(isolator.audit().expect_err("noted").contains("another lease"));
}

#[tokio::test]
async fn the_audit_misses_what_is_lost() {
    // For each place in which work may be, taking that place away must be noticed.
    let make = async |commit: bool| {
        let isolator = MemoryIsolator::new();
        let plan = plan("one", &isolator);
        isolator.provision(&plan).await.expect("the slot is empty");
        isolator.write(SLOT, "a.txt", "work");
        if commit {
            isolator.commit(SLOT);
        }
        isolator.audit().expect("it is in place");
        isolator.dispose(proof(&isolator, &plan).await).await.expect("it is saved");
        isolator.audit().expect("it is in a rescue or on a branch");
        isolator
    };
    let isolator = make(false).await;
    isolator.world().rescues.clear();
    assert!(isolator.audit().expect_err("lost").contains("a.txt"));

    let isolator = make(true).await;
    isolator.world().branches.remove("wtpool/one");
    assert!(isolator.audit().expect_err("lost").contains("commit"));

    let isolator = MemoryIsolator::new();
    isolator.provision(&plan("one", &isolator)).await.expect("the slot is empty");
    isolator.write(SLOT, "a.txt", "work");
    isolator.stage(SLOT, "a.txt");
    isolator.world().expect(SLOT).index.clear();
    assert!(isolator.audit().expect_err("lost").contains("staged"));
    isolator.world().slots.clear();
    isolator.audit().expect_err("lost");
}

#[tokio::test]
async fn something_foreign_is_reported_and_never_touched() {
    let isolator = MemoryIsolator::new();
    isolator.set_foreign(SLOT, Some("a repository of somebody else's"));
    let plan = plan("one", &isolator);
    isolator.provision(&plan).await.expect_err("the place is taken");
    isolator.inspect(&plan).await.expect_err("it is not the pool's");
    let found = isolator.discover().await.expect("it can be known");
    assert!(matches!(&found[..], [Discovered { condition: Condition::Foreign(_), .. }]));
    isolator.audit().expect("nothing was done to it");
}
