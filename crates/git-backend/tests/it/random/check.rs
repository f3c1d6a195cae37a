//! What must hold after each step, as far as it can be seen from outside.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pool_core::{Isolator as _, PoolState, SlotState};
use testkit::fixture::{Snapshot, snapshot};

use super::{CAP, Seen, World, look};
use crate::support::{Fixture, git, status};

/// What the pool must never touch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outside {
    main: (Seen, String),
    theirs: (Seen, String),
    beside: Snapshot,
    refs: String,
}

impl Outside {
    pub(super) fn look(fixture: &Fixture) -> Self {
        let root = fixture.root.path().canonicalize().expect("it exists");
        let all = |place: &Path| (look(place), status(place));
        Self {
            main: all(&fixture.repo),
            theirs: all(&root.join("theirs")),
            beside: snapshot(root.join("beside")),
            refs: git(&fixture.repo, &["show-ref", "main", "topic"]),
        }
    }
}

impl World {
    /// While it goes on, what only a reflog keeps is where the agent left it; `at_the_end`, not.
    pub(super) fn check(&mut self, at_the_end: bool) {
        let state = self.list();
        let leases: Vec<_> = state
            .slots
            .values()
            .filter(|s| s.state.occupies())
            .filter_map(|s| Some((s.id, s.state.lease()?)))
            .collect();
        let slots: BTreeSet<_> =
            leases.iter().map(|(slot, _)| self.isolator.place(*slot)).collect();
        let branches: BTreeSet<_> = leases
            .iter()
            .filter_map(|(_, lease)| Some(&lease.base.branch.as_ref()?.name))
            .collect();
        let places: BTreeSet<_> = self.held.iter().map(|held| &held.place).collect();
        assert_eq!(
            (slots.len(), branches.len()),
            (leases.len(), leases.len()),
            "1: one lease each"
        );
        assert_eq!(places.len(), self.held.len(), "1: one lease for a path");

        let cap = CAP as usize;
        assert!(state.occupied() <= cap && state.slots.len() <= cap, "2: the cap");

        self.check_work(at_the_end);

        assert_eq!(Outside::look(&self.fixture), self.outside, "4: what is not the pool's");

        if let Some((place, files)) = &self.foreign {
            assert_eq!(&snapshot(place), files, "4: {}", place.display());
        }

        for held in &self.held {
            let here = state.slots.get(&held.guard.slot()).map(|slot| &slot.state);
            let Some(SlotState::Leased { lease }) = here else {
                panic!("5: {} has {here:?}", held.place.display())
            };
            assert_eq!(lease.token(), held.guard.token(), "5: {}", held.place.display());
            assert_eq!(look(&held.place), held.seen, "5: {}", held.place.display());
        }
        for (place, files) in &self.occupied {
            assert_eq!(&look(place).0, files, "5: somebody stands in {}", place.display());
        }

        assert!(state.generation.0 >= self.generation, "6: generations only grow");
        self.generation = state.generation.0;

        if !self.crashed {
            self.check_places(&state);
        }
    }

    fn check_work(&self, at_the_end: bool) {
        let mut all = vec!["rev-list", "--objects", "--all"];
        if !at_the_end {
            all.push("--reflog");
        }
        let reached = git(&self.fixture.repo, &all);
        let reached: BTreeSet<&str> =
            reached.lines().filter_map(|line| line.split(' ').next()).collect();
        for (path, id) in &self.work {
            let found = reached.contains(id.as_str()) || self.is_in_place(path, id);
            assert!(found, "3: {} is lost", path.display());
        }
    }

    fn is_in_place(&self, path: &Path, id: &str) -> bool {
        if path.exists() {
            return git(&self.fixture.repo, &["hash-object", "--", path.to_str().expect("UTF-8")])
                == id;
        }
        // Committed in a worktree that stands: its HEAD and its reflog keep it as well.
        let slots = std::fs::read_dir(self.fixture.pool_dir().join("slots"));
        slots.into_iter().flatten().flatten().any(|slot| {
            let place = slot.path().join("demo");
            place.join(".git").exists()
                && path.starts_with(&place)
                && git(&place, &["rev-list", "--objects", "--reflog", "HEAD", "--indexed-objects"])
                    .contains(id)
        })
    }

    fn check_places(&self, state: &PoolState) {
        let recorded: BTreeSet<_> = state.slots.keys().map(|id| self.isolator.place(*id)).collect();
        let slots = std::fs::read_dir(self.fixture.pool_dir().join("slots"));
        let on_disk: BTreeSet<_> = slots
            .into_iter()
            .flatten()
            .map(|slot| slot.expect("it can be read").path().join("demo"))
            .filter(|place| place.exists())
            .collect();
        let listed = git(&self.fixture.repo, &["worktree", "list", "--porcelain"]);
        let listed: BTreeSet<_> = listed
            .lines()
            .filter_map(|line| line.strip_prefix("worktree ").map(PathBuf::from))
            .filter(|place| place.starts_with(self.fixture.pool_dir()))
            .chain(self.foreign.iter().map(|(place, _)| place.clone()))
            .collect();
        assert_eq!(listed, recorded, "9: git's list and the records");
        let deleted = recorded.difference(&on_disk).all(|place| self.deleted.contains(place));
        assert!(deleted && on_disk.is_subset(&recorded), "9: {on_disk:?} and {recorded:?}");
    }
}
