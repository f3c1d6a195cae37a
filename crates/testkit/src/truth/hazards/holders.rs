//! What the last holder of a slot left in it: the next one must find nothing of that.
//!
//! Where a base would have to notice what a holder did, that is another hazard: here, cargo builds in a profile
//! that no base has.

use super::{manifest, pair, single};
use crate::truth::Hazard;

pub(super) fn all() -> Vec<Hazard> {
    vec![object(), ignored_file(), fixture(), edit(), dot_env(), variable(), state(), tmpdir()]
}

/// With a profile of its own.
const ROOT: &str = "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"core-lib\"]\n\n\
                    [profile.slow]\ninherits = \"dev\"\ndebug-assertions = false\n";

/// A program that prints what a macro makes of that expression, in which `read` gives a file of the root's.
fn with_macro(name: &'static str, about: &'static str, expression: &str) -> Hazard {
    let lib = format!(
        "use proc_macro::TokenStream;\n\n#[proc_macro]\npub fn word(_: TokenStream) -> TokenStream {{\n    \
         let root = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap() + \"/../\";\n    \
         let read = |path: &str| std::fs::read_to_string(format!(\"{{root}}{{path}}\"));\n    \
         let _ = &read;\n    format!(\"{{:?}}\", {expression}).parse().unwrap()\n}}\n"
    );
    pair(name, about)
        .file("Cargo.toml", ROOT)
        .file(".gitignore", "target/\n.env\nsecret.txt\n")
        .file("core-lib/Cargo.toml", manifest("core-lib", "[lib]\nproc-macro = true\n"))
        .file("core-lib/src/lib.rs", lib)
        .file("app/src/main.rs", "fn main() {\n    println!(\"{}\", core_lib::word!());\n}\n")
        .file("notes.md", "base")
        .file("fixtures/one.txt", "one")
}

impl Hazard {
    /// A builds, gives its slot back, and B builds there.
    fn one_after_the_other(self, change: impl FnOnce(Self) -> Self) -> Self {
        let built = change(self.lease('A', 0)).cargo("A", "run --profile slow");
        built.release('A').lease_after('A', 'B', 0).cargo("B", "run --profile slow")
    }
}

/// As make, ninja and cmake do it.
fn object() -> Hazard {
    let main = "use std::fs;\n\nfn main() {\n    \
        let (source, object) = (\"c/part.c\", \"target/c/part.o\");\n    \
        let written = |path| fs::metadata(path).and_then(|meta| meta.modified()).ok();\n    \
        if written(object) <= written(source) {\n        \
        fs::create_dir_all(\"target/c\").unwrap();\n        \
        fs::write(object, fs::read(source).unwrap()).unwrap();\n    }\n    \
        println!(\"{}\", fs::read_to_string(object).unwrap());\n}\n";
    single("left-object", "a tool that goes by times and builds into `target/c`", main)
        .file("c/part.c", "base")
        .lease('A', 0)
        .edit('A', "c/part.c", "edited")
        .cargo("A", "run")
        .release('A')
        .lease_after('A', 'B', 0)
        .cargo("B", "run")
}

fn ignored_file() -> Hazard {
    with_macro(
        "left-ignored-file",
        "an ignored file of the last holder's, which a macro read",
        "read(\"secret.txt\").unwrap_or_else(|_| \"none\".to_owned())",
    )
    .one_after_the_other(|hazard| hazard.edit('A', "secret.txt", "secret"))
}

fn fixture() -> Hazard {
    with_macro(
        "left-fixture",
        "an untracked file of the last holder's, in a directory that a macro listed",
        "std::fs::read_dir(format!(\"{root}fixtures\")).unwrap().count().to_string()",
    )
    .one_after_the_other(|hazard| hazard.edit('A', "fixtures/two.txt", "two"))
}

fn edit() -> Hazard {
    with_macro(
        "left-edit",
        "a file that the last holder edited, and a macro read silently",
        "read(\"notes.md\").unwrap()",
    )
    .one_after_the_other(|hazard| hazard.edit('A', "notes.md", "edited"))
}

fn dot_env() -> Hazard {
    with_macro(
        "left-dot-env",
        "a copy of `.env` that the last holder edited, and a macro read silently",
        "read(\".env\").unwrap_or_default()",
    )
    .dot_env("USER=1\n")
    .one_after_the_other(|hazard| hazard.edit('A', ".env", "USER=2\n"))
}

fn variable() -> Hazard {
    let build = "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
        println!(\"cargo::rustc-env=WORD={}\", std::env::var(\"WHO\").unwrap_or_default());\n}\n";
    pair("left-variable", "a variable of the last holder's, which a build script read silently")
        .file("Cargo.toml", ROOT)
        .file("app/build.rs", build)
        .file("app/src/main.rs", "fn main() {\n    println!(\"<{}>\", env!(\"WORD\"));\n}\n")
        .lease('A', 0)
        .cargo_with('A', ("WHO", "A"), "run --profile slow")
        .release('A')
        .lease_after('A', 'B', 0)
        .cargo("B", "run --profile slow")
}

fn state() -> Hazard {
    let main = "fn main() {\n    let path = \"target/db.txt\";\n    \
        let runs = std::fs::read_to_string(path).unwrap_or_default() + \"x\";\n    \
        std::fs::create_dir_all(\"target\").unwrap();\n    \
        std::fs::write(path, &runs).unwrap();\n    println!(\"{runs}\");\n}\n";
    single("left-state", "what a program keeps in `target`, beside what cargo builds", main)
        .lease('A', 0)
        .cargo("A", "run")
        .release('A')
        .lease_after('A', 'B', 0)
        .cargo("B", "run")
}

fn tmpdir() -> Hazard {
    let test = "#[test]\nfn count() {\n    \
        let path = concat!(env!(\"CARGO_TARGET_TMPDIR\"), \"/kept\");\n    \
        let runs = std::fs::read_to_string(path).unwrap_or_default() + \"x\";\n    \
        std::fs::write(path, &runs).unwrap();\n    println!(\"{runs}\");\n}\n";
    single("left-tmpdir", "what a test keeps in `CARGO_TARGET_TMPDIR`", "fn main() {}\n")
        .file("tests/keep.rs", test)
        .lease('A', 0)
        .cargo("A", "test --test keep -- --nocapture")
        .release('A')
        .lease_after('A', 'B', 0)
        .cargo("B", "test --test keep -- --nocapture")
}
