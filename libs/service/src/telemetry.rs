//! Logs to stderr; traces, and where settings say so metrics and logs, to an OpenTelemetry collector.

mod collector;
mod log_control;
mod metrics_push;
mod otlp_metrics;
mod recent_lines;
mod reporting;
mod spans;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::WithTonicConfig as _;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::Level;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, reload};
use walser_model::{Clock, SystemClock};

use self::collector::Collector;
pub(crate) use self::log_control::FILTER_BYTES_MAX;
#[cfg(test)]
pub(crate) use self::log_control::tests as log_tests;
pub use self::log_control::{LogControl, LogFilterError};
use self::metrics_push::MetricsPush;
use self::recent_lines::{LogWriter, RecentLines};
use self::reporting::{Reception, ReportingExporter};
pub use self::spans::{
    BATCH_LINKS_MAX, BatchSpan, TRACEPARENT, batch_span, call_span, carry, command_span, is_context, is_sampled,
    record_span, sampled_here, traceparent,
};
use crate::metrics::Metrics;
use crate::settings::{Key, Kind, Settings};

/// Settings of logs, traces and the metrics that are sent.
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
        doc: "OTLP/gRPC endpoint of a collector, such as `http://127.0.0.1:4317`; with `https://`, the certificates that the system trusts count. Traces go there, and what other `otel` settings say. Empty: no export.",
    },
    Key {
        name: "otel.metrics",
        kind: Kind::Bool,
        default: "false",
        doc: "Send the metrics of the admin port to `otel.endpoint` too, under the same names, as cumulative sums, gauges and histograms.",
    },
    Key {
        name: "otel.metrics.interval.ms",
        kind: Kind::Int(1_000, 3_600_000),
        default: "60000",
        doc: "Time between two times that metrics are sent.",
    },
    Key {
        name: "otel.logs",
        kind: Kind::Bool,
        default: "false",
        doc: "Send the log lines that go to stderr to `otel.endpoint` too, with the trace that they belong to.",
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
    collector: Option<Collector>,
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    metrics: Option<MetricsPush>,
}

/// How long the end of a process waits for its collector.
const END_MAX: Duration = Duration::from_secs(2);

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

/// Installs logs and traces for this process, which traces name `service`. Returns also what changes the log later. Needs a
/// runtime.
///
/// # Errors
/// When the filter or the endpoint makes no sense, or a subscriber is installed already.
pub fn install(settings: &Settings, service: &str) -> Result<(Telemetry, LogControl), InstallError> {
    let configured = settings.text("log.level");
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(with_level(configured))?);
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.text("log.format") {
        "json" => true,
        "pretty" => false,
        _ => !terminal,
    };
    // Colours are for terminals only, whatever the form.
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let recent = RecentLines::default();
    let writer = LogWriter { recent: recent.clone(), with_escapes: colours };
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_target(true).with_ansi(colours);
    let lines = if json { lines.json().boxed() } else { lines.compact().boxed() };
    let endpoint = settings.text("otel.endpoint");
    let mut telemetry = Telemetry::default();
    if !endpoint.is_empty() {
        let collector = Collector::at(endpoint, service, Some(instance(settings)));
        let collector = collector.map_err(|error| format!("otel.endpoint: {error}"))?;
        telemetry.traces = Some(tracer_provider(&collector, settings.ratio("otel.traces.ratio"))?);
        telemetry.logs = settings.flag("otel.logs").then(|| logger_provider(&collector)).transpose()?;
        telemetry.collector = Some(collector);
    }
    let traces = telemetry.traces.as_ref().map(spans_layer);
    let sent =
        telemetry.logs.as_ref().map(|provider| OpenTelemetryTracingBridge::new(provider).with_filter(no_export()));
    tracing_subscriber::registry().with(lines.and_then(sent).with_filter(filter)).with(traces).try_init()?;
    Ok((telemetry, LogControl::new(configured, handle, recent)))
}

/// Tells processes of one service apart: storage nodes have the same name.
fn instance(settings: &Settings) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}:{}:{}", std::process::id(), settings.text("listen"))
}

/// Installs traces, and no logs, for a program that runs a command. Nothing where `endpoint` is `None`.
///
/// # Errors
/// When the endpoint makes no sense, or a subscriber is installed already.
pub fn install_for_command(endpoint: Option<&str>, service: &str) -> Result<Telemetry, InstallError> {
    let Some(endpoint) = endpoint else { return Ok(Telemetry::default()) };
    let traces = tracer_provider(&Collector::at(endpoint, service, None)?, 1.0)?;
    tracing_subscriber::registry().with(spans_layer(&traces)).try_init()?;
    let mut telemetry = Telemetry::default();
    telemetry.traces = Some(traces);
    Ok(telemetry)
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

/// Everything but what sending says itself, which would be sent, and so on.
fn no_export() -> FilterFn<impl Fn(&tracing::Metadata<'_>) -> bool> {
    let of_sending = ["opentelemetry", "tonic", "h2", "hyper", "tower", "rustls"];
    FilterFn::new(move |metadata| {
        let module = metadata.target().split("::").next().unwrap_or_default();
        !of_sending.iter().any(|name| module.starts_with(name))
    })
}

fn tracer_provider(collector: &Collector, ratio: f64) -> Result<SdkTracerProvider, InstallError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_channel(collector.channel.clone());
    let exporter = ReportingExporter::new(exporter.build()?, Reception::of("traces", &collector.endpoint));
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
    let builder = SdkTracerProvider::builder().with_batch_exporter(exporter).with_sampler(sampler);
    Ok(builder.with_resource(collector.resource.clone()).build())
}

fn logger_provider(collector: &Collector) -> Result<SdkLoggerProvider, InstallError> {
    let exporter = opentelemetry_otlp::LogExporter::builder().with_tonic().with_channel(collector.channel.clone());
    let exporter = ReportingExporter::new(exporter.build()?, Reception::of("logs", &collector.endpoint));
    let builder = SdkLoggerProvider::builder().with_batch_exporter(exporter);
    Ok(builder.with_resource(collector.resource.clone()).build())
}

// === impl Telemetry ===

impl Telemetry {
    /// Sends these metrics too from now on, where the settings say so.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn push_metrics(
        &mut self,
        settings: &Settings,
        metrics: &Metrics,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<()> {
        if let Some(collector) = self.collector.clone()
            && settings.flag("otel.metrics")
        {
            let every = settings.duration("otel.metrics.interval.ms");
            self.metrics = Some(MetricsPush::start(metrics.clone(), clock, collector, every)?);
        }
        Ok(())
    }

    /// Sends what is buffered, for so long at most.
    pub fn end_within(mut self, limit: Duration) {
        self.end(limit);
    }

    fn end(&mut self, limit: Duration) {
        let clock = SystemClock::start();
        let left = || limit.saturating_sub(clock.monotonic());
        let metrics = self.metrics.take().map(MetricsPush::send_last);
        if let Some(traces) = self.traces.take() {
            let _ = traces.shutdown_with_timeout(left());
        }
        if let Some(sent) = metrics {
            sent.wait(left());
        }
        // Last: it has what is said of the others.
        if let Some(logs) = self.logs.take() {
            let _ = logs.shutdown_with_timeout(left());
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.end(END_MAX);
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
