//! Filters that git runs files through, above all those that keep the content elsewhere, as LFS does.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use pool_core::{Isolator, Losses, SlotId};

use crate::support::{
    Fixture, archive, backdate, commit, git, git_succeeds, noise, plan, proof, read, registrations,
    skip, status, write,
};

#[tokio::test]
async fn filter_drivers_are_honoured() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["config", "filter.shout.clean", "tr A-Z a-z"]);
    git(&fixture.repo, &["config", "filter.shout.smudge", "tr a-z A-Z"]);
    git(&fixture.repo, &["config", "filter.shout.required", "true"]);
    write(&fixture.repo, ".gitattributes", "*.txt filter=shout\n");
    write(&fixture.repo, "song.txt", "LA\n");
    commit(&fixture.repo, "song");
    assert_eq!(git(&fixture.repo, &["show", "HEAD:song.txt"]), "la");
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert_eq!(read(place.join("song.txt")), "LA\n");
    assert_eq!(status(&place), "");
    write(&place, "song.txt", "CHANGED\n");
    let second = plan(&isolator, 1, "second").await;
    let settled = proof(&isolator, &first).await;
    isolator.recycle(&second, settled).await.unwrap();
    assert_eq!(read(place.join("song.txt")), "LA\n");
    assert_eq!(status(&place), "");

    // A required filter that fails makes no half worktree.
    git(&fixture.repo, &["config", "filter.shout.smudge", "false"]);
    let failing = plan(&isolator, 2, "failing").await;
    isolator.provision(&failing).await.unwrap_err();
    assert!(!isolator.place(SlotId(2)).exists());
    assert_eq!(registrations(&fixture.repo), 1);
    assert!(!git_succeeds(&fixture.repo, &["rev-parse", "-q", "--verify", "wtpool/failing"]));
}

/// Whatever is converted is in a lease as git would have it, and comes back so.
#[tokio::test]
async fn encodings_are_as_git_writes_them() {
    let fixture = Fixture::new();
    let mut attributes = "*.c ident\n".to_owned();
    write(&fixture.repo, "id.c", "$Id$\n");
    for encoding in ["UTF-16LE", "UTF-16BE", "UTF-16", "UTF-16LE-BOM", "UTF-32LE", "ISO-8859-1"] {
        attributes += &format!("*.{encoding} text working-tree-encoding={encoding}\n");
        write(&fixture.repo, &format!("text.{encoding}"), "h\u{e9}llo\n");
    }
    git(&fixture.repo, &["add", "."]);
    write(&fixture.repo, ".gitattributes", &attributes);
    git(&fixture.repo, &["add", ".gitattributes"]);
    git(&fixture.repo, &["commit", "-q", "-m", "encodings"]);
    git(&fixture.repo, &["rm", "-q", "-r", "--cached", "."]);
    git(&fixture.repo, &["reset", "-q", "--hard"]);
    let files = || git(&fixture.repo, &["ls-files"]);
    let is_like_gits = |place: &Path| {
        for file in files().lines() {
            let (found, wanted) = (fs::read(place.join(file)), fs::read(fixture.repo.join(file)));
            assert_eq!(found.expect(file), wanted.expect(file), "{file}");
        }
        assert!(git_succeeds(place, &["update-index", "--really-refresh"]));
    };
    let isolator = fixture.isolator();
    let mut last = plan(&isolator, 1, "first").await;
    isolator.provision(&last).await.unwrap();
    let place = isolator.place(SlotId(1));
    assert_eq!(fs::read(place.join("text.UTF-16LE")).unwrap()[..4], *b"h\0\xe9\0");
    for lease in ["second", "third"] {
        is_like_gits(&place);
        write(&place, "work", "precious");
        let saved = proof(&isolator, &last).await;
        let (rescue, into) = (saved.rescue().expect("saved").id.clone(), fixture.root.path());
        let into = into.join(lease);
        archive(&isolator).restore_into(&rescue, &into).await.unwrap();
        is_like_gits(&into);
        assert_eq!(status(&into), "?? work");
        let next = plan(&isolator, 1, lease).await;
        isolator.recycle(&next, saved).await.unwrap();
        last = next;
    }
    is_like_gits(&place);
}

/// That a filter which commits pointers changes nothing about what a lease may rely on. All `*.bin`
/// go through it.
async fn pointers_are_handled(fixture: &Fixture) {
    let content = |seed| noise(100_000, seed);
    write(&fixture.repo, ".gitattributes", "*.bin filter=elsewhere diff=elsewhere -text\n");
    fs::write(fixture.repo.join("big.bin"), content(1)).unwrap();
    let base = commit(&fixture.repo, "with a pointer");
    let pointer = git(&fixture.repo, &["cat-file", "-s", "HEAD:big.bin"]);
    assert!(pointer.parse::<usize>().unwrap() < 200, "the filter is at work: {pointer}");

    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));
    let bytes = |name: &str| fs::read(place.join(name)).unwrap();
    let losses = async || isolator.inspect(&first).await.unwrap().losses;
    assert_eq!(bytes("big.bin"), content(1));
    assert_eq!(losses().await, Losses::default());
    // A file that was touched, and not changed, has to go through the filter to be known.
    backdate(place.join("big.bin"));
    assert_eq!(losses().await, Losses::default());
    assert_eq!(status(&place), "");

    fs::write(place.join("big.bin"), content(2)).unwrap();
    fs::write(place.join("new.bin"), content(3)).unwrap();
    fs::write(place.join("staged.bin"), content(4)).unwrap();
    git(&place, &["add", "staged.bin"]);
    let before = status(&place);
    assert_eq!(
        losses().await,
        Losses { modified: 1, untracked: 1, staged: 1, ..Losses::default() }
    );

    let second = plan(&isolator, 1, "second").await;
    let saved = proof(&isolator, &first).await;
    let rescue = saved.rescue().unwrap().clone();
    isolator.recycle(&second, saved).await.unwrap();
    assert_eq!(bytes("big.bin"), content(1));
    assert_eq!(status(&place), "");
    assert_eq!(isolator.inspect(&second).await.unwrap().losses, Losses::default());
    assert_eq!(git(&place, &["rev-parse", "HEAD"]), base);

    let into = fixture.root.path().canonicalize().unwrap().join("restored");
    archive(&isolator).restore_into(&rescue.id, &into).await.unwrap();
    archive(&isolator).restore_onto(&rescue.id, &second).await.unwrap();
    for restored in [&into, &place] {
        for (name, seed) in [("big.bin", 2), ("new.bin", 3), ("staged.bin", 4)] {
            assert!(fs::read(restored.join(name)).unwrap() == content(seed), "{name}");
        }
        assert_eq!(status(restored), before);
    }

    // What is committed through the filter, and checked out elsewhere.
    commit(&into, "work");
    let tip = git(&into, &["rev-parse", "HEAD"]);
    let wish = pool_core::Wish { base: Some(tip), ..Default::default() };
    let base = isolator.resolve(&wish, &crate::support::name("third")).await.unwrap();
    let third = crate::support::plan_of(3, "third", base);
    isolator.provision(&third).await.unwrap();
    assert!(fs::read(isolator.place(SlotId(3)).join("staged.bin")).unwrap() == content(4));
    assert_eq!(isolator.inspect(&third).await.unwrap().losses, Losses::default());
}

#[tokio::test]
async fn content_that_a_filter_keeps_elsewhere() {
    let fixture = Fixture::new();
    let store = fixture.root.path().canonicalize().unwrap().join("store");
    fs::create_dir(&store).unwrap();
    let script = |name: &str, text: &str| {
        let path = store.join(name);
        fs::write(&path, format!("#!/bin/sh\nset -e\ncd '{}'\n{text}", store.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        git(
            &fixture.repo,
            &["config", &format!("filter.elsewhere.{name}"), path.to_str().unwrap()],
        );
    };
    script(
        "clean",
        "cat > new.$$; id=$(git hash-object --no-filters new.$$); mv new.$$ $id; echo \"kept elsewhere: $id\"\n",
    );
    script("smudge", "read kept elsewhere id; cat $id\n");
    git(&fixture.repo, &["config", "filter.elsewhere.required", "true"]);
    pointers_are_handled(&fixture).await;
}

#[tokio::test]
async fn content_that_lfs_keeps() {
    let installed = Command::new("git").args(["lfs", "version"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        skip("git-lfs is not installed");
        return;
    }
    let fixture = Fixture::new();
    for (key, value) in [
        ("clean", "git-lfs clean -- %f"),
        ("smudge", "git-lfs smudge -- %f"),
        ("process", "git-lfs filter-process"),
        ("required", "true"),
    ] {
        git(&fixture.repo, &["config", &format!("filter.elsewhere.{key}"), value]);
    }
    pointers_are_handled(&fixture).await;
    // The pointers were LFS's own, and their content is in the repository that all worktrees share.
    let shown = git(&fixture.repo, &["show", "HEAD:big.bin"]);
    assert!(shown.starts_with("version https://git-lfs.github.com/"), "{shown}");
    assert!(fixture.repo.join(".git/lfs/objects").is_dir());
}

/// A filter that no longer is there must not make a worktree look changed, nor take one away.
#[tokio::test]
async fn a_filter_that_is_gone_loses_nothing() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["config", "filter.gone.clean", "tr A-Z a-z"]);
    git(&fixture.repo, &["config", "filter.gone.smudge", "tr a-z A-Z"]);
    write(&fixture.repo, ".gitattributes", "*.txt filter=gone\n");
    write(&fixture.repo, "song.txt", "LA\n");
    commit(&fixture.repo, "song");
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "first").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(SlotId(1));
    write(&place, "song.txt", "LA LA\n");
    git(&fixture.repo, &["config", "filter.gone.clean", "no-such-program"]);
    git(&fixture.repo, &["config", "filter.gone.smudge", "no-such-program"]);
    git(&fixture.repo, &["config", "filter.gone.required", "true"]);
    let saved = proof(&isolator, &plan).await;
    let shown = format!("{}:song.txt", saved.rescue().unwrap().reference);
    assert_eq!(git(&fixture.repo, &["show", &shown]), "LA LA");
    assert!(Path::new(&place).exists());
}
