//! What was found in a history.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::label::Label;

/// How many examples of one kind of anomaly a verdict has at most.
const EXAMPLES_MAX: usize = 20;

/// What was found in a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether there is no anomaly.
    pub valid: bool,
    /// What the history consists of.
    pub counts: HistoryCounts,
    /// What is wrong, by its kind. Kinds that were not found are not there.
    pub anomalies: BTreeMap<Anomaly, Anomalies>,
}

/// What a history consists of. Who judges by a verdict looks here, too: nothing is wrong with a history in which nobody
/// read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HistoryCounts {
    /// Lines, without empty ones.
    pub events: u64,
    /// Processes.
    pub processes: u64,
    /// Partitions with an acknowledged or a polled value, or a committed offset.
    pub partitions: u64,
    /// Values that were sent, whatever became of them.
    pub sent: u64,
    /// Values that were acknowledged.
    pub acknowledged: u64,
    /// Values that were certainly not written.
    pub failed: u64,
    /// Values of which nobody knows whether they were written.
    pub unknown: u64,
    /// Polls that succeeded, with and without records.
    pub polls: u64,
    /// Records that these polls returned.
    pub polled: u64,
    /// Offsets that were committed.
    pub commits: u64,
    /// Acknowledged values that no poll returned, lost ones among them.
    pub unread: u64,
}

/// A kind of anomaly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anomaly {
    /// An acknowledged value that no poll returned, although what comes after it was read.
    LostWrite,
    /// A value at two offsets.
    Duplicate,
    /// An offset with two values, or a value that is polled elsewhere than it was acknowledged.
    InconsistentOffset,
    /// Values that are not in the order in which one process sent them, or records of one poll out of order.
    Reorder,
    /// The polls of a process jump over a known value.
    PollSkip,
    /// The polls of a process go back.
    NonmonotonicPoll,
    /// A group's committed offset goes back.
    OffsetRegress,
    /// A value is read whose send failed.
    AbortedRead,
    /// A value is read that nobody sent.
    Phantom,
}

/// Anomalies of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Anomalies {
    /// How many there are.
    pub count: u64,
    /// The first of them, at most 20.
    pub examples: Vec<Example>,
}

/// One anomaly. Fields that say nothing about it are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Example {
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// Where it is, in the partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Label>,
    /// Who saw it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Label>,
    /// The line of the history that shows it, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What is wrong, in words.
    pub detail: String,
}

/// Anomalies while they are collected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings(BTreeMap<Anomaly, Anomalies>);

// === impl Anomaly ===

impl Anomaly {
    /// Every kind there is.
    pub const ALL: [Self; 9] = [
        Self::LostWrite,
        Self::Duplicate,
        Self::InconsistentOffset,
        Self::Reorder,
        Self::PollSkip,
        Self::NonmonotonicPoll,
        Self::OffsetRegress,
        Self::AbortedRead,
        Self::Phantom,
    ];

    /// Its name in a verdict.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LostWrite => "lost-write",
            Self::Duplicate => "duplicate",
            Self::InconsistentOffset => "inconsistent-offset",
            Self::Reorder => "reorder",
            Self::PollSkip => "poll-skip",
            Self::NonmonotonicPoll => "nonmonotonic-poll",
            Self::OffsetRegress => "offset-regress",
            Self::AbortedRead => "aborted-read",
            Self::Phantom => "phantom",
        }
    }
}

// === impl Findings ===

impl Findings {
    /// Counts an anomaly, and makes an example of it if there is room.
    pub(crate) fn add(&mut self, kind: Anomaly, example: impl FnOnce() -> Example) {
        let found = self.0.entry(kind).or_default();
        found.count += 1;
        if found.examples.len() < EXAMPLES_MAX {
            found.examples.push(example());
        }
    }

    pub(crate) fn verdict(self, counts: HistoryCounts) -> Verdict {
        Verdict { valid: self.0.is_empty(), counts, anomalies: self.0 }
    }
}
