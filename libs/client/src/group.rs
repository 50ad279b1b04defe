//! A member of a consumer group, which joins again by itself when its stream breaks.
//!
//! Nothing runs in the background: what arrives is taken, and what is asked for is sent, while [`GroupReader::next`] is
//! awaited.

mod commits;
mod holdings;
mod link;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use walser_proto::v1 as pb;
use walser_proto::v1::consume_request::Message;
use walser_proto::v1::consume_response::Event;
use walser_rpc::{ApiError, Reason};

use crate::connection::{Client, MESSAGE_BYTES_MAX, may_come_back};

use self::commits::Commits;
use self::holdings::Holdings;
use self::link::{GroupLink, GroupLinkEvent};

/// Requests that wait to be sent.
const REQUESTS_MAX: usize = 4_096;
/// Most offsets of one message (`ConsumeCommit.offsets`).
const OFFSETS_MAX: usize = 10_000;
/// A patience that outlasts every outage.
const PATIENCE_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Which group a reader joins, and how.
#[derive(Debug, Clone)]
pub struct GroupReaderConfig {
    /// What is asked for with every join. The reader itself sets the resume token and the size of messages, and leaves
    /// back-pressure to HTTP/2: credit is not used.
    pub join: pb::ConsumeJoin,
    /// How long a server may be away before reading fails.
    pub patience: Duration,
}

/// What happens to a member of a group.
#[derive(Debug)]
pub enum GroupEvent {
    /// The server has let the reader in. With the id of another member than before, that one is gone, and a
    /// [`GroupEvent::Revoked`] of everything that it had came first. With the same id, what the member still has is
    /// assigned again, and the rest has moved.
    Joined(pb::ConsumeJoined),
    /// Partitions were added. Those that are assigned again after a break are read on from their committed offsets:
    /// records of which the commit was not answered may come again.
    Assigned(pb::PartitionsAssigned),
    /// Partitions are about to move: finish them, and call [`GroupReader::confirm_revocation`].
    Revoking(pb::PartitionsRevoking),
    /// Partitions are gone.
    Revoked(pb::PartitionsRevoked),
    /// Records of one partition.
    Chunk(pb::RecordChunk),
    /// The answer to a commit. Every commit has exactly one.
    Committed(CommitAnswer),
    /// Everything that was there has been read.
    CaughtUp,
    /// A position was moved because the log does not have it any more.
    OffsetReset(pb::OffsetReset),
    /// A partition has a problem; reading goes on.
    Problem(pb::PartitionError),
    /// The server is away; reading goes on when it is back. Said once each time.
    Away(ApiError),
    /// The reader has left the group.
    End,
}

/// The answer to one commit.
#[derive(Debug, PartialEq)]
pub struct CommitAnswer {
    /// What [`GroupReader::commit`] returned.
    pub id: i64,
    pub outcome: CommitOutcome,
}

/// What became of a commit.
#[derive(Debug, PartialEq)]
pub enum CommitOutcome {
    /// All of it counts.
    Done,
    /// These partitions were refused; the others count.
    Refused(Vec<pb::PartitionError>),
    /// The stream broke before the answer: it may count or not. Where it does not, the records come again, here or at
    /// another member.
    Unknown(ApiError),
}

/// Reads the partitions that a group gives it, and joins again after interruptions.
#[derive(Debug)]
pub struct GroupReader {
    client: Client,
    config: GroupReaderConfig,
    link: GroupLink,
    /// To be sent, in order.
    requests: VecDeque<pb::ConsumeRequest>,
    commits: Commits,
    holdings: Holdings,
    /// To be told before anything else is taken from the stream.
    events: VecDeque<GroupEvent>,
    /// Of the last join.
    member_id: String,
    leaving: Leaving,
    /// What `next` returns from now on, once `events` is empty.
    over: Option<Result<(), ApiError>>,
    /// Since when nothing has come, while there is no stream, or nothing has come of it.
    away_since: Option<Instant>,
    /// That it is away has been said.
    told: bool,
    /// The server has answered at least once.
    connected: bool,
}

/// How far a reader is with leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// As soon as every commit is answered.
    Asked {
        keep_static_assignment: bool,
    },
    /// It is said, and nothing else will be.
    Told,
}

// === impl GroupReader ===

impl GroupReader {
    /// A reader; it connects with the first call of [`GroupReader::next`].
    pub fn new(client: &Client, config: GroupReaderConfig) -> Self {
        let mut config = config;
        config.patience = config.patience.min(PATIENCE_MAX);
        config.join.options.get_or_insert_default().max_message_bytes =
            i32::try_from(MESSAGE_BYTES_MAX).unwrap_or(i32::MAX);
        (config.join.auto_credit, config.join.credit) = (None, None);
        Self {
            client: client.separate(),
            config,
            link: GroupLink::new(),
            requests: VecDeque::new(),
            commits: Commits::default(),
            holdings: Holdings::default(),
            events: VecDeque::new(),
            member_id: String::new(),
            leaving: Leaving::No,
            over: None,
            away_since: None,
            told: false,
            connected: false,
        }
    }

    /// The next event. Dropping the future loses nothing: it may be one of several that are waited for.
    ///
    /// # Errors
    /// What the server says, unless joining again may help and the patience lasts. It is said again with every call.
    pub async fn next(&mut self) -> Result<GroupEvent, ApiError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            match &self.over {
                Some(Ok(())) => return Ok(GroupEvent::End),
                Some(Err(failure)) => return Err(failure.clone()),
                None => {}
            }
            self.go_on_leaving();
            if self.over.is_some() {
                continue;
            }
            let now = Instant::now();
            let since = if self.link.is_open() { now } else { *self.away_since.get_or_insert(now) };
            let until = since + self.config.patience;
            let happened = self.link.next(&self.client, &self.config.join, until, &mut self.requests).await;
            match happened {
                GroupLinkEvent::Opened => self.connected = true,
                GroupLinkEvent::Sent => {}
                GroupLinkEvent::Received(message) => {
                    (self.away_since, self.told) = (None, false);
                    self.take(message);
                }
                GroupLinkEvent::Ended if self.leaving == Leaving::Told => self.over = Some(Ok(())),
                GroupLinkEvent::Ended => self.broken(link::closed()),
                GroupLinkEvent::Down(failure) => self.broken(failure),
            }
        }
    }

    /// Whether the server has let the reader in, and the stream is still there.
    pub fn is_joined(&self) -> bool {
        self.link.is_joined()
    }

    /// Whether [`GroupReader::next`] has returned an error: the reader is over, and has left nothing to do.
    pub fn has_failed(&self) -> bool {
        matches!(self.over, Some(Err(_)))
    }

    /// Commits offsets, each the next one to read. Returns the number under which the answer comes as
    /// [`GroupEvent::Committed`]; without a stream, that is [`CommitOutcome::Unknown`].
    ///
    /// # Errors
    /// Too much waits already, or the reader is leaving.
    pub fn commit(&mut self, mut offsets: Vec<pb::OffsetCommit>) -> Result<i64, ApiError> {
        self.holdings.name_topics(&mut offsets);
        let parts = offsets.len().div_ceil(OFFSETS_MAX).max(1);
        self.check_room(parts)?;
        let commit_id = self.commits.begin(parts)?;
        let mut offsets = offsets.into_iter();
        for _ in 0..parts {
            let offsets = offsets.by_ref().take(OFFSETS_MAX).collect();
            self.send(Message::Commit(pb::ConsumeCommit { commit_id, offsets }));
        }
        Ok(commit_id)
    }

    /// Commits everything that [`GroupReader::next`] has returned of the partitions that are held. `None`: it has
    /// returned nothing of them.
    ///
    /// # Errors
    /// As [`GroupReader::commit`].
    pub fn commit_delivered(&mut self) -> Result<Option<i64>, ApiError> {
        let offsets = self.holdings.delivered();
        if offsets.is_empty() { Ok(None) } else { self.commit(offsets).map(Some) }
    }

    /// Says that the work on partitions that are about to move is done, with the last commits of them.
    ///
    /// # Errors
    /// As [`GroupReader::commit`].
    pub fn confirm_revocation(
        &mut self,
        revocation_id: i64,
        mut offsets: Vec<pb::OffsetCommit>,
    ) -> Result<(), ApiError> {
        self.holdings.name_topics(&mut offsets);
        self.ask(Message::ConfirmRevocation(pb::ConfirmRevocation { revocation_id, offsets }))
    }

    /// Says that processing goes on, for so long from now.
    ///
    /// # Errors
    /// As [`GroupReader::commit`].
    pub fn extend(&mut self, extension: Duration) -> Result<(), ApiError> {
        self.ask(Message::ExtendProcessing(pb::ExtendProcessing { extension: Some(extension.into()) }))
    }

    /// Asks the server to send nothing of a partition until [`GroupReader::resume`], also after a break. Chunks that are
    /// on their way still come.
    ///
    /// # Errors
    /// As [`GroupReader::commit`], or the partition is not held.
    pub fn pause(&mut self, partition: pb::TopicPartition) -> Result<(), ApiError> {
        self.check_room(1)?;
        self.holdings.set_paused(&partition, true)?;
        self.ask(Message::Pause(partition))
    }

    /// Undoes a pause.
    ///
    /// # Errors
    /// As [`GroupReader::pause`].
    pub fn resume(&mut self, partition: pb::TopicPartition) -> Result<(), ApiError> {
        self.check_room(1)?;
        self.holdings.set_paused(&partition, false)?;
        self.ask(Message::Resume(partition))
    }

    /// Reads a partition on from somewhere else. It counts until the stream breaks; then the committed offset does.
    ///
    /// # Errors
    /// As [`GroupReader::pause`].
    pub fn seek(&mut self, partition: pb::TopicPartition, start: pb::Position) -> Result<(), ApiError> {
        self.check_room(1)?;
        self.holdings.forget_delivered(&partition)?;
        let pb::TopicPartition { topic, partition } = partition;
        let target = pb::ReadTarget { topic, partition: Some(partition), start: Some(start), ..Default::default() };
        self.ask(Message::Seek(target))
    }

    /// Leaves the group once every commit is answered: go on calling [`GroupReader::next`], which returns no records any
    /// more, until it returns [`GroupEvent::End`]. With `keep_static_assignment` the partitions of a static member wait
    /// for it until its session times out; else others have them at once.
    ///
    /// Where there is no stream, nothing is left to say, and the server takes the member out by itself.
    pub fn leave(&mut self, keep_static_assignment: bool) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Asked { keep_static_assignment };
        }
    }

    fn check_room(&self, more: usize) -> Result<(), ApiError> {
        if self.leaving != Leaving::No || self.over.is_some() {
            return Err(ApiError::new(Reason::StreamProtocolViolation, "the reader leaves the group"));
        }
        if self.requests.len() + more > REQUESTS_MAX {
            return Err(ApiError::new(
                Reason::InFlightLimitExceeded,
                format!("{} requests wait to be sent, {REQUESTS_MAX} is the limit", self.requests.len()),
            ));
        }
        Ok(())
    }

    fn ask(&mut self, message: Message) -> Result<(), ApiError> {
        self.check_room(1)?;
        self.send(message);
        Ok(())
    }

    fn send(&mut self, message: Message) {
        self.requests.push_back(pb::ConsumeRequest { message: Some(message) });
        self.link.flush(&mut self.requests);
    }

    /// Says that the reader leaves, once nothing is owed to the caller.
    fn go_on_leaving(&mut self) {
        if let Leaving::Asked { keep_static_assignment } = self.leaving
            && self.link.is_joined()
            && self.requests.is_empty()
            && self.commits.is_empty()
        {
            self.leaving = Leaving::Told;
            self.send(Message::Leave(pb::ConsumeLeave { keep_static_assignment }));
        }
        if self.leaving == Leaving::Told && self.requests.is_empty() {
            self.link.half_close();
        }
        if self.leaving != Leaving::No && !self.link.is_open() {
            self.give_up_commits(&link::closed());
            self.link = GroupLink::new();
            self.over = Some(Ok(()));
        }
    }

    fn take(&mut self, message: pb::ConsumeResponse) {
        let event = match message.event {
            Some(Event::Joined(joined)) => return self.joined(joined),
            Some(Event::Assigned(assigned)) => return self.assigned(assigned),
            Some(Event::Revoked(revoked)) => {
                self.holdings.remove(&revoked.partitions);
                GroupEvent::Revoked(revoked)
            }
            Some(Event::Records(chunk)) => {
                // Nothing is processed any more, so that nothing may count as such.
                if self.leaving != Leaving::No {
                    return;
                }
                self.holdings.deliver(&chunk);
                GroupEvent::Chunk(chunk)
            }
            Some(Event::CommitResult(result)) => {
                let Some(answer) = self.commits.answered(result) else { return };
                GroupEvent::Committed(answer)
            }
            Some(Event::Revoking(revoking)) => GroupEvent::Revoking(revoking),
            Some(Event::CaughtUp(_)) => GroupEvent::CaughtUp,
            Some(Event::OffsetReset(reset)) => GroupEvent::OffsetReset(reset),
            Some(Event::PartitionError(error)) => GroupEvent::Problem(error),
            // After a drain the stream ends with an error that says so.
            Some(Event::Heartbeat(_) | Event::Drain(_)) | None => return,
        };
        self.events.push_back(event);
    }

    fn joined(&mut self, joined: pb::ConsumeJoined) {
        self.config.join.resume_token.clone_from(&joined.resume_token);
        // What was asked for without a stream is about partitions that the server has not assigned on this one.
        self.give_up_commits(&link::closed());
        self.requests.clear();
        let before = std::mem::replace(&mut self.member_id, joined.member_id.clone());
        if before == self.member_id {
            self.holdings.expect_again();
        } else {
            self.revoked_all();
        }
        self.events.push_back(GroupEvent::Joined(joined));
        self.link.joined();
    }

    fn assigned(&mut self, assigned: pb::PartitionsAssigned) {
        for partition in self.holdings.add(&assigned.partitions) {
            // The server forgets with the stream; there are no more of them than partitions.
            self.send(Message::Pause(partition));
        }
        self.events.push_back(GroupEvent::Assigned(assigned));
    }

    fn revoked_all(&mut self) {
        let partitions = self.holdings.remove_all();
        if !partitions.is_empty() {
            let cause = pb::RevocationCause::SessionExpired.into();
            self.events.push_back(GroupEvent::Revoked(pb::PartitionsRevoked { partitions, cause }));
        }
    }

    /// Tells what is not known of commits that were not answered.
    fn give_up_commits(&mut self, failure: &ApiError) -> bool {
        let unknown = self.commits.give_up(failure);
        let any = !unknown.is_empty();
        self.events.extend(unknown.into_iter().map(GroupEvent::Committed));
        any
    }

    /// Goes on after the stream has ended: joins again, or gives up.
    fn broken(&mut self, failure: ApiError) {
        self.requests.clear();
        let in_doubt = self.give_up_commits(&failure);
        // An error without details comes from the connection, or from a proxy.
        self.connected |= failure.answered();
        if self.leaving != Leaving::No {
            // Without a stream the server takes the member out; only a commit can be missing.
            self.over = Some(if in_doubt { Err(failure) } else { Ok(()) });
            return;
        }
        let now = Instant::now();
        let since = *self.away_since.get_or_insert(now);
        // A server that never answered is more likely the wrong address than one that will be back.
        if !may_join_again(&failure) || !self.connected || now.duration_since(since) >= self.config.patience {
            self.over = Some(Err(failure));
            return;
        }
        // Another gateway takes over, or another member begins, without a word.
        let expected = matches!(failure.reason(), Reason::GatewayDraining | Reason::SessionExpired);
        if !expected && !std::mem::replace(&mut self.told, true) {
            self.events.push_back(GroupEvent::Away(failure));
        }
    }
}

/// Whether another join may succeed where a stream has ended so. A member that was fenced is not wanted any more.
fn may_join_again(failure: &ApiError) -> bool {
    may_come_back(failure) || failure.reason() == Reason::SessionExpired
}
