//! The Rust client: a [`Client`] for every call, a [`Producer`] that writes exactly once across reconnects, a
//! [`Reader`] that goes on where it was, and a [`GroupReader`] that shares topics with the other members of its group.
//!
//! Nothing here is secret: the same calls are open to stubs that any language generates from the proto files.

mod connection;
mod group;
mod producer;
mod reader;

pub use connection::{Client, ConnectError, Named, NamedChannel};
pub use group::{CommitAnswer, CommitOutcome, GroupEvent, GroupReader, GroupReaderConfig};
pub use producer::{Delivered, Delivery, Producer, ProducerConfig};
pub use reader::{Read, Reader, ReaderConfig};
pub use walser_rpc::{ApiError, Reason, TLS_TROUBLE};
