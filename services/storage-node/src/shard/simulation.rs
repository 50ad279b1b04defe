//! The production shard over the in-memory disk, with flushes and extensions that finish late and out of order.
//!
//! Each seed is one run: clients write batches of very different sizes, repeat some of them, and send some that are
//! refused; records are deleted on demand and for their age; jobs of the flush threads run at any later time, and the
//! shard is told of them later still; syncs fail and leave clean pages behind, files and space run short, the process
//! is killed, power is lost. After every restart each acknowledged record is at its offset. The same seed is the same
//! run, step by step.
//!
//! Invariant: what was acknowledged survives the death of the process, and on `durability=fsync` power loss too.
//! Invariant: what is acknowledged can be read at once.
//! Invariant: what readers have seen survives in the same way.
//! Invariant: every request is answered exactly once, at the latest when the shard stops.
//! Invariant: once nothing stands in the way, no record stays for long beyond its time.
//!
//! A [`Fault`] of an earlier version that is brought back is noticed.

mod cluster;
mod faults;
mod random;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use walser_log::PowerLoss;

use self::cluster::{Cluster, ClusterFault, Count};
use self::faults::Fault;
use self::world::{Restart, World};

/// As in production, and several times faster than the system's for blocks that come and go.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Turns of the shard in the ordinary run; `WALSER_SHARD_TURNS` of them otherwise.
const TURNS: u64 = 10_000_000;
/// The same for clusters.
const CLUSTER_TURNS: u64 = 1_000_000;
/// Steps of one seed.
const STEPS: usize = 3_000;
const CLUSTER_STEPS: usize = 8_000;
/// Seeds within which a fault has to be noticed.
const FAULT_SEEDS: u64 = 400;

/// What a seed came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    turns: u64,
    /// A hash of everything that was answered and found.
    trace: u64,
}

fn run(seed: u64, fault: Option<Fault>) -> Outcome {
    let mut world = World::new(seed, fault);
    for _ in 0..STEPS {
        world.step();
    }
    world.restart(Restart::Killed);
    world.restart(Restart::PowerLost(PowerLoss::Everything));
    world.check_every_request_was_answered();
    world.check_retention();
    Outcome { turns: world.turns(), trace: world.trace() }
}

/// Whether a run found something.
fn is_noticed(seed: u64, fault: Option<Fault>) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(seed, fault))).is_err()
}

/// A run of several nodes, and how much happened in it.
fn run_cluster(seed: u64, fault: Option<ClusterFault>) -> (Outcome, Count) {
    let mut cluster = Cluster::new(seed, fault);
    for _ in 0..CLUSTER_STEPS {
        cluster.step();
    }
    cluster.heal();
    cluster.check();
    (Outcome { turns: cluster.turns(), trace: cluster.trace() }, cluster.count)
}

/// Seeds in turn, until there were so many turns; the lowest one of those that found something.
fn search(turns: u64, run: impl Fn(u64) -> Outcome + Sync) -> Option<u64> {
    let (next, done, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while done.load(Ordering::Relaxed) < turns && failed.load(Ordering::Relaxed) == u64::MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    match catch_unwind(AssertUnwindSafe(|| run(seed))) {
                        Ok(outcome) => done.fetch_add(outcome.turns, Ordering::Relaxed),
                        Err(_) => failed.fetch_min(seed, Ordering::Relaxed),
                    };
                }
            });
        }
    });
    Some(failed.into_inner()).filter(|seed| *seed != u64::MAX)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|number| number.parse().ok())
}

#[test]
fn acknowledged_records_survive_late_completions_kills_failing_syncs_and_power_loss() {
    if let Some(seed) = number("SEED") {
        run(seed, None);
        return;
    }
    let failed = search(number("WALSER_SHARD_TURNS").unwrap_or(TURNS), |seed| run(seed, None));
    assert_eq!(failed, None, "of this seed: SEED=… cargo test -p walser-storage-node simulation");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}

#[test]
fn acknowledged_records_survive_on_other_nodes_with_cuts_copies_and_connections_that_break() {
    if let Some(seed) = number("SEED") {
        run_cluster(seed, None);
        return;
    }
    let all = Mutex::new(Count::default());
    let failed = search(number("WALSER_SHARD_TURNS").map_or(CLUSTER_TURNS, |turns| turns / 3), |seed| {
        let (outcome, count) = run_cluster(seed, None);
        let mut all = all.lock();
        *all = Count {
            cuts: all.cuts + count.cuts,
            copies: all.copies + count.copies,
            damages: all.damages + count.damages,
            deletions: all.deletions + count.deletions,
            compactions: all.compactions + count.compactions,
            tombstones_gone: all.tombstones_gone + count.tombstones_gone,
        };
        outcome
    });
    assert_eq!(failed, None, "of this seed: SEED=… cargo test -p walser-storage-node simulation");
    let Count { cuts, copies, damages, deletions, compactions, tombstones_gone } = all.into_inner();
    println!("{cuts} cuts, {copies} copies, {damages} damages, {deletions} deletions");
    println!("{compactions} replicas were compacted, tombstones have gone in {tombstones_gone} runs");
    assert!(cuts > 100 && copies > 100 && damages > 20, "logs are cut and copied, and damage is met");
    assert!(deletions > 100, "records are deleted");
    assert!(compactions > 100 && tombstones_gone > 20, "logs are compacted, and tombstones go");
}

#[test]
fn the_same_seed_is_the_same_run_of_a_cluster() {
    for seed in 0..10 {
        assert_eq!(run_cluster(seed, None), run_cluster(seed, None), "seed {seed}");
    }
}

#[test]
fn a_fault_of_replication_is_noticed() {
    for fault in ClusterFault::RANDOM {
        let noticed =
            (0..FAULT_SEEDS).find(|seed| catch_unwind(AssertUnwindSafe(|| run_cluster(*seed, Some(fault)))).is_err());
        assert!(noticed.is_some(), "{fault:?} is not noticed in {FAULT_SEEDS} seeds");
        println!("{fault:?}: seed {}", noticed.unwrap_or_default());
    }
}

#[test]
fn a_fault_that_comes_back_is_noticed() {
    for fault in Fault::ALL {
        let noticed = (0..FAULT_SEEDS).find(|seed| is_noticed(*seed, Some(fault)));
        assert!(noticed.is_some(), "{fault:?} is not noticed in {FAULT_SEEDS} seeds");
        println!("{fault:?}: seed {}", noticed.unwrap_or_default());
    }
}
