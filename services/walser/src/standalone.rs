//! `walser up`: controller, storage node and gateway in one process, on an embedded metadata store.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use walser_log::{DirectoryError, Disk, MemoryDisk, RealDisk};
use walser_metastore::{Embedded, Memory, Metastore};
use walser_model::{Clock, Random, SystemClock, SystemRandom};
use walser_proto::v1::NodeRole;
use walser_rpc::{Guard, Network};
use walser_service::admin::{self, Health};
use walser_service::{Exposure, Key, Kind, Listener, ListenerLimits, Metrics, Settings, Shutdown, signals, telemetry};

use crate::cli::UpArgs;
use crate::error::CliError;
use crate::output;

/// Settings of the process itself.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "listen",
        kind: Kind::Address,
        default: "127.0.0.1:7460",
        doc: "Address of the public gRPC port (`--listen`).",
    },
    Key {
        name: "admin",
        kind: Kind::Address,
        default: "127.0.0.1:7463",
        doc: "Address of the admin port: probes and metrics (`--admin`).",
    },
    Key { name: "workers", kind: Kind::Int(0, 256), default: "0", doc: "Threads for the network. 0: one per core." },
    Key {
        name: "shutdown.grace.ms",
        kind: Kind::Millis(0, 600_000),
        default: "10000",
        doc: "Time that running calls get at a stop.",
    },
    Key {
        name: "listener.connections.max",
        kind: Kind::Int(1, 1_000_000),
        default: "10000",
        doc: "Most connections at once.",
    },
    Key {
        name: "listener.connections.per.address.max",
        kind: Kind::Int(1, 1_000_000),
        default: "256",
        doc: "Most connections from one address; loopback is not counted.",
    },
];

/// The tables of all services.
pub(crate) const ALL_KEYS: [&[Key]; 5] =
    [KEYS, telemetry::KEYS, walser_controller::KEYS, walser_storage_node::KEYS, walser_gateway::KEYS];

/// Runs the server until it is told to stop.
pub(crate) fn run(arguments: &UpArgs) -> Result<ExitCode, CliError> {
    let clock = SystemClock::start();
    raise_file_limit();
    let settings = settings(arguments)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = match settings.number::<usize>("workers") {
        0 => cores,
        workers => workers,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("network")
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("no runtime: {error}")))?;
    let outcome = runtime.block_on(serve(arguments, &settings, Arc::new(clock), cores));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Every segment that is read or written is an open file: the process takes as many as it may have.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

fn settings(arguments: &UpArgs) -> Result<Settings, CliError> {
    let environment = |name: &str| std::env::var(name).ok();
    let loaded = Settings::load(&ALL_KEYS, arguments.config.as_deref(), environment, &arguments.settings);
    let mut settings = loaded.map_err(|error| CliError::usage(error.to_string()))?;
    // A flag wins over everything; its default does not.
    for (key, value, default) in
        [("listen", &arguments.listen, "127.0.0.1:7460"), ("admin", &arguments.admin, "127.0.0.1:7463")]
    {
        if value != default {
            let value =
                value.strip_prefix("localhost:").map_or_else(|| value.clone(), |port| format!("127.0.0.1:{port}"));
            settings.set(key, &value, "command line").map_err(|error| CliError::usage(error.to_string()))?;
        }
    }
    Ok(settings)
}

/// Where everything lies.
struct Place {
    disk: Arc<dyn Disk>,
    store: Arc<dyn Metastore>,
    data: PathBuf,
}

fn place(arguments: &UpArgs) -> Result<Place, CliError> {
    if let Some(capacity) = arguments.memory {
        let (disk, store) = (Arc::new(MemoryDisk::new(capacity)), Arc::new(Memory::new()));
        return Ok(Place { disk, store, data: PathBuf::from("/memory") });
    }
    let data = arguments.data.clone();
    let problem = |error: std::io::Error| {
        let error = CliError::failed(format!("data directory {}: {error}", data.display()));
        error.with_help("choose another with --data DIR, or --memory for a throw-away server")
    };
    std::fs::create_dir_all(&data).map_err(problem)?;
    // The metadata store must not be touched before it is clear that nobody else uses the directory.
    check_free(&data)?;
    let store = Embedded::open(&data.join("metadata.redb"));
    let store = store.map_err(|error| CliError::failed(format!("data directory {}: {error}", data.display())))?;
    Ok(Place { disk: Arc::new(RealDisk), store: Arc::new(store), data })
}

/// Opens and closes the directory: lock, format and meta file are checked.
fn check_free(data: &Path) -> Result<(), CliError> {
    let note = format!("pid {} (walser up)", std::process::id());
    let opened = walser_log::DataDirectory::open(Arc::new(RealDisk), data, &note);
    opened.map(drop).map_err(directory_error)
}

fn directory_error(error: DirectoryError) -> CliError {
    CliError::failed(error.to_string())
}

async fn serve(
    arguments: &UpArgs,
    settings: &Settings,
    clock: Arc<dyn Clock>,
    cores: usize,
) -> Result<ExitCode, CliError> {
    let _telemetry = telemetry::install(settings).map_err(|error| CliError::usage(format!("telemetry: {error}")))?;
    let shutdown = Shutdown::new(settings.duration("shutdown.grace.ms"));
    signals(shutdown.clone())?;
    let (health, metrics) = (Health::default(), Metrics::default());
    let ports = Ports::bind(arguments, settings, &health, &metrics, &shutdown).await?;
    let Ports { listener, address, admin } = ports;

    let place = place(arguments)?;
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let network = Network::default();
    let environment = walser_controller::Environment {
        store: Arc::clone(&place.store),
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
    };
    let config = walser_controller::Config::from_settings(settings, true);
    let controller = walser_controller::start(config, environment, &network).await;
    controller.map_err(|error| CliError::failed(error.to_string()))?;

    let mut config = walser_storage_node::Config::from_settings(settings, place.data.clone(), cores);
    config.public_address = address.to_string();
    config.roles = [NodeRole::Controller, NodeRole::Storage, NodeRole::Gateway].map(i32::from).to_vec();
    let environment = walser_storage_node::Environment {
        disk: place.disk,
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
        metrics: metrics.clone(),
        health: health.clone(),
    };
    let storage = walser_storage_node::start(config, environment, &network, shutdown.clone()).await;
    let storage = storage.map_err(|error| CliError::failed(error.to_string()))?;

    let config = walser_gateway::Config::from_settings(settings);
    let environment = walser_gateway::Environment { clock: Arc::clone(&clock), random, metrics };
    let gateway = walser_gateway::start(config, environment, &network, shutdown.clone()).await;
    let gateway = gateway.map_err(|error| CliError::failed(error.to_string()))?;

    let guard = Guard::new(&format!("walser/{}", env!("CARGO_PKG_VERSION")), telemetry::call_span);
    let stop = shutdown.clone();
    let serving = tokio::spawn(listener.serve(gateway.routes, guard, async move { stop.wait().await }));
    health.set_started();
    if let Some(file) = &arguments.ready_file {
        write_ready_file(file, &address.to_string(), &admin.to_string())?;
    }
    let banner = Banner { arguments, address: address.to_string(), admin: admin.to_string(), data: &place.data };
    banner.print(&storage.recovered, clock.monotonic());

    shutdown.wait().await;
    tracing::info!("stopping");
    let finished = tokio::time::timeout(shutdown.grace(), serving).await;
    if finished.is_err() {
        tracing::warn!("some calls did not finish within the grace period");
    }
    storage.stopping.stop().await;
    if let Some(file) = &arguments.ready_file {
        let _ = std::fs::remove_file(file);
    }
    Ok(ExitCode::SUCCESS)
}

/// The bound ports.
struct Ports {
    listener: Listener,
    address: std::net::SocketAddr,
    admin: std::net::SocketAddr,
}

impl Ports {
    async fn bind(
        arguments: &UpArgs,
        settings: &Settings,
        health: &Health,
        metrics: &Metrics,
        shutdown: &Shutdown,
    ) -> Result<Self, CliError> {
        let exposure = if arguments.insecure { Exposure::Insecure } else { Exposure::LoopbackOnly };
        let limits = ListenerLimits {
            connections_max: settings.number("listener.connections.max"),
            connections_per_address_max: settings.number("listener.connections.per.address.max"),
            ..ListenerLimits::default()
        };
        let listener = Listener::bind(settings.address("listen"), exposure, limits).await;
        let listener = listener.map_err(|error| CliError::failed(error.to_string()))?;
        let address = listener.address()?;
        let admin = settings.address("admin");
        if exposure == Exposure::LoopbackOnly && !admin.ip().is_loopback() {
            let text = format!("{admin} can be reached from other machines: say --insecure to allow that");
            return Err(CliError::failed(text));
        }
        let admin = admin::serve(admin, health.clone(), metrics.clone(), shutdown.clone()).await;
        let problem = |error: std::io::Error| {
            let in_use = error.kind() == std::io::ErrorKind::AddrInUse;
            let why = if in_use { "is already in use".to_owned() } else { error.to_string() };
            let error = CliError::failed(format!("admin port {}: {why}", settings.text("admin")));
            error.with_help("stop that process, or choose another with --admin HOST:PORT (port 0: any)")
        };
        Ok(Self { listener, address, admin: admin.map_err(problem)? })
    }
}

/// Writes the ready file in one step: whoever sees it can connect.
fn write_ready_file(file: &Path, grpc: &str, admin: &str) -> Result<(), CliError> {
    let text = serde_json::json!({
        "grpc": grpc,
        "admin": admin,
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    let problem = |error: std::io::Error| CliError::failed(format!("ready file {}: {error}", file.display()));
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".tmp");
    std::fs::write(&temporary, format!("{text}\n")).map_err(problem)?;
    std::fs::rename(&temporary, file).map_err(problem)
}

/// What is shown at start.
struct Banner<'a> {
    arguments: &'a UpArgs,
    address: String,
    admin: String,
    data: &'a Path,
}

impl Banner<'_> {
    fn print(&self, recovered: &walser_storage_node::Recovered, took: Duration) {
        let server =
            if self.address == "127.0.0.1:7460" { String::new() } else { format!(" --server {}", self.address) };
        let data = match self.arguments.memory {
            Some(bytes) => {
                let cap = output::bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
                format!("in memory, at most {cap}; nothing survives the end of this process")
            }
            None => format!("{}  (kept between runs; --memory for a throw-away server)", self.data.display()),
        };
        let reach = if self.arguments.insecure {
            "Authentication is off and anyone who reaches these addresses can read and write."
        } else {
            "Authentication is off and only this machine can connect."
        };
        output::note(&format!("\n  Walser {}   standalone, one process, no dependencies\n", env!("CARGO_PKG_VERSION")));
        output::note(&format!("  gRPC       {}", self.address));
        output::note(&format!("  Admin      http://{}  (/livez /readyz /startupz /metrics)", self.admin));
        output::note(&format!("  Data       {data}"));
        output::note(&format!("  Started in {} ms. {} {reach}", took.as_millis(), found(recovered)));
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
    use super::*;

    /// `UPDATE_GOLDEN=1 cargo test -p walser` rewrites the table.
    #[test]
    fn every_setting_is_documented() {
        const MARK: &str = "<!-- settings -->\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, table) = text.split_once(MARK).unwrap();
        let expected = format!("\n{}", Settings::document(&ALL_KEYS));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, format!("{before}{MARK}{expected}")).unwrap();
            return;
        }
        assert_eq!(table, expected, "UPDATE_GOLDEN=1 cargo test -p walser");
    }

    #[test]
    fn defaults_are_valid() {
        let settings = Settings::load(&ALL_KEYS, None, |_| None, &[]).unwrap();
        let storage = walser_storage_node::Config::from_settings(&settings, PathBuf::from("data"), 2);
        assert_eq!(storage.shards, 1);
        assert!(walser_gateway::Config::from_settings(&settings).auto_create);
    }
}
