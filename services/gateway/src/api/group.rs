//! `GroupService`.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use walser_model::Clock;
use walser_proto::v1 as pb;
use walser_proto::v1::group_service_server::GroupService;
use walser_rpc::SealedToken;
use walser_service::{Caller, Shutdown, StreamEnd};

use super::group_admin::GroupAdminApi;
use super::group_requests::{first, later};
use super::wire::time_left;
use super::{group_events, group_polls, stream};
use crate::error::draining;
use crate::groups::{Groups, Requests};

type Answer<T> = Result<Response<T>, Status>;

/// `GroupService`.
#[derive(Debug)]
pub(super) struct GroupApi {
    pub(super) groups: Groups,
    pub(super) admin: GroupAdminApi,
    pub(super) clock: Arc<dyn Clock>,
    /// Largest message that is taken.
    pub(super) message_bytes_max: usize,
    pub(super) shutdown: Shutdown,
}

#[async_trait]
impl GroupService for GroupApi {
    type ConsumeStream = Pin<Box<dyn Stream<Item = Result<pb::ConsumeResponse, Status>> + Send>>;

    async fn consume(
        &self,
        request: Request<Streaming<pb::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let (caller, end) = (Caller::of(&request), StreamEnd::of(request.extensions(), self.shutdown.clone()));
        let (mut messages, bytes_max) = (request.into_inner(), self.message_bytes_max);
        let message = tokio::select! {
            message = messages.message() => message.map_err(|status| stream::received(status, bytes_max))?,
            () = end.wait() => return Err(draining().into()),
        };
        let join = first(message, &caller, self.clock.now_millis())?;
        let clock = Arc::clone(&self.clock);
        let requests: Requests = Box::pin(messages.map(move |message| {
            let message = message.map_err(|status| stream::received(status, bytes_max))?;
            later(message, clock.now_millis())
        }));
        let (events, gate) = self.groups.consume(join, requests, end).await?;
        let answers = events.map(|event| event.map(group_events::event).map_err(Status::from));
        let mut answer: Response<Self::ConsumeStream> = Response::new(Box::pin(answers));
        answer.extensions_mut().insert(gate);
        Ok(answer)
    }

    async fn poll_group(&self, request: Request<pb::PollGroupRequest>) -> Answer<pb::PollGroupResponse> {
        let (caller, limit) = (Caller::of(&request), time_left(request.metadata()));
        let request = group_polls::poll(request.into_inner(), &caller, self.clock.now_millis())?;
        let polled = self.groups.poll(request, limit).await?;
        let gate = group_polls::gate_of(&polled);
        let mut answer = Response::new(group_polls::polled(polled));
        if let Some(gate) = gate {
            answer.extensions_mut().insert(gate);
        }
        Ok(answer)
    }

    async fn leave_group(&self, request: Request<pb::LeaveGroupRequest>) -> Answer<pb::LeaveGroupResponse> {
        self.groups.leave(SealedToken::decode("token", &request.get_ref().token)?).await?;
        Ok(Response::new(pb::LeaveGroupResponse {}))
    }

    async fn commit_offsets(&self, request: Request<pb::CommitOffsetsRequest>) -> Answer<pb::CommitOffsetsResponse> {
        Ok(self.admin.commit_offsets(request.into_inner()).await?)
    }

    async fn list_groups(&self, request: Request<pb::ListGroupsRequest>) -> Answer<pb::ListGroupsResponse> {
        Ok(self.admin.list_groups(request.into_inner()).await?)
    }

    async fn get_group(&self, request: Request<pb::GetGroupRequest>) -> Answer<pb::GetGroupResponse> {
        Ok(self.admin.get_group(request.into_inner()).await?)
    }

    async fn delete_group(&self, request: Request<pb::DeleteGroupRequest>) -> Answer<pb::DeleteGroupResponse> {
        Ok(self.admin.delete_group(request.into_inner()).await?)
    }

    async fn list_group_offsets(
        &self,
        request: Request<pb::ListGroupOffsetsRequest>,
    ) -> Answer<pb::ListGroupOffsetsResponse> {
        Ok(self.admin.list_group_offsets(request.into_inner()).await?)
    }

    async fn reset_group_offsets(
        &self,
        request: Request<pb::ResetGroupOffsetsRequest>,
    ) -> Answer<pb::ResetGroupOffsetsResponse> {
        Ok(self.admin.reset_group_offsets(request.into_inner()).await?)
    }

    async fn delete_group_offsets(
        &self,
        request: Request<pb::DeleteGroupOffsetsRequest>,
    ) -> Answer<pb::DeleteGroupOffsetsResponse> {
        Ok(self.admin.delete_group_offsets(request.into_inner()).await?)
    }

    async fn remove_group_member(
        &self,
        request: Request<pb::RemoveGroupMemberRequest>,
    ) -> Answer<pb::RemoveGroupMemberResponse> {
        Ok(self.admin.remove_group_member(request.into_inner()).await?)
    }
}
