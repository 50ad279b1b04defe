//! Stopping: first a drain within a grace period, then the end.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::vital;

/// Tells every part of a process that it is to stop. Clones share the decision.
#[derive(Debug, Clone)]
pub struct Shutdown {
    token: CancellationToken,
    grace: Duration,
}

impl Shutdown {
    /// Not yet; once begun, parts have `grace` to finish what they are doing.
    pub fn new(grace: Duration) -> Self {
        Self { token: CancellationToken::new(), grace }
    }

    /// Begins the stop.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether the stop has begun.
    pub fn begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the stop begins.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// Time to finish.
    pub fn grace(&self) -> Duration {
        self.grace
    }
}

/// Begins the stop at the first SIGINT or SIGTERM; the second ends the process at once with exit code 130.
///
/// # Errors
/// When the process cannot listen for signals.
pub fn signals(shutdown: Shutdown) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let parts = shutdown.clone();
    let _listening = vital::task("signals", &parts, async move {
        for round in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if round > 0 {
                std::process::exit(130);
            }
            shutdown.begin();
        }
    });
    Ok(())
}
