//! Identifiers of clusters, nodes, topics, partitions and producers.

use std::fmt;
use std::str::FromStr;

/// A text that is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a UUID of 32 hexadecimal digits")]
pub struct IdError(String);

/// Identifies a topic for ever: a topic that is deleted and created again under the same name gets another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(u128);

/// Identifies a cluster. Written into every data directory at its first use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(u128);

/// A storage node. Real ids start at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub i32);

/// A partition's number within its topic, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionIndex(pub i32);

/// A producer session's id. Negative means "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub i64);

impl ProducerId {
    /// The first of the ids with which gateways write plain records: ids of clients are below.
    pub const INTERNAL_FIRST: Self = Self(1 << 62);
}

/// A producer session's epoch: a higher one fences lower ones of the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerEpoch(pub i16);

/// A partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: TopicId,
    /// Which of its partitions.
    pub partition: PartitionIndex,
}

/// Gives a UUID-backed id its constructors, byte form, text form and parser.
macro_rules! uuid_id {
    ($name:ident) => {
        impl $name {
            /// Makes an id from 16 random bytes, given by the caller, as an RFC 9562 version 4 UUID.
            pub fn from_random(bytes: [u8; 16]) -> Self {
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid().as_u128())
            }

            /// The id whose big-endian bytes these are.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }

            /// Returns the bytes in big-endian order.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// 32 lower-case hexadecimal digits without hyphens: what directories are named by.
            pub fn to_hex(self) -> String {
                format!("{:032x}", self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_u128(self.0).hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let parsed = uuid::Uuid::try_parse(text).map_err(|_| IdError(text.to_owned()))?;
                Ok(Self(parsed.as_u128()))
            }
        }
    };
}

uuid_id!(TopicId);
uuid_id!(ClusterId);

// === impl ProducerId ===

impl ProducerId {
    /// "No producer": what a batch without idempotence carries.
    pub const NONE: Self = Self(-1);

    /// Whether this is a real id.
    pub fn is_some(self) -> bool {
        self.0 >= 0
    }
}

// === impl TopicPartition ===

impl TopicPartition {
    /// Puts the two together.
    pub const fn new(topic: TopicId, partition: PartitionIndex) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic.to_hex(), self.partition.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PartitionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_id_survives_its_text_and_byte_forms() {
        let id = TopicId::from_random([7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_hex().parse(), Ok(id));
        assert_eq!(TopicId::from_bytes(id.to_bytes()), id);
        assert_eq!("orders".parse::<TopicId>(), Err(IdError("orders".to_owned())));
    }
}
