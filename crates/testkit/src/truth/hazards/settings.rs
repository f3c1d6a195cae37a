//! Features, profiles, and what a repository sets for cargo by itself.

use super::{manifest, pair, says, single};
use crate::truth::Hazard;

pub(super) fn all() -> Vec<Hazard> {
    let mut all = vec![
        features(),
        release(),
        profile(),
        metadata(),
        own_flags(),
        own_target(),
        target_above(),
        tracked_env(),
    ];
    if cfg!(unix) {
        all.push(own_wrapper());
    }
    all
}

fn features() -> Hazard {
    let lib = "pub fn version() -> &'static str {\n    \
        if cfg!(feature = \"loud\") { \"BASE\" } else { \"base\" }\n}\n";
    let app = manifest(
        "app",
        "[features]\nloud = [\"core-lib/loud\"]\n[dependencies]\ncore-lib = { path = \"../core-lib\" }\n",
    );
    pair("features", "features that differ between two leases of the same commit")
        .file("app/Cargo.toml", app)
        .file("core-lib/Cargo.toml", manifest("core-lib", "[features]\nloud = []\n"))
        .file("core-lib/src/lib.rs", lib)
        .lease('A', 0)
        .lease('B', 0)
        .cargo("A", "build --features app/loud")
        .cargo("B", "build")
        .program('A', "app")
        .program('B', "app")
        .cargo("B", "run --features app/loud")
        .cargo("A", "run")
        .cargo("AB", "run --features app/loud")
}

fn release() -> Hazard {
    let main = |text| {
        format!("fn main() {{\n    println!(\"{text} {{}}\", cfg!(debug_assertions));\n}}\n")
    };
    single("release", "`--release` beside the default profile", &main("base"))
        .commit([("src/main.rs", &main("other"))])
        .lease('A', 0)
        .lease('B', 1)
        .cargo("A", "build --release")
        .cargo("B", "build")
        .program('A', "app")
        .cargo("B", "build --release")
        .program('A', "app")
        .program('B', "app")
        .cargo("A", "run")
        .cargo("A", "run --release")
}

/// The profile decides about code, so a setting that the pool makes for its own purposes must not.
fn profile() -> Hazard {
    let lib = "pub fn version() -> String {\n    let top = std::hint::black_box(u8::MAX);\n    \
        let over = std::panic::catch_unwind(|| top + 1).is_err();\n    \
        format!(\"assertions {}, overflow found {over}\", cfg!(debug_assertions))\n}\n";
    let root = "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"core-lib\"]\n";
    let with = |profile: &str| format!("{root}\n{profile}");
    pair("profile", "a manifest whose `[profile.dev]` differs")
        .file("core-lib/src/lib.rs", lib)
        .commit([("Cargo.toml", &with("[profile.dev]\noverflow-checks = false\n"))])
        .commit([(
            "Cargo.toml",
            &with("[profile.dev.package.core-lib]\ndebug-assertions = false\n"),
        )])
        .lease('A', 1)
        .lease('B', 2)
        .by_turns()
        .lease('C', 0)
        .cargo("C", "run")
}

fn metadata() -> Hazard {
    let main = "fn main() {\n    \
        println!(\"{} by {}\", env!(\"CARGO_PKG_DESCRIPTION\"), env!(\"CARGO_PKG_AUTHORS\"));\n}\n";
    let with = |text: &str| {
        manifest("app", &format!("description = \"{text}\"\nauthors = [\"{text}\"]\n"))
    };
    single("package-metadata", "a description in the manifest that differs", main)
        .file("Cargo.toml", with("base"))
        .commit([("Cargo.toml", &with("one"))])
        .commit([("Cargo.toml", &with("two"))])
        .lease('A', 1)
        .lease('B', 2)
        .by_turns()
}

fn own_flags() -> Hazard {
    let main = "fn main() {\n    println!(\"{} {}\", cfg!(fancy), env!(\"MARK\"));\n}\n";
    let config = |word: &str| {
        format!(
            "[build]\nrustflags = [\"--cfg\", \"{word}\"]\n\n\
             [env]\nMARK = {{ value = \"{word}\", relative = true }}\n"
        )
    };
    single("own-flags", "a repository with its own `.cargo/config.toml`: flags, and a path", main)
        .file(".cargo/config.toml", config("plain"))
        .commit([(".cargo/config.toml", &config("fancy"))])
        .lease('A', 0)
        .lease('B', 1)
        .by_turns()
        .edit('A', ".cargo/config.toml", config("fancy"))
        .cargo("A", "run")
        .cargo("B", "run")
}

fn own_target() -> Hazard {
    pair("own-target-dir", "a repository that sets its own `target-dir`")
        .file(".cargo/config.toml", "[build]\ntarget-dir = \"out\"\n")
        .file(".gitignore", "target/\nout/\n.env\n")
        .commit([("core-lib/src/lib.rs", &says("one"))])
        .commit([("core-lib/src/lib.rs", &says("two"))])
        .lease('A', 1)
        .lease('B', 2)
        .by_turns()
}

fn target_above() -> Hazard {
    pair(
        "target-dir-above",
        "a `target-dir` that the user sets, for all that is built below a directory",
    )
    .above("[build]\ntarget-dir = \"shared\"\n")
    .commit([("core-lib/src/lib.rs", &says("one"))])
    .commit([("core-lib/src/lib.rs", &says("two"))])
    .lease('A', 1)
    .lease('B', 2)
    .by_turns()
}

fn tracked_env() -> Hazard {
    let main =
        "fn main() {\n    println!(\"{}\", option_env!(\"FLAVOUR\").unwrap_or(\"none\"));\n}\n";
    single("tracked-env", "`option_env!` of a variable that differs between two leases", main)
        .lease('A', 0)
        .lease('B', 0)
        .cargo_with('A', ("FLAVOUR", "sweet"), "build")
        .cargo_with('B', ("FLAVOUR", "sour"), "build")
        .program('A', "app")
        .program('B', "app")
        .cargo_with('A', ("FLAVOUR", "sweet"), "run")
        .cargo("B", "run")
}

fn own_wrapper() -> Hazard {
    let main = "fn main() {\n    println!(\"{} {}\", cfg!(wrapped), cfg!(wrapped_again));\n}\n";
    let wrapper = |cfg: &str| format!("#!/bin/sh\nexec \"$@\" --cfg {cfg}\n");
    let config = "[build]\nrustc-wrapper = \"tools/outer.sh\"\nrustc-workspace-wrapper = \"tools/inner.sh\"\n";
    single("own-wrapper", "a repository with its own rustc wrappers", main)
        .file(".cargo/config.toml", config)
        .file("tools/outer.sh", wrapper("wrapped"))
        .file("tools/inner.sh", wrapper("wrapped_again"))
        .lease('A', 0)
        .lease('B', 0)
        .by_turns()
}
