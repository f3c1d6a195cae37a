//! The observer: ptrace, a seccomp filter, and the loop that answers them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IoSliceMut};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, raise};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::calls::{self, Place, Use, What};
use super::unit::{asks_for_commit, begun_by};
use super::{Act, Acts, OBSERVED, Observation, Unit};
use crate::rustc::PROGRAM;

/// The longest path that the kernel takes (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// `process_vm_readv` reads no further than to the end of a page that is not there.
const PAGE: u64 = 4096;

/// Lets the parent process observe this one, and becomes the command. Returns only if it cannot.
pub(super) fn become_observed(command: &[OsString]) -> io::Error {
    let begin = || {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let filter = filter()?;
        ptrace::traceme()?;
        // Until the parent has said what it wants to know.
        raise(Signal::SIGSTOP)?;
        seccompiler::apply_filter(&filter).map_err(io::Error::other)?;
        io::Result::Ok(Command::new(program).args(arguments).exec())
    };
    begin().unwrap_or_else(|e| e)
}

/// Stops at the system calls that are observed, and lets all others pass.
fn filter() -> io::Result<BpfProgram> {
    let rules = calls::all().map(|(number, _)| (number, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let (pass, stop) = (SeccompAction::Allow, SeccompAction::Trace(0));
    let filter = SeccompFilter::new(rules, pass, stop, arch).map_err(io::Error::other)?;
    BpfProgram::try_from(filter).map_err(io::Error::other)
}

/// Runs a command, and tells what it looks at.
pub(super) fn run(command: &[OsString]) -> io::Result<(Observation, u8)> {
    // What it was started as need not be a path.
    let own = std::env::current_exe()?;
    let child = Command::new(own).arg0(PROGRAM).arg(OBSERVED).args(command).spawn()?;
    let main = Pid::from_raw(child.id().try_into().map_err(io::Error::other)?);
    match waitpid(main, None)? {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
        // It has said why.
        other => return Err(io::Error::other(format!("cannot observe a process: {other:?}"))),
    }
    let options = Options::PTRACE_O_EXITKILL
        | Options::PTRACE_O_TRACESECCOMP
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE;
    ptrace::setoptions(main, options)?;
    ptrace::cont(main, None)?;
    let mut tracer = Tracer::new(main);
    let status = tracer.follow()?;
    Ok((Observation { units: tracer.units }, status))
}

struct Tracer {
    main: Pid,
    uses: HashMap<i64, &'static [Use]>,
    /// The unit that each process, or thread, works for.
    unit_of: HashMap<Pid, Option<Unit>>,
    /// Processes of git that were asked for nothing but the commit.
    asked_for_commit: HashSet<Pid>,
    /// Those that stopped before their parents' `fork` was reported.
    early: HashSet<Pid>,
    units: BTreeMap<Unit, Acts>,
}

impl Tracer {
    fn new(main: Pid) -> Self {
        Self {
            main,
            uses: calls::all().collect(),
            unit_of: HashMap::from([(main, None)]),
            asked_for_commit: HashSet::new(),
            early: HashSet::new(),
            units: BTreeMap::new(),
        }
    }

    /// Answers until the command has ended. What it leaves running is killed with this process.
    fn follow(&mut self) -> io::Result<u8> {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            match status {
                WaitStatus::PtraceEvent(pid, _, event) => {
                    self.on_event(pid, event);
                    go_on(pid, None)?;
                }
                WaitStatus::Stopped(pid, signal) if self.unit_of.contains_key(&pid) => {
                    go_on(pid, Some(signal))?;
                }
                // It goes on when it is known for which unit.
                WaitStatus::Stopped(pid, _) => drop(self.early.insert(pid)),
                WaitStatus::Exited(pid, code) if pid == self.main => {
                    return Ok(u8::try_from(code).unwrap_or(u8::MAX));
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.main => {
                    return Ok(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX));
                }
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    self.unit_of.remove(&pid);
                    self.asked_for_commit.remove(&pid);
                }
                _ => {}
            }
        }
    }

    fn on_event(&mut self, pid: Pid, event: libc::c_int) {
        match event {
            _ if event == Event::PTRACE_EVENT_SECCOMP as libc::c_int => self.on_call(pid),
            _ if event == Event::PTRACE_EVENT_EXEC as libc::c_int => self.on_exec(pid),
            _ => {
                let Ok(child) = ptrace::getevent(pid) else { return };
                let Ok(child) = child.try_into().map(Pid::from_raw) else { return };
                let unit = self.unit_of.get(&pid).cloned().flatten();
                self.unit_of.insert(child, unit);
                if self.early.remove(&child) {
                    // Should it be gone, its end is reported as that of others.
                    let _ = go_on(child, None);
                }
            }
        }
    }

    /// Any program that a unit's process starts works for the same unit.
    fn on_exec(&mut self, pid: Pid) {
        let process = process(pid);
        let read = |name: &str| fs::read(process.join(name)).unwrap_or_default();
        let executable = fs::read_link(process.join("exe")).unwrap_or_default();
        let arguments: Vec<OsString> = read("cmdline")
            .split(|byte| *byte == 0)
            .map(|argument| OsStr::from_bytes(argument).to_owned())
            .collect();
        if self.unit_of.get(&pid).is_some_and(Option::is_some) {
            match asks_for_commit(&executable, trimmed(&arguments)) {
                true => self.asked_for_commit.insert(pid),
                false => self.asked_for_commit.remove(&pid),
            };
            return;
        }
        let unit = begun_by(&executable, &arguments, &read("environ"));
        if let Some(unit) = &unit {
            // Also if it looks at nothing at all.
            self.units.entry(unit.clone()).or_default();
        }
        self.unit_of.insert(pid, unit);
    }

    fn on_call(&mut self, pid: Pid) {
        let Some(Some(unit)) = self.unit_of.get(&pid) else { return };
        let acts = self.units.entry(unit.clone()).or_default();
        let unaccountable = |what: String| (Act::Unaccountable, PathBuf::from(what));
        let Ok((number, arguments)) = system_call(pid) else {
            acts.insert(unaccountable("a system call that cannot be read".to_owned()));
            return;
        };
        for one in self.uses.get(&number).copied().unwrap_or_default() {
            acts.extend(match act_of(pid, one, &arguments) {
                // It has no place in a manifest.
                Ok(Some((_, path))) if path.to_str().is_none() => {
                    Some(unaccountable("a path that is not Unicode".to_owned()))
                }
                Ok(Some((Act::Looked | Act::Listed, path)))
                    if self.asked_for_commit.contains(&pid) =>
                {
                    Some((Act::AskedForCommit, path))
                }
                Ok(seen) => seen,
                Err(e) => Some(unaccountable(format!("system call {number}: {e}"))),
            });
        }
    }
}

/// Without what is behind the last null byte of a command line.
fn trimmed(arguments: &[OsString]) -> &[OsString] {
    arguments.strip_suffix(&[OsString::new()]).unwrap_or(arguments)
}

/// Lets a process go on, unless it was killed meanwhile.
fn go_on(pid: Pid, signal: Option<Signal>) -> io::Result<()> {
    // The first stop of a process that is observed from its beginning, and no signal to it.
    let signal = signal.filter(|signal| *signal != Signal::SIGSTOP);
    match ptrace::cont(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn process(pid: Pid) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// The number of the system call that a process is about to make, and its arguments.
#[cfg(target_arch = "x86_64")]
fn system_call(pid: Pid) -> io::Result<(i64, [u64; 6])> {
    let registers = ptrace::getregs(pid)?;
    let arguments =
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    Ok((registers.orig_rax.cast_signed(), arguments))
}

#[cfg(target_arch = "aarch64")]
fn system_call(pid: Pid) -> io::Result<(i64, [u64; 6])> {
    let registers = ptrace::getregset::<ptrace::regset::NT_PRSTATUS>(pid)?.regs;
    let [a, b, c, d, e, f, ..] = registers;
    Ok((registers[8].cast_signed(), [a, b, c, d, e, f]))
}

/// What a system call does by one of its arguments; `None` if that names no path.
fn act_of(pid: Pid, one: &Use, arguments: &[u64; 6]) -> io::Result<Option<(Act, PathBuf)>> {
    let act = match one.what {
        What::Is(act) => act,
        What::Flags(number) => calls::opened_for(arguments[number]),
        What::How(number) => calls::opened_for(word(pid, arguments[number])?),
    };
    let path = match one.place {
        Place::Path(number) => match text(pid, arguments[number])? {
            path if path.as_os_str().is_empty() => return Ok(None),
            path if path.is_absolute() => path,
            path => fs::read_link(process(pid).join("cwd"))?.join(path),
        },
        Place::At(number) => match arguments[number + 1] {
            // The open file itself, or a directory that the kernel knows.
            0 => return Ok(None),
            address => match text(pid, address)? {
                path if path.as_os_str().is_empty() => return Ok(None),
                path if path.is_absolute() => path,
                path => open(pid, arguments[number])?.join(path),
            },
        },
        Place::Open(number) => open(pid, arguments[number])?,
        Place::Socket(number) => match word(pid, arguments[number])? & 0xffff {
            // Names of users and hosts are asked for by such; no other input is.
            family if family == libc::AF_UNIX as u64 => return Ok(None),
            family => format!("a connection of address family {family}").into(),
        },
        Place::Nowhere => "a system call that hides what it looks at".into(),
    };
    Ok(Some((act, path)))
}

/// What an open file, or the working directory, is called.
fn open(pid: Pid, descriptor: u64) -> io::Result<PathBuf> {
    // A descriptor is a 32-bit number; the upper half of the register means nothing.
    #[expect(clippy::cast_possible_truncation, reason = "as the kernel does")]
    let descriptor = descriptor as i32;
    let process = process(pid);
    match descriptor {
        libc::AT_FDCWD => fs::read_link(process.join("cwd")),
        other => fs::read_link(process.join("fd").join(other.to_string())),
    }
}

/// The text at an address of a process, up to a null byte.
fn text(pid: Pid, address: u64) -> io::Result<PathBuf> {
    let mut found = Vec::new();
    while found.len() <= PATH_MAX {
        let from = address + found.len() as u64;
        let mut chunk = vec![0; usize::try_from(PAGE - from % PAGE).unwrap_or(1)];
        let read = read(pid, from, &mut chunk)?;
        if let Some(end) = memchr::memchr(0, &chunk[..read]) {
            found.extend_from_slice(&chunk[..end]);
            return Ok(OsString::from_vec(found).into());
        }
        found.extend_from_slice(&chunk[..read]);
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// The first eight bytes at an address of a process.
fn word(pid: Pid, address: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    read(pid, address, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn read(pid: Pid, address: u64, into: &mut [u8]) -> io::Result<usize> {
    let base = usize::try_from(address).map_err(io::Error::other)?;
    let from = [RemoteIoVec { base, len: into.len() }];
    match process_vm_readv(pid, &mut [IoSliceMut::new(into)], &from)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}
