//! The gateway as a process of its own.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use walser_rpc::{CallLayer, Network};
use walser_service::{INTERNAL_TLS, MainError, PUBLIC_TLS, Process, process, telemetry};
use walser_tls::ServiceRole;

use crate::{Config, Dependencies, KEYS};

/// Runs the service with the arguments of a process, its name first, to the end.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let tables =
        [process::PUBLIC_PORT, PUBLIC_TLS, INTERNAL_TLS, process::KEYS, process::CONTROLLER, telemetry::KEYS, KEYS];
    process::main(arguments, ServiceRole::Gateway, &tables, run)
}

async fn run(mut process: Process) -> Result<(), MainError> {
    let network = Network::new(process.dial_from()?, process.cluster_tls()).carrying(telemetry::carry);
    network.dial_controllers(process.settings.text("controller.address"))?;
    let environment = Dependencies {
        clock: Arc::clone(&process.clock),
        random: Arc::clone(&process.random),
        metrics: process.metrics.clone(),
    };
    let config = Config::from_settings(&process.settings);
    process.limit_connection_age(config.connection_age_max);
    let mut gateway = crate::begin(config, environment, &network, process.shutdown.clone()).await?;
    process.health.set_problems(gateway.readiness.problem().await.into_iter().collect());
    gateway.report_readiness(process.health.clone(), process.shutdown.clone());
    let durations = |name: &str, help: &str, labels: &[&str]| process.metrics.latencies(name, help, labels);
    let guard = CallLayer::new(concat!("walser-gateway/", env!("CARGO_PKG_VERSION")), telemetry::call_span, durations);
    process.serve(gateway.routes.clone(), guard)?.until_stopped(gateway.drain()).await
}
