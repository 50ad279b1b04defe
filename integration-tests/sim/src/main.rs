//! `walser-sim`: many seeds, or one in every detail.

#![expect(clippy::print_stdout, reason = "this is what the program is for")]

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use walser_sim::{
    GROUP_MUTATIONS, GroupSetup, MUTATIONS, Outcome, SequencerSetup, Setup, run, run_groups, run_sequencer, search,
    search_groups, search_sequencer, shortest,
};

/// Seeds in which a mutation of the groups must be noticed.
const GROUP_MUTATION_SEEDS: u64 = 2_000;

/// Breaks the replication protocol, if it can be broken.
#[derive(Debug, Parser)]
struct Args {
    /// Replay one seed and print every step of it; of a seed that fails, the shortest run that still fails.
    #[arg(long)]
    seed: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Stop after so many events.
    #[arg(long, default_value_t = 20_000_000)]
    events: u64,
    /// Run for so many hours instead.
    #[arg(long)]
    hours: Option<f64>,
    /// Switch off the rules of the protocol one by one, and say which seed notices.
    #[arg(long)]
    mutations: bool,
    /// Show step by step what happens without this rule, such as `MaximalIsr`.
    #[arg(long, value_name = "RULE")]
    without: Option<String>,
    /// Run the sequencer instead of replication: seed by seed, or the one given.
    #[arg(long)]
    sequencer: bool,
    /// Run consumer groups instead of replication: seed by seed, or the one given; with --mutations, without each rule.
    #[arg(long)]
    groups: bool,
    /// Threads; as many as there are cores, if not given.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(rule) = &args.without {
        return explain(rule);
    }
    if args.sequencer {
        return sequencer(&args);
    }
    if args.groups {
        return groups(&args);
    }
    match args.seed {
        Some(seed) => replay(seed),
        None if args.mutations => mutate(),
        None => many(&args),
    }
}

fn threads(args: &Args) -> usize {
    args.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1)
}

fn groups(args: &Args) -> ExitCode {
    if args.mutations {
        let mut all = true;
        for mutation in GROUP_MUTATIONS {
            let found = mutation.find(GROUP_MUTATION_SEEDS);
            all &= found.is_some();
            println!("without {mutation:?}: {}", found.map_or_else(|| "NOT FOUND".to_owned(), |(_, what)| what));
        }
        return if all { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    show_tally(match args.seed {
        Some(seed) => run_groups(GroupSetup::of_seed(seed), seed),
        None => search_groups(args.from, threads(args), args.events),
    })
}

fn sequencer(args: &Args) -> ExitCode {
    show_tally(match args.seed {
        Some(seed) => run_sequencer(SequencerSetup::of_seed(seed), seed),
        None => search_sequencer(args.from, threads(args), args.events),
    })
}

fn show_tally<T: std::fmt::Debug>(outcome: Result<T, String>) -> ExitCode {
    match outcome {
        Ok(tally) => {
            println!("{tally:?}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}

fn explain(rule: &str) -> ExitCode {
    let Some(mutation) = MUTATIONS.iter().find(|mutation| format!("{:?}", mutation.rule) == rule) else {
        let names: BTreeSet<String> = MUTATIONS.iter().map(|mutation| format!("{:?}", mutation.rule)).collect();
        println!("{rule} is none of {}", Vec::from_iter(names).join(", "));
        return ExitCode::from(2);
    };
    match mutation.find(mutation.seeds()) {
        Some(violation) => show(&shortest(mutation.setup(), &violation)),
        None => {
            println!("nothing in {} seeds", mutation.seeds());
            ExitCode::SUCCESS
        }
    }
}

fn mutate() -> ExitCode {
    let mut all = true;
    for mutation in MUTATIONS {
        let found = mutation.find(mutation.seeds());
        all &= found.is_some();
        let found = found.map_or_else(|| "NOT FOUND".to_owned(), |violation| violation.to_string());
        println!("without {:?}, {:?}, at most {} seeds: {found}", mutation.rule, mutation.durability, mutation.seeds());
    }
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(seed: u64) -> ExitCode {
    let setup = Setup::of_seed(seed);
    println!("seed {seed}: {setup:?}");
    let outcome = match run(setup, seed, false).violation {
        Some(violation) => shortest(setup, &violation),
        None => run(setup, seed, true),
    };
    show(&outcome)
}

fn show(outcome: &Outcome) -> ExitCode {
    for line in &outcome.trace {
        println!("{line}");
    }
    match &outcome.violation {
        Some(violation) => {
            println!("VIOLATION: {violation}");
            ExitCode::FAILURE
        }
        None => {
            println!("no violation: {:?}", outcome.counts);
            ExitCode::SUCCESS
        }
    }
}

fn many(args: &Args) -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "how long it takes, and no more")]
    let begun = Instant::now();
    let limit = args.hours.map(|hours| Duration::from_secs_f64(hours * 3600.0));
    let threads = threads(args);
    let summary = search(args.from, threads, |events| match limit {
        Some(limit) => begun.elapsed() >= limit,
        None => events >= args.events,
    });
    for violation in &summary.violations {
        println!("VIOLATION: {violation}\n  make sim SEED={} shows it", violation.seed);
    }
    let seconds = begun.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = summary.counts.events as f64 / seconds;
    println!("{summary}\n{seconds:.0} s on {threads} threads: {rate:.0} events/s");
    if summary.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
