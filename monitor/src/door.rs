//! The door of the HTTP server: so many connections at a time, and none that is silent for ever. Who comes while it is
//! full waits outside.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use crate::files;

/// As many connections, and a tenth of the files that the process may open.
const CONNECTIONS_MAX: usize = 2000;
/// A connection on which nothing moves for so long is closed: longer than the longest wait for an answer.
const SILENCE: Duration = Duration::from_secs(600);

/// A listener with bounds.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    silence: Duration,
}

impl Door {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self::with(listener, files::share(10, CONNECTIONS_MAX).max(1), SILENCE)
    }

    fn with(listener: TcpListener, most: usize, silence: Duration) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(most)), silence }
    }
}

impl Listener for Door {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        // Never closed, so there is always a place in the end.
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, addr) = Listener::accept(&mut self.listener).await;
        // Its answers are small and somebody waits for each.
        let _ = stream.set_nodelay(true);
        let (silence, clock) = (self.silence, Box::pin(sleep(self.silence)));
        (Guest { stream, silence, clock, _place: place }, addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Guest {
    stream: TcpStream,
    silence: Duration,
    clock: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Guest {
    /// Where this end of it is.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// What moved, or the end of a silence that was too long.
    fn unless_silent<T>(
        &mut self,
        moved: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.clock.as_mut().reset(Instant::now() + self.silence);
            return moved;
        }
        ready!(self.clock.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_read(context, into);
        self.unless_silent(moved, context)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.unless_silent(moved, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.unless_silent(moved, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    async fn serve(most: usize, silence: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let pages = Router::new().route("/", get(|| async { "here" }));
        let door = Door::with(listener, most, silence);
        tokio::spawn(async move { axum::serve(door, pages).await });
        addr
    }

    async fn is_answered(stream: &mut TcpStream, limit: Duration) -> bool {
        let mut answer = [0; 12];
        let read = timeout(limit, stream.read_exact(&mut answer)).await;
        matches!(read, Ok(Ok(_))) && answer == *b"HTTP/1.1 200"
    }

    #[tokio::test]
    async fn who_comes_while_it_is_full_waits_outside() {
        let addr = serve(2, LIMIT).await;
        let mut guests = Vec::new();
        for _ in 0..2 {
            let mut guest = TcpStream::connect(addr).await.unwrap();
            guest.write_all(REQUEST).await.unwrap();
            assert!(is_answered(&mut guest, LIMIT).await);
            guests.push(guest);
        }
        let mut third = TcpStream::connect(addr).await.unwrap();
        third.write_all(REQUEST).await.unwrap();
        assert!(!is_answered(&mut third, Duration::from_millis(100)).await, "there is no place");
        guests.pop();
        assert!(is_answered(&mut third, LIMIT).await);
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_more_is_closed() {
        let addr = serve(2, Duration::from_millis(50)).await;
        for said in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf"] {
            let mut guest = TcpStream::connect(addr).await.unwrap();
            guest.write_all(said).await.unwrap();
            let mut rest = Vec::new();
            // Closed or reset; what matters is that it ends.
            let _ = timeout(LIMIT, guest.read_to_end(&mut rest)).await.expect("the end of it");
        }
    }
}
