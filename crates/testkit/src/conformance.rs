//! The suite that every [`Isolator`] must pass, whatever it makes its workspaces of.
//!
//! The author of a backend implements [`Harness`], which does what an agent or a user would do to a
//! workspace, and puts one line into a test:
//!
//! ```
//! # use testkit::conformance::MemoryHarness;
//! testkit::isolator_conformance!(memory, MemoryHarness::new());
//! ```
//!
//! What a backend does not have, its harness [declares](Capabilities); the cases about it then pass
//! without doing anything. Everything else is compulsory.

mod cancel;
mod life;
mod loss;
mod memory;
mod rescue;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use pool_core::{
    BranchWish, CommitId, Condition, Inspection, Isolator, LeaseId, LeaseName, Plan, Preserved,
    SlotId, Wish,
};

pub use cancel::*;
pub use life::*;
pub use loss::*;
pub use memory::MemoryHarness;
pub use rescue::*;

/// What an agent or a user does to a workspace, outside the backend's own interface. One harness
/// has one repository (or whatever the backend takes its workspaces from), which nobody else uses.
///
/// Methods may panic when they can't do what they are asked for: that is a failed test.
#[async_trait]
pub trait Harness: fmt::Debug + Send + Sync {
    /// The backend. All its workspaces come from the same place.
    fn isolator(&self) -> Arc<dyn Isolator>;

    /// What the backend has, apart from what is compulsory.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Writes a file, making the directories it is in.
    async fn write(&self, slot: SlotId, path: &str, bytes: &[u8]);

    /// A file's content. `None` when there is no such file, or no workspace.
    async fn read(&self, slot: SlotId, path: &str) -> Option<Vec<u8>>;

    /// Deletes a file.
    async fn remove(&self, slot: SlotId, path: &str);

    /// All files of the workspace, ignored ones too, sorted. Empty when there is none.
    async fn files(&self, slot: SlotId) -> Vec<String>;

    /// Commits everything that is not ignored, to the branch the workspace is on, if any.
    async fn commit(&self, slot: SlotId) -> CommitId;

    /// What a branch points to. `None` when there is none of that name.
    async fn branch_tip(&self, name: &str) -> Option<CommitId>;

    /// Deletes the workspace as a user does who knows of no pool.
    async fn delete_by_hand(&self, slot: SlotId);

    /// Stages a file as it is. Only called if [`staging`](Capabilities::staging).
    async fn stage(&self, slot: SlotId, path: &str) {
        let _ = (slot, path);
    }

    /// Leaves the branch, staying at its commit. Only called if [`detaching`](Capabilities::detaching).
    async fn detach(&self, slot: SlotId) {
        let _ = slot;
    }

    /// Whether nothing was lost and nothing is left over, as far as the harness can tell. Called at
    /// the end of each case.
    ///
    /// # Errors
    ///
    /// What is wrong.
    async fn audit(&self) -> Result<(), String> {
        Ok(())
    }
}

/// What a backend has, apart from what is compulsory. The default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// A tracked file of every fresh workspace, which the suite may change and delete.
    pub tracked: Option<String>,
    /// There is a stage between a file and a commit.
    pub staging: bool,
    /// A commit can be made on no branch.
    pub detaching: bool,
    /// A path that commits leave out and that a rescue must hold, such as `.env`.
    pub ignored: Option<String>,
    /// A path that no rescue needs to hold, such as `target/x`. It goes with its lease all the same.
    pub regenerable: Option<String>,
    /// A branch that exists and is nobody's: it can be continued.
    pub idle_branch: Option<String>,
    /// A branch that is checked out outside the pool, such as the main worktree's.
    pub busy_branch: Option<String>,
}

/// Expands to a module `$name` with one test for each case of the suite. `$harness` is evaluated
/// for each, may use `.await`, and gives a new [`Harness`](crate::conformance::Harness).
///
/// ```
/// # use testkit::conformance::MemoryHarness;
/// testkit::isolator_conformance!(memory, MemoryHarness::new());
/// ```
#[macro_export]
macro_rules! isolator_conformance {
    ($name:ident, $harness:expr) => {
        $crate::isolator_conformance! { @cases $name, $harness;
            place_is_stable_absolute_and_distinct
            resolving_changes_nothing_and_refuses_what_it_must
            a_fresh_workspace_has_nothing_to_lose
            workspaces_are_isolated
            ten_at_once_come_and_go
            a_half_used_pool_is_discovered
            dispose_leaves_nothing
            disposing_twice_is_harmless
            recycle_leaves_nothing_of_the_lease_before
            recycle_again_and_again
            a_branch_is_kept_if_and_only_if_it_has_commits
            a_branch_can_be_continued
            a_workspace_needs_no_branch
            a_branch_in_use_is_not_taken_again
            every_kind_of_loss_is_seen
            looking_changes_nothing
            preserving_leaves_the_workspace_as_it_is
            what_changed_after_the_look_is_preserved_too
            a_workspace_deleted_by_hand_is_freed
            deleted_by_hand_keeps_commits
            what_was_never_there_can_be_disposed_of
            a_rescue_can_be_restored_into_a_directory
            a_rescue_can_be_restored_onto_a_workspace
            a_rescue_survives_its_workspace_and_can_be_dropped
            provision_dropped_at_each_await
            inspect_dropped_at_each_await
            preserve_dropped_at_each_await
            recycle_dropped_at_each_await
            dispose_dropped_at_each_await
            requests_dropped_at_each_await
        }
    };
    (@cases $name:ident, $harness:expr; $($case:ident)*) => {
        mod $name {
            #[allow(unused_imports, reason = "the harness may be given by its full path")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::conformance::block_on(async {
                        let harness = $harness;
                        $crate::conformance::$case(&harness).await;
                        $crate::conformance::finish(&harness).await;
                    });
                }
            )*
        }
    };
}

/// Runs a case on a runtime of its own. For the macro.
#[doc(hidden)]
pub fn block_on(case: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made")
        .block_on(case);
}

/// What is checked after each case. For the macro.
#[doc(hidden)]
pub async fn finish(harness: &dyn Harness) {
    harness.isolator().sweep(&|_| ()).await.expect("the trash can be emptied");
    if let Err(wrong) = harness.audit().await {
        panic!("{wrong}");
    }
}

/// Drives `future` until it is done (`Some`) or has had to wait more than `waits` times (`None`): it
/// then stands at an await, and dropping it is a cancellation at that point. A future that is never
/// woken is waited for without end.
pub async fn suspend<F: Future + ?Sized>(
    mut future: Pin<&mut F>,
    waits: usize,
) -> Option<F::Output> {
    let mut waited = 0;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if waited == waits => Poll::Ready(None),
        Poll::Pending => {
            waited += 1;
            Poll::Pending
        }
    })
    .await
}

/// What the cases have in common.
#[async_trait]
pub(crate) trait Steps: Harness {
    /// A plan for that slot, for a lease of that name.
    async fn plan(&self, slot: SlotId, name: &str) -> Plan {
        self.plan_on(slot, name, BranchWish::Generated).await
    }

    /// As `plan`, with that wish for a branch.
    async fn plan_on(&self, slot: SlotId, name: &str, branch: BranchWish) -> Plan {
        let name = LeaseName::new(name).expect("a good name");
        let wish = Wish { branch, ..Wish::default() };
        let base = self.isolator().resolve(&wish, &name).await.expect("the wish can be granted");
        let id = LeaseId::generate(jiff::Timestamp::now());
        Plan { slot, lease: Some((id, name)), base }
    }

    /// A workspace in that slot, for a lease of that name.
    async fn lease(&self, slot: SlotId, name: &str) -> Plan {
        let plan = self.plan(slot, name).await;
        self.isolator().provision(&plan).await.expect("the slot is empty");
        plan
    }

    /// Looks at the slot.
    async fn look(&self, plan: &Plan) -> Inspection {
        self.isolator().inspect(plan).await.expect("the slot can be looked at")
    }

    /// Looks at the slot and saves what is found.
    async fn save(&self, plan: &Plan) -> Preserved {
        let found = self.look(plan).await;
        self.isolator().preserve(found).await.expect("what is there can be saved")
    }

    /// Saves and removes.
    async fn end(&self, plan: &Plan) {
        let proof = self.save(plan).await;
        self.isolator().dispose(proof).await.expect("it can be removed");
        self.assert_gone(plan.slot).await;
    }

    /// What is in the slot's place, if anything.
    async fn condition(&self, slot: SlotId) -> Option<Condition> {
        let mut found = self.isolator().discover().await.expect("the slots can be listed");
        found.retain(|found| found.slot == slot);
        assert!(found.len() <= 1, "slot {slot} was found twice");
        found.pop().map(|found| found.condition)
    }

    /// Asserts that nothing of a slot is left.
    async fn assert_gone(&self, slot: SlotId) {
        assert_eq!(self.condition(slot).await, None, "slot {slot} is still there");
        assert_eq!(self.files(slot).await, Vec::<String>::new(), "slot {slot} has still files");
        let place = self.isolator().place(slot);
        assert!(place.symlink_metadata().is_err(), "{} is still there", place.display());
        // Nothing is hidden from discovery either: the place can be used again.
    }

    /// Asserts that the branch a plan made does not exist.
    async fn assert_no_branch(&self, plan: &Plan) {
        let branch = plan.base.branch.as_ref().expect("the plan has a branch");
        assert_eq!(self.branch_tip(&branch.name).await, None, "{} was left behind", branch.name);
    }
}

impl<H: Harness + ?Sized> Steps for H {}
