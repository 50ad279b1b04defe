//! What a client speaks, by its first bytes. Clients of HTTP/2 send its preface at once; those of HTTP/1 (curl, a
//! browser, a load balancer's probe) would be cut off without a word by a server that knows HTTP/2 only, and those
//! without TLS by a port that has it: they get one answer.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a client of HTTP/1 is told.
const TEXT: &str = "this port speaks gRPC over HTTP/2, not HTTP/1; use a gRPC client, grpcurl or the walser command. \
                    Metrics and probes are on the admin port.\n";
/// What a client without TLS is told.
const TLS_TEXT: &str =
    "this port speaks TLS, and the client does not: give it the authority's certificate (walser: --tls-ca FILE)\n";
/// Frames of HTTP/2 before that text: empty SETTINGS, and the head of a GOAWAY of no stream with INADEQUATE_SECURITY
/// (RFC 9113, sections 6.5, 6.8 and 7), without its length.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const GOAWAY: [u8; 14] = [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc];
/// The type of a frame that begins a call, and how long one is waited for.
const HEADERS: u8 = 1;
const CALL_MAX: Duration = Duration::from_secs(1);
/// Bytes of a GOAWAY before its text.
const GOAWAY_BYTES: usize = 8;
/// The first byte of a handshake of TLS (RFC 8446, section 5.1: the record type).
const TLS_HANDSHAKE: u8 = 22;
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
    Tls,
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
pub(crate) async fn refuse_http1(stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let head = "426 Upgrade Required\r\nupgrade: HTTP/2.0\r\nconnection: upgrade, close";
    end_with(stream, http1(head, TEXT).as_bytes()).await
}

/// Answers a client that does not speak TLS to a port that does, and ends the connection.
///
/// # Errors
/// What the system says.
pub(crate) async fn refuse_plain(mut stream: TcpStream, protocol: Protocol) -> io::Result<()> {
    if protocol == Protocol::Http2 {
        // A client that is told before its call is on the connection tells its caller nothing of it.
        stream.write_all(&SETTINGS).await?;
        let _ = tokio::time::timeout(CALL_MAX, first_call(&mut stream)).await;
    }
    let answer = match protocol {
        Protocol::Http1 => http1("400 Bad Request\r\nconnection: close", TLS_TEXT).into_bytes(),
        _ => {
            let [.., high, middle, low] = (GOAWAY_BYTES + TLS_TEXT.len()).to_be_bytes();
            [&[high, middle, low][..], &GOAWAY, TLS_TEXT.as_bytes()].concat()
        }
    };
    end_with(stream, &answer).await
}

/// Reads the frames of a client up to those of its first call (RFC 9113, section 4.1: 24 bits of length, 8 of type, 40 more).
async fn first_call(stream: &mut TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; PREFACE.len()]).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [high, middle, low, kind, ..] = head;
        if kind == HEADERS {
            return Ok(());
        }
        let length = u64::from(u32::from_be_bytes([0, high, middle, low]));
        tokio::io::copy(&mut (&mut *stream).take(length), &mut tokio::io::sink()).await?;
    }
}

fn http1(head: &str, text: &str) -> String {
    let length = text.len();
    format!("HTTP/1.1 {head}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\r\n{text}")
}

async fn end_with(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(DROPPED_BYTES_MAX), &mut tokio::io::sink()).await.map(drop)
}

/// A request of HTTP/1 begins with the name of its method, in capitals.
fn judge(first: &[u8]) -> Protocol {
    if first.first() == Some(&TLS_HANDSHAKE) {
        return Protocol::Tls;
    }
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
        for other in [&PREFACE[..], &PREFACE[..1], &PREFACE[..3], b"GET\0", b"get / ", b"\n"] {
            assert_eq!(judge(other), Protocol::Http2, "{other:?}");
        }
        assert_eq!(judge(b"\x16\x03\x01\x02\x00"), Protocol::Tls);
    }
}
