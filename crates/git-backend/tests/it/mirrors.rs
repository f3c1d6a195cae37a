//! Remotes whose refspecs cover what the pool keeps in the repository. Each claim is compared with what git does.

use std::path::{Path, PathBuf};
use std::process::Command;

use git_backend::{ExposedBy, Exposure};
use pool_core::Isolator;

use crate::support::{Fixture, archive, commit, git, git_succeeds, plan, proof, settings, write};

/// A repository with a rescue and a branch of a lease, both of which no remote has.
struct Exposed {
    fixture: Fixture,
    upstream: PathBuf,
}

const BRANCH: &str = "refs/heads/wtpool/kept";

impl Exposed {
    /// A clone made with that option, whose configuration `lines` change.
    async fn new(option: &[&str], lines: &[&[&str]]) -> Self {
        let fixture = Fixture::new();
        let upstream = fixture.repo.clone();
        let parent = upstream.parent().unwrap().to_owned();
        git(&parent, &[&["clone", "-q"], option, &["demo", "clone.git"]].concat());
        let fixture = Fixture { repo: parent.join("clone.git"), ..fixture };
        for line in lines {
            git(&fixture.repo, &[&["config"], *line].concat());
        }
        let isolator = fixture.isolator();
        let lease = plan(&isolator, 1, "lease").await;
        isolator.provision(&lease).await.unwrap();
        write(&isolator.place(lease.slot), "secret", "precious\n");
        isolator.dispose(proof(&isolator, &lease).await).await.unwrap();
        git(&fixture.repo, &["update-ref", BRANCH, "HEAD"]);
        Self { fixture, upstream }
    }

    fn exposures(&self) -> Vec<Exposure> {
        self.fixture.isolator().exposures().unwrap()
    }

    /// Runs the commands that are offered, as a shell does.
    fn protect(&self) {
        for command in self.exposures().iter().flat_map(|exposure| &exposure.commands) {
            let mut shell = Command::new("sh");
            let done = shell.args(["-c", command]).current_dir(&self.fixture.repo).status();
            assert!(done.unwrap().success(), "{command}");
        }
    }

    async fn rescues(&self) -> usize {
        archive(&self.fixture.isolator()).list().await.unwrap().len()
    }

    fn has_branch(&self) -> bool {
        git_succeeds(&self.fixture.repo, &["rev-parse", "--verify", "-q", BRANCH])
    }

    /// Makes the remote another, empty repository, and says which.
    fn push_elsewhere(&self) -> PathBuf {
        let elsewhere = self.upstream.parent().unwrap().join("elsewhere.git");
        git(self.upstream.parent().unwrap(), &["init", "-q", "--bare", "elsewhere.git"]);
        git(&self.fixture.repo, &["config", "remote.origin.pushurl", elsewhere.to_str().unwrap()]);
        elsewhere
    }
}

fn references(repo: &Path, below: &str) -> usize {
    git(repo, &["for-each-ref", below]).lines().count()
}

const FETCH: &str = "remote.origin.fetch";
const PUSH: &str = "remote.origin.push";

/// Each way by which a fetch deletes something of the pool's: what it covers (rescues, branches), and how.
#[tokio::test]
async fn offered_exclusions_protect_from_a_pruning_fetch() {
    let unset = ["--unset-all", FETCH];
    let (on_demand, always) = (ExposedBy::PruningFetch, ExposedBy::EachFetch);
    type Case<'a> = (&'a [&'a str], &'a [&'a [&'a str]], (bool, bool), ExposedBy);
    let cases: &[Case<'_>] = &[
        (&["--mirror"], &[], (true, true), on_demand),
        (&["--mirror"], &[&["fetch.prune", "true"]], (true, true), always),
        (&["--mirror"], &[&["remote.origin.prune", "true"]], (true, true), always),
        (&["--bare"], &[&["--add", FETCH, "+refs/heads/*:refs/heads/*"]], (false, true), on_demand),
        (&["--bare"], &[&["--add", FETCH, "refs/*:refs/*"]], (true, true), on_demand),
        (
            &["--bare"],
            &[&["--add", FETCH, "+refs/wtpool/*:refs/wtpool/*"]],
            (true, false),
            on_demand,
        ),
        (&["--bare"], &[&["--add", FETCH, "+refs/backup/*:refs/*"]], (true, true), on_demand),
        (
            &["--bare"],
            &[&["--add", FETCH, "+refs/heads/*:refs/wtpool/*"]],
            (true, false),
            on_demand,
        ),
        (&["--mirror"], &[&["--add", FETCH, "^refs/wtpool/*"]], (false, true), on_demand),
        (&["--mirror"], &[&["--add", FETCH, "^refs/heads/*"]], (true, false), on_demand),
        (
            &["--bare"],
            &[&["--add", "remote.a b.fetch", "+refs/*:refs/*"], &["remote.a b.url", "../demo"]],
            (true, true),
            on_demand,
        ),
        (&["--mirror"], &[&unset, &["--add", FETCH, "+refs/*:refs/*"]], (true, true), on_demand),
    ];
    for (option, lines, covered, by) in cases {
        let of = |exposures: Vec<Exposure>| {
            exposures.into_iter().find(|exposure| exposure.by != ExposedBy::Push)
        };
        let exposed = Exposed::new(option, lines).await;
        let found = of(exposed.exposures()).unwrap_or_else(|| panic!("{lines:?}: not noticed"));
        assert_eq!((found.rescues, found.branches.is_some()), *covered, "{lines:?}");
        assert_eq!(found.by, *by, "{lines:?}");
        exposed.protect();
        assert_eq!(of(exposed.exposures()), None, "{lines:?}");
        git(&exposed.fixture.repo, &["fetch", "-q", "--prune", &found.remote]);
        assert_eq!((exposed.rescues().await, exposed.has_branch()), (1, true), "{found:?}");

        // Without them, git deletes just what is said.
        let exposed = Exposed::new(option, lines).await;
        let prune: &[&str] = if *by == always { &[] } else { &["--prune"] };
        git(&exposed.fixture.repo, &[&["fetch", "-q"], prune, &[&found.remote]].concat());
        let kept = (exposed.rescues().await == 1, exposed.has_branch());
        assert_eq!(kept, (!covered.0, !covered.1), "{lines:?}");
    }
}

#[tokio::test]
async fn ordinary_remotes_are_no_exposure() {
    let excluded: &[&[&str]] = &[
        &["--add", FETCH, "^refs/wtpool/*"],
        &["--add", FETCH, "^refs/heads/wtpool/*"],
        &["remote.origin.mirror", "false"],
    ];
    let cases: &[(&[&str], &[&[&str]])] = &[
        (&[], &[&["remote.origin.prune", "true"]]),
        (&["--bare"], &[]),
        (&[], &[&["--add", FETCH, "+refs/*:refs/remotes/origin/all/*"]]),
        (&[], &[&["--add", FETCH, "+refs/notes/*:refs/notes/*"], &["push.default", "matching"]]),
        (&[], &[&["--add", PUSH, "refs/heads/*:refs/heads/*"], &["--add", PUSH, ":"]]),
        (&["--mirror"], excluded),
    ];
    for (option, lines) in cases {
        let exposed = Exposed::new(option, lines).await;
        assert_eq!(exposed.exposures(), [], "{lines:?}");
        let to = exposed.push_elsewhere();
        git(&exposed.fixture.repo, &["fetch", "-q", "--prune"]);
        git_succeeds(&exposed.fixture.repo, &["push", "-q"]);
        assert_eq!((exposed.rescues().await, exposed.has_branch()), (1, true), "{lines:?}");
        assert_eq!(references(&to, "refs/wtpool"), 0, "{lines:?}");
    }
}

#[tokio::test]
async fn offered_exclusions_keep_rescues_from_a_push() {
    let cases: &[(&[&str], &[&[&str]])] = &[
        (&["--mirror"], &[]),
        (&[], &[&["remote.origin.mirror", "true"]]),
        (&[], &[&["--add", PUSH, "+refs/*:refs/*"]]),
        (&[], &[&["--add", PUSH, "refs/*"]]),
        (&[], &[&["--add", PUSH, "refs/wtpool/*:refs/backup/*"], &["--add", PUSH, "refs/heads/*"]]),
    ];
    for (option, lines) in cases {
        for protected in [true, false] {
            let exposed = Exposed::new(option, lines).await;
            let found = exposed.exposures();
            let found = found.iter().find(|exposure| exposure.by == ExposedBy::Push);
            assert!(found.is_some(), "{lines:?}: not noticed");
            let to = exposed.push_elsewhere();
            if protected {
                exposed.protect();
                let left = exposed.exposures();
                assert!(left.iter().all(|one| one.by != ExposedBy::Push), "{left:?}");
            }
            git(&exposed.fixture.repo, &["push", "-q", "origin"]);
            let published = references(&to, "refs/wtpool") + references(&to, "refs/backup");
            assert_eq!(published, usize::from(!protected), "{lines:?}");
            assert!(references(&to, "refs/heads/main") == 1, "{lines:?}");
        }
    }
}

#[tokio::test]
async fn included_configuration_counts() {
    let exposed = Exposed::new(&[], &[&["include.path", "more"]]).await;
    assert_eq!(exposed.exposures(), []);
    let more = exposed.fixture.repo.join(".git/more");
    std::fs::write(more, "[remote \"origin\"]\n\tfetch = +refs/*:refs/*\n").unwrap();
    assert!(exposed.exposures()[0].rescues);
}

/// Another's fetch deletes the branch of a lease while its worktree has it checked out.
#[tokio::test]
async fn commits_are_saved_if_a_fetch_deleted_their_branch() {
    for log in ["true", "false"] {
        let fixture = Fixture::new();
        let parent = fixture.repo.parent().unwrap().to_owned();
        git(&parent, &["clone", "-q", "--mirror", "demo", "clone.git"]);
        let fixture = Fixture { repo: parent.join("clone.git"), ..fixture };
        git(&fixture.repo, &["config", "core.logAllRefUpdates", log]);
        let isolator = fixture.isolator_with(settings());
        let lease = plan(&isolator, 1, "lease").await;
        isolator.provision(&lease).await.unwrap();
        let place = isolator.place(lease.slot);
        write(&place, "work", "precious\n");
        let precious = commit(&place, "precious");
        write(&place, "more", "precious as well\n");
        git(&fixture.repo, &["fetch", "-q", "--prune"]);
        assert_eq!(git(&fixture.repo, &["for-each-ref", "refs/heads/wtpool"]), "");

        let proof = proof(&isolator, &lease).await;
        let rescue = proof.rescue().expect("a rescue").clone();
        assert_eq!(rescue.commits, 1);
        isolator.dispose(proof).await.unwrap();
        git(&fixture.repo, &["reflog", "expire", "--expire=now", "--all"]);
        git(&fixture.repo, &["gc", "-q", "--prune=now"]);
        git(&fixture.repo, &["merge-base", "--is-ancestor", &precious, &rescue.reference]);
        let into = parent.join("restored");
        archive(&isolator).restore_into(&rescue.id, &into).await.unwrap();
        let read = |name| std::fs::read_to_string(into.join(name)).unwrap();
        assert_eq!(
            (read("work"), read("more")),
            ("precious\n".into(), "precious as well\n".into())
        );
    }
}
