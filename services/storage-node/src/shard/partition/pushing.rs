//! A partition that is led: to whom its records are pushed, and what its followers are told.

use walser_model::NodeId;
use walser_replication::{Action, ReplicaEvent};

use super::Partition;
use crate::replication::{OpenAnswer, Outgoing};
use crate::shard::ShardContext;

impl Partition {
    /// What a leader does.
    pub(super) fn lead(&mut self, action: Action, context: &ShardContext) {
        let (follower, open, answer) = match action {
            Action::Push { follower, open, from } => {
                self.pushes.retain(|(known, _)| *known != follower);
                self.pushes.push((follower, open));
                (follower, open, OpenAnswer::Push { leader_epoch: self.epoch(), from })
            }
            Action::Diverged { follower, answer } => (follower, answer.open, OpenAnswer::Diverged(answer)),
            Action::Copy { follower, open } => {
                (follower, open, OpenAnswer::Copy { leader_epoch: self.epoch(), log_start: self.log.retained() })
            }
            Action::Refuse { follower, open } => (follower, open, OpenAnswer::Refused),
            Action::Propose(proposal) => {
                return context.peers.tell(self.log.partition(), Outgoing::Propose(proposal));
            }
            Action::Commit { .. } => return,
        };
        context.peers.tell(self.log.partition(), Outgoing::Answer { follower, open, answer });
    }

    /// Has what is new pushed to those who follow.
    pub(super) fn tell_of_more(&mut self, context: &ShardContext) {
        if self.pushes.is_empty() {
            return;
        }
        let (high_watermark, floor) = (self.replica.high_watermark().0, self.handle.tombstone_floor());
        let now = [self.log.log_start(), self.log.log_end(), high_watermark, floor];
        if std::mem::replace(&mut self.told, now) == now {
            return;
        }
        for (follower, _) in &self.pushes {
            context.peers.tell(self.log.partition(), Outgoing::More { follower: *follower });
        }
    }

    /// Whoever is no replica any more gets nothing more.
    pub(super) fn stop_pushing_to_others(&mut self, context: &ShardContext) {
        let Some((known, _)) = self.replica.partition() else { return };
        self.pushes.retain(|(follower, _)| {
            let stays = known.replicas.contains(follower);
            if !stays {
                context.peers.tell(self.log.partition(), Outgoing::Stop { follower: *follower });
            }
            stays
        });
    }

    /// A follower's node is there.
    pub(crate) fn hear_of(&mut self, follower: NodeId, node_epoch: i64, context: &ShardContext) {
        self.step(ReplicaEvent::Heard { follower, node_epoch }, context);
    }

    /// Whatever was opened, here or by this node, is over.
    pub(super) fn leave(&mut self, context: &ShardContext) {
        self.pushes.clear();
        self.stop_following();
        context.peers.tell(self.log.partition(), Outgoing::Left);
    }
}
