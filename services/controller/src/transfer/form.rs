//! The file of an export: a line of JSON about all of it, one for each key, and one that says that it is whole.

use std::fmt::Write as _;
use std::io::{self, BufRead, Read as _, Write};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use walser_metastore::{REQUEST_BYTES_MAX, Revision};

use super::TransferredMetadata;
use crate::keys::partition;

const VERSION: u32 = 1;
/// No key and value together are larger than what a store takes.
const LINE_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("is not an export of metadata: `walser metadata export` writes one")]
    Foreign,
    #[error("is an export of version {0}, and this program reads version 1; use a newer one")]
    Newer(u32),
    #[error("line {line} is not as it was written: {what}; export again, or copy the file again")]
    Line { line: usize, what: String },
    #[error("is not whole: its last line is missing; export again, or copy the file again")]
    Cut,
}

/// Everything in a store as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    pub(super) cluster_id: String,
    pub(super) cluster_name: String,
    pub(super) revision: Revision,
    /// Keys and their values, in the order of the keys.
    pub(super) entries: Vec<(String, Vec<u8>)>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    walser_metadata: u32,
    cluster_id: String,
    cluster_name: String,
    revision: Revision,
}

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    key: String,
    #[serde(borrow)]
    value: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct End {
    entries: usize,
    crc32c: String,
}

/// The lines of a file, and the checksum of those that were read.
struct Lines<R> {
    from: R,
    line: usize,
    checksum: crc_fast::Digest,
}

fn digest() -> crc_fast::Digest {
    crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi)
}

fn hex(digest: &crc_fast::Digest) -> String {
    let mut text = String::new();
    let _ = write!(text, "{:08x}", digest.finalize());
    text
}

impl<R: BufRead> Lines<R> {
    /// The next line; without its end. `None`: there is none.
    fn next(&mut self) -> Result<Option<Vec<u8>>, FormError> {
        self.line += 1;
        let mut line = Vec::new();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        self.from.by_ref().take(limit).read_until(b'\n', &mut line)?;
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) if line.len() + 1 == LINE_BYTES_MAX => Err(self.wrong("it is too long")),
            Some(_) => Err(FormError::Cut),
        }
    }

    fn count(&mut self, line: &[u8]) {
        self.checksum.update(line);
        self.checksum.update(b"\n");
    }

    fn wrong(&self, what: impl ToString) -> FormError {
        FormError::Line { line: self.line, what: what.to_string() }
    }
}

impl Export {
    pub(super) fn write(&self, file: &mut impl Write) -> io::Result<()> {
        let mut checksum = digest();
        let mut write = |line: Vec<u8>| {
            checksum.update(&line);
            checksum.update(b"\n");
            file.write_all(&line)?;
            file.write_all(b"\n")
        };
        let (cluster_id, cluster_name) = (self.cluster_id.clone(), self.cluster_name.clone());
        let head = Head { walser_metadata: VERSION, cluster_id, cluster_name, revision: self.revision };
        write(serde_json::to_vec(&head)?)?;
        for (key, value) in &self.entries {
            let value: &RawValue = serde_json::from_slice(value)?;
            write(serde_json::to_vec(&Entry { key: key.clone(), value })?)?;
        }
        let end = End { entries: self.entries.len(), crc32c: hex(&checksum) };
        file.write_all(&serde_json::to_vec(&end)?)?;
        file.write_all(b"\n")?;
        file.flush()
    }

    pub(super) fn read(file: impl BufRead) -> Result<Self, FormError> {
        let mut lines = Lines { from: file, line: 0, checksum: digest() };
        let first =
            lines.next().map_err(|error| if let FormError::Io(_) = error { error } else { FormError::Foreign })?;
        let first = first.ok_or(FormError::Foreign)?;
        let head: Head = match serde_json::from_slice(&first) {
            Ok(head) => head,
            Err(_) => return Err(newer(&first).map_or(FormError::Foreign, FormError::Newer)),
        };
        if head.walser_metadata != VERSION {
            return Err(FormError::Newer(head.walser_metadata));
        }
        lines.count(&first);
        let mut entries = Vec::new();
        loop {
            let line = lines.next()?.ok_or(FormError::Cut)?;
            if let Ok(end) = serde_json::from_slice::<End>(&line) {
                if (end.entries, &end.crc32c) != (entries.len(), &hex(&lines.checksum)) {
                    return Err(lines.wrong("the checksum is another one"));
                }
                break;
            }
            let entry: Entry<'_> = serde_json::from_slice(&line).map_err(|error| lines.wrong(error))?;
            entries.push((entry.key, entry.value.get().as_bytes().to_vec()));
            lines.count(&line);
        }
        if lines.next()?.is_some() {
            return Err(lines.wrong("there is more after the end"));
        }
        let Head { cluster_id, cluster_name, revision, .. } = head;
        Ok(Self { cluster_id, cluster_name, revision, entries })
    }

    /// Tells it from every other export.
    pub(super) fn fingerprint(&self) -> String {
        let mut checksum = digest();
        for (key, value) in &self.entries {
            checksum.update(key.as_bytes());
            checksum.update(value);
        }
        format!("{}-{}-{}", self.cluster_id, self.revision, hex(&checksum))
    }

    pub(super) fn summary(&self) -> TransferredMetadata {
        TransferredMetadata {
            cluster_id: self.cluster_id.clone(),
            cluster_name: self.cluster_name.clone(),
            revision: self.revision,
            entries: self.entries.len(),
            partitions: self.entries.iter().filter(|(key, _)| partition::parse(key).is_some()).count(),
        }
    }
}

/// The version of a first line that is of a newer one.
fn newer(line: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Version {
        walser_metadata: u32,
    }
    let found: Version = serde_json::from_slice(line).ok()?;
    (found.walser_metadata > VERSION).then_some(found.walser_metadata)
}
