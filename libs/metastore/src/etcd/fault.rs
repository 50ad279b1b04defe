//! What the answers of etcd mean.

use std::error::Error as _;

use etcd_client::Error;

use crate::StoreError;

const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

/// What its quota is used up means, and what to do.
pub(crate) const NO_SPACE: &str =
    "its quota is used up (NOSPACE); compact it, defragment its members, and disarm the alarm";

/// Why a member of etcd has not done what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing was applied, and another member may do it.
    Elsewhere(String),
    /// Nothing was applied, and no member does it.
    Refused(String),
    /// It may have been applied.
    Unknown(String),
    /// The quota is used up. A write may have been applied all the same: the one that uses it up is, and is then answered
    /// like those that are refused.
    NoSpace(String),
    /// The token is over, or of another member: nothing was applied, and a new one helps.
    Token(String),
    /// The revision is compacted.
    Compacted,
    /// The revision does not exist yet.
    Future,
    /// The lease does not exist.
    NoLease,
}

impl Fault {
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            // The numbers of the codes are those of gRPC: this crate does not name tonic's types.
            Error::GRpcStatus(status) => Self::of_status(status.code() as i32, status.message(), text_of(error)),
            Error::LeaseKeepAliveError(text) if text.contains("not found") => Self::NoLease,
            Error::InvalidArgs(text) => Self::Refused(text.clone()),
            Error::InvalidUri(error) => Self::Refused(error.to_string()),
            error => Self::Unknown(text_of(error)),
        }
    }

    fn of_status(code: i32, text: &str, with_cause: String) -> Self {
        let says = |part: &str| text.contains(part);
        if says("revision has been compacted") {
            return Self::Compacted;
        }
        if says("future revision") {
            return Self::Future;
        }
        if says("lease not found") {
            return Self::NoLease;
        }
        if says("invalid auth token") || says("revision of auth store is old") {
            return Self::Token(text.to_owned());
        }
        if says("database space exceeded") {
            return Self::NoSpace(format!("{text}: {NO_SPACE}"));
        }
        let not_sent = ["tcp connect error", "dns error"].iter().any(|part| with_cause.contains(part));
        // A member can be behind when users are asked for.
        let behind = says("authentication is not enabled");
        if says("no leader") || says("too many requests") || behind || not_sent {
            return Self::Elsewhere(with_cause);
        }
        match code {
            INVALID_ARGUMENT | PERMISSION_DENIED | RESOURCE_EXHAUSTED | FAILED_PRECONDITION | OUT_OF_RANGE
            | UNIMPLEMENTED | UNAUTHENTICATED => Self::Refused(with_cause),
            _ => Self::Unknown(with_cause),
        }
    }

    /// What it means for a read, which changes nothing.
    pub(crate) fn of_read(self) -> StoreError {
        match self {
            Self::Elsewhere(text)
            | Self::Refused(text)
            | Self::Unknown(text)
            | Self::NoSpace(text)
            | Self::Token(text) => StoreError::Unavailable(text),
            Self::Compacted => StoreError::Compacted { kept_from: 0 },
            Self::Future => StoreError::Invalid("the revision does not exist yet".to_owned()),
            Self::NoLease => StoreError::NoLease(0),
        }
    }

    /// What it means for a write.
    pub(crate) fn of_write(self) -> StoreError {
        match self {
            Self::Unknown(text) => StoreError::Unknown(text),
            Self::NoSpace(text) => StoreError::TakesNoWrites(text),
            other => other.of_read(),
        }
    }
}

/// What a member has said, or why it could not be asked. The outer errors say only "transport error".
pub(crate) fn text_of(error: &Error) -> String {
    let Error::GRpcStatus(status) = error else { return error.to_string() };
    let (mut last, mut next) = (None, status.source());
    while let Some(cause) = next {
        (last, next) = (Some(cause.to_string()), cause.source());
    }
    let text = status.message();
    let cause = last.filter(|cause| !text.contains(cause.as_str()));
    cause.map_or_else(|| text.to_owned(), |cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// etcd applies the transaction that uses up its quota, and answers it with this text, too.
    #[test]
    fn a_write_without_space_may_have_been_applied() {
        let text = "etcdserver: mvcc: database space exceeded";
        let fault = || Fault::of_status(RESOURCE_EXHAUSTED, text, text.to_owned());
        let told = format!("{text}: {NO_SPACE}");
        assert_eq!(fault().of_write(), StoreError::TakesNoWrites(told.clone()));
        assert_eq!(fault().of_read(), StoreError::Unavailable(told));
    }
}
