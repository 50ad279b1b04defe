//! A controller process: what it read some time ago.

use walser_replication::Rules;
use walser_replication::control::{Known, View};

use crate::store::Store;

/// A controller process.
#[derive(Debug, Clone)]
pub(crate) struct Controller {
    pub(crate) view: View,
    pub(crate) partitions: Vec<Known<usize>>,
    /// It does not know what became of its last transaction: it reads before it decides again (amendment A7).
    pub(crate) in_doubt: bool,
}

impl Controller {
    pub(crate) fn new(store: &Store, rules: Rules) -> Self {
        let view = View { rules, ..View::default() };
        let mut controller = Self { view, partitions: Vec::new(), in_doubt: false };
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
