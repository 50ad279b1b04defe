//! Data that storage nodes hold aside because the metadata did not know it: list it, make a topic of it, delete it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;
use walser_model::{IdError, NodeId, TopicId};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::controller_service_client::ControllerServiceClient;
use walser_proto::v1::{self as pb, Effect};
use walser_rpc::{ApiError, Reason};
use walser_service::Caller;

use super::storage_nodes::{Answers, Backends, StorageNodes};
use super::wire::relayed;
use crate::topics::own_name;

/// A replica that a node holds aside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    node: NodeId,
    topic: TopicId,
    partition: i32,
    /// Exclusive.
    log_end: i64,
    /// -1: its log has no records.
    leader_epoch: i32,
    size_bytes: i64,
    /// Unix time in milliseconds.
    set_aside_millis: i64,
}

/// What every storage node holds aside. Nodes that gave no answer, or are not done, are named in the response.
pub(super) async fn list(backends: &Backends) -> Result<pb::ListSetAsideResponse, ApiError> {
    let (answers, moving) = held(backends).await?;
    for node in &moving {
        tracing::warn!(%node, "a storage node is still setting partitions aside: the list is not complete");
    }
    for (node, failure) in &answers.failed {
        tracing::warn!(%node, error = %failure, "a storage node did not say what it holds aside");
    }
    Ok(pb::ListSetAsideResponse {
        unreachable_node_ids: answers
            .failed
            .iter()
            .map(|(node, _)| node.0)
            .chain(moving.iter().map(|node| node.0))
            .collect(),
        replicas: merged(answers).iter().map(Held::wire).collect(),
    })
}

/// Makes a topic of the replicas of a topic id. Every storage node must answer: a partition that only a missing node
/// holds would be created empty.
pub(super) async fn restore(
    backends: &Backends,
    caller: &Caller,
    request: &pb::RestoreSetAsideRequest,
) -> Result<Option<pb::Topic>, ApiError> {
    let name = own_name(&request.topic)?;
    let id = topic_id(&request.topic_id)?;
    let (mut answers, moving) = held(backends).await?;
    let unfinished = || ApiError::new(Reason::Starting, "it is still setting partitions aside; try again in a moment");
    answers.failed.extend(moving.into_iter().map(|node| (node, unfinished())));
    let consequence = "nothing is restored, since a partition that only such a node holds would be created empty";
    if let Some(failure) = answers.incomplete(consequence) {
        return Err(failure);
    }
    let replicas = chosen(merged(answers).into_iter().filter(|held| held.topic == id));
    if replicas.is_empty() {
        return Err(nothing_held(id, None));
    }
    let request = pbi::RestoreTopicRequest {
        topic_id: wire_id(id),
        name: name.as_str().to_owned(),
        replicas: replicas.iter().map(Held::report).collect(),
    };
    let mut client = ControllerServiceClient::new(backends.controller.clone());
    let restored = client.restore_topic(caller.relay(request)).await;
    let restored = restored.map_err(|status| ApiError::from(relayed(status)).with("topicId", id))?;
    Ok(restored.into_inner().topic)
}

/// Deletes the replicas of a topic id, or of one of its partitions, on every storage node. When a node gives no
/// answer the others have deleted theirs; the error says so, and a retry does the rest.
pub(super) async fn delete(
    backends: &Backends,
    request: &pb::DeleteSetAsideRequest,
) -> Result<pb::DeleteSetAsideResponse, ApiError> {
    if !request.accept_loss {
        return Err(ApiError::field("accept_loss", "must be true: the records are deleted for good"));
    }
    let id = topic_id(&request.topic_id)?;
    if let Some(partition) = request.partition.filter(|partition| *partition < 0) {
        return Err(ApiError::field("partition", format!("{partition} is negative; partitions count from 0")));
    }
    let asked = pbi::DeleteSetAsideRequest { topic_id: wire_id(id), partition: request.partition };
    let nodes = StorageNodes::of(backends).await?;
    let answers = nodes
        .ask(|mut client| {
            let request = asked.clone();
            async move { client.delete_set_aside(request).await }
        })
        .await;
    deleted(&answers, id, request.partition)
}

/// Adds up what the nodes have deleted.
fn deleted(
    answers: &Answers<pbi::DeleteSetAsideResponse>,
    id: TopicId,
    partition: Option<i32>,
) -> Result<pb::DeleteSetAsideResponse, ApiError> {
    let mut sum = pb::DeleteSetAsideResponse::default();
    for (_, answer) in &answers.answered {
        sum.deleted_count = sum.deleted_count.saturating_add(answer.deleted_count);
        sum.freed_bytes = sum.freed_bytes.saturating_add(answer.freed_bytes);
    }
    let (count, bytes) = (sum.deleted_count, sum.freed_bytes);
    let consequence = format!("the other nodes have deleted {count} replicas ({bytes} bytes); repeat the call");
    match answers.incomplete(&consequence) {
        Some(failure) => {
            let effect = if count > 0 { Effect::Partial } else { Effect::Maybe };
            Err(failure.with_effect(effect).with("deletedCount", count).with("freedBytes", bytes))
        }
        None if count == 0 => Err(nothing_held(id, partition)),
        None => Ok(sum),
    }
}

/// Asks every storage node; also says which of them are not done with setting aside. An answer that makes no sense counts
/// as none.
async fn held(backends: &Backends) -> Result<(Answers<Vec<Held>>, Vec<NodeId>), ApiError> {
    let nodes = StorageNodes::of(backends).await?;
    let answers = nodes.ask(|mut client| async move { client.list_set_aside(pbi::ListSetAsideRequest {}).await }).await;
    let mut decoded = Answers { answered: Vec::new(), failed: answers.failed };
    let mut moving = Vec::new();
    for (node, answer) in answers.answered {
        moving.extend(answer.incomplete.then_some(node));
        match answer.replicas.iter().map(|replica| Held::decode(node, replica)).collect() {
            Ok(replicas) => decoded.answered.push((node, replicas)),
            Err(failure) => decoded.failed.push((node, failure)),
        }
    }
    decoded.failed.sort_by_key(|(node, _)| *node);
    Ok((decoded, moving))
}

/// All replicas by topic id, partition and node.
fn merged(answers: Answers<Vec<Held>>) -> Vec<Held> {
    let mut all: Vec<Held> = answers.answered.into_iter().flat_map(|(_, replicas)| replicas).collect();
    all.sort_by_key(|held| (held.topic, held.partition, held.node));
    all
}

/// One replica for each partition of a topic. When several nodes hold the same partition, the one with the highest
/// leader epoch is taken, and of those the one with the highest log end: it has everything that was committed, as in
/// an election. Of equal ones, the node with the lowest id.
fn chosen(replicas: impl Iterator<Item = Held>) -> Vec<Held> {
    let mut by_partition: BTreeMap<i32, Held> = BTreeMap::new();
    let rank = |held: &Held| (held.leader_epoch, held.log_end, Reverse(held.node));
    for held in replicas {
        let best = by_partition.get(&held.partition);
        if best.is_none_or(|best| rank(best) < rank(&held)) {
            by_partition.insert(held.partition, held);
        }
    }
    by_partition.into_values().collect()
}

fn topic_id(text: &str) -> Result<TopicId, ApiError> {
    text.parse().map_err(|error: IdError| ApiError::field("topic_id", error.to_string()))
}

fn wire_id(id: TopicId) -> Bytes {
    Bytes::copy_from_slice(&id.to_bytes())
}

fn nothing_held(id: TopicId, partition: Option<i32>) -> ApiError {
    let what = partition.map(|partition| format!("partition {partition} of ")).unwrap_or_default();
    let text = format!("no storage node holds data of {what}topic id {id} aside");
    ApiError::new(Reason::TopicNotFound, text).with("topicId", id)
}

// === impl Held ===

impl Held {
    fn decode(node: NodeId, replica: &pbi::SetAsideReplica) -> Result<Self, ApiError> {
        let report = replica.replica.as_ref();
        let id = report.and_then(|report| <[u8; 16]>::try_from(report.topic_id.as_ref()).ok());
        let (Some(report), Some(id)) = (report.filter(|report| report.partition >= 0), id) else {
            return Err(ApiError::internal("it names a replica without a topic id or partition"));
        };
        Ok(Self {
            node,
            topic: TopicId::from_bytes(id),
            partition: report.partition,
            log_end: report.log_end,
            leader_epoch: report.leader_epoch,
            size_bytes: replica.size_bytes,
            set_aside_millis: replica.set_aside_millis,
        })
    }

    fn wire(&self) -> pb::SetAside {
        let millis = self.set_aside_millis;
        let nanos = i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or(0);
        pb::SetAside {
            node_id: self.node.0,
            topic_id: self.topic.to_string(),
            partition: self.partition,
            log_end_offset: self.log_end,
            size_bytes: self.size_bytes,
            set_aside_time: Some(pbjson_types::Timestamp { seconds: millis.div_euclid(1000), nanos }),
        }
    }

    fn report(&self) -> pbi::RestoredReplica {
        let replica = pbi::ReplicaReport {
            topic_id: wire_id(self.topic),
            partition: self.partition,
            log_end: self.log_end,
            leader_epoch: self.leader_epoch,
            damaged: false,
        };
        pbi::RestoredReplica { node_id: self.node.0, replica: Some(replica) }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use walser_proto::v1::RetryAdvice;

    use super::*;

    fn id(byte: u8) -> TopicId {
        TopicId::from_bytes([byte; 16])
    }

    fn held(node: i32, topic: u8, partition: i32, leader_epoch: i32, log_end: i64) -> Held {
        let (node, topic) = (NodeId(node), id(topic));
        Held { node, topic, partition, log_end, leader_epoch, size_bytes: 10, set_aside_millis: 1_500 }
    }

    #[test]
    fn lists_of_nodes_are_merged_by_topic_partition_and_node() {
        let answered = vec![
            (NodeId(1), vec![held(1, 9, 0, 1, 5), held(1, 2, 1, 1, 5)]),
            (NodeId(2), vec![held(2, 2, 1, 1, 5), held(2, 2, 0, 1, 5)]),
        ];
        let all = merged(Answers { answered, failed: Vec::new() });
        let order: Vec<_> = all.iter().map(|held| (held.topic, held.partition, held.node.0)).collect();
        assert_eq!(order, [(id(2), 0, 2), (id(2), 1, 1), (id(2), 1, 2), (id(9), 0, 1)]);
        let shown = all[0].wire();
        assert_eq!(shown.topic_id, "02020202-0202-0202-0202-020202020202");
        assert_eq!(shown.set_aside_time.unwrap(), pbjson_types::Timestamp { seconds: 1, nanos: 500_000_000 });
    }

    #[test]
    fn of_several_replicas_the_latest_leader_epoch_wins_and_then_the_longest_log() {
        let replicas = [
            held(1, 2, 0, 3, 900),
            held(2, 2, 0, 4, 100),
            held(3, 2, 0, 4, 120),
            held(4, 2, 0, 4, 120),
            held(4, 2, 1, -1, 0),
            held(1, 2, 1, 0, 0),
        ];
        for replicas in [replicas.to_vec(), replicas.iter().rev().cloned().collect()] {
            let nodes: Vec<_> = chosen(replicas.into_iter()).iter().map(|held| (held.partition, held.node.0)).collect();
            assert_eq!(nodes, [(0, 3), (1, 1)]);
        }
    }

    #[test]
    fn a_replica_without_topic_or_partition_is_no_answer() {
        let report = held(1, 2, 0, 1, 5).report().replica;
        let whole = pbi::SetAsideReplica { replica: report.clone(), size_bytes: 10, set_aside_millis: 1_500 };
        assert_eq!(Held::decode(NodeId(1), &whole).unwrap(), held(1, 2, 0, 1, 5));
        let short = report.clone().map(|report| pbi::ReplicaReport { topic_id: Bytes::from_static(b"x"), ..report });
        let negative = report.map(|report| pbi::ReplicaReport { partition: -1, ..report });
        for replica in [None, short, negative] {
            assert!(Held::decode(NodeId(1), &pbi::SetAsideReplica { replica, ..whole }).is_err());
        }
    }

    #[test]
    fn deletions_add_up_and_a_missing_node_is_an_error_that_says_what_is_deleted() {
        let answer = |deleted_count, freed_bytes| pbi::DeleteSetAsideResponse { deleted_count, freed_bytes };
        let answered = |count| vec![(NodeId(1), answer(count, 100)), (NodeId(2), answer(count, 50))];
        let whole = Answers { answered: answered(2), failed: Vec::new() };
        let sum = deleted(&whole, id(1), None).unwrap();
        assert_eq!((sum.deleted_count, sum.freed_bytes), (4, 150));
        let nothing = deleted(&Answers { answered: answered(0), failed: Vec::new() }, id(1), Some(3)).unwrap_err();
        assert_eq!((nothing.reason(), nothing.code()), (Reason::TopicNotFound, Code::NotFound));
        assert!(nothing.message().contains(&id(1).to_string()), "{nothing}");
        for (count, effect) in [(2, Effect::Partial), (0, Effect::Maybe)] {
            let failed = vec![(NodeId(3), ApiError::new(Reason::RequestTimedOut, "no answer within 5 s"))];
            let partly = deleted(&Answers { answered: answered(count), failed }, id(1), None).unwrap_err();
            assert_eq!((partly.code(), partly.retry()), (Code::Unavailable, RetryAdvice::Backoff));
            assert_eq!(partly.effect(), effect);
            assert!(partly.message().contains("storage node 3"), "{partly}");
        }
    }

    #[test]
    fn a_topic_id_that_is_no_uuid_is_refused() {
        assert_eq!(topic_id("orders").unwrap_err().reason(), Reason::FieldInvalid);
        assert_eq!(topic_id(&id(7).to_hex()).unwrap(), id(7));
    }
}
