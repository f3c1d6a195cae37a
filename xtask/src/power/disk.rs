//! A disk that can lose its power: what was written since it was last told to flush may be there afterwards,
//! in any part.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: usize = 4096;

/// What is written as a whole, or not at all.
const SECTOR: usize = 512;

type Page = Arc<[u8; PAGE]>;
type Pages = HashMap<u64, Page>;

/// The disk.
pub(super) struct Disk {
    size: u64,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    /// What is read: all that was written.
    now: Pages,
    /// What is there in any case.
    flushed: Pages,
    /// What was written since, in order.
    since: Vec<(u64, Vec<u8>)>,
}

/// What survives of the writes since the last flush.
#[derive(Clone, Copy, Debug)]
enum Survival {
    None,
    All,
    /// Those up to some moment.
    First,
    /// Any of them.
    Some,
    /// Any sectors of any of them.
    Torn,
}

impl Disk {
    pub(super) fn new(size: u64) -> Self {
        Self { size, content: Mutex::default() }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let len = len.min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(len));
        let mut bytes = vec![0; len];
        let content = self.content();
        for (page, at, range) in parts(offset, len) {
            if let Some(page) = content.now.get(&page) {
                bytes[range.clone()].copy_from_slice(&page[at..at + range.len()]);
            }
        }
        bytes
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) {
        let mut content = self.content();
        put(&mut content.now, offset, bytes);
        content.since.push((offset, bytes.to_owned()));
    }

    pub(super) fn flush(&self) {
        let content = &mut *self.content();
        for (offset, bytes) in content.since.drain(..) {
            for (page, _, _) in parts(offset, bytes.len()) {
                if let Some(now) = content.now.get(&page) {
                    content.flushed.insert(page, Arc::clone(now));
                }
            }
        }
    }

    /// What is on it if the power fails now.
    pub(super) fn cut(&self, random: &mut fastrand::Rng) -> Cut {
        let (mut pages, since) = {
            let content = self.content();
            (content.flushed.clone(), content.since.clone())
        };
        let survival = match random.u8(0..10) {
            0..3 => Survival::None,
            3 => Survival::All,
            4..6 => Survival::First,
            6..8 => Survival::Some,
            _ => Survival::Torn,
        };
        let first = random.usize(0..=since.len());
        for (n, (offset, bytes)) in since.iter().enumerate() {
            let whole = match survival {
                Survival::None => false,
                Survival::All => true,
                Survival::First => n < first,
                Survival::Some => random.bool(),
                Survival::Torn => {
                    for (at, sector) in (*offset..).step_by(SECTOR).zip(bytes.chunks(SECTOR)) {
                        if random.bool() {
                            put(&mut pages, at, sector);
                        }
                    }
                    false
                }
            };
            if whole {
                put(&mut pages, *offset, bytes);
            }
        }
        Cut { size: self.size, pages, how: format!("{survival:?} of {} writes", since.len()) }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a loss of power left on the disk.
pub(super) struct Cut {
    size: u64,
    pages: Pages,
    /// What became of the writes since the last flush.
    pub(super) how: String,
}

impl Cut {
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let file = File::create_new(path)?;
        file.set_len(self.size)?;
        for (number, page) in &self.pages {
            file.write_all_at(&page[..], number * PAGE as u64)?;
        }
        Ok(())
    }
}

fn put(pages: &mut Pages, offset: u64, bytes: &[u8]) {
    for (page, at, range) in parts(offset, bytes.len()) {
        let page = pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
        Arc::make_mut(page)[at..at + range.len()].copy_from_slice(&bytes[range]);
    }
}

/// The pages that `len` bytes at `offset` lie in: the number of each, where in it, and which of the bytes.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < len).then(|| {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let range = done..len.min(done + PAGE - within);
            done = range.end;
            (at / PAGE as u64, within, range)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_flushed_survives_and_the_rest_may() {
        let disk = Disk::new(1 << 20);
        disk.write(4000, &[1; 200]);
        disk.flush();
        disk.write(4100, &[2; 5000]);
        assert_eq!(disk.read(3999, 3), [0, 1, 1]);
        assert_eq!(disk.read(4099, 2), [1, 2]);
        assert_eq!(disk.read((1 << 20) - 1, 10), [0]);
        let mut seen = std::collections::HashSet::new();
        for seed in 0..50 {
            let cut = disk.cut(&mut fastrand::Rng::with_seed(seed));
            let left = Disk::new(1 << 20);
            left.content().now = cut.pages;
            assert_eq!(left.read(3999, 3), [0, 1, 1]);
            seen.insert(left.read(4100, 5000));
            assert!(seen.iter().all(|b| b.iter().all(|b| [0, 1, 2].contains(b))));
        }
        // All, nothing, and torn ones.
        assert!(seen.contains(&vec![2; 5000]) && seen.len() > 3, "{}", seen.len());
    }
}
