//! The way to the client: words, which are few, and one chunk of records at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use walser_model::TopicPartition;
use walser_rpc::ApiError;

use crate::groups::credit::Credit;
use crate::reading::{Chunk, Decoded, Outlet, OutletClosed, ReadPermit};

use super::event::GroupEvent;

/// With so many words that wait, or with so much in them, nothing more is taken of the client.
const WORDS_MANY: usize = 1_000;
const ITEMS_MANY: usize = 10_000;
/// With so many, it counts as stuck: what the coordinator does goes on without it.
const WORDS_MAX: usize = 10_000;
const ITEMS_MAX: usize = 1_000_000;

/// What is on its way to the client.
pub(super) struct Outgoing {
    outlet: Outlet<GroupEvent>,
    words: VecDeque<GroupEvent>,
    /// Partitions and errors in the words that wait.
    items: usize,
    chunk: Option<Held>,
    /// Since when the client has taken nothing of what waits.
    waits_since: Option<Instant>,
    sent_count: u64,
}

/// A chunk that waits to be sent.
pub(super) struct Held {
    pub(super) partition: TopicPartition,
    pub(super) chunk: Chunk,
    pub(super) permit: ReadPermit,
    /// Where what may be sent ends, exclusive: what lies behind waits for its commit.
    pub(super) sendable_to: i64,
    /// Up to where a commit is on its way.
    pub(super) committing: Option<i64>,
}

impl Held {
    /// How many of its records may be sent, as far as commits go.
    fn sendable(&self) -> usize {
        let content = &self.chunk.content;
        if self.sendable_to >= content.next_offset {
            return usize::MAX;
        }
        content.records.partition_point(|read| read.record.offset.0 < self.sendable_to)
    }

    /// How many of its records are committed, or are just being.
    fn committed_records(&self) -> usize {
        let to = self.committing.unwrap_or(self.sendable_to).max(self.sendable_to);
        let content = &self.chunk.content;
        if to >= content.next_offset {
            return usize::MAX;
        }
        content.records.partition_point(|read| read.record.offset.0 < to)
    }

    /// Where the next so many records of what waits for a commit end; whole batches stay whole.
    pub(super) fn end_of(&self, records: usize) -> i64 {
        let content = &self.chunk.content;
        let end = self.sendable().saturating_add(records);
        let last =
            end.checked_sub(1).and_then(|last| content.records.get(last)).filter(|_| end < content.records.len());
        last.map_or(content.next_offset, |last| last.record.offset.plus(1).0)
    }
}

/// What was sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sent {
    Word,
    Records {
        partition: TopicPartition,
        next_offset: i64,
        /// As [`Decoded::records_end`].
        records_end: Option<i64>,
        leader_epoch: i32,
        end_offset: i64,
    },
}

impl Outgoing {
    pub(super) fn new(outlet: Outlet<GroupEvent>) -> Self {
        Self { outlet, words: VecDeque::new(), items: 0, chunk: None, waits_since: None, sent_count: 0 }
    }

    /// Tells the client something.
    pub(super) fn tell(&mut self, event: GroupEvent) {
        self.items += event.item_count();
        self.words.push_back(event);
    }

    /// How many messages were sent.
    pub(super) fn sent_count(&self) -> u64 {
        self.sent_count
    }

    /// How many of them the connection has taken as a whole.
    pub(super) fn taken(&self) -> u64 {
        self.sent_count.saturating_sub(self.outlet.untaken())
    }

    /// Whether something waits that the client does not take: too much, or for longer than `limit`.
    pub(super) fn is_stuck(&self, limit: Duration) -> bool {
        self.words.len() >= WORDS_MAX
            || self.items >= ITEMS_MAX
            || self.waits_since.is_some_and(|since| since.elapsed() >= limit)
    }

    /// Has a chunk sent. There MUST be none that waits.
    pub(super) fn hold(&mut self, held: Held) {
        debug_assert!(self.chunk.is_none(), "one chunk at a time");
        self.chunk = Some(held);
    }

    /// The chunk that waits.
    pub(super) fn held(&mut self) -> Option<&mut Held> {
        self.chunk.as_mut()
    }

    /// Drops the chunk that waits if it is of a partition.
    pub(super) fn drop_chunk_of(&mut self, partition: &TopicPartition) {
        self.chunk.take_if(|held| held.partition == *partition);
    }

    /// Drops the chunk that waits, but for what is committed for it: nobody else would send that.
    pub(super) fn drop_uncommitted(&mut self, commits_before: bool) {
        self.chunk.take_if(|held| !commits_before || held.committed_records() == 0);
        if let Some(held) = &mut self.chunk {
            let committed = held.committed_records();
            drop(split(&mut held.chunk.content, committed));
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.words.is_empty() && self.chunk.is_none()
    }

    /// Whether so many words wait that the client has to.
    pub(super) fn are_many(&self) -> bool {
        self.words.len() >= WORDS_MANY || self.items >= ITEMS_MANY
    }

    /// Sends what comes next, once the client takes it; with nothing to send, waits until the client is gone. `records`:
    /// whether any may be sent. Safe to cancel.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) async fn sent(&mut self, records: bool, credit: &mut Credit) -> Result<Sent, OutletClosed> {
        let room_for = credit.records_left().min(self.chunk.as_ref().map_or(0, Held::sendable));
        if self.words.is_empty() && !(records && room_for > 0) {
            self.waits_since = None;
            self.outlet.closed().await;
            return Err(OutletClosed);
        }
        self.waits_since.get_or_insert_with(Instant::now);
        let room = self.outlet.room().await?;
        self.waits_since = None;
        self.sent_count += 1;
        if let Some(word) = self.words.pop_front() {
            self.items -= word.item_count();
            room.send(Ok(word), None);
            return Ok(Sent::Word);
        }
        let Some(mut held) = self.chunk.take() else { return Ok(Sent::Word) };
        let rest = split(&mut held.chunk.content, room_for);
        let Chunk { content, leader_epoch, high_watermark, .. } = &held.chunk;
        let (next_offset, records_end) = (content.next_offset, content.records_end());
        let (leader_epoch, end_offset) = (*leader_epoch, *high_watermark);
        credit.take(content);
        let sent = Sent::Records { partition: held.partition, next_offset, records_end, leader_epoch, end_offset };
        match rest {
            // What is left keeps the memory of the whole.
            Some(rest) => {
                let content = std::mem::replace(&mut held.chunk.content, rest);
                let Chunk { partition, high_watermark, log_start, leader_epoch, .. } = held.chunk;
                let topic = Arc::clone(&held.chunk.topic);
                let first = Chunk { topic, partition, content, high_watermark, log_start, leader_epoch };
                self.chunk = Some(held);
                room.send(Ok(GroupEvent::Chunk(first)), None);
            }
            None => room.send(Ok(GroupEvent::Chunk(held.chunk)), Some(held.permit)),
        }
        Ok(sent)
    }

    /// Ends the stream with what waits and with its reason; a client that takes nothing within `limit` gets the reason only.
    pub(super) async fn end(mut self, failure: Option<ApiError>, limit: Duration) {
        if tokio::time::timeout(limit, self.send_rest(failure.clone())).await.is_err()
            && let Some(failure) = failure
        {
            self.outlet.replace(failure);
        }
    }

    async fn send_rest(&mut self, failure: Option<ApiError>) {
        while let Some(word) = self.words.pop_front() {
            if !self.outlet.send(Ok(word), None).await {
                return;
            }
        }
        if let Some(failure) = failure {
            self.outlet.send(Err(failure), None).await;
        }
    }
}

/// Leaves at most so many plain records in `content`, and returns the others; whole batches stay whole.
fn split(content: &mut Decoded, records_max: usize) -> Option<Decoded> {
    if content.records.len() <= records_max {
        return None;
    }
    let records = content.records.split_off(records_max);
    let size_bytes = content.size_bytes / (records_max + records.len()) * records_max;
    let rest = Decoded {
        record_count: i64::try_from(records.len()).unwrap_or(i64::MAX),
        size_bytes: content.size_bytes - size_bytes,
        next_offset: content.next_offset,
        ended: content.ended,
        records,
        ..Decoded::default()
    };
    content.size_bytes = size_bytes;
    content.record_count = i64::try_from(records_max).unwrap_or(i64::MAX);
    content.next_offset = content.records.last().map_or(content.next_offset, |last| last.record.offset.plus(1).0);
    Some(rest)
}
