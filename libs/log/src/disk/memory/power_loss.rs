//! What a simulated disk loses with the power.

/// What survives of unsynced state when power is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerLoss {
    /// Everything: only the process died. The result is a copy.
    Nothing,
    /// Nothing survives that was not synced.
    Everything,
    /// What a generator with this seed says, block by block.
    Random(u64),
}
