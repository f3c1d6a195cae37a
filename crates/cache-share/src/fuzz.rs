//! Files of cargo's, of rustc's, of repositories and of this crate's own, as nobody wrote them.

use std::fs;
use std::path::{Component, Path, PathBuf};

use pool_core::CommitId;
use proptest::prelude::*;
use testkit::fuzz::damage;

use crate::base::account::{Account, Look};
use crate::base::{Base, Local, Manifest, Unit};
use crate::files::{Link, Recorded};
use crate::identity::{self, Identity};
use crate::note::{self, Note};
use crate::{depinfo, rustc};

/// With everything in it that there can be.
fn manifest() -> String {
    let file = |path: &str| Recorded {
        path: path.into(),
        size: 7,
        modified: std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_600_000_000, 7),
        mode: 0o644,
    };
    let local = Local {
        package: "part".into(),
        inputs: vec!["part/src/lib.rs".into()],
        this_commit_only: true,
        bound: Some("why".into()),
    };
    let mut manifest = Manifest::empty();
    manifest.canonical = Some("/wtpool".into());
    manifest.files.insert("part/src/lib.rs".into(), pool_core::ContentId("1".into()));
    manifest.units = vec![Unit {
        name: "part-0123456789abcdef".into(),
        local: Some(local),
        shared: vec![file("debug/deps/libpart-0123456789abcdef.rlib")],
        copied: vec![file("debug/.fingerprint/part-0123456789abcdef/lib-part")],
        dirs: vec!["debug/build/part-0123456789abcdef/out".into()],
        account: Some(Account { looks: [0].into(), ..Account::default() }),
        links: vec![Link {
            path: "debug/build/part-0123456789abcdef/out/link".into(),
            to: "../beside".into(),
        }],
    }];
    manifest.looks = vec![Look::Tree("part/src/lib.rs".into())];
    manifest.read_silently = Some(vec!["data.txt".into()]);
    manifest.listed.insert("data".into());
    manifest.written = vec!["part/src/made.rs".into()];
    manifest.states = vec!["debug/incremental".into()];
    serde_json::to_string(&manifest).expect("it can be written")
}

fn base_with(text: &[u8]) -> (tempfile::TempDir, Base) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let base = Base { dir: dir.path().join("base/1") };
    fs::create_dir_all(base.tree()).expect("made");
    fs::write(base.dir.join("manifest.json"), text).expect("written");
    (dir, base)
}

fn stays_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// What is copied to, linked to, made, or removed.
fn places(manifest: &Manifest) -> impl Iterator<Item = &PathBuf> {
    manifest
        .units
        .iter()
        .flat_map(|unit| {
            let links = unit.links.iter().map(|link| &link.path);
            unit.files().map(|file| &file.path).chain(&unit.dirs).chain(links)
        })
        .chain(&manifest.states)
        .chain([&manifest.target])
}

#[test]
fn a_base_that_leads_out_of_itself_is_none() {
    let good = manifest();
    assert!(base_with(good.as_bytes()).1.load().is_some());
    for inside in [
        "\"target\":\"target\"",
        "\"debug/incremental\"",
        "\"debug/deps/libpart-0123456789abcdef.rlib\"",
        "\"debug/.fingerprint/part-0123456789abcdef/lib-part\"",
        "\"debug/build/part-0123456789abcdef/out\"",
        "\"debug/build/part-0123456789abcdef/out/link\"",
        "\"../beside\"",
    ] {
        assert!(good.contains(inside), "{inside}");
        for outside in ["../outside", "/nowhere/at/all", "a/../../outside", ""] {
            if inside.contains("..") && outside == "../outside" {
                continue;
            }
            let key = if inside.contains(':') { "\"target\":" } else { "" };
            let text = good.replace(inside, &format!("{key}\"{outside}\""));
            let (_dir, base) = base_with(text.as_bytes());
            assert_eq!(base.load(), None, "{inside}: {outside:?}");
        }
    }
}

#[test]
fn no_number_is_too_large_for_an_identity() {
    for number in [0, 1, identity::LARGEST] {
        let identity = Identity::new(number, ["excluded".to_owned()].into());
        let profiles = identity.profiles("[profile.dev]\ncodegen-units = 4\n");
        assert!(identity.is_in(profiles["dev"].codegen_units), "{number}");
    }
}

const DEP_INFO: &str = "target/debug/deps/a.d: a/src/lib.rs a/src/b\\ c.rs\n\na/src/lib.rs:\n\
                        a/src/b\\ c.rs:\n\n# env-dep:OUT_DIR=/x\\\\y\\n\n# env-dep:UNSET\n";

const CARGO_TOML: &str = "[workspace]\nmembers = [\"a\"]\n[profile.dev]\ncodegen-units = 4\n\
                          [profile.dev.package.\"*\"]\ncodegen-units = 1\n\
                          [profile.x]\ninherits = \"dev\"\n[profile.x.build-override]\n";

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_rustc_read(text in prop::collection::vec(any::<u8>(), 0..400), damage in damage()) {
        depinfo::parse(&text);
        let found = depinfo::parse(&damage.apply(DEP_INFO.as_bytes()));
        prop_assert!(found.inputs.len() < 1000);
    }

    #[test]
    fn manifests_of_repositories(text in ".*", damage in damage(), number in 0..=identity::LARGEST) {
        let identity = Identity::new(number, ["excluded".to_owned()].into());
        for text in [text.as_bytes().to_vec(), damage.apply(CARGO_TOML.as_bytes())] {
            let profiles = identity.profiles(&String::from_utf8_lossy(&text));
            prop_assert!(profiles.contains_key("dev") && profiles.contains_key("release"));
            prop_assert!(identity.is_in(profiles["dev"].codegen_units));
            let dir = tempfile::tempdir().expect("a temporary directory");
            fs::write(dir.path().join("Cargo.toml"), &text).expect("written");
            identity.profiles_at(dir.path());
        }
    }

    #[test]
    fn manifests_of_bases(damages in prop::collection::vec(damage(), 1..3)) {
        let text = damages.iter().fold(manifest().into_bytes(), |text, damage| damage.apply(&text));
        let (dir, base) = base_with(&text);
        fs::write(dir.path().join("outside"), "theirs").expect("written");
        if let Some(read) = base.load() {
            for place in places(&read) {
                prop_assert!(stays_inside(place), "{}", place.display());
            }
            base.has_state(&read);
            base.drop_state();
        }
        crate::base::choose(dir.path(), &CommitId::new("c0").expect("an id"));
        prop_assert!(dir.path().join("outside").exists() && base.dir.exists());
    }

    #[test]
    fn notes_of_slots(damage in damage()) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Note { base: Some(7) }.write(dir.path()).expect("written");
        let path = dir.path().join("cache.json");
        let text = fs::read(&path).expect("it is there");
        fs::write(&path, damage.apply(&text)).expect("written");
        Note::read(dir.path());
        note::begin(dir.path()).expect("it begins");
        prop_assert_eq!(Note::read(dir.path()), Note::default());
    }

    #[test]
    fn what_the_wrapper_is_told(damage in damage()) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let text = serde_json::to_vec(&rustc::Config::default()).expect("it can be written");
        let name = rustc::CONFIG;
        fs::write(dir.path().join(name), &text).expect("written");
        prop_assert_eq!(rustc::config_of(dir.path()), Some(rustc::Config::default()));
        fs::write(dir.path().join(name), damage.apply(&text)).expect("written");
        rustc::config_of(dir.path());
    }
}
