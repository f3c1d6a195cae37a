//! Finding and reading rescues.

use gix::ObjectId;
use gix::bstr::ByteSlice;
use pool_core::{CommitId, Error, ErrorKind, Rescue, RescueId, Result};

use super::manifest::{Manifest, VERSION};
use crate::inspect::{failed, object_id};
use crate::references::{self, settled};

/// A rescue's name and commit. What it holds may still turn out to be damaged.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) id: RescueId,
    pub(super) commit: ObjectId,
}

/// A rescue's parts.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) manifest: Manifest,
    /// The tree of the worktree as it was found.
    pub(super) tree: ObjectId,
    /// The tree of the index, stage 0.
    pub(super) index: ObjectId,
    pub(super) metadata: ObjectId,
    pub(super) head: Option<ObjectId>,
}

/// All rescues, by name.
pub(super) fn all(repo: &gix::Repository) -> Result<Vec<Stored>> {
    let mut found = Vec::new();
    for reference in references::all(repo, super::PREFIX)? {
        let reference = match reference {
            Ok(reference) => reference,
            Err(error) => {
                tracing::warn!(%error, "a rescue's reference can't be read");
                continue;
            }
        };
        let name = reference.name().as_bstr().to_string();
        let id = name.strip_prefix(super::PREFIX).and_then(|id| RescueId::new(id).ok());
        // Somebody else's reference, in our place.
        let (Some(id), Some(commit)) = (id, reference.try_id()) else { continue };
        found.push(Stored { id, commit: commit.detach() });
    }
    Ok(found)
}

/// The rescue of that name.
pub(super) fn open(repo: &gix::Repository, id: &RescueId) -> Result<Stored> {
    let name = super::reference(id);
    let found = settled(repo, || repo.try_find_reference(name.as_str()))
        .map_err(|e| failed(format_args!("read {name}"), e))?;
    let commit = found.as_ref().and_then(gix::Reference::try_id).map(gix::Id::detach);
    match commit {
        Some(commit) => Ok(Stored { id: id.clone(), commit }),
        None => Err(Error::new(ErrorKind::NotFound, format!("there is no rescue {id}"))
            .with_hint("`wtpool rescue list` shows those there are")),
    }
}

impl Stored {
    /// Reads what it holds.
    pub(super) fn parts(&self, repo: &gix::Repository) -> Result<Parts> {
        let damaged = |why: String| {
            Error::new(ErrorKind::Store, format!("the rescue {} is damaged: {why}", self.id))
                .with_hint(format!(
                    "`git show {}` shows what can still be read",
                    super::reference(&self.id)
                ))
        };
        let gone = |e: gix::Error| damaged(e.to_string());
        let whole = repo.find_commit(self.commit).map_err(gone)?;
        let parents: Vec<ObjectId> = whole.parent_ids().map(gix::Id::detach).collect();
        // Whether HEAD is among the parents is told by the manifest, which is in the last but one
        // or the last of the first three.
        for (at, has_head) in [(2, true), (1, false)] {
            let Some(metadata) = parents.get(at).and_then(|id| repo.find_commit(*id).ok()) else {
                continue;
            };
            let Ok(tree) = metadata.tree() else { continue };
            let Ok(Some(entry)) = tree.lookup_entry(["manifest.json"]) else { continue };
            let json = entry.object().map_err(gone)?;
            let manifest: Manifest = serde_json::from_slice(&json.data)
                .map_err(|e| damaged(format!("its manifest: {e}")))?;
            if manifest.version > VERSION {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "the rescue {} has version {}, and only {VERSION} is known",
                        self.id, manifest.version
                    ),
                )
                .with_hint("use the version of wtpool that made it, or a later one"));
            }
            if manifest.head.is_some() != has_head {
                continue;
            }
            let head = manifest.head.as_deref().map(object_id).transpose()?;
            let tree_of = |commit: ObjectId| Ok(repo.find_commit(commit)?.tree_id()?.detach());
            let index = tree_of(parents[at - 1]).map_err(gone)?;
            let metadata = tree.id;
            return Ok(Parts {
                manifest,
                tree: whole.tree_id().map_err(gone)?.detach(),
                index,
                metadata,
                head,
            });
        }
        Err(damaged("it has no manifest".into()))
    }

    /// The commits that it is made of.
    pub(super) fn commits(&self, repo: &gix::Repository) -> Result<Vec<ObjectId>> {
        let whole = repo.find_commit(self.commit).map_err(|e| failed("read a rescue", e))?;
        Ok(whole.parent_ids().map(gix::Id::detach).chain([self.commit]).collect())
    }

    /// Whether it holds exactly these trees (worktree, index, metadata).
    pub(super) fn holds(
        &self,
        repo: &gix::Repository,
        head: Option<ObjectId>,
        trees: [ObjectId; 3],
    ) -> bool {
        let Ok(parts) = self.parts(repo) else { return false };
        parts.head == head && [parts.tree, parts.index, parts.metadata] == trees
    }

    /// Reads all of it once, and looks for all that was `written` for it.
    pub(super) fn verify(&self, repo: &gix::Repository, written: &[ObjectId]) -> Result<()> {
        let parts = self.parts(repo)?;
        let missing = |what: String| {
            Error::new(
                ErrorKind::Store,
                format!("the rescue {} was written, but {what} can't be read back", self.id),
            )
            .with_hint("check the repository with `git fsck`")
        };
        for parent in
            repo.find_commit(self.commit).map_err(|e| failed("read back a rescue", e))?.parent_ids()
        {
            if repo.find_header(parent).is_err() {
                return Err(missing(format!("the commit {parent}")));
            }
        }
        if let Some(id) = written.iter().find(|id| !repo.has_object(**id)) {
            return Err(missing(format!("the object {id}")));
        }
        let tree = crate::inspect::staged::tree_index(repo, parts.tree)?;
        for record in parts.manifest.paths.iter().filter(|record| record.status.is_raw()) {
            let path = record.path.to_bytes();
            let entry = tree.entry_by_path(path.as_bstr());
            // A submodule's commit is in its own repository.
            let there = |entry: &gix::index::Entry| {
                entry.mode.is_submodule() || repo.find_header(entry.id).is_ok()
            };
            if !entry.is_some_and(there) {
                return Err(missing(crate::inspect::text(path.as_bstr())));
            }
        }
        Ok(())
    }

    /// What `list` says of it.
    ///
    /// # Errors
    ///
    /// When it is damaged.
    pub(super) fn summary(&self, repo: &gix::Repository) -> Result<Rescue> {
        let manifest = self.parts(repo)?.manifest;
        let rescue = Rescue {
            files: manifest.files,
            commits: manifest.commits,
            lease: manifest.lease,
            name: manifest.name,
            worktree: manifest.worktree,
            ..self.outline(repo, None)
        };
        Ok(rescue)
    }

    /// Returns what is known of it without its manifest, which may be damaged.
    pub(super) fn outline(&self, repo: &gix::Repository, damage: Option<String>) -> Rescue {
        let seconds =
            repo.find_commit(self.commit).ok().and_then(|c| c.time().ok()).map_or(0, |t| t.seconds);
        Rescue {
            id: self.id.clone(),
            reference: super::reference(&self.id),
            commit: CommitId::new(self.commit.to_string()).ok(),
            lease: None,
            name: None,
            created_at: jiff::Timestamp::from_second(seconds).unwrap_or_default(),
            files: 0,
            commits: 0,
            worktree: None,
            nested: Vec::new(),
            damage,
        }
    }
}
