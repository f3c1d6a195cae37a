//! What is printed: documents for programs, tables and sentences for people.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use pool_core::{
    BranchCommits, BranchReport, CommitId, Disposition, EndReason, Lease, LeaseId, LeaseName,
    Moment, Outcome, ReleaseReport, Rescue, RescueId, SessionId, SlotId, Waiter,
};
use serde::Serialize;

use crate::context::Context;
use crate::error::{Failure, Result};

/// Where results and remarks go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// A result, on stdout, for people: without what could move a terminal's cursor, which an agent may have
    /// put into the names of files.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> Result<()> {
        self.exactly(&harmless(text.as_ref()))
    }

    /// A result, on stdout, to the last byte.
    pub(crate) fn exactly(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::Unread),
            Err(e) => Err(pool_core::Error::io("write to the standard output", e).into()),
        }
    }

    /// One document on stdout.
    pub(crate) fn document(&self, document: &impl Serialize) -> Result<()> {
        self.exactly(&json(document)?)
    }

    /// A remark for people, on stderr.
    pub(crate) fn remark(&self, text: impl AsRef<str>) {
        if !self.quiet && !self.json {
            say(text.as_ref());
        }
    }

    /// What happens at length is shown only to a person who watches.
    pub(crate) fn watched(&self) -> bool {
        !self.quiet && !self.json && std::io::stderr().is_terminal()
    }
}

/// One line on stderr.
pub(crate) fn say(text: &str) {
    // If stderr cannot be written to, there is no other place to say so.
    let _ = writeln!(std::io::stderr().lock(), "{}", harmless(text));
}

/// A document as one line.
pub(crate) fn json(document: &impl Serialize) -> Result<String> {
    let failed =
        |e| pool_core::Error::new(pool_core::ErrorKind::Other, format!("cannot write JSON: {e}"));
    Ok(escaped(&serde_json::to_string(document).map_err(failed)?))
}

/// Whether a character means something to a terminal, or to whoever reads there, instead of being shown: control
/// characters, and those that change the order in which the others are shown, or break the line.
pub(crate) fn is_hidden(c: char) -> bool {
    let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders || matches!(c, '\u{2028}' | '\u{2029}')
}

/// The same JSON without the [hidden](is_hidden) characters that JSON allows in it.
pub(crate) fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match is_hidden(c) {
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

/// Stderr, if it can be written to: no warning is worth more than the work that it interrupts.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // All or nothing counts: the rest of a line on a full disk would be tried again and again.
        let _ = std::io::stderr().lock().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sends what the libraries tell to stderr. If stderr cannot be written to, the line is lost: the
/// logger's own error handler would panic.
pub(crate) fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "off,wtpool=warn,pool_core=warn,git_backend=warn,cache_share=warn",
        1 => "warn,wtpool=info",
        _ => "info,wtpool=trace,pool_core=trace,git_backend=trace,cache_share=trace",
    };
    tracing_subscriber::fmt()
        .with_writer(|| Stderr)
        .log_internal_errors(false)
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .with_target(false)
        .with_ansi(false)
        .init();
}

/// A lease, as programs see it.
#[derive(Debug, Serialize)]
pub(crate) struct LeaseDocument {
    pub(crate) lease: LeaseId,
    pub(crate) name: LeaseName,
    pub(crate) path: PathBuf,
    pub(crate) branch: Option<String>,
    pub(crate) base: CommitId,
    pub(crate) repo: PathBuf,
    pub(crate) holder: String,
    pub(crate) session: Option<SessionId>,
    pub(crate) slot: SlotId,
    pub(crate) generation: u64,
    pub(crate) state: &'static str,
    pub(crate) acquired_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) writable_roots: Vec<PathBuf>,
    pub(crate) cache: CacheDocument,
}

/// What a lease has from its cache.
#[derive(Debug, Serialize)]
pub(crate) struct CacheDocument {
    strategy: String,
    warm: bool,
    reason: Option<String>,
}

impl LeaseDocument {
    pub(crate) fn new(context: &Context, slot: SlotId, lease: &Lease, state: &'static str) -> Self {
        let path = context.pool.place(slot);
        let cache = &lease.attachment;
        Self {
            lease: lease.id.clone(),
            name: lease.name.clone(),
            branch: branch(lease).map(str::to_owned),
            base: lease.base.commit.clone(),
            repo: context.repository_path().to_owned(),
            holder: lease.holder.clone(),
            session: lease.session.clone(),
            slot,
            generation: lease.generation.0,
            state,
            acquired_at: lease.acquired.wall,
            expires_at: lease.deadline.as_ref().map(|d| d.wall(&context.pool.now())),
            env: environment(&context.pool_dir, &path, lease),
            path,
            writable_roots: cache.writable_roots.clone(),
            cache: CacheDocument {
                strategy: cache.strategy.clone(),
                warm: cache.warm,
                reason: cache.reason.clone(),
            },
        }
    }

    /// The same, for whatever may hand this process's environment down to the lease: where that leads cargo elsewhere, the
    /// document says so, and has the values that do not.
    pub(crate) fn with_inherited(mut self) -> Self {
        for (name, value) in crate::cargo_home::misleading(&self.path) {
            self.env.entry(name).or_insert(value);
        }
        let warning = crate::cargo_home::warning(&self.path);
        let reasons: Vec<String> = warning.into_iter().chain(self.cache.reason.take()).collect();
        self.cache.reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        self
    }
}

/// What tells everything inside a lease which lease it is.
pub(crate) const LEASE_VARIABLES: [&str; 5] =
    ["WTPOOL_LEASE", "WTPOOL_NAME", "WTPOOL_PATH", "WTPOOL_BRANCH", "WTPOOL_BASE"];

/// The environment that everything inside a lease should have.
pub(crate) fn environment(pool_dir: &Path, path: &Path, lease: &Lease) -> BTreeMap<String, String> {
    let lossy = |path: &Path| path.to_string_lossy().into_owned();
    let values = [
        lease.id.to_string(),
        lease.name.to_string(),
        lossy(path),
        branch(lease).unwrap_or_default().to_owned(),
        lease.base.commit.to_string(),
    ];
    let pool = ("WTPOOL_POOL_DIR", lossy(pool_dir));
    let own = LEASE_VARIABLES.into_iter().zip(values).chain([pool]);
    let own = own.map(|(key, value)| (key.to_owned(), value));
    lease.attachment.env.clone().into_iter().chain(own).collect()
}

/// The branch a lease is on.
pub(crate) fn branch(lease: &Lease) -> Option<&str> {
    lease.base.branch.as_ref().map(|b| b.name.as_str())
}

/// What became of a lease, as programs see it.
#[derive(Debug, Serialize)]
pub(crate) struct ReleaseDocument {
    lease: LeaseId,
    outcome: Outcome,
    reason: EndReason,
    by_another: bool,
    branch: Option<BranchReport>,
    rescue: Option<RescueReference>,
    /// What was saved of linked worktrees in the lease's directory, if that is not the above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nested_rescues: Vec<RescueReference>,
    disposition: Disposition,
    kept_because: Option<String>,
}

#[derive(Debug, Serialize)]
struct RescueReference {
    id: RescueId,
    #[serde(rename = "ref")]
    reference: String,
    /// The linked worktree that it is of, by its path relative to the lease's.
    #[serde(skip_serializing_if = "Option::is_none")]
    worktree: Option<String>,
}

impl From<&Rescue> for RescueReference {
    fn from(rescue: &Rescue) -> Self {
        Self {
            id: rescue.id.clone(),
            reference: rescue.reference.clone(),
            worktree: rescue.worktree.clone(),
        }
    }
}

impl ReleaseDocument {
    pub(crate) fn new(lease: &LeaseId, report: &ReleaseReport) -> Self {
        let rescue = report.rescue.as_ref();
        Self {
            lease: lease.clone(),
            outcome: report.outcome,
            reason: report.reason,
            by_another: report.by_another,
            branch: report.branch.clone(),
            rescue: rescue.map(RescueReference::from),
            nested_rescues: rescue.iter().flat_map(|r| &r.nested).map(Into::into).collect(),
            disposition: report.disposition,
            kept_because: report.kept_because.clone(),
        }
    }
}

/// Which lease a release ended, or why there was nothing left to end.
pub(crate) fn ending(report: &ReleaseReport, name: &LeaseName, id: &LeaseId) -> String {
    if !report.by_another && report.reason == EndReason::Released {
        return format!("released {name} ({id})");
    }
    let why = match report.reason {
        EndReason::Released => "it was released",
        EndReason::Expired => "its time to live ran out",
        EndReason::HolderGone => "its holder was gone",
        EndReason::SessionEnded => "its session ended",
        EndReason::WorkspaceGone => "its worktree was deleted or moved away",
        EndReason::Abandoned | EndReason::Interrupted => "its worktree was never finished",
    };
    format!("{name} ({id}) was over already: {why}")
}

/// What became of a lease, in sentences. It answers to `name`.
pub(crate) fn story(report: &ReleaseReport, path: &Path, name: &str) -> Vec<String> {
    let mut lines = Vec::new();
    match &report.branch {
        Some(BranchReport { name, kept: true, commits, .. }) => {
            lines.push(format!("branch {name} kept, with {}", counted(*commits, "commit")));
        }
        Some(BranchReport { name, renamed_to: Some(now), .. }) => {
            lines.push(format!("branch {name} was renamed to {now}, and is kept"));
        }
        Some(BranchReport { name, kept: false, .. })
            if matches!(report.disposition, Disposition::Removed | Disposition::Recycled) =>
        {
            lines.push(format!("branch {name} had no commits of its own, and is gone"));
        }
        _ => {}
    }
    for BranchCommits { name, commits } in report.branch.iter().flat_map(|b| &b.elsewhere) {
        lines.push(format!("{} on {name}", counted(*commits, "commit")));
    }
    for rescue in report.rescue.iter().flat_map(Rescue::all) {
        let Rescue { id, files, commits, worktree, .. } = rescue;
        let saved = [(*files, "uncommitted file"), (*commits, "commit")];
        let saved = saved.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| counted(n, what));
        let saved = saved.collect::<Vec<_>>().join(" and ");
        let saved = if saved.is_empty() { "its state" } else { &saved };
        let of = worktree.as_ref().map(|path| format!(" of the worktree {}", printable(path)));
        lines.push(format!(
            "saved {saved}{} as rescue {id}; bring it back with: wtpool rescue restore {id}",
            of.unwrap_or_default(),
        ));
    }
    match report.disposition {
        Disposition::Lingering => {
            lines.push(format!(
                "{} is kept for inspection for a while; let it go with: wtpool release {name} --linger 0s",
                path.display()
            ));
        }
        Disposition::Quarantined => lines.push(format!(
            "{} is kept: {}",
            path.display(),
            report.kept_because.as_deref().unwrap_or("the reason is in `wtpool list`")
        )),
        Disposition::Recycled | Disposition::Removed => {}
    }
    lines
}

/// Somebody in the queue, as programs see it.
#[derive(Debug, Serialize)]
pub(crate) struct WaiterDocument {
    pub(crate) position: usize,
    pub(crate) lease: LeaseId,
    pub(crate) name: LeaseName,
    pub(crate) holder: String,
    pub(crate) session: Option<SessionId>,
    pub(crate) since: Timestamp,
    pub(crate) until: Option<Timestamp>,
}

impl WaiterDocument {
    pub(crate) fn new(position: usize, waiter: &Waiter, now: &Moment) -> Self {
        Self {
            position,
            lease: waiter.lease.id.clone(),
            name: waiter.lease.name.clone(),
            holder: waiter.lease.holder.clone(),
            session: waiter.lease.session.clone(),
            since: waiter.since.wall,
            until: waiter.until.as_ref().map(|d| d.wall(now)),
        }
    }
}

/// A table that fits the terminal, or is as wide as it must be.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.map(str::to_uppercase));
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for row in rows {
        table.add_row(row.map(|cell| printable(&cell)));
    }
    // Columns are set apart by a space on each side; the outermost are not needed.
    let lines =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// Lines without anything that could move a terminal's cursor.
pub(crate) fn harmless(text: &str) -> String {
    let is_bad = |c: char| is_hidden(c) && c != '\n' && c != '\t';
    text.chars().map(|c| if is_bad(c) { '\u{fffd}' } else { c }).collect()
}

/// Without anything that could move a terminal's cursor.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// The largest one or two units.
pub(crate) fn age(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m", s / 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86_400, s / 3600 % 24),
    }
}

/// How long ago a moment was, by the boot clock where that is possible.
pub(crate) fn ago(now: &Moment, then: &Moment) -> String {
    let by_wall = || Duration::try_from(now.wall.duration_since(then.wall)).unwrap_or_default();
    age(now.since(then).unwrap_or_else(by_wall))
}

/// A size for people.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec_short().to_string()
}

/// `1 file`, `2 files`.
pub(crate) fn counted(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The beginning of a commit id.
pub(crate) fn short(commit: &CommitId) -> &str {
    commit.as_str().get(..10).unwrap_or(commit.as_str())
}
