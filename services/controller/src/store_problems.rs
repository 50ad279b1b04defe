//! What is wrong with parts of the metadata store, though it may answer: looked at now and then, for people.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_metastore::Metastore;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(10);

/// What was found last. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreProblems(Arc<Mutex<Vec<String>>>);

impl StoreProblems {
    pub(crate) fn load(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    /// Looks for as long as the process runs, and says in the log what is new.
    pub(crate) async fn watch(self, store: Arc<dyn Metastore>) {
        loop {
            let found = store.problems().await;
            let before = std::mem::replace(&mut *self.0.lock(), found.clone());
            for problem in found.iter().filter(|problem| !before.contains(problem)) {
                tracing::warn!(problem, "look at the metadata store");
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
