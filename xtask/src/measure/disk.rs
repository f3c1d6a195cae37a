//! The disk that many leases take.
//!
//! Each lease changes one line of a workspace crate and builds. What is allocated for the pool then (each
//! inode once; on a filesystem made for it, whatever is taken there, so what files share is counted once,
//! too) is divided by what an ordinary clone takes with the same change and build, with cargo's defaults. Both
//! have their sources in it, and neither git's own files.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use clap::Args;

use super::Common;
use super::ground::{Ground, Lease, build, build_in};
use super::table::Table;
use crate::Result;

/// How the disk is measured.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// How many build at the same time.
    #[arg(long, default_value_t = 4)]
    builders: usize,
    /// Each lease builds before the next one is given. Otherwise there are all leases before the first build.
    #[arg(long)]
    one_by_one: bool,
}

/// What is taken, in bytes.
struct Taken {
    all: u64,
    /// Of it, what the strategy keeps for all; 0 where that can't be told apart.
    cache: u64,
}

pub(crate) fn run(options: &Options) -> Result {
    let common = &options.common;
    let wtpool = common.program()?;
    eprintln!("\n== an ordinary clone");
    let one = ordinary(&Ground::new(common, &wtpool, "private")?)?;
    let mut table = Table::default();
    table.row(["", "MB", "of it shared", "÷ ordinary"]);
    table.row(["an ordinary clone", &mb(one), "", "1.00"]);
    for strategy in &common.strategies {
        eprintln!("\n== {strategy}");
        let ground = Ground::new(common, &wtpool, strategy)?;
        let taken = pool(options, &ground);
        ground.end()?;
        let taken = taken?;
        let shared = if taken.cache > 0 { mb(taken.cache) } else { String::new() };
        #[expect(clippy::cast_precision_loss, reason = "two digits of it are shown")]
        let ratio = taken.all as f64 / one as f64;
        let name = format!("{} leases, {strategy}", common.leases);
        table.row([name, mb(taken.all), shared, format!("{ratio:.2}")]);
    }
    table.print();
    Ok(())
}

fn mb(bytes: u64) -> String {
    format!("{}", bytes.div_ceil(1_000_000))
}

fn ordinary(ground: &Ground) -> Result<u64> {
    let before = Scale::begin(ground, &[])?;
    let clone = ground.ordinary()?;
    ground.edit(&clone, "lease 1")?;
    build(&clone, &BTreeMap::new())?;
    before.weigh(ground, std::slice::from_ref(&clone), &[clone.join(".git")])
}

fn pool(options: &Options, ground: &Ground) -> Result<Taken> {
    let common = &options.common;
    let git = ground.repo().join(".git");
    let before = Scale::begin(ground, std::slice::from_ref(&git))?;
    ground.warm()?;
    let mut leases = Vec::new();
    for number in 1..=common.leases {
        let lease = ground.acquire(&format!("lease-{number}"), "HEAD")?;
        if !lease.warm && number == 1 {
            let reason = lease.reason.as_deref().unwrap_or("and it is not said why");
            eprintln!("not warm: {reason}");
        }
        ground.edit(&lease.path, &lease.name)?;
        if options.one_by_one {
            build_in(&lease)?;
        }
        leases.push(lease);
    }
    if !options.one_by_one {
        all(&leases, options.builders)?;
    }
    let mut places = vec![ground.pool()];
    let writable = leases.iter().flat_map(|lease| &lease.writable_roots);
    // The repository itself is one of them: there commits go.
    places.extend(writable.filter(|root| !root.starts_with(ground.repo())).cloned());
    Ok(Taken {
        all: before.weigh(ground, &places, &[git])?,
        cache: match ground.volume() {
            Some(_) => 0,
            None => allocated(&[ground.pool().join("cache")])?,
        },
    })
}

/// Builds in all of them, some at a time.
fn all(leases: &[Lease], builders: usize) -> Result {
    let (queue, failed) = (Mutex::new(leases.iter()), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..builders.max(1) {
            scope.spawn(|| {
                loop {
                    let Some(lease) = queue.lock().ok().and_then(|mut queue| queue.next()) else {
                        return;
                    };
                    if let Err(error) = build_in(lease)
                        && let Ok(mut failed) = failed.lock()
                    {
                        *failed = Some(error.to_string());
                    }
                }
            });
        }
    });
    match failed.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error.into()),
        Err(_) => Err("a build ended unexpectedly".into()),
    }
}

/// What was taken before: on a filesystem of its own, what is taken there; elsewhere all files are looked at.
struct Scale {
    before: u64,
}

impl Scale {
    fn begin(ground: &Ground, of_git: &[PathBuf]) -> Result<Self> {
        let before = match ground.volume() {
            Some(volume) => volume.taken()? - allocated_of_git(of_git)?,
            None => 0,
        };
        Ok(Self { before })
    }

    /// What is taken by `places`, but for git's own.
    fn weigh(self, ground: &Ground, places: &[PathBuf], of_git: &[PathBuf]) -> Result<u64> {
        match ground.volume() {
            Some(volume) => {
                let now = volume.taken()? - allocated_of_git(of_git)?;
                Ok(now.saturating_sub(self.before))
            }
            None => allocated(places),
        }
    }
}

/// Bytes allocated there, each inode once, without `.git`.
fn allocated(places: &[PathBuf]) -> Result<u64> {
    let mut seen = HashSet::new();
    places.iter().map(|place| add_up(place, false, &mut seen)).sum()
}

fn allocated_of_git(places: &[PathBuf]) -> Result<u64> {
    let mut seen = HashSet::new();
    places.iter().map(|place| add_up(place, true, &mut seen)).sum()
}

fn add_up(path: &Path, with_git: bool, seen: &mut HashSet<u64>) -> Result<u64> {
    let meta = match fs::symlink_metadata(path) {
        // Gone meanwhile: a file that somebody had for a moment.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let own = if seen.insert(meta.ino()) { meta.blocks() * 512 } else { return Ok(0) };
    if !meta.is_dir() {
        return Ok(own);
    }
    let mut sum = own;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if with_git || entry.file_name() != ".git" {
            sum += add_up(&entry.path(), with_git, seen)?;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_two_names_is_counted_once_and_git_not_at_all() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("file");
        fs::write(&file, vec![1; 100_000]).expect("written");
        let once = allocated(&[dir.path().to_owned()]).expect("counted");
        assert!(once >= 100_000, "{once}");
        fs::hard_link(&file, dir.path().join("twin")).expect("linked");
        fs::write(dir.path().join(".git"), vec![1; 100_000]).expect("written");
        let places = [dir.path().to_owned(), file];
        assert_eq!(allocated(&places).expect("counted"), once);
        assert!(allocated_of_git(&places).expect("counted") >= once + 100_000);
    }
}
