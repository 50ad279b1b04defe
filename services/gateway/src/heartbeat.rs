//! Heartbeats of streams on which nothing happens.

use std::sync::Arc;
use std::time::Duration;

use walser_model::{Clock, Random, Timestamp};

const DELAY_MIN_MS: u64 = 5_000;
const DELAY_SPREAD_MS: u64 = 10_000;

/// When streams send heartbeats, and what they carry. Clones share clock and randomness.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeats {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl Heartbeats {
    pub(crate) fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { clock, random }
    }

    /// Time until the next heartbeat of a stream on which nothing happens: 5 to 15 s, so that those of many streams do
    /// not come together.
    pub(crate) fn delay(&self) -> Duration {
        let random = u64::from_be_bytes(self.random.bytes()[..8].try_into().expect("eight bytes"));
        Duration::from_millis(DELAY_MIN_MS + random % DELAY_SPREAD_MS)
    }

    /// The server's clock, as heartbeats carry it.
    pub(crate) fn server_time(&self) -> Timestamp {
        self.clock.now_millis()
    }
}
