//! The controller as gateways and storage nodes see it, in terms of the model.

mod node;

use std::ops::Range;

use tonic::Request;
use walser_group::CoordinatorEpoch;
use walser_model::{ProducerEpoch, ProducerId, TopicId};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::controller_service_client::ControllerServiceClient;
use walser_proto::v1 as pb;
use walser_proto::v1::topic_service_client::TopicServiceClient;

pub use node::{
    BeatAnswer, DiskUse, LeadOffer, NodeBeat, NodeFigures, NodeSession, NodeStart, PartitionOut, Registered,
    ReplicaHeld,
};

use crate::{ApiError, Connection, FEATURE_LEVELS};

/// Calls the controller. Clones share the connection.
#[derive(Debug, Clone)]
pub struct ControllerClient {
    connection: Connection,
}

/// A topic as the controller has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControllersTopic {
    /// `None`: what the controller says is no topic id.
    pub id: Option<TopicId>,
    /// How many partitions it has.
    pub partition_count: i32,
}

/// What a controller says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControllerState {
    pub leads: bool,
    /// Why it could not begin to lead now, in words.
    pub obstacle: Option<String>,
    /// What is wrong with parts of the metadata store, as it sees them.
    pub store_problems: Vec<String>,
}

/// What a group coordinator says several times a second.
#[derive(Debug, Clone)]
pub struct CoordinatorBeat {
    /// A UUID, new with every start of the process.
    pub id: String,
    /// host:port of its internal listener; empty inside one process.
    pub address: String,
    /// It wants to stop: its shards go to others first.
    pub stopping: bool,
    /// Shards whose logs have a higher epoch than the metadata.
    pub outdated: Vec<(i32, CoordinatorEpoch)>,
}

impl ControllerClient {
    /// A client on a connection.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// The generated client of the topic service, for calls that are passed on as they came.
    pub fn topic_service(&self) -> TopicServiceClient<Connection> {
        TopicServiceClient::new(self.connection.clone())
    }

    pub(crate) fn calls(&self) -> ControllerServiceClient<Connection> {
        ControllerServiceClient::new(self.connection.clone())
    }

    /// A topic by name.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`; when the controller cannot be reached.
    pub async fn topic(&self, name: &str) -> Result<ControllersTopic, ApiError> {
        let request = pb::GetTopicRequest { name: name.to_owned() };
        let topic = self.topic_service().get_topic(request).await?.into_inner().topic.unwrap_or_default();
        Ok(ControllersTopic { id: topic.id.parse().ok(), partition_count: topic.partition_count })
    }

    /// Creates a topic with the settings of the cluster. `on_behalf_of` adds to the request who wants it.
    ///
    /// # Errors
    /// `TOPIC_EXISTS`, and as the controller refuses; when it cannot be reached.
    pub async fn create_topic(
        &self,
        name: &str,
        partition_count: i32,
        on_behalf_of: impl FnOnce(pb::CreateTopicRequest) -> Request<pb::CreateTopicRequest>,
    ) -> Result<(), ApiError> {
        let topic = pb::Topic { name: name.to_owned(), partition_count, ..Default::default() };
        let request = pb::CreateTopicRequest { topic: Some(topic), ..Default::default() };
        self.topic_service().create_topic(on_behalf_of(request)).await?;
        Ok(())
    }

    /// Creates a topic of Walser itself with these settings, or finds it.
    ///
    /// # Errors
    /// `REPLICATION_FACTOR_TOO_HIGH` until there are enough nodes, and as the controller refuses; when it cannot be reached.
    pub async fn create_internal_topic(
        &self,
        name: &str,
        partition_count: i32,
        config: &[(&str, &str)],
    ) -> Result<ControllersTopic, ApiError> {
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let request = pbi::CreateInternalTopicRequest { name: name.to_owned(), partition_count, config };
        let answer = self.calls().create_internal_topic(request).await?.into_inner();
        let id = answer.topic_id.as_ref().try_into().ok().map(TopicId::from_bytes);
        Ok(ControllersTopic { id, partition_count: answer.partition_count })
    }

    /// Producer ids that nobody else has or had. `internal`: for what the caller itself writes.
    ///
    /// # Errors
    /// When the controller cannot be reached, or cannot decide now.
    pub async fn allocate_producer_ids(&self, internal: bool) -> Result<Range<i64>, ApiError> {
        let request = pbi::AllocateProducerIdsRequest { internal, ..Default::default() };
        let answer = self.calls().allocate_producer_ids(request).await?.into_inner();
        Ok(answer.first_id..answer.first_id + i64::from(answer.count))
    }

    /// The end of the producer ids that were issued to clients; exclusive.
    ///
    /// # Errors
    /// When the controller cannot be reached.
    pub async fn producer_id_end(&self) -> Result<ProducerId, ApiError> {
        let answer = self.calls().get_producer_id_end(pbi::GetProducerIdEndRequest {}).await?;
        Ok(ProducerId(answer.into_inner().end_id))
    }

    /// Begins the next epoch of a producer id; returns it.
    ///
    /// # Errors
    /// When `epoch` is not the latest one; when the controller cannot be reached, or cannot decide now.
    pub async fn raise_producer_epoch(&self, id: ProducerId, epoch: ProducerEpoch) -> Result<ProducerEpoch, ApiError> {
        let request = pbi::RaiseProducerEpochRequest { producer_id: id.0, producer_epoch: epoch.0.into() };
        let raised = self.calls().raise_producer_epoch(request).await?.into_inner().producer_epoch;
        let broken = |_| ApiError::internal("the controller gave a producer epoch that is none");
        Ok(ProducerEpoch(i16::try_from(raised).map_err(broken)?))
    }

    /// What this controller says of itself, whether it leads or not.
    ///
    /// # Errors
    /// When it cannot be reached, or is of a version that does not say it.
    pub async fn state(&self) -> Result<ControllerState, ApiError> {
        let state = self.calls().get_controller_state(pbi::GetControllerStateRequest {}).await?.into_inner();
        let pbi::GetControllerStateResponse { leads, obstacle, store_problems } = state;
        Ok(ControllerState { leads, obstacle: Some(obstacle).filter(|text| !text.is_empty()), store_problems })
    }

    /// Says that a group coordinator lives. True: it wants to stop, and may.
    ///
    /// # Errors
    /// As the controller refuses; when it cannot be reached.
    pub async fn coordinator_beat(&self, beat: &CoordinatorBeat) -> Result<bool, ApiError> {
        let outdated = beat.outdated.iter().map(|(shard, epoch)| pbi::OutdatedShard { shard: *shard, epoch: epoch.0 });
        let request = pbi::CoordinatorBeatRequest {
            coordinator_id: beat.id.clone(),
            internal_address: beat.address.clone(),
            stopping: beat.stopping,
            outdated: outdated.collect(),
            features: Some(FEATURE_LEVELS.into()),
        };
        Ok(self.calls().coordinator_beat(request).await?.into_inner().may_stop)
    }
}
