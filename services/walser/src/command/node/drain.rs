//! `walser node drain`.

use std::cell::Cell;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use walser_proto::v1 as pb;
use walser_rpc::RetryAdvice;

use super::{NodeChangeArgs, change, listed, unknown_node};
use crate::error::{CliError, WRONG_STATE};
use crate::output::{self, plural};
use crate::server::Server;
use crate::signal::Interrupts;

/// Time between two looks at a node that is being drained.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What a node says of its leads is of this moment by then.
const SETTLED_AFTER: Duration = Duration::from_secs(3);
#[derive(Debug, Args)]
pub(crate) struct NodeDrainArgs {
    /// Wait so many seconds until its leads are with others
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) node: NodeChangeArgs,
}

/// Waits until the node leads nothing that another one could lead.
pub(super) async fn run(arguments: &NodeDrainArgs) -> Result<ExitCode, CliError> {
    let NodeDrainArgs { timeout, node: NodeChangeArgs { id, server } } = arguments;
    let server = Server::of(server)?;
    let mut interrupts = Interrupts::listen()?;
    let drain: Cell<Option<&str>> = Cell::new(None);
    let draining = async {
        drain.set(Some("may stand"));
        let node = change(&server, *id, (Some(true), Some(true))).await.inspect_err(|error| {
            drain.set(drain.get().filter(|_| error.is_in_doubt()));
        })?;
        drain.set(Some("stands"));
        wait(&server, node, Duration::from_secs(*timeout)).await
    };
    let stands = || {
        if let Some(stands) = drain.get() {
            output::note(&format!("The drain {stands}. To end it: walser node uncordon {id}"));
        }
    };
    tokio::select! {
        drained = draining => drained.inspect_err(|_| stands()),
        interrupt = interrupts.next() => {
            stands();
            Ok(ExitCode::from(interrupt.exit_code()))
        }
    }
}

/// Looks at a node until it is drained. While no controller answers, others may lead, or it may come back.
async fn wait(server: &Server, mut node: pb::Node, timeout: Duration) -> Result<ExitCode, CliError> {
    let (id, begun) = (node.id, Instant::now());
    let (mut told, mut drained_since) = (None, None);
    loop {
        let leads = node.storage.as_ref().map_or(0, |storage| storage.leader_count);
        match node.state() {
            // What the node itself says of its leads comes a moment later.
            pb::NodeState::Drained
                if leads == 0 || drained_since.get_or_insert_with(Instant::now).elapsed() >= SETTLED_AFTER =>
            {
                return drained(&node, leads);
            }
            pb::NodeState::Down => {
                let text = "down; when it comes back it leads only what no other node can";
                output::data(&format!("node {id}  {text}"));
                return Ok(ExitCode::SUCCESS);
            }
            _ if begun.elapsed() >= timeout => {
                let leads = plural(i64::from(leads), "partition");
                let text = format!("node {id} still leads {leads} after {} s", timeout.as_secs());
                let help = "it goes on giving them away where another node is in sync; `walser node describe` shows how far it is";
                return Err(CliError::failed(text).with_help(help));
            }
            _ if told != Some(leads) => {
                output::note(&format!("node {id} leads {}", plural(i64::from(leads), "partition")));
                told = Some(leads);
            }
            _ => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
        match listed(server).await {
            Ok(nodes) => {
                let found = nodes.iter().find(|node| node.id == id).cloned();
                node = found.ok_or_else(|| unknown_node(id, &nodes))?;
            }
            Err(failure) if failure.retry() != RetryAdvice::Never && begun.elapsed() < timeout => {}
            Err(failure) => return Err(server.failed(failure)),
        }
    }
}

/// Says that a node is drained, or what it leads all the same.
fn drained(node: &pb::Node, leads: i32) -> Result<ExitCode, CliError> {
    if leads > 0 {
        let leads = plural(i64::from(leads), "partition");
        let text =
            format!("node {} still leads {leads}: no other node is in sync there, in service and not drained", node.id);
        let help = "when it stops, a drained node that is in sync leads these; where there is none, they are not served while \
                    it is away. It gives them away as soon as a replica is in sync on a node that is neither down nor \
                    drained; those of which it has the only replica never";
        return Err(CliError::failed(text).with_code(WRONG_STATE).with_help(help));
    }
    output::data(&format!("node {}  drained", node.id));
    output::note(&format!("Its replicas stay. To end it: walser node uncordon {}", node.id));
    Ok(ExitCode::SUCCESS)
}
