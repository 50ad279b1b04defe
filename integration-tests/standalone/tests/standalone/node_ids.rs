//! Two processes want to be the same node: the one that has its data stays, and nothing is taken over by mistake.

use std::path::Path;
use std::process::Command;

use walser_proto::v1 as pb;

use crate::faults::until;
use crate::processes::{Cluster, node_is, one_record, signal};
use crate::server::{PATIENCE, cli_at, create, place, program, read_all, record, wait_a_little};

/// Starts a second node with the id of the first one and a directory of its own, and waits until it says why it is
/// refused. It goes on waiting for its turn.
fn refused_second(cluster: &Cluster, data: &Path, settings: &[&str], why: &str) -> std::process::Child {
    let log = data.join("second.log");
    let mut second = Command::new(program("walser-storage-node"));
    second.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    second.args(["--set", &format!("storage.data={}", data.join("second").display())]);
    second.args(["--set", &format!("controller.address={}", cluster.controller_address())]);
    second.args(settings.iter().flat_map(|setting| ["--set", setting]));
    let mut second = second.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let printed = std::fs::read_to_string(&log).unwrap();
        if printed.contains(why) {
            return second;
        }
        assert!(tokio::time::Instant::now() < deadline, "the second node is not refused: {printed}");
        assert!(second.try_wait().unwrap().is_none(), "it waits until it can have the id: {printed}");
        wait_a_little();
    }
}

/// A second node that was given no id of its own takes nothing over from the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_id_that_is_in_service_on_another_directory_is_refused() {
    let (_dir, data) = place();
    let cluster = Cluster::start(&data);
    let client = cluster.client();
    create(&client, "t", 1, &[]).await;
    let write = || pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() };
    client.producer().produce(write()).await.unwrap();
    let mut second = refused_second(&cluster, &data, &[], "is in service on another data directory");
    client.producer().produce(write()).await.unwrap();
    assert_eq!(read_all(&client, "t", 0).await.len(), 2, "the first goes on");
    second.kill().unwrap();
    second.wait().unwrap();
}

/// What is meant for one of them would come to the other, and their followers would break each other's streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_of_a_node_that_is_in_service_is_refused_to_another_one_until_it_is_free() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    let client = cluster.client();
    let advertised = format!("storage.advertise={}", cluster.storage_address());
    let settings = ["storage.node.id=5", &advertised];
    let mut second = refused_second(&cluster, &data, &settings, "and so does storage node 1, which is in service");
    let status = cli_at(&cluster.address(), &["status"], b"");
    let shown = String::from_utf8(status.stdout).unwrap();
    assert!(shown.contains("a process that is to be storage node 5 was refused"), "{shown}");
    let first = cluster.take_storage();
    signal("-STOP", &first);
    // It takes the address of one that is gone.
    node_is(&client, 5, pb::NodeState::Active).await;
    signal("-CONT", &first);
    let told = async || {
        let status = cli_at(&cluster.address(), &["status"], b"");
        String::from_utf8(status.stdout).unwrap().contains("storage node 1 is down: its process was refused")
    };
    until(told, "it is not gone, and does not come back beside the other one").await;
    second.kill().unwrap();
    second.wait().unwrap();
    node_is(&client, 1, pb::NodeState::Active).await;
    first.kill();
}

/// Leading partitions without their records would be to lose them without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_directory_does_not_take_the_place_of_the_only_copy() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    let client = cluster.client();
    create(&client, "t", 3, &[]).await;
    client.producer().produce(pb::ProduceRequest { partition: Some(0), ..one_record() }).await.unwrap();
    cluster.kill_storage();
    node_is(&client, 1, pb::NodeState::Down).await;
    let mut second = refused_second(&cluster, &data, &[], "the only copy of 3 partitions");
    second.kill().unwrap();
    second.wait().unwrap();
    cluster.start_storage();
    assert_eq!(read_all(&client, "t", 0).await.len(), 1, "the directory that has them comes back");
}

/// Both would answer for the same node: a supervisor sees that one of them has failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_id_was_taken_over_ends_with_an_error() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    let client = cluster.client();
    let mut first = cluster.take_storage();
    signal("-STOP", &first);
    node_is(&client, 1, pb::NodeState::Down).await;
    let second = cluster.another_node(1);
    signal("-CONT", &first);
    let status = first.ready.child.wait().unwrap();
    assert_eq!(status.code(), Some(1), "it stops, and not because it was told to");
    create(&client, "t", 1, &[]).await;
    client.producer().produce(one_record()).await.unwrap();
    second.kill();
}
