//! Many changes at once: they queue, none is refused for the others.

use std::collections::BTreeSet;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::Status;
use walser_metastore::Embedded;
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::controller_service_client::ControllerServiceClient;
use walser_proto::v1 as pb;
use walser_proto::v1::topic_service_client::TopicServiceClient;
use walser_rpc::{ApiError, Connection, Reason};

use crate::harness::{config, start};

/// Changes at once.
const CALLERS: usize = 1_000;

/// A controller on a store whose transactions take time, with one storage node.
struct Cluster {
    connection: Connection,
    _folder: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(&folder.path().join("metadata.redb")).unwrap());
        let partitions_max = 2 * i64::try_from(CALLERS).unwrap();
        let started = start(store, walser_controller::Config { partitions_max, ..config() }).await;
        started.node(1).await.in_service().await;
        Self { connection: started.connection, _folder: folder }
    }

    fn topics(&self) -> TopicServiceClient<Connection> {
        TopicServiceClient::new(self.connection.clone())
    }

    /// Makes `count` calls at once; returns their outcomes.
    async fn at_once<T, F>(&self, count: usize, call: impl Fn(usize, TopicServiceClient<Connection>) -> F) -> Vec<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let mut calls: JoinSet<T> = (0..count).map(|number| call(number, self.topics())).collect();
        let mut outcomes = Vec::new();
        while let Some(outcome) = calls.join_next().await {
            outcomes.push(outcome.unwrap());
        }
        outcomes
    }

    async fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut request = pb::ListTopicsRequest::default();
        loop {
            let page = self.topics().list_topics(request.clone()).await.unwrap().into_inner();
            names.extend(page.topics.into_iter().map(|topic| topic.name));
            if page.next_page_token.is_empty() {
                return names;
            }
            request.page_token = page.next_page_token;
        }
    }
}

fn creation(name: String, partition_count: i32) -> pb::CreateTopicRequest {
    let topic = pb::Topic { name, partition_count, ..Default::default() };
    pb::CreateTopicRequest { topic: Some(topic), ..Default::default() }
}

async fn create(mut topics: TopicServiceClient<Connection>, name: String) -> Result<pb::Topic, Status> {
    Ok(topics.create_topic(creation(name, 2)).await?.into_inner().topic.unwrap())
}

fn reason(status: Status) -> Reason {
    ApiError::from(status).reason()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_topics_are_created_at_once() {
    let cluster = Cluster::start().await;
    let outcomes = cluster.at_once(CALLERS, |number, topics| create(topics, format!("topic-{number}"))).await;
    let failed: Vec<_> = outcomes.into_iter().filter_map(Result::err).map(|status| status.to_string()).collect();
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
    let wanted: BTreeSet<_> = (0..CALLERS).map(|number| format!("topic-{number}")).collect();
    assert_eq!(cluster.names().await, wanted);
    // All of their partitions were counted: there is room for none more.
    let refused = create(cluster.topics(), "one-more".to_owned()).await.unwrap_err();
    assert_eq!(reason(refused), Reason::PartitionLimitReached);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_creations_of_one_name_one_succeeds() {
    let cluster = Cluster::start().await;
    let outcomes = cluster.at_once(200, |_, topics| create(topics, "same".to_owned())).await;
    let (created, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(created.len(), 1);
    assert!(refused.into_iter().all(|refused| reason(refused.unwrap_err()) == Reason::TopicExists));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_updates_with_one_etag_one_succeeds() {
    let cluster = Cluster::start().await;
    let etag = create(cluster.topics(), "guarded".to_owned()).await.unwrap().etag;
    let update = |etag: String, number: usize| pb::UpdateTopicRequest {
        name: "guarded".to_owned(),
        description: Some(format!("by {number}")),
        etag,
        ..Default::default()
    };
    let guarded = cluster.at_once(200, |number, mut topics| {
        let request = update(etag.clone(), number);
        async move { topics.update_topic(request).await }
    });
    let (updated, refused): (Vec<_>, Vec<_>) = guarded.await.into_iter().partition(Result::is_ok);
    assert_eq!(updated.len(), 1);
    assert!(refused.into_iter().all(|refused| reason(refused.unwrap_err()) == Reason::EtagMismatch));
    let free = cluster.at_once(200, |number, mut topics| {
        let request = update(String::new(), number);
        async move { topics.update_topic(request).await.map_err(|status| status.to_string()) }
    });
    for outcome in free.await {
        outcome.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn producer_ids_of_many_callers_differ() {
    let cluster = Cluster::start().await;
    let connection = cluster.connection.clone();
    let blocks = cluster.at_once(CALLERS, |_, _| {
        let mut controller = ControllerServiceClient::new(connection.clone());
        async move { controller.allocate_producer_ids(pbi::AllocateProducerIdsRequest::default()).await }
    });
    let blocks: BTreeSet<_> = blocks.await.into_iter().map(|block| block.unwrap().into_inner().first_id).collect();
    assert_eq!(blocks.len(), CALLERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_leave_the_queue() {
    let cluster = Cluster::start().await;
    let mut gone: JoinSet<_> = (0..CALLERS).map(|number| create(cluster.topics(), format!("gone-{number}"))).collect();
    // Some have their turn, all others wait.
    gone.join_next().await.unwrap().unwrap().unwrap();
    drop(gone);
    create(cluster.topics(), "next".to_owned()).await.unwrap();
    assert!(cluster.names().await.contains("next"));
}
