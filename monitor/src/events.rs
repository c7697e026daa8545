//! `GET /events`, server-sent events: the status whenever it changed, each decision, the other monitors' view.
//!
//! ```text
//!   event: status     the document of /services: at once, and again when it changed, at most five times a second
//!   event: alive      nothing changed, and the driver turns: at least once a second comes this or a status
//!   event: decision   a record of the history, with its `service`
//!   event: peers      what /peer/services answers, once a second while anybody listens
//! ```
//!
//! The driver is asked once per stream, at its start. Then it makes one status for all of them
//! ([`crate::driver::Feed`]); a stream that is read slowly skips what it missed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use futures_util::stream::{Stream, unfold};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use topology::zookeeper::Store;
use topology::{Endpoint, Layout};

use crate::admin::{Question, ask, error, read};
use crate::call::{Call, call};
use crate::config::Config;
use crate::driver::{Feed, Input};
use crate::report;

/// As many streams at a time.
const STREAMS_MAX: usize = 64;
/// As many histories are read at a time.
const READS_MAX: usize = 8;
/// How long ZooKeeper is waited for.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// How long another monitor is waited for.
const PEER_LIMIT: Duration = Duration::from_secs(1);
/// What other monitors said is not asked for again within this time.
const PEER_FRESH: Duration = Duration::from_millis(500);
const PEER_PACE: Duration = Duration::from_secs(1);
/// As many others are asked.
const PEERS_MAX: usize = 4;

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Desk {
    driver: mpsc::UnboundedSender<Input>,
    feed: Feed,
    config: Arc<Config>,
    store: Store,
    streams: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    peers: Arc<Peers>,
}

/// What other monitors said last.
struct Peers {
    last: Mutex<Option<(Instant, Arc<Value>)>>,
    news: watch::Sender<Option<Arc<Value>>>,
}

impl Desk {
    pub(crate) fn new(
        driver: mpsc::UnboundedSender<Input>,
        feed: Feed,
        config: Arc<Config>,
        store: Store,
    ) -> Self {
        let peers = Peers { last: Mutex::new(None), news: watch::Sender::new(None) };
        Self {
            driver,
            feed,
            config,
            store,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            peers: Arc::new(peers),
        }
    }

    /// Asks the other monitors again and again while somebody listens.
    pub(crate) async fn follow_peers(self) {
        let mut pace = interval(PEER_PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            if self.peers.news.receiver_count() > 0
                && let Ok(said) = self.peers().await
            {
                self.peers.news.send_replace(Some(said));
            }
        }
    }

    /// What the other monitors say. One question at a time, whoever wants to know.
    async fn peers(&self) -> Result<Arc<Value>, Response> {
        let mut last = self.peers.last.lock().await;
        if let Some((at, said)) = last.as_ref()
            && at.elapsed() < PEER_FRESH
        {
            return Ok(said.clone());
        }
        let status = read(&ask(&self.driver, Question::Status).await?);
        let own = &status["me"];
        let others = status["monitors"].as_array().into_iter().flatten();
        let others = others.filter(|monitor| monitor["name"] != *own && monitor["role"] != "observer");
        let others = others
            .filter_map(|monitor| Some((monitor["name"].clone(), monitor["admin"].as_str()?.parse().ok()?)));
        let asked = others.take(PEERS_MAX).map(|(name, admin)| peer(name, admin));
        let said = Arc::new(json!({"peers": futures_util::future::join_all(asked).await}));
        *last = Some((Instant::now(), said.clone()));
        Ok(said)
    }
}

async fn peer(name: Value, admin: Endpoint) -> Value {
    let question = Call { page: "/services", body: None, token: None, limit: PEER_LIMIT };
    let (status, why) = match call(&admin, question).await {
        Ok((StatusCode::OK, status)) => (status, None),
        Ok((code, _)) => (Value::Null, Some(format!("the monitor at {admin} answered {code}"))),
        Err(why) => (Value::Null, Some(why)),
    };
    json!({"name": name, "admin": admin, "status": status, "error": why})
}

/// The pages.
pub(crate) fn routes(desk: Desk) -> Router {
    Router::new()
        .route("/events", get(events))
        .route("/peer/services", get(peers))
        .route("/services/{service}/history", get(history))
        .with_state(desk)
}

async fn peers(State(desk): State<Desk>) -> Response {
    match desk.peers().await {
        Ok(said) => Json(&*said).into_response(),
        Err(response) => response,
    }
}

async fn history(State(desk): State<Desk>, name: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(name)) = name else {
        return error(StatusCode::BAD_REQUEST, "bad_request", "the name of the service is not UTF-8");
    };
    let Ok(_place) = desk.reads.try_acquire() else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "too many histories are being read");
    };
    let layout = Layout::new(desk.config.zookeeper.state_root.clone());
    let read = timeout(READ_LIMIT, async {
        let path = report::path_of(&desk.config, &desk.store, &name).await?;
        let Some(path) = path else { return Ok(None) };
        report::decisions(&desk.store, &layout, &path).await.map(Some)
    });
    match read.await.unwrap_or_else(|_| Err("ZooKeeper does not answer".to_owned())) {
        Ok(Some(decisions)) => ([(header::CACHE_CONTROL, "no-store")], Json(decisions)).into_response(),
        Ok(None) => {
            error(StatusCode::NOT_FOUND, "unknown_service", &format!("no service is called `{name}` here"))
        }
        Err(why) => error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &why),
    }
}

async fn events(State(desk): State<Desk>) -> Response {
    let Ok(place) = desk.streams.clone().try_acquire_owned() else {
        let why = format!("{STREAMS_MAX} streams are open here already");
        return error(StatusCode::SERVICE_UNAVAILABLE, "overloaded", &why);
    };
    let mut status = desk.feed.status.subscribe();
    status.mark_unchanged();
    let decisions = desk.feed.decisions.subscribe();
    let peers = desk.peers.news.subscribe();
    let first = match ask(&desk.driver, Question::Status).await {
        Ok(first) => first.into(),
        Err(response) => return response,
    };
    let listener = Listener { status, decisions, peers, sent: None, first: Some(first), _place: place };
    ([(header::CACHE_CONTROL, "no-store")], Sse::new(listener.stream())).into_response()
}

/// One stream.
struct Listener {
    status: watch::Receiver<Option<Arc<str>>>,
    decisions: broadcast::Receiver<Arc<Value>>,
    peers: watch::Receiver<Option<Arc<Value>>>,
    /// The status that it got last.
    sent: Option<Arc<str>>,
    first: Option<Arc<str>>,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        unfold(self, |mut listener| async move {
            let event = listener.next().await?;
            Some((Ok(event), listener))
        })
    }

    /// The next event; none when the monitor ends.
    async fn next(&mut self) -> Option<Event> {
        if let Some(first) = self.first.take() {
            return Some(self.status(first));
        }
        loop {
            tokio::select! {
                biased;
                decision = self.decisions.recv() => match decision {
                    Ok(record) => return Some(Event::default().event("decision").data(record.to_string())),
                    Err(broadcast::error::RecvError::Lagged(_)) => {} // the history has them
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                changed = self.status.changed() => {
                    changed.ok()?;
                    let shown = self.status.borrow_and_update().clone();
                    if let Some(shown) = shown {
                        return Some(self.status(shown));
                    }
                }
                changed = self.peers.changed() => {
                    changed.ok()?;
                    let said = self.peers.borrow_and_update().clone();
                    if let Some(said) = said {
                        return Some(Event::default().event("peers").data(said.to_string()));
                    }
                }
            }
        }
    }

    fn status(&mut self, shown: Arc<str>) -> Event {
        if self.sent.as_ref().is_some_and(|sent| *sent == shown) {
            return Event::default().event("alive").data("{}");
        }
        let event = Event::default().event("status").data(&*shown);
        self.sent = Some(shown);
        event
    }
}
