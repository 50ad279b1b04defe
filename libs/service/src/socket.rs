//! An accepted connection: counted, and closed when it sends no request in time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

/// A TCP connection that must send a whole request within a deadline.
#[derive(Debug)]
pub(crate) struct Socket<P> {
    inner: TcpStream,
    opened: Opened,
    deadline: Option<Pin<Box<Sleep>>>,
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
        Self { inner, opened, deadline: Some(Box::pin(tokio::time::sleep_until(deadline))), _place: place }
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
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
