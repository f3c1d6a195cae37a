//! A host with a backend of its own: each workspace is a directory, and nothing in it is worth
//! keeping. Run it with `cargo run -p pool-core --example embed`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pool_core::{
    Base, CommitId, Condition, Discovered, Error, Inspection, Isolator, LeaseName, Losses, Plan,
    Pool, Preserved, Release, Request, Result, SlotId, Wish,
};

#[derive(Debug)]
struct Directories(PathBuf);

#[async_trait::async_trait]
impl Isolator for Directories {
    fn name(&self) -> &str {
        "directories"
    }

    fn place(&self, slot: SlotId) -> PathBuf {
        self.0.join(slot.to_string())
    }

    fn pool_dir(&self) -> Option<&Path> {
        // A temporary directory, which no other process knows.
        None
    }

    async fn resolve(&self, _wish: &Wish, _name: &LeaseName) -> Result<Base> {
        Ok(Base { commit: CommitId::new("empty")?, branch: None })
    }

    async fn provision(&self, plan: &Plan) -> Result<()> {
        let place = self.place(plan.slot);
        std::fs::create_dir_all(&place)
            .map_err(|e| Error::io(format!("create {}", place.display()), e))
    }

    async fn inspect(&self, plan: &Plan) -> Result<Inspection> {
        let (plan, present) = (plan.clone(), self.place(plan.slot).exists());
        let losses = Losses::default();
        Ok(Inspection { plan, losses, branch: None, last_write: None, fingerprint: None, present })
    }

    async fn preserve(&self, inspection: Inspection) -> Result<Preserved> {
        Ok(Preserved::nothing_to_lose(inspection)
            .expect("scratch directories hold nothing of value"))
    }

    async fn recycle(&self, plan: &Plan, proof: Preserved) -> Result<()> {
        self.dispose(proof).await?;
        self.provision(plan).await
    }

    async fn dispose(&self, proof: Preserved) -> Result<()> {
        let place = self.place(proof.slot());
        std::fs::remove_dir_all(&place)
            .map_err(|e| Error::io(format!("remove {}", place.display()), e))
    }

    async fn discover(&self) -> Result<Vec<Discovered>> {
        let there = std::fs::read_dir(&self.0).map_err(|e| Error::io("read the slots", e))?;
        let ids = there.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).map(SlotId);
        Ok(ids.map(|slot| Discovered { slot, condition: Condition::Sound }).collect())
    }

    async fn usage(&self, _slot: SlotId) -> Result<u64> {
        Ok(0)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let scratch = tempfile::tempdir().map_err(|e| Error::io("make a temporary directory", e))?;
    let pool = Pool::builder(Arc::new(Directories(scratch.path().into()))).open()?;
    let reservation = pool.reserve(Request::new("the example")).await?;
    println!("{} will work in {}", reservation.lease().name, reservation.path().display());
    let lease = reservation.materialise().await?;
    println!("and {:?} again", lease.release(Release::default()).await?.disposition);
    Ok(())
}
