//! How many bytes a leader may have sent that its follower has not taken in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// What a follower has taken in of one connection, in bytes since that began.
#[derive(Debug, Default)]
pub(crate) struct Window {
    returned: AtomicU64,
    changed: Notify,
}

/// Bytes that are on their way into a log. They are returned when this is dropped: they are in the log then, or nobody
/// wants them.
#[derive(Debug)]
pub(crate) struct WindowPermit {
    window: Arc<Window>,
    bytes: u64,
}

impl Window {
    /// Takes bytes that have come in.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> WindowPermit {
        WindowPermit { window: Arc::clone(self), bytes: bytes as u64 }
    }

    /// Bytes that were returned since the connection began.
    pub(crate) fn returned(&self) -> u64 {
        self.returned.load(Ordering::Acquire)
    }

    /// Waits until bytes have been returned since this was called last.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for WindowPermit {
    fn drop(&mut self) {
        self.window.returned.fetch_add(self.bytes, Ordering::AcqRel);
        self.window.changed.notify_one();
    }
}
