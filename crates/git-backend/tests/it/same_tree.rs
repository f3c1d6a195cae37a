//! A slot that is made for a lease and one that is used again for it are the same: the tree, git's files, the
//! notes beside it.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use git_backend::{GitEnvironment, GitIsolator, GitSettings, SubmoduleMode};
use pool_core::{Isolator, SlotId};

use crate::support::{
    Fixture, backdate, commit, git, git_succeeds, mtime, plan, proof, settings, write,
};

/// What happens between two leases of one slot.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Before the slot is made.
    before: fn(&Fixture),
    /// By the holder of the first lease, in the slot.
    holder: fn(&Fixture, &Path),
    /// After the first lease, before the second.
    between: fn(&Fixture),
    /// The settings that the pool has, for the first lease (`false`) and from then on.
    settings: fn(&Fixture, bool) -> GitSettings,
}

const PLAIN: Case = Case {
    name: "",
    before: |_| {},
    holder: |_, _| {},
    between: |_| {},
    settings: |_, _| settings(),
};

/// Asserts of each case that the slot used again is like one that is made then.
async fn check(cases: &[Case]) {
    for case in cases {
        let fixture = Fixture::new();
        (case.before)(&fixture);
        let early = (case.settings)(&fixture, false);
        let isolator = fixture.isolator_with(early.clone());
        let first = plan(&isolator, 1, "first").await;
        isolator.provision(&first).await.expect(case.name);
        let place = isolator.place(SlotId(1));
        (case.holder)(&fixture, &place);
        (case.between)(&fixture);
        let late = (case.settings)(&fixture, true);
        let is_for_git_alone = !late.user_config;
        let isolator = if late == early { isolator } else { fixture.isolator_with(late) };
        let saved = proof(&isolator, &first).await;
        let second = plan(&isolator, 1, "used").await;
        isolator.recycle(&second, saved).await.expect(case.name);
        let made = plan(&isolator, 2, "made").await;
        isolator.provision(&made).await.expect(case.name);
        let [used, made] =
            [(1, "used"), (2, "made")].map(|(slot, name)| all(&isolator, slot, name));
        if is_for_git_alone {
            for slot in [1, 2] {
                let status = git(&isolator.place(SlotId(slot)), &["status", "--porcelain"]);
                assert_eq!(status, "", "{}: slot {slot}", case.name);
            }
        }
        let differs = used.iter().filter(|(key, found)| made.get(*key) != Some(found));
        let missing = made.iter().filter(|(key, _)| !used.contains_key(*key));
        let differences: Vec<_> = differs
            .chain(missing)
            .map(|(key, _)| {
                format!("{key}\n  used: {:?}\n  made: {:?}", used.get(key), made.get(key))
            })
            .collect();
        assert!(differences.is_empty(), "{}:\n{}", case.name, differences.join("\n"));
    }
}

/// All that a lease may notice of a slot, without what names the slot itself.
fn all(isolator: &GitIsolator, slot: u32, lease: &str) -> BTreeMap<String, String> {
    let place = isolator.place(SlotId(slot));
    let admin = git(&place, &["rev-parse", "--absolute-git-dir"]);
    let dir = place.parent().unwrap().display().to_string();
    let name = Path::new(&admin).file_name().unwrap().to_str().unwrap();
    let plain = |text: &str| {
        text.replace(&admin, "ADMIN")
            .replace(&dir, "DIR")
            .replace(&format!("worktrees/{name}/"), "worktrees/NAME/")
            .replace(&format!("slots/{slot}/"), "slots/N/")
            .replace(&format!("wtpool/{lease}"), "BRANCH")
    };
    let mut found = BTreeMap::new();
    for (what, root) in
        [("tree", &*place), ("admin", Path::new(&admin)), ("notes", Path::new(&dir))]
    {
        for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
            let entry = entry.unwrap();
            let path = entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let is_of_git = what == "admin" && (path.ends_with("index") || path.contains("logs"));
            let is_of_tree = what == "notes" && entry.path().starts_with(&place);
            // Both hold times.
            let is_baseline = what == "notes" && path.starts_with(".checked-out");
            if is_of_git || is_of_tree {
                continue;
            }
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            let content = match () {
                () if meta.is_symlink() => format!("{:?}", fs::read_link(entry.path()).unwrap()),
                () if meta.is_file() && !is_baseline => {
                    plain(&String::from_utf8_lossy(&fs::read(entry.path()).unwrap()))
                }
                () => String::new(),
            };
            let names = if meta.is_dir() { 0 } else { meta.nlink() };
            found.insert(format!("{what} {path}"), format!("{:o} {names} {content}", meta.mode()));
        }
    }
    for (what, args) in [
        ("index", &["ls-files", "--stage"][..]),
        ("index flags", &["ls-files", "-v"]),
        ("index fsmonitor", &["ls-files", "-f"]),
        ("configuration", &["config", "--list", "--show-scope"]),
        ("hooks", &["rev-parse", "--git-path", "hooks"]),
        ("own references", &["for-each-ref", "refs/worktree", "refs/bisect", "refs/rewritten"]),
        ("branch", &["symbolic-ref", "-q", "HEAD"]),
    ] {
        found.insert(what.to_owned(), plain(&git(&place, args)));
    }
    // The first entry ends in the id of the lease.
    let log = git(&place, &["reflog", "HEAD", "--format=%H %gs"]);
    let (log, id) = log.rsplit_once(' ').unwrap();
    assert_eq!(id.len(), 26, "{log} {id}");
    found.insert("log of HEAD".to_owned(), log.to_owned());
    found
}

fn set(key: &'static str, value: &'static str) -> impl Fn(&Fixture) {
    move |fixture| drop(git(&fixture.repo, &["config", key, value]))
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Commits what several kinds of conversions are for.
fn texts(fixture: &Fixture) {
    write(&fixture.repo, "text.txt", "one\ntwo\n");
    write(&fixture.repo, "windows.bat", "one\r\ntwo\r\n");
    write(&fixture.repo, "mixed", "one\r\ntwo\n");
    write(&fixture.repo, "sub/deep.txt", "deep\n");
    fs::write(fixture.repo.join("binary"), b"a\0\nb\r\n").unwrap();
    commit(&fixture.repo, "texts");
}

#[tokio::test]
async fn whatever_the_last_holder_did_to_files() {
    check(&[
        Case {
            name: "modes of files and directories",
            holder: |_, place| {
                chmod(place.join("README.md"), 0o666);
                chmod(place.join("src/main.rs"), 0o755);
                chmod(place.join("src"), 0o777);
                chmod(place.join("src/lib"), 0o700);
                chmod(place, 0o777);
                chmod(place.join(".git"), 0o600);
            },
            ..PLAIN
        },
        Case {
            name: "modes where git does not look at them",
            before: |fixture| {
                write(&fixture.repo, "run.sh", "true\n");
                git(&fixture.repo, &["add", "--chmod=+x", "run.sh"]);
                git(&fixture.repo, &["commit", "-q", "-m", "script"]);
                git(&fixture.repo, &["config", "core.fileMode", "false"]);
            },
            holder: |_, place| {
                chmod(place.join("run.sh"), 0o644);
                chmod(place.join("README.md"), 0o755);
                git(place, &["update-index", "--refresh"]);
            },
            ..PLAIN
        },
        Case {
            name: "directories that are links",
            holder: |fixture, place| {
                let away = fixture.root.path().join("away");
                fs::rename(place.join("src"), &away).unwrap();
                symlink(&away, place.join("src")).unwrap();
                symlink("src", place.join("other")).unwrap();
            },
            ..PLAIN
        },
        Case {
            name: "files and directories in each other's places",
            holder: |_, place| {
                fs::remove_file(place.join("README.md")).unwrap();
                write(place, "README.md/deep/file", "mine");
                fs::remove_dir_all(place.join("src")).unwrap();
                write(place, "src", "mine");
                fs::create_dir_all(place.join("empty/deep")).unwrap();
            },
            ..PLAIN
        },
        Case {
            name: "a link in the place of a directory that is ignored",
            before: |fixture| {
                write(&fixture.repo, "target/tracked", "tracked");
                git(&fixture.repo, &["add", "-f", "target"]);
                commit(&fixture.repo, "target");
            },
            holder: |fixture, place| {
                let away = fixture.root.path().join("away");
                fs::rename(place.join("target"), &away).unwrap();
                symlink(&away, place.join("target")).unwrap();
            },
            ..PLAIN
        },
        Case {
            name: "files with another name elsewhere",
            holder: |fixture, place| {
                fs::hard_link(place.join("README.md"), fixture.root.path().join("name")).unwrap();
            },
            ..PLAIN
        },
        Case {
            name: "line ends that git takes for no change",
            before: |fixture| {
                write(&fixture.repo, ".gitattributes", "* text=auto\n");
                texts(fixture);
            },
            holder: |_, place| {
                fs::remove_file(place.join("text.txt")).unwrap();
                git(place, &["-c", "core.autocrlf=true", "checkout", "text.txt"]);
                write(place, "sub/deep.txt", "deep\r\n");
                git(place, &["add", "."]);
            },
            ..PLAIN
        },
        Case {
            name: "attributes that are not committed",
            before: texts,
            holder: |_, place| {
                write(place, ".gitattributes", "* text eol=crlf\n");
                write(place, "sub/.gitattributes", "* text eol=crlf\n");
                write(place, "sub/deep.txt", "other\n");
            },
            between: |fixture| {
                write(&fixture.repo, "sub/deep.txt", "committed\n");
                commit(&fixture.repo, "deep");
            },
            ..PLAIN
        },
    ])
    .await;
}

#[tokio::test]
async fn whatever_the_last_holder_did_to_the_index() {
    check(&[
        Case {
            name: "marks that hide changes",
            holder: |_, place| {
                git(place, &["update-index", "--assume-unchanged", "README.md"]);
                git(place, &["update-index", "--skip-worktree", "src/main.rs"]);
                write(place, "README.md", "hidden");
                fs::remove_file(place.join("src/main.rs")).unwrap();
            },
            ..PLAIN
        },
        Case {
            name: "a split index and caches",
            holder: |_, place| {
                git(place, &["update-index", "--split-index"]);
                git(place, &["update-index", "--force-untracked-cache"]);
                git(place, &["update-index", "--index-version", "4"]);
                write(place, "new", "staged");
                git(place, &["add", "--intent-to-add", "new"]);
            },
            ..PLAIN
        },
        Case {
            name: "a split index by the configuration",
            before: |fixture| set("core.splitIndex", "true")(fixture),
            holder: |_, place| {
                write(place, "new", "staged");
                git(place, &["add", "new"]);
            },
            ..PLAIN
        },
        Case {
            name: "an index that believes what it is told",
            holder: |_, place| {
                write(place, "README.md", "DEMO\n");
                git(place, &["add", "README.md"]);
                git(place, &["commit", "-q", "-m", "mine"]);
                git(place, &["reset", "-q", "--soft", "HEAD~1"]);
                write(place, "src/main.rs", "fn main() {}\r\n");
                git(place, &["-c", "core.autocrlf=input", "add", "src/main.rs"]);
            },
            ..PLAIN
        },
        Case {
            name: "operations that were begun",
            holder: |_, place| {
                git(place, &["branch", "side"]);
                write(place, "README.md", "here\n");
                commit(place, "here");
                git(place, &["bisect", "start"]);
                git(place, &["update-ref", "refs/worktree/mine", "HEAD"]);
                git(place, &["update-ref", "refs/rewritten/mine", "HEAD"]);
                git(place, &["update-ref", "ORIG_HEAD", "HEAD"]);
                git(place, &["fetch", "-q", ".", "main"]);
                git(place, &["checkout", "-q", "side"]);
                write(place, "README.md", "there\n");
                commit(place, "there");
                assert!(!git_succeeds(place, &["merge", "-q", "wtpool/first"]));
                let info = git(place, &["rev-parse", "--absolute-git-dir"]);
                write(Path::new(&info), "info/attributes", "* text eol=crlf\n");
                write(Path::new(&info), "info/exclude", "*\n");
            },
            ..PLAIN
        },
    ])
    .await;
}

#[tokio::test]
async fn whatever_changed_in_the_configuration() {
    check(&[
        Case {
            name: "line ends: autocrlf set",
            before: texts,
            between: |fixture| set("core.autocrlf", "true")(fixture),
            ..PLAIN
        },
        Case {
            name: "line ends: autocrlf unset",
            before: |fixture| {
                texts(fixture);
                git(&fixture.repo, &["config", "core.autocrlf", "true"]);
            },
            between: |fixture| drop(git(&fixture.repo, &["config", "--unset", "core.autocrlf"])),
            ..PLAIN
        },
        Case {
            name: "line ends: core.eol",
            before: |fixture| {
                write(&fixture.repo, ".gitattributes", "* text=auto\n");
                texts(fixture);
            },
            between: |fixture| set("core.eol", "crlf")(fixture),
            ..PLAIN
        },
        Case {
            name: "line ends: attributes of another commit",
            before: texts,
            between: |fixture| {
                write(&fixture.repo, ".gitattributes", "*.txt text eol=crlf\n");
                write(&fixture.repo, "sub/.gitattributes", "*.txt -text\n");
                commit(&fixture.repo, "attributes");
            },
            ..PLAIN
        },
        Case {
            name: "line ends: attributes of the repository",
            before: texts,
            between: |fixture| {
                write(&fixture.repo, ".git/info/attributes", "*.txt text eol=crlf\n");
            },
            ..PLAIN
        },
        Case {
            name: "line ends: a file of attributes",
            before: |fixture| {
                texts(fixture);
                let file = fixture.root.path().join("attributes");
                write(fixture.root.path(), "attributes", "*.txt text eol=crlf\n");
                git(&fixture.repo, &["config", "core.attributesFile", file.to_str().unwrap()]);
            },
            between: |fixture| write(fixture.root.path(), "attributes", "*.txt text eol=lf\n"),
            ..PLAIN
        },
        Case {
            name: "links: none wanted any more",
            before: |fixture| {
                symlink("README.md", fixture.repo.join("link")).unwrap();
                commit(&fixture.repo, "link");
            },
            between: |fixture| set("core.symlinks", "false")(fixture),
            ..PLAIN
        },
        Case {
            name: "links: wanted again",
            before: |fixture| {
                symlink("README.md", fixture.repo.join("link")).unwrap();
                commit(&fixture.repo, "link");
                git(&fixture.repo, &["config", "core.symlinks", "false"]);
            },
            holder: |_, place| write(place, "link", "src"),
            between: |fixture| set("core.symlinks", "true")(fixture),
            ..PLAIN
        },
        Case {
            name: "configuration of worktrees",
            before: |fixture| {
                git(&fixture.repo, &["config", "extensions.worktreeConfig", "true"]);
                git(&fixture.repo, &["config", "--worktree", "demo.key", "early"]);
            },
            holder: |_, place| {
                git(place, &["config", "--worktree", "demo.key", "lease"]);
                git(place, &["config", "--worktree", "core.hooksPath", "/nowhere"]);
            },
            between: |fixture| {
                git(&fixture.repo, &["config", "--worktree", "demo.key", "late"]);
                git(&fixture.repo, &["config", "--worktree", "demo.more", "late"]);
            },
            ..PLAIN
        },
        Case {
            name: "configuration of worktrees, by the holder first",
            holder: |_, place| {
                git(place, &["config", "extensions.worktreeConfig", "true"]);
                git(place, &["config", "--worktree", "core.autocrlf", "true"]);
                fs::remove_file(place.join("README.md")).unwrap();
                git(place, &["checkout", "README.md"]);
            },
            ..PLAIN
        },
        Case {
            name: "logs unwanted",
            between: |fixture| set("core.logAllRefUpdates", "false")(fixture),
            ..PLAIN
        },
        Case {
            name: "configuration of the user",
            before: |fixture| {
                texts(fixture);
                write(fixture.root.path(), "early", "[demo]\n\tkey = early\n");
                write(fixture.root.path(), "late", "[core]\n\tautocrlf = true\n");
            },
            settings: of_the_user,
            ..PLAIN
        },
    ])
    .await;
}

/// The user's configuration in the file `early`, then in `late`.
fn of_the_user(fixture: &Fixture, late: bool) -> GitSettings {
    let file = if late { "late" } else { "early" };
    let variables =
        [("GIT_CONFIG_GLOBAL", file), ("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_ATTR_NOSYSTEM", "1")];
    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    let environment = GitEnvironment::of(variables, fixture.root.path());
    GitSettings { user_config: true, environment, ..settings() }
}

/// A filter that says where it runs, and what for.
const TELLING: &str = "sh -c 'cat; pwd; git rev-parse --abbrev-ref HEAD; git rev-parse --show-toplevel; \
    env | grep -E \"^(GIT_|PWD)\" | sort'";

fn with_filter(fixture: &Fixture, smudge: &str) {
    write(&fixture.repo, "song.txt", "la\n");
    write(&fixture.repo, "sub/song.txt", "la\n");
    commit(&fixture.repo, "songs");
    write(&fixture.repo, ".gitattributes", "*.txt filter=shout\n");
    commit(&fixture.repo, "attributes");
    git(&fixture.repo, &["config", "filter.shout.clean", "echo la; cat > /dev/null"]);
    git(&fixture.repo, &["config", "filter.shout.smudge", smudge]);
}

#[tokio::test]
async fn whatever_a_filter_looks_at() {
    check(&[
        Case {
            name: "a filter that tells where it runs",
            before: |fixture| with_filter(fixture, TELLING),
            ..PLAIN
        },
        Case {
            name: "a filter that was changed",
            before: |fixture| with_filter(fixture, "tr a-z A-Z"),
            between: |fixture| set("filter.shout.smudge", "cat; echo changed")(fixture),
            ..PLAIN
        },
        Case {
            name: "a filter that was removed",
            before: |fixture| with_filter(fixture, "tr a-z A-Z"),
            between: |fixture| {
                git(&fixture.repo, &["config", "--remove-section", "filter.shout"]);
            },
            ..PLAIN
        },
        Case {
            name: "a filter that was added",
            before: |fixture| {
                write(&fixture.repo, "song.txt", "la\n");
                commit(&fixture.repo, "song");
            },
            between: |fixture| with_filter(fixture, TELLING),
            ..PLAIN
        },
        Case {
            name: "a filter of attributes that are not committed",
            before: |fixture| {
                with_filter(fixture, TELLING);
                git(&fixture.repo, &["rm", "-q", ".gitattributes"]);
                commit(&fixture.repo, "none");
            },
            between: |fixture| write(&fixture.repo, ".git/info/attributes", "*.txt filter=shout\n"),
            ..PLAIN
        },
        Case {
            name: "a filter of the user's",
            before: |fixture| {
                with_filter(fixture, "cat");
                git(&fixture.repo, &["config", "--remove-section", "filter.shout"]);
                let clean = "[filter \"shout\"]\n\tclean = echo la; cat > /dev/null\n\tsmudge = ";
                write(fixture.root.path(), "early", &format!("{clean}\"cat; echo early\"\n"));
                write(fixture.root.path(), "late", &format!("{clean}\"cat; echo $WHO late\"\n"));
            },
            settings: of_the_user,
            ..PLAIN
        },
        Case {
            name: "a filter in a sparse checkout",
            before: |fixture| {
                with_filter(fixture, TELLING);
                git(&fixture.repo, &["sparse-checkout", "set", "src"]);
            },
            between: |fixture| drop(git(&fixture.repo, &["sparse-checkout", "set", "sub"])),
            ..PLAIN
        },
    ])
    .await;
}

fn directories(fixture: &Fixture) {
    for path in ["docs/guide.md", "docs/deep/more.md", "data/a.csv", "src/extra/x.rs"] {
        write(&fixture.repo, path, path);
    }
    commit(&fixture.repo, "directories");
}

#[tokio::test]
async fn whatever_is_left_out_of_a_sparse_checkout() {
    check(&[
        Case {
            name: "sparse: other directories",
            before: |fixture| {
                directories(fixture);
                git(&fixture.repo, &["sparse-checkout", "set", "src"]);
            },
            between: |fixture| drop(git(&fixture.repo, &["sparse-checkout", "set", "docs"])),
            ..PLAIN
        },
        Case {
            name: "sparse: by patterns",
            before: |fixture| {
                directories(fixture);
                git(&fixture.repo, &["sparse-checkout", "set", "--no-cone", "/*", "!/docs/"]);
            },
            holder: |_, place| write(place, "docs/guide.md", "mine"),
            between: |fixture| {
                git(&fixture.repo, &["sparse-checkout", "set", "--no-cone", "*.md", "!/data/"]);
            },
            ..PLAIN
        },
        Case {
            name: "sparse: enabled since",
            before: directories,
            between: |fixture| drop(git(&fixture.repo, &["sparse-checkout", "set", "docs"])),
            ..PLAIN
        },
        Case {
            name: "sparse: disabled since",
            before: |fixture| {
                directories(fixture);
                git(&fixture.repo, &["sparse-checkout", "set", "docs"]);
            },
            between: |fixture| drop(git(&fixture.repo, &["sparse-checkout", "disable"])),
            ..PLAIN
        },
        Case {
            name: "sparse: disabled by the holder",
            before: |fixture| {
                directories(fixture);
                git(&fixture.repo, &["sparse-checkout", "set", "docs"]);
            },
            holder: |_, place| drop(git(place, &["sparse-checkout", "disable"])),
            ..PLAIN
        },
        Case {
            name: "sparse: set by the holder, with a sparse index",
            before: directories,
            holder: |_, place| {
                git(place, &["sparse-checkout", "set", "--sparse-index", "data"]);
            },
            ..PLAIN
        },
        Case {
            name: "sparse: another commit",
            before: |fixture| {
                directories(fixture);
                git(&fixture.repo, &["sparse-checkout", "set", "src"]);
            },
            holder: |_, place| write(place, "docs/new.md", "mine"),
            between: |fixture| {
                git(&fixture.repo, &["sparse-checkout", "disable"]);
                write(&fixture.repo, "docs/new.md", "committed");
                write(&fixture.repo, "src/new.rs", "committed");
                commit(&fixture.repo, "more");
                git(&fixture.repo, &["sparse-checkout", "set", "src"]);
            },
            ..PLAIN
        },
    ])
    .await;
}

/// Ignored files of every kind: those that a rescue holds, and those that can be made again.
fn with_output(_: &Fixture, place: &Path) {
    for path in [
        "target/debug/app",
        "target/tmp/state.db",
        "target/c/part.o",
        "src/target/debug/app",
        "src/lib/target/.hidden",
        ".env",
        "src/mine.local",
    ] {
        write(place, path, "the last holder's");
    }
}

#[tokio::test]
async fn whatever_the_last_holder_left_in_ignored_places() {
    check(&[
        Case { name: "ignored: build output", holder: with_output, ..PLAIN },
        Case {
            name: "ignored: in a directory that is tracked",
            before: |fixture| {
                write(&fixture.repo, "target/tracked/file", "tracked");
                git(&fixture.repo, &["add", "-f", "target"]);
                commit(&fixture.repo, "target");
            },
            holder: |fixture, place| {
                with_output(fixture, place);
                write(place, "target/tracked/other", "the last holder's");
            },
            ..PLAIN
        },
        Case {
            name: "ignored: by a rule of the holder's own",
            holder: |_, place| {
                for dir in ["node_modules", ".venv", "src/__pycache__", "elsewhere/node_modules"] {
                    write(place, &format!("{dir}/.gitignore"), "*\n");
                    write(place, &format!("{dir}/deep/file"), "the last holder's");
                }
            },
            ..PLAIN
        },
        Case {
            name: "ignored: by a rule of the repository's",
            holder: |fixture, place| {
                write(&fixture.repo, ".git/info/exclude", "/out/\n*.pyc\n");
                write(place, "out/file", "the last holder's");
                write(place, "src/main.pyc", "the last holder's");
            },
            settings: |_, _| GitSettings { regenerable: vec!["*".to_owned()], ..settings() },
            ..PLAIN
        },
        Case {
            name: "ignored: by a rule that the next commit lacks",
            holder: with_output,
            between: |fixture| {
                write(&fixture.repo, ".gitignore", "");
                commit(&fixture.repo, "no rules");
            },
            ..PLAIN
        },
        Case {
            name: "ignored: where nothing may be written or read",
            holder: |fixture, place| {
                with_output(fixture, place);
                chmod(place.join("target/debug/app"), 0o444);
                for (dir, mode) in [
                    ("target/c", 0o000),
                    ("target/debug", 0o555),
                    ("target", 0o555),
                    ("src/target", 0o000),
                    ("src", 0o555),
                ] {
                    chmod(place.join(dir), mode);
                }
            },
            ..PLAIN
        },
        Case {
            name: "ignored: what is no file",
            holder: |fixture, place| {
                with_output(fixture, place);
                let fifo = place.join("target/debug/pipe");
                let made = std::process::Command::new("mkfifo").arg(&fifo).status();
                assert!(made.unwrap().success());
                std::os::unix::net::UnixListener::bind(place.join("target/socket")).unwrap();
            },
            ..PLAIN
        },
    ])
    .await;
}

/// What a link of the last holder leads to is not the slot's.
#[tokio::test]
async fn ignored_link_goes_and_what_it_leads_to_stays() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));
    let outside = fixture.root.path().join("outside");
    write(&outside, "deep/precious", "precious");
    fs::create_dir_all(place.join("target/debug")).unwrap();
    symlink(&outside, place.join("target/debug/deps")).unwrap();
    symlink(&outside, place.join("src/target")).unwrap();
    let saved = proof(&isolator, &first).await;
    let second = plan(&isolator, 1, "second").await;
    isolator.recycle(&second, saved).await.unwrap();
    isolator.sweep(&|_| ()).await.unwrap();
    for link in ["target", "src/target"] {
        assert!(fs::symlink_metadata(place.join(link)).is_err(), "{link}");
    }
    assert_eq!(fs::read_to_string(outside.join("deep/precious")).unwrap(), "precious");
}

/// A lease does not wait until gigabytes of build output are deleted.
#[tokio::test]
async fn build_output_is_renamed_and_deleted_by_the_next_sweep() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let place = isolator.place(SlotId(1));
    with_output(&fixture, &place);
    let output = fs::metadata(place.join("target")).unwrap().ino();
    let saved = proof(&isolator, &first).await;
    let second = plan(&isolator, 1, "second").await;
    isolator.recycle(&second, saved).await.unwrap();
    assert!(!place.join("target").exists() && isolator.has_trash());
    let trash = walkdir::WalkDir::new(fixture.pool_dir().join("trash"));
    let moved = trash
        .into_iter()
        .flatten()
        .find(|entry| entry.metadata().is_ok_and(|meta| meta.ino() == output));
    let moved = moved.expect("it is the same directory").into_path();
    assert!(moved.join("debug/app").exists(), "nothing in it was deleted yet");
    isolator.sweep(&|_| ()).await.unwrap();
    assert!(!isolator.has_trash());
}

fn copying(_: &Fixture, _: bool) -> GitSettings {
    let copy = [".env", "*.local", "conf"].map(str::to_owned).to_vec();
    GitSettings { copy, ..settings() }
}

#[tokio::test]
async fn whatever_became_of_set_up_files() {
    check(&[
        Case {
            name: "set-up files: changed and removed by the user",
            before: |fixture| {
                write(&fixture.repo, ".env", "A=1");
                write(&fixture.repo, "gone.local", "gone");
                write(&fixture.repo, "conf/.gitignore", "*\n");
                write(&fixture.repo, "conf/deep/key", "key");
            },
            between: |fixture| {
                write(&fixture.repo, ".env", "A=2");
                fs::remove_file(fixture.repo.join("gone.local")).unwrap();
                write(&fixture.repo, "new.local", "new");
                fs::remove_dir_all(fixture.repo.join("conf/deep")).unwrap();
            },
            settings: copying,
            ..PLAIN
        },
        Case {
            name: "set-up files: changed by the holder",
            before: |fixture| {
                write(&fixture.repo, ".env", "A=1");
                write(&fixture.repo, "a.local", "a");
                write(&fixture.repo, "b.local", "b");
                write(&fixture.repo, "conf/.gitignore", "*\n");
                write(&fixture.repo, "conf/deep/key", "key");
                chmod(fixture.repo.join("conf/deep/key"), 0o600);
            },
            holder: |fixture, place| {
                write(place, ".env", "A=2");
                chmod(place.join("a.local"), 0o777);
                fs::hard_link(place.join("b.local"), fixture.root.path().join("b")).unwrap();
                chmod(place.join("conf/deep"), 0o777);
                chmod(place.join("conf/deep/key"), 0o644);
            },
            settings: copying,
            ..PLAIN
        },
        Case {
            name: "set-up files: another mode by the user",
            before: |fixture| write(&fixture.repo, ".env", "A=1"),
            between: |fixture| chmod(fixture.repo.join(".env"), 0o600),
            settings: copying,
            ..PLAIN
        },
        Case {
            name: "set-up files: asked for no more",
            before: |fixture| write(&fixture.repo, ".env", "A=1"),
            settings: |fixture, late| if late { settings() } else { copying(fixture, late) },
            ..PLAIN
        },
        Case {
            name: "stale files of the pool",
            holder: |_, place| {
                let dir = place.parent().unwrap();
                fs::write(dir.join(".left-out"), "[\"stale\"]").unwrap();
                fs::write(dir.join(".info-sparse-checkout"), "/docs\n").unwrap();
                fs::write(dir.join("copied.json"), "{\"README.md\": \"1\"}").unwrap();
            },
            ..PLAIN
        },
    ])
    .await;
}

#[tokio::test]
async fn whatever_became_of_submodules() {
    fn with_submodule(fixture: &Fixture) {
        let parent = fixture.repo.parent().unwrap();
        git(parent, &["clone", "-q", "demo", "library"]);
        let add = [
            "-c",
            "protocol.file.allow=always",
            "submodule",
            "--quiet",
            "add",
            "../library",
            "lib",
        ];
        git(&fixture.repo, &add);
        commit(&fixture.repo, "submodule");
        write(
            fixture.root.path(),
            "early",
            "[protocol \"file\"]\n\tallow = always\n[user]\n\tname = a\n\temail = a@example.com\n",
        );
        fs::copy(fixture.root.path().join("early"), fixture.root.path().join("late")).unwrap();
    }
    check(&[
        Case {
            name: "submodules: initialised by the holder",
            before: with_submodule,
            holder: |_, place| {
                git(
                    place,
                    &[
                        "-c",
                        "protocol.file.allow=always",
                        "submodule",
                        "--quiet",
                        "update",
                        "--init",
                    ],
                );
            },
            ..PLAIN
        },
        Case {
            name: "submodules: initialised by the pool",
            before: with_submodule,
            holder: |_, place| {
                let lib = place.join("lib");
                git(&lib, &["config", "demo.key", "mine"]);
                git(&lib, &["update-index", "--assume-unchanged", "README.md"]);
            },
            settings: |fixture, late| GitSettings {
                submodules: SubmoduleMode::Init,
                ..of_the_user(fixture, late)
            },
            ..PLAIN
        },
    ])
    .await;
}

/// What has no part in a checkout has no file written again; nor has what was touched, and not changed.
#[tokio::test]
async fn files_that_are_the_same_are_not_written_again() {
    let fixture = Fixture::new();
    texts(&fixture);
    let isolator = fixture.isolator();
    let mut last = plan(&isolator, 1, "first").await;
    isolator.provision(&last).await.unwrap();
    let place = isolator.place(SlotId(1));
    let changes: [fn(&Fixture); 4] = [
        |_| {},
        |fixture| set("user.name", "other")(fixture),
        // Files that are the same by their content, though settings of line ends have changed.
        |fixture| set("core.safecrlf", "true")(fixture),
        |fixture| write(&fixture.repo, ".git/info/attributes", "*.bat text eol=crlf\n"),
    ];
    for (turn, change) in changes.into_iter().enumerate() {
        change(&fixture);
        let times = ["README.md", "text.txt", "src/main.rs"].map(|file| {
            let path = place.join(file);
            (backdate(&path), path)
        });
        let saved = proof(&isolator, &last).await;
        let next = plan(&isolator, 1, &format!("next{turn}")).await;
        isolator.recycle(&next, saved).await.unwrap();
        for (time, path) in times {
            assert_eq!(mtime(&path), time, "{turn} {}", path.display());
        }
        last = next;
    }
}

/// Where a variable says that the user's configuration is, gix would not look.
#[tokio::test]
async fn configuration_that_a_variable_names_decides_line_ends() {
    let fixture = Fixture::new();
    texts(&fixture);
    write(fixture.root.path(), "late", "[core]\n\tautocrlf = true\n");
    let isolator = fixture.isolator_with(of_the_user(&fixture, true));
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.unwrap();
    let content = fs::read(isolator.place(SlotId(1)).join("text.txt")).unwrap();
    assert_eq!(content, b"one\r\ntwo\r\n");
}

/// Not in a table: git may take such a file for changed, since its content is not that of the commit.
#[tokio::test]
async fn file_that_another_object_replaces_is_the_same() {
    let fixture = Fixture::new();
    let isolator = fixture.isolator();
    let first = plan(&isolator, 1, "first").await;
    isolator.provision(&first).await.expect("made");
    let saved = proof(&isolator, &first).await;
    write(&fixture.repo, "replacement", "as it should have been");
    let new = git(&fixture.repo, &["hash-object", "-w", "replacement"]);
    git(&fixture.repo, &["replace", "HEAD:README.md", new.trim()]);
    let second = plan(&isolator, 1, "used").await;
    isolator.recycle(&second, saved).await.expect("used again");
    let made = plan(&isolator, 2, "made").await;
    isolator.provision(&made).await.expect("made");
    for slot in [1, 2] {
        let content = fs::read_to_string(isolator.place(SlotId(slot)).join("README.md"));
        assert_eq!(content.expect("read"), "as it should have been", "slot {slot}");
    }
}
