//! The group coordinator: consumer groups behind a log.
//!
//! Groups are spread over shards. A shard is a state machine, [`walser_group::GroupShard`], whose events are a partition of
//! the internal topic [`walser_rpc::GROUPS_TOPIC`]. Its driver replays them, handles requests one after the other, and
//! releases what follows once it is replicated.
//!
//! ```text
//!   gateway ─ MemberSession ─> api ─ inbox ──> shard driver ──> log ──> storage node
//!                 ^                            |        |
//!                 '──── outbox <── answers, notices     |── topics ──── metadata <── controller
//!                                                       '── tenure ────────'          ^
//!                                                                          beats ─────'
//! ```
//!
//! Invariant: what a shard answers, it has read from its log or written to it, and it has seen everything before: every
//! append names the offset that it must get.
//! Invariant: every queue has a bound; a shard whose log takes nothing takes no requests, and no time passes for it.

mod api;
mod beats;
mod call;
mod config;
mod error;
mod internal_topic;
mod lag;
mod log;
mod metadata;
mod outbox;
mod process;
mod requests;
mod service;
mod shard;
mod terms;
mod topics;

pub use config::PROCESS_KEYS;
pub use process::main;
pub use service::{CoordinatorDependencies, RunningCoordinator, start};
