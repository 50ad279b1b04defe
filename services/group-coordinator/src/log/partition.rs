//! The log of a shard as a partition of the internal topic, on the storage node that leads it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use walser_model::{Acks, LeaderEpoch, Offset, PartitionIndex, TopicPartition};
use walser_rpc::{
    ApiError, AppendBatch, AppendReply, GROUPS_TOPIC, LedPartition, Network, OffsetQuery, ReadBatches, Reason,
    StorageClient,
};

use super::{AppendAck, LogBatch, LogChunk, ShardLog};
use crate::metadata::Metadata;

/// What one read takes, in bytes.
const READ_BYTES: usize = 4 << 20;

/// One partition of the internal topic.
#[derive(Debug, Clone)]
pub(crate) struct PartitionLog {
    metadata: Metadata,
    network: Network,
    partition: PartitionIndex,
}

// === impl PartitionLog ===

impl PartitionLog {
    pub(crate) fn new(metadata: Metadata, network: Network, partition: PartitionIndex) -> Self {
        Self { metadata, network, partition }
    }

    /// The way to the leader.
    fn route(&self) -> Result<(Arc<dyn StorageClient>, LedPartition), ApiError> {
        let unavailable = || {
            let text = format!("partition {} of topic \"{GROUPS_TOPIC}\" has no leader now", self.partition);
            ApiError::new(Reason::LeaderNotAvailable, text)
        };
        let view = self.metadata.view();
        let topic = view.topic_named(GROUPS_TOPIC).ok_or_else(unavailable)?;
        let (leader, leader_epoch) = topic.leader(self.partition).unwrap_or((None, LeaderEpoch::NONE));
        let storage = leader.and_then(|node| self.network.storage_client(node)).ok_or_else(unavailable)?;
        Ok((storage, LedPartition { id: TopicPartition::new(topic.id, self.partition), leader_epoch }))
    }
}

#[async_trait]
impl ShardLog for PartitionLog {
    async fn wait_until_there(&self) {
        self.metadata.wait_until(|view| view.topic_named(GROUPS_TOPIC).is_some()).await;
    }

    async fn end(&self) -> Result<Offset, ApiError> {
        let (storage, partition) = self.route()?;
        let found = storage.look_up(partition, OffsetQuery::Latest).await?;
        found.offset.ok_or_else(|| ApiError::internal("a log has no end"))
    }

    async fn read(&self, from: Offset) -> Result<LogChunk, ApiError> {
        let (storage, partition) = self.route()?;
        let (last_epoch, wait) = (LeaderEpoch::NONE, Duration::ZERO);
        let read = ReadBatches { partition, offset: from, last_epoch, bytes_max: READ_BYTES, wait };
        Ok(LogChunk { record_batches: storage.read(read).await?.record_batches })
    }

    async fn append(&self, batch: LogBatch) -> AppendAck {
        let (told, ack) = oneshot::channel();
        match self.route() {
            Ok((storage, partition)) => {
                let permit = storage.admit(partition.id, batch.record_batch.len()).await;
                let append = AppendBatch {
                    partition,
                    record_batch: batch.record_batch,
                    acks: Acks::All,
                    expected_offset: batch.expected_offset,
                    traces: Vec::new(),
                };
                let reply = AppendReply::new(|outcome| drop(told.send(outcome.map(drop))));
                storage.append(permit, append, reply);
            }
            Err(failure) => drop(told.send(Err(failure))),
        }
        ack
    }
}
