//! What is right: the script's commands in fresh clones, each with a private target.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::hazard::{Act, Hazard, Locks, Step, Who, commit_all, write};
use super::shell::{Place, View, cargo};
use crate::git;

/// What each act must show, by its place in the script and whose it is.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) locks: Locks,
    pub(crate) views: HashMap<(usize, Who), View>,
}

/// The reference of a hazard, made once for all strategies; or why there is none on this machine.
pub(crate) fn of(hazard: &Hazard) -> Arc<Result<Reference, String>> {
    type Cell = Arc<OnceLock<Arc<Result<Reference, String>>>>;
    static KNOWN: Mutex<BTreeMap<&'static str, Cell>> = Mutex::new(BTreeMap::new());
    let cell = {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(hazard.name()).or_default())
    };
    Arc::clone(cell.get_or_init(|| Arc::new(make(hazard))))
}

fn make(hazard: &Hazard) -> Result<Reference, String> {
    let dir = super::play::temp_dir();
    let root = dir.path().canonicalize().expect("it exists");
    let locks = lock(hazard, &root.join("unlocked"))?;
    let repo = root.join("repo");
    std::fs::create_dir(&repo).expect("a directory of one's own");
    let commits = hazard.make(&repo, &locks);
    let mut who: Vec<Who> = hazard
        .script
        .iter()
        .filter_map(|step| if let Step::Lease(who, ..) = step { Some(*who) } else { None })
        .collect();
    who.sort_unstable();
    who.dedup();
    let mut views = HashMap::new();
    for who in who {
        replay(hazard, who, &repo, &commits, &root.join(format!("clone-{who}")), &mut views);
    }
    Ok(Reference { locks, views })
}

/// Lets cargo write the lock files, which are then part of every commit.
fn lock(hazard: &Hazard, dir: &Path) -> Result<Locks, String> {
    for (path, content) in &hazard.files {
        write(dir, path, content.as_deref().unwrap_or_default());
    }
    let mut locks = Locks::new();
    for workspace in &hazard.workspaces {
        let output = cargo(&dir.join(workspace), &BTreeMap::new())
            .args(["generate-lockfile", "--quiet"])
            .output()
            .unwrap_or_else(|e| panic!("cannot run cargo: {e}"));
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "));
        }
        let path = Path::new(workspace).join("Cargo.lock");
        let content = std::fs::read_to_string(dir.join(&path)).expect("cargo has just written it");
        locks.insert(path.to_string_lossy().into_owned(), content);
    }
    Ok(locks)
}

/// Plays one holder's part. Each change of source after a build begins anew, in another clone.
fn replay(
    hazard: &Hazard,
    who: Who,
    repo: &Path,
    commits: &[String],
    clones: &Path,
    views: &mut HashMap<(usize, Who), View>,
) {
    let mut history: Vec<&Step> = Vec::new();
    let mut place: Option<Place> = None;
    for (index, step) in hazard.script.iter().enumerate() {
        match step {
            Step::Act(all, act) if all.contains(&who) => {
                let place = place.get_or_insert_with(|| {
                    let root = clones.join(index.to_string());
                    std::fs::create_dir_all(clones).expect("a directory of one's own");
                    git(repo).args(["clone", "--quiet", "--no-checkout", "."]).arg(&root).ok();
                    if let Some(content) = hazard.dot_env {
                        write(&root, ".env", content);
                    }
                    history.iter().for_each(|step| change(step, &root, commits));
                    Place::new(root, BTreeMap::new())
                });
                let view = place.act(act);
                let name = hazard.name();
                assert_eq!(
                    view.success,
                    !act.fails(),
                    "{name}, step {index}: {act}, in a fresh clone\n{}\n{}",
                    view.shown,
                    view.stderr
                );
                views.insert((index, who), view);
            }
            Step::Act(..) | Step::Release(_) => {}
            Step::Lease(whose, ..) if *whose == who => {
                history = vec![step];
                place = None;
            }
            Step::Edit { who: whose, .. } | Step::Commit(whose) | Step::Switch(whose, _)
                if *whose == who =>
            {
                history.push(step);
                place = None;
            }
            _ => {}
        }
    }
}

/// Makes a change of source.
pub(crate) fn change(step: &Step, root: &Path, commits: &[String]) {
    match step {
        Step::Lease(_, commit, _) | Step::Switch(_, commit) => {
            git(root).args(["checkout", "--quiet", "--detach", &commits[*commit]]).ok();
        }
        Step::Edit { path, content, old, .. } => {
            write(root, path, content);
            if *old {
                let file = std::fs::File::options().write(true).open(root.join(path));
                let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(946_684_800);
                file.and_then(|file| file.set_modified(long_ago)).expect("one's own file");
            }
        }
        Step::Commit(_) => drop(commit_all(root, "work")),
        Step::Act(..) | Step::Release(_) => unreachable!("these change no source"),
    }
}

/// What a script expects of its own: that acts which ask for something built come after a build.
pub(crate) fn check(hazard: &Hazard) {
    let mut built: Vec<Who> = Vec::new();
    for step in &hazard.script {
        match step {
            Step::Act(who, Act::Cargo { args, .. }) => {
                // Only these are asked where they put it.
                if args.starts_with("build") || args.starts_with("doc") {
                    built.extend(who);
                }
            }
            Step::Act(who, _) => {
                let all = who.iter().all(|who| built.contains(who));
                assert!(all, "{}: nothing was built there", hazard.name());
            }
            Step::Lease(who, ..)
            | Step::Edit { who, .. }
            | Step::Commit(who)
            | Step::Switch(who, _) => built.retain(|other| other != who),
            Step::Release(_) => {}
        }
    }
}
