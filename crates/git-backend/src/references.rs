//! Reading references while somebody else packs them.
//!
//! gix reads the packed references first, and then those that have files of their own. One that `git
//! pack-refs`, and thus any `git gc`, moves from the latter to the former in between is found in
//! neither. So what was read while `packed-refs` was replaced is read again.

use std::fs;
use std::time::SystemTime;

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

/// What changes when references are packed.
fn packed(repo: &gix::Repository) -> Option<(SystemTime, u64)> {
    let meta = fs::metadata(repo.common_dir().join("packed-refs")).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
