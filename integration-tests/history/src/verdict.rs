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
    /// What the verdict does not cover, because the history says nothing about it.
    pub warnings: Vec<String>,
    /// What is wrong, by its kind. Kinds that were not found are not there.
    pub anomalies: BTreeMap<Anomaly, Anomalies>,
}

/// What a history consists of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HistoryCounts {
    /// Lines, without empty ones.
    pub events: u64,
    /// Processes.
    pub processes: u64,
    /// Partitions with an acknowledged or a polled value, or a committed offset.
    pub partitions: u64,
    /// Values that were sent, whatever became of them. A value that was sent again counts again, here and below.
    pub sent: u64,
    /// Values whose send was acknowledged.
    pub acknowledged: u64,
    /// Values whose send failed.
    pub failed: u64,
    /// Values whose send has an unknown outcome.
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
    /// Values that are not in the order in which they were sent, or records of one poll out of order.
    Reorder,
    /// The polls of a process jump over a known value.
    PollSkip,
    /// The polls of a process go back.
    NonmonotonicPoll,
    /// A group's committed offset goes back.
    OffsetRegress,
    /// A value is read whose send failed.
    AbortedRead,
    /// A value is read that nobody sent, to this partition and before that.
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

    /// The verdict on all that was found. `complete` says whether the history has a complete read.
    pub(crate) fn verdict(self, counts: HistoryCounts, complete: bool) -> Verdict {
        let lost = self.0.get(&Anomaly::LostWrite).map_or(0, |found| found.count);
        let warnings = warnings(counts, counts.unread.saturating_sub(lost), complete);
        Verdict { valid: self.0.is_empty(), counts, warnings, anomalies: self.0 }
    }
}

/// What a history cannot show. `unjudged` is the number of acknowledged values that were not polled and are not lost.
fn warnings(counts: HistoryCounts, unjudged: u64, complete: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if counts.acknowledged == 0 {
        warnings.push("no send was acknowledged, so no value could be lost".to_owned());
    }
    if counts.polled == 0 {
        warnings.push("no record was polled, so what the log holds was not seen".to_owned());
    }
    if unjudged > 0 && !complete {
        warnings.push(format!(
            "{unjudged} acknowledged values were not polled, and may be lost; end the history with a complete read and \
             mark its polls with \"final\":true, or pass --complete"
        ));
    }
    warnings
}
