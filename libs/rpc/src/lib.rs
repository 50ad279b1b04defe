//! The gRPC kit: errors, deadlines, connections by role, and the link on which record data travels.
//!
//! Services call each other through generated clients on a [`Connection`], which is a TCP channel between processes
//! and the callee's own routes inside one. Only appends and fetches take the [`StorageLink`], so that a batch is
//! handed over inside a process and never encoded.

mod accept_compressed;
mod call_metrics;
mod deadline;
mod failure;
mod guard;
mod link;
mod metadata;
mod network;
mod outage;
mod reason;
mod remote;
mod room;

pub use accept_compressed::AcceptCompressed;
pub use deadline::remaining;
pub use failure::Failure;
pub use guard::{Guard, HeldUntilSent, SpanMaker, catch_panic};
pub use link::{AppendPermit, AppendReply, StorageLink};
pub use metadata::{
    MetadataSeen, MetadataStream, change_messages, snapshot_messages, wire_registration, wire_time, wire_topic,
    wire_topic_value,
};
pub use network::{Connection, ConnectionError, Network, local_connection};
pub use outage::Outage;
pub use reason::rule;
pub use room::AppendRoom;

/// The reasons of errors, from the contract.
pub use walser_proto::v1::ErrorReason as Reason;
