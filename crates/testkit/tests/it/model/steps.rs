//! How each step of the model is done to the pool.

use std::time::Duration;

use jiff::SignedDuration;
use pool_core::{
    Clock as _, Disposition, ErrorKind, Isolator as _, Pool, PruneOptions, Release, ReleaseReport,
    Result, SlotId, SlotState,
};
use testkit::chaos::{Answer, Method};
use testkit::model::{Deed, Model, Standing, Step, Trouble, UNIT};

use super::system::{Has, RESTING, System, ended, name_of, runtime, session, stranger};

impl System {
    pub(super) fn step(&mut self, model: &Model, step: &Step) {
        match step {
            Step::Acquire(ask) => self.start(model.entries.len() - 1, ask),
            Step::CrashAcquiring(ask, steps) => {
                let number = model.entries.len() - 1;
                self.start(number, ask);
                self.run(number, *steps);
                self.kill(number);
                self.reconcile();
            }
            Step::DropAcquiring(ask, steps) => {
                let number = model.entries.len() - 1;
                self.start(number, ask);
                self.run(number, *steps);
                self.drop_request(number);
                self.reconcile();
            }
            Step::Materialise(number) => {
                let process = self.processes.get_mut(number).expect("it runs");
                process.go.take().expect("once only").send(()).expect("it waits for it");
            }
            Step::Cancel(number) => {
                self.drop_request(*number);
            }
            Step::Renew(number) => {
                let token = &self.leases[number].0;
                let renewed = self.reaper.0.block_on(self.reaper.1.renew(token, None));
                assert_eq!(renewed.expect("it is a lease").token(), *token);
            }
            Step::Release(number) => {
                let released = self.release(*number).expect("it is not hindered");
                let report = released.expect("it can be given back");
                let kept = report.disposition == Disposition::Quarantined;
                assert_eq!(kept, report.kept_because.is_some(), "{report:?}");
                assert_eq!(kept, model.entries[number].standing == Standing::Kept, "{report:?}");
            }
            Step::CrashReleasing(number, steps) => {
                let guard = self.guard(*number).expect("a held lease has a process");
                drop(self.processes[number].runtime.spawn(guard.release(Release::default())));
                self.run(*number, *steps);
                self.kill(*number);
                self.reconcile();
            }
            Step::ReleaseAgain(number) => {
                let (token, before) = (&self.leases[number].0, self.list());
                let again = self.reaper.1.release(token, Release::default());
                self.reaper.0.block_on(again).expect("it is remembered");
                assert_eq!(self.list(), before, "a second release changed something");
            }
            Step::RenewStale(number) => {
                let (token, before) = (&self.leases[number].0, self.list());
                let renewed = self.reaper.0.block_on(self.reaper.1.renew(token, None));
                assert_eq!(renewed.expect_err("it is over").kind(), ErrorKind::StaleLease);
                assert_eq!(self.list(), before, "a stale token changed something");
            }
            Step::Kill(number) => self.kill(*number),
            Step::Write(number, file) => {
                self.writes += 1;
                let slot = self.leases[number].1;
                let path = ["a.txt", "deep/b.txt", ".env", "README.md"][usize::from(*file) % 4];
                self.isolator.write(slot, path, format!("write {}\n", self.writes));
                self.look(*number);
            }
            Step::Commit(number) => drop(self.isolator.commit(self.leases[number].1)),
            Step::DeleteByHand(number) => {
                self.isolator.delete_by_hand(self.leases[number].1);
                self.look(*number);
            }
            Step::Pass(units) => self.clock.advance(Duration::from_secs(units * UNIT)),
            Step::SetWall(hours) => {
                let wall = self.clock.now().wall + SignedDuration::from_hours((*hours).into());
                self.clock.set_wall(wall);
            }
            Step::Reboot => self.reboot(),
            Step::Reconcile => self.reconcile(),
            Step::PruneAll => self.prune(),
            Step::Enter(number) => {
                let pid = self.machine.spawn(&stranger(*number));
                self.machine.occupy(self.isolator.place(self.leases[number].1).join("src"), pid);
            }
            Step::Leave(number) => self.machine.kill(&stranger(*number)),
            Step::Spoil(number) => {
                self.isolator.set_unsavable(self.leases[number].1, Some("a pipe"));
            }
            Step::Mend(number) => self.isolator.set_unsavable(self.leases[number].1, None),
            Step::PutForeign(ask) => {
                self.prune();
                let state = self.list();
                // Where the next new slot is to be made: numbers are those of generations.
                let next = u32::try_from(state.generation.0 + 1).expect("a short life");
                let slot = (next..).map(SlotId).find(|slot| !state.slots.contains_key(slot));
                let (slot, what) = (slot.expect("there are many numbers"), "somebody else's files");
                self.isolator.set_foreign(slot, Some(what));
                self.foreign.insert(slot, what.to_owned());
                if let Some(ask) = ask {
                    let number = model.entries.len() - 1;
                    self.start(number, ask);
                    self.drive_alone(&self.processes[&number].runtime);
                }
                self.reconcile();
            }
            Step::TakeForeign => {
                let (slot, _) = self.foreign.pop_first().expect("there is something");
                self.isolator.set_foreign(slot, None);
                self.reconcile();
            }
            Step::Amid(trouble, deed) => self.amid(model, *trouble, deed),
            Step::EndSession(number) => {
                match self.reaper.0.block_on(self.reaper.1.end_session(&session(*number))) {
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
                        self.reconcile();
                    }
                }
            }
        }
    }

    /// Drops a request. Its process lives until nothing of the request is left, and then ends.
    fn drop_request(&mut self, number: usize) {
        let process = &self.processes[&number];
        process.task.abort();
        self.drive_alone(&process.runtime);
        let leased = matches!(&*process.has.lock().expect("no panic"), Has::Leased(_));
        let state = self.list();
        let waits = state.waiters.values().any(|w| w.lease.name == name_of(number));
        let granted = state.slots.values().any(|slot| {
            let lease = slot.state.lease();
            slot.state.occupies() && lease.is_some_and(|lease| lease.name == name_of(number))
        });
        assert!(leased || !(waits || granted), "10: request {number} leaks: {state:#?}");
        self.kill(number);
    }

    /// Gives a lease back and ends who did that. `None` when it did not come to an end.
    fn release(&mut self, number: usize) -> Option<Result<ReleaseReport>> {
        let how = Release::default();
        if let Some(guard) = self.guard(number) {
            let runtime = &self.processes[&number].runtime;
            let task = runtime.spawn(guard.release(how));
            self.drive_alone(runtime);
            let released = ended(runtime, task);
            self.kill(number);
            return released;
        }
        let token = self.leases[&number].0.clone();
        self.help(async move |pool| pool.release(&token, how).await)
    }

    /// Has a process of its own do something, and ends it. `None` when it did not come to an end.
    fn help<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &mut self,
        deed: impl FnOnce(Pool) -> F,
    ) -> Option<T> {
        self.helpers += 1;
        let name = format!("helper-{}", self.helpers);
        let runtime = runtime();
        let task = runtime.spawn(deed(self.open(&name)));
        self.drive_alone(&runtime);
        let done = ended(&runtime, task);
        self.machine.kill(&name);
        done
    }

    fn amid(&mut self, model: &Model, trouble: Trouble, deed: &Deed) {
        let resting = self.begin(trouble);
        let before = resting.map(|slot| (self.isolator.plan(slot), self.work(slot)));
        match deed {
            Deed::Acquire(ask) => {
                let number = model.entries.len() - 1;
                self.start(number, ask);
                self.drive_alone(&self.processes[&number].runtime);
                if trouble.hangs() && model.entries[&number].standing == Standing::Over {
                    self.kill(number);
                }
            }
            Deed::Release(number) => match self.release(*number) {
                Some(released) => drop(released.expect("only the records could fail it")),
                None => assert!(trouble.hangs(), "releasing {number} hangs"),
            },
            Deed::Reconcile => {
                let done = self.help(async move |pool| pool.reconcile().await);
                let may_fail = matches!(trouble, Trouble::Backend(Method::Discover, _));
                match done {
                    Some(done) => assert!(done.is_ok() || may_fail, "{done:?}"),
                    None => assert!(trouble.hangs(), "the reconciliation hangs"),
                }
            }
        }
        self.check_safety(model);
        let after = resting.map(|slot| (self.isolator.plan(slot), self.work(slot)));
        assert_eq!(after, before, "5: a slot in which somebody stands was touched");
        self.machine.kill(RESTING);
        self.chaos.calm();
        self.cache.always(Answer::Ok);
        self.reconcile();
    }

    /// Makes something go wrong. Returns the slot in which somebody stands.
    fn begin(&self, trouble: Trouble) -> Option<SlotId> {
        match trouble {
            Trouble::Stranger(which) => {
                let rests =
                    |s: &SlotState| matches!(s, SlotState::Free | SlotState::Lingering { .. });
                let state = self.list();
                let resting: Vec<SlotId> =
                    state.slots.values().filter(|s| rests(&s.state)).map(|s| s.id).collect();
                let slot = *resting.get(usize::from(which).checked_rem(resting.len())?)?;
                self.machine.occupy(self.isolator.place(slot), self.machine.spawn(RESTING));
                return Some(slot);
            }
            Trouble::Resolving(answer) => self.chaos.always(Method::Resolve, answer),
            Trouble::Making(answer) => {
                self.chaos.always(Method::Provision, answer);
                self.chaos.always(Method::Recycle, answer);
            }
            Trouble::Backend(method, answer) => self.chaos.always(method, answer),
            Trouble::Cache(answer) => self.cache.always(answer),
        }
        None
    }

    fn run(&self, number: usize, steps: u32) {
        self.processes[&number].runtime.block_on(async {
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
        });
    }

    pub(super) fn prune(&self) {
        let options = PruneOptions { all: true, ..PruneOptions::default() };
        let pruned = self.reaper.0.block_on(self.reaper.1.prune(options, &|_| ()));
        pruned.expect("the records do not fail");
        self.reconcile();
    }

    fn reboot(&mut self) {
        self.machine.reboot();
        for number in self.processes.keys().copied().collect::<Vec<_>>() {
            self.kill(number);
        }
        self.clock.reboot();
        self.boots += 1;
        self.reaper = (runtime(), self.open(&format!("reaper-{}", self.boots)));
    }
}
