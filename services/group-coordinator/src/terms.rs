//! Terms of shards: each load begins one, and no request is handled in another than it is for.
//!
//! A session is with one process, and ends with it: terms that grow within it, and with the clock from one process to the
//! next, are enough. Which process may write is another matter: see [`walser_group::CoordinatorEpoch`].

use std::sync::Arc;

use parking_lot::Mutex;
use walser_model::Timestamp;

/// Hands out terms. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    last: Arc<Mutex<i64>>,
}

// === impl Terms ===

impl Terms {
    /// A term above all before.
    pub(crate) fn next(&self, now: Timestamp) -> i64 {
        let mut last = self.last.lock();
        *last = now.max(*last + 1);
        *last
    }
}
