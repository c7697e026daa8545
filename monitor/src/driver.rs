//! The only loop of the monitor: waits for one thing to happen, hands it to the core, does what the core asks.
//!
//! Everything that happens arrives as an [`Input`]: answers of Redis servers, changes in ZooKeeper, heartbeats of
//! the peer, ends of publications and orders. Nothing is awaited in here but the next input, so that one hung server
//! or a slow ZooKeeper delays nobody else.

mod board;
mod display;
mod due;
mod losses;
mod occasions;
mod opinions;
mod pairing;
mod records;
mod reload;
mod roster;
mod services;
mod session;
mod show;
mod tell;
pub(crate) use records::now_ms;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use binary_star::{Handle, PairEvent, State as PairState};
use failover::lead::{Lead, Peer};
use failover::mass::Losses;
use failover::{Event, Order, Request, Time};
use settings::Problems;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use topology::zookeeper::{PublishError, Seen, Session, Store, Versioned};
use topology::{Endpoint, Layout, LeaderRecord, MonitorRecord, PausedRecord, ZnodePath};
use tracing::{debug, info, warn};

use crate::admin::Question;
use crate::asking::{Answer, Paused};
use crate::clock::Clock;
use crate::config::Config;
use crate::discovery::Board;
use crate::hooks::Hooks;
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::quiet::Quiet;
use crate::redis::BrownOut;
use crate::service::{ServiceId, Surroundings, forward};
use crate::supervisor;

pub(crate) use display::Feed;

use display::Display;
use due::Due;
use roster::Roster;

/// Inputs that are taken in before the loop looks at the time again.
const AT_ONCE: usize = 64;

/// Everything that can happen.
#[derive(Debug)]
pub(crate) enum Input {
    /// Something about one service.
    Service(ServiceId, About),
    /// Heartbeats and states of the pair.
    Pair(PairEvent),
    /// The ZooKeeper session changed.
    Session(Session),
    /// Our name is registered under the session of this generation.
    Registered(u64),
    /// Our name is held by another process.
    NameTaken(MonitorRecord),
    /// The leader record was read.
    Leader(Option<(LeaderRecord, i32)>),
    /// The leader record was read once more because it seemed to be missing.
    LeaderChecked(Option<(LeaderRecord, i32)>),
    /// An attempt to take the lead ended.
    LeadTaken(Result<i32, PublishError>),
    /// The znode of the holder of the lead was read.
    Beat(String, Option<(String, u64)>),
    /// The monitors that are there.
    Monitors(Vec<String>),
    /// The znode of another monitor was read.
    Fellow(String, MonitorRecord),
    /// The observers that are there.
    Observers(Vec<String>),
    /// The znode of an observer was read.
    Observer(String, MonitorRecord),
    /// The services below `discover`.
    Discovered(Vec<String>),
    /// Admin HTTP asks.
    Ask(Question, oneshot::Sender<String>),
    /// An operator asks for something about the service of this name.
    Request(String, Request, oneshot::Sender<Answer>),
    /// An operator pauses the service of this name, or resumes it.
    Pause(String, Option<PausedRecord>, oneshot::Sender<Paused>),
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP: the file was read again.
    Reload(Result<Box<Config>, Problems>),
}

/// What can happen to one service.
#[derive(Debug)]
pub(crate) enum About {
    /// Something that the core must know.
    Event(Event),
    /// A server refused us with these words.
    Words(Endpoint, String),
    /// Whether a server has room for writes.
    BrownOut(Endpoint, Option<BrownOut>),
    /// An order was carried out.
    Acted(Box<Order>),
    /// The publication of this epoch failed.
    NotPublished(u64, PublishError),
    /// What a monitor thinks of the backends.
    Opinion(String, Option<BTreeSet<Endpoint>>),
    /// An opinion of ours was written, or could not be.
    OpinionWritten(bool),
    /// Whether the service is paused was read where that is followed, or written.
    Paused(Option<PausedRecord>),
    /// The same, read because the group asked.
    PausedAgain(Option<PausedRecord>),
    /// The record was read at this call for it ([`Driver::vouch`]), or, if there is nothing, it was not.
    Vouched(u64, Option<Event>),
}

/// Why the loop ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It was asked to.
    Stopped,
    /// Our name is held by another process, on this host.
    NameTaken(MonitorRecord),
}

/// The monitor at work.
pub(crate) struct Driver {
    around: Surroundings,
    store: Store,
    layout: Layout,
    me: LeaderRecord,
    record: MonitorRecord,
    pair: Option<Handle>,
    lead: Lead,
    services: Roster,
    /// When each of them wants to be looked at.
    due: Due,
    /// Since when more inputs were there than were taken in.
    behind: Option<Time>,
    /// Primaries that are lost, of all services, and since when they are too many at once.
    losses: Losses,
    braked: Option<Time>,
    /// Services that there were so far.
    incarnations: u64,
    /// What stood below `discover` when that was last read; none if it never was.
    found: Option<Vec<String>>,
    /// Discovered ones whose name is taken.
    ignored: BTreeSet<ZnodePath>,
    /// The other monitors that are there.
    others: Vec<String>,
    /// What the other monitors say of themselves.
    fellows: BTreeMap<String, MonitorRecord>,
    /// The other observers that are there, with what they say of themselves.
    observers: BTreeMap<String, Option<MonitorRecord>>,
    /// By service and monitor.
    opinions: BTreeMap<(Arc<str>, String), Option<BTreeSet<Endpoint>>>,
    /// Whether the peer was heard when the groups were last told of its opinions.
    counted: bool,
    views: BTreeMap<(String, String), JoinHandle<()>>,
    holder: Option<(String, JoinHandle<()>)>,
    session: Option<Session>,
    /// Since when ZooKeeper does not answer, if it ever did.
    store_lost: Option<Time>,
    registered: Option<u64>,
    /// The session for which a task tries to register our name. A second one would take the first one's znode for a
    /// left-over and delete it.
    registering: Option<u64>,
    name_taken: Option<(MonitorRecord, Time)>,
    reign: Option<i32>,
    told_pair: Option<PairState>,
    /// The service, what was asked for and who waits for what comes of it, by its number.
    requests: BTreeMap<u64, (String, Request, oneshot::Sender<Answer>)>,
    /// Requests that there were so far.
    asked: u64,
    hooks: Hooks,
    /// What clients are told.
    board: Board,
    /// The part of the services that was last looked at for it.
    part: u64,
    /// Whether the peer knew the same records then, and whether something was told otherwise since.
    agreed: bool,
    mixed: bool,
    /// Which records are known here, as a digest for the peer.
    note: u64,
    /// What pages follow.
    display: Display,
    metrics: Metrics,
    quiet: Quiet,
    /// How long this monitor stood still when it last did, when that was, and the same in milliseconds since 1970.
    stood_still: Option<(Duration, Time, u64)>,
    /// When the loop meant to wake at the latest or, since it is awake, when it last looked at the clock.
    planned: Time,
    next_beat: Time,
    /// When the voter's answer is made anew.
    next_show: Time,
    bad_heartbeats: u64,
}

impl Driver {
    /// A driver that has not begun.
    pub(crate) fn new(
        config: Arc<Config>,
        clock: Clock,
        store: Store,
        inputs: mpsc::UnboundedSender<Input>,
        pair: Option<Handle>,
        record: MonitorRecord,
    ) -> Self {
        let layout = Layout::new(config.zookeeper.state_root.clone());
        let me = LeaderRecord { name: config.name().to_owned(), instance: record.instance.clone() };
        let peer = if pair.is_some() { Peer::Active } else { Peer::None };
        let publisher = Publisher::new(store.clone(), layout.clone());
        let hooks = Hooks::new(config.hooks.clone());
        let board = board::empty(&config, clock.now());
        Self {
            lead: Lead::new(me.clone(), config.binary_star.heartbeat, peer)
                .first(config.binary_star.role == Some(binary_star::Role::Primary)),
            around: Surroundings {
                detector: watch::Sender::new(config.detector),
                config,
                clock,
                inputs,
                publisher,
                rooms: Arc::default(),
            },
            store,
            layout,
            me,
            record,
            pair,
            services: Roster::default(),
            due: Due::default(),
            behind: None,
            losses: Losses::default(),
            braked: None,
            incarnations: 0,
            found: None,
            ignored: BTreeSet::new(),
            others: Vec::new(),
            fellows: BTreeMap::new(),
            observers: BTreeMap::new(),
            opinions: BTreeMap::new(),
            counted: false,
            views: BTreeMap::new(),
            holder: None,
            session: None,
            store_lost: None,
            registered: None,
            registering: None,
            name_taken: None,
            reign: None,
            told_pair: None,
            requests: BTreeMap::new(),
            asked: 0,
            hooks,
            board,
            part: 0,
            agreed: false,
            mixed: false,
            note: 0,
            display: Display::new(),
            metrics: Metrics::new(),
            quiet: Quiet::default(),
            stood_still: None,
            planned: Time::MAX,
            next_beat: Time::ZERO,
            next_show: Time::ZERO,
            bad_heartbeats: 0,
        }
    }

    /// Runs until it is stopped.
    pub(crate) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Input>) -> End {
        self.follow_shared();
        for path in self.around.config.zookeeper.path.clone() {
            self.add_service(path, false);
        }
        if self.around.config.zookeeper.discover.is_none() {
            self.board.listed();
        }
        self.next_beat = self.now();
        supervisor::ready();
        let mut inputs = Vec::new();
        loop {
            self.planned = self.deadline();
            let wake = self.around.clock.instant(self.planned);
            tokio::select! {
                biased;
                _ = inbox.recv_many(&mut inputs, AT_ONCE) => {}
                () = sleep_until(wake) => {}
            }
            let more = inputs.len() == AT_ONCE;
            for input in inputs.drain(..) {
                self.notice_stall();
                // What is not about one service may end the lead, and then no group may act on it any more.
                let about_all = !matches!(input, Input::Service(..));
                if matches!(input, Input::Stop) {
                    return self.stop().await;
                }
                self.take(input);
                if about_all {
                    self.tend_lead(self.now());
                }
                self.tend_brake(self.now());
            }
            self.notice_stall();
            if self.keeps_up(more)
                && let Some(end) = self.tick()
            {
                return end;
            }
        }
    }

    /// Nobody is found silent while his answer may wait among the inputs: false as long as there are `more`, for a while. That
    /// they do not end is a stall, too.
    fn keeps_up(&mut self, more: bool) -> bool {
        let now = self.now();
        if !more {
            self.behind = None;
            return true;
        }
        let since = *self.behind.get_or_insert(now);
        self.tend_lead(now);
        if now < since + self.stall() {
            return false;
        }
        self.behind = None;
        self.stood_still_for(now - since, "this monitor has more to do than time; silence is measured anew");
        true
    }

    fn now(&self) -> Time {
        self.around.clock.now()
    }

    fn observes(&self) -> bool {
        self.around.config.observes()
    }

    fn heartbeat(&self) -> Duration {
        self.around.config.binary_star.heartbeat
    }

    /// The loop turns at least once a heartbeat, so that a stall of this process shows (R13).
    fn deadline(&self) -> Time {
        let lead = if self.observes() { None } else { self.lead.deadline(self.now()) };
        self.due
            .first()
            .into_iter()
            .chain(lead)
            .chain(self.display_due())
            .chain([self.next_beat])
            .min()
            .unwrap_or_default()
    }

    fn notice_stall(&mut self) {
        let now = self.now();
        // Awake, the loop waits for nothing until it sleeps again: it may be stopped in the midst of a turn, too.
        let late = now.saturating_sub(std::mem::replace(&mut self.planned, now));
        if late > self.stall() {
            self.lead.stalled(now);
            if let Some((_, since)) = &mut self.name_taken {
                *since = now;
            }
            self.vouch_anew();
            self.stood_still_for(late, "this monitor stood still; silence is measured anew");
        }
    }

    /// What is late by more than this is a stall. A quarter of down_after at most: with the age of the last probe, a longer one
    /// could pass for silence.
    fn stall(&self) -> Duration {
        self.heartbeat().min(self.around.config.detector.down_after / 4)
    }

    /// Where there is more to do than time, probes may be late while this loop is not: what the servers of this service have
    /// answered may not have been read.
    fn notice_late_probes(&mut self, name: &str) {
        let (now, limit) = (self.now(), self.late_after());
        let late = self.services.get(name).map(|service| service.late_probes(now, limit)).unwrap_or_default();
        if !late.is_empty() {
            self.unheard(name, late);
        }
    }

    fn late_after(&self) -> Duration {
        self.around.config.detector.down_after / 4
    }

    fn unheard(&mut self, name: &str, late: Vec<(Endpoint, Duration)>) {
        let longest = late.iter().map(|(_, late)| *late).max().unwrap_or_default();
        // Of a thousand services all are late together.
        if self.stood_still.is_none_or(|(_, at, _)| self.now() >= at + self.heartbeat()) {
            self.tell_stall(longest, "this monitor is late with its questions; silence is measured anew");
        }
        self.hand(name, Event::Unheard(late.into_iter().map(|(addr, _)| addr).collect()));
    }

    fn stood_still_for(&mut self, late: Duration, what: &str) {
        self.tell_stall(late, what);
        self.all_groups(&Event::Stalled);
    }

    fn tell_stall(&mut self, late: Duration, what: &str) {
        let (now, late_ms) = (self.now(), late.as_millis() as u64);
        self.metrics.stalls.inc();
        self.stood_still = Some((late, now, now_ms()));
        self.display.touch();
        match self.quiet.is_due(what, now) {
            true => warn!(late_ms, "{what}"),
            false => debug!(late_ms, "{what}"),
        }
    }

    fn all_groups(&mut self, event: &Event) {
        for name in self.services.names() {
            // A group that must not act any more is told of nothing else before.
            match matches!(event, Event::Reign(None) | Event::Stalled) {
                true => self.hand(&name, event.clone()),
                false => self.group(&name, event.clone()),
            }
        }
    }

    /// Follows what all services share.
    fn follow_shared(&self) {
        let inputs = || self.around.inputs.clone();
        forward(self.store.follow(&self.layout.leader()), inputs(), Input::Leader, leader_event);
        let monitors = self.store.follow_children(&self.layout.monitors());
        forward(monitors, inputs(), Input::Monitors, |seen| seen.there().cloned());
        let observers = self.store.follow_children(&self.layout.observers());
        forward(observers, inputs(), Input::Observers, |seen| seen.there().cloned());
        if let Some(parent) = &self.around.config.zookeeper.discover {
            let children = self.store.follow_children(parent.as_str());
            forward(children, inputs(), Input::Discovered, |seen| match seen {
                Seen::NotYet => None,
                Seen::Absent => Some(Vec::new()),
                Seen::There(names) => Some(names.clone()),
            });
        }
        let (mut session, inputs) = (self.store.session(), inputs());
        tokio::spawn(async move {
            loop {
                let now = *session.borrow_and_update();
                if inputs.send(Input::Session(now)).is_err() || session.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Service(id, about) => self.about(&id, about),
            Input::Pair(event) => self.pair_event(event),
            Input::Session(session) => self.session_changed(session),
            Input::Registered(generation) => self.now_registered(generation),
            Input::NameTaken(_) if self.registered.is_some() => {} // said before the name was ours
            Input::NameTaken(by) => {
                let since = self.name_taken.as_ref().map_or(self.now(), |(_, since)| *since);
                if self.name_taken.is_none() {
                    let (name, host, wait) = (&self.me.name, &by.host, self.name_wait());
                    warn!(
                        "the name `{name}` is held by a monitor on {host}; waiting up to {wait:?} for it to end"
                    );
                }
                self.name_taken = Some((by, since));
            }
            // A late answer from before the record was made must not pass for a deletion.
            Input::Leader(None) if self.lead.reign().is_some() || self.lead.held_by_other() => {
                self.check_leader()
            }
            Input::Leader(record) | Input::LeaderChecked(record) => self.leader_read(record),
            Input::LeadTaken(result) => self.lead_taken(result),
            Input::Beat(holder, beat) => {
                if self.holder.as_ref().is_some_and(|(name, _)| *name == holder) {
                    let now = self.now();
                    self.lead.beat(beat, now);
                }
            }
            Input::Monitors(names) => self.monitors(&names),
            Input::Fellow(name, record) => {
                if self.others.contains(&name) {
                    self.fellows.insert(name, record);
                }
            }
            Input::Observers(names) => self.observers(&names),
            Input::Observer(name, record) => {
                if let Some(known) = self.observers.get_mut(&name) {
                    *known = Some(record);
                }
            }
            Input::Discovered(names) => self.discovered(&names),
            Input::Ask(question, answer) => {
                // Whoever asked may be gone.
                let _ = answer.send(self.answer(&question));
            }
            Input::Request(service, request, answer) => self.request(&service, request, answer),
            Input::Pause(service, wanted, answer) => self.pause(&service, wanted, answer),
            Input::Reload(read) => self.reload(read),
            Input::Stop => {}
        }
    }

    /// What is due at this moment, whatever woke the loop.
    fn tick(&mut self) -> Option<End> {
        let now = self.now();
        self.tell_board_of_turn();
        // First the lead: what it lost, no group may act on any more.
        self.tend_lead(now);
        self.tend_brake(now);
        while let Some(name) = self.due.take(now) {
            self.notice_stall();
            self.time_passed(&name, now);
            // Whoever is found silent next is one of many, if this one was.
            self.tend_brake(now);
        }
        if now >= self.next_beat {
            self.next_beat = now + self.heartbeat();
            supervisor::alive(self.reign.is_some());
            self.beat();
            self.services.names().iter().for_each(|name| self.notice_late_probes(name));
            let unsettled = self.unsettled();
            self.write_opinions(&unsettled);
            self.tell_what_lasts(&unsettled);
            self.tell_hooks(&unsettled);
            self.tell_pair();
            self.show();
            self.tell_board_in_turn();
        }
        self.display(now);
        match &self.name_taken {
            Some((by, since)) if now >= *since + self.name_wait() => Some(End::NameTaken(by.clone())),
            Some(_) | None => None,
        }
    }

    /// SIGTERM: gives up the lead, so that the peer takes it at once, and ends the session.
    async fn stop(mut self) -> End {
        info!("stopping");
        supervisor::stopping();
        self.lead.leave();
        let reign = self.reign.take();
        self.all_groups(&Event::Reign(None));
        if let Some(reign) = reign
            && let Err(error) = self.bound_publisher().give_up_lead(reign).await
        {
            warn!(%error, "the lead could not be given up; the peer takes it after its limits");
        }
        self.store.close().await;
        End::Stopped
    }
}

fn leader_event(seen: &Seen<Versioned>) -> Option<Option<(LeaderRecord, i32)>> {
    match seen {
        Seen::NotYet => None,
        Seen::Absent => Some(None),
        Seen::There(found) => {
            // What is no record is held by nobody; taking it is conditional on its version.
            let nobody = LeaderRecord { name: String::new(), instance: String::new() };
            let record = serde_json::from_slice(&found.data).unwrap_or(nobody);
            Some(Some((record, found.version)))
        }
    }
}
