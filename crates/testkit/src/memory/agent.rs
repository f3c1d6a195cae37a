//! What an agent does in a workspace of the memory isolator, and a user behind the pool's back.

use std::sync::Arc;

use jiff::Timestamp;
use pool_core::{CommitId, SlotId};

use super::world::{Bytes, Tree, Work, Workspace, World, is_ignored, is_regenerable};

impl World {
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
}
