//! Those who use the pool, and remember what they were told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::life::Life;
use super::{checked, lock};
use crate::Result;

/// What became of a lease, as far as somebody was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Fact {
    name: String,
    /// `leased`; `leaving` once it was asked to end; `over` once it was said to be.
    state: &'static str,
    /// Whether the agent has run git there: what that leaves half done is not the pool's doing.
    touched: bool,
    /// What was changed in the worktree and not committed, with what was in it.
    files: BTreeMap<String, String>,
    /// The commits, each with a file in it.
    commits: Vec<(String, String, String)>,
    rescue: Option<String>,
}

impl Fact {
    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name,
            "state": self.state,
            "touched": self.touched,
            "files": self.files,
            "commits": self.commits,
            "rescue": self.rescue,
        })
    }
}

/// Works until the life is over.
pub(super) fn works(life: &Life, agent: u64, mut random: fastrand::Rng) -> Result {
    let mut number = 0;
    while !life.is_over() {
        number += 1;
        let name = format!("agent-{agent}-{number}");
        lease(life, &name, &mut random)?;
        if number % 5 == 0 {
            checked(life.ground.wtpool().arg("prune"))?;
        }
    }
    Ok(())
}

fn lease(life: &Life, name: &str, random: &mut fastrand::Rng) -> Result {
    let mut acquire = life.ground.wtpool();
    acquire.args(["acquire", "--json", "--name", name, "--ttl", "1h"]);
    if random.bool() {
        // Then the slot is used again.
        acquire.args(["--session", "work"]);
    }
    let leased: Value = serde_json::from_str(&checked(&mut acquire)?)?;
    let place = PathBuf::from(leased["path"].as_str().ok_or("a lease without a path")?);
    let mut fact = Fact { name: name.to_owned(), state: "leased", ..Fact::default() };
    let told = |fact: &Fact| {
        let facts = &mut *lock(&life.facts);
        match facts.iter_mut().find(|other| other.name == fact.name) {
            Some(old) => *old = fact.clone(),
            None => facts.push(fact.clone()),
        }
    };
    told(&fact);
    now_or_never(life, random)?;
    fact.touched = true;
    told(&fact);
    work(life, &place, &mut fact, random)?;
    if random.u8(0..4) == 0 {
        // For long enough that the system writes some of it by itself.
        std::thread::sleep(Duration::from_millis(random.u64(0..4000)));
    }
    fact.state = "leaving";
    told(&fact);
    let released = checked(life.ground.wtpool().args(["release", "--json", name]))?;
    let released: Value = serde_json::from_str(&released)?;
    fact.rescue = released["rescue"]["id"].as_str().map(str::to_owned);
    fact.state = "over";
    if !fact.files.is_empty() && fact.rescue.is_none() {
        return Err(format!("{name} was dirty, and there is no rescue: {released}").into());
    }
    told(&fact);
    now_or_never(life, random)
}

/// The power fails right after something was reported, a little later, or not.
fn now_or_never(life: &Life, random: &mut fastrand::Rng) -> Result {
    match random.u8(0..8) {
        0..3 => life.lose_power(random),
        3 => {
            std::thread::sleep(Duration::from_millis(random.u64(0..3000)));
            life.lose_power(random)
        }
        _ => Ok(()),
    }
}

/// What an agent does. None of it is brought to the disk on purpose, as agents do not.
fn work(life: &Life, place: &Path, fact: &mut Fact, random: &mut fastrand::Rng) -> Result {
    let git = |args: &[&str]| -> Result<String> {
        let mut command: Command = life.ground.command("git", place);
        checked(command.args(args))
    };
    let name = fact.name.clone();
    let mut write = |path: &str, what: &str| -> Result<String> {
        let lines = if random.u8(0..4) == 0 { 4000 } else { 3 };
        let text: String =
            (0..random.usize(1..=lines)).map(|n| format!("{what} of {name}, {n}\n")).collect();
        std::fs::write(place.join(path), &text)?;
        Ok(text)
    };
    let mut done = random_choice(&name, 0x3f);
    // A clean one now and then.
    if done == 0x3f {
        done = 0;
    }
    if done & 1 != 0 {
        let path = format!("committed-{name}");
        let text = write(&path, "committed")?;
        git(&["add", "."])?;
        git(&["commit", "--quiet", "--message", &name])?;
        fact.commits.push((git(&["rev-parse", "HEAD"])?.trim().to_owned(), path, text));
    }
    if done & 2 != 0 {
        git(&["checkout", "--quiet", "--detach"])?;
        let path = format!("detached-{name}");
        let text = write(&path, "detached")?;
        git(&["add", "."])?;
        git(&["commit", "--quiet", "--message", &name])?;
        fact.commits.push((git(&["rev-parse", "HEAD"])?.trim().to_owned(), path, text));
    }
    if done & 4 != 0 {
        let text = write("tracked-1.txt", "staged")?;
        git(&["add", "tracked-1.txt"])?;
        fact.files.insert("tracked-1.txt".into(), text);
    }
    if done & 8 != 0 {
        fact.files.insert("tracked-2.txt".into(), write("tracked-2.txt", "modified")?);
    }
    if done & 16 != 0 {
        fact.files.insert("untracked.txt".into(), write("untracked.txt", "untracked")?);
    }
    if done & 32 != 0 {
        fact.files.insert("secret.env".into(), write("secret.env", "ignored")?);
    }
    Ok(())
}

/// The same for the same name.
fn random_choice(name: &str, mask: u64) -> u64 {
    let seed =
        name.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(131).wrapping_add(byte.into()));
    fastrand::Rng::with_seed(seed).u64(..) & mask
}
