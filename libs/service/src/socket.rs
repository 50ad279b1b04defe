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
use tokio_util::either::Either;
use tonic::transport::server::Connected;
use walser_tls::{PeerIdentity, TlsStream};

/// How long a connection that is closed here is still read from: a socket that is closed with unread bytes is reset, and
/// the other side may lose the end of its streams, the status included.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes that are read at once then, for nothing.
const DISCARDED_BYTES: usize = 8 << 10;

/// What is accepted: plain, or with keys agreed on.
pub(crate) type Wire = Either<TcpStream, TlsStream<TcpStream>>;

/// A connection that must send a whole request within a deadline.
#[derive(Debug)]
pub(crate) struct Socket<P> {
    inner: Wire,
    opened: Opened,
    /// When it is closed whatever is under way: until the first request, if none comes; then, if it grows too old.
    deadline: Option<Pin<Box<Sleep>>>,
    in_use: bool,
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
    /// Which process of the cluster has connected, where that is known.
    pub(crate) identity: Option<Arc<PeerIdentity>>,
    /// When its streams end because it has reached its age, if it ever does.
    pub(crate) age_reached: Option<Instant>,
    /// When what still runs on it then is cut.
    cut_at: Option<Instant>,
}

impl Opened {
    /// A connection from `peer`. `age`: when it reaches its age, and how long calls may still run then.
    pub(crate) fn new(peer: SocketAddr, age: Option<(Instant, Duration)>) -> Self {
        let (age_reached, cut_at) = (age.map(|(at, _)| at), age.map(|(at, grace)| at + grace));
        Self { requested: Arc::default(), peer, identity: None, age_reached, cut_at }
    }

    /// A request has arrived: the connection is in use.
    pub(crate) fn note_request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }
}

impl<P> Socket<P> {
    pub(crate) fn new(inner: Wire, opened: Opened, deadline: Instant, place: P) -> Self {
        Self {
            inner,
            opened,
            deadline: Some(Box::pin(tokio::time::sleep_until(deadline))),
            in_use: false,
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
        let socket = &mut *self;
        if !socket.in_use && socket.opened.requested.load(Ordering::Relaxed) {
            socket.in_use = true;
            socket.deadline = socket.opened.cut_at.map(|at| Box::pin(tokio::time::sleep_until(at)));
        }
        if let Some(deadline) = &mut socket.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            let why = if socket.in_use { "its age is over" } else { "no request in time" };
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        Pin::new(&mut socket.inner).poll_read(context, buffer)
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
        let mut socket =
            Socket::new(Wire::Left(accepted), Opened::new(peer, None), Instant::now() + Duration::from_secs(60), ());
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
    async fn what_still_runs_when_the_age_is_over_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        let opened = Opened::new(peer, Some((Instant::now(), Duration::ZERO)));
        let mut socket =
            Socket::new(Wire::Left(accepted), opened.clone(), Instant::now() + Duration::from_secs(60), ());
        opened.note_request();
        let cut = socket.read_u8().await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_does_not_close_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        let mut socket =
            Socket::new(Wire::Left(accepted), Opened::new(peer, None), Instant::now() + Duration::from_secs(60), ());
        socket.shutdown().await.unwrap();
    }
}
