//! Partitions of a store that was restored from an older copy.

use walser_model::LeaderEpoch;

use super::{Decision, DecisionContext, PartitionRecord};
use crate::NodeSet;

/// Takes a partition of a restored store into use: its leader epoch becomes greater than `seen`, the highest one that a
/// replica has. Epochs between the copy and the loss were handed out already.
///
/// With one replica that is all: it has whatever there is. With more, what the copy says of the in-sync set was true
/// once, and committed records may be missing on any of them since. So none of them is in sync or eligible, and all are
/// those to ask: an election without proof (rule R21) takes the one that has most. `None`: nothing newer was seen, and
/// there is one replica.
pub fn restore<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    seen: LeaderEpoch,
) -> Option<Decision<P>> {
    let mut state = record.state.clone();
    let alone = state.replicas.len() == 1;
    if alone && seen < state.leader_epoch {
        return None;
    }
    state.leader_epoch = state.leader_epoch.max(seen).next();
    if !alone {
        state.leader = None;
        state.isr = NodeSet::EMPTY;
        state.elr = NodeSet::EMPTY;
        state.last_known_elr = state.replicas.iter().copied().collect();
    }
    Some(Decision::of_partition(context, record, state, []))
}
