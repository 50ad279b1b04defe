//! Which processes of a cluster may make which calls, where TLS says who they are. Calls of one process to itself, and of a
//! cluster without TLS, have no identity and are not looked at.

use std::sync::Arc;

use tonic::{Request, Status};
use walser_model::NodeId;
use walser_proto::internal::v1::{
    controller_service_server, coordinator_service_server, replication_service_server, storage_service_server,
};
use walser_tls::{PeerIdentity, ServiceRole};

use crate::Reason;
use crate::api_error::ApiError;

/// What clients of a gateway call too: it passes such calls on.
const PUBLIC: &str = "walser.v1.";

/// The answer to a call that the caller may not make.
pub(crate) fn refused<B>(request: &http::Request<B>) -> Option<Status> {
    let caller = request.extensions().get::<Arc<PeerIdentity>>()?;
    let path = request.uri().path();
    let allowed = roles(path)?;
    (!allowed.contains(&caller.role))
        .then(|| denied(path, caller, &format!("a {} may not call it", caller.role)).into())
}

/// Which process makes a call, where TLS says it.
pub fn caller_of<T>(request: &Request<T>) -> Option<Arc<PeerIdentity>> {
    request.extensions().get().cloned()
}

/// Refuses a storage node that speaks for another one, where its certificate names its own id.
///
/// # Errors
/// CLUSTER_ACCESS_DENIED.
pub fn check_node_id(caller: Option<&PeerIdentity>, node: NodeId) -> Result<(), ApiError> {
    match caller {
        Some(caller) if caller.id.is_some_and(|id| id != node.0) => {
            Err(denied("storage node", caller, &format!("it may not speak for storage node {node}")))
        }
        _ => Ok(()),
    }
}

/// Who may make a call. `None`: anybody, as with health and reflection, and what nobody answers.
fn roles(path: &str) -> Option<&'static [ServiceRole]> {
    use ServiceRole::{Gateway, GroupCoordinator, StorageNode};
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    Some(match (service, method) {
        (controller_service_server::SERVICE_NAME, "WatchMetadata") => &[StorageNode, Gateway, GroupCoordinator],
        (controller_service_server::SERVICE_NAME, "RegisterNode" | "NodeSession" | "AlterIsr" | "RenewLeaderEpoch") => {
            &[StorageNode]
        }
        (controller_service_server::SERVICE_NAME, "CoordinatorBeat" | "CreateInternalTopic") => &[GroupCoordinator],
        (controller_service_server::SERVICE_NAME | coordinator_service_server::SERVICE_NAME, _) => &[Gateway],
        (storage_service_server::SERVICE_NAME, _) => &[Gateway, GroupCoordinator],
        (replication_service_server::SERVICE_NAME, _) => &[StorageNode],
        (service, _) if service.starts_with(PUBLIC) => &[Gateway],
        _ => return None,
    })
}

fn denied(operation: &str, caller: &PeerIdentity, why: &str) -> ApiError {
    let text = format!("{caller}: {why}");
    let failure = ApiError::new(Reason::ClusterAccessDenied, text);
    failure.with("operation", operation).with("principal", caller)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(role: ServiceRole, path: &str) -> Option<Status> {
        let mut request = http::Request::builder().uri(path).body(()).unwrap();
        let caller = PeerIdentity { cluster: "c".to_owned(), role, id: None };
        request.extensions_mut().insert(Arc::new(caller));
        refused(&request)
    }

    /// Every method of the internal services, from the proto files, with the roles that may call it.
    #[test]
    fn every_internal_call_is_for_some_roles_and_not_for_others() {
        let mut checked = 0;
        for file in std::fs::read_dir("../../proto/walser/internal/v1").unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let mut service = "";
            for line in text.lines().map(str::trim) {
                if let Some(rest) = line.strip_prefix("service ") {
                    service = rest.split(' ').next().unwrap();
                }
                let Some(rest) = line.strip_prefix("rpc ") else { continue };
                let path = format!("/walser.internal.v1.{service}/{}", rest.split('(').next().unwrap());
                let allowed: Vec<_> =
                    ServiceRole::ALL.into_iter().filter(|role| call(*role, &path).is_none()).collect();
                assert!(!allowed.is_empty() && !allowed.contains(&ServiceRole::Controller), "{path}: {allowed:?}");
                checked += 1;
            }
        }
        assert!(checked > 25, "{checked}");
    }

    #[test]
    fn a_caller_of_another_role_is_told_who_it_is() {
        let refused = call(ServiceRole::Gateway, "/walser.internal.v1.ReplicationService/Replicate").unwrap();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert_eq!(refused.message(), "spiffe://c/gateway: a gateway may not call it");
        assert!(call(ServiceRole::StorageNode, "/walser.v1.TopicService/CreateTopic").is_some());
        assert!(call(ServiceRole::Gateway, "/walser.v1.TopicService/CreateTopic").is_none());
        assert!(call(ServiceRole::Controller, "/grpc.health.v1.Health/Check").is_none());
        let anybody = http::Request::builder().uri("/walser.v1.TopicService/CreateTopic").body(()).unwrap();
        assert!(super::refused(&anybody).is_none());
    }

    #[test]
    fn a_node_speaks_for_itself_only() {
        assert!(check_node_id(None, NodeId(2)).is_ok());
        let shared = PeerIdentity { cluster: "c".to_owned(), role: ServiceRole::StorageNode, id: None };
        assert!(check_node_id(Some(&shared), NodeId(2)).is_ok());
        let own = PeerIdentity { id: Some(1), ..shared };
        assert!(check_node_id(Some(&own), NodeId(1)).is_ok());
        assert_eq!(check_node_id(Some(&own), NodeId(2)).unwrap_err().reason(), Reason::ClusterAccessDenied);
    }
}
