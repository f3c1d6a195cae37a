//! Conversions of what is checked out that only git does as git does them.
//!
//! gix writes what is to be in UTF-16 or UTF-32 (`working-tree-encoding`) in UTF-8, and `ident`
//! without its last space. (gix-filter of gix 0.90.) A lease would begin with files that git, and
//! whatever else reads them, does not understand. And a filter is run by git only, so that its
//! variables and its working directory are the same in a new slot and in one that is used again.

use std::path::PathBuf;

use gix::bstr::ByteSlice;

use crate::inspect::is_attributes;
use crate::settings::GitSettings;

/// Whether attributes ask for any of them, for whatever files; also when that can't be told.
pub(crate) fn are_only_gits(
    repo: &gix::Repository,
    index: &gix::index::State,
    settings: &GitSettings,
) -> bool {
    any(repo, index, settings, is_only_gits)
}

/// Whether attributes ask for any of them, or for a filter; also when that can't be told.
pub(crate) fn need_git(
    repo: &gix::Repository,
    index: &gix::index::State,
    settings: &GitSettings,
) -> bool {
    any(repo, index, settings, |word| is_only_gits(word) || word.starts_with(b"filter="))
}

fn any(
    repo: &gix::Repository,
    index: &gix::index::State,
    settings: &GitSettings,
    asks: impl Fn(&[u8]) -> bool,
) -> bool {
    let ask = |attributes: &[u8]| attributes.fields().any(&asks);
    let tracked = index.entries().iter().filter(|entry| is_attributes(entry.path(index)));
    let in_tree = |id| repo.find_object(id).map_or(true, |object| ask(&object.data));
    let beside = attributes_beside(repo, settings).into_iter();
    tracked.map(|entry| entry.id).any(in_tree)
        || beside.filter_map(|path| std::fs::read(path).ok()).any(|text| ask(&text))
}

/// The files of attributes that are not part of a commit.
pub(crate) fn attributes_beside(repo: &gix::Repository, settings: &GitSettings) -> Vec<PathBuf> {
    let mut found = vec![repo.common_dir().join("info/attributes")];
    let configured = repo.config_snapshot().trusted_path("core.attributesFile");
    if let Ok(Some(path)) = configured {
        found.push(path);
    } else if settings.user_config {
        let variable = &mut |name: &str| std::env::var_os(name);
        found.extend(gix::path::env::xdg_config("attributes", variable));
    }
    if settings.user_config && !settings.environment.without_system_attributes() {
        let installed = gix::path::env::installation_config_prefix();
        found.extend(installed.map(|dir| dir.join("gitattributes")));
        let system = gix::path::env::system_prefix();
        found.extend(system.map(|dir| dir.join("etc/gitattributes")));
        found.push("/etc/gitattributes".into());
    }
    found
}

fn is_only_gits(word: &[u8]) -> bool {
    word == b"ident" || word.starts_with(b"working-tree-encoding=")
}
