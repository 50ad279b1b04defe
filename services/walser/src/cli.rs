//! The command line: every command with its flags.

mod bench;
mod cluster;
mod consume;
mod group;
mod produce;
mod topic;
mod value;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use walser_service::ProcessArgs;

use crate::args::{OutputArgs, ServerArgs};
use crate::command::context::ContextCommand;
use crate::command::debug::DebugCommand;
use crate::command::doctor::DoctorArgs;
use crate::command::metadata::MetadataCommand;
use crate::command::node::NodeCommand;
use crate::command::partition::PartitionCommand;
use crate::command::tls::TlsCommand;

pub(crate) use bench::{BenchArgs, BenchCommand};
#[cfg(test)]
pub(crate) use cluster::ClusterPlace;
pub(crate) use cluster::{
    ClusterCommand, ClusterConfigCommand, ClusterConfigSetArgs, ClusterMetastoreKind, ClusterProcessArgs, ClusterRole,
    ClusterStatusArgs, ClusterUpArgs, FinalizeUpgradeArgs, ServiceCommandArgs,
};
pub(crate) use consume::{ConsumeArgs, ConsumeOutput};
pub(crate) use group::{
    GroupCommand, GroupDeleteArgs, GroupDeleteOffsetsArgs, GroupDescribeArgs, GroupLagArgs, GroupListArgs,
    GroupRemoveMemberArgs, GroupResetArgs, GroupStateName,
};
pub(crate) use produce::ProduceArgs;
pub(crate) use topic::{
    TopicAddPartitionsArgs, TopicAlterArgs, TopicCommand, TopicConfigArgs, TopicCreateArgs, TopicDeleteArgs,
    TopicDescribeArgs, TopicListArgs, TopicTruncateArgs,
};
pub(crate) use value::PlacedOffset;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  walser up                              a server, data in ./walser-data
  walser produce hello \"it works\"        write a record
  walser consume hello --to latest       read what is there

Exit codes:
  0 done   1 failed   2 bad arguments or input   3 not found
  4 exists already   5 denied   6 not in this state   7 no answer
  10 not healthy (status, doctor)   70 a bug   130 Ctrl-C   143 SIGTERM";

/// A durable, partitioned log you can talk to from any language with gRPC
#[derive(Debug, Parser)]
#[command(name = "walser", version, propagate_version = true, styles = STYLES, max_term_width = 80)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole server in this process, in the foreground
    Up(UpArgs),
    /// Run a cluster of separate processes on this machine
    #[command(subcommand, after_help = "Example:\n  walser cluster up --dir /tmp/c --storage-nodes 3")]
    Cluster(ClusterCommand),
    /// Write records, from arguments, standard input or files
    Produce(Box<ProduceArgs>),
    /// Read records
    Consume(ConsumeArgs),
    /// Manage topics
    #[command(
        subcommand,
        after_help = "Example:\n  walser topic create orders --partitions 6 --config retention.ms=7d"
    )]
    Topic(TopicCommand),
    /// Look at consumer groups, how far they are behind, and move their offsets
    #[command(subcommand, after_help = "Example:\n  walser group describe billing")]
    Group(GroupCommand),
    /// Show the state of the server on one screen
    Status(StatusArgs),
    /// Look for what keeps clients here or the cluster from working well, and say what to do
    Doctor(DoctorArgs),
    /// Collect what helps to find a fault, and have processes log more
    #[command(subcommand, after_help = "Example:\n  walser debug bundle walser.tar.gz --admin 127.0.0.1:7463")]
    Debug(DebugCommand),
    /// Name servers, and choose the one to talk to
    #[command(subcommand, after_help = "Example:\n  walser context add prod 10.0.0.7:7460 && walser context use prod")]
    Context(ContextCommand),
    /// Run a producer and a group of two members for a look around
    Demo(DemoArgs),
    /// Measure throughput and latency
    #[command(subcommand, after_help = "Example:\n  walser bench produce --duration 10s --partitions 6")]
    Bench(BenchCommand),
    /// Look at storage nodes, and take their leads away before work on them
    #[command(subcommand, after_help = "Example:\n  walser node drain 2")]
    Node(NodeCommand),
    /// Manage partitions
    #[command(subcommand, after_help = "Example:\n  walser partition set-aside list")]
    Partition(PartitionCommand),
    /// Manage the metadata of the cluster
    #[command(subcommand, after_help = "Example:\n  walser metadata accept-restore --yes")]
    Metadata(MetadataCommand),
    /// The .proto files and how to compile them
    #[command(subcommand, after_help = "Example:\n  walser proto export ./proto --lang python")]
    Proto(ProtoCommand),
    /// Look into the files of a data directory
    #[command(subcommand, after_help = "Example:\n  walser log inspect ./walser-data")]
    Log(LogCommand),
    /// Make certificates for development
    #[command(subcommand, after_help = "Example:\n  walser tls dev ./tls")]
    Tls(TlsCommand),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Run a controller as a process of its own
    #[command(after_help = "Example:\n  walser controller --listen 127.0.0.1:7461")]
    Controller(ServiceCommandArgs),
    /// Run a storage node as a process of its own
    #[command(after_help = "Example:\n  walser storage-node --set controller.address=127.0.0.1:7461")]
    StorageNode(ServiceCommandArgs),
    /// Run a group coordinator as a process of its own
    #[command(after_help = "Example:\n  walser group-coordinator --set controller.address=127.0.0.1:7461")]
    GroupCoordinator(ServiceCommandArgs),
    /// Run a gateway as a process of its own
    #[command(after_help = "Example:\n  walser gateway --set controller.address=127.0.0.1:7461")]
    Gateway(ServiceCommandArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser up
  walser up --data /var/lib/walser --listen 0.0.0.0:7460 --insecure
  walser up --memory 512MiB --set log.level=debug")]
pub(crate) struct UpArgs {
    /// Directory for all data; made when missing
    #[arg(short = 'd', long, value_name = "DIR", default_value = "./walser-data")]
    pub(crate) data: PathBuf,
    /// Keep everything in memory, at most SIZE (such as 512MiB, at least 1MiB); nothing survives the process
    #[arg(long, value_name = "SIZE", num_args = 0..=1, default_missing_value = "256MiB", value_parser = value::memory, conflicts_with = "data")]
    pub(crate) memory: Option<u64>,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser status
  walser status --watch
  walser status -o json | jq .cluster.health.status

Exits with 10 when the server is not healthy.")]
pub(crate) struct StatusArgs {
    /// Show it again every SECONDS, with rates, until Ctrl-C
    #[arg(short = 'w', long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) watch: Option<u64>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  walser demo --rate 5 -n 20")]
pub(crate) struct DemoArgs {
    /// Records per second
    #[arg(short = 'r', long, value_name = "N", default_value_t = 20)]
    pub(crate) rate: u32,
    /// End after N records
    #[arg(short = 'n', long = "count", value_name = "N", value_parser = value::count)]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    Python,
    Go,
    Typescript,
    Java,
    Rust,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProtoCommand {
    /// Write the public .proto files into a directory
    #[command(after_help = "Example:\n  walser proto export ./proto --lang python")]
    Export {
        /// Directory; made when missing. Files that are not from an export are never overwritten
        dir: PathBuf,
        /// Say how to compile them for a language
        #[arg(short = 'l', long, value_name = "LANG")]
        lang: Option<Language>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Show the batches of a partition's directory, or a summary of a data directory
    #[command(after_help = "Example:\n  walser log inspect ./walser-data")]
    Inspect {
        /// A data directory, or one partition's directory in it
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Completes commands, flags, and the topics and settings of the server.

Examples:
  source <(walser completion bash)                  for this shell
  walser completion zsh > ~/.zfunc/_walser          for every zsh
  walser completion fish > ~/.config/fish/completions/walser.fish")]
pub(crate) struct CompletionArgs {
    /// Shell
    #[arg(value_parser = ["bash", "zsh", "fish", "elvish", "powershell"])]
    pub(crate) shell: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn every_help_fits_80_columns_and_shows_an_example() {
        let mut command = Cli::command();
        command.build();
        check(&mut command);
    }

    fn check(command: &mut clap::Command) {
        let name = command.get_name().to_owned();
        if name == "help" {
            return;
        }
        for text in [command.render_help(), command.render_long_help()] {
            let text = text.to_string();
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
            assert!(text.contains("Example"), "{name} has no example");
        }
        command.get_subcommands_mut().for_each(check);
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
