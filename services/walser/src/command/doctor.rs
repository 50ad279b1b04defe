//! `walser doctor`: what keeps clients on this machine, or the cluster, from working well, and what to do about it.
//!
//! What the server says of its own problems is shown as it says it; looked for here is only what it cannot know: the way to it,
//! the clock of this machine, and settings that are allowed and hurt.

mod clock;
mod cluster;
mod local;
mod reach;
pub(super) mod report;
mod topics;

use std::process::ExitCode;

use clap::Args;

use self::report::Report;
use super::status;
use crate::args::OutputArgs;
use crate::error::CliError;
use crate::server::Server;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser doctor
  walser doctor --context prod
  walser doctor -o json | jq '.checks[] | select(.state != \"ok\")'

Exits with 10 when something needs attention, with 7 when the server cannot be
reached: how far the way to it is open is shown then. Nothing is changed.")]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(arguments: DoctorArgs) -> Result<ExitCode, CliError> {
    let server = Server::of(&arguments.output.server)?;
    let report = examine(&server).await;
    report.show(arguments.output.output)?;
    Ok(report.code())
}

/// Looks at everything that can be looked at.
pub(super) async fn examine(server: &Server) -> Report {
    let mut report = Report::default();
    local::look(server, &mut report);
    if !reach::look(server, &mut report).await {
        report.unreachable = true;
        return report;
    }
    clock::look(server, &mut report).await;
    match status::look(server).await {
        Ok(seen) => {
            cluster::look(&seen, &mut report);
            // Without a controller nobody knows them, which is told.
            if seen.is_led() {
                topics::look(server, &seen, &mut report).await;
            }
        }
        Err(error) => report.failed("cluster", error.what(), error.help().unwrap_or("look at the log of the server")),
    }
    report
}
