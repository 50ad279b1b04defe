//! placeholder
use std::process::ExitCode;
use crate::cli::BenchCommand;
use crate::error::CliError;
pub(crate) async fn run(_command: BenchCommand) -> Result<ExitCode, CliError> { Ok(ExitCode::SUCCESS) }
