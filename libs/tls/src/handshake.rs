//! How long two sides may take to agree on keys, and what they are told when they do not.

use std::io;
use std::time::Duration;

use rustls::ClientConnection;
use tokio::io::AsyncBufReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::trouble::in_words;

/// How long a peer may take to agree on keys.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How long whoever has dialled waits for the first bytes of the other side.
const FIRST_BYTES_MAX: Duration = Duration::from_secs(1);

/// A handshake from the side that has dialled. With TLS 1.3 that side is through before the other has judged its certificate,
/// whose refusal would be taken for a connection that breaks: the first bytes of the other side are waited for, which an
/// HTTP/2 server sends by itself (RFC 9113, section 3.4). One that does not is not waited for long.
pub(crate) async fn dialled(
    handshake: impl Future<Output = io::Result<TlsStream<TcpStream>>>,
    judge: impl FnOnce(&ClientConnection) -> io::Result<()>,
) -> io::Result<TlsStream<TcpStream>> {
    in_time(async {
        let mut stream = handshake.await?;
        // Before the other side's judgement: it closes the connection with it.
        judge(stream.get_ref().1)?;
        if let Ok(first) = tokio::time::timeout(FIRST_BYTES_MAX, stream.fill_buf()).await {
            first?;
        }
        Ok(stream)
    })
    .await
}

/// A handshake, with its end.
pub(crate) async fn in_time<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let took_too_long = || io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
    let agreed = tokio::time::timeout(HANDSHAKE_MAX, handshake).await.map_err(|_elapsed| took_too_long())?;
    agreed.map_err(|error| match in_words(&error) {
        Some(words) => io::Error::new(error.kind(), words),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            io::Error::new(error.kind(), "the other side has closed the connection: its log says why")
        }
        None => error,
    })
}
