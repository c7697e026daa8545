//! One service as the driver holds it: the core's group, its servers' probes, and the tasks that follow its znodes.
//! All of them end with it, and what they said last is known by the service's number ([`ServiceId`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use failover::mass::{self, Standing};
use failover::view::Announced;
use failover::{Action, Event, Group, Health, Limits, Reason, Stored, Time};
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use topology::zookeeper::{Followed, Seen, Versioned};
use topology::{Endpoint, PausedRecord, State, Topology, ZnodePath};

use crate::backend::{Backend, Report, Rooms, Target};
use crate::clock::Clock;
use crate::config::{Config, Detector};
use crate::driver::{About, Input};
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::quiet::Quiet;
use crate::redis::{BrownOut, Secret};

/// Which service. One may vanish and another of the same name be discovered a moment later: what was under way for the
/// first must not reach the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceId {
    pub(crate) name: Arc<str>,
    /// No two services of this process have the same.
    pub(crate) incarnation: u64,
}

/// One service.
pub(crate) struct Service {
    pub(crate) id: ServiceId,
    pub(crate) path: ZnodePath,
    pub(crate) group: Group,
    pub(crate) backends: BTreeMap<Endpoint, Backend>,
    /// The server's words when it last refused us; for status.
    pub(crate) words: BTreeMap<Endpoint, String>,
    /// Servers that answer and have no room for writes.
    pub(crate) brown_outs: BTreeMap<Endpoint, BrownOut>,
    /// The primary that was last told to the log, and the epoch of its promotion.
    pub(crate) told: Option<(Endpoint, u64)>,
    /// The epoch that was last told to the log, and how many were in sync under it.
    pub(crate) told_epoch: u64,
    pub(crate) told_in_sync: usize,
    /// The service is paused, as was last read.
    pub(crate) paused: Option<PausedRecord>,
    /// What is wrong with a server, as last told; nothing for one that answers.
    pub(crate) told_health: BTreeMap<Endpoint, &'static str>,
    /// A fault that is told if it stands after a heartbeat, and since when it does.
    pub(crate) untold: Option<(Reason, Time)>,
    /// Whether each server is down, and its role, as the hooks were last told or need not be.
    pub(crate) hooked: BTreeMap<Endpoint, (bool, &'static str)>,
    pub(crate) quiet: Quiet,
    /// The version of `state` and of `<path>` at which it was last found to be broken.
    pub(crate) damaged_at: [Option<i32>; 2],
    /// The opinion that was last written.
    pub(crate) opinion: Option<Vec<Endpoint>>,
    /// An opinion is being written; the next one waits for it, so that the last one stays.
    pub(crate) writes_opinion: bool,
    /// How often it was asked for that the record be read anew, and whether the last time it was.
    pub(crate) vouched: (u64, bool),
    /// The epoch that the peer was told of, and its part of the note.
    pub(crate) noted: (Option<u64>, u64),
    /// How its primary counts among those of all services.
    pub(crate) standing: Standing,
    /// More than the answers of servers that go on has come of it since the last heartbeat, or not all was well then.
    pub(crate) touched: bool,
    /// Where it stands among those that want to be looked at.
    pub(crate) due: Option<Time>,
    /// Whether it was discovered rather than configured.
    pub(crate) discovered: bool,
    followers: Vec<JoinHandle<()>>,
    /// What is under way beside the loop.
    tasks: JoinSet<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.followers.iter().for_each(JoinHandle::abort);
    }
}

/// What a service needs from the driver.
pub(crate) struct Surroundings {
    pub(crate) config: Arc<Config>,
    /// `[detector]`, for the probes.
    pub(crate) detector: watch::Sender<Detector>,
    pub(crate) clock: Clock,
    pub(crate) inputs: mpsc::UnboundedSender<Input>,
    pub(crate) publisher: Publisher,
    pub(crate) rooms: Arc<Rooms>,
}

impl Service {
    pub(crate) fn new(path: ZnodePath, incarnation: u64, limits: Limits, me: &str, discovered: bool) -> Self {
        Self {
            id: ServiceId { name: path.name().into(), incarnation },
            path,
            group: Group::new(me.to_owned(), limits),
            backends: BTreeMap::new(),
            words: BTreeMap::new(),
            brown_outs: BTreeMap::new(),
            told: None,
            told_epoch: 0,
            told_in_sync: 0,
            paused: None,
            told_health: BTreeMap::new(),
            untold: None,
            hooked: BTreeMap::new(),
            quiet: Quiet::default(),
            damaged_at: [None; 2],
            opinion: None,
            writes_opinion: false,
            vouched: (0, false),
            noted: (None, 0),
            standing: Standing::default(),
            touched: true,
            due: None,
            discovered,
            followers: Vec::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Follows the three znodes of this service and reports what they hold.
    pub(crate) fn follow(
        &mut self,
        state: watch::Receiver<Followed<Versioned>>,
        path: watch::Receiver<Followed<Versioned>>,
        paused: watch::Receiver<Followed<Versioned>>,
        inputs: &mpsc::UnboundedSender<Input>,
    ) {
        let to = |id: ServiceId| move |event| Input::Service(id.clone(), About::Event(event));
        self.followers.push(forward(state, inputs.clone(), to(self.id.clone()), state_event));
        self.followers.push(forward(path, inputs.clone(), to(self.id.clone()), path_event));
        let id = self.id.clone();
        let to = move |paused| Input::Service(id.clone(), About::Paused(paused));
        self.followers.push(forward(paused, inputs.clone(), to, paused_read));
    }

    /// Runs something beside the loop, at most as long as this service is there.
    pub(crate) fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {} // those that ended
        self.tasks.spawn(work);
    }

    /// Hands an event to the core and gives back what is to be done.
    pub(crate) fn handle(&mut self, event: Event, clock: Clock) -> Vec<Action> {
        self.group.handle(event, clock.now());
        std::iter::from_fn(|| self.group.poll_action()).collect()
    }

    /// Starts probes for new members and ends those of former ones, which are given back.
    pub(crate) fn tend_probes(&mut self, around: &Surroundings, metrics: &mut Metrics) -> Vec<Endpoint> {
        if self.group.members().eq(self.backends.keys()) {
            return Vec::new(); // as after nearly every event
        }
        let members: Vec<Endpoint> = self.group.members().cloned().collect();
        let left: Vec<Endpoint> =
            self.backends.keys().filter(|addr| !members.contains(addr)).cloned().collect();
        for addr in &left {
            self.backends.remove(addr);
            self.words.remove(addr);
            self.brown_outs.remove(addr);
            self.told_health.remove(addr);
            self.hooked.remove(addr);
        }
        for addr in members {
            if !self.backends.contains_key(&addr) {
                let took = metrics.probe_seconds(&self.id.name, &addr);
                let backend = start(&self.id, &self.path, &addr, around, took);
                self.backends.insert(addr, backend);
            }
        }
        left
    }

    /// Whether an event is but the answer of a server that goes on as it was, or time that passes while all servers answer:
    /// neither changes anything that anybody is told. `speaks`: this monitor has an opinion for its peer (R10).
    pub(crate) fn is_at_rest(&self, event: &Event, speaks: bool, now: Time) -> bool {
        let view = self.group.view();
        let goes_on = if let Event::Seen(addr, _, observation) = event {
            let before = view.backends.get(addr).and_then(|backend| backend.seen.as_ref());
            let said = || self.opinion.as_ref().is_some_and(|told| told.contains(addr));
            before.is_some_and(|before| before.observation == *observation)
                && matches!(view.health(addr, now), Health::Up | Health::Suspect)
                && !(speaks && said())
        } else {
            *event == Event::Tick
                && view.backends.keys().all(|addr| view.health(addr, now) == Health::Up)
                && (!speaks || self.has_said(now))
        };
        goes_on && self.words.is_empty() && mass::standing(view, now) == self.standing
    }

    /// Whether the opinion that was written last is the present one.
    fn has_said(&self, now: Time) -> bool {
        self.opinion.as_ref().is_some_and(|told| self.group.view().unreachable(now).iter().eq(told))
    }

    /// Whether there may be anything to tell of it at this heartbeat. Of a service that goes on as at the last one there is not.
    pub(crate) fn take_unsettled(&mut self, speaks: bool, now: Time) -> bool {
        let view = self.group.view();
        let well = |addr| view.health(addr, now) == Health::Up && view.current(addr, now).is_some();
        let all_well = view.backends.keys().all(well);
        // What is not well now is looked at once more when it is: that it is may be all that there is to tell.
        let touched = std::mem::replace(&mut self.touched, !all_well);
        touched || !all_well || self.untold.is_some() || (speaks && !self.has_said(now))
    }

    /// The servers whose probes are late by more than `limit`, and by how much.
    pub(crate) fn late_probes(&self, now: Time, limit: Duration) -> Vec<(Endpoint, Duration)> {
        let late = |(addr, backend): (&Endpoint, &Backend)| {
            backend.is_late(now, limit).map(|late| (addr.clone(), late))
        };
        self.backends.iter().filter_map(late).collect()
    }

    /// Why the group does what it does.
    pub(crate) fn because(&self) -> &Reason {
        self.group.because()
    }
}

fn start(
    id: &ServiceId,
    path: &ZnodePath,
    addr: &Endpoint,
    around: &Surroundings,
    took: Histogram,
) -> Backend {
    let config = &around.config;
    let login = config.login(addr);
    // The password of the whole group, not of this server: primary and replicas must come to the same credential.
    let shared = config.redis.shared.password.as_ref().map(|password| password.text().to_owned());
    let logins = config.clone();
    let secret = Secret {
        password: shared.unwrap_or_default(),
        path: path.as_str().to_owned(),
        login: Arc::new(move |server: &Endpoint| logins.login(server)),
    };
    let target = Target {
        addr: addr.clone(),
        login,
        secret,
        detector: around.detector.subscribe(),
        turn: turn(&id.name, config.detector.ping_interval),
        took,
        rooms: around.rooms.clone(),
    };
    let (inputs, id) = (around.inputs.clone(), id.clone());
    let report = move |report: Report| {
        let about = match report {
            Report::Event(event) => About::Event(event),
            Report::Words(addr, words) => About::Words(addr, words),
            Report::BrownOut(addr, brown_out) => About::BrownOut(addr, brown_out),
            Report::Acted(order) => About::Acted(order),
        };
        // The driver ends after its services.
        let _ = inputs.send(Input::Service(id.clone(), about));
    };
    let (publisher, path) = (around.publisher.clone(), path.clone());
    let store = move |order: &failover::Order| {
        let (publisher, path, order) = (publisher.clone(), path.clone(), order.clone());
        async move { publisher.stands(&path, &order).await }
    };
    Backend::start(target, around.clock, report, store)
}

/// Turns within a ping interval. Each is one wake-up of this process, which costs more than the probes of a few services; and
/// the more services share one, the longer the answers of the last ones wait.
const TURNS: u32 = 10;

/// When within a ping interval, by the clock on the wall, the servers of a service are asked: all at the same moment, together
/// with those of one service in ten, and by both monitors at the same moment, so that they come to the same view together.
fn turn(service: &str, interval: Duration) -> Duration {
    // FNV-1a: any sum that is the same in both and spreads names evenly.
    let sum =
        service.bytes().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    interval / TURNS * (sum % TURNS)
}

/// Forwards every new value of a followed znode.
pub(crate) fn forward<T, E>(
    mut from: watch::Receiver<Followed<T>>,
    to: mpsc::UnboundedSender<Input>,
    wrap: impl Fn(E) -> Input + Send + 'static,
    read: impl Fn(&Seen<T>) -> Option<E> + Send + 'static,
) -> JoinHandle<()>
where
    T: Clone + Send + Sync + 'static,
    E: Send + 'static,
{
    tokio::spawn(async move {
        loop {
            let event = read(&from.borrow_and_update().seen);
            if let Some(event) = event
                && to.send(wrap(event)).is_err()
            {
                return;
            }
            if from.changed().await.is_err() {
                return;
            }
        }
    })
}

/// What `state` holds, as an event.
pub(crate) fn state_event(seen: &Seen<Versioned>) -> Option<Event> {
    match seen {
        Seen::NotYet => None,
        Seen::Absent => Some(Event::State(Stored::Absent, -1)),
        Seen::There(found) => {
            let stored = match State::from_json(&found.data) {
                Ok(state) => Stored::Is(state),
                Err(error) => Stored::Damaged(error.to_string()),
            };
            Some(Event::State(stored, found.version))
        }
    }
}

/// Whether a service is paused, if that was read. What stands there may have been written by hand.
pub(crate) fn paused_read(seen: &Seen<Versioned>) -> Option<Option<PausedRecord>> {
    match seen {
        Seen::NotYet => None,
        Seen::Absent => Some(None),
        Seen::There(found) => Some(Some(serde_json::from_slice(&found.data).unwrap_or_default())),
    }
}

/// What `<path>` holds, as an event.
pub(crate) fn path_event(seen: &Seen<Versioned>) -> Option<Event> {
    match seen {
        Seen::NotYet => None,
        Seen::Absent => Some(Event::Announced(Announced::Missing, -1)),
        Seen::There(found) => {
            let announced = match Topology::from_json(&found.data) {
                Ok(topology) => Announced::Is(topology),
                Err(error) => Announced::Broken(error.to_string()),
            };
            Some(Event::Announced(announced, found.version))
        }
    }
}
