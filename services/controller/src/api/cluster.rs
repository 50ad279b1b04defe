//! `ClusterService` and `OperationService`.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use walser_metadata::NodeEntry;
use walser_model::NodeId;
use walser_proto::v1 as pb;
use walser_proto::v1::cluster_service_server::ClusterService;
use walser_proto::v1::operation_service_server::OperationService;
use walser_rpc::{ApiError, Reason, after_token, page, page_size, wire_registration, wire_time};
use walser_service::Caller;

use super::Controller;
use super::describe::wire_operation;
use crate::cluster_view::ClusterView;
use crate::nodes::{self, HeldAside, NodeNews, NodeWish};
use crate::restore::{self, Accepted};
use crate::sessions::Session;

type Answer<T> = Result<Response<T>, Status>;

/// Nodes that have registered, ascending.
pub(super) fn registered(view: &ClusterView) -> impl Iterator<Item = (NodeId, &Arc<NodeEntry>)> {
    view.metadata.nodes().filter(|(_, node)| node.epoch > 0)
}

/// The answer to calls that are carried out on storage nodes.
fn gateways_only(method: &str) -> ApiError {
    let text = format!("{method} is carried out on the storage nodes: call a gateway");
    ApiError::new(Reason::FeatureDisabled, text).with("feature", method)
}

/// What versions are ordered by: 0.10.0 comes after 0.9.1.
fn by_number(version: &str) -> Vec<u32> {
    version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0)).collect()
}

#[async_trait]
impl ClusterService for Controller {
    async fn get_cluster(&self, _request: Request<pb::GetClusterRequest>) -> Answer<pb::GetClusterResponse> {
        let view = self.views.load();
        let record = view.cluster()?;
        let versions = registered(&view).map(|(_, node)| node.registration.version.clone());
        let version = versions.min_by_key(|version| by_number(version));
        let cluster = pb::Cluster {
            id: record.id.clone(),
            name: record.name.clone(),
            version: version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            feature_level: record.feature_level,
            mode: if self.config.standalone { "STANDALONE" } else { "DISTRIBUTED" }.to_owned(),
            // The gateway says it, which knows where controllers are.
            controller: String::new(),
            health: Some(self.health(&view)),
            group_coordinator_count: i32::try_from(self.coordinators.living()).unwrap_or(i32::MAX),
        };
        Ok(Response::new(pb::GetClusterResponse { cluster: Some(cluster) }))
    }

    async fn list_nodes(&self, request: Request<pb::ListNodesRequest>) -> Answer<pb::ListNodesResponse> {
        let request = request.get_ref();
        let size = page_size(request.page_size, 100, 1000)?;
        if let Some(role) = request.roles.iter().find(|role| pb::NodeRole::try_from(**role).is_err()) {
            return Err(ApiError::field("roles", format!("{role} is not a value of the enum")).into());
        }
        let query = format!("nodes/{:?}", request.roles);
        let after = after_token(&request.page_token, &query)?;
        let after = if after.is_empty() { 0 } else { after.parse().unwrap_or(i32::MAX) };
        // By id, ascending.
        let view = self.views.load();
        let mut wanted: Vec<_> = registered(&view).filter(|(node, _)| node.0 > after).collect();
        if !request.roles.is_empty() {
            wanted.retain(|(_, node)| request.roles.iter().any(|role| node.registration.roles.contains(role)));
        }
        let (wanted, next_page_token) = page(wanted, size, &query, |(node, _)| node.to_string());
        let leads = nodes::lead_counts(&view);
        let nodes = wanted.into_iter().map(|(node, entry)| self.wire_node(&view, &leads, node, entry)).collect();
        Ok(Response::new(pb::ListNodesResponse { nodes, next_page_token }))
    }

    async fn list_set_aside(&self, _request: Request<pb::ListSetAsideRequest>) -> Answer<pb::ListSetAsideResponse> {
        Err(gateways_only("ListSetAside").into())
    }

    async fn restore_set_aside(
        &self,
        _request: Request<pb::RestoreSetAsideRequest>,
    ) -> Answer<pb::RestoreSetAsideResponse> {
        Err(gateways_only("RestoreSetAside").into())
    }

    async fn delete_set_aside(
        &self,
        _request: Request<pb::DeleteSetAsideRequest>,
    ) -> Answer<pb::DeleteSetAsideResponse> {
        Err(gateways_only("DeleteSetAside").into())
    }

    async fn elect_leaders(&self, request: Request<pb::ElectLeadersRequest>) -> Answer<pb::ElectLeadersResponse> {
        let (controller, caller) = (self.clone(), Caller::relayed(&request));
        // It goes on when the caller does not wait any longer: a leader may have stepped down for it.
        let elected = tokio::spawn(async move { controller.elect(&caller, request.into_inner()).await }).await;
        let stopped = |error| ApiError::internal(format!("the election stopped: {error}"));
        Ok(Response::new(elected.map_err(stopped)??))
    }

    async fn list_cluster_configs(
        &self,
        request: Request<pb::ListClusterConfigsRequest>,
    ) -> Answer<pb::ListClusterConfigsResponse> {
        Ok(Response::new(self.cluster_configs(request.get_ref())?))
    }

    async fn update_node(&self, request: Request<pb::UpdateNodeRequest>) -> Answer<pb::UpdateNodeResponse> {
        let caller = Caller::relayed(&request);
        let request = request.into_inner();
        self.changeable()?;
        let node = NodeId(request.node_id);
        let change = NodeWish { cordoned: request.cordoned, drained: request.drained };
        let view = self.nodes.obey(node, change).await?;
        let entry = view.metadata.node(node).ok_or_else(|| ApiError::internal("the node has no registration"))?;
        let (cordoned, drained) = (entry.liveness.cordoned, entry.liveness.drained);
        let (client_id, client_address) = (caller.client_id(), caller.address());
        tracing::info!(client_id, client_address, %node, cordoned, drained, "node changed on request");
        Ok(Response::new(pb::UpdateNodeResponse {
            node: Some(self.wire_node(&view, &nodes::lead_counts(&view), node, entry)),
        }))
    }

    async fn deregister_node(&self, request: Request<pb::DeregisterNodeRequest>) -> Answer<pb::DeregisterNodeResponse> {
        let caller = Caller::relayed(&request);
        let pb::DeregisterNodeRequest { node_id, accept_loss } = request.into_inner();
        self.changeable()?;
        let node = NodeId(node_id);
        let entry = self.nodes.deregister(node, accept_loss, |entry| self.news_of(node, entry)).await?;
        let (client_id, client_address, node_epoch) = (caller.client_id(), caller.address(), entry.epoch);
        tracing::warn!(client_id, client_address, %node, node_epoch, accept_loss, "node deregistered on request");
        Ok(Response::new(pb::DeregisterNodeResponse {
            node: Some(pb::Node { state: pb::NodeState::Down.into(), ..wire_registration(node, &entry.registration) }),
        }))
    }

    async fn finalize_upgrade(
        &self,
        request: Request<pb::FinalizeUpgradeRequest>,
    ) -> Answer<pb::FinalizeUpgradeResponse> {
        let caller = Caller::relayed(&request);
        Ok(Response::new(self.end_upgrade(&caller, request.get_ref().validate_only).await?))
    }

    async fn update_cluster_config(
        &self,
        request: Request<pb::UpdateClusterConfigRequest>,
    ) -> Answer<pb::UpdateClusterConfigResponse> {
        let caller = Caller::relayed(&request);
        Ok(Response::new(self.change_cluster_config(&caller, request.into_inner()).await?))
    }

    async fn accept_metadata_restore(
        &self,
        request: Request<pb::AcceptMetadataRestoreRequest>,
    ) -> Answer<pb::AcceptMetadataRestoreResponse> {
        let without_missing = request.get_ref().without_missing_nodes;
        let is_heard = |node| self.sessions.get(node).is_some_and(|session| !session.given);
        let accepted =
            restore::accept(&self.store, &self.nodes, &self.refused, (&*self.clock, without_missing), is_heard).await?;
        let Accepted { nodes, version, partitions } = accepted;
        if !nodes.is_empty() {
            let caller = Caller::relayed(&request);
            tracing::warn!(
                client_id = caller.client_id(),
                client_address = caller.address(),
                nodes = nodes.len(),
                version,
                partitions,
                "restored metadata was accepted"
            );
        }
        Ok(Response::new(pb::AcceptMetadataRestoreResponse {
            node_ids: nodes.into_iter().map(|node| node.0).collect(),
            version,
            partition_count: i32::try_from(partitions).unwrap_or(i32::MAX),
        }))
    }

    async fn repair_partition(
        &self,
        _request: Request<pb::RepairPartitionRequest>,
    ) -> Answer<pb::RepairPartitionResponse> {
        Err(gateways_only("RepairPartition").into())
    }
}

#[async_trait]
impl OperationService for Controller {
    async fn get_operation(&self, request: Request<pb::GetOperationRequest>) -> Answer<pb::GetOperationResponse> {
        let operation = self.operations.find(&self.views, &request.get_ref().id).await?;
        Ok(Response::new(pb::GetOperationResponse { operation: Some(wire_operation(&operation)) }))
    }
}

/// What a node says that it holds aside.
fn held_aside(stats: &pb::StorageStats) -> HeldAside {
    match (stats.set_aside_count, stats.set_aside_complete) {
        (0, true) => HeldAside::Nothing,
        (0, false) => HeldAside::Unknown,
        (replicas, _) => HeldAside::Some { replicas, bytes: stats.set_aside_bytes },
    }
}

impl Controller {
    /// Whether a node that has registered serves nobody now: it is fenced, or does not obey this metadata, or has not
    /// been heard since this controller leads, while a stranger claims its id.
    pub(super) fn is_away(&self, node: NodeId, entry: &NodeEntry) -> bool {
        let now = self.clock.monotonic();
        let unheard = || self.sessions.get(node).is_none_or(|session| session.given);
        self.is_down(node, entry)
            || self.refused.refuses(node, &entry.registration, now)
            || (self.refused.claimed(node, now) && unheard())
    }

    /// Whether a node is out of service, or is to be: while the store takes no writes that cannot be written down. One that
    /// was refused runs, whatever is heard of it.
    pub(super) fn is_down(&self, node: NodeId, entry: &NodeEntry) -> bool {
        let now = self.clock.monotonic();
        let silent = self.sessions.is_silent(node, now, self.config.session)
            && self.sessions.may_be_away(node, self.config.standalone);
        !self.refused.refuses(node, &entry.registration, now) && (entry.liveness.fenced || silent)
    }

    /// What is known of a node beside the metadata. What it has said last counts also when that is long ago: nothing
    /// changes on a node that is away.
    fn news_of(&self, node: NodeId, entry: &NodeEntry) -> NodeNews {
        let now = self.clock.monotonic();
        let runs = self.sessions.is_heard(node, entry.epoch, now, self.config.session)
            || self.refused.refuses(node, &entry.registration, now);
        // An earlier incarnation need not have had what this one has. Nor does one know all before it has seen the metadata
        // as of its registration.
        let knows =
            |said: &Session<pb::StorageStats>| said.node_epoch == entry.epoch && said.metadata_version >= entry.epoch;
        let said = self.sessions.get(node).or_else(|| self.sessions.said_last(node)).filter(knows);
        let aside = said.map_or(HeldAside::Unknown, |said| held_aside(&said.stats));
        NodeNews { runs, aside }
    }

    /// A node as clients see it.
    fn wire_node(&self, view: &ClusterView, leads: &HashMap<NodeId, i32>, node: NodeId, entry: &NodeEntry) -> pb::Node {
        let session = self.sessions.get(node);
        let gives_away = || {
            let context = self.nodes.committer().context();
            context.map_or(true, |(_, context)| nodes::leads_for_others(view, &context, node))
        };
        let state = match &entry.liveness {
            _ if self.is_away(node, entry) => pb::NodeState::Down,
            liveness if liveness.drained && gives_away() => pb::NodeState::Draining,
            liveness if liveness.drained => pb::NodeState::Drained,
            liveness if liveness.cordoned => pb::NodeState::Cordoned,
            _ => pb::NodeState::Active,
        };
        let mut storage = session.as_ref().map(|session| session.stats.clone());
        if let Some(storage) = &mut storage {
            // One that hangs does not know who leads by now.
            storage.leader_count = leads.get(&node).copied().unwrap_or(0);
            storage.replica_count = storage.replica_count.max(storage.leader_count);
        }
        let mut registered = wire_registration(node, &entry.registration);
        if registered.address.is_empty() {
            // It serves no clients itself.
            registered.address = entry.registration.internal_address.clone();
        }
        pb::Node {
            state: state.into(),
            storage,
            heartbeat_time: session.map(|session| wire_time(session.heard_ms)),
            cordoned: entry.liveness.cordoned,
            drained: entry.liveness.drained,
            ..registered
        }
    }
}
