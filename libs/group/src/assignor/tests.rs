use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::topics::partitions;

fn topic(number: u8) -> TopicId {
    TopicId::from_bytes([number; 16])
}

fn member(index: usize, topics: impl IntoIterator<Item = u8>) -> AssignorMember {
    let topics = Arc::new(topics.into_iter().map(topic).collect());
    AssignorMember { rank: format!("{index:05}"), topics, previous: Vec::new() }
}

/// Members after an assignment.
fn after(members: &[AssignorMember], targets: &[Vec<TopicPartition>]) -> Vec<AssignorMember> {
    let with = |(member, target): (&AssignorMember, &Vec<TopicPartition>)| AssignorMember {
        previous: target.clone(),
        ..member.clone()
    };
    members.iter().zip(targets).map(with).collect()
}

fn moved(members: &[AssignorMember], targets: &[Vec<TopicPartition>]) -> usize {
    let lost = |(member, target): (&AssignorMember, &Vec<TopicPartition>)| {
        member.previous.iter().filter(|partition| !target.contains(partition)).count()
    };
    members.iter().zip(targets).map(lost).sum()
}

/// Every partition that is read goes to exactly one reader.
fn check(members: &[AssignorMember], topics: &BTreeMap<TopicId, i32>, targets: &[Vec<TopicPartition>]) {
    let read = topics.iter().filter(|(topic, _)| members.iter().any(|member| member.topics.contains(topic)));
    let mut wanted: Vec<TopicPartition> = read.flat_map(|(topic, count)| partitions(*topic, *count)).collect();
    let mut found: Vec<TopicPartition> = targets.iter().flatten().copied().collect();
    wanted.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, wanted);
    for (member, target) in members.iter().zip(targets) {
        assert!(target.iter().all(|partition| member.topics.contains(&partition.topic)));
    }
}

fn check_balance(members: &[AssignorMember], targets: &[Vec<TopicPartition>]) {
    for (left, more) in members.iter().zip(targets) {
        for (right, fewer) in members.iter().zip(targets) {
            assert!(left.topics != right.topics || more.len() <= fewer.len() + 1, "{} and {}", more.len(), fewer.len());
        }
    }
}

fn subscriptions() -> impl Strategy<Value = Vec<BTreeSet<u8>>> {
    vec(btree_set(0_u8..5, 0..4), 0..12)
}

fn counts() -> impl Strategy<Value = Vec<i32>> {
    vec(0_i32..12, 5)
}

fn topics(counts: &[i32]) -> BTreeMap<TopicId, i32> {
    (0..).zip(counts).map(|(number, count)| (topic(number), *count)).collect()
}

proptest! {
    #[test]
    fn every_partition_has_one_reader_and_loads_are_even(
        before in subscriptions(), later in subscriptions(), counts_before in counts(), counts_later in counts(),
    ) {
        for assignor in [Assignor::Uniform, Assignor::Range] {
            let (first, second) = (topics(&counts_before), topics(&counts_later));
            let members: Vec<_> = before.iter().enumerate().map(|(index, read)| member(index, read.clone())).collect();
            let targets = assign(assignor, &members, &first);
            check(&members, &first, &targets);
            // Some members go, some come, and others read other topics; topics grow, shrink and go.
            let mut members = after(&members, &targets);
            members.truncate(later.len());
            for (index, read) in later.iter().enumerate() {
                let read = Arc::new(read.iter().map(|number| topic(*number)).collect());
                match members.get_mut(index) {
                    Some(member) if index % 2 == 0 => member.topics = read,
                    Some(_) => {}
                    None => members.push(AssignorMember { topics: read, ..member(index, []) }),
                }
            }
            let targets = assign(assignor, &members, &second);
            check(&members, &second, &targets);
            if assignor == Assignor::Uniform {
                check_balance(&members, &targets);
                let again = assign(assignor, &after(&members, &targets), &second);
                prop_assert_eq!(again, targets, "what is balanced stays");
            }
        }
    }

    #[test]
    fn with_equal_subscriptions_no_more_moves_than_a_member_takes(count in 1_usize..20, partitions in 0_i32..100) {
        let topics = BTreeMap::from([(topic(0), partitions)]);
        let members: Vec<_> = (0..count).map(|index| member(index, [0])).collect();
        let mut members = after(&members, &assign(Assignor::Uniform, &members, &topics));
        // A member leaves: nothing moves but what it had.
        let gone = members.split_off(count.saturating_sub(1));
        prop_assert_eq!(moved(&members, &assign(Assignor::Uniform, &members, &topics)), 0);
        members.extend(gone);
        // A member comes: it takes its share and nothing else moves.
        members.push(member(count, [0]));
        let targets = assign(Assignor::Uniform, &members, &topics);
        prop_assert_eq!(moved(&members, &targets), targets[count].len());
    }
}

#[test]
fn range_gives_the_same_members_the_same_indexes_of_all_topics() {
    let members: Vec<_> = (0..3).map(|index| member(index, [0, 1])).collect();
    let targets = assign(Assignor::Range, &members, &BTreeMap::from([(topic(0), 7), (topic(1), 7)]));
    let indexes = |target: &Vec<TopicPartition>, of: u8| {
        let of_topic = target.iter().filter(|partition| partition.topic == topic(of));
        of_topic.map(|partition| partition.partition.0).collect::<Vec<_>>()
    };
    for (target, wanted) in targets.iter().zip([vec![0, 1, 2], vec![3, 4], vec![5, 6]]) {
        assert_eq!((indexes(target, 0), indexes(target, 1)), (wanted.clone(), wanted));
    }
}

#[test]
fn large_groups_are_assigned() {
    let many: Vec<_> = (0..10_000).map(|index| member(index, [0])).collect();
    let mixed: Vec<_> = (0..100).map(|index| member(index, [u8::try_from(index % 7).unwrap(), 7])).collect();
    let one = vec![member(0, 0..9)];
    // As many subscriptions as members; topics from 9 on do not exist.
    let read = |index: usize| (0_u8..13).filter(move |topic| index >> topic & 1 == 1);
    let different: Vec<_> = (0..5_000).map(|index| member(index, read(index))).collect();
    let topics: BTreeMap<_, _> = (0..9).map(|number| (topic(number), 10_000 / 9)).collect();
    for members in [many, mixed, one, different] {
        let targets = assign(Assignor::Uniform, &members, &topics);
        check(&members, &topics, &targets);
        let members = after(&members, &targets);
        assert_eq!(moved(&members, &assign(Assignor::Uniform, &members, &topics)), 0);
    }
}
