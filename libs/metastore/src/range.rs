//! Reading many keys: pages as of one revision.

use crate::{KeyValue, Metastore, Revision, StoreError};

/// Entries that [`read_all`] asks for at once.
const PAGE_ENTRIES: usize = 1_000;
/// How often [`read_all`] starts before it gives up.
const ATTEMPTS_MAX: usize = 5;

/// Which keys to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeRequest {
    /// Keys with this prefix; empty: all keys.
    pub prefix: String,
    /// Only keys greater than this one: the last key of the page before.
    pub after: Option<String>,
    /// Most entries on the page, at least 1.
    pub limit: usize,
    /// Reads as of this revision; `None`: the latest.
    pub revision: Option<Revision>,
}

/// Some of the keys that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangePage {
    /// In the order of their keys, without a gap from the beginning of the page.
    pub entries: Vec<KeyValue>,
    /// The revision that the entries are of: the one that was asked for, or the store's.
    pub revision: Revision,
    /// There are more keys after the last entry.
    pub more: bool,
}

/// Keys as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// In the order of their keys.
    pub entries: Vec<KeyValue>,
    /// The store's revision when the first page was read.
    pub revision: Revision,
}

/// Reads all keys with a prefix as of one revision, page by page. When that revision is compacted meanwhile, reading
/// starts anew at a later one.
///
/// # Errors
/// Those of [`Metastore::range`]; [`StoreError::Compacted`] when each of 5 attempts was overtaken.
pub async fn read_all(store: &dyn Metastore, prefix: &str) -> Result<Snapshot, StoreError> {
    let mut attempt = 1;
    loop {
        match read_once(store, prefix).await {
            Err(StoreError::Compacted { .. }) if attempt < ATTEMPTS_MAX => attempt += 1,
            outcome => return outcome,
        }
    }
}

async fn read_once(store: &dyn Metastore, prefix: &str) -> Result<Snapshot, StoreError> {
    let mut request = RangeRequest { prefix: prefix.to_owned(), after: None, limit: PAGE_ENTRIES, revision: None };
    let mut entries = Vec::new();
    loop {
        let page = store.range(request.clone()).await?;
        let revision = page.revision;
        entries.extend(page.entries);
        let last = entries.last().filter(|_| page.more).map(|entry| entry.key.clone());
        if last.is_none() {
            return Ok(Snapshot { entries, revision });
        }
        (request.after, request.revision) = (last, Some(revision));
    }
}
