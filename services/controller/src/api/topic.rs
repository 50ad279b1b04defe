//! `TopicService`. `TruncateTopic` is not here: gateways carry it out on the leaders.

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use walser_metadata::TopicEntry;
use walser_model::TopicId;
use walser_proto::v1 as pb;
use walser_proto::v1::topic_service_server::TopicService;
use walser_rpc::{ApiError, Reason};
use walser_service::Caller;

use super::availability::Availability;
use super::{Controller, change_log, describe};
use crate::cluster_view::ClusterView;
use crate::topics::{NewTopic, TopicUpdate, find};

type Answer<T> = Result<Response<T>, Status>;

fn new_topic(request: pb::CreateTopicRequest) -> Result<NewTopic, ApiError> {
    let asked = request.topic.ok_or_else(|| ApiError::field("topic", "is missing"))?;
    Ok(NewTopic {
        name: asked.name,
        partition_count: Some(asked.partition_count).filter(|count| *count != 0),
        replication_factor: Some(asked.replication_factor).filter(|count| *count != 0),
        config: asked.config.into_iter().collect(),
        labels: asked.labels.into_iter().collect(),
        description: asked.description,
        allow_existing: request.allow_existing,
        validate_only: request.validate_only,
        internal: false,
    })
}

fn topic_update(request: &pb::UpdateTopicRequest) -> TopicUpdate {
    let request = request.clone();
    TopicUpdate {
        name: request.name,
        etag: request.etag,
        config_updates: request.config_updates.into_iter().collect(),
        config_resets: request.config_resets.into_iter().collect(),
        label_updates: request.label_updates.into_iter().collect(),
        label_removals: request.label_removals.into_iter().collect(),
        description: request.description,
        validate_only: request.validate_only,
    }
}

#[async_trait]
impl TopicService for Controller {
    async fn create_topic(&self, request: Request<pb::CreateTopicRequest>) -> Answer<pb::CreateTopicResponse> {
        self.changeable()?;
        let caller = Caller::relayed(&request);
        let request = new_topic(request.into_inner())?;
        let id = TopicId::from_random(self.random.bytes());
        let (value, topic) = self.topics.create(&request, id, self.clock.now_millis()).await?;
        // With `allow_existing`, the topic may be there already: then this call has created nothing.
        if topic.as_ref().is_some_and(|topic| topic.id == id) {
            change_log::topic_created(&caller, id, &value);
        }
        let topic = match topic {
            Some(topic) => self.described(&topic),
            None => describe::planned(id, &value),
        };
        Ok(Response::new(pb::CreateTopicResponse { topic: Some(topic) }))
    }

    async fn get_topic(&self, request: Request<pb::GetTopicRequest>) -> Answer<pb::GetTopicResponse> {
        let view = self.views.load();
        let topic = describe::described(&self.availability(&view), find(&view, &request.get_ref().name)?);
        Ok(Response::new(pb::GetTopicResponse { topic: Some(topic) }))
    }

    async fn list_topics(&self, request: Request<pb::ListTopicsRequest>) -> Answer<pb::ListTopicsResponse> {
        let view = self.views.load();
        Ok(Response::new(describe::list(&view, &self.availability(&view), request.get_ref())?))
    }

    async fn update_topic(&self, request: Request<pb::UpdateTopicRequest>) -> Answer<pb::UpdateTopicResponse> {
        self.changeable()?;
        let update = topic_update(request.get_ref());
        let (before, after) = self.topics.update(&update).await?;
        let topic = if update.validate_only {
            let described = self.described(&before);
            pb::Topic {
                state: described.state,
                stats: described.stats,
                etag: described.etag,
                ..describe::planned(before.id, &after)
            }
        } else {
            change_log::topic_changed(&Caller::relayed(&request), before.id, &before.value, &after);
            self.described_now(before.id, &after)
        };
        Ok(Response::new(pb::UpdateTopicResponse { topic: Some(topic) }))
    }

    async fn delete_topic(&self, request: Request<pb::DeleteTopicRequest>) -> Answer<pb::DeleteTopicResponse> {
        self.changeable()?;
        let number = u128::from_be_bytes(self.random.bytes()) % 0x1_0000_0000;
        let operation = format!("op-{number:08x}");
        let pb::DeleteTopicRequest { name, etag, .. } = request.get_ref();
        let (id, operation) = self.topics.delete(name, etag, &operation, self.clock.now_millis()).await?;
        let operation = describe::wire_operation(&operation);
        change_log::topic_deleted(&Caller::relayed(&request), id, name, &operation);
        Ok(Response::new(pb::DeleteTopicResponse { operation: Some(operation) }))
    }

    async fn add_partitions(&self, request: Request<pb::AddPartitionsRequest>) -> Answer<pb::AddPartitionsResponse> {
        self.changeable()?;
        let pb::AddPartitionsRequest { topic, partition_count, validate_only, .. } = request.get_ref();
        let (before, id, value) = self.topics.grow(topic, *partition_count, *validate_only).await?;
        let topic = if *validate_only {
            describe::planned(id, &value)
        } else {
            change_log::partitions_added(&Caller::relayed(&request), id, before, &value);
            self.described_now(id, &value)
        };
        Ok(Response::new(pb::AddPartitionsResponse { topic: Some(topic) }))
    }

    async fn list_partitions(&self, request: Request<pb::ListPartitionsRequest>) -> Answer<pb::ListPartitionsResponse> {
        let view = self.views.load();
        Ok(Response::new(describe::partitions(&view, &self.availability(&view), request.get_ref())?))
    }

    async fn truncate_topic(&self, _request: Request<pb::TruncateTopicRequest>) -> Answer<pb::TruncateTopicResponse> {
        let text = "records are deleted by the leaders: call a gateway";
        Err(ApiError::new(Reason::FeatureDisabled, text).with("feature", "TruncateTopic").into())
    }

    async fn list_topic_configs(
        &self,
        request: Request<pb::ListTopicConfigsRequest>,
    ) -> Answer<pb::ListTopicConfigsResponse> {
        Ok(Response::new(describe::configs(&self.views.load(), request.get_ref())?))
    }
}

impl Controller {
    /// A topic with its state.
    pub(super) fn described(&self, topic: &TopicEntry) -> pb::Topic {
        describe::described(&self.availability(&self.views.load()), topic)
    }

    /// A topic that was just written, with its state; as it was written where it is gone already.
    fn described_now(&self, id: TopicId, value: &walser_metadata::value::TopicValue) -> pb::Topic {
        let view = self.views.load();
        let described = view.metadata.topic(id).map(|topic| self.described(topic));
        described.unwrap_or_else(|| describe::planned(id, value))
    }

    /// What is in service now. A node that was refused takes no writes.
    pub(super) fn availability(&self, view: &ClusterView) -> Availability {
        let mut availability = Availability::new();
        for (node, entry) in view.metadata.nodes().filter(|(_, entry)| entry.epoch > 0) {
            if !self.is_away(node, entry) {
                availability.add(node, &self.sessions.get(node).unwrap_or_default().stats);
            }
        }
        availability
    }

    /// Metadata that a storage node has found to be an older copy, or that only strangers have come to, is not changed
    /// before that is settled.
    pub(super) fn changeable(&self) -> Result<(), ApiError> {
        let forbids = self.refused.forbids_changes(self.sessions.any_heard(), self.clock.monotonic());
        forbids.map_or(Ok(()), Err)
    }
}
