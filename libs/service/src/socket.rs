//! An accepted connection: counted, closed when it sends no request in time, and closed so that the other side gets
//! what was sent last.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

/// How long a connection that is closed here is still read from: a socket that is closed with unread bytes is reset, and
/// the other side may lose the end of its streams, the status included.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes that are read at once then, for nothing.
const DISCARDED_BYTES: usize = 8 << 10;

/// A TCP connection that must send a whole request within a deadline.
#[derive(Debug)]
pub(crate) struct Socket<P> {
    inner: TcpStream,
    opened: Opened,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Closed here: until when what still comes is read.
    lingers: Option<Pin<Box<Sleep>>>,
    /// Its share of the limits; given back when the connection ends.
    _place: P,
}

/// Travels with every request of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    requested: Arc<AtomicBool>,
    pub(crate) peer: SocketAddr,
}

impl Opened {
    /// A connection that was opened from `peer`.
    pub(crate) fn of(peer: SocketAddr) -> Self {
        Self { requested: Arc::default(), peer }
    }

    /// A request has arrived: the connection is in use.
    pub(crate) fn note_request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }
}

impl<P> Socket<P> {
    pub(crate) fn new(inner: TcpStream, peer: SocketAddr, deadline: Instant, place: P) -> Self {
        let opened = Opened::of(peer);
        Self {
            inner,
            opened,
            deadline: Some(Box::pin(tokio::time::sleep_until(deadline))),
            lingers: None,
            _place: place,
        }
    }
}

impl<P> Connected for Socket<P> {
    type ConnectInfo = Opened;

    fn connect_info(&self) -> Opened {
        self.opened.clone()
    }
}

impl<P: Unpin> AsyncRead for Socket<P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let requested = self.opened.requested.load(Ordering::Relaxed);
        if let Some(deadline) = &mut self.deadline {
            if requested {
                self.deadline = None;
            } else if deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request in time")));
            }
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<P: Unpin> AsyncWrite for Socket<P> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = &mut *self;
        if socket.lingers.is_none() {
            ready!(Pin::new(&mut socket.inner).poll_shutdown(context))?;
        }
        let lingers = socket.lingers.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut discarded = [0; DISCARDED_BYTES];
        while lingers.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut discarded);
            let read = ready!(Pin::new(&mut socket.inner).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn who_is_still_sending_gets_what_was_sent_last() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        let mut socket = Socket::new(accepted, peer, Instant::now() + Duration::from_secs(60), ());
        // More than the buffers between the two hold.
        let mut sending = vec![7; 16 << 20];
        let first = client.write(&sending).await.unwrap();
        let closing = tokio::spawn(async move {
            socket.write_all(b"the end").await.unwrap();
            socket.shutdown().await.unwrap();
        });
        client.write_all(&sending.split_off(first)).await.unwrap();
        let mut told = String::new();
        client.read_to_string(&mut told).await.unwrap();
        assert_eq!(told, "the end");
        drop(client);
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn who_does_not_close_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        let mut socket = Socket::new(accepted, peer, Instant::now() + Duration::from_secs(60), ());
        socket.shutdown().await.unwrap();
    }
}
