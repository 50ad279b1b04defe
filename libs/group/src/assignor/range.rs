//! The assignor `range`: in every topic, members in their order get contiguous ranges, the first ones one more.

use std::collections::BTreeMap;

use walser_model::{PartitionIndex, TopicId, TopicPartition};

use super::AssignorMember;

pub(super) fn assign(members: &[AssignorMember], topics: &BTreeMap<TopicId, i32>) -> Vec<Vec<TopicPartition>> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by(|left, right| members[*left].rank.cmp(&members[*right].rank));
    let mut targets = vec![Vec::new(); members.len()];
    for (topic, count) in topics {
        let readers: Vec<usize> =
            order.iter().copied().filter(|member| members[*member].topics.contains(topic)).collect();
        let Ok(reader_count) = i32::try_from(readers.len()) else { continue };
        let mut next = 0;
        for (place, reader) in (0..).zip(readers) {
            let more = i32::from(place < count % reader_count);
            let end = next + count / reader_count + more;
            let range = (next..end).map(|partition| TopicPartition::new(*topic, PartitionIndex(partition)));
            targets[reader].extend(range);
            next = end;
        }
    }
    targets
}
