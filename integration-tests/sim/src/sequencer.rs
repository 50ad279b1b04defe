//! A simulation of the way of batches to their leaders: the very [`Sequencer`] of gateway and client, between callers
//! that give up, links that lose answers and deliver late, leaders that move and stay away, and gateways that restart.
//!
//! Time is simulated; every event is drawn from the seed, and after it the invariants of `check.rs` hold. Leaders judge
//! batches with the producer states of `walser-log`, the same that storage nodes run.
//!
//! [`Sequencer`]: walser_sequencer::Sequencer

mod check;
mod driven;
mod leader;
mod world;

use walser_sequencer::{Rule, Rules};

use self::world::World;
use crate::search::{Counted, search};

/// What travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Plain records that gather in the gateway, under sessions of its own.
    Gathered,
    /// Batches without sequences.
    Unnumbered,
    /// A client with a session over three partitions, whose batches a gateway relays.
    Client,
}

/// How one run goes.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// What travels.
    pub traffic: Traffic,
    /// Per mille of deliveries at which a link breaks.
    pub breaks: usize,
    /// Per mille of deliveries after which a leader moves or stays away.
    pub moves: usize,
    /// Per mille of batches that a leader refuses for good.
    pub refusals: usize,
    /// Per mille of callers that give up early.
    pub impatience: usize,
    /// Per mille of deliveries after which the gateway restarts.
    pub restarts: usize,
    /// Events after which nothing new is submitted, and faults end.
    pub events: u64,
    /// The rules that hold.
    pub rules: Rules,
}

/// What was counted in runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events.
    pub events: u64,
    /// Callers that were told that their records are written.
    pub written: u64,
    /// Callers that were told that they are not.
    pub none: u64,
    /// Callers that were told that they may be.
    pub maybe: u64,
    /// Attempts beyond the first of a batch.
    pub resent: u64,
    /// Batches that a leader recognised.
    pub duplicates: u64,
    /// Attempts that arrived after they were given up for lost.
    pub late: u64,
    /// Sessions beyond the first of a producer.
    pub sessions: u64,
    /// Restarts of gateways.
    pub restarts: u64,
}

/// A rule that some seed breaks when it is switched off.
#[derive(Debug, Clone, Copy)]
pub struct SequencerMutation {
    /// Which.
    pub rule: Rule,
    /// The traffic in which it matters.
    pub traffic: Traffic,
}

/// Every rule, with traffic that needs it.
pub const SEQUENCER_MUTATIONS: &[SequencerMutation] = &[
    SequencerMutation { rule: Rule::AmbiguousKeepsNumber, traffic: Traffic::Gathered },
    SequencerMutation { rule: Rule::AmbiguousKeepsNumber, traffic: Traffic::Client },
    SequencerMutation { rule: Rule::SessionWaits, traffic: Traffic::Gathered },
    SequencerMutation { rule: Rule::SessionWaits, traffic: Traffic::Client },
    SequencerMutation { rule: Rule::SentMayBeWritten, traffic: Traffic::Gathered },
    SequencerMutation { rule: Rule::SentMayBeWritten, traffic: Traffic::Unnumbered },
    SequencerMutation { rule: Rule::EveryCallerIsAnswered, traffic: Traffic::Gathered },
    SequencerMutation { rule: Rule::RefusedGoFirst, traffic: Traffic::Unnumbered },
    SequencerMutation { rule: Rule::OvertakenIsNotResent, traffic: Traffic::Unnumbered },
    SequencerMutation { rule: Rule::UnnumberedIsSentOnce, traffic: Traffic::Unnumbered },
    SequencerMutation { rule: Rule::DeadlineHoldsBack, traffic: Traffic::Gathered },
    SequencerMutation { rule: Rule::UnwrittenShrinks, traffic: Traffic::Gathered },
];

impl Setup {
    /// The setup that a seed draws.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = crate::random::Random::new(seed ^ 0x5e90_e4ce);
        let traffic = random.one_of(&[Traffic::Gathered, Traffic::Unnumbered, Traffic::Client]);
        Self {
            traffic,
            breaks: random.one_of(&[0, 1, 5, 30]),
            moves: random.one_of(&[0, 2, 10, 40]),
            refusals: random.one_of(&[0, 0, 5, 30]),
            impatience: random.one_of(&[0, 10, 100]),
            restarts: random.one_of(&[0, 0, 1]),
            events: 3_000,
            rules: Rules::ALL,
        }
    }
}

impl Counted for Tally {
    fn add(&mut self, more: Self) {
        self.events += more.events;
        self.written += more.written;
        self.none += more.none;
        self.maybe += more.maybe;
        self.resent += more.resent;
        self.duplicates += more.duplicates;
        self.late += more.late;
        self.sessions += more.sessions;
        self.restarts += more.restarts;
    }

    fn events(&self) -> u64 {
        self.events
    }
}

/// Runs one seed.
///
/// # Errors
/// The invariant that is broken.
pub fn run_sequencer(setup: Setup, seed: u64) -> Result<Tally, String> {
    World::new(setup, seed).run().map_err(|violation| format!("seed {seed}, {setup:?}: {violation}"))
}

/// Runs seeds from `from` on, on several threads, until there are `events`.
///
/// # Errors
/// The first violation that a thread finds.
pub fn search_sequencer(from: u64, threads: usize, events: u64) -> Result<Tally, String> {
    search(from, threads, events, |seed| run_sequencer(Setup::of_seed(seed), seed))
}

impl SequencerMutation {
    /// The first seed below `seeds` that breaks an invariant without the rule.
    pub fn find(&self, seeds: u64) -> Option<String> {
        (1..seeds).find_map(|seed| {
            let drawn = Setup::of_seed(seed);
            let setup = Setup {
                traffic: self.traffic,
                breaks: drawn.breaks.max(5),
                moves: drawn.moves.max(10),
                refusals: drawn.refusals.max(5),
                rules: Rules::without(self.rule),
                ..drawn
            };
            run_sequencer(setup, seed).err()
        })
    }
}
