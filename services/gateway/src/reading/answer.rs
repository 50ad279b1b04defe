//! What a reader is told.

use std::sync::Arc;
use std::time::Duration;

use walser_model::{Offset, Timestamp};
use walser_rpc::{ApiError, SendGate};

use crate::metadata::TopicView;

use super::decode::Decoded;

/// A partition by the name of its topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PartitionName {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
}

/// Records of one partition, with its marks.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) topic: Arc<TopicView>,
    pub(crate) partition: i32,
    pub(crate) content: Decoded,
    /// Exclusive.
    pub(crate) high_watermark: i64,
    pub(crate) log_start: i64,
    pub(crate) leader_epoch: i32,
}

/// The reader's offset was not in the log: it goes on at another one.
#[derive(Debug, Clone)]
pub(crate) struct Reset {
    pub(crate) of: PartitionName,
    pub(crate) requested: Offset,
    pub(crate) actual: Offset,
}

/// A partition that cannot be read now, or at all.
#[derive(Debug, Clone)]
pub(crate) struct PartitionFailure {
    pub(crate) of: PartitionName,
    pub(crate) failure: ApiError,
}

/// Where a reader stands in a partition.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) of: PartitionName,
    pub(crate) next_offset: i64,
    /// The high watermark.
    pub(crate) end_offset: i64,
}

/// What comes next on a stream.
#[derive(Debug)]
pub(crate) enum ReadEvent {
    Chunk(Chunk),
    Heartbeat {
        server_time: Timestamp,
        progress: Vec<Progress>,
    },
    /// Every partition was read up to its end as of now.
    CaughtUp(Vec<Progress>),
    Reset(Reset),
    Problem(PartitionFailure),
    /// The end that was asked for.
    EndReached(PartitionName),
    /// The gateway stops, and takes no longer than this.
    Drain(Duration),
}

/// The answer of one bounded read, and the gate with the budget that it holds until it is sent.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) resets: Vec<Reset>,
    pub(crate) failures: Vec<PartitionFailure>,
    /// Bytes that the failures may take in the message. Those that do not fit are found again by the next call.
    pub(crate) failure_bytes_max: usize,
    pub(crate) gate: SendGate,
}

/// An offset that was looked up, or why it was not.
#[derive(Debug)]
pub(crate) struct LookedUp {
    pub(crate) of: PartitionName,
    pub(crate) found: Result<FoundPlace, ApiError>,
}

/// A place found in a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoundPlace {
    /// -1: no record at or after the time.
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) leader_epoch: i32,
}

/// Bytes of a message beside the progress that it carries.
const MESSAGE_OVERHEAD: usize = 64;
/// Bytes of the progress of a partition beside the name of its topic: numbers in the longest form of any protocol.
const PROGRESS_OVERHEAD: usize = 48;

/// Progress in parts that fit the client's messages; at least one.
pub(crate) fn in_messages(all: impl Iterator<Item = Progress>, message_bytes_max: usize) -> Vec<Vec<Progress>> {
    let mut parts = in_parts(all, message_bytes_max, |progress| progress.of.topic.len() + PROGRESS_OVERHEAD);
    if parts.is_empty() {
        parts.push(Vec::new());
    }
    parts
}

/// Items of so many bytes each, in parts that fit a message; without items there are none.
pub(crate) fn in_parts<T>(
    all: impl Iterator<Item = T>,
    message_bytes_max: usize,
    bytes_of: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    let room = message_bytes_max.saturating_sub(MESSAGE_OVERHEAD);
    let (mut parts, mut bytes) = (Vec::<Vec<T>>::new(), 0);
    for item in all {
        let size = bytes_of(&item);
        match parts.last_mut().filter(|_| bytes + size <= room) {
            Some(part) => {
                bytes += size;
                part.push(item);
            }
            None => {
                bytes = size;
                parts.push(vec![item]);
            }
        }
    }
    parts
}

// === impl PartitionName ===

impl PartitionName {
    pub(crate) fn of(topic: &TopicView, partition: i32) -> Self {
        Self { topic: Arc::clone(&topic.name), partition }
    }
}
