//! The driver of one shard: it owns the log, the clock and the order of everything for a [`GroupShard`].
//!
//! ```text
//!   requests, topics, time --> GroupShard --> events gather in a batch --> log, several on the way
//!                                  |                                        |
//!                                  '--> answers, notices <-- released in order when their batch is replicated
//! ```
//!
//! An append that fails drops the shard: everything that is open is answered with an error that says to try again, what
//! is on the way is waited for, and the log is replayed.
//!
//! All of that only while the shard is given to this process: see `tenure`.
//!
//! While a batch waits for the log for longer than a moment, no time passes for the shard: no answer leaves, gateways give up
//! sessions without one, and nobody could be heard. While there is no room for what would be written, no request is taken
//! either. So a log that is slow or away for a while ends no session.

mod gathering;
mod member_log;
mod outage;
mod replay;
mod sessions;
mod shard_clock;
mod tenure;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use walser_group::{Config, CoordinatorEpoch, GatewayId, GroupShard, Now, Output};
use walser_model::{Clock, Offset};
use walser_rpc::{ApiError, Reason};

use crate::call::{Call, ShardRequest, not_available};
use crate::log::{AppendAck, LogBatch, ShardLog, lost};
use crate::outbox::NoticeSink;
use crate::terms::Terms;
use crate::topics::{KnownTopics, topic_changes};

use self::gathering::{Deferred, Gathering, Sealed};
use self::member_log::member_lines;
use self::outage::{QUIET, ShardOutage};
use self::sessions::Sessions;
use self::shard_clock::ShardClock;
use self::tenure::Tenure;

pub(crate) use self::tenure::GivenEpoch;

/// Requests that wait for the driver.
const INBOX_MAX: usize = 256;
/// Requests that are handled before what they led to is sent.
const TURN_MAX: usize = 256;
/// Pauses before a shard is loaded again: longer and longer while nothing can be written.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// A driver looks around at least so often, so that it notices when the process did not run.
const WAKE_MAX: Duration = Duration::from_secs(1);
/// A batch that is on its way for longer has time stand.
const IN_FLIGHT_MAX: Duration = Duration::from_secs(1);
/// Why a shard takes nothing while it is read.
const LOADING: &str = "is being loaded";

/// What a driver is told.
enum Told {
    /// A request, for one term of the shard or for any.
    Request(Option<i64>, Box<dyn ShardRequest>),
    /// A gateway has opened its stream. It is told the term.
    Connect(GatewayId, Arc<dyn NoticeSink>, oneshot::Sender<Result<i64, ApiError>>),
}

/// The way to the driver of a shard. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ShardHandle {
    inbox: mpsc::Sender<Told>,
}

/// What a driver is made of.
#[derive(Debug)]
pub(crate) struct ShardParts {
    pub(crate) number: i32,
    pub(crate) log: Arc<dyn ShardLog>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) topics: watch::Receiver<Option<KnownTopics>>,
    pub(crate) terms: Terms,
    pub(crate) given: GivenEpoch,
    /// Told the highest epoch in the log when that is above the one that was given.
    pub(crate) outdated: watch::Sender<Option<CoordinatorEpoch>>,
    pub(crate) config: Config,
}

/// The driver of one shard.
pub(crate) struct ShardDriver {
    parts: ShardParts,
    tenure: Tenure,
    inbox: mpsc::Receiver<Told>,
}

/// What the driver of a shard was waiting for.
enum Woken {
    /// The shard is given to another coordinator, or nothing is known any more.
    Over(ApiError),
    Acked(Result<(), ApiError>),
    Told(Option<Told>),
    TopicsChanged,
    Due,
}

/// A batch on its way.
struct InFlight {
    since: Instant,
    ack: AppendAck,
    deferred: Vec<Deferred>,
}

/// A shard in service.
struct Serving<'a> {
    parts: &'a mut ShardParts,
    shard: GroupShard,
    /// Of the shard: the time from one load to the next.
    term: i64,
    topics: KnownTopics,
    clock: ShardClock,
    gathering: Gathering,
    /// One at a time: what comes meanwhile gathers into the next one. So nothing is written behind a batch that was refused,
    /// and many that commit at once cost few appends.
    in_flight: Option<InFlight>,
    /// The offset that the next batch gets.
    log_end: Offset,
    sessions: Sessions,
    progress: Progress,
}

/// How far a shard has got since it was loaded last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It could not be loaded.
    None,
    Loaded,
    /// Something was written.
    Written,
}

// === impl ShardHandle ===

impl ShardHandle {
    /// A handle and its driver, which has to be run.
    pub(crate) fn of(parts: ShardParts) -> (Self, ShardDriver) {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let tenure = Tenure::new(parts.number, parts.given.clone(), parts.outdated.clone());
        (Self { inbox: sender }, ShardDriver { parts, tenure, inbox })
    }

    /// Hands over a request for a term; `None`: for whichever it is. Waits for room. `done` is told on the driver.
    pub(crate) async fn submit<T, F, D>(&self, term: Option<i64>, handle: F, done: D)
    where
        T: Send + 'static,
        F: FnOnce(&mut GroupShard, Now, &mut Output) -> Result<T, ApiError> + Send + 'static,
        D: FnOnce(Result<T, ApiError>) + Send + 'static,
    {
        let told = Told::Request(term, Call::boxed(handle, done));
        if let Err(mpsc::error::SendError(Told::Request(_, request))) = self.inbox.send(told).await {
            request.refuse(not_available("is closed"));
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask<T, F>(&self, term: Option<i64>, handle: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(&mut GroupShard, Now, &mut Output) -> Result<T, ApiError> + Send + 'static,
    {
        let (told, answer) = oneshot::channel();
        self.submit(term, handle, |answer| drop(told.send(answer))).await;
        answer.await.unwrap_or_else(|_| Err(not_available("is closed").with_effect(walser_rpc::Effect::Maybe)))
    }

    /// Tells `sink` the notices of a gateway from here on, in place of an earlier one. Returns the term of the shard.
    pub(crate) async fn connect(&self, gateway: GatewayId, sink: Arc<dyn NoticeSink>) -> Result<i64, ApiError> {
        let (told, term) = oneshot::channel();
        let sent = self.inbox.send(Told::Connect(gateway, sink, told)).await;
        sent.map_err(|_| not_available("is closed"))?;
        term.await.unwrap_or_else(|_| Err(not_available("is closed")))
    }
}

// === impl Told ===

impl Told {
    fn refuse(self, failure: ApiError) {
        match self {
            Self::Request(_, request) => request.refuse(failure),
            Self::Connect(_, _, told) => drop(told.send(Err(failure))),
        }
    }
}

// === impl ShardDriver ===

impl ShardDriver {
    /// Runs until it is dropped, or its last handle.
    pub(crate) async fn run(mut self) {
        let mut outage = ShardOutage::new(self.parts.number);
        let mut pause = RETRY_MIN;
        while !self.inbox.is_closed() {
            let begins = self.tenure.begins();
            let Some(given) = refusing(&mut self.inbox, begins, "is not coordinated here").await else { return };
            match self.serve(given, &mut outage).await {
                Ok(()) => return,
                Err(_) if !self.tenure.lasts(given) => {
                    outage.forget();
                    pause = RETRY_MIN;
                }
                Err((failure, progress)) => {
                    outage.failed(&failure, progress != Progress::None);
                    pause = if progress == Progress::Written { RETRY_MIN } else { (pause * 2).min(RETRY_MAX) };
                    refusing(&mut self.inbox, tokio::time::sleep(pause), LOADING).await;
                }
            }
        }
    }

    /// Replays, and serves until an append fails or the shard is given to another coordinator.
    async fn serve(&mut self, given: CoordinatorEpoch, outage: &mut ShardOutage) -> Result<(), (ApiError, Progress)> {
        let Self { parts, tenure, inbox } = self;
        let mut ending = parts.given.clone();
        let term = parts.terms.next(parts.clock.now_millis());
        let loading = async {
            let closed = || not_available("is closed");
            parts.topics.wait_for(Option::is_some).await.map_err(|_| closed())?;
            let (shard, log_end) = tenure.load(given, &*parts.log, &*parts.clock, parts.config.clone()).await?;
            // As they are now: the log may know of later ones than there were when it was begun to be read.
            let topics = parts.topics.borrow_and_update().clone().ok_or_else(closed)?;
            Ok((shard, log_end, topics))
        };
        let loading = async {
            tokio::select! {
                loaded = loading => loaded,
                moved = tenure::ends(&mut ending, given) => Err(moved),
            }
        };
        let loaded = refusing(inbox, loading, LOADING).await;
        let (shard, log_end, topics) = loaded.map_err(|failure| (failure, Progress::None))?;
        let clock = ShardClock::new(Arc::clone(&parts.clock));
        let mut serving = Serving {
            parts,
            shard,
            term,
            topics: KnownTopics::default(),
            clock,
            gathering: Gathering::default(),
            in_flight: None,
            log_end,
            sessions: Sessions::default(),
            progress: Progress::Loaded,
        };
        serving.start(topics);
        match serving.run(inbox, given, outage).await {
            Ok(()) => Ok(()),
            Err(failure) => {
                let on_the_way = serving.drop_shard(&failure);
                // What is on the way may still be written: a replay before that would have to be repeated.
                refusing(inbox, futures::future::OptionFuture::from(on_the_way), LOADING).await;
                Err((failure, serving.progress))
            }
        }
    }
}

/// Waits for something, and refuses meanwhile what comes in.
async fn refusing<T>(inbox: &mut mpsc::Receiver<Told>, waiting: impl Future<Output = T>, why: &str) -> T {
    let mut waiting = std::pin::pin!(waiting);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            done = &mut waiting => return done,
            told = inbox.recv(), if open => match told {
                Some(told) => told.refuse(not_available(why)),
                None => open = false,
            },
        }
    }
}

// === impl Serving ===

impl Serving<'_> {
    fn start(&mut self, topics: KnownTopics) {
        let (now, mut out) = (self.clock.now(), Output::default());
        let present = topic_changes(&KnownTopics::default(), &topics);
        self.topics = topics;
        self.shard.start(now, present, &mut out);
        self.gather(out, None);
    }

    /// Serves until an append fails, the shard is given to another coordinator, or the last handle is dropped.
    async fn run(
        &mut self,
        inbox: &mut mpsc::Receiver<Told>,
        given: CoordinatorEpoch,
        outage: &mut ShardOutage,
    ) -> Result<(), ApiError> {
        let begun = Instant::now();
        loop {
            if outage.lasts() && (self.progress == Progress::Written || begun.elapsed() >= QUIET) {
                outage.ended();
            }
            self.tick();
            self.send().await;
            let (room, patience) = (self.has_room(), self.patience());
            let runs = room && !patience.is_zero();
            self.clock.set_stopped(!runs);
            let due =
                self.shard.next_deadline().map_or(WAKE_MAX, |due| self.clock.until(due).min(WAKE_MAX)).min(patience);
            self.clock.expect_wake(due);
            let woken = tokio::select! {
                biased;
                moved = tenure::ends(&mut self.parts.given, given) => Woken::Over(moved),
                acked = acked(&mut self.in_flight), if self.in_flight.is_some() => Woken::Acked(acked),
                told = inbox.recv(), if room => Woken::Told(told),
                changed = self.parts.topics.changed(), if room => match changed {
                    Ok(()) => Woken::TopicsChanged,
                    Err(_) => Woken::Over(not_available("is closed")),
                },
                () = tokio::time::sleep(due), if runs => Woken::Due,
            };
            // Before anything is handled: what time it is depends on it, and who is there.
            self.clock.wake();
            if self.clock.has_stood() {
                self.shard.doubt_members();
            }
            match woken {
                Woken::Over(why) => return Err(why),
                Woken::Acked(outcome) => {
                    outcome?;
                    self.release();
                }
                Woken::Told(Some(told)) => self.turn(told, inbox),
                Woken::Told(None) => return self.finish().await,
                Woken::TopicsChanged => self.change_topics(),
                Woken::Due => {}
            }
        }
    }

    /// Whether what a request leads to can wait here.
    fn has_room(&self) -> bool {
        self.in_flight.is_none() || self.gathering.has_room()
    }

    /// For how long what is on its way may stay there before time stands.
    fn patience(&self) -> Duration {
        self.in_flight.as_ref().map_or(WAKE_MAX, |batch| IN_FLIGHT_MAX.saturating_sub(batch.since.elapsed()))
    }

    /// Handles a request, and those behind it that have arrived.
    fn turn(&mut self, first: Told, inbox: &mut mpsc::Receiver<Told>) {
        self.handle(first);
        for _ in 1..TURN_MAX {
            if !self.gathering.has_room() {
                return;
            }
            let Ok(told) = inbox.try_recv() else { return };
            self.handle(told);
        }
    }

    fn handle(&mut self, told: Told) {
        match told {
            Told::Request(Some(term), request) if term != self.term => {
                let text = format!("term {term} of the shard is not {}", self.term);
                let failure = ApiError::new(Reason::StaleEpoch, text).with("epoch", term);
                let direction = if term < self.term { "older" } else { "newer" };
                request.refuse(failure.with("currentEpoch", self.term).with("direction", direction));
            }
            Told::Request(_, request) => {
                let mut out = Output::default();
                let release = request.handle(&mut self.shard, self.clock.now(), &mut out);
                self.gather(out, Some(release));
            }
            Told::Connect(gateway, sink, told) => {
                self.sessions.connect(gateway, sink);
                let _ = told.send(Ok(self.term));
            }
        }
    }

    fn change_topics(&mut self) {
        let Some(topics) = self.parts.topics.borrow_and_update().clone() else { return };
        let changes = topic_changes(&self.topics, &topics);
        self.topics = topics;
        if !changes.is_empty() {
            let mut out = Output::default();
            self.shard.topics_changed(self.clock.now(), changes, &mut out);
            self.gather(out, None);
        }
    }

    /// Does what is due, as long as there is room for it.
    fn tick(&mut self) {
        let now = self.clock.now();
        while self.gathering.has_room() && self.shard.next_deadline().is_some_and(|due| due <= now.monotonic) {
            let mut out = Output::default();
            self.shard.tick(now, &mut out);
            self.gather(out, None);
        }
    }

    /// Has events written, and what waits for them released behind them. Without events it waits for those before it.
    fn gather(&mut self, out: Output, answer: Option<crate::call::Release>) {
        let wrote = !out.events.is_empty();
        let cut = self.gathering.add(&out.events, self.clock.now().wall);
        let deferred = Deferred { answer, notices: out.notices, lines: member_lines(&out.events), cut };
        if deferred.is_empty() {
            return;
        }
        if wrote || !self.gathering.is_empty() {
            self.gathering.defer(deferred);
        } else if let Some(last) = &mut self.in_flight {
            last.deferred.push(deferred);
        } else {
            self.sessions.release(deferred);
        }
    }

    /// Hands what has gathered to the log, once nothing is on its way.
    async fn send(&mut self) {
        if self.in_flight.is_none()
            && let Some(Sealed { record_batch, record_count, deferred }) = self.gathering.take()
        {
            let expected_offset = self.log_end;
            self.log_end = Offset(self.log_end.0 + i64::from(record_count));
            self.clock.set_stopped(true);
            let batch = LogBatch { expected_offset: Some(expected_offset), record_batch };
            let ack = self.parts.log.append(batch).await;
            self.clock.set_stopped(false);
            self.in_flight = Some(InFlight { since: Instant::now(), ack, deferred });
        }
    }

    /// What was on its way is replicated.
    fn release(&mut self) {
        let Some(InFlight { deferred, .. }) = self.in_flight.take() else { return };
        self.progress = Progress::Written;
        for deferred in deferred {
            self.sessions.release(deferred);
        }
    }

    /// Nobody asks any more: what is on its way is waited for.
    async fn finish(&mut self) -> Result<(), ApiError> {
        self.send().await;
        while self.in_flight.is_some() {
            acked(&mut self.in_flight).await?;
            self.release();
            self.send().await;
        }
        Ok(())
    }

    /// Answers everything that is open with an error. Returns what is on its way.
    fn drop_shard(&mut self, cause: &ApiError) -> Option<AppendAck> {
        let failure = not_available("was dropped");
        let failure = failure.with("cause", cause.reason_name()).with("detail", cause.message());
        // It may be written.
        let open = failure.clone().with_effect(walser_rpc::Effect::Maybe);
        let on_the_way = self.in_flight.take().map(|InFlight { ack, deferred, .. }| {
            deferred.into_iter().for_each(|deferred| deferred.fail(&open));
            ack
        });
        while let Some(sealed) = self.gathering.take() {
            for deferred in sealed.deferred {
                let failure = if deferred.cut { &open } else { &failure };
                deferred.fail(failure);
            }
        }
        self.sessions.end_all(&failure);
        on_the_way
    }
}

/// What became of the batch on its way.
async fn acked(in_flight: &mut Option<InFlight>) -> Result<(), ApiError> {
    let Some(batch) = in_flight else { return Ok(()) };
    let outcome = (&mut batch.ack).await.unwrap_or_else(|_| Err(lost()));
    if outcome.is_err() {
        // Told already: it is not waited for again.
        (_, batch.ack) = oneshot::channel();
    }
    outcome
}
