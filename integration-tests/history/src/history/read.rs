//! Reads a history from JSON lines.

use std::io::{self, BufRead, Read};

use thiserror::Error;

use super::History;
use crate::event::{Event, HistoryOp};
use crate::label::Label;

/// The longest line that is read, in bytes, with its end.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// A line that cannot be understood.
#[derive(Debug, Error)]
#[error("line {line}: {problem}")]
pub struct FormatError {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Debug, Error)]
pub enum Problem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// It has no end for too long.
    #[error("is longer than {LINE_BYTES_MAX} bytes; write one JSON object per line")]
    TooLong,
    /// It is not a JSON object.
    #[error("is not a JSON object; write one object per line, with `process`, `type` and `op`")]
    NotAnObject,
    /// It is not a JSON object of the format.
    #[error("{}; README.md of walser-history lists the fields and their types", in_words(.0))]
    Json(serde_json::Error),
    /// A process begins something before it has ended what it began before.
    #[error(
        "process {process} begins a {op} and has not ended its {open} of line {since}; end it with ok, fail or info"
    )]
    Busy {
        /// Who.
        process: Label,
        /// What it begins.
        op: HistoryOp,
        /// What it is doing.
        open: HistoryOp,
        /// Where that began.
        since: u64,
    },
    /// A process ends what it did not begin.
    #[error("process {process} ends a {op} that it did not begin; write its invoke before")]
    NotBegun {
        /// Who.
        process: Label,
        /// What it ends.
        op: HistoryOp,
    },
    /// A field is missing.
    #[error("a {op} needs `{field}` here; README.md of walser-history lists the fields of each operation")]
    Missing {
        /// Of what.
        op: HistoryOp,
        /// Its name.
        field: &'static str,
    },
    /// A value is sent to a partition, and to another one before.
    #[error(
        "value {value} was sent to partition {partition} of topic {topic:?} before; a value names one record of the \
         whole history, so add the partition to it, as in \"{partition}-1\""
    )]
    SentElsewhere {
        /// The value.
        value: Label,
        /// The topic to which it was sent before.
        topic: String,
        /// The partition to which it was sent before.
        partition: u32,
    },
    /// The outcome of an operation says something else than its `invoke`.
    #[error("the outcome of this {op} contradicts its invoke in line {line}; repeat what it says, or leave it out")]
    Contradiction {
        /// The operation.
        op: HistoryOp,
        /// The line of the `invoke`.
        line: u64,
    },
    /// More names than can be told apart.
    #[error("more than {} different values, processes, topics or partitions", u32::MAX)]
    TooMany,
}

fn parse(line: &[u8]) -> Result<Event, Problem> {
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::NotAnObject);
    }
    serde_json::from_slice(line).map_err(Problem::Json)
}

/// Without the number of the line, which for `error` is always the first.
fn in_words(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

// === impl History ===

impl History {
    /// Reads a whole history. Empty lines are skipped.
    ///
    /// # Errors
    ///
    /// The first line that cannot be understood.
    pub fn read(mut reader: impl BufRead) -> Result<Self, FormatError> {
        let mut history = Self::default();
        let mut bytes = Vec::new();
        loop {
            history.line += 1;
            let line = history.line;
            bytes.clear();
            let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes);
            let length = read.map_err(|error| FormatError { line, problem: Problem::Read(error) })?;
            if length == 0 {
                return Ok(history);
            }
            if length as u64 == LINE_BYTES_MAX && !bytes.ends_with(b"\n") {
                return Err(FormatError { line, problem: Problem::TooLong });
            }
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            parse(&bytes).and_then(|event| history.take(event)).map_err(|problem| FormatError { line, problem })?;
        }
    }
}
