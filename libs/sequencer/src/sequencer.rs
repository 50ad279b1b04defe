//! The batches of one producer, by partition, and its session.

use std::time::Duration;

use crate::batch::{Batch, Part, Size};
use crate::partition_queue::{Actions, Broken, Mode, PartitionQueue};
use crate::{Action, Answer, Config, Numbering, Session, Ticket};

/// Where the session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sessions {
    /// There is none, or the present one is spent.
    Missing {
        previous: Option<Session>,
    },
    /// The driver has been asked for one.
    Asked,
    Ready(Session),
}

/// The state machine. `P` names a partition, `C` a caller, `B` is what the driver keeps of a batch that was sent, and
/// `F` is a failure.
///
/// Every method that takes `out` may add actions to it, which the driver carries out in their order.
#[derive(Debug)]
pub struct Sequencer<P, C, B, F> {
    config: Config,
    /// In the order of partitions.
    queues: Vec<(P, PartitionQueue<C, B, F>)>,
    next_ticket: u64,
    session: Sessions,
    /// The worst of all queues.
    broken: Option<Broken>,
    /// Why there is no session.
    session_failure: Option<F>,
    session_retry_at: Duration,
    session_backoff: Duration,
    connected: bool,
    /// Why there is no connection.
    connection_failure: Option<F>,
}

impl<P: Clone + Ord, C, B, F: Clone> Sequencer<P, C, B, F> {
    /// Has no batch and no session, and is connected.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            queues: Vec::new(),
            next_ticket: 0,
            session: Sessions::Missing { previous: None },
            broken: None,
            session_failure: None,
            session_retry_at: Duration::ZERO,
            session_backoff: config.backoff_min,
            connected: true,
            connection_failure: None,
        }
    }

    /// A caller submits records that may leave together with those of others: of the same tag, up to `max`.
    pub fn submit<W>(
        &mut self,
        now: Duration,
        partition: P,
        part: Part<C>,
        (tag, max): (u32, Size),
        out: &mut Actions<P, C, W, F>,
    ) {
        let index = self.queue(partition);
        let queue = &mut self.queues[index].1;
        match queue.open_batch(tag).filter(|open| open.size.plus(part.size).fits(max)) {
            Some(open) => open.join(part),
            None => {
                queue.push(Batch::new(Ticket(self.next_ticket), part, Some(tag), None));
                self.next_ticket += 1;
            }
        }
        self.drive(now, Some(index), out);
    }

    /// A caller submits a batch that leaves by itself. `base_sequence`: with [`Numbering::Given`].
    pub fn submit_batch<W>(
        &mut self,
        now: Duration,
        partition: P,
        part: Part<C>,
        (base_sequence, content): (Option<i32>, Option<B>),
        out: &mut Actions<P, C, W, F>,
    ) {
        let index = self.queue(partition);
        let mut batch = Batch::new(Ticket(self.next_ticket), part, None, base_sequence);
        batch.content = content;
        self.next_ticket += 1;
        self.queues[index].1.push(batch);
        self.drive(now, Some(index), out);
    }

    /// An attempt is answered. A second answer, or one to an earlier attempt, changes nothing.
    pub fn answered<W: Clone>(
        &mut self,
        now: Duration,
        partition: &P,
        attempt: (Ticket, u32),
        answer: Answer<W, F>,
        out: &mut Actions<P, C, W, F>,
    ) {
        let Ok(index) = self.queues.binary_search_by(|(known, _)| known.cmp(partition)) else { return };
        self.queues[index].1.answered(&self.config, now, attempt, answer, out);
        self.drive(now, Some(index), out);
    }

    /// There is no connection to the server: no attempt in flight will be answered, and nothing can be sent.
    pub fn disconnected<W: Clone>(&mut self, now: Duration, failure: &F, out: &mut Actions<P, C, W, F>) {
        self.connected = false;
        self.connection_failure = Some(failure.clone());
        for (_, queue) in &mut self.queues {
            queue.lost(&self.config, now, failure, out);
        }
        self.drive(now, None, out);
    }

    /// There is a connection again: what was lost with the old one is sent again at once.
    pub fn connected<W>(&mut self, now: Duration, out: &mut Actions<P, C, W, F>) {
        self.connected = true;
        self.connection_failure = None;
        self.queues.iter_mut().for_each(|(_, queue)| queue.retry_now(now));
        self.drive(now, None, out);
    }

    /// A partition may have another leader: what was refused is sent again at once.
    pub fn leader_changed<W>(&mut self, now: Duration, partition: &P, out: &mut Actions<P, C, W, F>) {
        let Ok(index) = self.queues.binary_search_by(|(known, _)| known.cmp(partition)) else { return };
        self.queues[index].1.retry_now(now);
        self.drive(now, Some(index), out);
    }

    /// The session that was asked for. Batches are numbered from 0.
    pub fn session_started<W>(&mut self, now: Duration, session: Session, out: &mut Actions<P, C, W, F>) {
        self.session = Sessions::Ready(session);
        (self.session_failure, self.session_backoff, self.broken) = (None, self.config.backoff_min, None);
        for (_, queue) in &mut self.queues {
            queue.renumber();
            queue.retry_now(now);
        }
        self.drive(now, None, out);
    }

    /// No session was had; it is asked for again after a pause. `previous`: the session that a next one is to replace.
    pub fn session_failed<W>(
        &mut self,
        now: Duration,
        failure: F,
        previous: Option<Session>,
        out: &mut Actions<P, C, W, F>,
    ) {
        self.session = Sessions::Missing { previous };
        self.session_failure = Some(failure);
        self.session_retry_at = now + self.session_backoff;
        self.session_backoff = (self.session_backoff * 2).min(self.config.backoff_max);
        self.drive(now, None, out);
    }

    /// Time passes: callers whose deadline is over are answered, and what waits for a pause is sent.
    pub fn tick<W>(&mut self, now: Duration, out: &mut Actions<P, C, W, F>) {
        let why = self.connection_failure.as_ref().or(self.session_failure.as_ref());
        for (_, queue) in &mut self.queues {
            queue.expire(&self.config, now, why, out);
        }
        self.drive(now, None, out);
    }

    /// Callers give up before their deadline.
    pub fn abandon<W>(
        &mut self,
        now: Duration,
        partition: &P,
        gone: impl Fn(&C) -> bool,
        out: &mut Actions<P, C, W, F>,
    ) {
        let Ok(index) = self.queues.binary_search_by(|(known, _)| known.cmp(partition)) else { return };
        let why = self.connection_failure.as_ref().or(self.session_failure.as_ref());
        self.queues[index].1.give_up(&self.config, false, why, |part, _| gone(&part.caller), out);
        self.drive(now, Some(index), out);
    }

    /// A batch that is not completed.
    pub fn batch(&mut self, partition: &P, ticket: Ticket) -> Option<&mut Batch<C, B, F>> {
        let index = self.queues.binary_search_by(|(known, _)| known.cmp(partition)).ok()?;
        self.queues[index].1.batch(ticket)
    }

    /// Every caller gives up, in all partitions.
    pub fn abandon_all<W>(&mut self, now: Duration, out: &mut Actions<P, C, W, F>) {
        let why = self.connection_failure.as_ref().or(self.session_failure.as_ref());
        for (_, queue) in &mut self.queues {
            queue.give_up(&self.config, false, why, |_, _| true, out);
        }
        self.drive(now, None, out);
    }

    /// Whether there is no batch.
    pub fn is_idle(&self) -> bool {
        self.queues.iter().all(|(_, queue)| queue.is_empty())
    }

    /// Batches of a partition that were sent and are not completed.
    pub fn outstanding(&self, partition: &P) -> usize {
        let found = self.queues.binary_search_by(|(known, _)| known.cmp(partition));
        found.map_or(0, |index| self.queues[index].1.outstanding())
    }

    /// Batches of a partition that are not completed.
    pub fn batch_count(&self, partition: &P) -> usize {
        let found = self.queues.binary_search_by(|(known, _)| known.cmp(partition));
        found.map_or(0, |index| self.queues[index].1.len())
    }

    /// When something that was refused is sent again: [`Sequencer::tick`] is due then. Deadlines are looked at with every
    /// tick, and are answered as exactly as the driver ticks.
    pub fn next_retry(&self) -> Option<Duration> {
        if !self.connected {
            return None;
        }
        if self.config.numbering == Numbering::Own {
            match self.session {
                Sessions::Asked => return None,
                Sessions::Missing { .. } => {
                    let waits = self.session_failure.is_some() && !self.is_idle();
                    return waits.then_some(self.session_retry_at);
                }
                Sessions::Ready(_) => {}
            }
        }
        self.queues.iter().filter_map(|(_, queue)| queue.retry_at(self.broken.is_some())).min()
    }

    fn queue(&mut self, partition: P) -> usize {
        match self.queues.binary_search_by(|(known, _)| known.cmp(&partition)) {
            Ok(index) => index,
            Err(index) => {
                self.queues.insert(index, (partition, PartitionQueue::new(&self.config)));
                index
            }
        }
    }

    /// Sends what may be sent after an event, in one queue or in all.
    fn drive<W>(&mut self, now: Duration, touched: Option<usize>, out: &mut Actions<P, C, W, F>) {
        let touched_queues = match touched {
            Some(index) => &self.queues[index..=index],
            None => &self.queues,
        };
        self.broken = touched_queues.iter().filter_map(|(_, queue)| queue.broken).max().max(self.broken);
        let before = self.session;
        let mode = if self.config.numbering == Numbering::Own { self.settle_session(now, out) } else { Mode::All };
        let mode = if self.connected { mode } else { Mode::Nothing };
        let session = match self.session {
            Sessions::Ready(session) => Some(session),
            Sessions::Missing { .. } | Sessions::Asked => None,
        };
        let touched = touched.filter(|_| before == self.session && mode != Mode::Resolve);
        let queues = match touched {
            Some(index) => index..index + 1,
            None => 0..self.queues.len(),
        };
        for (partition, queue) in &mut self.queues[queues] {
            queue.advance(&self.config, now, (partition, session), mode, out);
        }
    }

    /// Asks for a session when one is needed and may begin. Returns what may be sent.
    fn settle_session<W>(&mut self, now: Duration, out: &mut Actions<P, C, W, F>) -> Mode {
        match self.session {
            Sessions::Asked => Mode::Nothing,
            Sessions::Missing { previous } => {
                let due = self.session_failure.is_none() || now >= self.session_retry_at;
                if due && !self.is_idle() {
                    self.session = Sessions::Asked;
                    out.push(Action::StartSession { previous });
                }
                Mode::Nothing
            }
            Sessions::Ready(session) => {
                let Some(broken) = self.broken else { return Mode::All };
                if !self.queues.iter().all(|(_, queue)| queue.is_settled(&self.config)) {
                    return Mode::Resolve;
                }
                if self.is_idle() {
                    // Nothing has to be numbered yet.
                    return Mode::Nothing;
                }
                self.session = Sessions::Asked;
                let previous = (broken == Broken::Gap).then_some(session);
                out.push(Action::StartSession { previous });
                Mode::Nothing
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use walser_model::{ProducerEpoch, ProducerId};

    use super::*;
    use crate::{Effect, Number, Outcome, Refused, Rules};

    type Act = Action<u8, u32, i64, Refused>;
    type Tested = Sequencer<u8, u32, (), Refused>;

    const NOW: Duration = Duration::from_secs(1);

    fn sequencer(numbering: Numbering) -> Tested {
        let (backoff_min, backoff_max) = (Duration::from_millis(10), Duration::from_millis(100));
        let grace = Duration::from_millis(50);
        Sequencer::new(Config { numbering, in_flight_max: 5, grace, backoff_min, backoff_max, rules: Rules::ALL })
    }

    fn session(epoch: i16) -> Session {
        Session { id: ProducerId(7), epoch: ProducerEpoch(epoch) }
    }

    /// With a session and `count` batches of one record each, all of them sent.
    fn sent(numbering: Numbering, count: u32) -> Tested {
        let (mut sequencer, mut out) = (sequencer(numbering), Vec::<Act>::new());
        for caller in 0..count {
            let part = Part { record_count: 1, size: Size::default(), deadline: NOW * 30, caller };
            sequencer.submit_batch(NOW, 0, part, (None, None), &mut out);
        }
        if numbering == Numbering::Own {
            sequencer.session_started(NOW, session(0), &mut out);
        }
        assert_eq!(sequencer.outstanding(&0), usize::try_from(count).unwrap().min(5));
        sequencer
    }

    fn answer(sequencer: &mut Tested, ticket: u64, attempt: u32, answer: Answer<i64, Refused>) -> Vec<Act> {
        let mut out = Vec::new();
        sequencer.answered(NOW, &0, (Ticket(ticket), attempt), answer, &mut out);
        out
    }

    fn refused(refused: Refused, maybe: bool) -> Answer<i64, Refused> {
        Answer::Refused { refused, maybe, failure: refused }
    }

    fn sends(actions: &[Act]) -> Vec<(u64, Option<(i16, i32)>)> {
        let send = |action: &Act| match action {
            Action::Send { ticket, number, .. } => {
                let number = number.map(|Number { session, base_sequence }| (session.epoch.0, base_sequence));
                Some((ticket.0, number))
            }
            _ => None,
        };
        actions.iter().filter_map(send).collect()
    }

    fn told(actions: &[Act]) -> Vec<(u32, Option<Effect>)> {
        let told = |action: &Act| match action {
            Action::Complete { caller, outcome: Outcome::Written { .. } } => Some((*caller, None)),
            Action::Complete { caller, outcome: Outcome::Failed { effect, .. } } => Some((*caller, Some(*effect))),
            _ => None,
        };
        actions.iter().filter_map(told).collect()
    }

    #[test]
    fn what_a_moved_leader_refused_is_sent_again_in_order_with_the_same_numbers() {
        let mut sequencer = sent(Numbering::Own, 3);
        assert!(sends(&answer(&mut sequencer, 0, 1, refused(Refused::Moved, true))).is_empty());
        assert!(sends(&answer(&mut sequencer, 1, 1, refused(Refused::Gap, false))).is_empty());
        assert!(sends(&answer(&mut sequencer, 2, 1, refused(Refused::Gap, false))).is_empty());
        let mut out = Vec::new();
        assert_eq!(sequencer.next_retry(), Some(NOW + Duration::from_millis(10)));
        sequencer.tick(NOW + Duration::from_millis(10), &mut out);
        assert_eq!(sends(&out), [(0, Some((0, 0))), (1, Some((0, 1))), (2, Some((0, 2)))]);
        assert_eq!(told(&answer(&mut sequencer, 0, 2, Answer::Written(40))), [(0, None)]);
    }

    #[test]
    fn behind_a_batch_that_failed_a_new_session_waits_until_nothing_may_be_written() {
        let mut sequencer = sent(Numbering::Own, 3);
        assert_eq!(told(&answer(&mut sequencer, 0, 1, refused(Refused::ForGood, false))), [(0, Some(Effect::None))]);
        answer(&mut sequencer, 1, 1, refused(Refused::Moved, true));
        answer(&mut sequencer, 2, 1, refused(Refused::Gap, false));
        let mut out = Vec::new();
        sequencer.tick(NOW * 2, &mut out);
        assert_eq!(sends(&out), [(1, Some((0, 1)))], "only what may be written is sent in the old session");
        let out = answer(&mut sequencer, 1, 2, refused(Refused::Gap, false));
        assert_eq!(told(&out), [(1, Some(Effect::Maybe))], "an attempt was lost, and nothing tells what became of it");
        assert!(matches!(out.last(), Some(Action::StartSession { previous: Some(_) })));
        let mut out = Vec::new();
        sequencer.session_started(NOW, session(1), &mut out);
        assert_eq!(sends(&out), [(2, Some((1, 0)))]);
    }

    #[test]
    fn without_sequences_nothing_is_written_twice_or_out_of_order() {
        let mut sequencer = sent(Numbering::Without, 4);
        assert_eq!(told(&answer(&mut sequencer, 0, 1, refused(Refused::Moved, true))), [(0, Some(Effect::Maybe))]);
        answer(&mut sequencer, 1, 1, refused(Refused::Moved, false));
        assert_eq!(told(&answer(&mut sequencer, 2, 1, Answer::Written(0))), [(2, None)]);
        let out = answer(&mut sequencer, 3, 1, refused(Refused::Moved, false));
        assert_eq!(told(&out), [(1, Some(Effect::None))], "a later one is written");
        let mut out = Vec::new();
        sequencer.tick(NOW * 2, &mut out);
        assert_eq!(sends(&out), [(3, None)]);
    }

    #[test]
    fn the_deadline_removes_what_has_not_left_and_says_maybe_of_what_has() {
        let mut sequencer = sent(Numbering::Own, 6);
        let mut out: Vec<Act> = Vec::new();
        sequencer.tick(NOW * 30, &mut out);
        assert_eq!(told(&out), [(5, Some(Effect::None))], "an answer may still come for the others");
        let mut out: Vec<Act> = Vec::new();
        sequencer.answered(NOW * 30, &0, (Ticket(4), 1), refused(Refused::Moved, false), &mut out);
        assert_eq!(told(&out), [(4, Some(Effect::None))], "it is not sent again");
        let mut out: Vec<Act> = Vec::new();
        sequencer.tick(NOW * 31, &mut out);
        let maybe = |caller| (caller, Some(Effect::Maybe));
        assert_eq!(told(&out), [maybe(0), maybe(1), maybe(2), maybe(3)]);
        for ticket in 0..4 {
            assert!(answer(&mut sequencer, ticket, 1, refused(Refused::Moved, false)).is_empty(), "no caller is left");
        }
        assert!(sequencer.is_idle());
    }
}
