//! `MemberSession`: the members of one gateway in one shard.

use std::sync::Arc;

use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use walser_group::{GatewayId, TokenKey};
use walser_proto::internal::v1 as pbi;
use walser_rpc::{
    ApiError, MemberRequest, member_answer_message, member_notice_message, member_request_of_message,
    session_open_of_message, session_opened_message,
};

use super::Api;
use crate::call::not_available;
use crate::outbox::{Outbox, Outgoing};
use crate::requests::{check_shard, handle};
use crate::shard::ShardHandle;

type Requests = Streaming<pbi::MemberSessionRequest>;
type Sender = mpsc::Sender<Result<pbi::MemberSessionResponse, Status>>;

/// A session that is open.
struct Session {
    number: i32,
    shard: ShardHandle,
    gateway: GatewayId,
    term: i64,
    outbox: OpenOutbox,
}

/// Takes what is to be sent, until it is dropped: the shard forgets whom it belonged to then.
struct OpenOutbox(Outbox<pbi::MemberSessionResponse>);

/// Serves a session to its end.
pub(super) async fn serve(api: Api, mut requests: Requests, sender: Sender) {
    let ended = tokio::select! {
        ended = run(&api, &mut requests, &sender) => ended,
        () = api.stopping.wait() => Err(not_available("stops here")),
    };
    if let Err(failure) = ended {
        let _ = sender.send(Err(failure.into())).await;
    }
}

async fn run(api: &Api, requests: &mut Requests, sender: &Sender) -> Result<(), ApiError> {
    let Some(first) = requests.message().await? else { return Ok(()) };
    let (number, gateway) = session_open_of_message(&first)?;
    let shard = api.shard(number)?.clone();
    api.topic.ensure().await?;
    let outbox = OpenOutbox(Outbox::default());
    let term = shard.connect(gateway.clone(), Arc::new(outbox.0.clone())).await?;
    let fresh = TokenKey(api.fresh_key());
    let token_key = shard.ask(Some(term), move |shard, _, out| Ok(shard.token_key(fresh, out))).await?;
    let session = Session { number, shard, gateway, term, outbox };
    if sender.send(Ok(session_opened_message(term, first.correlation_id, &token_key))).await.is_err() {
        return Ok(());
    }
    tokio::select! {
        ended = session.read(requests) => ended,
        ended = session.write(sender) => ended,
    }
}

impl Drop for OpenOutbox {
    fn drop(&mut self) {
        self.0.close();
    }
}

// === impl Session ===

impl Session {
    /// Hands requests to the shard until the gateway has none any more.
    async fn read(&self, requests: &mut Requests) -> Result<(), ApiError> {
        while let Some(message) = requests.message().await? {
            let Some(permit) = self.outbox.0.admit(message.encoded_len()).await else { return Ok(()) };
            let (term, number, outbox) = (message.epoch, message.correlation_id, self.outbox.0.clone());
            let own = self.term;
            let done = move |answer| outbox.answer(permit, member_answer_message(own, number, answer));
            match self.request(message) {
                Ok(request) => {
                    let gateway = self.gateway.clone();
                    let handled = move |shard: &mut _, now, out: &mut _| handle(shard, now, out, (&gateway, request));
                    self.shard.submit(Some(term), handled, done).await;
                }
                Err(failure) => done(Err(failure)),
            }
        }
        Ok(())
    }

    fn request(&self, message: pbi::MemberSessionRequest) -> Result<MemberRequest, ApiError> {
        let request = member_request_of_message(message, &self.gateway)?;
        check_shard(self.number, &request).map(|()| request)
    }

    /// Sends answers and notices until the shard ends the session.
    async fn write(&self, sender: &Sender) -> Result<(), ApiError> {
        loop {
            let message = match self.outbox.0.next().await? {
                Outgoing::Answer(answer) => answer,
                Outgoing::Notice(notice) => member_notice_message(self.term, &notice),
            };
            if sender.send(Ok(message)).await.is_err() {
                return Ok(());
            }
        }
    }
}
