//! Settings of the service.

use std::net::SocketAddr;

use walser_service::{Key, Kind, Settings};

/// Settings of a coordinator that is a process of its own.
pub const PROCESS_KEYS: &[Key] = &[Key {
    name: "coordinator.advertise",
    kind: Kind::Text,
    default: "",
    doc: "HOST:PORT at which gateways reach this group coordinator. Empty: the address of its gRPC port.",
}];

/// Where gateways reach a coordinator that listens at `address`.
pub(crate) fn advertised(settings: &Settings, address: SocketAddr) -> String {
    match settings.text("coordinator.advertise") {
        "" => address.to_string(),
        advertised => advertised.to_owned(),
    }
}
