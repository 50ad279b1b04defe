//! One partition in its shard: the log, what this node is to it, and the writes that came in.

mod answers;
mod append_time;
mod compacting;
mod damage;
mod deletions;
mod expired;
mod flushing;
mod following;
mod kept_log;
mod pushing;
mod removing;
mod replica;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use walser_log::{Admission, AppendError, Condition, Log, LogError, Run, out_of_files};
use walser_model::{Acks, LeaderEpoch, NodeId, Offset, SequenceCheck, Timestamp, TimestampType, TopicConfig};
use walser_record_batch::{BatchHeader, HEADER_LEN, stamp_append_time, stamp_position};
use walser_replication::{Leader, Replica, ReplicaActions, ReplicaEvent, ReplicationSessionId};
use walser_rpc::{ApiError, Reason};

use super::compaction::Compacting;
use super::files::{PATIENCE, Written};
use super::{AppendJob, ShardContext};
use crate::error::{
    disk_full, not_enough_answers, not_enough_replicas, producer_failure, storage_error_after_append, too_many_files,
    unreadable_settings,
};
use crate::replica_registry::PartitionHandle;
use crate::replication::BatchTrace;
use crate::tail::Budget;
use answers::{InLog, Waiting};
use deletions::Deletion;
use expired::ExpiredRecords;
use following::Following;

pub(crate) use append_time::next_append_time;
pub(crate) use damage::Repaired;
use damage::refusal_of;
use kept_log::KeptLog;
use removing::Left;
pub(crate) use replica::PartitionMetadata;

/// At most this much is written at once.
const RUN_BYTES_MAX: usize = 4 << 20;

/// A partition and everything that its shard keeps of it.
pub(crate) struct Partition {
    pub(crate) log: Log,
    pub(crate) handle: Arc<PartitionHandle>,
    replica: Replica<Waiting>,
    /// What it keeps while this node follows.
    following: Following,
    /// Followers to whom records are pushed, each with its open.
    pushes: Vec<(NodeId, ReplicationSessionId)>,
    /// Log start, log end, high watermark and tombstone floor, as those who push have been told of them.
    told: [Offset; 4],
    /// Kept to be filled anew at every step.
    actions: ReplicaActions<Waiting>,
    /// What the metadata said last, where there are other replicas.
    metadata: Option<Box<PartitionMetadata>>,
    config: TopicConfig,
    /// Why the topic's settings cannot be read: it takes no writes then.
    unreadable: Option<String>,
    pub(crate) incoming: VecDeque<AppendJob>,
    /// Bytes of the writes that are durable here and wait for other replicas only.
    released_bytes: usize,
    /// Since when writes wait for files, in monotonic time.
    short_of_files_since: Option<Duration>,
    /// The last flush did not finish for want of files or space: how long after it the next one is tried.
    flush_delay: Option<Duration>,
    /// Its next flush is due now: its files are needed by others.
    flush_hurried: bool,
    /// It has shown what it would lead with.
    offers: bool,
    /// What has kept the log from being made ready for the first write that waits.
    unprepared: Option<Unprepared>,
    last_append_time: Timestamp,
    expired: ExpiredRecords,
    /// Deletions that other replicas have not carried out.
    deletions: Vec<Deletion>,
    /// When it is to be written down that the log has failed, in monotonic time.
    keep_failure_at: Option<Duration>,
    /// What the last removal has left to the next one.
    left: Option<Left>,
    /// A compaction that is to go on.
    pub(crate) compacting: Option<Box<Compacting>>,
    /// Monotonic time before which the next one does not begin.
    pub(crate) compaction_at: Duration,
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
    run: Run,
    headers: Vec<BatchHeader>,
    /// In the order of the requests.
    jobs: Vec<(AppendJob, Planned)>,
}

/// What is to become of a request of a group.
enum Planned {
    /// Its batch is in the run.
    Append(BatchHeader),
    /// A retry of a batch that is in the log, or earlier in the group.
    Repeat { in_log: InLog },
    /// It may not be appended.
    Refused(ApiError),
}

/// Why a log is not ready for more.
#[derive(Debug)]
enum Unprepared {
    /// Too many files are open; others may be closed.
    ShortOfFiles,
    /// What writes are told.
    Refused(ApiError),
}

impl Partition {
    /// A partition whose log was just opened, shown to everybody else. `opened`: how many logs of the shard were, before it.
    pub(crate) fn opened(log: Log, opened: u32, context: &ShardContext) -> Self {
        let handle = Arc::new(PartitionHandle::new(log.reader(), context.metrics.partitions()));
        handle.set_condition(log.condition(), LeaderEpoch::NONE);
        context.registry.insert(log.partition(), Arc::clone(&handle));
        Self {
            last_append_time: log.append_time(),
            replica: replica::start(context.node, &log, opened),
            log,
            handle,
            actions: ReplicaActions::new(),
            following: Following::default(),
            pushes: Vec::new(),
            told: [Offset::ZERO; 4],
            metadata: None,
            config: TopicConfig::default(),
            unreadable: None,
            incoming: VecDeque::new(),
            released_bytes: 0,
            short_of_files_since: None,
            flush_delay: None,
            flush_hurried: false,
            offers: false,
            unprepared: None,
            expired: ExpiredRecords::default(),
            deletions: Vec::new(),
            keep_failure_at: None,
            left: None,
            compacting: None,
            compaction_at: Duration::ZERO,
            last_write: Duration::ZERO,
            last_flush: Duration::ZERO,
        }
    }

    /// Writes what has come in.
    pub(crate) fn write(&mut self, context: &ShardContext, tail: &mut Budget) -> Written {
        let now = context.clock.now_millis();
        let refusal = match self.unprepared.take() {
            Some(Unprepared::ShortOfFiles) => return self.wait_for_files(context),
            Some(Unprepared::Refused(failure)) => {
                self.give_up_pushed(context);
                Some(failure)
            }
            None => None,
        };
        if self.has_pushed() {
            let written = self.write_pushed(context, now);
            if written != Written::All || self.incoming.is_empty() {
                if written == Written::All {
                    self.short_of_files_since = None;
                }
                return written;
            }
        }
        // What is refused anyway needs no file.
        let refusal = refusal.or_else(|| self.refusal(context));
        let next = self.next_admission(now);
        if refusal.is_none() && next != Some(Admission::Fits) {
            return Written::before(next);
        }
        self.short_of_files_since = None;
        let group = self.gather(context, now, refusal.as_ref());
        self.append(group, context, tail, now);
        Written::before(self.next_admission(now))
    }

    /// Whether there is something to be written.
    pub(crate) fn has_incoming(&self) -> bool {
        !self.incoming.is_empty() || self.has_pushed()
    }

    /// Why nothing is appended at present, whatever it is.
    fn refusal(&self, context: &ShardContext) -> Option<ApiError> {
        let refused = context.writes_refused();
        let refused = refused.or_else(|| self.unreadable.as_deref().map(unreadable_settings));
        refused.or_else(|| self.replica.leader().is_none().then(|| self.handle.not_leader(context.node)))
    }

    /// Whether the first write that waits can be appended at once; `None`: none waits.
    fn next_admission(&self, now: Timestamp) -> Option<Admission> {
        self.incoming.front().map(|job| self.log.admission(0, &self.stamped(job, self.log.log_end(), now)))
    }

    /// The header of a batch as it would be appended now at an offset.
    fn stamped(&self, job: &AppendJob, base_offset: Offset, now: Timestamp) -> BatchHeader {
        let max_timestamp = self.append_time(now).unwrap_or(job.header.max_timestamp);
        BatchHeader { base_offset, max_timestamp, ..job.header }
    }

    /// Makes the log ready for the first write that waits. Blocks as long as the disk takes.
    pub(crate) fn prepare(&mut self, context: &ShardContext) {
        let now = context.clock.now_millis();
        let next = self
            .next_pushed()
            .copied()
            .or_else(|| self.incoming.front().map(|job| self.stamped(job, self.log.log_end(), now)));
        let Some(next) = next else { return };
        self.unprepared = match self.log.prepare_append(&next, now) {
            // While an extension runs, the write waits for that.
            Ok(()) | Err(AppendError::Extending) => None,
            Err(AppendError::NoFiles) => Some(Unprepared::ShortOfFiles),
            Err(AppendError::Log(LogError::Io(error))) if out_of_files(&error) => Some(Unprepared::ShortOfFiles),
            Err(error) => {
                if matches!(&error, AppendError::Log(LogError::Io(error)) if error.kind() == ErrorKind::NotFound) {
                    self.look_for_files(context);
                }
                Some(Unprepared::Refused(self.append_failed(&error, context)))
            }
        };
        self.note_failure(context);
    }

    /// Leaves what has come in where it is, for as long as files may become free.
    pub(crate) fn wait_for_files(&mut self, context: &ShardContext) -> Written {
        let now = context.clock.monotonic();
        let since = *self.short_of_files_since.get_or_insert(now);
        if now.saturating_sub(since) < PATIENCE {
            return Written::ShortOfFiles;
        }
        self.short_of_files_since = None;
        if self.has_pushed() {
            self.give_up_pushed(context);
        }
        let failure = too_many_files(context.directory.disk().open_files().limit, context.node);
        for job in self.incoming.drain(..) {
            job.refuse(failure.clone(), &context.metrics);
        }
        Written::All
    }

    /// Takes the batches that may be appended, stamps them, and refuses the others; all of them with a `refusal`, but for
    /// those that are in the log already.
    fn gather(&mut self, context: &ShardContext, now: Timestamp, refusal: Option<&ApiError>) -> Group {
        let mut group = Group::default();
        let copied: usize = self.incoming.iter().map(|job| Run::copied_bytes(job.batch.len())).sum();
        group.run = Run::with_capacity(copied.min(RUN_BYTES_MAX + (1 << 20)));
        let mut next_offset = self.log.log_end();
        while let Some(job) = self.incoming.pop_front() {
            let before = group.run.len();
            let full = !group.headers.is_empty() && before + job.batch.len() > RUN_BYTES_MAX;
            let fits = self.log.admission(before, &self.stamped(&job, next_offset, now)) == Admission::Fits;
            if full || (!fits && refusal.is_none()) {
                self.incoming.push_front(job);
                break;
            }
            let released = self.released();
            if job.acks == Acks::All && released.is_full() {
                // Answered at once: behind the others it would wait with them, and so would ever more.
                let known = self.log.knows_producers();
                let repeated =
                    known && matches!(self.log.check_sequence(&job.header), Ok(SequenceCheck::Duplicate { .. }));
                job.refuse(not_enough_answers(released, repeated), &context.metrics);
                continue;
            }
            match self.accept(&job, next_offset, context, now, refusal) {
                Ok(SequenceCheck::Duplicate { base_offset, next_offset, max_timestamp }) => {
                    let in_log = InLog { base_offset, next_offset, max_timestamp, repeated: true };
                    group.jobs.push((job, Planned::Repeat { in_log }));
                }
                Ok(_) => {
                    let header = self.add(&mut group.run, &job.batch, next_offset, context, now);
                    next_offset = header.next_offset();
                    if let Some(traceparent) = job.trace.clone() {
                        // Before it is in the log: from then on it can be pushed.
                        self.handle.traces.note(BatchTrace { base_offset: header.base_offset, traceparent });
                    }
                    group.headers.push(header);
                    group.jobs.push((job, Planned::Append(header)));
                }
                Err(failure) => group.jobs.push((job, Planned::Refused(failure))),
            }
        }
        group
    }

    /// Adds a batch to what is written next, stamped with its place and time; returns its header.
    fn add(
        &mut self,
        run: &mut Run,
        batch: &Bytes,
        base_offset: Offset,
        context: &ShardContext,
        now: Timestamp,
    ) -> BatchHeader {
        let (mut header, body) = ([0; HEADER_LEN], batch.slice(HEADER_LEN..));
        header.copy_from_slice(&batch[..HEADER_LEN]);
        stamp_position(&mut header, base_offset, self.epoch());
        if let Some(time) = self.append_time(now) {
            self.note_append_time(time, context);
            stamp_append_time(&mut header, &body, time);
        }
        run.push(&header, body);
        BatchHeader::parse(&header).expect("the header was parsed when the batch came in")
    }

    fn epoch(&self) -> LeaderEpoch {
        self.replica.leader().map_or(LeaderEpoch::NONE, Leader::epoch)
    }

    /// The time that a batch appended now is stamped with; `None` where producers say it.
    fn append_time(&self, now: Timestamp) -> Option<Timestamp> {
        let stamped = self.config.timestamp_type == TimestampType::LogAppendTime;
        stamped.then(|| next_append_time(self.last_append_time, now))
    }

    fn note_append_time(&mut self, time: Timestamp, context: &ShardContext) {
        if time < self.last_append_time {
            let (partition, ahead) = (context.named(self.log.partition()), self.last_append_time - time);
            tracing::warn!(%partition, ahead, "the clock was set back: LogAppendTime goes back by so many milliseconds");
        }
        self.last_append_time = time;
    }

    /// Whether a batch may be appended at `next_offset`.
    fn accept(
        &mut self,
        job: &AppendJob,
        next_offset: Offset,
        context: &ShardContext,
        now: Timestamp,
        refusal: Option<&ApiError>,
    ) -> Result<SequenceCheck, ApiError> {
        let Some(leader) = self.replica.leader() else {
            return Err(refusal.cloned().unwrap_or_else(|| self.handle.not_leader(context.node)));
        };
        if job.epoch != LeaderEpoch::NONE && job.epoch != leader.epoch() {
            let direction = if job.epoch < leader.epoch() { "older" } else { "newer" };
            let text = format!("leader epoch {} is {direction} than {}", job.epoch, leader.epoch());
            let failure = ApiError::new(Reason::StaleEpoch, text).with("epoch", job.epoch);
            return Err(failure.with("currentEpoch", leader.epoch()).with("direction", direction));
        }
        if let Condition::Corrupt { from } = *self.log.condition() {
            return Err(refusal_of(&LogError::Corrupt { from }, &self.handle, context));
        }
        leader.admit(job.acks).map_err(not_enough_replicas)?;
        if job.acks != Acks::All {
            context.registry.check_contact(self.log.partition(), &self.handle)?;
        }
        let header = self.stamped(job, next_offset, now);
        if let Some(refusal) = refusal.filter(|_| !self.log.knows_producers()) {
            return Err(refusal.clone());
        }
        let unusable = |error| match error {
            LogError::Io(error) if out_of_files(&error) => {
                too_many_files(context.directory.disk().open_files().limit, context.node)
            }
            error => refusal_of(&error, &self.handle, context),
        };
        // What is in the log already is answered so, whatever would keep it from being written now.
        let known = self.log.check_sequence(&header).map_err(unusable)?;
        if matches!(known, SequenceCheck::Duplicate { .. }) {
            return Ok(known);
        }
        if let Some(refused) = refusal {
            return Err(refused.clone());
        }
        if context.space.full() || !context.space.take(job.batch.len(), &context.directory) {
            return Err(disk_full(context.node));
        }
        if let Some(expected) = job.expected_offset.filter(|expected| *expected != next_offset) {
            let text = format!("the next record gets offset {next_offset}, not {expected}");
            let failure = ApiError::new(Reason::OffsetMismatch, text).with("expectedOffset", expected);
            return Err(failure.with("actualOffset", next_offset));
        }
        let check = self.log.check_and_record(&header, now).map_err(unusable)?;
        match producer_failure(check, &header) {
            Some(failure) => Err(failure),
            None => Ok(check),
        }
    }

    /// Writes a group, and lets what is in the log then wait for its answer.
    fn append(&mut self, group: Group, context: &ShardContext, tail: &mut Budget, now: Timestamp) {
        let Group { mut run, headers, jobs } = group;
        let mut refusal = None;
        if let Some(first) = headers.first() {
            let mut appended = headers.len();
            if let Err((count, error)) = self.log.append(&run, &headers, now) {
                appended = count;
                refusal = Some(self.append_failed(&error, context));
                run.truncate(headers[..count].iter().map(|header| header.size).sum());
                self.handle.traces.cut(self.log.log_end());
            }
            let log_end = self.log.log_end();
            if appended > 0 {
                self.last_write = context.clock.monotonic();
                context.metrics.appended(appended, log_end.since(first.base_offset), run.len());
                self.note_expired(&headers[..appended], context, now);
                tail.push(&self.handle.tail, first.base_offset, log_end, run);
            }
        }
        let log_end = self.log.log_end();
        let arrived = context.clock.monotonic();
        for (job, planned) in jobs {
            let in_log = match planned {
                Planned::Append(header) if header.next_offset() <= log_end => Ok(InLog::of(&header)),
                Planned::Repeat { in_log } if in_log.next_offset <= log_end => Ok(in_log),
                // A retry of a batch that was refused in this very group shares its fate.
                Planned::Append(_) | Planned::Repeat { .. } => {
                    Err(refusal.clone().unwrap_or_else(|| self.handle.not_leader(context.node)))
                }
                Planned::Refused(failure) => Err(failure),
            };
            self.wait(arrived, job, in_log);
        }
        self.step(ReplicaEvent::LogChanged, context);
        self.note_failure(context);
    }

    /// What is told to those whose batches did not get into the log.
    fn append_failed(&mut self, error: &AppendError, context: &ShardContext) -> ApiError {
        match error {
            AppendError::Extending => self.handle.not_leader(context.node),
            AppendError::NoFiles => too_many_files(context.directory.disk().open_files().limit, context.node),
            AppendError::NoSpace => {
                context.space.note_full(&context.directory);
                disk_full(context.node)
            }
            AppendError::Log(error) => {
                self.say_append_failed(error, context);
                // A part of the write may be on the disk, and come back with the next start. A log that is damaged, or has
                // failed before, writes nothing.
                let met = matches!(error, LogError::Io(_));
                let failed = met && matches!(self.log.condition(), Condition::Failed { .. });
                self.show_log();
                if failed {
                    storage_error_after_append(error, context.node)
                } else {
                    refusal_of(error, &self.handle, context)
                }
            }
        }
    }

    /// Closes the files of a partition to which nothing is written. Blocks as long as the disk takes.
    pub(crate) fn release_idle(&mut self, context: &ShardContext) {
        if let Err(error) = self.log.release_idle() {
            tracing::warn!(partition = %context.named(self.log.partition()), %error, "idle partition could not be closed");
        }
    }

    /// Nobody has said that this node leads: reads of what is durable are served all the same.
    pub(crate) fn serve_reads(&self) {
        self.handle.serve_reads(self.log.durable());
    }
}
