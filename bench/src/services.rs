//! Many services on one pair of monitors: what they cost while nothing happens, how soon a death is seen among them, how
//! long a start takes, and many deaths at once. Their Redis servers are played ([`crate::stub`]): thousands of real ones do
//! not fit. A row with as many real ones as fit shows that the played ones tell the truth.
//!
//! `BENCH_SERVICES=1,100` measures these sizes, by default 1, 100, 1000, 3000 and 50 real ones; one after the other in each of
//! `BENCH_ROUNDS` rounds, of which a row has all figures. A p99 is that of one round.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use topology::{Endpoint, Layout, Phase, State};
use world::programs::{Ini, Launch, Program};
use world::redis::{Redis, Settings};
use world::resp::{Connection, Reply};
use world::zookeeper::ZooKeeper;
use world::{Host, ports, wait};

use crate::figures::{Clockwork, Measure, Series, Table, load};
use crate::stub;

/// All services are children of it, and are found there.
const PARENT: &str = "/bench";
/// The longest that anything may take.
const LIMIT: Duration = Duration::from_secs(120);
/// For how long nothing happens.
const IDLE: Duration = Duration::from_secs(30);
/// Services of one stub process: it needs up to eight descriptors for each.
const PER_STUB: usize = 1000;
/// So many records are read at once while services settle.
const READ_AT_ONCE: usize = 100;
/// `ping_interval_ms` and `down_after_ms`: the defaults, but for sizes that two cores cannot ask ten times a second while they
/// also play the servers.
const DETECTOR: (u64, u64) = (100, 500);
const DETECTOR_OF_MANY: (u64, u64) = (300, 1500);
/// More services than that are many.
const MANY: usize = 1000;
/// The first part of 127/8 that stubs use.
const FIRST_PART: u8 = 101;

/// The servers of services: number n has the primary 2n, to begin with, and the replica 2n + 1.
enum Servers {
    Played(Vec<Stub>),
    Real(Vec<Redis>),
}

/// A process that plays servers.
struct Stub {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    part: u8,
    port: u16,
}

impl Drop for Stub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stub {
    fn start(part: u8, services: usize) -> Self {
        let (port, me) = (ports::free(), std::env::current_exe().expect("this program"));
        let mut command = Command::new(me);
        command.args([stub::WORD, &part.to_string(), &port.to_string(), &(2 * services).to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a stub");
        let orders = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut stub = Self { child, orders, answers, part, port };
        assert_eq!(stub.answer(), "ready");
        stub
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a line of the stub");
        line.trim_end().to_owned()
    }

    fn tell(&mut self, line: &str) -> String {
        writeln!(self.orders, "{line}").expect("a pipe to the stub");
        self.answer()
    }

    fn order(&mut self, verb: &str, servers: &[usize]) {
        let numbers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(self.tell(&format!("{verb} {}", numbers.join(" "))), "done");
    }

    /// What happened since the last call: milliseconds, the server, what.
    fn events(&mut self) -> Vec<(f64, usize, String)> {
        let line = self.tell("events");
        let one = |event: &str| {
            let mut words = event.split(' ');
            let (at, server, what) = (words.next()?, words.next()?, words.next()?);
            Some((at.parse::<f64>().ok()? / 1e3, server.parse().ok()?, what.to_owned()))
        };
        line.split(',').filter_map(one).collect()
    }
}

impl Servers {
    fn played(services: usize) -> Self {
        let counts = (0..services).step_by(PER_STUB).map(|from| PER_STUB.min(services - from));
        Self::Played((FIRST_PART..).zip(counts).map(|(part, count)| Stub::start(part, count)).collect())
    }

    fn real(services: usize) -> Self {
        let pair = |_| {
            let primary = Settings::default().start();
            let replica = Settings::default().replica_of(primary.addr()).start();
            [primary, replica]
        };
        Self::Real((0..services).flat_map(pair).collect())
    }

    fn address(&self, server: usize) -> String {
        match self {
            Self::Played(stubs) => {
                let stub = &stubs[server / (2 * PER_STUB)];
                stub::address(stub.part, stub.port, server % (2 * PER_STUB)).to_string()
            }
            Self::Real(servers) => servers[server].addr().to_string(),
        }
    }

    /// The stub that plays these, and their numbers there. All must be of one.
    fn stub(&mut self, servers: &[usize]) -> (&mut Stub, Vec<usize>) {
        let Self::Played(stubs) = self else { panic!("real servers") };
        let number = servers[0] / (2 * PER_STUB);
        (&mut stubs[number], servers.iter().map(|server| server % (2 * PER_STUB)).collect())
    }

    fn kill(&mut self, servers: &[usize]) {
        match self {
            Self::Played(_) => {
                let (stub, numbers) = self.stub(servers);
                stub.order("kill", &numbers);
            }
            Self::Real(all) => servers.iter().for_each(|server| all[*server].kill()),
        }
    }

    fn hang(&mut self, server: usize) {
        match self {
            Self::Played(_) => {
                let (stub, numbers) = self.stub(&[server]);
                stub.order("hang", &numbers);
            }
            Self::Real(all) => all[server].pause(),
        }
    }

    /// Another process, and empty, in place of each of these.
    fn revive(&mut self, servers: &[usize]) {
        match self {
            Self::Played(_) => {
                let (stub, numbers) = self.stub(servers);
                stub.order("kill", &numbers);
                stub.order("revive", &numbers);
            }
            Self::Real(all) => servers.iter().for_each(|server| all[*server].restart_empty()),
        }
    }

    /// Processor time of the processes that play, in seconds.
    fn cpu(&self) -> f64 {
        match self {
            Self::Played(stubs) => stubs.iter().map(|stub| cpu(stub.child.id())).sum(),
            Self::Real(_) => f64::NAN,
        }
    }
}

/// Processor time of a process so far, in seconds.
fn cpu(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) / 100.0 // clock ticks per second, on every Linux
}

/// Resident memory of a process, in MiB.
fn resident(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// Packets that loopback has carried.
fn packets() -> f64 {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.unwrap_or(f64::NAN)
}

/// A pair of monitors and what it watches.
struct Fleet {
    monitors: Vec<Program>,
    servers: Servers,
    zookeeper: ZooKeeper,
    services: usize,
}

impl Fleet {
    /// Everything but the monitors.
    fn new(servers: Servers, services: usize) -> Self {
        let zookeeper = ZooKeeper::start();
        let child = |service: usize| {
            let (primary, replica) = (servers.address(2 * service), servers.address(2 * service + 1));
            (name(service), format!("{{\"primary\": \"{primary}\", \"secondary\": [\"{replica}\"]}}"))
        };
        zookeeper.create_all(PARENT, &(0..services).map(child).collect::<Vec<_>>());
        Self { monitors: Vec::new(), servers, zookeeper, services }
    }

    fn start_monitors(&mut self) {
        let host = Host::local();
        let port = || host.at(ports::free());
        let pair = [port(), port()];
        for (number, role) in ["primary", "backup"].into_iter().enumerate() {
            let http = port();
            let ini = Ini::new()
                .set("zookeeper", "hosts", self.zookeeper.hosts())
                .set("zookeeper", "discover", PARENT)
                .set("binary_star", "role", role)
                .set("binary_star", "bind", format!("tcp://{}", pair[number]))
                .set("binary_star", "peer", format!("tcp://{}", pair[1 - number]))
                .set("binary_star", "voter", format!("tcp://{}", port()))
                .set("detector", "ping_interval_ms", self.detector().0)
                .set("detector", "down_after_ms", self.detector().1)
                .set("admin", "listen", http);
            let name = format!("monitor-{number}");
            let launch = Launch { kind: "monitor", name: &name, host: &host, ini: &ini, env: &[], http };
            self.monitors.push(Program::start(&launch));
        }
    }

    /// `ping_interval_ms` and `down_after_ms`.
    fn detector(&self) -> (u64, u64) {
        if self.services > MANY { DETECTOR_OF_MANY } else { DETECTOR }
    }

    fn ready(&mut self) {
        self.monitors.iter_mut().for_each(|monitor| monitor.wait_until_ready(LIMIT));
    }

    fn records(&self, services: impl Iterator<Item = usize>) -> Vec<Result<State, String>> {
        let layout = Layout::new("/albireo".parse().expect("a path"));
        let path = |service| layout.state(&format!("{PARENT}/{}", name(service)).parse().expect("a path"));
        let read = self.zookeeper.get_all(&services.map(path).collect::<Vec<_>>());
        read.into_iter()
            .map(|found| State::from_json(&found.ok_or("no record")?.data).map_err(|e| e.to_string()))
            .collect()
    }

    /// Waits until each of these services has its replica in sync, and the replica the stamp of its entry: before that it could
    /// not take over (R6), and whoever is killed then is not replaced.
    fn settled(&mut self, services: &[usize]) {
        let settled = |record: &Result<State, String>| {
            record.as_ref().is_ok_and(|state| match state.in_sync.as_slice() {
                [member] if state.phase == Phase::Serving => fence(&member.addr) >= Some(member.since),
                _ => false,
            })
        };
        let mut left = services.to_vec();
        wait::until("all services in order", LIMIT, || {
            // To read the records of thousands again and again would be a load of its own.
            let some: Vec<usize> = left.iter().copied().take(READ_AT_ONCE).collect();
            let records = self.records(some.iter().copied());
            let ill: Vec<_> = some.into_iter().zip(records).filter(|(_, record)| !settled(record)).collect();
            if !ill.is_empty() {
                sleep(Duration::from_millis(100));
            }
            left = ill
                .iter()
                .map(|(service, _)| *service)
                .chain(left.split_off(left.len().min(READ_AT_ONCE)))
                .collect();
            wait::holds(left.is_empty(), || {
                format!("{} of {} are not; {:?}", left.len(), services.len(), ill.first())
            })
        });
    }

    /// What a monitor's processor time, and ZooKeeper's, has been: the active monitor, the passive one, ZooKeeper.
    fn cpus(&mut self) -> [f64; 3] {
        let active = self.active();
        let of = |program: &mut Program| cpu(program.process().id());
        let first = of(&mut self.monitors[active]);
        let second = of(&mut self.monitors[1 - active]);
        [first, second, cpu(self.zookeeper.process().id())]
    }

    fn active(&self) -> usize {
        let active = |monitor: &Program| monitor.metric("albireo_active") == Some(1.0);
        wait::until("an active monitor", LIMIT, || self.monitors.iter().position(active).ok_or("none"))
    }

    /// Requests that ZooKeeper has received.
    fn requests(&self) -> f64 {
        let answer = self.zookeeper.word("srvr").expect("ZooKeeper");
        let line = answer.lines().find_map(|line| line.strip_prefix("Received: "));
        line.and_then(|number| number.parse().ok()).expect("a number")
    }

    /// What the history tells of the failover that made the present primary of a service one. It is written after all is over.
    fn last_failover(&self, service: usize) -> Value {
        let layout = Layout::new("/albireo".parse().expect("a path"));
        let path = format!("{PARENT}/{}", name(service)).parse().expect("a path");
        wait::until("a failover in the history", LIMIT, || {
            let promoted = self.records([service].into_iter())[0].clone()?.promoted;
            let history = self.zookeeper.get(&layout.history(&path)).ok_or("no history")?.json();
            let found = history.as_array().into_iter().flatten().find(|record| record["what"] == "failover");
            let found = found.filter(|record| record["epoch"] == promoted);
            found.cloned().ok_or_else(|| format!("nothing of epoch {promoted}"))
        })
    }
}

fn name(service: usize) -> String {
    format!("s{service:04}")
}

/// Figures by their name, in order.
#[derive(Default)]
struct Figures {
    rows: Vec<Measure>,
    loads: Series,
    stolen: Series,
}

type Goal = (&'static str, fn(f64) -> bool);
const NONE: Goal = ("none", |_| true);

impl Figures {
    /// What one round has come to, beside what earlier ones have.
    fn add(&mut self, services: &str, what: &str, unit: &'static str, figures: Vec<f64>, goal: Goal) {
        let row = self.row(services, what, unit, goal);
        figures.into_iter().for_each(|figure| row.figures.add(figure));
        println!("{}: median so far {:.2} {unit}", row.what, row.figures.median());
    }

    /// How often something happened in all rounds together.
    fn count(&mut self, services: &str, what: &str, times: usize, goal: Goal) {
        let row = self.row(services, what, "times", goal);
        let before = if row.figures.len() == 0 { 0.0 } else { row.figures.median() };
        row.figures = Series::default();
        row.figures.add(before + times as f64);
        println!("{}: {}", row.what, row.figures.median());
    }

    fn row(&mut self, services: &str, what: &str, unit: &'static str, goal: Goal) -> &mut Measure {
        let what = format!("{services}: {what}");
        let at = match self.rows.iter().position(|row| row.what == what) {
            Some(at) => at,
            None => {
                // One run's worth of names; a table is printed once.
                self.rows.push(Measure { what: String::leak(what), unit, figures: Series::default(), goal });
                self.rows.len() - 1
            }
        };
        &mut self.rows[at]
    }
}

fn quantile(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (share * sorted.len().saturating_sub(1) as f64).ceil() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

pub(crate) fn run() -> Table {
    let wanted = std::env::var("BENCH_SERVICES").unwrap_or_else(|_| "1,100,1000,3000,real 50".to_owned());
    let rounds = std::env::var("BENCH_ROUNDS").ok();
    let rounds: usize = rounds.map_or(5, |text| text.parse().expect("BENCH_ROUNDS is a number")).max(1);
    let mut figures = Figures::default();
    for size in (0..rounds).flat_map(|_| wanted.split(',')) {
        figures.loads.add(load());
        let began = Clockwork::now();
        match size.strip_prefix("real ") {
            Some(size) => measure(&mut figures, size.parse().expect("a number"), true),
            None => measure(&mut figures, size.parse().expect("a number"), false),
        }
        figures.stolen.add(Clockwork::now().stolen_since(began));
    }
    Table {
        name: "services",
        rows: Vec::new(),
        measures: figures.rows,
        loads: figures.loads,
        stolen: figures.stolen,
        conditions: format!(
            "{rounds} rounds, one primary and one replica each, idle and with default settings but for what a row says, found by \
             `discover`; monitors, ZooKeeper and the servers, real or played, share the machine"
        ),
    }
}

fn measure(figures: &mut Figures, services: usize, real: bool) {
    let servers = if real { Servers::real(services) } else { Servers::played(services) };
    let mut fleet = Fleet::new(servers, services);
    let label = match (real, fleet.detector()) {
        (true, _) => format!("{services} real"),
        (false, DETECTOR) => services.to_string(),
        (false, (ping, down)) => format!("{services}, ping_interval_ms {ping}, down_after_ms {down}"),
    };
    starts(figures, &label, &mut fleet);
    idle(figures, &label, &mut fleet);
    false_alarms(figures, &label, &mut fleet);
    kills(figures, &label, &mut fleet);
    silences(figures, &label, &mut fleet);
    if services >= 1000 {
        for share in [100, 400] {
            massacre(figures, &label, &mut fleet, share);
        }
    }
}

/// From the start of both monitors until both are ready: the first one, and one with everything recorded.
fn starts(figures: &mut Figures, label: &str, fleet: &mut Fleet) {
    for what in ["first start until ready", "start until ready"] {
        let begun = Instant::now();
        fleet.start_monitors();
        fleet.ready();
        figures.add(label, what, "s", vec![begun.elapsed().as_secs_f64()], NONE);
        fleet.settled(&(0..fleet.services).collect::<Vec<_>>());
        if what.starts_with("first") {
            figures.add(label, "first start until in sync", "s", vec![begun.elapsed().as_secs_f64()], NONE);
            for mut monitor in fleet.monitors.drain(..) {
                monitor.process().terminate(Duration::from_secs(10));
            }
        }
    }
}

/// What it costs while nothing happens.
fn idle(figures: &mut Figures, label: &str, fleet: &mut Fleet) {
    sleep(Duration::from_secs(3));
    let (before, played, requests, carried) =
        (fleet.cpus(), fleet.servers.cpu(), fleet.requests(), packets());
    let begun = Instant::now();
    sleep(IDLE);
    let took = begun.elapsed().as_secs_f64();
    let (after, carried) = (fleet.cpus(), packets() - carried);
    let share = |which: usize| vec![100.0 * (after[which] - before[which]) / took];
    let (limit, memory): (Goal, Goal) = match fleet.services {
        1 => (("<= 0.5", |share| share <= 0.5), ("<= 20", |mib| mib <= 20.0)),
        1000 => (("<= 50", |share| share <= 50.0), ("<= 256", |mib| mib <= 256.0)),
        _ => (NONE, NONE),
    };
    figures.add(label, "active monitor, % of a core", "%", share(0), limit);
    figures.add(label, "passive monitor, % of a core", "%", share(1), limit);
    figures.add(label, "ZooKeeper, % of a core", "%", share(2), NONE);
    let played = 100.0 * (fleet.servers.cpu() - played) / took;
    figures.add(label, "the played servers, % of a core", "%", vec![played], NONE);
    let active = fleet.active();
    for (what, number) in [("active", active), ("passive", 1 - active)] {
        let mib = resident(fleet.monitors[number].process().id());
        figures.add(label, &format!("{what} monitor, resident"), "MiB", vec![mib], memory);
    }
    let requests = (fleet.requests() - requests) / took;
    figures.add(label, "requests to ZooKeeper", "1/s", vec![requests], NONE);
    figures.add(label, "packets on loopback", "1/s", vec![carried / took], NONE);
}

/// What was promoted so far, though no primary had died: the monitors were too late for their own answers.
fn false_alarms(figures: &mut Figures, label: &str, fleet: &mut Fleet) {
    if let Servers::Played(stubs) = &mut fleet.servers {
        let events = stubs.iter_mut().flat_map(Stub::events);
        let promoted = events.filter(|(_, _, happened)| happened == "promoted").count();
        let what = "promoted without a death, until then, in all rounds";
        figures.count(label, what, promoted, ("0", |times| times == 0.0));
    }
}

/// The stamp that a server holds.
fn fence(server: &Endpoint) -> Option<u64> {
    let addr = format!("{}:{}", server.host(), server.port()).parse().ok()?;
    let mut connection = Connection::open(&Host::local(), addr, LIMIT).ok()?;
    let Reply::Text(epoch) = connection.call(&["GET", stub::FENCE]).ok()? else { return None };
    epoch.parse().ok()
}

/// Which server of a service is its primary.
fn primaries(fleet: &Fleet, services: &[usize]) -> Vec<usize> {
    let records = fleet.records(services.iter().copied());
    let number = |(service, record): (&usize, &Result<State, String>)| {
        let addr = record.as_ref().expect("a record").primary.addr.to_string();
        let found = [2 * service, 2 * service + 1].into_iter().find(|n| fleet.servers.address(*n) == addr);
        found.expect("a server of this service")
    };
    services.iter().zip(&records).map(number).collect()
}

/// Milliseconds from what was done to each of these primaries until its replica was promoted, in the stub's own time; of
/// real servers nothing, they are only waited for.
fn gaps(fleet: &mut Fleet, victims: &[usize], what: &str) -> Vec<f64> {
    if let Servers::Real(_) = fleet.servers {
        let services: Vec<usize> = victims.iter().map(|victim| victim / 2).collect();
        wait::until(&format!("others in place of those {what}"), LIMIT, || {
            let now = primaries(fleet, &services);
            wait::holds(now.iter().all(|server| !victims.contains(server)), || format!("{now:?}"))
        });
        return Vec::new();
    }
    let mut events: BTreeMap<usize, (Option<f64>, Option<f64>)> = BTreeMap::new();
    let mut strangers = Vec::new();
    wait::until(&format!("a promotion for each of those {what}"), LIMIT, || {
        let (stub, numbers) = fleet.servers.stub(victims);
        for (at, server, happened) in stub.events() {
            let service = events.entry(server / 2).or_default();
            match happened.as_str() {
                "promoted" if !numbers.contains(&(server ^ 1)) => strangers.push(server),
                "promoted" => service.1 = Some(at),
                _ => service.0 = Some(at),
            }
        }
        let promoted = events.values().filter(|(_, promoted)| promoted.is_some()).count();
        wait::holds(promoted >= victims.len(), || format!("{promoted} of {}", victims.len()))
    });
    assert!(strangers.is_empty(), "promoted by mistake: {strangers:?}");
    events.values().filter_map(|(begun, promoted)| Some((*promoted)? - (*begun)?)).collect()
}

/// The figure of a phase in the newest failover of each service.
fn phase(fleet: &Fleet, services: &[usize], phase: &str) -> Vec<f64> {
    services.iter().filter_map(|service| fleet.last_failover(*service)["phases"][phase].as_f64()).collect()
}

/// One primary after the other dies.
fn kills(figures: &mut Figures, label: &str, fleet: &mut Fleet) {
    let services = chosen(fleet.services, 50);
    let (mut took, mut told) = (Vec::new(), Vec::new());
    for service in &services {
        let victim = primaries(fleet, &[*service])[0];
        fleet.servers.kill(&[victim]);
        took.extend(gaps(fleet, &[victim], "killed"));
        told.extend(phase(fleet, &[*service], "promoted_ms"));
        fleet.servers.revive(&[victim]);
        fleet.settled(&[*service]);
        if services.len() > fleet.services {
            sleep(Duration::from_millis(1200)); // min_interval_ms
        }
    }
    if !took.is_empty() {
        spread(figures, label, "kill to promotion", took, NONE);
    }
    spread(figures, label, "closed connection to promotion, as the monitor tells it", told, NONE);
}

/// One primary after the other falls silent.
fn silences(figures: &mut Figures, label: &str, fleet: &mut Fleet) {
    let services: Vec<usize> =
        chosen(fleet.services, if fleet.services > 1 { 100 } else { 10 }).into_iter().rev().collect();
    let (mut over, mut took) = (Vec::new(), Vec::new());
    let at_once = (fleet.services / 20).clamp(1, 10);
    for some in services.chunks(at_once) {
        let victims = primaries(fleet, some);
        for victim in &victims {
            sleep(Duration::from_millis(7)); // not all at the same point of a round
            fleet.servers.hang(*victim);
        }
        took.extend(gaps(fleet, &victims, "silent"));
        let down_after_ms = fleet.detector().1 as f64;
        over.extend(phase(fleet, some, "detected_ms").into_iter().map(|ms| ms - down_after_ms));
        fleet.servers.revive(&victims);
        fleet.settled(some);
        sleep(Duration::from_millis(1000)); // min_interval_ms
    }
    let goal: Goal = match fleet.services {
        1000 => ("<= 20", |ms| ms <= 20.0),
        _ => NONE,
    };
    spread(figures, label, "silence: detection, beyond down_after_ms", over, goal);
    if !took.is_empty() {
        spread(figures, label, "silence to promotion", took, NONE);
    }
}

fn spread(figures: &mut Figures, label: &str, what: &str, took: Vec<f64>, goal: Goal) {
    let p99 = vec![quantile(&took, 0.99)];
    figures.add(label, what, "ms", took, NONE);
    figures.add(label, &format!("{what}, p99"), "ms", p99, goal);
}

/// So many services, spread over all of the first stub; a single one again and again.
fn chosen(services: usize, number: usize) -> Vec<usize> {
    let of = services.min(PER_STUB);
    match of {
        1 => vec![0; number.min(10)],
        _ => (0..number.min(of)).map(|n| n * of / number.min(of)).collect(),
    }
}

/// Many primaries die at once.
fn massacre(figures: &mut Figures, label: &str, fleet: &mut Fleet, victims: usize) {
    let services = chosen(fleet.services, victims);
    let victims = primaries(fleet, &services);
    let (stub, _) = fleet.servers.stub(&victims);
    stub.events();
    fleet.servers.kill(&victims);
    let took = gaps(fleet, &victims, "killed at once");
    let last = took.iter().copied().fold(0.0, f64::max);
    let goal: Goal = match (fleet.services, victims.len()) {
        (1000, 100) => ("<= 1000", |ms| ms <= 1000.0),
        _ => NONE,
    };
    let what = format!("{} primaries killed at once, until promotion", victims.len());
    spread(figures, label, &what, took, NONE);
    figures.add(label, &format!("{what}, the last"), "ms", vec![last], goal);
    sleep(Duration::from_secs(2));
    let announced = phase(fleet, &services, "announced_ms");
    figures.add(label, &format!("{what}, announced"), "ms", announced, NONE);
    fleet.servers.revive(&victims);
    fleet.settled(&services);
    sleep(Duration::from_secs(2));
}
