//! `CoordinatorService`: decode, ask the shard, encode.

mod admin;
mod session;

use std::sync::Arc;

use tonic::service::Routes;
use walser_group::{GroupError, GroupId};
use walser_model::Random;
use walser_proto::internal::v1::ShardRef;
use walser_proto::internal::v1::coordinator_service_server::CoordinatorServiceServer;
use walser_rpc::{ApiError, COORDINATOR_MESSAGE_BYTES_MAX};
use walser_service::Shutdown;

use crate::error::refused;
use crate::internal_topic::InternalTopic;
use crate::requests::check_group;
use crate::shard::ShardHandle;

/// The service. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// By their numbers.
    pub(crate) shards: Vec<ShardHandle>,
    pub(crate) topic: InternalTopic,
    /// For keys of shards.
    pub(crate) random: Arc<dyn Random>,
    /// Ends the sessions.
    pub(crate) stopping: Shutdown,
}

/// The shard that a request is for.
struct Asked<'a> {
    number: i32,
    shard: &'a ShardHandle,
    /// `None`: any.
    term: Option<i64>,
}

/// The services, for a listener.
pub(crate) fn routes(api: Api) -> Routes {
    let service = CoordinatorServiceServer::new(api)
        .max_decoding_message_size(COORDINATOR_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(COORDINATOR_MESSAGE_BYTES_MAX);
    Routes::new(service)
}

// === impl Api ===

impl Api {
    /// A key for a shard that has none.
    fn fresh_key(&self) -> [u8; 32] {
        let (first, second) = (self.random.bytes(), self.random.bytes());
        std::array::from_fn(|at| if at < 16 { first[at] } else { second[at - 16] })
    }

    fn shard(&self, number: i32) -> Result<&ShardHandle, ApiError> {
        let found = usize::try_from(number).ok().and_then(|number| self.shards.get(number));
        found.ok_or_else(|| ApiError::field("shard", format!("must be from 0 to {}", self.shards.len() - 1)))
    }

    fn asked(&self, reference: Option<ShardRef>) -> Result<Asked<'_>, ApiError> {
        let ShardRef { shard: number, epoch } = reference.ok_or_else(|| ApiError::field("shard", "is missing"))?;
        Ok(Asked { number, shard: self.shard(number)?, term: Some(epoch).filter(|term| *term != 0) })
    }

    /// The shard that a request is for, and a group in it. Without the internal topic no group exists.
    fn asked_of(&self, reference: Option<ShardRef>, group: &str) -> Result<(Asked<'_>, GroupId), ApiError> {
        let asked = self.asked(reference)?;
        let group = walser_rpc::name_of_message("group", group)?;
        check_group(asked.number, &group)?;
        if self.topic.exists()? { Ok((asked, group)) } else { Err(refused(GroupError::GroupNotFound { group })) }
    }
}
