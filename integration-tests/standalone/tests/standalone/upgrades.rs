//! A cluster goes from the version before to this one and back, process by process, under load; `scripts/before.sh` builds
//! the program of the version before.

use std::path::{Path, PathBuf};
use tokio::time::Instant;

use walser_client::Client;
use walser_proto::v1 as pb;

use crate::cluster_up::Up;
use crate::fault_rows::verdict;
use crate::faults::until;
use crate::load::{Load, PARTITIONS};
use crate::replicated::{all_in_sync, create_replicated};
use crate::server::{binary, cli_at, place};

/// Every process, in the order in which documentation has them upgraded.
const PROCESSES: [(&str, &str); 6] = [
    ("controller", "1"),
    ("storage-node", "1"),
    ("storage-node", "2"),
    ("storage-node", "3"),
    ("gateway", "1"),
    ("gateway", "2"),
];

/// A cluster whose processes start the program that lies at a path at the time.
struct Upgraded {
    up: Up,
    client: Client,
    dir: PathBuf,
    program: PathBuf,
}

/// The program of the version before.
fn before() -> PathBuf {
    std::env::var_os("WALSER_BEFORE").expect("WALSER_BEFORE names no program; `scripts/before.sh` builds one").into()
}

fn install(program: &Path, at: &Path) {
    let new = at.with_extension("new");
    std::fs::copy(program, &new).unwrap();
    std::fs::rename(new, at).unwrap();
}

impl Upgraded {
    async fn start() -> (Self, tempfile::TempDir) {
        let (place, dir) = place();
        let program = place.path().join("walser");
        install(&before(), &program);
        let up = Up::start_program(&program, &dir, &[]);
        let client = up.client();
        create_replicated(&client, "t", PARTITIONS, 2).await;
        all_in_sync(&client, "t").await;
        (Self { up, client, dir, program }, place)
    }

    /// Has every process run another program, one after the other.
    async fn all_run(&self, program: &Path, load: &Load) {
        install(program, &self.program);
        for process in PROCESSES {
            self.restart(process, load).await;
        }
    }

    async fn restart(&self, process: (&str, &str), load: &Load) {
        self.up.act_ok(&["stop", process.0, process.1]);
        self.start_again(process, load).await;
    }

    async fn start_again(&self, (role, id): (&str, &str), load: &Load) {
        self.up.act_ok(&["start", role, id]);
        all_in_sync(&self.client, "t").await;
        let all: Vec<i32> = (0..PARTITIONS).collect();
        load.go_on(&all, Instant::now(), 20).await;
    }

    fn finalize(&self) -> (bool, String) {
        let output = cli_at(&self.up.server(), &["cluster", "finalize-upgrade"], b"");
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    async fn level(&self) -> i32 {
        let answer = self.client.cluster().get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner();
        answer.cluster.unwrap().feature_level
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_23_a_cluster_is_upgraded_and_downgraded_and_upgraded_for_good() {
    let (cluster, _place) = Upgraded::start().await;
    let load = Load::start(&cluster.client).await;
    cluster.all_run(&binary(), &load).await;
    cluster.all_run(&before(), &load).await;
    // All but one node and the gateways.
    install(&binary(), &cluster.program);
    for process in [PROCESSES[0], PROCESSES[1], PROCESSES[2], PROCESSES[4], PROCESSES[5]] {
        cluster.restart(process, &load).await;
    }
    let (ended, text) = cluster.finalize();
    assert!(!ended && text.contains("storage node 3 (version"), "{text}");
    assert_eq!(cluster.level().await, 1);
    cluster.restart(PROCESSES[3], &load).await;
    let (ended, text) = cluster.finalize();
    assert!(ended && text.contains("feature level 1 is now 2"), "{text}");
    assert_eq!(cluster.level().await, 2);

    // A program of the version before is told, and the others go on without it.
    install(&before(), &cluster.program);
    cluster.up.act_ok(&["kill", "storage-node", "2"]);
    cluster.up.act(&["start", "storage-node", "2"]);
    let told = async || {
        let log = std::fs::read_to_string(cluster.dir.join("storage-node-2.log")).unwrap();
        log.contains("of an older version; start the version that the controllers have")
    };
    until(told, "the older node is told").await;
    install(&binary(), &cluster.program);
    // It ends when it is told, or later.
    let _ = cluster.up.act(&["kill", "storage-node", "2"]);
    cluster.start_again(PROCESSES[2], &load).await;
    let records = load.judge(&cluster.client).await;
    verdict(23, &format!("upgrade, downgrade, upgrade, and its end; {records} records, 0 lost, 0 twice, in order"));
}
