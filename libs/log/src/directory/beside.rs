//! What lies in a data directory beside the logs: partitions that were set aside, and copies that are to take the place of
//! logs.

use std::io;

use walser_model::{Offset, Timestamp, TopicPartition};

use super::DataDirectory;
use crate::copy::{CompleteCopy, CopyError, LogCopy};
use crate::log::{Log, LogConfig};
use crate::set_aside::SetAside;

impl DataDirectory {
    /// What was set aside, by partition.
    pub fn set_aside_partitions(&self) -> Vec<SetAside> {
        self.set_aside.all()
    }

    /// A partition that was set aside.
    pub fn set_aside_partition(&self, partition: TopicPartition) -> Option<SetAside> {
        self.set_aside.found(partition)
    }

    /// Sets a partition aside whose log is closed with this call. What was not flushed may be lost with power.
    ///
    /// # Errors
    /// I/O errors; calling [`DataDirectory::set_aside_closed`] continues.
    pub fn set_aside(&self, log: Log, now: Timestamp) -> io::Result<()> {
        let partition = log.partition();
        log.close();
        self.set_aside_closed(partition, now)
    }

    /// Sets a partition aside whose log is not open. One without files and marks leaves nothing to keep.
    ///
    /// # Errors
    /// I/O errors; calling again continues.
    pub fn set_aside_closed(&self, partition: TopicPartition, now: Timestamp) -> io::Result<()> {
        self.set_aside.set_aside(partition, now)
    }

    /// Takes a partition back that was set aside: its log can be opened afterwards. Returns whether there was one.
    ///
    /// # Errors
    /// I/O errors, and [`io::ErrorKind::AlreadyExists`] when the partition has a log; nothing has changed then.
    pub fn take_back(&self, partition: TopicPartition) -> io::Result<bool> {
        self.set_aside.take_back(partition)
    }

    /// Begins to build a log in place of the one that a partition has: it starts at `log_start` (inclusive). What is left of
    /// an earlier attempt is removed.
    ///
    /// # Errors
    /// [`CopyError`].
    pub fn begin_copy(
        &self,
        partition: TopicPartition,
        config: LogConfig,
        log_start: Offset,
        now: Timestamp,
    ) -> Result<LogCopy, CopyError> {
        self.copies.begin(partition, config, log_start, now)
    }

    /// Puts a copy in the place of a log, which is closed with this call. The partition's log can be opened afterwards.
    ///
    /// # Errors
    /// I/O errors: the copy may count already, and [`DataDirectory::finish_copy`] continues.
    pub fn install_copy(&self, copy: &CompleteCopy, old: Log) -> io::Result<()> {
        old.close();
        self.copies.install(copy)
    }

    /// Brings a copy of a partition that counts into its place, where an earlier call did not get so far. To be called
    /// before a log is opened. Returns whether there was one.
    ///
    /// # Errors
    /// I/O errors; calling again continues.
    pub fn finish_copy(&self, partition: TopicPartition) -> io::Result<bool> {
        self.copies.finish(partition)
    }

    /// Removes a copy that was not complete, or that nobody wants.
    ///
    /// # Errors
    /// I/O errors.
    pub fn discard_copy(&self, partition: TopicPartition) -> io::Result<()> {
        self.copies.discard(partition)
    }

    /// Deletes a partition that was set aside, for good. Returns the bytes freed; `None`: there is none.
    ///
    /// # Errors
    /// I/O errors; calling again continues.
    pub fn delete_set_aside(&self, partition: TopicPartition) -> io::Result<Option<u64>> {
        self.set_aside.delete(partition)
    }
}
