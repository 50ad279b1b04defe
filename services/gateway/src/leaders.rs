//! What the leaders say of their partitions, and what it means that one says nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use walser_group::LogEnds;
use walser_model::{LeaderEpoch, NodeId, PartitionIndex, TopicPartition};
use walser_rpc::{
    ApiError, CompactionFigures, DescribedPartition, LaggingReplica, LeaderAnswer, Network, OffsetAnswer, OffsetQuery,
    PartitionLeader, PartitionNumbers, Reason, log_ends, look_up_at_leaders,
};

use crate::error::no_answer;
use crate::metadata::TopicView;

/// How long a node may take to answer, above which it counts as one that does not.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The epoch of partitions that were created and have not seen an election.
pub(crate) const FIRST_EPOCH: LeaderEpoch = LeaderEpoch(0);

/// What is known of some partitions, by topic and number.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    of: HashMap<(Arc<str>, i32), Figure>,
    /// Nodes that have not answered.
    pub(crate) silent: HashSet<NodeId>,
}

/// What is known of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    /// Live numbers, while a leader serves the partition.
    pub(crate) numbers: Option<PartitionNumbers>,
    /// Replicas that do not have everything.
    pub(crate) lags: Vec<LaggingReplica>,
    /// How far it is compacted.
    pub(crate) compaction: Option<CompactionFigures>,
    /// Why it is not in service, or not all of it.
    pub(crate) problem: Option<String>,
    pub(crate) damaged: bool,
    /// It was created a moment ago and its first leader has not heard of it.
    pub(crate) beginning: bool,
    /// Its leader has not heard yet that it leads, or is starting: a moment later it may serve.
    awaited: bool,
}

/// An offset of a partition that is looked up at its leader.
#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    pub(crate) topic: Arc<TopicView>,
    pub(crate) partition: i32,
    pub(crate) query: OffsetQuery,
}

/// Asks leaders. Clones share the connections.
#[derive(Debug, Clone)]
pub(crate) struct Leaders {
    network: Network,
}

impl Leaders {
    pub(crate) fn new(network: Network) -> Self {
        Self { network }
    }

    /// What the leaders say of all partitions of some topics.
    pub(crate) async fn figures(&self, topics: &[Arc<TopicView>]) -> Figures {
        self.figures_without(topics, HashSet::new()).await
    }

    /// The same, without asking nodes that are known to be `silent`.
    pub(crate) async fn figures_without(&self, topics: &[Arc<TopicView>], mut silent: HashSet<NodeId>) -> Figures {
        let mut figures = HashMap::new();
        let mut by_node: HashMap<NodeId, Vec<(&TopicView, i32, LeaderEpoch)>> = HashMap::new();
        for topic in topics {
            for (number, leader, epoch) in topic.leaders() {
                match leader {
                    Some(leader) => by_node.entry(leader).or_default().push((topic, number.0, epoch)),
                    None => drop(figures.insert((Arc::clone(&topic.name), number.0), Figure::leaderless(epoch))),
                }
            }
        }
        let asked = by_node.into_iter().map(async |(node, wanted)| {
            let answer = if silent.contains(&node) { None } else { self.ask(node, &wanted).await };
            (node, answer, wanted)
        });
        for (node, answer, wanted) in join_all(asked).await {
            if answer.is_none() {
                silent.insert(node);
            }
            let mut answer = answer.unwrap_or_default().into_iter();
            for (topic, number, epoch) in wanted {
                let figure = match answer.next() {
                    Some(found) => Figure::of(found, epoch),
                    None => Figure::silent(node),
                };
                figures.insert((Arc::clone(&topic.name), number), figure);
            }
        }
        Figures { of: figures, silent }
    }

    /// Looks offsets up at their leaders. The answers are in the order of the questions.
    pub(crate) async fn look_up(&self, lookups: &[Lookup]) -> Vec<Result<OffsetAnswer, ApiError>> {
        let asked = lookups.iter().map(|Lookup { topic, partition, query }| (led(topic, *partition), *query));
        let found = look_up_at_leaders(&self.network, &asked.collect::<Vec<_>>()).await;
        lookups.iter().zip(found).map(|(asked, found)| answered(&asked.topic, asked.partition, found)).collect()
    }

    /// Where partitions begin and end. The answers are in the order of the questions; where an end is not known for certain there
    /// is none.
    pub(crate) async fn ends(&self, partitions: &[(Arc<TopicView>, i32)]) -> Vec<Result<LogEnds, ApiError>> {
        let asked: Vec<_> = partitions.iter().map(|(topic, partition)| led(topic, *partition)).collect();
        let found = log_ends(&self.network, &asked).await;
        partitions.iter().zip(found).map(|((topic, partition), found)| answered(topic, *partition, found)).collect()
    }

    /// The answer of a node about partitions that it leads; `None` when it does not answer.
    async fn ask(&self, node: NodeId, wanted: &[(&TopicView, i32, LeaderEpoch)]) -> Option<Vec<DescribedPartition>> {
        let id = |(topic, number, _): &(&TopicView, i32, LeaderEpoch)| {
            TopicPartition::new(topic.id, PartitionIndex(*number))
        };
        let partitions: Vec<_> = wanted.iter().map(id).collect();
        let storage = self.network.storage_client(node)?;
        tokio::time::timeout(ANSWER_MAX, storage.describe(&partitions)).await.ok()?.ok()
    }
}

fn led(topic: &TopicView, partition: i32) -> PartitionLeader {
    let number = PartitionIndex(partition);
    let leader = topic.leader(number).and_then(|(node, epoch)| Some((node?, epoch)));
    PartitionLeader { partition: TopicPartition::new(topic.id, number), leader }
}

fn answered<T>(topic: &TopicView, partition: i32, answer: LeaderAnswer<T>) -> Result<T, ApiError> {
    answer.unwrap_or_else(|| Err(no_answer(topic, partition)))
}

// === impl Figures ===

impl Figures {
    /// What is known of a partition.
    pub(crate) fn get(&self, topic: &Arc<str>, partition: i32) -> Option<&Figure> {
        self.of.get(&(Arc::clone(topic), partition))
    }

    /// The replica that has lacked something for longest.
    pub(crate) fn furthest_behind(&self) -> Option<(&str, i32, LaggingReplica)> {
        let lags = self
            .of
            .iter()
            .flat_map(|((topic, partition), figure)| figure.lags.iter().map(move |lag| (&**topic, *partition, *lag)));
        lags.max_by_key(|(topic, partition, lag)| (lag.behind, lag.offsets, *topic, *partition))
    }

    /// Whether a partition is about to be served by its leader.
    pub(crate) fn any_awaited(&self) -> bool {
        self.of.values().any(|figure| figure.awaited)
    }

    /// Whether its leader serves a partition.
    pub(crate) fn served(&self, topic: &Arc<str>, partition: i32) -> bool {
        self.get(topic, partition).is_some_and(|figure| figure.numbers.is_some())
    }
}

// === impl Figure ===

impl Figure {
    pub(crate) fn leaderless(epoch: LeaderEpoch) -> Self {
        Self::unserved("no storage node that is in service leads it".to_owned(), epoch == FIRST_EPOCH)
    }

    pub(crate) fn silent(node: NodeId) -> Self {
        Self::unserved(format!("storage node {node}, which leads it, does not answer"), false)
    }

    fn unserved(problem: String, beginning: bool) -> Self {
        Self {
            numbers: None,
            problem: Some(problem),
            damaged: false,
            beginning,
            awaited: false,
            lags: Vec::new(),
            compaction: None,
        }
    }

    pub(crate) fn of(found: DescribedPartition, epoch: LeaderEpoch) -> Self {
        let DescribedPartition { numbers, problem, damaged, lags, compaction } = found;
        // A node that has led before, or was started since, is in a later epoch.
        let waits = |failure: &ApiError| matches!(failure.reason(), Reason::NotLeader | Reason::Starting);
        let awaited = problem.is_none() && numbers.as_ref().is_err_and(waits);
        let beginning = epoch == FIRST_EPOCH && awaited;
        let problem = problem.or_else(|| numbers.as_ref().err().map(|failure| failure.message().to_owned()));
        Self { numbers: numbers.ok(), problem, damaged, beginning, awaited, lags, compaction }
    }
}

#[cfg(test)]
impl Figures {
    /// Of one topic, by number.
    pub(crate) fn of_a_test(topic: &str, figures: Vec<Figure>) -> Self {
        let of = (0..).zip(figures).map(|(number, figure)| ((topic.into(), number), figure)).collect();
        Self { of, silent: HashSet::new() }
    }
}
