//! The stream of one member: what it holds is read and sent, what its client says is done, and what moves is let go.
//!
//! One task drives a stream. It never waits for one thing: what it asks of the coordinator is under way beside everything
//! else, at most one question of a kind, so that a commit does not wait for a read, nor a read for a commit; and what the
//! client does not take holds up nothing but its own records.
//!
//! `assignment` follows what the coordinator gives and takes, `requests` does what the client says, `outgoing` is the way
//! to the client, and `ending` lets everything go.

mod assignment;
mod ending;
mod event;
mod outgoing;
mod readers;
mod requests;
mod timing;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt as _};
use tokio::time::Instant;
use walser_group::{AssignedPartitions, CommittedOffset, CurrentAssignment};
use walser_model::TopicPartition;
use walser_rpc::{ApiError, SendGate, catch_panic};
use walser_service::StreamEnd;

use crate::reading::{Item, OpenPartitions, outlet};

use super::Groups;
use super::closings::OpenStream;
use super::commits::Commits;
use super::credit::Credit;
use super::holdings::Holdings;
use super::hosted_shard::SaidAt;
use super::membership::{HeldAt, Membership};
use super::request::{GroupRequest, JoinRequest};

use self::assignment::Revocation;
use self::ending::Ending;
use self::outgoing::Outgoing;
use self::timing::Timing;

pub(crate) use event::{Assigned, GroupEvent, RevocationCause};

/// What the client says after it has joined.
pub(crate) type Requests = Pin<Box<dyn Stream<Item = Result<GroupRequest, ApiError>> + Send>>;

/// What the coordinator has answered.
enum Answered {
    Heartbeat(Result<HeldAt, ApiError>),
    /// The committed offsets of partitions that were asked for.
    Offsets(AssignedPartitions, Result<Vec<(TopicPartition, Option<CommittedOffset>)>, ApiError>),
    Released(Result<HeldAt, ApiError>),
    Committed(Result<Vec<(TopicPartition, ApiError)>, ApiError>),
}

/// What is asked of the coordinator at present.
#[derive(Debug, Default)]
struct UnderWay {
    heartbeat: bool,
    offsets: bool,
    release: bool,
}

/// The driver of a stream.
struct GroupStream {
    groups: Groups,
    settings: JoinRequest,
    membership: Membership,
    requests: Requests,
    outgoing: Outgoing,
    open: OpenPartitions,
    end: StreamEnd,
    counted: OpenStream,
    holdings: Holdings,
    /// Partitions that the client does not know of yet.
    unannounced: BTreeSet<TopicPartition>,
    /// Partitions whose records could not be committed before they were sent.
    read_again: Vec<TopicPartition>,
    /// One of them whose place is not known yet.
    awaited: Option<TopicPartition>,
    /// What the member holds, and when that was said.
    current: CurrentAssignment,
    said: Option<SaidAt>,
    /// The session for which the member has been heard of.
    session: Option<u64>,
    revocations: BTreeMap<i64, Revocation>,
    last_revocation: i64,
    /// Partitions to let go, once no commit of them is under way.
    releasing: AssignedPartitions,
    /// What the coordinator was asked to take back.
    released: AssignedPartitions,
    commits: Commits,
    credit: Credit,
    work: FuturesUnordered<BoxFuture<'static, Answered>>,
    under_way: UnderWay,
    timing: Timing,
    /// The coordinator has not been heard for a session timeout.
    suspended: bool,
    all_caught_up: bool,
    ending: Option<Ending>,
}

impl Groups {
    /// Joins, and serves the member's stream until it ends. Errors of the join itself are answered at once.
    pub(crate) async fn consume(
        &self,
        settings: JoinRequest,
        requests: Requests,
        end: StreamEnd,
    ) -> Result<(impl Stream<Item = Item<GroupEvent>> + use<>, SendGate), ApiError> {
        let counted = self.closings.open();
        let (membership, held) = self.join_whole(settings.clone()).await?;
        let budget = self.reading.stream_budget();
        let open = OpenPartitions::new(&self.reading, settings.options, budget.clone());
        let (outlet, events, gate) = outlet(budget);
        let failing = outlet.failing();
        let mut driver = Box::new(GroupStream {
            groups: self.clone(),
            membership,
            requests,
            outgoing: Outgoing::new(outlet),
            open,
            end,
            counted,
            holdings: Holdings::default(),
            unannounced: BTreeSet::new(),
            awaited: None,
            read_again: Vec::new(),
            current: CurrentAssignment::default(),
            said: None,
            session: None,
            revocations: BTreeMap::new(),
            last_revocation: 0,
            releasing: AssignedPartitions::new(),
            released: AssignedPartitions::new(),
            commits: Commits::default(),
            credit: Credit::new(settings.credit),
            work: FuturesUnordered::new(),
            under_way: UnderWay::default(),
            timing: Timing::new(settings.processing_timeout, self.reading.heartbeats().delay()),
            suspended: false,
            all_caught_up: false,
            ending: None,
            settings,
        });
        driver.outgoing.tell(driver.joined());
        driver.apply(held);
        tokio::spawn(async move {
            if let Err(failure) = catch_panic(driver.run()).await {
                failing.send(failure).await;
            }
        });
        Ok((events, gate))
    }
}

impl GroupStream {
    fn joined(&self) -> GroupEvent {
        GroupEvent::Joined {
            member_id: self.membership.id(),
            token: self.membership.token(),
            session_timeout: self.membership.session_timeout,
            processing_timeout: self.settings.processing_timeout,
        }
    }

    async fn run(mut self: Box<Self>) {
        let mut metadata = self.groups.metadata.changes();
        loop {
            self.proceed();
            if self.is_done() {
                return self.finish().await;
            }
            let (takes, wakes, goes_on) = (self.takes(), self.wakes(), self.ending.is_none());
            let sending = self.outgoing.sent(!self.suspended, &mut self.credit);
            let end = self.end.clone();
            tokio::select! {
                biased;
                sent = sending => match sent {
                    Ok(sent) => self.sent(sent),
                    Err(_closed) => return self.vanish().await,
                },
                Some(answered) = self.work.next() => self.answered(answered),
                changed = self.membership.changed(), if goes_on => match changed {
                    Ok(()) => self.take_news(),
                    Err(failure) => self.end_with(Ending::Fenced(failure)),
                },
                request = self.requests.next(), if takes.requests => self.take_request(request),
                told = self.open.next(), if takes.chunks => self.take_told(told),
                Ok(()) = metadata.changed() => {}
                () = end.stop(), if goes_on => self.end_with(Ending::Drain),
                () = tokio::time::sleep_until(wakes) => self.tick(Instant::now()),
            }
        }
    }

    /// Begins everything that can be begun.
    fn proceed(&mut self) {
        if self.ending.is_none() {
            self.ask_for_offsets();
            self.announce();
            self.tell_caught_up();
            self.commit_before_delivery();
            self.read_refused_again();
        }
        self.release();
        self.commit();
        self.resync();
    }

    fn answered(&mut self, answered: Answered) {
        match answered {
            Answered::Heartbeat(outcome) => {
                self.under_way.heartbeat = false;
                match outcome {
                    Ok(held) => {
                        self.timing.retried();
                        // An answer that took too long says nothing any more.
                        self.suspended = self.is_silent(Instant::now());
                        self.apply(held);
                    }
                    Err(failure) => {
                        self.session = None;
                        self.not_answered(failure);
                    }
                }
            }
            Answered::Offsets(asked, outcome) => {
                self.under_way.offsets = false;
                match outcome {
                    Ok(found) => self.hold(&asked, found),
                    Err(failure) => self.not_answered(failure),
                }
            }
            Answered::Released(outcome) => {
                self.under_way.release = false;
                let released = std::mem::take(&mut self.released);
                match outcome {
                    Ok(held) => self.apply(held),
                    Err(failure) => {
                        self.releasing.extend(released);
                        self.not_answered(failure);
                    }
                }
            }
            Answered::Committed(outcome) => self.committed(outcome),
        }
    }
}
