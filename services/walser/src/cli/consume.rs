//! The flags of `walser consume`.

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use super::value;
use crate::args::ServerArgs;
use crate::complete;
use crate::position::Position;
use crate::records::format::Format;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConsumeOutput {
    /// One JSON object per record and line, without loss
    #[value(alias = "ndjson")]
    Json,
    /// Values back to back
    Raw,
}

const HELP: &str = "\
Positions:
  earliest   latest   42 (an offset)   -10 (the last 10 of each partition)
  @2025-11-21T00:00:00Z   @-1h (an hour ago)

Fields of --format:
  %v value   %k key   %h headers   %p partition   %o offset   %t topic
  %T time, or %T{2006-01-02 15:04:05.000}   %%   and \\n \\t \\r \\0 \\\\

Examples:
  walser consume orders                      everything, and wait for more
  walser consume orders -e                   everything that is there now
  walser consume orders --last 10            the newest 10 of all partitions
  walser consume 'logs-*' --from @-1h -f '%T{15:04:05} %k %v\\n'
  walser consume orders -e -o json | jq .value
  walser consume files -e -o raw > copy.bin

With a group, members share the partitions, and the group goes on where it was:
  walser consume -g billing orders           as a member, until Ctrl-C
  walser consume -g billing orders -n 100    the next 100 records
  walser consume -g audit --topic-pattern 'logs-.*'
A record counts as processed once it is written to standard output. After a
break or a crash, records that were printed last may be printed again.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ConsumeArgs {
    /// Topics to read; * and ? stand for parts of names, of the topics that are there at the start
    #[arg(required_unless_present = "topic_pattern", value_name = "TOPIC", add = ArgValueCompleter::new(complete::topics))]
    pub(crate) topics: Vec<String>,
    /// Read as a member of a consumer group, and commit what is printed
    #[arg(short = 'g', long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// With --group: topics whose whole names match this RE2 pattern, also those that are created later
    #[arg(long, value_name = "PATTERN", requires = "group", conflicts_with = "topics")]
    pub(crate) topic_pattern: Option<String>,
    /// With --group: a name of this member, which keeps its partitions through a restart
    #[arg(long, value_name = "ID", requires = "group")]
    pub(crate) instance_id: Option<String>,
    /// Where to start; with --group, only where the group has committed nothing
    #[arg(short = 'b', long, value_name = "POSITION", default_value = "earliest", allow_hyphen_values = true)]
    pub(crate) from: Position,
    /// Where to end, exclusive: latest (as of now), an offset or @TIME. Without it, reading goes on for ever
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    pub(crate) to: Option<Position>,
    /// End at the present end: --to latest
    #[arg(short = 'e', long, conflicts_with = "to")]
    pub(crate) end: bool,
    /// The newest N records of all partitions together, by time, and end
    #[arg(short = 'l', long, value_name = "N", value_parser = value::count, conflicts_with_all = ["from", "to", "count"])]
    pub(crate) last: Option<u64>,
    /// End after N records
    #[arg(short = 'n', long = "count", value_name = "N", value_parser = value::count)]
    pub(crate) count: Option<u64>,
    /// Only this partition
    #[arg(short = 'p', long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Option<i32>,
    /// Print each record by a format such as '%k %v\n'
    #[arg(short = 'f', long, value_name = "FORMAT", value_parser = value::format, conflicts_with = "output")]
    pub(crate) format: Option<Format>,
    /// Form of the output
    #[arg(short = 'o', long, value_name = "FORM", default_value = "json")]
    pub(crate) output: ConsumeOutput,
    /// Values that are JSON objects or arrays stand in the output as such, not as text
    #[arg(short = 'i', long)]
    pub(crate) inline_json: bool,
    /// Write values to the terminal even if they are not text
    #[arg(long)]
    pub(crate) binary: bool,
    /// How long the server, or a partition that is read to its end, may be away, in seconds
    #[arg(short = 't', long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}
