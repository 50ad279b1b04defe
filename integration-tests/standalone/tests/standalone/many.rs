//! Many topics and partitions: what works with a few must work with thousands, and after a restart.

use std::collections::BTreeMap;

use walser_client::Client;
use walser_proto::v1 as pb;

use crate::server::{Server, cli_at, create, place, read_all, record};

/// Records of one call, each to a partition of its own.
const AT_ONCE: usize = 64;

/// Writes one record to every partition of `topics` (name and partition count).
async fn write_to_all(client: &Client, topics: &BTreeMap<String, i32>, value: &str) {
    let mut writes = tokio::task::JoinSet::new();
    let partitions = topics.iter().flat_map(|(topic, count)| (0..*count).map(move |number| (topic.clone(), number)));
    for (topic, partition) in partitions {
        if writes.len() >= AT_ONCE {
            writes.join_next().await.unwrap().unwrap();
        }
        let records = vec![record(value)];
        let request = pb::ProduceRequest { topic, partition: Some(partition), records, ..Default::default() };
        let client = client.clone();
        writes.spawn(async move {
            let named = format!("{}/{partition}", request.topic);
            let answer = client.producer().produce(request).await;
            answer.unwrap_or_else(|error| panic!("{named}: {error:?}"));
        });
    }
    while let Some(written) = writes.join_next().await {
        written.unwrap();
    }
}

pub(crate) async fn health(client: &Client) -> pb::ClusterHealth {
    let answer = client.cluster().get_cluster(pb::GetClusterRequest {}).await.unwrap();
    answer.into_inner().cluster.unwrap().health.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_partition_serves_after_a_kill_and_after_a_clean_restart() {
    let (_dir, data) = place();
    let mut topics = BTreeMap::from([("one".to_owned(), 1), ("wide".to_owned(), 1_000)]);
    topics.extend((0..300).map(|number| (format!("small-{number}"), 1)));
    let server = Server::start(&data);
    let client = server.client();
    for (name, count) in &topics {
        create(&client, name, *count, &[]).await;
    }
    write_to_all(&client, &topics, "before").await;
    server.kill();

    let server = Server::start(&data);
    let client = server.client();
    write_to_all(&client, &topics, "after the kill").await;
    let health_after_kill = health(&client).await;
    assert_eq!(health_after_kill.status(), pb::HealthStatus::Ok, "{health_after_kill:?}");
    server.stop();

    let server = Server::start(&data);
    let client = server.client();
    write_to_all(&client, &topics, "after the stop").await;
    for (topic, partition) in [("one", 0), ("wide", 0), ("wide", 999), ("small-7", 0), ("small-299", 0)] {
        let values: Vec<_> =
            read_all(&client, topic, partition).await.into_iter().map(|record| record.value.unwrap()).collect();
        assert_eq!(values, ["before", "after the kill", "after the stop"], "{topic}/{partition}");
    }
    server.assert_no_panic();
}

/// What is going away is neither a fault of the cluster nor an error of a command that a pattern has led to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_are_being_deleted_by_the_thousand_are_no_fault() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    let names: Vec<_> = (0..2_000).map(|number| format!("gone-{number}")).collect();
    let create: Vec<&str> = ["topic", "create", "stays"].into_iter().chain(names.iter().map(String::as_str)).collect();
    server.cli_ok(&create);
    let address = server.address.clone();
    let deleting = tokio::task::spawn_blocking(move || cli_at(&address, &["topic", "delete", "gone-*", "--yes"], &[]));
    let (mut looks, mut during) = (0, 0);
    while looks < 3 || !deleting.is_finished() {
        let health = health(&client).await;
        during += usize::from(health.topic_count > 1);
        assert_eq!(health.status(), pb::HealthStatus::Ok, "{health:?}");
        let described = server.cli(&["topic", "describe", "*", "-o", "name"]);
        assert!(described.status.success(), "{}", String::from_utf8_lossy(&described.stderr));
        looks += 1;
    }
    let deleted = deleting.await.unwrap();
    assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    assert!(during > 0, "all were deleted before the first look");
    assert_eq!(server.cli_ok(&["topic", "list", "-o", "name"]), b"stays\n");
}
