//! One trace from the producer to every copy of its records.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use walser_proto::v1 as pb;

use crate::faults::until;
use crate::replicated::{NODES, Nodes, all_in_sync};
use crate::server::{place, read_all, record};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PRODUCER_SPAN: &str = "00f067aa0ba902b7";

/// An OpenTelemetry collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<std::sync::Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.0.lock().unwrap().extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Serves until the test ends; returns its address.
    async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        format!("http://{address}")
    }

    /// Spans of all traces.
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The spans of the trace with a name.
    fn named(&self, name: &str) -> Vec<Span> {
        let trace: Vec<u8> = hex(TRACE);
        let spans = self.0.lock().unwrap();
        spans.iter().filter(|span| span.trace_id == trace && span.name == name).cloned().collect()
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

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
    let complete = async || collector.named("append").len() == 1 && collector.named("replicate").len() == 2;
    until(complete, "the leader and both followers have told their spans").await;

    let append = collector.named("append").remove(0);
    assert_eq!(append.parent_span_id, hex(PRODUCER_SPAN), "it continues the producer's");
    for replicate in collector.named("replicate") {
        assert_eq!(replicate.parent_span_id, append.span_id, "the followers continue the leader's");
        assert!(replicate.attributes.iter().any(|attribute| attribute.key == "partition"), "{replicate:?}");
    }
    // The consumer finds the trace in the record.
    let read = read_all(&client, "t", 0).await;
    let header = &read[0].headers[0];
    assert_eq!((header.key.as_str(), read.len()), ("traceparent", 4));
    for node in 1..=NODES {
        nodes.stop(node);
    }
    assert_eq!(collector.count(), 3, "none for what is not sampled, and none of what nodes ask each other");
}
