//! The service that hands its streams to the tests.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use walser_proto::v1 as pb;
use walser_proto::v1::group_service_server::GroupService;

use super::FakeStream;

/// Hands every stream to the test.
pub(super) struct FakeGroups(pub(super) mpsc::Sender<FakeStream>);

#[tonic::async_trait]
impl GroupService for FakeGroups {
    type ConsumeStream = ReceiverStream<Result<pb::ConsumeResponse, Status>>;

    async fn consume(
        &self,
        request: Request<Streaming<pb::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let (answers, stream) = mpsc::channel(64);
        self.0.send(FakeStream { requests: request.into_inner(), answers }).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn poll_group(&self, _: Request<pb::PollGroupRequest>) -> Unplayed<pb::PollGroupResponse> {
        unplayed()
    }

    async fn leave_group(&self, _: Request<pb::LeaveGroupRequest>) -> Unplayed<pb::LeaveGroupResponse> {
        unplayed()
    }

    async fn commit_offsets(&self, _: Request<pb::CommitOffsetsRequest>) -> Unplayed<pb::CommitOffsetsResponse> {
        unplayed()
    }

    async fn list_groups(&self, _: Request<pb::ListGroupsRequest>) -> Unplayed<pb::ListGroupsResponse> {
        unplayed()
    }

    async fn get_group(&self, _: Request<pb::GetGroupRequest>) -> Unplayed<pb::GetGroupResponse> {
        unplayed()
    }

    async fn delete_group(&self, _: Request<pb::DeleteGroupRequest>) -> Unplayed<pb::DeleteGroupResponse> {
        unplayed()
    }

    async fn list_group_offsets(
        &self,
        _: Request<pb::ListGroupOffsetsRequest>,
    ) -> Unplayed<pb::ListGroupOffsetsResponse> {
        unplayed()
    }

    async fn reset_group_offsets(
        &self,
        _: Request<pb::ResetGroupOffsetsRequest>,
    ) -> Unplayed<pb::ResetGroupOffsetsResponse> {
        unplayed()
    }

    async fn delete_group_offsets(
        &self,
        _: Request<pb::DeleteGroupOffsetsRequest>,
    ) -> Unplayed<pb::DeleteGroupOffsetsResponse> {
        unplayed()
    }

    async fn remove_group_member(
        &self,
        _: Request<pb::RemoveGroupMemberRequest>,
    ) -> Unplayed<pb::RemoveGroupMemberResponse> {
        unplayed()
    }
}

/// The answer to what no test asks for.
type Unplayed<T> = Result<Response<T>, Status>;

fn unplayed<T>() -> Unplayed<T> {
    Err(Status::unimplemented("not played"))
}
