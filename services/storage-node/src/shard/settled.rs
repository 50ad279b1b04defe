//! The answer to who asks that everything before has been carried out.

use std::sync::Arc;

use tokio::sync::oneshot;

/// Tells whoever waits, when the last clone is dropped, that everything before it has been carried out.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    _told: Arc<ToldAtDrop>,
}

#[derive(Debug)]
struct ToldAtDrop(Option<oneshot::Sender<()>>);

impl Settled {
    pub(super) fn new(done: oneshot::Sender<()>) -> Self {
        Self { _told: Arc::new(ToldAtDrop(Some(done))) }
    }
}

impl Drop for ToldAtDrop {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            let _ = done.send(());
        }
    }
}
