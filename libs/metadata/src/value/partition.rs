//! Partitions.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use walser_model::{LeaderEpoch, NodeId};
use walser_replication::{NodeSet, PartitionState, SteppedDown};

use super::{UnknownFields, Value};

/// A partition. The revision of its key is the partition epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionValue {
    /// Where it is, who leads it, and who could.
    pub state: PartitionState,
    /// Fields of a newer version.
    pub unknown: UnknownFields,
}

/// As it is written. What a partition nearly never has is left out.
#[derive(Serialize, Deserialize)]
struct Form {
    #[serde(default)]
    replicas: Vec<i32>,
    /// -1: none.
    #[serde(default = "none")]
    leader: i32,
    #[serde(default)]
    leader_epoch: i32,
    #[serde(default)]
    isr: Vec<i32>,
    #[serde(default = "one")]
    min_isr: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    adding: Vec<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    removing: Vec<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    elr: Vec<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    last_known_elr: Vec<i32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    recovering: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unclean_epoch: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stepped_down: Option<SteppedDownForm>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

/// A leader that has stepped down. Nodes with their incarnations are pairs.
#[derive(Serialize, Deserialize)]
struct SteppedDownForm {
    leader: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    named: Option<i32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
    #[serde(default)]
    whole: Vec<(i32, i64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    last_known: Vec<(i32, i64)>,
}

impl From<&SteppedDown> for SteppedDownForm {
    fn from(from: &SteppedDown) -> Self {
        let pairs = |nodes: &BTreeMap<NodeId, i64>| nodes.iter().map(|(node, epoch)| (node.0, *epoch)).collect();
        Self {
            leader: from.leader.0,
            named: from.named.map(|node| node.0),
            ended: from.ended,
            whole: pairs(&from.whole),
            last_known: pairs(&from.last_known),
        }
    }
}

impl From<SteppedDownForm> for SteppedDown {
    fn from(form: SteppedDownForm) -> Self {
        let nodes = |pairs: Vec<(i32, i64)>| pairs.into_iter().map(|(node, epoch)| (NodeId(node), epoch)).collect();
        Self {
            leader: NodeId(form.leader),
            named: form.named.map(NodeId),
            ended: form.ended,
            whole: nodes(form.whole),
            last_known: nodes(form.last_known),
        }
    }
}

fn none() -> i32 {
    -1
}

fn one() -> usize {
    1
}

fn numbers(set: &NodeSet) -> Vec<i32> {
    set.iter().map(|node| node.0).collect()
}

fn set(numbers: Vec<i32>) -> NodeSet {
    numbers.into_iter().map(NodeId).collect()
}

impl Serialize for PartitionValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let state = &self.state;
        let unclean = state.unclean_epoch;
        let form = Form {
            replicas: state.replicas.iter().map(|node| node.0).collect(),
            leader: state.leader.map_or(-1, |leader| leader.0),
            leader_epoch: state.leader_epoch.0,
            isr: numbers(&state.isr),
            min_isr: state.min_isr,
            adding: numbers(&state.adding),
            removing: numbers(&state.removing),
            elr: numbers(&state.elr),
            last_known_elr: numbers(&state.last_known_elr),
            recovering: state.recovering,
            unclean_epoch: (unclean != LeaderEpoch::NONE).then_some(unclean.0),
            stepped_down: state.stepped_down.as_deref().map(SteppedDownForm::from),
            unknown: self.unknown.clone(),
        };
        form.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PartitionValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = Form::deserialize(deserializer)?;
        let state = PartitionState {
            leader: (form.leader >= 0).then_some(NodeId(form.leader)),
            leader_epoch: LeaderEpoch(form.leader_epoch),
            isr: set(form.isr),
            adding: set(form.adding),
            removing: set(form.removing),
            elr: set(form.elr),
            last_known_elr: set(form.last_known_elr),
            recovering: form.recovering,
            unclean_epoch: form.unclean_epoch.map_or(LeaderEpoch::NONE, LeaderEpoch),
            stepped_down: form.stepped_down.map(|form| Box::new(form.into())),
            ..PartitionState::new(form.replicas.into_iter().map(NodeId).collect(), form.min_isr)
        };
        Ok(Self { state, unknown: form.unknown })
    }
}

impl Value for PartitionValue {}

impl From<PartitionState> for PartitionValue {
    fn from(state: PartitionState) -> Self {
        Self { state, unknown: UnknownFields::default() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_form_is_the_documented_one() {
        let state = PartitionState { leader_epoch: LeaderEpoch(4), ..PartitionState::new(vec![NodeId(1)], 1) };
        let text = r#"{"replicas":[1],"leader":1,"leader_epoch":4,"isr":[1],"min_isr":1}"#;
        super::super::assert_form(&PartitionValue::from(state.clone()), text);
        let state = PartitionState {
            leader: None,
            isr: NodeSet::EMPTY,
            elr: set(vec![1]),
            last_known_elr: set(vec![2]),
            adding: set(vec![3]),
            removing: set(vec![1]),
            recovering: true,
            unclean_epoch: LeaderEpoch(2),
            replicas: vec![NodeId(2), NodeId(1), NodeId(3)],
            stepped_down: Some(Box::new(SteppedDown {
                leader: NodeId(3),
                named: Some(NodeId(2)),
                ended: true,
                whole: BTreeMap::from([(NodeId(1), 11), (NodeId(3), 13)]),
                last_known: BTreeMap::from([(NodeId(2), 12)]),
            })),
            ..state
        };
        let text = r#"{"replicas":[2,1,3],"leader":-1,"leader_epoch":4,"isr":[],"min_isr":1,"adding":[3],"removing":[1],"elr":[1],"last_known_elr":[2],"recovering":true,"unclean_epoch":2,"stepped_down":{"leader":3,"named":2,"ended":true,"whole":[[1,11],[3,13]],"last_known":[[2,12]]}}"#;
        super::super::assert_form(&PartitionValue::from(state), text);
    }

    #[test]
    fn what_an_older_version_has_not_written_has_its_default() {
        let value: PartitionValue = super::super::decode(br#"{"replicas":[3,1],"isr":[3]}"#).unwrap();
        assert_eq!((value.state.leader, value.state.leader_epoch, value.state.min_isr), (None, LeaderEpoch(0), 1));
        assert_eq!(value.state.problem(), None);
    }

    fn nodes() -> impl Strategy<Value = NodeSet> {
        prop::collection::vec(1..6, 0..4).prop_map(set)
    }

    proptest! {
        #[test]
        fn every_state_survives(
            replicas in prop::collection::btree_set(1..6, 1..5),
            (leader, leader_epoch, min_isr) in (prop::option::of(1..6), 0..i32::MAX, 1..4_usize),
            (isr, adding, removing, elr, last_known_elr) in (nodes(), nodes(), nodes(), nodes(), nodes()),
            (recovering, unclean) in (any::<bool>(), -1..5),
            (stepped_down, ended) in (prop::option::of((1..6, prop::option::of(1..6), 0..99_i64)), any::<bool>()),
        ) {
            let stepped_down = stepped_down.map(|(leader, named, epoch)| {
                let (leader, named) = (NodeId(leader), named.map(NodeId));
                let (whole, last_known) = (BTreeMap::from([(leader, epoch)]), named.iter().map(|node| (*node, 0)).collect());
                Box::new(SteppedDown { leader, named, ended, whole, last_known })
            });
            let replicas: Vec<NodeId> = replicas.into_iter().map(NodeId).collect();
            let state = PartitionState {
                leader: leader.map(NodeId), leader_epoch: LeaderEpoch(leader_epoch), isr, adding, removing, elr,
                last_known_elr, recovering, unclean_epoch: LeaderEpoch(unclean), stepped_down,
                ..PartitionState::new(replicas, min_isr)
            };
            let value = PartitionValue::from(state);
            prop_assert_eq!(&super::super::decode::<PartitionValue>(&super::super::encode(&value)).unwrap(), &value);
        }
    }
}
