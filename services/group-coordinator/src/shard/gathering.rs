//! Events on their way into batches, and what is released behind them.

use std::collections::VecDeque;

use bytes::Bytes;
use walser_group::{Event, Notice};
use walser_model::{Compression, Timestamp};
use walser_record_batch::{BatchBuilder, DECODED_COST_MAX, Producer, RecordFields};
use walser_rpc::ApiError;

use super::member_log::MemberLine;
use crate::call::Release;

/// A batch is not made larger by a request that fits another one. Only one that is larger by itself is cut: the shard
/// repairs what it may have left behind.
const BATCH_BYTES: usize = 1 << 20;
/// Larger batches are cut. Less than the internal topic takes.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Bytes that wait while as many batches as may be are on their way.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Answers that wait with them.
const WAITING_MAX: usize = 4_096;

/// What is released when events are replicated.
pub(super) struct Deferred {
    pub(super) answer: Option<Release>,
    pub(super) notices: Vec<Notice>,
    /// What the log of the process says then.
    pub(super) lines: Vec<MemberLine>,
    /// Its events are in several batches: some may be written although the last is not.
    pub(super) cut: bool,
}

/// A batch that is ready.
pub(super) struct Sealed {
    pub(super) record_batch: Bytes,
    pub(super) record_count: i32,
    pub(super) deferred: Vec<Deferred>,
}

/// What has not been sent.
#[derive(Default)]
pub(super) struct Gathering {
    open: Option<BatchBuilder>,
    /// Of the open batch.
    deferred: Vec<Deferred>,
    sealed: VecDeque<Sealed>,
    sealed_bytes: usize,
}

// === impl Deferred ===

impl Deferred {
    pub(super) fn is_empty(&self) -> bool {
        self.answer.is_none() && self.notices.is_empty() && self.lines.is_empty()
    }

    /// It was not replicated, as far as is known.
    pub(super) fn fail(self, failure: &ApiError) {
        if let Some(answer) = self.answer {
            answer(Err(failure.clone()));
        }
    }
}

// === impl Gathering ===

impl Gathering {
    /// Adds the events of one request: to one batch, unless they are too many for any. Returns whether they were.
    pub(super) fn add(&mut self, events: &[Event], now: Timestamp) -> bool {
        if events.is_empty() {
            return false;
        }
        let mut cut = false;
        if self.open.as_ref().is_some_and(|open| open.uncompressed_len() >= BATCH_BYTES) {
            self.seal();
        }
        for (number, event) in events.iter().enumerate() {
            let encoded = event.encode();
            let fields =
                RecordFields { timestamp: now, key: Some(&encoded.key), value: encoded.value.as_deref(), headers: &[] };
            if self.open.as_ref().is_some_and(|open| is_full(open, fields.encoded_len_max())) {
                self.seal();
                cut |= number > 0;
            }
            let open = self.open.get_or_insert_with(|| BatchBuilder::new(Compression::None, 4 << 10));
            open.append(&fields);
        }
        cut
    }

    /// Releases something behind the events that were added last.
    pub(super) fn defer(&mut self, deferred: Deferred) {
        match self.sealed.back_mut() {
            Some(last) if self.open.is_none() => last.deferred.push(deferred),
            _ => self.deferred.push(deferred),
        }
    }

    /// Whether nothing waits to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_none() && self.sealed.is_empty()
    }

    /// Whether more may be added.
    pub(super) fn has_room(&self) -> bool {
        let bytes = self.sealed_bytes + self.open.as_ref().map_or(0, BatchBuilder::uncompressed_len);
        let waiting = self.deferred.len() + self.sealed.iter().map(|sealed| sealed.deferred.len()).sum::<usize>();
        bytes < WAITING_BYTES_MAX && waiting < WAITING_MAX
    }

    /// The next batch to send.
    pub(super) fn take(&mut self) -> Option<Sealed> {
        if self.sealed.is_empty() {
            self.seal();
        }
        let sealed = self.sealed.pop_front()?;
        self.sealed_bytes -= sealed.record_batch.len();
        Some(sealed)
    }

    fn seal(&mut self) {
        let Some(open) = self.open.take() else { return };
        let (record_count, deferred) = (open.record_count(), std::mem::take(&mut self.deferred));
        let record_batch = open.build(Producer::NONE);
        self.sealed_bytes += record_batch.len();
        self.sealed.push_back(Sealed { record_batch, record_count, deferred });
    }
}

/// Whether a record of so many bytes does not fit any more.
fn is_full(open: &BatchBuilder, more: usize) -> bool {
    // A record costs its reader 64 bytes more than it has.
    open.uncompressed_len() + more > BATCH_BYTES_MAX || open.decoded_cost() + more + 128 > DECODED_COST_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_whose_events_are_in_several_batches_is_known_as_such() {
        let groups = |count: usize| {
            let group = |number| Event::Group(format!("{number:0>249}").parse().unwrap(), None);
            (0..count).map(group).collect::<Vec<_>>()
        };
        let mut gathering = Gathering::default();
        assert!(!gathering.add(&[], 0));
        assert!(!gathering.add(&groups(5_000), 0));
        assert!(!gathering.add(&groups(10), 0), "it goes into the next batch as a whole");
        assert!(gathering.add(&groups(40_000), 0));
        let batches = std::iter::from_fn(|| gathering.take()).count();
        assert!(batches > 2, "{batches}");
        assert!(!gathering.add(&groups(10), 0));
    }
}
