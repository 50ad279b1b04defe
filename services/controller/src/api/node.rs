//! `ControllerService`: nodes and producer ids.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use walser_model::TopicId;
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::controller_service_server::ControllerService;
use walser_proto::internal::v1::{NodeSessionRequest, WatchMetadataRequest};
use walser_rpc::Failure;
use walser_service::Caller;

use super::{Controller, metadata};
use crate::keys::node::{Registration, registration_key};
use crate::restore::Seen;
use crate::sessions::Session;
use crate::{nodes, producer_ids, restore, topics};

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How often silent nodes are looked for.
const FENCE_CHECK: Duration = Duration::from_millis(100);

#[async_trait]
impl ControllerService for Controller {
    async fn register_node(&self, request: Request<pbi::RegisterNodeRequest>) -> Answer<pbi::RegisterNodeResponse> {
        let request = request.into_inner();
        let cluster_id = self.cluster.to_string();
        if request.node_id <= 0 {
            return Err(Failure::field("node_id", "storage nodes have ids from 1 on").into());
        }
        let own = (&*cluster_id, &*self.lineage);
        self.refused.admit(&self.store, own, &request, self.clock.monotonic()).await?;
        let node_epoch = nodes::register(&self.store, &self.config, &request, self.clock.now_millis()).await?;
        self.heard(request.node_id, node_epoch, Default::default());
        tracing::info!(node = request.node_id, node_epoch, "node registered");
        Ok(Response::new(pbi::RegisterNodeResponse {
            node_epoch,
            cluster_id,
            heartbeat_interval: Some(self.config.beat.into()),
            lease: Some(self.config.session.into()),
        }))
    }

    type NodeSessionStream = Answers<pbi::NodeSessionResponse>;

    async fn node_session(&self, request: Request<Streaming<NodeSessionRequest>>) -> Answer<Self::NodeSessionStream> {
        let mut beats = request.into_inner();
        let (answers, stream) = mpsc::channel(16);
        let controller = self.handle();
        tokio::spawn(async move {
            loop {
                let beat = tokio::select! {
                    beat = beats.next() => beat,
                    () = controller.stopping.wait() => break,
                };
                let Some(Ok(beat)) = beat else { break };
                let answer = controller.take_beat(beat).await;
                if answers.send(answer).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type WatchMetadataStream = Answers<pbi::WatchMetadataResponse>;

    async fn watch_metadata(&self, request: Request<WatchMetadataRequest>) -> Answer<Self::WatchMetadataStream> {
        let request = request.into_inner();
        let WatchMetadataRequest { cluster_id, applied_version: version, lineage, .. } = &request;
        self.check_history(Seen { cluster_id, version: *version, lineage }).await?;
        let stream = metadata::watch(self.handle(), request.resume_version);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn renew_leader_epoch(
        &self,
        request: Request<pbi::RenewLeaderEpochRequest>,
    ) -> Answer<pbi::RenewLeaderEpochResponse> {
        let request = request.get_ref();
        let reference = request.r#ref.as_ref().and_then(walser_proto::topic_partition);
        let (id, epoch) = reference.ok_or_else(|| Failure::field("ref", "is not a partition"))?;
        let leader_epoch = nodes::renew_epoch(&self.store, request.node_epoch, id, epoch.0, request.above).await?;
        tracing::info!(partition = %id, leader_epoch, "a new leader epoch begins");
        Ok(Response::new(pbi::RenewLeaderEpochResponse { leader_epoch }))
    }

    async fn restore_topic(&self, request: Request<pbi::RestoreTopicRequest>) -> Answer<pbi::RestoreTopicResponse> {
        self.changeable()?;
        let now = self.clock.now_millis();
        let found = restore::restore_topic(&self.store, &self.config, request.get_ref(), now).await?;
        let (id, topic) = &found;
        let caller = Caller::relayed(&request);
        tracing::info!(
            client_id = caller.client_id(), client_address = caller.address(), topic = topic.value.name, %id,
            partitions = topic.value.partition_count, "topic restored from replicas that were set aside"
        );
        Ok(Response::new(pbi::RestoreTopicResponse { topic: Some(self.described(&found).await?) }))
    }

    async fn allocate_producer_ids(
        &self,
        request: Request<pbi::AllocateProducerIdsRequest>,
    ) -> Answer<pbi::AllocateProducerIdsResponse> {
        let first_id = producer_ids::allocate(&self.store, request.get_ref().internal).await?;
        Ok(Response::new(pbi::AllocateProducerIdsResponse { first_id, count: producer_ids::BLOCK }))
    }

    async fn get_producer_id_end(
        &self,
        _request: Request<pbi::GetProducerIdEndRequest>,
    ) -> Answer<pbi::GetProducerIdEndResponse> {
        Ok(Response::new(pbi::GetProducerIdEndResponse { end_id: producer_ids::end(&self.store).await? }))
    }

    async fn raise_producer_epoch(
        &self,
        request: Request<pbi::RaiseProducerEpochRequest>,
    ) -> Answer<pbi::RaiseProducerEpochResponse> {
        let pbi::RaiseProducerEpochRequest { producer_id, producer_epoch } = request.into_inner();
        let producer_epoch = producer_ids::raise_epoch(&self.store, producer_id, producer_epoch).await?;
        Ok(Response::new(pbi::RaiseProducerEpochResponse { producer_epoch }))
    }
}

impl Controller {
    /// A handle for tasks: everything in it is shared.
    fn handle(&self) -> Self {
        Self {
            store: self.store.clone(),
            clock: Arc::clone(&self.clock),
            random: Arc::clone(&self.random),
            sessions: self.sessions.clone(),
            operations: self.operations.clone(),
            refused: self.refused.clone(),
            config: self.config.clone(),
            cluster: self.cluster,
            lineage: self.lineage.clone(),
            stopping: self.stopping.clone(),
        }
    }

    /// Refuses a caller that has seen another history than this metadata's.
    async fn check_history(&self, seen: Seen<'_>) -> Result<(), Failure> {
        restore::check(&self.store, (&self.cluster.to_string(), &self.lineage), seen).await
    }

    fn heard(&self, node: i32, node_epoch: i64, stats: walser_proto::v1::StorageStats) {
        let (heard, heard_ms) = (self.clock.monotonic(), self.clock.now_millis());
        self.sessions.beat(node, Session { node_epoch, stats, heard, heard_ms });
    }

    async fn take_beat(&self, beat: NodeSessionRequest) -> Result<pbi::NodeSessionResponse, Status> {
        let NodeSessionRequest { cluster_id, metadata_version: version, lineage, .. } = &beat;
        self.check_history(Seen { cluster_id, version: *version, lineage }).await?;
        let known = nodes::list(&self.store).await?;
        let Some(node) = known.iter().find(|node| node.node_epoch == beat.node_epoch && !node.fenced) else {
            let reason = "another incarnation has registered, or the session is over".to_owned();
            let action = pbi::node_session_response::Action::Fenced(pbi::Fenced { reason });
            return Ok(pbi::NodeSessionResponse { action: Some(action) });
        };
        self.heard(node.id, beat.node_epoch, beat.stats.unwrap_or_default());
        for raw in &beat.removed_topic_ids {
            let Ok(bytes) = raw.as_ref().try_into() else { continue };
            let now = self.clock.now_millis();
            let removed = topics::removed(&self.store, TopicId::from_bytes(bytes), node.id, now);
            self.operations.end_with(removed).await?;
        }
        Ok(pbi::NodeSessionResponse { action: None })
    }
}

/// Fences nodes that are not heard of any more, for as long as the controller runs.
pub(super) async fn fence_silent(controller: Arc<Controller>) {
    let mut ticks = tokio::time::interval(FENCE_CHECK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = controller.clock.monotonic();
    // Nodes that this controller has not heard yet get a full session from its start.
    for node in nodes::list(&controller.store).await.unwrap_or_default().iter().filter(|node| !node.fenced) {
        controller.heard(node.id, node.node_epoch, Default::default());
    }
    loop {
        ticks.tick().await;
        let now = controller.clock.monotonic();
        // A late tick means that this process was not running: nobody is silent for that (amendment A8).
        let paused = now.saturating_sub(last).saturating_sub(2 * FENCE_CHECK);
        last = now;
        for (node, node_epoch) in controller.sessions.silent(now, controller.config.session + paused) {
            // It is there, and does not obey this metadata: its partitions can be read.
            if controller.refused.refuses(node, now) {
                continue;
            }
            let registered = controller.store.get::<Registration>(&registration_key(node)).await;
            if matches!(registered, Ok(Some(found)) if found.mod_revision == node_epoch) {
                tracing::warn!(node, node_epoch, "node fenced: not heard within its session");
                if let Err(error) = nodes::fence(&controller.store, node, node_epoch).await {
                    tracing::warn!(node, %error, "fencing did not finish, it will be tried again");
                    continue;
                }
            }
            controller.sessions.end(node, node_epoch);
        }
    }
}
