//! Records, and logs of them on their way.

use walser_model::{LeaderEpoch, LeaderEpochs};

/// A record: who wrote it, and under which leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) producer: usize,
    pub(crate) sequence: u32,
}

/// A log as it is copied to another node.
#[derive(Debug, Clone)]
pub(crate) struct Segments {
    pub(crate) start: usize,
    pub(crate) log: Vec<Entry>,
    pub(crate) epochs: LeaderEpochs,
}
