//! Messages arrive.

use walser_replication::{Ack, Leader, ReplicaEvent};

use crate::network::{Body, CONTROLLERS, LIMBO_MAX, Message};
use crate::world::World;
use crate::world::shell::Cargo;

impl World {
    /// A message arrives, or is lost, or arrives and stays to come again.
    pub(crate) fn deliver(&mut self) -> bool {
        if !self.network.limbo.is_empty() && self.random.below(60) == 0 {
            let late = self.random.below(self.network.limbo.len());
            let message = self.network.limbo.swap_remove(late);
            self.say(|| format!("late: {message:?}"));
            self.arrive(message);
            return true;
        }
        let reorder = self.random.chance(self.weights.reorder);
        let at = if reorder { self.random.below(self.network.messages.len()) } else { 0 };
        let Some(message) = self.network.messages.get(at) else { return false };
        if matches!(message.body, Body::Alter(_)) && self.random.chance(self.weights.delay_proposals) {
            // It goes to the end of the queue.
            let delayed = self.network.messages.remove(at);
            self.network.messages.extend(delayed);
            return false;
        }
        if self.random.chance(self.weights.drop) {
            let lost = self.network.messages.remove(at);
            self.fault();
            self.say(|| format!("lost: {lost:?}"));
            return true;
        }
        let twice = self.random.chance(self.weights.duplicate).then(|| message.clone());
        let Some(message) = self.network.messages.remove(at) else { return false };
        self.network.messages.extend(twice);
        // Requests of clients come again anyway, and what a frame or an open says is old at once.
        let late = match message.body {
            Body::Produce { .. } | Body::Written { .. } => 0,
            Body::Pushed(..) | Body::Open(_) => self.weights.late / 8,
            _ => self.weights.late,
        };
        if self.random.chance(late) && self.network.limbo.len() < LIMBO_MAX {
            self.network.limbo.push(message.clone());
        }
        self.say(|| format!("{} -> {}, partition {}: {:?}", message.from, message.to, message.partition, message.body));
        self.arrive(message);
        true
    }

    fn arrive(&mut self, message: Message) {
        let Message { from, to, partition: key, body } = message;
        match body {
            Body::Alter(proposal) => return self.alter(to - CONTROLLERS, key, &proposal),
            Body::GiveUp { node_epoch, leader_epoch } => {
                return self.take_lead_away(to - CONTROLLERS, key, (from, node_epoch), leader_epoch);
            }
            Body::Register { process, unclean, gone } => {
                return self.register(to - CONTROLLERS, from, process, (&unclean, &gone));
            }
            Body::Written { producer, sequence } => return self.written(key, producer, sequence),
            _ if !self.nodes[to].up => return,
            Body::Registered { process, epoch } => return self.registered(to, process, epoch),
            // Of another partition than the one that the node has in that slot.
            _ if self.nodes[to].key(key.slot) != key => return,
            _ => {}
        }
        let partition = key.slot;
        match body {
            Body::Open(open) => self.drive(to, partition, ReplicaEvent::Opened(open)),
            Body::Acked(ack) => {
                self.heard_of(to, partition, &ack);
                self.drive(to, partition, ReplicaEvent::Acked(ack));
            }
            Body::Diverged(answer) => self.drive(to, partition, ReplicaEvent::Diverged(answer)),
            Body::Pushed(frame, entries) => {
                self.drive_with(to, partition, ReplicaEvent::Pushed(frame), Cargo { entries, ..Cargo::default() });
            }
            Body::Copy { leader_epoch, open, segments } => {
                let cargo = Cargo { segments: Some(segments), ..Cargo::default() };
                self.drive_with(to, partition, ReplicaEvent::CopyOffered { leader_epoch, open }, cargo);
            }
            Body::Closed(follower, open) => self.drive(to, partition, ReplicaEvent::Closed { follower, open }),
            Body::Altered { leader_epoch, node_epoch, written, ineligible } => {
                let here = &self.nodes[to];
                let epoch = here.replicas[partition].leader().map(Leader::epoch);
                if here.epoch != node_epoch || epoch != Some(leader_epoch) {
                    return;
                }
                if let Some(written) = written {
                    let (state, epoch) = *written;
                    self.learn(to, key, &state, epoch);
                }
                self.drive(to, partition, ReplicaEvent::ProposalOver { ineligible });
            }
            Body::Produce { producer, sequence, acks } => self.append(to, partition, producer, sequence, acks),
            Body::Alter(_)
            | Body::GiveUp { .. }
            | Body::Register { .. }
            | Body::Registered { .. }
            | Body::Written { .. } => {}
        }
    }

    /// An acknowledgement tells the leaders of other partitions on the node, too, that its sender is there.
    fn heard_of(&mut self, node: usize, partition: usize, ack: &Ack) {
        let (follower, node_epoch) = (ack.follower, ack.open.node_epoch);
        for slot in (0..self.setup.partitions).filter(|slot| *slot != partition) {
            if self.nodes[node].replicas[slot].leader().is_some() {
                self.drive(node, slot, ReplicaEvent::Heard { follower, node_epoch });
            }
        }
    }
}
