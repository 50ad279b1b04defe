//! Named servers, and which one is meant when a command names none: `config.toml` in the user's configuration
//! directory (`$XDG_CONFIG_HOME/walser`, else `~/.config/walser`).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{CliError, did_you_mean};
use crate::tls_args::TlsArgs;

/// Most contexts in the file.
const CONTEXTS_MAX: usize = 1000;

/// What the file says.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    server: String,
    #[serde(default, skip_serializing_if = "TlsArgs::is_unused")]
    tls: TlsArgs,
}

// === impl Contexts ===

impl Contexts {
    /// Reads the file. One that is not there is empty.
    pub(crate) fn load() -> Result<Self, CliError> {
        match path() {
            Some(path) => Self::read(&path),
            None => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self, CliError> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| {
                let line = error.message().lines().next().unwrap_or_default().to_owned();
                let failed = CliError::failed(format!("{}: {line}", path.display()));
                failed.with_help("correct the file, or remove it and begin anew with `walser context add`")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(CliError::failed(format!("{}: {error}", path.display()))),
        }
    }

    /// Reads the file, changes it, and writes it in one step. Programs that do so at once wait for each other.
    pub(crate) fn change<T>(change: impl FnOnce(&mut Self) -> Result<T, CliError>) -> Result<(T, Self), CliError> {
        let home = "there is no place for the file of contexts: neither XDG_CONFIG_HOME nor HOME is set";
        let path = path().ok_or_else(|| CliError::failed(home))?;
        let failed = |error: std::io::Error| CliError::failed(format!("{}: {error}", path.display()));
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(directory).map_err(failed)?;
        let lock = std::fs::File::create(directory.join("config.lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut contexts = Self::read(&path)?;
        let done = change(&mut contexts)?;
        let text = toml::to_string(&contexts).map_err(|error| CliError::failed(error.to_string()))?;
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok((done, contexts))
    }

    /// The names with their servers, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.contexts.iter().map(|(name, context)| (name.as_str(), context.server.as_str()))
    }

    /// The name and server that are meant when a command names none.
    ///
    /// # Errors
    /// The file names one that it does not have: which server is meant is not known.
    pub(crate) fn current(&self) -> Result<Option<(&str, &str)>, CliError> {
        match self.current.as_deref() {
            Some(name) => Ok(Some((name, self.server(name)?))),
            None => Ok(None),
        }
    }

    /// The server of a name.
    pub(crate) fn server(&self, name: &str) -> Result<&str, CliError> {
        self.contexts.get(name).map(|context| context.server.as_str()).ok_or_else(|| {
            let meant = did_you_mean(name, self.contexts.keys().map(String::as_str));
            let error = CliError::not_found(format!("there is no context \"{name}\"{meant}"));
            error.with_help("`walser context list` shows them, `walser context add NAME HOST:PORT` makes one")
        })
    }

    /// How TLS is used with the server of a name.
    pub(crate) fn tls(&self, name: &str) -> TlsArgs {
        self.contexts.get(name).map(|context| context.tls.clone()).unwrap_or_default()
    }

    /// Adds a server, or gives a name another one. The first one is the current one.
    pub(crate) fn add(&mut self, name: &str, server: &str, tls: TlsArgs) -> Result<(), CliError> {
        if name.is_empty() || name == "-" || name.contains(char::is_whitespace) {
            return Err(CliError::usage(format!("\"{name}\" cannot name a context: it has letters, and no spaces")));
        }
        if self.contexts.len() >= CONTEXTS_MAX {
            return Err(CliError::failed(format!("there are {CONTEXTS_MAX} contexts already")));
        }
        self.contexts.insert(name.to_owned(), Context { server: server.to_owned(), tls });
        self.current.get_or_insert_with(|| name.to_owned());
        Ok(())
    }

    /// Makes a name the current one; `-` is the one before. Gives back the name.
    pub(crate) fn choose(&mut self, name: &str) -> Result<String, CliError> {
        let none = || CliError::failed("there was no other context before");
        let name = if name == "-" { self.previous.clone().ok_or_else(none)? } else { name.to_owned() };
        self.server(&name)?;
        if self.current.as_deref() != Some(&name) {
            self.previous = self.current.replace(name.clone());
        }
        Ok(name)
    }

    /// Forgets a name.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), CliError> {
        self.server(name)?;
        self.contexts.remove(name);
        for place in [&mut self.current, &mut self.previous] {
            place.take_if(|kept| kept == name);
        }
        Ok(())
    }
}

fn path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(directory.join("walser/config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_servers_is_the_current_one() {
        let mut contexts = Contexts::default();
        assert_eq!(contexts.current().unwrap(), None);
        contexts.add("local", "127.0.0.1:7460", TlsArgs::default()).unwrap();
        contexts.add("prod", "10.0.0.7:7460", TlsArgs::default()).unwrap();
        assert_eq!(contexts.current().unwrap(), Some(("local", "127.0.0.1:7460")), "the first one");
        assert!(contexts.choose("-").is_err() && contexts.choose("pord").is_err());
        assert_eq!(contexts.choose("prod").unwrap(), "prod");
        assert_eq!(contexts.choose("-").unwrap(), "local");
        contexts.remove("local").unwrap();
        assert_eq!(contexts.current().unwrap(), None);
        assert!(contexts.remove("local").is_err());
        for bad in ["", "-", "a b"] {
            assert!(contexts.add(bad, "h:1", TlsArgs::default()).is_err());
        }
    }

    #[test]
    fn the_file_comes_back_as_it_was_and_a_bad_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        let mut contexts = Contexts::default();
        contexts.add("prod", "10.0.0.7:7460", TlsArgs::default()).unwrap();
        std::fs::write(&path, toml::to_string(&contexts).unwrap()).unwrap();
        assert_eq!(Contexts::read(&path).unwrap(), contexts);
        std::fs::write(&path, "current = ").unwrap();
        assert!(Contexts::read(&path).is_err());
        assert_eq!(Contexts::read(&directory.path().join("none")).unwrap(), Contexts::default());
    }
}
