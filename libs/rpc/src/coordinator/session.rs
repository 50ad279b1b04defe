//! The session of a gateway with a shard, from the gateway's end: requests that are answered, and notices.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use walser_group::{GatewayId, Notice, TokenKey};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::coordinator_service_client::CoordinatorServiceClient;
use walser_proto::internal::v1::member_session_response::Response;

use super::messages::{answer_of_response, notice_of_message, open_message, request_message};
use super::{MemberAnswer, MemberRequest};
use crate::{ApiError, Connection, Effect, Reason};

/// Requests that wait to be sent.
const REQUESTS_MAX: usize = 64;
/// Notices that wait to be taken.
const NOTICES_MAX: usize = 256;

/// An open session. Clones share it; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct CoordinatorSession {
    epoch: i64,
    token_key: TokenKey,
    requests: mpsc::Sender<pbi::MemberSessionRequest>,
    open: Arc<Mutex<Unanswered>>,
}

/// Something that the coordinator has said on a session.
#[derive(Debug)]
pub struct Said<T> {
    /// Counts what it says on the session: of two things about one member, the one with the higher number holds.
    pub number: u64,
    pub content: T,
}

/// An answer that is to come.
pub type Answering = oneshot::Receiver<Result<Said<MemberAnswer>, ApiError>>;

/// What the coordinator tells by itself.
#[derive(Debug)]
pub struct SessionNotices {
    notices: mpsc::Receiver<Said<Notice>>,
    open: Arc<Mutex<Unanswered>>,
}

#[derive(Debug, Default)]
struct Unanswered {
    last: i64,
    waiting: HashMap<i64, oneshot::Sender<Result<Said<MemberAnswer>, ApiError>>>,
    /// Why the session is over.
    ended: Option<ApiError>,
}

/// Opens a session.
pub(super) async fn open(
    mut calls: CoordinatorServiceClient<Connection>,
    shard: i32,
    gateway: &GatewayId,
) -> Result<(CoordinatorSession, SessionNotices), ApiError> {
    let (requests, sent) = mpsc::channel(REQUESTS_MAX);
    let first = open_message(shard, gateway, 1);
    requests.send(first).await.map_err(|_| over())?;
    let mut messages = calls.member_session(ReceiverStream::new(sent)).await?.into_inner();
    let opened = messages.message().await?.ok_or_else(over)?;
    if let Some(error) = opened.error {
        return Err(error.into());
    }
    let Some(Response::Opened(of)) = opened.response else { return Err(over()) };
    let token_key = <[u8; 32]>::try_from(&of.token_key[..]);
    let token_key = TokenKey(token_key.map_err(|_| ApiError::internal("the coordinator sent a key that is none"))?);
    let open = Arc::new(Mutex::new(Unanswered { last: 1, ..Unanswered::default() }));
    let (told, notices) = mpsc::channel(NOTICES_MAX);
    tokio::spawn(listen(messages, gateway.clone(), Arc::clone(&open), told));
    let session = CoordinatorSession { epoch: opened.epoch, token_key, requests, open: Arc::clone(&open) };
    Ok((session, SessionNotices { notices, open }))
}

fn over() -> ApiError {
    ApiError::new(Reason::CoordinatorNotAvailable, "the session with the coordinator is over; open another")
}

/// Takes what comes until the stream ends.
async fn listen(
    mut messages: Streaming<pbi::MemberSessionResponse>,
    gateway: GatewayId,
    open: Arc<Mutex<Unanswered>>,
    notices: mpsc::Sender<Said<Notice>>,
) {
    let mut number = 0;
    let why = loop {
        number += 1;
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => break over(),
            Err(status) => break ApiError::from(status),
        };
        let outcome = match (message.error, message.response) {
            (Some(error), _) => Err(error.into()),
            (None, Some(Response::Notice(notice))) => {
                let notice = match notice_of_message(notice, &gateway) {
                    Ok(notice) => notice,
                    Err(failure) => break failure,
                };
                if notices.send(Said { number, content: notice }).await.is_err() {
                    break over();
                }
                continue;
            }
            (None, Some(response)) => answer_of_response(response).map(|content| Said { number, content }),
            (None, None) => break ApiError::internal("the coordinator sent an empty message"),
        };
        let waits = open.lock().waiting.remove(&message.correlation_id);
        if let Some(waits) = waits {
            let _ = waits.send(outcome);
        }
    };
    let mut open = open.lock();
    open.ended = Some(why.clone());
    for (_, waits) in open.waiting.drain() {
        let _ = waits.send(Err(why.clone().with_effect(Effect::Maybe)));
    }
}

// === impl CoordinatorSession ===

impl CoordinatorSession {
    /// The term of the shard.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// What signs the tokens of the members of the shard.
    pub fn token_key(&self) -> TokenKey {
        self.token_key
    }

    /// Whether the session is over, and another one has to be opened.
    pub fn is_over(&self) -> bool {
        self.open.lock().ended.is_some()
    }

    /// Asks, and waits for the answer. Requests of one caller arrive in the order in which it awaits
    /// [`CoordinatorSession::send`].
    ///
    /// # Errors
    /// As the coordinator refuses; `COORDINATOR_NOT_AVAILABLE` with effect MAYBE when the session has ended meanwhile.
    pub async fn ask(&self, request: MemberRequest) -> Result<Said<MemberAnswer>, ApiError> {
        let answer = self.send(request).await?;
        answer.await.unwrap_or_else(|_| Err(over().with_effect(Effect::Maybe)))
    }

    /// Hands over a request; the answer comes later. Waits while the coordinator takes no more.
    ///
    /// # Errors
    /// The session is over, and nothing was sent.
    pub async fn send(&self, request: MemberRequest) -> Result<Answering, ApiError> {
        let room = self.requests.reserve().await.map_err(|_| self.ended())?;
        let (told, answer) = oneshot::channel();
        let number = {
            let mut open = self.open.lock();
            if let Some(ended) = &open.ended {
                return Err(ended.clone());
            }
            open.last += 1;
            let number = open.last;
            open.waiting.insert(number, told);
            number
        };
        room.send(request_message(self.epoch, number, request));
        Ok(answer)
    }

    fn ended(&self) -> ApiError {
        self.open.lock().ended.clone().unwrap_or_else(over)
    }
}

// === impl SessionNotices ===

impl SessionNotices {
    /// The next notice.
    ///
    /// # Errors
    /// Why the session is over.
    pub async fn next(&mut self) -> Result<Said<Notice>, ApiError> {
        let notice = self.notices.recv().await;
        notice.ok_or_else(|| self.open.lock().ended.clone().unwrap_or_else(over))
    }
}
