//! `ProduceStream`: pipelined writes with one result per batch.

mod outgoing;
mod result_order;

use std::collections::{HashMap, HashSet};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use walser_model::{Acks, Clock, Compression, Offset, TopicId};
use walser_proto::v1 as pb;
use walser_proto::v1::produce_result;
use walser_proto::v1::produce_stream_request::Message;
use walser_proto::v1::produce_stream_response::Message as Reply;
use walser_rpc::{ApiError, Reason, catch_panic, wire_time};
use walser_service::{Caller, Shutdown, StreamEnd};

use self::outgoing::{GROUP_MAX, Leaving, Outgoing, grouped};
use self::result_order::{Lane, ResultOrder};
use super::wire::{self, known, payload, produce_failure, written};
use crate::config::Config;
use crate::error::draining;
use crate::heartbeat::Heartbeats;
use crate::metadata::Metadata;
use crate::producing::{
    Done, Failed, IN_FLIGHT_MAX, NO_SESSION_WITHOUT_ACKS, Outcome, Producing, SeparateWriters, Submitted, Waiting,
    Write,
};
use crate::within::at_once;

/// Results that may wait for the client; the byte limit is reached first.
const RESULTS_MAX: usize = 8192;
/// Fewer batches are not looked through for those that are answered.
const SWEEP_MIN: usize = 64;
/// Topics that a stream remembers.
const TOPICS_MAX: usize = 1000;
/// Cost of a batch beside its bytes, for the limit.
const BATCH_OVERHEAD: usize = 512;
/// What the position of a record takes in a result.
const POSITION_BYTES: usize = size_of::<pb::RecordPosition>();

/// How a batch gets to the leader: the two ways do not keep an order with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Plain records gather into batches with what others write.
    Gathered,
    /// What is a batch already, or must stay one, goes as it is.
    AsIs,
}

type Answers = Pin<Box<dyn Stream<Item = Result<pb::ProduceStreamResponse, Status>> + Send>>;

/// What streams work with. Clones share everything.
#[derive(Debug, Clone)]
pub(super) struct ProduceStreams {
    pub(super) producing: Producing,
    pub(super) metadata: Metadata,
    pub(super) heartbeats: Heartbeats,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: Config,
    pub(super) shutdown: Shutdown,
}

/// Settings of a stream, from its first message.
struct Session {
    default_topic: String,
    /// Of the default topic, when the client knows it.
    default_id: Option<TopicId>,
    acks: Acks,
    compression: Option<Compression>,
    producer: Option<pb::ProducerIdentity>,
}

/// A stream being read.
struct Reader {
    streams: ProduceStreams,
    outgoing: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
    caller: Arc<Caller>,
    trace: Option<Arc<str>>,
    order: ResultOrder<Outcome>,
    /// Lanes of an idempotent stream on which a batch failed: later ones cannot succeed.
    failed: Arc<Mutex<HashSet<Lane>>>,
    last_correlation: Option<i64>,
    /// The way of the batches that are under way, each of which holds a permit.
    way: Option<Way>,
    under_way: Arc<Semaphore>,
    /// Topics that this stream has written to: one that is deleted meanwhile is not created again for it, and one that is
    /// created again is another one.
    topics: HashMap<String, TopicId>,
    separate: SeparateWriters,
    submitted: Vec<(Arc<AtomicBool>, Submitted)>,
    /// With so many of them, those that are answered are let go.
    sweep_at: usize,
    /// The client hears of the stream when it has sent nothing for this long.
    heartbeat_delay: Duration,
    end: StreamEnd,
}

/// Serves one stream.
pub(super) fn serve(
    streams: ProduceStreams,
    requests: Streaming<pb::ProduceStreamRequest>,
    (caller, end): (Caller, StreamEnd),
    trace: Option<Arc<str>>,
) -> Answers {
    let (outgoing, stream) = mpsc::channel(RESULTS_MAX);
    let room = Arc::new(Semaphore::new(streams.config.in_flight_bytes_max));
    let reader = Reader {
        heartbeat_delay: streams.heartbeats.delay(),
        end,
        streams,
        outgoing,
        room,
        caller: Arc::new(caller),
        trace,
        order: ResultOrder::default(),
        failed: Arc::default(),
        last_correlation: None,
        way: None,
        under_way: Arc::new(Semaphore::new(RESULTS_MAX)),
        topics: HashMap::new(),
        separate: SeparateWriters::default(),
        submitted: Vec::new(),
        sweep_at: SWEEP_MIN,
    };
    let ending = reader.outgoing.clone();
    tokio::spawn(async move {
        if let Err(failure) = catch_panic(reader.run(requests)).await {
            let _ = ending.send(Outgoing::End(failure.into())).await;
        }
    });
    let messages =
        ReceiverStream::new(stream).ready_chunks(GROUP_MAX).flat_map(|group| futures::stream::iter(grouped(group)));
    // A message that leaves gives the room of its batches back.
    Box::pin(messages.map(|Leaving { message, .. }| message))
}

impl Reader {
    async fn run(mut self, mut requests: Streaming<pb::ProduceStreamRequest>) {
        let outgoing = self.outgoing.clone();
        let end = tokio::select! {
            end = self.read(&mut requests) => end,
            () = outgoing.closed() => return,
        };
        // Everything that was sent is answered before the stream ends.
        let all = u32::try_from(self.streams.config.in_flight_bytes_max).unwrap_or(u32::MAX);
        tokio::select! {
            _ = self.room.acquire_many(all) => {}
            () = outgoing.closed() => return,
        }
        if let Err(failure) = end {
            let _ = outgoing.send(Outgoing::End(failure.into())).await;
        }
    }

    /// The next message. A drain ends the reading between two messages, never in the middle of a batch.
    async fn next(
        &mut self,
        requests: &mut Streaming<pb::ProduceStreamRequest>,
    ) -> Result<Option<pb::ProduceStreamRequest>, ApiError> {
        let end = self.end.clone();
        let bytes_max = self.streams.config.message_bytes_max;
        let received = |status| received(status, bytes_max);
        while !end.begun() {
            if let Some(message) = at_once(pin!(requests.message())).await {
                return message.map_err(received);
            }
            tokio::select! {
                biased;
                message = requests.message() => return message.map_err(received),
                () = end.wait() => {}
                () = tokio::time::sleep(self.heartbeat_delay) => {
                    let server_time = Some(wire_time(self.streams.heartbeats.server_time()));
                    let heartbeat = pb::StreamHeartbeat { server_time, progress: Vec::new() };
                    let _ = self.outgoing.send(Outgoing::Other(Reply::Heartbeat(heartbeat))).await;
                }
            }
        }
        let grace = Some(end.grace().into());
        let _ = self.outgoing.send(Outgoing::Other(Reply::Drain(pb::Drain { grace }))).await;
        Err(draining())
    }

    async fn read(&mut self, requests: &mut Streaming<pb::ProduceStreamRequest>) -> Result<(), ApiError> {
        let Some(first) = self.next(requests).await? else { return Ok(()) };
        let Some(Message::Open(open)) = first.message else {
            let failure = ApiError::new(Reason::StreamProtocolViolation, "the first message must be open");
            return Err(failure.with("expected", "open").with("actual", "batch"));
        };
        let acks = Acks::from(known::<pb::Acks>("open.acks", open.acks)?);
        if acks == Acks::None && open.producer.is_some() {
            return Err(ApiError::field("open.acks", NO_SESSION_WITHOUT_ACKS));
        }
        let default_id = match open.default_topic_id.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|_| ApiError::field("open.default_topic_id", "is not a topic id"))?),
        };
        let session = Session {
            default_topic: open.default_topic,
            default_id,
            acks,
            compression: known::<pb::Compression>("open.compression", open.compression)?.chosen(),
            producer: open.producer,
        };
        let opened = pb::ProduceOpened {
            max_in_flight_bytes: i64::try_from(self.streams.config.in_flight_bytes_max).unwrap_or(i64::MAX),
            max_batch_bytes: self.batch_bytes_max(&session.default_topic),
            gateway: self.streams.config.name.clone(),
            max_in_flight_batches: i32::try_from(IN_FLIGHT_MAX).unwrap_or(i32::MAX),
        };
        let _ = self.outgoing.send(Outgoing::Other(Reply::Opened(opened))).await;
        while let Some(message) = self.next(requests).await? {
            match message.message {
                Some(Message::Batch(batch)) => self.batch(&session, batch).await?,
                Some(Message::Open(_)) => {
                    let failure = ApiError::new(Reason::StreamProtocolViolation, "open was sent twice");
                    return Err(failure.with("expected", "batch").with("actual", "open"));
                }
                Some(Message::Heartbeat(_)) => {}
                None => {
                    let failure = ApiError::new(Reason::StreamProtocolViolation, "the message is empty");
                    return Err(failure.with("expected", "batch").with("actual", "nothing"));
                }
            }
        }
        Ok(())
    }

    fn batch_bytes_max(&self, topic: &str) -> i64 {
        let config = self.streams.metadata.topic(topic).map(|topic| topic.settings.config.clone()).unwrap_or_default();
        i64::try_from(config.message_bytes_max).unwrap_or(i64::MAX)
    }

    async fn batch(&mut self, session: &Session, batch: pb::ProduceBatch) -> Result<(), ApiError> {
        let correlation_id = batch.correlation_id;
        self.count(correlation_id)?;
        let bytes = prost::Message::encoded_len(&batch) + BATCH_OVERHEAD + batch.records.len() * POSITION_BYTES;
        let wanted = bytes.min(self.streams.config.in_flight_bytes_max);
        let permit = Arc::clone(&self.room).acquire_many_owned(u32::try_from(wanted).unwrap_or(u32::MAX)).await;
        let Ok(slot) = self.outgoing.clone().reserve_owned().await else { return Ok(()) };
        let topic = if batch.topic.is_empty() { &session.default_topic } else { &batch.topic };
        let default_id = session.default_id.filter(|_| *topic == session.default_topic);
        let topic_id = default_id.or_else(|| self.topics.get(topic).copied());
        let topic = topic.clone();
        let lane = match batch.partition {
            Some(partition) => Lane::Partition(topic.clone(), partition),
            None => Lane::Own(correlation_id),
        };
        let write = self.write(session, topic, topic_id, batch);
        let under_way = match &write {
            Ok(write) => self.join(write).await,
            Err(_) => None,
        };
        let failed = session.producer.map(|_| (lane.clone(), Arc::clone(&self.failed)));
        let tell = move |outcome: Outcome| {
            slot.send(Outgoing::Result(result(correlation_id, outcome, failed), permit.ok()));
        };
        self.order.enter(lane.clone(), correlation_id, Box::new(tell));
        let completed = Arc::new(AtomicBool::new(false));
        let done: Done = {
            let (order, lane, completed) = (self.order.clone(), lane.clone(), Arc::clone(&completed));
            Box::new(move |outcome| {
                drop(under_way);
                completed.store(true, Ordering::Relaxed);
                order.leave(&lane, correlation_id, outcome);
            })
        };
        let sent = match write {
            Ok(write) => self.submit(write, done).await,
            Err(failure) => Err(failure),
        };
        match sent {
            Err(failure) => {
                self.order.leave(&lane, correlation_id, Outcome::failed(failure));
            }
            Ok(mut submitted) => match submitted.queued.take() {
                Some(queued) => self.order.leave(&lane, correlation_id, queued),
                None => self.keep(completed, submitted),
            },
        }
        Ok(())
    }

    /// The write that a batch asks for.
    fn write(
        &self,
        session: &Session,
        topic: String,
        topic_id: Option<TopicId>,
        batch: pb::ProduceBatch,
    ) -> Result<Write, ApiError> {
        let payload = payload(batch.records, batch.record_batch);
        let numbered = wire::session(session.producer, batch.base_sequence);
        let refused = |failure: &ApiError| self.streams.producing.refused(failure);
        let (payload, numbered) = payload.and_then(|payload| Ok((payload, numbered?))).inspect_err(refused)?;
        Ok(Write {
            topic,
            partition: batch.partition,
            payload,
            acks: session.acks,
            compression: session.compression,
            session: numbered,
            expected_offset: batch.expected_offset.map(Offset),
            trace: self.trace.clone(),
            deadline: self.streams.clock.monotonic() + self.streams.config.produce_timeout,
            waiting: Waiting::Stream,
            create_for: topic_id.is_none().then(|| Arc::clone(&self.caller)),
            topic_id,
        })
    }

    /// Sends a write on its way, and remembers the topic that it has found.
    async fn submit(&mut self, write: Write, done: Done) -> Result<Submitted, ApiError> {
        let found = write.create_for.is_some().then(|| write.topic.clone());
        let sent = self.streams.producing.produce(write, &mut self.separate, done).await;
        if let (Some(name), Ok(submitted)) = (found, &sent) {
            self.remember(name, submitted.topic);
        }
        sent
    }

    /// Keeps what is under way, so that it is given up when the client is gone.
    fn keep(&mut self, completed: Arc<AtomicBool>, submitted: Submitted) {
        if self.submitted.len() >= self.sweep_at {
            self.submitted.retain_mut(|(completed, submitted)| {
                let over = completed.load(Ordering::Relaxed);
                if over {
                    submitted.complete();
                }
                !over
            });
            self.sweep_at = (self.submitted.len() * 2).max(SWEEP_MIN);
        }
        self.submitted.push((completed, submitted));
    }

    /// Correlation ids increase.
    fn count(&mut self, correlation_id: i64) -> Result<(), ApiError> {
        match self.last_correlation.replace(correlation_id) {
            Some(last) if correlation_id <= last => {
                let text = format!("correlation_id {correlation_id} does not increase: the one before was {last}");
                let failure = ApiError::new(Reason::StreamProtocolViolation, text);
                Err(failure.with("expected", format!("above {last}")).with("actual", correlation_id))
            }
            _ => Ok(()),
        }
    }

    fn remember(&mut self, name: String, topic: TopicId) {
        if self.topics.len() >= TOPICS_MAX {
            self.topics.clear();
        }
        self.topics.insert(name, topic);
    }

    /// Waits until nothing that goes another way is under way, so that offsets keep the order of the stream.
    async fn join(&mut self, write: &Write) -> Option<OwnedSemaphorePermit> {
        let way = if write.stays_as_it_is() { Way::AsIs } else { Way::Gathered };
        if self.way.is_some_and(|before| before != way) {
            let all = u32::try_from(RESULTS_MAX).unwrap_or(u32::MAX);
            drop(self.under_way.acquire_many(all).await);
        }
        self.way = Some(way);
        Arc::clone(&self.under_way).acquire_owned().await.ok()
    }
}

/// The outcome of a batch as the stream tells it. `failed`: the lane of an idempotent stream, with those that failed.
fn result(
    correlation_id: i64,
    outcome: Outcome,
    failed: Option<(Lane, Arc<Mutex<HashSet<Lane>>>)>,
) -> pb::ProduceResult {
    let (outcome, failure) = match outcome.failed {
        Some(Failed { failure, records }) => {
            let failure = match &failed {
                Some((lane, failed)) => blamed(failure, lane, failed, correlation_id),
                None => failure,
            };
            (produce_result::Outcome::Error(failure.into()), records.map(produce_failure))
        }
        None => {
            if let Some((lane, failed)) = &failed {
                failed.lock().remove(lane);
            }
            (produce_result::Outcome::Written(written(outcome)), None)
        }
    };
    pb::ProduceResult { correlation_id, outcome: Some(outcome), failure }
}

/// After a failure on a lane, later batches of an idempotent stream are refused for that, not for their gap.
fn blamed(failure: ApiError, lane: &Lane, failed: &Mutex<HashSet<Lane>>, correlation_id: i64) -> ApiError {
    let fresh = failed.lock().insert(lane.clone());
    if fresh || failure.reason() != Reason::SequenceOutOfOrder {
        return failure;
    }
    let text = "an earlier batch for the partition failed; send again in order, from that batch on";
    ApiError::new(Reason::PredecessorFailed, text).with("correlationId", correlation_id)
}

/// A message that could not be received: what the codec says of it, or the end of the connection. `bytes_max`: the
/// largest message that is taken.
pub(super) fn received(status: Status, bytes_max: usize) -> ApiError {
    if status.details().is_empty() && status.message().contains("message length too large") {
        let text = format!("{}; send several smaller messages", status.message());
        let failure = ApiError::new(Reason::RecordTooLarge, text).with("rule", "message-size");
        let failure = failure.with("maxBytes", bytes_max);
        return failure.with_code(tonic::Code::ResourceExhausted);
    }
    status.into()
}
