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
use walser_service::{Caller, Shutdown, StreamEnd};

use super::group_requests::{first, later};
use super::{group_events, stream};
use crate::error::draining;
use crate::groups::{Groups, Requests};

/// `GroupService`.
#[derive(Debug)]
pub(super) struct GroupApi {
    pub(super) groups: Groups,
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
}
