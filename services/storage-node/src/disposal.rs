//! Data that this node is not to hold any more: removed for a tombstone, set aside when metadata does not know it.
//!
//! Invariant: nothing is removed because metadata does not mention it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use walser_model::{TopicId, TopicPartition};
use walser_service::vital;

use crate::node::Membership;
use crate::shard::Command;
use crate::view::View;

/// Wait before a step is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Partitions that the log names one by one.
const NAMED_MAX: usize = 20;

type Done = oneshot::Sender<std::io::Result<()>>;

impl Membership {
    /// Partitions of which there is anything on this node, set aside or not.
    fn held(&self) -> BTreeSet<TopicPartition> {
        let open = self.board.all().into_iter().map(|(partition, _)| partition);
        let found = self.directory.partitions().unwrap_or_default().into_iter().map(|found| found.partition);
        open.chain(found).collect()
    }

    /// Removes the data of a deleted topic; the controller is told with the next beat.
    pub(crate) fn remove_topic(&self, topic: TopicId) {
        let mut partitions = self.held();
        partitions.extend(self.directory.set_aside_partitions().into_iter().map(|aside| aside.partition));
        partitions.retain(|partition| partition.topic == topic);
        let removed = Arc::clone(&self.removed);
        let membership = self.clone();
        tokio::spawn(vital::must_not_panic("removal of a topic", async move {
            let partitions: Vec<_> = partitions.into_iter().collect();
            membership.carry_out(&partitions, |partition, done| Command::Remove { partition, done }).await;
            removed.lock().insert(topic);
        }));
    }

    /// Sets aside what the metadata does not account for.
    pub(crate) fn set_aside_unknown(&self, view: &View) {
        let unknown: Vec<_> = self.held().into_iter().filter(|partition| !view.accounts_for(*partition)).collect();
        if unknown.is_empty() {
            return;
        }
        for partition in unknown.iter().take(NAMED_MAX) {
            tracing::warn!(%partition, "the metadata does not know this partition: it is set aside");
        }
        tracing::warn!(count = unknown.len(), "partitions are set aside: walser partition set-aside list");
        let membership = self.clone();
        tokio::spawn(vital::must_not_panic("setting aside of partitions", async move {
            membership.carry_out(&unknown, |partition, done| Command::SetAside { partition, done }).await;
        }));
    }

    /// Has the shards carry out a command for each partition, until each has succeeded.
    async fn carry_out(&self, partitions: &[TopicPartition], command: impl Fn(TopicPartition, Done) -> Command) {
        let send = |partition: TopicPartition| {
            let (done, outcome) = oneshot::channel();
            self.shards.queue(partition).push(command(partition, done));
            outcome
        };
        let waiting: Vec<_> = partitions.iter().map(|partition| (*partition, send(*partition))).collect();
        for (partition, mut outcome) in waiting {
            loop {
                match outcome.await {
                    Ok(Ok(())) => break,
                    // The shard has stopped, and the process with it.
                    Err(_stopped) => return,
                    Ok(Err(error)) => tracing::warn!(%partition, %error, "a partition could not be moved or removed"),
                }
                tokio::time::sleep(RETRY).await;
                outcome = send(partition);
            }
        }
    }
}
