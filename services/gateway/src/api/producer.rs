//! `ProducerService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use walser_model::{Acks, Offset, ProducerEpoch, ProducerId};
use walser_proto::v1 as pb;
use walser_proto::v1::producer_service_server::ProducerService;
use walser_rpc::ApiError;
use walser_service::{Caller, StreamEnd};

use super::stream::{self, ProduceStreams};
use super::wire::{known, payload, produce_failure, session, time_left, trace, trace_of_call, written};
use crate::producing::{Failed, GRACE, Outcome, SeparateWriters, Waiting, Write};
use crate::within::within;

type Answer<T> = Result<Response<T>, Status>;

/// Told in the answer when a topic was created for a write.
const CREATED: &str = "walser-topic-created";

/// `ProducerService`.
#[derive(Debug)]
pub(super) struct ProducerApi {
    /// What single calls work with, too.
    pub(super) streams: ProduceStreams,
}

fn write(
    request: pb::ProduceRequest,
    caller: Caller,
    trace: Option<Arc<str>>,
    deadline: Duration,
) -> Result<Write, ApiError> {
    Ok(Write {
        create_for: Some(Arc::new(caller)),
        topic_id: None,
        deadline,
        waiting: Waiting::Caller,
        acks: Acks::from(known::<pb::Acks>("acks", request.acks)?),
        compression: known::<pb::Compression>("compression", request.compression)?.chosen(),
        topic: request.topic,
        partition: request.partition,
        payload: payload(request.records, request.record_batch)?,
        session: session(request.producer, request.base_sequence)?,
        expected_offset: request.expected_offset.map(Offset),
        trace,
    })
}

/// The session that a client had before.
fn previous_session(previous: pb::ProducerIdentity) -> Result<(ProducerId, ProducerEpoch), ApiError> {
    let pb::ProducerIdentity { producer_id, producer_epoch } = previous;
    let epoch = i16::try_from(producer_epoch).ok().filter(|epoch| *epoch >= 0 && producer_id >= 0);
    let epoch = epoch.ok_or_else(|| ApiError::field("previous", "is not a producer session"))?;
    Ok((ProducerId(producer_id), ProducerEpoch(epoch)))
}

/// The outcome as a unary call tells it: an error unless every record is written.
fn response(outcome: Outcome) -> Result<pb::ProduceResponse, Status> {
    match outcome.failed {
        None => Ok(written(outcome)),
        Some(Failed { failure, records: None }) => Err(failure.into()),
        Some(Failed { failure, records: Some(records) }) => {
            let detail = produce_failure(records);
            Err(failure.into_status_with("walser.v1.ProduceFailure", prost::Message::encode_to_vec(&detail)))
        }
    }
}

#[async_trait]
impl ProducerService for ProducerApi {
    async fn produce(&self, request: Request<pb::ProduceRequest>) -> Answer<pb::ProduceResponse> {
        let limit = time_left(request.metadata()).unwrap_or(self.streams.config.produce_timeout);
        let (caller, trace) = (Caller::of(&request), trace_of_call(request.metadata()));
        let deadline = self.streams.clock.monotonic() + limit;
        let write = write(request.into_inner(), caller, trace, deadline);
        let write = write.inspect_err(|failure| self.streams.producing.refused(failure))?;
        let (done, mut outcome) = oneshot::channel();
        let told = Box::new(move |outcome| drop(done.send(outcome)));
        let mut submitted = self.streams.producing.produce(write, &mut SeparateWriters::default(), told).await?;
        let outcome = match submitted.queued.take() {
            Some(queued) => Ok(queued),
            None => {
                // Some of the little time of a short deadline is left for the answer to travel.
                let grace = GRACE.min(limit / 10);
                let left = (deadline + grace).saturating_sub(self.streams.clock.monotonic());
                match within(left, &mut outcome).await {
                    Ok(outcome) => outcome,
                    Err(_elapsed) => {
                        // Whatever is not answered yet is answered now.
                        submitted.abandon();
                        outcome.await
                    }
                }
            }
        };
        submitted.complete();
        let outcome = outcome.map_err(|_| ApiError::internal("a write was given up without an answer"))?;
        let created = outcome.created;
        let mut response = Response::new(response(outcome)?);
        if created {
            response.metadata_mut().insert(CREATED, tonic::metadata::MetadataValue::from_static("true"));
        }
        Ok(response)
    }

    type ProduceStreamStream = Pin<Box<dyn Stream<Item = Result<pb::ProduceStreamResponse, Status>> + Send>>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<pb::ProduceStreamRequest>>,
    ) -> Answer<Self::ProduceStreamStream> {
        let (caller, trace) = (Caller::of(&request), trace(request.metadata()));
        let end = StreamEnd::of(request.extensions(), self.streams.shutdown.clone());
        Ok(Response::new(stream::serve(self.streams.clone(), request.into_inner(), (caller, end), trace)))
    }

    async fn init_producer(&self, request: Request<pb::InitProducerRequest>) -> Answer<pb::InitProducerResponse> {
        let ids = &self.streams.producing.producer_ids;
        let (id, epoch) = match request.into_inner().previous {
            Some(previous) => {
                let (id, epoch) = previous_session(previous)?;
                ids.next_epoch(id, epoch).await?
            }
            None => (ids.next().await?, ProducerEpoch(0)),
        };
        let producer = pb::ProducerIdentity { producer_id: id.0, producer_epoch: epoch.0.into() };
        Ok(Response::new(pb::InitProducerResponse { producer: Some(producer) }))
    }
}
