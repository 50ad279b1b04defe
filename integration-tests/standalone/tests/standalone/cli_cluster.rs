//! What the commands say of nodes and partitions.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::Value;

use crate::cli_lossless::signal;
use crate::fault_rows::led_by;
use crate::faults::until;
use crate::replicated::{Nodes, all_in_sync, create_replicated, partitions, preferred_lead};
use crate::server::{binary, cli_at, create, place, write};

/// Runs a command; what it printed, with its exit code.
fn run(nodes: &Nodes, arguments: &[&str]) -> (String, Option<i32>) {
    let output = cli_at(&nodes.cluster.address(), arguments, b"");
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
}

fn json(nodes: &Nodes, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(nodes, &[arguments, &["-o", "json"]].concat()).0).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_partitions_are_listed_and_described() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    // More than one page.
    create_replicated(&client, "many", 2_500, 2).await;
    all_in_sync(&client, "many").await;
    let listed = json(&nodes, &["node", "list"]);
    let states: Vec<_> = listed["nodes"].as_array().unwrap().iter().map(|node| &node["state"]).collect();
    assert_eq!(states, ["NODE_STATE_ACTIVE"; 3]);
    assert_eq!(run(&nodes, &["node", "ls", "-o", "name"]).0, "1\n2\n3\n");
    assert_eq!(run(&nodes, &["node", "describe", "7"]).1, Some(3));
    assert!(run(&nodes, &["node", "describe", "2"]).0.starts_with("node 2  active\n"));
    let found = json(&nodes, &["partition", "list", "many"]);
    assert_eq!(found["partitions"].as_array().unwrap().len(), 2_500);
    assert_eq!(run(&nodes, &["partition", "list", "--unhealthy"]).0, "no partition lacks anything\n");
    assert_eq!(run(&nodes, &["partition", "list"]).1, Some(2));
    assert_eq!(run(&nodes, &["partition", "describe", "many", "2500"]).1, Some(3));
    let last = json(&nodes, &["partition", "describe", "many", "2499"]);
    assert_eq!((&last["topic"], &last["partition"]["partition"]), (&"many".into(), &2_499.into()));
    assert_eq!(run(&nodes, &["node", "removable", "--from", "4"]).1, Some(0), "there is none");
    let held = cli_at(&nodes.cluster.address(), &["node", "removable", "--from", "2"], b"");
    let told = String::from_utf8_lossy(&held.stderr);
    assert!(told.contains("node 2 holds 2,501 replicas, node 3 holds 2,501 replicas"), "{told}");
    assert_eq!(held.status.code(), Some(6));

    nodes.kill(3);
    let lacking = async || run(&nodes, &["partition", "list", "-u", "-o", "name"]).0.lines().count() == 2_501;
    until(lacking, "every partition lacks a copy").await;
    until(async || run(&nodes, &["node", "describe", "3"]).0.contains("node 3  down"), "it is told").await;
    nodes.restart(3);
    until(async || run(&nodes, &["partition", "list", "-u"]).0.contains("no partition"), "nothing lacks").await;
}

/// It leads nothing while it is drained, whatever becomes of it and of the others, and gets its leads back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_node_is_drained_or_cordoned_is_shown_while_it_is_down() {
    let (_dir, data) = place();
    let mut nodes = Nodes::start(&data);
    for (action, shown) in [("drain", "drained"), ("cordon", "cordoned")] {
        assert_eq!(run(&nodes, &["node", action, "2"]).1, Some(0));
        nodes.kill(2);
        let down = async || run(&nodes, &["node", "list"]).0.contains(&format!("down, {shown}"));
        until(down, "it is shown as down, and with what holds when it is back").await;
        assert_eq!(json(&nodes, &["node", "describe", "2"])[shown], true);
        nodes.restart(2);
        until(async || run(&nodes, &["node", "list"]).0.contains(shown), "it is back").await;
        run(&nodes, &["node", "uncordon", "2"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained_and_gets_its_leads_back() {
    const MANY: i32 = 300;
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, MANY, 2).await;
    preferred_lead(&client, 300).await;
    for wish in ["drain", "cordon", "uncordon"] {
        assert_eq!(run(&nodes, &["node", wish, "7"]).1, Some(3), "there is none");
    }
    let drained = run(&nodes, &["node", "drain", "2"]);
    assert_eq!(drained, ("node 2  drained\n".to_owned(), Some(0)));
    assert_eq!(led_by(&client, 2, true).await, [] as [i32; 0]);
    for partition in [0, 1, 2] {
        write(&client, "t", partition, "while drained").await;
    }
    // Nothing is placed there, and what needs three nodes is refused.
    create(&client, "elsewhere", 10, &[]).await;
    assert!(partitions(&client, "elsewhere").await.iter().all(|found| found.replicas != [2]));
    let refused = cli_at(&nodes.cluster.address(), &["topic", "create", "three", "--replicas", "3"], b"");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("1 more cordoned"), "{refused:?}");
    let asked = cli_at(&nodes.cluster.address(), &["partition", "elect", "t", "1", "--node", "2"], b"");
    assert!(!asked.status.success());

    nodes.stop(2);
    nodes.restart(2);
    nodes.cluster.restart_controller();
    all_in_sync(&client, "t").await;
    until(async || run(&nodes, &["node", "list"]).0.contains("drained"), "it stays drained").await;
    assert_eq!(led_by(&client, 2, true).await, [] as [i32; 0]);
    // Whoever is the only one in service leads all the same.
    nodes.kill(1);
    nodes.kill(3);
    until(async || led_by(&client, 2, true).await.len() == 300, "it is better than nobody").await;
    let alone = run(&nodes, &["node", "drain", "2"]);
    assert_eq!(alone, (String::new(), Some(6)), "it is not said to be drained while it leads what nobody else can");
    nodes.restart(1);
    nodes.restart(3);
    until(async || led_by(&client, 2, true).await.is_empty(), "others can lead again").await;
    assert_eq!(run(&nodes, &["node", "uncordon", "2"]), ("node 2  active\n".to_owned(), Some(0)));
    preferred_lead(&client, 300).await;
}

/// A drain whose command is waiting for partitions that no other node can lead.
fn waiting_drain(nodes: &Nodes) -> (Child, BufReader<ChildStderr>) {
    let mut command = Command::new(binary());
    command.args(["node", "drain", "2"]).env("WALSER_SERVER", nodes.cluster.address());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert!(line.contains("node 2 leads"), "{line}");
    (child, told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_is_cut_short_says_that_it_stands() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 1).await;
    create(&client, "alone", 30, &[]).await;
    let led = async || partitions(&client, "alone").await.iter().any(|found| found.leader == Some(2));
    until(led, "there is something to wait for").await;
    let ended = |(mut child, mut told): (Child, BufReader<ChildStderr>)| {
        let mut text = String::new();
        told.read_to_string(&mut text).unwrap();
        (text, child.wait().unwrap().code())
    };
    let waits = waiting_drain(&nodes);
    signal(&waits.0, "INT");
    let (text, code) = ended(waits);
    assert!(text.contains("The drain stands. To end it: walser node uncordon 2"), "{text}");
    assert_eq!(code, Some(130));
    // Another controller, or this one again, shows how far it is.
    let waits = waiting_drain(&nodes);
    nodes.cluster.restart_controller();
    let (text, code) = ended(waits);
    assert!(text.contains("still leads") && text.contains("uncordon 2"), "{text}");
    assert_eq!(code, Some(6));
    // No node takes new partitions: that is why, not that nobody answers.
    for node in ["1", "3"] {
        assert_eq!(run(&nodes, &["node", "cordon", node]).1, Some(0));
    }
    let refused = cli_at(&nodes.cluster.address(), &["produce", "new", "x", "-t", "1"], b"");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.lines().any(|line| line.starts_with("error:") && line.contains("cordoned")), "{text}");
}
