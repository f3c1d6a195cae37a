//! The hazards, by what they are about.

mod holders;
mod macros;
mod paths;
mod scripts;
mod settings;
mod slots;
mod sources;
mod tools;

use super::hazard::Hazard;

/// All hazards, in the order of the table.
pub fn all() -> Vec<Hazard> {
    let groups = [
        sources::all(),
        tools::all(),
        paths::all(),
        scripts::all(),
        macros::all(),
        settings::all(),
        slots::all(),
        holders::all(),
    ];
    groups.concat()
}

/// The manifest of a package; `rest` is what follows `[package]`.
fn manifest(name: &str, rest: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{rest}")
}

/// A library whose `version` says that text.
fn says(text: &str) -> String {
    format!("pub fn version() -> &'static str {{\n    \"{text}\"\n}}\n")
}

/// A workspace of a program `app` that prints what the library `core-lib` says, which is `base`.
fn pair(name: &'static str, about: &'static str) -> Hazard {
    Hazard::new(name, about)
        .file("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"core-lib\"]\n")
        .file(
            "app/Cargo.toml",
            manifest("app", "[dependencies]\ncore-lib = { path = \"../core-lib\" }\n"),
        )
        .file("app/src/main.rs", "fn main() {\n    println!(\"{}\", core_lib::version());\n}\n")
        .file("core-lib/Cargo.toml", manifest("core-lib", ""))
        .file("core-lib/src/lib.rs", says("base"))
}

/// One package, a program `app`.
fn single(name: &'static str, about: &'static str, main: &str) -> Hazard {
    Hazard::new(name, about).file("Cargo.toml", manifest("app", "")).file("src/main.rs", main)
}

impl Hazard {
    /// A and B build, then each runs what it built, first as it lies there, then through cargo.
    fn by_turns(self) -> Self {
        self.cargo("A", "build")
            .cargo("B", "build")
            .program('A', "app")
            .program('B', "app")
            .cargo("A", "run")
            .cargo("B", "run")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_scripts_make_sense() {
        let mut names = BTreeSet::new();
        for hazard in super::all() {
            crate::truth::reference::check(&hazard);
            assert!(names.insert(hazard.name()), "{} is there twice", hazard.name());
        }
    }
}
