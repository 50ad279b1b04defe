//! The storage link inside a process: requests go straight into the shard's queue.

use std::sync::Arc;

use async_trait::async_trait;
use walser_model::{Acks, Offset, TopicPartition};
use walser_proto::internal::v1::{AppendStreamRequest, FetchStreamRequest, FetchStreamResponse, PartitionRef};
use walser_record_batch::{BatchHeader, verify_crc};
use walser_rpc::{AppendPermit, AppendReply, Failure, Reason, StorageLink};

use crate::fetch::Fetcher;
use crate::shard::{AppendJob, Command, Queue};
use crate::shard_set::ShardSet;

/// The node's end of the link.
#[derive(Debug, Clone)]
pub(crate) struct LocalLink {
    pub(crate) shards: ShardSet,
    pub(crate) fetcher: Fetcher,
}

impl LocalLink {
    fn queue(&self, partition: TopicPartition) -> &Arc<Queue> {
        self.shards.queue(partition)
    }

    /// Checks a request as far as that needs no shard.
    fn job(&self, permit: AppendPermit, request: AppendStreamRequest, reply: AppendReply) -> Option<AppendJob> {
        let checked = check(&request);
        let (partition, epoch, header) = match checked {
            Ok(checked) => checked,
            Err(failure) => {
                reply.fail(failure);
                return None;
            }
        };
        Some(AppendJob {
            partition,
            epoch,
            header,
            acks: Acks::from(request.acks()),
            expected_offset: request.expected_offset.map(Offset),
            batch: request.record_batch,
            permit,
            reply,
        })
    }
}

fn check(request: &AppendStreamRequest) -> Result<(TopicPartition, walser_model::LeaderEpoch, BatchHeader), Failure> {
    let reference = request.r#ref.as_ref().and_then(walser_proto::topic_partition);
    let (partition, epoch) = reference.ok_or_else(|| Failure::field("ref", "is not a partition"))?;
    let batch = &request.record_batch;
    let corrupt = |error: walser_record_batch::HeaderError| Failure::new(Reason::BatchCorrupt, error.to_string());
    let header = BatchHeader::parse(batch).map_err(corrupt)?;
    if header.size != batch.len() || header.record_count <= 0 || header.last_offset_delta != header.record_count - 1 {
        return Err(Failure::new(Reason::BatchCorrupt, "the message does not hold exactly one whole batch"));
    }
    Ok((partition, epoch, header))
}

/// Checks the bytes of a batch that came over a network. In one process they are those that the gateway has checked or
/// made itself, in the same memory: looking again costs a tenth of the server's time.
///
/// Gives back what to answer when they are damaged.
pub(crate) fn damage(request: &AppendStreamRequest) -> Option<Failure> {
    let error = verify_crc(&request.record_batch).err()?;
    Some(Failure::new(Reason::BatchCorrupt, error.to_string()))
}

#[async_trait]
impl StorageLink for LocalLink {
    async fn admit(&self, partition: &PartitionRef, bytes: usize) -> AppendPermit {
        match walser_proto::topic_partition(partition) {
            Some((partition, _)) => self.shards.room(partition).admit(partition, bytes).await,
            None => AppendPermit::uncounted(),
        }
    }

    fn append(&self, permit: AppendPermit, request: AppendStreamRequest, reply: AppendReply) {
        if let Some(job) = self.job(permit, request, reply) {
            self.queue(job.partition).push(Command::Append(job));
        }
    }

    async fn fetch(&self, request: FetchStreamRequest) -> FetchStreamResponse {
        self.fetcher.fetch(request).await
    }
}
