//! What listens at an address that is no gRPC server.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long a port that is no gRPC server is looked at.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// The header in which the admin port says where the gRPC port is.
pub(crate) const GRPC_ADDRESS: &str = "walser-grpc-address";

/// What begins the answer of a port of ours that speaks TLS to somebody who does not.
const TLS: &str = "this port speaks TLS";

/// What listens at an address that does not speak gRPC without TLS, and answers HTTP/1.1.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OtherPort {
    /// The admin port of a Walser process whose gRPC port is there.
    Admin(String),
    /// A gRPC port with TLS.
    Tls,
    Web,
}

/// What listens at an address, if it answers HTTP/1.1: then somebody has taken one port for another.
pub(crate) async fn speaks_http1(address: &str) -> Option<OtherPort> {
    let look = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let request = format!("GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(16 << 10).read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let named = answer.lines().filter_map(|line| line.split_once(':'));
        let grpc = named.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(GRPC_ADDRESS));
        answer.starts_with("HTTP/1.").then(|| match grpc {
            Some((_, value)) => OtherPort::Admin(value.trim().to_owned()),
            None if answer.lines().any(|line| line.starts_with(TLS)) => OtherPort::Tls,
            None => OtherPort::Web,
        })
    };
    tokio::time::timeout(LOOK_MAX, look).await.ok().flatten()
}
