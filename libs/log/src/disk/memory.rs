//! A file system in memory, with the ways in which real ones fail.
//!
//! What a real disk would have kept is tracked beside what the process sees: a write is volatile until its file is
//! synced, a name until its directory is. [`MemoryDisk::lose_power`] throws volatile state away as a real disk
//! may: any subset of the unsynced blocks survives, in any order, and a prefix of the unsynced names.
//!
//! A sync writes what is dirty, as a kernel does. After a failed one nothing is dirty any more, the bytes can still be
//! read, and later syncs succeed without writing them (measured on ext4; Rebello et al., "Can Applications Recover
//! from fsync Failures?", USENIX ATC 2020). Every description that was open then reports the error once, as Linux does
//! since 4.13 (`errseq_t`). [`MemoryDisk::restart_process`] keeps that state.

mod contents;
mod names;
mod power_loss;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use self::contents::{Change, Contents, Random, put};
use self::names::{FileId, NameChange, Names, Node};
pub use self::power_loss::PowerLoss;
use super::{DirectoryId, DirectoryLock, Disk, DiskFile, Entry, Open, OpenFiles, Space};

/// A file system in memory, under a byte cap. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    capacity: u64,
    used: u64,
    next_id: FileId,
    files: BTreeMap<FileId, Contents>,
    names: Names,
    durable_names: Names,
    /// Name changes since their directory was synced, in order.
    pending_names: Vec<NameChange>,
    /// Without tracking there is no power loss, and half the memory.
    tracked: bool,
    /// Writes that change nothing are not made.
    skips_unchanged: bool,
    /// Changes left before the disk dies.
    changes_left: Option<u64>,
    /// Descriptions that are open, and how many may be.
    open_files: OpenFiles,
    /// Syncs left before one fails.
    syncs_left: Option<u64>,
    changes: u64,
    syncs: u64,
}

#[derive(Debug)]
struct MemoryFile {
    state: Arc<Mutex<State>>,
    id: FileId,
    /// Write errors of the file that this description has reported, or that came before it.
    errors_seen: AtomicU64,
}

#[derive(Debug)]
struct NoLock;

impl DirectoryLock for NoLock {}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

// === impl MemoryDisk ===

impl MemoryDisk {
    /// An empty file system that holds at most `capacity` bytes and forgets everything with the process.
    pub fn new(capacity: u64) -> Self {
        let state = State { capacity, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// An empty file system that also knows what a power loss would leave.
    pub fn simulated(capacity: u64) -> Self {
        let disk = Self::new(capacity);
        disk.state.lock().tracked = true;
        disk
    }

    /// Changes (writes, cuts, syncs, names) so far.
    pub fn change_count(&self) -> u64 {
        self.state.lock().changes
    }

    /// Lets `changes` more changes through; all later ones fail, as if the machine had stopped.
    pub fn stop_after(&self, changes: u64) {
        self.state.lock().changes_left = Some(changes);
    }

    /// Lets `syncs` more syncs of files and directories through; the next one fails, and leaves clean pages that are
    /// not on the disk, as ext4 does.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.state.lock().syncs_left = Some(syncs);
    }

    /// Lets at most `limit` descriptions be open at once.
    pub fn set_file_limit(&self, limit: Option<usize>) {
        self.state.lock().open_files.limit = limit;
    }

    /// Syncs of files and directories so far.
    pub fn sync_count(&self) -> u64 {
        self.state.lock().syncs
    }

    /// The file system as another process of the same machine sees it: the cache is as it was, dirty or clean, and
    /// no faults are armed. Handles of the process before write into nowhere.
    ///
    /// # Panics
    /// When the disk does not track what is durable.
    pub fn restart_process(&self) -> Self {
        let mut state = self.state.lock();
        assert!(state.tracked, "only a simulated disk outlives its process");
        let after = State {
            capacity: state.capacity,
            used: state.used,
            next_id: state.next_id,
            files: std::mem::take(&mut state.files),
            names: std::mem::take(&mut state.names),
            durable_names: std::mem::take(&mut state.durable_names),
            pending_names: std::mem::take(&mut state.pending_names),
            tracked: true,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(after)) }
    }

    /// Makes no writes that change nothing: what a failed sync left clean stays off the disk, whoever writes it again.
    /// This brings back a fault, for simulations that must notice it.
    pub fn skip_unchanged_writes(&self) {
        self.state.lock().skips_unchanged = true;
    }

    /// Changes the byte cap.
    pub fn set_capacity(&self, capacity: u64) {
        self.state.lock().capacity = capacity;
    }

    /// Flips one bit of a file, on the disk and in what the process sees.
    ///
    /// # Panics
    /// When there is no such file or byte: a test asked for the impossible.
    pub fn flip_bit(&self, path: &Path, byte: usize, bit: u8) {
        let mut state = self.state.lock();
        let Some(Node::File(id)) = state.names.get(path).copied() else { panic!("{} is no file", path.display()) };
        let contents = state.files.get_mut(&id).expect("names point at files");
        contents.data[byte] ^= 1 << (bit % 8);
        if let Some(durable) = contents.durable.get_mut(byte) {
            *durable ^= 1 << (bit % 8);
        }
    }

    /// The file system as it is after a restart of the machine: no faults are armed on it.
    ///
    /// # Panics
    /// When the disk does not track what is durable.
    pub fn lose_power(&self, loss: PowerLoss) -> Self {
        let state = self.state.lock();
        assert!(state.tracked, "only a simulated disk can lose power");
        if loss == PowerLoss::Nothing {
            return state.copied();
        }
        let mut random = match loss {
            PowerLoss::Nothing | PowerLoss::Everything => None,
            PowerLoss::Random(seed) => Some(Random(seed)),
        };
        let mut names = state.durable_names.clone();
        let kept = random.as_mut().map_or(0, |random| random.below(state.pending_names.len() + 1));
        state.pending_names[..kept].iter().for_each(|change| change.apply(&mut names));
        let mut after = State { capacity: state.capacity, next_id: state.next_id, tracked: true, ..State::default() };
        for (path, node) in names {
            // What lies in a directory whose own name is lost is not to be found any more. Directories come first.
            let dir = path.parent().filter(|dir| *dir != Path::new("/"));
            if dir.is_some_and(|dir| !after.durable_names.contains_key(dir)) {
                continue;
            }
            if let Node::File(id) = node {
                let contents = state.files.get(&id).map(|contents| contents.survivors(random.as_mut()));
                let data = contents.unwrap_or_default();
                after.used += data.len() as u64;
                after.files.insert(id, Contents { durable: data.clone(), data, ..Contents::default() });
            }
            after.durable_names.insert(path, node);
        }
        after.names = after.durable_names.clone();
        Self { state: Arc::new(Mutex::new(after)) }
    }
}

// === impl State ===

impl State {
    /// A disk that has all of this durably.
    fn copied(&self) -> MemoryDisk {
        let mut after = Self { capacity: self.capacity, next_id: self.next_id, tracked: true, ..Self::default() };
        for (id, contents) in &self.files {
            let (data, durable) = (contents.data.clone(), contents.data.clone());
            after.files.insert(*id, Contents { data, durable, ..Contents::default() });
        }
        (after.used, after.names, after.durable_names) = (self.used, self.names.clone(), self.names.clone());
        MemoryDisk { state: Arc::new(Mutex::new(after)) }
    }

    fn change(&mut self) -> io::Result<()> {
        match &mut self.changes_left {
            Some(0) => return Err(io::Error::other("the machine has stopped")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.changes += 1;
        Ok(())
    }

    fn room_for_a_file(&self) -> io::Result<()> {
        /// `EMFILE`.
        const TOO_MANY: i32 = 24;
        let OpenFiles { open, limit } = self.open_files;
        if limit.is_some_and(|limit| open >= limit) { Err(io::Error::from_raw_os_error(TOO_MANY)) } else { Ok(()) }
    }

    /// Counts a sync; an error when it is the one that fails.
    fn sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        match &mut self.syncs_left {
            Some(0) => {
                self.syncs_left = None;
                return Err(io::Error::other("the device reported an input/output error"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    fn name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        if self.tracked {
            self.pending_names.push(change);
        }
    }

    fn node(&self, path: &Path) -> io::Result<Node> {
        self.names.get(path).copied().ok_or_else(|| not_found(path))
    }

    /// Frees files without a name. Open handles of them read as empty, which no caller does.
    fn collect(&mut self, id: FileId) {
        let named = self.names.values().chain(self.durable_names.values()).any(|node| *node == Node::File(id));
        if !named && !self.tracked {
            if let Some(contents) = self.files.remove(&id) {
                self.used -= contents.data.len() as u64;
            }
        } else if !self.names.values().any(|node| *node == Node::File(id)) {
            let len = self.files.get(&id).map_or(0, |contents| contents.data.len() as u64);
            self.used = self.used.saturating_sub(len);
        }
    }

    fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let Node::File(id) = self.node(path)? else { return Err(not_found(path)) };
        self.change()?;
        self.name(NameChange::Set(path.to_owned(), None));
        self.collect(id);
        Ok(())
    }

    fn grow(&mut self, id: FileId, len: usize) -> io::Result<()> {
        let now = self.files.get(&id).map_or(0, |contents| contents.data.len());
        let used = self.used + len.saturating_sub(now) as u64;
        if used > self.capacity {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left in memory"));
        }
        self.used = used;
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.room_for_a_file()?;
        let id = match state.names.get(path) {
            Some(Node::File(id)) => *id,
            Some(Node::Directory) => return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory")),
            None if how != Open::Write => return Err(not_found(path)),
            None => {
                state.change()?;
                let id = state.next_id;
                state.next_id += 1;
                state.files.insert(id, Contents::default());
                state.name(NameChange::Set(path.to_owned(), Some(Node::File(id))));
                id
            }
        };
        state.open_files.open += 1;
        let errors_seen = AtomicU64::new(state.files.get(&id).map_or(0, |contents| contents.errors));
        Ok(Arc::new(MemoryFile { state: Arc::clone(&self.state), id, errors_seen }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state.lock();
        state.node(dir)?;
        let children = state.names.range(dir.to_owned()..).take_while(|(path, _)| path.starts_with(dir));
        let mut entries = Vec::new();
        for (path, node) in children.filter(|(path, _)| path.parent() == Some(dir)) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            entries.push(match node {
                Node::Directory => Entry { name, directory: true, len: 0 },
                Node::File(id) => {
                    let len = state.files.get(id).map_or(0, |contents| contents.data.len() as u64);
                    Entry { name, directory: false, len }
                }
            });
        }
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let missing: Vec<_> = dir.ancestors().filter(|path| !state.names.contains_key(*path)).collect();
        for path in missing.into_iter().rev() {
            state.change()?;
            state.name(NameChange::Set(path.to_owned(), Some(Node::Directory)));
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let node = state.node(from)?;
        state.change()?;
        let replaced = state.names.get(to).copied();
        state.name(NameChange::Move { from: from.to_owned(), to: to.to_owned(), node });
        if let Some(Node::File(id)) = replaced
            && node != Node::File(id)
        {
            state.collect(id);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.state.lock().remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.node(dir)?;
        let inside: Vec<_> =
            state.names.keys().filter(|path| path.starts_with(dir)).map(|path| path.to_owned()).collect();
        for path in inside.into_iter().rev() {
            match state.node(&path)? {
                Node::File(_) => state.remove_file(&path)?,
                Node::Directory => {
                    state.change()?;
                    state.name(NameChange::Set(path, None));
                }
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.node(dir)?;
        state.room_for_a_file()?;
        state.change()?;
        let outcome = state.sync();
        let pending = std::mem::take(&mut state.pending_names);
        let state = &mut *state;
        state.pending_names = match outcome {
            Ok(()) => names::write(pending, dir, &mut state.durable_names),
            Err(_) => names::lose(pending, dir),
        };
        outcome
    }

    /// Directories have no identity of their own here: the first one at a path is every one.
    fn directory_id(&self, dir: &Path) -> io::Result<DirectoryId> {
        self.state.lock().node(dir)?;
        Ok(DirectoryId { device: 0, inode: 0 })
    }

    fn open_files(&self) -> OpenFiles {
        self.state.lock().open_files
    }

    fn restrict(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let state = self.state.lock();
        Ok(Space { free: state.capacity.saturating_sub(state.used), total: state.capacity })
    }

    fn lock(&self, _path: &Path, _note: &str) -> io::Result<Result<Box<dyn DirectoryLock>, String>> {
        Ok(Ok(Box::new(NoLock)))
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.open_files.open = state.open_files.open.saturating_sub(1);
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut Vec<u8>, at: u64, len: usize) -> io::Result<()> {
        let state = self.state.lock();
        let data = state.files.get(&self.id).map_or(&[][..], |contents| contents.data.as_slice());
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
        let end = at.saturating_add(len).min(data.len());
        buffer.extend_from_slice(&data[at..end]);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        let at = usize::try_from(at).map_err(io::Error::other)?;
        state.grow(self.id, at + bytes.len())?;
        let (tracked, skips_unchanged) = (state.tracked, state.skips_unchanged);
        let contents = state.files.entry(self.id).or_default();
        if skips_unchanged && contents.data.get(at..at + bytes.len()) == Some(bytes) {
            return Ok(());
        }
        put(&mut contents.data, at, bytes);
        if tracked {
            contents.pending.push(Change::Write { at, bytes: bytes.to_vec() });
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().files.get(&self.id).map_or(0, |contents| contents.data.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        state.grow(self.id, len)?;
        let tracked = state.tracked;
        let contents = state.files.entry(self.id).or_default();
        let cut = contents.data.len().saturating_sub(len);
        contents.data.resize(len, 0);
        if tracked {
            contents.pending.push(Change::Length(len));
        }
        state.used -= cut as u64;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        let outcome = state.sync();
        let contents = state.files.entry(self.id).or_default();
        let written = std::mem::take(&mut contents.pending);
        match outcome {
            Ok(()) => written.into_iter().for_each(|change| change.apply(&mut contents.durable)),
            Err(_) => contents.errors += 1,
        }
        if self.errors_seen.swap(contents.errors, Ordering::Relaxed) == contents.errors {
            return outcome;
        }
        outcome.and_then(|()| Err(io::Error::other("the device reported an input/output error")))
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.tracked {
            // It has no blocks to take ahead of a write, only memory to waste.
            return Err(io::ErrorKind::Unsupported.into());
        }
        state.change()?;
        let end = usize::try_from(at + len).map_err(io::Error::other)?;
        state.grow(self.id, end)?;
        let contents = state.files.entry(self.id).or_default();
        if contents.data.len() < end {
            contents.data.resize(end, 0);
            contents.pending.push(Change::Length(end));
        }
        Ok(())
    }
}
