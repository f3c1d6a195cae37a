//! The shared store: the same behaviour as the one in memory, many at once, and every kind of
//! damage.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pool_core::{
    Base, BootId, Branch, ClaimKey, CommitId, Deadline, Disposition, End, EndReason, EndedLease,
    ErrorKind, Event, EventKind, Generation, Lease, LeaseId, LeaseName, LeaseStore, Linger,
    MemoryStore, Moment, Outcome, Owner, Plan, PoolState, ProcessIdentity, Session, SessionId,
    Slot, SlotId, SlotState, SqliteStore, Ticket, Token, Waiter,
};
use proptest::prelude::*;

// ---- helpers -----------------------------------------------------------------------------------

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn pool(&self) -> PathBuf {
        self.0.path().join("pool")
    }
    fn file(&self, name: &str) -> PathBuf {
        self.pool().join(name)
    }
    fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.pool()).unwrap()
    }
    /// The files that were moved aside.
    fn corrupt(&self) -> Vec<String> {
        let names = fs::read_dir(self.pool())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|n| n.starts_with("pool.db.corrupt-")).collect();
        names.sort();
        names
    }
    fn sidecar(&self, slot: u32) -> PathBuf {
        self.file(&format!("slots/{slot}/slot.json"))
    }
}

async fn change(store: &dyn LeaseStore, change: impl FnOnce(&mut PoolState) + Send + 'static) {
    store.change(Box::new(change)).await.unwrap();
}

fn moment(uptime: u64) -> Moment {
    let wall = Timestamp::from_second(1_700_000_000 + i64::try_from(uptime).unwrap()).unwrap();
    Moment { boot: BootId("boot".into()), uptime: Duration::from_secs(uptime), wall }
}

fn lease(n: u64) -> Lease {
    Lease {
        id: LeaseId::generate(Timestamp::from_second(1_700_000_000).unwrap()),
        generation: Generation(n),
        name: LeaseName::new(format!("lease-{n}")).unwrap(),
        holder: "somebody \"quoted\"\nü".into(),
        session: (n.is_multiple_of(2)).then(|| SessionId::new("s").unwrap()),
        owner: match n % 3 {
            0 => Owner::Holder,
            1 => Owner::Detached,
            _ => {
                Owner::Process(ProcessIdentity { pid: 7, start_time: n, boot: BootId("b".into()) })
            }
        },
        base: Base {
            commit: CommitId::new("abc123").unwrap(),
            branch: Some(Branch { name: format!("wtpool/lease-{n}"), created: true }),
        },
        acquired: moment(n % 1000),
        deadline: (n % 2 == 1).then(|| Deadline::after(&moment(5), Duration::from_millis(1500))),
        linger: Linger { success: Duration::ZERO, failure: Duration::from_secs(60) },
        attachment: pool_core::Attachment {
            strategy: "private".into(),
            env: BTreeMap::from([("CARGO_TARGET_DIR".into(), "/x y".into())]),
            ..Default::default()
        },
        command_ended: (n.is_multiple_of(5)).then(|| (moment(9), Outcome::Failure)),
        kept_because: None,
    }
}

fn slot(id: u32, state: SlotState) -> Slot {
    let commit = CommitId::new("abc123").unwrap();
    let plan = Plan { slot: SlotId(id), lease: None, base: Base { commit, branch: None } };
    Slot { id: SlotId(id), plan: Some(plan), last_used: moment(3), warm: false, state }
}

fn leased(id: u32, generation: u64) -> Slot {
    slot(id, SlotState::Leased { lease: Box::new(lease(generation)) })
}

fn waiter(n: u64) -> Waiter {
    Waiter {
        lease: lease(n),
        ttl: Some(Duration::from_secs(60)),
        worker: ClaimKey::for_worker(Timestamp::UNIX_EPOCH),
        since: moment(1),
        until: None,
    }
}

fn end() -> End {
    End {
        outcome: Outcome::Success,
        reason: EndReason::Released,
        linger: Duration::ZERO,
        rescue: None,
        branch: None,
    }
}

fn ended(n: u64) -> EndedLease {
    let lease = lease(n);
    EndedLease {
        token: lease.token(),
        name: lease.name,
        slot: SlotId(1),
        end: end(),
        at: moment(4),
        disposition: Disposition::Recycled,
    }
}

fn event(note: impl Into<String>) -> Event {
    Event {
        at: Timestamp::UNIX_EPOCH,
        kind: EventKind::Granted,
        slot: Some(SlotId(1)),
        lease: None,
        name: None,
        generation: Some(Generation(3)),
        note: Some(note.into()),
    }
}

/// Three slots, of which two are leased; a waiter, a session, an ended lease, three events.
async fn fill(store: &dyn LeaseStore) -> PoolState {
    change(store, |state| {
        state.generation = Generation(5);
        state.ticket = Ticket(9);
        state.slots.insert(SlotId(1), leased(1, 4));
        state.slots.insert(SlotId(2), leased(2, 5));
        state.slots.insert(SlotId(3), slot(3, SlotState::Free));
        state.waiters.insert(Ticket(9), waiter(9));
        let session = Session { process: None, last_used: moment(1), over: false };
        state.sessions.insert(SessionId::new("s").unwrap(), session);
        state.ended.push_back(ended(3));
        state.outbox.extend(["a", "b", "c"].map(event));
    })
    .await;
    store.load().await.unwrap()
}

/// What a rebuild must give back.
fn assert_rebuilt(was: &PoolState, is: &PoolState) {
    assert_eq!(is.slots, was.slots);
    assert_eq!(is.waiters.len(), 0, "who waits queues again");
    assert_eq!(is.sessions, was.sessions);
    assert!(is.generation >= was.generation, "{} {}", is.generation, was.generation);
    assert!(is.ticket >= was.ticket);
}

// ---- the same behaviour in every store ----------------------------------------------------------

async fn behaves_as_a_store(store: Arc<dyn LeaseStore>) {
    assert_eq!(store.load().await.unwrap(), PoolState::default());
    assert_eq!(store.events(0, 10).await.unwrap(), []);

    let state = fill(&*store).await;
    assert!(state.outbox.is_empty(), "the outbox is not kept");
    assert_eq!(state.slots.len(), 3);
    let log = store.events(0, 10).await.unwrap();
    let notes: Vec<_> = log.iter().map(|l| l.event.note.as_deref().unwrap()).collect();
    assert_eq!(notes, ["a", "b", "c"]);
    assert!(log.is_sorted_by(|a, b| a.sequence < b.sequence));
    assert_eq!(store.events(log[0].sequence, 1).await.unwrap(), log[1..2]);
    assert_eq!(store.events(log[2].sequence, 10).await.unwrap(), []);

    // What is taken out is gone, what is changed is changed, the rest stays.
    change(&*store, |state| {
        state.slots.remove(&SlotId(1));
        state.slots.get_mut(&SlotId(3)).unwrap().warm = true;
        state.waiters.clear();
        state.sessions.clear();
        state.ended.push_back(ended(4));
        state.ended.pop_front();
    })
    .await;
    let after = store.load().await.unwrap();
    assert_eq!(after.slots.keys().copied().collect::<Vec<_>>(), [SlotId(2), SlotId(3)]);
    assert_eq!(after.slots[&SlotId(2)], state.slots[&SlotId(2)]);
    assert!(after.slots[&SlotId(3)].warm);
    assert!(after.waiters.is_empty() && after.sessions.is_empty());
    assert_eq!(after.ended.len(), 1);
    assert_eq!(after.ended[0].name.as_str(), "lease-4");

    // A change that panics has not happened, and the store goes on.
    let other = Arc::clone(&store);
    let panicked = tokio::spawn(async move {
        other
            .change(Box::new(|state| {
                state.slots.clear();
                state.outbox.push(event("never"));
                panic!("on purpose");
            }))
            .await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(store.load().await.unwrap(), after);
    assert_eq!(store.events(0, 10).await.unwrap(), log);

    // Changes at once are all applied, one after the other.
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                change(&*store, |state| {
                    state.generation = state.generation.next();
                    state.outbox.push(event(state.generation.to_string()));
                })
                .await;
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.load().await.unwrap().generation.0, after.generation.0 + 20);
    let log = store.events(log[2].sequence, 100).await.unwrap();
    let notes: Vec<u64> =
        log.iter().map(|l| l.event.note.as_ref().unwrap().parse().unwrap()).collect();
    assert_eq!(notes, (6..26).collect::<Vec<_>>());
}

async fn forgets_old_events(store: Arc<dyn LeaseStore>) {
    change(&*store, |state| state.outbox.extend((0..9_990).map(|n| event(n.to_string())))).await;
    for n in 0..60 {
        change(&*store, move |state| {
            state.outbox.extend((0..20).map(|_| event(format!("late {n}"))))
        })
        .await;
    }
    let log = store.events(0, 100_000).await.unwrap();
    assert!((10_000..=10_500).contains(&log.len()), "{}", log.len());
    assert_eq!(log.last().unwrap().sequence, 11_190);
    assert_eq!(log.last().unwrap().event.note.as_deref(), Some("late 59"));
    assert!(log.is_sorted_by(|a, b| a.sequence + 1 == b.sequence));
}

#[test]
fn memory_and_sqlite_behave_alike() {
    let dir = Dir::new();
    run(behaves_as_a_store(Arc::new(MemoryStore::new())));
    run(behaves_as_a_store(Arc::new(dir.open())));
}

#[test]
fn the_log_is_trimmed() {
    let dir = Dir::new();
    run(forgets_old_events(Arc::new(MemoryStore::new())));
    run(forgets_old_events(Arc::new(dir.open())));
}

// ---- what is on disk ----------------------------------------------------------------------------

#[test]
fn what_was_changed_is_there_for_the_next_process() {
    let dir = Dir::new();
    let (state, log) = run(async {
        let store = dir.open();
        (fill(&store).await, store.events(0, 9).await.unwrap())
    });
    let again = dir.open();
    assert_eq!(run(again.load()).unwrap(), state);
    assert_eq!(run(again.events(0, 9)).unwrap(), log);
    assert_eq!(dir.corrupt(), [""; 0]);
}

#[cfg(unix)]
#[test]
fn the_directory_is_made_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new();
    dir.open();
    assert_eq!(fs::metadata(dir.pool()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn each_slot_has_a_sidecar_as_long_as_it_exists() {
    let dir = Dir::new();
    let store = dir.open();
    run(fill(&store));
    for slot in [1, 2, 3] {
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.sidecar(slot)).unwrap()).unwrap();
        assert_eq!(json["format"], 1);
        assert_eq!(json["slot"]["id"], slot);
    }
    fs::create_dir(dir.file("slots/2/tree")).unwrap();
    run(change(&store, |state| state.slots.clear()));
    assert!(!dir.file("slots/1").exists(), "an empty directory goes with the slot");
    assert!(dir.file("slots/2/tree").exists(), "what lies beside the sidecar stays");
    assert!(!dir.sidecar(2).exists());
}

#[test]
fn a_change_of_nothing_writes_nothing() {
    let dir = Dir::new();
    let store = dir.open();
    run(fill(&store));
    let files = || {
        let names = ["pool.db", "pool.db-wal", "pool.json", "slots/1/slot.json"];
        names.map(|name| fs::read(dir.file(name)).unwrap())
    };
    let before = files();
    run(change(&store, |state| {
        let slots = state.slots.clone();
        state.slots.clear();
        state.slots = slots;
    }));
    assert!(files() == before);
}

#[test]
fn a_change_of_one_slot_writes_one_sidecar() {
    let dir = Dir::new();
    let store = dir.open();
    run(fill(&store));
    let others = || {
        ["pool.json", "slots/1/slot.json", "slots/3/slot.json"]
            .map(|n| fs::read(dir.file(n)).unwrap())
    };
    let (before, of_two) = (others(), fs::read(dir.sidecar(2)).unwrap());
    run(change(&store, |state| {
        state.generation = state.generation.next();
        state.slots.insert(SlotId(2), leased(2, 6));
    }));
    assert!(others() == before);
    assert_ne!(fs::read(dir.sidecar(2)).unwrap(), of_two);
}

#[cfg(unix)]
#[test]
fn a_change_whose_sidecar_cannot_be_written_has_not_happened() {
    let dir = Dir::new();
    let elsewhere = dir.0.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let store = dir.open();
    let before = run(fill(&store));
    let sidecars = || [1, 2, 3].map(|slot| fs::read(dir.sidecar(slot)).unwrap());
    let old = sidecars();
    std::os::unix::fs::symlink(&elsewhere, dir.file("slots/4")).unwrap();
    let error = run(store.change(Box::new(|state| {
        state.generation = Generation(6);
        state.slots.insert(SlotId(1), slot(1, SlotState::Free));
        state.slots.insert(SlotId(4), leased(4, 6));
    })))
    .unwrap_err();
    assert!(error.to_string().contains("slots/4 is not a directory"), "{error}");
    assert_eq!(run(store.load()).unwrap(), before);
    assert!(sidecars() == old);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "nothing is written through a link");
    drop(store);
    assert_eq!(run(dir.open().load()).unwrap(), before);
}

#[test]
fn a_commit_that_fails_takes_the_sidecars_back() {
    let dir = Dir::new();
    let store = dir.open();
    let before = run(fill(&store));
    let old = [1, 2].map(|slot| fs::read(dir.sidecar(slot)).unwrap());
    // A deferred constraint is checked by COMMIT itself, which then fails as on a full disk: after
    // the sidecars were written.
    let other = rusqlite::Connection::open(dir.file("pool.db")).unwrap();
    let refuse = "CREATE TABLE p(id INTEGER PRIMARY KEY);
        CREATE TABLE c(p INTEGER REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED);
        CREATE TRIGGER no AFTER DELETE ON slots BEGIN INSERT INTO c VALUES(1); END";
    other.execute_batch(refuse).unwrap();
    let error = run(store.change(Box::new(|state| {
        state.slots.insert(SlotId(1), slot(1, SlotState::Free));
        state.slots.remove(&SlotId(2));
    })))
    .unwrap_err();
    assert!(error.to_string().contains("FOREIGN KEY"), "{error}");
    assert!([1, 2].map(|slot| fs::read(dir.sidecar(slot)).unwrap()) == old);
    assert!(!dir.file("slots/1/slot.json.new").exists());
    other.execute_batch("DROP TRIGGER no").unwrap();
    assert_eq!(run(store.load()).unwrap(), before);
}

// ---- many at once -------------------------------------------------------------------------------

#[test]
fn thirty_two_stores_change_and_read_at_once() {
    const STORES: u64 = 32;
    const CHANGES: u64 = 100;
    let dir = Dir::new();
    std::thread::scope(|scope| {
        for n in 1..=u32::try_from(STORES).unwrap() {
            let store = dir.open();
            scope.spawn(move || {
                run(async {
                    for _ in 0..CHANGES {
                        change(&store, move |state| {
                            state.generation = state.generation.next();
                            state.slots.insert(SlotId(n), leased(n, state.generation.0));
                            state.outbox.push(event("e"));
                        })
                        .await;
                        assert!(store.load().await.unwrap().generation.0 > 0);
                    }
                })
            });
        }
    });
    let store = dir.open();
    let state = run(store.load()).unwrap();
    assert_eq!(state.generation.0, STORES * CHANGES, "no change was lost");
    let log = run(store.events(0, usize::MAX)).unwrap();
    assert_eq!(log.len() as u64, STORES * CHANGES);
    assert!(log.is_sorted_by(|a, b| a.sequence + 1 == b.sequence));
    assert_eq!(dir.corrupt(), [""; 0]);
}

#[test]
fn stores_opened_at_once_make_one_database() {
    let dir = Dir::new();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| run(change(&dir.open(), |state| state.ticket.0 += 1)));
        }
    });
    assert_eq!(run(dir.open().load()).unwrap().ticket, Ticket(16));
    assert_eq!(dir.corrupt(), [""; 0]);
}

#[test]
fn a_reader_does_not_wait_for_a_writer_and_a_writer_gives_up_in_the_end() {
    let dir = Dir::new();
    dir.open();
    let store = SqliteStore::open_with_patience(&dir.pool(), Duration::from_millis(50)).unwrap();
    let state = run(fill(&store));
    let other = rusqlite::Connection::open(dir.file("pool.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(run(store.load()).unwrap(), state);
    let error = run(store.change(Box::new(|state| state.slots.clear()))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
    assert!(error.hint().is_some());
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(run(store.load()).unwrap(), state);
    run(change(&store, |state| state.slots.clear()));
    assert!(run(store.load()).unwrap().slots.is_empty());
}

// ---- processes ----------------------------------------------------------------------------------

const POOL_OF_CHILD: &str = "POOL_CORE_TEST_POOL";

/// Changes a pool for ever, and says so after each change.
#[test]
#[ignore = "other tests run it as a process of its own"]
fn child() {
    use std::io::Write;
    // With --include-ignored it has no parent.
    let Some(pool) = std::env::var_os(POOL_OF_CHILD) else { return };
    let store = SqliteStore::open(Path::new(&pool)).unwrap();
    run(async {
        loop {
            let (give, take) = std::sync::mpsc::channel();
            change(&store, move |state| {
                state.generation = state.generation.next();
                let generation = state.generation.0;
                let id = u32::try_from(generation % 7).unwrap() + 1;
                // Slots come, change and go.
                match generation % 3 {
                    0 => drop(state.slots.remove(&SlotId(id))),
                    _ => drop(state.slots.insert(SlotId(id), leased(id, generation))),
                }
                state.outbox.push(event(generation.to_string()));
                give.send(generation).unwrap();
            })
            .await;
            // Not by println!, which the test harness would keep to itself.
            writeln!(std::io::stdout(), "did {}", take.recv().unwrap()).unwrap();
        }
    })
}

/// Starts `count` children, kills them all after a while, and returns which changes they
/// were told are kept.
fn killed_at_work(pool: &Path, count: usize, changes: usize) -> Vec<u64> {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let mut children: Vec<_> = (0..count)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "sqlite::child", "--ignored", "--nocapture"])
                .env(POOL_OF_CHILD, pool)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut done = Vec::new();
    let mut outputs: Vec<_> =
        children.iter_mut().map(|c| BufReader::new(c.stdout.take().unwrap()).lines()).collect();
    let mut note = |line: std::io::Result<String>| {
        done.extend(line.unwrap().strip_prefix("did ").map(|n| n.parse::<u64>().unwrap()));
    };
    for output in &mut outputs {
        output.by_ref().take(changes).for_each(&mut note);
    }
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    outputs.into_iter().flatten().for_each(&mut note);
    done
}

#[test]
fn what_a_killed_process_was_told_is_kept_and_survives_a_rebuild() {
    let dir = Dir::new();
    let mut acknowledged = 0;
    for round in 0..6 {
        let mut done = killed_at_work(&dir.pool(), 4, 12);
        assert!(done.len() >= 4 * 10, "{done:?}");
        done.sort_unstable();
        assert!(done.is_sorted_by(|a, b| a < b), "no generation is given twice: {done:?}");
        assert!(done[0] > acknowledged, "nor a smaller one later");
        acknowledged = *done.last().unwrap();

        let state = run(dir.open().load()).unwrap();
        assert!(state.generation.0 >= acknowledged);
        assert_eq!(dir.corrupt(), [""; 0]);
        if round % 2 == 1 {
            fs::remove_file(dir.file("pool.db")).unwrap();
            let rebuilt = run(dir.open().load()).unwrap();
            assert_eq!(rebuilt.slots, state.slots);
            assert!(rebuilt.generation >= state.generation);
        }
    }
}

// ---- damage -------------------------------------------------------------------------------------

/// Damages a filled pool that nobody has open, and looks at what becomes of it.
fn survives(damage: impl FnOnce(&Dir)) -> (Dir, PoolState, PoolState) {
    let dir = Dir::new();
    let was = run(async { fill(&dir.open()).await });
    damage(&dir);
    let store = dir.open();
    let is = run(store.load()).unwrap();
    // It works as before, and numbers go on.
    run(change(&store, |state| {
        state.generation = state.generation.next();
        state.outbox.push(event("after"));
    }));
    let log = run(store.events(0, 100)).unwrap();
    assert!(log.last().unwrap().sequence > 3, "{log:?}");
    drop(store);
    let reopened = run(dir.open().load()).unwrap();
    assert_eq!(reopened.slots, is.slots);
    assert!(reopened.generation > was.generation);
    (dir, was, is)
}

#[test]
fn garbage_is_moved_aside_and_rebuilt() {
    let (dir, was, is) =
        survives(|dir| fs::write(dir.file("pool.db"), b"garbage".repeat(5000)).unwrap());
    assert_rebuilt(&was, &is);
    let kept = dir.corrupt();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(
        fs::read(dir.file(&kept[0])).unwrap(),
        b"garbage".repeat(5000),
        "nothing is deleted"
    );
}

#[test]
fn a_truncated_database_is_rebuilt() {
    for len in [0, 1, 100, 4096, 10_000] {
        let (dir, was, is) = survives(|dir| {
            let file = fs::OpenOptions::new().write(true).open(dir.file("pool.db")).unwrap();
            assert!(file.metadata().unwrap().len() > len);
            file.set_len(len).unwrap();
        });
        assert_rebuilt(&was, &is);
        assert_eq!(dir.corrupt().len(), 1, "{len}");
    }
}

#[test]
fn a_damaged_page_is_rebuilt() {
    let pages = {
        let dir = Dir::new();
        run(async { fill(&dir.open()).await });
        fs::metadata(dir.file("pool.db")).unwrap().len() / 4096
    };
    assert!(pages > 5);
    for page in 1..pages {
        let (_dir, was, is) = survives(|dir| {
            let mut bytes = fs::read(dir.file("pool.db")).unwrap();
            let at = usize::try_from(page * 4096).unwrap();
            bytes[at..at + 4096].fill(0xa5);
            fs::write(dir.file("pool.db"), bytes).unwrap();
        });
        // A damaged log is met when it is written or read, later than the rest.
        assert_eq!(is.slots, was.slots, "page {page}");
        assert!(is.generation >= was.generation);
    }
}

#[test]
fn a_deleted_database_is_rebuilt() {
    let (dir, was, is) = survives(|dir| fs::remove_file(dir.file("pool.db")).unwrap());
    assert_rebuilt(&was, &is);
    assert_eq!(dir.corrupt(), [""; 0]);
}

#[test]
fn a_record_that_makes_no_sense_is_rebuilt() {
    for sql in [
        "UPDATE slots SET record='{}' WHERE slot=1",
        "UPDATE slots SET slot=17 WHERE slot=1",
        "DROP TABLE waiters",
        "DELETE FROM meta",
        "UPDATE meta SET value=-1 WHERE key='revision'",
        "PRAGMA user_version=0",
    ] {
        let (dir, was, is) = survives(|dir| {
            rusqlite::Connection::open(dir.file("pool.db")).unwrap().execute_batch(sql).unwrap();
        });
        assert_rebuilt(&was, &is);
        assert_eq!(dir.corrupt().len(), 1, "{sql}");
    }
}

#[test]
fn a_database_put_back_from_an_old_copy_is_brought_up_to_date() {
    let dir = Dir::new();
    run(async { fill(&dir.open()).await });
    let old = fs::read(dir.file("pool.db")).unwrap();
    run(change(&dir.open(), |state| {
        state.generation = Generation(6);
        state.slots.insert(SlotId(3), leased(3, 6));
    }));
    let was = run(dir.open().load()).unwrap();
    fs::write(dir.file("pool.db"), old).unwrap();
    let is = run(dir.open().load()).unwrap();
    assert_rebuilt(&was, &is);
    assert!(is.generation >= Generation(6));
}

/// The files as a process leaves them that is killed: the log is not yet in the database.
fn killed(from: &Dir) -> Dir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let (path, to) =
                (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
            if path.is_dir() {
                copy(&path, &to);
            } else {
                fs::copy(path, to).unwrap();
            }
        }
    }
    let dir = Dir::new();
    copy(&from.pool(), &dir.pool());
    dir
}

#[test]
fn a_deleted_log_loses_no_lease() {
    let dir = Dir::new();
    let store = dir.open();
    let was = run(fill(&store));
    assert_eq!(run(killed(&dir).open().load()).unwrap(), was, "the log is there");
    for also_shm in [true, false] {
        let dir = killed(&dir);
        fs::remove_file(dir.file("pool.db-wal")).unwrap();
        if also_shm {
            fs::remove_file(dir.file("pool.db-shm")).unwrap();
        }
        assert_rebuilt(&was, &run(dir.open().load()).unwrap());
    }
}

#[test]
fn a_change_that_was_about_to_be_committed_is_taken_up_or_not_but_never_half() {
    let dir = Dir::new();
    let store = dir.open();
    let was = run(fill(&store));
    // Killed between the sidecar and the commit: the sidecar is one change ahead.
    let dead = killed(&dir);
    run(change(&store, |state| {
        state.generation = Generation(6);
        state.slots.insert(SlotId(3), leased(3, 6));
    }));
    fs::copy(dir.sidecar(3), dead.sidecar(3)).unwrap();
    let is = run(dead.open().load()).unwrap();
    assert_eq!(is.slots[&SlotId(3)], run(store.load()).unwrap().slots[&SlotId(3)]);
    assert_eq!(is.slots[&SlotId(1)], was.slots[&SlotId(1)]);
    assert!(is.generation >= Generation(6), "what was in the sidecar is never given out again");
}

#[test]
fn a_running_process_notices_that_the_database_was_deleted() {
    for names in [&["pool.db"][..], &["pool.db", "pool.db-wal", "pool.db-shm"]] {
        let dir = Dir::new();
        let host = dir.open();
        let was = run(fill(&host));
        for name in names {
            fs::remove_file(dir.file(name)).unwrap();
        }
        assert_rebuilt(&was, &run(host.load()).unwrap());
        run(change(&host, |state| state.ticket.0 += 1));
        let cli = dir.open();
        run(change(&cli, |state| drop(state.slots.remove(&SlotId(1)))));
        assert_eq!(run(host.load()).unwrap(), run(cli.load()).unwrap());
    }
}

#[test]
fn a_log_deleted_under_running_processes_loses_no_lease() {
    for names in [&["pool.db-wal"][..], &["pool.db-wal", "pool.db-shm"]] {
        let dir = Dir::new();
        let (host, other) = (dir.open(), dir.open());
        let was = run(fill(&host));
        assert_eq!(run(other.load()).unwrap(), was);
        for name in names {
            fs::remove_file(dir.file(name)).unwrap();
        }
        let cli = dir.open();
        run(change(&cli, |state| state.generation = state.generation.next()));
        for store in [&host, &other, &cli] {
            let is = run(store.load()).unwrap();
            assert_eq!(is.slots, was.slots, "{names:?}");
            assert!(is.generation > was.generation);
        }
        run(change(&host, |state| drop(state.slots.remove(&SlotId(1)))));
        run(change(&other, |state| drop(state.slots.remove(&SlotId(2)))));
        for store in [&host, &other, &cli, &dir.open()] {
            assert_eq!(run(store.load()).unwrap().slots.len(), 1, "{names:?}");
        }
    }
}

#[test]
fn a_running_process_notices_damage_and_goes_on() {
    let dir = Dir::new();
    let (host, other) = (dir.open(), dir.open());
    let was = run(fill(&host));
    assert_eq!(run(other.load()).unwrap(), was);
    // Both the database and what is mapped of its log.
    fs::write(dir.file("pool.db"), vec![0x5a; 40_960]).unwrap();
    fs::OpenOptions::new().write(true).open(dir.file("pool.db-wal")).unwrap().set_len(0).unwrap();
    run(change(&other, |state| state.generation = state.generation.next()));
    let is = run(host.load()).unwrap();
    assert_eq!(is.slots, was.slots);
    assert!(is.generation > was.generation);
    assert_eq!(run(other.load()).unwrap(), is);
}

#[test]
fn many_processes_that_meet_damage_rebuild_it_once() {
    let dir = Dir::new();
    let was = run(async { fill(&dir.open()).await });
    fs::write(dir.file("pool.db"), b"garbage".repeat(3000)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                run(change(&dir.open(), |state| state.generation = state.generation.next()))
            });
        }
    });
    let is = run(dir.open().load()).unwrap();
    assert_rebuilt(&was, &is);
    assert_eq!(is.generation.0 % 1000, 16, "one block was skipped, and no change lost");
    assert_eq!(dir.corrupt().len(), 1);
}

#[test]
fn generations_grow_even_when_pool_json_is_lost_too() {
    let (_dir, was, is) = survives(|dir| {
        fs::remove_file(dir.file("pool.db")).unwrap();
        fs::remove_file(dir.file("pool.json")).unwrap();
    });
    assert_eq!(is.slots, was.slots);
    assert!(is.generation >= was.generation);
    assert!(is.ticket >= was.ticket);
}

#[test]
fn an_unreadable_sidecar_is_a_quarantined_slot() {
    let (dir, was, is) = survives(|dir| {
        fs::remove_file(dir.file("pool.db")).unwrap();
        fs::write(dir.sidecar(2), "{\"format\":1,\"slot\":").unwrap();
        // That of another slot is as bad.
        fs::copy(dir.sidecar(1), dir.sidecar(3)).unwrap();
    });
    assert_eq!(is.slots[&SlotId(1)], was.slots[&SlotId(1)]);
    for id in [2, 3] {
        match &is.slots[&SlotId(id)].state {
            SlotState::Quarantined { reason, .. } => {
                assert!(reason.contains("slot.json"), "{reason}")
            }
            other => panic!("{other:?}"),
        }
    }
    let kept = fs::read_dir(dir.file("slots/2")).unwrap();
    let kept: Vec<_> = kept.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(kept.iter().any(|name| name.starts_with("slot.json.corrupt-")), "{kept:?}");
}

#[test]
fn lost_or_damaged_sidecars_are_mended_from_the_database() {
    let dir = Dir::new();
    let was = run(async { fill(&dir.open()).await });
    fs::remove_file(dir.sidecar(1)).unwrap();
    fs::write(dir.sidecar(2), "").unwrap();
    fs::remove_file(dir.file("pool.json")).unwrap();
    assert_eq!(run(dir.open().load()).unwrap(), was);
    // From them alone:
    fs::remove_file(dir.file("pool.db")).unwrap();
    assert_rebuilt(&was, &run(dir.open().load()).unwrap());
}

// ---- refused ------------------------------------------------------------------------------------

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let dir = Dir::new();
    run(async { fill(&dir.open()).await });
    let raw = rusqlite::Connection::open(dir.file("pool.db")).unwrap();
    raw.execute_batch("PRAGMA user_version=7").unwrap();
    drop(raw);
    let before = fs::read(dir.file("pool.db")).unwrap();
    let error = SqliteStore::open(&dir.pool()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(
        error.to_string().contains("newer version (its format is 7, this program knows 1)"),
        "{error}"
    );
    assert_eq!(error.hint(), Some("upgrade this program"));
    assert!(fs::read(dir.file("pool.db")).unwrap() == before);
    assert_eq!(dir.corrupt(), [""; 0]);
}

#[test]
fn a_newer_sidecar_is_refused_and_left_alone() {
    let dir = Dir::new();
    run(async { fill(&dir.open()).await });
    fs::write(dir.sidecar(1), r#"{"format":2,"what":"ever"}"#).unwrap();
    fs::write(dir.file("pool.db"), "garbage").unwrap();
    let error = SqliteStore::open(&dir.pool()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(
        error.to_string().contains("slots/1/slot.json was written by a newer version"),
        "{error}"
    );
    assert_eq!(fs::read(dir.sidecar(1)).unwrap(), br#"{"format":2,"what":"ever"}"#);
    assert_eq!(fs::read(dir.file("pool.db")).unwrap(), b"garbage");
}

#[test]
fn a_file_is_not_a_pool() {
    let dir = Dir::new();
    fs::write(dir.pool(), "mine").unwrap();
    let error = SqliteStore::open(&dir.pool()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    assert!(error.to_string().contains(&*dir.pool().to_string_lossy()));
    assert_eq!(fs::read(dir.pool()).unwrap(), b"mine");
}

#[cfg(unix)]
#[test]
fn somebody_elses_directory_is_refused() {
    // Only root may give a directory away; for anyone else, root's own serves.
    let dir = Dir::new();
    fs::create_dir(dir.pool()).unwrap();
    let path = match std::os::unix::fs::chown(dir.pool(), Some(12_345), None) {
        Ok(()) => dir.pool(),
        Err(_) => PathBuf::from("/"),
    };
    let error = SqliteStore::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("belongs to another user"), "{error}");
    assert!(!path.join("pool.lock").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new();
    fs::create_dir(dir.pool()).unwrap();
    fs::set_permissions(dir.pool(), fs::Permissions::from_mode(0o500)).unwrap();
    // Permissions don't stop root; a kernel's own directory does.
    let is_root = fs::write(dir.file("probe"), "").is_ok();
    let path = if is_root { PathBuf::from("/sys/kernel") } else { dir.pool() };
    let error = SqliteStore::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(error.hint().is_some());
}

// ---- any state ----------------------------------------------------------------------------------

fn some_lease() -> impl Strategy<Value = Box<Lease>> {
    (1..1_u64 << 40, ".*", any::<Option<u32>>()).prop_map(|(n, holder, kept)| {
        Box::new(Lease { holder, kept_because: kept.map(|k| k.to_string()), ..lease(n) })
    })
}

fn some_slot_state() -> impl Strategy<Value = SlotState> {
    let worker = || ClaimKey::for_worker(Timestamp::UNIX_EPOCH);
    prop_oneof![
        Just(SlotState::Free),
        (proptest::option::of(some_lease()), any::<bool>()).prop_map(move |(lease, reuse)| {
            SlotState::Provisioning { lease, worker: worker(), reuse }
        }),
        some_lease().prop_map(|lease| SlotState::Leased { lease }),
        some_lease().prop_map(move |lease| SlotState::Releasing {
            lease,
            end: end(),
            worker: worker()
        }),
        (some_lease(), 0..1_u64 << 30).prop_map(|(lease, span)| {
            let until = Deadline::after(&moment(8), Duration::from_millis(span));
            SlotState::Lingering { lease, end: end(), until }
        }),
        (proptest::option::of(some_lease()), ".*").prop_map(|(lease, reason)| {
            SlotState::Quarantined { end: lease.is_some().then(end), lease, reason }
        }),
        Just(SlotState::Retiring { worker: worker() }),
    ]
}

prop_compose! {
    fn some_state()(
        generation in 0..1_u64 << 50,
        ticket in 0..1_u64 << 50,
        slots in proptest::collection::btree_map(1..9_u32, (some_slot_state(), any::<bool>()), 0..6),
        waiters in proptest::collection::btree_set(0..1_u64 << 50, 0..4),
        sessions in proptest::collection::btree_map("[a-z]{1,4}", any::<bool>(), 0..3),
        ended_from in 0..6_u64,
        ended_count in 0..5_u64,
    ) -> PoolState {
        PoolState {
            generation: Generation(generation),
            ticket: Ticket(ticket),
            slots: slots
                .into_iter()
                .map(|(id, (state, warm))| (SlotId(id), Slot { warm, ..slot(id, state) }))
                .collect(),
            waiters: waiters.into_iter().map(|n| (Ticket(n), waiter(n))).collect(),
            sessions: sessions
                .into_iter()
                .map(|(id, over)| {
                    let session = Session { process: None, last_used: moment(2), over };
                    (SessionId::new(id).unwrap(), session)
                })
                .collect(),
            ended: (ended_from..ended_from + ended_count).map(fixed_ended).collect(),
            outbox: Vec::new(),
        }
    }
}

/// Equal for equal numbers, so that successive states overlap.
fn fixed_ended(n: u64) -> EndedLease {
    let id = LeaseId::new("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
    EndedLease { token: Token { lease: id, generation: Generation(n) }, ..ended(n) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_state_survives_storing_and_rebuilding(states in proptest::collection::vec(some_state(), 1..5)) {
        let dir = Dir::new();
        let runtime = runtime();
        let store = dir.open();
        let other = dir.open();
        let mut largest = Generation(0);
        for state in &states {
            let wanted = state.clone();
            runtime.block_on(change(&store, move |state| *state = wanted));
            largest = largest.max(state.generation);
            for reader in [&store, &other, &dir.open()] {
                prop_assert_eq!(&runtime.block_on(reader.load()).unwrap(), state);
            }
        }
        drop((store, other));
        fs::remove_file(dir.file("pool.db")).unwrap();
        let is = runtime.block_on(dir.open().load()).unwrap();
        let was = states.last().unwrap();
        assert_rebuilt(was, &is);
        prop_assert!(is.generation >= largest);
        prop_assert!(was.slots.values().filter_map(|s| s.state.lease()).all(|l| l.generation <= is.generation));
        // And again from what the rebuild left.
        fs::remove_file(dir.file("pool.db")).unwrap();
        prop_assert_eq!(&runtime.block_on(dir.open().load()).unwrap().slots, &was.slots);
    }
}

#[test]
#[ignore]
fn zz_full() {
    let root = PathBuf::from(std::env::var_os("FULL_DISK").unwrap());
    let pool = root.join("pool");
    let store = SqliteStore::open(&pool).unwrap();
    let mut last = run(fill(&store));
    let filler = root.join("filler");
    let mut f = fs::File::create(&filler).unwrap();
    use std::io::Write;
    let mut n: u64 = 6;
    // fill up leaving various amounts
    while f.write_all(&[1; 4096]).is_ok() {}
    let mut kinds = Vec::new();
    for i in 0..2000u32 {
        n += 1;
        match run(store.change(Box::new(move |s| { s.generation = Generation(n); s.slots.insert(SlotId(i % 40 + 1), leased(i % 40 + 1, n)); s.outbox.push(event("x".repeat(3000))); }))) {
            Ok(()) => last = run(store.load()).unwrap(),
            Err(e) => { if kinds.len() < 5 { kinds.push(format!("{e:?}")); } assert_eq!(e.kind(), ErrorKind::NoSpace, "{e:?}"); assert_eq!(run(store.load()).unwrap(), last);
               }
        }
    }
    println!("{kinds:#?} {}", last.slots.len());
    let second = SqliteStore::open(&pool);
    println!("second open {:?}", second.map(|s| run(s.load()).unwrap() == last));
    let third = SqliteStore::open(&root.join("new"));
    println!("new pool {:?}", third.map(|_| ()));
    drop(f); fs::remove_file(filler).unwrap();
    assert_eq!(run(store.load()).unwrap(), last);
    run(change(&store, |s| s.slots.clear()));
    drop(store);
    assert!(run(SqliteStore::open(&pool).unwrap().load()).unwrap().slots.is_empty());
    SqliteStore::open(&root.join("new")).unwrap();
}
