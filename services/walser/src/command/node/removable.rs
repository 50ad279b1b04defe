//! `walser node removable`: whether nodes can go for ever.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;

use crate::args::ServerArgs;
use crate::command::partition::partitions;
use crate::error::{CliError, WRONG_STATE};
use crate::output::{self, plural};
use crate::server::Server;
use crate::topics;

#[derive(Debug, Args)]
pub(crate) struct NodeRemovableArgs {
    /// The first of the nodes that are to go, as listed; all above go, too
    #[arg(long, value_name = "NODE")]
    from: i32,
    #[command(flatten)]
    server: ServerArgs,
}

/// Succeeds where no partition, of whichever topic, has a replica on one of the nodes.
pub(super) async fn run(arguments: &NodeRemovableArgs) -> Result<ExitCode, CliError> {
    let server = Server::of(&arguments.server)?;
    let mut held = BTreeMap::new();
    for topic in topics::list(&server, false, true).await? {
        let found = match partitions(&server, &topic.name, false).await {
            Ok(found) => found,
            // It was deleted meanwhile.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        for replica in found.iter().flat_map(|(_, partition)| &partition.replicas) {
            if *replica >= arguments.from {
                *held.entry(*replica).or_insert(0) += 1;
            }
        }
    }
    if held.is_empty() {
        output::data(&format!("no replica is on a node from {} on", arguments.from));
        return Ok(ExitCode::SUCCESS);
    }
    let held: Vec<_> =
        held.iter().map(|(node, count)| format!("node {node} holds {}", plural(*count, "replica"))).collect();
    let help = "replicas stay where they are until their topic is deleted: \
                `walser topic describe TOPIC` shows where those of a topic are";
    Err(CliError::failed(held.join(", ")).with_code(WRONG_STATE).with_help(help))
}
