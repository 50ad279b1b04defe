//! The assignor `uniform`: members that read the same topics get the same number of partitions, give or take one, and
//! keep what they had as far as that allows.
//!
//! Like Kafka's `UniformAssignmentBuilder`, with one algorithm for equal and different subscriptions: members keep what
//! they had, partitions without a member go to the reader with the fewest, and a partition moves while its member has at
//! least two more than another reader of it. Each move makes loads more equal, so that this ends; where it ends, no two
//! readers of a topic, one of which has a partition of it, differ by more than one in that direction.

use std::collections::{BTreeMap, BTreeSet};

use walser_model::{TopicId, TopicPartition};

use super::AssignorMember;
use crate::topics::partitions;

/// Members with the same subscription, the least loaded first: load, and index of the member.
type Class = BTreeSet<(usize, usize)>;

/// An assignment in the making.
struct Assignment {
    targets: Vec<BTreeSet<TopicPartition>>,
    class_of: Vec<usize>,
    classes: Vec<Class>,
    /// The classes that read each topic.
    readers: BTreeMap<TopicId, Vec<usize>>,
    owners: BTreeMap<TopicPartition, usize>,
}

pub(super) fn assign(members: &[AssignorMember], topics: &BTreeMap<TopicId, i32>) -> Vec<Vec<TopicPartition>> {
    let mut assignment = Assignment::new(members);
    assignment.keep(members, topics);
    for (topic, count) in topics {
        for partition in partitions(*topic, *count) {
            if !assignment.owners.contains_key(&partition)
                && let Some((_, reader)) = assignment.least_loaded(*topic)
            {
                assignment.give(partition, reader);
            }
        }
    }
    while assignment.balance() {}
    assignment.targets.into_iter().map(|target| target.into_iter().collect()).collect()
}

impl Assignment {
    fn new(members: &[AssignorMember]) -> Self {
        let mut numbers: BTreeMap<&BTreeSet<TopicId>, usize> = BTreeMap::new();
        let (mut class_of, mut classes, mut readers) = (Vec::new(), Vec::<Class>::new(), BTreeMap::new());
        for (index, member) in members.iter().enumerate() {
            let class = *numbers.entry(&member.topics).or_insert_with(|| {
                classes.push(Class::new());
                let class = classes.len() - 1;
                for topic in member.topics.iter() {
                    readers.entry(*topic).or_insert_with(Vec::new).push(class);
                }
                class
            });
            classes[class].insert((0, index));
            class_of.push(class);
        }
        Self { targets: vec![BTreeSet::new(); members.len()], class_of, classes, readers, owners: BTreeMap::new() }
    }

    /// Members keep what they had: with equal subscriptions at most their share, else all of it.
    fn keep(&mut self, members: &[AssignorMember], topics: &BTreeMap<TopicId, i32>) {
        let read = topics.iter().filter(|(topic, _)| self.readers.contains_key(topic));
        let total: usize = read.map(|(_, count)| usize::try_from(*count).unwrap_or(0)).sum();
        let equal = self.classes.len() == 1;
        let (share, mut larger_shares) = match members.len() {
            count if equal && count > 0 => (total / count, total % count),
            _ => (usize::MAX, 0),
        };
        for (index, member) in members.iter().enumerate() {
            for partition in &member.previous {
                let exists = topics.get(&partition.topic).is_some_and(|count| partition.partition.0 < *count);
                let free = !self.owners.contains_key(partition) && member.topics.contains(&partition.topic);
                let load = self.targets[index].len();
                if !exists || !free || load > share || load == share && larger_shares == 0 {
                    continue;
                }
                larger_shares -= usize::from(load == share);
                self.give(*partition, index);
            }
        }
    }

    /// The reader of a topic with the fewest partitions: its load, and its index.
    fn least_loaded(&self, topic: TopicId) -> Option<(usize, usize)> {
        self.readers.get(&topic)?.iter().filter_map(|class| self.classes[*class].first()).min().copied()
    }

    /// Moves each partition whose member has at least two more than another reader. Returns whether any moved.
    fn balance(&mut self) -> bool {
        let before: Vec<(TopicPartition, usize)> = self.owners.iter().map(|(found, owner)| (*found, *owner)).collect();
        let mut moved = false;
        for (partition, owner) in before {
            if let Some((load, reader)) = self.least_loaded(partition.topic)
                && self.targets[owner].len() >= load + 2
            {
                self.set_load(owner, |target| target.remove(&partition));
                self.give(partition, reader);
                moved = true;
            }
        }
        moved
    }

    fn give(&mut self, partition: TopicPartition, member: usize) {
        self.set_load(member, |target| target.insert(partition));
        self.owners.insert(partition, member);
    }

    fn set_load(&mut self, member: usize, change: impl FnOnce(&mut BTreeSet<TopicPartition>) -> bool) {
        let class = &mut self.classes[self.class_of[member]];
        class.remove(&(self.targets[member].len(), member));
        change(&mut self.targets[member]);
        class.insert((self.targets[member].len(), member));
    }
}
