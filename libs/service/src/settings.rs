//! Settings of a process: a table of keys, and values from a file, the environment and the command line.
//!
//! Later sources win: default, file, environment (`WALSER_` and the key in capitals with `_` for `.` and `-`),
//! `--set`. Unknown keys are refused with a suggestion, values are checked before anything starts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use walser_model::{parse_bytes, parse_duration_ms, suggest};

/// How a value is written, with its bounds (inclusive).
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// The value is `true` or `false`.
    Bool,
    /// An integer within these bounds; inclusive.
    Int(i64, i64),
    /// Bytes, also `64KiB`, `1MiB`, `1GiB`.
    Bytes(i64, i64),
    /// Milliseconds, also `250ms`, `30s`, `5m`, `7d`.
    Millis(i64, i64),
    /// A number from 0 to 1, both inclusive.
    Ratio,
    /// `HOST:PORT` with an IP address; port 0 takes any free one.
    Address,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A level for log lines, or levels by module, as in `info,walser_gateway=debug`.
    LogFilter,
    Text,
}

/// A setting that a service has.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Name with dots between its parts.
    pub name: &'static str,
    /// How the value is written.
    pub kind: Kind,
    /// The default as text.
    pub default: &'static str,
    /// What it does, with its unit.
    pub doc: &'static str,
}

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("config file {path}: {problem}")]
    File {
        /// As given.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// No setting has this name.
    #[error("there is no setting \"{key}\" ({from}){}", .did_you_mean.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default())]
    Unknown {
        /// As given.
        key: String,
        /// Where it was given.
        from: &'static str,
        /// The closest key there is.
        did_you_mean: Option<&'static str>,
    },
    /// A value that does not fit.
    #[error("setting {key} ({from}): {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// Where it was given.
        from: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// A `--set` argument has no `=`.
    #[error("--set {0}: write it as KEY=VALUE")]
    Pair(String),
}

/// Checked values of all keys.
#[derive(Debug, Clone)]
pub struct Settings {
    values: BTreeMap<&'static str, Value>,
    keys: Vec<&'static Key>,
}

#[derive(Debug, Clone)]
struct Value {
    text: String,
    /// Where it was given.
    from: &'static str,
}

/// Where a value is from that nobody gave.
const DEFAULT: &str = "default";

/// Levels of log lines, from none to all.
const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The largest config file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

// === impl Key ===

impl Key {
    fn check(&self, text: &str) -> Result<(), String> {
        let number = |parsed: Result<i64, String>, least: i64, most: i64, unit: &str| {
            let value = parsed?;
            let range = format!("{value} is out of range: {unit} from {least} to {most}");
            if (least..=most).contains(&value) { Ok(()) } else { Err(range) }
        };
        match self.kind {
            Kind::Bool if matches!(text, "true" | "false") => Ok(()),
            Kind::Bool => Err(format!("\"{text}\" is neither true nor false")),
            Kind::Int(least, most) => {
                number(text.parse().map_err(|_| format!("\"{text}\" is not an integer")), least, most, "a number")
            }
            Kind::Bytes(least, most) => number(parse_bytes(text).map_err(|e| e.to_string()), least, most, "bytes"),
            Kind::Millis(least, most) => {
                number(parse_duration_ms(text).map_err(|e| e.to_string()), least, most, "milliseconds")
            }
            Kind::Ratio => match text.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(()),
                _ => Err(format!("\"{text}\" is not a number from 0 to 1")),
            },
            Kind::Address => text
                .parse::<SocketAddr>()
                .map(drop)
                .map_err(|_| format!("\"{text}\" is not an address such as 127.0.0.1:7460")),
            Kind::Word(words) if words.contains(&text) => Ok(()),
            Kind::Word(words) => Err(format!("\"{text}\" is none of {}", words.join(", "))),
            Kind::LogFilter => check_log_filter(text),
            Kind::Text => Ok(()),
        }
    }

    fn variable(&self) -> String {
        format!("WALSER_{}", self.name.to_uppercase().replace(['.', '-'], "_"))
    }
}

// === impl Settings ===

impl Settings {
    /// Collects and checks values. `environment` gives variables by name.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(
        keys: &[&'static [Key]],
        file: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
        pairs: &[String],
    ) -> Result<Self, SettingsError> {
        let keys: Vec<&'static Key> = keys.iter().copied().flatten().collect();
        let default = |key: &&'static Key| (key.name, Value { text: key.default.to_owned(), from: DEFAULT });
        let values = keys.iter().map(default).collect();
        let mut settings = Self { values, keys };
        if let Some(path) = file {
            for (key, value) in read_file(path)? {
                settings.set(&key, &value, "config file")?;
            }
        }
        for key in settings.keys.clone() {
            if let Some(value) = environment(&key.variable()) {
                settings.set(key.name, &value, "environment")?;
            }
        }
        for pair in pairs {
            let (key, value) = pair.split_once('=').ok_or_else(|| SettingsError::Pair(pair.clone()))?;
            settings.set(key.trim(), value.trim(), "--set")?;
        }
        Ok(settings)
    }

    /// Sets one value, as a command-line flag does.
    ///
    /// # Errors
    /// When there is no such key or the value does not fit.
    pub fn set(&mut self, name: &str, value: &str, from: &'static str) -> Result<(), SettingsError> {
        let Some(key) = self.keys.iter().find(|key| key.name == name) else {
            let did_you_mean = suggest(name, self.keys.iter().map(|key| key.name));
            return Err(SettingsError::Unknown { key: name.to_owned(), from, did_you_mean });
        };
        key.check(value).map_err(|problem| SettingsError::Value { key: key.name, from, problem })?;
        self.values.insert(key.name, Value { text: value.to_owned(), from });
        Ok(())
    }

    /// A value as text.
    ///
    /// # Panics
    /// When the key is not in the tables that were loaded: a service asked for what it did not declare.
    pub fn text(&self, name: &str) -> &str {
        &self.values.get(name).unwrap_or_else(|| panic!("setting {name} is not declared")).text
    }

    /// All settings as a config file, with where each is from; those that nobody gave are comments. Secrets are not in it:
    /// settings name the files that have them, and what stands before the `@` of a URL is left out.
    pub fn listing(&self) -> String {
        let mut out = String::new();
        for (name, Value { text, from }) in &self.values {
            let (off, value) = (if *from == DEFAULT { "# " } else { "" }, toml::Value::String(without_user(text)));
            let _ = writeln!(out, "{off}{name} = {value} # {from}");
        }
        out
    }

    /// A yes or no.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    /// A number from 0 to 1.
    pub fn ratio(&self, name: &str) -> f64 {
        self.text(name).parse().expect("ratios are checked when they are set")
    }

    /// A number, or bytes.
    pub fn number<T: TryFrom<i64>>(&self, name: &str) -> T {
        let value = parse_bytes(self.text(name)).ok().and_then(|value| T::try_from(value).ok());
        value.expect("numbers are checked when they are set, and bounds fit their type")
    }

    /// Returns a setting that is a duration.
    pub fn duration(&self, name: &str) -> Duration {
        let millis = parse_duration_ms(self.text(name)).expect("durations are checked when they are set");
        Duration::from_millis(millis.unsigned_abs())
    }

    /// Returns a setting that is an address.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.text(name).parse().expect("addresses are checked when they are set")
    }

    /// Every key with unit, default, range and what it does, as a Markdown table.
    pub fn document(keys: &[&'static [Key]]) -> String {
        let mut out = String::from("| key | default | values | what it does |\n|---|---|---|---|\n");
        for key in keys.iter().copied().flatten() {
            let values = match key.kind {
                Kind::Bool => "`true`, `false`".to_owned(),
                Kind::Int(least, most) => format!("{least} to {most}"),
                Kind::Bytes(least, most) => format!("bytes, {least} to {most}"),
                Kind::Millis(least, most) => format!("milliseconds, {least} to {most}"),
                Kind::Ratio => "0 to 1".to_owned(),
                Kind::Address => "IP:PORT".to_owned(),
                Kind::Word(words) => format!("`{}`", words.join("`, `")),
                Kind::LogFilter => format!("LEVEL or MODULE=LEVEL, by commas; LEVEL: `{}`", LOG_LEVELS.join("`, `")),
                Kind::Text => "text".to_owned(),
            };
            let _ = writeln!(out, "| `{}` | `{}` | {values} | {} |", key.name, key.default, key.doc);
        }
        out
    }
}

/// A text with URLs in it, without the users and passwords in them, also those that should be escaped and are not, and
/// without what is asked for there: keys may be in it.
fn without_user(text: &str) -> String {
    let mut parts = text.split("://");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let shown = part.rfind('@').map_or_else(|| part.to_owned(), |at| format!("***{}", &part[at..]));
        let shown = match shown.split_once('?') {
            Some((before, query)) => format!("{before}?***{}", query.find(',').map_or("", |end| &query[end..])),
            None => shown,
        };
        out = format!("{out}://{shown}");
    }
    out
}

/// Checks a filter for log lines.
///
/// # Errors
/// What is wrong with it, and what is allowed.
pub(crate) fn check_log_filter(text: &str) -> Result<(), String> {
    text.split(',').try_for_each(check_log_directive)
}

/// Checks one part of a filter: the library that applies it takes every word that is no level for the name of a module.
fn check_log_directive(directive: &str) -> Result<(), String> {
    let (module, level) = directive.split_once('=').map_or((None, directive), |(module, level)| (Some(module), level));
    let named = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | ':');
    if module.is_some_and(|module| module.is_empty() || !module.chars().all(named)) {
        return Err(format!("\"{directive}\" does not begin with the name of a module such as walser_gateway"));
    }
    if LOG_LEVELS.contains(&level) {
        return Ok(());
    }
    let levels = LOG_LEVELS.join(", ");
    Err(format!(
        "\"{level}\" is not a level; write one of {levels}, or levels by module as in info,walser_gateway=debug"
    ))
}

/// Reads a TOML file as dotted keys.
fn read_file(path: &Path) -> Result<Vec<(String, String)>, SettingsError> {
    let problem = |problem: String| SettingsError::File { path: path.display().to_string(), problem };
    let metadata = std::fs::metadata(path).map_err(|error| problem(error.to_string()))?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(problem(format!("it has {} bytes, at most {FILE_BYTES_MAX} are read", metadata.len())));
    }
    let bytes = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| problem("it is not UTF-8 text".to_owned()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| problem(error.to_string()))?;
    let mut values = Vec::new();
    flatten("", table, &mut values);
    // `"a.b"` in quotes and `b` of the table `a` are the same key to everybody but TOML.
    let mut seen = std::collections::HashSet::new();
    if let Some((key, _)) = values.iter().find(|(key, _)| !seen.insert(key)) {
        return Err(problem(format!("{key} is in it twice; leave one of them out")));
    }
    Ok(values)
}

fn flatten(prefix: &str, table: toml::Table, values: &mut Vec<(String, String)>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(table) => flatten(&key, table, values),
            toml::Value::String(text) => values.push((key, text)),
            other => values.push((key, other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static KEYS: &[Key] = &[
        Key { name: "gateway.listen", kind: Kind::Address, default: "127.0.0.1:7460", doc: "Public port." },
        Key { name: "storage.shards", kind: Kind::Int(1, 64), default: "1", doc: "Log shards." },
        Key { name: "cache.bytes", kind: Kind::Bytes(0, 1 << 40), default: "64MiB", doc: "Tail cache." },
    ];

    fn load(file: Option<&str>, variables: &[(&str, &str)], pairs: &[&str]) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("walser.toml");
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
        }
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        Settings::load(&[KEYS], file.map(|_| path.as_path()), find, &pairs)
    }

    #[test]
    fn later_sources_win() {
        let file = "[storage]\nshards = 2\n[cache]\nbytes = \"1MiB\"\n";
        let settings = load(Some(file), &[("WALSER_STORAGE_SHARDS", "3")], &["gateway.listen=0.0.0.0:1"]).unwrap();
        assert_eq!(settings.number::<usize>("storage.shards"), 3);
        assert_eq!(settings.number::<u64>("cache.bytes"), 1 << 20);
        assert_eq!(settings.address("gateway.listen").port(), 1);
        assert_eq!(load(None, &[], &[]).unwrap().number::<u64>("cache.bytes"), 64 << 20);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let unknown = load(None, &[], &["storage.shard=2"]).unwrap_err().to_string();
        assert!(unknown.contains("did you mean \"storage.shards\""), "{unknown}");
        let range = load(Some("storage.shards = 900"), &[], &[]).unwrap_err().to_string();
        assert!(range.contains("from 1 to 64") && range.contains("config file"), "{range}");
        assert!(load(Some("\u{0}\u{1} garbage ["), &[], &[]).is_err());
        assert!(load(None, &[("WALSER_GATEWAY_LISTEN", "everywhere")], &[]).is_err());
        assert!(load(None, &[], &["storage.shards"]).unwrap_err().to_string().contains("KEY=VALUE"));
    }

    #[test]
    fn a_log_filter_has_only_levels_and_modules() {
        for good in ["info", "off", "info,walser=debug", "warn,walser_gateway::read=trace,h2=off"] {
            assert_eq!(check_log(good), Ok(()), "{good}");
        }
        for bad in ["loud", "info,walser=loud", "", "info,", "walser", "INFO", "=info", "wal ser=info", "[span]=debug"]
        {
            let said = check_log(bad).unwrap_err();
            assert!(said.contains("such as") || said.contains("off, error, warn, info, debug, trace"), "{bad}: {said}");
        }
    }

    fn check_log(text: &str) -> Result<(), String> {
        Key { name: "log.level", kind: Kind::LogFilter, default: "info", doc: "" }.check(text)
    }

    #[test]
    fn the_listing_is_a_config_file_without_secrets() {
        static URLS: &[Key] = &[Key { name: "otel.endpoint", kind: Kind::Text, default: "", doc: "A URL." }];
        let pairs = ["otel.endpoint=http://me:s3@cr\"et@h:1/path".to_owned(), "storage.shards=2".to_owned()];
        let settings = Settings::load(&[KEYS, URLS], None, |_| None, &pairs).unwrap();
        let listing = settings.listing();
        assert!(!listing.contains("s3") && !listing.contains("cr\"et"), "{listing}");
        for line in ["# cache.bytes = \"64MiB\" # default", "storage.shards = \"2\" # --set"] {
            assert!(listing.lines().any(|found| found == line), "{line}: {listing}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("walser.toml");
        std::fs::write(&path, listing).unwrap();
        let again = Settings::load(&[KEYS, URLS], Some(&path), |_| None, &[]).unwrap();
        assert_eq!((again.text("otel.endpoint"), again.text("storage.shards")), ("http://***@h:1/path", "2"));
    }

    #[test]
    fn users_are_left_out_of_every_url() {
        for (text, shown) in [
            ("http://a:1,https://u:p@b:2/x", "http://a:1,https://***@b:2/x"),
            ("http://a?key=1,https://me:p?w@b/x?key=2", "http://a?***,https://***@b/x?***"),
            ("./data@home", "./data@home"),
            ("http://me:p/w,d@h", "http://***@h"),
            ("u@x://y", "u@x://y"),
        ] {
            assert_eq!(without_user(text), shown);
        }
    }

    #[test]
    fn a_key_that_is_in_the_file_twice_is_refused() {
        let failure = load(Some("storage.shards = 3\n\"storage.shards\" = 2\n"), &[], &[]).unwrap_err();
        assert!(failure.to_string().contains("storage.shards is in it twice"), "{failure}");
    }
}
