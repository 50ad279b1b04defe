//! What clients do: connect, leave in one way or another, and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use walser_group::{Assignor, AttachmentNumber, CurrentAssignment, MemberRef, Subscription};

use super::{Event, World};
use crate::group::message::Request;
use crate::group::party::{Client, Phase, Session};

impl World {
    pub(super) fn start_client(&mut self, number: usize) {
        let (topics, pattern) = self.random.one_of(&[(&[0][..], "t0"), (&[0, 1], "t[01]"), (&[1, 2], "t1|.2")]);
        let names = topics.iter().map(|topic| self.topics[*topic].name.parse().expect("a valid name"));
        let by_pattern = self.random.chance(300);
        let subscription = Subscription {
            topics: if by_pattern { BTreeSet::new() } else { names.collect() },
            pattern: by_pattern.then(|| pattern.to_owned()),
            assignor: self.random.one_of(&[None, Some(Assignor::Uniform), Some(Assignor::Range)]),
        };
        let instance = self.random.chance(300).then(|| format!("i{number}").parse().expect("a valid name"));
        let confirms_after = self.random.one_of(&[0, 0, 500, 5_000, 3_600_000]);
        self.clients.push(Client {
            group: format!("g{}", number % 2).parse().expect("a valid name"),
            topics: topics.to_vec(),
            instance,
            subscription,
            confirms_after: Duration::from_millis(confirms_after),
            session: None,
            token: None,
            away_until: Duration::ZERO,
            members: 0,
        });
        self.at(self.now, Event::ClientStep(number));
    }

    pub(super) fn step_client(&mut self, number: usize) {
        let next = Duration::from_millis(50) + self.millis(100);
        self.after(next, Event::ClientStep(number));
        let Some(session) = self.clients[number].session else {
            if self.now >= self.clients[number].away_until || self.is_calm() {
                self.connect(number);
            }
            return;
        };
        let gateway = &self.gateways[self.sessions[session].gateway];
        let (alive, silent_until) = (gateway.alive, gateway.paused_until);
        if let Phase::Closed { fenced } = self.sessions[session].phase {
            self.disconnect(number, !fenced);
        } else if !alive || silent_until > self.now + Duration::from_millis(500) {
            self.disconnect(number, true);
        } else if self.fault(self.setup.departures) {
            self.depart(number, session);
        }
    }

    /// A client gives a stream up.
    fn disconnect(&mut self, number: usize, keeps_token: bool) {
        let pause = self.millis(100);
        let client = &mut self.clients[number];
        client.session = None;
        client.away_until = self.now + pause;
        if !keeps_token {
            client.token = None;
        }
    }

    /// A client leaves, is reset, dies, or joins as somebody else while its gateway believes it there.
    fn depart(&mut self, number: usize, session: usize) {
        let (gateway, of) = (self.sessions[session].gateway, self.sessions[session].of.clone());
        let attached = self.sessions[session].phase == Phase::Attached;
        let away = self.random.one_of(&[0, 200, 2_000, 10_000, 40_000]);
        match self.random.below(4) {
            kind @ (0 | 1) if attached => {
                let repeats = self.random.chance(500);
                self.leave(gateway, of, kind == 1, repeats);
                self.close(session, false);
                self.disconnect(number, false);
            }
            2 => self.disconnect(number, false),
            _ => self.disconnect(number, true),
        }
        self.clients[number].away_until = self.now + Duration::from_millis(away);
    }

    fn leave(&mut self, gateway: usize, of: MemberRef, keeps: bool, twice: bool) {
        let newest = self.coordinators.len() - 1;
        let id = self.gateways[gateway].id.clone();
        for _ in 0..=usize::from(twice) {
            let delay = self.millis(20);
            self.after(delay, Event::Request(newest, Some(id.clone()), Request::Leave(of.clone(), keeps)));
        }
    }

    fn connect(&mut self, number: usize) {
        let alive: Vec<usize> = (0..self.gateways.len()).filter(|gateway| self.gateways[*gateway].alive).collect();
        let gateway = alive[self.random.below(alive.len())];
        let client = &mut self.clients[number];
        let (member, attachment, phase) = match client.token.clone() {
            Some((member, attachment)) => (member, attachment, Phase::Attaching),
            None => {
                client.members += 1;
                let member = format!("c{number}-{}", client.members).parse().expect("a valid name");
                (member, AttachmentNumber(0), Phase::Joining)
            }
        };
        let of = MemberRef { group: client.group.clone(), member, instance: client.instance.clone(), attachment };
        let session = self.sessions.len();
        client.session = Some(session);
        self.by_member.entry(of.member.clone()).or_default().push(session);
        self.sessions.push(Session {
            client: number,
            gateway,
            of,
            phase,
            current: CurrentAssignment::default(),
            positions: BTreeMap::new(),
            sequence: 0,
            unanswered: None,
            asked_at: self.now,
            last_beat: self.now,
            revoking_since: None,
        });
        self.ask(session);
        self.after(Duration::from_millis(30), Event::SessionStep(session));
    }
}
