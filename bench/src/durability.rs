//! What confirmation by the replica costs: `durability` sync against async, one replica, through the HTTP API.
//!
//! Two APIs of one group, one of each kind, take turns; who begins changes from round to round. A client is a thread with
//! one kept connection that sends the next write when the last one is answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use world::Host;
use world::http::{Connection, Request};

use crate::durabilities::both_durabilities;
use crate::figures::{Clockwork, Comparison, Series, Table, load};

const ROUNDS: usize = 5;
const ONE_CLIENT: Duration = Duration::from_secs(3);
const MANY_CLIENTS: Duration = Duration::from_secs(3);
const MANY: usize = 64;
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn run() -> Table {
    let group = both_durabilities();

    let mut latency = [Series::default(), Series::default()];
    let mut slow = [Series::default(), Series::default()];
    let mut rate = [Series::default(), Series::default()];
    let (mut loads, mut stolen) = (Series::default(), Series::default());
    for round in 0..ROUNDS {
        loads.add(load());
        let began = Clockwork::now();
        for turn in 0..2 {
            let kind = (round + turn) % 2;
            let addr = group.apis[kind].http();
            let mut took = writes(addr, 1, ONE_CLIENT);
            took.sort();
            let micros = |share: usize| took[took.len() * share / 100].as_secs_f64() * 1e6;
            latency[kind].add(micros(50));
            slow[kind].add(micros(99));
            let many = writes(addr, MANY, MANY_CLIENTS).len();
            rate[kind].add(many as f64 / MANY_CLIENTS.as_secs_f64());
        }
        stolen.add(Clockwork::now().stolen_since(began));
    }
    let compare = |what, unit, [sync, plain]: [Series; 2], goal| Comparison {
        what,
        unit,
        ours: ("sync", sync),
        base: ("async", plain),
        goal,
    };
    Table {
        name: "durability",
        rows: vec![
            compare("latency, 1 client, median", "us", latency, ("<= 1.5", |ratio| ratio <= 1.5)),
            compare("latency, 1 client, p99", "us", slow, ("none", |_| true)),
            compare("throughput, 64 clients", "writes/s", rate, (">= 0.7", |ratio| ratio >= 0.7)),
        ],
        measures: Vec::new(),
        loads,
        stolen,
        conditions: format!(
            "one replica, loopback, {ROUNDS} alternated rounds of {} s with 1 and {} s with {MANY} clients (threads of this \
             program, on the same machine), writes of 16 bytes",
            ONE_CLIENT.as_secs(),
            MANY_CLIENTS.as_secs()
        ),
    }
}

/// So many clients write for that long: how long each write took. A failed one ends the benchmark.
fn writes(addr: std::net::SocketAddr, clients: usize, time: Duration) -> Vec<Duration> {
    let stop = AtomicBool::new(false);
    let host = Host::local();
    thread::scope(|scope| {
        let client = |number: usize| {
            let (stop, host) = (&stop, &host);
            scope.spawn(move || {
                let mut connection = Connection::open(host, addr, LIMIT).expect("a connection to the API");
                let path = format!("/api/v1/write/bench:{number}");
                let mut took = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let answer =
                        connection.call(Request::put(&path, b"sixteen bytes ok")).expect("an answer");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    took.push(begin.elapsed());
                }
                took
            })
        };
        let threads: Vec<_> = (0..clients).map(client).collect();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect()
    })
}
