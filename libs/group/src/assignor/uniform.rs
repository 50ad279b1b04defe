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
struct Assignment<'a> {
    targets: Vec<BTreeSet<TopicPartition>>,
    class_of: Vec<usize>,
    classes: Vec<Class>,
    /// What each class reads.
    topics: Vec<&'a BTreeSet<TopicId>>,
    /// The classes that read each topic, the one with the least loaded member first: its load, and the class.
    readers: BTreeMap<TopicId, BTreeSet<(usize, usize)>>,
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

impl<'a> Assignment<'a> {
    fn new(members: &'a [AssignorMember]) -> Self {
        let mut numbers: BTreeMap<&BTreeSet<TopicId>, usize> = BTreeMap::new();
        let (mut class_of, mut classes, mut topics) = (Vec::new(), Vec::<Class>::new(), Vec::new());
        let mut readers: BTreeMap<TopicId, BTreeSet<(usize, usize)>> = BTreeMap::new();
        for (index, member) in members.iter().enumerate() {
            let class = *numbers.entry(&member.topics).or_insert_with(|| {
                let class = classes.len();
                classes.push(Class::new());
                topics.push(&*member.topics);
                for topic in member.topics.iter() {
                    readers.entry(*topic).or_default().insert((0, class));
                }
                class
            });
            classes[class].insert((0, index));
            class_of.push(class);
        }
        let targets = vec![BTreeSet::new(); members.len()];
        Self { targets, class_of, classes, topics, readers, owners: BTreeMap::new() }
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
                let exists =
                    topics.get(&partition.topic).is_some_and(|count| (0..*count).contains(&partition.partition.0));
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
        let (_, class) = self.readers.get(&topic)?.first()?;
        self.classes[*class].first().copied()
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
        let number = self.class_of[member];
        let class = &mut self.classes[number];
        let least = |class: &Class| class.first().map_or(0, |(load, _)| *load);
        let before = least(class);
        class.remove(&(self.targets[member].len(), member));
        change(&mut self.targets[member]);
        class.insert((self.targets[member].len(), member));
        let after = least(class);
        // A single class needs no order among classes.
        if before == after || self.classes.len() == 1 {
            return;
        }
        for topic in self.topics[number] {
            if let Some(readers) = self.readers.get_mut(topic) {
                readers.remove(&(before, number));
                readers.insert((after, number));
            }
        }
    }
}
