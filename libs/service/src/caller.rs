//! Who makes a call: the name that the client gives itself, and the address that it comes from.
//!
//! Calls that change the cluster are logged with it. A gateway tells the controller who called it in call metadata,
//! which it never takes from its own callers.

use std::net::SocketAddr;

use http::HeaderValue;
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;

use crate::socket::Opened;

/// Call metadata in which a client names itself.
pub(crate) const CLIENT_ID: &str = "walser-client-id";
/// Call metadata in which a gateway says where its caller is.
const CLIENT_ADDRESS: &str = "walser-client-address";
/// Longest name of a client that is kept, in bytes.
const CLIENT_ID_BYTES_MAX: usize = 128;

/// The caller of a call. Cheap to make and to clone: texts are made when they are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    client_id: Option<HeaderValue>,
    address: Option<SocketAddr>,
}

/// The name that a client gives itself: printable ASCII, or nothing.
pub(crate) fn client_id(headers: &http::HeaderMap) -> Option<&str> {
    headers.get(CLIENT_ID).and_then(printable)
}

fn printable(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    Some(&text[..text.len().min(CLIENT_ID_BYTES_MAX)])
}

// === impl Caller ===

impl Caller {
    /// Who makes a call at this process.
    pub fn of<T>(request: &Request<T>) -> Self {
        let address = request.extensions().get::<Opened>().map(|opened| opened.peer);
        Self { client_id: request.metadata().as_ref().get(CLIENT_ID).cloned(), address }
    }

    /// Who makes a call that a gateway may have relayed: its caller then. For ports that only the cluster calls.
    pub fn relayed<T>(request: &Request<T>) -> Self {
        let caller = Self::of(request);
        let told = request.metadata().get(CLIENT_ADDRESS).and_then(|address| address.to_str().ok()?.parse().ok());
        Self { address: told.or(caller.address), ..caller }
    }

    /// A request to the controller on behalf of this caller.
    pub fn relay<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (key, value) in [(CLIENT_ID, self.client_id().to_owned()), (CLIENT_ADDRESS, self.address())] {
            if let Ok(value) = AsciiMetadataValue::try_from(value) {
                request.metadata_mut().insert(key, value);
            }
        }
        request
    }

    /// The name that the client gives itself; empty when it gives none.
    pub fn client_id(&self) -> &str {
        self.client_id.as_ref().and_then(printable).unwrap_or_default()
    }

    /// IP address and port; empty for a call from within the process.
    pub fn address(&self) -> String {
        self.address.map(|address| address.to_string()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_named_by_printable_text_of_a_bounded_length() {
        let named = |value: &[u8]| {
            let mut headers = http::HeaderMap::new();
            headers.insert(CLIENT_ID, HeaderValue::from_bytes(value).unwrap());
            client_id(&headers).map(str::to_owned)
        };
        assert_eq!(named(b"billing/3").as_deref(), Some("billing/3"));
        assert_eq!(named(&[b'x'; 1000]).map(|name| name.len()), Some(CLIENT_ID_BYTES_MAX));
        assert_eq!(named(b"\xff\xfe"), None);
        assert_eq!(client_id(&http::HeaderMap::new()), None);
    }

    #[test]
    fn what_a_gateway_relays_arrives_and_what_its_caller_claims_does_not() {
        let peer: SocketAddr = "10.0.0.7:4711".parse().unwrap();
        let mut request = Request::new(());
        request.extensions_mut().insert(Opened::new(peer, None));
        request.metadata_mut().insert(CLIENT_ID, AsciiMetadataValue::from_static("billing/3"));
        request.metadata_mut().insert(CLIENT_ADDRESS, AsciiMetadataValue::from_static("1.2.3.4:5"));
        let caller = Caller::of(&request);
        assert_eq!((caller.client_id(), &*caller.address()), ("billing/3", "10.0.0.7:4711"));
        assert_eq!(Caller::relayed(&caller.relay(())), caller);
        let relayed = Caller::relayed(&Caller::default().relay(()));
        assert_eq!((relayed.client_id(), &*relayed.address()), ("", ""));
    }
}
