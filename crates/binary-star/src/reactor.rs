//! Sockets, timers and a thread around the pure files: one side of a pair as a running thing.
//!
//! One thread named `binary-star` owns all sockets: PUB bound for our heartbeats, SUB connected to the peer's, and
//! ROUTER for the voter's clients. It sleeps in one poll until a socket, a [`Handle`] or the next deadline wakes it.
//! Handlers are called on that thread, one at a time; they must not block, or the peer takes us for dead.
//!
//! Two kinds of use ([`Votes`]): like the guide's `bstar` class, where clients vote and both sides ACTIVE is the end
//! of the process; or with a lead outside the pair, where [`Handle::vote`] decides and requests are only answered.
//!
//! This file carries the crate's marked exceptions: it reads the clock and does I/O.

mod sockets;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::fsm::{Dialect, Event, Lead, Peer, Refusal, Role, State, settled_by_lead, step};
use crate::heartbeat::{Heard, HeartbeatError, Instance, Key, Wire, sign};
use crate::liveness::Liveness;
use sockets::{Sockets, receive};

/// Frames taken from one socket before the others and the timers have their turn: a flood delays nothing for long.
const BATCH: usize = 64;
/// A silent connection is replaced this often at most. Without it, what was sent into a cut link is retried ever more
/// slowly by TCP, and a healed link stays silent for seconds.
const RENEW_MIN: Duration = Duration::from_secs(1);

/// Who makes a side active when its peer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Votes {
    /// Requests of clients, as in the guide; [`BinaryStar::on_request`] answers them. Both sides ACTIVE or both
    /// PASSIVE ends the reactor.
    ByClients,
    /// [`Handle::vote`] only. Requests are answered with [`Handle::set_reply`] and are no vote; both sides ACTIVE
    /// or both PASSIVE is reported and left to the lead.
    ByLead,
}

/// How one side runs. Endpoints are ZeroMQ's, for example `tcp://127.0.0.1:5003`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which table applies.
    pub dialect: Dialect,
    /// Which side this is.
    pub role: Role,
    /// Who makes this side active.
    pub votes: Votes,
    /// Where our heartbeats are published.
    pub bind: String,
    /// Where the peer publishes. Without one this side is alone: it binds nothing, and its peer is expired.
    pub peer: Option<String>,
    /// Where clients ask; bound only when there is a peer.
    pub voter: Option<String>,
    /// Between two heartbeats, at least 1 ms.
    pub heartbeat: Duration,
    /// Makes heartbeats and the voter's replies authentic ([`crate::heartbeat`]).
    pub key: Option<Key>,
    /// Random, drawn at every start of the process; used with a key only.
    pub instance: Instance,
}

/// What happened, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairEvent {
    /// Our own state changed.
    StateChanged {
        /// The state before.
        from: State,
        /// The state now.
        to: State,
        /// What made it change.
        why: Why,
    },
    /// The peer is heard: for the first time, or again.
    PeerAlive,
    /// The peer's silence passed the expiry.
    PeerExpired,
    /// An event was not accepted. A dual state is reported with each heartbeat that shows it.
    Refused(Refusal),
    /// A frame at the heartbeat socket was dropped; with the number of such frames so far.
    BadHeartbeat(HeartbeatError, u64),
    /// One heartbeat of ours was sent.
    Beat {
        /// It was late by more than a heartbeat; the peer's silence is measured anew (SAFETY R13).
        stalled: bool,
    },
    /// A client asks and is answered (with [`Votes::ByLead`], in state ACTIVE).
    Request {
        /// The frames that lead back to the client, without the empty one.
        envelope: Vec<Vec<u8>>,
        /// The one part of its request.
        body: Vec<u8>,
    },
    /// A request at the voter socket was malformed and ignored; with the number of such requests so far.
    BadRequest(u64),
    /// The last event: sockets are closed.
    Ended(Option<EndError>),
}

/// What made the state change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// An event of the table.
    Event(Event),
    /// The lead outside the pair.
    Lead(Lead),
}

/// Why a side does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The heartbeat is shorter than 1 ms.
    #[error("a heartbeat of {0:?} is too short, at least 1 ms")]
    Heartbeat(Duration),
    /// An endpoint is malformed, taken, or not ours.
    #[error("cannot use {endpoint}: {why}")]
    Endpoint {
        /// The endpoint as given.
        endpoint: String,
        /// What ZeroMQ says.
        why: zmq::Error,
    },
    /// ZeroMQ gave no socket.
    #[error("no socket: {0}")]
    Socket(#[from] zmq::Error),
    /// The system gave no thread or no wake-up pipe.
    #[error("no thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why a side ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    /// Both ACTIVE or both PASSIVE, which the guide answers by ending the process.
    #[error("fatal: {0}")]
    Refused(Refusal),
    /// ZeroMQ failed.
    #[error("socket: {0}")]
    Socket(zmq::Error),
    /// A handler panicked.
    #[error("a handler panicked")]
    Panicked,
}

/// The frames of one message at the voter socket, envelope first.
pub type Frames = Vec<Vec<u8>>;

/// One side of a pair before it starts: options and handlers.
pub struct BinaryStar {
    options: Options,
    handlers: Handlers,
}

struct Handlers {
    event: Box<dyn FnMut(PairEvent) + Send>,
    active: Box<dyn FnMut() + Send>,
    passive: Box<dyn FnMut() + Send>,
    request: Box<dyn FnMut(Frames) -> Option<Frames> + Send>,
}

impl BinaryStar {
    /// A side without handlers.
    pub fn new(options: Options) -> Self {
        let handlers = Handlers {
            event: Box::new(|_| {}),
            active: Box::new(|| {}),
            passive: Box::new(|| {}),
            request: Box::new(|_| None),
        };
        BinaryStar { options, handlers }
    }

    /// Called with everything that happens.
    pub fn on_event(mut self, handler: impl FnMut(PairEvent) + Send + 'static) -> Self {
        self.handlers.event = Box::new(handler);
        self
    }

    /// The guide's new-active handler: called when this side becomes ACTIVE.
    pub fn on_active(mut self, handler: impl FnMut() + Send + 'static) -> Self {
        self.handlers.active = Box::new(handler);
        self
    }

    /// The guide's new-passive handler: called when this side becomes PASSIVE.
    pub fn on_passive(mut self, handler: impl FnMut() + Send + 'static) -> Self {
        self.handlers.passive = Box::new(handler);
        self
    }

    /// The guide's voter handler ([`Votes::ByClients`]): takes the frames of an accepted request, envelope first, and
    /// gives those to send back.
    pub fn on_request(mut self, handler: impl FnMut(Frames) -> Option<Frames> + Send + 'static) -> Self {
        self.handlers.request = Box::new(handler);
        self
    }

    /// Opens the sockets and starts the thread.
    pub fn start(self) -> Result<Running, StartError> {
        let BinaryStar { options, mut handlers } = self;
        if options.heartbeat < Duration::from_millis(1) {
            return Err(StartError::Heartbeat(options.heartbeat));
        }
        let sockets = Sockets::open(&options)?;
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared { wake, desk: Mutex::new(Desk::new(options.role)) });
        let handle = Handle { shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new().name("binary-star".into()).spawn(move || {
            let result = Reactor::new(options, sockets, woken, shared, &mut handlers).run();
            (handlers.event)(PairEvent::Ended(result.err()));
            result
        })?;
        Ok(Running { handle, thread: Some(thread) })
    }
}

/// A side that runs. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    thread: Option<JoinHandle<Result<(), EndError>>>,
}

impl Running {
    /// A handle to it, to be cloned at will.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends the thread and closes the sockets; afterwards the endpoints are free again.
    pub fn stop(self) -> Result<(), EndError> {
        self.handle.stop();
        self.wait()
    }

    /// Waits until it ends, by an error or because a handle stopped it.
    pub fn wait(mut self) -> Result<(), EndError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), EndError> {
        match self.thread.take() {
            // A handler that drops us runs on the very thread that would be waited for.
            Some(thread) if thread.thread().id() != std::thread::current().id() => {
                thread.join().unwrap_or(Err(EndError::Panicked))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        // An error was already told as PairEvent::Ended; nobody is left to take it here.
        self.join().ok();
    }
}

/// The peer as last known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerView {
    /// The last state that it told, if it was ever heard.
    pub state: Option<State>,
    /// It was heard, and is not expired.
    pub alive: bool,
    /// When it was heard last.
    pub heard: Option<Instant>,
    /// The note in its last heartbeat; none without a key ([`Handle::say`]).
    pub said: Option<u64>,
}

/// Talks to a running side from any thread; what it asks for happens at once, on the reactor's thread.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// From now on the voter answers with these bytes while ACTIVE ([`Votes::ByLead`]). Until the first call it is
    /// silent.
    pub fn set_reply(&self, body: impl Into<Arc<[u8]>>) {
        self.shared.desk().reply = Some(body.into());
    }

    /// Says who holds the lead; a [`PairEvent::StateChanged`] follows if that changes anything.
    pub fn vote(&self, lead: Lead) {
        self.shared.desk().vote = Some(lead);
        self.shared.wake();
    }

    /// From now on our heartbeats carry this note ([`crate::heartbeat`]); the next one is sent at once if it is another than
    /// before, once between two regular ones. Without a key it goes nowhere.
    pub fn say(&self, note: u64) {
        let before = self.shared.desk().note.replace(note);
        if before != Some(note) {
            self.shared.wake();
        }
    }

    /// Our own state.
    pub fn state(&self) -> State {
        self.shared.desk().state
    }

    /// The peer as last known.
    pub fn peer(&self) -> PeerView {
        self.shared.desk().peer
    }

    /// Ends the reactor; does not wait for it.
    pub fn stop(&self) {
        self.shared.desk().stop = true;
        self.shared.wake();
    }
}

#[derive(Debug)]
struct Shared {
    wake: UnixStream,
    desk: Mutex<Desk>,
}

/// What handles and the reactor leave for each other. Never locked while a handler runs.
#[derive(Debug)]
struct Desk {
    stop: bool,
    /// The newest word on the lead; an older one that was not looked at yet is void.
    vote: Option<Lead>,
    reply: Option<Arc<[u8]>>,
    note: Option<u64>,
    state: State,
    peer: PeerView,
}

impl Desk {
    fn new(role: Role) -> Self {
        let peer = PeerView { state: None, alive: false, heard: None, said: None };
        Desk { stop: false, vote: None, reply: None, note: None, state: role.first_state(), peer }
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A full pipe wakes as well as one more byte; a closed one means that the reactor has ended.
        std::io::Write::write(&mut &self.wake, &[1]).ok();
    }
}

/// Monotonic; durations in the pure files count from the first call's result.
#[allow(clippy::disallowed_methods, reason = "the driver's clock")]
fn clock() -> Instant {
    Instant::now()
}

struct Reactor<'a> {
    options: Options,
    sockets: Sockets,
    woken: UnixStream,
    shared: Arc<Shared>,
    handlers: &'a mut Handlers,
    origin: Instant,
    wire: Wire,
    liveness: Liveness,
    state: State,
    /// None until it is heard or expired for the first time.
    peer: Option<Peer>,
    next_beat: Duration,
    /// One heartbeat beside the regular ones was already sent since the last of them.
    hurried: bool,
    renewed: Duration,
    bad_heartbeats: u64,
    bad_requests: u64,
}

impl<'a> Reactor<'a> {
    fn new(
        options: Options,
        sockets: Sockets,
        woken: UnixStream,
        shared: Arc<Shared>,
        handlers: &'a mut Handlers,
    ) -> Self {
        let wire = match &options.key {
            Some(key) => Wire::keyed(key.clone(), options.role, options.instance),
            None => Wire::plain(),
        };
        Reactor {
            liveness: Liveness::new(options.dialect, options.heartbeat, Duration::ZERO),
            state: options.role.first_state(),
            next_beat: options.heartbeat,
            origin: clock(),
            peer: None,
            hurried: false,
            renewed: Duration::ZERO,
            bad_heartbeats: 0,
            bad_requests: 0,
            options,
            sockets,
            woken,
            shared,
            handlers,
            wire,
        }
    }

    /// Each turn: what handles ask for, what the peer said, what is due, what clients ask. Hearing comes before the
    /// deadlines, so that a heartbeat that waited in the socket while we were stalled still counts.
    fn run(mut self) -> Result<(), EndError> {
        loop {
            if self.take_orders()? {
                return Ok(());
            }
            self.hear()?;
            self.beat()?;
            self.expire()?;
            self.serve()?;
            self.sleep().map_err(EndError::Socket)?;
        }
    }

    fn now(&self) -> Duration {
        clock().duration_since(self.origin)
    }

    /// True when asked to stop.
    fn take_orders(&mut self) -> Result<bool, EndError> {
        let mut sink = [0; 64];
        std::io::Read::read(&mut self.woken, &mut sink).ok();
        let (stop, vote, note) = {
            let mut desk = self.shared.desk();
            (desk.stop, desk.vote.take(), desk.note)
        };
        if note.is_some_and(|note| self.wire.say(note)) {
            self.hurry()?;
        }
        if let Some(lead) = vote {
            self.become_state(settled_by_lead(self.state, lead), Why::Lead(lead));
        }
        Ok(stop)
    }

    /// One heartbeat beside the regular ones, and no more than one until the next of these.
    fn hurry(&mut self) -> Result<(), EndError> {
        if std::mem::replace(&mut self.hurried, true) { Ok(()) } else { self.publish() }
    }

    fn hear(&mut self) -> Result<(), EndError> {
        for _ in 0..BATCH {
            let Some(frames) = receive(self.sockets.subscriber.as_ref())? else { break };
            let before = self.wire.partner();
            // A heartbeat is one frame; a message of several is junk whatever they hold.
            let heard = match frames.as_slice() {
                [frame] => self.wire.decode(frame),
                _ => Err(HeartbeatError::Junk),
            };
            match heard {
                Ok(Heard::Peer(state)) => self.heard(state)?,
                Ok(Heard::Stranger) => {}
                Err(why) => {
                    self.bad_heartbeats += 1;
                    tracing::debug!(%why, total = self.bad_heartbeats, "heartbeat dropped");
                    self.tell(PairEvent::BadHeartbeat(why, self.bad_heartbeats));
                }
            }
            if self.wire.partner() != before {
                self.hurry()?;
            }
        }
        Ok(())
    }

    fn heard(&mut self, peer: State) -> Result<(), EndError> {
        let now = self.now();
        self.liveness.handle_heard(now);
        let (heard, said) = (Some(self.origin + now), self.wire.said());
        self.shared.desk().peer = PeerView { state: Some(peer), alive: true, heard, said };
        if self.peer.replace(Peer::Alive) != Some(Peer::Alive) {
            self.tell(PairEvent::PeerAlive);
        }
        self.happens(peer.into())
    }

    fn beat(&mut self) -> Result<(), EndError> {
        let now = self.now();
        if now < self.next_beat {
            return Ok(());
        }
        let stalled = self.liveness.handle_tick(now);
        self.next_beat += self.options.heartbeat;
        if self.next_beat <= now {
            self.next_beat = now + self.options.heartbeat;
        }
        self.hurried = false;
        self.publish()?;
        self.tell(PairEvent::Beat { stalled });
        Ok(())
    }

    fn publish(&mut self) -> Result<(), EndError> {
        let Some(publisher) = &self.sockets.publisher else { return Ok(()) };
        publisher.send(self.wire.encode(self.state), 0).map_err(EndError::Socket)
    }

    fn expire(&mut self) -> Result<(), EndError> {
        let now = self.now();
        if self.peer_now(now) == Peer::Alive {
            return Ok(());
        }
        self.renew(now);
        self.wire.handle_silence();
        if self.peer.replace(Peer::Expired) == Some(Peer::Expired) {
            return Ok(());
        }
        self.shared.desk().peer.alive = false;
        self.tell(PairEvent::PeerExpired);
        self.happens(Event::PeerDead)
    }

    fn peer_now(&self, now: Duration) -> Peer {
        match self.options.peer {
            Some(_) => self.liveness.peer(now),
            None => Peer::Expired,
        }
    }

    /// Replaces the connection to a silent peer.
    fn renew(&mut self, now: Duration) {
        let every = RENEW_MIN.max(self.options.heartbeat.saturating_mul(self.options.dialect.expiry_beats()));
        let (Some(subscriber), Some(peer)) = (&self.sockets.subscriber, &self.options.peer) else {
            return;
        };
        if now.saturating_sub(self.renewed) < every {
            return;
        }
        self.renewed = now;
        for result in [subscriber.disconnect(peer), subscriber.connect(peer)] {
            if let Err(why) = result {
                tracing::debug!(%why, %peer, "connection to the peer not replaced, next try later");
            }
        }
    }

    fn serve(&mut self) -> Result<(), EndError> {
        for _ in 0..BATCH {
            let Some(frames) = receive(self.sockets.voter.as_ref())? else { break };
            let reply = match self.options.votes {
                Votes::ByClients => self.vote_of_client(frames)?,
                Votes::ByLead => self.answer(frames),
            };
            if let (Some(reply), Some(voter)) = (reply, &self.sockets.voter)
                && let Err(why) = voter.send_multipart(reply, zmq::DONTWAIT)
            {
                tracing::debug!(%why, "reply to a client dropped");
            }
        }
        Ok(())
    }

    fn vote_of_client(&mut self, frames: Frames) -> Result<Option<Frames>, EndError> {
        let accepted = self.accepts(Event::ClientRequest)?;
        Ok(if accepted { (self.handlers.request)(frames) } else { None })
    }

    /// The reply to a one-part request, while ACTIVE.
    fn answer(&mut self, mut frames: Frames) -> Option<Frames> {
        let delimiter = frames.iter().position(Vec::is_empty).filter(|at| *at > 0 && at + 2 == frames.len());
        let Some(delimiter) = delimiter else {
            self.bad_requests += 1;
            self.tell(PairEvent::BadRequest(self.bad_requests));
            return None;
        };
        if self.state != State::Active {
            return None;
        }
        let reply = self.shared.desk().reply.clone()?;
        let body = frames.pop().unwrap_or_default();
        let envelope = frames[..delimiter].to_vec();
        self.tell(PairEvent::Request { envelope, body });
        frames.push(reply.to_vec());
        if let Some(key) = &self.options.key {
            frames.push(sign(key, &reply).to_vec());
        }
        Some(frames)
    }

    fn happens(&mut self, event: Event) -> Result<(), EndError> {
        self.accepts(event).map(|_| ())
    }

    /// Steps the table. False if the event is refused and we go on all the same.
    fn accepts(&mut self, event: Event) -> Result<bool, EndError> {
        let Options { dialect, role, .. } = self.options;
        match step(dialect, role, self.state, event, self.peer_now(self.now())) {
            Ok(state) => {
                self.become_state(state, Why::Event(event));
                Ok(true)
            }
            Err(refusal) => {
                self.tell(PairEvent::Refused(refusal));
                match (self.options.votes, refusal) {
                    (Votes::ByClients, Refusal::DualActive | Refusal::DualPassive) => {
                        Err(EndError::Refused(refusal))
                    }
                    (Votes::ByLead, _) | (Votes::ByClients, Refusal::NotActive) => Ok(false),
                }
            }
        }
    }

    fn become_state(&mut self, to: State, why: Why) {
        let from = std::mem::replace(&mut self.state, to);
        if from == to {
            return;
        }
        tracing::info!(%from, %to, ?why, "pair state changed");
        self.shared.desk().state = to;
        self.tell(PairEvent::StateChanged { from, to, why });
        match to {
            State::Active => (self.handlers.active)(),
            State::Passive => (self.handlers.passive)(),
            State::Primary | State::Backup => {}
        }
    }

    fn tell(&mut self, event: PairEvent) {
        (self.handlers.event)(event);
    }

    /// Until a socket or a handle has something, or the next deadline; never longer than a heartbeat.
    fn sleep(&self) -> Result<(), zmq::Error> {
        let now = self.now();
        let mut until = self.next_beat;
        if self.liveness.expires_at() > now {
            until = until.min(self.liveness.expires_at());
        }
        // Rounded up, or the last part of a millisecond would be spent spinning.
        let wait = until.saturating_sub(now).as_micros().div_ceil(1000);
        let mut items = vec![zmq::PollItem::from_fd(self.woken.as_raw_fd(), zmq::POLLIN)];
        let sockets = [&self.sockets.subscriber, &self.sockets.voter];
        items.extend(sockets.into_iter().flatten().map(|socket| socket.as_poll_item(zmq::POLLIN)));
        match zmq::poll(&mut items, i64::try_from(wait).unwrap_or(i64::MAX)) {
            Ok(_) | Err(zmq::Error::EINTR) => Ok(()),
            Err(why) => Err(why),
        }
    }
}
