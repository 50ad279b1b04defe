//! `DeleteRecords`: answered once every replica that can lead next has deleted the records, so that no later leader shows
//! them.

use std::time::Duration;

use tokio::sync::oneshot;
use walser_model::Offset;
use walser_replication::ReplicaEvent;
use walser_rpc::{ApiError, Effect, Reason};

use super::damage::refusal_of;
use super::kept_log::KeptLog;
use super::{Partition, ShardContext};
use crate::error::out_of_range;

/// Deletions of one partition that wait.
const WAITING_MAX: usize = 100;
/// How long one waits for other replicas: longer than one that hangs stays in the in-sync set.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A deletion that this replica has carried out, and others have not.
pub(super) struct Deletion {
    /// Exclusive.
    before: Offset,
    /// Monotonic time at which it is given up.
    until: Duration,
    reply: oneshot::Sender<Result<Offset, ApiError>>,
}

impl Partition {
    /// Raises the log start; the reply comes when every replica that can lead next has done so, too.
    pub(crate) fn delete_records(
        &mut self,
        before: Offset,
        reply: oneshot::Sender<Result<Offset, ApiError>>,
        context: &ShardContext,
    ) {
        if let Err(failure) = self.delete_here(before, context) {
            let _ = reply.send(Err(failure));
            return;
        }
        self.deletions.push(Deletion { before, until: context.clock.monotonic() + WAIT_MAX, reply });
        self.settle_deletions(context);
    }

    fn delete_here(&mut self, before: Offset, context: &ShardContext) -> Result<(), ApiError> {
        if !self.leads() {
            return Err(self.handle.not_leader(context.node));
        }
        let high_watermark = self.handle.high_watermark();
        if before > high_watermark {
            return Err(out_of_range(before, self.log.log_start(), high_watermark));
        }
        if self.deletions.len() >= WAITING_MAX {
            let text = format!("{WAITING_MAX} deletions of the partition wait for other replicas already");
            return Err(ApiError::new(Reason::InFlightLimitExceeded, text));
        }
        let deleted = self.log.delete_records(before, context.clock.now_millis());
        deleted.map_err(|error| refusal_of(&error, &self.handle, context))?;
        self.note_left();
        self.step(ReplicaEvent::LogChanged, context);
        Ok(())
    }

    /// Answers the deletions that are complete, or are not waited for any longer.
    pub(super) fn settle_deletions(&mut self, context: &ShardContext) {
        if self.deletions.is_empty() {
            return;
        }
        let (now, log_start) = (context.clock.monotonic(), self.log.log_start());
        let deleted_below = self.replica.leader().map(|leader| leader.deleted_below(&KeptLog(&self.log)));
        for deletion in std::mem::take(&mut self.deletions) {
            let answer = match deleted_below {
                None => Err(self.handle.not_leader(context.node).with_effect(Effect::Maybe)),
                Some(deleted_below) if deleted_below >= deletion.before => {
                    self.replica.deletion_answered(deletion.before);
                    Ok(log_start)
                }
                Some(_) if now >= deletion.until => Err(not_everywhere(deletion.before)),
                Some(_) => {
                    self.deletions.push(deletion);
                    continue;
                }
            };
            let _ = deletion.reply.send(answer);
        }
    }
}

/// The leader has deleted, and not everybody who can lead next is known to have.
fn not_everywhere(before: Offset) -> ApiError {
    let text = format!(
        "records below {before} are deleted on the leader, and not every replica that can lead next has confirmed it \
         within {} s: they can be seen again after a change of the leader until it has; start the nodes that are down, \
         and repeat the call",
        WAIT_MAX.as_secs()
    );
    ApiError::new(Reason::RequestTimedOut, text)
}
