//! The base never changes, whatever is done in the slots that start from it.

use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Lease, Workshop, assert_same, look, write};

const LEASES: usize = 30;

/// A build script that writes into the same files of `OUT_DIR` each time.
fn build_rs(word: &str) -> String {
    format!(
        "use std::io::Write;\n\nfn main() {{\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
         let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
         let file = std::fs::File::options().create(true).truncate(false).write(true)\
         .open(format!(\"{{out}}/word.txt\"));\n    \
         file.unwrap().write_all(b\"{word}\").unwrap();\n}}\n"
    )
}

fn says(word: &str) -> String {
    format!(
        "pub fn word() -> String {{\n    \
         format!(\"{word} {{}}\", include_str!(concat!(env!(\"OUT_DIR\"), \"/word.txt\")))\n}}\n\n\
         #[test]\nfn it_speaks() {{\n    assert!(!word().is_empty());\n}}\n"
    )
}

const MAIN: &str =
    "fn main() {\n    println!(\"{} {}\", part::word(), itoa::Buffer::new().format(7));\n}\n";

fn workshop() -> Workshop {
    Workshop::with(
        &[
            (
                "Cargo.toml",
                "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"part\", \"tool\"]\n",
            ),
            (
                "tool/Cargo.toml",
                "[package]\nname = \"tool\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
            ),
            ("tool/src/main.rs", "fn main() {\n    println!(\"a tool\");\n}\n"),
            (
                "app/Cargo.toml",
                "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
                 [dependencies]\npart = { path = \"../part\" }\nitoa = \"1\"\n",
            ),
            ("app/src/main.rs", MAIN),
            (
                "part/Cargo.toml",
                "[package]\nname = \"part\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
            ),
            ("part/build.rs", &build_rs("base")),
            ("part/src/lib.rs", &says("base")),
        ],
        |setup| {
            let all = "cargo build --workspace && cargo test --workspace --no-run";
            setup.warm_command = Some(all.to_owned());
        },
    )
}

/// What agents do. Each begins with a build, and then does one of these things.
fn work(lease: &Lease, number: usize) {
    assert!(lease.is_warm(), "{}", lease.reason());
    assert_eq!(lease.shows("run --quiet -p app"), "base base 7");
    let mine = format!("{number:04}");
    match number % 6 {
        0 => {
            lease.write("part/src/lib.rs", &says(&mine));
            lease.shows("test --quiet --workspace");
            assert_eq!(lease.shows("run --quiet -p app"), format!("{mine} base 7"));
        }
        1 => {
            lease.shows("clean --quiet");
            assert_eq!(lease.shows("run --quiet -p app"), "base base 7");
        }
        2 => {
            lease.write("part/build.rs", &build_rs(&mine));
            assert_eq!(lease.shows("run --quiet -p app"), format!("base {mine} 7"));
        }
        3 => in_place(lease),
        4 => {
            // In `OUT_DIR` itself, as a build script may that runs again.
            let build = lease.path().join("target/debug/build");
            for entry in fs::read_dir(build).expect("built").flatten() {
                let word = entry.path().join("out/word.txt");
                if word.is_file() {
                    let file = fs::File::options().write(true).open(word);
                    file.and_then(|mut file| file.write_all(b"mine")).expect("written");
                }
            }
            lease.write("app/src/main.rs", &format!("{MAIN}// {mine}\n"));
            lease.shows("test --quiet --workspace");
        }
        _ => {
            lease.shows("clean --quiet -p part");
            lease.shows("build --quiet --release -p app");
            assert_eq!(lease.shows("run --quiet -p app"), "base base 7");
        }
    }
}

/// What `strip`, `patchelf`, `cp`, `touch` and `chmod` do to a program.
fn in_place(lease: &Lease) {
    // As it was given: `app` was linked in the slot itself.
    let program = lease.path().join("target/debug/tool");
    let mut file = fs::File::options().write(true).open(&program).expect("it was built");
    file.write_all(b"#!/bin/sh\necho mine\n").expect("written");
    file.set_len(20).expect("cut");
    file.set_modified(std::time::SystemTime::now()).expect("touched");
    drop(file);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("one's own");
        let said = std::process::Command::new(&program).output().expect("it runs").stdout;
        assert_eq!(String::from_utf8_lossy(&said), "mine\n");
    }
}

#[test]
fn the_base_never_changes() {
    let workshop = workshop();
    workshop.warm("main").expect("it can be built");
    let base = workshop.base(1);
    let before = look(&base);
    let leases: Vec<Lease> = (0..LEASES).map(|_| workshop.lease("main")).collect();
    // One does nothing at all.
    let bystander = workshop.lease("main");
    let untouched = look(&bystander.path());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(lease) = leases.get(number) else { break };
                    work(lease, number);
                }
            });
        }
    });
    assert_same(&before, &look(&base));
    assert_same(&untouched, &look(&bystander.path()));
    assert_eq!(bystander.shows("run --quiet -p tool"), "a tool");
    assert!(!bystander.built_anew("build --workspace").contains(&"itoa".to_owned()));
    for lease in leases {
        workshop.release(lease);
    }
    workshop.block_on(workshop.pool().cache().expect("there is one").trim(0)).expect("trimmed");
    assert_same(&before, &look(&base));
    assert_eq!(bystander.shows("run --quiet -p app"), "base base 7");
}

/// Those who began with the old base go on; those who come later begin with the new one.
#[test]
fn a_new_base_leaves_the_old_one_to_those_who_have_it() {
    let workshop = workshop();
    workshop.warm("main").expect("it can be built");
    let early = workshop.lease("main");
    let before = look(&workshop.base(1));
    write(&workshop.repo(), "part/src/lib.rs", &says("new"));
    crate::support::commit(&workshop.repo());
    workshop.warm("main").expect("it can be built");
    let late = workshop.lease("main");
    assert!(late.is_warm(), "{}", late.reason());
    assert_eq!(late.shows("run --quiet -p app"), "new base 7");
    early.write("app/src/main.rs", &format!("{MAIN}// Edited.\n"));
    assert!(!early.built_anew("build --workspace").contains(&"itoa".to_owned()));
    assert_eq!(early.shows("run --quiet -p app"), "base base 7");
    assert_same(&before, &look(&workshop.base(1)));
}

/// A link may lead to what is not the pool's.
#[cfg(unix)]
#[test]
fn what_a_link_leads_to_is_left_alone() {
    let workshop = workshop();
    let outside = workshop.repo().with_file_name("outside.txt");
    fs::write(&outside, "theirs").expect("written");
    std::os::unix::fs::symlink(&outside, workshop.repo().join("link.txt")).expect("linked");
    crate::support::commit(&workshop.repo());
    let before = look(&outside);
    workshop.warm("main").expect("it can be built");
    let lease = workshop.lease("main");
    assert!(lease.is_warm(), "{}", lease.reason());
    assert_same(&before, &look(&outside));
}
