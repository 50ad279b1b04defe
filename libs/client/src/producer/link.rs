//! The stream of a producer to its gateway: one at a time, opened again after it broke.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use walser_proto::v1 as pb;
use walser_proto::v1::produce_stream_request::Message;
use walser_proto::v1::produce_stream_response::Message as Reply;
use walser_rpc::{ApiError, Reason};

use crate::connection::Client;

/// Pause before the server is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// Requests between the producer and its connection.
const QUEUE: usize = 16;
/// Proxies close a stream on which the client is silent for long.
const HEARTBEAT: Duration = Duration::from_secs(10);

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<pb::ProduceStreamResponse>, ApiError>> + Send>>;

/// What happens on a link.
pub(super) enum LinkEvent {
    /// The stream is open.
    Up,
    /// It is over, or could not be opened.
    Down(ApiError),
    Results(Vec<pb::ProduceResult>),
}

/// The stream, in whatever state it is.
pub(super) enum Link {
    Closed { until: Instant },
    Opening { requests: mpsc::Sender<pb::ProduceStreamRequest>, opening: Opening },
    Open(Box<Open>),
}

/// An open stream.
pub(super) struct Open {
    requests: mpsc::Sender<pb::ProduceStreamRequest>,
    answers: Streaming<pb::ProduceStreamResponse>,
    /// The gateway reads nothing any more.
    draining: bool,
    heartbeat_at: Instant,
}

pub(super) fn closed() -> ApiError {
    ApiError::new(Reason::LeaderNotAvailable, "the connection to the server was closed")
}

// === impl Link ===

impl Link {
    /// A link that is opened at once.
    pub(super) fn new() -> Self {
        Self::Closed { until: Instant::now() }
    }

    /// Waits for what happens next. Dropping the future loses nothing.
    pub(super) async fn next(&mut self, client: &Client, open: &pb::ProduceOpen) -> LinkEvent {
        loop {
            match self {
                Self::Closed { until } => {
                    tokio::time::sleep_until(*until).await;
                    *self = begin(client.clone(), open.clone());
                }
                Self::Opening { opening, .. } => {
                    let opened = opening.as_mut().await;
                    return self.opened(opened);
                }
                Self::Open(open) => match open.next().await {
                    Ok(Some(results)) => return LinkEvent::Results(results),
                    Ok(None) => {}
                    Err(failure) => return self.down(failure),
                },
            }
        }
    }

    fn opened(&mut self, opened: Result<Streaming<pb::ProduceStreamResponse>, ApiError>) -> LinkEvent {
        match (std::mem::replace(self, Self::new()), opened) {
            (Self::Opening { requests, .. }, Ok(answers)) => {
                let heartbeat_at = Instant::now() + HEARTBEAT;
                *self = Self::Open(Box::new(Open { requests, answers, draining: false, heartbeat_at }));
                LinkEvent::Up
            }
            (_, Err(failure)) => self.down(failure),
            (_, Ok(_)) => self.down(closed()),
        }
    }

    fn down(&mut self, failure: ApiError) -> LinkEvent {
        *self = Self::Closed { until: Instant::now() + RETRY };
        LinkEvent::Down(failure)
    }

    /// Where requests go, while the stream takes any.
    pub(super) fn requests(&self) -> Option<mpsc::Sender<pb::ProduceStreamRequest>> {
        match self {
            Self::Open(open) if !open.draining => Some(open.requests.clone()),
            _ => None,
        }
    }
}

fn begin(client: Client, open: pb::ProduceOpen) -> Link {
    let (requests, stream) = mpsc::channel(QUEUE);
    let first = pb::ProduceStreamRequest { message: Some(Message::Open(open)) };
    let _ = requests.try_send(first);
    let opening =
        Box::pin(async move { Ok(client.producer().produce_stream(ReceiverStream::new(stream)).await?.into_inner()) });
    Link::Opening { requests, opening }
}

// === impl Open ===

impl Open {
    async fn next(&mut self) -> Result<Option<Vec<pb::ProduceResult>>, ApiError> {
        tokio::select! {
            answer = self.answers.message() => match answer?.ok_or_else(closed)?.message {
                Some(Reply::Results(results)) => Ok(Some(results.results)),
                Some(Reply::Drain(_)) => {
                    // What it has received is still answered; then the stream ends.
                    self.draining = true;
                    Ok(None)
                }
                Some(Reply::Opened(_) | Reply::Heartbeat(_)) | None => Ok(None),
            },
            () = tokio::time::sleep_until(self.heartbeat_at) => {
                self.heartbeat_at = Instant::now() + HEARTBEAT;
                let heartbeat = Some(Message::Heartbeat(pb::ClientHeartbeat {}));
                // A stream that takes nothing is not idle.
                let _ = self.requests.try_send(pb::ProduceStreamRequest { message: heartbeat });
                Ok(None)
            }
        }
    }
}
