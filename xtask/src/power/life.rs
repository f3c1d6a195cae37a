//! One filesystem, from its making to its end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use serde_json::{Value, json};

use super::agent::Fact;
use super::disk::Disk;
use super::{Ground, Options, Sum, agent, alone, checked, fuse, lock};
use crate::Result;

const AGENTS: u64 = 3;

/// What the agents share.
pub(super) struct Life {
    pub(super) ground: Ground,
    filesystem: String,
    disk: Arc<Disk>,
    dir: PathBuf,
    /// What was reported so far.
    pub(super) facts: Mutex<Vec<Fact>>,
    losses: AtomicU32,
    wanted: u32,
    to_check: Mutex<mpsc::SyncSender<PathBuf>>,
    over: AtomicBool,
}

impl Life {
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The power fails, for those who look at what it leaves; here, it goes on.
    pub(super) fn lose_power(&self, random: &mut fastrand::Rng) -> Result {
        // What was reported until now, and what is on the disk after that.
        let facts: Vec<Value> = lock(&self.facts).iter().map(Fact::json).collect();
        let cut = self.disk.cut(random);
        let number = self.losses.fetch_add(1, Ordering::Relaxed);
        if number >= self.wanted {
            self.over.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let dir = self.dir.join(format!("loss-{number}"));
        std::fs::create_dir(&dir)?;
        cut.save(&dir.join("image"))?;
        let facts = json!({
            "root": self.ground.root,
            "wtpool": self.ground.wtpool,
            "filesystem": self.filesystem,
            "how": cut.how,
            "facts": facts,
        });
        std::fs::write(dir.join("facts.json"), serde_json::to_vec_pretty(&facts)?)?;
        let to_check = lock(&self.to_check).clone();
        // Nobody takes it if the checking has failed.
        if to_check.send(dir).is_err() {
            self.over.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Lives, and returns what was found, as numbers and `violations`.
pub(super) fn live(options: &Options, dir: &Path) -> Result<Value> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let (program, args, size) = options.filesystem.maker();
    let disk = Arc::new(Disk::new(size));
    let (served, root) = (dir.join("served"), dir.join("root"));
    for dir in [&served, &root] {
        std::fs::create_dir(dir)?;
    }
    fuse::serve(Arc::clone(&disk), &served)?;
    let image = served.join(fuse::NAME);
    checked(Command::new(program).args(args).arg(&image))?;
    // The usual 5 s between two commits of the journal, or little: then names are there and what is in the
    // files is not.
    let ext4_in_a_hurry = seed % 2 == 1 && program == "mkfs.ext4";
    let how = if ext4_in_a_hurry { "loop,commit=1" } else { "loop" };
    checked(Command::new("mount").args(["-o", how]).arg(&image).arg(&root))?;

    let ground =
        Ground { wtpool: options.program.clone().ok_or("no program")?, root: root.canonicalize()? };
    prepare(&ground)?;
    let (send, receive) = mpsc::sync_channel(1);
    let life = Life {
        ground,
        filesystem: options.filesystem.name(),
        disk,
        dir: dir.to_owned(),
        facts: Mutex::default(),
        losses: AtomicU32::new(0),
        wanted: options.losses,
        to_check: Mutex::new(send),
        over: AtomicBool::new(false),
    };
    let mut sum = Sum::default();
    std::thread::scope(|scope| {
        let agents: Vec<_> = (0..AGENTS)
            .map(|agent| {
                let (life, random) =
                    (&life, fastrand::Rng::with_seed(seed.wrapping_mul(31).wrapping_add(agent)));
                scope.spawn(move || agent::works(life, agent, random).map_err(|e| e.to_string()))
            })
            .collect();
        let checked = loop {
            match receive.recv_timeout(std::time::Duration::from_millis(200)) {
                Ok(loss) => {
                    if let Err(error) = look(&loss, &mut sum) {
                        break Err(error);
                    }
                }
                Err(_) if agents.iter().all(|agent| agent.is_finished()) => break Ok(()),
                Err(_) => {}
            }
        };
        life.over.store(true, Ordering::Relaxed);
        drop(receive);
        for agent in agents {
            match agent.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err("an agent panicked".into()),
            }
        }
        checked
    })?;
    Ok(sum.json())
}

fn prepare(ground: &Ground) -> Result {
    for dir in [ground.repo(), ground.root.join("home")] {
        std::fs::create_dir(dir)?;
    }
    ground.git(["init", "--quiet", "--initial-branch", "main"])?;
    for n in 0..40 {
        let dir = ground.repo().join(format!("dir-{}", n % 5));
        std::fs::create_dir_all(&dir)?;
        std::fs::write(
            dir.join(format!("file-{n}.txt")),
            format!("content of {n}\n").repeat(20 * n),
        )?;
    }
    for n in 1..=3 {
        std::fs::write(ground.repo().join(format!("tracked-{n}.txt")), format!("tracked {n}\n"))?;
    }
    std::fs::write(ground.repo().join(".gitignore"), "*.env\n")?;
    ground.git(["add", "--all"])?;
    ground.git(["commit", "--quiet", "--message", "base"])?;
    // What was there before is not what this is about.
    checked(Command::new("sync").arg("--file-system").arg(&ground.root)).map(drop)
}

/// Has a loss looked at, as after a restart.
fn look(loss: &Path, sum: &mut Sum) -> Result {
    let output = alone().arg("--check").arg(loss).output()?;
    let found: Value = serde_json::from_slice(&output.stdout).map_err(|error| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        format!("the check of {} ended with {}: {error}: {stderr}", loss.display(), output.status)
    })?;
    sum.more("losses");
    let before = sum.violations.len();
    sum.add(&found);
    for violation in &mut sum.violations[before..] {
        *violation = format!("{}: {violation}", loss.display());
        eprintln!("violation: {violation}");
    }
    if sum.violations.len() == before {
        std::fs::remove_dir_all(loss)?;
    }
    Ok(())
}
