//! A simulation of consumer groups: the very [`GroupShard`] of the coordinator, between coordinators that pause, die and
//! go on as zombies, a log that fences them, gateways that pause, vanish and come back, messages that are lost, late and
//! twice, topics that grow, go and come again, and clients that read, commit, leave, come back and hang.
//!
//! Time is simulated; every event is drawn from the seed, and after it the invariants of `group/check.rs` hold.
//!
//! [`GroupShard`]: walser_group::GroupShard

mod check;
mod log;
mod message;
mod party;
mod world;

use walser_group::{GroupRule, GroupRules};

use self::world::World;
use crate::search::{Counted, search};

/// A rule that coordinators, gateways and the log keep around the state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverRule {
    /// Answers are released once the events behind them, and all before, are replicated.
    AnswersWait,
    /// The log refuses what a coordinator with a lower epoch appends.
    WritersAreFenced,
    /// A gateway ignores answers of a coordinator whose epoch is below the highest that it has seen.
    OldCoordinatorsAreIgnored,
    /// A gateway names also those members in its reports whose attachment is asked for and not answered.
    ReportsNameAttaching,
}

/// How one run goes.
#[derive(Debug, Clone, Copy)]
pub struct GroupSetup {
    /// Clients, over two groups.
    pub clients: usize,
    /// Per mille of messages that are lost.
    pub losses: usize,
    /// Per mille of requests that arrive again, up to ten seconds later.
    pub repeats: usize,
    /// Per mille of tenths of a second in which a gateway pauses or vanishes.
    pub gateway_faults: usize,
    /// The same for the coordinator.
    pub coordinator_faults: usize,
    /// Per mille of tenths of a second in which the log begins to be slow.
    pub log_faults: usize,
    /// Per mille of tenths of a second in which topics change.
    pub topic_changes: usize,
    /// Per mille of tenths of a second in which an operator does something.
    pub operations: usize,
    /// Per mille of a client's steps in which it goes, one way or another.
    pub departures: usize,
    /// Per mille of tenths of a second at which producers fall silent, for long enough that offsets could expire.
    pub silences: usize,
    /// The time between heartbeats of a member, in seconds.
    pub member_beats: u64,
    /// After so many seconds without an answer a gateway asks again for a member that is to attach.
    pub ask_again: u64,
    /// Events after which faults end.
    pub events: u64,
    /// The rules of the state machine that hold.
    pub rules: GroupRules,
    /// The rule around it that does not.
    pub without: Option<DriverRule>,
}

/// What was counted in runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupTally {
    pub events: u64,
    /// Records that were processed.
    pub processed: u64,
    /// Commits that were answered.
    pub commits: u64,
    /// Commits that were refused, of a member that was fenced or did not hold the partition.
    pub refusals: u64,
    /// Coordinators beyond the first.
    pub takeovers: u64,
    /// Appends of coordinators that were replaced and did not know it.
    pub zombie_appends: u64,
    /// Members that came back with their token.
    pub resumptions: u64,
    /// Members whose session expired.
    pub expiries: u64,
    /// Partitions that were released.
    pub releases: u64,
    /// Partitions that were assigned.
    pub assignments: u64,
    /// Static members that took the place of another.
    pub replacements: u64,
    /// Groups, and offsets, that were deleted or expired.
    pub deletions: u64,
    /// Forced resets.
    pub resets: u64,
}

/// A rule that some seed breaks when it is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupMutation {
    /// A rule of the state machine.
    Machine(GroupRule),
    /// A rule around it.
    Driver(DriverRule),
}

/// Every rule.
pub const GROUP_MUTATIONS: &[GroupMutation] = &[
    GroupMutation::Machine(GroupRule::RevocationIsAwaited),
    GroupMutation::Machine(GroupRule::ReleaseNamesAssignment),
    GroupMutation::Machine(GroupRule::RevocationTimesOut),
    GroupMutation::Machine(GroupRule::CommitChecksOwner),
    GroupMutation::Machine(GroupRule::CommitChecksAssignmentEpoch),
    GroupMutation::Machine(GroupRule::CommitsKeepOrder),
    GroupMutation::Machine(GroupRule::SimpleCommitNeedsEmptyGroup),
    GroupMutation::Machine(GroupRule::AttachmentFences),
    GroupMutation::Machine(GroupRule::AttachmentIsWritten),
    GroupMutation::Machine(GroupRule::AttachmentsAreReserved),
    GroupMutation::Machine(GroupRule::SessionEnds),
    GroupMutation::Machine(GroupRule::GatewayExtendsSessions),
    GroupMutation::Machine(GroupRule::OrphansAreDetached),
    GroupMutation::Machine(GroupRule::SessionsRestart),
    GroupMutation::Machine(GroupRule::InstanceIsExclusive),
    GroupMutation::Machine(GroupRule::TopicsReassign),
    GroupMutation::Machine(GroupRule::ExpiryNeedsEmptyGroup),
    GroupMutation::Machine(GroupRule::ForcedResetReassigns),
    GroupMutation::Driver(DriverRule::AnswersWait),
    GroupMutation::Driver(DriverRule::WritersAreFenced),
    GroupMutation::Driver(DriverRule::OldCoordinatorsAreIgnored),
    GroupMutation::Driver(DriverRule::ReportsNameAttaching),
];

impl GroupSetup {
    /// The setup that a seed draws.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = crate::random::Random::new(seed ^ 0x6720_0709);
        Self {
            clients: 2 + random.below(7),
            losses: random.one_of(&[0, 2, 20]),
            repeats: random.one_of(&[0, 5, 50]),
            gateway_faults: random.one_of(&[0, 2, 10]),
            coordinator_faults: random.one_of(&[0, 2, 10]),
            log_faults: random.one_of(&[0, 2, 10]),
            topic_changes: random.one_of(&[0, 2, 10]),
            operations: random.one_of(&[0, 2, 10]),
            departures: random.one_of(&[0, 2, 10]),
            silences: random.one_of(&[0, 0, 3]),
            member_beats: random.one_of(&[2, 20]),
            ask_again: random.one_of(&[1, 5]),
            events: 20_000,
            rules: GroupRules::ALL,
            without: None,
        }
    }
}

impl Counted for GroupTally {
    fn add(&mut self, more: Self) {
        self.events += more.events;
        self.processed += more.processed;
        self.commits += more.commits;
        self.refusals += more.refusals;
        self.takeovers += more.takeovers;
        self.zombie_appends += more.zombie_appends;
        self.resumptions += more.resumptions;
        self.expiries += more.expiries;
        self.releases += more.releases;
        self.assignments += more.assignments;
        self.replacements += more.replacements;
        self.deletions += more.deletions;
        self.resets += more.resets;
    }

    fn events(&self) -> u64 {
        self.events
    }
}

/// Runs one seed.
///
/// # Errors
/// The invariant that is broken.
pub fn run_groups(setup: GroupSetup, seed: u64) -> Result<GroupTally, String> {
    World::new(setup, seed).run().map_err(|violation| format!("seed {seed}, {setup:?}: {violation}"))
}

/// Runs seeds from `from` on, on several threads, until there are `events`.
///
/// # Errors
/// The first violation that a thread finds.
pub fn search_groups(from: u64, threads: usize, events: u64) -> Result<GroupTally, String> {
    search(from, threads, events, |seed| run_groups(GroupSetup::of_seed(seed), seed))
}

impl GroupMutation {
    /// The first seed below `seeds` that breaks an invariant without the rule, and how.
    pub fn find(&self, seeds: u64) -> Option<(u64, String)> {
        (1..seeds).find_map(|seed| {
            let drawn = GroupSetup::of_seed(seed);
            let drawn = GroupSetup {
                losses: drawn.losses.max(2),
                repeats: drawn.repeats.max(50),
                departures: drawn.departures.max(10),
                operations: drawn.operations.max(2),
                log_faults: drawn.log_faults.max(2),
                ..drawn
            };
            let setup = match *self {
                Self::Machine(rule) => GroupSetup { rules: GroupRules::without(rule), ..drawn },
                Self::Driver(rule) => GroupSetup { without: Some(rule), ..drawn },
            };
            run_groups(setup, seed).err().map(|violation| (seed, violation))
        })
    }
}
