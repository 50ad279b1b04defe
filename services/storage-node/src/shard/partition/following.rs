//! A partition that follows: what its leader pushed gets into the log, and what the leader's log does not have is cut.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use walser_log::{Admission, AppendError, CompleteCopy, Condition, LogConfig, LogError, out_of_files, out_of_space};
use walser_model::{LeaderEpoch, Offset, Timestamp};
use walser_record_batch::BatchHeader;
use walser_replication::{FollowerAction, Frame, ReplicaEvent, ReplicationSessionId, WorkId};

use super::{Partition, PartitionMetadata, RUN_BYTES_MAX};
use crate::error::cannot_open_text;
use crate::replica_registry::PartitionHandle;
use crate::replication::{FromPeer, Outgoing, Pushed};
use crate::shard::ShardContext;
use crate::shard::files::Written;
use crate::shard::maintenance::Task;

/// A leader that does not answer an open for this long is asked again; twice as long each time, this often.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
const PATIENCE_DOUBLINGS: u32 = 4;
/// A follower that could not take what was pushed opens again after this long.
const REOPEN: Duration = Duration::from_secs(1);
/// While its disk is full, after this long: the leader pushes what does not fit, and says what it has deleted.
const REOPEN_FULL: Duration = Duration::from_secs(10);
/// What could not be deleted is tried again after this long.
const TRIM_AGAIN: Duration = Duration::from_secs(1);
/// What could not be cut, without files or space, is tried again after this long.
const CUT_AGAIN: Duration = Duration::from_secs(1);

/// What a replica is to have done with its log, which takes time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Errand {
    Truncate {
        work: WorkId,
        to: Offset,
    },
    /// The leader's log in place of this one.
    Copy {
        work: WorkId,
    },
}

/// What a partition keeps while it follows.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// Frames that are not in the log yet, in order. Bounded by the window of the connection.
    pushed: std::collections::VecDeque<Box<Pushed>>,
    /// The frame that was just shown to the replica is to be appended.
    accepted: bool,
    errand: Option<Errand>,
    /// It could not be done, and is tried again at this time.
    errand_at: Duration,
    /// That was told.
    errand_told: bool,
    /// The leader has deleted what lies below. Exclusive.
    trim: Option<Offset>,
    /// It could not be deleted, and is tried again at this time.
    trim_failed: Option<(Offset, Duration)>,
    /// When the partition is opened again because something could not be appended, in monotonic time.
    reopen_at: Option<Duration>,
    /// Until when the leader may answer the latest open, in monotonic time. `None`: it has.
    answer_until: Option<Duration>,
    /// Opens that were not answered, one after the other.
    unanswered: u32,
}

impl Partition {
    /// Takes what another node says.
    pub(crate) fn hear(&mut self, said: FromPeer, context: &ShardContext) {
        if said.answers().is_some_and(|open| self.is_open(open)) {
            (self.following.answer_until, self.following.unanswered) = (None, 0);
        }
        let event = match said {
            FromPeer::Opened(session) => ReplicaEvent::Opened(session),
            FromPeer::Acked(ack) => ReplicaEvent::Acked(ack),
            FromPeer::Sent { follower, open, end } => ReplicaEvent::Sent { follower, open, end },
            FromPeer::Closed { follower, open } => {
                self.pushes.retain(|push| *push != (follower, open));
                ReplicaEvent::Closed { follower, open }
            }
            // Behind a frame that could not be taken nothing continues the log.
            FromPeer::Pushed(_) if self.following.reopen_at.is_some() => return,
            FromPeer::Pushed(pushed) => return self.following.pushed.push_back(pushed),
            FromPeer::Diverged(answer) => ReplicaEvent::Diverged(answer),
            FromPeer::CopyOffered { leader_epoch, open, log_start } => {
                if self.replica.follower().is_some_and(|found| found.current(leader_epoch, open)) {
                    self.make_room(log_start);
                }
                ReplicaEvent::CopyOffered { leader_epoch, open }
            }
            FromPeer::Broken { open } if self.is_open(open) => ReplicaEvent::Broken,
            FromPeer::Broken { .. } => return,
            // It comes to nothing: the open that follows shows what is to be done now.
            FromPeer::Copied { work, .. } => ReplicaEvent::WorkDone { work },
            FromPeer::ProposalOver { ineligible } => ReplicaEvent::ProposalOver { ineligible },
        };
        self.step(event, context);
    }

    /// Whether an open is the latest one.
    fn is_open(&self, open: ReplicationSessionId) -> bool {
        self.replica.follower().is_some_and(|follower| follower.open() == open)
    }

    /// What a follower does.
    pub(super) fn follow(&mut self, action: FollowerAction, context: &ShardContext) {
        let partition = self.log.partition();
        let Some(leader) = self.replica.follower().map(walser_replication::Follower::leader) else { return };
        match action {
            FollowerAction::Open(session) => {
                self.following.pushed.clear();
                self.following.reopen_at = None;
                let patience = ANSWER_PATIENCE * (1 << self.following.unanswered.min(PATIENCE_DOUBLINGS));
                self.following.answer_until = Some(context.clock.monotonic() + patience);
                context.peers.tell(partition, Outgoing::Open { leader, session });
            }
            FollowerAction::Append(_) => self.following.accepted = true,
            FollowerAction::Trim { before } => match &mut self.following.trim_failed {
                // Every frame asks for it.
                Some((failed, _)) => *failed = before,
                None => self.following.trim = Some(before),
            },
            FollowerAction::Acknowledge(ack) => context.peers.tell(partition, Outgoing::Acknowledge { leader, ack }),
            FollowerAction::Inconsistent { at } => {
                let partition = context.named(partition);
                let high_watermark = self.replica.high_watermark().0;
                tracing::error!(
                    %partition, %leader, %at, %high_watermark,
                    "the leader's log ends below what was committed: this replica stops, and keeps what it has"
                );
                self.handle.note_inconsistent(context.node, at, (high_watermark, self.known_epoch()));
            }
            FollowerAction::Commit { .. } | FollowerAction::Truncate { .. } | FollowerAction::Copy => {}
        }
    }

    /// Forgets what belonged to an earlier role, but for work that has begun: that ends in any case.
    pub(super) fn stop_following(&mut self) {
        let errand = self.following.errand.take();
        self.following = Following { errand, ..Following::default() };
    }

    /// Whether something is to be done that has to wait for the disk.
    pub(crate) fn has_errand(&self) -> bool {
        self.following.errand.is_some() || self.following.trim.is_some() || self.keep_failure_at.is_some()
    }

    pub(super) fn truncate_later(&mut self, work: WorkId, to: Offset) {
        self.following.errand = Some(Errand::Truncate { work, to });
    }

    pub(super) fn copy_later(&mut self, work: WorkId) {
        self.following.errand = Some(Errand::Copy { work });
    }

    /// Whether there are frames to append.
    pub(crate) fn has_pushed(&self) -> bool {
        !self.following.pushed.is_empty()
    }

    /// The batch that is to be appended next, of what was pushed.
    pub(super) fn next_pushed(&self) -> Option<&BatchHeader> {
        self.following.pushed.front().and_then(|pushed| pushed.next())
    }

    /// Appends what was pushed, as far as the log is ready for it.
    pub(super) fn write_pushed(&mut self, context: &ShardContext, now: Timestamp) -> Written {
        let mut room = RUN_BYTES_MAX;
        while let Some(first) = self.following.pushed.front() {
            let frame = first.frame();
            let current = self.replica.follower().is_some_and(|found| found.current(frame.leader_epoch, frame.open));
            match first.next().map(|header| (header.size, self.log.admission(0, header))) {
                _ if !current => drop(self.following.pushed.pop_front()),
                None => {
                    self.following.pushed.pop_front();
                    self.step(ReplicaEvent::Pushed(frame), context);
                }
                Some((_, other)) if other != Admission::Fits => return Written::before(Some(other)),
                Some(_) if room == 0 => return Written::More,
                Some((size, _)) if !self.may_take(size, context) => {
                    // What the leader has deleted makes room.
                    self.step(ReplicaEvent::Pushed(Frame { end: frame.base, ..frame }), context);
                    self.give_up_pushed(context);
                }
                Some(_) => room = room.saturating_sub(self.append_pushed(room, context, now)),
            }
        }
        Written::All
    }

    /// What the leader has deleted goes before its log is copied: there may be no room for both, which is not known before the
    /// leader has said how long its log is.
    fn make_room(&mut self, leader_log_start: Offset) {
        let whole = *self.log.condition() == Condition::Healthy && !self.led_without_proof_since();
        if whole && leader_log_start > self.log.log_start() {
            self.following.trim = self.following.trim.max(Some(leader_log_start));
        }
    }

    /// Whether so many bytes more may be written.
    fn may_take(&self, size: usize, context: &ShardContext) -> bool {
        let refused = context.writes_refused().is_some() || context.space.full();
        !refused && context.space.take(size, &context.directory)
    }

    /// Drops what was pushed, and asks for it again later: there is no room for it.
    pub(super) fn give_up_pushed(&mut self, context: &ShardContext) {
        self.following.pushed.clear();
        self.following.reopen_at = Some(context.clock.monotonic() + REOPEN);
    }

    /// Appends the first batches that were pushed; returns their bytes.
    fn append_pushed(&mut self, bytes_max: usize, context: &ShardContext, now: Timestamp) -> usize {
        let Some(first) = self.following.pushed.front_mut() else { return 0 };
        let part = first.take(&self.log, bytes_max);
        // Its spans end when it is in the log.
        let over = first.next().is_none();
        let _whole = over.then(|| self.following.pushed.pop_front());
        let Frame { open, .. } = part.frame;
        self.step(ReplicaEvent::Pushed(part.frame), context);
        if !std::mem::take(&mut self.following.accepted) {
            return 0;
        }
        let size = part.run.len();
        match self.log.append_decided(&part.run, &part.headers, now) {
            Ok(()) => {
                self.last_write = context.clock.monotonic();
                context.metrics.replicated(size);
                self.step(ReplicaEvent::Appended { open }, context);
            }
            Err((_, error)) => {
                if matches!(error, AppendError::NoSpace) {
                    context.space.note_full(&context.directory);
                }
                if let AppendError::Log(error) = &error {
                    self.say_append_failed(error, context);
                    self.show_log();
                }
                self.give_up_pushed(context);
            }
        }
        self.note_failure(context);
        size
    }

    /// What is to be done with the log and has to wait for the disk, or for the leader.
    pub(crate) fn next_task(&mut self, context: &ShardContext) -> Option<Task> {
        let now = context.clock.monotonic();
        if self.keep_failure_at.take_if(|at| now >= *at).is_some() {
            return Some(Task::KeepFailure);
        }
        if context.writes_refused().is_some() {
            return None;
        }
        let due = now >= self.following.errand_at;
        match self.following.errand.take_if(|_| due) {
            Some(Errand::Truncate { work, to }) => return Some(Task::Truncate { work, to }),
            Some(Errand::Copy { work }) => {
                let (leader, leader_epoch) = self.followed()?;
                let config = LogConfig::from(&self.config);
                let message = Outgoing::Copy { leader, leader_epoch, work, config };
                context.peers.tell(self.log.partition(), message);
            }
            None => {}
        }
        let before = self.following.trim.take()?.min(self.log.log_end());
        (before > self.log.log_start()).then_some(Task::Trim { before })
    }

    fn followed(&self) -> Option<(walser_model::NodeId, LeaderEpoch)> {
        self.replica.follower().map(|follower| (follower.leader(), follower.epoch()))
    }

    /// Time has passed: the partition is opened again where that waits, or where the leader has not answered. An open or
    /// its answer may be lost where a connection ends.
    pub(super) fn reopen_in_time(&mut self, context: &ShardContext) {
        let now = context.clock.monotonic();
        if let Some((before, _)) = self.following.trim_failed.take_if(|(_, again_at)| now >= *again_at) {
            self.following.trim = self.following.trim.max(Some(before));
        }
        if self.replica.work().is_none() && self.following.answer_until.is_some_and(|until| now >= until) {
            self.following.answer_until = None;
            self.following.unanswered += 1;
            self.step(ReplicaEvent::Broken, context);
        }
        let more = if context.space.full() { REOPEN_FULL.saturating_sub(REOPEN) } else { Duration::ZERO };
        if self.following.reopen_at.is_some_and(|at| now >= at + more) {
            self.following.reopen_at = None;
            self.step(ReplicaEvent::Broken, context);
        }
    }

    /// Cuts the log for the leader's. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// What the metadata said last, when the log is to be opened again: that ends what has begun.
    pub(crate) fn truncate(
        mut self: Box<Self>,
        work: WorkId,
        to: Offset,
        context: &ShardContext,
    ) -> Result<Box<Self>, Box<PartitionMetadata>> {
        let (partition, from) = (context.named(self.log.partition()), self.log.log_end());
        let outcome = self.log.truncate(to, self.led_without_proof_since());
        match &outcome {
            Ok(Some(kept)) => tracing::warn!(
                %partition, %from, %to, bytes = kept.cut, kept = kept.bytes, kept_in = %kept.path.display(),
                "the leader does not have records that were taken for committed: they are cut, and kept in a file"
            ),
            Ok(None) => tracing::info!(%partition, %from, %to, "the leader does not have what is cut"),
            Err(_) => {}
        }
        let metadata = self.cut_ended(work, to, outcome.map(drop), context);
        metadata.map_or(Ok(self), Err)
    }

    /// Whether somebody was elected without proof since this log was written: what its leader does not have may have been
    /// committed, whatever was written down here of that.
    fn led_without_proof_since(&self) -> bool {
        self.metadata.as_ref().is_some_and(|known| known.state.unclean_epoch > self.log.latest_epoch())
    }

    /// Keeps records that another log has nothing of, before that takes the place of this one.
    fn keep_before(&self, copy: &CompleteCopy, context: &ShardContext) -> io::Result<()> {
        let (committed, _) = self.log.high_watermark();
        let given_up = committed > copy.log_end() || self.led_without_proof_since();
        // Of damaged ones some may be right that no other replica has.
        if matches!(self.log.condition(), Condition::Failed { .. }) || !given_up {
            return Ok(());
        }
        let kept = match self.log.keep_records() {
            // Of one that is damaged there may be nothing that can be kept.
            Err(error)
                if *self.log.condition() != Condition::Healthy && !out_of_space(&error) && !out_of_files(&error) =>
            {
                let partition = context.named(self.log.partition());
                tracing::warn!(%partition, %error, "what the leader does not have of a damaged log cannot be kept");
                None
            }
            kept => kept?,
        };
        if let Some(kept) = kept {
            let (partition, end) = (context.named(self.log.partition()), self.log.log_end());
            tracing::warn!(
                %partition, %end, bytes = kept.cut, kept = kept.bytes, kept_in = %kept.path.display(),
                "the leader does not have records that were taken for committed: its log takes the place of this one, \
                 and they are kept in a file"
            );
        }
        Ok(())
    }

    /// Goes on after a cut. What is given back: the log is to be opened again, with this.
    fn cut_ended(
        &mut self,
        work: WorkId,
        to: Offset,
        outcome: Result<(), LogError>,
        context: &ShardContext,
    ) -> Option<Box<PartitionMetadata>> {
        self.handle.tail.clear();
        self.handle.traces.cut(self.log.log_end());
        let error = match outcome {
            // One that has met damage while it led opens as what it is, and gets a copy.
            Ok(()) | Err(LogError::Corrupt { .. }) => {
                self.following.errand_told = false;
                self.step(ReplicaEvent::WorkDone { work }, context);
                return None;
            }
            Err(error) => error,
        };
        let (id, partition) = (self.log.partition(), context.named(self.log.partition()));
        let passes = matches!(&error, LogError::Io(error) if out_of_files(error) || out_of_space(error));
        if passes && !matches!(self.log.condition(), Condition::Failed { .. }) {
            if !std::mem::replace(&mut self.following.errand_told, true) {
                tracing::warn!(%partition, %error, "the log cannot be cut for its leader's yet: it is tried again");
            }
            self.truncate_later(work, to);
            self.following.errand_at = context.clock.monotonic() + CUT_AGAIN;
            return None;
        }
        if let Some(metadata) = self.metadata.take_if(|_| passes) {
            tracing::warn!(%partition, %error, "the log was cut for its leader's in part: it is opened again");
            context.registry.remove(id);
            context.registry.set_unusable(id, cannot_open_text(&error));
            return Some(metadata);
        }
        tracing::error!(%partition, %error, "the log cannot follow its leader");
        self.log.fail(error.to_string());
        None
    }

    /// Puts a copy of the leader's log in the place of this one. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// What the metadata said last, when there is no log now: it is to be opened again.
    pub(crate) fn replace(
        self: Box<Self>,
        work: WorkId,
        copy: &CompleteCopy,
        context: &ShardContext,
    ) -> Result<Box<Self>, Box<PartitionMetadata>> {
        let Self { log, metadata, .. } = &*self;
        let (id, from, wanted) = (log.partition(), log.log_end(), self.replica.work() == Some(work));
        let metadata = metadata.clone();
        let mut partition = *self;
        let Some(metadata) = metadata.filter(|_| wanted) else {
            drop(context.directory.discard_copy(id));
            // No replica of others any more: what was asked for ends all the same.
            partition.step(ReplicaEvent::WorkDone { work }, context);
            return Ok(Box::new(partition));
        };
        let installed = match partition.keep_before(copy, context) {
            Ok(()) => context.directory.install_copy(copy, partition.log),
            Err(error) => {
                // What was to be kept needs the space, and the log its marks when it is opened again.
                partition.log.close();
                drop(context.directory.discard_copy(id));
                Err(error)
            }
        };
        match installed.map_err(LogError::from).and_then(|()| context.open_log(id, &metadata)) {
            Ok(log) => {
                let handle = Arc::new(PartitionHandle::new(log.reader(), context.metrics.partitions()));
                context.registry.insert(id, Arc::clone(&handle));
                (partition.log, partition.handle) = (log, handle);
                let (high_watermark, epoch) = partition.replica.high_watermark();
                partition.log.note_high_watermark(high_watermark, epoch);
                partition.handle.commit(high_watermark);
                let (start, end) = (partition.log.log_start(), partition.log.log_end());
                tracing::info!(partition = %context.named(id), %from, %start, %end, "the leader's log takes the place of this one");
                partition.step(ReplicaEvent::Replaced { work }, context);
                partition.show_condition();
                partition.show_leader(context);
                Ok(Box::new(partition))
            }
            Err(error) => {
                tracing::error!(partition = %context.named(id), %error, "a copy of the leader's log cannot be used");
                context.registry.remove(id);
                context.registry.set_unusable(id, cannot_open_text(&error));
                Err(metadata)
            }
        }
    }

    /// Deletes what the leader has deleted. Blocks as long as the disk takes.
    pub(crate) fn trim(&mut self, before: Offset, context: &ShardContext) {
        if let Err(error) = self.log.delete_records(before, context.clock.now_millis()) {
            tracing::warn!(partition = %context.named(self.log.partition()), %error, "what the leader has deleted stays");
            self.following.trim_failed = Some((before, context.clock.monotonic() + TRIM_AGAIN));
        } else {
            self.note_left();
        }
        self.note_failure(context);
        self.step(ReplicaEvent::LogChanged, context);
    }
}
