//! Coordinators: they handle requests, append what follows, and release answers when it is replicated.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use walser_group::{
    Commit, Config, Event as Written, GatewayId, GroupShard, MemberRef, NoticeContent, Now, OffsetToCommit, Output,
    RemovalCause, TopicChange,
};

use super::{Event, SESSION, World};
use crate::group::DriverRule;
use crate::group::check::Origin;
use crate::group::message::{Reply, Request};
use crate::group::party::{Addressed, Coordinator, Pending, Phase};

impl World {
    fn clock(&self) -> Now {
        Now { monotonic: self.now, wall: i64::try_from(self.now.as_millis()).unwrap_or(0) + 1_000_000_000 }
    }

    /// The controller names another coordinator, which fences the ones before, replays, and serves.
    pub(super) fn elect(&mut self) -> Result<(), String> {
        let config = Config {
            offsets_retention: Duration::from_secs(20),
            empty_group_retention: Duration::from_secs(5),
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
        let handled = self.handle(&mut shard, (to, from), request, &mut out);
        self.coordinators[to].shard = Some(shard);
        let (origin, reply) = handled?;
        self.write(to, out, origin, reply)
    }

    #[expect(clippy::too_many_lines, reason = "one arm per request")]
    fn handle(
        &mut self,
        shard: &mut GroupShard,
        (to, from): (usize, Option<GatewayId>),
        request: Request,
        out: &mut Output,
    ) -> Result<(Origin, Option<Addressed>), String> {
        let now = self.clock();
        let addressed = |of: &MemberRef, reply| {
            let member = of.member.clone();
            from.clone().map(|gateway| Addressed { gateway, member, attachment: None, reply })
        };
        let other = |reply| Ok((Origin::Other, reply));
        match request {
            Request::Join(join) => {
                let of = member_ref(&join);
                let replaces = join.instance.as_ref().and_then(|id| shard.member_of_instance(&join.group, id)).cloned();
                let result = shard.join(now, join, out);
                if result.is_ok() {
                    self.tally.replacements += u64::from(replaces.is_some_and(|holder| holder != of.member));
                    self.hear_member(to, &of);
                }
                other(addressed(&of, Reply::Attached(result)))
            }
            Request::Attach(attach) => {
                let of = attach.member.clone();
                let result = shard.attach(now, attach, out);
                if result.is_ok() {
                    self.tally.resumptions += 1;
                    self.hear_member(to, &of);
                }
                other(addressed(&of, Reply::Attached(result)))
            }
            Request::Heartbeat(of) => {
                let result = shard.heartbeat(now, &of);
                if result.is_ok() {
                    self.coordinators[to].heard.insert(of.member.to_string(), self.now);
                }
                other(addressed(&of, Reply::Current(result)))
            }
            Request::Beat => {
                if let Some(gateway) = &from {
                    shard.gateway_heartbeat(now, gateway);
                    self.coordinators[to].heard.insert(gateway.to_string(), self.now);
                }
                other(None)
            }
            Request::Report(hosted) => {
                if let Some(gateway) = &from {
                    shard.gateway_report(now, gateway, &hosted, out);
                    self.coordinators[to].heard.insert(gateway.to_string(), self.now);
                    self.excuse_unhosted(to, shard, gateway, &hosted);
                }
                other(None)
            }
            Request::Detach(of) => {
                if shard.detach(now, &of, out).is_ok() {
                    self.coordinators[to].excused.insert(of.member);
                }
                other(None)
            }
            Request::Leave(of, keeps) => {
                if shard.leave(now, &of, (keeps, RemovalCause::Left), out).is_ok() {
                    self.coordinators[to].excused.insert(of.member);
                }
                other(None)
            }
            Request::Release(of, released) => {
                let before = shard.describe(&of.group).ok();
                let result = shard.release(now, &of, &released, out);
                if result.is_ok() && !out.events.is_empty() {
                    self.check_released(before.as_ref(), out, &of)?;
                }
                other(addressed(&of, Reply::Current(result)))
            }
            Request::Commit(commit) => {
                let author = commit.author.clone();
                let result = shard.commit(now, commit, out);
                let Some(author) = author else { return Ok((Origin::Simple, None)) };
                let reply = addressed(&author.member, Reply::Committed(author.sequence, result));
                Ok((Origin::Member(author.member, author.epoch), reply))
            }
            Request::Fetch(of, wanted) => {
                let found = wanted.into_iter().map(|(partition, epoch, floor)| {
                    let committed = shard.committed(&of.group, &partition);
                    (partition, epoch, floor, committed.map_or(0, |committed| committed.offset.0))
                });
                other(addressed(&of, Reply::Offsets(found.collect())))
            }
            Request::Reset(group, offset) => {
                let partition = offset.partition;
                // Only back: what was never read cannot be skipped.
                let before = shard.committed(&group, &partition).map_or(0, |committed| committed.offset.0);
                let offset = OffsetToCommit { offset: walser_model::Offset(before.min(offset.offset.0)), ..offset };
                let done = shard.reset_offsets(now, &group, (vec![offset], true), out).is_ok();
                self.tally.resets += u64::from(done);
                Ok((Origin::Reset, None))
            }
            Request::Remove(group, member) => {
                let removed = shard.remove_member(now, &group, &member, out);
                self.tally.refusals += u64::from(removed.is_err());
                other(None)
            }
            Request::Delete(group) => {
                let deleted = shard.delete_group(&group, out);
                self.tally.refusals += u64::from(deleted.is_err());
                other(None)
            }
        }
    }

    /// Batches what a request or a deadline led to. What leads to nothing is answered behind what is on its way.
    fn write(&mut self, to: usize, out: Output, origin: Origin, reply: Option<Addressed>) -> Result<(), String> {
        let notices = out.notices.into_iter().map(|notice| Addressed {
            gateway: notice.gateway,
            member: notice.member,
            attachment: Some(notice.attachment),
            reply: match notice.content {
                NoticeContent::Assignment(current) => Reply::Current(Ok(current)),
                NoticeContent::Removed(_) => Reply::Removed,
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
        let delay = self.millis(6);
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
        batch.replies.into_iter().for_each(|reply| self.send_reply(number, reply));
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

    fn hear_member(&mut self, to: usize, of: &MemberRef) {
        let coordinator = &mut self.coordinators[to];
        coordinator.heard.insert(of.member.to_string(), self.now);
        coordinator.excused.remove(&of.member);
    }

    fn excuse_unhosted(
        &mut self,
        to: usize,
        shard: &GroupShard,
        gateway: &GatewayId,
        hosted: &BTreeSet<(walser_group::GroupId, walser_group::MemberId)>,
    ) {
        for group in shard.groups(None).filter_map(|summary| shard.describe(&summary.group).ok()) {
            let at_gateway = group.members.into_iter().filter(|member| member.gateway.as_ref() == Some(gateway));
            let missing =
                at_gateway.filter(|member| !hosted.contains(&(group.summary.group.clone(), member.member.clone())));
            self.coordinators[to].excused.extend(missing.map(|member| member.member));
        }
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

    /// What a release frees is not read any more by the session that released it.
    fn check_released(
        &self,
        before: Option<&walser_group::GroupDescription>,
        out: &Output,
        of: &MemberRef,
    ) -> Result<(), String> {
        let before = before.and_then(|group| group.members.iter().find(|known| known.member == of.member));
        let after = out.events.iter().find_map(|event| match event {
            Written::Current(_, member, Some(current)) if *member == of.member => Some(current),
            _ => None,
        });
        let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
        for (partition, epoch) in &before.current.revoking {
            let freed = !after.revoking.contains_key(partition);
            let sessions = self.by_member.get(&of.member).into_iter().flatten().map(|number| &self.sessions[*number]);
            let reads = |session: &crate::group::party::Session| {
                let alive = self.gateways[session.gateway].alive && session.phase == Phase::Attached;
                alive
                    && session.of.attachment == of.attachment
                    && session.positions.get(partition).is_some_and(|(assigned, _)| assigned == epoch)
            };
            if freed && sessions.clone().any(reads) {
                return Err(format!("{partition} was freed while {} reads it", of.member));
            }
        }
        Ok(())
    }
}

fn member_ref(join: &walser_group::Join) -> MemberRef {
    MemberRef {
        group: join.group.clone(),
        member: join.member.clone(),
        instance: join.instance.clone(),
        attachment: walser_group::AttachmentNumber(0),
    }
}

/// A commit without a member.
pub(super) fn simple(group: walser_group::GroupId, offset: OffsetToCommit) -> Request {
    Request::Commit(Commit { author: None, group, offsets: vec![offset] })
}
