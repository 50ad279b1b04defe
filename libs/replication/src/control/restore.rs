//! Partitions of a store that was restored from an older copy.

use walser_model::LeaderEpoch;

use super::{Decision, DecisionContext, PartitionRecord};
use crate::{NodeSet, Restored};

/// Takes a partition of a restored store into use: its leader epoch becomes greater than `seen`, the highest one that a
/// replica has. Epochs between the copy and the loss were handed out already.
///
/// With one replica that is nearly all: it has whatever there is. That need not be what was committed, because the
/// partition may have been on another node since. So what was taken for committed need not be, as after an election
/// without proof; a node that becomes a replica again later can give it up.
///
/// With more replicas, what the copy says of the in-sync set was true once, and committed records may be missing on any
/// of them since. So none of them is in sync or eligible, and all are those to ask: an election without proof (rule R21)
/// takes the one that has most, and whoever restored the store has asked for it. That holds as well where nodes that had seen
/// nothing newer came first and one of them leads already, by the in-sync set of the copy: others may have committed what it
/// has not. They have obeyed the copy, all but those in `refused`.
///
/// `None`: nothing newer was seen, and there is one replica.
pub fn restore<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    seen: LeaderEpoch,
    refused: &NodeSet,
) -> Option<Decision<P>> {
    let mut state = record.state.clone();
    let alone = state.replicas.len() == 1;
    if alone && seen < state.leader_epoch {
        return None;
    }
    state.leader_epoch = state.leader_epoch.max(seen).next();
    state.stepped_down = None;
    if alone {
        state.unclean_epoch = state.leader_epoch;
    } else {
        state.leader = None;
        state.isr = NodeSet::EMPTY;
        state.elr = NodeSet::EMPTY;
        state.last_known_elr = state.replicas.iter().copied().collect();
        state.recovering = true;
        let obeyed = state.last_known_elr.without(refused);
        state.restored = Some(Box::new(Restored { leader_epoch: state.leader_epoch, obeyed }));
    }
    Some(Decision::of_partition(context, record, state, []))
}
