//! `ReplicationService`, and what calls it: the connections between the shards of this node and other nodes.
//!
//! ```text
//!   shards ──▶ Outbox ──▶ to_leader ────▶ a leader's to_followers ──▶ its shards       opens, acknowledgements
//!   shards ◀───────────── to_leader ◀──── a leader's to_followers ◀── its logs         records, marks
//!              Outbox ──▶ proposals ────▶ the controller
//!              Outbox ──▶ copying ──────▶ a leader's copying ◀─────── its logs
//! ```

mod copying;
mod messages;
mod proposals;
mod to_followers;
mod to_leader;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tonic::{Request, Response, Streaming};
use walser_model::{NodeId, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::replication_service_client::ReplicationServiceClient;
use walser_proto::internal::v1::replication_service_server::ReplicationService;
use walser_rpc::{ApiError, Connection, ControllerClient, Network, Reason, caller_of};
use walser_service::Shutdown;

use super::{Answer, Answers};
use crate::engine::Engine;
use crate::replica_registry::ReplicaRegistry;
use crate::replication::{FromPeer, Outbox};
use crate::shard::Command;

/// Largest message between nodes, in bytes: above every batch.
pub(crate) const MESSAGE_BYTES_MAX: usize = 48 << 20;
/// How often both ends of a stream say that they are there.
const BEAT: Duration = Duration::from_millis(200);
/// A peer that says nothing for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// What all connections of a node share. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    pub(crate) node: NodeId,
    pub(crate) outbox: Outbox,
    pub(crate) network: Network,
    pub(crate) controller: ControllerClient,
    pub(crate) engine: Engine,
    pub(crate) registry: ReplicaRegistry,
    /// This incarnation of the node, as the controller knows it; 0: not registered.
    pub(crate) node_epoch: Arc<AtomicI64>,
    pub(crate) shutdown: Shutdown,
}

impl Links {
    /// Serves what waits for other nodes, until the stop.
    pub(crate) async fn run(self) {
        let mut tasks = JoinSet::new();
        tasks.spawn(proposals::propose(self.clone()));
        tasks.spawn(copying::copy_logs(self.clone()));
        let leaders = self.outbox.new_leaders();
        loop {
            for leader in leaders.take() {
                tasks.spawn(to_leader::follow(self.clone(), leader));
            }
            tokio::select! {
                () = leaders.changed() => {}
                // None of them ends by itself; one that has panicked has said so.
                Some(_) = tasks.join_next() => {}
                () = self.shutdown.wait() => return,
            }
        }
    }

    /// Calls to a node that leads partitions.
    fn calls(&self, leader: NodeId) -> Result<ReplicationServiceClient<Connection>, ApiError> {
        let unknown =
            || ApiError::new(Reason::LeaderNotAvailable, format!("the address of node {leader} is not known"));
        let connection = self.network.storage(leader).ok_or_else(unknown)?;
        Ok(ReplicationServiceClient::new(connection)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Cluster that this node belongs to; empty before it is bound.
    fn cluster(&self) -> String {
        self.engine.directory.identity().map(|identity| identity.cluster.to_string()).unwrap_or_default()
    }

    /// Tells the shard of a partition what another node has said.
    fn tell(&self, partition: TopicPartition, said: FromPeer) {
        self.engine.shards.queue(partition).push(Command::FromPeer { partition, said });
    }
}

#[async_trait]
impl ReplicationService for Links {
    type ReplicateStream = Answers<pbi::ReplicateResponse>;

    async fn replicate(&self, request: Request<Streaming<pbi::ReplicateRequest>>) -> Answer<Self::ReplicateStream> {
        let caller = caller_of(&request);
        Ok(Response::new(Box::pin(self.serve_follower(request.into_inner(), caller.as_deref()).await?)))
    }

    type CopyLogStream = Answers<pbi::CopyLogResponse>;

    async fn copy_log(&self, request: Request<pbi::CopyLogRequest>) -> Answer<Self::CopyLogStream> {
        Ok(Response::new(Box::pin(self.serve_copy(request.get_ref())?)))
    }
}
