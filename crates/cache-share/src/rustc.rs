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
//! - *Traces of the base's path.* What the base compiles outside of a namespace has the path of the base's tree
//!   remapped, so that wherever that path still occurs, somebody put it there on purpose.
//!
//! A build must not fail because of the wrapper: whatever it can't do, it leaves to rustc as cargo asked
//! for it.

mod args;
mod namespace;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use serde::{Deserialize, Serialize};

use args::Invocation;

use crate::identity::Identity;
use crate::install::{self, CargoConfig};

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
    /// Cargo's hash of the unit.
    pub(crate) hash: String,
    pub(crate) crate_name: String,
    pub(crate) package: String,
    /// Where the package's manifest is.
    pub(crate) manifest_dir: PathBuf,
    /// Where its outputs go.
    pub(crate) out_dir: PathBuf,
    /// `OUT_DIR`: where its build script wrote.
    pub(crate) script_out: Option<PathBuf>,
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

/// Whether the wrapper at `program` may make namespaces in which `root` stands at `canonical`.
pub(crate) fn may_unshare(program: &Path, root: &Path, canonical: &Path) -> bool {
    Command::new(program)
        .arg(PROBE)
        .args([root, canonical])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
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
    let mut arguments = arguments.to_vec();
    args::put_back_codegen_units(&mut arguments);
    if config.is_lean() {
        args::make_lean(&mut arguments, &invocation);
        return run(config, compiler, &remapped(config, arguments));
    }
    if config.spare {
        args::compress_debug_sections(&mut arguments, &invocation);
        if !local {
            args::spare_debug_information(&mut arguments);
        }
    }
    let Some(incremental) = invocation.incremental.as_deref().filter(|_| local) else {
        return run(config, compiler, &remapped(config, arguments));
    };
    adopt_state(config, incremental, &invocation.crate_name);
    let Some(canonical) = &config.canonical else {
        return run(config, compiler, &remapped(config, arguments));
    };
    let cwd = std::env::current_dir()?;
    let Ok(inside) = cwd.strip_prefix(&config.root) else {
        return run(config, compiler, &remapped(config, arguments));
    };
    // In a process of its own, so that there is a way back.
    match in_namespace(config, canonical, &canonical.join(inside), compiler, &arguments)? {
        Some(status) if !status.success() || !mentions(&invocation, canonical) => Ok(code(status)),
        // Not permitted, or something in it asked where it is and wrote that down: cargo could make
        // nothing of a path that nobody else sees.
        _ => run(config, compiler, &remapped(config, arguments)),
    }
}

/// Whether a unit of this worktree can't be taken for another worktree's. If it can, its package is given the
/// identity from the next build on, and this one must not succeed.
fn has_identity(own: &Path, config: &mut Config, invocation: &Invocation) -> bool {
    let Some(identity) = &mut config.identity else { return true };
    if identity.is_in(invocation.codegen_units) {
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
    let Some(hash) = &invocation.hash else { return Ok(()) };
    let call = Call {
        hash: hash.clone(),
        crate_name: invocation.crate_name.clone(),
        package: std::env::var("CARGO_PKG_NAME").map_err(io::Error::other)?,
        manifest_dir: env_path("CARGO_MANIFEST_DIR").unwrap_or_default(),
        out_dir: invocation.out_dir.clone(),
        script_out: env_path("OUT_DIR"),
    };
    let mut line = serde_json::to_vec(&call)?;
    line.push(b'\n');
    // One write, at the end: several compilers run at once.
    fs::OpenOptions::new().create(true).append(true).open(file)?.write_all(&line)
}

/// While a base is built: no trace of where its tree is.
fn remapped(config: &Config, mut arguments: Vec<OsString>) -> Vec<OsString> {
    if config.record.is_some()
        && let Some(canonical) = &config.canonical
    {
        let mut remap = OsString::from("--remap-path-prefix=");
        remap.push(&config.root);
        remap.push("=");
        remap.push(canonical);
        arguments.push(remap);
    }
    arguments
}

/// Gives the first compilation of a crate in a slot the incremental state of the base. It is rustc's to
/// decide whether it is of use.
fn adopt_state(config: &Config, incremental: &Path, crate_name: &str) {
    let Some(donor) = &config.donor else { return };
    let Ok(profile) = incremental.strip_prefix(&config.target) else { return };
    let prefix = format!("{crate_name}-");
    let Ok(states) = fs::read_dir(donor.join(profile)) else { return };
    for state in states.flatten() {
        let name = state.file_name();
        let of_crate = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        let to = incremental.join(&name);
        if of_crate.is_none_or(|id| id.contains('-')) || to.exists() {
            continue;
        }
        // Whole or not at all: rustc must not meet a half of it.
        let unfinished = incremental.join(format!(".{}-{}", std::process::id(), prefix));
        let copied = crate::files::copy_tree(&state.path(), &unfinished)
            .and_then(|()| fs::rename(&unfinished, &to));
        if copied.is_err() {
            let _ = fs::remove_dir_all(&unfinished);
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
    command(config, compiler).args(moved).current_dir(cwd).status().map(Some)
}

/// Whether rustc wrote down an input by its path at `canonical`.
fn mentions(invocation: &Invocation, canonical: &Path) -> bool {
    let Some(file) = invocation.dep_info() else { return false };
    let Ok(text) = fs::read(file) else { return false };
    crate::depinfo::parse(&text).inputs.iter().any(|input| input.starts_with(canonical))
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
