//! A slot that is used again has what the base has once more, and nothing else of what its last holder built.

use crate::support::{Lease, Workshop, write};

fn package(name: &str, more: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{more}")
}

fn says(word: &str) -> String {
    format!("pub fn word() -> &'static str {{\n    \"{word}\"\n}}\n")
}

/// A test prints what the crates say that it was linked with.
const TEST: &str = "#[test]\nfn says() {\n    println!(\"test says {} {} {}\", part::word(), helper::word(), \
                    itoa::Buffer::new().format(7));\n}\n";

fn workshop() -> Workshop {
    Workshop::new(&[
        (
            "Cargo.toml",
            "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"part\", \"other\"]\nexclude = [\"helper\"]\n",
        ),
        ("part/Cargo.toml", &package("part", "")),
        ("part/src/lib.rs", &says("base")),
        ("other/Cargo.toml", &package("other", "[dev-dependencies]\nryu = \"1\"\n")),
        ("other/src/lib.rs", "#[test]\nfn other() {\n    ryu::Buffer::new().format(1.5);\n}\n"),
        // No member, and nothing that the base has: only tests need it.
        ("helper/Cargo.toml", &package("helper", "[workspace]\n")),
        ("helper/src/lib.rs", &says("helper")),
        (
            "app/Cargo.toml",
            &package(
                "app",
                "[dependencies]\npart = { path = \"../part\" }\n\
                 [dev-dependencies]\nhelper = { path = \"../helper\" }\nitoa = \"1\"\n",
            ),
        ),
        ("app/build.rs", BUILD),
        ("app/word.txt", "told"),
        ("app/src/main.rs", MAIN),
        ("app/tests/says.rs", TEST),
    ])
}

/// It hands on what it read.
const BUILD: &str = "fn main() {\n    println!(\"cargo::rerun-if-changed=word.txt\");\n    \
                     println!(\"cargo::rustc-env=WORD={}\", \
                     std::fs::read_to_string(\"word.txt\").unwrap());\n}\n";

const MAIN: &str = "fn main() {\n    println!(\"{} {}\", part::word(), env!(\"WORD\"));\n}\n";

const NONE: [&str; 0] = [];

fn runs(lease: &Lease) -> String {
    lease.shows("run --quiet -p app")
}

fn tests(lease: &Lease) -> String {
    let shown = lease.shows("test --workspace --quiet -- --nocapture");
    shown
        .lines()
        .find_map(|line| Some(line.split_once("test says ")?.1.to_owned()))
        .expect("it ran")
}

#[test]
fn what_the_last_holder_changed_is_not_built_again() {
    let workshop = workshop();
    write(&workshop.repo(), ".env", "A=1\n");
    workshop.warm("main").expect("it can be built");
    let first = workshop.lease("main");
    let place = first.path();
    assert_eq!(runs(&first), "base told");
    // All that the base lacks is built from what is committed, too.
    assert_eq!(tests(&first), "base helper 7");
    first.write("part/src/lib.rs", &says("mine"));
    first.write("app/word.txt", "changed");
    first.write(".env", "A=2\n");
    assert_eq!(runs(&first), "mine changed");
    workshop.release(first);

    let second = workshop.lease("main");
    assert_eq!(second.path(), place, "another slot proves nothing");
    assert!(second.is_warm(), "{}", second.reason());
    assert_eq!(second.built_anew("build --workspace"), NONE, "{}", second.reason());
    assert_eq!(runs(&second), "base told");
    // Nor are tests, but for those that were made from what was changed.
    let mut tested = second.built_anew("test --workspace --no-run");
    tested.sort_unstable();
    tested.dedup();
    assert_eq!(tested, ["app", "part", "says"]);
    assert_eq!(tests(&second), "base helper 7");
}

/// The sources get old times, and with them whatever was made from what the last holder had there.
#[test]
fn nothing_is_left_of_what_the_last_holder_built() {
    let workshop = workshop();
    workshop.warm("main").expect("it can be built");
    let first = workshop.lease("main");
    let place = first.path();
    first.write("part/src/lib.rs", &says("mine"));
    first.write("helper/src/lib.rs", &says("my helper"));
    first.write("app/tests/says.rs", &TEST.replace("says {}", "says my {}"));
    first.write("app/word.txt", "changed");
    assert_eq!(tests(&first), "my mine my helper 7");
    assert_eq!(first.shows("run --quiet --release -p app"), "mine changed");
    first.shows("doc --quiet --no-deps -p part");
    first.shows("check --quiet --workspace --tests");
    workshop.release(first);

    for _ in 0..2 {
        let next = workshop.lease("main");
        assert_eq!(next.path(), place, "another slot proves nothing");
        assert_eq!(next.built_anew("build --workspace"), NONE, "{}", next.reason());
        assert_eq!(runs(&next), "base told");
        assert_eq!(next.shows("run --quiet --release -p app"), "base told");
        assert_eq!(tests(&next), "base helper 7");
        next.shows("check --quiet --workspace --tests");
        workshop.release(next);
    }
}

/// At another commit, what both have in common is the base's; and the way back is warm.
#[test]
fn a_slot_that_was_elsewhere_comes_back_warm() {
    let workshop = workshop();
    workshop.warm("main").expect("it can be built");
    crate::support::commit(&workshop.repo());
    write(&workshop.repo(), "part/src/lib.rs", &says("later"));
    let later = crate::support::commit(&workshop.repo());
    let first = workshop.lease(&later);
    let place = first.path();
    assert_eq!(runs(&first), "later told");
    assert_eq!(tests(&first), "later helper 7");
    workshop.release(first);
    let second = workshop.lease("main~1");
    assert_eq!(second.path(), place, "another slot proves nothing");
    assert_eq!(second.built_anew("build --workspace"), NONE, "{}", second.reason());
    assert_eq!(runs(&second), "base told");
    assert_eq!(tests(&second), "base helper 7");
    second.write("other/src/lib.rs", "pub fn other() {}\n");
    second.shows("build --quiet --workspace");
    workshop.release(second);
    let third = workshop.lease(&later);
    assert_eq!(runs(&third), "later told");
    assert!(!third.built_anew("build --workspace").contains(&"other".to_owned()));
    assert_eq!(tests(&third), "later helper 7");
}

/// Who is killed in the middle leaves a target that nobody uses.
#[test]
fn a_renewal_that_did_not_end_leaves_nothing() {
    let workshop = workshop();
    workshop.warm("main").expect("it can be built");
    let first = workshop.lease("main");
    let place = first.path();
    first.write("part/src/lib.rs", &says("mine"));
    assert_eq!(runs(&first), "mine told");
    workshop.release(first);
    let begun = place.parent().expect("it is in a slot").join(".renewing");
    std::fs::write(&begun, "").expect("written");
    // What would be believed if anything was.
    let program = place.join("target/debug/part");
    std::fs::write(&program, "half").expect("written");
    let second = workshop.lease("main");
    assert_eq!(second.path(), place, "another slot proves nothing");
    assert!(!begun.exists() && !program.exists());
    assert_eq!(second.built_anew("build --workspace"), NONE, "{}", second.reason());
    assert_eq!(runs(&second), "base told");
}
