//! How records are printed.

use std::io::Write;

use walser_proto::v1 as pb;
use walser_service::telemetry::{self, TRACEPARENT};

use crate::cli::{ConsumeArgs, ConsumeOutput};
use crate::error::CliError;
use crate::output;
use crate::records::envelope;
use crate::records::format::Format;

/// Prints records in one form.
pub(super) struct Printer {
    form: Form,
    /// Bytes that are not text must not go to where the output goes.
    text_only: bool,
}

/// How much was printed.
#[derive(Debug)]
pub(super) struct Printed {
    /// Records that were written and flushed.
    pub(super) count: u64,
    pub(super) stopped: Option<Stopped>,
}

/// Why no more was printed.
#[derive(Debug)]
pub(super) enum Stopped {
    /// A terminal would get a record that is not text.
    NotText(CliError),
    /// Standard output takes nothing more. None of the records counts as printed.
    Output(std::io::Error),
}

enum Form {
    Json { inline: bool },
    Raw,
    Format(Format),
}

impl Printer {
    pub(super) fn new(arguments: &ConsumeArgs) -> Self {
        let form = match (&arguments.format, arguments.output) {
            (Some(format), _) => Form::Format(format.clone()),
            (None, ConsumeOutput::Json) => Form::Json { inline: arguments.inline_json },
            (None, ConsumeOutput::Raw) => Form::Raw,
        };
        // JSON has no byte that a terminal obeys.
        let text_only = !matches!(form, Form::Json { .. }) && !arguments.binary && output::to_terminal();
        Self { form, text_only }
    }

    /// Prints a chunk; gives back how many records may still be printed.
    ///
    /// # Errors
    /// A record is not text, and a terminal would get it.
    pub(super) fn print_chunk(&self, chunk: &pb::RecordChunk, left: u64) -> Result<u64, CliError> {
        let records = chunk.records.iter().take(usize::try_from(left).unwrap_or(usize::MAX));
        let Printed { count, stopped } = self.print(chunk, records, || false);
        match stopped {
            None => Ok(left - count),
            Some(Stopped::Output(error)) => output::stop_writing(&error),
            Some(Stopped::NotText(error)) => Err(error),
        }
    }

    /// Prints records of a chunk until there are no more, or until it is `asked_to_stop` between two of them.
    pub(super) fn print<'a>(
        &self,
        chunk: &pb::RecordChunk,
        records: impl Iterator<Item = &'a pb::ConsumedRecord>,
        asked_to_stop: impl Fn() -> bool,
    ) -> Printed {
        let mut out = output::bulk();
        let (mut count, mut stopped) = (0, None);
        for record in records {
            if asked_to_stop() {
                break;
            }
            if self.text_only && is_binary(record) {
                stopped = Some(Stopped::NotText(not_text(chunk, record)));
                break;
            }
            let _processed = span(chunk, record).entered();
            let written = match &self.form {
                Form::Raw => out.write_all(record.value.as_deref().unwrap_or_default()),
                Form::Json { inline } => envelope::write(&mut out, chunk, record, *inline),
                Form::Format(format) => format.write(&mut out, chunk, record),
            };
            if let Err(error) = written {
                stopped = Some(Stopped::Output(error));
                break;
            }
            count += 1;
        }
        if !matches!(stopped, Some(Stopped::Output(_)))
            && let Err(error) = out.flush()
        {
            stopped = Some(Stopped::Output(error));
        }
        if matches!(stopped, Some(Stopped::Output(_))) {
            // How much of the buffer has arrived is not known. What is left of it is not tried again.
            count = 0;
            drop(out.into_parts());
        }
        Printed { count, stopped }
    }
}

/// The span in which a record is printed, where its trace is exported.
fn span(chunk: &pb::RecordChunk, record: &pb::ConsumedRecord) -> tracing::Span {
    let trace = record.headers.iter().find(|header| header.key == TRACEPARENT);
    let trace = trace.and_then(|header| std::str::from_utf8(header.value.as_deref()?).ok());
    trace.map_or_else(tracing::Span::none, |trace| {
        telemetry::record_span(&chunk.topic, chunk.partition, record.offset, trace)
    })
}

fn not_text(chunk: &pb::RecordChunk, record: &pb::ConsumedRecord) -> CliError {
    let place = format!("{}/{} @{}", chunk.topic, chunk.partition, record.offset);
    let error = CliError::failed(format!("{place} is not text, and could disturb the terminal"));
    error.with_help("write it to a file (> FILE), print it with -o json, or insist with --binary")
}

fn is_binary(record: &pb::ConsumedRecord) -> bool {
    let headers = record.headers.iter().any(|header| {
        output::is_binary(header.key.as_bytes()) || header.value.as_deref().is_some_and(output::is_binary)
    });
    headers || [&record.key, &record.value].into_iter().flatten().any(|bytes| output::is_binary(bytes))
}
