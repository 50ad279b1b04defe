//! Messages on their way: any of them may be the next to arrive, or be lost, or come twice.

use std::collections::VecDeque;

use walser_model::{Acks, LeaderEpoch, NodeId};
use walser_replication::{Ack, AlterIsr, Diverging, Frame, PartitionState, ReplicationSession, ReplicationSessionId};

use crate::key::Key;
use crate::records::{Entry, Segments};

/// Most messages on their way; more are lost.
const MESSAGES_MAX: usize = 60;

/// What is said. Messages are moved a lot: what is large and rare is boxed.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Open(ReplicationSession),
    Diverged(Diverging),
    Pushed(Frame, Vec<Entry>),
    /// A copy of the leader's segments.
    Copy {
        leader_epoch: LeaderEpoch,
        open: ReplicationSessionId,
        segments: Box<Segments>,
    },
    Acked(Ack),
    /// The connection of a follower is gone.
    Closed(NodeId, ReplicationSessionId),
    Alter(AlterIsr),
    /// The log of the leader has failed.
    GiveUp {
        node_epoch: i64,
        leader_epoch: LeaderEpoch,
    },
    /// What became of a proposal, with the partition as the controller has it, or who is not eligible.
    Altered {
        leader_epoch: LeaderEpoch,
        node_epoch: i64,
        written: Option<Box<(PartitionState, i64)>>,
        ineligible: Option<NodeId>,
    },
    /// A process registers its node: of which partitions it may have lost something, and which are gone.
    Register {
        process: u32,
        unclean: Vec<Key>,
        gone: Vec<Key>,
    },
    Registered {
        process: u32,
        epoch: i64,
    },
    Produce {
        producer: usize,
        sequence: u32,
        acks: Acks,
    },
    Written {
        producer: usize,
        sequence: u32,
    },
}

/// A message to a node or a controller (from [`CONTROLLERS`] on).
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Of which partition it is; that of a registration means nothing.
    pub(crate) partition: Key,
    pub(crate) body: Body,
}

/// Most messages that are kept for late.
pub(crate) const LIMBO_MAX: usize = 20;

/// Numbers of controllers as senders and receivers.
pub(crate) const CONTROLLERS: usize = 100;
/// Number of the producers' gateway.
pub(crate) const GATEWAY: usize = 200;

/// All messages on their way, and links that are cut in one direction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Network {
    pub(crate) messages: VecDeque<Message>,
    cut: Vec<(usize, usize)>,
    /// Messages that arrive very late: their connections broke long ago, and something kept them.
    pub(crate) limbo: Vec<Message>,
}

impl Network {
    pub(crate) fn send(&mut self, from: usize, to: usize, partition: Key, body: Body) {
        if self.messages.len() < MESSAGES_MAX && !self.cut.contains(&(from, to)) {
            self.messages.push_back(Message { from, to, partition, body });
        }
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cut.push((from, to));
        self.messages.retain(|message| (message.from, message.to) != (from, to));
    }

    /// Mends all links. False: none was cut.
    pub(crate) fn heal(&mut self) -> bool {
        let cut = !self.cut.is_empty();
        self.cut.clear();
        cut
    }

    /// Nothing late arrives any more.
    pub(crate) fn forget_the_late(&mut self) {
        self.limbo.clear();
    }
}
