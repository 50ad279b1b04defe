//! `ConsumerService`.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use walser_model::Clock;
use walser_proto::v1 as pb;
use walser_proto::v1::consumer_service_server::ConsumerService;
use walser_rpc::{ApiError, Reason};
use walser_service::{Shutdown, StreamEnd};

use super::wire::time_left;
use super::{read_answers, reads};
use crate::reading::Reading;

type Answer<T> = Result<Response<T>, Status>;

/// `ConsumerService`.
#[derive(Debug)]
pub(super) struct ConsumerApi {
    pub(super) reading: Reading,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) shutdown: Shutdown,
}

#[async_trait]
impl ConsumerService for ConsumerApi {
    async fn fetch(&self, request: Request<pb::FetchRequest>) -> Answer<pb::FetchResponse> {
        let limit = time_left(request.metadata());
        let request = reads::fetch(request.into_inner(), self.clock.now_millis())?;
        let all = self.reading.fetch(&request, limit);
        let fetched = match limit {
            None => all.await?,
            Some(limit) => tokio::time::timeout(limit, all).await.map_err(|_| {
                let failure = ApiError::new(Reason::RequestTimedOut, "the read was not answered in time");
                failure.with_effect(pb::Effect::None).with("stage", "read")
            })??,
        };
        let gate = fetched.gate.clone();
        let mut answer = Response::new(read_answers::fetched(fetched));
        answer.extensions_mut().insert(gate);
        Ok(answer)
    }

    type ReadStream = Pin<Box<dyn Stream<Item = Result<pb::ReadResponse, Status>> + Send>>;

    async fn read(&self, request: Request<pb::ReadRequest>) -> Answer<Self::ReadStream> {
        let end = StreamEnd::of(request.extensions(), self.shutdown.clone());
        let request = reads::read(request.into_inner(), self.clock.now_millis())?;
        let (events, gate) = self.reading.read(request, end).await?;
        let stream = events.map(|event| event.map(read_answers::event).map_err(Status::from));
        let mut answer: Response<Self::ReadStream> = Response::new(Box::pin(stream));
        answer.extensions_mut().insert(gate);
        Ok(answer)
    }

    async fn list_offsets(&self, request: Request<pb::ListOffsetsRequest>) -> Answer<pb::ListOffsetsResponse> {
        let limit = time_left(request.metadata());
        let targets = reads::list_offsets(request.into_inner(), self.clock.now_millis())?;
        Ok(Response::new(read_answers::offsets(self.reading.list_offsets(&targets, limit).await?)))
    }
}
