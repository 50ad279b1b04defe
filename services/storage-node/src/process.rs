//! The storage node as a process of its own.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use walser_log::{DataDirectory, RealDisk};
use walser_rpc::{CallLayer, Network};
use walser_service::{INTERNAL_TLS, MainError, Process, process, telemetry};
use walser_tls::ServiceRole;

use crate::{Config, Dependencies, KEYS, PROCESS_KEYS};

/// How long a stop waits until the controller has given the leads of this node to others.
const STOP_GRANT_MAX: Duration = Duration::from_secs(10);

/// Runs the service with the arguments of a process, its name first, to the end.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let tables =
        [process::INTERNAL_PORT, INTERNAL_TLS, process::KEYS, process::CONTROLLER, telemetry::KEYS, KEYS, PROCESS_KEYS];
    process::main(arguments, ServiceRole::StorageNode, &tables, run)
}

async fn run(process: Process) -> Result<(), MainError> {
    let network = Network::new(process.dial_from()?, process.cluster_tls()).carrying(telemetry::carry);
    network.dial_controllers(process.settings.text("controller.address"))?;
    let config = Config::for_process(&process.settings, process.address, process::cores());
    let note = format!("pid {} (walser-storage-node)", std::process::id());
    let data = Path::new(process.settings.text("storage.data"));
    let environment = Dependencies {
        directory: DataDirectory::open(Arc::new(RealDisk), data, &note)?,
        clock: Arc::clone(&process.clock),
        random: Arc::clone(&process.random),
        metrics: process.metrics.clone(),
        health: process.health.clone(),
    };
    process.shutdown.put_off(STOP_GRANT_MAX);
    let node = crate::start(config, environment, &network, process.shutdown.clone()).await?;
    let durations = |name: &str, help: &str, labels: &[&str]| process.metrics.latencies(name, help, labels);
    let guard =
        CallLayer::new(concat!("walser-storage-node/", env!("CARGO_PKG_VERSION")), telemetry::call_span, durations);
    process.serve(node.routes.clone(), guard)?.until_stopped(node.drain()).await
}
