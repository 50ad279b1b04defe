//! Logs to stderr, traces to an OpenTelemetry collector when one is configured.

mod reporting_exporter;

use std::io::IsTerminal as _;

use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use self::reporting_exporter::ReportingExporter;
use crate::caller::client_id;
use crate::settings::{Key, Kind, Settings};

/// Name of the header and of the metadata key that carry a trace (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// Where the services are that processes of the cluster call.
const INTERNAL: &str = "/walser.internal.";

/// Settings of logs and traces.
pub const KEYS: &[Key] = &[
    Key {
        name: "log.level",
        kind: Kind::LogFilter,
        default: "info",
        doc: "Filter for log lines: a level, or levels by module such as `warn,walser_gateway=debug`; `info` where no module is named.",
    },
    Key {
        name: "log.format",
        kind: Kind::Word(&["auto", "pretty", "json"]),
        default: "auto",
        doc: "Form of log lines on stderr; auto is pretty on a terminal and JSON elsewhere.",
    },
    Key {
        name: "otel.endpoint",
        kind: Kind::Text,
        default: "",
        doc: "OTLP/gRPC endpoint for traces, such as `http://127.0.0.1:4317`. Empty: no export.",
    },
];

/// Keeps exporters alive; dropping it sends what is buffered.
#[derive(Debug, Default)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.provider {
            let _ = provider.shutdown();
        }
    }
}

/// A filter that says something of every module: one that names only modules, one of them mistyped perhaps, would silence all
/// others.
fn with_level(filter: &str) -> String {
    let of_all = filter.split(',').any(|directive| !directive.contains('='));
    if of_all { filter.to_owned() } else { format!("info,{filter}") }
}

/// Installs logs and traces for this process.
///
/// # Errors
/// When the filter or the endpoint makes no sense, or a subscriber is installed already.
pub fn install(settings: &Settings) -> Result<Telemetry, Box<dyn std::error::Error + Send + Sync>> {
    let filter = EnvFilter::try_new(with_level(settings.text("log.level")))?;
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.text("log.format") {
        "json" => true,
        "pretty" => false,
        _ => !terminal,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(true);
    // Colours are for terminals only, whatever the form.
    let lines = lines.with_ansi(terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    let lines = if json { lines.json().boxed() } else { lines.compact().boxed() };
    let endpoint = settings.text("otel.endpoint");
    let provider = if endpoint.is_empty() { None } else { Some(provider(endpoint)?) };
    let traces = provider.as_ref().map(|provider| {
        let only_ours = EnvFilter::new("off,walser=debug,walser_rpc=debug,walser_gateway=debug");
        tracing_opentelemetry::layer().with_tracer(provider.tracer("walser")).with_filter(only_ours)
    });
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(traces).try_init()?;
    Ok(Telemetry { provider })
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider, Box<dyn std::error::Error + Send + Sync>> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    let resource = opentelemetry_sdk::Resource::builder().with_service_name("walser").build();
    let exporter = ReportingExporter::new(exporter, endpoint);
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// A span for a call, continuing the caller's trace (W3C Trace Context). Lines that are logged during the call name
/// the client, too. What processes of the cluster ask each other by themselves begins no trace.
pub fn call_span(path: &str, headers: &http::HeaderMap) -> tracing::Span {
    let traced = headers.contains_key(TRACEPARENT);
    if path.starts_with(INTERNAL) && !traced {
        return tracing::Span::none();
    }
    let client_id = client_id(headers);
    let span =
        tracing::debug_span!(target: "walser", "call", otel.name = path, otel.kind = "server", client_id = client_id);
    if !span.is_disabled() && traced {
        let context = TraceContextPropagator::new().extract(&Headers(headers));
        let _ = span.set_parent(context);
    }
    span
}

/// A span for a batch on its way, which continues the trace of its records (W3C Trace Context). None, where that is
/// not one, or not sampled, or nobody takes spans.
pub fn batch_span(name: &'static str, partition: impl std::fmt::Display, traceparent: &str) -> tracing::Span {
    let carrier = std::collections::HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    // A span that exists is exported, whatever becomes of it: without a parent as the root of a trace of its own.
    if !context.span().span_context().is_sampled() {
        return tracing::Span::none();
    }
    let span = tracing::debug_span!(target: "walser", "batch", otel.name = name, partition = %partition);
    if !span.is_disabled() {
        let _ = span.set_parent(context);
    }
    span
}

/// What carries a span to other processes; `None` where it is not part of a trace.
pub fn traceparent(span: &tracing::Span) -> Option<String> {
    if span.is_none() {
        return None;
    }
    let mut carrier = std::collections::HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier.remove(TRACEPARENT)
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
    use super::with_level;

    #[test]
    fn a_filter_of_modules_leaves_the_others_at_info() {
        for (given, used) in [("warn", "warn"), ("a=debug", "info,a=debug"), ("off,a=debug", "off,a=debug")] {
            assert_eq!(with_level(given), used);
        }
    }
}
