//! Spans of calls and of batches, and the contexts that carry them from process to process (W3C Trace Context).
//!
//! Names and attributes are those of the semantic conventions 1.45 of OpenTelemetry for RPC and messaging.

use std::collections::HashMap;
use std::fmt::Display;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::caller::client_id;

/// Name of the header and of the metadata key that carry a trace (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// Traces that the span of a batch is linked to at most; those of further records are left out.
pub const BATCH_LINKS_MAX: usize = 32;

/// Where the services are that processes of the cluster call.
const INTERNAL: &str = "/walser.internal.";
/// What probes and tools ask for all the time.
const UNTRACED: [&str; 2] = ["/grpc.health.", "/grpc.reflection."];

/// What the span of a batch says.
#[derive(Debug, Clone, Copy)]
pub struct BatchSpan<'a, Topic> {
    /// What is done with the batch: `append`, `replicate`.
    pub name: &'static str,
    /// Name of its topic.
    pub topic: Topic,
    /// Number of its partition.
    pub partition: i32,
    /// W3C trace contexts of its records, each once.
    pub traces: &'a [std::sync::Arc<str>],
}

/// A span for a call, continuing the caller's trace. Lines that are logged during the call name the client, too. What
/// processes of the cluster ask each other by themselves begins no trace, and probes are in none.
pub fn call_span(path: &str, headers: &http::HeaderMap) -> Span {
    let traced = headers.contains_key(TRACEPARENT);
    if (path.starts_with(INTERNAL) && !traced) || UNTRACED.iter().any(|prefix| path.starts_with(prefix)) {
        return Span::none();
    }
    let (client_id, method) = (client_id(headers), path.trim_start_matches('/'));
    let span = tracing::debug_span!(
        target: "walser", "call",
        otel.name = method, otel.kind = "server", otel.status_code = Empty,
        rpc.system.name = "grpc", rpc.method = method, rpc.response.status_code = Empty, error.r#type = Empty,
        client_id = client_id,
    );
    if !span.is_disabled() && traced {
        let _ = span.set_parent(TraceContextPropagator::new().extract(&Headers(headers)));
    }
    span
}

/// A span for a batch on its way. One trace of its records is gone on with; with several, the span begins one of its own that is
/// linked to each. None, where no trace is sampled, or nobody takes spans.
pub fn batch_span<Topic: Display>(batch: &BatchSpan<'_, Topic>) -> Span {
    // A span that exists is exported, whatever becomes of it: without a parent as the root of a trace of its own.
    let contexts = batch.traces.iter().take(BATCH_LINKS_MAX).map(|trace| context(trace));
    let mut sampled = contexts.filter(|context| context.span().span_context().is_sampled());
    let Some(first) = sampled.next() else { return Span::none() };
    let span = tracing::debug_span!(
        target: "walser", parent: None, "batch",
        otel.name = %format_args!("{} {}", batch.name, batch.topic),
        messaging.system.name = "walser", messaging.operation.name = batch.name,
        messaging.destination.name = %batch.topic, messaging.destination.partition.id = %batch.partition,
    );
    if span.is_disabled() {
        return span;
    }
    match sampled.next() {
        None => drop(span.set_parent(first)),
        Some(second) => {
            let links = [first, second].into_iter().chain(sampled);
            links.for_each(|context| span.add_link(context.span().span_context().clone()));
        }
    }
    span
}

/// A span for a command of a user, continuing the trace that its environment names (`TRACEPARENT`), if there is one.
/// `topic`: what it writes to.
pub fn command_span(name: &str, topic: Option<&str>) -> Span {
    let span = match topic {
        Some(topic) => tracing::debug_span!(
            target: "walser", "command",
            otel.name = %format_args!("send {topic}"), otel.kind = "producer",
            messaging.system.name = "walser", messaging.operation.name = "send", messaging.destination.name = topic,
        ),
        None => tracing::debug_span!(target: "walser", "command", otel.name = name, otel.kind = "client"),
    };
    if let Some(text) = std::env::var("TRACEPARENT").ok().filter(|_| !span.is_disabled()) {
        let _ = span.set_parent(context(&text));
    }
    span
}

/// A span for a record that is processed, linked to the trace of the record. None, where that is not sampled, or nobody takes
/// spans.
pub fn record_span(topic: &str, partition: i32, offset: i64, trace: &str) -> Span {
    if !is_context(trace) || !is_sampled(trace) || !tracing::dispatcher::has_been_set() {
        return Span::none();
    }
    let span = tracing::debug_span!(
        target: "walser", "record",
        otel.name = %format_args!("process {topic}"), otel.kind = "consumer",
        messaging.system.name = "walser", messaging.operation.name = "process",
        messaging.destination.name = topic, messaging.destination.partition.id = %partition,
        walser.offset = offset,
    );
    span.add_link(context(trace).span().span_context().clone());
    span
}

/// What carries a span to other processes; `None` where it is not part of a trace.
pub fn traceparent(span: &Span) -> Option<String> {
    if span.is_none() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// What carries the span that the caller is in to others, where it is exported.
pub fn sampled_here() -> Option<String> {
    traceparent(&Span::current()).filter(|text| is_sampled(text))
}

/// Whether a W3C trace context says that its trace is exported.
pub fn is_sampled(traceparent: &str) -> bool {
    let flags = traceparent.get(53..55).and_then(|flags| u8::from_str_radix(flags, 16).ok());
    flags.is_some_and(|flags| flags & 1 == 1)
}

/// Bytes of a W3C trace context at most; what is longer is none.
const TRACEPARENT_BYTES_MAX: usize = 64;

/// Whether a text is a W3C trace context, as far as its form says.
pub fn is_context(text: &str) -> bool {
    let (parts, hex) = (text.as_bytes(), |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let lengths = [(0, 2), (3, 35), (36, 52), (53, 55)];
    let known = |id: &[u8]| id.iter().any(|digit| *digit != b'0');
    // A later version may have more behind it.
    let ends = || match &parts[..2] {
        b"00" => parts.len() == 55,
        version => version != b"ff" && parts.get(55).is_none_or(|next| *next == b'-'),
    };
    (55..=TRACEPARENT_BYTES_MAX).contains(&parts.len())
        && [2, 35, 52].iter().all(|at| parts[*at] == b'-')
        && lengths.iter().all(|(from, to)| parts[*from..*to].iter().all(hex))
        && known(&parts[3..35])
        && known(&parts[36..52])
        && ends()
}

/// Adds the span that the caller is in to the headers of a call to another process, where it is exported.
pub fn carry(headers: &mut http::HeaderMap) {
    if let Some(value) = sampled_here().and_then(|text| http::HeaderValue::try_from(text).ok()) {
        headers.insert(TRACEPARENT, value);
    }
}

fn context(traceparent: &str) -> Context {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier)
}

struct Headers<'a>(&'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{is_context, is_sampled};

    #[test]
    fn a_context_says_whether_its_trace_is_exported() {
        let of = |flags: &str| is_sampled(&format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}"));
        assert!(of("01") && of("03") && of("01-more"));
        assert!(!of("00") && !of("02") && !of("zz") && !of("") && !is_sampled("") && !is_sampled("é"));
    }

    #[test]
    fn what_has_another_form_is_no_context() {
        let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let later = |text: &str| format!("cc{}{text}", &context[2..]);
        assert!(is_context(context) && is_context(&later("")) && is_context(&later("-more")));
        assert!(!is_context(&format!("{context}-more")) && !is_context(&later("more")));
        assert!(
            !is_context(&context.replacen("00", "ff", 1))
                && !is_context("00-00000000000000000000000000000000-0000000000000000-01")
        );
        for cut in 0..context.len() {
            assert!(!is_context(&context[..cut]));
        }
        for odd in ["hello", &context.to_uppercase(), &context.replace('-', "_"), &"é".repeat(28), &"0".repeat(55)] {
            assert!(!is_context(odd), "{odd}");
        }
        assert!(!is_context(&later(&format!("-{}", "x".repeat(64)))));
    }
}
