//! What a world is, and what has happened in it.

use walser_model::Durability;
use walser_replication::Rules;

use crate::events::Weather;
use crate::random::Random;

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// 3 to 30.
    pub nodes: usize,
    /// 1 to 30, each with a replica on every one of 3 nodes, or on some of 5.
    pub partitions: usize,
    /// What counts as a position, at first.
    pub durability: Durability,
    /// Whether that changes now and then.
    pub switches: bool,
    /// Events before the faults stop.
    pub steps: usize,
    /// What prevails.
    pub weather: Weather,
    /// Which rules hold.
    pub rules: Rules,
}

/// What has happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Steps in which something happened.
    pub events: u64,
    /// Messages lost, links cut, crashes, lost disks, hanging flushes, needless fences, lost leases.
    pub faults: u64,
    /// Leader epochs that began.
    pub elections: u64,
    /// Logs that were cut after a divergence.
    pub truncations: u64,
    /// Logs that were replaced by the leader's segments.
    pub copies: u64,
    /// Records committed.
    pub commits: u64,
    /// Records answered.
    pub answers: u64,
    /// Elections without proof, after too many disks were lost or crashes unclean.
    pub unclean: u64,
    /// Committed records that these have lost.
    pub lost: u64,
    /// Moves of replicas that ended.
    pub moves: u64,
    /// Stores restored from an older copy.
    pub restored: u64,
    /// Partitions created and deleted.
    pub created: u64,
}

impl Setup {
    /// A setup drawn from a seed: 3 or 5 nodes, 1 to 4 partitions, either durability.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5e70);
        let partitions = 1 + random.below(4);
        Self {
            nodes: random.one_of(&[3, 3, 5]),
            partitions,
            durability: random.one_of(&[Durability::Fsync, Durability::PageCache]),
            steps: random.one_of(&[1500, 3000, 10_000]) * partitions,
            switches: random.chance(300),
            weather: Weather::Drawn,
            rules: Rules::ALL,
        }
    }
}
