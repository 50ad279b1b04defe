//! Which nodes get which replicas. Pure.
//!
//! Leaders go round over the nodes in service, beginning at another one for each topic, and the other replicas of a
//! partition are shifted against its leader each time round, as in Kafka: a node that fails leaves its load to all others.
//! Nodes that are away are used where there are not enough, as in KRaft: they are replicas that follow when they are back;
//! so are, after them, those whose data directory has failed: they follow when they have another one.
//! Before those that are away a topic of Walser itself also uses cordoned ones: without it there would be no groups.

use walser_metadata::View;
use walser_model::{NodeId, RESERVED_PREFIX, TopicId};
use walser_replication::NodeSet;
use walser_rpc::{ApiError, Reason};

/// Nodes that replicas can be placed on, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// In service.
    usable: Vec<NodeId>,
    /// In service and cordoned, for a topic of Walser itself.
    spare: Vec<NodeId>,
    /// Registered, and fenced or about to stop.
    away: Vec<NodeId>,
    /// In service and not cordoned, and the data directory has failed.
    failed: Vec<NodeId>,
    /// Away or failed, and cordoned, for a topic of Walser itself: such a node may be about to leave for good.
    leaving: Vec<NodeId>,
    /// How many get no new replicas, as operators wish.
    cordoned: usize,
}

impl Places {
    /// Those for partitions of the topic of this name, where the data directories of `failed` have failed.
    pub(crate) fn of(metadata: &View, failed: &NodeSet, topic: &str) -> Self {
        let (mut places, internal) = (Self::default(), topic.starts_with(RESERVED_PREFIX));
        for (id, node) in metadata.nodes().filter(|(_, node)| node.epoch > 0) {
            let in_service = !node.liveness.fenced && !node.liveness.shutting_down;
            match (in_service && !failed.contains(id), node.liveness.cordoned) {
                (true, false) => places.usable.push(id),
                (false, false) if in_service => places.failed.push(id),
                (false, false) => places.away.push(id),
                (true, true) if internal => places.spare.push(id),
                (false, true) if internal => places.leaving.push(id),
                (_, true) => places.cordoned += 1,
            }
        }
        places
    }

    /// What else there is, in words.
    fn beside(&self) -> String {
        let cordoned = more_cordoned(self.cordoned + self.leaving.len());
        let failed =
            || format!("the data directory of {} more has failed: `walser status` says why", self.failed.len());
        let failed = (!self.failed.is_empty()).then(failed);
        in_brackets(&Vec::from_iter(cordoned.into_iter().chain(failed)))
    }

    /// Whether a node is in service.
    pub(crate) fn is_usable(&self, node: NodeId) -> bool {
        self.usable.contains(&node)
    }

    /// Whether partitions of so many replicas can be placed now.
    pub(crate) fn check(&self, replication_factor: i32) -> Result<(), ApiError> {
        self.place(TopicId::from_bytes([0; 16]), 0, replication_factor).map(drop)
    }

    /// The replicas of a partition; the first one is its preferred leader, and in service.
    ///
    /// # Errors
    /// `LEADER_NOT_AVAILABLE` when no node is in service, `REPLICATION_FACTOR_TOO_HIGH` when there are fewer nodes, or those
    /// that there are take no new replicas.
    pub(crate) fn place(
        &self,
        topic: TopicId,
        partition: i32,
        replication_factor: i32,
    ) -> Result<Vec<NodeId>, ApiError> {
        let (wanted, known) = (usize::try_from(replication_factor).unwrap_or(0), self.known());
        // Those that are away may be back in a moment.
        let passes = self.cordoned == 0 || known > 0;
        if self.usable.is_empty() && self.spare.is_empty() && passes {
            let which = if self.cordoned == 0 { "" } else { " that takes new partitions" };
            let beside = self.beside();
            let works = if self.failed.is_empty() { "" } else { " whose data directory works" };
            let text = format!(
                "no storage node{works}{which} is in service{beside}; start one, or wait until it has registered"
            );
            return Err(ApiError::new(Reason::LeaderNotAvailable, text));
        }
        if self.usable.is_empty() && self.spare.is_empty() {
            let text = format!(
                "no storage node takes new partitions, {} cordoned or drained; take one back with `walser node uncordon \
                 ID`, or start another one",
                if self.cordoned == 1 { "1 is".to_owned() } else { format!("{} are", self.cordoned) }
            );
            let failure = ApiError::new(Reason::ReplicationFactorTooHigh, text);
            return Err(failure.with("requested", replication_factor).with("available", 0));
        }
        if wanted > known || wanted == 0 {
            let text = format!(
                "replication factor {replication_factor} needs {replication_factor} storage nodes; {known} available{}",
                in_brackets(&Vec::from_iter(more_cordoned(self.cordoned)))
            );
            let failure = ApiError::new(Reason::ReplicationFactorTooHigh, text);
            return Err(failure.with("requested", replication_factor).with("available", known));
        }
        let begin = first_place(topic).wrapping_add(usize::try_from(partition).unwrap_or(0));
        let mut replicas = Vec::with_capacity(wanted);
        for nodes in [&self.usable, &self.spare, &self.away, &self.failed, &self.leaving] {
            replicas.extend(from(nodes, begin, wanted - replicas.len()));
        }
        Ok(replicas)
    }

    fn known(&self) -> usize {
        self.usable.len() + self.spare.len() + self.away.len() + self.failed.len() + self.leaving.len()
    }
}

/// Nodes that take no new replicas.
fn more_cordoned(count: usize) -> Option<String> {
    (count > 0).then(|| format!("{count} more cordoned: `walser node uncordon ID`"))
}

fn in_brackets(words: &[String]) -> String {
    if words.is_empty() { String::new() } else { format!(" ({})", words.join("; ")) }
}

/// Where the partitions of a topic begin: its id is random.
fn first_place(topic: TopicId) -> usize {
    let bytes = topic.to_bytes();
    usize::from(u16::from_be_bytes([bytes[14], bytes[15]]))
}

/// At most `wanted` nodes: the one at `begin`, counted round, and others that are shifted with every round.
fn from(nodes: &[NodeId], begin: usize, wanted: usize) -> Vec<NodeId> {
    let Some(others) = nodes.len().checked_sub(1) else { return Vec::new() };
    let (first, shift) = (begin % nodes.len(), begin / nodes.len());
    let other = |step: usize| nodes[(first + 1 + (shift + step) % others) % nodes.len()];
    let rest = (0..wanted.min(nodes.len()).saturating_sub(1)).map(other);
    (wanted > 0).then(|| nodes[first]).into_iter().chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use walser_proto::v1::RetryAdvice;

    use super::*;

    fn places(usable: &[i32], away: &[i32]) -> Places {
        let ids = |numbers: &[i32]| numbers.iter().copied().map(NodeId).collect();
        Places { usable: ids(usable), away: ids(away), ..Places::default() }
    }

    fn topic(number: u16) -> TopicId {
        let mut bytes = [7; 16];
        bytes[14..].copy_from_slice(&number.to_be_bytes());
        TopicId::from_bytes(bytes)
    }

    #[test]
    fn leaders_spread_over_nodes_within_a_topic_and_over_topics() {
        let places = places(&[1, 2, 3], &[]);
        let of_topic = (0..6).flat_map(|partition| places.place(topic(0), partition, 1).unwrap());
        assert_eq!(of_topic.map(|node| node.0).collect::<Vec<_>>(), [1, 2, 3, 1, 2, 3]);
        let first = (0..6).flat_map(|number| places.place(topic(number), 0, 1).unwrap());
        assert_eq!(first.map(|node| node.0).collect::<Vec<_>>(), [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn the_replicas_of_a_partition_are_different_nodes_and_those_of_one_leader_are_spread() {
        let places = places(&[1, 2, 3, 5], &[]);
        let mut followers = BTreeMap::<NodeId, BTreeSet<NodeId>>::new();
        for partition in 0..24 {
            let placed = places.place(topic(9), partition, 2).unwrap();
            followers.entry(placed[0]).or_default().insert(placed[1]);
        }
        assert!(followers.len() == 4 && followers.values().all(|others| others.len() == 3), "{followers:?}");
        for partition in 0..24 {
            let placed = places.place(topic(9), partition, 4).unwrap();
            assert_eq!(placed.iter().collect::<BTreeSet<_>>().len(), 4, "{placed:?}");
        }
    }

    #[test]
    fn nodes_that_are_away_are_used_last_and_more_than_there_are_is_refused() {
        for partition in 0..9 {
            let placed = places(&[1, 3], &[2, 4]).place(topic(1), partition, 3).unwrap();
            let away = placed.iter().filter(|node| node.0 % 2 == 0).count();
            assert!(placed.len() == 3 && away == 1 && placed[2].0 % 2 == 0, "{placed:?}");
        }
        let refused = places(&[1], &[2]).place(topic(1), 0, 3).unwrap_err();
        assert_eq!(refused.reason(), Reason::ReplicationFactorTooHigh);
        assert_eq!(refused.message(), "replication factor 3 needs 3 storage nodes; 2 available");
    }

    #[test]
    fn a_topic_of_walser_itself_uses_cordoned_nodes_before_those_that_are_away() {
        let spare = |usable: &[i32], spare: &[i32], away: &[i32]| Places {
            spare: spare.iter().copied().map(NodeId).collect(),
            ..places(usable, away)
        };
        for partition in 0..6 {
            let placed = spare(&[1, 2], &[3], &[4]).place(topic(1), partition, 3).unwrap();
            assert!(placed.len() == 3 && placed[2] == NodeId(3), "{placed:?}");
        }
        assert_eq!(spare(&[], &[3], &[4]).place(topic(1), 0, 2).unwrap(), [NodeId(3), NodeId(4)]);
        let leaving = Places { leaving: vec![NodeId(5)], ..places(&[1], &[4]) };
        assert_eq!(leaving.place(topic(1), 0, 2).unwrap(), [NodeId(1), NodeId(4)], "it stays out where it can");
        assert_eq!(leaving.place(topic(1), 0, 3).unwrap(), [NodeId(1), NodeId(4), NodeId(5)]);
        let restarts = Places { leaving: vec![NodeId(5)], ..Places::default() };
        assert_eq!(restarts.place(topic(1), 0, 1).unwrap_err().reason(), Reason::LeaderNotAvailable);
    }

    #[test]
    fn a_node_whose_directory_has_failed_is_used_last_and_never_alone() {
        let failed = |usable: &[i32], away: &[i32]| Places { failed: vec![NodeId(2)], ..places(usable, away) };
        for partition in 0..6 {
            let placed = failed(&[1, 3], &[4]).place(topic(1), partition, 2).unwrap();
            assert!(!placed.contains(&NodeId(2)) && !placed.contains(&NodeId(4)), "{placed:?}");
            assert_eq!(failed(&[1], &[4]).place(topic(1), partition, 3).unwrap(), [NodeId(1), NodeId(4), NodeId(2)]);
        }
        let refused = failed(&[], &[]).place(topic(1), 0, 1).unwrap_err();
        assert_eq!((refused.reason(), refused.retry()), (Reason::LeaderNotAvailable, RetryAdvice::Backoff));
        assert!(refused.message().contains("the data directory of 1 more has failed"), "{refused}");
        let few = failed(&[1], &[]).place(topic(1), 0, 3).unwrap_err();
        assert_eq!(few.message(), "replication factor 3 needs 3 storage nodes; 2 available", "it is one of them");
    }

    #[test]
    fn that_all_nodes_are_cordoned_does_not_pass_by_itself() {
        let refused = Places { cordoned: 2, ..places(&[], &[]) }.place(topic(1), 0, 1).unwrap_err();
        assert_eq!((refused.reason(), refused.retry()), (Reason::ReplicationFactorTooHigh, RetryAdvice::Never));
        assert!(refused.message().contains("2 are cordoned or drained"), "{refused}");
        let away = Places { cordoned: 2, ..places(&[], &[1]) }.place(topic(1), 0, 1).unwrap_err();
        assert_eq!((away.reason(), away.retry()), (Reason::LeaderNotAvailable, RetryAdvice::Backoff));
        assert!(away.message().contains("2 more cordoned"), "{away}");
    }

    #[test]
    fn without_a_node_in_service_it_is_not_the_replication_factor_that_is_wrong() {
        let refused = places(&[], &[1]).place(topic(1), 0, 1).unwrap_err();
        assert_eq!((refused.reason(), refused.retry()), (Reason::LeaderNotAvailable, RetryAdvice::Backoff));
        assert!(refused.message().starts_with("no storage node is in service;"), "{refused}");
    }
}
