//! Topics with `durability=page-cache` on machines that go down: who may lead after that.

use std::path::Path;

use walser_client::Client;
use walser_proto::v1 as pb;

use crate::faults::until;
use crate::replicated::{NODES, Nodes, all_in_sync, partitions};
use crate::server::{place, read_all, record};

const TOPICS: [&str; 3] = ["cached", "changed", "synced"];

async fn create(client: &Client, name: &str, durability: &str, (partition_count, replicas): (i32, i32)) {
    let config = [("min.insync.replicas", "2"), ("durability", durability)];
    let config = config.into_iter().skip(usize::from(replicas == 1));
    let topic = pb::Topic {
        name: name.to_owned(),
        partition_count,
        replication_factor: replicas,
        config: config.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..Default::default()
    };
    client.topics().create_topic(pb::CreateTopicRequest { topic: Some(topic), ..Default::default() }).await.unwrap();
}

async fn write(client: &Client, topic: &str, partition: i32) {
    let request = pb::ProduceRequest {
        topic: topic.to_owned(),
        partition: Some(partition),
        records: vec![record("a")],
        ..Default::default()
    };
    client.producer().produce(request).await.unwrap();
}

async fn led_by(client: &Client, topic: &str, node: i32) {
    until(async || partitions(client, topic).await[0].leader == Some(node), "the node leads").await;
}

/// A node's directory as it is when the machine below goes down.
fn machine_goes_down(data: &Path) {
    // The id of the boot; the checksum does not fit any more either, which counts the same.
    let path = data.join("last-run");
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[7], 1, "a process that was killed");
    bytes[8] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_its_machine_went_down_a_replica_in_the_page_cache_is_not_eligible() {
    let (_dir, data) = place();
    let mut nodes = Nodes::start(&data);
    let client = nodes.cluster.client();
    create(&client, "cached", "page-cache", (1, NODES)).await;
    create(&client, "changed", "page-cache", (1, NODES)).await;
    create(&client, "synced", "fsync", (1, NODES)).await;
    create(&client, "alone", "page-cache", (NODES, 1)).await;
    for topic in TOPICS {
        all_in_sync(&client, topic).await;
        write(&client, topic, 0).await;
    }
    let alone = partitions(&client, "alone").await.into_iter().find(|listed| listed.replicas == [3]).unwrap();
    write(&client, "alone", alone.partition).await;

    // One after the other: the second one was in sync as long as anything could be committed, and so is the last one.
    for (killed, left) in [(2, vec![1, 3]), (3, vec![1]), (1, vec![])] {
        nodes.kill(killed);
        for topic in TOPICS {
            let left = async || {
                let mut isr = partitions(&client, topic).await.remove(0).isr;
                isr.sort_unstable();
                isr == left
            };
            until(left, "whoever was killed is in sync no more").await;
        }
    }
    // No node has seen that, or has flushed anything because of it.
    let fsync = pb::UpdateTopicRequest {
        name: "changed".to_owned(),
        config_updates: [("durability".to_owned(), "fsync".to_owned())].into(),
        ..Default::default()
    };
    client.topics().update_topic(fsync).await.unwrap();
    // What else is changed says nothing of what was flushed.
    for name in ["changed", "synced"] {
        let description = Some("of another time".to_owned());
        let update = pb::UpdateTopicRequest { name: name.to_owned(), description, ..Default::default() };
        client.topics().update_topic(update).await.unwrap();
    }
    machine_goes_down(&nodes.data_of(3));
    nodes.restart(3);
    led_by(&client, "synced", 3).await;
    // It has whatever there is.
    let led = |listed: &pb::Partition| listed.partition == alone.partition && listed.leader == Some(3);
    until(async || partitions(&client, "alone").await.iter().any(led), "the only one leads").await;
    assert_eq!(read_all(&client, "alone", alone.partition).await.len(), 1);
    for topic in ["cached", "changed"] {
        assert_eq!(partitions(&client, topic).await[0].leader, None, "it may have lost what was confirmed");
    }

    // The process of this one was killed: the page cache was not.
    nodes.restart(1);
    for topic in ["cached", "changed"] {
        led_by(&client, topic, 1).await;
    }
    nodes.restart(2);
    for topic in TOPICS {
        all_in_sync(&client, topic).await;
        assert_eq!(read_all(&client, topic, 0).await.len(), 1);
    }
    let node = nodes.data_of(3);
    nodes.stop(3);
    assert_eq!(std::fs::read(node.join("last-run")).unwrap()[7], 2, "it was closed in good order");
}
