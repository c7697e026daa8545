//! The clients: a closed loop per connection that never repeats a request, and the history of all that they saw.
//!
//! Half of the traffic is on a few shared keys, for the order of things; half are writes of keys of their own, which
//! nothing overwrites, so that every single lost one shows in the end.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::http::{Answer, Connection, Request};
use crate::{Host, wait};

/// How many keys are shared.
const SHARED_KEYS: u64 = 4;
/// The rest between an answer and the next request of a client.
const PACE: Duration = Duration::from_millis(4);
/// An API gives up after 3 s and says so; what takes longer has lost its connection.
const ANSWER_LIMIT: Duration = Duration::from_secs(6);
/// Values are unique: the client's number times this, and a count.
const VALUES_PER_CLIENT: u64 = 1_000_000_000;

/// Where a client is, and what it talks to.
pub trait Seat: Debug + Send + Sync {
    /// The way in, for one client.
    fn open(&self) -> Box<dyn Door>;
    /// Whether it reads strongly; if not, its strong reads are ordinary ones.
    fn reads_strongly(&self) -> bool;
}

/// The epoch and the primary under which an answer was given, if it says so.
pub type GivenBy = Option<(u64, String)>;

/// One client's way to the data: a connection, and another one after it broke.
pub trait Door: Send {
    /// One request, which is never repeated.
    fn request(&mut self, action: Action, key: &str, value: u64) -> (Outcome, GivenBy);
}

/// A client of the API. If the one it asks is gone, the others in turn.
#[derive(Debug, Clone)]
pub struct ApiSeat {
    /// The host that it runs on.
    pub host: Host,
    /// The APIs, its own first.
    pub apis: Vec<SocketAddr>,
    /// See [`Seat::reads_strongly`].
    pub strong: bool,
}

impl Seat for ApiSeat {
    fn open(&self) -> Box<dyn Door> {
        Box::new(ApiDoor { seat: self.clone(), at: 0, connection: None })
    }

    fn reads_strongly(&self) -> bool {
        self.strong
    }
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A write of a shared key.
    Write,
    /// A write of a key that nobody else writes.
    WriteOwn,
    /// A read with `consistency=strong`.
    ReadStrong,
    /// An ordinary read.
    Read,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Answered; a read found this.
    Done(Option<u64>),
    /// Nothing was written, and never will be.
    Failed(String),
    /// Nobody knows: 504, or the connection broke after the request had been sent.
    Unknown(String),
    /// Something came that must never come.
    Nonsense(String),
}

/// One request.
#[derive(Debug, Clone)]
pub struct Record {
    /// Who asked.
    pub client: usize,
    /// What.
    pub action: Action,
    /// The key.
    pub key: String,
    /// What a write wrote; 0 for a read.
    pub value: u64,
    /// When it was sent and when its answer was there, since the beginning of the traffic.
    pub invoked: Duration,
    /// See `invoked`.
    pub returned: Duration,
    /// What became of it.
    pub outcome: Outcome,
    /// `x-albireo-epoch` and `x-albireo-primary`, if it was answered.
    pub given_by: GivenBy,
}

impl Record {
    /// Whether it is a write that was acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        self.is_write() && matches!(self.outcome, Outcome::Done(_))
    }

    /// Whether it is a write.
    pub fn is_write(&self) -> bool {
        matches!(self.action, Action::Write | Action::WriteOwn)
    }
}

/// Clients at work. They stop when this is dropped.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Record>>>,
    seats: Vec<Arc<dyn Seat>>,
    name: String,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    stop: AtomicBool,
    epoch: AtomicU64,
    acknowledged: AtomicU64,
}

impl Traffic {
    /// One client per seat. `name` keeps the keys of one round apart from another's; the seed decides what is asked.
    pub fn start(name: &str, seats: &[Arc<dyn Seat>], seed: u64) -> Self {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
        });
        let clients = seats.iter().enumerate().map(|(number, seat)| {
            let rng = fastrand::Rng::with_seed(seed.wrapping_mul(1000).wrapping_add(number as u64));
            let client = Client::new(number, name, seat.as_ref(), rng, Arc::clone(&shared));
            thread::spawn(move || client.run())
        });
        let clients = clients.collect();
        Self { shared, clients, seats: seats.to_vec(), name: name.to_owned() }
    }

    /// When it began: what the times of the records count from.
    pub fn began(&self) -> Instant {
        self.shared.start
    }

    /// The highest epoch of an acknowledged write.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Acquire)
    }

    /// Waits until so many more writes are acknowledged.
    #[track_caller]
    pub fn wait_for_writes(&self, more: u64, limit: Duration) {
        let goal = self.shared.acknowledged.load(Ordering::Acquire) + more;
        wait::until(&format!("{more} more acknowledged writes"), limit, || {
            let now = self.shared.acknowledged.load(Ordering::Acquire);
            wait::holds(now >= goal, || format!("{} missing", goal - now))
        });
    }

    /// Waits until a write is acknowledged under a higher epoch than this one.
    #[track_caller]
    pub fn wait_for_epoch_above(&self, epoch: u64, limit: Duration) {
        wait::until(&format!("a write acknowledged above epoch {epoch}"), limit, || {
            wait::holds(self.epoch() > epoch, || format!("still {}", self.epoch()))
        });
    }

    /// Ends it and reads every shared key once more, strongly, at every API: the history in the order of the requests.
    #[track_caller]
    pub fn stop(mut self) -> Vec<Record> {
        self.shared.stop.store(true, Ordering::Release);
        let clients = std::mem::take(&mut self.clients);
        let mut records: Vec<Record> = Vec::new();
        for client in clients {
            records.extend(client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        for (number, seat) in self.seats.iter().enumerate() {
            let number = self.seats.len() + number;
            let rng = fastrand::Rng::with_seed(0);
            let mut last = Client::new(number, &self.name, seat.as_ref(), rng, Arc::clone(&self.shared));
            for key in 0..SHARED_KEYS {
                let key = shared_key(&self.name, key);
                last.request(Action::ReadStrong, key, 0);
            }
            records.append(&mut last.records);
        }
        records.sort_by_key(|record| record.invoked);
        records
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

fn shared_key(name: &str, number: u64) -> String {
    format!("{name}-shared-{number}")
}

struct Client {
    number: usize,
    name: String,
    door: Box<dyn Door>,
    strong: bool,
    rng: fastrand::Rng,
    shared: Arc<Shared>,
    count: u64,
    records: Vec<Record>,
}

impl Client {
    fn new(number: usize, name: &str, seat: &dyn Seat, rng: fastrand::Rng, shared: Arc<Shared>) -> Self {
        let (name, door, strong) = (name.to_owned(), seat.open(), seat.reads_strongly());
        Self { number, name, door, strong, rng, shared, count: 0, records: Vec::new() }
    }

    fn run(mut self) -> Vec<Record> {
        while !self.shared.stop.load(Ordering::Acquire) {
            self.count += 1;
            let value = (self.number as u64 + 1) * VALUES_PER_CLIENT + self.count;
            let key = shared_key(&self.name, self.rng.u64(0..SHARED_KEYS));
            match self.rng.u8(0..20) {
                0..5 => self.request(Action::Write, key, value),
                5..10 if self.strong => self.request(Action::ReadStrong, key, 0),
                5..12 => self.request(Action::Read, key, 0),
                _ => self.request(Action::WriteOwn, format!("{}-{value}", self.name), value),
            }
            thread::sleep(PACE);
        }
        self.records
    }

    fn request(&mut self, action: Action, key: String, value: u64) {
        let invoked = self.shared.start.elapsed();
        let (outcome, given_by) = self.door.request(action, &key, value);
        let returned = self.shared.start.elapsed();
        let record = Record { client: self.number, action, key, value, invoked, returned, outcome, given_by };
        if record.is_acknowledged() {
            let epoch = record.given_by.as_ref().map_or(0, |(epoch, _)| *epoch);
            self.shared.epoch.fetch_max(epoch, Ordering::AcqRel);
            self.shared.acknowledged.fetch_add(1, Ordering::AcqRel);
        }
        self.records.push(record);
    }
}

struct ApiDoor {
    seat: ApiSeat,
    /// Which of the seat's APIs is asked.
    at: usize,
    connection: Option<Connection>,
}

impl Door for ApiDoor {
    fn request(&mut self, action: Action, key: &str, value: u64) -> (Outcome, GivenBy) {
        match self.exchange(action, key, value) {
            Ok(answer) => (outcome_of(action, value, &answer), given_by(&answer)),
            Err(outcome) => (outcome, None),
        }
    }
}

impl ApiDoor {
    /// One request. A connection that broke is replaced for the next one, at the next API.
    fn exchange(&mut self, action: Action, key: &str, value: u64) -> Result<Answer, Outcome> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let answer = match action {
            Action::Write | Action::WriteOwn => {
                let (path, value) = (format!("/api/v1/write/{key}"), value.to_string());
                connection.call(Request::put(&path, value.as_bytes()))
            }
            Action::ReadStrong => {
                connection.call(Request::get(&format!("/api/v1/get/{key}?consistency=strong")))
            }
            Action::Read => connection.call(Request::get(&format!("/api/v1/get/{key}"))),
        };
        match answer {
            Ok(answer) => {
                self.connection = Some(connection);
                Ok(answer)
            }
            Err(e) => {
                self.at += 1;
                Err(Outcome::Unknown(format!("the connection broke: {e}")))
            }
        }
    }

    fn connect(&mut self) -> Result<Connection, Outcome> {
        let api = self.seat.apis[self.at % self.seat.apis.len()];
        Connection::open(&self.seat.host, api, ANSWER_LIMIT).map_err(|e| {
            self.at += 1;
            Outcome::Failed(format!("cannot connect to {api}: {e}"))
        })
    }
}

fn outcome_of(action: Action, value: u64, answer: &Answer) -> Outcome {
    let what = || format!("{}: {}", answer.status, answer.text());
    let found = || answer.json()["value"].as_str().map(str::parse::<u64>);
    let is_read = matches!(action, Action::Read | Action::ReadStrong);
    match (answer.status, is_read) {
        (200, true) => match found() {
            Some(Ok(value)) => Outcome::Done(Some(value)),
            _ => Outcome::Nonsense(what()),
        },
        (404, true) => Outcome::Done(None),
        (200, false) => match found() {
            Some(Ok(written)) if written == value => Outcome::Done(None),
            _ => Outcome::Nonsense(what()),
        },
        (503, _) => Outcome::Failed(what()),
        (504, _) => Outcome::Unknown(what()),
        _ => Outcome::Nonsense(what()),
    }
}

fn given_by(answer: &Answer) -> GivenBy {
    let epoch = answer.header("x-albireo-epoch")?.parse().ok()?;
    Some((epoch, answer.header("x-albireo-primary")?.to_owned()))
}

/// What every key of its own should hold, by what its writer was told.
pub fn own_keys(history: &[Record]) -> BTreeMap<&str, &Record> {
    let own = history.iter().filter(|record| record.action == Action::WriteOwn);
    own.map(|record| (record.key.as_str(), record)).collect()
}
