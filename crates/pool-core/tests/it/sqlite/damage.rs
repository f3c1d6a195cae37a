//! Every kind of damage, and what must survive it.

use super::*;

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

/// A loss of power just before a change is committed: its sidecar is on the disk and the database does not know of
/// it; of the others, which are not synced, there may be anything.
#[test]
fn a_sidecar_of_a_change_that_was_not_committed_costs_no_other_slot() {
    for damage in [
        |path: &Path| fs::write(path, "").unwrap(),
        |path: &Path| fs::remove_file(path).unwrap(),
        |path: &Path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replace("lease-", "earlier-")).unwrap();
        },
    ] {
        let dir = Dir::new();
        run(async { fill(&dir.open()).await });
        run(change(&dir.open(), |state| {
            drop(state.slots.insert(SlotId(3), leased(3, 6)));
        }));
        let was = run(dir.open().load()).unwrap();
        let committed = fs::read(dir.file("pool.db")).unwrap();
        run(change(&dir.open(), |state| {
            state.generation = Generation(7);
            state.slots.insert(SlotId(4), leased(4, 7));
        }));
        let late = run(dir.open().load()).unwrap().slots[&SlotId(4)].clone();
        fs::write(dir.file("pool.db"), committed).unwrap();
        damage(&dir.sidecar(3));

        let is = run(dir.open().load()).unwrap();
        assert_eq!(is.slots[&SlotId(3)], was.slots[&SlotId(3)], "it had been reported");
        assert_eq!(is.slots[&SlotId(4)], late);
        assert_eq!(is.slots.len(), was.slots.len() + 1);
        assert_eq!((is.sessions, is.ended), (was.sessions, was.ended));
        assert!(is.generation >= Generation(7));
        assert_eq!(run(dir.open().load()).unwrap().slots, is.slots);
    }
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

/// Records of a slot that speak of another one, or of numbers after which there are no larger ones.
const POISON: [(&str, &str); 5] = [
    ("$.plan.slot", "2"),
    ("$.plan.slot", "4294967295"),
    ("$.state.lease.generation", "18446744073709551615"),
    ("$.state.lease.generation", "9223372036854775806"),
    ("$.state.lease.base.commit", "\"../../x\""),
];

#[test]
fn a_poisoned_row_is_rebuilt() {
    for (path, value) in POISON {
        let (_dir, was, is) = survives(|dir| {
            let sql = format!(
                "UPDATE slots SET record=json_set(record, '{path}', json('{value}')) WHERE slot=1"
            );
            rusqlite::Connection::open(dir.file("pool.db")).unwrap().execute_batch(&sql).unwrap();
        });
        assert_rebuilt(&was, &is);
    }
    for key in ["revision", "sequence", "generation", "ticket", "reserved-generation"] {
        let (_dir, was, is) = survives(|dir| {
            let sql = format!("UPDATE meta SET value={} WHERE key='{key}'", i64::MAX);
            rusqlite::Connection::open(dir.file("pool.db")).unwrap().execute_batch(&sql).unwrap();
        });
        assert_eq!(is.slots, was.slots, "{key}");
        assert!(is.generation.0 < 1 << 62, "{key}: {}", is.generation);
    }
}

#[test]
fn a_poisoned_sidecar_is_a_quarantined_slot() {
    let poisoned = POISON.map(|(path, value)| (path.replace("$.", "slot."), value));
    let numbers = ["revision", "reserved.generation", "reserved.ticket", "reserved.sequence"];
    let numbers = numbers.map(|path| (path.to_owned(), "18446744073709551615"));
    for (path, value) in poisoned.into_iter().chain(numbers) {
        let (_dir, was, is) = survives(|dir| {
            fs::remove_file(dir.file("pool.db")).unwrap();
            let text = fs::read(dir.sidecar(1)).unwrap();
            let mut file: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let pointer = format!("/{}", path.replace('.', "/"));
            let at = file.pointer_mut(&pointer).unwrap_or_else(|| panic!("{path}"));
            *at = serde_json::from_str(value).unwrap();
            fs::write(dir.sidecar(1), file.to_string()).unwrap();
        });
        let found = &is.slots[&SlotId(1)];
        assert!(matches!(found.state, SlotState::Quarantined { .. }), "{path}: {found:?}");
        assert_eq!(found.plan, None, "{path}");
        assert_eq!(is.slots[&SlotId(2)], was.slots[&SlotId(2)]);
        assert!(is.generation.0 < 1 << 62, "{path}: {}", is.generation);
    }
}

#[test]
fn a_poisoned_pool_json_is_no_more_than_a_lost_one() {
    for number in ["revision", "reserved/generation", "reserved/ticket", "reserved/sequence"] {
        let (_dir, was, is) = survives(|dir| {
            fs::remove_file(dir.file("pool.db")).unwrap();
            let text = fs::read(dir.file("pool.json")).unwrap();
            let mut file: serde_json::Value = serde_json::from_slice(&text).unwrap();
            *file.pointer_mut(&format!("/{number}")).unwrap() = u64::MAX.into();
            fs::write(dir.file("pool.json"), file.to_string()).unwrap();
        });
        assert_eq!(is.slots, was.slots, "{number}");
        assert!(is.generation.0 < 1 << 62, "{number}: {}", is.generation);
    }
}

/// Killed in the middle of changes: nothing of what was staged or replaced stays for ever.
#[test]
fn what_killed_processes_left_is_swept_when_the_records_are_opened() {
    let left = [
        ".sidecar-7-0.old",
        ".reserve-12345",
        "pool.json.new",
        "slots/1/slot.json.new",
        "slots/99/slot.json.new",
    ];
    let (dir, was, is) = survives(|dir| {
        for name in left {
            fs::create_dir_all(dir.file(name).parent().unwrap()).unwrap();
            fs::write(dir.file(name), "half").unwrap();
        }
        fs::create_dir(dir.file("slots/98")).unwrap();
    });
    assert_eq!(was.slots, is.slots);
    for name in left.iter().chain(&["slots/98", "slots/99"]) {
        assert!(!dir.file(name).exists(), "{name}");
    }
}
