//! A cluster goes from the version before to this one and back, process by process, under load; `scripts/before.sh` builds
//! the program of the version before.

use std::path::PathBuf;

use walser_proto::v1 as pb;

use crate::fault_rows::verdict;
use crate::faults::until;
use crate::load::Load;
use crate::rolling::{Rolling, Store, install};
use crate::server::{binary, cli_at};

/// The program of the version before.
fn before() -> PathBuf {
    std::env::var_os("WALSER_BEFORE").expect("WALSER_BEFORE names no program; `scripts/before.sh` builds one").into()
}

/// Ends the upgrade: whether that was done, and what was said.
fn finalize(cluster: &Rolling) -> (bool, String) {
    let output = cli_at(&cluster.up.server(), &["cluster", "finalize-upgrade"], b"");
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

async fn level(cluster: &Rolling) -> i32 {
    let answer = cluster.client.cluster().get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner();
    answer.cluster.unwrap().feature_level
}

async fn row_23(store: Store) {
    const LAST: (&str, &str) = ("storage-node", "3");
    let cluster = Rolling::start(&before(), store).await;
    let load = Load::start(&cluster.client).await;
    for program in [binary(), before()] {
        install(&program, &cluster.program);
        for process in store.processes() {
            cluster.restart(process, &load).await;
        }
    }
    install(&binary(), &cluster.program);
    for process in store.processes().into_iter().filter(|process| *process != LAST) {
        cluster.restart(process, &load).await;
    }
    let (ended, text) = finalize(&cluster);
    assert!(!ended && text.contains("storage node 3 (version"), "{text}");
    assert_eq!(level(&cluster).await, 1);
    cluster.restart(LAST, &load).await;
    let (ended, text) = finalize(&cluster);
    assert!(ended && text.contains("feature level 1 is now 3"), "{text}");
    assert_eq!(level(&cluster).await, 3);

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
    cluster.start_again(("storage-node", "2"), &load).await;
    let records = load.judge(&cluster.client).await;
    let store = store.name();
    verdict(
        23,
        &format!("upgrade, downgrade, upgrade, its end, {store}; {records} records, 0 lost, 0 twice, in order"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_23_a_cluster_is_upgraded_and_downgraded_and_upgraded_for_good() {
    row_23(Store::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_23_a_cluster_is_upgraded_and_downgraded_and_upgraded_for_good_with_etcd() {
    row_23(Store::Etcd).await;
}
