//! What there is to say of bases, to somebody who wants to know why builds are as they are.

use std::path::Path;

use pool_core::CacheFinding;

use crate::base::{self, Base, Manifest, State};
use crate::confine;
use crate::rustc::may_unshare;
use crate::setup::{Lean, Setup};

/// `workspace` is one of the repository; `lean` is there while all slots build lean.
pub(super) fn examine(setup: &Setup, workspace: &Path, lean: &Path) -> Vec<CacheFinding> {
    let cache = setup.cache();
    let bases = base::all(&cache);
    let mut found = confine::examine(&setup.surroundings, workspace);
    let complete: Vec<(Base, Manifest)> =
        bases.iter().filter_map(|base| Some((base.clone(), base.load()?))).collect();
    for (base, manifest) in &complete {
        found.push(of_base(base, manifest, workspace));
    }
    let being_built = base::is_being_built(&cache);
    if being_built {
        found.push(CacheFinding::fine("a base is being built"));
    }
    let mut given_up = Vec::new();
    for base in &bases {
        match base.state() {
            State::Condemned(verdict) => {
                given_up.push(format!("base {} was given up: {}", base.number(), verdict.why));
            }
            State::Unfinished => found.push(left_at(&base.dir)),
            State::Building if !being_built => found.push(CacheFinding::fine(format!(
                "the builder of base {} was killed, and what it started still runs",
                base.number()
            ))),
            State::Building | State::Whole => {}
        }
    }
    found.extend(base::leftovers(&cache).iter().map(|path| left_at(path)));
    let is_wanted = complete.is_empty() && !being_built;
    for why in given_up {
        found.push(match is_wanted {
            true => CacheFinding::trouble(why, WARM),
            false => CacheFinding::fine(why),
        });
    }
    if is_wanted {
        found.push(CacheFinding::trouble(
            "there is no base: the first build in a new worktree compiles everything",
            WARM,
        ));
    }
    if lean.exists() {
        found.push(CacheFinding::fine(
            "so many worktrees are in use that all build lean, without debug information",
        ));
    }
    if setup.lean != Lean::Always {
        found.extend(namespaces(setup));
    }
    found
}

const WARM: &str = "`wtpool warm 0` builds one; so does, in the background, a lease that lasts";

/// What is left of a base, and is in no other's way.
fn left_at(path: &Path) -> CacheFinding {
    CacheFinding::trouble(
        format!("{} is left of a base that was removed, or not finished", path.display()),
        format!(
            "`wtpool prune` deletes it. If it stays, something in it can't be deleted: a mount, an immutable \
             file, a directory of another user. When that is put right, run: rm -rf '{}'",
            path.display()
        ),
    )
}

fn of_base(base: &Base, manifest: &Manifest, workspace: &Path) -> CacheFinding {
    let number = base.number();
    let commit: String = manifest.commit.as_str().chars().take(12).collect();
    let rustc = manifest.toolchain.rustc.lines().next().unwrap_or_default();
    let what = format!("base {number} (commit {commit}, {rustc})");
    if let Some(why) = base.obsolete(manifest, workspace) {
        let advice = "`wtpool warm 0` builds another one; until then, new worktrees do without what is of no use";
        return CacheFinding::trouble(format!("{what} is of no use: {why}"), advice);
    }
    if let Some(trouble) = &manifest.trouble {
        let advice = "look there for the reason; when that is put right, the base of the next commit is whole";
        return CacheFinding::trouble(format!("{what} is incomplete: {trouble}"), advice);
    }
    CacheFinding::fine(format!("new worktrees start from {what}"))
}

/// Whether the wrapper of rustc can let each worktree stand at one path.
fn namespaces(setup: &Setup) -> Option<CacheFinding> {
    let wrapper = setup.wrapper.as_deref()?;
    let place = setup.cache();
    if !cfg!(target_os = "linux") || !place.is_dir() {
        return None;
    }
    // Nothing need be made for that: a directory can be mounted onto itself.
    if may_unshare(wrapper, &place, &place) {
        return Some(CacheFinding::fine("mount namespaces are permitted"));
    }
    Some(CacheFinding::trouble(
        "mount namespaces are not permitted here: the first change of each crate in a new worktree is \
         compiled without incremental state",
        "nothing else is slower. To permit them: in a container, see its seccomp profile; otherwise \
         `sysctl user.max_user_namespaces kernel.apparmor_restrict_unprivileged_userns`",
    ))
}
