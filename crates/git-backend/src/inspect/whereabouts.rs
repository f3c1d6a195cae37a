//! Where the commits of a lease are now: an agent may have made or renamed branches of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::bstr::ByteSlice;
use pool_core::{BranchCommits, BranchReport, LeaseId, Plan, Result, SlotId};

use super::{Survey, branch_tip, commits, object_id};
use crate::branch::{PREPARED, prepared_for};
use crate::references;
use crate::site::Site;

/// What git writes into the log of `HEAD` when it makes a commit.
const MAKES_COMMITS: [&[u8]; 7] =
    [b"commit", b"cherry-pick", b"revert", b"rebase", b"merge", b"am", b"pull"];

/// What such an entry has if it only moved to a commit that was there.
const MOVES: [&[u8]; 3] = [b"(start)", b": checkout ", b": Fast-forward"];

/// Completes the report on the lease's branch: its name now, and the other branches that have commits
/// made in the lease. For a lease without a branch of its own, it is about the branch that has most of
/// them. `nested`: the administrative directories of the linked worktrees nested in the slot.
pub(super) fn complete(
    site: &Site,
    survey: &Survey,
    nested: &[&Path],
    plan: &Plan,
    report: Option<BranchReport>,
) -> Result<Option<BranchReport>> {
    let Some(admin) = &survey.admin else { return Ok(report) };
    let log = fs::read(admin.join("logs/HEAD")).unwrap_or_default();
    let own = plan.base.branch.as_ref().map(|branch| branch.name.as_str());
    let mut made = made_in(&log);
    for admin in nested {
        made.extend(made_in(&fs::read(admin.join("logs/HEAD")).unwrap_or_default()));
    }
    let mut elsewhere = branches_with(survey, plan, &made, own)?;
    let Some(mut report) = report else {
        // The most first.
        elsewhere.sort_by_key(|branch| std::cmp::Reverse(branch.commits));
        let mut rest = elsewhere.into_iter();
        return Ok(rest.next().map(|BranchCommits { name, commits }| BranchReport {
            name,
            kept: true,
            commits,
            renamed_to: None,
            elsewhere: rest.collect(),
        }));
    };
    if branch_tip(&survey.repo, &report.name)?.is_none() {
        report.renamed_to = renamed(site, &survey.repo, &log, &report.name)?;
    }
    report.elsewhere = elsewhere;
    Ok(Some(report))
}

/// Finds the worktree that was handed out for a lease where it is now, other than at its slot's
/// path. `None` if it is there or nowhere, or if its log does not tell.
///
/// # Errors
///
/// If the registrations cannot be read.
pub(crate) fn moved_to(site: &Site, lease: &LeaseId) -> Result<Option<PathBuf>> {
    let message = prepared_for(lease);
    let is_of_lease = |admin: &Path| {
        let log = fs::read(admin.join("logs/HEAD")).unwrap_or_default();
        let mut messages = log.lines().filter_map(|line| Some(line.split_once_str("\t")?.1));
        messages.rfind(|text| text.starts_with(PREPARED.as_bytes())) == Some(message.as_bytes())
    };
    let slots = site.slots_dir();
    let is_at_a_slot = |root: &Path| {
        let parent = root.parent().filter(|_| root.ends_with(site.name()));
        parent.and_then(Path::parent) == Some(&slots)
    };
    Ok(site.registrations()?.into_iter().find_map(|(admin, dot_git)| {
        let root = dot_git.parent()?;
        let is_it = !is_at_a_slot(root) && is_of_lease(&admin) && site.is_linked(&admin, root);
        is_it.then(|| root.to_owned())
    }))
}

/// Returns the name that a slot's branch has now, if it was renamed and git's logs say so.
///
/// # Errors
///
/// If references or registrations cannot be read.
pub(crate) fn branch_renamed(site: &Site, slot: SlotId, name: &str) -> Result<Option<String>> {
    let repo = site.repo();
    if branch_tip(&repo, name)?.is_some() {
        return Ok(None);
    }
    let admin = site.registration_of(slot)?;
    let log = admin.and_then(|admin| fs::read(admin.join("logs/HEAD")).ok()).unwrap_or_default();
    renamed(site, &repo, &log, name)
}

/// The commits made since the slot was handed out, as the log of its `HEAD` has them.
fn made_in(log: &[u8]) -> BTreeSet<ObjectId> {
    let mut made = BTreeSet::new();
    for line in log.lines() {
        let Some((ids, message)) = line.split_once_str("\t") else { continue };
        if message.starts_with(PREPARED.as_bytes()) {
            made.clear();
        }
        let makes = MAKES_COMMITS.iter().any(|verb| message.starts_with(verb));
        if makes && !MOVES.iter().any(|moves| message.contains_str(moves)) {
            let new = ids.split(|b| *b == b' ').nth(1);
            made.extend(new.and_then(|id| ObjectId::from_hex(id).ok()));
        }
    }
    made
}

/// The local branches, other than `own`, that have some of these commits.
fn branches_with(
    survey: &Survey,
    plan: &Plan,
    made: &BTreeSet<ObjectId>,
    own: Option<&str>,
) -> Result<Vec<BranchCommits>> {
    let repo = &survey.repo;
    let base = object_id(plan.base.commit.as_str())?;
    let time = |id: ObjectId| Some(repo.find_commit(id).ok()?.time().ok()?.seconds);
    // A branch that has one of them is at a commit that is at least as new.
    let Some(oldest) = made.iter().filter_map(|id| time(*id)).min() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for reference in references::all(repo, "refs/heads/")?.into_iter().flatten() {
        let name = reference.name().shorten().to_string();
        let Some(tip) = reference.target().try_id().map(ToOwned::to_owned) else { continue };
        if Some(name.as_str()) == own || tip == base || time(tip).is_none_or(|t| t < oldest) {
            continue;
        }
        let commits = commits::among(repo, made, tip, base).len() as u64;
        if commits > 0 {
            found.push(BranchCommits { name, commits });
        }
    }
    Ok(found)
}

/// The name that a branch has now, if git's logs say that it was renamed.
fn renamed(site: &Site, repo: &gix::Repository, log: &[u8], name: &str) -> Result<Option<String>> {
    let mut now = name.to_owned();
    // In the log of the `HEAD` that was on it, or in its own, which was renamed with it.
    let logs = site.common_dir.join("logs/refs/heads");
    for _ in 0..8 {
        let next = match next_name(log, &now) {
            Some(next) => Some(next),
            None => {
                let all = references::all(repo, "refs/heads/")?;
                let names = all.into_iter().flatten().map(|r| r.name().shorten().to_string());
                let mut names = names.collect::<Vec<_>>().into_iter();
                names.find(|other| is_renamed(&logs.join(other), &now, other))
            }
        };
        let Some(next) = next else { return Ok(None) };
        now = next;
        if branch_tip(repo, &now)?.is_some() {
            return Ok(Some(now));
        }
    }
    Ok(None)
}

fn next_name(log: &[u8], name: &str) -> Option<String> {
    let renamed = format!("Branch: renamed refs/heads/{name} to refs/heads/");
    let line = log.lines().rev().find(|line| line.contains_str(&renamed))?;
    let start = line.find(&renamed)? + renamed.len();
    Some(String::from_utf8_lossy(&line[start..]).into_owned())
}

fn is_renamed(log: &Path, from: &str, to: &str) -> bool {
    fs::read(log).is_ok_and(|log| next_name(&log, from).as_deref() == Some(to))
}
