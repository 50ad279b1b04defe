//! `TopicService`: the controller's answers, with live numbers of the leaders.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use walser_model::Clock;
use walser_proto::v1 as pb;
use walser_proto::v1::topic_service_server::TopicService;
use walser_rpc::{ApiError, Reason, wire_topic};
use walser_service::Caller;

use super::figures::{complete_partition, complete_topic};
use super::truncation;
use super::wire::{relayed, see_change};
use crate::leaders::Leaders;
use crate::metadata::{Metadata, View};
use crate::reading::Positions;
use crate::retry::PATIENCE;
use crate::router::Router;
use crate::topics::Topics;

type Answer<T> = Result<Response<T>, Status>;

/// How long a description waits for what this gateway has not heard of yet.
const VIEW_DELAY_MAX: Duration = Duration::from_secs(1);
/// How long a controller is asked for a topic that is known here.
const KNOWN_PATIENCE: Duration = Duration::from_secs(1);

/// Whether a partition lacks copies, or is not all in service. Whatever is below `min.insync.replicas` lacks copies.
fn unhealthy(partition: &pb::Partition) -> bool {
    partition.isr.len() < partition.replicas.len() || partition.problem.is_some()
}

/// `TopicService`.
#[derive(Debug)]
pub(super) struct TopicApi {
    pub(super) metadata: Metadata,
    pub(super) topics: Topics,
    pub(super) leaders: Leaders,
    pub(super) router: Router,
    pub(super) positions: Positions,
    pub(super) clock: Arc<dyn Clock>,
}

impl TopicApi {
    async fn add_stats(&self, topics: &mut [pb::Topic]) {
        let views: Vec<_> = topics.iter().filter_map(|topic| self.metadata.topic(&topic.name)).collect();
        let figures = self.leaders.figures(&views).await;
        topics.iter_mut().for_each(|topic| complete_topic(&figures, topic));
    }

    /// A page of partitions, with what their leaders say of them.
    async fn partitions(&self, request: pb::ListPartitionsRequest) -> Result<pb::ListPartitionsResponse, Status> {
        let answer = self.topics.controller()?.topic_service().list_partitions(request).await;
        let mut answer = answer.map_err(|status| self.relayed_topic(status))?.into_inner();
        let mut names: Vec<_> = answer.partitions.iter().map(|info| info.topic.clone()).collect();
        names.dedup();
        let views: Vec<_> = names.iter().filter_map(|name| self.metadata.topic(name)).collect();
        let figures = self.leaders.figures(&views).await;
        for info in &mut answer.partitions {
            if let Some(partition) = info.partition.as_mut() {
                complete_partition(&figures, &info.topic, partition);
            }
        }
        Ok(answer)
    }

    /// Those partitions of a topic that are not healthy. The leaders know of all, the controller of some; so the pages
    /// are those of all partitions, and the first that has one is returned.
    async fn unhealthy(&self, mut request: pb::ListPartitionsRequest) -> Result<pb::ListPartitionsResponse, Status> {
        request.only_unhealthy = false;
        loop {
            let mut page = self.partitions(request.clone()).await?;
            page.partitions.retain(|info| info.partition.as_ref().is_some_and(unhealthy));
            if !page.partitions.is_empty() || page.next_page_token.is_empty() {
                return Ok(page);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The controller's error; a topic that is missing with one of a similar name, if there is one.
    fn relayed_topic(&self, status: Status) -> Status {
        let failure = ApiError::from(status.clone());
        match failure.value("topic") {
            Some(name) if failure.reason() == Reason::TopicNotFound => self.topics.not_found(name).into(),
            _ => relayed(status),
        }
    }

    /// What this gateway knows of a topic, for when the controller does not answer: records flow without it.
    fn known_topic(&self, name: &str, failure: &Status) -> Option<Response<pb::GetTopicResponse>> {
        let unheard = ApiError::from(failure.clone()).reason() == Reason::ControllerNotAvailable;
        let topic = self.metadata.topic(name).filter(|_| unheard)?;
        Some(Response::new(pb::GetTopicResponse { topic: Some(wire_topic(&topic)) }))
    }

    /// The topic as a write to it would find or make it.
    async fn create_as_written(
        &self,
        caller: &Caller,
        request: pb::CreateTopicRequest,
    ) -> Result<pb::CreateTopicResponse, ApiError> {
        let topic = request.topic.unwrap_or_default();
        let bare = pb::Topic { name: topic.name.clone(), ..Default::default() };
        if request.validate_only || topic != bare {
            return Err(ApiError::field("automatic", "goes with the name of the topic only"));
        }
        let (found, _) = self.topics.to_write(&topic.name, None, Some(caller)).await?;
        let request = pb::GetTopicRequest { name: found.name.to_string() };
        let topic = self.topics.controller()?.topic_service().get_topic(request).await?.into_inner().topic;
        Ok(pb::CreateTopicResponse { topic })
    }
}

#[async_trait]
impl TopicService for TopicApi {
    async fn create_topic(&self, request: Request<pb::CreateTopicRequest>) -> Answer<pb::CreateTopicResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        if request.automatic {
            return Ok(Response::new(self.create_as_written(&caller, request).await?));
        }
        let validate_only = request.validate_only;
        let response =
            self.topics.controller()?.topic_service().create_topic(caller.relay(request)).await.map_err(relayed)?;
        if !validate_only {
            see_change(&self.topics, response.get_ref().topic.as_ref()).await;
        }
        Ok(response)
    }

    async fn get_topic(&self, request: Request<pb::GetTopicRequest>) -> Answer<pb::GetTopicResponse> {
        let request = request.into_inner();
        let name = request.name.clone();
        let mut controller = self.topics.controller()?.topic_service();
        // While none leads, those that are there are asked for longer than whoever writes should wait for a known topic.
        let limit = if self.metadata.topic(&name).is_some() { KNOWN_PATIENCE } else { Duration::MAX };
        let asked = tokio::time::timeout(limit, controller.get_topic(request)).await;
        let mut response = match asked
            .unwrap_or_else(|_| Err(ApiError::new(Reason::ControllerNotAvailable, "no controller leads yet").into()))
        {
            Ok(response) => response,
            Err(status) => self.known_topic(&name, &status).ok_or_else(|| self.relayed_topic(status))?,
        };
        if let Some(topic) = response.get_mut().topic.as_mut() {
            // The leaders of a topic that was created a moment ago may not have arrived here.
            if let Ok(version) = topic.etag.parse() {
                self.metadata.reached(version, VIEW_DELAY_MAX).await;
            }
            self.add_stats(std::slice::from_mut(topic)).await;
        }
        Ok(response)
    }

    async fn list_topics(&self, request: Request<pb::ListTopicsRequest>) -> Answer<pb::ListTopicsResponse> {
        let request = request.into_inner();
        let include_stats = request.include_stats;
        let mut response = self.topics.controller()?.topic_service().list_topics(request).await.map_err(relayed)?;
        if include_stats {
            self.add_stats(&mut response.get_mut().topics).await;
        }
        Ok(response)
    }

    async fn update_topic(&self, request: Request<pb::UpdateTopicRequest>) -> Answer<pb::UpdateTopicResponse> {
        let request = Caller::of(&request).relay(request.into_inner());
        let response = self
            .topics
            .controller()?
            .topic_service()
            .update_topic(request)
            .await
            .map_err(|status| self.relayed_topic(status))?;
        see_change(&self.topics, response.get_ref().topic.as_ref()).await;
        Ok(response)
    }

    async fn delete_topic(&self, request: Request<pb::DeleteTopicRequest>) -> Answer<pb::DeleteTopicResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let name = request.name.clone();
        let before = self.metadata.topic(&name).map(|topic| topic.id);
        let response = self
            .topics
            .controller()?
            .topic_service()
            .delete_topic(caller.relay(request))
            .await
            .map_err(|status| self.relayed_topic(status))?;
        let gone = |view: &View| view.topic_named(&name).map(|topic| topic.id) != before;
        self.metadata.wait_until(PATIENCE, |view| before.is_none() || gone(view)).await;
        Ok(response)
    }

    async fn add_partitions(&self, request: Request<pb::AddPartitionsRequest>) -> Answer<pb::AddPartitionsResponse> {
        let request = Caller::of(&request).relay(request.into_inner());
        let response = self
            .topics
            .controller()?
            .topic_service()
            .add_partitions(request)
            .await
            .map_err(|status| self.relayed_topic(status))?;
        see_change(&self.topics, response.get_ref().topic.as_ref()).await;
        Ok(response)
    }

    async fn list_partitions(&self, request: Request<pb::ListPartitionsRequest>) -> Answer<pb::ListPartitionsResponse> {
        let request = request.into_inner();
        let of_a_topic = request.only_unhealthy && !request.topic.is_empty();
        let listed = if of_a_topic { self.unhealthy(request).await } else { self.partitions(request).await };
        listed.map(Response::new)
    }

    async fn truncate_topic(&self, request: Request<pb::TruncateTopicRequest>) -> Answer<pb::TruncateTopicResponse> {
        Ok(Response::new(truncation::truncate(self, &Caller::of(&request), request.get_ref()).await?))
    }

    async fn list_topic_configs(
        &self,
        request: Request<pb::ListTopicConfigsRequest>,
    ) -> Answer<pb::ListTopicConfigsResponse> {
        self.topics
            .controller()?
            .topic_service()
            .list_topic_configs(request.into_inner())
            .await
            .map_err(|status| self.relayed_topic(status))
    }
}
