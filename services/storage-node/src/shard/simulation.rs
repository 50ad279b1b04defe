//! The production shard over the in-memory disk, with flushes and extensions that finish late and out of order.
//!
//! Each seed is one run: clients write batches of very different sizes, repeat some of them, and send some that are
//! refused; jobs of the flush threads run at any later time, and the shard is told of them later still; syncs fail and
//! leave clean pages behind, the process is killed, power is lost. After every restart each acknowledged record is at its offset.
//!
//! Invariant: what was acknowledged survives the death of the process, and on `durability=fsync` power loss too.
//! Invariant: every request is answered exactly once, at the latest when the shard stops.

mod world;

use walser_log::PowerLoss;

use self::world::{Restart, World};

/// Seeds of the ordinary run.
const SEEDS: u64 = 25;
const STEPS: usize = 500;

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.restart(Restart::Killed);
    world.restart(Restart::PowerLost(PowerLoss::Everything));
    world.check_every_request_was_answered();
}

#[test]
fn acknowledged_records_survive_late_completions_kills_failing_syncs_and_power_loss() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    if let Some(seed) = seed {
        return run(seed);
    }
    let seeds = std::env::var("WALSER_SHARD_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "seed {seed}: SEED={seed} cargo test -p walser-storage-node simulation");
    }
}
