//! All file access of a log, behind one small trait.
//!
//! Production uses [`RealDisk`]. [`MemoryDisk`] keeps everything in memory under a byte cap; it is both the store of
//! a throw-away server and the simulated disk of the tests, with power loss, torn and reordered writes, lost
//! directory entries, failing syncs and full space.

mod anchored;
mod calls;
mod memory;
mod real;

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

pub use calls::DiskCalls;
pub(crate) use calls::SeenDisk;
pub use memory::{MemoryDisk, PowerLoss};
pub use real::RealDisk;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    Edit,
    /// For reading and writing; created when missing.
    Write,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last part of its path.
    pub name: String,
    /// Whether it is a directory.
    pub directory: bool,
    /// Length in bytes (files).
    pub len: u64,
}

/// Space of the file system that holds a directory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// What unprivileged writers may still use.
    pub free: u64,
    /// Size of the file system in bytes.
    pub total: u64,
}

/// Files that are open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFiles {
    /// Through this disk, by this process.
    pub open: usize,
    /// How many files, connections included, the process may have open. `None`: any number.
    pub limit: Option<usize>,
}

/// Which directory a path leads to: no two that exist at once have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryId {
    /// Number of the device of the file system.
    pub device: u64,
    /// The directory on it.
    pub inode: u64,
}

/// Whether something failed only because too many files are open: it works once others are closed.
pub fn out_of_files(error: &io::Error) -> bool {
    /// `EMFILE` and `ENFILE`: the limits of the process and of the machine.
    const LIMITS: [i32; 2] = [24, 23];
    error.raw_os_error().is_some_and(|code| LIMITS.contains(&code))
}

/// Whether a write failed only because there is no room.
pub fn out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Keeps a directory to one process until it is dropped.
pub trait DirectoryLock: Send + Sync + Debug {}

/// A file system.
///
/// Names of files MUST be durable only after [`Disk::sync_dir`] of their directory; contents only after
/// [`DiskFile::sync_data`]. Nothing else may be assumed: that is what power loss leaves.
pub trait Disk: Send + Sync + Debug {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// Lists a directory, in no order. A missing directory is [`io::ErrorKind::NotFound`].
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// Creates a directory and its parents; existing ones are fine. Directories and files are created for their owner
    /// alone, where the file system knows owners.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Renames atomically, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes a file, or a directory with all that is in it, away from everybody but its owner. Does nothing where others cannot
    /// enter the directory anyway.
    fn restrict(&self, dir: &Path) -> io::Result<()>;
    /// Which directory the path leads to.
    fn directory_id(&self, dir: &Path) -> io::Result<DirectoryId>;
    /// The same disk, where these directories, the innermost first, stay those that they are now, whatever becomes of their
    /// paths; but [`Disk::directory_id`] says what a path leads to. `None`: it has no such thing.
    fn anchored(&self, _dirs: &[&Path]) -> io::Result<Option<Arc<dyn Disk>>> {
        Ok(None)
    }

    /// Files that are open.
    fn open_files(&self) -> OpenFiles;
    /// Space left.
    fn space(&self, dir: &Path) -> io::Result<Space>;
    /// Takes a directory for this process alone, by a lock on `path`. `Ok(Err(holder))`: somebody else has it, with
    /// what that process wrote into the lock file.
    fn lock(&self, path: &Path, note: &str) -> io::Result<Result<Box<dyn DirectoryLock>, String>>;
}

/// A file that is open for reading or writing.
#[expect(clippy::len_without_is_empty, reason = "a file is no collection, and asking can fail")]
pub trait DiskFile: Send + Sync + Debug {
    /// Appends up to `len` bytes found at `at` to `buffer`; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut Vec<u8>, at: u64, len: usize) -> io::Result<()>;
    /// Writes all of `bytes` at `at`.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Writes all of `pieces`, one behind the other, from `at` on. After an error any part of them may be there.
    fn write_pieces_at(&self, pieces: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        let mut at = at;
        for piece in pieces {
            self.write_at(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes contents and length durable (`fdatasync`). After an error the file MUST NOT be synced again: the
    /// kernel may answer success although the data is gone.
    fn sync_data(&self) -> io::Result<()>;
    /// Takes space for `len` bytes at `at`, so that writing there takes none and deleting the file gives it back. The file
    /// reaches at least to their end then; what was not written reads as zeros. [`io::ErrorKind::Unsupported`] where the
    /// file system knows no such thing.
    fn allocate(&self, at: u64, len: u64) -> io::Result<()>;
}

/// Whether there is such a directory.
pub(crate) fn dir_exists(disk: &dyn Disk, dir: &Path) -> io::Result<bool> {
    match disk.list(dir) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a directory with what is in it, if there is one.
pub(crate) fn remove_dir_if_any(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match disk.remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a file that may be gone.
pub(crate) fn remove_file_if_any(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Replaces a small file as one step: temporary file, sync, rename, sync of the directory.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_in_place_of(disk, path, bytes)?;
    disk.sync_dir(path.parent().unwrap_or_else(|| Path::new("/")))
}

/// The same without the last step: the name is not durable yet.
pub(crate) fn write_in_place_of(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let file = disk.open(&temporary, Open::Write)?;
    file.set_len(0)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(&temporary, path)
}

/// Like [`replace_file`], on a disk that is full to the last byte, too, where there is no room for a new file, and what
/// would free some is only learned later: then it is written over as it is. It is smaller than what a disk writes as one.
pub(crate) fn overwrite_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    match replace_file(disk, path, bytes) {
        Err(error) if out_of_space(&error) => {
            let over = || {
                let file = disk.open(path, Open::Edit)?;
                file.write_at(bytes, 0)?;
                file.sync_data()
            };
            over().map_err(|_: io::Error| error)
        }
        outcome => outcome,
    }
}

/// Opens a file for reading; `None`: there is none.
pub(crate) fn open_if_any(disk: &dyn Disk, path: &Path) -> io::Result<Option<Arc<dyn DiskFile>>> {
    match disk.open(path, Open::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Reads a whole file of at most `len_max` bytes. `None` when there is none.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path, len_max: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = open_if_any(disk, path)? else { return Ok(None) };
    let len = file.len()?;
    if len > len_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} has {len} bytes", path.display())));
    }
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(len);
    file.read_at(&mut bytes, 0, len)?;
    Ok(Some(bytes))
}

/// Writes a range of a file to the same place of another one, or of itself, durably: in parts, so that no sync takes long.
pub(crate) fn rewrite(from: &dyn DiskFile, to: &dyn DiskFile, mut position: u64, end: u64) -> io::Result<()> {
    const PART: u64 = 16 << 20;
    loop {
        let next = end.min(position + PART);
        copy_range(from, to, position, next)?;
        to.sync_data()?;
        if next >= end {
            return Ok(());
        }
        position = next;
    }
}

/// Copies the bytes from `position` to `end` (exclusive) to the same place in `to`.
fn copy_range(from: &dyn DiskFile, to: &dyn DiskFile, mut position: u64, end: u64) -> io::Result<()> {
    const CHUNK: usize = 1 << 20;
    while position < end {
        let mut chunk = Vec::new();
        let left = usize::try_from(end - position).unwrap_or(usize::MAX);
        from.read_at(&mut chunk, position, CHUNK.min(left))?;
        if chunk.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the segment became shorter while it was read"));
        }
        to.write_at(&chunk, position)?;
        position += chunk.len() as u64;
    }
    Ok(())
}
