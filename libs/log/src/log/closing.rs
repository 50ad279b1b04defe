//! How a log ends: its files are closed, it is closed itself, or it is removed. Its slot of the checkpoint is given back in
//! each of them.

use std::io;
use std::sync::Arc;

use super::Log;
use crate::checkpoint::Marks;
use crate::removal::remove_marked;

impl Drop for Log {
    /// Whoever opens it again finds its marks, as after [`Log::close`]: without them its slot would stay in the checkpoint
    /// beside another one of the same partition.
    fn drop(&mut self) {
        if self.claimed {
            self.checkpoint.lock().unclaim(self.partition, self.slot, Some(self.marks));
        }
    }
}

impl Log {
    /// Closes every file that nothing is in flight for, and returns how many. The next append or read opens them again.
    /// Never waits for the disk.
    pub fn close_files(&mut self) -> usize {
        let before = self.open_files();
        let busy = self.flushing.pending() || self.extension_running();
        if !busy && let Some(active) = self.active.take() {
            // Given back by whoever stops the log.
            self.zeros_behind_end |= active.has_space_ahead();
        }
        for segment in self.state.segments().iter().rev().skip(usize::from(busy)) {
            segment.close_at_once();
        }
        before - self.open_files()
    }

    /// Files that are open for this partition.
    pub fn open_files(&self) -> usize {
        self.state.segments().iter().filter(|segment| segment.open()).count()
    }

    /// Closes the log: its marks are there for the next opening in this process.
    pub fn close(self) {
        drop(self);
    }

    /// Gives the slot back with other marks than those of now.
    pub(super) fn give_back(mut self, marks: Option<Marks>) {
        self.claimed = false;
        let checkpoint = Arc::clone(&self.checkpoint);
        let mut slots = checkpoint.lock();
        // Without marks it is free for the next partition, and may have been written for this one.
        let left = marks.is_none() && !slots.forget(&mut self.slot);
        slots.unclaim(self.partition, self.slot, if left { Some(self.marks) } else { marks });
    }

    /// Removes the partition's directory and gives its marks back.
    ///
    /// # Errors
    /// I/O errors; calling again continues.
    pub fn remove(mut self) -> io::Result<()> {
        self.active.iter().for_each(|active| active.segment().release_idle());
        let known = (self.partition, &self.marks);
        // Where it fails, the slot is given back with its marks.
        remove_marked(&self.checkpoint, self.names.path(), &mut self.slot, known)?;
        self.claimed = false;
        self.checkpoint.lock().free(self.slot);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use walser_model::{PartitionIndex, TopicConfig, TopicId, TopicPartition};

    use super::*;
    use crate::{DataDirectory, LogConfig, MemoryDisk};

    /// A disk with the log of a partition that has no marks yet.
    fn unmarked() -> (MemoryDisk, DataDirectory, Log) {
        let disk = MemoryDisk::simulated(64 << 20);
        let directory = DataDirectory::open(Arc::new(disk.clone()), Path::new("/data"), "test").unwrap();
        let (dir, checkpoint) = (directory.partition_dir(partition()), directory.checkpoint());
        let config = LogConfig::from(&TopicConfig::default());
        let (log, _) = Log::open(directory.disk(), dir, partition(), config, checkpoint, 0).unwrap();
        (disk, directory, log)
    }

    fn partition() -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(0))
    }

    #[test]
    fn a_slot_that_is_given_back_without_marks_names_no_partition() {
        let (disk, directory, mut log) = unmarked();
        log.write_marks().unwrap();
        // As where the opening fails after that.
        log.give_back(None);
        drop(directory);
        let again = DataDirectory::open(Arc::new(disk), Path::new("/data"), "test").unwrap();
        assert_eq!(again.checkpoint().lock().unclaimed().count(), 0);
    }

    /// Marks that nobody has written would have the next opening find records missing that never were there.
    #[test]
    fn an_opening_that_fails_before_it_has_written_marks_leaves_none() {
        let (disk, directory, log) = unmarked();
        disk.stop_after(0);
        log.give_back(None);
        assert_eq!(directory.checkpoint().lock().marks(partition()), None);
    }

    #[test]
    fn marks_that_cannot_be_erased_are_there_for_the_next_opening() {
        let (disk, directory, mut log) = unmarked();
        log.write_marks().unwrap();
        let marks = log.marks;
        disk.stop_after(0);
        log.give_back(None);
        assert_eq!(directory.checkpoint().lock().marks(partition()), Some(marks));
    }
}
