//! The controller: the only writer of cluster metadata.
//!
//! Every decision is one of `walser_replication::control`, taken on a view of the store that is of one revision, and
//! commits with a transaction that compares everything it was taken on: it does not matter how late the view is. Beside
//! them there are producer ids and the lineage of the metadata, which compare the values that they go on from. What
//! others need to know they get from `WatchMetadata`, which any controller process serves from its view.
//!
//! Invariant: nothing but this crate writes to the metadata store.

mod api;
mod census;
mod cluster_settings;
mod cluster_view;
mod committer;
mod compaction;
mod config;
mod coordinators;
mod duties;
mod error;
mod keys;
mod leadership;
mod metadata_store;
mod metrics;
mod nodes;
mod operations;
mod pauses;
mod placement;
mod process;
mod producer_ids;
mod restore;
mod service;
mod sessions;
mod silence;
mod store;
mod store_problems;
mod store_writes;
mod topics;
mod transfer;
mod turns;
mod upgrade;
mod views;

pub use config::{Config, KEYS, PROCESS_KEYS, UnfitSettings};
pub use error::StartError;
pub use process::{main, settings};
pub use service::{Dependencies, Started, start};
pub use transfer::{TransferError, TransferredMetadata, export, import, reopen};
