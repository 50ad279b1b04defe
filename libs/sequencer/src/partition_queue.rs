//! The batches of one partition: those that are sent come first, in the order of their sequences, and behind them those
//! that wait.
//!
//! A refusal stops the queue until every batch in flight is answered; then what was refused is sent again, in order.

use std::collections::VecDeque;
use std::time::Duration;

use crate::batch::{Batch, Part, Placed, State};
use crate::{Action, Answer, Config, Effect, Number, Numbering, Outcome, Refused, Rule, Session, Ticket};

/// Why the batches of a queue need numbers of another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    /// A sequence was used and is not written: the next epoch begins again from 0.
    Gap,
    /// Another session has the producer id: only a new id helps.
    Fenced,
}

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    All,
    /// Only what may be written already, so that its outcome becomes known.
    Resolve,
    Nothing,
}

/// The batches of one partition.
#[derive(Debug)]
pub(crate) struct PartitionQueue<C, B, F> {
    batches: VecDeque<Batch<C, B, F>>,
    next_sequence: i32,
    /// What was refused is not sent again before.
    retry_at: Duration,
    backoff: Duration,
    /// The last batch that is or may be written.
    written: Option<Ticket>,
    pub(crate) broken: Option<Broken>,
}

/// A list of actions that are to be carried out.
pub(crate) type Actions<P, C, W, F> = Vec<Action<P, C, W, F>>;

/// The sequence after `count` more records; after `i32::MAX` comes 0.
fn advance(sequence: i32, count: i32) -> i32 {
    let next = (i64::from(sequence) + i64::from(count)) % (i64::from(i32::MAX) + 1);
    i32::try_from(next).expect("the remainder is in range")
}

impl<C, B, F: Clone> PartitionQueue<C, B, F> {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            batches: VecDeque::new(),
            next_sequence: 0,
            retry_at: Duration::ZERO,
            backoff: config.backoff_min,
            written: None,
            broken: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.batches.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Batches that are sent and not answered for good.
    pub(crate) fn outstanding(&self) -> usize {
        self.batches.iter().take_while(|batch| batch.was_sent()).count()
    }

    fn in_flight(&self) -> usize {
        self.batches.iter().filter(|batch| batch.state == State::InFlight).count()
    }

    /// Whether a new session may begin: no batch is in flight, and none may be written.
    pub(crate) fn is_settled(&self, config: &Config) -> bool {
        let waits = |batch: &Batch<C, B, F>| match batch.state {
            State::Waiting => false,
            State::InFlight => config.rules.hold(Rule::SessionWaits),
            State::Refused => batch.ambiguous && config.rules.hold(Rule::AmbiguousKeepsNumber),
        };
        !self.batches.iter().take_while(|batch| batch.was_sent()).any(waits)
    }

    /// When what was refused may be sent again. `resolving`: only for the sake of what may be written already.
    pub(crate) fn retry_at(&self, resolving: bool) -> Option<Duration> {
        let waits = |batch: &Batch<C, B, F>| batch.state == State::Refused && (batch.ambiguous || !resolving);
        let waits = self.batches.iter().take_while(|batch| batch.was_sent()).any(waits);
        (waits && self.in_flight() == 0).then_some(self.retry_at)
    }

    pub(crate) fn retry_now(&mut self, now: Duration) {
        self.retry_at = self.retry_at.min(now);
    }

    pub(crate) fn batch(&mut self, ticket: Ticket) -> Option<&mut Batch<C, B, F>> {
        let index = self.batches.binary_search_by_key(&ticket, |batch| batch.ticket).ok()?;
        self.batches.get_mut(index)
    }

    /// The batch that waits last, if parts with a tag may join it.
    pub(crate) fn open_batch(&mut self, tag: u32) -> Option<&mut Batch<C, B, F>> {
        self.batches.back_mut().filter(|batch| batch.state == State::Waiting && batch.tag == Some(tag))
    }

    pub(crate) fn push(&mut self, batch: Batch<C, B, F>) {
        self.batches.push_back(batch);
    }

    /// Numbers what was refused anew, from 0.
    pub(crate) fn renumber(&mut self) {
        self.next_sequence = 0;
        self.broken = None;
        for batch in self.batches.iter_mut().take_while(|batch| batch.was_sent()) {
            batch.base_sequence = Some(self.next_sequence);
            self.next_sequence = advance(self.next_sequence, batch.record_count);
        }
    }

    /// Takes the answer to an attempt. One that is not waited for changes nothing.
    pub(crate) fn answered<P, W: Clone>(
        &mut self,
        config: &Config,
        now: Duration,
        (ticket, attempt): (Ticket, u32),
        answer: Answer<W, F>,
        out: &mut Actions<P, C, W, F>,
    ) {
        let waited =
            |batch: &Batch<C, B, F>| (batch.ticket, batch.attempt, batch.state) == (ticket, attempt, State::InFlight);
        let Some(index) = self.batches.iter().position(waited) else { return };
        match answer {
            Answer::Written(answer) => self.complete_written(config, index, &answer, out),
            Answer::Refused { refused, maybe, failure } => {
                let batch = &mut self.batches[index];
                batch.ambiguous |= maybe;
                batch.last_failure = Some(failure);
                self.refused(config, now, index, refused, out);
            }
        }
    }

    /// Takes the loss of every attempt that is not answered.
    pub(crate) fn lost<P, W: Clone>(
        &mut self,
        config: &Config,
        now: Duration,
        failure: &F,
        out: &mut Actions<P, C, W, F>,
    ) {
        let in_flight = self.batches.iter().filter(|batch| batch.state == State::InFlight);
        let attempts: Vec<_> = in_flight.map(|batch| (batch.ticket, batch.attempt)).collect();
        for attempt in attempts {
            let answer = Answer::Refused { refused: Refused::Moved, maybe: true, failure: failure.clone() };
            self.answered(config, now, attempt, answer, out);
        }
    }

    fn complete_written<P, W: Clone>(
        &mut self,
        config: &Config,
        index: usize,
        answer: &W,
        out: &mut Actions<P, C, W, F>,
    ) {
        let Some(batch) = self.batches.remove(index) else { return };
        self.backoff = config.backoff_min;
        self.written = self.written.max(Some(batch.ticket));
        for Placed { first: first_record, part: Part { caller, .. }, .. } in batch.parts {
            out.push(Action::Complete { caller, outcome: Outcome::Written { answer: answer.clone(), first_record } });
        }
    }

    fn refused<P, W>(
        &mut self,
        config: &Config,
        now: Duration,
        index: usize,
        refused: Refused,
        out: &mut Actions<P, C, W, F>,
    ) {
        let ambiguous = self.batches[index].ambiguous;
        let own = config.numbering == Numbering::Own;
        let resend = match refused {
            Refused::Applied | Refused::ForGood => false,
            // The leader would not recognise it.
            Refused::Moved if config.numbering == Numbering::Without => {
                !ambiguous || !config.rules.hold(Rule::UnnumberedIsSentOnce)
            }
            Refused::Moved => true,
            // Refused because of one before it, behind which it is sent again.
            Refused::Gap | Refused::UnknownProducer | Refused::Fenced if index > 0 => true,
            Refused::Gap | Refused::UnknownProducer => {
                self.broken = self.broken.max(own.then_some(Broken::Gap));
                own && !ambiguous
            }
            Refused::Fenced => {
                self.broken = self.broken.max(own.then_some(Broken::Fenced));
                own && !ambiguous
            }
        };
        if !resend {
            return self.fail(config, index, refused, out);
        }
        let first = !self.batches.iter().any(|batch| batch.state == State::Refused);
        self.batches[index].state = State::Refused;
        if first {
            self.retry_at = now + self.backoff;
            self.backoff = (self.backoff * 2).min(config.backoff_max);
        }
        self.drop_unwanted(config);
        // Its callers may have waited for this answer only.
        self.expire(config, now, None, out);
    }

    /// Answers callers whose deadline is over.
    pub(crate) fn expire<P, W>(
        &mut self,
        config: &Config,
        now: Duration,
        why: Option<&F>,
        out: &mut Actions<P, C, W, F>,
    ) {
        let goes = |part: &Part<C>, state: State| {
            let grace = if state == State::InFlight { config.grace } else { Duration::ZERO };
            part.deadline + grace <= now
        };
        self.give_up(config, true, why, goes, out);
    }

    /// Completes a batch that is not sent again.
    fn fail<P, W>(&mut self, config: &Config, index: usize, refused: Refused, out: &mut Actions<P, C, W, F>) {
        let Some(batch) = self.batches.remove(index) else { return };
        let effect = match refused {
            Refused::Applied => Effect::Applied,
            _ if batch.ambiguous => Effect::Maybe,
            _ => Effect::None,
        };
        self.note_failed(config, &batch, effect);
        for Placed { part: Part { caller, .. }, .. } in batch.parts {
            let failure = batch.last_failure.clone();
            out.push(Action::Complete { caller, outcome: Outcome::Failed { failure, effect, expired: false } });
        }
    }

    /// Notes what a batch that goes without having been written means for those behind it.
    fn note_failed(&mut self, config: &Config, batch: &Batch<C, B, F>, effect: Effect) {
        if effect != Effect::None {
            self.written = self.written.max(Some(batch.ticket));
        }
        if effect != Effect::Applied {
            self.broken = self.broken.max((config.numbering == Numbering::Own).then_some(Broken::Gap));
        }
    }

    /// Whether every batch that was sent is certainly not written.
    fn is_unwritten(&self, config: &Config) -> bool {
        let certain = |batch: &Batch<C, B, F>| {
            batch.state == State::Refused && (!batch.ambiguous || !config.rules.hold(Rule::UnwrittenShrinks))
        };
        self.batches.iter().take_while(|batch| batch.was_sent()).all(certain)
    }

    /// Where nothing that was sent is written, its sequences are free again: records without a caller are left out, and
    /// what is left is numbered from the first sequence on.
    fn shrink_unwritten(&mut self, config: &Config) {
        if config.numbering != Numbering::Own || self.broken.is_some() || !self.is_unwritten(config) {
            return;
        }
        let Some(first) = self.batches.front().filter(|batch| batch.was_sent()).and_then(|batch| batch.base_sequence)
        else {
            return;
        };
        self.batches.retain(|batch| !batch.parts.is_empty());
        self.next_sequence = first;
        for batch in self.batches.iter_mut().take_while(|batch| batch.was_sent()) {
            batch.shrink();
            batch.base_sequence = Some(self.next_sequence);
            self.next_sequence = advance(self.next_sequence, batch.record_count);
        }
    }

    /// Drops what was refused and has no caller any more.
    fn drop_unwanted(&mut self, config: &Config) {
        self.shrink_unwritten(config);
        while let Some(index) =
            self.batches.iter().position(|batch| batch.state == State::Refused && batch.parts.is_empty())
        {
            let Some(batch) = self.batches.remove(index) else { return };
            let effect = if batch.ambiguous { Effect::Maybe } else { Effect::None };
            self.note_failed(config, &batch, effect);
        }
    }

    /// Answers parts that are not waited for any more: `goes` names them, by their batch's state.
    pub(crate) fn give_up<P, W>(
        &mut self,
        config: &Config,
        expired: bool,
        why: Option<&F>,
        goes: impl Fn(&Part<C>, State) -> bool,
        out: &mut Actions<P, C, W, F>,
    ) {
        let unwritten = config.numbering == Numbering::Own && self.is_unwritten(config);
        let why = self.batches.front().and_then(|batch| batch.last_failure.clone()).or_else(|| why.cloned());
        for batch in &mut self.batches {
            let state = batch.state;
            let (gone, effect) = if batch.was_sent() {
                sent_parts_leave(config, batch, unwritten, |part| goes(part, state))
            } else if config.rules.hold(Rule::DeadlineHoldsBack) {
                (batch.leave(|part| goes(part, state)), Effect::None)
            } else {
                continue;
            };
            let failure = batch.last_failure.clone().or_else(|| why.clone());
            for Part { caller, .. } in gone {
                let failure = failure.clone();
                let outcome = Outcome::Failed { failure, effect, expired };
                out.push(Action::Complete { caller, outcome });
            }
        }
        self.batches.retain(|batch| batch.was_sent() || !batch.parts.is_empty());
        self.drop_unwanted(config);
    }

    /// Sends what may be sent now.
    pub(crate) fn advance<P: Clone, W>(
        &mut self,
        config: &Config,
        now: Duration,
        (partition, session): (&P, Option<Session>),
        mode: Mode,
        out: &mut Actions<P, C, W, F>,
    ) {
        if mode == Mode::Nothing {
            return;
        }
        let mut in_flight = self.in_flight();
        let sent = self.outstanding();
        if sent > in_flight {
            if in_flight > 0 {
                return;
            }
            if config.numbering == Numbering::Without && config.rules.hold(Rule::OvertakenIsNotResent) {
                self.fail_overtaken(config, out);
            }
            if now < self.retry_at {
                return;
            }
            in_flight = self.resend(config, partition, session, mode, out);
        }
        let all_in_flight = self.outstanding() == in_flight;
        if mode != Mode::All || self.broken.is_some() || !all_in_flight {
            return;
        }
        while in_flight < config.in_flight_max
            && let Some(batch) = self.batches.get_mut(in_flight)
        {
            if config.numbering == Numbering::Own {
                batch.base_sequence = Some(self.next_sequence);
                self.next_sequence = advance(self.next_sequence, batch.record_count);
            }
            send(batch, config, partition, session, out);
            in_flight += 1;
        }
    }

    /// Sends again what was refused, in order, as far as the mode allows. Returns how many batches are in flight.
    fn resend<P: Clone, W>(
        &mut self,
        config: &Config,
        partition: &P,
        session: Option<Session>,
        mode: Mode,
        out: &mut Actions<P, C, W, F>,
    ) -> usize {
        self.shrink_unwritten(config);
        let sent = self.outstanding();
        let last_ambiguous = self.batches.iter().take(sent).rposition(|batch| batch.ambiguous);
        let count = match (mode, self.broken) {
            (Mode::All, None) => sent,
            _ => last_ambiguous.map_or(0, |index| index + 1),
        };
        let in_order = config.rules.hold(Rule::RefusedGoFirst);
        for index in 0..count {
            let index = if in_order { index } else { count - 1 - index };
            send(&mut self.batches[index], config, partition, session, out);
        }
        count
    }

    /// Without sequences, what was refused must not be written behind a later batch that may be written.
    fn fail_overtaken<P, W>(&mut self, config: &Config, out: &mut Actions<P, C, W, F>) {
        while let Some(front) = self.batches.front()
            && front.state == State::Refused
            && Some(front.ticket) < self.written
        {
            self.fail(config, 0, Refused::ForGood, out);
        }
    }
}

fn send<P: Clone, C, B, W, F>(
    batch: &mut Batch<C, B, F>,
    config: &Config,
    partition: &P,
    session: Option<Session>,
    out: &mut Actions<P, C, W, F>,
) {
    batch.state = State::InFlight;
    batch.attempt += 1;
    let number = match (config.numbering, session, batch.base_sequence) {
        (Numbering::Own, Some(session), Some(base_sequence)) => Some(Number { session, base_sequence }),
        _ => None,
    };
    let (partition, ticket, attempt) = (partition.clone(), batch.ticket, batch.attempt);
    out.push(Action::Send { partition, ticket, attempt, number });
}

/// Takes out parts of a batch that was sent; their records stay in it unless nothing of the queue is written. Returns them
/// with what is known of them.
fn sent_parts_leave<C, B, F>(
    config: &Config,
    batch: &mut Batch<C, B, F>,
    unwritten: bool,
    goes: impl Fn(&Part<C>) -> bool,
) -> (Vec<Part<C>>, Effect) {
    let leaving: Vec<bool> = batch.parts.iter().map(|placed| goes(&placed.part)).collect();
    if !leaving.contains(&true) {
        return (Vec::new(), Effect::None);
    }
    // The batch goes on for the sake of others, with these records, or is in flight.
    let goes_on = batch.state == State::InFlight || leaving.contains(&false);
    let maybe = !unwritten && (batch.ambiguous || goes_on) && config.rules.hold(Rule::SentMayBeWritten);
    let mut gone = Vec::new();
    let mut leaves = leaving.into_iter();
    for placed in std::mem::take(&mut batch.parts) {
        if leaves.next() == Some(true) {
            gone.push(placed.part);
        } else {
            batch.parts.push(placed);
        }
    }
    if batch.state == State::InFlight && !config.rules.hold(Rule::EveryCallerIsAnswered) {
        gone.clear();
    }
    (gone, if maybe { Effect::Maybe } else { Effect::None })
}
