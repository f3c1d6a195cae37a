//! One file of settings: read, parsed and checked by itself.
//!
//! The repository's file comes with whatever commit is checked out. It has to be a regular file at
//! that very path, and errors name its path, a line or a key, never its content.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use config::{Config, ConfigError, FileFormat, Map, Source, Value, ValueKind};
use pool_core::{Error, Result, open_plain};

use super::Settings;
use crate::error::invalid;

/// The size limit of a file of settings, in bytes.
const LONGEST: u64 = 1 << 20;

/// The source of a file of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Author {
    /// The user: the file may be a link, and errors may quote it.
    User,
    /// The repository.
    Repository,
}

/// A file of settings, whose values have the right form.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) source: config::File<config::FileSourceString, FileFormat>,
    /// The keys that it sets, nested ones as `a.b`.
    pub(super) keys: Vec<String>,
}

impl Layer {
    /// Reads the file at `path`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if it is not a regular file, longer than a mebibyte, or malformed.
    pub(super) fn read(path: &Path, author: Author) -> Result<Option<Self>> {
        let Some(text) = text(path, author)? else { return Ok(None) };
        let file = config::File::from_str(&text, FileFormat::Toml);
        let values = file.collect().map_err(|error| match author {
            Author::User => malformed(path, &error),
            Author::Repository => malformed(path, &line_of_error(&text)),
        })?;
        Ok(Some(Self { source: file, keys: keys("", &values) }))
    }

    /// Checks the values; to be called when all [keys](Self::keys) are known.
    ///
    /// # Errors
    ///
    /// `InvalidInput`, with the key if the file is the repository's.
    pub(super) fn check(&self, path: &Path, author: Author) -> Result<()> {
        let whole = Config::builder().add_source(self.source.clone()).build();
        let whole = whole.map_err(|_| malformed(path, &"it is not TOML"))?;
        let Err(error) = whole.clone().try_deserialize::<Settings>() else { return Ok(()) };
        if author == Author::User {
            return Err(malformed(path, &error));
        }
        let is_wrong = |key: &&String| whole.get(key).and_then(|value| only(key, value)).is_err();
        let why = match self.keys.iter().find(is_wrong) {
            Some(key) => format!("the value of {key} is invalid"),
            None => "a value is invalid".to_owned(),
        };
        Err(malformed(path, &why))
    }
}

/// Settings in which one key alone is set.
fn only(key: &str, value: Value) -> std::result::Result<Settings, ConfigError> {
    Config::builder().set_override(key, value)?.build()?.try_deserialize()
}

fn text(path: &Path, author: Author) -> Result<Option<String>> {
    let failed = |e| Error::io(format!("read {}", path.display()), e);
    let is_regular = || Ok(std::fs::metadata(path)?.is_file());
    let opened = match author {
        // Opening a FIFO would block.
        Author::User => is_regular().and_then(|regular| match regular {
            true => File::open(path),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }),
        Author::Repository => open_plain(File::options().read(true), path),
    };
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            let message = format!("cannot read {}: it is not a regular file", path.display());
            return Err(invalid(message).with_hint(format!("look at it: ls -l {}", path.display())));
        }
        Err(e) => return Err(failed(e)),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST {
        return Err(invalid(format!("cannot read {}: it is longer than 1 MiB", path.display())));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| invalid(format!("cannot read {}: it is not UTF-8", path.display())))?;
    Ok(Some(text))
}

/// Says where the parser stopped, and nothing of what it read.
fn line_of_error(text: &str) -> String {
    let at = text.parse::<toml::Table>().err().and_then(|error| error.span());
    match at.and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {} is not TOML", before.matches('\n').count() + 1),
        None => "it is not TOML".to_owned(),
    }
}

fn malformed(path: &Path, why: &dyn std::fmt::Display) -> Error {
    invalid(format!("the settings in {} are malformed: {why}", path.display()))
        .with_hint("`wtpool config` shows the form of each value, once this is put right")
}

fn keys(prefix: &str, values: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in values {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match &value.kind {
            ValueKind::Table(table) => found.extend(keys(&key, table)),
            _ => found.push(key),
        }
    }
    found.sort();
    found
}
