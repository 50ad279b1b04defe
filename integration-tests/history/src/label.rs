//! What names a process, a group or a value: a whole number or a string.

use std::fmt;
use std::sync::Arc;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A whole number or a string. The number 1 and the string "1" are two labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(Inner);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Inner {
    Negative(i64),
    Number(u64),
    Text(Arc<str>),
}

struct LabelVisitor;

// === impl Label ===

impl From<u64> for Label {
    fn from(number: u64) -> Self {
        Self(Inner::Number(number))
    }
}

impl From<i64> for Label {
    fn from(number: i64) -> Self {
        Self(u64::try_from(number).map_or(Inner::Negative(number), Inner::Number))
    }
}

impl From<&str> for Label {
    fn from(text: &str) -> Self {
        Self(Inner::Text(text.into()))
    }
}

impl From<String> for Label {
    fn from(text: String) -> Self {
        Self(Inner::Text(text.into()))
    }
}

/// A string is written with quotes, so that it cannot be taken for a number.
impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Negative(number) => write!(f, "{number}"),
            Inner::Number(number) => write!(f, "{number}"),
            Inner::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Inner::Negative(number) => serializer.serialize_i64(*number),
            Inner::Number(number) => serializer.serialize_u64(*number),
            Inner::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LabelVisitor)
    }
}

// === impl LabelVisitor ===

impl Visitor<'_> for LabelVisitor {
    type Value = Label;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of at most 64 bits, or a string")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Label, E> {
        Ok(number.into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Label, E> {
        Ok(number.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Label, E> {
        Ok(text.into())
    }
}
