//! The configuration outside of the repository, as git itself reads it.
//!
//! gix knows the usual files. Where variables name others, or an `includeIf` decides, git is asked, so
//! that both believe the same of filters, line ends, and what is ignored.

use gix::bstr::{BStr, BString, ByteSlice, ByteVec};
use gix::config::file::Metadata;
use gix::config::{File, Source};
use pool_core::{Error, ErrorKind, Result};

use crate::git::Git;
use crate::settings::GitSettings;
use crate::site::gix_error;

/// Replaces what gix read of the user's and the system's configuration by what git says of it, where
/// the two may differ.
///
/// # Errors
///
/// Those of [`Git::run`], such as a file of configuration that git cannot read.
pub(crate) fn correct(repo: &mut gix::Repository, settings: &GitSettings) -> Result<()> {
    if !settings.user_config {
        return Ok(());
    }
    let decides = |repo: &gix::Repository| {
        let config = repo.config_snapshot();
        config.plumbing().sections_by_name("includeIf").is_some()
    };
    if !settings.environment.configures() && !decides(repo) {
        return Ok(());
    }
    let said = Git::in_repository(repo.git_dir(), settings)
        .without_worktree(repo.git_dir())
        .args(["config", "--list", "--null", "--show-scope"])
        .run()?;
    let failed = |e| gix_error("read git's configuration", gix::Error::from_error(e));
    let mut before = Vec::new();
    let mut after = Vec::new();
    let mut fields = said.split(|byte| *byte == 0);
    while let (Some(scope), Some(entry)) = (fields.next(), fields.next()) {
        let to = match scope {
            b"system" | b"global" => &mut before,
            b"command" => &mut after,
            // The repository's own.
            _ => continue,
        };
        write_entry(to, entry.as_bstr());
    }
    let meta = || Metadata { trust: gix::sec::Trust::Full, ..Metadata::from(Source::User) };
    let parse = |text: &[u8]| {
        File::from_bytes_no_includes(text, meta(), Default::default()).map_err(|e| {
            Error::new(ErrorKind::Other, format!("cannot read git's configuration: {e}"))
        })
    };
    let mut config = repo.config_snapshot_mut();
    let outside: Vec<_> = config
        .sections_and_ids()
        .filter(|(section, _)| is_outside(section.meta().source))
        .map(|(_, id)| id)
        .collect();
    for id in outside {
        config.remove_section_by_id(id);
    }
    let own = std::mem::replace(&mut *config, parse(&before)?);
    config.append(own).map(drop).map_err(failed)?;
    config.append(parse(&after)?).map(drop).map_err(failed)?;
    config.commit().map(drop).map_err(|e| gix_error("apply git's configuration", e))
}

fn is_outside(source: Source) -> bool {
    matches!(
        source,
        Source::GitInstallation | Source::System | Source::Git | Source::User | Source::Env
    )
}

/// Writes one `key LF value` of git's list as a section of a configuration file.
fn write_entry(to: &mut Vec<u8>, entry: &BStr) {
    let (key, value) = match entry.split_once_str("\n") {
        Some((key, value)) => (key, Some(value)),
        None => (entry.as_bytes(), None),
    };
    let (Some(first), Some(last)) = (key.find_byte(b'.'), key.rfind_byte(b'.')) else { return };
    let (section, name) = (&key[..first], &key[last + 1..]);
    let mut text = BString::from("[");
    text.push_str(section);
    if first < last {
        text.push_str(" \"");
        text.push_str(key[first + 1..last].replace("\\", "\\\\").replace("\"", "\\\""));
        text.push_str("\"");
    }
    text.push_str("]\n\t");
    text.push_str(name);
    if let Some(value) = value {
        let value = value.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n");
        text.push_str(" = \"");
        text.push_str(value.replace("\t", "\\t"));
        text.push_str("\"");
    }
    text.push_str("\n");
    to.extend_from_slice(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_entries_are_read_back_as_they_were() {
        for (entry, key, value) in [
            ("core.autocrlf\ntrue", "core.autocrlf", "true"),
            (
                "filter.a.b \"c\".clean\nsh -c 'x \"y\\\\z\" # ; t\there'",
                "filter.a.b \"c\".clean",
                "sh -c 'x \"y\\\\z\" # ; t\there'",
            ),
            ("alias.x\n  !two\nlines ", "alias.x", "  !two\nlines "),
        ] {
            let mut text = Vec::new();
            write_entry(&mut text, entry.into());
            let file = File::from_bytes_no_includes(
                &text,
                Metadata::from(Source::User),
                Default::default(),
            );
            let found = file.expect("well-formed").string(key).map(|found| found.to_string());
            assert_eq!(found.as_deref(), Some(value), "{}", text.as_bstr());
        }
    }
}
