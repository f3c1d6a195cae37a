//! Plays a script in leases of the pool that is examined.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pool_core::{Attachment, CommitId, LeaseGuard, Release, Request, SessionId, Wish};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::hazard::{Act, Hazard, Step, Who, write};
use super::reference::{self, Reference};
use super::shell::{Place, View, mask};
use super::{Opener, Subject, Verdict};
use crate::git;

pub(crate) fn temp_dir() -> TempDir {
    tempfile::Builder::new()
        .prefix("wtpool-truth-")
        .tempdir()
        .unwrap_or_else(|e| panic!("make a temporary directory: {e}"))
}

/// Plays the hazard, and judges. Also returns the reasons that attachments gave.
pub(crate) fn play(hazard: &Hazard, open: &Opener) -> (Verdict, Vec<String>) {
    reference::check(hazard);
    let reference = reference::of(hazard);
    let reference = match &*reference {
        Ok(reference) => reference,
        Err(why) => return (Verdict::Untried(why.clone()), Vec::new()),
    };
    let dir = temp_dir();
    let root = dir.path().canonicalize().expect("it exists");
    let repo = root.join("repo");
    std::fs::create_dir(&repo).expect("a directory of one's own");
    let commits = hazard.make(&repo, &reference.locks);
    if let Some(config) = hazard.above {
        write(&root, ".cargo/config.toml", config);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let subject = {
        let _inside = runtime.enter();
        open(hazard, &repo, &root.join("pool"))
    };
    let mut game = Game {
        hazard,
        reference,
        commits,
        root,
        runtime,
        subject,
        leases: BTreeMap::new(),
        slots: BTreeMap::new(),
        warm: false,
        reasons: Vec::new(),
        fallback: None,
        spared: false,
        shown: Vec::new(),
        touched: Vec::new(),
        round: 1,
    };
    let refused = game.play_all().err();
    game.end();
    let verdict = match (refused, game.fallback) {
        _ if !game.shown.is_empty() || !game.touched.is_empty() => {
            Verdict::Wrong { shown: game.shown, touched: game.touched }
        }
        (Some(why), _) => Verdict::Refused(why),
        (None, Some((to, reason))) => Verdict::FallsBack { to, reason },
        (None, None) if game.spared => Verdict::Spared,
        (None, None) => Verdict::Right { warm: game.warm },
    };
    (verdict, game.reasons)
}

struct Game<'a> {
    hazard: &'a Hazard,
    reference: &'a Reference,
    commits: Vec<String>,
    root: PathBuf,
    runtime: Runtime,
    subject: Box<dyn Subject>,
    leases: BTreeMap<Who, (LeaseGuard, Place)>,
    /// Where each holder's slot is, or was.
    slots: BTreeMap<Who, PathBuf>,
    warm: bool,
    /// What attachments gave as reasons.
    reasons: Vec<String>,
    fallback: Option<(String, String)>,
    /// Whether something showed less than it does in a fresh clone, as it may.
    spared: bool,
    shown: Vec<String>,
    touched: Vec<String>,
    /// How often the script has been begun.
    round: u32,
}

impl Game<'_> {
    /// Plays the script as often as is asked for. An error: the pool refuses.
    fn play_all(&mut self) -> Result<(), String> {
        let base = CommitId::new(&self.commits[0]).expect("git's own id");
        self.runtime.block_on(self.subject.warm(&base)).map_err(|why| self.masked(&why))?;
        self.play()?;
        while self.round < self.subject.rounds() {
            self.end();
            self.round += 1;
            self.play()?;
        }
        Ok(())
    }

    fn play(&mut self) -> Result<(), String> {
        let mut early = VecDeque::new();
        if self.hazard.together {
            let steps = self.hazard.script.iter().map_while(|step| match step {
                Step::Lease(_, commit, _) => Some(self.ask(*commit)),
                _ => None,
            });
            early.extend(steps);
        }
        let may_spare = self.hazard.of_debug_information && self.subject.spares_debug_information();
        let mut commands = 0..;
        for (index, step) in self.hazard.script.iter().enumerate() {
            match step {
                Step::Lease(who, commit, after) => {
                    let asked = early.pop_front().unwrap_or_else(|| self.ask(*commit));
                    self.lease(*who, asked, *after)?;
                }
                Step::Release(who) => self.release(*who),
                Step::Act(who, act) => {
                    let bystanders: Vec<PathBuf> = self
                        .leases
                        .keys()
                        .filter(|w| !who.contains(w))
                        .map(|w| self.slot(*w))
                        .collect();
                    let before: Vec<_> = bystanders.iter().map(|place| files(place)).collect();
                    self.subject.before(commands.next().unwrap_or_default());
                    let seen = self.act(who, act);
                    for (who, view) in seen {
                        let right = &self.reference.views[&(index, who)];
                        if may_spare && view.is_part_of(right) {
                            self.spared = true;
                        } else if !view.is_same(right) {
                            let what = format!("{}: {act} in {who}", self.step(index));
                            self.shown.push(difference(&what, &view, right));
                        }
                    }
                    for (place, before) in bystanders.iter().zip(before) {
                        if let Some(path) = first_difference(&before, &files(place)) {
                            let path = self.masked(&path.to_string_lossy());
                            let who: String = who.iter().collect();
                            let step = self.step(index);
                            self.touched.push(format!("{step}: {act} in {who} changed {path}"));
                        }
                    }
                }
                Step::Edit { who, .. } | Step::Commit(who) | Step::Switch(who, _) => {
                    reference::change(step, &self.slot(*who), &self.commits);
                }
            }
        }
        Ok(())
    }

    fn step(&self, index: usize) -> String {
        match self.round {
            1 => format!("step {index}"),
            round => format!("step {index}, time {round}"),
        }
    }

    fn slot(&self, who: Who) -> PathBuf {
        self.slots[&who].clone()
    }

    fn masked(&self, text: &str) -> String {
        mask(text, &self.root, &[])
    }

    /// Asks the pool for a lease.
    fn ask(&self, commit: usize) -> JoinHandle<pool_core::Result<LeaseGuard>> {
        let session = SessionId::new("truth").expect("a valid id");
        let request = Request {
            wish: Wish { base: Some(self.commits[commit].clone()), ..Wish::default() },
            // Somebody who may come back: idle slots are kept, and used again.
            session: Some((session, None)),
            ..Request::new("truth table")
        };
        let pool = self.subject.pool().clone();
        self.runtime.spawn(async move { pool.acquire(request).await })
    }

    fn lease(
        &mut self,
        who: Who,
        asked: JoinHandle<pool_core::Result<LeaseGuard>>,
        after: Option<Who>,
    ) -> Result<(), String> {
        let granted = self.runtime.block_on(asked).expect("acquiring does not panic");
        let guard = granted.map_err(|e| self.masked(&e.to_string()))?;
        let root = guard.path();
        // Later on, there are other slots to be used again.
        if let Some(previous) = after.filter(|_| self.round == 1) {
            assert_eq!(root, self.slot(previous), "the slot was not used again: nothing is tested");
        }
        if let Some(content) = self.hazard.dot_env {
            let copy = std::fs::read_to_string(root.join(".env")).ok();
            assert_eq!(
                copy.as_deref(),
                Some(content),
                "the pool must give a copy of .env to leases"
            );
        }
        let Attachment { strategy, env, warm, reason, .. } = guard.lease().attachment.clone();
        // Later on, everybody has something to start from.
        self.warm |= warm && self.round == 1;
        let reason = reason.map(|reason| self.masked(&reason));
        if let Some(reason) = &reason
            && !self.reasons.contains(reason)
        {
            self.reasons.push(reason.clone());
        }
        if strategy != self.subject.strategy() {
            let reason = reason.unwrap_or_else(|| "it doesn't say why".to_owned());
            self.fallback.get_or_insert((strategy, reason));
        }
        let status = git(&root).args(["status", "--porcelain"]).stdout();
        if !status.is_empty() {
            self.touched.push(format!("the lease {who} begins with changes: {status}"));
        }
        self.slots.insert(who, root.clone());
        self.leases.insert(who, (guard, Place::new(root, env)));
        Ok(())
    }

    fn release(&mut self, who: Who) {
        let (guard, _) = self.leases.remove(&who).expect("a script releases what it leased");
        self.runtime.block_on(guard.release(Release::default())).expect("the lease is live");
    }

    /// Lets all of them do it at the same time.
    fn act(&mut self, who: &[Who], act: &Act) -> Vec<(Who, View)> {
        let actors = self.leases.iter_mut().filter(|(w, _)| who.contains(w));
        std::thread::scope(|scope| {
            let running: Vec<_> = actors
                .map(|(who, (_, place))| (*who, scope.spawn(move || place.act(act))))
                .collect();
            let done = running.into_iter().map(|(who, view)| (who, view.join()));
            done.map(|(who, view)| (who, view.unwrap_or_else(|e| std::panic::resume_unwind(e))))
                .collect()
        })
    }

    fn end(&mut self) {
        let left: Vec<Who> = self.leases.keys().copied().collect();
        left.into_iter().for_each(|who| self.release(who));
    }
}

fn difference(what: &str, seen: &View, right: &View) -> String {
    let (mut ours, mut theirs) = (seen.shown.lines(), right.shown.lines());
    // Of a page or a list of warnings, the first line that differs says enough.
    let (one, other) = loop {
        match (ours.next(), theirs.next()) {
            (Some(one), Some(other)) if one == other => {}
            (one, other) => break (one.unwrap_or("nothing"), other.unwrap_or("nothing")),
        }
    };
    let end = |view: &View| if view.success { "" } else { " and failed" };
    let mut text = format!(
        "{what} showed {one:?}{}\n  where a fresh clone showed {other:?}{}",
        end(seen),
        end(right),
    );
    if !seen.success {
        let lines: Vec<&str> = seen.stderr.lines().collect();
        text += &format!("\n  {}", lines[lines.len().saturating_sub(12)..].join("\n  "));
    }
    text
}

/// What is known of a file without reading it.
type Seen = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// The files of a place, and when each was last written.
fn files(place: &Path) -> Seen {
    fn add(dir: &Path, seen: &mut Seen) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => add(&path, seen),
                Ok(meta) => drop(seen.insert(path, (meta.len(), meta.modified().ok()))),
                Err(_) => {}
            }
        }
    }
    let mut seen = Seen::new();
    add(place, &mut seen);
    seen
}

fn first_difference<'a>(before: &'a Seen, after: &'a Seen) -> Option<&'a Path> {
    let gone = before.iter().find(|(path, meta)| after.get(*path) != Some(meta));
    let new = || after.iter().find(|(path, _)| !before.contains_key(*path));
    gone.or_else(new).map(|(path, _)| path.as_path())
}
