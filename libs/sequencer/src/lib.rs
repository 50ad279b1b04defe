//! The order and the fate of batches on their way to the leader of a partition: one pure state machine, driven by the
//! gateway for records that gather and for batches that clients build, and by the producer of the Rust client.
//!
//! A [`Sequencer`] belongs to one producer. For each partition it holds a queue of batches, of which the first few are
//! sent and not answered. It decides which batch is sent when and with which sequence, which is sent again, and what
//! each caller is told. The driver owns the clock, the network, the bytes and the producer ids: it feeds events and
//! carries out [`Action`]s in their order.
//!
//! What holds, whatever the network and the leaders do:
//!
//! 1. **Nothing is written twice.** A batch that may be written keeps its sequence (KIP-98: the leader recognises it)
//!    until its outcome is known. Without sequences it is never sent again.
//! 2. **Order.** Batches of a partition are written in the order in which they were submitted. A batch that was refused
//!    is sent again before later ones; where that is not possible, it fails.
//! 3. **Every caller is answered once**, by its deadline, or a little later while an attempt is in flight.
//! 4. **The truth about effects.** [`Effect::None`] is said only of records that are not written and never will be.
//! 5. **Bounds.** What has not left by its deadline does not leave. A batch of which every caller has been answered is
//!    not sent again.
//!
//! A new session (a higher producer epoch, or another producer id) lets batches be numbered anew after one of them
//! failed. It begins only when no batch is in flight and none may be written: the leader would accept one of them in
//! both sessions.
//!
//! Invariant: no clock, no I/O, no randomness, no order of a hash map.

mod batch;
mod partition_queue;
mod rules;
mod sequencer;

use std::time::Duration;

use walser_model::{ProducerEpoch, ProducerId};

pub use batch::{Batch, Part, Size};
pub use rules::{Rule, Rules};
pub use sequencer::Sequencer;

/// Identifies a batch within its sequencer; grows with every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A producer id and its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    pub id: ProducerId,
    /// A higher epoch fences lower ones.
    pub epoch: ProducerEpoch,
}

/// Where a batch stands in its producer's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    pub session: Session,
    /// Sequence of the first record.
    pub base_sequence: i32,
}

/// Where the sequences of batches come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// The sequencer numbers batches, in sessions that it asks the driver for.
    Own,
    /// Batches come with a sequence that stays: they are retries of a client that has a session of its own.
    Given,
    /// There are no sequences: leaders do not recognise a repetition.
    Without,
}

/// How a sequencer works.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Where sequences come from.
    pub numbering: Numbering,
    /// Batches of one partition that may be unanswered, inclusive; with sequences at most what a leader remembers.
    pub in_flight_max: usize,
    /// How long behind its deadline a caller still waits for the answer to an attempt in flight: it is better to know.
    pub grace: Duration,
    /// The pause before a batch is sent again; doubled with each refusal in a row.
    pub backoff_min: Duration,
    /// The longest pause between attempts.
    pub backoff_max: Duration,
    /// The rules that hold.
    pub rules: Rules,
}

/// Why an attempt was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The leader moved, or was lost: the batch can be sent again.
    Moved,
    /// The leader expects another sequence.
    Gap,
    /// The leader does not know the producer.
    UnknownProducer,
    /// A higher epoch of the producer has written.
    Fenced,
    /// The batch is written, but the leader no longer knows where.
    Applied,
    /// Sending it again does not help.
    ForGood,
}

/// The answer to an attempt.
#[derive(Debug, Clone)]
pub enum Answer<W, F> {
    /// The batch is written.
    Written(W),
    /// It is not, or that is not known.
    Refused {
        /// Why.
        refused: Refused,
        /// The attempt may have been carried out.
        maybe: bool,
        /// What to tell callers.
        failure: F,
    },
}

/// Whether a failed write may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It did not, and will not.
    None,
    /// It may have, or still may.
    Maybe,
    /// The write has been applied.
    Applied,
}

/// What a caller is told.
#[derive(Debug, Clone)]
pub enum Outcome<W, F> {
    /// Its records are written.
    Written {
        /// The leader's answer for the batch.
        answer: W,
        /// Records of the batch before those of the caller.
        first_record: i64,
    },
    /// They are not, or that is not known.
    Failed {
        /// Why. `None`: the deadline has passed, and nothing is known that keeps the batch.
        failure: Option<F>,
        /// Whether they may be written.
        effect: Effect,
        /// The deadline has passed.
        expired: bool,
    },
}

/// What the driver does next. Actions are carried out in their order.
#[derive(Debug, Clone)]
pub enum Action<P, C, W, F> {
    /// Send a batch to the leader of its partition, behind everything that was sent to it before. The answer comes back
    /// with the ticket and the attempt.
    Send {
        /// Its partition.
        partition: P,
        /// The batch, to be looked up with [`Sequencer::batch`].
        ticket: Ticket,
        /// Counts the attempts of a batch from 1.
        attempt: u32,
        /// What the batch carries; `None` when the sequencer does not number batches.
        number: Option<Number>,
    },
    /// Get a session: the next epoch of the one before, or a new producer id when there is none. Answered with
    /// [`Sequencer::session_started`] or [`Sequencer::session_failed`].
    StartSession {
        /// The session that this one replaces.
        previous: Option<Session>,
    },
    /// Tell a caller the outcome.
    Complete {
        /// Who.
        caller: C,
        /// What became of its records.
        outcome: Outcome<W, F>,
    },
}
