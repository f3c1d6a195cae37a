//! Build scripts.

use super::{manifest, single};
use crate::truth::Hazard;

pub(super) fn all() -> Vec<Hazard> {
    let mut all = vec![
        baked_path(),
        baked_into_a_file(),
        without_rerun(),
        dot_env(),
        git_head(),
        git_head_again(),
        git_head_told(),
        configured_env(),
        absolute_rerun(),
        links(),
        in_place(),
        in_place_elsewhere(),
        generated_source(),
        rewritten_source(),
        profile(),
        probe(),
    ];
    if cfg!(unix) {
        all.extend([objects(), links_in_out_dir()]);
    }
    all
}

/// A package whose build script has this body, and whose program prints what the script made known as
/// `BAKED`.
fn baked(name: &'static str, about: &'static str, body: &str) -> Hazard {
    let main = "fn main() {\n    println!(\"{}\", env!(\"BAKED\"));\n}\n";
    single(name, about, main).file("build.rs", format!("fn main() {{\n{body}}}\n"))
}

fn baked_path() -> Hazard {
    let body = "    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
        println!(\"cargo::rustc-env=BAKED={}\", std::env::current_dir().unwrap().display());\n";
    baked("baked-path", "a build script that bakes a path into `cargo::rustc-env`", body)
        .lease('A', 0)
        .lease('B', 0)
        .by_turns()
        .edit('A', "src/main.rs", "fn main() {\n    println!(\"edited {}\", env!(\"BAKED\"));\n}\n")
        .cargo("A", "run")
        .cargo("B", "run")
}

fn baked_into_a_file() -> Hazard {
    let build = "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
        let here = std::env::current_dir().unwrap();\n    \
        let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
        std::fs::write(format!(\"{out}/here.rs\"), format!(\"const HERE: &str = {here:?};\")).unwrap();\n}\n";
    let main = "include!(concat!(env!(\"OUT_DIR\"), \"/here.rs\"));\n\n\
        fn main() {\n    println!(\"{HERE}\");\n}\n";
    single("baked-into-a-file", "a build script that bakes a path into a file in `OUT_DIR`", main)
        .file("build.rs", build)
        .lease('A', 0)
        .lease('B', 0)
        .by_turns()
        .edit('B', "src/main.rs", format!("{main}\n// Edited.\n"))
        .cargo("B", "run")
}

fn without_rerun() -> Hazard {
    let body = "    println!(\"cargo::rustc-env=BAKED={}\", \
        std::fs::read_to_string(\"data/word.txt\").unwrap());\n";
    baked("no-rerun-if", "a build script that tells nothing of what it reads", body)
        .file("data/word.txt", "base")
        .commit([("data/word.txt", "other")])
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
        .edit('A', "data/word.txt", "edited")
        .cargo("A", "run")
        .cargo("B", "run")
}

/// cargo looks for changes in what git knows. A cache that was made without the file must not hide it.
fn dot_env() -> Hazard {
    let body = "    println!(\"cargo::rustc-env=BAKED={}\", \
        std::fs::read_to_string(\".env\").unwrap_or(\"no .env\".into()));\n";
    baked("dot-env", "a build script that reads a `.env`, which git ignores", body)
        .dot_env("SECRET")
        .lease('A', 0)
        .lease('B', 0)
        .by_turns()
}

/// Only a file outside the package differs, so for cargo nothing has changed.
fn git_head() -> Hazard {
    heads("git-head", "a build script that runs `git rev-parse HEAD`")
        .lease('A', 1)
        .lease('B', 2)
        .by_turns()
}

/// The same, in a slot that was built in before.
fn git_head_again() -> Hazard {
    heads("git-head-again", "the same, in a slot that is used again for another commit")
        .lease('A', 1)
        .lease('B', 2)
        .cargo("A", "build")
        .cargo("B", "build")
        .program('A', "app")
        .release('A')
        .lease_after('A', 'C', 2)
        .cargo("C", "run")
        .release('B')
        .lease_after('B', 'D', 1)
        .cargo("CD", "run")
}

/// Who tells something has not told all.
fn git_head_told() -> Hazard {
    let name = "git-head-told";
    let what = "a build script that runs git, and asks to run again if it is itself changed";
    let told = "use std::process::Command;\n\nfn main() {\n    \
        println!(\"cargo::rerun-if-changed=build.rs\");\n    \
        let head = Command::new(\"git\").args([\"rev-parse\", \"HEAD\"]).output().unwrap();\n    \
        println!(\"cargo::rustc-env=BAKED={}\", String::from_utf8(head.stdout).unwrap().trim());\n}\n";
    heads(name, what).file("app/build.rs", told).lease('A', 1).lease('B', 2).by_turns()
}

/// Cargo hands it on, and keeps track of it for `env!` only.
fn configured_env() -> Hazard {
    let build = "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
        let word = std::env::var(\"WORD\").unwrap();\n    \
        println!(\"cargo::rustc-env=BAKED={word}\");\n}\n";
    let config = |word: &str| format!("[env]\nWORD = \"{word}\"\n");
    Hazard::new(
        "configured-env",
        "a build script that reads a variable of the repository's `[env]`",
    )
    .file("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"app\"]\n")
    .file(".cargo/config.toml", config("base"))
    .file("app/Cargo.toml", manifest("app", ""))
    .file("app/build.rs", build)
    .file("app/src/main.rs", "fn main() {\n    println!(\"{}\", env!(\"BAKED\"));\n}\n")
    .commit([(".cargo/config.toml", &config("one"))])
    .commit([(".cargo/config.toml", &config("two"))])
    .lease('A', 1)
    .lease('B', 2)
    .by_turns()
}

fn heads(name: &'static str, what: &'static str) -> Hazard {
    let build = "use std::process::Command;\n\nfn main() {\n    \
        let head = Command::new(\"git\").args([\"rev-parse\", \"HEAD\"]).output().unwrap();\n    \
        println!(\"cargo::rustc-env=BAKED={}\", String::from_utf8(head.stdout).unwrap().trim());\n}\n";
    Hazard::new(name, what)
        .file("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"app\"]\n")
        .file("notes.txt", "base\n")
        .file("app/Cargo.toml", manifest("app", ""))
        .file("app/build.rs", build)
        .file("app/src/main.rs", "fn main() {\n    println!(\"{}\", env!(\"BAKED\"));\n}\n")
        .commit([("notes.txt", "one\n")])
        .commit([("notes.txt", "two\n")])
}

/// What cargo keeps of the script's output has the path of where it ran.
fn absolute_rerun() -> Hazard {
    let build = "fn main() {\n    \
        let word = std::env::current_dir().unwrap().join(\"../word.txt\").canonicalize().unwrap();\n    \
        println!(\"cargo::rerun-if-changed={}\", word.display());\n    \
        println!(\"cargo::rustc-env=BAKED={}\", std::fs::read_to_string(word).unwrap());\n}\n";
    Hazard::new("absolute-rerun-if", "`cargo::rerun-if-changed` with an absolute path")
        .file("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"app\"]\n")
        .file("word.txt", "base")
        .file("app/Cargo.toml", manifest("app", ""))
        .file("app/build.rs", build)
        .file("app/src/main.rs", "fn main() {\n    println!(\"{}\", env!(\"BAKED\"));\n}\n")
        .lease('A', 0)
        .lease('B', 0)
        .edit('B', "word.txt", "other")
        .by_turns()
        .edit('A', "word.txt", "edited")
        .cargo("A", "run")
        .cargo("B", "run")
}

/// `DEP_*` variables carry a path from one build script to the next.
fn links() -> Hazard {
    let sys = "fn main() {\n    println!(\"cargo::rerun-if-changed=word.txt\");\n    \
        let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
        std::fs::copy(\"word.txt\", format!(\"{out}/word.txt\")).unwrap();\n    \
        println!(\"cargo::metadata=root={out}\");\n}\n";
    let build = "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
        let root = std::env::var(\"DEP_THING_ROOT\").unwrap();\n    \
        println!(\"cargo::rustc-env=BAKED={}\", \
        std::fs::read_to_string(format!(\"{root}/word.txt\")).unwrap());\n    \
        println!(\"cargo::rustc-env=ROOT={root}\");\n}\n";
    let main = "fn main() {\n    println!(\"{} {}\", env!(\"BAKED\"), env!(\"ROOT\"));\n}\n";
    let what = "a `links` package that hands its `OUT_DIR` to dependents";
    with_thing_sys("links-metadata", what, sys, build, main)
        .by_turns()
        .edit('A', "thing-sys/word.txt", "edited")
        .cargo("A", "run")
        .edit('A', "build.rs", format!("{build}\n// Edited.\n"))
        .cargo("A", "run")
        .cargo("B", "run")
}

/// A file that is written in place keeps its inode, and with it all its other names.
fn in_place() -> Hazard {
    let build = "fn main() {\n    println!(\"cargo::rerun-if-changed=word.txt\");\n    \
        let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
        std::fs::write(format!(\"{out}/word.txt\"), std::fs::read(\"word.txt\").unwrap()).unwrap();\n}\n";
    let main = "fn main() {\n    \
        println!(\"{}\", std::fs::read_to_string(concat!(env!(\"OUT_DIR\"), \"/word.txt\")).unwrap());\n}\n";
    single("in-place", "a build script that rewrites a file in `OUT_DIR` in place", main)
        .file("build.rs", build)
        .file("word.txt", "base")
        .lease('A', 0)
        .lease('B', 0)
        .cargo("B", "build")
        .cargo("A", "build")
        .edit('A', "word.txt", "edited")
        .cargo("A", "run")
        .program('B', "app")
        .lease('C', 0)
        .cargo("C", "run")
        .cargo("B", "run")
}

/// Its directory is another script's, which has run before. For cargo, nothing has changed there.
fn in_place_elsewhere() -> Hazard {
    let sys = "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
        let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
        std::fs::write(format!(\"{out}/word.txt\"), \"nothing\").unwrap();\n    \
        println!(\"cargo::metadata=root={out}\");\n}\n";
    let build = "use std::io::Write;\n\nfn main() {\n    \
        println!(\"cargo::rerun-if-changed=data/word.txt\");\n    \
        let root = std::env::var(\"DEP_THING_ROOT\").unwrap();\n    \
        let mut file = std::fs::File::options().write(true).open(format!(\"{root}/word.txt\")).unwrap();\n    \
        file.write_all(&std::fs::read(\"data/word.txt\").unwrap()).unwrap();\n}\n";
    Hazard::new(
        "in-place-elsewhere",
        "a build script that writes into a file in another one's `OUT_DIR`",
    )
    .file("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"thing-sys\"]\n")
    .file(
        "app/Cargo.toml",
        manifest("app", "[dependencies]\nthing-sys = { path = \"../thing-sys\" }\n"),
    )
    .file("app/src/main.rs", "fn main() {\n    println!(\"{}\", thing_sys::word());\n}\n")
    .file("app/build.rs", build)
    .file("app/data/word.txt", "base 01")
    .file("thing-sys/Cargo.toml", manifest("thing-sys", "links = \"thing\"\n"))
    .file("thing-sys/build.rs", sys)
    .file(
        "thing-sys/src/lib.rs",
        "pub fn word() -> String {\n    \
         std::fs::read_to_string(concat!(env!(\"OUT_DIR\"), \"/word.txt\")).unwrap()\n}\n",
    )
    .commit([("app/data/word.txt", "other 2")])
    .commit([])
    .without("app/build.rs")
    .lease('A', 0)
    .lease('B', 1)
    .by_turns()
    .edit('A', "app/data/word.txt", "edited3")
    .cargo("A", "run")
    .program('B', "app")
    .lease('C', 0)
    .cargo("C", "run")
    .lease('D', 2)
    .cargo("D", "run")
    .cargo("B", "run")
}

/// What a script is told of how it is all compiled, and how it was compiled itself.
fn profile() -> Hazard {
    let build = "fn main() {\n    println!(\"cargo::rerun-if-changed=word.txt\");\n    \
        let told = [\"PROFILE\", \"DEBUG\", \"OPT_LEVEL\"].map(|name| std::env::var(name).unwrap());\n    \
        let word = std::fs::read_to_string(\"word.txt\").unwrap();\n    \
        println!(\"cargo::rustc-env=BAKED={word} {told:?} {}\", cfg!(debug_assertions));\n}\n";
    let main =
        "fn main() {\n    println!(\"{} {}\", env!(\"BAKED\"), cfg!(debug_assertions));\n}\n";
    single("script-profile", "a build script that asks for `PROFILE` and `DEBUG`", main)
        .file("build.rs", build)
        .file("word.txt", "base")
        .commit([("word.txt", "other")])
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
        .edit('B', "build.rs", format!("{build}\n// Edited.\n"))
        .cargo("B", "run")
        .cargo("A", "run --release")
        .cargo("A", "run")
}

/// As autocfg does it: through the wrapper that cargo names, if it names one.
fn probe() -> Hazard {
    let build = "use std::{env, process::Command};\n\nfn main() {\n    \
        println!(\"cargo::rerun-if-changed=probe.rs\");\n    \
        let rustc = env::var_os(\"RUSTC\").unwrap();\n    \
        let wrapper = env::var_os(\"RUSTC_WRAPPER\").filter(|wrapper| !wrapper.is_empty());\n    \
        let mut command = match wrapper {\n        \
        Some(wrapper) => {\n            let mut command = Command::new(wrapper);\n            \
        command.arg(rustc);\n            command\n        }\n        \
        None => Command::new(rustc),\n    };\n    \
        command.args([\"--crate-name\", \"probe\", \"--crate-type=lib\", \"--emit=metadata\", \"--out-dir\"]);\n    \
        command.arg(env::var_os(\"OUT_DIR\").unwrap()).arg(\"probe.rs\");\n    \
        let said = command.output().unwrap();\n    \
        println!(\"cargo::rustc-env=BAKED={} {}\", said.status.success(), said.stderr.is_empty());\n}\n";
    let main = "fn main() {\n    println!(\"{}\", env!(\"BAKED\"));\n}\n";
    single("compiler-probe", "a build script that tries what the compiler takes", main)
        .file("build.rs", build)
        .file("probe.rs", "pub fn good() {}\n")
        .commit([("probe.rs", "pub fn bad() -> u8 {}\n")])
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
        .edit('A', "probe.rs", "fn unused() {}\n")
        .cargo("A", "run")
        .cargo("B", "run")
}

/// As with the crate `cc`, and as with assembler: one object is linked as it lies there, one from an archive.
fn objects() -> Hazard {
    let build = "use std::{env, process::Command};\n\nfn run(command: &mut Command) {\n    \
        assert!(command.status().unwrap().success());\n}\n\nfn main() {\n    \
        println!(\"cargo::rerun-if-changed=c\");\n    \
        let out = env::var(\"OUT_DIR\").unwrap();\n    \
        for part in [\"loose\", \"packed\"] {\n        \
        let (from, to) = (format!(\"c/{part}.c\"), format!(\"{out}/{part}.o\"));\n        \
        run(Command::new(\"cc\").args([\"-c\", &from, \"-o\", &to]));\n    }\n    \
        let archive = format!(\"{out}/libpacked.a\");\n    \
        run(Command::new(\"ar\").args([\"crs\", &archive, &format!(\"{out}/packed.o\")]));\n    \
        println!(\"cargo::rustc-link-arg-bins={out}/loose.o\");\n    \
        println!(\"cargo::rustc-link-search=native={out}\");\n    \
        println!(\"cargo::rustc-link-lib=static=packed\");\n}\n";
    let main = "extern \"C\" {\n    fn loose() -> i32;\n    fn packed() -> i32;\n}\n\n\
        fn main() {\n    println!(\"{} {}\", unsafe { loose() }, unsafe { packed() });\n}\n";
    let gives = |name: &str, value: u8| format!("int {name}(void) {{ return {value}; }}\n");
    single("objects", "a build script that compiles C to objects in `OUT_DIR`", main)
        .file("build.rs", build)
        .file("c/loose.c", gives("loose", 1))
        .file("c/packed.c", gives("packed", 1))
        .commit([("c/loose.c", &gives("loose", 2))])
        .commit([("c/packed.c", &gives("packed", 3))])
        .lease('A', 1)
        .lease('B', 2)
        .by_turns()
        .edit('A', "c/packed.c", gives("packed", 4))
        .cargo("A", "run")
        .lease('C', 0)
        .edit('C', "src/main.rs", format!("{main}\n// Edited.\n"))
        .cargo("C", "run")
        .cargo("B", "run")
}

/// A program with these build scripts of its own and of a `links` package, of which two commits are
/// leased.
fn with_thing_sys(
    name: &'static str,
    about: &'static str,
    sys: &str,
    build: &str,
    main: &str,
) -> Hazard {
    single(name, about, main)
        .file(
            "Cargo.toml",
            manifest("app", "[dependencies]\nthing-sys = { path = \"thing-sys\" }\n[workspace]\n"),
        )
        .file("build.rs", build)
        .file("thing-sys/Cargo.toml", manifest("thing-sys", "links = \"thing\"\n"))
        .file("thing-sys/build.rs", sys)
        .file("thing-sys/word.txt", "base")
        .file("thing-sys/src/lib.rs", "")
        .commit([("thing-sys/word.txt", "other")])
        .lease('A', 0)
        .lease('B', 1)
}

/// As libraries lie that have a version: a link, and what it leads to.
fn links_in_out_dir() -> Hazard {
    let sys = "use std::{env, fs, os::unix::fs::symlink, path::Path};\n\nfn main() {\n    \
        println!(\"cargo::rerun-if-changed=word.txt\");\n    \
        let out = env::var(\"OUT_DIR\").unwrap();\n    let out = Path::new(&out);\n    \
        fs::create_dir_all(out.join(\"empty\")).unwrap();\n    \
        fs::copy(\"word.txt\", out.join(\"word.txt.1\")).unwrap();\n    \
        let _ = fs::remove_file(out.join(\"word.txt\"));\n    \
        symlink(\"word.txt.1\", out.join(\"word.txt\")).unwrap();\n    \
        println!(\"cargo::metadata=root={}\", out.display());\n}\n";
    let build = "use std::{env, fs};\n\nfn main() {\n    \
        println!(\"cargo::rerun-if-changed=build.rs\");\n    \
        let root = env::var(\"DEP_THING_ROOT\").unwrap();\n    \
        let word = fs::read_to_string(format!(\"{root}/word.txt\")).unwrap();\n    \
        let empty = fs::read_dir(format!(\"{root}/empty\")).unwrap().count();\n    \
        println!(\"cargo::rustc-env=BAKED={word} {empty}\");\n}\n";
    let main = "fn main() {\n    println!(\"{}\", env!(\"BAKED\"));\n}\n";
    let what = "links and empty directories in `OUT_DIR`";
    with_thing_sys("links-in-out-dir", what, sys, build, main)
        .edit('A', "build.rs", format!("{build}\n// Edited.\n"))
        .by_turns()
}

/// A program that prints what a source file says, into which its build script writes `made`.
fn generating(name: &'static str, about: &'static str) -> Hazard {
    let build = "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
        std::fs::write(\"src/part.rs\", \"pub const TEXT: &str = \\\"made\\\";\\n\").unwrap();\n}\n";
    let main = "mod part;\n\nfn main() {\n    println!(\"{}\", part::TEXT);\n}\n";
    single(name, about, main)
        .file("build.rs", build)
        .lease('A', 0)
        .lease('B', 0)
        .by_turns()
        .edit('B', "src/main.rs", main.replace("{}", "now {}"))
        .cargo("B", "run")
}

/// To give what the script printed is not enough.
fn generated_source() -> Hazard {
    generating("generated-source", "a build script that writes a source file, which git ignores")
        .file(".gitignore", "target/\n.env\nsrc/part.rs\n")
}

fn rewritten_source() -> Hazard {
    generating("rewritten-source", "a build script that writes over a source file")
        .file("src/part.rs", "pub const TEXT: &str = \"committed\";\n")
}
