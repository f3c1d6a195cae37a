//! A view of the file system that only this process and its children have.

use std::io;
use std::path::Path;

/// From here on, for this process and what it starts, `root` stands at `canonical` too. Must be called
/// while there is only one thread.
#[cfg(target_os = "linux")]
pub(super) fn enter(root: &Path, canonical: &Path) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use nix::unistd::{getegid, geteuid};

    // A user's own name outside is their name inside.
    let (user, group) = (geteuid(), getegid());
    match unshare(CloneFlags::CLONE_NEWNS) {
        Ok(()) => {}
        Err(Errno::EPERM) => {
            // Unprivileged: permitted in a user namespace, if at all.
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
            std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
        }
        Err(e) => return Err(e.into()),
    }
    let none: Option<&Path> = None;
    // What is mounted from here on is nobody else's to see.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some(root), canonical, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn enter(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Sees to it that no open file below `dir` is handed on to what this process starts.
#[cfg(target_os = "linux")]
pub(super) fn keep_to_ourselves(dir: &Path) {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    for entry in open.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(number) = number
            && std::fs::read_link(entry.path()).is_ok_and(|file| file.starts_with(dir))
        {
            close_on_exec(number);
        }
    }
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe interface takes an inherited descriptor by its number")]
fn close_on_exec(number: i32) {
    use std::os::fd::BorrowedFd;
    // SAFETY: the descriptor was listed as open a moment ago, by the only thread of this process,
    // which has closed none since; and the borrow ends with this call.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    // If it can't be, a server may hold a lease for longer than its holder: the lease's grace period
    // is for that.
    let _ = rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC);
}

#[cfg(not(target_os = "linux"))]
pub(super) fn keep_to_ourselves(_: &Path) {}
