//! A process of the suite: arguments, settings, ports, signals, and the way from start to stop.
//!
//! [`main`] is the whole of a service's `main.rs`. `walser up` takes the same steps with several services in one
//! process and a banner between them.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use walser_model::{Clock, Random, SystemClock, SystemRandom};
use walser_tls::{ProcessTls, ServiceRole};

use crate::admin::{self, AdminSite, Health};
use crate::certificates::{CertificateError, Certificates};
use crate::listener::{
    CallService, ConnectionAge, Exposure, Listener, ListenerError, ListenerLimits, PENDING_RESETS_MAX,
    PENDING_RESETS_OF_CLUSTER_MAX,
};
use crate::metrics::Metrics;
use crate::reload;
use crate::settings::{Key, Kind, Settings, SettingsError};
use crate::shutdown::Shutdown;
use crate::signals::signals;
use crate::telemetry::{self, Telemetry};
use crate::vital;

/// The port of a process that clients call.
pub const PUBLIC_PORT: &[Key] = &[Key {
    name: "listen",
    kind: Kind::Address,
    default: "127.0.0.1:7460",
    doc: "Address of the public gRPC port (`--listen`).",
}];

/// The port of a process that only the cluster calls.
pub const INTERNAL_PORT: &[Key] = &[Key {
    name: "listen",
    kind: Kind::Address,
    default: "127.0.0.1:7461",
    doc: "Address of the internal gRPC port (`--listen`).",
}];

/// Settings of every process.
pub const KEYS: &[Key] = &[
    reload::INTERVAL,
    Key {
        name: "admin",
        kind: Kind::Address,
        default: "127.0.0.1:7463",
        doc: "Address of the admin port: probes and metrics (`--admin`).",
    },
    admin::REMOTE,
    Key {
        name: "dial.from",
        kind: Kind::Text,
        default: "",
        doc: "IP address of this machine that connections to other processes come from. Empty: the system chooses.",
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
    Key {
        name: "listener.ping.interval.ms",
        kind: Kind::Int(100, 3_600_000),
        default: "2000",
        doc: "A client from which nothing came for so long is sent an HTTP/2 ping.",
    },
    Key {
        name: "listener.ping.timeout.ms",
        kind: Kind::Int(100, 3_600_000),
        default: "3000",
        doc: "A client that does not answer a ping for so long is gone: its connection is closed, and what its members of groups had goes to others.",
    },
];

/// Where processes that are no controller find theirs.
pub const CONTROLLER: &[Key] = &[Key {
    name: "controller.address",
    kind: Kind::Text,
    default: "127.0.0.1:7461",
    doc: "HOST:PORT of the controller, for processes that are none; of several with commas between them.",
}];

/// Arguments of every process.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ProcessArgs {
    /// Address for gRPC, such as 127.0.0.1:7460; port 0 takes any free one [default: setting `listen`]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Address for probes and metrics; port 0 takes any free one [default: 127.0.0.1:7463]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
    /// Write the bound addresses into FILE, as JSON, once the server is ready
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Settings, as TOML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting; wins over file and environment (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// Allow addresses that other machines can reach, without TLS
    #[arg(long, alias = "insecure-internal")]
    pub insecure: bool,
    /// Allow an admin address that other machines can reach: probes and metrics have no TLS
    #[arg(long)]
    pub insecure_admin: bool,
}

/// Why a process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A setting makes no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Logs or traces cannot be set up.
    #[error("telemetry: {0}")]
    Telemetry(String),
    /// The gRPC port cannot be had.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The admin port would be open to the world.
    #[error("admin port {0} can be reached from other machines and has no TLS: say --insecure-admin to allow that")]
    AdminExposed(SocketAddr),
    /// The admin port is taken.
    #[error("admin port {0} is already in use; stop that process, or choose another with --admin (port 0: any)")]
    AdminInUse(SocketAddr),
    /// TLS cannot be had.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The setting `dial.from`.
    #[error("setting dial.from: \"{0}\" is not an IP address, such as 10.0.0.7")]
    DialFrom(String),
    /// The ready file cannot be written.
    #[error("ready file {path}: {source}")]
    ReadyFile {
        /// As asked.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refuses something else.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A process whose ports are bound and which serves nothing yet.
#[derive(Debug)]
pub struct Process {
    /// What it is told.
    pub settings: Settings,
    /// Time since its start.
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    /// When it is to stop.
    pub shutdown: Shutdown,
    /// What its probes answer.
    pub health: Health,
    pub metrics: Metrics,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    listener: Listener,
    /// TLS to other processes of the cluster.
    cluster_tls: Option<ProcessTls>,
    ready_file: Option<PathBuf>,
    _telemetry: Telemetry,
}

/// A process that serves.
#[derive(Debug)]
pub struct Serving {
    calls: JoinHandle<()>,
    shutdown: Shutdown,
    ready_file: Option<PathBuf>,
    _telemetry: Telemetry,
}

/// Cores of this machine.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Runs `process` to its end on a runtime of its own.
///
/// # Errors
/// What the system says when it gives no threads.
pub fn block_on<T>(settings: &Settings, process: impl Future<Output = T>) -> std::io::Result<T> {
    raise_file_limit();
    let workers = match settings.number::<usize>("workers") {
        0 => cores(),
        workers => workers,
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(workers).thread_name("network").enable_all().build()?;
    let outcome = runtime.block_on(process);
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(outcome)
}

/// Every segment that is read or written is an open file: the process takes as many as it may have.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

// === impl ProcessArgs ===

impl ProcessArgs {
    /// All settings: defaults, file, environment, `--set`, and the flags, which win.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn load(&self, keys: &[&'static [Key]]) -> Result<Settings, SettingsError> {
        let environment = |name: &str| std::env::var(name).ok();
        let mut settings = Settings::load(keys, self.config.as_deref(), environment, &self.settings)?;
        for (key, value) in [("listen", &self.listen), ("admin", &self.admin)] {
            let Some(value) = value else { continue };
            let local = value.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
            settings.set(key, local.as_ref().unwrap_or(value), "command line")?;
        }
        Ok(settings)
    }
}

// === impl Process ===

impl Process {
    /// Installs logs and signals, reads the certificates, and binds the ports. `role`: what the process is in its cluster; `None`:
    /// a cluster of its own.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub async fn open(
        arguments: &ProcessArgs,
        settings: Settings,
        clock: Arc<dyn Clock>,
        role: Option<ServiceRole>,
    ) -> Result<Self, ProcessError> {
        // What traces call it.
        let service = role.map_or_else(|| "walser".to_owned(), |role| format!("walser-{}", role.name()));
        let installed = telemetry::install(&settings, &service);
        let (mut telemetry, log) = installed.map_err(|error| ProcessError::Telemetry(error.to_string()))?;
        let shutdown = Shutdown::new(settings.duration("shutdown.grace.ms"));
        signals(shutdown.clone())?;
        let (health, metrics) = (Health::default(), Metrics::of_process());
        telemetry.push_metrics(&settings, &metrics, Arc::clone(&clock))?;
        let certificates = Certificates::load(&settings, role)?;
        certificates.follow(&settings, Arc::clone(&clock), &metrics, &shutdown);
        let only_cluster_calls = role.is_some_and(|role| role != ServiceRole::Gateway);
        let own = if only_cluster_calls { &certificates.cluster } else { &certificates.public };
        let exposure = match own {
            Some(tls) => Exposure::Encrypted(tls.clone()),
            None if arguments.insecure => Exposure::Insecure,
            None => Exposure::LoopbackOnly,
        };
        let limits = ListenerLimits {
            connections_max: settings.number("listener.connections.max"),
            connections_per_address_max: settings.number("listener.connections.per.address.max"),
            ping_interval: settings.duration("listener.ping.interval.ms"),
            ping_timeout: settings.duration("listener.ping.timeout.ms"),
            pending_resets_max: if only_cluster_calls { PENDING_RESETS_OF_CLUSTER_MAX } else { PENDING_RESETS_MAX },
            ..ListenerLimits::default()
        };
        let listener = Listener::bind(settings.address("listen"), exposure, limits, &metrics).await?;
        let address = listener.address()?;
        let admin = settings.address("admin");
        if !arguments.insecure && !arguments.insecure_admin && !admin.ip().is_loopback() {
            return Err(ProcessError::AdminExposed(admin));
        }
        let served = AdminSite {
            health: health.clone(),
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
            grpc: address,
            settings: settings.clone(),
            log,
        };
        let bound = admin::serve(admin, served).await;
        let admin = bound.map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => ProcessError::AdminInUse(admin),
            _ => ProcessError::Io(error),
        })?;
        if let Some(file) = &arguments.ready_file {
            let prepared = prepare_ready_file(file);
            prepared.map_err(|source| ProcessError::ReadyFile { path: file.display().to_string(), source })?;
        }
        Ok(Self {
            settings,
            clock,
            random: Arc::new(SystemRandom),
            shutdown,
            health,
            metrics,
            address,
            admin,
            listener,
            cluster_tls: certificates.cluster,
            ready_file: arguments.ready_file.clone(),
            _telemetry: telemetry,
        })
    }

    /// Where connections to other processes come from; `None`: the system chooses.
    ///
    /// # Errors
    /// When the setting is no address.
    pub fn dial_from(&self) -> Result<Option<IpAddr>, ProcessError> {
        match self.settings.text("dial.from") {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| ProcessError::DialFrom(text.to_owned())),
        }
    }

    /// Has connections live for about `max`, and calls on them end within the grace period after that. Zero: for as long as
    /// clients like.
    pub fn limit_connection_age(&mut self, max: Duration) {
        let age = ConnectionAge { max, grace: self.shutdown.grace() };
        self.listener.limits.connection_age = Some(age).filter(|_| !max.is_zero());
    }

    /// TLS for connections to other processes of the cluster. `None`: they are plain.
    pub fn cluster_tls(&self) -> Option<ProcessTls> {
        self.cluster_tls.clone()
    }

    /// Serves calls from now on; the ready file says so.
    ///
    /// # Errors
    /// When the ready file cannot be written.
    pub fn serve<L, S>(self, routes: Routes, layer: L) -> Result<Serving, ProcessError>
    where
        L: tower_layer::Layer<Routes, Service = S> + Clone + Send + Sync + 'static,
        S: CallService,
    {
        let (shutdown, stop) = (self.shutdown.clone(), self.shutdown);
        let serving = self.listener.serve(routes, layer, async move { stop.wait().await });
        let calls = vital::task("listener", &shutdown, async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the gRPC port stopped");
            }
        });
        self.health.set_started();
        let took_ms = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        let version = env!("CARGO_PKG_VERSION");
        tracing::info!(grpc = %self.address, admin = %self.admin, version, took_ms, "serving");
        if let Some(file) = &self.ready_file {
            let written = write_ready_file(file, self.address, self.admin);
            written.map_err(|source| ProcessError::ReadyFile { path: file.display().to_string(), source })?;
        }
        Ok(Serving { calls, shutdown, ready_file: self.ready_file, _telemetry: self._telemetry })
    }
}

// === impl Serving ===

impl Serving {
    /// Waits for the stop; running calls get the grace period. `close` is what the service does after its last call.
    ///
    /// # Errors
    /// When the stop was not asked for: why the process cannot go on.
    pub async fn until_stopped(self, close: impl Future<Output = ()>) -> Result<(), MainError> {
        self.shutdown.wait().await;
        tracing::info!("stopping");
        if tokio::time::timeout(self.shutdown.grace(), self.calls).await.is_err() {
            tracing::warn!(
                "connections were still open when the grace period ended; they are closed, with the calls on them"
            );
        }
        close.await;
        if let Some(file) = &self.ready_file {
            let _ = std::fs::remove_file(file);
        }
        self.shutdown.failure().map_or(Ok(()), |why| Err(why.into()))
    }
}

/// Removes the ready file of an earlier run, which says where nobody is, and looks whether there can be another one: it would be
/// late to find that out once calls are served.
fn prepare_ready_file(file: &std::path::Path) -> std::io::Result<()> {
    if file.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    let _ = std::fs::remove_file(file);
    let temporary = temporary_of(file);
    std::fs::write(&temporary, "")?;
    std::fs::remove_file(&temporary)
}

/// Writes the ready file in one step: whoever sees it can connect.
fn write_ready_file(file: &std::path::Path, grpc: SocketAddr, admin: SocketAddr) -> std::io::Result<()> {
    let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION"));
    let text = format!("{{\"grpc\":\"{grpc}\",\"admin\":\"{admin}\",\"pid\":{pid},\"version\":\"{version}\"}}\n");
    replace_file(file, text)
}

/// Writes a file in one step, without making it durable: whoever reads it reads a whole one.
///
/// # Errors
/// I/O errors.
pub fn replace_file(file: &std::path::Path, contents: impl AsRef<[u8]>) -> std::io::Result<()> {
    let temporary = temporary_of(file);
    std::fs::write(&temporary, contents)?;
    std::fs::rename(&temporary, file)
}

/// Where a file is written before it takes its place.
fn temporary_of(file: &std::path::Path) -> PathBuf {
    file.with_added_extension("tmp")
}

/// The command line of a service that is a process of its own.
#[derive(Debug, clap::Parser)]
#[command(version)]
struct ServiceArgs {
    #[command(flatten)]
    process: ProcessArgs,
    /// End with the process that started this one; its end is the end of the standard input
    #[arg(long)]
    with_parent: bool,
}

/// The error that [`main`] reports.
pub type MainError = Box<dyn std::error::Error + Send + Sync>;

/// The whole `main` of a service, with its arguments, the name first: `start` is given the open process, starts the service, and serves until the stop.
pub fn main<F, R>(
    arguments: impl IntoIterator<Item = OsString>,
    role: ServiceRole,
    keys: &[&'static [Key]],
    start: F,
) -> ExitCode
where
    F: FnOnce(Process) -> R,
    R: Future<Output = Result<(), MainError>>,
{
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let ServiceArgs { process: arguments, with_parent } = ServiceArgs::parse_from(arguments);
    if with_parent {
        end_with_parent();
    }
    let run = async |settings: Settings| start(Process::open(&arguments, settings, clock, Some(role)).await?).await;
    let outcome = arguments.load(keys).map_err(MainError::from).and_then(|settings| {
        let process = run(settings.clone());
        block_on(&settings, process)?
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Has the system end this process with its parent, also when it has become another program. On Linux alone.
pub fn end_with_parent_after_exec() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

/// Whoever kills the parent is to find no orphans. Linux kills a stopped process, too; elsewhere, and when the parent was
/// gone before Linux knew, the end of the standard input says it.
fn end_with_parent() {
    end_with_parent_after_exec();
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
}
