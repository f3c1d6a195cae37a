//! Where and what the store refuses.

use super::*;

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

/// What a newer program may leave under a process of this one that runs on.
const NEWER_ROWS: [&str; 4] = [
    "PRAGMA user_version=7",
    "PRAGMA user_version=7; DROP TABLE waiters",
    "UPDATE slots SET record=json_set(record, '$.state.is', 'dreaming') WHERE slot=1;
     UPDATE meta SET value=value+1 WHERE key='revision'",
    "UPDATE slots SET record=json_set(record, '$.dreams', 7) WHERE slot=1;
     UPDATE meta SET value=value+1 WHERE key='revision'",
];

fn changed(state: &mut PoolState) {
    if let Some(slot) = state.slots.get_mut(&SlotId(1)) {
        slot.warm = !slot.warm;
    }
    state.sessions.clear();
    state.outbox.push(event("changed"));
}

fn assert_is_newer<T: std::fmt::Debug>(result: pool_core::Result<T>, what: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store, "{what}: {error}");
    assert!(SqliteStore::is_newer(&error), "{what}: {error}");
    assert_eq!(error.hint(), Some("upgrade this program"), "{what}");
}

#[test]
fn newer_rows_under_a_running_process_stay() {
    for sql in NEWER_ROWS {
        let dir = Dir::new();
        let store = dir.open();
        run(async { fill(&store).await });
        let raw = rusqlite::Connection::open(dir.file("pool.db")).unwrap();
        raw.execute_batch(sql).unwrap();
        let record = "SELECT record FROM slots WHERE slot=1";
        let row = || raw.query_row(record, [], |row| row.get::<_, String>(0)).unwrap();
        let before = (row(), fs::read(dir.sidecar(1)).unwrap());
        for _ in 0..2 {
            assert_is_newer(run(store.change(Box::new(changed))), sql);
            assert_is_newer(run(store.load()), sql);
            assert_is_newer(SqliteStore::open(&dir.pool()), sql);
        }
        assert_eq!((row(), fs::read(dir.sidecar(1)).unwrap()), before, "{sql}");
        assert_eq!(dir.corrupt(), [""; 0], "{sql}");
    }
}

#[test]
fn newer_sidecars_under_a_running_process_stay() {
    for (name, pointer, value) in [
        ("slots/1/slot.json", "format", serde_json::json!(2)),
        ("slots/1/slot.json", "slot.state.is", serde_json::json!("dreaming")),
        ("slots/1/slot.json", "slot.dreams", serde_json::json!(7)),
        ("slots/1/slot.json", "dreams", serde_json::json!(7)),
        ("pool.json", "format", serde_json::json!(2)),
        ("pool.json", "dreams", serde_json::json!(7)),
    ] {
        let dir = Dir::new();
        let store = dir.open();
        run(async { fill(&store).await });
        let path = dir.file(name);
        let text = fs::read(&path).unwrap();
        let mut file: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let (parents, last) = pointer.rsplit_once('.').unwrap_or(("", pointer));
        let mut at = &mut file;
        for parent in parents.split('.').filter(|parent| !parent.is_empty()) {
            at = &mut at[parent];
        }
        at[last] = value;
        fs::write(&path, file.to_string()).unwrap();
        let was = run(store.load()).unwrap();
        assert_is_newer(run(store.change(Box::new(changed))), pointer);
        assert_eq!(run(store.load()).unwrap(), was, "{name} {pointer}");
        assert_is_newer(SqliteStore::open(&dir.pool()), pointer);
        assert_eq!(fs::read_to_string(&path).unwrap(), file.to_string(), "{name} {pointer}");
        assert_eq!(dir.corrupt(), [""; 0], "{name} {pointer}");
    }
}
