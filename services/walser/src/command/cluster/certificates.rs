//! The certificates of a cluster with TLS: made with it, and kept in its directory.

use std::time::Duration;

use walser_tls::ServiceRole;

use super::layout::ClusterDirectory;
use crate::cli::ClusterRole;
use crate::command::tls::make_development;
use crate::error::CliError;

/// What a cluster on this machine is named in its certificates, and how long they are valid.
const CLUSTER: &str = "local";
const VALID: Duration = Duration::from_secs(3650 * 86_400);

/// Makes the certificates that are missing, of a cluster that has TLS by its plan.
///
/// # Errors
/// When they cannot be made.
pub(super) fn make_certificates(directory: &ClusterDirectory) -> Result<(), CliError> {
    let plan = directory.before()?;
    if !plan.tls {
        return Ok(());
    }
    let mut gateways = plan.processes;
    gateways.retain(|process| process.role == ClusterRole::Gateway);
    let hosts: Vec<_> = gateways.iter().map(|gateway| gateway.address().ip().to_string()).collect();
    make_development(&directory.tls_directory(), CLUSTER, &hosts, VALID).map(drop)
}

/// What a process is in certificates; members of etcd listen on this machine only, and have none.
pub(super) fn role_in_certificates(role: ClusterRole) -> Option<ServiceRole> {
    match role {
        ClusterRole::Etcd => None,
        ClusterRole::Controller => Some(ServiceRole::Controller),
        ClusterRole::StorageNode => Some(ServiceRole::StorageNode),
        ClusterRole::GroupCoordinator => Some(ServiceRole::GroupCoordinator),
        ClusterRole::Gateway => Some(ServiceRole::Gateway),
    }
}
