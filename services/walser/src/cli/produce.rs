//! The flags of `walser produce`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use walser_model::{Acks, Compression};

use super::value;
use crate::args::ServerArgs;
use crate::complete;
use crate::input::Framing;
use crate::records::format::InputFormat;
use crate::records::json::JsonPath;

const HELP: &str = "\
Records with a key go to a partition by the hash of the key; those without to one
partition after the other, a batch each; all to one with --partition.

Forms of --as:
  lines         a record is a line
  whole         a record is a whole file
  blocks:SIZE   a record is a piece of SIZE, such as blocks:512KiB
  json          a record is a line of `walser consume -o json`

Fields of --format:
  %v value   %k key   %h headers (name=value,…)   %T time   %p partition
  %t topic and %o offset (read and not used)   %%   and \\n \\t \\r \\0 \\\\

Examples:
  walser produce hello \"it works\"
  tail -f app.log | walser produce logs
  walser produce users -K : < names.txt            key:value on each line
  walser produce users -K : -Z < names.txt         `key:` is a tombstone
  walser produce events -f '%T %k %v\\n' --file events.txt
  walser consume a -o json -e | walser produce b --as json";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ProduceArgs {
    /// Topic to write to
    #[arg(add = ArgValueCompleter::new(complete::topics))]
    pub(crate) topic: String,
    /// Records; standard input is read for `-`, and when there are none and no --file
    #[arg(value_name = "RECORD", conflicts_with = "files")]
    pub(crate) records: Vec<String>,
    /// Read records from a file, or standard input for `-` (repeatable)
    #[arg(short = 'F', long = "file", value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    /// What a record is: lines, whole, json or blocks:SIZE
    #[arg(short = 'A', long = "as", value_name = "FORM", default_value = "lines", value_parser = value::framing, conflicts_with = "format", add = ArgValueCompleter::new(complete::framings))]
    pub(crate) framing: Framing,
    /// Read records by a format such as '%k %v\n'
    #[arg(short = 'f', long, value_name = "FORMAT", value_parser = value::input_format)]
    pub(crate) format: Option<InputFormat>,
    /// Key of every record that has none of its own
    #[arg(short = 'k', long = "key", value_name = "KEY", conflicts_with_all = ["key_json", "key_delimiter"])]
    pub(crate) key: Option<String>,
    /// The key stands before the first DELIM; a record without it has a null key
    #[arg(short = 'K', long, value_name = "DELIM", value_parser = value::delimiter, conflicts_with_all = ["key_json", "format"])]
    pub(crate) key_delimiter: Option<String>,
    /// Key by a path into each record's JSON, such as .user.id
    #[arg(short = 'j', long, value_name = "PATH", value_parser = value::json_path, conflicts_with = "format")]
    pub(crate) key_json: Option<JsonPath>,
    /// Empty keys and values are null; a null value is a tombstone
    #[arg(short = 'Z', long = "null")]
    pub(crate) empty_is_null: bool,
    /// Header of every record (repeatable)
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE")]
    pub(crate) headers: Vec<String>,
    /// Time of every record that has none of its own; now, if not given
    #[arg(short = 'T', long, value_name = "TIME", value_parser = value::timestamp, allow_hyphen_values = true)]
    pub(crate) timestamp: Option<i64>,
    /// Partition for every record; by the key, if not given
    #[arg(short = 'p', long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), conflicts_with = "keep_partition")]
    pub(crate) partition: Option<i32>,
    /// With --as json: every record goes to the partition that it names
    #[arg(long)]
    pub(crate) keep_partition: bool,
    /// Codec
    #[arg(short = 'z', long, value_name = "CODEC", default_value = "none", value_parser = value::codec())]
    pub(crate) compression: Compression,
    /// When a record counts as written
    #[arg(short = 'a', long, value_name = "ACKS", default_value = "all", value_parser = value::acks(), allow_hyphen_values = true)]
    pub(crate) acks: Acks,
    /// How long a record may stay unacknowledged while the server is away or refuses it, in seconds;
    /// 60, if not given. Given, it is how long to wait for a server that is not there yet, too
    #[arg(short = 't', long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: Option<u64>,
    /// Do not send the first N records of the input: to go on where an earlier run has ended
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true, value_parser = value::count)]
    pub(crate) skip: u64,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

impl ProduceArgs {
    /// Seconds.
    pub(crate) fn patience(&self) -> u64 {
        self.timeout.unwrap_or(60)
    }
}
