//! Topics and partitions as the controller has them, completed with what their leaders say.

use std::sync::Arc;

use walser_proto::v1 as pb;

use crate::leaders::Figures;

/// Adds the live numbers to what the controller says of a topic, and takes back what it says of its state when
/// clients would find another.
pub(super) fn complete_topic(figures: &Figures, topic: &mut pb::Topic) {
    let name: Arc<str> = topic.name.as_str().into();
    let figures: Vec<_> = (0..topic.partition_count).map(|partition| figures.get(&name, partition)).collect();
    let numbers: Vec<_> = figures.iter().filter_map(|figure| figure.and_then(|figure| figure.numbers)).collect();
    let mut stats = topic.stats.take().unwrap_or_default();
    if numbers.len() == figures.len() {
        stats.size_bytes = Some(numbers.iter().map(|numbers| signed(numbers.bytes)).sum());
        stats.record_count = Some(numbers.iter().map(|numbers| numbers.high_watermark.since(numbers.log_start)).sum());
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

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Adds the live numbers to what the controller says of a partition.
pub(super) fn complete_partition(figures: &Figures, topic: &str, partition: &mut pb::Partition) {
    let Some(figure) = figures.get(&Arc::from(topic), partition.partition) else { return };
    partition.log_start_offset = figure.numbers.map(|numbers| numbers.log_start.0);
    partition.high_watermark = figure.numbers.map(|numbers| numbers.high_watermark.0);
    partition.size_bytes = figure.numbers.map(|numbers| signed(numbers.bytes));
    partition.compaction = figure.compaction.map(pb::Compaction::from);
    partition.lags = figure.lags.iter().copied().map(pb::ReplicaLag::from).collect();
    if figure.problem.is_some() {
        partition.problem.clone_from(&figure.problem);
        partition.damaged = figure.damaged;
    }
}

#[cfg(test)]
mod tests {
    use walser_model::{LeaderEpoch, NodeId, Offset};
    use walser_rpc::{ApiError, DescribedPartition, PartitionNumbers, Reason};

    use super::*;
    use crate::leaders::{FIRST_EPOCH, Figure};

    fn served(high_watermark: i64) -> DescribedPartition {
        let numbers = PartitionNumbers { log_start: Offset(2), high_watermark: Offset(high_watermark), bytes: 50 };
        DescribedPartition { numbers: Ok(numbers), problem: None, damaged: false, lags: Vec::new(), compaction: None }
    }

    fn not_leader() -> DescribedPartition {
        let failure = ApiError::new(Reason::NotLeader, "node 1 does not lead the partition");
        DescribedPartition { numbers: Err(failure), problem: None, damaged: false, lags: Vec::new(), compaction: None }
    }

    fn damaged() -> DescribedPartition {
        let problem = Some("records from offset 5 on are damaged".to_owned());
        DescribedPartition { problem, damaged: true, ..served(5) }
    }

    /// A topic as the controller has it, completed with what is known of its partitions.
    fn completed(state: pb::TopicState, figures: Vec<Figure>) -> pb::Topic {
        let partition_count = i32::try_from(figures.len()).unwrap();
        let mut topic = pb::Topic { name: "t".to_owned(), partition_count, state: state.into(), ..Default::default() };
        complete_topic(&Figures::of_a_test("t", figures), &mut topic);
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
            let figures = Figures::of_a_test("t", vec![figure]);
            let mut partition = pb::Partition::default();
            complete_partition(&figures, "t", &mut partition);
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
