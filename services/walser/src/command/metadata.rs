//! `walser metadata`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use walser_controller::{TransferError, TransferredMetadata};
use walser_model::SystemRandom;
use walser_proto::v1 as pb;
use walser_service::Settings;

use crate::args::ServerArgs;
use crate::error::{BAD_INPUT, CliError, EXISTS, UNAVAILABLE, WRONG_STATE};
use crate::output::{self, count, plural};
use crate::server::Server;

/// How long storage nodes may take to register again: they try every second.
const OBEYED_WITHIN: Duration = Duration::from_secs(15);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub(crate) enum MetadataCommand {
    /// Go on with metadata that was restored from an older copy (METADATA_ROLLBACK)
    #[command(after_help = "Example:\n  walser metadata accept-restore --yes")]
    AcceptRestore(AcceptRestoreArgs),
    /// Write the metadata of a stopped controller into a file, for another metadata store
    #[command(after_help = "Example:\n  walser metadata export cluster.json --data ./walser-data")]
    Export(ExportArgs),
    /// Read an exported file into an empty metadata store, such as etcd
    #[command(after_help = "\
Example:
  walser metadata import cluster.json --set controller.metastore=etcd \\
      --set controller.etcd.endpoints=http://127.0.0.1:2379")]
    Import(ImportArgs),
    /// Use metadata again that was exported, where nothing was started on the import
    #[command(after_help = "Example:\n  walser metadata reopen --data ./walser-data --yes")]
    Reopen(ReopenArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ReopenArgs {
    /// Do not ask
    #[arg(short = 'y', long)]
    yes: bool,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// File to write; it must not exist
    file: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// File that `walser metadata export` has written
    file: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
}

/// Which metadata store: named as for a controller.
#[derive(Debug, Args)]
struct StoreArgs {
    /// Data directory with the metadata [default: setting `controller.data`]
    #[arg(short = 'd', long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Settings of the controller, as TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting of the controller; wins over file and environment (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AcceptRestoreArgs {
    /// Do not ask
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    /// Also while storage nodes are away: what only they have may be lost
    #[arg(long)]
    pub(crate) without_missing_nodes: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

pub(crate) async fn run(command: MetadataCommand) -> Result<ExitCode, CliError> {
    match command {
        MetadataCommand::AcceptRestore(arguments) => accept_restore(arguments).await,
        MetadataCommand::Export(arguments) => export(arguments).await,
        MetadataCommand::Import(arguments) => import(arguments).await,
        MetadataCommand::Reopen(arguments) => reopen(arguments).await,
    }
}

impl StoreArgs {
    /// The options as they were given, each with a space before it.
    fn options(&self) -> String {
        let path = |name: &str, path: &Option<PathBuf>| match path {
            Some(path) => format!(" {name} {}", path.display()),
            None => String::new(),
        };
        let settings: String = self.settings.iter().map(|setting| format!(" --set {setting}")).collect();
        path("--data", &self.data) + &path("--config", &self.config) + &settings
    }

    fn load(&self) -> Result<Settings, CliError> {
        let mut pairs = self.settings.clone();
        pairs.extend(self.data.as_ref().map(|data| format!("controller.data={}", data.display())));
        let settings = walser_controller::settings(self.config.as_deref(), &pairs);
        settings.map_err(|error| CliError::usage(error.to_string()))
    }
}

/// What has become of metadata, in words.
fn say(what: &str, metadata: &TransferredMetadata) {
    let TransferredMetadata { cluster_id, cluster_name, revision, entries, partitions } = metadata;
    let name = if cluster_name.is_empty() { String::new() } else { format!(" \"{cluster_name}\"") };
    let (entries, partitions) = (i64::try_from(*entries), i64::try_from(*partitions));
    let entries = entries.map_or_else(|_| String::new(), count);
    let partitions = plural(partitions.unwrap_or(i64::MAX), "partition");
    let version = count(*revision);
    output::data(&format!("{what} cluster{name} {cluster_id} at version {version}: {entries} keys, {partitions}"));
}

fn transfer_failed(error: &TransferError) -> CliError {
    let failed = CliError::failed(error.to_string());
    match error {
        TransferError::NoAnswer => failed.with_code(UNAVAILABLE),
        TransferError::NoCluster | TransferError::NotExported | TransferError::InUse => failed.with_code(WRONG_STATE),
        TransferError::NotEmpty(_) | TransferError::OtherImport => failed.with_code(WRONG_STATE),
        _ => failed,
    }
}

async fn export(ExportArgs { file, store }: ExportArgs) -> Result<ExitCode, CliError> {
    let settings = store.load()?;
    let failed = |error: std::io::Error| CliError::failed(format!("{}: {error}", file.display()));
    // Whoever reads it has all of it.
    let part = file.with_added_extension("part");
    if file.exists() {
        let error = CliError::failed(format!("{} is there already", file.display())).with_code(EXISTS);
        return Err(error.with_help("name another file"));
    }
    let mut out = std::io::BufWriter::new(std::fs::File::create(&part).map_err(failed)?);
    let exported = walser_controller::export(&settings, &mut out).await;
    let synced = exported.map_err(|error| transfer_failed(&error)).and_then(|exported| {
        out.get_ref().sync_all().map_err(failed)?;
        std::fs::rename(&part, &file).map_err(failed)?;
        Ok(exported)
    });
    let exported = synced.inspect_err(|_| drop(std::fs::remove_file(&part)))?;
    say("exported", &exported);
    let again = format!("walser metadata reopen{}", store.options());
    output::note(&format!("No controller starts on it any more; to use it again all the same: {again}"));
    Ok(ExitCode::SUCCESS)
}

async fn import(ImportArgs { file, store }: ImportArgs) -> Result<ExitCode, CliError> {
    let settings = store.load()?;
    let named = |error: &dyn std::fmt::Display| CliError::failed(format!("{}: {error}", file.display()));
    let input = std::io::BufReader::new(std::fs::File::open(&file).map_err(|error| named(&error))?);
    let imported = walser_controller::import(&settings, input, &SystemRandom).await;
    let imported = imported.map_err(|error| match error {
        TransferError::Form(error) => named(&error).with_code(BAD_INPUT),
        error => transfer_failed(&error),
    })?;
    say("imported", &imported);
    output::note("Start the controllers with the same settings; storage nodes and gateways go on with them.");
    Ok(ExitCode::SUCCESS)
}

async fn reopen(ReopenArgs { yes, store }: ReopenArgs) -> Result<ExitCode, CliError> {
    if !yes {
        let what = "where controllers were started on the import, there are two histories then: storage nodes refuse the one \
                    that they have not seen";
        return Err(CliError::usage(what).with_help("pass --yes to confirm"));
    }
    let settings = store.load()?;
    walser_controller::reopen(&settings).await.map_err(|error| transfer_failed(&error))?;
    output::data("the metadata can be used again");
    Ok(ExitCode::SUCCESS)
}

async fn accept_restore(arguments: AcceptRestoreArgs) -> Result<ExitCode, CliError> {
    let AcceptRestoreArgs { yes, without_missing_nodes, server } = arguments;
    if !yes {
        let what = "storage nodes that know newer metadata will follow the metadata that is there: the data of topics \
                    that it does not know is set aside, and topics that were deleted after the copy was made are there \
                    again, without their records where a node has removed them. This cannot be undone";
        let error = CliError::usage(what);
        return Err(error.with_help("put newer metadata back if there is any; pass --yes to confirm"));
    }
    let server = Server::of(&server)?;
    let client = &server.client;
    let request = pb::AcceptMetadataRestoreRequest { without_missing_nodes };
    let accepted = server.answered(client.cluster().accept_metadata_restore(request).await)?;
    outcome(&accepted).iter().for_each(|line| output::data(line));
    if !accepted.node_ids.is_empty() {
        until_obeyed(&server).await?;
    }
    output::note("`walser partition set-aside list` shows what the metadata does not know.");
    Ok(ExitCode::SUCCESS)
}

/// What became of the metadata, in lines.
fn outcome(accepted: &pb::AcceptMetadataRestoreResponse) -> Vec<String> {
    let version = count(accepted.version);
    if accepted.node_ids.is_empty() {
        return vec![format!("nothing to accept: no storage node refuses the metadata, which is at version {version}")];
    }
    let partitions = plural(i64::from(accepted.partition_count), "partition");
    let ids: Vec<String> = accepted.node_ids.iter().map(i32::to_string).collect();
    vec![
        format!("metadata accepted at version {version}; new leader epochs for {partitions}"),
        format!("storage nodes that may register again: {}", ids.join(", ")),
    ]
}

/// Waits until no storage node that is there refuses the metadata any more: only then is it known what it does not know.
async fn until_obeyed(server: &Server) -> Result<(), CliError> {
    // Without a controller nobody knows.
    let open = ["METADATA_ROLLBACK", "CONTROLLER_NOT_AVAILABLE"];
    let refuses = |issue: &pb::HealthIssue| open.contains(&issue.code.as_str());
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < OBEYED_WITHIN {
        let answer = server.answered(server.client.cluster().get_cluster(pb::GetClusterRequest {}).await)?;
        let health = answer.cluster.unwrap_or_default().health.unwrap_or_default();
        if !health.issues.iter().any(refuses) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let error = CliError::failed("the metadata is accepted, and not every storage node has registered with it yet");
    Err(error.with_help("`walser status` says which; look at its log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_nobody_had_refused_is_not_called_accepted() {
        let nothing = pb::AcceptMetadataRestoreResponse { version: 7, ..Default::default() };
        assert!(outcome(&nothing).iter().all(|line| !line.contains("accepted")), "{:?}", outcome(&nothing));
        let some = pb::AcceptMetadataRestoreResponse { version: 7, node_ids: vec![1, 2], partition_count: 3 };
        let lines = outcome(&some).join("; ");
        assert!(lines.contains("metadata accepted at version 7") && lines.contains("again: 1, 2"), "{lines}");
    }
}
