//! One service: its view, its queues, and the lanes to every member.
//!
//! Requests wait here for a lane that may take them, inside their deadline; a failover is nothing to them but a
//! longer wait. What a request is told at its deadline follows from whether it may have been sent.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::iter::repeat_n;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use failover::confirm::Durability;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};
use topology::Endpoint;
use wire::Login;

use crate::flight::Batch;
use crate::lane::{self, Kind};
use crate::metrics::ServiceMetrics;
use crate::queue::{Acknowledged, Answer, Queue, Read, Ticket, Write, Written};
use crate::settle;
use crate::view::{Source, View};

/// Connections to each member for what is answered at once. Two, so that the second batch is on its way while the first
/// is answered.
const QUICK_LANES: usize = 2;

/// Connections to each member for what waits for replicas. With one, all that comes in during a round goes out with the
/// next: on two cores, with 64 clients and one replica, 31,100 writes a second, against 22,500 with two connections,
/// 21,000 with three and 15,300 with four, where the same work comes in smaller batches.
const CONFIRMING_LANES: usize = 1;

/// Before a read that got no answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// What all services of a process have in common.
pub(crate) struct Options {
    /// Drawn anew at every start; part of every marker's name.
    pub(crate) process: String,
    /// What an acknowledgement is to promise, where there is a record.
    pub(crate) durability: Durability,
    /// How long a connection may take to open.
    pub(crate) connect_timeout: Duration,
    /// How to log in at each server.
    pub(crate) login: Box<dyn Fn(&Endpoint) -> Login + Send + Sync>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("process", &self.process).finish_non_exhaustive()
    }
}

/// A server of the group.
#[derive(Debug)]
pub(crate) struct Member {
    /// Where it listens.
    pub(crate) addr: Endpoint,
    /// Secondary reads for this server.
    pub(crate) queue: Queue,
    links: Mutex<Links>,
    /// Lanes that carry writes now.
    usable: AtomicUsize,
}

#[derive(Debug, Default)]
struct Links {
    open: usize,
    run_id: String,
}

impl Member {
    fn new(addr: Endpoint) -> Self {
        Self { addr, queue: Queue::default(), links: Mutex::default(), usable: AtomicUsize::new(0) }
    }

    /// A lane has a connection to this process.
    pub(crate) fn connected(&self, run_id: &str) {
        let mut links = locked(&self.links);
        links.open += 1;
        run_id.clone_into(&mut links.run_id);
    }

    /// A lane has none any more.
    pub(crate) fn disconnected(&self) {
        locked(&self.links).open -= 1;
    }

    /// A lane can carry writes from now on, or cannot any more.
    pub(crate) fn usable(&self, usable: bool) {
        if usable {
            self.usable.fetch_add(1, Ordering::Relaxed);
        } else {
            self.usable.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Which process is connected, if one is.
    fn run_id(&self) -> Option<String> {
        let links = locked(&self.links);
        (links.open > 0).then(|| links.run_id.clone())
    }
}

/// A batch whose answer never came.
#[derive(Debug)]
pub(crate) struct Lost {
    /// The batch.
    pub(crate) batch: Batch,
    /// Whether nothing of it can be executed any more: its script was answered, or the connection is certainly gone at
    /// the process that it led to.
    pub(crate) cut: bool,
}

/// Why a write was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotWritten {
    /// Nothing was written, and nothing of it will be.
    Failed(String),
    /// The same, because too few replicas are in sync.
    TooFew(String),
    /// It may have been.
    Indeterminate(String),
}

/// One service.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Its name.
    pub(crate) name: String,
    /// What all services have in common.
    pub(crate) options: Arc<Options>,
    /// The present view; `None` before the first.
    pub(crate) views: watch::Receiver<Option<Arc<View>>>,
    /// What waits for the primary.
    pub(crate) queue: Arc<Queue>,
    /// What is counted.
    pub(crate) metrics: ServiceMetrics,
    members: Mutex<BTreeMap<Endpoint, Staffed>>,
    lost: mpsc::UnboundedSender<Lost>,
    trouble: Mutex<Option<String>>,
    /// The replicas in sync that had not confirmed at the last look, and the epoch.
    behind: Mutex<(u64, Vec<Endpoint>)>,
    markers: Arc<AtomicU64>,
    turn: AtomicUsize,
    keepers: Mutex<Vec<AbortHandle>>,
    /// When it last became ready, or ceased to be.
    last_ready: Mutex<Option<Instant>>,
}

/// A member and the lanes to it, which end with it.
#[derive(Debug)]
struct Staffed {
    member: Arc<Member>,
    lanes: Vec<AbortHandle>,
}

impl Drop for Staffed {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.abort();
        }
    }
}

impl Pool {
    /// Starts to serve: lanes to every member of the view, now and whenever it changes.
    pub(crate) fn start(
        name: String,
        options: Arc<Options>,
        views: watch::Receiver<Option<Arc<View>>>,
        metrics: ServiceMetrics,
        markers: Arc<AtomicU64>,
    ) -> Arc<Self> {
        let (lost, lost_rx) = mpsc::unbounded_channel();
        let pool = Arc::new(Self {
            name,
            options,
            views,
            queue: Arc::default(),
            metrics,
            members: Mutex::default(),
            lost,
            trouble: Mutex::default(),
            behind: Mutex::default(),
            markers,
            turn: AtomicUsize::new(0),
            keepers: Mutex::default(),
            last_ready: Mutex::default(),
        });
        let tasks = [tokio::spawn(staff(pool.clone())), tokio::spawn(settle::run(pool.clone(), lost_rx))];
        pool.kept_by(tasks.map(|task| task.abort_handle()));
        pool
    }

    /// Tasks that end with the service.
    pub(crate) fn kept_by(&self, tasks: impl IntoIterator<Item = AbortHandle>) {
        locked(&self.keepers).extend(tasks);
    }

    /// Ends all connections and tasks of a service that is no longer there.
    pub(crate) fn stop(&self) {
        for task in locked(&self.keepers).drain(..) {
            task.abort();
        }
        locked(&self.members).clear();
    }

    /// Stores a value.
    pub(crate) async fn write(
        &self,
        key: Bytes,
        value: Bytes,
        ttl_ms: Option<u64>,
        deadline: Instant,
    ) -> Result<Acknowledged, NotWritten> {
        let (done, outcome) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        self.queue.push_write(Write { key, value, ttl_ms, done, ticket: ticket.clone() });
        match timeout_at(deadline, outcome).await {
            Ok(Ok(Written::Applied(acknowledged))) => Ok(acknowledged),
            Ok(Ok(Written::Indeterminate(why))) => Err(NotWritten::Indeterminate(why)),
            // Either the service ended, or time is over; in both cases the ticket knows whether it was sent.
            Ok(Err(_)) | Err(_) if ticket.give_up() => Err(self.not_sent()),
            Ok(Err(_)) | Err(_) => Err(NotWritten::Indeterminate(format!(
                "it was sent, and not settled in time; {}",
                self.why_not()
            ))),
        }
    }

    /// Why a write was not sent before its deadline.
    fn not_sent(&self) -> NotWritten {
        match self.too_few() {
            Some(why) => NotWritten::TooFew(why),
            None => NotWritten::Failed(self.why_not()),
        }
    }

    /// With fewer replicas in sync than the record asks for, no write is taken that they are to confirm (R6).
    pub(crate) fn too_few(&self) -> Option<String> {
        let view = self.views.borrow().clone()?;
        let sync = view.durability(self.options.durability) == Durability::Sync;
        let why = || {
            let (found, wanted) = (view.in_sync.len(), view.min_in_sync);
            format!("service {}: {found} replicas are in sync, min_in_sync is {wanted}", self.name)
        };
        (sync && !view.admits()).then(why)
    }

    /// Reads a value from the primary.
    pub(crate) async fn read(&self, key: Bytes, deadline: Instant) -> Result<Answer, String> {
        let ask = async {
            loop {
                if let Some(answer) = ask(&self.queue, key.clone(), Queue::push_read).await {
                    return answer;
                }
                sleep(ASK_AGAIN).await;
            }
        };
        timeout_at(deadline, ask).await.map_err(|_| self.why_not())
    }

    /// Reads a value from the primary, and has every replica in sync confirm that nobody else was primary meanwhile (R8).
    pub(crate) async fn read_strong(&self, key: Bytes, deadline: Instant) -> Result<Answer, String> {
        let ask = async {
            loop {
                if let Some(answer) = ask(&self.queue, key.clone(), Queue::push_strong).await {
                    return answer;
                }
                sleep(ASK_AGAIN).await;
            }
        };
        timeout_at(deadline, ask).await.map_err(|_| self.not_confirmed())
    }

    fn not_confirmed(&self) -> String {
        let view = self.views.borrow().clone();
        match view.filter(|view| view.source == Source::Path) {
            Some(_) => format!("service {}: without a monitor nobody can confirm a read", self.name),
            None => self.why_not(),
        }
    }

    /// Reads a value from a replica, in turn.
    pub(crate) async fn read_secondary(&self, key: Bytes, deadline: Instant) -> Result<Answer, String> {
        let ask = async {
            loop {
                if let Some(member) = self.secondary()
                    && let Some(answer) = ask(&member.queue, key.clone(), Queue::push_read).await
                {
                    return answer;
                }
                sleep(ASK_AGAIN).await;
            }
        };
        timeout_at(deadline, ask).await.map_err(|_| "no replica answers".to_owned())
    }

    /// The next replica in turn: one in sync that is the recorded process, or else any other that is connected.
    fn secondary(&self) -> Option<Arc<Member>> {
        let view = self.views.borrow().clone()?;
        let members = locked(&self.members);
        let connected = |addr: &Endpoint| {
            let member = &members.get(addr)?.member;
            member.run_id().map(|run_id| (member.clone(), run_id))
        };
        let in_sync = view.in_sync.iter().filter_map(|entry| {
            let (member, run_id) = connected(&entry.addr)?;
            (run_id == entry.run_id).then_some(member)
        });
        let mut choice: Vec<_> = in_sync.collect();
        if choice.is_empty() {
            choice = view.replicas.iter().filter_map(|addr| Some(connected(addr)?.0)).collect();
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let at = turn.checked_rem(choice.len())?;
        Some(choice.swap_remove(at))
    }

    /// Whether a request would be served at once; if not, why.
    pub(crate) fn ready(&self) -> Result<(), String> {
        let Some(view) = self.views.borrow().clone() else { return Err(self.why_not()) };
        let members = locked(&self.members);
        let usable = members.get(&view.primary).is_some_and(|s| s.member.usable.load(Ordering::Relaxed) > 0);
        drop(members);
        if usable { Ok(()) } else { Err(self.why_not()) }
    }

    /// A lane became able to carry writes, or ceased to be.
    pub(crate) fn readiness_changed(&self) {
        *locked(&self.last_ready) = Some(Instant::now());
    }

    /// Whether a request would be served before its deadline, as far as is known: one that comes during a failover is.
    pub(crate) fn ready_within(&self, deadline: Duration) -> Result<(), String> {
        let now = self.ready();
        let lately = locked(&self.last_ready).is_some_and(|last| last.elapsed() < deadline);
        if lately { Ok(()) } else { now }
    }

    /// Remembers the last thing that went wrong, for whoever gets no answer because of it.
    pub(crate) fn in_trouble(&self, whence: &dyn Display, what: &dyn Display) {
        *locked(&self.trouble) = Some(format!("{whence}: {what}"));
    }

    /// Remembers which replicas in sync have not confirmed what was written last.
    pub(crate) fn waits_for(&self, epoch: u64, replicas: &[Endpoint]) {
        let mut behind = locked(&self.behind);
        if *behind.1 != *replicas {
            behind.1 = replicas.to_vec();
        }
        behind.0 = epoch;
    }

    fn why_not(&self) -> String {
        let (epoch, behind) = locked(&self.behind).clone();
        if let Some(view) = self.views.borrow().as_ref().filter(|view| view.epoch == epoch)
            && !behind.is_empty()
        {
            let behind: Vec<String> = behind.iter().map(ToString::to_string).collect();
            let (name, primary) = (&self.name, &view.primary);
            return format!("service {name}: in sync, but not confirming to {primary}: {}", behind.join(" "));
        }
        let trouble = locked(&self.trouble).clone();
        let trouble = trouble.map(|trouble| format!("; last seen: {trouble}")).unwrap_or_default();
        match &*self.views.borrow() {
            None => format!("service {}: no primary is known{trouble}", self.name),
            Some(view) => {
                format!("service {}: the primary {} does not serve{trouble}", self.name, view.primary)
            }
        }
    }

    /// The name of a new connection's marker (R17); never used twice.
    pub(crate) fn next_marker(&self) -> Arc<str> {
        let connection = self.markers.fetch_add(1, Ordering::Relaxed);
        format!("albireo:api:{}:{connection}", self.options.process).into()
    }

    /// Hands a batch whose answer will not come to the one who settles it.
    pub(crate) fn lose(&self, lost: Lost) {
        // Without a receiver the service is over; its requesters learn that from their tickets.
        let _ = self.lost.send(lost);
    }
}

/// One question; `None` if it was dropped unanswered.
async fn ask(queue: &Queue, key: Bytes, push: impl FnOnce(&Queue, Read)) -> Option<Answer> {
    let (done, answer) = oneshot::channel();
    push(queue, Read { key, done });
    answer.await.ok()
}

/// Keeps lanes to exactly the members of the view.
async fn staff(pool: Arc<Pool>) {
    let mut views = pool.views.clone();
    loop {
        let view = views.borrow_and_update().clone();
        if let Some(view) = view {
            let mut members = locked(&pool.members);
            members.retain(|addr, _| view.members().any(|member| member == addr));
            for addr in view.members() {
                if !members.contains_key(addr) {
                    members.insert(addr.clone(), start_lanes(&pool, addr));
                }
            }
        }
        if views.changed().await.is_err() {
            return;
        }
    }
}

fn start_lanes(pool: &Arc<Pool>, addr: &Endpoint) -> Staffed {
    let member = Arc::new(Member::new(addr.clone()));
    let lane = |kind| tokio::spawn(lane::run(pool.clone(), member.clone(), kind)).abort_handle();
    let kinds = repeat_n(Kind::Quick, QUICK_LANES).chain(repeat_n(Kind::Confirming, CONFIRMING_LANES));
    Staffed { lanes: kinds.map(lane).collect(), member }
}

/// A panic elsewhere leaves what is guarded here in order.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
