//! Copies of a partition that have other records at the same offsets, each of them acknowledged.

use walser_client::Client;

use crate::faults::until;
use crate::hurt_copies::{accepts_loss, numbers, segment, write_numbers};
use crate::replicated::{NODES, Nodes, all_in_sync, leads};
use crate::server::{cli_at, place, values, write};

/// Where the slots of a checkpoint begin.
const HEADER: usize = 128;

/// Three copies of the numbers below 30. One of them loses what came after 20, and what it knew about that, and leads alone
/// with others in their place, as it was the last one in sync: returns who.
async fn contradicting(nodes: &mut Nodes, client: &Client) -> i32 {
    let shorter = 1;
    write_numbers(client, 0..20).await;
    all_in_sync(client, "t").await;
    let file = segment(&nodes.data_of(shorter));
    let length = std::fs::metadata(&file).unwrap().len();
    write_numbers(client, 20..30).await;
    (1..=NODES).rev().for_each(|node| nodes.stop(node));
    std::fs::File::options().write(true).open(&file).unwrap().set_len(length).unwrap();
    let checkpoint = nodes.data_of(shorter).join("logs").join("checkpoint");
    let mut bytes = std::fs::read(&checkpoint).unwrap();
    bytes[HEADER..].fill(0);
    std::fs::write(&checkpoint, bytes).unwrap();
    nodes.restart(shorter);
    leads(client, shorter).await;
    for number in 0..5 {
        write(client, "t", 0, format!("other {number}")).await;
    }
    nodes.restart_others(shorter);
    shorter
}

/// Whoever has to give up something has stopped, and nobody decides by itself whose records stay.
async fn named_one_stays(named: impl Fn(i32) -> i32, expected: &[String]) {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 1).await;
    let shorter = contradicting(&mut nodes, &client).await;
    let address = nodes.cluster.address();
    let elect = ["partition", "elect", "t", "0", "--unclean"];
    let undecided = async || {
        let refused = cli_at(&address, &[&elect[..], &["--accept-loss"]].concat(), b"");
        let printed = String::from_utf8_lossy(&refused.stderr).into_owned();
        !refused.status.success()
            && printed.contains("must be named here")
            && printed.contains(&format!("--node {shorter}"))
    };
    until(undecided, "the contradiction is known").await;
    leads(&client, shorter).await;
    assert!(!accepts_loss(&nodes, &["partition", "repair", "t", "0"]), "a repair does not decide it");

    let named = named(shorter).to_string();
    until(async || accepts_loss(&nodes, &[&elect[..], &["--node", &named]].concat()), "it is elected").await;
    all_in_sync(&client, "t").await;
    assert_eq!(values(&client, "t", 0).await, expected);
    // What was given up is kept.
    let kept = (1..=NODES).any(|node| {
        let partition = segment(&nodes.data_of(node)).parent().unwrap().to_owned();
        let names = std::fs::read_dir(partition).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.to_string_lossy().starts_with("cut-at-"))
    });
    assert!(kept);
    for alone in 1..=NODES {
        nodes.kill_others(alone);
        leads(&client, alone).await;
        assert_eq!(values(&client, "t", 0).await, expected, "of node {alone}");
        nodes.restart_others(alone);
        all_in_sync(&client, "t").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_two_logs_contradict_each_other_the_leader_stays_when_it_is_named() {
    let others = (0..5).map(|number| format!("other {number}"));
    let expected: Vec<_> = numbers(0..20).into_iter().chain(others).collect();
    named_one_stays(|shorter| shorter, &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_two_logs_contradict_each_other_another_one_leads_when_it_is_named() {
    named_one_stays(|shorter| shorter % NODES + 1, &numbers(0..30)).await;
}
