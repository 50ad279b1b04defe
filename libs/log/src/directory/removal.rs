//! Removing a partition that is not open.

use std::io;

use walser_model::TopicPartition;

use super::DataDirectory;
use crate::removal::{remove_dir, remove_marked};

impl DataDirectory {
    /// Removes what is left of a partition that nobody opened: its directory and its marks.
    ///
    /// # Errors
    /// I/O errors; calling again continues.
    pub fn remove_partition(&self, partition: TopicPartition) -> io::Result<()> {
        let dir = self.partition_dir(partition);
        let marked = {
            let mut checkpoint = self.checkpoint.lock();
            let marks = checkpoint.marks(partition);
            marks.map(|marks| (checkpoint.claim(partition).0, marks))
        };
        let Some((mut slot, marks)) = marked else { return remove_dir(&self.checkpoint, &dir) };
        let removed = remove_marked(&self.checkpoint, &dir, &mut slot, (partition, &marks));
        let mut checkpoint = self.checkpoint.lock();
        match removed {
            Ok(()) => checkpoint.free(slot),
            Err(_) => checkpoint.unclaim(partition, slot, Some(marks)),
        }
        removed
    }
}
