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
