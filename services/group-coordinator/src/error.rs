//! What shards refuse, as it travels.

use walser_group::GroupError;
use walser_model::{PartitionIndex, TopicName};
use walser_rpc::{ApiError, Reason};

/// A refusal with the reason that it has in the contract.
pub(crate) fn refused(error: GroupError) -> ApiError {
    let text = error.to_string();
    let named = format!("ERROR_REASON_{}", error.reason());
    let Some(reason) = Reason::from_str_name(&named) else { return ApiError::internal(text) };
    match error {
        GroupError::FieldInvalid { field, actual, rule } => ApiError::field(field, rule).with("actual", actual),
        GroupError::GroupNotFound { group } => ApiError::new(reason, text).with("group", group),
        GroupError::SessionExpired { group, member } => {
            ApiError::new(reason, text).with("group", group).with("memberId", member)
        }
        GroupError::AttachmentFenced { member, actual, current, .. } => {
            ApiError::new(reason, text).with("memberId", member).with("attachment", actual).with("current", current)
        }
        GroupError::MemberEpochFenced { member, actual, current, .. } => {
            ApiError::new(reason, text).with("memberId", member).with("epoch", actual).with("currentEpoch", current)
        }
        GroupError::CommitSuperseded { member, actual, current } => {
            ApiError::new(reason, text).with("memberId", member).with("sequence", actual).with("current", current)
        }
        GroupError::InstanceIdInUse { instance, client_address, certain } => {
            let failure =
                ApiError::new(reason, text).with("instanceId", instance).with("clientAddress", client_address);
            if certain { failure } else { failure.transient() }
        }
        GroupError::InstanceFenced { instance } => ApiError::new(reason, text).with("instanceId", instance),
        GroupError::PartitionNotOwned { topic, partition, owner } => {
            let owner = owner.map(|owner| owner.to_string()).unwrap_or_default();
            of_partition(ApiError::new(reason, text), topic, partition).with("owner", owner)
        }
        GroupError::AssignedLater { topic, partition, actual, assigned } => {
            let failure = of_partition(ApiError::new(reason, text), topic, partition);
            failure.with("epoch", actual).with("assignedEpoch", assigned)
        }
        GroupError::TopicNotFound { topic } => ApiError::new(reason, text).with("topicId", topic),
        GroupError::PartitionNotFound { topic, partition, partition_count } => {
            let failure = ApiError::new(reason, text).with("topic", topic);
            failure.with("partition", partition).with("partitionCount", partition_count)
        }
        GroupError::OffsetMetadataTooLarge { actual, limit } => {
            ApiError::new(reason, text).with("actual", actual).with("limit", limit)
        }
        GroupError::AssignorUnsupported { assignor } => ApiError::new(reason, text).with("assignor", assignor),
        GroupError::GroupSizeLimitReached { group, limit } => {
            ApiError::new(reason, text).with("group", group).with("limit", limit)
        }
        GroupError::QuotaExceeded { limit, .. } => ApiError::new(reason, text).with("limit", limit),
        GroupError::GroupNotEmpty { group, member_count } => {
            ApiError::new(reason, text).with("group", group).with("memberCount", member_count)
        }
    }
}

fn of_partition(failure: ApiError, topic: Option<TopicName>, partition: PartitionIndex) -> ApiError {
    let failure = failure.with("partition", partition);
    topic.into_iter().fold(failure, |failure, topic| failure.with("topic", topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_topics_and_no_ids() {
        let topic: TopicName = "orders".parse().unwrap();
        let refusal =
            |topic| refused(GroupError::PartitionNotOwned { topic, partition: PartitionIndex(3), owner: None });
        let known = refusal(Some(topic));
        assert_eq!(known.message(), "partition 3 of topic \"orders\" is not assigned to the member; drop the commit");
        assert_eq!((known.value("topic"), known.value("partition")), (Some("orders"), Some("3")));
        assert!(refusal(None).message().starts_with("partition 3 of a topic that is gone is"), "{}", refusal(None));
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let group: walser_group::GroupId = "g".parse().unwrap();
        let instance: walser_group::InstanceId = "i".parse().unwrap();
        for (error, reason) in [
            (GroupError::GroupNotFound { group: group.clone() }, Reason::GroupNotFound),
            (GroupError::GroupNotEmpty { group, member_count: 2 }, Reason::GroupNotEmpty),
            (GroupError::InstanceFenced { instance: instance.clone() }, Reason::InstanceFenced),
            (
                GroupError::InstanceIdInUse { instance, client_address: String::new(), certain: true },
                Reason::InstanceIdInUse,
            ),
            (GroupError::AssignorUnsupported { assignor: "x".to_owned() }, Reason::AssignorUnsupported),
            (GroupError::OffsetMetadataTooLarge { actual: 2, limit: 1 }, Reason::OffsetMetadataTooLarge),
        ] {
            assert_eq!(error.reason(), refused(error.clone()).reason_name());
            assert_eq!(refused(error).reason(), reason);
        }
    }

    #[test]
    fn an_instance_whose_holder_may_be_gone_is_asked_for_again() {
        let in_use = |certain| {
            let instance = "i".parse().unwrap();
            refused(GroupError::InstanceIdInUse { instance, client_address: "192.0.2.1:9".to_owned(), certain })
        };
        let (sure, unsure) = (in_use(true), in_use(false));
        assert!(!sure.is_transient() && unsure.is_transient());
        assert_eq!((sure.reason(), unsure.reason()), (Reason::InstanceIdInUse, Reason::InstanceIdInUse));
    }
}
