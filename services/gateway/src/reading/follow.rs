//! The reader of one partition of a stream: finds its place, reads to its end or for ever, and waits where its leader
//! is lost.
//!
//! While it waits, for records or for a leader, it holds no budget: before a read is repeated, the leader is asked
//! without reading whether it answers at all.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use walser_model::Offset;
use walser_rpc::{ApiError, Reason};

use crate::error::no_answer;
use crate::reading::answer::{Chunk, Reset};
use crate::reading::budget::{ReadPermit, StreamBudget};
use crate::reading::cursor::{Cursor, PartitionReader};
use crate::reading::decode::{Amount, Undecoded};
use crate::reading::request::Options;
use crate::reading::target::Target;
use crate::retry::{Backoff, lost};
use crate::router::LedBy;

/// Aim of a chunk.
const CHUNK_BYTES: usize = 1 << 20;
/// How long one look at a partition waits; the stream itself has no limit.
const WAIT: Duration = Duration::from_secs(10);
/// How long a leader may take to answer a read that holds budget, at first and at most.
const ANSWER_FIRST: Duration = Duration::from_secs(2);
const ANSWER_MAX: Duration = Duration::from_secs(32);
/// A problem is reported when it has lasted this long: most leaders are back sooner.
const TROUBLE_MIN: Duration = Duration::from_secs(1);
/// The same problem is reported again after this long.
const TROUBLE_AGAIN: Duration = Duration::from_secs(10);

/// What a partition's reader says.
pub(crate) enum PartitionEvent {
    /// Its place is found: this offset.
    Opened(i64),
    Chunk(Chunk, ReadPermit),
    Reset(Reset),
    CaughtUp(i64),
    Problem(ApiError),
    Ended,
    /// Never to be read again.
    Failed(ApiError),
}

/// How a partition's reader speaks.
pub(super) struct EventSender {
    pub(super) told: mpsc::Sender<(usize, PartitionEvent)>,
    pub(super) number: usize,
    pub(super) budget: StreamBudget,
}

/// The driver does not listen any more.
struct Gone;

/// A problem that lasts.
struct Trouble {
    since: Instant,
    reported: Option<(Reason, Instant)>,
}

/// The reader of a partition.
struct Follower {
    partitions: PartitionReader,
    options: Options,
    records_max: usize,
    events: EventSender,
    caught_up: bool,
    /// The driver knows that it is caught up.
    told: bool,
    trouble: Option<Trouble>,
    answer_max: Duration,
    backoff: Backoff,
}

/// Reads one partition until its end, or until nobody listens.
pub(super) async fn follow(
    partitions: PartitionReader,
    target: Target,
    options: Options,
    records_max: usize,
    events: EventSender,
) {
    let follower = Follower {
        partitions,
        options,
        records_max,
        events,
        caught_up: false,
        told: false,
        trouble: None,
        answer_max: ANSWER_FIRST,
        backoff: Backoff::default(),
    };
    let _ = follower.run(target).await;
}

// === impl EventSender ===

impl EventSender {
    async fn send(&self, event: PartitionEvent) -> Result<(), Gone> {
        self.told.send((self.number, event)).await.map_err(|_| Gone)
    }
}

// === impl Trouble ===

impl Trouble {
    /// Whether a failure is worth a word now.
    fn is_news(&mut self, failure: &ApiError) -> bool {
        let now = Instant::now();
        let known = self.reported.is_some_and(|(reason, at)| {
            reason == failure.reason() && now.saturating_duration_since(at) < TROUBLE_AGAIN
        });
        let news = !known && now.saturating_duration_since(self.since) >= TROUBLE_MIN;
        if news {
            self.reported = Some((failure.reason(), now));
        }
        news
    }
}

// === impl Follower ===

impl Follower {
    async fn run(mut self, target: Target) -> Result<(), Gone> {
        let Some(mut cursor) = self.open(target).await? else { return Ok(()) };
        self.events.send(PartitionEvent::Opened(cursor.offset.0)).await?;
        loop {
            let asked = self.partitions.led_by(&cursor.target);
            let event = match self.step(&mut cursor).await {
                Ok(event) => event,
                Err(failure) => {
                    let reset = self.partitions.reset(&mut cursor, &failure, self.options.out_of_range).await;
                    match reset.and_then(|reset| reset.ok_or(failure)) {
                        Ok(reset) => Some(PartitionEvent::Reset(reset)),
                        Err(failure) => {
                            if !self.retries(failure, &cursor.target, asked).await? {
                                return Ok(());
                            }
                            continue;
                        }
                    }
                }
            };
            (self.trouble, self.answer_max) = (None, ANSWER_FIRST);
            let Some(event) = event else {
                self.backoff.pause().await;
                continue;
            };
            self.backoff = Backoff::default();
            let over = matches!(event, PartitionEvent::Ended);
            self.events.send(event).await?;
            if over {
                return Ok(());
            }
        }
    }

    /// Finds the place of a target. `None`: it cannot be read, which the driver knows.
    async fn open(&mut self, target: Target) -> Result<Option<Cursor>, Gone> {
        self.trouble = Some(Trouble { since: Instant::now(), reported: None });
        loop {
            let asked = self.partitions.led_by(&target);
            let found = tokio::time::timeout(ANSWER_FIRST, self.partitions.open(target.clone())).await;
            match found.unwrap_or_else(|_elapsed| Err(no_answer(&target.topic, target.partition))) {
                Ok(cursor) => {
                    self.trouble = None;
                    return Ok(Some(cursor));
                }
                Err(failure) => {
                    if !self.retries(failure, &target, asked).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Waits before the next attempt after a failure, no longer than until another leader is known than the one that was
    /// asked. False: there is none, which the driver knows.
    async fn retries(&mut self, failure: ApiError, target: &Target, asked: LedBy) -> Result<bool, Gone> {
        // A read that was not answered can always be repeated.
        if !failure.is_transient() && !lost(&failure) {
            self.events.send(PartitionEvent::Failed(failure)).await?;
            return Ok(false);
        }
        let trouble = self.trouble.get_or_insert_with(|| Trouble { since: Instant::now(), reported: None });
        if trouble.is_news(&failure) {
            self.events.send(PartitionEvent::Problem(failure)).await?;
        }
        tokio::select! {
            () = self.backoff.pause() => {}
            () = self.partitions.leader_changes(target, asked) => {}
        }
        Ok(true)
    }

    /// Waits for records when everything is read, then reads the next ones. `None`: nothing is there after all.
    async fn step(&mut self, cursor: &mut Cursor) -> Result<Option<PartitionEvent>, ApiError> {
        if cursor.ended() {
            self.partitions.check_behind_end(cursor).await?;
            return Ok(Some(PartitionEvent::Ended));
        }
        if self.trouble.is_some() {
            self.partitions.wait_for_records(cursor, Duration::ZERO).await?;
        }
        // The first look does not wait, so that a reader at the live end is told at once.
        while self.caught_up && self.told {
            self.caught_up = !self.partitions.wait_for_records(cursor, WAIT).await?;
        }
        let amount = Amount::whole(CHUNK_BYTES, self.records_max);
        let (shape, limit) = (self.options.shape, self.answer_max);
        let (chunk, permit) = match self.partitions.next_chunk(cursor, shape, amount, &self.events.budget, limit).await
        {
            Ok(read) => read,
            Err(Undecoded::Failed(failure)) => {
                self.answer_max = (self.answer_max * 2).min(ANSWER_MAX);
                return Err(failure);
            }
            Err(Undecoded::NoRoom) => {
                let failure = ApiError::new(Reason::BatchUnreadable, "the record does not fit any message");
                return Err(failure.with("offset", cursor.offset));
            }
        };
        if chunk.content.record_count == 0 && chunk.content.next_offset <= cursor.offset.0 {
            self.caught_up = true;
            let news = !std::mem::replace(&mut self.told, true);
            return Ok(news.then_some(PartitionEvent::CaughtUp(chunk.high_watermark)));
        }
        cursor.advance(&chunk);
        self.caught_up = cursor.offset >= Offset(chunk.high_watermark);
        self.told = self.caught_up;
        Ok(Some(PartitionEvent::Chunk(chunk, permit)))
    }
}
