//! `walser produce`.

mod sink;
mod tally;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use walser_client::{ApiError, Client, Reason};
use walser_model::{Acks, Timestamp};
use walser_proto::v1 as pb;

use self::sink::Sink;
use crate::cli::ProduceArgs;
use crate::error::CliError;
use crate::input::Framing;
use crate::input::{self, Source, Then};
use crate::output;
use crate::progress::{Progress, Total};
use crate::records::reading::{Form, KeySource, Reading, header};
use crate::server::Server;
use crate::signal::{Interrupt, Interrupts};

/// The server may take so long to say what is wrong.
const SLOW: Duration = Duration::from_secs(5);
/// Records wait so long for others when no more come in.
const LINGER: Duration = Duration::from_millis(5);

/// Why records are not taken any more before the input has ended.
pub(super) enum Stop {
    /// Bad input, or no input.
    Cli(CliError),
    /// A record that can go nowhere. What is good before it is written.
    Record(ApiError),
    /// The server, for good or for too long.
    Server(ApiError),
    Interrupted(Interrupt),
    /// Standard output is closed.
    Unheard,
}

impl From<CliError> for Stop {
    fn from(error: CliError) -> Self {
        Self::Cli(error)
    }
}

impl From<ApiError> for Stop {
    fn from(failure: ApiError) -> Self {
        Self::Server(failure)
    }
}

pub(crate) async fn run(mut arguments: ProduceArgs) -> Result<ExitCode, CliError> {
    let server = Server::of(&arguments.server)?;
    let reading = reading(&arguments)?;
    let mut records = std::mem::take(&mut arguments.records);
    if records == ["-"] {
        records.clear();
        arguments.files = vec!["-".into()];
    }
    if records.iter().any(|record| record == "-") {
        let error = CliError::usage("\"-\" is standard input, and stands alone");
        return Err(error.with_help("for a record that is a dash: printf -- '-' | walser produce TOPIC"));
    }
    let verb = if arguments.acks == Acks::None { "sent" } else { "written" };
    let files = std::mem::take(&mut arguments.files);
    let (framing, skip) = (arguments.framing, arguments.skip);
    let tell = !records.is_empty();
    let mut sink = Sink::new(server.clone(), arguments, tell, Interrupts::listen()?);
    let start = tokio::time::Instant::now();
    let fed = if tell {
        Box::pin(feed_arguments(&mut sink, records, &reading)).await
    } else {
        Box::pin(feed(&mut sink, Source { files, framing, reading, skip })).await
    };
    let ended = match fed {
        // What is good before bad input is written.
        Ok(None) => sink.finish().await,
        Ok(Some(bad)) => sink.finish().await.and(Err(Stop::Cli(bad))),
        Err(Stop::Record(failure)) => sink.finish().await.and(Err(Stop::Record(failure))),
        Err(stop) => Err(stop),
    };
    let Err(stop) = ended else {
        if !tell {
            summary(&sink, start.elapsed());
        }
        return Ok(ExitCode::SUCCESS);
    };
    let interrupt = if let Stop::Interrupted(interrupt) = &stop { Some(*interrupt) } else { None };
    sink.give_up(interrupt).await;
    let bad_input = match &stop {
        Stop::Cli(_) | Stop::Record(_) => true,
        Stop::Server(failure) => [Reason::RecordInvalid, Reason::RecordTooLarge].contains(&failure.reason()),
        Stop::Interrupted(_) | Stop::Unheard => false,
    };
    let lines = if sink.is_connected() { sink.tally.lines(verb, bad_input) } else { Vec::new() };
    let error = match stop {
        Stop::Cli(error) => error,
        Stop::Server(failure) | Stop::Record(failure) => {
            let said = [sink.failed.take(), sink.obstacle.take()].into_iter().flatten();
            // Not every refusal says of which topic it is.
            let failure = if failure.value("topic").is_some() { failure } else { failure.with("topic", sink.topic()) };
            said.fold(server.failed(failure), CliError::with_why)
        }
        Stop::Unheard if sink.tally.written == sink.tally.read => return Ok(ExitCode::SUCCESS),
        Stop::Unheard => CliError::failed("standard output was closed: no more records were sent"),
        Stop::Interrupted(interrupt) => {
            output::note("interrupted");
            lines.iter().for_each(|line| output::note(&format!("  {line}")));
            return Ok(ExitCode::from(interrupt.exit_code()));
        }
    };
    Err(lines.into_iter().fold(error, CliError::with_why))
}

/// How records are made of the input.
fn reading(arguments: &ProduceArgs) -> Result<Reading, CliError> {
    let json = arguments.framing == Framing::Json;
    if arguments.keep_partition && !json {
        return Err(CliError::usage("--keep-partition needs records that name one: --as json"));
    }
    let form = match &arguments.format {
        Some(format) => Form::Format(format.clone()),
        None if json => Form::Envelope { keep_partition: arguments.keep_partition },
        None => Form::Value,
    };
    let key = match (&arguments.key, &arguments.key_delimiter, &arguments.key_json) {
        (Some(key), _, _) => KeySource::Fixed(key.clone().into_bytes()),
        (_, Some(_), _) | (_, _, Some(_)) if json => {
            return Err(CliError::usage("records of --as json have their keys: leave -K and --key-json out"));
        }
        (_, Some(delimiter), _) => KeySource::Delimiter(delimiter.clone().into_bytes()),
        (_, _, Some(path)) => KeySource::Json(path.clone()),
        _ => KeySource::None,
    };
    let headers = arguments.headers.iter().map(|text| header(text).map_err(CliError::usage));
    let (timestamp, empty_is_null) = (arguments.timestamp, arguments.empty_is_null);
    Ok(Reading { form, key, headers: headers.collect::<Result<_, _>>()?, timestamp, empty_is_null })
}

/// Unix milliseconds.
pub(super) fn now_ms() -> Timestamp {
    use walser_model::Clock as _;
    walser_model::SystemClock::start().now_millis()
}

fn summary(sink: &Sink, took: Duration) {
    let seconds = took.as_secs_f64().max(0.001);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a rate for people")]
    let rate = (sink.tally.written as f64 / seconds) as i64;
    let records = output::plural(sink.tally.written, "record");
    let bytes = output::bytes(sink.bytes);
    output::note(&format!("{records} · {bytes} · 0 failed · {} records/s", output::count(rate)));
}

/// What keeps records of a partition from being written, as far as the server knows.
pub(super) async fn obstacle(client: &Client, topic: &str, partition: i32) -> String {
    let known = tokio::time::timeout(SLOW, known_obstacle(client, topic, partition));
    known.await.unwrap_or_else(|_elapsed| "the server does not answer".to_owned())
}

async fn known_obstacle(client: &Client, topic: &str, partition: i32) -> String {
    let request = pb::ListPartitionsRequest { topic: topic.to_owned(), only_unhealthy: true, ..Default::default() };
    let listed = client.topics().list_partitions(request).await.map_err(ApiError::from);
    let listed = match listed {
        Ok(listed) => listed.into_inner().partitions,
        Err(failure) => return format!("{} ({})", failure.message(), failure.reason_name()),
    };
    let own = listed.into_iter().filter_map(|info| info.partition).find(|found| found.partition == partition);
    if let Some(problem) = own.and_then(|found| found.problem) {
        return format!("partition {partition}: {problem}");
    }
    let cluster = client.cluster().get_cluster(pb::GetClusterRequest {}).await;
    let health = cluster.ok().and_then(|found| found.into_inner().cluster).and_then(|cluster| cluster.health);
    let issues = health.map(|health| health.issues).unwrap_or_default();
    let own = format!("topics/{topic}");
    let concerns = |object: &String| {
        !object.starts_with("topics/")
            || *object == own
            || object.strip_prefix(&own).is_some_and(|rest| rest.starts_with('/'))
    };
    let elsewhere = ["CONTROLLER_DOWN", "CONTROLLER_CANNOT_LEAD", "GROUP_COORDINATOR_DOWN", "GROUPS_NOT_SERVED"];
    let concerns = |issue: &pb::HealthIssue| {
        !elsewhere.contains(&issue.code.as_str()) && issue.objects.first().is_none_or(concerns)
    };
    let issue = issues.into_iter().find(concerns);
    match issue {
        Some(issue) => format!("{} ({})", issue.message, issue.code),
        None => "neither the partition nor the cluster reports a problem".to_owned(),
    }
}

/// Hands on the records of the command line. Bad ones end it, and are given back.
async fn feed_arguments(sink: &mut Sink, records: Vec<String>, reading: &Reading) -> Result<Option<CliError>, Stop> {
    let skip = usize::try_from(sink.tally.skipped).unwrap_or(usize::MAX);
    for (index, text) in records.into_iter().enumerate().skip(skip) {
        match reading.record(text.into_bytes()) {
            Ok(record) => sink.add(record).await?,
            Err(why) => return Ok(Some(CliError::usage(format!("record {}: {why}", index + 1)))),
        }
    }
    Ok(None)
}

/// Reads all input and hands it on record by record. What is wrong with it ends it, and is given back.
async fn feed(sink: &mut Sink, source: Source) -> Result<Option<CliError>, Stop> {
    let typed = input::reads_stdin(&source.files) && std::io::stdin().is_terminal();
    if typed {
        output::note("reading records from the terminal, one per line; Ctrl-D ends");
    }
    let total = input::size(&source.files).map_or(Total::Unknown, Total::Bytes);
    let mut progress = Progress::start(total, !typed);
    let mut input = input::start(source)?;
    let mut send_at = tokio::time::Instant::now() + LINGER;
    loop {
        // What has come in does not wait for what has not, nor for what goes on coming.
        let group = match tokio::time::timeout_at(send_at, input.recv()).await {
            Ok(group) => group,
            Err(_elapsed) => {
                sink.send_all().await?;
                let group = sink.while_waiting(input.recv()).await?;
                send_at = tokio::time::Instant::now() + LINGER;
                group
            }
        };
        let gone = || CliError::failed("reading the input ended without a word: this is a bug");
        let group = group.ok_or_else(gone)?;
        let count = group.records.len() as u64;
        for record in group.records {
            sink.add(record).await?;
        }
        progress.add(count, group.bytes);
        match group.then {
            Then::More => {}
            Then::End => return Ok(None),
            Then::Bad(error) => return Ok(Some(error)),
        }
    }
}
