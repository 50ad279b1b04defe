//! Room for appends that are not done yet: bytes shared by the partitions of a shard, or of a connection.
//!
//! One partition takes at most a quarter of the room, or one batch: whatever a partition waits for, others go on.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use walser_model::TopicPartition;

use crate::storage_client::AppendPermit;

/// Permits count in units of this many bytes, so that a budget of terabytes fits.
const UNIT_BYTES: usize = 1024;
/// One partition takes at most one part of so many.
const PARTS: usize = 4;
/// Partitions that are remembered; those that hold nothing are forgotten beyond.
const IDLE_PARTITIONS_MAX: usize = 1024;

/// Byte permits for appends. Clones share them.
#[derive(Debug, Clone)]
pub struct AppendBudget {
    permits: Arc<Semaphore>,
    total: usize,
    /// The part of each partition that holds some, or has lately: permits and waiting calls keep it alive.
    parts: Arc<Mutex<HashMap<TopicPartition, Arc<Semaphore>>>>,
}

/// `None`: a semaphore that nobody closes was closed.
async fn acquire(permits: Arc<Semaphore>, units: usize) -> Option<OwnedSemaphorePermit> {
    permits.acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX)).await.ok()
}

impl AppendBudget {
    /// Creates a budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let total = (bytes / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(total)), total, parts: Arc::default() }
    }

    /// Waits until there is room for a batch of a partition. One larger than the partition's part takes all of that
    /// part, and one larger than everything takes everything.
    pub async fn admit(&self, partition: TopicPartition, bytes: usize) -> AppendPermit {
        let wanted = bytes.div_ceil(UNIT_BYTES).clamp(1, self.total);
        // The part comes first: who waits for its own partition keeps nothing from others.
        let Some(part) = acquire(self.part(partition), wanted.min(self.part_units())).await else {
            return AppendPermit::uncounted();
        };
        match acquire(Arc::clone(&self.permits), wanted).await {
            Some(permit) => AppendPermit::holding([part, permit]),
            None => AppendPermit::uncounted(),
        }
    }

    /// Bytes that are taken, in whole units.
    pub fn used_bytes(&self) -> usize {
        self.total.saturating_sub(self.permits.available_permits()) * UNIT_BYTES
    }

    /// All of it, in bytes.
    pub fn limit_bytes(&self) -> usize {
        self.total * UNIT_BYTES
    }

    fn part_units(&self) -> usize {
        (self.total / PARTS).max(1)
    }

    fn part(&self, partition: TopicPartition) -> Arc<Semaphore> {
        let mut parts = self.parts.lock();
        if parts.len() >= IDLE_PARTITIONS_MAX && !parts.contains_key(&partition) {
            parts.retain(|_, part| Arc::strong_count(part) > 1);
        }
        let units = self.part_units();
        Arc::clone(parts.entry(partition).or_insert_with(|| Arc::new(Semaphore::new(units))))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use walser_model::{PartitionIndex, TopicId};

    use super::*;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([5; 16]), PartitionIndex(number))
    }

    #[test]
    fn a_partition_whose_writes_are_never_answered_leaves_room_for_others() {
        let room = AppendBudget::new(64 << 10);
        let mut held = Vec::new();
        while let Some(permit) = room.admit(partition(0), 4 << 10).now_or_never() {
            held.push(permit);
        }
        assert_eq!(held.len(), 4, "a quarter of 64 KiB");
        assert_eq!(room.used_bytes(), 16 << 10);
        for _ in 0..100 {
            assert!(room.admit(partition(1), 4 << 10).now_or_never().is_some());
        }
        held.pop();
        assert!(room.admit(partition(0), 4 << 10).now_or_never().is_some());
    }

    #[test]
    fn a_batch_larger_than_the_part_is_admitted_alone() {
        let room = AppendBudget::new(64 << 10);
        let large = room.admit(partition(0), 40 << 10).now_or_never().unwrap();
        assert!(room.admit(partition(0), 1).now_or_never().is_none());
        assert!(room.admit(partition(1), 16 << 10).now_or_never().is_some());
        drop(large);
        assert!(room.admit(partition(2), 1 << 30).now_or_never().is_some(), "larger than everything: alone");
    }

    #[test]
    fn what_is_joined_is_freed_together() {
        let (room, other) = (AppendBudget::new(64 << 10), AppendBudget::new(64 << 10));
        let admit = |room: &AppendBudget, number| room.admit(partition(number), 8 << 10).now_or_never();
        let mut joined = admit(&room, 0).unwrap();
        joined.join(admit(&room, 0).unwrap());
        joined.join(admit(&room, 1).unwrap());
        joined.join(admit(&other, 0).unwrap());
        assert!(admit(&room, 0).is_none(), "its part is taken");
        assert_eq!((room.permits.available_permits(), other.permits.available_permits()), (40, 56));
        drop(joined);
        assert_eq!((room.permits.available_permits(), other.permits.available_permits()), (64, 64));
        assert!(admit(&room, 0).is_some());
    }

    #[test]
    fn partitions_that_hold_nothing_are_forgotten() {
        let room = AppendBudget::new(1 << 30);
        let kept = room.admit(partition(-1), 1).now_or_never();
        for number in 0..10_000 {
            assert!(room.admit(partition(number), 1).now_or_never().is_some());
        }
        assert!(room.parts.lock().len() <= IDLE_PARTITIONS_MAX);
        assert!(kept.is_some() && room.parts.lock().contains_key(&partition(-1)));
    }
}
