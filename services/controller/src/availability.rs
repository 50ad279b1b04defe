//! Which partitions are in service, as far as the controller can know: who leads them, whether that node is in service,
//! and what it reports of them. What a gateway can reach is for the gateway to add.

use std::collections::{HashMap, HashSet};

use walser_model::{PartitionIndex, TopicId, TopicPartition};
use walser_proto::v1 as pb;

use crate::keys::partition::Partition;
use crate::nodes::Known;

/// The storage nodes that are in service, and what they report.
#[derive(Debug, Clone, Default)]
pub(crate) struct Availability {
    serving: HashSet<i32>,
    /// A node, a partition that it cannot serve, and why. Each node reports at most 100 of them.
    reported: HashMap<(i32, TopicPartition), Problem>,
}

/// Why a partition cannot be used, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) text: String,
    /// Durable records are damaged or gone.
    pub(crate) damaged: bool,
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
}

// === impl Availability ===

impl Availability {
    /// Nobody serves anything yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a node that is in service, with what it reported last.
    pub(crate) fn add(&mut self, node: &Known, stats: &pb::StorageStats) {
        self.serving.insert(node.id);
        let partition = |problem: &pb::PartitionProblem| {
            let topic: TopicId = problem.topic_id.parse().ok()?;
            let id = TopicPartition::new(topic, PartitionIndex(problem.partition));
            Some(((node.id, id), Problem { text: problem.problem.clone(), damaged: problem.damaged }))
        };
        self.reported.extend(stats.problems.iter().filter_map(partition));
    }

    /// Whether a partition can be used.
    fn of(&self, topic: TopicId, number: i32, partition: &Partition) -> Service {
        let id = TopicPartition::new(topic, PartitionIndex(number));
        if !self.serving.contains(&partition.leader) {
            Service::Leaderless
        } else if self.reported.contains_key(&(partition.leader, id)) {
            Service::Failed
        } else {
            Service::Full
        }
    }

    /// Why a partition cannot be used, or not all of it.
    pub(crate) fn problem(&self, topic: TopicId, number: i32, partition: &Partition) -> Option<Problem> {
        if !self.serving.contains(&partition.leader) {
            let text = "no storage node that is in service leads it".to_owned();
            return Some(Problem { text, damaged: false });
        }
        let id = TopicPartition::new(topic, PartitionIndex(number));
        self.reported.get(&(partition.leader, id)).cloned()
    }

    /// Whether a partition can be used and has all its copies.
    pub(crate) fn healthy(&self, topic: TopicId, number: i32, partition: &Partition) -> bool {
        let whole = !under_replicated(partition) && !under_min_isr(partition);
        whole && self.of(topic, number, partition) == Service::Full
    }

    /// The state of a topic with these partitions, and how many of them lack what. Sizes are not known here.
    pub(crate) fn of_topic(&self, topic: TopicId, partitions: &[(i32, Partition)]) -> (pb::TopicState, pb::TopicStats) {
        let state = |(number, partition): &(i32, Partition)| match self.of(topic, *number, partition) {
            Service::Full => pb::TopicState::Ready,
            // Every election begins another epoch: in the first one nobody has led before.
            Service::Leaderless if partition.leader_epoch == 0 => pb::TopicState::Creating,
            Service::Leaderless | Service::Failed => pb::TopicState::Degraded,
        };
        let states = || partitions.iter().map(state);
        let worst = [pb::TopicState::Degraded, pb::TopicState::Creating];
        let found = worst.into_iter().find(|wanted| states().any(|state| state == *wanted));
        let state = found.unwrap_or(pb::TopicState::Ready);
        let count = |holds: &dyn Fn(&Partition) -> bool| {
            let found = partitions.iter().filter(|(_, partition)| holds(partition)).count();
            i32::try_from(found).unwrap_or(i32::MAX)
        };
        let stats = pb::TopicStats {
            under_replicated_count: count(&under_replicated),
            under_min_isr_count: count(&under_min_isr),
            offline_count: count(&|partition| !self.serving.contains(&partition.leader)),
            ..Default::default()
        };
        (state, stats)
    }
}

fn under_replicated(partition: &Partition) -> bool {
    partition.isr.len() < partition.replicas.len()
}

fn under_min_isr(partition: &Partition) -> bool {
    i32::try_from(partition.isr.len()).is_ok_and(|in_sync| in_sync < partition.min_isr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::node::Registration;

    fn topic() -> TopicId {
        TopicId::from_bytes([7; 16])
    }

    fn node(id: i32) -> Known {
        let registration = Registration {
            incarnation: String::new(),
            roles: Vec::new(),
            internal_address: String::new(),
            public_address: String::new(),
            rack: String::new(),
            version: String::new(),
            started_ms: 0,
            directory: String::new(),
        };
        Known { id, registration, node_epoch: 1, fenced: false }
    }

    fn led_by(leader: i32) -> Partition {
        Partition { replicas: vec![1], leader, leader_epoch: 1, isr: vec![1], min_isr: 1 }
    }

    #[test]
    fn a_topic_is_ready_when_nodes_in_service_lead_and_serve_all_of_it() {
        let mut availability = Availability::new();
        availability.add(&node(1), &pb::StorageStats::default());
        let state = |availability: &Availability, leaders: [i32; 2]| {
            let (state, stats) = availability.of_topic(topic(), &[(0, led_by(leaders[0])), (1, led_by(leaders[1]))]);
            (state, stats.offline_count)
        };
        assert_eq!(state(&availability, [1, 1]), (pb::TopicState::Ready, 0));
        assert_eq!(state(&availability, [1, -1]), (pb::TopicState::Degraded, 1));
        assert_eq!(state(&availability, [2, 2]), (pb::TopicState::Degraded, 2), "that node is not in service");
        let created = Partition { leader_epoch: 0, ..led_by(2) };
        let (first, _) = availability.of_topic(topic(), &[(0, led_by(1)), (1, created.clone())]);
        assert_eq!(first, pb::TopicState::Creating, "nobody has led it yet");
        let (other, _) = availability.of_topic(topic(), &[(0, led_by(2)), (1, created)]);
        assert_eq!(other, pb::TopicState::Degraded);
        let problem = pb::PartitionProblem {
            topic_id: topic().to_string(),
            partition: 1,
            problem: "a sync failed".to_owned(),
            damaged: true,
        };
        let stats = pb::StorageStats { problems: vec![problem], ..Default::default() };
        availability.add(&node(1), &stats);
        assert_eq!(state(&availability, [1, 1]), (pb::TopicState::Degraded, 0));
        let problem = |number| availability.problem(topic(), number, &led_by(1));
        assert_eq!((problem(0), problem(1).unwrap().damaged), (None, true));
        assert!(availability.problem(topic(), 0, &led_by(2)).is_some());
        assert!(availability.healthy(topic(), 0, &led_by(1)) && !availability.healthy(topic(), 1, &led_by(1)));
    }

    #[test]
    fn a_partition_that_lacks_copies_is_in_service_and_not_healthy() {
        let mut availability = Availability::new();
        availability.add(&node(1), &pb::StorageStats::default());
        let partition = Partition { replicas: vec![1, 2], min_isr: 2, ..led_by(1) };
        assert!(!availability.healthy(topic(), 0, &partition));
        let (state, stats) = availability.of_topic(topic(), &[(0, partition)]);
        assert_eq!(state, pb::TopicState::Ready);
        assert_eq!((stats.under_replicated_count, stats.under_min_isr_count, stats.offline_count), (1, 1, 0));
    }
}
