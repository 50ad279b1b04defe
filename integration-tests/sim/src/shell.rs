//! The shell of a storage node: what drives the state machines, and does what they say.

use std::time::Duration;

use walser_model::{Durability, LeaderEpoch, Offset};
use walser_replication::{
    Action, Event, Follower, FollowerAction, FollowerEvent, FollowerStart, Frame, Leader, PartitionState, Role, Rule,
    Start, role,
};

use crate::history::{History, NewValue};
use crate::network::{Body, Segments};
use crate::replica::{Entry, Machine, Push, index, offset};
use crate::store::{Key, Record, id, number};
use crate::world::{LAG_MAX, World};

impl World {
    /// Sees some more of the metadata.
    pub(crate) fn observe(&mut self, node: usize) -> bool {
        let behind = self.nodes[node].seen < self.store.revision;
        if !self.nodes[node].up || !self.nodes[node].registered || !behind || self.refuses(node) {
            return false;
        }
        let seen = self.nodes[node].seen;
        if seen < self.store.history.compacted {
            self.read_all(node);
        } else {
            let history = std::mem::take(&mut self.store.history);
            let behind = history.after(seen);
            let changes = if self.healing { behind.len() } else { 1 + self.random.below(behind.len()) };
            let changes = History::whole(behind, changes);
            for change in changes {
                // A revision is seen whole, or not at all.
                self.nodes[node].seen = change.revision - 1;
                match &change.value {
                    NewValue::Partition(key, state) => self.learn(node, *key, state, change.revision),
                    NewValue::Deleted(key) => self.forget(node, key.slot),
                    NewValue::Settings(partition, settings) => {
                        self.hear_of_durability(node, *partition, settings.durability)
                    }
                    NewValue::Node(..) | NewValue::Controller => {}
                }
            }
            self.nodes[node].seen = changes.last().map_or(seen, |last| last.revision);
            self.store.history = history;
        }
        let (fresh, epoch) = (self.nodes[node].seen, self.nodes[node].epoch);
        if seen < epoch && fresh >= epoch {
            self.apply_all(node);
        }
        self.say(|| format!("node {node} has seen revision {fresh}"));
        true
    }

    /// Everything that the store has, at once.
    fn read_all(&mut self, node: usize) {
        let all = self.store.partitions.clone();
        self.nodes[node].seen = self.store.revision;
        for (slot, known) in all.into_iter().enumerate() {
            match known {
                Some(Record { key, state, epoch }) => self.learn(node, key, &state, epoch),
                None => self.forget(node, slot),
            }
            let durability = self.store.settings[slot].durability;
            self.hear_of_durability(node, slot, durability);
        }
    }

    /// A topic's setting: an unclean stop is told before the page cache counts, and until it does no more.
    fn hear_of_durability(&mut self, node: usize, partition: usize, durability: Durability) {
        let here = &mut self.nodes[node];
        if std::mem::replace(&mut here.durability[partition], durability) == durability {
            return;
        }
        let replica = &mut here.replicas[partition];
        let lazy = durability == Durability::PageCache;
        if lazy {
            (replica.lazy, replica.lazy_until) = (true, None);
        } else if replica.durable >= replica.log.len() {
            replica.lazy = false;
        } else {
            replica.lazy_until = Some(replica.log.len());
        }
        match replica.machine {
            Machine::Leads(_) => self.lead(node, partition, Event::Configured { durability }),
            Machine::Follows(_) => self.follow(node, partition, FollowerEvent::Configured { lazy }, &[]),
            Machine::Rest => {}
        }
        self.touch(partition);
        self.say(|| format!("node {node} hears that partition {partition} is {durability:?}"));
    }

    /// A newer value of a partition. What the node has of another one in that slot is dropped.
    pub(crate) fn learn(&mut self, node: usize, key: Key, state: &PartitionState, epoch: i64) {
        let here = &mut self.nodes[node];
        match &mut here.known[key.slot] {
            Some(known) if known.key == key && known.epoch >= epoch => return,
            Some(known) if known.key == key => {
                known.state.clone_from(state);
                known.epoch = epoch;
            }
            _ => here.begin_anew(key.slot, Some(Record { key, state: state.clone(), epoch })),
        }
        self.apply(node, key.slot);
    }

    /// The partition of a slot was deleted: what the node has of it is dropped.
    fn forget(&mut self, node: usize, slot: usize) {
        if self.nodes[node].known[slot].is_some() {
            self.nodes[node].begin_anew(slot, None);
            self.touch(slot);
        }
    }

    pub(crate) fn apply_all(&mut self, node: usize) {
        for partition in 0..self.setup.partitions {
            self.apply(node, partition);
        }
    }

    /// Becomes what the metadata says.
    fn apply(&mut self, node: usize, partition: usize) {
        self.touch(partition);
        let here = &mut self.nodes[node];
        let Some(Record { state, epoch: partition_epoch, .. }) = &here.known[partition] else { return };
        let (leader_epoch, partition_epoch) = (state.leader_epoch, *partition_epoch);
        let to_be = role(self.setup.rules, id(node), here.epoch, here.seen, state);
        let replica = &mut here.replicas[partition];
        match (to_be, &replica.machine) {
            (Role::Lead, Machine::Leads(leader)) if leader.epoch() == leader_epoch => {
                let event = Event::Installed { partition: state.clone(), partition_epoch };
                self.lead(node, partition, event);
            }
            (Role::Lead, _) => self.begin_to_lead(node, partition),
            (Role::Follow, Machine::Follows(follower)) if follower.epoch() == leader_epoch => {}
            (Role::Follow, _) => self.begin_to_follow(node, partition),
            (Role::Rest, _) => replica.rest(),
            (Role::Gone, _) => replica.lose(),
        }
    }

    fn begin_to_lead(&mut self, node: usize, partition: usize) {
        let here = &mut self.nodes[node];
        let replica = &mut here.replicas[partition];
        let Some(Record { state, epoch: partition_epoch, .. }) = here.known[partition].clone() else { return };
        let epoch = state.leader_epoch;
        replica.rest();
        replica.lazy |= here.durability[partition] == Durability::PageCache;
        let start = Start {
            node: id(node),
            node_epoch: here.epoch,
            partition: state,
            partition_epoch,
            durability: here.durability[partition],
            high_watermark: replica.high_watermark,
            high_watermark_epoch: replica.high_watermark_epoch,
            now: here.now,
            lag_max: LAG_MAX,
            rules: self.setup.rules,
        };
        let mut actions = std::mem::take(&mut self.leader_actions);
        let leader = match Leader::start(start, &replica.view(), &mut actions) {
            Ok(leader) => leader,
            Err(contradiction) => {
                return self.fail(format!("I13: node {node}, partition {partition}: {contradiction}"));
            }
        };
        replica.high_watermark = leader.high_watermark();
        replica.high_watermark_epoch = epoch;
        replica.led = Some((epoch, replica.log.len()));
        replica.machine = Machine::Leads(Box::new(leader));
        let incarnation = here.epoch;
        self.say(|| format!("node {node} leads partition {partition} in epoch {epoch}"));
        self.note_leader(partition, epoch, node, incarnation);
        self.carry_out(node, partition, actions);
    }

    fn begin_to_follow(&mut self, node: usize, partition: usize) {
        let here = &mut self.nodes[node];
        let replica = &mut here.replicas[partition];
        let Some(Record { state, .. }) = &here.known[partition] else { return };
        let Some(leader) = state.leader else { return };
        replica.rest();
        replica.lazy |= here.durability[partition] == Durability::PageCache;
        let start = FollowerStart {
            node: id(node),
            node_epoch: here.epoch,
            leader,
            leader_epoch: state.leader_epoch,
            open_sequence: replica.open_sequence,
            high_watermark: replica.high_watermark,
            high_watermark_epoch: replica.high_watermark_epoch,
            unclean_epoch: state.unclean_epoch,
            lazy: here.durability[partition] == Durability::PageCache,
            rules: self.setup.rules,
        };
        let epoch = state.leader_epoch;
        let mut actions = std::mem::take(&mut self.follower_actions);
        let follower = Follower::start(start, &replica.view(), &mut actions);
        replica.high_watermark = follower.high_watermark();
        replica.machine = Machine::Follows(Box::new(follower));
        self.say(|| format!("node {node} follows {leader} in partition {partition}, epoch {epoch}"));
        self.obey(node, partition, actions, &[]);
    }

    /// Says something about the partition of which a node has a replica.
    pub(crate) fn send(&mut self, node: usize, to: usize, slot: usize, body: Body) {
        let key = self.nodes[node].key(slot);
        self.network.send(node, to, key, body);
    }

    /// Gives an event to a leader, and does what it says.
    pub(crate) fn lead(&mut self, node: usize, partition: usize, event: Event) {
        let mut actions = std::mem::take(&mut self.leader_actions);
        if let (Machine::Leads(leader), log) = self.nodes[node].replicas[partition].split() {
            leader.step(event, &log, &mut actions);
        }
        self.carry_out(node, partition, actions);
    }

    fn carry_out(&mut self, node: usize, partition: usize, mut actions: Vec<Action>) {
        self.touch(partition);
        for action in actions.drain(..) {
            let replica = &mut self.nodes[node].replicas[partition];
            let leader_epoch = replica.leader().map_or(LeaderEpoch::NONE, Leader::epoch);
            match action {
                Action::Commit { high_watermark } => self.commit(node, partition, high_watermark),
                Action::Push { follower, open, from } => {
                    let follower = number(follower);
                    replica.pushes.retain(|push| push.follower != follower);
                    replica.pushes.push(Push { follower, open, next: index(from), told: Offset::ZERO });
                }
                Action::Copy { follower, open } => {
                    let (log, epochs) = (replica.log.clone(), replica.epochs.clone());
                    let segments = Box::new(Segments { start: replica.start, log, epochs });
                    let body = Body::Copy { leader_epoch, open, segments };
                    self.send(node, number(follower), partition, body);
                }
                Action::Diverged { follower, answer } => {
                    self.say(|| format!("node {node} tells {follower}: diverged, {answer:?}"));
                    self.send(node, number(follower), partition, Body::Diverged(answer));
                }
                Action::Refuse { .. } => {}
                Action::Propose(proposal) => {
                    self.say(|| format!("node {node} proposes {:?}, partition {partition}", proposal.isr));
                    let controller = self.guess_controller();
                    self.send(node, controller, partition, Body::Alter(proposal));
                }
            }
        }
        self.leader_actions = actions;
        self.answer(node, partition);
    }

    /// Gives an event to a follower, and does what it says. `entries`: what came with a frame.
    pub(crate) fn follow(&mut self, node: usize, partition: usize, event: FollowerEvent, entries: &[Entry]) {
        let mut actions = std::mem::take(&mut self.follower_actions);
        self.nodes[node].replicas[partition].step(event, &mut actions);
        self.obey(node, partition, actions, entries);
    }

    fn obey(&mut self, node: usize, partition: usize, mut actions: Vec<FollowerAction>, entries: &[Entry]) {
        self.touch(partition);
        let mut next = 0;
        while let Some(action) = actions.get(next).cloned() {
            next += 1;
            let here = &mut self.nodes[node];
            let replica = &mut here.replicas[partition];
            let Machine::Follows(follower) = &replica.machine else { break };
            let (leader, follows_in) = (number(follower.leader()), follower.epoch());
            match action {
                FollowerAction::Open(open) => {
                    replica.open_sequence = open.id.sequence;
                    self.send(node, leader, partition, Body::Open(open));
                }
                FollowerAction::Append(frame) => {
                    let mut last = replica.log[replica.start..].last().map_or(LeaderEpoch::NONE, |entry| entry.epoch);
                    for entry in entries {
                        if entry.epoch < last {
                            self.violation.get_or_insert_with(|| format!("I7: epochs go back, partition {partition}"));
                        }
                        last = entry.epoch;
                        replica.push(*entry);
                    }
                    replica.compare(&self.truths[partition].committed);
                    replica.step(FollowerEvent::Appended { open: frame.open }, &mut actions);
                }
                FollowerAction::Truncate { to } => {
                    let committed = index(replica.high_watermark).min(self.truths[partition].committed.len());
                    let unclean = here.known[partition].as_ref().map(|known| known.state.unclean_epoch);
                    let known = unclean.is_some_and(|unclean| replica.high_watermark_epoch >= unclean);
                    if known
                        && replica.generation == self.truths[partition].generation
                        && index(to) < committed
                        && self.setup.rules.hold(Rule::NoCutToHighWatermark)
                    {
                        let text = format!("I11: node {node} cuts partition {partition} at {to} below {committed}");
                        self.violation.get_or_insert(text);
                    }
                    replica.cut(index(to));
                    replica.step(FollowerEvent::Truncated, &mut actions);
                    self.counts.truncations += 1;
                    self.say(|| format!("node {node} cuts partition {partition} at {to}"));
                }
                FollowerAction::Trim { before } => replica.trim(index(before)),
                FollowerAction::Acknowledge(ack) => self.send(node, leader, partition, Body::Acked(ack)),
                FollowerAction::Commit { high_watermark } => {
                    (replica.high_watermark, replica.high_watermark_epoch) = (high_watermark, follows_in);
                }
                FollowerAction::Inconsistent { at } => {
                    self.fail(format!("I11: node {node} is to cut committed records of partition {partition} at {at}"));
                }
            }
        }
        actions.clear();
        self.follower_actions = actions;
    }

    /// A leader pushes a few records, or only its high watermark.
    pub(crate) fn pump(&mut self, node: usize, partition: usize) -> bool {
        let replica = &mut self.nodes[node].replicas[partition];
        let Some(leader) = replica.leader() else { return false };
        let (leader_epoch, high_watermark) = (leader.epoch(), leader.high_watermark());
        if replica.pushes.is_empty() {
            return false;
        }
        let at = self.random.below(replica.pushes.len());
        let count = 1 + self.random.below(3);
        let push = &mut replica.pushes[at];
        // Now and then there is only a beat to send.
        if push.next == replica.log.len() && push.told == high_watermark && !self.random.chance(50) {
            return false;
        }
        let base = push.next;
        let end = (base + count).min(replica.log.len());
        (push.next, push.told) = (end, high_watermark);
        let (follower, open) = (push.follower, push.open);
        let (base_offset, end_offset, log_start) = (offset(base), offset(end), offset(replica.start));
        let frame = Frame { leader_epoch, open, base: base_offset, end: end_offset, high_watermark, log_start };
        let entries = replica.log[base..end].to_vec();
        self.lead(node, partition, Event::Sent { follower: id(follower), open, end: offset(end) });
        self.send(node, follower, partition, Body::Pushed(frame, entries));
        self.say(|| format!("node {node} pushes {base}..{end} of partition {partition} to node {follower}"));
        true
    }

    /// A flush begins, or one that runs ends.
    pub(crate) fn flush(&mut self, node: usize, partition: usize) -> bool {
        let here = &mut self.nodes[node];
        let replica = &mut here.replicas[partition];
        if !here.up || here.disk_hangs {
            return false;
        }
        let Some(covered) = replica.flushing.take() else {
            let needed = replica.durable < replica.log.len();
            replica.flushing = needed.then_some(replica.log.len());
            return needed;
        };
        replica.durable = replica.durable.max(covered);
        if replica.lazy_until.is_some_and(|until| replica.durable >= until) {
            (replica.lazy, replica.lazy_until) = (false, None);
        }
        let durable = offset(replica.durable);
        match replica.machine {
            Machine::Leads(_) => self.lead(node, partition, Event::LogChanged),
            Machine::Follows(_) => self.follow(node, partition, FollowerEvent::Flushed, &[]),
            Machine::Rest => {}
        }
        self.say(|| format!("node {node} has flushed partition {partition} up to {durable}"));
        true
    }

    /// Time passes.
    pub(crate) fn tick(&mut self, node: usize, partition: usize) -> bool {
        if self.nodes[node].replicas[partition].leader().is_none() {
            return false;
        }
        self.nodes[node].now += Duration::from_millis(100 * (1 + self.random.below(20) as u64));
        let now = self.nodes[node].now;
        self.lead(node, partition, Event::Tick { now });
        self.say(|| format!("node {node}, partition {partition}: it is {now:?}"));
        true
    }

    /// A follower has heard nothing for too long.
    pub(crate) fn time_out(&mut self, node: usize, partition: usize) -> bool {
        if !matches!(self.nodes[node].replicas[partition].machine, Machine::Follows(_)) {
            return false;
        }
        self.follow(node, partition, FollowerEvent::Broken, &[]);
        self.say(|| format!("node {node} opens partition {partition} again"));
        true
    }

    /// A leader has heard nothing from the controller for too long.
    pub(crate) fn time_out_proposal(&mut self, node: usize, partition: usize) -> bool {
        if self.nodes[node].replicas[partition].leader().is_none() {
            return false;
        }
        self.lead(node, partition, Event::ProposalOver { ineligible: None });
        true
    }

    /// Retention: records that everybody may forget.
    pub(crate) fn trim(&mut self, node: usize, partition: usize) -> bool {
        let replica = &mut self.nodes[node].replicas[partition];
        let up_to = index(replica.high_watermark).min(replica.log.len());
        if matches!(replica.machine, Machine::Rest) || up_to <= replica.start {
            return false;
        }
        replica.trim(replica.start + 1 + self.random.below(up_to - replica.start));
        let log_start = offset(replica.start);
        if matches!(replica.machine, Machine::Leads(_)) {
            self.lead(node, partition, Event::LogChanged);
        }
        self.say(|| format!("node {node} deletes partition {partition} before {log_start}"));
        true
    }
}
