//! Layouts of other people's repositories: in each one, a slot has its whole life, git in the slot
//! means the slot, and the user's own checkout stays as it is, byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use git_backend::{GitIsolator, Repository};
use pool_core::{BranchWish, ErrorKind, Isolator, Plan, RescueId, SlotId, Wish};

use self::layout::{Layout, canonical, fill, git, git_path};
use crate::support::{archive, detached, name, plan, proof, settings, skip, write};

mod layout;

/// A slot's life, and what is known of it on the way.
struct Life {
    layout: Layout,
    isolator: GitIsolator,
    before: BTreeMap<PathBuf, Vec<u8>>,
    place: PathBuf,
}

impl Life {
    fn begin(layout: Layout) -> Self {
        let before = layout.of_the_user();
        let repository = Repository::find(&layout.start).expect("found");
        let pool_dir = repository.default_pool_dir();
        for checkout in &layout.checkouts {
            // A repository within another has its pool beside itself.
            assert!(!pool_dir.starts_with(checkout), "the pool lies in {}", checkout.display());
        }
        let isolator = GitIsolator::open(&repository, &pool_dir, settings()).expect("opened");
        Self { place: isolator.place(SlotId(1)), layout, isolator, before }
    }

    /// Stock git, started in the slot or below it, works in the slot, and all of it is clean.
    fn assert_means(&self, place: &Path, step: &str) {
        let common_dir =
            Repository::find(&self.layout.start).expect("found").common_dir().to_owned();
        for dir in [place.to_owned(), place.join("src")] {
            assert_eq!(git_path(&dir, &["rev-parse", "--show-toplevel"]), place, "{step}");
            let git_dir = git_path(&dir, &["rev-parse", "--absolute-git-dir"]);
            assert_eq!(git_dir.parent(), Some(&*common_dir.join("worktrees")), "{step}");
            let found = canonical(&dir.join(git_path(&dir, &["rev-parse", "--git-common-dir"])));
            assert_eq!(found, common_dir, "{step}");
        }
        assert_eq!(git(place, &["rev-parse", "--is-bare-repository"]), b"false", "{step}");
        self.layout.assert_untouched(&self.before, step);
    }

    /// No branch that the user has checked out is leased.
    async fn refuse_branches_of_checkouts(&self) {
        let repository = Repository::find(&self.layout.start).expect("found");
        for checkout in &self.layout.checkouts {
            if Repository::find(checkout).expect("found").common_dir() != repository.common_dir() {
                continue;
            }
            let has_git = checkout.join(".git").exists();
            let dir = if has_git { checkout } else { &self.layout.start };
            let branch = git(dir, &["symbolic-ref", "--short", "HEAD"]);
            let branch = BranchWish::Named(String::from_utf8(branch).expect("UTF-8"));
            let wish = Wish { branch, ..Default::default() };
            let refused = self.isolator.resolve(&wish, &name("taken")).await;
            let error = refused.expect_err("it is checked out");
            assert_eq!(error.kind(), ErrorKind::NameTaken, "{}: {error}", checkout.display());
        }
    }

    async fn provision(&self) -> Plan {
        let lease = plan(&self.isolator, 1, "first").await;
        self.isolator.provision(&lease).await.expect("provisioned");
        self.assert_means(&self.place, "provision");
        assert_eq!(git(&self.place, &["status", "--porcelain"]), b"");
        assert_eq!(fs::read(self.place.join("README.md")).expect("checked out"), b"demo\n");
        lease
    }

    /// An agent commits, cleans, resets, and leaves files behind.
    fn work(&self) {
        let place = &self.place;
        write(place, "junk", "junk\n");
        git(place, &["clean", "-fdxq"]);
        write(place, "src/main.rs", "fn main() { work() }\n");
        git(place, &["commit", "-q", "-a", "-m", "work"]);
        git(place, &["reset", "-q", "--hard"]);
        write(place, "src/staged.rs", "staged\n");
        git(place, &["add", "src/staged.rs"]);
        write(place, "left-behind", "left behind\n");
        git(place, &["stash", "-q", "-u"]);
        git(place, &["stash", "pop", "-q", "--index"]);
        self.assert_means(place, "work");
    }

    /// Ends the lease; the slot is the next one's, without a branch.
    async fn recycle(&self, lease: &Plan) -> (Plan, RescueId) {
        let settled = proof(&self.isolator, lease).await;
        self.layout.assert_untouched(&self.before, "rescue");
        let rescue = settled.rescue().expect("saved").id.clone();
        let next = detached(&self.isolator, 1, "second").await;
        self.isolator.recycle(&next, settled).await.expect("recycled");
        self.assert_means(&self.place, "recycle");
        assert_eq!(git(&self.place, &["status", "--porcelain", "--ignored"]), b"");
        assert!(!self.place.join("left-behind").exists());
        (next, rescue)
    }

    async fn restore(&self, rescue: &RescueId) {
        let into = self.layout.root().join("restored");
        archive(&self.isolator).restore_into(rescue, &into).await.expect("restored");
        self.assert_means(&into, "restore");
        let status = git(&into, &["status", "--porcelain"]);
        assert_eq!(String::from_utf8_lossy(&status), "A  src/staged.rs\n?? left-behind");
        let main = fs::read(into.join("src/main.rs")).expect("restored");
        assert_eq!(main, b"fn main() { work() }\n");
        git(&into, &["worktree", "remove", "--force", "."]);
    }

    async fn remove(&self, lease: &Plan) {
        let settled = proof(&self.isolator, lease).await;
        self.isolator.dispose(settled).await.expect("removed");
        assert!(!self.place.exists());
        self.layout.assert_untouched(&self.before, "removal");
        let list = git(&self.layout.start, &["worktree", "list", "--porcelain", "-z"]);
        let slots = self.isolator.pool_dir().expect("a directory").as_os_str().as_bytes();
        assert!(!list.windows(slots.len()).any(|part| part == slots), "nothing is registered");
        // The work is a commit on the branch of the lease.
        let work = git(&self.layout.start, &["show", "wtpool/first:src/main.rs"]);
        assert_eq!(work, b"fn main() { work() }");
    }
}

async fn whole_life(layout: Layout) {
    let life = Life::begin(layout);
    life.refuse_branches_of_checkouts().await;
    let first = life.provision().await;
    life.work();
    let (second, rescue) = life.recycle(&first).await;
    life.restore(&rescue).await;
    life.remove(&second).await;
}

/// One test for each layout.
macro_rules! whole_life_in {
    ($($layout:ident)*) => {
        mod whole_life_in {
            $(#[tokio::test]
            async fn $layout() {
                super::whole_life(super::layout::$layout()).await;
            })*
        }
    };
}

whole_life_in! {
    plain
    separate_git_dir
    symlinked_git_dir
    symlinked_git_file
    bare_and_git_file
    bare_and_git_file_from_the_project
    dot_git_is_bare
    clone_made_bare
    bare
    bare_with_worktree_config
    mirror
    core_worktree
    core_worktree_for_all
    core_bare_by_mistake
    core_bare_by_mistake_for_all
    submodule
    submodule_with_worktree_config
    linked_worktree
    linked_worktree_of_a_submodule
    within_another
    dotfiles
    dotfiles_with_core_worktree
    relative_paths
    sha256
    sparse
    sparse_index
    sparse_by_patterns
    split_index
    many_files
    shallow
    partial
    shared_objects
    reference_objects
    symlinked_parent
    space_in_the_path
    quotes_in_the_path
    newline_in_the_path
    path_that_is_not_utf8
}

#[tokio::test]
async fn what_is_not_supported_is_refused_and_stays_as_it_is() {
    let layout = Layout::plain();
    fs::remove_dir_all(layout.start.join(".git")).expect("removed");
    let init = ["init", "-q", "-b", "main", "--ref-format=reftable"];
    if !testkit::git(&layout.start).args(init).succeeds() {
        return skip("this git has no reftables");
    }
    fill(&layout.start);
    let before = layout.of_the_user();
    let repository = Repository::find(&layout.start).expect("found");
    let pool_dir = repository.default_pool_dir();
    let error = GitIsolator::open(&repository, &pool_dir, settings()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("reftable") && error.hint().is_some(), "{error}");
    assert_eq!(layout.of_the_user(), before);
    assert!(!pool_dir.exists());
}
