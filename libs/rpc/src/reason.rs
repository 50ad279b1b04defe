//! What each reason means for a caller. The table is that of `errors.proto`, whose comments a test compares.

use tonic::Code;
use walser_proto::v1::{Effect, ErrorReason as Reason, RetryAdvice};

/// gRPC code, advice and effect of a reason.
pub fn rule(reason: Reason) -> (Code, RetryAdvice, Effect) {
    use Reason as R;
    use RetryAdvice::{Backoff, Never, Reopen, Restart};
    let (code, retry, effect) = match reason {
        R::FieldInvalid
        | R::PayloadAmbiguous
        | R::StreamProtocolViolation
        | R::TopicNameInvalid
        | R::ConfigInvalid
        | R::BatchCorrupt
        | R::BatchFormatUnsupported
        | R::RecordTooLarge
        | R::RecordInvalid
        | R::AssignorUnsupported
        | R::OffsetMetadataTooLarge
        | R::PageTokenInvalid => (Code::InvalidArgument, Never, Effect::None),
        R::FeatureDisabled => (Code::Unimplemented, Never, Effect::None),
        R::TopicNotFound | R::PartitionNotFound | R::GroupNotFound | R::OperationNotFound | R::NodeNotFound => {
            (Code::NotFound, Never, Effect::None)
        }
        R::TopicRecreated => (Code::NotFound, Restart, Effect::None),
        R::TopicExists => (Code::AlreadyExists, Never, Effect::None),
        R::DuplicateSequence => (Code::AlreadyExists, Never, Effect::Applied),
        R::OffsetOutOfRange => (Code::OutOfRange, Restart, Effect::None),
        R::LogDiverged
        | R::OffsetMismatch
        | R::SequenceOutOfOrder
        | R::PredecessorFailed
        | R::SessionExpired
        | R::MemberFenced
        | R::EtagMismatch => (Code::Aborted, Restart, Effect::None),
        R::PartitionNotOwned => (Code::Aborted, Never, Effect::None),
        R::RecordExceedsClientLimit
        | R::BatchUnreadable
        | R::ProducerFenced
        | R::InstanceIdInUse
        | R::InstanceFenced
        | R::GroupNotEmpty
        | R::ReplicationFactorTooHigh
        | R::PolicyViolation
        | R::ClusterIdMismatch
        | R::MetadataRollback
        | R::DataRollback
        | R::EligibleLeadersNotAvailable
        | R::NodeIdInUse
        | R::NodeAddressInUse => (Code::FailedPrecondition, Never, Effect::None),
        R::UnknownProducer => (Code::FailedPrecondition, Restart, Effect::None),
        R::LeaderNotAvailable
        | R::NotLeader
        | R::StaleEpoch
        | R::NotEnoughReplicas
        | R::StorageError
        | R::CoordinatorNotAvailable
        | R::ControllerNotAvailable
        | R::MetadataStoreUnavailable
        | R::GatewayOverloaded
        | R::Starting => (Code::Unavailable, Backoff, Effect::None),
        R::GatewayDraining => (Code::Unavailable, Reopen, Effect::None),
        R::RequestTimedOut => (Code::DeadlineExceeded, Backoff, Effect::Maybe),
        R::InternalError | R::Unspecified => (Code::Internal, Backoff, Effect::Maybe),
        R::ClusterAccessDenied => (Code::PermissionDenied, Never, Effect::None),
        R::LogCorrupt => (Code::DataLoss, Never, Effect::None),
        R::TooManyStreams | R::DiskFull | R::InFlightLimitExceeded | R::QuotaExceeded => {
            (Code::ResourceExhausted, Backoff, Effect::None)
        }
        R::LeaderLostAfterAppend => (Code::Aborted, Backoff, Effect::Maybe),
        R::PartitionLimitReached | R::GroupSizeLimitReached => (Code::ResourceExhausted, Never, Effect::None),
    };
    (code, retry, effect)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `InvalidArgument` as `INVALID_ARGUMENT`.
    fn upper(name: &str) -> String {
        let mut out = String::new();
        for character in name.chars() {
            if character.is_uppercase() && !out.is_empty() {
                out.push('_');
            }
            out.extend(character.to_uppercase());
        }
        out
    }

    #[test]
    fn the_table_says_what_the_contract_says() {
        let (_, text) = walser_proto::SOURCES.iter().find(|(name, _)| name.ends_with("errors.proto")).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let mut checked = 0;
        for pair in lines.windows(2) {
            let Some(name) = pair[1].split(" = ").next().filter(|name| name.starts_with("ERROR_REASON_")) else {
                continue;
            };
            let reason = Reason::from_str_name(name).unwrap();
            if reason == Reason::Unspecified {
                continue;
            }
            let (code, retry, effect) = rule(reason);
            let code = upper(&format!("{code:?}"));
            let retry = retry.as_str_name().trim_start_matches("RETRY_ADVICE_").to_lowercase();
            let effect = effect.as_str_name().trim_start_matches("EFFECT_").to_lowercase();
            let said = pair[0].trim_start_matches("// ");
            assert!(said.starts_with(&code), "{name}: {said}, not {code}");
            assert!(said.contains(&format!("retry {retry}")), "{name}: {said}, not {retry}");
            assert!(said.contains(&format!("effect {effect}")), "{name}: {said}, not {effect}");
            checked += 1;
        }
        assert!(checked > 30, "{checked}");
    }
}
