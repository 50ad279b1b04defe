//! The flags of `walser bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use walser_model::{Acks, Compression};

use super::value;
use crate::args::ServerArgs;
use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Write as fast as possible, or at a rate
    #[command(after_help = "Example:\n  walser bench produce --duration 10s --partitions 6 --producers 2")]
    Produce(BenchArgs),
    /// Read a topic from its start
    #[command(after_help = "\
Without --topic, records are written first, and not counted.

Examples:
  walser bench consume --records 1000000
  walser bench consume --topic orders --reuse")]
    Consume(BenchArgs),
    /// Write and read at once, and measure from the write to the read
    #[command(after_help = "Example:\n  walser bench e2e --rate 1000 --duration 10s")]
    E2e(BenchArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// Records in all
    #[arg(short = 'n', long, value_name = "N", value_parser = value::count, conflicts_with = "duration")]
    pub(crate) records: Option<u64>,
    /// Time to run, such as 10s
    #[arg(short = 'd', long, value_name = "TIME", value_parser = value::millis)]
    pub(crate) duration: Option<u64>,
    /// Time before measuring begins
    #[arg(long, value_name = "TIME", value_parser = value::millis, default_value = "0")]
    pub(crate) warm_up: u64,
    /// Bytes of a value
    #[arg(long, value_name = "SIZE", value_parser = value::bench_size, default_value = "1KiB")]
    pub(crate) size: u64,
    /// Records have keys, of so many different ones in turn
    #[arg(long, value_name = "N", value_parser = value::count)]
    pub(crate) keys: Option<u64>,
    /// Partitions of the topic that is created
    #[arg(short = 'p', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) partitions: i32,
    /// Producers, each with a connection of its own
    #[arg(long, value_name = "N", default_value = "1", value_parser = value::producers)]
    pub(crate) producers: usize,
    /// A batch is sent when it has this many bytes
    #[arg(long, value_name = "SIZE", value_parser = value::bench_size, default_value = "256KiB")]
    pub(crate) batch_bytes: u64,
    /// A batch is sent when its first record has waited this long
    #[arg(long, value_name = "TIME", value_parser = value::millis, default_value = "5ms")]
    pub(crate) linger: u64,
    /// When a record counts as written
    #[arg(short = 'a', long, value_name = "ACKS", default_value = "all", value_parser = value::acks(), allow_hyphen_values = true)]
    pub(crate) acks: Acks,
    /// Durability of the topic
    #[arg(long, value_name = "DURABILITY", default_value = "fsync", value_parser = value::durability())]
    pub(crate) durability: walser_model::Durability,
    /// Codec
    #[arg(short = 'z', long, value_name = "CODEC", default_value = "none", value_parser = value::codec())]
    pub(crate) compression: Compression,
    /// Records per second; latency is counted from the intended time
    #[arg(short = 'r', long, value_name = "R", value_parser = value::count)]
    pub(crate) rate: Option<u64>,
    /// At most N records unanswered
    #[arg(long, value_name = "N")]
    pub(crate) in_flight: Option<usize>,
    /// Topic to create and to remove at the end; a name of its own, if not given
    #[arg(short = 'T', long, value_name = "TOPIC", add = ArgValueCompleter::new(complete::topics))]
    pub(crate) topic: Option<String>,
    /// Use a topic that exists, with its own settings, and leave it there; writing adds records to it
    #[arg(long, requires = "topic")]
    pub(crate) reuse: bool,
    /// Process id of the server, for its CPU and memory; of a cluster, all of them, with commas
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub(crate) server_pid: Vec<u32>,
    /// Write the figures to a file
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}
