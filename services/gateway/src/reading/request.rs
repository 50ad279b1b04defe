//! What a reader asks for, checked: targets, places and options.

use std::collections::HashMap;
use std::time::Duration;

use walser_model::{Offset, TopicId};
use walser_record_batch::Record;

/// A place in a log, as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadPosition {
    Offset(i64),
    Time(i64),
    Earliest,
    Latest,
    /// Records before the end.
    Last(i64),
}

/// Where a reader stands in a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resume {
    pub(crate) next_offset: Offset,
    /// Epoch of the record before, if the reader knows it.
    pub(crate) leader_epoch: Option<i32>,
}

/// A topic, or one partition of it, that is to be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReadTarget {
    pub(crate) topic: String,
    /// The topic that the reader means by the name.
    pub(crate) topic_id: Option<TopicId>,
    /// `None`: all of them.
    pub(crate) partition: Option<i32>,
    /// Where partitions begin that are not in `resume`; `None`: at their log start.
    pub(crate) start: Option<ReadPosition>,
    /// Exclusive; `None`: reading goes on for ever.
    pub(crate) end: Option<ReadPosition>,
    /// Epoch of the record before `start`, if the reader knows it.
    pub(crate) last_epoch: Option<i32>,
    /// Of a whole topic, by partition.
    pub(crate) resume: HashMap<i32, Resume>,
}

/// Where a reader goes whose offset is not in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutOfRange {
    Fail,
    Earliest,
    Latest,
}

/// What a reader gets, and in which pieces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Whole batches instead of records.
    pub(crate) batches: bool,
    /// Leave values out.
    pub(crate) metadata_only: bool,
    /// Largest message that the reader takes, in bytes.
    pub(crate) message_bytes_max: usize,
    /// What is in it already.
    pub(crate) taken: usize,
    /// How many bytes a record takes in a message, in the protocol of the reader.
    pub(crate) record_bytes: fn(&Record) -> usize,
}

/// How to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) shape: Shape,
    pub(crate) out_of_range: OutOfRange,
}

/// A read of everything from some places on.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    pub(crate) targets: Vec<ReadTarget>,
    pub(crate) options: Options,
    /// Records after which the stream ends.
    pub(crate) records_max: i64,
}

/// One bounded read.
#[derive(Debug)]
pub(crate) struct FetchRequest {
    pub(crate) targets: Vec<ReadTarget>,
    pub(crate) options: Options,
    /// How long to wait for `bytes_min`.
    pub(crate) wait: Duration,
    pub(crate) bytes_min: usize,
    /// An aim: one record or batch may be larger.
    pub(crate) bytes_max: usize,
    pub(crate) records_max: usize,
}

// === impl Shape ===

impl Shape {
    /// Bytes that are left of a message.
    pub(crate) fn room(&self) -> usize {
        self.message_bytes_max.saturating_sub(self.taken)
    }
}

// === impl Options ===

impl Options {
    /// The same, with room for what is in the answer already.
    pub(crate) fn within(mut self, taken: usize) -> Self {
        self.shape.taken = self.shape.taken.saturating_add(taken);
        self
    }
}
