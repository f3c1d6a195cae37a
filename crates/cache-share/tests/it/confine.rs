//! A target or build directory that is set outside of the repository, or by it, and leads several leases into one place.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cache_share::{Private, Seeded, Setup, SharedTarget, Surroundings};
use pool_core::CacheStrategy;
use testkit::truth;

use crate::support::{Lease, Workshop, write};

type Strategy = fn(Setup) -> Arc<dyn CacheStrategy>;

const STRATEGIES: [Strategy; 3] = [
    |setup| Arc::new(Private::within(setup.surroundings)),
    |setup| Arc::new(Seeded::new(setup)),
    |setup| Arc::new(SharedTarget::new(setup)),
];

const FILES: [(&str, &str); 3] = [
    ("Cargo.toml", "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
    ("src/lib.rs", "pub fn version() -> &'static str { \"one\" }\n"),
    ("src/main.rs", "fn main() { println!(\"{}\", app::version()); }\n"),
];

/// Takes two leases, changes the code in one, and builds in both by turns. Each must run its own.
fn assert_apart(
    files: &[(&str, &str)],
    strategy: Strategy,
    surround: impl Fn(&std::path::Path) -> (Surroundings, BTreeMap<String, String>),
) {
    let mut around = None;
    let workshop = Workshop::using(files, |mut setup| {
        let root = setup.pool_dir.parent().expect("it is in a directory").to_owned();
        let (surroundings, env) = surround(&root);
        setup.surroundings = surroundings;
        around = Some(env);
        strategy(setup)
    });
    let around = around.expect("the strategy was made");
    let (one, two) = (workshop.lease("HEAD"), workshop.lease("HEAD"));
    two.write("src/lib.rs", &FILES[1].1.replace("one", "two"));
    let run = |lease: &Lease| {
        // What is inherited, and then what the lease says.
        let mut env = around.clone();
        env.extend(lease.0.lease().attachment.env.clone());
        let output = truth::cargo(&lease.path(), &env).args(["run", "-q"]).output().expect("cargo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let seen = [run(&one), run(&two), run(&one)];
    assert_eq!(seen, ["one\n", "two\n", "one\n"], "{:?}", one.reason());
    workshop.release(one);
    workshop.release(two);
}

fn none() -> (Surroundings, BTreeMap<String, String>) {
    Default::default()
}

#[test]
fn cargo_home_that_sets_a_target_dir_holds_in_no_lease() {
    for key in ["target-dir", "build-dir"] {
        for strategy in STRATEGIES {
            assert_apart(&FILES, strategy, |root| {
                let config = format!("[build]\n{key} = {:?}\n", root.join("shared"));
                write(root, "home/config.toml", &config);
                let home = root.join("home");
                let env = [("CARGO_HOME".to_owned(), home.to_string_lossy().into_owned())];
                (Surroundings { cargo_home: Some(home), ..Surroundings::default() }, env.into())
            });
        }
    }
}

#[test]
fn config_above_the_pool_holds_in_no_lease() {
    for strategy in STRATEGIES {
        assert_apart(&FILES, strategy, |root| {
            write(root, ".cargo/config.toml", "[build]\ntarget-dir = \"shared\"\n");
            none()
        });
    }
}

#[test]
fn variable_in_a_configuration_above_the_pool_holds_in_no_lease() {
    for value in ["'/shared'", "{ value = '/shared', force = true }"] {
        assert_apart(&FILES, STRATEGIES[0], |root| {
            write(root, ".cargo/config.toml", &format!("[env]\nCARGO_TARGET_DIR = {value}\n"));
            none()
        });
    }
}

#[test]
fn cargo_home_that_is_changed_later_holds_in_no_lease_of_one_workspace() {
    assert_apart(&FILES, STRATEGIES[0], |root| {
        write(root, "home/config.toml", "[build]\ntarget-dir = \"shared\"\n");
        let home: PathBuf = root.join("home");
        let env = [("CARGO_HOME".to_owned(), home.to_string_lossy().into_owned())];
        (Surroundings::default(), env.into())
    });
}

#[test]
fn exported_target_dir_shares_no_intermediate_files() {
    for strategy in STRATEGIES {
        assert_apart(&FILES, strategy, |root| {
            let shared = root.join("shared").to_string_lossy().into_owned();
            let variables = BTreeMap::from([("CARGO_TARGET_DIR".to_owned(), shared)]);
            (Surroundings { variables: variables.clone(), ..Surroundings::default() }, variables)
        });
    }
}

#[test]
fn repository_that_leads_out_of_the_worktree_shares_nothing() {
    for strategy in STRATEGIES {
        let config = "[build]\ntarget-dir = \"../../shared\"\n";
        let files = [&FILES[..], &[(".cargo/config.toml", config)]].concat();
        assert_apart(&files, strategy, |_| none());
    }
}

#[test]
fn workspaces_of_a_lease_keep_targets_of_their_own() {
    let nested = [
        (
            "tools/Cargo.toml",
            "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
        ),
        ("tools/src/lib.rs", "pub fn version() -> &'static str { \"tools\" }\n"),
        ("tools/src/main.rs", FILES[2].1),
    ];
    let files = [&FILES[..], &nested].concat();
    assert_apart(&files, STRATEGIES[0], |_| none());
    let workshop = Workshop::using(&files, STRATEGIES[0]);
    let lease = workshop.lease("HEAD");
    assert_eq!(lease.shows("run -q"), "one");
    assert_eq!(lease.shows("run -q --manifest-path tools/Cargo.toml"), "tools");
    assert_eq!(lease.shows("run -q"), "one");
    assert!(lease.path().join("tools/target").is_dir());
    workshop.release(lease);
}

#[test]
fn repository_without_rust_gets_no_configuration() {
    let workshop = Workshop::using(&FILES, STRATEGIES[0]);
    let dir = workshop.pool_dir().join("slots/7/tree");
    std::fs::create_dir_all(&dir).expect("made");
    let base = pool_core::CommitId::new("0123abcd").expect("an id");
    let site =
        pool_core::CacheSite { slot: pool_core::SlotId(7), path: dir.clone(), base, in_use: 1 };
    workshop.block_on(Private::new().attach(&site)).expect("attached");
    assert!(!dir.with_file_name(".cargo").exists());
}
