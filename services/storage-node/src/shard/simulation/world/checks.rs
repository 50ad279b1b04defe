//! What must hold in the world of the shard's simulation, after every start and at the end of a run.

use std::hash::Hash as _;
use std::time::Duration;

use tokio::sync::oneshot;
use walser_model::Offset;
use walser_record_batch::{Batches, Records};

use super::{Acknowledged, PARTITIONS, RARELY, RETENTION, RETENTION_CHECK, Restart, SEGMENT_AGE, World, partition};
use crate::shard::Command;

impl World {
    /// Every acknowledged record is where it was said to be, unless it was to go, and the log reaches as far as readers
    /// have seen it.
    pub(super) fn check(&mut self) {
        self.forget_deleted();
        for number in 0..PARTITIONS {
            let handle = self.surroundings.registry.led(partition(number)).unwrap();
            let (start, end) = (handle.reader.log_start(), handle.reader.log_end());
            (start.0, end.0).hash(&mut self.trace);
            let seen = self.seen.get(&partition(number)).copied().unwrap_or(Offset::ZERO);
            assert!(end >= seen, "partition {number} ends at {end}, and was read up to {seen}");
        }
        for ((partition, offset), Acknowledged { value, acks, .. }) in &self.acknowledged {
            let reader = self.surroundings.registry.led(*partition).unwrap().reader.clone();
            let slice = reader.read(*offset, offset.plus(1), 1 << 20);
            let slice = slice.unwrap_or_else(|error| panic!("{partition} {offset} ({acks:?}): {error}"));
            let batch = Batches::of(slice.batches).next().and_then(Result::ok);
            let Some((header, batch)) = batch else { panic!("{partition} {offset} ({acks:?}) is gone") };
            let record = Records::open(header, &batch).unwrap().next().unwrap().unwrap();
            assert_eq!(record.offset, *offset, "{partition}");
            assert!(record.value.as_ref() == Some(value), "{partition} {offset} holds another record");
        }
    }

    /// Forgets the records that are gone because somebody deleted them, or because they were too old.
    fn forget_deleted(&mut self) {
        let retention = i64::try_from(RETENTION.as_millis()).unwrap();
        let (registry, deleted_below, now) = (&self.surroundings.registry, &self.deleted_below, self.now());
        self.acknowledged.retain(|(id, offset), record| {
            let kept = *offset >= registry.led(*id).unwrap().reader.log_start();
            let deleted = deleted_below.get(id).is_some_and(|before| offset < before);
            let old = id.partition.0 == 0 && record.timestamp <= now - retention;
            assert!(kept || deleted || old, "{id} {offset} was removed although nothing says so");
            kept
        });
    }

    pub(in super::super) fn check_every_request_was_answered(&mut self) {
        self.disk.set_file_limit(None);
        let from = self.alive_from;
        let (done, told) = oneshot::channel();
        self.shard.queue.push(Command::Barrier(done));
        self.await_reply("last barrier".to_owned(), told);
        for _ in 0..50 {
            self.write();
        }
        while self.shard.disk_threads.waiting() > 0 || !self.held.is_empty() || self.answered[from..].contains(&0) {
            self.pass(Duration::from_millis(200));
            self.turn();
            self.run_job();
            self.tell_outcome();
        }
        self.turn();
        self.check_every_reply_was_given();
    }

    /// A partition that is written rarely, and rests in between, keeps nothing for long beyond its time.
    pub(in super::super) fn check_retention(&mut self) {
        let whole = RETENTION + SEGMENT_AGE + 2 * RARELY + 3 * RETENTION_CHECK;
        let (written, first) = (partition(0), self.now());
        while self.now() < first + i64::try_from((whole + SEGMENT_AGE).as_millis()).unwrap() {
            self.write_to(written, 10, 1);
            let next = self.now() + i64::try_from(RARELY.as_millis()).unwrap();
            while self.now() < next {
                self.pass(Duration::from_millis(500));
                self.turn();
                self.run_job();
                self.tell_outcome();
                self.turn();
            }
        }
        self.restart(Restart::Stopped);
        let oldest = self.acknowledged.iter().find(|((partition, _), _)| *partition == written);
        let age = oldest.map_or(0, |(_, record)| self.now() - record.timestamp);
        assert!(age <= i64::try_from(whole.as_millis()).unwrap(), "a record is still there after {age} ms");
    }
}
