//! `walser consume --group`: a member of a consumer group that commits what it has printed.

pub(crate) mod processed;
mod waiting;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;
use walser_client::{ApiError, CommitAnswer, CommitOutcome, GroupEvent, GroupReader, GroupReaderConfig, Reason};
use walser_proto::v1 as pb;

use self::processed::Processed;
use self::waiting::Waiting;
use super::printer::{Printed, Printer, Stopped};
use super::problems::Problems;
use crate::cli::ConsumeArgs;
use crate::error::CliError;
use crate::output;
use crate::progress::{Progress, Total};
use crate::server::Server;
use crate::signal::{Interrupt, Interrupts};
use crate::topics;

/// How long the server may take to answer the last commit and the leave.
const LEAVE_MAX: Duration = Duration::from_secs(10);
/// How long what is being printed is waited for at the end, unless another signal comes: output that nobody takes would
/// be waited for in vain.
const PRINT_MAX: Duration = Duration::from_secs(3);
/// Partitions that a note names.
const NAMED_MAX: usize = 5;

/// Why a member reads no more.
enum Ending {
    /// So many records were wanted.
    Enough,
    Interrupted(Interrupt),
    /// The reader of standard output is gone.
    OutputClosed,
    Failed(CliError),
}

/// A chunk that was printed, how many of its records were known before, and how many were printed behind them.
type Printout = (pb::RecordChunk, usize, Printed);

/// A member, and what it has in hand.
struct Session<'a> {
    server: &'a Server,
    reader: GroupReader,
    processed: Processed,
    printer: Arc<Printer>,
    /// Tells a printer to end with the record that it is at.
    stop: Arc<AtomicBool>,
    printing: Option<JoinHandle<Printout>>,
    /// The chunk that is printed next. Nothing is taken from the stream meanwhile.
    held: Option<pb::RecordChunk>,
    /// Partitions that are about to move, to be confirmed once nothing of them is in hand.
    revoking: Vec<pb::PartitionsRevoking>,
    /// Records that may still be printed.
    left: u64,
    problems: Problems,
    progress: Progress,
    waiting: Waiting,
    group: &'a str,
    /// How long the server may be away, in seconds.
    patience: u64,
    /// Notes are read as they come.
    interactive: bool,
}

pub(super) async fn run(arguments: ConsumeArgs, group: &str) -> Result<ExitCode, CliError> {
    check(&arguments)?;
    let printer = Arc::new(Printer::new(&arguments));
    let server = Server::of(&arguments.server)?;
    if arguments.count == Some(0) {
        return Ok(ExitCode::SUCCESS);
    }
    let mut interrupts = Interrupts::listen()?;
    let (gone, mut output_closed) = oneshot::channel();
    output::when_reader_is_gone(|| {
        let _ = gone.send(());
    })?;
    let join = join_of(&arguments, group, &server).await?;
    let patience = Duration::from_secs(arguments.timeout);
    let keep_static_assignment = !join.instance_id.is_empty();
    let reader = GroupReader::new(&server.client, GroupReaderConfig { join, patience });
    let mut session = Session {
        server: &server,
        reader,
        processed: Processed::default(),
        printer,
        stop: Arc::default(),
        printing: None,
        held: None,
        revoking: Vec::new(),
        left: arguments.count.unwrap_or(u64::MAX),
        problems: Problems::new(None),
        progress: Progress::start(arguments.count.map_or(Total::Unknown, Total::Records), !output::to_terminal()),
        waiting: Waiting::default(),
        group,
        patience: arguments.timeout,
        interactive: io::stderr().is_terminal(),
    };
    let ending = Box::pin(session.read(&mut interrupts, &mut output_closed)).await;
    let left = match &ending {
        Ending::Failed(_) if session.reader.has_failed() => Ok(()),
        _ => Box::pin(session.leave(keep_static_assignment, &mut interrupts)).await,
    };
    drop(session);
    let code = match ending {
        Ending::Failed(error) => {
            left.unwrap_or_else(|error: CliError| error.show());
            return Err(error);
        }
        Ending::Enough | Ending::OutputClosed => left.map(|()| ExitCode::SUCCESS)?,
        Ending::Interrupted(interrupt) => {
            left.unwrap_or_else(|error: CliError| error.show());
            ExitCode::from(interrupt.exit_code())
        }
    };
    Ok(code)
}

/// Refuses what does not fit a group.
fn check(arguments: &ConsumeArgs) -> Result<(), CliError> {
    const NO_END: &str = "a group goes on from its committed offsets and has no end; -n ends after N records";
    let refused = [
        ("--partition", arguments.partition.is_some(), "the group gives its partitions to its members"),
        ("--to", arguments.to.is_some(), NO_END),
        ("--end", arguments.end, NO_END),
        ("--last", arguments.last.is_some(), NO_END),
    ];
    match refused.into_iter().find(|(_, given, _)| *given) {
        None => Ok(()),
        Some((flag, _, why)) => {
            let error = CliError::usage(format!("{flag} does not fit --group: {why}"));
            Err(error.with_help("leave out --group to read partitions by their positions"))
        }
    }
}

async fn join_of(arguments: &ConsumeArgs, group: &str, server: &Server) -> Result<pb::ConsumeJoin, CliError> {
    let topics = topics::matching(server, &arguments.topics).await?;
    for name in &topics {
        let found = server.client.topics().get_topic(pb::GetTopicRequest { name: name.clone() }).await;
        if found.is_err_and(|status| ApiError::from(status).reason() == Reason::TopicNotFound) {
            output::warning(&format!("topic \"{name}\" does not exist; it is read once it does"));
        }
    }
    Ok(pb::ConsumeJoin {
        group: group.to_owned(),
        topics,
        topic_pattern: arguments.topic_pattern.clone().unwrap_or_default(),
        instance_id: arguments.instance_id.clone().unwrap_or_default(),
        start: Some(arguments.from.wire()),
        // What was printed of partitions that move is committed before they do.
        confirm_revocation: true,
        ..Default::default()
    })
}

// === impl Session ===

impl Session<'_> {
    /// Prints records and commits them, until there is a reason to end. What is in hand then is printed no more.
    async fn read(&mut self, interrupts: &mut Interrupts, output_closed: &mut oneshot::Receiver<()>) -> Ending {
        loop {
            if self.waiting.is_long(self.reader.is_joined(), Instant::now()) {
                waiting::tell_silence(self.group, &self.server.address, self.patience);
            }
            let ending = tokio::select! {
                biased;
                interrupt = interrupts.next() => Some(Ending::Interrupted(interrupt)),
                _ = &mut *output_closed => Some(Ending::OutputClosed),
                printout = finished(&mut self.printing) => self.printed(printout),
                event = self.reader.next(), if self.held.is_none() => match event {
                    Ok(event) => self.happened(event),
                    Err(failure) => Some(Ending::Failed(self.server.failed(failure))),
                },
                () = tokio::time::sleep(waiting::LOOK_INTERVAL) => None,
            };
            let ending =
                ending.or_else(|| self.go_on().err().map(|failure| Ending::Failed(self.server.failed(failure))));
            if let Some(ending) = ending {
                self.stop_printing(interrupts).await;
                return ending;
            }
        }
    }

    /// Does what can be done now: prints, commits, and lets partitions go.
    fn go_on(&mut self) -> Result<(), ApiError> {
        while self.printing.is_none()
            && let Some(chunk) = self.held.take()
        {
            self.begin_to_print(chunk);
        }
        if self.printing.is_none() {
            for revoking in std::mem::take(&mut self.revoking) {
                let offsets = self.processed.take(&revoking.partitions);
                self.reader.confirm_revocation(revoking.revocation_id, offsets)?;
            }
        }
        self.processed.commit(&mut self.reader)
    }

    fn begin_to_print(&mut self, chunk: pb::RecordChunk) {
        let known = self.processed.known(&chunk);
        if known == chunk.records.len() {
            return self.processed.add(&chunk, known);
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let (printer, stop) = (Arc::clone(&self.printer), Arc::clone(&self.stop));
        // On a thread of its own: it may be held by output that nobody takes.
        self.printing = Some(tokio::task::spawn_blocking(move || {
            let records = chunk.records.iter().skip(known).take(left);
            let printed = printer.print(&chunk, records, || stop.load(Ordering::Relaxed));
            (chunk, known, printed)
        }));
    }

    fn printed(&mut self, printout: Result<Printout, JoinError>) -> Option<Ending> {
        let (chunk, known, Printed { count, stopped }) = match printout {
            Ok(printout) => printout,
            Err(panicked) => return Some(Ending::Failed(CliError::failed(panicked.to_string()))),
        };
        let records = known + usize::try_from(count).unwrap_or(usize::MAX);
        let bytes = |record: &pb::ConsumedRecord| record.value.as_ref().map_or(0, |value| value.len() as u64);
        self.progress.add(count, chunk.records.iter().take(records).skip(known).map(bytes).sum());
        self.processed.add(&chunk, records);
        self.left -= count;
        match stopped {
            Some(Stopped::NotText(error)) => Some(Ending::Failed(error)),
            Some(Stopped::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Some(Ending::OutputClosed),
            Some(Stopped::Output(error)) => Some(Ending::Failed(CliError::failed(format!("standard output: {error}")))),
            None => (self.left == 0).then_some(Ending::Enough),
        }
    }

    /// Lets the record that is being printed end, so that it is known what was printed.
    async fn stop_printing(&mut self, interrupts: &mut Interrupts) {
        self.stop.store(true, Ordering::Relaxed);
        self.held = None;
        if self.printing.is_none() {
            return;
        }
        tokio::select! {
            printout = finished(&mut self.printing) => {
                // The reason to end is there already.
                let _ = self.printed(printout);
            }
            () = tokio::time::sleep(PRINT_MAX) => {}
            _again = interrupts.next() => {}
        }
    }

    fn happened(&mut self, event: GroupEvent) -> Option<Ending> {
        match event {
            GroupEvent::Chunk(chunk) => {
                self.problems.over(&chunk.topic, chunk.partition);
                self.held = Some(chunk);
            }
            GroupEvent::Committed(answer) => self.answered(answer),
            GroupEvent::Joined(_) => {
                // What the last stream wanted is over with it.
                self.revoking.clear();
                self.processed.expect_again();
                if self.waiting.over() {
                    output::note(&format!("joined group \"{}\"; reading goes on", self.group));
                }
            }
            GroupEvent::Assigned(assigned) => self.assigned(&assigned),
            GroupEvent::Revoking(revoking) => self.revoking.push(revoking),
            GroupEvent::Revoked(revoked) => self.revoked(&revoked),
            GroupEvent::OffsetReset(reset) => self.reset(&reset),
            GroupEvent::CaughtUp => {
                self.problems.caught_up();
                super::caught_up(None, &mut false);
            }
            GroupEvent::Problem(problem) => super::tell(problem, &mut self.problems),
            GroupEvent::Away(failure) => {
                if self.waiting.away() {
                    waiting::tell_away(&failure, self.group, &self.server.address, self.patience);
                }
            }
            GroupEvent::End => return Some(Ending::Failed(CliError::failed("the member has left its group"))),
        }
        None
    }

    fn answered(&mut self, answer: CommitAnswer) {
        for pb::PartitionError { topic_partition, error } in self.processed.answered(answer) {
            let pb::TopicPartition { topic, partition } = topic_partition.unwrap_or_default();
            let failure = ApiError::from(error.unwrap_or_default());
            let (text, reason) = (failure.message(), failure.reason_name());
            output::warning(&format!(
                "{topic}/{partition}: not committed: {text} ({reason}); its last records may be read again"
            ));
        }
    }

    fn assigned(&mut self, assigned: &pb::PartitionsAssigned) {
        self.processed.assign(&assigned.partitions);
        if self.interactive {
            let added = assigned.partitions.iter().filter_map(|added| added.topic_partition.as_ref());
            let all = output::plural(length(self.processed.assigned_count()), "partition");
            output::note(&format!("reading {} · {all} in all", names(added)));
        }
    }

    fn revoked(&mut self, revoked: &pb::PartitionsRevoked) {
        self.processed.remove(&revoked.partitions);
        let names = names(revoked.partitions.iter());
        let text = match revoked.cause() {
            pb::RevocationCause::Rebalance | pb::RevocationCause::Unspecified if !self.interactive => return,
            pb::RevocationCause::Rebalance | pb::RevocationCause::Unspecified => {
                return output::note(&format!("no longer reading {names}: another member does"));
            }
            pb::RevocationCause::Fenced => "the member was removed from the group, or is attached elsewhere",
            pb::RevocationCause::SessionExpired => "the server has not heard from the member in time",
            pb::RevocationCause::ProcessingTimeout => "nothing was printed and committed for too long",
            pb::RevocationCause::TopicDeleted => "the topic was deleted",
        };
        output::warning(&format!("no longer reading {names}: {text}"));
    }

    fn reset(&mut self, reset: &pb::OffsetReset) {
        let place = reset.topic_partition.clone().unwrap_or_default();
        self.processed.forget(&place);
        output::warning(&format!(
            "{}/{}: offset {} is not there any more; reading on at {}, {} skipped",
            place.topic,
            place.partition,
            reset.requested_offset,
            reset.actual_offset,
            output::plural(reset.skipped_count, "record")
        ));
    }

    /// Commits exactly what was printed, and leaves the group.
    ///
    /// # Errors
    /// What was printed last is not committed, as far as is known.
    async fn leave(&mut self, keep_static_assignment: bool, interrupts: &mut Interrupts) -> Result<(), CliError> {
        let doubt = |error: CliError| error.with_why("the records that were printed last may be read again");
        self.processed.commit_all(&mut self.reader).map_err(|failure| doubt(self.server.failed(failure)))?;
        self.reader.leave(keep_static_assignment);
        let mut missing = None;
        let leaving = async {
            loop {
                match self.reader.next().await {
                    Ok(GroupEvent::Committed(answer)) => missing = missing.take().or_else(|| refusal(answer)),
                    Ok(GroupEvent::End) => return Ok(()),
                    Ok(_) => {}
                    Err(failure) => return Err(failure),
                }
            }
        };
        let left = tokio::select! {
            left = tokio::time::timeout(LEAVE_MAX, leaving) => left,
            _again = interrupts.next() => return Err(doubt(CliError::failed("interrupted before the group was left"))),
        };
        let unanswered = || ApiError::new(Reason::RequestTimedOut, "the server has not answered the last commit");
        let left = left.unwrap_or_else(|_elapsed| Err(unanswered()));
        match missing.map_or(left, Err) {
            Ok(()) => Ok(()),
            Err(failure) => Err(doubt(self.server.failed(failure))),
        }
    }
}

/// Why a commit does not count, or not for certain.
fn refusal(answer: CommitAnswer) -> Option<ApiError> {
    match answer.outcome {
        CommitOutcome::Done => None,
        CommitOutcome::Refused(errors) => errors.into_iter().find_map(|refused| refused.error).map(ApiError::from),
        CommitOutcome::Unknown(failure) => Some(failure),
    }
}

/// Waits for a chunk that is being printed. Dropping the future loses nothing.
async fn finished(printing: &mut Option<JoinHandle<Printout>>) -> Result<Printout, JoinError> {
    match printing {
        Some(task) => {
            let printout = task.await;
            *printing = None;
            printout
        }
        None => std::future::pending().await,
    }
}

fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn names<'a>(partitions: impl Iterator<Item = &'a pb::TopicPartition>) -> String {
    let names: Vec<String> = partitions.map(|place| format!("{}/{}", place.topic, place.partition)).collect();
    let count = names.len();
    output::first_of(names.into_iter(), count, NAMED_MAX)
}
