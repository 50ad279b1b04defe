//! Consumer groups: the gateway plays the member, so that a client only reads records and sends commits.
//!
//! A [`HostedShard`] keeps the session of this gateway with one shard of groups, for all members that it has there. A
//! [`Membership`] is one of these members: what it asks the coordinator, and what the coordinator tells it. A
//! [`GroupStream`](stream::GroupStream) reads what a member holds for one client, and gives back what it has to.
//!
//! Invariant: nothing is sent to a client of a partition that its member does not hold, as far as this gateway has heard;
//! and of a coordinator that has not been heard for a session timeout nothing is assumed.

mod admin;
mod closings;
mod commit_floor;
mod commits;
mod credit;
mod doubts;
mod holdings;
mod hosted_shard;
mod membership;
mod named_commits;
mod poll;
mod request;
mod stream;
mod told_bytes;

use std::sync::Arc;

use walser_group::{GatewayId, GroupId};
use walser_model::Random;
use walser_rpc::{ApiError, GROUP_SHARDS, Network, shard_of_group};
use walser_service::Tasks;

use crate::metadata::Metadata;
use crate::reading::Reading;
use crate::topics::Topics;

use self::closings::Closings;
use self::hosted_shard::HostedShard;

pub(crate) use admin::{GroupAdmin, GroupQuery, PartitionLag, ResetGroup, ResetTo, total};
pub(crate) use commits::OFFSETS_MAX;
pub(crate) use credit::Grant;
pub(crate) use poll::{PollRequest, Polled};
pub(crate) use request::{CommitMode, CommitRequest, GroupRequest, JoinRequest, OffsetCommit, Place};
pub(crate) use stream::{Assigned, GroupEvent, Requests, RevocationCause};

/// The members of this gateway. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    reading: Reading,
    metadata: Metadata,
    topics: Topics,
    random: Arc<dyn Random>,
    gateway: GatewayId,
    shards: Arc<[Arc<HostedShard>]>,
    closings: Closings,
}

impl Groups {
    /// No members yet. A session with a shard begins with the first of its members.
    pub(crate) fn start(
        (reading, metadata, topics): (Reading, Metadata, Topics),
        network: &Network,
        random: Arc<dyn Random>,
        tasks: &mut Tasks,
    ) -> Self {
        let gateway: GatewayId = unique(&*random).parse().expect("a UUID is a name");
        let shard = |number| Arc::new(HostedShard::new(number, gateway.clone()));
        let shards: Arc<[Arc<HostedShard>]> = (0..GROUP_SHARDS).map(shard).collect();
        for shard in &*shards {
            tasks.start_endless(
                "session with a shard of groups",
                Arc::clone(shard).keep(network.clone(), metadata.clone()),
            );
        }
        Self { reading, metadata, topics, random, gateway, shards, closings: Closings::default() }
    }

    /// Members that are attached here.
    pub(crate) fn member_count(&self) -> usize {
        self.shards.iter().map(|shard| shard.member_count()).sum()
    }

    /// The shard of a group.
    fn shard(&self, group: &GroupId) -> Result<Arc<HostedShard>, ApiError> {
        let number = shard_of_group(group);
        let at = usize::try_from(number).map_err(|_| ApiError::internal("a shard has a negative number"))?;
        self.shards.get(at).cloned().ok_or_else(|| ApiError::internal("a group has no shard"))
    }
}

/// A new UUID.
fn unique(random: &dyn Random) -> String {
    uuid::Builder::from_random_bytes(random.bytes()).into_uuid().to_string()
}
