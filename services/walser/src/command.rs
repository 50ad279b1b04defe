//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod cluster;
pub(crate) mod completion;
mod confirm;
pub(crate) mod consume;
pub(crate) mod context;
pub(crate) mod debug;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod group;
pub(crate) mod log;
pub(crate) mod metadata;
pub(crate) mod node;
pub(crate) mod partition;
pub(crate) mod produce;
pub(crate) mod proto;
mod screen;
pub(crate) mod set_aside;
pub(crate) mod status;
pub(crate) mod tls;
pub(crate) mod topic;

use std::process::ExitCode;
use std::time::Duration;

use tracing::Instrument as _;
use walser_service::telemetry::{self, Telemetry};

use crate::cli::Command;
use crate::error::CliError;
use crate::output;

/// Where the environment names a collector of traces, as every program with OpenTelemetry reads it.
const COLLECTORS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// A collector that hangs holds a command up for so long.
const FLUSH_MAX: Duration = Duration::from_millis(500);

/// Runs a command that talks to a server, as a part of a trace where the environment names a collector.
pub(crate) async fn remote(command: Command) -> Result<ExitCode, CliError> {
    let named = |name: &&str| std::env::var(name).ok().filter(|named| !named.is_empty());
    let collector = COLLECTORS.iter().find_map(named);
    // What all programs of a shell or a pod share may name a collector of another kind.
    let installed = telemetry::install_for_command(collector.as_deref(), "walser-cli");
    let telemetry = installed.unwrap_or_else(|error| {
        output::warning(&format!("{}: {error}; the command is in no trace", COLLECTORS[1]));
        Telemetry::default()
    });
    let span = span(&command);
    let ended = run(command).instrument(span).await;
    // What is left of the trace is sent while this runtime goes on.
    let _ = tokio::task::spawn_blocking(move || telemetry.end_within(FLUSH_MAX)).await;
    ended
}

fn span(command: &Command) -> tracing::Span {
    match command {
        Command::Produce(produce) => telemetry::command_span("walser produce", Some(&produce.topic)),
        Command::Consume(_) => telemetry::command_span("walser consume", None),
        _ => telemetry::command_span("walser", None),
    }
}

async fn run(command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Produce(arguments) => Box::pin(produce::run(*arguments)).await,
        Command::Consume(arguments) => Box::pin(consume::run(arguments)).await,
        Command::Topic(command) => Box::pin(topic::run(command)).await,
        Command::Group(command) => Box::pin(group::run(command)).await,
        Command::Status(arguments) => Box::pin(status::run(arguments)).await,
        Command::Doctor(arguments) => Box::pin(doctor::run(arguments)).await,
        Command::Debug(command) => Box::pin(debug::run(command)).await,
        Command::Demo(arguments) => Box::pin(demo::run(arguments)).await,
        Command::Bench(command) => Box::pin(bench::run(command)).await,
        Command::Node(command) => node::run(command).await,
        Command::Partition(command) => Box::pin(partition::run(command)).await,
        Command::Metadata(command) => Box::pin(metadata::run(command)).await,
        _ => Err(CliError::failed("this command does not talk to a server")),
    }
}
