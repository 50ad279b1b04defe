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
        let kept = if marks.is_none() && slots.erase(&mut self.slot).is_err() { Some(self.marks) } else { marks };
        slots.unclaim(self.partition, self.slot, kept);
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

    #[test]
    fn a_slot_that_is_given_back_without_marks_names_no_partition() {
        let disk = MemoryDisk::simulated(64 << 20);
        let open = || DataDirectory::open(Arc::new(disk.clone()), Path::new("/data"), "test").unwrap();
        let partition = TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(0));
        let directory = open();
        let (dir, checkpoint) = (directory.partition_dir(partition), directory.checkpoint());
        let opened =
            Log::open(directory.disk(), dir, partition, LogConfig::from(&TopicConfig::default()), checkpoint, 0);
        let (mut log, _) = opened.unwrap();
        log.write_marks().unwrap();
        // As where the opening fails after that.
        log.give_back(None);
        drop(directory);
        assert_eq!(open().checkpoint().lock().unclaimed().count(), 0);
    }
}
