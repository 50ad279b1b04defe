//! What a member holds, as the stream of its client knows it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use walser_group::{CommittedOffset, GroupEpoch};
use walser_model::{LeaderEpoch, Offset, TopicPartition};
use walser_rpc::ApiError;

use crate::metadata::TopicView;
use crate::reading::{PartitionName, Progress, ReadPosition, Target};

use super::commit_floor::CommitFloor;

/// Fewer partitions are looked at one by one.
const TOUCHED_MAX: usize = 1_000;

/// A partition that the member reads.
#[derive(Debug)]
pub(super) struct Holding {
    /// In which it was assigned.
    pub(super) epoch: GroupEpoch,
    pub(super) name: PartitionName,
    topic: Arc<TopicView>,
    /// The number of its reader, unless it is paused, or cannot be read.
    pub(super) reader: Option<usize>,
    /// The client knows of it.
    pub(super) announced: bool,
    /// It could not be opened for a time: nobody waits for it any more.
    pub(super) in_trouble: bool,
    /// What was committed when it was assigned.
    pub(super) committed: Option<CommittedOffset>,
    /// Where its reader begins, and the epoch of the record before, -1 if it is not known.
    next: (ReadPosition, i32),
    /// Where reading began, once it is known.
    pub(super) began: Option<i64>,
    floor: CommitFloor,
    /// What was sent of it last, as the next offset.
    sent_to: Option<i64>,
    /// Where the last record ends that was sent, exclusive.
    records_to: Option<i64>,
    /// Since when a record that was sent is not committed.
    outstanding_since: Option<Instant>,
    /// The number of the message in which it was sent.
    sent_in: u64,
    committed_to: i64,
    end_offset: i64,
    pub(super) caught_up: bool,
    pub(super) paused: bool,
    /// What counts as processed next, in streams that commit by themselves.
    unprocessed: Option<Unprocessed>,
}

/// How far a partition was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadTo {
    /// The next offset.
    pub(super) offset: i64,
    /// The leader epoch of what lies before it, by which its next reader notices that the log was cut. `None`: not known.
    pub(super) leader_epoch: Option<LeaderEpoch>,
}

/// Records that were sent, and that do not count as processed yet.
#[derive(Debug, Clone, Copy)]
struct Unprocessed {
    read_to: ReadTo,
    /// The number of the message.
    message: u64,
    /// From when their time counts: when they were sent, or when they were last seen not to be taken.
    since: Instant,
}

/// The partitions that a member reads. Names and readers lead to them.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    held: BTreeMap<TopicPartition, Holding>,
    names: HashMap<PartitionName, TopicPartition>,
    readers: HashMap<usize, TopicPartition>,
    /// One that was not at its end when they were looked through last: it is looked at first.
    behind: Option<TopicPartition>,
    /// All were at their ends but, perhaps, those that were touched since.
    at_end: bool,
    touched: Vec<TopicPartition>,
}

// === impl Holding ===

impl Holding {
    /// A partition with what is committed of it; without that it begins at `start`.
    pub(super) fn new(
        epoch: GroupEpoch,
        (topic, partition): (Arc<TopicView>, i32),
        committed: Option<CommittedOffset>,
        start: ReadPosition,
    ) -> Self {
        let next = match &committed {
            Some(committed) => {
                let epoch = committed.leader_epoch.map_or(-1, |epoch| epoch.0);
                (ReadPosition::Offset(committed.offset.0), epoch)
            }
            None => (start, -1),
        };
        let began = committed.as_ref().map(|committed| committed.offset.0);
        Self {
            epoch,
            name: PartitionName::of(&topic, partition),
            topic,
            reader: None,
            announced: false,
            in_trouble: false,
            next,
            began,
            floor: CommitFloor::of(began.map(Offset)),
            sent_to: None,
            records_to: None,
            outstanding_since: None,
            sent_in: 0,
            committed_to: began.unwrap_or(0),
            committed,
            end_offset: began.unwrap_or(0),
            caught_up: false,
            paused: false,
            unprocessed: None,
        }
    }

    /// What its reader is to read.
    pub(super) fn target(&self) -> Target {
        let (start, last_epoch) = self.next;
        let (topic, partition) = (Arc::clone(&self.topic), self.name.partition);
        Target { topic, partition, start, end: None, last_epoch }
    }

    /// Its reader has found its place.
    pub(super) fn opened(&mut self, offset: i64) {
        (self.next, self.caught_up) = ((ReadPosition::Offset(offset), self.next.1), false);
        if self.began.is_none() {
            self.began = Some(offset);
        }
        if self.sent_to.is_none() {
            self.floor.begin(Offset(offset));
        }
        self.end_offset = self.end_offset.max(offset);
    }

    /// It is read on from elsewhere, as the client wants: what lies there may be committed.
    pub(super) fn seek(&mut self, place: ReadPosition) {
        self.next = (place, -1);
        (self.floor, self.sent_to, self.records_to) = (CommitFloor::default(), None, None);
        (self.unprocessed, self.outstanding_since) = (None, None);
        if self.announced {
            self.began = None;
        }
    }

    /// Its reader goes on elsewhere: records are gone.
    pub(super) fn moved(&mut self, offset: i64) {
        self.next = (ReadPosition::Offset(offset), -1);
        self.floor.move_to(Offset(offset));
        self.caught_up = false;
        if self.sent_to.is_some_and(|sent| sent > offset) {
            // What was sent from there on is gone: others lie there, or will.
            self.sent_to = Some(offset);
            let read_to = ReadTo { offset, leader_epoch: None };
            self.unprocessed = self.unprocessed.map(|sent| match sent.read_to.offset > offset {
                true => Unprocessed { read_to, message: self.sent_in, since: Instant::now() },
                false => sent,
            });
            self.records_to = self.records_to.map(|sent| sent.min(offset));
            self.outstanding_since = self.outstanding_since.filter(|_| self.is_outstanding());
        }
    }

    /// Whether a record was sent that is not committed.
    fn is_outstanding(&self) -> bool {
        self.records_to.is_some_and(|sent| sent > self.committed_to)
    }

    /// How far it was sent.
    fn sent_so_far(&self) -> Option<ReadTo> {
        let leader_epoch = (self.next.1 >= 0).then_some(LeaderEpoch(self.next.1));
        self.sent_to.map(|offset| ReadTo { offset, leader_epoch })
    }

    /// A chunk up to an offset was sent, in the message of a number. `records_end`: where its last record ends, exclusive; a chunk
    /// without records asks nothing of the client.
    pub(super) fn sent(
        &mut self,
        (next_offset, leader_epoch, records_end): (i64, i32, Option<i64>),
        end_offset: i64,
        message: u64,
    ) {
        self.next = (ReadPosition::Offset(next_offset), leader_epoch);
        self.sent_to = Some(next_offset);
        if records_end.is_some() {
            self.records_to = records_end;
            self.outstanding_since.get_or_insert_with(Instant::now);
        }
        self.sent_in = message;
        if self.unprocessed.is_none() {
            let since = Instant::now();
            self.unprocessed = self.sent_so_far().map(|read_to| Unprocessed { read_to, message, since });
        }
        self.end_offset = end_offset;
        self.caught_up = next_offset >= end_offset;
    }

    /// It is read to its end, which is there.
    pub(super) fn caught_up_at(&mut self, end_offset: i64) {
        (self.caught_up, self.end_offset) = (true, end_offset);
    }

    pub(super) fn committed(&mut self, offset: Offset) {
        self.committed_to = offset.0;
        // The client goes on: what is left counts from now.
        self.outstanding_since = self.is_outstanding().then(Instant::now);
    }

    /// Since when a record was sent that is not committed. A client that commits behind its last record has committed all,
    /// whatever offsets without records follow.
    pub(super) fn outstanding_since(&self) -> Option<Instant> {
        self.outstanding_since
    }

    /// What the connection has had for longer than `limit`, if it was not told before. `taken`: the number of the last
    /// message that the connection has taken.
    pub(super) fn processed(&mut self, (now, limit): (Instant, Duration), taken: u64) -> Option<ReadTo> {
        let next = self.unprocessed.as_mut()?;
        if next.message > taken {
            next.since = now;
            return None;
        }
        let Unprocessed { read_to, .. } = self.unprocessed.take_if(|next| next.since + limit <= now)?;
        // What was sent meanwhile counts from now on: never too early.
        let (later, message) = (self.sent_so_far().filter(|sent| sent.offset > read_to.offset), self.sent_in);
        self.unprocessed = later.map(|read_to| Unprocessed { read_to, message, since: now });
        Some(read_to)
    }

    /// What counted as processed could not be committed: it is tried again later.
    pub(super) fn not_committed(&mut self) {
        let (message, since) = (self.sent_in, Instant::now());
        self.unprocessed = self.sent_so_far().map(|read_to| Unprocessed { read_to, message, since });
    }

    /// Whether an offset may be committed.
    ///
    /// # Errors
    /// As [`CommitFloor::check`].
    pub(super) fn check(&self, offset: Offset) -> Result<(), ApiError> {
        self.floor.check(&self.name, offset)
    }

    /// Where it stands.
    pub(super) fn progress(&self) -> Option<Progress> {
        let next_offset = self.sent_to.or(self.began)?;
        Some(Progress { of: self.name.clone(), next_offset, end_offset: self.end_offset.max(next_offset) })
    }
}

// === impl Holdings ===

impl Holdings {
    /// Something may have changed of a partition.
    fn touch(&mut self, partition: TopicPartition) {
        if self.at_end {
            self.touched.push(partition);
            self.at_end = self.touched.len() < TOUCHED_MAX;
        }
    }

    pub(super) fn insert(&mut self, partition: TopicPartition, holding: Holding) {
        self.touch(partition);
        self.names.insert(holding.name.clone(), partition);
        self.held.insert(partition, holding);
    }

    pub(super) fn remove(&mut self, partition: &TopicPartition) -> Option<Holding> {
        let holding = self.held.remove(partition)?;
        self.set_reader_of(holding.reader, None, *partition);
        if self.names.get(&holding.name) == Some(partition) {
            self.names.remove(&holding.name);
        }
        Some(holding)
    }

    /// Gives a partition another reader, or none. Returns the one before.
    pub(super) fn set_reader(&mut self, partition: &TopicPartition, reader: Option<usize>) -> Option<usize> {
        self.touch(*partition);
        let holding = self.held.get_mut(partition)?;
        let before = std::mem::replace(&mut holding.reader, reader);
        self.set_reader_of(before, reader, *partition);
        before
    }

    fn set_reader_of(&mut self, before: Option<usize>, after: Option<usize>, partition: TopicPartition) {
        if let Some(before) = before {
            self.readers.remove(&before);
        }
        if let Some(after) = after {
            self.readers.insert(after, partition);
        }
    }

    pub(super) fn get(&self, partition: &TopicPartition) -> Option<&Holding> {
        self.held.get(partition)
    }

    pub(super) fn get_mut(&mut self, partition: &TopicPartition) -> Option<&mut Holding> {
        self.touch(*partition);
        self.held.get_mut(partition)
    }

    /// The partition of a reader, unless that is an old one.
    pub(super) fn of_reader(&self, reader: usize) -> Option<TopicPartition> {
        self.readers.get(&reader).copied()
    }

    /// The partition of a name.
    pub(super) fn named(&self, name: &PartitionName) -> Option<TopicPartition> {
        self.names.get(name).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &Holding)> {
        self.held.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&TopicPartition, &mut Holding)> {
        self.held.iter_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        self.held.keys().copied().collect()
    }

    /// Whether the client knows of partitions, and is at the end of all of them.
    pub(super) fn are_caught_up(&mut self) -> bool {
        // One that is paused is where its client wants it; one that cannot be read is not.
        let is_behind = |held: &Holding| !held.announced || !held.caught_up && !held.paused;
        if self.at_end {
            let touched = std::mem::take(&mut self.touched);
            self.behind = touched.into_iter().find(|partition| self.held.get(partition).is_some_and(is_behind));
            self.at_end = self.behind.is_none();
            return self.at_end && !self.held.is_empty();
        }
        let known = self.behind.filter(|partition| self.held.get(partition).is_some_and(is_behind));
        let behind = known.or_else(|| {
            // Behind it first, then from the start: many that reach their ends one by one are gone through twice.
            let from = self.behind.map_or(Bound::Unbounded, Bound::Excluded);
            let later = self.held.range((from, Bound::Unbounded)).chain(&self.held);
            later.into_iter().find(|(_, held)| is_behind(held)).map(|(partition, _)| *partition)
        });
        (self.behind, self.at_end) = (behind, behind.is_none());
        self.touched.clear();
        self.at_end && !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use walser_model::PartitionIndex;
    use walser_rpc::Reason;

    use super::*;
    use crate::metadata::topic_of_a_test;

    fn holding(committed: Option<i64>) -> Holding {
        let committed = committed.map(|offset| CommittedOffset {
            offset: Offset(offset),
            leader_epoch: None,
            metadata: String::new(),
            committed_at: 0,
        });
        let topic = Arc::new(topic_of_a_test("t"));
        Holding::new(GroupEpoch(1), (topic, 0), committed, ReadPosition::Earliest)
    }

    #[test]
    fn nothing_before_its_start_may_be_committed_unless_the_client_has_sought_there() {
        let mut held = holding(Some(50));
        held.opened(50);
        held.sent((60, 1, Some(60)), 100, 1);
        assert!(held.check(Offset(50)).is_ok() && held.check(Offset(i64::MAX)).is_ok());
        assert_eq!(held.check(Offset(49)).unwrap_err().reason(), Reason::PartitionNotOwned);
        assert_eq!(held.check(Offset(-1)).unwrap_err().reason(), Reason::FieldInvalid);
        // Its reader may go on elsewhere after a pause: that changes nothing.
        held.opened(60);
        assert!(held.check(Offset(50)).is_ok() && held.check(Offset(49)).is_err());
        held.seek(ReadPosition::Offset(10));
        held.opened(10);
        assert!(held.check(Offset(10)).is_ok() && held.check(Offset(9)).is_err());
        held.moved(5);
        assert!(held.check(Offset(5)).is_ok() && held.check(Offset(4)).is_err());
    }

    #[test]
    fn what_was_sent_is_outstanding_until_it_is_committed() {
        let mut held = holding(None);
        held.opened(3);
        assert!(held.outstanding_since().is_none());
        held.sent((9, 1, Some(9)), 20, 1);
        assert!(held.outstanding_since().is_some() && !held.caught_up);
        held.committed(Offset(8));
        assert!(held.outstanding_since().is_some());
        held.committed(Offset(9));
        assert!(held.outstanding_since().is_none());
        held.sent((20, 1, Some(20)), 20, 2);
        assert!(held.caught_up && held.progress().is_some_and(|progress| progress.next_offset == 20));
    }

    #[test]
    fn offsets_without_records_are_not_outstanding() {
        let mut held = holding(None);
        held.opened(0);
        held.sent((9, 1, None), 40, 1);
        assert!(held.outstanding_since().is_none(), "nothing that could be processed");
        // The last record has offset 14; what followed is compacted away.
        held.sent((20, 1, Some(15)), 40, 2);
        held.sent((30, 1, None), 40, 3);
        held.committed(Offset(14));
        assert!(held.outstanding_since().is_some());
        held.committed(Offset(15));
        assert!(held.outstanding_since().is_none());
        held.sent((40, 1, None), 40, 4);
        assert!(held.outstanding_since().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_counts_as_processed_once_and_never_too_early() {
        let (limit, begun) = (Duration::from_secs(5), Instant::now());
        let second = |second: u64| begun + Duration::from_secs(second);
        let mut held = holding(Some(0));
        held.sent((10, 1, Some(10)), 100, 1);
        held.sent((20, 1, Some(20)), 100, 2);
        let mut processed = |at, taken| held.processed((second(at), limit), taken).map(|read_to| read_to.offset);
        assert_eq!(processed(4, 2), None);
        assert_eq!(processed(5, 2), Some(10), "the later one may have come a moment ago");
        assert_eq!(processed(9, 1), None, "the connection has not taken it");
        assert_eq!(processed(10, 2), None);
        assert_eq!(processed(14, 2), Some(20));
        assert_eq!(processed(100, 2), None);
        held.not_committed();
        let again = held.processed((second(105), limit), 2);
        assert_eq!(again, Some(ReadTo { offset: 20, leader_epoch: Some(LeaderEpoch(1)) }), "it is tried again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_of_a_log_that_was_cut_is_neither_committed_nor_waited_for() {
        let (limit, begun) = (Duration::from_secs(5), Instant::now());
        let later = begun + 2 * limit;
        let mut held = holding(Some(0));
        held.sent((50, 1, Some(50)), 100, 1);
        held.sent((100, 1, Some(100)), 100, 2);
        assert!(held.processed((later, limit), 0).is_none(), "the connection has not taken it");
        held.moved(60);
        let read_to = |held: &mut Holding, at| held.processed((at, limit), 2).map(|read_to| read_to.offset);
        assert_eq!(read_to(&mut held, later + limit), Some(50));
        assert_eq!(read_to(&mut held, later + 2 * limit), Some(60), "what was sent below it is processed");
        assert_eq!(read_to(&mut held, later + 4 * limit), None);
        assert!(held.progress().is_some_and(|progress| progress.next_offset == 60));
        held.committed(Offset(60));
        assert!(held.outstanding_since().is_none(), "the client has committed all that there is");
        held.sent((70, 3, Some(70)), 70, 3);
        let read_to = held.processed((later + 9 * limit, limit), 3);
        assert_eq!(read_to, Some(ReadTo { offset: 70, leader_epoch: Some(LeaderEpoch(3)) }));
        held.sent((80, 3, Some(80)), 80, 4);
        held.moved(90);
        assert!(held.unprocessed.is_some(), "records before it were removed: what was sent may be committed");
    }

    #[test]
    fn names_and_readers_lead_to_what_is_held_and_to_nothing_else() {
        let partition =
            |number: u8| TopicPartition::new(walser_model::TopicId::from_bytes([number; 16]), PartitionIndex(0));
        let mut holdings = Holdings::default();
        holdings.insert(partition(1), holding(Some(0)));
        let name = holdings.get(&partition(1)).unwrap().name.clone();
        assert_eq!(holdings.set_reader(&partition(1), Some(7)), None);
        assert_eq!(holdings.set_reader(&partition(1), Some(8)), Some(7));
        assert_eq!((holdings.of_reader(7), holdings.of_reader(8)), (None, Some(partition(1))));
        // A topic of the same name takes its place before it has gone.
        holdings.insert(partition(2), holding(Some(0)));
        assert_eq!(holdings.named(&name), Some(partition(2)));
        holdings.remove(&partition(1)).unwrap();
        assert_eq!((holdings.named(&name), holdings.of_reader(8)), (Some(partition(2)), None));
        assert!(holdings.remove(&partition(1)).is_none() && holdings.len() == 1);
    }
}
