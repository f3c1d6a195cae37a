//! The way back for what the memory isolator saved.

use std::path::Path;

use async_trait::async_trait;
use pool_core::{
    CommitId, Error, ErrorKind, Plan, Rescue, RescueArchive, RescueId, RescuedPath, Result,
};

use super::world::{Saved, is_ignored};
use super::{MemoryIsolator, World};

impl World {
    fn saved(&self, id: &RescueId) -> Result<&Saved> {
        self.rescues.iter().find(|saved| saved.rescue.id == *id).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no rescue {id}"))
                .with_hint("list the rescues to see what there is")
        })
    }
}

#[async_trait]
impl RescueArchive for MemoryIsolator {
    async fn list(&self) -> Result<Vec<Rescue>> {
        Ok(self.world().rescues.iter().map(|saved| saved.rescue.clone()).collect())
    }

    async fn contents(&self, id: &RescueId) -> Result<Vec<RescuedPath>> {
        let world = self.world();
        let saved = world.saved(id)?;
        let head = world.tree(&saved.head);
        let mut paths = Vec::new();
        let mut note = |path: &String, status: &str, bytes: usize| {
            let (path, status) = (path.clone(), status.to_owned());
            paths.push(RescuedPath { path, status, bytes: bytes as u64 });
        };
        for (path, bytes) in &saved.files {
            match saved.index.get(path) {
                None if is_ignored(path) => note(path, "ignored", bytes.len()),
                None => note(path, "untracked", bytes.len()),
                Some(staged) if staged != bytes => note(path, "modified", bytes.len()),
                Some(staged) if head.get(path) != Some(staged) => note(path, "staged", bytes.len()),
                Some(_) => {}
            }
        }
        for path in head.keys().filter(|path| !saved.files.contains_key(*path)) {
            note(path, "deleted", 0);
        }
        for (path, bytes) in &saved.index {
            if !saved.files.contains_key(path) && !head.contains_key(path) {
                note(path, "staged", bytes.len());
            }
        }
        paths.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(paths)
    }

    async fn restore_into(&self, id: &RescueId, into: &Path) -> Result<()> {
        let files = self.world().saved(id)?.files.clone();
        let io = |e| Error::io(format_args!("restore into {}", into.display()), e);
        if into.exists() && into.read_dir().map_err(io)?.next().is_some() {
            let message = format!("{} is not an empty directory", into.display());
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("name a directory that does not exist"));
        }
        for (path, bytes) in files {
            let path = into.join(path);
            let dir = path.parent().unwrap_or(into);
            std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, bytes)).map_err(io)?;
        }
        Ok(())
    }

    async fn restore_onto(&self, id: &RescueId, plan: &Plan) -> Result<()> {
        let now = self.now();
        let mut world = self.world();
        let saved = world.saved(id)?.clone();
        let found = world.inspect(plan)?;
        let stands_at = world.slots.get(&plan.slot).map(|ws| world.head(ws));
        if !found.losses.is_empty() || !found.present || stands_at.as_ref() != Some(&saved.head) {
            let message = format!("slot {} does not stand untouched at {}", plan.slot, saved.head);
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("restore onto a fresh workspace of the rescue's head"));
        }
        let gone: Vec<String> = world.slots[&plan.slot].files.keys().cloned().collect();
        for path in gone.iter().filter(|path| !saved.files.contains_key(*path)) {
            world.remove(plan.slot, path);
        }
        for (path, bytes) in &saved.index {
            // Staging takes a file's content, so a file that differs is written a second time.
            world.write(plan.slot, path, bytes.clone(), now);
            world.stage(plan.slot, path);
        }
        let unstaged: Vec<String> = {
            let index = &world.slots[&plan.slot].index;
            index.keys().filter(|path| !saved.index.contains_key(*path)).cloned().collect()
        };
        for path in unstaged {
            if world.slots[&plan.slot].files.contains_key(&path) {
                world.remove(plan.slot, &path);
            }
            world.stage(plan.slot, &path);
        }
        for path in saved.index.keys().filter(|path| !saved.files.contains_key(*path)) {
            world.remove(plan.slot, path);
        }
        for (path, bytes) in &saved.files {
            if world.slots[&plan.slot].files.get(path) != Some(bytes) {
                world.write(plan.slot, path, bytes.clone(), now);
            }
        }
        Ok(())
    }

    async fn head(&self, id: &RescueId) -> Result<CommitId> {
        Ok(self.world().saved(id)?.head.clone())
    }

    async fn drop_rescue(&self, id: &RescueId) -> Result<()> {
        let mut world = self.world();
        world.saved(id)?;
        let (gone, kept) = std::mem::take(&mut world.rescues)
            .into_iter()
            .partition::<Vec<Saved>, _>(|saved| saved.rescue.id == *id);
        world.rescues = kept;
        world.dropped.extend(gone);
        Ok(())
    }
}
