//! Settings as nobody wrote them: the program says what is wrong, or goes by them.

use proptest::prelude::*;
use testkit::fuzz::damage;

use crate::bench::{Bench, Ran, finish, write};

/// Neither a panic nor a signal; and who complains says about what.
fn is_in_order(ran: &Ran) -> Result<(), TestCaseError> {
    prop_assert!(matches!(ran.code, Some(0..=3)), "{:?}", ran);
    prop_assert!(!ran.err.contains("panicked"), "{:?}", ran);
    prop_assert!(ran.code == Some(0) || ran.err.contains("error"), "{:?}", ran);
    Ok(())
}

/// Of everything that can be set.
fn settings(bench: &Bench) -> String {
    let shown = bench.ok(&["config"]).out;
    assert!(shown.contains("max_leases"), "{shown}");
    shown
}

/// Each case runs the program several times; `PROPTEST_CASES` asks for more of them.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let all = ProptestConfig::default();
    let cases = if asked { all.cases } else { 24 };
    ProptestConfig { cases, failure_persistence: None, ..all }
}

const SPANS: &[&str] = &[
    "0s",
    "-1s",
    "1ns",
    "584942417355y",
    "9223372036854775807s",
    "9223372036854775808s",
    "292277026596y",
    "0",
    "",
    "s",
    "1h-1m",
    "P1D",
    "5m/5m",
    "0s/9223372036854775807s",
    "/",
];

const SIZES: &[&str] = &[
    "0",
    "-1",
    "1B",
    "18446744073709551615",
    "18446744073709551616",
    "16EiB",
    "1e400",
    "NaN",
    "",
    "GB",
];

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_the_repository_says(damages in prop::collection::vec(damage(), 1..3)) {
        let bench = Bench::new();
        let good = settings(&bench);
        let text = damages.iter().fold(good.into_bytes(), |text, damage| damage.apply(&text));
        std::fs::write(bench.repo().join(".wtpool.toml"), text).expect("write");
        is_in_order(&bench.run(&["config", "--json"]))?;
        is_in_order(&bench.run(&["list", "--json"]))?;
    }

    #[test]
    fn whatever_the_arguments_say(
        text in "(\\PC{0,8}|[0-9]{1,20}[a-zµ]{0,3}|-?[0-9]{0,6}(\\.[0-9]{1,4})?(h|m|s|ms)/[0-9]s)",
        option in prop::sample::select(vec!["--ttl", "--wait", "--linger", "--name", "--session"]),
    ) {
        let bench = Bench::new();
        // One that is not run: the repository of the wish is looked for first.
        let option = format!("{option}={text}");
        let ran = finish(bench.wtpool(&["acquire", &option]).current_dir(bench.home.path()));
        is_in_order(&ran)?;
        prop_assert!(ran.code != Some(0) && ran.out.is_empty(), "{:?}", ran);
    }
}

/// The longest spans there are must not be added to a clock that has no room for them.
#[test]
fn the_ends_of_every_range() {
    let keys = [
        ("WTPOOL_TTL", SPANS),
        ("WTPOOL_LINGER", SPANS),
        ("WTPOOL_QUIET", SPANS),
        ("WTPOOL_GRACE", SPANS),
        ("WTPOOL_IDLE", SPANS),
        ("WTPOOL_REAP_INTERVAL", SPANS),
        ("WTPOOL_WAIT", SPANS),
        ("WTPOOL_MAX_DISK", SIZES),
        ("WTPOOL_MIN_FREE_DISK", SIZES),
        ("WTPOOL_MAX_LEASES", &["0", "-1", "4294967295", "4294967296", "1.5"]),
        ("WTPOOL_KEEP_WARM", &["0", "-1", "4294967295", "4294967296"]),
    ];
    let bench = Bench::new();
    for (key, values) in keys {
        for value in values {
            let ran = finish(bench.wtpool(&["config"]).env(key, value));
            is_in_order(&ran).unwrap_or_else(|e| panic!("{key}={value}: {e}"));
        }
    }
    // And one life with all of them as long as may be.
    let longest = "292277026596y";
    let longest = match bench.run(&["acquire", "--ttl", longest, "--wait", "0s"]).code {
        Some(0) => longest,
        _ => "9223372036854775807s",
    };
    let with = |args: &[&str]| {
        let mut command = bench.wtpool(args);
        for (key, values) in keys.iter().filter(|(_, values)| values.len() == SPANS.len()) {
            assert!(values.len() > 1, "{key}");
            command.env(key, longest);
        }
        let ran = finish(&mut command);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        ran
    };
    let path = with(&["acquire", "--name", "long", "--ttl", longest, "--wait", longest]).out;
    write(std::path::Path::new(path.trim_end()).join("new"), "new");
    with(&["renew", "long", "--ttl", longest]);
    with(&["list"]);
    with(&["show", "long", "--json"]);
    with(&["doctor"]);
    with(&["prune"]);
    with(&["release", "long", "--linger", longest]);
    with(&["list", "--json"]);
    with(&["run", "--wait", longest, "--", "true"]);
    with(&["prune", "--all"]);
}
