//! What this node is to a partition: the shell around [`Replica`].

use std::sync::Arc;
use std::time::Duration;

use walser_log::{Condition, Log, LogConfig};
use walser_metadata::TopicSettings;
use walser_model::{LeaderEpoch, NodeId, Offset, TopicPartition};
use walser_replication::control::ReplicaIntegrity;
use walser_replication::{
    Follower, Leader, PartitionState, Replica, ReplicaAction, ReplicaEvent, ReplicaLog as _, ReplicaOffer,
    ReplicaStart, Role, Rules, role,
};
use walser_rpc::{ApiError, LeadOffer};

use super::{KeptLog, Partition, Waiting};
use crate::replication::Outgoing;
use crate::shard::ShardContext;

/// A replica that does not catch up for this long leaves the in-sync set.
const REPLICA_LAG_MAX: Duration = Duration::from_secs(4);
/// How long a write waits for other replicas; gateways give up before.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// What the metadata says of a partition.
#[derive(Debug, Clone)]
pub(crate) struct PartitionMetadata {
    pub(crate) partition: TopicPartition,
    /// This node's incarnation.
    pub(crate) node_epoch: i64,
    /// All of the metadata up to this version has been seen. Inclusive.
    pub(crate) version: i64,
    pub(crate) state: PartitionState,
    pub(crate) partition_epoch: i64,
    pub(crate) settings: Arc<TopicSettings>,
}

impl PartitionMetadata {
    /// What a node is to be by it.
    pub(crate) fn role(&self, node: NodeId) -> Role {
        role(Rules::ALL, node, self.node_epoch, self.version, &self.state)
    }
}

/// A replica of a log that was just opened, with what the one before has noted. `opened`: how many logs were, before it.
pub(super) fn start(node: NodeId, log: &Log, opened: u32) -> Replica<Waiting> {
    let (high_watermark, high_watermark_epoch) = log.high_watermark();
    Replica::new(ReplicaStart {
        node,
        first_open: u64::from(opened) << 32,
        integrity: ReplicaIntegrity::Intact,
        lazy: false,
        high_watermark,
        high_watermark_epoch,
        lag_max: REPLICA_LAG_MAX,
        wait_max: ANSWER_MAX,
        rules: Rules::ALL,
    })
}

impl Partition {
    /// The leader epoch of the metadata that this node knows, or [`LeaderEpoch::NONE`].
    pub(crate) fn known_epoch(&self) -> LeaderEpoch {
        self.replica.partition().map_or(LeaderEpoch::NONE, |(partition, _)| partition.leader_epoch)
    }

    /// Takes what the metadata says now, and becomes that.
    pub(crate) fn install(&mut self, metadata: PartitionMetadata, context: &ShardContext) {
        self.metadata = (metadata.state.replicas.len() > 1).then(|| Box::new(metadata.clone()));
        let PartitionMetadata { node_epoch, version, state, partition_epoch, settings, .. } = metadata;
        let TopicSettings { config, unreadable } = TopicSettings::clone(&settings);
        self.log.configure(LogConfig::from(&config));
        let durability = config.durability;
        self.config = config;
        self.handle.show_compacts(self.config.cleanup_policy.compacts());
        self.unreadable = unreadable;
        for event in [
            ReplicaEvent::Configured { durability },
            ReplicaEvent::Installed { partition: state, partition_epoch },
            // Not before: it would act on what it knew.
            ReplicaEvent::Registered { node_epoch },
            ReplicaEvent::Observed { revision: version },
        ] {
            self.step(event, context);
        }
        self.stop_pushing_to_others(context);
        self.show_condition();
        self.show_leader(context);
    }

    /// Shows which other node leads, by the metadata.
    pub(super) fn show_leader(&self, context: &ShardContext) {
        let known =
            self.replica.partition().and_then(|(partition, _)| Some((partition.leader?, partition.leader_epoch)));
        self.handle.note_led_by(known.filter(|(leader, _)| *leader != context.node));
    }

    /// Shows whether the log can be used, and whether there are others.
    pub(super) fn show_condition(&self) {
        self.handle.show_others(self.replica.others_in_sync());
        // What a follower has found stands for as long as it is stopped by it, though its log is whole; also when its leader
        // has gone since.
        let rests = self.replica.leader().is_none() && self.replica.follower().is_none();
        let stopped = self.replica.follower().is_some_and(Follower::stopped) || rests && self.handle.contradicted();
        if !stopped || *self.log.condition() != Condition::Healthy {
            self.show_log();
        }
    }

    /// Shows whether the log can be used, as it is in the leader epoch that is known.
    pub(super) fn show_log(&self) {
        self.handle.set_condition(self.log.condition(), self.known_epoch());
    }

    /// Whether this node leads, with the topic's settings.
    pub(crate) fn leads(&self) -> bool {
        self.replica.leader().is_some()
    }

    /// Whether time matters to it: there are others to wait for.
    pub(crate) fn ticks(&self) -> bool {
        self.replica.partition().is_some_and(|(partition, _)| partition.replicas.len() > 1)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, context: &ShardContext) {
        self.step(ReplicaEvent::Tick, context);
        self.show_contact(context);
        self.handle.show_lags(self.replica.leader().into_iter().flat_map(|leader| leader.lags(self.log.log_end())));
        self.hand_over(context);
        self.reopen_in_time(context);
    }

    /// Shows since when nobody else can have led, by what the others say: also while the controller is heard and nobody asks,
    /// so that it is known at the moment it falls silent.
    fn show_contact(&self, context: &ShardContext) {
        let contact = &context.registry.contact;
        let successors = self.replica.leader().and_then(Leader::successors);
        self.handle.show_successors_heard(successors.map_or(Duration::ZERO, |others| contact.all_answered(&others)));
    }

    /// Has another replica lead, where one is in sync, while this node cannot write: its disk is full, or not there.
    fn hand_over(&self, context: &ShardContext) {
        let others = self.replica.others_in_sync();
        if self.leads() && others && (context.space.full() || context.misplaced.get().is_some()) {
            let leader_epoch = self.known_epoch();
            context.peers.tell(self.log.partition(), Outgoing::HandOver { leader_epoch });
        }
    }

    /// Gives an event to the replica, and does what it says.
    pub(super) fn step(&mut self, event: ReplicaEvent, context: &ShardContext) {
        self.step_for(event, None, context);
    }

    /// The same. `why` is told to writes that lose their leader by it.
    pub(super) fn step_for(&mut self, event: ReplicaEvent, why: Option<&ApiError>, context: &ShardContext) {
        let mut actions = std::mem::take(&mut self.actions);
        self.replica.step(context.clock.monotonic(), event, &KeptLog(&self.log), &mut actions);
        let (mut begins, mut visible) = (None, None);
        while let Some(action) = actions.pop_front() {
            match action {
                ReplicaAction::Lead { epoch, high_watermark } => {
                    // The leaders before have stamped what came from them.
                    self.last_append_time = self.last_append_time.max(self.log.append_time());
                    self.log.begin_epoch(epoch, self.ticks());
                    self.log.note_high_watermark(high_watermark, epoch);
                    self.handle.stop_serving();
                    (begins, visible) = (Some(epoch), Some(high_watermark));
                }
                ReplicaAction::Follow { .. } => visible = Some(self.replica.high_watermark().0),
                ReplicaAction::Rest => {
                    self.handle.stop_serving();
                    self.leave(context);
                    begins = None;
                }
                ReplicaAction::Commit { high_watermark } => {
                    self.log.note_high_watermark(high_watermark, self.replica.high_watermark().1);
                    visible = Some(high_watermark);
                }
                ReplicaAction::Answer { write, outcome } => {
                    // Whoever hears that a record is written may read it at once.
                    if visible.is_some() {
                        self.show_end(visible.take());
                    }
                    self.respond(write, outcome, why, context);
                }
                ReplicaAction::Contradicted(contradiction) => {
                    let partition = context.named(self.log.partition());
                    tracing::error!(%partition, %contradiction, "this node does not lead");
                }
                // What was a replica stays until a tombstone says that it goes.
                ReplicaAction::Removed => {}
                ReplicaAction::GiveUp => {
                    let leader_epoch = self.known_epoch();
                    context.peers.tell(self.log.partition(), Outgoing::GiveUp { leader_epoch });
                }
                ReplicaAction::Leader(action) => self.lead(action, context),
                ReplicaAction::Follower(action) => self.follow(action, context),
                ReplicaAction::Truncate { work, to } => self.truncate_later(work, to),
                ReplicaAction::Copy { work } => self.copy_later(work),
            }
        }
        self.actions = actions;
        self.show_end(visible);
        // Nobody is served before what is committed already is known.
        if let Some(epoch) = begins {
            if self.ticks() {
                self.show_contact(context);
            }
            self.handle.lead(epoch);
        }
        self.release();
        self.settle_deletions(context);
        self.tell_of_more(context);
        self.show_node_with_more();
        self.offer();
    }

    /// Shows who has more than what can be read here of a damaged log.
    fn show_node_with_more(&self) {
        let log = KeptLog(&self.log);
        if log.damaged() {
            let (_, readable) = log.readable();
            self.handle.show_node_with_more(self.replica.leader().and_then(|leader| leader.node_beyond(readable)));
        }
    }

    /// Shows what it would lead with, for as long as nobody leads.
    fn offer(&mut self) {
        let partition = self.log.partition();
        let leaderless = self.replica.partition().filter(|(partition, _)| partition.leader.is_none());
        if leaderless.is_none() && !self.offers {
            return;
        }
        let offer = leaderless.and_then(|(_, partition_epoch)| {
            let ReplicaOffer { last_epoch, record_epoch, log_end } = self.replica.candidate(&KeptLog(&self.log))?;
            let damaged = KeptLog(&self.log).damaged();
            Some(LeadOffer { partition, last_epoch, record_epoch, log_end, damaged, partition_epoch })
        });
        self.offers = offer.is_some();
        self.handle.show_offer(offer);
    }

    /// Shows the high watermark, if it is another one, and whether it is the end of the partition.
    fn show_end(&self, visible: Option<Offset>) {
        let end_known = self.replica.leader().is_none_or(|leader| leader.latest().is_some());
        self.handle.show_end(visible, end_known);
    }

    /// Stops being anything to the partition until the metadata says it again: whoever waits is told why.
    pub(crate) fn resign(&mut self, why: &ApiError, context: &ShardContext) {
        self.step_for(ReplicaEvent::Unregistered, Some(why), context);
        self.handle.stop_serving();
        for job in self.incoming.drain(..) {
            job.refuse(why.clone(), &context.metrics);
        }
    }
}
