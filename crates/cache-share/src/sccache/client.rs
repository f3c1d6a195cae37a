//! Speaking to the server of a cache: from the pool, and from the wrapper of rustc inside a slot.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use fs4::TryLockError;
use pool_core::{CacheFinding, Error, Result, open_plain};
use serde::{Deserialize, Serialize};

/// How a cache of compilations is used, as it is written down for the wrapper of rustc.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Client {
    /// The program that stands in for the compiler.
    pub(crate) program: PathBuf,
    /// Where its server's lock is; `None` when it has no server.
    pub(crate) dir: Option<PathBuf>,
    /// Where the server listens.
    pub(crate) socket: PathBuf,
    /// Variables for the program.
    pub(crate) env: BTreeMap<String, String>,
    /// The variables without which a server would keep what it has somewhere else. Their values may be secret,
    /// and are not written down.
    pub(crate) needs: Vec<String>,
}

/// The path of a Unix socket may be so long, in bytes.
const LONGEST: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// So long nobody tries again to start a server that did not start: each of hundreds of compilations
/// would wait for it.
const RESPITE: Duration = Duration::from_secs(60);

/// So long a server may take to start or to answer. sccache itself gives up after ten seconds.
const LIMIT: Duration = Duration::from_secs(15);

/// What would keep a server from going to the background, or make one of a client.
const NOT_HERE: [&str; 4] =
    ["SCCACHE_NO_DAEMON", "SCCACHE_START_SERVER", "SCCACHE_STARTUP_NOTIFY", "SCCACHE_SERVER_PORT"];

/// Where it is written down, beside the server's lock.
const NOTE: &str = "client.json";

impl Client {
    /// As it was written down there by whoever used it last.
    pub(super) fn noted(dir: &Path) -> Option<Self> {
        let text = fs::read(dir.join(NOTE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes it down, for those who have to stop the server.
    pub(super) fn note(&self) -> Result<()> {
        let Some(path) = self.dir.as_ref().map(|dir| dir.join(NOTE)) else { return Ok(()) };
        serde_json::to_vec(self)
            .map_err(io::Error::from)
            .and_then(|text| crate::files::write(&path, &text))
            .map_err(|e| Error::io(format!("write {}", path.display()), e))
    }

    /// With a place for the socket: the cache's directory, or one that has a shorter path.
    pub(super) fn with_socket(mut self) -> Result<Self> {
        let Some(dir) = &self.dir else { return Ok(self) };
        let usual = dir.join("socket");
        if is_short(&usual) {
            self.socket = usual;
            return Ok(self);
        }
        let _alone = lock(dir)?;
        let note = dir.join("place");
        let noted = fs::read_to_string(&note).ok().map(PathBuf::from);
        let place = match noted.filter(|place| is_own(place, dir)) {
            Some(place) => place,
            None => {
                // Not where TMPDIR says, which may be long as well. Only its owner can enter it.
                let mut builder = tempfile::Builder::new();
                #[cfg(unix)]
                builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
                let made = builder.prefix("wtpool-").tempdir_in("/tmp");
                let place = made.map_err(|e| Error::io("make a directory in /tmp", e))?.keep();
                let text = super::text(&place)?;
                crate::files::write(&note, text.as_bytes())
                    .map_err(|e| Error::io(format!("write {}", note.display()), e))?;
                place
            }
        };
        self.socket = place.join("socket");
        Ok(self)
    }

    /// The directory of the socket, if it is not the cache's.
    pub(super) fn place(&self) -> Option<&PathBuf> {
        // Only its file is of use to anybody else.
        (self.dir.is_some() && self.socket.parent() != self.dir.as_deref()).then_some(&self.socket)
    }

    /// The variables with which the program finds its server.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let mut env = self.env.clone();
        if self.dir.is_some() {
            env.insert("SCCACHE_SERVER_UDS".to_owned(), self.socket.to_string_lossy().into_owned());
        }
        env
    }

    /// The program, with its variables.
    fn command(&self, argument: &str, env: &BTreeMap<String, String>) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(argument).envs(env).envs(self.variables()).stdin(Stdio::null());
        let elsewhere = super::PLACES.iter().filter(|name| {
            !env.contains_key(**name) && !self.env.contains_key(**name) && !self.needs(name)
        });
        for name in NOT_HERE.iter().chain(elsewhere) {
            command.env_remove(name);
        }
        command
    }

    fn needs(&self, name: &str) -> bool {
        self.needs.iter().any(|needed| needed == name)
    }

    /// The same from inside a slot: whether there is a server, or one can be started.
    pub(crate) fn ensure_inside(&self) -> bool {
        let knows = |name: &String| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        self.answers() || (self.needs.iter().all(knows) && self.ensure(&BTreeMap::new()).is_ok())
    }

    /// What there is to say of its server.
    pub(super) fn examine(&self) -> CacheFinding {
        if !self.answers() {
            return match self.dir.as_deref().and_then(|dir| recent(&dir.join("trouble"))) {
                Some(why) => CacheFinding::trouble(
                    why,
                    "put that right; it is tried again a minute after it failed, and until then each worktree \
                     compiles everything",
                ),
                None => unused(),
            };
        }
        let mut command = self.command("--show-stats", &BTreeMap::new());
        let said = match output(command.arg("--stats-format=json"), LIMIT) {
            Ok(said) => said,
            Err(why) => {
                return CacheFinding::trouble(
                    format!(
                        "a server listens at {}, and does not answer: {why}",
                        self.socket.display()
                    ),
                    "end it; the next lease starts another",
                );
            }
        };
        summed_up(&serde_json::from_slice(&said).unwrap_or_default())
    }

    /// Starts a server unless there is one. The error says why there is none.
    pub(crate) fn ensure(&self, env: &BTreeMap<String, String>) -> Result<(), String> {
        let Some(dir) = &self.dir else { return Ok(()) };
        if self.answers() {
            return Ok(());
        }
        // A second server at the same place would take the socket from the first, which nobody could
        // then stop.
        let _alone = lock(dir).map_err(|e| e.to_string())?;
        if self.answers() {
            return Ok(());
        }
        let trouble = dir.join("trouble");
        if let Some(why) = recent(&trouble) {
            return Err(why);
        }
        let started = self.start(dir, env);
        // Without the note, the next one tries again.
        let _ = match &started {
            Ok(()) => fs::remove_file(&trouble),
            Err(why) => fs::write(&trouble, why),
        };
        started
    }

    fn start(&self, dir: &Path, env: &BTreeMap<String, String>) -> Result<(), String> {
        // Not a pipe: a server that kept it open would be waited for.
        let said = tempfile::tempfile_in(dir).map_err(|e| e.to_string())?;
        let both = |file: &File| file.try_clone().map(Stdio::from);
        let (out, err) = (both(&said), both(&said));
        let (Ok(out), Ok(err)) = (out, err) else { return Err("too many open files".to_owned()) };
        let mut command = self.command("--start-server", env);
        // One that knows nothing of Unix sockets listens at a port: not at that of the user's own server.
        if let Some(port) = free_port() {
            command.env("SCCACHE_SERVER_PORT", port.to_string());
        }
        match finish(command.current_dir(dir).stdout(out).stderr(err), LIMIT) {
            Ok(Some(status)) if status.success() => {}
            Ok(Some(_)) => return Err(format!("its server does not start: {}", summary(said))),
            Ok(None) => return Err("its server takes too long to start".to_owned()),
            Err(e) => return Err(format!("it can't be started: {e}")),
        }
        if self.answers() {
            return Ok(());
        }
        // With the same variables: at that port.
        let port = command.get_envs().find(|(name, _)| *name == OsStr::new("SCCACHE_SERVER_PORT"));
        let port = port.and_then(|(_, value)| value).unwrap_or_default();
        let mut stop = self.command("--stop-server", env);
        quiet(stop.env("SCCACHE_SERVER_PORT", port));
        Err("its server does not listen at a Unix socket; it may be too old".to_owned())
    }

    /// Whether a server listens.
    #[cfg(unix)]
    fn answers(&self) -> bool {
        self.dir.is_none() || std::os::unix::net::UnixStream::connect(&self.socket).is_ok()
    }

    #[cfg(not(unix))]
    fn answers(&self) -> bool {
        self.dir.is_none()
    }

    /// Stops the server, unless `needed` says otherwise, which is asked while none can be started. What it can't
    /// be told ends by itself, some time after it was last used.
    pub(super) fn stop_unless(&self, needed: impl FnOnce() -> bool) {
        let Some(dir) = &self.dir else { return };
        let Ok(_alone) = lock(dir) else { return };
        if needed() {
            return;
        }
        self.stop();
        if let Some(place) = self.place().and_then(|socket| socket.parent()) {
            let _ = fs::remove_dir_all(place);
        }
    }

    /// Does something while there is no server.
    pub(super) fn stop_while(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let Some(dir) = &self.dir else { return work() };
        let _alone = lock(dir)?;
        self.stop();
        work()
    }

    fn stop(&self) {
        if self.answers() {
            quiet(&mut self.command("--stop-server", &BTreeMap::new()));
        }
    }
}

/// Has something done that may fail, and that nobody wants to hear of.
fn quiet(command: &mut Command) {
    let _ = finish(command.stdout(Stdio::null()).stderr(Stdio::null()), LIMIT);
}

/// Where there is no server, which is no trouble.
pub(super) fn unused() -> CacheFinding {
    CacheFinding::fine("no server runs; the next lease starts one")
}

/// What a server counted, since it was started.
fn summed_up(stats: &serde_json::Value) -> CacheFinding {
    let stats = &stats["stats"];
    let of_all = |name: &str| -> u64 {
        let counts = stats[name]["counts"].as_object().into_iter().flatten();
        counts.filter_map(|(_, count)| count.as_u64()).sum()
    };
    let one = |name: &str| stats[name].as_u64().unwrap_or_default();
    let (hits, misses) = (of_all("cache_hits"), of_all("cache_misses"));
    let what = format!("a server runs: {hits} compilations were found, {misses} were not");
    let (writes, reads) = (one("cache_write_errors"), of_all("cache_errors"));
    let timeouts = one("cache_timeouts");
    if writes + reads + timeouts == 0 {
        return CacheFinding::fine(what);
    }
    CacheFinding::trouble(
        format!(
            "{what}; {reads} could not be read, {writes} not be written, {timeouts} took too long"
        ),
        "see whether the cache can be reached, and has room",
    )
}

/// What a program calls itself, with its version.
pub(super) fn version(program: &Path) -> Result<String, String> {
    let said = output(Command::new(program).arg("--version"), LIMIT)?;
    let said = String::from_utf8_lossy(&said);
    let first = said.lines().next().unwrap_or_default().trim();
    Ok(if first.is_empty() { program.display().to_string() } else { first.to_owned() })
}

/// What a command prints, if it succeeds.
fn output(command: &mut Command, limit: Duration) -> Result<Vec<u8>, String> {
    // Not a pipe, which somebody has to read meanwhile.
    let mut said = tempfile::tempfile().map_err(|e| e.to_string())?;
    let out = said.try_clone().map_err(|e| e.to_string())?;
    command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null());
    match finish(command, limit) {
        Ok(Some(status)) if status.success() => {}
        Ok(Some(status)) => return Err(format!("it failed ({status})")),
        Ok(None) => return Err("it takes too long".to_owned()),
        Err(e) => return Err(e.to_string()),
    }
    let mut text = Vec::new();
    said.rewind().and_then(|()| said.read_to_end(&mut text)).map_err(|e| e.to_string())?;
    Ok(text)
}

/// Waits for a command, and ends it when that takes too long: `None`.
fn finish(command: &mut Command, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Whoever starts or stops a server does it alone.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let failed = |e| Error::io(format!("lock {}", path.display()), e);
    let open = open_plain(File::options().create(true).truncate(false).write(true), &path);
    let file = open.map_err(failed)?;
    let begun = Instant::now();
    loop {
        match fs4::FileExt::try_lock(&file) {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < LIMIT * 2 => {
                std::thread::sleep(Duration::from_millis(5));
            }
            // A process that was stopped while it had it holds up nobody for long.
            Err(TryLockError::WouldBlock) => return Err(failed(io::ErrorKind::TimedOut.into())),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
}

/// Why a server did not start a moment ago.
fn recent(trouble: &Path) -> Option<String> {
    let noted = fs::metadata(trouble).and_then(|meta| meta.modified()).ok()?;
    // A time to come is one of another clock.
    let age = SystemTime::now().duration_since(noted).ok()?;
    if age < RESPITE { fs::read_to_string(trouble).ok() } else { None }
}

/// What went wrong, in what sccache said of it: its first line about an error, and the cause at its root.
fn summary(mut said: File) -> String {
    let mut text = Vec::new();
    if said.rewind().and_then(|()| said.read_to_end(&mut text)).is_err() {
        return "it does not say why".to_owned();
    }
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().find(|line| line.contains("error:")).or(lines.clone().next_back());
    let root = lines.find(|line| *line == "Source:").and_then(|_| lines.next());
    let error = error.unwrap_or("it does not say why").trim_start_matches("sccache: error: ");
    error.to_owned() + &root.map(|root| format!(" ({root})")).unwrap_or_default()
}

fn free_port() -> Option<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).ok()?;
    listener.local_addr().ok().map(|address| address.port())
}

/// Whether a socket can be there. sccache takes the path from a variable, as text.
fn is_short(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.len() <= LONGEST)
}

/// Whether that directory is there and belongs to whom `dir` belongs to.
#[cfg(unix)]
fn is_own(place: &Path, dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(place), Ok(dir)) = (fs::symlink_metadata(place), fs::metadata(dir)) else {
        return false;
    };
    place.is_dir() && place.uid() == dir.uid() && place.mode() & 0o077 == 0
}

#[cfg(not(unix))]
fn is_own(_: &Path, _: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_socket_has_a_short_path_wherever_the_pool_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let deep = dir.path().join("d".repeat(60)).join("e".repeat(60));
        fs::create_dir_all(&deep).expect("made");
        let client = |dir: &Path| {
            Client { dir: Some(dir.to_owned()), ..Client::default() }.with_socket().expect("placed")
        };
        assert_eq!(client(dir.path()).socket, dir.path().join("socket"));
        assert_eq!(client(dir.path()).place(), None);
        let first = client(&deep);
        assert!(is_short(&first.socket) && !first.socket.starts_with(&deep));
        // The same for everybody, and a new one when that was cleaned up.
        assert_eq!(client(&deep), first);
        first.stop_unless(|| false);
        assert!(!first.socket.parent().expect("a directory").exists());
        let second = client(&deep);
        assert!(second.socket.parent().expect("a directory").is_dir());
        second.stop_unless(|| true);
        assert_eq!(client(&deep), second);
        second.stop_unless(|| false);
    }

    #[cfg(unix)]
    #[test]
    fn what_takes_too_long_is_ended() {
        let mut long = Command::new("sleep");
        let ended = finish(long.arg("1000"), Duration::from_millis(20)).expect("it was started");
        assert_eq!(ended, None);
        let status = finish(&mut Command::new("true"), LIMIT).expect("it was started");
        assert!(status.is_some_and(|status| status.success()));
    }

    #[cfg(unix)]
    #[test]
    fn a_server_is_told_nothing_of_other_places() {
        let env = |name: &str| BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        let needs = vec!["SCCACHE_BUCKET".to_owned()];
        let client = Client { needs, env: env("SCCACHE_DIR"), ..Client::default() };
        let command = client.command("--start-server", &env("SCCACHE_REDIS"));
        let removed: Vec<_> =
            command.get_envs().filter(|(_, v)| v.is_none()).map(|(n, _)| n).collect();
        for kept in ["SCCACHE_DIR", "SCCACHE_REDIS", "SCCACHE_BUCKET"] {
            assert!(!removed.contains(&OsStr::new(kept)), "{kept}");
        }
        assert!(removed.contains(&OsStr::new("SCCACHE_MEMCACHED")));
    }

    #[test]
    fn the_cause_is_found_in_what_sccache_says() {
        let said = |text: &str| {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(text.as_bytes()).expect("written");
            summary(file)
        };
        let redis = "sccache: Starting the server...\nsccache: error: Server startup failed: at read\n\n\
                     Context:\n   service: redis\n\nSource:\n   Connection refused\n\nBacktrace:\n   0: x\n\n";
        assert_eq!(said(redis), "Server startup failed: at read (Connection refused)");
        assert_eq!(said("what now?\n"), "what now?");
        assert_eq!(said(""), "it does not say why");
    }

    #[test]
    fn what_went_wrong_holds_for_a_while() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let program = dir.path().join("no-such-program");
        let client = Client { program, dir: Some(dir.path().to_owned()), ..Client::default() };
        let client = client.with_socket().expect("placed");
        let why = client.ensure(&BTreeMap::new()).expect_err("there is no program");
        assert_eq!(recent(&dir.path().join("trouble")), Some(why.clone()));
        assert_eq!(client.ensure(&BTreeMap::new()), Err(why));
        let long_ago = SystemTime::now() - RESPITE * 2;
        crate::files::set_modified(&dir.path().join("trouble"), long_ago).expect("set");
        assert_eq!(recent(&dir.path().join("trouble")), None);
    }
}
