//! The admin port: probes and metrics in plain HTTP, apart from the public port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::vital;

/// What the probes answer. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health {
    started: Arc<AtomicBool>,
    /// Why the process is not ready; empty when it is.
    problems: Arc<Mutex<Vec<String>>>,
}

impl Health {
    /// Start-up is over.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Replaces what keeps the process from being ready.
    pub fn set_problems(&self, problems: Vec<String>) {
        *self.problems.lock() = problems;
    }

    fn started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }
}

/// What is behind the port.
#[derive(Debug, Clone)]
struct Site {
    health: Health,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// Serves the port until the stop is over. Gives back the bound address.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    health: Health,
    metrics: Metrics,
    shutdown: Shutdown,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let stop = shutdown.clone();
    let routes = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/startupz", get(startup))
        .route("/readyz", get(ready))
        .route("/metrics", get(async |State(site): State<Site>| site.metrics.text()))
        .with_state(Site { health, metrics, shutdown });
    // The handle is dropped: the port answers until the process ends, and nothing waits for it.
    let _serving = vital::task("admin port", &stop, async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "admin port stopped");
        }
    });
    Ok(bound)
}

async fn startup(State(site): State<Site>) -> (StatusCode, &'static str) {
    if site.health.started() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "starting\n") }
}

async fn ready(State(site): State<Site>) -> (StatusCode, String) {
    if site.shutdown.begun() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
    }
    if !site.health.started() {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned());
    }
    let problems = site.health.problems.lock();
    if problems.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
    }
}
