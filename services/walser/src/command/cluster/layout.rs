//! Which processes a cluster has, where they listen, and where their files are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use walser_service::process;

use super::certificates::role_in_certificates;
use super::lost_members::EtcdMembers;
use super::metastore::ClusterMetastore;
use crate::cli::{ClusterRole, ClusterUpArgs};
use crate::command::tls::DevelopmentFiles;
use crate::error::{CliError, WRONG_STATE};

/// Storage nodes from which on topics have so many replicas by default, and how many of those must be in sync.
const REPLICAS: (u32, u32) = (3, 2);

/// What a process does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClusterProcessState {
    Running,
    Paused,
    /// It was stopped or killed, or has ended by itself.
    Down,
}

/// A process, as `cluster.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterProcess {
    pub(crate) role: ClusterRole,
    /// From 1; the node id of a storage node.
    pub(crate) id: u32,
    pub(crate) state: ClusterProcessState,
    /// `None` while it is down.
    pub(crate) pid: Option<u32>,
    pub(crate) addresses: BTreeMap<String, SocketAddr>,
    pub(crate) log: PathBuf,
}

/// All of `cluster.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ClusterFile {
    pub(crate) processes: Vec<ClusterProcess>,
    /// The authority that clients of a gateway believe; absent where there is no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_ca: Option<PathBuf>,
}

/// All of `plan.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ClusterPlan {
    pub(super) processes: Vec<ClusterProcess>,
    /// How many processes of a role the latest run has. Empty: an earlier version has written it, which does not say.
    #[serde(default)]
    pub(super) counts: BTreeMap<ClusterRole, u32>,
    /// Members of etcd that have had data. `None`: an earlier version has written it, which does not say.
    #[serde(default)]
    pub(super) formed: Option<BTreeSet<u32>>,
    /// The cluster has TLS.
    #[serde(default)]
    pub(super) tls: bool,
}

/// The directory of a cluster. The lock is held as long as it lives.
#[derive(Debug)]
pub(crate) struct ClusterDirectory {
    path: PathBuf,
    _lock: File,
}

/// Name of the socket by which other terminals reach the supervisor, and most bytes of its path: what systems take, less a
/// zero.
const CONTROL_SOCKET: &str = "control.sock";
const SOCKET_PATH_MAX: usize = 103;

/// The file with the addresses of all runs, also of one that did not come up.
const PLAN: &str = "plan.json";
/// What the port of a member of etcd for the others is named in `cluster.json`.
const PEER: &str = "peer";

/// The socket by which other terminals reach the supervisor.
pub(crate) fn control_socket(directory: &Path) -> PathBuf {
    directory.join(CONTROL_SOCKET)
}

// === impl ClusterProcessState ===

impl std::fmt::Display for ClusterProcessState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Down => "down",
        })
    }
}

// === impl ClusterProcess ===

impl ClusterProcess {
    /// `storage-node 2`.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.role, self.id)
    }

    /// Where it is called.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[port_name(self.role)]
    }

    /// Where its probes and metrics are. `None`: where it is called.
    pub(crate) fn admin(&self) -> Option<SocketAddr> {
        self.addresses.get("admin").copied()
    }

    /// Its line of a table.
    pub(crate) fn row(&self) -> Vec<String> {
        let pid = self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let admin = self.admin().map_or_else(|| "-".to_owned(), |admin| admin.to_string());
        let (address, log) = (self.address().to_string(), self.log.display().to_string());
        vec![self.role.to_string(), self.id.to_string(), self.state.to_string(), pid, address, admin, log]
    }
}

/// What the port for calls is named in `cluster.json`.
fn port_name(role: ClusterRole) -> &'static str {
    match role {
        ClusterRole::Etcd => "client",
        ClusterRole::Gateway => "grpc",
        ClusterRole::Controller | ClusterRole::StorageNode | ClusterRole::GroupCoordinator => "internal",
    }
}

// === impl ClusterDirectory ===

impl ClusterDirectory {
    /// Makes the directory and takes it for this process.
    ///
    /// # Errors
    /// When the system refuses, or another process has it.
    pub(crate) fn lock(path: &Path) -> Result<Self, CliError> {
        let refused =
            |error: std::io::Error| CliError::failed(format!("cluster directory {}: {error}", path.display()));
        let socket = std::path::absolute(path).map_err(refused)?.join(CONTROL_SOCKET);
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            let error = CliError::failed(format!("cluster directory {}: its path is too long", path.display()));
            return Err(error.with_help("a socket's path has about 100 characters at most: choose a shorter --dir"));
        }
        std::fs::create_dir_all(path).map_err(refused)?;
        let path = path.canonicalize().map_err(refused)?;
        let lock = File::create(path.join("lock")).map_err(refused)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let error = CliError::failed(format!("a cluster runs in {} already", path.display()));
            let shown = path.display();
            let help = format!("look at it with `walser cluster status --dir {shown}`, or choose another --dir");
            return Err(error.with_help(help).with_code(WRONG_STATE));
        }
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        control_socket(&self.path)
    }

    /// Where the certificates of a cluster with TLS are.
    pub(super) fn tls_directory(&self) -> PathBuf {
        self.path.join("tls")
    }

    /// The certificates of the cluster. `None`: it has no TLS.
    pub(crate) fn tls(&self) -> Option<DevelopmentFiles> {
        Some(self.tls_directory()).filter(|path| path.exists()).map(DevelopmentFiles)
    }

    /// Where a process keeps its data.
    pub(crate) fn data_of(&self, process: &ClusterProcess) -> PathBuf {
        self.path.join(format!("{}-{}", process.role, process.id))
    }

    /// The file that says where the metadata is.
    pub(crate) fn metastore_file(&self) -> PathBuf {
        self.path.join("metastore.json")
    }

    /// How many processes of a role there are to be: as many as are asked for, else as in the latest run, else `new`.
    ///
    /// # Errors
    /// When what there was before cannot be read.
    pub(crate) fn count(&self, role: ClusterRole, asked: Option<u32>, new: u32) -> Result<u32, CliError> {
        let before = self.before()?;
        let latest = || before.counts.get(&role).copied();
        let known = || before.processes.iter().filter(|known| known.role == role).map(|known| known.id).max();
        Ok(asked.or_else(latest).or_else(known).unwrap_or(new))
    }

    /// How many controllers there are to be.
    ///
    /// # Errors
    /// As for [`Self::count`].
    pub(crate) fn controllers(&self, arguments: &ClusterUpArgs) -> Result<u32, CliError> {
        self.count(ClusterRole::Controller, arguments.controllers, 1)
    }

    /// Whether there is metadata in a file of a controller.
    pub(crate) fn has_embedded(&self) -> bool {
        self.path.join(format!("{}-1", ClusterRole::Controller)).exists()
    }

    /// The file by which a process says that it serves.
    pub(crate) fn ready_file_of(&self, process: &ClusterProcess) -> PathBuf {
        self.path.join(format!("{}-{}.ready.json", process.role, process.id))
    }

    /// Storage nodes of earlier runs that are not among `processes`, and what they have stored.
    ///
    /// # Errors
    /// As for [`Self::count`].
    pub(crate) fn left_out(&self, processes: &[ClusterProcess]) -> Result<Vec<String>, CliError> {
        let with_data = self.before()?.processes.into_iter().filter(|known| known.role == ClusterRole::StorageNode);
        let left = with_data.filter(|known| {
            !processes.iter().any(|process| (process.role, process.id) == (known.role, known.id))
                && self.data_of(known).exists()
        });
        Ok(left.map(|known| known.name()).collect())
    }

    fn file(&self) -> PathBuf {
        self.path.join("cluster.json")
    }

    /// What `cluster.json` says.
    pub(crate) fn shown(&self, processes: &[ClusterProcess]) -> ClusterFile {
        ClusterFile { processes: processes.to_vec(), tls_ca: self.tls().map(|files| files.ca()) }
    }

    /// Writes `cluster.json` in one step: whoever reads it reads a whole one.
    pub(crate) fn write(&self, processes: &[ClusterProcess]) -> Result<(), CliError> {
        let text = serde_json::to_vec_pretty(&self.shown(processes))?;
        Ok(process::replace_file(&self.file(), text)?)
    }

    /// Keeps where the processes are to be, before any of them runs: members of etcd know each other by that from then on.
    pub(super) fn keep_plan(&self, plan: &ClusterPlan) -> Result<(), CliError> {
        let text = serde_json::to_vec_pretty(plan)?;
        Ok(process::replace_file(&self.path.join(PLAN), text)?)
    }

    /// The processes of earlier runs; none when there was none.
    pub(super) fn before(&self) -> Result<ClusterPlan, CliError> {
        for file in [self.path.join(PLAN), self.file()] {
            let text = match std::fs::read(&file) {
                Ok(text) => text,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(unreadable(&file, &error)),
            };
            return serde_json::from_slice(&text).map_err(|error| unreadable(&file, &error));
        }
        Ok(ClusterPlan::default())
    }
}

fn unreadable(file: &Path, why: &dyn std::fmt::Display) -> CliError {
    let text = format!("{} has the addresses of this cluster, and cannot be read: {why}", file.display());
    CliError::failed(text).with_help(
        "put it back as it was; `cluster.json` beside it has the addresses of the last run in the same form, unless it is \
         the one that is named: a copy of the whole one can take the place of the other",
    )
}

/// The processes that are asked for, none of which runs yet: on the addresses that they had before, else on free ports of
/// an address of their own.
///
/// # Errors
/// When there is no free port, or what there was before cannot be read.
pub(crate) fn plan(
    directory: &ClusterDirectory,
    arguments: &ClusterUpArgs,
    metastore: &ClusterMetastore,
) -> Result<Vec<ClusterProcess>, CliError> {
    let known = directory.before()?;
    let tls = arguments.tls || known.tls || directory.tls().is_some();
    let (formed, before) = (EtcdMembers(directory).formed(&known), known.processes);
    let counts = [
        (ClusterRole::Etcd, metastore.members()),
        (ClusterRole::Controller, directory.controllers(arguments)?),
        (ClusterRole::StorageNode, directory.count(ClusterRole::StorageNode, arguments.storage_nodes, 3)?),
        (
            ClusterRole::GroupCoordinator,
            directory.count(ClusterRole::GroupCoordinator, arguments.group_coordinators, 2)?,
        ),
        (ClusterRole::Gateway, directory.count(ClusterRole::Gateway, arguments.gateways, 2)?),
    ];
    let network = u8::try_from(std::process::id() % 250).unwrap_or(0) + 2;
    let mut processes = Vec::new();
    for (role, count) in counts {
        for id in 1..=count {
            let known = before.iter().find(|known| (known.role, known.id) == (role, id));
            let addresses = match known {
                Some(known) => known.addresses.clone(),
                None => free_addresses(network, role, id)?,
            };
            let log = directory.path.join(format!("{role}-{id}.log"));
            processes.push(ClusterProcess { role, id, state: ClusterProcessState::Down, pid: None, addresses, log });
        }
    }
    let same = |known: &ClusterProcess, other: &ClusterProcess| (known.role, known.id) == (other.role, other.id);
    let others = before.iter().filter(|known| !processes.iter().any(|process| same(known, process)));
    let all = processes.iter().chain(others).cloned().collect();
    directory.keep_plan(&ClusterPlan { processes: all, counts: counts.into(), formed: Some(formed), tls })?;
    Ok(processes)
}

/// Ports that are free now, on an address of loopback that only this process has, where the system allows that.
fn free_addresses(network: u8, role: ClusterRole, id: u32) -> Result<BTreeMap<String, SocketAddr>, CliError> {
    let own = Ipv4Addr::new(127, network, role as u8 + 1, u8::try_from(id).unwrap_or(u8::MAX));
    let bind = |address: Ipv4Addr| TcpListener::bind((address, 0));
    let second = if role == ClusterRole::Etcd { PEER } else { "admin" };
    // Both are held at once: two different ports.
    let (calls, other) = match (bind(own), bind(own)) {
        (Ok(calls), Ok(admin)) => (calls, admin),
        _ => (bind(Ipv4Addr::LOCALHOST)?, bind(Ipv4Addr::LOCALHOST)?),
    };
    let named = [(port_name(role), calls.local_addr()?), (second, other.local_addr()?)];
    Ok(named.map(|(name, address)| (name.to_owned(), address)).into())
}

/// The arguments with which a process of the cluster is started.
pub(crate) fn arguments(
    directory: &ClusterDirectory,
    metastore: &ClusterMetastore,
    process: &ClusterProcess,
    all: &[ClusterProcess],
) -> Vec<String> {
    let data = directory.data_of(process).display().to_string();
    let of_role = |role| all.iter().filter(move |other| other.role == role);
    let addresses = |role, prefix: &str| {
        let named: Vec<_> = of_role(role).map(|other| format!("{prefix}{}", other.address())).collect();
        named.join(",")
    };
    if let (ClusterRole::Etcd, ClusterMetastore::Etcd { program, .. }) = (process.role, metastore) {
        return etcd_arguments(program, &data, process, of_role(ClusterRole::Etcd));
    }
    let address = process.address();
    let mut settings = vec![format!("dial.from={}", address.ip())];
    match process.role {
        ClusterRole::Controller => {
            if *metastore == ClusterMetastore::Embedded {
                settings.push(format!("controller.data={data}"));
            } else {
                settings.push("controller.metastore=etcd".to_owned());
                settings.push(format!("controller.etcd.endpoints={}", addresses(ClusterRole::Etcd, "http://")));
                // Nobody else uses it.
                settings.push("controller.etcd.compact=true".to_owned());
            }
            let nodes = of_role(ClusterRole::StorageNode).count();
            let (replicas, in_sync) = if nodes >= REPLICAS.0 as usize { REPLICAS } else { (1, 1) };
            settings.push(format!("cluster.replication.factor={replicas}"));
            settings.push(format!("cluster.min.insync.replicas={in_sync}"));
        }
        ClusterRole::StorageNode => {
            settings.push(format!("storage.data={data}"));
            settings.push(format!("storage.node.id={}", process.id));
        }
        ClusterRole::GroupCoordinator | ClusterRole::Gateway | ClusterRole::Etcd => {}
    }
    if process.role != ClusterRole::Controller {
        settings.push(format!("controller.address={}", addresses(ClusterRole::Controller, "")));
    }
    if let Some((files, role)) = directory.tls().zip(role_in_certificates(process.role)) {
        settings.extend(files.settings(role));
    }
    let ready = directory.ready_file_of(process).display().to_string();
    let mut arguments = vec![process.role.to_string(), "--with-parent".into()];
    arguments.extend(["--listen".into(), address.to_string()]);
    arguments.extend(process.admin().into_iter().flat_map(|admin| ["--admin".into(), admin.to_string()]));
    arguments.extend(["--ready-file".into(), ready]);
    arguments.extend(settings.into_iter().flat_map(|setting| ["--set".into(), setting]));
    arguments
}

/// The arguments with which this program becomes a member of etcd. `all`: its members.
fn etcd_arguments<'a>(
    program: &Path,
    data: &str,
    process: &ClusterProcess,
    all: impl Iterator<Item = &'a ClusterProcess>,
) -> Vec<String> {
    let name = |member: &ClusterProcess| format!("{}-{}", member.role, member.id);
    let peer = |member: &ClusterProcess| format!("http://{}", member.addresses[PEER]);
    let initial: Vec<_> = all.map(|member| format!("{}={}", name(member), peer(member))).collect();
    let client = format!("http://{}", process.address());
    let options = [
        ("--name", name(process)),
        ("--data-dir", data.to_owned()),
        ("--listen-client-urls", client.clone()),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer(process)),
        ("--initial-advertise-peer-urls", peer(process)),
        ("--initial-cluster", initial.join(",")),
        ("--initial-cluster-state", "new".to_owned()),
        ("--log-level", "warn".to_owned()),
    ];
    let begin = ["cluster", "become", "--"].map(str::to_owned).into_iter();
    let named = options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
    begin.chain([program.display().to_string()]).chain(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ClusterPlace;

    fn wanted(dir: &Path, storage_nodes: u32) -> ClusterUpArgs {
        ClusterUpArgs {
            place: ClusterPlace { dir: dir.to_owned() },
            controllers: None,
            metastore: None,
            etcd_members: None,
            etcd: None,
            storage_nodes: Some(storage_nodes),
            group_coordinators: None,
            gateways: None,
            tls: false,
        }
    }

    #[test]
    fn addresses_stay_and_differ() {
        let place = tempfile::tempdir().unwrap();
        let directory = ClusterDirectory::lock(place.path()).unwrap();
        let three = plan(&directory, &wanted(place.path(), 3), &ClusterMetastore::Embedded).unwrap();
        let mut all: Vec<_> = three.iter().flat_map(|process| process.addresses.values().copied()).collect();
        assert_eq!(all.len(), 16);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 16, "each has ports of its own");
        assert!(all.iter().all(|address| address.ip().is_loopback()));
        directory.write(&three).unwrap();
        assert_eq!(plan(&directory, &wanted(place.path(), 3), &ClusterMetastore::Embedded).unwrap(), three);
        let four = plan(&directory, &wanted(place.path(), 4), &ClusterMetastore::Embedded).unwrap();
        assert_eq!(four.iter().filter(|process| three.contains(process)).count(), 8);
        let as_before = ClusterUpArgs { storage_nodes: None, ..wanted(place.path(), 3) };
        assert_eq!(plan(&directory, &as_before, &ClusterMetastore::Embedded).unwrap(), four);
        // One that became smaller stays so, and its addresses are kept all the same.
        let fewer = plan(&directory, &wanted(place.path(), 3), &ClusterMetastore::Embedded).unwrap();
        assert_eq!(plan(&directory, &as_before, &ClusterMetastore::Embedded).unwrap(), fewer);
        assert_eq!(plan(&directory, &wanted(place.path(), 4), &ClusterMetastore::Embedded).unwrap(), four);
    }

    #[test]
    fn addresses_that_cannot_be_read_are_not_replaced() {
        let place = tempfile::tempdir().unwrap();
        let directory = ClusterDirectory::lock(place.path()).unwrap();
        let five = plan(&directory, &wanted(place.path(), 5), &ClusterMetastore::Embedded).unwrap();
        directory.write(&five).unwrap();
        std::fs::write(place.path().join(PLAN), "{\"processes\": [").unwrap();
        let as_before = ClusterUpArgs { storage_nodes: None, ..wanted(place.path(), 5) };
        let refused = format!("{:?}", plan(&directory, &as_before, &ClusterMetastore::Embedded).unwrap_err());
        assert!(refused.contains("plan.json") && refused.contains("cannot be read"), "{refused}");
        std::fs::copy(place.path().join("cluster.json"), place.path().join(PLAN)).unwrap();
        assert_eq!(plan(&directory, &as_before, &ClusterMetastore::Embedded).unwrap(), five);
    }

    #[test]
    fn a_directory_has_one_cluster() {
        let place = tempfile::tempdir().unwrap();
        let first = ClusterDirectory::lock(place.path()).unwrap();
        let second = ClusterDirectory::lock(place.path()).unwrap_err();
        assert!(second.what().contains("already"), "{}", second.what());
        drop(first);
        ClusterDirectory::lock(place.path()).unwrap();
    }

    #[test]
    fn three_replicas_need_three_storage_nodes() {
        let place = tempfile::tempdir().unwrap();
        let directory = ClusterDirectory::lock(place.path()).unwrap();
        let factor = |nodes: u32| {
            let processes = plan(&directory, &wanted(place.path(), nodes), &ClusterMetastore::Embedded).unwrap();
            arguments(&directory, &ClusterMetastore::Embedded, &processes[0], &processes)
                .contains(&"cluster.replication.factor=3".to_owned())
        };
        assert_eq!([1, 2, 3, 5].map(factor), [false, false, true, true]);
    }
}
