//! The memory isolator's harness: the example of one, and the shortest.

use std::sync::Arc;

use async_trait::async_trait;
use pool_core::{CommitId, Isolator, SlotId};

use super::{Capabilities, Harness};
use crate::memory::MemoryIsolator;

/// A [`Harness`] for the [`MemoryIsolator`].
#[derive(Clone, Debug, Default)]
pub struct MemoryHarness(Arc<MemoryIsolator>);

impl MemoryHarness {
    /// One with a repository of its own.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Harness for MemoryHarness {
    fn isolator(&self) -> Arc<dyn Isolator> {
        self.0.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tracked: Some("README.md".into()),
            staging: true,
            detaching: true,
            ignored: Some(".env".into()),
            regenerable: Some("target/debug/out".into()),
            idle_branch: Some("side".into()),
            busy_branch: Some("main".into()),
        }
    }

    async fn write(&self, slot: SlotId, path: &str, bytes: &[u8]) {
        self.0.write(slot, path, bytes);
    }

    async fn read(&self, slot: SlotId, path: &str) -> Option<Vec<u8>> {
        self.0.read(slot, path)
    }

    async fn remove(&self, slot: SlotId, path: &str) {
        self.0.remove(slot, path);
    }

    async fn files(&self, slot: SlotId) -> Vec<String> {
        self.0.files(slot)
    }

    async fn commit(&self, slot: SlotId) -> CommitId {
        self.0.commit(slot)
    }

    async fn branch_tip(&self, name: &str) -> Option<CommitId> {
        self.0.branch(name)
    }

    async fn delete_by_hand(&self, slot: SlotId) {
        self.0.delete_by_hand(slot);
    }

    async fn stage(&self, slot: SlotId, path: &str) {
        self.0.stage(slot, path);
    }

    async fn detach(&self, slot: SlotId) {
        self.0.detach(slot);
    }

    async fn audit(&self) -> Result<(), String> {
        self.0.audit()
    }
}
