//! The names in one directory: that of a partition, or the one that holds the directories of all partitions.
//!
//! Whoever syncs it makes the names of all others durable too, and a sync that fails may lose them all: the next one
//! succeeds without writing them (rule R30). A failure is therefore remembered for everybody.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use walser_model::{PartitionIndex, TopicId, TopicPartition};

use crate::disk::{Disk, out_of_files, write_in_place_of};

/// A directory that is synced for several reasons, on several threads.
#[derive(Debug)]
pub(crate) struct DirectoryNames {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    failed: Mutex<bool>,
    /// Held while a file is replaced: there is one temporary name for all files of the same stem.
    replacing: Mutex<()>,
}

impl DirectoryNames {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self { disk, dir: dir.to_owned(), failed: Mutex::new(false), replacing: Mutex::default() }
    }

    /// The disk that has the directory.
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Replaces a small file of the directory as one durable step.
    ///
    /// # Errors
    /// I/O errors, and as for [`DirectoryNames::sync`].
    pub(crate) fn replace_file(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.replace_file_unsynced(name, bytes)?;
        self.sync()
    }

    /// Replaces a small file of the directory in one step: there is the old one or the new one. The caller syncs.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn replace_file_unsynced(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let _one_at_a_time = self.replacing.lock();
        write_in_place_of(&*self.disk, &self.dir.join(name), bytes)
    }

    /// Makes the names durable.
    ///
    /// # Errors
    /// When this sync or any earlier one of this process failed.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut failed = self.failed.lock();
        if *failed {
            let text = format!("an earlier sync of {} failed: new names in it may be lost", self.dir.display());
            return Err(io::Error::other(text));
        }
        // One that could not even be opened has lost nothing.
        self.disk.sync_dir(&self.dir).inspect_err(|error| *failed = !out_of_files(error))
    }

    /// Writes the name of `dir`, one of the directory's entries, once more: it may be in the cache, clean, and not on
    /// the disk. The caller syncs.
    ///
    /// # Errors
    /// I/O errors; [`DirectoryNames::finish_renames`] completes what was begun.
    pub(crate) fn write_again(&self, dir: &Path) -> io::Result<()> {
        let moved = dir.with_extension(MOVED);
        self.disk.rename(dir, &moved)?;
        self.disk.rename(&moved, dir)
    }

    /// Gives directories their names back that an interrupted [`DirectoryNames::write_again`] left with another one.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn finish_renames(&self) -> io::Result<()> {
        for entry in self.disk.list(&self.dir)?.into_iter().filter(|entry| entry.directory) {
            if let Some(name) = entry.name.strip_suffix(MOVED).and_then(|name| name.strip_suffix('.')) {
                self.disk.rename(&self.dir.join(&entry.name), &self.dir.join(name))?;
            }
        }
        Ok(())
    }
}

/// Extension of a directory whose name is being written again.
const MOVED: &str = "moved";

/// The partition in the name of its directory.
pub(crate) fn parse_partition(name: &str) -> Option<TopicPartition> {
    let (topic, number) = name.split_at_checked(32)?;
    let topic: TopicId = topic.parse().ok()?;
    let partition = number.strip_prefix('-')?.parse().ok()?;
    Some(TopicPartition::new(topic, PartitionIndex(partition)))
}
