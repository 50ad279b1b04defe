//! Messages arrive.

use walser_model::LeaderEpoch;
use walser_replication::{Ack, Event, FollowerEvent, Leader, OpenId};

use crate::network::{Body, CONTROLLERS, LIMBO_MAX, Message, Segments};
use crate::replica::Machine;
use crate::world::World;

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
            Body::Open(open) => self.lead(to, partition, Event::Opened(open)),
            Body::Acked(ack) => {
                self.heard_of(to, partition, &ack);
                self.lead(to, partition, Event::Acked(ack));
            }
            Body::Diverged(answer) => self.follow(to, partition, FollowerEvent::Diverged(answer), &[]),
            Body::Pushed(frame, entries) => self.follow(to, partition, FollowerEvent::Pushed(frame), &entries),
            Body::Copy { leader_epoch, open, segments } => self.copied(to, partition, (leader_epoch, open), *segments),
            Body::Closed(follower, open) => self.lead(to, partition, Event::Closed { follower, open }),
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
                self.lead(to, partition, Event::ProposalOver { ineligible });
            }
            Body::Produce { producer, sequence, acks } => self.append(to, partition, producer, sequence, acks),
            Body::Alter(_) | Body::Register { .. } | Body::Registered { .. } | Body::Written { .. } => {}
        }
    }

    /// An acknowledgement tells the leaders of other partitions on the node, too, that its sender is there.
    fn heard_of(&mut self, node: usize, partition: usize, ack: &Ack) {
        let (follower, node_epoch) = (ack.follower, ack.open.node_epoch);
        for (slot, replica) in self.nodes[node].replicas.iter_mut().enumerate() {
            if slot != partition
                && let (Machine::Leads(leader), log) = replica.split()
            {
                leader.step(Event::Heard { follower, node_epoch }, &log, &mut self.leader_actions);
            }
        }
    }

    /// The leader's segments take the place of the log, when they are still what was asked for.
    fn copied(
        &mut self,
        node: usize,
        partition: usize,
        asked: (LeaderEpoch, OpenId),
        Segments { start, log, epochs }: Segments,
    ) {
        let replica = &mut self.nodes[node].replicas[partition];
        let Machine::Follows(follower) = &replica.machine else { return };
        if !follower.current(asked.0, asked.1) {
            return;
        }
        replica.cut(0);
        replica.led = None;
        (replica.start, replica.durable, replica.log, replica.epochs) = (start, log.len(), log, epochs);
        replica.compare(&self.truths[partition].committed);
        self.counts.copies += 1;
        self.follow(node, partition, FollowerEvent::Copied, &[]);
    }
}
