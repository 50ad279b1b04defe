//! Open files: every partition that is written or read has some, and the process may have only so many.
//!
//! Half of the limit is for logs, the other half for connections and everything else. Above that, files of partitions
//! with nothing in flight are closed; a write that finds no file to open waits for that, and is refused with what is
//! short after [`PATIENCE`].

use std::collections::BTreeSet;
use std::time::Duration;

use walser_log::Admission;
use walser_model::TopicPartition;
use walser_replication::control::is_only_eligible;

use crate::replication::Outgoing;

use super::{PartitionMetadata, Shard, ShardContext};

/// Time between two tries of writes that wait for files.
pub(super) const RETRY: Duration = Duration::from_millis(20);
/// How long a write waits for files.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Time after which a log that could not be opened is tried again, at first and at most.
const REOPEN: Duration = Duration::from_secs(1);
const REOPEN_MAX: Duration = Duration::from_secs(60);
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
    /// The rest waits until the log is ready for it.
    Unprepared,
}

impl Written {
    /// What the admission of the next write says; `None`: none waits.
    pub(super) fn before(next: Option<Admission>) -> Self {
        match next {
            Some(Admission::Fits) => Self::More,
            Some(Admission::AfterPreparation) => Self::Unprepared,
            None | Some(Admission::AfterExtension) => Self::All,
        }
    }
}

/// A partition that this node is to lead and whose log could not be opened.
#[derive(Debug)]
pub(super) struct Unopened {
    metadata: Box<PartitionMetadata>,
    pub(super) tries: u32,
    /// When it is tried again, in monotonic time.
    at: Duration,
}

impl ShardContext {
    /// Whether logs have more files open than their half of the limit, with `more` that may be about to be.
    pub(super) fn above_file_share(&self, more: usize) -> bool {
        let files = self.directory.disk().open_files();
        files.limit.is_some_and(|limit| files.open + more >= limit / 2)
    }
}

impl Shard {
    /// Closes files while logs have more of them open than their half of the limit, or while writes wait for some.
    pub(super) fn limit_files(&mut self) {
        if self.context.above_file_share(0) || !self.short_of_files.is_empty() {
            self.close_files();
        }
    }

    /// Closes the files of all partitions that have nothing in flight; returns how many.
    pub(super) fn close_files(&mut self) -> usize {
        // A log that was made ready for writes is left to them, or it would be made ready for ever.
        let quiet = self.partitions.values_mut().filter(|partition| !partition.has_incoming());
        quiet.map(|partition| partition.log.close_files()).sum()
    }

    /// Partitions whose writes wait for files, first come, first served: those whose files were just closed come after
    /// them.
    pub(super) fn take_waiting_for_files(&mut self) -> Vec<TopicPartition> {
        if self.short_of_files.is_empty() {
            return Vec::new();
        }
        let now = self.context.clock.monotonic();
        // Others may have closed files: what nobody tells this shard of is tried now and then.
        let closed = self.close_files();
        if closed == 0 {
            self.hurry_flushes();
        }
        if closed == 0 && now < self.files_tried_at + RETRY {
            for waiting in &self.short_of_files {
                self.incoming.remove(waiting);
            }
            return Vec::new();
        }
        self.files_tried_at = now;
        let waiting: Vec<_> = self.short_of_files.drain(..).collect();
        // There may be thousands of both.
        let also: BTreeSet<_> = waiting.iter().collect();
        self.incoming.retain(|partition| !also.contains(partition));
        waiting
    }

    /// Has logs flushed that would be later, one for each partition that waits for files: until then they keep theirs.
    fn hurry_flushes(&mut self) {
        let wanted = self.short_of_files.len();
        let partitions = self.partitions.iter_mut();
        let hurried = partitions.filter_map(|(id, partition)| partition.hurry_flush().then_some(*id)).take(wanted);
        self.touched.extend(hurried);
    }

    /// Opens a log another time: every second while only files are short, and ever more rarely otherwise.
    pub(super) fn open_later(&mut self, metadata: Box<PartitionMetadata>, tries: u32, soon: bool) {
        let id = metadata.partition;
        let counts = metadata.state.isr.contains(self.context.node);
        if counts && !is_only_eligible(&metadata.state, self.context.node) {
            // Others have what cannot be opened here.
            let leader_epoch = metadata.state.leader_epoch;
            self.context.peers.tell(id, Outgoing::GiveUp { leader_epoch });
        }
        let pause = if soon { REOPEN } else { (REOPEN * 2u32.saturating_pow(tries)).min(REOPEN_MAX) };
        let at = self.context.clock.monotonic() + pause;
        let tries = tries.saturating_add(1).min(16);
        self.unopened.insert(id, Unopened { metadata, tries, at });
    }

    /// Tries the logs again that could not be opened and whose time has come.
    pub(super) fn reopen(&mut self, now: Duration) {
        let due = self.unopened.iter().filter(|(_, unopened)| unopened.at <= now);
        let due: Vec<_> = due.map(|(partition, _)| *partition).take(REOPENED_PER_TURN).collect();
        for partition in due {
            if let Some(metadata) = self.unopened.get(&partition).map(|unopened| unopened.metadata.clone()) {
                self.install(metadata);
            }
        }
    }
}
