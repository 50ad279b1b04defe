//! What the compactions of a node share: one runs at a time, which bounds their memory, at a pace of its own.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How much a compaction may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompactionLimits {
    /// Bytes of memory for keys.
    pub(crate) memory_bytes: usize,
    /// Bytes that are read in a second; 0: as many as the disk gives.
    pub(crate) bytes_per_second: u64,
}

/// The turn that is to be had, and whether there is any more. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Compactor {
    pub(crate) limits: CompactionLimits,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when the node stops.
    ends: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: bool,
    /// Somebody wanted it while it was taken.
    wanted: bool,
    ended: bool,
}

/// Whoever has it may compact a log. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct CompactionTurn {
    compactor: Compactor,
    held: Arc<()>,
}

// === impl Compactor ===

impl Compactor {
    pub(crate) fn new(limits: CompactionLimits) -> Self {
        Self { limits, shared: Arc::default() }
    }

    /// `None`: somebody else has it, or the node stops.
    pub(crate) fn try_turn(&self) -> Option<CompactionTurn> {
        let mut state = self.shared.state.lock();
        if state.taken || state.ended {
            state.wanted = true;
            return None;
        }
        (state.taken, state.wanted) = (true, false);
        Some(CompactionTurn { compactor: self.clone(), held: Arc::default() })
    }

    /// Whether somebody has the turn, or the node stops.
    #[cfg(test)]
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.shared.state.lock();
        state.taken || state.ended
    }

    /// Whether somebody has wanted the turn in vain since it was taken: whoever has had it lets others be first.
    pub(crate) fn is_wanted(&self) -> bool {
        self.shared.state.lock().wanted
    }

    /// The node stops: what runs ends soon, and nothing begins any more.
    pub(crate) fn end(&self) {
        self.shared.state.lock().ended = true;
        self.shared.ends.notify_all();
    }
}

// === impl CompactionTurn ===

impl CompactionTurn {
    /// It is held for as long as this has somebody.
    pub(crate) fn held(&self) -> Weak<()> {
        Arc::downgrade(&self.held)
    }

    /// Waits for as long as so many bytes take. False: the node stops.
    pub(crate) fn spend(&self, bytes: usize) -> bool {
        let Compactor { limits, shared } = &self.compactor;
        let mut state = shared.state.lock();
        if limits.bytes_per_second > 0 && !state.ended {
            let seconds = bytes as f64 / limits.bytes_per_second as f64;
            shared.ends.wait_for(&mut state, Duration::from_secs_f64(seconds));
        }
        !state.ended
    }
}

impl Drop for CompactionTurn {
    fn drop(&mut self) {
        self.compactor.shared.state.lock().taken = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_turn_until_it_is_dropped_and_nobody_after_the_end() {
        let compactor = Compactor::new(CompactionLimits { memory_bytes: 1, bytes_per_second: 0 });
        let turn = compactor.try_turn().unwrap();
        assert!(compactor.is_busy() && !compactor.is_wanted());
        assert!(compactor.try_turn().is_none() && turn.spend(1 << 30) && compactor.is_wanted());
        drop(turn);
        let turn = compactor.try_turn().unwrap();
        compactor.end();
        assert!(!turn.spend(1));
        drop(turn);
        assert!(compactor.is_busy() && compactor.try_turn().is_none());
    }

    #[test]
    fn whoever_waits_for_its_pace_hears_of_the_end() {
        let compactor = Compactor::new(CompactionLimits { memory_bytes: 1, bytes_per_second: 1 });
        let turn = compactor.try_turn().unwrap();
        let waiting = std::thread::spawn(move || turn.spend(1 << 20));
        compactor.end();
        assert!(!waiting.join().unwrap());
    }
}
