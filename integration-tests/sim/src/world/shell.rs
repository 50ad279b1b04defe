//! What a storage node does with what its replicas say: it writes, sends, flushes and cuts, and tells them of it.

use std::time::Duration;

use walser_model::{LeaderEpoch, Offset};
use walser_replication::{Action, FollowerAction, Frame, Leader, ReplicaAction, ReplicaEvent, Rule, WorkId};

use crate::network::Body;
use crate::records::Entry;
use crate::records::Segments;
use crate::replica::{Led, Push, Work, index, offset};
use crate::store::{id, number};
use crate::world::World;

/// Of a thousand cuts and copies, how many are done at once; the others take their time.
const WORK_AT_ONCE: usize = 500;

/// What comes with an event, beside what decisions are taken on.
#[derive(Debug, Default)]
pub(crate) struct Cargo {
    /// Of a frame.
    pub(crate) entries: Vec<Entry>,
    /// Of a copy that is offered.
    pub(crate) segments: Option<Box<Segments>>,
}

impl World {
    /// Gives an event to a replica, and does what it says.
    pub(crate) fn drive(&mut self, node: usize, partition: usize, event: ReplicaEvent) {
        self.drive_with(node, partition, event, Cargo::default());
    }

    /// The same with what came with the event.
    pub(crate) fn drive_with(&mut self, node: usize, partition: usize, event: ReplicaEvent, mut cargo: Cargo) {
        self.touch(partition);
        let mut actions = std::mem::take(&mut self.actions);
        let here = &mut self.nodes[node];
        here.replicas[partition].step(here.now, event, &mut actions);
        while let Some(action) = actions.pop_front() {
            if let Some(next) = self.carry_out(node, partition, action, &mut cargo) {
                let here = &mut self.nodes[node];
                here.replicas[partition].step(here.now, next, &mut actions);
            }
        }
        self.actions = actions;
        let replica = &self.nodes[node].replicas[partition];
        let (waiting, _) = replica.machine.waiting();
        if waiting as u64 != replica.waited.iter().sum::<u64>() - replica.answered.iter().sum::<u64>()
            || waiting > 0 && replica.leader().is_none()
        {
            self.fail(format!(
                "R25: {waiting} writes wait at node {node} for partition {partition}, which it does not lead"
            ));
        }
    }

    /// Does one thing; gives back what has happened then.
    fn carry_out(
        &mut self,
        node: usize,
        partition: usize,
        action: ReplicaAction<crate::replica::Waiting>,
        cargo: &mut Cargo,
    ) -> Option<ReplicaEvent> {
        let incarnation = self.nodes[node].epoch;
        let replica = &mut self.nodes[node].replicas[partition];
        match action {
            ReplicaAction::Lead { epoch, high_watermark } => {
                replica.pushes.clear();
                replica.shown = high_watermark;
                replica.led = Some(Led { epoch, start: replica.log.len() });
                self.say(|| format!("node {node} leads partition {partition} in epoch {epoch}"));
                self.note_leader(partition, epoch, node, incarnation);
            }
            ReplicaAction::Follow { leader, epoch } => {
                replica.pushes.clear();
                self.say(|| format!("node {node} follows {leader} in partition {partition}, epoch {epoch}"));
            }
            ReplicaAction::Rest => replica.pushes.clear(),
            ReplicaAction::Removed => replica.lose(),
            ReplicaAction::Contradicted(contradiction) => {
                self.fail(format!("I13: node {node}, partition {partition}: {contradiction}"));
            }
            ReplicaAction::GiveUp => {
                let known = replica.machine.partition();
                let leader_epoch = known.map_or(LeaderEpoch::NONE, |(partition, _)| partition.leader_epoch);
                self.say(|| format!("node {node} gives up the lead of partition {partition}"));
                let controller = self.guess_controller();
                self.send(node, controller, partition, Body::GiveUp { node_epoch: incarnation, leader_epoch });
            }
            ReplicaAction::Answer { write, outcome } => self.answered(node, partition, write, outcome),
            ReplicaAction::Leader(action) => self.lead(node, partition, action),
            ReplicaAction::Follower(action) => return self.follow(node, partition, action, cargo),
            ReplicaAction::Commit { high_watermark } => {
                if replica.leader().is_some() {
                    self.commit(node, partition, high_watermark);
                }
            }
            ReplicaAction::Truncate { work, to } => {
                self.check_cut(node, partition, to);
                self.counts.truncations += 1;
                self.say(|| format!("node {node} is to cut partition {partition} at {to}"));
                return self.begin_work(node, partition, work, Work::Cut(index(to)));
            }
            ReplicaAction::Copy { work } => {
                let segments = cargo.segments.take()?;
                self.counts.copies += 1;
                return self.begin_work(node, partition, work, Work::Copy(segments));
            }
        }
        None
    }

    /// Some work is done at once; the other ends with a flush, whatever happens before.
    fn begin_work(&mut self, node: usize, partition: usize, id: WorkId, work: Work) -> Option<ReplicaEvent> {
        self.nodes[node].replicas[partition].begin_work(id, work);
        if self.random.chance(WORK_AT_ONCE) { self.end_work(node, partition) } else { None }
    }

    fn end_work(&mut self, node: usize, partition: usize) -> Option<ReplicaEvent> {
        let replica = &mut self.nodes[node].replicas[partition];
        let leads = replica.leader().is_some();
        let told = replica.end_work()?;
        if leads {
            self.violation.get_or_insert_with(|| format!("R5: node {node} cuts partition {partition}, which it leads"));
        }
        replica.compare(&self.truths[partition].committed);
        Some(told)
    }

    /// What was committed is not cut (I11).
    fn check_cut(&mut self, node: usize, partition: usize, to: Offset) {
        let here = &self.nodes[node];
        let replica = &here.replicas[partition];
        let (high_watermark, seen_in) = replica.machine.high_watermark();
        let committed = index(high_watermark).min(self.truths[partition].committed.len());
        let unclean = here.known[partition].as_ref().map(|known| known.state.unclean_epoch);
        if unclean.is_some_and(|unclean| seen_in >= unclean)
            && replica.generation == self.truths[partition].generation
            && index(to) < committed
            && self.setup.rules.hold(Rule::NoCutToHighWatermark)
        {
            self.fail(format!("I11: node {node} cuts partition {partition} at {to} below {committed}"));
        }
    }

    /// What a leader does.
    fn lead(&mut self, node: usize, partition: usize, action: Action) {
        let replica = &mut self.nodes[node].replicas[partition];
        let leader_epoch = replica.leader().map_or(LeaderEpoch::NONE, Leader::epoch);
        match action {
            Action::Push { follower, open, from } => {
                let follower = number(follower);
                replica.pushes.retain(|push| push.follower != follower);
                replica.pushes.push(Push { follower, open, next: index(from), told: Offset::ZERO });
            }
            Action::Copy { follower, open } => {
                let (log, epochs) = (replica.log.clone(), replica.epochs.clone());
                let segments = Box::new(Segments { start: replica.start, log, epochs });
                self.send(node, number(follower), partition, Body::Copy { leader_epoch, open, segments });
            }
            Action::Diverged { follower, answer } => {
                self.say(|| format!("node {node} tells {follower}: diverged, {answer:?}"));
                self.send(node, number(follower), partition, Body::Diverged(answer));
            }
            Action::Propose(proposal) => {
                self.say(|| format!("node {node} proposes {:?}, partition {partition}", proposal.isr));
                let controller = self.guess_controller();
                self.send(node, controller, partition, Body::Alter(proposal));
            }
            Action::Refuse { .. } | Action::Commit { .. } => {}
        }
    }

    /// What a follower does.
    fn follow(&mut self, node: usize, partition: usize, action: FollowerAction, cargo: &Cargo) -> Option<ReplicaEvent> {
        let replica = &mut self.nodes[node].replicas[partition];
        let leader = number(replica.machine.follower()?.leader());
        match action {
            FollowerAction::Open(open) => self.send(node, leader, partition, Body::Open(open)),
            FollowerAction::Append(frame) => {
                let mut last = replica.log[replica.start..].last().map_or(LeaderEpoch::NONE, |entry| entry.epoch);
                for entry in &cargo.entries {
                    if entry.epoch < last {
                        self.violation.get_or_insert_with(|| format!("I7: epochs go back, partition {partition}"));
                    }
                    last = entry.epoch;
                    replica.push(*entry);
                }
                replica.compare(&self.truths[partition].committed);
                return Some(ReplicaEvent::Appended { open: frame.open });
            }
            FollowerAction::Trim { before } => replica.trim(index(before)),
            FollowerAction::Acknowledge(ack) => self.send(node, leader, partition, Body::Acked(ack)),
            FollowerAction::Inconsistent { at } => {
                self.fail(format!("I11: node {node} is to cut committed records of partition {partition} at {at}"));
            }
            FollowerAction::Commit { .. } | FollowerAction::Truncate { .. } | FollowerAction::Copy => {}
        }
        None
    }

    /// Says something about the partition of which a node has a replica.
    pub(crate) fn send(&mut self, node: usize, to: usize, slot: usize, body: Body) {
        let key = self.nodes[node].key(slot);
        self.network.send(node, to, key, body);
    }

    /// A leader pushes a few records, or only its high watermark.
    pub(crate) fn pump(&mut self, node: usize, partition: usize) -> bool {
        let replica = &mut self.nodes[node].replicas[partition];
        let Some(leader) = replica.leader() else { return false };
        let (leader_epoch, high_watermark) = (leader.epoch(), leader.high_watermark());
        let tombstone_floor = leader.tombstone_floor(&replica.view());
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
        let entries = replica.log[base..end].to_vec();
        let frame = Frame {
            leader_epoch,
            open,
            base: base_offset,
            end: end_offset,
            high_watermark,
            log_start,
            tombstone_floor,
        };
        self.drive(node, partition, ReplicaEvent::Sent { follower: id(follower), open, end: offset(end) });
        self.send(node, follower, partition, Body::Pushed(frame, entries));
        self.say(|| format!("node {node} pushes {base}..{end} of partition {partition} to node {follower}"));
        true
    }

    /// Work ends, or a flush does, or a flush begins.
    pub(crate) fn flush(&mut self, node: usize, partition: usize) -> bool {
        let here = &mut self.nodes[node];
        if !here.up || here.disk_hangs {
            return false;
        }
        if let Some(done) = self.end_work(node, partition) {
            self.drive(node, partition, done);
            self.say(|| format!("node {node} has cut or copied partition {partition}"));
            return true;
        }
        let replica = &mut self.nodes[node].replicas[partition];
        let durable = replica.durable;
        if replica.machine.failed() || !replica.flush() {
            return false;
        }
        self.drive(node, partition, ReplicaEvent::LogChanged);
        self.say(|| format!("node {node} has flushed partition {partition}, durable up to {durable} before"));
        true
    }

    /// Time passes.
    pub(crate) fn tick(&mut self, node: usize, partition: usize) -> bool {
        if self.nodes[node].replicas[partition].leader().is_none() {
            return false;
        }
        self.nodes[node].now += Duration::from_millis(100 * (1 + self.random.below(20) as u64));
        let now = self.nodes[node].now;
        self.drive(node, partition, ReplicaEvent::Tick);
        self.say(|| format!("node {node}, partition {partition}: it is {now:?}"));
        true
    }

    /// A follower has heard nothing for too long.
    pub(crate) fn time_out(&mut self, node: usize, partition: usize) -> bool {
        if self.nodes[node].replicas[partition].machine.follower().is_none() {
            return false;
        }
        self.drive(node, partition, ReplicaEvent::Broken);
        self.say(|| format!("node {node} opens partition {partition} again"));
        true
    }

    /// A leader has heard nothing from the controller for too long.
    pub(crate) fn time_out_proposal(&mut self, node: usize, partition: usize) -> bool {
        if self.nodes[node].replicas[partition].leader().is_none() {
            return false;
        }
        self.drive(node, partition, ReplicaEvent::ProposalOver { ineligible: None });
        true
    }

    /// Retention: records that everybody may forget.
    pub(crate) fn trim(&mut self, node: usize, partition: usize) -> bool {
        let replica = &mut self.nodes[node].replicas[partition];
        let up_to = index(replica.machine.high_watermark().0).min(replica.log.len());
        let rests = replica.machine.leader().is_none() && replica.machine.follower().is_none();
        // A log that is about to be cut or replaced is left alone.
        if rests || replica.machine.work().is_some() || up_to <= replica.start {
            return false;
        }
        replica.trim(replica.start + 1 + self.random.below(up_to - replica.start));
        let log_start = offset(replica.start);
        self.drive(node, partition, ReplicaEvent::LogChanged);
        self.say(|| format!("node {node} deletes partition {partition} before {log_start}"));
        true
    }
}
