//! Time comes in from outside, so that the simulator and tests can own it.

use std::time::Duration;

/// Milliseconds since the Unix epoch, as stored in record batches. Negative means "none".
pub type Timestamp = i64;

/// Milliseconds in a time span, without a fraction; the largest number there is where they are more.
pub fn whole_millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// A source of wall-clock and monotonic time.
///
/// Implementations MUST return non-decreasing values from [`Clock::monotonic`]. [`Clock::now_millis`] MAY jump in
/// both directions: nothing that has to be ordered may rely on it.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Milliseconds since the Unix epoch.
    fn now_millis(&self) -> Timestamp;

    /// Time since an arbitrary fixed point of this process.
    fn monotonic(&self) -> Duration;
}

/// A source of randomness for ids.
pub trait Random: Send + Sync + std::fmt::Debug {
    /// 16 random bytes.
    fn bytes(&self) -> [u8; 16];
}

/// The randomness of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn bytes(&self) -> [u8; 16] {
        uuid::Uuid::new_v4().into_bytes()
    }
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// Starts a clock whose monotonic time is zero now.
    #[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock enters")]
    pub fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock enters")]
    fn now_millis(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since_epoch.map_or(0, whole_millis)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock enters")]
    fn monotonic(&self) -> Duration {
        std::time::Instant::now().duration_since(self.start)
    }
}
