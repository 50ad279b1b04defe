//! The background tasks of a service: each is vital, each is waited for when the service stops.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::shutdown::Shutdown;
use crate::vital;

/// How long a drain waits for a task that ends by itself.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// The tasks of a service. A task that panics, or ends before the stop, ends the process: see [`vital`].
#[derive(Debug)]
pub struct Tasks {
    shutdown: Shutdown,
    ending: Vec<(&'static str, JoinHandle<()>)>,
    endless: Vec<JoinHandle<()>>,
}

impl Tasks {
    /// No tasks yet; `shutdown` tells when they may end.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, ending: Vec::new(), endless: Vec::new() }
    }

    /// Starts a task that ends by itself once the stop has begun.
    pub fn start(&mut self, name: &'static str, body: impl Future<Output = ()> + Send + 'static) {
        self.ending.push((name, vital::task(name, &self.shutdown, body)));
    }

    /// Starts a task that may end at any time, and whose panic ends the process.
    pub fn start_short(&mut self, name: &'static str, body: impl Future<Output = ()> + Send + 'static) {
        self.endless.push(tokio::spawn(vital::must_not_panic(name, body)));
    }

    /// Starts a task that never ends by itself: [`Tasks::drain`] cuts it off between two of its steps.
    pub fn start_endless(&mut self, name: &'static str, body: impl Future<Output = ()> + Send + 'static) {
        self.endless.push(vital::task(name, &self.shutdown, body));
    }

    /// Waits for the tasks that end by themselves, each for at most 60 s, then ends the others. To be called
    /// once the stop has begun and no call needs the tasks any more.
    pub async fn drain(self) {
        for (name, task) in self.ending {
            if tokio::time::timeout(DRAIN_LIMIT, task).await.is_err() {
                tracing::warn!(task = name, "a task did not end with the service");
            }
        }
        for task in self.endless {
            task.abort();
            // Cut off, or over: either is what is wanted.
            let _ = task.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_what_ends_and_ends_the_rest() {
        let shutdown = Shutdown::new(Duration::ZERO);
        let mut tasks = Tasks::new(shutdown.clone());
        let held = Arc::new(());
        let (stop, keeps) = (shutdown.clone(), Arc::clone(&held));
        tasks.start("ending", async move {
            stop.wait().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(keeps);
        });
        let keeps = Arc::clone(&held);
        tasks.start_endless("endless", async move {
            let _keeps = keeps;
            std::future::pending().await
        });
        tasks.start_short("short", async {});
        shutdown.begin();
        let begun = tokio::time::Instant::now();
        tasks.drain().await;
        assert_eq!((begun.elapsed(), Arc::strong_count(&held)), (Duration::from_secs(5), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_does_not_wait_for_ever() {
        let shutdown = Shutdown::new(Duration::ZERO);
        let mut tasks = Tasks::new(shutdown.clone());
        tasks.start("stuck", std::future::pending());
        shutdown.begin();
        let begun = tokio::time::Instant::now();
        tasks.drain().await;
        assert_eq!(begun.elapsed(), DRAIN_LIMIT);
    }
}
