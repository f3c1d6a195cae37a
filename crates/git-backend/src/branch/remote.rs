//! Branches that remotes have: what a name means there, and what a new branch is to track.
//!
//! The rules are those of `git worktree add PATH NAME`: the fetch refspecs of the configured
//! remotes say which remote-tracking branch belongs to a name, and `checkout.defaultRemote` chooses
//! among several.

use gix::refs::FullName;
use pool_core::{Error, ErrorKind, Result};

use crate::git::Git;
use crate::references::{self, settled};
use crate::site::{Site, gix_error};

/// A remote-tracking branch that belongs to a branch name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tracking {
    /// The remote.
    pub(super) remote: String,
    /// The full name of the remote-tracking branch.
    pub(super) reference: String,
    /// The commit that it is at.
    pub(super) tip: gix::ObjectId,
}

/// Returns the remote-tracking branch that a new branch `name` starts at and tracks; `None` if no
/// remote has such a branch.
///
/// # Errors
///
/// [`InvalidInput`](ErrorKind::InvalidInput) if several remotes have it and
/// `checkout.defaultRemote` names none of them, or if only a remote that is no longer configured
/// had it.
pub(super) fn upstream(repo: &gix::Repository, name: &str) -> Result<Option<Tracking>> {
    let mut found = tracking(repo, name)?;
    if found.len() > 1 {
        if let Some(one) = preferred(repo, &found) {
            return Ok(Some(one));
        }
        let remotes: Vec<_> = found.iter().map(|one| one.remote.as_str()).collect();
        let first = shortened(repo, &found[0].reference);
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("cannot create branch {name}: several remotes have it: {}", remotes.join(", ")),
        )
        .with_hint(format!(
            "run `git branch --track {name} {first}`, or `git config checkout.defaultRemote {}`",
            found[0].remote
        )));
    }
    if let Some(one) = found.pop() {
        return Ok(Some(one));
    }
    match left_behind(repo, name)?.first() {
        Some(reference) => {
            let short = shortened(repo, reference);
            Err(Error::new(
                ErrorKind::InvalidInput,
                format!("cannot create branch {name}: {reference} exists, of no configured remote"),
            )
            .with_hint(format!("say where it starts: `--base {short}`, or `--base HEAD`")))
        }
        None => Ok(None),
    }
}

/// The remote-tracking branch that a branch made at `tip` tracks, if that is certain.
pub(super) fn upstream_at(
    repo: &gix::Repository,
    name: &str,
    tip: gix::ObjectId,
) -> Result<Option<Tracking>> {
    let mut found = tracking(repo, name)?;
    let one = if found.len() > 1 { preferred(repo, &found) } else { found.pop() };
    Ok(one.filter(|one| one.tip == tip))
}

/// Has a new branch track a remote one, as `git branch --track` does.
///
/// # Errors
///
/// Those of [`Git::run`].
pub(super) fn track(site: &Site, name: &str, upstream: &Tracking) -> Result<()> {
    Git::in_repository(&site.common_dir, &site.settings)
        .args(["branch", "--quiet"])
        .arg(format!("--set-upstream-to={}", upstream.reference))
        .args(["--", name])
        .run()
        .map(drop)
}

/// Removes the configuration of a branch that was deleted, as `git branch -d` does.
pub(super) fn forget(site: &Site, name: &str) {
    let removed = Git::in_repository(&site.common_dir, &site.settings)
        .args(["config", "--local", "--remove-section", &format!("branch.{name}")])
        .run();
    if let Err(error) = removed {
        tracing::debug!(%error, "a deleted branch had no configuration");
    }
}

/// Refuses a name for a new branch that means a reference of another kind: `refs/…`, a branch of a
/// remote by its remote's name, or an existing branch or tag by its partly qualified name.
pub(super) fn refuse_qualified(repo: &gix::Repository, name: &str) -> Result<()> {
    let refused = |what: String, hint: String| {
        let message = format!("cannot create branch {name}: {what}");
        Err(Error::new(ErrorKind::InvalidInput, message).with_hint(hint))
    };
    for prefix in ["refs/heads/", "heads/"] {
        if let Some(short) = name.strip_prefix(prefix)
            && (prefix.starts_with("refs/") || is_there(repo, &format!("refs/heads/{short}"))?)
        {
            let what = format!("that is the full name of branch {short}");
            return refused(what, format!("use `--branch {short}`"));
        }
    }
    for prefix in ["refs/tags/", "tags/"] {
        if let Some(tag) = name.strip_prefix(prefix)
            && (prefix.starts_with("refs/") || is_there(repo, &format!("refs/tags/{tag}"))?)
        {
            let what = format!("that is the full name of tag {tag}");
            return refused(what, format!("use `--detach --base {name}`"));
        }
    }
    let short = name.strip_prefix("refs/").unwrap_or(name);
    let short = short.strip_prefix("remotes/").unwrap_or(short);
    for remote in remotes(repo) {
        let Some(branch) = short.strip_prefix(&format!("{remote}/")) else { continue };
        let known = tracking(repo, branch)?.into_iter().any(|one| one.remote == remote);
        return refused(
            format!("that names branch {branch} of remote {remote}"),
            match (is_there(repo, &format!("refs/heads/{branch}"))?, known) {
                (true, _) => format!("use `--branch {branch}`, a branch that exists here"),
                (false, true) => {
                    format!("use `--branch {branch}`: it starts at {remote}/{branch} and tracks it")
                }
                (false, false) => {
                    format!("run `git fetch {remote}`, then use `--branch {branch}`")
                }
            },
        );
    }
    if is_there(repo, &format!("refs/remotes/{short}"))? {
        let what = format!("that names the remote-tracking branch refs/remotes/{short}");
        let branch = short.split_once('/').map_or(short, |(_, branch)| branch);
        return refused(what, format!("use `--branch {branch} --base {short}`"));
    }
    if name.starts_with("refs/") {
        return refused("that is the full name of a reference".into(), "use a short name".into());
    }
    Ok(())
}

/// Returns what to type for a revision that means nothing here: a remote may have such a branch.
pub(super) fn advice(repo: &gix::Repository, spec: &str) -> String {
    let end = spec.find(['^', '~', ':', '@']).unwrap_or(spec.len());
    let (name, rest) = spec.split_at(end);
    let name = name.strip_prefix("refs/").unwrap_or(name);
    let name = name.strip_prefix("heads/").unwrap_or(name);
    let known = tracking(repo, name).unwrap_or_default().into_iter().map(|one| one.reference);
    let mut known: Vec<_> = known.chain(left_behind(repo, name).unwrap_or_default()).collect();
    known.dedup();
    if !known.is_empty() {
        let choices: Vec<_> = known
            .iter()
            .map(|reference| format!("`--base {}{rest}`", shortened(repo, reference)))
            .collect();
        return format!("use {}", choices.join(" or "));
    }
    let remotes = remotes(repo);
    let bare = name.strip_prefix("remotes/").unwrap_or(name);
    let named = remotes.iter().find(|remote| bare.starts_with(&format!("{remote}/")));
    match named.or(remotes.first()) {
        Some(remote) => format!("check the spelling, or run `git fetch {remote}` first"),
        None => "check the spelling: `git branch --all` and `git tag` list what there is".into(),
    }
}

/// The remotes' branches of that name, by the fetch refspecs of all configured remotes.
fn tracking(repo: &gix::Repository, name: &str) -> Result<Vec<Tracking>> {
    let source = format!("refs/heads/{name}");
    let config = repo.config_snapshot();
    let mut found: Vec<Tracking> = Vec::new();
    for remote in remotes(repo) {
        let specs = config.plumbing().strings(format!("remote.{remote}.fetch").as_str());
        let specs: Vec<String> =
            specs.unwrap_or_default().iter().map(|spec| spec.to_string()).collect();
        let is_left_out = |spec: &String| {
            spec.strip_prefix('^').is_some_and(|pattern| mapped(pattern, "", &source).is_some())
        };
        if specs.iter().any(is_left_out) {
            continue;
        }
        for spec in &specs {
            let spec = spec.strip_prefix('+').unwrap_or(spec);
            let Some((from, to)) = spec.split_once(':') else { continue };
            let Some(reference) = mapped(from, to, &source) else { continue };
            if let Some(tip) = commit_at(repo, &reference)?
                && found.iter().all(|one| one.remote != remote)
            {
                found.push(Tracking { remote: remote.clone(), reference, tip });
            }
        }
    }
    Ok(found)
}

/// What a refspec makes of a reference: none if its source is another one.
fn mapped(from: &str, to: &str, name: &str) -> Option<String> {
    let Some((before, after)) = from.split_once('*') else {
        return (from == name).then(|| to.to_owned());
    };
    let middle = name.strip_prefix(before)?.strip_suffix(after)?;
    Some(to.replacen('*', middle, 1))
}

/// Remote-tracking branches of that name, of whichever remote, configured or not.
fn left_behind(repo: &gix::Repository, name: &str) -> Result<Vec<String>> {
    let ends = format!("/{name}");
    let all = references::all(repo, "refs/remotes/")?;
    let names = all.iter().flatten().map(|found| found.name().as_bstr().to_string());
    // Of `refs/remotes/fork/feature`, not of `refs/remotes/origin/my/feature`.
    Ok(names
        .filter(|full| {
            let remote = full.strip_prefix("refs/remotes/").and_then(|f| f.strip_suffix(&ends));
            remote.is_some_and(|remote| !remote.is_empty() && !remote.contains('/'))
        })
        .collect())
}

fn preferred(repo: &gix::Repository, found: &[Tracking]) -> Option<Tracking> {
    let default = repo.config_snapshot().string("checkout.defaultRemote")?.to_string();
    found.iter().find(|one| one.remote == default).cloned()
}

/// The configured remotes; those whose names begin with another's come first.
fn remotes(repo: &gix::Repository) -> Vec<String> {
    let mut names: Vec<_> = repo.remote_names().iter().map(|name| name.to_string()).collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names
}

/// The shortest name that means that reference.
fn shortened(repo: &gix::Repository, reference: &str) -> String {
    let Some(short) = reference.strip_prefix("refs/remotes/") else { return reference.to_owned() };
    let means_another = ["refs/", "refs/tags/", "refs/heads/"]
        .iter()
        .any(|prefix| is_there(repo, &format!("{prefix}{short}")).unwrap_or(true));
    if means_another { reference.to_owned() } else { short.to_owned() }
}

fn is_there(repo: &gix::Repository, full: &str) -> Result<bool> {
    let Ok(full) = FullName::try_from(full) else { return Ok(false) };
    super::exists(repo, &full)
}

fn commit_at(repo: &gix::Repository, full: &str) -> Result<Option<gix::ObjectId>> {
    let Ok(name) = FullName::try_from(full) else { return Ok(None) };
    let found = settled(repo, || repo.try_find_reference(&name))
        .map_err(|e| gix_error(format!("look for {full}"), e))?;
    Ok(found.and_then(|mut found| found.peel_to_commit().ok()).map(|commit| commit.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refspec_maps_what_its_source_matches() {
        let all = ("refs/heads/*", "refs/remotes/origin/*");
        let one = ("refs/heads/main", "refs/remotes/origin/main");
        for ((from, to), name, expected) in [
            (all, "refs/heads/a/b", Some("refs/remotes/origin/a/b")),
            (all, "refs/tags/a", None),
            (one, "refs/heads/main", Some("refs/remotes/origin/main")),
            (one, "refs/heads/main2", None),
            (("refs/heads/x-*", "refs/x/*"), "refs/heads/x-y", Some("refs/x/y")),
        ] {
            assert_eq!(mapped(from, to, name).as_deref(), expected, "{name}");
        }
    }
}
