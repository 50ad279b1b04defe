//! Runs of whole seeds.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::setup::{Counts, Setup};
use crate::world::World;

/// Steps that healing may take, for each partition and node.
const HEALING_STEPS: usize = 20_000;
/// Most violations that are looked for before a search gives up.
const VIOLATIONS_MAX: usize = 5;
/// Steps between two looks whether everything is well again.
const LOOK_EVERY: usize = 50;

/// What a seed has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// Steps before the faults stopped that it takes.
    pub steps: usize,
    /// What does not hold.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} after {} steps: {}", self.seed, self.steps, self.what)
    }
}

/// One seed from beginning to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What happened.
    pub counts: Counts,
    /// What went wrong.
    pub violation: Option<Violation>,
    /// What is said of every step, when it was asked for.
    pub trace: Vec<String>,
}

/// Many seeds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many.
    pub seeds: u64,
    /// What happened in all of them.
    pub counts: Counts,
    /// What went wrong.
    pub violations: Vec<Violation>,
}

/// Runs a seed: faults, and then healing.
pub fn run(setup: Setup, seed: u64, trace: bool) -> Outcome {
    let mut world = World::new(setup, seed);
    world.trace = trace.then(Vec::new);
    let mut steps = 0;
    let mut wrong = None;
    while wrong.is_none() && steps < setup.steps {
        wrong = world.step().err();
        steps += 1;
    }
    if wrong.is_none() {
        wrong = heal(&mut world);
    }
    let violation = wrong.map(|what| Violation { seed, steps, what });
    Outcome { counts: world.counts, violation, trace: world.trace.unwrap_or_default() }
}

fn heal(world: &mut World) -> Option<String> {
    world.begin_to_heal();
    let mut woken = false;
    for step in 0..HEALING_STEPS * world.setup.partitions * world.setup.nodes {
        if let Err(wrong) = world.step() {
            return Some(wrong);
        }
        if step % LOOK_EVERY == 0 && world.ailment().is_none() {
            if woken {
                return None;
            }
            world.wake_producers();
            woken = true;
        }
    }
    world.ailment().map(|ailment| format!("I22: not healed: {ailment}"))
}

/// Runs seeds from `from` on, until `over` says so, which is asked with the events so far, or too much has gone wrong.
pub fn search(from: u64, threads: usize, over: impl Fn(u64) -> bool + Sync) -> Summary {
    let (next, events) = (AtomicU64::new(from), AtomicU64::new(0));
    let worker = || {
        let mut summary = Summary::default();
        while !over(events.load(Ordering::Relaxed)) && summary.violations.len() < VIOLATIONS_MAX {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let outcome = run(Setup::of_seed(seed), seed, false);
            events.fetch_add(outcome.counts.events, Ordering::Relaxed);
            summary.add(outcome);
        }
        summary
    };
    let mut all = Summary::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            all.merge(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    all
}

/// The shortest run of a failing seed that still fails. A violation of a state ends the run where it happens; what does
/// not heal is tried with fewer and fewer steps before.
pub fn shortest(setup: Setup, violation: &Violation) -> Outcome {
    let mut best = Setup { steps: violation.steps, ..setup };
    let mut stride = best.steps / 2;
    while stride > 0 {
        let shorter = Setup { steps: best.steps - stride, ..setup };
        if run(shorter, violation.seed, false).violation.is_some() {
            best = shorter;
        }
        stride = stride.min(best.steps) / 2;
    }
    run(best, violation.seed, true)
}

impl Counts {
    fn fields(&mut self) -> [(&'static str, &mut u64); 12] {
        [
            ("events", &mut self.events),
            ("faults", &mut self.faults),
            ("elections", &mut self.elections),
            ("truncations", &mut self.truncations),
            ("copies", &mut self.copies),
            ("commits", &mut self.commits),
            ("answers", &mut self.answers),
            ("elections without proof", &mut self.unclean),
            ("records lost by them", &mut self.lost),
            ("moves", &mut self.moves),
            ("stores restored", &mut self.restored),
            ("partitions created or deleted", &mut self.created),
        ]
    }

    /// Adds what happened elsewhere.
    pub fn add(&mut self, mut other: Self) {
        for ((_, sum), (_, more)) in self.fields().into_iter().zip(other.fields()) {
            *sum += *more;
        }
    }
}

impl Summary {
    /// Adds a seed.
    pub fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.counts.add(outcome.counts);
        self.violations.extend(outcome.violation);
    }

    /// Adds the seeds of somebody else.
    pub fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.counts.add(other.counts);
        self.violations.extend(other.violations);
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = self.counts;
        write!(f, "{} seeds", self.seeds)?;
        for (name, count) in counts.fields() {
            write!(f, ", {count} {name}")?;
        }
        write!(f, ", {} violations", self.violations.len())
    }
}
