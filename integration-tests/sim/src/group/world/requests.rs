//! What a coordinator does for each request.

use std::collections::BTreeSet;

use walser_group::{
    AssignedPartitions, Commit, CommitAuthor, Event as Written, GatewayId, GroupDescription, GroupError, GroupId,
    GroupShard, Join, MemberId, MemberRef, OffsetToCommit, Output, RemovalCause,
};
use walser_model::{Offset, TopicPartition};

use super::World;
use crate::group::check::Origin;
use crate::group::message::{Reply, Request};
use crate::group::party::{Addressed, Phase, Session};

/// What a request leads to: on whose behalf its events are written, and the reply to a member.
type Handled = Result<(Origin, Option<(MemberId, Reply)>), String>;

impl World {
    pub(super) fn handle(
        &mut self,
        shard: &mut GroupShard,
        (to, from): (usize, Option<&GatewayId>),
        request: Request,
        out: &mut Output,
    ) -> Result<(Origin, Option<Addressed>), String> {
        let (origin, reply) = match request {
            Request::Beat | Request::Report(_) => {
                if let Some(gateway) = from {
                    self.handle_gateway(shard, (to, gateway), request, out);
                }
                (Origin::Other, None)
            }
            Request::Commit(commit) => self.handle_commit(shard, commit, out)?,
            Request::Reset(..) | Request::Remove(..) | Request::Delete(_) => {
                (self.handle_operator(shard, request, out), None)
            }
            of_member => self.handle_member(shard, to, of_member, out)?,
        };
        let addressed = reply.zip(from).map(|((member, reply), gateway)| Addressed {
            gateway: gateway.clone(),
            member,
            attachment: None,
            reply,
        });
        Ok((origin, addressed))
    }

    fn handle_member(&mut self, shard: &mut GroupShard, to: usize, request: Request, out: &mut Output) -> Handled {
        let now = self.clock();
        let (member, reply) = match request {
            Request::Join(join) => (join.member.clone(), Some(self.join(shard, to, join, out))),
            Request::Attach(attach) => {
                let member = attach.member.member.clone();
                let result = shard.attach(now, attach, out);
                if result.is_ok() {
                    self.tally.resumptions += 1;
                    self.hear_member(to, &member);
                }
                (member, Some(Reply::Attached(result)))
            }
            Request::Heartbeat(of) => {
                let result = shard.heartbeat(now, &of);
                if result.is_ok() {
                    self.coordinators[to].heard.insert(of.member.to_string(), self.now);
                }
                (of.member, Some(Reply::Current(result)))
            }
            Request::Detach(of, grace) => {
                if shard.detach(now, &of, grace, out).is_ok() {
                    self.coordinators[to].excused.insert(of.member.clone());
                }
                (of.member, None)
            }
            Request::Leave(of, keeps) => {
                if shard.leave(now, &of, RemovalCause::Left, keeps, out).is_ok() {
                    self.coordinators[to].excused.insert(of.member.clone());
                }
                (of.member, None)
            }
            Request::Release(of, released) => {
                let reply = self.release_partitions(shard, &of, &released, out)?;
                (of.member, Some(reply))
            }
            Request::Fetch(of, wanted) => {
                let found = wanted.into_iter().map(|(partition, epoch, floor)| {
                    let committed = shard.committed(&of.group, &partition);
                    (partition, epoch, floor, committed.map_or(0, |committed| committed.offset.0))
                });
                (of.member, Some(Reply::Offsets(found.collect())))
            }
            _ => return Ok((Origin::Other, None)),
        };
        Ok((Origin::Other, reply.map(|reply| (member, reply))))
    }

    fn join(&mut self, shard: &mut GroupShard, to: usize, join: Join, out: &mut Output) -> Reply {
        let member = join.member.clone();
        let holder = join.instance.as_ref().and_then(|id| shard.member_of_instance(&join.group, id)).cloned();
        let result = shard.join(self.clock(), join, out);
        if result.is_ok() {
            self.tally.replacements += u64::from(holder.is_some_and(|holder| holder != member));
            self.hear_member(to, &member);
        }
        Reply::Attached(result)
    }

    fn release_partitions(
        &self,
        shard: &mut GroupShard,
        of: &MemberRef,
        released: &AssignedPartitions,
        out: &mut Output,
    ) -> Result<Reply, String> {
        let before = shard.describe(&of.group).ok();
        let result = shard.release(self.clock(), of, released, out);
        if result.is_ok() && !out.events.is_empty() {
            self.check_released(before.as_ref(), out, of)?;
        }
        Ok(Reply::Current(result))
    }

    fn handle_commit(&mut self, shard: &mut GroupShard, commit: Commit, out: &mut Output) -> Handled {
        let author = commit.author.clone();
        let result = shard.commit(self.clock(), commit, out);
        let Some(author) = author else { return Ok((Origin::Simple, None)) };
        check_innocent(shard, &author, result.as_ref())?;
        let reply = (author.member.member.clone(), Reply::Committed(author.sequence, result));
        Ok((Origin::Member(author.member, author.epoch), Some(reply)))
    }

    fn handle_gateway(
        &mut self,
        shard: &mut GroupShard,
        (to, gateway): (usize, &GatewayId),
        request: Request,
        out: &mut Output,
    ) {
        let now = self.clock();
        self.coordinators[to].heard.insert(gateway.to_string(), self.now);
        if let Request::Report(hosted) = request {
            shard.gateway_report(now, gateway, &hosted.named, out);
            self.excuse_unhosted(to, shard, gateway, &hosted.open);
        } else {
            shard.gateway_heartbeat(now, gateway);
        }
    }

    fn handle_operator(&mut self, shard: &mut GroupShard, request: Request, out: &mut Output) -> Origin {
        let now = self.clock();
        let refused = match request {
            Request::Reset(group, offset) => {
                // Only back: what was never read cannot be skipped.
                let before = shard.committed(&group, &offset.partition).map_or(0, |committed| committed.offset.0);
                let offset = OffsetToCommit { offset: Offset(before.min(offset.offset.0)), ..offset };
                let done = shard.reset_offsets(now, &group, vec![offset], true, out).is_ok();
                self.tally.resets += u64::from(done);
                return Origin::Reset;
            }
            Request::Remove(group, member) => shard.remove_member(now, &group, &member, out).is_err(),
            Request::Delete(group) => shard.delete_group(&group, out).is_err(),
            _ => false,
        };
        self.tally.refusals += u64::from(refused);
        Origin::Other
    }

    fn hear_member(&mut self, to: usize, member: &MemberId) {
        let coordinator = &mut self.coordinators[to];
        coordinator.heard.insert(member.to_string(), self.now);
        coordinator.excused.remove(member);
    }

    fn excuse_unhosted(
        &mut self,
        to: usize,
        shard: &GroupShard,
        gateway: &GatewayId,
        hosted: &BTreeSet<(GroupId, MemberId)>,
    ) {
        for group in shard.groups(None).filter_map(|summary| shard.describe(&summary.group).ok()) {
            let at_gateway = group.members.into_iter().filter(|member| member.gateway.as_ref() == Some(gateway));
            let missing =
                at_gateway.filter(|member| !hosted.contains(&(group.summary.group.clone(), member.member.clone())));
            self.coordinators[to].excused.extend(missing.map(|member| member.member));
        }
    }

    /// What a release frees is not read any more by the session that released it.
    fn check_released(&self, before: Option<&GroupDescription>, out: &Output, of: &MemberRef) -> Result<(), String> {
        let before = before.and_then(|group| group.members.iter().find(|known| known.member == of.member));
        let after = out.events.iter().find_map(|event| match event {
            Written::Current(_, member, Some(current)) if *member == of.member => Some(current),
            _ => None,
        });
        let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
        for (partition, epoch) in &before.current.revoking {
            let freed = !after.revoking.contains_key(partition);
            let sessions = self.by_member.get(&of.member).into_iter().flatten().map(|number| &self.sessions[*number]);
            let reads = |session: &Session| {
                let alive = self.gateways[session.gateway].alive && session.phase == Phase::Attached;
                alive
                    && session.of.attachment == of.attachment
                    && session.positions.get(partition).is_some_and(|(assigned, _)| assigned == epoch)
            };
            if freed && sessions.clone().any(reads) {
                return Err(format!("{partition} was freed while {} reads it", of.member));
            }
        }
        Ok(())
    }
}

/// No commit is refused of a member that holds the partition, and held it in the epoch of the commit.
fn check_innocent(
    shard: &GroupShard,
    author: &CommitAuthor,
    result: Result<&Vec<(TopicPartition, GroupError)>, &GroupError>,
) -> Result<(), String> {
    let Ok(refused) = result else { return Ok(()) };
    for (partition, error) in refused {
        let of_ownership = matches!(error, GroupError::PartitionNotOwned { .. } | GroupError::AssignedLater { .. });
        let group = shard.describe(&author.member.group).map_err(|error| error.to_string())?;
        let member = group.members.into_iter().find(|known| known.member == author.member.member);
        let held = member.and_then(|known| known.current.held_since(partition));
        if of_ownership && held.is_some_and(|since| since <= author.epoch) {
            return Err(format!("an owner was refused: {error}"));
        }
    }
    Ok(())
}

/// A commit without a member.
pub(super) fn simple(group: GroupId, offset: OffsetToCommit) -> Request {
    Request::Commit(Commit { author: None, group, offsets: vec![offset] })
}
