//! Stopping: first a drain within a grace period, then the end.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Tells every part of a process that it is to stop. Clones share the decision.
#[derive(Debug, Clone)]
pub struct Shutdown {
    token: CancellationToken,
    /// Somebody has asked for the stop.
    asked: CancellationToken,
    /// How long a stop that was asked for may be put off.
    put_off: Arc<OnceLock<Duration>>,
    grace: Duration,
    failure: Arc<OnceLock<String>>,
}

impl Shutdown {
    /// Not yet; once begun, parts have `grace` to finish what they are doing.
    pub fn new(grace: Duration) -> Self {
        let (token, asked) = (CancellationToken::new(), CancellationToken::new());
        Self { token, asked, put_off: Arc::default(), grace, failure: Arc::default() }
    }

    /// Begins the stop of the process.
    pub fn begin(&self) {
        self.asked.cancel();
        self.token.cancel();
    }

    /// Asks for the stop: it begins at once, or where that [is put off](Self::put_off), when the part that has done so begins
    /// it, at the latest after its time. Needs a runtime.
    pub fn ask(&self) {
        self.asked.cancel();
        let Some(limit) = self.put_off.get().copied() else { return self.begin() };
        let shutdown = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(limit) => shutdown.begin(),
                () = shutdown.wait() => {}
            }
        });
    }

    /// Has a stop that is asked for begin later, at most `limit` after that: this part has something to do first, and
    /// begins it then.
    pub fn put_off(&self, limit: Duration) {
        // The first one counts.
        let _ = self.put_off.set(limit);
    }

    /// Whether somebody has asked for the stop, or it has begun.
    pub fn is_asked(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// Waits until somebody asks for the stop, or it begins.
    pub async fn asked(&self) {
        self.asked.cancelled().await;
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
