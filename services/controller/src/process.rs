//! The controller as a process of its own.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use walser_rpc::{CallLayer, Network};
use walser_service::{INTERNAL_TLS, Key, MainError, Process, Settings, SettingsError, process, telemetry};
use walser_tls::ServiceRole;

use crate::{Config, Dependencies, KEYS, PROCESS_KEYS, metadata_store};

/// Settings of the process.
const ALL_KEYS: &[&[Key]] = &[process::INTERNAL_PORT, INTERNAL_TLS, process::KEYS, telemetry::KEYS, KEYS, PROCESS_KEYS];

/// The settings that a controller would have with this file and these pairs, `KEY=VALUE`, and the environment.
///
/// # Errors
/// [`SettingsError`] for what makes no sense.
pub fn settings(file: Option<&Path>, pairs: &[String]) -> Result<Settings, SettingsError> {
    Settings::load(ALL_KEYS, file, |name| std::env::var(name).ok(), pairs)
}

/// Runs the service with the arguments of a process, its name first, to the end.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::main(arguments, ServiceRole::Controller, ALL_KEYS, run)
}

async fn run(process: Process) -> Result<(), MainError> {
    let environment = Dependencies {
        store: metadata_store::open(&process.settings, &process.shutdown).await?,
        clock: Arc::clone(&process.clock),
        random: Arc::clone(&process.random),
        metrics: process.metrics.clone(),
    };
    let config = Config::from_settings(&process.settings, false)?;
    let shutdown = process.shutdown.clone();
    let network = Network::new(process.dial_from()?, process.cluster_tls()).carrying(telemetry::carry);
    let controller = crate::start(config, environment, &network, shutdown).await?;
    tokio::spawn(controller.report_readiness(process.health.clone()));
    let durations = |name: &str, help: &str, labels: &[&str]| process.metrics.latencies(name, help, labels);
    let guard =
        CallLayer::new(concat!("walser-controller/", env!("CARGO_PKG_VERSION")), telemetry::call_span, durations);
    process.serve(controller.routes.clone(), guard)?.until_stopped(controller.drain()).await
}
