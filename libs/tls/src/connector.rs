//! Makes encrypted connections for a channel of calls.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tower_service::Service;

use crate::client::ClientTls;
use crate::identity::ServiceRole;
use crate::process::ProcessTls;
use crate::trouble::HandshakeError;

/// Dials, and agrees on keys.
#[derive(Debug, Clone)]
pub struct Connector {
    tcp: HttpConnector,
    whom: Whom,
}

/// Whom the connections are to.
#[derive(Debug, Clone)]
enum Whom {
    Cluster(ProcessTls, ServiceRole),
    Server(ClientTls),
}

// === impl Connector ===

impl Connector {
    /// Connections to processes of the cluster that are of this role, from this address of the machine if one is given.
    pub fn to_cluster(tls: ProcessTls, role: ServiceRole, from: Option<IpAddr>) -> Self {
        Self { tcp: tcp(from), whom: Whom::Cluster(tls, role) }
    }

    /// Connections of a client to servers.
    pub fn to_server(tls: ClientTls) -> Self {
        Self { tcp: tcp(None), whom: Whom::Server(tls) }
    }
}

fn tcp(from: Option<IpAddr>) -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    // The scheme is that of what is spoken over TLS.
    tcp.enforce_http(false);
    tcp.set_local_address(from);
    tcp
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let (whom, host) = (self.whom.clone(), server.host().unwrap_or_default().to_owned());
        let connecting = self.tcp.call(server);
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            let agreed = match whom {
                Whom::Cluster(tls, role) => tls.connect(stream, role).await,
                Whom::Server(tls) => tls.connect(stream, &host).await,
            };
            Ok(TokioIo::new(agreed.map_err(HandshakeError)?))
        })
    }
}
