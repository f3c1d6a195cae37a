//! References while somebody else packs them, with `git pack-refs` or any `git gc`.
//!
//! gix reads the packed references first, and then those that have files of their own. One that is moved
//! from the latter to the former in between is found in neither. So what was read while `packed-refs`
//! was replaced is read again ([`settled`]), and so are all of them when one had a file that was not there
//! any more by the time it was read ([`all`]).
//!
//! To delete one that is packed, gix writes what it has read without that one, and it has read before it
//! locked: what was packed in between is not among it, and has no file of its own any more. It
//! would be lost, whosever it is. And to make one, gix locks `packed-refs`, so that a lock of a git that was
//! killed keeps work from being saved. So git makes and deletes them ([`create`], [`delete`]). (`Transaction::prepare`
//! in `store/file/transaction/prepare.rs` of gix-ref 0.69.)

use std::fs;
use std::time::SystemTime;

use pool_core::Result;

use crate::git::Git;
use crate::site::{Site, gix_error};

/// How often it is read at most.
const ATTEMPTS: u32 = 10;

/// Runs `read`, which reads references of that repository, until they were not packed meanwhile.
pub(crate) fn settled<T>(repo: &gix::Repository, mut read: impl FnMut() -> T) -> T {
    let mut before = packed(repo);
    let mut done = read();
    for _ in 1..ATTEMPTS {
        let after = packed(repo);
        if after == before {
            break;
        }
        (before, done) = (after, read());
    }
    done
}

/// One reference, or why it can't be read.
type Read<'repo> = gix::Result<gix::Reference<'repo>>;

/// All references whose names begin with `prefix`.
///
/// # Errors
///
/// When none can be read.
pub(crate) fn all<'repo>(repo: &'repo gix::Repository, prefix: &str) -> Result<Vec<Read<'repo>>> {
    let mut attempt = 1;
    loop {
        let found: Vec<_> = settled(repo, || Ok(repo.references()?.prefixed(prefix)?.collect()))
            .map_err(|e: gix::Error| gix_error(format!("read the references {prefix}*"), e))?;
        // It was there when its directory was read, and not when it was itself.
        let vanished =
            found.iter().any(|read: &Read<'_>| read.as_ref().is_err_and(gix::Error::is_not_found));
        if !vanished || attempt == ATTEMPTS {
            return Ok(found);
        }
        attempt += 1;
    }
}

/// Makes a reference that must not exist yet.
///
/// # Errors
///
/// When it does, or another's name begins with this one's, or the other way round; and those of [`Git::run`].
pub(crate) fn create(site: &Site, name: &str, at: gix::ObjectId, message: &str) -> Result<()> {
    let nothing = at.kind().null();
    Git::in_repository(&site.common_dir, &site.settings)
        .args(["update-ref", "--no-deref", "-m", message, "--", name])
        .args([at.to_string(), nothing.to_string()])
        .run()
        .map(drop)
}

/// Deletes a reference and its log, if it still is where it was.
///
/// # Errors
///
/// When it is elsewhere, or is not there; and those of [`Git::run`].
pub(crate) fn delete(site: &Site, name: &str, at: gix::ObjectId) -> Result<()> {
    Git::in_repository(&site.common_dir, &site.settings)
        .args(["update-ref", "--no-deref", "-d", "--", name, &at.to_string()])
        .run()
        .map(drop)
}

/// What changes when references are packed.
fn packed(repo: &gix::Repository) -> Option<(SystemTime, u64)> {
    let meta = fs::metadata(repo.common_dir().join("packed-refs")).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::Repository;
    use crate::settings::GitSettings;

    #[test]
    fn what_was_read_while_references_were_packed_is_read_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let repo = gix::init_bare(dir.path()).expect("made");
        let packed = dir.path().join("packed-refs");
        let mut reads = 0;
        settled(&repo, || {
            reads += 1;
            if reads < 3 {
                fs::write(&packed, "#".repeat(reads)).expect("written");
            }
        });
        assert_eq!(reads, 3);
        settled(&repo, || reads += 1);
        assert_eq!(reads, 4);
    }

    /// A reference that is packed, and whose own file comes and goes: there at each moment.
    #[test]
    fn one_whose_file_goes_while_it_is_read_is_found() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let repo = gix::init_bare(dir.path()).expect("made");
        let id = repo.write_blob("some").expect("written").detach();
        let heads = dir.path().join("refs/heads");
        let packed = dir.path().join("packed-refs");
        fs::write(packed, format!("{id} refs/heads/main\n")).expect("written");
        for other in 0..50 {
            fs::write(heads.join(format!("a{other}")), format!("{id}\n")).expect("written");
        }
        let over = AtomicBool::new(false);
        let missed = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fs::write(heads.join("new"), format!("{id}\n")).expect("written");
                    fs::rename(heads.join("new"), heads.join("main")).expect("there");
                    std::thread::sleep(Duration::from_millis(2));
                    fs::remove_file(heads.join("main")).expect("removed");
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            let missed = (0..3000).filter(|_| {
                let found = all(&repo, "refs/").expect("read");
                !found.iter().flatten().any(|found| found.name().as_bstr() == "refs/heads/main")
            });
            let missed = missed.count();
            over.store(true, Ordering::Relaxed);
            missed
        });
        assert_eq!(missed, 0, "of 3,000 looks");
    }

    /// Somebody makes branches and packs them, again and again, while others are deleted.
    #[test]
    fn a_deletion_loses_nothing_that_is_being_packed() {
        const BRANCHES: usize = 1500;
        let root = tempfile::tempdir().expect("a temporary directory");
        let repo = root.path().join("demo");
        let git = |args: &[&str]| testkit::git(&repo).args(args).stdout();
        fs::create_dir(&repo).expect("made");
        git(&["init", "--quiet"]);
        git(&["commit", "--quiet", "--allow-empty", "--message", "first"]);
        let id = git(&["rev-parse", "HEAD"]);
        let ours: String =
            (0..BRANCHES).map(|n| format!("create refs/heads/ours/{n} {id}\n")).collect();
        testkit::git(&repo).args(["update-ref", "--stdin"]).stdin(ours).ok();
        git(&["pack-refs", "--all"]);

        let settings = GitSettings { user_config: false, ..Default::default() };
        let found = Repository::find(&repo).expect("found");
        let site = Site::open(&found, &root.path().join("pool"), settings).expect("opened");
        let commit = gix::ObjectId::from_hex(id.as_bytes()).expect("an id");
        let over = AtomicBool::new(false);
        let theirs = std::thread::scope(|scope| {
            let packing = scope.spawn(|| {
                let mut made = 0;
                while !over.load(Ordering::Relaxed) {
                    git(&["update-ref", &format!("refs/heads/theirs/{made}"), &id]);
                    git(&["pack-refs", "--all"]);
                    made += 1;
                }
                made
            });
            for number in 0..BRANCHES {
                delete(&site, &format!("refs/heads/ours/{number}"), commit).expect("deleted");
            }
            over.store(true, Ordering::Relaxed);
            packing.join().expect("no panic")
        });
        let left = git(&["for-each-ref", "--format=%(refname)", "refs/heads/theirs"]);
        assert_eq!(left.lines().count(), theirs, "of the branches that somebody else made");
        assert_eq!(git(&["for-each-ref", "refs/heads/ours"]), "");
    }
}
