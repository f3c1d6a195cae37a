//! What caches are told about files.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use pool_core::{CommitId, Isolator, Sources};

use crate::support::{Fixture, commit, git, plan, status, write};

#[tokio::test]
async fn the_files_of_two_commits_differ_where_they_do() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let first = CommitId::new(fixture.head()).unwrap();
    write(&fixture.repo, "src/main.rs", "fn main() { }\n");
    let second = CommitId::new(commit(&fixture.repo, "second")).unwrap();
    let (old, new) =
        (isolator.files(&first).await.unwrap(), isolator.files(&second).await.unwrap());
    let differ: Vec<_> = old.iter().filter(|(path, id)| new.get(*path) != Some(*id)).collect();
    assert_eq!(differ.len(), 1);
    assert!(differ[0].0.ends_with("src/main.rs"));
    assert_eq!(old.len(), new.len());
}

#[tokio::test]
async fn other_attributes_make_other_files() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let first = CommitId::new(fixture.head()).unwrap();
    write(&fixture.repo, ".gitattributes", "*.md text eol=crlf\n");
    let second = CommitId::new(commit(&fixture.repo, "second")).unwrap();
    let (old, new) =
        (isolator.files(&first).await.unwrap(), isolator.files(&second).await.unwrap());
    assert!(old.iter().all(|(path, id)| new[path] != *id));
}

#[tokio::test]
async fn an_export_knows_its_commit_and_nobody_knows_it() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let first = CommitId::new(fixture.head()).unwrap();
    write(&fixture.repo, "later", "");
    commit(&fixture.repo, "second");
    let into = fixture.root.path().join("export");
    isolator.export(&first, &into).await.unwrap();
    assert_eq!(git(&into, &["rev-parse", "HEAD"]), first.as_str());
    assert_eq!(
        git(&into, &["rev-parse", "main"]),
        fixture.head(),
        "it sees the repository's branches"
    );
    assert_eq!(status(&into), "");
    assert!(into.join("README.md").exists() && !into.join("later").exists());
    assert_eq!(git(&fixture.repo, &["worktree", "list"]).lines().count(), 1);
    assert!(isolator.export(&first, &into).await.is_err(), "something is there");
}

#[tokio::test]
async fn stamped_files_are_still_unmodified() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "lease").await;
    isolator.provision(&plan).await.unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    let times = BTreeMap::from([("README.md".into(), time), ("absent".into(), time)]);
    isolator.stamp(plan.slot, times).await.unwrap();
    let place = isolator.place(plan.slot);
    let modified = |path: &str| place.join(path).metadata().unwrap().modified().unwrap();
    assert_eq!(modified("README.md"), time);
    assert_ne!(modified("src/main.rs"), time);
    // Known from the index alone, without reading a file.
    assert_eq!(git(&place, &["diff-files"]), "");
    assert!(isolator.inspect(&plan).await.unwrap().losses.is_empty());
}
