//! What lies in the data directory at a start: every log is opened, and what was found is reported with the names of
//! topics once the metadata is known.

use walser_log::{CutTail, Damage, DataDirectory, Kept, Log, LogConfig};
use walser_model::{Timestamp, TopicConfig, TopicPartition};

use crate::error::StartError;
use crate::topic_names::TopicNames;

/// Logs that are opened at once at a start: what takes time is the disk.
pub(crate) const OPENERS: usize = 8;

/// Partitions without an entry in the checkpoint that are named one by one: where the file is lost, all are.
const UNMARKED_MAX: usize = 20;

/// What the start found on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Number of partitions with data.
    pub partitions: usize,
    /// Number of records in them.
    pub records: i64,
    /// Segments that had to be read, because the last stop was not clean.
    pub checked_segments: usize,
    /// Torn ends that were cut, in words.
    pub cut: Vec<String>,
    /// Damage that was found, in words.
    pub damaged: Vec<String>,
    /// What is not reported yet.
    findings: Vec<(TopicPartition, Finding)>,
}

/// Something that is not as a clean stop leaves it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    DamagedEpochs,
    Unmarked,
    Cut(CutTail),
    Damaged(Damage),
    Unopened(String),
}

/// What became of opening one log.
type Opened = Result<(Log, walser_log::Recovery), walser_log::LogError>;

/// Opens every log that lies in the directory, `openers` at once.
pub(crate) fn recover(
    directory: &DataDirectory,
    now: Timestamp,
    openers: usize,
) -> Result<(Vec<Log>, Recovered), StartError> {
    // Partitions whose directory is gone are found by their marks: that is damage, not an empty log.
    let wanted = directory.partitions_to_open()?;
    let mut recovered = Recovered::default();
    let mut logs = Vec::new();
    for (partition, opened) in open_all(directory, &wanted, now, openers) {
        recovered.partitions += 1;
        match opened {
            Ok((log, found)) => {
                recovered.add(&log, found);
                logs.push(log);
            }
            // The others are served; this one answers with the reason.
            Err(error) => recovered.findings.push((partition, Finding::Unopened(error.to_string()))),
        }
    }
    Ok((logs, recovered))
}

/// Opens logs on several threads, and returns them in the order of `wanted`.
fn open_all(
    directory: &DataDirectory,
    wanted: &[TopicPartition],
    now: Timestamp,
    openers: usize,
) -> Vec<(TopicPartition, Opened)> {
    let open = |partition: TopicPartition| {
        let config = LogConfig::from(&TopicConfig::default());
        let dir = directory.partition_dir(partition);
        Log::open(directory.disk(), dir, partition, config, directory.checkpoint(), now)
    };
    let share = wanted.len().div_ceil(openers).max(1);
    std::thread::scope(|threads| {
        let openers: Vec<_> = wanted
            .chunks(share)
            .map(|chunk| threads.spawn(move || chunk.iter().map(|partition| (*partition, open(*partition))).collect()))
            .collect();
        let joined = openers.into_iter().map(|opener| opener.join());
        joined
            .flat_map(|opened: std::thread::Result<Vec<_>>| match opened {
                Ok(opened) => opened,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

// === impl Recovered ===

impl Recovered {
    /// Adds a log that was opened.
    fn add(&mut self, log: &Log, found: walser_log::Recovery) {
        let partition = log.partition();
        self.records += log.log_end().since(log.log_start());
        self.checked_segments += found.scanned_segments;
        let findings = [
            found.damaged_epochs.then_some(Finding::DamagedEpochs),
            found.unmarked.then_some(Finding::Unmarked),
            found.cut.map(Finding::Cut),
            found.damage.map(Finding::Damaged),
        ];
        self.findings.extend(findings.into_iter().flatten().map(|finding| (partition, finding)));
    }

    /// Partitions whose logs cannot be opened, before they are reported.
    pub(crate) fn unopened(&self) -> impl Iterator<Item = TopicPartition> {
        let unopened = self.findings.iter().filter(|(_, finding)| matches!(finding, Finding::Unopened(_)));
        unopened.map(|(partition, _)| *partition)
    }

    /// Reports what was found, in the log and in words for a banner.
    pub(crate) fn report(&mut self, names: &TopicNames) {
        let mut unmarked = 0;
        for (partition, finding) in std::mem::take(&mut self.findings) {
            let partition = names.partition(partition);
            match finding {
                Finding::DamagedEpochs => {
                    tracing::warn!(%partition, "the leader epochs were damaged, and were made again");
                }
                Finding::Unmarked if unmarked >= UNMARKED_MAX => unmarked += 1,
                Finding::Unmarked => {
                    unmarked += 1;
                    tracing::warn!(
                        %partition,
                        "the checkpoint has no entry of this partition: records that were deleted last may be back"
                    );
                }
                Finding::Cut(CutTail { offset, kept: Kept { path, bytes, cut } }) => {
                    let kept_in = path.display();
                    tracing::warn!(%partition, %offset, bytes = cut, kept = bytes, %kept_in, "torn end cut");
                    let part = if bytes < cut { format!("the first {bytes} ") } else { String::new() };
                    let text = format!("{partition}: cut {cut} torn bytes at offset {offset}, {part}kept in {kept_in}");
                    self.cut.push(text);
                }
                Finding::Damaged(Damage { from, durable }) => {
                    tracing::error!(%partition, %from, %durable, "durable records are damaged");
                    self.damaged.push(format!("{partition}: records from offset {from} to {durable} are damaged"));
                }
                Finding::Unopened(error) => {
                    tracing::error!(%partition, error, "partition cannot be opened");
                    self.damaged.push(format!("{partition}: cannot be opened: {error}"));
                }
            }
        }
        if unmarked > UNMARKED_MAX {
            tracing::warn!(more = unmarked - UNMARKED_MAX, "more partitions have no entry in the checkpoint");
        }
        let Self { partitions, records, checked_segments, .. } = *self;
        let (cut, damaged) = (self.cut.len(), self.damaged.len());
        tracing::info!(partitions, records, checked_segments, cut, damaged, "logs recovered");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use walser_log::MemoryDisk;
    use walser_model::{Compression, LeaderEpoch, Offset, PartitionIndex, TopicId};
    use walser_record_batch::{BatchBuilder, BatchHeader, Producer, RecordFields, stamp_position};

    use super::*;

    fn open(disk: &MemoryDisk) -> DataDirectory {
        DataDirectory::open(Arc::new(disk.clone()), Path::new("/data"), "test").unwrap()
    }

    /// Partitions with one durable record each.
    fn filled(partition_count: i32) -> MemoryDisk {
        let disk = MemoryDisk::simulated(1 << 30);
        let directory = open(&disk);
        let mut builder = BatchBuilder::new(Compression::None, 200);
        builder.append(&RecordFields { timestamp: 1, key: None, value: Some(&[7; 100]), headers: &[] });
        let mut batch = builder.build(Producer::NONE).to_vec();
        stamp_position(&mut batch, Offset::ZERO, LeaderEpoch(1));
        let header = BatchHeader::parse(&batch).unwrap();
        for number in 0..partition_count {
            let partition = TopicPartition::new(TopicId::from_bytes([3; 16]), PartitionIndex(number));
            let config = LogConfig::from(&TopicConfig::default());
            let dir = directory.partition_dir(partition);
            let opened = Log::open(directory.disk(), dir, partition, config, directory.checkpoint(), 0);
            let (mut log, _) = opened.unwrap();
            log.append(&batch[..].into(), &[header], 0).map_err(|(_, error)| error).unwrap();
            let job = log.begin_flush().unwrap().unwrap();
            log.finish_flush(&job.run()).unwrap();
        }
        disk
    }

    #[test]
    fn the_syncs_of_a_start_after_a_kill_do_not_grow_with_the_partitions() {
        let syncs = [1, 1_000].map(|partition_count| {
            let disk = filled(partition_count).restart_process();
            let (logs, recovered) = recover(&open(&disk), 0, 1).unwrap();
            assert_eq!(logs.len(), usize::try_from(partition_count).unwrap());
            assert_eq!(recovered.records, i64::from(partition_count));
            assert!(logs.iter().all(|log| log.open_files() == 0 && log.durable() == Offset(1)));
            disk.sync_count()
        });
        assert_eq!(syncs[0], syncs[1]);
    }
}
