//! Work that does not end: the disk hangs. It gives no error, so that nobody would hear of it.
//!
//! A node whose disk hangs steps back: it ends its sessions with the controllers, others lead what it has led, and it comes
//! back by itself when the work has ended. What hangs is found by looking at the workers every second: one that is at the
//! same work as often as the limit has seconds hangs. Time while this process is stopped does not count, nor does the time
//! of a machine that sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use walser_service::Shutdown;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the threads of an engine are at. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Stalls {
    /// Of each worker how often it has begun and ended something: odd while it is at work.
    workers: Arc<Mutex<Vec<Arc<AtomicU64>>>>,
    /// Seconds that the longest work under way has been seen.
    longest: Arc<AtomicU64>,
    /// Work that takes so long does not end.
    limit: Duration,
}

/// One thread. By default nobody looks at it: its work may take long.
#[derive(Debug, Default)]
pub(crate) struct Worker(Arc<AtomicU64>);

impl Worker {
    /// Does work that ends soon where the disk does not hang.
    pub(crate) fn at<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.fetch_add(1, Ordering::Relaxed);
        let outcome = work();
        self.0.fetch_add(1, Ordering::Relaxed);
        outcome
    }
}

impl Stalls {
    /// Nobody works yet.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { workers: Arc::default(), longest: Arc::default(), limit }
    }

    /// Another one that works.
    pub(crate) fn worker(&self) -> Worker {
        let worker = Worker::default();
        self.workers.lock().push(Arc::clone(&worker.0));
        worker
    }

    /// What is wrong with the disk, if it hangs.
    pub(crate) fn problem(&self) -> Option<String> {
        let seconds = self.seconds();
        let hangs = Duration::from_secs(seconds) >= self.limit;
        hangs.then(|| format!("it hangs: a write or sync has not ended for {seconds} s"))
    }

    /// Seconds that the longest work under way has taken so far.
    pub(crate) fn seconds(&self) -> u64 {
        self.longest.load(Ordering::Relaxed)
    }

    /// Looks every second until the stop.
    pub(crate) async fn watch(self, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen = Vec::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => self.look(&mut seen),
                () = shutdown.wait() => return,
            }
        }
    }

    /// `seen`: of each worker what it was at, and for how many looks.
    fn look(&self, seen: &mut Vec<(u64, u64)>) {
        let workers = self.workers.lock();
        seen.resize(workers.len(), (0, 0));
        for (worker, (last, looks)) in workers.iter().zip(seen.iter_mut()) {
            let now = worker.load(Ordering::Relaxed);
            *looks = if now % 2 == 1 && now == *last { *looks + 1 } else { 0 };
            *last = now;
        }
        let longest = seen.iter().map(|(_, looks)| *looks).max().unwrap_or(0);
        self.longest.store(longest, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_does_not_end_is_a_problem_until_it_ends() {
        let stalls = Stalls::new(Duration::from_secs(3));
        let (busy, hangs) = (stalls.worker(), stalls.worker());
        let mut seen = Vec::new();
        hangs.at(|| {
            for look in 0..10_u64 {
                busy.at(|| stalls.look(&mut seen));
                assert_eq!(stalls.problem().is_some(), look >= 3, "after {look} s");
            }
        });
        let later = stalls.worker();
        later.at(|| stalls.look(&mut seen));
        assert_eq!((stalls.problem(), stalls.seconds()), (None, 0));
    }
}
