//! What nodes ask of a controller.

use walser_model::LeaderEpoch;
use walser_replication::AlterIsr;
use walser_replication::control::{self, Decision, ReplicaIntegrity, Write};

use crate::controller::Controller;
use crate::key::Key;
use crate::network::{Body, CONTROLLERS};
use crate::store::{Record, id, number};
use crate::world::World;

impl World {
    /// A leader proposes another in-sync set.
    pub(crate) fn alter(&mut self, at: usize, partition: Key, proposal: &AlterIsr) {
        if !self.acts(at) {
            return;
        }
        let controller = &self.controllers[at];
        let known = controller.partitions[partition.slot].as_ref().filter(|known| known.key == partition);
        let Some(known) = known else { return };
        let decided = controller.decider.alter_isr(&controller.view, known, proposal);
        let mut ineligible = None;
        let answer = match &decided {
            Ok(decision) => {
                let changed = self.transact(at, decision.clone());
                if changed.is_none() && self.controllers[at].in_doubt {
                    return;
                }
                changed.and_then(|_| self.store.partition(partition.slot))
            }
            Err(control::Refusal::StalePartition) => controller.partitions[partition.slot].as_ref(),
            Err(control::Refusal::Ineligible(node)) => {
                ineligible = Some(*node);
                None
            }
            Err(control::Refusal::Behind) => {
                self.controllers[at].catch_up(&self.store);
                None
            }
            Err(_) => None,
        };
        let written = answer.map(|known| Box::new((known.state.clone(), known.epoch)));
        let AlterIsr { leader, leader_epoch, node_epoch, .. } = *proposal;
        self.say(|| format!("controller {at} answers a proposal of {leader} for partition {partition}: {decided:?}"));
        let body = Body::Altered { leader_epoch, node_epoch, written, ineligible };
        self.network.send(CONTROLLERS + at, number(leader), partition, body);
    }

    /// The log of a leader has failed: who has everything leads in its place, if anybody has.
    pub(crate) fn take_lead_away(
        &mut self,
        at: usize,
        partition: Key,
        (node, node_epoch): (usize, i64),
        leader_epoch: LeaderEpoch,
    ) {
        if !self.acts(at) {
            return;
        }
        let Controller { view, partitions, decider, .. } = &self.controllers[at];
        let known = partitions[partition.slot].as_ref().filter(|known| known.key == partition);
        let same = view.nodes.get(&id(node)).is_some_and(|found| found.epoch == node_epoch);
        if let Some(known) = known.filter(|_| same)
            && let Some(decision) = decider.give_up(view, known, id(node), leader_epoch)
        {
            self.transact(at, decision);
        }
    }

    /// A node asks to be registered: it is fenced, then swept out of everything, then registered.
    pub(crate) fn register(&mut self, at: usize, node: usize, process: u32, (unclean, gone): (&[Key], &[Key])) {
        if !self.acts(at) {
            return;
        }
        let controller = &self.controllers[at];
        let held = |known: &Record| match gone.contains(&known.key) {
            true => ReplicaIntegrity::Gone,
            false if unclean.contains(&known.key) => ReplicaIntegrity::Unclean,
            false => ReplicaIntegrity::Intact,
        };
        let all = controller.partitions.iter().flatten().map(|known| (known, held(known)));
        let decisions = controller.decider.admit(&controller.view, id(node), all);
        let of_node =
            |decision: &Decision<Key>| decision.writes.iter().any(|write| matches!(write, Write::Live { .. }));
        if !decisions.first().is_some_and(of_node) {
            self.submit(at, decisions);
            return;
        }
        for decision in decisions {
            if let Some((_, epoch)) = self.transact(at, decision).and_then(|changed| changed.registered) {
                self.network.send(CONTROLLERS + at, node, Key::default(), Body::Registered { process, epoch });
            }
        }
    }
}
