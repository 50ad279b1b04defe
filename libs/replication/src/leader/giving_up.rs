//! What a leader whose log is damaged must not give up: what another replica has, or may have.

use walser_model::{NodeId, Offset};

use super::Leader;
use super::followers::FollowerProgress;

/// Why a leader must not give up what it cannot read of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objection {
    /// This replica has more.
    HasMore(NodeId),
    /// This replica has records in place of which the leader has others, and has not cut them off: they may have been
    /// committed.
    Parted(NodeId),
    /// This replica has not said in this epoch what it has: its node is down, or cannot open its log.
    NotHeard(NodeId),
}

impl Leader {
    /// A follower whose log reaches beyond an offset, as they have said in this epoch: of several, the one that an election
    /// would prefer.
    pub fn node_beyond(&self, offset: Offset) -> Option<NodeId> {
        let beyond = self.followers.iter().filter(|known| known.log_end > offset);
        beyond.max_by_key(|known| known.reach()).map(|known| known.node)
    }

    /// Why nothing of this log must be given up from an offset on. `None`: every replica has said in this epoch how far its
    /// log reaches, and none reaches beyond.
    pub fn objection_to_giving_up(&self, from: Offset) -> Option<Objection> {
        if let Some(node) = self.node_beyond(from) {
            return Some(Objection::HasMore(node));
        }
        let unsettled = |known: &&FollowerProgress| !known.has_opened() || known.parted;
        let known = self.followers.iter().find(unsettled)?;
        Some(if known.parted { Objection::Parted(known.node) } else { Objection::NotHeard(known.node) })
    }
}
