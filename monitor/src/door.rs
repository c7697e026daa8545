//! The door of the HTTP server: so many connections at a time ([`crowd`]), none that takes its time over a request, and none that is
//! silent for ever.
//!
//! A connection counts as idle until a request has come as a whole, head and body, so that half-sent ones make place like
//! silent ones. Whoever shows a wrong token waits for the answer, and is idle meanwhile.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode};
use crowd::{Crowd, Guest, files};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::admin::error;
use crate::asking::Caller;
use crate::metrics::Refused;

/// As many connections, and a tenth of the files that the process may open.
const CONNECTIONS_MAX: usize = 2000;
/// More than any head or body that can be asked with.
const REQUEST_MAX: usize = 64 << 10;
/// Before a connection is accepted again after that has failed: mostly no descriptor is free.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How long what may take. See README, "Limits".
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From the end of an answer, or the connection's begin, to the end of the next head.
    head: Duration,
    /// From there to the end of the body.
    body: Duration,
    /// Before a wrong token is answered.
    wrong: Duration,
}

const PATIENCE: Patience =
    Patience { head: Duration::from_secs(30), body: Duration::from_secs(10), wrong: Duration::from_secs(1) };

/// Accepts connections for ever.
pub(crate) async fn serve(listener: TcpListener, pages: Router, refused: Refused) {
    let crowd = refused.crowd(files::share(10, CONNECTIONS_MAX));
    serve_with(listener, crowd, Desk { pages, refused, patience: PATIENCE }).await;
}

/// What a connection needs.
#[derive(Debug, Clone)]
struct Desk {
    pages: Router,
    refused: Refused,
    patience: Patience,
}

async fn serve_with(listener: TcpListener, crowd: Arc<Crowd>, desk: Desk) {
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => {
                // Without a guest everybody is being answered: closed at once.
                let Some(guest) = crowd.enter() else { continue };
                tokio::spawn(converse(stream, addr, Arc::new(guest), desk.clone()));
            }
            Err(why) => {
                tracing::debug!("cannot accept: {why}");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, addr: SocketAddr, guest: Arc<Guest>, desk: Desk) {
    // Its answers are small and somebody waits for each.
    let _ = stream.set_nodelay(true);
    let caller = Caller::new(addr, stream.local_addr().ok());
    let (at_desk, head) = (guest.clone(), desk.patience.head);
    let service = service_fn(move |request| {
        let (guest, desk) = (at_desk.clone(), desk.clone());
        async move { Ok::<_, Infallible>(answer(request, caller, &guest, desk).await) }
    });
    let connection = Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(REQUEST_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => if let Err(why) = ended {
            tracing::debug!("a connection ended: {why}");
        },
        () = guest.asked_to_leave() => {}
    }
}

async fn answer(request: Request<Incoming>, caller: Caller, guest: &Guest, desk: Desk) -> Response<Body> {
    let Desk { pages, refused, patience } = desk;
    let (head, body) = request.into_parts();
    let body = match timeout(patience.body, Limited::new(body, REQUEST_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return error(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is too long, or was cut off");
        }
        Err(_) => return error(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not come in time"),
    };
    let mut request = Request::from_parts(head, Body::from(body));
    request.extensions_mut().insert(ConnectInfo(caller));
    let busy = guest.busy();
    let response = match TowerToHyperService::new(pages).call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        refused.logins.inc();
        drop(busy);
        sleep(patience.wrong).await;
        return response;
    }
    // Until all of it is on its way: a stream of events has no end.
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &busy;
            frame
        }))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const LONG: Patience = Patience { head: LIMIT, body: LIMIT, wrong: Duration::from_millis(300) };

    /// How many wait for [`never`], in the one test that does.
    static WAITING: AtomicUsize = AtomicUsize::new(0);

    async fn never() {
        WAITING.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }

    async fn serve(most: usize, patience: Patience) -> (SocketAddr, Arc<Crowd>, Refused) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let pages = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/never", get(never))
            .route("/wrong", post(|| async { StatusCode::UNAUTHORIZED }));
        let refused = Refused::default();
        let crowd = refused.crowd(most);
        let desk = Desk { pages, refused: refused.clone(), patience };
        tokio::spawn(serve_with(listener, crowd.clone(), desk));
        (addr, crowd, refused)
    }

    async fn connect(addr: SocketAddr, said: &[u8]) -> TcpStream {
        let mut guest = TcpStream::connect(addr).await.unwrap();
        guest.write_all(said).await.unwrap();
        guest
    }

    async fn is_answered(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 12];
        let read = timeout(LIMIT, stream.read_exact(&mut answer)).await.expect("an answer, or the end");
        read.is_ok() && answer == *b"HTTP/1.1 200"
    }

    /// Waits until the connection ends, and says what came before.
    async fn ended(stream: &mut TcpStream) -> String {
        let mut rest = Vec::new();
        // Closed or reset; what matters is that it ends.
        let _ = timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("the end of it");
        String::from_utf8_lossy(&rest).into_owned()
    }

    async fn until(crowd: &Crowd, number: usize) {
        let end = Instant::now() + LIMIT;
        while crowd.number() != number {
            assert!(Instant::now() < end, "{} instead of {number} are here", crowd.number());
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_thousand_who_say_nothing_or_half_keep_nobody_out() {
        let (addr, crowd, refused) = serve(100, LONG).await;
        let mut idle = Vec::new();
        for number in 0..1000 {
            let half = b"POST /wrong HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf";
            let said = [&b""[..], b"GET / HT", half][number % 3];
            idle.push(connect(addr, said).await);
            if number % 100 == 99 {
                assert!(is_answered(&mut connect(addr, REQUEST).await).await, "after {number}");
            }
        }
        assert!(crowd.number() <= 100);
        assert!(refused.connections.get() >= 900);
        ended(&mut idle[0]).await;
    }

    #[tokio::test]
    async fn who_is_being_answered_is_not_sent_away() {
        let (addr, crowd, _) = serve(2, LONG).await;
        let waits = b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n";
        let (_first, second) = (connect(addr, waits).await, connect(addr, waits).await);
        let end = Instant::now() + LIMIT;
        while WAITING.load(Ordering::SeqCst) < 2 {
            assert!(Instant::now() < end, "not yet asked");
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(ended(&mut connect(addr, REQUEST).await).await, "", "there is no place");
        drop(second);
        until(&crowd, 1).await;
        assert!(is_answered(&mut connect(addr, REQUEST).await).await);
    }

    #[tokio::test]
    async fn a_slow_request_is_closed() {
        let short = Duration::from_millis(100);
        let (addr, crowd, _) = serve(20, Patience { head: short, body: short, ..LONG }).await;
        let half = b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf";
        for said in [&b""[..], b"GET / HT", REQUEST, half] {
            let heard = ended(&mut connect(addr, said).await).await;
            assert_eq!(heard.contains("too_slow"), said == half, "{heard}");
        }
        // A byte now and then does not help.
        let mut guest = connect(addr, b"GET / HTTP/1.1\r\nx: ").await;
        let begun = Instant::now();
        while guest.write_all(b"x").await.is_ok() {
            assert!(begun.elapsed() < LIMIT, "still open");
            sleep(Duration::from_millis(20)).await;
        }
        until(&crowd, 0).await;
    }

    #[tokio::test]
    async fn a_wrong_token_is_answered_late_and_counted() {
        let (addr, _, refused) = serve(2, LONG).await;
        let begun = Instant::now();
        let wrong = b"POST /wrong HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
        let mut guest = connect(addr, wrong).await;
        let mut answer = [0; 12];
        timeout(LIMIT, guest.read_exact(&mut answer)).await.unwrap().unwrap();
        assert!(&answer == b"HTTP/1.1 401" && begun.elapsed() >= LONG.wrong);
        assert_eq!(refused.logins.get(), 1);
        // Nor do those who wait for it keep anybody out.
        let _waiting = [connect(addr, wrong).await, connect(addr, wrong).await];
        assert!(is_answered(&mut connect(addr, REQUEST).await).await);
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_is_refused() {
        let (addr, ..) = serve(2, LONG).await;
        let head = b"POST /wrong HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n";
        let mut guest = connect(addr, head).await;
        let _ = guest.write_all(&[b'x'; 100_000]).await;
        let mut answer = [0; 12];
        timeout(LIMIT, guest.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413");
    }
}
