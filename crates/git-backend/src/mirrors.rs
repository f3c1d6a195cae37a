//! Remotes whose refspecs cover what the pool keeps in the repository: a fetch from such a remote with `--prune`
//! deletes the rescues and the branches of leases, and a push to it publishes the rescues.
//!
//! gix decides what a refspec covers. `tests/it/mirrors.rs` compares that with what git does.

use std::collections::BTreeSet;

use gix::bstr::{BStr, BString, ByteSlice};
use gix::refspec::instruction::Push;
use gix::refspec::match_group::{Item, SourceRef};
use gix::refspec::parse::Operation;
use gix::refspec::{Instruction, MatchGroup, RefSpecRef};
use pool_core::Result;

use crate::shell::shell_word;
use crate::site::{Site, open_repository};

/// What all rescues have in front of their names.
const RESCUES: &str = "refs/wtpool/rescue/";
/// The last parts of names that a pattern may cover. Two, in case a refspec excludes one by chance.
const SAMPLES: [&str; 2] = ["0-sample", "z-sample"];

/// A remote with which git does to the pool's references what their user may not expect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exposure {
    /// The name of the remote.
    pub remote: String,
    /// What does it.
    pub by: ExposedBy,
    /// Whether rescues are covered.
    pub rescues: bool,
    /// The generated branches that are covered, as a pattern such as `wtpool/*`.
    pub branches: Option<String>,
    /// The commands, to be run in the repository, that exclude all of these from the remote's refspecs.
    /// Empty if no exclusion can do so: then the refspec itself must be changed.
    pub commands: Vec<String>,
}

/// What git does with the references that a remote's refspecs cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExposedBy {
    /// `git fetch --prune` deletes them, since the remote does not have them.
    PruningFetch,
    /// Each `git fetch` deletes them: `fetch.prune` or `remote.<name>.prune` is set.
    EachFetch,
    /// `git push` publishes them.
    Push,
}

/// What the configuration says of one remote.
#[derive(Debug, Default)]
struct Remote {
    name: String,
    fetch: Vec<BString>,
    push: Vec<BString>,
    is_mirror: bool,
    prunes: bool,
}

/// All exposures by the remotes that the repository's configuration has now.
pub(crate) fn exposures(site: &Site) -> Result<Vec<Exposure>> {
    let repo = open_repository(&site.common_dir, &site.settings)?;
    let snapshot = repo.config_snapshot();
    let config = snapshot.plumbing();
    let mut found = Vec::new();
    for name in repo.remote_names() {
        let name: &BStr = name.as_ref();
        let strings = |key| config.strings_by("remote", Some(name), key).unwrap_or_default();
        let boolean = |key| config.boolean_by("remote", Some(name), key).ok().flatten();
        let remote = Remote {
            name: name.to_string(),
            fetch: strings("fetch"),
            push: strings("push"),
            is_mirror: boolean("mirror").unwrap_or_default(),
            prunes: boolean("prune")
                .or_else(|| snapshot.boolean("fetch.prune"))
                .unwrap_or_default(),
        };
        found.extend(fetching(&remote, &site.settings.branch_prefix));
        found.extend(pushing(&remote));
    }
    Ok(found)
}

/// What a fetch with `--prune` deletes. Pure.
fn fetching(remote: &Remote, branch_prefix: &str) -> Option<Exposure> {
    let specs = parsed(&remote.fetch, Operation::Fetch);
    let heads = format!("refs/heads/{branch_prefix}");
    let rescues = exclusion(&specs, RESCUES);
    // An empty prefix would exclude all branches.
    let branches = exclusion(&specs, &heads).filter(|_| !branch_prefix.is_empty());
    let exclusions: Vec<String> = rescues.iter().chain(&branches).cloned().collect();
    let exposure = Exposure {
        remote: remote.name.clone(),
        by: if remote.prunes { ExposedBy::EachFetch } else { ExposedBy::PruningFetch },
        rescues: rescues.is_some(),
        branches: branches.as_ref().map(|_| format!("{branch_prefix}*")),
        commands: exclusions.iter().map(|spec| add(remote, "fetch", spec)).collect(),
    };
    if !exposure.rescues && exposure.branches.is_none() {
        return None;
    }
    let exclusions: Vec<BString> = exclusions.into_iter().map(BString::from).collect();
    let all = [&*remote.fetch, &*exclusions].concat();
    let specs = parsed(&all, Operation::Fetch);
    let still = exposure.branches.is_some() && exclusion(&specs, &heads).is_some();
    let helps = !still && exclusion(&specs, RESCUES).is_none();
    Some(if helps { exposure } else { Exposure { commands: Vec::new(), ..exposure } })
}

/// What a push publishes. Pure.
fn pushing(remote: &Remote) -> Option<Exposure> {
    const EVERYTHING: &str = "+refs/*:refs/*";
    // A mirror without any refspec pushes everything.
    let everything =
        (remote.is_mirror && remote.push.is_empty()).then(|| BString::from(EVERYTHING));
    let all = if everything.is_some() { everything.as_slice() } else { &remote.push };
    let exclusions = publications(all);
    if exclusions.is_empty() {
        return None;
    }
    let exclusions = exclusions.into_iter().collect::<Vec<_>>();
    let after: Vec<BString> =
        all.iter().cloned().chain(exclusions.iter().map(|e| e.as_str().into())).collect();
    let is_of_use = publications(&after).is_empty();
    let everything = everything.iter().map(ToString::to_string);
    let commands = everything.chain(exclusions).map(|spec| add(remote, "push", &spec));
    Some(Exposure {
        remote: remote.name.clone(),
        by: ExposedBy::Push,
        rescues: true,
        branches: None,
        commands: if is_of_use { commands.collect() } else { Vec::new() },
    })
}

/// Those that are well-formed: git does nothing with a remote that has others.
fn parsed(specs: &[BString], operation: Operation) -> Vec<RefSpecRef<'_>> {
    specs.iter().filter_map(|spec| gix::refspec::parse(spec.as_bstr(), operation).ok()).collect()
}

/// The names below `directory` by which a pattern can be asked whether it covers any of them.
fn samples(directory: &str, pattern: &BStr) -> Vec<BString> {
    let Some((head, tail)) = pattern.split_once_str("*") else {
        let is_below = pattern.starts_with(directory.as_bytes());
        return is_below.then(|| pattern.to_owned()).into_iter().collect();
    };
    let front = match () {
        () if directory.as_bytes().starts_with(head) => directory.as_bytes(),
        () if head.starts_with(directory.as_bytes()) => head,
        () => return Vec::new(),
    };
    SAMPLES.map(|sample| [front, sample.as_bytes(), tail].concat().into()).to_vec()
}

fn item(name: &BString) -> Item<'_> {
    Item { full_ref_name: name.as_bstr(), target: NOTHING.as_ref(), object: None }
}

/// No refspec names it.
static NOTHING: gix::ObjectId = gix::ObjectId::null(gix::hash::Kind::Sha1);

/// The refspec that keeps a fetch away from what is below `directory`; `None` if it changes nothing there.
fn exclusion(specs: &[RefSpecRef<'_>], directory: &str) -> Option<String> {
    let names = specs.iter().filter_map(|spec| spec.local());
    let names: Vec<BString> = names.flat_map(|pattern| samples(directory, pattern)).collect();
    let group = MatchGroup::from_fetch_specs(specs.iter().copied());
    let mapping = group.match_rhs(names.iter().map(item)).mappings.into_iter().next()?;
    // An exclusion names what the remote has.
    let SourceRef::FullName(source) = mapping.lhs else { return Some(String::new()) };
    Some(pattern(&source.to_string()))
}

/// The refspecs that keep a push from publishing rescues; none if it publishes none.
///
/// By its documentation git compares exclusions with the names here, but git 2.47 compares them with
/// those on the remote. So only what is excluded under both names counts as excluded.
fn publications(specs: &[BString]) -> BTreeSet<String> {
    let specs = parsed(specs, Operation::Push);
    let names = specs.iter().filter_map(|spec| spec.local());
    let names: Vec<BString> = names.flat_map(|pattern| samples(RESCUES, pattern)).collect();
    let is_exclusion = |spec: &RefSpecRef<'_>| {
        matches!(spec.instruction(), Instruction::Push(Push::Exclude { .. }))
    };
    let (exclusions, pushed): (Vec<_>, Vec<_>) = specs.iter().copied().partition(is_exclusion);
    let all = BString::from("refs/*");
    let all = parsed(std::slice::from_ref(&all), Operation::Push);
    let is_excluded = |name: &BString| {
        let group = MatchGroup::from_push_specs(all.iter().chain(&exclusions).copied());
        group.match_lhs([item(name)].into_iter()).mappings.is_empty()
    };
    let group = MatchGroup::from_push_specs(pushed);
    let mappings = group.match_lhs(names.iter().map(item)).mappings;
    let mut found = BTreeSet::new();
    for mapping in mappings {
        let Some(name) = mapping.item_index.and_then(|at| names.get(at)) else { continue };
        let there = mapping.rhs.map_or_else(|| name.clone(), |there| there.into_owned());
        let open = [name, &there].into_iter().filter(|name| !is_excluded(name));
        found.extend(open.map(|name| pattern(&name.to_string())));
    }
    found
}

/// The exclusion of all that is named like one of the samples.
fn pattern(name: &str) -> String {
    let pattern = SAMPLES.iter().find_map(|sample| {
        let (head, tail) = name.split_once(sample)?;
        let all = head.strip_suffix("wtpool/rescue/");
        Some(all.map_or_else(|| format!("^{head}*{tail}"), |front| format!("^{front}wtpool/*")))
    });
    pattern.unwrap_or_else(|| format!("^{name}"))
}

fn add(remote: &Remote, direction: &str, spec: &str) -> String {
    let key = format!("remote.{}.{direction}", remote.name);
    format!("git config --add {} {}", shell_word(&key), shell_word(spec))
}
