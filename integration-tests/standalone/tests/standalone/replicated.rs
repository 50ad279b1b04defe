//! Partitions with three copies, on storage nodes that are killed, lose their disks, and fall behind.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;
use walser_client::Client;
use walser_history::{Event, History, HistoryRecord};
use walser_proto::v1 as pb;

use crate::faults::until;
use crate::processes::{Cluster, Service, signal};
use crate::server::{bound, cli_at, place, read_all, record, values, write};

pub(crate) const NODES: i32 = 3;

/// Three storage nodes of a cluster.
pub(crate) struct Nodes {
    pub(crate) cluster: Cluster,
    nodes: Vec<Option<Service>>,
}

impl Nodes {
    pub(crate) fn start(data: &Path) -> Self {
        let cluster = Cluster::without_storage(data);
        let nodes = (1..=NODES).map(|number| Some(cluster.another_node(number))).collect();
        Self { cluster, nodes }
    }

    /// A cluster whose storage nodes are still to be started.
    pub(crate) fn not_started(data: &Path) -> Self {
        Self { cluster: Cluster::without_storage(data), nodes: (1..=NODES).map(|_| None).collect() }
    }

    /// The same with topic `t`, all replicas of which are in sync; writes are confirmed while `in_sync` are.
    pub(crate) async fn with_topic(data: &Path, partition_count: i32, in_sync: i32) -> (Self, Client) {
        let nodes = Self::start(data);
        let client = nodes.cluster.client();
        create_replicated(&client, "t", partition_count, in_sync).await;
        all_in_sync(&client, "t").await;
        (nodes, client)
    }

    /// Nodes with more settings, and topic `t` of one partition, with other settings than the default.
    pub(crate) async fn with_settings(data: &Path, topic: &[(&str, &str)], more: &[&str]) -> (Self, Client) {
        let mut nodes = Self::not_started(data);
        (1..=NODES).for_each(|number| nodes.restart_with(number, more));
        let client = nodes.cluster.client();
        let config = topic.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let topic = pb::Topic {
            name: "t".to_owned(),
            partition_count: 1,
            replication_factor: NODES,
            config,
            ..Default::default()
        };
        client
            .topics()
            .create_topic(pb::CreateTopicRequest { topic: Some(topic), ..Default::default() })
            .await
            .unwrap();
        all_in_sync(&client, "t").await;
        (nodes, client)
    }

    pub(crate) fn pid(&self, number: i32) -> u32 {
        self.nodes[usize::try_from(number - 1).unwrap()].as_ref().unwrap().ready.child.id()
    }

    pub(crate) fn kill(&mut self, number: i32) {
        self.nodes[usize::try_from(number - 1).unwrap()].take().unwrap().kill();
    }

    /// All but one.
    pub(crate) fn kill_others(&mut self, number: i32) {
        (1..=NODES).filter(|other| *other != number).for_each(|other| self.kill(other));
    }

    pub(crate) fn restart_others(&mut self, number: i32) {
        (1..=NODES).filter(|other| *other != number).for_each(|other| self.restart(other));
    }

    pub(crate) fn stop(&mut self, number: i32) {
        self.nodes[usize::try_from(number - 1).unwrap()].take().unwrap().stop();
    }

    /// Suspends a node, or lets it go on.
    pub(crate) fn signal(&self, number: i32, name: &str) {
        let node = &self.nodes[usize::try_from(number - 1).unwrap()];
        signal(name, node.as_ref().unwrap());
    }

    /// Starts a node that does not run, with more settings.
    pub(crate) fn restart_with(&mut self, number: i32, more: &[&str]) {
        let started = self.cluster.try_node_with(number, more).unwrap_or_else(|printed| panic!("{printed}"));
        self.nodes[usize::try_from(number - 1).unwrap()] = Some(started);
    }

    pub(crate) fn restart(&mut self, number: i32) {
        self.nodes[usize::try_from(number - 1).unwrap()] = Some(self.cluster.another_node(number));
    }

    /// Where a node serves gateways and other nodes.
    pub(crate) fn address(&self, number: i32) -> String {
        self.nodes[usize::try_from(number - 1).unwrap()].as_ref().unwrap().ready.grpc.clone()
    }

    /// The admin port of a node.
    pub(crate) fn admin(&self, number: i32) -> String {
        self.nodes[usize::try_from(number - 1).unwrap()].as_ref().unwrap().ready.admin.clone()
    }

    /// Where a node keeps its data.
    pub(crate) fn data_of(&self, number: i32) -> std::path::PathBuf {
        self.cluster.node_dir(number).join("storage")
    }
}

/// Writes are confirmed while at least `in_sync` replicas are in sync.
pub(crate) async fn create_replicated(client: &Client, name: &str, partition_count: i32, in_sync: i32) {
    let config = [("min.insync.replicas".to_owned(), in_sync.to_string())].into();
    let topic =
        pb::Topic { name: name.to_owned(), partition_count, replication_factor: NODES, config, ..Default::default() };
    client.topics().create_topic(pb::CreateTopicRequest { topic: Some(topic), ..Default::default() }).await.unwrap();
}

pub(crate) async fn partitions(client: &Client, topic: &str) -> Vec<pb::Partition> {
    let request = pb::ListPartitionsRequest { topic: topic.to_owned(), page_size: 2000, ..Default::default() };
    let listed = client.topics().list_partitions(request).await.map(|answer| answer.into_inner().partitions);
    listed.unwrap_or_default().into_iter().filter_map(|listed| listed.partition).collect()
}

pub(crate) async fn all_in_sync(client: &Client, topic: &str) {
    let whole = async || {
        let partitions = partitions(client, topic).await;
        !partitions.is_empty()
            && partitions.iter().all(|partition| partition.isr.len() == 3 && partition.leader.is_some())
    };
    until(whole, "every replica is in sync").await;
}

/// Waits until a node leads the first partition of topic `t`.
pub(crate) async fn leads(client: &Client, node: i32) {
    until(async || partitions(client, "t").await[0].leader == Some(node), "the node leads").await;
}

/// Waits until a node is the only one in sync in the first partition of topic `t`.
pub(crate) async fn alone_in_sync(client: &Client, node: i32) {
    until(async || partitions(client, "t").await[0].isr == [node], "only one is in sync").await;
}

/// Whether nobody leads the first partition of topic `t`.
pub(crate) async fn leaderless(client: &Client) -> bool {
    partitions(client, "t").await.first().is_some_and(|first| first.leader.is_none())
}

/// Waits until each of so many partitions of topic `t` is led by its first replica.
pub(crate) async fn preferred_lead(client: &Client, partition_count: usize) {
    let preferred = async || {
        let partitions = partitions(client, "t").await;
        partitions.len() == partition_count
            && partitions.iter().all(|partition| partition.leader == partition.replicas.first().copied())
    };
    until(preferred, "every partition is led by its first replica").await;
}

pub(crate) async fn leader(client: &Client, topic: &str) -> i32 {
    until(async || partitions(client, topic).await.first().is_some_and(|first| first.leader.is_some()), "a leader")
        .await;
    partitions(client, topic).await[0].leader.unwrap()
}

/// What clients have seen, for a judge.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<History>>);

impl Seen {
    pub(crate) fn note(&self, event: Event) {
        self.0.lock().unwrap().push(event).unwrap();
    }

    async fn write(&self, client: &Client, writer: i32, partition: i32, value: String) {
        let send = Event::send(format!("writer {writer}"), "t", partition.unsigned_abs(), value.as_str());
        self.note(send.clone());
        let offset = write(client, "t", partition, value).await;
        self.note(send.ok().at(offset.unsigned_abs()));
    }

    /// Nothing is lost, nothing is there twice, and all is in order. Returns how many records were acknowledged.
    pub(crate) fn assert_valid(self) -> u64 {
        let verdict = Arc::into_inner(self.0).unwrap().into_inner().unwrap().check();
        assert!(verdict.valid && verdict.counts.acknowledged > 0 && verdict.counts.unread == 0, "{verdict:?}");
        verdict.counts.acknowledged
    }

    /// Reads a whole partition. Returns how many records there are.
    pub(crate) async fn read(&self, client: &Client, partition: i32, last: bool) -> usize {
        let assign = Event::assign("reader", "t", &[partition.unsigned_abs()]);
        self.note(assign.clone());
        self.note(assign.ok());
        let poll = if last { Event::poll("reader").last() } else { Event::poll("reader") };
        self.note(poll.clone());
        let records = read_all(client, "t", partition).await.into_iter().map(|record| {
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            HistoryRecord::new("t", partition.unsigned_abs(), value).at(record.offset.unsigned_abs())
        });
        let records: Vec<_> = records.collect();
        let count = records.len();
        self.note(poll.ok().with(records));
        count
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_five_times_under_load_loses_and_repeats_nothing() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 3, 2).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (seen, mut writers) = (Seen::default(), JoinSet::new());
    for writer in 0..6 {
        let (client, stop, seen) = (nodes.cluster.client(), Arc::clone(&stop), seen.clone());
        writers.spawn(async move {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                seen.write(&client, writer, writer % 3, format!("{writer}/{number}")).await;
            }
        });
    }
    for _ in 0..5 {
        let victim = leader(&client, "t").await;
        let before = seen.read(&client, 0, false).await;
        nodes.kill(victim);
        until(async || seen.read(&client, 0, false).await > before + 5, "writes go on under another leader").await;
        nodes.restart(victim);
        all_in_sync(&client, "t").await;
    }
    preferred_lead(&client, 3).await;
    stop.store(true, Ordering::Relaxed);
    writers.join_all().await;
    for partition in 0..3 {
        seen.read(&client, partition, true).await;
    }
    seen.assert_valid();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_and_one_behind_the_log_start_get_everything_from_the_leader() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    for number in 0..20 {
        write(&client, "t", 0, format!("{number}")).await;
    }
    // A follower with another disk.
    let lost = leader(&client, "t").await % NODES + 1;
    nodes.kill(lost);
    std::fs::remove_dir_all(nodes.data_of(lost)).unwrap();
    until(async || partitions(&client, "t").await[0].isr.len() == 2, "the lost node is out of the in-sync set").await;
    nodes.restart(lost);
    all_in_sync(&client, "t").await;

    // A follower whose log ends before the leader's begins.
    let behind = leader(&client, "t").await % NODES + 1;
    nodes.kill(behind);
    for number in 20..40 {
        write(&client, "t", 0, format!("{number}")).await;
    }
    let before = Some(pb::Position { at: Some(pb::position::At::Offset(35)) });
    let request = pb::TruncateTopicRequest { topic: "t".to_owned(), before, ..Default::default() };
    client.topics().truncate_topic(request).await.unwrap();
    nodes.restart(behind);
    all_in_sync(&client, "t").await;

    // Each of them has everything that is left when it leads.
    for alone in [lost, behind] {
        nodes.kill_others(alone);
        leads(&client, alone).await;
        let expected: Vec<_> = (35..40).map(|number| number.to_string()).collect();
        assert_eq!(values(&client, "t", 0).await, expected);
        nodes.restart_others(alone);
        all_in_sync(&client, "t").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_stopped_gives_its_leads_away_before_it_goes() {
    let (_dir, data) = place();
    let mut nodes = Nodes::start(&data);
    let client = nodes.cluster.client();
    create_replicated(&client, "t", 30, 2).await;
    create_replicated(&client, "alone", 1, 1).await;
    all_in_sync(&client, "t").await;
    for (round, victim) in (0..).zip([1, 2, 3]) {
        nodes.stop(victim);
        // Its session is not over yet: nobody has had to notice that it is gone.
        let left = partitions(&client, "t").await;
        assert!(left.iter().all(|found| found.leader != Some(victim) && found.leader.is_some()), "{left:?}");
        assert!(left.iter().all(|found| found.isr.len() == 2 && !found.isr.contains(&victim)), "{left:?}");
        for partition in 0..30 {
            write(&client, "t", partition, format!("{round}")).await;
        }
        nodes.restart(victim);
        all_in_sync(&client, "t").await;
    }
    for partition in 0..30 {
        assert_eq!(values(&client, "t", partition).await, ["0", "1", "2"]);
    }
    // With nobody left to give anything to, each of them goes all the same.
    nodes.kill_others(1);
    nodes.stop(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_is_not_shown_by_the_next_leader() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 20, 2).await;
    for round in 0..3 {
        for partition in 0..20 {
            write(&client, "t", partition, format!("{round}")).await;
        }
        // The replica that hangs is not waited for any longer once it is out of the in-sync set.
        let (victim, hangs) = (leader(&client, "t").await, round == 1);
        if hangs {
            nodes.signal(victim % NODES + 1, "-STOP");
        }
        let before = Some(bound(pb::Bound::Latest));
        let request = pb::TruncateTopicRequest { topic: "t".to_owned(), before, ..Default::default() };
        // Some of the partitions may be led by the one that hangs: until it is found out, nothing is deleted.
        let deleted = async || match client.topics().truncate_topic(request.clone()).await {
            Ok(deleted) => deleted.into_inner().log_start_offsets.len() == 20,
            Err(status) if status.code() == tonic::Code::Unavailable => false,
            Err(status) => panic!("{status:?}"),
        };
        until(deleted, "all of it is deleted").await;
        if hangs {
            nodes.signal(victim % NODES + 1, "-CONT");
            all_in_sync(&client, "t").await;
        }
        nodes.kill(victim);
        for partition in 0..20 {
            let moved = async || partitions(&client, "t").await[partition].leader.is_some_and(|found| found != victim);
            until(moved, "another one leads").await;
            let partition = i32::try_from(partition).unwrap();
            assert_eq!(values(&client, "t", partition).await, Vec::<String>::new(), "round {round}, {partition}");
        }
        nodes.restart(victim);
        all_in_sync(&client, "t").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_knows_the_sequences_of_records_that_are_deleted() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    let producer = client.producer().init_producer(pb::InitProducerRequest::default()).await.unwrap();
    let producer = producer.into_inner().producer;
    let batch = |base_sequence: i32| pb::ProduceRequest {
        topic: "t".to_owned(),
        partition: Some(0),
        records: vec![record(base_sequence.to_string())],
        producer,
        base_sequence,
        ..Default::default()
    };
    for sequence in 0..3 {
        client.producer().produce(batch(sequence)).await.unwrap();
    }
    let before = Some(bound(pb::Bound::Latest));
    let request = pb::TruncateTopicRequest { topic: "t".to_owned(), before, ..Default::default() };
    client.topics().truncate_topic(request).await.unwrap();
    let replaced = leader(&client, "t").await % NODES + 1;
    nodes.kill(replaced);
    std::fs::remove_dir_all(nodes.data_of(replaced)).unwrap();
    nodes.restart(replaced);
    all_in_sync(&client, "t").await;
    let elect = ["partition", "elect", "t", "0", "--node", &replaced.to_string()];
    assert!(cli_at(&nodes.cluster.address(), &elect, b"").status.success());
    leads(&client, replaced).await;

    // The answer to the last one was lost: it is sent again.
    let again = client.producer().produce(batch(2)).await.unwrap().into_inner();
    let place = &again.appends[0];
    assert!(place.duplicate && place.base_offset == Some(2), "{again:?}");
    client.producer().produce(batch(3)).await.unwrap();
    assert_eq!(values(&client, "t", 0).await, ["3"]);
}
