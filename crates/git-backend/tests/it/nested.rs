//! Linked worktrees that an agent makes in its slot's directory: inside its tree, and beside it.

use std::fs;
use std::path::{Path, PathBuf};

use git_backend::GitIsolator;
use pool_core::{ErrorKind, Isolator, Plan, Preserved, SlotId};

use crate::support::{
    Fixture, archive, commit, git, git_succeeds, plan, proof, read, registrations, write,
};

const INSIDE: &str = ".claude/worktrees/sub";
const BESIDE: &str = "../beside";

/// A slot with a lease, and a worktree of the agent's own at `path`.
async fn with_nested(fixture: &Fixture, path: &str) -> (GitIsolator, Plan, PathBuf) {
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "outer").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(SlotId(1));
    git(&place, &["worktree", "add", "-q", "-b", "sub", path]);
    let nested = place.join(path).canonicalize().unwrap();
    (isolator, plan, nested)
}

async fn idle(isolator: &GitIsolator) -> Plan {
    Plan { lease: None, ..plan(isolator, 1, "next").await }
}

async fn refused(isolator: &GitIsolator, plan: &Plan) -> String {
    let inspection = isolator.inspect(plan).await.unwrap();
    let error = isolator.preserve(inspection).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldLoseWork, "{error}");
    error.to_string()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn clean_nested_worktree_goes_with_its_slot() {
    for path in [INSIDE, BESIDE, "../some/where/beside", "target/sub"] {
        let fixture = Fixture::new();
        let (isolator, plan, nested) = with_nested(&fixture, path).await;
        let committed = commit_in(&nested);
        let proof = proof(&isolator, &plan).await;
        assert!(proof.rescue().is_none(), "{path}: the branch keeps all of it");
        isolator.dispose(proof).await.unwrap();
        assert_eq!(registrations(&fixture.repo), 0, "{path}");
        assert!(!nested.exists(), "{path}");
        assert!(!fixture.pool_dir().join("slots/1").exists(), "{path}");
        assert_eq!(git(&fixture.repo, &["rev-parse", "sub"]), committed, "{path}");
    }
}

fn commit_in(nested: &Path) -> String {
    write(nested, "src/main.rs", "fn main() { nested() }\n");
    commit(nested, "in the nested worktree")
}

#[tokio::test]
async fn recycled_slot_has_no_nested_worktree() {
    for path in [INSIDE, BESIDE, "target/sub"] {
        let fixture = Fixture::new();
        let (isolator, plan, nested) = with_nested(&fixture, path).await;
        let next = idle(&isolator).await;
        let proof = proof(&isolator, &plan).await;
        isolator.recycle(&next, proof).await.unwrap();
        assert_eq!(registrations(&fixture.repo), 1, "{path}");
        assert!(!nested.exists(), "{path}");
        assert!(git_succeeds(&fixture.repo, &["rev-parse", "-q", "--verify", "sub"]));
        let place = isolator.place(SlotId(1));
        assert_eq!(git(&place, &["status", "--porcelain", "--ignored"]), "", "{path}");
        let proof = self::proof(&isolator, &next).await;
        isolator.dispose(proof).await.unwrap();
    }
}

/// All that a nested worktree can hold, and its restored state.
#[tokio::test]
async fn work_in_nested_worktree_is_rescued_with_its_head_and_index() {
    for path in [INSIDE, BESIDE] {
        let fixture = Fixture::new();
        let (isolator, plan, nested) = with_nested(&fixture, path).await;
        git(&nested, &["checkout", "-q", "--detach"]);
        let only_here = commit_in(&nested);
        write(&nested, "README.md", "staged\n");
        git(&nested, &["add", "README.md"]);
        write(&nested, "README.md", "and changed\n");
        write(&nested, "untracked.txt", "untracked\n");
        write(&nested, "secret.local", "ignored\n");
        let place = isolator.place(SlotId(1));
        write(&place, "outer.txt", "the lease's own\n");
        let status = git(&nested, &["status", "--porcelain", "--ignored"]);

        let proof = proof(&isolator, &plan).await;
        let own = proof.rescue().expect("there was work").clone();
        assert_eq!((own.files, own.worktree.as_deref()), (1, None), "{path}");
        let [inner] = &own.nested[..] else { panic!("{path}: {own:?}") };
        assert_eq!(inner.worktree.as_deref(), Some(path));
        assert_eq!((inner.files, inner.commits), (3, 1), "{path}");
        let id = inner.id.clone();
        isolator.dispose(proof).await.unwrap();
        assert_eq!(registrations(&fixture.repo), 0, "{path}");
        git(&fixture.repo, &["gc", "-q", "--prune=now"]);

        let into = fixture.root.path().canonicalize().unwrap().join("restored");
        archive(&isolator).restore_into(&id, &into).await.expect("restored");
        assert_eq!(git(&into, &["rev-parse", "HEAD"]), only_here, "{path}");
        assert_eq!(git(&into, &["status", "--porcelain", "--ignored"]), status, "{path}");
        assert_eq!(read(into.join("README.md")), "and changed\n");
        assert_eq!(git(&into, &["show", ":README.md"]), "staged");
        let listed = archive(&isolator).list().await.unwrap();
        let worktrees: Vec<_> = listed.iter().map(|one| one.worktree.as_deref()).collect();
        assert!(worktrees.contains(&Some(path)) && worktrees.contains(&None), "{worktrees:?}");
    }
}

#[tokio::test]
async fn rescue_of_nested_worktree_alone_names_it() {
    let fixture = Fixture::new();
    let (isolator, plan, nested) = with_nested(&fixture, INSIDE).await;
    write(&nested, "untracked.txt", "untracked\n");
    let proof = proof(&isolator, &plan).await;
    let rescue = proof.rescue().expect("there was work").clone();
    assert_eq!(rescue.worktree.as_deref(), Some(INSIDE));
    assert_eq!(rescue.nested, []);
    isolator.recycle(&idle(&isolator).await, proof).await.unwrap();
    assert!(!nested.exists());
}

#[tokio::test]
async fn nested_in_nested_is_saved_by_itself() {
    for path in [INSIDE, BESIDE] {
        let fixture = Fixture::new();
        let (isolator, plan, nested) = with_nested(&fixture, path).await;
        git(&nested, &["worktree", "add", "-q", "-b", "deeper", "deep/er"]);
        write(&nested, "outer.txt", "outer\n");
        write(&nested.join("deep/er"), "inner.txt", "inner\n");
        let proof = proof(&isolator, &plan).await;
        let rescue = proof.rescue().expect("there was work").clone();
        let all: Vec<_> = std::iter::once(&rescue).chain(&rescue.nested).collect();
        let worktrees: Vec<_> = all.iter().map(|one| one.worktree.clone().unwrap()).collect();
        assert_eq!(worktrees, [path.to_owned(), format!("{path}/deep/er")]);
        for one in all {
            let paths = archive(&isolator).contents(&one.id).await.unwrap();
            assert_eq!(paths.len(), 1, "{paths:?}");
        }
        isolator.dispose(proof).await.unwrap();
        assert_eq!(registrations(&fixture.repo), 0, "{path}");
        assert!(!nested.exists());
    }
}

#[tokio::test]
async fn registration_without_worktree_goes_and_its_commits_are_saved() {
    for path in [INSIDE, BESIDE] {
        let fixture = Fixture::new();
        let (isolator, plan, nested) = with_nested(&fixture, path).await;
        git(&nested, &["checkout", "-q", "--detach"]);
        let only_here = commit_in(&nested);
        fs::remove_dir_all(&nested).unwrap();
        let proof = proof(&isolator, &plan).await;
        let rescue = proof.rescue().expect("a commit").clone();
        assert_eq!((rescue.files, rescue.commits), (0, 1), "{path}");
        isolator.dispose(proof).await.unwrap();
        assert_eq!(registrations(&fixture.repo), 0, "{path}");
        git(&fixture.repo, &["gc", "-q", "--prune=now"]);
        git(&fixture.repo, &["cat-file", "-e", &only_here]);
    }
}

#[tokio::test]
async fn locked_nested_worktree_is_kept_until_it_is_unlocked() {
    for path in [INSIDE, BESIDE] {
        let fixture = Fixture::new();
        let (isolator, plan, nested) = with_nested(&fixture, path).await;
        git(&nested, &["worktree", "lock", "--reason", "in use", "."]);
        let why = refused(&isolator, &plan).await;
        let nested_path = nested.display();
        assert!(why.contains(&format!("{nested_path} is locked (in use)")), "{why}");
        assert!(why.contains(&format!("git worktree unlock {nested_path}")), "{why}");
        assert_eq!(registrations(&fixture.repo), 2);
        git(&fixture.repo, &["worktree", "unlock", nested.to_str().unwrap()]);
        let proof = proof(&isolator, &plan).await;
        isolator.dispose(proof).await.unwrap();
        assert_eq!(registrations(&fixture.repo), 0);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn what_no_rescue_can_hold_is_named_with_its_nested_worktree() {
    let fixture = Fixture::new();
    let (isolator, plan, nested) = with_nested(&fixture, BESIDE).await;
    let _socket = std::os::unix::net::UnixListener::bind(nested.join("sock")).unwrap();
    let why = refused(&isolator, &plan).await;
    let expected = format!("in the linked worktree {}: sock: it is a socket", nested.display());
    assert!(why.contains(&expected), "{why}");
    assert!(nested.join("sock").exists());
}

#[tokio::test]
async fn clones_and_worktrees_of_others_are_kept_where_they_are() {
    let other = Fixture::new();
    // Inside the tree, the slot is kept with them.
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let plan = plan(&isolator, 1, "outer").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(SlotId(1));
    git(&place, &["clone", "-q", fixture.repo.to_str().unwrap(), "clone"]);
    let why = refused(&isolator, &plan).await;
    assert!(why.contains("clone/.git: a repository of its own is nested here"), "{why}");
    fs::remove_dir_all(place.join("clone")).unwrap();
    let of_other = place.join("other");
    git(&other.repo, &["worktree", "add", "-q", "--detach", of_other.to_str().unwrap()]);
    let why = refused(&isolator, &plan).await;
    assert!(why.contains("other/.git: a worktree of another repository is nested here"), "{why}");
    git(&other.repo, &["worktree", "remove", of_other.to_str().unwrap()]);

    // Beside it, they stay when the slot goes.
    let beside = place.with_file_name("beside");
    git(&other.repo, &["worktree", "add", "-q", "--detach", beside.to_str().unwrap()]);
    write(&beside, "theirs.txt", "theirs\n");
    git(&place, &["clone", "-q", fixture.repo.to_str().unwrap(), "../clone"]);
    write(place.parent().unwrap(), "notes.txt", "notes\n");
    let proof = proof(&isolator, &plan).await;
    isolator.dispose(proof).await.unwrap();
    assert_eq!(names(place.parent().unwrap()), ["beside", "clone", "notes.txt"]);
    assert_eq!(read(beside.join("theirs.txt")), "theirs\n");
    assert_eq!(registrations(&other.repo), 1);
}

#[tokio::test]
async fn worktrees_elsewhere_keep_their_registration() {
    let fixture = Fixture::new();
    let (isolator, plan, nested) = with_nested(&fixture, BESIDE).await;
    let root = fixture.root.path().canonicalize().unwrap();
    // Of the user; one in another slot's directory; and one that a link makes look nested.
    let users = root.join("users");
    git(&fixture.repo, &["worktree", "add", "-q", "--detach", users.to_str().unwrap()]);
    let others = fixture.pool_dir().join("slots/12/beside");
    git(&fixture.repo, &["worktree", "add", "-q", "--detach", others.to_str().unwrap()]);
    fs::create_dir(root.join("outside")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(root.join("outside"), nested.with_file_name("link")).unwrap();
    #[cfg(unix)]
    git(&nested, &["worktree", "add", "-q", "--detach", "../link/linked"]);
    let proof = proof(&isolator, &plan).await;
    isolator.dispose(proof).await.unwrap();
    let left = git(&fixture.repo, &["worktree", "list", "--porcelain"]);
    assert!(left.contains(users.to_str().unwrap()), "{left}");
    assert!(left.contains(others.to_str().unwrap()), "{left}");
    #[cfg(unix)]
    assert!(left.contains(root.join("outside/linked").to_str().unwrap()), "{left}");
    assert!(!left.contains("slots/1/"), "{left}");
    assert!(users.join("README.md").exists() && others.join("README.md").exists());
}

/// Git names a registration by its directory: the slot's own may have the second name.
#[tokio::test]
async fn colliding_registration_names_are_told_apart() {
    let fixture = Fixture::new();
    let (isolator, plan, _) = with_nested(&fixture, "../x/demo").await;
    let inner = isolator.place(SlotId(1)).join("demo");
    git(&fixture.repo, &["worktree", "add", "-q", "--detach", inner.to_str().unwrap()]);
    write(&inner, "untracked.txt", "untracked\n");
    let proof = proof(&isolator, &plan).await;
    let rescue = proof.rescue().expect("there was work").clone();
    assert_eq!(rescue.worktree.as_deref(), Some("demo"));
    isolator.dispose(proof).await.unwrap();
    assert_eq!(registrations(&fixture.repo), 0);
}

/// As `git add --all` in the lease does it, with a warning.
#[tokio::test]
async fn nested_worktree_that_was_added_like_a_submodule_is_saved() {
    let fixture = Fixture::new();
    let (isolator, plan, nested) = with_nested(&fixture, "sub").await;
    let place = isolator.place(SlotId(1));
    commit_in(&nested);
    git(&place, &["-c", "advice.addEmbeddedRepo=false", "add", "sub"]);
    git(&nested, &["checkout", "-q", "--detach"]);
    write(&nested, "README.md", "more\n");
    let only_here = commit(&nested, "on no branch");
    let proof = proof(&isolator, &plan).await;
    let rescue = proof.rescue().expect("there was work").clone();
    assert_eq!((rescue.worktree.as_deref(), rescue.nested.len()), (None, 1));
    let staged = rescue.reference.clone();
    isolator.dispose(proof).await.unwrap();
    assert_eq!(registrations(&fixture.repo), 0);
    git(&fixture.repo, &["gc", "-q", "--prune=now"]);
    git(&fixture.repo, &["cat-file", "-e", &only_here]);
    let index = git(&fixture.repo, &["ls-tree", "-r", &format!("{staged}^2")]);
    assert!(index.contains("160000 commit"), "{index}");
    let into = fixture.root.path().canonicalize().unwrap().join("restored");
    archive(&isolator).restore_into(&rescue.id, &into).await.expect("restored");
}

#[tokio::test]
async fn work_that_comes_after_the_look_keeps_everything() {
    type Change = fn(&Path);
    let changes: [Change; 4] = [
        |nested| write(nested, "late.txt", "late\n"),
        |nested| drop(commit_in(nested)),
        |nested| drop(git(nested, &["worktree", "add", "-q", "--detach", "later"])),
        |nested| drop(git(nested, &["worktree", "add", "-q", "--detach", "../later"])),
    ];
    for (path, change) in [INSIDE, BESIDE].into_iter().flat_map(|path| changes.map(|c| (path, c))) {
        let fixture = Fixture::new();
        let (isolator, plan, nested) = with_nested(&fixture, path).await;
        let seen = proof(&isolator, &plan).await;
        change(&nested);
        let before = registrations(&fixture.repo);
        let error = isolator.dispose(seen).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{path}: {error}");
        assert_eq!(registrations(&fixture.repo), before);
        assert!(nested.join("README.md").exists(), "{path}: it is not back");
        assert_eq!(git(&fixture.repo, &["worktree", "prune", "--dry-run", "--verbose"]), "");
        let listed = git(&fixture.repo, &["worktree", "list", "--porcelain"]);
        assert!(!listed.contains("locked"), "{listed}");
        let proof = proof(&isolator, &plan).await;
        isolator.dispose(proof).await.unwrap();
        assert_eq!(registrations(&fixture.repo), 0);
    }
}

/// A process that was killed when it had just set everything aside.
#[tokio::test]
async fn worktrees_that_were_left_aside_come_back_and_are_saved() {
    let fixture = Fixture::new();
    let (isolator, plan, nested) = with_nested(&fixture, BESIDE).await;
    write(&nested, "untracked.txt", "untracked\n");
    let place = isolator.place(SlotId(1));
    write(&place, "own.txt", "own\n");
    fs::rename(&nested, nested.with_file_name(".leaving-beside")).unwrap();
    fs::rename(&place, place.with_file_name(".leaving")).unwrap();
    // What is given speaks of places where nothing is.
    let proof = proof(&isolator, &plan).await;
    isolator.dispose(proof).await.unwrap();
    let rescues = archive(&isolator).list().await.unwrap();
    let files: u64 = rescues.iter().map(|rescue| rescue.files).sum();
    assert!(files >= 2, "{rescues:?}");
    assert_eq!(registrations(&fixture.repo), 0);
    assert!(!fixture.pool_dir().join("slots/1").exists());
}

#[tokio::test]
async fn process_in_a_worktree_beside_keeps_everything() {
    let fixture = Fixture::new();
    let (isolator, plan, nested) = with_nested(&fixture, BESIDE).await;
    let mut occupant =
        std::process::Command::new("sleep").arg("1000").current_dir(&nested).spawn().unwrap();
    let liveness = pool_core::FileLiveness::of_pool(&fixture.pool_dir());
    let watched = |proof: Preserved| proof.watched_by(std::sync::Arc::new(liveness.clone()));
    let seen = watched(proof(&isolator, &plan).await);
    let disposed = isolator.dispose(seen).await;
    occupant.kill().unwrap();
    occupant.wait().unwrap();
    let error = disposed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(nested.join("README.md").exists());
    assert_eq!(registrations(&fixture.repo), 2);
    let seen = watched(proof(&isolator, &plan).await);
    isolator.dispose(seen).await.unwrap();
}

/// An agent may use any name beside its worktree, also that of the pool's mark of a slot that is half made.
#[tokio::test]
async fn what_an_agent_calls_making_is_no_mark() {
    let fixture = Fixture::new();
    let (isolator, plan, nested) = with_nested(&fixture, "../making").await;
    write(&nested, "untracked.txt", "untracked\n");
    let place = isolator.place(SlotId(1));
    write(&place, "own.txt", "own\n");
    let saved = proof(&isolator, &plan).await;
    assert_eq!(saved.rescue().map(|rescue| rescue.nested.len()), Some(1));
    isolator.dispose(saved).await.unwrap();
    assert_eq!(archive(&isolator).list().await.unwrap().len(), 2);

    let plan = self::plan(&isolator, 2, "second").await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(SlotId(2));
    let making = place.with_file_name("making");
    fs::write(&making, "what I am making\n").unwrap();
    write(&place, "own.txt", "own\n");
    let saved = proof(&isolator, &plan).await;
    assert!(saved.rescue().is_some());
    isolator.dispose(saved).await.unwrap();
    assert_eq!(read(making), "what I am making\n");
}

#[tokio::test]
async fn names_that_the_pool_uses_are_refused() {
    let fixture = Fixture::new();
    let (isolator, plan, nested) = with_nested(&fixture, "../.rescuing").await;
    write(&nested, "untracked.txt", "untracked\n");
    let why = refused(&isolator, &plan).await;
    assert!(why.contains("git worktree move"), "{why}");
    assert_eq!(read(nested.join("untracked.txt")), "untracked\n");
}

/// Of two slots that go at the same time, neither nested worktree is the other's reason to.
#[tokio::test]
async fn commit_in_nested_worktrees_of_two_pools_is_saved() {
    let fixture = Fixture::new();
    let (isolator, plan, nested) = with_nested(&fixture, INSIDE).await;
    git(&nested, &["checkout", "-q", "--detach"]);
    let only_here = commit_in(&nested);
    let repository = git_backend::Repository::find(&fixture.repo).unwrap();
    let second_dir = fixture.root.path().canonicalize().unwrap().join("second");
    let second = GitIsolator::open(&repository, &second_dir, crate::support::settings()).unwrap();
    let other = self::plan(&second, 1, "other").await;
    second.provision(&other).await.unwrap();
    git(&second.place(SlotId(1)), &["worktree", "add", "-q", "--detach", "in", &only_here]);
    let both = [isolator.inspect(&plan).await.unwrap(), second.inspect(&other).await.unwrap()];
    assert_eq!(both.map(|seen| seen.losses.commits), [1, 1]);
}

/// Moves or damages one of a nested worktree and its registration, so that the latter does not lead
/// to the worktree; returns where that is then.
type Misplace = fn(nested: &Path, admin: &Path) -> PathBuf;

const MISPLACED: [(&str, Misplace); 6] = [
    ("made in a container", |nested, admin| {
        fs::write(admin.join("gitdir"), "/no-such/container/target/sub/.git\n").unwrap();
        nested.to_owned()
    }),
    ("moved by hand", |nested, _| {
        let to = nested.with_file_name("moved");
        fs::rename(nested, &to).unwrap();
        to
    }),
    ("empty registration", |nested, admin| {
        fs::write(admin.join("gitdir"), "").unwrap();
        nested.to_owned()
    }),
    ("incomplete registration", |nested, admin| {
        fs::remove_file(admin.join("gitdir")).unwrap();
        nested.to_owned()
    }),
    ("moved with its repository", |nested, admin| {
        fs::write(admin.join("gitdir"), "/no-such/before/target/sub/.git\n").unwrap();
        write(nested, ".git", "gitdir: /no-such/repo/.git/worktrees/sub\n");
        nested.to_owned()
    }),
    ("moved with its repository only", |nested, _| {
        write(nested, ".git", "gitdir: /no-such/repo/.git/worktrees/sub\n");
        nested.to_owned()
    }),
];

/// No ignored directory hides it, and git's own command makes it a nested worktree like others.
#[tokio::test]
async fn worktree_that_its_registration_does_not_lead_to_keeps_the_slot() {
    for path in ["target/sub", "target/deep/er/sub", INSIDE, BESIDE] {
        for (how, misplace) in MISPLACED {
            let fixture = Fixture::new();
            let (isolator, plan, nested) = with_nested(&fixture, path).await;
            write(&nested, "untracked.txt", "untracked\n");
            let name = nested.file_name().unwrap();
            let admin = fixture.repo.join(".git/worktrees").join(name);
            if name == "beside" && how.starts_with("moved with") {
                continue;
            }
            let now = misplace(&nested, &admin);
            let why = refused(&isolator, &plan).await;
            let repair = format!("worktree repair {}`", now.display());
            assert!(why.contains(&repair), "{path}, {how}: {why}");
            assert_eq!(read(now.join("untracked.txt")), "untracked\n");
            git(&fixture.repo, &["worktree", "repair", now.to_str().unwrap()]);
            let proof = proof(&isolator, &plan).await;
            assert!(proof.rescue().is_some_and(|rescue| rescue.files == 1), "{path}, {how}");
            isolator.dispose(proof).await.unwrap();
            assert_eq!(registrations(&fixture.repo), 0, "{path}, {how}");
        }
    }
}

/// As `git gc` prunes it, some months later.
#[tokio::test]
async fn worktree_whose_registration_was_pruned_keeps_the_slot() {
    for path in ["target/sub", "target/deep/er/sub", INSIDE] {
        let fixture = Fixture::new();
        let (isolator, plan, nested) = with_nested(&fixture, path).await;
        write(&nested, "untracked.txt", "untracked\n");
        let to = nested.with_file_name("moved");
        fs::rename(&nested, &to).unwrap();
        git(&fixture.repo, &["worktree", "prune", "--expire=now"]);
        let why = refused(&isolator, &plan).await;
        assert!(why.contains(&format!("`rm -r {}`", to.display())), "{path}: {why}");
        assert_eq!(read(to.join("untracked.txt")), "untracked\n");
        fs::remove_dir_all(&to).unwrap();
        let proof = proof(&isolator, &plan).await;
        isolator.dispose(proof).await.unwrap();
    }
}

/// Without its registration, which would go with the first slot, the second would hide it.
#[tokio::test]
async fn worktree_that_was_moved_to_another_slot_keeps_both() {
    let fixture = Fixture::new();
    let (isolator, first, nested) = with_nested(&fixture, "target/sub").await;
    let second = self::plan(&isolator, 2, "second").await;
    isolator.provision(&second).await.unwrap();
    let target = isolator.place(SlotId(2)).join("target");
    fs::create_dir_all(&target).unwrap();
    let to = target.join("sub");
    fs::rename(&nested, &to).unwrap();
    write(&to, "untracked.txt", "untracked\n");
    for plan in [&first, &second] {
        let why = refused(&isolator, plan).await;
        assert!(why.contains(&format!("worktree repair {}`", to.display())), "{why}");
    }
    git(&fixture.repo, &["worktree", "repair", to.to_str().unwrap()]);
    let saved = proof(&isolator, &first).await;
    assert!(saved.rescue().is_none());
    isolator.dispose(saved).await.unwrap();
    let saved = proof(&isolator, &second).await;
    assert!(saved.rescue().is_some_and(|rescue| rescue.files == 1));
}

/// It goes through `take`'s second look, too.
#[tokio::test]
async fn worktree_that_is_misplaced_after_the_look_keeps_the_slot() {
    let fixture = Fixture::new();
    let (isolator, plan, nested) = with_nested(&fixture, "target/sub").await;
    let seen = proof(&isolator, &plan).await;
    let to = nested.with_file_name("moved");
    fs::rename(&nested, &to).unwrap();
    let error = isolator.dispose(seen).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(to.join("README.md").exists());
    let why = refused(&isolator, &plan).await;
    assert!(why.contains(&format!("worktree repair {}`", to.display())), "{why}");
}

/// The registration of a worktree that was deleted keeps no slot, nor do other repositories in a
/// directory that can be made again.
#[tokio::test]
async fn stale_registration_keeps_no_slot() {
    let other = Fixture::new();
    let fixture = Fixture::new();
    let (isolator, plan, nested) = with_nested(&fixture, "target/sub").await;
    let stale = fixture.root.path().join("stale");
    git(&fixture.repo, &["worktree", "add", "-q", "--detach", stale.to_str().unwrap()]);
    fs::remove_dir_all(&stale).unwrap();
    let target = nested.parent().unwrap();
    git(target, &["clone", "-q", fixture.repo.to_str().unwrap(), "clone"]);
    let of_other = target.join("other");
    git(&other.repo, &["worktree", "add", "-q", "--detach", of_other.to_str().unwrap()]);
    fs::create_dir(target.join("copy")).unwrap();
    fs::copy(nested.join(".git"), target.join("copy/.git")).unwrap();
    let proof = proof(&isolator, &plan).await;
    isolator.dispose(proof).await.unwrap();
    assert_eq!(registrations(&fixture.repo), 1);
}
