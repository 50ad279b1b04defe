//! Which partitions are in service, as far as the controller can know: who leads them, whether that node is in service,
//! and what it reports of them. What a gateway can reach is for the gateway to add.

use std::collections::{HashMap, HashSet};

use walser_metadata::PartitionEntry;
use walser_model::{LeaderEpoch, NodeId, PartitionIndex, TopicId, TopicPartition};
use walser_proto::v1 as pb;
use walser_replication::PartitionState;
use walser_replication::control::Lack;

/// The storage nodes that are in service, and what they report.
#[derive(Debug, Clone, Default)]
pub(crate) struct Availability {
    serving: HashSet<NodeId>,
    /// A node, a partition that it cannot serve, and why. Each node reports at most 100 of them.
    reported: HashMap<(NodeId, TopicPartition), Problem>,
}

/// Why a partition cannot be used, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) text: String,
    /// Durable records are damaged or gone.
    pub(crate) damaged: bool,
    /// The leader epoch in which that was found.
    pub(crate) leader_epoch: LeaderEpoch,
    /// A replica that has records which the leader's log does not have any more.
    pub(crate) node_with_more: Option<NodeId>,
}

/// Whether a partition can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    /// It takes reads and writes.
    Full,
    /// No node that is in service leads it.
    Leaderless,
    /// Its leader reports that it cannot serve it, or not all of it.
    Failed,
    /// Too few replicas are in sync: it takes reads, and writes only with acks=leader.
    UnderMinIsr,
}

// === impl Availability ===

impl Availability {
    /// Nobody serves anything yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a node that is in service, with what it reported last.
    pub(crate) fn add(&mut self, node: NodeId, stats: &pb::StorageStats) {
        self.serving.insert(node);
        let partition = |problem: &pb::PartitionProblem| {
            let topic: TopicId = problem.topic_id.parse().ok()?;
            let id = TopicPartition::new(topic, PartitionIndex(problem.partition));
            let node_with_more = problem.node_with_more.map(NodeId);
            let (text, leader_epoch) = (problem.problem.clone(), LeaderEpoch(problem.leader_epoch));
            Some(((node, id), Problem { text, damaged: problem.damaged, leader_epoch, node_with_more }))
        };
        self.reported.extend(stats.problems.iter().filter_map(partition));
    }

    /// The leader of a partition, if it is in service.
    fn leader(&self, state: &PartitionState) -> Option<NodeId> {
        state.leader.filter(|leader| self.serving.contains(leader))
    }

    /// Whether a partition can be used.
    fn of(&self, partition: &PartitionEntry) -> Service {
        match self.leader(&partition.record.state) {
            None => Service::Leaderless,
            Some(leader) if self.reported.contains_key(&(leader, partition.record.key)) => Service::Failed,
            Some(_) if partition.record.state.is_under_min_isr() => Service::UnderMinIsr,
            Some(_) => Service::Full,
        }
    }

    /// Why a partition cannot be used, or not all of it.
    pub(crate) fn problem(&self, partition: &PartitionEntry) -> Option<Problem> {
        let Some(leader) = self.leader(&partition.record.state) else {
            return Some(Problem::of("no storage node that is in service leads it".to_owned()));
        };
        let reported = self.reported.get(&(leader, partition.record.key)).cloned();
        reported.or_else(|| too_few_in_sync(&partition.record.state))
    }

    /// What a node reports of a partition, if that is of the leader epoch in which it is led now: in an earlier one it may
    /// have been another log.
    fn current(&self, node: NodeId, partition: &PartitionEntry) -> Option<&Problem> {
        let problem = self.reported.get(&(node, partition.record.key))?;
        (problem.leader_epoch == partition.record.state.leader_epoch).then_some(problem)
    }

    /// Whether the leader of a partition says that its log is damaged.
    pub(crate) fn leader_damaged(&self, partition: &PartitionEntry) -> bool {
        let leader = self.leader(&partition.record.state);
        leader.and_then(|leader| self.current(leader, partition)).is_some_and(|found| found.damaged)
    }

    /// What the leader of a partition is known not to have: a replica in service has stopped because committed records
    /// are not there, or its log is damaged. Also of a leader that is gone, as long as nobody has led without proof since.
    /// `None`: nothing that is known.
    pub(crate) fn leader_lacks(&self, partition: &PartitionEntry) -> Option<Lack> {
        let (id, state) = (partition.record.key, &partition.record.state);
        let stopped = |node: &NodeId| {
            let problem =
                self.reported.get(&(*node, id)).filter(|found| !found.damaged && found.node_with_more.is_some());
            let stands = |found: &Problem| match state.leader {
                Some(_) => found.leader_epoch == state.leader_epoch,
                None => found.leader_epoch >= state.unclean_epoch,
            };
            Some(*node) != state.leader && self.serving.contains(node) && problem.is_some_and(stands)
        };
        let damaged = || self.leader_damaged(partition).then_some(Lack::Damaged);
        state.replicas.iter().copied().find(stopped).map(Lack::Committed).or_else(damaged)
    }

    /// Whether a partition can be used and has all its copies.
    pub(crate) fn healthy(&self, partition: &PartitionEntry) -> bool {
        let state = &partition.record.state;
        !state.is_under_replicated() && self.of(partition) == Service::Full
    }

    /// The state of a topic with these partitions, and how many of them lack what. Sizes are not known here.
    pub(crate) fn of_topic<'a>(
        &self,
        partitions: impl Iterator<Item = &'a PartitionEntry> + Clone,
    ) -> (pb::TopicState, pb::TopicStats) {
        let whole = partitions.clone().all(|partition| self.of(partition) == Service::Full);
        let count = |holds: &dyn Fn(&PartitionState) -> bool| {
            let found = partitions.clone().filter(|partition| holds(&partition.record.state)).count();
            i32::try_from(found).unwrap_or(i32::MAX)
        };
        let stats = pb::TopicStats {
            under_replicated_count: count(&PartitionState::is_under_replicated),
            under_min_isr_count: count(&PartitionState::is_under_min_isr),
            offline_count: count(&|state| self.leader(state).is_none()),
            ..Default::default()
        };
        (if whole { pb::TopicState::Ready } else { pb::TopicState::Degraded }, stats)
    }
}

/// Why writes with acks=all are refused.
fn too_few_in_sync(partition: &PartitionState) -> Option<Problem> {
    let (in_sync, min_isr) = (partition.isr.len(), partition.min_isr);
    partition.is_under_min_isr().then(|| {
        let text = format!("{in_sync} of {min_isr} replicas that writes with acks=all need are in sync");
        Problem::of(text)
    })
}

impl Problem {
    fn of(text: String) -> Self {
        Self { text, damaged: false, leader_epoch: LeaderEpoch::NONE, node_with_more: None }
    }
}

#[cfg(test)]
mod tests {
    use walser_metadata::value::UnknownFields;
    use walser_replication::control::PartitionRecord;

    use super::*;

    fn topic() -> TopicId {
        TopicId::from_bytes([7; 16])
    }

    fn partition(number: i32, leader: Option<i32>) -> PartitionEntry {
        let (leader, leader_epoch) = (leader.map(NodeId), LeaderEpoch(1));
        let state = PartitionState { leader, leader_epoch, ..PartitionState::new(vec![NodeId(1)], 1) };
        let key = TopicPartition::new(topic(), PartitionIndex(number));
        PartitionEntry { record: PartitionRecord { key, state, epoch: 1 }, unknown: UnknownFields::default() }
    }

    #[test]
    fn a_topic_is_ready_when_nodes_in_service_lead_and_serve_all_of_it() {
        let mut availability = Availability::new();
        availability.add(NodeId(1), &pb::StorageStats::default());
        let state = |availability: &Availability, leaders: [Option<i32>; 2]| {
            let partitions: Vec<_> = (0..).zip(leaders).map(|(number, leader)| partition(number, leader)).collect();
            let (state, stats) = availability.of_topic(partitions.iter());
            (state, stats.offline_count)
        };
        assert_eq!(state(&availability, [Some(1), Some(1)]), (pb::TopicState::Ready, 0));
        assert_eq!(state(&availability, [Some(1), None]), (pb::TopicState::Degraded, 1));
        assert_eq!(
            state(&availability, [Some(2), Some(2)]),
            (pb::TopicState::Degraded, 2),
            "that node is not in service"
        );
        let mut first = partition(1, Some(2));
        first.record.state.leader_epoch = LeaderEpoch(0);
        let (first, _) = availability.of_topic([partition(0, Some(1)), first].iter());
        assert_eq!(first, pb::TopicState::Degraded, "it may have been led for a long time in its first epoch");
        let problem = pb::PartitionProblem {
            topic_id: topic().to_string(),
            partition: 1,
            problem: "a sync failed".to_owned(),
            damaged: true,
            leader_epoch: 1,
            node_with_more: None,
        };
        let stats = pb::StorageStats { problems: vec![problem], ..Default::default() };
        availability.add(NodeId(1), &stats);
        assert_eq!(state(&availability, [Some(1), Some(1)]), (pb::TopicState::Degraded, 0));
        let problem = |number| availability.problem(&partition(number, Some(1)));
        assert_eq!((problem(0), problem(1).unwrap().damaged), (None, true));
        assert!(availability.problem(&partition(0, Some(2))).is_some());
        assert!(availability.healthy(&partition(0, Some(1))) && !availability.healthy(&partition(1, Some(1))));
    }

    #[test]
    fn what_a_leader_lacks_is_known_in_the_leader_epoch_in_which_it_was_found() {
        let mut led = partition(0, Some(1));
        led.record.state.replicas = vec![NodeId(1), NodeId(2)];
        let report = |damaged, node_with_more| pb::StorageStats {
            problems: vec![pb::PartitionProblem {
                topic_id: topic().to_string(),
                leader_epoch: 1,
                damaged,
                node_with_more,
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut availability = Availability::new();
        availability.add(NodeId(1), &report(true, Some(2)));
        assert_eq!(availability.leader_lacks(&led), Some(Lack::Damaged));
        availability.add(NodeId(2), &report(false, Some(2)));
        assert_eq!(availability.leader_lacks(&led), Some(Lack::Committed(NodeId(2))));
        led.record.state.leader_epoch = LeaderEpoch(2);
        assert_eq!(availability.leader_lacks(&led), None, "of another log, or it is mended");
        led.record.state.leader = None;
        assert_eq!(
            availability.leader_lacks(&led),
            Some(Lack::Committed(NodeId(2))),
            "it has stopped by one that is gone"
        );
        led.record.state.unclean_epoch = LeaderEpoch(2);
        assert_eq!(availability.leader_lacks(&led), None, "people have decided since");
    }

    #[test]
    fn a_partition_that_lacks_copies_is_not_healthy_and_degraded_when_it_takes_no_writes() {
        let mut availability = Availability::new();
        availability.add(NodeId(1), &pb::StorageStats::default());
        let mut lacking = partition(0, Some(1));
        lacking.record.state.replicas = vec![NodeId(1), NodeId(2)];
        let mut described = |min_isr| {
            lacking.record.state.min_isr = min_isr;
            assert!(!availability.healthy(&lacking));
            let (state, stats) = availability.of_topic(std::iter::once(&lacking));
            let problem = availability.problem(&lacking).map(|problem| problem.text);
            (state, [stats.under_replicated_count, stats.under_min_isr_count, stats.offline_count], problem)
        };
        assert_eq!(described(1), (pb::TopicState::Ready, [1, 0, 0], None));
        let text = "1 of 2 replicas that writes with acks=all need are in sync".to_owned();
        assert_eq!(described(2), (pb::TopicState::Degraded, [1, 1, 0], Some(text)));
    }
}
