//! One bounded read over several partitions.
//!
//! A call looks at its partitions one after the other, from another one each time, so that a partition with much to
//! read keeps none of the others from being read. A partition whose leader is lost costs the others nothing: they are
//! returned with an error for it, and the whole call waits for it no longer than `max_wait`.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::Instant;
use walser_model::{NodeId, Offset, PartitionIndex};
use walser_rpc::{ApiError, Reason, SendGate};

use crate::error::{NO_ANSWER, no_answer};
use crate::retry::{Backoff, lost};

use super::Reading;
use super::answer::{Chunk, Fetched, PartitionFailure, PartitionName, Reset};
use super::budget::ReadPermit;
use super::cursor::{Cursor, PartitionReader};
use super::decode::{Amount, CHUNK_OVERHEAD, Undecoded};
use super::offsets::LOOK_UPS_AT_ONCE;
use super::request::{FetchRequest, Options};
use super::target::Target;

/// How long a leader may take to answer in the first look of a call, whatever the caller waits: its other partitions
/// wait, too. In later looks it may take longer.
const ANSWER_FIRST: Duration = Duration::from_secs(1);
/// Time between two looks while a leader moves.
const RETRY: Duration = Duration::from_millis(50);

/// One look at all partitions of a call.
#[derive(Debug, Clone, Default)]
struct FetchRound {
    cursors: Vec<Cursor>,
    /// Targets whose place is not found yet.
    unopened: Vec<Target>,
    chunks: Vec<Chunk>,
    resets: Vec<Reset>,
    failures: Vec<PartitionFailure>,
    bytes: usize,
    /// Memory that the chunks hold, in bytes.
    cost: usize,
    /// A limit of the call was reached.
    full: bool,
    /// Nothing fits the budget that was taken: the look is repeated with more.
    no_room: bool,
    /// A leader was lost: waiting may help.
    moving: bool,
    /// How long a leader may take to answer, whatever time the caller has.
    answer_max: Duration,
    /// Of the caller.
    deadline: Option<Instant>,
    /// Storage nodes that did not answer in time: in this look they are not asked again.
    silent: HashSet<NodeId>,
}

impl FetchRound {
    /// How long a leader may take to answer: of the caller's time some is left for the other leaders.
    fn answer_max(&self) -> Duration {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()) / 2);
        left.map_or(self.answer_max, |left| left.min(self.answer_max))
    }

    fn note(&mut self, of: PartitionName, failure: ApiError) {
        self.moving |= lost(&failure);
        self.failures.push(PartitionFailure { of, failure });
    }

    /// Adds a chunk to the answer.
    fn take(&mut self, cursor: &mut Cursor, chunk: Chunk, left: &mut Amount) {
        // More is there, and another look would find the same.
        self.full |= !chunk.content.ended && chunk.content.next_offset < chunk.high_watermark;
        left.take(&chunk.content);
        self.bytes += chunk.content.size_bytes;
        self.cost += chunk.content.cost;
        cursor.advance(&chunk);
        self.chunks.push(chunk);
    }

    /// Whether every target has an end, and is there: nothing more can come.
    fn is_done(&self) -> bool {
        self.unopened.is_empty() && self.cursors.iter().all(Cursor::ended)
    }

    /// Something is in the answer that the next call need not find again.
    fn has_answers(&self) -> bool {
        !self.chunks.is_empty() || !self.resets.is_empty()
    }

    /// At most so many bytes are in the answer, without errors.
    fn answer_bytes(&self) -> usize {
        self.bytes + (self.chunks.len() + self.resets.len()) * CHUNK_OVERHEAD
    }

    fn all_failed(&self) -> bool {
        self.failures.len() == self.cursors.len() + self.unopened.len()
    }

    /// The answer, in at most `bytes_max`.
    fn answer(self, bytes_max: usize, gate: SendGate) -> Result<Fetched, ApiError> {
        let failure_bytes_max = bytes_max.saturating_sub(self.answer_bytes());
        let all_failed = self.all_failed();
        let Self { chunks, resets, failures, .. } = self;
        match failures.first() {
            // Nothing worked: a client that looks only at the status must not take this for an empty answer.
            Some(first) if all_failed => Err(first.failure.clone()),
            _ => Ok(Fetched { chunks, resets, failures, failure_bytes_max, gate }),
        }
    }
}

impl Reading {
    /// Looks at every partition, and again whenever something has come, until there is enough.
    pub(crate) async fn fetch(&self, request: &FetchRequest, limit: Option<Duration>) -> Result<Fetched, ApiError> {
        let FetchRequest { targets, options, wait, bytes_min, bytes_max, records_max } = request;
        let amount = Amount::whole(*bytes_max, *records_max);
        // The caller's deadline leaves time for the answer to travel.
        let wait = limit.map_or(*wait, |limit| (*wait).min(limit.saturating_sub(limit / 10)));
        let (until, deadline) = (Instant::now() + wait, limit.map(|limit| Instant::now() + limit));
        let mut unopened = self.positions.targets(targets).await?;
        let first = u128::from_be_bytes(self.random.bytes()) % (unopened.len().max(1) as u128);
        unopened.rotate_left(usize::try_from(first).unwrap_or(0));
        let (mut cursors, mut came, mut last, mut backoff) = (Vec::new(), false, false, Backoff::default());
        let mut answer_max = ANSWER_FIRST;
        loop {
            let mut round = FetchRound { cursors, answer_max, deadline, ..FetchRound::default() };
            self.open(&mut round, unopened).await;
            let (looked, permit) = self.look_at_all(&round, *options, amount).await;
            let hopeless = looked.all_failed() && !looked.moving;
            let enough = looked.bytes >= *bytes_min || looked.full || hopeless || looked.is_done();
            last |= Instant::now() >= until || self.shutdown.begun();
            if last || enough {
                self.count_consumed(&looked.chunks);
                let fetched = looked.answer(options.shape.room(), self.budget.gate())?;
                fetched.gate.leaves(permit);
                return Ok(fetched);
            }
            // What was read is dropped for the wait, and read again from the same places with what comes.
            let FetchRound { cursors: behind, moving, silent, chunks, failures, .. } = looked;
            let failed: HashSet<_> = failures.into_iter().map(|failure| failure.of).collect();
            drop((chunks, permit));
            (cursors, unopened) = (round.cursors, looked.unopened);
            if !silent.is_empty() {
                answer_max *= 2;
            }
            if moving {
                // A leader moves; what comes from others meanwhile is not held up.
                self.something_comes(&behind, until.min(Instant::now() + RETRY), |_| false).await;
                backoff.pause_until(until).await;
                came = true;
                continue;
            }
            if came {
                // Little came, or the high watermark is ahead of what can be read, for a moment.
                backoff.pause_until(until).await;
            }
            // What has failed in this look would fail at once, and again.
            let was_there = |target: &Target| !failed.contains(&target.name());
            came = self.something_comes(&behind, until, was_there).await;
            last = !came;
        }
    }

    fn count_consumed(&self, chunks: &[Chunk]) {
        for chunk in chunks {
            self.metrics.consumed(&chunk.topic, chunk.content.size_bytes);
        }
    }

    /// Opens the cursors of targets; those that cannot be opened are failures, and stay as they are.
    async fn open(&self, round: &mut FetchRound, targets: Vec<Target>) {
        let (limit, silent) = (round.answer_max(), Mutex::new(std::mem::take(&mut round.silent)));
        let open = async |target: Target| {
            let leader = leader(&target);
            let none = Err(no_answer(&target.topic, target.partition));
            if leader.is_some_and(|leader| silent.lock().contains(&leader)) {
                return (target, none);
            }
            let cursor = tokio::time::timeout(limit, self.partitions.open(target.clone())).await;
            let cursor = cursor.unwrap_or_else(|_elapsed| {
                silent.lock().extend(leader);
                none
            });
            (target, cursor)
        };
        let opening: Vec<_> = targets.into_iter().map(open).collect();
        let mut opened = futures::stream::iter(opening).buffered(LOOK_UPS_AT_ONCE);
        while let Some((target, cursor)) = opened.next().await {
            match cursor {
                Ok(cursor) => round.cursors.push(cursor),
                Err(failure) => {
                    round.note(target.name(), failure);
                    round.unopened.push(target);
                }
            }
        }
        drop(opened);
        round.silent = silent.into_inner();
    }

    /// Reads what is there, partition by partition, within the limits of the call and the budget of the process.
    /// Budget is taken once for everything: who holds some never waits for more.
    async fn look_at_all(&self, round: &FetchRound, options: Options, amount: Amount) -> (FetchRound, ReadPermit) {
        let batch_bytes =
            round.cursors.iter().map(|cursor| cursor.target.topic.settings.config.message_bytes_max).max();
        let mut within = amount.ordinary(batch_bytes.unwrap_or(0));
        loop {
            let mut permit = self.budget.take(within.cost).await;
            let looked = self.look_within(round.clone(), options, within, amount).await;
            if !looked.no_room {
                permit.keep(looked.cost);
                return (looked, permit);
            }
            within = amount;
        }
    }

    /// One round over the partitions. `within` is what may be taken, `whole` all that there is.
    async fn look_within(&self, mut round: FetchRound, options: Options, within: Amount, whole: Amount) -> FetchRound {
        let mut cursors = std::mem::take(&mut round.cursors);
        let mut left = within;
        for cursor in &mut cursors {
            if left.is_spent() {
                round.full = true;
                break;
            }
            // A reset is part of the answer in which its records are, never of a later one.
            let room = options.within(round.answer_bytes() + CHUNK_OVERHEAD);
            if round.has_answers() && room.shape.room() < 2 * CHUNK_OVERHEAD {
                round.full = true;
                break;
            }
            match self.fetch_part(cursor, room, left, &mut round).await {
                Ok(Some(chunk)) => round.take(cursor, chunk, &mut left),
                Ok(None) => {}
                Err(Undecoded::NoRoom) if round.bytes == 0 && within.cost < whole.cost => {
                    round.no_room = true;
                    break;
                }
                // It fits a message of its own: the next call gets it.
                Err(Undecoded::NoRoom) => round.full = true,
                Err(Undecoded::Failed(failure))
                    if round.has_answers() && failure.reason() == Reason::RecordExceedsClientLimit =>
                {
                    round.full = true;
                }
                Err(Undecoded::Failed(failure)) => round.note(cursor.target.name(), failure),
            }
        }
        round.full |= left.is_spent();
        round.cursors = cursors;
        round
    }

    /// Waits for anything new behind what was read. False: nothing came until then. Of a partition that `was_there` it is
    /// something new that it cannot be waited for any more: it may be deleted, or led elsewhere.
    async fn something_comes(&self, cursors: &[Cursor], until: Instant, was_there: impl Fn(&Target) -> bool) -> bool {
        let wait = until.saturating_duration_since(Instant::now());
        let waiting = cursors.iter().map(async |cursor| {
            let comes = self.partitions.wait_for_records(cursor, wait).await;
            comes.unwrap_or_else(|_lost| was_there(&cursor.target))
        });
        let mut waiting: FuturesUnordered<_> = waiting.collect();
        let news = async {
            while let Some(outcome) = waiting.next().await {
                if outcome {
                    return true;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            news = tokio::time::timeout_at(until, news) => news.unwrap_or(false),
            // A stop answers with what is there.
            () = self.shutdown.wait() => false,
        }
    }

    /// One look at a partition. `None`: nothing there yet. What has no records for clients is passed over, however much of
    /// it there is: in a compacted log, offsets of which nothing is left.
    async fn fetch_part(
        &self,
        cursor: &mut Cursor,
        options: Options,
        amount: Amount,
        round: &mut FetchRound,
    ) -> Result<Option<Chunk>, Undecoded> {
        loop {
            let chunk = self.fetch_next(cursor, options, amount, round).await?;
            if chunk.content.record_count > 0 || chunk.content.ended {
                return Ok(Some(chunk));
            }
            let next = Offset(chunk.content.next_offset);
            let over = round.deadline.is_some_and(|deadline| Instant::now() >= deadline) || self.shutdown.begun();
            if next <= cursor.offset || over {
                return Ok(None);
            }
            cursor.offset = next;
        }
    }

    /// What a partition has behind its cursor, with records for clients or without.
    async fn fetch_next(
        &self,
        cursor: &mut Cursor,
        options: Options,
        amount: Amount,
        round: &mut FetchRound,
    ) -> Result<Chunk, Undecoded> {
        let leader = leader(&cursor.target);
        if leader.is_some_and(|leader| round.silent.contains(&leader)) {
            return Err(no_answer(&cursor.target.topic, cursor.target.partition).into());
        }
        let mut read = self.partitions.read_batches_within(cursor, amount.bytes, round.answer_max()).await;
        if let Err(failure) = &read
            && let Some(reset) = self.partitions.reset(cursor, failure, options.out_of_range).await?
        {
            round.resets.push(reset);
            read = self.partitions.read_batches_within(cursor, amount.bytes, round.answer_max()).await;
        }
        if let Err(failure) = &read
            && failure.value("rule") == Some(NO_ANSWER)
        {
            round.silent.extend(leader);
        }
        PartitionReader::chunk(read?, cursor, options.shape, amount)
    }
}

/// The leader of a target's partition, as it was when the target was found.
fn leader(target: &Target) -> Option<NodeId> {
    target.topic.leader(PartitionIndex(target.partition))?.0
}
