//! What a host tells a strategy.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pool_core::{Attachment, CacheSite, Result, Sources};
use serde::{Deserialize, Serialize};

use crate::confine::{self, Confinement, Surroundings};
use crate::files;
use crate::install;
use crate::note;

/// Everything a strategy is told. The library looks for nothing by itself.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The pool's directory: strategies keep what they have in `cache` below it.
    pub pool_dir: PathBuf,
    /// The files behind the workspaces.
    pub sources: Arc<dyn Sources>,
    /// The program that is to stand between cargo and rustc: one that calls
    /// [`rustc::wrap`](crate::rustc::wrap) when it is started as [`rustc::PROGRAM`](crate::rustc::PROGRAM).
    /// Without it, nothing that was built for the workspace itself can be shared, and nothing is
    /// lean.
    pub wrapper: Option<PathBuf>,
    /// A wrapper of the user's own, which would otherwise be displaced.
    pub chain: Option<PathBuf>,
    /// Where the pool's claims are: no server that a build starts may inherit one.
    pub claims: Option<PathBuf>,
    /// What outside of the repository says where cargo builds; it does not hold in slots.
    pub surroundings: Surroundings,
    /// When to spare the disk.
    pub lean: Lean,
    /// What builds a base; by default, `cargo build` and `cargo test --no-run` of the workspace.
    pub warm_command: Option<String>,
    /// How many jobs each cargo may run at once; by default cargo decides.
    pub jobs: Option<u32>,
}

impl Setup {
    /// The usual, for that pool.
    pub fn new(pool_dir: impl Into<PathBuf>, sources: Arc<dyn Sources>) -> Self {
        Self {
            pool_dir: pool_dir.into(),
            sources,
            wrapper: None,
            chain: None,
            claims: None,
            surroundings: Surroundings::default(),
            lean: Lean::default(),
            warm_command: None,
            jobs: None,
        }
    }

    /// By its real path, which is what cargo and rustc see.
    pub(crate) fn cache(&self) -> PathBuf {
        files::real(&self.pool_dir).join("cache")
    }

    /// The wrapper of rustc, where it can be given a further name for each slot.
    pub(crate) fn program(&self) -> Result<Option<PathBuf>> {
        self.wrapper.as_deref().map(|program| install::near(&self.cache(), program)).transpose()
    }
}

/// When to build without incremental state, debug information and programs' symbols, which take most of the disk that
/// a worktree's builds need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lean {
    /// When so many slots are in use that they would outgrow what they start from.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Lean {
    /// Whether so many slots should build lean, each of which would grow by `growth` otherwise, while all
    /// together should take no more than `budget` beyond what they share. Pure.
    ///
    /// ```
    /// use cache_share::Lean;
    /// assert!(!Lean::Auto.applies(4, 40, 350));
    /// assert!(Lean::Auto.applies(30, 40, 350));
    /// assert!(Lean::Always.applies(1, 0, 350) && !Lean::Never.applies(30, 40, 0));
    /// ```
    pub fn applies(self, in_use: u32, growth: u64, budget: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => u64::from(in_use).saturating_mul(growth) > budget,
        }
    }
}

/// The directory of a slot, in which its worktree lies.
pub(crate) fn slot_dir(worktree: &Path) -> &Path {
    worktree.parent().unwrap_or(worktree)
}

/// What an attachment begins with: what cargo builds in the slot is kept apart from what others build, whatever becomes of
/// the rest. Returns how; and what the lease gets instead of a strategy's own, where that can share nothing.
///
/// # Errors
///
/// When that can't be written.
pub(crate) fn begin(
    site: &CacheSite,
    around: &Surroundings,
) -> Result<(Confinement, Option<Attachment>)> {
    let dir = slot_dir(&site.path);
    note::begin(dir)?;
    let confinement = Confinement::of(&site.path, dir, around);
    install::put_only(dir, &confinement)?;
    if let Some(aside) = confinement.aside() {
        confine::empty(aside, &site.path)?;
    }
    let none = "there is no Cargo.toml at its root".to_owned();
    let is_cargo = site.path.join("Cargo.toml").is_file();
    let reason = confinement.trouble.clone().or((!is_cargo).then_some(none));
    let instead = reason.map(|reason| Attachment {
        strategy: crate::Private::NAME.to_owned(),
        reason: Some(reason),
        env: confinement.variables(),
        ..Attachment::default()
    });
    Ok((confinement, instead))
}
