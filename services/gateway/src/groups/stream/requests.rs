//! What the client says, and its commits.

use futures::FutureExt as _;
use tokio::time::Instant;
use walser_group::OffsetToCommit;
use walser_model::{Offset, TopicPartition};
use walser_rpc::{ApiError, Reason};

use crate::groups::commits::AskedCommit;
use crate::groups::holdings::{Holding, ReadTo};
use crate::groups::membership::is_gone;
use crate::groups::request::{CommitMode, CommitRequest, GroupRequest, OffsetCommit, Place};
use crate::groups::told_bytes::failure_bytes;
use crate::reading::{PartitionFailure, PartitionName, in_parts};

use super::ending::Ending;
use super::{Answered, GroupEvent, GroupStream};

/// Metadata of a committed offset, in bytes, inclusive: the coordinator of all members need not see what is larger.
const METADATA_BYTES_MAX: usize = 4_096;

impl GroupStream {
    /// Does what the client says. `None`: it has nothing more to say, and leaves.
    pub(super) fn take_request(&mut self, request: Option<Result<GroupRequest, ApiError>>) {
        let request = match request {
            Some(Ok(request)) => request,
            Some(Err(failure)) if failure.answered() => return self.end_with(Ending::Failed(failure)),
            Some(Err(_broken)) => return self.end_with(Ending::Vanished),
            None => return self.end_with(Ending::HalfClosed(Instant::now())),
        };
        match request {
            GroupRequest::Heartbeat => {}
            GroupRequest::Credit(grant) => {
                self.timing.client_goes_on();
                if !self.credit.add(grant) {
                    let text = "credit was granted, but auto_credit is on; set it to false in join to grant credit";
                    self.end_with(Ending::Failed(violation(text)));
                }
            }
            GroupRequest::Commit(commit) => {
                self.timing.client_goes_on();
                self.take_commit(commit);
            }
            GroupRequest::Confirm { revocation, offsets } => {
                self.timing.client_goes_on();
                self.take_confirmation(revocation, offsets);
            }
            GroupRequest::Extend(extension) => self.timing.extend(extension),
            GroupRequest::Pause(name) => self.with_held(name, |stream, partition| stream.pause(&partition)),
            GroupRequest::Resume(name) => self.with_held(name, |stream, partition| stream.resume(&partition)),
            GroupRequest::Seek(place) => self.seek(place),
            GroupRequest::Leave { keep_static_assignment } => self.end_with(Ending::Leave { keep_static_assignment }),
        }
    }

    /// Does something with a partition that the client names, if the member reads it.
    fn with_held(&mut self, name: PartitionName, act: impl FnOnce(&mut Self, TopicPartition)) {
        match self.holdings.named(&name) {
            Some(partition) => act(self, partition),
            None => {
                let failure = not_owned(&name);
                self.outgoing.tell(GroupEvent::Problem(PartitionFailure { of: name, failure }));
            }
        }
    }

    fn pause(&mut self, partition: &TopicPartition) {
        // What is committed already is sent: nobody else would send it.
        if self.settings.commit_mode == CommitMode::BeforeDelivery {
            self.close_reader(partition);
        } else {
            self.halt_reading(partition);
        }
        if let Some(held) = self.holdings.get_mut(partition) {
            held.paused = true;
        }
    }

    fn resume(&mut self, partition: &TopicPartition) {
        let Some(held) = self.holdings.get_mut(partition) else { return };
        held.paused = false;
        if held.reader.is_none() {
            self.start_reading(partition);
        }
    }

    fn seek(&mut self, Place { of, start }: Place) {
        self.with_held(of, |stream, partition| {
            stream.halt_reading(&partition);
            let Some(held) = stream.holdings.get_mut(&partition) else { return };
            held.seek(start);
            if !held.paused {
                stream.start_reading(&partition);
            }
        });
    }

    fn take_commit(&mut self, CommitRequest { id, offsets }: CommitRequest) {
        if self.settings.commit_mode != CommitMode::Manual {
            let text = "the stream commits by itself; join with commit_mode MANUAL to commit";
            return self.end_with(Ending::Failed(violation(text)));
        }
        let (mut partitions, mut refused, mut checked) = (Vec::new(), Vec::new(), Vec::new());
        for commit in offsets {
            match self.checked(&commit) {
                Ok(partition) => {
                    partitions.push((partition, commit.of));
                    let OffsetCommit { offset, leader_epoch, metadata, .. } = commit;
                    checked.push(OffsetToCommit { partition, offset, leader_epoch, metadata });
                }
                Err(failure) => refused.push(PartitionFailure { of: commit.of, failure }),
            }
        }
        self.commits.add(AskedCommit { id, partitions, refused }, checked, self.current.epoch);
    }

    /// The partition of a commit, if the member may commit it.
    fn checked(&self, commit: &OffsetCommit) -> Result<TopicPartition, ApiError> {
        let named = self.holdings.named(&commit.of);
        let held = named.and_then(|partition| Some((partition, self.holdings.get(&partition)?)));
        let leaving = self.revocations.values().filter_map(|revocation| revocation.named(&commit.of));
        let mut known = held.into_iter().chain(leaving).peekable();
        let is_known = known.peek().is_some();
        let found = known.find(|(partition, _)| commit.topic_id.is_none_or(|id| id == partition.topic));
        let (actual, limit) = (commit.metadata.len(), METADATA_BYTES_MAX);
        if actual > limit {
            let text = format!("the metadata of the offset has {actual} bytes; at most {limit} are kept");
            let failure = ApiError::new(Reason::OffsetMetadataTooLarge, text).with("actual", actual);
            return Err(failure.with("limit", limit));
        }
        let refused = || if is_known { created_again(&commit.of) } else { not_owned(&commit.of) };
        let (partition, held): (TopicPartition, &Holding) = found.ok_or_else(refused)?;
        held.check(commit.offset).map(|()| partition)
    }

    fn take_confirmation(&mut self, revocation: i64, offsets: Vec<OffsetCommit>) {
        if !offsets.is_empty() {
            self.take_commit(CommitRequest { id: 0, offsets });
        }
        // One that is not known any more was withdrawn, or its time is over.
        if self.ending.is_none() {
            self.let_go(revocation);
        }
    }

    /// Commits for a client that does not commit.
    pub(super) fn commit_for_client(&mut self, offsets: &[(TopicPartition, ReadTo)]) {
        let mut partitions = Vec::with_capacity(offsets.len());
        let mut to_commit = Vec::with_capacity(offsets.len());
        for (partition, ReadTo { offset, leader_epoch }) in offsets {
            let Some(held) = self.holdings.get(partition) else { continue };
            partitions.push((*partition, held.name.clone()));
            let (partition, offset, metadata) = (*partition, Offset(*offset), String::new());
            to_commit.push(OffsetToCommit { partition, offset, leader_epoch: *leader_epoch, metadata });
        }
        let asked = AskedCommit { id: 0, partitions, refused: Vec::new() };
        self.commits.add(asked, to_commit, self.current.epoch);
    }

    /// Sends the next commit on its way.
    pub(super) fn commit(&mut self) {
        let Some((asked, offsets)) = self.commits.next() else { return };
        let calls = self.membership.calls.clone();
        let commit = async move {
            // A commit of nothing is answered without the coordinator.
            if offsets.is_empty() { Ok(Vec::new()) } else { calls.commit(asked, offsets).await }
        };
        self.work.push(commit.map(Answered::Committed).boxed());
    }

    /// A commit is answered.
    pub(super) fn committed(&mut self, answer: Result<Vec<(TopicPartition, ApiError)>, ApiError>) {
        let gone = answer.as_ref().err().filter(|failure| is_gone(failure)).cloned();
        let outcome = self.commits.done(answer);
        for (partition, offset) in outcome.committed {
            if let Some(held) = self.holdings.get_mut(&partition) {
                held.committed(offset);
            }
            if let Some(chunk) = self.outgoing.held().filter(|held| held.partition == partition)
                && chunk.committing.take_if(|end| *end == offset.0).is_some()
            {
                chunk.sendable_to = offset.0;
            }
        }
        for partition in outcome.refused {
            match self.settings.commit_mode {
                // It is not sent, and read again, after a pause.
                CommitMode::BeforeDelivery => {
                    self.halt_reading(&partition);
                    self.read_again.push(partition);
                    self.timing.retry_later();
                }
                CommitMode::Auto => self.holdings.get_mut(&partition).into_iter().for_each(Holding::not_committed),
                CommitMode::Manual => {}
            }
        }
        for (id, refused) in outcome.answers {
            // What does not fit the answer comes before it.
            let bytes_max = self.settings.options.shape.message_bytes_max;
            let mut parts = in_parts(refused.into_iter(), bytes_max, failure_bytes);
            let last = if id == 0 { None } else { parts.pop() };
            parts.into_iter().flatten().for_each(|failure| self.outgoing.tell(GroupEvent::Problem(failure)));
            if id != 0 {
                self.outgoing.tell(GroupEvent::Committed { id, refused: last.unwrap_or_default() });
            }
        }
        if let Some(failure) = gone {
            self.end_with(Ending::Fenced(failure));
        }
    }
}

/// A commit of a topic that is there no more, though its name is.
fn created_again(of: &PartitionName) -> ApiError {
    let text =
        format!("topic \"{}\" was deleted and created again: the commit is of the one before, drop it", of.topic);
    ApiError::new(Reason::TopicNotFound, text).with("topic", &of.topic).with("partition", of.partition)
}

fn not_owned(name: &PartitionName) -> ApiError {
    let text = format!("partition {} of topic \"{}\" is not of this member", name.partition, name.topic);
    let failure = ApiError::new(Reason::PartitionNotOwned, text).with("topic", &name.topic);
    failure.with("partition", name.partition)
}

fn violation(text: &str) -> ApiError {
    ApiError::new(Reason::StreamProtocolViolation, text)
}
