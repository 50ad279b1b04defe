//! What can happen, and how often: drawn per seed, so that some worlds lose messages all the time and others never.

use walser_replication::control::{MERGED_PARTITIONS_MAX, Recovery};

use crate::random::Random;

/// Something that may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    /// A message arrives, or is lost, or arrives and comes again.
    Deliver,
    /// A leader pushes records to a follower.
    Pump,
    /// A flush begins, or ends.
    Flush,
    /// A producer writes, or tries again.
    Produce,
    /// A node sees more of the metadata.
    Observe,
    /// Time passes for a leader.
    Tick,
    /// A follower has waited too long.
    Timeout,
    /// A leader has waited too long for the controller.
    ProposalTimeout,
    /// A controller does one of its duties.
    Duty,
    /// A controller sees more of the store's history.
    Follow,
    /// The lease of the controller ends.
    LoseLease,
    /// A controller dies.
    CrashController,
    /// A node starts, or registers again.
    Start,
    /// A node dies, with or without a loss of power.
    Crash,
    /// A node stops in good order.
    Stop,
    /// A node is fenced although it lives.
    Fence,
    /// All nodes are fenced at once although they live, or all but one.
    Disconnect,
    /// A link is cut in one direction.
    Cut,
    /// All links are mended.
    Mend,
    /// Retention.
    Trim,
    /// The store forgets its history.
    Compact,
    /// A transaction is written long after whoever decided it gave it up.
    WriteLate,
    /// A disk hangs, or goes on.
    Hang,
    /// A log takes nothing any more.
    FailLog,
    /// A node dies and loses some or all of its replicas.
    LoseDisk,
    /// A consumer reads.
    Read,
    /// `min.insync.replicas` changes.
    Configure,
    /// Replicas are to move.
    Move,
    /// A partition is deleted, or another one created in its place.
    ComeAndGo,
    /// A topic's durability changes.
    Switch,
    /// All nodes die at once.
    Outage,
    /// The store is copied, or restored from a copy.
    Restore,
}

/// What prevails in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// What the seed says.
    Drawn,
    /// No storm; controllers live and keep up, and partitions stay.
    Calm,
    /// Processes die all the time, and are back at once.
    Storm,
    /// Nodes die, and are stopped in good order, all the time; the rest is as when it is calm.
    Stops,
}

/// How often what happens.
#[derive(Debug, Clone)]
pub(crate) struct Weights {
    /// Each as often as its weight says.
    table: Vec<Happening>,
    /// Of a thousand messages.
    pub(crate) drop: usize,
    pub(crate) duplicate: usize,
    pub(crate) reorder: usize,
    /// Of a thousand messages, how many arrive once more, long after.
    pub(crate) late: usize,
    /// Of a thousand proposals, how many wait when they could arrive.
    pub(crate) delay_proposals: usize,
    /// Of a thousand transactions, how many outcomes are not told.
    pub(crate) unknown: usize,
    /// Of a thousand writes, after how many their controller goes on before it has seen them.
    pub(crate) view_lags: usize,
    /// Of a thousand crashes.
    pub(crate) power_loss: usize,
    /// Whether controllers begin more than repairs on their own.
    pub(crate) policies: bool,
    /// Of a thousand chances, how often an operator takes the lead from somebody who is there, for one that is eligible.
    pub(crate) operator_elects: usize,
    /// Most partitions of one transaction.
    pub(crate) partitions_max: usize,
    /// What becomes of a partition without anybody who has everything.
    pub(crate) recovery: Recovery,
}

impl Weights {
    fn of(weights: &[(Happening, usize)]) -> Vec<Happening> {
        weights.iter().flat_map(|(happening, weight)| std::iter::repeat_n(*happening, *weight)).collect()
    }

    /// The weather of a seed.
    pub(crate) fn draw(random: &mut Random, weather: Weather, switches: bool) -> Self {
        use Happening::{
            ComeAndGo, Compact, Configure, Crash, CrashController, Cut, Deliver, Disconnect, Duty, FailLog, Fence,
            Flush, Follow, Hang, LoseDisk, LoseLease, Mend, Move, Observe, Outage, Produce, ProposalTimeout, Pump,
            Read, Restore, Start, Stop, Switch, Tick, Timeout, Trim, WriteLate,
        };
        // Processes that die and are back at once, while leaders stay: incarnations are all that tells them apart.
        let drawn = random.chance(200);
        let storm = weather == Weather::Storm || drawn && weather == Weather::Drawn;
        let steady = matches!(weather, Weather::Calm | Weather::Stops);
        let stops = random.one_of(&[0, 15]);
        let crash = match weather {
            _ if storm => 25,
            Weather::Stops => 12,
            _ => random.one_of(&[0, 1, 4, 12]),
        };
        let table = Self::of(&[
            (Deliver, random.one_of(&[200, 400])),
            (Pump, random.one_of(&[60, 150, 150])),
            (Flush, random.one_of(&[15, 60, 120])),
            (Produce, 70),
            (Observe, random.one_of(&[15, 60, 150])),
            (Tick, random.one_of(&[60, 200])),
            (Timeout, random.one_of(&[5, 20, 50])),
            (ProposalTimeout, random.one_of(&[1, 5, 15])),
            (Duty, if storm { 200 } else { random.one_of(&[40, 80]) }),
            (Start, if storm { 150 } else { random.one_of(&[10, 25]) }),
            (Crash, crash),
            (Fence, random.one_of(&[0, 3, 10])),
            (Disconnect, random.one_of(&[0, 0, 0, 1])),
            (Follow, 15),
            (LoseLease, random.one_of(&[0, 1, 5])),
            (CrashController, if steady { 0 } else { random.one_of(&[0, 0, 2]) }),
            (WriteLate, 4),
            (Mend, 4),
            (Read, 10),
            (Stop, if weather == Weather::Stops { 30 } else { stops }),
            (Cut, random.one_of(&[0, 0, 3])),
            (Trim, random.one_of(&[0, 1, 4])),
            (Compact, random.one_of(&[0, 2])),
            (Hang, random.one_of(&[0, 0, 2])),
            (FailLog, random.one_of(&[0, 0, 1])),
            (LoseDisk, random.one_of(&[0, 0, 2])),
            (Configure, random.one_of(&[0, 0, 2])),
            (Move, random.one_of(&[0, 0, 3])),
            (ComeAndGo, if steady { 0 } else { random.one_of(&[0, 0, 2, 6]) }),
            (Outage, random.one_of(&[0, 0, 0, 1])),
            (Restore, if steady { 0 } else { random.one_of(&[0, 0, 0, 0, 1]) }),
            (Switch, if switches { 3 } else { 0 }),
        ]);
        Self {
            table,
            drop: random.one_of(&[0, 30, 200]),
            duplicate: random.one_of(&[0, 30, 150]),
            reorder: random.one_of(&[0, 100, 1000]),
            late: random.one_of(&[0, 40, 200]),
            delay_proposals: random.one_of(&[0, 700, 950]),
            unknown: random.one_of(&[0, 50, 300]),
            view_lags: if steady { 0 } else { random.one_of(&[0, 100, 500]) },
            power_loss: random.one_of(&[100, 300, 900]),
            policies: true,
            partitions_max: random.one_of(&[1, 2, MERGED_PARTITIONS_MAX]),
            recovery: random.one_of(&[Recovery::Balanced, Recovery::Balanced, Recovery::Proactive]),
            operator_elects: if steady { 0 } else { random.one_of(&[0, 0, 50]) },
        }
    }

    /// After the faults.
    pub(crate) fn heal() -> Self {
        use Happening::{
            Deliver, Duty, Flush, Follow, Observe, Produce, ProposalTimeout, Pump, Read, Start, Tick, Timeout,
        };
        let table = Self::of(&[
            (Deliver, 500),
            (Pump, 150),
            (Flush, 120),
            (Observe, 60),
            (Duty, 60),
            (Produce, 20),
            (Tick, 20),
            (Start, 10),
            (Follow, 10),
            (Read, 5),
            (Timeout, 8),
            (ProposalTimeout, 4),
        ]);
        Self {
            table,
            drop: 0,
            duplicate: 0,
            reorder: 0,
            late: 0,
            delay_proposals: 0,
            unknown: 0,
            view_lags: 0,
            power_loss: 0,
            policies: false,
            partitions_max: MERGED_PARTITIONS_MAX,
            recovery: Recovery::Balanced,
            operator_elects: 0,
        }
    }

    pub(crate) fn pick(&self, random: &mut Random) -> Happening {
        self.table[random.below(self.table.len())]
    }
}
