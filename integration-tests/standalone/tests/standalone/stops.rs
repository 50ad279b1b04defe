//! A process that is told to stop ends at once, whoever holds a stream to it, and nothing is lost or repeated.

use walser_proto::v1 as pb;

use crate::processes::Cluster;
use crate::server::{Server, create, place, read_all, record};

/// What a process prints when calls are still open at the end of its grace period.
const LATE: &str = "connections were still open when the grace period ended";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_node_that_is_stopped_under_load_ends_its_streams_and_loses_and_repeats_nothing() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    let client = cluster.client();
    create(&client, "t", 1, &[]).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let client = cluster.client();
        writers.spawn(async move {
            for number in 0..300 {
                let records = vec![record(format!("{writer}/{number}"))];
                let request = pb::ProduceRequest { topic: "t".to_owned(), records, ..Default::default() };
                client.producer().produce(request).await.unwrap();
            }
        });
    }
    while read_all(&client, "t", 0).await.len() < 50 {}
    let printed = cluster.stop_storage();
    assert!(!printed.contains(LATE), "{printed}");
    cluster.start_storage();
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    let records = read_all(&client, "t", 0).await;
    let values = records.iter().map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap()).into_owned());
    let values: Vec<_> = values.collect();
    for writer in 0..4 {
        let own: Vec<_> = values.iter().filter(|value| value.starts_with(&format!("{writer}/"))).collect();
        let expected: Vec<_> = (0..300).map(|number| format!("{writer}/{number}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>(), "each record once, in order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_is_stopped_ends_the_streams_of_nodes_and_gateways() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    let client = cluster.client();
    create(&client, "t", 1, &[]).await;
    let write = || pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() };
    client.producer().produce(write()).await.unwrap();
    let printed = cluster.stop_controller();
    assert!(!printed.contains(LATE), "{printed}");
    client.producer().produce(write()).await.unwrap();
}

/// Upgrades go from process to process, and may meet a node whose session with the controller is not back yet.
#[test]
fn a_storage_node_that_is_stopped_while_its_controller_restarts_waits_for_it_and_leaves_in_order() {
    let (_dir, data) = place();
    // For so long a node may lead without a controller.
    let mut cluster = Cluster::start_with(&data, vec!["controller.node.session.ms=60000".to_owned()]);
    let address = cluster.controller_address();
    cluster.kill_controller();
    let storage = cluster.storage_told_to_stop();
    cluster.start_controller(&address);
    let printed = storage.ended();
    assert!(!printed.contains(LATE), "{printed}");
    let printed = cluster.stop_controller();
    assert!(printed.contains("a node wants to stop"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_stopped_ends_streams_that_watch_its_health() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let (_dir, data) = place();
    let server = Server::start(&data);
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    let request = HealthCheckRequest { service: "walser.v1.ProducerService".to_owned() };
    let mut watching = health.watch(request).await.unwrap().into_inner();
    let serving = watching.message().await.unwrap().unwrap();
    assert_eq!(serving.status, 1, "SERVING");
    let printed = server.stop();
    assert!(!printed.contains(LATE), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_stopped_ends_streams_of_reflection() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};
    let (_dir, data) = place();
    let server = Server::start(&data);
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let mut reflection = ServerReflectionClient::new(channel.connect().await.unwrap());
    let (requests, stream) = tokio::sync::mpsc::channel(1);
    let message_request = Some(MessageRequest::ListServices(String::new()));
    requests.send(ServerReflectionRequest { message_request, ..Default::default() }).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let mut answers = reflection.server_reflection_info(stream).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    let printed = server.stop();
    assert!(!printed.contains(LATE), "{printed}");
    assert!(answers.message().await.unwrap().is_none());
}

/// A node that was started once with a wrong id is not in the cluster for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_another_node_is_refused_before_the_controller_hears_of_it() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 1, &[]).await;
    server.stop();
    let refused = Server::try_start(&data, &["--set", "storage.node.id=2"]).err().expect("it is of node 1");
    assert!(refused.contains("belongs to node 1, not to 2"), "{refused}");
    let server = Server::start(&data);
    let status = String::from_utf8(server.cli_ok(&["status"])).unwrap();
    assert!(status.contains("1 storage node") && status.contains("OK"), "{status}");
}

#[test]
fn a_server_whose_terminal_is_gone_stops_in_order() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    // Where a session ends both come, in any order.
    server.signal("HUP");
    server.signal("TERM");
    let data = server.ended();
    Server::start(&data).stop();
}
