//! Coordinators: they handle requests, append what follows, and release answers when it is replicated.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use walser_group::{
    Config, Event as Written, GatewayId, GroupShard, NoticeContent, Now, Output, RemovalCause, TopicChange,
};

use super::{Event, SESSION, World};
use crate::group::DriverRule;
use crate::group::check::Origin;
use crate::group::message::{Reply, Request};
use crate::group::party::{Addressed, Coordinator, Pending};

impl World {
    pub(super) fn clock(&self) -> Now {
        Now { monotonic: self.now, wall: i64::try_from(self.now.as_millis()).unwrap_or(0) + 1_000_000_000 }
    }

    /// The controller names another coordinator, which fences the ones before, replays, and serves.
    pub(super) fn elect(&mut self) -> Result<(), String> {
        let config = Config {
            offsets_retention: Duration::from_secs(20),
            empty_group_retention: Duration::from_secs(5),
            start_grace: Duration::from_secs(2),
            rules: self.setup.rules,
            ..Config::default()
        };
        let epoch = self.coordinators.len() as i64 + 1;
        let mut shard = GroupShard::new(config);
        let compacted = self.random.chance(500);
        self.log.writer_epoch = epoch;
        self.log.replay(compacted, &mut shard).map_err(|error| error.to_string())?;
        let mut coordinator = Coordinator {
            epoch,
            shard: None,
            paused_until: Duration::ZERO,
            pending: VecDeque::new(),
            appended: 0,
            last_append: self.now,
            tick_at: None,
            began: self.now,
            heard: BTreeMap::new(),
            excused: BTreeSet::new(),
        };
        let mut out = Output::default();
        shard.start(self.clock(), self.topic_changes(), &mut out);
        if let Some(Written::Member(_, member, _)) =
            out.events.iter().find(|event| matches!(event, Written::Member(..)))
        {
            return Err(format!("a takeover has changed member {member}"));
        }
        for group in shard.groups(None).filter_map(|summary| shard.describe(&summary.group).ok()) {
            let released = group.members.into_iter().filter(|member| member.gateway.is_none());
            coordinator.excused.extend(released.map(|member| member.member));
        }
        coordinator.shard = Some(shard);
        self.coordinators.push(coordinator);
        self.tally.takeovers += u64::from(epoch > 1);
        let number = self.coordinators.len() - 1;
        self.write(number, out, Origin::Other, None)
    }

    /// A request arrives.
    pub(super) fn arrive(&mut self, to: usize, from: Option<GatewayId>, request: Request) -> Result<(), String> {
        if let Some(until) = self.paused(to) {
            self.at(until, Event::Request(to, from, request));
            return Ok(());
        }
        let Some(mut shard) = self.coordinators[to].shard.take() else { return Ok(()) };
        let mut out = Output::default();
        let handled = self.handle(&mut shard, (to, from.as_ref()), request, &mut out);
        self.coordinators[to].shard = Some(shard);
        let (origin, reply) = handled?;
        self.write(to, out, origin, reply)
    }

    /// Batches what a request or a deadline led to. What leads to nothing is answered behind what is on its way.
    fn write(&mut self, to: usize, out: Output, origin: Origin, reply: Option<Addressed>) -> Result<(), String> {
        let notices = out.notices.into_iter().map(|notice| Addressed {
            gateway: notice.gateway,
            member: notice.member,
            attachment: Some(notice.attachment),
            reply: match notice.content {
                NoticeContent::Assignment(current) => Reply::Current(Ok(current)),
                NoticeContent::Removed(_) | NoticeContent::Superseded => Reply::Removed,
            },
        });
        let replies: Vec<Addressed> = reply.into_iter().chain(notices).collect();
        let waits = self.has(DriverRule::AnswersWait);
        if !waits || out.events.is_empty() && self.coordinators[to].pending.is_empty() {
            replies.iter().for_each(|reply| self.send_reply(to, reply.clone()));
        }
        let replies = if waits { replies } else { Vec::new() };
        if !out.events.is_empty() {
            self.coordinators[to].pending.push_back(Pending { events: out.events, origin, replies });
            let delay = self.millis(4);
            let arrival = self.coordinators[to].last_append.max(self.now + delay);
            self.coordinators[to].last_append = arrival;
            self.at(arrival, Event::Append(to));
        } else if let Some(last) = self.coordinators[to].pending.back_mut() {
            last.replies.extend(replies);
        }
        self.schedule_tick(to);
        Ok(())
    }

    /// A batch arrives at the log.
    pub(super) fn append(&mut self, number: usize) -> Result<(), String> {
        let coordinator = &mut self.coordinators[number];
        let Some(batch) = coordinator.pending.get(coordinator.appended) else { return Ok(()) };
        let fenced = coordinator.epoch < self.log.writer_epoch;
        let (events, origin) = (batch.events.clone(), batch.origin.clone());
        coordinator.appended += 1;
        self.tally.zombie_appends += u64::from(fenced);
        if fenced && self.has(DriverRule::WritersAreFenced) || self.fault(self.setup.losses / 20) {
            self.drop_shard(number);
            return Ok(());
        }
        self.log.append(events.iter().map(Written::encode).collect());
        self.check.accepted(&events, &origin)?;
        let delay = self.millis(6) + self.log_slow_until.saturating_sub(self.now);
        let coordinator = &mut self.coordinators[number];
        let at = coordinator.last_append.max(self.now + delay);
        coordinator.last_append = at;
        self.at(at, Event::Replicated(number));
        Ok(())
    }

    /// A coordinator hears that its oldest batch is replicated, and releases the answers.
    pub(super) fn replicated(&mut self, number: usize) -> Result<(), String> {
        if let Some(until) = self.paused(number) {
            self.at(until, Event::Replicated(number));
            return Ok(());
        }
        let coordinator = &mut self.coordinators[number];
        let Some(batch) = coordinator.pending.pop_front() else { return Ok(()) };
        coordinator.appended -= 1;
        let settled = coordinator.pending.is_empty() && coordinator.epoch == self.log.writer_epoch;
        batch.replies.into_iter().for_each(|reply| self.send_reply(number, reply));
        if settled && self.random.chance(5) { self.check_replay(number) } else { Ok(()) }
    }

    /// A replay of what was accepted, whole or compacted, gives the state of the coordinator that wrote it.
    fn check_replay(&mut self, number: usize) -> Result<(), String> {
        let Some(shard) = &self.coordinators[number].shard else { return Ok(()) };
        for compacted in [false, true] {
            let mut replayed = GroupShard::new(Config::default());
            self.log.replay(compacted, &mut replayed).map_err(|error| error.to_string())?;
            if !shard.same_state(&replayed) {
                return Err(format!("a replay differs from the live state; compacted: {compacted}"));
            }
        }
        Ok(())
    }

    pub(super) fn hear_of_topics(&mut self, number: usize, changes: Vec<TopicChange>) -> Result<(), String> {
        if let Some(until) = self.paused(number) {
            self.at(until, Event::Topics(number, changes));
            return Ok(());
        }
        let (now, mut out) = (self.clock(), Output::default());
        let Some(shard) = self.coordinators[number].shard.as_mut() else { return Ok(()) };
        shard.topics_changed(now, changes, &mut out);
        self.write(number, out, Origin::Other, None)
    }

    pub(super) fn tick_coordinator(&mut self, number: usize) -> Result<(), String> {
        if let Some(until) = self.paused(number) {
            self.at(until, Event::CoordinatorTick(number));
            return Ok(());
        }
        let now = self.clock();
        self.coordinators[number].tick_at = None;
        while let Some(shard) = self.coordinators[number].shard.as_mut()
            && shard.next_deadline().is_some_and(|due| due <= now.monotonic)
        {
            let mut out = Output::default();
            shard.tick(now, &mut out);
            self.check_expired(number, &out)?;
            self.write(number, out, Origin::Other, None)?;
        }
        self.schedule_tick(number);
        Ok(())
    }

    fn schedule_tick(&mut self, number: usize) {
        let coordinator = &mut self.coordinators[number];
        let Some(due) = coordinator.shard.as_ref().and_then(GroupShard::next_deadline) else { return };
        if coordinator.tick_at.is_none_or(|at| due < at) {
            coordinator.tick_at = Some(due);
            self.at(due, Event::CoordinatorTick(number));
        }
    }

    /// A coordinator whose append failed, or that died, answers nothing any more.
    pub(super) fn drop_shard(&mut self, number: usize) {
        let coordinator = &mut self.coordinators[number];
        (coordinator.shard, coordinator.appended) = (None, 0);
        coordinator.pending.clear();
    }

    fn paused(&self, number: usize) -> Option<Duration> {
        let until = self.coordinators[number].paused_until;
        (until > self.now).then_some(until)
    }

    /// A session ends only when nothing was heard of the member, nor of its gateway, for the session timeout.
    fn check_expired(&mut self, number: usize, out: &Output) -> Result<(), String> {
        let coordinator = &self.coordinators[number];
        for notice in &out.notices {
            if notice.content != NoticeContent::Removed(RemovalCause::SessionExpired) {
                continue;
            }
            self.tally.expiries += 1;
            let heard = |name: &str| coordinator.heard.get(name).copied().unwrap_or(coordinator.began);
            let heard = heard(notice.gateway.as_str()).max(heard(notice.member.as_str()));
            if !coordinator.excused.contains(&notice.member) && self.now < heard + SESSION {
                let (ago, member) = (self.now.saturating_sub(heard), &notice.member);
                return Err(format!("the session of {member} ended, and it was heard {ago:?} ago"));
            }
        }
        Ok(())
    }
}
