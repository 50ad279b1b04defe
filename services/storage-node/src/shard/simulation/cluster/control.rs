//! The controller of the simulated cluster: decisions of `walser_replication::control`, written at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use walser_metadata::TopicSettings;
use walser_model::{LeaderEpoch, NodeId, TopicPartition};
use walser_replication::PartitionState;
use walser_replication::control::{
    self, Decision, DecisionContext, NodeRecord, PartitionRecord, Refusal, ReplicaIntegrity, Write,
};
use walser_replication::{AlterIsr, NodeSet};

use super::{Cluster, config, node_id};
use crate::replication::FromPeer;
use crate::shard::{Command, PartitionMetadata};

const MIN_ISR: usize = 2;

/// What a node asks of the controller.
#[derive(Debug)]
pub(super) enum Asked {
    AlterIsr(AlterIsr),
    /// In this leader epoch.
    GiveUp(LeaderEpoch),
}

pub(super) struct Control {
    pub(super) context: DecisionContext,
    pub(super) partitions: BTreeMap<TopicPartition, PartitionRecord<TopicPartition>>,
    /// By whom, and in which incarnation.
    pub(super) asked: Vec<(usize, i64, TopicPartition, Asked)>,
}

impl Control {
    pub(super) fn new(replicas: Vec<NodeId>, partitions: impl Iterator<Item = TopicPartition>) -> Self {
        let fresh = NodeRecord { epoch: 0, live_revision: 0, fenced: true, shutting_down: false, drained: false };
        let nodes = replicas.iter().map(|node| (*node, fresh)).collect();
        let context = DecisionContext { controller_epoch: 1, revision: 1, nodes, ..DecisionContext::default() };
        let record = |key| {
            let mut state = PartitionState::new(replicas.clone(), MIN_ISR);
            (state.leader, state.isr, state.elr) = (None, NodeSet::EMPTY, replicas.iter().copied().collect());
            (key, PartitionRecord { key, state, epoch: 1 })
        };
        Self { context, partitions: partitions.map(record).collect(), asked: Vec::new() }
    }

    pub(super) fn leader(&self, id: TopicPartition) -> Option<NodeId> {
        self.partitions[&id].state.leader
    }

    fn apply(&mut self, decision: Decision<TopicPartition>) {
        assert_eq!(decision.problem(), None);
        self.context.revision += 1;
        let revision = self.context.revision;
        for write in decision.writes {
            match write {
                Write::Partition(key, state) => {
                    self.partitions.insert(key, PartitionRecord { key, state, epoch: revision });
                }
                Write::Delete(key) => drop(self.partitions.remove(&key)),
                Write::Registration(node) => self.context.nodes.get_mut(&node).unwrap().epoch = revision,
                Write::Live { node, fenced, shutting_down } => {
                    let record = self.context.nodes.get_mut(&node).unwrap();
                    (record.live_revision, record.fenced, record.shutting_down) = (revision, fenced, shutting_down);
                }
            }
        }
    }

    /// Whatever partitions need.
    fn reconcile(&mut self) {
        while let Some(decision) =
            self.partitions.values().find_map(|record| control::reconcile(&self.context, record, MIN_ISR))
        {
            self.apply(decision);
        }
    }

    fn fence(&mut self, node: NodeId) {
        if let Some(decision) = control::fence(&self.context, node) {
            self.apply(decision);
        }
    }

    /// Registers a node; returns its epoch.
    fn register(&mut self, node: NodeId, damaged: &BTreeSet<TopicPartition>) -> i64 {
        loop {
            let held = |key: &TopicPartition| match damaged.contains(key) {
                true => ReplicaIntegrity::Damaged,
                false => ReplicaIntegrity::Intact,
            };
            let records = self
                .partitions
                .iter()
                .map(|(key, record)| (record, control::counted(&self.context, &record.state, node, held(key))));
            let decisions = control::admit(&self.context, node, records);
            let registers = decisions[0].writes.iter().any(|write| matches!(write, Write::Registration(_)));
            self.apply(decisions.into_iter().next().unwrap());
            if registers {
                return self.context.nodes[&node].epoch;
            }
        }
    }

    fn unfence(&mut self, node: NodeId, seen: i64) {
        if let Some(decision) = control::unfence(&self.context, node, seen, self.partitions.values()) {
            self.apply(decision);
        }
    }

    /// What becomes of a proposal; `Some`: what its sender is told.
    fn alter(&mut self, id: TopicPartition, proposal: &AlterIsr) -> Option<FromPeer> {
        match control::alter_isr(&self.context, &self.partitions[&id], proposal) {
            Ok(decision) => {
                self.apply(decision);
                None
            }
            Err(Refusal::Ineligible(node)) => Some(FromPeer::ProposalOver { ineligible: Some(node) }),
            Err(_) => Some(FromPeer::ProposalOver { ineligible: None }),
        }
    }

    /// Whether every partition has all of its replicas in sync.
    pub(super) fn is_whole(&self) -> bool {
        let whole = |record: &PartitionRecord<TopicPartition>| record.state.isr.len() == record.state.replicas.len();
        self.partitions.values().all(whole)
    }
}

impl Cluster {
    /// The controller does one thing.
    pub(super) fn decide(&mut self) {
        let node = self.below(super::NODES);
        let (id, up, epoch, seen) = (node_id(node), self.nodes[node].up, self.nodes[node].epoch, self.nodes[node].seen);
        match self.below(4) {
            0 if !up => self.control.fence(id),
            0 if epoch == 0 => {
                let damaged = self.nodes[node].damaged();
                self.nodes[node].epoch = self.control.register(id, &damaged);
            }
            0 => self.control.unfence(id, seen),
            1 => {
                let held = self.control.asked.len();
                if held > 0 {
                    let number = self.below(held);
                    self.answer(number);
                }
            }
            _ => {}
        }
        self.control.reconcile();
    }

    pub(super) fn answer(&mut self, number: usize) {
        let (node, epoch, partition, asked) = self.control.asked.remove(number);
        let current = self.control.context.nodes[&node_id(node)].epoch == epoch;
        match asked {
            Asked::AlterIsr(proposal) => {
                let said = self.control.alter(partition, &proposal);
                if let Some(said) = said.filter(|_| self.nodes[node].epoch == epoch) {
                    self.nodes[node].shard.queue.push(Command::FromPeer { partition, said });
                }
            }
            Asked::GiveUp(leader_epoch) if current => {
                let record = &self.control.partitions[&partition];
                let swept = control::give_up(&self.control.context, record, node_id(node), leader_epoch);
                if let Some(decision) = swept {
                    self.control.apply(decision);
                }
            }
            Asked::GiveUp(_) => {}
        }
    }

    /// A node is told all of the metadata.
    pub(super) fn hear_of_metadata(&mut self, node: usize) {
        let (node_epoch, version) = (self.nodes[node].epoch, self.control.context.revision);
        if !self.nodes[node].up || node_epoch == 0 {
            return;
        }
        for record in self.control.partitions.values() {
            let settings = Arc::new(TopicSettings { config: config(record.key), unreadable: None });
            let (partition, state, partition_epoch) = (record.key, record.state.clone(), record.epoch);
            let metadata = PartitionMetadata { partition, node_epoch, version, state, partition_epoch, settings };
            self.nodes[node].shard.queue.push(Command::Install(Box::new(metadata)));
        }
        self.nodes[node].told = version;
    }
}
