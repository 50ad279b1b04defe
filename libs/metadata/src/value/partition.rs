//! Partitions.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use walser_model::{LeaderEpoch, NodeId};
use walser_replication::{NodeSet, PartitionState, Restored, SteppedDown};

use super::{UnknownFields, Value, is_zero};

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
    /// 0: not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    start: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted_epoch: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stepped_down: Option<SteppedDownForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restored: Option<RestoredForm>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

/// An election for which a leader has stepped down.
#[derive(Serialize, Deserialize)]
struct SteppedDownForm {
    leader: i32,
    leader_epoch: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    named: Option<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    whole: Vec<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    last_known: Vec<i32>,
}

/// Metadata that was restored.
#[derive(Serialize, Deserialize)]
struct RestoredForm {
    leader_epoch: i32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    obeyed: Vec<i32>,
}

impl From<&Restored> for RestoredForm {
    fn from(from: &Restored) -> Self {
        Self { leader_epoch: from.leader_epoch.0, obeyed: numbers(&from.obeyed) }
    }
}

impl From<RestoredForm> for Restored {
    fn from(form: RestoredForm) -> Self {
        Self { leader_epoch: LeaderEpoch(form.leader_epoch), obeyed: set(form.obeyed) }
    }
}

impl From<&SteppedDown> for SteppedDownForm {
    fn from(from: &SteppedDown) -> Self {
        Self {
            leader: from.leader.0,
            leader_epoch: from.leader_epoch.0,
            named: from.named.map(|node| node.0),
            whole: numbers(&from.whole),
            last_known: numbers(&from.last_known),
        }
    }
}

impl From<SteppedDownForm> for SteppedDown {
    fn from(form: SteppedDownForm) -> Self {
        Self {
            leader: NodeId(form.leader),
            leader_epoch: LeaderEpoch(form.leader_epoch),
            named: form.named.map(NodeId),
            whole: set(form.whole),
            last_known: set(form.last_known),
        }
    }
}

fn none() -> i32 {
    -1
}

/// An epoch that is there.
fn some(epoch: LeaderEpoch) -> Option<i32> {
    (epoch != LeaderEpoch::NONE).then_some(epoch.0)
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
            unclean_epoch: some(state.unclean_epoch),
            start: state.start,
            accepted_epoch: some(state.accepted_epoch),
            stepped_down: state.stepped_down.as_deref().map(SteppedDownForm::from),
            restored: state.restored.as_deref().map(RestoredForm::from),
            unknown: self.unknown.clone(),
        };
        form.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PartitionValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut form = Form::deserialize(deserializer)?;
        // A version that does not know of them keeps them beside a leader that it elects.
        let current = |since: i32| form.leader < 0 && since == form.leader_epoch;
        let stepped_down = form.stepped_down.take_if(|found| current(found.leader_epoch));
        let restored = form.restored.take_if(|found| current(found.leader_epoch));
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
            start: form.start,
            accepted_epoch: form.accepted_epoch.map_or(LeaderEpoch::NONE, LeaderEpoch),
            stepped_down: stepped_down.map(|found| Box::new(found.into())),
            restored: restored.map(|found| Box::new(found.into())),
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
            start: 7,
            accepted_epoch: LeaderEpoch(1),
            replicas: vec![NodeId(2), NodeId(1), NodeId(3)],
            stepped_down: Some(Box::new(SteppedDown {
                leader: NodeId(3),
                leader_epoch: LeaderEpoch(4),
                named: Some(NodeId(2)),
                whole: set(vec![1, 3]),
                last_known: set(vec![2]),
            })),
            restored: Some(Box::new(Restored { leader_epoch: LeaderEpoch(4), obeyed: set(vec![3]) })),
            ..state
        };
        let text = r#"{"replicas":[2,1,3],"leader":-1,"leader_epoch":4,"isr":[],"min_isr":1,"adding":[3],"removing":[1],"elr":[1],"last_known_elr":[2],"recovering":true,"unclean_epoch":2,"start":7,"accepted_epoch":1,"stepped_down":{"leader":3,"leader_epoch":4,"named":2,"whole":[1,3],"last_known":[2]},"restored":{"leader_epoch":4,"obeyed":[3]}}"#;
        super::super::assert_form(&PartitionValue::from(state), text);
    }

    #[test]
    fn what_an_older_version_has_not_written_has_its_default() {
        let value: PartitionValue = super::super::decode(br#"{"replicas":[3,1],"isr":[3]}"#).unwrap();
        assert_eq!((value.state.leader, value.state.leader_epoch, value.state.min_isr), (None, LeaderEpoch(0), 1));
        assert_eq!(value.state.problem(), None);
    }

    #[test]
    fn a_leader_that_an_older_version_elected_ends_the_election() {
        for (leader, epoch) in [(2, 9), (-1, 9)] {
            let text = format!(
                r#"{{"replicas":[1,2,3],"leader":{leader},"leader_epoch":{epoch},"isr":[2],"stepped_down":{{"leader":1,"leader_epoch":8,"whole":[1]}},"restored":{{"leader_epoch":8}}}}"#
            );
            let value: PartitionValue = super::super::decode(text.as_bytes()).unwrap();
            assert_eq!((value.state.stepped_down, value.state.restored), (None, None));
        }
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
            (stepped_down, whole, last_known) in (prop::option::of((1..6, prop::option::of(1..6))), nodes(), nodes()),
        ) {
            let stepped_down = stepped_down.filter(|_| leader.is_none()).map(|(leader, named)| {
                let (leader, leader_epoch, named) = (NodeId(leader), LeaderEpoch(leader_epoch), named.map(NodeId));
                Box::new(SteppedDown { leader, leader_epoch, named, whole, last_known })
            });
            let restored = Restored { leader_epoch: LeaderEpoch(leader_epoch), obeyed: isr.clone() };
            let restored = (leader.is_none() && recovering).then(|| Box::new(restored));
            let replicas: Vec<NodeId> = replicas.into_iter().map(NodeId).collect();
            let state = PartitionState {
                leader: leader.map(NodeId), leader_epoch: LeaderEpoch(leader_epoch), isr, adding, removing, elr,
                last_known_elr, recovering, unclean_epoch: LeaderEpoch(unclean), stepped_down, restored,
                start: i64::from(leader_epoch), accepted_epoch: LeaderEpoch(unclean),
                ..PartitionState::new(replicas, min_isr)
            };
            let value = PartitionValue::from(state);
            prop_assert_eq!(&super::super::decode::<PartitionValue>(&super::super::encode(&value)).unwrap(), &value);
        }
    }
}
