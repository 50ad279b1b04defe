//! The token with which a member comes back: it says everything that a gateway needs to attach it, and of a member that
//! polls where it stands. It is signed with a key of the shard, so that nobody makes one up.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use prost::Message as _;
use sha2::Sha256;
use walser_group::{GroupEpoch, GroupId, MemberRef, TokenKey};
use walser_model::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};
use walser_proto::internal::v1 as pbi;

use super::messages::{member_name, member_ref, topic_id, topic_id_message};
use crate::{ApiError, Reason};

/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 64 << 10;
/// Bytes of the code that signs a token: of HMAC-SHA-256 (RFC 2104) the first half.
const MAC_BYTES: usize = 16;
/// The floor of a partition that is not known.
const NO_FLOOR: i64 = -1;

/// A member and its attachment, and of one that polls where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberToken {
    pub member: MemberRef,
    pub poll: Option<PollState>,
}

/// Where a member that polls stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PollState {
    /// The member epoch of the last answer.
    pub epoch: GroupEpoch,
    /// What it had with the last answer, and the lowest offset of each that it may commit; `None`: reading it has not begun, and
    /// nobody has looked what is committed of it.
    pub held: BTreeMap<TopicPartition, Option<Offset>>,
    /// Of partitions that stand elsewhere than at what is committed.
    pub places: BTreeMap<TopicPartition, PollPlace>,
    /// How it joined, in whatever form the gateway keeps that.
    pub settings: Vec<u8>,
}

/// Where a member that polls stands in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollPlace {
    /// The next offset to read.
    pub next: Offset,
    /// Epoch of the record before, if it is known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The last answer had records of it.
    pub delivered: bool,
}

/// A token as a client has sent it. Whether it is genuine is not known before it is opened.
#[derive(Debug, Clone)]
pub struct SealedToken {
    field: &'static str,
    token: MemberToken,
    body: Vec<u8>,
    mac: Vec<u8>,
}

fn mac_of(key: &TokenKey, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("a key may have any length");
    mac.update(body);
    mac
}

// === impl MemberToken ===

impl MemberToken {
    /// As text.
    ///
    /// # Errors
    /// `QUOTA_EXCEEDED`: the member stands in more partitions than a token can tell.
    pub fn seal(&self, key: &TokenKey) -> Result<String, ApiError> {
        let body =
            pbi::TokenBody { member: Some(member_name(&self.member)), poll: self.poll.as_ref().map(poll_message) };
        let body = body.encode_to_vec();
        let mac = mac_of(key, &body).finalize().into_bytes()[..MAC_BYTES].to_vec();
        let sealed = pbi::TokenEnvelope { body: body.into(), mac: mac.into() }.encode_to_vec();
        let text = BASE64_URL_SAFE_NO_PAD.encode(sealed);
        if text.len() > TOKEN_BYTES_MAX {
            let error = format!(
                "the token of the member would have {} bytes, at most {TOKEN_BYTES_MAX} are allowed: commit what was \
                 delivered, or read with Consume",
                text.len()
            );
            return Err(ApiError::new(Reason::QuotaExceeded, error).with("limit", TOKEN_BYTES_MAX));
        }
        Ok(text)
    }
}

fn poll_message(poll: &PollState) -> pbi::PolledState {
    let mut topics = BTreeMap::<TopicId, pbi::PolledTopic>::new();
    for (partition, floor) in &poll.held {
        let topic = topics.entry(partition.topic).or_default();
        topic.partitions.push(partition.partition.0);
        topic.commit_floors.push(floor.map_or(NO_FLOOR, |floor| floor.0));
    }
    for (partition, place) in &poll.places {
        topics.entry(partition.topic).or_default().places.push(pbi::PolledPlace {
            partition: partition.partition.0,
            next_offset: place.next.0,
            leader_epoch: place.leader_epoch.map(|epoch| epoch.0),
            delivered: place.delivered,
        });
    }
    let topics = topics.into_iter().map(|(id, topic)| pbi::PolledTopic { topic_id: topic_id_message(id), ..topic });
    pbi::PolledState { member_epoch: poll.epoch.0, topics: topics.collect(), settings: poll.settings.clone().into() }
}

fn poll_of_message(message: pbi::PolledState) -> Result<PollState, ApiError> {
    let mut poll = PollState {
        epoch: GroupEpoch(message.member_epoch),
        settings: message.settings.to_vec(),
        ..PollState::default()
    };
    for topic in message.topics {
        let id = topic_id(&topic.topic_id)?;
        let partition = |number| TopicPartition::new(id, PartitionIndex(number));
        let floors = topic.commit_floors.into_iter().chain(std::iter::repeat(0));
        let floors = floors.map(|floor| (floor != NO_FLOOR).then_some(Offset(floor)));
        poll.held.extend(topic.partitions.into_iter().map(partition).zip(floors));
        poll.places.extend(topic.places.into_iter().map(|place| {
            let leader_epoch = place.leader_epoch.map(LeaderEpoch);
            let (next, delivered) = (Offset(place.next_offset), place.delivered);
            (partition(place.partition), PollPlace { next, leader_epoch, delivered })
        }));
    }
    Ok(poll)
}

// === impl SealedToken ===

impl SealedToken {
    /// From text. `field`: where it came in.
    ///
    /// # Errors
    /// `FIELD_INVALID`: the text is not of a token.
    pub fn decode(field: &'static str, text: &str) -> Result<Self, ApiError> {
        let bad = || not_a_token(field);
        if text.len() > TOKEN_BYTES_MAX {
            return Err(bad());
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        let pbi::TokenEnvelope { body, mac } = pbi::TokenEnvelope::decode(&bytes[..]).map_err(|_| bad())?;
        let content = pbi::TokenBody::decode(&body[..]).map_err(|_| bad())?;
        let member = member_ref(content.member).map_err(|_| bad())?;
        let poll = content.poll.map(poll_of_message).transpose().map_err(|_| bad())?;
        Ok(Self { field, token: MemberToken { member, poll }, body: body.to_vec(), mac: mac.to_vec() })
    }

    /// The group that it says it is of.
    pub fn group(&self) -> &GroupId {
        &self.token.member.group
    }

    /// How the member that polls joined, as the token says.
    pub fn settings(&self) -> Option<&[u8]> {
        self.token.poll.as_ref().map(|poll| &*poll.settings)
    }

    /// What it says.
    ///
    /// # Errors
    /// `FIELD_INVALID`: it was not sealed with the key.
    pub fn open(self, key: &TokenKey) -> Result<MemberToken, ApiError> {
        let genuine = self.mac.len() == MAC_BYTES && mac_of(key, &self.body).verify_truncated_left(&self.mac).is_ok();
        if genuine { Ok(self.token) } else { Err(not_a_token(self.field)) }
    }
}

fn not_a_token(field: &str) -> ApiError {
    ApiError::field(field, "is not a token of this cluster; leave it out to join anew")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use walser_group::AttachmentNumber;

    use super::*;

    const KEY: TokenKey = TokenKey([7; 32]);

    fn member(group: &str, instance: Option<String>, attachment: i64) -> MemberRef {
        let instance = instance.map(|instance| instance.parse().unwrap());
        let attachment = AttachmentNumber(attachment);
        MemberRef { group: group.parse().unwrap(), member: "m".parse().unwrap(), instance, attachment }
    }

    fn partition(topic: u8, number: i32) -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([topic; 16]), PartitionIndex(number))
    }

    proptest! {
        #[test]
        fn a_token_comes_back_as_it_was_and_no_other_is_taken(
            group in "[a-zü]{1,40}",
            instance in proptest::option::of("[a-z]{1,256}"),
            attachment in any::<i64>(),
            held in proptest::collection::btree_map((0..3_u8, 0..9_i32), proptest::option::of(0..i64::MAX), 0..20),
            places in proptest::collection::btree_map((0..3_u8, 0..9_i32), (any::<i64>(), proptest::option::of(0..9_i32), any::<bool>()), 0..9),
            settings in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
            flipped in any::<prop::sample::Index>(),
            garbage in "[A-Za-z0-9_-]{0,300}",
        ) {
            let place = |(next, epoch, delivered): (i64, Option<i32>, bool)| {
                PollPlace { next: Offset(next), leader_epoch: epoch.map(LeaderEpoch), delivered }
            };
            let poll = settings.map(|settings| PollState {
                epoch: GroupEpoch(3),
                held: held.into_iter().map(|((topic, number), floor)| (partition(topic, number), floor.map(Offset))).collect(),
                places: places.into_iter().map(|((topic, number), of)| (partition(topic, number), place(of))).collect(),
                settings,
            });
            let token = MemberToken { member: member(&group, instance, attachment), poll };
            let text = token.seal(&KEY).unwrap();
            let sealed = SealedToken::decode("token", &text).unwrap();
            prop_assert_eq!(sealed.group(), &token.member.group);
            prop_assert!(sealed.clone().open(&TokenKey([8; 32])).is_err(), "of another shard");
            prop_assert_eq!(sealed.open(&KEY).unwrap(), token);
            // One that was changed anywhere is none.
            let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(&text).unwrap();
            let at = flipped.index(bytes.len());
            bytes[at] ^= 1;
            let changed = SealedToken::decode("token", &BASE64_URL_SAFE_NO_PAD.encode(bytes));
            prop_assert!(changed.and_then(|sealed| sealed.open(&KEY)).is_err());
            prop_assert!(SealedToken::decode("token", &garbage).and_then(|sealed| sealed.open(&KEY)).is_err());
        }
    }

    #[test]
    fn a_token_of_any_length_is_bounded() {
        assert!(SealedToken::decode("token", &"A".repeat(1 << 20)).is_err());
        assert!(SealedToken::decode("token", "").is_err());
        let place = PollPlace { next: Offset(1 << 40), leader_epoch: Some(LeaderEpoch(9)), delivered: true };
        let places = |count| (0..count).map(|number| (partition(1, number), place)).collect();
        let token = |count| MemberToken {
            member: member("g", None, 1),
            poll: Some(PollState { places: places(count), ..PollState::default() }),
        };
        assert!(token(2_000).seal(&KEY).is_ok());
        // So is one of before floors were in it.
        let held = [(partition(1, 3), Some(Offset(9)))].into();
        let mut old = poll_message(&PollState { held, ..PollState::default() });
        old.topics[0].commit_floors.clear();
        assert_eq!(poll_of_message(old).unwrap().held, [(partition(1, 3), Some(Offset::ZERO))].into());
        assert_eq!(token(10_000).seal(&KEY).unwrap_err().reason(), Reason::QuotaExceeded);
    }
}
