//! The newest records of all partitions together.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use walser_proto::v1 as pb;

use crate::error::CliError;
use crate::output;

/// Most records that are held.
const RECORDS_MAX: u64 = 1_000_000;
/// Most bytes of records that are held.
const BYTES_MAX: usize = 512 << 20;

/// Keeps the newest records of those that it gets: by time, then by topic, partition and offset.
pub(super) struct Last {
    count: usize,
    bytes: usize,
    newest: BinaryHeap<Reverse<Held>>,
}

#[derive(Debug, PartialEq)]
struct Held {
    order: (i64, String, i32, i64),
    record: pb::ConsumedRecord,
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

impl Held {
    fn bytes(&self) -> usize {
        let headers = self.record.headers.iter();
        let headers: usize =
            headers.map(|header| header.key.len() + header.value.as_ref().map_or(0, |value| value.len())).sum();
        let fields = [&self.record.key, &self.record.value].into_iter().flatten();
        fields.map(|bytes| bytes.len()).sum::<usize>() + headers + self.order.1.len() + size_of::<Self>()
    }
}

/// The record in memory of its own: what it came with is a whole message.
fn detached(record: pb::ConsumedRecord) -> pb::ConsumedRecord {
    let own = |bytes: Option<Bytes>| bytes.map(|bytes| Bytes::copy_from_slice(&bytes));
    let header = |header: pb::Header| pb::Header { value: own(header.value), raw_key: own(header.raw_key), ..header };
    let headers = record.headers.into_iter().map(header).collect();
    pb::ConsumedRecord { key: own(record.key), value: own(record.value), headers, ..record }
}

// === impl Last ===

impl Last {
    pub(super) fn new(count: u64) -> Result<Self, CliError> {
        match usize::try_from(count) {
            Ok(count) if count as u64 <= RECORDS_MAX => Ok(Self { count, bytes: 0, newest: BinaryHeap::new() }),
            _ => {
                let most = output::count(i64::try_from(RECORDS_MAX).unwrap_or(i64::MAX));
                let error = CliError::usage(format!("--last holds {most} records at most, to put them in order"));
                Err(error.with_help("--from -N --to latest prints the last N of each partition, without a limit"))
            }
        }
    }

    /// Takes records.
    pub(super) fn add(&mut self, chunk: pb::RecordChunk) -> Result<(), CliError> {
        for record in chunk.records {
            let order = (record.timestamp_millis, chunk.topic.clone(), chunk.partition, record.offset);
            if self.newest.len() >= self.count && self.newest.peek().is_some_and(|Reverse(oldest)| order < oldest.order)
            {
                continue;
            }
            let held = Held { order, record: detached(record) };
            self.bytes += held.bytes();
            self.newest.push(Reverse(held));
            if self.newest.len() > self.count
                && let Some(Reverse(oldest)) = self.newest.pop()
            {
                self.bytes -= oldest.bytes();
            }
        }
        if self.bytes > BYTES_MAX {
            let most = output::bytes(i64::try_from(BYTES_MAX).unwrap_or(i64::MAX));
            let error = CliError::failed(format!("the records of --last take more than {most}"));
            return Err(error.with_help("ask for fewer, or print the last N of each partition: --from -N --to latest"));
        }
        Ok(())
    }

    /// The records, oldest first, each in a chunk of its own.
    pub(super) fn into_chunks(self) -> impl Iterator<Item = pb::RecordChunk> {
        let mut held: Vec<Held> = self.newest.into_iter().map(|Reverse(held)| held).collect();
        held.sort();
        held.into_iter().map(|Held { order: (_, topic, partition, _), record }| pb::RecordChunk {
            topic,
            partition,
            records: vec![record],
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_all_partitions_come_in_the_order_of_time() {
        let mut last = Last::new(3).unwrap();
        let chunk = |partition, times: &[i64]| {
            let record = |(offset, time): (usize, &i64)| pb::ConsumedRecord {
                offset: i64::try_from(offset).unwrap(),
                timestamp_millis: *time,
                ..Default::default()
            };
            let records = times.iter().enumerate().map(record).collect();
            pb::RecordChunk { topic: "t".to_owned(), partition, records, ..Default::default() }
        };
        last.add(chunk(0, &[1, 5, 7])).unwrap();
        last.add(chunk(1, &[2, 6, 7])).unwrap();
        let order = |chunk: pb::RecordChunk| (chunk.records[0].timestamp_millis, chunk.partition);
        assert_eq!(last.into_chunks().map(order).collect::<Vec<_>>(), [(6, 1), (7, 0), (7, 1)]);
        assert!(Last::new(RECORDS_MAX + 1).is_err());
    }
}
