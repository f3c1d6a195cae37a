//! Settings in layers.

use std::fs;

use crate::bench::{Bench, quoted, write};

fn user_file(bench: &Bench, text: &str) -> std::path::PathBuf {
    let dir = bench.home.path().join("config/wtpool");
    fs::create_dir_all(&dir).expect("make the user's directory");
    write(dir.join("config.toml"), text);
    dir.join("config.toml")
}

#[test]
fn the_later_wins_and_each_says_where_it_came_from() {
    let bench = Bench::new();
    let user = user_file(
        &bench,
        "max_leases = 3\nwait = '1m'\nttl = '2h'\n[cache]\nstrategy = 'private'\n",
    );
    write(bench.repo().join(".wtpool.toml"), "wait = '2m'\ncopy = ['.env']\n");
    let mut command = bench.wtpool(&["config", "--json"]);
    let ran =
        crate::bench::finish(command.env("WTPOOL_TTL", "3h").env("WTPOOL_REGENERABLE", "out,tmp"));
    let config: serde_json::Value = serde_json::from_str(&ran.out).expect("a document");
    let of = |key: &str| {
        let setting = &config["settings"][key];
        (setting["value"].clone(), setting["origin"].as_str().unwrap_or_default().to_owned())
    };
    let repository = bench.repo().join(".wtpool.toml").display().to_string();
    assert_eq!(of("max_leases"), (3.into(), user.display().to_string()));
    assert_eq!(of("wait"), ("2m".into(), repository.clone()));
    assert_eq!(of("copy"), (vec![".env"].into(), repository));
    assert_eq!(of("ttl"), ("3h".into(), "WTPOOL_TTL".to_owned()));
    assert_eq!(of("regenerable"), (vec!["out", "tmp"].into(), "WTPOOL_REGENERABLE".to_owned()));
    assert_eq!(of("linger"), ("0s/4m".into(), "built in".to_owned()));
    assert!(bench.ok(&["config"]).out.contains("built in"));
}

#[test]
fn unknown_keys_name_themselves_and_their_file() {
    let bench = Bench::new();
    write(bench.repo().join(".wtpool.toml"), "max_lease = 3\n");
    let ran = bench.run(&["acquire"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    assert!(ran.err.contains("max_lease") && ran.err.contains(".wtpool.toml"), "{ran:?}");
    for key in ["warm_command", "wrapper"] {
        write(bench.repo().join(".wtpool.toml"), &format!("[cache]\n{key} = 'rm -rf /'\n"));
        let ran = bench.run(&["acquire"]);
        assert_eq!(ran.code, Some(2), "a repository names no command to run: {ran:?}");
        assert!(ran.err.contains(key), "{ran:?}");
    }
    fs::remove_file(bench.repo().join(".wtpool.toml")).expect("remove it");
    for (name, value) in
        [("WTPOOL_WAIT", "soon"), ("WTPOOL_MAX_LEASES", "0"), ("WTPOOL_CACHE__STRATEGY", "x")]
    {
        let ran = crate::bench::finish(bench.wtpool(&["acquire"]).env(name, value));
        assert_eq!(ran.code, Some(2), "{name}={value}: {ran:?}");
    }
}

#[test]
fn a_misspelt_variable_is_told_of() {
    let bench = Bench::new();
    let run = |args: &[&str]| {
        let mut command = bench.wtpool(args);
        crate::bench::finish(command.env("WTPOOL_MAX_LEASE", "5").env("WTPOOL_MY_OWN_THING", "x"))
    };
    let ran = run(&["run", "--", "sh", "-c", format!("{} list", quoted()).as_str()]);
    let told: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("warning: ")).collect();
    let [slip, other, ..] = told[..] else { panic!("{ran:?}") };
    assert!(slip.contains("WTPOOL_MAX_LEASE ") && slip.contains("WTPOOL_MAX_LEASES"), "{ran:?}");
    assert!(other.contains("WTPOOL_MY_OWN_THING") && !other.contains("meant"), "{ran:?}");
    assert_eq!(told.len(), 4, "of each twice, and of none that `run` has set: {ran:?}");
    assert_eq!(run(&["list", "--quiet"]).err, "");
    assert_eq!(run(&["show", "x", "--json"]).err.lines().count(), 1, "one document");
    let doctor = run(&["doctor", "--json"]).out;
    assert!(doctor.contains("WTPOOL_MAX_LEASE is set"), "{doctor}");
}

#[test]
fn set_up_files_are_brought_along() {
    let bench = Bench::new().var("WTPOOL_COPY", ".env");
    let ran = bench.ok(&["run", "--", "cat", ".env"]);
    assert_eq!(ran.out, fs::read_to_string(bench.repo().join(".env")).expect("an .env"));
    assert!(bench.rescues().is_empty(), "an unchanged copy needs no rescue");
}

#[test]
fn a_full_enough_disk_is_refused_politely() {
    let bench = Bench::new().var("WTPOOL_MIN_FREE_DISK", "1000000TiB");
    let ran = bench.run(&["acquire", "--json"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.contains("no-space"), "{ran:?}");
}

/// The default in its place would be another pool, or another limit.
#[test]
fn a_variable_that_is_not_utf_8_is_not_passed_over() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let bench = Bench::new();
    let odd = bench.fixture.root().join(OsStr::from_bytes(b"p\xffq"));
    for name in ["WTPOOL_MAX_LEASES", "WTPOOL_COPY", "WTPOOL_CACHE__WRAPPER"] {
        let ran = crate::bench::finish(bench.wtpool(&["acquire"]).env(name, &odd));
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{name}: {ran:?}");
        assert!(ran.err.contains(name), "{ran:?}");
    }
    assert!(!bench.pool().exists(), "nothing was made");

    // A directory may be called anything. What runs in the lease speaks of the same one.
    let exe = quoted();
    let inner = format!("{exe} list --json >/dev/null; {exe} run --name inner -- pwd");
    let mut command = bench.wtpool(&["run", "--", "sh", "-c", &inner]);
    let output = command.env("WTPOOL_POOL_DIR", &odd).output().expect("start wtpool");
    assert!(output.status.success(), "{output:?}");
    let start = [odd.as_os_str().as_bytes(), b"/slots/"].concat();
    assert!(output.stdout.starts_with(&start), "{output:?}");
    assert!(!bench.pool().exists(), "the default is not used");
    let made = fs::read_dir(bench.fixture.root()).expect("read").flatten();
    let pools = made.filter(|entry| entry.file_name().as_bytes().starts_with(b"p")).count();
    assert_eq!(pools, 1);
    let gone = |arg: &str| {
        let ran = crate::bench::finish(bench.wtpool(&[arg, "--all"]).env("WTPOOL_POOL_DIR", &odd));
        assert_eq!(ran.code, Some(0), "{ran:?}");
    };
    gone("prune");
}

#[test]
fn no_jobs_at_all_is_no_number_of_jobs() {
    let bench = Bench::new();
    let ran = crate::bench::finish(bench.wtpool(&["acquire"]).env("WTPOOL_BUILD_JOBS", "0"));
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "no cargo would build: {ran:?}");
    assert!(ran.err.contains("build_jobs"), "{ran:?}");
}
