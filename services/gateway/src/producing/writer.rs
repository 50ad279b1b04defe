//! Writers: the batches of one partition on their way to its leader.
//!
//! What is sent when, what is sent again and what callers are told decides the [`Sequencer`]; this is its driver. Plain
//! records gather in the partition's own writer: small writes leave as one batch while others are on their way, without
//! any waiting window. Batches that clients build have writers of their own: one for each partition of a stream, or one
//! for a call.
//!
//! A writer carries out one thing at a time, so that batches reach the leader in the order of their sequences; records
//! are encoded, and batches are handed over, outside its lock.

mod parts;
mod registry;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use walser_model::{Offset, ProducerEpoch};
use walser_rpc::{ApiError, AppendBatch, AppendOutcome, AppendPermit, AppendReply, Effect, Reason};
use walser_sequencer::{
    Action, Answer, Config, Number, Numbering, Part, Refused, Rules, Sequencer, Session, Size, Ticket,
};
use walser_service::vital;

use crate::metadata::TopicView;
use crate::producing::outcome::Written;
use crate::retry::{FIRST_PAUSE, LONGEST_PAUSE, lost};
use crate::router::{LedBy, Route};

pub(crate) use self::parts::{Caller, GatheredRecords, Gathering};
pub(crate) use self::registry::{WriterContext, Writers};

use self::parts::{Content, told};

/// As many batches as a leader remembers per producer.
pub(crate) const IN_FLIGHT_MAX: usize = 5;
/// How long behind its deadline a write waits for the answer to an attempt in flight.
pub(crate) const GRACE: Duration = Duration::from_millis(50);
/// How long the controller may take for a producer id.
const SESSION_MAX: Duration = Duration::from_secs(5);

type Act = Action<(), Caller, Written, ApiError>;

/// What a writer hands to the leader next.
struct Outgoing {
    ticket: Ticket,
    attempt: u32,
    number: Option<Number>,
    record_count: i32,
}

struct State {
    sequencer: Sequencer<(), Caller, Content, ApiError>,
    outgoing: VecDeque<Outgoing>,
    /// Somebody hands over what is outgoing.
    sending: bool,
    /// When the writer is looked at again for what was refused.
    retry_at: Option<Duration>,
    /// The leader that was asked last, until a retry waits for another one. `None`: a retry waits for time only, as
    /// that for a session does.
    asked: Option<LedBy>,
    /// The registry looks at deadlines.
    pub(self) registered: bool,
    /// Kept to be filled anew at every step.
    actions: Vec<Act>,
}

/// The batches of one partition, of one producer.
pub(crate) struct PartitionWriter {
    context: Arc<WriterContext>,
    topic: Arc<TopicView>,
    partition: i32,
    state: Mutex<State>,
}

/// A batch that leaves by itself.
pub(crate) struct Whole {
    pub(crate) batch: Bytes,
    pub(crate) record_count: i32,
    pub(crate) expected_offset: Option<Offset>,
    /// Of its first record, when a client has numbered it.
    pub(crate) base_sequence: Option<i32>,
    pub(crate) deadline: Duration,
    pub(crate) traces: Vec<Arc<str>>,
}

/// What an attempt came to, as the sequencer takes it.
fn answer(outcome: AppendOutcome) -> Answer<Written, ApiError> {
    match outcome {
        Ok(appended) => Answer::Written(Written::from(appended)),
        Err(failure) => refusal(failure),
    }
}

fn refusal(failure: ApiError) -> Answer<Written, ApiError> {
    let refused = match failure.reason() {
        _ if lost(&failure) => Refused::Moved,
        Reason::SequenceOutOfOrder => Refused::Gap,
        Reason::UnknownProducer => Refused::UnknownProducer,
        Reason::ProducerFenced => Refused::Fenced,
        Reason::DuplicateSequence => Refused::Applied,
        _ => Refused::ForGood,
    };
    let maybe = !matches!(failure.effect(), Effect::None | Effect::Applied);
    Answer::Refused { refused, maybe, failure }
}

// === impl PartitionWriter ===

impl PartitionWriter {
    pub(crate) fn new(
        context: &Arc<WriterContext>,
        topic: &Arc<TopicView>,
        partition: i32,
        numbering: Numbering,
    ) -> Arc<Self> {
        let config = Config {
            numbering,
            in_flight_max: IN_FLIGHT_MAX,
            grace: GRACE,
            backoff_min: FIRST_PAUSE,
            backoff_max: LONGEST_PAUSE,
            rules: Rules::ALL,
        };
        let state = State {
            sequencer: Sequencer::new(config),
            outgoing: VecDeque::new(),
            sending: false,
            retry_at: None,
            asked: None,
            registered: false,
            actions: Vec::new(),
        };
        let (context, topic, state) = (Arc::clone(context), Arc::clone(topic), Mutex::new(state));
        Arc::new(Self { context, topic, partition, state })
    }

    /// Adds the records of a caller to what leaves next.
    pub(crate) fn gather(self: &Arc<Self>, part: Part<Caller>, max: Size) {
        let tag = part.caller.gathering.tag();
        self.step(|sequencer, now, out| sequencer.submit(now, (), part, (tag, max), out));
    }

    /// Sends a batch by itself, behind those that came before.
    pub(crate) fn send_whole(self: &Arc<Self>, whole: Whole, mut caller: Caller) {
        let Whole { batch, record_count, expected_offset, base_sequence, deadline, traces } = whole;
        let content = Content::whole(batch, traces, expected_offset, &mut caller);
        let part = Part { record_count, size: Size::default(), deadline, caller };
        self.step(|sequencer, now, out| {
            sequencer.submit_batch(now, (), part, (base_sequence, Some(content)), out);
        });
    }

    /// Callers of a write give up: what has not left does not leave, and they are answered now.
    pub(crate) fn abandon(self: &Arc<Self>, write: u64) {
        self.step(|sequencer, now, out| sequencer.abandon(now, &(), |caller| caller.write == write, out));
    }

    /// Batches that are not completed.
    pub(crate) fn unanswered(&self) -> usize {
        self.state.lock().sequencer.batch_count(&())
    }

    /// The same for every caller.
    fn abandon_all(self: &Arc<Self>) {
        self.step(Sequencer::abandon_all);
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.state.lock().sequencer.is_idle()
    }

    /// Looks at deadlines. False: there is nothing to look at any more.
    fn tick(self: &Arc<Self>) -> bool {
        self.step(Sequencer::tick);
        let mut state = self.state.lock();
        state.registered = !state.sequencer.is_idle();
        state.registered
    }

    /// Gives the sequencer an event, and carries out what it says.
    fn step(
        self: &Arc<Self>,
        event: impl FnOnce(&mut Sequencer<(), Caller, Content, ApiError>, Duration, &mut Vec<Act>),
    ) {
        if self.step_here(event) {
            self.hand_over();
        }
    }

    /// The same on the thread of a log shard, which has no time to build batches.
    fn step_on_shard(
        self: &Arc<Self>,
        event: impl FnOnce(&mut Sequencer<(), Caller, Content, ApiError>, Duration, &mut Vec<Act>),
    ) {
        if self.step_here(event) {
            let writer = Arc::clone(self);
            self.context.runtime.spawn(vital::must_not_panic("writer", async move { writer.hand_over() }));
        }
    }

    /// Gives the sequencer an event, and tells callers what it says. True: something is to be handed over.
    fn step_here(
        self: &Arc<Self>,
        event: impl FnOnce(&mut Sequencer<(), Caller, Content, ApiError>, Duration, &mut Vec<Act>),
    ) -> bool {
        let now = self.context.clock.monotonic();
        let (mut completed, mut session) = (Vec::new(), None);
        let outgoing = {
            let mut state = self.state.lock();
            let mut actions = std::mem::take(&mut state.actions);
            event(&mut state.sequencer, now, &mut actions);
            for action in actions.drain(..) {
                match action {
                    Action::Send { ticket, attempt, number, .. } => {
                        if let Some(batch) = state.sequencer.batch(&(), ticket) {
                            Content::collect(batch);
                            let record_count = batch.record_count();
                            state.outgoing.push_back(Outgoing { ticket, attempt, number, record_count });
                        }
                    }
                    Action::StartSession { previous } => session = Some(previous),
                    Action::Complete { caller, outcome } => completed.push((caller, outcome)),
                }
            }
            state.actions = actions;
            self.watch(&mut state);
            !state.outgoing.is_empty() && !state.sending
        };
        for (caller, outcome) in completed {
            let outcome = told(outcome);
            if let Err(failure) = &outcome {
                self.context.metrics.write_failed(failure);
            }
            (caller.done)(outcome);
        }
        if let Some(previous) = session {
            self.start_session(previous);
        }
        outgoing
    }

    /// Sees to it that the writer is looked at again when time has passed.
    fn watch(self: &Arc<Self>, state: &mut State) {
        if !state.registered && !state.sequencer.is_idle() {
            state.registered = true;
            self.context.registry.add(Arc::clone(self));
        }
        if let Some(retry) = state.sequencer.next_retry()
            && state.retry_at.is_none_or(|at| retry < at)
        {
            state.retry_at = Some(retry);
            let (writer, asked) = (Arc::clone(self), state.asked.take());
            let pause = retry.saturating_sub(self.context.clock.monotonic());
            self.context.runtime.spawn(vital::must_not_panic("writer", async move {
                let moved = tokio::time::timeout(pause, writer.another_leader(asked)).await.is_ok();
                writer.state.lock().retry_at = None;
                if moved {
                    writer.step(|sequencer, now, out| sequencer.leader_changed(now, &(), out));
                } else {
                    writer.step(Sequencer::tick);
                }
            }));
        }
    }

    /// Waits until another leader is known than the one that was asked; for ever, if none was.
    async fn another_leader(&self, asked: Option<LedBy>) {
        match asked {
            Some(asked) => self.context.router.leader_changes(&self.topic, self.partition, asked).await,
            None => std::future::pending().await,
        }
    }

    /// Hands what is outgoing to the leader, in order; one caller at a time, which sees what others add meanwhile. A
    /// caller hands over one batch, and leaves more to a task: it has an answer of its own to wait for.
    fn hand_over(self: &Arc<Self>) {
        if std::mem::replace(&mut self.state.lock().sending, true) || !self.hand_over_one() {
            return;
        }
        let writer = Arc::clone(self);
        self.context.runtime.spawn(vital::must_not_panic("writer", async move {
            while writer.hand_over_one() {
                tokio::task::yield_now().await;
            }
        }));
    }

    /// Hands one batch to the leader. False: there is none, and whoever adds one hands it over.
    fn hand_over_one(self: &Arc<Self>) -> bool {
        let (outgoing, content, kept) = {
            let mut state = self.state.lock();
            let Some(outgoing) = state.outgoing.pop_front() else {
                state.sending = false;
                return false;
            };
            let batch = state.sequencer.batch(&(), outgoing.ticket);
            let (kept, content) = batch.map_or((None, None), |batch| (batch.take_kept(), batch.content.take()));
            (outgoing, content, kept)
        };
        if let Some(mut content) = content {
            if let Some(kept) = kept {
                content.keep(&kept);
            }
            content.build(outgoing.number);
            // Before the way is looked for: a leader that changes meanwhile is another one.
            let asked = self.context.router.led_by(&self.topic, self.partition);
            let route = self.context.router.route(&self.topic, self.partition);
            let leaving = route.map(|route| {
                let permit = content.leader_room.take(route.node);
                (content.append_batch(route.partition), permit, route)
            });
            {
                let mut state = self.state.lock();
                state.asked = Some(asked);
                if let Some(batch) = state.sequencer.batch(&(), outgoing.ticket) {
                    batch.content = Some(content);
                }
            }
            self.append(&outgoing, leaving);
        }
        let mut state = self.state.lock();
        state.sending = !state.outgoing.is_empty();
        state.sending
    }

    fn append(self: &Arc<Self>, outgoing: &Outgoing, leaving: Result<(AppendBatch, AppendPermit, Route), ApiError>) {
        let attempt = (outgoing.ticket, outgoing.attempt);
        let (batch, permit, route) = match leaving {
            Ok(leaving) => leaving,
            Err(failure) => {
                return self.step(|sequencer, now, out| sequencer.answered(now, &(), attempt, refusal(failure), out));
            }
        };
        let (records, bytes) = (i64::from(outgoing.record_count), batch.record_batch.len());
        let (writer, start) = (Arc::clone(self), self.context.clock.monotonic());
        let reply = move |outcome: AppendOutcome| {
            let answer = answer(outcome);
            if let Answer::Written(_) = &answer {
                let elapsed = writer.context.clock.monotonic().saturating_sub(start);
                writer.context.metrics.written(&writer.topic, records, bytes, elapsed);
            }
            writer.step_on_shard(|sequencer, now, out| sequencer.answered(now, &(), attempt, answer, out));
        };
        route.storage.append(permit, batch, AppendReply::new(reply));
    }

    /// The next epoch of the writer's own producer id, or a new id.
    fn start_session(self: &Arc<Self>, previous: Option<Session>) {
        if let Some(Session { id, epoch }) = previous
            && let Some(epoch) = epoch.0.checked_add(1)
        {
            // Only this gateway writes with the id: nobody else has to be asked.
            let session = Session { id, epoch: ProducerEpoch(epoch) };
            return self.step_on_shard(|sequencer, now, out| sequencer.session_started(now, session, out));
        }
        let writer = Arc::clone(self);
        self.context.runtime.spawn(vital::must_not_panic("writer", async move {
            let asked = tokio::time::timeout(SESSION_MAX, writer.context.producer_ids.next_own()).await;
            let silent = || ApiError::new(Reason::ControllerNotAvailable, "the controller gives no producer id");
            match asked.unwrap_or_else(|_elapsed| Err(silent())) {
                Ok(id) => {
                    let session = Session { id, epoch: ProducerEpoch(0) };
                    writer.step(|sequencer, now, out| sequencer.session_started(now, session, out));
                }
                Err(failure) => {
                    writer.step(|sequencer, now, out| sequencer.session_failed(now, failure, None, out));
                }
            }
        }));
    }
}
