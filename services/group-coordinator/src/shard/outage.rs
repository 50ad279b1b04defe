//! A shard that cannot be served, because its log cannot be read or written: the log of the process says so once when that
//! begins, and once when it is over.
//!
//! A log that can be read, and takes nothing, is loaded again and again: that is one outage.

use std::time::Duration;

use tokio::time::Instant;
use walser_rpc::ApiError;

/// A leader that is not there for so long is nothing to tell: the storage node may be starting, too. A shard that is served
/// for so long is served again, also where nothing is written.
pub(super) const QUIET: Duration = Duration::from_secs(5);

/// The outages of one shard, one after the other.
#[derive(Debug)]
pub(super) struct ShardOutage {
    shard: i32,
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    attempts: u64,
    told: bool,
}

// === impl ShardOutage ===

impl ShardOutage {
    pub(super) fn new(shard: i32) -> Self {
        Self { shard, failing: None }
    }

    /// The shard was not served, or is not any more.
    pub(super) fn failed(&mut self, error: &ApiError, served: bool) {
        let shard = self.shard;
        if self.note(served) {
            tracing::warn!(shard, %error, "the log of a shard of groups cannot be read or written; trying on");
        } else {
            tracing::debug!(shard, %error, "the log of a shard of groups cannot be read or written");
        }
    }

    /// The shard is served again.
    pub(super) fn ended(&mut self) {
        if let Some(Failing { since, attempts, told: true }) = self.failing.take() {
            let (shard, seconds) = (self.shard, since.elapsed().as_secs());
            tracing::info!(shard, attempts, seconds, "a shard of groups is served again");
        }
    }

    /// The shard is another coordinator's.
    pub(super) fn forget(&mut self) {
        self.failing = None;
    }

    /// Whether nothing has shown yet that the last outage is over.
    pub(super) fn lasts(&self) -> bool {
        self.failing.is_some()
    }

    /// Counts a failure. Returns whether it is to be told.
    fn note(&mut self, served: bool) -> bool {
        let new = || Failing { since: Instant::now(), attempts: 0, told: false };
        let failing = self.failing.get_or_insert_with(new);
        failing.attempts += 1;
        let due = served || failing.since.elapsed() >= QUIET;
        due && !std::mem::replace(&mut failing.told, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_told_once_however_often_the_log_is_read_meanwhile() {
        let mut outage = ShardOutage::new(3);
        assert!(!outage.note(false) && !outage.note(false), "the storage node may be starting");
        tokio::time::advance(QUIET).await;
        let told: Vec<bool> = [false, false, true, true].map(|served| outage.note(served)).into();
        assert_eq!(told, [true, false, false, false]);
        outage.ended();
        assert!(!outage.lasts());
        assert!(outage.note(true) && !outage.note(true), "another one");
    }
}
