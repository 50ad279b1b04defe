//! From changes of members and topics to assignments, and from targets to what members hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use walser_model::{TopicId, TopicName, TopicPartition};

use super::{GroupShard, NoticeContent, Now, Output};
use crate::assignor::{AssignorMember, assign};
use crate::config::Config;
use crate::deadlines::Timer;
use crate::event::Event;
use crate::group::Group;
use crate::id::{GroupId, MemberId};
use crate::rules::GroupRule;
use crate::subscription::{Assignor, Pattern, Subscription};
use crate::topics::TopicChange;

/// Compiled patterns that are kept; all are dropped when there are more.
const PATTERNS_KEPT: usize = 64;

/// The topics that a member reads; members with the same subscription share them.
type TopicIds = Arc<BTreeSet<TopicId>>;

/// The subscriptions of a group, as topics are.
struct Resolved {
    /// What each member reads.
    topics: BTreeMap<MemberId, TopicIds>,
    /// The partitions that the group shares of each topic.
    counts: BTreeMap<TopicId, i32>,
}

/// Compiled patterns, by their text. `None`: it does not compile, although an earlier version took it.
#[derive(Debug, Default)]
pub(super) struct PatternCache(BTreeMap<String, Option<Arc<Pattern>>>);

impl PatternCache {
    fn get(&mut self, pattern: &str, config: &Config) -> Option<Arc<Pattern>> {
        if let Some(found) = self.0.get(pattern) {
            return found.clone();
        }
        if self.0.len() >= PATTERNS_KEPT {
            self.0.clear();
        }
        let compiled = Pattern::compile(pattern, config).ok().map(Arc::new);
        self.0.insert(pattern.to_owned(), compiled.clone());
        compiled
    }
}

/// The assignor that most members prefer; the default on a tie.
pub(super) fn assignor_of(group: &Group) -> Assignor {
    let records = group.members.values().filter_map(|member| member.record.as_ref());
    let preferred = records.filter_map(|record| record.subscription.assignor);
    let (range, uniform): (Vec<_>, Vec<_>) = preferred.partition(|assignor| *assignor == Assignor::Range);
    if range.len() > uniform.len() { Assignor::Range } else { Assignor::Uniform }
}

impl GroupShard {
    /// Topics have come, gone, grown, or been created again. Groups that read them get another assignment. Committed
    /// offsets of a topic that metadata does not have are kept, as long as there is room: its absence proves nothing.
    pub fn topics_changed(&mut self, now: Now, changes: Vec<TopicChange>, out: &mut Output) {
        let changed: Vec<TopicName> = changes.into_iter().filter_map(|change| self.topics.change(change)).collect();
        let mut groups: BTreeSet<GroupId> = BTreeSet::new();
        for topic in &changed {
            groups.extend(self.state.groups_that_name(topic).cloned());
        }
        let with_pattern: Vec<GroupId> =
            self.state.groups_with_pattern().filter(|group| !groups.contains(*group)).cloned().collect();
        for id in with_pattern {
            if self.patterns_of(&id).iter().any(|pattern| changed.iter().any(|topic| pattern.matches(topic))) {
                groups.insert(id);
            }
        }
        if self.rule(GroupRule::TopicsReassign) {
            groups.iter().for_each(|id| self.reassign_if_needed(now, id, out));
        }
    }

    /// Begins an epoch if the partitions that members read are not those that their targets cover.
    pub(super) fn reassign_if_needed(&mut self, now: Now, id: &GroupId, out: &mut Output) {
        let Resolved { counts, .. } = self.subscriptions(id);
        let Some(group) = self.state.group(id).filter(|group| !group.members.is_empty()) else { return };
        let wanted: usize = counts.values().map(|count| usize::try_from(*count).unwrap_or(0)).sum();
        let mut targeted = group.members.values().flat_map(|member| &member.target);
        let total: usize = group.members.values().map(|member| member.target.len()).sum();
        let exists = |partition: &TopicPartition| {
            counts.get(&partition.topic).is_some_and(|count| (0..*count).contains(&partition.partition.0))
        };
        if total != wanted || !targeted.all(exists) {
            self.begin_epoch(id, out);
        }
        self.settle(now, id, out);
    }

    /// Assigns a group whose assignment is due, now or when its interval is over, and has members take their next steps.
    pub(super) fn settle(&mut self, now: Now, id: &GroupId, out: &mut Output) {
        let Some(group) = self.state.group(id) else { return };
        if group.epoch() > group.assignment_epoch && !group.members.is_empty() {
            let wait = self.config.assignment_interval;
            match self.assigned_at.get(id).map(|at| *at + wait).filter(|at| *at > now.monotonic) {
                Some(at) => self.deadlines.set(Timer::Assignment(id.clone()), at),
                None => self.assign(now, id, out),
            }
        }
        self.reconcile(now, id, out);
    }

    /// Computes and writes the targets of a group.
    pub(super) fn assign(&mut self, now: Now, id: &GroupId, out: &mut Output) {
        let Resolved { topics, counts } = self.subscriptions(id);
        let Some(group) = self.state.group(id) else { return };
        let input = |(member, topics): (&MemberId, &TopicIds)| {
            let known = &group.members[member];
            let instance = known.record.as_ref().and_then(|record| record.instance.as_ref());
            let rank = instance.map_or(member.as_str(), |instance| instance.as_str()).to_owned();
            AssignorMember { rank, topics: Arc::clone(topics), previous: known.target.clone() }
        };
        let members: Vec<AssignorMember> = topics.iter().map(input).collect();
        let targets = assign(assignor_of(group), &members, &counts);
        let epoch = group.epoch();
        for ((member, before), target) in topics.into_keys().zip(members).zip(targets) {
            if before.previous != target {
                self.emit(Event::Target(id.clone(), member, Some(target)), out);
            }
        }
        self.emit(Event::AssignmentEpoch(id.clone(), Some(epoch)), out);
        self.deadlines.cancel(Timer::Assignment(id.clone()));
        self.assigned_at.insert(id.clone(), now.monotonic);
    }

    /// Has members take their next steps.
    fn reconcile(&mut self, now: Now, id: &GroupId, out: &mut Output) {
        let Some(group) = self.state.group(id) else { return };
        let unsettled = group.members.iter().filter(|(_, member)| !member.is_settled(group.assignment_epoch));
        let members: Vec<MemberId> = unsettled.map(|(member, _)| member.clone()).collect();
        for member in members {
            let Some(group) = self.state.group(id) else { return };
            let Some(next) = group.next_assignment(&member, self.config.rules) else { continue };
            let before = &group.members[&member];
            let asked = next.revoking.len() > before.current.revoking.len();
            let timeout = before.record.as_ref().map(|record| record.revocation_timeout).unwrap_or_default();
            if asked && self.rule(GroupRule::RevocationTimesOut) {
                self.deadlines.set(Timer::Revocation(id.clone(), member.clone()), now.monotonic + timeout);
            }
            self.emit(Event::Current(id.clone(), member.clone(), Some(next.clone())), out);
            if let Some(known) = self.state.member(id, &member) {
                self.notify(id, &member, known, NoticeContent::Assignment(next), out);
            }
        }
    }

    /// Resolves the subscriptions of a group.
    fn subscriptions(&mut self, id: &GroupId) -> Resolved {
        let (mut topics, mut counts) = (BTreeMap::new(), BTreeMap::new());
        let Some(group) = self.state.group(id) else { return Resolved { topics, counts } };
        // Most members of a group subscribe to the same.
        let mut resolved: BTreeMap<(&BTreeSet<TopicName>, Option<&str>), TopicIds> = BTreeMap::new();
        let none = Subscription::default();
        for (member, known) in &group.members {
            let subscription = known.record.as_ref().map_or(&none, |record| &record.subscription);
            let Subscription { topics: named, pattern, .. } = subscription;
            let read = resolved.entry((named, pattern.as_deref())).or_insert_with(|| {
                let mut read: BTreeSet<TopicId> = self.topics.named(subscription).collect();
                if let Some(pattern) = pattern.as_ref().and_then(|text| self.patterns.get(text, &self.config)) {
                    read.extend(self.topics.matched(&pattern));
                }
                counts.extend(read.iter().map(|topic| (*topic, self.topics.partition_count(*topic))));
                Arc::new(read)
            });
            topics.insert(member.clone(), Arc::clone(read));
        }
        let mut left = i32::try_from(self.config.group_partitions_max).unwrap_or(i32::MAX);
        for count in counts.values_mut() {
            *count = (*count).min(left);
            left -= *count;
        }
        Resolved { topics, counts }
    }

    /// The patterns of the members of a group, compiled.
    fn patterns_of(&mut self, id: &GroupId) -> Vec<Arc<Pattern>> {
        let Some(group) = self.state.group(id) else { return Vec::new() };
        let records = group.members.values().filter_map(|member| member.record.as_ref());
        let texts: BTreeSet<&String> = records.filter_map(|record| record.subscription.pattern.as_ref()).collect();
        texts.into_iter().filter_map(|text| self.patterns.get(text, &self.config)).collect()
    }
}
