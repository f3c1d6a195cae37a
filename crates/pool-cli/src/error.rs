//! How failures are told: exit status, message, hint.

use std::io::Write;

use pool_core::{Error, ErrorKind};
use serde::Serialize;

use crate::output::{escaped, harmless};

/// Why a verb did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something went wrong.
    Error(Error),
    /// A signal with that number ended it.
    Interrupted(i32),
    /// Nobody reads the output any more.
    Unread,
}

/// What a verb returns: its exit status.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Malformed input from the command line, the environment, or a settings file.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

/// The exit status of an error, as in the manual.
pub(crate) fn status(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidInput => 2,
        ErrorKind::NoRepository | ErrorKind::AmbiguousRepository => 3,
        ErrorKind::PoolFull => 4,
        ErrorKind::WouldLoseWork => 5,
        ErrorKind::StaleLease | ErrorKind::NotFound => 6,
        ErrorKind::Unsupported => 7,
        _ => 1,
    }
}

#[derive(Serialize)]
struct Document<'a> {
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    kind: &'a str,
    message: &'a str,
    hint: Option<&'a str>,
}

/// Tells the failure on stderr, and returns the exit status.
pub(crate) fn report(failure: &Failure, json: bool) -> u8 {
    match failure {
        Failure::Error(error) => {
            tell(error.kind().as_str(), &error.to_string(), error.hint(), json);
            status(error.kind())
        }
        Failure::Interrupted(signal) => signalled(*signal),
        Failure::Unread => 0,
    }
}

/// The exit status of something that a signal ended.
pub(crate) fn signalled(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Writes an error to stderr.
pub(crate) fn tell(kind: &str, message: &str, hint: Option<&str>, json: bool) {
    let mut err = std::io::stderr().lock();
    // When stderr is gone there is nowhere left to complain to.
    let _ = if json {
        let document = Document { error: Body { kind, message, hint } };
        writeln!(err, "{}", escaped(&serde_json::to_string(&document).unwrap_or_default()))
    } else {
        let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        writeln!(err, "{}", harmless(&format!("error: {message}{hint}")))
    };
}
