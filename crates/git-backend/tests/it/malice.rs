//! What somebody may put into a worktree, or into git's files of it, to have the pool's own operations
//! write, delete or run something elsewhere; and what one lease leaves for the next.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use git_backend::GitIsolator;
use pool_core::{ErrorKind, Isolator, Plan, SlotId};

use crate::support::{
    Fixture, archive, commit, git, git_succeeds, plan, proof, read, skip, status, write,
};

/// A slot that was provisioned.
async fn slot(isolator: &GitIsolator, number: u32, name: &str) -> (Plan, PathBuf) {
    let plan = plan(isolator, number, name).await;
    isolator.provision(&plan).await.unwrap();
    let place = isolator.place(plan.slot);
    (plan, place)
}

fn admin_of(worktree: &Path) -> PathBuf {
    PathBuf::from(git(worktree, &["rev-parse", "--absolute-git-dir"]))
}

/// Gives the slot to the next lease, saving what there is.
async fn next(isolator: &GitIsolator, before: &Plan, name: &str) -> Plan {
    let after = plan(isolator, before.slot.0, name).await;
    isolator.recycle(&after, proof(isolator, before).await).await.unwrap();
    after
}

/// A script that leaves a trace when it is run, and then does what `then` says.
fn trap(fixture: &Fixture, name: &str, then: &str) -> (PathBuf, PathBuf) {
    let root = fixture.root.path().canonicalize().unwrap();
    let (script, trace) = (root.join(name), root.join(format!("{name}-ran")));
    fs::write(&script, format!("#!/bin/sh\ntouch '{}'\n{then}\n", trace.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (script, trace)
}

/// Whatever the worktree's `.git` says, no other repository and no other worktree is touched.
#[tokio::test]
async fn a_git_file_that_points_elsewhere() {
    let fixture = Fixture::new();
    let other = Fixture::new();
    let isolator = fixture.isolator();
    let (_, neighbour) = slot(&isolator, 1, "neighbour").await;
    write(&neighbour, "precious", "precious");
    let user = fixture.root.path().join("user");
    git(&fixture.repo, &["worktree", "add", "-q", "--detach", user.to_str().unwrap()]);
    write(&fixture.repo, "staged", "staged");
    git(&fixture.repo, &["add", "staged"]);
    let targets = [
        fixture.repo.join(".git"),
        other.repo.join(".git"),
        admin_of(&neighbour),
        admin_of(&user),
        fixture.repo.join(".git/worktrees"),
        fixture.repo.join(".git/worktrees/../worktrees"),
        PathBuf::from("/"),
    ];
    for (number, target) in (2..).zip(targets) {
        let (plan, place) = slot(&isolator, number, &format!("lease-{number}")).await;
        write(&place, "work", "work");
        let blind = proof(&isolator, &plan).await;
        fs::write(place.join(".git"), format!("gitdir: {}\n", target.display())).unwrap();
        let refused = isolator.inspect(&plan).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldLoseWork, "{target:?}: {refused}");
        let refused = isolator.dispose(blind).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldLoseWork, "{target:?}: {refused}");
        assert_eq!(read(place.join("work")), "work");
    }
    assert_eq!(status(&fixture.repo), "A  staged");
    assert_eq!(status(&other.repo), "");
    assert_eq!(status(&user), "");
    assert_eq!(status(&neighbour), "?? precious");
}

/// The administrative directory names the repository: another one there would have rescues of ours, and
/// its configuration would hold.
#[tokio::test]
async fn a_common_directory_of_another_repository() {
    let fixture = Fixture::new();
    let other = Fixture::new();
    let isolator = fixture.isolator();
    let (plan, place) = slot(&isolator, 1, "lease").await;
    write(&place, "work", "precious");
    let admin = admin_of(&place);
    fs::write(admin.join("commondir"), format!("{}\n", other.repo.join(".git").display())).unwrap();
    let refused = isolator.inspect(&plan).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldLoseWork, "{refused}");
    assert_eq!(git(&other.repo, &["for-each-ref", "refs/wtpool"]), "");
    assert_eq!(read(place.join("work")), "precious");
    // Put right, it is the pool's as before.
    fs::write(admin.join("commondir"), "../..\n").unwrap();
    let saved = proof(&isolator, &plan).await;
    assert!(saved.rescue().is_some());
    isolator.dispose(saved).await.unwrap();
}

/// Links among git's own files of the worktree lead neither writes nor deletions elsewhere.
#[tokio::test]
async fn links_in_the_administrative_directory() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["sparse-checkout", "set", "--no-cone", "/*", "!/unwanted"]);
    write(&fixture.repo, "staged", "staged");
    git(&fixture.repo, &["add", "staged"]);
    let common = fixture.repo.join(".git");
    let sparse = read(common.join("info/sparse-checkout"));
    let own = read(common.join("config.worktree"));
    let before = status(&fixture.repo);
    let isolator = fixture.isolator();
    let (mut plan, place) = slot(&isolator, 1, "lease-0").await;
    let admin = admin_of(&place);
    let victim = fixture.root.path().join("victim");

    let attacks: [(&str, &dyn Fn()); 6] = [
        ("index", &|| {
            fs::remove_file(admin.join("index")).unwrap();
            symlink(common.join("index"), admin.join("index")).unwrap();
        }),
        ("config.worktree", &|| {
            fs::write(&victim, "victim").unwrap();
            fs::remove_file(admin.join("config.worktree")).unwrap();
            symlink(&victim, admin.join("config.worktree")).unwrap();
        }),
        ("info", &|| {
            fs::remove_dir_all(admin.join("info")).unwrap();
            symlink(common.join("info"), admin.join("info")).unwrap();
            fs::write(admin.join("config.worktree"), "").unwrap();
        }),
        ("info/sparse-checkout", &|| {
            fs::write(&victim, "victim").unwrap();
            fs::remove_file(admin.join("info/sparse-checkout")).unwrap();
            symlink(&victim, admin.join("info/sparse-checkout")).unwrap();
        }),
        ("logs", &|| {
            fs::remove_dir_all(admin.join("logs")).unwrap_or_default();
            fs::create_dir(admin.join("logs")).unwrap();
            fs::write(&victim, "victim").unwrap();
            symlink(&victim, admin.join("logs/HEAD")).unwrap();
        }),
        ("HEAD", &|| {
            fs::write(&victim, "victim").unwrap();
            let head = read(admin.join("HEAD"));
            fs::write(fixture.root.path().join("head"), head).unwrap();
            fs::remove_file(admin.join("HEAD")).unwrap();
            symlink(fixture.root.path().join("head"), admin.join("HEAD")).unwrap();
        }),
    ];
    for (number, (what, attack)) in (1..).zip(attacks) {
        write(&place, "work", "work");
        attack();
        let head = fs::read(fixture.root.path().join("head")).ok();
        plan = next(&isolator, &plan, &format!("lease-{number}")).await;
        assert_eq!(read(common.join("info/sparse-checkout")), sparse, "{what}");
        assert_eq!(read(common.join("config.worktree")), own, "{what}");
        assert_eq!(status(&fixture.repo), before, "{what}");
        if victim.exists() {
            assert_eq!(read(&victim), "victim", "{what}");
        }
        assert_eq!(fs::read(fixture.root.path().join("head")).ok(), head, "{what}");
        assert!(!place.join("work").exists(), "{what}");
        assert_eq!(status(&place), "", "{what}");
        assert_eq!(read(admin.join("config.worktree")), own, "{what}");
        assert_eq!(read(admin.join("info/sparse-checkout")), sparse, "{what}");
        for kept in ["index", "HEAD", "config.worktree", "info", "info/sparse-checkout"] {
            assert!(!admin.join(kept).is_symlink(), "{what}: {kept}");
        }
    }
    isolator.dispose(proof(&isolator, &plan).await).await.unwrap();
    assert_eq!(status(&fixture.repo), before);
}

/// `core.worktree` in the worktree's own configuration sends git elsewhere; what is saved is what is here.
#[tokio::test]
async fn a_worktree_that_calls_another_its_own() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let (plan, place) = slot(&isolator, 1, "lease").await;
    let elsewhere = fixture.root.path().canonicalize().unwrap().join("elsewhere");
    write(&elsewhere, "work", "of somebody else");
    write(&elsewhere, "README.md", "theirs");
    write(&place, "work", "precious");
    git(&fixture.repo, &["config", "extensions.worktreeConfig", "true"]);
    let key = ["config", "--worktree", "core.worktree", elsewhere.to_str().unwrap()];
    git(&place, &key);
    let saved = proof(&isolator, &plan).await;
    let reference = saved.rescue().expect("there is work").reference.clone();
    assert_eq!(git(&fixture.repo, &["show", &format!("{reference}:work")]), "precious");
    let after = self::plan(&isolator, 1, "after").await;
    isolator.recycle(&after, saved).await.unwrap();
    assert_eq!(read(elsewhere.join("work")), "of somebody else");
    assert_eq!(read(elsewhere.join("README.md")), "theirs");
    assert_eq!(read(place.join("README.md")), "demo\n");
    assert!(!place.join("work").exists());
    assert_eq!(git(&place, &["rev-parse", "--show-toplevel"]), place.to_str().unwrap());
}

/// What a lease writes into the configuration of its own worktree runs nothing.
#[tokio::test]
async fn commands_in_the_configuration_of_a_worktree() {
    let fixture = Fixture::new();
    write(&fixture.repo, ".gitattributes", "*.txt filter=trap diff=trap\n");
    write(&fixture.repo, "song.txt", "la\n");
    commit(&fixture.repo, "song");
    git(&fixture.repo, &["config", "extensions.worktreeConfig", "true"]);
    let isolator = fixture.isolator();
    let (plan, place) = slot(&isolator, 1, "lease").await;
    let (script, trace) = trap(&fixture, "trap", "cat");
    let command = script.to_str().unwrap();
    for key in [
        "filter.trap.clean",
        "filter.trap.smudge",
        "diff.external",
        "diff.trap.textconv",
        "core.fsmonitor",
        "core.pager",
        "core.editor",
        "core.sshCommand",
        "core.askPass",
        "core.alternateRefsCommand",
        "credential.helper",
        "gpg.program",
        "sequence.editor",
        "alias.reset",
        "alias.update-index",
    ] {
        git(&place, &["config", "--worktree", key, command]);
    }
    let hooks = fixture.root.path().join("hooks");
    write(&hooks, "x", "");
    for hook in ["post-checkout", "post-index-change", "reference-transaction"] {
        fs::copy(&script, hooks.join(hook)).unwrap();
    }
    git(&place, &["config", "--worktree", "core.hooksPath", hooks.to_str().unwrap()]);
    let _ = fs::remove_file(&trace);
    // Only reading it tells whether that was changed.
    fs::write(place.join("song.txt"), "LA\n").unwrap();
    let saved = proof(&isolator, &plan).await;
    assert!(!trace.exists(), "while it was inspected and saved");
    let rescue = saved.rescue().unwrap().id.clone();
    let after = self::plan(&isolator, 1, "after").await;
    isolator.recycle(&after, saved).await.unwrap();
    assert!(!trace.exists(), "while it was reset");
    // Nor when what was saved is brought back, nor afterwards.
    let into = fixture.root.path().canonicalize().unwrap().join("restored");
    archive(&isolator).restore_into(&rescue, &into).await.unwrap();
    assert!(!trace.exists(), "while it was restored");
    assert_eq!(read(into.join("song.txt")), "LA\n");
    status(&into);
    assert!(!trace.exists(), "by git, in what was restored");
    archive(&isolator).restore_onto(&rescue, &after).await.unwrap();
    isolator.dispose(proof(&isolator, &after).await).await.unwrap();
    assert!(!trace.exists(), "at the end");
}

/// Whatever is set about how git compares, a changed file is found.
#[tokio::test]
async fn configuration_that_hides_changes() {
    let fixture = Fixture::new();
    for (key, value) in [
        ("core.trustctime", "false"),
        ("core.checkStat", "minimal"),
        ("core.ignoreStat", "true"),
        ("core.untrackedCache", "true"),
        ("status.showUntrackedFiles", "no"),
        ("core.excludesFile", "/dev/null"),
    ] {
        git(&fixture.repo, &["config", key, value]);
    }
    let isolator = fixture.isolator();
    let (plan, place) = slot(&isolator, 1, "lease").await;
    let file = place.join("README.md");
    // Long enough ago that the index can be believed.
    let then = crate::support::backdate(&file);
    git(&place, &["update-index", "--refresh"]);
    fs::write(&file, "DEMO\n").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(then).unwrap();
    assert_eq!(status(&place), "", "git itself is deceived");
    assert_eq!(isolator.inspect(&plan).await.unwrap().losses.modified, 1);
    let saved = proof(&isolator, &plan).await;
    let reference = saved.rescue().unwrap().reference.clone();
    assert_eq!(git(&fixture.repo, &["show", &format!("{reference}:README.md")]), "DEMO");
    let after = self::plan(&isolator, 1, "after").await;
    isolator.recycle(&after, saved).await.unwrap();
    assert_eq!(read(&file), "demo\n");
}

/// What a lease says only of its own worktree, no restore would know of.
#[tokio::test]
async fn configuration_of_a_worktree_that_hides_changes() {
    for (key, value, of_this_one) in [
        ("core.autocrlf", "true", "line ends"),
        ("core.fileMode", "false", "a mode"),
        ("core.excludesFile", "/ignored", "what would be regenerable"),
    ] {
        let fixture = Fixture::new();
        write(&fixture.repo, "run.sh", "true\n");
        write(&fixture.repo, ".gitignore", "");
        commit(&fixture.repo, "nothing is ignored");
        git(&fixture.repo, &["config", "extensions.worktreeConfig", "true"]);
        let isolator = fixture.isolator();
        let (plan, place) = slot(&isolator, 1, "lease").await;
        let ignored = fixture.root.path().join("ignored");
        fs::write(&ignored, "/target/\n").unwrap();
        let value = value.replace("/ignored", &ignored.to_string_lossy());
        git(&place, &["config", "--worktree", key, &value]);
        match key {
            "core.autocrlf" => fs::write(place.join("run.sh"), "true\r\n").unwrap(),
            "core.fileMode" => {
                fs::set_permissions(place.join("run.sh"), fs::Permissions::from_mode(0o755))
                    .unwrap()
            }
            _ => write(&place, "target/work", "precious"),
        }
        let losses = isolator.inspect(&plan).await.unwrap().losses;
        assert_eq!(losses.modified + losses.untracked, 1, "{of_this_one}: {losses}");
        let saved = proof(&isolator, &plan).await.rescue().unwrap().id.clone();
        let into = fixture.root.path().join("restored");
        archive(&isolator).restore_into(&saved, &into).await.unwrap();
        match key {
            "core.autocrlf" => assert_eq!(read(into.join("run.sh")), "true\r\n"),
            "core.fileMode" => {
                let mode = fs::metadata(into.join("run.sh")).unwrap().permissions().mode();
                assert_eq!(mode & 0o111, 0o111);
            }
            _ => assert_eq!(read(into.join("target/work")), "precious"),
        }
    }
}

/// A lease that took over another branch gives it back as it was.
#[tokio::test]
async fn a_head_on_a_branch_of_the_users_own() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["branch", "topic"]);
    let head = fixture.head();
    let isolator = fixture.isolator();
    let (mut plan, place) = slot(&isolator, 1, "lease").await;
    write(&fixture.repo, "more", "more");
    let newer = commit(&fixture.repo, "more");
    for (number, branch) in (1..).zip(["main", "topic"]) {
        fs::write(admin_of(&place).join("HEAD"), format!("ref: refs/heads/{branch}\n")).unwrap();
        plan = next(&isolator, &plan, &format!("lease-{number}")).await;
    }
    assert_eq!(git(&fixture.repo, &["rev-parse", "main", "topic"]), format!("{newer}\n{head}"));
    isolator.dispose(proof(&isolator, &plan).await).await.unwrap();
    assert_eq!(git(&fixture.repo, &["rev-parse", "main", "topic"]), format!("{newer}\n{head}"));
    assert_eq!(status(&fixture.repo), "");
}

/// A note that claims a user's branch for the pool, which nothing else reaches.
#[tokio::test]
async fn a_note_that_names_a_branch_of_the_users_own() {
    let fixture = Fixture::new();
    git(&fixture.repo, &["switch", "-q", "-c", "topic"]);
    write(&fixture.repo, "work", "precious");
    let work = commit(&fixture.repo, "work");
    git(&fixture.repo, &["switch", "-q", "main"]);
    let isolator = fixture.isolator();
    let (plan, _) = slot(&isolator, 1, "lease").await;
    let note = fixture.pool_dir().join("branches/1");
    for text in [format!("{work} topic\n"), format!("{work} ../../topic\n"), "x y\n".to_owned()] {
        fs::write(&note, text).unwrap();
        let settled = proof(&isolator, &plan).await;
        // It may be refused; then the slot is kept.
        let _ = isolator.dispose(settled).await;
        assert_eq!(git(&fixture.repo, &["rev-parse", "topic"]), work);
    }
}

/// A file of the tree that turns out to be a pipe, a device or a link when it is read.
#[tokio::test]
async fn what_is_no_file_is_not_waited_for() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let (plan, place) = slot(&isolator, 1, "lease").await;
    for path in ["README.md", "pipe", "target"] {
        let _ = fs::remove_file(place.join(path));
        let made = Command::new("mkfifo").arg(place.join(path)).status().unwrap();
        assert!(made.success());
    }
    let losses = isolator.inspect(&plan).await.unwrap().losses;
    assert_eq!(losses.unsavable.len(), 3, "{losses:?}");
    for path in ["README.md", "pipe", "target"] {
        fs::remove_file(place.join(path)).unwrap();
    }
    next(&isolator, &plan, "after").await;
    assert_eq!(read(place.join("README.md")), "demo\n");
}

/// Something that is mounted for as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn bind(what: &Path, at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").arg("--bind").args([what, at]).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        skip("mounting is not permitted here");
        None
    }

    /// It may have been moved along with a directory above it.
    fn unmount_all(&self) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let name = self.0.file_name().unwrap().to_str().unwrap();
        for point in table.lines().filter_map(|line| line.split(' ').nth(4)) {
            if point.ends_with(name) {
                let done = Command::new("umount").arg(point).status().unwrap();
                assert!(done.success(), "{point}");
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount_all();
    }
}

/// A directory of the same filesystem, mounted into what needs no rescue: its device is the same.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_is_mounted_into_a_worktree_stays() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let outside = fixture.root.path().canonicalize().unwrap().join("outside");
    write(&outside, "deep/precious", "precious");
    let (plan, place) = slot(&isolator, 1, "lease").await;
    let unique = fixture.root.path().file_name().unwrap().to_str().unwrap().to_owned();
    let at = place.join("target/deep").join(format!("mounted{unique}"));
    let Some(mounted) = Mounted::bind(&outside, &at) else { return };
    // It is seen, or it is survived.
    let settled = match isolator.inspect(&plan).await.unwrap() {
        seen if seen.losses.unsavable.is_empty() => proof(&isolator, &plan).await,
        _ => {
            assert_eq!(read(outside.join("deep/precious")), "precious");
            return;
        }
    };
    let disposed = isolator.dispose(settled).await;
    let swept = isolator.sweep(&|_| ()).await;
    assert_eq!(read(outside.join("deep/precious")), "precious", "{disposed:?} {swept:?}");
    mounted.unmount_all();
}

/// The same, straight in the trash, where it may have come from an earlier version or by a race.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_is_mounted_in_the_trash_stays() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let root = fixture.root.path().canonicalize().unwrap();
    let outside = root.join("outside");
    write(&outside, "deep/precious", "precious");
    let unique = root.file_name().unwrap().to_str().unwrap().to_owned();
    let bin = fixture.pool_dir().join("trash/bin");
    write(&bin, "1/file", "");
    let at = bin.join("1/deep").join(format!("mounted{unique}"));
    let Some(mounted) = Mounted::bind(&outside, &at) else { return };
    let error = isolator.sweep(&|_| ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.hint().unwrap().contains("unmount"), "{error:?}");
    assert_eq!(read(outside.join("deep/precious")), "precious");
    assert!(!bin.join("1/file").exists(), "what can be deleted is");
    mounted.unmount_all();
    isolator.sweep(&|_| ()).await.unwrap();
    assert_eq!(fs::read_dir(fixture.pool_dir().join("trash")).unwrap().count(), 0);
    assert_eq!(read(outside.join("deep/precious")), "precious");
}

/// A directory that is swapped for a link while the tree is cleaned: by a filter, which git runs in the
/// middle of the reset and before the cleaning.
#[tokio::test]
async fn a_directory_swapped_for_a_link_during_a_reset() {
    let fixture = Fixture::new();
    write(&fixture.repo, ".gitattributes", "*.txt filter=swap\n");
    write(&fixture.repo, "a.txt", "one\n");
    commit(&fixture.repo, "one");
    let isolator = fixture.isolator();
    let (plan, place) = slot(&isolator, 1, "first").await;
    let outside = fixture.root.path().canonicalize().unwrap().join("outside");
    write(&outside, "deep.rs", "precious");
    write(&outside, "other", "precious");
    let aside = place.with_file_name(".leaving");
    let swap = format!(
        "cat; if test -d '{0}'; then rm -rf '{0}/src/lib'; ln -s '{1}' '{0}/src/lib'; fi",
        aside.display(),
        outside.display()
    );
    let (script, trace) = trap(&fixture, "swap", &swap);
    git(&fixture.repo, &["config", "filter.swap.smudge", script.to_str().unwrap()]);
    write(&fixture.repo, "a.txt", "two\n");
    commit(&fixture.repo, "two");
    let after = self::plan(&isolator, 1, "second").await;
    let _ = fs::remove_file(&trace);
    // Whatever becomes of the slot.
    let _ = isolator.recycle(&after, proof(&isolator, &plan).await).await;
    assert!(trace.exists(), "it was swapped");
    isolator.sweep(&|_| ()).await.unwrap();
    assert_eq!(read(outside.join("deep.rs")), "precious");
    assert_eq!(read(outside.join("other")), "precious");
}

/// What one lease leaves in git's files, and what of that the next one finds.
#[tokio::test]
async fn what_the_next_lease_finds() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let (plan, place) = slot(&isolator, 1, "first").await;
    let admin = admin_of(&place);
    // Its own, and gone.
    git(&place, &["config", "extensions.worktreeConfig", "true"]);
    git(&place, &["config", "--worktree", "user.name", "first"]);
    git(&place, &["worktree", "lock", "--reason", "mine", "."]);
    git(&place, &["sparse-checkout", "set", "src"]);
    git(&place, &["update-ref", "refs/worktree/mine", "HEAD"]);
    git(&place, &["update-ref", "refs/bisect/bad", "HEAD"]);
    write(&place, "local.local", "ignored");
    write(&place, "target/debug/app", "built");
    write(&admin, "info/attributes", "* -text\n");
    write(&admin, "hooks/post-checkout", "#!/bin/sh\n");
    write(&place, "src/main.rs", "changed\n");
    git(&place, &["-c", "core.hooksPath=/dev/null", "stash", "-q"]);
    git(&place, &["bisect", "start"]);
    // All worktrees', and there still.
    write(&fixture.repo, ".git/info/exclude", "/scratch\n");
    write(&fixture.repo, ".git/hooks/pre-push", "#!/bin/sh\n");
    git(&place, &["config", "branch.main.description", "theirs"]);
    git(&place, &["tag", "theirs"]);

    next(&isolator, &plan, "second").await;
    assert!(!git_succeeds(&place, &["config", "user.name"]));
    assert!(!admin.join("locked").exists());
    assert!(!admin.join("hooks").exists() && !admin.join("info/attributes").exists());
    assert!(!admin.join("info/sparse-checkout").exists());
    assert!(!git_succeeds(&place, &["rev-parse", "--verify", "-q", "refs/worktree/mine"]));
    assert!(!git_succeeds(&place, &["rev-parse", "--verify", "-q", "refs/bisect/bad"]));
    assert!(!git_succeeds(&place, &["bisect", "log"]));
    assert!(!place.join("local.local").exists() && !place.join("target").exists());
    assert!(place.join("README.md").exists(), "all is checked out");
    assert_eq!(status(&place), "");
    let log = git(&place, &["reflog"]);
    assert!(!log.contains("first"), "{log}");
    assert_eq!(git(&place, &["branch", "--show-current"]), "wtpool/second");

    assert_eq!(git(&place, &["stash", "list"]).lines().count(), 1);
    assert_eq!(git(&place, &["show", "stash@{0}:src/main.rs"]), "changed");
    assert_eq!(read(fixture.repo.join(".git/info/exclude")), "/scratch\n");
    assert!(fixture.repo.join(".git/hooks/pre-push").exists());
    assert_eq!(git(&place, &["config", "branch.main.description"]), "theirs");
    assert!(git_succeeds(&place, &["rev-parse", "--verify", "-q", "theirs"]));
    assert_eq!(isolator.place(SlotId(1)), place);
}

/// A rescue that somebody has made up, or that came with a mirrored repository.
#[tokio::test]
async fn a_rescue_that_leads_elsewhere() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let root = fixture.root.path().canonicalize().unwrap();
    let outside = root.join("outside");
    write(&outside, "secret", "precious");
    for path in [outside.clone(), outside.join("secret")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let (plan, place) = slot(&isolator, 1, "lease").await;
    symlink(&outside, place.join("link")).unwrap();
    let saved = proof(&isolator, &plan).await;
    let reference = saved.rescue().unwrap().reference.clone();
    isolator.dispose(saved).await.unwrap();

    let scratch = root.join("scratch");
    let metadata = format!("{reference}^3");
    git(
        &fixture.repo,
        &["worktree", "add", "-q", "--detach", scratch.to_str().unwrap(), &metadata],
    );
    let sound: serde_json::Value =
        serde_json::from_str(&read(scratch.join("manifest.json"))).unwrap();
    for (number, (list, path)) in [
        ("modes", "link/secret"),
        ("directories", "link/made"),
        ("directories", "link"),
        ("directories", "../outside"),
        ("modes", "../outside/secret"),
        ("modes", ".git/config"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut manifest = sound.clone();
        let record = serde_json::json!({"path": path, "mode": 0o777});
        manifest[list].as_array_mut().unwrap().push(record);
        fs::write(scratch.join("manifest.json"), manifest.to_string()).unwrap();
        git(&scratch, &["add", "-A"]);
        let tree = git(&scratch, &["write-tree"]);
        let made_up = git(&scratch, &["commit-tree", &tree, "-m", "state"]);
        let [head, index] = ["^1", "^2"].map(|parent| format!("{reference}{parent}"));
        let tree = format!("{reference}^{{tree}}");
        let args = ["commit-tree", &tree, "-p", &head, "-p", &index, "-p", &made_up, "-m", "x"];
        let whole = git(&fixture.repo, &args);
        let id = format!("lease-01arz3ndektsv4rrffq69g5fa{number}");
        git(&fixture.repo, &["update-ref", &format!("refs/wtpool/rescue/{id}"), &whole]);
        let id = pool_core::RescueId::new(id).unwrap();
        let into = root.join(format!("restored-{number}"));
        let refused = archive(&isolator).restore_into(&id, &into).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Store, "{path}: {refused}");
        for path in [outside.clone(), outside.join("secret")] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{path}");
        assert!(!into.exists(), "{path}: taken back");
    }
}

/// The submodule's repository is wherever its `.git` says, and so is its configuration.
#[tokio::test]
async fn commands_in_the_configuration_of_a_submodule() {
    let fixture = Fixture::new();
    let library = Fixture::new();
    write(&library.repo, ".gitattributes", "*.md filter=trap\n");
    let named = commit(&library.repo, "attributes");
    let entry = format!("160000,{named},sub");
    git(&fixture.repo, &["update-index", "--add", "--cacheinfo", &entry]);
    git(&fixture.repo, &["commit", "-q", "-m", "a submodule"]);
    let isolator = fixture.isolator();
    let (plan, place) = slot(&isolator, 1, "lease").await;
    let theirs = fixture.root.path().join("theirs");
    let args = ["clone", "-q", library.repo.to_str().unwrap(), theirs.to_str().unwrap()];
    git(&fixture.repo, &args);
    fs::remove_dir(place.join("sub")).unwrap();
    fs::create_dir(place.join("sub")).unwrap();
    fs::write(place.join("sub/.git"), format!("gitdir: {}/.git\n", theirs.display())).unwrap();
    git(&place.join("sub"), &["reset", "-q", "--hard"]);
    let (script, trace) = trap(&fixture, "trap", "cat");
    git(&theirs, &["config", "filter.trap.clean", script.to_str().unwrap()]);
    // Only reading it tells whether that was changed.
    write(&place.join("sub"), "README.md", "DEMO\n");
    let losses = isolator.inspect(&plan).await.unwrap().losses;
    assert_eq!(losses.unsavable.len(), 1, "{losses:?}");
    assert!(!trace.exists());
}

/// The directory above a worktree, or the name that it is set aside under, given to a link after the look.
#[tokio::test]
async fn a_slots_own_directory_swapped_for_a_link() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let (plan, place) = slot(&isolator, 1, "lease").await;
    let (_, neighbour) = slot(&isolator, 2, "neighbour").await;
    write(&fixture.repo, "precious", "precious");
    let (dir, away) = (place.parent().unwrap().to_owned(), fixture.root.path().join("away"));
    // The main worktree has the name that worktrees have.
    for target in [neighbour.parent().unwrap(), fixture.repo.parent().unwrap()] {
        let settled = proof(&isolator, &plan).await;
        let other = proof(&isolator, &plan).await;
        fs::rename(&dir, &away).unwrap();
        symlink(target, &dir).unwrap();
        let refused = isolator.dispose(settled).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldLoseWork, "{refused}");
        let refused = isolator.recycle(&plan, other).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldLoseWork, "{refused}");
        assert_eq!(isolator.provision(&plan).await.unwrap_err().kind(), ErrorKind::WouldLoseWork);
        fs::remove_file(&dir).unwrap();
        fs::rename(&away, &dir).unwrap();
    }
    for (target, there) in [(&neighbour, true), (&fixture.repo, true), (&fixture.repo, false)] {
        let settled = proof(&isolator, &plan).await;
        symlink(target, dir.join(".leaving")).unwrap();
        if !there {
            fs::rename(&place, &away).unwrap();
        }
        isolator.dispose(settled).await.unwrap_err();
        assert_eq!(status(&fixture.repo), "?? precious");
        assert_eq!(status(&neighbour), "");
        for link in [dir.join(".leaving"), place.clone()] {
            if link.is_symlink() {
                fs::remove_file(link).unwrap();
            }
        }
        if !there {
            fs::rename(&away, &place).unwrap();
        }
    }
    isolator.dispose(proof(&isolator, &plan).await).await.unwrap();
    assert!(!place.exists());
    assert_eq!(read(fixture.repo.join("precious")), "precious");
    assert_eq!(status(&neighbour), "");
}
