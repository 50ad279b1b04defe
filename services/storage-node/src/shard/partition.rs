//! One partition in its shard: the log, the leader, and the writes that wait.

mod append_time;
mod damage;
mod expired;
mod kept_log;
mod leading;
mod released;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use walser_log::{AppendError, Condition, FlushJob, Flushed, Log, LogError, Verdict, out_of_files};
use walser_model::{Acks, Durability, LeaderEpoch, NodeId, Offset, Timestamp, TimestampType, TopicConfig};
use walser_proto::internal::v1::AppendStreamResponse;
use walser_proto::v1 as pb;
use walser_record_batch::{BatchHeader, stamp_append_time, stamp_position};
use walser_replication::{Action, Event, Leader};
use walser_rpc::{Failure, Reason};

use super::files::{PATIENCE, Taken, Written};
use super::{AppendJob, Surroundings};
use crate::board::Replica;
use crate::error::{
    disk_full, log_failure, not_enough_answers, not_enough_replicas, not_leader, producer_failure,
    storage_error_after_append, too_many_files, unreadable_settings,
};
use crate::tail::Budget;
use expired::ExpiredRecords;

pub(crate) use append_time::next_append_time;
use kept_log::KeptLog;
pub(crate) use leading::LeadOrder;
pub(crate) use released::Released;

/// Time after which a flush that found no file to open is tried again.
const FLUSH_RETRY: Duration = Duration::from_millis(20);
/// At most this much is written at once.
const RUN_BYTES_MAX: usize = 4 << 20;

/// A write that is not answered yet: in the log, or refused behind others that are.
struct Waiting {
    /// Where its records end (exclusive) and what is answered then, or why it was refused.
    outcome: Result<(Offset, AppendStreamResponse), Failure>,
    job: AppendJob,
    /// Bytes of its batch, once its room was given up. `None`: it holds its room.
    released: Option<usize>,
}

/// A partition and everything that its shard keeps of it.
pub(crate) struct Partition {
    pub(crate) log: Log,
    pub(crate) replica: Arc<Replica>,
    leader: Option<Leader>,
    /// Kept to be filled anew at every step.
    actions: Vec<Action>,
    config: TopicConfig,
    /// Why the topic's settings cannot be read: it takes no writes then.
    unreadable: Option<String>,
    pub(crate) incoming: VecDeque<AppendJob>,
    /// In the order of the requests.
    waiting: VecDeque<Waiting>,
    /// The first of those that wait, which are durable here and wait for other replicas only.
    released: Released,
    /// Since when writes wait for files, in monotonic time.
    short_of_files_since: Option<Duration>,
    /// A flush could not begin for want of files.
    flush_delayed: bool,
    last_append_time: Timestamp,
    expired: ExpiredRecords,
    /// Monotonic time of the last append, and of the last flush.
    pub(crate) last_write: Duration,
    last_flush: Duration,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition").field("log", &self.log.partition()).finish_non_exhaustive()
    }
}

/// A group of batches on its way into the log.
#[derive(Default)]
struct Group {
    run: Vec<u8>,
    headers: Vec<BatchHeader>,
    /// In the order of the requests.
    jobs: Vec<(AppendJob, Planned)>,
}

/// What is to become of a request of a group.
enum Planned {
    /// Its batch is in the run.
    Append(BatchHeader),
    /// A retry of a batch that is in the log, or earlier in the group.
    Repeat { base_offset: Offset, next_offset: Offset, max_timestamp: Timestamp },
    /// It may not be appended.
    Refused(Failure),
}

impl Partition {
    pub(crate) fn new(log: Log, replica: Arc<Replica>) -> Self {
        Self {
            last_append_time: log.append_time(),
            log,
            replica,
            leader: None,
            actions: Vec::new(),
            config: TopicConfig::default(),
            unreadable: None,
            incoming: VecDeque::new(),
            waiting: VecDeque::new(),
            released: Released::default(),
            short_of_files_since: None,
            flush_delayed: false,
            expired: ExpiredRecords::default(),
            last_write: Duration::ZERO,
            last_flush: Duration::ZERO,
        }
    }

    /// Writes what has come in.
    pub(crate) fn write(&mut self, around: &Surroundings, tail: &mut Budget) -> Written {
        if self.incoming.is_empty() || self.incoming.front().is_some_and(|job| self.log.must_wait(job.batch.len())) {
            return Written::All;
        }
        // The other half is also what a flush opens, and without flushes no file could ever be closed.
        if !self.log.ready_to_append() && around.above_file_share() {
            return self.wait_for_files(around);
        }
        let now = around.clock.now_millis();
        let group = self.gather(around, now);
        let taken = self.append(group, around, tail, now);
        self.answer(around);
        if taken == Taken::ShortOfFiles {
            return self.wait_for_files(around);
        }
        self.short_of_files_since = None;
        let next = self.incoming.front();
        let waits = next.is_none_or(|job| self.log.must_wait(job.batch.len()));
        if waits { Written::All } else { Written::More }
    }

    /// Leaves what has come in where it is, for as long as files may become free.
    fn wait_for_files(&mut self, around: &Surroundings) -> Written {
        let now = around.clock.monotonic();
        let since = *self.short_of_files_since.get_or_insert(now);
        if now.saturating_sub(since) < PATIENCE {
            return Written::ShortOfFiles;
        }
        self.short_of_files_since = None;
        let failure = too_many_files(around.directory.disk().open_files().limit, around.node);
        for job in self.incoming.drain(..) {
            job.refuse(failure.clone(), &around.metrics);
        }
        Written::All
    }

    /// Takes the batches that may be appended, stamps them, and refuses the others.
    fn gather(&mut self, around: &Surroundings, now: Timestamp) -> Group {
        let mut group = Group::default();
        let total: usize = self.incoming.iter().map(|job| job.batch.len()).sum();
        group.run.reserve_exact(total.min(RUN_BYTES_MAX + (1 << 20)));
        let mut next_offset = self.log.log_end();
        while let Some(job) = self.incoming.pop_front() {
            let after = group.run.len() + job.batch.len();
            let full = !group.headers.is_empty() && after > RUN_BYTES_MAX;
            if full || self.log.must_wait(after) {
                self.incoming.push_front(job);
                break;
            }
            if self.released.is_full() {
                // Answered at once: behind the others it would wait with them, and so would ever more.
                let repeated = matches!(self.log.judge(&job.header), Ok(Verdict::Duplicate { .. }));
                job.refuse(not_enough_answers(self.released, repeated), &around.metrics);
                continue;
            }
            match self.accept(&job, next_offset, around, now) {
                Ok(Verdict::Duplicate { base_offset, next_offset, max_timestamp }) => {
                    group.jobs.push((job, Planned::Repeat { base_offset, next_offset, max_timestamp }));
                }
                Ok(_) => {
                    let start = group.run.len();
                    group.run.extend_from_slice(&job.batch);
                    let stamped = &mut group.run[start..];
                    stamp_position(stamped, next_offset, self.epoch());
                    if let Some(time) = self.append_time(around, now) {
                        self.last_append_time = time;
                        stamp_append_time(stamped, time);
                    }
                    let header = BatchHeader::parse(stamped).expect("the header was parsed when the batch came in");
                    next_offset = header.next_offset();
                    group.headers.push(header);
                    group.jobs.push((job, Planned::Append(header)));
                }
                Err(failure) => group.jobs.push((job, Planned::Refused(failure))),
            }
        }
        group
    }

    fn epoch(&self) -> LeaderEpoch {
        self.leader.as_ref().map_or(LeaderEpoch::NONE, Leader::epoch)
    }

    /// The time that a batch appended now is stamped with; `None` where producers say it.
    fn append_time(&self, around: &Surroundings, now: Timestamp) -> Option<Timestamp> {
        if self.config.timestamp_type != TimestampType::LogAppendTime {
            return None;
        }
        let time = next_append_time(self.last_append_time, now);
        if time < self.last_append_time {
            let (partition, ahead) = (around.named(self.log.partition()), self.last_append_time - time);
            tracing::warn!(%partition, ahead, "the clock was set back: LogAppendTime goes back by so many milliseconds");
        }
        Some(time)
    }

    /// Whether a batch may be appended at `next_offset`.
    fn accept(
        &mut self,
        job: &AppendJob,
        next_offset: Offset,
        around: &Surroundings,
        now: Timestamp,
    ) -> Result<Verdict, Failure> {
        let refused = around.board.writes_refused();
        let refused = refused.or_else(|| self.unreadable.as_deref().map(unreadable_settings));
        let Some(leader) = self.leader.as_ref() else {
            return Err(refused.unwrap_or_else(|| not_leader(around.node)));
        };
        if job.epoch != LeaderEpoch::NONE && job.epoch != leader.epoch() {
            let direction = if job.epoch < leader.epoch() { "older" } else { "newer" };
            let text = format!("leader epoch {} is {direction} than {}", job.epoch, leader.epoch());
            let failure = Failure::new(Reason::StaleEpoch, text).with("epoch", job.epoch);
            return Err(failure.with("currentEpoch", leader.epoch()).with("direction", direction));
        }
        leader.admit(job.acks).map_err(not_enough_replicas)?;
        let max_timestamp = self.append_time(around, now).unwrap_or(job.header.max_timestamp);
        let header = BatchHeader { base_offset: next_offset, max_timestamp, ..job.header };
        let unusable = |error| match error {
            LogError::Io(error) if out_of_files(&error) => {
                too_many_files(around.directory.disk().open_files().limit, around.node)
            }
            error => log_failure(&error, around.node),
        };
        // What is in the log already is answered so, whatever would keep it from being written now.
        let known = self.log.judge(&header).map_err(unusable)?;
        if matches!(known, Verdict::Duplicate { .. }) {
            return Ok(known);
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        if around.space.full() || !around.space.take(job.batch.len(), &around.directory) {
            return Err(disk_full(around.node));
        }
        if let Some(expected) = job.expected_offset.filter(|expected| *expected != next_offset) {
            let text = format!("the next record gets offset {next_offset}, not {expected}");
            let failure = Failure::new(Reason::OffsetMismatch, text).with("expectedOffset", expected);
            return Err(failure.with("actualOffset", next_offset));
        }
        let verdict = self.log.admit(&header, now).map_err(unusable)?;
        match producer_failure(verdict, &header) {
            Some(failure) => Err(failure),
            None => Ok(verdict),
        }
    }

    /// Writes a group, and lets what is in the log then wait for its answer.
    fn append(&mut self, group: Group, around: &Surroundings, tail: &mut Budget, now: Timestamp) -> Taken {
        let Group { mut run, headers, jobs } = group;
        let mut refusal = None;
        let mut taken = Taken::All;
        if let Some(first) = headers.first() {
            let mut appended = headers.len();
            if let Err((count, error)) = self.log.append(&run, &headers, now) {
                appended = count;
                taken = match error {
                    AppendError::Extending => Taken::Extending,
                    AppendError::NoFiles => Taken::ShortOfFiles,
                    AppendError::NoSpace | AppendError::Log(_) => Taken::All,
                };
                refusal = Some(self.append_failed(&error, around));
                run.truncate(headers[..count].iter().map(|header| header.size).sum());
            }
            let log_end = self.log.log_end();
            if appended > 0 {
                self.last_write = around.clock.monotonic();
                around.metrics.appended(appended, log_end.since(first.base_offset), run.len());
                self.note_expired(&headers[..appended], around, now);
                tail.push(&self.replica.tail, first.base_offset, log_end, Bytes::from(run));
            }
        }
        let log_end = self.log.log_end();
        let mut jobs = jobs.into_iter();
        for (job, planned) in jobs.by_ref() {
            let in_log = match &planned {
                Planned::Append(header) => header.next_offset() <= log_end,
                Planned::Repeat { next_offset, .. } => *next_offset <= log_end,
                Planned::Refused(_) => true,
            };
            if taken != Taken::All && !in_log {
                // Taken again, with all that came after, once the extension has finished, or files are closed.
                let rest: Vec<_> = jobs.map(|(job, _)| job).collect();
                rest.into_iter().rev().for_each(|job| self.incoming.push_front(job));
                self.incoming.push_front(job);
                break;
            }
            let outcome = match planned {
                Planned::Append(header) if header.next_offset() <= log_end => {
                    Ok((header.next_offset(), self.answer_for(&job, header.base_offset, header.max_timestamp)))
                }
                Planned::Repeat { base_offset, next_offset, max_timestamp } if next_offset <= log_end => {
                    let answer = self.answer_for(&job, base_offset, max_timestamp);
                    Ok((next_offset, AppendStreamResponse { duplicate: true, ..answer }))
                }
                // A retry of a batch that was refused in this very group shares its fate.
                Planned::Append(_) | Planned::Repeat { .. } => {
                    Err(refusal.clone().unwrap_or_else(|| not_leader(around.node)))
                }
                Planned::Refused(failure) => Err(failure),
            };
            self.waiting.push_back(Waiting { outcome, job, released: None });
        }
        self.step(Event::LogChanged);
        taken
    }

    /// What is told to those whose batches did not get into the log.
    fn append_failed(&mut self, error: &AppendError, around: &Surroundings) -> Failure {
        match error {
            AppendError::Extending => not_leader(around.node),
            AppendError::NoFiles => too_many_files(around.directory.disk().open_files().limit, around.node),
            AppendError::NoSpace => {
                around.space.note_full(&around.directory);
                disk_full(around.node)
            }
            AppendError::Log(error) => {
                tracing::error!(partition = %around.named(self.log.partition()), %error, "append failed");
                // A part of the write may be on the disk, and come back with the next start. A damaged log writes nothing.
                let failed = matches!(self.log.condition(), Condition::Failed { .. });
                self.replica.show(self.log.condition());
                if failed { storage_error_after_append(error, around.node) } else { log_failure(error, around.node) }
            }
        }
    }

    fn answer_for(&self, job: &AppendJob, base_offset: Offset, max_timestamp: Timestamp) -> AppendStreamResponse {
        let stamped = self.config.timestamp_type == TimestampType::LogAppendTime;
        let durability = self.leader.as_ref().map(Leader::durability).unwrap_or_default();
        let durability = match job.acks {
            Acks::None => pb::Durability::Queued,
            Acks::Leader | Acks::All => durability.into(),
        };
        let copies = self.leader.as_ref().map_or(0, |leader| leader.copies(job.acks));
        AppendStreamResponse {
            base_offset: base_offset.0,
            log_append_time_millis: if stamped { max_timestamp } else { -1 },
            log_start_offset: self.log.log_start().0,
            duplicate: false,
            error: None,
            leader_epoch: self.epoch().0,
            durability: durability.into(),
            copies: i32::try_from(copies).unwrap_or(i32::MAX),
            ..AppendStreamResponse::default()
        }
    }

    /// Answers every write whose offsets count now, and refusals whose turn it is: answers keep the order of requests.
    pub(crate) fn answer(&mut self, around: &Surroundings) {
        let Some(leader) = &self.leader else {
            // What was appended before this node stopped leading may be with the next leader, or not.
            for waiting in self.waiting.drain(..) {
                let lost = || Failure::new(Reason::LeaderLostAfterAppend, "this node does not lead any more");
                let failure = waiting.outcome.err().unwrap_or_else(lost);
                waiting.job.refuse(failure, &around.metrics);
            }
            return;
        };
        let log = KeptLog(&self.log);
        while let Some(waiting) = self.waiting.pop_front() {
            let released = waiting.released;
            match waiting.outcome {
                Err(failure) => waiting.job.refuse(failure, &around.metrics),
                Ok((next_offset, answer))
                    if leader.answerable(&log, waiting.job.acks, next_offset, answer.duplicate) =>
                {
                    let AppendJob { reply, permit, batch, .. } = waiting.job;
                    drop((permit, batch));
                    reply.answer(answer);
                }
                outcome => {
                    self.waiting.push_front(Waiting { outcome, job: waiting.job, released });
                    break;
                }
            }
            self.released.forget(released);
        }
        self.released.release((leader, &log), &mut self.waiting);
        if let Condition::Failed { reason } = self.log.condition() {
            let error = LogError::Failed { reason: reason.clone() };
            self.released = Released::default();
            for waiting in self.waiting.drain(..) {
                let after_append = |_| storage_error_after_append(&error, around.node);
                let failure = waiting.outcome.map_or_else(|refused| refused, after_append);
                waiting.job.refuse(failure, &around.metrics);
            }
        }
    }

    /// The flush that is due now, if any.
    pub(crate) fn flush_due(&mut self, around: &Surroundings) -> Option<FlushJob> {
        if !self.log.dirty() {
            return None;
        }
        let now = around.clock.monotonic();
        let lazy = self.config.durability == Durability::PageCache;
        if self.flush_delayed && now.saturating_sub(self.last_flush) < FLUSH_RETRY {
            return None;
        }
        if !std::mem::take(&mut self.flush_delayed)
            && lazy
            && now.saturating_sub(self.last_flush) < self.config.flush_interval
        {
            return None;
        }
        match self.log.begin_flush() {
            Ok(job) => {
                self.last_flush = if job.is_some() { now } else { self.last_flush };
                job
            }
            Err(LogError::Busy) => {
                self.flush_delayed = true;
                self.last_flush = now;
                None
            }
            Err(error) => {
                tracing::error!(partition = %around.named(self.log.partition()), %error, "flush cannot begin");
                self.replica.show(self.log.condition());
                self.answer(around);
                None
            }
        }
    }

    /// When a flush is due by itself, in monotonic time: with the page cache, or after one that could not begin.
    pub(crate) fn lazy_flush_at(&self) -> Option<Duration> {
        let lazy = self.config.durability == Durability::PageCache || self.flush_delayed;
        let after = if self.flush_delayed { FLUSH_RETRY } else { self.config.flush_interval };
        (lazy && self.log.dirty() && !self.log.flush_running()).then(|| self.last_flush + after)
    }

    /// Takes the outcome of a flush.
    pub(crate) fn flushed(&mut self, outcome: &io::Result<Flushed>, around: &Surroundings) {
        if outcome.as_ref().is_ok_and(|flushed| flushed.short_of_files()) {
            (self.flush_delayed, self.last_flush) = (true, around.clock.monotonic());
        }
        match self.log.finish_flush(outcome) {
            Ok(_) => self.step(Event::LogChanged),
            Err(error) => {
                tracing::error!(partition = %around.named(self.log.partition()), %error, "flush failed: partition out of service");
                self.replica.show(self.log.condition());
            }
        }
        self.answer(around);
    }

    /// Raises the log start.
    pub(crate) fn delete_records(&mut self, before: Offset, node: NodeId, now: Timestamp) -> Result<Offset, Failure> {
        let high_watermark = self.replica.high_watermark();
        if before > high_watermark {
            let start = self.log.log_start();
            return Err(crate::error::out_of_range(before, start, high_watermark));
        }
        let log_start = self.log.delete_records(before, now).map_err(|error| log_failure(&error, node))?;
        self.step(Event::LogChanged);
        Ok(log_start)
    }

    /// Removes what retention does not keep, and returns how many segments. `trusted`: is the wall clock believed?
    pub(crate) fn apply_retention(&mut self, around: &Surroundings, trusted: bool) -> Result<usize, LogError> {
        let now = around.clock.now_millis();
        let removed = self.log.apply_retention(now, trusted, self.replica.high_watermark());
        self.step(Event::LogChanged);
        if let Condition::Corrupt { from } = *self.log.condition() {
            self.note_damage(from, around);
        }
        removed
    }
}
