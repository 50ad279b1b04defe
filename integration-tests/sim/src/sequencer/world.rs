//! The world: time, links, leaders, and what goes wrong.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use walser_model::{ProducerEpoch, ProducerId};
use walser_sequencer::{Action, Answer, Effect, Number, Outcome, Part, Session, Size, Ticket};

use super::check::Check;
use super::driven::{Caller, Content, Driven, Role};
use super::leader::{Attempted, Leader, Why};
use super::{Setup, Tally, Traffic};
use crate::random::Random;

/// Callers of one driver that wait at once.
const CALLS_MAX: usize = 60;
const TICK: Duration = Duration::from_millis(50);
/// A world that is still busy so long after its last submission never ends.
const END_MAX: Duration = Duration::from_secs(300);
const PARTITIONS: u8 = 3;

type Act = Action<u8, Caller, i64, Why>;

/// An attempt on its way: from a driver to a leader, or from a client to its gateway.
#[derive(Debug, Clone)]
struct Attempt {
    from: usize,
    link: u32,
    partition: u8,
    ticket: Ticket,
    attempt: u32,
    number: Option<Number>,
    records: Vec<u64>,
}

#[derive(Debug)]
enum Event {
    Submit(usize),
    Arrive(Attempt),
    Answered(Attempt, Answer<i64, Why>),
    /// The session that a driver asked for; else the one that it asks to replace the next time.
    Session(usize, Result<Session, Option<Session>>),
    Tick(usize),
    /// The same for something that was refused.
    Retry(usize),
    /// A client has a connection again.
    Connect(usize),
    /// The gateway notices that the stream of a client is closed.
    Closed(usize),
}

/// Everything.
pub(super) struct World {
    setup: Setup,
    random: Random,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    events: u64,
    leaders: Vec<Leader>,
    drivers: Vec<Driven>,
    check: Check,
    next_id: i64,
    /// The latest epoch of every producer, as the controller knows it.
    epochs: HashMap<ProducerId, ProducerEpoch>,
}

impl World {
    pub(super) fn new(setup: Setup, seed: u64) -> Self {
        let mut world = Self {
            setup,
            random: Random::new(seed),
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            events: 0,
            leaders: (0..PARTITIONS).map(|_| Leader::new()).collect(),
            drivers: Vec::new(),
            check: Check::default(),
            next_id: 1,
            epochs: HashMap::new(),
        };
        match setup.traffic {
            Traffic::Gathered => {
                world.start(Role::Gathered);
                world.start(Role::Gathered);
            }
            Traffic::Unnumbered => {
                world.start(Role::Unnumbered);
                world.start(Role::Unnumbered);
            }
            Traffic::Client => {
                world.start(Role::Client { relay: None });
            }
        }
        world
    }

    pub(super) fn run(mut self) -> Result<Tally, String> {
        let mut ended_at = None;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.events += 1;
            self.take(event)?;
            self.check.in_time(self.now)?;
            if self.submitting() {
                continue;
            }
            let ended_at = *ended_at.get_or_insert(self.now);
            if self.is_quiet() {
                break;
            }
            if self.now > ended_at + END_MAX {
                return Err("batches are left long after the last was submitted".to_owned());
            }
        }
        if self.check.open_count() > 0 {
            return Err("callers are left that nobody answers".to_owned());
        }
        self.check.tally.events = self.events;
        Ok(self.check.tally)
    }

    fn submitting(&self) -> bool {
        self.events < self.setup.events
    }

    fn is_quiet(&self) -> bool {
        let waits = |event: &Event| matches!(event, Event::Arrive(_) | Event::Answered(..) | Event::Closed(_));
        self.drivers.iter().all(|driver| !driver.alive || driver.sequencer.is_idle()) && !self.queue.values().any(waits)
    }

    /// Whether a fault happens that is drawn so many times in a thousand; none once nothing is submitted any more.
    fn fault(&mut self, per_mille: usize) -> bool {
        self.random.chance(per_mille) && self.submitting()
    }

    fn millis(&mut self, below: usize) -> Duration {
        Duration::from_millis(self.random.below(below) as u64)
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.queue.insert((at.max(self.now), self.random.next() >> 16 << 16 | self.queue.len() as u64), event);
    }

    fn after(&mut self, below: usize, event: Event) {
        let at = self.now + self.millis(below);
        self.at(at, event);
    }

    fn start(&mut self, role: Role) -> usize {
        let number = self.drivers.len();
        self.drivers.push(Driven::new(role, self.setup.rules));
        if self.drivers[number].has_users() {
            self.after(20, Event::Submit(number));
        }
        if let Role::Client { .. } = role {
            self.after(20, Event::Connect(number));
        }
        self.at(self.now + TICK, Event::Tick(number));
        number
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Submit(driver) => self.submit(driver),
            Event::Arrive(attempt) => match self.drivers[attempt.from].role {
                Role::Client { .. } => self.arrive_at_gateway(attempt),
                _ => self.arrive_at_leader(attempt),
            },
            Event::Answered(attempt, answer) => self.answered(&attempt, answer),
            Event::Session(driver, session) => self.session(driver, session),
            Event::Tick(driver) if self.drivers[driver].alive => {
                let next = self.now + TICK;
                self.at(next, Event::Tick(driver));
                self.step(driver, |driven, now, out| driven.sequencer.tick(now, out))
            }
            Event::Connect(driver) => self.connect(driver),
            Event::Closed(relay) if self.drivers[relay].alive => {
                for partition in 0..PARTITIONS {
                    self.step(relay, |driven, now, out| {
                        driven.sequencer.abandon(now, &partition, |_| true, out);
                    })?;
                }
                Ok(())
            }
            Event::Retry(driver) if self.drivers[driver].alive => {
                self.drivers[driver].retry_at = None;
                self.step(driver, |driven, now, out| driven.sequencer.tick(now, out))
            }
            Event::Tick(_) | Event::Retry(_) | Event::Closed(_) => Ok(()),
        }
    }

    fn submit(&mut self, number: usize) -> Result<(), String> {
        if !self.drivers[number].alive || !self.submitting() {
            return Ok(());
        }
        self.after(8, Event::Submit(number));
        let open: Vec<usize> = self.check.open_calls(number).collect();
        if !open.is_empty() && self.fault(self.setup.impatience) {
            let call = open[self.random.below(open.len())];
            for partition in 0..PARTITIONS {
                let is = |caller: &Caller| matches!(caller, Caller::User { call: found, .. } if *found == call);
                self.step(number, |driven, now, out| driven.sequencer.abandon(now, &partition, is, out))?;
            }
        }
        if open.len() >= CALLS_MAX {
            return Ok(());
        }
        let role = self.drivers[number].role;
        let spread = matches!(role, Role::Client { .. });
        let partition = if spread { u8::try_from(self.random.below(3)).unwrap_or(0) } else { 0 };
        let patience = self.random.one_of(&[200, 1_000, 5_000, 30_000]);
        let deadline = self.now + Duration::from_millis(patience) + self.millis(100);
        let count = 1 + self.random.below(3);
        let (call, records) = self.check.submit((number, partition), deadline, count);
        let part = Part {
            record_count: i32::try_from(count).unwrap_or(1),
            size: Size { bytes: count, cost: count },
            deadline,
            caller: Caller::User { call, records },
        };
        let tag = u32::try_from(self.random.below(8) / 7).unwrap_or(0);
        self.step(number, |driven, now, out| match role {
            Role::Gathered => driven.sequencer.submit(now, partition, part, (tag, Size { bytes: 9, cost: 9 }), out),
            _ => driven.sequencer.submit_batch(now, partition, part, (None, None), out),
        })
    }

    /// Feeds an event to a sequencer, and carries out what it says.
    fn step(&mut self, number: usize, event: impl FnOnce(&mut Driven, Duration, &mut Vec<Act>)) -> Result<(), String> {
        let mut actions = Vec::new();
        event(&mut self.drivers[number], self.now, &mut actions);
        let driven = &mut self.drivers[number];
        if let Some(retry) = driven.sequencer.next_retry()
            && driven.retry_at.is_none_or(|at| retry < at)
        {
            driven.retry_at = Some(retry);
            self.at(retry, Event::Retry(number));
        }
        actions.into_iter().try_for_each(|action| self.perform(number, action))
    }

    fn perform(&mut self, number: usize, action: Act) -> Result<(), String> {
        match action {
            Action::Send { partition, ticket, attempt, number: numbered } => {
                self.send(number, partition, (ticket, attempt), numbered);
                Ok(())
            }
            Action::StartSession { previous } => {
                self.start_session(number, previous);
                Ok(())
            }
            Action::Complete { caller: Caller::User { call, .. }, outcome } => {
                let leaders = &self.leaders;
                let logs = |partition: u8, offset: usize| leaders[usize::from(partition)].log.get(offset).copied();
                self.check.told(self.now, call, &outcome, logs)
            }
            Action::Complete { caller: Caller::Relayed { partition, attempt }, outcome } => {
                self.answer_client(number, partition, attempt, &outcome);
                Ok(())
            }
        }
    }

    fn send(&mut self, from: usize, partition: u8, (ticket, attempt): (Ticket, u32), number: Option<Number>) {
        let delay = self.random.one_of(&[1, 3, 10, 100]);
        let delay = self.millis(delay);
        let driven = &mut self.drivers[from];
        let Some(batch) = driven.sequencer.batch(&partition, ticket) else { return };
        if batch.content.is_none() {
            let records = batch.callers_mut().flat_map(|caller| caller.records().to_vec()).collect();
            batch.content = Some(Content { records, number: None });
        }
        if let Some(kept) = batch.take_kept() {
            let content = batch.content.get_or_insert_default();
            let at = |index: i64| usize::try_from(index).unwrap_or(usize::MAX);
            content.records =
                kept.into_iter().flat_map(|range| content.records[at(range.start)..at(range.end)].to_vec()).collect();
        }
        let Content { records, number: given } = batch.content.clone().unwrap_or_default();
        self.check.tally.resent += u64::from(attempt > 1);
        driven.pending.insert((partition, ticket, attempt));
        let order = &mut driven.order[usize::from(partition)].arrived;
        *order = (self.now + delay).max(*order + Duration::from_nanos(1));
        let (at, link) = (*order, driven.link);
        let number = number.or(given);
        self.at(at, Event::Arrive(Attempt { from, link, partition, ticket, attempt, number, records }));
    }

    /// An attempt reaches the leader of its partition.
    fn arrive_at_leader(&mut self, attempt: Attempt) -> Result<(), String> {
        let current = self.drivers[attempt.from].alive && self.drivers[attempt.from].link == attempt.link;
        if !current {
            // It was given up for lost: some of those never arrive, others late.
            match self.random.below(3) {
                0 => return Ok(()),
                1 if self.submitting() => {
                    self.after(3_000, Event::Arrive(attempt));
                    return Ok(());
                }
                _ => self.check.tally.late += 1,
            }
        }
        if current && self.fault(self.setup.breaks) {
            self.at(self.now, Event::Arrive(attempt.clone()));
            return self.break_link(attempt.from);
        }
        if self.fault(self.setup.restarts) {
            self.restart_gateway(attempt.from)?;
        }
        let partition = usize::from(attempt.partition);
        if self.fault(self.setup.moves) {
            let away = self.random.one_of(&[0, 30, 500, 3_000, 30_000]);
            self.leaders[partition].away_until = self.now + self.millis(away + 1);
        }
        let refuses = self.fault(self.setup.refusals);
        let leader = &mut self.leaders[partition];
        let before = leader.log.len();
        let Attempted { mut answer, duplicate } = leader.attempt(self.now, &attempt.records, attempt.number, refuses);
        if leader.log.len() > before {
            // Without a sequence a leader cannot tell that it comes late; its caller was told that it may be written.
            self.check.appended(&attempt.records, current || attempt.number.is_some())?;
        }
        self.check.tally.duplicates += u64::from(duplicate);
        if matches!(answer, Answer::Written(_)) && self.fault(self.setup.moves) {
            // The leader is lost, or its disk fails, behind the append.
            let refused = self.random.one_of(&[Why::Moved, Why::Moved, Why::ForGood]);
            answer = Answer::Refused { refused, maybe: true, failure: refused };
        }
        let delay = self.random.one_of(&[1, 5, 50]);
        self.answer_later(attempt, answer, delay);
        Ok(())
    }

    fn answer_later(&mut self, attempt: Attempt, answer: Answer<i64, Why>, delay: usize) {
        let delay = self.millis(delay);
        let order = &mut self.drivers[attempt.from].order[usize::from(attempt.partition)].answered;
        *order = (self.now + delay).max(*order + Duration::from_nanos(1));
        let at = *order;
        if self.random.chance(20) {
            // A driver must not take an answer twice.
            self.at(at + Duration::from_nanos(500), Event::Answered(attempt.clone(), answer.clone()));
        }
        self.at(at, Event::Answered(attempt, answer));
    }

    fn answered(&mut self, attempt: &Attempt, answer: Answer<i64, Why>) -> Result<(), String> {
        let driven = &mut self.drivers[attempt.from];
        if !driven.alive || driven.link != attempt.link {
            return Ok(());
        }
        driven.pending.remove(&(attempt.partition, attempt.ticket, attempt.attempt));
        let (partition, which) = (attempt.partition, (attempt.ticket, attempt.attempt));
        self.step(attempt.from, |driven, now, out| driven.sequencer.answered(now, &partition, which, answer, out))
    }

    /// The link of a driver breaks: whatever is not answered is lost.
    fn break_link(&mut self, number: usize) -> Result<(), String> {
        let driven = &mut self.drivers[number];
        driven.link += 1;
        let pending = std::mem::take(&mut driven.pending);
        if let Role::Client { relay } = &mut driven.role {
            let relay = relay.take();
            self.after(1_000, Event::Connect(number));
            if let Some(relay) = relay {
                self.after(500, Event::Closed(relay));
            }
            return self.step(number, |driven, now, out| driven.sequencer.disconnected(now, &Why::Moved, out));
        }
        for (partition, ticket, attempt) in pending {
            let lost = Answer::Refused { refused: Why::Moved, maybe: true, failure: Why::Moved };
            self.step(number, |driven, now, out| {
                driven.sequencer.answered(now, &partition, (ticket, attempt), lost, out);
            })?;
        }
        Ok(())
    }

    /// The gateway that a driver is in starts anew: nobody answers its callers, and it writes with other producer ids.
    fn restart_gateway(&mut self, number: usize) -> Result<(), String> {
        if !self.drivers[number].alive {
            return Ok(());
        }
        self.check.tally.restarts += 1;
        self.drivers[number].alive = false;
        match self.drivers[number].role {
            Role::Relay { client } => {
                let connected = self.drivers[client].role == Role::Client { relay: Some(number) };
                if connected { self.break_link(client) } else { Ok(()) }
            }
            role => {
                self.check.gone(number);
                self.start(role);
                Ok(())
            }
        }
    }

    fn connect(&mut self, client: usize) -> Result<(), String> {
        let relay = self.start(Role::Relay { client });
        self.drivers[client].role = Role::Client { relay: Some(relay) };
        self.drivers[client].order = Default::default();
        self.step(client, |driven, now, out| driven.sequencer.connected(now, out))
    }

    /// The batch of a client reaches its gateway.
    fn arrive_at_gateway(&mut self, attempt: Attempt) -> Result<(), String> {
        let Role::Client { relay: Some(relay) } = self.drivers[attempt.from].role else { return Ok(()) };
        if self.drivers[attempt.from].link != attempt.link {
            return Ok(());
        }
        if self.fault(self.setup.breaks) {
            return self.break_link(attempt.from);
        }
        let patience = self.random.one_of(&[1_000, 30_000]);
        let part = Part {
            record_count: i32::try_from(attempt.records.len()).unwrap_or(1),
            size: Size::default(),
            deadline: self.now + Duration::from_millis(patience),
            caller: Caller::Relayed { partition: attempt.partition, attempt: (attempt.ticket, attempt.attempt) },
        };
        let base_sequence = attempt.number.map(|number| number.base_sequence);
        let content = Content { records: attempt.records, number: attempt.number };
        let partition = attempt.partition;
        self.step(relay, |driven, now, out| {
            driven.sequencer.submit_batch(now, partition, part, (base_sequence, Some(content)), out);
        })
    }

    /// The gateway answers the batch of a client.
    fn answer_client(
        &mut self,
        relay: usize,
        partition: u8,
        (ticket, attempt): (Ticket, u32),
        outcome: &Outcome<i64, Why>,
    ) {
        let Role::Relay { client } = self.drivers[relay].role else { return };
        if self.drivers[client].role != (Role::Client { relay: Some(relay) }) {
            return;
        }
        let answer = match outcome {
            Outcome::Written { answer, .. } => Answer::Written(*answer),
            Outcome::Failed { effect: Effect::Applied, .. } => {
                Answer::Refused { refused: Why::Applied, maybe: false, failure: Why::Applied }
            }
            Outcome::Failed { failure, effect, expired, .. } => {
                let refused = failure.filter(|_| !expired).unwrap_or(Why::Moved);
                Answer::Refused { refused, maybe: *effect == Effect::Maybe, failure: refused }
            }
        };
        let link = self.drivers[client].link;
        let records = Vec::new();
        self.answer_later(
            Attempt { from: client, link, partition, ticket, attempt, number: None, records },
            answer,
            20,
        );
    }

    fn start_session(&mut self, number: usize, previous: Option<Session>) {
        self.check.tally.sessions += u64::from(previous.is_some());
        let local = matches!(self.drivers[number].role, Role::Gathered);
        let granted = match previous {
            // Only this gateway writes with its ids.
            Some(Session { id, epoch }) if local => Ok(Session { id, epoch: ProducerEpoch(epoch.0 + 1) }),
            Some(Session { id, epoch }) => {
                // Of two requests with the same session one is refused; here it is the repetition of a request whose
                // answer was lost, and the refusal names the epoch that the next one has to replace.
                let known = self.epochs.entry(id).or_insert(epoch);
                if *known == epoch {
                    known.0 += 1;
                    Ok(Session { id, epoch: *known })
                } else {
                    Err(Some(Session { id, epoch: *known }))
                }
            }
            None => {
                self.next_id += 1;
                Ok(Session { id: ProducerId(self.next_id), epoch: ProducerEpoch(0) })
            }
        };
        let lost = self.fault(100);
        let answer = if lost { Err(previous) } else { granted };
        self.after(100, Event::Session(number, answer));
    }

    fn session(&mut self, number: usize, session: Result<Session, Option<Session>>) -> Result<(), String> {
        if !self.drivers[number].alive {
            return Ok(());
        }
        self.step(number, |driven, now, out| match session {
            Ok(session) => driven.sequencer.session_started(now, session, out),
            Err(previous) => driven.sequencer.session_failed(now, Why::Moved, previous, out),
        })
    }
}
