//! Whether this gateway can do anything for clients: it has met a controller, and some storage node answers.
//!
//! A controller that goes away later does not count: records flow without it. A single storage node that is away does not
//! count either: clients of the others would lose their gateway for it.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use walser_rpc::{Network, StorageClient};
use walser_service::Shutdown;
use walser_service::admin::Health;

use crate::metadata::Metadata;

/// Time between two looks.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long one storage node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Storage nodes that are asked at the same time.
const CALLS_MAX: usize = 32;

/// What a gateway's readiness depends on.
#[derive(Debug, Clone)]
pub struct Readiness {
    pub(crate) metadata: Metadata,
    pub(crate) network: Network,
}

// === impl Readiness ===

impl Readiness {
    /// Tells `health` what keeps this gateway from being ready, until the stop.
    pub(crate) async fn report(self, health: Health, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !shutdown.begun() {
            health.set_problems(self.problem().await.into_iter().collect());
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.wait() => {}
            }
        }
    }

    /// What keeps this gateway from being ready now.
    pub async fn problem(&self) -> Option<String> {
        if !self.metadata.known() {
            return Some("no controller has answered yet".to_owned());
        }
        if let Some(refused) = self.metadata.refused() {
            return Some(format!("{}: {refused}", refused.reason_name()));
        }
        let nodes = self.network.storage_nodes();
        if nodes.is_empty() {
            return Some("no storage node is known".to_owned());
        }
        let count = nodes.len();
        let known = nodes.into_iter().filter_map(|node| self.network.storage_client(node));
        let calls: Vec<_> = known.map(answers).collect();
        let mut answered = stream::iter(calls).buffer_unordered(CALLS_MAX);
        while let Some(answers) = answered.next().await {
            if answers {
                return None;
            }
        }
        Some(format!("none of the {count} storage nodes that are known answers"))
    }
}

/// Whether a storage node answers.
async fn answers(storage: Arc<dyn StorageClient>) -> bool {
    matches!(tokio::time::timeout(ANSWER_TIMEOUT, storage.describe(&[])).await, Ok(Ok(_)))
}
