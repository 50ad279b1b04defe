//! The protocol under the simulator: many seeds without a violation, and a violation without any one rule.

use std::sync::atomic::{AtomicUsize, Ordering};

use walser_model::Durability;
use walser_replication::{Rule, Rules};
use walser_sim::{
    GROUP_MUTATIONS, GroupMutation, GroupSetup, MUTATIONS, SEQUENCER_MUTATIONS, SequencerSetup, Setup, Weather, run,
    run_groups, run_sequencer, search, search_groups, search_sequencer, shortest,
};

/// Events of the ordinary run; `WALSER_SIM_EVENTS` sets another number.
const EVENTS: u64 = 20_000_000;

/// Rules that have a test of their own, because another one stops nearly everything before: `src/scripted.rs`.
const SCRIPTED: [Rule; 10] = [
    Rule::ElectionGuard,
    Rule::CompareNodes,
    Rule::FenceBeforeRegistration,
    Rule::EpochFence,
    Rule::EligibleLeaders,
    Rule::OpenNamesProcess,
    Rule::RefusedIsHeardFirst,
    Rule::EpochStartIsDurable,
    Rule::EpochsOfOneStart,
    Rule::TombstonesAreThere,
];

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn no_seed_breaks_an_invariant() {
    let wanted = std::env::var("WALSER_SIM_EVENTS").map_or(EVENTS, |events| events.parse().unwrap());
    let summary = search(1, threads(), |events| events >= wanted);
    let told: Vec<String> = summary.violations.iter().map(ToString::to_string).collect();
    assert!(told.is_empty(), "{}\n`make sim SEED=…` shows it step by step", told.join("\n"));
    // Whatever is to be survived has happened, many times.
    let counts = summary.counts;
    for (what, count) in [
        ("faults", counts.faults),
        ("elections", counts.elections),
        ("truncations", counts.truncations),
        ("copies", counts.copies),
        ("commits", counts.commits),
        ("answers", counts.answers),
        ("elections without proof", counts.unclean),
        ("moves", counts.moves),
        ("restored stores", counts.restored),
        ("partitions that came or went", counts.created),
    ] {
        assert!(count > wanted / 20_000, "hardly any {what}: {summary}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..20 {
        let (once, again) = (run(Setup::of_seed(seed), seed, true), run(Setup::of_seed(seed), seed, true));
        assert!(once.trace.len() > 100);
        assert_eq!(once, again, "seed {seed}");
        assert_eq!(once.counts, run(Setup::of_seed(seed), seed, false).counts, "a trace changes nothing");
    }
}

#[test]
fn without_any_one_rule_some_seed_breaks_an_invariant() {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut missed = Vec::new();
        while let Some(mutation) = MUTATIONS.get(next.fetch_add(1, Ordering::Relaxed)) {
            if mutation.find(mutation.seeds()).is_none() {
                missed.push(format!("{mutation:?}: nothing in {} seeds", mutation.seeds()));
            }
        }
        missed
    };
    let missed: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads()).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn every_rule_can_be_missed() {
    for rule in Rule::ALL {
        let found = MUTATIONS.iter().any(|mutation| mutation.rule == *rule) || SCRIPTED.contains(rule);
        assert!(found, "nothing notices when {rule:?} is switched off");
    }
}

#[test]
fn a_failing_seed_is_cut_down_to_the_shortest_run_that_fails() {
    let rules = Rules::without(Rule::ShrinkIsWritten);
    let setup = Setup {
        nodes: 3,
        partitions: 1,
        durability: Durability::Fsync,
        switches: false,
        steps: 12_000,
        weather: Weather::Drawn,
        rules,
    };
    let violation = (1..100).find_map(|seed| run(setup, seed, false).violation).unwrap();
    let short = shortest(setup, &violation);
    assert!(short.trace.len() > 1);
    let found = short.violation.unwrap();
    assert!(found.steps <= violation.steps && found.seed == violation.seed);
}

/// Events of the ordinary run of the sequencer.
const SEQUENCER_EVENTS: u64 = 10_000_000;

#[test]
fn no_seed_breaks_an_invariant_of_the_sequencer() {
    let tally = search_sequencer(1, threads(), SEQUENCER_EVENTS).unwrap();
    for (what, count) in [
        ("written", tally.written),
        ("effect none", tally.none),
        ("effect maybe", tally.maybe),
        ("sent again", tally.resent),
        ("recognised", tally.duplicates),
        ("late", tally.late),
        ("sessions", tally.sessions),
        ("restarts", tally.restarts),
    ] {
        assert!(count > 200, "hardly any {what}: {tally:?}");
    }
}

#[test]
fn the_same_seed_of_the_sequencer_gives_the_same_run() {
    for seed in 1..50 {
        let once = run_sequencer(SequencerSetup::of_seed(seed), seed).unwrap();
        assert_eq!(once, run_sequencer(SequencerSetup::of_seed(seed), seed).unwrap(), "seed {seed}");
    }
}

#[test]
fn without_any_one_rule_of_the_sequencer_some_seed_breaks_an_invariant() {
    for mutation in SEQUENCER_MUTATIONS {
        assert!(mutation.find(2_000).is_some(), "{mutation:?}: nothing notices");
    }
    for rule in walser_sequencer::Rule::ALL {
        let found = SEQUENCER_MUTATIONS.iter().any(|mutation| mutation.rule == *rule);
        assert!(found, "nothing notices when {rule:?} is switched off");
    }
}

/// Events of the ordinary run of consumer groups.
const GROUP_EVENTS: u64 = 10_000_000;
/// Seeds in which a dropped rule of consumer groups must be noticed.
const GROUP_SEEDS: u64 = 2_000;

#[test]
fn no_seed_breaks_an_invariant_of_groups() {
    let tally = search_groups(1, threads(), GROUP_EVENTS).unwrap();
    for (what, count) in [
        ("commits", tally.commits),
        ("refusals", tally.refusals),
        ("takeovers", tally.takeovers),
        ("zombies", tally.zombie_appends),
        ("resumptions", tally.resumptions),
        ("expired sessions", tally.expiries),
        ("releases", tally.releases),
        ("assignments", tally.assignments),
        ("replacements", tally.replacements),
        ("deletions", tally.deletions),
        ("forced resets", tally.resets),
    ] {
        assert!(count > 80, "hardly any {what}: {tally:?}");
    }
}

#[test]
fn the_same_seed_of_groups_gives_the_same_run() {
    for seed in 1..50 {
        let once = run_groups(GroupSetup::of_seed(seed), seed).unwrap();
        assert_eq!(once, run_groups(GroupSetup::of_seed(seed), seed).unwrap(), "seed {seed}");
    }
}

#[test]
fn without_any_one_rule_of_groups_some_seed_breaks_an_invariant() {
    for mutation in GROUP_MUTATIONS {
        assert!(mutation.find(GROUP_SEEDS).is_some(), "{mutation:?}: nothing notices");
    }
    for rule in walser_group::GroupRule::ALL {
        let found = GROUP_MUTATIONS.contains(&GroupMutation::Machine(*rule));
        assert!(found, "nothing notices when {rule:?} is switched off");
    }
}
