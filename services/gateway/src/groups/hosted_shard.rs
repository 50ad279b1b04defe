//! The session of this gateway with one shard of groups: opened with its first member, opened again whenever it breaks,
//! and kept alive for all of them.

mod expected;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use walser_group::{
    AttachmentNumber, CurrentAssignment, GatewayId, GroupId, MemberId, Notice, NoticeContent, RemovalCause, TokenKey,
};
use walser_rpc::{
    ApiError, CoordinatorClient, CoordinatorSession, Effect, MemberAnswer, MemberRequest, Network, Reason, Said,
    SessionNotices,
};

use super::doubts::{Doubts, Leftover};
use crate::metadata::Metadata;
use crate::retry::Backoff;

/// Time between two signs of life. The shortest session timeout is six times as long.
const ALIVE: Duration = Duration::from_secs(1);
/// Of so many signs of life, one names the members. So do the first ones of a session, and those behind a doubt: a
/// coordinator that has just taken the shard over, or has just let the member in, believes the first one for a moment only
/// where it says that a member is there.
const REPORT_EVERY: u32 = 10;
const REPORTS_FIRST: u32 = 3;
/// A session without members is kept for this long.
const IDLE: Duration = Duration::from_secs(30);
/// How long a shard may take to open a session, or to answer a sign of life, before another session is tried.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A place among all that the coordinator has said: sessions count up, and so does what is said on each.
pub(super) type SaidAt = (u64, u64);

/// What a member has been told last.
#[derive(Debug, Clone, Default)]
pub(super) struct MemberNews {
    /// What it holds, and when that was said to which attachment.
    pub(super) current: Option<(SaidAt, AttachmentNumber, CurrentAssignment)>,
    /// This attachment of it is gone.
    pub(super) removed: Option<(AttachmentNumber, RemovalCause)>,
    /// The member has attached anew, and this attachment of it is over.
    pub(super) superseded: Option<AttachmentNumber>,
    /// The number of the session: notices of those before may be lost.
    pub(super) session: u64,
}

/// A session, or why there is none.
#[derive(Debug, Clone)]
enum SessionState {
    None(Option<ApiError>),
    Open(u64, CoordinatorSession),
}

/// By member. One that attaches here again takes the place of its entry before, whose stream then hears of nothing any more.
type Members = HashMap<(GroupId, MemberId), Hosted>;

/// Where a member hears.
#[derive(Debug)]
struct Hosted {
    /// Of the entry.
    number: u64,
    /// What it attached as; 0: it is joining.
    attachment: AttachmentNumber,
    news: watch::Sender<MemberNews>,
}

/// A member that is known here.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) news: watch::Receiver<MemberNews>,
    shard: Arc<HostedShard>,
    key: (GroupId, MemberId),
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut members = self.shard.members.lock();
        if members.get(&self.key).is_some_and(|hosted| hosted.number == self.number) {
            members.remove(&self.key);
        }
    }
}

/// A question on its way: it needs a session.
struct Asking<'a> {
    shard: &'a HostedShard,
    /// If it gets no answer.
    leftover: Leftover,
}

impl<'a> Asking<'a> {
    fn new(shard: &'a HostedShard, request: &MemberRequest) -> Self {
        shard.asking.fetch_add(1, Ordering::SeqCst);
        shard.wake_without_session();
        Self { shard, leftover: Leftover::of(request) }
    }

    fn sent(&mut self) {
        if self.leftover == Leftover::MemberIfSent {
            self.leftover = Leftover::Member;
        }
    }

    fn answered(mut self) {
        self.leftover = Leftover::Nothing;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.leftover == Leftover::Member {
            self.shard.doubts.add();
            self.shard.wake_without_session();
        }
        self.shard.asking.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The members that this gateway has in one shard.
#[derive(Debug)]
pub(super) struct HostedShard {
    number: i32,
    gateway: GatewayId,
    session: watch::Sender<SessionState>,
    members: Mutex<Members>,
    /// Members that ask to attach here, and how often each.
    expected: Mutex<BTreeMap<(GroupId, MemberId), usize>>,
    /// Counts entries, and questions that found no session.
    entered: watch::Sender<u64>,
    /// Questions without an answer: a member that comes back asks before it is known here.
    asking: AtomicUsize,
    doubts: Doubts,
    /// When what was answered last was asked.
    heard: watch::Sender<Option<Instant>>,
}

impl HostedShard {
    pub(super) fn new(number: i32, gateway: GatewayId) -> Self {
        let session = watch::Sender::new(SessionState::None(None));
        let (entered, heard) = (watch::Sender::new(0), watch::Sender::new(None));
        let (members, expected) = (Mutex::default(), Mutex::default());
        let (asking, doubts) = (AtomicUsize::new(0), Doubts::default());
        Self { number, gateway, session, members, expected, entered, asking, doubts, heard }
    }

    /// Has a session opened where there is none.
    fn wake_without_session(&self) {
        if !matches!(&*self.session.borrow(), SessionState::Open(..)) {
            self.entered.send_modify(|number| *number += 1);
        }
    }

    /// Makes a member known, before it joins, or once it is attached: reports name it from here on, until the entry is
    /// dropped. `None`: it has attached here with a higher number meanwhile.
    pub(super) fn enter(
        self: &Arc<Self>,
        (group, member): (&GroupId, &MemberId),
        attachment: AttachmentNumber,
    ) -> Option<Entry> {
        let session = match &*self.session.borrow() {
            SessionState::Open(number, _) => *number,
            SessionState::None(_) => 0,
        };
        let sender = watch::Sender::new(MemberNews { session, ..MemberNews::default() });
        let (news, key) = (sender.subscribe(), (group.clone(), member.clone()));
        let mut members = self.members.lock();
        if members.get(&key).is_some_and(|hosted| hosted.attachment > attachment) {
            return None;
        }
        let number = *self.entered.borrow() + 1;
        members.insert(key.clone(), Hosted { number, attachment, news: sender });
        self.entered.send_replace(number);
        drop(members);
        Some(Entry { news, shard: Arc::clone(self), key, number })
    }

    /// Members that are known here.
    pub(super) fn member_count(&self) -> usize {
        self.members.lock().len()
    }

    /// When what the coordinator has answered last was asked; `None`: it has not answered yet.
    pub(super) fn heard(&self) -> watch::Receiver<Option<Instant>> {
        self.heard.subscribe()
    }

    /// Asks for a member what may be asked again when the session breaks, until `until`. Returns when it was answered.
    ///
    /// # Errors
    /// As the coordinator refuses; why it does not answer.
    pub(super) async fn ask(&self, request: MemberRequest, until: Instant) -> Result<(SaidAt, MemberAnswer), ApiError> {
        let mut sessions = self.session.subscribe();
        let mut asking = Asking::new(self, &request);
        loop {
            let (number, session) = Self::opened(&mut sessions, until).await?;
            asking.sent();
            let sent_at = Instant::now();
            let over = |state: &SessionState| !matches!(state, SessionState::Open(open, _) if *open == number);
            let answer = tokio::select! {
                answer = tokio::time::timeout_at(until, session.ask(request.clone())) => answer,
                // It is asked again there where the group has moved: the one before may be cut off, and answer nothing.
                _ = sessions.wait_for(over) => continue,
            };
            match answer {
                Ok(Ok(Said { number: said, content })) => {
                    self.hear(sent_at);
                    asking.answered();
                    return Ok(((number, said), content));
                }
                Ok(Err(failure)) if session_lost(&failure) => {
                    if tokio::time::timeout_at(until, sessions.wait_for(over)).await.is_err() {
                        return Err(failure);
                    }
                }
                Ok(Err(failure)) => {
                    if failure.effect() == Effect::None {
                        asking.answered();
                    }
                    return Err(failure);
                }
                Err(_elapsed) => return Err(silent().with_effect(Effect::Maybe)),
            }
        }
    }

    /// What signs the tokens of the members of the shard.
    ///
    /// # Errors
    /// No coordinator has answered until `until`.
    pub(super) async fn token_key(&self, until: Instant) -> Result<TokenKey, ApiError> {
        // It asks for nothing but a session.
        let _asking = Asking::new(self, &MemberRequest::Alive);
        Ok(Self::opened(&mut self.session.subscribe(), until).await?.1.token_key())
    }

    async fn opened(
        sessions: &mut watch::Receiver<SessionState>,
        until: Instant,
    ) -> Result<(u64, CoordinatorSession), ApiError> {
        let open = |state: &SessionState| matches!(state, SessionState::Open(..));
        if let Ok(Ok(state)) = tokio::time::timeout_at(until, sessions.wait_for(open)).await
            && let SessionState::Open(number, session) = &*state
        {
            return Ok((*number, session.clone()));
        }
        match &*sessions.borrow() {
            SessionState::Open(number, session) => Ok((*number, session.clone())),
            SessionState::None(why) => Err(why.clone().unwrap_or_else(silent)),
        }
    }

    /// Whether no session is needed.
    fn is_idle(&self) -> bool {
        self.asking.load(Ordering::SeqCst) == 0 && self.doubts.is_empty() && self.members.lock().is_empty()
    }

    /// Keeps a session with whichever coordinator has the shard while there are members, or something is asked, for ever.
    pub(super) async fn keep(self: Arc<Self>, network: Network, metadata: Metadata) {
        let (mut backoff, mut number) = (Backoff::default(), 0);
        let mut entered = self.entered.subscribe();
        loop {
            while self.is_idle() {
                if entered.changed().await.is_err() {
                    return;
                }
            }
            let owner = self.owner(&metadata);
            let failure = match self.open(&network).await {
                Ok((session, notices)) => {
                    backoff = Backoff::default();
                    number += 1;
                    let ended = tokio::select! {
                        ended = self.serve(number, session, notices) => ended,
                        () = self.moved(&metadata, owner) => Err(moved()),
                    };
                    let Err(failure) = ended else {
                        self.session.send_replace(SessionState::None(None));
                        continue;
                    };
                    failure
                }
                Err(failure) => failure,
            };
            tracing::debug!(shard = self.number, %failure, "no session with a shard of groups");
            self.session.send_replace(SessionState::None(Some(failure)));
            tokio::select! {
                () = backoff.pause() => {}
                () = self.moved(&metadata, owner) => backoff = Backoff::default(),
            }
        }
    }

    /// The epoch in which the shard is given to its coordinator; `None`: it is given to none.
    fn owner(&self, metadata: &Metadata) -> Option<i64> {
        metadata.view().group_shard(self.number).map(|given| given.value.epoch)
    }

    /// Waits until the shard is given to another coordinator than in `owner`.
    async fn moved(&self, metadata: &Metadata, owner: Option<i64>) {
        let mut changes = metadata.changes();
        while self.owner(metadata) == owner {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn open(&self, network: &Network) -> Result<(CoordinatorSession, SessionNotices), ApiError> {
        let coordinator = CoordinatorClient::new(network.coordinator(self.number).ok_or_else(without_coordinator)?);
        let opened = tokio::time::timeout(ANSWER_MAX, coordinator.open_session(self.number, &self.gateway)).await;
        opened.unwrap_or_else(|_elapsed| Err(silent()))
    }

    /// Serves a session until it breaks; `Ok`: it is not needed any more.
    async fn serve(
        &self,
        number: u64,
        session: CoordinatorSession,
        mut notices: SessionNotices,
    ) -> Result<(), ApiError> {
        self.session.send_replace(SessionState::Open(number, session.clone()));
        self.members.lock().values().for_each(|hosted| hosted.news.send_modify(|news| news.session = number));
        let mut ticks = tokio::time::interval(ALIVE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut signs, mut idle_since) = (0_u32, None::<Instant>);
        let (mut doubt, mut reports) = (self.doubts.last(), 0);
        loop {
            tokio::select! {
                notice = notices.next() => self.tell(number, notice?),
                _ = ticks.tick() => {
                    if !self.is_idle() {
                        idle_since = None;
                    } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= IDLE {
                        return Ok(());
                    }
                    let last = self.doubts.last();
                    if last != doubt {
                        (doubt, reports) = (last, 0);
                    }
                    // Also without members: the coordinator may believe that there is one.
                    if reports < REPORTS_FIRST || signs % REPORT_EVERY == 0 {
                        self.give_sign(number, &session, &mut notices, self.report()).await?;
                        reports += 1;
                    } else {
                        self.give_sign(number, &session, &mut notices, MemberRequest::Alive).await?;
                    }
                    if reports >= REPORTS_FIRST {
                        self.doubts.settle(doubt);
                    }
                    signs += 1;
                }
            }
        }
    }

    /// Gives a sign of life, and passes notices on until it is answered.
    async fn give_sign(
        &self,
        number: u64,
        session: &CoordinatorSession,
        notices: &mut SessionNotices,
        request: MemberRequest,
    ) -> Result<(), ApiError> {
        let sent_at = Instant::now();
        let mut answer = std::pin::pin!(tokio::time::timeout(ANSWER_MAX, session.ask(request)));
        loop {
            tokio::select! {
                notice = notices.next() => self.tell(number, notice?),
                answered = &mut answer => {
                    answered.map_err(|_elapsed| silent())??;
                    self.hear(sent_at);
                    return Ok(());
                }
            }
        }
    }

    fn report(&self) -> MemberRequest {
        // In this order: a member is known before it is expected no more.
        let mut named: BTreeSet<_> = self.expected.lock().keys().cloned().collect();
        named.extend(self.members.lock().keys().cloned());
        MemberRequest::Report(named)
    }

    fn hear(&self, asked_at: Instant) {
        self.heard.send_if_modified(|heard| {
            let news = heard.is_none_or(|heard| heard < asked_at);
            if news {
                *heard = Some(asked_at);
            }
            news
        });
    }

    fn tell(&self, session: u64, notice: Said<Notice>) {
        let Said { number, content: notice } = notice;
        let members = self.members.lock();
        let Some(hosted) = members.get(&(notice.group, notice.member)) else { return };
        hosted.news.send_modify(|news| match notice.content {
            NoticeContent::Assignment(current) => news.current = Some(((session, number), notice.attachment, current)),
            NoticeContent::Removed(cause) => news.removed = Some((notice.attachment, cause)),
            NoticeContent::Superseded => news.superseded = Some(notice.attachment),
        });
    }
}

pub(super) fn silent() -> ApiError {
    ApiError::new(Reason::CoordinatorNotAvailable, "the group coordinator does not answer; it is asked again")
}

fn moved() -> ApiError {
    ApiError::new(Reason::CoordinatorNotAvailable, "the group moves to another coordinator; it is asked there")
}

pub(super) fn without_coordinator() -> ApiError {
    let text = "the group has no coordinator yet: none is running, or no controller has heard of one; start one (walser \
                group-coordinator)";
    ApiError::new(Reason::CoordinatorNotAvailable, text)
}

/// Whether the session is over, and what was asked on it has to be asked on another one. Not where the topic of
/// groups cannot be created for a reason that does not pass by itself (`topic` names it): whoever asks is to hear that.
pub(super) fn session_lost(failure: &ApiError) -> bool {
    let lost = matches!(failure.reason(), Reason::CoordinatorNotAvailable | Reason::StaleEpoch);
    (lost && failure.value("topic").is_none()) || !failure.answered()
}

#[cfg(test)]
mod tests;
