//! What cargo wrote down of what it has built: where that lies in a worktree, how it is read, and how cargo is
//! kept from believing it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pool_core::Result;
use serde::Deserialize;

use crate::base;
use crate::files;

/// What the name of the fingerprint of a build script's run begins with.
pub(crate) const RUN: &str = "run-build-script-";

/// What cargo wrote down of one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// The value by which units that depend on it name it.
    pub(crate) value: Option<u64>,
    /// The values of the units it depends on.
    pub(crate) dependencies: Vec<u64>,
    /// What it was made from, in full or relative to something; `None` where that is not known.
    pub(crate) inputs: Option<Vec<PathBuf>>,
}

/// Where cargo keeps fingerprints, in the directory of each profile.
pub(crate) const FINGERPRINTS: &str = ".fingerprint";

/// The directories below that one in which cargo builds: `target/debug`, say, or with a target's triple, for another
/// workspace, or for a tool that has its own.
pub(crate) fn profiles(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut entries = walkdir::WalkDir::new(dir).follow_root_links(false).into_iter();
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            // What can't be entered is not built into either.
            Err(e) if files::is_out_of_reach(&e) => continue,
            Err(e) => return Err(e.into()),
        };
        if !entry.file_type().is_dir() {
            continue;
        }
        let name = entry.file_name();
        let is_output = |parent: &Path| {
            OUTPUTS.iter().any(|output| name == *output) && found.iter().any(|dir| dir == parent)
        };
        if name == ".git" || name == "node_modules" || entry.path().parent().is_some_and(is_output)
        {
            entries.skip_current_dir();
        } else if entry.path().join(FINGERPRINTS).is_dir() {
            found.push(entry.into_path());
        }
    }
    Ok(found)
}

/// What cargo has in the directory of a profile.
pub(crate) const OUTPUTS: [&str; 5] = [FINGERPRINTS, "deps", "build", "examples", "incremental"];

/// The names of the directories in a directory; none if there is no such directory.
pub(crate) fn subdirectories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.file_name().into());
        }
    }
    Ok(found)
}

/// What rustc wrote of what it read, by the hash of the unit.
pub(crate) fn dep_infos(profile: &Path) -> io::Result<HashMap<String, PathBuf>> {
    let mut dirs = vec![profile.join("deps"), profile.join("examples")];
    let build = profile.join("build");
    dirs.extend(subdirectories(&build)?.into_iter().map(|dir| build.join(dir)));
    let mut found = HashMap::new();
    for entry in dirs.iter().flat_map(fs::read_dir).flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "d")
            && let Some(hash) = path.file_name().and_then(|name| base::hash_in(name.as_ref()))
        {
            found.insert(hash, path);
        }
    }
    Ok(found)
}

/// The part of what cargo writes beside a fingerprint, for people, that matters here (`Fingerprint` in its
/// `core::compiler::fingerprint`).
#[derive(Deserialize)]
struct Written {
    deps: Vec<(u64, String, bool, u64)>,
    local: Vec<LocalPart>,
}

#[derive(Deserialize)]
enum LocalPart {
    Precalculated(String),
    CheckDepInfo {},
    RerunIfChanged { paths: Vec<PathBuf> },
    RerunIfEnvChanged {},
}

/// What is known of the unit whose fingerprint is in `dir`, and of which rustc wrote that it was made from
/// `compiled`; `None` if that is not enough.
pub(crate) fn read(dir: &Path, compiled: Option<Vec<PathBuf>>) -> Option<Fingerprint> {
    let [json] = &descriptions(dir)[..] else { return None };
    let written: Written = serde_json::from_slice(&fs::read(json).ok()?).ok()?;
    let mut inputs = Vec::new();
    for part in written.local {
        match part {
            // A version, which never changes, or the time of the newest file.
            LocalPart::Precalculated(text) if text.contains("s (") => return None,
            LocalPart::Precalculated(_) | LocalPart::RerunIfEnvChanged {} => {}
            LocalPart::CheckDepInfo {} => inputs.extend(compiled.clone()?),
            LocalPart::RerunIfChanged { paths } => inputs.extend(paths),
        }
    }
    Some(Fingerprint {
        value: value(&json.with_extension("")),
        dependencies: written.deps.into_iter().map(|(_, _, _, value)| value).collect(),
        inputs: Some(inputs),
    })
}

pub(crate) fn descriptions(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect()
}

/// The values of the fingerprints in a directory.
pub(crate) fn values(dir: &Path) -> Vec<u64> {
    descriptions(dir).iter().filter_map(|json| value(&json.with_extension(""))).collect()
}

/// The value of a fingerprint: cargo writes its bytes, least first, in hexadecimal digits.
fn value(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let bytes = (text.len() == 16).then(|| u64::from_str_radix(&text, 16).ok())?;
    bytes.map(u64::swap_bytes)
}

pub(crate) fn disbelieve(dir: &Path) -> Result<()> {
    descriptions(dir).iter().try_for_each(|json| disbelieve_one(&json.with_extension("")))
}

/// Removes a fingerprint, if it is there: the unit is built anew. What a build script left is removed with that of
/// its run, or it might find it and leave it as it is.
///
/// # Errors
///
/// When something can't be removed.
pub(crate) fn disbelieve_one(fingerprint: &Path) -> Result<()> {
    let name = fingerprint.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with(RUN)
        && let Some(unit) = fingerprint.parent()
        && let (Some(name), Some(profile)) = (unit.file_name(), unit.ancestors().nth(2))
    {
        files::discard_tree(&profile.join("build").join(name).join("out"))?;
    }
    files::discard(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_cargo_writes_them() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).expect("written");
        };
        write("lib-a", "49a6e71761674e87");
        write("dep-lib-a", "");
        let json = |local: &str| {
            write(
                "lib-a.json",
                &format!(
                    "{{\"rustc\":7,\"deps\":[[1680466948137670546,\"core_detect\",false,\
                     802111572846038113]],\"local\":[{local}],\"rustflags\":[]}}"
                ),
            );
        };
        json("{\"CheckDepInfo\":{\"dep_info\":\"debug/x\",\"checksum\":false}}");
        assert_eq!(read(dir.path(), None), None, "it is not known what it was made from");
        let inputs = vec![PathBuf::from("src/lib.rs")];
        let found = read(dir.path(), Some(inputs.clone())).expect("it is understood");
        assert_eq!(found.value, Some(0x874e_6761_17e7_a649));
        assert_eq!(found.dependencies, [802_111_572_846_038_113]);
        assert_eq!(found.inputs, Some(inputs));
        json("{\"RerunIfChanged\":{\"output\":\"x\",\"paths\":[\"build.rs\"]}}");
        let found = read(dir.path(), None).expect("it is understood");
        assert_eq!(found.inputs, Some(vec!["build.rs".into()]));
        json("{\"Precalculated\":\"1.0.0\"}");
        assert_eq!(read(dir.path(), None).expect("it is understood").inputs, Some(Vec::new()));
        for unknown in ["{\"Precalculated\":\"347155200.0s (GUIDE.md)\"}", "{\"Later\":{}}"] {
            json(unknown);
            assert_eq!(read(dir.path(), None), None, "{unknown}");
        }
    }
}
