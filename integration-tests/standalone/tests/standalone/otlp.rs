//! Metrics and logs that a server sends to a collector.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use walser_proto::v1 as pb;

use crate::collector::{Collector, hex, text_of};
use crate::faults::{get, until};
use crate::server::{Server, create, place, record};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The sum of a counter with one series.
fn counted(metrics: &[Metric], name: &str) -> Option<f64> {
    match &metrics.iter().find(|metric| metric.name == name)?.data {
        Some(Data::Sum(sum)) if sum.is_monotonic => match sum.data_points[..] {
            [ref point] => match point.value {
                Some(Number::AsDouble(value)) => Some(value),
                other => panic!("{name}: {other:?}"),
            },
            ref more => panic!("{name}: {more:?}"),
        },
        other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_the_metrics_of_the_admin_port_and_the_last_ones_at_the_stop() {
    const RECORDS: &str = "walser_gateway_produce_records_total";
    let (_dir, data) = place();
    let collector = Collector::default();
    let endpoint = format!("otel.endpoint={}", collector.serve().await);
    let settings = ["--set", &endpoint, "--set", "otel.metrics=true", "--set", "otel.metrics.interval.ms=1000"];
    let server = Server::start_with(&data, &settings);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let write = || pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() };
    client.producer().produce(write()).await.unwrap();
    let told = || collector.pushes().iter().any(|(_, metrics)| counted(metrics, RECORDS) == Some(1.0));
    until(async || told(), "the first record is counted").await;
    let shown = get(&server, "/metrics");
    let shown: BTreeSet<_> = shown.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for _ in 0..4 {
        client.producer().produce(write()).await.unwrap();
    }
    server.stop();
    let pushes = collector.pushes();
    let (who, last) = pushes.last().unwrap();
    assert_eq!(counted(last, RECORDS), Some(5.0), "what the stop finds is sent too");
    let sent: BTreeSet<_> = last.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!(shown.difference(&sent).collect::<Vec<_>>(), Vec::<&&str>::new(), "of {}", shown.len());
    assert_eq!(text_of(who, "service.name").as_deref(), Some("walser"));
    let instances: BTreeSet<_> = pushes.iter().map(|(who, _)| text_of(who, "service.instance.id")).collect();
    assert!(instances.len() == 1 && instances.iter().all(Option::is_some), "{instances:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_the_log_lines_with_their_trace_and_nothing_of_the_sending() {
    let (_dir, data) = place();
    let collector = Collector::default();
    let endpoint = format!("otel.endpoint={}", collector.serve().await);
    let settings = ["--set", &endpoint, "--set", "otel.logs=true", "--set", "log.level=trace"];
    let server = Server::start_with(&data, &settings);
    let topic = pb::Topic { name: "t".to_owned(), partition_count: 1, ..Default::default() };
    let mut request = tonic::Request::new(pb::CreateTopicRequest { topic: Some(topic), ..Default::default() });
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    server.client().topics().create_topic(request).await.unwrap();
    let log = server.stop();
    assert!(log.contains("h2::"), "stderr has what was asked for");
    let lines = collector.lines();
    let created: Vec<_> = lines.iter().filter(|line| line.message() == "topic created").collect();
    assert_eq!(created.len(), 1, "{created:?}");
    let created = created[0];
    assert_eq!(
        (created.target.as_str(), created.record.severity_text.as_str()),
        ("walser_controller::api::change_log", "INFO")
    );
    assert_eq!(text_of(&created.record.attributes, "topic").as_deref(), Some("t"));
    assert_eq!(created.record.trace_id, hex(TRACE), "it is found in the trace of the call");
    let of_sending =
        |target: &str| ["h2", "hyper", "tonic", "tower", "opentelemetry"].iter().any(|of| target.starts_with(of));
    assert!(lines.iter().all(|line| !of_sending(&line.target)), "they would be sent again, and again");
}
