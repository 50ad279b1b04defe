//! Leaders that are elected without proof that they have everything, because an operator says so.

use std::path::Path;
use std::process::Output;

use walser_client::Client;
use walser_proto::v1 as pb;

use crate::cluster_up::Up;
use crate::faults::until;
use crate::lag::value;
use crate::replicated::{NODES, Nodes, all_in_sync, alone_in_sync, create_replicated, leader, leaderless, partitions};
use crate::server::{cli_at, place, record, values, write};

fn elect(nodes: &Nodes, more: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } =
        cli_at(&nodes.cluster.address(), &[&["partition", "elect"], more].concat(), b"");
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// Has a node lead a partition of topic t.
async fn elected(nodes: &Nodes, partition: i32, node: i32) {
    let arguments = [partition.to_string(), node.to_string()];
    until(async || elect(nodes, &["t", &arguments[0], "--node", &arguments[1]]).0 == Some(0), "it leads").await;
}

async fn issues(client: &Client) -> Vec<String> {
    let answer = client.cluster().get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner();
    let health = answer.cluster.unwrap().health.unwrap();
    health.issues.into_iter().map(|issue| issue.code).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_behind_leads_when_an_operator_gives_up_what_it_lacks() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 1).await;
    for number in 0..5 {
        write(&client, "t", 0, number.to_string()).await;
    }
    let lost = leader(&client, "t").await;
    nodes.kill_others(lost);
    alone_in_sync(&client, lost).await;
    write(&client, "t", 0, "only there").await;
    nodes.kill(lost);
    until(async || leaderless(&client).await, "nobody is left").await;
    let (code, text) = elect(&nodes, &["t", "--unclean", "--accept-loss"]);
    assert!(code != Some(0) && text.contains("delete the topic") && text.contains("partition 0"), "{code:?}: {text}");
    std::fs::remove_dir_all(nodes.data_of(lost)).unwrap();
    nodes.restart_others(lost);
    until(async || leaderless(&client).await, "nobody leads").await;

    let (code, text) = elect(&nodes, &["t", "0"]);
    assert!(code != Some(0) && text.contains("no replica that has everything is in service"), "{code:?}: {text}");
    let (code, text) = elect(&nodes, &["t", "0", "--unclean"]);
    assert!(code == Some(2) && text.contains("--accept-loss"), "{code:?}: {text}");
    let elected = async || elect(&nodes, &["t", "0", "--unclean", "--accept-loss"]).1.contains("leads now");
    until(elected, "a replica that has not everything leads").await;
    let before: Vec<_> = (0..5).map(|number| number.to_string()).collect();
    assert_eq!(values(&client, "t", 0).await, before, "what only the lost node had is lost");
    let led_by = leader(&client, "t").await;
    let (code, text) = elect(&nodes, &["t", "0", "--unclean", "--accept-loss"]);
    assert!(code == Some(2) && text.contains(&format!("node {led_by} leads")), "{code:?}: {text}");
    write(&client, "t", 0, "after").await;

    // The node comes back with another disk, and nobody waits for what it had.
    nodes.restart(lost);
    all_in_sync(&client, "t").await;
    assert_eq!(values(&client, "t", 0).await.last().unwrap(), "after");
    until(async || issues(&client).await.is_empty(), "nothing is wrong any more").await;

    // Any replica in sync can be given the lead.
    let next = leader(&client, "t").await % NODES + 1;
    let (code, text) = elect(&nodes, &["t", "0", "--node", &next.to_string()]);
    assert_eq!((code, text.as_str()), (Some(0), format!("t/0: node {next} leads now\n").as_str()));
    let (code, text) = elect(&nodes, &["t"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = elect(&nodes, &["t", "7"]);
    assert!(code == Some(3) && text.contains("partitions 0 to 0"), "{code:?}: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_elects_the_replica_that_has_most_when_nobody_has_everything() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 2, 1).await;
    let lost = leader(&client, "t").await;
    for partition in 0..2 {
        write(&client, "t", partition, "everywhere").await;
    }
    nodes.kill_others(lost);
    let alone = async || partitions(&client, "t").await.iter().all(|found| found.isr == [lost]);
    until(alone, "only one is in sync").await;
    for partition in 0..2 {
        write(&client, "t", partition, "only there").await;
    }
    nodes.kill(lost);
    nodes.restart_others(lost);
    until(async || leaderless(&client).await, "nobody leads").await;
    // It was manual: a change is noticed.
    let set = ["topic", "alter", "t", "-c", "recovery.policy=proactive"];
    assert!(cli_at(&nodes.cluster.address(), &set, b"").status.success());
    let led = async || partitions(&client, "t").await.iter().all(|found| found.leader.is_some());
    until(led, "another one leads, and nobody has asked for it").await;
    for partition in 0..2 {
        assert_eq!(values(&client, "t", partition).await, ["everywhere"]);
        write(&client, "t", partition, "after").await;
    }
    nodes.restart(lost);
    all_in_sync(&client, "t").await;
    for partition in 0..2 {
        assert_eq!(values(&client, "t", partition).await, ["everywhere", "after"]);
    }
    until(async || issues(&client).await.is_empty(), "nothing is wrong any more").await;
}

/// What was committed last is not written down when the nodes are killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_records_that_an_election_without_proof_gives_up_are_kept_in_files() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 20, 2).await;
    let behind = leader(&client, "t").await;
    nodes.kill(behind);
    let without = async || partitions(&client, "t").await.iter().all(|found| !found.isr.contains(&behind));
    until(without, "two are in sync").await;
    for partition in 0..20 {
        write(&client, "t", partition, "given up").await;
    }
    nodes.kill_others(behind);
    until(async || leaderless(&client).await, "nobody is left").await;
    nodes.restart(behind);
    let led = async || {
        elect(&nodes, &["t", "--unclean", "--accept-loss"]);
        partitions(&client, "t").await.iter().all(|found| found.leader == Some(behind))
    };
    until(led, "the one that is behind leads").await;
    nodes.restart_others(behind);
    all_in_sync(&client, "t").await;
    for other in (1..=NODES).filter(|other| *other != behind) {
        let logs = std::fs::read_dir(nodes.data_of(other).join("logs")).unwrap().map(|entry| entry.unwrap().path());
        let kept = logs.filter(|dir| dir.is_dir()).filter(|dir| {
            let mut names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
            names.any(|name| name.to_string_lossy().starts_with("cut-at-"))
        });
        assert_eq!(kept.count(), 20, "on node {other}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_of_restored_metadata_are_led_by_the_replica_that_has_most() {
    let (dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 20, 2).await;
    let copy = dir.path().join("metadata.redb");
    nodes.cluster.change_metadata(|metadata| {
        std::fs::copy(metadata.join("metadata.redb"), &copy).unwrap();
    });
    let victim = leader(&client, "t").await;
    nodes.kill(victim);
    until(async || leader(&client, "t").await != victim, "another one leads").await;
    for partition in 0..10 {
        write(&client, "t", partition, format!("{partition}")).await;
    }
    // What happens to the first one after the copy is seen by the nodes, and must not be taken for newer than the copy.
    for other in [victim % NODES + 1, (victim + 1) % NODES + 1].repeat(5) {
        elected(&nodes, 0, other).await;
    }
    nodes.cluster.change_metadata(|metadata| {
        std::fs::copy(&copy, metadata.join("metadata.redb")).unwrap();
    });
    nodes.restart(victim);
    refused_by(&client, 3).await;
    accept_restored(&nodes, &client).await;
    for partition in 0..20 {
        let expected = if partition < 10 { vec![partition.to_string()] } else { Vec::new() };
        assert_eq!(values(&client, "t", partition).await, expected, "partition {partition}");
    }
    until(async || issues(&client).await.is_empty(), "nothing is wrong any more").await;
}

/// Of three nodes, the first has seen nothing newer than a copy of the metadata; under the second all partitions of topic t
/// were written once more since, which the third has, too. Then all have stopped, the copy is used again, and the first leads
/// by it. Returns the cluster, a client of it, and the nodes in this order.
async fn led_by_a_copy(data: &Path, copy: &Path) -> (Nodes, Client, [i32; 3]) {
    let (mut nodes, client) = Nodes::with_topic(data, 20, 2).await;
    let first = leader(&client, "t").await;
    let (second, third) = (first % NODES + 1, (first + 1) % NODES + 1);
    nodes.kill(third);
    let two = async || partitions(&client, "t").await.iter().all(|found| !found.isr.contains(&third));
    until(two, "two are in sync").await;
    for partition in 0..20 {
        write(&client, "t", partition, "before").await;
    }
    let address = nodes.cluster.controller_address();
    nodes.cluster.stop_controller();
    nodes.kill(first);
    std::fs::copy(data.join("controller/metadata.redb"), copy).unwrap();
    nodes.cluster.start_controller(&address);
    nodes.restart(third);
    let led = async |client: &Client, by: i32| {
        let partitions = partitions(client, "t").await;
        partitions.len() == 20 && partitions.iter().all(|found| found.leader == Some(by))
    };
    until(async || led(&client, second).await, "the second one leads").await;
    until(async || partitions(&client, "t").await.iter().all(|found| found.isr.len() == 2), "two are in sync").await;
    for partition in 0..20_i32 {
        // In leader epochs one of which, in some partition, is also the one that the first one begins by the copy.
        for other in [third, second].into_iter().cycle().take(usize::try_from(partition % 4).unwrap()) {
            elected(&nodes, partition, other).await;
        }
        write(&client, "t", partition, "after").await;
    }
    nodes.cluster.stop_controller();
    nodes.kill_others(first);
    std::fs::copy(copy, data.join("controller/metadata.redb")).unwrap();
    nodes.cluster.start_controller(&address);
    // It has seen the metadata that the copy is older than.
    nodes.cluster.restart_gateway(&[]);
    let client = nodes.cluster.client();
    let nobody = async || partitions(&client, "t").await.iter().all(|found| found.leader.is_none());
    until(async || leaderless(&client).await && nobody().await, "nobody is heard").await;
    nodes.restart(first);
    until(async || led(&client, first).await, "the first one leads by the copy").await;
    (nodes, client, [first, second, third])
}

/// Waits until so many nodes refuse the metadata, which is older than what they have seen.
pub(crate) async fn refused_by(client: &Client, count: usize) {
    let refused = async || issues(client).await.iter().filter(|code| *code == "METADATA_ROLLBACK").count() == count;
    until(refused, "nodes refuse the older metadata").await;
}

/// Accepts metadata that is older than what nodes have seen, and waits until all replicas are in sync again.
async fn accept_restored(nodes: &Nodes, client: &Client) {
    let accepted = cli_at(&nodes.cluster.address(), &["metadata", "accept-restore", "--yes"], b"");
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    all_in_sync(client, "t").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leads_by_a_restored_copy_before_it_is_accepted_takes_nothing_from_the_others() {
    let (dir, data) = place();
    let (mut nodes, client, [_, second, third]) = led_by_a_copy(&data, &dir.path().join("metadata.redb")).await;
    nodes.restart(second);
    refused_by(&client, 1).await;
    let early = cli_at(&nodes.cluster.address(), &["metadata", "accept-restore", "--yes"], b"");
    let text = String::from_utf8_lossy(&early.stderr);
    assert!(!early.status.success() && text.contains(&format!("nor refused ({third})")), "{text}");
    nodes.restart(third);
    refused_by(&client, 2).await;
    let shown = issues(&client).await;
    assert!(!shown.iter().any(|code| code == "NODE_DOWN"), "nodes that are refused run: {shown:?}");
    accept_restored(&nodes, &client).await;
    for partition in 0..20 {
        assert_eq!(values(&client, "t", partition).await, ["before", "after"], "partition {partition}");
    }
    until(async || issues(&client).await.is_empty(), "nothing is wrong any more").await;
}

/// Records that somebody writes before the copy is accepted have the offsets of others: one of the two stays, on all
/// replicas the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_written_by_a_restored_copy_are_told_from_those_that_have_their_offsets() {
    let (dir, data) = place();
    let (mut nodes, client, [_, second, third]) = led_by_a_copy(&data, &dir.path().join("metadata.redb")).await;
    for partition in 0..20 {
        let request = pb::ProduceRequest {
            topic: "t".to_owned(),
            partition: Some(partition),
            records: vec![record("else")],
            acks: pb::Acks::Leader.into(),
            ..Default::default()
        };
        assert_eq!(client.producer().produce(request).await.unwrap().into_inner().positions[0].offset, 1);
    }
    nodes.restart(second);
    nodes.restart(third);
    refused_by(&client, 2).await;
    accept_restored(&nodes, &client).await;
    let led_by = async |node: i32| {
        for partition in (0..20).map(|partition: i32| partition.to_string()) {
            until(async || elect(&nodes, &["t", &partition, "--node", &node.to_string()]).0 == Some(0), "it leads")
                .await;
        }
        let mut all = Vec::new();
        for partition in 0..20 {
            all.push(values(&client, "t", partition).await);
        }
        all
    };
    let of_one = led_by(1).await;
    for (partition, found) in of_one.iter().enumerate() {
        assert!(*found == ["before", "after"] || *found == ["before", "else"], "partition {partition}: {found:?}");
    }
    for node in 2..=NODES {
        assert_eq!(led_by(node).await, of_one, "what node {node} has");
    }
}

/// They have seen more than they have written down: which producer ids were handed out concerns no partition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_run_on_while_the_metadata_becomes_older_are_refused_and_can_be_accepted() {
    let (dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 3, 2).await;
    let copy = dir.path().join("metadata.redb");
    write(&client, "t", 0, "before").await;
    // In service again under the metadata of the copy, so that everything about partitions is in it.
    nodes.cluster.change_metadata(|_| {});
    all_in_sync(&client, "t").await;
    write(&client, "t", 1, "before").await;
    nodes.cluster.change_metadata(|metadata| {
        std::fs::copy(metadata.join("metadata.redb"), &copy).unwrap();
    });
    for _ in 0..5 {
        nodes.cluster.change_metadata(|_| {});
        until(async || write_works(&client).await, "the cluster works").await;
    }
    // The controller that has begun last wrote that down: no other one has seen what it has.
    let seen = |admin: &str, name: &str| value(admin, &format!("walser_{name}_metadata_version"));
    let newest = seen(&nodes.cluster.admins()[0].1, "controller");
    let all_seen = async || (1..=3).all(|node| seen(&nodes.admin(node), "storage") >= newest);
    until(all_seen, "all nodes have seen it").await;
    nodes.cluster.change_metadata(|metadata| {
        std::fs::copy(&copy, metadata.join("metadata.redb")).unwrap();
    });
    nodes.cluster.restart_gateway(&[]);
    let client = nodes.cluster.client();
    let refused = async || issues(&client).await.iter().any(|code| code == "METADATA_ROLLBACK");
    until(refused, "nodes refuse the older metadata").await;
    let accepted = cli_at(&nodes.cluster.address(), &["metadata", "accept-restore", "--yes"], b"");
    let text = String::from_utf8_lossy(&accepted.stdout);
    assert!(accepted.status.success() && text.contains("may register again: "), "{text}");
    all_in_sync(&client, "t").await;
    assert_eq!(values(&client, "t", 0).await, ["before"]);
    assert_eq!(values(&client, "t", 1).await, ["before"]);
    until(async || issues(&client).await.is_empty(), "nothing is wrong any more").await;
}

/// Whether the controller hands out producer ids.
async fn write_works(client: &Client) -> bool {
    client.producer().init_producer(pb::InitProducerRequest::default()).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_directory_is_gone_keeps_no_lead_that_another_one_can_have() {
    let (_dir, data) = place();
    let up = Up::start_with(&data, &["--metastore", "embedded"]);
    let client = up.client();
    create_replicated(&client, "t", 1, 2).await;
    all_in_sync(&client, "t").await;
    write(&client, "t", 0, "acknowledged").await;
    let lost = leader(&client, "t").await;
    let others = [lost % NODES + 1, (lost + 1) % NODES + 1].map(|node| node.to_string());
    // It is the last one in sync, while the others are eligible.
    up.act_ok(&["kill", "storage-node", &others[0]]);
    until(async || partitions(&client, "t").await[0].isr.len() == 2, "one is out of the in-sync set").await;
    up.act_ok(&["kill", "storage-node", &others[1]]);
    until(async || partitions(&client, "t").await[0].isr == [lost], "it alone is in sync").await;
    std::fs::remove_dir_all(data.join(format!("storage-node-{lost}"))).unwrap();
    others.iter().for_each(|node| up.act_ok(&["start", "storage-node", node]));
    let led = async || partitions(&client, "t").await[0].leader.is_some_and(|leader| leader != lost);
    until(led, "another one leads").await;
    until(async || partitions(&client, "t").await[0].isr.len() == 2, "both others are in sync").await;
    write(&client, "t", 0, "later").await;
    assert_eq!(values(&client, "t", 0).await, ["acknowledged", "later"]);
}
