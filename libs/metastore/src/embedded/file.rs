//! The file: which tables it has, how it is opened, read and written, and what becomes of a write that failed.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, StorageError, Table};

use super::digest::Digest;
use super::tables::{
    DIGEST, ENTRIES, FORMAT, FORMAT_NUMBER, FORMAT_WITHOUT_DIGEST, NUMBERS, Numbers, REVISION, REVISION_BASE,
};
use crate::engine::Prepared;
use crate::{Change, KeyValue, Revision, StoreError};

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
        let revision = read_numbers(&database).map_err(unavailable)?.latest();
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
        redb::DatabaseError::Storage(StorageError::Io(error)) if error.kind() != std::io::ErrorKind::InvalidData => {
            unavailable(error)
        }
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::Unavailable(format!(
            "{} is open in another process, a controller most likely: stop that first",
            path.display()
        )),
        other => StoreError::Format(format!("{}: {other}", path.display())),
    };
    Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(format)
}

fn read_numbers(database: &Database) -> Result<Numbers, redb::Error> {
    let read = database.begin_read()?;
    match read.open_table(NUMBERS) {
        Ok(numbers) => Ok(Numbers::read(&numbers)?),
        // Nothing was ever written.
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(Numbers::default()),
        Err(error) => Err(error.into()),
    }
}

/// What is in a file when it is opened.
#[derive(Default)]
struct Contents {
    /// `None`: nothing was ever written.
    format: Option<i64>,
    numbers: Numbers,
    entries: BTreeMap<String, KeyValue>,
    /// Of `entries` alone.
    digest: Digest,
    /// Keys of entries that leases had kept; they are not among the entries.
    leased: Vec<String>,
}

/// Reads and checks everything, and removes what leases had kept. That makes no revision: nobody has seen this one
/// otherwise, and one more could be taken for a change of those that came after a copy of the file was made.
///
/// # Errors
/// [`StoreError::Format`] when the file is damaged or newer. Nothing in it has changed then.
pub(super) fn load(database: &mut Database) -> Result<(BTreeMap<String, KeyValue>, Revision), StoreError> {
    let Contents { format, numbers, entries, digest, leased } = read_contents(database)?;
    if format.is_some() {
        // What is free and what is not: without that, the next write may go over what is in use.
        database.check_integrity().map_err(|error| match error {
            redb::DatabaseError::Storage(error) => damaged(error),
            other => StoreError::Format(other.to_string()),
        })?;
        if read_numbers(database).map_err(unavailable)? != numbers {
            return Err(StoreError::Format("the last change of the metadata file is damaged".to_owned()));
        }
    }
    // A new file is written with its first change.
    if !leased.is_empty() || format == Some(FORMAT_WITHOUT_DIGEST) {
        remove_leased(database, &leased, &numbers, digest).map_err(unavailable)?;
    }
    Ok((entries, numbers.latest()))
}

/// What cannot be read is damaged, unless it is the system that cannot read it now.
fn damaged(error: StorageError) -> StoreError {
    match error {
        StorageError::Io(error) if !tells_of_damage(&error) => unavailable(error),
        other => StoreError::Format(other.to_string()),
    }
}

/// Whether the library has not understood what it read, or looked for something behind the end.
fn tells_of_damage(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
}

fn not_opened(error: redb::TableError) -> StoreError {
    match error {
        redb::TableError::Storage(error) => damaged(error),
        other => StoreError::Format(other.to_string()),
    }
}

fn read_contents(database: &Database) -> Result<Contents, StoreError> {
    let read = database.begin_read().map_err(unavailable)?;
    let table = match read.open_table(NUMBERS) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Contents::default()),
        other => other.map_err(not_opened)?,
    };
    let format = table.get(FORMAT_NUMBER).map_err(damaged)?.map(|found| found.value());
    if let Some(found) = format.filter(|found| *found > FORMAT) {
        return Err(StoreError::Format(format!("format {found}, this version reads up to {FORMAT}")));
    }
    let numbers = Numbers::read(&table).map_err(damaged)?;
    let stored = Digest::stored(&table, &numbers).map_err(damaged)?;
    let mut contents = Contents { format, numbers, ..Contents::default() };
    let mut all = Digest::default();
    let found = read.open_table(ENTRIES).map_err(not_opened)?;
    for item in found.iter().map_err(damaged)? {
        let (key, entry) = item.map_err(damaged)?;
        all.add(key.value(), entry.value());
        let (create_revision, mod_revision, lease, value) = entry.value();
        if lease == 0 {
            contents.digest.add(key.value(), entry.value());
            let (key, value) = (key.value().to_owned(), Bytes::copy_from_slice(value));
            contents.entries.insert(key.clone(), KeyValue { key, value, create_revision, mod_revision, lease });
        } else {
            contents.leased.push(key.value().to_owned());
        }
    }
    if format != Some(FORMAT_WITHOUT_DIGEST) && stored != Some(all) {
        return Err(StoreError::Format("the metadata file is damaged: its checksum is wrong".to_owned()));
    }
    Ok(contents)
}

fn remove_leased(database: &Database, leased: &[String], numbers: &Numbers, digest: Digest) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut entries = write.open_table(ENTRIES)?;
        for key in leased {
            entries.remove(key.as_str())?;
        }
        write_numbers(&mut write.open_table(NUMBERS)?, numbers, digest)?;
    }
    write.commit()?;
    Ok(())
}

/// Writes a group of changes in one transaction of the file.
fn persist(database: &Database, group: &[Prepared]) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut entries = write.open_table(ENTRIES)?;
        let mut table = write.open_table(NUMBERS)?;
        let mut numbers = Numbers::read(&table)?;
        let mut digest = Digest::stored(&table, &numbers)?.unwrap_or_default();
        for prepared in group {
            for change in &prepared.changes {
                match change {
                    Change::Put(entry) => {
                        let KeyValue { create_revision, mod_revision, lease, .. } = *entry;
                        let value = (create_revision, mod_revision, lease, entry.value.as_ref());
                        digest.add(&entry.key, value);
                        if let Some(before) = entries.insert(entry.key.as_str(), value)? {
                            digest.remove(&entry.key, before.value());
                        }
                    }
                    Change::Delete { key } => {
                        if let Some(before) = entries.remove(key.as_str())? {
                            digest.remove(key, before.value());
                        }
                    }
                }
            }
            // Opening takes the higher one of both.
            let number = if prepared.is_floor() { &mut numbers.base } else { &mut numbers.revision };
            *number = prepared.revision;
        }
        write_numbers(&mut table, &numbers, digest)?;
    }
    write.commit()?;
    Ok(())
}

fn write_numbers(
    table: &mut Table<'_, &'static str, i64>,
    numbers: &Numbers,
    digest: Digest,
) -> Result<(), StorageError> {
    let Numbers { revision, base } = *numbers;
    let digest = digest.with_revisions(numbers);
    for (name, number) in [(FORMAT_NUMBER, FORMAT), (REVISION, revision), (REVISION_BASE, base), (DIGEST, digest)] {
        table.insert(name, number)?;
    }
    Ok(())
}
