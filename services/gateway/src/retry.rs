//! How the gateway tries again: one policy for everything.
//!
//! What is waited for is a leader or a controller that comes back by itself, so pauses are short at first and longer
//! then, and every caller gives up after a time. Reads are repeated here; of writes the sequencer decides.

use std::time::Duration;

use walser_rpc::{Failure, Reason};

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
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        tokio::time::sleep(pause).await;
    }
}

/// Whether the leader has moved or was lost: an attempt that changes nothing, or that carries a producer sequence, can be
/// made again whatever became of it.
pub(crate) fn lost(failure: &Failure) -> bool {
    let moved = matches!(failure.reason(), Reason::NotLeader | Reason::StaleEpoch | Reason::LeaderNotAvailable);
    moved || matches!(failure.reason(), Reason::LeaderLostAfterAppend | Reason::Starting)
}

/// Repeats an attempt that changes nothing, whatever became of it, while the leader moves; for at most `limit`.
pub(crate) async fn while_moved<T, F>(limit: Duration, mut attempt: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let until = tokio::time::Instant::now() + limit;
    let mut backoff = Backoff::default();
    loop {
        match attempt().await {
            Err(failure) if lost(&failure) && tokio::time::Instant::now() < until => backoff.pause().await,
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_moves_is_waited_for_and_one_that_stays_away_is_not() {
        let not_leader = || Failure::new(Reason::NotLeader, "moved");
        let mut left = 3;
        let found = while_moved(PATIENCE, || {
            left -= 1;
            std::future::ready(if left > 0 { Err(not_leader()) } else { Ok(7) })
        });
        assert_eq!(found.await.unwrap(), 7);
        let never = while_moved(PATIENCE, || std::future::ready(Err::<(), _>(not_leader()))).await;
        assert_eq!(never.unwrap_err().reason(), Reason::NotLeader);
        let damaged = || Failure::new(Reason::LogCorrupt, "damaged");
        let mut attempts = 0;
        let refused = while_moved(PATIENCE, || {
            attempts += 1;
            std::future::ready(Err::<(), _>(damaged()))
        });
        assert!(refused.await.is_err());
        assert_eq!(attempts, 1, "waiting does not help");
    }
}
