//! The paths that are declared regenerable.

use gix::bstr::{BStr, ByteSlice};
use gix::glob::pattern::Case;

/// Patterns in the notation of `.gitignore`, relative to a worktree's root.
#[derive(Debug)]
pub(crate) struct Patterns(gix::ignore::Search);

impl Patterns {
    /// Parses the patterns. Empty ones and comments match nothing.
    pub(crate) fn new(patterns: &[String]) -> Self {
        Self(gix::ignore::Search::from_overrides(patterns, gix::ignore::search::Ignore::default()))
    }

    /// Whether `path` (relative to the worktree, `/` between components, none at the end), or a
    /// directory that it lies in, matches.
    pub(crate) fn matches(&self, path: &BStr, is_dir: bool) -> bool {
        let parents = path.find_iter("/").map(|end| (path[..end].as_bstr(), true));
        // As in git, what lies in a matching directory can't be excepted again: the first ancestor
        // that matches decides.
        parents.chain([(path, is_dir)]).any(|(path, is_dir)| {
            self.0
                .pattern_matching_relative_path(path, Some(is_dir), Case::Sensitive)
                .is_some_and(|found| !found.pattern.is_negative())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_pass_it_on_and_names_match_whole() {
        let patterns = Patterns::new(&["target".into(), "*.pyc".into(), "/only/here".into()]);
        for (path, is_dir, expected) in [
            ("target", true, true),
            ("target/debug/x", false, true),
            ("a/b/target/x", false, true),
            ("targets", true, false),
            ("a/x.pyc", false, true),
            ("only/here", false, true),
            ("not/only/here", false, false),
            (".env", false, false),
        ] {
            assert_eq!(patterns.matches(path.into(), is_dir), expected, "{path}");
        }
        assert!(!Patterns::new(&[]).matches("target".into(), true));
    }
}
