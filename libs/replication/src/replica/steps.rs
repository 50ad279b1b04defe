//! What a replica makes of an event.

use std::time::Duration;

use walser_model::{Durability, LeaderEpoch, NodeId, Offset};

use super::{KnownMetadata, Machine, Replica, ReplicaAction, ReplicaActions, ReplicaEvent, WorkId, WriteOutcome};
use crate::control::ReplicaIntegrity;
use crate::{
    Action, Event, Follower, FollowerAction, FollowerEvent, FollowerStart, Leader, ReplicaLog, Role, Rule, Start,
};

impl<W> Replica<W> {
    /// Takes an event; adds what is to be done, in this order. `now`: monotonic time.
    pub fn step(&mut self, now: Duration, event: ReplicaEvent, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        self.now = self.now.max(now);
        match event {
            ReplicaEvent::Registered { node_epoch } => self.registered(node_epoch, log, out),
            ReplicaEvent::Unregistered => {
                self.registered = false;
                self.settle(log, out);
            }
            ReplicaEvent::Observed { revision } => {
                if revision > self.revision {
                    self.revision = revision;
                    self.settle(log, out);
                }
            }
            ReplicaEvent::Installed { partition, partition_epoch } => {
                if self.known.as_ref().is_none_or(|known| known.epoch < partition_epoch) {
                    self.known = Some(KnownMetadata { partition, epoch: partition_epoch });
                    self.settle(log, out);
                }
            }
            ReplicaEvent::Configured { durability } => self.configured(durability, log, out),
            ReplicaEvent::LogChanged => self.log_changed(log, out),
            ReplicaEvent::LogFailed => self.log_failed(log, out),
            ReplicaEvent::LogDamaged => self.log_damaged(log, out),
            ReplicaEvent::Repaired => self.repaired(log, out),
            ReplicaEvent::WorkDone { work } => self.work_done(work, log, out),
            ReplicaEvent::Replaced { work } => {
                self.failed &= self.work != Some(work);
                self.work_done(work, log, out);
            }
            ReplicaEvent::Tick => {
                self.lead(Event::Tick { now: self.now }, log, out);
                self.give_up(log, out);
            }
            ReplicaEvent::Opened(open) => self.lead(Event::Opened(open), log, out),
            ReplicaEvent::Sent { follower, open, end } => self.lead(Event::Sent { follower, open, end }, log, out),
            ReplicaEvent::Acked(ack) => self.lead(Event::Acked(ack), log, out),
            ReplicaEvent::Heard { follower, node_epoch } => self.lead(Event::Heard { follower, node_epoch }, log, out),
            ReplicaEvent::Closed { follower, open } => self.lead(Event::Closed { follower, open }, log, out),
            ReplicaEvent::ProposalOver { ineligible } => self.lead(Event::ProposalOver { ineligible }, log, out),
            ReplicaEvent::Pushed(frame) => self.follow(FollowerEvent::Pushed(frame), log, out),
            ReplicaEvent::Appended { open } => self.follow(FollowerEvent::Appended { open }, log, out),
            ReplicaEvent::Diverged(answer) => self.follow(FollowerEvent::Diverged(answer), log, out),
            ReplicaEvent::CopyOffered { leader_epoch, open } => {
                self.follow(FollowerEvent::CopyOffered { leader_epoch, open }, log, out);
            }
            ReplicaEvent::Broken => self.follow(FollowerEvent::Broken, log, out),
        }
    }

    /// A registration records what was lost before it: it is told once.
    fn registered(&mut self, node_epoch: i64, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        if self.node_epoch.is_some_and(|known| known > node_epoch || known == node_epoch && self.registered) {
            return;
        }
        if self.node_epoch.replace(node_epoch) != Some(node_epoch) {
            self.open_sequence = self.first_open;
        }
        self.registered = true;
        if self.integrity != ReplicaIntegrity::Damaged {
            self.integrity = ReplicaIntegrity::Intact;
        }
        self.settle(log, out);
    }

    /// An unclean stop is told before the page cache counts, and until it counts no more.
    fn configured(&mut self, durability: Durability, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        if std::mem::replace(&mut self.durability, durability) == durability {
            return;
        }
        let lazy = durability == Durability::PageCache;
        if lazy {
            (self.lazy, self.lazy_until) = (true, None);
        } else if self.lazy {
            self.lazy_until = Some(log.end());
            self.note_flushed(log);
        }
        self.lead(Event::Configured { durability }, log, out);
        self.follow(FollowerEvent::Configured { lazy }, log, out);
    }

    fn note_flushed(&mut self, log: &impl ReplicaLog) {
        if self.lazy_until.is_some_and(|until| log.durable() >= until.min(log.end())) {
            (self.lazy, self.lazy_until) = (false, None);
        }
    }

    fn log_changed(&mut self, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        self.note_flushed(log);
        self.lead(Event::LogChanged, log, out);
        self.follow(FollowerEvent::Flushed, log, out);
        self.answer(log, out);
    }

    /// Whoever waits is told, and the controller finds somebody else: what is in this log is kept as it is.
    fn log_failed(&mut self, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        self.answer_all(WriteOutcome::LogFailed, out);
        match self.machine {
            // It goes on for readers, until there is another one.
            Machine::Leads(_) => self.give_up(log, out),
            // A copy that takes its place goes on in this leader epoch: nothing else would bring another one.
            Machine::Follows(_) if self.work.is_some() => self.give_up(log, out),
            Machine::Rests | Machine::Follows(_) => {
                self.rest(out);
                self.give_up(log, out);
            }
        }
    }

    /// What waits is told where others have it: they go on without this replica. Where nobody else does, people decide.
    fn log_damaged(&mut self, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        match self.machine {
            Machine::Leads(_) if self.known.as_ref().is_some_and(|known| known.partition.isr.len() > 1) => {
                self.answer_all(WriteOutcome::LogFailed, out);
                self.give_up(log, out);
            }
            Machine::Leads(_) => {}
            Machine::Rests | Machine::Follows(_) => self.settle(log, out),
        }
    }

    /// Asks for another leader, where there can be one, until there is: the log of this one has failed or is damaged, or it
    /// cannot lead in the epoch of the metadata. A follower with a damaged log asks not to be counted, and for a leader epoch
    /// in which its log can be replaced; so does one with page cache not to be counted whose log has failed.
    fn give_up(&mut self, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        let Some(known) = self.known.as_ref().filter(|known| !known.alone()) else { return };
        let wanted = match &self.machine {
            // Whoever is eligible can help once it is here; until then this one goes on with what can be read.
            Machine::Leads(leader) => {
                (self.failed || log.damaged()) && (known.partition.isr.len() > 1 || leader.eligible_opened())
            }
            // Work on a log that has failed may never end.
            Machine::Rests | Machine::Follows(_) if self.work.is_some() && !self.failed => false,
            Machine::Rests | Machine::Follows(_) => match self.role() {
                // A restart can help, where there is nobody else.
                Role::Lead => !self.failed || known.others_count(self.node),
                // Its log is replaced in the next leader epoch, which nothing else need bring.
                Role::Follow if log.damaged() => {
                    known.counts(self.node) || matches!(self.machine, Machine::Rests) && !self.failed
                }
                // What has counted from the page cache may be lost.
                Role::Follow => self.failed && self.lazy && known.counts(self.node),
                // As soon as it can it would lead without those who are eligible as well.
                Role::Rest => self.failed && self.lazy && known.counts(self.node) && known.others_count(self.node),
                Role::Gone => false,
            },
        };
        if wanted && self.rules.hold(Rule::LeadIsGivenUp) {
            out.push_back(ReplicaAction::GiveUp);
        }
    }

    /// What was given up is gone also for whoever waited for it.
    fn repaired(&mut self, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        self.high_watermark = self.high_watermark.min(log.end());
        self.failed = false;
        // The leader epoch of the repair says that nobody relies on what was given up.
        self.integrity = ReplicaIntegrity::Intact;
        self.rest(out);
        self.settle(log, out);
    }

    /// What was asked for, and then what the metadata has said meanwhile.
    fn work_done(&mut self, work: WorkId, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        if self.work != Some(work) {
            return;
        }
        self.work = None;
        if self.failed {
            self.rest(out);
        }
        self.note_flushed(log);
        self.settle(log, out);
        self.follow(FollowerEvent::WorkDone, log, out);
    }

    /// Becomes what the metadata says, unless work is under way: it does when that ends.
    fn settle(&mut self, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        if self.work.is_some() && self.rules.hold(Rule::WorkHoldsRoles) {
            return;
        }
        let role = self.role();
        let Some(known) = &self.known else { return };
        let (leader_epoch, leader) = (known.partition.leader_epoch, known.partition.leader);
        // An only replica has nobody with whom it could have been anything in that epoch.
        let later = self.begun < self.node_epoch.map(|node_epoch| (leader_epoch, node_epoch));
        let fresh = known.alone() || later;
        match (role, &self.machine) {
            (Role::Lead, Machine::Leads(leader))
                if leader.epoch() == leader_epoch && Some(leader.node_epoch()) == self.node_epoch =>
            {
                let (partition, partition_epoch) = (known.partition.clone(), known.epoch);
                self.lead(Event::Installed { partition, partition_epoch }, log, out);
            }
            (Role::Lead, _) if fresh => self.begin_to_lead(log, out),
            // Its log is replaced once nobody counts on it. Nor does the leader of an epoch count on who has not opened in it.
            (Role::Follow, machine)
                if log.damaged() && (known.counts(self.node) || !fresh && !machine.replaces_log()) =>
            {
                self.rest(out);
                self.give_up(log, out);
            }
            (Role::Follow, Machine::Follows(follower))
                if follower.epoch() == leader_epoch && Some(follower.open().node_epoch) == self.node_epoch => {}
            (Role::Follow, _) if fresh && !self.failed => {
                if let Some(leader) = leader {
                    self.begin_to_follow(leader, log, out);
                }
            }
            (Role::Rest | Role::Follow, _) => self.rest(out),
            (Role::Lead, _) => {
                self.rest(out);
                self.give_up(log, out);
            }
            (Role::Gone, _) => {
                self.rest(out);
                (self.high_watermark, self.high_watermark_epoch) = (Offset::ZERO, LeaderEpoch::NONE);
                (self.lazy, self.lazy_until) = (false, None);
                out.push_back(ReplicaAction::Removed);
            }
        }
    }

    /// Stops whatever runs: what waits for a leader has lost it.
    fn rest(&mut self, out: &mut ReplicaActions<W>) {
        if !matches!(std::mem::take(&mut self.machine), Machine::Rests) {
            out.push_back(ReplicaAction::Rest);
        }
        self.answer_all(WriteOutcome::LeaderLost, out);
    }

    fn begin_to_lead(&mut self, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        let (Some(known), Some(node_epoch)) = (&self.known, self.node_epoch) else { return };
        let (partition, partition_epoch) = (known.partition.clone(), known.epoch);
        self.rest(out);
        self.begun = Some((partition.leader_epoch, node_epoch));
        self.lazy |= self.durability == Durability::PageCache;
        let start = Start {
            node: self.node,
            node_epoch,
            partition,
            partition_epoch,
            durability: self.durability,
            high_watermark: self.high_watermark,
            high_watermark_epoch: self.high_watermark_epoch,
            now: self.now,
            lag_max: self.lag_max,
            rules: self.rules,
        };
        match Leader::start(start, log) {
            Ok(leader) => {
                let (epoch, high_watermark) = (leader.epoch(), leader.high_watermark());
                (self.high_watermark, self.high_watermark_epoch) = (high_watermark, epoch);
                self.machine = Machine::Leads(Box::new(leader));
                out.push_back(ReplicaAction::Lead { epoch, high_watermark });
                self.lead(Event::LogChanged, log, out);
            }
            Err(contradiction) => out.push_back(ReplicaAction::Contradicted(contradiction)),
        }
        self.give_up(log, out);
    }

    fn begin_to_follow(&mut self, leader: NodeId, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        let (Some(known), Some(node_epoch)) = (&self.known, self.node_epoch) else { return };
        let (leader_epoch, unclean_epoch) = (known.partition.leader_epoch, known.partition.unclean_epoch);
        self.rest(out);
        self.begun = Some((leader_epoch, node_epoch));
        let lazy = self.durability == Durability::PageCache;
        self.lazy |= lazy;
        let start = FollowerStart {
            node: self.node,
            node_epoch,
            leader,
            leader_epoch,
            open_sequence: self.open_sequence,
            high_watermark: self.high_watermark,
            high_watermark_epoch: self.high_watermark_epoch,
            unclean_epoch,
            lazy,
            rules: self.rules,
        };
        out.push_back(ReplicaAction::Follow { leader, epoch: leader_epoch });
        let mut actions = std::mem::take(&mut self.follower_actions);
        let follower = Follower::start(start, log, &mut actions);
        self.high_watermark = follower.high_watermark();
        self.machine = Machine::Follows(Box::new(follower));
        self.pass_on_follower(actions, out);
    }

    /// Gives an event to the leader, if one runs.
    fn lead(&mut self, event: Event, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        let Machine::Leads(leader) = &mut self.machine else { return };
        let epoch = leader.epoch();
        leader.step(event, log, &mut self.leader_actions);
        for action in self.leader_actions.drain(..) {
            if let Action::Commit { high_watermark } = action {
                (self.high_watermark, self.high_watermark_epoch) = (high_watermark, epoch);
                out.push_back(ReplicaAction::Commit { high_watermark });
            } else {
                out.push_back(ReplicaAction::Leader(action));
            }
        }
        self.answer(log, out);
    }

    /// Answers whoever knows now what became of its write.
    fn answer(&mut self, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        if self.waiters.is_empty() {
            return;
        }
        let Machine::Leads(leader) = &self.machine else { return self.answer_all(WriteOutcome::LeaderLost, out) };
        let overdue = self.now.checked_sub(self.wait_max);
        while let Some((write, outcome)) = self.waiters.next_answer(leader, log, overdue) {
            out.push_back(ReplicaAction::Answer { write, outcome });
        }
    }

    fn answer_all(&mut self, outcome: WriteOutcome, out: &mut ReplicaActions<W>) {
        while let Some((write, outcome)) = self.waiters.pop(outcome) {
            out.push_back(ReplicaAction::Answer { write, outcome });
        }
    }

    /// Gives an event to the follower, if one runs.
    fn follow(&mut self, event: FollowerEvent, log: &impl ReplicaLog, out: &mut ReplicaActions<W>) {
        let Machine::Follows(follower) = &mut self.machine else { return };
        let mut actions = std::mem::take(&mut self.follower_actions);
        follower.step(event, log, &mut actions);
        self.pass_on_follower(actions, out);
    }

    fn pass_on_follower(&mut self, mut actions: Vec<FollowerAction>, out: &mut ReplicaActions<W>) {
        let Machine::Follows(follower) = &self.machine else { return };
        let epoch = follower.epoch();
        self.open_sequence = follower.open().sequence;
        for action in actions.drain(..) {
            out.push_back(match action {
                FollowerAction::Commit { high_watermark } => {
                    (self.high_watermark, self.high_watermark_epoch) = (high_watermark, epoch);
                    ReplicaAction::Commit { high_watermark }
                }
                FollowerAction::Truncate { to } => ReplicaAction::Truncate { work: self.begin_work(), to },
                FollowerAction::Copy => ReplicaAction::Copy { work: self.begin_work() },
                other => ReplicaAction::Follower(other),
            });
        }
        self.follower_actions = actions;
    }

    fn begin_work(&mut self) -> WorkId {
        self.last_work += 1;
        let work = WorkId(self.last_work);
        self.work = Some(work);
        work
    }
}
