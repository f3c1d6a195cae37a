//! Whether all that was ever written to the memory isolator is still there.

use pool_core::CommitId;

use super::world::{Bytes, Tree, World};

impl World {
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
