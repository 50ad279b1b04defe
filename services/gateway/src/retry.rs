//! How the gateway tries again: one policy for everything.
//!
//! What is waited for is a leader or a controller that comes back by itself, so pauses are short at first and longer
//! then, and every caller gives up after a time. Reads are repeated here; of writes the sequencer decides.

use std::time::Duration;

use tokio::time::Instant;
use walser_rpc::{ApiError, Reason};

/// How long a reader waits for a leader that moves, and a client for its own change to arrive.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// First pause.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Longest pause.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Pauses between attempts: each is twice as long as the one before, up to 200 ms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST_PAUSE }
    }
}

impl Backoff {
    /// Waits before the next attempt.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.longer()).await;
    }

    /// Waits before the next attempt, but not beyond an instant.
    pub(crate) async fn pause_until(&mut self, until: Instant) {
        let end = Instant::now() + self.longer();
        tokio::time::sleep_until(end.min(until)).await;
    }

    /// How long the next pause is.
    fn longer(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// Whether the leader has moved or was lost: an attempt that changes nothing, or that carries a producer sequence, can be
/// made again whatever became of it.
pub(crate) fn lost(failure: &ApiError) -> bool {
    let moved = matches!(failure.reason(), Reason::NotLeader | Reason::StaleEpoch | Reason::LeaderNotAvailable);
    moved || matches!(failure.reason(), Reason::LeaderLostAfterAppend | Reason::Starting)
}

/// Repeats an attempt that changes nothing, whatever became of it, while the leader moves; the last one begins at
/// `until`.
pub(crate) async fn while_moved<T, F>(until: Instant, mut attempt: impl FnMut() -> F) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let mut backoff = Backoff::default();
    loop {
        let last = Instant::now() >= until;
        match attempt().await {
            Err(failure) if lost(&failure) && !last => backoff.pause_until(until).await,
            outcome => return outcome,
        }
    }
}

/// Until when a reader waits for a leader from now on.
pub(crate) fn patience() -> Instant {
    Instant::now() + PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_moves_is_waited_for_and_one_that_stays_away_is_not() {
        let not_leader = || ApiError::new(Reason::NotLeader, "moved");
        let mut left = 3;
        let found = while_moved(patience(), || {
            left -= 1;
            std::future::ready(if left > 0 { Err(not_leader()) } else { Ok(7) })
        });
        assert_eq!(found.await.unwrap(), 7);
        let never = while_moved(patience(), || std::future::ready(Err::<(), _>(not_leader()))).await;
        assert_eq!(never.unwrap_err().reason(), Reason::NotLeader);
        let damaged = || ApiError::new(Reason::LogCorrupt, "damaged");
        let mut attempts = 0;
        let refused = while_moved(patience(), || {
            attempts += 1;
            std::future::ready(Err::<(), _>(damaged()))
        });
        assert!(refused.await.is_err());
        assert_eq!(attempts, 1, "waiting does not help");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_does_not_go_beyond_the_callers_time() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        let until = start + Duration::from_millis(100);
        for _ in 0..10 {
            backoff.pause_until(until).await;
        }
        assert_eq!(Instant::now(), until);
    }
}
