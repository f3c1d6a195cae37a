//! Remotes by which git deletes or publishes what the pool keeps in the repository: what to say of them.

use git_backend::{ExposedBy, Exposure};

use crate::context::Context;
use crate::output::printable;

/// What was said already, in the pool's directory.
const TOLD_FILE: &str = "told-remotes";

/// What git does.
pub(crate) fn what(exposure: &Exposure) -> String {
    let remote = printable(&exposure.remote);
    let rescues = exposure.rescues.then(|| "all rescues".to_owned());
    let branches =
        exposure.branches.as_ref().map(|branches| format!("the branches {}", printable(branches)));
    let all = rescues.into_iter().chain(branches).collect::<Vec<_>>().join(" and ");
    match exposure.by {
        ExposedBy::EachFetch => {
            format!("each `git fetch {remote}` deletes {all} that {remote} does not have")
        }
        ExposedBy::Push => format!(
            "`git push {remote}` publishes {all}, with the uncommitted and ignored files in them"
        ),
        _ => format!("`git fetch --prune {remote}` deletes {all} that {remote} does not have"),
    }
}

/// What to do about it.
pub(crate) fn advice(exposure: &Exposure) -> String {
    let Exposure { remote, commands, .. } = exposure;
    let is_push = exposure.by == ExposedBy::Push;
    if commands.is_empty() {
        let key = if is_push { "push" } else { "fetch" };
        let key = format!("remote.{}.{key}", printable(remote));
        return format!("change {key}, which no exclusion can correct; run: git config --edit");
    }
    let commands = printable(&commands.join(" && "));
    match is_push {
        true => format!(
            "to exclude them, run: {commands}; `git push --mirror URL` takes no exclusions: there, run in \
             the repository that receives: git config --add receive.hideRefs refs/wtpool"
        ),
        false => format!("to exclude them, run: {commands}"),
    }
}

/// Says what git does with rescues, if it was not said before in this pool. The first rescue is when it matters.
pub(crate) fn tell_once(context: &Context) {
    if context.out.quiet || context.out.json {
        return;
    }
    let exposures = match context.git.exposures() {
        Ok(exposures) => exposures,
        Err(error) => return tracing::warn!(target: "wtpool", %error, "cannot look at the remotes"),
    };
    let told_file = context.pool_dir.join(TOLD_FILE);
    let told = std::fs::read_to_string(&told_file).unwrap_or_default();
    let mut all = told.clone();
    for exposure in &exposures {
        let what = what(exposure);
        if !told.lines().any(|line| line == what) {
            context.out.remark(format!("wtpool: {what}; {}", advice(exposure)));
            all.push_str(&what);
            all.push('\n');
        }
    }
    // If it cannot be written, it is said again.
    if all != told && std::fs::write(&told_file, all).is_err() {
        tracing::debug!(target: "wtpool", "cannot write {}", told_file.display());
    }
}
