//! The conformance suite must be able to fail: backends with one fault each do not pass it.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use pool_core::{
    Base, CommitId, Discovered, Inspection, Isolator, LeaseName, Losses, Plan, Preserved,
    RescueArchive, Result, SlotId, Wish,
};
use testkit::conformance::{self, Capabilities, Harness, MemoryHarness};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    PlacesCollide,
    ResolveIgnoresOrigin,
    ProvisionsTwoSlotsForOne,
    SeesNothing,
    MissesCommits,
    PreserveTrustsTheInspection,
    RecycleDoesNothing,
    DisposeDoesNothing,
    DiscoversNothing,
}

#[derive(Clone, Debug)]
struct Faulty {
    inner: MemoryHarness,
    fault: Fault,
}

#[derive(Debug)]
struct FaultyIsolator {
    inner: Arc<dyn Isolator>,
    fault: Fault,
}

#[async_trait]
impl Isolator for FaultyIsolator {
    fn name(&self) -> &str {
        "faulty"
    }

    fn place(&self, slot: SlotId) -> PathBuf {
        let collide = self.fault == Fault::PlacesCollide;
        self.inner.place(if collide { SlotId(slot.0 % 20) } else { slot })
    }

    fn pool_dir(&self) -> Option<&Path> {
        self.inner.pool_dir()
    }

    async fn resolve(&self, wish: &Wish, name: &LeaseName) -> Result<Base> {
        let mut wish = wish.clone();
        if self.fault == Fault::ResolveIgnoresOrigin {
            wish.origin = None;
        }
        self.inner.resolve(&wish, name).await
    }

    async fn provision(&self, plan: &Plan) -> Result<()> {
        if self.fault == Fault::ProvisionsTwoSlotsForOne {
            let base = Base { branch: None, ..plan.base.clone() };
            let second = Plan { slot: SlotId(plan.slot.0 + 100), base, ..plan.clone() };
            self.inner.provision(&second).await?;
        }
        self.inner.provision(plan).await
    }

    async fn inspect(&self, plan: &Plan) -> Result<Inspection> {
        let mut found = self.inner.inspect(plan).await?;
        match self.fault {
            Fault::SeesNothing => found.losses = Losses::default(),
            Fault::MissesCommits => found.losses.commits = 0,
            _ => {}
        }
        Ok(found)
    }

    async fn preserve(&self, inspection: Inspection) -> Result<Preserved> {
        if self.fault == Fault::PreserveTrustsTheInspection {
            match Preserved::nothing_to_lose(inspection) {
                Ok(proof) => return Ok(proof),
                Err(inspection) => return self.inner.preserve(inspection).await,
            }
        }
        self.inner.preserve(inspection).await
    }

    async fn recycle(&self, plan: &Plan, proof: Preserved) -> Result<()> {
        match self.fault {
            Fault::RecycleDoesNothing => Ok(()),
            _ => self.inner.recycle(plan, proof).await,
        }
    }

    async fn dispose(&self, proof: Preserved) -> Result<()> {
        match self.fault {
            Fault::DisposeDoesNothing => Ok(()),
            _ => self.inner.dispose(proof).await,
        }
    }

    async fn discover(&self) -> Result<Vec<Discovered>> {
        match self.fault {
            Fault::DiscoversNothing => Ok(Vec::new()),
            _ => self.inner.discover().await,
        }
    }

    async fn usage(&self, slot: SlotId) -> Result<u64> {
        self.inner.usage(slot).await
    }

    fn rescues(&self) -> Option<&dyn RescueArchive> {
        self.inner.rescues()
    }
}

#[async_trait]
impl Harness for Faulty {
    fn isolator(&self) -> Arc<dyn Isolator> {
        Arc::new(FaultyIsolator { inner: self.inner.isolator(), fault: self.fault })
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn write(&self, slot: SlotId, path: &str, bytes: &[u8]) {
        self.inner.write(slot, path, bytes).await;
    }

    async fn read(&self, slot: SlotId, path: &str) -> Option<Vec<u8>> {
        self.inner.read(slot, path).await
    }

    async fn remove(&self, slot: SlotId, path: &str) {
        self.inner.remove(slot, path).await;
    }

    async fn files(&self, slot: SlotId) -> Vec<String> {
        self.inner.files(slot).await
    }

    async fn commit(&self, slot: SlotId) -> CommitId {
        self.inner.commit(slot).await
    }

    async fn branch_tip(&self, name: &str) -> Option<CommitId> {
        self.inner.branch_tip(name).await
    }

    async fn delete_by_hand(&self, slot: SlotId) {
        self.inner.delete_by_hand(slot).await;
    }

    async fn stage(&self, slot: SlotId, path: &str) {
        self.inner.stage(slot, path).await;
    }

    async fn detach(&self, slot: SlotId) {
        self.inner.detach(slot).await;
    }

    async fn audit(&self) -> Result<(), String> {
        self.inner.audit().await
    }
}

/// Whether a case finds that fault.
fn finds(fault: Fault, case: impl AsyncFn(&Faulty)) -> bool {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(case(&Faulty { inner: MemoryHarness::new(), fault }));
    };
    std::panic::catch_unwind(AssertUnwindSafe(run)).is_err()
}

#[test]
fn each_fault_is_found_by_the_case_about_it() {
    macro_rules! check {
        ($($fault:ident => $($case:ident)+;)*) => {
            $($(
                let case = async |harness: &Faulty| conformance::$case(harness).await;
                assert!(!finds(Fault::None, case), "{} fails without a fault", stringify!($case));
                assert!(
                    finds(Fault::$fault, case),
                    "{} does not find {:?}", stringify!($case), Fault::$fault
                );
            )+)*
        };
    }
    check! {
        PlacesCollide => place_is_stable_absolute_and_distinct;
        ResolveIgnoresOrigin => resolving_changes_nothing_and_refuses_what_it_must;
        ProvisionsTwoSlotsForOne => a_half_used_pool_is_discovered ten_at_once_come_and_go;
        SeesNothing => every_kind_of_loss_is_seen inspect_dropped_at_each_await;
        MissesCommits => every_kind_of_loss_is_seen deleted_by_hand_keeps_commits;
        PreserveTrustsTheInspection => what_changed_after_the_look_is_preserved_too;
        RecycleDoesNothing => recycle_leaves_nothing_of_the_lease_before recycle_again_and_again
            recycle_dropped_at_each_await;
        DisposeDoesNothing => dispose_leaves_nothing ten_at_once_come_and_go
            a_branch_is_kept_if_and_only_if_it_has_commits provision_dropped_at_each_await;
        DiscoversNothing => a_fresh_workspace_has_nothing_to_lose a_half_used_pool_is_discovered
            ten_at_once_come_and_go inspect_dropped_at_each_await;
    }
}
