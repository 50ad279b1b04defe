//! Decisions that would overtake each other are taken one after the other.
//!
//! A decision reads keys, and commits on the condition that none of them has changed. Creations of topics all count the
//! cluster's partitions, so of many at once each would be overtaken by another one, decided again, and in the end refused.
//! Here they queue instead, in the order in which they were asked for. The conditions stay: another controller process, or
//! a decision of another kind, may still come between.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use walser_rpc::{Failure, Reason};

/// Decisions of one kind that may wait, the one that is being taken included.
pub(crate) const WAITING_MAX: usize = 10_000;

/// The queue of one kind of decisions. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    waiting: Arc<Semaphore>,
    deciding: Arc<Mutex<()>>,
}

/// The right to decide; the next one has it when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _deciding: OwnedMutexGuard<()>,
    _waiting: OwnedSemaphorePermit,
}

// === impl Turns ===

impl Turns {
    /// Waits for the turn, for as long as the caller does: dropping the future leaves the queue.
    ///
    /// # Errors
    /// `CONTROLLER_NOT_AVAILABLE` when [`WAITING_MAX`] decisions wait.
    pub(crate) async fn next(&self) -> Result<Turn, Failure> {
        let waiting = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| {
            let text =
                format!("{WAITING_MAX} changes are waiting at the controller; nothing was done, try again later");
            Failure::new(Reason::ControllerNotAvailable, text).with("limit", WAITING_MAX)
        })?;
        // The lock is fair: those who wait get it in the order in which they came.
        Ok(Turn { _deciding: Arc::clone(&self.deciding).lock_owned().await, _waiting: waiting })
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self { waiting: Arc::new(Semaphore::new(WAITING_MAX)), deciding: Arc::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_and_one_that_left_makes_room() {
        let turns = Turns::default();
        let first = turns.next().await.unwrap();
        let mut waiting: Vec<_> = (1..WAITING_MAX).map(|_| Box::pin(turns.next())).collect();
        for next in &mut waiting {
            assert!(output_now(next).await.is_none());
        }
        let refused = turns.next().await.unwrap_err();
        assert_eq!(refused.reason(), Reason::ControllerNotAvailable);
        waiting.pop();
        let mut last = Box::pin(turns.next());
        assert!(output_now(&mut last).await.is_none());
        drop(first);
        assert!(output_now(&mut waiting[1]).await.is_none());
        assert!(output_now(&mut waiting[0]).await.is_some());
    }

    /// What a future gives without waiting.
    async fn output_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }
}
