//! What an acknowledgement rests on, and the codecs a batch can carry.

use std::fmt;
use std::str::FromStr;

use crate::config_value::ValueError;

/// When an offset of a replica counts as safe there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// After `fdatasync`: survives power loss.
    #[default]
    Fsync,
    /// After the write reached the page cache: survives the death of the process, not of the machine.
    PageCache,
}

/// How many copies must exist before a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Acks {
    /// Answered once the request is queued.
    None,
    /// The leader has it.
    Leader,
    /// Every in-sync replica has it.
    #[default]
    All,
}

/// Compression codec of a record batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Records are stored without compression.
    #[default]
    None,
    /// Gzip as in RFC 1952.
    Gzip,
    /// Snappy in the xerial block framing that Kafka clients use.
    Snappy,
    /// The frame format of LZ4.
    Lz4,
    /// Zstandard frames as in RFC 8878.
    Zstd,
}

/// Who stamps a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// The producer stamps its records.
    #[default]
    CreateTime,
    /// The leader, when it appends.
    LogAppendTime,
}

// === impl Durability ===

impl Durability {
    /// The value of the topic setting `durability`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::PageCache => "page-cache",
        }
    }

    /// Returns the one of the two that survives less.
    #[must_use]
    pub fn weaker(self, other: Self) -> Self {
        if self == Self::Fsync { other } else { self }
    }
}

impl FromStr for Durability {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "fsync" => Ok(Self::Fsync),
            "page-cache" => Ok(Self::PageCache),
            _ => Err(ValueError::one_of(text, &["fsync", "page-cache"])),
        }
    }
}

// === impl Acks ===

impl FromStr for Acks {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "none" | "0" => Ok(Self::None),
            "leader" | "1" => Ok(Self::Leader),
            "all" | "-1" => Ok(Self::All),
            _ => Err(ValueError::one_of(text, &["none", "leader", "all"])),
        }
    }
}

// === impl Compression ===

impl Compression {
    /// Every codec, in the order of its attribute bits.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The name used in settings and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let found = Self::ALL.into_iter().find(|codec| codec.name() == text);
        found.ok_or_else(|| ValueError::one_of(text, &["none", "gzip", "snappy", "lz4", "zstd"]))
    }
}

// === impl TimestampType ===

impl TimestampType {
    /// The value of the topic setting `message.timestamp.type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateTime => "CreateTime",
            Self::LogAppendTime => "LogAppendTime",
        }
    }
}

impl FromStr for TimestampType {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "CreateTime" => Ok(Self::CreateTime),
            "LogAppendTime" => Ok(Self::LogAppendTime),
            _ => Err(ValueError::one_of(text, &["CreateTime", "LogAppendTime"])),
        }
    }
}
