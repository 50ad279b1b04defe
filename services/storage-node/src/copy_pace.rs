//! Copies of whole logs take about a fifth of a node that has other work.
//!
//! What a copy costs is measured by the time that a piece takes on its way: from the beginning of the read until the
//! connection has taken nearly all of it. While records are written, four times that passes before the next piece of any
//! copy is read. A node without writers copies as fast as it can.
//!
//! What is pushed to a follower that catches up is not paced: it would never reach the end of a log that is written faster.
//! Nor is a copy of a log whose beginning is deleted meanwhile, or was before the last one had read it: it would begin anew
//! for ever.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_model::{Clock, TopicPartition};

use crate::metrics::StorageMetrics;

/// Time that is left to others, for each time that a copy takes.
const OTHERS: u32 = 4;
/// Most time between two pieces: a piece that takes long waits for the follower or the network, not for this node.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// The pace of all copies that a node serves. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct CopyPace {
    clock: Arc<dyn Clock>,
    metrics: StorageMetrics,
    /// Monotonic time at which the next piece may be read.
    next: Arc<Mutex<Duration>>,
    /// Partitions whose last copy has lost what it was about to read to retention. As many as this node leads at most.
    overtaken: Arc<Mutex<HashSet<TopicPartition>>>,
}

/// A piece on its way.
#[derive(Debug)]
pub(crate) struct Piece {
    begun: Duration,
    written_bytes: u64,
    /// It has not waited, and nobody waits for it.
    hurried: bool,
}

// === impl CopyPace ===

impl CopyPace {
    pub(crate) fn new(clock: Arc<dyn Clock>, metrics: StorageMetrics) -> Self {
        Self { clock, metrics, next: Arc::default(), overtaken: Arc::default() }
    }

    /// Whether the last copy of this log was too slow for retention.
    pub(crate) fn was_overtaken(&self, partition: TopicPartition) -> bool {
        self.overtaken.lock().contains(&partition)
    }

    /// Takes note of how a copy has ended.
    pub(crate) fn ended(&self, partition: TopicPartition, overtaken: bool) {
        let mut all = self.overtaken.lock();
        if overtaken {
            all.insert(partition);
        } else {
            all.remove(&partition);
        }
    }

    /// A piece that is read at once.
    pub(crate) fn hurry(&self) -> Piece {
        self.piece(true)
    }

    fn piece(&self, hurried: bool) -> Piece {
        Piece { begun: self.clock.monotonic(), written_bytes: self.metrics.written_bytes(), hurried }
    }

    /// Waits until a piece may be read.
    pub(crate) async fn begin(&self) -> Piece {
        loop {
            let (now, next) = (self.clock.monotonic(), *self.next.lock());
            if now >= next {
                return self.piece(false);
            }
            tokio::time::sleep(next - now).await;
        }
    }

    /// A piece has left: others have their time now. Behind one that has not waited nobody waits either: pieces that do not
    /// wait for each other's pauses would add them up without a bound.
    pub(crate) fn end(&self, piece: &Piece) {
        if piece.hurried {
            return;
        }
        let now = self.clock.monotonic();
        let written = self.metrics.written_bytes() != piece.written_bytes;
        let mut next = self.next.lock();
        *next = (*next).max(now) + pause(now.saturating_sub(piece.begun), written);
    }
}

/// Time until the next piece, after one that took `took`. `written`: records were written meanwhile.
fn pause(took: Duration, written: bool) -> Duration {
    if written { (took * OTHERS).min(PAUSE_MAX) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_have_four_fifths_of_the_time_while_they_write() {
        let millis = Duration::from_millis;
        assert_eq!(pause(millis(3), true), millis(12));
        assert_eq!(pause(millis(3), false), Duration::ZERO);
        assert_eq!(pause(millis(400), true), PAUSE_MAX, "a slow follower is not made slower still");
    }

    #[test]
    fn pieces_that_do_not_wait_hold_up_nobody() {
        let metrics = StorageMetrics::new(&walser_service::Metrics::default());
        let pace = CopyPace::new(Arc::new(walser_model::SystemClock::start()), metrics.clone());
        let (hurried, paced) = (pace.hurry(), pace.piece(false));
        metrics.replicated(1);
        for _ in 0..1_000 {
            pace.end(&hurried);
        }
        assert_eq!(*pace.next.lock(), Duration::ZERO);
        pace.end(&paced);
        assert!(*pace.next.lock() > Duration::ZERO, "records were written while it left");
    }

    #[test]
    fn a_log_whose_copy_was_overtaken_is_copied_without_a_pace_until_that_has_ended() {
        let metrics = StorageMetrics::new(&walser_service::Metrics::default());
        let pace = CopyPace::new(Arc::new(walser_model::SystemClock::start()), metrics);
        let topic = walser_model::TopicId::from_bytes([7; 16]);
        let partition = |number| TopicPartition { topic, partition: walser_model::PartitionIndex(number) };
        pace.ended(partition(0), true);
        assert!(pace.was_overtaken(partition(0)) && !pace.was_overtaken(partition(1)));
        pace.ended(partition(0), false);
        assert!(!pace.was_overtaken(partition(0)));
    }
}
