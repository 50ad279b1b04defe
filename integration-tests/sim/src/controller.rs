//! A controller process: what it read some time ago, and what it is about to write.

use std::collections::VecDeque;

use walser_replication::Rules;
use walser_replication::control::{Decision, DecisionContext, PartitionRecord};

use crate::decide::Decider;
use crate::store::{Store, TopicSettings};

/// A controller process.
#[derive(Debug, Clone)]
pub(crate) struct Controller {
    pub(crate) view: DecisionContext,
    pub(crate) partitions: Vec<PartitionRecord<usize>>,
    pub(crate) settings: Vec<TopicSettings>,
    /// It does not know what became of its last transaction: it reads before it decides again (amendment A7).
    pub(crate) in_doubt: bool,
    /// Transactions of one set of decisions that are not written yet. No other set is decided before they are.
    pub(crate) outbox: VecDeque<Decision<usize>>,
    pub(crate) decider: Decider,
}

impl Controller {
    pub(crate) fn new(store: &Store, rules: Rules) -> Self {
        let mut controller = Self {
            view: DecisionContext::default(),
            partitions: Vec::new(),
            settings: Vec::new(),
            in_doubt: false,
            outbox: VecDeque::new(),
            decider: Decider { rules },
        };
        controller.reload(store);
        controller
    }

    /// Reads everything at one revision.
    pub(crate) fn reload(&mut self, store: &Store) {
        self.view.revision = store.revision;
        self.view.nodes.clear();
        self.view.nodes.extend(store.nodes.iter().copied());
        self.partitions.clone_from(&store.partitions);
        self.settings.clone_from(&store.settings);
        self.in_doubt = false;
    }

    /// What the partitions need, each for itself.
    pub(crate) fn due(&self) -> Vec<Decision<usize>> {
        let due = |(known, settings): (&PartitionRecord<usize>, &TopicSettings)| {
            self.decider.reconcile(&self.view, known, settings.min_isr)
        };
        self.partitions.iter().zip(&self.settings).filter_map(due).collect()
    }

    /// The process ends, and another one takes its place, which knows nothing and holds no lease.
    pub(crate) fn crash(&mut self) {
        self.outbox.clear();
        self.view.controller_epoch = 0;
        self.in_doubt = true;
    }
}
