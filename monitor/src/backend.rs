//! One Redis server: a probe that never stops asking, and orders carried out one at a time.
//!
//! The probe keeps one connection and asks every `ping_interval_ms`, or at once when told to. A close is reported as
//! soon as the kernel tells of it. While nobody takes a connection an attempt starts every 50 ms; earlier ones are not
//! waited for. Then the server has `down_after_ms` for its greeting, as for any answer.
//!
//! The group measures silence by the clock, and a probe that is late itself would make a living server pass for silent. So it
//! says when it means to wake ([`Plan`]), and whoever finds it late has the silence measured anew. A server that is dead is found
//! all the same, however late the probe is: it says what it has asked in vain (`Event::Unanswered`).
//!
//! Orders use a second connection of their own, from look to act (R1), because WATCH belongs to it. That one is opened when an
//! order may come, and closed when none has come for long: a server at rest has one connection.

use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use failover::{Deed, Event, Look, Observation, Order, Outcome, Time, Trouble, Verdict};
use futures_util::FutureExt;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep_until, timeout};
use topology::Endpoint;
use wire::{Answer, Line, Link, LinkError, Login, OpenError, Receiver, Reply, cmd};

use crate::clock::Clock;
use crate::config::Detector;
use crate::fault;
use crate::redis::{self, BrownOut, NoAnswer, Secret};

/// Between two attempts to connect to a server that is down.
const ATTEMPT_EVERY: Duration = Duration::from_millis(50);

/// After a connection that was closed at once.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// What a probe and an executor need to know.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) addr: Endpoint,
    pub(crate) login: Login,
    pub(crate) secret: Secret,
    /// As it is now; a reload changes it.
    pub(crate) detector: watch::Receiver<Detector>,
    /// When it is asked within each `ping_interval` of the clock: all servers of a service at the same moment.
    pub(crate) turn: Duration,
    /// Counts how long its answers take.
    pub(crate) took: Histogram,
    pub(crate) rooms: Arc<Rooms>,
}

impl Target {
    fn detector(&self) -> Detector {
        *self.detector.borrow()
    }
}

/// What may be under way at a time, of all servers.
#[derive(Debug)]
pub(crate) struct Rooms {
    /// Attempts to connect.
    attempts: Arc<Semaphore>,
    /// Greetings.
    greetings: Semaphore,
    /// Greetings of servers that were silent when they were last asked.
    silent: Semaphore,
    /// Orders but for promotions.
    orders: Semaphore,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            attempts: Arc::new(Semaphore::new(ATTEMPTS_MAX)),
            greetings: Semaphore::new(GREETINGS_MAX),
            silent: Semaphore::new(SILENT_MAX),
            orders: Semaphore::new(ORDERS_MAX),
        }
    }
}

/// Orders under way at a time, of all servers: a thousand groups are born together, and each first order asks ZooKeeper. Their
/// time counts from their turn on. A promotion waits for no turn.
const ORDERS_MAX: usize = 128;

/// Attempts under way at a time, of all servers: each to a silent host lasts `connect_timeout_ms`. Where more are due, a server
/// without any waits until it is its turn. Attempts beside another one of the same server leave half of the room to the others,
/// or a dozen silent hosts would fill it. The first one after the server closed a connection is not counted: it is what tells of
/// a death.
const ATTEMPTS_MAX: usize = 64;

/// Greetings under way at a time, of all servers. They are the dearest thing that a probe does. A start with thousands of servers
/// must not make so many of them wait for each other that they last longer than `down_after_ms`: what is then begun anew costs
/// as much once more.
const GREETINGS_MAX: usize = 16;

/// A greeting that lasts longer gives its place to another one: it is the server that is waited for, and that costs nothing.
const GREETING_TURN: Duration = Duration::from_millis(200);

/// Those that were silent when they were last asked do not stand in the way of the others, nor for long in each other's: of
/// hundreds that hang, those that go on must not wait until each of the others was asked.
const SILENT_MAX: usize = 64;
const SILENT_TURN: Duration = Duration::from_millis(20);

/// So often a greeting looks whether it has lasted long enough.
const LOOKS: u32 = 10;

/// A running probe and executor; both end when this is dropped.
pub(crate) struct Backend {
    look: Arc<Notify>,
    jobs: mpsc::UnboundedSender<Job>,
    plan: Arc<Plan>,
    /// A connection was asked for, and is not looked after yet.
    prepares: Arc<AtomicBool>,
    tasks: [JoinHandle<()>; 2],
}

impl Backend {
    /// Starts both. `report` takes events of the group, and the time that a probe took; `store` asks ZooKeeper
    /// whether the lead and the record of an order still stand.
    pub(crate) fn start<R, S, F>(target: Target, clock: Clock, report: R, store: S) -> Self
    where
        R: Fn(Report) + Clone + Send + Sync + 'static,
        S: Fn(&Order) -> F + Send + Sync + 'static,
        F: Future<Output = bool> + Send + 'static,
    {
        let look = Arc::new(Notify::new());
        let (jobs, inbox) = mpsc::unbounded_channel();
        let plan = Arc::new(Plan::default());
        let probe = Probe {
            target: target.clone(),
            clock,
            look: look.clone(),
            plan: plan.clone(),
            report: report.clone(),
        };
        let prepares = Arc::new(AtomicBool::new(false));
        let inbox = Jobs { inbox, prepares: prepares.clone() };
        let tasks = [tokio::spawn(probe.run()), tokio::spawn(execute(target, clock, inbox, report, store))];
        Self { look, jobs, plan, prepares, tasks }
    }

    /// How late its probe is by now, if that is more than `limit`: this process has more to do than time, and an answer of the
    /// server may be there. The next `limit` begins now.
    pub(crate) fn is_late(&self, now: Time, limit: Duration) -> Option<Duration> {
        self.plan.late(now, limit)
    }

    /// Asks now.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }

    /// An order may come at any moment: it must not wait for a connection to be opened.
    pub(crate) fn prepare(&self) {
        if !self.prepares.swap(true, Ordering::Relaxed) {
            let _ = self.jobs.send(Job::Prepare);
        }
    }

    /// Carries out an order; its outcome is reported.
    pub(crate) fn order(&self, order: Order) {
        // The executor lives as long as this does.
        let _ = self.jobs.send(Job::Order(order));
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What the executor is told.
enum Job {
    /// Have a connection.
    Prepare,
    Order(Order),
}

/// Where the executor hears of them.
struct Jobs {
    inbox: mpsc::UnboundedReceiver<Job>,
    prepares: Arc<AtomicBool>,
}

/// A connection for orders is given up after so long without one.
const KEEP_FOR: Duration = Duration::from_secs(10);

/// Disk and memory are asked after this often.
const ROOM_EVERY: Duration = Duration::from_secs(1);

/// What a backend tells.
#[derive(Debug)]
pub(crate) enum Report {
    /// For the core.
    Event(Event),
    /// The server's own words when it refused us.
    Words(Endpoint, String),
    /// Whether the server has room for writes.
    BrownOut(Endpoint, Option<BrownOut>),
    /// An order was carried out as far as its EXEC.
    Acted(Box<Order>),
}

/// When a probe means to wake at the latest, in microseconds of the clock, or [`u64::MAX`] while nothing depends on it. The
/// runtime turns to the driver again and again before it has run all tasks that are ready, so that a probe may be late and the
/// driver not (R13).
#[derive(Debug)]
struct Plan(AtomicU64);

impl Default for Plan {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Plan {
    fn wakes_at(&self, at: Time) {
        self.0.store(micros(at), Ordering::Relaxed);
    }

    fn says_nothing(&self) {
        self.0.store(u64::MAX, Ordering::Relaxed);
    }

    /// How late it is, if that is more than `limit`, which begins anew then. A probe that is awake in the meantime has the last word.
    fn late(&self, now: Time, limit: Duration) -> Option<Duration> {
        let plan = self.0.load(Ordering::Relaxed);
        let late = now.checked_sub(Duration::from_micros(plan)).filter(|late| *late > limit)?;
        let _ = self.0.compare_exchange(plan, micros(now), Ordering::Relaxed, Ordering::Relaxed);
        Some(late)
    }
}

fn micros(at: Time) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}

struct Probe<R> {
    target: Target,
    clock: Clock,
    look: Arc<Notify>,
    plan: Arc<Plan>,
    report: R,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The server, or its kernel, closed it.
    Closed,
    /// Nothing came any more.
    Silent,
    /// What came is of no use.
    GivenUp,
}

impl<R: Fn(Report)> Probe<R> {
    async fn run(self) {
        let mut ended = None;
        let mut next = self.clock.now();
        loop {
            let link = self.connect(ended, next).await;
            // What says who it is and closes at once, again and again, is not asked more often than what is down.
            let brief = self.clock.now() + ATTEMPT_EVERY;
            self.event(Event::Opened(self.target.addr.clone()));
            if let Some(run_id) = link.run_id() {
                self.event(Event::Greeted(self.target.addr.clone(), run_id.to_owned()));
            }
            ended = Some(self.ask(link).await);
            if ended == Some(Ended::Silent) {
                self.event(Event::Unanswered(self.target.addr.clone()));
            }
            self.event(Event::Closed(self.target.addr.clone()));
            next = brief.max(self.clock.now());
        }
    }

    fn event(&self, event: Event) {
        (self.report)(Report::Event(event));
    }

    fn troubled(&self, trouble: Trouble, words: String) {
        self.event(Event::Troubled(self.target.addr.clone(), trouble));
        (self.report)(Report::Words(self.target.addr.clone(), words));
    }

    /// From `next` on. `ended`: there was a connection a moment ago.
    async fn connect(&self, ended: Option<Ended>, next: Time) -> Link {
        let mut pace = Pace {
            begun: next,
            next,
            at_once: ended == Some(Ended::Closed),
            before: match ended {
                None => Before::Untried,
                Some(Ended::Closed | Ended::GivenUp) => Before::Asked,
                Some(Ended::Silent) => Before::Silent,
            },
            wordless: None,
        };
        loop {
            let line = self.reach(&mut pace).await;
            match self.greet(line, &mut pace).await {
                Ok(link) => return link,
                Err(error) => {
                    pace.before = Before::Asked;
                    if error == OpenError::TimedOut {
                        pace.before = Before::Silent;
                        self.event(Event::Unanswered(self.target.addr.clone()));
                    }
                    self.failed(error, &mut pace);
                }
            }
        }
    }

    /// Says who we are when it is this server's turn, and hears who it is. Its time runs only while this task does: each look
    /// is one, however late it comes.
    async fn greet(&self, line: Line, pace: &mut Pace) -> Result<Link, OpenError> {
        let Target { addr, login, rooms, .. } = &self.target;
        let (room, place_for) = match pace.before {
            Before::Silent => (&rooms.silent, SILENT_TURN),
            Before::Untried | Before::Asked => (&rooms.greetings, GREETING_TURN),
        };
        self.waits(pace);
        let mut turn = Some(room.acquire().await); // never closed
        self.tried(pace);
        let limit = || {
            let Detector { down_after, connect_timeout, .. } = self.target.detector();
            down_after.max(connect_timeout)
        };
        let mut greeting = pin!(line.greet(addr, login, redis::CLIENT_NAME));
        let mut lasted = Duration::ZERO;
        while lasted < limit() {
            let look = limit() / LOOKS;
            let look = if turn.is_some() { look.min(place_for) } else { look };
            self.plan.wakes_at(self.clock.now() + look);
            if let Ok(greeted) = timeout(look, greeting.as_mut()).await {
                return greeted;
            }
            lasted += look;
            if lasted >= place_for {
                turn = None;
            }
        }
        drop(turn);
        Err(OpenError::TimedOut)
    }

    /// Until somebody, be it only the kernel of the server's host, takes a connection.
    async fn reach(&self, pace: &mut Pace) -> Line {
        let room = &self.target.rooms.attempts;
        let mut attempts = JoinSet::new();
        loop {
            self.plan.wakes_at(pace.next.max(self.clock.now()));
            tokio::select! {
                biased;
                Some(Ok(connected)) = attempts.join_next() => match connected {
                    Ok(line) => return line,
                    Err(error) => self.failed(error, pace),
                },
                () = sleep_until(self.clock.instant(pace.next)) => {
                    pace.next = self.clock.now() + ATTEMPT_EVERY;
                    if !attempts.is_empty() && room.available_permits() <= ATTEMPTS_MAX / 2 {
                        continue;
                    }
                    let permit = match room.clone().try_acquire_owned() {
                        Ok(permit) => Some(permit),
                        Err(_) if pace.at_once => None,
                        Err(_) if attempts.is_empty() => {
                            self.waits(pace);
                            room.clone().acquire_owned().await.ok()
                        }
                        Err(_) => continue,
                    };
                    pace.at_once = false;
                    let addr = self.target.addr.clone();
                    let connect_timeout = self.target.detector().connect_timeout;
                    attempts.spawn(async move {
                        let _permit = permit;
                        Line::connect(&addr, connect_timeout).await
                    });
                }
            }
        }
    }

    /// It is not this server's turn.
    fn waits(&self, pace: &Pace) {
        match pace.before {
            // It would say who it is, and nobody asks. If it would not, its attempts fail, and that is told (`failed`).
            Before::Asked => self.plan.wakes_at(self.clock.now()),
            // Nothing counts as its silence yet, or it goes on.
            Before::Untried | Before::Silent => self.plan.says_nothing(),
        }
    }

    /// From now on its silence counts.
    fn tried(&self, pace: &mut Pace) {
        if pace.before == Before::Untried {
            pace.before = Before::Asked;
            self.event(Event::Tried(self.target.addr.clone()));
        }
    }

    /// What an attempt that failed tells.
    fn failed(&self, error: OpenError, pace: &mut Pace) {
        let addr = || self.target.addr.clone();
        self.tried(pace);
        let now = self.clock.now();
        let Detector { ping_interval, down_after, .. } = self.target.detector();
        let later = now + ping_interval;
        match &error {
            OpenError::TimedOut
            | OpenError::Closed
            | OpenError::ClosedAfterHandshake
            | OpenError::Unreachable(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => {
                // Not of the first attempt alone: a first packet may be lost.
                if now >= *pace.wordless.get_or_insert(now) + down_after {
                    pace.wordless = None;
                    self.event(Event::Unanswered(addr()));
                }
            }
            // It was not asked: for want of a descriptor, or of its address.
            OpenError::Unreachable(_) => {}
            OpenError::Refused
            | OpenError::Login(_)
            | OpenError::TurnedAway(_)
            | OpenError::Tls(_)
            | OpenError::Protocol => pace.wordless = None,
        }
        match error {
            OpenError::Refused => self.event(Event::ConnectionRefused(addr())),
            OpenError::Login(words) => {
                self.troubled(Trouble::Login, words);
                pace.next = later;
            }
            OpenError::Tls(_) => {
                self.troubled(Trouble::Login, error.to_string());
                pace.next = later;
            }
            OpenError::TurnedAway(words) => {
                self.troubled(Trouble::Strange, words);
                pace.next = later;
            }
            OpenError::Protocol => self.troubled(Trouble::Strange, "not a Redis server".into()),
            // Said, but no answer: what stands before a dead server may have shaken hands.
            OpenError::ClosedAfterHandshake => (self.report)(Report::Words(addr(), error.to_string())),
            // The backlog of a dying listener took it; a moment later nobody listens any more. Or it is a front of a dead server.
            OpenError::Closed => {
                let dying = now < pace.begun + ATTEMPT_EVERY;
                pace.next = now + if dying { ASK_AGAIN } else { ATTEMPT_EVERY };
            }
            // Silence speaks for itself.
            OpenError::TimedOut | OpenError::Unreachable(_) => {}
        }
    }

    /// Asks until the connection ends, or a question was not answered for `down_after`: after a cut, a new connection is
    /// sooner there than the retransmissions of the old one.
    async fn ask(&self, link: Link) -> Ended {
        let (peer, run_id) = (link.peer(), link.run_id().map(str::to_owned));
        let greeting = link.greeting_error().map(str::to_owned);
        if let Some(NoAnswer(trouble, words)) = greeting.as_deref().and_then(redis::trouble) {
            self.troubled(trouble, words);
        }
        let (mut sender, mut receiver) = link.split();
        let (questions, room) = (redis::questions(), redis::room_questions());
        let (quick, all) = (encoded(&questions), encoded(questions.iter().chain(&room)));
        let (mut due, mut wanted, mut room_due) = (self.clock.now(), true, Time::ZERO);
        // The last answer, and what it says. A server at rest says the same again and again.
        let mut last: Option<(Answer, Arc<Observation>)> = None;
        let mut asked: Option<Asked> = None;
        // Kept from turn to turn: to make them anew for each is most of what a probe costs beside its two calls of the kernel.
        let mut look = pin!(self.look.notified());
        let mut alarm = pin!(sleep_until(self.clock.instant(due)));
        loop {
            if wanted && asked.is_none() {
                let now = self.clock.now();
                let room = now >= room_due;
                if room {
                    room_due = now + ROOM_EVERY;
                }
                (wanted, due, asked) =
                    (false, self.next_turn(now), Some(Asked { at: now, room, looked: None }));
                // What is sent is short, and nothing else is under way: no peer can hold this up.
                if sender.send_encoded(if room { &all } else { &quick }).await.is_err() {
                    return Ended::Closed;
                }
            }
            self.plan.wakes_at(due);
            let wake = self.clock.instant(due);
            if alarm.deadline() != wake {
                alarm.as_mut().reset(wake);
            }
            let expected = asked.as_ref().map_or(1, |asked| questions.len() + if asked.room { 2 } else { 0 });
            let before = last.as_ref().map(|(answer, _)| answer);
            let same = tokio::select! {
                biased;
                answer = receiver.whole(expected, before) => match answer {
                    Ok(same) => same,
                    Err(LinkError::Closed) => return Ended::Closed,
                    Err(LinkError::Protocol) => return Ended::GivenUp,
                },
                () = look.as_mut() => {
                    look.set(self.look.notified());
                    wanted = true;
                    continue;
                }
                () = alarm.as_mut() => {
                    wanted = true;
                    let Some(asked) = &mut asked else { continue };
                    // Every question is sent by a turn, so silence counts from the one that is not answered.
                    let Detector { ping_interval, down_after, .. } = self.target.detector();
                    let (now, silent) = (self.clock.now(), asked.at + down_after);
                    // Where this process has more to do than time, the answer may be there, and nobody has looked: one look that
                    // comes late says nothing.
                    let looked = asked.looked.replace(now).is_some_and(|at| at >= asked.at + down_after / 2);
                    if looked && now >= silent {
                        tokio::task::yield_now().await;
                        match receiver.whole(expected, before).now_or_never() {
                            Some(Ok(_)) => {}
                            Some(Err(LinkError::Closed)) => return Ended::Closed,
                            Some(Err(LinkError::Protocol)) => return Ended::GivenUp,
                            None => return Ended::Silent,
                        }
                    }
                    due = now + ping_interval;
                    if now < silent {
                        due = due.min(silent);
                    }
                    continue;
                }
            };
            let Some(Asked { at, room, .. }) = asked.take() else { return Ended::GivenUp }; // nobody asked for that
            self.target.took.observe(self.clock.now().saturating_sub(at).as_secs_f64());
            let read = match last.as_ref().filter(|_| same) {
                Some((answer, seen)) => {
                    receiver.skip(answer);
                    Ok(seen.clone())
                }
                None => {
                    let Ok(Some(answer)) = receiver.answer(questions.len()) else { return Ended::GivenUp };
                    let Some(replies) = take(&mut receiver, questions.len()) else { return Ended::GivenUp };
                    let read = redis::observation(&replies, run_id.as_deref().unwrap_or_default(), peer)
                        .map(Arc::new);
                    last = read.as_ref().ok().map(|seen| (answer, seen.clone()));
                    read
                }
            };
            if room {
                let Some(answers) = take(&mut receiver, 2) else { return Ended::GivenUp };
                let brown_out = redis::brown_out(&answers);
                (self.report)(Report::BrownOut(self.target.addr.clone(), brown_out));
            }
            match read {
                Ok(_) if run_id.is_none() => return Ended::GivenUp, // it was busy when it greeted: ask again who it is
                Ok(seen) => self.event(Event::Seen(self.target.addr.clone(), at, seen)),
                Err(NoAnswer(trouble, words)) => self.troubled(trouble, words),
            }
        }
    }

    /// The next moment, later than now, at which this server's turn is.
    fn next_turn(&self, now: Time) -> Time {
        now + until_turn(self.clock.on_the_wall(), self.target.turn, self.target.detector().ping_interval)
    }
}

/// Attempts to reach one server.
struct Pace {
    begun: Time,
    /// When the next one is due.
    next: Time,
    /// It waits for no turn.
    at_once: bool,
    before: Before,
    /// When the first attempt failed without a word of which nothing is told yet.
    wordless: Option<Time>,
}

/// What came of it when the server was last spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// It was not, nor has an attempt failed.
    Untried,
    /// It said something, or an attempt failed.
    Asked,
    /// It was reached, and did not answer in time.
    Silent,
}

/// A question under way.
struct Asked {
    /// When it was sent.
    at: Time,
    /// It asks after disk and memory, too.
    room: bool,
    /// When it was looked last whether the answer is there.
    looked: Option<Time>,
}

fn encoded<'a>(commands: impl IntoIterator<Item = &'a wire::Command>) -> BytesMut {
    let mut out = BytesMut::new();
    commands.into_iter().for_each(|command| command.write_to(&mut out));
    out
}

/// So many replies, which are there.
fn take(receiver: &mut Receiver, count: usize) -> Option<Vec<Reply>> {
    (0..count).map(|_| receiver.buffered().ok().flatten()).collect()
}

/// From `now` until it is `turn` after a whole number of intervals: up to one interval. One that is about to be is passed over,
/// for two clocks never agree in the last digits, and nobody is to be asked twice within a moment.
fn until_turn(now: Duration, turn: Duration, interval: Duration) -> Duration {
    let (now, turn, interval) = (now.as_micros(), turn.as_micros(), interval.as_micros().max(1));
    let wait = interval - (now + interval - turn % interval) % interval;
    let wait = if wait < interval / 20 { wait + interval } else { wait };
    Duration::from_micros(u64::try_from(wait).unwrap_or(u64::MAX))
}

/// Carries out orders, one at a time, over one connection that is kept for a while.
async fn execute<R, S, F>(
    target: Target,
    clock: Clock,
    Jobs { mut inbox, prepares }: Jobs,
    report: R,
    store: S,
) where
    R: Fn(Report),
    S: Fn(&Order) -> F,
    F: Future<Output = bool>,
{
    let mut link: Option<Link> = None;
    loop {
        let job = match &link {
            None => inbox.recv().await,
            Some(_) => match timeout(KEEP_FOR, inbox.recv()).await {
                Ok(job) => job,
                Err(_) => {
                    link = None;
                    continue;
                }
            },
        };
        let order = match job {
            None => return,
            Some(Job::Prepare) => {
                prepares.store(false, Ordering::Relaxed);
                if link.is_none() {
                    link = open(&target).await.ok();
                }
                continue;
            }
            Some(Job::Order(order)) => order,
        };
        let waits = !matches!(order.deed, Deed::Promote { .. });
        let _turn = if waits { target.rooms.orders.acquire().await.ok() } else { None };
        // An idle connection that was closed meanwhile is replaced before anything is sent over it.
        let closed = match &mut link {
            Some(link) => link.receiver().next().now_or_never().is_some(),
            None => true,
        };
        if closed {
            link = open(&target).await.ok();
        }
        let mut asked = Sent { clock, at: clock.now() };
        let outcome = match &mut link {
            None => Outcome::Lost,
            Some(link) => {
                let Detector { down_after, connect_timeout, .. } = target.detector();
                let limit = down_after.max(connect_timeout);
                timeout(limit, carry_out(&target, link, &order, &report, &store, &mut asked))
                    .await
                    .unwrap_or(Outcome::Lost)
            }
        };
        if outcome == Outcome::Lost {
            link = None;
        }
        report(Report::Event(Event::Ordered(order.backend, asked.at, outcome)));
    }
}

/// When the last question of an order was sent.
struct Sent {
    clock: Clock,
    at: Time,
}

impl Sent {
    fn now(&mut self) {
        self.at = self.clock.now();
    }
}

async fn open(target: &Target) -> Result<Link, OpenError> {
    Link::open(&target.addr, &target.login, redis::CLIENT_NAME, target.detector().connect_timeout).await
}

/// R1, on one connection: who is it, look, check, ask the store where the fence is missing, act.
async fn carry_out<R, S, F>(
    target: &Target,
    link: &mut Link,
    order: &Order,
    report: &R,
    store: &S,
    asked: &mut Sent,
) -> Outcome
where
    R: Fn(Report),
    S: Fn(&Order) -> F,
    F: Future<Output = bool>,
{
    // A connection belongs to one process, so the run id read when it was opened is the one that will act.
    let Some(run_id) = link.run_id().map(str::to_owned) else { return Outcome::Lost };
    if order.expected_run_id().is_some_and(|expected| expected != run_id) {
        return Outcome::Refused(failover::Refused::OtherProcess);
    }
    let mut outcome = look_and_act(target, link, order, report, store, None, asked).await;
    if matches!(&outcome, Ok(Outcome::Rejected(why)) if why.contains(": OOM")) {
        outcome = match memory_limit(link).await {
            Ok(Some(limit)) => look_and_act(target, link, order, report, store, Some(limit), asked).await,
            Ok(None) => outcome,
            Err(error) => Err(error),
        };
    }
    let outcome = outcome.unwrap_or(Outcome::Lost);
    if !matches!(outcome, Outcome::Done(_) | Outcome::Lost) && link.call(&[cmd!["UNWATCH"]]).await.is_err() {
        return Outcome::Lost;
    }
    outcome
}

async fn memory_limit(link: &mut Link) -> Result<Option<String>, LinkError> {
    let answers = link.call(&[cmd!["CONFIG", "GET", "maxmemory"]]).await?;
    Ok(answers.first().and_then(redis::memory_limit))
}

/// With `limit`, the server's memory is full; it would refuse everything between MULTI and EXEC, also to stamp or to
/// demote it. So the limit is lifted for this one transaction, and set again by the same write to the socket.
async fn look_and_act<R, S, F>(
    target: &Target,
    link: &mut Link,
    order: &Order,
    report: &R,
    store: &S,
    limit: Option<String>,
    asked: &mut Sent,
) -> Result<Outcome, LinkError>
where
    R: Fn(Report),
    S: Fn(&Order) -> F,
    F: Future<Output = bool>,
{
    let Some(run_id) = link.run_id().map(str::to_owned) else { return Ok(Outcome::Lost) };
    let prepare = order.prepare().map(|deed| redis::render(&deed, &target.secret, &[])).unwrap_or_default();
    let asks_data = matches!(order.deed, Deed::Attach);
    let asks_users = matches!(order.deed, Deed::Promote { .. } | Deed::Stamp);
    let mut pipeline = prepare.clone();
    pipeline.push(redis::watch());
    pipeline.extend(redis::questions());
    pipeline.extend(asks_data.then(redis::data_questions).into_iter().flatten());
    pipeline.extend(asks_users.then(redis::users_question));
    asked.now();
    let answers = link.call(&pipeline).await?;
    let (before, answers) = answers.split_at(prepare.len() + 1);
    if let Some(error) = before.iter().find_map(Reply::error) {
        return Ok(Outcome::Rejected(error.to_owned()));
    }
    let (answers, data) = answers.split_at(redis::questions().len());
    let seen = match redis::observation(answers, &run_id, link.peer()) {
        Ok(seen) => seen,
        Err(NoAnswer(_, words)) => return Ok(Outcome::Rejected(words)),
    };
    let step = fault::step(order, &seen);
    let users = redis::users(data.first().filter(|_| asks_users));
    let holds_data = asks_data && redis::holds_data(data);
    let look = Look { seen, holds_data, guarded: redis::is_guarded(&users) };
    let deeds = match order.check(&look) {
        Verdict::Nothing => {
            link.call(&[cmd!["UNWATCH"]]).await?;
            return Ok(Outcome::Done(Some(look.seen)));
        }
        Verdict::Deposed(fence) => return Ok(Outcome::Deposed(fence)),
        Verdict::Refused(why) => return Ok(Outcome::Refused(why)),
        Verdict::AskStore(_) if !store(order).await => return Ok(Outcome::Raced),
        Verdict::AskStore(deeds) | Verdict::Exec(deeds) => deeds,
    };
    if let Some(step) = step {
        step.reached();
    }
    let deeds: Vec<_> = deeds.iter().flat_map(|deed| redis::render(deed, &target.secret, &users)).collect();
    asked.now();
    act(link, order, &run_id, deeds, report, limit).await
}

async fn act<R: Fn(Report)>(
    link: &mut Link,
    order: &Order,
    run_id: &str,
    deeds: Vec<wire::Command>,
    report: &R,
    limit: Option<String>,
) -> Result<Outcome, LinkError> {
    let set_limit = |limit: String| cmd!["CONFIG", "SET", "maxmemory", limit];
    let mut pipeline: Vec<wire::Command> = limit.iter().map(|_| set_limit("0".into())).collect();
    let multi = pipeline.len();
    pipeline.push(cmd!["MULTI"]);
    pipeline.extend(deeds);
    pipeline.push(cmd!["EXEC"]);
    let exec = pipeline.len();
    pipeline.extend(limit.map(set_limit));
    let questions = pipeline.len();
    pipeline.extend(redis::questions());
    let answers = link.call(&pipeline).await?;
    let (transaction, after) = (&answers[multi..exec], &answers[questions..]);
    let pipeline = &pipeline[multi..exec];
    // The server's words may repeat what was sent; an ACL rule or a password must not reach a log.
    let words = |command: &wire::Command, text: &str| {
        let name = name(command);
        let secret = matches!(name.as_str(), "ACL SETUSER" | "CONFIG SET");
        let text = if secret { text.split_whitespace().next().unwrap_or("an error") } else { text };
        format!("{name}: {text}")
    };
    let queued = transaction
        .iter()
        .zip(pipeline)
        .find_map(|(reply, command)| Some((is_credential(command), words(command, reply.error()?))));
    match (queued, transaction.last()) {
        (Some((true, why)), _) => return Ok(Outcome::NoCredential(why)),
        (Some((false, why)), _) => return Ok(Outcome::Rejected(why)),
        (None, Some(Reply::Nil)) => return Ok(Outcome::Raced),
        (None, Some(Reply::Array(results))) => {
            let failed = results
                .iter()
                .zip(&pipeline[1..])
                .find_map(|(reply, command)| Some((is_credential(command), words(command, reply.error()?))));
            match failed {
                Some((true, why)) => return Ok(Outcome::NoCredential(why)),
                Some((false, why)) => return Ok(Outcome::Rejected(why)),
                None => {}
            }
        }
        (None, _) => return Err(LinkError::Protocol),
    }
    report(Report::Acted(Box::new(order.clone())));
    Ok(Outcome::Done(redis::observation(after, run_id, link.peer()).ok()))
}

fn is_credential(command: &wire::Command) -> bool {
    name(command) == "ACL SETUSER"
}

/// What was refused, without its arguments: they may be secret.
fn name(command: &wire::Command) -> String {
    let bytes = command.to_bytes();
    let text = String::from_utf8_lossy(&bytes);
    // `*n`, then a line of length and the argument itself.
    let mut arguments = text.split("\r\n").skip(2).step_by(2);
    let (first, second) = (arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default());
    match first {
        "ACL" | "CLIENT" | "CONFIG" => format!("{first} {second}"),
        _ if second.starts_with("albireo:") => format!("{first} {second}"),
        _ => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use tokio::time::{Instant, sleep};

    use super::*;

    #[test]
    fn turns_are_a_ping_interval_apart_and_always_ahead() {
        let ms = Duration::from_millis;
        for (now, turn, wait) in [
            (0, 0, 100),
            (0, 30, 30),
            (25, 30, 5),
            (29, 30, 101),
            (30, 30, 100),
            (31, 30, 99),
            (1234, 99, 65),
            (1_234_567_890_123, 23, 100),
        ] {
            assert_eq!(until_turn(ms(now), ms(turn), ms(100)), ms(wait), "now {now}, turn {turn}");
        }
        let mut now = Duration::from_micros(17);
        for _ in 0..1000 {
            let wait = until_turn(now, Duration::from_nanos(99_999_999), ms(100));
            assert!(wait >= ms(5) && wait < ms(105), "{now:?} {wait:?}");
            now += wait;
        }
    }

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    type Reports = mpsc::UnboundedReceiver<Report>;

    /// A probe of what listens there.
    fn probed(at: SocketAddr, rooms: &Arc<Rooms>) -> (Backend, Endpoint, Reports) {
        let detector = Detector {
            ping_interval: ms(100),
            down_after: ms(500),
            connect_timeout: ms(400),
            refused_grace: ms(0),
        };
        let login = Arc::new(|_: &Endpoint| Login::default());
        let addr: Endpoint = at.to_string().parse().unwrap();
        let target = Target {
            addr: addr.clone(),
            login: Login::default(),
            secret: Secret { password: String::new(), path: String::new(), login },
            detector: watch::channel(detector).1,
            turn: Duration::ZERO,
            took: Histogram::new([1.0]),
            rooms: rooms.clone(),
        };
        let (report, reports) = mpsc::unbounded_channel();
        let report = move |said| drop(report.send(said));
        (Backend::start(target, Clock::start(), report, |_: &Order| async { true }), addr, reports)
    }

    async fn next(reports: &mut Reports) -> Event {
        match reports.recv().await {
            Some(Report::Event(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    /// The kernel takes connections there, and nobody says a word.
    fn mute() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        (listener, at)
    }

    #[tokio::test]
    async fn a_server_counts_as_tried_when_an_attempt_has_failed() {
        let rooms = Arc::new(Rooms { attempts: Arc::new(Semaphore::new(0)), ..Rooms::default() });
        let (_backend, addr, mut reports) = probed(mute().1, &rooms); // closed by now: connections are refused
        sleep(2 * ATTEMPT_EVERY).await;
        assert!(reports.try_recv().is_err(), "nobody has tried to reach it");
        rooms.attempts.add_permits(1);
        let refused = || Event::ConnectionRefused(addr.clone());
        assert_eq!(next(&mut reports).await, Event::Tried(addr.clone()));
        assert_eq!(
            [next(&mut reports).await, next(&mut reports).await],
            [refused(), refused()],
            "tried once"
        );
    }

    /// Rooms in which one greeting has place.
    fn narrow() -> Arc<Rooms> {
        Arc::new(Rooms { greetings: Semaphore::new(1), ..Rooms::default() })
    }

    /// Says once, to whoever comes first, what process it is, then closes; to the others nothing.
    async fn says_who_it_is(listener: &tokio::net::TcpListener) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 1024];
        let _ = stream.read(&mut asked).await.unwrap();
        let (hello, info) = ("+OK\r\n", "run_id:0123456789012345678901234567890123456789\r\n");
        stream.write_all(format!("{hello}${}\r\n{info}\r\n", info.len()).as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn who_waits_for_our_greeting_is_not_silent() {
        let rooms = narrow();
        let turn = rooms.greetings.acquire().await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let clock = Clock::start();
        let (backend, addr, mut reports) = probed(listener.local_addr().unwrap(), &rooms);
        // A slow machine may be late where it is not expected, but not every time.
        let waits = async |is_late: bool, why: &str| {
            for _ in 0..50 {
                sleep(ms(100)).await;
                if backend.is_late(clock.now(), ms(20)).is_some() == is_late {
                    return;
                }
            }
            panic!("{why}");
        };
        sleep(ms(600)).await;
        assert!(reports.try_recv().is_err(), "it was not asked");
        waits(false, "nothing was expected of it").await;
        drop(turn);
        says_who_it_is(&listener).await;
        let turn = rooms.greetings.acquire().await.unwrap();
        assert_eq!(next(&mut reports).await, Event::Tried(addr.clone()));
        assert_eq!(next(&mut reports).await, Event::Opened(addr.clone()));
        assert!(matches!(next(&mut reports).await, Event::Greeted(..)));
        assert_eq!(next(&mut reports).await, Event::Closed(addr.clone()));
        waits(true, "it has spoken, and waits for us").await;
        drop(turn);
        tokio::spawn(async move {
            loop {
                drop(listener.accept().await.unwrap());
            }
        });
        assert_eq!(
            next(&mut reports).await,
            Event::Unanswered(addr),
            "what closes without a word must not live for ever"
        );
    }

    #[tokio::test]
    async fn who_does_not_answer_is_told_of_however_late_and_holds_up_nobody() {
        let rooms = narrow();
        let (_hung, at) = mute();
        let (_backend, addr, mut reports) = probed(at, &rooms);
        assert_eq!(next(&mut reports).await, Event::Tried(addr.clone()));
        assert_eq!(rooms.greetings.available_permits(), 0);
        drop(rooms.greetings.acquire().await.unwrap());
        assert!(reports.try_recv().is_err(), "its place is free before its time is over");
        assert_eq!(next(&mut reports).await, Event::Unanswered(addr.clone()));
        while rooms.silent.available_permits() == SILENT_MAX {
            sleep(ms(10)).await;
        }
        assert_eq!(rooms.greetings.available_permits(), 1, "it takes no place of the others any more");
        assert_eq!(next(&mut reports).await, Event::Unanswered(addr), "asked again");
    }

    /// Answers every command with LOADING, until it is told to be silent; each accepted connection in a thread.
    fn loading() -> (SocketAddr, Arc<AtomicBool>) {
        use std::io::{Read, Write};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, silent) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let told = silent.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let told = told.clone();
                std::thread::spawn(move || {
                    let mut asked = [0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut asked) {
                        let asked = String::from_utf8_lossy(&asked[..length]);
                        let commands =
                            asked.lines().filter(|line| line.starts_with('*') && line.len() > 1).count();
                        if !told.load(Ordering::Relaxed) {
                            stream.write_all("-LOADING x\r\n".repeat(commands).as_bytes()).unwrap();
                        }
                    }
                });
            }
        });
        (at, silent)
    }

    async fn next_but_words(reports: &mut Reports) -> Event {
        loop {
            if let Some(Report::Event(event)) = reports.recv().await {
                return event;
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_waits_to_be_read_is_no_silence_and_none_is_told_of() {
        let (at, silent) = loading();
        let (backend, addr, mut reports) = probed(at, &Arc::default());
        let loading = || Event::Troubled(addr.clone(), Trouble::Loading);
        assert_eq!(next_but_words(&mut reports).await, Event::Tried(addr.clone()));
        assert_eq!(next_but_words(&mut reports).await, Event::Opened(addr.clone()));
        for _ in 0..3 {
            assert_eq!(next_but_words(&mut reports).await, loading());
        }
        backend.look();
        for _ in 0..3 {
            tokio::task::yield_now().await; // it asks
        }
        std::thread::sleep(ms(700)); // the only thread of this runtime
        for _ in 0..3 {
            assert_eq!(next_but_words(&mut reports).await, loading());
        }
        silent.store(true, Ordering::Relaxed);
        let event = loop {
            let event = next_but_words(&mut reports).await;
            if event != loading() {
                break event;
            }
        };
        assert_eq!(event, Event::Unanswered(addr.clone()));
        assert_eq!(next_but_words(&mut reports).await, Event::Closed(addr));
    }

    #[tokio::test]
    async fn who_takes_no_connection_or_closes_them_is_told_of() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(0).unwrap();
        let at = full.local_addr().unwrap();
        let mut fill = Vec::new(); // the queue of the kernel, then no packet is answered
        while let Ok(stream) = timeout(ms(300), tokio::net::TcpStream::connect(at)).await {
            fill.push(stream.unwrap());
            assert!(fill.len() < 1000, "the queue never fills");
        }
        let (_backend, addr, mut reports) = probed(at, &Arc::default());
        assert_eq!(next(&mut reports).await, Event::Tried(addr.clone()));
        assert_eq!(next(&mut reports).await, Event::Unanswered(addr));

        let closes = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_backend, addr, mut reports) = probed(closes.local_addr().unwrap(), &Arc::default());
        tokio::spawn(async move {
            loop {
                drop(closes.accept().await.unwrap());
            }
        });
        assert_eq!(next(&mut reports).await, Event::Tried(addr.clone()));
        assert_eq!(next(&mut reports).await, Event::Unanswered(addr));
    }

    #[tokio::test]
    async fn who_closes_each_connection_is_not_asked_without_a_pause() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_backend, _, _reports) = probed(listener.local_addr().unwrap(), &Arc::default());
        let begun = Instant::now();
        // Those that say who they are first, then those that do not. A few attempts follow each other quickly.
        for says in [true, false] {
            for _ in 0..20 {
                match says {
                    true => says_who_it_is(&listener).await,
                    false => drop(listener.accept().await.unwrap()),
                }
            }
        }
        assert!(begun.elapsed() >= 19 * ATTEMPT_EVERY, "{:?}", begun.elapsed());
    }

    #[test]
    fn a_plan_made_in_the_meantime_stands() {
        let plan = Plan::default();
        assert_eq!(plan.late(ms(900), ms(50)), None, "nothing depends on it");
        plan.wakes_at(ms(1000));
        assert_eq!(plan.late(ms(1050), ms(50)), None);
        assert_eq!(plan.late(ms(1060), ms(50)), Some(ms(60)));
        assert_eq!(plan.late(ms(1100), ms(50)), None, "it began anew");
        plan.says_nothing();
        assert_eq!(plan.late(ms(5000), ms(50)), None);
    }

    #[tokio::test]
    async fn a_probe_that_does_not_run_in_time_is_late() {
        let clock = Clock::start();
        let (backend, _, mut reports) = probed(mute().1, &Arc::default());
        next(&mut reports).await;
        std::thread::sleep(ATTEMPT_EVERY + ms(130)); // the only thread of this runtime
        let now = clock.now();
        let late = backend.is_late(now, ms(125)).expect("the next attempt is long due");
        assert!(late > ms(125), "{late:?}");
        assert_eq!(backend.is_late(now, ms(125)), None, "said once");
        assert!(backend.is_late(now + ms(126), ms(125)).is_some(), "and again when it lasts");
    }
}
