//! The flags of `walser topic`.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use crate::args::{OutputArgs, ServerArgs};
use crate::complete;
use crate::position::Position;

#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Create topics
    Create(TopicCreateArgs),
    /// List topics
    #[command(visible_alias = "ls")]
    List(TopicListArgs),
    /// Describe topics with their partitions
    #[command(visible_alias = "show")]
    Describe(TopicDescribeArgs),
    /// Change settings
    Alter(TopicAlterArgs),
    /// Delete topics with all their records
    #[command(visible_alias = "rm")]
    Delete(TopicDeleteArgs),
    /// Add partitions
    AddPartitions(TopicAddPartitionsArgs),
    /// Delete old records
    Truncate(TopicTruncateArgs),
    /// Show every setting, of a topic or of a new one
    Config(TopicConfigArgs),
}

impl TopicCommand {
    /// Whether it hears of a signal itself, to end what it has begun and say how far it has come.
    pub(crate) fn ends_itself(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Alter(_))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser topic create orders
  walser topic create orders clicks -p 6 -c retention.ms=7d
  walser topic create orders --if-not-exists --dry-run

`walser topic config` shows every setting.")]
pub(crate) struct TopicCreateArgs {
    /// Names
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Number of partitions, at least 1; what the server has as default, if not given
    #[arg(short = 'p', long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..), allow_hyphen_values = true)]
    pub(crate) partitions: Option<i32>,
    /// Number of replicas, at least 1; what the server has as default, if not given
    #[arg(short = 'r', long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..), allow_hyphen_values = true)]
    pub(crate) replicas: Option<i32>,
    /// A setting (repeatable)
    #[arg(short = 'c', long = "config", value_name = "KEY=VALUE", add = ArgValueCompleter::new(complete::settings))]
    pub(crate) config: Vec<String>,
    /// Accept a topic that exists with the same partitions and settings
    #[arg(long)]
    pub(crate) if_not_exists: bool,
    /// Only check, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser topic ls
  walser topic ls 'logs-*' -o name
  walser topic ls --internal
  walser topic ls -o json | jq '.topics[].stats.recordCount'")]
pub(crate) struct TopicListArgs {
    /// Only these; * and ? stand for parts of names
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::topics))]
    pub(crate) names: Vec<String>,
    /// Also topics of Walser itself, such as __walser_groups
    #[arg(long)]
    pub(crate) internal: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  walser topic describe orders\n  walser topic describe 'logs-*' --all")]
pub(crate) struct TopicDescribeArgs {
    /// Names; * and ? stand for parts of names
    #[arg(required = true, value_name = "NAME", add = ArgValueCompleter::new(complete::topics))]
    pub(crate) names: Vec<String>,
    /// Show all settings, not only the topic's own
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser topic alter orders -c retention.ms=7d
  walser topic alter 'logs-*' -u retention.ms --dry-run")]
pub(crate) struct TopicAlterArgs {
    /// Names; * and ? stand for parts of names
    #[arg(required = true, value_name = "NAME", add = ArgValueCompleter::new(complete::topics))]
    pub(crate) names: Vec<String>,
    /// Set a setting (repeatable)
    #[arg(short = 'c', long = "config", value_name = "KEY=VALUE", add = ArgValueCompleter::new(complete::settings))]
    pub(crate) config: Vec<String>,
    /// Put a setting back to its default (repeatable)
    #[arg(short = 'u', long = "unset", value_name = "KEY", add = ArgValueCompleter::new(complete::setting_names))]
    pub(crate) unset: Vec<String>,
    /// Only check, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  walser topic delete orders\n  walser topic rm 'bench-*' --yes")]
pub(crate) struct TopicDeleteArgs {
    /// Names; * and ? stand for parts of names
    #[arg(required = true, value_name = "NAME", add = ArgValueCompleter::new(complete::topics))]
    pub(crate) names: Vec<String>,
    /// Do not ask
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walser topic add-partitions orders -p 12")]
pub(crate) struct TopicAddPartitionsArgs {
    /// Topic
    #[arg(add = ArgValueCompleter::new(complete::topics))]
    pub(crate) name: String,
    /// New number of partitions
    #[arg(short = 'p', long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) partitions: i32,
    /// Only check, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser topic truncate orders --before @-7d
  walser topic truncate orders --before latest --dry-run")]
pub(crate) struct TopicTruncateArgs {
    /// Topic
    #[arg(add = ArgValueCompleter::new(complete::topics))]
    pub(crate) name: String,
    /// Delete everything before this position, exclusive: an offset, latest, -N, @TIME or @-DURATION
    #[arg(short = 'b', long, value_name = "POSITION", allow_hyphen_values = true)]
    pub(crate) before: Position,
    /// Only this partition (repeatable)
    #[arg(short = 'p', long, value_name = "N")]
    pub(crate) partition: Vec<i32>,
    /// Only say where the logs would begin, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  walser topic config\n  walser topic config orders -o json")]
pub(crate) struct TopicConfigArgs {
    /// Topic; none shows what a new topic would get
    #[arg(add = ArgValueCompleter::new(complete::topics))]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
