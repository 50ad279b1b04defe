//! The task behind a producer: it feeds the sequencer, and carries out what it says.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use walser_model::{Acks, ProducerEpoch};
use walser_proto::v1 as pb;
use walser_proto::v1::produce_result;
use walser_proto::v1::produce_stream_request::Message;
use walser_record_batch::{BatchBuilder, Producer};
use walser_rpc::{ApiError, Reason};
use walser_sequencer::{
    Action, Answer, Config, Effect, Number, Numbering, Outcome, Part, Refused, Rules, Sequencer, Session, Size, Ticket,
};

use super::link::{Link, LinkEvent, closed};
use super::{Caller, Command, Delivered, ProducerConfig, init};
use crate::connection::Client;

/// As many batches per partition as a leader remembers.
const IN_FLIGHT_MAX: usize = 5;
/// Largest message that a gateway takes, unless it says otherwise. What a topic takes, it says for each batch.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// What a message takes beside its batch.
const MESSAGE_OVERHEAD: usize = 1024;
/// How exactly deadlines are kept.
const TICK: Duration = Duration::from_millis(50);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

type Act = Action<i32, Caller, Delivered, ApiError>;
type Starting = Pin<Box<dyn Future<Output = Result<Session, ApiError>> + Send>>;

/// A batch, or what it is built from.
#[derive(Debug, Default)]
pub(super) struct Content {
    builder: Option<BatchBuilder>,
    batch: Bytes,
    number: Option<Number>,
}

/// A batch that is to be sent.
struct Outgoing {
    partition: i32,
    attempt: (Ticket, u32),
    number: Option<Number>,
}

/// The task behind a producer.
pub(super) struct Driver {
    client: Client,
    config: ProducerConfig,
    sequencer: Sequencer<i32, Caller, Content, ApiError>,
    started: Instant,
    /// The first message of every stream, with the session.
    opening: pb::ProduceOpen,
    /// A session that was asked for, and the one that it replaces.
    starting: Option<(Option<Session>, Starting)>,
    outgoing: VecDeque<Outgoing>,
    /// Attempts on the stream, by correlation id.
    sent: HashMap<i64, (i32, (Ticket, u32))>,
    next_correlation: i64,
    /// Largest batch that fits a message to this gateway.
    batch_bytes_max: usize,
    /// The topic is gone: nothing more is sent, not to another one of that name either.
    gone: Option<ApiError>,
    /// Why batches are being sent again.
    trouble: watch::Sender<Option<ApiError>>,
}

impl Driver {
    pub(super) fn new(
        client: Client,
        config: ProducerConfig,
        topic_id: String,
        session: Session,
        trouble: watch::Sender<Option<ApiError>>,
    ) -> Self {
        // What is not waited for cannot be kept within what a leader remembers: it has no sequences.
        let numbered = config.acks != Acks::None;
        let mut sequencer = Sequencer::new(Config {
            numbering: if numbered { Numbering::Own } else { Numbering::Without },
            in_flight_max: IN_FLIGHT_MAX,
            grace: TICK,
            backoff_min: BACKOFF_MIN,
            backoff_max: BACKOFF_MAX,
            rules: Rules::ALL,
        });
        let mut none = Vec::<Act>::new();
        sequencer.disconnected(Duration::ZERO, &closed(), &mut none);
        if numbered {
            sequencer.session_started(Duration::ZERO, session, &mut none);
        }
        debug_assert!(none.is_empty(), "there is no batch yet");
        Self {
            client,
            sequencer,
            started: Instant::now(),
            opening: opening(&config, topic_id, session),
            config,
            starting: None,
            outgoing: VecDeque::new(),
            sent: HashMap::new(),
            next_correlation: 1,
            batch_bytes_max: MESSAGE_BYTES_MAX - MESSAGE_OVERHEAD,
            gone: None,
            trouble,
        }
    }

    /// Runs until nobody sends any more and everything is answered.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut link = Link::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut open = true;
        while open || !self.sequencer.is_idle() {
            let requests = if self.outgoing.is_empty() { None } else { link.requests() };
            let (starts, goes_on) = (self.starting.is_some(), self.gone.is_none());
            tokio::select! {
                event = link.next(&self.client, &self.opening), if goes_on => self.linked(event),
                room = room(requests.as_ref()), if goes_on => if let Some(batch) = self.next_batch() {
                    room.send(pb::ProduceStreamRequest { message: Some(Message::Batch(batch)) });
                },
                session = started(&mut self.starting), if starts => self.session_answered(session, &mut link),
                command = commands.recv(), if open => match command {
                    Some(command) => self.submit(command),
                    None => open = false,
                },
                _ = ticks.tick(), if !self.sequencer.is_idle() => self.step(Sequencer::tick),
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn submit(&mut self, command: Command) {
        let Command { partition, builder, caller } = command;
        if let Some(gone) = &self.gone {
            let _ = caller.done.send(Err(gone.clone()));
            return;
        }
        let deadline = self.now() + self.config.delivery_timeout;
        let part = Part { record_count: builder.record_count(), size: Size::default(), deadline, caller };
        let content = Content { builder: Some(builder), ..Content::default() };
        self.step(|sequencer, now, out| sequencer.submit_batch(now, partition, part, (None, Some(content)), out));
    }

    /// Gives the sequencer an event, and carries out what it says.
    fn step(&mut self, event: impl FnOnce(&mut Sequencer<i32, Caller, Content, ApiError>, Duration, &mut Vec<Act>)) {
        let (now, mut actions) = (self.now(), Vec::new());
        event(&mut self.sequencer, now, &mut actions);
        for action in actions {
            match action {
                Action::Send { partition, ticket, attempt, number } => {
                    self.outgoing.push_back(Outgoing { partition, attempt: (ticket, attempt), number });
                }
                Action::StartSession { previous } => {
                    self.starting = Some((previous, Box::pin(init(self.client.clone(), previous))));
                }
                Action::Complete { caller, outcome } => self.complete(caller, outcome),
            }
        }
    }

    fn complete(&mut self, caller: Caller, outcome: Outcome<Delivered, ApiError>) {
        let outcome = match outcome {
            Outcome::Written { answer, .. } => Ok(answer),
            Outcome::Failed { failure, effect, .. } => Err(failed(failure, effect)),
        };
        if let Err(failure) = &outcome
            && matches!(failure.reason(), Reason::TopicNotFound | Reason::TopicRecreated)
        {
            self.gone = Some(failure.clone());
        }
        let _ = caller.done.send(outcome);
    }

    /// The next batch for the stream. One that the gateway would not take fails here: it would end the stream.
    fn next_batch(&mut self) -> Option<pb::ProduceBatch> {
        let Outgoing { partition, attempt, number } = self.outgoing.pop_front()?;
        let batch = self.sequencer.batch(&partition, attempt.0)?;
        let content = batch.content.as_mut()?;
        let (record_batch, max) = (content.numbered(number), self.batch_bytes_max);
        if record_batch.len() > max {
            let answer = refusal(too_large(record_batch.len(), max));
            self.step(|sequencer, now, out| sequencer.answered(now, &partition, attempt, answer, out));
            return None;
        }
        let correlation_id = self.next_correlation;
        self.next_correlation += 1;
        self.sent.insert(correlation_id, (partition, attempt));
        Some(pb::ProduceBatch {
            correlation_id,
            partition: Some(partition),
            record_batch,
            base_sequence: number.map_or(0, |number| number.base_sequence),
            ..Default::default()
        })
    }

    fn linked(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up => self.step(Sequencer::connected),
            LinkEvent::Down(failure) => {
                self.trouble.send_replace(Some(failure.clone()));
                self.disconnected(&failure);
            }
            LinkEvent::Results(results) => results.into_iter().for_each(|result| self.answered(result)),
        }
    }

    fn disconnected(&mut self, failure: &ApiError) {
        if failure.value("rule") == Some("message-size")
            && let Some(max) = failure.value("maxBytes").and_then(|max| max.parse::<usize>().ok())
        {
            self.learn_limit(max);
        }
        // These were not handed over, so that nothing became of them.
        for Outgoing { partition, attempt, .. } in std::mem::take(&mut self.outgoing) {
            let unsent = Answer::Refused { refused: Refused::Moved, maybe: false, failure: failure.clone() };
            self.step(|sequencer, now, out| sequencer.answered(now, &partition, attempt, unsent, out));
        }
        self.sent.clear();
        self.step(|sequencer, now, out| sequencer.disconnected(now, failure, out));
        self.outgoing.clear();
    }

    /// The gateway takes smaller messages than was thought: batches that are larger were not taken from the stream, and
    /// later ones are not sent.
    fn learn_limit(&mut self, message_bytes_max: usize) {
        self.batch_bytes_max = self.batch_bytes_max.min(message_bytes_max.saturating_sub(MESSAGE_OVERHEAD));
        for (partition, attempt) in self.sent.values().copied().collect::<Vec<_>>() {
            let content = self.sequencer.batch(&partition, attempt.0).and_then(|batch| batch.content.as_ref());
            let bytes = content.map_or(0, |content| content.batch.len());
            if bytes > message_bytes_max {
                let answer = refusal(too_large(bytes, self.batch_bytes_max));
                self.step(|sequencer, now, out| sequencer.answered(now, &partition, attempt, answer, out));
            }
        }
    }

    fn answered(&mut self, result: pb::ProduceResult) {
        let Some((partition, attempt)) = self.sent.remove(&result.correlation_id) else { return };
        let answer = match result.outcome {
            Some(produce_result::Outcome::Written(written)) => Answer::Written(delivered(partition, &written)),
            Some(produce_result::Outcome::Error(error)) => refusal(error.into()),
            None => refusal(ApiError::internal("a result without an outcome")),
        };
        self.tell(&answer);
        self.step(|sequencer, now, out| sequencer.answered(now, &partition, attempt, answer, out));
        if let Some(gone) = self.gone.clone() {
            self.step(Sequencer::abandon_all);
            self.disconnected(&gone);
        }
    }

    /// Keeps what people should know while batches are sent again.
    fn tell(&self, answer: &Answer<Delivered, ApiError>) {
        match answer {
            Answer::Written(_) => {
                self.trouble.send_if_modified(|trouble| trouble.take().is_some());
            }
            Answer::Refused { refused: Refused::Moved, failure, .. } => {
                self.trouble.send_replace(Some(failure.clone()));
            }
            Answer::Refused { .. } => {}
        }
    }

    fn session_answered(&mut self, session: Result<Session, ApiError>, link: &mut Link) {
        let previous = self.starting.take().and_then(|(previous, _)| previous);
        match session {
            Ok(session) => {
                let topic_id = std::mem::take(&mut self.opening.default_topic_id);
                self.opening = opening(&self.config, topic_id, session);
                // A stream has one session: this one needs another stream. Nothing is in flight.
                *link = Link::new();
                self.disconnected(&closed());
                self.step(|sequencer, now, out| sequencer.session_started(now, session, out));
            }
            Err(failure) => {
                let previous = successor(previous, &failure);
                self.step(|sequencer, now, out| sequencer.session_failed(now, failure, previous, out));
            }
        }
    }
}

fn opening(config: &ProducerConfig, topic_id: String, session: Session) -> pb::ProduceOpen {
    let (producer_id, producer_epoch) = (session.id.0, i32::from(session.epoch.0));
    pb::ProduceOpen {
        default_topic: config.topic.clone(),
        default_topic_id: topic_id,
        acks: pb::Acks::from(config.acks).into(),
        producer: (config.acks != Acks::None).then_some(pb::ProducerIdentity { producer_id, producer_epoch }),
        ..Default::default()
    }
}

/// Waits for room for one request.
async fn room(requests: Option<&mpsc::Sender<pb::ProduceStreamRequest>>) -> mpsc::Permit<'_, pb::ProduceStreamRequest> {
    match requests {
        Some(requests) => match requests.reserve().await {
            Ok(room) => room,
            // Whoever waits for answers hears that the stream is over.
            Err(_closed) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Waits for a session that was asked for.
async fn started(starting: &mut Option<(Option<Session>, Starting)>) -> Result<Session, ApiError> {
    match starting {
        Some((_, session)) => session.await,
        None => std::future::pending().await,
    }
}

/// The session to replace after a request for the next one failed.
fn successor(previous: Option<Session>, failure: &ApiError) -> Option<Session> {
    let previous = previous?;
    match failure.reason() {
        // Nobody else has the id: it was this producer, by a request whose answer was lost.
        Reason::ProducerFenced => {
            let current = failure.value("currentEpoch").and_then(|epoch| epoch.parse().ok());
            current.map(|epoch| Session { epoch: ProducerEpoch(epoch), ..previous })
        }
        Reason::FieldInvalid => None,
        _ => Some(previous),
    }
}

fn too_large(bytes: usize, max: usize) -> ApiError {
    let text = format!("the batch has {bytes} bytes, a message to the server holds {max}");
    ApiError::new(Reason::RecordTooLarge, text).with("sizeBytes", bytes).with("maxBytes", max)
}

fn refusal(failure: ApiError) -> Answer<Delivered, ApiError> {
    let refused = match failure.reason() {
        Reason::SequenceOutOfOrder | Reason::PredecessorFailed => Refused::Gap,
        Reason::UnknownProducer => Refused::UnknownProducer,
        Reason::ProducerFenced => Refused::Fenced,
        Reason::DuplicateSequence => Refused::Applied,
        _ if matches!(failure.retry(), pb::RetryAdvice::Backoff | pb::RetryAdvice::Reopen) => Refused::Moved,
        _ => Refused::ForGood,
    };
    let maybe = !matches!(failure.effect(), pb::Effect::None | pb::Effect::Applied);
    Answer::Refused { refused, maybe, failure }
}

fn failed(failure: Option<ApiError>, effect: Effect) -> ApiError {
    let timed_out = || ApiError::new(Reason::RequestTimedOut, "the batch was not acknowledged in time");
    let effect = match effect {
        Effect::None => pb::Effect::None,
        Effect::Maybe => pb::Effect::Maybe,
        Effect::Applied => pb::Effect::Applied,
    };
    failure.unwrap_or_else(timed_out).with_effect(effect)
}

fn delivered(partition: i32, written: &pb::ProduceResponse) -> Delivered {
    let append = written.appends.first();
    Delivered {
        partition,
        base_offset: append.and_then(|append| append.base_offset).unwrap_or(-1),
        duplicate: append.is_some_and(|append| append.duplicate),
    }
}

// === impl Content ===

impl Content {
    /// The batch with a number: built the first time, stamped anew when the number is another one.
    fn numbered(&mut self, number: Option<Number>) -> Bytes {
        let producer = number.map_or(Producer::NONE, |number| {
            let Number { session: Session { id, epoch }, base_sequence } = number;
            Producer { id, epoch, base_sequence }
        });
        if let Some(builder) = self.builder.take() {
            self.batch = builder.build(producer);
        } else if self.number != number {
            let mut batch = self.batch.to_vec();
            walser_record_batch::stamp_producer(&mut batch, producer.id, producer.epoch, producer.base_sequence);
            self.batch = batch.into();
        }
        self.number = number;
        self.batch.clone()
    }
}
