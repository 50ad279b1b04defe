//! The way out of a stream of records: one message at a time, with the budget that it holds.
//!
//! A message that waits for the client keeps its part of the budget. When other readers wait for budget and a client
//! has taken nothing for [`STALL_MAX`], the message is replaced by the error that ends the stream, so that its memory
//! is free at once; the client reads on from its position when it opens the stream again.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use walser_rpc::{ApiError, SendGate};

use crate::reading::budget::{ReadPermit, STALL_MAX, StreamBudget, stalled};

/// Messages that wait for the client; the outlet replaces the only one.
const QUEUE: usize = 1;

/// A message, or the end of the stream with its reason.
pub(crate) type Item<T> = Result<T, ApiError>;

/// A message and the budget that it holds until it is taken.
type Slot<T> = Arc<Mutex<Option<(Item<T>, Option<ReadPermit>)>>>;

/// Where the driver of a stream sends messages to.
#[derive(Debug)]
pub(crate) struct Outlet<T> {
    slots: mpsc::Sender<Slot<T>>,
    last: Slot<T>,
    budget: StreamBudget,
    gate: SendGate,
    /// Since when there has been no room.
    full_since: Option<Instant>,
}

/// Ends a stream whose driver is gone.
#[derive(Debug)]
pub(crate) struct Failing<T>(mpsc::Sender<Slot<T>>);

/// There is room for one message.
pub(crate) struct Room<'a, T> {
    permit: mpsc::Permit<'a, Slot<T>>,
    last: &'a mut Slot<T>,
}

/// The stream is over: the client is gone, or was cut off.
#[derive(Debug)]
pub(crate) struct OutletClosed;

impl<T> Failing<T> {
    /// Sends the reason, once there is room for it.
    pub(crate) async fn send(self, failure: ApiError) {
        let _ = self.0.send(Arc::new(Mutex::new(Some((Err(failure), None))))).await;
    }
}

/// An outlet, the messages as the client takes them, and the gate through which they leave.
pub(crate) fn outlet<T: Send + 'static>(
    budget: StreamBudget,
) -> (Outlet<T>, impl Stream<Item = Item<T>> + Send + use<T>, SendGate) {
    let (slots, taken) = mpsc::channel::<Slot<T>>(QUEUE);
    let gate = budget.gate();
    let leaving = gate.clone();
    let messages = ReceiverStream::new(taken).filter_map(move |slot| {
        let (item, permit) = slot.lock().take()?;
        // The message is encoded next, and holds its budget until the connection has taken it.
        leaving.leaves(permit);
        Some(item)
    });
    let last = Arc::new(Mutex::new(None));
    (Outlet { slots, last, budget, gate: gate.clone(), full_since: None }, messages, gate)
}

// === impl Outlet ===

impl<T> Outlet<T> {
    /// Returns once the client is gone.
    pub(crate) async fn closed(&self) {
        self.slots.closed().await;
    }

    /// How many messages the connection has not taken, or not as a whole: the one that waits, and the one before.
    pub(crate) fn untaken(&self) -> u64 {
        u64::from(self.slots.capacity() < QUEUE) + u64::from(self.gate.is_sending())
    }

    /// Ends the stream with a reason in place of the message that waits.
    pub(crate) fn replace(&self, failure: ApiError) {
        if let Some(waiting) = self.last.lock().as_mut() {
            *waiting = (Err(failure), None);
        }
    }

    /// For the case that the driver panics.
    pub(crate) fn failing(&self) -> Failing<T> {
        Failing(self.slots.clone())
    }

    /// Waits for room for one message. Safe to cancel.
    ///
    /// # Errors
    /// The client is gone, or takes nothing while others wait for its memory.
    pub(crate) async fn room(&mut self) -> Result<Room<'_, T>, OutletClosed> {
        let permit = loop {
            let until = *self.full_since.get_or_insert_with(Instant::now) + STALL_MAX;
            match tokio::time::timeout_at(until, self.slots.reserve()).await {
                Ok(permit) => break permit,
                Err(_elapsed) if self.budget.is_contended() && self.gate.is_stalled(STALL_MAX) => {
                    self.replace(stalled());
                    return Err(OutletClosed);
                }
                Err(_elapsed) => self.full_since = None,
            }
        };
        self.full_since = None;
        Ok(Room { permit: permit.map_err(|_| OutletClosed)?, last: &mut self.last })
    }

    /// Sends a message once there is room for it. False: the stream is over.
    pub(crate) async fn send(&mut self, item: Item<T>, permit: Option<ReadPermit>) -> bool {
        self.room().await.map(|room| room.send(item, permit)).is_ok()
    }
}

// === impl Room ===

impl<T> Room<'_, T> {
    /// Sends a message, with the budget that it holds.
    pub(crate) fn send(self, item: Item<T>, permit: Option<ReadPermit>) {
        *self.last = Arc::new(Mutex::new(Some((item, permit))));
        self.permit.send(Arc::clone(self.last));
    }
}

#[cfg(test)]
mod tests {
    use walser_rpc::Reason;

    use super::*;
    use crate::reading::answer::ReadEvent;
    use crate::reading::budget::ReadBudget;

    fn message() -> Item<ReadEvent> {
        Ok(ReadEvent::Drain(STALL_MAX))
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_holds_its_budget_until_it_is_taken() {
        let budget = ReadBudget::new(1 << 20);
        let (mut outlet, messages, _gate) = outlet(budget.stream());
        let mut messages = std::pin::pin!(messages);
        let permit = budget.take(1 << 20).await;
        assert!(outlet.send(message(), Some(permit)).await);
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { drop(budget.take(1).await) }
        });
        tokio::task::yield_now().await;
        assert!(budget.is_contended());
        assert!(messages.next().await.unwrap().is_ok());
        tokio::task::yield_now().await;
        assert!(budget.is_contended(), "the connection may not have taken it");
        assert!(outlet.send(message(), None).await && messages.next().await.unwrap().is_ok());
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_gives_way_when_others_wait_and_only_then() {
        let budget = ReadBudget::new(1 << 20);
        let (mut outlet, messages, _gate) = outlet(budget.stream());
        let permit = budget.take(1 << 20).await;
        assert!(outlet.send(message(), Some(permit)).await);
        let patient = tokio::time::timeout(STALL_MAX * 20, outlet.send(message(), None)).await;
        assert!(patient.is_err(), "nobody waits: the stream stays");
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { drop(budget.take(1).await) }
        });
        assert!(!outlet.send(message(), None).await);
        waiting.await.unwrap();
        drop(outlet);
        let told: Vec<Item<ReadEvent>> = messages.collect().await;
        assert_eq!(told.len(), 1);
        let failure = told.into_iter().next().unwrap().unwrap_err();
        assert_eq!(failure.reason(), Reason::GatewayOverloaded);
    }
}
