//! Names as people write them: with `*` and `?` for parts of names.

use std::collections::HashSet;
use std::fmt;

use globset::Glob;

use crate::error::{CliError, did_you_mean};

/// What is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Topic,
    Group,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "topic",
            Self::Group => "group",
        })
    }
}

impl Named {
    /// The names that are meant: as they are, and for every pattern those of `known` that fit. Each once, in order.
    ///
    /// # Errors
    /// A pattern that is none, or that nothing fits.
    pub(crate) fn expand(self, names: &[String], known: &[String]) -> Result<Vec<String>, CliError> {
        let mut meant: Vec<String> = Vec::new();
        let mut seen = HashSet::new();
        for name in names {
            // A name that is there is meant, whatever it looks like.
            let literal = !is_pattern(name) || known.contains(name);
            let found = if literal { vec![name.clone()] } else { fitting(name, known)? };
            if found.is_empty() {
                let error = CliError::not_found(format!("no {self} fits the pattern \"{name}\""));
                return Err(error.with_help(self.help()));
            }
            meant.extend(found.into_iter().filter(|name| seen.insert(name.clone())));
        }
        Ok(meant)
    }

    /// Those of the names that are meant. A pattern may fit none.
    ///
    /// # Errors
    /// A name that is not there.
    pub(crate) fn known(self, wanted: &[String], names: &[String]) -> Result<Vec<String>, CliError> {
        let mut found = Vec::new();
        for name in wanted {
            let fits = if names.contains(name) { vec![name.clone()] } else { fitting(name, names)? };
            if fits.is_empty() && !is_pattern(name) {
                let meant = did_you_mean(name, names.iter().map(String::as_str));
                let error = CliError::not_found(format!("{self} \"{name}\" does not exist{meant} ({})", self.reason()));
                return Err(error.with_help(self.help()));
            }
            found.extend(fits);
        }
        Ok(found)
    }

    fn help(self) -> String {
        format!("`walser {self} list` shows the {self}s there are.")
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Topic => "TOPIC_NOT_FOUND",
            Self::Group => "GROUP_NOT_FOUND",
        }
    }
}

/// Whether a name is a pattern.
pub(crate) fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '[', '{'])
}

/// Those of the names that fit a pattern.
fn fitting(pattern: &str, names: &[String]) -> Result<Vec<String>, CliError> {
    let bad = |error: globset::Error| CliError::usage(format!("\"{pattern}\" is not a pattern: {}", error.kind()));
    let glob = Glob::new(pattern).map_err(bad)?.compile_matcher();
    Ok(names.iter().filter(|name| glob.is_match(name)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_the_topics_that_fit() {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let known = texts(&["logs-a", "logs-b", "orders", "logs.c"]);
        let meant = |names: &[&str]| Named::Topic.expand(&texts(names), &known);
        assert_eq!(meant(&["logs-*", "orders"]).unwrap(), ["logs-a", "logs-b", "orders"]);
        assert_eq!(meant(&["orders", "*", "orders"]).unwrap().len(), 4, "each once");
        assert_eq!(meant(&["logs?{b,c}"]).unwrap(), ["logs-b", "logs.c"]);
        let strange = Named::Group.expand(&texts(&["x*"]), &texts(&["x*", "xy"]));
        assert_eq!(strange.unwrap(), ["x*"], "a name that is there is no pattern");
        assert_eq!(meant(&["missing"]).unwrap(), ["missing"], "what is no pattern is asked for");
        assert!(meant(&["x*"]).is_err() && meant(&["logs-["]).is_err());
    }
}
