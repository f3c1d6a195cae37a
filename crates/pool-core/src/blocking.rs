//! The pool for hosts without an asynchronous runtime.

use std::time::Duration;

use tokio::runtime::{Builder as RuntimeBuilder, Runtime};

use crate::error::{Error, Result};
use crate::pool::{
    Builder, LeaseGuard, Pool, PruneOptions, PruneReport, Release, ReleaseReport, Request,
    Reservation,
};
use crate::state::{Lease, PoolState, Token};

/// A [`Pool`] whose methods block. It brings a small runtime of its own, in whose threads
/// background work goes on; dropping it waits for none of that work, and what is then left undone
/// is done by the next reconciliation.
///
/// Must not be used from inside an asynchronous runtime.
#[derive(Debug)]
pub struct BlockingPool {
    pool: Pool,
    runtime: Runtime,
}

impl BlockingPool {
    /// Opens the pool that `builder` describes.
    ///
    /// # Errors
    ///
    /// See [`Builder::open`]; and when no thread can be started.
    pub fn open(builder: Builder) -> Result<Self> {
        let runtime = RuntimeBuilder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .thread_name("wtpool")
            .build()
            .map_err(|e| Error::io("start the pool's thread", e))?;
        let pool = runtime.block_on(async { builder.open() })?;
        Ok(Self { pool, runtime })
    }

    /// The pool itself, for what this façade does not offer.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Waits for a future of [`pool`](Self::pool).
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// See [`Pool::acquire`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn acquire(&self, request: Request) -> Result<LeaseGuard> {
        self.block_on(self.pool.acquire(request))
    }

    /// See [`Pool::reserve`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn reserve(&self, request: Request) -> Result<Reservation> {
        self.block_on(self.pool.reserve(request))
    }

    /// See [`Pool::renew`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn renew(&self, token: &Token, ttl: Option<Duration>) -> Result<Lease> {
        self.block_on(self.pool.renew(token, ttl))
    }

    /// See [`Pool::release`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn release(&self, token: &Token, how: Release) -> Result<ReleaseReport> {
        self.block_on(self.pool.release(token, how))
    }

    /// See [`Pool::list`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn list(&self) -> Result<PoolState> {
        self.block_on(self.pool.list())
    }

    /// See [`Pool::reconcile`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn reconcile(&self) -> Result<PruneReport> {
        self.block_on(self.pool.reconcile())
    }

    /// See [`Pool::prune`].
    ///
    /// # Errors
    ///
    /// The same.
    pub fn prune(&self, options: PruneOptions) -> Result<PruneReport> {
        self.block_on(self.pool.prune(options, &|_| ()))
    }
}
