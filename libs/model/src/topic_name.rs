//! Topic names.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Names with this prefix belong to Walser itself.
pub const RESERVED_PREFIX: &str = "__";

/// The rule for topic names, as shown in errors.
pub const TOPIC_NAME_PATTERN: &str = "[A-Za-z0-9._-]{1,249}, not \".\" or \"..\"";

const LENGTH_MAX: usize = 249;

/// A valid topic name: 1 to 249 characters of `[A-Za-z0-9._-]`, not `.` or `..` (the rule of Kafka).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Why a text is not a topic name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    #[error("a topic name cannot be empty")]
    Empty,
    /// The name is `.` or `..`.
    #[error("a topic name cannot be \".\" or \"..\"")]
    Dots,
    /// The name is longer than 249 characters.
    #[error("a topic name has at most 249 characters, this one has {0}")]
    TooLong(usize),
    /// A character outside `[A-Za-z0-9._-]`.
    #[error("a topic name cannot contain {0:?}")]
    Character(char),
}

impl TopicName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name belongs to Walser itself.
    pub fn reserved(&self) -> bool {
        self.0.starts_with(RESERVED_PREFIX)
    }
}

impl FromStr for TopicName {
    type Err = TopicNameError;

    fn from_str(text: &str) -> Result<Self, TopicNameError> {
        if text.is_empty() {
            return Err(TopicNameError::Empty);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some(character) = text.chars().find(|c| !allowed(*c)) {
            return Err(TopicNameError::Character(character));
        }
        if text.len() > LENGTH_MAX {
            return Err(TopicNameError::TooLong(text.len()));
        }
        if text == "." || text == ".." {
            return Err(TopicNameError::Dots);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_of_kafka() {
        for good in ["a", "orders", "A.b_c-9", "...", &"x".repeat(249)] {
            assert!(good.parse::<TopicName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../../etc/passwd", "a b", "a\0b", "%2e%2e", "\u{43e}rders", &"x".repeat(250)] {
            assert!(bad.parse::<TopicName>().is_err(), "{bad:?}");
        }
    }
}
