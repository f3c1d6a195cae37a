//! Hostile repositories, settings, names, records and directories, and what the program's own operations
//! make of them: they run nothing, and touch nothing that is not the pool's.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::{Bench, finish, skip, write};
use crate::cache::cargo_bench;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Makes it another user's; `false` where that is not permitted.
fn give_away(path: &Path) -> bool {
    let given = Command::new("chown").args(["-R", "12345:12345"]).arg(path).output();
    let given = given.is_ok_and(|output| output.status.success());
    if !given {
        skip("only root can give a file to another user");
    }
    given
}

/// A script that leaves a trace when it is run, and the trace.
fn trap(bench: &Bench) -> (PathBuf, PathBuf) {
    let (script, trace) =
        (bench.fixture.root().join("trap"), bench.fixture.root().join("trap-ran"));
    write(&script, &format!("#!/bin/sh\ntouch '{}'\n", trace.display()));
    set_mode(&script, 0o755);
    (script, trace)
}

/// Commits what is in the repository, without any hook.
fn commit(bench: &Bench) {
    bench.fixture.git().args(["add", "-A"]).ok();
    let args = ["-c", "core.hooksPath=/dev/null", "commit", "-q", "--no-verify", "-m", "x"];
    bench.fixture.git().args(args).ok();
}

#[test]
fn a_pool_that_others_may_write_to_is_refused() {
    let bench = Bench::new();
    bench.acquire(&["--name", "held"]);
    let pool = bench.pool();
    assert_eq!(mode(&pool) & 0o077, 0, "made for its owner alone");
    for wrong in [0o770, 0o707, 0o777, 0o1777] {
        set_mode(&pool, wrong);
        for verb in [&["acquire"][..], &["list"], &["prune"], &["release", "held"]] {
            let ran = bench.run(verb);
            assert_eq!(ran.code, Some(1), "{wrong:o} {verb:?}: {ran:?}");
            assert!(ran.err.contains("chmod go-w"), "{ran:?}");
        }
        set_mode(&pool, 0o755);
    }
    bench.ok(&["release", "held"]);
}

#[test]
fn a_pool_below_what_others_may_change_is_refused() {
    let bench = Bench::new();
    let above = bench.pool().parent().expect("a parent").to_owned();
    fs::create_dir(&above).expect("made");
    set_mode(&above, 0o777);
    let ran = bench.run(&["acquire"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.err.contains(above.to_str().expect("UTF-8")), "{ran:?}");
    assert_eq!(fs::read_dir(&above).expect("read").count(), 0, "nothing was made");
    set_mode(&above, 0o755);
    if give_away(&above) {
        let ran = bench.run(&["acquire"]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        chown(&above, Some(0), Some(0)).expect("taken back");
    }
    bench.acquire(&[]);
}

#[test]
fn what_belongs_to_another_user_is_refused() {
    let bench = Bench::new();
    bench.ok(&["warm", "1"]);
    let pool = bench.pool();
    if !give_away(&pool) {
        return;
    }
    for verb in [&["acquire"][..], &["list"], &["prune", "--all"]] {
        let ran = bench.run(verb);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{verb:?}: {ran:?}");
        assert!(ran.err.contains("another user"), "{ran:?}");
    }
    assert!(pool.join("slots/1").is_dir());
    let back = Command::new("chown").args(["-R", "0:0"]).arg(&pool).status().expect("chown");
    assert!(back.success());

    // A repository that git itself refuses to look at: its configuration names commands.
    let other = Bench::new();
    assert!(give_away(&other.repo()));
    let (script, trace) = trap(&other);
    let git = other.repo().join(".git");
    fs::create_dir_all(git.join("info")).expect("made");
    write(git.join("info/attributes"), "* filter=trap\n");
    let text = fs::read_to_string(git.join("config")).expect("read");
    let filter = format!("{text}[filter \"trap\"]\n\tsmudge = {}\n", script.display());
    write(git.join("config"), &filter);
    assert!(give_away(&git));
    for verb in [&["acquire"][..], &["warm", "1"], &["list"]] {
        let ran = other.run(verb);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{verb:?}: {ran:?}");
        assert!(ran.err.contains("safe.directory"), "{ran:?}");
    }
    assert!(!trace.exists());
    // As with git, its user may say that it is all right.
    let config = other.home.path().join("config/git/config");
    fs::create_dir_all(config.parent().expect("it has one")).expect("made");
    write(&config, &format!("[safe]\n\tdirectory = {}\n", other.repo().display()));
    let mut command = other.wtpool(&["acquire"]);
    command.env_remove("GIT_CONFIG_GLOBAL");
    let ran = finish(&mut command);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(trace.exists(), "its filters are run then");
}

/// A directory with things in it that are called as the pool's own are.
#[test]
fn a_directory_that_is_no_pool_is_left_alone() {
    let bench = Bench::new();
    let dir = bench.fixture.root().join("somebodys");
    for path in ["trash/precious", "locks/precious", "cache/base/1/precious", "slots/1/precious"] {
        fs::create_dir_all(dir.join(path).parent().expect("it has one")).expect("made");
        write(dir.join(path), "precious");
    }
    write(dir.join("letter"), "precious");
    let arg = dir.to_str().expect("UTF-8");
    let before = listing(&dir);
    for verb in [
        &["prune", "--all"][..],
        &["acquire"],
        &["warm", "1"],
        &["list"],
        &["cache", "trim"],
        &["doctor"],
        &["reaper"],
    ] {
        let ran = bench.run(&[verb, &["--pool-dir", arg]].concat());
        assert_eq!(listing(&dir), before, "{verb:?}: {ran:?}");
        if !["doctor", "reaper"].contains(&verb[0]) {
            assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{verb:?}: {ran:?}");
        }
    }
    // An empty one is as good as none.
    let empty = bench.fixture.root().join("empty");
    fs::create_dir(&empty).expect("made");
    bench.ok(&["list", "--pool-dir", empty.to_str().expect("UTF-8")]);
    assert_eq!(listing(&empty), [""; 0]);
    bench.in_pool_dir(&empty).acquire(&[]);
}

fn listing(dir: &Path) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).expect("read") {
            let path = entry.expect("an entry").path();
            found.push(path.display().to_string());
            if path.is_dir() {
                pending.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What a repository's own file may not say, and what its user's own file has the last word on.
#[test]
fn the_settings_of_a_repository_decide_nothing_for_its_user() {
    let bench = Bench::new();
    let file = bench.repo().join(".wtpool.toml");
    let elsewhere = bench.fixture.root().join("elsewhere");
    for text in [
        format!("pool_dir = '{}'", elsewhere.display()),
        "pool_dir = '../elsewhere'".to_owned(),
        "cache.warm_command = 'touch x'".to_owned(),
        "[cache]\nwrapper = './x'".to_owned(),
    ] {
        write(&file, &text);
        let ran = bench.run(&["acquire"]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{text}: {ran:?}");
        assert!(ran.err.contains(".wtpool.toml") && ran.err.contains("hint:"), "{ran:?}");
    }
    assert!(!elsewhere.exists());
    for text in [
        "copy = ['../x']",
        "copy = ['/etc/hostname']",
        "copy = ['.git/config']",
        "copy = ['a/../../x']",
        "branch_prefix = '../../x/'",
        "branch_prefix = '-x'",
        "branch_prefix = \"a\\u001bb\"",
        "[cache]\ndirectories = ['../x']",
        "[cache]\ndirectories = ['/etc']",
        "[cache]\ndirectories = ['.git/hooks']",
        "[cache]\ndirectories = ['a/.GIT']",
        "max_leases = -1",
        "max_leases = 99999999999999999999",
        "ttl = '-5m'",
    ] {
        write(&file, text);
        let ran = bench.run(&["acquire"]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{text}: {ran:?}");
    }
    fs::remove_file(&file).expect("removed");
    let mut command = bench.wtpool(&["acquire"]);
    let ran = finish(command.env("WTPOOL_REAP_INTERVAL", "1ns"));
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");

    let user = bench.home.path().join("config/wtpool");
    fs::create_dir_all(&user).expect("made");
    write(
        user.join("config.toml"),
        "submodules = 'refuse'\nuser_config = false\n[cache]\nauto = false\nstrategy = 'private'\n",
    );
    write(
        &file,
        "submodules = 'init'\nuser_config = true\nttl = '7m'\n[cache]\nauto = true\nstrategy = 'seeded'\n",
    );
    let config = bench.json(&["config"]);
    let value = |key: &str| config["settings"][key]["value"].clone();
    assert_eq!(value("cache.auto"), false);
    assert_eq!(value("cache.strategy"), "private");
    assert_eq!(value("submodules"), "refuse");
    assert_eq!(value("user_config"), false);
    assert_eq!(value("ttl"), "7m");
    let origin = config["settings"]["cache.auto"]["origin"].as_str().expect("an origin");
    assert!(origin.ends_with("wtpool/config.toml"), "{origin}");
}

#[test]
fn settings_that_are_no_file_are_not_waited_for() {
    let bench = Bench::new();
    let file = bench.repo().join(".wtpool.toml");
    let fifo = bench.fixture.root().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    for target in [Path::new("/dev/zero"), &fifo, Path::new("/")] {
        symlink(target, &file).expect("linked");
        let ran = bench.run(&["acquire"]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{target:?}: {ran:?}");
        assert!(ran.err.contains(".wtpool.toml"), "{ran:?}");
        fs::remove_file(&file).expect("removed");
    }
    symlink("nowhere", &file).expect("linked");
    assert_eq!(bench.run(&["list"]).code, Some(2), "a link, wherever it leads");
}

/// A commit can have a link to a file that its author may not read, but its user may.
#[test]
fn settings_that_are_a_link_are_not_read() {
    let bench = Bench::new();
    let file = bench.repo().join(".wtpool.toml");
    let secret = bench.home.path().join("credentials");
    write(&secret, "token_hunter2 = hunter2\n");
    write(bench.repo().join("inside"), "ttl = 'hunter2'\n");
    for target in [Path::new("/proc/self/environ"), &secret, Path::new("inside")] {
        symlink(target, &file).expect("linked");
        for args in [&["list"][..], &["acquire"], &["config"], &["doctor"], &["list", "--json"]] {
            let ran = finish(bench.wtpool(args).env("HUNTER", "hunter2"));
            assert_ne!(ran.code, Some(0), "{args:?}: {ran:?}");
            let said = format!("{}{}", ran.out, ran.err);
            assert!(said.contains(".wtpool.toml"), "{args:?}: {ran:?}");
            assert!(!said.contains("hunter2"), "{target:?}: {args:?}: {ran:?}");
        }
        fs::remove_file(&file).expect("removed");
    }
}

#[test]
fn errors_in_the_repositorys_settings_quote_nothing() {
    let bench = Bench::new();
    let file = bench.repo().join(".wtpool.toml");
    for (text, named) in [
        ("ttl = '1h'\npassword hunter2\n", "line 2"),
        ("ttl = 'hunter2'\n", "ttl"),
        ("max_leases = 'hunter2'\n", "max_leases"),
        ("[cache]\nlean = 'hunter2'\n", "cache.lean"),
        ("copy = ['ok', ['hunter2']]\n", "copy"),
        ("cache = 'hunter2'\n", "cache"),
        ("ttl = '1h'\nttl = 'hunter2'\n", "line 2"),
    ] {
        write(&file, text);
        for args in [&["list"][..], &["config", "--json"]] {
            let ran = bench.run(args);
            assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{text}: {ran:?}");
            assert!(ran.err.contains(named) && !ran.err.contains("hunter2"), "{text}: {ran:?}");
        }
    }
    fs::write(&file, b"ttl = \"hunter2\xff\"").expect("written");
    let ran = bench.run(&["list"]);
    assert!(ran.code == Some(2) && !ran.err.contains("hunter2"), "{ran:?}");
    fs::write(&file, vec![b'#'; (1 << 20) + 1]).expect("written");
    assert_eq!(bench.run(&["list"]).code, Some(2), "too long");
    fs::remove_file(&file).expect("removed");

    // The user's own file may be a link, and is quoted.
    let (user, own) = (bench.home.path().join("config/wtpool"), bench.home.path().join("own"));
    fs::create_dir_all(&user).expect("made");
    symlink(&own, user.join("config.toml")).expect("linked");
    write(&own, "ttl = '7m'\n");
    assert_eq!(bench.json(&["config"])["settings"]["ttl"]["value"], "7m");
    write(&own, "ttl = 'hunter2'\n");
    assert!(bench.run(&["list"]).err.contains("hunter2"));
}

/// A pipe in the place of a lock would be waited for without end, and whoever waits takes no signal.
#[test]
fn the_pools_own_files_are_plain_ones() {
    let bench = Bench::new();
    bench.acquire(&["--name", "held"]);
    let pool = bench.pool();
    let elsewhere = bench.fixture.root().join("elsewhere");
    let lease = bench.json(&["show", "held"])["lease"].as_str().expect("an id").to_owned();
    for name in [
        "pool.turn",
        "pool.lock",
        "pool.sharing",
        "reaper.lock",
        "reaper.log",
        "registration.lock",
        "repository",
    ] {
        for link in [false, true] {
            bench.kill_reaper();
            let file = pool.join(name);
            let before = fs::read(&file).ok();
            let _ = fs::remove_file(&file);
            if link {
                symlink(&elsewhere, &file).expect("linked");
            } else {
                assert!(Command::new("mkfifo").arg(&file).status().expect("mkfifo").success());
            }
            for verb in
                [&["list"][..], &["prune"], &["run", "--wait", "0s", "--", "true"], &["doctor"]]
            {
                let ran = bench.run(verb);
                assert!(ran.code.is_some(), "{name} {verb:?}: {ran:?}");
                assert!(!elsewhere.exists(), "{name} {verb:?}: {ran:?}");
            }
            // A reaper that could not be started is of no use.
            fs::remove_file(&file).expect("it is still there");
            if let Some(before) = before {
                fs::write(&file, before).expect("put back");
            }
            bench.ok(&["run", "--", "true"]);
        }
    }
    assert_eq!(bench.json(&["show", "held"])["lease"], lease.as_str());
    bench.ok(&["release", "held"]);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let bench = Bench::new();
    let before = listing(bench.fixture.root());
    let long = "n".repeat(300);
    for bad in [
        "",
        ".",
        "..",
        "../x",
        "/x",
        "a/b",
        "-x",
        "a\nb",
        "a\u{1b}[2Jb",
        "x.lock",
        "a..b",
        "\u{202e}x",
        "a b",
        "a\\b",
        "~",
        "$(touch x)",
        "`x`",
        &long,
    ] {
        for option in ["--name", "--session"] {
            let ran = bench.run(&["acquire", &format!("{option}={bad}")]);
            assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{option} {bad:?}: {ran:?}");
            assert!(!ran.err.contains('\u{1b}'), "{ran:?}");
        }
        for verb in [&["show"][..], &["drop"], &["restore"]] {
            let ran = bench.run(&[&["rescue"], verb, &["--", bad]].concat());
            assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{verb:?} {bad:?}: {ran:?}");
        }
        let ran = bench.run(&["end-session", "--", bad]);
        assert_eq!(ran.code, Some(2), "{bad:?}: {ran:?}");
    }
    for bad in
        ["../x", "a..b", "-x", "a b", "x.lock", "/x", "x/", "a\u{1b}b", "@{", "refs/heads/../x"]
    {
        let ran = bench.run(&["acquire", &format!("--branch={bad}")]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{bad:?}: {ran:?}");
    }
    for bad in ["--upload-pack=x", "-h", "../x", "a\u{1b}b", ":/x", ""] {
        let ran = bench.run(&["acquire", &format!("--base={bad}")]);
        assert_ne!(ran.code, Some(0), "{bad:?}: {ran:?}");
        assert!(ran.out.is_empty() && !ran.err.contains('\u{1b}'), "{bad:?}: {ran:?}");
    }
    for bad in ["a\nb", "a\u{1b}[2Jb", "\u{7f}", "\u{9b}2J", &"h".repeat(201)] {
        let ran = bench.run(&["acquire", "--holder", bad]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{bad:?}: {ran:?}");
    }
    let huge = ["9999999999999h", "99999999999999999999s", "584542046090y"];
    for option in ["--ttl", "--wait", "--linger"] {
        for span in huge {
            let ran = bench.run(&["acquire", option, span]);
            assert!(ran.code == Some(2) || ran.code == Some(0), "{option} {span}: {ran:?}");
        }
    }
    for slot in bench.slots() {
        bench.ok(&["release", slot["lease"]["lease"].as_str().expect("an id"), "--linger", "0s"]);
    }
    bench.ok(&["prune", "--all"]);
    let pool = bench.pool().parent().expect("a parent").display().to_string();
    let after = listing(bench.fixture.root());
    let inside = |path: &&String| !path.starts_with(&pool) && !path.contains("/.git/");
    let (before, after): (Vec<_>, Vec<_>) =
        (before.iter().filter(inside).collect(), after.iter().filter(inside).collect());
    assert_eq!(before, after);
}

/// What an agent writes can't move the cursor of whoever looks at the pool.
#[test]
fn what_is_shown_is_harmless_to_a_terminal() {
    let bench = Bench::new();
    // What changes the order of what is shown is no control character, and as misleading.
    let path =
        bench.acquire(&["--name", "hostile", "--linger", "0s", "--branch", "a\u{202e}b\u{2066}"]);
    assert_eq!(bench.run(&["acquire", "--holder", "a\u{202e}b"]).code, Some(2));
    write(path.join("a\u{1b}[2Jb\u{9b}1m"), "x");
    write(path.join(".git"), "gitdir: /x/\u{1b}]0;pwned\u{7}\u{1b}[31m\n");
    let shown = |args: &[&str]| {
        let ran = bench.run(args);
        let all = format!("{}{}", ran.out, ran.err);
        let is_bad = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!all.contains(is_bad), "{args:?}: {ran:?}");
        assert!(!all.contains(['\u{202e}', '\u{2066}']), "{args:?}: {ran:?}");
        all
    };
    let released = shown(&["release", "hostile"]);
    assert!(released.contains("pwned"), "{released}");
    for args in [
        &["list"][..],
        &["show", "1"],
        &["show", "hostile"],
        &["doctor"],
        &["prune"],
        &["events"],
        &["list", "--json"],
        &["doctor", "--json"],
        &["-v", "list"],
        &["-vv", "prune"],
    ] {
        shown(args);
    }
    assert_eq!(bench.slots()[0]["state"], "quarantined");
    assert_eq!(fs::read_to_string(path.join("a\u{1b}[2Jb\u{9b}1m")).expect("kept"), "x");
}

/// Hooks and monitors of the repository, of whatever kind: as documented, none is run.
#[test]
fn no_hook_is_run_by_the_pools_own_operations() {
    let bench = cargo_bench();
    let (script, trace) = trap(&bench);
    let git = bench.repo().join(".git");
    fs::create_dir_all(git.join("hooks")).expect("made");
    for hook in [
        "post-checkout",
        "post-index-change",
        "reference-transaction",
        "post-commit",
        "pre-commit",
        "post-merge",
        "post-rewrite",
        "pre-auto-gc",
        "fsmonitor-watchman",
        "sendemail-validate",
    ] {
        fs::copy(&script, git.join("hooks").join(hook)).expect("copied");
    }
    for key in ["core.fsmonitor", "core.pager", "core.editor", "diff.external", "core.askPass"] {
        bench.fixture.git().args(["config", key, script.to_str().expect("UTF-8")]).ok();
    }
    bench.ok(&["warm", "1"]);
    let path = bench.acquire(&["--name", "one", "--linger", "0s"]);
    write(path.join("new"), "x");
    bench.ok(&["release", "one"]);
    let id = bench.rescues()[0]["id"].as_str().expect("an id").to_owned();
    bench.ok(&["rescue", "show", &id]);
    let into = bench.fixture.root().join("restored");
    bench.ok(&["rescue", "restore", &id, "--into", into.to_str().expect("UTF-8")]);
    bench.ok(&["rescue", "restore", &id]);
    bench.ok(&["rescue", "drop", &id]);
    bench.ok(&["prune", "--all"]);
    bench.ok(&["doctor"]);
    assert!(!trace.exists());
    // They do run for everybody else, so the test can fail.
    bench.run(&["run", "--linger", "0s", "--", "git", "checkout", "-q", "--detach"]);
    assert!(trace.exists());
}

/// What a checked-out commit says to cargo runs nothing when it is leased: only builds do.
#[test]
fn a_commit_runs_nothing_by_being_leased() {
    for (strategy, more) in [("seeded", true), ("shared-target", false), ("shared-target", true)] {
        let bench = cargo_bench();
        bench.ok(&["warm", "0"]);
        let (script, trace) = trap(&bench);
        let script = script.to_str().expect("UTF-8");
        fs::create_dir_all(bench.repo().join(".cargo")).expect("made");
        let mut config = format!("[build]\nrustc = {script:?}\n");
        if more {
            config.push_str(&format!(
                "rustc-wrapper = {script:?}\nrustc-workspace-wrapper = {script:?}\n\
                 [alias]\nmetadata = 'run'\n\
                 [target.'cfg(all())']\nrunner = {script:?}\nlinker = {script:?}\n\
                 [registry]\nglobal-credential-providers = [{script:?}]\n"
            ));
        }
        write(bench.repo().join(".cargo/config.toml"), &config);
        write(
            bench.repo().join("build.rs"),
            &format!("fn main() {{ std::process::Command::new({script:?}).status().unwrap(); }}"),
        );
        write(bench.repo().join(".envrc"), &format!("{script}\n"));
        commit(&bench);
        let path = bench.acquire(&["--name", "one", "--cache", strategy, "--linger", "0s"]);
        assert!(path.join("build.rs").exists());
        bench.ok(&["show", "one"]);
        bench.ok(&["release", "one"]);
        bench.ok(&["warm", "1", "--cache", "private"]);
        bench.acquire(&["--name", "two", "--cache", strategy, "--linger", "0s"]);
        bench.ok(&["release", "two"]);
        bench.ok(&["prune", "--all"]);
        assert!(!trace.exists(), "{strategy} {more}");
    }
}

/// A base is built from commits that were leased, or named to `warm`, and only if that is wanted.
#[test]
fn a_base_is_built_only_if_that_is_wanted() {
    let bench = cargo_bench().var("WTPOOL_CACHE__AUTO", "");
    let user = bench.home.path().join("config/wtpool");
    fs::create_dir_all(&user).expect("made");
    write(user.join("config.toml"), "[cache]\nauto = false\n");
    write(bench.repo().join(".wtpool.toml"), "[cache]\nauto = true\n");
    let (script, trace) = trap(&bench);
    write(
        bench.repo().join("build.rs"),
        &format!("fn main() {{ std::process::Command::new({script:?}).status().unwrap(); }}"),
    );
    commit(&bench);
    bench.acquire(&["--name", "one", "--linger", "0s"]);
    bench.ok(&["release", "one"]);
    // What is built in the background says so in a log.
    assert!(!bench.pool().join("build-base.log").exists());
    assert!(!trace.exists());
    bench.ok(&["warm", "0"]);
    assert!(trace.exists(), "it is the repository's build script that builds a base");
}

/// `submodules = "init"` clones what the commit names, and no more than that.
#[test]
fn submodules_that_name_commands_or_lead_elsewhere() {
    let bench = Bench::new().var("WTPOOL_SUBMODULES", "init");
    let (script, trace) = trap(&bench);
    let script = script.display();
    let head = bench.fixture.head();
    let outside = bench.fixture.root().join("outside");
    for (number, modules) in [
        format!("[submodule \"a\"]\n\tpath = sub\n\turl = ext::{script}\n"),
        format!("[submodule \"a\"]\n\tpath = sub\n\turl = ./x\n\tupdate = !{script}\n"),
        "[submodule \"../../../outside\"]\n\tpath = sub\n\turl = ./x\n".to_owned(),
        "[submodule \"a\"]\n\tpath = ../outside\n\turl = ./x\n".to_owned(),
        format!("[submodule \"a\"]\n\tpath = sub\n\turl = --upload-pack={script}\n"),
        format!("[submodule \"a\"]\n\tpath = sub\n\turl = ssh://-oProxyCommand={script}/x\n"),
    ]
    .into_iter()
    .enumerate()
    {
        bench.fixture.git().args(["checkout", "-q", "-B", "hostile", &head]).ok();
        write(bench.repo().join(".gitmodules"), &modules);
        let entry = format!("160000,{head},sub");
        bench.fixture.git().args(["update-index", "--add", "--cacheinfo", &entry]).ok();
        bench.fixture.git().args(["add", ".gitmodules"]).ok();
        bench.fixture.git().args(["commit", "-q", "--no-verify", "-m", "x"]).ok();
        // Most are refused; what matters is what they did not do.
        bench.run(&["acquire", "--name", &format!("lease-{number}"), "--linger", "0s"]);
        assert!(!trace.exists(), "{modules}");
        assert!(!outside.exists(), "{modules}");
    }
}

/// Records that were tampered with make no verb panic, and touch nothing outside of the pool's slots.
#[test]
fn poisoned_records() {
    let bench = Bench::new();
    bench.acquire(&["--name", "held"]);
    let neighbour = bench.acquire(&["--name", "neighbour"]);
    write(neighbour.join("work"), "precious");
    bench.kill_reaper();
    let sidecar = bench.pool().join("slots/1/slot.json");
    let sound = fs::read_to_string(&sidecar).expect("read");
    let outside = bench.fixture.root().join("outside");
    fs::create_dir(&outside).expect("made");
    write(outside.join("precious"), "precious");
    let path = outside.display().to_string();
    let huge = serde_json::json!({"secs": u64::MAX, "nanos": 999_999_999});
    let poison: [(&str, serde_json::Value); 18] = [
        ("/slot/id", 2.into()),
        ("/slot/plan/slot", 2.into()),
        ("/slot/plan/base/commit", path.clone().into()),
        ("/slot/plan/base/commit", "0000000000000000000000000000000000000000".into()),
        ("/slot/plan/base/branch/name", "../../../outside".into()),
        ("/slot/plan/base/branch/name", path.clone().into()),
        ("/slot/plan/base/branch/name", "main".into()),
        ("/slot/plan/lease/1", "../x".into()),
        ("/slot/state/lease/name", "../x".into()),
        ("/slot/state/lease/id", path.clone().into()),
        ("/slot/state/lease/generation", u64::MAX.into()),
        ("/slot/state/lease/generation", (-1).into()),
        ("/slot/state/lease/linger/failure", huge.clone()),
        ("/slot/state/lease/deadline/span", huge.clone()),
        ("/slot/state/lease/deadline/at", huge.clone()),
        ("/slot/last_used/uptime", huge),
        ("/slot/state/lease/holder", "\u{1b}[2J".into()),
        ("/revision", u64::MAX.into()),
    ];
    let refs = || bench.fixture.git().args(["for-each-ref", "refs/heads"]).stdout();
    let before = refs();
    for (pointer, value) in poison {
        let mut file: serde_json::Value = serde_json::from_str(&sound).expect("JSON");
        *file.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}: {sound}")) = value;
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(bench.pool().join(format!("pool.db{suffix}")));
        }
        write(&sidecar, &file.to_string());
        for verb in [&["list"][..], &["show", "1"], &["prune"], &["doctor"], &["events"]] {
            let ran = bench.run(verb);
            assert!(ran.code != Some(101), "{pointer}, {verb:?}: {ran:?}");
            assert!(!ran.err.contains("panicked"), "{pointer}, {verb:?}: {ran:?}");
        }
        bench.kill_reaper();
        assert_eq!(fs::read_to_string(neighbour.join("work")).expect("read"), "precious");
        assert_eq!(listing(&outside), [outside.join("precious").display().to_string()]);
        assert_eq!(refs(), before, "{pointer}");
    }
    // What is right again is the lease that it was.
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(bench.pool().join(format!("pool.db{suffix}")));
    }
    write(&sidecar, &sound);
    assert_eq!(bench.json(&["show", "held"])["state"], "leased");
}

/// What one lease leaves is not there for the next one, but for what is all worktrees'.
#[test]
fn what_a_lease_leaves_in_the_environment_of_the_next() {
    let bench = Bench::new();
    bench.ok(&["warm", "1"]);
    let script = "git config --local alias.theirs status; git stash list; \
                  mkdir -p target; echo built > target/x; echo left > left.txt; echo x >> .env; \
                  git rev-parse --absolute-git-dir; pwd";
    write(bench.repo().join(".gitignore"), "target\n.env\n");
    commit(&bench);
    let session = ["--session", "s"];
    let first =
        bench.ok(&[&["run"][..], &session, &["--linger", "0s", "--", "sh", "-c", script]].concat());
    let look = "ls -A; git config alias.theirs; pwd";
    let second =
        bench.ok(&[&["run"][..], &session, &["--linger", "0s", "--", "sh", "-c", look]].concat());
    assert_eq!(first.out.lines().last(), second.out.lines().last(), "the same slot: {second:?}");
    assert!(!second.out.contains("left.txt") && !second.out.contains(".env"), "{second:?}");
    assert!(!second.out.contains("target"), "build output goes: {second:?}");
    assert!(
        second.out.contains("status"),
        "the repository's configuration is all worktrees': {second:?}"
    );
    assert_eq!(bench.rescues().len(), 1, "what went is saved");
    bench.ok(&["end-session", "s"]);
}
