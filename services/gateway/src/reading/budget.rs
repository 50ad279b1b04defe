//! Memory for what is read and not sent yet: one budget for the process, and a much smaller one for each stream.
//!
//! Budget is taken before a chunk is read and decoded, by an upper estimate of what that costs; the rest is returned
//! as soon as the cost is known, and the chunk's part when the connection has taken the message. Who waits for
//! records holds nothing, and who holds something never waits for more: so there is no deadlock, however many readers
//! share the budget. A stream takes from its own budget first, so that one that stalls cannot take everything; and what
//! clients have not taken for [`STALL_MAX`] is taken back while others wait.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use walser_rpc::{ApiError, Reason, SendGate, WeakGate};

use crate::within::within;

/// What one stream may hold, in bytes, unless a single chunk costs more.
const STREAM_BYTES: usize = 8 << 20;

/// Budgets count in units of this many bytes.
const UNIT_BYTES: usize = 1024;

/// The budget of the process. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ReadBudget {
    units: Arc<Semaphore>,
    total: usize,
    waiting: Arc<AtomicUsize>,
    /// Answers under way, and when the list is looked through for those that are over.
    answers: Arc<Mutex<Answers>>,
}

#[derive(Debug, Default)]
struct Answers {
    gates: Vec<WeakGate>,
    sweep_at: usize,
}

/// How long a client may take nothing while other readers wait for budget.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(10);
/// Shorter lists of answers are not looked through.
const SWEEP_MIN: usize = 64;

/// The end of an answer whose client takes nothing.
pub(crate) fn stalled() -> ApiError {
    let text = "the client took nothing for 10 s while other readers wait for memory; read on from its position";
    ApiError::new(Reason::GatewayOverloaded, text)
}

/// The budget of one stream, within that of the process. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct StreamBudget {
    process: ReadBudget,
    own: Arc<Semaphore>,
}

/// A part of the budgets, returned when it is dropped.
#[derive(Debug)]
pub(crate) struct ReadPermit {
    process: OwnedSemaphorePermit,
    own: Option<OwnedSemaphorePermit>,
}

/// Counts one that waits for the process's budget, for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `bytes` in units, at least one and at most `total`: what is larger than the budget takes all of it.
fn units(bytes: usize, total: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES).clamp(1, total)).unwrap_or(u32::MAX)
}

async fn acquire(budget: &Arc<Semaphore>, units: u32) -> OwnedSemaphorePermit {
    Arc::clone(budget).acquire_many_owned(units).await.expect("a budget is never closed")
}

/// Returns what is held above `bytes`.
fn shrink(permit: &mut OwnedSemaphorePermit, bytes: usize) {
    let kept = units(bytes, Semaphore::MAX_PERMITS);
    let surplus = permit.num_permits().saturating_sub(usize::try_from(kept).unwrap_or(usize::MAX));
    drop(permit.split(surplus));
}

// === impl ReadBudget ===

impl ReadBudget {
    /// A budget of `bytes`.
    pub(crate) fn new(bytes: usize) -> Self {
        let most = usize::try_from(u32::MAX).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let total = (bytes / UNIT_BYTES).clamp(1, most);
        Self { units: Arc::new(Semaphore::new(total)), total, waiting: Arc::default(), answers: Arc::default() }
    }

    /// Takes `bytes` for a call that is no stream. Waits until others have returned enough, first come, first served.
    pub(crate) async fn take(&self, bytes: usize) -> ReadPermit {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let mut process = pin!(acquire(&self.units, units(bytes, self.total)));
        loop {
            // Its turn stays its turn.
            match within(STALL_MAX, process.as_mut()).await {
                Ok(process) => return ReadPermit { process, own: None },
                Err(_elapsed) => self.take_back(),
            }
        }
    }

    /// The gate of an answer whose messages hold budget until the connection has taken them.
    pub(crate) fn gate(&self) -> SendGate {
        let gate = SendGate::default();
        let mut answers = self.answers.lock();
        if answers.gates.len() >= answers.sweep_at {
            answers.gates.retain(WeakGate::is_alive);
            answers.sweep_at = (2 * answers.gates.len()).max(SWEEP_MIN);
        }
        answers.gates.push(gate.downgrade());
        gate
    }

    /// Takes back what waits for clients that take nothing.
    fn take_back(&self) {
        let gates = self.answers.lock().gates.clone();
        let cut = gates.iter().filter(|gate| gate.cut_if_stalled(STALL_MAX, &stalled())).count();
        if cut > 0 {
            tracing::info!(streams = cut, "readers that take nothing are cut off: others wait for their memory");
        }
    }

    /// Whether a reader waits for budget at this moment.
    pub(crate) fn is_contended(&self) -> bool {
        self.waiting() > 0
    }

    /// Bytes that are taken, in whole units.
    pub(crate) fn used_bytes(&self) -> usize {
        self.total.saturating_sub(self.units.available_permits()) * UNIT_BYTES
    }

    /// All of it, in bytes.
    pub(crate) fn limit_bytes(&self) -> usize {
        self.total * UNIT_BYTES
    }

    /// Readers that wait for budget at this moment.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A budget for one stream.
    pub(crate) fn stream(&self) -> StreamBudget {
        StreamBudget { process: self.clone(), own: Arc::new(Semaphore::new(STREAM_BYTES / UNIT_BYTES)) }
    }

    /// Bytes that are not taken.
    #[cfg(test)]
    fn available(&self) -> usize {
        self.units.available_permits() * UNIT_BYTES
    }
}

// === impl StreamBudget ===

impl StreamBudget {
    /// Takes `bytes`, of the stream first. A chunk larger than the stream's budget waits until nothing else is held.
    pub(crate) async fn take(&self, bytes: usize) -> ReadPermit {
        let own = acquire(&self.own, units(bytes, STREAM_BYTES / UNIT_BYTES)).await;
        let permit = self.process.take(bytes).await;
        ReadPermit { own: Some(own), ..permit }
    }

    /// The gate of the stream: see [`ReadBudget::gate`].
    pub(crate) fn gate(&self) -> SendGate {
        self.process.gate()
    }

    /// Whether any reader of the process waits for budget at this moment.
    pub(crate) fn is_contended(&self) -> bool {
        self.process.is_contended()
    }
}

// === impl ReadPermit ===

impl ReadPermit {
    /// Returns everything above `bytes`, which is what was really used.
    pub(crate) fn keep(&mut self, bytes: usize) {
        shrink(&mut self.process, bytes);
        if let Some(own) = &mut self.own {
            shrink(own, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_stream_that_stalls_leaves_most_of_the_budget_to_others() {
        let budget = ReadBudget::new(64 << 20);
        let (stalled, other) = (budget.stream(), budget.stream());
        let first = stalled.take(STREAM_BYTES / 2).await;
        let second = stalled.take(STREAM_BYTES / 2).await;
        assert!(stalled.take(1).now_or_never().is_none(), "its own budget is used up");
        assert!(!budget.is_contended(), "it waits for itself only");
        assert!(other.take(STREAM_BYTES).now_or_never().is_some());
        drop((first, second));
        assert_eq!(budget.available(), 64 << 20);
    }

    #[tokio::test]
    async fn what_is_not_used_is_returned_at_once() {
        let budget = ReadBudget::new(64 << 20);
        let stream = budget.stream();
        let mut permit = stream.take(4 << 20).await;
        permit.keep(1 << 20);
        assert_eq!(budget.available(), 63 << 20);
        permit.keep(2 << 20);
        assert_eq!(budget.available(), 63 << 20, "nothing is taken without waiting for it");
        assert!(stream.take(STREAM_BYTES - (1 << 20)).now_or_never().is_some());
    }

    #[tokio::test]
    async fn more_than_everything_takes_everything_and_is_served_in_turn() {
        let budget = ReadBudget::new(16 << 20);
        let small = budget.take(1 << 20).await;
        let large = budget.stream();
        let mut large = Box::pin(large.take(1 << 30));
        assert!((&mut large).now_or_never().is_none());
        assert!(budget.is_contended());
        assert!(budget.take(1).now_or_never().is_none(), "who comes later waits behind it");
        drop(small);
        let mut large = large.now_or_never().unwrap();
        assert!(!budget.is_contended());
        large.keep(0);
        assert!(budget.take(1 << 20).now_or_never().is_some());
    }

    #[tokio::test]
    async fn many_readers_that_wait_for_each_other_all_get_their_turn() {
        let budget = ReadBudget::new(16 << 20);
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let stream = budget.stream();
            readers.spawn(async move {
                for bytes in [4 << 20, 64 << 20, 1] {
                    let mut permit = stream.take(bytes).await;
                    tokio::task::yield_now().await;
                    permit.keep(bytes / 4);
                    tokio::task::yield_now().await;
                }
            });
        }
        while let Some(read) = readers.join_next().await {
            read.unwrap();
        }
        assert_eq!(budget.available(), 16 << 20);
    }
}
