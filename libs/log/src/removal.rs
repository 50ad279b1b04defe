//! Taking a partition's marks and its directory away, in an order in which half of it is no damage.

use std::io;
use std::path::Path;

use parking_lot::Mutex;
use walser_model::TopicPartition;

use crate::checkpoint::{Checkpoint, Marks, Slot};
use crate::disk::remove_dir_if_any;

/// Removes a partition: its marks, then its directory. The slot may be given to another partition afterwards.
///
/// # Errors
/// I/O errors. The marks are there again then: the next attempt must find them.
pub(crate) fn remove_marked(
    checkpoint: &Mutex<Checkpoint>,
    dir: &Path,
    slot: &mut Slot,
    (partition, marks): (TopicPartition, &Marks),
) -> io::Result<()> {
    let erased = checkpoint.lock().erase(slot);
    let removed = erased.and_then(|()| remove_dir(checkpoint, dir));
    if removed.is_err() {
        let _ = checkpoint.lock().write(slot, partition, marks);
    }
    removed
}

/// Removes the directory of a partition, if there is one, durably.
pub(crate) fn remove_dir(checkpoint: &Mutex<Checkpoint>, dir: &Path) -> io::Result<()> {
    // Not under the lock, which every flush takes.
    let around = checkpoint.lock().names();
    remove_dir_if_any(&**around.disk(), dir)?;
    around.sync()
}
