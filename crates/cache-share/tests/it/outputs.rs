//! What is given of outputs: what something may write into is a slot's own, whole, and all of it.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::support::{Lease, Workshop, assert_same, commit, look};

fn manifest(name: &str, rest: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{rest}")
}

/// A library with a test, that says a word.
fn says(word: &str) -> String {
    format!(
        "pub fn word() -> &'static str {{\n    \"{word}\"\n}}\n\n\
         #[test]\nfn it_says() {{\n    println!(\"it says {word}\");\n}}\n"
    )
}

/// A macro that says a word, as a number of letters.
fn makes(word: &str) -> String {
    format!(
        "use proc_macro::TokenStream;\n\n#[proc_macro]\npub fn made(_: TokenStream) -> TokenStream {{\n    \
         \"\\\"{word}\\\"\".parse().unwrap()\n}}\n"
    )
}

/// A program `app` of the member `part` and of the macro `shape`, which is no member, so that it has no final name.
fn files() -> Vec<(&'static str, String)> {
    let shape = manifest("shape", "[lib]\nproc-macro = true\n[workspace]\n");
    let app = "[dependencies]\npart = { path = \"../part\" }\nshape = { path = \"../shape\" }\n";
    let main = "fn main() {\n    println!(\"{} {}\", part::word(), shape::made!());\n}\n";
    vec![
        (
            "Cargo.toml",
            "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"part\"]\nexclude = [\"shape\"]\n"
                .to_owned(),
        ),
        ("app/Cargo.toml", manifest("app", app)),
        ("app/src/main.rs", main.to_owned()),
        ("part/Cargo.toml", manifest("part", "")),
        ("part/src/lib.rs", says("base")),
        ("shape/Cargo.toml", shape),
        ("shape/src/lib.rs", makes("macro")),
    ]
}

fn workshop(more: &[(&'static str, &str)]) -> Workshop {
    let mut all = files();
    all.extend(more.iter().map(|(path, text)| (*path, (*text).to_owned())));
    let all: Vec<(&str, &str)> = all.iter().map(|(path, text)| (*path, &**text)).collect();
    let workshop = Workshop::with(&all, |setup| {
        let build = "cargo build --workspace && cargo test --workspace --no-run";
        setup.warm_command = Some(build.to_owned());
    });
    let script = workshop.repo().join("tools/in-place.sh");
    if script.exists() {
        fs::set_permissions(script, fs::Permissions::from_mode(0o755)).expect("one's own");
        commit(&workshop.repo());
    }
    workshop
}

/// Two leases of a base. The first one edits the library, its test, and the macro, and builds all. Nothing
/// else changes by that.
fn assert_apart(workshop: &Workshop) {
    workshop.warm("main").expect("it can be built");
    let (base, one, other) = (workshop.base(1), workshop.lease("main"), workshop.lease("main"));
    assert!(one.is_warm() && other.is_warm(), "{}", one.reason());
    let (of_base, of_other) = (look(&base), look(&other.path()));
    assert_eq!(one.shows("run --quiet"), "base macro");
    one.write("part/src/lib.rs", &says("edited"));
    one.write("shape/src/lib.rs", &makes("shaped"));
    assert_eq!(one.shows("run --quiet"), "edited shaped");
    one.shows("test --workspace --no-run");
    assert_same(&of_base, &look(&base));
    assert_same(&of_other, &look(&other.path()));
    assert!(other.shows("test --quiet --package part -- --nocapture").contains("it says base"));
    assert_eq!(other.shows("run --quiet"), "base macro");
    let anew = other.built_anew("test --workspace --no-run");
    assert_eq!(anew, Vec::<String>::new(), "{}", other.reason());
}

/// As mold does: into the file that is there.
const IN_PLACE: &str = "#!/bin/sh\nout=\nlast=\nleft=$#\nwhile [ $left -gt 0 ]; do\n    \
    word=$1\n    shift\n    if [ \"$last\" = -o ]; then\n        out=$word\n        word=$out.linked\n    fi\n    \
    last=$word\n    set -- \"$@\" \"$word\"\n    left=$((left - 1))\ndone\n\
    cc \"$@\" || exit\ncat \"$out.linked\" > \"$out\"\nchmod +x \"$out\"\nrm \"$out.linked\"\n";

#[test]
fn linker_that_writes_in_place_reaches_its_own_slot_only() {
    let config = "[build]\nrustflags = [\"-Clinker=tools/in-place.sh\"]\n";
    assert_apart(&workshop(&[(".cargo/config.toml", config), ("tools/in-place.sh", IN_PLACE)]));
}

#[test]
fn assembler_code_of_one_slot_is_not_anothers() {
    assert_apart(&workshop(&[(".cargo/config.toml", "[build]\nrustflags = [\"--emit=asm\"]\n")]));
}

#[test]
fn intermediate_representation_of_one_slot_is_not_anothers() {
    let flags = "[build]\nrustflags = [\"--emit=llvm-ir,mir,obj\"]\n";
    assert_apart(&workshop(&[(".cargo/config.toml", flags)]));
}

#[test]
fn packed_debug_information_of_one_slot_is_not_anothers() {
    let packed = "[profile.dev]\nsplit-debuginfo = \"packed\"\n";
    let mut all = files();
    all[0].1 += packed;
    let manifest = all[0].1.clone();
    assert_apart(&workshop(&[("Cargo.toml", &manifest)]));
}

/// Bitcode for link-time optimization is a part of incremental state that rustc writes in place.
#[test]
fn incremental_optimized_code_of_one_slot_is_not_anothers() {
    let profile = "[profile.dev]\nopt-level = 1\ncodegen-units = 4\nincremental = true\n";
    let mut all = files();
    all[0].1 += profile;
    let manifest = all[0].1.clone();
    assert_apart(&workshop(&[("Cargo.toml", &manifest)]));
}

/// What `strip`, `patchelf`, `chmod`, `touch` and `truncate` do.
#[test]
fn tools_reach_outputs_of_their_own_slot_only() {
    let workshop = workshop(&[("part/build.rs", "fn main() {}\n")]);
    workshop.warm("main").expect("it can be built");
    let (base, one, other) = (workshop.base(1), workshop.lease("main"), workshop.lease("main"));
    let (of_base, of_other) = (look(&base), look(&other.path()));
    let is_library = |path: &Path| {
        path.extension().is_some_and(|e| ["rlib", "rmeta", "so"].contains(&&*e.to_string_lossy()))
    };
    let target = one.path().join("target/debug");
    let mut touched = 0;
    for path in look(&target).into_keys().filter(|path| path.is_file() && !is_library(path)) {
        let mut file = fs::File::options().append(true).open(&path).expect("one's own");
        file.write_all(b"more").and_then(|()| file.set_len(2)).expect("written");
        file.set_modified(std::time::SystemTime::now()).expect("touched");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("one's own");
        touched += 1;
    }
    assert!(touched > 10, "{touched} outputs are no libraries");
    assert_same(&of_base, &look(&base));
    assert_same(&of_other, &look(&other.path()));
    assert_eq!(other.shows("run --quiet"), "base macro");
}

/// What is given is one file of as many names as it has where it was built.
#[test]
fn copy_of_a_program_has_its_final_name_too() {
    let workshop = workshop(&[]);
    workshop.warm("main").expect("it can be built");
    let lease = workshop.lease("main");
    let program = fs::metadata(lease.path().join("target/debug/app")).expect("it is given");
    assert_eq!(program.nlink(), 2);
    let libraries = look(&lease.path().join("target/debug/deps"));
    let of_macro = libraries.keys().find(|path| path.extension() == Some(OsStr::new("so")));
    let of_macro = fs::metadata(of_macro.expect("it is given")).expect("read");
    let base = fs::metadata(workshop.base(1)).expect("there is one");
    assert_eq!(of_macro.dev(), base.dev());
}

/// A mode that a tool changed by way of a slot is noticed by the next one.
#[test]
fn mode_of_a_library_that_was_changed_is_damage() {
    let workshop = workshop(&[]);
    workshop.warm("main").expect("it can be built");
    let deps = workshop.base(1).join("tree/target/debug/deps");
    let library = look(&deps).into_keys().find(|path| path.extension() == Some(OsStr::new("rlib")));
    let library = library.expect("there is a library");
    fs::set_permissions(&library, fs::Permissions::from_mode(0o600)).expect("one's own");
    let lease = workshop.lease("main");
    assert!(lease.reason().contains("is damaged"), "{}", lease.reason());
    assert_eq!(lease.shows("run --quiet"), "base macro");
}

/// A workspace of `app`, whose build script has that body, and of `other`, which has nothing to do with it.
fn scripted(body: &str, main: &str) -> Workshop {
    let build = format!(
        "#![allow(unused)]\nuse std::{{env, fs, os::unix::fs as unix, path::*, process::Command}};\n\n\
         fn main() {{\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
         let out = PathBuf::from(env::var(\"OUT_DIR\").unwrap());\n    \
         let profile = out.ancestors().nth(3).unwrap().to_owned();\n    {body}\n}}\n"
    );
    let main = format!("use std::{{env, fs}};\n\nfn main() {{\n    {main}\n}}\n");
    Workshop::new(&[
        ("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"other\"]\n"),
        ("app/Cargo.toml", &manifest("app", "")),
        ("app/src/main.rs", &main),
        ("app/build.rs", &build),
        ("other/Cargo.toml", &manifest("other", "")),
        ("other/build.rs", "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n}\n"),
        ("other/src/lib.rs", ""),
    ])
}

/// The `OUT_DIR` of `app` in a lease.
fn out_dir(lease: &Lease) -> PathBuf {
    let build = lease.path().join("target/debug/build");
    let mut units = fs::read_dir(build).expect("it is given").flatten().map(|entry| entry.path());
    let found = units.find(|unit| unit.join("output").exists() && is_of(unit, "app"));
    found.expect("the script's run is given").join("out")
}

fn is_of(unit: &Path, package: &str) -> bool {
    let name = unit.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('-').is_some_and(|(of, _)| of == package)
}

fn runs_given(lease: &Lease) -> Vec<&'static str> {
    let build = lease.path().join("target/debug/build");
    let units: Vec<PathBuf> =
        fs::read_dir(build).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let given = |package: &&str| {
        units.iter().any(|unit| is_of(unit, package) && unit.join("output").exists())
    };
    ["app", "other"].into_iter().filter(given).collect()
}

const AT_RUN_TIME: &str = "let out = env::var(\"OUT\").unwrap();\n    \
    println!(\"{}\", fs::read_to_string(format!(\"{out}/lib/libfoo.so\")).unwrap().trim());";

#[test]
fn links_empty_directories_and_modes_of_an_out_dir_are_given() {
    let workshop = scripted(
        "fs::create_dir_all(out.join(\"lib/real\")).unwrap();\n    \
         fs::create_dir_all(out.join(\"empty/within\")).unwrap();\n    \
         fs::write(out.join(\"lib/real/libfoo.so.1\"), \"foo\").unwrap();\n    \
         unix::symlink(\"real/libfoo.so.1\", out.join(\"lib/libfoo.so\")).unwrap();\n    \
         unix::symlink(\"../lib\", out.join(\"empty/link\")).unwrap();\n    \
         fs::hard_link(out.join(\"lib/real/libfoo.so.1\"), out.join(\"twin\")).unwrap();\n    \
         let mode = <fs::Permissions as unix::PermissionsExt>::from_mode;\n    \
         fs::set_permissions(out.join(\"lib/real/libfoo.so.1\"), mode(0o540)).unwrap();\n    \
         fs::set_permissions(out.join(\"empty/within\"), mode(0o500)).unwrap();",
        AT_RUN_TIME,
    );
    workshop.warm("main").expect("it can be built");
    let lease = workshop.lease("main");
    assert_eq!(runs_given(&lease), ["app", "other"], "{}", lease.reason());
    assert_eq!(lease.built_anew("build --workspace"), Vec::<String>::new());
    let out = out_dir(&lease);
    let link = |path: &str| fs::read_link(out.join(path)).expect("a link");
    assert_eq!(link("lib/libfoo.so"), Path::new("real/libfoo.so.1"));
    assert_eq!(link("empty/link"), Path::new("../lib"));
    let meta = |path: &str| fs::symlink_metadata(out.join(path)).expect("it is there");
    assert!(meta("empty/within").is_dir());
    assert_eq!(meta("empty/within").mode() & 0o777, 0o500);
    assert_eq!(meta("twin").mode() & 0o777, 0o540);
    assert_eq!((meta("twin").nlink(), meta("twin").ino()), (2, meta("lib/real/libfoo.so.1").ino()));
    // So that the directory can be removed by anybody.
    fs::set_permissions(out.join("empty/within"), fs::Permissions::from_mode(0o700)).expect("own");
    let of_base = workshop.base(1).join("tree/target/debug/build");
    for path in look(&of_base).into_keys().filter(|path| path.ends_with("empty/within")) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("one's own");
    }
}

/// Where a link leads out of the unit's directory, or there is something else than files, the script runs.
#[test]
fn out_dir_that_cannot_be_given_is_made_again() {
    for body in [
        "unix::symlink(env::current_dir().unwrap(), out.join(\"link\")).unwrap();",
        "unix::symlink(out.join(\"x\"), out.join(\"link\")).unwrap();",
        "unix::symlink(\"../../..\", out.join(\"link\")).unwrap();",
        "std::os::unix::net::UnixListener::bind(out.join(\"s\")).unwrap();",
        "use unix::OsStrExt;\n    \
         fs::write(out.join(std::ffi::OsStr::from_bytes(b\"\\xff\")), \"\").unwrap();",
    ] {
        let (body, main) = (body.replace("unix::OsStrExt", "std::os::unix::ffi::OsStrExt"), "");
        let body =
            format!("fs::remove_dir_all(&out);\n    fs::create_dir(&out).unwrap();\n    {body}");
        let workshop = scripted(&body, main);
        workshop.warm("main").expect("it can be built");
        let lease = workshop.lease("main");
        assert_eq!(runs_given(&lease), ["other"], "{body}");
        lease.shows("build --workspace");
        let kind = |entry: fs::DirEntry| entry.file_type().expect("known");
        let made = fs::read_dir(out_dir(&lease)).expect("made again").flatten().map(kind);
        let kinds: Vec<_> = made.collect();
        assert!(kinds.iter().any(|kind| kind.is_symlink() || kind.is_socket() || kind.is_file()));
    }
}

/// Beside the program, in another unit's directory, among the outputs, among the sources, anywhere.
#[test]
fn what_a_script_writes_elsewhere_is_there_in_a_lease() {
    let write = |place: &str| format!("fs::write({place}, \"word\").unwrap();");
    let places = [
        ("debug/word.txt", write("profile.join(\"word.txt\")")),
        ("debug/deps/word.txt", write("profile.join(\"deps/word.txt\")")),
        ("debug/deps/libword-0123456789abcdef.so", write("profile.join(\"deps/libword-0123456789abcdef.so\")")),
        ("debug/examples/word", write("profile.join(\"examples/word\")")),
        ("debug/build/word/word.txt", {
            let make = "fs::create_dir_all(profile.join(\"build/word\")).unwrap();\n    ";
            format!("{make}{}", write("profile.join(\"build/word/word.txt\")"))
        }),
        ("tmp/word.txt", {
            let make = "fs::create_dir_all(profile.join(\"../tmp\")).unwrap();\n    ";
            format!("{make}{}", write("profile.join(\"../tmp/word.txt\")"))
        }),
        ("debug/empty", "fs::create_dir_all(profile.join(\"empty\")).unwrap();".to_owned()),
        ("debug/link", "let _ = fs::remove_file(profile.join(\"link\"));\n    unix::symlink(\"app\", profile.join(\"link\")).unwrap();".to_owned()),
        // With a time that says nothing.
        ("debug/old.txt", {
            let old = "fs::File::open(profile.join(\"old.txt\")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();";
            format!("{}\n    {old}", write("profile.join(\"old.txt\")"))
        }),
    ];
    for (place, body) in places {
        // Long enough after all else that only this script was at work.
        let wait = "std::thread::sleep(std::time::Duration::from_millis(1500));";
        let workshop = scripted(&format!("{wait}\n    {body}"), "");
        workshop.warm("main").expect("it can be built");
        let lease = workshop.lease("main");
        assert_eq!(runs_given(&lease), ["other"], "{place}: {}", lease.reason());
        lease.shows("build --workspace");
        let there = fs::symlink_metadata(lease.path().join("target").join(place));
        assert!(there.is_ok(), "{place} is missing in the lease");
    }
}

/// A build script that has cargo build a program, and puts that nowhere else.
#[test]
fn what_a_script_has_cargo_build_elsewhere_is_there_in_a_lease() {
    for (dir, target) in [("../tools", "tools/target"), ("../tools", "target/nested")] {
        let run = format!(
            "let cargo = env::var(\"CARGO\").unwrap();\n    \
             let root = env::current_dir().unwrap().join(\"..\");\n    \
             let done = Command::new(cargo).args([\"build\", \"--target-dir\"])\
             .arg(root.join(\"{target}\")).current_dir(\"{dir}\").status().unwrap();\n    \
             assert!(done.success());"
        );
        let workshop = scripted(&run, "");
        for (path, text) in [
            ("tools/Cargo.toml", manifest("tools", "[workspace]\n")),
            (
                "tools/Cargo.lock",
                "version = 4\n\n[[package]]\nname = \"tools\"\nversion = \"0.1.0\"\n".to_owned(),
            ),
            ("tools/src/main.rs", "fn main() {\n    println!(\"tool\");\n}\n".to_owned()),
        ] {
            crate::support::write(&workshop.repo(), path, &text);
        }
        commit(&workshop.repo());
        workshop.warm("main").expect("it can be built");
        let lease = workshop.lease("main");
        assert_eq!(runs_given(&lease), ["other"], "{target}: {}", lease.reason());
        lease.shows("build --workspace");
        let tool = lease.path().join(target).join("debug/tools");
        assert!(tool.is_file(), "{} is missing in the lease", tool.display());
    }
}
