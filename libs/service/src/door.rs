//! What a connection has to show before the HTTP/2 server gets it: that it speaks HTTP/2 and, at a port with TLS, that and
//! who it is.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::net::TcpStream;
use tokio::time::Instant;
use walser_tls::{Accepted, ProcessTls};

use crate::preface::{Protocol, protocol, refuse_http1, refuse_plain};
use crate::socket::{Opened, Wire};

/// Handshakes that fail are told this often: whoever reaches the port can make them fail.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Stands before the server. Clones share what was told.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    tls: Option<ProcessTls>,
    no_agreement: IntCounter,
    told: Arc<Mutex<Option<Instant>>>,
}

// === impl Door ===

impl Door {
    /// `no_agreement` counts the handshakes that fail.
    pub(crate) fn new(tls: Option<ProcessTls>, no_agreement: IntCounter) -> Self {
        Self { tls, no_agreement, told: Arc::default() }
    }

    /// The connection as the server is to have it. `None`: it got its answer, or was closed.
    pub(crate) async fn let_in(&self, stream: TcpStream, mut opened: Opened) -> Option<(Wire, Opened)> {
        let peer = opened.peer;
        let protocol = match protocol(&stream).await {
            Ok(protocol) => protocol,
            Err(error) => {
                tracing::debug!(%peer, %error, "a connection ended before its first byte");
                return None;
            }
        };
        let Some(tls) = &self.tls else {
            if protocol != Protocol::Http1 {
                return Some((Wire::Left(stream), opened));
            }
            tracing::debug!(%peer, "a client speaks HTTP/1");
            let _ = refuse_http1(stream).await;
            return None;
        };
        if protocol != Protocol::Tls {
            self.note_failure(&opened, &"it speaks no TLS");
            let _ = refuse_plain(stream, protocol).await;
            return None;
        }
        match tls.accept(stream).await {
            Ok(Accepted { stream, http1: true, .. }) => {
                let _ = refuse_http1(stream).await;
                None
            }
            Ok(Accepted { stream, identity, .. }) => {
                opened.identity = identity.map(Arc::new);
                Some((Wire::Right(stream), opened))
            }
            Err(error) => {
                self.note_failure(&opened, &error);
                None
            }
        }
    }

    fn note_failure(&self, opened: &Opened, error: &dyn std::fmt::Display) {
        self.no_agreement.inc();
        let (now, mut told) = (Instant::now(), self.told.lock());
        if told.is_none_or(|at| now.duration_since(at) >= TOLD_EVERY) {
            *told = Some(now);
            tracing::warn!(peer = %opened.peer, %error, "a TLS handshake failed; others are told at most every 10 s");
        }
    }
}
