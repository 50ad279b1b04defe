//! Replicas that are behind: who, by how much, and since when, for people and for machines.

use walser_client::Client;
use walser_proto::v1 as pb;

use crate::faults::{get_from, until};
use crate::replicated::{Nodes, all_in_sync, leader, partitions};
use crate::server::{cli_at, place, write};

/// The value of a metric without labels.
pub(crate) fn value(admin: &str, name: &str) -> f64 {
    let text = get_from(admin, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_default();
    line.parse().unwrap_or_else(|_| panic!("{name}: {text}"))
}

async fn lags(client: &Client) -> Vec<pb::ReplicaLag> {
    partitions(client, "t").await.swap_remove(0).lags
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_away_is_said_to_be_behind_until_it_has_everything_again() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    write(&client, "t", 0, "everywhere").await;
    let led_by = leader(&client, "t").await;
    let away = led_by % 3 + 1;
    let (controller, node) = (nodes.cluster.admins()[0].1.clone(), nodes.admin(led_by));
    assert!((value(&controller, "walser_controller_active") - 1.0).abs() < f64::EPSILON);
    let shrinks = value(&controller, "walser_controller_isr_shrinks_total");
    until(async || lags(&client).await.is_empty(), "everybody has everything").await;
    nodes.kill(away);
    until(async || partitions(&client, "t").await[0].isr.len() == 2, "it is not in sync").await;
    for number in 0..5 {
        write(&client, "t", 0, number.to_string()).await;
    }
    let behind = async || lags(&client).await.iter().any(|lag| (lag.node_id, lag.offsets) == (away, Some(5)));
    until(behind, "it is 5 behind").await;
    assert!(value(&controller, "walser_controller_isr_shrinks_total") > shrinks);
    let shown = async || value(&node, "walser_storage_replication_lag_offsets") >= 5.0;
    until(shown, "the metric says so, too").await;
    assert!(value(&node, "walser_storage_replication_lag_seconds") > 0.0);
    let told = cli_at(&nodes.cluster.address(), &["partition", "describe", "t", "0"], b"");
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(text.contains(&format!("the replica of node {away} is 5 records and ")), "{text}");

    let status = cli_at(&nodes.cluster.address(), &["status"], b"");
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains(&format!("furthest behind: the replica of t/0 on node {away}, by 5 records and ")), "{text}");

    let expands = value(&controller, "walser_controller_isr_expands_total");
    nodes.restart(away);
    all_in_sync(&client, "t").await;
    until(async || lags(&client).await.is_empty(), "it has everything again").await;
    let shown = async || value(&node, "walser_storage_replication_lag_offsets") == 0.0;
    until(shown, "the metric says so, too").await;
    assert!(value(&controller, "walser_controller_isr_expands_total") > expands);
}
