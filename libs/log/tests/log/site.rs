//! A partition on a simulated disk, and what the test knows of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use walser_log::{AppendError, DataDirectory, Log, LogConfig, LogError, MemoryDisk, Recovery};
use walser_model::{
    Compression, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicConfig, TopicId, TopicPartition,
};
use walser_record_batch::{BatchBuilder, BatchHeader, Batches, Producer, RecordFields, Records, stamp_position};

pub(crate) const ROOT: &str = "/data";

/// One record as the test expects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) value: Vec<u8>,
    pub(crate) timestamp: i64,
}

pub(crate) struct Site {
    pub(crate) disk: MemoryDisk,
    pub(crate) directory: DataDirectory,
    pub(crate) log: Log,
    pub(crate) found: Recovery,
    /// Every record written, by offset.
    pub(crate) written: Vec<Expected>,
    /// Everything below was reported durable.
    pub(crate) acknowledged: Offset,
    pub(crate) epoch: LeaderEpoch,
}

pub(crate) fn partition() -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes([5; 16]), PartitionIndex(0))
}

pub(crate) fn config() -> LogConfig {
    LogConfig { segment_bytes: 64 << 10, index_interval_bytes: 512, ..LogConfig::from(&TopicConfig::default()) }
}

pub(crate) fn open(disk: &MemoryDisk, config: LogConfig) -> Result<(DataDirectory, Log, Recovery), LogError> {
    let directory = DataDirectory::open(Arc::new(disk.clone()), Path::new(ROOT), "test");
    let directory = directory.map_err(|error| LogError::Failed { reason: error.to_string() })?;
    let dir = directory.partition_dir(partition());
    let (log, found) = Log::open(directory.disk(), dir, partition(), config, directory.checkpoint(), 0)?;
    Ok((directory, log, found))
}

impl Site {
    pub(crate) fn new(disk: MemoryDisk, config: LogConfig) -> Self {
        let (directory, mut log, found) = open(&disk, config).unwrap();
        log.begin_epoch(LeaderEpoch(1), false);
        let (written, acknowledged) = (Vec::new(), Offset::ZERO);
        Self { disk, directory, log, found, written, acknowledged, epoch: LeaderEpoch(1) }
    }

    /// Appends one batch of records with these values. The record's time is its offset.
    pub(crate) fn append(&mut self, values: &[Vec<u8>]) -> Result<(), AppendError> {
        self.append_as(values, Producer::NONE)
    }

    /// Appends one record of this time, at this time.
    pub(crate) fn append_at(&mut self, timestamp: i64) -> Result<(), AppendError> {
        let base = self.log.log_end();
        let mut builder = BatchBuilder::new(Compression::None, 0);
        builder.append(&RecordFields { timestamp, key: None, value: Some(b"at"), headers: &[] });
        let mut batch = builder.build(Producer::NONE).to_vec();
        stamp_position(&mut batch, base, self.epoch);
        let header = BatchHeader::parse(&batch).unwrap();
        self.log.append(&batch[..].into(), &[header], timestamp).map_err(|(_, error)| error)?;
        self.written.push(Expected { value: b"at".to_vec(), timestamp });
        Ok(())
    }

    pub(crate) fn append_as(&mut self, values: &[Vec<u8>], producer: Producer) -> Result<(), AppendError> {
        let base = self.log.log_end();
        let mut builder = BatchBuilder::new(Compression::None, 0);
        for (timestamp, value) in (base.0..).zip(values) {
            builder.append(&RecordFields { timestamp, key: None, value: Some(value), headers: &[] });
        }
        let mut batch = builder.build(producer).to_vec();
        stamp_position(&mut batch, base, self.epoch);
        let header = BatchHeader::parse(&batch).unwrap();
        self.log.check_and_record(&header, base.0)?;
        self.log.append(&batch[..].into(), &[header], base.0).map_err(|(_, error)| error)?;
        self.written.truncate(usize::try_from(base.0).unwrap());
        let expected = values.iter().zip(base.0..);
        self.written.extend(expected.map(|(value, timestamp)| Expected { value: value.clone(), timestamp }));
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), LogError> {
        let Some(job) = self.log.begin_flush()? else { return Ok(()) };
        let outcome = job.run();
        self.acknowledged = self.log.finish_flush(&outcome)?;
        Ok(())
    }

    /// Appends so many batches of records (how many, bytes of each), each of which is flushed.
    pub(crate) fn append_flushed(&mut self, batches: u64, (count, size): (usize, usize)) {
        for seed in 0..batches {
            self.append(&values(seed, count, size)).unwrap();
            self.flush().unwrap();
        }
    }

    pub(crate) fn extend(&mut self) {
        if let Some(extension) = self.log.begin_extension() {
            let outcome = extension.run();
            self.log.finish_extension(&extension, &outcome);
        }
    }

    /// The process ends without a word and starts again on `disk`.
    pub(crate) fn restart_on(&mut self, disk: MemoryDisk, config: LogConfig) {
        let (directory, mut log, found) = open(&disk, config).unwrap();
        self.epoch = self.epoch.next();
        log.begin_epoch(self.epoch, false);
        (self.disk, self.directory, self.log, self.found) = (disk, directory, log, found);
        self.acknowledged = self.acknowledged.max(self.log.durable());
    }

    /// Reads everything from the log start, and checks it against what was written.
    pub(crate) fn check_contents(&self) {
        let (start, end) = (self.log.log_start(), self.log.log_end());
        assert!(end >= self.acknowledged, "log ends at {end}, {} was acknowledged", self.acknowledged);
        let mut at = start;
        while at < end {
            let slice = self.log.reader().read(at, end, 700).unwrap();
            assert!(slice.next_offset > at, "stuck at {at} of {start}..{end}");
            at = self.check_batches(slice.batches, at);
        }
        assert_eq!(at, end);
    }

    fn check_batches(&self, batches: Bytes, from: Offset) -> Offset {
        let mut at = from;
        for (header, batch) in Batches::of(batches).map(Result::unwrap) {
            for record in Records::open(header, &batch).unwrap().map(Result::unwrap) {
                if record.offset >= from {
                    assert_eq!(record.offset, at);
                    let expected = &self.written[usize::try_from(at.0).unwrap()];
                    assert_eq!(record.value.as_deref(), Some(expected.value.as_slice()), "offset {at}");
                    assert_eq!(record.timestamp, expected.timestamp);
                    at = at.plus(1);
                }
            }
        }
        at
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.log.dir().join(name)
    }
}

pub(crate) fn session(id: i64, base_sequence: i32) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(0), base_sequence }
}

/// Values that differ from each other, of about `size` bytes.
pub(crate) fn values(seed: u64, count: usize, size: usize) -> Vec<Vec<u8>> {
    let one = |index| format!("{seed}-{index}-").into_bytes().into_iter().cycle().take(size.max(12)).collect();
    (0..count).map(one).collect()
}

/// What becomes of a batch of `count` records of this producer.
pub(crate) fn repeat(site: &mut Site, producer: Producer, count: i32) -> walser_model::SequenceCheck {
    let mut builder = BatchBuilder::new(Compression::None, 0);
    for _ in 0..count {
        let fields = RecordFields { timestamp: 0, key: None, value: None, headers: &[] };
        builder.append(&fields);
    }
    let header = BatchHeader::parse(&builder.build(producer)).unwrap();
    site.log.check_sequence(&header).unwrap()
}
