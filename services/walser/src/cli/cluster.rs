//! `walser cluster` with its flags.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::args::{Form, OutputArgs, ServerArgs};

/// What a process of a cluster does. In the order in which they are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClusterRole {
    /// A member of etcd, which has the metadata
    Etcd,
    Controller,
    StorageNode,
    GroupCoordinator,
    Gateway,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Run a cluster of separate processes on this machine, in the foreground
    Up(ClusterUpArgs),
    /// Show which processes there are
    #[command(after_help = "Example:\n  walser cluster status -o json")]
    Status(ClusterStatusArgs),
    /// Start processes that do not run, on the addresses and data that they had
    #[command(after_help = "Example:\n  walser cluster start storage-node 2")]
    Start(ClusterProcessArgs),
    /// Stop processes in order
    #[command(after_help = "Example:\n  walser cluster stop gateway")]
    Stop(ClusterProcessArgs),
    /// Kill processes (SIGKILL)
    #[command(after_help = "Example:\n  walser cluster kill storage-node 2")]
    Kill(ClusterProcessArgs),
    /// Suspend processes (SIGSTOP)
    #[command(after_help = "Example:\n  walser cluster pause storage-node 2")]
    Pause(ClusterProcessArgs),
    /// Let suspended processes go on (SIGCONT)
    #[command(after_help = "Example:\n  walser cluster resume storage-node 2")]
    Resume(ClusterProcessArgs),
    /// Become another program that ends with the parent
    #[command(hide = true, after_help = "Example:\n  walser cluster become -- etcd --data-dir DIR")]
    Become(ServiceCommandArgs),
    /// What topics have that do not say otherwise
    #[command(subcommand, after_help = "Example:\n  walser cluster config list")]
    Config(ClusterConfigCommand),
    /// End an upgrade: programs of the version before are refused from then on
    FinalizeUpgrade(FinalizeUpgradeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser cluster finalize-upgrade --dry-run
  walser cluster finalize-upgrade

Every process has to run the new version first. It cannot be undone: until
then the version before can still be started again everywhere.")]
pub(crate) struct FinalizeUpgradeArgs {
    /// Only say whether it could be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterConfigCommand {
    /// Show the settings of the cluster
    #[command(after_help = "Examples:\n  walser cluster config list\n  walser cluster config list -o json")]
    List(OutputArgs),
    /// Change settings of the cluster
    Set(ClusterConfigSetArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser cluster config set cluster.replication.factor=3 cluster.min.insync.replicas=2
  walser cluster config set --unset cluster.min.insync.replicas

The replication factor is that of topics that are created later; the number
that must be in sync holds for all topics without min.insync.replicas at once.")]
pub(crate) struct ClusterConfigSetArgs {
    /// Setting and value (repeatable)
    #[arg(value_name = "KEY=VALUE", required_unless_present = "unset")]
    pub(crate) settings: Vec<String>,
    /// Setting that gets back what the settings of the controller say
    /// (repeatable)
    #[arg(short = 'u', long = "unset", value_name = "KEY")]
    pub(crate) unset: Vec<String>,
    /// Check only
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser cluster up
  walser cluster up --dir /tmp/c --storage-nodes 5
  walser cluster up --dir /tmp/c --metastore etcd --etcd-members 3 --controllers 2
  walser cluster kill --dir /tmp/c storage-node 2    (from another terminal)
  walser cluster start --dir /tmp/c storage-node 2

DIR/cluster.json says which processes there are, and where; it is written when
all are ready. With three storage nodes or more, topics have three replicas by
default, of which two must be in sync.")]
pub(crate) struct ClusterUpArgs {
    #[command(flatten)]
    pub(crate) place: ClusterPlace,
    /// Controllers, 1 to 5, of which one leads. More than one share their metadata in etcd
    /// [default: 1, later as many as before]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5))]
    pub(crate) controllers: Option<u32>,
    /// Where the metadata is [default: etcd, where this program is built with it and finds one, else embedded;
    /// later what the cluster was formed with]
    #[arg(long, value_enum)]
    pub(crate) metastore: Option<ClusterMetastoreKind>,
    /// Members of etcd: 1, or 3, of which one may be missing [default: 1]
    #[arg(long, value_name = "N", value_parser = etcd_members)]
    pub(crate) etcd_members: Option<u32>,
    /// The etcd to run [default: the one in the PATH]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) etcd: Option<PathBuf>,
    /// Encrypt what the processes say to each other and to clients, with certificates of its own, kept in DIR/tls
    /// [default: later as before]
    #[arg(long)]
    pub(crate) tls: bool,
    /// Storage nodes, 1 to 100 [default: 3, later as many as before]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) storage_nodes: Option<u32>,
    /// Group coordinators, 1 to 100 [default: 2, later as many as before]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) group_coordinators: Option<u32>,
    /// Gateways, 1 to 100 [default: 2, later as many as before]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) gateways: Option<u32>,
}

/// Where the metadata of a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClusterMetastoreKind {
    Embedded,
    Etcd,
}

fn etcd_members(text: &str) -> Result<u32, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("must be 1 or 3: of two, none may be missing".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct ClusterPlace {
    /// Directory of the cluster, which `up` makes when it is missing
    #[arg(short = 'd', long, value_name = "DIR", default_value = "./walser-cluster")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterProcessArgs {
    #[command(flatten)]
    pub(crate) place: ClusterPlace,
    /// Only processes with this role
    pub(crate) role: Option<ClusterRole>,
    /// Only the one with this number
    pub(crate) id: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterStatusArgs {
    #[command(flatten)]
    pub(crate) which: ClusterProcessArgs,
    /// Form of the output
    #[arg(short = 'o', long, value_name = "FORM", default_value = "table")]
    pub(crate) output: Form,
}

/// Arguments that are a service's own.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub(crate) struct ServiceCommandArgs {
    /// Arguments of the service; --help shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub(crate) arguments: Vec<std::ffi::OsString>,
}

// === impl ClusterRole ===

impl std::fmt::Display for ClusterRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Etcd => "etcd",
            Self::Controller => "controller",
            Self::StorageNode => "storage-node",
            Self::GroupCoordinator => "group-coordinator",
            Self::Gateway => "gateway",
        })
    }
}

// === impl ServiceCommandArgs ===

impl ServiceCommandArgs {
    /// The arguments of a process, with its name first.
    pub(crate) fn with_name(self, name: &str) -> impl Iterator<Item = std::ffi::OsString> {
        std::iter::once(name.into()).chain(self.arguments)
    }
}
