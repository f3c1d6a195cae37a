//! The system calls that are observed, and what their arguments mean. Pure.

use nix::libc;

use super::Act;

/// Where a path is in the arguments of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The argument of that number: a path, relative to the working directory.
    Path(usize),
    /// The argument of that number is a directory, the next one a path relative to it.
    At(usize),
    /// The argument of that number is an open directory.
    Open(usize),
    /// The argument of that number is the address of a socket.
    Socket(usize),
    /// None; the system call itself is what matters.
    Nowhere,
}

/// How it is known what is done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Is(Act),
    /// The argument of that number has the flags of `open`.
    Flags(usize),
    /// The argument of that number leads to a `struct open_how`, which begins with them.
    How(usize),
}

/// What one system call does with one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) place: Place,
    pub(super) what: What,
}

const fn at(place: Place, act: Act) -> Use {
    Use { place, what: What::Is(act) }
}

use Act::{Listed, Looked, Unaccountable, Wrote};
use Place::{At, Nowhere, Open, Path, Socket};

/// Each system call that takes a path, on every architecture.
const EVERYWHERE: &[(libc::c_long, &[Use])] = &[
    (libc::SYS_openat, &[Use { place: At(0), what: What::Flags(2) }]),
    (libc::SYS_openat2, &[Use { place: At(0), what: What::How(2) }]),
    (libc::SYS_newfstatat, &[at(At(0), Looked)]),
    (libc::SYS_statx, &[at(At(0), Looked)]),
    (libc::SYS_faccessat, &[at(At(0), Looked)]),
    (libc::SYS_faccessat2, &[at(At(0), Looked)]),
    (libc::SYS_readlinkat, &[at(At(0), Looked)]),
    (libc::SYS_execve, &[at(Path(0), Looked)]),
    (libc::SYS_execveat, &[at(At(0), Looked)]),
    (libc::SYS_chdir, &[at(Path(0), Looked)]),
    (libc::SYS_statfs, &[at(Path(0), Looked)]),
    (libc::SYS_getxattr, &[at(Path(0), Looked)]),
    (libc::SYS_lgetxattr, &[at(Path(0), Looked)]),
    (libc::SYS_listxattr, &[at(Path(0), Looked)]),
    (libc::SYS_llistxattr, &[at(Path(0), Looked)]),
    (libc::SYS_inotify_add_watch, &[at(Path(1), Looked)]),
    (libc::SYS_getdents64, &[at(Open(0), Listed)]),
    (libc::SYS_truncate, &[at(Path(0), Wrote)]),
    (libc::SYS_mkdirat, &[at(At(0), Wrote)]),
    (libc::SYS_mknodat, &[at(At(0), Wrote)]),
    (libc::SYS_unlinkat, &[at(At(0), Wrote)]),
    (libc::SYS_renameat2, &[at(At(0), Wrote), at(At(2), Wrote)]),
    (libc::SYS_linkat, &[at(At(0), Looked), at(At(2), Wrote)]),
    (libc::SYS_symlinkat, &[at(At(1), Wrote)]),
    (libc::SYS_fchmodat, &[at(At(0), Wrote)]),
    (libc::SYS_fchownat, &[at(At(0), Wrote)]),
    (libc::SYS_utimensat, &[at(At(0), Wrote)]),
    (libc::SYS_setxattr, &[at(Path(0), Wrote)]),
    (libc::SYS_lsetxattr, &[at(Path(0), Wrote)]),
    (libc::SYS_removexattr, &[at(Path(0), Wrote)]),
    (libc::SYS_lremovexattr, &[at(Path(0), Wrote)]),
    (libc::SYS_connect, &[at(Socket(1), Unaccountable)]),
    // What is asked for through these is not seen.
    (libc::SYS_io_uring_setup, &[at(Nowhere, Unaccountable)]),
    (libc::SYS_open_by_handle_at, &[at(Nowhere, Unaccountable)]),
    (libc::SYS_chroot, &[at(Nowhere, Unaccountable)]),
    (libc::SYS_pivot_root, &[at(Nowhere, Unaccountable)]),
    (libc::SYS_open_tree, &[at(Nowhere, Unaccountable)]),
];

/// Those that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OF_THIS_ARCHITECTURE: &[(libc::c_long, &[Use])] = &[
    (libc::SYS_open, &[Use { place: Path(0), what: What::Flags(1) }]),
    (libc::SYS_creat, &[at(Path(0), Wrote)]),
    (libc::SYS_stat, &[at(Path(0), Looked)]),
    (libc::SYS_lstat, &[at(Path(0), Looked)]),
    (libc::SYS_access, &[at(Path(0), Looked)]),
    (libc::SYS_readlink, &[at(Path(0), Looked)]),
    (libc::SYS_getdents, &[at(Open(0), Listed)]),
    (libc::SYS_mkdir, &[at(Path(0), Wrote)]),
    (libc::SYS_rmdir, &[at(Path(0), Wrote)]),
    (libc::SYS_mknod, &[at(Path(0), Wrote)]),
    (libc::SYS_unlink, &[at(Path(0), Wrote)]),
    (libc::SYS_rename, &[at(Path(0), Wrote), at(Path(1), Wrote)]),
    (libc::SYS_renameat, &[at(At(0), Wrote), at(At(2), Wrote)]),
    (libc::SYS_link, &[at(Path(0), Looked), at(Path(1), Wrote)]),
    (libc::SYS_symlink, &[at(Path(1), Wrote)]),
    (libc::SYS_chmod, &[at(Path(0), Wrote)]),
    (libc::SYS_chown, &[at(Path(0), Wrote)]),
    (libc::SYS_lchown, &[at(Path(0), Wrote)]),
    (libc::SYS_utime, &[at(Path(0), Wrote)]),
    (libc::SYS_utimes, &[at(Path(0), Wrote)]),
    (libc::SYS_futimesat, &[at(At(0), Wrote)]),
];

#[cfg(target_arch = "aarch64")]
const OF_THIS_ARCHITECTURE: &[(libc::c_long, &[Use])] =
    &[(libc::SYS_renameat, &[at(At(0), Wrote), at(At(2), Wrote)])];

/// `fchmodat2`, which libc does not know on every architecture; the number is the same on all.
const FCHMODAT2: (libc::c_long, &[Use]) = (452, &[at(At(0), Wrote)]);

/// All that are observed.
pub(super) fn all() -> impl Iterator<Item = (libc::c_long, &'static [Use])> {
    EVERYWHERE.iter().chain(OF_THIS_ARCHITECTURE).chain([&FCHMODAT2]).copied()
}

/// What a file is opened for by these flags.
pub(super) fn opened_for(flags: u64) -> Act {
    let writes = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC];
    let is_written = writes.iter().any(|flag| flags & u64::from(flag.unsigned_abs()) != 0);
    if is_written { Wrote } else { Looked }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_system_call_is_listed_twice() {
        let numbers: BTreeSet<_> = all().map(|(number, _)| number).collect();
        assert_eq!(numbers.len(), all().count());
    }

    #[test]
    fn flags_tell_reading_from_writing() {
        let act = |flags: libc::c_int| opened_for(flags.unsigned_abs().into());
        assert_eq!(act(libc::O_RDONLY | libc::O_CLOEXEC | libc::O_DIRECTORY), Looked);
        for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
            assert_eq!(act(flags), Wrote);
        }
    }
}
