//! The storage node as the gateway of its own process calls it: requests go straight into the shard's queue.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use walser_model::TopicPartition;
use walser_record_batch::{BatchHeader, verify_crc};
use walser_replication::FollowerLag;
use walser_rpc::{
    ApiError, AppendBatch, AppendPermit, AppendReply, BatchesRead, DescribedPartition, LaggingReplica, LedPartition,
    OffsetAnswer, OffsetQuery, PartitionNumbers, ReadBatches, Reason, StorageClient,
};

use walser_service::telemetry::{self, BatchSpan};

use crate::fetch::Fetcher;
use crate::replica_registry::{Problem, ReplicaRegistry};
use crate::shard::{AppendJob, Command, Queue};
use crate::shard_set::ShardSet;

/// Look-ups of one call that are under way together.
const LOOK_UPS_AT_ONCE: usize = 8;

/// A storage node in this process.
#[derive(Debug, Clone)]
pub(crate) struct InProcessStorage {
    pub(crate) shards: ShardSet,
    pub(crate) fetcher: Fetcher,
    pub(crate) registry: ReplicaRegistry,
}

impl InProcessStorage {
    fn queue(&self, partition: TopicPartition) -> &Arc<Queue> {
        self.shards.queue(partition)
    }

    /// A span from here to the answer, and what carries it to followers.
    fn traced(&self, id: TopicPartition, traces: &[Arc<str>], reply: AppendReply) -> (AppendReply, Option<Arc<str>>) {
        if traces.is_empty() {
            return (reply, None);
        }
        let (topic, partition) = (self.registry.names.topic(id.topic), id.partition.0);
        let span = telemetry::batch_span(&BatchSpan { name: "append", topic, partition, traces });
        if span.is_none() {
            return (reply, None);
        }
        let carried = telemetry::traceparent(&span).map(Arc::from);
        let told = AppendReply::new(move |outcome| {
            reply.answer(outcome);
            drop(span);
        });
        (told, carried)
    }

    fn figures(&self, partition: TopicPartition) -> DescribedPartition {
        let numbers = self.registry.readable(partition).map(|replica| PartitionNumbers {
            log_start: replica.reader.log_start(),
            high_watermark: replica.high_watermark(),
            bytes: replica.reader.size_bytes(),
        });
        let lag = |lag: FollowerLag| LaggingReplica { node: lag.node, offsets: lag.offsets, behind: lag.behind };
        let led = self.registry.held(partition).filter(|replica| replica.serving());
        let compaction = led.as_ref().and_then(|replica| replica.compaction());
        let lags = led.map(|replica| replica.lags().into_iter().map(lag).collect()).unwrap_or_default();
        let (problem, damaged) = match self.registry.problem(partition) {
            Some(Problem { text, damaged, .. }) => (Some(text), damaged),
            None => (None, false),
        };
        DescribedPartition { numbers, problem, damaged, lags, compaction }
    }
}

/// Checks a batch as far as that needs no shard.
fn header(batch: &Bytes) -> Result<BatchHeader, ApiError> {
    let corrupt = |error: walser_record_batch::HeaderError| ApiError::new(Reason::BatchCorrupt, error.to_string());
    let header = BatchHeader::parse(batch).map_err(corrupt)?;
    if header.size != batch.len() || header.record_count <= 0 || header.last_offset_delta != header.record_count - 1 {
        return Err(ApiError::new(Reason::BatchCorrupt, "the message does not hold exactly one whole batch"));
    }
    Ok(header)
}

/// Checks the bytes of a batch that came over a network. In one process they are those that the gateway has checked or
/// made itself, in the same memory: looking again costs a tenth of the server's time.
///
/// # Errors
/// What to answer when they are damaged.
pub(crate) fn check_bytes(batch: &Bytes) -> Result<(), ApiError> {
    verify_crc(batch).map_err(|error| ApiError::new(Reason::BatchCorrupt, error.to_string()))
}

#[async_trait]
impl StorageClient for InProcessStorage {
    async fn admit(&self, partition: TopicPartition, bytes: usize) -> AppendPermit {
        self.shards.room(partition).admit(partition, bytes).await
    }

    fn append(&self, permit: AppendPermit, batch: AppendBatch, reply: AppendReply) {
        let AppendBatch { partition, record_batch, acks, expected_offset, traces } = batch;
        let header = match header(&record_batch) {
            Ok(header) => header,
            Err(failure) => return reply.answer(Err(failure)),
        };
        let (epoch, partition) = (partition.leader_epoch, partition.id);
        let (reply, trace) = self.traced(partition, &traces, reply);
        let job =
            AppendJob { partition, epoch, header, acks, expected_offset, batch: record_batch, trace, permit, reply };
        self.queue(partition).push(Command::Append(job));
    }

    async fn read(&self, read: ReadBatches) -> Result<BatchesRead, ApiError> {
        self.fetcher.read(&read).await
    }

    async fn look_up_all(
        &self,
        lookups: &[(LedPartition, OffsetQuery)],
    ) -> Result<Vec<Result<OffsetAnswer, ApiError>>, ApiError> {
        let look_up = |(partition, query): &(LedPartition, OffsetQuery)| self.fetcher.look_up(partition.id, *query);
        let lookups: Vec<_> = lookups.iter().map(look_up).collect();
        Ok(stream::iter(lookups).buffered(LOOK_UPS_AT_ONCE).collect().await)
    }

    async fn describe(&self, partitions: &[TopicPartition]) -> Result<Vec<DescribedPartition>, ApiError> {
        Ok(partitions.iter().map(|partition| self.figures(*partition)).collect())
    }
}
