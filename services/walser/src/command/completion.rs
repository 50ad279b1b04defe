//! `walser completion`.

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::cli::{Cli, CompletionArgs};
use crate::error::CliError;

pub(crate) fn run(arguments: &CompletionArgs) -> Result<ExitCode, CliError> {
    clap_complete::generate(arguments.shell, &mut Cli::command(), "walser", &mut std::io::stdout().lock());
    Ok(ExitCode::SUCCESS)
}
