//! Decisions that would overtake each other wait for their turn.
//!
//! A decision is taken on a view, and commits on the condition that nothing of it has changed. Of very many at once nearly
//! all would be decided again and again. Here they queue instead, in the order in which they were asked for, and those
//! about one name one after the other. The conditions stay: another controller process, or a decision of another kind, may still come between.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use walser_rpc::{ApiError, Reason};

/// Decisions of one kind that may wait, those that are being taken included.
pub(crate) const WAITING_MAX: usize = 10_000;

/// The queue of one kind of decisions. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    waiting: Arc<Semaphore>,
    deciding: Arc<Semaphore>,
    /// Names about which somebody decides or waits to; as many as there are waiting decisions.
    names: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// The right to decide; another one has it when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _deciding: OwnedSemaphorePermit,
    _name: Option<NameTurn>,
    _waiting: OwnedSemaphorePermit,
}

/// The right to decide about a name.
#[derive(Debug)]
struct NameTurn {
    name: String,
    names: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    queue: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

// === impl Turns ===

impl Turns {
    /// A queue from which `concurrent` decisions are taken at once.
    pub(crate) fn new(concurrent: usize) -> Self {
        let (waiting, deciding) = (Arc::new(Semaphore::new(WAITING_MAX)), Arc::new(Semaphore::new(concurrent)));
        Self { waiting, deciding, names: Arc::default() }
    }

    /// Waits for the turn, for as long as the caller does: dropping the future leaves the queue.
    ///
    /// # Errors
    /// `CONTROLLER_NOT_AVAILABLE` when [`WAITING_MAX`] decisions wait.
    pub(crate) async fn next(&self) -> Result<Turn, ApiError> {
        self.take(None).await
    }

    /// The same for a decision about a name: those about the same name are taken one after the other.
    pub(crate) async fn next_about(&self, name: &str) -> Result<Turn, ApiError> {
        self.take(Some(name)).await
    }

    async fn take(&self, name: Option<&str>) -> Result<Turn, ApiError> {
        let waiting = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| {
            let text =
                format!("{WAITING_MAX} changes are waiting at the controller; nothing was done, try again later");
            ApiError::new(Reason::ControllerNotAvailable, text).with("limit", WAITING_MAX)
        })?;
        let name = match name {
            Some(name) => Some(NameTurn::take(&self.names, name).await?),
            None => None,
        };
        // The semaphore is fair: those who wait get it in the order in which they came.
        let deciding = Arc::clone(&self.deciding).acquire_owned().await.map_err(closed)?;
        Ok(Turn { _deciding: deciding, _name: name, _waiting: waiting })
    }
}

fn closed(_: tokio::sync::AcquireError) -> ApiError {
    ApiError::internal("the queue of decisions is closed")
}

impl NameTurn {
    async fn take(names: &Arc<Mutex<HashMap<String, Arc<Semaphore>>>>, name: &str) -> Result<Self, ApiError> {
        let new = || Arc::new(Semaphore::new(1));
        let queue = Arc::clone(names.lock().entry(name.to_owned()).or_insert_with(new));
        // Made before it waits: whoever leaves the queue takes its name away.
        let mut turn = Self { name: name.to_owned(), names: Arc::clone(names), queue, permit: None };
        turn.permit = Some(Arc::clone(&turn.queue).acquire_owned().await.map_err(closed)?);
        Ok(turn)
    }
}

impl Drop for NameTurn {
    fn drop(&mut self) {
        let mut names = self.names.lock();
        self.permit = None;
        // The map's and this one: nobody else waits.
        if Arc::strong_count(&self.queue) == 2 {
            names.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_and_one_that_left_makes_room() {
        let turns = Turns::new(1);
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

    #[tokio::test]
    async fn decisions_about_one_name_wait_for_each_other_and_about_others_do_not() {
        let turns = Turns::new(8);
        let first = turns.next_about("a").await.unwrap();
        let mut second = Box::pin(turns.next_about("a"));
        let mut left = Box::pin(turns.next_about("a"));
        assert!(output_now(&mut second).await.is_none() && output_now(&mut left).await.is_none());
        let other = turns.next_about("b").await.unwrap();
        drop(left);
        drop(first);
        let second = output_now(&mut second).await.unwrap().unwrap();
        assert_eq!(turns.names.lock().len(), 2);
        drop((second, other));
        assert_eq!(turns.names.lock().len(), 0, "nothing is left of names that nobody decides about");
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
