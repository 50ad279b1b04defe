//! The world: nodes, controllers, store and network, and what is true in it.

mod control;
mod metadata;
mod restore;
pub(crate) mod shell;

use walser_model::LeaderEpoch;
use walser_replication::control::Decision;
use walser_replication::{PartitionState, ReplicaActions};

use crate::controller::Controller;
use crate::events::{Happening, Weights};
use crate::key::Key;
use crate::network::{CONTROLLERS, Network};
use crate::node::Node;
use crate::producer::{PRODUCERS, Producer};
use crate::random::Random;
use crate::records::Entry;
use crate::replica::Waiting;
use crate::setup::{Counts, Setup};
use crate::store::{Store, StoreCopy, id};

/// Most records that are committed in a partition: logs are searched from end to end.
const RECORDS_MAX: usize = 400;

/// What is true of a partition, whatever the nodes believe.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    /// Of the partition. 0: it was deleted, and none has taken its slot.
    pub(crate) generation: u32,
    pub(crate) committed: Vec<Entry>,
    /// Who led in which epoch: node and incarnation.
    pub(crate) led: Vec<(LeaderEpoch, usize, i64)>,
    /// Nodes that lost something since every replica had everything, one bit each.
    pub(crate) lost: u32,
    /// The store was restored since then: of the replicas that may lead, none is known to have been in sync.
    pub(crate) restored: bool,
    /// No election without proof since then, after which two pasts compete.
    pub(crate) settled: bool,
    /// The least `min_isr` since then.
    pub(crate) least_min_isr: usize,
    /// The latest election without proof.
    pub(crate) unclean_epoch: LeaderEpoch,
    /// `min_isr` or the replicas were changed, a disk was lost, or it began with fewer in service: whoever has nothing is not
    /// remembered.
    pub(crate) changed: bool,
    /// How far the reader has come.
    pub(crate) read: usize,
}

impl Truth {
    /// Of a new partition.
    pub(crate) fn of(generation: u32, state: &PartitionState) -> Self {
        let (least_min_isr, unclean_epoch) = (state.min_isr, LeaderEpoch::NONE);
        let changed = state.is_under_min_isr();
        Self { generation, settled: true, least_min_isr, unclean_epoch, changed, ..Self::default() }
    }
}

/// Everything.
pub struct World {
    pub(crate) setup: Setup,
    pub(crate) random: Random,
    pub(crate) weights: Weights,
    pub(crate) store: Store,
    pub(crate) controllers: Vec<Controller>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) truths: Vec<Truth>,
    pub(crate) producers: Vec<Producer>,
    pub(crate) healing: bool,
    /// Transactions that may be written yet, although nobody waits for them.
    pub(crate) late: Vec<Decision<Key>>,
    /// The latest generation that a partition was to be created with.
    pub(crate) generation: u32,
    /// A copy of the store's values, to go back to.
    pub(crate) copy: Option<StoreCopy>,
    /// A node that never comes back.
    pub(crate) dead: Option<usize>,
    /// What has happened.
    pub counts: Counts,
    /// Partitions to look at after this step, one bit each.
    pub(crate) touched: u32,
    /// What is said of every step, when somebody listens.
    pub trace: Option<Vec<String>>,
    pub(crate) violation: Option<String>,
    // Kept to be filled anew at every step.
    pub(crate) actions: ReplicaActions<Waiting>,
}

impl World {
    /// A world in which everything is well, and that goes the way of `seed` from there.
    pub fn new(setup: Setup, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let weights = Weights::draw(&mut random, setup.weather, setup.switches);
        let partitions: Vec<PartitionState> =
            (0..setup.partitions).map(|partition| Self::partition(setup, partition, &mut random)).collect();
        let truths = partitions.iter().map(|state| Truth::of(1, state)).collect();
        let store = Store::new(setup.nodes, partitions, setup.durability);
        let producers = (0..setup.partitions * PRODUCERS).map(|at| Producer::new(at, 1, 0)).collect();
        let mut world = Self {
            setup,
            random,
            weights,
            nodes: (0..setup.nodes).map(|number| Node::new(&store, number, setup.rules)).collect(),
            controllers: (0..2).map(|_| Controller::new(&store, setup.rules)).collect(),
            store,
            network: Network::default(),
            truths,
            producers,
            healing: false,
            late: Vec::new(),
            generation: 1,
            copy: None,
            dead: None,
            counts: Counts::default(),
            touched: u32::MAX,
            trace: None,
            violation: None,
            actions: ReplicaActions::new(),
        };
        world.controllers[0].view.controller_epoch = world.store.elect();
        for node in 0..setup.nodes {
            for slot in 0..setup.partitions {
                world.tell(node, slot);
            }
        }
        world
    }

    fn partition(setup: Setup, partition: usize, random: &mut Random) -> PartitionState {
        let copies = if setup.nodes == 3 || random.chance(500) { 3 } else { setup.nodes };
        let replicas = (0..copies).map(|copy| id((partition + copy) % setup.nodes)).collect();
        let min_isr = random.one_of(if copies == 3 { &[1, 2, 2, 2, 3] } else { &[2, 3] });
        PartitionState::new(replicas, min_isr)
    }

    /// Goes on by one event. `Err`: an invariant does not hold any more.
    ///
    /// # Errors
    /// What is violated.
    pub fn step(&mut self) -> Result<(), String> {
        let happening = self.weights.pick(&mut self.random);
        self.touched = 0;
        if self.happen(happening) {
            self.counts.events += 1;
            self.check();
        }
        match self.violation.take() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }

    fn happen(&mut self, happening: Happening) -> bool {
        let node = self.random.below(self.setup.nodes);
        let partition = self.random.below(self.setup.partitions);
        match happening {
            Happening::Deliver => self.deliver(),
            Happening::Pump => self.pump(node, partition),
            Happening::Flush => self.flush(node, partition),
            Happening::Produce => self.produce(),
            Happening::Observe => self.observe(node),
            Happening::Tick => self.tick(node, partition),
            Happening::Timeout => self.time_out(node, partition),
            Happening::ProposalTimeout => self.time_out_proposal(node, partition),
            Happening::Duty => self.duty(node, partition),
            Happening::Follow => self.follow_store(),
            Happening::LoseLease => self.lose_lease(),
            Happening::CrashController => self.crash_controller(),
            Happening::Start => self.start(node),
            Happening::Crash => self.crash(node),
            Happening::Stop => self.stop(node),
            Happening::Fence => self.fence_needlessly(node),
            Happening::Disconnect => self.fence_nearly_all(),
            Happening::Cut => self.cut(),
            Happening::Mend => self.mend(),
            Happening::Trim => self.trim(node, partition),
            Happening::Compact => self.compact(),
            Happening::WriteLate => self.write_late(),
            Happening::Hang => self.hang(node),
            Happening::FailLog => self.fail_log(node, partition),
            Happening::LoseDisk => self.lose_disk(node),
            Happening::Read => self.read(node, partition),
            Happening::Configure => self.configure(partition),
            Happening::Move => self.move_replicas(partition),
            Happening::ComeAndGo => self.come_and_go(partition),
            Happening::Switch => self.switch_durability(partition),
            Happening::Outage => self.outage(),
            Happening::Restore => self.copy_or_restore(),
        }
    }

    /// Whether there is room for more records.
    pub(crate) fn room(&self, partition: usize) -> bool {
        self.truths[partition].committed.len() < RECORDS_MAX
    }

    pub(crate) fn touch(&mut self, partition: usize) {
        self.touched |= 1 << partition;
    }

    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>6}  {}", self.counts.events, what()));
        }
    }

    /// The first violation of a step is kept.
    pub(crate) fn fail(&mut self, violation: String) {
        self.violation.get_or_insert(violation);
    }

    pub(crate) fn fault(&mut self) {
        self.counts.faults += 1;
    }

    fn cut(&mut self) -> bool {
        let mut places: Vec<usize> = (0..self.setup.nodes).collect();
        places.extend([CONTROLLERS, CONTROLLERS + 1]);
        let (from, to) = (self.random.one_of(&places), self.random.one_of(&places));
        if from == to || from.min(to) >= CONTROLLERS {
            return false;
        }
        self.network.cut(from, to);
        self.fault();
        self.say(|| format!("cut {from} -> {to}"));
        true
    }

    fn mend(&mut self) -> bool {
        let mended = self.network.heal();
        if mended {
            self.say(|| "all links mended".to_owned());
        }
        mended
    }

    fn compact(&mut self) -> bool {
        self.store.compact();
        self.say(|| "history compacted".to_owned());
        true
    }

    fn outage(&mut self) -> bool {
        self.say(|| "outage of everything".to_owned());
        (0..self.setup.nodes).for_each(|node| {
            self.crash(node);
        });
        true
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("setup", &self.setup).field("counts", &self.counts).finish_non_exhaustive()
    }
}
