//! Settings of the cluster, and what becomes of topics when they change.

use std::process::Output;

use walser_client::Client;
use walser_proto::v1 as pb;

use crate::cluster_up::Up;
use crate::faults::until;
use crate::replicated::{Nodes, all_in_sync, partitions};
use crate::server::{cli_at, create, place, write};

fn config(nodes: &Nodes, arguments: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["cluster", "config"], arguments].concat();
    let Output { status, stdout, stderr } = cli_at(&nodes.cluster.address(), &arguments, b"");
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

async fn takes_writes(client: &Client, topic: &str) -> bool {
    let record = crate::server::record("x");
    let request = pb::ProduceRequest { topic: topic.to_owned(), records: vec![record], ..Default::default() };
    client.producer().produce(request).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_of_the_cluster_are_listed_and_changed_and_hold_over_a_restart() {
    let (_dir, data) = place();
    let mut nodes = Nodes::start(&data);
    let client = nodes.cluster.client();
    let (code, text) = config(&nodes, &["list"]);
    assert!(code == Some(0) && text.contains("cluster.replication.factor = 1  (default)"), "{text}");
    create(&client, "before", 1, &[]).await;

    let (code, text) = config(&nodes, &["set", "cluster.replication.factor=4"]);
    assert!(code != Some(0) && text.contains("3 have registered"), "{text}");
    let (code, text) = config(&nodes, &["set", "min.insync.replicas=2"]);
    assert!(code != Some(0) && text.contains("change both"), "{text}");
    let both = ["set", "default.replication.factor=3", "cluster.min.insync.replicas=2"];
    let (code, text) = config(&nodes, &[&both[..], &["--dry-run"]].concat());
    assert!(code == Some(0) && text.contains("cluster.replication.factor would be 3"), "{text}");
    assert!(config(&nodes, &["list"]).1.contains("cluster.replication.factor = 1  (default)"));
    let (code, text) = config(&nodes, &both);
    assert!(code == Some(0) && text.contains("cluster.replication.factor = 3\n"), "{text}");
    assert_eq!(config(&nodes, &both), (Some(0), "nothing is different\n".to_owned()));
    nodes.cluster.change_metadata(|_| {});
    let (_, text) = config(&nodes, &["list"]);
    assert!(text.contains("cluster.min.insync.replicas = 2  (cluster)"), "{text}");

    // Topics that are there keep their replicas; new ones have three, and need two.
    assert_eq!(partitions(&client, "before").await[0].replicas.len(), 1);
    write(&client, "before", 0, "one replica is all that it has").await;
    create(&client, "after", 1, &[]).await;
    all_in_sync(&client, "after").await;
    let leader = partitions(&client, "after").await[0].leader.unwrap();
    nodes.kill_others(leader);
    until(async || partitions(&client, "after").await[0].isr == [leader], "only one is in sync").await;
    assert!(!takes_writes(&client, "after").await);
    let (code, text) = config(&nodes, &["set", "--unset", "cluster.min.insync.replicas"]);
    assert!(code == Some(0) && text.contains("cluster.min.insync.replicas = 1"), "{text}");
    until(async || takes_writes(&client, "after").await, "one in sync is enough now").await;
}

/// An operator who has lowered it finds the way back, as does one who asks for it by mistake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_is_given_back_is_what_the_cluster_was_made_with() {
    let (_dir, data) = place();
    let up = Up::start(&data);
    let (address, key) = (up.server(), "cluster.min.insync.replicas");
    let config = |arguments: &[&str]| {
        let output = cli_at(&address, &[&["cluster", "config"], arguments].concat(), b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    assert!(config(&["list"]).contains(&format!("{key} = 2  (default)")));
    assert_eq!(config(&["set", "--unset", key]), "nothing is different\n");
    create(&up.client(), "t", 1, &[]).await;
    assert!(config(&["set", &format!("{key}=1")]).contains(&format!("{key} = 1")));
    assert!(config(&["list"]).contains(&format!("{key} = 1  (cluster)")));
    let told = cli_at(&address, &["doctor"], b"");
    assert!(String::from_utf8_lossy(&told.stdout).contains("of which one must have a write: t"), "{told:?}");
    assert!(config(&["set", "--unset", key]).contains(&format!("{key} = 2")));
    assert!(config(&["list"]).contains(&format!("{key} = 2  (default)")));
}
