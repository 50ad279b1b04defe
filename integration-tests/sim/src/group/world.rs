//! The world: time, messages, and the order of events.

mod clients;
mod coordinators;
mod faults;
mod requests;
mod sessions;

use std::collections::BTreeMap;
use std::time::Duration;

use walser_group::{GatewayId, GroupId, GroupPhase, MemberId, TopicChange};
use walser_model::{PartitionIndex, TopicId, TopicPartition};

use super::check::Check;
use super::log::Log;
use super::message::Request;
use super::party::{Addressed, Client, Coordinator, Gateway, Session, Topic};
use super::{DriverRule, GroupSetup, GroupTally};
use crate::random::Random;

const GATEWAYS: usize = 3;
/// A world in which something is still open so long after the faults never settles.
const END_MAX: Duration = Duration::from_secs(180);
/// The session timeout of all members.
const SESSION: Duration = Duration::from_secs(6);

/// What happens next.
#[derive(Debug)]
enum Event {
    /// A request arrives at a coordinator, from a gateway or (`None`) an operator.
    Request(usize, Option<GatewayId>, Request),
    /// Something arrives at a gateway from a coordinator with an epoch.
    Reply(i64, Addressed),
    /// The oldest batch that has not arrived at the log arrives there.
    Append(usize),
    /// The oldest batch is replicated.
    Replicated(usize),
    /// A coordinator hears of topics.
    Topics(usize, Vec<TopicChange>),
    CoordinatorTick(usize),
    SessionStep(usize),
    ClientStep(usize),
    GatewayStep(usize),
    /// A tenth of a second of faults, operators and producers.
    Weather,
}

/// Everything.
pub(super) struct World {
    setup: GroupSetup,
    random: Random,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    serial: u64,
    tally: GroupTally,
    log: Log,
    check: Check,
    coordinators: Vec<Coordinator>,
    gateways: Vec<Gateway>,
    sessions: Vec<Session>,
    /// The sessions of each member, the newest last.
    by_member: BTreeMap<MemberId, Vec<usize>>,
    clients: Vec<Client>,
    topics: Vec<Topic>,
    ends: BTreeMap<TopicPartition, i64>,
    silent_until: Duration,
    /// Until then nothing is replicated.
    log_slow_until: Duration,
    next_topic: u8,
}

impl World {
    pub(super) fn new(setup: GroupSetup, seed: u64) -> Self {
        let mut world = Self {
            setup,
            random: Random::new(seed),
            now: Duration::from_secs(10),
            queue: BTreeMap::new(),
            serial: 0,
            tally: GroupTally::default(),
            log: Log::default(),
            check: Check::default(),
            coordinators: Vec::new(),
            gateways: Vec::new(),
            sessions: Vec::new(),
            by_member: BTreeMap::new(),
            clients: Vec::new(),
            topics: Vec::new(),
            ends: BTreeMap::new(),
            silent_until: Duration::ZERO,
            log_slow_until: Duration::ZERO,
            next_topic: 1,
        };
        for number in 0..3 {
            let (id, partition_count) = (world.topic_id(), world.partition_count());
            world.topics.push(Topic { name: format!("t{number}"), id, partition_count, exists: true });
        }
        (0..GATEWAYS).for_each(|_| world.start_gateway());
        (0..setup.clients).for_each(|number| world.start_client(number));
        world.at(world.now, Event::Weather);
        world
    }

    pub(super) fn run(mut self) -> Result<GroupTally, String> {
        self.elect()?;
        let mut calm_since = None;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.tally.events += 1;
            self.take(event)?;
            if !self.is_calm() {
                continue;
            }
            let since = *calm_since.get_or_insert(self.now);
            if self.tally.events.is_multiple_of(64) {
                match self.unsettled() {
                    None => break,
                    Some(what) if self.now > since + END_MAX => return Err(format!("does not settle: {what}")),
                    Some(_) => {}
                }
            }
        }
        (self.tally.deletions, self.tally.assignments) = (self.check.deletions, self.check.assignments);
        Ok(self.tally)
    }

    /// Whether faults have ended.
    fn is_calm(&self) -> bool {
        self.tally.events >= self.setup.events
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Request(to, from, request) => self.arrive(to, from, request),
            Event::Reply(epoch, addressed) => self.reply(epoch, addressed),
            Event::Append(number) => self.append(number),
            Event::Replicated(number) => self.replicated(number),
            Event::Topics(number, changes) => self.hear_of_topics(number, changes),
            Event::CoordinatorTick(number) => self.tick_coordinator(number),
            Event::SessionStep(number) => {
                self.step_session(number);
                Ok(())
            }
            Event::ClientStep(number) => {
                self.step_client(number);
                Ok(())
            }
            Event::GatewayStep(number) => {
                self.step_gateway(number);
                Ok(())
            }
            Event::Weather => self.weather(),
        }
    }

    /// What is not as it must be in the end: everything that exists is read, committed and acknowledged, and every group
    /// has exactly its clients as members, and is stable.
    fn unsettled(&self) -> Option<String> {
        let Some(coordinator) = self.coordinators.last() else { return Some("no coordinator".to_owned()) };
        let Some(shard) = &coordinator.shard else { return Some("the coordinator is dead".to_owned()) };
        for (number, client) in self.clients.iter().enumerate() {
            let Some(session) = client.session.map(|session| &self.sessions[session]) else {
                return Some(format!("client {number} has no session"));
            };
            if session.unanswered.is_some() {
                return Some(format!("client {number} waits for a commit"));
            }
            let Ok(description) = shard.describe(&client.group) else { return Some("no group".to_owned()) };
            if description.summary.phase != GroupPhase::Stable {
                return Some(format!("{description:?}"));
            }
            let clients = self.clients.iter().filter(|other| other.group == client.group).count();
            if description.summary.member_count != clients {
                return Some(format!("{clients} clients, and {description:?}"));
            }
            for topic in client.topics.iter().map(|topic| &self.topics[*topic]) {
                for partition in (0..topic.partition_count).map(|index| partition_of(topic.id, index)) {
                    let end = self.ends.get(&partition).copied().unwrap_or(0);
                    let committed = self.check.committed(&client.group, partition);
                    if committed != end {
                        return Some(format!("{partition} of {}: {committed} of {end}", client.group));
                    }
                }
            }
        }
        None
    }

    fn topic_id(&mut self) -> TopicId {
        let id = TopicId::from_bytes([self.next_topic; 16]);
        self.next_topic = self.next_topic.wrapping_add(1);
        id
    }

    fn partition_count(&mut self) -> i32 {
        i32::try_from(1 + self.random.below(5)).unwrap_or(1)
    }

    fn has(&self, rule: DriverRule) -> bool {
        self.setup.without != Some(rule)
    }

    /// Whether a fault happens that is drawn so many times in a thousand; none once the world is calm.
    fn fault(&mut self, per_mille: usize) -> bool {
        self.random.chance(per_mille) && !self.is_calm()
    }

    fn millis(&mut self, below: usize) -> Duration {
        Duration::from_millis(self.random.below(below) as u64)
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.serial += 1;
        self.queue.insert((at.max(self.now), self.serial), event);
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.at(self.now + time, event);
    }

    /// All topics, as metadata has them.
    fn topic_changes(&self) -> Vec<TopicChange> {
        self.topics.iter().map(Topic::change).collect()
    }

    fn groups(&self) -> Vec<GroupId> {
        let mut groups: Vec<GroupId> = self.clients.iter().map(|client| client.group.clone()).collect();
        groups.sort();
        groups.dedup();
        groups
    }
}

fn partition_of(topic: TopicId, index: i32) -> TopicPartition {
    TopicPartition::new(topic, PartitionIndex(index))
}
