//! The OpenTelemetry collector of a process: where it is, and what the process is called there.

use std::str::FromStr as _;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use super::InstallError;

/// How long the collector may take for a request, a connection, or the answer to a ping.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Pause between pings while something is sent.
const PING_EVERY: Duration = Duration::from_secs(20);

/// Clones share the connection.
#[derive(Debug, Clone)]
pub(super) struct Collector {
    /// Scheme, host and port; a name and password in the URL stay out of logs.
    pub(super) endpoint: String,
    pub(super) channel: Channel,
    pub(super) resource: Resource,
}

fn said(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// What this process is, for those who get its telemetry. What the environment says comes before what the program knows.
fn resource(service: &str, instance: Option<String>) -> Resource {
    let own = [
        KeyValue::new("service.name", service.to_owned()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let instance = instance.map(|instance| KeyValue::new("service.instance.id", instance));
    let (service, attributes) = (said("OTEL_SERVICE_NAME"), said("OTEL_RESOURCE_ATTRIBUTES"));
    let named = |key: &str| {
        let attribute = |text: &str| text.split_once('=').is_some_and(|(name, _)| name.trim() == key);
        attributes.split(',').any(attribute) || key == "service.name" && !service.is_empty()
    };
    let own = own.into_iter().chain(instance).filter(|own| !named(own.key.as_str()));
    Resource::builder().with_attributes(own).build()
}

/// Scheme, host and port of a URL.
fn shown(url: &http::Uri) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme_str().unwrap_or_default(), url.host().unwrap_or_default())
}

/// `name=value` pairs with commas between them and values in percent encoding, as the specification of OTLP exporters has
/// them. What is no header is left out.
fn parse_headers(text: &str) -> MetadataMap {
    let mut headers = MetadataMap::new();
    for (name, value) in text.split(',').filter_map(|pair| pair.split_once('=')) {
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8_lossy();
        let name = MetadataKey::from_str(&name.trim().to_ascii_lowercase());
        if let (Ok(name), Ok(value)) = (name, MetadataValue::from_str(&value)) {
            headers.insert(name, value);
        }
    }
    headers
}

// === impl Collector ===

impl Collector {
    /// Connects when there is something to send. Needs a runtime. `instance` tells processes of one service apart.
    ///
    /// # Errors
    /// When the endpoint is no URL.
    pub(super) fn at(endpoint: &str, service: &str, instance: Option<String>) -> Result<Self, InstallError> {
        let url = Endpoint::from_shared(endpoint.to_owned())?;
        let encrypted = match url.uri().scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("it does not begin with http:// or https://".into()),
        };
        let url = if encrypted { url.tls_config(ClientTlsConfig::new().with_native_roots())? } else { url };
        let endpoint = shown(url.uri());
        // One whose machine is gone says nothing: without these, what is sent would wait for it for ever.
        let url = url.timeout(REQUEST_MAX).connect_timeout(REQUEST_MAX);
        let channel = url.http2_keep_alive_interval(PING_EVERY).keep_alive_timeout(REQUEST_MAX).connect_lazy();
        Ok(Self { endpoint, channel, resource: resource(service, instance) })
    }

    /// The headers that the environment has for a signal, such as a key of the collector's owner.
    pub(super) fn headers(&self, signal: &str) -> MetadataMap {
        let own = said(&format!("OTEL_EXPORTER_OTLP_{signal}_HEADERS"));
        parse_headers(if own.is_empty() { said("OTEL_EXPORTER_OTLP_HEADERS") } else { own }.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_endpoint_is_not_shown() {
        for (given, expected) in [
            ("http://me:secret@127.0.0.1:4317/v1", "http://127.0.0.1:4317"),
            ("https://collector", "https://collector"),
            ("http://[::1]:4317", "http://[::1]:4317"),
        ] {
            assert_eq!(shown(&given.parse().unwrap()), expected);
        }
    }

    #[test]
    fn headers_are_pairs_with_percent_encoding_and_what_is_none_is_left_out() {
        let headers = parse_headers("Api-Key=a%20b=c, x-tenant = t1 ,nothing,bad name=1,=2");
        let mut found: Vec<_> = headers
            .iter()
            .map(|pair| match pair {
                tonic::metadata::KeyAndValueRef::Ascii(key, value) => (key.as_str(), value.to_str().unwrap()),
                other => panic!("{other:?}"),
            })
            .collect();
        found.sort_unstable();
        assert_eq!(found, [("api-key", "a b=c"), ("x-tenant", "t1")]);
    }
}
