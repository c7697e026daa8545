//! One supervised session: connects as long as it takes, and again with a new session after an expiry.
//!
//! The client library ends for good when its session expires, blocks for a whole session timeout when no host
//! answers, and doubles its delays; so each session gets a client of its own, every host is tried once per
//! round, and the rounds follow each other at a fixed pace.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info, warn};
use zookeeper_client::{Client, SessionState};

use super::error::NotSent;
use super::secure;
use super::{Options, Session, SessionPhase};

/// Between two rounds over all hosts. A restarted server is found within this, and 10 attempts per second from
/// each process are nothing to a server.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// How often an ensemble that cannot be reached is reported.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// How often it is asked at once why there is no connection; later with each report only.
const LOOKS_MAX: usize = 3;

/// What is known of the session, and the client that holds it while there is one.
#[derive(Clone)]
struct Held {
    session: Session,
    client: Option<Client>,
    /// Why the last attempt to connect came to nothing, until one succeeds.
    why: Option<String>,
}

impl Held {
    fn unreachable(&self) -> NotSent {
        let why = self.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        NotSent::Unreachable(format!("no connection to any server{why}"))
    }
}

/// A supervised session. When the last handle is dropped, the session is closed in the background.
pub(super) struct Link {
    held: watch::Receiver<Held>,
    session: watch::Receiver<Session>,
    stop: watch::Sender<bool>,
}

/// A view of the session that does not keep it open.
#[derive(Clone)]
pub(super) struct LinkView(watch::Receiver<Held>);

impl Link {
    /// Starts to connect in the background; needs a tokio runtime.
    pub(super) fn open(options: Options) -> Self {
        let first =
            Session { generation: 0, phase: SessionPhase::Connecting, since: Instant::now().into_std() };
        let (session_tx, session) = watch::channel(first);
        let (held_tx, held) = watch::channel(Held { session: first, client: None, why: None });
        let (stop, stopped) = watch::channel(false);
        let publisher = Publisher { held: held_tx, session: session_tx };
        tokio::spawn(supervise(options, publisher, stopped));
        Self { held, session, stop }
    }

    pub(super) fn session(&self) -> watch::Receiver<Session> {
        self.session.clone()
    }

    pub(super) fn view(&self) -> LinkView {
        LinkView(self.held.clone())
    }

    /// Asks the session to end.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until the server has confirmed the end, or until `deadline`.
    pub(super) async fn closed(&self, deadline: Instant) {
        let mut session = self.session.clone();
        // An error means that the supervisor is gone, which is as good as closed.
        let _ = timeout_at(deadline, session.wait_for(|session| session.phase == SessionPhase::Closed)).await;
    }
}

impl LinkView {
    /// Why the last attempt to connect came to nothing, if no session has begun since.
    pub(super) fn why(&self) -> Option<String> {
        self.0.borrow().why.clone()
    }

    /// The timeout that the server granted to the session of this generation, if that is the present one.
    pub(super) fn session_timeout(&self, generation: u64) -> Option<Duration> {
        let held = self.0.borrow();
        let client = held.client.as_ref().filter(|_| held.session.generation == generation);
        client.map(Client::session_timeout)
    }

    /// The client of the connected session, waited for until `deadline`; with `bound`, of that session only.
    pub(super) async fn client(&self, bound: Option<u64>, deadline: Instant) -> Result<Client, NotSent> {
        let mut held = self.0.clone();
        loop {
            if let Some(answer) = usable(&held.borrow_and_update(), bound) {
                return answer;
            }
            match timeout_at(deadline, held.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(NotSent::Unreachable("the store is closed".to_string())),
                Err(_) => return Err(held.borrow().unreachable()),
            }
        }
    }

    /// The next client of a connected session, as long as it takes; `None` when the link is closed for good.
    pub(super) async fn connected(&self) -> Option<(u64, Client)> {
        let mut held = self.0.clone();
        loop {
            {
                let now = held.borrow_and_update();
                match (now.session.phase, &now.client) {
                    (SessionPhase::Connected, Some(client)) => {
                        return Some((now.session.generation, client.clone()));
                    }
                    (SessionPhase::Closed, _) => return None,
                    _ => {}
                }
            }
            held.changed().await.ok()?;
        }
    }
}

/// The client, or why there will be none; `None` while that is open.
fn usable(held: &Held, bound: Option<u64>) -> Option<Result<Client, NotSent>> {
    let Session { generation, phase, .. } = held.session;
    if phase == SessionPhase::Closed {
        return Some(Err(NotSent::Unreachable("the store is closed".to_string())));
    }
    if let Some(bound) = bound
        && (bound != generation || !phase.is_alive())
    {
        return Some(Err(NotSent::SessionOver(bound)));
    }
    match (phase, &held.client) {
        (SessionPhase::Connected, Some(client)) => Some(Ok(client.clone())),
        _ => None,
    }
}

/// Where the supervisor tells what it knows. The client goes out before the session, so that whoever waits for
/// the session finds the client.
struct Publisher {
    held: watch::Sender<Held>,
    session: watch::Sender<Session>,
}

impl Publisher {
    fn tell(&self, generation: u64, phase: SessionPhase, client: Option<&Client>) {
        // It is away since it was lost, whatever became of the session meanwhile.
        let before = *self.session.borrow();
        let away = [before.phase, phase].iter().all(|phase| *phase != SessionPhase::Connected);
        let since = if away { before.since } else { Instant::now().into_std() };
        let session = Session { generation, phase, since };
        self.held.send_replace(Held { session, client: client.cloned(), why: None });
        self.session.send_replace(session);
    }

    fn explain(&self, why: &str) {
        self.held.send_modify(|held| held.why = Some(why.to_owned()));
    }
}

/// One session after the other, until the link is closed or dropped.
async fn supervise(options: Options, publisher: Publisher, mut stop: watch::Receiver<bool>) {
    let mut generation = 0;
    while let Some(client) = connect(&options, &publisher, &mut stop).await {
        generation += 1;
        info!(hosts = %options.hosts, generation, "ZooKeeper session established");
        let last = hold(client, generation, &publisher, &mut stop).await;
        if last == SessionState::Closed {
            break;
        }
        warn!(hosts = %options.hosts, generation, "ZooKeeper session lost: {last}");
    }
    publisher.tell(generation, SessionPhase::Closed, None);
}

/// A client with a new session, as long as it takes; `None` when stopped.
async fn connect(
    options: &Options,
    publisher: &Publisher,
    stop: &mut watch::Receiver<bool>,
) -> Option<Client> {
    let mut reported: Option<Instant> = None;
    let (mut looks, mut refused) = (0, false);
    loop {
        let attempt = tokio::select! {
            () = stopped(stop) => return None,
            attempt = timeout(options.session_timeout * 2, connect_once(options)) => attempt,
        };
        let why = match attempt {
            Ok(Ok(client)) => return Some(client),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_string(),
        };
        let due = reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY);
        // A server that has just started may take too long for the first ones.
        let refusals = if due || (looks < LOOKS_MAX && !refused) {
            looks += 1;
            tokio::select! {
                () = stopped(stop) => return None,
                refusals = secure::refusals(options) => refusals,
            }
        } else {
            None
        };
        if due || (refusals.is_some() && !refused) {
            reported = Some(Instant::now());
            refused |= refusals.is_some();
            let why = refusals.unwrap_or(why);
            publisher.explain(&why);
            warn!(hosts = %options.hosts, "no ZooKeeper server can be reached, trying on: {why}");
        } else {
            debug!(hosts = %options.hosts, "no ZooKeeper server can be reached: {why}");
        }
        tokio::select! {
            () = stopped(stop) => return None,
            () = sleep(ROUND_PAUSE) => {}
        }
    }
}

async fn connect_once(options: &Options) -> Result<Client, zookeeper_client::Error> {
    let mut connector = Client::connector()
        .with_session_timeout(options.session_timeout)
        .with_connection_timeout(options.host_timeout())
        .with_fail_eagerly();
    if let Some((user, password)) = &options.auth {
        connector = connector.with_auth("digest", format!("{user}:{password}").as_bytes());
    }
    let Some(tls) = &options.tls else { return connector.connect(&options.hosts).await };
    secure::connect(connector, tls, &options.hosts).await
}

/// Follows one session to its end and returns its last state; `Closed` when it was asked to end.
async fn hold(
    client: Client,
    generation: u64,
    publisher: &Publisher,
    stop: &mut watch::Receiver<bool>,
) -> SessionState {
    let mut states = client.state_watcher();
    // The watcher counts the present state as seen.
    let mut state = client.state();
    while !state.is_terminated() {
        let phase = match state {
            SessionState::SyncConnected | SessionState::ConnectedReadOnly => SessionPhase::Connected,
            SessionState::Disconnected
            | SessionState::AuthFailed
            | SessionState::Expired
            | SessionState::Closed => SessionPhase::Disconnected,
        };
        debug!(generation, "ZooKeeper connection: {phase:?}");
        publisher.tell(generation, phase, Some(&client));
        state = tokio::select! {
            () = stopped(stop) => {
                // The library sends CloseSession when the last client is dropped; then ephemeral znodes vanish
                // at once instead of after the session timeout.
                publisher.tell(generation, SessionPhase::Closing, None);
                drop(client);
                return closed(states).await;
            }
            state = states.changed() => state,
        };
    }
    publisher.tell(generation, SessionPhase::Expired, None);
    state
}

/// Waits for the end of a session whose clients are dropped. Without a connection there is nobody to say
/// goodbye to, so the wait is bounded by the library's own expiry; callers bound it further.
async fn closed(mut states: zookeeper_client::StateWatcher) -> SessionState {
    while !states.peek_state().is_terminated() {
        states.changed().await;
    }
    SessionState::Closed
}

/// Resolves when the link is closed or its last handle is dropped.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
