//! What gateways do for members: attach them, read, commit, release, and tell the coordinator that they live.

use std::time::Duration;

use walser_group::{
    Attach, Commit, CommitAuthor, CurrentAssignment, DetachGrace, GatewayId, GroupEpoch, GroupError, Join,
    OffsetToCommit,
};
use walser_model::{Offset, TopicPartition};

use super::{Event, SESSION, World};
use crate::group::DriverRule;
use crate::group::message::{Hosted, Reply, Request};
use crate::group::party::{Addressed, Gateway, Phase, Session, Unanswered};

/// After which a commit is sent again.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long members may take to release partitions.
const REVOCATION: Duration = Duration::from_secs(8);

impl World {
    pub(super) fn start_gateway(&mut self) {
        let number = self.gateways.len();
        self.gateways.push(Gateway {
            id: format!("gateway-{number}").parse().expect("a valid name"),
            alive: true,
            paused_until: Duration::ZERO,
            coordinator_epoch: 0,
            last_report: Duration::ZERO,
            last_request: self.now,
            last_reply: self.now,
        });
        self.at(self.now, Event::GatewayStep(number));
    }

    /// Every second a gateway is heard, and every few seconds it says which members it has.
    pub(super) fn step_gateway(&mut self, number: usize) {
        if !self.gateways[number].alive {
            return;
        }
        if self.gateways[number].paused_until > self.now {
            self.at(self.gateways[number].paused_until, Event::GatewayStep(number));
            return;
        }
        if self.now >= self.gateways[number].last_report + Duration::from_secs(5) {
            self.gateways[number].last_report = self.now;
            let open = self.sessions.iter().filter(|session| session.gateway == number);
            let open = open.filter(|session| !matches!(session.phase, Phase::Closed { .. }));
            let attaching = self.has(DriverRule::ReportsNameAttaching);
            let named = open.clone().filter(|session| attaching || session.phase != Phase::Attaching);
            let member = |session: &Session| (session.of.group.clone(), session.of.member.clone());
            let hosted = Hosted { named: named.map(member).collect(), open: open.map(member).collect() };
            self.send(number, Request::Report(hosted), false);
        } else {
            self.send(number, Request::Beat, false);
        }
        self.after(Duration::from_secs(1), Event::GatewayStep(number));
    }

    /// A gateway sends a request to the coordinator that it knows; it may be lost, and, if it `repeats`, arrive again,
    /// much later.
    fn send(&mut self, from: usize, request: Request, repeats: bool) {
        let newest = self.coordinators.len() - 1;
        let stale = newest > 0 && self.fault(self.setup.coordinator_faults * 10);
        let to = if stale { newest - 1 } else { newest };
        let gateway = self.gateways[from].id.clone();
        if repeats && self.fault(self.setup.repeats) {
            let late = self.millis(10_000);
            self.after(late, Event::Request(to, Some(gateway.clone()), request.clone()));
        }
        if self.fault(self.setup.losses) {
            return;
        }
        let delay = self.millis(5);
        let at = self.gateways[from].last_request.max(self.now + delay);
        self.gateways[from].last_request = at;
        self.at(at, Event::Request(to, Some(gateway), request));
    }

    /// A coordinator answers, or tells something.
    pub(super) fn send_reply(&mut self, from: usize, addressed: Addressed) {
        if self.fault(self.setup.losses) {
            return;
        }
        let Some(gateway) = self.gateways.iter().position(|gateway| gateway.id == addressed.gateway) else { return };
        let delay = self.millis(5);
        let at = self.gateways[gateway].last_reply.max(self.now + delay);
        self.gateways[gateway].last_reply = at;
        self.at(at, Event::Reply(self.coordinators[from].epoch, addressed));
    }

    /// Something arrives at a gateway.
    pub(super) fn reply(&mut self, epoch: i64, addressed: Addressed) -> Result<(), String> {
        let Some(number) = self.gateways.iter().position(|gateway| gateway.id == addressed.gateway) else {
            return Ok(());
        };
        if self.gateways[number].paused_until > self.now {
            self.at(self.gateways[number].paused_until, Event::Reply(epoch, addressed));
            return Ok(());
        }
        let known = self.gateways[number].coordinator_epoch;
        if !self.gateways[number].alive || epoch < known && self.has(DriverRule::OldCoordinatorsAreIgnored) {
            return Ok(());
        }
        self.gateways[number].coordinator_epoch = known.max(epoch);
        let found = self.by_member.get(&addressed.member).and_then(|sessions| {
            let at_gateway = |session: &&usize| self.sessions[**session].gateway == number;
            sessions.iter().rev().find(at_gateway).copied()
        });
        let Some(session) = found else { return Ok(()) };
        let (phase, attachment) = (&self.sessions[session].phase, self.sessions[session].of.attachment);
        // A session that is still attaching hears of its answer only.
        let for_another = addressed.attachment.is_some_and(|of| of != attachment || *phase != Phase::Attached);
        if matches!(phase, Phase::Closed { .. }) || for_another {
            return Ok(());
        }
        match addressed.reply {
            Reply::Attached(Ok(attached)) if attached.attachment > attachment || *phase != Phase::Attached => {
                let known = &mut self.sessions[session];
                (known.phase, known.of.attachment) = (Phase::Attached, attached.attachment);
                known.sequence = 0;
                known.unanswered = None;
                let (client, token) = (known.client, (known.of.member.clone(), attached.attachment));
                if self.clients[client].session == Some(session) {
                    self.clients[client].token = Some(token);
                }
                self.assigned(session, attached.current);
            }
            Reply::Attached(Ok(_)) => {}
            Reply::Attached(Err(error)) => self.attaching_failed(session, &error),
            Reply::Current(Ok(current)) => self.assigned(session, current),
            Reply::Current(Err(_)) | Reply::Removed => self.close(session, true),
            Reply::Committed(sequence, result) => return self.committed(session, sequence, result),
            Reply::Offsets(offsets) => return self.positioned(session, offsets),
        }
        Ok(())
    }

    fn attaching_failed(&mut self, session: usize, error: &GroupError) {
        // The instance id becomes free with time; the client asks again.
        let in_use = matches!(error, GroupError::InstanceIdInUse { .. });
        if self.sessions[session].phase != Phase::Attached && !in_use {
            self.close(session, true);
        }
    }

    /// The gateway drops a session.
    pub(super) fn close(&mut self, session: usize, fenced: bool) {
        let known = &mut self.sessions[session];
        known.phase = Phase::Closed { fenced };
        known.positions.clear();
        known.unanswered = None;
    }

    fn assigned(&mut self, session: usize, current: CurrentAssignment) {
        let known = &mut self.sessions[session];
        known.positions.retain(|partition, (epoch, _)| current.held_since(partition) == Some(*epoch));
        for (partition, epoch) in &current.assigned {
            known.positions.entry(*partition).or_insert((*epoch, None));
        }
        known.revoking_since = match known.revoking_since {
            _ if current.revoking.is_empty() => None,
            Some(since) => Some(since),
            None => Some(self.now),
        };
        known.current = current;
    }

    fn committed(
        &mut self,
        session: usize,
        sequence: i64,
        result: Result<Vec<(TopicPartition, GroupError)>, GroupError>,
    ) -> Result<(), String> {
        let known = &mut self.sessions[session];
        let answered = known.unanswered.take_if(|unanswered| unanswered.sequence == sequence);
        let Some(unanswered) = answered else { return Ok(()) };
        let group = known.of.group.clone();
        match result {
            Ok(refused) => {
                self.tally.commits += 1;
                self.tally.refusals += refused.len() as u64;
                let taken = unanswered.offsets.iter().filter(|(of, _)| !refused.iter().any(|(not, _)| not == of));
                for (partition, offset) in taken {
                    self.check.acknowledged(&group, *partition, *offset)?;
                }
            }
            Err(GroupError::CommitSuperseded { .. }) => {}
            Err(_) => {
                self.tally.refusals += 1;
                self.close(session, true);
            }
        }
        Ok(())
    }

    fn positioned(
        &mut self,
        session: usize,
        offsets: Vec<(TopicPartition, GroupEpoch, i64, i64)>,
    ) -> Result<(), String> {
        for (partition, epoch, floor, offset) in offsets {
            let known = &mut self.sessions[session];
            let Some(position) = known.positions.get_mut(&partition) else { continue };
            if *position == (epoch, None) {
                *position = (epoch, Some(offset));
                let group = known.of.group.clone();
                self.check.begins(&group, partition, offset, floor)?;
            }
        }
        Ok(())
    }

    /// What a session does every few hundredths of a second.
    pub(super) fn step_session(&mut self, number: usize) {
        let gateway = self.sessions[number].gateway;
        if !self.gateways[gateway].alive || matches!(self.sessions[number].phase, Phase::Closed { .. }) {
            return;
        }
        let pause = self.gateways[gateway].paused_until;
        if pause > self.now {
            self.at(pause, Event::SessionStep(number));
            return;
        }
        let client = self.sessions[number].client;
        if self.clients[client].session != Some(number) {
            self.stream_closed(number);
            return;
        }
        if self.sessions[number].phase == Phase::Attached {
            self.fetch(number);
            self.process(number);
            self.commit(number);
            self.release(number);
            self.beat(number);
        } else if self.now >= self.sessions[number].asked_at + Duration::from_secs(self.setup.ask_again) {
            self.ask(number);
        }
        let next = Duration::from_millis(20) + self.millis(60);
        self.after(next, Event::SessionStep(number));
    }

    /// Joins, or attaches with a token.
    pub(super) fn ask(&mut self, number: usize) {
        let session = &mut self.sessions[number];
        session.asked_at = self.now;
        let client = &self.clients[session.client];
        let gateway: Option<GatewayId> = Some(self.gateways[session.gateway].id.clone());
        let subscription = client.subscription.clone();
        let request = match session.phase {
            Phase::Attaching => {
                let (member, revocation_timeout) = (session.of.clone(), Some(REVOCATION));
                Request::Attach(Attach { member, subscription: Some(subscription), revocation_timeout, gateway })
            }
            _ => Request::Join(Join {
                group: session.of.group.clone(),
                member: session.of.member.clone(),
                instance: session.of.instance.clone(),
                client_id: String::new(),
                client_address: String::new(),
                subscription,
                session_timeout: SESSION,
                revocation_timeout: REVOCATION,
                gateway,
            }),
        };
        self.send(self.sessions[number].gateway, request, true);
    }

    /// The client is gone from a stream. A commit that was in flight may still be sent.
    fn stream_closed(&mut self, number: usize) {
        if self.sessions[number].phase == Phase::Attached {
            if self.random.chance(300)
                && let Some(unanswered) = self.sessions[number].unanswered.clone()
            {
                self.send_commit(number, &unanswered);
            }
            let (gateway, of) = (self.sessions[number].gateway, self.sessions[number].of.clone());
            let grace = self.random.one_of(&[DetachGrace::Brief, DetachGrace::Brief, DetachGrace::Session]);
            self.send(gateway, Request::Detach(of, grace), true);
        }
        self.close(number, false);
    }

    fn fetch(&mut self, number: usize) {
        let session = &self.sessions[number];
        let missing = session.positions.iter().filter(|(_, (_, position))| position.is_none());
        let group = &session.of.group;
        let wanted: Vec<_> =
            missing.map(|(partition, (epoch, _))| (*partition, *epoch, self.check.floor(group, *partition))).collect();
        if !wanted.is_empty() {
            let (gateway, of) = (session.gateway, session.of.clone());
            self.send(gateway, Request::Fetch(of, wanted), false);
        }
    }

    fn process(&mut self, number: usize) {
        let session = &mut self.sessions[number];
        for (partition, (_, position)) in &mut session.positions {
            let end = self.ends.get(partition).copied().unwrap_or(0);
            let Some(next) = position.filter(|next| *next < end && !session.current.revoking.contains_key(partition))
            else {
                continue;
            };
            let count = 1 + self.random.below(20) as i64;
            let to = end.min(next + count);
            self.check.processes(&session.of.group, *partition, to);
            self.tally.processed += u64::try_from(to - next).unwrap_or(0);
            *position = Some(to);
        }
    }

    fn commit(&mut self, number: usize) {
        let session = &mut self.sessions[number];
        if let Some(unanswered) = &mut session.unanswered
            && self.now < unanswered.sent_at + PATIENCE
            && !self.random.chance(100)
        {
            return;
        }
        // What is not answered is repeated, or overtaken by a later one.
        let repeated = session.unanswered.take().filter(|_| self.random.chance(300));
        let offsets = || session.positions.iter().filter_map(|(partition, (_, next))| Some((*partition, (*next)?)));
        let mut unanswered = match repeated {
            Some(unanswered) => unanswered,
            None => {
                session.sequence += 1;
                let (sequence, epoch) = (session.sequence, session.current.epoch);
                Unanswered { sequence, epoch, offsets: offsets().collect(), sent_at: self.now }
            }
        };
        unanswered.sent_at = self.now;
        if unanswered.offsets.iter().any(|(partition, next)| self.check.floor(&session.of.group, *partition) != *next) {
            session.unanswered = Some(unanswered.clone());
            self.send_commit(number, &unanswered);
        }
    }

    fn send_commit(&mut self, number: usize, unanswered: &Unanswered) {
        let session = &self.sessions[number];
        let offset = |(partition, offset): &(TopicPartition, i64)| OffsetToCommit {
            partition: *partition,
            offset: Offset(*offset),
            leader_epoch: None,
            metadata: String::new(),
        };
        let author =
            CommitAuthor { member: session.of.clone(), epoch: unanswered.epoch, sequence: unanswered.sequence };
        let offsets = unanswered.offsets.iter().map(offset).collect();
        let commit = Commit { author: Some(author), group: session.of.group.clone(), offsets };
        self.send(session.gateway, Request::Commit(commit), true);
    }

    fn release(&mut self, number: usize) {
        let session = &mut self.sessions[number];
        let after = self.clients[session.client].confirms_after;
        if session.revoking_since.is_some_and(|since| self.now >= since + after) {
            let released = session.current.revoking.clone();
            session.positions.retain(|partition, _| !released.contains_key(partition));
            let (gateway, of) = (session.gateway, session.of.clone());
            self.tally.releases += released.len() as u64;
            self.send(gateway, Request::Release(of, released), true);
        }
    }

    fn beat(&mut self, number: usize) {
        let session = &mut self.sessions[number];
        if self.now >= session.last_beat + Duration::from_secs(self.setup.member_beats) {
            session.last_beat = self.now;
            let (gateway, of) = (session.gateway, session.of.clone());
            self.send(gateway, Request::Heartbeat(of), true);
        }
    }
}
