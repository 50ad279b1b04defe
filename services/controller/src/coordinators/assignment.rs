//! Which coordinator gets which shard: as many as any other one, but for one, with as few moves as that takes.

use std::collections::{BTreeMap, BTreeSet};

/// The shards that get another coordinator, each with that one. `owners`: the coordinators of the shards so far, by the
/// numbers of the shards, living or not. Nothing moves while nobody lives.
pub(super) fn moves<'a>(owners: &[Option<&str>], living: &BTreeSet<&'a str>) -> Vec<(usize, &'a str)> {
    if living.is_empty() {
        return Vec::new();
    }
    let mut held: BTreeMap<&str, Vec<usize>> = living.iter().map(|id| (*id, Vec::new())).collect();
    let mut free = Vec::new();
    for (shard, owner) in owners.iter().enumerate() {
        match owner.and_then(|owner| held.get_mut(owner)) {
            Some(shards) => shards.push(shard),
            None => free.push(shard),
        }
    }
    let (least, more) = (owners.len() / living.len(), owners.len() % living.len());
    // Those that have most are allowed one more.
    let mut by_count: Vec<&'a str> = living.iter().copied().collect();
    by_count.sort_by_key(|id| (std::cmp::Reverse(held[id].len()), *id));
    let quota = |at: usize| least + usize::from(at < more);
    for (at, id) in by_count.iter().enumerate() {
        let shards = held.get_mut(id).map(std::mem::take).unwrap_or_default();
        let kept = shards.len().min(quota(at));
        free.extend(&shards[kept..]);
        held.insert(id, shards[..kept].to_vec());
    }
    free.sort_unstable();
    let mut free = free.into_iter();
    let wanting = by_count.iter().enumerate().map(|(at, id)| (*id, quota(at) - held[id].len()));
    let mut moves: Vec<_> = wanting
        .flat_map(|(id, count)| free.by_ref().take(count).map(move |shard| (shard, id)).collect::<Vec<_>>())
        .collect();
    moves.sort_unstable();
    moves
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shards_are_spread_and_stay_where_they_can() {
        let none = [None; 16];
        let first = moves(&none, &BTreeSet::from(["a"]));
        assert_eq!(first.len(), 16);
        let all_a = [Some("a"); 16];
        assert_eq!(moves(&all_a, &BTreeSet::from(["a", "b"])).len(), 8, "a newcomer gets its share");
        assert_eq!(moves(&all_a, &BTreeSet::from(["b"])).len(), 16, "of one that is gone, everything moves");
        assert!(moves(&all_a, &BTreeSet::new()).is_empty(), "nobody is there to take them");
    }

    proptest! {
        #[test]
        fn the_counts_differ_by_one_at_most_and_no_shard_moves_in_vain(
            owners in proptest::collection::vec(proptest::option::of(0..5usize), 16),
            living in proptest::collection::btree_set(0..5usize, 1..5),
        ) {
            const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];
            let owners: Vec<_> = owners.into_iter().map(|owner| owner.map(|at| IDS[at])).collect();
            let living: BTreeSet<_> = living.into_iter().map(|at| IDS[at]).collect();
            let moved = moves(&owners, &living);
            let mut after = owners.clone();
            for (shard, id) in &moved {
                prop_assert!(owners[*shard] != Some(*id));
                after[*shard] = Some(*id);
            }
            let count = |of: &[Option<&str>], id: &str| of.iter().filter(|owner| **owner == Some(id)).count();
            let counts: Vec<_> = living.iter().map(|id| count(&after, id)).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), owners.len());
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            // As many as nobody has that lives, and as many as are too many anywhere.
            let needed: usize = living.iter().map(|id| count(&after, id).saturating_sub(count(&owners, id))).sum();
            prop_assert_eq!(moved.len(), needed);
            prop_assert!(moves(&after, &living).is_empty(), "then it is done");
        }
    }
}
