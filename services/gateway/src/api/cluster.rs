//! `ClusterService` and `OperationService`: the controller's answers, and those of the storage nodes.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use walser_model::{NodeId, TopicId};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::storage_service_client::StorageServiceClient;
use walser_proto::v1 as pb;
use walser_proto::v1::cluster_service_client::ClusterServiceClient;
use walser_proto::v1::cluster_service_server::ClusterService;
use walser_proto::v1::operation_service_client::OperationServiceClient;
use walser_proto::v1::operation_service_server::OperationService;
use walser_rpc::ApiError;
use walser_service::Caller;

use super::controllers::Controllers;
use super::storage_nodes::Backends;
use super::wire::{relayed, see_change};
use super::{change_log, controllers, coordinators, set_aside};
use crate::leaders::{Figures, Leaders};
use crate::metadata::{Metadata, TopicView, View};
use crate::router::Router;
use crate::topics::Topics;

/// How long a gateway may be behind the controller before that counts as a fault.
const VIEW_DELAY_MAX: Duration = Duration::from_secs(1);
/// What the controller said longer ago than this is asked for once more.
const OUTDATED_AFTER: Duration = Duration::from_secs(1);
/// Partitions that one health issue names.
const OBJECTS_MAX: usize = 20;
/// Nodes that one hint names.
const SILENT_NAMED_MAX: usize = 5;
/// Issues of partitions that have a leader, as far as the controller knows.
const LED: [&str; 3] = ["PARTITIONS_UNDER_MIN_ISR", "PARTITIONS_UNDER_REPLICATED", "PARTITIONS_RECOVERING"];

type Answer<T> = Result<Response<T>, Status>;

/// `ClusterService` and `OperationService`.
#[derive(Debug)]
pub(super) struct ClusterApi {
    pub(super) backends: Backends,
    pub(super) metadata: Metadata,
    pub(super) topics: Topics,
    pub(super) leaders: Leaders,
    pub(super) router: Router,
}

/// This gateway does not obey what the controller says.
fn refused_issue(refused: &ApiError) -> pb::HealthIssue {
    pb::HealthIssue {
        severity: pb::HealthStatus::Critical.into(),
        code: refused.reason_name().to_owned(),
        message: format!("this gateway does not obey the controller's metadata: {}", refused.message()),
        hint: "topics that are known here can be read; see \"When metadata and data disagree\" in docs/operations.md"
            .to_owned(),
        objects: Vec::new(),
        start_time: None,
    }
}

#[async_trait]
impl ClusterService for ClusterApi {
    async fn get_cluster(&self, request: Request<pb::GetClusterRequest>) -> Answer<pb::GetClusterResponse> {
        let request = request.into_inner();
        let begun = Instant::now();
        let (mut cluster, mut led) = self.asked(request).await?;
        if led && begun.elapsed() > OUTDATED_AFTER {
            // Somebody did not answer for so long that the controller may know why by now.
            (cluster, led) = self.asked(request).await?;
        }
        if let Some(health) = &mut cluster.health {
            let network = &self.backends.network;
            let (controllers, groups) = tokio::join!(Controllers::ask(network), coordinators::unserved_issue(network));
            cluster.controller = controllers.leader.clone().filter(|_| led).unwrap_or_default();
            health.issues.extend(controllers.issues(led));
            // Where none is there at all, the controller has said it.
            let all_down = health.issues.iter().any(|issue| issue.code == "GROUP_COORDINATOR_DOWN");
            health.issues.extend(groups.filter(|_| !all_down));
            health.issues.extend(self.metadata.refused().map(|refused| refused_issue(&refused)));
            health.issues.sort_by_key(|issue| Reverse(issue.severity));
            let worst = health.issues.first().map_or(pb::HealthStatus::Ok, pb::HealthIssue::severity);
            health.status = worst.into();
        }
        Ok(Response::new(pb::GetClusterResponse { cluster: Some(cluster) }))
    }

    async fn list_nodes(&self, request: Request<pb::ListNodesRequest>) -> Answer<pb::ListNodesResponse> {
        ClusterServiceClient::new(self.backends.controller.clone())
            .list_nodes(request.into_inner())
            .await
            .map_err(relayed)
    }

    async fn repair_partition(
        &self,
        request: Request<pb::RepairPartitionRequest>,
    ) -> Answer<pb::RepairPartitionResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let partition = request.topic_partition.ok_or_else(|| ApiError::field("topic_partition", "is missing"))?;
        let topic = self.topics.find(&partition.topic).await?;
        let route = self.router.route(&topic, partition.partition)?;
        let connection = self.router.storage(route.node)?;
        let request =
            pbi::RepairPartitionRequest { r#ref: Some(route.partition.into()), accept_loss: request.accept_loss };
        let repaired = StorageServiceClient::new(connection).repair_partition(request).await?.into_inner();
        change_log::repaired(&caller, &partition, &repaired);
        Ok(Response::new(pb::RepairPartitionResponse {
            old_end_offset: repaired.old_end_offset,
            new_end_offset: repaired.new_end_offset,
            set_aside_bytes: repaired.bytes_set_aside,
        }))
    }

    async fn list_set_aside(&self, _request: Request<pb::ListSetAsideRequest>) -> Answer<pb::ListSetAsideResponse> {
        Ok(Response::new(set_aside::list(&self.backends).await?))
    }

    async fn restore_set_aside(
        &self,
        request: Request<pb::RestoreSetAsideRequest>,
    ) -> Answer<pb::RestoreSetAsideResponse> {
        let topic = set_aside::restore(&self.backends, &Caller::of(&request), request.get_ref()).await?;
        see_change(&self.topics, topic.as_ref()).await;
        Ok(Response::new(pb::RestoreSetAsideResponse { topic }))
    }

    async fn delete_set_aside(
        &self,
        request: Request<pb::DeleteSetAsideRequest>,
    ) -> Answer<pb::DeleteSetAsideResponse> {
        let deleted = set_aside::delete(&self.backends, request.get_ref()).await?;
        change_log::set_aside_deleted(&Caller::of(&request), request.get_ref(), &deleted);
        Ok(Response::new(deleted))
    }

    async fn elect_leaders(&self, request: Request<pb::ElectLeadersRequest>) -> Answer<pb::ElectLeadersResponse> {
        let mut client = ClusterServiceClient::new(self.backends.controller.clone());
        let request = Caller::of(&request).relay(request.into_inner());
        client.elect_leaders(request).await.map_err(relayed)
    }

    async fn update_node(&self, request: Request<pb::UpdateNodeRequest>) -> Answer<pb::UpdateNodeResponse> {
        let mut client = ClusterServiceClient::new(self.backends.controller.clone());
        let request = Caller::of(&request).relay(request.into_inner());
        client.update_node(request).await.map_err(relayed)
    }

    async fn deregister_node(&self, request: Request<pb::DeregisterNodeRequest>) -> Answer<pb::DeregisterNodeResponse> {
        let mut client = ClusterServiceClient::new(self.backends.controller.clone());
        let request = Caller::of(&request).relay(request.into_inner());
        client.deregister_node(request).await.map_err(relayed)
    }

    async fn finalize_upgrade(
        &self,
        request: Request<pb::FinalizeUpgradeRequest>,
    ) -> Answer<pb::FinalizeUpgradeResponse> {
        let mut client = ClusterServiceClient::new(self.backends.controller.clone());
        let request = Caller::of(&request).relay(request.into_inner());
        client.finalize_upgrade(request).await.map_err(relayed)
    }

    async fn list_cluster_configs(
        &self,
        request: Request<pb::ListClusterConfigsRequest>,
    ) -> Answer<pb::ListClusterConfigsResponse> {
        let mut client = ClusterServiceClient::new(self.backends.controller.clone());
        client.list_cluster_configs(request.into_inner()).await.map_err(relayed)
    }

    async fn update_cluster_config(
        &self,
        request: Request<pb::UpdateClusterConfigRequest>,
    ) -> Answer<pb::UpdateClusterConfigResponse> {
        let mut client = ClusterServiceClient::new(self.backends.controller.clone());
        let request = Caller::of(&request).relay(request.into_inner());
        client.update_cluster_config(request).await.map_err(relayed)
    }

    async fn accept_metadata_restore(
        &self,
        request: Request<pb::AcceptMetadataRestoreRequest>,
    ) -> Answer<pb::AcceptMetadataRestoreResponse> {
        let mut client = ClusterServiceClient::new(self.backends.controller.clone());
        let request = Caller::of(&request).relay(request.into_inner());
        client.accept_metadata_restore(request).await.map_err(relayed)
    }
}

impl ClusterApi {
    /// What the controller says, with what this gateway cannot reach, and true. Where none leads, what the gateway knows
    /// itself, and false.
    async fn asked(&self, request: pb::GetClusterRequest) -> Result<(pb::Cluster, bool), Status> {
        // Before the controller counts them: what is deleted afterwards was known here.
        let known = self.metadata.view().partition_count();
        let mut client = ClusterServiceClient::new(self.backends.controller.clone());
        let (mut cluster, led) = match client.get_cluster(request).await.map_err(relayed) {
            Ok(answer) => (answer.into_inner().cluster.unwrap_or_default(), true),
            Err(status) => (controllers::without_leader(&self.metadata, status.into())?, false),
        };
        if let Some(health) = &mut cluster.health {
            self.add_unserved(health, known, led).await;
        }
        Ok((cluster, led))
    }

    /// Adds the partitions that clients of this gateway cannot reach: every leader is asked, along the way that reads
    /// and writes take. What the controller has named already is not repeated. `known`: partitions that were known here
    /// before the controller counted them. `led`: a controller has named those without a leader.
    async fn add_unserved(&self, health: &mut pb::ClusterHealth, known: usize, led: bool) {
        let expected = usize::try_from(health.partition_count).unwrap_or(0);
        if known < expected {
            // A change that the controller has counted may still be on its way here.
            self.metadata.wait_until(VIEW_DELAY_MAX, |view| view.partition_count() >= expected).await;
        }
        let view = self.metadata.view();
        let unknown = expected.saturating_sub(view.partition_count().max(known));
        let topics: Vec<_> = view.topics().cloned().collect();
        let figures = self.leaders.figures(&topics).await;
        add_lag(health, &figures);
        let mut missing = unserved(&figures, &topics, led);
        // The controller does not know whether their leaders can be reached from here.
        let unled = |issue: &&pb::HealthIssue| !LED.contains(&&*issue.code);
        let named = health.issues.iter().filter(unled).flat_map(|issue| &issue.objects);
        let named: HashSet<&str> = named.map(String::as_str).collect();
        missing.retain(|object, _| !named.contains(object.as_str()));
        if !missing.is_empty() {
            // A leader knows before this gateway that its topic is going away. What is still there counts.
            let topics: HashSet<TopicId> = missing.values().copied().collect();
            let gone = |view: &View| topics.iter().all(|topic| view.topic(*topic).is_none());
            self.metadata.wait_until(VIEW_DELAY_MAX, gone).await;
            let view = self.metadata.view();
            let topics: Vec<_> = topics.iter().filter_map(|topic| view.topic(*topic).cloned()).collect();
            // Whoever has not answered would be waited for once more.
            let again = self.leaders.figures_without(&topics, figures.silent.clone()).await;
            let still = unserved(&again, &topics, led);
            missing.retain(|object, topic| still.get(object) == Some(topic));
        }
        let mut missing: Vec<_> = missing.into_keys().collect();
        let count = missing.len() + unknown;
        let all = topics.iter().map(|topic| topic.leaders().count()).sum::<usize>() + unknown;
        if count == 0 {
            return;
        }
        missing.sort_unstable();
        missing.truncate(OBJECTS_MAX);
        let name = |object: &String| object.replacen("topics/", "", 1).replacen("/partitions/", "/", 1);
        let first = missing.first().map(|object| format!(", for example {}", name(object))).unwrap_or_default();
        health.issues.push(pb::HealthIssue {
            severity: pb::HealthStatus::Critical.into(),
            code: "PARTITIONS_NOT_SERVED".to_owned(),
            message: format!("not served to clients of this gateway: {count} of {all} partitions{first}"),
            hint: unserved_hint(&figures.silent),
            objects: missing,
            start_time: None,
        });
    }
}

/// What to do about partitions that are not served, where these nodes do not answer.
fn unserved_hint(silent: &HashSet<NodeId>) -> String {
    let mut silent: Vec<_> = silent.iter().map(|node| node.0).collect();
    silent.sort_unstable();
    let nodes: Vec<_> = silent.iter().take(SILENT_NAMED_MAX).map(|node| format!("node {node}")).collect();
    if nodes.is_empty() {
        return "if this lasts for more than a few seconds, look at the logs of the storage nodes".to_owned();
    }
    format!(
        "{} did not answer this gateway: if this lasts for more than a few seconds, look at the address in `walser node \
         describe`, whether it can be reached from here, and at the log there",
        nodes.join(", ")
    )
}

/// The partitions of some topics that their leaders do not serve, with their topics; those that have none only where no
/// controller is there (`led`), which names them.
fn unserved(figures: &Figures, topics: &[Arc<TopicView>], led: bool) -> HashMap<String, TopicId> {
    let mut unserved = HashMap::new();
    for topic in topics {
        for (number, leader, _) in topic.leaders() {
            if (leader.is_some() || !led) && !figures.served(&topic.name, number.0) {
                unserved.insert(format!("topics/{}/partitions/{number}", topic.name), topic.id);
            }
        }
    }
    unserved
}

/// Says of replicas that are not in sync how far the last of them is behind, as leaders know it.
fn add_lag(health: &mut pb::ClusterHealth, figures: &Figures) {
    let Some(issue) = health.issues.iter_mut().find(|issue| issue.code == "PARTITIONS_UNDER_REPLICATED") else {
        return;
    };
    let Some((topic, partition, lag)) = figures.furthest_behind() else { return };
    let seconds = lag.behind.as_secs();
    let far = match lag.offsets {
        Some(1) => format!("by 1 record and {seconds} s"),
        Some(offsets) => format!("by {offsets} records and {seconds} s"),
        None if seconds == 0 => "not heard by its leader yet".to_owned(),
        None => format!("not heard for {seconds} s"),
    };
    let _ = write!(issue.message, "; furthest behind: the replica of {topic}/{partition} on node {}, {far}", lag.node);
}

#[async_trait]
impl OperationService for ClusterApi {
    async fn get_operation(&self, request: Request<pb::GetOperationRequest>) -> Answer<pb::GetOperationResponse> {
        OperationServiceClient::new(self.backends.controller.clone())
            .get_operation(request.into_inner())
            .await
            .map_err(relayed)
    }
}
