//! The file: which tables it has, how it is opened, read and written, and what becomes of a write that failed.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::engine::Prepared;
use crate::{Change, KeyValue, Revision, StoreError};

/// Key to creation revision, modification revision, lease (0: none) and value.
const ENTRIES: TableDefinition<'_, &str, (i64, i64, i64, &[u8])> = TableDefinition::new("entries");
/// Names to numbers: `format`, `revision`, `revision-base`.
const NUMBERS: TableDefinition<'_, &str, i64> = TableDefinition::new("numbers");

const FORMAT: i64 = 1;
/// Metadata is small; the default cache would be a gigabyte.
const CACHE_BYTES: usize = 4 << 20;

pub(super) type Opener = Box<dyn Fn() -> Result<Database, StoreError> + Send + Sync>;

/// The open file. After a failed write redb takes no more of them, so it is opened again.
pub(super) struct File {
    open: Opener,
    state: Mutex<FileState>,
}

#[derive(Debug)]
struct FileState {
    /// `None`: a write is running, or the last one failed and the file has not been opened again.
    database: Option<Database>,
    /// What that write was: it may be in the file, as a whole or not at all.
    in_doubt: Vec<Prepared>,
}

/// What became of a write that failed.
#[derive(Debug)]
pub(super) enum Reopened {
    /// It is in the file.
    Written(Vec<Prepared>),
    /// It is not in the file.
    Lost(Vec<Prepared>),
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("state", &self.state).finish_non_exhaustive()
    }
}

pub(super) fn unavailable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

// === impl File ===

impl File {
    /// The file, opened by `open`, which opens it again later.
    pub(super) fn new(open: Opener, database: Database) -> Self {
        Self { open, state: Mutex::new(FileState { database: Some(database), in_doubt: Vec::new() }) }
    }

    /// Whether it was closed because a write failed.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().database.is_none()
    }

    /// Makes a group of changes durable as a whole, and returns it. `Err`: the file is closed, and the group in doubt.
    pub(super) fn write(&self, group: Vec<Prepared>) -> Result<Vec<Prepared>, String> {
        let mut state = self.state.lock();
        // In doubt until the opposite is known, also when what follows panics.
        state.in_doubt = group;
        let database = state.database.take().ok_or("the file is closed")?;
        persist(&database, &state.in_doubt).map_err(|error| error.to_string())?;
        state.database = Some(database);
        Ok(std::mem::take(&mut state.in_doubt))
    }

    /// Opens the file again, and finds out what became of the write that failed.
    pub(super) fn reopen(&self) -> Result<Reopened, StoreError> {
        let mut state = self.state.lock();
        let database = (self.open)()?;
        let revision = revision_of(&database).map_err(unavailable)?;
        state.database = Some(database);
        let group = std::mem::take(&mut state.in_doubt);
        // Before the write the file had a lower revision.
        let written = group.last().is_some_and(|last| last.revision == revision);
        Ok(if written { Reopened::Written(group) } else { Reopened::Lost(group) })
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

pub(super) fn open_file(path: &Path) -> Result<Database, StoreError> {
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

/// The revision that the store has when it is opened.
fn revision_of(database: &Database) -> Result<Revision, redb::Error> {
    let read = database.begin_read()?;
    let numbers = read.open_table(NUMBERS)?;
    let number = |name| numbers.get(name).map(|found| found.map_or(0, |value| value.value()));
    Ok(number("revision")?.max(number("revision-base")?))
}

/// Reads everything, after removing what leases had kept.
pub(super) fn load(database: &Database) -> Result<(BTreeMap<String, KeyValue>, Revision), StoreError> {
    let damaged = |error: redb::StorageError| StoreError::Format(error.to_string());
    let write = database.begin_write().map_err(unavailable)?;
    let mut entries = BTreeMap::new();
    let mut changed = false;
    let mut revision;
    {
        let mut numbers = write.open_table(NUMBERS).map_err(unavailable)?;
        let number = |name: &str| numbers.get(name).map(|found| found.map(|value| value.value()));
        let found = number("format").map_err(damaged)?;
        let base = number("revision-base").map_err(damaged)?.unwrap_or(0);
        revision = number("revision").map_err(damaged)?.unwrap_or(0).max(base);
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
    Ok((entries, revision))
}

/// Writes a group of changes in one transaction of the file.
fn persist(database: &Database, group: &[Prepared]) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut entries = write.open_table(ENTRIES)?;
        let mut numbers = write.open_table(NUMBERS)?;
        for prepared in group {
            for change in &prepared.changes {
                match change {
                    Change::Put(entry) => {
                        let KeyValue { create_revision, mod_revision, lease, .. } = *entry;
                        let value = (create_revision, mod_revision, lease, entry.value.as_ref());
                        entries.insert(entry.key.as_str(), value)?;
                    }
                    Change::Delete { key } => drop(entries.remove(key.as_str())?),
                }
            }
            // Opening takes the higher one of both.
            let name = if prepared.is_floor() { "revision-base" } else { "revision" };
            numbers.insert(name, prepared.revision)?;
        }
    }
    write.commit()?;
    Ok(())
}
