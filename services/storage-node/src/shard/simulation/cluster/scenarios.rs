//! Courses of events that a random run meets too rarely, each found once.

use tokio::sync::oneshot;
use walser_log::PowerLoss;
use walser_rpc::Reason;

use super::*;

impl Cluster {
    /// A moment in which everybody does what there is to do.
    fn moment(&mut self) {
        self.pass(Duration::from_millis(100));
        for node in 0..NODES {
            if self.nodes[node].up {
                self.act(node);
            }
        }
        self.deliver_and_decide();
    }

    fn moments(&mut self, count: usize) {
        (0..count).for_each(|_| self.moment());
    }

    /// A healthy cluster with ten records in a partition; returns that, its leader and a follower.
    fn with_records(&mut self) -> (TopicPartition, usize, usize) {
        self.heal();
        let id = partition(0);
        while self.acknowledged.keys().filter(|(found, _)| *found == id).count() < 10 {
            self.write();
            self.moment();
        }
        self.moments(100);
        assert!(self.is_quiet() && self.control.is_whole());
        let leader = number_of(self.control.leader(id).unwrap());
        (id, leader, (leader + 1) % NODES)
    }

    fn delete_below(
        &mut self,
        (id, node): (TopicPartition, usize),
        before: Offset,
    ) -> oneshot::Receiver<Result<Offset, ApiError>> {
        let (reply, told) = oneshot::channel();
        self.nodes[node].shard.queue.push(Command::DeleteRecords { partition: id, before, reply });
        told
    }
}

/// A follower has no file left for a moment, and nothing is written afterwards.
#[test]
fn a_deletion_that_fails_once_on_a_follower_is_carried_out_later() {
    let mut cluster = Cluster::new(1, None);
    let (id, leader, follower) = cluster.with_records();
    let end = cluster.nodes[leader].surroundings.registry.led(id).unwrap().high_watermark();
    cluster.nodes[follower].disk.set_file_limit(Some(0));
    let mut told = cluster.delete_below((id, leader), end);
    cluster.moments(20);
    assert!(told.try_recv().is_err(), "one has not deleted");
    cluster.nodes[follower].disk.set_file_limit(None);
    cluster.moments(20);
    assert_eq!(told.try_recv().unwrap().unwrap(), end);
}

/// The checkpoint of a follower can neither be synced nor be replaced, and all lose power.
#[test]
fn a_follower_that_cannot_save_a_deletion_does_not_confirm_it() {
    let mut cluster = Cluster::new(1, None);
    let (id, leader, follower) = cluster.with_records();
    cluster.nodes[follower].disk.fail_sync_after(0);
    cluster.nodes[follower].disk.set_capacity(1);
    let mut told = cluster.delete_below((id, leader), Offset(5));
    cluster.moment();
    let answered = told.try_recv().is_ok_and(|answer| answer.is_ok());
    for node in [leader, (0..NODES).find(|node| *node != leader && *node != follower).unwrap(), follower] {
        cluster.crash(node, Some(PowerLoss::Everything));
    }
    cluster.moments(50);
    cluster.start(follower);
    cluster.moments(200);
    assert!(
        !answered || cluster.reader(follower, id).log_start() >= Offset(5),
        "it was answered, and the records are back"
    );
}

#[test]
fn a_node_that_does_not_lead_deletes_nothing_when_it_is_asked() {
    let mut cluster = Cluster::new(1, None);
    let (id, _, follower) = cluster.with_records();
    let mut told = cluster.delete_below((id, follower), Offset(5));
    cluster.moments(5);
    assert_eq!(told.try_recv().unwrap().unwrap_err().reason(), Reason::NotLeader);
    assert_eq!(cluster.reader(follower, id).log_start(), Offset(0));
}

/// The leader is alone in sync, with records that nobody else has and that were never committed; it meets damage, and
/// starts again. Then one that has everything committed comes back.
#[test]
fn a_damaged_leader_that_is_alone_gives_way_to_an_eligible_node_that_comes_back() {
    let mut cluster = Cluster::new(1, None);
    let (id, leader, other) = cluster.with_records();
    let third = (0..NODES).find(|node| *node != leader && *node != other).unwrap();
    cluster.crash(third, None);
    cluster.moments(100);
    cluster.crash(other, None);
    (0..20).for_each(|_| cluster.write());
    cluster.moments(100);
    cluster.nodes[leader].hurt.insert(id);
    cluster.nodes[leader].flip_bit_of(id);
    let generation = cluster.nodes[leader].shard.partitions[&id].log.generation();
    cluster.nodes[leader].shard.queue.push(Command::Damaged { partition: id, from: Offset(0), generation });
    cluster.moments(20);
    cluster.crash(leader, None);
    cluster.moments(20);
    cluster.start(leader);
    cluster.moments(50);
    cluster.start(other);
    cluster.moments(200);
    let state = &cluster.control.partitions[&id].state;
    assert!(state.leader == Some(node_id(other)) && state.isr.len() == 2, "{state:?}");
}

/// A key is deleted while a follower is away, for so long that the tombstone may go; the follower comes back.
fn deleted_while_a_follower_is_away(fault: Option<ClusterFault>) {
    let mut cluster = Cluster::new(1, fault);
    cluster.heal();
    let id = partition(COMPACTED);
    let write = |cluster: &mut Cluster, key: String, value: Option<usize>| {
        let value = value.map(|number| [number.to_string().as_bytes(), &[b'.'; 1_000]].concat().into());
        let end = cluster.acknowledged_of(id);
        while cluster.acknowledged_of(id) == end {
            cluster.write_to(id, Written { key: Some(key.clone().into()), value: value.clone() });
            cluster.moments(3);
        }
    };
    write(&mut cluster, "deleted".to_owned(), Some(1));
    cluster.moments(100);
    let leader = number_of(cluster.control.leader(id).unwrap());
    let away = (leader + 1) % NODES;
    cluster.crash(away, None);
    cluster.moments(20);
    write(&mut cluster, "deleted".to_owned(), None);
    let compact = |cluster: &mut Cluster, rounds: std::ops::Range<usize>| {
        for round in rounds {
            (0..12).for_each(|number| write(cluster, format!("other {number}"), Some(round)));
            (0..NODES).for_each(|node| cluster.compact(node));
            cluster.moments(30);
        }
    };
    compact(&mut cluster, 0..4);
    // With a fault, what is back is found below.
    let stays = cluster.has_deleted(id, leader) || fault.is_some();
    assert!(stays, "the tombstone has gone although a replica did not have it");
    cluster.heal();
    cluster.check();
    // Everybody has it now: it may go.
    compact(&mut cluster, 4..8);
    cluster.heal();
    cluster.check();
    assert!((0..NODES).all(|node| !cluster.has_deleted(id, node)), "it stays for ever");
}

impl Cluster {
    fn acknowledged_of(&self, id: TopicPartition) -> usize {
        self.acknowledged.keys().filter(|(found, _)| *found == id).count()
    }

    /// Whether a replica has a record of the key that was deleted.
    fn has_deleted(&self, id: TopicPartition, node: usize) -> bool {
        self.kept(node, id).values().any(|written| written.key.as_deref() == Some(b"deleted"))
    }
}

#[test]
fn a_key_that_is_deleted_while_a_follower_is_away_stays_deleted() {
    deleted_while_a_follower_is_away(None);
}

#[test]
fn a_tombstone_that_goes_too_early_is_noticed() {
    let faults = LogFaults { drops_tombstones: true, ..LogFaults::NONE };
    let run = || deleted_while_a_follower_is_away(Some(ClusterFault::Compaction(faults)));
    let noticed = std::panic::catch_unwind(run).unwrap_err();
    let said = noticed.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(said.contains("is back from"), "{said}");
}

/// What a producer has written is replaced by another one and compacted while a follower is away; that one comes back,
/// leads, and the producer repeats its batch. Whether the old value is in the log again.
fn repeated_after_a_compaction(fault: Option<ClusterFault>) -> bool {
    let mut cluster = Cluster::new(1, fault);
    cluster.heal();
    let id = partition(COMPACTED);
    let leader = number_of(cluster.control.leader(id).unwrap());
    let (away, third) = ((leader + 1) % NODES, (leader + 2) % NODES);
    cluster.crash(away, None);
    cluster.moments(20);
    let producer = Producer { id: ProducerId(1_000), epoch: ProducerEpoch(0), base_sequence: 0 };
    let old = Written { key: Some("replaced".into()), value: Some("old".into()) };
    let mut send = |written: &Written, producer| {
        cluster.send((id, leader), written.clone(), producer, Acks::All);
        cluster.moments(10);
        assert_eq!(cluster.answered.last(), Some(&1));
    };
    send(&old, producer);
    send(&Written { value: Some("new".into()), ..old.clone() }, Producer::NONE);
    let filling = Written { key: Some("filling".into()), value: Some(vec![b'.'; 1_000].into()) };
    (0..30).for_each(|_| send(&filling, Producer::NONE));
    (0..NODES).filter(|node| *node != away).for_each(|node| cluster.compact(node));
    cluster.moments(30);
    let has_old = |cluster: &Cluster, node| cluster.kept(node, id).values().any(|written| *written == old);
    assert!(!has_old(&cluster, leader), "it is compacted");
    cluster.heal();
    cluster.crash(leader, None);
    cluster.crash(third, None);
    cluster.moments(200);
    cluster.start(third);
    cluster.moments(50);
    assert_eq!(cluster.control.leader(id), Some(node_id(away)));
    cluster.send((id, away), old.clone(), producer, Acks::All);
    cluster.moments(50);
    assert_eq!(cluster.answered.last(), Some(&1));
    has_old(&cluster, away)
}

#[test]
fn a_batch_that_was_compacted_and_is_repeated_is_known_to_who_came_back() {
    assert!(!repeated_after_a_compaction(None), "the value that was replaced is back");
}

#[test]
fn a_last_batch_that_goes_is_noticed() {
    let faults = LogFaults { drops_last_batches: true, ..LogFaults::NONE };
    assert!(repeated_after_a_compaction(Some(ClusterFault::Compaction(faults))));
}
