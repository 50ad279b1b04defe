//! The commits of one member: one is under way, and those that come meanwhile gather into the next one.
//!
//! So they take effect in their order however often one has to be repeated, and a client that commits every record costs
//! one request at a time.

use std::collections::{BTreeMap, VecDeque};

use walser_group::{GroupEpoch, OffsetToCommit};
use walser_model::{Offset, TopicPartition};
use walser_rpc::ApiError;

use crate::reading::{PartitionFailure, PartitionName};

/// Offsets in one commit, and in one request to the coordinator, inclusive.
pub(crate) const OFFSETS_MAX: usize = 10_000;
/// Commits, and offsets of commits, that wait for their answers: with more, nothing is taken of the client.
const WAITING_MAX: usize = 1_000;
const WAITING_OFFSETS_MAX: usize = 2 * OFFSETS_MAX;

/// The commits of one member.
#[derive(Debug, Default)]
pub(super) struct Commits {
    waiting: VecDeque<Batch>,
    under_way: Option<Batch>,
    sequence: i64,
    /// Commits and offsets that are not answered.
    unanswered: (usize, usize),
}

/// What goes in one request.
#[derive(Debug, Default)]
struct Batch {
    /// In which the member held all of it.
    epoch: GroupEpoch,
    /// The newest offset of each partition.
    offsets: BTreeMap<TopicPartition, OffsetToCommit>,
    asked: Vec<AskedCommit>,
}

/// A commit as the client asked for it.
#[derive(Debug)]
pub(super) struct AskedCommit {
    /// 0: only failures are told.
    pub(super) id: i64,
    pub(super) partitions: Vec<(TopicPartition, PartitionName)>,
    /// What is refused already.
    pub(super) refused: Vec<PartitionFailure>,
}

/// What has become of commits.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Of each commit, by its id, what was refused.
    pub(super) answers: Vec<(i64, Vec<PartitionFailure>)>,
    /// What is committed now.
    pub(super) committed: Vec<(TopicPartition, Offset)>,
    /// What is not.
    pub(super) refused: Vec<TopicPartition>,
}

impl AskedCommit {
    fn offset_count(&self) -> usize {
        self.partitions.len() + self.refused.len()
    }
}

impl Commits {
    /// Takes a commit, whose offsets are at most [`OFFSETS_MAX`], of a member that is in `epoch`: it counts for what was
    /// assigned by then, however late it is written.
    pub(super) fn add(&mut self, asked: AskedCommit, offsets: Vec<OffsetToCommit>, epoch: GroupEpoch) {
        self.unanswered.0 += 1;
        self.unanswered.1 += asked.offset_count();
        let fits = |batch: &Batch| batch.epoch == epoch && batch.offsets.len() + offsets.len() <= OFFSETS_MAX;
        if !self.waiting.back().is_some_and(fits) {
            self.waiting.push_back(Batch { epoch, ..Batch::default() });
        }
        let batch = self.waiting.back_mut().expect("one was just put there");
        batch.offsets.extend(offsets.into_iter().map(|offset| (offset.partition, offset)));
        batch.asked.push(asked);
    }

    /// What is to be committed now, with its epoch and sequence, unless something is under way. A commit of nothing is answered by
    /// [`Commits::done`] like any other.
    pub(super) fn next(&mut self) -> Option<((GroupEpoch, i64), Vec<OffsetToCommit>)> {
        if self.under_way.is_some() {
            return None;
        }
        let batch = self.waiting.pop_front()?;
        self.sequence += 1;
        let (epoch, offsets) = (batch.epoch, batch.offsets.values().cloned().collect());
        self.under_way = Some(batch);
        Some(((epoch, self.sequence), offsets))
    }

    /// What was under way is answered, with what the coordinator has refused of it.
    pub(super) fn done(&mut self, answer: Result<Vec<(TopicPartition, ApiError)>, ApiError>) -> Outcome {
        let Some(Batch { offsets, asked, .. }) = self.under_way.take() else { return Outcome::default() };
        let (refused, all) = match answer {
            Ok(refused) => (refused.into_iter().collect::<BTreeMap<_, _>>(), None),
            Err(failure) => (BTreeMap::new(), Some(failure)),
        };
        let failure = |partition: &TopicPartition| all.as_ref().or_else(|| refused.get(partition)).cloned();
        let mut outcome = Outcome::default();
        for (partition, offset) in &offsets {
            match failure(partition) {
                None => outcome.committed.push((*partition, offset.offset)),
                Some(_) => outcome.refused.push(*partition),
            }
        }
        for asked in asked {
            self.unanswered.0 -= 1;
            self.unanswered.1 -= asked.offset_count();
            let AskedCommit { id, partitions, refused: mut failures } = asked;
            let told = |(partition, of)| Some(PartitionFailure { of, failure: failure(&partition)? });
            failures.extend(partitions.into_iter().filter_map(told));
            outcome.answers.push((id, failures));
        }
        outcome
    }

    /// Whether nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_none()
    }

    /// Whether an offset of the partition waits or is under way.
    pub(super) fn concern(&self, partition: &TopicPartition) -> bool {
        self.waiting.iter().chain(&self.under_way).any(|batch| batch.offsets.contains_key(partition))
    }

    /// Whether so much waits that the client has to.
    pub(super) fn are_many(&self) -> bool {
        self.unanswered.0 >= WAITING_MAX || self.unanswered.1 >= WAITING_OFFSETS_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use walser_model::{PartitionIndex, TopicId};
    use walser_rpc::Reason;

    use super::*;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(number))
    }

    fn commit(commits: &mut Commits, id: i64, offsets: &[(i32, i64)]) {
        let name = |number| PartitionName { topic: Arc::from("t"), partition: number };
        let partitions = offsets.iter().map(|(number, _)| (partition(*number), name(*number))).collect();
        let offset = |(number, offset): &(i32, i64)| OffsetToCommit {
            partition: partition(*number),
            offset: Offset(*offset),
            leader_epoch: None,
            metadata: String::new(),
        };
        let offsets = offsets.iter().map(offset).collect();
        commits.add(AskedCommit { id, partitions, refused: Vec::new() }, offsets, GroupEpoch(1));
    }

    fn offsets(next: Option<((GroupEpoch, i64), Vec<OffsetToCommit>)>) -> (i64, Vec<(i32, i64)>) {
        let ((_, sequence), offsets) = next.unwrap();
        (sequence, offsets.into_iter().map(|offset| (offset.partition.partition.0, offset.offset.0)).collect())
    }

    #[test]
    fn what_comes_meanwhile_gathers_and_the_last_one_of_a_partition_holds() {
        let mut commits = Commits::default();
        commit(&mut commits, 1, &[(0, 5)]);
        assert_eq!(offsets(commits.next()), (1, vec![(0, 5)]));
        commit(&mut commits, 2, &[(0, 9), (1, 1)]);
        commit(&mut commits, 3, &[(0, 7)]);
        assert!(commits.next().is_none(), "one is under way");
        let outcome = commits.done(Ok(Vec::new()));
        assert_eq!((outcome.answers.len(), outcome.answers[0].0), (1, 1));
        assert_eq!(outcome.committed, [(partition(0), Offset(5))]);
        assert!(commits.concern(&partition(1)) && !commits.is_idle());
        assert_eq!(offsets(commits.next()), (2, vec![(0, 7), (1, 1)]));
        let refused = ApiError::new(Reason::PartitionNotOwned, "moved");
        let outcome = commits.done(Ok(vec![(partition(0), refused)]));
        let refused: Vec<_> = outcome.answers.iter().map(|(id, refused)| (*id, refused.len())).collect();
        assert_eq!(refused, [(2, 1), (3, 1)], "both asked for the partition");
        assert_eq!((outcome.committed, outcome.refused), (vec![(partition(1), Offset(1))], vec![partition(0)]));
        assert!(commits.is_idle() && !commits.concern(&partition(0)));
    }

    #[test]
    fn a_commit_counts_for_the_epoch_in_which_it_was_made() {
        let mut commits = Commits::default();
        let mut made = |epoch| {
            let offset = OffsetToCommit {
                partition: partition(0),
                offset: Offset(1),
                leader_epoch: None,
                metadata: String::new(),
            };
            let asked = AskedCommit { id: 0, partitions: Vec::new(), refused: Vec::new() };
            commits.add(asked, vec![offset], GroupEpoch(epoch));
        };
        [3, 3, 4].into_iter().for_each(&mut made);
        assert_eq!(commits.next().unwrap().0, (GroupEpoch(3), 1));
        commits.done(Ok(Vec::new()));
        assert_eq!(commits.next().unwrap().0, (GroupEpoch(4), 2), "not with those of the assignment before");
    }

    #[test]
    fn what_waits_is_bounded_and_large_commits_do_not_become_one() {
        let mut commits = Commits::default();
        let many: Vec<_> = (0..9_999).map(|number| (number, 1)).collect();
        for id in 1..=2 {
            commit(&mut commits, id, &many);
        }
        assert!(!commits.are_many());
        commit(&mut commits, 3, &many);
        assert!(commits.are_many(), "20,000 offsets");
        let mut requests = 0;
        while let Some((_, offsets)) = commits.next() {
            assert!(offsets.len() <= OFFSETS_MAX);
            requests += 1;
            commits.done(Err(ApiError::new(Reason::CoordinatorNotAvailable, "away")));
        }
        assert_eq!(requests, 3);
        assert!(!commits.are_many() && commits.is_idle());
        let refused = |partition| PartitionFailure {
            of: PartitionName { topic: Arc::from("t"), partition },
            failure: ApiError::new(Reason::PartitionNotOwned, "of another"),
        };
        for _ in 0..2 {
            let refused = (0..10_000).map(refused).collect();
            commits.add(AskedCommit { id: 0, partitions: Vec::new(), refused }, Vec::new(), GroupEpoch(1));
        }
        assert!(commits.are_many(), "what is refused counts as well");
        while commits.next().is_some() {
            commits.done(Ok(Vec::new()));
        }
        for id in 1..=1_000 {
            commit(&mut commits, id, &[]);
        }
        assert!(commits.are_many(), "1,000 commits");
        assert_eq!(offsets(commits.next()).1, []);
        assert_eq!(commits.done(Ok(Vec::new())).answers.len(), 1_000);
    }
}
