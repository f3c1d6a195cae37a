//! Telling worktrees apart in a build directory that they share.
//!
//! Cargo's hash of a unit has nothing in it that says in which checkout of a workspace its package lies: two
//! worktrees' units of one member are the same unit to it, and whoever built last decides what the other one
//! runs. What the hash does have is the unit's profile. So each lease has a number of its own in
//! its profiles' `codegen-units`, set in the configuration above its worktree, for everything but
//! dependencies that can't change. No lease before it had that number, in this slot or another, so
//! cargo believes nothing of what they built. The number is in the hash of what is compiled, checked, linted and
//! tested alike, and other wrappers don't displace it; units that differ only in it are different units.
//! Rustc itself never sees that number: the wrapper puts back what the workspace asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::install::{Package, Profile};

/// From here on, a number of codegen units is an identity. Nobody wants as many.
const FIRST: u32 = 1_000_000;

/// The largest number that a lease can have.
pub(crate) const LARGEST: u32 = (u32::MAX - FIRST) / 1000 - 1;

/// What a lease's units are told apart by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The lease's number.
    pub(crate) number: u32,
    /// Packages in the worktree that are no members of the workspace.
    pub(crate) packages: BTreeSet<String>,
}

impl Identity {
    /// The identity of that number, which is at most [`LARGEST`].
    pub(crate) fn new(number: u32, packages: BTreeSet<String>) -> Self {
        Self { number, packages }
    }

    /// Whether a unit with that many codegen units has this identity.
    pub(crate) fn is_in(&self, codegen_units: Option<u32>) -> bool {
        codegen_units.is_some_and(|units| units / 1000 == encoded(self.number, 0) / 1000)
    }

    /// The profiles that give it to everything in the worktree, whose root manifest is that text.
    pub(crate) fn profiles(&self, manifest: &str) -> BTreeMap<String, Profile> {
        let manifest: toml::Table = manifest.parse().unwrap_or_default();
        let empty = toml::Table::new();
        let own = manifest.get("profile").and_then(|value| value.as_table()).unwrap_or(&empty);
        let names = own.keys().map(String::as_str).chain(["dev", "release"]);
        let names: BTreeSet<&str> = names.collect();
        let mut profiles = BTreeMap::new();
        for name in names {
            let table = own.get(name).and_then(|value| value.as_table()).unwrap_or(&empty);
            let wanted = units_in(table);
            let part = |key: &str| table.get(key).and_then(|value| value.as_table());
            let build_override = part("build-override").map_or(0, units_in);
            let overrides = part("package").unwrap_or(&empty);
            let of = |package: &str| overrides.get(package).and_then(|value| value.as_table());
            let mut packages = BTreeMap::new();
            let all_others = of("*").map_or(wanted, units_in);
            packages.insert("*".to_owned(), Package { codegen_units: encoded(0, all_others) });
            for package in overrides.keys().filter(|package| *package != "*") {
                let wanted = of(package).map_or(wanted, units_in);
                packages.insert(
                    package.clone(),
                    Package { codegen_units: encoded(self.number, wanted) },
                );
            }
            for package in &self.packages {
                let wanted = of(package).map_or(wanted, units_in);
                packages.insert(
                    package.clone(),
                    Package { codegen_units: encoded(self.number, wanted) },
                );
            }
            let profile = Profile {
                codegen_units: Some(encoded(self.number, wanted)),
                build_override: Some(Package {
                    codegen_units: encoded(self.number, build_override),
                }),
                package: packages,
                // A profile of its own must say what it is like, wherever it is mentioned.
                inherits: table.get("inherits").and_then(|v| v.as_str()).map(str::to_owned),
            };
            profiles.insert(name.to_owned(), profile);
        }
        profiles
    }

    /// The same, of the manifest at a worktree's root.
    pub(crate) fn profiles_at(&self, worktree: &Path) -> BTreeMap<String, Profile> {
        self.profiles(&fs::read_to_string(worktree.join("Cargo.toml")).unwrap_or_default())
    }

    /// What documentation is told apart by, which has no profile.
    pub(crate) fn rustdocflags(&self) -> Vec<String> {
        vec!["--cfg".to_owned(), format!("wtpool_lease_{}", self.number)]
    }
}

/// A lease, and how many codegen units are wanted (0: as many as rustc takes), in one number.
fn encoded(lease: u32, wanted: u32) -> u32 {
    FIRST + lease.min(LARGEST) * 1000 + wanted.min(999)
}

/// How many codegen units were wanted, if that number is an identity: `Some(None)` for no wish.
pub(crate) fn wanted(codegen_units: u32) -> Option<Option<u32>> {
    (codegen_units >= FIRST).then(|| Some(codegen_units % 1000).filter(|units| *units > 0))
}

fn units_in(table: &toml::Table) -> u32 {
    let units = table.get("codegen-units").and_then(toml::Value::as_integer);
    units.and_then(|units| u32::try_from(units).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lease_is_another_and_rustc_gets_what_was_wanted() {
        let manifest = "[profile.release]\ncodegen-units = 1\n[profile.release.package.fast]\n\
                        codegen-units = 4\n[profile.release.package.\"*\"]\ncodegen-units = 8\n\
                        [profile.tiny]\ninherits = \"release\"\n";
        let packages = BTreeSet::from(["excluded".to_owned()]);
        let (three, four) = (Identity::new(3, packages.clone()), Identity::new(4, packages));
        let (profiles, others) = (three.profiles(manifest), four.profiles(manifest));
        let names: Vec<_> = profiles.keys().map(String::as_str).collect();
        assert_eq!(names, ["dev", "release", "tiny"]);
        assert_eq!(profiles["tiny"].inherits.as_deref(), Some("release"));
        for (name, profile) in &profiles {
            assert_ne!(profile.codegen_units, others[name].codegen_units);
            assert!(three.is_in(profile.codegen_units) && !four.is_in(profile.codegen_units));
            assert_eq!(
                profile.package["*"], others[name].package["*"],
                "registry crates are shared"
            );
            assert_ne!(profile.package["excluded"], others[name].package["excluded"]);
        }
        let release = &profiles["release"];
        assert_eq!(wanted(release.codegen_units.expect("set")), Some(Some(1)));
        assert_eq!(wanted(release.package["fast"].codegen_units), Some(Some(4)));
        assert_eq!(wanted(release.package["*"].codegen_units), Some(Some(8)));
        assert_eq!(wanted(profiles["dev"].codegen_units.expect("set")), Some(None));
        assert_eq!(wanted(16), None);
        assert!(!three.is_in(Some(16)) && !three.is_in(None));
    }

    #[test]
    fn a_manifest_that_is_none_has_the_usual_profiles() {
        assert_eq!(Identity::default().profiles("[profile").len(), 2);
    }
}
