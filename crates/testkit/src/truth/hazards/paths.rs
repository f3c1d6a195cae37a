//! Paths that cargo itself hands to what it builds, without tracking them. All leases start from the
//! same commit, so nothing but the path differs.

use super::{pair, single};
use crate::truth::Hazard;

pub(super) fn all() -> Vec<Hazard> {
    vec![
        manifest_dir(),
        out_dir(),
        bin_exe(),
        target_tmpdir(),
        locations(),
        backtrace(),
        test_backtrace(),
    ]
}

fn manifest_dir() -> Hazard {
    let lib = "pub fn version() -> &'static str {\n    env!(\"CARGO_MANIFEST_DIR\")\n}\n";
    let main = "fn main() {\n    println!(\"{} {}\", core_lib::version(), env!(\"CARGO_MANIFEST_PATH\"));\n}\n";
    pair("manifest-dir", "`env!(\"CARGO_MANIFEST_DIR\")` in a library and in a program")
        .file("core-lib/src/lib.rs", lib)
        .file("app/src/main.rs", main)
        .lease('A', 0)
        .lease('B', 0)
        .by_turns()
        .edit('A', "app/src/main.rs", format!("{main}\n// Edited.\n"))
        .cargo("A", "run")
        .cargo("B", "run")
}

fn out_dir() -> Hazard {
    let build = "use std::{env, fs, path::Path};\n\nfn main() {\n    \
        println!(\"cargo::rerun-if-changed=word.txt\");\n    \
        let word = fs::read_to_string(\"word.txt\").unwrap();\n    \
        let out = env::var(\"OUT_DIR\").unwrap();\n    \
        fs::write(Path::new(&out).join(\"word.rs\"), format!(\"const WORD: &str = {word:?};\")).unwrap();\n    \
        fs::write(Path::new(&out).join(\"word.txt\"), word).unwrap();\n}\n";
    // The file is read when the program runs, too.
    let main = "include!(concat!(env!(\"OUT_DIR\"), \"/word.rs\"));\n\nfn main() {\n    \
        let out = env!(\"OUT_DIR\");\n    \
        let now = std::fs::read_to_string(format!(\"{out}/word.txt\")).unwrap();\n    \
        println!(\"{WORD} {now} {out}\");\n}\n";
    single(
        "out-dir",
        "`env!(\"OUT_DIR\")`: what was generated, at build time and at run time",
        main,
    )
    .file("build.rs", build)
    .file("word.txt", "base")
    .commit([("word.txt", "other")])
    .lease('A', 0)
    .lease('B', 1)
    .by_turns()
    .edit('A', "word.txt", "edited")
    .cargo("A", "run")
    .program('B', "app")
    .cargo("B", "run")
}

fn bin_exe() -> Hazard {
    let main = |text| format!("fn main() {{\n    println!(\"{text}\");\n}}\n");
    let test = "#[test]\nfn runs() {\n    \
        let app = std::process::Command::new(env!(\"CARGO_BIN_EXE_app\")).output().unwrap();\n    \
        println!(\"the program said {}\", String::from_utf8(app.stdout).unwrap());\n}\n";
    let args = "test --test runs -- --nocapture";
    single("bin-exe", "a test that runs `env!(\"CARGO_BIN_EXE_*\")`", &main("base"))
        .file("tests/runs.rs", test)
        .commit([("src/main.rs", &main("other"))])
        .lease('A', 0)
        .lease('B', 1)
        .cargo("A", args)
        .cargo("B", args)
        .cargo("A", args)
        .edit('A', "src/main.rs", main("edited"))
        .cargo("A", args)
        .cargo("B", args)
}

fn target_tmpdir() -> Hazard {
    let test = "#[test]\nfn write() {\n    \
        let mine = concat!(env!(\"CARGO_TARGET_TMPDIR\"), \"/mine\");\n    \
        std::fs::write(mine, env!(\"CARGO_MANIFEST_DIR\")).unwrap();\n}\n\n\
        #[test]\nfn read() {\n    \
        let mine = concat!(env!(\"CARGO_TARGET_TMPDIR\"), \"/mine\");\n    \
        println!(\"{}\", std::fs::read_to_string(mine).unwrap());\n}\n";
    single("target-tmpdir", "tests that keep something in `CARGO_TARGET_TMPDIR`", "fn main() {}\n")
        .file("tests/keep.rs", test)
        .lease('A', 0)
        .lease('B', 0)
        .cargo("A", "test --test keep -- --exact write")
        .cargo("B", "test --test keep -- --exact write")
        .cargo("A", "test --test keep -- --exact read --nocapture")
        .cargo("B", "test --test keep -- --exact read --nocapture")
}

fn locations() -> Hazard {
    let lib = "#[track_caller]\npub fn version() -> String {\n    \
        format!(\"{} called from {}\", file!(), std::panic::Location::caller())\n}\n";
    pair("locations", "`file!()` and the caller's location, as panics show them")
        .file("core-lib/src/lib.rs", lib)
        .commit([
            ("core-lib/src/lib.rs", &format!("\n{lib}")),
            ("app/src/main.rs", "\n\nfn main() {\n    println!(\"{}\", core_lib::version());\n}\n"),
        ])
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
}

/// Only debug information has it, so neither a macro nor a variable is to blame.
fn backtrace() -> Hazard {
    let main = "fn main() {\n    \
        let all = std::backtrace::Backtrace::force_capture().to_string();\n    \
        all.lines().filter(|line| line.contains(\"main.rs\")).for_each(|line| println!(\"{line}\"));\n}\n";
    single("backtrace", "paths of sources in a backtrace", main)
        .of_debug_information()
        .lease('A', 0)
        .lease('B', 0)
        .by_turns()
        .edit('A', "src/main.rs", format!("{main}\n// Edited.\n"))
        .cargo("A", "run")
        .program('B', "app")
}

/// What a failing test shows. How many frames the standard library has of its own is no matter.
fn test_backtrace() -> Hazard {
    let main = |line: &str| {
        format!(
            "{line}fn main() {{}}\n\n#[cfg(test)]\nmod tests {{\n    fn inner() -> String {{\n        \
             std::backtrace::Backtrace::force_capture().to_string()\n    }}\n\n    #[test]\n    \
             fn outer() {{\n        for line in inner().lines() {{\n            \
             let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || \" :\".contains(c));\n            \
             if line.starts_with(\"app::\") || line.contains(\"main.rs\") {{\n                \
             println!(\"{{line}}\");\n            }}\n        }}\n    }}\n}}\n"
        )
    };
    let args = "test -- --nocapture";
    single("test-backtrace", "names and paths in the backtrace of a test", &main(""))
        .of_debug_information()
        .commit([("src/main.rs", &main("\n"))])
        .lease('A', 0)
        .lease('B', 1)
        .cargo("A", args)
        .cargo("B", args)
        .edit('A', "src/main.rs", main("\n\n"))
        .cargo("A", args)
        .cargo("B", args)
}
