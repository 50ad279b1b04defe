//! Starts the processes of a cluster, watches them, and does with them what other terminals ask for.
//!
//! One thing at a time, but for starts: what is started may wait for another process that is to be resumed. A process that
//! has ended stays down until someone asks for its start.

mod starting;

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use clap::ValueEnum as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use walser_client::Client;

use self::starting::Starting;
use super::complaint::not_serving;
use super::control::{Asked, ControlAction, ControlRefusal, ControlRequest};
use super::layout::{self, ClusterDirectory, ClusterProcess, ClusterProcessState};
use super::metastore::{ClusterMetastore, EtcdPort};
use crate::cli::ClusterRole;
use crate::error::{CliError, NOT_FOUND, WRONG_STATE};
use crate::output;
use crate::server::node_count;
use crate::signal::Interrupts;
use crate::tls_args::TlsArgs;

/// How long a process may take to serve, and a cluster to know its storage nodes.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A member of etcd that lives and listens for so long has not found that it must not start: it may wait for the others.
const ETCD_LASTS: Duration = Duration::from_secs(2);
/// How long a process may take to stop; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long processes of an earlier run may take to end, that nobody stops any more.
const FREE_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two looks for a file or an answer.
const PAUSE: Duration = Duration::from_millis(20);
/// Pause between two looks after processes, should a signal of the system be missed.
const LOOK: Duration = Duration::from_secs(1);

/// A start that another terminal has asked for.
type Pending = (Asked, Starting);

/// The processes of a cluster.
#[derive(Debug)]
pub(super) struct Supervisor {
    directory: ClusterDirectory,
    metastore: ClusterMetastore,
    program: PathBuf,
    processes: Vec<ClusterProcess>,
    /// Beside each process: what of it runs.
    children: Vec<Option<Child>>,
    /// Beside each process: the length of its log when it was started last.
    log_begins: Vec<u64>,
    /// The system says that a child has ended.
    ended: Signals,
}

/// Whether somebody listens there.
fn in_use(address: &&SocketAddr) -> bool {
    TcpListener::bind(**address).is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

impl Supervisor {
    /// A supervisor of processes none of which runs yet.
    ///
    /// # Errors
    /// When the system does not say where this program is, or gives no signals.
    pub(super) fn new(
        directory: ClusterDirectory,
        metastore: ClusterMetastore,
        processes: Vec<ClusterProcess>,
    ) -> Result<Self, CliError> {
        let (program, ended) = (std::env::current_exe()?, signal(SignalKind::child())?);
        let (children, log_begins) = (processes.iter().map(|_| None).collect(), vec![0; processes.len()]);
        Ok(Self { directory, metastore, program, processes, children, log_begins, ended })
    }

    pub(super) fn processes(&self) -> &[ClusterProcess] {
        &self.processes
    }

    /// What can be done now.
    pub(super) fn advice(&self) -> String {
        let gateway = self.processes.iter().find(|process| process.role == ClusterRole::Gateway);
        let address = gateway.map(|gateway| gateway.address().to_string()).unwrap_or_default();
        let tls = self.directory.tls().map(|files| format!(" WALSER_TLS_CA={}", files.ca().display()));
        let tls = tls.unwrap_or_default();
        format!("ready; Ctrl-C stops all; in other terminals: export WALSER_SERVER={address}{tls}")
    }

    /// Starts everything, and waits until the cluster can be used; `cluster.json` says so then.
    ///
    /// # Errors
    /// When a process does not come up.
    pub(super) async fn start_all(&mut self) -> Result<(), CliError> {
        self.addresses_become_free().await;
        let missing = self.start(&self.all()).await.map_err(CliError::failed)?;
        let without =
            missing.iter().filter(|(index, _)| self.processes[*index].role == ClusterRole::StorageNode).count();
        for (index, why) in missing {
            let start = format!("walser cluster start {}", self.processes[index].name());
            output::warning(&format!("{why}\n  the cluster runs without it, see walser status; `{start}` tries again"));
        }
        let known = timeout(START_LIMIT, self.storage_nodes_known(without)).await;
        known.map_err(|_| CliError::failed("the storage nodes have not joined the cluster in time: see their logs"))?;
        self.directory.write(&self.processes)
    }

    /// Serves until a signal ends it.
    ///
    /// # Errors
    /// When `cluster.json` cannot be written.
    pub(super) async fn run(
        &mut self,
        mut requests: mpsc::Receiver<Asked>,
        interrupts: &mut Interrupts,
    ) -> Result<(), CliError> {
        let mut pending: Vec<Pending> = Vec::new();
        loop {
            let look = if pending.is_empty() { LOOK } else { PAUSE };
            tokio::select! {
                _ = interrupts.next() => return Ok(()),
                Some(asked) = requests.recv() => match self.take(&asked.request) {
                    Ok(Some(starting)) => pending.push((asked, starting)),
                    Ok(None) => {
                        let outcome = self.obey(&asked.request).await;
                        self.directory.write(&self.processes)?;
                        if matches!(asked.request.action, ControlAction::Stop | ControlAction::Kill) {
                            self.end_starts_of(&asked.request, &mut pending);
                        }
                        asked.answer(outcome);
                    }
                    Err(why) => asked.answer(Err(why)),
                },
                _ = self.ended.recv() => {}
                () = sleep(look) => {}
            }
            if self.note_ended() {
                self.directory.write(&self.processes)?;
            }
            for (asked, mut starting) in std::mem::take(&mut pending) {
                match self.advance(&mut starting) {
                    Ok(false) => pending.push((asked, starting)),
                    Ok(true) => {
                        self.directory.write(&self.processes)?;
                        asked.answer(self.outcome(starting));
                    }
                    Err(why) => {
                        // What was started until then runs on.
                        self.directory.write(&self.processes)?;
                        asked.answer(Err(why.into()));
                    }
                }
            }
        }
    }

    /// Stops everything.
    pub(super) async fn stop_all(&mut self) {
        self.stop(&self.all()).await;
        if let Err(error) = self.directory.write(&self.processes) {
            error.show();
        }
    }

    /// Does what is asked for, and returns what has become of the processes that were meant.
    async fn obey(&mut self, request: &ControlRequest) -> Result<Vec<ClusterProcess>, ControlRefusal> {
        self.note_ended();
        let chosen = self.chosen(request)?;
        match request.action {
            ControlAction::Status | ControlAction::Start => {}
            ControlAction::Stop => self.stop(&chosen).await,
            ControlAction::Kill => {
                self.signal(&chosen, Signal::KILL);
                self.wait_until_ended(&chosen, STOP_LIMIT).await;
            }
            ControlAction::Pause => self.suspend(&chosen, Signal::STOP, ClusterProcessState::Paused),
            ControlAction::Resume => self.suspend(&chosen, Signal::CONT, ClusterProcessState::Running),
        }
        let left: Vec<_> = chosen.iter().copied().filter(|index| self.children[*index].is_some()).collect();
        if !left.is_empty() && matches!(request.action, ControlAction::Stop | ControlAction::Kill) {
            let why = format!(
                "{} did not end in {} s, also not by SIGKILL: the system ends it when it can, a disk that hangs for instance \
                 must answer first",
                self.names(&left),
                STOP_LIMIT.as_secs()
            );
            return Err(why.into());
        }
        Ok(chosen.into_iter().map(|index| self.processes[index].clone()).collect())
    }

    /// The processes that a request means: those that it can be done with, where it names a group.
    fn chosen(&self, request: &ControlRequest) -> Result<Vec<usize>, ControlRefusal> {
        let ControlRequest { action, role, id } = request;
        let means = |index: &usize| request.means(&self.processes[*index]);
        let meant: Vec<usize> = (0..self.processes.len()).filter(means).collect();
        let (runs, do_not_run) = if meant.len() == 1 { ("runs", "does not run") } else { ("run", "do not run") };
        let name = |role: &Option<ClusterRole>| role.map_or_else(|| "process".to_owned(), |role| role.to_string());
        if meant.is_empty() {
            let id = id.map(|id| format!(" {id}")).unwrap_or_default();
            let why = format!("there is no {}{id} in this cluster: see walser cluster status", name(role));
            return Err(ControlRefusal { why, code: NOT_FOUND });
        }
        let fits = |index: &usize| match action {
            ControlAction::Status => true,
            ControlAction::Start => self.children[*index].is_none(),
            _ => self.children[*index].is_some(),
        };
        let fitting: Vec<usize> = meant.iter().copied().filter(fits).collect();
        let why = match (fitting.is_empty(), action) {
            (false, _) => return Ok(fitting),
            (true, ControlAction::Start) if meant.iter().any(|index| self.is_paused(*index)) => {
                format!("{} is paused: walser cluster resume lets it go on", self.names(&meant))
            }
            (true, ControlAction::Start) => format!("{} {runs} already", self.names(&meant)),
            (true, _) => format!("{} {do_not_run}: `walser cluster start` starts what is down", self.names(&meant)),
        };
        Err(ControlRefusal { why, code: WRONG_STATE })
    }

    fn is_paused(&self, index: usize) -> bool {
        self.processes[index].state == ClusterProcessState::Paused
    }

    fn names(&self, indexes: &[usize]) -> String {
        indexes.iter().map(|index| self.processes[*index].name()).collect::<Vec<_>>().join(", ")
    }

    fn all(&self) -> Vec<usize> {
        (0..self.processes.len()).collect()
    }

    fn of_role(&self, indexes: &[usize], role: ClusterRole) -> Vec<usize> {
        indexes.iter().copied().filter(|index| self.processes[*index].role == role).collect()
    }

    /// Starts processes, role by role, and waits until each of them serves. Returns those that did not come up and that the
    /// cluster can do without, and why.
    async fn start(&mut self, indexes: &[usize]) -> Result<Vec<(usize, String)>, String> {
        let mut starting = Starting { spares: true, ..self.begin(indexes.to_vec()) };
        while !self.advance(&mut starting)? {
            sleep(PAUSE).await;
            self.note_ended();
        }
        Ok(starting.missing)
    }

    /// Waits for a while until nobody listens where the processes are to: those of a run that was killed end a moment after it.
    /// An address that somebody else has is told by the process that is to have it.
    async fn addresses_become_free(&self) {
        let deadline = Instant::now() + FREE_LIMIT;
        let taken =
            || self.processes.iter().flat_map(|process| process.addresses.values()).any(|address| in_use(&address));
        while taken() && Instant::now() < deadline {
            sleep(PAUSE).await;
        }
    }

    fn spawn(&mut self, index: usize) -> std::io::Result<()> {
        let process = &self.processes[index];
        // Whoever else listens there would answer in place of it.
        if let (ClusterRole::Etcd, Some(taken)) = (process.role, process.addresses.values().find(in_use)) {
            let why = format!("another process listens on {taken}: stop it, and try again");
            return Err(std::io::Error::new(ErrorKind::AddrInUse, why));
        }
        let log = OpenOptions::new().create(true).append(true).open(&process.log)?;
        self.log_begins[index] = log.metadata()?.len();
        let child = Command::new(&self.program)
            .args(layout::arguments(&self.directory, &self.metastore, process, &self.processes))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for this process alone, which stops the others in order.
            .process_group(0)
            .spawn()?;
        let process = &mut self.processes[index];
        (process.pid, process.state) = (Some(child.id()), ClusterProcessState::Running);
        self.children[index] = Some(child);
        Ok(())
    }

    /// Whether a process serves; an error when it has ended, or its time is over.
    fn serves(&self, index: usize, begun: Instant) -> Result<bool, String> {
        let process = &self.processes[index];
        let Some(pid) = process.pid else {
            return Err(not_serving(process, self.log_begins[index], "has not come up"));
        };
        if process.role == ClusterRole::Etcd {
            match EtcdPort::of(&process.address(), PAUSE) {
                EtcdPort::Answers => return Ok(true),
                EtcdPort::Listens if begun.elapsed() > ETCD_LASTS => return Ok(true),
                EtcdPort::Listens | EtcdPort::Closed => {}
            }
        }
        let text = std::fs::read(self.directory.ready_file_of(process)).unwrap_or_default();
        let ready: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        if ready["pid"] == pid {
            return Ok(true);
        }
        if begun.elapsed() > START_LIMIT {
            return Err(not_serving(process, self.log_begins[index], "does not serve yet"));
        }
        Ok(false)
    }

    /// Waits until a gateway can name every storage node, but for so many.
    async fn storage_nodes_known(&self, without: usize) {
        let count = |role| self.processes.iter().filter(|process| process.role == role).count();
        let Some(gateway) = self.processes.iter().find(|process| process.role == ClusterRole::Gateway) else { return };
        let Ok(client) = self.client_of(gateway) else { return };
        loop {
            if node_count(&client).await >= Some(count(ClusterRole::StorageNode) - without) {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    /// A client of a gateway.
    fn client_of(&self, gateway: &ClusterProcess) -> Result<Client, CliError> {
        let tls = TlsArgs { tls_ca: self.directory.tls().map(|files| files.ca()), ..TlsArgs::default() };
        tls.client(&gateway.address().to_string())
    }

    /// Stops processes, in the order opposite to the start, and kills what does not stop.
    async fn stop(&mut self, indexes: &[usize]) {
        for role in ClusterRole::value_variants().iter().rev() {
            let of_role = self.of_role(indexes, *role);
            // A member of etcd hands its lead over to one that runs, and waits for that where the others stop as well.
            let together = if *role == ClusterRole::Etcd { 1 } else { of_role.len().max(1) };
            for some in of_role.chunks(together) {
                self.stop_at_once(some).await;
            }
        }
    }

    async fn stop_at_once(&mut self, indexes: &[usize]) {
        // A suspended process would not hear it.
        self.signal(indexes, Signal::CONT);
        self.signal(indexes, Signal::TERM);
        self.wait_until_ended(indexes, STOP_LIMIT).await;
        let left: Vec<usize> = indexes.iter().copied().filter(|index| self.children[*index].is_some()).collect();
        if !left.is_empty() {
            output::warning(&format!("{} did not stop in {} s: killed", self.names(&left), STOP_LIMIT.as_secs()));
            self.signal(&left, Signal::KILL);
            self.wait_until_ended(&left, STOP_LIMIT).await;
        }
    }

    fn suspend(&mut self, indexes: &[usize], sent: Signal, state: ClusterProcessState) {
        self.signal(indexes, sent);
        for index in indexes.iter().copied().filter(|index| self.children[*index].is_some()) {
            self.processes[index].state = state;
        }
    }

    /// Sends a signal to those that run. A child that is not waited for keeps its process id.
    fn signal(&self, indexes: &[usize], sent: Signal) {
        for child in indexes.iter().filter_map(|index| self.children[*index].as_ref()) {
            if let Err(error) = kill_process(Pid::from_child(child), sent) {
                output::warning(&format!("process {}: {error}", child.id()));
            }
        }
    }

    async fn wait_until_ended(&mut self, indexes: &[usize], limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            self.take_ended();
            let waits = indexes.iter().any(|index| self.children[*index].is_some());
            if !waits || Instant::now() > deadline {
                return;
            }
            let _ = timeout(PAUSE, self.ended.recv()).await;
        }
    }

    /// Notes which processes have ended by themselves, and says so. Returns whether any has.
    fn note_ended(&mut self) -> bool {
        let ended = self.take_ended();
        for (index, status) in &ended {
            let process = &self.processes[*index];
            let (name, log) = (process.name(), process.log.display());
            output::warning(&format!("{name} has ended ({status}); its log is {log}"));
        }
        !ended.is_empty()
    }

    fn take_ended(&mut self) -> Vec<(usize, ExitStatus)> {
        let mut ended = Vec::new();
        for (index, slot) in self.children.iter_mut().enumerate() {
            let Some(Ok(Some(status))) = slot.as_mut().map(Child::try_wait) else { continue };
            *slot = None;
            let process = &mut self.processes[index];
            (process.pid, process.state) = (None, ClusterProcessState::Down);
            ended.push((index, status));
        }
        ended
    }
}
