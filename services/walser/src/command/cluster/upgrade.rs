//! `walser cluster finalize-upgrade`: the end of an upgrade.

use std::process::ExitCode;

use walser_proto::v1 as pb;

use crate::cli::FinalizeUpgradeArgs;
use crate::error::CliError;
use crate::output;
use crate::server::Server;

pub(super) async fn run(arguments: &FinalizeUpgradeArgs) -> Result<ExitCode, CliError> {
    let server = Server::of(&arguments.server)?;
    let request = pb::FinalizeUpgradeRequest { validate_only: arguments.dry_run };
    let answer = server.answered(server.client.cluster().finalize_upgrade(request).await)?;
    let pb::FinalizeUpgradeResponse { feature_level, previous_level } = answer;
    let text = match (feature_level == previous_level, arguments.dry_run) {
        (true, _) => format!("feature level {feature_level}: there is no upgrade to end"),
        (false, true) => format!("feature level {previous_level} would become {feature_level}"),
        (false, false) => {
            format!("feature level {previous_level} is now {feature_level}: older programs are refused")
        }
    };
    output::data(&text);
    Ok(ExitCode::SUCCESS)
}
