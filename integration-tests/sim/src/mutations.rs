//! The rules one by one: without each of them, the simulator finds a violation, and this fast.

use walser_model::Durability;
use walser_replication::{Rule, Rules};

use crate::events::Weather;
use crate::setup::Setup;
use crate::summary::{Violation, run};

/// A rule that some seed breaks when it is switched off.
#[derive(Debug, Clone, Copy)]
pub struct Mutation {
    /// Which.
    pub rule: Rule,
    /// With which durability it is needed.
    pub durability: Durability,
    /// How many nodes it takes.
    pub nodes: usize,
    /// How many partitions.
    pub partitions: usize,
    /// The weather in which it matters most.
    pub weather: Weather,
    /// Seeds that the model of the design took; a tenth of what is allowed here.
    pub model_seeds: u64,
}

/// At least so many seeds are tried: what happens in one world of the model is spread over more of these.
const SEEDS_MIN: u64 = 100;
/// More seeds than this are not tried, whatever the model took.
const SEEDS_MAX: u64 = 20_000;

const fn of(rule: Rule, durability: Durability, model_seeds: u64) -> Mutation {
    Mutation { rule, durability, nodes: 3, partitions: 1, weather: Weather::Drawn, model_seeds }
}

const fn when(weather: Weather, mutation: Mutation) -> Mutation {
    Mutation { weather, ..mutation }
}

/// Every rule that random seeds break, as the table of the protocol's model has them.
pub const MUTATIONS: &[Mutation] = &[
    of(Rule::NoCutToHighWatermark, Durability::Fsync, 1),
    of(Rule::NoCutToHighWatermark, Durability::PageCache, 2),
    of(Rule::ShrinkIsWritten, Durability::Fsync, 1),
    of(Rule::ShrinkIsWritten, Durability::PageCache, 1),
    of(Rule::HighWatermarkNeedsMinIsr, Durability::Fsync, 3),
    of(Rule::HighWatermarkNeedsMinIsr, Durability::PageCache, 1),
    of(Rule::JoinFromEpochStart, Durability::Fsync, 12),
    of(Rule::JoinFromEpochStart, Durability::PageCache, 16),
    of(Rule::MaximalIsr, Durability::Fsync, 129),
    of(Rule::MaximalIsr, Durability::PageCache, 38),
    of(Rule::RefusalKeepsMaximal, Durability::Fsync, 516),
    of(Rule::RefusalKeepsMaximal, Durability::PageCache, 185),
    of(Rule::OpenSequence, Durability::Fsync, 143),
    of(Rule::OpenSequence, Durability::PageCache, 143),
    of(Rule::FreshMetadata, Durability::Fsync, 13),
    of(Rule::FreshMetadata, Durability::PageCache, 36),
    of(Rule::SweepBeforeRegistration, Durability::Fsync, 4),
    of(Rule::SweepBeforeRegistration, Durability::PageCache, 19),
    // With partitions that come and go, one that is written after it was deleted tells it at once.
    when(Weather::Calm, of(Rule::CompareAll, Durability::Fsync, 116)),
    when(Weather::Calm, of(Rule::CompareAll, Durability::PageCache, 59)),
    of(Rule::CompareAll, Durability::Fsync, 116),
    of(Rule::DurablePositions, Durability::Fsync, 8),
    of(Rule::JoinOnDurable, Durability::Fsync, 149),
    of(Rule::UncleanIsNotEligible, Durability::PageCache, 8),
    when(Weather::Stops, of(Rule::UncleanIsSticky, Durability::PageCache, 300)),
    when(Weather::Calm, of(Rule::NodeEpoch, Durability::PageCache, 1736)),
    of(Rule::EligibleLeaders, Durability::PageCache, 156),
    // Amendments, which the model did not have.
    of(Rule::WorkHoldsRoles, Durability::Fsync, 1000),
    of(Rule::LeadIsGivenUp, Durability::Fsync, 100),
    of(Rule::RepeatWaits, Durability::Fsync, 100),
    when(Weather::Calm, Mutation { nodes: 5, ..of(Rule::MoveBeginsEpoch, Durability::Fsync, 1000) }),
    of(Rule::LazyIsTold, Durability::Fsync, 1000),
    of(Rule::MinIsrRecomputes, Durability::Fsync, 100),
    Mutation { partitions: 2, ..of(Rule::MergeKeepsComparisons, Durability::Fsync, 1000) },
    Mutation { partitions: 2, ..of(Rule::MergeKeepsComparisons, Durability::PageCache, 1000) },
    of(Rule::CreationComparesNodes, Durability::Fsync, 1000),
    of(Rule::UnfenceAfterSeen, Durability::Fsync, 100),
    of(Rule::UnfenceAfterSeen, Durability::PageCache, 100),
    of(Rule::RestoreAsksAll, Durability::Fsync, 100),
    of(Rule::RestoreAsksAll, Durability::PageCache, 100),
    of(Rule::OneRevision, Durability::Fsync, 1000),
    of(Rule::OneRevision, Durability::PageCache, 1000),
];

impl Mutation {
    /// The world in which it is looked for: that of the model.
    pub fn setup(&self) -> Setup {
        let rules = Rules::without(self.rule);
        Setup {
            nodes: self.nodes,
            partitions: self.partitions,
            durability: self.durability,
            switches: self.rule == Rule::LazyIsTold,
            steps: 12_000,
            weather: self.weather,
            rules,
        }
    }

    /// Seeds until it must be found.
    pub fn seeds(&self) -> u64 {
        (self.model_seeds * 10).clamp(SEEDS_MIN, SEEDS_MAX)
    }

    /// The first seed that finds it, from 1, of at most `seeds`.
    pub fn find(&self, seeds: u64) -> Option<Violation> {
        (1..=seeds).find_map(|seed| run(self.setup(), seed, false).violation)
    }
}
