//! Reading for gateways: from the tail cache, else from segment files, waiting for new records when there are none.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use walser_log::{Disk, FoundRecord, Generation, LogReader, ReadError, out_of_files};
use walser_model::{LeaderEpoch, NodeId, Offset, TopicPartition};
use walser_rpc::{ApiError, BatchesRead, LedPartition, OffsetAnswer, OffsetQuery, ReadBatches, Reason};

use crate::error::{end_not_known, not_leader, out_of_range, read_failure, replica_damaged, too_many_files};
use crate::metrics::StorageMetrics;
use crate::replica_registry::{PartitionHandle, ReplicaRegistry};
use crate::shard::Command;
use crate::shard_set::ShardSet;

/// Reads of segment files at once: each holds its result in memory.
const DISK_READS_MAX: usize = 16;
/// Time look-ups at once: each may decode a batch, at a cost of at most [`walser_record_batch::DECODED_COST_MAX`].
const TIME_LOOKUPS_MAX: usize = 4;
/// How often a read that finds too many files open is tried, and after what time again.
const FILE_TRIES: u32 = 100;
const FILE_RETRY: Duration = Duration::from_millis(20);
/// Largest answer, in bytes of batches; one larger batch is still returned.
const BYTES_MAX: usize = 16 << 20;
/// Longest wait for records.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Serves reads. Clones share the limits.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    node: NodeId,
    registry: ReplicaRegistry,
    metrics: StorageMetrics,
    disk_reads: Arc<Semaphore>,
    time_lookups: Arc<Semaphore>,
    shards: ShardSet,
    disk: Arc<dyn Disk>,
}

/// What one look at a partition gave.
enum ReadOutcome {
    Found(Bytes),
    Nothing,
    Diverged(Offset),
}

impl Fetcher {
    pub(crate) fn new(
        node: NodeId,
        registry: ReplicaRegistry,
        metrics: StorageMetrics,
        shards: ShardSet,
        disk: Arc<dyn Disk>,
    ) -> Self {
        let disk_reads = Arc::new(Semaphore::new(DISK_READS_MAX));
        let time_lookups = Arc::new(Semaphore::new(TIME_LOOKUPS_MAX));
        Self { node, registry, metrics, disk_reads, time_lookups, shards, disk }
    }

    /// Reads; waits for up to `wait` while there is nothing yet.
    pub(crate) async fn read(&self, request: &ReadBatches) -> Result<BatchesRead, ApiError> {
        let LedPartition { id: partition, leader_epoch: epoch } = request.partition;
        let replica = self.led(partition, epoch)?;
        let deadline = tokio::time::Instant::now() + request.wait.min(WAIT_MAX);
        let mut high_watermark = replica.watch();
        loop {
            high_watermark.borrow_and_update();
            self.registry.check_contact(partition, &replica)?;
            match self.read_once(partition, &replica, request).await? {
                ReadOutcome::Found(batches) => return Ok(answer(&replica, batches, None)),
                ReadOutcome::Diverged(offset) => return Ok(answer(&replica, Bytes::new(), Some(offset))),
                // Even a timer that is over at once costs a millisecond.
                ReadOutcome::Nothing if request.wait.is_zero() => return Ok(answer(&replica, Bytes::new(), None)),
                ReadOutcome::Nothing => {}
            }
            match tokio::time::timeout_at(deadline, high_watermark.changed()).await {
                Ok(Ok(())) if replica.readable() => {}
                Ok(_) => return Err(replica.not_leader(self.node)),
                Err(_elapsed) => return Ok(answer(&replica, Bytes::new(), None)),
            }
        }
    }

    fn led(&self, partition: TopicPartition, epoch: LeaderEpoch) -> Result<Arc<PartitionHandle>, ApiError> {
        let replica = self.registry.readable(partition)?;
        let current = replica.epoch();
        if !replica.serving() {
            return Ok(replica);
        }
        if epoch != LeaderEpoch::NONE && epoch != current {
            let direction = if epoch < current { "older" } else { "newer" };
            let failure =
                ApiError::new(Reason::StaleEpoch, format!("leader epoch {epoch} is {direction} than {current}"));
            return Err(failure.with("epoch", epoch).with("currentEpoch", current).with("direction", direction));
        }
        Ok(replica)
    }

    async fn read_once(
        &self,
        partition: TopicPartition,
        replica: &Arc<PartitionHandle>,
        request: &ReadBatches,
    ) -> Result<ReadOutcome, ApiError> {
        let from = request.offset;
        let below = replica.high_watermark();
        let last_epoch = request.last_epoch;
        if last_epoch != LeaderEpoch::NONE
            && let Some((_, end)) = replica.reader.end_of_epoch(last_epoch)
            && end < from
        {
            return Ok(ReadOutcome::Diverged(end));
        }
        let (start, end) = (replica.reader.log_start(), replica.reader.log_end());
        if from < start || from > end {
            return Err(out_of_range(from, start, end));
        }
        if from >= below {
            return Ok(ReadOutcome::Nothing);
        }
        let bytes_max = request.bytes_max.min(BYTES_MAX);
        if bytes_max == 0 {
            return Ok(ReadOutcome::Found(Bytes::new()));
        }
        if let Some(batches) = replica.tail.read(from, below, bytes_max) {
            self.metrics.read_from_tail(batches.len());
            return Ok(if batches.is_empty() { ReadOutcome::Nothing } else { ReadOutcome::Found(batches) });
        }
        let slice = self.read_disk(partition, replica, from, below, bytes_max).await?;
        self.metrics.read_from_disk(slice.len());
        Ok(if slice.is_empty() { ReadOutcome::Nothing } else { ReadOutcome::Found(slice) })
    }

    async fn read_disk(
        &self,
        partition: TopicPartition,
        replica: &Arc<PartitionHandle>,
        from: Offset,
        below: Offset,
        bytes_max: usize,
    ) -> Result<Bytes, ApiError> {
        let _permit = self.disk_reads.acquire().await.map_err(|_| not_leader(self.node))?;
        let read = move |reader: LogReader| reader.read(from, below, bytes_max);
        let slice = self.with_files(partition, &replica.reader, read).await?;
        Ok(slice.batches)
    }

    /// Reads on a thread that may block. While too many files are open, others are closed and the read is repeated.
    async fn with_files<T: Send + 'static>(
        &self,
        partition: TopicPartition,
        reader: &LogReader,
        read: impl Fn(LogReader) -> Result<T, ReadError> + Clone + Send + 'static,
    ) -> Result<T, ApiError> {
        for _ in 0..FILE_TRIES {
            let generation = reader.generation();
            let (reader, read) = (reader.clone(), read.clone());
            let outcome = tokio::task::spawn_blocking(move || read(reader)).await;
            match outcome.map_err(|error| ApiError::internal(format!("reading stopped: {error}")))? {
                Err(ReadError::Io(error)) if out_of_files(&error) => {
                    self.shards.queues().for_each(|queue| queue.push(Command::CloseFiles));
                    tokio::time::sleep(FILE_RETRY).await;
                }
                outcome => return outcome.map_err(|error| self.failed(partition, generation, &error)),
            }
        }
        Err(too_many_files(self.disk.open_files().limit, self.node))
    }

    /// Looks an offset up, among what is committed.
    pub(crate) async fn look_up(
        &self,
        partition: TopicPartition,
        query: OffsetQuery,
    ) -> Result<OffsetAnswer, ApiError> {
        let replica = self.registry.readable(partition)?;
        self.registry.check_contact(partition, &replica)?;
        let latest = || replica.latest().ok_or_else(end_not_known);
        let at = |offset: Offset| {
            let epoch = replica.reader.epoch_of(offset);
            let leader_epoch = (epoch != LeaderEpoch::NONE).then_some(epoch);
            OffsetAnswer { offset: Some(offset), timestamp: None, leader_epoch }
        };
        match query {
            OffsetQuery::Earliest => Ok(at(replica.reader.log_start())),
            OffsetQuery::Latest => Ok(at(latest()?)),
            OffsetQuery::Time(timestamp) => {
                let below = latest()?;
                let find = move |reader: LogReader| reader.find_time(timestamp, below);
                let _permit = self.time_lookups.acquire().await.map_err(|_| not_leader(self.node))?;
                Ok(record_found(self.with_files(partition, &replica.reader, find).await?))
            }
            OffsetQuery::Record(offset) => {
                let below = latest()?;
                let find = move |reader: LogReader| reader.find_record(offset, below);
                let _permit = self.disk_reads.acquire().await.map_err(|_| not_leader(self.node))?;
                Ok(record_found(self.with_files(partition, &replica.reader, find).await?))
            }
        }
    }

    /// What to answer to a read that failed. Damage is noted.
    fn failed(&self, partition: TopicPartition, generation: Generation, error: &ReadError) -> ApiError {
        self.shards.note_damage(partition, generation, error);
        match error {
            ReadError::Corrupt { .. } if self.registry.others_in_sync(partition) => replica_damaged(self.node),
            error => read_failure(error, self.node),
        }
    }
}

fn record_found(found: Option<FoundRecord>) -> OffsetAnswer {
    OffsetAnswer {
        offset: found.map(|found| found.offset),
        timestamp: found.map(|found| found.timestamp),
        leader_epoch: found.map(|found| found.leader_epoch),
    }
}

fn answer(replica: &PartitionHandle, record_batches: Bytes, diverging: Option<Offset>) -> BatchesRead {
    BatchesRead {
        record_batches,
        high_watermark: replica.high_watermark(),
        log_start: replica.reader.log_start(),
        leader_epoch: replica.epoch(),
        diverging,
    }
}
