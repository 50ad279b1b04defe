//! `walser completion`.

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::cli::{Cli, CompletionArgs};
use crate::error::CliError;
use crate::output;

pub(crate) fn run(arguments: &CompletionArgs) -> Result<ExitCode, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "walser", &mut script);
    output::raw(&script);
    Ok(ExitCode::SUCCESS)
}
