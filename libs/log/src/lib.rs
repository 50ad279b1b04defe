//! One partition on disk.
//!
//! A [`Log`] is the single writer of a partition; [`LogReader`]s share it with any number of threads. Data is whole
//! record batches in [segments](docs/formats/partition.md), with rebuildable indexes beside them. Nothing here knows
//! of networks or clocks: time is an argument, and every file is reached through a [`Disk`].
//!
//! ```text
//!   log start                 recovery point     durable   high watermark     log end
//!       |  sealed segments         |                |            |               |
//!       v                          v                v            v               v
//!   ----[=========][=========][====:================:============:===============]000000
//!       '- may go by retention     '- a restart     '- survives   '- readers      '- zero-filled
//!                                     reads from       power loss    see below       space ahead
//!                                     here on
//! ```
//!
//! Invariant: there is a batch for every offset of a log, also where compaction has dropped the records, and none is used
//! twice.
//! Invariant: what was once synced and covered by the durable mark is never cut by recovery.

mod active;
mod checked;
mod checkpoint;
mod clock_mark;
mod compaction;
mod copy;
mod directory;
mod directory_names;
mod disk;
mod epochs;
mod extension;
mod faults;
mod flush;
mod generation;
mod index;
mod last_run;
mod log;
mod log_state;
mod metadata_version;
mod producers;
mod reader;
mod recovery_scan;
mod removal;
mod run;
mod scan;
mod segment;
mod segment_names;
mod set_aside;
mod snapshots;
mod topic_names;

pub use active::Admission;
pub use checkpoint::{Checkpoint, Marks};
pub use clock_mark::ClockMark;
pub use compaction::{
    Compactable, Compacted, CompactionJob, CompactionRest, CompactionRules, CompactionStep, WaitingTombstone,
};
pub use copy::{CompleteCopy, CopyError, LogCopy};
pub use directory::{DataDirectory, DirectoryError, Found, Identity};
pub use disk::{
    DirectoryId, DirectoryLock, Disk, DiskCalls, DiskFile, Entry, MemoryDisk, Open, OpenFiles, PowerLoss, RealDisk,
    Space, out_of_files, out_of_space,
};
pub use extension::Extension;
#[cfg(feature = "faults")]
pub use faults::LogFaults;
pub use flush::{FlushJob, FlushLack, FlushOutcome};
pub use generation::Generation;
pub use last_run::BootId;
pub use log::{AppendError, Condition, CutTail, Damage, Kept, Log, LogConfig, LogError, Recovery};
pub use log_state::LogPin;
pub use metadata_version::SeenMetadata;
pub use producers::{PRODUCERS_MAX, Producers};
pub use reader::{FoundRecord, LogReader, ReadError, Slice};
pub use run::Run;
pub use set_aside::SetAside;
pub use topic_names::{NamesById, read_topic_names};

/// CRC-32C of a part of a file.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let wide = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(wide).expect("a 32-bit checksum fits 32 bits")
}
