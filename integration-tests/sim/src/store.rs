//! The metadata store: keys with revisions, transactions, and the history that watchers read.

use walser_model::{Durability, NodeId};
use walser_replication::PartitionState;
use walser_replication::control::{Comparison, Decision, NodeRecord, PartitionRecord, Write};

use crate::history::{History, NewValue};
use crate::key::{Key, TopicSettings};

pub(crate) fn id(node: usize) -> NodeId {
    NodeId(i32::try_from(node).unwrap_or(i32::MAX))
}

pub(crate) fn number(node: NodeId) -> usize {
    usize::try_from(node.0).unwrap_or(usize::MAX)
}

/// Revisions that a restored store skips.
const REVISIONS_SKIPPED: i64 = 1_000;

/// A partition with its revision.
pub(crate) type Record = PartitionRecord<Key>;

/// Keys of all partitions and nodes.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) revision: i64,
    /// Create revision of the controller key. 0: nobody holds it.
    pub(crate) controller: i64,
    pub(crate) nodes: Vec<(NodeId, NodeRecord)>,
    /// By slot.
    pub(crate) partitions: Vec<Option<Record>>,
    /// The settings of each partition's topic, by slot.
    pub(crate) settings: Vec<TopicSettings>,
    /// All partitions that there ever were.
    created: Vec<Key>,
    pub(crate) history: History,
    /// Revision of the latest restore. 0: there was none.
    pub(crate) restored: i64,
}

/// The values of a store at some moment.
#[derive(Debug, Clone)]
pub(crate) struct StoreCopy {
    nodes: Vec<(NodeId, NodeRecord)>,
    partitions: Vec<Option<Record>>,
    settings: Vec<TopicSettings>,
}

/// What a transaction changed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Changed {
    /// Slots whose partition was written, deleted or created. One bit each.
    pub(crate) slots: u32,
    pub(crate) registered: Option<(NodeId, i64)>,
    /// A node that was fenced, at the revision given, and is not any more.
    pub(crate) unfenced: Option<(NodeId, i64)>,
    pub(crate) nodes: bool,
    /// A move of replicas ended.
    pub(crate) moved: bool,
    /// A leader epoch began.
    pub(crate) elected: bool,
}

impl Store {
    pub(crate) fn new(nodes: usize, partitions: Vec<PartitionState>, durability: Durability) -> Self {
        let mut store = Self {
            revision: 1,
            controller: 0,
            nodes: Vec::new(),
            partitions: vec![None; partitions.len()],
            settings: partitions.iter().map(|state| TopicSettings { durability, min_isr: state.min_isr }).collect(),
            created: Vec::new(),
            history: History::default(),
            restored: 0,
        };
        for number in 0..nodes {
            store.revision += 1;
            let (epoch, live_revision) = (store.revision, store.revision);
            let record = NodeRecord { epoch, live_revision, fenced: false, shutting_down: false, drained: false };
            store.history.push(store.revision, NewValue::Node(id(number), record));
            store.nodes.push((id(number), record));
        }
        for (slot, state) in partitions.into_iter().enumerate() {
            store.revision += 1;
            store.create(Key { slot, generation: 1 }, &state);
        }
        store
    }

    pub(crate) fn node(&self, node: NodeId) -> &NodeRecord {
        &self.nodes[number(node)].1
    }

    /// The partition of a slot.
    pub(crate) fn partition(&self, slot: usize) -> Option<&Record> {
        self.partitions[slot].as_ref()
    }

    /// Somebody else becomes the controller.
    pub(crate) fn elect(&mut self) -> i64 {
        self.revision += 1;
        self.controller = self.revision;
        self.history.push(self.revision, NewValue::Controller);
        self.controller
    }

    /// A topic is to have other settings.
    pub(crate) fn configure(&mut self, slot: usize, settings: TopicSettings) {
        self.revision += 1;
        self.set(slot, settings);
    }

    fn set(&mut self, slot: usize, settings: TopicSettings) {
        self.settings[slot] = settings;
        self.history.push(self.revision, NewValue::Settings(slot, settings));
    }

    fn create(&mut self, key: Key, state: &PartitionState) {
        self.set(key.slot, TopicSettings { min_isr: state.min_isr, ..self.settings[key.slot] });
        self.created.push(key);
        self.partitions[key.slot] = Some(Record { key, state: state.clone(), epoch: self.revision });
        self.history.push(self.revision, NewValue::Partition(key, state.clone()));
    }

    fn holds(&self, compare: &Comparison<Key>) -> bool {
        match compare {
            Comparison::Controller(epoch) => self.controller == *epoch,
            // Beside it the topic's name and id are compared: of two creations one wins, and none comes twice.
            Comparison::Missing(key) => self.partitions[key.slot].is_none() && !self.created.contains(key),
            Comparison::Partition(key, epoch) => {
                self.partition(key.slot).is_some_and(|known| known.key == *key && known.epoch == *epoch)
            }
            Comparison::Registration(node, epoch) => self.node(*node).epoch == *epoch,
            Comparison::Live(node, revision) => self.node(*node).live_revision == *revision,
        }
    }

    /// Carries out a decision whole, or not at all. `Err`: an invariant of the metadata would be broken.
    pub(crate) fn transact(&mut self, decision: &Decision<Key>) -> Result<Option<Changed>, String> {
        if !decision.comparisons.iter().all(|compare| self.holds(compare)) {
            return Ok(None);
        }
        if let Some(problem) = decision.problem() {
            return Err(format!("I8: {problem}: {decision:?}"));
        }
        self.revision += 1;
        let revision = self.revision;
        let mut changed = Changed::default();
        for put in &decision.writes {
            match put {
                Write::Partition(key, state) => self.write(*key, state, &mut changed)?,
                Write::Delete(key) => {
                    if self.partitions[key.slot].take_if(|known| known.key == *key).is_some() {
                        self.history.push(revision, NewValue::Deleted(*key));
                        changed.slots |= 1 << key.slot;
                    }
                }
                Write::Registration(node) => {
                    self.check_swept(*node, "registers")?;
                    let found = &mut self.nodes[number(*node)].1;
                    found.epoch = revision;
                    self.history.push(revision, NewValue::Node(*node, *found));
                    changed.registered = Some((*node, revision));
                    changed.nodes = true;
                }
                Write::Live { node, fenced, shutting_down } => {
                    let before = *self.node(*node);
                    if before.fenced && !fenced {
                        self.check_swept(*node, "comes back")?;
                        changed.unfenced = Some((*node, before.live_revision));
                    }
                    let found = &mut self.nodes[number(*node)].1;
                    (found.live_revision, found.fenced, found.shutting_down) = (revision, *fenced, *shutting_down);
                    self.history.push(revision, NewValue::Node(*node, *found));
                    changed.nodes = true;
                }
            }
        }
        Ok(Some(changed))
    }

    /// Whether no partition counts on a node.
    fn check_swept(&self, node: NodeId, does: &str) -> Result<(), String> {
        let held = |known: &&Record| known.state.isr.contains(node) || known.state.leader == Some(node);
        match self.partitions.iter().flatten().find(held) {
            Some(Record { key, .. }) => Err(format!("I14: node {node} {does} while it counts in partition {key}")),
            None => Ok(()),
        }
    }

    fn write(&mut self, key: Key, state: &PartitionState, changed: &mut Changed) -> Result<(), String> {
        changed.slots |= 1 << key.slot;
        let Some(before) = self.partitions[key.slot].as_mut().filter(|known| known.key == key) else {
            if self.created.contains(&key) {
                return Err(format!("§13: partition {key} is written after it was deleted"));
            }
            let fenced = |node: &NodeId| self.node(*node).epoch == 0 || self.node(*node).fenced;
            if let Some(node) = state.whole().iter().find(fenced) {
                return Err(format!("I14: partition {key} is created with node {node} in sync, which is fenced"));
            }
            self.create(key, state);
            return Ok(());
        };
        if state.leader_epoch < before.state.leader_epoch {
            return Err(format!("I13: leader epoch of partition {key} goes back"));
        }
        let moving = |state: &PartitionState| !state.adding.is_empty() || !state.removing.is_empty();
        changed.moved |= moving(&before.state) && !moving(state);
        changed.elected |= state.leader_epoch > before.state.leader_epoch;
        before.state.clone_from(state);
        before.epoch = self.revision;
        self.history.push(self.revision, NewValue::Partition(key, state.clone()));
        Ok(())
    }

    /// A copy of its values, as a backup has them.
    pub(crate) fn copy(&self) -> StoreCopy {
        StoreCopy { nodes: self.nodes.clone(), partitions: self.partitions.clone(), settings: self.settings.clone() }
    }

    /// Goes back to the values of a copy; revisions go on above all that were handed out. Gives back the partitions that
    /// there were. Nobody is the controller after that.
    pub(crate) fn restore(&mut self, copy: StoreCopy) -> Vec<Option<Record>> {
        self.revision += REVISIONS_SKIPPED;
        self.restored = self.revision;
        self.controller = 0;
        self.nodes = copy.nodes;
        self.settings = copy.settings;
        self.compact();
        std::mem::replace(&mut self.partitions, copy.partitions)
    }

    /// Forgets history; watchers that are behind read everything anew.
    pub(crate) fn compact(&mut self) {
        self.history.compact(self.revision);
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// Takes a newer value of a partition for what was known of its slot.
pub(crate) fn learn(known: &mut Option<Record>, key: Key, state: &PartitionState, epoch: i64) {
    match known {
        Some(known) if known.key == key => {
            known.state.clone_from(state);
            known.epoch = epoch;
        }
        _ => *known = Some(Record { key, state: state.clone(), epoch }),
    }
}
