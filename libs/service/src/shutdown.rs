//! Stopping: first a drain within a grace period, then the end.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Tells every part of a process that it is to stop. Clones share the decision.
#[derive(Debug, Clone)]
pub struct Shutdown {
    token: CancellationToken,
    grace: Duration,
    failure: Arc<OnceLock<String>>,
}

impl Shutdown {
    /// Not yet; once begun, parts have `grace` to finish what they are doing.
    pub fn new(grace: Duration) -> Self {
        Self { token: CancellationToken::new(), grace, failure: Arc::default() }
    }

    /// Begins the stop of the process.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Begins the stop because the process cannot go on: it ends with an error, so that a supervisor starts it again.
    pub fn begin_failed(&self, why: impl Into<String>) {
        // The first reason counts.
        let _ = self.failure.set(why.into());
        self.begin();
    }

    /// Why the process cannot go on; `None` while it can, and when it was told to stop.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Whether the stop has begun.
    pub fn begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the stop begins.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// Returns how long running calls may take to finish.
    pub fn grace(&self) -> Duration {
        self.grace
    }
}
