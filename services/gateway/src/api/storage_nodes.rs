//! One question to every storage node: asked in parallel, each with a time limit.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tonic::{Response, Status};
use walser_model::NodeId;
use walser_proto::internal::v1::storage_service_client::StorageServiceClient;
use walser_proto::v1::cluster_service_client::ClusterServiceClient;
use walser_proto::v1::{self as pb, RetryAdvice};
use walser_rpc::{ApiError, Connection, Network, Reason};

use super::wire::relayed;

/// How long one storage node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Storage nodes that are asked at the same time.
const CALLS_MAX: usize = 32;
/// Largest answer of one storage node, in bytes.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Nodes per page of the controller's list.
const NODES_PAGE: i32 = 1000;
/// Storage nodes that one error names.
const NODES_NAMED_MAX: usize = 20;

type StorageClient = StorageServiceClient<Connection>;

/// The ways to the storage nodes and to the controller.
#[derive(Debug)]
pub(super) struct Backends {
    pub(super) network: Network,
    pub(super) controller: Connection,
}

/// Every storage node, with a connection when this gateway knows its address.
pub(super) struct StorageNodes {
    connections: Vec<(NodeId, Option<Connection>)>,
}

/// The outcome of one question to every storage node, both parts by node id.
#[derive(Debug)]
pub(super) struct Answers<T> {
    pub(super) answered: Vec<(NodeId, T)>,
    pub(super) failed: Vec<(NodeId, ApiError)>,
}

// === impl StorageNodes ===

impl StorageNodes {
    /// The nodes that the controller lists, and those that this gateway has a connection to: a node that was refused
    /// may be missing in either.
    pub(super) async fn of(backends: &Backends) -> Result<Self, ApiError> {
        let mut ids: BTreeSet<NodeId> = backends.network.storage_nodes().into_iter().collect();
        let mut client = ClusterServiceClient::new(backends.controller.clone());
        let mut page_token = String::new();
        loop {
            let roles = vec![pb::NodeRole::Storage.into()];
            let request = pb::ListNodesRequest { page_size: NODES_PAGE, page_token, roles };
            let page = client.list_nodes(request).await.map_err(relayed)?.into_inner();
            ids.extend(page.nodes.iter().filter(|node| node.id > 0).map(|node| NodeId(node.id)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        Ok(Self { connections: ids.into_iter().map(|id| (id, backends.network.storage(id))).collect() })
    }

    /// Puts one question to every node, and waits for at most 5 s for each.
    pub(super) async fn ask<T, F>(self, question: impl Fn(StorageClient) -> F) -> Answers<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let calls = self.connections.into_iter().map(|(id, connection)| {
            let client = connection.map(StorageServiceClient::new);
            let call = client.map(|client| question(client.max_decoding_message_size(ANSWER_BYTES_MAX)));
            async move { (id, answer(call).await) }
        });
        let outcomes: Vec<_> = stream::iter(calls).buffered(CALLS_MAX).collect().await;
        let mut answers = Answers { answered: Vec::new(), failed: Vec::new() };
        for (id, outcome) in outcomes {
            match outcome {
                Ok(answer) => answers.answered.push((id, answer)),
                Err(failure) => answers.failed.push((id, failure)),
            }
        }
        answers
    }
}

async fn answer<T>(call: Option<impl Future<Output = Result<Response<T>, Status>>>) -> Result<T, ApiError> {
    let call = call.ok_or_else(|| ApiError::new(Reason::LeaderNotAvailable, "its address is not known"))?;
    let seconds = ANSWER_TIMEOUT.as_secs();
    let late = |_| ApiError::new(Reason::RequestTimedOut, format!("no answer within {seconds} s"));
    Ok(tokio::time::timeout(ANSWER_TIMEOUT, call).await.map_err(late)??.into_inner())
}

// === impl Answers ===

impl<T> Answers<T> {
    /// The error for nodes that gave no answer. `consequence` says what follows from that. A node that refuses for
    /// good makes the whole call fail for good; otherwise a retry may succeed. `None`: every node has answered.
    pub(super) fn incomplete(&self, consequence: &str) -> Option<ApiError> {
        let refused = self.failed.iter().find(|(_, failure)| failure.retry() == RetryAdvice::Never);
        let (first, failure) = refused.or_else(|| self.failed.first())?;
        let reason = if refused.is_some() { failure.reason() } else { Reason::LeaderNotAvailable };
        let ids: Vec<String> = self.failed.iter().take(NODES_NAMED_MAX).map(|(id, _)| id.to_string()).collect();
        let (ids, count) = (ids.join(", "), self.failed.len());
        let who = match count {
            1 => format!("storage node {ids}"),
            count if count <= NODES_NAMED_MAX => format!("storage nodes {ids}"),
            count => format!("{count} storage nodes, {ids} among them,"),
        };
        let which = if count == 1 { String::new() } else { format!("node {first}: ") };
        let text = format!("{who} gave no answer ({which}{failure}); {consequence}");
        Some(ApiError::new(reason, text).with("nodeIds", ids.replace(' ', "")).with("nodeCount", count))
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn answers(failed: Vec<(NodeId, ApiError)>) -> Answers<()> {
        Answers { answered: vec![(NodeId(1), ())], failed }
    }

    #[test]
    fn an_error_names_the_nodes_and_tells_a_refusal_from_an_absence() {
        assert_eq!(answers(Vec::new()).incomplete("nothing is done"), None);
        let away = || ApiError::new(Reason::RequestTimedOut, "no answer within 5 s");
        let one = answers(vec![(NodeId(3), away())]).incomplete("nothing is done").unwrap();
        assert_eq!((one.code(), one.retry()), (Code::Unavailable, RetryAdvice::Backoff));
        assert_eq!(one.message(), "storage node 3 gave no answer (no answer within 5 s); nothing is done");
        let refusal = ApiError::new(Reason::MetadataRollback, "the metadata is older than this disk");
        let both = answers(vec![(NodeId(3), away()), (NodeId(7), refusal)]).incomplete("nothing is done").unwrap();
        assert_eq!((both.reason(), both.retry()), (Reason::MetadataRollback, RetryAdvice::Never));
        let expected = "storage nodes 3, 7 gave no answer (node 7: the metadata is older than this disk); ";
        assert_eq!(both.message(), format!("{expected}nothing is done"));
        assert_eq!(both.value("nodeIds"), Some("3,7"));
        let many = answers((1..=100).map(|id| (NodeId(id), away())).collect()).incomplete("nothing is done").unwrap();
        assert!(many.message().starts_with("100 storage nodes, 1, 2, 3"), "{many}");
        assert_eq!(many.value("nodeCount"), Some("100"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_never_answers_and_one_without_an_address_are_reported() {
        let silent = answer(Some(std::future::pending::<Result<Response<()>, Status>>())).await.unwrap_err();
        assert_eq!(silent.reason(), Reason::RequestTimedOut);
        let nodes = StorageNodes { connections: vec![(NodeId(4), None)] };
        let answers = nodes.ask(|_| std::future::ready(Ok(Response::new(())))).await;
        assert_eq!((answers.answered.len(), answers.failed[0].0), (0, NodeId(4)));
    }
}
