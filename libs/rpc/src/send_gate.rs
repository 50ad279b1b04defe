//! The gate between the messages of an answer and its connection.
//!
//! HTTP/2 takes a whole message as soon as the client's window has room for one byte of it, and keeps the rest for a
//! client that reads no further. So a large message is handed over in small parts, and what has not been handed over
//! stays here: it can be counted, and taken back from a client that takes nothing while others wait for the memory.

use std::any::Any;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::api_error::ApiError;

/// Bytes that are handed to the connection at once.
const PART_BYTES: usize = 256 << 10;
/// Parts of larger messages are copied: a part that the connection keeps would keep all of its message.
const SHARED_BYTES_MAX: usize = 2 << 20;

/// The gate of one answer, put into its extensions. Clones share it.
#[derive(Clone)]
pub struct SendGate(Arc<Mutex<Waiting>>);

/// A gate that does not keep its answer alive.
#[derive(Debug, Clone)]
pub struct WeakGate(Weak<Mutex<Waiting>>);

struct Waiting {
    /// Of the message that is being sent.
    rest: Bytes,
    /// A message has been handed over, in part or whole.
    sending: bool,
    /// Its parts have memory of their own.
    copied: bool,
    /// What the message that is being sent uses.
    held: Option<Box<dyn Any + Send>>,
    /// Why the answer ends, instead of what comes.
    cut: Option<ApiError>,
    /// When the connection has taken something last.
    taken_at: Instant,
}

/// What the connection gets next.
pub(crate) enum Next {
    Part(Bytes),
    /// The answer ends here.
    End(ApiError),
    /// A message comes next.
    Message,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("rest", &self.rest.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SendGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.lock().fmt(f)
    }
}

impl Default for SendGate {
    fn default() -> Self {
        let waiting = Waiting {
            rest: Bytes::new(),
            sending: false,
            copied: false,
            held: None,
            cut: None,
            taken_at: Instant::now(),
        };
        Self(Arc::new(Mutex::new(waiting)))
    }
}

// === impl SendGate ===

impl SendGate {
    /// A message leaves for the connection now; `held` is what it uses, until the connection has taken it or the answer is
    /// over. What the message before has used is free.
    pub fn leaves(&self, held: impl Any + Send) {
        let before = self.0.lock().held.replace(Box::new(held));
        drop(before);
    }

    /// For a list of the answers that are under way.
    pub fn downgrade(&self) -> WeakGate {
        WeakGate(Arc::downgrade(&self.0))
    }

    /// Whether a message was handed over, and the connection has not asked for the next one.
    pub fn is_sending(&self) -> bool {
        self.0.lock().sending
    }

    /// Whether the connection has taken nothing for `limit`.
    pub fn is_stalled(&self, limit: Duration) -> bool {
        self.0.lock().taken_at.elapsed() >= limit
    }

    pub(crate) fn next(&self) -> Next {
        let mut waiting = self.0.lock();
        waiting.taken_at = Instant::now();
        if let Some(failure) = waiting.cut.clone() {
            return Next::End(failure);
        }
        if !waiting.rest.is_empty() {
            return Next::Part(waiting.part());
        }
        // The connection has room again: what it was given before is gone, or as good as that.
        let taken = std::mem::take(&mut waiting.sending).then(|| waiting.held.take());
        drop(waiting);
        drop(taken);
        Next::Message
    }

    /// The first part of a message.
    pub(crate) fn message(&self, message: Bytes) -> Bytes {
        let mut waiting = self.0.lock();
        waiting.copied = message.len() > SHARED_BYTES_MAX;
        (waiting.rest, waiting.sending) = (message, true);
        waiting.part()
    }
}

impl Waiting {
    /// The next part of the message.
    fn part(&mut self) -> Bytes {
        let part = self.rest.split_to(self.rest.len().min(PART_BYTES));
        if self.copied { Bytes::copy_from_slice(&part) } else { part }
    }
}

// === impl WeakGate ===

impl WeakGate {
    /// Whether the answer is under way.
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Takes back what waits for a client that has taken nothing for `limit`: its memory is free at once, and the answer
    /// ends with `failure`. False: the client takes what it gets, or there is nothing to take back.
    pub fn cut_if_stalled(&self, limit: Duration, failure: &ApiError) -> bool {
        let Some(gate) = self.0.upgrade() else { return false };
        let mut waiting = gate.lock();
        // What the connection has not asked for is not here, and would not be free.
        if !waiting.sending || waiting.held.is_none() || waiting.taken_at.elapsed() < limit {
            return false;
        }
        waiting.cut.get_or_insert_with(|| failure.clone());
        let freed = (std::mem::take(&mut waiting.rest), waiting.held.take());
        drop(waiting);
        drop(freed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;

    fn failure() -> ApiError {
        ApiError::new(Reason::GatewayOverloaded, "took nothing")
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_handed_over_in_parts_and_holds_what_it_uses_until_the_next() {
        let (gate, used) = (SendGate::default(), Arc::new(()));
        gate.leaves(Arc::clone(&used));
        assert!(matches!(gate.next(), Next::Message));
        let message = Bytes::from(vec![7; PART_BYTES + 5]);
        assert_eq!(gate.message(message).len(), PART_BYTES);
        assert_eq!(Arc::strong_count(&used), 2);
        assert!(matches!(gate.next(), Next::Part(part) if part.len() == 5));
        assert_eq!(Arc::strong_count(&used), 2, "the connection may not have taken the last part");
        assert!(matches!(gate.next(), Next::Message));
        assert_eq!(Arc::strong_count(&used), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_does_not_keep_a_large_message_in_memory() {
        let gate = SendGate::default();
        let message = Bytes::from(vec![7; SHARED_BYTES_MAX + 1]);
        let first = gate.message(message.clone());
        assert_ne!(first.as_ptr(), message.as_ptr());
        let small = message.slice(1..);
        assert_eq!(gate.message(small.clone()).as_ptr(), small.as_ptr(), "it is shared, not copied");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_does_not_take_is_taken_back() {
        let (gate, used, limit) = (SendGate::default(), Arc::new(()), Duration::from_secs(10));
        gate.leaves(Arc::clone(&used));
        let _part = gate.message(Bytes::from(vec![7; 3 * PART_BYTES]));
        tokio::time::advance(limit / 2).await;
        assert!(!gate.downgrade().cut_if_stalled(limit, &failure()), "it may be slow");
        let _part = gate.next();
        tokio::time::advance(limit / 2).await;
        assert!(!gate.downgrade().cut_if_stalled(limit, &failure()), "it has taken something");
        tokio::time::advance(limit / 2).await;
        assert!(gate.downgrade().cut_if_stalled(limit, &failure()));
        assert_eq!(Arc::strong_count(&used), 1);
        assert!(matches!(gate.next(), Next::End(why) if why.reason() == Reason::GatewayOverloaded));
        let weak = gate.downgrade();
        drop(gate);
        assert!(!weak.is_alive() && !weak.cut_if_stalled(limit, &failure()));
    }
}
