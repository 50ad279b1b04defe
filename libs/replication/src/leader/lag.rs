//! How far followers are behind, for people.

use std::time::Duration;

use walser_model::{NodeId, Offset};

use super::Leader;

/// A follower that does not have everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerLag {
    pub node: NodeId,
    /// Offsets from its log end to the leader's. `None`: it has not said in this leader epoch what it has.
    pub offsets: Option<u64>,
    /// Since it last had everything, or since this node has led.
    pub behind: Duration,
}

impl Leader {
    /// Followers that do not have everything, as they were heard last: what is on its way to them counts.
    /// `log_end`: the end of the leader's log.
    pub fn lags(&self, log_end: Offset) -> impl Iterator<Item = FollowerLag> {
        self.followers.iter().filter_map(move |known| {
            let offsets = known.has_opened().then(|| u64::try_from(log_end.since(known.log_end)).unwrap_or(0));
            let behind = self.now.saturating_sub(known.caught_up);
            (offsets != Some(0)).then_some(FollowerLag { node: known.node, offsets, behind })
        })
    }
}
