//! `walser bench`: throughput and latency of a server, and what it costs.
//!
//! Records are built and batched as any client would. With `--rate` the loop is open: records have a schedule, and
//! latency counts from the scheduled time, so that a slow server cannot slow the measuring down (no coordinated
//! omission). MB are 10^6 bytes of values.

mod consume;
mod load;
mod process;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;
use walser_client::{Client, Failure};
use walser_model::{Clock as _, SystemClock};
use walser_proto::v1 as pb;

use crate::cli::{BenchArgs, BenchCommand};
use crate::error::CliError;
use crate::output;
use process::Usage;

/// Time to run where nobody says how much.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
    /// Microseconds.
    pub(crate) latency: Histogram<u64>,
}

/// When to begin measuring and when to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) warm_until: Duration,
    pub(crate) end: Option<Duration>,
    pub(crate) records: u64,
}

impl Measured {
    /// Nothing yet.
    pub(crate) fn empty() -> Self {
        Self { records: 0, bytes: 0, elapsed: Duration::ZERO, latency: histogram() }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are valid")
}

pub(crate) async fn run(command: BenchCommand) -> Result<ExitCode, CliError> {
    let arguments = match &command {
        BenchCommand::Produce(arguments) | BenchCommand::Consume(arguments) | BenchCommand::E2e(arguments) => {
            arguments.clone()
        }
    };
    let server = arguments.server.server.clone();
    let failed = |failure: Failure| CliError::server(failure, &server);
    let client = Client::new(&server)?;
    let clock = Arc::new(SystemClock::start());
    let topic = topic(&client, &arguments, clock.now_millis()).await.map_err(failed)?;
    let pid = arguments.server_pid.or_else(|| process::listening(&server));
    let consuming = matches!(command, BenchCommand::Consume(_));
    if consuming && arguments.topic.is_none() {
        // Something to read: written first, and not counted.
        let records = arguments.records.unwrap_or(1_000_000);
        let fill =
            BenchArgs { records: Some(records), duration: None, rate: None, in_flight: None, ..arguments.clone() };
        let span = Span { warm_until: Duration::ZERO, end: None, records };
        output::note(&format!("writing {} to read", output::plural(i64::try_from(records).unwrap_or(0), "record")));
        load::produce(&client, &topic, &fill, &clock, span, None).await.map_err(failed)?;
    }
    let start = clock.monotonic();
    let warm_until = start + Duration::from_millis(arguments.warm_up);
    let duration = arguments.duration.map(Duration::from_millis);
    let duration = duration.or_else(|| arguments.records.is_none().then_some(DURATION_DEFAULT));
    let records = arguments.records.unwrap_or(u64::MAX);
    let span = Span { warm_until, end: duration.map(|duration| warm_until + duration), records };
    let usage = tokio::spawn(Usage::measure(pid, Arc::clone(&clock), warm_until));
    let measured = match command {
        BenchCommand::Produce(_) => load::produce(&client, &topic, &arguments, &clock, span, None).await,
        BenchCommand::Consume(_) => consume::consume(&client, &topic, &clock).await,
        BenchCommand::E2e(_) => consume::end_to_end(&client, &topic, &arguments, &clock, span).await,
    };
    let measured = measured.map_err(failed)?;
    let usage = usage.await.map_err(|error| CliError::failed(error.to_string()))?.until_now(pid);
    if arguments.topic.is_none() {
        let request = pb::DeleteTopicRequest { name: topic, etag: String::new() };
        client.topics().delete_topic(request).await.map_err(|status| failed(status.into()))?;
    }
    report(&arguments, &measured, &usage)?;
    Ok(ExitCode::SUCCESS)
}

/// The topic to work on; one of its own unless it is named.
async fn topic(client: &Client, arguments: &BenchArgs, now: i64) -> Result<String, Failure> {
    let name = arguments.topic.clone().unwrap_or_else(|| format!("bench-{now}"));
    let config = [("durability".to_owned(), arguments.durability.name().to_owned())].into();
    let topic = pb::Topic { name: name.clone(), partition_count: arguments.partitions, config, ..Default::default() };
    let found = client.topics().get_topic(pb::GetTopicRequest { name: name.clone() }).await;
    if arguments.topic.is_some() && found.is_ok() {
        return Ok(name);
    }
    let request = pb::CreateTopicRequest { topic: Some(topic), ..Default::default() };
    client.topics().create_topic(request).await?;
    Ok(name)
}

fn report(arguments: &BenchArgs, measured: &Measured, usage: &Usage) -> Result<(), CliError> {
    let seconds = measured.elapsed.as_secs_f64().max(1e-6);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (megabytes, records) = (measured.bytes as f64 / 1e6, measured.records as f64);
    let latency = |quantile: f64| measured.latency.value_at_quantile(quantile);
    let figures = json!({
        "mb_per_s": round(megabytes / seconds),
        "records_per_s": round(records / seconds),
        "latency_us": {
            "p50": latency(0.5),
            "p99": latency(0.99),
            "p999": latency(0.999),
            "max": measured.latency.max(),
        },
        "client_cpu_seconds": round(usage.client_cpu_seconds),
        "server_cpu_seconds": usage.server_cpu_seconds.map(round),
        "server_rss_bytes": usage.server_rss_bytes,
        "records": measured.records,
        "bytes": measured.bytes,
        "seconds": round(seconds),
    });
    if let Some(path) = &arguments.json {
        let problem = |error: std::io::Error| CliError::failed(format!("{}: {error}", path.display()));
        std::fs::write(path, format!("{figures}\n")).map_err(problem)?;
    }
    output::data(&format!(
        "{:.1} MB/s · {:.0} records/s · latency p50 {} µs, p99 {} µs, p99.9 {} µs, max {} µs",
        megabytes / seconds,
        records / seconds,
        latency(0.5),
        latency(0.99),
        latency(0.999),
        measured.latency.max(),
    ));
    let per_gb = |cpu: f64| if megabytes > 0.0 { cpu / megabytes * 1e3 } else { 0.0 };
    let server = usage
        .server_cpu_seconds
        .map_or_else(|| "not known".to_owned(), |cpu| format!("{cpu:.2} s CPU ({:.2} per GB)", per_gb(cpu)));
    let rss = usage.server_rss_bytes.map_or_else(String::new, |rss| {
        format!(", {} resident", output::bytes(i64::try_from(rss).unwrap_or(i64::MAX)))
    });
    let client = usage.client_cpu_seconds;
    output::data(&format!("server {server}{rss} · client {client:.2} s CPU ({:.2} per GB)", per_gb(client)));
    Ok(())
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
