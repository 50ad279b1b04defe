//! The stream of a member to its gateway: one at a time, opened again after it broke.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use walser_proto::v1 as pb;
use walser_proto::v1::consume_request::Message;
use walser_rpc::{ApiError, Reason};

use crate::connection::Client;

/// Pause before the server is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// Requests between the reader and its connection.
const QUEUE: usize = 16;
/// Proxies close a stream on which the client is silent for long.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The least time that a server may take for a join: coordinators of groups load their log first.
const JOIN_MIN: Duration = Duration::from_secs(10);

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<pb::ConsumeResponse>, ApiError>> + Send>>;

/// What happens on a link.
pub(super) enum GroupLinkEvent {
    /// The stream is open; the server has not let the member in yet.
    Opened,
    /// Every request is on its way.
    Sent,
    Received(pb::ConsumeResponse),
    /// The stream has ended with OK.
    Ended,
    /// It is over, or could not be opened.
    Down(ApiError),
}

/// The stream, in whatever state it is.
pub(super) enum GroupLink {
    Closed { until: Instant },
    Opening { requests: mpsc::Sender<pb::ConsumeRequest>, opening: Opening, until: Instant },
    Open(Box<OpenStream>),
}

/// An open stream.
pub(super) struct OpenStream {
    /// `None`: it is half-closed.
    requests: Option<mpsc::Sender<pb::ConsumeRequest>>,
    responses: Streaming<pb::ConsumeResponse>,
    /// Until when the server has to let the member in; `None`: it has.
    join_until: Option<Instant>,
    heartbeat_at: Instant,
}

pub(super) fn closed() -> ApiError {
    ApiError::new(Reason::LeaderNotAvailable, "the stream of the group member was closed")
}

/// The failure of a server that is connected and does not answer.
fn silent() -> ApiError {
    ApiError::new(Reason::RequestTimedOut, "the server has not answered the join in time")
}

impl fmt::Debug for GroupLink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Closed { .. } => "Closed",
            Self::Opening { .. } => "Opening",
            Self::Open(_) => "Open",
        })
    }
}

// === impl GroupLink ===

impl GroupLink {
    /// A link that is opened at once.
    pub(super) fn new() -> Self {
        Self::Closed { until: Instant::now() }
    }

    /// Whether requests can be sent, or answers are to come.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Whether the server has let the member in.
    pub(super) fn is_joined(&self) -> bool {
        matches!(self, Self::Open(open) if open.join_until.is_none())
    }

    /// Waits for what happens next, and sends requests meanwhile. A join is waited for until `until`, and for
    /// [`JOIN_MIN`] at least. Dropping the future loses nothing.
    pub(super) async fn next(
        &mut self,
        client: &Client,
        join: &pb::ConsumeJoin,
        until: Instant,
        requests: &mut VecDeque<pb::ConsumeRequest>,
    ) -> GroupLinkEvent {
        if let Self::Closed { until: pause } = self {
            tokio::time::sleep_until(*pause).await;
            *self = begin(client.clone(), join.clone(), until.max(Instant::now() + JOIN_MIN));
        }
        match self {
            Self::Closed { until } => {
                // Not reached: it was begun above.
                tokio::time::sleep_until(*until).await;
                GroupLinkEvent::Down(closed())
            }
            Self::Opening { opening, until, .. } => {
                let opened = tokio::time::timeout_at(*until, opening.as_mut()).await;
                self.opened(opened.unwrap_or_else(|_elapsed| Err(silent())))
            }
            Self::Open(open) => {
                let happened = open.next(requests).await;
                if matches!(happened, GroupLinkEvent::Ended | GroupLinkEvent::Down(_)) {
                    self.close();
                }
                happened
            }
        }
    }

    fn opened(&mut self, opened: Result<Streaming<pb::ConsumeResponse>, ApiError>) -> GroupLinkEvent {
        match (std::mem::replace(self, Self::new()), opened) {
            (Self::Opening { requests, until, .. }, Ok(responses)) => {
                let heartbeat_at = Instant::now() + HEARTBEAT;
                let (requests, join_until) = (Some(requests), Some(until));
                *self = Self::Open(Box::new(OpenStream { requests, responses, join_until, heartbeat_at }));
                GroupLinkEvent::Opened
            }
            (_, opened) => {
                self.close();
                GroupLinkEvent::Down(opened.err().unwrap_or_else(closed))
            }
        }
    }

    fn close(&mut self) {
        *self = Self::Closed { until: Instant::now() + RETRY };
    }

    /// Notes that the server has let the member in: requests are sent from now on.
    pub(super) fn joined(&mut self) {
        if let Self::Open(open) = self {
            open.join_until = None;
        }
    }

    /// Sends what can be sent without waiting.
    pub(super) fn flush(&mut self, queue: &mut VecDeque<pb::ConsumeRequest>) {
        let Self::Open(open) = self else { return };
        let Some(requests) = open.requests.as_ref().filter(|_| open.join_until.is_none()) else { return };
        while !queue.is_empty() {
            let Ok(permit) = requests.try_reserve() else { return };
            let Some(request) = queue.pop_front() else { return };
            permit.send(request);
            open.heartbeat_at = Instant::now() + HEARTBEAT;
        }
    }

    /// Sends nothing any more, which says that the member leaves.
    pub(super) fn half_close(&mut self) {
        if let Self::Open(open) = self {
            open.requests = None;
        }
    }
}

fn begin(client: Client, join: pb::ConsumeJoin, until: Instant) -> GroupLink {
    let (requests, stream) = mpsc::channel(QUEUE);
    let _ = requests.try_send(pb::ConsumeRequest { message: Some(Message::Join(join)) });
    let opening = Box::pin(async move { Ok(client.groups().consume(ReceiverStream::new(stream)).await?.into_inner()) });
    GroupLink::Opening { requests, opening, until }
}

// === impl OpenStream ===

impl OpenStream {
    async fn next(&mut self, queue: &mut VecDeque<pb::ConsumeRequest>) -> GroupLinkEvent {
        let Self { requests, responses, join_until, heartbeat_at } = self;
        let joining = join_until.is_some();
        loop {
            tokio::select! {
                // Commits go before more records are taken.
                biased;
                permit = room(requests.as_ref()), if !joining && !queue.is_empty() => {
                    if let Some(request) = queue.pop_front() {
                        permit.send(request);
                        *heartbeat_at = Instant::now() + HEARTBEAT;
                    }
                    if queue.is_empty() {
                        return GroupLinkEvent::Sent;
                    }
                }
                () = tokio::time::sleep_until(*heartbeat_at) => {
                    *heartbeat_at = Instant::now() + HEARTBEAT;
                    let heartbeat = Some(Message::Heartbeat(pb::ClientHeartbeat {}));
                    // A stream that takes nothing is not idle.
                    if let Some(requests) = requests.as_ref() {
                        let _ = requests.try_send(pb::ConsumeRequest { message: heartbeat });
                    }
                }
                message = responses.message() => return match message {
                    Ok(Some(message)) => GroupLinkEvent::Received(message),
                    Ok(None) => GroupLinkEvent::Ended,
                    Err(status) => GroupLinkEvent::Down(status.into()),
                },
                () = tokio::time::sleep_until(join_until.unwrap_or(*heartbeat_at)), if joining => {
                    return GroupLinkEvent::Down(silent());
                }
            }
        }
    }
}

/// Waits for room between the reader and the connection. A stream that takes nothing more says why with its end.
async fn room(requests: Option<&mpsc::Sender<pb::ConsumeRequest>>) -> mpsc::Permit<'_, pb::ConsumeRequest> {
    match requests {
        Some(requests) => match requests.reserve().await {
            Ok(permit) => permit,
            Err(_closed) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
