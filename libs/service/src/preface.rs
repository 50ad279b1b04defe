//! What a client speaks, by its first bytes. Clients of HTTP/2 send its preface at once; those of HTTP/1 (curl, a
//! browser, a load balancer's probe) would be cut off without a word by a server that knows HTTP/2 only, so they get one
//! answer.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a client of HTTP/1 is told.
const TEXT: &str = "this port speaks gRPC over HTTP/2, not HTTP/1; use a gRPC client, grpcurl or the walser command. \
                    Metrics and probes are on the admin port.\n";
/// Bytes of the request that are read and dropped after the answer: closing a socket with unread bytes would take the
/// answer back.
const DROPPED_BYTES_MAX: u64 = 1 << 20;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/2, or nothing that is known: for the HTTP/2 server to judge.
    Http2,
    /// A version of HTTP before that.
    Http1,
}

/// Waits for the first bytes of a connection, and leaves them where they are.
///
/// # Errors
/// What the system says, and `UnexpectedEof` when the client closes without a byte.
pub(crate) async fn protocol(stream: &TcpStream) -> io::Result<Protocol> {
    let mut first = [0; PREFACE.len()];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        known => Ok(judge(&first[..known])),
    }
}

/// Answers a request of HTTP/1, whichever it is, and ends the connection.
///
/// # Errors
/// What the system says.
pub(crate) async fn refuse_http1(mut stream: TcpStream) -> io::Result<()> {
    let length = TEXT.len();
    let answer = format!(
        "HTTP/1.1 426 Upgrade Required\r\nupgrade: HTTP/2.0\r\nconnection: upgrade, close\r\n\
         content-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\r\n{TEXT}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(DROPPED_BYTES_MAX), &mut tokio::io::sink()).await.map(drop)
}

/// A request of HTTP/1 begins with the name of its method, in capitals.
fn judge(first: &[u8]) -> Protocol {
    let method = first.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    let ends_well = first.get(method).is_none_or(|byte| *byte == b' ');
    if method > 0 && ends_well && !PREFACE.starts_with(first) { Protocol::Http1 } else { Protocol::Http2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http1_is_known_by_the_name_of_a_method() {
        for http1 in ["GET / HTTP/1.1\r\n", "POST /walser.v1.Pr", "PUT", "PROPFIND * HTTP/1.1", "O", "PRINT / HTTP/1.0"]
        {
            assert_eq!(judge(http1.as_bytes()), Protocol::Http1, "{http1}");
        }
        let tls = b"\x16\x03\x01\x02\x00";
        for other in [&PREFACE[..], &PREFACE[..1], &PREFACE[..3], tls, b"GET\0", b"get / ", b"\n"] {
            assert_eq!(judge(other), Protocol::Http2, "{other:?}");
        }
    }
}
