//! A storage node of the simulated cluster: a shard over its own disk.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use walser_log::{Condition, Disk as _, LogCopy, LogPin, MemoryDisk, PowerLoss};
use walser_model::{Clock, LeaderEpoch, NodeId, TopicPartition};
use walser_replication::WorkId;
use walser_service::Metrics;

use super::DISK_BYTES;
use crate::disk_threads::DiskThreads;
use crate::replication::{Outgoing, Peers, Push};
use crate::shard::simulation::world::ManualClock;
use crate::shard::watched_disk::as_shard;
use crate::shard::{Command, Shard, ShardContext};
use crate::topic_names::TopicNames;

const ROOT: &str = "/data";

/// What a shard has said and nobody has taken.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<Vec<(TopicPartition, Outgoing)>>);

impl Peers for Said {
    fn tell(&self, partition: TopicPartition, message: Outgoing) {
        self.0.lock().push((partition, message));
    }
}

/// A copy of a leader's log that is being made.
pub(super) struct Copying {
    pub(super) partition: TopicPartition,
    pub(super) leader: NodeId,
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) work: WorkId,
    /// `None`: it has not begun.
    pub(super) log: Option<LogCopy>,
    /// The segments of the leader stay meanwhile.
    pub(super) pin: Option<LogPin>,
}

pub(super) struct Node {
    pub(super) disk: MemoryDisk,
    pub(super) surroundings: ShardContext,
    pub(super) shard: Shard,
    said: Arc<Said>,
    /// Outcomes of jobs that the shard has not been told.
    pub(super) held: Vec<Command>,
    /// What it pushes, and to whom.
    pub(super) pushes: Vec<(TopicPartition, NodeId, Push)>,
    pub(super) copying: Vec<Copying>,
    /// Partitions in which damage was met.
    pub(super) hurt: BTreeSet<TopicPartition>,
    /// Its shard does not know yet of the latest damage.
    pub(super) to_be_hurt: bool,
    /// Some sync of its disk was to fail.
    pub(super) disk_fails: bool,
    /// The disk has failed a copy.
    pub(super) copies_fail: bool,
    pub(super) up: bool,
    /// 0: it has not registered.
    pub(super) epoch: i64,
    /// The revision of the metadata that it was told last, and the one that it has acted on.
    pub(super) told: i64,
    pub(super) seen: i64,
}

impl Node {
    pub(super) fn start(
        id: NodeId,
        disk: MemoryDisk,
        hurt: BTreeSet<TopicPartition>,
        clock: &Arc<ManualClock>,
    ) -> Self {
        disk.set_capacity(DISK_BYTES);
        let said = Arc::new(Said::default());
        let (clock, peers) = (Arc::clone(clock) as Arc<dyn Clock>, Arc::clone(&said) as Arc<dyn Peers>);
        let surroundings = ShardContext {
            retention_check: std::time::Duration::from_secs(1),
            idle: std::time::Duration::from_secs(1),
            recovery_bytes_max: super::SEGMENT_BYTES,
            ..ShardContext::of_test(id, &disk, clock, peers, &Metrics::default())
        };
        let (logs, mut recovered) =
            crate::recovery::recover(&surroundings.directory, surroundings.clock.now_millis(), 1).unwrap();
        recovered.report(&TopicNames::default());
        for log in &logs {
            let sound = *log.condition() == Condition::Healthy || hurt.contains(&log.partition());
            assert!(sound, "durable records are damaged: {:?}", recovered.damaged);
        }
        let shard = Shard::new(surroundings.clone(), DiskThreads::default(), 64 << 10, logs);
        let (held, pushes, copying) = (Vec::new(), Vec::new(), Vec::new());
        let (disk_fails, copies_fail, up) = (false, false, true);
        Self {
            disk,
            surroundings,
            shard,
            said,
            held,
            pushes,
            copying,
            hurt,
            to_be_hurt: false,
            disk_fails,
            copies_fail,
            up,
            epoch: 0,
            told: 0,
            seen: 0,
        }
    }

    pub(super) fn turn(&mut self) {
        let told = self.told;
        as_shard(|| self.shard.turn());
        self.seen = told;
        self.to_be_hurt &= self.damaged().is_empty();
    }

    pub(super) fn run_job(&mut self, number: usize) {
        let ShardContext { clock, metrics, .. } = &self.surroundings;
        self.held.extend(self.shard.disk_threads.run_one(number, &**clock, metrics));
    }

    pub(super) fn take_said(&self) -> Vec<(TopicPartition, Outgoing)> {
        std::mem::take(&mut self.said.0.lock())
    }

    pub(super) fn crash(&mut self, power: Option<PowerLoss>) {
        // A machine whose disk has failed is started anew: what is in its cache and will never be on its disk goes.
        let power = power.or_else(|| self.disk_fails.then_some(PowerLoss::Everything));
        self.disk = match power {
            Some(loss) => self.disk.lose_power(loss),
            None => self.disk.restart_process(),
        };
        self.up = false;
        self.held.clear();
        self.pushes.clear();
        self.copying.clear();
        self.take_said();
    }

    /// Whether a log takes nothing any more until the process begins anew.
    pub(super) fn has_failed(&self) -> bool {
        self.copies_fail || self.surroundings.registry.problems().iter().any(|(_, problem)| !problem.damaged)
    }

    /// Partitions whose damage is not healed.
    pub(super) fn damaged(&self) -> BTreeSet<TopicPartition> {
        let problems = self.surroundings.registry.problems();
        let damaged = problems.into_iter().filter(|(_, problem)| problem.damaged).map(|(id, _)| id);
        damaged.collect()
    }

    /// Rot in the first batch of a log, so that it stays damaged until another one takes its place.
    pub(super) fn flip_bit_of(&self, id: TopicPartition) {
        let dir = self.shard.partitions[&id].log.dir();
        let names = self.disk.list(dir).unwrap_or_default().into_iter().map(|entry| entry.name);
        if let Some(first) = names.filter(|name| name.ends_with(".log")).min() {
            self.disk.flip_bit(&dir.join(first), 70, 3);
        }
    }

    pub(super) fn fill_disk(&mut self, full: bool) {
        let space = self.disk.space(Path::new(ROOT)).unwrap();
        self.disk.set_capacity(if full { space.total - space.free } else { DISK_BYTES });
        let _ = self.surroundings.space.check(&self.surroundings.directory);
    }
}
