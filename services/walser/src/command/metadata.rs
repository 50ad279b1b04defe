//! `walser metadata`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use walser_proto::v1 as pb;

use crate::cli::ServerArgs;
use crate::error::CliError;
use crate::output::{self, count, plural};
use crate::server::Server;

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
    }
    output::note("`walser partition set-aside list` shows what the metadata does not know.");
    Ok(ExitCode::SUCCESS)
}
