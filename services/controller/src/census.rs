//! The census: what there is in the cluster, counted from the steps of the controller's view.

use std::collections::HashMap;

use walser_metadata::{Changes, View};
use walser_model::{LeaderEpoch, NodeId, TopicPartition};

/// What is counted. It holds one entry for each partition of the metadata, which bounds it.
#[derive(Debug, Default)]
pub(crate) struct Census {
    partitions: HashMap<TopicPartition, Counted>,
    short: Short,
    elections: Elections,
}

/// What of a partition is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    /// The leader, if it has one.
    leader: Option<NodeId>,
    epoch: LeaderEpoch,
    unclean_epoch: LeaderEpoch,
    /// The first replica.
    preferred: Option<NodeId>,
    in_sync: usize,
    under_replicated: bool,
    under_min_isr: bool,
}

/// Partitions that lack something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Short {
    pub(crate) without_leader: usize,
    /// Fewer replicas are in sync than there are.
    pub(crate) under_replicated: usize,
    /// Fewer replicas are in sync than `min.insync.replicas`.
    pub(crate) under_min_isr: usize,
}

/// What has changed in who leads, and who is in sync.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Elections {
    /// Partitions that got another leader or lost theirs.
    pub(crate) leader_changes: u64,
    /// Leader epochs begun.
    pub(crate) leader_epochs: u64,
    /// Partitions that are led by a node that is in sync and led them not before, other than those that follow.
    pub(crate) clean: u64,
    /// Leads that went back from another node to the first replica.
    pub(crate) preferred: u64,
    /// Epochs that began without proof that the leader has everything.
    pub(crate) unclean: u64,
    /// In-sync sets that became smaller.
    pub(crate) shrinks: u64,
    /// In-sync sets that became larger.
    pub(crate) expands: u64,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) topics: usize,
    pub(crate) partitions: usize,
    pub(crate) short: Short,
    pub(crate) active_nodes: usize,
    pub(crate) fenced_nodes: usize,
    /// Deletions of topics whose data is not gone yet.
    pub(crate) operations: usize,
}

// === impl Census ===

impl Census {
    /// Counts anew; elections are counted by what was known before.
    pub(crate) fn replace(&mut self, view: &View) {
        self.partitions.retain(|id, _| view.partition(*id).is_some());
        self.short = Short::default();
        self.partitions.values().for_each(|counted| self.short.add(counted));
        view.partitions().for_each(|partition| self.count(view, partition.record.key));
    }

    /// Takes a step of the view.
    pub(crate) fn apply(&mut self, view: &View, changes: &Changes) {
        if changes.snapshot {
            return self.replace(view);
        }
        changes.partitions.iter().for_each(|id| self.count(view, *id));
        // The partitions of a deleted topic are gone with it, for users.
        let deleted = changes.topics.iter().filter(|topic| view.topic(**topic).is_none());
        deleted
            .flat_map(|topic| view.partitions_of(*topic))
            .for_each(|partition| self.count(view, partition.record.key));
    }

    /// Counts a partition as it is now.
    fn count(&mut self, view: &View, id: TopicPartition) {
        let dying = view.topic(id.topic).is_none() && view.tombstone(id.topic).is_some();
        let state = view.partition(id).filter(|_| !dying).map(|partition| &partition.record.state);
        let now = state.map(|state| Counted {
            leader: state.leader,
            epoch: state.leader_epoch,
            unclean_epoch: state.unclean_epoch,
            preferred: state.replicas.first().copied(),
            in_sync: state.isr.len(),
            under_replicated: state.is_under_replicated(),
            under_min_isr: state.is_under_min_isr(),
        });
        let before = match now {
            Some(now) => self.partitions.insert(id, now),
            None => self.partitions.remove(&id),
        };
        now.iter().for_each(|now| self.short.add(now));
        if let Some(before) = before {
            self.short.remove(&before);
            if let Some(now) = now {
                self.elections.add(&before, &now);
            }
        }
    }

    pub(crate) fn totals(&self, view: &View) -> Totals {
        let nodes = || view.nodes().filter(|(_, node)| node.epoch > 0);
        let fenced_nodes = nodes().filter(|(_, node)| node.liveness.fenced).count();
        Totals {
            topics: view.topic_count(),
            partitions: view.partition_count(),
            short: self.short,
            active_nodes: nodes().count() - fenced_nodes,
            fenced_nodes,
            operations: view.tombstones().count(),
        }
    }

    /// Elections since this was asked last.
    pub(crate) fn take_elections(&mut self) -> Elections {
        std::mem::take(&mut self.elections)
    }
}

// === impl Elections ===

impl Elections {
    fn add(&mut self, before: &Counted, now: &Counted) {
        let (changed, unclean) = (before.leader != now.leader, before.unclean_epoch < now.unclean_epoch);
        self.leader_changes += u64::from(changed);
        self.leader_epochs += u64::from(before.epoch < now.epoch);
        let elected = changed && now.leader.is_some() && !unclean;
        let preferred = elected && before.leader.is_some() && now.leader == now.preferred;
        self.clean += u64::from(elected && !preferred);
        self.preferred += u64::from(preferred);
        self.unclean += u64::from(unclean);
        self.shrinks += u64::from(now.in_sync < before.in_sync);
        self.expands += u64::from(now.in_sync > before.in_sync);
    }
}

// === impl Short ===

impl Short {
    fn add(&mut self, counted: &Counted) {
        self.without_leader += usize::from(counted.leader.is_none());
        self.under_replicated += usize::from(counted.under_replicated);
        self.under_min_isr += usize::from(counted.under_min_isr);
    }

    fn remove(&mut self, counted: &Counted) {
        self.without_leader -= usize::from(counted.leader.is_none());
        self.under_replicated -= usize::from(counted.under_replicated);
        self.under_min_isr -= usize::from(counted.under_min_isr);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use walser_metadata::value::{NodeLiveness, NodeRegistration, TombstoneValue, TopicValue};
    use walser_metadata::{Delta, MetadataChange};
    use walser_model::{PartitionIndex, TopicId};
    use walser_replication::PartitionState;

    use super::*;

    fn id(byte: u8) -> TopicId {
        TopicId::from_bytes([byte; 16])
    }

    fn at(byte: u8, number: i32) -> TopicPartition {
        TopicPartition::new(id(byte), PartitionIndex(number))
    }

    fn led(topic: u8, number: i32, leader: Option<i32>, epoch: i32, revision: i64) -> MetadataChange {
        let leader = leader.map(NodeId);
        let state =
            PartitionState { leader, leader_epoch: LeaderEpoch(epoch), ..PartitionState::new(vec![NodeId(1)], 1) };
        MetadataChange::Partition { id: at(topic, number), value: Box::new(state.into()), revision }
    }

    fn named(byte: u8) -> MetadataChange {
        let value = TopicValue { name: format!("t{byte}"), partition_count: 2, ..TopicValue::default() };
        MetadataChange::Topic { id: id(byte), value: Arc::new(value), revision: 1 }
    }

    fn live(node: i32, fenced: bool, revision: i64) -> MetadataChange {
        let value = NodeLiveness { fenced, ..NodeLiveness::default() };
        MetadataChange::Liveness { node: NodeId(node), value, revision }
    }

    fn registered(node: i32) -> MetadataChange {
        let value = Box::new(NodeRegistration::default());
        MetadataChange::Registration { node: NodeId(node), value, revision: 1 }
    }

    /// A view and its census, step by step.
    #[derive(Default)]
    struct Followed {
        view: View,
        census: Census,
    }

    impl Followed {
        fn step(&mut self, snapshot: bool, changes: Vec<MetadataChange>) -> Totals {
            let version = self.view.version() + 1;
            let changes = self.view.apply(Delta { version, snapshot, changes }).unwrap();
            self.census.apply(&self.view, &changes);
            self.census.totals(&self.view)
        }
    }

    #[test]
    fn everything_is_counted_once_and_changes_of_leaders_as_they_come() {
        let mut counted = Followed::default();
        let all = vec![
            named(1),
            led(1, 0, Some(1), 1, 1),
            led(1, 1, Some(1), 1, 1),
            registered(1),
            live(1, false, 1),
            registered(2),
            live(2, true, 1),
        ];
        let totals = Totals { topics: 1, partitions: 2, active_nodes: 1, fenced_nodes: 1, ..Totals::default() };
        assert_eq!(counted.step(true, all), totals);
        assert_eq!(
            counted.census.take_elections(),
            Elections::default(),
            "leaders that were there before did not change"
        );

        // The node is fenced, and comes back.
        let fenced = counted.step(false, vec![led(1, 0, None, 2, 2), live(1, true, 2)]);
        assert_eq!(
            fenced,
            Totals {
                short: Short { without_leader: 1, ..Short::default() },
                active_nodes: 0,
                fenced_nodes: 2,
                ..totals
            }
        );
        counted.step(false, vec![led(1, 0, Some(1), 3, 3), led(1, 1, Some(1), 2, 3)]);
        let elections = Elections { leader_changes: 2, leader_epochs: 3, clean: 1, ..Elections::default() };
        assert_eq!(counted.census.take_elections(), elections);

        let tombstone = |revision| {
            let value = Box::new(TombstoneValue { nodes: vec![1], ..TombstoneValue::default() });
            MetadataChange::Tombstone { topic: id(1), value, revision }
        };
        let deleted = counted.step(false, vec![MetadataChange::TopicRemoved(id(1)), tombstone(4)]);
        let left = Totals { fenced_nodes: 2, operations: 1, ..Totals::default() };
        assert_eq!(deleted, left, "gone for users, whatever is still to be done");
        let gone = [at(1, 0), at(1, 1)].map(MetadataChange::PartitionRemoved);
        assert_eq!(counted.step(false, gone.to_vec()), left);
        assert_eq!(
            counted.step(false, vec![MetadataChange::TombstoneRemoved(id(1))]),
            Totals { operations: 0, ..left }
        );
        assert_eq!(counted.census.partitions.len(), 0);
    }

    #[test]
    fn counting_anew_notices_what_changed_meanwhile() {
        let mut counted = Followed::default();
        let first = vec![led(1, 0, Some(1), 1, 1), led(1, 1, None, 1, 1), led(2, 0, Some(1), 1, 1), named(1), named(2)];
        assert_eq!(counted.step(true, first).short.without_leader, 1);
        let second =
            vec![led(1, 0, Some(2), 5, 2), led(1, 1, Some(1), 1, 2), led(3, 0, None, 1, 2), named(1), named(3)];
        let totals = counted.step(true, second);
        let elections = Elections { leader_changes: 2, leader_epochs: 1, clean: 2, ..Elections::default() };
        assert_eq!(counted.census.take_elections(), elections);
        assert_eq!((totals.partitions, totals.short.without_leader), (3, 1));
    }

    #[test]
    fn partitions_with_too_few_in_sync_are_counted_until_they_are_whole_again() {
        let mut counted = Followed::default();
        let with = |in_sync: &[i32], revision| {
            let replicas = vec![NodeId(1), NodeId(2), NodeId(3)];
            let isr = in_sync.iter().map(|node| NodeId(*node)).collect();
            let state = PartitionState { isr, ..PartitionState::new(replicas, 2) };
            MetadataChange::Partition { id: at(1, 0), value: Box::new(state.into()), revision }
        };
        let mut short = |snapshot, in_sync: &[i32], revision| {
            let short = counted.step(snapshot, vec![named(1), with(in_sync, revision)]).short;
            (short.under_replicated, short.under_min_isr)
        };
        assert_eq!(short(true, &[1, 2, 3], 1), (0, 0));
        assert_eq!(short(false, &[1, 2], 2), (1, 0));
        assert_eq!(short(false, &[1], 3), (1, 1));
        assert_eq!(short(true, &[1, 2], 4), (1, 0));
        assert_eq!(short(false, &[1, 2, 3], 5), (0, 0));
    }

    #[test]
    fn elections_are_told_apart_and_so_are_changes_of_the_in_sync_set() {
        let led = |leader: Option<i32>, unclean: i32, in_sync: usize| Counted {
            leader: leader.map(NodeId),
            epoch: LeaderEpoch(unclean.max(0)),
            unclean_epoch: LeaderEpoch(unclean),
            preferred: Some(NodeId(1)),
            in_sync,
            under_replicated: false,
            under_min_isr: false,
        };
        let changes = [
            (
                led(Some(1), -1, 3),
                led(Some(2), -1, 2),
                Elections { leader_changes: 1, clean: 1, shrinks: 1, ..Elections::default() },
            ),
            (led(Some(2), -1, 2), led(Some(2), -1, 3), Elections { expands: 1, ..Elections::default() }),
            (
                led(Some(2), -1, 3),
                led(Some(1), -1, 3),
                Elections { leader_changes: 1, preferred: 1, ..Elections::default() },
            ),
            (
                led(Some(1), -1, 1),
                led(None, -1, 0),
                Elections { leader_changes: 1, shrinks: 1, ..Elections::default() },
            ),
            (
                led(None, -1, 0),
                led(Some(1), -1, 1),
                Elections { leader_changes: 1, clean: 1, expands: 1, ..Elections::default() },
            ),
            (
                led(None, -1, 0),
                led(Some(3), 0, 1),
                Elections { leader_changes: 1, unclean: 1, expands: 1, ..Elections::default() },
            ),
        ];
        for (before, now, expected) in changes {
            let mut elections = Elections::default();
            elections.add(&before, &now);
            assert_eq!(elections, expected, "{before:?} {now:?}");
        }
    }
}
