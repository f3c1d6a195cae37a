//! Sources that differ between checkouts.

use super::{manifest, pair, says, single};
use crate::truth::Hazard;

pub(super) fn all() -> Vec<Hazard> {
    let mut all = vec![
        same_named_member(),
        excluded_dependency(),
        excluded_script(),
        untouched_commit(),
        base_differs(),
        moved_member(),
        old_dates(),
        outside_the_package(),
        vendored(),
        from_the_registry(),
        two_workspaces(),
        attributes(),
        at_the_same_time(),
    ];
    if cfg!(unix) {
        all.push(linked_source());
    }
    all
}

fn same_named_member() -> Hazard {
    pair("same-named-member", "a member of the same name and version in two checkouts")
        .commit([("core-lib/src/lib.rs", &says("one"))])
        .commit([("core-lib/src/lib.rs", &says("two"))])
        .lease('A', 1)
        .lease('B', 2)
        .by_turns()
        .edit('A', "core-lib/src/lib.rs", says("one, edited"))
        .cargo("A", "run")
        .program('B', "app")
        .cargo("B", "run")
}

fn excluded_dependency() -> Hazard {
    let extra = |text| format!("{}pub fn file() -> &'static str {{\n    file!()\n}}\n", says(text));
    Hazard::new(
        "excluded-path-dependency",
        "a path dependency below the root that is no member (`exclude`)",
    )
    .file(
        "Cargo.toml",
        "[workspace]\nresolver = \"2\"\nmembers = [\"app\"]\nexclude = [\"extra\"]\n",
    )
    .file("app/Cargo.toml", manifest("app", "[dependencies]\nextra = { path = \"../extra\" }\n"))
    .file(
        "app/src/main.rs",
        "fn main() {\n    println!(\"{} {}\", extra::version(), extra::file());\n}\n",
    )
    .file("extra/Cargo.toml", manifest("extra", ""))
    .file("extra/src/lib.rs", extra("base"))
    .commit([("extra/src/lib.rs", &extra("one"))])
    .commit([("extra/src/lib.rs", &extra("two"))])
    .lease('A', 1)
    .lease('B', 2)
    .by_turns()
    .edit('B', "extra/src/lib.rs", extra("two, edited"))
    .cargo("B", "run")
    .program('A', "app")
    .cargo("A", "run")
}

/// A wrapper for the members sees nothing of what else lies in the checkout.
fn excluded_script() -> Hazard {
    let lib = "pub fn version() -> String {\n    \
        format!(\"{} {}\", env!(\"BAKED\"), env!(\"CARGO_MANIFEST_DIR\"))\n}\n";
    let build = "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
        println!(\"cargo::rustc-env=BAKED={}\", std::env::current_dir().unwrap().display());\n}\n";
    Hazard::new("excluded-build-script", "paths that a dependency bakes which is no member")
        .file(
            "Cargo.toml",
            "[workspace]\nresolver = \"2\"\nmembers = [\"app\"]\nexclude = [\"extra\"]\n",
        )
        .file(
            "app/Cargo.toml",
            manifest("app", "[dependencies]\nextra = { path = \"../extra\" }\n"),
        )
        .file("app/src/main.rs", "fn main() {\n    println!(\"{}\", extra::version());\n}\n")
        .file("extra/Cargo.toml", manifest("extra", ""))
        .file("extra/build.rs", build)
        .file("extra/src/lib.rs", lib)
        .lease('A', 0)
        .lease('B', 0)
        .by_turns()
        .edit(
            'A',
            "app/src/main.rs",
            "fn main() {\n    println!(\"now {}\", extra::version());\n}\n",
        )
        .cargo("A", "run")
        .cargo("B", "run")
}

/// Equal for git is not equal on disk.
fn attributes() -> Hazard {
    let lib =
        "pub fn version() -> String {\n    format!(\"{:?}\", include_str!(\"lines.txt\"))\n}\n";
    pair("attributes", "a file whose blob is the same, but not its line ends (`.gitattributes`)")
        .file("core-lib/src/lib.rs", lib)
        .file("core-lib/src/lines.txt", "one\ntwo\n")
        .file(".gitattributes", "*.txt text eol=lf\n")
        .commit([(".gitattributes", "*.txt text eol=crlf\n")])
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
}

/// The link is the same in both checkouts; what it leads to is not.
fn linked_source() -> Hazard {
    pair("linked-source", "a source file that is a symbolic link to another one in the checkout")
        .file("core-lib/src/lib.rs", "mod part;\npub use part::version;\n")
        .file("core-lib/src/part.rs", "-> ../../common/part.rs")
        .file("common/part.rs", says("base"))
        .commit([("common/part.rs", &says("one"))])
        .commit([("common/part.rs", &says("two"))])
        .lease('A', 1)
        .lease('B', 2)
        .by_turns()
        .edit('A', "common/part.rs", says("one, edited"))
        .cargo("A", "run")
        .cargo("B", "run")
}

/// The most common case: a lease starts where the cache was made, and edits.
fn untouched_commit() -> Hazard {
    pair("edit-after-warm-up", "two leases of the commit the cache was made from, then edits")
        .lease('A', 0)
        .lease('B', 0)
        .edit('A', "core-lib/src/lib.rs", says("one"))
        .by_turns()
        .edit('B', "app/src/main.rs", "fn main() {\n    println!(\"two\");\n}\n")
        .cargo("B", "run")
        .cargo("A", "run")
        .edit('B', "app/src/main.rs", "fn main() {\n    println!(\"two again\");\n}\n")
        .cargo("B", "build")
        .program('A', "app")
        .program('B', "app")
        .commit_in('B')
        .cargo("B", "run")
}

fn base_differs() -> Hazard {
    let lib = "mod part;\npub fn version() -> &'static str {\n    part::TEXT\n}\n";
    let part = |text| format!("pub(crate) const TEXT: &str = \"{text}\";\n");
    pair("base-differs", "a module changed, moved or replaced since the cache was made")
        .file("core-lib/src/lib.rs", lib)
        .file("core-lib/src/part.rs", part("base"))
        .commit([("core-lib/src/part.rs", &part("alike"))])
        .commit([("core-lib/src/part/mod.rs", &part("moved"))])
        .without("core-lib/src/part.rs")
        .lease('A', 1)
        .lease('B', 2)
        .by_turns()
}

fn moved_member() -> Hazard {
    let root = "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"libs/core-lib\"]\n";
    let app = manifest("app", "[dependencies]\ncore-lib = { path = \"../libs/core-lib\" }\n");
    pair("moved-member", "a member that lies elsewhere in the other checkout")
        .commit([
            ("Cargo.toml", root),
            ("app/Cargo.toml", &app),
            ("libs/core-lib/Cargo.toml", &manifest("core-lib", "")),
            ("libs/core-lib/src/lib.rs", &says("moved")),
        ])
        .without("core-lib/Cargo.toml")
        .without("core-lib/src/lib.rs")
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
}

fn old_dates() -> Hazard {
    pair("old-dates", "a file whose content differs, under a date before any build")
        .lease('A', 0)
        .lease('B', 0)
        .edit_old('A', "core-lib/src/lib.rs", says("one"))
        .edit_old('B', "core-lib/src/lib.rs", says("two"))
        .edit_old('B', "app/src/main.rs", "fn main() {\n    println!(\"and two\");\n}\n")
        .by_turns()
}

fn outside_the_package() -> Hazard {
    let lib =
        "pub fn version() -> &'static str {\n    include_str!(\"../../text/version.txt\")\n}\n";
    pair("outside-the-package", "`include_str!` of a file outside the package")
        .file("core-lib/src/lib.rs", lib)
        .file("text/version.txt", "base")
        .commit([("text/version.txt", "other")])
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
        .edit('A', "text/version.txt", "edited")
        .cargo("A", "run")
        .cargo("B", "run")
}

/// cargo takes a crate from a directory source for immutable.
fn vendored() -> Hazard {
    let config = "[source.crates-io]\nreplace-with = \"vendored\"\n\n\
                  [source.vendored]\ndirectory = \"vendor\"\n";
    single(
        "vendored-crate",
        "a vendored crate, patched in one checkout only",
        "fn main() {\n    println!(\"{}\", truth_vendored::version());\n}\n",
    )
    .file("Cargo.toml", manifest("app", "[dependencies]\ntruth-vendored = \"0.1\"\n"))
    .file(".cargo/config.toml", config)
    .file("vendor/truth-vendored/Cargo.toml", manifest("truth-vendored", ""))
    .file("vendor/truth-vendored/.cargo-checksum.json", "{\"files\":{}}")
    .file("vendor/truth-vendored/src/lib.rs", says("base"))
    .commit([("vendor/truth-vendored/src/lib.rs", &says("patched"))])
    .lease('A', 0)
    .lease('B', 1)
    .by_turns()
}

fn from_the_registry() -> Hazard {
    let main = |text| {
        format!("fn main() {{\n    println!(\"{text} {{}}\", itoa::Buffer::new().format(7));\n}}\n")
    };
    single("registry-crate", "a crate of the registry, used by programs that differ", &main("base"))
        .file("Cargo.toml", manifest("app", "[dependencies]\nitoa = \"1\"\n"))
        .commit([("src/main.rs", &main("other"))])
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
}

/// A workspace of its own in a directory has a target of its own, unless somebody sets one for all.
fn two_workspaces() -> Hazard {
    let main = |text| format!("fn main() {{\n    println!(\"{text}\");\n}}\n");
    single(
        "two-workspaces",
        "two workspaces in one checkout, with packages of one name",
        &main("outer"),
    )
    .file("Cargo.toml", manifest("app", "[workspace]\nexclude = [\"tools\"]\n"))
    .file("tools/Cargo.toml", manifest("app", "[workspace]\n"))
    .file("tools/src/main.rs", main("inner"))
    .workspace("tools")
    .lease('A', 0)
    .cargo("A", "build")
    .cargo_in("A", "tools", "build")
    .program('A', "app")
    .program_in('A', "tools", "app")
    .cargo("A", "run")
    .cargo_in("A", "tools", "run")
}

fn at_the_same_time() -> Hazard {
    pair(
        "at-the-same-time",
        "three leases, taken at the same moment, that build at the same moment, again and again",
    )
    .together()
    .lease('A', 0)
    .lease('B', 0)
    .lease('C', 0)
    .edit('A', "core-lib/src/lib.rs", says("A"))
    .edit('B', "core-lib/src/lib.rs", says("B"))
    .cargo("ABC", "run")
    .edit(
        'A',
        "app/src/main.rs",
        "fn main() {\n    println!(\"again, {}\", core_lib::version());\n}\n",
    )
    .edit('C', "core-lib/src/lib.rs", says("C"))
    .cargo("ABC", "build")
    .program('A', "app")
    .program('B', "app")
    .program('C', "app")
    .cargo("ABC", "run")
}
