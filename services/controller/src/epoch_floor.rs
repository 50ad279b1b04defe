//! Leader epochs that are this start's own.
//!
//! A copy of the metadata that is used again goes on with leader epochs that the store before it had begun already. Where
//! nodes obey the copy before it is accepted, records of one epoch would be of two leaders, and replicas could not tell the
//! ones from the others. So each start of a controller skips a random number of epochs: those that two histories begin after
//! one copy are hardly ever the same.

use std::sync::{Arc, OnceLock};

use walser_model::LeaderEpoch;

use crate::cluster_view::ClusterView;

/// Exclusive. Large against the epochs that begin between a copy of the metadata and its use, and small enough for more than
/// a hundred thousand starts.
const EPOCHS_SKIPPED_MAX: u128 = 16_384;

/// The least leader epoch that begins under this start of a controller. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct EpochFloor {
    skipped: i32,
    floor: Arc<OnceLock<LeaderEpoch>>,
}

// === impl EpochFloor ===

impl EpochFloor {
    /// `random`: of this start.
    pub(crate) fn new(random: [u8; 16]) -> Self {
        let skipped = i32::try_from(u128::from_be_bytes(random) % EPOCHS_SKIPPED_MAX).unwrap_or(0);
        Self { skipped, floor: Arc::default() }
    }

    /// The floor: above all epochs of the view with which it is asked first.
    pub(crate) fn get(&self, view: &ClusterView) -> LeaderEpoch {
        *self.floor.get_or_init(|| {
            let highest = view.metadata.partitions().map(|known| known.record.state.leader_epoch).max();
            LeaderEpoch(highest.unwrap_or(LeaderEpoch::NONE).0.saturating_add(1).saturating_add(self.skipped))
        })
    }
}
