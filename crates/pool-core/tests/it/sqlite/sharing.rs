//! Many stores and processes at once, and processes that are killed.

use super::*;

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

#[test]
fn who_gives_up_its_turn_does_not_hold_up_the_next() {
    let dir = Dir::new();
    let (slow, next) = (dir.open(), dir.open());
    let hasty = SqliteStore::open_with_patience(&dir.pool(), Duration::from_millis(50)).unwrap();
    let (begun, begins) = std::sync::mpsc::channel();
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let changing = std::thread::spawn(move || {
        run(change(&slow, move |state| {
            begun.send(()).unwrap();
            ends.recv().unwrap();
            state.generation = state.generation.next();
        }));
    });
    begins.recv().unwrap();
    let error = run(hasty.change(Box::new(|_| unreachable!("it had no turn")))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("pool.turn"), "{error}");
    end.send(()).unwrap();
    changing.join().unwrap();
    // Though the other's turn came in the meantime.
    for store in [&next, &hasty] {
        run(change(store, |state| state.generation = state.generation.next()));
    }
    assert_eq!(run(next.load()).unwrap().generation.0, 3);
}

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
                .args(["--exact", "sqlite::sharing::child", "--ignored", "--nocapture"])
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
