//! What a node sees of the metadata, and tells its replicas.

use walser_model::Durability;
use walser_replication::{PartitionState, ReplicaEvent};

use crate::history::{History, NewValue};
use crate::key::Key;
use crate::node::Node;
use crate::store::Record;
use crate::world::World;

impl World {
    /// Sees some more of the metadata.
    pub(crate) fn observe(&mut self, node: usize) -> bool {
        let behind = self.nodes[node].seen < self.store.revision;
        if !self.nodes[node].up || !self.nodes[node].registered || !behind || self.refuses(node) {
            return false;
        }
        let seen = self.nodes[node].seen;
        if seen < self.store.history.compacted {
            self.read_all(node);
        } else {
            let history = std::mem::take(&mut self.store.history);
            let behind = history.after(seen);
            let changes = if self.healing { behind.len() } else { 1 + self.random.below(behind.len()) };
            let changes = History::whole(behind, changes);
            for change in changes {
                // A revision is seen whole, or not at all.
                self.nodes[node].seen = change.revision - 1;
                match &change.value {
                    NewValue::Partition(key, state) => self.learn(node, *key, state, change.revision),
                    NewValue::Deleted(key) => self.forget(node, key.slot),
                    NewValue::Settings(partition, settings) => {
                        self.hear_of_durability(node, *partition, settings.durability)
                    }
                    NewValue::Node(..) | NewValue::Controller => {}
                }
            }
            self.nodes[node].seen = changes.last().map_or(seen, |last| last.revision);
            self.store.history = history;
        }
        let (fresh, epoch) = (self.nodes[node].seen, self.nodes[node].epoch);
        if seen < epoch && fresh >= epoch {
            for slot in 0..self.setup.partitions {
                self.drive(node, slot, ReplicaEvent::Observed { revision: fresh });
            }
        }
        self.say(|| format!("node {node} has seen revision {fresh}"));
        true
    }

    /// Everything that the store has, at once.
    fn read_all(&mut self, node: usize) {
        let all = self.store.partitions.clone();
        self.nodes[node].seen = self.store.revision;
        for (slot, known) in all.into_iter().enumerate() {
            match known {
                Some(Record { key, state, epoch }) => self.learn(node, key, &state, epoch),
                None => self.forget(node, slot),
            }
            let durability = self.store.settings[slot].durability;
            self.hear_of_durability(node, slot, durability);
        }
    }

    /// A topic's setting.
    fn hear_of_durability(&mut self, node: usize, slot: usize, durability: Durability) {
        if std::mem::replace(&mut self.nodes[node].durability[slot], durability) != durability {
            self.drive(node, slot, ReplicaEvent::Configured { durability });
            self.say(|| format!("node {node} hears that partition {slot} is {durability:?}"));
        }
    }

    /// A newer value of a partition. What the node has of another one in that slot is dropped.
    pub(crate) fn learn(&mut self, node: usize, key: Key, state: &PartitionState, epoch: i64) {
        match &mut self.nodes[node].known[key.slot] {
            Some(known) if known.key == key && known.epoch >= epoch => {}
            Some(known) if known.key == key => {
                known.state.clone_from(state);
                known.epoch = epoch;
                let (partition, partition_epoch) = (state.clone(), epoch);
                self.drive(node, key.slot, ReplicaEvent::Installed { partition, partition_epoch });
            }
            _ => self.begin_anew(node, key.slot, Some(Record { key, state: state.clone(), epoch })),
        }
    }

    /// The partition of a slot was deleted: what the node has of it is dropped.
    fn forget(&mut self, node: usize, slot: usize) {
        if self.nodes[node].known[slot].is_some() {
            self.begin_anew(node, slot, None);
        }
    }

    /// Drops what a node has in a slot, and begins with what is there now.
    fn begin_anew(&mut self, node: usize, slot: usize, known: Option<Record>) {
        self.touch(slot);
        self.nodes[node].replicas[slot] = Node::replica_of(self.setup.rules, node, known.as_ref());
        self.nodes[node].known[slot] = known;
        self.tell(node, slot);
    }

    /// Tells a replica that was made, or whose process was registered, everything that its node knows.
    pub(crate) fn tell(&mut self, node: usize, slot: usize) {
        let here = &self.nodes[node];
        let (node_epoch, revision, durability) = (here.epoch, here.seen, here.durability[slot]);
        let known = here.known[slot].as_ref().map(|known| (known.state.clone(), known.epoch));
        self.drive(node, slot, ReplicaEvent::Registered { node_epoch });
        self.drive(node, slot, ReplicaEvent::Configured { durability });
        if let Some((partition, partition_epoch)) = known {
            self.drive(node, slot, ReplicaEvent::Installed { partition, partition_epoch });
        }
        self.drive(node, slot, ReplicaEvent::Observed { revision });
    }
}
