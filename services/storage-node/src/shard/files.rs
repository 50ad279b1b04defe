//! Open files: every partition that is written or read has some, and the process may have only so many.
//!
//! Half of the limit is for logs, the other half for connections and everything else. Above that, files of partitions
//! with nothing in flight are closed; a write that finds no file to open waits for that, and is refused with what is
//! short after [`PATIENCE`].

use std::time::Duration;

use super::{Shard, Surroundings};

/// Time between two tries of writes that wait for files.
pub(super) const RETRY: Duration = Duration::from_millis(20);
/// How long a write waits for files.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Logs that could not be opened and are tried again in one turn.
const REOPENED_PER_TURN: usize = 64;

/// How far a partition got with what has come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// Everything, or the rest waits for an extension.
    All,
    /// More is left for the next turn.
    More,
    /// The rest waits for other files to be closed.
    ShortOfFiles,
}

/// How much of a group the log has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// All of it, or the rest is refused.
    All,
    /// The rest waits for an extension.
    Extending,
    /// The rest waits for other files to be closed.
    ShortOfFiles,
}

impl Surroundings {
    /// Whether logs have more files open than their half of the limit.
    pub(super) fn above_file_share(&self) -> bool {
        let files = self.directory.disk().open_files();
        files.limit.is_some_and(|limit| files.open >= limit / 2)
    }
}

impl Shard {
    /// Closes files while logs have more of them open than their half of the limit, or while writes wait for some.
    pub(super) fn limit_files(&mut self) {
        if self.around.above_file_share() || !self.short_of_files.is_empty() {
            self.close_files();
        }
    }

    /// Closes the files of all partitions that have nothing in flight; returns how many.
    pub(super) fn close_files(&mut self) -> usize {
        self.partitions.values_mut().map(|partition| partition.log.close_files()).sum()
    }

    /// Tries the logs again that could not be opened.
    pub(super) fn reopen(&mut self) {
        let waiting: Vec<_> = self.unopened.keys().take(REOPENED_PER_TURN).copied().collect();
        for partition in waiting {
            if let Some(order) = self.unopened.remove(&partition) {
                self.lead(order);
            }
        }
    }
}
