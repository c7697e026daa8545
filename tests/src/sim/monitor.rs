//! The driver of one monitor, as `monitor/src/driver.rs` is: one input at a time goes to the core, what the core asks
//! for is done beside the loop. Here the tasks beside the loop are messages, so a stall or a crash falls between any
//! two of them.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use failover::lead::{Bid, Lead, Peer};
use failover::view::Announced;
use failover::{Action, Event as GroupEvent, Group, PeerOpinion, PublishOutcome, Reason, Stored, Time};
use topology::{Endpoint, LeaderRecord};

use super::client::{Call, Client, Phase};
use super::executor::Executor;
use super::flaw::Flaw;
use super::kernel::{Event, MS, Sim, Us, duration, say};
use super::net::Node;
use super::pair::Pair;
use super::plan::Plan;
use super::probe::Probe;
use super::store::{Answer, Content, Op, Path, Request};

/// What a monitor waits for.
#[derive(Debug)]
pub(super) enum Timer {
    /// The loop's own deadline.
    Loop,
    Pair,
    /// The store's client looks after its connection.
    Store,
    Attempt {
        server: usize,
        serial: u32,
    },
    AttemptOver {
        server: usize,
        conn: usize,
    },
    ProbeLate {
        server: usize,
        serial: u32,
        due: Us,
    },
    ProbeDue {
        server: usize,
        serial: u32,
    },
    ProbeSilent {
        server: usize,
        serial: u32,
    },
    OrderOver {
        server: usize,
        serial: u32,
    },
    /// A failed publication is told.
    PublicationFailed(u64),
    Register(u64),
    /// The leader record could not be read.
    ReadLeader,
    /// A task begins.
    Send {
        generation: Option<u64>,
        request: Request,
        call: Call,
    },
    /// A call that could not be sent ends.
    CallFailed(Call),
    /// An operator's question arrives.
    Asked(failover::Request),
    /// An order goes on.
    Act {
        server: usize,
        serial: u32,
    },
}

pub(super) struct Monitor {
    pub(super) up: bool,
    pub(super) life: u32,
    pub(super) stalled: bool,
    pub(super) stall: u32,
    pub(super) inbox: Vec<Event>,
    pub(super) name: &'static str,
    started: Us,
    /// When it last went on after it had stood still.
    pub(super) resumed_at: Us,
    pub(super) group: Group,
    pub(super) lead: Lead,
    pub(super) reign: Option<i32>,
    /// When that began or ended.
    pub(super) reigned_at: Us,
    /// When the loop meant to wake at the latest.
    planned: Us,
    next_beat: Us,
    wake: Us,
    beat: u64,
    pub(super) pair: Pair,
    pub(super) client: Client,
    pub(super) probes: Vec<Probe>,
    pub(super) executors: Vec<Executor>,
    /// The opinion that was last written, and the one of the peer as it was last read.
    written: Option<Rc<BTreeSet<Endpoint>>>,
    peer_says: Option<Rc<BTreeSet<Endpoint>>>,
    peer_there: bool,
    holder: Option<usize>,
    pub(super) last_publication: Option<Vec<Op>>,
}

impl Monitor {
    pub(super) fn new(at: usize, plan: &Plan) -> Self {
        let name = ["first", "second"][at];
        let record = LeaderRecord { name: name.into(), instance: "0".into() };
        Self {
            up: false,
            life: 0,
            stalled: false,
            stall: 0,
            inbox: Vec::new(),
            name,
            started: 0,
            resumed_at: 0,
            group: Group::new(name.into(), plan.limits.clone()),
            lead: Lead::new(record, plan.heartbeat, Peer::Active),
            reign: None,
            reigned_at: 0,
            planned: Us::MAX,
            next_beat: 0,
            wake: Us::MAX,
            beat: 0,
            pair: Pair::new(at, plan.heartbeat),
            client: Client::new(),
            probes: Vec::new(),
            executors: Vec::new(),
            written: None,
            peer_says: None,
            peer_there: false,
            holder: None,
            last_publication: None,
        }
    }

    /// This very process, as the leader record names it.
    pub(super) fn record(&self) -> LeaderRecord {
        LeaderRecord { name: self.name.into(), instance: self.life.to_string() }
    }

    /// The monitor's clock begins when its process does.
    pub(super) fn time(&self, now: Us) -> Time {
        duration(now - self.started)
    }

    pub(super) fn moment(&self, time: Time) -> Us {
        self.started + time.as_micros() as Us
    }
}

impl Sim {
    // -- the process ---------------------------------------------------------------------------------------------

    pub(super) fn monitor_rises(&mut self, at: usize, life: u32) {
        if self.monitors[at].up || self.monitors[at].life != life {
            return;
        }
        let mut new = Monitor::new(at, &self.plan);
        new.lead = Lead::new(
            LeaderRecord { name: new.name.into(), instance: life.to_string() },
            self.plan.heartbeat,
            Peer::Active,
        )
        .first(at == 0);
        (new.up, new.life, new.stall) = (true, life, self.monitors[at].stall);
        (new.started, new.next_beat) = (self.now, self.now);
        self.monitors[at] = new;
        say!(self, "m{at} starts");
        if self.flaw == Some(Flaw::AlwaysLeads) {
            self.group_event(at, GroupEvent::Reign(Some(0)));
        }
        self.start(at, 0, Timer::Pair);
        self.start(at, 0, Timer::Store);
        self.start(at, 0, Timer::Loop);
        self.monitors[at].wake = self.now;
    }

    pub(super) fn monitor_dies(&mut self, at: usize) {
        let monitor = &mut self.monitors[at];
        (monitor.up, monitor.stalled) = (false, false);
        monitor.life += 1;
        monitor.inbox.clear();
        self.close_all(Node::Monitor(at));
    }

    /// SIGTERM: gives up the lead and ends the session.
    pub(super) fn monitor_stops(&mut self, at: usize) {
        let m = &mut self.monitors[at];
        m.lead.leave();
        let (reign, generation) = (m.lead.reign(), m.client.registered);
        self.group_event(at, GroupEvent::Reign(None));
        if let Some(reign) = reign {
            let nobody = LeaderRecord { name: String::new(), instance: String::new() };
            let op = Op::Set(Path::Leader, Content::Leader(nobody), reign);
            self.call(at, generation, Request::Multi(vec![op]), Call::Nothing);
        }
        self.call(at, None, Request::Close, Call::Nothing);
        self.monitor_dies(at);
    }

    pub(super) fn monitor_stalls(&mut self, at: usize, length: Us) {
        let monitor = &mut self.monitors[at];
        monitor.stalled = true;
        monitor.stall += 1;
        let stall = monitor.stall;
        self.schedule(length, Event::MonitorResumes { monitor: at, stall });
    }

    pub(super) fn monitor_resumes(&mut self, at: usize, stall: u32) {
        let monitor = &mut self.monitors[at];
        if monitor.stalled && monitor.stall == stall {
            (monitor.stalled, monitor.resumed_at) = (false, self.now);
            say!(self, "m{at} goes on");
            for event in std::mem::take(&mut self.monitors[at].inbox) {
                self.dispatch(event);
            }
        }
    }

    /// A place at which a monitor may stop, for a while or for good. True if it is dead.
    pub(super) fn step(&mut self, at: usize, what: &str) -> bool {
        if self.plan.step_fault == 0 || self.healed.is_some() || !self.one_in(self.plan.step_fault) {
            return false;
        }
        if self.one_in(3) {
            say!(self, "m{at} dies before it {what}");
            self.monitor_dies(at);
            let (after, life) = (self.rng.u64(10..2000) * MS, self.monitors[at].life);
            self.schedule(after, Event::MonitorRises { monitor: at, life });
            return true;
        }
        say!(self, "m{at} stalls before it {what}");
        let length = self.rng.u64(5..2500) * MS;
        self.monitor_stalls(at, length);
        false
    }

    pub(super) fn start(&mut self, at: usize, after: Us, timer: Timer) {
        let Monitor { up, life, .. } = self.monitors[at];
        if up {
            self.schedule(after, Event::Timer { monitor: at, life, timer });
        }
    }

    pub(super) fn timer(&mut self, at: usize, timer: Timer) {
        match timer {
            Timer::Loop => {
                if self.now >= self.monitors[at].wake {
                    self.monitors[at].wake = Us::MAX;
                    self.turn(at, |_| {});
                }
            }
            Timer::Pair => self.pair_tick(at),
            Timer::Store => self.client_tick(at),
            Timer::Attempt { server, serial } => self.attempt(at, server, serial),
            Timer::AttemptOver { server, conn } => self.attempt_over(at, server, conn),
            Timer::ProbeLate { server, serial, due } => self.probe_late(at, server, serial, due),
            Timer::ProbeDue { server, serial } => self.probe_due(at, server, serial),
            Timer::ProbeSilent { server, serial } => self.probe_silent(at, server, serial),
            Timer::OrderOver { server, serial } => self.order_over(at, server, serial),
            Timer::PublicationFailed(number) => {
                self.group_input(at, GroupEvent::Published(number, PublishOutcome::Failed));
            }
            Timer::Register(generation) => self.register(at, generation),
            Timer::ReadLeader => self.call(at, None, Request::Get(Path::Leader), Call::ReadLeader),
            Timer::Send { generation, request, call } => self.call(at, generation, request, call),
            Timer::Asked(request) => self.asked_for(at, request),
            Timer::CallFailed(call) => self.returned(at, call, None),
            Timer::Act { server, serial } => self.act(at, server, serial),
        }
    }

    // -- the loop ------------------------------------------------------------------------------------------------

    /// One turn of the loop: notice a stall, take the input, do what is due.
    pub(super) fn turn(&mut self, at: usize, take: impl FnOnce(&mut Sim)) {
        self.notice_stall(at);
        take(self);
        self.due(at);
        if self.monitors[at].up && !self.monitors[at].stalled {
            self.set_wake(at);
        }
    }

    pub(super) fn group_input(&mut self, at: usize, event: GroupEvent) {
        self.turn(at, |sim| sim.group_event(at, event));
    }

    fn set_wake(&mut self, at: usize) {
        let m = &self.monitors[at];
        let group = m.group.poll_timeout().map(|time| m.moment(time));
        let lead = m.lead.deadline(m.time(self.now)).map(|time| m.moment(time));
        let due = [group, lead, Some(m.next_beat)].into_iter().flatten().min().unwrap_or(m.next_beat);
        let due = due.max(self.now);
        self.monitors[at].planned = due;
        if due < self.monitors[at].wake {
            self.monitors[at].wake = due;
            self.start(at, due - self.now, Timer::Loop);
        }
    }

    fn notice_stall(&mut self, at: usize) {
        let heartbeat = self.plan.heartbeat.as_micros() as Us;
        let down_after = self.plan.limits.down_after.as_micros() as Us;
        let m = &mut self.monitors[at];
        let late = self.now.saturating_sub(m.planned);
        if late > heartbeat.min(down_after / 4) && self.flaw != Some(Flaw::IgnoresStalls) {
            let time = m.time(self.now);
            m.lead.stalled(time);
            say!(self, "m{at} notices that it stood still");
            self.group_event(at, GroupEvent::Stalled);
        }
    }

    fn due(&mut self, at: usize) {
        let m = &self.monitors[at];
        if !m.up {
            return;
        }
        self.tend_lead(at);
        let m = &self.monitors[at];
        let time = m.time(self.now);
        if m.group.poll_timeout().is_some_and(|due| due <= time) {
            self.group_event(at, GroupEvent::Tick);
        }
        if self.now >= self.monitors[at].next_beat {
            self.monitors[at].next_beat = self.now + self.plan.heartbeat.as_micros() as Us;
            self.beat(at);
            self.write_opinion(at);
        }
    }

    /// Hands an event to the core and does what it asks for.
    pub(super) fn group_event(&mut self, at: usize, event: GroupEvent) {
        if !self.monitors[at].up {
            return;
        }
        let now = self.monitors[at].time(self.now);
        self.monitors[at].group.handle(event, now);
        let mut actions = VecDeque::new();
        while let Some(action) = self.monitors[at].group.poll_action() {
            actions.push_back(action);
        }
        self.tend_probes(at);
        let life = self.monitors[at].life;
        for action in actions {
            if self.monitors[at].life == life {
                self.perform(at, action);
            }
        }
    }

    fn perform(&mut self, at: usize, action: Action) {
        let lead = self.monitors[at].lead.reign();
        match action {
            Action::Publish(publication) => {
                if lead != Some(publication.reign) {
                    let epoch = publication.next.epoch;
                    self.broken(format!("passive m{at} wants to publish epoch {epoch}"));
                }
                let number = publication.number;
                match self.flawed_publication(at, publication) {
                    Some(publication) => {
                        self.judge_decision(at, &publication.next);
                        self.publish(at, publication);
                    }
                    None => self.publication_dropped(at, number),
                }
            }
            Action::Order(order) => {
                if lead != Some(order.reign) {
                    self.broken(format!("passive m{at} orders {:?} at {}", order.deed, order.backend));
                }
                say!(self, "m{at} orders {} at {} [{}]", deed(&order), order.backend, order.record.epoch);
                self.take_order(at, order);
            }
            Action::Look(addr) => self.look_now(at, super::redis::index(&addr)),
            Action::Reread => {
                for path in [Path::Paused, Path::State, Path::Announcement] {
                    self.call(at, None, Request::Get(path), Call::Reread(path));
                }
            }
            Action::Say(reason) => {
                if let Reason::Failover(..) = reason {
                    self.counts.failovers += 1;
                }
                say!(self, "m{at}: {reason}");
                self.flawed_wait(at, &reason);
            }
            Action::Completed(timeline) => say!(self, "m{at} completed {}", timeline.epoch),
            Action::Answer(number, outcome) => self.judge_answer(at, number, outcome),
            Action::Edited(to, outcome) => self.judge_edit(at, &to, outcome),
        }
    }

    fn publish(&mut self, at: usize, publication: failover::group::Publication) {
        let mut ops = vec![Op::Check(Path::Leader, publication.reign)];
        let record = Content::State(Rc::new(publication.next));
        ops.push(match publication.expected {
            Some(version) => Op::Set(Path::State, record, version),
            None => Op::Create(Path::State, record, false),
        });
        if let Some((topology, expected)) = publication.announce {
            let topology = Content::Announcement(Rc::new(topology));
            ops.push(match expected {
                Some(version) => Op::Set(Path::Announcement, topology, version),
                None => Op::Create(Path::Announcement, topology, false),
            });
        }
        let generation = self.monitors[at].client.registered;
        let ops = self.flawed_checks(ops);
        self.monitors[at].last_publication = Some(ops.clone());
        if self.step(at, "publishes") {
            return;
        }
        let call = Call::Publish(publication.number);
        self.start(at, 0, Timer::Send { generation, request: Request::Multi(ops), call });
    }

    // -- the lead ------------------------------------------------------------------------------------------------

    fn peer(&self, at: usize) -> Peer {
        let m = &self.monitors[at];
        match (m.pair.alive, m.pair.heard) {
            (true, Some(binary_star::State::Active)) => Peer::Active,
            (true, _) => Peer::NotActive,
            (false, None) if m.time(self.now) < 2 * self.plan.heartbeat => Peer::Active,
            (false, _) => Peer::Expired,
        }
    }

    fn tend_lead(&mut self, at: usize) {
        let (peer, now) = (self.peer(at), self.monitors[at].time(self.now));
        let m = &mut self.monitors[at];
        let active = m.pair.state == binary_star::State::Active;
        m.lead.pair(peer, active);
        self.follow_holder(at);
        let m = &mut self.monitors[at];
        if let Bid::Take(version) = m.lead.bid(now) {
            m.lead.trying(now);
            let (generation, me) = (m.client.registered, Content::Leader(m.record()));
            let op = match version {
                Some(version) => Op::Set(Path::Leader, me, version),
                None => Op::Create(Path::Leader, me, false),
            };
            say!(self, "m{at} tries to take the lead");
            self.call(at, generation, Request::Multi(vec![op]), Call::TakeLead);
        }
        self.settle_pair(at, active);
        let m = &mut self.monitors[at];
        let reign = m.lead.reign();
        if reign != m.reign {
            (m.reign, m.reigned_at) = (reign, self.now);
            say!(self, "m{at} reigns: {reign:?}");
            let told = if self.flaw == Some(Flaw::AlwaysLeads) { Some(reign.unwrap_or(0)) } else { reign };
            self.group_event(at, GroupEvent::Reign(told));
            if let Some(reign) = reign {
                self.flawed_reign(at, reign);
            }
        }
    }

    fn settle_pair(&mut self, at: usize, active: bool) {
        let m = &self.monitors[at];
        let leads = m.lead.reign().is_some();
        if leads && !active {
            self.vote(at, binary_star::Lead::Won);
        } else if active && !leads && (m.lead.held_by_other() || m.client.registered.is_none()) {
            self.vote(at, binary_star::Lead::Lost);
        }
    }

    fn follow_holder(&mut self, at: usize) {
        let m = &self.monitors[at];
        let holder = m.lead.holder().map(|name| usize::from(name == "second"));
        if holder == m.holder {
            return;
        }
        self.monitors[at].holder = holder;
        if let Some(holder) = holder {
            self.watch(at, Path::Monitor(holder));
        }
    }

    pub(super) fn lead_taken(&mut self, at: usize, answer: Option<Answer>) {
        let now = self.monitors[at].time(self.now);
        let m = &mut self.monitors[at];
        match answer {
            Some(Answer::Done(versions)) => {
                let record = Some((m.record(), versions.first().copied().unwrap_or(0)));
                m.lead.record(record);
            }
            _ => {
                m.lead.failed(now);
                self.call(at, None, Request::Get(Path::Leader), Call::ReadLeader);
            }
        }
    }

    fn beat(&mut self, at: usize) {
        let m = &mut self.monitors[at];
        if m.reign.is_none() {
            return;
        }
        m.beat += 1;
        let record = Content::Monitor { instance: m.life.to_string(), beat: m.beat };
        let generation = m.client.registered;
        let op = Op::Set(Path::Monitor(at), record, -1);
        self.call(at, generation, Request::Multi(vec![op]), Call::Nothing);
    }

    // -- opinions ------------------------------------------------------------------------------------------------

    pub(super) fn pass_opinion(&mut self, at: usize) {
        let m = &self.monitors[at];
        let said = match &m.peer_says {
            _ if !m.pair.alive || self.breaks(Flaw::NoSecondOpinion) => PeerOpinion::Gone,
            Some(said) if m.peer_there => PeerOpinion::CannotReach((**said).clone()),
            Some(_) | None => PeerOpinion::Mute,
        };
        if m.group.view().peer != said {
            self.group_event(at, GroupEvent::Peer(said));
        }
    }

    fn write_opinion(&mut self, at: usize) {
        let m = &mut self.monitors[at];
        let Some(generation) = m.client.registered else { return };
        let (view, now) = (m.group.view(), m.time(self.now));
        let unreachable = view.unreachable(now);
        let speechless = m.written.is_none() && !view.knows_all(now);
        if speechless || m.written.as_deref() == Some(&unreachable) {
            return;
        }
        let said = Rc::new(unreachable);
        m.written = Some(said.clone());
        let op = Op::Set(Path::Opinion(at), Content::Opinion(said), -1);
        self.call(at, Some(generation), Request::Multi(vec![op]), Call::WriteOpinion);
    }

    pub(super) fn opinion_written(&mut self, at: usize, answer: Option<Answer>) {
        use super::store::Failure;
        match (answer, self.monitors[at].written.clone()) {
            (Some(Answer::Done(_)), _) => {}
            (Some(Answer::Failed(Failure::Absent)), Some(said)) => {
                let generation = self.monitors[at].client.registered;
                let op = Op::Create(Path::Opinion(at), Content::Opinion(said), true);
                self.call(at, generation, Request::Multi(vec![op]), Call::WriteOpinion);
            }
            (_, _) => self.monitors[at].written = None,
        }
    }

    pub(super) fn forget_opinion(&mut self, at: usize) {
        self.monitors[at].written = None;
    }

    // -- what is read in the store -------------------------------------------------------------------------------

    /// A followed znode was read, or read again.
    pub(super) fn followed(&mut self, at: usize, path: Path, found: Option<(Content, i32)>) {
        match path {
            Path::Leader => {
                let record = leader(found);
                self.monitors[at].lead.record(record);
            }
            Path::State => {
                let event = self.flawed_event(state_event(found));
                self.group_event(at, event);
            }
            Path::Announcement => self.group_event(at, announcement_event(found)),
            Path::Paused => self.group_event(at, GroupEvent::Paused(found.is_some())),
            Path::Monitor(of) => {
                let beat = found.and_then(|(content, _)| match content {
                    Content::Monitor { instance, beat } => Some((instance, beat)),
                    _ => None,
                });
                if of != at {
                    self.monitors[at].peer_there = beat.is_some();
                    self.pass_opinion(at);
                }
                let now = self.monitors[at].time(self.now);
                let beat = beat.filter(|_| self.flaw != Some(Flaw::IgnoresBeats));
                if self.monitors[at].holder == Some(of) {
                    self.monitors[at].lead.beat(beat, now);
                }
            }
            Path::Opinion(_) => {
                self.monitors[at].peer_says = found.and_then(|(content, _)| match content {
                    Content::Opinion(said) => Some(said),
                    _ => None,
                });
                self.pass_opinion(at);
            }
        }
    }

    /// What is read of the record, as the core is told.
    pub(super) fn flawed_event(&self, event: GroupEvent) -> GroupEvent {
        match event {
            GroupEvent::State(Stored::Is(state), version) => {
                GroupEvent::State(Stored::Is(self.flawed_record(state)), version)
            }
            event => event,
        }
    }

    pub(super) fn session_changed(&mut self, at: usize) {
        let m = &mut self.monitors[at];
        let (phase, generation) = (m.client.phase, m.client.generation);
        say!(self, "m{at}'s session {generation} is {phase:?}");
        self.group_event(at, GroupEvent::Store(phase == Phase::Connected));
        let m = &mut self.monitors[at];
        let alive = matches!(phase, Phase::Connected | Phase::Disconnected);
        if !alive || m.client.registered.is_some_and(|registered| registered != generation) {
            m.client.registered = None;
            if self.flaw != Some(Flaw::KeepsReign) {
                m.lead.session(false);
            }
        }
        let register = phase == Phase::Connected && m.client.registered != Some(generation);
        if register {
            self.register(at, generation);
        }
    }

    /// Makes our ephemeral znode, as long as it takes.
    pub(super) fn register(&mut self, at: usize, generation: u64) {
        let m = &self.monitors[at];
        if m.client.generation != generation || m.client.registered == Some(generation) {
            return;
        }
        let record = Content::Monitor { instance: m.life.to_string(), beat: m.beat };
        let op = Op::Create(Path::Monitor(at), record, true);
        self.call(at, Some(generation), Request::Multi(vec![op]), Call::Register(generation));
    }

    pub(super) fn registered(&mut self, at: usize, generation: u64, answer: Option<Answer>) {
        use super::store::Failure;
        match answer {
            Some(Answer::Done(_) | Answer::Failed(Failure::Exists { ours: true })) => {
                let m = &mut self.monitors[at];
                if m.client.generation == generation
                    && matches!(m.client.phase, Phase::Connected | Phase::Disconnected)
                {
                    m.client.registered = Some(generation);
                    m.lead.session(true);
                    self.forget_opinion(at);
                    self.call(at, Some(generation), Request::Get(Path::Leader), Call::ReadLeader);
                }
            }
            _ => self.start(at, 100 * MS, Timer::Register(generation)),
        }
    }
}

pub(super) fn leader(found: Option<(Content, i32)>) -> Option<(LeaderRecord, i32)> {
    let nobody = LeaderRecord { name: String::new(), instance: String::new() };
    found.map(|(content, version)| match content {
        Content::Leader(record) => (record, version),
        _ => (nobody, version),
    })
}

pub(super) fn state_event(found: Option<(Content, i32)>) -> GroupEvent {
    match found {
        None => GroupEvent::State(Stored::Absent, -1),
        Some((Content::State(state), version)) => GroupEvent::State(Stored::Is((*state).clone()), version),
        Some((_, version)) => GroupEvent::State(Stored::Damaged("junk".into()), version),
    }
}

pub(super) fn announcement_event(found: Option<(Content, i32)>) -> GroupEvent {
    match found {
        None => GroupEvent::Announced(Announced::Missing, -1),
        Some((Content::Announcement(topology), version)) => {
            GroupEvent::Announced(Announced::Is((*topology).clone()), version)
        }
        Some((_, version)) => GroupEvent::Announced(Announced::Broken("junk".into()), version),
    }
}

fn deed(order: &failover::Order) -> &'static str {
    match order.deed {
        failover::Deed::Promote { .. } => "promote",
        failover::Deed::Stamp => "stamp",
        failover::Deed::Attach => "attach",
        failover::Deed::Protect => "protect",
        failover::Deed::Detach => "detach",
        failover::Deed::Release => "release",
        failover::Deed::Tick => "tick",
        failover::Deed::Pause => "pause",
        failover::Deed::Leave => "leave",
        failover::Deed::Unpause => "unpause",
    }
}

/// What a period of the core is in virtual time.
pub(super) fn period(of: Duration) -> Us {
    of.as_micros() as Us
}
