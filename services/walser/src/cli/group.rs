//! The flags of `walser group`.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use super::value::{self, PlacedOffset};
use crate::args::{OutputArgs, ServerArgs};
use crate::complete;
use crate::position::Position;

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List groups
    #[command(visible_alias = "ls")]
    List(GroupListArgs),
    /// Describe a group: its members, what it has committed, and how far it is behind
    #[command(visible_alias = "show")]
    Describe(GroupDescribeArgs),
    /// Show how far groups are behind, in records and in time
    Lag(GroupLagArgs),
    /// Move the committed offsets of a group
    Reset(GroupResetArgs),
    /// Delete groups without members, and their offsets
    #[command(visible_alias = "rm")]
    Delete(GroupDeleteArgs),
    /// Forget what a group has committed of topics
    DeleteOffsets(GroupDeleteOffsetsArgs),
    /// Remove a member: its partitions go to the others
    RemoveMember(GroupRemoveMemberArgs),
}

/// States as they are typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GroupStateName {
    Empty,
    Assigning,
    Reconciling,
    Stable,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser group list
  walser group ls 'billing-*' --state stable
  walser group ls -o json | jq '.groups[].memberCount'")]
pub(crate) struct GroupListArgs {
    /// Only these; * and ? stand for parts of names
    #[arg(value_name = "GROUP", add = ArgValueCompleter::new(complete::groups))]
    pub(crate) names: Vec<String>,
    /// Only groups in this state (repeatable)
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Vec<GroupStateName>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Showing something again and again.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct WatchArgs {
    /// Show it again every SECONDS, until Ctrl-C
    #[arg(short = 'w', long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) watch: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  walser group describe billing\n  walser group describe billing --watch")]
pub(crate) struct GroupDescribeArgs {
    /// Group
    #[arg(value_name = "GROUP", add = ArgValueCompleter::new(complete::groups))]
    pub(crate) group: String,
    #[command(flatten)]
    pub(crate) watch: WatchArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser group lag                  every group
  walser group lag billing          and its partitions
  walser group lag billing --watch
  walser group lag -o json | jq '.groups[] | {name, totalLag, timeLag}'

`?` stands for what is not known, because a leader does not answer or nothing is
committed of a partition with records.")]
pub(crate) struct GroupLagArgs {
    /// Only these; * and ? stand for parts of names
    #[arg(value_name = "GROUP", add = ArgValueCompleter::new(complete::groups))]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) watch: WatchArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("place").required(true).args(["to", "shift", "from_group", "offset"]))]
#[command(
    override_usage = "walser group reset <GROUP> <PLACE> [OPTIONS]\n       PLACE: --to, --shift, --from-group, or --offset"
)]
#[command(after_help = "\
Examples:
  walser group reset billing --topic orders --to @2025-11-20T18:00:00Z --dry-run
  walser group reset billing --to earliest
  walser group reset billing --topic orders -p 3 --shift -100
  walser group reset billing --from-group shadow
  walser group reset billing --offset orders/0=1150002 --offset orders/1=977

Members of the group have to be stopped before, unless --force is given. Every
new offset is brought within what the log has.")]
pub(crate) struct GroupResetArgs {
    /// Group
    #[arg(value_name = "GROUP", add = ArgValueCompleter::new(complete::groups))]
    pub(crate) group: String,
    /// Topic (repeatable); if not given, all that the group reads, as `walser group describe` lists them
    #[arg(short = 't', long = "topic", value_name = "TOPIC", add = ArgValueCompleter::new(complete::topics), conflicts_with = "offset")]
    pub(crate) topics: Vec<String>,
    /// Partition of the one topic (repeatable); all, if not given
    #[arg(short = 'p', long = "partition", value_name = "N", value_parser = clap::value_parser!(i32).range(0..), requires = "topics")]
    pub(crate) partitions: Vec<i32>,
    /// earliest, latest, an offset, -N for the last N records, @TIME or @-AGE
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    pub(crate) to: Option<Position>,
    /// By so many offsets from what is committed; below 0: back
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) shift: Option<i64>,
    /// As another group has committed
    #[arg(long, value_name = "GROUP", add = ArgValueCompleter::new(complete::groups))]
    pub(crate) from_group: Option<String>,
    /// A partition and its offset (repeatable)
    #[arg(long, value_name = "TOPIC/PARTITION=OFFSET", value_parser = value::placed)]
    pub(crate) offset: Vec<PlacedOffset>,
    /// Also while the group has members: they read on from the new offsets
    #[arg(long)]
    pub(crate) force: bool,
    /// Only show what would move
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  walser group delete billing\n  walser group rm 'test-*' --yes")]
pub(crate) struct GroupDeleteArgs {
    /// Names; * and ? stand for parts of names
    #[arg(required = true, value_name = "GROUP", add = ArgValueCompleter::new(complete::groups))]
    pub(crate) names: Vec<String>,
    /// Do not ask
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walser group delete-offsets billing --topic old-orders")]
pub(crate) struct GroupDeleteOffsetsArgs {
    /// Group
    #[arg(value_name = "GROUP", add = ArgValueCompleter::new(complete::groups))]
    pub(crate) group: String,
    /// Topic (repeatable)
    #[arg(short = 't', long = "topic", required = true, value_name = "TOPIC", add = ArgValueCompleter::new(complete::topics))]
    pub(crate) topics: Vec<String>,
    /// Do not ask
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["member", "instance"]))]
#[command(after_help = "\
Examples:
  walser group remove-member billing 7c1e6b1c
  walser group remove-member billing --instance billing-0")]
pub(crate) struct GroupRemoveMemberArgs {
    /// Group
    #[arg(value_name = "GROUP", add = ArgValueCompleter::new(complete::groups))]
    pub(crate) group: String,
    /// Member, as described; the beginning of its id is enough
    #[arg(value_name = "MEMBER")]
    pub(crate) member: Option<String>,
    /// The member with this static id
    #[arg(long, value_name = "ID")]
    pub(crate) instance: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}
