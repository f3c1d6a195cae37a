//! What a pool does to the workspaces of the memory isolator, and what it must not.

use std::collections::BTreeSet;

use jiff::Timestamp;
use pool_core::{
    BranchReport, CommitId, Condition, Discovered, Error, ErrorKind, Inspection, Losses, Plan,
    Preserved, Rescue, RescueId, Result, SlotId,
};

use super::world::{Saved, Tree, Workspace, World, is_ignored, is_regenerable, taken, would_lose};

impl World {
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
        self.settle_in(plan);
        Ok(())
    }

    /// Registers the workspace of that plan, half-made.
    fn settle_in(&mut self, plan: &Plan) {
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
            files: Tree::new(),
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
        let name = branch.name.clone();
        Some(BranchReport { name, kept, commits, renamed_to: None, elsewhere: Vec::new() })
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
            fingerprint: ws.map(|ws| ws.version),
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
            commit: None,
            reference: format!("memory/{id}"),
            id,
            lease,
            name,
            created_at: now,
            files: losses.files(),
            commits: losses.commits,
            worktree: None,
            nested: Vec::new(),
            damage: None,
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
        self.slots.remove(&slot).expect("it was there a few lines ago");
        self.settle_in(plan);
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
}
