//! Whether the replicas of this node have been in sync once since the start. Whoever restarts one node after the other waits
//! for that before the next: with both away, some partitions would have too few replicas to take records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use walser_metadata::View;
use walser_model::{Clock, NodeId};

/// Remembers that it was so. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Settling {
    node: NodeId,
    clock: Arc<dyn Clock>,
    /// From then on, in monotonic time, it is not waited for any more.
    until: Duration,
    settled: Arc<AtomicBool>,
}

// === impl Settling ===

impl Settling {
    /// A start of a node, which is waited for at most for so long.
    pub(crate) fn new(node: NodeId, clock: Arc<dyn Clock>, limit: Duration) -> Self {
        let until = clock.monotonic().saturating_add(limit);
        Self { node, clock, until, settled: Arc::default() }
    }

    /// Why the node is not to be counted on yet, in words.
    pub(crate) fn problem<T>(&self, view: &View<T>) -> Option<String> {
        if self.settled.load(Ordering::Acquire) {
            return None;
        }
        let (out, all) = self.behind(view);
        // A node whose registration is refused knows of no replica yet.
        if view.version() == 0 && self.clock.monotonic() < self.until {
            return Some("no metadata has been read since the start".to_owned());
        }
        if out == 0 || self.clock.monotonic() >= self.until {
            self.settled.store(true, Ordering::Release);
            return None;
        }
        let left = self.until.saturating_sub(self.clock.monotonic()).as_secs();
        Some(format!("{out} of {all} replicas have not been in sync since the start; ready in {left} s in any case"))
    }

    /// Replicas of this node that are not in sync, and all of them.
    fn behind<T>(&self, view: &View<T>) -> (usize, usize) {
        let own = view.partitions().filter(|partition| partition.record.state.replicas.contains(&self.node));
        own.fold((0, 0), |(out, all), partition| {
            let in_sync = partition.record.state.isr.contains(self.node);
            (out + usize::from(!in_sync), all + 1)
        })
    }
}
