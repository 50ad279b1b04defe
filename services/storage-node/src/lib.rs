//! The storage node: replicated partition logs on the disks of one machine.
//!
//! ```text
//!   gateway ─ StorageClient ─> in_process ─ queue ──> log shard (a thread) ──> log ──> disk
//!                               |                  |        ^
//!                               |                  flush threads (fdatasync)
//!                               '── fetch <── registry: high watermarks, tail cache, readers
//! ```
//!
//! Invariant: only its log shard appends to a partition.
//! Invariant: nothing here decides when an offset is committed: `walser_replication::Leader` does.

mod api;
mod compactor;
mod config;
mod contact;
mod copy_pace;
mod directory_problem;
mod disk_threads;
mod disk_watch;
mod disposal;
mod engine;
mod error;
mod fetch;
mod in_process;
mod metrics;
mod node;
mod process;
mod recovery;
mod released;
mod replica_registry;
mod replication;
mod retention_clock;
mod service;
mod settling;
mod shard;
mod shard_set;
mod space;
mod stalls;
mod tail;
mod topic_names;

pub use config::{Config, KEYS, PROCESS_KEYS};
pub use error::StartError;
pub use process::main;
pub use recovery::Recovered;
pub use service::{Dependencies, Started, start};
pub use space::make_room;
