//! What an earlier version did, or one without a rule would do: simulations bring it back, and must notice it.

#![cfg_attr(not(feature = "faults"), expect(unreachable_pub, reason = "only simulations see it"))]

/// What the writer of a log does wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogFaults {
    /// The age of the last segment begins anew whenever it is opened for appending.
    pub age_restarts: bool,
    /// Tombstones go whatever other replicas have, and nobody knows of it.
    pub drops_tombstones: bool,
    /// The last batch of a producer goes with its records.
    pub drops_last_batches: bool,
    /// Records that are not committed take part in compaction.
    pub compacts_uncommitted: bool,
    /// What a compaction has written takes its place before it is durable.
    pub swaps_unsynced: bool,
}

impl LogFaults {
    /// As outside of simulations.
    pub const NONE: Self = Self {
        age_restarts: false,
        drops_tombstones: false,
        drops_last_batches: false,
        compacts_uncommitted: false,
        swaps_unsynced: false,
    };
}
