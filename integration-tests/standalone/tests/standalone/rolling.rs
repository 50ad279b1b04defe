//! Every process of a cluster is restarted under load, one after the other, as docs/operations.md has it upgraded.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use walser_client::Client;

use crate::cluster_up::{Up, with_etcd};
use crate::fault_rows::{times, verdict};
use crate::load::{Load, PARTITIONS, summary};
use crate::replicated::{all_in_sync, create_replicated, preferred_lead};
use crate::server::{binary, place};

/// Role and number of a process.
type Process = (&'static str, &'static str);

/// Where a cluster has its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Embedded,
    /// Three members, and two controllers. `WALSER_ETCD` names the program; `scripts/test.sh` builds it.
    Etcd,
}

impl Store {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded store",
            Self::Etcd => "etcd",
        }
    }

    /// The processes that run Walser, in the order in which they are upgraded.
    pub(crate) fn processes(self) -> Vec<Process> {
        let controllers = if self == Self::Etcd { &["1", "2"][..] } else { &["1"] };
        let of = |role: &'static str, ids: &[&'static str]| ids.iter().map(move |id| (role, *id)).collect::<Vec<_>>();
        [of("controller", controllers), of("storage-node", &["1", "2", "3"]), of("gateway", &["1", "2"])].concat()
    }

    fn arguments(self) -> Vec<String> {
        if self == Self::Embedded {
            return ["--metastore", "embedded"].map(str::to_owned).to_vec();
        }
        with_etcd("3")
    }
}

/// A cluster whose processes start the program that lies at a path at the time.
#[cfg_attr(not(feature = "before"), expect(dead_code, reason = "an upgrade puts another program there"))]
pub(crate) struct Rolling {
    pub(crate) up: Up,
    pub(crate) client: Client,
    pub(crate) dir: PathBuf,
    pub(crate) program: PathBuf,
    _place: tempfile::TempDir,
}

/// Puts a program at a path, from where processes may run another one.
pub(crate) fn install(program: &Path, at: &Path) {
    let new = at.with_extension("new");
    std::fs::copy(program, &new).unwrap();
    std::fs::rename(new, at).unwrap();
}

impl Rolling {
    pub(crate) async fn start(program: &Path, store: Store) -> Self {
        let (_place, dir) = place();
        let installed = _place.path().join("walser");
        install(program, &installed);
        let up = Up::start_program(&installed, &dir, &store.arguments());
        let client = up.client();
        create_replicated(&client, "t", PARTITIONS, 2).await;
        all_in_sync(&client, "t").await;
        Self { up, client, dir, program: installed, _place }
    }

    pub(crate) async fn restart(&self, process: Process, load: &Load) {
        self.up.act_ok(&["stop", process.0, process.1]);
        self.start_again(process, load).await;
    }

    pub(crate) async fn start_again(&self, (role, id): Process, load: &Load) {
        self.up.act_ok(&["start", role, id]);
        all_in_sync(&self.client, "t").await;
        load.go_on(&all(), Instant::now(), 20).await;
    }
}

fn all() -> Vec<i32> {
    (0..PARTITIONS).collect()
}

/// Restarts everything, several times where only this is tested, and says how long no record of a partition was acknowledged.
async fn row_22(store: Store) {
    let cluster = Rolling::start(&binary(), store).await;
    let load = Load::start(&cluster.client).await;
    let mut processes = store.processes();
    if store == Store::Etcd {
        processes.extend([("etcd", "1"), ("etcd", "2"), ("etcd", "3")]);
    }
    let rounds = times().div_ceil(5);
    let mut gaps: Vec<Duration> = Vec::new();
    for process in processes.repeat(rounds) {
        preferred_lead(&cluster.client, all().len()).await;
        let since = Instant::now();
        cluster.restart(process, &load).await;
        gaps.push(load.gap(&all(), since));
    }
    let records = load.judge(&cluster.client).await;
    let (count, pause) = (gaps.len(), summary(gaps));
    let text = format!(
        "{count} x SIGTERM and restart of a process, {}; pause {pause}; {records} records, 0 lost, 0 twice, in order",
        store.name()
    );
    verdict(22, &text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_22_every_process_is_restarted_one_after_the_other() {
    row_22(Store::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_22_every_process_is_restarted_one_after_the_other_with_etcd() {
    row_22(Store::Etcd).await;
}
