//! A slot that is used again begins with what the base has, like a new one, and with nothing that its last holder built.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache_share::{Private, Seeded, Setup, SharedTarget};
use pool_core::CacheStrategy;

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
    workshop_with(|setup| Arc::new(Seeded::new(setup)))
}

fn workshop_with(cache: impl FnOnce(Setup) -> Arc<dyn CacheStrategy>) -> Workshop {
    let files = [
        (
            "Cargo.toml",
            "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"part\", \"other\"]\nexclude = [\"helper\"]\n",
        ),
        ("part/Cargo.toml", &package("part", "")),
        ("part/src/lib.rs", &says("base")),
        ("other/Cargo.toml", &package("other", "[dev-dependencies]\nitoa = \"1\"\n")),
        ("other/src/lib.rs", "#[test]\nfn other() {\n    itoa::Buffer::new().format(15);\n}\n"),
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
    ];
    Workshop::using(&files, cache)
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

/// As `sed -i.bak` and `mv` do: git sees nothing, and by its time the file is as old as it was.
#[cfg(unix)]
#[test]
fn what_was_put_back_with_its_old_time_is_noticed() {
    let workshop = workshop();
    workshop.warm("main").expect("it can be built");
    let first = workshop.lease("main");
    let place = first.path();
    let aside = |name: &str| {
        std::fs::rename(place.join(name), place.join("aside")).expect("moved");
    };
    let back = |name: &str| {
        let path = place.join(name);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).expect("removed");
        }
        std::fs::rename(place.join("aside"), path).expect("moved back");
    };
    aside("part/src/lib.rs");
    first.write("part/src/lib.rs", &says("mine"));
    assert_eq!(tests(&first), "mine helper 7");
    assert_eq!(runs(&first), "mine told");
    back("part/src/lib.rs");
    workshop.release(first);

    let second = workshop.lease("main");
    assert_eq!(second.path(), place, "another slot proves nothing");
    assert_eq!(runs(&second), "base told");
    assert_eq!(tests(&second), "base helper 7");
    assert_eq!(second.built_anew("build --workspace"), NONE, "{}", second.reason());
    // A directory, with files of which nothing changed at all.
    aside("helper/src");
    second.write("helper/src/lib.rs", &says("my helper"));
    assert_eq!(tests(&second), "base my helper 7");
    back("helper/src");
    workshop.release(second);

    let third = workshop.lease("main");
    assert_eq!(third.path(), place, "another slot proves nothing");
    assert_eq!(tests(&third), "base helper 7");
}

/// The same where nobody knows what belongs in a slot, and cargo alone decides.
#[cfg(unix)]
#[test]
fn what_was_put_back_is_noticed_by_strategies_without_a_base() {
    type Make = fn(Setup) -> Arc<dyn CacheStrategy>;
    let all: [Make; 2] = [|_| Arc::new(Private::new()), |setup| Arc::new(SharedTarget::new(setup))];
    for make in all {
        let workshop = Workshop::using(
            &[
                ("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"part\"]\n"),
                ("part/Cargo.toml", &package("part", "")),
                ("part/src/lib.rs", &says("base")),
                (
                    "app/Cargo.toml",
                    &package("app", "[dependencies]\npart = { path = \"../part\" }\n"),
                ),
                ("app/build.rs", BUILD),
                ("app/word.txt", "told"),
                ("app/src/main.rs", MAIN),
            ],
            make,
        );
        let mut lease = workshop.lease("main");
        let place = lease.path();
        assert_eq!(runs(&lease), "base told");
        for name in ["part/src/lib.rs", "app/word.txt", "part/src", "app"] {
            let (path, aside) = (place.join(name), place.join("aside"));
            let is_dir = path.is_dir();
            std::fs::rename(&path, &aside).expect("moved");
            if is_dir {
                let copied =
                    std::process::Command::new("cp").arg("-r").args([&aside, &path]).status();
                assert!(copied.expect("cp runs").success());
            }
            match name {
                "part/src/lib.rs" | "part/src" => lease.write("part/src/lib.rs", &says("mine")),
                _ => lease.write("app/word.txt", "mine"),
            }
            assert!(runs(&lease).contains("mine"), "{name}");
            if is_dir {
                std::fs::remove_dir_all(&path).expect("removed");
            }
            std::fs::rename(&aside, &path).expect("moved back");
            workshop.release(lease);
            lease = workshop.lease("main");
            assert_eq!(lease.path(), place, "another slot proves nothing");
            assert_eq!(runs(&lease), "base told", "{name}");
        }
    }
}

/// Another workspace has a target of its own; and so have tools, somewhere below the usual one.
#[test]
fn other_target_directories_have_nothing_of_the_last_holder() {
    let workshop = workshop();
    let tool = package("tool", "[workspace]\n[dependencies]\npart = { path = \"../part\" }\n");
    write(&workshop.repo(), "tool/Cargo.toml", &tool);
    write(
        &workshop.repo(),
        "tool/src/main.rs",
        "fn main() {\n    println!(\"{}\", part::word());\n}\n",
    );
    let lock = workshop.repo().join("tool/Cargo.lock");
    std::fs::write(lock, "version = 4\n\n[[package]]\nname = \"part\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"tool\"\nversion = \"0.1.0\"\ndependencies = [\n \"part\",\n]\n").expect("written");
    crate::support::commit(&workshop.repo());
    workshop.warm("main").expect("it can be built");
    let outside = "run --quiet --manifest-path tool/Cargo.toml";
    let below = "run --quiet -p app --target-dir target/some/tool";
    let first = workshop.lease("main");
    let place = first.path();
    first.write("part/src/lib.rs", &says("mine"));
    assert_eq!(first.shows(outside), "mine");
    assert_eq!(first.shows(below), "mine told");
    workshop.release(first);
    let second = workshop.lease("main");
    assert_eq!(second.path(), place, "another slot proves nothing");
    assert_eq!(second.shows(outside), "base");
    assert_eq!(second.shows(below), "base told");
    // Nor in a slot that has nothing of its own any more.
    second.write("part/src/lib.rs", &says("mine"));
    assert_eq!(second.shows(outside), "mine");
    second.shows("clean --quiet");
    workshop.release(second);
    let third = workshop.lease("main");
    assert_eq!(third.path(), place, "another slot proves nothing");
    assert_eq!(third.shows(outside), "base");
}

/// What is linked to has the old time, and another name than rustc wrote down.
#[cfg(unix)]
#[test]
fn what_was_made_by_way_of_a_link_is_outdated() {
    let workshop = workshop();
    write(&workshop.repo(), "common/word.rs", &says("base"));
    let link = workshop.repo().join("part/src/lib.rs");
    std::fs::remove_file(&link).expect("removed");
    std::os::unix::fs::symlink("../../common/word.rs", link).expect("linked");
    crate::support::commit(&workshop.repo());
    workshop.warm("main").expect("it can be built");
    let first = workshop.lease("main");
    let place = first.path();
    first.write("common/word.rs", &says("mine"));
    assert_eq!(first.shows("run --quiet --release -p app"), "mine told");
    workshop.release(first);
    let second = workshop.lease("main");
    assert_eq!(second.path(), place, "another slot proves nothing");
    assert_eq!(second.shows("run --quiet --release -p app"), "base told");
}

/// A macro reads a file and lists a directory, and tells nobody.
#[test]
fn what_was_read_silently_is_outdated_as_well() {
    let workshop = workshop();
    write(&workshop.repo(), "part/src/lib.rs", SILENT);
    write(&workshop.repo(), "part/Cargo.toml", &package("part", "[lib]\nproc-macro = true\n"));
    let main = "fn main() {\n    println!(\"{}\", part::word!(word));\n}\n";
    write(&workshop.repo(), "app/src/main.rs", main);
    let test = "#[test]\nfn says() {\n    println!(\"test says {}\", part::word!(other));\n}\n";
    write(&workshop.repo(), "app/tests/says.rs", test);
    write(&workshop.repo(), "data/word/1.txt", "base");
    write(&workshop.repo(), "data/other/1.txt", "base");
    let at = crate::support::commit(&workshop.repo());
    workshop.warm("main").expect("it can be built");
    // Where the base has nothing of this to give as well.
    write(&workshop.repo(), "data/word/1.txt", "later");
    let later = crate::support::commit(&workshop.repo());
    for (commit, word) in [(&at, "base"), (&later, "later")] {
        let first = workshop.lease(commit);
        let place = first.path();
        // Nothing was built there, so that all of it is built from what is there now.
        first.shows("clean --quiet");
        first.write("data/word/1.txt", "mine");
        first.write("data/other/1.txt", "mine");
        assert_eq!(runs(&first), "mine 1");
        assert_eq!(first.shows("run --quiet --release -p app"), "mine 1");
        assert_eq!(tests(&first), "mine 1");
        workshop.release(first);
        let second = workshop.lease(commit);
        assert_eq!(second.path(), place, "another slot proves nothing");
        assert_eq!(runs(&second), format!("{word} 1"));
        assert_eq!(second.shows("run --quiet --release -p app"), format!("{word} 1"));
        assert_eq!(tests(&second), "base 1");
        second.shows("clean --quiet");
        second.write("data/word/2.txt", "one more");
        assert_eq!(runs(&second), format!("{word} 2"));
        workshop.release(second);
        let third = workshop.lease(commit);
        assert_eq!(third.path(), place, "another slot proves nothing");
        assert_eq!(runs(&third), format!("{word} 1"));
        workshop.release(third);
    }
}

const SILENT: &str = "use proc_macro::TokenStream;\n\n\
    #[proc_macro]\npub fn word(name: TokenStream) -> TokenStream {\n    \
    let root = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap();\n    \
    let dir = format!(\"{root}/../data/{name}\");\n    \
    let word = std::fs::read_to_string(format!(\"{dir}/1.txt\")).unwrap();\n    \
    let count = std::fs::read_dir(dir).unwrap().count();\n    \
    format!(\"{:?}\", format!(\"{word} {count}\")).parse().unwrap()\n}\n";

/// What lies at the other end of a link is somebody else's: the user's own target directory, say.
#[cfg(unix)]
#[test]
fn nothing_is_written_where_the_last_holder_linked_to() {
    use std::os::unix::fs::symlink;

    use crate::support::{assert_same, look};

    let workshop = workshop();
    write(&workshop.repo(), ".gitignore", "target\n.env\n");
    crate::support::commit(&workshop.repo());
    workshop.warm("main").expect("it can be built");
    let elsewhere = workshop.repo().join("target");
    let first = workshop.lease("main");
    let place = first.path();
    first.write("part/src/lib.rs", &says("mine"));
    assert_eq!(tests(&first), "mine helper 7");
    std::fs::rename(place.join("target"), &elsewhere).expect("moved");
    symlink(&elsewhere, place.join("target")).expect("linked");
    let before = look(&elsewhere);
    workshop.release(first);

    let second = workshop.lease("main");
    assert_eq!(second.path(), place, "another slot proves nothing");
    assert_same(&before, &look(&elsewhere));
    assert_eq!(second.built_anew("build --workspace"), NONE, "{}", second.reason());
    assert_eq!(tests(&second), "base helper 7");
    // A part of it.
    second.write("part/src/lib.rs", &says("mine"));
    assert_eq!(tests(&second), "mine helper 7");
    let debug = workshop.repo().join("debug");
    std::fs::rename(place.join("target/debug"), &debug).expect("moved");
    symlink(&debug, place.join("target/debug")).expect("linked");
    let before = look(&debug);
    workshop.release(second);
    let third = workshop.lease("main");
    assert_eq!(third.path(), place, "another slot proves nothing");
    assert_same(&before, &look(&debug));
    assert_eq!(tests(&third), "base helper 7");
    // No directory at all.
    std::fs::remove_dir_all(place.join("target")).expect("removed");
    std::fs::write(place.join("target"), "").expect("written");
    workshop.release(third);
    let fourth = workshop.lease("main");
    assert_eq!(fourth.path(), place, "another slot proves nothing");
    assert_eq!(fourth.built_anew("build --workspace"), NONE, "{}", fourth.reason());
}

#[test]
fn what_the_last_holder_removed_or_emptied_is_given_again() {
    let workshop = workshop();
    workshop.warm("main").expect("it can be built");
    let first = workshop.lease("main");
    let place = first.path();
    first.shows("clean --quiet -p part");
    workshop.release(first);
    let second = workshop.lease("main");
    assert_eq!(second.path(), place, "another slot proves nothing");
    assert_eq!(second.built_anew("build --workspace"), NONE, "{}", second.reason());
    for entry in std::fs::read_dir(place.join("target/debug/deps")).expect("it is there") {
        let path = entry.expect("an entry").path();
        // Not in place: it is the base's, too.
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "").expect("written");
    }
    workshop.release(second);
    let third = workshop.lease("main");
    assert_eq!(third.path(), place, "another slot proves nothing");
    assert_eq!(runs(&third), "base told");
}

/// What a build script, or a test, finds where it was before.
#[test]
fn neither_scripts_nor_tests_find_what_they_left_for_the_last_holder() {
    let workshop = workshop();
    let lazy = "fn main() {\n    println!(\"cargo::rerun-if-changed=word.txt\");\n    \
        let path = std::env::var(\"OUT_DIR\").unwrap() + \"/word\";\n    \
        if !std::path::Path::new(&path).exists() {\n        \
        std::fs::copy(\"word.txt\", &path).unwrap();\n    }\n    \
        println!(\"cargo::rustc-env=WORD={}\", std::fs::read_to_string(path).unwrap());\n}\n";
    write(&workshop.repo(), "app/build.rs", lazy);
    let test = "#[test]\nfn says() {\n    \
        let path = concat!(env!(\"CARGO_TARGET_TMPDIR\"), \"/kept\");\n    \
        println!(\"test says {}\", std::path::Path::new(path).exists());\n    \
        std::fs::write(path, \"x\").unwrap();\n}\n";
    write(&workshop.repo(), "app/tests/says.rs", test);
    let at = crate::support::commit(&workshop.repo());
    workshop.warm("main").expect("it can be built");
    let first = workshop.lease(&at);
    let place = first.path();
    first.write("app/word.txt", "mine");
    assert_eq!(first.shows("run --quiet --release -p app"), "base mine");
    assert_eq!(tests(&first), "false");
    assert_eq!(tests(&first), "true");
    workshop.release(first);
    for _ in 0..2 {
        let next = workshop.lease(&at);
        assert_eq!(next.path(), place, "another slot proves nothing");
        assert_eq!(next.shows("run --quiet --release -p app"), "base told");
        assert_eq!(runs(&next), "base told");
        assert_eq!(tests(&next), "false");
        workshop.release(next);
    }
}

/// A file from the future is newer than whatever is made from it.
#[cfg(unix)]
#[test]
fn no_time_that_is_yet_to_come_stays() {
    let workshop = workshop();
    workshop.warm("main").expect("it can be built");
    write(&workshop.repo(), "part/src/lib.rs", &says("later"));
    let later = crate::support::commit(&workshop.repo());
    let first = workshop.lease(&later);
    let place = first.path();
    let file = std::fs::File::open(place.join("part/src/lib.rs")).expect("opened");
    let to_come = std::time::SystemTime::now() + std::time::Duration::from_secs(100_000);
    file.set_modified(to_come).expect("set");
    assert_eq!(runs(&first), "later told");
    workshop.release(first);
    let second = workshop.lease(&later);
    assert_eq!(second.path(), place, "another slot proves nothing");
    assert_eq!(runs(&second), "later told");
}

/// By its dates, what is outside is always older than the base.
#[test]
fn a_path_dependency_outside_of_the_repository_is_not_the_base_s() {
    let workshop = workshop();
    let outside = workshop.repo().with_file_name("outside");
    let change = |word: &str| {
        write(&outside, "src/lib.rs", &says(word));
        let file = std::fs::File::options().append(true).open(outside.join("src/lib.rs"));
        file.and_then(|file| file.set_modified(std::time::UNIX_EPOCH)).expect("set");
    };
    write(&outside, "Cargo.toml", &package("outside", "[workspace]\n"));
    change("before");
    let more = format!("[dependencies]\noutside = {{ path = {:?} }}\n", outside);
    write(&workshop.repo(), "other/Cargo.toml", &package("other", &more));
    let main = "fn main() {\n    println!(\"{}\", outside::word());\n}\n";
    write(&workshop.repo(), "other/src/main.rs", main);
    std::fs::remove_file(workshop.repo().join("other/src/lib.rs")).expect("removed");
    let mut lock = testkit::truth::cargo(&workshop.repo(), &Default::default());
    assert!(
        lock.args(["generate-lockfile", "--quiet", "--offline"]).status().expect("run").success()
    );
    crate::support::commit(&workshop.repo());
    workshop.warm("main").expect("it can be built");
    change("after");
    let lease = workshop.lease("main");
    assert!(lease.is_warm(), "{}", lease.reason());
    assert_eq!(lease.shows("run --quiet -p other"), "after");
}

/// The next holder finds no file of the last one, in any place and of any name.
#[test]
fn used_slot_has_the_same_files_as_a_new_one() {
    type Make = fn(Setup) -> Arc<dyn CacheStrategy>;
    let all: [(&str, Make); 3] = [
        ("seeded", |setup| Arc::new(Seeded::new(setup))),
        ("private", |_| Arc::new(Private::new())),
        ("shared-target", |setup| Arc::new(SharedTarget::new(setup))),
    ];
    for (strategy, make) in all {
        let workshop = workshop_with(make);
        workshop.warm("main").expect("it can be built");
        let first = workshop.lease("main");
        let place = first.path();
        first.shows("test --quiet --workspace");
        first.write("part/src/lib.rs", &says("mine"));
        first.shows("build --quiet --release --workspace");
        for path in [
            "target/debug/app",
            "target/db.txt",
            "target/c/part.o",
            "target/tmp/kept",
            "part/target/x",
        ] {
            let path = place.join(path);
            // It may have a second name in the base.
            drop(std::fs::remove_file(&path));
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            std::fs::write(path, "the last holder's").expect("written");
        }
        workshop.release(first);
        let used = workshop.lease("main");
        assert_eq!(used.path(), place, "another slot proves nothing");
        let new = workshop.lease("main");
        let [used, new] = [used, new].map(|lease| contents(&lease.path()));
        let paths = |all: &BTreeMap<PathBuf, Vec<u8>>| all.keys().cloned().collect::<Vec<_>>();
        assert_eq!(paths(&used), paths(&new), "{strategy}");
        for (path, content) in used {
            assert!(content == new[&path], "{strategy}: {} differs", path.display());
        }
    }
}

/// The files of a worktree, without git's.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = crate::support::look(dir).into_iter();
    let inside = all.filter_map(|(path, (_, content))| {
        Some((path.strip_prefix(dir).ok()?.to_owned(), content))
    });
    inside.filter(|(path, _)| !path.starts_with(".git")).collect()
}

/// A build script may have cached an answer in a file that git does not know, and the user's `.env` may be another.
#[test]
fn set_up_file_that_the_user_changed_is_seen_by_tests() {
    let workshop = workshop();
    write(&workshop.repo(), ".env", "A=1");
    let test = "#[test]\nfn says() {\n    println!(\"test says {}\", \
                include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/../.env\")));\n}\n";
    write(&workshop.repo(), "app/tests/says.rs", test);
    let at = crate::support::commit(&workshop.repo());
    workshop.warm("main").expect("it can be built");
    let first = workshop.lease(&at);
    let place = first.path();
    assert_eq!(tests(&first), "A=1");
    workshop.release(first);
    write(&workshop.repo(), ".env", "A=2");
    let old = std::fs::File::open(workshop.repo().join(".env")).expect("opened");
    old.set_modified(std::time::UNIX_EPOCH).expect("set");
    let second = workshop.lease(&at);
    assert_eq!(second.path(), place, "another slot proves nothing");
    assert_eq!(tests(&second), "A=2");
}
