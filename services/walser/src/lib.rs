//! One program: the whole server in one process (`walser up`), and the command line for any server.

mod cli;
mod command;
mod error;
mod input;
mod output;
mod position;
mod standalone;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::error::CliError;

/// Runs the program with the arguments of the process.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Up(arguments) => standalone::run(&arguments),
        Command::Proto(arguments) => command::proto::run(&arguments),
        Command::Log(arguments) => command::log::run(&arguments),
        Command::Completion(arguments) => command::completion::run(&arguments),
        remote => run_remote(remote),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

fn run_remote(command: Command) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("no runtime: {error}")))?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = command::remote(command) => outcome,
            _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    outcome
}
