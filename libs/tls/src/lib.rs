//! TLS: what a process shows of itself, whom it believes, and how connections come to be encrypted.
//!
//! ```text
//!   certificate, key, authority (PEM files) ── ProcessTls ──> accept: a client or another process has connected
//!        read again from time to time ──────────'     '────> Connector: another process is dialled
//!   flags of a client ── ClientTls ──> Connector: a gateway is dialled
//! ```
//!
//! Two kinds of trust, which never mix. At the public port a server shows a certificate for its host names, as on the web,
//! and may ask clients for one. Between the processes of a cluster both sides show one that says which cluster and role
//! they are of ([`PeerIdentity`], in the manner of SPIFFE), signed by the cluster's own authority; names of hosts play no
//! part, since addresses of processes come and go.
//!
//! Invariant: no byte of a call is read from or sent to a peer of the cluster whose identity is not known.
//! Invariant: files that cannot be used replace nothing that can.

mod authority;
mod client;
mod connector;
mod files;
mod handshake;
mod identity;
mod process;
mod shown;
mod trouble;

pub use authority::{Authority, Issued, Purpose};
pub use client::{ClientTls, ClientTlsContents, ClientTlsFiles};
pub use connector::Connector;
pub use files::{TlsError, TlsFiles};
pub use identity::{PeerIdentity, ServiceRole, not_after};
pub use process::{Accepted, ProcessTls};
pub use shown::ShownCertificate;
pub use tokio_rustls::TlsStream;
pub use trouble::{HandshakeError, SPOKEN_TO_WITHOUT, in_words, nothing_begun};

/// What both sides speak on an encrypted connection, the wish first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", HTTP1];
/// The name of the protocol that servers only refuse politely.
const HTTP1: &[u8] = b"http/1.1";
