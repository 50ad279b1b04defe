//! The part of a flush that waits for the disk: it runs on a thread of its own, beside whatever the writer of the log does.
//! What both write has a lock of its own: the index of a segment, and the files that are replaced.

use std::io;
use std::sync::Arc;

use walser_model::{Offset, TopicPartition};

use crate::directory_names::DirectoryNames;
use crate::disk::{DiskFile, out_of_files, out_of_space};
use crate::epochs;
use crate::generation::Generation;
use crate::segment::{IndexTail, Segment};
use crate::snapshots;

/// Work for a flush thread: everything below [`FlushJob::up_to`] is durable once it has run without an error.
#[derive(Debug)]
pub struct FlushJob {
    pub(crate) partition: TopicPartition,
    pub(crate) generation: Generation,
    /// The flush covers the offsets below this one.
    pub up_to: Offset,
    /// The partition's directory.
    pub(crate) names: Arc<DirectoryNames>,
    /// The directory around it, when names in both have to become durable.
    pub(crate) around: Option<Arc<DirectoryNames>>,
    /// The leader epochs, when they have to be written. A log without records has no directory before.
    pub(crate) epochs: Option<Vec<u8>>,
    pub(crate) files: Vec<Arc<dyn DiskFile>>,
    /// What has to be written so that a restart reads from [`FlushJob::up_to`] on.
    pub(crate) recovery_point: Option<RecoveryPoint>,
    /// Snapshots below stand for recovery points that no restart goes back to.
    pub(crate) snapshots_needed_from: Option<Offset>,
}

/// What a restart needs that reads nothing below some offset.
#[derive(Debug)]
pub(crate) struct RecoveryPoint {
    pub(crate) index: Option<(Arc<Segment>, IndexTail)>,
    /// The producers.
    pub(crate) snapshot: Vec<u8>,
}

/// What became of a job, for the log that it was taken from.
#[derive(Debug)]
pub struct FlushOutcome {
    pub(crate) generation: Generation,
    pub(crate) result: io::Result<Flushed>,
}

/// What a job achieved beside making the log durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// Indexes and snapshot are written down as well: a restart reads from here.
    pub(crate) recovery_point: bool,
    /// Something was missing for some of the work: contents are synced, names and epochs need not be, and nothing is durable
    /// yet.
    pub(crate) postponed: Option<FlushLack>,
}

/// What a flush was short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushLack {
    /// Files that may be open.
    Files,
    /// Space on the disk.
    Space,
}

// === impl FlushOutcome ===

impl FlushOutcome {
    /// What was missing for what goes with the records: nothing counts as durable yet, and nothing is lost.
    pub fn postponed(&self) -> Option<FlushLack> {
        self.result.as_ref().ok().and_then(|flushed| flushed.postponed)
    }

    /// What the system said, where the job failed.
    pub fn error(&self) -> Option<&io::Error> {
        self.result.as_ref().err()
    }
}

// === impl FlushJob ===

impl FlushJob {
    /// Runs the job. Blocks as long as the disk takes. After an error nothing is known of what the job covers, and it
    /// MUST NOT be tried again.
    pub fn run(&self) -> FlushOutcome {
        FlushOutcome { generation: self.generation, result: self.sync() }
    }

    fn sync(&self) -> io::Result<Flushed> {
        // Synced with the log at the latest: no record of an epoch is acknowledged before the epoch's start is durable.
        let written = self.write_epochs();
        self.files.iter().try_for_each(|file| file.sync_data())?;
        match written {
            // The file is written as a whole again: this is no sync that is tried twice.
            Err(error) if out_of_files(&error) || out_of_space(&error) => {
                let lack = if out_of_space(&error) { FlushLack::Space } else { FlushLack::Files };
                return Ok(Flushed { postponed: Some(lack), ..Flushed::default() });
            }
            other => other?,
        }
        match self.sync_names() {
            Err(error) if out_of_files(&error) => {
                return Ok(Flushed { postponed: Some(FlushLack::Files), ..Flushed::default() });
            }
            other => other?,
        }
        let recovery_point = match &self.recovery_point {
            None => false,
            Some(point) => match self.write_down(point) {
                Ok(()) => true,
                // Without room for index and snapshot the recovery point waits; the records are durable.
                Err(error) if out_of_space(&error) || out_of_files(&error) => false,
                Err(error) => return Err(error),
            },
        };
        if let Some(needed_from) = self.snapshots_needed_from
            && let Err(error) = snapshots::remove_below(&self.names, needed_from)
        {
            tracing::warn!(partition = %self.partition, %error, "old snapshots stay");
        }
        Ok(Flushed { recovery_point, ..Flushed::default() })
    }

    fn write_epochs(&self) -> io::Result<()> {
        let Some(epochs) = &self.epochs else { return Ok(()) };
        self.names.disk().create_dir(self.names.path())?;
        // Under a new name: that of an earlier file may be in the cache only, after a sync that failed.
        self.names.replace_file_unsynced(epochs::FILE_NAME, epochs)
    }

    fn sync_names(&self) -> io::Result<()> {
        let Some(around) = &self.around else { return Ok(()) };
        self.names.sync()?;
        around.sync()
    }

    fn write_down(&self, RecoveryPoint { index, snapshot }: &RecoveryPoint) -> io::Result<()> {
        if let Some((segment, tail)) = index
            && let Some(file) = segment.write_index(tail)?
        {
            file.sync_data()?;
        }
        // The sync of the name makes that of the index durable too.
        self.names.replace_file(&snapshots::snapshot_name(self.up_to), snapshot)
    }
}
