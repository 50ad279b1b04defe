//! Where a member that polls reads on, and its reading.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;
use walser_group::{AssignedPartitions, CommittedOffset, OffsetToCommit};
use walser_model::{LeaderEpoch, Offset, PartitionIndex, TopicPartition};
use walser_rpc::{ApiError, PollPlace, Reason};

use crate::groups::Groups;
use crate::groups::commit_floor::CommitFloor;
use crate::groups::told_bytes::reset_bytes;
use crate::metadata::View;
use crate::reading::{
    FetchRequest, Fetched, LOOK_UPS_AT_ONCE, Options, OutOfRange, PartitionFailure, PartitionName, ReadPosition,
    ReadTarget, Reset, Target,
};

use super::{ASSIGNMENT_LOOK, HEARTBEAT, PollRequest, Poller};

/// Where a member stands in what it has, and has had since it was assigned.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Of partitions that stand elsewhere than at what is committed.
    pub(super) places: BTreeMap<TopicPartition, PollPlace>,
    /// Of all partitions whose beginning was found.
    floors: BTreeMap<TopicPartition, CommitFloor>,
}

/// What a poll has read.
#[derive(Debug, Default)]
pub(super) struct PolledRead {
    pub(super) fetched: Option<Fetched>,
    /// Beside those of `fetched`.
    pub(super) resets: Vec<Reset>,
    pub(super) failures: Vec<PartitionFailure>,
    /// What all failures may take of the answer.
    pub(super) failure_bytes_max: usize,
}

impl Poller {
    /// Where it stands in what it still has, and has had since the last answer.
    pub(super) fn standing(&self) -> Standing {
        let kept = |partition: &TopicPartition| {
            let since = self.current.assigned.get(partition);
            since.is_some_and(|since| *since <= self.before.epoch)
        };
        let places = self.before.places.iter().filter(|(partition, _)| kept(partition));
        let floors = self.before.held.iter().filter(|(partition, _)| kept(partition));
        Standing {
            places: places.map(|(partition, place)| (*partition, PollPlace { delivered: false, ..*place })).collect(),
            // What nobody has looked at is looked at when reading begins.
            floors: floors
                .filter_map(|(partition, floor)| Some((*partition, CommitFloor::of(Some((*floor)?)))))
                .collect(),
        }
    }
}

impl Standing {
    /// What the member has, with the lowest offset of each partition that it may commit, where reading has begun. What it has no
    /// more is forgotten.
    pub(super) fn held(&mut self, assigned: &AssignedPartitions) -> BTreeMap<TopicPartition, Option<Offset>> {
        self.places.retain(|partition, _| assigned.contains_key(partition));
        let floor = |partition: &TopicPartition| self.floors.get(partition).map(|floor| floor.offset());
        assigned.keys().map(|partition| (*partition, floor(partition))).collect()
    }

    /// Reading of partitions begins at what is committed, at the place that was found instead, or, where nothing has to be found, at
    /// their beginning.
    fn begin(
        &mut self,
        committed: &BTreeMap<TopicPartition, Option<CommittedOffset>>,
        begins: &BTreeMap<TopicPartition, Offset>,
        start: ReadPosition,
    ) {
        for (partition, committed) in committed {
            let committed = committed.as_ref().map(|committed| committed.offset);
            let begin = committed.or_else(|| begins.get(partition).copied());
            if begin.is_none() && start != ReadPosition::Earliest {
                continue;
            }
            self.floors.entry(*partition).or_insert_with(|| CommitFloor::of(begin));
        }
    }

    /// Reading of a partition goes on elsewhere: records are gone.
    fn move_to(&mut self, partition: TopicPartition, next: Offset) {
        self.places.insert(partition, PollPlace { next, leader_epoch: None, delivered: false });
        if let Some(floor) = self.floors.get_mut(&partition) {
            floor.move_to(next);
        }
    }

    /// Forgets partitions that are gone, or that were taken and given again: they are read from what is committed.
    fn forget_moved(&mut self, before: &AssignedPartitions, now: &AssignedPartitions) {
        let stays =
            |partition: &TopicPartition| before.get(partition).is_some_and(|since| now.get(partition) == Some(since));
        self.places.retain(|partition, _| stays(partition));
        self.floors.retain(|partition, _| stays(partition));
    }
}

impl Groups {
    /// Reads what the member has until there is something, its time is over, or partitions are to move.
    pub(super) async fn read_polled(
        &self,
        poller: &mut Poller,
        standing: &mut Standing,
        (asked, refused): (&PollRequest, &[PartitionFailure]),
        until: Instant,
    ) -> Result<PolledRead, ApiError> {
        let mut resets = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let (targets, mut failures) = self.targets_of(poller, standing, asked.start).await?;
            let options = asked.read.options.within(self.told_bytes(poller, standing, asked, (refused, &resets))?);
            let fetched = if targets.is_empty() {
                tokio::time::sleep(ASSIGNMENT_LOOK.min(left)).await;
                None
            } else {
                match self.fetch_polled(targets, (asked, options), left.min(HEARTBEAT)).await {
                    Ok(fetched) => Some(fetched),
                    Err(failure) => {
                        if let Some(reset) = self.diverged(standing, asked, None, &failure) {
                            resets.push(reset);
                            continue;
                        }
                        // Nothing could be read. What was committed is committed: the client needs its next token.
                        failures.push(PartitionFailure {
                            of: partition_of(&failure).ok_or_else(|| failure.clone())?,
                            failure,
                        });
                        tokio::time::sleep(ASSIGNMENT_LOOK.min(left)).await;
                        None
                    }
                }
            };
            let failure_bytes_max = options.shape.room();
            let mut read = PolledRead { fetched, resets, failures, failure_bytes_max };
            if let Some(fetched) = &mut read.fetched {
                read.failure_bytes_max = fetched.failure_bytes_max;
                for problem in std::mem::take(&mut fetched.failures) {
                    // What does not fit is found again by the next call.
                    let moved = (reset_bytes(&problem.of) <= read.failure_bytes_max)
                        .then(|| self.diverged(standing, asked, Some(&problem.of), &problem.failure));
                    match moved.flatten() {
                        Some(reset) => {
                            read.failure_bytes_max -= reset_bytes(&reset.of);
                            read.resets.push(reset);
                        }
                        None => read.failures.push(problem),
                    }
                }
            }
            if read.has_news() || Instant::now() >= until {
                return Ok(read);
            }
            let (_, current) = poller.calls.clone().heartbeat().await?;
            let before = std::mem::replace(&mut poller.current, current);
            standing.forget_moved(&before.assigned, &poller.current.assigned);
            if !poller.current.revoking.is_empty() {
                // It may have got others at once.
                let told = self.told_bytes(poller, standing, asked, (refused, &read.resets))?;
                read.failure_bytes_max = asked.read.options.within(told).shape.room();
                return Ok(read);
            }
            resets = read.resets;
        }
    }

    async fn fetch_polled(
        &self,
        targets: Vec<ReadTarget>,
        (asked, options): (&PollRequest, Options),
        wait: Duration,
    ) -> Result<Fetched, ApiError> {
        let FetchRequest { bytes_min, bytes_max, records_max, .. } = asked.read;
        let request = FetchRequest { targets, options, wait, bytes_min, bytes_max, records_max };
        self.reading.fetch(&request, None).await
    }

    /// The log of a partition is not the one that was read before: goes on where what was read ends in it, unless the client
    /// wants the error.
    fn diverged(
        &self,
        standing: &mut Standing,
        asked: &PollRequest,
        of: Option<&PartitionName>,
        failure: &ApiError,
    ) -> Option<Reset> {
        if failure.reason() != Reason::LogDiverged || asked.read.options.out_of_range == OutOfRange::Fail {
            return None;
        }
        let number = |key: &str| failure.value(key)?.parse::<i64>().ok();
        let of = of.cloned().or_else(|| partition_of(failure))?;
        let (actual, lost) = (number("divergingOffset")?, number("lostCount").unwrap_or(0));
        let topic = self.metadata.view().topic_named(&of.topic)?.id;
        standing.move_to(TopicPartition::new(topic, PartitionIndex(of.partition)), Offset(actual));
        Some(Reset { of, requested: Offset(actual.saturating_add(lost)), actual: Offset(actual) })
    }

    /// What the member reads, and from where: where it stands, else at what is committed, else where it said it starts. With
    /// it, what cannot be read now.
    async fn targets_of(
        &self,
        poller: &mut Poller,
        standing: &mut Standing,
        start: ReadPosition,
    ) -> Result<(Vec<ReadTarget>, Vec<PartitionFailure>), ApiError> {
        let view = self.metadata.view();
        // Of a topic that is gone, or that is not known here yet, nothing can be read.
        let known = |partition: &&TopicPartition| view.topic(partition.topic).is_some();
        let held: Vec<_> = poller.current.assigned.keys().filter(known).copied().collect();
        let unknown: Vec<_> =
            held.iter().filter(|partition| !standing.places.contains_key(partition)).copied().collect();
        let mut committed: BTreeMap<_, Option<CommittedOffset>> = BTreeMap::new();
        if !unknown.is_empty() {
            committed.extend(poller.calls.clone().offsets(unknown).await?);
        }
        let mut begins = BTreeMap::new();
        let mut failures = Vec::new();
        // The beginning is found by whoever reads; every other place is found once, and committed: the next time it would be
        // another one, behind records that nobody has read.
        if start != ReadPosition::Earliest {
            let new = committed.iter().filter(|(_, found)| found.is_none()).map(|(partition, _)| *partition);
            (begins, failures) = self.find_begins(poller, &view, new.collect(), start).await?;
        }
        standing.begin(&committed, &begins, start);
        let failed: Vec<_> = failures.iter().map(|failure| failure.of.clone()).collect();
        let target = |partition: TopicPartition| {
            let topic = view.topic(partition.topic)?;
            if failed.contains(&PartitionName::of(topic, partition.partition.0)) {
                return None;
            }
            let place = standing.places.get(&partition).map(|place| (place.next, place.leader_epoch));
            let known = committed.get(&partition).and_then(Option::as_ref);
            let place = place.or_else(|| known.map(|known| (known.offset, known.leader_epoch)));
            let place = place.or_else(|| begins.get(&partition).map(|begin| (*begin, None)));
            let (position, epoch) = match place {
                Some((offset, epoch)) => (ReadPosition::Offset(offset.0), epoch),
                None => (ReadPosition::Earliest, None),
            };
            Some(ReadTarget {
                topic: topic.name.to_string(),
                topic_id: Some(topic.id),
                partition: Some(partition.partition.0),
                start: Some(position),
                last_epoch: epoch.map(|epoch| epoch.0),
                ..ReadTarget::default()
            })
        };
        Ok((held.into_iter().filter_map(target).collect(), failures))
    }

    /// Finds where partitions begin of which nothing is committed, and commits it. Those whose leaders do not answer are not
    /// read now.
    async fn find_begins(
        &self,
        poller: &mut Poller,
        view: &View,
        partitions: Vec<TopicPartition>,
        start: ReadPosition,
    ) -> Result<(BTreeMap<TopicPartition, Offset>, Vec<PartitionFailure>), ApiError> {
        let looks = partitions.into_iter().filter_map(|partition| {
            let topic = view.topic(partition.topic)?.clone();
            let target = Target { topic, partition: partition.partition.0, start, end: None, last_epoch: -1 };
            Some(async move { (partition, target.name(), self.reading.positions().boundary(&target, start).await) })
        });
        let looks: Vec<_> = looks.collect();
        let found: Vec<_> = futures::stream::iter(looks).buffered(LOOK_UPS_AT_ONCE).collect().await;
        let (mut begins, mut failures, mut to_commit) = (BTreeMap::new(), Vec::new(), Vec::new());
        for (partition, of, found) in found {
            match found {
                Ok(offset) => {
                    begins.insert(partition, offset);
                    to_commit.push(OffsetToCommit { partition, offset, leader_epoch: None, metadata: String::new() });
                }
                Err(failure) => failures.push(PartitionFailure { of, failure }),
            }
        }
        for part in to_commit.chunks(crate::groups::OFFSETS_MAX) {
            let epoch = poller.current.epoch;
            // One that has moved meanwhile is begun by whoever has it.
            for partition in poller.commit(epoch, part.to_vec()).await?.into_keys() {
                begins.remove(&partition);
            }
        }
        Ok((begins, failures))
    }

    /// Moves places behind what was read.
    pub(super) fn advance(&self, standing: &mut Standing, fetched: &Fetched) {
        let view = self.metadata.view();
        for reset in &fetched.resets {
            let Some(topic) = view.topic_named(&reset.of.topic) else { continue };
            let partition = TopicPartition::new(topic.id, PartitionIndex(reset.of.partition));
            standing.move_to(partition, reset.actual);
        }
        for chunk in &fetched.chunks {
            let partition = TopicPartition::new(chunk.topic.id, PartitionIndex(chunk.partition));
            let (next, leader_epoch) = (Offset(chunk.content.next_offset), Some(LeaderEpoch(chunk.leader_epoch)));
            standing.places.insert(partition, PollPlace { next, leader_epoch, delivered: true });
        }
    }
}

impl PolledRead {
    /// Whether there is something that a client should not wait for: what a moment does not mend, too.
    fn has_news(&self) -> bool {
        let fetched = self.fetched.as_ref();
        let came = fetched.is_some_and(|it| !it.chunks.is_empty() || !it.resets.is_empty());
        came || !self.resets.is_empty() || self.failures.iter().any(|failure| !failure.failure.is_transient())
    }
}

/// The partition that a failure names.
fn partition_of(failure: &ApiError) -> Option<PartitionName> {
    let partition = failure.value("partition")?.parse().ok()?;
    Some(PartitionName { topic: failure.value("topic")?.into(), partition })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use walser_group::{Attached, AttachmentNumber, CurrentAssignment, GroupEpoch, MemberRef, TokenKey};
    use walser_model::TopicId;
    use walser_rpc::PollState;

    use super::*;
    use crate::groups::hosted_shard::HostedShard;

    #[test]
    fn what_was_taken_and_given_again_is_not_read_from_where_it_was() {
        let partition = |number| TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(number));
        let place = PollPlace { next: Offset(7), leader_epoch: None, delivered: true };
        let mut standing = Standing {
            places: (0..3).map(|number| (partition(number), place)).collect(),
            floors: (0..3).map(|number| (partition(number), CommitFloor::of(Some(Offset(5))))).collect(),
        };
        let before = (0..3).map(|number| (partition(number), GroupEpoch(4))).collect();
        let now = [(partition(0), GroupEpoch(4)), (partition(1), GroupEpoch(6))].into();
        standing.forget_moved(&before, &now);
        assert_eq!(standing.places.keys().collect::<Vec<_>>(), [&partition(0)]);
        // It begins anew, where what is committed says.
        let committed = |offset| CommittedOffset {
            offset: Offset(offset),
            leader_epoch: None,
            metadata: String::new(),
            committed_at: 0,
        };
        let found = [(partition(0), Some(committed(6))), (partition(1), Some(committed(9)))].into();
        standing.begin(&found, &BTreeMap::new(), ReadPosition::Earliest);
        assert_eq!(standing.held(&now), [(partition(0), Some(Offset(5))), (partition(1), Some(Offset(9)))].into());
        standing.move_to(partition(1), Offset(3));
        assert_eq!(standing.held(&now)[&partition(1)], Some(Offset(3)), "its records are gone");
    }

    #[test]
    fn a_partition_that_was_not_begun_has_no_floor_until_it_is() {
        let partition = TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(0));
        let (shard, key) = (Arc::new(HostedShard::new(0, "gateway".parse().unwrap())), TokenKey([7; 32]));
        let (group, member) = ("g".parse().unwrap(), "m".parse().unwrap());
        let of = MemberRef { group, member, instance: None, attachment: AttachmentNumber(1) };
        let assigned: AssignedPartitions = [(partition, GroupEpoch(4))].into();
        let current = CurrentAssignment { assigned: assigned.clone(), ..CurrentAssignment::default() };
        let attached = Attached { attachment: AttachmentNumber(2), current, session_timeout: Duration::from_secs(15) };
        // It came just before the answer, which was given at once.
        let told = Standing::default().held(&assigned);
        assert_eq!(told, [(partition, None)].into());
        let before = PollState { epoch: GroupEpoch(4), held: told, ..PollState::default() };
        let mut standing = Poller::new(&shard, (of, key), attached, before).standing();
        // Its place cannot be found.
        let (unknown, nothing) = ([(partition, None)].into(), BTreeMap::new());
        standing.begin(&unknown, &nothing, ReadPosition::Latest);
        assert_eq!(standing.held(&assigned), [(partition, None)].into());
        standing.begin(&unknown, &[(partition, Offset(100))].into(), ReadPosition::Latest);
        assert_eq!(standing.held(&assigned), [(partition, Some(Offset(100)))].into());
        let mut standing = Standing::default();
        standing.begin(&unknown, &nothing, ReadPosition::Earliest);
        assert_eq!(standing.held(&assigned), [(partition, Some(Offset::ZERO))].into(), "nothing lies before it");
    }
}
