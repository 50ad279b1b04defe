//! A controller process: what it read some time ago.

use walser_replication::Rules;
use walser_replication::control::{DecisionContext, PartitionRecord};

use crate::decide::Decider;
use crate::store::Store;

/// A controller process.
#[derive(Debug, Clone)]
pub(crate) struct Controller {
    pub(crate) view: DecisionContext,
    pub(crate) partitions: Vec<PartitionRecord<usize>>,
    /// It does not know what became of its last transaction: it reads before it decides again (amendment A7).
    pub(crate) in_doubt: bool,
    pub(crate) decider: Decider,
}

impl Controller {
    pub(crate) fn new(store: &Store, rules: Rules) -> Self {
        let view = DecisionContext::default();
        let mut controller = Self { view, partitions: Vec::new(), in_doubt: false, decider: Decider { rules } };
        controller.reload(store);
        controller
    }

    /// Reads everything at one revision.
    pub(crate) fn reload(&mut self, store: &Store) {
        self.view.revision = store.revision;
        self.view.nodes.clear();
        self.view.nodes.extend(store.nodes.iter().copied());
        self.partitions.clone_from(&store.partitions);
        self.in_doubt = false;
    }
}
