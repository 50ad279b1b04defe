//! A storage node: its process, its disk, and its metadata.

use std::time::Duration;

use walser_model::Durability;
use walser_replication::Rules;
use walser_replication::control::ReplicaIntegrity;

use crate::key::Key;
use crate::replica::Replica;
use crate::store::{Record, Store, id};

/// A node.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) up: bool,
    /// Counts its processes: a registration of an earlier one is not taken for this one's.
    pub(crate) process: u32,
    pub(crate) registered: bool,
    pub(crate) epoch: i64,
    /// Revision of the metadata it has seen.
    pub(crate) seen: i64,
    /// By slot.
    pub(crate) known: Vec<Option<Record>>,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) disk_hangs: bool,
    /// What it has heard of the topics.
    pub(crate) durability: Vec<Durability>,
    pub(crate) now: Duration,
}

impl Node {
    pub(crate) fn new(store: &Store, number: usize, rules: Rules) -> Self {
        Self {
            up: true,
            process: 1,
            registered: true,
            epoch: store.node(id(number)).epoch,
            seen: store.revision,
            known: store.partitions.clone(),
            replicas: store.partitions.iter().map(|known| Self::replica_of(rules, number, known.as_ref())).collect(),
            durability: store.settings.iter().map(|settings| settings.durability).collect(),
            disk_hangs: false,
            now: Duration::ZERO,
        }
    }

    /// The partition of which it has a replica in a slot.
    pub(crate) fn key(&self, slot: usize) -> Key {
        Key { slot, generation: self.replicas[slot].generation }
    }

    /// Partitions of which it has a replica in this condition.
    pub(crate) fn keys(&self, integrity: ReplicaIntegrity) -> Vec<Key> {
        let of = |slot: &usize| self.replicas[*slot].machine.integrity() == integrity;
        (0..self.replicas.len()).filter(of).map(|slot| self.key(slot)).collect()
    }

    /// Nothing yet, of a partition.
    pub(crate) fn replica_of(rules: Rules, number: usize, known: Option<&Record>) -> Replica {
        Replica::new(rules, id(number), known.map_or(0, |known| known.key.generation))
    }
}
