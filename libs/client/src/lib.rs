//! The Rust client: a [`Client`] for every call, a [`Producer`] that writes exactly once across reconnects, and a
//! [`Reader`] that goes on where it was.
//!
//! Nothing here is secret: the same calls are open to stubs that any language generates from the proto files.

mod connection;
mod producer;
mod reader;

pub use connection::{Client, ConnectError, Named, NamedChannel};
pub use producer::{Delivered, Delivery, Producer, ProducerConfig};
pub use reader::{Read, Reader, ReaderConfig};
pub use walser_rpc::{ApiError, Reason};
