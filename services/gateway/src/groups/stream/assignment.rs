//! Following the coordinator: what it gives is read, what it takes is let go.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use futures::FutureExt as _;
use tokio::time::Instant;
use walser_group::{AssignedPartitions, CommittedOffset, CurrentAssignment};
use walser_model::TopicPartition;
use walser_rpc::ApiError;

use crate::groups::commits::OFFSETS_MAX;
use crate::groups::holdings::{Holding, ReadTo};
use crate::groups::membership::{HeldAt, is_gone, replaced};
use crate::groups::told_bytes::name_bytes;
use crate::reading::{PartitionName, ReadPosition, in_parts};

use super::ending::Ending;
use super::{Answered, Assigned, GroupEvent, GroupStream, RevocationCause};

/// Bytes of a partition in a message with offsets and the id of the topic, beside its name and the metadata of a commit.
const ASSIGNED_OVERHEAD: usize = 104;

/// Partitions that the client is asked to let go.
#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) held: BTreeMap<TopicPartition, Holding>,
    names: HashMap<PartitionName, TopicPartition>,
    /// Then it counts as done.
    pub(super) until: Instant,
}

impl Revocation {
    /// A partition of it by its name.
    pub(super) fn named(&self, name: &PartitionName) -> Option<(TopicPartition, &Holding)> {
        let partition = self.names.get(name)?;
        Some((*partition, self.held.get(partition)?))
    }
}

impl GroupStream {
    /// Takes what the member has been told last.
    pub(super) fn take_news(&mut self) {
        let news = self.membership.news();
        if self.session != Some(news.session) {
            self.session = None;
        }
        if let Some((_, cause)) = news.removed {
            return self.end_with(Ending::Removed(cause));
        }
        if news.superseded.is_some() {
            return self.end_with(Ending::Fenced(replaced()));
        }
        if let Some((said, _, current)) = news.current {
            self.apply((said, current));
        }
    }

    /// Asks what the member holds where notices may be lost: after it has attached, and on each new session.
    pub(super) fn resync(&mut self) {
        if self.session.is_some() || self.under_way.heartbeat || self.ending.is_some() || !self.timing.may_ask() {
            return;
        }
        self.under_way.heartbeat = true;
        self.session = Some(self.membership.session());
        let asked = self.membership.calls.clone().heartbeat();
        self.work.push(asked.map(Answered::Heartbeat).boxed());
    }

    /// The coordinator has refused, or does not answer.
    pub(super) fn not_answered(&mut self, failure: ApiError) {
        if is_gone(&failure) {
            self.end_with(Ending::Fenced(failure));
        } else {
            self.timing.retry_later();
        }
    }

    /// Takes what the member holds, unless something newer is known.
    pub(super) fn apply(&mut self, (said, current): HeldAt) {
        if self.said.is_some_and(|known| known >= said) || self.ending.is_some() {
            return;
        }
        self.said = Some(said);
        self.take_away(&current);
        self.withdraw_revocations(&current);
        // What is to be let go, and what this stream has never read: it was assigned to an earlier one.
        let asked = self.revocations.values().flat_map(|revocation| revocation.held.keys());
        let asked: BTreeSet<_> = asked.copied().collect();
        let unknown = current
            .revoking
            .iter()
            .filter(|(partition, epoch)| !asked.contains(partition) && self.released.get(partition) != Some(epoch));
        self.releasing = unknown.map(|(partition, epoch)| (*partition, *epoch)).collect();
        self.current = current;
    }

    /// Stops reading what is not assigned any more.
    fn take_away(&mut self, current: &CurrentAssignment) {
        let lost = |(partition, held): (&TopicPartition, &Holding)| {
            (current.assigned.get(partition) != Some(&held.epoch)).then_some(*partition)
        };
        let lost: Vec<TopicPartition> = self.holdings.iter().filter_map(lost).collect();
        let (mut asked, mut gone) = (BTreeMap::new(), Vec::new());
        for partition in lost {
            let Some(held) = self.stop_reading(&partition) else { continue };
            let revoking = current.revoking.get(&partition) == Some(&held.epoch);
            if revoking && self.settings.confirm_within.is_some() && held.announced {
                asked.insert(partition, held);
            } else if held.announced {
                gone.push((partition, held.name));
            }
        }
        self.tell_revoked(gone);
        if let Some(timeout) = self.settings.confirm_within {
            let bytes_max = self.settings.options.shape.message_bytes_max;
            for part in in_parts(asked.into_iter(), bytes_max, |(_, held)| name_bytes(&held.name)) {
                self.last_revocation += 1;
                let id = self.last_revocation;
                let partitions = part.iter().map(|(_, held)| held.name.clone()).collect();
                let names = part.iter().map(|(partition, held)| (held.name.clone(), *partition)).collect();
                let until = Instant::now() + timeout;
                let revocation = Revocation { held: part.into_iter().collect(), names, until };
                self.revocations.insert(id, revocation);
                self.outgoing.tell(GroupEvent::Revoking { id, partitions, timeout });
            }
        }
    }

    /// Of what the client was asked for, forgets what has gone meanwhile.
    fn withdraw_revocations(&mut self, current: &CurrentAssignment) {
        let mut gone = Vec::new();
        for revocation in self.revocations.values_mut() {
            let taken =
                |partition: &TopicPartition, held: &mut Holding| current.revoking.get(partition) != Some(&held.epoch);
            gone.extend(revocation.held.extract_if(.., taken).map(|(partition, held)| (partition, held.name)));
        }
        self.revocations.retain(|_, revocation| !revocation.held.is_empty());
        self.tell_revoked(gone);
    }

    /// Lets go what the client had time enough for.
    pub(super) fn give_up_revocations(&mut self, now: Instant) {
        let over = self.revocations.iter().filter(|(_, revocation)| revocation.until <= now);
        let over: Vec<i64> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.let_go(id));
    }

    /// Lets go what the client was asked for.
    pub(super) fn let_go(&mut self, revocation: i64) {
        let Some(Revocation { held, .. }) = self.revocations.remove(&revocation) else { return };
        self.releasing.extend(held.iter().map(|(partition, held)| (*partition, held.epoch)));
        self.tell_revoked(held.into_iter().map(|(partition, held)| (partition, held.name)).collect());
    }

    /// Tells the client what it has lost.
    pub(super) fn tell_revoked(&mut self, partitions: Vec<(TopicPartition, PartitionName)>) {
        let view = self.groups.metadata.view();
        let (moved, deleted): (Vec<_>, Vec<_>) =
            partitions.into_iter().partition(|(partition, _)| view.topic(partition.topic).is_some());
        for (partitions, cause) in [(moved, RevocationCause::Rebalance), (deleted, RevocationCause::TopicDeleted)] {
            self.tell_gone(partitions.into_iter().map(|(_, name)| name), cause);
        }
    }

    pub(super) fn tell_gone(&mut self, names: impl Iterator<Item = PartitionName>, cause: RevocationCause) {
        for partitions in in_parts(names, self.settings.options.shape.message_bytes_max, name_bytes) {
            self.outgoing.tell(GroupEvent::Revoked { partitions, cause });
        }
    }

    /// Gives back what is to be let go, once no commit of it is on its way.
    pub(super) fn release(&mut self) {
        if self.under_way.release || self.releasing.is_empty() || !self.timing.may_ask() {
            return;
        }
        let commits = &self.commits;
        self.released = self.releasing.extract_if(.., |partition, _| !commits.concern(partition)).collect();
        if self.released.is_empty() {
            return;
        }
        self.under_way.release = true;
        let asked = self.membership.calls.clone().release(self.released.clone());
        self.work.push(asked.map(Answered::Released).boxed());
    }

    /// Asks for the committed offsets of partitions that are assigned and not read yet.
    pub(super) fn ask_for_offsets(&mut self) {
        if self.under_way.offsets || self.suspended || !self.timing.may_ask() {
            return;
        }
        if self.current.assigned.len() == self.holdings.len() {
            return;
        }
        let view = self.groups.metadata.view();
        // Of what is not known here yet, the metadata tells soon.
        let known = |partition: &TopicPartition| {
            view.topic(partition.topic).is_some_and(|topic| partition.partition.0 < topic.value.partition_count)
        };
        let new = self.current.assigned.iter().filter(|(partition, _)| self.holdings.get(partition).is_none());
        let new = new.filter(|(partition, _)| known(partition)).take(OFFSETS_MAX);
        let asked: AssignedPartitions = new.map(|(partition, epoch)| (*partition, *epoch)).collect();
        if asked.is_empty() {
            return;
        }
        self.under_way.offsets = true;
        let offsets = self.membership.calls.clone().offsets(asked.keys().copied().collect());
        self.work.push(offsets.map(move |found| Answered::Offsets(asked, found)).boxed());
    }

    /// Begins to read partitions whose committed offsets are known now.
    pub(super) fn hold(&mut self, asked: &AssignedPartitions, found: Vec<(TopicPartition, Option<CommittedOffset>)>) {
        self.timing.retried();
        if self.ending.is_some() {
            return;
        }
        let view = self.groups.metadata.view();
        for (partition, committed) in found {
            let epoch = self.current.assigned.get(&partition).copied();
            let Some(epoch) = epoch.filter(|epoch| asked.get(&partition) == Some(epoch)) else { continue };
            let Some(topic) = view.topic(partition.topic).cloned() else { continue };
            if self.holdings.get(&partition).is_some() {
                continue;
            }
            let place = (topic, partition.partition.0);
            self.holdings.insert(partition, Holding::new(epoch, place, committed, self.settings.start));
            self.unannounced.insert(partition);
            self.start_reading(&partition);
        }
    }

    /// Tells the client of new partitions, all together if none of them takes long.
    pub(super) fn announce(&mut self) {
        let waits = |partition: &TopicPartition| {
            self.holdings.get(partition).is_some_and(|held| held.began.is_none() && !held.in_trouble)
        };
        // The one that was waited for last is looked at first: most of the time nothing else is.
        if self.unannounced.is_empty() || self.awaited.as_ref().is_some_and(waits) {
            return;
        }
        // They open about in their order.
        let from = self.awaited.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.unannounced.range((from, Bound::Unbounded)).chain(&self.unannounced);
        self.awaited = later.into_iter().find(|partition| waits(partition)).copied();
        if self.awaited.is_none() {
            self.announce_now();
        }
    }

    /// Tells the client of every new partition whose place is known.
    pub(super) fn announce_now(&mut self) {
        let (mut assigned, mut begins) = (Vec::new(), Vec::new());
        for partition in std::mem::take(&mut self.unannounced) {
            let Some(held) = self.holdings.get_mut(&partition) else { continue };
            let Some(start_offset) = held.began else {
                self.unannounced.insert(partition);
                continue;
            };
            held.announced = true;
            if held.committed.is_none() {
                begins.push((partition, ReadTo { offset: start_offset, leader_epoch: None }));
            }
            let (of, committed) = (held.name.clone(), held.committed.clone());
            assigned.push(Assigned { of, topic: partition.topic, start_offset, committed });
        }
        // Where it began is written: the next time such a place would be another one, behind records that nobody has read.
        if self.settings.start != ReadPosition::Earliest {
            begins.chunks(OFFSETS_MAX).for_each(|part| self.commit_for_client(part));
        }
        let bytes = |assigned: &Assigned| {
            let metadata = assigned.committed.as_ref().map_or(0, |committed| committed.metadata.len());
            assigned.of.topic.len() + metadata + ASSIGNED_OVERHEAD
        };
        for part in in_parts(assigned.into_iter(), self.settings.options.shape.message_bytes_max, bytes) {
            self.outgoing.tell(GroupEvent::Assigned(part));
        }
    }
}
