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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;
use walser_client::{ApiError, Reason};
use walser_model::{Clock as _, SystemClock};
use walser_proto::v1 as pb;

use crate::cli::{BenchArgs, BenchCommand};
use crate::error::CliError;
use crate::output;
use crate::progress::{Progress, Total};
use crate::server::Server;
use crate::signal::Interrupts;
use process::Usage;

/// Time to run where nobody says how much.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// How long the end waits for the topic to be removed.
const REMOVE_MAX: Duration = Duration::from_secs(10);

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

impl Seen {
    /// So much more is done.
    pub(crate) fn add(&self, records: u64, bytes: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
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

/// What was done so far, for people who wait.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    records: AtomicU64,
    bytes: AtomicU64,
}

/// The topic that is worked on.
struct BenchTopic {
    name: String,
    partitions: i32,
    /// It was made for this run, and goes with it.
    own: bool,
}

pub(crate) async fn run(command: BenchCommand) -> Result<ExitCode, CliError> {
    let arguments = match &command {
        BenchCommand::Produce(arguments) | BenchCommand::Consume(arguments) | BenchCommand::E2e(arguments) => {
            arguments.clone()
        }
    };
    if arguments.duration == Some(0) {
        return Err(CliError::usage("--duration is to be more than 0"));
    }
    let mut interrupts = Interrupts::listen()?;
    let server = Server::of(&arguments.server)?;
    let clock = Arc::new(SystemClock::start());
    let consuming = matches!(command, BenchCommand::Consume(_));
    let topic = topic_unless_interrupted(&server, &arguments, consuming, &clock, &mut interrupts).await?;
    let arguments = BenchArgs { partitions: topic.partitions, ..arguments };
    let measuring = Box::pin(measure(&command, &arguments, &server, &topic, &clock));
    let outcome = tokio::select! {
        outcome = measuring => outcome.map(|()| ExitCode::SUCCESS),
        interrupt = interrupts.next() => {
            output::note("interrupted: nothing was measured");
            Ok(ExitCode::from(interrupt.exit_code()))
        }
    };
    if topic.own {
        remove(&server, &topic.name).await;
    }
    outcome
}

/// Removes the topic of this run. That it is left is no reason to hide the figures.
async fn remove(server: &Server, name: &str) {
    let request = pb::DeleteTopicRequest { name: name.to_owned(), etag: String::new() };
    let mut client = server.client.topics();
    let removing = tokio::time::timeout(REMOVE_MAX, client.delete_topic(request)).await;
    let why = match removing {
        Ok(Ok(_)) => return,
        Ok(Err(status)) => ApiError::from(status).message().to_owned(),
        Err(_elapsed) => "the server does not answer".to_owned(),
    };
    output::warning(&format!("topic \"{name}\" is left: {why}"));
    output::help(&format!("`walser topic delete {name}`"));
}

async fn measure(
    command: &BenchCommand,
    arguments: &BenchArgs,
    server: &Server,
    topic: &BenchTopic,
    clock: &Arc<SystemClock>,
) -> Result<(), CliError> {
    let (client, name) = (&server.client, topic.name.as_str());
    let failed = |failure: ApiError| server.failed(failure);
    let mut servers = arguments.server_pid.clone();
    if servers.is_empty() {
        servers.extend(process::listening(&server.address));
    }
    let seen = Arc::new(Seen::default());
    if matches!(command, BenchCommand::Consume(_)) && topic.own {
        // Something to read: written first, and not counted.
        let records = arguments.records.unwrap_or(1_000_000);
        let fill =
            BenchArgs { records: Some(records), duration: None, rate: None, in_flight: None, ..arguments.clone() };
        let span = Span { warm_until: Duration::ZERO, end: None, records };
        output::note(&format!("writing {} to read", output::plural(i64::try_from(records).unwrap_or(0), "record")));
        let writing = load::produce(client, name, &fill, clock, span, None, &seen);
        shown(writing, &seen, Total::Records(records)).await.map_err(failed)?;
    }
    let start = clock.monotonic();
    let warm_until = start + Duration::from_millis(arguments.warm_up);
    let duration = arguments.duration.map(Duration::from_millis);
    let duration = duration.or_else(|| arguments.records.is_none().then_some(DURATION_DEFAULT));
    let records = arguments.records.unwrap_or(u64::MAX);
    let span = Span { warm_until, end: duration.map(|duration| warm_until + duration), records };
    let total = match (command, arguments.records, duration) {
        (_, Some(records), _) => Total::Records(records),
        (BenchCommand::Consume(_), None, _) | (_, None, None) => Total::Unknown,
        (_, None, Some(duration)) => Total::Time(duration),
    };
    let usage = tokio::spawn(Usage::measure(servers, Arc::clone(clock), warm_until));
    let seen = Arc::new(Seen::default());
    let measured = match command {
        BenchCommand::Produce(_) => {
            shown(load::produce(client, name, arguments, clock, span, None, &seen), &seen, total).await
        }
        BenchCommand::Consume(_) => shown(consume::consume(client, name, clock, &seen), &seen, total).await,
        BenchCommand::E2e(_) => {
            shown(consume::end_to_end(client, name, arguments, clock, span, &seen), &seen, total).await
        }
    };
    let measured = match measured {
        Ok(measured) => measured,
        Err(failure) if failure.reason() == Reason::RequestTimedOut => {
            let why = super::produce::obstacle(client, name, 0).await;
            return Err(failed(failure).with_why(why));
        }
        Err(failure) => return Err(failed(failure)),
    };
    let usage = usage.await.map_err(|error| CliError::failed(error.to_string()))?.until_now();
    report(arguments, &measured, &usage)
}

/// Shows how far the work is, while it goes on.
async fn shown<T>(work: impl Future<Output = T>, seen: &Seen, total: Total) -> T {
    let showing = async {
        let mut progress = Progress::start(total, true);
        let (mut records, mut bytes) = (0, 0);
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let now = (seen.records.load(Ordering::Relaxed), seen.bytes.load(Ordering::Relaxed));
            progress.add(now.0 - records, now.1 - bytes);
            (records, bytes) = now;
        }
    };
    tokio::select! {
        done = Box::pin(work) => done,
        () = showing => unreachable!("it is shown until the work is done"),
    }
}

/// The topic to work on. After a signal what was made for this run is removed: the server may have made it already.
async fn topic_unless_interrupted(
    server: &Server,
    arguments: &BenchArgs,
    consuming: bool,
    clock: &SystemClock,
    interrupts: &mut Interrupts,
) -> Result<BenchTopic, CliError> {
    let mut creating = Box::pin(topic(server, arguments, consuming, clock.now_millis()));
    let interrupt = tokio::select! {
        topic = &mut creating => return topic,
        interrupt = interrupts.next() => interrupt,
    };
    match tokio::time::timeout(REMOVE_MAX, creating).await {
        Ok(Ok(topic)) if topic.own => remove(server, &topic.name).await,
        Ok(_) => {}
        Err(_elapsed) => output::warning("the server has not said whether it has created the topic"),
    }
    Err(CliError::interrupted(interrupt))
}

/// The topic to work on: made for this run, or one that is there where that is asked for.
async fn topic(server: &Server, arguments: &BenchArgs, consuming: bool, now: i64) -> Result<BenchTopic, CliError> {
    let mut client = server.client.topics();
    if let Some(name) = arguments.topic.as_ref().filter(|_| consuming || arguments.reuse) {
        let found = server.answered(client.get_topic(pb::GetTopicRequest { name: name.clone() }).await)?;
        let partitions = found.topic.map_or(0, |topic| topic.partition_count);
        return Ok(BenchTopic { name: name.clone(), partitions, own: false });
    }
    let name = arguments.topic.clone().unwrap_or_else(|| format!("bench-{now}-{}", std::process::id()));
    let config = [("durability".to_owned(), arguments.durability.name().to_owned())].into();
    let topic = pb::Topic { name: name.clone(), partition_count: arguments.partitions, config, ..Default::default() };
    let request = pb::CreateTopicRequest { topic: Some(topic), ..Default::default() };
    let created = client.create_topic(request).await.map_err(ApiError::from);
    match created {
        Ok(_) => Ok(BenchTopic { name, partitions: arguments.partitions, own: true }),
        Err(failure) if failure.reason() == Reason::TopicExists => {
            let help = "--reuse writes into it and leaves it there; without --topic a new one is made and removed";
            Err(server
                .failed(ApiError::new(Reason::TopicExists, format!("topic \"{name}\" already exists")))
                .with_help(help))
        }
        Err(failure) => Err(server.failed(failure)),
    }
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
