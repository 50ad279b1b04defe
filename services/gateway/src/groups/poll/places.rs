//! Where a member that polls reads on, and its reading.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;
use walser_model::{LeaderEpoch, Offset, PartitionIndex, TopicPartition};
use walser_rpc::{ApiError, PollPlace};

use crate::groups::Groups;
use crate::reading::{FetchRequest, Fetched, LOOK_UPS_AT_ONCE, ReadPosition, ReadTarget, Target};

use super::{ASSIGNMENT_LOOK, HEARTBEAT, PollRequest, Poller};

/// Places by partition.
pub(super) type Places = BTreeMap<TopicPartition, PollPlace>;

impl Poller {
    /// Where it stands in what it still has, and has had since the last answer.
    pub(super) fn standing(&self) -> Places {
        let kept = self.before.places.iter().filter(|(partition, _)| {
            let since = self.current.assigned.get(partition);
            since.is_some_and(|since| *since <= self.before.epoch)
        });
        kept.map(|(partition, place)| (*partition, PollPlace { delivered: false, ..*place })).collect()
    }
}

impl Groups {
    /// Reads what the member has until there is something, its time is over, or partitions are to move. `None`: it has none.
    pub(super) async fn read_polled(
        &self,
        poller: &mut Poller,
        places: &mut Places,
        asked: &PollRequest,
        until: Instant,
    ) -> Result<Option<Fetched>, ApiError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let fetched = if poller.current.assigned.is_empty() {
                tokio::time::sleep(ASSIGNMENT_LOOK.min(left)).await;
                None
            } else {
                let targets = self.targets_of(poller, places, asked.start).await?;
                Some(self.fetch_polled(targets, asked, left.min(HEARTBEAT)).await?)
            };
            let news = fetched.as_ref().is_some_and(|fetched| {
                !fetched.chunks.is_empty() || !fetched.resets.is_empty() || !fetched.failures.is_empty()
            });
            if news || Instant::now() >= until {
                return Ok(fetched);
            }
            let (_, current) = poller.calls.clone().heartbeat().await?;
            let moves = !current.revoking.is_empty();
            poller.current = current;
            places.retain(|partition, _| poller.current.assigned.contains_key(partition));
            if moves {
                return Ok(fetched);
            }
        }
    }

    async fn fetch_polled(
        &self,
        targets: Vec<ReadTarget>,
        asked: &PollRequest,
        wait: Duration,
    ) -> Result<Fetched, ApiError> {
        let FetchRequest { options, bytes_min, bytes_max, records_max, .. } = asked.read;
        let request = FetchRequest { targets, options, wait, bytes_min, bytes_max, records_max };
        self.reading.fetch(&request, None).await
    }

    /// What the member reads, and from where: where it stands, else at what is committed, else where it said it starts.
    async fn targets_of(
        &self,
        poller: &Poller,
        places: &mut Places,
        start: ReadPosition,
    ) -> Result<Vec<ReadTarget>, ApiError> {
        let unknown: Vec<_> =
            poller.current.assigned.keys().filter(|partition| !places.contains_key(partition)).copied().collect();
        let mut committed = BTreeMap::new();
        if !unknown.is_empty() {
            for (partition, found) in poller.calls.clone().offsets(unknown).await? {
                match found {
                    Some(found) => drop(committed.insert(partition, (found.offset, found.leader_epoch))),
                    // The beginning is found by whoever reads; every other place is found once.
                    None if start == ReadPosition::Earliest => {}
                    None => drop(committed.insert(partition, (Offset(-1), None))),
                }
            }
        }
        self.pin(&committed, places, start).await?;
        let view = self.metadata.view();
        let target = |partition: &TopicPartition| {
            let topic = view.topic(partition.topic)?;
            let place = places.get(partition).map(|place| (place.next, place.leader_epoch));
            let place = place.or_else(|| committed.get(partition).copied());
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
        Ok(poller.current.assigned.keys().filter_map(target).collect())
    }

    /// Finds where partitions begin of which nothing is committed, those with the offset -1, and keeps it: records that are
    /// written between two polls are not passed over.
    async fn pin(
        &self,
        committed: &BTreeMap<TopicPartition, (Offset, Option<LeaderEpoch>)>,
        places: &mut Places,
        start: ReadPosition,
    ) -> Result<(), ApiError> {
        let view = self.metadata.view();
        let unknown = committed.iter().filter(|(_, (offset, _))| *offset < Offset::ZERO);
        let looks = unknown.filter_map(|(partition, _)| {
            let topic = view.topic(partition.topic)?.clone();
            let target = Target { topic, partition: partition.partition.0, start, end: None, last_epoch: -1 };
            Some(async move { (*partition, self.reading.positions().boundary(&target, start).await) })
        });
        let looks: Vec<_> = looks.collect();
        let found: Vec<_> = futures::stream::iter(looks).buffered(LOOK_UPS_AT_ONCE).collect().await;
        for (partition, next) in found {
            places.insert(partition, PollPlace { next: next?, leader_epoch: None, delivered: false });
        }
        Ok(())
    }

    /// Moves places behind what was read.
    pub(super) fn advance(&self, places: &mut Places, fetched: &Fetched) {
        let view = self.metadata.view();
        for reset in &fetched.resets {
            let Some(topic) = view.topic_named(&reset.of.topic) else { continue };
            let partition = TopicPartition::new(topic.id, PartitionIndex(reset.of.partition));
            places.insert(partition, PollPlace { next: reset.actual, leader_epoch: None, delivered: false });
        }
        for chunk in &fetched.chunks {
            let partition = TopicPartition::new(chunk.topic.id, PartitionIndex(chunk.partition));
            let (next, leader_epoch) = (Offset(chunk.content.next_offset), Some(LeaderEpoch(chunk.leader_epoch)));
            places.insert(partition, PollPlace { next, leader_epoch, delivered: true });
        }
    }
}
