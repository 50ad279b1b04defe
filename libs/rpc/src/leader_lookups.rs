//! Looking offsets up at the leaders of many partitions.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use walser_group::LogEnds;
use walser_model::{LeaderEpoch, NodeId, Offset, TopicPartition};

use crate::storage_client::StorageClient;
use crate::{ApiError, LedPartition, Network, OffsetAnswer, OffsetQuery};

/// How long a leader may take for its look-ups, of which there may be thousands.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Look-ups in one call.
const CALL_MAX: usize = 20_000;

/// A partition and its leader, with the epoch.
#[derive(Debug, Clone, Copy)]
pub struct PartitionLeader {
    pub partition: TopicPartition,
    /// `None`: nobody leads it.
    pub leader: Option<(NodeId, LeaderEpoch)>,
}

/// What a leader says; `None`: there is none, or it does not answer.
pub type LeaderAnswer<T> = Option<Result<T, ApiError>>;

/// Looks offsets up, of each leader all that it leads. The answers are in the order of the questions.
pub async fn look_up_at_leaders(
    network: &Network,
    lookups: &[(PartitionLeader, OffsetQuery)],
) -> Vec<LeaderAnswer<OffsetAnswer>> {
    let mut by_node = HashMap::<NodeId, Vec<(usize, (LedPartition, OffsetQuery))>>::new();
    for (number, (of, query)) in lookups.iter().enumerate() {
        if let Some((node, leader_epoch)) = of.leader {
            let asked = (LedPartition { id: of.partition, leader_epoch }, *query);
            by_node.entry(node).or_default().push((number, asked));
        }
    }
    let asked = by_node.into_iter().map(async |(node, wanted)| {
        let storage = network.storage_client(node)?;
        tokio::time::timeout(ANSWER_MAX, look_up_in_calls(&*storage, &wanted)).await.ok()
    });
    let mut found = vec![None; lookups.len()];
    for (number, answer) in join_all(asked).await.into_iter().flatten().flatten() {
        found[number] = Some(answer);
    }
    found
}

/// Asks one leader. What it has answered before it failed counts.
async fn look_up_in_calls(
    storage: &dyn StorageClient,
    wanted: &[(usize, (LedPartition, OffsetQuery))],
) -> Vec<(usize, Result<OffsetAnswer, ApiError>)> {
    let mut found = Vec::with_capacity(wanted.len());
    for part in wanted.chunks(CALL_MAX) {
        let asked: Vec<_> = part.iter().map(|(_, asked)| *asked).collect();
        let Ok(answers) = storage.look_up_all(&asked).await else { break };
        found.extend(part.iter().map(|(number, _)| *number).zip(answers));
    }
    found
}

/// Where partitions begin and end. The answers are in the order of the questions; where an end is not known for certain there
/// is none.
pub async fn log_ends(network: &Network, partitions: &[PartitionLeader]) -> Vec<LeaderAnswer<LogEnds>> {
    let queries = |of: &PartitionLeader| [OffsetQuery::Earliest, OffsetQuery::Latest].map(|query| (*of, query));
    let found = look_up_at_leaders(network, &partitions.iter().flat_map(queries).collect::<Vec<_>>()).await;
    let offset = |found: &LeaderAnswer<OffsetAnswer>| {
        let found = found.clone()?;
        Some(found.map(|found| found.offset.unwrap_or(Offset::ZERO)))
    };
    let ends = found.chunks_exact(2).map(|pair| match (offset(&pair[0])?, offset(&pair[1])?) {
        (Ok(log_start), Ok(end)) => Some(Ok(LogEnds { log_start, end })),
        (Err(failure), _) | (_, Err(failure)) => Some(Err(failure)),
    });
    ends.collect()
}
