//! A store for one process, in one file, durable at every transaction.
//!
//! redb keeps the entries; the engine in memory answers reads and watches. Leases and the keys bound to them do not
//! survive opening: the lock on the data directory proves that whoever held them is dead.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tokio::sync::OwnedMutexGuard;

use crate::engine::{Engine, Prepared};
use crate::memory::wait_for_end;
use crate::{Change, KeyValue, LeaseId, Metastore, Outcome, RangePage, RangeRequest, Revision, StoreError, Txn, Watch};

/// Key to creation revision, modification revision, lease (0: none) and value.
const ENTRIES: TableDefinition<'_, &str, (i64, i64, i64, &[u8])> = TableDefinition::new("entries");
/// Names to numbers: `format`, `revision`, `revision-base`.
const NUMBERS: TableDefinition<'_, &str, i64> = TableDefinition::new("numbers");

const FORMAT: i64 = 1;
/// Metadata is small; the default cache would be a gigabyte.
const CACHE_BYTES: usize = 4 << 20;

/// A store in one file.
#[derive(Debug, Clone)]
pub struct Embedded {
    engine: Engine,
    file: Arc<File>,
    /// One writer at a time: conditions are checked, made durable and applied as one step.
    writer: Arc<tokio::sync::Mutex<()>>,
}

type Opener = Box<dyn Fn() -> Result<Database, StoreError> + Send + Sync>;

/// The open file. After a failed write redb takes no more of them, so it is opened again.
struct File {
    open: Opener,
    state: Mutex<FileState>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct FileState {
    /// `None`: the last write failed, and so far the file could not be opened again.
    database: Option<Database>,
    /// What that write was: it may be in the file.
    in_doubt: Option<Prepared>,
}

fn unavailable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

impl Embedded {
    /// Opens or creates the store, and its directory where there is none. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`StoreError::Format`] when the file is damaged, of another kind or from a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        Self::open_with(Box::new(move || open_file(&path)))
    }

    fn open_with(open: Opener) -> Result<Self, StoreError> {
        let database = open()?;
        // The library panics on some kinds of damage; a damaged file is an error all the same.
        let loaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| load(&database)));
        let damaged = |_| StoreError::Format("the metadata file is damaged".to_owned());
        let (entries, revision) = loaded.map_err(damaged)??;
        let engine = Engine::new(entries, revision);
        let state = Mutex::new(FileState { database: Some(database), in_doubt: None });
        let file = File { open, state };
        Ok(Self { engine, file: Arc::new(file), writer: Arc::default() })
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let guard = Arc::clone(&self.writer).lock_owned().await;
        let guard = self.settle(guard).await?;
        let prepared = match self.engine.state.lock().prepare(&txn)? {
            Ok(prepared) => prepared,
            Err(conflict) => return Ok(conflict),
        };
        if prepared.changes.is_empty() {
            return Ok(Outcome::Committed(self.engine.state.lock().revision));
        }
        // On a task of its own: a caller that goes away must not leave the file and the engine apart.
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _guard = guard;
            let failed = match store.file.write(prepared) {
                Ok(prepared) => return Ok(Outcome::Committed(store.apply(prepared))),
                Err(failed) => failed,
            };
            // What became of it is in the file.
            match store.file.reopen() {
                Ok(Some(prepared)) => Ok(Outcome::Committed(store.apply(prepared))),
                Ok(None) => Err(StoreError::Unavailable(failed)),
                Err(_) => Err(StoreError::Unknown(failed)),
            }
        });
        done.await.map_err(|error| StoreError::Unknown(error.to_string()))?
    }

    fn apply(&self, prepared: Prepared) -> Revision {
        let revision = self.engine.state.lock().apply(prepared);
        self.engine.announce();
        revision
    }

    /// Finds out what became of a write that failed, before anything else is decided: the guard goes along, so that
    /// nobody decides meanwhile although the caller goes away.
    async fn settle(&self, guard: OwnedMutexGuard<()>) -> Result<OwnedMutexGuard<()>, StoreError> {
        if self.file.state.lock().database.is_some() {
            return Ok(guard);
        }
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            if let Some(prepared) = store.file.reopen()? {
                store.apply(prepared);
            }
            Ok(guard)
        });
        done.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }
}

impl File {
    /// Makes a transaction durable and gives it back. `Err`: the file is closed, and the transaction in doubt.
    fn write(&self, prepared: Prepared) -> Result<Prepared, String> {
        let mut state = self.state.lock();
        let outcome = match &state.database {
            Some(database) => persist(database, &prepared),
            None => Err("the file is closed".to_owned()),
        };
        match outcome {
            Ok(()) => Ok(prepared),
            Err(error) => {
                *state = FileState { database: None, in_doubt: Some(prepared) };
                Err(error)
            }
        }
    }

    /// Opens the file again. Gives back the transaction that was in doubt, when it is in the file.
    fn reopen(&self) -> Result<Option<Prepared>, StoreError> {
        let mut state = self.state.lock();
        let database = (self.open)()?;
        let revision = revision_of(&database).map_err(unavailable)?;
        let in_doubt = state.in_doubt.take().filter(|prepared| prepared.revision == revision);
        state.database = Some(database);
        Ok(in_doubt)
    }
}

/// Creates the file and its directory for their owner alone, and takes an existing file away from others.
fn prepare_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let alone = path.exists() && std::fs::read_dir(parent)?.count() == 1;
    // What is not this user's to tighten, as on a volume that belongs to a group, stays as it is.
    let tightened = |outcome: std::io::Result<()>| match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    };
    if alone && std::fs::metadata(parent)?.permissions().mode() & 0o077 != 0 {
        tightened(std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o700)))?;
    }
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        tightened(file.set_permissions(std::fs::Permissions::from_mode(0o600)))?;
    }
    Ok(())
}

fn open_file(path: &Path) -> Result<Database, StoreError> {
    prepare_file(path).map_err(unavailable)?;
    let format = |error: redb::DatabaseError| match error {
        redb::DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() != std::io::ErrorKind::InvalidData =>
        {
            unavailable(error)
        }
        redb::DatabaseError::DatabaseAlreadyOpen => {
            StoreError::Unavailable(format!("{} is open in another process", path.display()))
        }
        other => StoreError::Format(format!("{}: {other}", path.display())),
    };
    Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(format)
}

fn revision_of(database: &Database) -> Result<Revision, redb::Error> {
    let read = database.begin_read()?;
    let numbers = read.open_table(NUMBERS)?;
    Ok(numbers.get("revision")?.map_or(0, |revision| revision.value()))
}

/// Reads everything, after removing what leases had kept.
fn load(database: &Database) -> Result<(BTreeMap<String, KeyValue>, Revision), StoreError> {
    let damaged = |error: redb::StorageError| StoreError::Format(error.to_string());
    let write = database.begin_write().map_err(unavailable)?;
    let mut entries = BTreeMap::new();
    let mut changed = false;
    let mut revision;
    {
        let mut numbers = write.open_table(NUMBERS).map_err(unavailable)?;
        let number = |name: &str| numbers.get(name).map(|found| found.map(|value| value.value()));
        let found = number("format").map_err(damaged)?;
        revision = number("revision").map_err(damaged)?.unwrap_or(0);
        match found {
            None => {
                numbers.insert("format", FORMAT).map_err(unavailable)?;
                numbers.insert("revision-base", 0).map_err(unavailable)?;
                changed = true;
            }
            Some(found) if found > FORMAT => {
                let text = format!("format {found}, this version reads up to {FORMAT}");
                return Err(StoreError::Format(text));
            }
            Some(_) => {}
        }
        let mut table = write.open_table(ENTRIES).map_err(unavailable)?;
        let mut leased = Vec::new();
        for item in table.iter().map_err(damaged)? {
            let (key, value) = item.map_err(damaged)?;
            let (create_revision, mod_revision, lease, value) = value.value();
            if lease == 0 {
                let (key, value) = (key.value().to_owned(), Bytes::copy_from_slice(value));
                entries.insert(key.clone(), KeyValue { key, value, create_revision, mod_revision, lease });
            } else {
                leased.push(key.value().to_owned());
            }
        }
        if !leased.is_empty() {
            revision += 1;
            numbers.insert("revision", revision).map_err(unavailable)?;
            changed = true;
        }
        for key in leased {
            table.remove(key.as_str()).map_err(unavailable)?;
        }
    }
    if changed {
        write.commit().map_err(unavailable)?
    } else {
        write.abort().map_err(unavailable)?
    }
    let read = database.begin_read().map_err(unavailable)?;
    let numbers = read.open_table(NUMBERS).map_err(unavailable)?;
    let base = numbers.get("revision-base").map_err(damaged)?.map_or(0, |base| base.value());
    Ok((entries, revision.max(base)))
}

fn persist(database: &Database, prepared: &Prepared) -> Result<(), String> {
    let write = || -> Result<(), redb::Error> {
        let write = database.begin_write()?;
        {
            let mut table = write.open_table(ENTRIES)?;
            for change in &prepared.changes {
                match change {
                    Change::Put(entry) => {
                        let KeyValue { create_revision, mod_revision, lease, .. } = *entry;
                        let value = (create_revision, mod_revision, lease, entry.value.as_ref());
                        table.insert(entry.key.as_str(), value)?;
                    }
                    Change::Delete { key } => drop(table.remove(key.as_str())?),
                }
            }
            let mut numbers = write.open_table(NUMBERS)?;
            numbers.insert("revision", prepared.revision)?;
        }
        write.commit()?;
        Ok(())
    };
    write().map_err(|error| error.to_string())
}

/// Writes a floor of the revision: opening takes the higher one of both.
fn persist_floor(database: &Database, floor: Revision) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    write.open_table(NUMBERS)?.insert("revision-base", floor)?;
    write.commit()?;
    Ok(())
}

#[async_trait]
impl Metastore for Embedded {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        Ok(self.engine.get(key))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage, StoreError> {
        self.engine.range(&request)
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.commit(txn).await
    }

    async fn raise_revision(&self, floor: Revision) -> Result<Revision, StoreError> {
        let guard = Arc::clone(&self.writer).lock_owned().await;
        let guard = self.settle(guard).await?;
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _guard = guard;
            if store.engine.state.lock().revision < floor {
                let state = store.file.state.lock();
                let closed = || StoreError::Unavailable("the file is closed".to_owned());
                let database = state.database.as_ref().ok_or_else(closed)?;
                persist_floor(database, floor).map_err(unavailable)?;
            }
            Ok(store.engine.raise_revision(floor))
        });
        done.await.map_err(|error| StoreError::Unknown(error.to_string()))?
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(self.engine.watch(prefix, after)))
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.engine.compact(through)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = self.engine.grant(ttl);
        // The timer does not keep the file open.
        let (engine, writer) = (self.engine.clone(), Arc::clone(&self.writer));
        let file = Arc::downgrade(&self.file);
        tokio::spawn(async move {
            wait_for_end(&engine, lease).await;
            if let Some(file) = file.upgrade() {
                let _ = Self { engine, file, writer }.revoke(lease).await;
            }
        });
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.engine.keep_alive(lease)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        match self.engine.end_lease(lease) {
            Some(txn) => self.commit(txn).await.map(drop),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
