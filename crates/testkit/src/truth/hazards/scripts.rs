//! Build scripts.

use super::{manifest, single};
use crate::truth::Hazard;

pub(super) fn all() -> Vec<Hazard> {
    vec![
        baked_path(),
        baked_into_a_file(),
        without_rerun(),
        dot_env(),
        git_head(),
        git_head_again(),
        absolute_rerun(),
        links(),
        in_place(),
        generated_source(),
        rewritten_source(),
    ]
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
    single("links-metadata", "a `links` package that hands its `OUT_DIR` to dependents", main)
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
