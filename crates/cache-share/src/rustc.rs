//! What stands between cargo and rustc inside a slot: cargo's `build.rustc-wrapper`.
//!
//! It changes nothing that cargo knows of, so the hashes and fingerprints of units stay what they would be
//! without it. Three things only rustc itself can be told:
//!
//! - *One path.* Incremental state is thrown away by rustc when the working directory or the output
//!   directory is another one than before. So what compiles incrementally does so in a mount namespace of
//!   its own, in which the worktree stands at one path that is the same for the base and for every slot.
//!   What a slot compiles for the first time then starts from the base's state. Where namespaces are
//!   not permitted, rustc starts from nothing; all else is the same.
//! - *Lean builds.* While the disk is to be spared: no incremental state, no debug information, and in programs
//!   no symbols.
//! - *Relative paths.* In a namespace, and all over the base, rustc writes paths of sources as relative ones. So
//!   backtraces and debuggers find them; and wherever the path of the base, or that of the namespace,
//!   still occurs, somebody put it there on purpose. What has the namespace's is compiled again outside.
//!
//! A build must not fail because of the wrapper: whatever it can't do, it leaves to rustc as cargo asked
//! for it.

mod args;
mod incremental;
mod namespace;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use args::Invocation;

use crate::identity::Identity;
use crate::install::{self, CargoConfig};
use crate::observe;

/// The name under which a program that calls [`wrap`] is to be found: it then is the wrapper.
pub const PROGRAM: &str = "wtpool-rustc";

/// Beside the wrapper: what it is to do there.
pub(crate) const CONFIG: &str = "wtpool-rustc.json";

/// Asked for in place of a compiler: are namespaces permitted?
const PROBE: &str = "--probe-namespace";

/// What the wrapper of one slot, or of a base, is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// The worktree, or the base's tree.
    pub(crate) root: PathBuf,
    /// Where the worktree stands for incremental compilations; `None`: where it is.
    pub(crate) canonical: Option<PathBuf>,
    /// The directory of incremental state to start from, below which those of profiles lie:
    /// the base's target directory.
    pub(crate) donor: Option<PathBuf>,
    /// The target directory that corresponds to it.
    pub(crate) target: PathBuf,
    /// Build lean.
    pub(crate) lean: bool,
    /// Build lean while this file exists.
    pub(crate) lean_while: Option<PathBuf>,
    /// A wrapper of the user's own, to be run in between.
    pub(crate) chain: Option<PathBuf>,
    /// The pool's claims: a server that `chain` starts must not inherit one.
    pub(crate) claims: Option<PathBuf>,
    /// What tells the units of this worktree from others' in a common build directory.
    pub(crate) identity: Option<Identity>,
    /// What cargo was told with it.
    pub(crate) cargo: Option<CargoConfig>,
    /// `chain` is a cache, used like that, and only for what is the same wherever it is compiled.
    pub(crate) cache: Option<crate::sccache::Client>,
    /// For a base: what is written down of each call.
    pub(crate) record: Option<PathBuf>,
    /// For a base: compile what is not part of the workspace with line tables only, and have debug
    /// sections compressed.
    pub(crate) spare: bool,
}

impl Config {
    fn is_lean(&self) -> bool {
        self.lean || self.lean_while.as_ref().is_some_and(|flag| flag.exists())
    }
}

/// One call of rustc while a base is built, as cargo made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Call {
    /// When it began.
    pub(crate) time: SystemTime,
    /// Cargo's hash of the unit; empty where it is not in the names of the outputs.
    pub(crate) hash: String,
    pub(crate) crate_name: String,
    pub(crate) package: String,
    /// Where the package's manifest is.
    pub(crate) manifest_dir: PathBuf,
    /// Where its outputs go.
    pub(crate) out_dir: PathBuf,
    /// `OUT_DIR`: where its build script wrote.
    pub(crate) script_out: Option<PathBuf>,
    /// Whether it makes a procedural macro.
    pub(crate) is_macro: bool,
    /// Whether a build script had cargo make it.
    pub(crate) nested: bool,
}

impl Call {
    /// What the names of its outputs begin with, after `lib` for those of libraries.
    pub(crate) fn stem(&self) -> String {
        args::stem(&self.crate_name, Some(&*self.hash).filter(|hash| !hash.is_empty()))
    }

    /// Where rustc wrote what it read.
    pub(crate) fn dep_info(&self) -> PathBuf {
        self.out_dir.join(format!("{}.d", self.stem()))
    }
}

#[cfg(test)]
impl Default for Call {
    fn default() -> Self {
        Self {
            time: SystemTime::UNIX_EPOCH,
            hash: String::new(),
            crate_name: String::new(),
            package: String::new(),
            manifest_dir: PathBuf::new(),
            out_dir: PathBuf::new(),
            script_out: None,
            is_macro: false,
            nested: false,
        }
    }
}

/// Whether this process was started as cargo's wrapper of rustc, by its name. A program calls this
/// first of all, and [`wrap`] if so.
pub fn is_wrapper() -> bool {
    std::env::args_os().next().is_some_and(|name| {
        Path::new(&name).file_stem().is_some_and(|stem| stem == OsStr::new(PROGRAM))
    })
}

/// Does what cargo wants of a wrapper of rustc, with this process's arguments: the compiler, and its
/// arguments. Must be called before any thread is started.
pub fn wrap() -> ExitCode {
    let mut arguments = std::env::args_os();
    let own = arguments.next().map(PathBuf::from).unwrap_or_default();
    let Some(compiler) = arguments.next() else {
        complain(&own, "it is for cargo, as `build.rustc-wrapper`");
        return ExitCode::from(2);
    };
    let arguments: Vec<OsString> = arguments.collect();
    if compiler == PROBE {
        let permitted = match &arguments[..] {
            [root, canonical] => namespace::enter(root.as_ref(), canonical.as_ref()).is_ok(),
            _ => false,
        };
        return ExitCode::from(u8::from(!permitted));
    }
    if let Some(code) = observe::requested(&own, &compiler, &arguments) {
        return code;
    }
    // Without it there is nothing to do but what cargo wants.
    let mut config = own.parent().and_then(config_of).unwrap_or_default();
    if !may_chain(&config, &arguments) {
        config.chain = None;
    }
    match compile(&own, config, &compiler, &arguments) {
        Ok(code) => code,
        Err(e) => {
            complain(&own, &format!("cannot run {}: {e}", compiler.to_string_lossy()));
            ExitCode::from(127)
        }
    }
}

/// What the wrapper in `dir` is to do.
pub(crate) fn config_of(dir: &Path) -> Option<Config> {
    serde_json::from_slice(&fs::read(dir.join(CONFIG)).ok()?).ok()
}

/// Whether this call is one for [`Config::chain`]. If that is a cache, it is not for what belongs to the
/// workspace, vendored or not: a macro may read any file of it, and no cache would know. Cargo marks what
/// comes from a registry or from git, which never changes, by `--cap-lints`.
fn may_chain(config: &Config, arguments: &[OsString]) -> bool {
    let Some(cache) = &config.cache else { return true };
    let local = env_path("CARGO_MANIFEST_DIR").is_none_or(|dir| dir.starts_with(&config.root));
    if local || !args::are_lints_capped(arguments) {
        return false;
    }
    if let Some(claims) = &config.claims {
        namespace::keep_to_ourselves(claims);
    }
    cache.ensure_inside()
}

/// Cargo's hash of the unit that a call of rustc, or of a wrapper of rustc, compiles.
pub(crate) fn hash_of(arguments: &[OsString]) -> Option<String> {
    Invocation::read(arguments)?.hash
}

/// Whether the wrapper at `program` may make namespaces in which `root` stands at `canonical`.
pub(crate) fn may_unshare(program: &Path, root: &Path, canonical: &Path) -> bool {
    let mut command = Command::new(program);
    // By which it knows what it is to do, whatever its file is called.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::arg0(&mut command, PROGRAM);
    command
        .arg(PROBE)
        .args([root, canonical])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn complain(own: &Path, what: &str) {
    // When nobody listens, nobody can be told.
    let _ = writeln!(io::stderr(), "error: {}: {what}", own.display());
}

fn compile(
    own: &Path,
    mut config: Config,
    compiler: &OsStr,
    arguments: &[OsString],
) -> io::Result<ExitCode> {
    let Some(invocation) = Invocation::read(arguments) else {
        return run(&config, compiler, arguments);
    };
    if let Some(file) = &config.record {
        // What is not written down is not shared: no reason to fail.
        let _ = record(file, &invocation);
    }
    let local = env_path("CARGO_MANIFEST_DIR").is_some_and(|dir| dir.starts_with(&config.root));
    if local && !has_identity(own, &mut config, &invocation) {
        return Ok(ExitCode::from(1));
    }
    let config = &config;
    detach_outputs(&invocation);
    let mut arguments = arguments.to_vec();
    args::put_back_codegen_units(&mut arguments);
    if config.is_lean() {
        args::make_lean(&mut arguments, &invocation);
        if let Some(incremental) = invocation.incremental.as_deref().filter(|_| local) {
            incremental::discard(config, incremental, &invocation.crate_name);
        }
        return run(config, compiler, &remapped(config, arguments));
    }
    if config.spare {
        args::compress_debug_sections(&mut arguments, &invocation);
        if !local {
            args::spare_debug_information(&mut arguments);
            if invocation.is_build_script() {
                args::strip_debug_information(&mut arguments);
            }
        }
    }
    let Some(incremental) = invocation.incremental.as_deref().filter(|_| local) else {
        return run(config, compiler, &remapped(config, arguments));
    };
    incremental::adopt(config, incremental, &invocation.crate_name);
    let Some(canonical) = &config.canonical else {
        return run(config, compiler, &remapped(config, arguments));
    };
    let cwd = std::env::current_dir()?;
    let Ok(inside) = cwd.strip_prefix(&config.root) else {
        return run(config, compiler, &remapped(config, arguments));
    };
    // In a process of its own, so that there is a way back.
    let inside = canonical.join(inside);
    let status = in_namespace(config, canonical, &inside, compiler, &arguments)?;
    let arguments = remapped(config, arguments);
    match status {
        // Not permitted.
        None => run(config, compiler, &arguments),
        // Something in it asked where it is and wrote that down: nobody could make anything of a path that
        // nobody else sees. What there is to say has been said.
        Some(status) if status.success() && is_tainted(&invocation, canonical) => {
            detach_outputs(&invocation);
            let mut again = command(config, compiler);
            again.args(&arguments).stderr(Stdio::null());
            match again.status()? {
                status if status.success() => Ok(code(status)),
                _ => run(config, compiler, &arguments),
            }
        }
        Some(status) => Ok(code(status)),
    }
}

/// Whether a unit of this worktree can't be taken for another worktree's. If it can, its package is given the
/// identity from the next build on, and this one must not succeed. What is no unit is nobody's.
fn has_identity(own: &Path, config: &mut Config, invocation: &Invocation) -> bool {
    let Some(identity) = &mut config.identity else { return true };
    if !invocation.is_unit || identity.is_in(invocation.codegen_units) {
        return true;
    }
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    identity.packages.insert(package.clone());
    let mut cargo = config.cargo.clone().unwrap_or_default();
    cargo.profile = identity.profiles_at(&config.root);
    let dir = own.parent().and_then(Path::parent).unwrap_or(own);
    let what = match install::put(dir, Some(own), config, &cargo) {
        Ok(_) => format!("the package {package} is new here, and is set up now; build again"),
        Err(e) => format!("the package {package} is new here, and can't be set up: {e}"),
    };
    complain(own, &what);
    false
}

fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

fn record(file: &Path, invocation: &Invocation) -> io::Result<()> {
    if !invocation.is_unit && invocation.hash.is_none() {
        return Ok(());
    }
    // Cargo tells a build script that, and no compiler.
    let of_scripts = ["NUM_JOBS", "OPT_LEVEL", "PROFILE"];
    let call = Call {
        time: SystemTime::now(),
        hash: invocation.hash.clone().unwrap_or_default(),
        crate_name: invocation.crate_name.clone(),
        package: std::env::var("CARGO_PKG_NAME").map_err(io::Error::other)?,
        manifest_dir: env_path("CARGO_MANIFEST_DIR").unwrap_or_default(),
        out_dir: invocation.out_dir.clone(),
        script_out: env_path("OUT_DIR"),
        is_macro: invocation.proc_macro,
        nested: of_scripts.iter().all(|name| std::env::var_os(name).is_some()),
    };
    let mut line = serde_json::to_vec(&call)?;
    line.push(b'\n');
    // One write, at the end: several compilers run at once.
    fs::OpenOptions::new().create(true).append(true).open(file)?.write_all(&line)
}

/// While a base is built: no trace of where its tree is.
fn remapped(config: &Config, mut arguments: Vec<OsString>) -> Vec<OsString> {
    if config.record.is_some() {
        args::relative_to(&mut arguments, &config.root);
    }
    arguments
}

/// Removes the names of what this call is to write, where the file has other names: rustc, a linker or another tool
/// that writes in place then reaches nothing but a file of this directory. A file with one name is the
/// unit's own. Only names of this unit are looked at: other compilers may be at work in the directory.
fn detach_outputs(invocation: &Invocation) {
    let entries = fs::read_dir(&invocation.out_dir).into_iter().flatten().flatten();
    let of_unit = entries.filter(|entry| invocation.is_output(&entry.file_name()));
    for path in of_unit.map(|entry| entry.path()).chain(invocation.named.iter().cloned()) {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_file() && crate::files::names(&meta).is_none_or(|names| names > 1) {
            // Should that fail, the directory can't be written to, and the compilation fails as well.
            let _ = fs::remove_file(&path);
        }
    }
}

fn in_namespace(
    config: &Config,
    canonical: &Path,
    cwd: &Path,
    compiler: &OsStr,
    arguments: &[OsString],
) -> io::Result<Option<ExitStatus>> {
    // What the system does not permit is not tried again and again within one process.
    if namespace::enter(&config.root, canonical).is_err() {
        return Ok(None);
    }
    let moved = arguments.iter().map(|arg| args::moved(arg, &config.root, canonical));
    let mut moved: Vec<OsString> = moved.collect();
    args::relative_to(&mut moved, canonical);
    command(config, compiler).args(moved).current_dir(cwd).status().map(Some)
}

/// Whether the path at `canonical` is in what was made: among the inputs, or in the outputs, where a macro may
/// have put it.
fn is_tainted(invocation: &Invocation, canonical: &Path) -> bool {
    let needle = canonical.as_os_str().as_encoded_bytes();
    let is_there = |bytes: &[u8]| memchr::memmem::find(bytes, needle).is_some();
    let read = invocation.dep_info().and_then(|file| fs::read(file).ok()).unwrap_or_default();
    crate::depinfo::parse(&read).inputs.iter().any(|input| input.starts_with(canonical))
        || invocation.outputs().any(|file| fs::read(file).is_ok_and(|bytes| is_there(&bytes)))
}

fn command(config: &Config, compiler: &OsStr) -> Command {
    let mut command = chained(config, compiler);
    if config.identity.is_some() && std::env::var_os("CARGO_TARGET_TMPDIR").is_some() {
        // Else tests of all worktrees would write to the same files.
        let private = config.target.join("tmp");
        if fs::create_dir_all(&private).is_ok() {
            command.env("CARGO_TARGET_TMPDIR", private);
        }
    }
    command
}

fn chained(config: &Config, compiler: &OsStr) -> Command {
    match &config.chain {
        Some(chain) => {
            if let Some(claims) = &config.claims {
                namespace::keep_to_ourselves(claims);
            }
            let mut command = Command::new(chain);
            command.arg(compiler);
            if let Some(cache) = &config.cache {
                command.envs(cache.variables());
                // sccache refuses to work where these are 1. They mean nothing here: cargo compiles only
                // what belongs to the workspace incrementally.
                command.env_remove("CARGO_INCREMENTAL").env_remove("CARGO_BUILD_INCREMENTAL");
            }
            command
        }
        None => Command::new(compiler),
    }
}

/// Becomes the compiler.
#[cfg(unix)]
fn run(config: &Config, compiler: &OsStr, arguments: &[OsString]) -> io::Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    let failed = command(config, compiler).args(arguments).exec();
    match config.cache {
        // It was there when the slot was prepared. One can do without.
        Some(_) => Err(Command::new(compiler).args(arguments).exec()),
        None => Err(failed),
    }
}

#[cfg(not(unix))]
fn run(config: &Config, compiler: &OsStr, arguments: &[OsString]) -> io::Result<ExitCode> {
    command(config, compiler).args(arguments).status().map(code)
}

#[cfg(unix)]
fn code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}

#[cfg(not(unix))]
fn code(status: ExitStatus) -> ExitCode {
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn write(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("made");
        fs::write(path, content).expect("written");
    }

    #[test]
    fn lean_is_a_setting_or_a_flag() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let flag = dir.path().join("lean");
        let config = Config { lean_while: Some(flag.clone()), ..Config::default() };
        assert!(!config.is_lean());
        fs::write(&flag, "").expect("written");
        assert!(config.is_lean());
        assert!(Config { lean: true, ..Config::default() }.is_lean());
    }

    /// One program writes it and another reads it, maybe of another version.
    #[test]
    fn what_is_not_said_is_the_default() {
        let read: Config = serde_json::from_str("{\"root\": \"/w\", \"later\": 1}").expect("read");
        assert_eq!(read, Config { root: "/w".into(), ..Config::default() });
        let text = serde_json::to_string(&read).expect("written");
        assert_eq!(serde_json::from_str::<Config>(&text).expect("read"), read);
    }

    #[cfg(unix)]
    #[test]
    fn output_with_a_second_name_is_removed_before_the_compiler_runs() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let shared = dir.path().join("shared");
        write(&shared, "base's");
        let named = dir.path().join("elsewhere.s");
        let invocation = Invocation {
            crate_name: "a".to_owned(),
            hash: Some("0".to_owned()),
            out_dir: dir.path().to_owned(),
            named: vec![named.clone()],
            ..Invocation::default()
        };
        let outputs = ["a-0", "liba-0.rlib", "a-0.dwp", "a-0.x-cgu.0.rcgu.o", "elsewhere.s"];
        let others = ["a-01", "b-0", "a", "libb-0.rlib"];
        for name in outputs.iter().chain(&others) {
            fs::hard_link(&shared, dir.path().join(name)).expect("linked");
        }
        write(&dir.path().join("a-0.d"), "own");
        detach_outputs(&invocation);
        assert!(outputs.iter().all(|name| !dir.path().join(name).exists()));
        assert!(others.iter().all(|name| dir.path().join(name).exists()));
        assert!(dir.path().join("a-0.d").exists(), "a file of one name is the slot's own");
        assert_eq!(fs::read_to_string(&shared).expect("read"), "base's");
    }

    #[test]
    fn taint_is_found_among_inputs_and_in_outputs() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let out_dir = dir.path().to_owned();
        let invocation = Invocation {
            crate_name: "a".to_owned(),
            hash: Some("0".to_owned()),
            out_dir: out_dir.clone(),
            ..Invocation::default()
        };
        let canonical = Path::new("/pool/cache/worktree");
        let is_tainted = || is_tainted(&invocation, canonical);
        assert!(!is_tainted());
        // Where it goes is not where it is from.
        let clean = "/pool/cache/worktree/target/a-0.d: src/lib.rs\n\nsrc/lib.rs:\n";
        fs::write(out_dir.join("a-0.d"), clean).expect("written");
        fs::write(out_dir.join("liba-0.rlib"), "\0./src/lib.rs\0").expect("written");
        assert!(!is_tainted());
        fs::write(out_dir.join("liba-0.rlib"), "\0/pool/cache/worktree/a\0").expect("written");
        assert!(is_tainted());
        fs::remove_file(out_dir.join("liba-0.rlib")).expect("removed");
        let tainted = format!("{clean}/pool/cache/worktree/word.txt:\n");
        fs::write(out_dir.join("a-0.d"), tainted).expect("written");
        assert!(is_tainted());
    }
}
