//! A data directory: who it belongs to, which partitions lie in it, and how much space is left.
//!
//! ```text
//! DIR/LOCK                    held by the one process that uses the directory
//! DIR/meta                    format version, cluster, node and directory id (docs/formats/data-directory.md)
//! DIR/ballast                 space that is given back when the disk is full
//! DIR/metadata-version        the highest metadata version seen
//! DIR/wall-clock              when a server ran here last
//! DIR/last-run                whether the page cache may have been lost since
//! DIR/topic-names             names of topics, for people and tools
//! DIR/set-aside/              partitions that metadata does not know
//! DIR/logs/checkpoint         recovery points, durable marks, high watermarks
//! DIR/logs/TOPIC-PARTITION/   one partition: 32 hexadecimal digits of the topic id, and the number; with `copy-` or
//!                             `complete-` before it, one that is to take its place
//! ```

mod beside;
mod error;
mod meta;
mod removal;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use walser_model::{ClusterId, NodeId, TopicPartition};

use crate::checkpoint::{self, Checkpoint};
use crate::clock_mark::{self, ClockMark};
use crate::copy::CopyStore;
use crate::directory_names::parse_partition;
use crate::disk::{
    DirectoryId, DirectoryLock, Disk, DiskCalls, Open, SeenDisk, Space, remove_file_if_any, replace_file,
};
use crate::last_run::{self, BootId, LastRun};
use crate::metadata_version::{self, MetadataVersion, SeenMetadata};
use crate::set_aside::{self, SetAsideStore};
use crate::topic_names::{self, NamesById};

pub use error::DirectoryError;
pub use meta::Identity;

const LOCK: &str = "LOCK";
const BALLAST: &str = "ballast";
const LOGS: &str = "logs";
const BALLAST_BYTES: u64 = 64 << 20;
/// Everything that a server puts into its data directory.
const OWN_NAMES: [&str; 14] = [
    meta::FILE_NAME,
    LOCK,
    BALLAST,
    LOGS,
    "meta.tmp",
    "metadata.redb",
    set_aside::DIR_NAME,
    metadata_version::FILE_NAME,
    "metadata-version.tmp",
    topic_names::FILE_NAME,
    topic_names::TEMPORARY_NAME,
    clock_mark::FILE_NAME,
    last_run::FILE_NAME,
    last_run::TEMPORARY_NAME,
];

/// A partition found in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub partition: TopicPartition,
    pub dir: PathBuf,
}

/// An open data directory, locked for this process.
#[derive(Debug)]
pub struct DataDirectory {
    disk: Arc<dyn Disk>,
    disk_calls: DiskCalls,
    root: PathBuf,
    identity: Mutex<Option<Identity>>,
    checkpoint: Arc<Mutex<Checkpoint>>,
    set_aside: SetAsideStore,
    copies: CopyStore,
    metadata_version: MetadataVersion,
    /// Of a storage node.
    last_run: OnceLock<LastRun>,
    /// What the root and the directory of logs were when they were opened.
    opened: [DirectoryId; 2],
    _lock: Box<dyn DirectoryLock>,
}

// === impl DataDirectory ===

impl DataDirectory {
    /// Opens or creates a directory and locks it. `note` tells other processes who has it.
    ///
    /// # Errors
    /// [`DirectoryError`]; nothing in the directory has changed then.
    pub fn open(disk: Arc<dyn Disk>, root: &Path, note: &str) -> Result<Self, DirectoryError> {
        let io_error = |source| DirectoryError::Io { path: root.to_owned(), source };
        let disk_calls = DiskCalls::default();
        let given = disk;
        let seen = |disk| Arc::new(SeenDisk::new(disk, disk_calls.clone())) as Arc<dyn Disk>;
        let disk = seen(Arc::clone(&given));
        let logs = root.join(LOGS);
        let missing: Vec<_> = root.ancestors().take_while(|dir| is_missing(&*disk, dir)).map(Path::to_owned).collect();
        disk.create_dir(root).map_err(io_error)?;
        let lock = disk.lock(&root.join(LOCK), note).map_err(io_error)?;
        let lock = lock.map_err(|holder| DirectoryError::InUse { path: root.to_owned(), holder })?;
        let identity = meta::read(&*disk, root)?;
        if identity.is_some() && logs_are_missing(&*disk, &logs).map_err(io_error)? {
            return Err(DirectoryError::LogsMissing { path: logs });
        }
        match restrict(&*disk, root) {
            // Not this user's to tighten, as on a volume that belongs to a group.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(path = %root.display(), %error, "the data directory is open to others");
            }
            other => other.map_err(io_error)?,
        }
        disk.create_dir(&logs).map_err(io_error)?;
        disk.sync_dir(root).map_err(io_error)?;
        // The root's own name at every start: the one before may have ended between making and syncing it.
        let above = missing.iter().filter_map(|dir| dir.parent()).chain(root.parent());
        for parent in above.collect::<BTreeSet<_>>() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            disk.sync_dir(parent).map_err(io_error)?;
        }
        // From here on something else may come to lie at the paths.
        let opened = [disk.directory_id(root).map_err(io_error)?, disk.directory_id(&logs).map_err(io_error)?];
        let disk = given.anchored(&[&logs, root]).map_err(io_error)?.map_or(disk, seen);
        let checkpoint = Checkpoint::open(&disk, &logs).map_err(io_error)?;
        let checkpoint = Arc::new(Mutex::new(checkpoint));
        let copies = CopyStore::open(Arc::clone(&disk), Arc::clone(&checkpoint)).map_err(io_error)?;
        let set_aside = SetAsideStore::open(Arc::clone(&disk), root, &logs, Arc::clone(&checkpoint));
        let set_aside = set_aside.map_err(io_error)?;
        let metadata_version = MetadataVersion::open(Arc::clone(&disk), root).map_err(io_error)?;
        let (root, identity) = (root.to_owned(), Mutex::new(identity));
        let last_run = OnceLock::new();
        Ok(Self {
            disk,
            disk_calls,
            root,
            identity,
            checkpoint,
            set_aside,
            copies,
            metadata_version,
            last_run,
            opened,
            _lock: lock,
        })
    }

    /// Checks that what was opened is still what its path leads to.
    ///
    /// # Errors
    /// The directory was moved, removed or replaced, or something was mounted over it: files that are opened now are not
    /// beside those that are open already. Also I/O errors.
    pub fn check_in_place(&self) -> io::Result<()> {
        for (dir, opened) in [self.root.clone(), self.root.join(LOGS)].iter().zip(self.opened) {
            if self.disk.directory_id(dir)? != opened {
                let text = format!(
                    "another directory is now at {}: the one that the server opened was moved, removed, or something was \
                     mounted over it; put it back, or restart the server to use what is there",
                    dir.display()
                );
                return Err(io::Error::new(io::ErrorKind::NotFound, text));
            }
        }
        Ok(())
    }

    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// Calls to its disk that are under way.
    pub fn disk_calls(&self) -> &DiskCalls {
        &self.disk_calls
    }

    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The checkpoint of its partitions.
    pub fn checkpoint(&self) -> Arc<Mutex<Checkpoint>> {
        Arc::clone(&self.checkpoint)
    }

    /// Whose it is; `None` before [`DataDirectory::bind`].
    pub fn identity(&self) -> Option<Identity> {
        *self.identity.lock()
    }

    /// The highest metadata version that this directory has seen.
    pub fn metadata_seen(&self) -> SeenMetadata {
        self.metadata_version.get()
    }

    /// Notes a metadata version, durably, before anything is done because of it. A lower one changes nothing.
    ///
    /// # Errors
    /// I/O errors; the version is as it was then. As for [`DataDirectory::check_in_place`]: the file of another directory
    /// stays as it is.
    pub fn note_metadata(&self, seen: SeenMetadata) -> io::Result<()> {
        self.check_in_place()?;
        self.metadata_version.raise(seen)
    }

    /// Begins to use the directory as a storage node, once: notes durably how the last use ended (rule R20). `boot`: of the
    /// system as it runs now, where it has an id.
    ///
    /// # Errors
    /// I/O errors.
    pub fn begin_run(&self, boot: Option<BootId>) -> io::Result<()> {
        let used = self.identity().is_some();
        let begun = LastRun::begin(Arc::clone(&self.disk), &self.root, used, boot)?;
        self.last_run.get_or_init(|| begun);
        Ok(())
    }

    /// Whether what was only in the page cache may have been lost, and the controller has not recorded that.
    pub fn ended_unclean(&self) -> bool {
        self.last_run.get().is_some_and(LastRun::ended_unclean)
    }

    /// A registration has recorded how the last use ended.
    ///
    /// # Errors
    /// I/O errors; it is told again then.
    pub fn run_recorded(&self) -> io::Result<()> {
        self.check_in_place()?;
        self.last_run.get().map_or(Ok(()), LastRun::told)
    }

    /// Something stays behind that is not on stable storage: this use of the directory does not end in good order any more.
    pub fn leave_unflushed(&self) {
        if let Some(run) = self.last_run.get() {
            run.leave_unflushed();
        }
    }

    /// A log has failed of which records counted that were only in the page cache: they may be lost although the system runs
    /// on. The next use of the directory begins with [`DataDirectory::ended_unclean`]. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// I/O errors; it is not noted then.
    pub fn note_failed_log(&self) -> io::Result<()> {
        self.check_in_place()?;
        self.last_run.get().map_or(Ok(()), LastRun::note_failed)
    }

    /// Notes that everything is on stable storage and nothing will be written any more.
    ///
    /// # Errors
    /// I/O errors; the next start takes the process for killed then.
    pub fn end_run(&self) -> io::Result<()> {
        self.check_in_place()?;
        self.last_run.get().map_or(Ok(()), LastRun::close)
    }

    /// The latest registration of the node that the logs have seen; 0: none. `None`: nobody knows, as in directories of
    /// earlier versions.
    pub fn registration_seen(&self) -> Option<i64> {
        self.checkpoint.lock().registration()
    }

    /// Notes beside the logs that the node has registered, durably, before it counts: a copy of them from before is told by
    /// not having seen that.
    ///
    /// # Errors
    /// I/O errors.
    pub fn note_registration(&self, node_epoch: i64) -> io::Result<()> {
        Checkpoint::note_registration(&self.checkpoint, node_epoch)
    }

    /// The names of topics that were written down last. None of them when they cannot be read.
    pub fn topic_names(&self) -> NamesById {
        topic_names::read_topic_names(&*self.disk, &self.root).unwrap_or_default()
    }

    /// Writes down the names of topics, for people and tools.
    ///
    /// # Errors
    /// I/O errors; nothing depends on the file.
    pub fn write_topic_names(&self, names: &NamesById) -> io::Result<()> {
        self.check_in_place()?;
        topic_names::write(&*self.disk, &self.root, names)
    }

    /// What the last server here has noted of its wall clock. `None`: nothing, as in directories of earlier versions. A note
    /// that makes no sense is of a server that did not believe its clock.
    ///
    /// # Errors
    /// I/O errors.
    pub fn clock_mark(&self) -> io::Result<Option<ClockMark>> {
        ClockMark::read(&*self.disk, &self.root)
    }

    /// Notes the wall clock over the note before, without making it durable: one that is older is on the safe side.
    ///
    /// # Errors
    /// I/O errors.
    pub fn note_clock(&self, mark: ClockMark) -> io::Result<()> {
        mark.write(&*self.disk, &self.root)
    }

    /// Checks that the directory is of this node, or of none yet.
    ///
    /// # Errors
    /// [`DirectoryError::Foreign`] when it belongs to another one.
    pub fn check_node(&self, node: NodeId) -> Result<(), DirectoryError> {
        match *self.identity.lock() {
            Some(identity) if identity.node != node => Err(self.foreign("node", identity.node, node)),
            _ => Ok(()),
        }
    }

    fn foreign<T: std::fmt::Display>(&self, what: &'static str, found: T, expected: T) -> DirectoryError {
        let (found, expected) = (found.to_string(), expected.to_string());
        DirectoryError::Foreign { path: self.root.clone(), what, found, expected }
    }

    /// Makes the directory part of a cluster and node, or checks that it is. `random` becomes the id of a new one.
    ///
    /// # Errors
    /// [`DirectoryError::Foreign`] when it belongs elsewhere.
    pub fn bind(&self, cluster: ClusterId, node: NodeId, random: [u8; 16]) -> Result<Identity, DirectoryError> {
        let mut known = self.identity.lock();
        match *known {
            Some(identity) if identity.cluster != cluster => Err(self.foreign("cluster", identity.cluster, cluster)),
            Some(identity) if identity.node != node => Err(self.foreign("node", identity.node, node)),
            Some(identity) => Ok(identity),
            None => {
                let identity = Identity { cluster, node, directory: random };
                let written =
                    replace_file(&*self.disk, &self.root.join(meta::FILE_NAME), meta::encode(&identity).as_bytes());
                written.map_err(|source| DirectoryError::Io { path: self.root.clone(), source })?;
                *known = Some(identity);
                Ok(identity)
            }
        }
    }

    /// Where a partition lies or will lie.
    pub fn partition_dir(&self, partition: TopicPartition) -> PathBuf {
        self.root.join(LOGS).join(partition.to_string())
    }

    /// The partitions that have a directory.
    ///
    /// # Errors
    /// I/O errors while listing.
    pub fn partitions(&self) -> io::Result<Vec<Found>> {
        let logs = self.root.join(LOGS);
        let mut found = Vec::new();
        for entry in self.disk.list(&logs)?.into_iter().filter(|entry| entry.directory) {
            if let Some(partition) = parse_partition(&entry.name) {
                found.push(Found { partition, dir: logs.join(&entry.name) });
            }
        }
        found.sort_unstable_by_key(|found| found.partition);
        Ok(found)
    }

    /// Partitions that have marks or a directory and were not opened: one without a directory is damage, unless it was
    /// set aside and only its marks were not given back.
    ///
    /// # Errors
    /// I/O errors while listing, and while giving marks back.
    pub fn partitions_to_open(&self) -> io::Result<Vec<TopicPartition>> {
        let mut wanted: Vec<_> = self.partitions()?.into_iter().map(|found| found.partition).collect();
        let mut checkpoint = self.checkpoint.lock();
        if checkpoint.is_empty() && !wanted.is_empty() {
            tracing::warn!(
                path = %self.root.join("logs").join(checkpoint::FILE_NAME).display(),
                partitions = wanted.len(),
                "the checkpoint is missing though there are logs: deleted records may come back, and records that are \
                 missing at the end of a log cannot be told from ones that were never written",
            );
        }
        let marked: Vec<_> = checkpoint.unclaimed().collect();
        for partition in marked {
            if self.set_aside.holds(partition) && wanted.binary_search(&partition).is_err() {
                let (slot, _) = checkpoint.claim(partition);
                checkpoint.release(slot)?;
            } else {
                wanted.push(partition);
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        Ok(wanted)
    }

    /// Space left on its file system.
    ///
    /// # Errors
    /// What the system says.
    pub fn space(&self) -> io::Result<Space> {
        self.disk.space(&self.root)
    }

    /// Takes the ballast: space that [`DataDirectory::drop_ballast`] gives back when the disk is full, so that
    /// marks, checkpoints and deletions still work. Does nothing where less than twice the ballast is free.
    ///
    /// # Errors
    /// What the system says.
    pub fn take_ballast(&self) -> io::Result<()> {
        let path = self.root.join(BALLAST);
        let file = self.disk.open(&path, Open::Write)?;
        let missing = BALLAST_BYTES.saturating_sub(file.len()?);
        if missing > 0 && self.space()?.free >= 2 * BALLAST_BYTES {
            match file.allocate(0, BALLAST_BYTES) {
                Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
                // Without it a full disk is full a little earlier.
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives the ballast back.
    ///
    /// # Errors
    /// What the system says.
    pub fn drop_ballast(&self) -> io::Result<()> {
        remove_file_if_any(&*self.disk, &self.root.join(BALLAST))
    }
}

/// Takes a data directory away from everybody but its owner. Where other files lie in it, too, they and the directory
/// itself are left as they are.
fn restrict(disk: &dyn Disk, root: &Path) -> io::Result<()> {
    let entries = disk.list(root)?;
    let (own, foreign): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| OWN_NAMES.contains(&&*entry.name));
    if foreign.is_empty() {
        return disk.restrict(root);
    }
    own.iter().try_for_each(|entry| disk.restrict(&root.join(&entry.name)))
}

/// Whether nothing of a data directory lies in `logs`, not even the file that its first start has made there.
fn logs_are_missing(disk: &dyn Disk, logs: &Path) -> io::Result<bool> {
    let entries = match disk.list(logs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    Ok(!entries.iter().any(|entry| entry.name == checkpoint::FILE_NAME || parse_partition(&entry.name).is_some()))
}

fn is_missing(disk: &dyn Disk, dir: &Path) -> bool {
    let named = !dir.as_os_str().is_empty();
    named && matches!(disk.list(dir), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests;
