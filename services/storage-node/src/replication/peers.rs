//! What shards say to other nodes, and hear from them.

use walser_log::{CompleteCopy, LogConfig};
use walser_model::{LeaderEpoch, NodeId, Offset, TopicPartition};
use walser_replication::{Ack, AlterIsr, Diverging, ReplicationSession, ReplicationSessionId, WorkId};

use super::Pushed;

/// Carries what a shard says about a partition. It never waits; of what waits for the same receiver only the latest
/// counts, so that a partition holds room for one message of each kind.
pub(crate) trait Peers: std::fmt::Debug + Send + Sync {
    /// Takes a message.
    fn tell(&self, partition: TopicPartition, message: Outgoing);
}

/// What a shard says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// To the leader: open the partition. What was opened before is over.
    Open { leader: NodeId, session: ReplicationSession },
    /// To the leader.
    Acknowledge { leader: NodeId, ack: Ack },
    /// To a follower, about its open.
    Answer { follower: NodeId, open: ReplicationSessionId, answer: OpenAnswer },
    /// There is something to push to a follower: records, a high watermark, or a log start.
    More { follower: NodeId },
    /// Nothing is pushed to a follower any more: it is no replica.
    Stop { follower: NodeId },
    /// This node is neither the leader any more nor the follower that it was: whatever was opened is over.
    Left,
    /// To the controller.
    Propose(AlterIsr),
    /// To the controller: this node cannot be relied on for the partition, as it is in this leader epoch.
    GiveUp { leader_epoch: LeaderEpoch },
    /// To the controller: this node cannot write at present, and leads in this leader epoch.
    HandOver { leader_epoch: LeaderEpoch },
    /// Get the log of the leader: [`FromPeer::Copied`] ends it, one way or the other.
    Copy { leader: NodeId, leader_epoch: LeaderEpoch, work: WorkId, config: LogConfig },
}

/// What a leader answers to an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenAnswer {
    /// Records are pushed from here on. Inclusive.
    Push { leader_epoch: LeaderEpoch, from: Offset },
    /// The logs have parted.
    Diverged(Diverging),
    /// The two logs cannot be compared: the follower takes the leader's in place of its own.
    Copy {
        leader_epoch: LeaderEpoch,
        /// Where the leader's log begins. Inclusive.
        log_start: Offset,
    },
    /// This node does not lead in that epoch.
    Refused,
}

/// What a shard hears.
#[derive(Debug)]
pub(crate) enum FromPeer {
    /// A follower opens the partition here.
    Opened(ReplicationSession),
    /// A follower tells its positions.
    Acked(Ack),
    /// Records up to `end` (exclusive) are about to be sent. MUST come before their first byte leaves.
    Sent { follower: NodeId, open: ReplicationSessionId, end: Offset },
    /// The connection of an open is gone.
    Closed { follower: NodeId, open: ReplicationSessionId },
    /// The leader has pushed something.
    Pushed(Box<Pushed>),
    /// The leader says that the logs have parted.
    Diverged(Diverging),
    /// The leader offers its log.
    CopyOffered { leader_epoch: LeaderEpoch, open: ReplicationSessionId, log_start: Offset },
    /// An open has come to nothing: its connection broke, it was refused, or what was pushed was damaged.
    Broken { open: ReplicationSessionId },
    /// The work of a copy has ended: with a log that is to take the place of this one, or with nothing.
    Copied { work: WorkId, copy: Option<CompleteCopy> },
    /// The controller has not written a proposal, or nobody knows.
    ProposalOver { ineligible: Option<NodeId> },
}

impl FromPeer {
    /// The open that this answers, of those of a follower.
    pub(crate) fn answers(&self) -> Option<ReplicationSessionId> {
        match self {
            Self::Pushed(pushed) => Some(pushed.frame().open),
            Self::Diverged(answer) => Some(answer.open),
            Self::CopyOffered { open, .. } | Self::Broken { open } => Some(*open),
            _ => None,
        }
    }
}
