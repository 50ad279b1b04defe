//! The time of a shard: it stands still while the shard takes no requests, or the process does not run, since nobody can be
//! heard then.

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
    /// When the driver looks around again, at the latest.
    wakes_at: Duration,
    /// It stood still for longer than [`LATE`] at one time, which was not asked for yet.
    stood_long: bool,
}

/// Somebody who wakes later than this has not run.
const LATE: Duration = Duration::from_secs(1);

// === impl ShardClock ===

impl ShardClock {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, stood: Duration::ZERO, stopped_at: None, wakes_at: Duration::MAX, stood_long: false }
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

    /// The driver waits for so long, at most.
    pub(super) fn expect_wake(&mut self, within: Duration) {
        self.wakes_at = self.clock.monotonic() + within;
    }

    /// The driver has woken. Where that is far too late, the time since counts for nobody.
    pub(super) fn wake(&mut self) {
        let late = self.clock.monotonic().saturating_sub(self.wakes_at.saturating_add(LATE));
        // A clock that is stopped stands already.
        if self.stopped_at.is_none() {
            self.stood += late;
            self.stood_long |= !late.is_zero();
        }
    }

    /// Whether it has stood still for a while since this was asked last.
    pub(super) fn has_stood(&mut self) -> bool {
        std::mem::take(&mut self.stood_long)
    }

    /// Stops the clock, or lets it go on.
    pub(super) fn set_stopped(&mut self, stopped: bool) {
        match (stopped, self.stopped_at) {
            (true, None) => self.stopped_at = Some(self.clock.monotonic()),
            (false, Some(at)) => {
                let stood = self.clock.monotonic().saturating_sub(at);
                self.stood += stood;
                self.stood_long |= stood > LATE;
                self.stopped_at = None;
            }
            _ => {}
        }
    }
}
