//! The machine's file systems.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::anchored::AnchoredDisk;
use super::{DirectoryId, DirectoryLock, Disk, DiskFile, Entry, Open, OpenFiles, Space};

/// Records are nobody's business but the server's.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// What group and others may do.
const OTHERS: u32 = 0o077;

/// Most pieces of one write: `IOV_MAX` of Linux.
const PIECES_MAX: usize = 1024;

/// Files through system calls, without any caching of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

/// An open file; counted.
#[derive(Debug)]
struct RealFile(File);

/// Files of this process that are open through [`RealDisk`].
static OPEN_FILES: AtomicUsize = AtomicUsize::new(0);

impl RealFile {
    fn new(file: File) -> Self {
        OPEN_FILES.fetch_add(1, Ordering::Relaxed);
        Self(file)
    }
}

impl Drop for RealFile {
    fn drop(&mut self) {
        OPEN_FILES.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct HeldLock {
    _file: File,
}

impl DirectoryLock for HeldLock {}

impl Disk for RealDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(FILE_MODE);
        if how != Open::Read {
            options.write(true).create(how == Open::Write).truncate(false);
        }
        Ok(Arc::new(RealFile::new(options.open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let Ok(name) = entry.file_name().into_string() else { continue };
            entries.push(Entry { name, directory: metadata.is_dir(), len: metadata.len() });
        }
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn directory_id(&self, dir: &Path) -> io::Result<DirectoryId> {
        let metadata = std::fs::metadata(dir)?;
        Ok(DirectoryId { device: metadata.dev(), inode: metadata.ino() })
    }

    fn anchored(&self, dirs: &[&Path]) -> io::Result<Option<Arc<dyn Disk>>> {
        Ok(AnchoredDisk::new(*self, dirs)?.map(|disk| Arc::new(disk) as Arc<dyn Disk>))
    }

    fn open_files(&self) -> OpenFiles {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        OpenFiles { open: OPEN_FILES.load(Ordering::Relaxed), limit }
    }

    fn restrict(&self, path: &Path) -> io::Result<()> {
        let metadata = std::fs::symlink_metadata(path)?;
        if metadata.permissions().mode() & OTHERS == 0 || metadata.is_symlink() {
            return Ok(());
        }
        if !metadata.is_dir() {
            return std::fs::set_permissions(path, Permissions::from_mode(FILE_MODE));
        }
        for entry in std::fs::read_dir(path)? {
            self.restrict(&entry?.path())?;
        }
        // Last, so that what an interruption leaves is begun again.
        std::fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(Space { free: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
    }

    fn lock(&self, path: &Path, note: &str) -> io::Result<Result<Box<dyn DirectoryLock>, String>> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.take(256).read_to_string(&mut holder)?;
                return Ok(Err(holder.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // It is for people: a full disk must not keep a server from what it could free.
        let _ = file.set_len(0).and_then(|()| file.write_all(note.as_bytes()));
        Ok(Ok(Box::new(HeldLock { _file: file })))
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut Vec<u8>, at: u64, len: usize) -> io::Result<()> {
        let end = buffer.len() + len;
        buffer.reserve_exact(len);
        let mut position = at;
        while buffer.len() < end {
            // Into uninitialised memory: zeroing it first would cost a pass over memory per read.
            let count = match rustix::io::pread(&self.0, rustix::buffer::spare_capacity(buffer), position) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            if count == 0 {
                break;
            }
            position += u64::try_from(count).map_err(io::Error::other)?;
        }
        buffer.truncate(end);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn write_pieces_at(&self, mut pieces: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            let once = pieces.len().min(PIECES_MAX);
            match rustix::io::pwritev(&self.0, &pieces[..once], at) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut pieces, written);
                    at += written as u64;
                }
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        let flags = rustix::fs::FallocateFlags::empty();
        loop {
            match rustix::fs::fallocate(&self.0, flags, at, len) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}
