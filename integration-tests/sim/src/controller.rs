//! A controller process: what it read some time ago, and what it is about to write.

use std::collections::VecDeque;

use walser_replication::control::{ControllerStart, Decision, DecisionContext};
use walser_replication::{Rule, Rules};

use crate::decide::Decider;
use crate::history::{History, NewValue};
use crate::key::{Key, TopicSettings};
use crate::store::{Record, Store, learn};

/// A controller process.
#[derive(Debug, Clone)]
pub(crate) struct Controller {
    pub(crate) view: DecisionContext,
    /// By slot.
    pub(crate) partitions: Vec<Option<Record>>,
    pub(crate) settings: Vec<TopicSettings>,
    /// The revision of all that it has seen of the store's history.
    pub(crate) seen: i64,
    /// It does not know what became of its last transaction: it reads before it decides again (amendment A7).
    pub(crate) in_doubt: bool,
    /// Transactions of one set of decisions that are not written yet. No other set is decided before they are.
    pub(crate) outbox: VecDeque<Decision<Key>>,
    pub(crate) decider: Decider,
}

impl Controller {
    pub(crate) fn new(store: &Store, rules: Rules) -> Self {
        let mut controller = Self {
            view: DecisionContext::default(),
            partitions: Vec::new(),
            settings: Vec::new(),
            seen: 0,
            in_doubt: false,
            outbox: VecDeque::new(),
            decider: Decider { rules },
        };
        controller.reload(store);
        controller
    }

    /// Reads everything at one revision.
    pub(crate) fn reload(&mut self, store: &Store) {
        (self.seen, self.view.revision) = (store.revision, store.revision);
        self.view.nodes.clear();
        self.view.nodes.extend(store.nodes.iter().copied());
        self.partitions.clone_from(&store.partitions);
        self.settings.clone_from(&store.settings);
        self.in_doubt = false;
    }

    /// Sees some more of the store's history, about so many changes: always whole revisions, so that what it has seen of
    /// nodes, partitions and settings is of one. Where the history is compacted it reads everything.
    pub(crate) fn follow(&mut self, store: &Store, changes: usize) {
        if self.seen < store.history.compacted {
            return self.reload(store);
        }
        for change in History::whole(store.history.after(self.seen), changes) {
            self.seen = change.revision;
            match &change.value {
                NewValue::Partition(key, state) => learn(&mut self.partitions[key.slot], *key, state, change.revision),
                NewValue::Deleted(key) => self.partitions[key.slot] = None,
                NewValue::Node(node, record) => drop(self.view.nodes.insert(*node, *record)),
                NewValue::Settings(partition, settings) => self.settings[*partition] = *settings,
                NewValue::Controller => {}
            }
        }
        self.view.revision = self.seen;
    }

    /// Sees everything that the store has.
    pub(crate) fn catch_up(&mut self, store: &Store) {
        self.follow(store, usize::MAX);
        self.in_doubt = false;
    }

    /// A controller that reads nodes and partitions each for itself has newer nodes.
    pub(crate) fn see_nodes(&mut self, store: &Store) {
        if !self.decider.rules.hold(Rule::OneRevision) {
            self.view.revision = store.revision;
            self.view.nodes.extend(store.nodes.iter().copied());
        }
    }

    /// What the partitions need, each for itself.
    pub(crate) fn due(&self) -> Vec<Decision<Key>> {
        let due = |(known, settings): (&Option<Record>, &TopicSettings)| {
            self.decider.reconcile(&self.view, known.as_ref()?, settings.min_isr)
        };
        self.partitions.iter().zip(&self.settings).filter_map(due).collect()
    }

    /// The process ends, and another one takes its place, which reads everything, holds no lease, and skips so many leader
    /// epochs.
    pub(crate) fn crash(&mut self, store: &Store, skipped: i32) {
        self.outbox.clear();
        self.view.controller_epoch = 0;
        self.reload(store);
        if self.decider.rules.hold(Rule::EpochsOfOneStart) {
            self.view.start = ControllerStart { number: store.revision, epochs_skipped: skipped };
        }
    }
}
