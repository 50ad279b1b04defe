//! The calls of a listener as one metric: how many, how long, and how they ended.
//!
//! Name and labels are those of the OpenTelemetry conventions for RPC (`rpc.server.call.duration`), in the form that
//! Prometheus gives them.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use prometheus::{Histogram, HistogramVec};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::api_error::ApiError;

const NAME: &str = "rpc_server_call_duration_seconds";
const HELP: &str = "Time of a call at the gRPC port, to the end of its answer; a stream is one call.";
const LABELS: [&str; 3] = ["rpc_method", "rpc_response_status_code", "error_type"];

/// Methods of services that are not described in this project.
const FOREIGN_METHODS: [&str; 5] = [
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/List",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// The method of calls to methods that do not exist: whatever callers send, the label has no more values than there are
/// methods, and this one.
const OTHER_METHOD: &str = "_OTHER";

/// The durations of calls, by method. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct CallMetrics {
    by_path: Arc<HashMap<String, Arc<Method>>>,
    other: Arc<Method>,
}

/// A method that is called.
#[derive(Debug)]
struct Method {
    name: String,
    durations: HistogramVec,
    /// Of calls that end well: kept, because most do.
    ok: OnceLock<Histogram>,
}

/// A call under way. Dropped before its end, it counts as cancelled.
#[derive(Debug)]
pub(crate) struct RunningCall {
    method: Arc<Method>,
    began: Instant,
    ended: bool,
    /// Lasts as long as the call, and says how it ends.
    span: tracing::Span,
}

// === impl CallMetrics ===

impl CallMetrics {
    /// `register` makes the histogram with this name, help and these labels.
    pub(crate) fn new(register: impl FnOnce(&str, &str, &[&str]) -> HistogramVec) -> Self {
        let durations = register(NAME, HELP, &LABELS);
        let method = |name: String| Arc::new(Method { name, durations: durations.clone(), ok: OnceLock::new() });
        let own = FileDescriptorSet::decode(walser_proto::DESCRIPTORS).expect("the build of the contract wrote it");
        let own = own.file.iter().flat_map(|file| {
            file.service.iter().flat_map(move |service| {
                service
                    .method
                    .iter()
                    .map(move |method| format!("{}.{}/{}", file.package(), service.name(), method.name()))
            })
        });
        let names = own.chain(FOREIGN_METHODS.map(str::to_owned));
        let by_path = names.map(|name| (format!("/{name}"), method(name))).collect();
        Self { by_path: Arc::new(by_path), other: method(OTHER_METHOD.to_owned()) }
    }

    /// A call begins.
    pub(crate) fn begin(&self, path: &str, span: tracing::Span) -> RunningCall {
        let method = Arc::clone(self.by_path.get(path).unwrap_or(&self.other));
        RunningCall { method, began: Instant::now(), ended: false, span }
    }
}

// === impl Method ===

impl Method {
    fn ok(&self) -> &Histogram {
        self.ok.get_or_init(|| self.durations.with_label_values(&[self.name.as_str(), "OK", ""]))
    }

    fn failed(&self, code: Code, reason: &str) -> Histogram {
        self.durations.with_label_values(&[self.name.as_str(), code_name(code), reason])
    }
}

// === impl RunningCall ===

impl RunningCall {
    /// The call ends as these headers or trailers say, if they say it.
    pub(crate) fn end_with(&mut self, headers: &http::HeaderMap) {
        let Some(code) = headers.get("grpc-status").filter(|_| !self.ended) else { return };
        self.ended = true;
        let took = self.began.elapsed().as_secs_f64();
        if code.as_bytes() == b"0" {
            self.span.record("rpc.response.status_code", code_name(Code::Ok));
            return self.method.ok().observe(took);
        }
        let failure = ApiError::from(Status::from_header_map(headers).unwrap_or_else(|| Status::unknown("no status")));
        self.method.failed(failure.code(), failure.reason_name()).observe(took);
        self.span.record("rpc.response.status_code", code_name(failure.code()));
        if is_of_server(failure.code()) {
            self.span.record("error.type", failure.reason_name());
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

/// Whether the server has failed, not the caller (semantic conventions for gRPC).
fn is_of_server(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        if !self.ended {
            self.method.failed(Code::Cancelled, "CANCELLED").observe(self.began.elapsed().as_secs_f64());
            self.span.record("rpc.response.status_code", code_name(Code::Cancelled));
        }
        // What exports it takes the last time that it was left for its end: of a stream the handler ends when that begins.
        self.span.in_scope(|| ());
    }
}

/// A code as gRPC writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;
    use crate::Reason;

    fn metrics() -> (CallMetrics, HistogramVec) {
        let mut made = None;
        let metrics = CallMetrics::new(|name, help, labels| {
            let histograms = HistogramVec::new(HistogramOpts::new(name, help), labels).unwrap();
            made.insert(histograms).clone()
        });
        (metrics, made.unwrap())
    }

    #[tokio::test]
    async fn a_call_counts_once_by_method_code_and_reason() {
        let (metrics, durations) = metrics();
        let count = |labels: [&str; 3]| durations.with_label_values(&labels).get_sample_count();
        let mut ok = http::HeaderMap::new();
        Status::new(Code::Ok, "").add_header(&mut ok).unwrap();
        let mut failed = http::HeaderMap::new();
        Status::from(ApiError::new(Reason::TopicNotFound, "there is none")).add_header(&mut failed).unwrap();

        let produce = "walser.v1.ProducerService/Produce";
        let mut call = metrics.begin(&format!("/{produce}"), tracing::Span::none());
        call.end_with(&http::HeaderMap::new());
        call.end_with(&ok);
        call.end_with(&failed);
        drop(call);
        metrics.begin(&format!("/{produce}"), tracing::Span::none()).end_with(&failed);
        drop(metrics.begin(&format!("/{produce}"), tracing::Span::none()));
        metrics.begin("/any.Thing/AtAll", tracing::Span::none()).end_with(&failed);

        assert_eq!(count([produce, "OK", ""]), 1);
        assert_eq!(count([produce, "NOT_FOUND", "TOPIC_NOT_FOUND"]), 1);
        assert_eq!(count([produce, "CANCELLED", "CANCELLED"]), 1);
        assert_eq!(count([OTHER_METHOD, "NOT_FOUND", "TOPIC_NOT_FOUND"]), 1);
    }
}
