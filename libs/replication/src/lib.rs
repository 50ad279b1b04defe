//! The decisions of a replica, as pure state machines: event in, actions out.
//!
//! No clock, no I/O, no randomness. The storage node feeds a [`Leader`] with what its log and its flushes do, and
//! carries out what it says; tests and the simulator do the same with other shells.

mod leader;

pub use leader::{Action, Event, Leader, NotEnoughReplicas, Start};
