//! `ClusterService` and `OperationService`.

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use walser_proto::v1 as pb;
use walser_proto::v1::cluster_service_server::ClusterService;
use walser_proto::v1::operation_service_server::OperationService;
use walser_rpc::{Failure, Reason};
use walser_service::Caller;

use super::Controller;
use crate::keys::counter::PARTITIONS;
use crate::keys::decode;
use crate::keys::partition::{self, Partition};
use crate::keys::topic;
use crate::nodes::{self, Known};
use crate::operations::time;
use crate::paging::{after_token, next_token, page_size};
use crate::restore;
use crate::topics::cluster_record;

type Answer<T> = Result<Response<T>, Status>;

/// The answer to calls that are carried out on storage nodes.
fn gateways_only(method: &str) -> Failure {
    let text = format!("{method} is carried out on the storage nodes: call a gateway");
    Failure::new(Reason::FeatureDisabled, text).with("feature", method)
}

#[async_trait]
impl ClusterService for Controller {
    async fn get_cluster(&self, _request: Request<pb::GetClusterRequest>) -> Answer<pb::GetClusterResponse> {
        let record = cluster_record(&self.store).await?;
        let known = nodes::list(&self.store).await?;
        let version = known.iter().map(|node| node.registration.version.clone()).min();
        let cluster = pb::Cluster {
            id: record.id,
            name: record.name,
            version: version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            feature_level: 1,
            mode: if self.config.standalone { "STANDALONE" } else { "DISTRIBUTED" }.to_owned(),
            controller: "controller".to_owned(),
            health: Some(self.health(&known).await?),
        };
        Ok(Response::new(pb::GetClusterResponse { cluster: Some(cluster) }))
    }

    async fn list_nodes(&self, request: Request<pb::ListNodesRequest>) -> Answer<pb::ListNodesResponse> {
        let request = request.get_ref();
        let size = page_size(request.page_size, 100, 1000)?;
        if let Some(role) = request.roles.iter().find(|role| pb::NodeRole::try_from(**role).is_err()) {
            return Err(Failure::field("roles", format!("{role} is not a value of the enum")).into());
        }
        let query = format!("nodes/{:?}", request.roles);
        let after = after_token(&request.page_token, &query)?;
        let after = if after.is_empty() { 0 } else { after.parse().unwrap_or(i32::MAX) };
        // By id, ascending.
        let known = nodes::list(&self.store).await?;
        let mut wanted: Vec<&Known> = known.iter().filter(|node| node.id > after).collect();
        if !request.roles.is_empty() {
            wanted.retain(|node| request.roles.iter().any(|role| node.registration.roles.contains(role)));
        }
        let more = wanted.len() > size;
        wanted.truncate(size);
        let last = wanted.last().map_or(0, |node| node.id);
        let next_page_token = if more { next_token(&query, &last.to_string()) } else { String::new() };
        let nodes = wanted.into_iter().map(|node| self.wire_node(node)).collect();
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

    async fn accept_metadata_restore(
        &self,
        request: Request<pb::AcceptMetadataRestoreRequest>,
    ) -> Answer<pb::AcceptMetadataRestoreResponse> {
        Ok(Response::new(restore::accept(&self.store, &self.refused, &Caller::relayed(&request)).await?))
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
        let operation = self.operations.find(&self.store, &request.get_ref().id).await?;
        Ok(Response::new(pb::GetOperationResponse { operation: Some(operation) }))
    }
}

impl Controller {
    /// A node as clients see it.
    pub(super) fn wire_node(&self, node: &Known) -> pb::Node {
        let session = self.sessions.get(node.id);
        let state = if node.fenced { pb::NodeState::Down } else { pb::NodeState::Active };
        let registration = &node.registration;
        let mut storage = session.as_ref().map(|session| session.stats.clone());
        if let Some(storage) = &mut storage {
            storage.replica_count = storage.replica_count.max(storage.leader_count);
        }
        pb::Node {
            id: node.id,
            instance: registration.incarnation.clone(),
            roles: registration.roles.clone(),
            address: registration.public_address.clone(),
            rack: registration.rack.clone(),
            version: registration.version.clone(),
            state: state.into(),
            storage,
            labels: Default::default(),
            start_time: Some(time(registration.started_ms)),
            heartbeat_time: session.map(|session| time(session.heard_ms)),
        }
    }

    async fn health(&self, known: &[Known]) -> Result<pb::ClusterHealth, Failure> {
        let mut issues = self.refused.issues(self.clock.monotonic());
        for node in known.iter().filter(|node| node.fenced) {
            issues.push(pb::HealthIssue {
                severity: pb::HealthStatus::Critical.into(),
                code: "NODE_DOWN".to_owned(),
                message: format!("storage node {} is down", node.id),
                hint: "start it again, or look at its log".to_owned(),
                objects: vec![format!("nodes/{}", node.id)],
                start_time: self.sessions.get(node.id).map(|session| time(session.heard_ms)),
            });
        }
        for node in known {
            let stats = self.sessions.get(node.id).map(|session| session.stats).unwrap_or_default();
            issues.extend(stats.disks.iter().flat_map(|disk| disk_issues(node.id, disk)));
            issues.extend(set_aside_issue(node.id, &stats));
            for problem in &stats.problems {
                issues.push(self.partition_issue(node.id, problem).await?);
            }
        }
        issues.extend(self.unreadable_topics().await?);
        let mut offline = 0;
        for entry in self.store.range(partition::PREFIX).await? {
            offline += i32::from(decode::<Partition>(&entry)?.leader < 0);
        }
        if offline > 0 {
            issues.push(pb::HealthIssue {
                severity: pb::HealthStatus::Critical.into(),
                code: "PARTITIONS_OFFLINE".to_owned(),
                message: format!("{offline} partitions have no leader"),
                hint: "start the nodes that are down".to_owned(),
                objects: Vec::new(),
                start_time: None,
            });
        }
        let critical = issues.iter().any(|issue| issue.severity() == pb::HealthStatus::Critical);
        let status = match (issues.is_empty(), critical) {
            (true, _) => pb::HealthStatus::Ok,
            (false, false) => pb::HealthStatus::Degraded,
            (false, true) => pb::HealthStatus::Critical,
        };
        let (partitions, _) = self.store.counter(PARTITIONS).await?;
        let topic_count = self.store.range(topic::PREFIX).await?.len();
        Ok(pb::ClusterHealth {
            status: status.into(),
            issues,
            totals: Some(pb::TopicStats { offline_count: offline, ..Default::default() }),
            topic_count: i32::try_from(topic_count).unwrap_or(i32::MAX),
            partition_count: i32::try_from(partitions).unwrap_or(i32::MAX),
        })
    }
}

impl Controller {
    /// Topics with settings that this version does not know.
    async fn unreadable_topics(&self) -> Result<Vec<pb::HealthIssue>, Failure> {
        let mut issues = Vec::new();
        for entry in self.store.range(topic::PREFIX).await? {
            let topic: topic::Topic = decode(&entry)?;
            let pairs = topic.config.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            if let Err(error) = walser_model::TopicConfig::from_overrides(pairs) {
                let name = topic.name;
                issues.push(pb::HealthIssue {
                    severity: pb::HealthStatus::Critical.into(),
                    code: "TOPIC_SETTINGS_UNREADABLE".to_owned(),
                    message: format!("topic \"{name}\" has a setting that this version cannot read: {error}"),
                    hint: "its records stay and can be read, writes are refused; reset the setting, or run a version \
                           that knows it"
                        .to_owned(),
                    objects: vec![format!("topics/{name}")],
                    start_time: None,
                });
            }
        }
        Ok(issues)
    }

    /// A partition that a node cannot serve.
    async fn partition_issue(&self, node: i32, problem: &pb::PartitionProblem) -> Result<pb::HealthIssue, Failure> {
        let (id, partition) = (&problem.topic_id, problem.partition);
        let found = match id.parse() {
            Ok(id) => self.store.get::<topic::Topic>(&topic::key(id)).await?,
            Err(_) => None,
        };
        let topic = found.map_or_else(|| id.clone(), |found| found.value.name);
        let hint = if problem.damaged {
            format!(
                "what is below can be read; `walser partition repair {topic} {partition} --accept-loss` gives up the rest"
            )
        } else if problem.problem.starts_with("cannot be opened") {
            format!("remove the cause; node {node} tries to open it again by itself")
        } else {
            format!("look at the disk and the log of node {node}, then restart it")
        };
        Ok(pb::HealthIssue {
            severity: pb::HealthStatus::Critical.into(),
            code: "PARTITION_OUT_OF_SERVICE".to_owned(),
            message: format!("partition {partition} of topic \"{topic}\" is out of service: {}", problem.problem),
            hint,
            objects: vec![format!("topics/{topic}/partitions/{partition}"), format!("nodes/{node}")],
            start_time: None,
        })
    }
}

/// Data that waits for a decision.
fn set_aside_issue(node: i32, stats: &pb::StorageStats) -> Option<pb::HealthIssue> {
    let (count, bytes) = (stats.set_aside_count, stats.set_aside_bytes);
    (count > 0).then(|| pb::HealthIssue {
        severity: pb::HealthStatus::Degraded.into(),
        code: "DATA_SET_ASIDE".to_owned(),
        message: format!("node {node} holds {count} partitions ({bytes} bytes) aside that the metadata does not know"),
        hint: "`walser partition set-aside list` shows them; restore or delete them".to_owned(),
        objects: vec![format!("nodes/{node}")],
        start_time: None,
    })
}

/// What is wrong with a data directory.
fn disk_issues(node: i32, disk: &pb::DiskStats) -> impl Iterator<Item = pb::HealthIssue> {
    let issue = |code: &str, problem: &str, hint: &str| pb::HealthIssue {
        severity: pb::HealthStatus::Critical.into(),
        code: code.to_owned(),
        message: format!("data directory {} of node {node} {problem}", disk.path),
        hint: hint.to_owned(),
        objects: vec![format!("nodes/{node}")],
        start_time: None,
    };
    let full = disk.full.then(|| {
        let problem = "is full: records are refused, reading and deleting still work";
        issue("DISK_FULL", problem, "free space, or shorten retention.ms or retention.bytes of large topics")
    });
    full.into_iter()
}
