//! The way out of a read: one message at a time, with the budget that it holds.
//!
//! A message that waits for the client keeps its part of the budget. When other readers wait for budget and a client
//! has taken nothing for [`STALL_MAX`], the message is replaced by the error that ends the stream, so that its memory
//! is free at once; the client reads on from its position when it opens the stream again.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use walser_rpc::{ApiError, SendGate};

use crate::reading::answer::ReadEvent;
use crate::reading::budget::{ReadPermit, STALL_MAX, StreamBudget, stalled};

/// Messages that wait for the client; the outlet replaces the only one.
const QUEUE: usize = 1;

/// A message, or the end of the stream with its reason.
pub(crate) type Item = Result<ReadEvent, ApiError>;

/// A message and the budget that it holds until it is taken.
type Slot = Arc<Mutex<Option<(Item, Option<ReadPermit>)>>>;

/// Where the driver of a read sends messages to.
#[derive(Debug)]
pub(super) struct Outlet {
    slots: mpsc::Sender<Slot>,
    last: Slot,
    budget: StreamBudget,
    gate: SendGate,
}

/// Ends a stream whose driver is gone.
#[derive(Debug)]
pub(super) struct Failing(mpsc::Sender<Slot>);

impl Failing {
    /// Sends the reason, once there is room for it.
    pub(super) async fn send(self, failure: ApiError) {
        let _ = self.0.send(Arc::new(Mutex::new(Some((Err(failure), None))))).await;
    }
}

/// An outlet, the messages as the client takes them, and the gate through which they leave.
pub(super) fn outlet(budget: StreamBudget) -> (Outlet, impl Stream<Item = Item> + Send + use<>, SendGate) {
    let (slots, taken) = mpsc::channel::<Slot>(QUEUE);
    let gate = budget.gate();
    let leaving = gate.clone();
    let messages = ReceiverStream::new(taken).filter_map(move |slot| {
        let (item, permit) = slot.lock().take()?;
        // The message is encoded next, and holds its budget until the connection has taken it.
        leaving.leaves(permit);
        Some(item)
    });
    (Outlet { slots, last: Slot::default(), budget, gate: gate.clone() }, messages, gate)
}

// === impl Outlet ===

impl Outlet {
    /// Returns once the client is gone.
    pub(super) async fn closed(&self) {
        self.slots.closed().await;
    }

    /// For the case that the driver panics.
    pub(super) fn failing(&self) -> Failing {
        Failing(self.slots.clone())
    }

    /// Sends a message once there is room for it. False: the stream is over.
    pub(super) async fn send(&mut self, item: Item, permit: Option<ReadPermit>) -> bool {
        let room = loop {
            match tokio::time::timeout(STALL_MAX, self.slots.reserve()).await {
                Ok(room) => break room,
                Err(_elapsed) if self.budget.is_contended() && self.gate.is_stalled(STALL_MAX) => {
                    self.cut();
                    return false;
                }
                Err(_elapsed) => {}
            }
        };
        let Ok(room) = room else { return false };
        self.last = Arc::new(Mutex::new(Some((item, permit))));
        room.send(Arc::clone(&self.last));
        true
    }

    /// Replaces the message that the client does not take by the end of the stream.
    fn cut(&self) {
        if let Some(waiting) = self.last.lock().as_mut() {
            *waiting = (Err(stalled()), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use walser_rpc::Reason;

    use super::*;
    use crate::reading::budget::ReadBudget;

    fn message() -> Item {
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
        let told: Vec<Item> = messages.collect().await;
        assert_eq!(told.len(), 1);
        let failure = told.into_iter().next().unwrap().unwrap_err();
        assert_eq!(failure.reason(), Reason::GatewayOverloaded);
    }
}
