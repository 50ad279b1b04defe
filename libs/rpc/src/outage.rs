//! A callee that is away is reported when that begins, then now and then, and when it is back: whoever tries again five
//! times a second must not say so each time.

use std::time::Duration;

use tokio::time::Instant;

use crate::ApiError;

/// Time between two reports of one outage.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Attempts at one callee, one after the other.
#[derive(Debug)]
pub struct Outage {
    /// What is tried, for the log: a fragment such as "the metadata stream".
    what: &'static str,
    failing: Option<Failing>,
}

/// Attempts that have failed since the last that did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failing {
    began: Instant,
    reported: Instant,
    attempts: u64,
}

// === impl Outage ===

impl Outage {
    /// Nothing has failed yet.
    pub fn of(what: &'static str) -> Self {
        Self { what, failing: None }
    }

    /// An attempt has failed, and will be repeated.
    pub fn failed(&mut self, error: &ApiError) {
        if let Some(failing) = self.note_failure(Instant::now()) {
            let (what, attempts, seconds) = (self.what, failing.attempts, failing.began.elapsed().as_secs());
            tracing::warn!(what, %error, attempts, seconds, "failed and is retried");
        }
    }

    /// An attempt has succeeded.
    pub fn ended(&mut self) {
        if let Some(failing) = self.failing.take() {
            let (what, attempts, seconds) = (self.what, failing.attempts, failing.began.elapsed().as_secs());
            tracing::info!(what, attempts, seconds, "succeeded again");
        }
    }

    /// Counts a failure; returns what is to be reported now, if anything is.
    fn note_failure(&mut self, now: Instant) -> Option<Failing> {
        let Some(failing) = &mut self.failing else {
            self.failing = Some(Failing { began: now, reported: now, attempts: 1 });
            return self.failing;
        };
        failing.attempts += 1;
        if now.duration_since(failing.reported) < REPORT_INTERVAL {
            return None;
        }
        failing.reported = now;
        Some(*failing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_reported_at_once_and_then_every_ten_seconds() {
        let mut outage = Outage::of("a test");
        let start = Instant::now();
        let failures = (0..125).map(|attempt| start + attempt * Duration::from_millis(200));
        let reported: Vec<_> = failures.filter_map(|now| outage.note_failure(now)).collect();
        assert_eq!(reported.iter().map(|failing| failing.attempts).collect::<Vec<_>>(), [1, 51, 101]);
        outage.ended();
        assert!(outage.note_failure(start).is_some_and(|failing| failing.attempts == 1), "another one");
    }
}
