//! As a person at a terminal sees it.

use std::process::{Command, Stdio};

use crate::bench::{Bench, finish, quoted, skip};

/// What a command line prints on a terminal of its own, lent by `script` of util-linux.
fn on_a_terminal(bench: &Bench, line: &str) -> Option<String> {
    let known = Command::new("script").arg("--version").stdout(Stdio::null()).status();
    if !known.is_ok_and(|status| status.success()) {
        skip("there is no `script` to lend a terminal");
        return None;
    }
    let mut command =
        bench.command("script", &["--quiet", "--return", "--command", line, "/dev/null"]);
    command.env("TERM", "xterm");
    let ran = finish(&mut command);
    assert_eq!(ran.code, Some(0), "{line}: {ran:?}");
    Some(ran.out)
}

#[test]
fn verbs_work_on_a_terminal() {
    let bench = Bench::new();
    let exe = quoted();
    let line = format!(
        "{exe} warm 1 && {exe} run -- test -t 0 && {exe} acquire --name amber && {exe} list && \
         {exe} doctor && {exe} release amber && {exe} prune --all && {exe} -vv list"
    );
    let Some(seen) = on_a_terminal(&bench, &line) else { return };
    assert!(seen.contains("amber") && !seen.contains("panicked"), "{seen}");
}

#[test]
fn a_shell_inside_a_lease_has_the_terminal() {
    let bench = Bench::new();
    let exe = quoted();
    // An interactive shell has job control only where it may take the terminal's foreground.
    let line =
        format!("{exe} run -- bash --norc --noprofile -ic 'set -o | grep monitor; echo inside'");
    let Some(seen) = on_a_terminal(&bench, &line) else { return };
    assert!(seen.contains("inside") && !seen.contains("no job control"), "{seen}");
}
