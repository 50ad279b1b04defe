//! W3C Trace Context, without a library: <https://www.w3.org/TR/trace-context/>.

use std::time::Duration;

use tonic::Request;

use crate::v1::Header;

/// The traceparent of a new span: of the trace of `parent`, or of a new trace without one.
pub fn child(parent: &str) -> String {
    let parts: Vec<&str> = parent.split('-').collect();
    let (trace, flags) = match parts[..] {
        ["00", trace, span, flags] if (trace.len(), span.len(), flags.len()) == (32, 16, 2) => {
            (trace.to_owned(), flags)
        }
        _ => (format!("{:032x}", fastrand::u128(..)), "01"),
    };
    format!("00-{trace}-{:016x}-{flags}", fastrand::u64(..))
}

/// The traceparent with which the work on a record goes on, behind a space: empty if the record has none.
pub fn continued(headers: &[Header]) -> String {
    let parent = headers.iter().find(|header| header.key == "traceparent");
    let parent = parent.and_then(|header| str::from_utf8(header.value()).ok());
    parent.map(|parent| format!(" {}", child(parent))).unwrap_or_default()
}

/// A request with a deadline and a traceparent. Records that it writes get it as a header, so that who reads them
/// goes on with the trace.
pub fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(10));
    let parent = std::env::var("TRACEPARENT").unwrap_or_default();
    request.metadata_mut().insert("traceparent", child(&parent).parse().expect("it is ASCII"));
    request
}
