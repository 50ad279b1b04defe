//! `walser node deregister`: the end of a node that has left for good.

use std::process::ExitCode;

use clap::Args;
use walser_proto::v1 as pb;

use crate::args::ServerArgs;
use crate::error::CliError;
use crate::output;
use crate::server::Server;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser node deregister 4
  walser node deregister 4 --accept-loss

It is refused with exit code 6 while the node runs, while a partition has a
replica there, and while it may hold data aside that is nowhere else. Its data
directory is left as it is. A node that starts with this id later is a new one.")]
pub(crate) struct NodeDeregisterArgs {
    /// Node, as listed
    id: i32,
    /// What the node holds aside, or may, is given up; say that you know
    #[arg(long)]
    accept_loss: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn run(arguments: &NodeDeregisterArgs) -> Result<ExitCode, CliError> {
    let server = Server::of(&arguments.server)?;
    let request = pb::DeregisterNodeRequest { node_id: arguments.id, accept_loss: arguments.accept_loss };
    let gone = server.answered(server.client.cluster().deregister_node(request).await)?.node.unwrap_or_default();
    output::data(&format!("node {}  deregistered", gone.id));
    output::note("Its data directory is as it was; started again, it comes as a new node.");
    Ok(ExitCode::SUCCESS)
}
