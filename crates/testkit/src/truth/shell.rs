//! Runs cargo and what it builds, and makes what they show comparable.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::hazard::Act;

/// cargo in `dir`, with nothing of the cargo around it: the test itself runs inside one. The directory of
/// downloaded crates stays, the network is not used.
pub fn cargo(dir: &Path, env: &BTreeMap<String, String>) -> Command {
    clean("cargo", dir, env)
}

fn clean(
    program: impl AsRef<std::ffi::OsStr>,
    dir: &Path,
    env: &BTreeMap<String, String>,
) -> Command {
    const FOREIGN: [&str; 8] =
        ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUST_", "SCCACHE", "CLIPPY", "GIT_"];
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let foreign = FOREIGN.iter().any(|prefix| text.starts_with(prefix)) || text == "MAKEFLAGS";
        if foreign && text != "CARGO_HOME" {
            command.env_remove(&name);
        }
    }
    command
        .current_dir(dir)
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_TERM_COLOR", "never")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("LC_ALL", "C")
        .envs(env)
        .stdin(Stdio::null());
    command
}

/// What an act showed, made independent of where it happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) success: bool,
    pub(crate) shown: String,
    /// What may help to understand it, but is not compared.
    pub(crate) stderr: String,
}

impl View {
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.success == other.success && self.shown == other.shown
    }

    /// Whether it shows some of the lines that the other one shows, in their order, and nothing else.
    pub(crate) fn is_part_of(&self, other: &Self) -> bool {
        let mut others = other.shown.lines();
        self.success == other.success
            && self.shown != other.shown
            && self.shown.lines().all(|line| others.any(|other| other == line))
    }
}

/// A checkout in which things are built.
#[derive(Debug)]
pub(crate) struct Place {
    root: PathBuf,
    env: BTreeMap<String, String>,
    /// What was built, by directory and name.
    built: HashMap<(&'static str, String), PathBuf>,
    /// The `OUT_DIR`s of this place, as cargo said.
    out_dirs: Vec<String>,
}

impl Place {
    pub(crate) fn new(root: PathBuf, env: BTreeMap<String, String>) -> Self {
        Self { root, env, built: HashMap::new(), out_dirs: Vec::new() }
    }

    /// Does it.
    pub(crate) fn act(&mut self, act: &Act) -> View {
        let mut view = match act {
            Act::Cargo { args, dir, env, .. } => self.cargo(args, dir, env),
            Act::Program { name, dir } => {
                let program = self.built.get(&(*dir, (*name).to_owned()));
                let run =
                    |program: &PathBuf| clean(program, &self.root.join(dir), &self.env).output();
                match program.map(run) {
                    Some(Ok(output)) => plain(&output),
                    Some(Err(e)) => {
                        View { stderr: format!("cannot run it: {e}"), ..View::default() }
                    }
                    None => View { stderr: "it was not built".to_owned(), ..View::default() },
                }
            }
            Act::Page { name } => page(&self.built[&("", (*name).to_owned())]),
        };
        view.shown = mask(&view.shown, &self.root, &self.out_dirs);
        view
    }

    fn cargo(&mut self, args: &str, dir: &'static str, env: &[(&str, &str)]) -> View {
        let words: Vec<&str> = args.split_whitespace().collect();
        let as_json = ["build", "check", "clippy", "doc"].contains(&words[0]);
        let mut command = cargo(&self.root.join(dir), &self.env);
        command.args(&words).envs(env.iter().copied());
        if as_json {
            command.arg("--message-format=json");
        }
        let output = command.output().unwrap_or_else(|e| panic!("cannot run cargo: {e}"));
        if !as_json {
            return plain(&output);
        }
        let mut view = View { shown: String::new(), ..plain(&output) };
        let mut said = Vec::new();
        for message in serde_json::Deserializer::from_slice(&output.stdout).into_iter() {
            let message: serde_json::Value =
                message.unwrap_or_else(|e| panic!("cargo {args} printed no JSON: {e}"));
            let name = message["target"]["name"].as_str().unwrap_or_default().to_owned();
            if let Some(text) = message["message"]["rendered"].as_str() {
                said.push(format!("{name}: {text}"));
            }
            if let Some(path) = message["out_dir"].as_str() {
                self.out_dirs.push(path.to_owned());
            }
            if let Some(path) = message["executable"].as_str() {
                self.built.insert((dir, name), path.into());
            } else if let Some(path) =
                message["filenames"][0].as_str().filter(|path| path.ends_with("index.html"))
            {
                view.shown += &page(Path::new(path)).shown;
                self.built.insert((dir, name), path.into());
            }
        }
        said.sort();
        view.shown += &said.concat();
        view
    }
}

fn plain(output: &Output) -> View {
    View {
        success: output.status.success(),
        shown: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A page of documentation.
fn page(path: &Path) -> View {
    match std::fs::read_to_string(path) {
        Ok(shown) => View { success: true, shown, stderr: String::new() },
        Err(e) => View { stderr: format!("cannot read it: {e}"), ..View::default() },
    }
}

/// Replaces what may differ between two right builds: the checkout's own path, its `OUT_DIR`s, hashes in file
/// names, and how long something took. Another checkout's paths stay as they are.
pub(crate) fn mask(text: &str, root: &Path, out_dirs: &[String]) -> String {
    let mut text = text.to_owned();
    for out_dir in out_dirs {
        text = text.replace(out_dir, "<out-dir>");
    }
    let text = text.replace(&*root.to_string_lossy(), "<root>");
    let is_part = |c: char| c.is_alphanumeric() || "/\\._-<>:+".contains(c);
    let (mut masked, mut rest) = (String::new(), text.as_str());
    while !rest.is_empty() {
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        masked += &mask_word(word);
        let mut gap = after.chars();
        masked.extend(gap.next());
        rest = gap.as_str();
    }
    masked
}

fn mask_word(word: &str) -> String {
    // cargo names them only when asked in JSON; what is one's own is right in any case.
    if word.starts_with("<root>") && word.contains("/build/") {
        if let Some((_, within)) = word.split_once("/out/") {
            return format!("<out-dir>/{within}");
        }
        if word.ends_with("/out") {
            return "<out-dir>".to_owned();
        }
    }
    let seconds = word.strip_suffix('s').or_else(|| word.strip_suffix("s."));
    if seconds.is_some_and(|n| n.contains('.') && n.parse::<f64>().is_ok()) {
        return "<time>".to_owned();
    }
    match word.rsplit_once('-') {
        Some((name, hash))
            if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            format!("{name}-<hash>")
        }
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{View, mask};

    #[test]
    fn a_part_has_nothing_of_its_own() {
        let view = |shown: &str| View { success: true, shown: shown.to_owned(), ..View::default() };
        let whole = view("one\ntwo\nthree\n");
        for part in ["", "one\nthree\n", "two\n"] {
            assert!(view(part).is_part_of(&whole), "{part}");
        }
        for other in ["one\ntwo\nthree\n", "two\none\n", "one\none\n", "one\nfour\n"] {
            assert!(!view(other).is_part_of(&whole), "{other}");
        }
        let failed = View { success: false, ..view("one\n") };
        assert!(!failed.is_part_of(&whole));
    }

    #[test]
    fn only_what_may_differ_is_masked() {
        let own = ["/x/build/app-0123456789abcdef/out".to_owned()];
        let mask = |text| mask(text, "/pool/a".as_ref(), &own);
        assert_eq!(mask("at /pool/a/src in 0.12s;"), "at <root>/src in <time>;");
        assert_eq!(mask("/x/build/app-0123456789abcdef/out"), "<out-dir>");
        assert_eq!(mask("\"/pool/a/target/debug/build/p/0/out/gen.rs\""), "\"<out-dir>/gen.rs\"");
        assert_eq!(mask("(deps/app-0123456789abcdef)"), "(deps/app-<hash>)");
        let foreign = "/pool/b/target/debug/build/app-0123456789abcdef/out";
        assert_eq!(mask(foreign), foreign);
        assert_eq!(mask("version 1.0 of notes/out"), "version 1.0 of notes/out");
    }
}
