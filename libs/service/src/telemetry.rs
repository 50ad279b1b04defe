//! Logs to stderr, traces to an OpenTelemetry collector when one is configured.

mod reporting_exporter;
mod spans;

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::Level;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use self::reporting_exporter::ReportingExporter;
pub use self::spans::{
    BATCH_LINKS_MAX, BatchSpan, TRACEPARENT, batch_span, call_span, carry, command_span, is_context, is_sampled,
    record_span, sampled_here, traceparent,
};
use crate::settings::{Key, Kind, Settings};

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
    Key {
        name: "otel.traces.ratio",
        kind: Kind::Ratio,
        default: "1",
        doc: "Part of the traces that begin in this process that is exported. Those that a caller has begun are exported where the caller says so.",
    },
];

/// Keeps exporters alive; dropping it sends what is buffered.
#[derive(Debug, Default)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends what is buffered, for so long at most.
    pub fn end_within(mut self, limit: Duration) {
        if let Some(provider) = self.provider.take() {
            let _ = provider.shutdown_with_timeout(limit);
        }
    }
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

/// The target of spans, and what the names of all modules begin with.
const SPANS: &str = "walser";

/// What goes wrong when logs and traces are installed.
type InstallError = Box<dyn std::error::Error + Send + Sync>;

/// Installs logs and traces for this process, which traces name `service`.
///
/// # Errors
/// When the filter or the endpoint makes no sense, or a subscriber is installed already.
pub fn install(settings: &Settings, service: &str) -> Result<Telemetry, InstallError> {
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
    let ratio = settings.ratio("otel.traces.ratio");
    let provider = if endpoint.is_empty() { None } else { Some(provider(endpoint, service, ratio)?) };
    let traces = provider.as_ref().map(spans_layer);
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(traces).try_init()?;
    Ok(Telemetry { provider })
}

/// Installs traces, and no logs, for a program that runs a command. Nothing where `endpoint` is `None`.
///
/// # Errors
/// When the endpoint makes no sense, or a subscriber is installed already.
pub fn install_for_command(endpoint: Option<&str>, service: &str) -> Result<Telemetry, InstallError> {
    let Some(endpoint) = endpoint else { return Ok(Telemetry::default()) };
    let provider = provider(endpoint, service, 1.0)?;
    tracing_subscriber::registry().with(spans_layer(&provider)).try_init()?;
    Ok(Telemetry { provider: Some(provider) })
}

fn spans_layer<S>(provider: &SdkTracerProvider) -> impl tracing_subscriber::Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("walser"));
    let layer = layer.with_location(false).with_threads(false).with_tracked_inactivity(false);
    // Of what is logged, a trace shows what went wrong in its spans.
    let exported = FilterFn::new(|metadata| match metadata.is_span() {
        true => metadata.target() == SPANS,
        false => *metadata.level() <= Level::WARN && metadata.target().starts_with(SPANS),
    });
    layer.with_filter(exported.with_max_level_hint(Level::DEBUG))
}

fn provider(endpoint: &str, service: &str, ratio: f64) -> Result<SdkTracerProvider, InstallError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    let own = [
        KeyValue::new("service.name", service.to_owned()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    // What the environment says comes before what the program is.
    let said = |name: &str| std::env::var(name).unwrap_or_default();
    let (service, attributes) = (said("OTEL_SERVICE_NAME"), said("OTEL_RESOURCE_ATTRIBUTES"));
    let named = |key: &str| {
        let attribute = |text: &str| text.split_once('=').is_some_and(|(name, _)| name.trim() == key);
        attributes.split(',').any(attribute) || key == "service.name" && !service.is_empty()
    };
    let own = own.into_iter().filter(|own| !named(own.key.as_str()));
    let resource = Resource::builder().with_attributes(own).build();
    let exporter = ReportingExporter::new(exporter, endpoint);
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
    let builder = SdkTracerProvider::builder().with_batch_exporter(exporter).with_sampler(sampler);
    Ok(builder.with_resource(resource).build())
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
