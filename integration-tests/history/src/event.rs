//! One line of a history.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::label::Label;

/// One line of a history: that a process begins an operation, or how it ended. Fields that an operation does not use
/// are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Who does it. A process does one thing after the other.
    pub process: Label,
    /// Whether it begins or how it ended.
    #[serde(rename = "type")]
    pub phase: Phase,
    /// What is done.
    pub op: HistoryOp,
    /// The topic of a send or a commit, and of every record that names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The partition of a send of one value, or of a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// What is sent. No other send of the history has the same value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Label>,
    /// Where an acknowledged value is, or the offset that is committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What a poll returned, or several values of one send in their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<Vec<HistoryRecord>>,
    /// What a consumer is assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Vec<Assigned>>,
    /// The consumer group of a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Label>,
    /// Of a poll: it belongs to the complete read with which the history ends.
    #[serde(rename = "final", default, skip_serializing_if = "Option::is_none")]
    pub last: Option<bool>,
}

/// Whether an operation begins, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It begins.
    Invoke,
    /// It was done.
    Ok,
    /// It was certainly not done, and will not be.
    Fail,
    /// Nobody knows whether it was done, or will be.
    Info,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HistoryOp {
    /// Writes values.
    Send,
    /// Reads on from the position of the process.
    Poll,
    /// Commits the offset of a group.
    Commit,
    /// Takes partitions, or another position in them.
    Assign,
}

/// A record of a send or a poll.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// Its topic, if it is not that of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Its partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// Its offset, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Label>,
}

/// A partition that a consumer is assigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Assigned {
    /// A partition of the event's topic.
    Number(u32),
    /// A partition of any topic.
    Named {
        /// Its topic.
        topic: String,
        /// Its number.
        partition: u32,
    },
}

// === impl HistoryOp ===

impl fmt::Display for HistoryOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Send => "send",
            Self::Poll => "poll",
            Self::Commit => "commit",
            Self::Assign => "assign",
        })
    }
}

// === impl Event ===

impl Event {
    /// Begins an operation about which nothing else is said.
    pub fn invoke(process: impl Into<Label>, op: HistoryOp) -> Self {
        Self {
            process: process.into(),
            phase: Phase::Invoke,
            op,
            topic: None,
            partition: None,
            value: None,
            offset: None,
            records: None,
            partitions: None,
            group: None,
            last: None,
        }
    }

    /// Begins to send one value.
    pub fn send(process: impl Into<Label>, topic: &str, partition: u32, value: impl Into<Label>) -> Self {
        Self {
            topic: Some(topic.to_owned()),
            partition: Some(partition),
            value: Some(value.into()),
            ..Self::invoke(process, HistoryOp::Send)
        }
    }

    /// Begins to send several values in their order.
    pub fn send_all(process: impl Into<Label>, records: Vec<HistoryRecord>) -> Self {
        Self { records: Some(records), ..Self::invoke(process, HistoryOp::Send) }
    }

    /// Begins to poll.
    pub fn poll(process: impl Into<Label>) -> Self {
        Self::invoke(process, HistoryOp::Poll)
    }

    /// Begins to commit `offset`.
    pub fn commit(
        process: impl Into<Label>,
        group: impl Into<Label>,
        topic: &str,
        partition: u32,
        offset: u64,
    ) -> Self {
        Self {
            topic: Some(topic.to_owned()),
            partition: Some(partition),
            offset: Some(offset),
            group: Some(group.into()),
            ..Self::invoke(process, HistoryOp::Commit)
        }
    }

    /// Begins to take partitions, or another position in them.
    pub fn assign(process: impl Into<Label>, topic: &str, partitions: &[u32]) -> Self {
        Self {
            topic: Some(topic.to_owned()),
            partitions: Some(partitions.iter().copied().map(Assigned::Number).collect()),
            ..Self::invoke(process, HistoryOp::Assign)
        }
    }

    /// The same operation, done.
    #[must_use]
    pub fn ok(self) -> Self {
        Self { phase: Phase::Ok, ..self }
    }

    /// The same operation, certainly not done.
    #[must_use]
    pub fn fail(self) -> Self {
        Self { phase: Phase::Fail, ..self }
    }

    /// The same operation with an unknown outcome.
    #[must_use]
    pub fn info(self) -> Self {
        Self { phase: Phase::Info, ..self }
    }

    /// With the offset of its value.
    #[must_use]
    pub fn at(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }

    /// With what it returned.
    #[must_use]
    pub fn with(self, records: Vec<HistoryRecord>) -> Self {
        Self { records: Some(records), ..self }
    }

    /// As part of the complete read with which the history ends.
    #[must_use]
    pub fn last(self) -> Self {
        Self { last: Some(true), ..self }
    }
}

// === impl HistoryRecord ===

impl HistoryRecord {
    /// A value for a partition, at no offset yet.
    pub fn new(topic: &str, partition: u32, value: impl Into<Label>) -> Self {
        Self { topic: Some(topic.to_owned()), partition: Some(partition), offset: None, value: Some(value.into()) }
    }

    /// The same record at its offset.
    #[must_use]
    pub fn at(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }
}
