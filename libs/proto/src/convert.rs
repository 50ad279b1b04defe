//! Conversions between wire types and model types.

use bytes::Bytes;
use walser_model::{Acks, Compression, Durability, LeaderEpoch, PartitionIndex, TopicId, TopicPartition};

use crate::internal::v1::PartitionRef;
use crate::v1 as pb;

/// Names a partition on the wire, with the leader epoch the caller believes in.
pub fn partition_ref(partition: TopicPartition, epoch: LeaderEpoch) -> PartitionRef {
    PartitionRef {
        topic_id: Bytes::copy_from_slice(&partition.topic.to_bytes()),
        partition: partition.partition.0,
        leader_epoch: epoch.0,
    }
}

/// Reads a partition's name. `None` when the topic id is not 16 bytes or the number is negative.
pub fn topic_partition(wire: &PartitionRef) -> Option<(TopicPartition, LeaderEpoch)> {
    let topic = TopicId::from_bytes(wire.topic_id.as_ref().try_into().ok()?);
    let partition = (wire.partition >= 0).then_some(PartitionIndex(wire.partition))?;
    Some((TopicPartition::new(topic, partition), LeaderEpoch(wire.leader_epoch)))
}

impl From<pb::Acks> for Acks {
    fn from(wire: pb::Acks) -> Self {
        match wire {
            pb::Acks::None => Self::None,
            pb::Acks::Leader => Self::Leader,
            pb::Acks::All | pb::Acks::Unspecified => Self::All,
        }
    }
}

impl From<Acks> for pb::Acks {
    fn from(acks: Acks) -> Self {
        match acks {
            Acks::None => Self::None,
            Acks::Leader => Self::Leader,
            Acks::All => Self::All,
        }
    }
}

impl From<Compression> for pb::Compression {
    fn from(codec: Compression) -> Self {
        match codec {
            Compression::None => Self::None,
            Compression::Gzip => Self::Gzip,
            Compression::Snappy => Self::Snappy,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => Self::Zstd,
        }
    }
}

impl pb::Compression {
    /// The codec, or `None` when the request leaves it to the topic.
    pub fn chosen(self) -> Option<Compression> {
        match self {
            Self::Unspecified => None,
            Self::None => Some(Compression::None),
            Self::Gzip => Some(Compression::Gzip),
            Self::Snappy => Some(Compression::Snappy),
            Self::Lz4 => Some(Compression::Lz4),
            Self::Zstd => Some(Compression::Zstd),
        }
    }
}

impl From<Durability> for pb::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Fsync => Self::Fsync,
            Durability::PageCache => Self::PageCache,
        }
    }
}
