//! The connections of the simulated cluster: in order, late, and broken at any time.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use walser_log::{CompleteCopy, CopyError, LogCopy};
use walser_model::{LeaderEpoch, NodeId, Offset, TopicPartition};
use walser_replication::{Ack, Diverging, Frame, ReplicationSession, ReplicationSessionId};

use super::control::Asked;
use super::node::Copying;
use super::{Cluster, ClusterFault, NODES, config, node_id, number_of};
use crate::replication::{FromPeer, OpenAnswer, Outgoing, Push, Pushed, ToPush, read_tail};
use crate::shard::Command;

/// What one node says to another.
#[derive(Debug)]
enum Message {
    Open(ReplicationSession),
    Ack(Ack),
    Closed(ReplicationSessionId),
    Pushed(Frame, Bytes),
    Diverged(Diverging),
    CopyOffered { leader_epoch: LeaderEpoch, open: ReplicationSessionId, log_start: Offset },
    Refused(ReplicationSessionId),
}

#[derive(Debug, Default)]
pub(super) struct Network {
    links: BTreeMap<(usize, usize), VecDeque<(TopicPartition, Message)>>,
    /// By follower, leader and partition.
    opened: BTreeMap<(usize, usize, TopicPartition), ReplicationSession>,
}

impl Network {
    fn send(&mut self, from: usize, to: usize, partition: TopicPartition, message: Message) {
        self.links.entry((from, to)).or_default().push_back((partition, message));
    }

    pub(super) fn waiting(&self) -> usize {
        self.links.values().filter(|link| !link.is_empty()).count()
    }

    fn take(&mut self, number: usize) -> Option<(usize, usize, TopicPartition, Message)> {
        let (link, waiting) = self.links.iter_mut().filter(|(_, link)| !link.is_empty()).nth(number)?;
        let (partition, message) = waiting.pop_front()?;
        Some((link.0, link.1, partition, message))
    }
}

impl Cluster {
    /// Takes what a shard has said on its way.
    pub(super) fn take_said(&mut self, node: usize) {
        for (partition, message) in self.nodes[node].take_said() {
            match message {
                Outgoing::Open { leader, session } => {
                    self.send_open(node, number_of(leader), partition, session);
                }
                Outgoing::Acknowledge { leader, mut ack } => {
                    if self.fault == Some(ClusterFault::AcknowledgesBeforeFlushes) {
                        ack.durable = ack.log_end;
                    }
                    self.network.send(node, number_of(leader), partition, Message::Ack(ack));
                }
                Outgoing::Answer { follower, open, answer } => {
                    self.send_answer(node, partition, follower, open, answer)
                }
                Outgoing::Stop { follower } => {
                    self.nodes[node].pushes.retain(|(id, to, _)| (*id, *to) != (partition, follower));
                }
                Outgoing::Left => {
                    self.nodes[node].pushes.retain(|(id, _, _)| *id != partition);
                    self.close_opened(node, partition);
                }
                Outgoing::Propose(proposal) => {
                    let epoch = self.nodes[node].epoch;
                    self.control.asked.push((node, epoch, partition, Asked::AlterIsr(proposal)));
                }
                // A full disk has space again in the end.
                Outgoing::HandOver { .. } => {}
                Outgoing::GiveUp { leader_epoch } => {
                    let epoch = self.nodes[node].epoch;
                    self.control.asked.push((node, epoch, partition, Asked::GiveUp(leader_epoch)));
                }
                Outgoing::Copy { leader, leader_epoch, work, .. } => {
                    let (log, pin) = (None, None);
                    self.nodes[node].copying.push(Copying { partition, leader, leader_epoch, work, log, pin });
                }
                Outgoing::More { .. } => {}
            }
        }
    }

    fn send_open(&mut self, from: usize, to: usize, partition: TopicPartition, session: ReplicationSession) {
        if self.nodes[to].up {
            self.network.opened.insert((from, to, partition), session);
            self.network.send(from, to, partition, Message::Open(session));
        } else {
            self.network.send(to, from, partition, Message::Refused(session.id));
        }
    }

    /// A follower tells that it follows no more.
    fn close_opened(&mut self, follower: usize, partition: TopicPartition) {
        let of_it = |(from, _, id): &(usize, usize, TopicPartition)| *from == follower && *id == partition;
        let over: Vec<_> = self.network.opened.extract_if(.., |key, _| of_it(key)).collect();
        for ((_, leader, _), session) in over {
            self.network.send(follower, leader, partition, Message::Closed(session.id));
        }
    }

    fn send_answer(
        &mut self,
        node: usize,
        partition: TopicPartition,
        follower: NodeId,
        open: ReplicationSessionId,
        answer: OpenAnswer,
    ) {
        self.nodes[node].pushes.retain(|(id, to, _)| (*id, *to) != (partition, follower));
        let session = self.network.opened.get(&(number_of(follower), node, partition)).copied();
        let answer = match (answer, session) {
            (OpenAnswer::Diverged(answer), Some(session)) if self.fault == Some(ClusterFault::IgnoresDivergence) => {
                OpenAnswer::Push { leader_epoch: answer.leader_epoch, from: session.log_end }
            }
            (answer, _) => answer,
        };
        let message = match answer {
            OpenAnswer::Push { leader_epoch, from } => {
                let push = Push::new(open, leader_epoch, from);
                return self.nodes[node].pushes.push((partition, follower, push));
            }
            OpenAnswer::Diverged(answer) => {
                self.count.cuts += 1;
                Message::Diverged(answer)
            }
            OpenAnswer::Copy { leader_epoch, log_start } => Message::CopyOffered { leader_epoch, open, log_start },
            OpenAnswer::Refused => Message::Refused(open),
        };
        self.network.send(node, number_of(follower), partition, message);
    }

    /// The next message of some connection arrives.
    pub(super) fn deliver(&mut self) {
        let waiting = self.network.waiting();
        if waiting == 0 {
            return;
        }
        let number = self.below(waiting);
        let Some((from, to, partition, message)) = self.network.take(number) else { return };
        let said = match message {
            Message::Open(session) => FromPeer::Opened(session),
            Message::Ack(ack) => FromPeer::Acked(ack),
            Message::Closed(open) => FromPeer::Closed { follower: node_id(from), open },
            Message::Pushed(frame, batches) => match Pushed::check(frame, batches, None) {
                Ok(pushed) => FromPeer::Pushed(Box::new(pushed)),
                Err(error) => panic!("node {from} pushes {frame:?} of {partition}: {error}"),
            },
            Message::Diverged(answer) => FromPeer::Diverged(answer),
            Message::CopyOffered { leader_epoch, open, log_start } => {
                FromPeer::CopyOffered { leader_epoch, open, log_start }
            }
            Message::Refused(open) => FromPeer::Broken { open },
        };
        if self.nodes[to].up {
            self.nodes[to].shard.queue.push(Command::FromPeer { partition, said });
        }
    }

    /// The connections between two nodes break, and both hear of it.
    pub(super) fn break_connection(&mut self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            self.network.links.remove(&(from, to));
            let broken: Vec<_> = self.network.opened.extract_if(.., |(f, l, _), _| (*f, *l) == (from, to)).collect();
            for ((follower, leader, partition), session) in broken {
                let closed = FromPeer::Closed { follower: node_id(follower), open: session.id };
                self.nodes[leader].pushes.retain(|(_, _, push)| push.open != session.id);
                for (node, said) in [(leader, closed), (follower, FromPeer::Broken { open: session.id })] {
                    if self.nodes[node].up {
                        self.nodes[node].shard.queue.push(Command::FromPeer { partition, said });
                    }
                }
            }
        }
    }

    /// A leader pushes something to one of its followers.
    pub(super) fn push_somewhere(&mut self, node: usize) {
        let pushes = self.nodes[node].pushes.len();
        if pushes > 0 {
            let number = self.below(pushes);
            self.push(node, number);
        }
    }

    fn push(&mut self, node: usize, number: usize) {
        let (partition, follower, mut push) = self.nodes[node].pushes[number];
        let handle = self.nodes[node].surroundings.registry.led(partition).ok();
        let bytes_max = 1 + self.below(6_000);
        let pushed = handle.and_then(|handle| match push.look(&handle) {
            ToPush::Over => None,
            ToPush::Nothing => Some(None),
            ToPush::Marks => push.frame(&handle, None).map(|frame| Some((frame, Bytes::new()))),
            ToPush::Records { from, below } => {
                let read = read_tail(&handle, from, below, bytes_max);
                let read = read.or_else(|| handle.reader.read_retained(from, below, bytes_max).ok());
                let slice = read.filter(|slice| !slice.batches.is_empty())?;
                push.frame(&handle, Some(slice.next_offset)).map(|frame| Some((frame, slice.batches)))
            }
        });
        match pushed {
            // What is not there any more is not pushed: the follower opens anew.
            None => {
                self.nodes[node].pushes.remove(number);
                self.network.send(node, number_of(follower), partition, Message::Refused(push.open));
            }
            Some(None) => {}
            Some(Some((frame, batches))) => {
                self.nodes[node].pushes[number].2 = push;
                let said = FromPeer::Sent { follower, open: push.open, end: frame.end };
                self.nodes[node].shard.queue.push(Command::FromPeer { partition, said });
                self.network.send(node, number_of(follower), partition, Message::Pushed(frame, batches));
            }
        }
    }

    /// Some copy of a leader's log gets further.
    pub(super) fn copy_somewhere(&mut self, node: usize) {
        let copies = self.nodes[node].copying.len();
        if copies == 0 || !self.nodes[node].up {
            return;
        }
        let number = self.below(copies);
        let mut copying = self.nodes[node].copying.swap_remove(number);
        let bytes_max = 1 + self.below(20_000);
        let (partition, work) = (copying.partition, copying.work);
        let copy = match self.copy(node, &mut copying, bytes_max) {
            Ok(true) => copying.log.take().map(|log| self.complete(&copying, log)).transpose(),
            Ok(false) => return self.nodes[node].copying.push(copying),
            Err(error) => Err(error),
        };
        let over = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        let copy = copy.unwrap_or_else(|error| {
            // A disk that fails is not better before the process begins anew.
            self.nodes[node].copies_fail |= !matches!(error, CopyError::Io(ref error) if over(error));
            None
        });
        self.count.copies += usize::from(copy.is_some());
        let said = FromPeer::Copied { work, copy };
        self.nodes[node].shard.queue.push(Command::FromPeer { partition, said });
    }

    /// Copies some batches; returns whether everything is there.
    fn copy(&self, node: usize, copying: &mut Copying, bytes_max: usize) -> Result<bool, CopyError> {
        let Copying { partition, leader, leader_epoch, .. } = *copying;
        let from = &self.nodes[number_of(leader)];
        let over = || CopyError::Io(std::io::ErrorKind::ConnectionReset.into());
        let handle = from.surroundings.registry.led(partition).ok().filter(|_| from.up).ok_or_else(over)?;
        let Some(log) = &mut copying.log else {
            copying.pin = Some(handle.reader.pin().ok_or_else(over)?);
            let config = walser_log::LogConfig::from(&config(partition));
            let directory = &self.nodes[node].surroundings.directory;
            copying.log = Some(directory.begin_copy(partition, config, handle.reader.retained(), 1)?);
            return Ok(false);
        };
        let read =
            handle.reader.read_retained(log.log_end(), handle.reader.log_end(), bytes_max).map_err(|_| over())?;
        if !handle.serving() || handle.epoch() != leader_epoch {
            return Err(over());
        }
        log.append(read.batches, 1)?;
        Ok(log.log_end() >= handle.reader.log_end())
    }

    /// With the producers of the leader.
    fn complete(&self, copying: &Copying, log: LogCopy) -> Result<CompleteCopy, CopyError> {
        let from = &self.nodes[number_of(copying.leader)].surroundings.registry;
        let over = || CopyError::Io(std::io::ErrorKind::ConnectionReset.into());
        let handle = from.led(copying.partition).map_err(|_| over())?;
        let producers = handle.reader.producers_at(log.log_end(), 1)?;
        log.complete(Some(&producers), handle.reader.tombstone_floor())
    }

    /// A node is heard by the others with which it has connections.
    pub(super) fn beat(&mut self, node: usize) {
        let leaders: std::collections::BTreeSet<usize> = self
            .network
            .opened
            .keys()
            .filter(|(follower, _, _)| *follower == node)
            .map(|(_, leader, _)| *leader)
            .collect();
        for leader in leaders {
            let heard = Command::Heard { node: node_id(node), node_epoch: self.nodes[node].epoch };
            self.nodes[leader].shard.queue.push(heard);
        }
    }

    /// Everybody has a connection to everybody, and nothing is on its way for ever.
    pub(super) fn deliver_all(&mut self) {
        for _ in 0..200 {
            self.deliver();
        }
        for node in 0..NODES {
            self.push_somewhere(node);
            self.push_somewhere(node);
            self.copy_somewhere(node);
        }
    }
}
