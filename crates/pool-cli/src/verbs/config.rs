//! `wtpool config`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use crate::cli::Global;
use crate::context::{Access, Place};
use crate::error::Result;
use crate::output::{Output, table};
use crate::settings::{self, BUILT_IN};

#[derive(Serialize)]
struct Document {
    pool_dir: PathBuf,
    /// The worktree that `.wtpool.toml` and set-up files come from.
    source_worktree: Option<PathBuf>,
    settings: BTreeMap<String, Setting>,
}

#[derive(Serialize)]
struct Setting {
    value: Value,
    origin: String,
}

pub(crate) fn perform(global: &Global) -> Result<u8> {
    let Place { pool_dir, loaded, .. } = Place::find(global, None, Access::Look)?;
    let origin = |key: &str| loaded.origins.get(key).map_or(BUILT_IN, String::as_str).to_owned();
    let entries = loaded.settings.entries().into_iter();
    let settings: BTreeMap<String, Setting> = entries
        .map(|(key, value)| (key.clone(), Setting { value, origin: origin(&key) }))
        .collect();
    let out = Output::new(global.json, global.quiet);
    if out.json {
        out.document(&Document { pool_dir, source_worktree: loaded.source, settings })?;
        return Ok(0);
    }
    let rows = settings.into_iter().map(|(key, Setting { value, origin })| {
        let value = match (key.as_str(), value) {
            ("pool_dir", Value::Null) => pool_dir.display().to_string(),
            (_, Value::String(text)) => text,
            (_, Value::Array(items)) if items.is_empty() => "-".to_owned(),
            (_, Value::Array(items)) => {
                let items = items.iter().map(|i| i.as_str().map_or(i.to_string(), str::to_owned));
                items.collect::<Vec<_>>().join(", ")
            }
            (_, other) => other.to_string(),
        };
        [key, value, origin]
    });
    out.line(table(["key", "value", "from"], rows.collect()))?;
    if loaded.source.is_none() {
        out.remark(format!("wtpool: {}", settings::no_source()));
    }
    Ok(0)
}
