//! Names of branches that mean something already: on a remote, in full, or to a branch beside.

use std::fs;
use std::path::PathBuf;

use git_backend::GitIsolator;
use pool_core::{Base, BranchWish, Error, ErrorKind, Isolator, SlotId, Wish};

use crate::support::{Fixture, commit, git, git_succeeds, name, plan_of, proof, write};

/// A repository with a remote for each name, each of which has a commit of its own on `feature`.
fn with_remotes(names: &[&str]) -> Fixture {
    let fixture = Fixture::new();
    for remote in names {
        let path = clone_with_feature(&fixture, remote);
        git(&fixture.repo, &["remote", "add", remote, path.to_str().unwrap()]);
        git(&fixture.repo, &["fetch", "-q", remote]);
    }
    fixture
}

fn clone_with_feature(fixture: &Fixture, remote: &str) -> PathBuf {
    let path = fixture.repo.parent().unwrap().join("remotes").join(remote);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    git(&fixture.repo, &["clone", "-q", ".", path.to_str().unwrap()]);
    git(&path, &["switch", "-q", "-c", "feature"]);
    write(&path, "feature.txt", remote);
    commit(&path, &format!("feature of {remote}"));
    git(&path, &["switch", "-q", "--detach"]);
    path
}

async fn named(isolator: &GitIsolator, branch: &str) -> pool_core::Result<Base> {
    let wish = Wish { branch: BranchWish::Named(branch.into()), ..Default::default() };
    isolator.resolve(&wish, &name("n")).await
}

async fn from(isolator: &GitIsolator, base: &str) -> pool_core::Result<Base> {
    let wish = Wish { base: Some(base.into()), ..Default::default() };
    isolator.resolve(&wish, &name("n")).await
}

fn hint(error: &Error) -> &str {
    error.hint().unwrap_or_default()
}

/// The configuration of the branch `feature`, and what it is at.
fn feature(fixture: &Fixture) -> String {
    let config = ["config", "--local", "--get-regexp", "^branch\\.feature\\."];
    let config = if git_succeeds(&fixture.repo, &config) {
        git(&fixture.repo, &config)
    } else {
        String::new()
    };
    format!("{} {config}", git(&fixture.repo, &["rev-parse", "feature"]))
}

#[tokio::test]
async fn remote_branch_is_continued_as_git_worktree_add_does() {
    for packed in [false, true] {
        let fixture = with_remotes(&["origin"]);
        if packed {
            git(&fixture.repo, &["pack-refs", "--all"]);
        }
        // A tag of that name is no branch.
        git(&fixture.repo, &["tag", "feature-tag"]);
        git(&fixture.repo, &["worktree", "add", "-q", "../stock", "feature"]);
        let stock = feature(&fixture);
        git(&fixture.repo, &["worktree", "remove", "../stock"]);
        git(&fixture.repo, &["branch", "-q", "-D", "feature"]);

        let isolator = fixture.isolator();
        let base = named(&isolator, "feature").await.unwrap();
        let first = plan_of(1, "first", base);
        isolator.provision(&first).await.unwrap();
        assert_eq!(feature(&fixture), stock);
        let place = isolator.place(SlotId(1));
        assert!(place.join("feature.txt").is_file());
        write(&place, "more.txt", "more");
        commit(&place, "more");
        git(&place, &["push", "-q", "origin", "HEAD"]);

        // In a slot that is used again as well.
        let settled = proof(&isolator, &first).await;
        let free = plan_of(1, "free", from(&isolator, "HEAD").await.unwrap());
        isolator.recycle(&free, settled).await.unwrap();
        git(&fixture.repo, &["branch", "-q", "-D", "feature"]);
        let second = plan_of(1, "second", named(&isolator, "feature").await.unwrap());
        let settled = proof(&isolator, &free).await;
        isolator.recycle(&second, settled).await.unwrap();
        assert!(feature(&fixture).contains("branch.feature.remote origin"));

        // Without a commit of its own it goes, and its configuration with it.
        let settled = proof(&isolator, &second).await;
        isolator.dispose(settled).await.unwrap();
        assert!(!git_succeeds(
            &fixture.repo,
            &["rev-parse", "-q", "--verify", "refs/heads/feature"]
        ));
        assert_eq!(
            git(&fixture.repo, &["config", "--list", "--local"]).matches("branch.").count(),
            0
        );
    }
}

#[tokio::test]
async fn branch_of_several_remotes_is_chosen_or_refused() {
    let fixture = with_remotes(&["origin", "fork"]);
    let isolator = fixture.isolator();
    let refused = named(&isolator, "feature").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    assert!(refused.to_string().contains("origin") && refused.to_string().contains("fork"));
    assert!(hint(&refused).contains("git branch --track feature"), "{}", hint(&refused));

    git(&fixture.repo, &["config", "checkout.defaultRemote", "fork"]);
    let isolator = fixture.isolator();
    let base = named(&isolator, "feature").await.unwrap();
    assert_eq!(base.commit.as_str(), git(&fixture.repo, &["rev-parse", "fork/feature"]));
    isolator.provision(&plan_of(1, "first", base)).await.unwrap();
    assert!(feature(&fixture).contains("branch.feature.remote fork"));
}

#[tokio::test]
async fn refspecs_of_the_remote_decide_what_it_has() {
    let fixture = with_remotes(&["origin"]);
    let from = "+refs/heads/*:refs/elsewhere/*";
    git(&fixture.repo, &["config", "remote.origin.fetch", from]);
    // What an earlier refspec brought.
    let refused = named(&fixture.isolator(), "feature").await.unwrap_err();
    assert!(hint(&refused).contains("--base origin/feature"), "{}", hint(&refused));
    git(&fixture.repo, &["update-ref", "-d", "refs/remotes/origin/feature"]);
    git(&fixture.repo, &["fetch", "-q"]);
    let base = named(&fixture.isolator(), "feature").await.unwrap();
    assert_eq!(base.commit.as_str(), git(&fixture.repo, &["rev-parse", "refs/elsewhere/feature"]));
    git(&fixture.repo, &["config", "--add", "remote.origin.fetch", "^refs/heads/feature"]);
    let base = named(&fixture.isolator(), "feature").await.unwrap();
    assert_eq!(base.commit.as_str(), fixture.head());
}

#[tokio::test]
async fn qualified_names_make_no_branch() {
    let fixture = with_remotes(&["origin", "team/fork"]);
    git(&fixture.repo, &["branch", "here"]);
    git(&fixture.repo, &["tag", "v1"]);
    let isolator = fixture.isolator();
    for (asked, typed) in [
        ("origin/feature", "--branch feature"),
        ("team/fork/feature", "--branch feature"),
        ("remotes/origin/feature", "--branch feature"),
        ("refs/remotes/origin/feature", "--branch feature"),
        ("origin/absent", "git fetch origin"),
        ("refs/heads/here", "--branch here"),
        ("heads/here", "--branch here"),
        ("refs/tags/v1", "--detach --base refs/tags/v1"),
        ("tags/v1", "--detach --base tags/v1"),
    ] {
        let refused = named(&isolator, asked).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{asked}");
        assert!(hint(&refused).contains(typed), "{asked}: {}", hint(&refused));
    }
    // Where there is such a branch already, it is that one.
    git(&fixture.repo, &["update-ref", "refs/heads/origin/feature", "HEAD"]);
    let base = named(&isolator, "origin/feature").await.unwrap();
    assert!(!base.branch.unwrap().created);
    // A name that only looks like one.
    assert!(named(&isolator, "original/feature").await.unwrap().branch.unwrap().created);
}

#[tokio::test]
async fn base_on_a_remote_only_says_what_to_type() {
    let fixture = with_remotes(&["origin", "fork"]);
    let isolator = fixture.isolator();
    for (asked, typed) in [
        ("feature", "`--base fork/feature` or `--base origin/feature`"),
        ("feature~0", "`--base origin/feature~0`"),
        ("heads/feature", "`--base origin/feature`"),
        ("refs/heads/feature", "`--base origin/feature`"),
        ("fork/absent", "git fetch fork"),
        ("absent", "check the spelling"),
    ] {
        let refused = from(&isolator, asked).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::UnknownRevision, "{asked}");
        assert!(hint(&refused).contains(typed), "{asked}: {}", hint(&refused));
    }
    let tip = git(&fixture.repo, &["rev-parse", "origin/feature"]);
    git(&fixture.repo, &["remote", "set-head", "origin", "feature"]);
    for asked in
        ["origin/feature", "remotes/origin/feature", "refs/remotes/origin/feature", "origin"]
    {
        assert_eq!(from(&isolator, asked).await.unwrap().commit.as_str(), tip, "{asked}");
    }
    // A tag comes before a branch, as to git.
    git(&fixture.repo, &["tag", "both", "origin/feature"]);
    git(&fixture.repo, &["branch", "both", "main"]);
    assert_eq!(from(&isolator, "both").await.unwrap().commit.as_str(), tip);
    assert_eq!(from(&isolator, "heads/both").await.unwrap().commit.as_str(), fixture.head());
    assert_eq!(named(&isolator, "both").await.unwrap().commit.as_str(), fixture.head());

    // A hint to fetch from nowhere helps nobody.
    let alone = Fixture::new();
    let refused = from(&alone.isolator(), "absent").await.unwrap_err();
    assert!(!hint(&refused).contains("fetch"), "{}", hint(&refused));
}

#[tokio::test]
async fn branches_in_the_way_are_named_and_avoided() {
    for packed in [false, true] {
        let fixture = Fixture::new();
        let isolator = fixture.isolator();
        git(&fixture.repo, &["branch", "topic/one/deep"]);
        git(&fixture.repo, &["branch", "wtpool/n/child"]);
        if packed {
            git(&fixture.repo, &["pack-refs", "--all"]);
        }
        let before = git(&fixture.repo, &["for-each-ref"]);
        for (asked, other) in [
            ("topic/one", "topic/one/deep"),
            ("topic", "topic/one/deep"),
            ("topic/one/deep/er", "topic/one/deep"),
            ("main/x", "main"),
        ] {
            let refused = named(&isolator, asked).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NameTaken, "{asked}");
            let says = format!("cannot create branch {asked}: branch {other} exists");
            assert!(refused.to_string().starts_with(&says), "{refused}");
            assert!(hint(&refused).contains(&format!("git branch -m {other} ")), "{refused:?}");
        }
        // An invented name is then another one.
        let refused = isolator.resolve(&Wish::default(), &name("n")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NameTaken);
        assert!(refused.to_string().contains("wtpool/n/child"), "{refused}");
        assert!(isolator.resolve(&Wish::default(), &name("m")).await.is_ok());
        assert_eq!(git(&fixture.repo, &["for-each-ref"]), before);
    }
}

/// Both were free when they were asked for.
#[tokio::test]
async fn branch_made_meanwhile_in_the_way_is_named() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let parent = plan_of(1, "parent", named(&isolator, "topic").await.unwrap());
    let child = plan_of(2, "child", named(&isolator, "topic/child").await.unwrap());
    isolator.provision(&child).await.unwrap();
    let refused = isolator.provision(&parent).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NameTaken);
    assert!(refused.to_string().contains("topic/child"), "{refused}");
    assert!(!isolator.place(SlotId(1)).exists());
}

/// A worktree with a branch of its own, on which an agent did this.
async fn after(fixture: &Fixture, did: &[&[&str]]) -> Option<pool_core::BranchReport> {
    let isolator = fixture.isolator();
    let plan = crate::support::plan(&isolator, 1, "first").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(SlotId(1));
    for args in did {
        git(&place, args);
    }
    let branch = isolator.inspect(&plan).await.unwrap().branch;
    let settled = proof(&isolator, &plan).await;
    isolator.dispose(settled).await.unwrap();
    branch
}

const COMMIT: &[&str] = &["commit", "-q", "--allow-empty", "-m", "work"];

#[tokio::test]
async fn commits_on_another_branch_are_reported_there() {
    let with = |name: &str, commits| pool_core::BranchCommits { name: name.into(), commits };
    let switch: &[&str] = &["switch", "-q", "-c", "feat/own"];
    let again: &[&str] = &["commit", "-q", "--allow-empty", "-m", "more"];
    for (did, elsewhere) in [
        (vec![switch, COMMIT], vec![with("feat/own", 1)]),
        (vec![switch, COMMIT, again], vec![with("feat/own", 2)]),
        // One that has what another has, and one more.
        (
            vec![switch, COMMIT, &["switch", "-q", "-c", "other"], again],
            vec![with("feat/own", 1), with("other", 2)],
        ),
        (
            vec![switch, COMMIT, &["commit", "-q", "--amend", "--allow-empty", "-m", "better"]],
            vec![with("feat/own", 1)],
        ),
        // No commit was made on it here.
        (vec![&["switch", "-q", "theirs"]], vec![]),
    ] {
        let fixture = Fixture::new();
        git(&fixture.repo, &["switch", "-q", "-c", "theirs"]);
        write(&fixture.repo, "theirs.txt", "theirs");
        commit(&fixture.repo, "theirs");
        git(&fixture.repo, &["switch", "-q", "main"]);
        let branch = after(&fixture, &did).await.unwrap();
        assert_eq!((branch.kept, branch.commits), (false, 0), "{did:?}");
        assert_eq!(branch.elsewhere, elsewhere, "{did:?}");
    }
}

#[tokio::test]
async fn renamed_branch_is_reported_under_its_new_name() {
    let rename: &[&str] = &["branch", "-m", "feat/new"];
    let away: &[&str] = &["switch", "-q", "--detach"];
    let again: &[&str] = &["branch", "-m", "feat/newer"];
    let from: &[&str] = &["branch", "-m", "wtpool/first", "feat/new"];
    for (did, now, commits) in [
        (vec![rename], "feat/new", None),
        (vec![COMMIT, rename], "feat/new", Some(1)),
        (vec![rename, again], "feat/newer", None),
        (vec![away, from], "feat/new", None),
    ] {
        let fixture = Fixture::new();
        let branch = after(&fixture, &did).await.unwrap();
        assert_eq!(branch.renamed_to.as_deref(), Some(now), "{did:?}");
        assert_eq!(branch.elsewhere.first().map(|with| with.commits), commits, "{did:?}");
        assert!(git_succeeds(&fixture.repo, &["rev-parse", "--verify", "-q", now]), "{did:?}");
    }
}

#[tokio::test]
async fn symbolic_branch_is_not_leased() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    git(&fixture.repo, &["symbolic-ref", "refs/heads/alias", "refs/heads/main"]);
    let error = named(&isolator, "alias").await.expect_err("it leads to the user's branch");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("symbolic reference to main"), "{error}");
    assert_eq!(hint(&error), "use `--branch main`");

    // It may have become one since it was resolved.
    git(&fixture.repo, &["branch", "other"]);
    let base = named(&isolator, "other").await.expect("an ordinary branch");
    git(&fixture.repo, &["symbolic-ref", "refs/heads/other", "refs/heads/main"]);
    let plan = plan_of(1, "n", base);
    assert!(isolator.provision(&plan).await.is_err());
}
