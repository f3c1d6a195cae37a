//! Rustc's arguments, as cargo gives them. Pure.

use std::env::consts;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// What matters of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Invocation {
    pub(super) crate_name: String,
    /// Cargo's hash of the unit.
    pub(super) hash: Option<String>,
    /// Whether it is a unit of cargo's, and not something that a build script tries.
    pub(super) is_unit: bool,
    pub(super) out_dir: PathBuf,
    /// Where incremental state is kept, if any is.
    pub(super) incremental: Option<PathBuf>,
    /// Whether a linker makes the output.
    pub(super) links: bool,
    /// How many units to generate code in.
    pub(super) codegen_units: Option<u32>,
    /// Whether that is a program, and none that runs tests.
    pub(super) program: bool,
    /// The target's triple, if it is not the host.
    pub(super) target: Option<String>,
    /// Whether it is a procedural macro.
    pub(super) proc_macro: bool,
    /// Outputs that are told their path: by `-o`, or by `--emit`.
    pub(super) named: Vec<PathBuf>,
}

impl Invocation {
    /// What a compilation of a crate asks for; `None` for questions such as `-vV`, and for what is not
    /// understood.
    pub(super) fn read(arguments: &[OsString]) -> Option<Self> {
        let mut found = Self::default();
        let (mut bin, mut test) = (false, false);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let argument = argument.to_str().unwrap_or_default();
            if argument.starts_with('@') {
                // A file with further arguments.
                return None;
            }
            let (name, value) = match argument.split_once('=') {
                _ if argument == "-C" => ("-C", rest.next()?.to_str()?.to_owned()),
                _ if argument.starts_with("-C") => ("-C", argument[2..].to_owned()),
                Some((name, value)) if name.starts_with("--") => (name, value.to_owned()),
                _ if ["--crate-name", "--out-dir", "--crate-type", "--target", "--emit", "-o"]
                    .contains(&argument) =>
                {
                    (argument, rest.next()?.to_str()?.to_owned())
                }
                _ => (argument, String::new()),
            };
            match name {
                "--crate-name" => found.crate_name = value,
                "--out-dir" => found.out_dir = value.into(),
                "--target" => found.target = Some(value),
                "--test" => test = true,
                "-o" => found.named.push(value.into()),
                "--emit" => {
                    let paths = value.split(',').filter_map(|kind| kind.split_once('='));
                    found.named.extend(paths.map(|(_, path)| PathBuf::from(path)));
                }
                "--crate-type" => {
                    let linked = ["bin", "dylib", "cdylib", "proc-macro"];
                    bin |= value == "bin";
                    found.proc_macro |= value == "proc-macro";
                    found.links |= value.split(',').any(|kind| linked.contains(&kind));
                }
                "-C" => match value.split_once('=') {
                    Some(("extra-filename", hash)) => {
                        found.hash = Some(hash.trim_start_matches('-').to_owned());
                    }
                    Some(("metadata", _)) => found.is_unit = true,
                    Some(("codegen-units", units)) => found.codegen_units = units.parse().ok(),
                    Some(("incremental", dir)) => found.incremental = Some(dir.into()),
                    _ => {}
                },
                _ => {}
            }
        }
        found.links |= test;
        found.program = bin && !test;
        let is_crate = !found.crate_name.is_empty() && found.out_dir.is_absolute();
        is_crate.then_some(found)
    }

    /// Where rustc writes what it read.
    pub(super) fn dep_info(&self) -> Option<PathBuf> {
        self.hash.as_ref()?;
        Some(self.out_dir.join(format!("{}.d", self.stem())))
    }

    /// Whether it makes a program that cargo runs before it compiles a package.
    pub(super) fn is_build_script(&self) -> bool {
        self.program && self.crate_name.starts_with("build_script_")
    }

    fn stem(&self) -> String {
        stem(&self.crate_name, self.hash.as_deref())
    }

    /// Whether rustc, the linker, or a tool that one of them runs writes a file of that name into the output
    /// directory: all names begin with those of the crate and the unit, as `app-0a1b.app.7f-cgu.0.rcgu.o` does.
    pub(super) fn is_output(&self, name: &OsStr) -> bool {
        let Some(name) = name.to_str() else { return false };
        let stem = self.stem();
        [Some(name), name.strip_prefix("lib"), name.strip_prefix(consts::DLL_PREFIX)]
            .into_iter()
            .flatten()
            .filter_map(|name| name.strip_prefix(&*stem))
            .any(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// What it may make, by the names that rustc gives it.
    pub(super) fn outputs(&self) -> impl Iterator<Item = PathBuf> {
        let stem = self.stem();
        [
            stem.clone(),
            format!("{}{stem}{}", consts::DLL_PREFIX, consts::DLL_SUFFIX),
            format!("lib{stem}.rlib"),
            format!("lib{stem}.rmeta"),
            format!("lib{stem}.a"),
        ]
        .into_iter()
        .map(|name| self.out_dir.join(name))
    }
}

/// What the names of a unit's outputs begin with, after `lib` for those of libraries.
pub(super) fn stem(crate_name: &str, hash: Option<&str>) -> String {
    match hash {
        Some(hash) => format!("{crate_name}-{hash}"),
        None => crate_name.to_owned(),
    }
}

/// No incremental state and no debug information, neither in what is compiled nor in what is linked. Programs
/// have no symbols either, a quarter of them; what runs tests keeps those, for its backtraces.
pub(super) fn make_lean(arguments: &mut Vec<OsString>, invocation: &Invocation) {
    without(arguments, &["incremental", "debuginfo", "split-debuginfo"]);
    if invocation.links && !has(arguments, "strip") {
        let strip = if invocation.program { "strip=symbols" } else { "strip=debuginfo" };
        arguments.extend(["-C".into(), strip.into()]);
    }
}

/// What the workspace asked for, where a slot's identity took its place.
pub(super) fn put_back_codegen_units(arguments: &mut Vec<OsString>) {
    let mut unwanted = false;
    for argument in arguments.iter_mut().filter(|argument| sets(argument, "codegen-units")) {
        let text = argument.to_str().unwrap_or_default();
        let Some((before, units)) = text.split_once('=') else { continue };
        match units.parse().ok().and_then(crate::identity::wanted) {
            Some(Some(wanted)) => *argument = format!("{before}={wanted}").into(),
            Some(None) => unwanted = true,
            None => {}
        }
    }
    if unwanted {
        without(arguments, &["codegen-units"]);
    }
}

/// No more debug information than line tables.
pub(super) fn spare_debug_information(arguments: &mut [OsString]) {
    for argument in arguments.iter_mut() {
        let text = argument.to_str().unwrap_or_default();
        let (flag, setting) = match text.strip_prefix("-C") {
            Some(setting) => ("-C", setting),
            None => ("", text),
        };
        if ["debuginfo=2", "debuginfo=1", "debuginfo=full", "debuginfo=limited"].contains(&setting)
        {
            *argument = format!("{flag}debuginfo=line-tables-only").into();
        }
    }
}

/// No debug information in a program, the standard library's included, which is three quarters of a build script:
/// each slot has a copy of its own of all of them.
pub(super) fn strip_debug_information(arguments: &mut Vec<OsString>) {
    if !has(arguments, "strip") {
        arguments.extend(["-C".into(), "strip=debuginfo".into()]);
    }
}

/// Has the linker compress debug sections, where the usual linkers can be told so by way of `cc`.
pub(super) fn compress_debug_sections(arguments: &mut Vec<OsString>, invocation: &Invocation) {
    let known = invocation
        .target
        .as_deref()
        .map_or(cfg!(target_os = "linux"), |triple| triple.contains("linux"));
    let own = has(arguments, "linker") || has(arguments, "linker-flavor");
    if invocation.links && known && !own {
        arguments.extend(["-C".into(), "link-arg=-Wl,--compress-debug-sections=zlib".into()]);
    }
}

/// Whether warnings are kept down, as cargo has it for what is not in one's own hands.
pub(super) fn are_lints_capped(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| {
        argument.to_str().is_some_and(|argument| {
            argument == "--cap-lints" || argument.starts_with("--cap-lints=")
        })
    })
}

/// Has rustc write paths below `root` as relative ones, where it would write them whole: in debug
/// information, from which backtraces and debuggers read them. Before all other options, so that what a
/// repository remaps itself has precedence; but after the compiler, which a wrapper such as clippy's gets
/// as its first argument.
pub(super) fn relative_to(arguments: &mut Vec<OsString>, root: &Path) {
    let mut remap = OsString::from("--remap-path-prefix=");
    remap.push(root);
    remap.push("=.");
    let is_option = |argument: &OsString| argument.as_encoded_bytes().starts_with(b"-");
    let place = arguments.iter().position(is_option).unwrap_or(arguments.len());
    arguments.insert(place, remap);
}

/// Whether a code generation option is set.
fn has(arguments: &[OsString], name: &str) -> bool {
    arguments.iter().any(|argument| sets(argument, name))
}

fn sets(argument: &OsStr, name: &str) -> bool {
    let text = argument.to_str().unwrap_or_default();
    let setting = text.strip_prefix("-C").unwrap_or(text);
    setting.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
}

/// Takes code generation options away.
fn without(arguments: &mut Vec<OsString>, names: &[&str]) {
    let mut kept = Vec::with_capacity(arguments.len() + 2);
    for argument in arguments.drain(..) {
        if names.iter().any(|name| sets(&argument, name)) {
            // Written as two arguments, or as one.
            if kept.last().is_some_and(|last| last == "-C")
                && !argument.to_str().unwrap_or_default().starts_with("-C")
            {
                kept.pop();
            }
            continue;
        }
        kept.push(argument);
    }
    *arguments = kept;
}

/// An argument with the paths below `from` replaced by those below `to`.
pub(super) fn moved(argument: &OsStr, from: &Path, to: &Path) -> OsString {
    // Cargo writes paths in full, and what is not Unicode as it is; then nothing is known of it.
    let (Some(text), Some(from), Some(to)) = (argument.to_str(), from.to_str(), to.to_str()) else {
        return argument.to_owned();
    };
    let mut moved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(from) {
        let (before, after) = (&rest[..at], &rest[at + from.len()..]);
        let begins = before.chars().next_back().is_none_or(|c| c == '=' || c == ':' || c == ',');
        let ends = after.chars().next().is_none_or(|c| ['/', '=', ':', ','].contains(&c));
        moved.push_str(before);
        moved.push_str(if begins && ends { to } else { from });
        rest = after;
    }
    moved.push_str(rest);
    moved.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn text(arguments: &[OsString]) -> String {
        arguments.join(OsStr::new(" ")).into_string().expect("Unicode")
    }

    const BIN: &str = "--crate-name rg --edition=2024 crates/core/main.rs --error-format=json \
        --crate-type bin --emit=dep-info,link -C embed-bitcode=no -C debuginfo=2 \
        -C metadata=5f -C extra-filename=-0a1b --out-dir /w/target/debug/deps \
        -C incremental=/w/target/debug/incremental -L dependency=/w/target/debug/deps \
        --extern grep=/w/target/debug/deps/libgrep-77.rlib";

    proptest::proptest! {
        #[test]
        fn whatever_is_asked_is_understood_or_left_alone(
            words in proptest::collection::vec(
                "(-C|--|@|=|[a-z]{1,3}|codegen-units=|[0-9]{1,11}|debuginfo=2|--crate-name|--out-dir|/)\
                 {0,4}",
                0..9,
            ),
        ) {
            let mut arguments: Vec<OsString> = words.into_iter().map(OsString::from).collect();
            let before = arguments.clone();
            let Some(invocation) = Invocation::read(&arguments) else { return Ok(()) };
            proptest::prop_assert!(invocation.out_dir.is_absolute());
            assert!(invocation.outputs().all(|path| path.starts_with(&invocation.out_dir)));
            put_back_codegen_units(&mut arguments);
            spare_debug_information(&mut arguments);
            compress_debug_sections(&mut arguments, &invocation);
            make_lean(&mut arguments, &invocation);
            relative_to(&mut arguments, Path::new("/somewhere"));
            proptest::prop_assert!(arguments.len() <= before.len() + 5);
        }
    }

    #[test]
    fn a_compilation_is_read() {
        let read = Invocation::read(&arguments(BIN)).expect("a compilation");
        assert_eq!(read.crate_name, "rg");
        assert_eq!(read.hash.as_deref(), Some("0a1b"));
        assert!(read.is_unit);
        assert_eq!(read.out_dir, Path::new("/w/target/debug/deps"));
        assert_eq!(read.incremental.as_deref(), Some(Path::new("/w/target/debug/incremental")));
        assert!(read.links);
        assert_eq!(read.dep_info().as_deref(), Some(Path::new("/w/target/debug/deps/rg-0a1b.d")));
        let lib =
            arguments("--crate-name a --crate-type=lib --out-dir=/w/t -Cextra-filename=-2 x.rs");
        let read = Invocation::read(&lib).expect("a compilation");
        assert_eq!((read.links, read.hash.as_deref()), (false, Some("2")));
        assert!(!read.is_unit);
    }

    #[test]
    fn outputs_of_a_unit_are_told_from_others() {
        let read = Invocation::read(&arguments(BIN)).expect("a compilation");
        for own in
            ["rg-0a1b", "rg-0a1b.d", "librg-0a1b.rlib", "rg-0a1b.rg.7f-cgu.0.rcgu.o", "rg-0a1b.dwp"]
        {
            assert!(read.is_output(OsStr::new(own)), "{own}");
        }
        for other in ["rg-0a1bc", "rg-77", "rg", "xrg-0a1b", "libxrg-0a1b.rlib", "lib.rg-0a1b"] {
            assert!(!read.is_output(OsStr::new(other)), "{other}");
        }
        let line = format!("{BIN} --emit=asm=/w/a.s,link -o /w/b");
        let read = Invocation::read(&arguments(&line)).expect("a compilation");
        assert_eq!(read.named, [Path::new("/w/a.s"), Path::new("/w/b")]);
        let shared = "--crate-name a --crate-type cdylib --emit link --out-dir /w/t a.rs";
        let read = Invocation::read(&arguments(shared)).expect("a compilation");
        assert!(read.is_output(OsStr::new("liba.so")) && !read.is_output(OsStr::new("liba-1.so")));
    }

    #[test]
    fn what_is_no_compilation_is_left_alone() {
        for line in ["-vV", "- --crate-name ___ --print=file-names", "@/tmp/arguments", ""] {
            assert_eq!(Invocation::read(&arguments(line)), None, "{line}");
        }
    }

    fn changed(line: &str, change: impl Fn(&mut Vec<OsString>, &Invocation)) -> String {
        let mut changed = arguments(line);
        let invocation = Invocation::read(&changed).expect("a compilation");
        change(&mut changed, &invocation);
        text(&changed)
    }

    #[test]
    fn lean_drops_the_state_and_debug_information() {
        let lean = changed(BIN, make_lean);
        assert!(!lean.contains("incremental") && !lean.contains("debuginfo=2"), "{lean}");
        assert!(lean.ends_with("-C strip=symbols"), "{lean}");
        for kept in ["--crate-type bin --test", "--crate-type proc-macro"] {
            let lean = changed(&BIN.replace("--crate-type bin", kept), make_lean);
            assert!(lean.ends_with("-C strip=debuginfo"), "{lean}");
        }
        assert_eq!(lean.matches("-C ").count(), BIN.matches("-C ").count() - 1, "{lean}");
        let lib =
            "--crate-name a --crate-type lib --out-dir /w/t -Cdebuginfo=2 -Cincremental=/w/i a.rs";
        assert_eq!(changed(lib, make_lean), "--crate-name a --crate-type lib --out-dir /w/t a.rs");
    }

    #[test]
    fn debug_information_is_spared_and_never_added() {
        let spared = changed(BIN, |arguments, _| spare_debug_information(arguments));
        assert!(spared.contains("-C debuginfo=line-tables-only"), "{spared}");
        let none = "--crate-name a --crate-type bin --out-dir /w/t -C debuginfo=0 a.rs";
        assert_eq!(changed(none, |arguments, _| spare_debug_information(arguments)), none);
    }

    #[test]
    fn build_scripts_are_stripped_unless_the_repository_says_otherwise() {
        let script = BIN.replace("--crate-name rg", "--crate-name build_script_build");
        let is_script = |line: &str| {
            Invocation::read(&arguments(line)).expect("a compilation").is_build_script()
        };
        assert!(is_script(&script) && !is_script(BIN));
        let strip = |line: &str| changed(line, |arguments, _| strip_debug_information(arguments));
        assert!(strip(&script).ends_with("-C strip=debuginfo"));
        let own = format!("{script} -C strip=none");
        assert_eq!(strip(&own), own);
    }

    #[test]
    fn an_identity_does_not_reach_rustc() {
        let with =
            |units: u32| format!("--crate-name a --out-dir /w/t -C codegen-units={units} a.rs");
        let put_back =
            |arguments: &mut Vec<OsString>, _: &Invocation| put_back_codegen_units(arguments);
        assert_eq!(changed(&with(1_003_004), put_back), with(4));
        assert_eq!(changed(&with(1_003_000), put_back), "--crate-name a --out-dir /w/t a.rs");
        assert_eq!(changed(&with(16), put_back), with(16));
    }

    #[test]
    fn strange_linkers_are_told_nothing() {
        let line = "--crate-name a --crate-type bin --out-dir /w/t -C linker=/bin/ld a.rs";
        assert_eq!(changed(line, compress_debug_sections), line);
        let compressed = changed(BIN, compress_debug_sections);
        assert_eq!(compressed.contains("compress-debug"), cfg!(target_os = "linux"));
    }

    #[test]
    fn paths_are_relative_unless_the_repository_says_otherwise() {
        let line = "/usr/bin/rustc --crate-name a --out-dir /w/t --remap-path-prefix=/w=/own a.rs";
        let mut changed = arguments(line);
        relative_to(&mut changed, Path::new("/w"));
        let first = "--remap-path-prefix=/w=. --crate-name";
        assert_eq!(text(&changed), line.replace("--crate-name", first));
    }

    #[test]
    fn paths_move_and_nothing_else_does() {
        let moved = |text: &str| {
            moved(OsStr::new(text), Path::new("/w"), Path::new("/at"))
                .into_string()
                .expect("Unicode")
        };
        assert_eq!(moved("/w/target"), "/at/target");
        assert_eq!(moved("/w"), "/at");
        assert_eq!(moved("dependency=/w/target"), "dependency=/at/target");
        assert_eq!(moved("noprelude:grep=/w/t/libgrep.rlib"), "noprelude:grep=/at/t/libgrep.rlib");
        assert_eq!(moved("/wide/target"), "/wide/target");
        assert_eq!(moved("src/w/main.rs"), "src/w/main.rs");
        assert_eq!(moved("feature=\"/w\""), "feature=\"/w\"");
    }
}
