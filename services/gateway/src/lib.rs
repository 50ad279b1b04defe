//! The gateway: the one address that clients need.
//!
//! It routes every call to the leader or the controller, encodes plain records into batches and decodes them again,
//! gathers small writes, and makes writes idempotent towards storage.
//!
//! `producing`, `reading` and `topics` do the work, each with what it needs and no more; `api` decodes what comes
//! in on the public port, calls them, and encodes the answer. Another protocol would be another `api`.
//!
//! Invariant: the gateway keeps nothing that a client would miss: any other one can take its place.

mod api;
mod config;
mod error;
mod groups;
mod heartbeat;
mod leaders;
mod metadata;
mod metrics;
mod process;
mod producing;
mod readiness;
mod reading;
mod retry;
mod router;
mod service;
mod topic_counters;
mod topics;
mod within;

pub use config::{Config, KEYS};
pub use process::main;
pub use readiness::Readiness;
pub use service::{Dependencies, Started, begin, start};
