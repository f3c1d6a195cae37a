//! Processes that live and die when the test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pool_core::{
    BootId, Claim, ClaimGuard, ClaimKey, Error, ErrorKind, Liveness, Occupant, ProcessIdentity,
    Result, Vital,
};

/// A machine with simulated processes. Clones are the same machine.
///
/// It is a [`Liveness`] itself, as seen by a process that has no name and never dies; of each other
/// process, [`process`](Self::process) gives the view.
///
/// ```
/// # use pool_core::{ClaimKey, Liveness as _, Vital};
/// # use testkit::liveness::FakeLiveness;
/// let machine = FakeLiveness::new();
/// let key = ClaimKey::new("lease-1")?;
/// let claim = machine.process("agent").claim(&key)?;
/// assert_eq!(machine.holds(&key), Vital::Alive);
/// machine.kill("agent");
/// assert_eq!(machine.holds(&key), Vital::Gone, "though `claim` was not dropped");
/// # Ok::<(), pool_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FakeLiveness(Arc<Mutex<Machine>>);

#[derive(Debug)]
struct Machine {
    boot: u32,
    ticks: u64,
    next_pid: u32,
    /// Those that run, by pid.
    running: BTreeMap<u32, Process>,
    /// Who holds each claim: pids and start times.
    claims: BTreeMap<ClaimKey, BTreeSet<(u32, u64)>>,
    forgotten: Vec<ClaimKey>,
    occupied: Vec<(PathBuf, u32)>,
    blind: bool,
}

#[derive(Debug)]
struct Process {
    name: String,
    start_time: u64,
}

const INIT: (u32, u64) = (1, 0);

impl Default for FakeLiveness {
    fn default() -> Self {
        let init = Process { name: "init".into(), start_time: INIT.1 };
        Self(Arc::new(Mutex::new(Machine {
            boot: 1,
            ticks: 0,
            next_pid: 1000,
            running: BTreeMap::from([(INIT.0, init)]),
            claims: BTreeMap::new(),
            forgotten: Vec::new(),
            occupied: Vec::new(),
            blind: false,
        })))
    }
}

impl FakeLiveness {
    /// A machine on which nothing runs yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The view of the running process of that name, which is started if there is none.
    pub fn process(&self, name: &str) -> Arc<dyn Liveness> {
        let pid = self.spawn(name);
        let start_time = self.machine().running[&pid].start_time;
        Arc::new(View { of: self.clone(), who: (pid, start_time) })
    }

    /// The pid of the running process of that name, which is started if there is none.
    pub fn spawn(&self, name: &str) -> u32 {
        let mut machine = self.machine();
        if let Some((pid, _)) = machine.running.iter().find(|(_, p)| p.name == name) {
            return *pid;
        }
        let pid = machine.next_pid;
        machine.next_pid += 1;
        machine.start(pid, name);
        pid
    }

    /// Starts a process with a pid that a dead one had before.
    ///
    /// # Panics
    ///
    /// When a process with that pid runs.
    pub fn spawn_as(&self, pid: u32, name: &str) {
        let mut machine = self.machine();
        assert!(!machine.running.contains_key(&pid), "process {pid} runs");
        machine.start(pid, name);
    }

    /// The running process of that name.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.machine().running.iter().find(|(_, p)| p.name == name).map(|(pid, _)| *pid)
    }

    /// Kills the process of that name, if there is one. Its claims and its working directories go
    /// with it; its [`Claim`] values become hollow.
    pub fn kill(&self, name: &str) {
        let mut machine = self.machine();
        let pids: Vec<u32> =
            machine.running.iter().filter(|(_, p)| p.name == name).map(|(pid, _)| *pid).collect();
        for pid in pids {
            machine.end(pid);
        }
    }

    /// Lets a process hold a claim too, as a child does that inherited the locked file.
    ///
    /// # Panics
    ///
    /// When nobody holds the claim: there is nothing to inherit then.
    pub fn inherit(&self, key: &ClaimKey, name: &str) {
        let pid = self.spawn(name);
        let mut machine = self.machine();
        let who = (pid, machine.running[&pid].start_time);
        machine.claims.get_mut(key).unwrap_or_else(|| panic!("nobody holds {key}")).insert(who);
    }

    /// Puts the working directory of a process at `path`.
    pub fn occupy(&self, path: impl AsRef<Path>, pid: u32) {
        self.machine().occupied.push((path.as_ref().to_owned(), pid));
    }

    /// Takes that process out of all directories.
    pub fn vacate(&self, pid: u32) {
        self.machine().occupied.retain(|(_, who)| *who != pid);
    }

    /// Ends everything that runs and boots again, under another boot id.
    pub fn reboot(&self) {
        let mut machine = self.machine();
        let pids: Vec<u32> = machine.running.keys().copied().filter(|pid| *pid != INIT.0).collect();
        for pid in pids {
            machine.end(pid);
        }
        machine.claims.clear();
        machine.boot += 1;
    }

    /// While blind, nothing is known of any process or claim: [`Vital::Unknown`].
    pub fn set_blind(&self, blind: bool) {
        self.machine().blind = blind;
    }

    /// The claims that are held now.
    pub fn claimed(&self) -> Vec<ClaimKey> {
        self.machine().claims.keys().cloned().collect()
    }

    /// The keys that were [forgotten](Liveness::forget), in that order.
    pub fn forgotten(&self) -> Vec<ClaimKey> {
        self.machine().forgotten.clone()
    }

    fn claim_as(&self, who: (u32, u64), key: &ClaimKey) -> Result<Claim> {
        let mut machine = self.machine();
        if !machine.is_running(who) {
            return Err(Error::new(ErrorKind::Cancelled, format!("process {} was killed", who.0)));
        }
        if machine.claims.contains_key(key) {
            return Err(Error::new(ErrorKind::Busy, format!("{key} is claimed already")));
        }
        machine.claims.insert(key.clone(), BTreeSet::from([who]));
        Ok(Claim::new(key.clone(), Box::new(Guard { key: key.clone(), who, of: self.clone() })))
    }
}

impl Machine {
    fn start(&mut self, pid: u32, name: &str) {
        self.ticks += 1;
        self.running.insert(pid, Process { name: name.to_owned(), start_time: self.ticks });
    }

    fn end(&mut self, pid: u32) {
        let Some(process) = self.running.remove(&pid) else { return };
        self.occupied.retain(|(_, who)| *who != pid);
        self.claims.retain(|_, holders| {
            holders.remove(&(pid, process.start_time));
            !holders.is_empty()
        });
    }

    fn is_running(&self, (pid, start_time): (u32, u64)) -> bool {
        self.running.get(&pid).is_some_and(|p| p.start_time == start_time)
    }

    fn boot(&self) -> BootId {
        BootId(format!("boot-{}", self.boot))
    }
}

/// The machine as one of its processes sees it.
#[derive(Debug)]
struct View {
    of: FakeLiveness,
    who: (u32, u64),
}

#[derive(Debug)]
struct Guard {
    key: ClaimKey,
    who: (u32, u64),
    of: FakeLiveness,
}

impl ClaimGuard for Guard {}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut machine = self.of.machine();
        if let Some(holders) = machine.claims.get_mut(&self.key) {
            holders.remove(&self.who);
            if holders.is_empty() {
                machine.claims.remove(&self.key);
            }
        }
    }
}

impl Liveness for FakeLiveness {
    fn claim(&self, key: &ClaimKey) -> Result<Claim> {
        self.claim_as(INIT, key)
    }

    fn holds(&self, key: &ClaimKey) -> Vital {
        let machine = self.machine();
        match (machine.blind, machine.claims.contains_key(key)) {
            (true, _) => Vital::Unknown,
            (false, true) => Vital::Alive,
            (false, false) => Vital::Gone,
        }
    }

    fn forget(&self, key: &ClaimKey) {
        let mut machine = self.machine();
        if !machine.claims.contains_key(key) {
            machine.forgotten.push(key.clone());
        }
    }

    fn identify(&self, pid: u32) -> Option<ProcessIdentity> {
        let machine = self.machine();
        let process = machine.running.get(&pid)?;
        let (start_time, boot) = (process.start_time, machine.boot());
        Some(ProcessIdentity { pid, start_time, boot, namespace: None })
    }

    fn runs(&self, process: &ProcessIdentity) -> Vital {
        let machine = self.machine();
        if machine.blind {
            return Vital::Unknown;
        }
        let same_boot = process.boot == machine.boot();
        if same_boot && machine.is_running((process.pid, process.start_time)) {
            Vital::Alive
        } else {
            Vital::Gone
        }
    }

    fn occupants(&self, dirs: &[&Path]) -> Result<Vec<Vec<Occupant>>> {
        let machine = self.machine();
        if machine.blind {
            return Err(Error::new(ErrorKind::Unsupported, "nobody can tell who stands where"));
        }
        let within = |dir: &Path| {
            let here = machine.occupied.iter().filter(|(at, _)| at.starts_with(dir));
            here.map(|(_, pid)| {
                let name = machine.running.get(pid).map_or("?", |p| p.name.as_str()).to_owned();
                Occupant { pid: *pid, name }
            })
            .collect()
        };
        Ok(dirs.iter().map(|dir| within(dir)).collect())
    }
}

impl Liveness for View {
    fn claim(&self, key: &ClaimKey) -> Result<Claim> {
        self.of.claim_as(self.who, key)
    }

    fn holds(&self, key: &ClaimKey) -> Vital {
        self.of.holds(key)
    }

    fn forget(&self, key: &ClaimKey) {
        self.of.forget(key);
    }

    fn identify(&self, pid: u32) -> Option<ProcessIdentity> {
        self.of.identify(pid)
    }

    fn runs(&self, process: &ProcessIdentity) -> Vital {
        self.of.runs(process)
    }

    fn occupants(&self, dirs: &[&Path]) -> Result<Vec<Vec<Occupant>>> {
        self.of.occupants(dirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ClaimKey {
        ClaimKey::new(text).expect("a good key")
    }

    #[test]
    fn a_heir_keeps_a_claim_alive() {
        let machine = FakeLiveness::new();
        let claim = machine.process("parent").claim(&key("k")).expect("it is free");
        assert_eq!(machine.claim(&key("k")).expect_err("taken").kind(), ErrorKind::Busy);
        machine.inherit(&key("k"), "child");
        machine.kill("parent");
        assert_eq!(machine.holds(&key("k")), Vital::Alive);
        drop(claim);
        assert_eq!(machine.holds(&key("k")), Vital::Alive);
        machine.kill("child");
        assert_eq!(machine.holds(&key("k")), Vital::Gone);
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let machine = FakeLiveness::new();
        let pid = machine.spawn("first");
        let first = machine.identify(pid).expect("it runs");
        machine.kill("first");
        assert_eq!(machine.runs(&first), Vital::Gone);
        machine.spawn_as(pid, "second");
        assert_eq!(machine.runs(&first), Vital::Gone);
        let second = machine.identify(pid).expect("it runs");
        assert_eq!(machine.runs(&second), Vital::Alive);
        machine.reboot();
        machine.spawn_as(pid, "third");
        assert_eq!(machine.runs(&second), Vital::Gone);
        machine.set_blind(true);
        assert_eq!(machine.runs(&second), Vital::Unknown);
    }

    #[test]
    fn occupants_are_found_below_a_directory_until_they_leave_or_die() {
        let machine = FakeLiveness::new();
        let (a, b) = (machine.spawn("a"), machine.spawn("b"));
        machine.occupy("/pool/slot-1/src", a);
        machine.occupy("/pool/slot-10", b);
        let look = || {
            let dirs = [Path::new("/pool/slot-1"), Path::new("/pool/slot-10")];
            let found = machine.occupants(&dirs).expect("it can be known");
            found
                .into_iter()
                .map(|v| v.into_iter().map(|o| o.pid).collect())
                .collect::<Vec<Vec<_>>>()
        };
        assert_eq!(look(), [vec![a], vec![b]]);
        machine.kill("a");
        assert_eq!(look(), [vec![], vec![b]]);
        machine.vacate(b);
        assert_eq!(look(), [Vec::<u32>::new(), vec![]]);
    }
}
