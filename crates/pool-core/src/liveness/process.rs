//! Processes of this machine: which is which, and where they stand.

use std::path::{Path, PathBuf};

use super::{Occupant, ProcessIdentity, Vital};
use crate::error::{Error, ErrorKind, Result};
use crate::time::boot_id;

/// Identifies a running process; a zombie has stopped running.
pub(super) fn identify(pid: u32) -> Option<ProcessIdentity> {
    match system::state(pid) {
        State::Runs { start_time } => {
            let (boot, namespace) = (boot_id(), system::namespace());
            Some(ProcessIdentity { pid, start_time, boot, namespace })
        }
        State::Gone | State::Unknown => None,
    }
}

/// Whether that very process still runs.
pub(super) fn runs(process: &ProcessIdentity) -> Vital {
    // Its id means another process here, or none.
    let is_elsewhere = process.namespace.is_some() && process.namespace != system::namespace();
    if is_elsewhere && boot_id() == process.boot {
        return Vital::Unknown;
    }
    match system::state(process.pid) {
        // In a time namespace it can be off by what is less than a tick of the clock.
        State::Runs { start_time } if start_time.abs_diff(process.start_time) > 1 => Vital::Gone,
        State::Runs { .. } if system::BOOT_COUNTS && boot_id() != process.boot => Vital::Gone,
        State::Runs { .. } => Vital::Alive,
        State::Gone => Vital::Gone,
        State::Unknown => Vital::Unknown,
    }
}

/// For each directory, who stands in it or below it.
pub(super) fn occupants(dirs: &[&Path]) -> Result<Vec<Vec<Occupant>>> {
    let mut found: Vec<Vec<Occupant>> = dirs.iter().map(|_| Vec::new()).collect();
    if dirs.is_empty() {
        return Ok(found);
    }
    let dirs: Vec<PathBuf> = dirs.iter().map(|dir| canonical(dir)).collect();
    system::each_standing_process(&dirs, |dir, pid, name| {
        found[dir].push(Occupant { pid, name });
    })?;
    for occupants in &mut found {
        occupants.sort_by_key(|occupant| occupant.pid);
    }
    Ok(found)
}

/// Returns the processes, other than this one, that have a file of that (unique) name open.
pub(super) fn holders(file: &Path) -> Vec<Occupant> {
    system::processes_with_open(file)
}

/// The directory as the system reports it for a process in it. One that no longer exists may still
/// be somebody's working directory, so what exists of its ancestors is resolved then.
fn canonical(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    for ancestor in dir.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), dir.strip_prefix(ancestor)) {
            // Joining an empty rest would add a trailing slash.
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    dir
}

enum State {
    Runs { start_time: u64 },
    Gone,
    Unknown,
}

#[cfg(target_os = "linux")]
mod system {
    //! Straight from `/proc`: a start time in clock ticks since boot, which setting the wall clock
    //! does not change. (sysinfo gives seconds of wall-clock time.)

    use std::collections::{BTreeSet, HashMap};
    use std::ffi::OsStr;
    use std::fs;
    use std::io;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::{Path, PathBuf};

    use procfs::ProcError;
    use procfs::process::Process;
    use rustix::fs::{CWD, Mode, OFlags, openat};
    use rustix::io::Errno;

    use super::super::mounts::{Mounts, Spot};
    use super::{Error, ErrorKind, Occupant, Result, State};
    use crate::time::shift;

    /// Start times count from boot, so that two boots may have the same ones.
    pub(super) const BOOT_COUNTS: bool = true;

    /// What the system says of a process that has ended since its directory was opened.
    const GONE: i32 = Errno::SRCH.raw_os_error();

    /// The namespace that process ids belong to here.
    pub(super) fn namespace() -> Option<u64> {
        fs::metadata("/proc/self/ns/pid").ok().map(|meta| meta.ino())
    }

    pub(super) fn state(pid: u32) -> State {
        let Ok(pid) = i32::try_from(pid) else { return State::Gone };
        match Process::new(pid).and_then(|process| process.stat()) {
            // Of one whose first thread has ended, and others go on, that first thread is a zombie.
            Ok(stat) if matches!(stat.state, 'Z' | 'X' | 'x') && stat.num_threads <= 1 => {
                State::Gone
            }
            Ok(stat) => State::Runs { start_time: since_boot(stat.starttime) },
            Err(_) => without_proc(pid),
        }
    }

    /// A start time as the machine's own boot clock has it.
    fn since_boot(start_time: u64) -> u64 {
        let shift = shift().as_nanos() * i128::from(procfs::ticks_per_second()) / 1_000_000_000;
        u64::try_from(i128::from(start_time) - shift).unwrap_or_default()
    }

    /// `/proc` may be absent, or hide the processes of others; the kernel's word then counts.
    fn without_proc(pid: i32) -> State {
        let Some(pid) = rustix::process::Pid::from_raw(pid) else { return State::Gone };
        match rustix::process::test_kill_process(pid) {
            Err(Errno::SRCH) => State::Gone,
            Ok(()) | Err(_) => State::Unknown,
        }
    }

    /// Tells of each process that stands in one of those directories, or below it.
    pub(super) fn each_standing_process(
        dirs: &[PathBuf],
        mut see: impl FnMut(usize, u32, String),
    ) -> Result<()> {
        let mut namespaces = Namespaces::new(dirs);
        // In an empty directory there is nobody; in `/proc`, at least oneself.
        let listed = Process::myself().and_then(|_| procfs::process::all_processes());
        let processes = listed.map_err(|error| {
            Error::new(
                ErrorKind::Unsupported,
                format!("cannot list the processes in /proc: {error}"),
            )
            .with_source(error)
            .with_hint("mount /proc: without it nobody can tell whether a slot is in use")
        })?;
        for process in processes {
            let Some(process) = unless_gone(process)? else { continue };
            let Ok(pid) = u32::try_from(process.pid) else { continue };
            let standpoints = standpoints(&process)?;
            let paths: Vec<PathBuf> = standpoints.iter().map(|cwd| without_mark(cwd)).collect();
            let spots: Vec<Spot> = namespaces.locate(&process, &paths);
            for (n, dir) in dirs.iter().enumerate() {
                let mounted = namespaces.spots[n].as_ref();
                if paths.iter().any(|path| path.starts_with(dir))
                    || spots.iter().any(|spot| mounted.is_some_and(|dir| spot.is_within(dir)))
                {
                    let name = process.stat().map_or_else(|_| "?".to_owned(), |stat| stat.comm);
                    see(n, pid, name);
                }
            }
        }
        Ok(())
    }

    /// Returns the processes, other than this one, that have a descriptor of a file of that name.
    pub(super) fn processes_with_open(file: &Path) -> Vec<Occupant> {
        // By name, which is unique: a `stat` may hang on a filesystem that does not answer.
        let is_wanted = |fd: io::Result<fs::DirEntry>| {
            let found = fd.and_then(|fd| fs::read_link(fd.path()));
            found.is_ok_and(|found| found.file_name() == file.file_name())
        };
        let own = std::process::id();
        let mut found = Vec::new();
        for process in procfs::process::all_processes().into_iter().flatten().flatten() {
            let Ok(pid) = u32::try_from(process.pid) else { continue };
            let Ok(mut fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            if pid != own && fds.any(is_wanted) {
                let name = process.stat().map_or_else(|_| "?".to_owned(), |stat| stat.comm);
                found.push(Occupant { pid, name });
            }
        }
        found.sort_by_key(|occupant| occupant.pid);
        found
    }

    /// What is mounted where, for each process's own view of it.
    struct Namespaces {
        known: HashMap<PathBuf, Mounts>,
        /// Where the directories are that are looked at.
        spots: Vec<Option<Spot>>,
    }

    impl Namespaces {
        fn new(dirs: &[PathBuf]) -> Self {
            let mounts = Mounts::parse(&fs::read("/proc/self/mountinfo").unwrap_or_default());
            let spots = dirs.iter().map(|dir| mounts.locate(dir)).collect();
            let own = fs::read_link("/proc/self/ns/mnt");
            let known = own.map(|own| HashMap::from([(own, mounts)])).unwrap_or_default();
            Self { known, spots }
        }

        /// Where the working directories of a process are. It adds to what their paths say, and where nothing
        /// is known, nothing.
        fn locate(&mut self, process: &Process, paths: &[PathBuf]) -> Vec<Spot> {
            let proc = PathBuf::from(format!("/proc/{}", process.pid));
            let Ok(namespace) = fs::read_link(proc.join("ns/mnt")) else { return Vec::new() };
            let mounts = self.known.entry(namespace).or_insert_with(|| {
                Mounts::parse(&fs::read(proc.join("mountinfo")).unwrap_or_default())
            });
            paths.iter().filter_map(|path| mounts.locate(path)).collect()
        }
    }

    /// The working directories of a process: that of its first thread, which is none when that has ended, and
    /// those of threads that have one of their own.
    fn standpoints(process: &Process) -> Result<BTreeSet<PathBuf>> {
        let proc = PathBuf::from(format!("/proc/{}", process.pid));
        let mut found: BTreeSet<PathBuf> =
            unless_gone(place_of(&proc.join("cwd")))?.into_iter().collect();
        let tasks = proc.join("task");
        // The kernel counts the threads in the number of links, which takes no look at each.
        if fs::metadata(&tasks).is_ok_and(|meta| meta.nlink() <= 3) {
            return Ok(found);
        }
        for task in unless_gone(fs::read_dir(&tasks))?.into_iter().flatten() {
            let Some(task) = unless_gone(task)? else { continue };
            found.extend(unless_gone(place_of(&task.path().join("cwd")))?);
        }
        Ok(found)
    }

    /// Where a working directory is. The kernel says no path longer than a page of memory, though one may stand
    /// that deep; then it is the nearest directory above of which it does.
    fn place_of(cwd: &Path) -> io::Result<PathBuf> {
        let is_too_long =
            |e: &io::Error| e.raw_os_error() == Some(Errno::NAMETOOLONG.raw_os_error());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut said = fs::read_link(cwd);
        let mut above = None;
        while said.as_ref().is_err_and(is_too_long) {
            let next = match &above {
                None => openat(CWD, cwd.join(".."), flags, Mode::empty())?,
                Some(dir) => openat(dir, "..", flags, Mode::empty())?,
            };
            said = fs::read_link(format!("/proc/self/fd/{}", next.as_raw_fd()));
            above = Some(next);
        }
        said
    }

    /// What there is to see of a process; nothing of one that is gone meanwhile, is a zombie, or somebody
    /// else's. Who can't look for another reason has not seen that nobody is there.
    fn unless_gone<T, E: Into<ProcError>>(seen: Result<T, E>) -> Result<Option<T>> {
        let error = match seen.map_err(Into::into) {
            Ok(seen) => return Ok(Some(seen)),
            Err(ProcError::NotFound(_) | ProcError::PermissionDenied(_)) => return Ok(None),
            Err(ProcError::Io(error, _)) if error.raw_os_error() == Some(GONE) => return Ok(None),
            Err(error) => error,
        };
        Err(Error::new(ErrorKind::Other, format!("cannot see where the processes stand: {error}"))
            .with_source(error))
    }

    /// The kernel marks a working directory that was removed. One whose real name ends like the
    /// mark still exists.
    fn without_mark(cwd: &Path) -> PathBuf {
        match cwd.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
            Some(was) if !cwd.exists() => PathBuf::from(OsStr::from_bytes(was)),
            _ => cwd.to_owned(),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::path::PathBuf;

    use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System, UpdateKind};

    use super::{Error, ErrorKind, Result, State};

    /// Start times are in wall-clock time, which already tells one boot from the next; the boot's id
    /// is derived from two clocks here and may jitter.
    pub(super) const BOOT_COUNTS: bool = false;

    pub(super) fn namespace() -> Option<u64> {
        None
    }

    /// Which process has a file open is not known here.
    pub(super) fn processes_with_open(_file: &std::path::Path) -> Vec<super::Occupant> {
        Vec::new()
    }

    pub(super) fn state(pid: u32) -> State {
        if !sysinfo::IS_SUPPORTED_SYSTEM {
            return State::Unknown;
        }
        let pid = Pid::from_u32(pid);
        let mut system = System::new();
        let kind = ProcessRefreshKind::nothing().without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
        match system.process(pid) {
            Some(process) if is_over(process.status()) => State::Gone,
            Some(process) => State::Runs { start_time: process.start_time() },
            None => State::Gone,
        }
    }

    fn is_over(status: ProcessStatus) -> bool {
        matches!(status, ProcessStatus::Zombie | ProcessStatus::Dead)
    }

    pub(super) fn each_standing_process(
        dirs: &[PathBuf],
        mut see: impl FnMut(usize, u32, String),
    ) -> Result<()> {
        if !sysinfo::IS_SUPPORTED_SYSTEM {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "cannot list the processes of this system",
            )
            .with_hint("use the pool on Linux, macOS, FreeBSD or Windows"));
        }
        let mut system = System::new();
        let kind = ProcessRefreshKind::nothing().with_cwd(UpdateKind::Always).without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
        for (pid, process) in system.processes() {
            let Some(cwd) = process.cwd().filter(|_| !is_over(process.status())) else { continue };
            for n in (0..dirs.len()).filter(|n| cwd.starts_with(&dirs[*n])) {
                see(n, pid.as_u32(), process.name().to_string_lossy().into_owned());
            }
        }
        Ok(())
    }
}
