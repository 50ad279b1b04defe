//! What leaders, followers and the controller say to each other, as messages.

use bytes::Bytes;
use walser_model::{LeaderEpoch, NodeId, Offset, TopicPartition};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::replica_data::Content;
use walser_replication::{Ack, AlterIsr, Diverging, Frame, ReplicationSession, ReplicationSessionId};

use crate::replication::{BatchTrace, OpenAnswer};

/// What a leader says about a partition.
#[derive(Debug)]
pub(super) enum FromLeader {
    Pushed(Frame, Bytes, Vec<pbi::BatchTrace>),
    Diverged(Diverging),
    CopyOffered { leader_epoch: LeaderEpoch, open: ReplicationSessionId, log_start: Offset },
    Refused(ReplicationSessionId),
}

fn id_message(id: ReplicationSessionId) -> pbi::ReplicationOpenId {
    let sequence = i64::try_from(id.sequence).unwrap_or(i64::MAX);
    pbi::ReplicationOpenId { node_epoch: id.node_epoch, sequence }
}

fn id_of(message: Option<&pbi::ReplicationOpenId>) -> Option<ReplicationSessionId> {
    let message = message?;
    Some(ReplicationSessionId { node_epoch: message.node_epoch, sequence: u64::try_from(message.sequence).ok()? })
}

fn reference(partition: TopicPartition, epoch: LeaderEpoch) -> Option<pbi::PartitionRef> {
    Some(walser_proto::partition_ref(partition, epoch))
}

pub(super) fn reference_of(message: Option<&pbi::PartitionRef>) -> Option<(TopicPartition, LeaderEpoch)> {
    walser_proto::topic_partition(message?)
}

pub(super) fn open_message(partition: TopicPartition, session: &ReplicationSession) -> pbi::ReplicaOpen {
    pbi::ReplicaOpen {
        r#ref: reference(partition, session.leader_epoch),
        id: Some(id_message(session.id)),
        log_end_offset: session.log_end.0,
        durable_offset: session.durable.0,
        lazy: session.lazy,
        last_epoch: session.last_epoch.0,
        damaged: session.damaged,
    }
}

/// `None`: it names no partition, or no open.
pub(super) fn open_of(follower: NodeId, message: &pbi::ReplicaOpen) -> Option<(TopicPartition, ReplicationSession)> {
    let (partition, leader_epoch) = reference_of(message.r#ref.as_ref())?;
    let session = ReplicationSession {
        follower,
        id: id_of(message.id.as_ref())?,
        leader_epoch,
        log_end: Offset(message.log_end_offset),
        durable: Offset(message.durable_offset),
        lazy: message.lazy,
        last_epoch: LeaderEpoch(message.last_epoch),
        damaged: message.damaged,
    };
    Some((partition, session))
}

pub(super) fn close_message(partition: TopicPartition, open: ReplicationSessionId) -> pbi::ReplicaClose {
    pbi::ReplicaClose { r#ref: reference(partition, LeaderEpoch::NONE), id: Some(id_message(open)) }
}

/// `None`: it names no partition, or no open.
pub(super) fn close_of(message: &pbi::ReplicaClose) -> Option<(TopicPartition, ReplicationSessionId)> {
    Some((reference_of(message.r#ref.as_ref())?.0, id_of(message.id.as_ref())?))
}

pub(super) fn ack_message(partition: TopicPartition, ack: &Ack) -> pbi::ReplicaAck {
    pbi::ReplicaAck {
        r#ref: reference(partition, ack.leader_epoch),
        id: Some(id_message(ack.open)),
        log_start_offset: Some(ack.log_start.0),
        log_end_offset: ack.log_end.0,
        durable_offset: ack.durable.0,
        lazy: ack.lazy,
    }
}

/// `None`: it names no partition, or no open.
pub(super) fn ack_of(follower: NodeId, message: &pbi::ReplicaAck) -> Option<(TopicPartition, Ack)> {
    let (partition, leader_epoch) = reference_of(message.r#ref.as_ref())?;
    let ack = Ack {
        follower,
        leader_epoch,
        open: id_of(message.id.as_ref())?,
        log_start: Offset(message.log_start_offset.unwrap_or(i64::MAX)),
        log_end: Offset(message.log_end_offset),
        durable: Offset(message.durable_offset),
        lazy: message.lazy,
    };
    Some((partition, ack))
}

pub(super) fn frame_message(
    partition: TopicPartition,
    frame: &Frame,
    record_batches: Bytes,
    traces: Vec<BatchTrace>,
) -> pbi::ReplicaData {
    let trace = |BatchTrace { base_offset, traceparent }| pbi::BatchTrace {
        base_offset: base_offset.0,
        traceparent: traceparent.as_ref().to_owned(),
    };
    let records = pbi::ReplicaRecords {
        record_batches,
        base_offset: frame.base.0,
        end_offset: frame.end.0,
        high_watermark: frame.high_watermark.0,
        log_start_offset: frame.log_start.0,
        tombstone_floor: frame.tombstone_floor.0,
        traces: traces.into_iter().map(trace).collect(),
    };
    pbi::ReplicaData {
        r#ref: reference(partition, frame.leader_epoch),
        id: Some(id_message(frame.open)),
        content: Some(Content::Records(records)),
    }
}

/// What is answered to an open. `None`: records are pushed.
pub(super) fn answer_message(
    partition: TopicPartition,
    open: ReplicationSessionId,
    answer: OpenAnswer,
) -> Option<pbi::ReplicaData> {
    let (epoch, content) = match answer {
        OpenAnswer::Push { .. } => return None,
        OpenAnswer::Diverged(Diverging { leader_epoch, epoch, end, .. }) => {
            (leader_epoch, Content::Diverged(pbi::ReplicaDivergence { epoch: epoch.0, end_offset: end.0 }))
        }
        OpenAnswer::Copy { leader_epoch, log_start } => {
            (leader_epoch, Content::Copy(pbi::ReplicaCopyOffer { log_start_offset: log_start.0 }))
        }
        OpenAnswer::Refused => (LeaderEpoch::NONE, Content::Refused(pbi::ReplicaRefusal {})),
    };
    Some(pbi::ReplicaData { r#ref: reference(partition, epoch), id: Some(id_message(open)), content: Some(content) })
}

/// `None`: it says nothing that this version knows.
pub(super) fn data_of(message: pbi::ReplicaData) -> Option<(TopicPartition, FromLeader)> {
    let (partition, leader_epoch) = reference_of(message.r#ref.as_ref())?;
    let open = id_of(message.id.as_ref())?;
    let said = match message.content? {
        Content::Records(records) => {
            let frame = Frame {
                leader_epoch,
                open,
                base: Offset(records.base_offset),
                end: Offset(records.end_offset),
                high_watermark: Offset(records.high_watermark),
                log_start: Offset(records.log_start_offset),
                tombstone_floor: Offset(records.tombstone_floor),
            };
            FromLeader::Pushed(frame, records.record_batches, records.traces)
        }
        Content::Diverged(pbi::ReplicaDivergence { epoch, end_offset }) => {
            let (epoch, end) = (LeaderEpoch(epoch), Offset(end_offset));
            FromLeader::Diverged(Diverging { leader_epoch, open, epoch, end })
        }
        Content::Copy(pbi::ReplicaCopyOffer { log_start_offset }) => {
            FromLeader::CopyOffered { leader_epoch, open, log_start: Offset(log_start_offset) }
        }
        Content::Refused(pbi::ReplicaRefusal {}) => FromLeader::Refused(open),
    };
    Some((partition, said))
}

pub(super) fn proposal_message(partition: TopicPartition, proposal: &AlterIsr) -> pbi::IsrProposal {
    let member = |(node, node_epoch): &(NodeId, i64)| pbi::IsrMember { node_id: node.0, node_epoch: *node_epoch };
    pbi::IsrProposal {
        r#ref: reference(partition, proposal.leader_epoch),
        partition_epoch: proposal.partition_epoch,
        isr: proposal.isr.iter().map(member).collect(),
    }
}

#[cfg(test)]
mod tests {
    use walser_model::{PartitionIndex, TopicId};

    use super::*;

    #[test]
    fn messages_say_what_they_were_made_of() {
        let partition = TopicPartition::new(TopicId::from_bytes([3; 16]), PartitionIndex(4));
        let open = ReplicationSessionId { node_epoch: 9, sequence: (1 << 32) + 7 };
        let (follower, leader_epoch) = (NodeId(2), LeaderEpoch(5));
        let (log_end, durable, last_epoch) = (Offset(20), Offset(10), LeaderEpoch::NONE);
        let (lazy, damaged) = (true, true);
        let session =
            ReplicationSession { follower, id: open, leader_epoch, log_end, durable, lazy, last_epoch, damaged };
        assert_eq!(open_of(follower, &open_message(partition, &session)), Some((partition, session)));
        let log_start = Offset(6);
        let ack = Ack { follower, leader_epoch, open, log_start, log_end, durable, lazy: false };
        assert_eq!(ack_of(follower, &ack_message(partition, &ack)), Some((partition, ack)));
        let (base, end, high_watermark, log_start) = (Offset(3), Offset(4), Offset(2), Offset(1));
        let tombstone_floor = Offset(2);
        let frame = Frame { leader_epoch, open, base, end, high_watermark, log_start, tombstone_floor };
        let trace = BatchTrace { base_offset: base, traceparent: "00-1-2-01".into() };
        let (id, said) = data_of(frame_message(partition, &frame, Bytes::from_static(b"x"), vec![trace])).unwrap();
        let FromLeader::Pushed(found, bytes, traces) = said else { panic!("a frame is pushed") };
        assert!(id == partition && found == frame && bytes == "x");
        assert_eq!((traces[0].base_offset, traces[0].traceparent.as_str()), (3, "00-1-2-01"));
        let answer = Diverging { leader_epoch, open, epoch: LeaderEpoch(-1), end };
        let message = answer_message(partition, open, OpenAnswer::Diverged(answer)).unwrap();
        assert!(matches!(data_of(message), Some((_, FromLeader::Diverged(found))) if found == answer));
        let message = answer_message(partition, open, OpenAnswer::Refused).unwrap();
        assert!(matches!(data_of(message), Some((_, FromLeader::Refused(found))) if found == open));
        assert!(data_of(pbi::ReplicaData::default()).is_none());
    }
}
