//! A producer that writes every batch exactly once, also when the connection or the server goes away in between.
//!
//! Batches carry a producer id and the sequence of their partition. At most [`IN_FLIGHT_MAX`] per partition are
//! unanswered; after a reconnect they are sent again in order, and the leader recognises those that it has.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use walser_model::{Acks, ProducerEpoch, ProducerId};
use walser_proto::v1 as pb;
use walser_proto::v1::produce_stream_request::Message;
use walser_proto::v1::produce_stream_response::Message as Reply;
use walser_record_batch::{BatchBuilder, Producer as Session};
use walser_rpc::{Failure, Reason};

use crate::connection::Client;

/// As many batches per partition as a leader remembers.
const IN_FLIGHT_MAX: usize = 5;
/// Pause before the server is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// How a producer writes.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// The topic. It must exist.
    pub topic: String,
    /// When a batch counts as written.
    pub acks: Acks,
    /// A batch that is not acknowledged for this long fails.
    pub delivery_timeout: Duration,
    /// Bytes that may wait; [`Producer::send`] waits above.
    pub buffer_bytes: usize,
}

/// Where a batch landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// Its partition.
    pub partition: i32,
    /// Offset of its first record.
    pub base_offset: i64,
    /// The server had it already.
    pub duplicate: bool,
}

/// The outcome of one batch, once it is known.
#[derive(Debug)]
pub struct Delivery(oneshot::Receiver<Result<Delivered, Failure>>);

/// Writes batches to one topic. Dropping it lets what was sent finish.
#[derive(Debug, Clone)]
pub struct Producer {
    commands: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
    buffer_bytes: usize,
}

/// A batch on its way.
#[derive(Debug)]
struct Outgoing {
    partition: i32,
    builder: BatchBuilder,
    done: oneshot::Sender<Result<Delivered, Failure>>,
    _room: OwnedSemaphorePermit,
}

/// A batch with its sequence, until it is answered.
#[derive(Debug)]
struct Sent {
    partition: i32,
    base_sequence: i32,
    record_count: i32,
    batch: Bytes,
    deadline: tokio::time::Instant,
    /// The server has said that it is not written.
    refused: bool,
    done: oneshot::Sender<Result<Delivered, Failure>>,
    _room: OwnedSemaphorePermit,
}

/// The batches of one partition.
#[derive(Debug, Default)]
struct Lane {
    next_sequence: i32,
    waiting: VecDeque<Outgoing>,
    in_flight: usize,
    /// A batch failed for good: those behind it need other sequences.
    gap: bool,
}

/// The task behind a producer.
struct Driver {
    client: Client,
    config: ProducerConfig,
    session: (ProducerId, ProducerEpoch),
    lanes: HashMap<i32, Lane>,
    /// Sent and not written for all that is known, by correlation id. What is sent again keeps its id, so the order
    /// of ids is the order of sequences in every partition.
    unanswered: BTreeMap<i64, Sent>,
    next_correlation: i64,
    /// Nothing new is sent until every batch is either written or refused.
    recovering: bool,
    /// The last attempt to connect reached the server.
    connected: bool,
    /// The topic is gone: nothing more is sent, or the server might create another one of that name.
    gone: Option<Failure>,
}

/// How a connection ended.
enum Ended {
    /// Nothing is left to do.
    Finished,
    /// It broke; what is unanswered is sent again.
    Broken(Failure),
    /// Everything was answered, and some of it refused.
    Resolved,
}

impl Future for Delivery {
    type Output = Result<Delivered, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let gone = || Failure::internal("the producer ended before the batch was answered");
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(gone())))
    }
}

fn advance(sequence: i32, count: i32) -> i32 {
    let next = (i64::from(sequence) + i64::from(count)) % (i64::from(i32::MAX) + 1);
    i32::try_from(next).expect("the remainder is in range")
}

// === impl Producer ===

impl Producer {
    /// Starts a producer with a session of its own.
    ///
    /// # Errors
    /// When no session can be had.
    pub async fn start(client: &Client, config: ProducerConfig) -> Result<Self, Failure> {
        let session = init(client, None).await?;
        let (commands, outgoing) = mpsc::channel(64);
        let room = Arc::new(Semaphore::new(config.buffer_bytes));
        let buffer_bytes = config.buffer_bytes;
        let driver = Driver {
            client: client.separate(),
            config,
            session,
            lanes: HashMap::new(),
            unanswered: BTreeMap::new(),
            next_correlation: 1,
            recovering: false,
            connected: false,
            gone: None,
        };
        tokio::spawn(driver.run(outgoing));
        Ok(Self { commands, room, buffer_bytes })
    }

    /// Sends a batch on its way; waits while too much is on its way already. Batches of one partition are written
    /// in the order of the calls.
    ///
    /// # Errors
    /// When the producer has ended.
    pub async fn send(&self, partition: i32, builder: BatchBuilder) -> Result<Delivery, Failure> {
        let ended = || Failure::internal("the producer has ended");
        let bytes = builder.uncompressed_len().min(self.buffer_bytes);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_| ended())?;
        let (done, delivery) = oneshot::channel();
        let outgoing = Outgoing { partition, builder, done, _room: room };
        self.commands.send(outgoing).await.map_err(|_| ended())?;
        Ok(Delivery(delivery))
    }
}

async fn init(
    client: &Client,
    previous: Option<(ProducerId, ProducerEpoch)>,
) -> Result<(ProducerId, ProducerEpoch), Failure> {
    let previous =
        previous.map(|(id, epoch)| pb::ProducerIdentity { producer_id: id.0, producer_epoch: i32::from(epoch.0) });
    let answer = client.producer().init_producer(pb::InitProducerRequest { previous }).await?.into_inner();
    let producer = answer.producer.ok_or_else(|| Failure::internal("the server gave no producer session"))?;
    let epoch = i16::try_from(producer.producer_epoch).map_err(|_| Failure::internal("bad producer epoch"))?;
    Ok((ProducerId(producer.producer_id), ProducerEpoch(epoch)))
}

// === impl Driver ===

impl Driver {
    async fn run(mut self, mut outgoing: mpsc::Receiver<Outgoing>) {
        let mut away_since = None;
        loop {
            self.connected = false;
            let ended = self.connection(&mut outgoing).await;
            if self.connected {
                away_since = None;
            }
            if let Some(failure) = self.gone.take() {
                return self.refuse_all(outgoing, failure).await;
            }
            let now = tokio::time::Instant::now();
            match ended {
                Ended::Finished => return,
                Ended::Broken(failure) => {
                    self.expire(&failure);
                    let since = *away_since.get_or_insert(now);
                    if now.duration_since(since) >= self.config.delivery_timeout {
                        self.give_up(&mut outgoing, &failure);
                    }
                    if outgoing.is_closed() && outgoing.is_empty() && self.idle() {
                        return;
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Ended::Resolved if self.lanes.values().any(|lane| lane.gap) => self.renumber().await,
                Ended::Resolved => {}
            }
            away_since = None;
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Refuses everything, until nobody sends any more.
    async fn refuse_all(mut self, mut outgoing: mpsc::Receiver<Outgoing>, failure: Failure) {
        for (_, sent) in std::mem::take(&mut self.unanswered) {
            // What became of these is not known.
            let _ = sent.done.send(Err(failure.clone().with_effect(pb::Effect::Maybe)));
        }
        self.give_up(&mut outgoing, &failure);
        while let Some(command) = outgoing.recv().await {
            let _ = command.done.send(Err(failure.clone()));
        }
    }

    fn idle(&self) -> bool {
        self.unanswered.is_empty() && self.lanes.values().all(|lane| lane.waiting.is_empty())
    }

    /// Fails what was never sent, after the server was away for too long.
    fn give_up(&mut self, outgoing: &mut mpsc::Receiver<Outgoing>, failure: &Failure) {
        let waiting = self.lanes.values_mut().flat_map(|lane| lane.waiting.drain(..));
        for command in waiting.chain(std::iter::from_fn(|| outgoing.try_recv().ok())) {
            let _ = command.done.send(Err(failure.clone()));
        }
    }

    /// Writes over one stream until it ends.
    async fn connection(&mut self, outgoing: &mut mpsc::Receiver<Outgoing>) -> Ended {
        let (requests, stream) = mpsc::channel(16);
        let open = pb::ProduceOpen {
            default_topic: self.config.topic.clone(),
            acks: pb::Acks::from(self.config.acks).into(),
            producer: Some(pb::ProducerIdentity {
                producer_id: self.session.0.0,
                producer_epoch: i32::from(self.session.1.0),
            }),
            ..Default::default()
        };
        let first = pb::ProduceStreamRequest { message: Some(Message::Open(open)) };
        if requests.send(first).await.is_err() {
            return Ended::Broken(closed());
        }
        let mut answers = match self.client.producer().produce_stream(ReceiverStream::new(stream)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Ended::Broken(status.into()),
        };
        (self.recovering, self.connected) = (false, true);
        let again: Vec<i64> = self.unanswered.keys().copied().collect();
        for id in again {
            if let Err(failure) = self.transmit(id, &requests, &mut answers).await {
                return Ended::Broken(failure);
            }
        }
        match self.exchange(outgoing, requests, answers).await {
            Ok(ended) => ended,
            Err(failure) => Ended::Broken(failure),
        }
    }

    async fn exchange(
        &mut self,
        outgoing: &mut mpsc::Receiver<Outgoing>,
        requests: mpsc::Sender<pb::ProduceStreamRequest>,
        mut answers: Streaming<pb::ProduceStreamResponse>,
    ) -> Result<Ended, Failure> {
        /// Batches that wait for their turn here; the buffer's bytes bound them too.
        const WAITING_MAX: usize = 1024;
        let mut open = true;
        loop {
            if let Some(failure) = &self.gone {
                return Err(failure.clone());
            }
            let waiting: usize = self.lanes.values().map(|lane| lane.waiting.len()).sum();
            if !open && waiting == 0 && self.unanswered.is_empty() {
                return Ok(Ended::Finished);
            }
            if self.recovering && self.unanswered.values().all(|sent| sent.refused) {
                return Ok(Ended::Resolved);
            }
            tokio::select! {
                answer = answers.message() => self.take(answer?.ok_or_else(closed)?)?,
                command = outgoing.recv(), if open && waiting < WAITING_MAX => match command {
                    Some(command) => {
                        self.lanes.entry(command.partition).or_default().waiting.push_back(command);
                    }
                    None => open = false,
                },
            }
            while let Some(id) = self.next() {
                self.transmit(id, &requests, &mut answers).await?;
            }
        }
    }

    /// Gives the next batch that may be sent its sequence.
    fn next(&mut self) -> Option<i64> {
        if self.recovering {
            return None;
        }
        let (id, epoch) = self.session;
        let lane = self.lanes.values_mut().find(|lane| lane.in_flight < IN_FLIGHT_MAX && !lane.waiting.is_empty())?;
        let Outgoing { partition, builder, done, _room } = lane.waiting.pop_front()?;
        let (base_sequence, record_count) = (lane.next_sequence, builder.record_count());
        lane.next_sequence = advance(base_sequence, record_count);
        lane.in_flight += 1;
        let batch = builder.build(Session { id, epoch, base_sequence });
        let deadline = tokio::time::Instant::now() + self.config.delivery_timeout;
        let sent = Sent { partition, base_sequence, record_count, batch, deadline, refused: false, done, _room };
        let correlation_id = self.next_correlation;
        self.next_correlation += 1;
        self.unanswered.insert(correlation_id, sent);
        Some(correlation_id)
    }

    /// Sends a batch, taking answers while the stream is full.
    async fn transmit(
        &mut self,
        correlation_id: i64,
        requests: &mpsc::Sender<pb::ProduceStreamRequest>,
        answers: &mut Streaming<pb::ProduceStreamResponse>,
    ) -> Result<(), Failure> {
        let Some(sent) = self.unanswered.get_mut(&correlation_id) else { return Ok(()) };
        sent.refused = false;
        let batch = pb::ProduceBatch {
            correlation_id,
            partition: Some(sent.partition),
            record_batch: sent.batch.clone(),
            base_sequence: sent.base_sequence,
            ..Default::default()
        };
        let request = pb::ProduceStreamRequest { message: Some(Message::Batch(batch)) };
        loop {
            tokio::select! {
                biased;
                slot = requests.reserve() => {
                    slot.map_err(|_| closed())?.send(request);
                    return Ok(());
                }
                answer = answers.message() => self.take(answer?.ok_or_else(closed)?)?,
            }
        }
    }

    /// Takes an answer. An error ends the connection.
    fn take(&mut self, answer: pb::ProduceStreamResponse) -> Result<(), Failure> {
        let results = match answer.message {
            Some(Reply::Results(results)) => results.results,
            Some(Reply::Drain(_)) => return Err(closed()),
            Some(Reply::Opened(_) | Reply::Heartbeat(_)) | None => return Ok(()),
        };
        for result in results {
            let id = result.correlation_id;
            let Some(mut sent) = self.unanswered.remove(&id) else { continue };
            let outcome = match result.outcome {
                Some(pb::produce_result::Outcome::Written(written)) => Ok(delivered(&sent, &written)),
                Some(pb::produce_result::Outcome::Error(error)) => Err(Failure::from(error)),
                None => Err(Failure::internal("a result without an outcome")),
            };
            match outcome {
                Err(failure) if repeatable(&failure) && tokio::time::Instant::now() < sent.deadline => {
                    sent.refused = true;
                    self.recovering = true;
                    if failure.reason() == Reason::UnknownProducer {
                        // The server has forgotten this session: it takes only a new one.
                        self.lanes.entry(sent.partition).or_default().gap = true;
                    }
                    self.unanswered.insert(id, sent);
                }
                outcome => self.settle(sent, outcome),
            }
        }
        Ok(())
    }

    /// Tells the outcome of a batch.
    fn settle(&mut self, sent: Sent, outcome: Result<Delivered, Failure>) {
        let lane = self.lanes.entry(sent.partition).or_default();
        lane.in_flight = lane.in_flight.saturating_sub(1);
        if let Err(failure) = &outcome {
            lane.gap = true;
            self.recovering = true;
            if failure.reason() == Reason::TopicNotFound {
                self.gone = Some(failure.clone());
            }
        }
        let _ = sent.done.send(outcome);
    }

    /// Fails what has waited too long for a server.
    fn expire(&mut self, failure: &Failure) {
        let now = tokio::time::Instant::now();
        let late: Vec<i64> =
            self.unanswered.iter().filter(|(_, sent)| sent.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(sent) = self.unanswered.remove(&id) {
                self.settle(sent, Err(failure.clone()));
            }
        }
    }

    /// Numbers what was refused anew, in a new epoch. Only when every batch is known to be written or refused:
    /// otherwise one that is written already could be written again.
    async fn renumber(&mut self) {
        match init(&self.client, Some(self.session)).await {
            Ok(session) => self.session = session,
            Err(failure) => return self.expire(&failure),
        }
        for lane in self.lanes.values_mut() {
            (lane.next_sequence, lane.gap) = (0, false);
        }
        let (id, epoch) = self.session;
        for sent in self.unanswered.values_mut() {
            let lane = self.lanes.entry(sent.partition).or_default();
            sent.base_sequence = lane.next_sequence;
            lane.next_sequence = advance(lane.next_sequence, sent.record_count);
            let mut batch = sent.batch.to_vec();
            walser_record_batch::stamp_producer(&mut batch, id, epoch, sent.base_sequence);
            sent.batch = batch.into();
        }
    }
}

fn closed() -> Failure {
    Failure::new(Reason::LeaderNotAvailable, "the connection to the server was closed")
}

/// Whether the same batch may be sent again: the server says so, and the sequence makes it safe.
fn repeatable(failure: &Failure) -> bool {
    let waits = matches!(failure.retry(), pb::RetryAdvice::Backoff | pb::RetryAdvice::Reopen);
    let behind =
        matches!(failure.reason(), Reason::PredecessorFailed | Reason::SequenceOutOfOrder | Reason::UnknownProducer);
    waits || behind
}

fn delivered(sent: &Sent, written: &pb::ProduceResponse) -> Delivered {
    let append = written.appends.first();
    Delivered {
        partition: sent.partition,
        base_offset: append.and_then(|append| append.base_offset).unwrap_or(-1),
        duplicate: append.is_some_and(|append| append.duplicate),
    }
}
