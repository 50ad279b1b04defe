//! Partitions that metadata does not know: kept, out of the way, until somebody decides.
//!
//! The absence of a topic in the metadata proves nothing: it may be an older copy, or another cluster's. Such a
//! partition's directory is moved to `DIR/set-aside/`, with its marks in a file, and comes back when metadata knows it
//! again. Nothing but [`SetAsideStore::delete`] removes it.
//!
//! ```text
//! DIR/set-aside/TOPIC-PARTITION/marks    a copy of the checkpoint (128 bytes), and when it was set aside: i64 milliseconds
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};
use parking_lot::Mutex;
use walser_model::{LeaderEpoch, Offset, Timestamp, TopicPartition};

use crate::checked::take;
use crate::checkpoint::{COPY_LEN, Checkpoint, Marks, decode, encode};
use crate::directory_names::parse_partition;
use crate::disk::{Disk, dir_exists, out_of_files, read_file, remove_dir_if_any, replace_file};
use crate::epochs;

/// Name of the directory in a data directory.
pub(crate) const DIR_NAME: &str = "set-aside";

const MARKS: &str = "marks";

/// A partition that was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetAside {
    pub partition: TopicPartition,
    /// Offset after its last durable record.
    pub log_end: Offset,
    /// Its latest leader epoch; [`LeaderEpoch::NONE`] when that is not known.
    pub leader_epoch: LeaderEpoch,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// When it was set aside, by the wall clock.
    pub since: Timestamp,
}

/// What is in the directory.
#[derive(Debug)]
pub(crate) struct SetAsideStore {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    dir: PathBuf,
    logs: PathBuf,
    checkpoint: Arc<Mutex<Checkpoint>>,
    held: Mutex<BTreeMap<TopicPartition, SetAside>>,
    /// One partition is moved or deleted at a time.
    moving: Mutex<()>,
    /// A sync has failed.
    failed: Mutex<bool>,
}

// === impl SetAsideStore ===

impl SetAsideStore {
    /// Reads what lies in `root`. A partition that is in `logs` as well, after a move that was cut short, counts as being
    /// there.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        root: &Path,
        logs: &Path,
        checkpoint: Arc<Mutex<Checkpoint>>,
    ) -> io::Result<Self> {
        let (dir, held, moving, failed) = (root.join(DIR_NAME), Mutex::default(), Mutex::default(), Mutex::default());
        let (root, logs) = (root.to_owned(), logs.to_owned());
        let store = Self { disk, root, dir, logs, checkpoint, held, moving, failed };
        let entries = match store.disk.list(&store.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(store),
            other => other?,
        };
        for partition in entries.iter().filter_map(|entry| parse_partition(&entry.name)) {
            if dir_exists(&*store.disk, &store.logs.join(partition.to_string()))? {
                tracing::error!(%partition, "the partition lies in logs and in set-aside: the one in logs counts");
                continue;
            }
            let found = store.look_at(partition, &store.path(partition))?;
            store.held.lock().insert(partition, found);
        }
        Ok(store)
    }

    fn path(&self, partition: TopicPartition) -> PathBuf {
        self.dir.join(partition.to_string())
    }

    /// What lies in `dir`: a partition that is set aside, or about to be.
    fn look_at(&self, partition: TopicPartition, dir: &Path) -> io::Result<SetAside> {
        let (marks, since) = self.marks(partition, dir)?.unwrap_or_default();
        let size_bytes = self.disk.list(dir)?.iter().map(|entry| entry.len).sum();
        let epochs = epochs::load(&*self.disk, &dir.join(epochs::FILE_NAME))?;
        let leader_epoch = epochs.map_or(LeaderEpoch::NONE, |epochs| epochs.latest());
        let log_end = marks.durable.max(marks.recovery_point);
        Ok(SetAside { partition, log_end, leader_epoch, size_bytes, since })
    }

    fn marks(&self, partition: TopicPartition, dir: &Path) -> io::Result<Option<(Marks, Timestamp)>> {
        let bytes = read_file(&*self.disk, &dir.join(MARKS), 4096)?;
        Ok(bytes.and_then(|bytes| {
            let mut rest = &*bytes;
            let (owner, _, marks) = decode(&take::<COPY_LEN>(&mut rest)?)?;
            let since = rest.try_get_i64().ok().filter(|_| rest.is_empty())?;
            (owner == Some(partition)).then_some((marks, since))
        }))
    }

    pub(crate) fn found(&self, partition: TopicPartition) -> Option<SetAside> {
        self.held.lock().get(&partition).copied()
    }

    pub(crate) fn holds(&self, partition: TopicPartition) -> bool {
        self.held.lock().contains_key(&partition)
    }

    /// What is here, by partition.
    pub(crate) fn all(&self) -> Vec<SetAside> {
        self.held.lock().values().copied().collect()
    }

    /// Sets a partition aside whose log is not open. One without files and marks leaves nothing to keep.
    ///
    /// # Errors
    /// I/O errors; calling again continues.
    pub(crate) fn set_aside(&self, partition: TopicPartition, now: Timestamp) -> io::Result<()> {
        let _one_move = self.moving.lock();
        let (from, to) = (self.logs.join(partition.to_string()), self.path(partition));
        let marks = self.checkpoint.lock().marks(partition);
        if dir_exists(&*self.disk, &from)? {
            self.move_aside(partition, (&from, &to), marks.unwrap_or_default(), now)?;
        }
        if !dir_exists(&*self.disk, &to)? {
            // Nothing was ever written here; marks of what is missing stay.
            return Ok(());
        }
        // Also where an earlier call got no farther than the move: it is never in neither place.
        self.sync(&to)?;
        self.sync(&self.dir)?;
        let names = self.checkpoint.lock().names();
        names.sync()?;
        let mut checkpoint = self.checkpoint.lock();
        let (slot, _) = checkpoint.claim(partition);
        checkpoint.release(slot)
    }

    fn move_aside(
        &self,
        partition: TopicPartition,
        (from, to): (&Path, &Path),
        marks: Marks,
        now: Timestamp,
    ) -> io::Result<()> {
        let mut bytes = encode(Some(partition), 1, &marks).to_vec();
        bytes.put_i64(now);
        replace_file(&*self.disk, &from.join(MARKS), &bytes)?;
        self.disk.create_dir(&self.dir)?;
        self.sync(&self.root)?;
        let found = self.look_at(partition, from)?;
        self.disk.rename(from, to)?;
        // From here on it is found here, whatever comes: it must not begin anew where it was.
        self.held.lock().insert(partition, found);
        Ok(())
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// When this sync or an earlier one here has failed: the next one would succeed without writing what is lost (rule R30).
    fn sync(&self, dir: &Path) -> io::Result<()> {
        let mut failed = self.failed.lock();
        if *failed {
            return Err(io::Error::other(
                "an earlier sync of a directory that is set aside failed: restart the server",
            ));
        }
        self.disk.sync_dir(dir).inspect_err(|error| *failed = !out_of_files(error))
    }

    /// Takes a partition back that was set aside: its log can be opened afterwards. Returns whether there was one.
    ///
    /// # Errors
    /// I/O errors, and [`io::ErrorKind::AlreadyExists`] when the partition has a log; nothing has changed then.
    pub(crate) fn take_back(&self, partition: TopicPartition) -> io::Result<bool> {
        if !self.holds(partition) {
            return Ok(false);
        }
        let _one_move = self.moving.lock();
        let (from, to) = (self.path(partition), self.logs.join(partition.to_string()));
        if dir_exists(&*self.disk, &from)? {
            if dir_exists(&*self.disk, &to)? {
                let text = format!("{} exists, and so does the partition in {DIR_NAME}", to.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
            self.bring_marks_back(partition)?;
            self.disk.rename(&from, &to)?;
        }
        // Also where an earlier call got no farther than the move.
        self.sync(&to)?;
        let names = self.checkpoint.lock().names();
        names.sync()?;
        self.sync(&self.dir)?;
        self.held.lock().remove(&partition);
        Ok(true)
    }

    /// Makes the marks durable before the log is back: without them its torn end and its damage look alike.
    fn bring_marks_back(&self, partition: TopicPartition) -> io::Result<()> {
        let marks = self.marks(partition, &self.path(partition))?.map(|(marks, _)| marks);
        Checkpoint::take_over(&self.checkpoint, partition, marks)
    }

    /// Deletes a partition that was set aside, for good. Returns the bytes freed; `None`: there is none.
    ///
    /// # Errors
    /// I/O errors; calling again continues.
    pub(crate) fn delete(&self, partition: TopicPartition) -> io::Result<Option<u64>> {
        let _one_move = self.moving.lock();
        let Some(found) = self.held.lock().get(&partition).copied() else { return Ok(None) };
        // An earlier call may have got no farther.
        remove_dir_if_any(&*self.disk, &self.path(partition))?;
        self.sync(&self.dir)?;
        self.held.lock().remove(&partition);
        Ok(Some(found.size_bytes))
    }
}
