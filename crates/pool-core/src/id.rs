//! The names of things: validated, ordered, cheap to copy or clone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// A numbered place in the pool. Its path is stable, so that what was built in it stays valid when
/// the slot is used again. Numbers start at 1 and the lowest unused one is taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotId(pub u32);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fencing number of a lease. Each lease of a pool gets a larger one than every lease before
/// it, also when the store was lost and rebuilt, so a stale holder is always recognised.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The next larger generation.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in the queue. Smaller is earlier.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Ticket(pub u64);

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            #[doc = concat!("Checks `text` and makes it a ", $what, ".")]
            ///
            /// # Errors
            ///
            /// [`ErrorKind::InvalidInput`] when the text is empty, too long, or has a character that
            /// is not allowed; the message says which.
            pub fn new(text: impl Into<String>) -> Result<Self, Error> {
                let text = text.into();
                $check(&text).map_err(|why| {
                    Error::new(ErrorKind::InvalidInput, format!("{:?} is not a {}: {why}", text, $what))
                        .with_hint(concat!("choose another ", $what))
                })?;
                Ok(Self(text))
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

text_id! {
    /// The readable, unique name of a lease, such as `amber-otter`.
    ///
    /// It becomes part of branch names and file names, so it is restricted to ASCII letters, digits,
    /// `-`, `_` and `.`; it starts with a letter or digit, has at most 64 characters, and holds
    /// neither `..` nor a trailing `.` or `.lock`, which git does not allow in a reference.
    ///
    /// ```
    /// use pool_core::LeaseName;
    /// assert!(LeaseName::new("fix-3985").is_ok());
    /// for hostile in ["", "../x", "-rf", "a\nb", "x.lock", &"n".repeat(300)] {
    ///     assert!(LeaseName::new(hostile).is_err(), "{hostile:?}");
    /// }
    /// ```
    LeaseName, "lease name", check_file_safe
}

text_id! {
    /// What the host calls one of its sessions. Same characters as a [`LeaseName`].
    SessionId, "session id", check_file_safe
}

text_id! {
    /// A lease's id: a ULID in its canonical 26 characters, so ids sort by the time of acquisition.
    LeaseId, "lease id", check_ulid
}

text_id! {
    /// The id of a rescue. Made by the backend; usable as a file name.
    RescueId, "rescue id", check_file_safe
}

text_id! {
    /// Names something whose owner's life can be observed; see [`crate::Liveness`].
    ClaimKey, "claim key", check_file_safe
}

text_id! {
    /// A resolved commit (or whatever names an immutable state in another backend): never a moving
    /// name such as a branch.
    CommitId, "commit id", check_file_safe
}

impl LeaseId {
    /// A new id for a lease that begins at `wall`.
    pub fn generate(wall: jiff::Timestamp) -> Self {
        Self(new_ulid(wall))
    }

    /// The claim that a holder of this lease keeps as long as it lives.
    pub fn claim(&self) -> ClaimKey {
        ClaimKey(format!("lease-{}", self.0))
    }
}

impl ClaimKey {
    /// A new key for one running pool (one process, usually).
    pub fn for_worker(wall: jiff::Timestamp) -> Self {
        Self(format!("worker-{}", new_ulid(wall)))
    }
}

fn new_ulid(wall: jiff::Timestamp) -> String {
    ulid::Ulid::from_datetime(wall.into()).to_string()
}

const MAX_LEN: usize = 64;

fn check_file_safe(text: &str) -> Result<(), &'static str> {
    let first = text.bytes().next().ok_or("it is empty")?;
    if text.len() > MAX_LEN {
        return Err("it is longer than 64 characters");
    }
    if !first.is_ascii_alphanumeric() {
        return Err("it does not start with a letter or digit");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err("only letters, digits, '-', '_' and '.' are allowed");
    }
    if text.contains("..") || text.ends_with('.') || text.ends_with(".lock") {
        return Err("git allows no '..', no trailing '.' and no trailing '.lock'");
    }
    Ok(())
}

fn check_ulid(text: &str) -> Result<(), &'static str> {
    match ulid::Ulid::from_string(text) {
        Ok(id) if id.to_string() == text => Ok(()),
        _ => Err("it is not a ULID of 26 characters"),
    }
}
