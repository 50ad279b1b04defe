//! The words of Walser as types: names, ids, offsets, epochs, settings and time.
//!
//! This crate has no I/O, no async and no wire format. Everything above it speaks in these types, so that a
//! topic name that was never validated, or an offset where an epoch belongs, does not compile.

mod cleanup_policy;
mod clock;
mod config_value;
mod durability;
mod id;
mod leader_epochs;
mod offset;
mod producer_window;
mod recovery_policy;
mod topic_config;
mod topic_name;

pub use cleanup_policy::CleanupPolicy;
pub use clock::{Clock, Random, SystemClock, SystemRandom, Timestamp, whole_millis};
pub use config_value::{ConfigType, ValueError, parse_bytes, parse_duration_ms, show_bytes, show_duration_ms, suggest};
pub use durability::{Acks, Compression, Durability, TimestampType};
pub use id::{ClusterId, IdError, NodeId, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicPartition};
pub use leader_epochs::{EpochStart, LeaderEpochs};
pub use offset::{LeaderEpoch, Offset};
pub use producer_window::{ProducerWindow, REMEMBERED_BATCHES, RememberedBatch, SequenceCheck, Sequences};
pub use recovery_policy::RecoveryPolicy;
pub use topic_config::{CompressionSetting, ConfigError, MESSAGE_BYTES_CEILING, SETTINGS, Setting, TopicConfig};
pub use topic_name::{RESERVED_PREFIX, TOPIC_NAME_PATTERN, TopicName, TopicNameError};
