//! Settings, in layers; the later wins: built in, the user's file, the repository's file, the
//! environment, flags.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use cache_share::Lean;
use config::{Config, Environment, Map, Value};
use etcetera::BaseStrategy;
use git_backend::{GitEnvironment, GitSettings, SubmoduleMode};
use pool_core::{Error, ErrorKind, Linger, Result};
use serde::{Deserialize, Serialize};

use self::layer::{Author, Layer};
use crate::error::invalid;
use crate::output::LEASE_VARIABLES;

mod layer;

/// The repository's file, at the root of its main worktree (or, if it has none, the caller's). It comes
/// with whatever was checked out there.
pub(crate) const REPOSITORY_FILE: &str = ".wtpool.toml";

/// What the repository's file may not say: commands to run, and where to write.
const NOT_THE_REPOSITORYS: [(&str, &str); 3] = [
    ("cache.warm_command", "names a command to run"),
    ("cache.wrapper", "names a command to run"),
    ("pool_dir", "says where the pool is"),
];

/// What the repository's file may say only where its user's file says nothing: whether what the repository
/// has in it is built or cloned by the pool itself, and whose configuration holds.
const THE_USERS_FIRST: [&str; 4] = ["cache.auto", "cache.strategy", "submodules", "user_config"];

/// A shorter interval would keep the reaper busy with nothing but looking.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// How long what a command leaves behind may take to end before it counts as staying on purpose.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// A span of time, as people write it: `90s`, `5m`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let wrong = || format!("{text:?} is not a duration such as 90s, 5m or 1h30m");
        let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
        Duration::try_from(span).map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use jiff::fmt::friendly::{Designator, Spacing, SpanPrinter};
        let printer = SpanPrinter::new().spacing(Spacing::None).designator(Designator::Compact);
        f.write_str(&printer.unsigned_duration_to_string(&self.0))
    }
}

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// How long to keep a worktree for inspection: one duration, or `<after success>/<after failure>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct LingerSetting(pub(crate) Linger);

impl FromStr for LingerSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (success, failure) = text.split_once('/').unwrap_or((text, text));
        let (success, failure) =
            (success.trim().parse::<Span>()?.0, failure.trim().parse::<Span>()?.0);
        Ok(Self(Linger { success, failure }))
    }
}

impl TryFrom<String> for LingerSetting {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<LingerSetting> for String {
    fn from(LingerSetting(linger): LingerSetting) -> Self {
        format!("{}/{}", Span(linger.success), Span(linger.failure))
    }
}

/// All that can be set. The keys are the field names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The cap.
    pub(crate) max_leases: u32,
    /// Of a lease that names no owner process, or one of another container.
    pub(crate) ttl: Span,
    /// For inspection, after success and after failure.
    pub(crate) linger: LingerSetting,
    /// Idle slots while a session lives.
    pub(crate) keep_warm: u32,
    /// How long an idle slot is kept.
    pub(crate) idle: Span,
    /// How long to wait for a slot.
    pub(crate) wait: Span,
    /// How long processes that outlive a command may hold its lease from outside the worktree.
    pub(crate) grace: Span,
    /// How long a worktree past its TTL must be quiet.
    pub(crate) quiet: Span,
    /// How often the reaper looks.
    pub(crate) reap_interval: Span,
    /// Where the pool is; by default beside the repository.
    pub(crate) pool_dir: Option<PathBuf>,
    /// No lease is given while less than this is free.
    pub(crate) min_free_disk: ByteSize,
    /// How much the pool may take, all in all; `0`: as much as there is.
    pub(crate) max_disk: ByteSize,
    /// Ignored set-up files to bring along.
    pub(crate) copy: Vec<String>,
    /// Ignored paths that need no rescue.
    pub(crate) regenerable: Vec<String>,
    /// What becomes of submodules.
    pub(crate) submodules: SubmoduleMode,
    /// What generated branches begin with.
    pub(crate) branch_prefix: String,
    /// Whether the user's git configuration holds for the pool's own operations.
    pub(crate) user_config: bool,
    /// How many jobs each cargo in a slot may run at once; by default cargo decides.
    pub(crate) build_jobs: Option<NonZeroU32>,
    /// About build artifacts.
    pub(crate) cache: CacheSettings,
}

/// The keys below `cache`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CacheSettings {
    /// How they are shared.
    pub(crate) strategy: String,
    /// When to spare the disk.
    pub(crate) lean: Lean,
    /// What builds a base, instead of cargo's usual commands. Not in the repository's file.
    pub(crate) warm_command: Option<String>,
    /// Directories of the main worktree that each new slot gets copies of, such as `node_modules`.
    pub(crate) directories: Vec<PathBuf>,
    /// The program that caches compilations, with the strategy `sccache`. Not in the repository's file.
    pub(crate) wrapper: PathBuf,
    /// Whether a base is built in the background when there is none.
    pub(crate) auto: bool,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            strategy: cache_share::Seeded::NAME.to_owned(),
            lean: Lean::default(),
            warm_command: None,
            directories: Vec::new(),
            wrapper: cache_share::Sccache::NAME.into(),
            auto: true,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let core = pool_core::Settings::default();
        let git = GitSettings::default();
        let linger = Linger { success: Duration::ZERO, failure: Duration::from_secs(4 * 60) };
        Self {
            max_leases: core.max_leases,
            ttl: Span(Duration::from_secs(3600)),
            linger: LingerSetting(linger),
            keep_warm: core.keep_warm,
            idle: Span(core.idle),
            wait: Span(Duration::from_secs(600)),
            grace: Span(core.grace),
            quiet: Span(core.quiet),
            reap_interval: Span(Duration::from_secs(5)),
            pool_dir: None,
            min_free_disk: ByteSize(0),
            max_disk: ByteSize(0),
            copy: git.copy,
            regenerable: git.regenerable,
            submodules: git.submodules,
            branch_prefix: git.branch_prefix,
            user_config: git.user_config,
            build_jobs: None,
            cache: CacheSettings::default(),
        }
    }
}

impl Settings {
    /// What the pool itself is told.
    pub(crate) fn pool(&self) -> pool_core::Settings {
        pool_core::Settings {
            max_leases: self.max_leases,
            keep_warm: self.keep_warm,
            idle: self.idle.0,
            grace: self.grace.0,
            quiet: self.quiet.0,
            ttl: self.ttl.0,
            patience: PATIENCE,
            ..pool_core::Settings::default()
        }
    }

    /// What the git backend is told.
    pub(crate) fn git(&self) -> GitSettings {
        GitSettings {
            copy: self.copy.clone(),
            regenerable: self.regenerable.clone(),
            submodules: self.submodules,
            branch_prefix: self.branch_prefix.clone(),
            user_config: self.user_config,
            environment: GitEnvironment::of(
                std::env::vars_os(),
                &std::env::current_dir().unwrap_or_default(),
            ),
        }
    }

    /// Every key with its value, nested ones as `a.b`.
    pub(crate) fn entries(&self) -> BTreeMap<String, serde_json::Value> {
        let mut found = BTreeMap::new();
        if let Ok(value) = serde_json::to_value(self) {
            flatten("", &value, &mut found);
        }
        found
    }
}

fn flatten(
    prefix: &str,
    value: &serde_json::Value,
    found: &mut BTreeMap<String, serde_json::Value>,
) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&key, value, found);
            }
        }
        leaf => drop(found.insert(prefix.to_owned(), leaf.clone())),
    }
}

/// The flags that are settings, too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) pool_dir: Option<PathBuf>,
    pub(crate) cache: Option<String>,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    /// Where each key that is not at its built-in value came from.
    pub(crate) origins: BTreeMap<String, String>,
    /// The worktree that the repository's file was looked for in, and that set-up files come from.
    pub(crate) source: Option<PathBuf>,
}

/// Says that no worktree is known whose settings hold.
pub(crate) fn no_source() -> String {
    format!("no worktree is known to read {REPOSITORY_FILE} from, nor to copy set-up files from")
}

/// Where a key came from that a flag set.
pub(crate) const FLAG: &str = "flag";
/// Where a key came from that nobody set.
pub(crate) const BUILT_IN: &str = "built in";

/// The variable that sets a key.
pub(crate) fn variable(key: &str) -> String {
    format!("WTPOOL_{}", key.to_uppercase().replace('.', "__"))
}

/// The variables that look like settings and are none, each with the one that was probably meant.
pub(crate) fn unknown_variables() -> Vec<(String, Option<String>)> {
    let known: Vec<String> = Settings::default().entries().keys().map(|k| variable(k)).collect();
    let given = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut unknown: Vec<_> = given
        .filter(|name| name.starts_with("WTPOOL_"))
        .filter(|name| !known.contains(name) && !LEASE_VARIABLES.contains(&name.as_str()))
        .map(|name| {
            let meant = nearest(&name, &known).cloned();
            (name, meant)
        })
        .collect();
    unknown.sort();
    unknown
}

/// The one that is spelt nearly the same: a slip or two for each word.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a String> {
    let distance = |other: &str| strsim::damerau_levenshtein(&name.to_uppercase(), other);
    let found = known.iter().min_by_key(|other| distance(other))?;
    let own = found.len() - "WTPOOL_".len();
    (distance(found) <= own.div_ceil(3)).then_some(found)
}

/// Reads all layers. `source` is the worktree in which the repository's file is looked for.
///
/// # Errors
///
/// `InvalidInput` for an unknown key or a malformed value; the message names the key and the file.
pub(crate) fn load(source: Option<PathBuf>, flags: &Flags) -> Result<Loaded> {
    let known = Settings::default().entries();
    let mut origins = BTreeMap::new();
    let mut builder = Config::builder();
    // Without a home directory there is no user's file.
    let user = etcetera::choose_base_strategy().ok().map(|base| base.config_dir());
    let user = user.map(|dir| dir.join("wtpool").join("config.toml"));
    let mut users_own = Config::builder();
    for path in user.into_iter().chain(source.as_ref().map(|root| root.join(REPOSITORY_FILE))) {
        let of_repository = path.ends_with(REPOSITORY_FILE);
        let author = if of_repository { Author::Repository } else { Author::User };
        let Some(layer) = Layer::read(&path, author)? else { continue };
        for key in &layer.keys {
            if !known.contains_key(key) {
                let message = format!("unknown key {key} in {}", path.display());
                return Err(invalid(message).with_hint("`wtpool config` lists the keys there are"));
            }
            let forbidden = NOT_THE_REPOSITORYS.iter().find(|(forbidden, _)| key == forbidden);
            if let Some((_, what)) = forbidden.filter(|_| of_repository) {
                let message = format!("{} {what}", path.display());
                let hint = format!(
                    "{key} belongs into your own configuration file, or into {}",
                    variable(key)
                );
                return Err(invalid(message).with_hint(hint));
            }
            if of_repository && THE_USERS_FIRST.contains(&key.as_str()) && origins.contains_key(key)
            {
                continue;
            }
            origins.insert(key.clone(), path.display().to_string());
        }
        layer.check(&path, author)?;
        let file = layer.source;
        if !of_repository {
            let own = Config::builder().add_source(file.clone()).build();
            let own = own.map_err(|e| malformed(&e))?;
            for key in THE_USERS_FIRST {
                if let Ok(value) = own.get::<Value>(key) {
                    users_own = users_own.set_override(key, value).map_err(|e| malformed(&e))?;
                }
            }
        }
        builder = builder.add_source(file);
    }
    builder = builder.add_source(users_own.build().map_err(|e| malformed(&e))?);
    let mut variables: Map<String, String> = Map::new();
    for key in known.keys() {
        let name = variable(key);
        let value = std::env::var_os(&name).unwrap_or_default().into_string();
        // A path may be anything, and is taken as it is below.
        let value = value.or_else(|given| match key == "pool_dir" {
            true => Ok(given.to_string_lossy().into_owned()),
            false => Err(invalid(format!("{name} is not UTF-8: {}", given.display()))),
        })?;
        if !value.is_empty() {
            variables.insert(name, value);
        }
    }
    for key in known.keys().filter(|key| variables.contains_key(&variable(key))) {
        origins.insert(key.clone(), variable(key));
    }
    let environment = Environment::with_prefix("WTPOOL")
        .prefix_separator("_")
        .separator("__")
        .list_separator(",")
        .with_list_parse_key("copy")
        .with_list_parse_key("regenerable")
        .with_list_parse_key("cache.directories")
        .try_parsing(true)
        .source(Some(variables));
    builder = builder.add_source(environment);
    let pool_dir = flags.pool_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned());
    for (key, flag) in [("pool_dir", pool_dir), ("cache.strategy", flags.cache.clone())] {
        if let Some(value) = flag {
            origins.insert(key.to_owned(), FLAG.to_owned());
            builder = builder.set_override(key, value).map_err(|e| malformed(&e))?;
        }
    }
    let config = builder.build().map_err(|e| malformed(&e))?;
    let mut settings: Settings = config.try_deserialize().map_err(|e| malformed(&e))?;
    // As it was given: the detour above replaces what is not UTF-8.
    let variable = variable("pool_dir");
    if flags.pool_dir.is_some() {
        settings.pool_dir.clone_from(&flags.pool_dir);
    } else if origins.get("pool_dir") == Some(&variable) {
        settings.pool_dir = std::env::var_os(&variable).map(PathBuf::from);
    }
    if let (Some(dir), Some(origin)) = (&settings.pool_dir, origins.get("pool_dir")) {
        settings.pool_dir = Some(absolute(dir, origin)?);
    }
    settings.pool().check()?;
    if settings.reap_interval.0 < SHORTEST_INTERVAL {
        return Err(invalid("reap_interval is below 10ms: the reaper would spin"));
    }
    Ok(Loaded { settings, origins, source })
}

/// A directory is relative to the file that names it, or else to the working directory.
fn absolute(dir: &Path, origin: &str) -> Result<PathBuf> {
    match Path::new(origin).parent() {
        Some(parent) if Path::new(origin).is_absolute() => Ok(parent.join(dir)),
        _ => {
            std::path::absolute(dir).map_err(|e| Error::io(format!("resolve {}", dir.display()), e))
        }
    }
}

fn malformed(error: &config::ConfigError) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("the settings are malformed: {error}"))
        .with_hint("`wtpool config` shows the form of each value, once this is put right")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, seconds) in [("0s", 0), ("0", 0), ("90s", 90), ("5m", 300), ("1h30m", 5400)] {
            assert_eq!(text.parse::<Span>(), Ok(Span(Duration::from_secs(seconds))), "{text}");
        }
        assert_eq!("200ms".parse(), Ok(Span(Duration::from_millis(200))));
        for wrong in ["", "5", "-5m", "soon", "5 parsecs"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        for text in ["0s", "1m30s", "1h", "200ms"] {
            assert_eq!(text.parse::<Span>().map(|span| span.to_string()), Ok(text.to_owned()));
        }
        let linger: LingerSetting = "0s/4m".parse().expect("two durations");
        assert_eq!(linger.0.failure, Duration::from_secs(240));
        assert_eq!(String::from(linger), "0s/4m");
        assert_eq!("5m".parse(), Ok(LingerSetting(Linger::both(Duration::from_secs(300)))));
    }

    #[test]
    fn a_slip_is_told_from_something_else() {
        let known: Vec<String> =
            Settings::default().entries().keys().map(|key| variable(key)).collect();
        for (slip, meant) in [
            ("WTPOOL_MAX_LEASE", Some("WTPOOL_MAX_LEASES")),
            ("WTPOOL_MAXLEASES", Some("WTPOOL_MAX_LEASES")),
            ("WTPOOL_max_leases", Some("WTPOOL_MAX_LEASES")),
            ("WTPOOL_CACHE_STRATEGY", Some("WTPOOL_CACHE__STRATEGY")),
            ("WTPOOL_WIAT", Some("WTPOOL_WAIT")),
            ("WTPOOL_BIN", None),
            ("WTPOOL_", None),
        ] {
            assert_eq!(nearest(slip, &known).map(String::as_str), meant, "{slip}");
        }
    }

    #[test]
    fn every_key_has_an_entry_and_a_variable() {
        let entries = Settings::default().entries();
        assert_eq!(entries["cache.strategy"], "seeded");
        assert_eq!(entries["max_leases"], 40);
        assert_eq!(variable("cache.strategy"), "WTPOOL_CACHE__STRATEGY");
    }
}
