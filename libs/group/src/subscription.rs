//! What members want to read.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use regex::bytes::{Regex, RegexBuilder};
use walser_model::TopicName;

use crate::config::Config;
use crate::error::GroupError;

/// How partitions are shared among members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assignor {
    /// Spreads partitions evenly and moves as few as it can.
    #[default]
    Uniform,
    /// Gives each member a contiguous range of every topic, so that topics with equal partition counts can be joined.
    Range,
}

/// The topics that a member reads: those that it names, and those whose whole name its pattern matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Topics that exist, or may come. None that belong to Walser itself.
    pub topics: BTreeSet<TopicName>,
    /// A regular expression in the syntax of RE2. It never matches topics that belong to Walser itself.
    pub pattern: Option<String>,
    /// The assignor that the member prefers; the group uses the one that most members prefer.
    pub assignor: Option<Assignor>,
}

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Pattern(Regex);

// === impl Assignor ===

impl Assignor {
    /// The name in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }
}

impl FromStr for Assignor {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        match text {
            "uniform" => Ok(Self::Uniform),
            "range" => Ok(Self::Range),
            _ => Err(GroupError::AssignorUnsupported { assignor: text.chars().take(64).collect() }),
        }
    }
}

impl fmt::Display for Assignor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Subscription ===

impl Subscription {
    /// Checks the limits and the pattern.
    pub(crate) fn check(&self, config: &Config) -> Result<(), GroupError> {
        if self.topics.is_empty() && self.pattern.is_none() {
            let rule = "name at least one topic, or a pattern".to_owned();
            return Err(GroupError::FieldInvalid { field: "topics", actual: "empty".to_owned(), rule });
        }
        if self.topics.len() > config.member_topics_max {
            return Err(GroupError::too_many("topics", self.topics.len(), config.member_topics_max));
        }
        if let Some(topic) = self.topics.iter().find(|topic| topic.reserved()) {
            let rule = format!("\"{topic}\" belongs to Walser itself; groups cannot read it");
            return Err(GroupError::FieldInvalid { field: "topics", actual: topic.to_string(), rule });
        }
        match &self.pattern {
            Some(pattern) if pattern.len() > config.pattern_bytes_max => {
                Err(GroupError::too_many("topic_pattern", pattern.len(), config.pattern_bytes_max))
            }
            Some(pattern) => Pattern::compile(pattern, config).map(drop),
            None => Ok(()),
        }
    }
}

// === impl Pattern ===

impl Pattern {
    /// Compiles a pattern that matches whole names.
    pub(crate) fn compile(pattern: &str, config: &Config) -> Result<Self, GroupError> {
        let compile = |pattern: &str| {
            let mut builder = RegexBuilder::new(pattern);
            // Names of topics are ASCII: classes such as `\w` need no tables of Unicode.
            builder.unicode(false).nest_limit(64).size_limit(config.pattern_compiled_bytes_max);
            builder.dfa_size_limit(config.pattern_compiled_bytes_max).build()
        };
        // By itself first: a pattern such as `a)|(b` must not escape from the group around it.
        let compiled = compile(pattern).and_then(|_| compile(&format!(r"\A(?:{pattern})\z")));
        compiled.map(Self).map_err(|error| GroupError::FieldInvalid {
            field: "topic_pattern",
            actual: format!("{:?}", pattern.chars().take(64).collect::<String>()),
            rule: format!("it must be a regular expression in the syntax of RE2: {}", last_line(&error)),
        })
    }

    pub(crate) fn matches(&self, topic: &TopicName) -> bool {
        !topic.reserved() && self.0.is_match(topic.as_str().as_bytes())
    }
}

/// What is wrong, without the drawing of where.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(pattern: &str) -> Subscription {
        Subscription { pattern: Some(pattern.to_owned()), ..Subscription::default() }
    }

    #[test]
    fn a_pattern_matches_whole_names_and_no_reserved_ones() {
        let pattern = Pattern::compile(r"orders-\d+|.*pay", &Config::default()).unwrap();
        let matches = |name: &str| pattern.matches(&name.parse().unwrap());
        assert!(matches("orders-1") && matches("a.pay"));
        assert!(!matches("orders-1x") && !matches("my-orders-1") && !matches("__pay"));
    }

    #[test]
    fn what_is_no_pattern_or_too_large_is_refused() {
        let config = Config::default();
        for bad in ["(", "a)|(b", r"(a)\1", "(?=a)", r"(\w{500}){500}", &"(".repeat(200), &"a".repeat(1_025)] {
            let refused = subscription(bad).check(&config).unwrap_err();
            assert_eq!(refused.reason(), "FIELD_INVALID", "{bad}");
        }
        let named = |topic: &str| Subscription { topics: [topic.parse().unwrap()].into(), ..Subscription::default() };
        let reserved = named("__walser_groups").check(&config).unwrap_err();
        assert!(reserved.reason() == "FIELD_INVALID" && reserved.to_string().contains("__walser_groups"), "{reserved}");
        assert!(named("walser__groups").check(&config).is_ok());
        assert!(subscription("").check(&config).is_ok());
        assert_eq!(Subscription::default().check(&config).unwrap_err().reason(), "FIELD_INVALID");
        assert_eq!("sticky".parse::<Assignor>().unwrap_err().reason(), "ASSIGNOR_UNSUPPORTED");
    }
}
