//! The decisions of `walser_replication::control`, as a controller takes them that lacks a rule.
//!
//! The library has no switch for its rules. What a controller without one of them would decide is made here, from what
//! the library decides: by what it is shown, or by what is kept of its answer.

use walser_model::{LeaderEpoch, NodeId};
use walser_replication::control::{self, Comparison, Decision, DecisionContext, ReplicaIntegrity, Write};
use walser_replication::{AlterIsr, NodeSet, PartitionState, Rule, Rules};

use crate::key::Key;
use crate::store::Record;

/// Takes decisions by the rules that hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decider {
    pub(crate) rules: Rules,
}

impl Decider {
    fn lacks(self, rule: Rule) -> bool {
        !self.rules.hold(rule)
    }

    /// Drops the comparisons that nobody sets without some rule.
    pub(crate) fn comparisons(self, mut decision: Decision<Key>) -> Decision<Key> {
        if self.rules == Rules::ALL {
            return decision;
        }
        let creates = decision.comparisons.iter().any(|condition| matches!(condition, Comparison::Missing(_)));
        let of_partition = !creates && decision.writes.iter().any(|write| matches!(write, Write::Partition(..)));
        let registers = decision.writes.iter().any(|write| matches!(write, Write::Registration(_)));
        let (guard, all) = (self.lacks(Rule::ElectionGuard), of_partition && self.lacks(Rule::CompareAll));
        let nodes = all
            || (of_partition || registers) && self.lacks(Rule::CompareNodes)
            || creates && self.lacks(Rule::CreationComparesNodes);
        decision.comparisons.retain(|condition| match condition {
            Comparison::Controller(_) => !guard,
            Comparison::Partition(..) => !all,
            Comparison::Missing(_) => true,
            Comparison::Registration(..) | Comparison::Live(..) => !nodes,
        });
        decision
    }

    /// Merges decisions into transactions. Without the rule each has only what its first decision was taken on.
    pub(crate) fn merge(self, decisions: Vec<Decision<Key>>, partitions_max: usize) -> Vec<Decision<Key>> {
        if !self.lacks(Rule::MergeKeepsComparisons) {
            return control::merge(decisions, partitions_max);
        }
        let mut merged = control::merge(decisions.clone(), partitions_max);
        for transaction in &mut merged {
            let first = decisions.iter().find(|decision| decision.writes.first() == transaction.writes.first());
            transaction.comparisons = first.map_or_else(Vec::new, |first| first.comparisons.clone());
        }
        merged
    }

    /// Changes what a decision writes to its partition.
    fn writes(decision: &mut Decision<Key>, change: impl Fn(&mut PartitionState)) {
        for write in &mut decision.writes {
            if let Write::Partition(_, state) = write {
                change(state);
            }
        }
    }

    /// Without eligible leaders the last one in sync stays in the set, as in Kafka before KIP-966.
    fn without_eligible(self, before: &PartitionState, decision: &mut Decision<Key>) {
        if self.lacks(Rule::EligibleLeaders) {
            Self::writes(decision, |state| {
                state.elr = NodeSet::EMPTY;
                if state.isr.is_empty() {
                    state.isr.clone_from(&before.isr);
                }
            });
        }
    }

    pub(crate) fn sweep(
        self,
        context: &DecisionContext,
        record: &Record,
        node: NodeId,
        integrity: ReplicaIntegrity,
    ) -> Option<Decision<Key>> {
        let mut decision = control::sweep(context, record, node, integrity)?;
        self.without_eligible(&record.state, &mut decision);
        changes(decision, record)
    }

    pub(crate) fn give_up(
        self,
        context: &DecisionContext,
        record: &Record,
        node: NodeId,
        leader_epoch: LeaderEpoch,
    ) -> Option<Decision<Key>> {
        let mut decision = control::give_up(context, record, node, leader_epoch)?;
        self.without_eligible(&record.state, &mut decision);
        changes(decision, record)
    }

    pub(crate) fn alter_isr(
        self,
        context: &DecisionContext,
        record: &Record,
        proposal: &AlterIsr,
    ) -> Result<Decision<Key>, control::Refusal> {
        let mut proposal = proposal.clone();
        if self.lacks(Rule::CompareAll) && proposal.partition_epoch < record.epoch {
            proposal.partition_epoch = record.epoch;
        }
        if self.lacks(Rule::NodeEpoch) {
            for (node, epoch) in &mut proposal.isr {
                *epoch = context.nodes.get(node).map_or(*epoch, |found| found.epoch);
            }
        }
        let mut decision = control::alter_isr(context, record, &proposal)?;
        self.without_eligible(&record.state, &mut decision);
        Ok(decision)
    }

    pub(crate) fn elect_unclean(
        self,
        context: &DecisionContext,
        record: &Record,
        candidates: &[control::Candidate],
        recovery: control::Recovery,
    ) -> Option<Decision<Key>> {
        let mut decision = control::elect_unclean(context, record, candidates, recovery)?;
        if self.lacks(Rule::EligibleLeaders) {
            Self::writes(&mut decision, |state| state.recovering = true);
        }
        Some(decision)
    }

    /// A change of `min_isr` that leaves the eligible as they were.
    fn keeps_eligible(self, before: &PartitionState, decision: &mut Decision<Key>) {
        if self.lacks(Rule::MinIsrRecomputes) {
            Self::writes(decision, |state| {
                if state.min_isr != before.min_isr && state.replicas == before.replicas {
                    state.elr.clone_from(&before.elr);
                    state.last_known_elr.clone_from(&before.last_known_elr);
                    state.recovering = before.recovering;
                }
            });
        }
    }

    /// What a partition needs for itself.
    pub(crate) fn reconcile(self, context: &DecisionContext, record: &Record, min_isr: usize) -> Option<Decision<Key>> {
        let mut decision = control::reconcile(context, record, min_isr)?;
        if self.rules == Rules::ALL {
            return Some(decision);
        }
        self.without_eligible(&record.state, &mut decision);
        self.keeps_eligible(&record.state, &mut decision);
        if matches!(&decision.writes[..], [Write::Partition(_, state)] if state.replicas != record.state.replicas) {
            decision = self.keeps_epoch(record, decision);
        }
        // A fenced node that stays in the set does not keep the rest from being done.
        changes(decision, record).or_else(|| control::elect_again(context, record))
    }

    /// A move that takes replicas away and leaves the leader where it is begins no leader epoch.
    fn keeps_epoch(self, record: &Record, mut decision: Decision<Key>) -> Decision<Key> {
        if self.lacks(Rule::MoveBeginsEpoch) {
            Self::writes(&mut decision, |state| {
                if state.leader == record.state.leader {
                    state.leader_epoch = record.state.leader_epoch;
                }
            });
        }
        decision
    }

    pub(crate) fn reassign(
        self,
        context: &DecisionContext,
        record: &Record,
        target: &[NodeId],
    ) -> Option<Decision<Key>> {
        let decision = control::reassign(context, record, target).ok().flatten()?;
        Some(self.keeps_epoch(record, decision))
    }

    /// What is next so that a node can register.
    pub(crate) fn admit<'a>(
        self,
        context: &DecisionContext,
        node: NodeId,
        partitions: impl Iterator<Item = (&'a Record, ReplicaIntegrity)> + Clone,
    ) -> Vec<Decision<Key>> {
        if let Some(registered) = self.register(context, node, partitions.clone()) {
            return vec![registered];
        }
        let mut decisions = control::admit(context, node, partitions.clone());
        if self.lacks(Rule::EligibleLeaders) {
            let sweeps = partitions.filter_map(|(record, integrity)| self.sweep(context, record, node, integrity));
            let swept = decisions.iter().any(|decision| matches!(decision.writes[..], [Write::Partition(..)]));
            decisions = if swept { sweeps.collect() } else { decisions };
        }
        decisions
    }

    /// Lets a fenced node count again. Without the rule, it does as soon as it is heard.
    pub(crate) fn unfence<'a>(
        self,
        context: &DecisionContext,
        node: NodeId,
        seen: i64,
        partitions: impl Iterator<Item = &'a Record>,
    ) -> Option<Decision<Key>> {
        if self.lacks(Rule::UnfenceAfterSeen) {
            return control::unfence(context, node, i64::MAX, std::iter::empty());
        }
        control::unfence(context, node, seen, partitions)
    }

    /// Takes a partition of a restored store into use. Without the rule its in-sync set is what the copy says.
    pub(crate) fn restore(
        self,
        context: &DecisionContext,
        record: &Record,
        seen: LeaderEpoch,
    ) -> Option<Decision<Key>> {
        let mut decision =
            control::restore(context, record, Some(seen), &record.state.replicas.iter().copied().collect())?;
        if self.lacks(Rule::RestoreAsksAll) {
            Self::writes(&mut decision, |state| {
                let leader_epoch = state.leader_epoch;
                *state = PartitionState { leader_epoch, ..record.state.clone() };
            });
        }
        Some(decision)
    }

    /// Registers a node that looks fenced, swept and intact to whoever lacks the rule.
    fn register<'a>(
        self,
        context: &DecisionContext,
        node: NodeId,
        partitions: impl Iterator<Item = (&'a Record, ReplicaIntegrity)>,
    ) -> Option<Decision<Key>> {
        if self.rules == Rules::ALL {
            return None;
        }
        let mut shown = context.clone();
        let mut fenced = true;
        if self.lacks(Rule::FenceBeforeRegistration)
            && let Some(found) = shown.nodes.get_mut(&node)
        {
            fenced = std::mem::replace(&mut found.fenced, true);
        }
        let shown_partitions: Vec<(Record, ReplicaIntegrity)> = partitions
            .map(|(record, integrity)| {
                let mut record = record.clone();
                if self.lacks(Rule::SweepBeforeRegistration) {
                    record.state.isr.remove(node);
                    record.state.leader = record.state.leader.filter(|leader| *leader != node);
                }
                let trusted = self.lacks(Rule::UncleanIsNotEligible);
                (record, if trusted { ReplicaIntegrity::Intact } else { integrity })
            })
            .collect();
        let shown_partitions = shown_partitions.iter().map(|(record, integrity)| (record, *integrity));
        let mut decision = control::register(&shown, node, shown_partitions)?;
        for write in &mut decision.writes {
            if let Write::Live { fenced: written, .. } = write {
                *written = fenced;
            }
        }
        Some(decision)
    }
}

/// A decision that writes something new, or none.
fn changes(decision: Decision<Key>, record: &Record) -> Option<Decision<Key>> {
    let same = matches!(&decision.writes[..], [Write::Partition(_, state)] if *state == record.state);
    (!same).then_some(decision)
}
