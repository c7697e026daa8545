//! Redis Sentinel under some of the same faults, so that a reader sees the difference. Nothing is asserted about what
//! it loses: the rows compare.
//!
//! Three servers, three sentinels and six clients, each kind on hosts of its own. A client asks the sentinels for the
//! primary, makes sure with ROLE, and writes there; a write counts as acknowledged when that server has said OK, which
//! is what clients of Sentinel rely on. When its connection breaks or the server is none to write to, it asks again.
//! Sentinel is tuned to be quick: a server is down after a second.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, io};

use super::stage::{CLIENTS, REDIS, stored};
use super::table::Row;
use super::traffic::{Action, Door, GivenBy, Outcome, Record, Seat, Traffic};
use super::verdict::{judge, longest_gap};
use super::{Finished, LIMIT, Plan, message};
use crate::netns::{Cut, Hosts};
use crate::process::Start;
use crate::redis::{Redis, Settings};
use crate::resp::{Connection, Reply};
use crate::{Host, Process, WorkDir, wait};

const SENTINELS: [&str; 3] = ["s0", "s1", "s2"];
const SEATS: [&str; 3] = ["c0", "c1", "c2"];
/// How a sentinel watches; the rest is as Redis comes.
const TUNED: &str = "\
sentinel down-after-milliseconds main 1000
sentinel failover-timeout main 5000
sentinel parallel-syncs main 1
";
/// How long a sentinel may take to answer a client, and a server to be connected to.
const ASK_LIMIT: Duration = Duration::from_millis(500);
/// How long a server may take to answer a client.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long Sentinel may take to put everything in order again.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);

/// One fault.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name, in the table and for `ONLY=`.
    pub name: &'static str,
    /// The host whose clients are cut off with the primary.
    pub cut: Option<&'static str>,
    act: fn(&mut Stage, &Traffic, u64, Duration),
}

/// Those that Albireo has rows for, too.
pub const ALL: &[Scenario] = &[
    Scenario { name: "sentinel-primary-killed", cut: None, act: primary_killed },
    Scenario { name: "sentinel-primary-and-client-cut-off", cut: Some(SEATS[0]), act: cut_off },
    Scenario { name: "sentinel-primary-restarts-empty", cut: None, act: restarts_empty },
];

/// Runs all rounds, each on servers of its own. A round that panicked is the last one; the row says so.
pub fn run(scenario: &Scenario, plan: Plan) -> Row {
    let mut row = Row::new(scenario.name, "nothing: to compare with", plan.seed);
    for number in 0..plan.rounds {
        let plan = Plan { seed: plan.seed.wrapping_add(number), ..plan };
        match catch_unwind(AssertUnwindSafe(|| one_round(scenario, plan, number))) {
            Ok(finished) => {
                println!("{}, round {number}: {}", scenario.name, finished.verdict);
                row.add(finished);
            }
            Err(panic) => {
                row.broken.push(format!("seed {}, round {number}: {}", plan.seed, message(panic.as_ref())));
                return row;
            }
        }
    }
    row
}

fn one_round(scenario: &Scenario, plan: Plan, number: u64) -> Finished {
    let mut stage = Stage::new();
    let name = format!("{}-{number}", scenario.name);
    let traffic = Traffic::start(&name, &stage.seats(), plan.seed);
    traffic.wait_for_writes(100, LIMIT);
    let begun = traffic.began().elapsed();
    (scenario.act)(&mut stage, &traffic, number, plan.lasts);
    let healed = Instant::now();
    let primary = wait::until("Sentinel's servers in order", SETTLE_LIMIT, || stage.order());
    let (converged, ended) = (healed.elapsed(), traffic.began().elapsed());
    traffic.wait_for_writes(50, LIMIT);
    let history = traffic.stop();
    let stored = stored(&stage.redis[primary], &history);
    let mut verdict = judge(&history, &stored, None);
    assert!(verdict.acknowledged > 0, "nothing was acknowledged: nothing is measured");
    verdict.failovers = stage.failovers();
    // Those who are cut off with the old primary write on; it is the others who wait.
    let waits = |record: &&Record| scenario.cut != Some(SEATS[record.client % SEATS.len()]);
    verdict.gap = longest_gap(history.iter().filter(waits));
    let lost_of = |from: Duration, to: Duration| {
        let own = |record: &&Record| record.action == Action::WriteOwn && record.is_acknowledged();
        let own: Vec<&Record> = history.iter().filter(own).collect();
        let then: Vec<_> = own.iter().filter(|r| r.returned > from && r.returned <= to).collect();
        let lost = then.iter().filter(|record| !stored.contains_key(&record.key)).count();
        format!("{lost} of {} lost", then.len())
    };
    let (before, since) = (lost_of(Duration::ZERO, begun), lost_of(begun, ended));
    let figures = vec![format!("before the fault {before}, until all was in order {since}")];
    Finished { verdict, converged, figures }
}

fn primary_killed(stage: &mut Stage, traffic: &Traffic, _: u64, _: Duration) {
    let old = stage.primary();
    stage.redis[old].kill();
    wait::until("a failover", SETTLE_LIMIT, || wait::holds(stage.failovers() > 0, || "none".to_owned()));
    traffic.wait_for_writes(100, LIMIT);
    stage.redis[old].restart_empty();
}

fn cut_off(stage: &mut Stage, _: &Traffic, _: u64, lasts: Duration) {
    let old = stage.primary();
    stage.hosts.isolate(&[REDIS[old], SEATS[0]], Cut::Drop);
    sleep(lasts.min(Duration::from_secs(10)));
    stage.hosts.heal();
}

fn restarts_empty(stage: &mut Stage, traffic: &Traffic, number: u64, _: Duration) {
    let away = super::scenarios::away(number);
    let old = stage.primary();
    stage.redis[old].kill();
    sleep(away);
    stage.redis[old].restart_empty();
    traffic.wait_for_writes(100, LIMIT);
}

/// What is hurt.
struct Stage {
    redis: Vec<Redis>,
    sentinels: Vec<Sentinel>,
    hosts: Hosts,
}

impl Stage {
    /// Everything up, and every sentinel knows the replicas and the other sentinels.
    fn new() -> Self {
        let names: Vec<&str> = REDIS.into_iter().chain(SENTINELS).chain(SEATS).collect();
        let hosts = Hosts::new(&names);
        let mut redis: Vec<Redis> = Vec::new();
        for name in REDIS {
            let settings = Settings::on(&hosts.host(name));
            redis.push(match redis.first() {
                Some(primary) => settings.replica_of(primary.addr()).start(),
                None => settings.start(),
            });
        }
        let primary = redis[0].addr();
        for replica in &redis[1..] {
            wait::until("a replica's link", LIMIT, || {
                wait::holds(replica.follows() == Some(primary.to_string()), || "down".to_owned())
            });
        }
        let sentinels = SENTINELS.map(|name| Sentinel::start(&hosts.host(name), primary)).into();
        let stage = Self { redis, sentinels, hosts };
        for sentinel in &stage.sentinels {
            wait::until("a sentinel that knows all", SETTLE_LIMIT, || sentinel.knows_all());
        }
        stage
    }

    fn seats(&self) -> Vec<Arc<dyn Seat>> {
        let sentinels: Vec<SocketAddr> = self.sentinels.iter().map(|sentinel| sentinel.addr).collect();
        let seat = |at: usize| -> Arc<dyn Seat> {
            let host = self.hosts.host(SEATS[at % SEATS.len()]);
            Arc::new(SentinelSeat { host, sentinels: sentinels.clone() })
        };
        (0..CLIENTS * SEATS.len()).map(seat).collect()
    }

    /// The server that the sentinels name.
    #[track_caller]
    fn primary(&self) -> usize {
        wait::until("a primary", LIMIT, || self.named())
    }

    fn named(&self) -> Result<usize, String> {
        let Sentinel { host, addr, .. } = &self.sentinels[0];
        let named = ask(host, *addr).map_err(|e| e.to_string())?;
        let found = self.redis.iter().position(|redis| redis.addr() == named);
        found.ok_or_else(|| format!("{named} is no server of ours"))
    }

    /// The primary, if the others follow it.
    fn order(&self) -> Result<usize, String> {
        let primary = self.named()?;
        let addr = self.redis[primary].addr().to_string();
        wait::holds(self.redis[primary].is_primary(), || format!("{addr} is none"))?;
        for (at, redis) in self.redis.iter().enumerate().filter(|(at, _)| *at != primary) {
            let follows = redis.follows();
            wait::holds(follows.as_ref() == Some(&addr), || format!("{} follows {follows:?}", REDIS[at]))?;
        }
        Ok(primary)
    }

    /// How often a sentinel says that the primary has changed.
    fn failovers(&self) -> usize {
        let count = |sentinel: &Sentinel| sentinel.process.log().matches("+switch-master").count();
        self.sentinels.iter().map(count).max().unwrap_or(0)
    }
}

struct Sentinel {
    host: Host,
    addr: SocketAddr,
    process: Process,
}

impl Sentinel {
    fn start(host: &Host, primary: SocketAddr) -> Self {
        let (name, port) = (format!("sentinel-{}", host.name()), host.free_port());
        let dir = WorkDir::new(&name);
        let (ip, file) = (host.ip(), dir.join("sentinel.conf"));
        let watched = format!("sentinel monitor main {} {} 2", primary.ip(), primary.port());
        let text = format!("bind {ip}\nport {port}\nprotected-mode no\n{watched}\n{TUNED}");
        fs::write(&file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let binary = std::env::var_os("TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let mut command = Command::new(binary);
        command.arg(&file).arg("--sentinel");
        let process = Process::start(Start { name: &name, command, host, dir: &dir });
        let process = process.unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        Self { host: host.clone(), addr: host.at(port), process }
    }

    fn knows_all(&self) -> Result<(), String> {
        let mut connection = Connection::open(&self.host, self.addr, ASK_LIMIT).map_err(|e| e.to_string())?;
        let shown = connection.call(&["SENTINEL", "MASTER", "main"]).map_err(|e| e.to_string())?;
        let Reply::List(shown) = shown else { return Err(format!("{shown:?}")) };
        let has = |field: &str, value: &str| {
            shown.chunks(2).any(|pair| match pair {
                [Reply::Text(name), Reply::Text(text)] => name == field && text == value,
                _ => false,
            })
        };
        let all = has("num-slaves", "2") && has("num-other-sentinels", "2") && has("flags", "master");
        wait::holds(all, || format!("{shown:?}"))
    }
}

/// Whom this sentinel takes for the primary.
fn ask(host: &Host, sentinel: SocketAddr) -> io::Result<SocketAddr> {
    let mut connection = Connection::open(host, sentinel, ASK_LIMIT)?;
    connection.set_limit(ASK_LIMIT)?;
    let named = connection.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"])?;
    let parsed = match &named {
        Reply::List(pair) => match pair.as_slice() {
            [Reply::Text(ip), Reply::Text(port)] => format!("{ip}:{port}").parse().ok(),
            _ => None,
        },
        Reply::Text(_) | Reply::Error(_) | Reply::Number(_) | Reply::Nil => None,
    };
    parsed.ok_or_else(|| io::Error::other(format!("{named:?}")))
}

#[derive(Debug, Clone)]
struct SentinelSeat {
    host: Host,
    sentinels: Vec<SocketAddr>,
}

impl Seat for SentinelSeat {
    fn open(&self) -> Box<dyn Door> {
        Box::new(SentinelDoor { seat: self.clone(), connection: None })
    }

    /// There is no such thing.
    fn reads_strongly(&self) -> bool {
        false
    }
}

struct SentinelDoor {
    seat: SentinelSeat,
    connection: Option<Connection>,
}

impl Door for SentinelDoor {
    fn request(&mut self, action: Action, key: &str, value: u64) -> (Outcome, GivenBy) {
        let mut connection = match self.connection.take().map_or_else(|| self.connect(), Ok) {
            Ok(connection) => connection,
            Err(e) => return (Outcome::Failed(format!("no primary: {e}")), None),
        };
        let (key, value) = (format!("k:{key}"), value.to_string());
        let reply = match action {
            Action::Write | Action::WriteOwn => connection.call(&["SET", &key, &value]),
            Action::Read | Action::ReadStrong => connection.call(&["GET", &key]),
        };
        let outcome = match reply {
            // What cannot be had here may be had at another server: the next request asks for it.
            Ok(Reply::Error(why)) => return (Outcome::Failed(why), None),
            Err(e) => return (Outcome::Unknown(e.to_string()), None),
            Ok(Reply::Text(text)) => outcome_of(action, &text),
            Ok(Reply::Nil) => Outcome::Done(None),
            Ok(other @ (Reply::Number(_) | Reply::List(_))) => Outcome::Nonsense(format!("{other:?}")),
        };
        self.connection = Some(connection);
        (outcome, None)
    }
}

impl SentinelDoor {
    /// A connection to a server that a sentinel names and that says itself that it is a primary.
    fn connect(&self) -> io::Result<Connection> {
        let mut last = io::Error::other("there are no sentinels");
        for sentinel in &self.seat.sentinels {
            let tried = ask(&self.seat.host, *sentinel).and_then(|addr| {
                let mut connection = Connection::open(&self.seat.host, addr, ASK_LIMIT)?;
                connection.set_limit(ANSWER_LIMIT)?;
                let role = connection.call(&["ROLE"])?;
                let master = Reply::Text("master".to_owned());
                let is_primary = matches!(&role, Reply::List(fields) if fields.first() == Some(&master));
                if is_primary { Ok(connection) } else { Err(io::Error::other(format!("{addr}: {role:?}"))) }
            });
            match tried {
                Ok(connection) => return Ok(connection),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

fn outcome_of(action: Action, text: &str) -> Outcome {
    match action {
        Action::Write | Action::WriteOwn if text == "OK" => Outcome::Done(None),
        Action::Write | Action::WriteOwn => Outcome::Nonsense(text.to_owned()),
        Action::Read | Action::ReadStrong => text
            .parse()
            .map_or_else(|_| Outcome::Nonsense(text.to_owned()), |value| Outcome::Done(Some(value))),
    }
}
