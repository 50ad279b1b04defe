//! Whether streams close one by one, as clients want, or many at once, as networks and proxies do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use walser_group::DetachGrace;

/// Closings within this time count together.
const TOGETHER: Duration = Duration::from_secs(1);
/// How long a closing waits for others. What is left of the grace of a member is longer.
const WAIT: Duration = Duration::from_millis(250);
/// Fewer closings are those of clients, whatever part of all they are.
const MANY_MIN: usize = 10;

/// The streams of members that are open, and those that have closed a moment ago. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Closings(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    open: usize,
    closed: VecDeque<Instant>,
}

/// A stream that is open.
#[derive(Debug)]
pub(super) struct OpenStream(Closings);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.lock().open -= 1;
    }
}

impl Closings {
    /// Counts a stream in.
    pub(super) fn open(&self) -> OpenStream {
        self.0.lock().open += 1;
        OpenStream(self.clone())
    }
}

// === impl OpenStream ===

impl OpenStream {
    /// Its client has gone without a word. How long its member may stay away: a gateway that loses at least ten streams, and
    /// more than half of those that it had, within a second, has not lost them by the will of clients.
    pub(super) async fn closed(self) -> DetachGrace {
        let (at, streams) = (Instant::now(), self.0.clone());
        drop(self);
        streams.0.lock().closed.push_back(at);
        tokio::time::sleep(WAIT).await;
        let mut counted = streams.0.lock();
        while counted.closed.front().is_some_and(|closed| closed.elapsed() > TOGETHER + WAIT) {
            counted.closed.pop_front();
        }
        let together = counted.closed.iter().filter(|closed| **closed + TOGETHER >= at).count();
        let many = together >= MANY_MIN && together > counted.open;
        if many { DetachGrace::Session } else { DetachGrace::Brief }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn closed(closings: &Closings, open: usize, closed: usize) -> Vec<DetachGrace> {
        let kept: Vec<_> = (0..open).map(|_| closings.open()).collect();
        let closing: Vec<_> = (0..closed).map(|_| closings.open()).collect();
        let graces = futures::future::join_all(closing.into_iter().map(OpenStream::closed)).await;
        drop(kept);
        graces
    }

    #[tokio::test(start_paused = true)]
    async fn many_streams_that_close_at_once_leave_their_members_the_session() {
        let closings = Closings::default();
        assert_eq!(closed(&closings, 0, 1).await, [DetachGrace::Brief], "the only one is one");
        tokio::time::advance(2 * TOGETHER).await;
        assert_eq!(closed(&closings, 10, 9).await, [DetachGrace::Brief; 9]);
        tokio::time::advance(2 * TOGETHER).await;
        assert_eq!(closed(&closings, 10, 10).await, [DetachGrace::Brief; 10], "half is not more than half");
        tokio::time::advance(2 * TOGETHER).await;
        assert_eq!(closed(&closings, 9, 10).await, [DetachGrace::Session; 10]);
        tokio::time::advance(2 * TOGETHER).await;
        assert_eq!(closed(&closings, 0, 1).await, [DetachGrace::Brief], "those of before are forgotten");
    }
}
