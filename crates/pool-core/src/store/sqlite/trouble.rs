//! What SQLite's errors mean to a pool.

use rusqlite::ErrorCode;

use super::layout::Layout;
use crate::error::{Error, ErrorKind};

/// An error before it is known whether it can be mended.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Of SQLite.
    Sql(rusqlite::Error),
    /// The database is readable but makes no sense, or is missing.
    Damaged(String),
    /// Another file has its name now; opening that is the cure.
    Replaced,
    /// Anything that a rebuild does not cure.
    Failed(Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Trouble {
    /// What is wrong with the database, if making it again is the cure.
    pub(super) fn damage(&self) -> Option<String> {
        match self {
            Self::Damaged(why) => Some(why.clone()),
            Self::Failed(_) | Self::Replaced => None,
            Self::Sql(error) => is_damage(error).then(|| error.to_string()),
        }
    }

    /// The same when the operation can't be started again: damage, too, is then an error.
    pub(super) fn too_late(self, layout: &Layout) -> Self {
        Self::Failed(self.into_error(layout))
    }

    /// For the caller.
    pub(super) fn into_error(self, layout: &Layout) -> Error {
        let path = layout.database();
        let path = path.display();
        let error = match self {
            Self::Failed(error) => return error,
            Self::Replaced => {
                return Error::new(ErrorKind::Busy, format!("the database {path} was replaced"))
                    .with_hint("try again");
            }
            Self::Damaged(why) => {
                return Error::new(
                    ErrorKind::Store,
                    format!("the database {path} is damaged: {why}"),
                )
                .with_hint("try again: it is moved aside and rebuilt from the slots' own records");
            }
            Self::Sql(error) => error,
        };
        if is_damage(&error) {
            return Self::Damaged(error.to_string()).into_error(layout);
        }
        let kind = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => ErrorKind::NoSpace,
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) if layout.is_full() => {
                ErrorKind::NoSpace
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Busy,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => ErrorKind::PermissionDenied,
            Some(ErrorCode::CannotOpen) if !layout.is_writable() => ErrorKind::PermissionDenied,
            _ => ErrorKind::Store,
        };
        let hint = match kind {
            ErrorKind::NoSpace => {
                "free some disk space, for example with `wtpool prune --all`, and try again"
            }
            ErrorKind::Busy => {
                "another process holds the pool's database; `wtpool doctor` names it"
            }
            ErrorKind::PermissionDenied => "make the pool directory writable, or set another one",
            _ => "`wtpool doctor` looks for the cause",
        };
        Error::new(kind, format!("cannot use the database {path}: {error}"))
            .with_hint(hint)
            .with_source(error)
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error as Sql;
    use rusqlite::ffi;
    match error {
        Sql::SqliteFailure(code, _) => {
            matches!(code.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                // A missing table or column: every statement here is a constant.
                || code.extended_code == ffi::SQLITE_ERROR
                || code.extended_code == ffi::SQLITE_IOERR_SHORT_READ
                || code.extended_code == ffi::SQLITE_READONLY_DBMOVED
        }
        Sql::SqlInputError { .. }
        | Sql::FromSqlConversionFailure(..)
        | Sql::IntegralValueOutOfRange(..)
        | Sql::InvalidColumnType(..)
        | Sql::Utf8Error(..)
        | Sql::QueryReturnedNoRows => true,
        _ => false,
    }
}
