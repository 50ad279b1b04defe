//! A storage node: its process, its disk, and its metadata.

use std::time::Duration;

use walser_model::Durability;

use crate::replica::Replica;
use crate::store::{Key, Record, Store};

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
    /// It stopped without flushing what it had acknowledged, and no registration has recorded that.
    ///
    /// One bit for each partition.
    pub(crate) unclean: u32,
    /// Partitions whose replica is gone, until a registration has recorded it. One bit each.
    pub(crate) gone: u32,
    pub(crate) disk_hangs: bool,
    /// What it has heard of the topics.
    pub(crate) durability: Vec<Durability>,
    pub(crate) now: Duration,
}

impl Node {
    pub(crate) fn new(store: &Store, number: usize) -> Self {
        Self {
            up: true,
            process: 1,
            registered: true,
            epoch: store.node(crate::store::id(number)).epoch,
            seen: store.revision,
            known: store.partitions.clone(),
            replicas: store.partitions.iter().map(|known| Replica::of(known.as_ref())).collect(),
            unclean: 0,
            durability: store.settings.iter().map(|settings| settings.durability).collect(),
            gone: 0,
            disk_hangs: false,
            now: Duration::ZERO,
        }
    }

    /// The partition of which it has a replica in a slot.
    pub(crate) fn key(&self, slot: usize) -> Key {
        Key { slot, generation: self.replicas[slot].generation }
    }

    /// Those of some slots, one bit each.
    pub(crate) fn keys(&self, slots: u32) -> Vec<Key> {
        (0..self.replicas.len()).filter(|slot| slots >> slot & 1 == 1).map(|slot| self.key(slot)).collect()
    }

    /// Drops what it has in a slot, and begins with what is there now.
    pub(crate) fn begin_anew(&mut self, slot: usize, known: Option<Record>) {
        self.replicas[slot] = Replica::of(known.as_ref());
        self.known[slot] = known;
        self.unclean &= !(1 << slot);
        self.gone &= !(1 << slot);
    }
}
