//! How records are printed.

use std::io::Write;

use walser_proto::v1 as pb;

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
    pub(super) fn print_chunk(&mut self, chunk: &pb::RecordChunk, mut left: u64) -> Result<u64, CliError> {
        let mut out = output::bulk();
        let mut stopped = None;
        for record in &chunk.records {
            if left == 0 {
                break;
            }
            if self.text_only && is_binary(record) {
                stopped = Some(record.offset);
                break;
            }
            let written = match &self.form {
                Form::Raw => out.write_all(record.value.as_deref().unwrap_or_default()),
                Form::Json { inline } => envelope::write(&mut out, chunk, record, *inline),
                Form::Format(format) => format.write(&mut out, chunk, record),
            };
            if let Err(error) = written {
                output::stop_writing(&error);
            }
            left -= 1;
        }
        if let Err(error) = out.flush() {
            output::stop_writing(&error);
        }
        drop(out);
        match stopped {
            None => Ok(left),
            Some(offset) => {
                let place = format!("{}/{} @{offset}", chunk.topic, chunk.partition);
                let error = CliError::failed(format!("{place} is not text, and could disturb the terminal"));
                Err(error.with_help("write it to a file (> FILE), print it with -o json, or insist with --binary"))
            }
        }
    }
}

fn is_binary(record: &pb::ConsumedRecord) -> bool {
    let headers = record.headers.iter().any(|header| {
        output::is_binary(header.key.as_bytes()) || header.value.as_deref().is_some_and(output::is_binary)
    });
    headers || [&record.key, &record.value].into_iter().flatten().any(|bytes| output::is_binary(bytes))
}
