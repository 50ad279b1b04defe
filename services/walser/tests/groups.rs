//! Consumer groups in one process: controller, storage node and coordinator as `walser up` puts them together, asked as a
//! gateway asks.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use walser_group::{
    Attach, Attached, AttachmentNumber, Commit, CommitAuthor, CurrentAssignment, GatewayId, GroupId, GroupPhase, Join,
    MemberRef, OffsetToCommit, Subscription,
};
use walser_group_coordinator::CoordinatorDependencies;
use walser_log::{DataDirectory, RealDisk};
use walser_metastore::Embedded;
use walser_model::{Clock, Offset, PartitionIndex, SystemClock, SystemRandom, TopicId, TopicPartition};
use walser_proto::v1 as pb;
use walser_rpc::{
    ApiError, ControllerClient, CoordinatorClient, CoordinatorSession, GROUPS_TOPIC, MemberAnswer, MemberRequest,
    Network, NodeRole, Reason, SessionNotices, shard_of_group,
};
use walser_service::{Metrics, Settings, Shutdown};

/// Longest wait for a condition: far above what it takes, far below a hanging run.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Everything but the gateway.
struct Cluster {
    network: Network,
    shutdown: Shutdown,
    controller: walser_controller::Started,
    storage: walser_storage_node::Started,
    coordinator: walser_group_coordinator::RunningCoordinator,
}

impl Cluster {
    async fn start(data: &Path) -> Self {
        let tables = [walser_controller::KEYS, walser_storage_node::KEYS];
        let settings = Settings::load(&tables, None, |_| None, &[]).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let (network, shutdown) = (Network::default(), Shutdown::new(Duration::from_secs(1)));
        let random = Arc::new(SystemRandom);
        let directory = DataDirectory::open(Arc::new(RealDisk), data, "a test").unwrap();
        let dependencies = walser_controller::Dependencies {
            store: Arc::new(Embedded::open(&data.join("metadata.redb")).unwrap()),
            clock: Arc::clone(&clock),
            random: random.clone(),
            metrics: Metrics::default(),
        };
        let config = walser_controller::Config::from_settings(&settings, true).unwrap();
        let controller = walser_controller::start(config, dependencies, &network, shutdown.clone()).await.unwrap();
        let mut config = walser_storage_node::Config::from_settings(&settings, 2);
        config.roles = vec![NodeRole::Controller, NodeRole::Storage];
        let dependencies = walser_storage_node::Dependencies {
            directory,
            clock: Arc::clone(&clock),
            random: random.clone(),
            metrics: Metrics::default(),
            health: walser_service::admin::Health::default(),
        };
        let storage = walser_storage_node::start(config, dependencies, &network, shutdown.clone()).await.unwrap();
        let dependencies =
            CoordinatorDependencies { clock, random, metrics: Metrics::default(), address: String::new() };
        let coordinator = walser_group_coordinator::start(dependencies, &network, shutdown.clone()).unwrap();
        let given = async {
            while network.coordinator(0).is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), given).await.expect("the controller gives it its shards");
        Self { network, shutdown, controller, storage, coordinator }
    }

    async fn stop(self) {
        self.shutdown.begin();
        self.coordinator.drain().await;
        self.storage.drain().await;
        self.controller.drain().await;
    }

    fn controller(&self) -> ControllerClient {
        ControllerClient::new(self.network.controller().unwrap())
    }

    fn groups(&self) -> CoordinatorClient {
        CoordinatorClient::new(self.network.coordinator(0).unwrap())
    }

    async fn create(&self, topic: &str, partitions: i32) -> TopicId {
        self.controller().create_topic(topic, partitions, tonic::Request::new).await.unwrap();
        self.controller().topic(topic).await.unwrap().id.unwrap()
    }

    /// The names of all topics.
    async fn topics(&self, include_internal: bool) -> Vec<pb::Topic> {
        let request = pb::ListTopicsRequest { include_internal, ..Default::default() };
        self.controller().topic_service().list_topics(request).await.unwrap().into_inner().topics
    }

    async fn session(&self, group: &GroupId) -> (CoordinatorSession, SessionNotices) {
        let gateway = gateway();
        loaded(async || self.groups().open_session(shard_of_group(group), &gateway).await).await.unwrap()
    }
}

/// Copies a directory that a cluster of this process has worked on, and keeps locked.
fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copied(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

/// Asks until the shard is loaded.
async fn loaded<T>(ask: impl AsyncFn() -> Result<T, ApiError>) -> Result<T, ApiError> {
    let asking = async {
        loop {
            match ask().await {
                Err(failure) if failure.reason() == Reason::CoordinatorNotAvailable => tokio::time::sleep(LOOK).await,
                outcome => return outcome,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap()
}

fn gateway() -> GatewayId {
    "gateway".parse().unwrap()
}

fn group(name: &str) -> GroupId {
    name.parse().unwrap()
}

async fn join(session: &CoordinatorSession, of: &GroupId, member: &str) -> MemberRef {
    let topics = BTreeSet::from(["t".parse().unwrap()]);
    let join = Join {
        group: of.clone(),
        member: member.parse().unwrap(),
        instance: None,
        client_id: "client".to_owned(),
        client_address: "127.0.0.1:9".to_owned(),
        subscription: Subscription { topics, ..Subscription::default() },
        session_timeout: Duration::from_secs(15),
        revocation_timeout: Duration::from_secs(30),
        gateway: Some(gateway()),
    };
    let member = join.member.clone();
    match session.ask(MemberRequest::Join(Box::new(join))).await.unwrap().content {
        MemberAnswer::Attached(Attached { attachment, .. }) => {
            MemberRef { group: of.clone(), member, instance: None, attachment }
        }
        other => panic!("{other:?}"),
    }
}

async fn current(session: &CoordinatorSession, member: &MemberRef) -> CurrentAssignment {
    match session.ask(MemberRequest::Heartbeat(member.clone())).await.unwrap().content {
        MemberAnswer::Assignment(current) => current,
        other => panic!("{other:?}"),
    }
}

/// Releases what members are asked for, until each has so many partitions.
async fn settled(session: &CoordinatorSession, members: &[MemberRef], partitions: usize) -> Vec<CurrentAssignment> {
    let settling = async {
        loop {
            let mut all = Vec::new();
            for member in members {
                let current = current(session, member).await;
                if !current.revoking.is_empty() {
                    let released = current.revoking.clone();
                    session.ask(MemberRequest::Release { member: member.clone(), released }).await.unwrap();
                }
                all.push(current);
            }
            if all.iter().all(|current| current.revoking.is_empty() && current.assigned.len() == partitions) {
                return all;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, settling).await.unwrap()
}

fn offset(topic: TopicId, partition: i32, offset: i64) -> OffsetToCommit {
    let partition = TopicPartition::new(topic, PartitionIndex(partition));
    OffsetToCommit { partition, offset: Offset(offset), leader_epoch: None, metadata: "note".to_owned() }
}

fn commit(member: &MemberRef, current: &CurrentAssignment, sequence: i64, offset: OffsetToCommit) -> MemberRequest {
    let author = Some(CommitAuthor { member: member.clone(), epoch: current.epoch, sequence });
    MemberRequest::Commit(Commit { author, group: member.group.clone(), offsets: vec![offset] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_shares_partitions_commits_and_is_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let topic = cluster.create("t", 4).await;
    let billing = group("billing");

    let absent = loaded(async || cluster.groups().describe_group(&billing).await).await.unwrap_err();
    assert_eq!(absent.reason(), Reason::GroupNotFound);
    assert_eq!(cluster.groups().groups(0, None, 10).await.unwrap(), []);
    assert_eq!(cluster.groups().committed_offsets(&billing).await.unwrap(), []);
    assert_eq!(cluster.topics(true).await.len(), 1, "who only asks makes no topic");

    let (session, mut notices) = cluster.session(&billing).await;
    let first = join(&session, &billing, "a").await;
    settled(&session, std::slice::from_ref(&first), 4).await;
    let members = [first, join(&session, &billing, "b").await];
    let assigned = settled(&session, &members, 2).await;
    assert!(assigned[0].assigned.keys().all(|partition| !assigned[1].assigned.contains_key(partition)));
    assert_eq!(notices.next().await.unwrap().content.group, billing);
    assert_eq!(cluster.topics(false).await.len(), 1, "the internal topic is not shown");
    let internal = cluster.topics(true).await.into_iter().find(|topic| topic.name == GROUPS_TOPIC).unwrap();
    let policy = internal.config.get("cleanup.policy").map(String::as_str);
    assert_eq!((internal.partition_count, policy, internal.internal), (16, Some("compact"), true));

    let own = *assigned[0].assigned.keys().next().unwrap();
    let other = *assigned[1].assigned.keys().next().unwrap();
    let committed = session.ask(commit(&members[0], &assigned[0], 1, offset(topic, own.partition.0, 41))).await;
    assert_eq!(committed.unwrap().content, MemberAnswer::Committed(Vec::new()));
    let foreign =
        session.ask(commit(&members[0], &assigned[0], 2, offset(topic, other.partition.0, 41))).await.unwrap();
    let MemberAnswer::Committed(refused) = foreign.content else { panic!("no answer to a commit") };
    assert_eq!((refused[0].0, refused[0].1.reason()), (other, Reason::PartitionNotOwned));
    let described = cluster.groups().describe_group(&billing).await.unwrap();
    assert_eq!((described.summary.phase, described.members.len()), (GroupPhase::Stable, 2));
    let refused = cluster.groups().delete_group(&billing).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::GroupNotEmpty);
    cluster.stop().await;
    assert_eq!(session.ask(MemberRequest::Alive).await.unwrap_err().reason(), Reason::CoordinatorNotAvailable);

    let copy = tempfile::tempdir().unwrap();
    copied(dir.path(), copy.path());
    let cluster = Cluster::start(copy.path()).await;
    let (again, _notices) = cluster.session(&billing).await;
    assert!(again.epoch() > session.epoch());
    assert_eq!(cluster.groups().describe_group(&billing).await.unwrap(), described, "a restart moves nothing");
    let (member, gateway) = (members[0].clone(), Some(gateway()));
    let attach = Attach { member, subscription: None, revocation_timeout: None, gateway };
    let attached = again.ask(MemberRequest::Attach(Box::new(attach))).await.unwrap().content;
    let MemberAnswer::Attached(Attached { attachment, current, .. }) = attached else { panic!("{attached:?}") };
    assert_eq!(current, assigned[0]);
    assert!(attachment > members[0].attachment && attachment > AttachmentNumber(0));
    let asked = MemberRequest::Offsets { group: billing.clone(), partitions: vec![own, other] };
    let MemberAnswer::Offsets(found) = again.ask(asked).await.unwrap().content else { panic!("no offsets") };
    assert_eq!(
        found[0].1.as_ref().map(|committed| (committed.offset, &*committed.metadata)),
        Some((Offset(41), "note"))
    );
    assert_eq!(found[1], (other, None));
    let fenced = again.ask(commit(&members[0], &current, 3, offset(topic, own.partition.0, 42))).await.unwrap_err();
    assert_eq!(fenced.reason(), Reason::MemberFenced, "its attachment is old");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_operators_ask_of_groups_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let (topic, simple) = (cluster.create("t", 4).await, group("simple"));
    let groups = cluster.groups();
    let offsets = [offset(topic, 0, 5), offset(topic, 9, 5)];
    let refused = loaded(async || groups.commit(&simple, &offsets).await).await.unwrap();
    assert_eq!(refused.iter().map(|(_, failure)| failure.reason()).collect::<Vec<_>>(), [Reason::PartitionNotFound]);
    let listed = groups.groups(shard_of_group(&simple), None, 10).await.unwrap();
    assert_eq!(
        listed.iter().map(|found| (found.group.as_str(), found.had_members)).collect::<Vec<_>>(),
        [("simple", false)]
    );
    assert_eq!(groups.groups(shard_of_group(&simple), Some(&simple), 10).await.unwrap(), []);

    let to = [offset(topic, 0, 2), offset(topic, 1, 7)];
    let plan = groups.reset_offsets(&simple, &to, (false, true)).await.unwrap();
    assert_eq!(
        plan.iter().map(|moved| (moved.before, moved.after)).collect::<Vec<_>>(),
        [(Some(Offset(5)), Offset(2)), (None, Offset(7))]
    );
    let read = async || groups.committed_offsets(&simple).await.unwrap();
    assert_eq!(read().await.len(), 1, "only planned");
    assert_eq!(groups.reset_offsets(&simple, &to, (false, false)).await.unwrap(), plan);
    assert_eq!(read().await.iter().map(|(_, found)| found.offset.0).collect::<Vec<_>>(), [2, 7]);
    groups.delete_offsets(&simple, &BTreeSet::from([topic])).await.unwrap();
    assert_eq!(read().await, []);
    groups.delete_group(&simple).await.unwrap();
    assert_eq!(groups.describe_group(&simple).await.unwrap_err().reason(), Reason::GroupNotFound);

    let (session, mut notices) = cluster.session(&simple).await;
    let member = join(&session, &simple, "m").await;
    groups.remove_member(&simple, "m", "").await.unwrap();
    while !matches!(notices.next().await.unwrap().content.content, walser_group::NoticeContent::Removed(_)) {}
    let gone = session.ask(MemberRequest::Heartbeat(member)).await.unwrap_err();
    assert_eq!(gone.reason(), Reason::SessionExpired);
    let elsewhere = group("another");
    assert_ne!(shard_of_group(&elsewhere), shard_of_group(&simple));
    let wrong = session.ask(MemberRequest::Offsets { group: elsewhere, partitions: Vec::new() }).await.unwrap_err();
    assert_eq!(wrong.reason(), Reason::FieldInvalid);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_changes_the_internal_topic_but_the_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let _session = cluster.session(&group("g")).await;
    let (name, mut topics) = (GROUPS_TOPIC.to_owned(), cluster.controller().topic_service());
    let reason = |status: tonic::Status| ApiError::from(status).reason();
    let delete = pb::DeleteTopicRequest { name: name.clone(), ..Default::default() };
    assert_eq!(reason(topics.delete_topic(delete).await.unwrap_err()), Reason::TopicNameInvalid);
    let more = pb::AddPartitionsRequest { topic: name.clone(), partition_count: 17, ..Default::default() };
    assert_eq!(reason(topics.add_partitions(more).await.unwrap_err()), Reason::TopicNameInvalid);
    let config_updates = [("cleanup.policy".to_owned(), "delete".to_owned())].into();
    let update = pb::UpdateTopicRequest { name: name.clone(), config_updates, ..Default::default() };
    assert_eq!(reason(topics.update_topic(update).await.unwrap_err()), Reason::TopicNameInvalid);
    let again = cluster.controller().create_internal_topic(&name, 3, &[]).await.unwrap();
    assert_eq!(again.partition_count, 16, "it is found as it is");
    let users = cluster.controller().create_internal_topic("orders", 3, &[]).await.unwrap_err();
    assert_eq!(users.reason(), Reason::FieldInvalid);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_commits_are_on_disk_when_they_are_answered() {
    const COMMITS: i64 = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let (topic, busy) = (cluster.create("t", 1).await, group("busy"));
    let (session, _notices) = cluster.session(&busy).await;
    let member = join(&session, &busy, "m").await;
    let current = settled(&session, std::slice::from_ref(&member), 1).await.remove(0);
    let clock = SystemClock::start();
    let asking = async {
        let mut answers = Vec::new();
        for number in 1..=COMMITS {
            answers.push(session.send(commit(&member, &current, number, offset(topic, 0, number))).await.unwrap());
        }
        for answer in answers {
            assert_eq!(answer.await.unwrap().unwrap().content, MemberAnswer::Committed(Vec::new()));
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap();
    println!("{COMMITS} commits, each an fsync away from the next batch: {:?}", clock.monotonic());
    cluster.stop().await;

    let copy = tempfile::tempdir().unwrap();
    copied(dir.path(), copy.path());
    let clock = SystemClock::start();
    let cluster = Cluster::start(copy.path()).await;
    let found = loaded(async || cluster.groups().committed_offsets(&busy).await).await.unwrap();
    println!("start and replay: {:?}", clock.monotonic());
    assert_eq!(found.iter().map(|(_, committed)| committed.offset.0).collect::<Vec<_>>(), [COMMITS]);
    cluster.stop().await;
}
