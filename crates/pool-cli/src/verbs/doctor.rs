//! `wtpool doctor`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use git_backend::{ExposedBy, Other};
use pool_core::{
    Condition, Discovered, ErrorKind, LostRescue, Owner, PoolState, Slot, SlotId, SlotState, Vital,
};
use serde::Serialize;

use super::list::kept_because;
use crate::cli::Global;
use crate::context::{Access, Context, Place};
use crate::error::Result;
use crate::output::{Output, counted, size};
use crate::reaper::Reaper;
use crate::space::free_space;
use crate::{exposure, reaper, settings};

/// Older ones do not know `worktree add --orphan`, nor all that worktree configuration needs.
const OLDEST_GIT: (u32, u32) = (2, 36);
/// Less than this is worth a remark.
const LITTLE_SPACE: u64 = 1 << 30;

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    check: &'static str,
    status: Status,
    message: String,
    advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    Ok,
    /// Worth knowing.
    Note,
    /// Something is to be done.
    Wrong,
}

#[derive(Serialize)]
struct Document {
    ok: bool,
    findings: Vec<Finding>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.0.push(Finding { check, status: Status::Ok, message: message.into(), advice: None });
    }

    fn note(&mut self, check: &'static str, message: impl Into<String>, advice: impl Into<String>) {
        let advice = Some(advice.into());
        self.0.push(Finding { check, status: Status::Note, message: message.into(), advice });
    }

    fn wrong(
        &mut self,
        check: &'static str,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) {
        let advice = Some(advice.into());
        self.0.push(Finding { check, status: Status::Wrong, message: message.into(), advice });
    }

    fn error(&mut self, check: &'static str, error: &pool_core::Error) {
        let advice = error.hint().unwrap_or("put this right, and look again");
        self.wrong(check, error.to_string(), advice);
    }
}

pub(crate) async fn perform(global: &Global) -> Result<u8> {
    let mut found = Findings::default();
    git(&mut found);
    processes(&mut found);
    variables(&mut found);
    match Place::find(global, None, Access::Look) {
        Err(error) => found.error("repository", &error),
        Ok(place) => {
            let repository = place.repository.common_dir().display();
            found.ok("repository", format!("{repository}, settings are well-formed"));
            denied_checkout(&place, &mut found);
            source(place.loaded.source.as_deref(), &mut found);
            directory(&place.pool_dir, &mut found);
            for other in place.repository.other_pools(&place.pool_dir) {
                let slots = counted(other.slots as u64, "slot");
                let what = format!("{} ({slots}) {}", other.pool_dir.display(), other.what);
                found.note("pools", what, other.advice);
            }
            match place.open(global, Access::Look) {
                Err(error) => found.error("records", &error),
                Ok(context) => pool(&context, &mut found).await,
            }
        }
    }
    let ok = found.0.iter().all(|f| f.status != Status::Wrong);
    let out = Output::new(global.json, global.quiet);
    let status = u8::from(!ok);
    if out.json {
        out.document(&Document { ok, findings: found.0 })?;
        return Ok(status);
    }
    for finding in &found.0 {
        let mark = match finding.status {
            Status::Ok => "ok   ",
            Status::Note => "note ",
            Status::Wrong => "WRONG",
        };
        out.line(format!("{mark}  {:11}  {}", finding.check, finding.message))?;
        if let Some(advice) = &finding.advice {
            out.line(format!("{:20}-> {advice}", ""))?;
        }
    }
    Ok(status)
}

fn git(found: &mut Findings) {
    let advice = "install git 2.36 or newer, and see that it is on the PATH";
    let output = match Command::new("git").arg("--version").output() {
        Ok(output) => output,
        Err(e) => return found.wrong("git", format!("cannot run git: {e}"), advice),
    };
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let mut numbers =
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST_GIT => found.ok("git", text),
        _ => found.wrong("git", format!("{text:?} is too old, or not git"), advice),
    }
}

fn processes(found: &mut Findings) {
    match std::fs::read_dir("/proc/self/fd") {
        Ok(_) => found.ok("processes", "/proc can be read"),
        Err(e) => found.wrong(
            "processes",
            format!("cannot read /proc: {e}"),
            "mount it: without it nobody knows who stands in a worktree, and none is cleaned up",
        ),
    }
}

fn variables(found: &mut Findings) {
    for (name, meant) in settings::unknown_variables() {
        let advice = match meant {
            Some(meant) => format!("if {meant} was meant, set that"),
            None => "`wtpool config` lists the settings there are".to_owned(),
        };
        found.note("settings", format!("{name} is set, and there is no such setting"), advice);
    }
}

/// A checkout in which git refuses to work, since `core.bare` is true.
fn denied_checkout(place: &Place, found: &mut Findings) {
    // The source has tracked files; else a clone was made bare on purpose.
    let checkout =
        place.repository.checkout().filter(|dir| place.loaded.source.as_deref() == Some(dir));
    if let Some(checkout) = checkout {
        found.note(
            "repository",
            format!("core.bare is true, so that git refuses to work in {}", checkout.display()),
            format!("run: git -C {} config core.bare false", checkout.display()),
        );
    }
}

/// The worktree that the repository's settings and the set-up files come from.
fn source(worktree: Option<&Path>, found: &mut Findings) {
    let Some(worktree) = worktree else {
        return found.note(
            "settings",
            settings::no_source(),
            "run wtpool in the worktree that has them; its leases make the pool remember it",
        );
    };
    let file = worktree.join(settings::REPOSITORY_FILE);
    let there = if file.exists() { "has a" } else { "has no" };
    let message = format!(
        "{} {there} {}; set-up files come from it",
        worktree.display(),
        settings::REPOSITORY_FILE
    );
    found.ok("settings", message);
}

fn directory(pool_dir: &Path, found: &mut Findings) {
    if !pool_dir.is_dir() {
        return found.ok("directory", format!("{} is not there yet", pool_dir.display()));
    }
    let probe = pool_dir.join(format!(".doctor-{}", std::process::id()));
    let written = std::fs::write(&probe, b"probe").and_then(|()| std::fs::remove_file(&probe));
    if let Err(e) = written {
        return found.wrong(
            "directory",
            format!("cannot write to {}: {e}", pool_dir.display()),
            "see who owns it, whether its filesystem is mounted read-only, and whether it is full",
        );
    }
    let mode = std::fs::metadata(pool_dir).map(|meta| meta.permissions().mode() & 0o7777);
    if mode.is_ok_and(|mode| mode & 0o002 != 0) {
        found.wrong(
            "directory",
            format!("everybody may write to {}", pool_dir.display()),
            format!("chmod o-w {}", pool_dir.display()),
        );
    }
    match free_space(pool_dir) {
        Ok(free) if free < LITTLE_SPACE => found.note(
            "directory",
            format!("only {} are free at {}", size(free), pool_dir.display()),
            "`wtpool prune --all` removes what is idle; `wtpool list` shows what is large",
        ),
        Ok(free) => found.ok("directory", format!("{}, {} free", pool_dir.display(), size(free))),
        Err(error) => found.error("directory", &error),
    }
}

/// The databases that were moved aside since they were damaged.
fn set_aside(pool_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(pool_dir).into_iter().flatten().flatten();
    let is_damaged = |entry: &std::fs::DirEntry| {
        entry.file_name().to_string_lossy().starts_with("pool.db.corrupt-")
    };
    let mut found: Vec<PathBuf> = entries.filter(is_damaged).map(|entry| entry.path()).collect();
    found.sort();
    found
}

async fn pool(context: &Context, found: &mut Findings) {
    if !context.exists {
        return found.ok("records", "there is no pool yet: the first lease makes it");
    }
    let state = match context.pool.list().await {
        Ok(state) => state,
        Err(error) => return found.error("records", &error),
    };
    for damaged in set_aside(&context.pool_dir) {
        found.note(
            "records",
            format!("{} is a damaged database that was replaced", damaged.display()),
            format!("to remove it, run: rm {}", damaged.display()),
        );
    }
    let (slots, waiters) = (state.slots.len() as u64, state.waiters.len() as u64);
    found.ok("records", format!("{}, {}", counted(slots, "slot"), counted(waiters, "waiter")));
    kept(context, &state, found);
    on_disk(context, found).await;
    for other in context.others() {
        let Other { slot, path, what, is_inside, command } = other;
        let path = path.display();
        let advice = match state.slots.contains_key(&slot) {
            true if what.starts_with("a linked worktree") => {
                format!("it is saved and removed with the lease; to keep it, run: {command}")
            }
            _ => format!("to have it out of the way, run: {command}"),
        };
        let side = if is_inside { "in" } else { "beside" };
        found.note("others", format!("{path} is {what}, {side} slot {slot}"), advice);
    }
    watched(context, &state, found);
    trash(context, found);
    cache(context, found).await;
    rescues(context, found).await;
    lost(context, found).await;
    exposures(context, found);
}

/// Rescues that another program deleted.
async fn lost(context: &Context, found: &mut Findings) {
    let lost = match context.pool.lost_rescues().await {
        Ok(lost) => lost,
        Err(error) => return found.error("rescues", &error),
    };
    for LostRescue { id, reference, commit, saved_at, .. } in lost {
        let saved = saved_at.strftime("%Y-%m-%d %H:%M:%SZ");
        let what = format!("another program deleted the rescue {id}, saved {saved}");
        let forget = format!("wtpool rescue drop {id}");
        match commit.filter(|commit| context.git.has_commit(commit).unwrap_or(false)) {
            Some(commit) => found.wrong(
                "rescues",
                format!("{what}; its commit is still there, until git collects it"),
                format!(
                    "to bring it back, run: git update-ref {reference} {commit}; else: {forget}"
                ),
            ),
            None => found.wrong(
                "rescues",
                format!("{what}, and its commit is gone"),
                format!("see whether another clone has {reference}; then run: {forget}"),
            ),
        }
    }
}

/// Remotes by which git deletes or publishes rescues.
fn exposures(context: &Context, found: &mut Findings) {
    let exposures = match context.git.exposures() {
        Ok(exposures) => exposures,
        Err(error) => return found.error("remotes", &error),
    };
    for one in &exposures {
        let (what, advice) = (exposure::what(one), exposure::advice(one));
        match one.by {
            ExposedBy::Push => found.note("remotes", what, advice),
            _ => found.wrong("remotes", what, advice),
        }
    }
    if exposures.is_empty() {
        found.ok("remotes", "no remote's refspecs cover rescues or generated branches");
    }
}

/// Slots that can't be had, and leases that ought to be over.
fn kept(context: &Context, state: &PoolState, found: &mut Findings) {
    for slot in state.slots.values() {
        let place = context.pool.place(slot.id);
        let place = place.display();
        let why = kept_because(slot).unwrap_or_default();
        match &slot.state {
            SlotState::Quarantined { .. } if is_of_an_occupant(context, slot.id, &why) => found.note(
                "quarantine",
                format!("slot {} is kept: {why}", slot.id),
                format!("leave {place}, or end that process; then wtpool cleans it up"),
            ),
            SlotState::Quarantined { .. } => found.wrong(
                "quarantine",
                format!("slot {} is kept: {why}", slot.id),
                format!(
                    "look into {place}; commit, move away or delete what can't be saved, and end what \
                     runs there; then `wtpool prune`"
                ),
            ),
            SlotState::Leased { lease } if lease.command_ended.is_some() || !why.is_empty() => {
                found.note(
                    "survivors",
                    format!("lease {} (slot {}) ought to be over: {why}", lease.name, slot.id),
                    format!("end what still runs in {place}, or `wtpool release {}`", lease.name),
                );
            }
            SlotState::Leased { lease }
                if lease.owner == Owner::Holder
                    && context.pool.liveness().holds(&lease.id.claim()) == Vital::Gone =>
            {
                    found.note(
                        "leases",
                        format!("the holder of {} is gone", lease.name),
                        "the reaper ends it in a moment; `wtpool prune` does it now",
                    );
            }
            _ => {}
        }
    }
}

/// Whether the reason why a slot is kept is a process that still has its working directory there.
fn is_of_an_occupant(context: &Context, slot: SlotId, why: &str) -> bool {
    // Or in a linked worktree beside it, which goes with the slot.
    let others = context.others().into_iter().filter(|other| other.slot == slot);
    let places = others.map(|other| other.path).chain([context.pool.place(slot)]);
    let places: Vec<PathBuf> = places.collect();
    let places: Vec<&Path> = places.iter().map(PathBuf::as_path).collect();
    let occupants = context.pool.liveness().occupants(&places).unwrap_or_default();
    occupants.iter().flatten().any(|occupant| why.starts_with(&format!("{occupant} ")))
}

async fn on_disk(context: &Context, found: &mut Findings) {
    let survey = match context.pool.survey().await {
        Ok(survey) => survey,
        Err(error) => return found.error("worktrees", &error),
    };
    let mut sound = 0;
    for one in &survey.found {
        let place = context.pool.place(one.slot);
        let place = place.display();
        let known = survey.records.slots.contains_key(&one.slot);
        let prune = "`wtpool prune` takes it in, saves what is in it, and cleans it up";
        match &one.condition {
            Condition::Foreign(what) => found.wrong(
                "worktrees",
                format!("{place} was not made by this pool: {what}"),
                "move it away; the pool will not touch it",
            ),
            Condition::Missing => {
                let slot = survey.records.slots.get(&one.slot);
                let (what, advice) = missing(context, &place.to_string(), slot);
                found.note("worktrees", what, advice);
            }
            _ if !known => {
                found.wrong("worktrees", format!("nobody has a record of {place}"), prune)
            }
            _ => sound += 1,
        }
    }
    found.ok("worktrees", format!("{} in order", counted(sound, "worktree")));
    redirected(context, &survey.found, found);
}

/// What is to say of a slot at whose path `place` nothing is.
fn missing(context: &Context, place: &str, slot: Option<&Slot>) -> (String, String) {
    let lease = slot.and_then(|slot| slot.state.lease());
    let moved = slot.and_then(|slot| context.moved_to(slot));
    match (lease, moved) {
        (Some(lease), Some(to)) => (
            format!("the worktree of {} was moved to {}", lease.name, to.display()),
            format!(
                "to put it back, run: git worktree move {} {place}; else `wtpool release {}` ends \
                 the lease, and the worktree stays where it is",
                to.display(),
                lease.name
            ),
        ),
        _ => (
            format!("nothing is at {place}, where a worktree was"),
            "`wtpool prune` clears what is left of it; its commits are kept".to_owned(),
        ),
    }
}

/// The worktrees in which git would work on another tree.
fn redirected(context: &Context, worktrees: &[Discovered], found: &mut Findings) {
    let sound = worktrees.iter().filter(|one| one.condition == Condition::Sound);
    let mut is_ok = true;
    for one in sound {
        match context.git.verify_means_slot(one.slot) {
            Ok(()) => {}
            // It was removed, or set aside, since it was found.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                is_ok = false;
                found.error("worktrees", &error);
            }
        }
    }
    if is_ok {
        found.ok("worktrees", "git in each of them works in that one");
    }
}

fn watched(context: &Context, state: &PoolState, found: &mut Findings) {
    match reaper::state(&context.pool_dir) {
        Ok(Reaper::Watches) => found.ok("reaper", "watches"),
        Ok(Reaper::Older { pid }) => {
            let which = pid.map_or_else(|| "the reaper".to_owned(), |pid| format!("process {pid}"));
            let end = match pid {
                Some(pid) => format!("kill {pid}"),
                None => format!("fuser -k -TERM {}/reaper.lock", context.pool_dir.display()),
            };
            found.note(
                "reaper",
                format!("{which} watches, and is of an older version than this program"),
                format!("the next `wtpool run`, `acquire` or `prune` asks it to end; if it stays, run: {end}"),
            );
        }
        Ok(Reaper::Silent { pid, since }) => {
            let which = pid.map_or_else(|| "the reaper".to_owned(), |pid| format!("process {pid}"));
            let hint = match pid {
                Some(pid) => format!("if it was stopped, run: kill -CONT {pid}"),
                None => "`wtpool prune` does its work meanwhile".to_owned(),
            };
            let seconds = since.as_secs();
            let what = format!("{which} has not looked for {seconds} s: no lease ends by itself");
            found.wrong("reaper", what, hint);
        }
        Ok(Reaper::None) if state.needs_watching() => found.wrong(
            "reaper",
            "no reaper watches over this pool",
            format!(
                "any `wtpool run`, `acquire` or `prune` starts one; {} says how the last one ended",
                context.pool_dir.join("reaper.log").display()
            ),
        ),
        Ok(Reaper::None) => found.ok("reaper", "none runs, and none is needed"),
        Err(error) => found.error("reaper", &error),
    }
}

/// A cache is never wrong: at worst builds are slow.
async fn cache(context: &Context, found: &mut Findings) {
    if let Some(warning) = crate::cargo_home::warning(&context.pool.place(SlotId(1))) {
        found.note("cache", warning, "`wtpool run` does that by itself");
    }
    let Some(cache) = context.pool.cache() else { return };
    found.ok("cache", format!("the strategy is {}", cache.name()));
    let workspace = context.git.source_worktree().unwrap_or(context.repository.common_dir());
    for one in cache.examine(workspace).await {
        match one.advice {
            None => found.ok("cache", one.message),
            Some(advice) => found.note("cache", one.message, advice),
        }
    }
}

fn trash(context: &Context, found: &mut Findings) {
    let entries = std::fs::read_dir(context.pool_dir.join("trash")).map_or(0, Iterator::count);
    match entries {
        0 => found.ok("trash", "empty"),
        n => found.note(
            "trash",
            format!("{} to be deleted", counted(n as u64, "removed worktree")),
            "`wtpool prune` deletes them now",
        ),
    }
}

async fn rescues(context: &Context, found: &mut Findings) {
    let Some(archive) = context.pool.isolator().rescues() else { return };
    match archive.list().await {
        Ok(rescues) if rescues.is_empty() => found.ok("rescues", "none"),
        Ok(rescues) => {
            for rescue in &rescues {
                let Some(damage) = &rescue.damage else { continue };
                let reference = &rescue.reference;
                found.wrong(
                    "rescues",
                    format!("the rescue {} is damaged: {damage}", rescue.id),
                    format!("see what is left: git show --stat {reference}; then `wtpool rescue drop {}`", rescue.id),
                );
            }
            found.note(
                "rescues",
                format!("{}, to be looked at", counted(rescues.len() as u64, "rescue")),
                "`wtpool rescue list`; then `rescue restore ID`, or `rescue drop ID`",
            );
        }
        Err(error) => found.error("rescues", &error),
    }
}
