//! The settings of a topic: one table with type, default and documentation of each.
//!
//! To add a setting: add a field to [`TopicConfig`] and its default, and a row to [`SETTINGS`]. Validation, the
//! answer of `ListTopicConfigs`, the command line's help and suggestions for misspelt names all come from the row.

use std::time::Duration;

use crate::cleanup_policy::CleanupPolicy;
use crate::config_value::{
    ConfigType, ValueError, parse_bytes, parse_duration_ms, show_bytes, show_duration_ms, suggest,
};
use crate::durability::{Compression, Durability, TimestampType};
use crate::recovery_policy::RecoveryPolicy;

/// No `max.message.bytes` can be above this (15 MiB), so that a batch fits a gRPC message.
pub const MESSAGE_BYTES_CEILING: i64 = 15 << 20;

const DAY_MS: i64 = 86_400_000;

/// From here on every process of a cluster knows compaction.
const COMPACTION_LEVEL: i32 = 3;

/// How the gateway compresses plain records. Batches that clients built stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionSetting {
    /// As the request says, else none.
    Producer,
    /// This codec unless the request names one.
    Codec(Compression),
}

/// The effective settings of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// What happens to old records.
    pub cleanup_policy: CleanupPolicy,
    /// A log is compacted when at least this part of it was not, in millionths.
    pub dirty_ratio_min: u32,
    /// Records stay as they are for at least this long.
    pub compaction_lag_min: Duration,
    /// They are compacted after this long, however few they are. `None`: no limit.
    pub compaction_lag_max: Option<Duration>,
    /// How long tombstones stay after the first compaction that finds them.
    pub delete_retention: Duration,
    /// How plain records are compressed.
    pub compression: CompressionSetting,
    /// What an offset must rest on before it counts.
    pub durability: Durability,
    /// With `page-cache`: written data is flushed at least this often.
    pub flush_interval: Duration,
    /// An index entry at least every so many bytes of log.
    pub index_interval_bytes: u64,
    /// Largest record batch accepted, in bytes, inclusive.
    pub message_bytes_max: usize,
    /// Timestamps further ahead of the leader's clock are refused. `None`: no limit.
    pub timestamp_after_max: Option<Duration>,
    /// Timestamps further behind the leader's clock are refused. `None`: no limit.
    pub timestamp_before_max: Option<Duration>,
    /// Whose clock stamps the records.
    pub timestamp_type: TimestampType,
    /// Copies that must be in sync for `acks=all`. `None`: as many as the cluster's setting says.
    pub min_insync_replicas: Option<i32>,
    /// How a leader is found where no replica that has everything is in service.
    pub recovery_policy: RecoveryPolicy,
    /// Segments above this total size (per partition, oldest first) go away. `None`: no limit.
    pub retention_bytes: Option<u64>,
    /// Segments whose newest record is older go away. `None`: kept for ever.
    pub retention: Option<Duration>,
    /// A segment is closed when it would exceed this many bytes of log.
    pub segment_bytes: u64,
    /// A segment is closed when its first record is older than this.
    pub segment_age: Duration,
}

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// Kafka's name where Kafka has the setting.
    pub name: &'static str,
    /// How the value is written.
    pub kind: ConfigType,
    /// The default as text.
    pub default: &'static str,
    /// One or two sentences.
    pub documentation: &'static str,
    /// Parses a value and stores it.
    apply: fn(&mut TopicConfig, &str) -> Result<(), ValueError>,
}

/// Why overrides were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no such setting.
    #[error("there is no topic setting \"{name}\"")]
    Unknown {
        /// The name given.
        name: String,
        /// The closest name there is.
        did_you_mean: Option<&'static str>,
    },
    /// The value does not fit.
    #[error("topic setting {name}: {error}")]
    Value {
        /// Which setting.
        name: &'static str,
        /// What is wrong.
        error: ValueError,
    },
}

/// Every setting, by name.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "cleanup.policy",
        kind: ConfigType::Text,
        default: "delete",
        documentation: "What happens to old records: delete removes whole segments by age and size, compact keeps the \
                        newest record of each key, compact,delete does both. A key is needed to write to a compacted topic.",
        apply: |config, text| text.parse().map(|policy| config.cleanup_policy = policy),
    },
    Setting {
        name: "compression.type",
        kind: ConfigType::Text,
        default: "producer",
        documentation: "Codec for plain records whose request names none: producer (none), none, gzip, snappy, lz4 \
                        or zstd. Batches built by clients are stored as they are.",
        apply: |config, text| {
            config.compression =
                match text {
                    "producer" => CompressionSetting::Producer,
                    codec => CompressionSetting::Codec(codec.parse().map_err(|_| {
                        ValueError::one_of(codec, &["producer", "none", "gzip", "snappy", "lz4", "zstd"])
                    })?),
                };
            Ok(())
        },
    },
    Setting {
        name: "delete.retention.ms",
        kind: ConfigType::DurationMs,
        default: "86400000",
        documentation: "With compaction: a tombstone (a record without value) stays for this long after the first \
                        compaction that finds it, so that whoever reads from the start within that time sees it.",
        apply: |config, text| duration(text, 0, i64::MAX).map(|value| config.delete_retention = value),
    },
    Setting {
        name: "durability",
        kind: ConfigType::Text,
        default: "fsync",
        documentation: "What an acknowledged record rests on: fsync survives power loss, page-cache survives only \
                        the death of the process and is flushed every flush.ms.",
        apply: |config, text| text.parse().map(|durability| config.durability = durability),
    },
    Setting {
        name: "flush.ms",
        kind: ConfigType::DurationMs,
        default: "1000",
        documentation: "With durability=page-cache: written records reach the disk at least this often.",
        apply: |config, text| duration(text, 1, DAY_MS).map(|value| config.flush_interval = value),
    },
    Setting {
        name: "index.interval.bytes",
        kind: ConfigType::Bytes,
        default: "4096",
        documentation: "An index entry is made at least every so many bytes of log.",
        apply: |config, text| bytes(text, 512, 1 << 30).map(|value| config.index_interval_bytes = value),
    },
    Setting {
        name: "max.compaction.lag.ms",
        kind: ConfigType::DurationMs,
        default: "-1",
        documentation: "With compaction: closed segments whose newest record is older are compacted, however few they \
                        are. -1: no limit.",
        apply: |config, text| limit(text).map(|value| config.compaction_lag_max = value),
    },
    Setting {
        name: "max.message.bytes",
        kind: ConfigType::Bytes,
        default: "1048588",
        documentation: "Largest record batch accepted, as encoded and compressed. At most 15 MiB.",
        apply: |config, text| {
            let value = bytes(text, 128, MESSAGE_BYTES_CEILING)?;
            config.message_bytes_max = usize::try_from(value).unwrap_or(usize::MAX);
            Ok(())
        },
    },
    Setting {
        name: "message.timestamp.after.max.ms",
        kind: ConfigType::DurationMs,
        default: "3600000",
        documentation: "Records stamped further ahead of the leader's clock are refused (CreateTime only). -1: no \
                        limit.",
        apply: |config, text| limit(text).map(|value| config.timestamp_after_max = value),
    },
    Setting {
        name: "message.timestamp.before.max.ms",
        kind: ConfigType::DurationMs,
        default: "-1",
        documentation: "Records stamped further behind the leader's clock are refused (CreateTime only). -1: no \
                        limit.",
        apply: |config, text| limit(text).map(|value| config.timestamp_before_max = value),
    },
    Setting {
        name: "message.timestamp.type",
        kind: ConfigType::Text,
        default: "CreateTime",
        documentation: "Who stamps records: the producer (CreateTime) or the leader (LogAppendTime).",
        apply: |config, text| text.parse().map(|stamper| config.timestamp_type = stamper),
    },
    Setting {
        name: "min.cleanable.dirty.ratio",
        kind: ConfigType::Text,
        default: "0.5",
        documentation: "With compaction: a log is compacted when this part of its closed segments, in bytes, was not \
                        compacted yet. From 0 to 1.",
        apply: |config, text| {
            let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
            let ratio = ratio.ok_or_else(|| ValueError::rule(text, "a number from 0 to 1"))?;
            config.dirty_ratio_min = format!("{:.0}", ratio * 1e6).parse().unwrap_or(1_000_000);
            Ok(())
        },
    },
    Setting {
        name: "min.compaction.lag.ms",
        kind: ConfigType::DurationMs,
        default: "0",
        documentation: "With compaction: segments with records that are newer than this are not compacted, nor is \
                        what comes behind them.",
        apply: |config, text| duration(text, 0, i64::MAX).map(|value| config.compaction_lag_min = value),
    },
    Setting {
        name: "min.insync.replicas",
        kind: ConfigType::Int,
        default: "",
        documentation: "Replicas that must be in sync for acks=all, the leader included. Default: that of the \
                        cluster (walser cluster config list), and at most the number of replicas.",
        apply: |config, text| {
            let error = || ValueError::rule(text, "an integer of at least 1");
            let value: i32 = text.trim().parse().map_err(|_| error())?;
            config.min_insync_replicas = Some(value).filter(|value| *value >= 1);
            config.min_insync_replicas.map(|_| ()).ok_or_else(error)
        },
    },
    Setting {
        name: "recovery.policy",
        kind: ConfigType::Text,
        default: "manual",
        documentation: "Where no replica that has everything is in service: manual waits for the nodes or for walser \
                        partition elect; balanced elects when all that had everything last are back and have lost \
                        some of it; proactive elects after 5 s whoever has most in service. Records may be lost.",
        apply: |config, text| text.parse().map(|policy| config.recovery_policy = policy),
    },
    Setting {
        name: "retention.bytes",
        kind: ConfigType::Bytes,
        default: "-1",
        documentation: "Per partition: the oldest segments go away while the rest is at least this large. -1: no \
                        limit.",
        apply: |config, text| {
            let value = parse_bytes(text)?;
            config.retention_bytes = u64::try_from(value).ok();
            (value >= -1).then_some(()).ok_or_else(|| ValueError::rule(text, "bytes of at least 0, or -1"))
        },
    },
    Setting {
        name: "retention.ms",
        kind: ConfigType::DurationMs,
        default: "604800000",
        documentation: "Segments whose newest record is older than this go away. -1: records are kept for ever.",
        apply: |config, text| limit(text).map(|value| config.retention = value),
    },
    Setting {
        name: "segment.bytes",
        kind: ConfigType::Bytes,
        default: "1073741824",
        documentation: "A segment file is closed when it would grow above this. Retention removes whole segments.",
        apply: |config, text| bytes(text, 1 << 14, 1 << 30).map(|value| config.segment_bytes = value),
    },
    Setting {
        name: "segment.ms",
        kind: ConfigType::DurationMs,
        default: "604800000",
        documentation: "A segment file is closed when its first record was appended longer ago than this.",
        apply: |config, text| duration(text, 1, i64::MAX).map(|value| config.segment_age = value),
    },
];

fn duration(text: &str, least: i64, most: i64) -> Result<Duration, ValueError> {
    let millis = parse_duration_ms(text)?;
    if !(least..=most).contains(&millis) {
        let most = if most == i64::MAX { String::new() } else { format!(" and at most {most}") };
        return Err(ValueError::rule(text, format!("milliseconds of at least {least}{most}")));
    }
    Ok(Duration::from_millis(millis.unsigned_abs()))
}

fn limit(text: &str) -> Result<Option<Duration>, ValueError> {
    let millis = parse_duration_ms(text)?;
    if millis < -1 {
        return Err(ValueError::rule(text, "milliseconds of at least 0, or -1 for no limit"));
    }
    Ok(u64::try_from(millis).ok().map(Duration::from_millis))
}

fn bytes(text: &str, least: i64, most: i64) -> Result<u64, ValueError> {
    let value = parse_bytes(text)?;
    if !(least..=most).contains(&value) {
        return Err(ValueError::rule(text, format!("bytes from {least} to {most}")));
    }
    Ok(value.unsigned_abs())
}

// === impl Setting ===

impl Setting {
    /// The row with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    /// The row with this name, or an error with a suggestion.
    pub fn require(name: &str) -> Result<&'static Self, ConfigError> {
        Self::named(name).ok_or_else(|| ConfigError::Unknown {
            name: name.to_owned(),
            did_you_mean: suggest(name, SETTINGS.iter().map(|setting| setting.name)),
        })
    }

    /// The feature level from which on every process of a cluster knows the setting with this value.
    pub fn feature_level(&self, value: &str) -> i32 {
        match self.name {
            "cleanup.policy" if value != "delete" => COMPACTION_LEVEL,
            "delete.retention.ms" | "max.compaction.lag.ms" | "min.cleanable.dirty.ratio" | "min.compaction.lag.ms" => {
                COMPACTION_LEVEL
            }
            _ => 1,
        }
    }

    /// A value as people write it: durations and sizes with their unit.
    pub fn shown(&self, canonical: &str) -> String {
        match (self.kind, canonical.parse()) {
            (ConfigType::DurationMs, Ok(millis)) => show_duration_ms(millis),
            (ConfigType::Bytes, Ok(bytes)) => show_bytes(bytes),
            _ => canonical.to_owned(),
        }
    }

    /// `text` as it is stored: durations and sizes become plain numbers.
    pub fn canonical(&self, text: &str) -> Result<String, ConfigError> {
        let text = text.trim();
        let wrap = |error| ConfigError::Value { name: self.name, error };
        (self.apply)(&mut TopicConfig::default(), text).map_err(wrap)?;
        match self.kind {
            ConfigType::DurationMs => parse_duration_ms(text).map(|value| value.to_string()).map_err(wrap),
            ConfigType::Bytes => parse_bytes(text).map(|value| value.to_string()).map_err(wrap),
            ConfigType::Bool | ConfigType::Int | ConfigType::Text => Ok(text.to_owned()),
        }
    }
}

// === impl TopicConfig ===

impl Default for TopicConfig {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self {
            cleanup_policy: CleanupPolicy::Delete,
            dirty_ratio_min: 500_000,
            compaction_lag_min: Duration::ZERO,
            compaction_lag_max: None,
            delete_retention: day,
            compression: CompressionSetting::Producer,
            durability: Durability::Fsync,
            flush_interval: Duration::from_secs(1),
            index_interval_bytes: 4096,
            message_bytes_max: 1_048_588,
            timestamp_after_max: Some(Duration::from_secs(3600)),
            timestamp_before_max: None,
            timestamp_type: TimestampType::CreateTime,
            min_insync_replicas: None,
            recovery_policy: RecoveryPolicy::Manual,
            retention_bytes: None,
            retention: Some(7 * day),
            segment_bytes: 1 << 30,
            segment_age: 7 * day,
        }
    }
}

impl TopicConfig {
    /// The defaults with `overrides` applied.
    ///
    /// # Errors
    /// The first override with an unknown name or a value that does not fit.
    pub fn from_overrides<'a>(overrides: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (name, value) in overrides {
            let setting = Setting::require(name)?;
            let value = setting.canonical(value)?;
            (setting.apply)(&mut config, &value).map_err(|error| ConfigError::Value { name: setting.name, error })?;
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_in_the_table_is_the_default_of_the_struct() {
        let rows = SETTINGS.iter().filter(|setting| !setting.default.is_empty());
        let from_table = TopicConfig::from_overrides(rows.map(|setting| (setting.name, setting.default)));
        assert_eq!(from_table, Ok(TopicConfig::default()));
    }

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(SETTINGS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn values_are_stored_as_plain_numbers() {
        let retention = Setting::named("retention.ms").unwrap();
        assert_eq!(retention.canonical("7d").as_deref(), Ok("604800000"));
        let segment = Setting::named("segment.bytes").unwrap();
        assert_eq!(segment.canonical("64MiB").as_deref(), Ok("67108864"));
    }

    #[test]
    fn what_compaction_needs_is_known_from_a_feature_level_on() {
        let level = |name, value| Setting::named(name).unwrap().feature_level(value);
        assert_eq!((level("cleanup.policy", "delete"), level("retention.ms", "1")), (1, 1));
        for policy in ["compact", "delete, compact", "compact,delete"] {
            assert_eq!(level("cleanup.policy", policy), COMPACTION_LEVEL);
            assert!(policy.parse::<CleanupPolicy>().unwrap().compacts());
        }
        assert_eq!(level("delete.retention.ms", "1"), COMPACTION_LEVEL);
        let ratio = TopicConfig::from_overrides([("min.cleanable.dirty.ratio", "0.01")]).unwrap();
        assert_eq!(ratio.dirty_ratio_min, 10_000);
    }

    #[test]
    fn bad_overrides_say_what_is_wrong() {
        let unknown = TopicConfig::from_overrides([("retention.msec", "1")]).unwrap_err();
        let expected = ConfigError::Unknown { name: "retention.msec".into(), did_you_mean: Some("retention.ms") };
        assert_eq!(unknown, expected);
        for (name, value) in [
            ("cleanup.policy", "compact,remove"),
            ("cleanup.policy", ""),
            ("min.cleanable.dirty.ratio", "1.1"),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("max.message.bytes", "16MiB"),
            ("segment.bytes", "1"),
            ("durability", "maybe"),
        ] {
            assert!(TopicConfig::from_overrides([(name, value)]).is_err(), "{name}={value}");
        }
    }
}
