//! `TopicService`. `TruncateTopic` is not here: gateways carry it out on the leaders.

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use walser_model::TopicId;
use walser_proto::v1 as pb;
use walser_proto::v1::topic_service_server::TopicService;
use walser_rpc::{Failure, Reason};
use walser_service::Caller;

use super::{Controller, change_log};
use crate::availability::Availability;
use crate::{nodes, topics};

type Answer<T> = Result<Response<T>, Status>;

#[async_trait]
impl TopicService for Controller {
    async fn create_topic(&self, request: Request<pb::CreateTopicRequest>) -> Answer<pb::CreateTopicResponse> {
        self.changeable()?;
        let caller = Caller::relayed(&request);
        let request = request.into_inner();
        let id = TopicId::from_random(self.random.bytes());
        let now = self.clock.now_millis();
        let found = topics::create(&self.store, &self.config, &request, id, now).await?;
        if request.validate_only {
            let (id, topic) = &found;
            return Ok(Response::new(pb::CreateTopicResponse { topic: Some(topics::wire_topic(*id, topic)) }));
        }
        // With `allow_existing`, the topic may be there already: then this call has created nothing.
        if found.0 == id {
            change_log::topic_created(&caller, id, &found.1.value);
        }
        Ok(Response::new(pb::CreateTopicResponse { topic: Some(self.described(&found).await?) }))
    }

    async fn get_topic(&self, request: Request<pb::GetTopicRequest>) -> Answer<pb::GetTopicResponse> {
        let found = topics::find(&self.store, &request.get_ref().name).await?;
        Ok(Response::new(pb::GetTopicResponse { topic: Some(self.described(&found).await?) }))
    }

    async fn list_topics(&self, request: Request<pb::ListTopicsRequest>) -> Answer<pb::ListTopicsResponse> {
        Ok(Response::new(topics::list(&self.store, &self.availability().await?, request.get_ref()).await?))
    }

    async fn update_topic(&self, request: Request<pb::UpdateTopicRequest>) -> Answer<pb::UpdateTopicResponse> {
        self.changeable()?;
        let (before, found) = topics::update(&self.store, request.get_ref()).await?;
        if !request.get_ref().validate_only {
            change_log::topic_changed(&Caller::relayed(&request), found.0, &before, &found.1.value);
        }
        Ok(Response::new(pb::UpdateTopicResponse { topic: Some(self.described(&found).await?) }))
    }

    async fn delete_topic(&self, request: Request<pb::DeleteTopicRequest>) -> Answer<pb::DeleteTopicResponse> {
        self.changeable()?;
        let number = u128::from_be_bytes(self.random.bytes()) % 0x1_0000_0000;
        let operation = format!("op-{number:08x}");
        let now = self.clock.now_millis();
        let (id, operation) = topics::delete(&self.store, request.get_ref(), &operation, now).await?;
        change_log::topic_deleted(&Caller::relayed(&request), id, &request.get_ref().name, &operation);
        Ok(Response::new(pb::DeleteTopicResponse { operation: Some(operation) }))
    }

    async fn add_partitions(&self, request: Request<pb::AddPartitionsRequest>) -> Answer<pb::AddPartitionsResponse> {
        self.changeable()?;
        let (before, found) = topics::add_partitions(&self.store, &self.config, request.get_ref()).await?;
        if !request.get_ref().validate_only {
            change_log::partitions_added(&Caller::relayed(&request), found.0, before, &found.1.value);
        }
        Ok(Response::new(pb::AddPartitionsResponse { topic: Some(self.described(&found).await?) }))
    }

    async fn list_partitions(&self, request: Request<pb::ListPartitionsRequest>) -> Answer<pb::ListPartitionsResponse> {
        Ok(Response::new(topics::partitions(&self.store, &self.availability().await?, request.get_ref()).await?))
    }

    async fn truncate_topic(&self, _request: Request<pb::TruncateTopicRequest>) -> Answer<pb::TruncateTopicResponse> {
        let text = "records are deleted by the leaders: call a gateway";
        Err(Failure::new(Reason::FeatureDisabled, text).with("feature", "TruncateTopic").into())
    }

    async fn list_topic_configs(
        &self,
        request: Request<pb::ListTopicConfigsRequest>,
    ) -> Answer<pb::ListTopicConfigsResponse> {
        Ok(Response::new(topics::configs(&self.store, request.get_ref()).await?))
    }
}

impl Controller {
    /// A topic with its state.
    pub(super) async fn described(&self, found: &topics::Found) -> Result<pb::Topic, Failure> {
        topics::described(&self.store, &self.availability().await?, found).await
    }

    /// What is in service now. A node that was refused takes no writes.
    async fn availability(&self) -> Result<Availability, Failure> {
        let mut availability = Availability::new();
        let now = self.clock.monotonic();
        for node in nodes::list(&self.store).await?.iter().filter(|node| !node.fenced) {
            if !self.refused.refuses(node.id, now) {
                availability.add(node, &self.sessions.get(node.id).unwrap_or_default().stats);
            }
        }
        Ok(availability)
    }

    /// Metadata that a storage node has found to be an older copy is not changed before that is settled.
    pub(super) fn changeable(&self) -> Result<(), Failure> {
        self.refused.rollback(self.clock.monotonic()).map_or(Ok(()), Err)
    }
}
