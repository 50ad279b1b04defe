//! The metadata store: keys with revisions, transactions, and the history that watchers read.

use walser_model::{Durability, NodeId};
use walser_replication::PartitionState;
use walser_replication::control::{Comparison, Decision, NodeRecord, PartitionRecord, Write};

use crate::history::{History, NewValue};

pub(crate) fn id(node: usize) -> NodeId {
    NodeId(i32::try_from(node).unwrap_or(i32::MAX))
}

pub(crate) fn number(node: NodeId) -> usize {
    usize::try_from(node.0).unwrap_or(usize::MAX)
}

/// What a topic wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicSettings {
    pub(crate) durability: Durability,
    pub(crate) min_isr: usize,
}

/// Keys of all partitions and nodes.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) revision: i64,
    /// Create revision of the controller key. 0: nobody holds it.
    pub(crate) controller: i64,
    pub(crate) nodes: Vec<(NodeId, NodeRecord)>,
    pub(crate) partitions: Vec<PartitionRecord<usize>>,
    /// The settings of each partition's topic.
    pub(crate) settings: Vec<TopicSettings>,
    pub(crate) history: History,
}

/// What a transaction changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changed {
    pub(crate) partitions: Vec<usize>,
    pub(crate) registered: Option<(NodeId, i64)>,
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
            partitions: Vec::new(),
            settings: partitions.iter().map(|state| TopicSettings { durability, min_isr: state.min_isr }).collect(),
            history: History::default(),
        };
        for number in 0..nodes {
            store.revision += 1;
            let (epoch, live_revision) = (store.revision, store.revision);
            let id = NodeId(i32::try_from(number).unwrap_or(0));
            let record = NodeRecord { epoch, live_revision, fenced: false, shutting_down: false };
            store.history.push(store.revision, NewValue::Node(id, record));
            store.nodes.push((id, record));
        }
        for (key, state) in partitions.into_iter().enumerate() {
            store.revision += 1;
            store.history.push(store.revision, NewValue::Partition(key, state.clone()));
            store.partitions.push(PartitionRecord { key, state, epoch: store.revision });
        }
        store
    }

    pub(crate) fn node(&self, node: NodeId) -> &NodeRecord {
        &self.nodes[usize::try_from(node.0).unwrap_or(0)].1
    }

    /// Somebody else becomes the controller.
    pub(crate) fn elect(&mut self) -> i64 {
        self.revision += 1;
        self.controller = self.revision;
        self.history.push(self.revision, NewValue::Controller);
        self.controller
    }

    fn holds(&self, compare: &Comparison<usize>) -> bool {
        match compare {
            Comparison::Controller(epoch) => self.controller == *epoch,
            Comparison::Missing(_) => false,
            Comparison::Partition(key, epoch) => self.partitions[*key].epoch == *epoch,
            Comparison::Registration(node, epoch) => self.node(*node).epoch == *epoch,
            Comparison::Live(node, revision) => self.node(*node).live_revision == *revision,
        }
    }

    /// A topic is to have other settings.
    pub(crate) fn configure(&mut self, partition: usize, settings: TopicSettings) {
        self.settings[partition] = settings;
        self.revision += 1;
        self.history.push(self.revision, NewValue::Settings(partition, settings));
    }

    /// Carries out a decision whole, or not at all. `Err`: an invariant of the metadata would be broken.
    pub(crate) fn transact(&mut self, decision: &Decision<usize>) -> Result<Option<Changed>, String> {
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
                Write::Partition(key, state) => {
                    let before = &mut self.partitions[*key];
                    if state.leader_epoch < before.state.leader_epoch {
                        return Err(format!("I13: leader epoch of partition {key} goes back"));
                    }
                    let moving = |state: &PartitionState| !state.adding.is_empty() || !state.removing.is_empty();
                    changed.moved |= moving(&before.state) && !moving(state);
                    changed.elected |= state.leader_epoch > before.state.leader_epoch;
                    before.state.clone_from(state);
                    before.epoch = revision;
                    self.history.push(revision, NewValue::Partition(*key, state.clone()));
                    changed.partitions.push(*key);
                }
                Write::Delete(_) => {}
                Write::Registration(node) => {
                    let held = |known: &&PartitionRecord<usize>| {
                        known.state.isr.contains(*node) || known.state.leader == Some(*node)
                    };
                    if let Some(known) = self.partitions.iter().find(held) {
                        return Err(format!("I14: node {node} registers while it counts in partition {}", known.key));
                    }
                    let found = &mut self.nodes[number(*node)].1;
                    found.epoch = revision;
                    self.history.push(revision, NewValue::Node(*node, *found));
                    changed.registered = Some((*node, revision));
                    changed.nodes = true;
                }
                Write::Live { node, fenced, shutting_down } => {
                    let found = &mut self.nodes[number(*node)].1;
                    (found.live_revision, found.fenced, found.shutting_down) = (revision, *fenced, *shutting_down);
                    self.history.push(revision, NewValue::Node(*node, *found));
                    changed.nodes = true;
                }
            }
        }
        Ok(Some(changed))
    }

    /// Forgets history; watchers that are behind read everything anew.
    pub(crate) fn compact(&mut self) {
        self.history.compact(self.revision);
    }
}
