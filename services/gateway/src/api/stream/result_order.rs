//! Results of one partition leave a stream in the order in which their batches came.
//!
//! A batch that is refused here, before it reaches the leader, is answered at once; without an order its result would
//! overtake those of earlier batches that are still under way. A batch enters its queue when it is read, and leaves it
//! when it is answered and everything before it has left.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

/// Batches that keep an order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Those that name a partition of a topic.
    Partition(String, i32),
    /// A batch that is spread over partitions keeps no order with others.
    Own(i64),
}

/// What is done with an outcome once it is its turn; it MUST NOT block.
type Tell<T> = Box<dyn FnOnce(T) + Send>;

/// A batch in its lane.
struct Entry<T> {
    ticket: i64,
    outcome: Option<T>,
    tell: Tell<T>,
}

/// The lanes of one stream: as many entries as it has unanswered batches. Clones share them.
pub(super) struct ResultOrder<T> {
    entries: Arc<Mutex<HashMap<Lane, VecDeque<Entry<T>>>>>,
}

impl<T> Default for ResultOrder<T> {
    fn default() -> Self {
        Self { entries: Arc::default() }
    }
}

impl<T> Clone for ResultOrder<T> {
    fn clone(&self) -> Self {
        Self { entries: Arc::clone(&self.entries) }
    }
}

impl<T> ResultOrder<T> {
    /// A batch comes in. Tickets increase.
    pub(super) fn enter(&self, lane: Lane, ticket: i64, tell: Tell<T>) {
        self.entries.lock().entry(lane).or_default().push_back(Entry { ticket, outcome: None, tell });
    }

    /// A batch is answered: everything whose turn it is now is told, in order. A second answer changes nothing.
    pub(super) fn leave(&self, lane: &Lane, ticket: i64, outcome: T) {
        // Told under the lock: two threads that answer at once must not overtake each other.
        let mut entries = self.entries.lock();
        let Some(waiting) = entries.get_mut(lane) else { return };
        if let Ok(found) = waiting.binary_search_by_key(&ticket, |entry| entry.ticket) {
            waiting[found].outcome.get_or_insert(outcome);
        }
        while let Some(mut entry) = waiting.pop_front() {
            match entry.outcome.take() {
                Some(outcome) => (entry.tell)(outcome),
                None => {
                    waiting.push_front(entry);
                    break;
                }
            }
        }
        if waiting.is_empty() {
            entries.remove(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lane_keeps_its_order_and_holds_up_no_other() {
        let (order, told) = (ResultOrder::default(), Arc::new(Mutex::new(Vec::new())));
        let (a, b) = (Lane::Partition("t".to_owned(), 0), Lane::Own(3));
        for (lane, ticket) in [(&a, 1), (&a, 2), (&b, 3), (&a, 4)] {
            let told = Arc::clone(&told);
            order.enter(lane.clone(), ticket, Box::new(move |outcome| told.lock().push((ticket, outcome))));
        }
        order.leave(&a, 4, "refused");
        order.leave(&b, 3, "written");
        order.leave(&a, 1, "written");
        assert_eq!(*told.lock(), [(3, "written"), (1, "written")]);
        order.leave(&a, 1, "again");
        order.leave(&a, 2, "written");
        assert_eq!(told.lock()[2..], [(2, "written"), (4, "refused")]);
        assert!(order.entries.lock().is_empty());
    }
}
