//! What other nodes say about the partitions of a shard.

use std::collections::BTreeMap;

use walser_model::{NodeId, TopicPartition};
use walser_replication::ReplicationSession;

use super::Shard;
use super::maintenance::Task;
use crate::replication::{FromPeer, OpenAnswer, Outgoing};

/// Opens that wait for metadata; further ones are refused, and come again.
const PARKED_MAX: usize = 100_000;

/// Opens of followers that know of a leader epoch before this node does: the latest of each follower.
#[derive(Debug, Default)]
pub(super) struct ParkedOpens(BTreeMap<(TopicPartition, NodeId), ReplicationSession>);

impl ParkedOpens {
    /// Keeps an open, in place of an earlier one of the same follower. False: there is no room.
    fn park(&mut self, id: TopicPartition, session: ReplicationSession) -> bool {
        let key = (id, session.follower);
        let fits = self.0.len() < PARKED_MAX || self.0.contains_key(&key);
        if fits && self.0.get(&key).is_none_or(|known| known.id < session.id) {
            self.0.insert(key, session);
        }
        fits
    }

    /// Takes those of a partition.
    fn take(&mut self, id: TopicPartition) -> Vec<ReplicationSession> {
        let of_partition = (id, NodeId(i32::MIN))..=(id, NodeId(i32::MAX));
        let keys: Vec<_> = self.0.range(of_partition).map(|(key, _)| *key).collect();
        keys.iter().filter_map(|key| self.0.remove(key)).collect()
    }
}

impl Shard {
    /// Takes what another node says about a partition.
    pub(super) fn hear(&mut self, id: TopicPartition, said: FromPeer) {
        match said {
            FromPeer::Opened(session) => return self.hear_open(id, session),
            FromPeer::Copied { work, copy: Some(copy) } => return self.lend(id, Task::Replace { work, copy }),
            FromPeer::Closed { follower, open } => {
                let known = self.parked_opens.0.get(&(id, follower));
                if known.is_some_and(|parked| parked.id == open) {
                    self.parked_opens.0.remove(&(id, follower));
                }
            }
            _ => {}
        }
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        partition.hear(said, &self.context);
        if partition.has_pushed() {
            self.incoming.insert(id);
        }
        self.touched.insert(id);
    }

    /// A leader parks opens of a newer epoch until its own metadata arrives.
    fn hear_open(&mut self, id: TopicPartition, session: ReplicationSession) {
        let known = self.partitions.get_mut(&id);
        let refused = match known {
            Some(partition) if partition.leads() && partition.known_epoch() >= session.leader_epoch => {
                partition.hear(FromPeer::Opened(session), &self.context);
                self.touched.insert(id);
                false
            }
            Some(partition) if partition.known_epoch() >= session.leader_epoch => true,
            Some(_) | None => !self.parked_opens.park(id, session),
        };
        if refused {
            let (follower, open) = (session.follower, session.id);
            self.context.peers.tell(id, Outgoing::Answer { follower, open, answer: OpenAnswer::Refused });
        }
    }

    /// New metadata is there: opens that waited for it are taken up again.
    pub(super) fn open_parked(&mut self, id: TopicPartition) {
        for session in self.parked_opens.take(id) {
            self.hear_open(id, session);
        }
    }

    /// A node is there, whatever it says about single partitions.
    pub(super) fn hear_of(&mut self, node: NodeId, node_epoch: i64) {
        for id in &self.ticking {
            if let Some(partition) = self.partitions.get_mut(id).filter(|partition| partition.leads()) {
                partition.hear_of(node, node_epoch, &self.context);
            }
        }
    }
}
