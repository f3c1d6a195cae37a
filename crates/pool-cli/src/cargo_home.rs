//! What the user told cargo, and what a pool's own configuration would displace.

use std::path::{Path, PathBuf};

/// The wrapper of rustc that the user's configuration of cargo names (`build.rustc-wrapper`).
pub(crate) fn rustc_wrapper() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let home = home.or_else(|| etcetera::home_dir().ok().map(|home| home.join(".cargo")))?;
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
