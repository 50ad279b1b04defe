//! `ConsumerService`.

use std::pin::Pin;

use async_trait::async_trait;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use walser_proto::v1 as pb;
use walser_proto::v1::consumer_service_server::ConsumerService;
use walser_rpc::{Failure, Reason};

use super::wire::time_left;
use crate::reading::Reading;

type Answer<T> = Result<Response<T>, Status>;

/// `ConsumerService`.
#[derive(Debug)]
pub(super) struct ConsumerApi {
    pub(super) reading: Reading,
}

#[async_trait]
impl ConsumerService for ConsumerApi {
    async fn fetch(&self, request: Request<pb::FetchRequest>) -> Answer<pb::FetchResponse> {
        let limit = time_left(request.metadata());
        let all = self.reading.fetch(request.get_ref(), limit);
        let response = match limit {
            None => all.await?,
            Some(limit) => tokio::time::timeout(limit, all).await.map_err(|_| {
                let failure = Failure::new(Reason::RequestTimedOut, "the read was not answered in time");
                failure.with_effect(pb::Effect::None).with("stage", "read")
            })??,
        };
        let mut answer = Response::new(response.response);
        answer.extensions_mut().insert(response.gate);
        Ok(answer)
    }

    type ReadStream = Pin<Box<dyn Stream<Item = Result<pb::ReadResponse, Status>> + Send>>;

    async fn read(&self, request: Request<pb::ReadRequest>) -> Answer<Self::ReadStream> {
        let (stream, gate) = self.reading.read(request.into_inner()).await?;
        let mut answer: Response<Self::ReadStream> = Response::new(Box::pin(stream));
        answer.extensions_mut().insert(gate);
        Ok(answer)
    }

    async fn list_offsets(&self, request: Request<pb::ListOffsetsRequest>) -> Answer<pb::ListOffsetsResponse> {
        let limit = time_left(request.metadata());
        Ok(Response::new(self.reading.list_offsets(request.get_ref(), limit).await?))
    }
}
