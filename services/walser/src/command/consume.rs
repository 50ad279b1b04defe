//! `walser consume`.

pub(crate) mod group;
mod last;
mod printer;
mod problems;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use walser_client::{ApiError, Read, Reader, ReaderConfig};
use walser_proto::v1 as pb;

use self::last::Last;
use self::printer::Printer;
use self::problems::Problems;
use crate::cli::ConsumeArgs;
use crate::error::{CliError, in_words};
use crate::output;
use crate::position::Position;
use crate::progress::{Progress, Total};
use crate::server::Server;
use crate::topics;

pub(crate) async fn run(mut arguments: ConsumeArgs) -> Result<ExitCode, CliError> {
    match arguments.group.take() {
        Some(group) => Box::pin(group::run(arguments, &group)).await,
        None => Box::pin(read(arguments)).await,
    }
}

/// Reads without a group.
async fn read(arguments: ConsumeArgs) -> Result<ExitCode, CliError> {
    output::end_with_reader()?;
    let printer = Printer::new(&arguments);
    let server = Server::of(&arguments.server)?;
    if arguments.count == Some(0) || arguments.last == Some(0) {
        return Ok(ExitCode::SUCCESS);
    }
    let topics = topics::matching(&server, &arguments.topics).await?;
    let mut last = arguments.last.map(Last::new).transpose()?;
    let (from, to) = match arguments.last {
        Some(count) => (Position::Last(i64::try_from(count).unwrap_or(i64::MAX)), Some(Position::Latest)),
        None => (arguments.from, if arguments.end { Some(Position::Latest) } else { arguments.to }),
    };
    let target = |topic: &String| pb::ReadTarget {
        topic: topic.clone(),
        partition: arguments.partition,
        start: Some(from.wire()),
        end: to.map(Position::wire),
        ..Default::default()
    };
    let targets = topics.iter().map(target).collect();
    let patience = Duration::from_secs(arguments.timeout);
    let mut reader = Reader::new(&server.client, ReaderConfig { targets, batches: false, patience });
    let mut problems = Problems::new(matches!(to, Some(Position::Latest)).then_some(patience));
    let (mut told_to_wait, mut away) = (false, false);
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let shown = !output::to_terminal();
    let mut progress = Progress::start(arguments.count.map_or(Total::Unknown, Total::Records), shown);
    loop {
        let read = match problems.next(&mut reader, &server).await {
            Ok(read) => read,
            Err(error) => {
                drop(progress);
                show_last(last, &printer)?;
                return Err(error);
            }
        };
        match read {
            Read::Chunk(chunk) => {
                problems.over(&chunk.topic, chunk.partition);
                back(&mut away, &server);
                let bytes = |record: &pb::ConsumedRecord| record.value.as_ref().map_or(0, |value| value.len() as u64);
                progress.add(chunk.records.len() as u64, chunk.records.iter().map(bytes).sum());
                match &mut last {
                    Some(last) => last.add(chunk)?,
                    None => left = printer.print_chunk(&chunk, left)?,
                }
                if left == 0 {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Read::CaughtUp => {
                problems.caught_up();
                back(&mut away, &server);
                caught_up(to, &mut told_to_wait);
            }
            Read::Problem(problem) => tell(problem, &mut problems),
            Read::Away(failure) => {
                away = true;
                tell_away(&failure, &server.address, arguments.timeout);
            }
            // The server ends a stream in order only when everything was read that was asked for.
            Read::End => {
                drop(progress);
                show_last(last, &printer)?;
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// Prints the records that were kept to the end.
fn show_last(last: Option<Last>, printer: &Printer) -> Result<(), CliError> {
    for chunk in last.into_iter().flat_map(Last::into_chunks) {
        printer.print_chunk(&chunk, u64::MAX)?;
    }
    Ok(())
}

/// Says what is waited for.
fn caught_up(to: Option<Position>, told: &mut bool) {
    match to {
        None if std::io::stderr().is_terminal() => {
            output::note("caught up · waiting for new records · Ctrl-C to stop");
        }
        // Scripts wait for this, too: they should know for what.
        Some(Position::Offset(offset)) if !std::mem::replace(told, true) => {
            output::note(&format!("caught up · a partition ends before offset {offset}: waiting for more records"));
        }
        _ => {}
    }
}

fn tell(problem: pb::PartitionError, problems: &mut Problems) {
    let place = problem.topic_partition.unwrap_or_default();
    let unknown = || ApiError::internal("the server does not say what is wrong");
    problems.tell(&place.topic, place.partition, problem.error.map_or_else(unknown, ApiError::from));
}

fn tell_away(failure: &ApiError, address: &str, seconds: u64) {
    let text = in_words(failure, address);
    output::warning(&format!("nothing can be read from {address} now: {text}; retrying for up to {seconds} s"));
}

/// Says once that the server has come back.
fn back(away: &mut bool, server: &Server) {
    if std::mem::take(away) {
        output::note(&format!("{} is back", server.address));
    }
}
