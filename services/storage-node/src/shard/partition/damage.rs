//! Damage to durable records: noted when it is met, and given up when an operator says so.

use std::io::ErrorKind;

use walser_log::{Condition, LogError};
use walser_model::{LeaderEpoch, Offset};
use walser_replication::ReplicaEvent;
use walser_rpc::{ApiError, Reason};

use super::Partition;
use crate::error::{log_failure, not_damaged, not_repaired, replica_damaged};
use crate::replica_registry::PartitionHandle;
use crate::shard::ShardContext;

/// What a repair has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repaired {
    /// Where the log was known to end. Exclusive.
    pub(crate) old_end: Offset,
    /// Where it ends now. Exclusive.
    pub(crate) new_end: Offset,
    /// Bytes that were cut and are kept beside the log.
    pub(crate) bytes_set_aside: u64,
}

/// What is told to those whose request a log does not take.
pub(super) fn refusal_of(error: &LogError, handle: &PartitionHandle, context: &ShardContext) -> ApiError {
    match error {
        LogError::Corrupt { .. } if handle.others_in_sync() => replica_damaged(context.node),
        error => log_failure(error, context.node),
    }
}

impl Partition {
    /// A read, or retention, has met damage. True: it is news, which is to be written down.
    pub(crate) fn note_damage(&mut self, from: Offset, context: &ShardContext) -> bool {
        let news = self.log.note_damage(from);
        if news {
            tracing::error!(partition = %context.named(self.log.partition()), %from, "durable records are damaged");
            self.show_log();
        }
        news
    }

    /// The disk has failed in a read: this replica cannot give what it has, and where others have it, too, nobody is to rely on
    /// it. A process that is started again tries it again.
    pub(crate) fn read_failed(&mut self, problem: &str, context: &ShardContext) {
        if matches!(self.log.condition(), Condition::Failed { .. }) {
            return;
        }
        let partition = context.named(self.log.partition());
        if !self.handle.others_in_sync() {
            // Nobody else has what it still has: what can be read and written goes on.
            return tracing::warn!(%partition, problem, "the disk has failed in a read, and nobody else has the records");
        }
        tracing::error!(%partition, problem, "the disk has failed in a read: another replica is to lead");
        self.log.fail(format!("the disk has failed in a read: {problem}"));
        self.show_failure(context);
    }

    /// Says that a write has failed; of a file that was not found it is said when it was looked for.
    pub(super) fn say_append_failed(&self, error: &LogError, context: &ShardContext) {
        let partition = context.named(self.log.partition());
        match error {
            LogError::Io(io) if io.kind() == ErrorKind::NotFound => {
                tracing::debug!(%partition, %error, "append failed")
            }
            error => tracing::error!(%partition, %error, "append failed"),
        }
    }

    /// Something of the log was not found. What is missing is damage, where the data directory is the one that it was: somebody
    /// has removed it. Blocks as long as the disk takes.
    pub(crate) fn look_for_files(&mut self, context: &ShardContext) {
        let in_place = || context.directory.check_in_place();
        let missing = in_place().and_then(|()| self.log.missing_from());
        // It may have gone while it was looked at.
        let missing = missing.and_then(|missing| in_place().map(|()| missing));
        match missing {
            Ok(Some(from)) => {
                self.note_damage(from, context);
                self.keep_damage(context);
            }
            Ok(None) => self.begin_for_missing(context),
            // That is said of the data directory.
            Err(error) => {
                let partition = context.named(self.log.partition());
                tracing::debug!(%partition, %error, "it cannot be looked for files that were not found");
            }
        }
    }

    /// Begins the log anew, where a file is missing that had no record any more.
    fn begin_for_missing(&mut self, context: &ShardContext) {
        let partition = context.named(self.log.partition());
        match self.log.begin_for_missing() {
            Ok(true) => {
                tracing::warn!(%partition, "a file was removed that had no record any more: the log begins anew")
            }
            Ok(false) => return,
            // It is looked again.
            Err(error) => tracing::debug!(%partition, %error, "it cannot be looked for files without records"),
        }
        self.show_log();
        self.note_failure(context);
    }

    /// Writes down that the log is damaged, so that a restart does not take writes again.
    pub(crate) fn keep_damage(&mut self, context: &ShardContext) {
        // The directory of somebody else is not damaged.
        let kept = context.directory.check_in_place().and_then(|()| self.log.keep_damage());
        if let Err(error) = kept {
            let partition = context.named(self.log.partition());
            tracing::warn!(%partition, %error, "it is not written down that the log is damaged");
        }
    }

    /// Whether the damaged part of the log may be given up: no replica has more, as far as all of them have said in this
    /// leader epoch.
    pub(crate) fn check_repair(&self, context: &ShardContext) -> Result<(), ApiError> {
        let Condition::Corrupt { from } = *self.log.condition() else {
            return Err(not_damaged());
        };
        let leader = self.replica.leader().ok_or_else(|| self.handle.not_leader(context.node))?;
        match leader.objection_to_giving_up(from) {
            Some(objection) => Err(not_repaired(objection)),
            None => Ok(()),
        }
    }

    /// Gives up the damaged part of the log, in the leader epoch that began for it: another one has other followers.
    pub(crate) fn repair(&mut self, epoch: LeaderEpoch, context: &ShardContext) -> Result<Repaired, ApiError> {
        let Condition::Corrupt { .. } = self.log.condition() else {
            return Err(not_damaged());
        };
        if self.replica.leader().is_none_or(|leader| leader.epoch() != epoch) {
            return Err(self.handle.not_leader(context.node));
        }
        let (old_end, set_aside) = match self.log.repair() {
            Ok(repaired) => repaired,
            Err(error) => {
                self.show_log();
                self.note_failure(context);
                return Err(log_failure(&error, context.node));
            }
        };
        self.handle.tail.clear();
        self.handle.traces.cut(self.log.log_end());
        let new_end = self.log.log_end();
        // What waits may be gone, and others are about to take its offsets.
        let lost = ApiError::new(Reason::NotLeader, "the partition was repaired, and records were given up");
        self.step_for(ReplicaEvent::Repaired, Some(&lost), context);
        self.show_log();
        tracing::warn!(partition = %context.named(self.log.partition()), %old_end, %new_end, "partition repaired: records are lost");
        Ok(Repaired { old_end, new_end, bytes_set_aside: set_aside })
    }
}
