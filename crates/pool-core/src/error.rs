//! One error type for the pool and for everything plugged into it.

use std::fmt;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What went wrong, to what, and what to do next.
///
/// The [kind](Error::kind) is for programs, the message for people; the hint, when there is one, is
/// the next step. Messages are lower case, without a full stop, and name the path or the lease they
/// are about.
///
/// ```
/// use pool_core::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::NameTaken, "the lease name amber-otter is taken")
///     .with_hint("leave the name out, and one is made up");
/// assert_eq!(error.kind(), ErrorKind::NameTaken);
/// assert_eq!(error.to_string(), "the lease name amber-otter is taken");
/// ```
#[derive(thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Source>,
}

/// The kinds of error a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Something given by the caller is malformed. Nothing was changed.
    InvalidInput,
    /// There is no repository (or other source of workspaces) where one was looked for.
    NoRepository,
    /// There are several candidates, and choosing is the caller's business.
    AmbiguousRepository,
    /// The revision does not exist.
    UnknownRevision,
    /// The name or branch is in use already.
    NameTaken,
    /// Every slot is in use and the wait ran out.
    PoolFull,
    /// Going on would lose somebody's work. Nothing was lost.
    WouldLoseWork,
    /// The token is not, or no longer, that of a live lease.
    StaleLease,
    /// No lease, slot or rescue answers to that name.
    NotFound,
    /// This place, repository or platform is not supported.
    Unsupported,
    /// The pool's own records can't be used as they are (written by a newer version, for example).
    Store,
    /// The disk is full.
    NoSpace,
    /// Not permitted, or on a read-only filesystem.
    PermissionDenied,
    /// Somebody else holds what is needed; trying again later may help.
    Busy,
    /// The operation was given up because its caller went away.
    Cancelled,
    /// A part of the pool did something it must not do, or failed in a way it has no kind for.
    Other,
}

impl ErrorKind {
    /// The kind's name in machine-readable output, such as `pool-full`. Stable.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid-input",
            Self::NoRepository => "no-repository",
            Self::AmbiguousRepository => "ambiguous-repository",
            Self::UnknownRevision => "unknown-revision",
            Self::NameTaken => "name-taken",
            Self::PoolFull => "pool-full",
            Self::WouldLoseWork => "would-lose-work",
            Self::StaleLease => "stale-lease",
            Self::NotFound => "not-found",
            Self::Unsupported => "unsupported",
            Self::Store => "store",
            Self::NoSpace => "no-space",
            Self::PermissionDenied => "permission-denied",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::Other => "other",
        }
    }
}

impl Error {
    /// An error of that kind. The message says what happened, to which path.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// An input or output error, classified; `doing` says what was tried and on which path
    /// (`"read /a/b"`).
    pub fn io(doing: impl fmt::Display, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::NoSpace,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
            Io::ResourceBusy | Io::WouldBlock => ErrorKind::Busy,
            _ => ErrorKind::Other,
        };
        let error = Self::new(kind, format!("cannot {doing}: {source}")).with_source(source);
        match kind {
            ErrorKind::NoSpace => error.with_hint(
                "free some disk space, for example with `wtpool prune --all`, and try again",
            ),
            _ => error,
        }
    }

    /// Adds the next step to take.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// For programs.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The next step to take, where there is one to recommend.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        if let Some(source) = &self.source {
            write!(f, " (source: {source:?})")?;
        }
        Ok(())
    }
}
