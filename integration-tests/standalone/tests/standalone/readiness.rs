//! What is said of topics, partitions and gateways is true also when something is away or damaged.

use std::path::{Path, PathBuf};

use walser_client::Client;
use walser_proto::v1 as pb;
use walser_rpc::ApiError;

use crate::cluster_up::Up;
use crate::faults::{get, get_from, until};
use crate::processes::Cluster;
use crate::server::{PATIENCE, Server, create, place, record};

async fn write(client: &Client, topic: &str) {
    let request = pb::ProduceRequest { topic: topic.to_owned(), records: vec![record("x")], ..Default::default() };
    client.producer().produce(request).await.unwrap();
}

async fn topic(client: &Client, name: &str) -> pb::Topic {
    let found = client.topics().get_topic(pb::GetTopicRequest { name: name.to_owned() }).await;
    found.unwrap().into_inner().topic.unwrap()
}

async fn is_ready(client: &Client, name: &str) -> bool {
    topic(client, name).await.state() == pb::TopicState::Ready
}

/// Partitions of a topic, in small pages.
async fn all_partitions(client: &Client, topic: &str, only_unhealthy: bool) -> Vec<pb::Partition> {
    let mut request =
        pb::ListPartitionsRequest { topic: topic.to_owned(), only_unhealthy, page_size: 50, ..Default::default() };
    let mut partitions = Vec::new();
    loop {
        let page = client.topics().list_partitions(request.clone()).await.unwrap().into_inner();
        partitions.extend(page.partitions.into_iter().filter_map(|info| info.partition));
        if page.next_page_token.is_empty() {
            return partitions;
        }
        request.page_token = page.next_page_token;
    }
}

/// How the creation of a topic would be refused, if it would.
async fn refused_creation(client: &Client) -> Option<ApiError> {
    let topic = pb::Topic { name: "other".to_owned(), ..Default::default() };
    let request = pb::CreateTopicRequest { topic: Some(topic), validate_only: true, ..Default::default() };
    client.topics().create_topic(request).await.err().map(ApiError::from)
}

/// The topics of all partitions that are not healthy.
async fn unhealthy(client: &Client) -> Vec<String> {
    let request = pb::ListPartitionsRequest { only_unhealthy: true, ..Default::default() };
    let listed = client.topics().list_partitions(request).await.unwrap().into_inner();
    let mut topics: Vec<_> = listed.partitions.into_iter().map(|partition| partition.topic).collect();
    topics.sort_unstable();
    topics
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_ready_while_a_storage_node_answers_and_a_topic_while_its_leader_is_in_service() {
    let (_dir, data) = place();
    let mut cluster = Cluster::without_storage(&data);
    let gateway = cluster.gateway_admin();
    assert!(get_from(&gateway, "/readyz").starts_with("HTTP/1.1 503"));
    until(async || get_from(&gateway, "/readyz").contains("no storage node is known"), "the gateway says why").await;
    cluster.start_storage();
    let ready = async || get_from(&gateway, "/readyz").starts_with("HTTP/1.1 200");
    until(ready, "the gateway is ready").await;
    let client = cluster.client();
    create(&client, "t", 2, &[]).await;
    write(&client, "t").await;
    assert!(is_ready(&client, "t").await);
    assert!(unhealthy(&client).await.is_empty());

    cluster.kill_storage();
    until(async || !ready().await, "the gateway says that no storage node answers").await;
    assert!(get_from(&gateway, "/readyz").contains("none of the 1 storage nodes"));
    until(async || !is_ready(&client, "t").await, "the topic is not ready").await;
    until(async || unhealthy(&client).await == ["t", "t"], "both partitions are listed").await;
    let away = topic(&client, "t").await;
    let stats = away.stats.unwrap();
    assert_eq!((away.state(), stats.offline_count), (pb::TopicState::Degraded, 2));
    assert_eq!((stats.record_count, stats.size_bytes), (None, None), "nobody knows them");
    for partition in all_partitions(&client, "t", false).await {
        assert_eq!((partition.high_watermark, partition.log_start_offset, partition.size_bytes), (None, None, None));
        assert!(partition.problem.is_some() && !partition.damaged);
    }
    // Nobody can take a replica: that is no fault of the replication factor, and passes.
    until(async || refused_creation(&client).await.is_some(), "the controller has noticed that the node is away").await;
    let refused = refused_creation(&client).await.unwrap();
    assert_eq!((refused.reason_name(), refused.code()), ("LEADER_NOT_AVAILABLE", tonic::Code::Unavailable));
    assert!(refused.message().contains("no storage node is in service"), "{refused}");
    cluster.start_storage();
    until(async || is_ready(&client, "t").await, "the topic is ready again").await;
    until(ready, "the gateway is ready again").await;
    assert!(unhealthy(&client).await.is_empty());

    // Records flow without a controller: clients keep their gateway.
    cluster.kill_controller();
    write(&client, "t").await;
    assert!(ready().await);
}

/// Directories of the partitions of a data directory.
fn partitions(data: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(data.join("logs")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_with_partitions_that_are_damaged_or_cannot_be_opened_are_not_ready() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    let mut paths = Vec::new();
    for name in ["good", "damaged", "unusable"] {
        create(&client, name, 1, &[]).await;
        let before = partitions(&data);
        for _ in 0..3 {
            write(&client, name).await;
        }
        paths.push(partitions(&data).into_iter().find(|path| !before.contains(path)).unwrap());
    }
    assert!(unhealthy(&client).await.is_empty());
    let data = server.kill();
    let log = paths[1].join("00000000000000000000.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[80] ^= 0x55;
    std::fs::write(&log, bytes).unwrap();
    let epochs = paths[2].join("leader-epochs");
    std::fs::rename(&epochs, paths[2].join("aside")).unwrap();
    std::fs::create_dir(&epochs).unwrap();

    let server = Server::start(&data);
    let client = server.client();
    until(async || unhealthy(&client).await == ["damaged", "unusable"], "both are listed, and nothing else").await;
    for (name, expected) in [("good", true), ("damaged", false), ("unusable", false)] {
        assert_eq!(is_ready(&client, name).await, expected, "{name}");
    }
    let listed = client.topics().list_topics(pb::ListTopicsRequest::default()).await.unwrap().into_inner().topics;
    let ready: Vec<_> = listed.iter().filter(|topic| topic.state() == pb::TopicState::Ready).collect();
    assert!(ready.len() == 1 && ready[0].name == "good", "{listed:?}");
    let probe = get(&server, "/readyz");
    assert!(probe.starts_with("HTTP/1.1 200"), "two partitions are no reason to take all from their clients: {probe}");
    assert!(probe.contains("partition damaged/0 (") && probe.contains("partition unusable/0 ("), "{probe}");
    let damaged = server.logged("durable records are damaged");
    assert!(damaged[0]["partition"].as_str().unwrap().starts_with("damaged/0 ("), "{damaged:?}");
    let states = ["damaged", "unusable"].map(|name| listed.iter().find(|topic| topic.name == name).unwrap().state());
    assert_eq!(states, [pb::TopicState::Degraded; 2]);
    let damaged = all_partitions(&client, "damaged", true).await.remove(0);
    assert!(damaged.damaged && damaged.problem.unwrap().contains("from offset"), "the reads below it go on");
    assert!(damaged.high_watermark.is_some());
    let unusable = all_partitions(&client, "unusable", true).await.remove(0);
    assert!(!unusable.damaged && unusable.problem.unwrap().contains("cannot be opened"));
    assert_eq!(unusable.high_watermark, None);
    let described = |name| String::from_utf8(server.cli_ok(&["topic", "describe", name])).unwrap();
    assert!(described("good").contains("good  ready\n1 partition · 1 replica · 3 records"), "{}", described("good"));
    let text = described("damaged");
    assert!(text.contains("damaged  degraded\n") && text.contains("! partition 0: records from offset"), "{text}");
    let text = described("unusable");
    assert!(text.contains("an unknown number of records · of unknown size"), "{text}");
    assert!(text.contains("! partition 0: cannot be opened"), "{text}");
    let text = String::from_utf8(server.cli_ok(&["topic", "list"])).unwrap();
    let words = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect();
    let row: Vec<&str> = words("unusable");
    assert_eq!(row, ["unusable", "1", "1", "?", "?", "degraded"]);

    server.cli_ok(&["partition", "repair", "damaged", "0", "--accept-loss"]);
    until(async || is_ready(&client, "damaged").await, "what was repaired is ready").await;
    assert_eq!(unhealthy(&client).await, ["unusable"]);
    server.assert_no_panic();
}

/// A gateway may be started before everything else: it says so instead of letting its clients wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_has_not_met_its_controller_answers_and_works_once_it_has() {
    let (_dir, data) = place();
    // Somebody who takes connections and never says anything.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let mut cluster = Cluster::gateway_alone(&data, &address);
    let client = cluster.client();
    let unavailable = async || {
        let listed = client.cluster().list_nodes(pb::ListNodesRequest::default()).await;
        let records = vec![record("x")];
        let request = pb::ProduceRequest { topic: "t".to_owned(), records, ..Default::default() };
        let produced = client.producer().produce(request).await;
        for failure in [listed.unwrap_err(), produced.unwrap_err()].map(ApiError::from) {
            assert_eq!(failure.reason_name(), "CONTROLLER_NOT_AVAILABLE", "{failure}");
        }
        let probe = get_from(&cluster.gateway_admin(), "/readyz");
        assert!(probe.starts_with("HTTP/1.1 503") && probe.contains("no controller has answered yet"), "{probe}");
    };
    tokio::time::timeout(PATIENCE, unavailable()).await.expect("a silent controller leaves no call waiting");
    drop(silent);
    tokio::time::timeout(PATIENCE, unavailable()).await.expect("nor does one that is not there");
    cluster.start_controller(&address);
    cluster.start_storage();
    let gateway = cluster.gateway_admin();
    until(async || get_from(&gateway, "/readyz").starts_with("HTTP/1.1 200"), "the gateway is ready").await;
    let client = cluster.client();
    create(&client, "t", 1, &[]).await;
    write(&client, "t").await;
    let failed = cluster.gateway_log().lines().filter(|line| line.contains("failed and is retried")).count();
    assert!((1..10).contains(&failed), "an outage is not reported at each attempt: {failed}");
}

/// A node reports no more than 100 of them to its controller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_damaged_partitions_of_a_topic_are_listed_however_many_there_are() {
    const COUNT: i32 = 120;
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", COUNT + 1, &[]).await;
    for partition in (0..3).flat_map(|_| 0..COUNT) {
        let request = pb::ProduceRequest {
            topic: "t".to_owned(),
            partition: Some(partition),
            records: vec![record("x")],
            ..Default::default()
        };
        client.producer().produce(request).await.unwrap();
    }
    let data = server.kill();
    for path in partitions(&data).into_iter().filter(|path| path.is_dir()) {
        let log = path.join("00000000000000000000.log");
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[80] ^= 0x55;
        std::fs::write(&log, bytes).unwrap();
    }
    let server = Server::start(&data);
    let client = server.client();
    assert_eq!(all_partitions(&client, "t", false).await.len(), usize::try_from(COUNT).unwrap() + 1);
    let damaged = all_partitions(&client, "t", true).await;
    assert!(damaged.iter().all(|partition| partition.damaged), "{damaged:?}");
    assert_eq!(damaged.iter().map(|partition| partition.partition).collect::<Vec<_>>(), (0..COUNT).collect::<Vec<_>>());
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_node_is_ready_once_its_replicas_have_been_in_sync() {
    let (_place, dir) = place();
    let up = Up::start_with(&dir, &["--storage-nodes", "2"]);
    let client = up.client();
    let config = [("min.insync.replicas".to_owned(), "1".to_owned())].into();
    let topic = pb::Topic { name: "t".to_owned(), replication_factor: 2, config, ..Default::default() };
    let request = pb::CreateTopicRequest { topic: Some(topic), ..Default::default() };
    client.topics().create_topic(request).await.unwrap();
    up.act_ok(&["kill", "storage-node", "2"]);
    write(&client, "t").await;
    let probe = |up: &Up, node: i64| get_from(&up.address("storage-node", node, "admin"), "/readyz");
    up.act_ok(&["kill", "storage-node", "1"]);
    // What it misses only the other one has.
    up.act_ok(&["start", "storage-node", "2"]);
    let waiting = async || probe(&up, 2).contains("1 of 1 replicas have not been in sync since the start");
    until(waiting, "the node waits for its replica").await;
    assert!(probe(&up, 2).starts_with("HTTP/1.1 503"));
    assert!(get_from(&up.address("storage-node", 2, "admin"), "/startupz").starts_with("HTTP/1.1 200"));
    up.act_ok(&["start", "storage-node", "1"]);
    until(async || probe(&up, 2).starts_with("HTTP/1.1 200"), "the node is ready").await;
    // It stays so: what happens later is no matter of its start.
    up.act_ok(&["kill", "storage-node", "1"]);
    assert!(probe(&up, 2).starts_with("HTTP/1.1 200"));
}
