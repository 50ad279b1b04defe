//! One member of a group, as its gateway plays it towards the coordinator.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use walser_group::{
    AssignedPartitions, Attach, Attached, AttachmentNumber, Commit, CommitAuthor, CommittedOffset, CurrentAssignment,
    DetachGrace, GatewayId, GroupEpoch, MemberRef, OffsetToCommit, RemovalCause, TokenKey,
};
use walser_model::TopicPartition;
use walser_rpc::{ApiError, MemberAnswer, MemberRequest, MemberToken, Reason};

use super::hosted_shard::{Entry, HostedShard, MemberNews, SaidAt};
use super::request::JoinRequest;
use super::{Groups, unique};

/// How long a join, and an offset that is looked up, waits for a coordinator.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a commit waits for a coordinator that moves.
const COMMIT_PATIENCE: Duration = Duration::from_secs(30);
/// How long the last word of a member waits.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// What a member holds, as of a word of the coordinator.
pub(super) type HeldAt = (SaidAt, CurrentAssignment);

/// A member that is attached to this gateway. What it asks for others goes through clones of [`MemberCalls`].
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) calls: MemberCalls,
    /// Signs its token.
    key: TokenKey,
    entry: Entry,
    /// As the member joined.
    pub(super) session_timeout: Duration,
    pub(super) heard: watch::Receiver<Option<Instant>>,
}

/// What a member asks of the coordinator.
#[derive(Debug, Clone)]
pub(super) struct MemberCalls {
    shard: Arc<HostedShard>,
    of: MemberRef,
}

impl Groups {
    /// As [`Groups::join`]. A caller that is gone before its member is attached leaves none behind.
    pub(super) async fn join_whole(&self, asked: JoinRequest) -> Result<(Membership, HeldAt), ApiError> {
        let (done, joined) = oneshot::channel();
        let groups = self.clone();
        tokio::spawn(async move {
            if let Err(Ok((membership, _))) = done.send(groups.join(&asked).await) {
                membership.calls.clone().detach(DetachGrace::Brief).await;
            }
        });
        joined.await.unwrap_or_else(|_| Err(ApiError::internal("joining met a bug of the server")))
    }

    /// Attaches the member of the token, or, where it has none or its member is gone, joins as a new one.
    async fn join(&self, asked: &JoinRequest) -> Result<(Membership, HeldAt), ApiError> {
        let shard = self.shard(&asked.group)?;
        let until = Instant::now() + PATIENCE;
        let key = shard.token_key(until).await?;
        if let Some(sealed) = asked.token.clone() {
            if *sealed.group() != asked.group {
                let text = format!("is of a member of another group, \"{}\"", sealed.group());
                return Err(ApiError::field("join.resume_token", text));
            }
            let of = sealed.open(&key)?.member;
            match attach(&shard, (of, key), asked, &self.gateway, until).await {
                Err(failure) if is_no_member(&failure) => {}
                outcome => return outcome,
            }
        }
        if asked.subscription.topics.is_empty() && asked.subscription.pattern.is_none() {
            return Err(ApiError::field("join", "names nothing to read; set topics or topic_pattern"));
        }
        let member = unique(&*self.random).parse().expect("a UUID is a name");
        // Known before it joins, so that a report does not leave it out.
        let entry = shard.enter((&asked.group, &member), AttachmentNumber(0)).ok_or_else(replaced)?;
        let join = asked.join(member.clone(), Some(self.gateway.clone()));
        let (said, answer) = shard.ask(MemberRequest::Join(Box::new(join)), until).await?;
        let Attached { attachment, current, session_timeout } = attached(answer)?;
        let of = MemberRef { group: asked.group.clone(), member, instance: asked.instance.clone(), attachment };
        Ok((Membership::new(shard, (of, session_timeout, key), entry), (said, current)))
    }
}

async fn attach(
    shard: &Arc<HostedShard>,
    (of, key): (MemberRef, TokenKey),
    asked: &JoinRequest,
    gateway: &GatewayId,
    until: Instant,
) -> Result<(Membership, HeldAt), ApiError> {
    let named = !asked.subscription.topics.is_empty() || asked.subscription.pattern.is_some();
    let subscription = named.then(|| asked.subscription.clone());
    let revocation_timeout = Some(asked.revocation_timeout());
    let attach = Attach { member: of.clone(), subscription, revocation_timeout, gateway: Some(gateway.clone()) };
    let (said, attached, entry) = shard.attach(attach, until).await?;
    let Attached { attachment, current, session_timeout } = attached;
    let of = MemberRef { attachment, ..of };
    Ok((Membership::new(Arc::clone(shard), (of, session_timeout, key), entry), (said, current)))
}

pub(super) fn attached(answer: MemberAnswer) -> Result<Attached, ApiError> {
    match answer {
        MemberAnswer::Attached(attached) => Ok(attached),
        _ => Err(unexpected()),
    }
}

/// The member goes on elsewhere.
pub(super) fn replaced() -> ApiError {
    ApiError::new(
        Reason::MemberFenced,
        "the token of the member was used again: for another stream, a poll, or to leave",
    )
}

fn unexpected() -> ApiError {
    ApiError::internal("the group coordinator gave the answer to something else")
}

/// Whether the member, or its group, is no more.
pub(super) fn is_no_member(failure: &ApiError) -> bool {
    matches!(failure.reason(), Reason::SessionExpired | Reason::GroupNotFound)
}

/// Whether the member is no more, or is attached elsewhere.
pub(super) fn is_gone(failure: &ApiError) -> bool {
    is_no_member(failure) || matches!(failure.reason(), Reason::MemberFenced | Reason::InstanceFenced)
}

// === impl Membership ===

impl Membership {
    fn new(shard: Arc<HostedShard>, (of, session_timeout, key): (MemberRef, Duration, TokenKey), entry: Entry) -> Self {
        let heard = shard.heard();
        Self { calls: MemberCalls::new(shard, of), key, entry, session_timeout, heard }
    }

    /// The token with which the member comes back.
    pub(super) fn token(&self) -> String {
        let token = MemberToken { member: self.calls.of.clone(), poll: None };
        token.seal(&self.key).expect("names alone are far below the limit")
    }

    /// Waits for news.
    ///
    /// # Errors
    /// The member has attached to this gateway again, on another stream.
    pub(super) async fn changed(&mut self) -> Result<(), ApiError> {
        self.entry.news.changed().await.map_err(|_| replaced())
    }

    /// What the member has been told last.
    pub(super) fn news(&mut self) -> MemberNews {
        let mut news = self.entry.news.borrow_and_update().clone();
        let own = self.calls.of.attachment;
        news.current.take_if(|(_, attachment, _)| *attachment != own);
        news.removed.take_if(|(attachment, _)| *attachment != own);
        news.superseded.take_if(|attachment| *attachment != own);
        news
    }

    /// The number of the session on which it is told.
    pub(super) fn session(&self) -> u64 {
        self.entry.news.borrow().session
    }

    /// Its id.
    pub(super) fn id(&self) -> String {
        self.calls.of.member.to_string()
    }
}

// === impl MemberCalls ===

impl MemberCalls {
    pub(super) fn new(shard: Arc<HostedShard>, of: MemberRef) -> Self {
        Self { shard, of }
    }

    /// What the member holds.
    pub(super) async fn heartbeat(self) -> Result<HeldAt, ApiError> {
        let request = MemberRequest::Heartbeat(self.of.clone());
        held(self.shard.ask(request, Instant::now() + PATIENCE).await?)
    }

    /// Lets partitions go. Returns what the member holds then.
    pub(super) async fn release(self, released: AssignedPartitions) -> Result<HeldAt, ApiError> {
        let request = MemberRequest::Release { member: self.of.clone(), released };
        held(self.shard.ask(request, Instant::now() + COMMIT_PATIENCE).await?)
    }

    /// The committed offsets of partitions, in their order.
    pub(super) async fn offsets(
        self,
        partitions: Vec<TopicPartition>,
    ) -> Result<Vec<(TopicPartition, Option<CommittedOffset>)>, ApiError> {
        let request = MemberRequest::Offsets { group: self.of.group.clone(), partitions };
        match self.shard.ask(request, Instant::now() + PATIENCE).await?.1 {
            MemberAnswer::Offsets(found) => Ok(found),
            _ => Err(unexpected()),
        }
    }

    /// Commits offsets of partitions that were assigned by `epoch`. Returns those that were refused. At most one commit of
    /// the member is under way, so that one that is repeated cannot overtake a later one.
    pub(super) async fn commit(
        self,
        (epoch, sequence): (GroupEpoch, i64),
        offsets: Vec<OffsetToCommit>,
    ) -> Result<Vec<(TopicPartition, ApiError)>, ApiError> {
        let author = Some(CommitAuthor { member: self.of.clone(), epoch, sequence });
        let commit = Commit { author, group: self.of.group.clone(), offsets };
        match self.shard.ask(MemberRequest::Commit(commit), Instant::now() + COMMIT_PATIENCE).await?.1 {
            MemberAnswer::Committed(refused) => Ok(refused),
            _ => Err(unexpected()),
        }
    }

    /// The stream is closed, and the member may come back.
    pub(super) async fn detach(self, grace: DetachGrace) {
        let request = MemberRequest::Detach { member: self.of.clone(), grace };
        self.last_word(request).await;
    }

    /// The member leaves.
    pub(super) async fn leave(self, cause: RemovalCause, keep_static_assignment: bool) {
        let request = MemberRequest::Leave { member: self.of.clone(), cause, keep_static_assignment };
        self.last_word(request).await;
    }

    /// What is not heard is found out by the reports that follow.
    async fn last_word(&self, request: MemberRequest) {
        if let Err(failure) = self.shard.ask(request, Instant::now() + LAST_PATIENCE).await {
            tracing::debug!(member = %self.of.member, %failure, "the last word of a member was not taken");
        }
    }
}

fn held((said, answer): (SaidAt, MemberAnswer)) -> Result<HeldAt, ApiError> {
    match answer {
        MemberAnswer::Assignment(current) => Ok((said, current)),
        _ => Err(unexpected()),
    }
}
