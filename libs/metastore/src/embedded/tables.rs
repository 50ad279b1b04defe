//! The tables of the file.

use redb::{ReadableTable, StorageError, TableDefinition};

use crate::Revision;

/// Creation revision, modification revision, lease (0: none) and value.
pub(super) type StoredEntry<'a> = (i64, i64, i64, &'a [u8]);

/// Keys to entries.
pub(super) const ENTRIES: TableDefinition<'_, &str, StoredEntry<'static>> = TableDefinition::new("entries");
/// Names to numbers.
pub(super) const NUMBERS: TableDefinition<'_, &str, i64> = TableDefinition::new("numbers");

pub(super) const FORMAT_NUMBER: &str = "format";
pub(super) const REVISION: &str = "revision";
/// Revisions go on above it.
pub(super) const REVISION_BASE: &str = "revision-base";
pub(super) const DIGEST: &str = "digest";

pub(super) const FORMAT: i64 = 2;
/// The last format that had no digest.
pub(super) const FORMAT_WITHOUT_DIGEST: i64 = 1;

/// The numbers from which the revision follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) revision: Revision,
    pub(super) base: Revision,
}

// === impl Numbers ===

impl Numbers {
    /// As they are in the table; 0 where there is none.
    pub(super) fn read(numbers: &impl ReadableTable<&'static str, i64>) -> Result<Self, StorageError> {
        let number = |name| numbers.get(name).map(|found| found.map_or(0, |value| value.value()));
        Ok(Self { revision: number(REVISION)?, base: number(REVISION_BASE)? })
    }

    /// The revision that the store has.
    pub(super) fn latest(self) -> Revision {
        self.revision.max(self.base)
    }
}
