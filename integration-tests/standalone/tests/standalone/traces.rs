//! One trace from the producer to every copy of its records.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use walser_proto::v1 as pb;

use crate::collector::{Collector, Told, hex};
use crate::faults::until;
use crate::replicated::{NODES, Nodes, all_in_sync, create_replicated};
use crate::server::{Server, binary, create, place, read_all, record};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PRODUCER_SPAN: &str = "00f067aa0ba902b7";

fn traced(value: &str, flags: &str) -> pb::Record {
    let traceparent = format!("00-{TRACE}-{PRODUCER_SPAN}-{flags}");
    let header = pb::Header { key: "traceparent".to_owned(), value: Some(traceparent.into()), raw_key: None };
    pb::Record { headers: vec![header], ..record(value) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trace_of_a_record_goes_on_in_its_leader_and_in_every_follower() {
    let (_dir, data) = place();
    let collector = Collector::default();
    let endpoint = format!("otel.endpoint={}", collector.serve().await);
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    for node in 1..=NODES {
        nodes.stop(node);
        nodes.restart_with(node, &[&endpoint]);
        all_in_sync(&client, "t").await;
    }
    for (value, flags) in [("sampled", "01"), ("not sampled", "00")] {
        let records = vec![traced(value, flags), record("without")];
        let request = pb::ProduceRequest { topic: "t".to_owned(), records, ..Default::default() };
        client.producer().produce(request).await.unwrap();
    }
    let append = collector.one("append t").await;
    until(async || collector.named("replicate t").len() == 2, "both followers have told their spans").await;
    assert_eq!(append.span.trace_id, hex(TRACE));
    assert_eq!(append.span.parent_span_id, hex(PRODUCER_SPAN), "it continues the producer's");
    for replicate in collector.named("replicate t") {
        assert_eq!(replicate.span.parent_span_id, append.span.span_id, "the followers continue the leader's");
        assert_eq!(replicate.text("messaging.destination.partition.id").as_deref(), Some("0"));
        assert_eq!(replicate.service, "walser-storage-node");
    }
    // The consumer finds the trace in the record.
    let read = read_all(&client, "t", 0).await;
    let header = &read[0].headers[0];
    assert_eq!((header.key.as_str(), read.len()), ("traceparent", 4));
    for node in 1..=NODES {
        nodes.stop(node);
    }
    assert_eq!(collector.all().len(), 3, "none for what is not sampled, and none of what nodes ask each other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_leads_from_the_producer_to_every_copy_and_the_consumer_is_linked_to_it() {
    let (_dir, data) = place();
    let collector = Collector::default();
    let collected = collector.serve().await;
    let endpoint = format!("otel.endpoint={collected}");
    let mut nodes = Nodes::not_started(&data);
    nodes.cluster.restart_gateway(&[&endpoint]);
    (1..=NODES).for_each(|node| nodes.restart_with(node, &[&endpoint]));
    let client = nodes.cluster.client();
    create_replicated(&client, "t", 1, 2).await;
    all_in_sync(&client, "t").await;

    let walser = |arguments: &[&str]| {
        let mut command = std::process::Command::new(binary());
        command.args(arguments).env("WALSER_SERVER", nodes.cluster.address()).stdin(std::process::Stdio::null());
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collected);
        command.env("TRACEPARENT", format!("00-{TRACE}-{PRODUCER_SPAN}-01"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    walser(&["produce", "t", "one record"]);
    walser(&["consume", "t", "--end"]);
    let sent = collector.one("send t").await;
    assert_eq!((sent.service.as_str(), sent.span.kind()), ("walser-cli", SpanKind::Producer));
    assert_eq!((&sent.span.trace_id, &sent.span.parent_span_id), (&hex(TRACE), &hex(PRODUCER_SPAN)));
    let call = collector.one("walser.v1.ProducerService/ProduceStream").await;
    assert_eq!((call.service.as_str(), call.span.kind()), ("walser-gateway", SpanKind::Server));
    assert_eq!((&call.span.trace_id, &call.span.parent_span_id), (&hex(TRACE), &sent.span.span_id));
    assert!(call.text("rpc.response.status_code").is_some(), "it lasts as long as the stream");
    let append = collector.one("append t").await;
    assert_eq!((&append.span.trace_id, &append.span.parent_span_id), (&hex(TRACE), &sent.span.span_id));
    let ends = |told: &Told| told.span.end_time_unix_nano;
    assert!(ends(&call) >= ends(&append), "the call lasts until what came on its stream is answered");
    until(async || collector.named("replicate t").len() == 2, "both followers have told their spans").await;
    for replicate in collector.named("replicate t") {
        assert_eq!((&replicate.span.trace_id, &replicate.span.parent_span_id), (&hex(TRACE), &append.span.span_id));
    }
    let processed = collector.one("process t").await;
    assert_eq!((processed.service.as_str(), processed.span.kind()), ("walser-cli", SpanKind::Consumer));
    let links: Vec<_> = processed.span.links.iter().map(|link| (&link.trace_id, &link.span_id)).collect();
    assert_eq!(links, [(&hex(TRACE), &sent.span.span_id)]);
    let probed = |told: &Told| told.span.name.contains("Health") || told.span.name.contains("Reflection");
    assert!(!collector.all().iter().any(probed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_several_traces_is_linked_to_each_and_calls_are_sampled() {
    let (_dir, data) = place();
    let collector = Collector::default();
    let endpoint = format!("otel.endpoint={}", collector.serve().await);
    let server = Server::start_with(&data, &["--set", &endpoint, "--set", "otel.traces.ratio=1"]);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let spans = ["00f067aa0ba902b7", "00f067aa0ba902b8"];
    let of = |span: &str| {
        let value = format!("00-{TRACE}-{span}-01").into();
        let header = pb::Header { key: "traceparent".to_owned(), value: Some(value), raw_key: None };
        pb::Record { headers: vec![header], ..record("value") }
    };
    let records = spans.iter().map(|span| of(span)).collect();
    let request = pb::ProduceRequest { topic: "t".to_owned(), records, ..Default::default() };
    client.producer().produce(request).await.unwrap();
    let append = collector.one("append t").await;
    let links: Vec<_> = append.span.links.iter().map(|link| link.span_id.clone()).collect();
    assert_eq!(links, spans.map(hex));
    assert!(append.span.parent_span_id.is_empty() && append.span.trace_id != hex(TRACE));

    // A call that is refused says why, and that it is the caller's fault.
    let missing = pb::GetTopicRequest { name: "missing".to_owned() };
    assert!(client.topics().get_topic(missing).await.is_err());
    let refused = collector.one("walser.v1.TopicService/GetTopic").await;
    assert_eq!(refused.text("rpc.response.status_code").as_deref(), Some("NOT_FOUND"));
    assert_eq!(refused.text("error.type"), None);
    drop(server);

    let collector = Collector::default();
    let endpoint = format!("otel.endpoint={}", collector.serve().await);
    let server = Server::start_with(&data, &["--set", &endpoint, "--set", "otel.traces.ratio=0"]);
    let client = server.client();
    let request = |records| pb::ProduceRequest { topic: "t".to_owned(), records, ..Default::default() };
    client.producer().produce(request(vec![record("in no trace")])).await.unwrap();
    let traced = client.clone().in_trace(&format!("00-{TRACE}-{PRODUCER_SPAN}-01"));
    traced.producer().produce(request(vec![record("in one")])).await.unwrap();
    let append = collector.one("append t").await;
    let call = collector.one("walser.v1.ProducerService/Produce").await;
    assert_eq!((&append.span.trace_id, &append.span.parent_span_id), (&hex(TRACE), &call.span.span_id));
    let read = read_all(&client, "t", 0).await;
    let traceparents: Vec<_> = read[2..].iter().map(|record| record.headers.len()).collect();
    assert_eq!(traceparents, [0, 1], "what is not exported is not put into records");
}
