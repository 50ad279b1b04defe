//! Members that poll. Each call attaches its member anew, commits what the client has processed, lets go what was asked
//! for, reads, and gives back a token with everything that the next call needs, at whichever gateway it arrives.
//!
//! Between two calls no gateway has the member: it stays for its session timeout. A call whose answer was lost is made
//! again with the same token; the coordinator takes the token of the last call, or the one before until it has been used.

mod places;
mod room;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use walser_group::{
    Attach, Attached, CommittedOffset, CurrentAssignment, DetachGrace, GroupEpoch, MemberRef, OffsetToCommit,
    RemovalCause, TokenKey,
};
use walser_model::TopicPartition;
use walser_rpc::{ApiError, Effect, MemberRequest, MemberToken, PollState, SealedToken};

use crate::reading::{FetchRequest, Fetched, PartitionFailure, PartitionName, ReadPosition, Reset};

use super::Groups;
use super::commit_floor::CommitFloor;
use super::commits::OFFSETS_MAX;
use super::hosted_shard::HostedShard;
use super::membership::{MemberCalls, PATIENCE, attached, is_no_member};
use super::named_commits::NamedCommits;
use super::request::{JoinRequest, OffsetCommit};
use super::stream::RevocationCause;
use super::unique;

use self::places::PolledRead;

/// Time between two looks of a member that has no partitions yet.
const ASSIGNMENT_LOOK: Duration = Duration::from_millis(100);
/// A member that waits for records says in between that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// One poll.
#[derive(Debug)]
pub(crate) struct PollRequest {
    /// Needed without a token; with one, to join anew when the member is gone.
    pub(crate) join: Option<JoinRequest>,
    pub(crate) token: Option<SealedToken>,
    /// How to read: from the join, or as the token says. It has no targets.
    pub(crate) read: FetchRequest,
    /// Where a partition without a committed offset begins.
    pub(crate) start: ReadPosition,
    /// `read` and `start`, for the next token.
    pub(crate) settings: Vec<u8>,
    pub(crate) commits: Vec<OffsetCommit>,
    /// Commit what the last answer has delivered.
    pub(crate) commit_previous: bool,
}

/// The answer to a poll.
#[derive(Debug)]
pub(crate) struct Polled {
    pub(crate) member_id: String,
    pub(crate) token: String,
    /// `None`: the member has nothing that can be read now.
    pub(crate) fetched: Option<Fetched>,
    /// Positions that were moved, beside those of `fetched`.
    pub(crate) resets: Vec<Reset>,
    /// Partitions that cannot be read now. Those that do not fit are found again by the next call.
    pub(crate) failures: Vec<PartitionFailure>,
    /// Bytes that they may take in the answer.
    pub(crate) failure_bytes_max: usize,
    pub(crate) owned: Vec<PartitionName>,
    /// Lost since the last answer.
    pub(crate) revoked: Vec<PartitionName>,
    pub(crate) cause: RevocationCause,
    /// Commits that were refused.
    pub(crate) refused: Vec<PartitionFailure>,
}

/// A member during one of its polls.
struct Poller {
    calls: MemberCalls,
    of: MemberRef,
    key: TokenKey,
    current: CurrentAssignment,
    /// As of the last answer.
    before: PollState,
    /// Counts its commits.
    sequence: i64,
    /// Something of this poll is committed, whatever becomes of the rest.
    committed: bool,
    /// It has joined with this poll: without an answer nobody knows of it.
    unknown: Option<Unknown>,
}

/// A member of which no client knows yet. It goes unless the poll that has joined it is answered.
struct Unknown(Option<MemberCalls>);

impl Drop for Unknown {
    fn drop(&mut self) {
        if let Some(calls) = self.0.take() {
            tokio::spawn(calls.detach(DetachGrace::Brief));
        }
    }
}

impl Groups {
    /// Serves one poll. `limit`: the caller's time.
    pub(crate) async fn poll(&self, asked: PollRequest, limit: Option<Duration>) -> Result<Polled, ApiError> {
        // The caller's deadline leaves time for the answer to travel.
        let wait = limit.map_or(asked.read.wait, |limit| asked.read.wait.min(limit.saturating_sub(limit / 4)));
        let until = Instant::now() + wait;
        let mut poller = self.attach_poller(&asked).await?;
        let refused = self.commit_polled(&mut poller, &asked).await;
        let committed = poller.committed;
        let polled = match refused {
            Ok(refused) => self.poll_on(poller, asked, refused, until).await,
            Err(failure) => Err(failure),
        };
        polled.map_err(|failure| if committed { failure.with_effect(Effect::Maybe) } else { failure })
    }

    /// What comes after the commits of a poll.
    async fn poll_on(
        &self,
        mut poller: Poller,
        asked: PollRequest,
        refused: Vec<PartitionFailure>,
        until: Instant,
    ) -> Result<Polled, ApiError> {
        if !poller.current.revoking.is_empty() {
            // Whoever polls again is done with what it was given.
            let released = poller.current.revoking.clone();
            (_, poller.current) = poller.calls.clone().release(released).await?;
        }
        let mut standing = poller.standing();
        let PolledRead { fetched, resets, failures, failure_bytes_max } =
            self.read_polled(&mut poller, &mut standing, (&asked, &refused), until).await?;
        if let Some(fetched) = &fetched {
            self.advance(&mut standing, fetched);
        }
        let held = standing.held(&poller.current.assigned);
        let lost = poller.before.held.keys().filter(|partition| !held.contains_key(partition));
        let revoked: Vec<_> = lost.filter_map(|partition| self.name_of(partition)).collect();
        let owned = held.keys().filter_map(|partition| self.name_of(partition)).collect();
        let poll = PollState { epoch: poller.current.epoch, held, places: standing.places, settings: asked.settings };
        let (member_id, key) = (poller.of.member.to_string(), poller.key);
        let token = MemberToken { member: poller.of, poll: Some(poll) }.seal(&key)?;
        if let Some(mut unknown) = poller.unknown {
            unknown.0 = None;
        }
        let cause = RevocationCause::Rebalance;
        Ok(Polled { member_id, token, fetched, resets, failures, failure_bytes_max, owned, revoked, cause, refused })
    }

    /// Ends the membership that a token is of. One that is gone has ended.
    pub(crate) async fn leave(&self, sealed: SealedToken) -> Result<(), ApiError> {
        let shard = self.shard(sealed.group())?;
        let until = Instant::now() + PATIENCE;
        let MemberToken { member, .. } = sealed.open(&shard.token_key(until).await?)?;
        let left = async {
            // The stream that has the member, if one has, ends with this.
            let Attached { attachment, .. } = attach(&shard, &member, until).await?;
            let member = MemberRef { attachment, ..member };
            let leave = MemberRequest::Leave { member, cause: RemovalCause::Left, keep_static_assignment: false };
            shard.ask(leave, until).await.map(drop)
        };
        match left.await {
            Err(failure) if is_no_member(&failure) => Ok(()),
            outcome => outcome,
        }
    }

    /// The member of the token, or, where it has none or its member is gone, a new one.
    async fn attach_poller(&self, asked: &PollRequest) -> Result<Poller, ApiError> {
        let until = Instant::now() + PATIENCE;
        if let Some(sealed) = asked.token.clone() {
            let shard = self.shard(sealed.group())?;
            let key = shard.token_key(until).await?;
            let MemberToken { member, poll } = sealed.open(&key)?;
            if asked.join.as_ref().is_some_and(|join| join.group != member.group) {
                let text = format!("is of a member of another group, \"{}\"", member.group);
                return Err(ApiError::field("token", text));
            }
            match attach(&shard, &member, until).await {
                Err(failure) if is_no_member(&failure) && asked.join.is_some() => {}
                outcome => return Ok(Poller::new(&shard, (member, key), outcome?, poll.unwrap_or_default())),
            }
        }
        let join = asked.join.clone();
        let join = join.ok_or_else(|| ApiError::field("join", "is missing: the first call joins with it"))?;
        let (done, joined) = oneshot::channel();
        let groups = self.clone();
        // A caller that is gone before its member has joined leaves none behind: the member is dropped, and goes.
        tokio::spawn(async move { drop(done.send(groups.join_poller(&join).await)) });
        joined.await.unwrap_or_else(|_| Err(ApiError::internal("joining met a bug of the server")))
    }

    async fn join_poller(&self, asked: &JoinRequest) -> Result<Poller, ApiError> {
        let (shard, until) = (self.shard(&asked.group)?, Instant::now() + PATIENCE);
        let key = shard.token_key(until).await?;
        // It releases with its next poll, within its session timeout.
        let join = asked.join(unique(&*self.random).parse().expect("a UUID is a name"), None);
        let (group, member, instance) = (join.group.clone(), join.member.clone(), join.instance.clone());
        let attached = attached(shard.ask(MemberRequest::Join(Box::new(join)), until).await?.1)?;
        let of = MemberRef { group, member, instance, attachment: attached.attachment };
        let poller = Poller::new(&shard, (of, key), attached, PollState::default());
        let unknown = Some(Unknown(Some(poller.calls.clone())));
        Ok(Poller { unknown, ..poller })
    }

    /// Commits what the client has processed. Returns what was refused.
    async fn commit_polled(&self, poller: &mut Poller, asked: &PollRequest) -> Result<Vec<PartitionFailure>, ApiError> {
        let mut commits = NamedCommits::default();
        let delivered = poller.before.places.iter().filter(|(_, place)| asked.commit_previous && place.delivered);
        for (partition, place) in delivered {
            let Some(name) = self.name_of(partition) else { continue };
            let (offset, leader_epoch, metadata) = (place.next, place.leader_epoch, String::new());
            commits.add(name, OffsetToCommit { partition: *partition, offset, leader_epoch, metadata });
        }
        commits.resolve(&self.topics, asked.commits.clone()).await;
        let floors = poller.floors_of(commits.to_commit.keys()).await?;
        commits.check(|of, offset| match floors.get(&offset.partition) {
            Some(floor) => floor.check(of, offset.offset),
            // The coordinator says whose it is.
            None => Ok(()),
        });
        let to_commit: Vec<_> = std::mem::take(&mut commits.to_commit).into_values().collect();
        for part in to_commit.chunks(OFFSETS_MAX) {
            let epoch = poller.before.epoch;
            let mut failed = poller.commit(epoch, part.to_vec()).await?;
            poller.committed |= failed.len() < part.len();
            for OffsetToCommit { partition, offset, .. } in part {
                if let Some(failure) = failed.remove(partition) {
                    commits.refuse(partition, failure);
                } else if poller.before.places.get(partition).is_some_and(|place| place.next <= *offset) {
                    // From here on it stands at what is committed, also where the client has passed something over.
                    poller.before.places.remove(partition);
                }
            }
        }
        Ok(commits.into_refused())
    }

    /// The name of a partition, unless its topic is gone.
    fn name_of(&self, partition: &TopicPartition) -> Option<PartitionName> {
        let topic = self.metadata.view().topic(partition.topic).cloned()?;
        Some(PartitionName::of(&topic, partition.partition.0))
    }
}

// === impl Poller ===

impl Poller {
    fn new(shard: &Arc<HostedShard>, (of, key): (MemberRef, TokenKey), attached: Attached, before: PollState) -> Self {
        let of = MemberRef { attachment: attached.attachment, ..of };
        let calls = MemberCalls::new(Arc::clone(shard), of.clone());
        Self { calls, of, key, current: attached.current, before, sequence: 0, committed: false, unknown: None }
    }

    /// How low the member may commit in those of the partitions that it had with the last answer. Where it has not begun to read
    /// one, that is what is committed.
    async fn floors_of<'a>(
        &self,
        partitions: impl Iterator<Item = &'a TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, CommitFloor>, ApiError> {
        let (mut floors, mut unknown) = (BTreeMap::new(), Vec::new());
        for partition in partitions {
            match self.before.held.get(partition) {
                Some(Some(floor)) => drop(floors.insert(*partition, CommitFloor::of(Some(*floor)))),
                Some(None) => unknown.push(*partition),
                None => {}
            }
        }
        for part in unknown.chunks(OFFSETS_MAX) {
            let found = self.calls.clone().offsets(part.to_vec()).await?;
            let floor = |committed: Option<CommittedOffset>| CommitFloor::of(committed.map(|found| found.offset));
            floors.extend(found.into_iter().map(|(partition, committed)| (partition, floor(committed))));
        }
        Ok(floors)
    }

    /// Commits offsets of partitions that were assigned by `epoch`. Returns those that were refused.
    async fn commit(
        &mut self,
        epoch: GroupEpoch,
        offsets: Vec<OffsetToCommit>,
    ) -> Result<BTreeMap<TopicPartition, ApiError>, ApiError> {
        self.sequence += 1;
        Ok(self.calls.clone().commit((epoch, self.sequence), offsets).await?.into_iter().collect())
    }
}

/// Attaches a member that polls.
async fn attach(shard: &Arc<HostedShard>, member: &MemberRef, until: Instant) -> Result<Attached, ApiError> {
    let attach = Attach { member: member.clone(), subscription: None, revocation_timeout: None, gateway: None };
    attached(shard.ask(MemberRequest::Attach(Box::new(attach)), until).await?.1)
}
