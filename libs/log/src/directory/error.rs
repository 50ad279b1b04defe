//! Why a data directory cannot be used.

use std::io;
use std::path::PathBuf;

/// The format that this version writes. Newer ones are refused.
pub(super) const FORMAT: u32 = 1;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has it.
    #[error("data directory {path} is in use by {holder}; stop that process, or choose another directory")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What the other process says of itself.
        holder: String,
    },
    /// Written by a newer version.
    #[error("data directory {path} has format {found}, this version reads up to {FORMAT}; use a newer version")]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its meta file says nothing sensible.
    #[error("{path} is not the meta file of a data directory: {problem}")]
    Meta {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It was used, and there is nothing where its logs were: not even what a directory without partitions has there.
    #[error(
        "{path} is missing or empty although the data directory was used before: its partitions are gone, or the file system \
         that they are on is not mounted; mount or restore it. If they are lost, remove the file meta from the data directory: \
         it counts as an empty one in place of the old then, and takes from the other replicas what they have"
    )]
    LogsMissing {
        /// Where they were.
        path: PathBuf,
    },
    /// It belongs to another cluster or node.
    #[error("data directory {path} belongs to {what} {found}, not to {expected}; choose another directory")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// `cluster` or `node`.
        what: &'static str,
        /// In the meta file.
        found: String,
        /// Asked for.
        expected: String,
    },
    /// The file system reported an error.
    #[error("data directory {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
