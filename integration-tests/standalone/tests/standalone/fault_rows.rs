//! Rows of the fault matrix, each on three storage nodes under load; `make test-faults ROW=n TIMES=n` runs one of them, and
//! prints a verdict.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use walser_client::Client;
use walser_proto::v1 as pb;

use crate::faults::until;
use crate::load::{Load, PARTITIONS, summary};
use crate::replicated::{
    NODES, Nodes, all_in_sync, alone_in_sync, leader, leaderless, leads, partitions, preferred_lead,
};
use crate::server::{place, values, write};

/// How many faults there are.
pub(crate) fn times() -> usize {
    std::env::var("WALSER_FAULTS").map_or(2, |times| times.parse().unwrap())
}

#[expect(clippy::print_stdout, reason = "the verdict is for people")]
pub(crate) fn verdict(row: u32, text: &str) {
    println!("row {row}: holds: {text}");
}

/// The partitions of topic `t` that a node leads, or does not.
pub(crate) async fn led_by(client: &Client, node: i32, leads: bool) -> Vec<i32> {
    let all = partitions(client, "t").await.into_iter();
    all.filter(|found| (found.leader == Some(node)) == leads).map(|found| found.partition).collect()
}

/// Hurts one node several times under load, the next time when all is well again. `leads`: what counts are the partitions
/// that the victim led, else those that it followed.
async fn under_load(row: u32, what: &str, leads: bool, hurt: impl Fn(&mut Nodes, i32), heal: impl Fn(&mut Nodes, i32)) {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, PARTITIONS, 2).await;
    let load = Load::start(&client).await;
    let all: Vec<i32> = (0..PARTITIONS).collect();
    let mut gaps = Vec::new();
    for round in 0..times() {
        let victim = i32::try_from(round).unwrap() % NODES + 1;
        preferred_lead(&client, all.len()).await;
        load.go_on(&all, Instant::now(), 20).await;
        let counted = led_by(&client, victim, leads).await;
        let since = Instant::now();
        hurt(&mut nodes, victim);
        load.go_on(&counted, since + Duration::from_millis(100), 50).await;
        gaps.push(load.gap(&counted, since));
        heal(&mut nodes, victim);
        all_in_sync(&client, "t").await;
        load.go_on(&all, Instant::now(), 20).await;
    }
    let records = load.judge(&client).await;
    let count = gaps.len();
    verdict(row, &format!("{count} x {what}; pause {}; {records} records, 0 lost, 0 twice, in order", summary(gaps)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_01_a_leader_is_killed() {
    under_load(1, "kill -9 of a leader", true, Nodes::kill, Nodes::restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_02_a_follower_is_killed() {
    under_load(2, "kill -9 of a follower", false, Nodes::kill, Nodes::restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_14_a_leader_is_suspended_and_goes_on_later() {
    let suspend = |nodes: &mut Nodes, victim| nodes.signal(victim, "-STOP");
    under_load(14, "SIGSTOP of a leader", true, suspend, |nodes, victim| nodes.signal(victim, "-CONT")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_03_all_storage_nodes_are_killed_at_once() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, PARTITIONS, 2).await;
    let load = Load::start(&client).await;
    let all: Vec<i32> = (0..PARTITIONS).collect();
    for _ in 0..times() {
        load.go_on(&all, Instant::now(), 50).await;
        (1..=NODES).for_each(|node| nodes.kill(node));
        (1..=NODES).for_each(|node| nodes.restart(node));
        all_in_sync(&client, "t").await;
    }
    load.go_on(&all, Instant::now(), 50).await;
    let records = load.judge(&client).await;
    verdict(3, &format!("{} x kill -9 of all storage nodes; {records} records, 0 lost, 0 twice, in order", times()));
}

/// Every partition takes writes again when a node with a third of the leads has died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_thousand_partitions_is_killed() {
    const MANY: i32 = 1000;
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, MANY, 2).await;
    let mut first = JoinSet::new();
    (0..MANY).for_each(|partition| probe(&mut first, &client, partition, "before"));
    assert!(first.join_all().await.iter().all(|offset| *offset == 0));
    let led = led_by(&client, 2, true).await.len();
    let killed = Instant::now();
    nodes.kill(2);
    let mut probes = JoinSet::new();
    (0..MANY).for_each(|partition| probe(&mut probes, &client, partition, "after"));
    assert!(probes.join_all().await.iter().all(|offset| *offset == 1), "acknowledged once");
    let took = killed.elapsed().as_secs_f64();
    nodes.restart(2);
    all_in_sync(&client, "t").await;
    verdict(1000, &format!("{MANY} partitions, {led} led by the victim: all acknowledge {took:.2} s after the kill"));
}

/// Writes to a partition once, for as long as that takes.
fn probe(probes: &mut JoinSet<i64>, client: &Client, partition: i32, value: &'static str) {
    let client = client.clone();
    probes.spawn(async move { write(&client, "t", partition, value).await });
}

/// As in KIP-966: whoever is left last need not be back for what the others had to be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_05_the_last_replica_in_sync_is_not_the_first_to_come_back() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    write(&client, "t", 0, "with three").await;
    let last = leader(&client, "t").await;
    let (behind, eligible) = (last % NODES + 1, (last + 1) % NODES + 1);
    nodes.kill(behind);
    until(async || partitions(&client, "t").await[0].isr.len() == 2, "two are in sync").await;
    write(&client, "t", 0, "with two").await;
    nodes.kill(eligible);
    alone_in_sync(&client, last).await;
    nodes.kill(last);
    until(async || leaderless(&client).await, "nobody leads").await;

    // This one lacks a record, and does not lead; the next one has everything that was acknowledged.
    nodes.restart(behind);
    assert!(leaderless(&client).await);
    nodes.restart(eligible);
    leads(&client, eligible).await;
    assert_eq!(values(&client, "t", 0).await, ["with three", "with two"]);
    nodes.restart(last);
    all_in_sync(&client, "t").await;
    verdict(5, "the eligible replica leads, and the one that is behind does not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_24_the_disk_of_one_node_is_full() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, PARTITIONS, 2).await;
    let load = Load::start(&client).await;
    let full = 2;
    nodes.stop(full);
    // Less than the reserve is free.
    nodes.restart_with(full, &["storage.disk.reserve.bytes=1125899906842624"]);
    let all: Vec<i32> = (0..PARTITIONS).collect();
    load.go_on(&all, Instant::now(), 50).await;
    assert_eq!(led_by(&client, full, true).await, [0; 0], "others can write");
    nodes.stop(full);
    nodes.restart(full);
    all_in_sync(&client, "t").await;
    load.go_on(&all, Instant::now(), 50).await;
    let records = load.judge(&client).await;
    verdict(24, &format!("one disk full, then with space; {records} records, 0 lost, 0 twice, in order"));
}

/// Gives a node the lead of the only partition.
async fn elect(client: &Client, node: i32) {
    let partitions = vec![pb::TopicPartition { topic: "t".to_owned(), partition: 0 }];
    let request = pb::ElectLeadersRequest { partitions, node_id: Some(node), unclean: false };
    let answer = client.cluster().elect_leaders(request).await.unwrap().into_inner();
    assert_eq!(answer.results[0].error, None, "{answer:?}");
}

/// Flips bits anywhere in what one node has stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_28_bits_are_flipped_on_one_node() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    let expected: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    for value in &expected {
        write(&client, "t", 0, value.clone()).await;
    }
    let mut random = 0x9e37_79b9_u32;
    let mut below = |bound: usize| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) as usize % bound
    };
    for round in 0..4 * times() {
        let victim = i32::try_from(round).unwrap() % NODES + 1;
        nodes.stop(victim);
        let logs = std::fs::read_dir(nodes.data_of(victim).join("logs")).unwrap().map(|entry| entry.unwrap().path());
        let dir = logs.into_iter().find(|path| path.is_dir()).unwrap();
        let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.is_file() && file.metadata().unwrap().len() > 0);
        files.sort();
        let file = &files[below(files.len())];
        let mut bytes = std::fs::read(file).unwrap();
        let at = below(bytes.len());
        bytes[at] ^= 1 << below(8);
        std::fs::write(file, bytes).unwrap();
        nodes.restart(victim);
        all_in_sync(&client, "t").await;
        // It leads and is read: what is damaged is met then, if it was not at the start, and healed.
        elect(&client, victim).await;
        assert_eq!(values(&client, "t", 0).await, expected, "round {round}: bit in {}", file.display());
        all_in_sync(&client, "t").await;
        nodes.kill_others(victim);
        leads(&client, victim).await;
        assert_eq!(
            values(&client, "t", 0).await,
            expected,
            "round {round}: of node {victim}, after {}",
            file.display()
        );
        nodes.restart_others(victim);
        all_in_sync(&client, "t").await;
    }
    verdict(28, &format!("{} x a flipped bit in the files of a partition; every read was right", 4 * times()));
}
