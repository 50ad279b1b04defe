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

/// What names select of all that there are.
#[derive(Debug)]
pub(crate) struct Selection {
    named: Named,
    known: Vec<String>,
    /// `None`: everything.
    there: Option<HashSet<String>>,
    missing: Vec<String>,
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
    /// The names that are meant by a command on each: as they are, and for every pattern those of `known` that fit. Each once, in
    /// order.
    ///
    /// # Errors
    /// A pattern that is none, or that nothing fits.
    pub(crate) fn expand(self, names: &[String], known: &[String]) -> Result<Vec<String>, CliError> {
        for name in names {
            if meant_by(name, known)?.is_empty() {
                let error = CliError::not_found(format!("no {self} fits the pattern \"{name}\""));
                return Err(error.with_help(self.help()));
            }
        }
        filter(names, known)
    }

    /// What is selected of `known` by names and patterns, which may fit none; without any it is everything.
    ///
    /// # Errors
    /// A pattern that is none.
    pub(crate) fn select(self, names: &[String], known: Vec<String>) -> Result<Selection, CliError> {
        let (there, missing): (Vec<_>, Vec<_>) =
            filter(names, &known)?.into_iter().partition(|name| known.contains(name));
        let there = (!names.is_empty()).then(|| there.into_iter().collect());
        Ok(Selection { named: self, known, there, missing })
    }

    /// Says which names are not there, if any: what is there was shown. `known`: those that there are.
    ///
    /// # Errors
    /// A name that is not there.
    pub(crate) fn all_there<'a>(
        self,
        missing: &[String],
        known: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), CliError> {
        let what = match missing {
            [] => return Ok(()),
            [name] => format!("{self} \"{name}\" does not exist{}", did_you_mean(name, known)),
            names => format!("{self}s \"{}\" do not exist", names.join("\", \"")),
        };
        Err(CliError::not_found(format!("{what} ({})", self.reason())).with_help(self.help()))
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

// === impl Selection ===

impl Selection {
    /// Whether something is selected.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.there.as_ref().is_none_or(|there| there.contains(name))
    }

    /// Whether there is something to show, be it an empty list.
    pub(crate) fn can_be_shown(&self) -> bool {
        self.missing.is_empty() || self.there.as_ref().is_some_and(|there| !there.is_empty())
    }

    /// Says which of the names are not there, if any: what is there was shown.
    ///
    /// # Errors
    /// A name that is not there.
    pub(crate) fn all_there(&self) -> Result<(), CliError> {
        self.named.all_there(&self.missing, self.known.iter().map(String::as_str))
    }
}

/// Whether a name is a pattern.
pub(crate) fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '[', '{'])
}

/// The names that are meant by a command that shows some of all: as `expand` has them, but a pattern may fit none.
///
/// # Errors
/// A pattern that is none.
pub(crate) fn filter(names: &[String], known: &[String]) -> Result<Vec<String>, CliError> {
    let (mut meant, mut seen) = (Vec::new(), HashSet::new());
    for name in names {
        meant.extend(meant_by(name, known)?.into_iter().filter(|name| seen.insert(name.clone())));
    }
    Ok(meant)
}

/// A name that is there is meant, whatever it looks like.
fn meant_by(name: &String, known: &[String]) -> Result<Vec<String>, CliError> {
    let literal = !is_pattern(name) || known.contains(name);
    if literal { Ok(vec![name.clone()]) } else { fitting(name, known) }
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
        assert_eq!(filter(&texts(&["x*", "orders", "missing"]), &known).unwrap(), ["orders", "missing"]);
        let told = |missing: &[&str]| {
            Named::Group.all_there(&texts(missing), ["orders"]).map_err(|told| told.what().to_owned())
        };
        assert_eq!(told(&[]), Ok(()));
        assert_eq!(
            told(&["order"]).unwrap_err(),
            "group \"order\" does not exist; did you mean \"orders\"? (GROUP_NOT_FOUND)"
        );
        assert_eq!(told(&["a", "b"]).unwrap_err(), "groups \"a\", \"b\" do not exist (GROUP_NOT_FOUND)");
    }
}
