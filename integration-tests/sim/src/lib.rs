//! A simulator of replication: the very state machines of `walser-replication`, in a world that goes wrong.
//!
//! A [`World`] is a few nodes, partitions, two controllers, one metadata store, and a network. Each step it picks one
//! event by weights that are drawn per seed, so that some seeds lose messages all the time and others never ("swarm
//! testing"). After every step the invariants of `check.rs` hold, or the seed has found a bug. Nothing is random but the
//! seed: the same seed gives the same trace.

mod check;
mod controller;
mod decide;
mod deliver;
mod events;
mod group;
mod heal;
mod history;
mod key;
mod life;
mod mutations;
mod network;
mod node;
mod produce;
mod producer;
mod random;
mod records;
mod replica;
#[cfg(test)]
mod scripted;
mod search;
mod sequencer;
mod setup;
mod store;
mod summary;
mod world;

pub use events::Weather;
pub use group::{DriverRule, GROUP_MUTATIONS, GroupMutation, GroupSetup, GroupTally, run_groups, search_groups};
pub use mutations::{MUTATIONS, Mutation};
pub use sequencer::{
    SEQUENCER_MUTATIONS, SequencerMutation, Setup as SequencerSetup, Tally, Traffic, run_sequencer, search_sequencer,
};
pub use setup::{Counts, Setup};
pub use summary::{Outcome, Summary, Violation, run, search, shortest};
pub use world::World;
