//! The other things that cargo does beside building a program.

use super::{manifest, pair, says};
use crate::truth::Hazard;

pub(super) fn all() -> Vec<Hazard> {
    let mut all = vec![clippy(), check(), broken(), test(), doctest(), doc(), example()];
    if cfg!(unix) {
        all.push(linker_in_place());
    }
    all
}

fn clippy() -> Hazard {
    // A lint each, in lines and functions of their own.
    let one = "pub fn version() -> &'static str {\n    return \"one\";\n}\n";
    let two = "pub fn other(text: &str) -> bool {\n    text.len() == 0\n}\n\n\
               pub fn version() -> &'static str {\n    \"two\"\n}\n";
    pair("clippy", "`cargo clippy`, which replaces the workspace wrapper and replays warnings")
        .commit([("core-lib/src/lib.rs", one)])
        .commit([("core-lib/src/lib.rs", two)])
        .lease('A', 1)
        .lease('B', 2)
        .cargo("A", "clippy")
        .cargo("B", "clippy")
        .cargo("A", "clippy")
        .cargo("B", "build")
        .cargo("A", "build")
        .cargo("B", "clippy --all-targets")
        .edit('A', "core-lib/src/lib.rs", two)
        .cargo("A", "clippy")
        .program('B', "app")
}

fn check() -> Hazard {
    let unused = |name: &str| format!("fn {name}() {{}}\n\n{}", says(name));
    pair("check", "`cargo check`, with other warnings in the other checkout")
        .commit([("core-lib/src/lib.rs", &unused("idle_one"))])
        .commit([("core-lib/src/lib.rs", &unused("idle_two"))])
        .lease('A', 1)
        .lease('B', 2)
        .cargo("A", "check")
        .cargo("B", "check")
        .cargo("A", "check --all-targets")
        .cargo("B", "check --all-targets")
        .cargo("A", "check")
        .cargo("AB", "check")
}

fn broken() -> Hazard {
    let broken = "pub fn version() -> &'static str {\n    42\n}\n";
    pair("broken-code", "code that does not compile in one checkout only")
        .lease('A', 0)
        .lease('B', 0)
        .edit('B', "core-lib/src/lib.rs", broken)
        .cargo("A", "check")
        .cargo_fails('B', "check")
        .cargo("A", "build")
        .cargo_fails('B', "build")
        .program('A', "app")
        .cargo("A", "run")
        .edit('B', "core-lib/src/lib.rs", says("mended"))
        .cargo("B", "run")
        .cargo("A", "run")
}

fn test() -> Hazard {
    let lib = |text: &str| {
        let tests = "#[cfg(test)]\nmod tests {\n    #[test]\n    fn said() {\n        \
                     println!(\"tested {}\", super::version());\n    }\n}\n";
        format!("{}\n{tests}", says(text))
    };
    let outer = "#[test]\nfn outer() {\n    println!(\"outer {}\", core_lib::version());\n}\n";
    let args = "test -- --nocapture --test-threads=1";
    pair("test", "`cargo test`: tests in the library, and beside it")
        .file("core-lib/src/lib.rs", lib("base"))
        .file("core-lib/tests/outer.rs", outer)
        .commit([("core-lib/src/lib.rs", &lib("one"))])
        .commit([("core-lib/src/lib.rs", &lib("two"))])
        .lease('A', 1)
        .lease('B', 2)
        .cargo("A", args)
        .cargo("B", args)
        .cargo("A", args)
}

/// As mold does: it writes into the file that is there, also if that has other names.
fn linker_in_place() -> Hazard {
    let linker = "#!/bin/sh\nout=\nlast=\nleft=$#\nwhile [ $left -gt 0 ]; do\n    word=$1\n    shift\n    \
        if [ \"$last\" = -o ]; then\n        out=$word\n        word=$out.linked\n    fi\n    last=$word\n    \
        set -- \"$@\" \"$word\"\n    left=$((left - 1))\ndone\n\
        cc \"$@\" || exit\ncat \"$out.linked\" > \"$out\"\nchmod +x \"$out\"\nrm \"$out.linked\"\n";
    let outer = |text: &str| {
        format!("#[test]\nfn outer() {{\n    println!(\"{text} {{}}\", core_lib::version());\n}}\n")
    };
    let args = "test -- --nocapture --test-threads=1";
    pair("linker-in-place", "a linker that writes into the file that is there, as mold does")
        .file(".cargo/config.toml", "[build]\nrustflags = [\"-Clinker=tools/linker.sh\"]\n")
        .file("tools/linker.sh", linker)
        .file("core-lib/tests/outer.rs", outer("outer"))
        .lease('A', 0)
        .lease('B', 0)
        .edit('A', "core-lib/tests/outer.rs", outer("edited"))
        .cargo("A", args)
        .cargo("B", args)
        .edit('B', "core-lib/src/lib.rs", says("edited"))
        .cargo("B", args)
        .cargo("A", args)
}

fn doctest() -> Hazard {
    let lib = |text: &str| {
        format!(
            "/// ```\n/// assert_eq!(core_lib::version(), \"{text}\");\n/// ```\n{}",
            says(text)
        )
    };
    pair("doctest", "`cargo test --doc`: each library against its own examples")
        .file("core-lib/src/lib.rs", lib("base"))
        .commit([("core-lib/src/lib.rs", &lib("one"))])
        .commit([("core-lib/src/lib.rs", &format!("\n\n{}", lib("two")))])
        .lease('A', 1)
        .lease('B', 2)
        .cargo("A", "test --doc")
        .cargo("B", "test --doc")
        .cargo("A", "test --doc")
}

fn doc() -> Hazard {
    let lib = |text: &str| format!("//! The {text} library.\n\n{}", says(text));
    pair("doc", "`cargo doc`, and the pages that lie there afterwards")
        .file("core-lib/src/lib.rs", lib("base"))
        .commit([("core-lib/src/lib.rs", &lib("first"))])
        .commit([("core-lib/src/lib.rs", &lib("second"))])
        .lease('A', 1)
        .lease('B', 2)
        .cargo("A", "doc --no-deps -p core-lib")
        .cargo("B", "doc --no-deps -p core-lib")
        .page('A', "core_lib")
        .page('B', "core_lib")
        .cargo("A", "doc --no-deps -p core-lib")
}

fn example() -> Hazard {
    let show = "fn main() {\n    println!(\"shown: {}\", core_lib::version());\n}\n";
    pair("example", "`cargo run --example`, and an optional target that only one checkout has")
        .file("core-lib/examples/show.rs", show)
        .commit([
            ("core-lib/src/lib.rs", &says("one")),
            ("core-lib/src/bin/extra.rs", "fn main() {\n    println!(\"extra\");\n}\n"),
        ])
        .commit([
            ("core-lib/src/lib.rs", &says("two")),
            ("core-lib/Cargo.toml", &manifest("core-lib", "")),
        ])
        .lease('A', 1)
        .lease('B', 2)
        .cargo("A", "run -p core-lib --example show")
        .cargo("B", "run -p core-lib --example show")
        .cargo("A", "run -p core-lib --bin extra")
        .cargo_fails('B', "run -p core-lib --bin extra")
        .cargo("A", "run -p core-lib --example show")
}
