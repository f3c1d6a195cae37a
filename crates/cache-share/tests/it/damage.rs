//! Bases that are damaged, or of no use, and seedings that fail: the lease is given, what is built is right, and
//! the reason is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pool_core::Prepared;
use testkit::git;

use crate::support::{self, Lease, Workshop, assert_same, commit, look, request, write};

const MAIN: &str =
    "fn main() {\n    println!(\"{} {}\", part::word(), itoa::Buffer::new().format(7));\n}\n";

fn says(word: &str) -> String {
    format!("pub fn word() -> &'static str {{\n    \"{word}\"\n}}\n")
}

fn files() -> [(&'static str, String); 5] {
    let manifest = |name: &str, rest: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{rest}")
    };
    let app = manifest("app", "[dependencies]\npart = { path = \"../part\" }\nitoa = \"1\"\n");
    [
        ("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"part\"]\n".to_owned()),
        ("app/Cargo.toml", app),
        ("app/src/main.rs", MAIN.to_owned()),
        ("part/Cargo.toml", manifest("part", "")),
        ("part/src/lib.rs", says("base")),
    ]
}

fn workshop() -> Workshop {
    workshop_with(|_| ())
}

fn workshop_with(change: impl FnOnce(&mut cache_share::Setup)) -> Workshop {
    let files = files();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, &**text)).collect();
    Workshop::with(&files, change)
}

fn warmed() -> Workshop {
    let workshop = workshop();
    assert_eq!(workshop.warm("main").expect("built"), Prepared::Built { trouble: None });
    workshop
}

/// It builds what is there, before an edit and after it.
fn assert_right(lease: &Lease) {
    assert_eq!(lease.shows("run --quiet -p app"), "base 7");
    lease.write("part/src/lib.rs", &says("edited"));
    assert_eq!(lease.shows("run --quiet -p app"), "edited 7");
    assert_eq!(git(lease.path()).args(["status", "--porcelain"]).stdout(), " M part/src/lib.rs");
}

/// The files of the base whose names begin so.
fn in_base(workshop: &Workshop, dir: &str, prefix: &str) -> Vec<PathBuf> {
    let dir = workshop.base(1).join("tree/target/debug").join(dir);
    let entries = fs::read_dir(dir).expect("it was built").map(|entry| entry.expect("an entry"));
    let found = entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
    let found: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    assert!(!found.is_empty(), "there is no {prefix} in the base");
    found
}

/// The base is not used again, and the next one is whole.
fn assert_replaced(workshop: &Workshop, lease: Lease) {
    assert!(lease.0.lease().attachment.unprepared, "nobody is told that a new base is wanted");
    assert_right(&lease);
    let next = workshop.lease("main");
    assert!(!next.is_warm(), "the damaged base is used again");
    assert_eq!(workshop.warm("main").expect("built"), Prepared::Built { trouble: None });
    let last = workshop.lease("main");
    assert_eq!(last.built_anew("build --workspace"), Vec::<String>::new());
    assert_right(&last);
    assert_right(&next);
}

#[test]
fn a_truncated_library() {
    let workshop = warmed();
    for library in in_base(&workshop, "deps", "libitoa-") {
        let file = fs::File::options().write(true).open(library).expect("it is there");
        file.set_len(file.metadata().expect("read").len() / 2).expect("cut");
    }
    let lease = workshop.lease("main");
    assert!(lease.reason().contains("is damaged"), "{}", lease.reason());
    assert!(lease.reason().contains("libitoa-"), "{}", lease.reason());
    assert_replaced(&workshop, lease);
}

#[test]
fn a_missing_fingerprint() {
    let workshop = warmed();
    for dir in in_base(&workshop, ".fingerprint", "part-") {
        fs::remove_dir_all(dir).expect("removed");
    }
    let lease = workshop.lease("main");
    assert!(lease.reason().contains("is damaged"), "{}", lease.reason());
    assert_replaced(&workshop, lease);
}

/// Nobody can tell what it was.
#[test]
fn a_manifest_that_is_no_manifest() {
    let workshop = warmed();
    let manifest = workshop.base(1).join("manifest.json");
    let text = fs::read(&manifest).expect("read");
    fs::write(&manifest, &text[..text.len() / 2]).expect("written");
    let lease = workshop.lease("main");
    assert!(lease.reason().contains("nothing was built"), "{}", lease.reason());
    assert_replaced(&workshop, lease);
}

/// Changes what the base says of itself.
fn pretend(workshop: &Workshop, change: impl FnOnce(&mut serde_json::Value)) {
    let path = workshop.base(1).join("manifest.json");
    let text = fs::read(&path).expect("read");
    let mut manifest = serde_json::from_slice(&text).expect("JSON");
    change(&mut manifest);
    fs::write(&path, serde_json::to_vec(&manifest).expect("JSON")).expect("written");
}

#[test]
fn another_toolchain() {
    let workshop = warmed();
    pretend(&workshop, |manifest| manifest["toolchain"]["rustc"] = "rustc 1.0.0 (old)\n".into());
    let lease = workshop.lease("main");
    assert!(lease.reason().contains("built by rustc 1.0.0 (old)"), "{}", lease.reason());
    assert!(lease.0.lease().attachment.unprepared && !lease.is_warm());
    assert_right(&lease);
}

#[test]
fn other_flags() {
    let workshop = warmed();
    pretend(&workshop, |manifest| {
        manifest["toolchain"]["flags"]["RUSTFLAGS"] = "--cfg other".into();
    });
    let lease = workshop.lease("main");
    assert!(lease.reason().contains("another RUSTFLAGS"), "{}", lease.reason());
    assert!(lease.0.lease().attachment.unprepared && !lease.is_warm());
    assert_right(&lease);
}

/// A cargo that has its files elsewhere, as later ones may.
#[cfg(unix)]
#[test]
fn an_unknown_layout() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().expect("a temporary directory");
    let wrapper = dir.path().join("wrapper");
    let call = r#"{"time":{"secs_since_epoch":1,"nanos_since_epoch":0},"is_macro":false,"nested":false,"hash":"0123456789abcdef","crate_name":"part","package":"part","manifest_dir":"/elsewhere/part","out_dir":"/elsewhere/target/build/part/0123456789abcdef/out","script_out":null}"#;
    let script = format!(
        "#!/bin/sh\ncalls=\"${{0%/*}}/../calls.jsonl\"\n\
         [ -d \"${{0%/*}}/../tree\" ] && echo '{call}' >> \"$calls\"\nexec \"$@\"\n"
    );
    fs::write(&wrapper, script).expect("written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("one's own");
    let workshop = workshop_with(|setup| setup.wrapper = Some(wrapper));
    let refused = workshop.warm("main").expect_err("nothing is known of these files");
    assert!(refused.to_string().contains("in a way that is not known"), "{refused}");
    let lease = workshop.lease("main");
    assert!(lease.reason().contains("nothing was built"), "{}", lease.reason());
    assert_right(&lease);
}

/// Without the wrapper nothing is known of units: a base then is of no use, and of no harm.
#[test]
fn no_wrapper() {
    let workshop = workshop_with(|setup| setup.wrapper = None);
    workshop.warm("main").expect("built");
    let lease = workshop.lease("main");
    assert!(!lease.is_warm());
    assert_right(&lease);
}

#[test]
fn many_seedings_at_once() {
    let workshop = warmed();
    let before = look(&workshop.base(1));
    let asked: Vec<_> = (0..12)
        .map(|_| {
            let pool = workshop.pool().clone();
            workshop.spawn(async move { pool.acquire(request("main")).await })
        })
        .collect();
    let leases: Vec<Lease> = asked
        .into_iter()
        .map(|asked| workshop.block_on(asked).expect("it does not panic").expect("given"))
        .map(Lease)
        .collect();
    for lease in &leases {
        assert!(lease.is_warm(), "{}", lease.reason());
        assert_eq!(lease.built_anew("build --workspace"), Vec::<String>::new());
    }
    for lease in leases.iter().take(3) {
        assert_right(lease);
    }
    assert_same(&before, &look(&workshop.base(1)));
}

/// Cargo and rustc see where they really are.
#[cfg(unix)]
#[test]
fn a_pool_behind_a_link() {
    let workshop = workshop_with(|setup| {
        let (real, link) = (setup.pool_dir.clone(), setup.pool_dir.with_file_name("link"));
        std::os::unix::fs::symlink(real.parent().expect("a directory"), &link).expect("linked");
        setup.pool_dir = link.join(real.file_name().expect("a name"));
    });
    assert_eq!(workshop.warm("main").expect("built"), Prepared::Built { trouble: None });
    let lease = workshop.lease("main");
    assert!(lease.is_warm(), "{}", lease.reason());
    assert_eq!(lease.built_anew("build --workspace"), Vec::<String>::new());
    assert_right(&lease);
    let link = workshop.pool_dir().with_file_name("link");
    let slot = lease.path().parent().expect("it is in a slot").to_owned();
    for place in [slot.join(".cargo"), workshop.base(1).join(".cargo")] {
        let told = fs::read_to_string(place.join("wtpool-rustc.json")).expect("it is told");
        assert!(!told.contains(link.to_str().expect("UTF-8")), "{told}");
    }
}

/// Whoever was killed at it left half of a target directory.
#[test]
fn a_seeding_that_was_killed() {
    let workshop = warmed();
    let lease = workshop.lease("main");
    let slot = lease.path().parent().expect("it is in a slot").to_owned();
    // As if it had been killed: half of it is beside the worktree, and there is no target.
    fs::rename(lease.path().join("target"), slot.join(".seeding")).expect("moved");
    for entry in fs::read_dir(slot.join(".seeding/debug/deps")).expect("seeded").flatten() {
        fs::remove_file(entry.path()).expect("removed");
    }
    workshop.release(lease);
    let lease = workshop.lease("main");
    assert_eq!(lease.path().parent(), Some(&*slot), "another slot: nothing is tested");
    assert!(lease.is_warm() && !slot.join(".seeding").exists());
    assert_eq!(lease.built_anew("build --workspace"), Vec::<String>::new());
    assert_right(&lease);
}

/// Whoever was killed at it left a directory that does not say what it is, and no lock.
#[test]
fn a_base_whose_building_was_killed() {
    let workshop = warmed();
    fs::remove_file(workshop.base(1).join("manifest.json")).expect("removed");
    let lease = workshop.lease("main");
    assert!(lease.reason().contains("nothing was built"), "{}", lease.reason());
    assert_right(&lease);
    assert_eq!(workshop.warm("main").expect("built"), Prepared::Built { trouble: None });
    let bases = fs::read_dir(workshop.pool_dir().join("cache/base")).expect("read");
    assert_eq!(bases.count(), 1, "what was left over is still there");
    let lease = workshop.lease("main");
    assert!(lease.is_warm(), "{}", lease.reason());
    assert_right(&lease);
}

/// Not every name can be written down.
#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_unicode() {
    use std::os::unix::ffi::OsStrExt as _;

    let workshop = workshop();
    let name = std::ffi::OsStr::from_bytes(b"app/src/\xff.txt");
    fs::write(workshop.repo().join(name), "odd").expect("written");
    let main = "fn main() {\n    include!(\"plain.rs\")\n}\n";
    write(&workshop.repo(), "app/src/plain.rs", "println!(\"{} 7\", part::word())\n");
    write(&workshop.repo(), "app/src/main.rs", main);
    commit(&workshop.repo());
    assert_eq!(workshop.warm("main").expect("built"), Prepared::Built { trouble: None });
    let lease = workshop.lease("main");
    assert!(lease.is_warm(), "{}", lease.reason());
    assert_eq!(lease.built_anew("build --workspace"), Vec::<String>::new());
    assert_right(&lease);
}

/// The base outlives the commit it was made from.
#[test]
fn a_base_whose_commit_is_gone() {
    let workshop = workshop();
    let repo = workshop.repo();
    git(&repo).args(["checkout", "--quiet", "-b", "passing"]).ok();
    write(&repo, "app/src/main.rs", &format!("{MAIN}// Passing.\n"));
    let passing = commit(&repo);
    workshop.warm("passing").expect("built");
    git(&repo).args(["checkout", "--quiet", "main"]).ok();
    git(&repo).args(["branch", "--quiet", "-D", "passing"]).ok();
    git(&repo).args(["reflog", "expire", "--expire=now", "--all"]).ok();
    git(&repo).args(["gc", "--quiet", "--prune=now"]).ok();
    assert!(!git(&repo).args(["cat-file", "-e", &passing]).succeeds(), "the commit is still there");
    let lease = workshop.lease("main");
    assert_eq!(lease.built_anew("build --workspace"), ["app"]);
    assert_right(&lease);
}

/// Runs that test again in another process, as `script` says, in which `"$0"` is this program, and
/// `"$@"` its arguments; unless that is not permitted.
#[cfg(target_os = "linux")]
pub(crate) fn again(test: &str, unshare: &[&str], script: &str, dir: &Path) {
    let permitted = Command::new("unshare").args(unshare).arg("true").output();
    if !permitted.is_ok_and(|output| output.status.success()) {
        support::skipped("namespaces are not permitted here");
        return;
    }
    let output = Command::new("unshare")
        .args(unshare)
        .args(["sh", "-c", script])
        .arg(std::env::current_exe().expect("it has a path"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, dir)
        .env("TMPDIR", dir)
        .output()
        .expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

/// Says that the test is the inner one, and in which directory.
#[cfg(target_os = "linux")]
pub(crate) const INSIDE: &str = "WTPOOL_TEST_INSIDE";

/// In a mount namespace of its own, which ends with the process, whatever comes.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_while_seeding() {
    if let Some(disk) = std::env::var_os(INSIDE) {
        return full_disk(Path::new(&disk));
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mount = "mount -t tmpfs -o size=96m none \"$WTPOOL_TEST_INSIDE\" && exec \"$0\" \"$@\"";
    again("damage::a_full_disk_while_seeding", &["-rm"], mount, dir.path());
}

/// Neither as root nor in a user namespace: rustc starts without incremental state, all else is as ever.
#[cfg(target_os = "linux")]
#[test]
fn where_no_namespace_is_permitted() {
    if std::env::var_os(INSIDE).is_some() {
        let refused = Command::new("unshare").args(["-Um", "true"]).output().expect("it runs");
        assert!(!refused.status.success(), "it is permitted: nothing is tested");
        return whole_use();
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let forbid = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -all \
                  --inh-caps -all --no-new-privs \"$0\" \"$@\"";
    again("damage::where_no_namespace_is_permitted", &["-Ur"], forbid, dir.path());
}

/// As most users: without privileges, but user namespaces may be made.
#[cfg(target_os = "linux")]
#[test]
fn where_user_namespaces_are_permitted() {
    if std::env::var_os(INSIDE).is_some() {
        let refused = Command::new("unshare").args(["-m", "true"]).output().expect("it runs");
        assert!(!refused.status.success(), "there is a privilege: nothing is tested");
        return whole_use();
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let as_user = ["-U", "--map-user=1000", "--map-group=1000"];
    let run = "exec \"$0\" \"$@\"";
    again("damage::where_user_namespaces_are_permitted", &as_user, run, dir.path());
}

#[cfg(target_os = "linux")]
fn whole_use() {
    use std::os::unix::fs::MetadataExt as _;

    let workshop = warmed();
    let lease = workshop.lease("main");
    assert!(lease.is_warm(), "{}", lease.reason());
    assert_eq!(lease.built_anew("build --workspace"), Vec::<String>::new());
    assert_right(&lease);
    let own = fs::metadata(workshop.repo()).expect("it exists").uid();
    for path in look(&lease.path().join("target")).keys() {
        let meta = fs::symlink_metadata(path).expect("it is there");
        assert_eq!(meta.uid(), own, "{path:?} is somebody else's");
    }
}

#[cfg(target_os = "linux")]
fn full_disk(disk: &Path) {
    let workshop = warmed();
    assert!(workshop.pool_dir().starts_with(disk.canonicalize().expect("it exists")));
    let filler = disk.join("filler");
    // All but what a worktree takes.
    let free = free_bytes(disk);
    write_zeros(&filler, free.saturating_sub(200_000));
    let lease = workshop.lease("main");
    assert!(!lease.is_warm());
    assert!(
        lease.reason().contains("seed") && lease.reason().contains("os error 28"),
        "{}",
        lease.reason()
    );
    assert!(!lease.path().join("target").exists(), "a part of it is there");
    assert!(!lease.path().parent().expect("a slot").join(".seeding").exists());
    fs::remove_file(&filler).expect("removed");
    assert_right(&lease);
}

#[cfg(target_os = "linux")]
fn free_bytes(dir: &Path) -> u64 {
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(dir).output();
    let text = String::from_utf8(output.expect("df runs").stdout).expect("UTF-8");
    text.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number")
}

#[cfg(target_os = "linux")]
fn write_zeros(path: &Path, mut left: u64) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).expect("made");
    let block = vec![0; 1 << 20];
    while left > 0 {
        let size = left.min(1 << 20);
        file.write_all(&block[..usize::try_from(size).expect("small")]).expect("written");
        left -= size;
    }
}
