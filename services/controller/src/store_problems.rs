//! What is wrong with parts of the metadata store, though it may answer: looked at now and then, for people.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_metastore::{Metastore, StoreProblem};
use walser_service::Metrics;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(10);

/// What was found last. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreProblems(Arc<Mutex<Vec<StoreProblem>>>);

impl StoreProblems {
    /// Why the store takes no writes, if it says so.
    pub(crate) fn takes_no_writes(&self) -> Option<String> {
        self.0.lock().iter().find_map(|problem| match problem {
            StoreProblem::TakesNoWrites(why) => Some(why.clone()),
            StoreProblem::Part(_) => None,
        })
    }

    /// What is wrong with parts of it.
    pub(crate) fn of_parts(&self) -> Vec<String> {
        let of_part = |problem: &StoreProblem| match problem {
            StoreProblem::Part(text) => Some(text.clone()),
            StoreProblem::TakesNoWrites(_) => None,
        };
        self.0.lock().iter().filter_map(of_part).collect()
    }

    /// Shows how many there are.
    pub(crate) fn show(&self, metrics: &Metrics) {
        let problems = self.clone();
        let help = "Problems of the metadata store and of its members, as this controller sees them.";
        metrics.gauge_of("walser_controller_store_problems", help, move || problems.0.lock().len());
    }

    /// Looks for as long as the process runs, and says in the log what is new.
    pub(crate) async fn watch(self, store: Arc<dyn Metastore>) {
        loop {
            let found = store.problems().await;
            let before = std::mem::replace(&mut *self.0.lock(), found.clone());
            for problem in found.iter().filter(|problem| !before.contains(problem)) {
                let (StoreProblem::TakesNoWrites(problem) | StoreProblem::Part(problem)) = problem;
                tracing::warn!(problem, "look at the metadata store");
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
