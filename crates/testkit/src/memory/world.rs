//! The state behind the memory isolator: commits, branches, workspaces, and what was saved. The steps
//! that change it, each at once, are in the modules beside this one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use pool_core::{CommitId, Error, ErrorKind, Plan, Rescue, Result, SlotId};

pub(super) type Bytes = Arc<[u8]>;
pub(super) type Tree = BTreeMap<String, Bytes>;

#[derive(Debug)]
pub(super) struct Commit {
    pub(super) parent: Option<CommitId>,
    pub(super) tree: Tree,
}

/// A workspace, whole, half or gone.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) plan: Plan,
    /// Which lease of life it is in: one for each provision and recycle.
    pub(super) tenancy: u64,
    /// Where it is when on no branch.
    pub(super) detached_at: CommitId,
    pub(super) on: Option<String>,
    pub(super) index: Tree,
    pub(super) files: Tree,
    pub(super) reflog: BTreeSet<CommitId>,
    /// Grows with each change an agent makes.
    pub(super) version: u64,
    pub(super) half: bool,
    pub(super) present: bool,
    pub(super) unsavable: Option<String>,
    pub(super) last_write: Option<Timestamp>,
}

impl Workspace {
    pub(super) fn stands(&self) -> bool {
        self.present && !self.half
    }
}

/// What was saved.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub(super) rescue: Rescue,
    pub(super) head: CommitId,
    pub(super) index: Tree,
    pub(super) files: Tree,
    pub(super) commits: BTreeSet<CommitId>,
    pub(super) tenancy: u64,
    pub(super) version: u64,
}

/// What an agent has in a workspace that nobody may lose.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) slot: u32,
    pub(super) files: Tree,
    pub(super) staged: Tree,
    pub(super) commits: Vec<CommitId>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) commits: BTreeMap<CommitId, Commit>,
    pub(super) branches: BTreeMap<String, CommitId>,
    pub(super) slots: BTreeMap<SlotId, Workspace>,
    pub(super) foreign: BTreeMap<SlotId, String>,
    pub(super) rescues: Vec<Saved>,
    /// Rescues that the user gave up: not lost, but given away.
    pub(super) dropped: Vec<Saved>,
    pub(super) busy: BTreeMap<SlotId, &'static str>,
    pub(super) ledger: BTreeMap<u64, Work>,
    pub(super) violations: Vec<String>,
    pub(super) counter: u64,
}

pub(super) fn is_ignored(path: &str) -> bool {
    path == ".env" || path.ends_with(".log") || is_regenerable(path)
}

pub(super) fn is_regenerable(path: &str) -> bool {
    path.starts_with("target/")
}

pub(super) fn taken(branch: &str, why: &str) -> Error {
    Error::new(ErrorKind::NameTaken, format!("the branch {branch} {why}"))
        .with_hint("choose another branch or lease name")
}

pub(super) fn would_lose(slot: SlotId, what: &str) -> Error {
    Error::new(ErrorKind::WouldLoseWork, format!("slot {slot} {what}"))
        .with_hint("inspect and preserve it again")
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            commits: BTreeMap::new(),
            branches: BTreeMap::new(),
            slots: BTreeMap::new(),
            foreign: BTreeMap::new(),
            rescues: Vec::new(),
            dropped: Vec::new(),
            busy: BTreeMap::new(),
            ledger: BTreeMap::new(),
            violations: Vec::new(),
            counter: 0,
        };
        let file = |path: &str, text: &str| (path.to_owned(), Bytes::from(text.as_bytes()));
        let first = Tree::from([file("README.md", "# A fixture\n"), file("src/lib.rs", "41\n")]);
        let second = Tree::from([file("src/lib.rs", "42\n"), file("data/one.txt", "one\n")]);
        let begin = world.add_commit(None, first.clone());
        let main = world.add_commit(Some(begin.clone()), first.into_iter().chain(second).collect());
        world.branches = BTreeMap::from([("main".into(), main), ("side".into(), begin)]);
        world
    }

    pub(super) fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(super) fn add_commit(&mut self, parent: Option<CommitId>, tree: Tree) -> CommitId {
        let id = CommitId::new(format!("c{:07}", self.next())).expect("it is a good id");
        self.commits.insert(id.clone(), Commit { parent, tree });
        id
    }

    pub(super) fn violation(&mut self, what: String) -> Error {
        self.violations.push(what.clone());
        Error::new(ErrorKind::Other, format!("broken contract: {what}"))
    }

    pub(super) fn revision(&self, text: &str) -> Result<CommitId> {
        let commit = CommitId::new(text).ok().filter(|id| self.commits.contains_key(id));
        commit.or_else(|| self.branches.get(text).cloned()).ok_or_else(|| {
            Error::new(ErrorKind::UnknownRevision, format!("there is no revision {text:?}"))
                .with_hint("give a branch or a commit id")
        })
    }

    pub(super) fn head(&self, ws: &Workspace) -> CommitId {
        ws.on.as_ref().and_then(|b| self.branches.get(b)).unwrap_or(&ws.detached_at).clone()
    }

    /// The commits that can be reached from those.
    pub(super) fn reach<'a>(
        &'a self,
        from: impl IntoIterator<Item = &'a CommitId>,
    ) -> BTreeSet<CommitId> {
        let mut seen = BTreeSet::new();
        for tip in from {
            let mut next = Some(tip);
            while let Some(id) = next.filter(|id| seen.insert((*id).clone())) {
                next = self.commits.get(id).and_then(|commit| commit.parent.as_ref());
            }
        }
        seen
    }

    pub(super) fn tree(&self, commit: &CommitId) -> &Tree {
        &self.commits[commit].tree
    }

    pub(super) fn is_checked_out(&self, branch: &str, except: Option<SlotId>) -> bool {
        branch == "main"
            || self.slots.iter().any(|(slot, ws)| {
                Some(*slot) != except && ws.present && ws.on.as_deref() == Some(branch)
            })
    }
}
