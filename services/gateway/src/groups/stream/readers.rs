//! Reading what the member holds, and sending it.

use walser_model::{LeaderEpoch, Offset, TopicPartition};
use walser_rpc::{ApiError, Reason};

use crate::groups::holdings::{Holding, ReadTo};
use crate::groups::request::CommitMode;
use crate::reading::{
    Chunk, OutOfRange, PartitionEvent, PartitionFailure, ReadPermit, ReadPosition, Reset, in_messages,
};

use super::ending::Ending;
use super::outgoing::{Held, Sent};
use super::{GroupEvent, GroupStream};

/// What a stream may take next.
pub(super) struct Takes {
    /// Requests of its client.
    pub(super) requests: bool,
    /// What the readers of its partitions say.
    pub(super) chunks: bool,
}

impl GroupStream {
    pub(super) fn takes(&mut self) -> Takes {
        let goes_on = self.ending.is_none();
        let requests = goes_on && !self.commits.are_many() && !self.outgoing.are_many();
        let chunks = goes_on && !self.suspended && self.outgoing.is_idle();
        Takes { requests, chunks }
    }

    /// Reads a partition from where it stands.
    pub(super) fn start_reading(&mut self, partition: &TopicPartition) {
        let Some(held) = self.holdings.get_mut(partition) else { return };
        let mut target = held.target();
        // What is committed and waits to be sent is not read again.
        if let Some(waits) = self.outgoing.held().filter(|waits| waits.partition == *partition) {
            target.start = ReadPosition::Offset(waits.chunk.content.next_offset);
            target.last_epoch = waits.chunk.leader_epoch;
        }
        let reader = self.open.open(target, usize::MAX);
        if let Some(before) = self.holdings.set_reader(partition, Some(reader)) {
            self.open.close(before);
        }
    }

    /// Ends the reader of a partition; what it has read and what was not sent is dropped.
    pub(super) fn halt_reading(&mut self, partition: &TopicPartition) {
        self.close_reader(partition);
        self.outgoing.drop_chunk_of(partition);
    }

    /// Ends the reader of a partition; what it has read is still sent.
    pub(super) fn close_reader(&mut self, partition: &TopicPartition) {
        if let Some(reader) = self.holdings.set_reader(partition, None) {
            self.open.close(reader);
        }
    }

    /// Holds a partition no more, and drops what was not sent of it.
    pub(super) fn stop_reading(&mut self, partition: &TopicPartition) -> Option<Holding> {
        self.outgoing.drop_chunk_of(partition);
        self.forget(partition)
    }

    /// Holds a partition no more.
    pub(super) fn forget(&mut self, partition: &TopicPartition) -> Option<Holding> {
        self.close_reader(partition);
        self.unannounced.remove(partition);
        self.holdings.remove(partition)
    }

    /// Takes what a reader says.
    pub(super) fn take_told(&mut self, told: Result<(usize, PartitionEvent), ApiError>) {
        let (reader, event) = match told {
            Ok(told) => told,
            Err(failure) => return self.end_with(Ending::Failed(failure)),
        };
        // Of a reader that has ended, something may still have been on its way.
        let Some(partition) = self.holdings.of_reader(reader) else { return };
        let Some(held) = self.holdings.get_mut(&partition) else { return };
        match event {
            PartitionEvent::Opened(offset) => held.opened(offset),
            PartitionEvent::CaughtUp(end_offset) => held.caught_up_at(end_offset),
            PartitionEvent::Reset(reset) => {
                held.moved(reset.actual.0);
                self.outgoing.tell(GroupEvent::Reset(reset));
            }
            PartitionEvent::Problem(failure) => {
                held.in_trouble = true;
                let of = held.name.clone();
                self.outgoing.tell(GroupEvent::Problem(PartitionFailure { of, failure }));
            }
            PartitionEvent::Chunk(chunk, permit) => self.take_chunk(partition, chunk, permit),
            // Readers of members have no end.
            PartitionEvent::Ended => self.halt_reading(&partition),
            PartitionEvent::Failed(failure) => self.reading_failed(partition, failure),
        }
    }

    fn take_chunk(&mut self, partition: TopicPartition, chunk: Chunk, permit: ReadPermit) {
        if self.unannounced.contains(&partition) {
            self.announce_now();
        }
        let commits_before = self.settings.commit_mode == CommitMode::BeforeDelivery;
        let sendable_to = if commits_before { i64::MIN } else { i64::MAX };
        self.outgoing.hold(Held { partition, chunk, permit, sendable_to, committing: None });
    }

    /// Commits what is to be sent next, as far as the credit goes, in streams that commit before they send.
    pub(super) fn commit_before_delivery(&mut self) {
        let records = self.credit.records_left();
        let Some(held) = self.outgoing.held().filter(|held| held.committing.is_none() && records > 0) else { return };
        if held.sendable_to >= held.chunk.content.next_offset {
            return;
        }
        let waits = held.chunk.content.records.first().is_none_or(|first| first.record.offset.0 >= held.sendable_to);
        if waits {
            let (partition, end) = (held.partition, held.end_of(records));
            held.committing = Some(end);
            let epoch = held.chunk.leader_epoch;
            let leader_epoch = (epoch >= 0).then_some(LeaderEpoch(epoch));
            self.commit_for_client(&[(partition, ReadTo { offset: end, leader_epoch })]);
        }
    }

    /// Reads partitions again whose records could not be committed before they were sent.
    pub(super) fn read_refused_again(&mut self) {
        if !self.timing.may_ask() {
            return;
        }
        for partition in std::mem::take(&mut self.read_again) {
            if self.holdings.get(&partition).is_some_and(|held| !held.paused && held.reader.is_none()) {
                self.start_reading(&partition);
            }
        }
    }

    /// A partition cannot be read on.
    fn reading_failed(&mut self, partition: TopicPartition, failure: ApiError) {
        self.halt_reading(&partition);
        let goes_on = self.settings.options.out_of_range != OutOfRange::Fail;
        let diverging = failure.value("divergingOffset").and_then(|offset| offset.parse::<i64>().ok());
        let lost = failure.value("lostCount").and_then(|count| count.parse::<i64>().ok());
        let Some(held) = self.holdings.get_mut(&partition) else { return };
        if let (Reason::LogDiverged, true, Some(actual), Some(lost)) = (failure.reason(), goes_on, diverging, lost) {
            let of = held.name.clone();
            held.moved(actual);
            let requested = Offset(actual.saturating_add(lost));
            self.outgoing.tell(GroupEvent::Reset(Reset { of, requested, actual: Offset(actual) }));
            return self.start_reading(&partition);
        }
        held.in_trouble = true;
        let of = held.name.clone();
        self.outgoing.tell(GroupEvent::Problem(PartitionFailure { of, failure }));
    }

    /// Something was sent.
    pub(super) fn sent(&mut self, sent: Sent) {
        self.heartbeat_later();
        let Sent::Records { partition, next_offset, records_end, leader_epoch, end_offset } = sent else { return };
        if let Some(held) = self.holdings.get_mut(&partition) {
            held.sent((next_offset, leader_epoch, records_end), end_offset, self.outgoing.sent_count());
        }
    }

    /// Says once that everything is read to its end, and again after something came.
    pub(super) fn tell_caught_up(&mut self) {
        let now = self.outgoing.held().is_none() && self.unannounced.is_empty() && self.holdings.are_caught_up();
        if now && !self.all_caught_up {
            let all = self.holdings.iter().filter_map(|(_, held)| held.progress());
            for progress in in_messages(all, self.settings.options.shape.message_bytes_max) {
                self.outgoing.tell(GroupEvent::CaughtUp(progress));
            }
        }
        self.all_caught_up = now;
    }
}
