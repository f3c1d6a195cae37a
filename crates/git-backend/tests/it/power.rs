//! What a loss of power leaves: files that are there by name, with nothing in them. What order things
//! are brought to the disk in is tested where the program is; what a disk makes of it, by `cargo xtask power`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use pool_core::{Condition, Isolator, SlotId};

use crate::support::{
    Fixture, archive, commit, found, git, git_succeeds, plan, proof, read, registrations, status,
    write,
};

fn empty(path: &Path) {
    assert!(path.is_file(), "{}", path.display());
    fs::remove_file(path).unwrap();
    fs::write(path, "").unwrap();
}

fn object(repo: &Path, id: &str) -> PathBuf {
    repo.join(".git/objects").join(&id[..2]).join(&id[2..])
}

fn admin(place: &Path) -> PathBuf {
    PathBuf::from(git(place, &["rev-parse", "--absolute-git-dir"]))
}

#[tokio::test]
async fn a_half_made_worktree_is_taken_away_whatever_is_empty() {
    for files in
        [&["git"][..], &["gitdir"], &["git", "gitdir"], &["HEAD"], &["branch", "HEAD", "index"]]
    {
        let fixture = Fixture::new();
        let isolator = fixture.isolator();
        let plan = plan(&isolator, 1, "cut-short").await;
        isolator.provision(&plan).await.unwrap();
        let place = isolator.place(SlotId(1));
        let admin = admin(&place);
        fs::write(fixture.pool_dir().join("slots/1/making"), "by wtpool\n").unwrap();
        for file in files {
            empty(&match *file {
                "git" => place.join(".git"),
                "branch" => fixture.repo.join(".git/refs/heads/wtpool/cut-short"),
                other => admin.join(other),
            });
        }

        assert_eq!(
            isolator.discover().await.unwrap(),
            [found(1, Condition::HalfMade)],
            "{files:?}"
        );
        let proof = proof(&isolator, &plan).await;
        isolator.dispose(proof).await.unwrap_or_else(|e| panic!("{files:?}: {e}"));
        assert!(!place.exists());
        assert!(!git_succeeds(&fixture.repo, &["show-ref", "--quiet", "wtpool/cut-short"]));
        git(&fixture.repo, &["rev-list", "--all"]);
        // The next one is made there, whatever is left of this one.
        isolator.provision(&plan).await.unwrap_or_else(|e| panic!("{files:?}: {e}"));
        assert_eq!(status(&place), "");
    }
}

#[tokio::test]
async fn a_registration_that_names_nothing_stops_nobody() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let theirs = fixture.root.path().join("theirs");
    git(&fixture.repo, &["worktree", "add", "-q", theirs.to_str().unwrap()]);
    let registration = fixture.repo.join(".git/worktrees/theirs");
    empty(&registration.join("gitdir"));

    let plan = plan(&isolator, 1, "next").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert_eq!(status(&place), "");
    assert_eq!(git(&place, &["branch", "--show-current"]), "wtpool/next");
    assert_eq!(read(place.join("src/main.rs")), "fn main() {}\n");
    assert!(registration.join("gitdir").exists(), "somebody's own is left as it is");
    write(&place, "work", "precious");
    let saved = proof(&isolator, &plan).await.rescue().expect("saved").id.clone();
    let into = fixture.root.path().join("restored");
    archive(&isolator).restore_into(&saved, &into).await.unwrap();
    assert_eq!(read(into.join("work")), "precious");
    git(&fixture.repo, &["worktree", "remove", "--force", into.to_str().unwrap()]);
    isolator.dispose(proof(&isolator, &plan).await).await.unwrap();
    assert_eq!(registrations(&fixture.repo), 0);
}

#[tokio::test]
async fn an_object_that_is_there_by_name_only_is_written_again() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "dirty").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(SlotId(1));
    write(&place, "target-of-link", "content\n");
    symlink("target-of-link", place.join("link")).unwrap();
    // As `git add` before the loss of power left them.
    write(fixture.root.path(), "link", "target-of-link");
    let link = fixture.root.path().join("link");
    for file in [&link, &place.join("target-of-link")] {
        let id = git(&fixture.repo, &["hash-object", "-w", "--no-filters", file.to_str().unwrap()]);
        empty(&object(&fixture.repo, &id));
    }

    let inspection = isolator.inspect(&plan).await.unwrap();
    let proof = isolator.preserve(inspection).await.unwrap();
    let rescue = proof.rescue().unwrap().clone();
    git(&fixture.repo, &["rev-list", "--objects", &rescue.reference]);
    let into = fixture.root.path().join("restored");
    archive(&isolator).restore_into(&rescue.id, &into).await.unwrap();
    assert_eq!(fs::read_link(into.join("link")).unwrap(), Path::new("target-of-link"));
    assert_eq!(read(into.join("link")), "content\n");
}

#[tokio::test]
async fn a_rescue_whose_reference_is_empty_is_cleared_away() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let dir = fixture.repo.join(".git/refs/wtpool/rescue");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("cut-short-01jzzzzzzzzzzzzzzzzzzzzzzz"), "").unwrap();
    fs::write(dir.join("being-made-01jzzzzzzzzzzzzzzzzzzzzzzz.lock"), "").unwrap();
    write(&fixture.repo, "more", "");
    let head = commit(&fixture.repo, "second");
    git(&fixture.repo, &["update-ref", "refs/wtpool/rescue/whole", &head]);

    isolator.sweep(&|_| {}).await.unwrap();
    let mut left: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["being-made-01jzzzzzzzzzzzzzzzzzzzzzzz.lock", "whole"]);
    git(&fixture.repo, &["rev-list", "--all"]);
}
