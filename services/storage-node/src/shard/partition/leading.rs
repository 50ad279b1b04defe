//! Leading a partition: the shell around [`Leader`].

use std::sync::Arc;
use std::time::Duration;

use walser_log::LogConfig;
use walser_metadata::TopicSettings;
use walser_model::{Durability, TopicPartition};
use walser_proto::v1 as pb;
use walser_replication::{Action, Event, Leader, PartitionState, Rules, Start};
use walser_rpc::{Failure, Reason};

use super::{KeptLog, Partition, Released};
use crate::metrics::StorageMetrics;
use crate::shard::Surroundings;

/// A replica that does not catch up for this long leaves the in-sync set.
const REPLICA_LAG_MAX: Duration = Duration::from_secs(4);

/// The controller's word that this node leads a partition.
#[derive(Debug, Clone)]
pub(crate) struct LeadOrder {
    pub(crate) partition: TopicPartition,
    /// This node's incarnation.
    pub(crate) node_epoch: i64,
    pub(crate) state: PartitionState,
    pub(crate) partition_epoch: i64,
    pub(crate) settings: Arc<TopicSettings>,
}

impl Partition {
    /// Takes an order of the controller.
    pub(crate) fn lead(&mut self, order: LeadOrder, around: &Surroundings) {
        let TopicSettings { config, unreadable } = TopicSettings::clone(&order.settings);
        self.log.configure(LogConfig::from(&config));
        let durability = config.durability;
        self.config = config;
        self.unreadable = unreadable;
        let LeadOrder { node_epoch, state, partition_epoch, .. } = order;
        let epoch = state.leader_epoch;
        if self.epoch() == epoch {
            self.step(Event::Configured { durability });
            self.step(Event::Installed { partition: state, partition_epoch });
            return;
        }
        self.begin_to_lead(around, (node_epoch, state, partition_epoch), durability);
        self.replica.show(self.log.condition());
        if self.leader.is_some() {
            self.replica.lead(epoch);
        }
    }

    /// Whether this node leads, with the topic's settings.
    pub(crate) fn leads(&self) -> bool {
        self.leader.is_some()
    }

    pub(super) fn begin_to_lead(
        &mut self,
        around: &Surroundings,
        (node_epoch, partition, partition_epoch): (i64, PartitionState, i64),
        durability: Durability,
    ) {
        let start = Start {
            node: around.node,
            node_epoch,
            partition,
            partition_epoch,
            durability,
            high_watermark: self.replica.high_watermark(),
            high_watermark_epoch: self.replica.epoch(),
            now: around.clock.monotonic(),
            lag_max: REPLICA_LAG_MAX,
            rules: Rules::ALL,
        };
        match Leader::start(start, &KeptLog(&self.log)) {
            Ok(leader) => {
                self.log.begin_epoch(leader.epoch(), leader.partition().replicas.len() > 1);
                self.replica.commit(leader.high_watermark());
                self.leader = Some(leader);
                self.step(Event::LogChanged);
            }
            Err(contradiction) => {
                tracing::error!(partition = %around.named(self.log.partition()), %contradiction, "this node does not lead");
                self.leader = None;
            }
        }
    }

    /// Gives an event to the leader, if this node leads, and does what it says.
    pub(super) fn step(&mut self, event: Event) {
        if let Some(leader) = &mut self.leader {
            leader.step(event, &KeptLog(&self.log), &mut self.actions);
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        for action in self.actions.drain(..) {
            match action {
                Action::Commit { high_watermark } => {
                    self.log.note_high_watermark(high_watermark);
                    self.replica.commit(high_watermark);
                }
                // These answer followers that open the partition, and time that passes for them.
                Action::Push { .. }
                | Action::Copy { .. }
                | Action::Diverged { .. }
                | Action::Refuse { .. }
                | Action::Propose(_) => debug_assert!(false, "no follower can open a partition here: {action:?}"),
            }
        }
    }

    /// Stops leading: whoever waits is told why.
    pub(crate) fn resign(&mut self, why: &Failure, metrics: &StorageMetrics) {
        self.leader = None;
        self.replica.withdraw();
        for job in self.incoming.drain(..) {
            job.refuse(why.clone(), metrics);
        }
        self.answer_lost(why, metrics);
    }

    /// Answers everything that waits: what is in the log may count yet, or not.
    pub(super) fn answer_lost(&mut self, why: &Failure, metrics: &StorageMetrics) {
        self.released = Released::default();
        for waiting in self.waiting.drain(..) {
            let failure = match waiting.outcome {
                Err(refused) => refused,
                // The next leader may have it, or not.
                Ok(_) if why.reason() == Reason::NotLeader => {
                    Failure::new(Reason::LeaderLostAfterAppend, why.message()).with("appended", true)
                }
                Ok(_) => why.clone().with_effect(pb::Effect::Maybe).with("appended", true),
            };
            waiting.job.refuse(failure, metrics);
        }
    }
}
