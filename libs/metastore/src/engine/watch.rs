//! A watch over the engine's history.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch::Receiver;

use super::State;
use crate::{Revision, Watch, WatchError, WatchEvent};

/// A running watch.
#[derive(Debug)]
pub(crate) struct EngineWatch {
    state: Arc<Mutex<State>>,
    news: Receiver<()>,
    prefix: String,
    /// Every change up to this revision has been returned, or is outside the prefix.
    after: Revision,
}

// === impl EngineWatch ===

impl EngineWatch {
    pub(super) fn new(state: Arc<Mutex<State>>, news: Receiver<()>, prefix: String, after: Revision) -> Self {
        Self { state, news, prefix, after }
    }

    /// The next event, when there is one already.
    fn ready(&mut self) -> Option<Result<WatchEvent, WatchError>> {
        let state = self.state.lock();
        if self.after < state.kept_from {
            return Some(Err(WatchError::Compacted { kept_from: state.kept_from }));
        }
        let first = state.history.partition_point(|(revision, _)| *revision <= self.after);
        for (revision, changes) in state.history.range(first..) {
            let changes = changes.iter().map(|recorded| &recorded.change);
            let changes: Vec<_> = changes.filter(|change| change.key().starts_with(&self.prefix)).cloned().collect();
            if !changes.is_empty() {
                self.after = *revision;
                return Some(Ok(WatchEvent::Changes { revision: *revision, changes }));
            }
        }
        if self.after < state.revision {
            self.after = state.revision;
            return Some(Ok(WatchEvent::Progress { revision: state.revision }));
        }
        None
    }
}

#[async_trait]
impl Watch for EngineWatch {
    async fn next(&mut self) -> Result<WatchEvent, WatchError> {
        loop {
            // What comes after this look wakes the wait below.
            self.news.borrow_and_update();
            if let Some(event) = self.ready() {
                return event;
            }
            let closed = |_| WatchError::Unavailable("the store was closed".to_owned());
            self.news.changed().await.map_err(closed)?;
        }
    }
}
