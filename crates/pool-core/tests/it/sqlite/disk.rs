//! What is on disk, and when it is written.

use super::*;

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

#[cfg(unix)]
#[test]
fn room_is_set_aside_given_up_once_and_set_aside_again() {
    let dir = Dir::new();
    let size = || fs::metadata(dir.file("reserve")).map(|meta| meta.len()).ok();
    assert!(!SqliteStore::give_up_reserve(&dir.pool()), "there is no pool");
    drop(dir.open());
    assert_eq!(size(), Some(1 << 20));
    assert!(SqliteStore::give_up_reserve(&dir.pool()));
    assert_eq!(size(), None);
    assert!(!SqliteStore::give_up_reserve(&dir.pool()));
    drop(dir.open());
    assert_eq!(size(), Some(1 << 20));
    // As a process leaves it that was killed in between.
    fs::write(dir.file("reserve"), "").unwrap();
    dir.open();
    assert_eq!(size(), Some(1 << 20));
}
