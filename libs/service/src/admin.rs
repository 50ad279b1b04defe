//! The admin port: probes and metrics in plain HTTP, apart from the public port, and what only callers on this machine get.

mod local;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use self::local::AdminConnection;
use crate::metrics::Metrics;
use crate::settings::{Key, Kind, Settings};
use crate::shutdown::Shutdown;
use crate::telemetry::LogControl;
use crate::vital;

/// Whether other machines get what is for this one.
pub(crate) const REMOTE: Key = Key {
    name: "admin.remote",
    kind: Kind::Bool,
    default: "false",
    doc: "Let callers from other machines, too, read settings and recent log lines at the admin port, and change the log level.",
};

/// What the probes answer. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health {
    started: Arc<AtomicBool>,
    /// Why the process is not ready; empty when it is.
    problems: Arc<Mutex<Vec<String>>>,
    /// What an operator should look at, although the process is ready.
    notes: Arc<Mutex<Vec<String>>>,
}

impl Health {
    /// Notes that the start-up is over.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Replaces what keeps the process from being ready.
    pub fn set_problems(&self, problems: Vec<String>) {
        *self.problems.lock() = problems;
    }

    /// Replaces what is wrong without keeping the process from being ready: the probe shows it and answers 200.
    pub fn set_notes(&self, notes: Vec<String>) {
        *self.notes.lock() = notes;
    }

    fn started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }
}

/// In every answer: where the gRPC port is, for clients that take this one for it.
const GRPC_ADDRESS: HeaderName = HeaderName::from_static("walser-grpc-address");

/// What is behind the port.
#[derive(Debug, Clone)]
pub struct AdminSite {
    /// What the probes answer.
    pub health: Health,
    pub metrics: Metrics,
    /// When the process stops.
    pub shutdown: Shutdown,
    /// The gRPC port of the process.
    pub grpc: SocketAddr,
    pub settings: Settings,
    pub log: LogControl,
}

/// Serves the port until the stop is over. Returns the bound address.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, site: AdminSite) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let stop = site.shutdown.clone();
    let grpc = HeaderValue::from_str(&site.grpc.to_string()).expect("addresses are of digits, dots and colons");
    let name_grpc = move |mut response: Response| {
        response.headers_mut().insert(GRPC_ADDRESS, grpc.clone());
        std::future::ready(response)
    };
    let routes = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/startupz", get(startup))
        .route("/readyz", get(ready))
        .route("/metrics", get(async |State(site): State<AdminSite>| site.metrics.text()))
        .merge(local::routes(&site))
        .layer(map_response(name_grpc))
        .with_state(site);
    // The handle is dropped: the port answers until the process ends, and nothing waits for it.
    let _serving = vital::task("admin port", &stop, async move {
        if let Err(error) = axum::serve(listener, routes.into_make_service_with_connect_info::<AdminConnection>()).await
        {
            tracing::error!(%error, "admin port stopped");
        }
    });
    Ok(bound)
}

async fn startup(State(site): State<AdminSite>) -> (StatusCode, &'static str) {
    if site.health.started() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "starting\n") }
}

async fn ready(State(site): State<AdminSite>) -> (StatusCode, String) {
    if site.shutdown.is_asked() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
    }
    let mut lines = site.health.problems.lock().clone();
    if !site.health.started() {
        // What it waits for, where that is known.
        lines.insert(0, "starting".to_owned());
        return (StatusCode::SERVICE_UNAVAILABLE, lines.join("\n") + "\n");
    }
    let status = if lines.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if lines.is_empty() {
        lines.push("ok".to_owned());
    }
    lines.extend(site.health.notes.lock().iter().cloned());
    (status, lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::log_tests;

    fn unavailable(text: &str) -> (StatusCode, String) {
        (StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
    }

    fn site(health: &Health, shutdown: &Shutdown) -> AdminSite {
        AdminSite {
            health: health.clone(),
            metrics: Metrics::default(),
            shutdown: shutdown.clone(),
            grpc: SocketAddr::from(([127, 0, 0, 1], 1)),
            settings: Settings::load(&[&[REMOTE]], None, |_| None, &[]).unwrap(),
            log: log_tests::control("info").0,
        }
    }

    #[tokio::test]
    async fn a_start_that_waits_says_for_what() {
        let (health, shutdown) = (Health::default(), Shutdown::new(Duration::ZERO));
        let site = || State(site(&health, &shutdown));
        assert_eq!(ready(site()).await, unavailable("starting\n"));
        health.set_problems(vec!["no controller".to_owned()]);
        assert_eq!(ready(site()).await, unavailable("starting\nno controller\n"));
    }

    #[tokio::test]
    async fn a_stop_that_is_put_off_is_a_drain_all_the_same() {
        let (health, shutdown) = (Health::default(), Shutdown::new(Duration::ZERO));
        health.set_started();
        assert_eq!(ready(State(site(&health, &shutdown))).await, (StatusCode::OK, "ok\n".to_owned()));
        shutdown.put_off(Duration::from_secs(3600));
        shutdown.ask();
        assert!(!shutdown.begun());
        assert_eq!(ready(State(site(&health, &shutdown))).await, unavailable("draining\n"));
    }
}
