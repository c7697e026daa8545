//! One group: events in, actions out. It keeps the [`View`], asks [`decide()`] after every event, and sees to it that
//! one publication and one order per server are under way at a time, and that a step that failed rests before it is
//! tried again.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use topology::{Endpoint, Phase, State, Topology};

use crate::decide::{Decision, Reason, Step, decide};
use crate::detector::{Health, Trouble};
use crate::order::{Deed, Order, Refused};
use crate::request::{self, Asked, Declined, Done, Request};
use crate::view::{
    ASK_FOR, Announced, Backend, CONFIRM_WAIT, Limits, Observation, Pause, Paused, PeerOpinion, Role, Seen,
    View, follows,
};
use crate::witness::{Witness, witnesses};
use crate::{Disqualified, Time, mass, set, switchover};

/// A question is repeated no sooner than this: two round trips on a local network and a turn of the server's loop.
const ASK_AGAIN: Duration = Duration::from_millis(2);
/// A refusal that only an operator can lift is looked at again after this.
const REFUSED_REST: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The reign of this monitor began (the version at which it took the lead) or ended.
    Reign(Option<i32>),
    /// ZooKeeper answers, or does not (R11).
    Store(bool),
    /// What the peer monitor thinks of the servers.
    Peer(PeerOpinion),
    /// `state` was read.
    State(Stored, i32),
    /// `<path>` was read.
    Announced(Announced, i32),
    /// This server was asked for the first time, or the first attempt to reach it has failed. Of one that was never tried nobody
    /// says that it is silent.
    Tried(Endpoint),
    /// A connection to this server was opened.
    Opened(Endpoint),
    /// On the connection that was just opened, this process (run id) greeted.
    Greeted(Endpoint, String),
    /// It was closed by the server, or broke.
    Closed(Endpoint),
    /// A new one was refused. (One that timed out is no event: silence speaks for itself.)
    ConnectionRefused(Endpoint),
    /// The server answered with an error.
    Troubled(Endpoint, Trouble),
    /// The server answered a question that was sent at that time.
    Seen(Endpoint, Time, Arc<Observation>),
    /// The publication with this number ended.
    Published(u64, PublishOutcome),
    /// An order ended; what the server said with it was asked for at that time. The answer may have waited for a monitor that
    /// stood still.
    Ordered(Endpoint, Time, Outcome),
    /// Whether an operator has paused the group, as it was read.
    Paused(bool),
    /// An operator asks for this, under a number of the driver's choice.
    Asked(u64, Request),
    /// The bounds are others from now on.
    Limits(Limits),
    /// Many primaries of this monitor's groups are lost at once, or not any more ([`crate::mass`]).
    Brake(bool),
    /// This monitor itself stood still (R13).
    Stalled,
    /// It was late to ask these servers, or to hear them.
    Unheard(Vec<Endpoint>),
    /// The server has not answered for `down_after`, and whoever asked it has looked just now.
    Unanswered(Endpoint),
    /// Time passed.
    Tick,
}

/// What stands in `state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// No znode.
    Absent,
    /// No record.
    Damaged(String),
    /// A record.
    Is(State),
}

/// How a publication ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishOutcome {
    /// It stands, at these versions of `state` and, if it was written, of `<path>`.
    Done {
        /// Of `state`.
        state: i32,
        /// Of `<path>`.
        path: Option<i32>,
    },
    /// Refused, or the outcome is unknown. Start again from what is read.
    Failed,
}

/// How an order ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Carried out, or it was done already; with what the server said right afterwards.
    Done(Option<Observation>),
    /// The fence there is newer than the record (R1): this monitor is deposed.
    Deposed(u64),
    /// The guard refused it.
    Refused(Refused),
    /// A nil EXEC, or the lead or the record changed meanwhile: somebody else acted. Look again.
    Raced,
    /// No connection, or it was lost: nothing is known. Look again.
    Lost,
    /// The server answered with an error.
    Rejected(String),
    /// The server does not let us make the replication credential (R7 b).
    NoCredential(String),
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Publish (docs/protocol.md, section 2): `check(leader)`, the record, and `<path>` where it says so.
    Publish(Publication),
    /// A guarded command.
    Order(Order),
    /// Ask this server now, besides the regular probes.
    Look(Endpoint),
    /// Read `state`, `<path>` and whether the group is paused again.
    Reread,
    /// The reason changed; for log and status.
    Say(Reason),
    /// A failover was completed.
    Completed(Timeline),
    /// What came of the request with this number.
    Answer(u64, Result<Done, Declined>),
    /// Somebody wrote this primary into `<path>` by hand, which asks for a switchover; with what came of it, once that is
    /// known.
    Edited(Endpoint, Option<Result<Done, Declined>>),
}

/// A publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Counts the publications of this group by this monitor.
    pub number: u64,
    /// The version at which the lead was taken.
    pub reign: i32,
    /// The record.
    pub next: State,
    /// The version of `state` that it replaces; none to create it.
    pub expected: Option<i32>,
    /// `<path>` and the version that it replaces; none to create it.
    pub announce: Option<(Topology, Option<i32>)>,
}

/// When each phase of a failover ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// The epoch.
    pub epoch: u64,
    /// Why.
    pub reason: String,
    /// The old primary, if this monitor knows it.
    pub from: Option<Endpoint>,
    /// The new primary.
    pub to: Endpoint,
    /// Bytes that the old primary was last seen to have beyond the new one: a lower bound of what writers that did not
    /// wait for copies have lost.
    pub gap_bytes: Option<u64>,
    /// The verdict on every member when it was decided.
    pub candidates: Vec<(Endpoint, Option<Disqualified>)>,
    /// What each observer saw of the old primary when it was decided.
    pub saw: Vec<Witness>,
    /// How it began, where this monitor began it; the other one may have died on the way.
    pub begun: Option<Begun>,
    /// The promotion was done.
    pub promoted: Option<Time>,
    /// The announcement stood.
    pub announced: Option<Time>,
}

/// The first phases of a failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// The old primary was last heard of, or its connection was closed.
    pub lost: Time,
    /// The loss was certain (R10).
    pub detected: Time,
    /// It was decided.
    pub decided: Time,
    /// The record stood.
    pub published: Time,
}

/// One group of Redis servers under one monitor.
#[derive(Debug, Clone)]
pub struct Group {
    view: View,
    actions: VecDeque<Action>,
    because: Reason,
    next_wake: Option<Time>,
    publications: u64,
    published: Option<UnderWay>,
    timeline: Option<Timeline>,
    /// When the connection to the recorded primary was last seen closed, by it: over silence the probe gives it up itself.
    primary_closed: Option<Time>,
    /// Since when the primary is known to be lost.
    fault_at: Option<Time>,
    /// An older version than the known one was read of `state`, and of `<path>` (-1: nothing): a late answer, or the
    /// znode was deleted or made anew. Reading it again tells which.
    older: [Option<i32>; 2],
    /// The version of `<path>` whose primary was last taken for a request.
    edit: Option<i32>,
}

/// A publication that was begun.
#[derive(Debug, Clone)]
struct UnderWay {
    number: u64,
    next: State,
    topology: Option<Topology>,
    decided: Time,
    candidates: Vec<(Endpoint, Option<Disqualified>)>,
    saw: Vec<Witness>,
    /// The record was read back before the answer came. Whether `<path>` was written only the answer tells: the record
    /// may be that of an earlier attempt.
    stands: bool,
}

impl Group {
    /// A group of which nothing is known yet.
    pub fn new(me: String, limits: Limits) -> Self {
        let view = View {
            me,
            limits,
            reign: None,
            store_away: false,
            record: None,
            record_read: false,
            record_confirmed: false,
            record_damaged: None,
            announced: (Announced::Unread, -1),
            backends: BTreeMap::new(),
            peer: PeerOpinion::Gone,
            braked: false,
            basis: None,
            promotion_refused: None,
            last_failover: None,
            stamped: None,
            paused: Paused::Unread,
            asked: None,
            releasing: None,
            publishing: false,
            publish_hold: Time::ZERO,
        };
        let because = Reason::Passive(None);
        Self {
            view,
            actions: VecDeque::new(),
            because,
            next_wake: None,
            publications: 0,
            published: None,
            timeline: None,
            primary_closed: None,
            fault_at: None,
            older: [None; 2],
            edit: None,
        }
    }

    /// All that is known.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Why the group does what it does.
    pub fn because(&self) -> &Reason {
        &self.because
    }

    /// The servers that are to be probed.
    pub fn members(&self) -> impl Iterator<Item = &Endpoint> {
        self.view.backends.keys()
    }

    /// Takes in what happened. Actions may follow.
    pub fn handle(&mut self, event: Event, now: Time) {
        if let Event::Seen(addr, asked, observation) = &event
            && self.goes_on(addr, *asked, observation, now)
        {
            return;
        }
        match event {
            Event::Reign(reign) => self.reign(reign, now),
            Event::Store(answers) => {
                if answers && self.view.store_away {
                    self.actions.push_back(Action::Reread); // one that was asked for before may be lost
                }
                self.view.store_away = !answers;
            }
            Event::Peer(peer) => self.view.peer = peer,
            Event::State(stored, version) => self.stored(stored, version, now),
            Event::Announced(announced, version) => self.announced(announced, version, now),
            Event::Tried(addr) => self.with(&addr, |b| b.detector.tried(now)),
            Event::Opened(addr) => self.with(&addr, |b| {
                b.detector.opened(now);
                // What the process on the last connection said is no word of the one on this.
                b.stale_until = now;
            }),
            Event::Greeted(addr, run_id) => self.with(&addr, |b| {
                b.detector.greeted(now);
                b.greeted = Some((run_id, now));
            }),
            Event::Closed(addr) => self.closed(&addr, now),
            Event::ConnectionRefused(addr) => self.with(&addr, |b| b.detector.refused(now)),
            Event::Troubled(addr, trouble) => self.with(&addr, |b| {
                b.detector.heard(now, Some(trouble));
                b.asked_at = None;
            }),
            Event::Seen(addr, asked, observation) => self.seen(&addr, asked, observation, now),
            Event::Published(number, outcome)
                if self.published.as_ref().is_some_and(|p| p.number == number) =>
            {
                self.publication_ended(outcome, now);
            }
            Event::Published(..) => {}
            Event::Ordered(addr, asked, outcome) => self.order_ended(&addr, asked, outcome, now),
            Event::Paused(paused) => self.view.paused = if paused { Paused::Yes } else { Paused::No },
            Event::Asked(number, request) => self.asked(number, request, now),
            Event::Limits(limits) => {
                let asks = |limits: &Limits| (limits.ping_interval, limits.down_after);
                // What was in time by the old bounds is not late by the new ones.
                if asks(&self.view.limits) != asks(&limits) {
                    self.view.backends.values_mut().for_each(|b| b.detector.forget_silence(now));
                }
                self.view.limits = limits;
            }
            Event::Brake(braked) => self.view.braked = braked,
            Event::Unheard(servers) => servers.iter().for_each(|addr| {
                self.with(addr, |b| b.detector.unheard(now));
            }),
            Event::Unanswered(addr) => self.with(&addr, |b| b.detector.unanswered(now)),
            Event::Stalled => self.view.backends.values_mut().for_each(|b| b.detector.forget_silence(now)),
            Event::Tick => {}
        }
        self.advance(now);
    }

    /// Takes in the answer of a server that goes on as it was while all is well; false if it is anything else. Nothing can
    /// come of such an answer, and of thousands of servers nearly all answers are: what time alone changes is looked at
    /// when it is due, which is once within `down_after` at least.
    fn goes_on(&mut self, addr: &Endpoint, asked: Time, observation: &Arc<Observation>, now: Time) -> bool {
        let view = &self.view;
        let well = matches!(self.because, Reason::Healthy | Reason::Passive(None))
            && view.asked.is_none()
            && view.releasing.is_none()
            && !view.publishing
            && self.fault_at.is_none()
            && self.primary_closed.is_none()
            && self.next_wake.is_some();
        let (true, Some(state)) = (well, view.state()) else { return false };
        if state.in_sync.len() + 1 < state.members.len() {
            return false; // whoever is to enter the set is looked at more closely
        }
        let is_primary = state.primary.addr == *addr;
        let level = || {
            let primary = view.backends.get(&state.primary.addr).and_then(|primary| primary.seen.as_ref());
            primary.is_some_and(|primary| observation.offset >= primary.observation.offset)
        };
        let keeps_up =
            |backend: &Backend| backend.unattached_since.is_none() && backend.behind_since.is_none();
        let Some(backend) = view.backends.get(addr) else { return false };
        let same = backend.seen.as_ref().is_some_and(|before| {
            before.asked >= backend.stale_until && before.asked < asked && before.observation == *observation
        });
        let steady = same
            && asked >= backend.void_until
            && backend.ordered.is_none()
            // A late answer is one: the server was nothing worse than suspected, and is not any more.
            && matches!(view.health(addr, now), Health::Up | Health::Suspect)
            && (is_primary || (keeps_up(backend) && level()));
        if steady && let Some(backend) = self.view.backends.get_mut(addr) {
            backend.detector.heard(now, None);
            backend.asked_at = None;
            if let Some(seen) = &mut backend.seen {
                (seen.asked, seen.at) = (asked, now);
            }
        }
        steady
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Event::Tick`] is due if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.next_wake
    }

    fn with(&mut self, addr: &Endpoint, change: impl FnOnce(&mut Backend)) {
        if let Some(backend) = self.view.backends.get_mut(addr) {
            change(backend);
        }
    }

    fn reign(&mut self, reign: Option<i32>, now: Time) {
        if self.view.reign == reign {
            return;
        }
        self.view.reign = reign;
        // A new reign carries out the record that it finds; what an earlier one had under way is not its own.
        self.view.stamped = None;
        self.view.record_confirmed = false;
        self.view.basis = None;
        if reign.is_some() {
            self.view.paused = Paused::Unread;
        }
        self.view.backends.values_mut().for_each(|b| b.pause = Pause::No); // another monitor may have ended it
        self.look_afresh(now);
        match reign {
            Some(_) => self.actions.push_back(Action::Reread),
            None => self.answer(Err(Declined::NotLeading)),
        }
        self.released(false, now);
    }

    fn asked(&mut self, number: u64, request: Request, now: Time) {
        let declined = match (self.view.reign, self.view.state(), &self.view.asked) {
            (None, _, _) => Declined::NotLeading,
            (Some(_), None, _) => Declined::NoRecord,
            (Some(_), Some(_), Some(_)) => Declined::Busy,
            (Some(_), Some(state), None) => {
                self.view.asked = Some(Asked::new(Some(number), request, state, now));
                return;
            }
        };
        self.actions.push_back(Action::Answer(number, Err(declined)));
    }

    fn answer(&mut self, outcome: Result<Done, Declined>) {
        match self.view.asked.take() {
            Some(Asked { number: Some(number), .. }) => {
                self.actions.push_back(Action::Answer(number, outcome));
            }
            Some(Asked { number: None, request: Request::Switchover { to: Some(to) }, .. }) => {
                self.actions.push_back(Action::Edited(to, Some(outcome)));
            }
            Some(_) | None => {}
        }
    }

    /// Another primary in `<path>`, written there by hand, is asked for once. While something else is asked for it waits.
    fn tend_edit(&mut self, now: Time) {
        let version = self.view.announced.1;
        if self.view.reign.is_none()
            || !self.view.record_confirmed
            || self.view.publishing
            || self.view.asked.is_some()
            || self.edit == Some(version)
        {
            return;
        }
        let (Some(to), Some(state)) = (self.view.edited(), self.view.state()) else { return };
        if state.phase == Phase::Serving {
            let to = to.clone();
            let request = Request::Switchover { to: Some(to.clone()) };
            self.view.asked = Some(Asked::new(None, request, state, now));
            self.edit = Some(version);
            self.actions.push_back(Action::Edited(to, None));
        }
    }

    /// The server that left the group was told so, or will not be.
    fn released(&mut self, released: bool, now: Time) {
        let Some((addr, _)) = self.view.releasing.take() else { return };
        if let Some(state) = self.view.state() {
            let members = state.members.clone();
            self.watch_members(&members, now);
        }
        self.answer(Ok(Done::Removed { addr, released }));
    }

    /// What an operator asked for has its limits.
    fn tend_request(&mut self, now: Time) {
        if let Some((addr, since)) = &self.view.releasing {
            let gone = self.view.health(addr, now).gone_since().is_some();
            if gone || now >= *since + request::RELEASE_WAIT {
                self.released(false, now);
            }
        }
        if self.view.asked.as_ref().is_some_and(|asked| now >= asked.at + request::LIMIT) {
            self.answer(Err(Declined::TimedOut(request::LIMIT, self.because.to_string())));
        }
    }

    /// Only answers to questions asked from now on count.
    fn look_afresh(&mut self, now: Time) {
        for (addr, backend) in &mut self.view.backends {
            backend.stale_until = now;
            backend.asked_at = Some(now);
            self.actions.push_back(Action::Look(addr.clone()));
        }
    }

    fn stored(&mut self, stored: Stored, version: i32, now: Time) {
        let ours = |p: &UnderWay| !p.stands && matches!(&stored, Stored::Is(state) if *state == p.next);
        if let Some(under_way) = self.published.take_if(|p| ours(p)) {
            self.published = Some(UnderWay { stands: true, ..under_way.clone() });
            return self.stands(under_way, version, now);
        }
        let known = self.view.record.as_ref().map(|(state, version)| (state.epoch, *version));
        if let (Some((_, at)), None) = (known, self.view.record_damaged) {
            if version == at {
                self.view.record_confirmed |= self.view.reign.is_some();
                return;
            }
            if self.is_late(0, version, at) {
                return;
            }
        }
        match (stored, known) {
            (Stored::Is(state), Some((epoch, _))) => {
                let known = self.view.state();
                if state.epoch < epoch || known.is_some_and(|known| known.contradicts(&state)) {
                    self.view.record_damaged = Some(version);
                } else {
                    self.adopt(state, version, now);
                }
            }
            (Stored::Is(state), None) => self.adopt(state, version, now),
            (Stored::Absent, None) => self.view.record_damaged = None,
            (Stored::Absent, Some(_)) => self.view.record_damaged = Some(-1),
            (Stored::Damaged(_), _) => self.view.record_damaged = Some(version),
        }
        self.view.record_read = true;
    }

    /// Whether what was read is older than what is known, and only late.
    fn is_late(&mut self, which: usize, version: i32, known: i32) -> bool {
        let before = self.older[which].take();
        let late = version < known && before != Some(version);
        if late {
            self.older[which] = Some(version);
            self.actions.push_back(Action::Reread);
        }
        late
    }

    /// Another monitor's record, or one read at the start.
    fn adopt(&mut self, state: State, version: i32, now: Time) {
        self.view.basis = None;
        self.timeline = (state.phase == Phase::Promoting).then(|| {
            let from = self.view.state().map(|old| old.primary.addr.clone());
            Timeline {
                gap_bytes: None,
                epoch: state.epoch,
                reason: state.reason.clone(),
                from: from.filter(|from| *from != state.primary.addr),
                to: state.primary.addr.clone(),
                candidates: Vec::new(),
                saw: Vec::new(),
                begun: None,
                promoted: None,
                announced: None,
            }
        });
        self.install(state, version, now);
        self.look_afresh(now);
    }

    fn install(&mut self, state: State, version: i32, now: Time) {
        let old = self.view.record.replace((state, version)).map(|(state, _)| state);
        self.view.record_damaged = None;
        self.view.record_confirmed = self.view.reign.is_some();
        let Some((new, _)) = &self.view.record else { return };
        for entry in old.iter().flat_map(|old| &old.in_sync) {
            if new.in_sync(&entry.addr).is_none()
                && let Some(backend) = self.view.backends.get_mut(&entry.addr)
            {
                backend.left_at = Some(now);
            }
        }
        let moved = old.as_ref().is_none_or(|old| old.primary.addr != new.primary.addr);
        if old.as_ref().is_none_or(|old| old.epoch != new.epoch) {
            self.view.stamped = None;
            self.view.promotion_refused = None;
        }
        if moved {
            self.primary_closed = None;
            for backend in self.view.backends.values_mut() {
                (backend.unattached_since, backend.behind_since) = (Some(now), None);
                backend.attached_at = None;
                backend.advanced_at = None;
            }
        }
        let members = new.members.clone();
        if let (Some(old), Some(Request::Remove { addr })) =
            (&old, self.view.asked.as_ref().map(|asked| &asked.request))
            && old.members.contains(addr)
            && !members.contains(addr)
        {
            self.view.releasing = Some((addr.clone(), now));
        }
        self.watch_members(&members, now);
    }

    fn watch_members(&mut self, members: &[Endpoint], now: Time) {
        let releasing = self.view.releasing.as_ref().map(|(addr, _)| addr);
        self.view.backends.retain(|addr, _| members.contains(addr) || releasing == Some(addr));
        for addr in members {
            self.view.backends.entry(addr.clone()).or_insert_with(|| Backend::new(now));
        }
    }

    fn announced(&mut self, announced: Announced, version: i32, now: Time) {
        if self.is_late(1, version, self.view.announced.1) {
            return;
        }
        if self.view.announced.0 == Announced::Missing && announced != Announced::Missing {
            // What was there before the deletion may be told late; nothing in it says so.
            self.actions.push_back(Action::Reread);
        }
        if let (Announced::Is(topology), None) = (&announced, self.view.state()) {
            let members: Vec<Endpoint> = topology.members().cloned().collect();
            self.watch_members(&members, now);
        }
        self.view.announced = (announced, version);
    }

    fn closed(&mut self, addr: &Endpoint, now: Time) {
        let silent = matches!(self.view.health(addr, now), Health::Silent(_));
        self.with(addr, |b| {
            b.detector.closed(now);
            b.greeted = None;
        });
        if self.view.state().is_some_and(|state| state.primary.addr == *addr) {
            if !silent {
                self.primary_closed = Some(now);
            }
            // The replicas' word on it is wanted at once (R10), while a new connection is tried.
            let others: Vec<Endpoint> =
                self.view.backends.keys().filter(|other| *other != addr).cloned().collect();
            others.into_iter().for_each(|other| self.look(other, now));
        }
    }

    /// A probe was answered.
    fn seen(&mut self, addr: &Endpoint, asked: Time, observation: Arc<Observation>, now: Time) {
        let Some(backend) = self.view.backends.get_mut(addr) else { return };
        let newer = backend.seen.as_ref().is_some_and(|seen| seen.asked > asked);
        if newer || asked < backend.void_until {
            backend.detector.heard(now, None);
            backend.asked_at = None;
            return; // an order's own look is newer
        }
        self.take(addr, asked, observation, now);
    }

    fn take(&mut self, addr: &Endpoint, asked: Time, observation: Arc<Observation>, now: Time) {
        let primary = self.view.state().map(|state| state.primary.addr.clone());
        let ahead = primary
            .as_ref()
            .and_then(|p| self.view.backends.get(p)?.seen.as_ref())
            .map(|s| s.observation.offset);
        if primary.as_ref() == Some(addr) {
            self.primary_closed = None;
        }
        let Some(backend) = self.view.backends.get_mut(addr) else { return };
        backend.detector.heard(now, None);
        backend.asked_at = None;
        let before = backend.seen.as_ref().map(|seen| &seen.observation);
        if before.is_none_or(|old| old.run_id != observation.run_id) {
            backend.process_since = now;
            backend.pause = Pause::No;
        }
        let primary_role = |seen: &Observation| matches!(seen.role, Role::Primary { .. });
        if before.is_none_or(|old| primary_role(old) != primary_role(&observation)) {
            backend.role_since = now;
        }
        let grew =
            before.is_some_and(|old| old.replid == observation.replid && old.offset < observation.offset);
        if grew {
            backend.advanced_at = Some(now);
        }
        match grew || ahead.is_none_or(|ahead| observation.offset >= ahead) {
            true => backend.behind_since = None,
            false => _ = backend.behind_since.get_or_insert(now),
        }
        let attached = primary.as_ref().is_some_and(|p| follows(&observation, p));
        match (attached, backend.unattached_since) {
            (true, _) => backend.unattached_since = None,
            (false, None) => backend.unattached_since = Some(now),
            (false, Some(_)) => {}
        }
        // Another stream than before is measured anew.
        let goes_on = before.is_some_and(|old| {
            (&old.run_id, &old.replid) == (&observation.run_id, &observation.replid)
                && old.offset <= observation.offset
        });
        backend.attached_at =
            attached.then(|| backend.attached_at.filter(|_| goes_on).unwrap_or(observation.offset));
        if let Role::Primary { .. } = observation.role {
            backend.unattached_since.get_or_insert(now);
        }
        backend.seen = Some(Seen { observation, asked, at: now });
    }

    fn publication_ended(&mut self, outcome: PublishOutcome, now: Time) {
        self.view.publishing = false;
        let Some(under_way) = self.published.take() else { return };
        let PublishOutcome::Done { state, path } = outcome else {
            // It may stand there all the same.
            self.view.record_confirmed = false;
            self.view.publish_hold = now + self.view.limits.retry_after;
            self.actions.push_back(Action::Reread);
            return;
        };
        if let (Some(topology), Some(version)) = (&under_way.topology, path) {
            self.view.announced = (Announced::Is(topology.clone()), version);
        }
        if !under_way.stands {
            self.stands(under_way, state, now);
        }
    }

    /// A record of ours stands in ZooKeeper at this version.
    fn stands(&mut self, under_way: UnderWay, version: i32, now: Time) {
        let UnderWay { next, decided, candidates, saw, .. } = under_way;
        if self.view.record.as_ref().is_some_and(|(_, known)| *known >= version)
            && self.view.record_damaged.is_none()
        {
            return; // overtaken
        }
        let old = self.view.state().cloned();
        let promoted = old.as_ref().is_some_and(|old| old.promoted != next.promoted);
        match (old, next.phase) {
            (Some(old), Phase::Promoting) if promoted => {
                // Nothing was lost where an operator asked for it.
                let asked = self.view.asked.as_ref().filter(|_| self.fault_at.is_none());
                let held = self.view.backends.get(&old.primary.addr).map(|backend| backend.pause);
                let lost = match held {
                    Some(Pause::Since(at)) => Some(at), // since then nobody could write
                    Some(Pause::No | Pause::Perhaps) | None => asked.map(|asked| asked.at),
                };
                let lost = lost
                    .or(self.primary_closed)
                    .or_else(|| Some(self.view.backends.get(&old.primary.addr)?.detector.last_heard()));
                // Of the recorded process, and of one history; where all was restarted, nobody knows.
                let seen = |addr: &Endpoint| Some(&self.view.backends.get(addr)?.seen.as_ref()?.observation);
                let gap = seen(&old.primary.addr).zip(seen(&next.primary.addr)).filter(|(was, is)| {
                    !next.cold && was.run_id == old.primary.run_id && was.replid == is.replid
                });
                let gap = gap.map(|(was, is)| (was.offset, is.offset));
                self.timeline = Some(Timeline {
                    gap_bytes: gap.map(|(old, new)| old.saturating_sub(new)),
                    epoch: next.epoch,
                    reason: next.reason.clone(),
                    from: Some(old.primary.addr.clone()),
                    to: next.primary.addr.clone(),
                    candidates,
                    saw,
                    begun: Some(Begun {
                        lost: lost.unwrap_or(decided),
                        detected: self.fault_at.unwrap_or(decided).min(decided),
                        decided,
                        published: now,
                    }),
                    promoted: None,
                    announced: None,
                });
                self.view.basis = Some(old);
            }
            (Some(old), Phase::Serving) if old.phase == Phase::Promoting => {
                self.view.basis = None;
                if old.from.is_none() {
                    // A switchover holds up no failover.
                    self.view.last_failover = Some(now);
                }
                if let Some(mut timeline) = self.timeline.take() {
                    timeline.announced = Some(now);
                    self.actions.push_back(Action::Completed(timeline.clone()));
                    let primary = timeline.to.clone();
                    let done = || Done::FailedOver(Some(timeline));
                    let outcome = self.view.asked.as_ref().and_then(|asked| match &asked.request {
                        Request::Failover { .. } => Some(Ok(done())),
                        Request::Switchover { to } => {
                            Some(switchover::came_of(asked, to.as_ref(), &primary, done))
                        }
                        Request::Add { .. } | Request::Remove { .. } => None,
                    });
                    if let Some(outcome) = outcome {
                        self.answer(outcome);
                    }
                }
            }
            (_, Phase::Promoting | Phase::Serving) => {}
        }
        // Finishing a promotion keeps the epoch, and with it the stamp.
        self.install(next, version, now);
        self.view.record_read = true;
    }

    fn order_ended(&mut self, addr: &Endpoint, asked: Time, outcome: Outcome, now: Time) {
        let rest = self.view.limits.retry_after;
        let primary = self.view.state().is_some_and(|state| state.primary.addr == *addr);
        let Some(backend) = self.view.backends.get_mut(addr) else { return };
        let deed = backend.ordered.take();
        // What was asked before it took effect is void; where that is not known, what was asked before now. Its own look came
        // after that; a probe that was asked later may have been answered before it.
        let since = if let Outcome::Done(Some(_)) = outcome { asked } else { now };
        backend.stale_until = backend.stale_until.max(since);
        if let Outcome::Done(Some(_)) = outcome {
            backend.void_until = now;
        }
        backend.refused = None;
        if deed == Some(Deed::Attach) {
            backend.attach_ordered = Some(now);
        }
        backend.pause = paused_by(deed.as_ref(), &outcome, backend.pause, now);
        match outcome {
            Outcome::Done(_) if deed == Some(Deed::Release) => return self.released(true, now),
            Outcome::Done(seen) => {
                let stamps = matches!(deed, Some(Deed::Promote { .. } | Deed::Stamp) | None);
                if primary && stamps {
                    self.view.stamped = Some(now);
                    let role = seen.as_ref().map(|seen| &seen.role);
                    if let (Some(Role::Primary { .. }), Some(timeline)) = (role, &mut self.timeline) {
                        timeline.promoted.get_or_insert(now);
                    }
                }
                match seen {
                    Some(observation) => self.take(addr, asked, Arc::new(observation), now),
                    None => self.actions.push_back(Action::Look(addr.clone())),
                }
                return;
            }
            Outcome::Deposed(fence) => {
                let hint = match primary {
                    true => "",
                    false => "; if it belonged to another group, delete its key albireo:fence",
                };
                backend.refused =
                    Some(alloc::format!("it carries epoch {fence}, newer than the record{hint}"));
                backend.hold_until = now + rest;
                self.actions.push_back(Action::Reread);
            }
            Outcome::Refused(why) => {
                backend.refused = Some(why.to_string());
                let lasting = matches!(why, Refused::HoldsData | Refused::FenceUnreadable);
                backend.hold_until = now + if lasting { REFUSED_REST } else { rest };
                if primary && matches!(why, Refused::Candidate(_)) {
                    self.view.promotion_refused.get_or_insert(now);
                }
            }
            Outcome::Raced => {
                backend.hold_until = now + rest;
                self.actions.push_back(Action::Reread);
            }
            Outcome::Lost => backend.hold_until = now + rest,
            // It rests by itself, and must not hold up a stamp.
            Outcome::Rejected(why) if deed == Some(Deed::Tick) => backend.refused = Some(why),
            Outcome::Rejected(why) => {
                backend.refused = Some(why);
                backend.hold_until = now + REFUSED_REST;
            }
            Outcome::NoCredential(why) => {
                backend.refused = Some(why);
                self.view.limits.restart_guard = false;
            }
        }
        self.actions.push_back(Action::Look(addr.clone()));
    }

    /// Asks [`decide()`] and begins every step that is not under way or at rest.
    fn advance(&mut self, now: Time) {
        match self.view.primary_fault(now) {
            Some(_) => _ = self.fault_at.get_or_insert(now),
            None => self.fault_at = None,
        }
        self.tend_request(now);
        self.tend_edit(now);
        let Decision { steps, because } = decide(&self.view, now);
        for step in steps {
            match step {
                Step::Answer(outcome) => self.answer(outcome),
                Step::Publish { next, announce } => self.publish(next, announce, now),
                Step::Order { backend, deed } => self.order(backend, deed, now),
                Step::Look(addr) => self.look(addr, now),
            }
        }
        if because != self.because {
            self.actions.push_back(Action::Say(because.clone()));
            self.because = because;
        }
        self.next_wake = self.deadlines(now);
    }

    fn publish(&mut self, mut next: State, announce: bool, now: Time) {
        let Some(reign) = self.view.reign else { return };
        if self.view.publishing || self.view.store_away || now < self.view.publish_hold {
            return;
        }
        // What has not been read is not overwritten.
        if announce && self.view.announced.0 == Announced::Unread {
            return;
        }
        if announce
            && self.edit != Some(self.view.announced.1)
            && let Some(edited) = self.view.edited().filter(|to| **to != next.primary.addr)
        {
            // Written while something else was under way, which puts its own there now.
            let busy = Some(Err(Declined::Busy));
            self.actions.push_back(Action::Edited(edited.clone(), busy));
        }
        let announce = announce.then(|| {
            let expected = match &self.view.announced {
                (Announced::Missing, _) => None,
                (Announced::Unread | Announced::Broken(_) | Announced::Is(_), version) => Some(*version),
            };
            next.path_version = expected.map_or(0, |version| version + 1);
            (next.topology(), expected)
        });
        let expected = match (self.view.record_damaged, &self.view.record) {
            (Some(-1), _) | (None, None) => None,
            (Some(version), _) => Some(version),
            (None, Some((_, version))) => Some(*version),
        };
        self.view.publishing = true;
        let topology = announce.as_ref().map(|(topology, _)| topology.clone());
        self.publications += 1;
        let number = self.publications;
        // Only a promotion is remembered with what it was made from.
        let old = self.view.state().filter(|old| old.promoted != next.promoted);
        let saw = old.map_or_else(Vec::new, |old| witnesses(&self.view, &old.primary.addr, now));
        let candidates = if saw.is_empty() { Vec::new() } else { self.view.candidates(now) };
        self.published = Some(UnderWay {
            number,
            next: next.clone(),
            topology,
            decided: now,
            candidates,
            saw,
            stands: false,
        });
        self.actions.push_back(Action::Publish(Publication { number, reign, next, expected, announce }));
    }

    fn order(&mut self, addr: Endpoint, deed: Deed, now: Time) {
        let (Some(reign), Some((record, version))) = (self.view.reign, &self.view.record) else { return };
        let (record, version) = (record.clone(), *version);
        let restart_guard = self.view.limits.restart_guard;
        let Some(backend) = self.view.backends.get_mut(&addr) else { return };
        if backend.ordered.is_some() || now < backend.hold_until {
            return;
        }
        if deed == Deed::Pause {
            backend.pause = Pause::Perhaps;
        }
        if deed == Deed::Tick {
            backend.ticked = Some((now, backend.seen.as_ref().map_or(0, |seen| seen.observation.offset)));
        }
        backend.ordered = Some(deed.clone());
        self.actions.push_back(Action::Order(Order {
            backend: addr,
            deed,
            record,
            version,
            reign,
            restart_guard,
        }));
    }

    fn look(&mut self, addr: Endpoint, now: Time) {
        let Some(backend) = self.view.backends.get_mut(&addr) else { return };
        let last = backend.asked_at.or(backend.seen.as_ref().map(|seen| seen.asked));
        if last.is_none_or(|last| now >= last + ASK_AGAIN) {
            backend.asked_at = Some(now);
            self.actions.push_back(Action::Look(addr));
        }
    }

    /// Moments at which the decision may change although nothing happens.
    fn deadlines(&self, now: Time) -> Option<Time> {
        let limits = &self.view.limits;
        // Whoever leads is not asked for his opinion.
        let silent_after = match self.view.reign {
            Some(_) => limits.down_after,
            None => limits.opinion_after(),
        };
        let backends = self.view.backends.values().flat_map(|b| {
            [
                b.detector.deadline(now, limits.down_after, limits.refused_grace),
                b.detector.deadline(now, silent_after, limits.refused_grace),
                b.unattached_since.map(|since| since + limits.attach_timeout),
                b.asked_at.map(|at| at + CONFIRM_WAIT),
                b.detector.troubled_since().map(|since| since + limits.down_after),
                b.advanced_at.map(|at| at + limits.down_after),
                b.behind_since.map(|at| at + limits.down_after),
                b.left_at.map(|at| at + limits.attach_timeout),
                b.unattached_since.map(|since| since + limits.down_after),
                b.unattached_since.map(|since| since + set::CALL_AGAIN),
                Some(b.role_since + switchover::LEVEL_WAIT),
                match b.pause {
                    Pause::Since(since) => Some(since + switchover::LEVEL_WAIT),
                    Pause::No | Pause::Perhaps => None,
                },
                Some(b.hold_until),
            ]
        });
        let confirming = matches!(self.because, Reason::Confirming(_) | Reason::PrimaryUnreachable);
        let primary =
            self.view.state().and_then(|state| self.view.health(&state.primary.addr, now).gone_since());
        let again = primary.filter(|since| confirming && now < *since + ASK_FOR).map(|_| now + ASK_AGAIN);
        // A mute peer is waited for (R10).
        let mute = primary.filter(|since| now >= *since).map(|since| since + limits.down_after);
        let cold = self.view.state().filter(|_| matches!(self.because, Reason::ColdStartWaits(_)));
        let cold = cold.and_then(|state| crate::cold::deadline(&self.view, state));
        let alone = primary.filter(|_| self.view.braked).map(|since| since + mass::ALONE_WAIT);
        let failover = self.view.last_failover.map(|last| last + limits.min_interval);
        let asked = self.view.asked.as_ref().map(|asked| asked.at + request::LIMIT);
        let budget = self.view.asked.as_ref().map(|asked| asked.at + limits.switchover_budget);
        let switching = (self.because == Reason::Switching).then(|| now + ASK_AGAIN);
        let release = self.view.releasing.as_ref().map(|(_, since)| *since + request::RELEASE_WAIT);
        let all = backends.chain([
            Some(self.view.publish_hold),
            again,
            mute,
            alone,
            cold,
            failover,
            asked,
            budget,
            switching,
            release,
        ]);
        all.flatten().filter(|at| *at > now).min()
    }
}

/// Whether a server's writers are held after an order to it ended.
fn paused_by(deed: Option<&Deed>, outcome: &Outcome, before: Pause, now: Time) -> Pause {
    match (deed, outcome) {
        (Some(Deed::Pause), Outcome::Done(_)) => Pause::Since(now),
        (Some(Deed::Pause), Outcome::Deposed(_) | Outcome::Refused(_)) => Pause::No,
        (Some(Deed::Unpause | Deed::Stamp | Deed::Promote { .. } | Deed::Attach), Outcome::Done(_)) => {
            Pause::No
        }
        (Some(Deed::Unpause), Outcome::Deposed(_) | Outcome::Refused(_)) => Pause::No, // not ours any more
        (Some(_) | None, _) => before,
    }
}
