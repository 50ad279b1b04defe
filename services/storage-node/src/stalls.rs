//! Calls to the disk that do not end: it hangs. It gives no error, so that nobody would hear of it.
//!
//! A node whose disk hangs steps back: it ends its sessions with the controllers, others lead what it has led, and it comes
//! back by itself when the calls have ended. What hangs is found by looking at the calls every second: one that as many looks
//! have seen as the limit has seconds hangs. Time while this process is stopped does not count, nor does the time of a
//! machine that sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use walser_log::DiskCalls;
use walser_service::Shutdown;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whether the disk of an engine hangs. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Stalls {
    calls: DiskCalls,
    /// Seconds that the longest call under way has been seen.
    longest: Arc<AtomicU64>,
    /// A call that takes so long does not end.
    limit: Duration,
}

impl Stalls {
    /// Nothing has been seen yet.
    pub(crate) fn new(calls: DiskCalls, limit: Duration) -> Self {
        Self { calls, longest: Arc::default(), limit }
    }

    /// What is wrong with the disk, if it hangs.
    pub(crate) fn problem(&self) -> Option<String> {
        let seconds = self.seconds();
        let hangs = Duration::from_secs(seconds) >= self.limit;
        hangs.then(|| format!("it hangs: a read, write or sync has not ended for {seconds} s"))
    }

    /// Seconds that the longest call under way has taken so far.
    pub(crate) fn seconds(&self) -> u64 {
        self.longest.load(Ordering::Relaxed)
    }

    /// Looks every second until the stop.
    pub(crate) async fn watch(self, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.longest.store(self.calls.look(), Ordering::Relaxed),
                () = shutdown.wait() => return,
            }
        }
    }
}
