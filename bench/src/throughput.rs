//! How many requests a second: the API against webdis, both under `wrk`, and redis-benchmark as what the server itself
//! can do.
//!
//! Both are asked in the form in which a GET does everything: `/api/v1/write/KEY?value=VALUE` and `/SET/KEY/VALUE`, with
//! the same key and value. webdis runs from the file that its package brings, but for addresses and logging, at a
//! server of its own without a replica: it has nothing like a sync write.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use world::http::{self, Request};
use world::redis::Redis;
use world::{Host, Process, WorkDir, wait};

use crate::durabilities::both_durabilities;
use crate::figures::{Clockwork, Comparison, Measure, Series, Table, load};

/// Many short ones: what disturbs a shared machine for some seconds meets both sides of a round, or few rounds.
const ROUNDS: usize = 11;
const SECONDS: usize = 2;
const KEY: &str = "bench:1";
const VALUE: &str = "sixteen-bytes-ok";
const LIMIT: Duration = Duration::from_secs(20);
/// Where the package of webdis puts its file.
const WEBDIS_FILE: &str = "/etc/webdis/webdis.json";

/// One thing that is asked of one of the servers, and what came out.
struct Side {
    name: &'static str,
    url: String,
    /// The process that answers.
    process: u32,
    rate: Series,
    p99: Series,
    /// Its processor time per request, in microseconds: what it costs, however busy the machine is.
    cost: Series,
}

impl Side {
    fn of(name: &'static str, (addr, process): (SocketAddr, u32), path: &str) -> Self {
        let none = Series::default;
        Self { name, url: format!("http://{addr}{path}"), process, rate: none(), p99: none(), cost: none() }
    }

    fn measure(&mut self) {
        let before = busy_ticks(self.process);
        let Said { rate, p99, requests } = wrk(&self.url);
        let ticks = busy_ticks(self.process) - before;
        self.rate.add(rate);
        self.p99.add(p99);
        self.cost.add(ticks * TICK_US / requests);
    }
}

/// The kernel counts a process's time in hundredths of a second.
const TICK_US: f64 = 1e4;

fn busy_ticks(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let behind = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    behind.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
}

pub(crate) fn run() -> Table {
    let mut group = both_durabilities();
    let alone = Redis::start();
    let webdis = Webdis::start(alone.addr());
    let [sync, plain] = [0, 1].map(|number: usize| {
        let api = &mut group.apis[number];
        (api.http(), api.process().id())
    });
    let other = (webdis.addr, webdis.process.id());

    let (write, read) = (format!("/api/v1/write/{KEY}?value={VALUE}"), format!("/api/v1/get/{KEY}"));
    let (set, get) = (format!("/SET/{KEY}/{VALUE}"), format!("/GET/{KEY}"));
    let mut sides = [
        Side::of("webdis SET", other, &set),
        Side::of("async SET", plain, &write),
        Side::of("sync SET", sync, &write),
        Side::of("webdis GET", other, &get),
        Side::of("GET", sync, &read),
    ];
    let mut limits = [Series::default(), Series::default()];
    let (mut loads, mut stolen) = (Series::default(), Series::default());
    for round in 0..ROUNDS {
        loads.add(load());
        let began = Clockwork::now();
        for turn in 0..sides.len() {
            sides[(round + turn) % 5].measure();
        }
        let [gets, sets] = &mut limits;
        gets.add(redis_benchmark(alone.addr(), "get"));
        sets.add(redis_benchmark(alone.addr(), "set"));
        stolen.add(Clockwork::now().stolen_since(began));
    }
    drop(webdis);
    let [webdis_set, plain, sync, webdis_get, get] = sides;
    let goal = (">= 1.5", (|ratio| ratio >= 1.5) as fn(f64) -> bool);
    let confirmed = (">= 1.0", (|ratio| ratio >= 1.0) as fn(f64) -> bool);
    let mut rows = compare("GET", &get, &webdis_get, goal);
    rows.extend(compare("async SET", &plain, &webdis_set, goal));
    rows.extend(compare("sync SET, confirmed by one replica", &sync, &webdis_set, confirmed));
    rows.sort_by_key(|row| row.unit);
    let [gets, sets] = limits;
    let limit = |what, figures| Measure { what, unit: "requests/s", figures, goal: ("none", |_| true) };
    Table {
        name: "throughput",
        rows,
        measures: vec![
            limit("redis-benchmark -c 64, GET, no HTTP", gets),
            limit("redis-benchmark -c 64, SET, no HTTP", sets),
        ],
        loads,
        stolen,
        conditions: format!(
            "loopback, {ROUNDS} alternated rounds of {SECONDS} s each with wrk -t2 -c64 on the same machine; all as GET \
             requests, one key, values of {} bytes; ours with one replica, webdis with {} threads as its package sets it, and \
             without a replica",
            VALUE.len(),
            webdis_threads()
        ),
    }
}

/// Requests a second, and how long the slowest hundredth takes.
fn compare(
    what: &'static str,
    ours: &Side,
    webdis: &Side,
    goal: (&'static str, fn(f64) -> bool),
) -> Vec<Comparison> {
    let row = |unit, of: fn(&Side) -> &Series, goal| Comparison {
        what,
        unit,
        ours: (ours.name, of(ours).clone()),
        base: (webdis.name, of(webdis).clone()),
        goal,
    };
    vec![
        row("requests/s", |side| &side.rate, goal),
        row(
            "us of processor time per request, of API and webdis alone",
            |side| &side.cost,
            ("none", |_| true),
        ),
        row("us, the p99 of each round", |side| &side.p99, ("none", |_| true)),
    ]
}

/// What a run of `wrk` told.
struct Said {
    /// Requests a second.
    rate: f64,
    /// The 99th percentile of their times, in microseconds.
    p99: f64,
    requests: f64,
}

/// One run. A request that fails ends the benchmark.
fn wrk(url: &str) -> Said {
    let said = output(Command::new("wrk").args(["-t2", "-c64", &format!("-d{SECONDS}s"), "--latency", url]));
    let clean = !said.contains("Non-2xx") && !said.contains("Socket errors");
    assert!(clean, "wrk {url}: requests failed:\n{said}");
    let behind = |label: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(label));
        line.map(str::trim).unwrap_or_else(|| panic!("wrk {url}: no `{label}` in:\n{said}"))
    };
    let rate = behind("Requests/sec:").parse().expect("a rate");
    let all =
        said.lines().find(|line| line.contains(" requests in ")).and_then(|l| l.split_whitespace().next());
    let requests =
        all.and_then(|all| all.parse().ok()).unwrap_or_else(|| panic!("wrk {url}: no count:\n{said}"));
    Said { rate, p99: micros(behind("99%")), requests }
}

/// `1.23ms` in microseconds.
fn micros(text: &str) -> f64 {
    let digits = text.trim_end_matches(|c: char| c.is_alphabetic());
    let unit = match &text[digits.len()..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        other => panic!("a time in `{other}`"),
    };
    digits.parse::<f64>().expect("a time") * unit
}

/// The same clients without pipelining: requests a second.
fn redis_benchmark(addr: SocketAddr, what: &str) -> f64 {
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let fixed = ["-c", "64", "-n", "50000", "-d", "16", "--csv", "-t", what, "-h", &ip, "-p", &port];
    let said = output(Command::new("redis-benchmark").args(fixed));
    let row = said.lines().find(|line| line.to_lowercase().starts_with(&format!("\"{what}\"")));
    let rate = row.and_then(|row| row.split(',').nth(1)?.trim_matches('"').parse().ok());
    rate.unwrap_or_else(|| panic!("redis-benchmark: no rate in:\n{said}"))
}

fn output(command: &mut Command) -> String {
    let ended = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&ended.stderr));
    said
}

/// webdis, stopped whatever happens.
struct Webdis {
    addr: SocketAddr,
    process: Process,
}

impl Webdis {
    fn start(redis: SocketAddr) -> Self {
        let dir = WorkDir::new("webdis");
        let addr = Host::local().at(Host::local().free_port());
        let mut file = packaged();
        file["http_host"] = addr.ip().to_string().into();
        file["http_port"] = addr.port().into();
        file["redis_host"] = redis.ip().to_string().into();
        file["redis_port"] = redis.port().into();
        file["daemonize"] = false.into();
        file["pidfile"] = dir.join("webdis.pid").display().to_string().into();
        file["logfile"] = dir.join("webdis-own.log").display().to_string().into();
        // Errors only: nobody pays for a log here.
        file["verbosity"] = 0.into();
        let path = dir.join("webdis.json");
        std::fs::write(&path, file.to_string()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut command = Command::new("webdis");
        command.arg(&path);
        let process = Process::within("webdis", command, &dir);
        wait::until("webdis", LIMIT, || {
            let answer =
                http::call(&Host::local(), addr, Request::get("/PING"), LIMIT).map_err(|e| e.to_string())?;
            wait::holds(answer.text().contains("PONG"), || answer.text())
        });
        Self { addr, process }
    }
}

/// The file that the package brings; without one, as many threads as it would have.
fn packaged() -> Value {
    let text = std::fs::read_to_string(WEBDIS_FILE).unwrap_or_else(|_| r#"{"threads": 2}"#.to_owned());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{WEBDIS_FILE}: {e}"))
}

fn webdis_threads() -> Value {
    packaged()["threads"].clone()
}
