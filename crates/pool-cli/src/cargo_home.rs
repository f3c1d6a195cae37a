//! What the user told cargo, and what a pool's own configuration would displace.

use std::path::{Path, PathBuf};

use cache_share::{DIRECTORY_VARIABLES, Surroundings, directories_of, leads_out};

/// Cargo's home directory.
fn home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    home.or_else(|| etcetera::home_dir().ok().map(|home| home.join(".cargo")))
}

/// What outside of the repository says where cargo builds.
pub(crate) fn surroundings() -> Surroundings {
    let set = |name: &str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
        Some((name.to_owned(), value.to_string_lossy().into_owned()))
    };
    Surroundings {
        cargo_home: home(),
        variables: DIRECTORY_VARIABLES.iter().filter_map(|name| set(name)).collect(),
    }
}

/// The variables of this process that lead the cargos in a worktree elsewhere, and the values with which they would not.
pub(crate) fn misleading(worktree: &Path) -> Vec<(String, String)> {
    let mut own = directories_of(worktree);
    let variables = surroundings().variables.into_iter();
    let misleading = variables.filter(|(_, value)| leads_out(worktree, value));
    misleading.filter_map(|(name, _)| own.remove_entry(&name)).collect()
}

/// What to say of them, if there are any.
pub(crate) fn warning(worktree: &Path) -> Option<String> {
    let names: Vec<String> = misleading(worktree).into_iter().map(|(name, _)| name).collect();
    let (first, set) = (names.first()?, surroundings().variables);
    let value = set.get(first).map_or("", String::as_str);
    Some(format!(
        "{first}={value} leads cargo out of the worktree, where builds of several worktrees replace each other; \
         run: unset {}",
        names.join(" ")
    ))
}

/// The wrapper of rustc that the user's configuration of cargo names (`build.rustc-wrapper`).
pub(crate) fn rustc_wrapper() -> Option<PathBuf> {
    let home = home()?;
    let text = ["config.toml", "config"].iter().find_map(|name| {
        // Without one, there is nothing to displace.
        std::fs::read_to_string(home.join(name)).ok()
    })?;
    wrapper_in(&text, &home)
}

/// The same, of the configuration in a cargo home. A bare name is looked for in `PATH`, a path is
/// relative to the directory that holds the home.
fn wrapper_in(text: &str, home: &Path) -> Option<PathBuf> {
    let table: toml::Table = text.parse().ok()?;
    let wrapper = PathBuf::from(table.get("build")?.get("rustc-wrapper")?.as_str()?);
    match wrapper.components().count() {
        0 => None,
        1 => Some(wrapper),
        _ => Some(home.parent().unwrap_or(home).join(wrapper)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wrapper_is_found_as_cargo_finds_it() {
        let found = |text: &str| wrapper_in(text, Path::new("/home/a/.cargo"));
        assert_eq!(found("[build]\nrustc-wrapper = \"sccache\"\n"), Some("sccache".into()));
        let relative = found("build.rustc-wrapper = \"bin/wrap\"\n");
        assert_eq!(relative, Some("/home/a/bin/wrap".into()));
        assert_eq!(found("build.rustc-wrapper = \"/opt/wrap\"\n"), Some("/opt/wrap".into()));
        for none in ["", "[build]\n", "build.rustc-wrapper = \"\"\n", "[build"] {
            assert_eq!(found(none), None, "{none}");
        }
    }
}
