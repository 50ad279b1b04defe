//! `walser metadata`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use walser_proto::v1 as pb;

use crate::args::ServerArgs;
use crate::error::CliError;
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
}

#[derive(Debug, Args)]
pub(crate) struct AcceptRestoreArgs {
    /// Do not ask
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

pub(crate) async fn run(command: MetadataCommand) -> Result<ExitCode, CliError> {
    let MetadataCommand::AcceptRestore(AcceptRestoreArgs { yes, server }) = command;
    if !yes {
        let what = "storage nodes that know newer metadata will follow the metadata that is there: the data of topics \
                    that it does not know is set aside, and topics that were deleted after the copy was made are there \
                    again, without their records where a node has removed them. This cannot be undone";
        let error = CliError::usage(what);
        return Err(error.with_help("put newer metadata back if there is any; pass --yes to confirm"));
    }
    let server = Server::of(&server)?;
    let client = &server.client;
    let answer = client.cluster().accept_metadata_restore(pb::AcceptMetadataRestoreRequest {}).await;
    let accepted = server.answered(answer)?;
    let partitions = plural(i64::from(accepted.partition_count), "partition");
    let version = count(accepted.version);
    output::data(&format!("metadata accepted at version {version}; new leader epochs for {partitions}"));
    if accepted.node_ids.is_empty() {
        output::data("no storage node had been refused");
    } else {
        let ids: Vec<String> = accepted.node_ids.iter().map(i32::to_string).collect();
        output::data(&format!("storage nodes that may register again: {}", ids.join(", ")));
        until_obeyed(&server).await?;
    }
    output::note("`walser partition set-aside list` shows what the metadata does not know.");
    Ok(ExitCode::SUCCESS)
}

/// Waits until no storage node that is there refuses the metadata any more: only then is it known what it does not know.
async fn until_obeyed(server: &Server) -> Result<(), CliError> {
    let refuses = |issue: &pb::HealthIssue| issue.code == "METADATA_ROLLBACK";
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
