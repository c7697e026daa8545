//! Virtual time: a queue of events in one order, one source of random numbers, and the trace.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::api::{Api, Timer as ApiTimer};
use super::flaw::Flaw;
use super::monitor::{Monitor, Timer};
use super::net::{ACCEPTOR, Body, ConnId, Net, Node, Purpose};
use super::operator::Desk;
use super::oracle::Oracle;
use super::plan::{Plan, Weather};
use super::redis::{Keeps, Server};
use super::store::Store;
use super::{Counts, End, Run};

/// Microseconds of virtual time.
pub(super) type Us = u64;

pub(super) const MS: Us = 1000;

/// Something that happens at a moment.
#[derive(Debug)]
pub(super) enum Event {
    /// The first packet of a connection reaches the host.
    Syn(ConnId),
    /// A packet reaches this end of a connection.
    Packet {
        conn: ConnId,
        end: usize,
        body: Body,
    },
    /// What a cut held back arrives.
    Release {
        conn: ConnId,
        end: usize,
    },
    /// The process takes it in.
    Delivered {
        conn: ConnId,
        end: usize,
        body: Body,
    },
    /// A heartbeat reaches a monitor.
    Heartbeat {
        to: usize,
        state: binary_star::State,
    },
    /// A timer of a monitor, started in that life of it.
    Timer {
        monitor: usize,
        life: u32,
        timer: Timer,
    },
    /// A stalled monitor goes on.
    MonitorResumes {
        monitor: usize,
        stall: u32,
    },
    /// A dead monitor starts.
    MonitorRises {
        monitor: usize,
        life: u32,
    },
    /// The replication cron of a server process.
    Cron {
        server: usize,
        run: u32,
    },
    /// See [`Sim::rest_of_exec`].
    RestOfExec {
        server: usize,
        run: u32,
        conn: ConnId,
        order: Box<failover::Order>,
        commands: Vec<failover::Command>,
    },
    /// The time for which writers were held is over.
    WritersGoOn {
        server: usize,
        run: u32,
    },
    /// A paused server goes on.
    ServerResumes {
        server: usize,
        pause: u32,
    },
    /// A dead server starts, and keeps so much.
    ServerRises {
        server: usize,
        run: u32,
    },
    /// The store looks for sessions that are over.
    StoreTick,
    /// The store answers again.
    StoreRises(u32),
    /// A client asks for something.
    Client(usize),
    /// What it asks for reaches its API process.
    Request {
        api: usize,
        life: u32,
        number: usize,
    },
    Deadline {
        api: usize,
        life: u32,
        number: usize,
    },
    ApiTimer {
        api: usize,
        life: u32,
        timer: ApiTimer,
    },
    ApiResumes {
        api: usize,
        stall: u32,
    },
    ApiRises {
        api: usize,
        life: u32,
    },
    /// An API process reads the record.
    View {
        api: usize,
        life: u32,
    },
    /// The next fault.
    Fault,
    /// Some faults, right after a publication.
    Strike,
    /// All servers die; see [`super::plan::Dark`].
    Blackout,
    /// One server dies, keeps so much, and is back after that long.
    Dies {
        server: usize,
        keeps: Keeps,
        after: Us,
    },
    /// The operator asks for something.
    Operator,
    /// See [`Plan::ambush`].
    PrepareAmbush,
    Ambush,
    CutEnds {
        from: Node,
        to: Node,
    },
    /// A cut or a slow link ends.
    Mend {
        from: Node,
        to: Node,
    },
    /// All faults end.
    Heal,
    /// Is everything as recorded?
    Look,
}

/// The whole world of one run.
pub(super) struct Sim {
    pub(super) seed: u64,
    pub(super) now: Us,
    queue: BinaryHeap<Reverse<(Us, u64, usize)>>,
    slots: Vec<Option<Event>>,
    free: Vec<usize>,
    sequence: u64,
    pub(super) rng: fastrand::Rng,
    pub(super) plan: Plan,
    pub(super) flaw: Option<Flaw>,
    pub(super) net: Net,
    pub(super) servers: Vec<Server>,
    pub(super) store: Store,
    pub(super) monitors: Vec<Monitor>,
    pub(super) apis: Vec<Api>,
    /// What each client waits for.
    pub(super) clients: Vec<Option<usize>>,
    /// Markers are never drawn twice.
    pub(super) markers: u32,
    /// How far an ambush is that comes once.
    pub(super) sprung: u8,
    pub(super) oracle: Oracle,
    pub(super) desk: Desk,
    /// Replication ids are never drawn twice.
    pub(super) next_replid: u32,
    pub(super) counts: Counts,
    pub(super) healed: Option<Us>,
    pub(super) end: Option<End>,
    pub(super) failure: Option<String>,
    pub(super) trace: Option<Vec<String>>,
}

/// Adds a line to the trace, formatted only where a trace is kept.
macro_rules! say {
    ($sim:expr, $($what:tt)*) => {
        if $sim.trace.is_some() {
            let line = format!($($what)*);
            $sim.note(line);
        }
    };
}
pub(super) use say;

impl Sim {
    pub(super) fn new(seed: u64, flaw: Option<Flaw>, weather: Weather, tracing: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = Plan::draw(&mut rng, flaw, weather);
        let mut servers: Vec<Server> = (0..plan.servers).map(Server::new).collect();
        let store = Store::new(&servers);
        if plan.operator.is_some_and(|operator| operator.spare) {
            servers.push(Server::spare(plan.servers));
        }
        Self {
            seed,
            now: 0,
            queue: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            rng,
            flaw,
            net: Net::new(),
            store,
            monitors: (0..2).map(|at| Monitor::new(at, &plan)).collect(),
            apis: (0..plan.apis).map(|_| Api::new(plan.lanes)).collect(),
            clients: vec![None; plan.apis * plan.clients],
            markers: 0,
            sprung: 0,
            servers,
            plan,
            oracle: Oracle::new(),
            desk: Desk::new(seed),
            next_replid: 10,
            counts: Counts::default(),
            healed: None,
            end: None,
            failure: None,
            trace: tracing.then(Vec::new),
        }
    }

    pub(super) fn run(mut self) -> Run {
        self.begin();
        while self.failure.is_none() && self.end.is_none() {
            let Some(Reverse((at, _, slot))) = self.queue.pop() else { break };
            self.now = at;
            self.counts.events += 1;
            self.free.push(slot);
            if let Some(event) = self.slots[slot].take() {
                self.dispatch(event);
                self.check();
            }
        }
        self.judge_history();
        self.counts.void += u64::from(self.oracle.void);
        if let Some(why) = &self.failure {
            let line = format!("BROKEN: {why}");
            say!(self, "{line}");
        }
        let end = if self.failure.is_some() { End::Broken } else { self.end.unwrap_or(End::Broken) };
        Run {
            seed: self.seed,
            failure: self.failure,
            end,
            counts: self.counts,
            trace: self.trace.unwrap_or_default(),
        }
    }

    fn begin(&mut self) {
        for server in 0..self.servers.len() {
            self.server_starts(server);
        }
        for monitor in 0..self.monitors.len() {
            let after = self.rng.u64(0..100 * MS);
            self.schedule(after, Event::MonitorRises { monitor, life: 0 });
        }
        for api in 0..self.apis.len() {
            self.schedule(0, Event::ApiRises { api, life: 0 });
        }
        for client in 0..self.clients.len() {
            let after = self.rng.u64(0..=self.plan.write_every);
            self.schedule(after, Event::Client(client));
        }
        self.schedule(100 * MS, Event::StoreTick);
        self.schedule(self.plan.calm, Event::Fault);
        if self.plan.ambush.is_some() {
            self.schedule(self.plan.calm, Event::PrepareAmbush);
        }
        if self.plan.operator.is_some() {
            self.schedule(self.plan.calm / 2, Event::Operator);
        }
        if self.plan.dark.is_some() {
            let after = self.rng.u64(0..self.plan.storm / 3);
            self.schedule(self.plan.calm + after, Event::Blackout);
        }
        self.schedule(self.plan.calm + self.plan.storm, Event::Heal);
    }

    /// Something happens after this long.
    pub(super) fn schedule(&mut self, after: Us, event: Event) {
        self.sequence += 1;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                self.slots.len() - 1
            }
        };
        self.queue.push(Reverse((self.now + after, self.sequence, slot)));
    }

    pub(super) fn note(&mut self, line: String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>5}.{:03} {line}", now / 1000, now % 1000));
        }
    }

    pub(super) fn broken(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    /// True once in so many times.
    pub(super) fn one_in(&mut self, times: u32) -> bool {
        self.rng.u32(0..times) == 0
    }

    /// What a stopped process would have done is kept until it goes on.
    pub(super) fn dispatch(&mut self, event: Event) {
        let event = match self.addressee(&event) {
            Some(Node::Monitor(at)) if self.monitors[at].stalled => {
                self.monitors[at].inbox.push(event);
                return;
            }
            Some(Node::Api(at)) if self.apis[at].stalled || self.api_stops(at) => {
                self.apis[at].inbox.push(event);
                return;
            }
            Some(Node::Server(at)) if self.servers[at].paused => {
                // The kernel accepts; the process hears of it later.
                self.servers[at].inbox.push(event);
                return;
            }
            _ => event,
        };
        match event {
            Event::Syn(conn) => self.syn(conn),
            Event::Packet { conn, end, body } => {
                if let Some(body) = self.arrives(conn, end, body) {
                    self.dispatch(Event::Delivered { conn, end, body });
                }
            }
            Event::Release { conn, end } => self.release(conn, end),
            Event::Delivered { conn, end, body } => {
                if let Some(body) = self.taken(conn, end, body) {
                    self.packet(conn, end, body);
                }
            }
            Event::Heartbeat { to, state } => self.heartbeat(to, state),
            Event::Timer { monitor, life, timer } => {
                if self.monitors[monitor].life == life && self.monitors[monitor].up {
                    self.timer(monitor, timer);
                }
            }
            Event::MonitorResumes { monitor, stall } => self.monitor_resumes(monitor, stall),
            Event::MonitorRises { monitor, life } => self.monitor_rises(monitor, life),
            Event::Cron { server, run } => self.cron(server, run),
            Event::RestOfExec { server, run, conn, order, commands } => {
                if self.servers[server].up && self.servers[server].run == run {
                    self.rest_of_exec(server, conn, order, commands);
                }
            }
            Event::WritersGoOn { server, run } => {
                if self.servers[server].up && self.servers[server].run == run {
                    self.writers_go_on(server);
                }
            }
            Event::ServerResumes { server, pause } => self.server_resumes(server, pause),
            Event::ServerRises { server, run } => self.server_rises(server, run),
            Event::StoreTick => self.store_tick(),
            Event::StoreRises(number) => self.store_rises(number),
            Event::Client(client) => self.client_asks(client),
            Event::Request { api, life, number } => {
                if self.apis[api].up && self.apis[api].life == life {
                    self.request(api, number);
                }
            }
            Event::Deadline { api, life, number } => {
                if self.apis[api].life == life {
                    self.deadline(number);
                }
            }
            Event::ApiTimer { api, life, timer } => {
                if self.apis[api].up && self.apis[api].life == life {
                    self.api_time(api, timer);
                }
            }
            Event::ApiResumes { api, stall } => self.api_resumes(api, stall),
            Event::ApiRises { api, life } => self.api_rises(api, life),
            Event::View { api, life } => self.read_view(api, life),
            Event::Fault => self.fault(),
            Event::Strike => self.strike(),
            Event::Blackout => self.blackout(),
            Event::Operator => self.operator(),
            Event::Dies { server, keeps, after } => {
                if self.healed.is_none() {
                    self.kill(server, keeps, after);
                }
            }
            Event::PrepareAmbush => self.prepare_ambush(),
            Event::Ambush => self.ambush(),
            Event::CutEnds { from, to } => self.set_cut(from, to, false),
            Event::Mend { from, to } => self.mend(from, to),
            Event::Heal => self.heal(),
            Event::Look => self.look_whether_healed(),
        }
    }

    fn addressee(&self, event: &Event) -> Option<Node> {
        match event {
            Event::Syn(conn) => {
                let [from, to] = self.net.conns[*conn].ends;
                (!self.net.is_cut(from, to)).then_some(to)
            }
            Event::Delivered { conn, end, .. } => Some(self.net.conns[*conn].ends[*end]),
            Event::Timer { monitor, .. } => Some(Node::Monitor(*monitor)),
            Event::Heartbeat { to, .. } => Some(Node::Monitor(*to)),
            Event::Cron { server, .. } => Some(Node::Server(*server)),
            Event::Request { api, .. } | Event::Deadline { api, .. } | Event::ApiTimer { api, .. } => {
                Some(Node::Api(*api))
            }
            _ => None,
        }
    }

    fn syn(&mut self, conn: ConnId) {
        let entry = &self.net.conns[conn];
        let ([from, to], alive) = (entry.ends, entry.open[0]);
        if self.net.is_cut(from, to) {
            return; // sent again after a second, when the opener has given up
        }
        let who = match to {
            Node::Server(at) if self.servers[at].up => Some(self.servers[at].run_id.clone()),
            Node::Store if self.store.up => Some(String::new()),
            _ => None,
        };
        let Some(who) = who.filter(|_| alive) else {
            self.net.conns[conn].open[ACCEPTOR] = true;
            self.send(conn, ACCEPTOR, Body::Refused);
            self.net.conns[conn].open[ACCEPTOR] = false;
            return;
        };
        self.net.conns[conn].open[ACCEPTOR] = true;
        self.send(conn, ACCEPTOR, Body::Accepted(who));
    }

    fn packet(&mut self, conn: ConnId, end: usize, body: Body) {
        let purpose = self.net.conns[conn].purpose;
        if end == ACCEPTOR {
            match (purpose, body) {
                (Purpose::Store { monitor }, Body::ToStore(call, request)) => {
                    self.store_request(conn, monitor, call, request);
                }
                (Purpose::Store { .. }, _) => {}
                (_, Body::ToServer(request)) => self.server_request(conn, request),
                (Purpose::Replication { .. }, Body::Fin) => self.replica_left(conn),
                (_, _) => {}
            }
            return;
        }
        match purpose {
            Purpose::Probe { monitor, server } => self.probe_packet(monitor, server, conn, body),
            Purpose::Orders { monitor, server } => self.order_packet(monitor, server, conn, body),
            Purpose::Store { monitor } => self.store_packet(monitor, conn, body),
            Purpose::Replication { replica } => self.replica_packet(replica, conn, body),
            Purpose::Lane { api, lane } => self.api_packet(api, Some(lane), conn, body),
            Purpose::Settle { api } => self.api_packet(api, None, conn, body),
            Purpose::Stranger => {}
        }
    }
}

pub(super) fn duration(us: Us) -> Duration {
    Duration::from_micros(us)
}
