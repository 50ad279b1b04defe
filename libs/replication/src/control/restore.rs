//! Partitions of a store that was restored from an older copy.

use walser_model::LeaderEpoch;

use super::{Decision, DecisionContext, PartitionRecord};
use crate::{NodeSet, Restored};

/// Leader epochs that are skipped above those that are known: more than begin between a copy and its use, on nodes that do
/// not say so or are away, and more than many starts of a controller skip.
const EPOCHS_SKIPPED: i32 = 1_000_000;

/// Takes a partition of a restored store into use: its leader epoch becomes much greater than `seen`, the highest one that a
/// replica has, if any says so. Epochs between the copy and the loss were handed out already.
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
/// `None`: it was taken into use above what was seen already.
pub fn restore<P: Clone>(
    context: &DecisionContext,
    record: &PartitionRecord<P>,
    seen: Option<LeaderEpoch>,
    refused: &NodeSet,
) -> Option<Decision<P>> {
    let mut state = record.state.clone();
    let alone = state.replicas.len() == 1;
    let current = state.leader_epoch;
    if seen.is_some_and(|seen| state.accepted_epoch > seen) {
        return None;
    }
    state.leader_epoch = LeaderEpoch(current.max(seen.unwrap_or(current)).0.saturating_add(EPOCHS_SKIPPED));
    (state.start, state.accepted_epoch) = (context.start.number, state.leader_epoch);
    state.stepped_down = None;
    if alone {
        state.unclean_epoch = state.leader_epoch;
    } else {
        state.leader = None;
        state.isr = NodeSet::EMPTY;
        state.elr = NodeSet::EMPTY;
        state.last_known_elr = state.replicas.iter().copied().collect();
        state.recovering = true;
        // Who was refused before, and is not any more, has not obeyed the copy.
        let obeyed = state.last_known_elr.without(refused);
        let obeyed = state.restored.take().map_or(obeyed, |before| before.obeyed);
        state.restored = Some(Box::new(Restored { leader_epoch: state.leader_epoch, obeyed }));
    }
    Some(Decision::of_partition(context, record, state, []))
}
