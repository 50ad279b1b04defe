//! The log of a partition, as decisions ask about it.

use walser_log::{Condition, Log};
use walser_model::{LeaderEpoch, Offset};
use walser_replication::ReplicaLog;

/// A log on this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeptLog<'a>(pub(super) &'a Log);

impl ReplicaLog for KeptLog<'_> {
    fn start(&self) -> Offset {
        self.0.log_start()
    }

    fn retained(&self) -> Offset {
        self.0.retained()
    }

    fn end(&self) -> Offset {
        self.0.log_end()
    }

    fn durable(&self) -> Offset {
        self.0.durable()
    }

    fn latest_epoch(&self) -> LeaderEpoch {
        self.0.latest_epoch()
    }

    fn begun(&self) -> LeaderEpoch {
        self.0.begun_epoch()
    }

    fn end_of(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.0.end_of_epoch(epoch)
    }

    fn readable(&self) -> (LeaderEpoch, Offset) {
        match self.0.condition() {
            Condition::Corrupt { from } => (self.0.epoch_before(*from), *from),
            _ => (self.latest_epoch().max(self.begun()), self.end()),
        }
    }

    fn tombstone_floor(&self) -> Offset {
        self.0.tombstone_floor()
    }

    fn damaged(&self) -> bool {
        matches!(self.0.condition(), Condition::Corrupt { .. })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use walser_log::{DataDirectory, LogConfig, MemoryDisk};
    use walser_model::{Compression, PartitionIndex, TopicConfig, TopicId, TopicPartition};
    use walser_record_batch::{BatchBuilder, BatchHeader, Producer, RecordFields, stamp_position};
    use walser_replication::conformance::{LogUnderTest, check};

    use super::*;

    struct OnDisk(Log);

    impl LogUnderTest for OnDisk {
        fn ask<R>(&self, question: impl FnOnce(&dyn ReplicaLog) -> R) -> R {
            question(&KeptLog(&self.0))
        }

        fn append(&mut self, epoch: LeaderEpoch) {
            let mut builder = BatchBuilder::new(Compression::None, 0);
            builder.append(&RecordFields { timestamp: 1, key: None, value: Some(&[7; 300]), headers: &[] });
            let mut batch = builder.build(Producer::NONE).to_vec();
            stamp_position(&mut batch, self.0.log_end(), epoch);
            let header = BatchHeader::parse(&batch).unwrap();
            self.0.append(&batch[..].into(), &[header], 1).map_err(|(_, error)| error).unwrap();
        }

        fn begin(&mut self, epoch: LeaderEpoch) {
            self.0.begin_epoch(epoch, true);
        }

        fn flush(&mut self) {
            if let Some(job) = self.0.begin_flush().unwrap() {
                self.0.finish_flush(&job.run()).unwrap();
            }
        }

        fn cut(&mut self, to: Offset) {
            self.0.truncate(to, false).unwrap();
        }

        fn delete(&mut self, before: Offset) {
            self.0.delete_records(before, 1).unwrap();
        }
    }

    #[test]
    fn a_log_on_disk_answers_as_others_do() {
        let directory = DataDirectory::open(Arc::new(MemoryDisk::new(1 << 30)), Path::new("/data"), "test").unwrap();
        for seed in 0..200 {
            let partition = TopicPartition::new(TopicId::from_bytes([3; 16]), PartitionIndex(seed));
            let config = LogConfig { segment_bytes: 2_000, ..LogConfig::from(&TopicConfig::default()) };
            let (disk, dir) = (directory.disk(), directory.partition_dir(partition));
            let (log, _) = Log::open(disk, dir, partition, config, directory.checkpoint(), 1).unwrap();
            check(&mut OnDisk(log), u64::try_from(seed).unwrap(), 100);
        }
    }
}
