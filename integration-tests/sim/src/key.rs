//! What the metadata store has keys of, and what it says of topics.

use walser_model::Durability;

/// What a topic wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicSettings {
    pub(crate) durability: Durability,
    pub(crate) min_isr: usize,
}

/// The key of a partition. A partition is in one of a few slots, in which others were before it and come after it: they
/// differ by their generation, which stands for the id of a topic and is never 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) slot: usize,
    pub(crate) generation: u32,
}
