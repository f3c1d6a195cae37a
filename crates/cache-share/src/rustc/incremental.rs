//! Incremental state: what a slot has of the base's, and when its own goes.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Config;

/// Gives the first compilation of a crate in a slot the incremental state of the base. It is rustc's to
/// decide whether it is of use.
pub(super) fn adopt(config: &Config, incremental: &Path, crate_name: &str) {
    let Some(donor) = &config.donor else { return };
    let Ok(profile) = incremental.strip_prefix(&config.target) else { return };
    for state in states_of(&donor.join(profile), crate_name) {
        let to = incremental.join(state.file_name().unwrap_or_default());
        if to.exists() {
            continue;
        }
        // Whole or not at all: rustc must not meet a half of it.
        let unfinished = aside(incremental, crate_name);
        let shared = crate::files::share_tree(&state, &unfinished, is_replaced)
            .and_then(|()| fs::rename(&unfinished, &to));
        if shared.is_err() {
            let _ = fs::remove_dir_all(&unfinished);
        }
    }
}

/// Removes a slot's incremental state of a crate that is compiled without, unless somebody is at it.
pub(super) fn discard(config: &Config, incremental: &Path, crate_name: &str) {
    // Elsewhere rustc locks in another way (its `flock` module).
    let same_locks = cfg!(any(target_os = "linux", windows));
    if !same_locks || !incremental.starts_with(&config.target) {
        return;
    }
    for state in states_of(incremental, crate_name) {
        let files = fs::read_dir(&state).into_iter().flatten().flatten().map(|file| file.path());
        let locks: Vec<_> = files.filter(|path| is_lock(path)).map(fs::File::open).collect();
        let is_free = |lock: &io::Result<fs::File>| {
            lock.as_ref().is_ok_and(|lock| fs4::FileExt::try_lock(lock).is_ok())
        };
        let gone = aside(incremental, crate_name);
        // What stays takes disk, and does no harm.
        if locks.iter().all(is_free) && fs::rename(&state, &gone).is_ok() {
            let _ = fs::remove_dir_all(gone);
        }
    }
}

/// The directories with a crate's incremental state: one for each of its targets.
fn states_of(incremental: &Path, crate_name: &str) -> Vec<PathBuf> {
    let prefix = format!("{crate_name}-");
    let is_state = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str);
        let id = name.and_then(|name| name.strip_prefix(&prefix));
        id.is_some_and(|id| !id.contains('-'))
    };
    let entries = fs::read_dir(incremental).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_state).collect()
}

/// Where a state is that nobody is to find.
fn aside(incremental: &Path, crate_name: &str) -> PathBuf {
    incremental.join(format!(".{}-{crate_name}", std::process::id()))
}

/// Whether rustc only ever replaces a file of its incremental state. It hard-links all of them from one session to
/// the next (`rustc_incremental::persist::fs::copy_files`). The query cache and the list of work products it deletes
/// before it writes them (`persist::file_format::save_in`); the graph it writes under another name and
/// renames (`persist::save`); for objects and metadata it makes a new link (`rustc_fs_util::link_or_copy`).
///
/// All else is written in place, or may be: locks, by which sessions of one worktree are told from others';
/// bitcode and keys for link-time optimization (`*.pre-lto.bc` and `thin-lto-past-keys.bin`, by
/// `rustc_codegen_ssa::back::write` and `rustc_codegen_llvm::back::lto`); and assembler code, intermediate
/// representation and split debug information, which rustc links into the directory of outputs and leaves there.
fn is_replaced(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    ["dep-graph.bin", "query-cache.bin", "work-products.bin"].contains(&name)
        || ["o", "rmeta"].contains(&extension)
}

fn is_lock(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "lock")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rustc::tests::write;

    #[test]
    fn state_is_adopted_once_and_only_of_the_crate() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (donor, target) = (dir.path().join("base"), dir.path().join("target"));
        let of = |root: &Path, name: &str| root.join("debug/incremental").join(name);
        write(&of(&donor, "a-0abc/s-1/x.o"), "donor's");
        write(&of(&donor, "a-1abc/s-1/x.o"), "donor's");
        write(&of(&donor, "a-b-0abc/s-1/x.o"), "another crate's");
        write(&of(&donor, "ab-0abc/s-1/x.o"), "another crate's");
        write(&of(&donor, "a-0abc/s-1.lock"), "");
        write(&of(&donor, "a-0abc/s-1/x.pre-lto.bc"), "bitcode");
        write(&of(&target, "a-1abc/s-1/x.o"), "own");
        let config =
            Config { donor: Some(donor.clone()), target: target.clone(), ..Config::default() };
        let incremental = target.join("debug/incremental");
        for _ in 0..2 {
            adopt(&config, &incremental, "a");
            let read = |name: &str| fs::read_to_string(of(&target, name)).expect("it is there");
            assert_eq!(read("a-0abc/s-1/x.o"), "donor's");
            assert_eq!(read("a-1abc/s-1/x.o"), "own");
            let names = fs::read_dir(&incremental).expect("read");
            assert_eq!(names.count(), 2, "more than was to be adopted, or something half-made");
        }
        // Rustc writes bitcode in place.
        let own = of(&target, "a-0abc/s-1/x.pre-lto.bc");
        fs::write(own, "another").expect("written");
        let of_donor = of(&donor, "a-0abc/s-1/x.pre-lto.bc");
        assert_eq!(fs::read_to_string(of_donor).expect("read"), "bitcode");
        // Who locks a session of theirs does not lock everybody's.
        let lock = |root: &Path| fs::File::open(of(root, "a-0abc/s-1.lock")).expect("a lock");
        let (theirs, own) = (lock(&donor), lock(&target));
        fs4::FileExt::try_lock(&theirs).expect("it is free");
        fs4::FileExt::try_lock(&own).expect("it is free");
    }

    #[cfg(any(target_os = "linux", windows))]
    #[test]
    fn state_that_nobody_needs_is_dropped_unless_somebody_is_at_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = Config { target: dir.path().join("target"), ..Config::default() };
        let incremental = config.target.join("debug/incremental");
        for state in ["a-0abc", "a-1abc", "ab-0abc"] {
            write(&incremental.join(state).join("s-1/x.o"), "");
            write(&incremental.join(state).join("s-1.lock"), "");
        }
        let busy = fs::File::open(incremental.join("a-1abc/s-1.lock")).expect("a lock");
        fs4::FileExt::try_lock_shared(&busy).expect("it is free");
        discard(&config, &incremental, "a");
        discard(&config, &dir.path().join("elsewhere"), "a");
        let left = |state: &str| incremental.join(state).join("s-1/x.o").exists();
        assert!(!left("a-0abc") && left("a-1abc") && left("ab-0abc"));
        assert_eq!(fs::read_dir(&incremental).expect("read").count(), 2);
    }

    #[test]
    fn no_state_is_adopted_where_none_is_to_be_had() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let target = dir.path().join("target");
        let incremental = target.join("debug/incremental");
        let mut config = Config { target: target.clone(), ..Config::default() };
        adopt(&config, &incremental, "a");
        config.donor = Some(dir.path().join("gone"));
        adopt(&config, &incremental, "a");
        // Another place than the one that corresponds to the base's.
        write(&dir.path().join("gone/debug/incremental/a-0/x"), "");
        adopt(&config, &dir.path().join("elsewhere/debug/incremental"), "a");
        assert!(!target.exists() && !dir.path().join("elsewhere").exists());
    }
}
