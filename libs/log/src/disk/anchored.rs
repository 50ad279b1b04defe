//! Directories that stay those that were opened, whatever becomes of their paths.
//!
//! While one is moved away, or something is mounted over it, its path leads elsewhere: what is created by that path would lie in
//! the wrong directory, acknowledged, and be in the way of the right one when it is put back. A descriptor leads to the same
//! directory always, and paths of Linux can begin at one (`/proc/self/fd`, proc(5)).

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DirectoryId, DirectoryLock, Disk, DiskFile, Entry, Open, OpenFiles, RealDisk, Space};

/// The real disk, where what lies in some directories is found from their descriptors.
#[derive(Debug)]
pub(super) struct AnchoredDisk {
    disk: RealDisk,
    /// The innermost first.
    anchors: Vec<Anchor>,
}

#[derive(Debug)]
struct Anchor {
    dir: PathBuf,
    /// The path of the descriptor.
    path: PathBuf,
    /// Keeps that.
    _open: File,
}

impl Anchor {
    /// `None`: the system has no paths that begin at descriptors.
    fn new(dir: &Path) -> io::Result<Option<Self>> {
        let flags = i32::try_from(rustix::fs::OFlags::DIRECTORY.bits()).map_err(io::Error::other)?;
        let open = File::options().read(true).custom_flags(flags).open(dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        let id = |dir: &Path| RealDisk.directory_id(dir);
        let leads_there = id(&path.join(".")).is_ok_and(|there| id(dir).is_ok_and(|here| here == there));
        Ok(leads_there.then(|| Self { dir: dir.to_owned(), path, _open: open }))
    }
}

impl AnchoredDisk {
    /// `None`: the system has no paths that begin at descriptors. `dirs`: the innermost first.
    ///
    /// # Errors
    /// When a directory cannot be opened.
    pub(super) fn new(disk: RealDisk, dirs: &[&Path]) -> io::Result<Option<Self>> {
        let anchors: Option<Vec<_>> = dirs.iter().map(|dir| Anchor::new(dir)).collect::<io::Result<_>>()?;
        Ok(anchors.map(|anchors| Self { disk, anchors }))
    }

    /// Where a path leads, from a descriptor.
    fn anchored_path<'a>(&self, path: &'a Path) -> Cow<'a, Path> {
        for anchor in &self.anchors {
            match path.strip_prefix(&anchor.dir) {
                // By itself it is a link.
                Ok(rest) if rest.as_os_str().is_empty() => return Cow::Owned(anchor.path.join(".")),
                Ok(rest) => return Cow::Owned(anchor.path.join(rest)),
                Err(_elsewhere) => {}
            }
        }
        Cow::Borrowed(path)
    }
}

impl Disk for AnchoredDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.anchored_path(path), how)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(&self.anchored_path(dir))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(&self.anchored_path(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(&self.anchored_path(from), &self.anchored_path(to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(&self.anchored_path(path))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(&self.anchored_path(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(&self.anchored_path(dir))
    }

    fn restrict(&self, dir: &Path) -> io::Result<()> {
        self.disk.restrict(&self.anchored_path(dir))
    }

    /// Of what the path itself leads to, which may be another directory by now.
    fn directory_id(&self, dir: &Path) -> io::Result<DirectoryId> {
        self.disk.directory_id(dir)
    }

    fn open_files(&self) -> OpenFiles {
        self.disk.open_files()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.disk.space(&self.anchored_path(dir))
    }

    fn lock(&self, path: &Path, note: &str) -> io::Result<Result<Box<dyn DirectoryLock>, String>> {
        self.disk.lock(&self.anchored_path(path), note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &dyn Disk, path: &Path) {
        disk.open(path, Open::Write).unwrap().write_at(b"here", 0).unwrap();
    }

    #[test]
    fn what_is_created_lies_in_the_directory_that_was_opened() {
        let place = tempfile::tempdir().unwrap();
        let [root, away] = ["data", "away"].map(|name| place.path().join(name));
        let logs = root.join("logs");
        std::fs::create_dir_all(&logs).unwrap();
        let disk = AnchoredDisk::new(RealDisk, &[&logs, &root]).unwrap().expect("Linux has such paths");
        written(&disk, &root.join("before"));
        std::fs::rename(&root, &away).unwrap();
        // Another one is there now.
        std::fs::create_dir_all(root.join("logs")).unwrap();
        written(&disk, &root.join("file"));
        disk.create_dir(&logs.join("t-0/deep")).unwrap();
        written(&disk, &logs.join("t-0/log"));
        disk.rename(&logs.join("t-0/log"), &root.join("set-aside")).unwrap();
        disk.sync_dir(&root).unwrap();
        let names = |dir: &Path| {
            let mut names: Vec<_> = disk.list(dir).unwrap().into_iter().map(|entry| entry.name).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&root), ["before", "file", "logs", "set-aside"]);
        assert_eq!((names(&logs), names(&logs.join("t-0"))), (vec!["t-0".to_owned()], vec!["deep".to_owned()]));
        assert!(away.join("logs/t-0/deep").is_dir() && away.join("set-aside").is_file());
        assert_eq!(std::fs::read_dir(root.join("logs")).unwrap().count(), 0);
        disk.remove_dir(&logs.join("t-0")).unwrap();
        disk.remove_file(&root.join("file")).unwrap();
        disk.restrict(&root).unwrap();
        assert_ne!(disk.directory_id(&root).unwrap(), disk.directory_id(&away).unwrap(), "it is told all the same");
        // Nothing is made where it was removed.
        std::fs::remove_dir_all(&away).unwrap();
        assert_eq!(disk.create_dir(&logs.join("t-1")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!away.exists());
    }
}
