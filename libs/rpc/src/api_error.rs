//! An error on its way to a caller, in both wire forms: a gRPC status with details, and a flat message in a stream.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use walser_proto::v1::{self as pb, Effect, ErrorReason as Reason, RetryAdvice};

use crate::reason::rule;

/// What went wrong, why, and what the caller should do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    reason: Reason,
    code: Code,
    retry: RetryAdvice,
    effect: Effect,
    message: String,
    metadata: BTreeMap<String, String>,
    violations: Vec<(String, String)>,
    /// A server of ours has said so; else it is from the gRPC library or from something between.
    answered: bool,
}

/// How the message begins when there was no answer because TLS was not agreed on.
pub const TLS_TROUBLE: &str = "TLS: ";
/// Longest message on the wire, in bytes: trailers above 8 KiB are dropped by some clients.
const MESSAGE_BYTES_MAX: usize = 512;
/// Longest value on the wire, in bytes.
const VALUE_BYTES_MAX: usize = 256;
/// Most field violations in one error.
const VIOLATIONS_MAX: usize = 16;

/// How long a client waits before it tries again, unless the error says otherwise.
const RETRY_DELAY: Duration = Duration::from_millis(100);

// === impl ApiError ===

impl ApiError {
    /// An error with the code, advice and effect that its reason has.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let (code, retry, effect) = rule(reason);
        let (metadata, violations) = (BTreeMap::new(), Vec::new());
        Self { reason, code, retry, effect, message: message.into(), metadata, violations, answered: true }
    }

    /// A field that is missing or out of bounds.
    pub fn field(field: &str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        let mut failure = Self::new(Reason::FieldInvalid, format!("{field}: {problem}"));
        failure.violations.push((field.to_owned(), problem));
        failure.with("field", field)
    }

    /// A bug: nothing of the cause is told beyond the text.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Reason::InternalError, message)
    }

    /// Data and metadata are of different clusters.
    pub fn cluster_id_mismatch(own: &str, other: &str) -> Self {
        let text = format!(
            "the data belongs to cluster {own}, the controller is of cluster {other}; start the controller on its own \
             metadata, or this process on another data directory"
        );
        Self::new(Reason::ClusterIdMismatch, text).with("expected", own).with("actual", other)
    }

    /// Metadata is older than what was seen of it.
    pub fn metadata_rollback(seen: i64, found: i64) -> Self {
        let what = if found < seen {
            format!(
                "the controller's metadata has version {found}, version {seen} was seen before: it is an older copy"
            )
        } else {
            format!(
                "the controller's metadata (version {found}) does not continue what was seen before (version {seen}): \
                 one of the two went on from an older copy (a gateway that was started on it has to be restarted)"
            )
        };
        let text = format!("{what}; put the right metadata back, or accept it with `walser metadata accept-restore`");
        Self::new(Reason::MetadataRollback, text).with("seenVersion", seen).with("version", found)
    }

    /// Adds a value that the message mentions, of which the first bytes are kept: trailers have little room.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        let mut value = value.to_string();
        value.truncate(value.floor_char_boundary(VALUE_BYTES_MAX));
        self.metadata.insert(key.to_owned(), value);
        self
    }

    /// Replaces the code where one reason has two (`errors.proto` says when).
    #[must_use]
    pub fn with_code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// Sets another effect than that of the reason.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Says that the state that is in the way may pass by itself: the caller is to try again, where the reason alone says
    /// not to (`errors.proto` says when).
    #[must_use]
    pub fn transient(mut self) -> Self {
        (self.code, self.retry) = (Code::Unavailable, RetryAdvice::Backoff);
        self
    }

    /// The failure of an append whose batch is in the log, and may count yet.
    #[must_use]
    pub fn after_append(self) -> Self {
        self.with_code(Code::Aborted).with_effect(Effect::Maybe).with("appended", true)
    }

    /// The failure of a request of which a part was applied. It is not to be sent again as a whole, so its code is one
    /// that proxies do not retry.
    #[must_use]
    pub fn partial(mut self) -> Self {
        self.effect = Effect::Partial;
        self.retry = RetryAdvice::Never;
        if self.code == Code::Unavailable {
            self.code = Code::Aborted;
        }
        self
    }

    /// Returns the reason of the error.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The reason as it travels.
    pub fn reason_name(&self) -> &'static str {
        self.reason.as_str_name().trim_start_matches("ERROR_REASON_")
    }

    /// Returns the gRPC status code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whether the callee could not be reached, or says that it cannot serve now.
    pub fn is_unavailable(&self) -> bool {
        self.code == Code::Unavailable
    }

    /// What a generic client should do.
    pub fn retry(&self) -> RetryAdvice {
        self.retry
    }

    /// Whether it passes by itself: the same call may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        self.retry == RetryAdvice::Backoff
    }

    /// Whether it may have happened.
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// Whether a server of ours has said so. If not, it comes from the gRPC library, or from something between.
    pub fn answered(&self) -> bool {
        self.answered
    }

    /// Returns the text of the error.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// A value by its key.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The details of a status, to which callers may add their own.
    fn details(&self) -> ErrorDetails {
        let mut metadata: std::collections::HashMap<String, String> =
            self.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let word = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_lowercase();
        metadata.insert("retry".to_owned(), word(self.retry.as_str_name(), "RETRY_ADVICE_"));
        metadata.insert("effect".to_owned(), word(self.effect.as_str_name(), "EFFECT_"));
        let mut details = ErrorDetails::with_error_info(self.reason_name(), walser_proto::ERROR_DOMAIN, metadata);
        for (field, problem) in self.violations.iter().take(VIOLATIONS_MAX) {
            details.add_bad_request_violation(field, problem);
        }
        if self.retry == RetryAdvice::Backoff {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        let resource = match self.reason {
            Reason::TopicNotFound | Reason::TopicExists => self.value("topic").map(|name| ("topic", name)),
            Reason::NodeNotFound => self.value("nodeId").map(|id| ("node", id)),
            Reason::OperationNotFound => self.value("operation").map(|name| ("operation", name)),
            _ => None,
        };
        if let Some((kind, name)) = resource {
            details.set_resource_info(kind, name, "", &self.message);
        }
        details
    }

    /// The status form, with one more detail of the caller's.
    pub fn into_status_with(self, type_name: &str, detail: Vec<u8>) -> Status {
        let status: Status = self.into();
        let mut decoded = tonic_types::pb::Status::default();
        if prost::Message::merge(&mut decoded, status.details()).is_err() {
            return status;
        }
        decoded.details.push(prost_types::Any { type_url: format!("type.googleapis.com/{type_name}"), value: detail });
        Status::with_details(status.code(), status.message(), prost::Message::encode_to_vec(&decoded).into())
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX - 3).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

impl From<ApiError> for Status {
    fn from(failure: ApiError) -> Self {
        let details = failure.details();
        Self::with_error_details(failure.code, shortened(failure.message), details)
    }
}

impl From<ApiError> for pb::Error {
    fn from(failure: ApiError) -> Self {
        let backoff = failure.retry == RetryAdvice::Backoff;
        Self {
            code: failure.code as i32,
            reason: failure.reason_name().to_owned(),
            message: shortened(failure.message),
            retry: failure.retry as i32,
            effect: failure.effect as i32,
            retry_delay: backoff.then(|| RETRY_DELAY.into()),
            metadata: failure.metadata.into_iter().collect(),
        }
    }
}

fn reason_named(name: &str) -> Reason {
    Reason::from_str_name(&format!("ERROR_REASON_{name}")).unwrap_or(Reason::InternalError)
}

impl From<pb::Error> for ApiError {
    fn from(error: pb::Error) -> Self {
        Self {
            reason: reason_named(&error.reason),
            code: Code::from_i32(error.code),
            retry: error.retry(),
            effect: error.effect(),
            message: error.message,
            metadata: error.metadata.into_iter().collect(),
            violations: Vec::new(),
            answered: true,
        }
    }
}

/// Whether no connection was made, so that nothing was sent.
fn never_connected(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() || walser_tls::nothing_begun(error) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A status of a server, ours or a proxy's: without details, `UNAVAILABLE` may be tried again and nothing else. What
/// became of the call is known only when there was no connection for it.
impl From<Status> for ApiError {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let Some(info) = details.error_info() else {
            let tls = std::error::Error::source(&status).and_then(walser_tls::in_words);
            let message = tls.map_or_else(|| status.message().to_owned(), |words| format!("{TLS_TROUBLE}{words}"));
            let (reason, retry) = match status.code() {
                Code::Unavailable => (Reason::LeaderNotAvailable, RetryAdvice::Backoff),
                Code::DeadlineExceeded => (Reason::RequestTimedOut, RetryAdvice::Backoff),
                _ => (Reason::InternalError, RetryAdvice::Never),
            };
            let effect = if never_connected(&status) { Effect::None } else { Effect::Maybe };
            let (metadata, violations) = (BTreeMap::new(), Vec::new());
            let answered = false;
            return Self { reason, code: status.code(), retry, effect, message, metadata, violations, answered };
        };
        let message = status.message().to_owned();
        let mut metadata: BTreeMap<String, String> =
            info.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let word =
            |prefix: &str, value: Option<String>| format!("{prefix}{}", value.unwrap_or_default().to_uppercase());
        let retry = RetryAdvice::from_str_name(&word("RETRY_ADVICE_", metadata.remove("retry")));
        let effect = Effect::from_str_name(&word("EFFECT_", metadata.remove("effect")));
        let violations = details.bad_request().map_or_else(Vec::new, |bad| {
            bad.field_violations.iter().map(|found| (found.field.clone(), found.description.clone())).collect()
        });
        Self {
            reason: reason_named(&info.reason),
            code: status.code(),
            retry: retry.unwrap_or(RetryAdvice::Never),
            effect: effect.unwrap_or(Effect::Maybe),
            message,
            metadata,
            violations,
            answered: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_both_wire_forms() {
        let failure = ApiError::new(Reason::TopicNotFound, "topic \"x\" does not exist").with("topic", "x");
        assert_eq!(ApiError::from(Status::from(failure.clone())), failure);
        assert_eq!(ApiError::from(pb::Error::from(failure.clone())), failure);
        let field = ApiError::field("max_bytes", "must be at least 1");
        assert_eq!(ApiError::from(Status::from(field.clone())), field);
    }

    #[tokio::test]
    async fn nothing_has_happened_only_when_there_was_no_connection() {
        let proxy = ApiError::from(Status::unavailable("upstream connect error or disconnect/reset before headers"));
        assert_eq!((proxy.effect(), proxy.retry()), (Effect::Maybe, RetryAdvice::Backoff));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let mut client = pb::consumer_service_client::ConsumerServiceClient::new(channel);
        let refused = ApiError::from(client.fetch(pb::FetchRequest::default()).await.unwrap_err());
        assert_eq!((refused.effect(), refused.retry()), (Effect::None, RetryAdvice::Backoff));
    }

    #[test]
    fn details_stay_below_what_clients_accept() {
        let mut failure = ApiError::new(Reason::FieldInvalid, "x".repeat(5000));
        for number in 0..100 {
            failure.violations.push((format!("field{number}"), "is wrong".repeat(3)));
        }
        let status = Status::from(failure);
        assert!(status.message().len() <= MESSAGE_BYTES_MAX);
        assert!(status.details().len() <= 4096, "{}", status.details().len());
    }
}
