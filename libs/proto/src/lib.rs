//! The contract as Rust: generated messages, clients and servers, and the codec that all of them use.
//!
//! [`v1`] is public and stable, [`internal`] is between services. Wire types are written `pb::…` elsewhere.

pub mod bounds;
pub mod codec;
mod convert;

pub use convert::{partition_ref, topic_partition};

#[allow(missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
#[allow(
    rust_2018_idioms,
    unused_qualifications,
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "generated code"
)]
#[allow(
    clippy::large_futures,
    clippy::or_fun_call,
    clippy::redundant_clone,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod generated {
    /// The generated code of package `walser.v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/walser.v1.rs"));
        include!(concat!(env!("OUT_DIR"), "/walser.v1.serde.rs"));
    }

    /// The generated code of package `walser.internal.v1`.
    pub mod internal {
        /// The one version there is.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/walser.internal.v1.rs"));
        }
    }
}

pub use generated::{internal, v1};

/// The encoded `FileDescriptorSet` of every file, with comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The public `.proto` files: path below the import root, and text.
pub const SOURCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sources.rs"));

/// The domain of every `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "walser.dev";
