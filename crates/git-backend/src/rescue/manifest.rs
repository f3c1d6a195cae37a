//! The manifest of a rescue: what can't be read off its trees.

use gix::bstr::{BStr, BString, ByteSlice};
use pool_core::{LeaseId, LeaseName};
use serde::{Deserialize, Serialize};

/// The version that is written.
pub(super) const VERSION: u32 = 1;

/// `manifest.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) lease: Option<LeaseId>,
    pub(super) name: Option<LeaseName>,
    /// The branch that HEAD named, in full; `None`: detached.
    pub(super) branch: Option<String>,
    /// The commit that was checked out; `None`: there was none yet.
    pub(super) head: Option<String>,
    /// What the lease began with.
    pub(super) base: String,
    /// Whether the worktree's administrative directory was there, so that `index` and `state/` are
    /// complete.
    pub(super) registered: bool,
    /// Whether the worktree itself was there.
    pub(super) present: bool,
    /// The linked worktree that it was saved from, by its path relative to the slot's; `None`: the slot's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) worktree: Option<String>,
    pub(super) files: u64,
    pub(super) commits: u64,
    /// What the rescue holds beyond the commits.
    pub(super) paths: Vec<PathRecord>,
    /// Directories that git wouldn't make, or not with that mode.
    pub(super) directories: Vec<DirectoryRecord>,
    /// Unchanged files with a mode that a checkout wouldn't give them.
    pub(super) modes: Vec<DirectoryRecord>,
    /// Submodules in whose place there was something else than an empty directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) submodules: Vec<SubmoduleRecord>,
}

/// A submodule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SubmoduleRecord {
    pub(super) path: Name,
    /// The commit that was checked out; `None`: there was not even a directory.
    pub(super) at: Option<String>,
}

/// One path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PathRecord {
    pub(super) path: Name,
    pub(super) status: PathStatus,
    /// Permission bits, for a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<u32>,
    #[serde(default)]
    pub(super) bytes: u64,
}

/// A path and its permission bits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct DirectoryRecord {
    pub(super) path: Name,
    pub(super) mode: u32,
}

/// What a path was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PathStatus {
    /// The index differs from HEAD. The content is in the tree of the index commit.
    Staged,
    /// Stored byte for byte.
    Modified,
    /// Absent.
    Deleted,
    /// Stored byte for byte.
    Untracked,
    /// Stored byte for byte.
    Ignored,
    /// Unchanged as git sees it; stored byte for byte nevertheless.
    Raw,
}

impl PathStatus {
    /// Whether the rescue's tree has the very bytes of the file.
    pub(super) fn is_raw(self) -> bool {
        matches!(self, Self::Modified | Self::Untracked | Self::Ignored | Self::Raw)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Modified | Self::Raw => "modified",
            Self::Deleted => "deleted",
            Self::Untracked => "untracked",
            Self::Ignored => "ignored",
        }
    }
}

/// A path's bytes. In JSON a string, or `{"hex": …}` where they are not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Name {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes {
        /// Two digits a byte.
        hex: String,
    },
}

impl Name {
    pub(super) fn new(path: &BStr) -> Self {
        match path.to_str() {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes { hex: path.iter().map(|b| format!("{b:02x}")).collect() },
        }
    }

    /// The bytes. Digits that are none are left out, so that the path then is not found.
    pub(super) fn to_bytes(&self) -> BString {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Bytes { hex } => hex
                .as_bytes()
                .chunks(2)
                .filter_map(|pair| u8::from_str_radix(pair.to_str().ok()?, 16).ok())
                .collect::<Vec<u8>>()
                .into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_json() {
        for bytes in [&b"plain"[..], b"a\nb", b"\xff\xfe/x", b"-rf", "grün".as_bytes()] {
            let json = serde_json::to_string(&Name::new(bytes.as_bstr())).unwrap();
            assert_eq!(serde_json::from_str::<Name>(&json).unwrap().to_bytes(), bytes);
        }
    }
}
