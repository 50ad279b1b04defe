//! The group coordinator as a process of its own.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use walser_rpc::{CallLayer, Network};
use walser_service::{INTERNAL_TLS, MainError, Process, process, telemetry};
use walser_tls::ServiceRole;

use crate::config::{PROCESS_KEYS, advertised};
use crate::{CoordinatorDependencies, service};

/// How long a stop waits until the controller has given the shards of this coordinator to others.
const STOP_GRANT_MAX: Duration = Duration::from_secs(5);

/// Runs the service with the arguments of a process, its name first, to the end.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let tables =
        [process::INTERNAL_PORT, INTERNAL_TLS, process::KEYS, process::CONTROLLER, telemetry::KEYS, PROCESS_KEYS];
    process::main(arguments, ServiceRole::GroupCoordinator, &tables, run)
}

async fn run(process: Process) -> Result<(), MainError> {
    let network = Network::new(process.dial_from()?, process.cluster_tls()).carrying(telemetry::carry);
    network.dial_controllers(process.settings.text("controller.address"))?;
    let dependencies = CoordinatorDependencies {
        clock: Arc::clone(&process.clock),
        random: Arc::clone(&process.random),
        metrics: process.metrics.clone(),
        address: advertised(&process.settings, process.address),
    };
    process.shutdown.put_off(STOP_GRANT_MAX);
    let coordinator = service::start(dependencies, &network, process.shutdown.clone())?;
    tokio::spawn(coordinator.report_readiness(process.health.clone()));
    let (sessions, shutdown) = (coordinator.sessions(), process.shutdown.clone());
    // Gateways have no other coordinator to go to where this was the last one: their streams would hold up the stop.
    tokio::spawn(async move {
        shutdown.wait().await;
        sessions.begin();
    });
    let durations = |name: &str, help: &str, labels: &[&str]| process.metrics.latencies(name, help, labels);
    let name = concat!("walser-group-coordinator/", env!("CARGO_PKG_VERSION"));
    let guard = CallLayer::new(name, telemetry::call_span, durations);
    process.serve(coordinator.routes.clone(), guard)?.until_stopped(coordinator.drain()).await
}
