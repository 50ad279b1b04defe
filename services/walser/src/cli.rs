//! The command line: every command with its flags.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use walser_model::{Acks, Compression, parse_bytes, parse_duration_ms};
use walser_service::ProcessArgs;

use crate::command::metadata::MetadataCommand;
use crate::command::partition::PartitionCommand;
use crate::position::Position;

/// A replicated, partitioned log you can talk to from any language with gRPC.
#[derive(Debug, Parser)]
#[command(name = "walser", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole server in this process, in the foreground
    Up(UpArgs),
    /// Write records, from arguments, standard input or files
    Produce(ProduceArgs),
    /// Read records
    Consume(ConsumeArgs),
    /// Manage topics
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Show the state of the server on one screen
    Status(StatusArgs),
    /// Run a producer and a reader for a look around
    Demo(DemoArgs),
    /// Measure throughput and latency
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Manage partitions
    #[command(subcommand)]
    Partition(PartitionCommand),
    /// Manage the metadata of the cluster
    #[command(subcommand)]
    Metadata(MetadataCommand),
    /// The .proto files and how to compile them
    #[command(subcommand)]
    Proto(ProtoCommand),
    /// Look into the files of a data directory
    #[command(subcommand)]
    Log(LogCommand),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// Address of the server
    #[arg(long, value_name = "HOST:PORT", env = "WALSER_SERVER", default_value = "127.0.0.1:7460")]
    pub(crate) server: String,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Directory for all data; made when missing
    #[arg(long, value_name = "DIR", default_value = "./walser-data")]
    pub(crate) data: PathBuf,
    /// Keep everything in memory, at most SIZE (such as 512MiB); nothing survives the end of the process
    #[arg(long, value_name = "SIZE", num_args = 0..=1, default_missing_value = "256MiB", value_parser = size, conflicts_with = "data")]
    pub(crate) memory: Option<u64>,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// One record per line, without the line end.
    Lines,
    /// One record per file.
    Whole,
    /// Records of so many bytes; the last may be shorter.
    Blocks(usize),
}

#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    /// Topic to write to
    pub(crate) topic: String,
    /// Records; standard input is read when there are none and no --file
    #[arg(value_name = "RECORD", conflicts_with = "files")]
    pub(crate) records: Vec<String>,
    /// Read records from a file (repeatable)
    #[arg(long = "file", value_name = "PATH")]
    pub(crate) files: Vec<PathBuf>,
    /// What a record is: lines, whole, or blocks:SIZE
    #[arg(long = "as", value_name = "FORM", default_value = "lines", value_parser = framing)]
    pub(crate) framing: Framing,
    /// Key of every record
    #[arg(short = 'k', long = "key", value_name = "KEY", conflicts_with = "key_json")]
    pub(crate) key: Option<String>,
    /// Key by a path into each record's JSON, such as .user.id
    #[arg(long, value_name = "PATH", value_parser = json_path)]
    pub(crate) key_json: Option<JsonPath>,
    /// Header of every record (repeatable)
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE")]
    pub(crate) headers: Vec<String>,
    /// Partition for every record
    #[arg(short = 'p', long, value_name = "N")]
    pub(crate) partition: Option<i32>,
    /// Codec
    #[arg(long, value_name = "CODEC", default_value = "none")]
    pub(crate) compression: Compression,
    /// When a record counts as written: none, leader or all
    #[arg(long, value_name = "ACKS", default_value = "all")]
    pub(crate) acks: Acks,
    /// How long a record may stay unacknowledged while the server is away or refuses it, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConsumeOutput {
    /// One JSON object per record and line
    Ndjson,
    /// Values back to back
    Raw,
}

#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    /// Topics to read
    #[arg(required = true, value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    /// Where to start: earliest, latest, an offset, -N, @TIME or @-DURATION
    #[arg(long, value_name = "POSITION", default_value = "earliest", allow_hyphen_values = true)]
    pub(crate) from: Position,
    /// Where to end: latest (as of now), an offset or @TIME. Without it, reading goes on for ever
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    pub(crate) to: Option<Position>,
    /// End after N records
    #[arg(short = 'n', long = "count", value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Only this partition
    #[arg(short = 'p', long, value_name = "N")]
    pub(crate) partition: Option<i32>,
    /// Print each record by a format: %v value, %k key, %o offset, %p partition, %t topic, %T{15:04:05} time,
    /// %h headers, %% and \n, \t
    #[arg(short = 'f', long, value_name = "FORMAT", conflicts_with = "output")]
    pub(crate) format: Option<String>,
    /// Form of the output
    #[arg(short = 'o', long, value_name = "FORM", default_value = "ndjson")]
    pub(crate) output: ConsumeOutput,
    /// How long the server may be away, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Table,
    /// JSON, as the proto files define it
    Json,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArgs {
    /// Form of the output
    #[arg(short = 'o', long, value_name = "FORM", default_value = "table")]
    pub(crate) output: Form,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Create a topic
    Create(TopicCreateArgs),
    /// List topics
    List(OutputArgs),
    /// Describe a topic with its partitions
    Describe(TopicDescribeArgs),
    /// Change settings
    Alter(TopicAlterArgs),
    /// Delete topics with all their records
    Delete(TopicDeleteArgs),
    /// Add partitions
    AddPartitions(TopicAddPartitionsArgs),
    /// Delete old records
    Truncate(TopicTruncateArgs),
    /// Show every setting, of a topic or of a new one
    Config(TopicConfigArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TopicCreateArgs {
    pub(crate) name: String,
    /// Number of partitions, at least 1; what the server has as default, if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..), allow_hyphen_values = true)]
    pub(crate) partitions: Option<i32>,
    /// Number of replicas
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) replicas: i32,
    /// A setting (repeatable)
    #[arg(long = "config", value_name = "KEY=VALUE")]
    pub(crate) config: Vec<String>,
    /// Accept a topic that exists with the same partitions and settings
    #[arg(long)]
    pub(crate) if_not_exists: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TopicDescribeArgs {
    pub(crate) name: String,
    /// Show all settings, not only the topic's own
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TopicAlterArgs {
    pub(crate) name: String,
    /// Set a setting (repeatable)
    #[arg(long = "config", value_name = "KEY=VALUE")]
    pub(crate) config: Vec<String>,
    /// Put a setting back to its default (repeatable)
    #[arg(long = "unset", value_name = "KEY")]
    pub(crate) unset: Vec<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TopicDeleteArgs {
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TopicAddPartitionsArgs {
    pub(crate) name: String,
    /// New number of partitions
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) partitions: i32,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TopicTruncateArgs {
    pub(crate) name: String,
    /// Delete everything before this position
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    pub(crate) before: Position,
    /// Only this partition (repeatable)
    #[arg(short = 'p', long, value_name = "N")]
    pub(crate) partition: Vec<i32>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TopicConfigArgs {
    /// Topic; none shows what a new topic would get
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Records per second
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) rate: u32,
    /// End after N records
    #[arg(short = 'n', long = "count", value_name = "N")]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Write as fast as possible, or at a rate
    Produce(BenchArgs),
    /// Read a topic from its start
    Consume(BenchArgs),
    /// Write and read at once, and measure from the write to the read
    E2e(BenchArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// Records in all
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub(crate) records: Option<u64>,
    /// Time to run, such as 10s
    #[arg(long, value_name = "TIME", value_parser = millis)]
    pub(crate) duration: Option<u64>,
    /// Time before measuring begins
    #[arg(long, value_name = "TIME", value_parser = millis, default_value = "0")]
    pub(crate) warm_up: u64,
    /// Bytes of a value
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1KiB")]
    pub(crate) size: u64,
    /// Partitions of the topic
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) partitions: i32,
    /// Producers, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) producers: usize,
    /// A batch is sent when it has this many bytes
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256KiB")]
    pub(crate) batch_bytes: u64,
    /// A batch is sent when its first record has waited this long
    #[arg(long, value_name = "TIME", value_parser = millis, default_value = "5ms")]
    pub(crate) linger: u64,
    /// When a record counts as written: none, leader or all
    #[arg(long, value_name = "ACKS", default_value = "all")]
    pub(crate) acks: Acks,
    /// Durability of the topic: fsync or page-cache
    #[arg(long, value_name = "DURABILITY", default_value = "fsync")]
    pub(crate) durability: walser_model::Durability,
    /// Codec
    #[arg(long, value_name = "CODEC", default_value = "none")]
    pub(crate) compression: Compression,
    /// Records per second; latency is counted from the intended time
    #[arg(long, value_name = "R")]
    pub(crate) rate: Option<u64>,
    /// At most N records unanswered
    #[arg(long, value_name = "N")]
    pub(crate) in_flight: Option<usize>,
    /// Topic; made when missing, and removed at the end unless it is named (Ctrl-C leaves it)
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    /// Process id of the server, for its CPU and memory
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Write the figures to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    Python,
    Go,
    Typescript,
    Java,
    Csharp,
    Rust,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProtoCommand {
    /// Write the public .proto files into a directory
    Export {
        dir: PathBuf,
        /// Say how to compile them for a language
        #[arg(long, value_name = "LANG")]
        lang: Option<Language>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Show the batches of a partition's directory, or a summary of a data directory
    Inspect {
        /// A data directory, or one partition's directory in it
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    pub(crate) shell: clap_complete::Shell,
}

fn size(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text).map_err(|error| error.to_string())?;
    u64::try_from(bytes).map_err(|_| "a size is not negative".to_owned())
}

fn millis(text: &str) -> Result<u64, String> {
    let millis = parse_duration_ms(text).map_err(|error| error.to_string())?;
    u64::try_from(millis).map_err(|_| "a time is not negative".to_owned())
}

/// A place in a JSON document.
#[derive(Debug, Clone)]
pub(crate) struct JsonPath {
    /// By RFC 6901.
    pub(crate) pointer: String,
}

fn json_path(text: &str) -> Result<JsonPath, String> {
    let names = text.strip_prefix('.').ok_or("a path begins with a dot, such as .user.id")?;
    if names.split('.').any(str::is_empty) {
        return Err("a name in the path is empty; write it as .user.id".to_owned());
    }
    if names.contains(['[', ']']) {
        return Err("a path names fields only; it cannot look into lists".to_owned());
    }
    let escaped = names.split('.').map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1")));
    Ok(JsonPath { pointer: escaped.collect() })
}

fn framing(text: &str) -> Result<Framing, String> {
    match text.split_once(':') {
        None if text == "lines" => Ok(Framing::Lines),
        None if text == "whole" => Ok(Framing::Whole),
        Some(("blocks", bytes)) => match usize::try_from(size(bytes)?) {
            Ok(bytes) if bytes > 0 => Ok(Framing::Blocks(bytes)),
            _ => Err("a block has at least one byte".to_owned()),
        },
        _ => Err(format!("\"{text}\" is none of lines, whole, blocks:SIZE")),
    }
}
