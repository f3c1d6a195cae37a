//! The grammar of the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use pool_core::{LeaseName, RescueId, SessionId};

use crate::settings::{LingerSetting, Span};

/// Leases git worktrees to coding agents, and takes them back without losing anything.
#[derive(Debug, Parser)]
#[command(name = "wtpool", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Exit status: 0 done, 1 failed, 2 usage, 3 no repository or several, 4 pool \
    full, 5 work would be lost, 6 unknown or stale lease, 7 place not supported. `run` has its \
    command's own status, or 128 + n for signal n."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The pool's directory; by default beside the repository
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) pool_dir: Option<PathBuf>,
    /// Where to look for the repository; by default the working directory
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) repo: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing on stderr but errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Tell what happens, on stderr; twice for more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Lease a worktree, run a command inside it, give it back
    Run {
        #[command(flatten)]
        lease: LeaseOptions,
        /// The command, after `--`
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Lease a worktree and keep it; prints its path
    Acquire(LeaseOptions),
    /// Let a lease live on
    Renew {
        /// A lease's id, the beginning of one, its name, or a path in it
        #[arg(id = "which", value_name = "LEASE")]
        lease: String,
        #[command(flatten)]
        own: OwnLease,
        /// For how long from now; by default as long as before
        #[arg(long, value_name = "DURATION")]
        ttl: Option<Span>,
    },
    /// Give a lease back
    ///
    /// A path says which lease is meant only if no other lease has had that path before. A worktree
    /// that is used again (in a session, by `warm`, or at the cap) keeps its path: there, name the
    /// lease, or run the command inside it, or add `--lease`. So a late or repeated release by path
    /// never ends the lease of the next holder.
    Release {
        /// A lease's id, the beginning of one, its name, or a path in it
        #[arg(id = "which", value_name = "LEASE")]
        lease: String,
        #[command(flatten)]
        own: OwnLease,
        /// How the work went
        #[arg(long, value_enum, default_value_t)]
        outcome: Outcome,
        /// Keep the worktree for inspection that long
        #[arg(long, value_name = "DURATION")]
        linger: Option<Span>,
    },
    /// Show slots and leases: who, where, age, size, state, why kept
    List,
    /// Show one lease or slot
    Show {
        /// A lease's id, the beginning of one, its name, or a path in it
        lease: String,
    },
    /// Make idle slots in advance
    Warm {
        /// How many there shall be; by default `keep_warm`
        count: Option<u32>,
        /// The revision to make them from; by default HEAD of this worktree
        #[arg(long, value_name = "REV")]
        base: Option<String>,
        /// How build artifacts are shared
        #[arg(long, value_name = "STRATEGY")]
        cache: Option<String>,
    },
    /// End what is over, resume what was interrupted, collect trash
    Prune {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Remove idle and lingering slots too
        #[arg(long)]
        all: bool,
    },
    /// End a session: all of its leases end, and their worktrees go
    EndSession {
        /// The session's id
        session: SessionId,
    },
    /// Take over a pool from when the repository was elsewhere
    ///
    /// After a repository was renamed, wtpool finds its pool by itself. Where it can't be certain that
    /// the repository is the same one, as after a move to another filesystem, `list` and `doctor` name
    /// the pool, and you say so with this command. A pool whose repository is still there is refused.
    Adopt {
        /// The pool's directory
        pool: PathBuf,
    },
    /// What was saved from ended leases, and the way back
    #[command(subcommand)]
    Rescue(RescueVerb),
    /// Say what is wrong with this pool or machine, and what to do
    Doctor,
    /// Show the effective settings, and where each came from
    Config,
    /// Show what happened, oldest first
    Events {
        /// Go on as it happens
        #[arg(long, short)]
        follow: bool,
    },
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// What build artifacts take, and less of it
    #[command(subcommand)]
    Cache(CacheVerb),
    /// Build the base of the build cache; started by other verbs
    #[command(hide = true)]
    BuildBase {
        /// The commit to build it from
        #[arg(long, value_name = "REV")]
        base: String,
        /// How build artifacts are shared
        #[arg(long, value_name = "STRATEGY")]
        cache: String,
    },
    /// Watch over a pool until nothing is left in it; started by other verbs
    #[command(hide = true)]
    Reaper,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheVerb {
    /// What the cache and the slots take
    Usage,
    /// Remove what can be built again
    Trim {
        /// How much may stay, such as `2GB`; by default nothing that is not in use
        #[arg(long, value_name = "BYTES")]
        to: Option<bytesize::ByteSize>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RescueVerb {
    /// All rescues, oldest first
    List,
    /// What a rescue holds
    Show {
        /// Its id
        id: RescueId,
    },
    /// Bring back what was saved, into a new lease or a directory; prints the path
    Restore {
        /// Its id
        id: RescueId,
        /// A directory, absent or empty, that becomes a worktree of yours
        #[arg(long, value_name = "PATH")]
        into: Option<PathBuf>,
    },
    /// Forget a rescue, for ever
    Drop {
        /// Its id
        id: RescueId,
    },
}

/// Which lease is meant by a path.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct OwnLease {
    /// The lease that must be at that path; by default the one that this process runs in
    #[arg(long, value_name = "LEASE")]
    pub(crate) lease: Option<String>,
}

/// What kind of lease is wanted.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct LeaseOptions {
    /// The revision to start from; by default HEAD of this worktree
    #[arg(long, value_name = "REV")]
    pub(crate) base: Option<String>,
    /// The branch to be on; by default a new one, `wtpool/<name>`
    #[arg(long, conflicts_with = "detach")]
    pub(crate) branch: Option<String>,
    /// Be on no branch
    #[arg(long)]
    pub(crate) detach: bool,
    /// The lease's name; by default one is made up
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) name: Option<LeaseName>,
    /// Who holds it, for people to read
    #[arg(long, value_name = "TEXT", value_parser = holder)]
    pub(crate) holder: Option<String>,
    /// The session it belongs to; when that ends, so does the lease
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub(crate) session: Option<SessionId>,
    /// The process whose end is the session's end
    #[arg(long, value_name = "PID")]
    pub(crate) session_pid: Option<u32>,
    /// The process whose end is the lease's end
    #[arg(long, value_name = "PID")]
    pub(crate) owner_pid: Option<u32>,
    /// How long it lives without being renewed
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Span>,
    /// Keep the worktree for inspection that long afterwards
    #[arg(long, value_name = "DURATION")]
    pub(crate) linger: Option<LingerSetting>,
    /// How long to wait for a slot; `0s`: not at all
    #[arg(long, value_name = "DURATION")]
    pub(crate) wait: Option<Span>,
    /// How build artifacts are shared
    #[arg(long, value_name = "STRATEGY")]
    pub(crate) cache: Option<String>,
}

/// How work went.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Outcome {
    #[default]
    Success,
    Failure,
}

impl From<Outcome> for pool_core::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => Self::Success,
            Outcome::Failure => Self::Failure,
        }
    }
}

/// `--linger D` of a release is one duration.
pub(crate) fn duration(span: Option<Span>) -> Option<Duration> {
    span.map(|span| span.0)
}

fn holder(text: &str) -> Result<String, &'static str> {
    if text.chars().any(crate::output::is_hidden) {
        return Err("a holder is one line, without control characters");
    }
    if text.chars().count() > 200 {
        return Err("a holder has at most 200 characters");
    }
    Ok(text.to_owned())
}

/// Parses this process's arguments. Otherwise says why on stderr (help, on stdout) and returns the
/// exit status.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        let before_command = std::env::args_os().take_while(|arg| arg != "--");
        let json = before_command.into_iter().any(|arg| arg == "--json");
        if json && error.use_stderr() {
            let text = error.render().to_string();
            let message = text.trim().trim_start_matches("error: ");
            crate::error::tell("invalid-input", message, Some("see `wtpool --help`"), true);
        } else {
            // Nobody is left to be told when this fails.
            let _ = error.print();
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    })
}
