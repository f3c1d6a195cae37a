//! Git's own files, and the notes beside a worktree, as nobody wrote them: whatever is made of them, no work is
//! lost and nothing of others is touched.

use std::fs;
use std::path::{Path, PathBuf};

use pool_core::{Isolator, Plan, Preserved, SlotId};
use proptest::prelude::*;
use testkit::fuzz::{Damage, damage};

use crate::support::{Fixture, commit, git, git_succeeds, plan, read, status, write};

/// What may happen to a file.
#[derive(Clone, Debug)]
enum Change {
    /// Bytes of it.
    Damaged(Damage),
    /// It is the other slot's, or the main worktree's.
    Others,
    /// It says this.
    Says(&'static str),
    /// It is gone.
    Gone,
    /// It is a directory.
    Directory,
}

fn change() -> impl Strategy<Value = Change> {
    let texts = [
        "",
        "\n",
        "ref: refs/heads/main\n",
        "ref: refs/heads/../../outside\n",
        "ref: refs/heads/wtpool/two\n",
        "0000000000000000000000000000000000000000\n",
        "gitdir: ../../../../demo/.git\n",
        "gitdir: .\n",
        "/nowhere/at/all\n",
        "../../../..\n",
        "[]",
        "0000000000000000000000000000000000000000 main\n",
        "not-an-id wtpool/one\n",
        "x",
    ];
    prop_oneof![
        6 => damage().prop_map(Change::Damaged),
        3 => Just(Change::Others),
        4 => prop::sample::select(texts.to_vec()).prop_map(Change::Says),
        2 => Just(Change::Gone),
        1 => Just(Change::Directory),
    ]
}

/// Two slots, of which the first is changed, and both hold work.
struct Ground {
    fixture: Fixture,
    isolator: git_backend::GitIsolator,
    plan: Plan,
    other: Vec<(PathBuf, Vec<u8>)>,
    head: String,
}

const FILES: [&str; 9] = [
    "place/.git",
    "admin/gitdir",
    "admin/commondir",
    "admin/HEAD",
    "admin/index",
    "admin/logs/HEAD",
    "admin/ORIG_HEAD",
    "pool/branches/1",
    "slot/copied.json",
];

impl Ground {
    async fn new() -> Self {
        let fixture = Fixture::new();
        let isolator = fixture.isolator();
        let mut plans = Vec::new();
        for (slot, name) in [(1, "one"), (2, "two")] {
            let plan = plan(&isolator, slot, name).await;
            isolator.provision(&plan).await.unwrap();
            let place = isolator.place(SlotId(slot));
            write(&place, "committed.txt", name);
            commit(&place, name);
            write(&place, "precious.txt", &format!("precious {name}"));
            plans.push(plan);
        }
        let head = fixture.head();
        let mut ground = Self { fixture, isolator, plan: plans.remove(0), other: Vec::new(), head };
        ground.other = FILES.iter().map(|file| ground.bytes(file, 2)).collect();
        ground
    }

    fn file(&self, name: &str, slot: u32) -> PathBuf {
        let place = self.isolator.place(SlotId(slot));
        let (root, rest) = name.split_once('/').unwrap();
        match root {
            "place" => place.join(rest),
            "slot" => place.with_file_name(rest),
            "pool" => self.fixture.pool_dir().join(rest.replace('1', &slot.to_string())),
            _ => {
                let name = if slot == 1 { "demo" } else { "demo1" };
                self.fixture.repo.join(".git/worktrees").join(name).join(rest)
            }
        }
    }

    fn bytes(&self, name: &str, slot: u32) -> (PathBuf, Vec<u8>) {
        let path = self.file(name, slot);
        let bytes = fs::read(&path).unwrap_or_default();
        (path, bytes)
    }

    fn apply(&self, name: &str, change: &Change) {
        let (path, bytes) = self.bytes(name, 1);
        let new = match change {
            Change::Damaged(damage) => damage.apply(&bytes),
            Change::Others => self.bytes(name, 2).1,
            Change::Says(text) => text.as_bytes().to_vec(),
            Change::Gone => return drop(fs::remove_file(path)),
            Change::Directory => {
                let _ = fs::remove_file(&path);
                return fs::create_dir_all(&path).unwrap();
            }
        };
        if !path.is_dir() && path.parent().is_some_and(Path::is_dir) {
            fs::write(path, new).unwrap();
        }
    }

    /// What a pool does with a slot that it wants to be rid of.
    async fn clear(&self) -> pool_core::Result<()> {
        self.isolator.discover().await?;
        let found = self.isolator.inspect(&self.plan).await?;
        let proof = match Preserved::nothing_to_lose(found) {
            Ok(proof) => proof,
            Err(found) => self.isolator.preserve(found).await?,
        };
        self.isolator.dispose(proof).await?;
        self.isolator.sweep(&|_| ()).await
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let repo = &self.fixture.repo;
        // In place, aside, or in a rescue.
        let place = self.isolator.place(SlotId(1));
        let in_place = [place.clone(), place.with_file_name(".leaving")].iter().any(|tree| {
            fs::read_to_string(tree.join("precious.txt")).is_ok_and(|text| text == "precious one")
        });
        let rescues = git(repo, &["for-each-ref", "--format=%(refname)", "refs/wtpool/rescue"]);
        let saved = rescues.lines().any(|rescue| {
            let path = format!("{rescue}:precious.txt");
            git_succeeds(repo, &["cat-file", "-e", &path])
                && git(repo, &["show", &path]) == "precious one"
        });
        prop_assert!(in_place || saved, "work was lost");
        // Stock git, too, fails to list what worktrees have if one of them is damaged.
        let kept = git(repo, &["for-each-ref", "--format=%(subject)"]);
        prop_assert!(kept.lines().any(|subject| subject == "one"), "a commit was lost");
        // And what is others'.
        prop_assert_eq!(
            git(repo, &["rev-parse", "main", "wtpool/two^"]),
            format!("{0}\n{0}", self.head)
        );
        prop_assert_eq!(status(repo), "");
        for (path, bytes) in &self.other {
            let found = fs::read(path).unwrap_or_default();
            prop_assert!(found == *bytes, "{} was changed", path.display());
        }
        let two = self.isolator.place(SlotId(2));
        prop_assert_eq!(read(two.join("precious.txt")), "precious two");
        prop_assert_eq!(status(&two), "?? precious.txt");
        Ok(())
    }
}

/// Each case makes a repository; `PROPTEST_CASES` asks for more of them.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let all = ProptestConfig::default();
    let cases = if asked { all.cases } else { 24 };
    ProptestConfig { cases, failure_persistence: None, ..all }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_is_in_the_files_of_a_slot(
        changes in prop::collection::vec((prop::sample::select(FILES.to_vec()), change()), 1..3),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let ground = Ground::new().await;
            for (file, change) in &changes {
                ground.apply(file, change);
            }
            // An error is fine. A panic in there is none, and is told apart.
            if let Err(error) = ground.clear().await {
                let panicked = error.to_string().contains("ended unexpectedly");
                prop_assert!(!panicked, "{}", error);
            }
            ground.check()
        })?;
    }
}
