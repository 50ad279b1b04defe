//! A storage node in another process.

mod messages;
mod pipelined_stream;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use walser_model::{NodeId, TopicPartition};
use walser_proto::internal::v1::storage_service_client::StorageServiceClient;
use walser_proto::internal::v1::{AppendStreamRequest, AppendStreamResponse, FetchStreamRequest, FetchStreamResponse};

use self::messages::{
    append_message, append_outcome, describe_message, figures, look_up_message, offset_answer, read_message,
    read_outcome,
};
pub use self::messages::{
    append_of_message, append_outcome_message, described_message, offset_answer_message, offset_query_of_message,
    read_of_message, read_outcome_message,
};
use self::pipelined_stream::{Lost, PipelinedStream, Wire};
use crate::storage_client::{
    AppendBatch, BatchesRead, DescribedPartition, LedPartition, OffsetAnswer, OffsetQuery, ReadBatches, StorageClient,
};
use crate::{ApiError, AppendBudget, AppendPermit, AppendReply, Connection, Reason};

/// Streams per node and direction, each on a connection of its own: one connection is the work of one core.
const LANES: usize = 4;
/// Bytes of appends to one node that are not answered yet.
const APPEND_BYTES_MAX: usize = 64 << 20;
/// Largest message in either direction: the largest batch, or a read of several.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A storage node in another process.
#[derive(Debug)]
pub(crate) struct GrpcStorage {
    node: NodeId,
    calls: StorageServiceClient<Connection>,
    room: AppendBudget,
    appends: Vec<PipelinedStream<Appends>>,
    fetches: Vec<PipelinedStream<Fetches>>,
}

/// `AppendStream`.
#[derive(Debug, Clone)]
struct Appends(Connection);

/// `FetchStream`.
#[derive(Debug, Clone)]
struct Fetches(Connection);

fn client(connection: &Connection) -> StorageServiceClient<Connection> {
    let client = StorageServiceClient::new(connection.clone());
    client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

#[async_trait]
impl Wire for Appends {
    type Request = AppendStreamRequest;
    type Answer = AppendStreamResponse;

    async fn open(&self, requests: ReceiverStream<Self::Request>) -> Result<Streaming<Self::Answer>, Status> {
        Ok(client(&self.0).append_stream(requests).await?.into_inner())
    }

    fn number(request: &mut Self::Request, number: i64) {
        request.correlation_id = number;
    }

    fn answered(answer: &Self::Answer) -> i64 {
        answer.correlation_id
    }

    fn cancel(_number: i64) -> Option<Self::Request> {
        None
    }
}

#[async_trait]
impl Wire for Fetches {
    type Request = FetchStreamRequest;
    type Answer = FetchStreamResponse;

    async fn open(&self, requests: ReceiverStream<Self::Request>) -> Result<Streaming<Self::Answer>, Status> {
        Ok(client(&self.0).fetch_stream(requests).await?.into_inner())
    }

    fn number(request: &mut Self::Request, number: i64) {
        request.correlation_id = number;
    }

    fn answered(answer: &Self::Answer) -> i64 {
        answer.correlation_id
    }

    fn cancel(number: i64) -> Option<Self::Request> {
        Some(FetchStreamRequest { correlation_id: number, cancel: true, ..Default::default() })
    }
}

impl GrpcStorage {
    /// A client of `node`; `connect` makes connections that connect when they are used.
    pub(crate) fn new(node: NodeId, mut connect: impl FnMut() -> Connection) -> Self {
        Self {
            node,
            calls: StorageServiceClient::new(connect()),
            room: AppendBudget::new(APPEND_BYTES_MAX),
            appends: (0..LANES).map(|_| PipelinedStream::start(Appends(connect()))).collect(),
            fetches: (0..LANES).map(|_| PipelinedStream::start(Fetches(connect()))).collect(),
        }
    }
}

/// What a caller is told that has no answer.
fn failure(node: NodeId, lost: Lost) -> ApiError {
    match lost {
        Lost::Unsent => {
            let text = format!("storage node {node} cannot be reached");
            ApiError::new(Reason::LeaderNotAvailable, text).with("nodeId", node)
        }
        Lost::Sent => {
            let text = format!("the connection to storage node {node} broke before the answer came");
            ApiError::new(Reason::LeaderLostAfterAppend, text).with("nodeId", node).with("appended", "unknown")
        }
    }
}

/// The lane of a partition: always the same one, so that its requests keep their order.
fn lane<T>(lanes: &[T], partition: TopicPartition) -> &T {
    let mut hasher = DefaultHasher::new();
    partition.hash(&mut hasher);
    let number = usize::try_from(hasher.finish() % lanes.len() as u64).unwrap_or(0);
    &lanes[number]
}

#[async_trait]
impl StorageClient for GrpcStorage {
    async fn admit(&self, partition: TopicPartition, bytes: usize) -> AppendPermit {
        self.room.admit(partition, bytes).await
    }

    fn append(&self, permit: AppendPermit, batch: AppendBatch, reply: AppendReply) {
        let node = self.node;
        let answered = move |outcome: Result<AppendStreamResponse, Lost>| {
            drop(permit);
            reply.answer(outcome.map_err(|lost| failure(node, lost)).and_then(append_outcome));
        };
        lane(&self.appends, batch.partition.id).send(append_message(batch), answered);
    }

    async fn read(&self, read: ReadBatches) -> Result<BatchesRead, ApiError> {
        let (told, outcome) = oneshot::channel();
        let lane = lane(&self.fetches, read.partition.id);
        let number = lane.send(read_message(&read), |outcome| drop(told.send(outcome)));
        let mut waiting = Waiting { lane, number, over: false };
        let outcome = outcome.await;
        waiting.over = true;
        // A read changes nothing: it can be repeated whether or not it arrived.
        let answer = outcome.ok().and_then(Result::ok).ok_or_else(|| failure(self.node, Lost::Unsent))?;
        read_outcome(answer)
    }

    async fn look_up_all(
        &self,
        lookups: &[(LedPartition, OffsetQuery)],
    ) -> Result<Vec<Result<OffsetAnswer, ApiError>>, ApiError> {
        let answer = self.calls.clone().lookup_offsets(look_up_message(lookups)).await?.into_inner();
        Ok(answer.found.into_iter().map(offset_answer).collect())
    }

    fn give_up(&self) {
        self.appends.iter().for_each(PipelinedStream::reset);
        self.fetches.iter().for_each(PipelinedStream::reset);
    }

    async fn describe(&self, partitions: &[TopicPartition]) -> Result<Vec<DescribedPartition>, ApiError> {
        let answer = self.calls.clone().describe_partitions(describe_message(partitions)).await?.into_inner();
        Ok(answer.figures.into_iter().map(figures).collect())
    }
}

/// Takes a fetch back when nobody waits for it any more.
struct Waiting<'a> {
    lane: &'a PipelinedStream<Fetches>,
    number: i64,
    over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.lane.cancel(self.number);
        }
    }
}
