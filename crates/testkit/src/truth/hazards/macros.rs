//! Procedural macros.

use super::manifest;
use crate::truth::Hazard;

pub(super) fn all() -> Vec<Hazard> {
    vec![
        tracked(),
        untracked(),
        own_code(),
        listing(),
        empty_listing(),
        listed_targets(),
        settings(),
        readme(),
        metadata(),
        workspace_file(),
        whereabouts(),
    ]
}

/// A program that prints what a macro of the member `shape` makes of its file `word.txt`.
fn with_macro(name: &'static str, about: &'static str, lib: &str) -> Hazard {
    Hazard::new(name, about)
        .file("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"shape\"]\n")
        .file(
            "app/Cargo.toml",
            manifest("app", "[dependencies]\nshape = { path = \"../shape\" }\n"),
        )
        .file("app/src/main.rs", "fn main() {\n    println!(\"{}\", shape::word!());\n}\n")
        .file("app/word.txt", "base")
        .file("shape/Cargo.toml", manifest("shape", "[lib]\nproc-macro = true\n"))
        .file("shape/src/lib.rs", lib)
}

/// The code of a macro whose body says what it expands to.
fn code(body: &str) -> String {
    format!(
        "use proc_macro::TokenStream;\n\n#[proc_macro]\npub fn word(_: TokenStream) -> TokenStream {{\n    \
         let path = format!(\"{{}}/word.txt\", std::env::var(\"CARGO_MANIFEST_DIR\").unwrap());\n    \
         {body}.parse().unwrap()\n}}\n"
    )
}

/// As askama does it: the file is read by the macro, and made known to rustc.
fn tracked() -> Hazard {
    let body = "let word = std::fs::read_to_string(&path).unwrap();\n    \
        format!(\"{{ const _: &str = include_str!({path:?}); {word:?} }}\")";
    with_macro(
        "macro-tracked",
        "a macro that reads a file and makes it known to rustc",
        &code(body),
    )
    .commit([("app/word.txt", "other")])
    .lease('A', 0)
    .lease('B', 1)
    .by_turns()
    .edit('A', "app/word.txt", "edited")
    .cargo("A", "run")
    .cargo("B", "run")
}

/// As sqlx does it: nobody but the macro knows of the file.
fn untracked() -> Hazard {
    let body = "format!(\"{:?}\", std::fs::read_to_string(path).unwrap())";
    with_macro("macro-untracked", "a macro that reads a file nobody else knows of", &code(body))
        .commit([("app/word.txt", "one")])
        .commit([("app/word.txt", "two")])
        .lease('A', 1)
        .lease('B', 2)
        .by_turns()
}

fn own_code() -> Hazard {
    let says = |text: &str| code(&format!("let _ = path;\n    \"\\\"{text}\\\"\""));
    with_macro("macro-code", "a macro whose own code differs", &says("base"))
        .commit([("shape/src/lib.rs", &says("one"))])
        .commit([("shape/src/lib.rs", &says("two"))])
        .lease('A', 1)
        .lease('B', 2)
        .by_turns()
        .edit('B', "shape/src/lib.rs", says("two, edited"))
        .cargo("B", "run")
        .cargo("A", "run")
}

/// As diesel does it: each directory in a directory is taken in.
fn listing() -> Hazard {
    let body = "let dir = path.replace(\"word.txt\", \"migrations\");\n    \
        let read = |e: std::io::Result<std::fs::DirEntry>| \
        std::fs::read_to_string(e.unwrap().path().join(\"up.sql\")).unwrap();\n    \
        let mut all: Vec<String> = std::fs::read_dir(dir).unwrap().map(read).collect();\n    \
        all.sort();\n    format!(\"{:?}\", all.concat())";
    with_macro("macro-listing", "a macro that takes in all directories of a directory", &code(body))
        .file("app/migrations/001/up.sql", "one")
        .commit([("app/migrations/002/up.sql", "two")])
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
}

/// Counts what is in that directory of the package.
fn counts(dir: &str) -> String {
    code(&format!(
        "let dir = path.replace(\"word.txt\", \"{dir}\");\n    \
         std::fs::read_dir(dir).unwrap().count().to_string()"
    ))
}

/// Nothing in the directory was read, when there was nothing in it to read.
fn empty_listing() -> Hazard {
    let what = "a macro that counts the files of a directory";
    with_macro("macro-empty-listing", what, &counts("parts"))
        .file("app/parts/.gitkeep", "")
        .commit([("app/parts/one", "one")])
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
}

/// Takes in that file of the package, if it is there.
fn reads_if_there(file: &str) -> String {
    code(&format!(
        "let file = path.replace(\"word.txt\", \"{file}\");\n    \
         format!(\"{{:?}}\", std::fs::read_to_string(file).unwrap_or_default())"
    ))
}

/// As askama does it: a file is read if it is there.
fn settings() -> Hazard {
    let what = "a macro that looks for settings of its own";
    with_macro("macro-settings", what, &reads_if_there("shape.toml"))
        .commit([("app/shape.toml", "one")])
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
}

/// Cargo lists that directory, too, to find targets.
fn listed_targets() -> Hazard {
    let what = "a macro that counts the examples of its package";
    with_macro("macro-examples", what, &counts("examples"))
        .file("app/examples/one.rs", "fn main() {}\n")
        .commit([("app/examples/two.txt", "two")])
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
}

/// As `#![doc = include_str!(…)]` is written by macros: the front page, if there is one.
fn readme() -> Hazard {
    let what = "a macro that takes in `README.md` if it is there";
    with_macro("macro-readme", what, &reads_if_there("README.md"))
        .commit([("app/README.md", "one")])
        .commit([("app/README.md", "two")])
        .lease('A', 1)
        .lease('B', 0)
        .by_turns()
        .lease('C', 2)
        .cargo("C", "run")
}

/// What a macro takes from a file that is called like that.
fn of_file(file: &str) -> String {
    code(&format!(
        "let file = path.replace(\"word.txt\", \"{file}\");\n    \
         let text = std::fs::read_to_string(file).unwrap();\n    \
         let words = text.lines().filter(|line| line.starts_with(\"# word\"));\n    \
         format!(\"{{:?}}\", words.collect::<Vec<_>>().concat())"
    ))
}

/// Cargo tells rustc nothing of what a package notes in its manifest for tools.
fn metadata() -> Hazard {
    let manifest = |word: &str| {
        let rest = format!("[dependencies]\nshape = {{ path = \"../shape\" }}\n# word {word}\n");
        manifest("app", &rest)
    };
    with_macro(
        "macro-manifest",
        "a macro that reads its package's `Cargo.toml`",
        &of_file("Cargo.toml"),
    )
    .file("app/Cargo.toml", manifest("base"))
    .commit([("app/Cargo.toml", &manifest("one"))])
    .commit([("app/Cargo.toml", &manifest("two"))])
    .lease('A', 1)
    .lease('B', 2)
    .by_turns()
}

/// It is in no package.
fn workspace_file() -> Hazard {
    let file = "../settings/word.lock";
    with_macro("macro-workspace-file", "a macro that reads a file of the workspace", &of_file(file))
        .file("settings/word.lock", "# word base\n")
        .commit([("settings/word.lock", "# word one\n")])
        .commit([("settings/word.lock", "# word two\n")])
        .lease('A', 1)
        .lease('B', 2)
        .by_turns()
}

/// Where a compiler runs is not tracked, no more than what it is told by variables.
fn whereabouts() -> Hazard {
    let body =
        "let _ = path;\n    format!(\"{:?}\", std::env::current_dir().unwrap().to_str().unwrap())";
    with_macro("macro-whereabouts", "a macro that asks in which directory it is", &code(body))
        .lease('A', 0)
        .lease('B', 0)
        .by_turns()
        .edit(
            'A',
            "app/src/main.rs",
            "fn main() {\n    println!(\"edited {}\", shape::word!());\n}\n",
        )
        .cargo("A", "run")
}
