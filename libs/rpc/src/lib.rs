//! The gRPC kit: errors, deadlines, connections by role, and clients in terms of the model.
//!
//! Services call each other through generated clients on a [`Connection`], which is a TCP channel between processes
//! and the callee's own routes inside one. Appends, reads and look-ups take the [`StorageClient`], so that a batch is
//! handed over inside a process and never encoded.

mod accept_compressed;
mod allowed_roles;
mod any_controller;
mod api_error;
mod append_budget;
mod call_layer;
mod call_metrics;
mod controller_client;
mod coordinator;
mod deadline;
mod feature_levels;
mod grpc_storage;
mod leader_lookups;
mod metadata;
mod network;
mod outage;
mod paging;
mod reason;
mod send_gate;
mod storage_client;

pub use accept_compressed::AcceptCompressed;
pub use allowed_roles::{caller_of, check_node_id};
pub use any_controller::NO_ELECTION;
pub use api_error::{ApiError, TLS_TROUBLE};
pub use append_budget::AppendBudget;
pub use call_layer::{CallLayer, SpanMaker, catch_panic};
pub use controller_client::{
    BeatAnswer, ControllerClient, ControllerState, ControllersTopic, CoordinatorBeat, DiskUse, LeadOffer, NodeBeat,
    NodeFigures, NodeSession, NodeStart, PartitionOut, Registered, ReplicaHeld,
};
pub use coordinator::{
    Answering, COORDINATOR_MESSAGE_BYTES_MAX, CoordinatorClient, CoordinatorSession, GROUP_SHARDS, GROUPS_TOPIC,
    MemberAnswer, MemberRequest, MemberToken, PollPlace, PollState, Said, SealedToken, SessionNotices,
    described_group_message, member_answer_message, member_notice_message, member_request_of_message,
    moved_offset_message, name_of_message, offset_found_message, offsets_to_commit_of_message, refused_offset_message,
    session_open_of_message, session_opened_message, shard_group_message, shard_of_group, topic_ids_of_message,
};
pub use deadline::remaining;
pub use feature_levels::{FEATURE_LEVELS, FeatureLevels};
pub use grpc_storage::{
    append_of_message, append_outcome_message, described_message, offset_answer_message, offset_query_of_message,
    read_of_message, read_outcome_message,
};
pub use leader_lookups::{LeaderAnswer, PartitionLeader, log_ends, look_up_at_leaders};
pub use metadata::{
    CutOffPatience, MetadataSeen, MetadataStream, change_messages, progress_message, snapshot_messages,
    wire_registration, wire_time, wire_topic, wire_topic_value,
};
pub use network::{CarriesTrace, Connection, ConnectionError, Network, answers, local_connection};
pub use outage::Outage;
pub use paging::{after_token, page, page_size};
pub use reason::rule;
pub use send_gate::{SendGate, WeakGate};
pub use storage_client::{
    AppendBatch, AppendOutcome, AppendPermit, AppendReply, BatchAppended, BatchesRead, CompactionFigures,
    DescribedPartition, EndedCompaction, LaggingReplica, LedPartition, OffsetAnswer, OffsetQuery, PartitionNumbers,
    ReadBatches, StorageClient,
};

/// The reasons of errors, from the contract.
pub use walser_proto::v1::ErrorReason as Reason;
/// What a process of the cluster does: from the contract.
pub use walser_proto::v1::NodeRole;
/// Whether a call that failed may have changed something, and what to do next: from the contract.
pub use walser_proto::v1::{Effect, RetryAdvice};
