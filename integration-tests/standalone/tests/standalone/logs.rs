//! What an operator finds in the log: who changed what, one line for one outage, and nothing that is for terminals.

use walser_client::Client;
use walser_proto::v1 as pb;

use crate::faults::{get, until};
use crate::processes::Cluster;
use crate::server::{Server, bound, create, place, record};

/// Changes of all kinds.
async fn change_everything(client: &Client) {
    create(client, "orders", 2, &[("retention.ms", "3600000")]).await;
    let write = pb::ProduceRequest {
        topic: "orders".to_owned(),
        partition: Some(1),
        records: vec![record("x"), record("y")],
        ..Default::default()
    };
    client.producer().produce(write).await.unwrap();
    let update = pb::UpdateTopicRequest {
        name: "orders".to_owned(),
        config_updates: [("retention.ms".to_owned(), "7200000".to_owned())].into(),
        label_updates: [("team".to_owned(), "\u{1b}[31mred".to_owned())].into(),
        ..Default::default()
    };
    client.topics().update_topic(update).await.unwrap();
    let more = pb::AddPartitionsRequest { topic: "orders".to_owned(), partition_count: 3, ..Default::default() };
    client.topics().add_partitions(more).await.unwrap();
    let truncate = pb::TruncateTopicRequest {
        topic: "orders".to_owned(),
        partitions: vec![1],
        before: Some(bound(pb::Bound::Latest)),
        ..Default::default()
    };
    client.topics().truncate_topic(truncate).await.unwrap();
    let delete = pb::DeleteTopicRequest { name: "orders".to_owned(), ..Default::default() };
    client.topics().delete_topic(delete).await.unwrap();
    let write = pb::ProduceRequest { topic: "by-writing".to_owned(), records: vec![record("x")], ..Default::default() };
    client.producer().produce(write).await.unwrap();
}

/// The fields of the one line with this message.
fn only(log: &str, message: &str) -> serde_json::Value {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut found: Vec<_> = lines.filter(|line| line["fields"]["message"] == message).collect();
    assert_eq!(found.len(), 1, "{message}: {log}");
    let mut line = found.remove(0);
    assert_eq!(line["level"], "INFO", "{line}");
    line["fields"].take()
}

fn assert_changes_are_logged(controller: &str, gateway: &str) {
    let caller = |fields: &serde_json::Value, client_id: &str| {
        assert_eq!(fields["client_id"], client_id, "{fields}");
        assert!(fields["client_address"].as_str().unwrap().starts_with("127.0.0.1:"), "{fields}");
    };
    let by_topic = |message: &str, topic: &str| {
        let mine = |line: &&str| line.contains(&format!("\"topic\":\"{topic}\""));
        let fields = only(&controller.lines().filter(mine).collect::<Vec<_>>().join("\n"), message);
        assert_eq!(fields["id"].as_str().unwrap().len(), 36, "{fields}");
        fields
    };
    let created = by_topic("topic created", "orders");
    assert_eq!((&created["partitions"], &created["config"]), (&2.into(), &"retention.ms=3600000".into()));
    caller(&created, "walser");
    let changed = by_topic("topic changed", "orders");
    assert_eq!(changed["changes"], "retention.ms: 3600000 -> 7200000, label team: none -> \u{1b}[31mred");
    caller(&changed, "walser");
    let grown = by_topic("partitions added", "orders");
    assert_eq!(grown["changes"], "partitions: 2 -> 3");
    caller(&grown, "walser");
    let deleted = by_topic("topic deleted", "orders");
    assert_eq!(deleted["partitions"], 3);
    caller(&deleted, "walser");
    let truncated = only(gateway, "topic truncated");
    assert_eq!((&truncated["topic"], &truncated["partition"]), (&"orders".into(), &1.into()));
    assert_eq!(truncated["changes"], "log start: 0 -> 2");
    caller(&truncated, "walser");
    caller(&by_topic("topic created", "by-writing"), "walser");
    assert!(!controller.contains('\u{1b}') && !gateway.contains('\u{1b}'), "escapes reach no terminal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_logged_with_who_and_what() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    change_everything(&server.client()).await;
    let log = server.stop();
    assert_changes_are_logged(&log, &log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_controller_names_the_callers_of_the_gateway() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    change_everything(&cluster.client()).await;
    let (gateway, controller) = (cluster.stop_gateway(), cluster.stop_controller());
    assert_changes_are_logged(&controller, &gateway);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repairs_are_logged_with_who_and_what() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    for _ in 0..3 {
        let write = pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() };
        client.producer().produce(write).await.unwrap();
    }
    let data = server.kill();
    let partition = std::fs::read_dir(data.join("logs")).unwrap().map(|entry| entry.unwrap().path());
    let log = partition.into_iter().find(|path| path.is_dir()).unwrap().join("00000000000000000000.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[80] ^= 0x55;
    std::fs::write(&log, bytes).unwrap();
    let server = Server::start(&data);
    server.cli_ok(&["partition", "repair", "t", "0", "--accept-loss"]);
    let repaired = server.logged("partition repaired").pop().unwrap();
    assert_eq!((&repaired["topic"], &repaired["changes"]), (&"t".into(), &"log end: 3 -> 1".into()), "{repaired}");
    assert!(repaired["client_address"].as_str().unwrap().starts_with("127.0.0.1:"), "{repaired}");
}

/// Nothing listens at the collector's address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_is_one_warning() {
    let (_dir, data) = place();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("otel.endpoint=http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let more = ["--set", "otel.logs=true", "--set", "otel.metrics=true", "--set", "otel.metrics.interval.ms=1000"];
    let server = Server::start_with(&data, &[&["--set", &endpoint], &more[..]].concat());
    create(&server.client(), "t", 1, &[]).await;
    for what in ["traces", "metrics", "logs"] {
        let warned = format!("{what} cannot be exported and are dropped until the collector takes them");
        until(async || !server.logged(&warned).is_empty(), "the outage is reported").await;
    }
    // Another batch of spans fails, at the stop at the latest.
    create(&server.client(), "u", 1, &[]).await;
    let log = server.stop();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("export") || line.contains("opentelemetry")).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_a_file_has_no_banner_and_no_escapes() {
    for format in ["auto", "pretty", "json"] {
        let (_dir, data) = place();
        let server = Server::start_with(&data, &["--set", &format!("log.format={format}")]);
        create(&server.client(), "t", 1, &[]).await;
        let address = server.address.clone();
        let log = server.stop();
        assert!(log.contains("serving") && log.contains(&address), "{format}: the addresses are there: {log}");
        assert!(!log.contains('\u{1b}') && !log.contains("Ctrl-C") && !log.contains("\n\n"), "{format}: {log}");
    }
}

#[test]
fn a_log_level_that_there_is_not_is_refused_at_the_start() {
    let (_dir, data) = place();
    for bad in ["loud", "info,walser=loud"] {
        let started = Server::try_start(&data, &["--set", &format!("log.level={bad}")]);
        let said = started.map(|_| ()).expect_err("the server started");
        assert!(said.contains("\"loud\" is not a level; write one of off, error, warn, info, debug, trace"), "{said}");
    }
}

#[test]
fn the_admin_port_says_where_the_grpc_port_is() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    for path in ["/readyz", "/metrics", "/walser.v1.TopicService/ListTopics"] {
        let answer = get(&server, path);
        assert!(answer.contains(&format!("\r\nwalser-grpc-address: {}\r\n", server.address)), "{path}: {answer}");
    }
}
