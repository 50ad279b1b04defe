//! What waits to be said to other nodes.
//!
//! Each receiver has a lane, and in it each partition has room for the latest message of each kind: an open replaces the
//! one before and what was to be acknowledged on it, an acknowledgement the one before. So the lanes are bounded by the
//! number of partitions, however slow a receiver is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use walser_log::LogConfig;
use walser_model::{LeaderEpoch, NodeId, TopicPartition};
use walser_replication::{Ack, AlterIsr, ReplicationSession, ReplicationSessionId, WorkId};

use super::peers::{OpenAnswer, Outgoing, Peers};

/// Everything that waits. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox {
    lanes: Arc<Lanes>,
}

#[derive(Debug, Default)]
struct Lanes {
    leaders: Mutex<HashMap<NodeId, Arc<Lane<ToLeader>>>>,
    /// Leaders to which a lane was just made: somebody is to serve it.
    new_leaders: Arc<Lane<BTreeSet<NodeId>>>,
    followers: Mutex<HashMap<NodeId, Arc<Lane<ToFollower>>>>,
    controller: Arc<Lane<ToController>>,
    copies: Arc<Lane<BTreeMap<TopicPartition, CopyWanted>>>,
}

/// What waits for one receiver.
#[derive(Debug, Default)]
pub(crate) struct Lane<T> {
    waiting: Mutex<T>,
    changed: Notify,
}

/// For a leader, by partition.
pub(crate) type ToLeader = BTreeMap<TopicPartition, FollowerNews>;

/// What a follower has to say about a partition.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct FollowerNews {
    pub(crate) open: Option<ReplicationSession>,
    /// On the latest open.
    pub(crate) ack: Option<Ack>,
    /// The latest open is over.
    pub(crate) left: bool,
}

/// For a follower.
#[derive(Debug, Default)]
pub(crate) struct ToFollower {
    /// To its latest open of each partition.
    pub(crate) answers: BTreeMap<TopicPartition, (ReplicationSessionId, OpenAnswer)>,
    /// Partitions in which there is something to push.
    pub(crate) more: BTreeSet<TopicPartition>,
    /// Partitions of which nothing is pushed any more.
    pub(crate) stop: BTreeSet<TopicPartition>,
}

/// For the controller.
#[derive(Debug, Default)]
pub(crate) struct ToController {
    pub(crate) proposals: BTreeMap<TopicPartition, AlterIsr>,
    pub(crate) given_up: BTreeMap<TopicPartition, LeaderEpoch>,
    pub(crate) handed_over: BTreeMap<TopicPartition, LeaderEpoch>,
}

/// A log that is to be copied from its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CopyWanted {
    pub(crate) leader: NodeId,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) work: WorkId,
    /// Settings of the log that it is to become.
    pub(crate) config: LogConfig,
}

// === impl Lane ===

impl<T: Default> Lane<T> {
    fn add(&self, add: impl FnOnce(&mut T)) {
        add(&mut self.waiting.lock());
        self.changed.notify_one();
    }

    /// Takes everything that waits.
    pub(crate) fn take(&self) -> T {
        std::mem::take(&mut self.waiting.lock())
    }

    /// Waits until something was added since this was called last.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Lane<ToLeader> {
    /// Waits until there is something for which a stream is needed: that nothing is followed any more is no news without
    /// one.
    pub(crate) async fn needs_stream(&self) {
        loop {
            {
                let mut waiting = self.waiting.lock();
                waiting.retain(|_, news| !news.left);
                if !waiting.is_empty() {
                    return;
                }
            }
            self.changed().await;
        }
    }
}

// === impl Outbox ===

impl Outbox {
    /// Tells of every leader to which something is to be said, once.
    pub(crate) fn new_leaders(&self) -> Arc<Lane<BTreeSet<NodeId>>> {
        Arc::clone(&self.lanes.new_leaders)
    }

    /// What waits for a leader.
    pub(crate) fn to_leader(&self, leader: NodeId) -> Arc<Lane<ToLeader>> {
        let mut leaders = self.lanes.leaders.lock();
        let new = || {
            self.lanes.new_leaders.add(|waiting| {
                waiting.insert(leader);
            });
            Arc::default()
        };
        Arc::clone(leaders.entry(leader).or_insert_with(new))
    }

    /// A fresh lane for the stream that a follower has just opened: what waited on an earlier one was for opens that are
    /// over.
    pub(crate) fn connect_follower(&self, follower: NodeId) -> Arc<Lane<ToFollower>> {
        let lane = Arc::default();
        self.lanes.followers.lock().insert(follower, Arc::clone(&lane));
        lane
    }

    /// Whether a lane is the one that a follower's latest stream has.
    pub(crate) fn is_lane_of(&self, follower: NodeId, lane: &Arc<Lane<ToFollower>>) -> bool {
        self.lanes.followers.lock().get(&follower).is_some_and(|latest| Arc::ptr_eq(latest, lane))
    }

    /// What waits for a follower.
    fn to_follower(&self, follower: NodeId) -> Arc<Lane<ToFollower>> {
        Arc::clone(self.lanes.followers.lock().entry(follower).or_default())
    }

    /// What waits for the controller.
    pub(crate) fn to_controller(&self) -> Arc<Lane<ToController>> {
        Arc::clone(&self.lanes.controller)
    }

    /// Logs that are to be copied.
    pub(crate) fn copies(&self) -> Arc<Lane<BTreeMap<TopicPartition, CopyWanted>>> {
        Arc::clone(&self.lanes.copies)
    }

    /// Forgets what waits for a partition that this node neither leads nor follows as before, and says so where it was
    /// opened.
    fn forget(&self, partition: TopicPartition) {
        for lane in self.lanes.leaders.lock().values() {
            lane.add(|waiting| {
                waiting.insert(partition, FollowerNews { left: true, ..FollowerNews::default() });
            });
        }
        for lane in self.lanes.followers.lock().values() {
            let mut waiting = lane.waiting.lock();
            waiting.answers.remove(&partition);
            waiting.more.remove(&partition);
        }
        self.lanes.controller.waiting.lock().proposals.remove(&partition);
    }
}

impl Peers for Outbox {
    fn tell(&self, partition: TopicPartition, message: Outgoing) {
        match message {
            Outgoing::Open { leader, session } => self.to_leader(leader).add(|waiting| {
                waiting.insert(partition, FollowerNews { open: Some(session), ..FollowerNews::default() });
            }),
            Outgoing::Acknowledge { leader, ack } => self.to_leader(leader).add(|waiting| {
                waiting.entry(partition).or_default().ack = Some(ack);
            }),
            Outgoing::Answer { follower, open, answer } => self.to_follower(follower).add(|waiting| {
                waiting.stop.remove(&partition);
                waiting.answers.insert(partition, (open, answer));
            }),
            Outgoing::More { follower } => self.to_follower(follower).add(|waiting| {
                waiting.more.insert(partition);
            }),
            Outgoing::Stop { follower } => self.to_follower(follower).add(|waiting| {
                waiting.answers.remove(&partition);
                waiting.stop.insert(partition);
            }),
            Outgoing::Left => self.forget(partition),
            Outgoing::Propose(proposal) => self.lanes.controller.add(|waiting| {
                waiting.proposals.insert(partition, proposal);
            }),
            Outgoing::HandOver { leader_epoch } => self.lanes.controller.add(|waiting| {
                waiting.handed_over.insert(partition, leader_epoch);
            }),
            Outgoing::GiveUp { leader_epoch } => self.lanes.controller.add(|waiting| {
                waiting.given_up.insert(partition, leader_epoch);
            }),
            Outgoing::Copy { leader, leader_epoch, work, config } => self.lanes.copies.add(|waiting| {
                waiting.insert(partition, CopyWanted { leader, leader_epoch, work, config });
            }),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use walser_model::{Offset, PartitionIndex, TopicId};

    use super::*;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(number))
    }

    /// Of no special replica.
    pub(crate) fn session(sequence: u64) -> ReplicationSession {
        ReplicationSession {
            follower: NodeId(2),
            id: ReplicationSessionId { node_epoch: 7, sequence },
            leader_epoch: LeaderEpoch(1),
            log_end: Offset(0),
            durable: Offset(0),
            lazy: false,
            last_epoch: LeaderEpoch::NONE,
            damaged: false,
        }
    }

    fn ack(sequence: u64, end: i64) -> Ack {
        let ReplicationSession { follower, id: open, leader_epoch, lazy, .. } = session(sequence);
        Ack { follower, leader_epoch, open, log_start: Offset::ZERO, log_end: Offset(end), durable: Offset(end), lazy }
    }

    #[test]
    fn a_lane_keeps_the_latest_of_each_kind_for_one_a_thousand_and_ten_thousand_partitions() {
        let outbox = Outbox::default();
        for count in [1, 1_000, 10_000] {
            for number in 0..count {
                let leader = NodeId(1);
                for sequence in [1, 2] {
                    outbox.tell(partition(number), Outgoing::Open { leader, session: session(sequence) });
                    outbox.tell(partition(number), Outgoing::Acknowledge { leader, ack: ack(sequence, 1) });
                    outbox.tell(partition(number), Outgoing::Acknowledge { leader, ack: ack(sequence, 2) });
                }
            }
            let waiting = outbox.to_leader(NodeId(1)).take();
            assert_eq!(waiting.len(), usize::try_from(count).unwrap());
            let latest = FollowerNews { open: Some(session(2)), ack: Some(ack(2, 2)), left: false };
            assert!(waiting.values().all(|news| *news == latest));
        }
        assert_eq!(outbox.new_leaders().take(), [NodeId(1)].into(), "a leader is told once");
        outbox.tell(partition(0), Outgoing::Open { leader: NodeId(1), session: session(3) });
        assert!(outbox.new_leaders().take().is_empty());
    }

    #[test]
    fn what_waits_for_a_partition_that_was_left_is_forgotten_and_a_new_open_makes_earlier_acknowledgements_void() {
        let outbox = Outbox::default();
        let leader = NodeId(1);
        outbox.tell(partition(0), Outgoing::Acknowledge { leader, ack: ack(1, 1) });
        outbox.tell(partition(0), Outgoing::Open { leader, session: session(2) });
        let waiting = outbox.to_leader(leader).take();
        assert_eq!(waiting[&partition(0)].ack, None);
        outbox.tell(partition(0), Outgoing::Open { leader, session: session(3) });
        outbox.tell(partition(0), Outgoing::More { follower: NodeId(3) });
        outbox.tell(partition(0), Outgoing::Left);
        let left = FollowerNews { left: true, ..FollowerNews::default() };
        assert_eq!(outbox.to_leader(leader).take(), [(partition(0), left)].into());
        assert!(outbox.to_follower(NodeId(3)).take().more.is_empty());
        outbox.tell(partition(0), Outgoing::Left);
        outbox.tell(partition(0), Outgoing::Open { leader, session: session(4) });
        let opened = outbox.to_leader(leader).take();
        assert_eq!((opened[&partition(0)].open, opened[&partition(0)].left), (Some(session(4)), false));
    }

    #[tokio::test]
    async fn that_nothing_is_followed_any_more_needs_no_stream() {
        let outbox = Outbox::default();
        let leader = NodeId(1);
        outbox.tell(partition(0), Outgoing::Open { leader, session: session(1) });
        let lane = outbox.to_leader(leader);
        lane.needs_stream().await;
        lane.take();
        outbox.tell(partition(0), Outgoing::Left);
        let soon = Duration::from_millis(1);
        assert!(tokio::time::timeout(soon, lane.needs_stream()).await.is_err());
        assert!(lane.take().is_empty(), "nor is it told to the next one");
    }

    /// A stream that was given up may be heard of after the one that came in its place.
    #[test]
    fn a_stream_can_find_out_that_its_lane_is_another_ones() {
        let outbox = Outbox::default();
        let first = outbox.connect_follower(NodeId(2));
        assert!(outbox.is_lane_of(NodeId(2), &first) && !outbox.is_lane_of(NodeId(3), &first));
        let second = outbox.connect_follower(NodeId(2));
        assert!(!outbox.is_lane_of(NodeId(2), &first) && outbox.is_lane_of(NodeId(2), &second));
    }
}
