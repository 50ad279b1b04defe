//! What the leaders say of their partitions, and what it means that one says nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use walser_model::{LeaderEpoch, NodeId, PartitionIndex, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::storage_service_client::StorageServiceClient;
use walser_proto::v1 as pb;
use walser_rpc::{Failure, Reason};

use crate::Gateway;
use crate::metadata::TopicView;

/// How long a node may take to answer, above which it counts as one that does not.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The epoch of partitions that were created and have not seen an election.
const FIRST_EPOCH: LeaderEpoch = LeaderEpoch(0);

/// What is known of some partitions, by topic and number.
#[derive(Debug, Default)]
pub(super) struct Figures(HashMap<(Arc<str>, i32), Figure>);

/// What is known of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Figure {
    /// Live numbers, while a leader serves the partition.
    numbers: Option<Numbers>,
    /// Why it is not in service, or not all of it.
    problem: Option<String>,
    damaged: bool,
    /// It was created a moment ago and its first leader has not heard of it.
    beginning: bool,
    /// Its leader has not heard yet that it leads, or is starting: a moment later it may serve.
    awaited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Numbers {
    log_start: i64,
    high_watermark: i64,
    bytes: i64,
}

impl Gateway {
    /// What the leaders say of all partitions of some topics.
    pub(super) async fn figures(&self, topics: &[Arc<TopicView>]) -> Figures {
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
        let asked = by_node.into_iter().map(async |(node, wanted)| (node, self.ask(node, &wanted).await, wanted));
        for (node, answer, wanted) in join_all(asked).await {
            let mut answer = answer.unwrap_or_default().into_iter();
            for (topic, number, epoch) in wanted {
                let figure = match answer.next() {
                    Some(found) => Figure::of(found, epoch),
                    None => Figure::silent(node),
                };
                figures.insert((Arc::clone(&topic.name), number), figure);
            }
        }
        Figures(figures)
    }

    /// The answer of a node about partitions that it leads; `None` when it does not answer.
    async fn ask(&self, node: NodeId, wanted: &[(&TopicView, i32, LeaderEpoch)]) -> Option<Vec<pbi::PartitionFigures>> {
        let id = |topic: &TopicView, number| TopicPartition::new(topic.id, PartitionIndex(number));
        let reference = |(topic, number, _): &(&TopicView, i32, LeaderEpoch)| {
            walser_proto::partition_ref(id(topic, *number), LeaderEpoch::NONE)
        };
        let request = pbi::DescribePartitionsRequest { refs: wanted.iter().map(reference).collect() };
        let mut client = StorageServiceClient::new(self.network.storage(node)?);
        let answer = tokio::time::timeout(ANSWER_MAX, client.describe_partitions(request)).await.ok()?;
        Some(answer.ok()?.into_inner().figures)
    }
}

// === impl Figures ===

impl Figures {
    /// Whether a partition is about to be served by its leader.
    pub(super) fn any_awaited(&self) -> bool {
        self.0.values().any(|figure| figure.awaited)
    }

    /// Whether its leader serves a partition.
    pub(super) fn served(&self, topic: &Arc<str>, partition: i32) -> bool {
        self.0.get(&(Arc::clone(topic), partition)).is_some_and(|figure| figure.numbers.is_some())
    }

    /// Adds the live numbers to what the controller says of a topic, and takes back what it says of its state when
    /// clients would find another.
    pub(super) fn complete_topic(&self, topic: &mut pb::Topic) {
        let name: Arc<str> = topic.name.as_str().into();
        let figures: Vec<_> =
            (0..topic.partition_count).map(|partition| self.0.get(&(Arc::clone(&name), partition))).collect();
        let numbers: Vec<_> = figures.iter().filter_map(|figure| figure.and_then(|figure| figure.numbers)).collect();
        let mut stats = topic.stats.take().unwrap_or_default();
        if numbers.len() == figures.len() {
            stats.size_bytes = Some(numbers.iter().map(|numbers| numbers.bytes).sum());
            stats.record_count = Some(numbers.iter().map(|numbers| numbers.high_watermark - numbers.log_start).sum());
        }
        // The controller knows who is to lead, and this gateway who does.
        let unserved = i32::try_from(figures.len() - numbers.len()).unwrap_or(i32::MAX);
        stats.offline_count = stats.offline_count.max(unserved);
        topic.stats = Some(stats);
        // What this gateway has not heard of was created a moment ago.
        let beginning = figures.iter().any(|figure| figure.is_none_or(|figure| figure.beginning));
        let wrong = figures.iter().flatten().any(|figure| figure.problem.is_some() && !figure.beginning);
        match topic.state() {
            pb::TopicState::Ready | pb::TopicState::Creating if wrong => topic.set_state(pb::TopicState::Degraded),
            pb::TopicState::Ready if beginning => topic.set_state(pb::TopicState::Creating),
            _ => {}
        }
    }

    /// Adds the live numbers to what the controller says of a partition.
    pub(super) fn complete_partition(&self, topic: &str, partition: &mut pb::Partition) {
        let Some(figure) = self.0.get(&(Arc::from(topic), partition.partition)) else { return };
        partition.log_start_offset = figure.numbers.map(|numbers| numbers.log_start);
        partition.high_watermark = figure.numbers.map(|numbers| numbers.high_watermark);
        partition.size_bytes = figure.numbers.map(|numbers| numbers.bytes);
        if figure.problem.is_some() {
            partition.problem.clone_from(&figure.problem);
            partition.damaged = figure.damaged;
        }
    }
}

// === impl Figure ===

impl Figure {
    fn leaderless(epoch: LeaderEpoch) -> Self {
        Self::unserved("no storage node that is in service leads it".to_owned(), epoch == FIRST_EPOCH)
    }

    fn silent(node: NodeId) -> Self {
        Self::unserved(format!("storage node {node}, which leads it, does not answer"), false)
    }

    fn unserved(problem: String, beginning: bool) -> Self {
        Self { numbers: None, problem: Some(problem), damaged: false, beginning, awaited: false }
    }

    fn of(found: pbi::PartitionFigures, epoch: LeaderEpoch) -> Self {
        let failure = found.error.map(Failure::from);
        // A node that has led before, or was started since, is in a later epoch.
        let waits = |failure: &Failure| matches!(failure.reason(), Reason::NotLeader | Reason::Starting);
        let awaited = found.problem.is_none() && failure.as_ref().is_some_and(waits);
        let beginning = epoch == FIRST_EPOCH && awaited;
        let numbers = failure.is_none().then_some(Numbers {
            log_start: found.log_start_offset,
            high_watermark: found.high_watermark,
            bytes: found.size_bytes,
        });
        let problem = found.problem.or_else(|| failure.map(|failure| failure.message().to_owned()));
        Self { numbers, problem, damaged: found.damaged, beginning, awaited }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(high_watermark: i64) -> pbi::PartitionFigures {
        pbi::PartitionFigures { log_start_offset: 2, high_watermark, size_bytes: 50, ..Default::default() }
    }

    fn not_leader() -> pbi::PartitionFigures {
        let error = Some(Failure::new(Reason::NotLeader, "node 1 does not lead the partition").into());
        pbi::PartitionFigures { error, ..Default::default() }
    }

    fn damaged() -> pbi::PartitionFigures {
        let problem = Some("records from offset 5 on are damaged".to_owned());
        pbi::PartitionFigures { problem, damaged: true, ..served(5) }
    }

    /// A topic as the controller has it, completed with what is known of its partitions.
    fn completed(state: pb::TopicState, figures: Vec<Figure>) -> pb::Topic {
        let partition_count = i32::try_from(figures.len()).unwrap();
        let mut topic = pb::Topic { name: "t".to_owned(), partition_count, state: state.into(), ..Default::default() };
        Figures((0..).zip(figures).map(|(number, figure)| (("t".into(), number), figure)).collect())
            .complete_topic(&mut topic);
        topic
    }

    #[test]
    fn a_topic_is_ready_degraded_or_being_created_as_its_leaders_say() {
        use pb::TopicState::{Creating, Degraded, Ready};
        let later = LeaderEpoch(3);
        let good = || Figure::of(served(10), later);
        let state = |state, figures| completed(state, figures).state();
        assert_eq!(state(Ready, vec![good(), good()]), Ready);
        assert_eq!(state(Ready, vec![good(), Figure::of(not_leader(), FIRST_EPOCH)]), Creating);
        assert_eq!(state(Creating, vec![good(), Figure::leaderless(FIRST_EPOCH)]), Creating);
        for wrong in [
            Figure::of(not_leader(), later),
            Figure::of(damaged(), FIRST_EPOCH),
            Figure::silent(NodeId(1)),
            Figure::leaderless(later),
        ] {
            assert_eq!(state(Ready, vec![good(), wrong.clone()]), Degraded, "{wrong:?}");
            assert_eq!(state(Creating, vec![Figure::of(not_leader(), FIRST_EPOCH), wrong]), Degraded);
        }
    }

    #[test]
    fn numbers_are_those_of_all_partitions_or_absent() {
        let good = || Figure::of(served(10), LeaderEpoch(0));
        let stats = completed(pb::TopicState::Ready, vec![good(), good()]).stats.unwrap();
        assert_eq!((stats.record_count, stats.size_bytes, stats.offline_count), (Some(16), Some(100), 0));
        let stats = completed(pb::TopicState::Ready, vec![good(), Figure::silent(NodeId(1))]).stats.unwrap();
        assert_eq!((stats.record_count, stats.size_bytes, stats.offline_count), (None, None, 1));
    }

    #[test]
    fn a_partition_has_its_numbers_and_its_problem() {
        let shown = |figure| {
            let figures = Figures([(("t".into(), 0), figure)].into());
            let mut partition = pb::Partition::default();
            figures.complete_partition("t", &mut partition);
            partition
        };
        let partition = shown(Figure::of(damaged(), LeaderEpoch(1)));
        assert_eq!((partition.high_watermark, partition.damaged), (Some(5), true));
        assert_eq!(partition.problem.as_deref(), Some("records from offset 5 on are damaged"));
        let partition = shown(Figure::silent(NodeId(7)));
        assert_eq!((partition.high_watermark, partition.log_start_offset, partition.size_bytes), (None, None, None));
        assert_eq!(partition.problem.as_deref(), Some("storage node 7, which leads it, does not answer"));
    }
}
