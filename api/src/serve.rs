//! Connections of clients: who is answered, and in what bytes.
//!
//! Nearly all requests are plain ones: a GET without a body, or a write whose body came with its head. They are read and
//! answered here in as few steps as they need: one read, one write, no task of their own. Whatever is not as plain (other
//! methods or versions, chunked or late bodies, `Expect`, `Upgrade`, heads that are long or wrong) goes to hyper, and
//! the connection with it, for good: nothing is taken apart here that could be understood in two ways.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use bytes::{Buf, Bytes, BytesMut};
use crowd::{Crowd, Guest, files};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::plain::{self, Read};
use crate::routes::{Front, answer};

/// Before a connection is accepted again after that has failed: mostly no descriptor is free.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What is read at once.
const CHUNK: usize = 8 << 10;

/// More than this is not kept for the next answer of a connection.
const OUT_KEPT: usize = 64 << 10;

/// As many connections, and half of the files that the process may open.
const CONNECTIONS_MAX: usize = 20_000;

/// From the first byte of a request to the end of its head (with hyper also the rest before it).
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// Before a wrong token is answered.
const WRONG_REST: Duration = Duration::from_secs(1);

/// Accepts connections until `stop` says so, and then waits for the requests that are being answered. Idle connections are not
/// closed but to make place for others ([`crowd`]).
///
/// A connection that is closed while a request is on its way there breaks that request. So once the front is leaving the
/// answers say that they are the last ones of their connections, which clients and load balancers then leave by themselves;
/// connections that nobody used meanwhile are closed at `stop`.
pub(crate) async fn run(listener: TcpListener, front: Arc<Front>, stop: watch::Receiver<bool>) {
    run_with(listener, front, stop, files::share(2, CONNECTIONS_MAX), HEAD_LIMIT).await;
}

async fn run_with(
    listener: TcpListener,
    front: Arc<Front>,
    mut stop: watch::Receiver<bool>,
    most: usize,
    head_limit: Duration,
) {
    let refused = front.metrics.connections_refused.clone();
    let crowd = Crowd::new(most, move || _ = refused.inc());
    let (busy, mut idle) = mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                // Without a guest everybody is being answered: closed at once.
                let Some(guest) = crowd.enter() else { continue };
                let (front, stop, busy) = (front.clone(), stop.clone(), busy.clone());
                tokio::spawn(async move {
                    // An answer is one write; there is nothing to wait for.
                    let _ = stream.set_nodelay(true);
                    let guest = Arc::new(guest);
                    tokio::select! {
                        biased;
                        () = converse(stream, front, stop, &guest, head_limit) => {}
                        () = guest.asked_to_leave() => {}
                    }
                    drop(busy);
                });
            }
            Err(error) => {
                tracing::debug!("cannot accept: {error}");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop((listener, busy));
    let _ = idle.recv().await;
}

/// One connection to its end.
async fn converse(
    mut stream: TcpStream,
    front: Arc<Front>,
    mut stop: watch::Receiver<bool>,
    guest: &Arc<Guest>,
    head_limit: Duration,
) {
    // When the request that has come in part began to come.
    let mut begun: Option<Instant> = None;
    let mut buffer = BytesMut::with_capacity(CHUNK);
    let mut out = Vec::with_capacity(512);
    loop {
        match plain::read(&mut buffer) {
            Read::Whole(request) => {
                begun = None;
                let held = guest.busy();
                let mut answering = pin!(answer(&front, request));
                let response = match poll_fn(|context| Poll::Ready(answering.as_mut().poll(context))).await {
                    Poll::Ready(response) => response,
                    Poll::Pending => {
                        // What was answered before does not wait for this one.
                        if !out.is_empty() && stream.write_all(&out).await.is_err() {
                            return;
                        }
                        out.clear();
                        tokio::select! {
                            biased;
                            response = answering.as_mut() => response,
                            // Nobody waits for it any more.
                            () = gone(&stream) => return,
                        }
                    }
                };
                drop(held);
                if response.status() == StatusCode::UNAUTHORIZED {
                    sleep(WRONG_REST).await;
                }
                let last = front.is_leaving();
                plain::write(&response, last, &date(), &mut out);
                // Requests that came together are answered together.
                if !last && !buffer.is_empty() && out.len() < CHUNK {
                    continue;
                }
                if stream.write_all(&out).await.is_err() || last {
                    return;
                }
                out.clear();
                out.shrink_to(OUT_KEPT);
            }
            Read::Part => {
                if !out.is_empty() && stream.write_all(&out).await.is_err() {
                    return;
                }
                out.clear();
                buffer.reserve(CHUNK);
                // Nothing has come of a request, and nothing has to; or a part of one has.
                let read = if buffer.is_empty() {
                    tokio::select! {
                        biased;
                        read = stream.read_buf(&mut buffer) => read,
                        () = stopped(&mut stop) => return,
                    }
                } else {
                    let end = *begun.get_or_insert_with(Instant::now) + head_limit;
                    let Ok(read) = timeout_at(end, stream.read_buf(&mut buffer)).await else { return };
                    read
                };
                if !matches!(read, Ok(1..)) {
                    return;
                }
            }
            Read::Other => {
                if !out.is_empty() && stream.write_all(&out).await.is_err() {
                    return;
                }
                return by_hyper(Resumed { before: buffer.freeze(), stream }, front, stop, guest, head_limit)
                    .await;
            }
        }
    }
}

/// Ends when the program is to end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Ends when the client has closed the connection; what it has sent meanwhile is left where it is.
async fn gone(stream: &TcpStream) {
    let mut byte = [0];
    let sent = stream.peek(&mut byte).await;
    if matches!(sent, Ok(1..)) {
        std::future::pending::<()>().await;
    }
}

/// The rest of a connection, beginning with a request that is not plain.
async fn by_hyper(
    stream: Resumed,
    front: Arc<Front>,
    mut stop: watch::Receiver<bool>,
    guest: &Arc<Guest>,
    head_limit: Duration,
) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (front, guest) = (front.clone(), guest.clone());
        async move {
            // A body that comes late ends with the deadline of its request.
            let held = guest.busy();
            let mut response = answer(&front, request.map(Body::new)).await;
            drop(held);
            if response.status() == StatusCode::UNAUTHORIZED {
                sleep(WRONG_REST).await;
            }
            if front.is_leaving() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response.map(Full::new))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_limit)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

/// A stream of which something was read already.
struct Resumed {
    before: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Resumed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let length = self.before.len().min(into.remaining());
        into.put_slice(&self.before[..length]);
        self.before.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Resumed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The value of the header `date`: worked out once a second and thread.
fn date() -> [u8; plain::DATE] {
    thread_local! {
        static LAST: std::cell::Cell<(u64, [u8; plain::DATE])> = const { std::cell::Cell::new((0, [b' '; plain::DATE])) };
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (of, mut text) = LAST.get();
    if of != seconds {
        let new = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        if let Some(bytes) = new.as_bytes().first_chunk() {
            text = *bytes;
        }
        LAST.set((seconds, text));
    }
    text
}
