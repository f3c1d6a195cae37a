//! Which base a slot starts from: one that is whole in fact.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;

use pool_core::CommitId;

use super::{Base, Lock, Manifest, State, all};

/// The base that a slot starts from, if there is one, and why others are of no use.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    pub(crate) base: Option<(Base, Manifest)>,
    /// Keeps the base as it is while the slot is given files of it.
    pub(crate) lock: Option<Arc<Lock>>,
    /// Bases that no slot can start from, newest first, and why.
    pub(crate) passed_over: Vec<String>,
    /// Which of them were found damaged now.
    pub(crate) damaged: Vec<String>,
    /// Whether building one of this commit came to nothing before.
    pub(crate) failed_before: bool,
}

/// Chooses the base that a slot which starts from `commit` best starts from: that of the same
/// commit, else the newest; one whose build failed in part only where there is no other. Each is
/// compared with what its manifest says, and condemned if it differs.
pub(crate) fn choose(cache: &Path, commit: &CommitId) -> Choice {
    let mut choice = Choice::default();
    let mut found = Vec::new();
    for base in all(cache) {
        match open(&base) {
            Ok(whole) => found.push(whole),
            Err(Unusable { why, is_new, failed_at }) => {
                choice.failed_before |= failed_at.as_ref() == Some(commit);
                choice.pass_over(&base, &why, is_new);
            }
        }
    }
    found.sort_by_key(|(_, base, manifest)| rank(base, manifest, commit));
    for (lock, base, manifest) in found {
        match base.damage(&manifest) {
            None => {
                choice.base = Some((base, manifest));
                choice.lock = Some(Arc::new(lock));
                break;
            }
            Some(damage) => {
                base.condemn(&damage);
                choice.pass_over(&base, &format!("is damaged: {damage}"), true);
            }
        }
    }
    choice
}

/// What is known of the base that [`choose`] would choose if all were what their manifests say.
pub(crate) fn preferred(cache: &Path, commit: &CommitId) -> Option<Manifest> {
    let bases = all(cache).into_iter().filter_map(|base| Some((base.load()?, base)));
    let best = bases.min_by_key(|(manifest, base)| rank(base, manifest, commit));
    best.map(|(manifest, _)| manifest)
}

/// The better, the less.
fn rank(base: &Base, manifest: &Manifest, commit: &CommitId) -> (bool, bool, Reverse<u64>) {
    (manifest.trouble.is_some(), manifest.commit != *commit, Reverse(base.number()))
}

impl Choice {
    fn pass_over(&mut self, base: &Base, why: &str, is_new: bool) {
        let told = format!("base {} {why}", base.number());
        if is_new {
            self.damaged.push(told.clone());
        }
        self.passed_over.push(told);
    }
}

/// Why no slot can start from a base.
struct Unusable {
    why: String,
    is_new: bool,
    failed_at: Option<CommitId>,
}

impl Unusable {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_new: false, failed_at: None }
    }
}

/// Takes the lock of a base, and reads what it says of itself.
fn open(base: &Base) -> Result<(Lock, Base, Manifest), Unusable> {
    let lock = match base.lock_shared() {
        Ok(Some(lock)) => lock,
        Ok(None) => return Err(Unusable::new("is being built, or removed")),
        Err(e) => return Err(Unusable::new(format!("can't be locked: {e}"))),
    };
    match base.state() {
        State::Whole => {}
        State::Building | State::Unfinished => {
            return Err(Unusable::new("was not finished"));
        }
        State::Condemned(verdict) => {
            let why = match verdict.failed_at {
                Some(_) => format!("came to nothing: {}", verdict.why),
                None => format!("is damaged: {}", verdict.why),
            };
            return Err(Unusable { failed_at: verdict.failed_at, ..Unusable::new(why) });
        }
    }
    match base.load() {
        Some(manifest) => Ok((lock, base.clone(), manifest)),
        None if base.is_foreign() => Err(Unusable::new("is of another version of this program")),
        None => {
            let damage = "its manifest can't be read";
            base.condemn(damage);
            let why = format!("is damaged: {damage}");
            Err(Unusable { is_new: true, ..Unusable::new(why) })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::life::Building;
    use super::*;

    fn commit(digit: char) -> CommitId {
        CommitId::new(std::iter::repeat_n(digit, 40).collect::<String>()).expect("an id")
    }

    fn whole(cache: &Path, digit: char, trouble: Option<&str>) -> Base {
        let building = Building::reserve(cache).expect("reserved");
        fs::create_dir(building.base.tree()).expect("made");
        let (commit, trouble) = (commit(digit), trouble.map(str::to_owned));
        building.complete(&Manifest { commit, trouble, ..Manifest::empty() }).expect("whole")
    }

    fn chosen(cache: &Path, digit: char) -> Option<u64> {
        choose(cache, &commit(digit)).base.map(|(base, _)| base.number())
    }

    #[test]
    fn whole_base_is_chosen_before_a_newer_broken_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        whole(dir.path(), 'a', None);
        let newest = whole(dir.path(), 'b', None);
        assert_eq!((chosen(dir.path(), 'a'), chosen(dir.path(), 'c')), (Some(1), Some(2)));
        fs::remove_dir(newest.tree()).expect("removed");
        let choice = choose(dir.path(), &commit('b'));
        assert_eq!(choice.base.map(|(base, _)| base.number()), Some(1));
        assert!(choice.damaged[0].contains("base 2 is damaged"), "{:?}", choice.damaged);
        assert!(matches!(newest.state(), State::Condemned(_)));
        let choice = choose(dir.path(), &commit('b'));
        assert!(choice.damaged.is_empty(), "it was told before");
        assert_eq!(choice.passed_over.len(), 1);
    }

    #[test]
    fn base_that_failed_in_part_is_chosen_only_for_want_of_another() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        whole(dir.path(), 'b', Some("it failed"));
        assert_eq!(chosen(dir.path(), 'a'), Some(1));
        whole(dir.path(), 'a', None);
        whole(dir.path(), 'b', Some("it failed"));
        assert_eq!(chosen(dir.path(), 'b'), Some(2));
    }

    #[test]
    fn chosen_base_is_locked() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let base = whole(dir.path(), 'a', None);
        let choice = choose(dir.path(), &commit('a'));
        super::super::tidy(dir.path(), 0, &Vec::new);
        assert_eq!(base.state(), State::Whole);
        drop(choice);
        super::super::tidy(dir.path(), 0, &Vec::new);
        assert!(!base.dir.exists());
    }

    #[test]
    fn base_of_another_version_is_passed_over_and_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let base = whole(dir.path(), 'a', None);
        let text = fs::read_to_string(base.manifest()).expect("read");
        let format = format!("\"format\":{}", super::super::FORMAT);
        fs::write(base.manifest(), text.replacen(&format, "\"format\":999", 1)).expect("written");
        let choice = choose(dir.path(), &commit('a'));
        assert!(choice.base.is_none() && choice.passed_over[0].contains("another version"));
        assert_eq!(base.state(), State::Whole);
    }
}
