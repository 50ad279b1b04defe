//! Writes that wait for their outcome, and what they are told.

use std::time::Duration;

use walser_log::{Condition, LogError};
use walser_model::{Acks, Durability, Offset, Timestamp, TimestampType};
use walser_record_batch::BatchHeader;
use walser_replication::{Leader, ReplicaEvent, Write, WriteOutcome};
use walser_rpc::{ApiError, BatchAppended, Effect, Reason};

use super::{KeptLog, Partition};
use crate::error::{not_enough_replicas_after_append, storage_error_after_append, unanswered};
use crate::released::Released;
use crate::shard::{AppendJob, ShardContext};

/// What is kept of a write until its outcome is known.
#[derive(Debug)]
pub(super) struct Waiting {
    job: AppendJob,
    /// Why it was refused, or where its batch is in the log and in which form that counted when it was appended.
    appended: Result<(InLog, Durability), ApiError>,
    /// Bytes of its batch, once its room was given up. `None`: it holds its room.
    released: Option<usize>,
}

/// Where a batch is in the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct InLog {
    pub(super) base_offset: Offset,
    /// Exclusive.
    pub(super) next_offset: Offset,
    pub(super) max_timestamp: Timestamp,
    /// It was there before.
    pub(super) repeated: bool,
}

impl InLog {
    /// Of a batch that was just appended.
    pub(super) fn of(header: &BatchHeader) -> Self {
        let BatchHeader { base_offset, max_timestamp, .. } = *header;
        Self { base_offset, next_offset: header.next_offset(), max_timestamp, repeated: false }
    }
}

impl Partition {
    /// A write waits for its outcome from `now` on: its batch is in the log, or it was refused behind others.
    pub(super) fn wait(&mut self, now: Duration, job: AppendJob, in_log: Result<InLog, ApiError>) {
        let acks = job.acks;
        let write = match in_log {
            Ok(in_log) => {
                let InLog { next_offset: end, repeated, .. } = in_log;
                let durability = self.replica.leader().map(Leader::durability).unwrap_or_default();
                let write = Waiting { job, appended: Ok((in_log, durability)), released: None };
                Write::Appended { write, end, acks, repeated }
            }
            Err(refused) => Write::Refused { write: Waiting { job, appended: Err(refused), released: None }, acks },
        };
        self.replica.wait(now, write);
    }

    /// What a write is answered that is acknowledged now. `durability`: what counted when it was appended. Replicas may
    /// have left the in-sync set since, and the topic's durability may have changed: the weaker of the two is told.
    fn answer_for(&self, acks: Acks, in_log: InLog, durability: Durability) -> BatchAppended {
        let stamped = self.config.timestamp_type == TimestampType::LogAppendTime;
        let leader = self.replica.leader();
        let durability = durability.weaker(leader.map_or(durability, Leader::durability));
        let copies = leader.map_or(0, |leader| leader.copies(acks));
        BatchAppended {
            base_offset: in_log.base_offset,
            log_append_time: stamped.then_some(in_log.max_timestamp),
            log_start: self.log.log_start(),
            leader_epoch: self.epoch(),
            duplicate: in_log.repeated,
            durability: (acks != Acks::None).then_some(durability),
            copies: i32::try_from(copies).unwrap_or(i32::MAX),
        }
    }

    /// Tells a write what became of it. `why`: the reason for which this node leads no more, when there is a better one
    /// than that it does not.
    pub(super) fn respond(
        &mut self,
        waiting: Waiting,
        outcome: WriteOutcome,
        why: Option<&ApiError>,
        context: &ShardContext,
    ) {
        let Waiting { job, appended, released } = waiting;
        self.released_bytes -= released.unwrap_or(0);
        let failure = match (appended, outcome) {
            (Err(refused), _) => refused,
            (Ok((in_log, durability)), WriteOutcome::Acknowledged) => {
                let answer = self.answer_for(job.acks, in_log, durability);
                let AppendJob { reply, permit, batch, .. } = job;
                drop((permit, batch));
                return reply.answer(Ok(answer));
            }
            (Ok(_), WriteOutcome::NotEnoughReplicas(missing)) => not_enough_replicas_after_append(missing),
            (Ok(_), WriteOutcome::TimedOut) => unanswered(job.acks == Acks::All && self.ticks()),
            (Ok(_), WriteOutcome::LogFailed) => {
                let reason = match self.log.condition() {
                    Condition::Failed { reason } => reason.clone(),
                    Condition::Healthy | Condition::Corrupt { .. } => "it takes no writes".to_owned(),
                };
                storage_error_after_append(&LogError::Failed { reason }, context.node)
            }
            (Ok(_), WriteOutcome::LeaderLost | WriteOutcome::Refused) => lost(why),
        };
        job.refuse(failure, &context.metrics);
    }

    /// Takes the room of writes that are as durable here as their topic asks, and wait for other replicas only.
    pub(super) fn release(&mut self) {
        let Self { replica, log, released_bytes, .. } = self;
        replica.release(&KeptLog(log), |waiting| {
            let bytes = waiting.job.release();
            waiting.released = Some(bytes);
            *released_bytes += bytes;
        });
    }

    /// Writes that have given up their room.
    pub(super) fn released(&self) -> Released {
        Released { writes: self.replica.waiting().1, bytes: self.released_bytes }
    }

    /// A log that has just failed is known to have failed, whatever it failed in.
    pub(crate) fn show_failure(&mut self, context: &ShardContext) {
        if matches!(self.log.condition(), Condition::Failed { .. }) && !self.handle.failed() {
            self.show_log();
        }
        self.note_failure(context);
    }

    /// Tells the replica when its log takes nothing any more.
    pub(super) fn note_failure(&mut self, context: &ShardContext) {
        match self.log.condition() {
            Condition::Corrupt { .. } => self.step(ReplicaEvent::LogDamaged, context),
            Condition::Failed { .. } if !self.replica.failed() => {
                if self.replica.lazy() {
                    self.keep_failure_at = Some(context.clock.monotonic());
                }
                self.step(ReplicaEvent::LogFailed, context);
            }
            Condition::Healthy | Condition::Failed { .. } => {}
        }
    }
}

/// The next leader may have it, or not.
fn lost(why: Option<&ApiError>) -> ApiError {
    match why {
        None => ApiError::new(Reason::LeaderLostAfterAppend, "this node does not lead any more"),
        Some(why) if why.reason() == Reason::NotLeader => {
            ApiError::new(Reason::LeaderLostAfterAppend, why.message()).with("appended", true)
        }
        Some(why) => why.clone().with_effect(Effect::Maybe).with("appended", true),
    }
}
