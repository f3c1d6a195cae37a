use std::collections::BTreeSet;

use testkit::fixture::dirty::{Need, Shape};
use testkit::fixture::{Fixture, Kind, Layout, snapshot, snapshot_files, state};
use testkit::git;

const ALL: &[Layout] = &[
    Layout::Plain,
    Layout::Nested,
    Layout::TwoNested,
    Layout::Bare,
    Layout::Submodule,
    Layout::Sparse,
    Layout::Cloned,
    Layout::Unborn,
    Layout::Sha256,
    Layout::ManyFiles(250),
];

#[test]
fn every_copy_is_clean_and_sound() {
    for layout in ALL {
        let fixture = Fixture::new(*layout);
        fixture.git().args(["fsck", "--strict"]).ok();
        if *layout != Layout::Bare {
            let status = fixture.git().args(["status", "--porcelain"]).stdout();
            assert_eq!(status, "", "{layout:?}");
        }
        if *layout != Layout::Unborn {
            assert!(!fixture.head().is_empty());
        }
        let elsewhere = fixture.git().args(["config", "--list", "--show-origin"]).stdout();
        for line in elsewhere.lines().filter(|line| line.contains("wtpool-fixture-")) {
            assert!(line.contains(&*fixture.root().to_string_lossy()), "{layout:?}: {line}");
        }
    }
}

#[test]
fn copies_share_nothing() {
    let (one, two) = (Fixture::plain(), Fixture::plain());
    assert_ne!(one.repo(), two.repo());
    assert_eq!(one.head(), two.head());
    let before = snapshot(two.root());
    std::fs::write(one.repo().join("README.md"), "changed\n").expect("it can be written");
    one.git().args(["commit", "--quiet", "--all", "-m", "change"]).ok();
    assert_eq!(snapshot(two.root()), before);
    let gone = one.root().to_owned();
    drop(one);
    assert!(!gone.exists());
}

#[test]
fn the_layouts_are_what_they_say() {
    let nested = Fixture::new(Layout::Nested);
    git(nested.workspace()).args(["rev-parse", "--git-dir"]).fails();
    git(nested.repo()).args(["rev-parse", "--git-dir"]).ok();
    git(nested.root()).args(["rev-parse", "--git-dir"]).fails();

    let two = Fixture::new(Layout::TwoNested);
    git(two.other_repo()).args(["rev-parse", "HEAD"]).ok();

    let bare = Fixture::new(Layout::Bare);
    assert_eq!(bare.git().args(["rev-parse", "--is-bare-repository"]).stdout(), "true");

    let submodule = Fixture::new(Layout::Submodule);
    let lib = submodule.repo().join("vendor/lib");
    assert!(lib.join("lib.txt").is_file());
    git(&lib).args(["fetch", "--quiet"]).ok();
    submodule.git().args(["submodule", "update", "--init"]).ok();

    let sparse = Fixture::new(Layout::Sparse);
    assert!(sparse.repo().join("kept/a.txt").is_file());
    assert!(!sparse.repo().join("hidden").exists());

    let cloned = Fixture::new(Layout::Cloned);
    cloned.git().args(["fetch", "--quiet"]).ok();
    let upstream = cloned.git().args(["rev-parse", "--abbrev-ref", "main@{upstream}"]).stdout();
    assert_eq!(upstream, "origin/main");
    cloned.git().args(["rev-parse", "--verify", "--quiet", "origin/ahead"]).ok();

    let long = Fixture::new(Layout::Sha256);
    assert_eq!(long.head().len(), 64);

    let many = Fixture::new(Layout::ManyFiles(250));
    assert_eq!(many.git().args(["ls-files"]).stdout().lines().count(), 251);

    Fixture::new(Layout::Unborn).git().args(["rev-parse", "--verify", "HEAD"]).fails();
}

/// Those that need nothing which a machine may not have.
fn shapes() -> Vec<Shape> {
    let mut shapes = Shape::all();
    shapes.retain(|shape| shape.need().is_none_or(|need| need == Need::User));
    shapes
}

#[test]
fn each_shape_changes_a_main_and_a_linked_worktree() {
    let shapes = shapes();
    std::thread::scope(|scope| {
        for part in shapes.chunks(shapes.len().div_ceil(4)) {
            scope.spawn(move || {
                for shape in part {
                    let fixture = Fixture::new(shape.layout());
                    let linked = fixture.worktree("linked");
                    let mut worktrees = vec![linked];
                    // A main worktree's `.git` is the repository.
                    let linked_only =
                        [Shape::GitFileDeleted, Shape::GitFileReplaced, Shape::IndexCorrupt];
                    if !linked_only.contains(shape) {
                        worktrees.push(fixture.repo());
                    }
                    for worktree in worktrees {
                        let before = state(&worktree);
                        shape.apply(&worktree);
                        let after = state(&worktree);
                        assert_ne!(before.differences(&after), Vec::<String>::new(), "{shape:?}");
                    }
                    if *shape != Shape::IndexCorrupt {
                        fixture.git().args(["fsck"]).ok();
                    }
                }
            });
        }
    });
}

#[test]
fn shapes_show_up_in_git_status_as_they_should() {
    for (shape, expected) in [
        (Shape::Staged, "M  src/lib.rs"),
        (Shape::PartlyStaged, "MM data/two.txt"),
        (Shape::StagedThenReverted, "MM src/lib.rs"),
        (Shape::StagedThenDeleted, "AD src/new.rs"),
        (Shape::UnstagedByRm, "D  data/one.txt\n?? data/one.txt"),
        (Shape::Deleted, " D data/one.txt"),
        (Shape::IntentToAdd, " A later.txt"),
        (Shape::NameWithDash, "?? --force\n?? -rf"),
        (Shape::AssumeUnchanged, ""),
        (Shape::CommitResetAway, ""),
        #[cfg(unix)]
        (Shape::ModeChanged, " M src/main.rs"),
        #[cfg(unix)]
        (Shape::LinkRetargeted, " M link"),
        #[cfg(unix)]
        (Shape::FileToLink, " T src/main.rs"),
        #[cfg(unix)]
        (Shape::NameWithNewline, "?? \"tab\\tand \\\"quote\\\"\"\n?? \"two\\nlines\""),
        #[cfg(target_os = "linux")]
        (Shape::NameNotUtf8, "?? \"not-utf8-\\377\\376\""),
    ] {
        let fixture = Fixture::plain();
        shape.apply(fixture.repo());
        assert_eq!(fixture.git().args(["status", "--porcelain"]).stdout(), expected, "{shape:?}");
    }
}

#[test]
fn operations_are_in_progress() {
    for (shape, file) in [
        (Shape::ConflictedMerge, "MERGE_HEAD"),
        (Shape::UncommittedMerge, "MERGE_HEAD"),
        (Shape::MidRebase, "rebase-merge"),
        (Shape::MidCherryPick, "CHERRY_PICK_HEAD"),
        (Shape::MidRevert, "REVERT_HEAD"),
        (Shape::MidBisect, "BISECT_LOG"),
    ] {
        let fixture = Fixture::plain();
        shape.apply(fixture.repo());
        assert!(fixture.repo().join(".git").join(file).exists(), "{shape:?}");
    }
}

#[test]
fn shapes_are_all_different() {
    let names: BTreeSet<String> = Shape::all().iter().map(Shape::name).collect();
    assert_eq!(names.len(), Shape::all().len());
    let told: BTreeSet<&str> = Shape::all().iter().map(Shape::about).collect();
    assert_eq!(told.len(), names.len());
}

#[test]
#[cfg(unix)]
fn a_snapshot_sees_types_modes_and_targets() {
    use std::os::unix::fs::PermissionsExt as _;

    let fixture = Fixture::plain();
    let repo = fixture.repo();
    let tree = snapshot_files(&repo);
    assert!(tree.keys().all(|path| !path.starts_with(b".git/")));
    assert_eq!(tree[b"link".as_slice()].kind, Kind::Link);
    assert_eq!(tree[b"link".as_slice()].content, b"data/one.txt");
    assert_eq!(tree[b"script.sh".as_slice()].mode & 0o111, 0o111);

    let script = repo.join("script.sh");
    let changed = |what: &str| assert_ne!(snapshot_files(&repo), tree, "{what}");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    changed("mode");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    assert_eq!(snapshot_files(&repo), tree);
    std::fs::remove_file(repo.join("link")).expect("it is ours");
    std::fs::copy(repo.join("data/one.txt"), repo.join("link")).expect("it is ours");
    changed("a link that became a file of the same content as its target");
}
