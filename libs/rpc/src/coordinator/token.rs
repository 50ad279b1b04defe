//! The token with which a member comes back: it says everything that a gateway needs to attach it.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use prost::Message as _;
use walser_group::{AttachmentNumber, GroupId, InstanceId, MemberId, MemberRef};
use walser_proto::internal::v1 as pbi;

use crate::ApiError;

/// Longest token that is looked at, in bytes: three names of the greatest length, and then some.
const TOKEN_BYTES_MAX: usize = 2_048;

/// A member and its attachment, as a client keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberToken(pub MemberRef);

impl MemberToken {
    /// As text.
    pub fn encode(&self) -> String {
        let MemberRef { group, member, instance, attachment } = &self.0;
        let name = pbi::MemberName {
            group: group.to_string(),
            member_id: member.to_string(),
            instance_id: instance.as_ref().map(InstanceId::to_string).unwrap_or_default(),
            attachment: attachment.0,
        };
        BASE64_URL_SAFE_NO_PAD.encode(name.encode_to_vec())
    }

    /// From text.
    ///
    /// # Errors
    /// The text is not of a token.
    pub fn decode(text: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::field("join.resume_token", "is not a token of Walser; leave it out to join anew");
        if text.len() > TOKEN_BYTES_MAX {
            return Err(bad());
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        let name = pbi::MemberName::decode(&bytes[..]).map_err(|_| bad())?;
        let instance = match name.instance_id.as_str() {
            "" => None,
            id => Some(id.parse::<InstanceId>().map_err(|_| bad())?),
        };
        let group: GroupId = name.group.parse().map_err(|_| bad())?;
        let member: MemberId = name.member_id.parse().map_err(|_| bad())?;
        let attachment = AttachmentNumber(name.attachment);
        Ok(Self(MemberRef { group, member, instance, attachment }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_comes_back_as_it_was_and_anything_else_is_refused_or_well_formed(
            (group, member) in ("[a-zü]{1,40}", "[a-z0-9]{1,40}"),
            instance in proptest::option::of("[a-z]{1,256}"),
            attachment in any::<i64>(),
            garbage in "[A-Za-z0-9_-]{0,300}",
        ) {
            let instance = instance.map(|instance| instance.parse().unwrap());
            let (group, member) = (group.parse().unwrap(), member.parse().unwrap());
            let token = MemberToken(MemberRef { group, member, instance, attachment: AttachmentNumber(attachment) });
            prop_assert_eq!(MemberToken::decode(&token.encode()).unwrap(), token);
            if let Ok(found) = MemberToken::decode(&garbage) {
                prop_assert!(!found.0.member.as_str().is_empty());
            }
        }
    }

    #[test]
    fn a_token_of_any_length_is_bounded() {
        assert!(MemberToken::decode(&"A".repeat(1 << 20)).is_err());
        assert!(MemberToken::decode("").is_err());
    }
}
