//! Removing a partition that is not open.

use std::io;

use walser_model::TopicPartition;

use super::DataDirectory;
use crate::checkpoint::Slot;

impl DataDirectory {
    /// Removes what is left of a partition that nobody opened: its directory and its marks.
    ///
    /// # Errors
    /// I/O errors; calling again continues.
    pub fn remove_partition(&self, partition: TopicPartition) -> io::Result<()> {
        let mut marked = {
            let mut checkpoint = self.checkpoint.lock();
            let known = checkpoint.marks(partition).is_some();
            known.then(|| checkpoint.claim(partition))
        };
        let removed = self.remove_closed(partition, marked.as_mut().map(|(slot, _)| slot));
        if let Some((mut slot, marks)) = marked {
            let mut checkpoint = self.checkpoint.lock();
            match (&removed, &marks) {
                (Err(_), Some(known)) => {
                    // They must be found by the next attempt.
                    let _ = checkpoint.write(&mut slot, partition, known);
                    checkpoint.unclaim(partition, slot, marks);
                }
                _ => checkpoint.free(slot),
            }
        }
        removed
    }

    fn remove_closed(&self, partition: TopicPartition, slot: Option<&mut Slot>) -> io::Result<()> {
        if let Some(slot) = slot {
            self.checkpoint.lock().erase(slot)?;
        }
        match self.disk.remove_dir(&self.partition_dir(partition)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let names = self.checkpoint.lock().names();
        names.sync()
    }
}
