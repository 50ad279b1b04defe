//! The end of an upgrade: the feature level at which the cluster works goes up, once nobody is left who cannot work at it.
//!
//! Nobody counts who is not known here: a controller that is older than the new level cannot read the cluster's record any
//! more, and a gateway that follows another controller is told there.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use walser_rpc::{ApiError, FEATURE_LEVELS, FeatureLevels, Reason};

use crate::cluster_view::ClusterView;
use crate::keys::cluster::ClusterRecord;

/// Old processes that an error names.
const NAMED_MAX: usize = 10;

/// Processes that follow the metadata here, by the highest level at which they can work. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Followers(Arc<Mutex<BTreeMap<i32, usize>>>);

/// Counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    all: Followers,
    level_max: i32,
}

// === impl Followers ===

impl Followers {
    pub(crate) fn add(&self, levels: FeatureLevels) -> Follower {
        *self.0.lock().entry(levels.max).or_default() += 1;
        Follower { all: self.clone(), level_max: levels.max }
    }

    /// How many cannot work at a level.
    fn below(&self, level: i32) -> usize {
        self.0.lock().range(..level).map(|(_, count)| count).sum()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock();
        if let Some(count) = counts.get_mut(&self.level_max) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.level_max);
            }
        }
    }
}

/// The cluster's record at the highest level of this version.
pub(crate) fn at_highest_level(record: &ClusterRecord) -> ClusterRecord {
    ClusterRecord { feature_level: record.feature_level.max(FEATURE_LEVELS.max), ..record.clone() }
}

/// Refuses to end an upgrade while somebody is registered who cannot work at the new level. Nodes that are away count: they
/// could not come back.
///
/// # Errors
/// `POLICY_VIOLATION`.
pub(crate) fn check(view: &ClusterView, followers: &Followers) -> Result<(), ApiError> {
    let level = FEATURE_LEVELS.max;
    let old = view.metadata.nodes().filter(|(_, node)| node.epoch > 0 && node.registration.feature_level_max < level);
    let named: Vec<_> =
        old.map(|(id, node)| format!("storage node {id} (version {})", node.registration.version)).collect();
    // A storage node follows the metadata as well, and is named already.
    let gateways = followers.below(level).saturating_sub(named.len());
    if named.is_empty() && gateways == 0 {
        return Ok(());
    }
    let mut all = named[..named.len().min(NAMED_MAX)].to_vec();
    if named.len() > NAMED_MAX {
        all.push(format!("{} more storage nodes", named.len() - NAMED_MAX));
    }
    if gateways > 0 {
        all.push(format!("{gateways} other processes that follow the metadata, such as gateways"));
    }
    let text = format!(
        "feature level {level} is not known to {}; start the version that the controllers have there first{}; nothing was done",
        all.join(", "),
        if named.is_empty() { "" } else { " (a storage node that is gone for good: `walser node deregister ID`)" }
    );
    Err(ApiError::new(Reason::PolicyViolation, text).with("policy", "feature-level").with("requiredLevel", level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_count_while_they_are_there() {
        let followers = Followers::default();
        let old = followers.add(FeatureLevels::of_caller(None));
        let new = followers.add(FEATURE_LEVELS);
        assert_eq!((followers.below(1), followers.below(2), followers.below(4)), (0, 1, 2));
        drop(new);
        assert_eq!(followers.below(4), 1);
        drop(old);
        assert_eq!(followers.below(3), 0);
        assert!(followers.0.lock().is_empty());
    }
}
