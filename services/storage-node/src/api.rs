//! `StorageService`: decode, hand over, encode.

mod replication;

use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use walser_log::{DataDirectory, LogReader, ReadError};
use walser_model::{LeaderEpoch, Offset, TopicId, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::storage_service_server::StorageService;
use walser_rpc::{
    ApiError, AppendReply, ControllerClient, LedPartition, Reason, ReplicaHeld, StorageClient as _, append_of_message,
    append_outcome_message, described_message, offset_answer_message, offset_query_of_message, read_of_message,
    read_outcome_message,
};
use walser_service::Shutdown;

use crate::disposal::Disposal;
use crate::error::not_leader;
use crate::in_process::{InProcessStorage, check_bytes};
use crate::replica_registry::{PartitionHandle, ReplicaRegistry};
use crate::shard::Command;

pub(crate) use replication::{Links, MESSAGE_BYTES_MAX};

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers of a stream that may wait for their reader; the sender's byte permits bound their number too.
const ANSWERS_MAX: usize = 4096;

/// The services of a node.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) node: walser_model::NodeId,
    pub(crate) storage: InProcessStorage,
    pub(crate) registry: ReplicaRegistry,
    pub(crate) directory: Arc<DataDirectory>,
    pub(crate) controller: ControllerClient,
    pub(crate) node_epoch: Arc<AtomicI64>,
    pub(crate) disposal: Disposal,
    /// Ends the streams that gateways hold open.
    pub(crate) shutdown: Shutdown,
}

/// How long a list of what is set aside waits for partitions that are still being moved.
const SET_ASIDE_WAIT: Duration = Duration::from_secs(2);
/// Time between two looks at them.
const SET_ASIDE_CHECK: Duration = Duration::from_millis(20);
/// How long a repair waits until its new leader epoch has begun here.
const EPOCH_WAIT: Duration = Duration::from_secs(5);
/// Time between two looks at it.
const EPOCH_CHECK: Duration = Duration::from_millis(5);
/// Bytes of a log that are read at once while damage is looked for.
const READ_BYTES: usize = 4 << 20;
/// Reads of the same offset that find nothing there.
const READS_AGAIN_MAX: usize = 100;

fn partition(reference: Option<&pbi::PartitionRef>) -> Result<TopicPartition, ApiError> {
    let found = reference.and_then(walser_proto::topic_partition);
    Ok(found.ok_or_else(|| ApiError::field("ref", "is not a partition"))?.0)
}

/// Where the first damage of a log is. Blocks as long as reading all of it takes, or somebody `waits` for that.
fn first_damage(reader: &LogReader, waits: &Weak<()>) -> Result<Option<Offset>, ReadError> {
    let (mut at, mut unread) = (reader.retained(), 0);
    while at < reader.log_end() && unread < READS_AGAIN_MAX && waits.strong_count() > 0 {
        match reader.read_retained(at, reader.log_end(), READ_BYTES) {
            // What was cut or removed meanwhile is read again.
            Ok(slice) if slice.next_offset == at => (at, unread) = (at.max(reader.retained()), unread + 1),
            Ok(slice) => (at, unread) = (slice.next_offset, 0),
            Err(ReadError::Corrupt { at }) => return Ok(Some(at)),
            Err(ReadError::OutOfRange { start, .. }) if start > at => at = start,
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

impl Api {
    /// Has the controller begin a new leader epoch, before offsets are used again that the present one has used.
    async fn begin_epoch_for_repair(&self, id: TopicPartition) -> Result<LeaderEpoch, ApiError> {
        if let Some(refused) = self.registry.writes_refused() {
            return Err(refused);
        }
        let replica = self.registry.led(id)?;
        let (node_epoch, led) =
            (self.node_epoch.load(Ordering::Acquire), LedPartition { id, leader_epoch: replica.epoch() });
        self.find_all_damage(id, &replica).await?;
        // It is said of this leader epoch, or of a later one: then the controller refuses.
        self.ask(id, |reply| Command::CheckRepair { partition: id, reply }).await?;
        let wanted = self.controller.give_up_records(node_epoch, led).await?;
        let begun = async {
            while replica.epoch() < wanted {
                tokio::time::sleep(EPOCH_CHECK).await;
            }
        };
        let late = |_| ApiError::new(Reason::ControllerNotAvailable, "the new leader epoch has not arrived; try again");
        tokio::time::timeout(EPOCH_WAIT, begun).await.map_err(late)?;
        Ok(wanted)
    }

    /// Reads all of a log that a repair would keep: it is cut at the first damage, which may lie below what was met so far.
    async fn find_all_damage(&self, id: TopicPartition, replica: &PartitionHandle) -> Result<(), ApiError> {
        let (reader, asked) = (replica.reader.clone(), Arc::new(()));
        let generation = reader.generation();
        let waits = Arc::downgrade(&asked);
        let found = tokio::task::spawn_blocking(move || first_damage(&reader, &waits)).await;
        drop(asked);
        let failed = |error: &dyn std::fmt::Display| {
            ApiError::new(Reason::StorageError, format!("the log cannot be read: {error}"))
        };
        if let Some(from) = found.map_err(|error| failed(&error))?.map_err(|error| failed(&error))? {
            self.storage.shards.queue(id).push(Command::Damaged { partition: id, from, generation });
        }
        Ok(())
    }

    /// The next request of a stream that its sender holds open for as long as it lives. `None` when the sender has ended
    /// it, and when this node stops: what was taken before is answered, and then the stream ends.
    async fn next<T>(&self, requests: &mut Streaming<T>) -> Option<T> {
        tokio::select! {
            request = requests.next() => request?.ok(),
            () = self.shutdown.wait() => None,
        }
    }

    async fn ask<T>(
        &self,
        id: TopicPartition,
        command: impl FnOnce(oneshot::Sender<Result<T, ApiError>>) -> Command,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.storage.shards.queue(id).push(command(reply));
        answer.await.map_err(|_| not_leader(self.node))?
    }
}

#[async_trait]
impl StorageService for Api {
    type AppendStreamStream = Answers<pbi::AppendStreamResponse>;

    async fn append_stream(
        &self,
        request: Request<Streaming<pbi::AppendStreamRequest>>,
    ) -> Answer<Self::AppendStreamStream> {
        let mut requests = request.into_inner();
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let (api, storage) = (self.clone(), self.storage.clone());
        tokio::spawn(async move {
            while let Some(request) = api.next(&mut requests).await {
                let number = request.correlation_id;
                let Ok(slot) = answers.clone().reserve_owned().await else { return };
                let told = move |outcome| drop(slot.send(Ok(append_outcome_message(number, outcome))));
                let reply = AppendReply::new(told);
                let checked = append_of_message(request);
                match checked.and_then(|batch| check_bytes(&batch.record_batch).map(|()| batch)) {
                    Ok(batch) => {
                        let permit = storage.admit(batch.partition.id, batch.record_batch.len()).await;
                        storage.append(permit, batch, reply);
                    }
                    Err(failure) => reply.answer(Err(failure)),
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type FetchStreamStream = Answers<pbi::FetchStreamResponse>;

    async fn fetch_stream(
        &self,
        request: Request<Streaming<pbi::FetchStreamRequest>>,
    ) -> Answer<Self::FetchStreamStream> {
        let mut requests = request.into_inner();
        let (answers, stream) = mpsc::channel(16);
        let (api, storage) = (self.clone(), self.storage.clone());
        tokio::spawn(async move {
            let mut running = std::collections::HashMap::new();
            while let Some(request) = api.next(&mut requests).await {
                let id = request.correlation_id;
                if request.cancel {
                    running.remove(&id).inspect(|task: &tokio::task::JoinHandle<()>| task.abort());
                    continue;
                }
                running.retain(|_, task| !task.is_finished());
                let (storage, answers) = (storage.clone(), answers.clone());
                let task = tokio::spawn(async move {
                    let outcome = match read_of_message(&request) {
                        Ok(read) => storage.read(read).await,
                        Err(failure) => Err(failure),
                    };
                    let _ = answers.send(Ok(read_outcome_message(id, outcome))).await;
                });
                running.insert(id, task);
            }
            running.values().for_each(tokio::task::JoinHandle::abort);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn lookup_offsets(&self, request: Request<pbi::LookupOffsetsRequest>) -> Answer<pbi::LookupOffsetsResponse> {
        let lookups = request.get_ref().lookups.iter().map(offset_query_of_message).collect::<Result<Vec<_>, _>>()?;
        let found = self.storage.look_up_all(&lookups).await?.into_iter().map(offset_answer_message).collect();
        Ok(Response::new(pbi::LookupOffsetsResponse { found }))
    }

    async fn delete_records(&self, request: Request<pbi::DeleteRecordsRequest>) -> Answer<pbi::DeleteRecordsResponse> {
        let request = request.get_ref();
        let id = partition(request.r#ref.as_ref())?;
        let before = Offset(request.before_offset);
        let log_start = self.ask(id, |reply| Command::DeleteRecords { partition: id, before, reply }).await?;
        Ok(Response::new(pbi::DeleteRecordsResponse { log_start_offset: log_start.0 }))
    }

    async fn describe_partitions(
        &self,
        request: Request<pbi::DescribePartitionsRequest>,
    ) -> Answer<pbi::DescribePartitionsResponse> {
        let partitions = request.get_ref().refs.iter().map(|reference| partition(Some(reference)));
        let figures = self.storage.describe(&partitions.collect::<Result<Vec<_>, _>>()?).await?;
        let figures = figures.into_iter().map(described_message).collect();
        Ok(Response::new(pbi::DescribePartitionsResponse { figures }))
    }

    async fn repair_partition(
        &self,
        request: Request<pbi::RepairPartitionRequest>,
    ) -> Answer<pbi::RepairPartitionResponse> {
        let request = request.get_ref();
        if !request.accept_loss {
            return Err(ApiError::field("accept_loss", "must be true: records at and above the damage are lost").into());
        }
        let id = partition(request.r#ref.as_ref())?;
        let epoch = self.begin_epoch_for_repair(id).await?;
        let repaired = self.ask(id, |reply| Command::Repair { partition: id, epoch, reply }).await?;
        Ok(Response::new(pbi::RepairPartitionResponse {
            old_end_offset: repaired.old_end.0,
            new_end_offset: repaired.new_end.0,
            bytes_set_aside: i64::try_from(repaired.bytes_set_aside).unwrap_or(i64::MAX),
        }))
    }

    async fn list_set_aside(&self, _request: Request<pbi::ListSetAsideRequest>) -> Answer<pbi::ListSetAsideResponse> {
        let begun = tokio::time::Instant::now();
        // A node that does not obey the controller yet has not looked at what its metadata does not know.
        let moving = || self.registry.writes_refused().is_some() || self.disposal.sets_aside();
        while moving() && begun.elapsed() < SET_ASIDE_WAIT {
            tokio::time::sleep(SET_ASIDE_CHECK).await;
        }
        // Looked at before the list is made: what is moved meanwhile is in it.
        let incomplete = moving();
        let replica = |aside: walser_log::SetAside| pbi::SetAsideReplica {
            replica: Some(
                ReplicaHeld {
                    partition: aside.partition,
                    log_end: aside.log_end,
                    leader_epoch: aside.leader_epoch,
                    damaged: false,
                }
                .into(),
            ),
            size_bytes: i64::try_from(aside.size_bytes).unwrap_or(i64::MAX),
            set_aside_millis: aside.since,
        };
        let replicas = self.directory.set_aside_partitions().into_iter().map(replica).collect();
        Ok(Response::new(pbi::ListSetAsideResponse { replicas, incomplete }))
    }

    async fn delete_set_aside(
        &self,
        request: Request<pbi::DeleteSetAsideRequest>,
    ) -> Answer<pbi::DeleteSetAsideResponse> {
        let request = request.into_inner();
        let bytes = request.topic_id.as_ref().try_into().map_err(|_| ApiError::field("topic_id", "is not a UUID"))?;
        let topic = TopicId::from_bytes(bytes);
        let directory = Arc::clone(&self.directory);
        let deleted = tokio::task::spawn_blocking(move || {
            let mut response = pbi::DeleteSetAsideResponse::default();
            let of_topic = directory.set_aside_partitions().into_iter().map(|aside| aside.partition);
            for partition in of_topic.filter(|partition| partition.topic == topic) {
                if request.partition.is_none_or(|number| number == partition.partition.0)
                    && let Some(freed) = directory.delete_set_aside(partition)?
                {
                    response.deleted_count += 1;
                    response.freed_bytes += i64::try_from(freed).unwrap_or(i64::MAX);
                }
            }
            Ok::<_, std::io::Error>(response)
        });
        let deleted = deleted.await.map_err(|error| ApiError::internal(format!("deleting stopped: {error}")))?;
        let failed = |error| ApiError::new(Reason::StorageError, format!("deleting failed: {error}"));
        Ok(Response::new(deleted.map_err(failed)?))
    }
}
