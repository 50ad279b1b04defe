//! What a caller costs the store: a beat and a subscription of the metadata cost nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use walser_metastore::Metastore;
use walser_proto::internal::v1 as pbi;
use walser_proto::v1 as pb;
use walser_rpc::{ApiError, ControllerClient, CutOffPatience, MetadataSeen, MetadataStream, Reason};

use crate::harness::{config, start};
use crate::observed_store::ObservedStore;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_knows_its_own_write_again_whose_answer_was_lost() {
    let store = Arc::new(ObservedStore::new());
    let started = start(Arc::clone(&store) as Arc<dyn Metastore>, config()).await;
    started.node(1).await.in_service().await;
    let lost = || store.loses_answer.store(true, Ordering::Release);
    let was_lost = || !store.loses_answer.load(Ordering::Acquire);
    lost();
    let topic = started.create("t", 3).await;
    assert!(was_lost());

    let change = |etag: String| pb::UpdateTopicRequest {
        name: "t".to_owned(),
        etag,
        config_updates: [("retention.ms".to_owned(), "5000".to_owned())].into(),
        ..Default::default()
    };
    lost();
    let changed = started.topics().update_topic(change(topic.etag.clone())).await.unwrap().into_inner().topic.unwrap();
    assert!(was_lost() && changed.etag != topic.etag);
    let stale = started.topics().update_topic(change(topic.etag)).await.unwrap_err();
    assert_eq!(ApiError::from(stale).reason(), Reason::EtagMismatch, "another call with the same etag");

    let first_id = {
        let request = pbi::AllocateProducerIdsRequest::default();
        started.controller().allocate_producer_ids(request).await.unwrap().into_inner().first_id
    };
    let raise = |producer_epoch| pbi::RaiseProducerEpochRequest { producer_id: first_id, producer_epoch };
    lost();
    let unsure = ApiError::from(started.controller().raise_producer_epoch(raise(0)).await.unwrap_err());
    assert!(was_lost());
    assert_eq!((unsure.reason(), unsure.effect()), (Reason::RequestTimedOut, pb::Effect::Maybe), "not fenced: unsure");

    lost();
    let request = pb::DeleteTopicRequest { name: "t".to_owned(), etag: changed.etag };
    started.topics().delete_topic(request).await.unwrap();
    assert!(was_lost());
}

/// A topic that is made of replicas that were set aside, in one transaction and in several.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_topic_is_known_again_whose_answer_was_lost() {
    let store = Arc::new(ObservedStore::new());
    let started = start(Arc::clone(&store) as Arc<dyn Metastore>, config()).await;
    started.node(1).await.in_service().await;
    for (id, name, partitions) in [(1, "small", 3), (2, "large", 300)] {
        let replica = |partition| {
            let replica = pbi::ReplicaReport { partition, leader_epoch: 4, ..Default::default() };
            pbi::RestoredReplica { node_id: 1, replica: Some(replica) }
        };
        let (topic_id, replicas) = (vec![id; 16].into(), (0..partitions).map(replica).collect());
        let request = pbi::RestoreTopicRequest { topic_id, name: name.to_owned(), replicas };
        store.loses_answer.store(true, Ordering::Release);
        let restored = started.controller().restore_topic(request.clone()).await.unwrap().into_inner().topic.unwrap();
        assert!(!store.loses_answer.load(Ordering::Acquire));
        assert_eq!((restored.name.as_str(), restored.partition_count), (name, partitions));
        let again = ApiError::from(started.controller().restore_topic(request).await.unwrap_err());
        assert_eq!(again.reason(), Reason::TopicExists, "another call");
    }
}

/// Whatever fails later: the first write may have happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_outcome_is_not_known_is_told_as_such_when_it_cannot_be_read() {
    let store = Arc::new(ObservedStore::new());
    let started = start(Arc::clone(&store) as Arc<dyn Metastore>, config()).await;
    for node in 1..=3 {
        started.node(node).await.in_service().await;
    }
    let lost = |prefix: &'static str| {
        *store.breaks.lock() = Some(prefix);
        store.loses_answer.store(true, Ordering::Release);
    };
    let first_id = {
        let request = pbi::AllocateProducerIdsRequest::default();
        started.controller().allocate_producer_ids(request).await.unwrap().into_inner().first_id
    };
    lost("pids/epochs/");
    let raise = pbi::RaiseProducerEpochRequest { producer_id: first_id, producer_epoch: 0 };
    let unsure = ApiError::from(started.controller().raise_producer_epoch(raise).await.unwrap_err());
    assert_eq!((unsure.reason(), unsure.effect()), (Reason::RequestTimedOut, pb::Effect::Maybe), "{unsure}");
    lost("cluster");
    let factor = ("cluster.replication.factor".to_owned(), "3".to_owned());
    let request = pb::UpdateClusterConfigRequest { updates: [factor].into(), ..Default::default() };
    let unsure = ApiError::from(started.cluster().update_cluster_config(request).await.unwrap_err());
    assert_eq!((unsure.reason(), unsure.effect()), (Reason::RequestTimedOut, pb::Effect::Maybe), "{unsure}");
    assert!(store.broken.lock().is_none());
}

/// The call that has changed it may fail, or be given up, before its end.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_follow_a_setting_of_the_cluster_although_its_call_fails() {
    let store = Arc::new(ObservedStore::new());
    let started = start(Arc::clone(&store) as Arc<dyn Metastore>, config()).await;
    for node in 1..=3 {
        started.node(node).await.in_service().await;
    }
    let topic = pb::Topic { name: "t".to_owned(), partition_count: 2, replication_factor: 3, ..Default::default() };
    let request = pb::CreateTopicRequest { topic: Some(topic), ..Default::default() };
    started.topics().create_topic(request).await.unwrap();
    let update = |name: &str, value: &str| pb::UpdateClusterConfigRequest {
        updates: [(name.to_owned(), value.to_owned())].into(),
        ..Default::default()
    };
    let mut cluster = started.cluster();
    cluster.update_cluster_config(update("cluster.replication.factor", "3")).await.unwrap();
    *store.breaks.lock() = Some("cluster");
    let change = update("cluster.min.insync.replicas", "2");
    let unseen = ApiError::from(cluster.update_cluster_config(change).await.unwrap_err());
    assert_eq!(unseen.effect(), pb::Effect::Maybe, "it is written: {unseen}");
    started.until(|view| view.partitions().all(|found| found.record.state.min_isr == 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beats_subscriptions_and_answers_cost_no_access_of_the_store_and_do_not_wait_for_it() {
    let store = Arc::new(ObservedStore::new());
    let started = start(Arc::clone(&store) as Arc<dyn Metastore>, config()).await;
    let node = started.node(1).await;
    node.in_service().await;
    started.create("t", 1_000).await;
    let view = started.until(|view| view.topic_named("t").is_some()).await;
    let calls = store.calls.load(Ordering::Acquire);
    store.hangs.send_replace(true);

    let (beats, stream) = mpsc::channel(1);
    let mut answers = started.controller().node_session(ReceiverStream::new(stream)).await.unwrap().into_inner();
    for _ in 0..100 {
        let version = view.version();
        let beat = pbi::NodeSessionRequest { node_epoch: node.epoch, metadata_version: version, ..Default::default() };
        beats.send(beat).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().action, None);
    }
    for _ in 0..100 {
        let seen = MetadataSeen { version: view.version(), ..MetadataSeen::default() };
        let controller = ControllerClient::new(started.connection.clone());
        let mut stream = MetadataStream::open(&controller, seen, &CutOffPatience::of(1)).await.unwrap();
        assert!(stream.next_delta().await.unwrap().snapshot);
    }
    let name = "t".to_owned();
    let found = started.topics().get_topic(walser_proto::v1::GetTopicRequest { name }).await.unwrap();
    assert_eq!(found.into_inner().topic.unwrap().partition_count, 1_000);
    // What the controller does by itself now and then is not theirs: there were two hundred of them.
    assert!(store.calls.load(Ordering::Acquire) < calls + 20);
    store.hangs.send_replace(false);
}
