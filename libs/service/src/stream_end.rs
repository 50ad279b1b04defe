//! When a stream has to end although nothing is wrong: its process stops, or its connection has reached its age.

use std::time::Duration;

use tokio::time::Instant;

use crate::shutdown::Shutdown;
use crate::socket::Opened;

/// When a stream has to end, so that its client opens it again elsewhere.
#[derive(Debug, Clone)]
pub struct StreamEnd {
    shutdown: Shutdown,
    age_reached: Option<Instant>,
}

impl StreamEnd {
    /// Of a call with these extensions: a call within the process has no connection, and ends with the process only.
    pub fn of(extensions: &http::Extensions, shutdown: Shutdown) -> Self {
        Self { shutdown, age_reached: extensions.get::<Opened>().and_then(|opened| opened.age_reached) }
    }

    /// When its connection has reached its age, if it ever does.
    pub fn age_reached(&self) -> Option<Instant> {
        self.age_reached
    }

    /// Whether it is to end now.
    pub fn begun(&self) -> bool {
        self.shutdown.begun() || self.age_reached.is_some_and(|at| at <= Instant::now())
    }

    /// Waits until it is to end.
    pub async fn wait(&self) {
        let aged = async {
            match self.age_reached {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shutdown.wait() => {}
            () = aged => {}
        }
    }

    /// Waits until the process stops, which does not look at the age.
    pub async fn stop(&self) {
        self.shutdown.wait().await;
    }

    /// How long what is under way may take to finish.
    pub fn grace(&self) -> Duration {
        self.shutdown.grace()
    }
}
