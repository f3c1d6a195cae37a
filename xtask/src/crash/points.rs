//! The steps at which the program can be killed, and the places at which it can be stopped: as its sources name them,
//! and as it reached them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::Result;
use crate::steps::workspace;

/// Names a step after which a crash leaves something else.
const STEP: &str = "fail_point!(\"";

/// Names a place between two looks, where nothing was changed.
const PLACE: &str = "pause_point!(\"";

/// The names of all steps in the sources of the crates, in order.
pub(super) fn all() -> Result<BTreeSet<String>> {
    named_by(STEP)
}

/// The names of all places between two looks.
pub(super) fn between_looks() -> Result<BTreeSet<String>> {
    named_by(PLACE)
}

fn named_by(call: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in workspace().join("crates").read_dir()? {
        let source = entry?.path().join("src");
        if source.is_dir() {
            collect(&source, call, &mut found)?;
        }
    }
    Ok(found)
}

fn collect(dir: &Path, call: &str, found: &mut BTreeSet<String>) -> Result {
    for entry in dir.read_dir()? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, call, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for name in named_in(&std::fs::read_to_string(&path)?, call) {
                if !found.insert(name.to_owned()) {
                    return Err(format!("{name} is the name of two steps").into());
                }
            }
        }
    }
    Ok(())
}

fn named_in<'a>(source: &'a str, call: &'a str) -> impl Iterator<Item = &'a str> {
    let calls = source.split(call).skip(1);
    calls.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name)
}

/// What a run's processes wrote down: how often one of them reached each step, and where any was killed.
#[derive(Debug, Default)]
pub(super) struct Reached {
    pub(super) hits: BTreeMap<String, u32>,
    pub(super) killed: u32,
}

impl Reached {
    /// Reads it; nothing, where nothing was reached.
    pub(super) fn read(log: &Path) -> Self {
        Self::of(&std::fs::read_to_string(log).unwrap_or_default())
    }

    fn of(text: &str) -> Self {
        let mut reached = Self::default();
        let mut by_process: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.splitn(3, ' ');
            let (Some(process), Some(what), Some(step)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            reached.killed += u32::from(what == "killed");
            let hits = by_process.entry((process, step)).or_default();
            *hits += 1;
            let most = reached.hits.entry(step.to_owned()).or_default();
            *most = (*most).max(*hits);
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_a_name_of_its_own_after_its_place() {
        let all = all().expect("the sources can be read");
        assert!(all.len() > 100, "only {}", all.len());
        let between = between_looks().expect("the sources can be read");
        assert!(between.len() > 5 && between.is_disjoint(&all), "{between:?}");
        for name in all.union(&between) {
            let parts: Vec<&str> = name.split("::").collect();
            let [krate, place, step] = parts[..] else { panic!("{name} has not three parts") };
            assert!(workspace().join("crates").join(krate).is_dir(), "{name} is in no crate");
            for part in [place, step] {
                let plain = |c: char| c.is_ascii_lowercase() || c == '-';
                assert!(!part.is_empty() && part.chars().all(plain), "{name}");
            }
        }
    }

    #[test]
    fn names_are_read_from_calls() {
        let source = r#"a(); pool_core::fail_point!("a::b::c"); crate::pause_point!("a::b::d");"#;
        assert_eq!(named_in(source, STEP).collect::<Vec<_>>(), ["a::b::c"]);
        assert_eq!(named_in(source, PLACE).collect::<Vec<_>>(), ["a::b::d"]);
    }

    #[test]
    fn hits_count_for_each_process() {
        let log = "7 reached a\n7 reached a\n8 reached a\n8 killed b\n";
        let reached = Reached::of(log);
        assert_eq!(reached.hits.get("a"), Some(&2));
        assert_eq!(reached.hits.get("b"), Some(&1));
        assert_eq!(reached.killed, 1);
    }
}
