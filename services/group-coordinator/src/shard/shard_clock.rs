//! The time of a shard: it stands still while the shard takes no requests, since nobody can be heard then.

use std::sync::Arc;
use std::time::Duration;

use walser_group::Now;
use walser_model::Clock;

/// The clock of one shard in service.
#[derive(Debug)]
pub(super) struct ShardClock {
    clock: Arc<dyn Clock>,
    /// How long it stood still in all.
    stood: Duration,
    stopped_at: Option<Duration>,
}

// === impl ShardClock ===

impl ShardClock {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, stood: Duration::ZERO, stopped_at: None }
    }

    /// What time it is for the shard.
    pub(super) fn now(&self) -> Now {
        let at = self.stopped_at.unwrap_or_else(|| self.clock.monotonic());
        Now { monotonic: at.saturating_sub(self.stood), wall: self.clock.now_millis() }
    }

    /// The time until something is due, if the clock does not stop.
    pub(super) fn until(&self, due: Duration) -> Duration {
        due.saturating_sub(self.now().monotonic)
    }

    /// Stops the clock, or lets it go on.
    pub(super) fn set_stopped(&mut self, stopped: bool) {
        match (stopped, self.stopped_at) {
            (true, None) => self.stopped_at = Some(self.clock.monotonic()),
            (false, Some(at)) => {
                self.stood += self.clock.monotonic().saturating_sub(at);
                self.stopped_at = None;
            }
            _ => {}
        }
    }
}
