//! `walser up`: controller, storage node, group coordinator and gateway in one process, on an embedded metadata store.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use walser_log::{DataDirectory, DirectoryError, MemoryDisk, RealDisk};
use walser_metastore::{Embedded, Memory, Metastore};
use walser_model::{Clock, SystemClock};
use walser_rpc::{ApiError, CallLayer, Network, NodeRole};
use walser_service::process::{self, Process};
use walser_service::{Key, PUBLIC_TLS, Settings, telemetry};

use crate::cli::UpArgs;
use crate::error::CliError;
use crate::output;

/// The tables of all services.
pub(crate) const ALL_KEYS: [&[Key]; 7] = [
    process::PUBLIC_PORT,
    PUBLIC_TLS,
    process::KEYS,
    telemetry::KEYS,
    walser_controller::KEYS,
    walser_storage_node::KEYS,
    walser_gateway::KEYS,
];

/// Runs the server until it is told to stop.
pub(crate) fn run(arguments: &UpArgs) -> Result<ExitCode, CliError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let settings = arguments.process.load(&ALL_KEYS).map_err(|error| CliError::usage(error.to_string()))?;
    process::block_on(&settings, serve(arguments, settings.clone(), clock))?
}

/// Where everything lies.
struct Stores {
    directory: DataDirectory,
    store: Arc<dyn Metastore>,
}

fn stores(arguments: &UpArgs, config: &walser_storage_node::Config) -> Result<Stores, CliError> {
    let note = format!("pid {} (walser up)", std::process::id());
    let open = |disk, data: &Path| DataDirectory::open(disk, data, &note).map_err(directory_error);
    if let Some(capacity) = arguments.memory {
        let directory = open(Arc::new(MemoryDisk::new(capacity)), Path::new("/memory"))?;
        return Ok(Stores { directory, store: Arc::new(Memory::new()) });
    }
    let data = &arguments.data;
    // The metadata store must not be touched before the directory is locked.
    let directory = open(Arc::new(RealDisk), data)?;
    // The metadata store may need it to open.
    walser_storage_node::make_room(config, &directory)
        .map_err(|source| directory_error(DirectoryError::Io { path: data.clone(), source }))?;
    let store = Embedded::open(&data.join("metadata.redb"));
    let store = store.map_err(|error| CliError::failed(format!("data directory {}: {error}", data.display())))?;
    Ok(Stores { directory, store: Arc::new(store) })
}

fn directory_error(error: DirectoryError) -> CliError {
    let failed = CliError::failed(error.to_string());
    match error {
        DirectoryError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::InvalidData => failed.with_help(
            "put the file back from a copy; without one, move it away and start again: what the server does not know \
             then is in docs/operations.md, \"Damaged files\"",
        ),
        DirectoryError::Io { .. } => {
            failed.with_help("choose another with --data DIR, or --memory for a throw-away server")
        }
        _ => failed,
    }
}

async fn serve(arguments: &UpArgs, settings: Settings, clock: Arc<dyn Clock>) -> Result<ExitCode, CliError> {
    let mut process = Process::open(&arguments.process, settings, Arc::clone(&clock), None).await?;
    let (shutdown, address, admin) = (process.shutdown.clone(), process.address, process.admin);
    let mut storage_config = walser_storage_node::Config::from_settings(&process.settings, process::cores());
    let stores = stores(arguments, &storage_config)?;
    let network = Network::default();
    let failed = |error: &dyn std::error::Error| CliError::failed(error.to_string());

    let dependencies = walser_controller::Dependencies {
        store: Arc::clone(&stores.store),
        clock: Arc::clone(&clock),
        random: Arc::clone(&process.random),
        metrics: process.metrics.clone(),
    };
    let config = walser_controller::Config::from_settings(&process.settings, true);
    let config = config.map_err(|error| CliError::usage(error.to_string()))?;
    let controller = walser_controller::start(config, dependencies, &network, shutdown.clone()).await;
    let controller = controller.map_err(|error| failed(&error))?;

    storage_config.public_address = address.to_string();
    storage_config.roles = vec![NodeRole::Controller, NodeRole::Storage, NodeRole::Gateway];
    let dependencies = walser_storage_node::Dependencies {
        directory: stores.directory,
        clock: Arc::clone(&clock),
        random: Arc::clone(&process.random),
        metrics: process.metrics.clone(),
        health: process.health.clone(),
    };
    let storage = walser_storage_node::start(storage_config, dependencies, &network, shutdown.clone());

    // Nobody waits for it: a group that is asked for before its shard is loaded is asked for again.
    let dependencies = walser_group_coordinator::CoordinatorDependencies {
        clock: Arc::clone(&clock),
        random: Arc::clone(&process.random),
        metrics: process.metrics.clone(),
        address: String::new(),
    };
    let coordinator = walser_group_coordinator::start(dependencies, &network, shutdown.clone());
    let coordinator = coordinator.map_err(|error| failed(&error))?;

    let config = walser_gateway::Config::from_settings(&process.settings);
    process.limit_connection_age(config.connection_age_max);
    let (random, metrics) = (Arc::clone(&process.random), process.metrics.clone());
    let dependencies = walser_gateway::Dependencies { clock: Arc::clone(&clock), random, metrics };
    let gateway = walser_gateway::start(config, dependencies, &network, shutdown);
    // Both wait for the controller. Nobody is served before both are there. Where the storage node cannot start, the
    // gateway is told to stop: why is what the storage node says.
    let (storage, gateway) = tokio::join!(storage, gateway);
    let storage = storage.map_err(|error| failed(&error))?;
    let gateway = gateway.map_err(|error| failed(&error))?;

    let durations = |name: &str, help: &str, labels: &[&str]| process.metrics.latencies(name, help, labels);
    let guard = CallLayer::new(concat!("walser/", env!("CARGO_PKG_VERSION")), telemetry::call_span, durations);
    let serving = process.serve(gateway.routes.clone(), guard)?;
    let banner = Banner { arguments, address: address.to_string(), admin: admin.to_string(), data: &arguments.data };
    // In a log, the lines of the services say the same to whatever reads it.
    if std::io::stderr().is_terminal() {
        banner.print(&storage.recovered, storage.refused.as_ref(), clock.monotonic());
    }
    let drained = async {
        gateway.drain().await;
        coordinator.drain().await;
        storage.drain().await;
        controller.drain().await;
    };
    serving.until_stopped(drained).await.map_err(|error| failed(&*error))?;
    Ok(ExitCode::SUCCESS)
}

/// What is shown at a start in a terminal.
struct Banner<'a> {
    arguments: &'a UpArgs,
    address: String,
    admin: String,
    data: &'a Path,
}

impl Banner<'_> {
    fn print(&self, recovered: &walser_storage_node::Recovered, refused: Option<&ApiError>, took: Duration) {
        let server =
            if self.address == "127.0.0.1:7460" { String::new() } else { format!(" --server {}", self.address) };
        let data = match self.arguments.memory {
            Some(bytes) => {
                let cap = output::bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
                format!("in memory, at most {cap}; nothing survives the end of this process")
            }
            None => format!("{}  (kept between runs; --memory for a throw-away server)", self.data.display()),
        };
        let reach = if self.arguments.process.insecure {
            "Authentication is off and anyone who reaches these addresses can read and write."
        } else {
            "Authentication is off and only this machine can connect."
        };
        output::note(&format!("\n  Walser {}   standalone, one process, no dependencies\n", env!("CARGO_PKG_VERSION")));
        output::note(&format!("  gRPC       {}", self.address));
        output::note(&format!("  Admin      http://{}  (/livez /readyz /startupz /metrics)", self.admin));
        output::note(&format!("  Data       {data}"));
        output::note(&format!("  Started in {} ms. {} {reach}", took.as_millis(), found(recovered)));
        if let Some(refused) = refused {
            output::note(&format!("  ! {}: {refused}", refused.reason_name()));
            output::note("    Records can be read, writes are refused, nothing on the disk changes.");
        }
        for line in recovered.cut.iter().chain(&recovered.damaged) {
            output::note(&format!("  ! {line}"));
        }
        output::note("\n  Try, in another terminal:");
        output::note(&format!("    walser produce hello \"it works\"{server}"));
        output::note(&format!("    walser consume hello --from earliest{server}"));
        output::note("\n  Ctrl-C stops it.\n");
    }
}

/// What recovery found, in a sentence.
fn found(recovered: &walser_storage_node::Recovered) -> String {
    if recovered.partitions == 0 {
        return "Nothing stored yet.".to_owned();
    }
    let partitions = i64::try_from(recovered.partitions).unwrap_or(i64::MAX);
    let segments = i64::try_from(recovered.checked_segments).unwrap_or(i64::MAX);
    let how = if !recovered.damaged.is_empty() {
        format!("{} damaged", output::plural(i64::try_from(recovered.damaged.len()).unwrap_or(0), "partition"))
    } else if recovered.checked_segments == 0 {
        "clean shutdown".to_owned()
    } else if recovered.cut.is_empty() {
        format!("checked {}, nothing lost", output::plural(segments, "open segment"))
    } else {
        let cut = i64::try_from(recovered.cut.len()).unwrap_or(0);
        format!(
            "checked {}, {} cut, nothing acknowledged lost",
            output::plural(segments, "open segment"),
            output::plural(cut, "torn end")
        )
    };
    let partitions = output::plural(partitions, "partition");
    format!("Recovered {partitions}, {} ({how}).", output::plural(recovered.records, "record"))
}

#[cfg(test)]
mod tests {
    use walser_service::INTERNAL_TLS;

    use super::*;

    /// `UPDATE_GOLDEN=1 cargo test -p walser` rewrites the tables.
    #[test]
    fn every_setting_is_documented() {
        let processes: [&[Key]; 6] = [
            process::INTERNAL_PORT,
            INTERNAL_TLS,
            process::CONTROLLER,
            walser_controller::PROCESS_KEYS,
            walser_storage_node::PROCESS_KEYS,
            walser_group_coordinator::PROCESS_KEYS,
        ];
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut expected = text.clone();
        for (name, table) in
            [("settings", Settings::document(&ALL_KEYS)), ("processes", Settings::document(&processes))]
        {
            let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
            let (before, rest) = expected.split_once(&begin).unwrap();
            let (_, after) = rest.split_once(&end).unwrap();
            expected = format!("{before}{begin}\n{table}\n{end}{after}");
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, expected).unwrap();
            return;
        }
        assert_eq!(text, expected, "UPDATE_GOLDEN=1 cargo test -p walser");
    }

    #[test]
    fn defaults_are_valid() {
        let settings = Settings::load(&ALL_KEYS, None, |_| None, &[]).unwrap();
        let storage = walser_storage_node::Config::from_settings(&settings, 2);
        assert_eq!(storage.shards, 1);
        assert!(walser_gateway::Config::from_settings(&settings).auto_create);
    }
}
