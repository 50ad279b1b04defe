//! A checksum over everything in the file: damage that the library does not notice is not taken for metadata.
//!
//! redb checks its pages only after a stop that was not clean, and takes what is in them at its word otherwise. The
//! digest is the sum, modulo 2⁶⁴, of the CRC-64/NVME of every entry and of the revisions, so that each write brings it
//! up to date by what it changes, in the same transaction.

use redb::ReadableTable;

use super::tables::{DIGEST, Numbers, StoredEntry};

const ALGORITHM: crc_fast::CrcAlgorithm = crc_fast::CrcAlgorithm::Crc64Nvme;

/// The sum over some entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Digest(u64);

impl Digest {
    /// Of the entries without the revisions, `numbers`, as the file says it. `None`: it says none.
    pub(super) fn stored(
        table: &impl ReadableTable<&'static str, i64>,
        numbers: &Numbers,
    ) -> Result<Option<Self>, redb::StorageError> {
        let stored = table.get(DIGEST)?;
        Ok(stored.map(|stored| Self(stored.value().cast_unsigned().wrapping_sub(of_revisions(numbers)))))
    }

    /// What is written for these entries beside these numbers.
    pub(super) fn with_revisions(self, numbers: &Numbers) -> i64 {
        self.0.wrapping_add(of_revisions(numbers)).cast_signed()
    }

    pub(super) fn add(&mut self, key: &str, entry: StoredEntry<'_>) {
        self.0 = self.0.wrapping_add(of_entry(key, entry));
    }

    pub(super) fn remove(&mut self, key: &str, entry: StoredEntry<'_>) {
        self.0 = self.0.wrapping_sub(of_entry(key, entry));
    }
}

fn of_entry(key: &str, (create_revision, mod_revision, lease, value): StoredEntry<'_>) -> u64 {
    let mut crc = crc_fast::Digest::new(ALGORITHM);
    // With its length, so that no byte can pass from the key to what follows.
    crc.update(&(key.len() as u64).to_be_bytes());
    crc.update(key.as_bytes());
    for number in [create_revision, mod_revision, lease] {
        crc.update(&number.to_be_bytes());
    }
    crc.update(value);
    crc.finalize()
}

fn of_revisions(numbers: &Numbers) -> u64 {
    let Numbers { revision, base } = numbers;
    crc_fast::checksum(ALGORITHM, &[revision.to_be_bytes(), base.to_be_bytes()].concat())
}
