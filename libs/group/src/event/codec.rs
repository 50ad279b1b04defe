//! Events as the keys and values of records.
//!
//! A key is one byte for its kind and the names that it is of. A value is one byte for its version and the fields.
//! A kind that this version does not know is skipped: a later version may write more about a group. A version of a value
//! that this version does not know is refused: what it changes cannot be guessed. Numbers are never used again.

use std::collections::{BTreeMap, BTreeSet};

use walser_model::{LeaderEpoch, Offset, TopicPartition};

use super::bytes::{Reader, Writer};
use super::{
    AssignedPartitions, AttachmentRecord, CommittedOffset, CurrentAssignment, Event, GroupRecord, MemberRecord,
};
use crate::id::{AttachmentNumber, CoordinatorEpoch, GroupEpoch, TokenKey};
use crate::subscription::{Assignor, Subscription};

/// The version of all values.
const VERSION: u8 = 1;

const ATTACHMENTS_RESERVED: u8 = 1;
const GROUP: u8 = 2;
const ASSIGNMENT_EPOCH: u8 = 3;
const MEMBER: u8 = 4;
const TARGET: u8 = 5;
const CURRENT: u8 = 6;
const ATTACHMENT: u8 = 7;
const OFFSET: u8 = 8;
const COORDINATOR: u8 = 9;
const TOKEN_KEY: u8 = 10;

/// The bytes of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedEvent {
    pub key: Vec<u8>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

/// Bytes that are not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventCodecError {
    /// The bytes end within a value.
    #[error("the event is truncated")]
    Truncated,
    /// There are bytes behind the last value.
    #[error("{0} bytes follow the event")]
    Trailing(usize),
    /// A value that its type does not have.
    #[error("the event has an invalid {0}")]
    Invalid(&'static str),
    /// A later version of Walser wrote it.
    #[error("the event has version {0}, this process reads up to {VERSION}; upgrade it")]
    UnsupportedVersion(u8),
}

impl Event {
    /// Encodes the event as a key and a value.
    pub fn encode(&self) -> EncodedEvent {
        let (mut key, mut value) = (Writer::default(), Writer(vec![VERSION]));
        let present = match self {
            Self::Coordinator(epoch) => {
                key.byte(COORDINATOR);
                value.long(epoch.0);
                true
            }
            Self::TokenKey(token_key) => {
                key.byte(TOKEN_KEY);
                value.0.extend(token_key.0);
                true
            }
            Self::AttachmentsReserved(number) => {
                key.byte(ATTACHMENTS_RESERVED);
                value.long(number.0);
                true
            }
            Self::Group(group, record) => {
                key.byte(GROUP);
                key.text(group.as_str());
                record.as_ref().map(|record| write_group(&mut value, record)).is_some()
            }
            Self::AssignmentEpoch(group, epoch) => {
                key.byte(ASSIGNMENT_EPOCH);
                key.text(group.as_str());
                epoch.map(|epoch| value.int(epoch.0)).is_some()
            }
            Self::Member(group, member, record) => {
                write_member_key(&mut key, MEMBER, group.as_str(), member.as_str());
                record.as_ref().map(|record| write_member(&mut value, record)).is_some()
            }
            Self::Target(group, member, target) => {
                write_member_key(&mut key, TARGET, group.as_str(), member.as_str());
                let write = |target: &Vec<TopicPartition>| {
                    value.by_topic(target.iter().map(|partition| (*partition, ())), |_, ()| ());
                };
                target.as_ref().map(write).is_some()
            }
            Self::Current(group, member, current) => {
                write_member_key(&mut key, CURRENT, group.as_str(), member.as_str());
                let write = |current: &CurrentAssignment| {
                    value.int(current.epoch.0);
                    write_assigned(&mut value, &current.assigned);
                    write_assigned(&mut value, &current.revoking);
                };
                current.as_ref().map(write).is_some()
            }
            Self::Attachment(group, member, record) => {
                write_member_key(&mut key, ATTACHMENT, group.as_str(), member.as_str());
                let write = |record: &AttachmentRecord| {
                    value.long(record.number.0);
                    value.long(record.previous.0);
                    value.option(record.gateway.as_ref(), |value, gateway| value.text(gateway.as_str()));
                };
                record.as_ref().map(write).is_some()
            }
            Self::Offset(group, partition, committed) => {
                key.byte(OFFSET);
                key.text(group.as_str());
                key.topic_partition(partition);
                committed.as_ref().map(|committed| write_offset(&mut value, committed)).is_some()
            }
        };
        EncodedEvent { key: key.0, value: present.then_some(value.0) }
    }

    /// Decodes a key and a value. Returns `None` for a kind of key that this version does not know.
    ///
    /// # Errors
    /// The bytes are not an event that this version reads.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, EventCodecError> {
        let mut key = Reader::new(key);
        let event = match key.byte()? {
            COORDINATOR => {
                let epoch = read(value, |value| value.long().map(CoordinatorEpoch))?;
                Self::Coordinator(epoch.ok_or(EventCodecError::Invalid("tombstone"))?)
            }
            TOKEN_KEY => {
                let found = read(value, |value| value.array().map(TokenKey))?;
                Self::TokenKey(found.ok_or(EventCodecError::Invalid("tombstone"))?)
            }
            ATTACHMENTS_RESERVED => {
                let number = read(value, read_attachment)?;
                Self::AttachmentsReserved(number.ok_or(EventCodecError::Invalid("tombstone"))?)
            }
            GROUP => Self::Group(key.parsed("group")?, read(value, read_group)?),
            ASSIGNMENT_EPOCH => Self::AssignmentEpoch(key.parsed("group")?, read(value, read_epoch)?),
            MEMBER => Self::Member(key.parsed("group")?, key.parsed("member")?, read(value, read_member)?),
            TARGET => {
                let partitions = read(value, |value| value.by_topic(|_| Ok(())))?;
                let target = partitions.map(|found| found.into_iter().map(|(partition, ())| partition).collect());
                Self::Target(key.parsed("group")?, key.parsed("member")?, target)
            }
            CURRENT => {
                let current = read(value, |value| {
                    let (epoch, assigned, revoking) =
                        (read_epoch(value)?, read_assigned(value)?, read_assigned(value)?);
                    Ok(CurrentAssignment { epoch, assigned, revoking })
                })?;
                Self::Current(key.parsed("group")?, key.parsed("member")?, current)
            }
            ATTACHMENT => {
                let record = read(value, |value| {
                    let (number, previous) = (read_attachment(value)?, read_attachment(value)?);
                    let gateway = value.option(|value| value.parsed("gateway"))?;
                    Ok(AttachmentRecord { number, previous, gateway })
                })?;
                Self::Attachment(key.parsed("group")?, key.parsed("member")?, record)
            }
            OFFSET => Self::Offset(key.parsed("group")?, key.topic_partition()?, read(value, read_offset)?),
            _ => return Ok(None),
        };
        key.end()?;
        Ok(Some(event))
    }
}

fn write_member_key(key: &mut Writer, kind: u8, group: &str, member: &str) {
    key.byte(kind);
    key.text(group);
    key.text(member);
}

/// Reads a value that may be a tombstone, all of it.
fn read<T>(
    value: Option<&[u8]>,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, EventCodecError>,
) -> Result<Option<T>, EventCodecError> {
    let Some(value) = value else { return Ok(None) };
    let mut value = Reader::new(value);
    match value.byte()? {
        VERSION => {}
        0 => return Err(EventCodecError::Invalid("version")),
        later => return Err(EventCodecError::UnsupportedVersion(later)),
    }
    let found = read(&mut value)?;
    value.end()?;
    Ok(Some(found))
}

fn read_epoch(value: &mut Reader<'_>) -> Result<GroupEpoch, EventCodecError> {
    match value.int()? {
        epoch @ 0.. => Ok(GroupEpoch(epoch)),
        _ => Err(EventCodecError::Invalid("epoch")),
    }
}

/// Numbers in the upper half are never reached: from there on they could not be counted up.
fn read_attachment(value: &mut Reader<'_>) -> Result<AttachmentNumber, EventCodecError> {
    match value.long()? {
        number @ 0..=0x3fff_ffff_ffff_ffff => Ok(AttachmentNumber(number)),
        _ => Err(EventCodecError::Invalid("attachment number")),
    }
}

fn write_group(value: &mut Writer, record: &GroupRecord) {
    value.int(record.epoch.0);
    value.long(record.created_at);
    value.option(record.empty_since, Writer::long);
    value.byte(u8::from(record.had_members));
}

fn read_group(value: &mut Reader<'_>) -> Result<GroupRecord, EventCodecError> {
    let (epoch, created_at) = (read_epoch(value)?, value.long()?);
    Ok(GroupRecord { epoch, created_at, empty_since: value.option(Reader::long)?, had_members: value.bool()? })
}

fn write_member(value: &mut Writer, record: &MemberRecord) {
    value.option(record.instance.as_ref(), |value, instance| value.text(instance.as_str()));
    value.text(&record.client_id);
    value.text(&record.client_address);
    let subscription = &record.subscription;
    value.count(subscription.topics.len());
    for topic in &subscription.topics {
        value.text(topic.as_str());
    }
    value.option(subscription.pattern.as_deref(), Writer::text);
    value.option(subscription.assignor, |value, assignor| value.text(assignor.as_str()));
    value.millis(record.session_timeout);
    value.millis(record.revocation_timeout);
    value.long(record.joined_at);
}

fn read_member(value: &mut Reader<'_>) -> Result<MemberRecord, EventCodecError> {
    let instance = value.option(|value| value.parsed("instance"))?;
    let (client_id, client_address) = (value.text()?.to_owned(), value.text()?.to_owned());
    let mut topics = BTreeSet::new();
    for _ in 0..value.count()? {
        topics.insert(value.parsed("topic")?);
    }
    let pattern = value.option(|value| value.text().map(str::to_owned))?;
    let assignor: Option<Assignor> = value.option(|value| value.parsed("assignor"))?;
    Ok(MemberRecord {
        instance,
        client_id,
        client_address,
        subscription: Subscription { topics, pattern, assignor },
        session_timeout: value.millis()?,
        revocation_timeout: value.millis()?,
        joined_at: value.long()?,
    })
}

fn write_assigned(value: &mut Writer, assigned: &AssignedPartitions) {
    value.by_topic(assigned.iter().map(|(partition, epoch)| (*partition, *epoch)), |value, epoch| value.int(epoch.0));
}

fn read_assigned(value: &mut Reader<'_>) -> Result<AssignedPartitions, EventCodecError> {
    Ok(BTreeMap::from_iter(value.by_topic(read_epoch)?))
}

fn write_offset(value: &mut Writer, committed: &CommittedOffset) {
    value.long(committed.offset.0);
    value.option(committed.leader_epoch, |value, epoch| value.int(epoch.0));
    value.text(&committed.metadata);
    value.long(committed.committed_at);
}

fn read_offset(value: &mut Reader<'_>) -> Result<CommittedOffset, EventCodecError> {
    Ok(CommittedOffset {
        offset: match value.long()? {
            offset @ 0.. => Offset(offset),
            _ => return Err(EventCodecError::Invalid("offset")),
        },
        leader_epoch: value.option(|value| value.int().map(LeaderEpoch))?,
        metadata: value.text()?.to_owned(),
        committed_at: value.long()?,
    })
}

#[cfg(test)]
mod tests {
    use walser_model::{PartitionIndex, TopicId};

    use super::*;
    use crate::CommittedOffset;

    /// One event of each kind with everything it may have, and its bytes: they never change.
    fn golden() -> Vec<(Event, &'static str)> {
        let (group, member) = ("g".parse().unwrap(), "m".parse().unwrap());
        let (epoch, partition) = (GroupEpoch(5), TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(1)));
        let (group, member) = (|| Clone::clone(&group), || Clone::clone(&member));
        let record = MemberRecord {
            instance: Some("i".parse().unwrap()),
            client_id: "c".to_owned(),
            client_address: "a".to_owned(),
            subscription: Subscription {
                topics: BTreeSet::from(["t".parse().unwrap()]),
                pattern: Some("p".to_owned()),
                assignor: Some(Assignor::Range),
            },
            session_timeout: std::time::Duration::from_millis(15_000),
            revocation_timeout: std::time::Duration::from_millis(30_000),
            joined_at: 258,
        };
        let group_record = GroupRecord { epoch, created_at: 1, empty_since: Some(2), had_members: true };
        let (assigned, revoking) = (BTreeMap::from([(partition, epoch)]), BTreeMap::new());
        let attachment = AttachmentRecord {
            number: AttachmentNumber(9),
            previous: AttachmentNumber(8),
            gateway: Some("w".parse().unwrap()),
        };
        let committed = CommittedOffset {
            offset: Offset(66),
            leader_epoch: Some(LeaderEpoch(3)),
            metadata: "x".to_owned(),
            committed_at: 4,
        };
        let current = CurrentAssignment { epoch, assigned, revoking };
        vec![
            (Event::Coordinator(CoordinatorEpoch(258)), "09 010000000000000102"),
            (
                Event::TokenKey(TokenKey([0xab; 32])),
                "0a 01abababababababababababababababababababababababababababababababab",
            ),
            (Event::AttachmentsReserved(AttachmentNumber(1_000)), "01 0100000000000003e8"),
            (Event::Group(group(), Some(group_record)), "020000000167 0100000005000000000000000101000000000000000201"),
            (Event::AssignmentEpoch(group(), Some(epoch)), "030000000167 0100000005"),
            (
                Event::Member(group(), member(), Some(record)),
                "040000000167000000016d 0101000000016900000001630000000161000000010000000174010000000170010000000572616e67650000000000003a9800000000000075300000000000000102",
            ),
            (
                Event::Target(group(), member(), Some(vec![partition])),
                "050000000167000000016d 0100000001070707070707070707070707070707070000000100000001",
            ),
            (
                Event::Current(group(), member(), Some(current)),
                "060000000167000000016d 0100000005000000010707070707070707070707070707070700000001000000010000000500000000",
            ),
            (
                Event::Attachment(group(), member(), Some(attachment)),
                "070000000167000000016d 0100000000000000090000000000000008010000000177",
            ),
            (
                Event::Offset(group(), partition, Some(committed)),
                "0800000001670707070707070707070707070707070700000001 010000000000000042010000000300000001780000000000000004",
            ),
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn bytes_of_events_never_change() {
        let found: Vec<String> = golden().iter().map(|(event, _)| shown(event)).collect();
        let wanted: Vec<&str> = golden().iter().map(|(_, bytes)| *bytes).collect();
        assert_eq!(found, wanted);
        for (event, _) in golden() {
            let bytes = event.encode();
            assert_eq!(Event::decode(&bytes.key, bytes.value.as_deref()), Ok(Some(event)));
        }
    }

    fn shown(event: &Event) -> String {
        let bytes = event.encode();
        format!("{} {}", hex(&bytes.key), hex(&bytes.value.unwrap()))
    }
}
