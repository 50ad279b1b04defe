//! Why a data directory cannot be used at present.

use std::sync::Arc;

use parking_lot::RwLock;

/// What the last look at a directory has found. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct DirectoryProblem(Arc<RwLock<Option<String>>>);

impl DirectoryProblem {
    /// What is wrong; `None`: nothing.
    pub(crate) fn get(&self) -> Option<String> {
        self.0.read().clone()
    }

    /// Notes what a look has found.
    pub(crate) fn set(&self, problem: Option<String>) {
        *self.0.write() = problem;
    }
}
