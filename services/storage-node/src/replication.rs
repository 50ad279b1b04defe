//! What a storage node has to do with the others that have replicas of its partitions.
//!
//! Shards decide by [`walser_replication::Replica`] and say here what others have to know; what others say comes back as
//! commands in the queues of the shards. A follower opens a partition at its leader, which pushes records to it until
//! one of the two has reason to doubt; see `docs/replication.md`.
//!
//! Invariant: nothing here decides: a message that is lost, late or repeated changes nothing but when things happen.

pub(crate) mod outbox;
mod peers;
mod push;
mod pushed;
mod traces;
mod window;

pub(crate) use outbox::{CopyWanted, Lane, Outbox, ToController, ToFollower, ToLeader};
pub(crate) use peers::{FromPeer, OpenAnswer, Outgoing, Peers};
pub(crate) use push::{Push, ToPush, read_tail};
pub(crate) use pushed::Pushed;
pub(crate) use traces::{BatchTrace, BatchTraces};
pub(crate) use window::Window;
use window::WindowPermit;
