//! The decisions of replication, as pure state machines: event in, actions out.
//!
//! No clock, no I/O, no randomness, no order of a hash map. The storage node feeds a [`Leader`] or a [`Follower`] with
//! what its log, its flushes and its peers do; the controller asks [`control`] what to write. The simulator drives the
//! same code, a million steps a second, and `docs/replication.md` says which function holds which rule.
//!
//! Invariant: nothing here is decided on state that the caller did not pass in.

pub mod control;
mod follower;
mod leader;
mod log;
mod node_set;
mod replica;
mod role;
mod rules;
mod state;
mod wire;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(test)]
mod test_log;

pub use follower::{Follower, FollowerAction, FollowerEvent, FollowerStart};
pub use leader::{Action, Contradiction, Event, FollowerLag, Leader, NotEnoughReplicas, Objection, Start};
pub use log::ReplicaLog;
pub use node_set::NodeSet;
pub use replica::{
    Replica, ReplicaAction, ReplicaActions, ReplicaEvent, ReplicaOffer, ReplicaStart, WorkId, Write, WriteEffect,
    WriteOutcome,
};
pub use role::{Role, may_stop_clean, role};
pub use rules::{Rule, Rules};
pub use state::{PartitionState, Restored, SteppedDown};
pub use wire::{Ack, AlterIsr, Diverging, Frame, ReplicationSession, ReplicationSessionId};
