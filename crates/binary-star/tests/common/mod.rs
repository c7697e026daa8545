//! What the tests with real sockets share: free ports, sides that remember their events, waiting for a condition.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait for real time, and fail by panicking"
)]

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use binary_star::{
    BinaryStar, Dialect, Handle, Instance, Key, Options, PairEvent, Role, Running, State, Votes,
};

/// Generous: a condition that holds at all holds within milliseconds; this machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(20);
pub const HEARTBEAT: Duration = Duration::from_millis(100);

/// A port that nobody listens on, below the range from which the system takes those of outgoing connections.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() * 61 % 12_000;
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + u16::try_from((start + step) % 12_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub fn tcp(port: u16) -> String {
    format!("tcp://127.0.0.1:{port}")
}

/// Waits until `condition` holds; fails the test with `what` if it never does.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Where one pair listens.
#[derive(Clone, Copy)]
pub struct Ports {
    pub primary: u16,
    pub backup: u16,
    pub primary_voter: u16,
    pub backup_voter: u16,
}

impl Ports {
    pub fn free() -> Self {
        Ports {
            primary: free_port(),
            backup: free_port(),
            primary_voter: free_port(),
            backup_voter: free_port(),
        }
    }

    /// Options of one side in the guide's manner.
    pub fn options(&self, role: Role) -> Options {
        let (bind, peer, voter) = match role {
            Role::Primary => (self.primary, self.backup, self.primary_voter),
            Role::Backup => (self.backup, self.primary, self.backup_voter),
        };
        Options {
            dialect: Dialect::Guide,
            role,
            votes: Votes::ByClients,
            bind: tcp(bind),
            peer: Some(tcp(peer)),
            voter: Some(tcp(voter)),
            heartbeat: HEARTBEAT,
            key: None,
            instance: fresh_instance(),
        }
    }

    pub fn by_lead(&self, role: Role) -> Options {
        Options { votes: Votes::ByLead, ..self.options(role) }
    }

    pub fn keyed(&self, role: Role, secret: &[u8]) -> Options {
        Options { key: Some(Key::new(secret).unwrap()), ..self.by_lead(role) }
    }
}

/// Never the same within one test program.
pub fn fresh_instance() -> Instance {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let mut bytes = [7; 16];
    bytes[..2].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    Instance(bytes)
}

/// A running side and what it told.
pub struct Side {
    pub running: Running,
    events: Arc<Mutex<Vec<PairEvent>>>,
}

impl Side {
    /// Starts it; its voter echoes.
    #[track_caller]
    pub fn start(options: Options) -> Self {
        Self::launch(BinaryStar::new(options).on_request(Some))
    }

    #[track_caller]
    pub fn launch(star: BinaryStar) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&events);
        let running = star.on_event(move |event| log.lock().unwrap().push(event)).start().unwrap();
        Side { running, events }
    }

    pub fn handle(&self) -> &Handle {
        self.running.handle()
    }

    pub fn events(&self) -> Vec<PairEvent> {
        self.events.lock().unwrap().clone()
    }

    pub fn saw(&self, event: &PairEvent) -> bool {
        self.events.lock().unwrap().contains(event)
    }

    #[track_caller]
    pub fn until_saw(&self, event: &PairEvent) {
        until(&format!("{event:?}"), || self.saw(event));
    }

    #[track_caller]
    pub fn until_state(&self, state: State) {
        until(&format!("state {state}"), || self.handle().state() == state);
    }

    /// Waits for `beats` more heartbeats of this side: a span in which what must not happen would have happened.
    pub fn let_pass(&self, beats: usize) {
        let count = || self.events().iter().filter(|event| matches!(event, PairEvent::Beat { .. })).count();
        let end = count() + beats;
        until("heartbeats", || count() >= end);
    }
}

/// A client with one REQ socket.
pub struct Client(pub zmq::Socket);

impl Client {
    pub fn new(context: &zmq::Context, port: u16) -> Self {
        let socket = context.socket(zmq::REQ).unwrap();
        socket.set_linger(0).unwrap();
        // Sends again without an answer to the last request, whose late reply is then dropped.
        socket.set_req_relaxed(true).unwrap();
        socket.set_req_correlate(true).unwrap();
        socket.connect(&tcp(port)).unwrap();
        Client(socket)
    }

    /// The reply, or nothing within `patience`.
    pub fn ask(&self, body: &str, patience: Duration) -> Option<Vec<Vec<u8>>> {
        self.0.send(body, 0).unwrap();
        let ms = i64::try_from(patience.as_millis()).unwrap();
        (self.0.poll(zmq::POLLIN, ms).unwrap() > 0).then(|| self.0.recv_multipart(0).unwrap())
    }

    /// Asks until somebody answers.
    #[track_caller]
    pub fn until_answered(&self, body: &str) -> Vec<Vec<u8>> {
        let mut reply = None;
        until(&format!("an answer to {body}"), || {
            reply = self.ask(body, HEARTBEAT);
            reply.is_some()
        });
        reply.unwrap()
    }
}
