//! The assignor `uniform`: members that read the same topics get the same number of partitions, give or take one, and
//! keep what they had as far as that allows.
//!
//! Like Kafka's `UniformAssignmentBuilder`, with one algorithm for equal and different subscriptions: members keep what
//! they had, partitions without a member go to the reader with the fewest, and a partition moves while its member has at
//! least two more than another reader of it. Each move makes loads more equal, so that this ends; where it ends, no two
//! readers of a topic, one of which has a partition of it, differ by more than one in that direction.
//!
//! The reader with the fewest is found in one of two ways, so that a step costs at most about as much as there are different
//! subscriptions: a class of members that reads few topics keeps its place in an order of each; one that reads more topics than
//! there are classes is looked at whenever somebody asks.

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
    /// Who reads each topic.
    readers: BTreeMap<TopicId, Readers>,
    owners: BTreeMap<TopicPartition, usize>,
    /// Places that were changed, and classes that were looked at. For tests.
    steps: std::cell::Cell<usize>,
}

/// The classes that read a topic.
#[derive(Default)]
struct Readers {
    /// Those that read few topics, the one with the least loaded member first: its load, and the class.
    ordered: BTreeSet<(usize, usize)>,
    /// Those that read many.
    others: Vec<usize>,
}

pub(super) fn assign(members: &[AssignorMember], topics: &BTreeMap<TopicId, i32>) -> Vec<Vec<TopicPartition>> {
    let assignment = Assignment::of(members, topics);
    assignment.targets.into_iter().map(|target| target.into_iter().collect()).collect()
}

fn least_load(class: &Class) -> usize {
    class.first().map_or(0, |(load, _)| *load)
}

impl<'a> Assignment<'a> {
    /// The whole assignment.
    fn of(members: &'a [AssignorMember], topics: &BTreeMap<TopicId, i32>) -> Self {
        let mut assignment = Self::new(members);
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
        assignment
    }

    fn new(members: &'a [AssignorMember]) -> Self {
        let mut numbers: BTreeMap<&BTreeSet<TopicId>, usize> = BTreeMap::new();
        let (mut class_of, mut classes, mut topics) = (Vec::new(), Vec::<Class>::new(), Vec::new());
        for (index, member) in members.iter().enumerate() {
            let class = *numbers.entry(&member.topics).or_insert_with(|| {
                let class = classes.len();
                classes.push(Class::new());
                topics.push(&*member.topics);
                class
            });
            classes[class].insert((0, index));
            class_of.push(class);
        }
        let mut readers: BTreeMap<TopicId, Readers> = BTreeMap::new();
        for (class, read) in topics.iter().enumerate() {
            for topic in *read {
                let readers = readers.entry(*topic).or_default();
                if read.len() > classes.len() {
                    readers.others.push(class);
                } else {
                    readers.ordered.insert((0, class));
                }
            }
        }
        let targets = vec![BTreeSet::new(); members.len()];
        Self { targets, class_of, classes, topics, readers, owners: BTreeMap::new(), steps: std::cell::Cell::new(0) }
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
        let Readers { ordered, others } = self.readers.get(&topic)?;
        self.steps.set(self.steps.get() + 1 + others.len());
        let looked_at = others.iter().map(|class| (least_load(&self.classes[*class]), *class));
        let (_, class) = ordered.first().copied().into_iter().chain(looked_at).min()?;
        self.classes[class].first().copied()
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
        let before = least_load(class);
        class.remove(&(self.targets[member].len(), member));
        change(&mut self.targets[member]);
        class.insert((self.targets[member].len(), member));
        let after = least_load(class);
        if before == after || self.topics[number].len() > self.classes.len() {
            return;
        }
        self.steps.set(self.steps.get() + self.topics[number].len());
        for topic in self.topics[number] {
            if let Some(readers) = self.readers.get_mut(topic) {
                readers.ordered.remove(&(before, number));
                readers.ordered.insert((after, number));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A member that reads topics by their numbers.
    fn member(rank: usize, topics: impl Iterator<Item = u64>) -> AssignorMember {
        let topics = Arc::new(topics.map(topic).collect());
        AssignorMember { rank: format!("{rank:05}"), topics, previous: Vec::new() }
    }

    fn topic(number: u64) -> TopicId {
        TopicId::from_bytes(u128::from(number + 1).to_be_bytes())
    }

    /// Steps per partition, at the first assignment and when the last member has gone.
    fn steps(members: &[AssignorMember], topics: u64, partition_count: i32) -> (usize, usize) {
        let topics: BTreeMap<_, _> = (0..topics).map(|number| (topic(number), partition_count)).collect();
        let partitions = topics.len() * usize::try_from(partition_count).unwrap();
        let first = Assignment::of(members, &topics);
        let mut after = members.to_vec();
        for (member, target) in after.iter_mut().zip(&first.targets) {
            member.previous = target.iter().copied().collect();
        }
        after.pop();
        let second = Assignment::of(&after, &topics).steps.get();
        (first.steps.get() / partitions, second / partitions)
    }

    #[test]
    fn a_partition_costs_a_few_steps_however_many_topics_a_subscription_has() {
        // Two of many topics, of which one has one less.
        let two: Vec<_> = (0..2).map(|index| member(index, 0..10_000 - u64::from(index == 1))).collect();
        let (first, second) = steps(&two, 10_000, 1);
        assert!(first <= 10 && second <= 10, "{first} and {second}");
        // As many as members, each of a topic of all and one of its own.
        let own: Vec<_> = (0..2_000).map(|index| member(index, [0, 1 + index as u64].into_iter())).collect();
        let (first, second) = steps(&own, 2_001, 10);
        assert!(first <= 20 && second <= 20, "{first} and {second}");
    }
}
