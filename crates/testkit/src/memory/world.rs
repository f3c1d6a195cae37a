//! The state behind the memory isolator, and the steps that change it, each at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use pool_core::{
    BranchReport, CommitId, Condition, Discovered, Error, ErrorKind, Inspection, Losses, Plan,
    Preserved, Rescue, RescueId, Result, SlotId,
};

pub(super) type Bytes = Arc<[u8]>;
pub(super) type Tree = BTreeMap<String, Bytes>;

#[derive(Debug)]
struct Commit {
    parent: Option<CommitId>,
    tree: Tree,
}

/// A workspace, whole, half or gone.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) plan: Plan,
    /// Which lease of life it is in: one for each provision and recycle.
    pub(super) tenancy: u64,
    /// Where it is when on no branch.
    detached_at: CommitId,
    pub(super) on: Option<String>,
    pub(super) index: Tree,
    pub(super) files: Tree,
    reflog: BTreeSet<CommitId>,
    /// Grows with each change an agent makes.
    version: u64,
    half: bool,
    pub(super) present: bool,
    pub(super) unsavable: Option<String>,
    last_write: Option<Timestamp>,
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
    commits: BTreeSet<CommitId>,
    tenancy: u64,
    version: u64,
}

/// What an agent has in a workspace that nobody may lose.
#[derive(Debug, Default)]
struct Work {
    slot: u32,
    files: Tree,
    staged: Tree,
    commits: Vec<CommitId>,
}

#[derive(Debug)]
pub(super) struct World {
    commits: BTreeMap<CommitId, Commit>,
    pub(super) branches: BTreeMap<String, CommitId>,
    pub(super) slots: BTreeMap<SlotId, Workspace>,
    pub(super) foreign: BTreeMap<SlotId, String>,
    pub(super) rescues: Vec<Saved>,
    /// Rescues that the user gave up: not lost, but given away.
    pub(super) dropped: Vec<Saved>,
    pub(super) busy: BTreeMap<SlotId, &'static str>,
    ledger: BTreeMap<u64, Work>,
    violations: Vec<String>,
    counter: u64,
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

fn would_lose(slot: SlotId, what: &str) -> Error {
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

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn add_commit(&mut self, parent: Option<CommitId>, tree: Tree) -> CommitId {
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
    fn reach<'a>(&'a self, from: impl IntoIterator<Item = &'a CommitId>) -> BTreeSet<CommitId> {
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

    // The agent's side.

    pub(super) fn expect(&mut self, slot: SlotId) -> &mut Workspace {
        match self.slots.get_mut(&slot) {
            Some(ws) if ws.stands() => ws,
            _ => panic!("there is no workspace in slot {slot}"),
        }
    }

    fn work(&mut self, slot: SlotId) -> &mut Work {
        let tenancy = self.expect(slot).tenancy;
        self.ledger.entry(tenancy).or_insert_with(|| Work { slot: slot.0, ..Work::default() })
    }

    pub(super) fn write(&mut self, slot: SlotId, path: &str, bytes: Bytes, now: Timestamp) {
        let ws = self.expect(slot);
        ws.files.insert(path.to_owned(), Arc::clone(&bytes));
        if !is_regenerable(path) {
            ws.version += 1;
            ws.last_write = Some(now);
            self.work(slot).files.insert(path.to_owned(), bytes);
        }
    }

    pub(super) fn remove(&mut self, slot: SlotId, path: &str) {
        let ws = self.expect(slot);
        ws.version += 1;
        assert!(ws.files.remove(path).is_some(), "there is no file {path} in slot {slot}");
        self.work(slot).files.remove(path);
    }

    pub(super) fn stage(&mut self, slot: SlotId, path: &str) {
        let ws = self.expect(slot);
        ws.version += 1;
        match ws.files.get(path).cloned() {
            Some(bytes) => {
                ws.index.insert(path.to_owned(), Arc::clone(&bytes));
                self.work(slot).staged.insert(path.to_owned(), bytes);
            }
            None => {
                ws.index.remove(path);
                self.work(slot).staged.remove(path);
            }
        }
    }

    pub(super) fn commit(&mut self, slot: SlotId) -> CommitId {
        let ws = self.expect(slot);
        ws.version += 1;
        let tracked = |path: &String| ws.index.contains_key(path) || !is_ignored(path);
        let tree: Tree = ws
            .files
            .iter()
            .filter(|(p, _)| tracked(p))
            .map(|(p, b)| (p.clone(), Arc::clone(b)))
            .collect();
        ws.index = tree.clone();
        let parent = self.head(&self.slots[&slot]);
        let id = self.add_commit(Some(parent), tree);
        self.move_head(slot, &id);
        let work = self.work(slot);
        work.commits.push(id.clone());
        work.staged.clear();
        id
    }

    fn move_head(&mut self, slot: SlotId, to: &CommitId) {
        let ws = self.slots.get_mut(&slot).expect("the caller has just looked");
        ws.reflog.insert(to.clone());
        ws.detached_at = to.clone();
        if let Some(branch) = &ws.on {
            self.branches.insert(branch.clone(), to.clone());
        }
    }

    pub(super) fn reset_away(&mut self, slot: SlotId) {
        self.expect(slot).version += 1;
        let head = self.head(&self.slots[&slot]);
        let parent = self.commits[&head].parent.clone().expect("the commit has a parent");
        let tree = self.commits[&parent].tree.clone();
        self.move_head(slot, &parent);
        let ws = self.expect(slot);
        ws.files.retain(|path, _| !ws.index.contains_key(path));
        ws.files.extend(tree.clone());
        ws.index = tree;
        let kept = ws.files.clone();
        let work = self.work(slot);
        work.staged.clear();
        work.files.retain(|path, bytes| kept.get(path) == Some(bytes));
    }

    pub(super) fn delete_by_hand(&mut self, slot: SlotId) {
        let work = self.work(slot);
        work.files.clear();
        work.staged.clear();
        let ws = self.expect(slot);
        ws.present = false;
        ws.files.clear();
        ws.index.clear();
    }

    // The pool's side.

    fn check_base(&self, plan: &Plan) -> Result<()> {
        self.revision(plan.base.commit.as_str())?;
        let Some(branch) = &plan.base.branch else { return Ok(()) };
        match self.branches.get(&branch.name) {
            Some(_) if branch.created => Err(taken(&branch.name, "exists")),
            Some(tip) if *tip != plan.base.commit => Err(taken(&branch.name, "was moved")),
            Some(_) if self.is_checked_out(&branch.name, Some(plan.slot)) => {
                Err(taken(&branch.name, "is checked out elsewhere"))
            }
            None if !branch.created => Err(taken(&branch.name, "is gone")),
            _ => Ok(()),
        }
    }

    pub(super) fn begin(&mut self, plan: &Plan) -> Result<()> {
        let slot = plan.slot;
        if self.slots.contains_key(&slot) {
            return Err(self.violation(format!("provision of slot {slot}, which is not empty")));
        }
        if let Some(what) = self.foreign.get(&slot) {
            return Err(would_lose(slot, &format!("has in its place {what}")));
        }
        self.check_base(plan)?;
        self.settle_in(plan, Tree::new());
        Ok(())
    }

    /// Registers the workspace of that plan, half-made.
    fn settle_in(&mut self, plan: &Plan, files: Tree) {
        let tenancy = self.next();
        let on = plan.base.branch.as_ref().map(|branch| branch.name.clone());
        if let Some(branch) = &on {
            self.branches.insert(branch.clone(), plan.base.commit.clone());
        }
        let ws = Workspace {
            plan: plan.clone(),
            tenancy,
            detached_at: plan.base.commit.clone(),
            on,
            index: Tree::new(),
            files,
            reflog: BTreeSet::from([plan.base.commit.clone()]),
            version: 0,
            half: true,
            present: true,
            unsavable: None,
            last_write: None,
        };
        self.slots.insert(plan.slot, ws);
    }

    pub(super) fn fill(&mut self, slot: SlotId) {
        let Some(ws) = self.slots.get(&slot) else { return };
        let tree = self.commits[&self.head(ws)].tree.clone();
        let ws = self.slots.get_mut(&slot).expect("it was there a line ago");
        ws.files.extend(tree.clone());
        ws.index = tree;
    }

    pub(super) fn finish(&mut self, slot: SlotId) {
        if let Some(ws) = self.slots.get_mut(&slot) {
            ws.half = false;
        }
    }

    fn branch_report(&self, plan: &Plan) -> Option<BranchReport> {
        let branch = plan.base.branch.as_ref()?;
        let tip = self.branches.get(&branch.name);
        let kept = tip.is_some_and(|tip| !branch.created || *tip != plan.base.commit);
        let base = self.reach([&plan.base.commit]);
        let commits = self.reach(tip).difference(&base).count() as u64;
        Some(BranchReport { name: branch.name.clone(), kept, commits })
    }

    /// The commits that would be gone with the workspace.
    fn only_here(&self, ws: &Workspace) -> BTreeSet<CommitId> {
        // A branch that the pool will delete, because it is where it was made, keeps nothing.
        let own = ws.plan.base.branch.as_ref().filter(|branch| branch.created);
        let doomed = |name: &String, tip: &CommitId| {
            own.is_some_and(|own| own.name == *name) && *tip == ws.plan.base.commit
        };
        let refs =
            self.branches.iter().filter(|(name, tip)| !doomed(name, tip)).map(|(_, tip)| tip);
        let saved = self.rescues.iter().flat_map(|saved| &saved.commits);
        let elsewhere = self.reach(refs.chain(saved));
        let head = self.head(ws);
        self.reach(ws.reflog.iter().chain([&head])).difference(&elsewhere).cloned().collect()
    }

    fn losses(&self, ws: &Workspace) -> Losses {
        if ws.half {
            return Losses::default();
        }
        let commits = self.only_here(ws).len() as u64;
        if !ws.present {
            return Losses { commits, ..Losses::default() };
        }
        let head = &self.commits[&self.head(ws)].tree;
        let differing = |a: &Tree, b: &Tree| {
            let paths: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            paths.into_iter().filter(|path| a.get(*path) != b.get(*path)).count() as u64
        };
        let (tracked, others): (Tree, Tree) =
            ws.files.clone().into_iter().partition(|(path, _)| ws.index.contains_key(path));
        let ignored =
            others.keys().filter(|path| is_ignored(path) && !is_regenerable(path)).count();
        let untracked = others.keys().filter(|path| !is_ignored(path)).count();
        Losses {
            staged: differing(&ws.index, head),
            modified: differing(&tracked, &ws.index),
            untracked: untracked as u64,
            ignored: ignored as u64,
            commits,
            operation: None,
            unsavable: ws.unsavable.iter().cloned().collect(),
        }
    }

    pub(super) fn inspect(&self, plan: &Plan) -> Result<Inspection> {
        if let Some(what) = self.foreign.get(&plan.slot) {
            let message = format!("in the place of slot {} is {what}", plan.slot);
            return Err(Error::new(ErrorKind::Other, message));
        }
        let ws = self.slots.get(&plan.slot);
        Ok(Inspection {
            plan: plan.clone(),
            losses: ws.map_or_else(Losses::default, |ws| self.losses(ws)),
            branch: self.branch_report(plan),
            last_write: ws.and_then(|ws| ws.last_write),
            present: ws.is_some_and(|ws| ws.present),
        })
    }

    pub(super) fn preserve(&mut self, plan: &Plan, now: Timestamp) -> Result<Preserved> {
        let found = self.inspect(plan)?;
        let found = match Preserved::nothing_to_lose(found) {
            Ok(proof) => return Ok(proof),
            Err(found) => found,
        };
        if let Some(reason) = found.losses.unsavable.first() {
            return Err(would_lose(plan.slot, &format!("has what can't be saved: {reason}")));
        }
        let rescue = self.save(plan.slot, &found.losses, now);
        Preserved::by_rescue(found, rescue)
            .map_err(|found| would_lose(plan.slot, &format!("would lose {}", found.losses)))
    }

    fn save(&mut self, slot: SlotId, losses: &Losses, now: Timestamp) -> Rescue {
        let ws = &self.slots[&slot];
        // The same state is saved once, however often it is asked for.
        let state = (ws.tenancy, ws.version);
        if let Some(saved) =
            self.rescues.iter().find(|saved| (saved.tenancy, saved.version) == state)
        {
            return saved.rescue.clone();
        }
        let head = self.head(ws);
        let commits = self.only_here(ws);
        let mut files = ws.files.clone();
        files.retain(|path, _| !is_regenerable(path));
        let index = ws.index.clone();
        let (lease, name) = ws.plan.lease.clone().unzip();
        let id = RescueId::new(format!("rescue-{:04}", self.next())).expect("it is a good id");
        let rescue = Rescue {
            reference: format!("memory/{id}"),
            id,
            lease,
            name,
            created_at: now,
            files: losses.files(),
            commits: losses.commits,
        };
        let (tenancy, version) = state;
        self.rescues.push(Saved {
            rescue: rescue.clone(),
            head,
            index,
            files,
            commits,
            tenancy,
            version,
        });
        rescue
    }

    /// Whether the proof is for what is in the slot now.
    fn check_proof(&mut self, proof: &Preserved) -> Result<()> {
        let slot = proof.slot();
        if let Some(what) = self.foreign.get(&slot).cloned() {
            return Err(
                self.violation(format!("slot {slot}, where there is {what}, was to be removed"))
            );
        }
        let Some(ws) = self.slots.get(&slot) else { return Ok(()) };
        let losses = self.losses(ws);
        if losses.is_empty() {
            return Ok(());
        }
        let Some(rescue) = proof.rescue() else {
            return Err(would_lose(slot, &format!("has changed since it was inspected: {losses}")));
        };
        let (tenancy, version) = (ws.tenancy, ws.version);
        match self.rescues.iter().find(|saved| saved.rescue.id == rescue.id) {
            Some(saved) if saved.tenancy != tenancy => {
                let id = &rescue.id;
                Err(self.violation(format!("slot {slot} with the proof of another lease, {id}")))
            }
            Some(saved) if saved.version == version => Ok(()),
            Some(_) => Err(would_lose(slot, "has changed since it was preserved")),
            None => Err(self.violation(format!("slot {slot}: there is no rescue {}", rescue.id))),
        }
    }

    /// Deletes the branches that the slot's lease made and did not move.
    fn settle_branches(&mut self, proof: &Preserved) {
        let slot = proof.slot();
        let kept = proof.branch().filter(|report| report.kept).map(|report| report.name.clone());
        let here = self.slots.get(&slot).map(|ws| ws.plan.base.clone());
        for base in here.into_iter().chain([proof.plan().base.clone()]) {
            let Some(branch) = base.branch.filter(|branch| branch.created) else { continue };
            let unmoved = self.branches.get(&branch.name) == Some(&base.commit);
            let elsewhere = self.is_checked_out(&branch.name, Some(slot));
            if unmoved && !elsewhere && kept.as_ref() != Some(&branch.name) {
                self.branches.remove(&branch.name);
            }
        }
    }

    pub(super) fn begin_again(&mut self, plan: &Plan, proof: &Preserved) -> Result<()> {
        let slot = proof.slot();
        if plan.slot != slot {
            let asked = plan.slot;
            return Err(
                self.violation(format!("recycle of slot {asked} with a proof for slot {slot}"))
            );
        }
        self.check_proof(proof)?;
        if !self.slots.get(&slot).is_some_and(Workspace::stands) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no workspace in slot {slot}"),
            )
            .with_hint("dispose of what is left and provision it"));
        }
        self.check_base(plan)?;
        self.settle_branches(proof);
        // Settling may have freed the name, never taken it, so the check above still holds.
        let old = self.slots.remove(&slot).expect("it was there a few lines ago");
        let mut files = old.files;
        files.retain(|path, _| is_regenerable(path));
        self.settle_in(plan, files);
        Ok(())
    }

    pub(super) fn begin_end(&mut self, proof: &Preserved) -> Result<()> {
        self.check_proof(proof)?;
        self.settle_branches(proof);
        if let Some(ws) = self.slots.get_mut(&proof.slot()) {
            ws.half = true;
            ws.on = None;
            ws.files.clear();
            ws.index.clear();
        }
        Ok(())
    }

    pub(super) fn discover(&self) -> Vec<Discovered> {
        let condition = |ws: &Workspace| match (ws.half, ws.present) {
            (true, _) => Condition::HalfMade,
            (false, true) => Condition::Sound,
            (false, false) => Condition::Missing,
        };
        let ours = self.slots.iter().map(|(slot, ws)| (*slot, condition(ws)));
        let others =
            self.foreign.iter().map(|(slot, what)| (*slot, Condition::Foreign(what.clone())));
        let mut all: Vec<Discovered> =
            ours.chain(others).map(|(slot, condition)| Discovered { slot, condition }).collect();
        all.sort_by_key(|found| found.slot);
        all
    }

    // The test's side.

    pub(super) fn audit(&self) -> Result<(), String> {
        if !self.violations.is_empty() {
            return Err(format!("the contract was broken: {}", self.violations.join("; ")));
        }
        let saved = || self.rescues.iter().chain(&self.dropped);
        let standing = || self.slots.values().filter(|ws| !ws.half);
        let heads: Vec<CommitId> = standing().map(|ws| self.head(ws)).collect();
        let reachable = self.reach(
            self.branches
                .values()
                .chain(&heads)
                .chain(standing().flat_map(|ws| &ws.reflog))
                .chain(saved().flat_map(|saved| &saved.commits)),
        );
        let trees = || reachable.iter().map(|id| &self.commits[id].tree);
        for (tenancy, work) in &self.ledger {
            let slot = work.slot;
            if let Some(lost) = work.commits.iter().find(|id| !reachable.contains(*id)) {
                return Err(format!("commit {lost}, made in slot {slot}, is lost"));
            }
            let mine = || saved().filter(|saved| saved.tenancy == *tenancy);
            let here = standing().find(|ws| ws.tenancy == *tenancy);
            let has = |tree: &Tree, path: &String, bytes: &Bytes| tree.get(path) == Some(bytes);
            for (path, bytes) in &work.files {
                let kept = here.is_some_and(|ws| has(&ws.files, path, bytes))
                    || mine().any(|saved| has(&saved.files, path, bytes))
                    || trees().any(|tree| has(tree, path, bytes));
                if !kept {
                    return Err(format!("{path}, written in slot {slot}, is lost"));
                }
            }
            for (path, bytes) in &work.staged {
                let kept = here.is_some_and(|ws| has(&ws.index, path, bytes))
                    || mine().any(|saved| has(&saved.index, path, bytes))
                    || trees().any(|tree| has(tree, path, bytes));
                if !kept {
                    return Err(format!("{path}, staged in slot {slot}, is lost"));
                }
            }
        }
        Ok(())
    }
}
