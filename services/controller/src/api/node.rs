//! `ControllerService`: nodes and producer ids.

use std::pin::Pin;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use walser_group::CoordinatorEpoch;
use walser_metadata::NodeEntry;
use walser_metadata::value::NodeRegistration;
use walser_model::{LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::controller_service_server::ControllerService;
use walser_proto::internal::v1::node_session_response::Action;
use walser_replication::{AlterIsr, control};
use walser_rpc::{ApiError, CoordinatorBeat, FeatureLevels, Reason, caller_of, check_node_id};
use walser_service::Caller;
use walser_tls::PeerIdentity;

use super::{Controller, change_log, metadata};
use crate::nodes::{Holdings, Proposed};
use crate::restore::{Claim, ReplicaEpochs, SeenHistory};
use crate::sessions::Session;
use crate::topics::{NewTopic, RestoredTopic};
use crate::{nodes, producer_ids};

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn registration(request: &pbi::RegisterNodeRequest, started_ms: walser_model::Timestamp) -> NodeRegistration {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    NodeRegistration {
        incarnation: request.incarnation.clone(),
        roles: request.roles.clone(),
        internal_address: request.internal_address.clone(),
        public_address: request.public_address.clone(),
        rack: request.rack.clone(),
        version: request.version.clone(),
        feature_level_max: FeatureLevels::of_caller(request.features.as_ref()).max,
        started_ms,
        directory: hex(&request.directory_id),
        ..NodeRegistration::default()
    }
}

fn topic_id(raw: &[u8]) -> Option<TopicId> {
    raw.try_into().ok().map(TopicId::from_bytes)
}

fn partition_of(report: &pbi::ReplicaReport) -> Option<TopicPartition> {
    Some(TopicPartition::new(topic_id(&report.topic_id)?, PartitionIndex(report.partition)))
}

fn epochs(reports: &[pbi::ReplicaReport]) -> ReplicaEpochs {
    let epoch = |report: &pbi::ReplicaReport| Some((partition_of(report)?, LeaderEpoch(report.leader_epoch)));
    reports.iter().filter_map(epoch).collect()
}

/// The topic of replicas that were set aside: each partition on the node that holds its replica, above its leader epoch;
/// those without one are empty, on any node.
fn restored_topic(request: &pbi::RestoreTopicRequest) -> Result<RestoredTopic, ApiError> {
    let id = topic_id(&request.topic_id).ok_or_else(|| ApiError::field("topic_id", "is not a UUID"))?;
    let mut placed_on = Vec::new();
    let mut leader_epoch = 0;
    for restored in &request.replicas {
        let Some(replica) = &restored.replica else { continue };
        let number = usize::try_from(replica.partition).ok().filter(|number| *number < PARTITIONS_RESTORED_MAX);
        let number = number.ok_or_else(|| ApiError::field("replicas", "must name partitions from 0 on"))?;
        if placed_on.len() <= number {
            placed_on.resize(number + 1, -1);
        }
        placed_on[number] = restored.node_id;
        leader_epoch = leader_epoch.max(replica.leader_epoch);
    }
    if placed_on.is_empty() {
        return Err(ApiError::field("replicas", "must name at least one partition"));
    }
    // Above all of them: epochs of one topic are close together, and a gap costs nothing.
    let leader_epoch = leader_epoch.max(0).saturating_add(1);
    Ok(RestoredTopic { id, name: request.name.clone(), placed_on, leader_epoch })
}

/// An in-sync set that the caller proposes for a partition that it leads.
fn proposal_of(
    (leader, node_epoch): (NodeId, i64),
    message: &pbi::IsrProposal,
) -> Result<(TopicPartition, AlterIsr), ApiError> {
    let found = message.r#ref.as_ref().and_then(walser_proto::topic_partition);
    let (id, leader_epoch) = found.ok_or_else(|| ApiError::field("proposals.ref", "is not a partition"))?;
    let isr = message.isr.iter().map(|member| (NodeId(member.node_id), member.node_epoch)).collect();
    let partition_epoch = message.partition_epoch;
    Ok((id, AlterIsr { leader, node_epoch, leader_epoch, partition_epoch, isr }))
}

/// What a node would lead a partition with.
fn offer_of(
    (node, node_epoch): (NodeId, i64),
    message: &pbi::LeaderCandidate,
) -> Option<(TopicPartition, control::Candidate)> {
    let id = TopicPartition::new(topic_id(&message.topic_id)?, PartitionIndex(message.partition));
    let (last_epoch, log_end) = (LeaderEpoch(message.last_epoch), Offset(message.log_end));
    let record_epoch = message.record_epoch.map_or(last_epoch, LeaderEpoch);
    let (partition_epoch, intact) = (message.partition_epoch, !message.damaged);
    let candidate = control::Candidate { last_epoch, record_epoch, log_end, intact, node, node_epoch, partition_epoch };
    Some((id, candidate))
}

fn coordinator_beat(message: pbi::CoordinatorBeatRequest) -> CoordinatorBeat {
    let outdated = message.outdated.into_iter().map(|found| (found.shard, CoordinatorEpoch(found.epoch)));
    let (id, address, stopping) = (message.coordinator_id, message.internal_address, message.stopping);
    CoordinatorBeat { id, address, stopping, outdated: outdated.collect() }
}

/// Partitions of a topic that is restored: as many as any topic may have.
const PARTITIONS_RESTORED_MAX: usize = 100_000;

#[async_trait]
impl ControllerService for Controller {
    async fn register_node(&self, request: Request<pbi::RegisterNodeRequest>) -> Answer<pbi::RegisterNodeResponse> {
        self.leads()?;
        check_node_id(caller_of(&request).as_deref(), NodeId(request.get_ref().node_id))?;
        let request = request.into_inner();
        if request.node_id <= 0 {
            return Err(ApiError::field("node_id", "storage nodes have ids from 1 on").into());
        }
        let node = NodeId(request.node_id);
        let levels = FeatureLevels::of_caller(request.features.as_ref());
        let name = format!("storage node {node} (version {})", request.version);
        // Once more when nobody else registers, and no upgrade ends.
        let admits = || self.check_level(levels, &name);
        admits()?;
        let seen = SeenHistory {
            cluster_id: request.cluster_id.clone(),
            version: request.metadata_version,
            lineage: request.lineage.clone(),
        };
        let registration = registration(&request, self.clock.now_millis());
        let directory = registration.directory.clone();
        let epochs = epochs(&request.replicas);
        let held = Holdings {
            seen_version: request.metadata_version,
            held: epochs.keys().copied().collect(),
            damaged: request.replicas.iter().filter(|report| report.damaged).filter_map(partition_of).collect(),
            unclean: request.unclean_stop,
            logs_node_epoch: request.logs_node_epoch,
        };
        let claim = Claim { node, directory, seen, epochs };
        self.refused.admit((&self.history, &self.views), claim, self.clock.monotonic()).await?;
        // Heard before anybody can take it for one that has left.
        let heard = |node_epoch| self.heard(node, Session { node_epoch, ..Session::default() });
        let registered = self.nodes.register(node, &registration, &held, (admits, heard)).await;
        let node_epoch = registered.inspect_err(|why| {
            if matches!(why.reason(), Reason::NodeIdInUse | Reason::NodeAddressInUse | Reason::DataRollback) {
                self.refused.turn_away(node, why.clone(), self.clock.monotonic());
            }
        })?;
        self.refused.registered(node, &registration.directory);
        tracing::info!(node = %node, node_epoch, "node registered");
        Ok(Response::new(pbi::RegisterNodeResponse {
            node_epoch,
            cluster_id: self.history.cluster_id.clone(),
            heartbeat_interval: Some(self.config.beat.into()),
            lease: Some(self.config.session.into()),
        }))
    }

    type NodeSessionStream = Answers<pbi::NodeSessionResponse>;

    async fn node_session(
        &self,
        request: Request<Streaming<pbi::NodeSessionRequest>>,
    ) -> Answer<Self::NodeSessionStream> {
        let caller = caller_of(&request);
        let mut beats = request.into_inner();
        let (answers, stream) = mpsc::channel(16);
        let controller = self.clone();
        tokio::spawn(async move {
            let mut last = 0;
            loop {
                let beat = tokio::select! {
                    beat = beats.next() => beat,
                    () = controller.stopping.wait() => break,
                };
                let Some(Ok(beat)) = beat else {
                    controller.lost(last);
                    break;
                };
                let node_epoch = beat.node_epoch;
                let answer = controller.take_beat(beat, caller.as_deref()).map_err(Status::from);
                // One that does not obey this metadata is there, and ends its session: it is not lost.
                last = if answer.is_ok() { node_epoch } else { 0 };
                if answers.send(answer).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn coordinator_beat(
        &self,
        request: Request<pbi::CoordinatorBeatRequest>,
    ) -> Answer<pbi::CoordinatorBeatResponse> {
        let beat = request.into_inner();
        self.check_level(FeatureLevels::of_caller(beat.features.as_ref()), "the group coordinator")?;
        let beat = coordinator_beat(beat);
        let leads = beat.stopping && self.nodes.committer().lead.is_sure();
        self.coordinators.beat(&beat, self.clock.monotonic())?;
        let may_stop = leads && self.coordinators.may_stop(&beat.id, &self.views.load());
        Ok(Response::new(pbi::CoordinatorBeatResponse { may_stop }))
    }

    async fn get_controller_state(
        &self,
        _request: Request<pbi::GetControllerStateRequest>,
    ) -> Answer<pbi::GetControllerStateResponse> {
        let lead = &self.nodes.committer().lead;
        Ok(Response::new(pbi::GetControllerStateResponse {
            leads: lead.epoch().is_ok(),
            obstacle: lead.obstacle().unwrap_or_default(),
            store_problems: self.problems.of_parts(),
        }))
    }

    type WatchMetadataStream = Answers<pbi::WatchMetadataResponse>;

    async fn watch_metadata(&self, request: Request<pbi::WatchMetadataRequest>) -> Answer<Self::WatchMetadataStream> {
        let pbi::WatchMetadataRequest { cluster_id, applied_version: version, lineage, resume_version, features } =
            request.into_inner();
        let levels = FeatureLevels::of_caller(features.as_ref());
        self.check_level(levels, metadata::FOLLOWER)?;
        self.history.check(&self.views, &SeenHistory { cluster_id, version, lineage }).await?;
        let stream = metadata::watch(self.clone(), resume_version, levels);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn renew_leader_epoch(
        &self,
        request: Request<pbi::RenewLeaderEpochRequest>,
    ) -> Answer<pbi::RenewLeaderEpochResponse> {
        self.leads()?;
        if let Some((node, _)) = nodes::current(&self.views.load(), request.get_ref().node_epoch) {
            check_node_id(caller_of(&request).as_deref(), node)?;
        }
        let request = request.get_ref();
        let reference = request.r#ref.as_ref().and_then(walser_proto::topic_partition);
        let (id, epoch) = reference.ok_or_else(|| ApiError::field("ref", "is not a partition"))?;
        let above = LeaderEpoch(request.above);
        let leader_epoch =
            self.nodes.renew_epoch(request.node_epoch, id, epoch, (above, request.records_lost)).await?.0;
        tracing::info!(partition = %id, leader_epoch, "a new leader epoch begins");
        Ok(Response::new(pbi::RenewLeaderEpochResponse { leader_epoch }))
    }

    async fn alter_isr(&self, request: Request<pbi::AlterIsrRequest>) -> Answer<pbi::AlterIsrResponse> {
        self.leads()?;
        check_node_id(caller_of(&request).as_deref(), NodeId(request.get_ref().node_id))?;
        let request = request.into_inner();
        let caller = (NodeId(request.node_id), request.node_epoch);
        let proposals = request.proposals.iter().map(|message| proposal_of(caller, message));
        let proposals = proposals.collect::<Result<Vec<_>, _>>()?;
        let given_up = request.given_up.iter().filter_map(walser_proto::topic_partition);
        let given_up: Vec<_> = given_up.collect();
        let handed_over: Vec<_> = request.handed_over.iter().filter_map(walser_proto::topic_partition).collect();
        let outcome = |proposed: Proposed| match proposed {
            Proposed::Accepted => pbi::IsrOutcome { accepted: true, ineligible_node_id: None },
            Proposed::Refused(node) => pbi::IsrOutcome { accepted: false, ineligible_node_id: node.map(|node| node.0) },
        };
        let outcomes = self.nodes.alter_isr(caller, &proposals, (&given_up, &handed_over)).await?;
        // It comes again until somebody else leads, for each of them: one line says it.
        if let Some((first, _)) = given_up.first() {
            let partitions = given_up.len();
            tracing::warn!(node = %caller.0, partitions, %first, "a node gives up partitions: their logs there cannot be used");
        }
        Ok(Response::new(pbi::AlterIsrResponse { outcomes: outcomes.into_iter().map(outcome).collect() }))
    }

    async fn restore_topic(&self, request: Request<pbi::RestoreTopicRequest>) -> Answer<pbi::RestoreTopicResponse> {
        self.leads()?;
        self.changeable()?;
        let restored = restored_topic(request.get_ref())?;
        let topic = self.topics.restore(&restored, self.clock.now_millis()).await?;
        let caller = Caller::relayed(&request);
        tracing::info!(
            client_id = caller.client_id(), client_address = caller.address(), topic = %topic.name, id = %topic.id,
            partitions = topic.value.partition_count, "topic restored from replicas that were set aside"
        );
        Ok(Response::new(pbi::RestoreTopicResponse { topic: Some(self.described(&topic)) }))
    }

    async fn create_internal_topic(
        &self,
        request: Request<pbi::CreateInternalTopicRequest>,
    ) -> Answer<pbi::CreateInternalTopicResponse> {
        self.leads()?;
        self.changeable()?;
        let caller = Caller::relayed(&request);
        let pbi::CreateInternalTopicRequest { name, partition_count, config } = request.into_inner();
        let config = config.into_iter().collect();
        let new =
            NewTopic { name, partition_count: Some(partition_count), config, internal: true, ..NewTopic::default() };
        let id = TopicId::from_random(self.random.bytes());
        let (value, topic) = self.topics.create(&new, id, self.clock.now_millis()).await?;
        let found = topic.map_or(id, |topic| topic.id);
        if found == id {
            change_log::topic_created(&caller, id, &value);
        }
        let topic_id = found.to_bytes().to_vec().into();
        Ok(Response::new(pbi::CreateInternalTopicResponse { topic_id, partition_count: value.partition_count }))
    }

    async fn allocate_producer_ids(
        &self,
        request: Request<pbi::AllocateProducerIdsRequest>,
    ) -> Answer<pbi::AllocateProducerIdsResponse> {
        self.leads()?;
        let first_id = producer_ids::allocate(&self.store, request.get_ref().internal).await?;
        Ok(Response::new(pbi::AllocateProducerIdsResponse { first_id, count: producer_ids::BLOCK }))
    }

    async fn get_producer_id_end(
        &self,
        _request: Request<pbi::GetProducerIdEndRequest>,
    ) -> Answer<pbi::GetProducerIdEndResponse> {
        self.leads()?;
        Ok(Response::new(pbi::GetProducerIdEndResponse { end_id: producer_ids::end(&self.store).await? }))
    }

    async fn raise_producer_epoch(
        &self,
        request: Request<pbi::RaiseProducerEpochRequest>,
    ) -> Answer<pbi::RaiseProducerEpochResponse> {
        self.leads()?;
        let pbi::RaiseProducerEpochRequest { producer_id, producer_epoch } = request.into_inner();
        let producer_epoch = producer_ids::raise_epoch(&self.store, producer_id, producer_epoch).await?;
        Ok(Response::new(pbi::RaiseProducerEpochResponse { producer_epoch }))
    }
}

impl Controller {
    /// Everything but beats and metadata is for the controller that leads: whom another one has refused, or what it has
    /// seen, the one that leads would not know.
    fn leads(&self) -> Result<(), ApiError> {
        self.nodes.committer().lead.epoch().map(drop)
    }

    fn heard(&self, node: NodeId, session: Session<walser_proto::v1::StorageStats>) {
        let (heard, heard_ms) = (self.clock.monotonic(), self.clock.now_millis());
        self.sessions.beat(node, Session { heard, heard_ms, ..session });
    }

    /// The connection on which an incarnation of a node has beaten has ended.
    fn lost(&self, node_epoch: i64) {
        if let Some((node, _)) = nodes::current(&self.views.load(), node_epoch) {
            self.sessions.lose(node, node_epoch, self.clock.monotonic());
        }
    }

    /// Takes a beat. It never waits, least of all for the store: a node whose beat waits is taken for dead.
    fn take_beat(
        &self,
        beat: pbi::NodeSessionRequest,
        caller: Option<&PeerIdentity>,
    ) -> Result<pbi::NodeSessionResponse, ApiError> {
        let pbi::NodeSessionRequest { node_epoch, metadata_version: version, cluster_id, lineage, .. } = beat;
        let view = self.views.load();
        let seen = SeenHistory { cluster_id, version, lineage };
        let ahead = self.history.check_known(&view, &seen)?;
        let standby = !self.nodes.committer().lead.is_sure();
        let Some((node, entry)) = nodes::current(&view, node_epoch) else {
            if node_epoch > view.metadata.version() {
                // It has registered at another controller, and this one has not seen that yet.
                return Ok(pbi::NodeSessionResponse { standby: true, ..Default::default() });
            }
            let reason = "another incarnation of this node has registered, or the node was deregistered".to_owned();
            let same =
                |node: &NodeEntry| !beat.incarnation.is_empty() && node.registration.incarnation == beat.incarnation;
            let action = match view.metadata.nodes().any(|(_, node)| same(node)) {
                true => Action::RegisterAgain(pbi::RegisterAgain {}),
                false => Action::Fenced(pbi::Fenced { reason }),
            };
            return Ok(pbi::NodeSessionResponse { action: Some(action), standby, ..Default::default() });
        };
        check_node_id(caller, node)?;
        if let Some(failure) = self.sessions.take_refusal(node) {
            return Err(failure);
        }
        if ahead {
            self.check_later(node, seen);
        }
        let (stats, stopping) = (beat.stats.unwrap_or_default(), beat.stopping);
        let (full, failed) = (stats.disks.iter().any(|disk| disk.full), stats.disks.iter().any(|disk| disk.failed));
        if self.nodes.committer().advice.note_disk(node, full, failed) {
            self.bell.ring_for_all();
        }
        let metadata_version = version;
        let session = Session { node_epoch, metadata_version, stats, stopping, ..Session::default() };
        self.heard(node, session);
        let offers = beat.candidates.iter().filter_map(|message| offer_of((node, node_epoch), message));
        self.sessions.offer(offers);
        let removed = beat.removed_topic_ids.iter().filter_map(|id| topic_id(id));
        let may_stop = stopping && self.sessions.may_stop(node, node_epoch);
        // What is next for it depends on what the others have seen by now.
        let waits = entry.liveness.fenced || stopping && !may_stop || full || failed;
        if self.sessions.confirm(node, removed) || waits {
            self.bell.ring();
        }
        Ok(pbi::NodeSessionResponse {
            action: may_stop.then_some(Action::MayStop(pbi::MayStop {})),
            metadata_version: view.metadata.version(),
            standby,
        })
    }

    /// Looks up in the store whether it has what a node has seen and this controller has not; if not, the next beat is
    /// refused.
    fn check_later(&self, node: NodeId, seen: SeenHistory) {
        if !self.sessions.begins_look_up(node) {
            return;
        }
        let controller = self.clone();
        tokio::spawn(async move {
            if let Err(failure) = controller.history.check(&controller.views, &seen).await {
                controller.sessions.refuse(node, failure);
            }
            controller.sessions.ends_look_up(node);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(node_id: i32, partition: i32, leader_epoch: i32) -> pbi::RestoredReplica {
        let replica = pbi::ReplicaReport { partition, leader_epoch, ..Default::default() };
        pbi::RestoredReplica { node_id, replica: Some(replica) }
    }

    fn request(replicas: Vec<pbi::RestoredReplica>) -> pbi::RestoreTopicRequest {
        pbi::RestoreTopicRequest { topic_id: vec![7; 16].into(), name: "t".to_owned(), replicas }
    }

    #[test]
    fn a_restored_topic_has_its_partitions_where_their_data_lies_and_above_its_epochs() {
        let restored = restored_topic(&request(vec![replica(2, 0, 4), replica(3, 3, 7)])).unwrap();
        assert_eq!((restored.placed_on, restored.leader_epoch), (vec![2, -1, -1, 3], 8));
        assert!(restored_topic(&request(Vec::new())).is_err());
        assert!(restored_topic(&request(vec![replica(2, -1, 4)])).is_err());
        assert!(restored_topic(&request(vec![replica(2, i32::MAX, 4)])).is_err());
    }
}
