//! What protection costs: from `kill -9` of the primary to the first acknowledged write, in a group with every security
//! option on (TLS with client certificates, ACL users, ZooKeeper ACLs, keyed heartbeats, tokens, passwords) and in one with
//! none, in turns. Both have three Redis servers and the same load, and only one is under load at a time.

use std::time::{Duration, Instant};

use world::group::Group;
use world::secure::Secure;

use crate::figures::{Clockwork, Comparison, Measure, Series, Table, load};

const LIMIT: Duration = Duration::from_secs(30);
/// Longer than `min_interval_ms`, within which no second failover would follow.
const PAUSE: Duration = Duration::from_millis(1200);
/// The znode whose writes are timed.
const SCRATCH: &str = "/bench";
/// Its writes after each fault.
const TIMED: usize = 3;

/// What a record of a failover counts, each from the loss of the primary on, in their order.
const PHASES: [&str; 5] = ["detected_ms", "decided_ms", "published_ms", "promoted_ms", "announced_ms"];

/// One of the two groups, and what was seen of it.
struct Side {
    group: Group,
    gaps: Series,
    zookeeper: Series,
    phases: [Series; 5],
    requests: usize,
    failed: usize,
    acknowledged: usize,
    lost: usize,
}

impl Side {
    fn new(group: Group) -> Self {
        group.zookeeper.create(SCRATCH, "");
        let (gaps, zookeeper, phases) = Default::default();
        Self { group, gaps, zookeeper, phases, requests: 0, failed: 0, acknowledged: 0, lost: 0 }
    }

    /// One kill; the gap in milliseconds.
    fn kill(&mut self) -> f64 {
        let group = &mut self.group;
        let load = group.load();
        let old = group.settled().primary.addr;
        std::thread::sleep(PAUSE);
        let (old, epoch) = (group.number_of(&old), load.epoch());
        let fault = Instant::now();
        group.redis[old].kill();
        load.wait_for_epoch_above(epoch, LIMIT);
        group.redis[old].restart();
        group.settled();
        let report = load.stop();
        let record =
            group.history().into_iter().find(|record| record["what"] == "failover").unwrap_or_default();
        for (series, phase) in self.phases.iter_mut().zip(PHASES) {
            series.add(record["phases"][phase].as_f64().unwrap_or(f64::NAN));
        }
        self.requests += report.samples.len();
        self.failed += report.failed().len();
        self.acknowledged += report.acknowledged().len();
        self.lost += report.lost().len();
        for took in self.group.zookeeper.timed_writes(SCRATCH, TIMED) {
            self.zookeeper.add(took.as_secs_f64() * 1e3);
        }
        let gap = report.gap(fault).expect("a write under a higher epoch").as_secs_f64() * 1e3;
        self.gaps.add(gap);
        gap
    }

    fn words(&self) -> String {
        let Self { requests, failed, acknowledged, lost, .. } = self;
        let ends = PHASES
            .iter()
            .zip(&self.phases)
            .map(|(phase, series)| format!("{} {:.1}", phase.trim_end_matches("_ms"), series.median()));
        let ends: Vec<String> = ends.collect();
        format!(
            "{failed} of {requests} requests failed, {lost} of {acknowledged} acknowledged writes lost, one write of \
             ZooKeeper {:.1} ms, phases end after (ms) {}",
            self.zookeeper.median(),
            ends.join(", ")
        )
    }
}

pub(crate) fn run() -> Table {
    let kills = std::env::var("BENCH_KILLS").ok().map(|text| text.parse().expect("BENCH_KILLS is a number"));
    let kills: usize = kills.unwrap_or(100).max(5);
    let secure = Secure::new();
    let (mut on, mut off) = (Side::new(secure.group(2).start()), Side::new(Group::of(2).start()));
    let (mut loads, mut stolen, mut more) = (Series::default(), Series::default(), Series::default());
    for number in 0..kills {
        loads.add(load());
        let began = Clockwork::now();
        // Neither is always the first after a rest of the machine.
        let (first, second) = if number % 2 == 0 { (&mut on, &mut off) } else { (&mut off, &mut on) };
        let (a, b) = (first.kill(), second.kill());
        more.add(if number % 2 == 0 { a - b } else { b - a });
        stolen.add(Clockwork::now().stolen_since(began));
    }
    let conditions = format!(
        "two replicas, loopback, sync, {kills} kills of each in turns, default settings but for what protects; on: {}; off: {}",
        on.words(),
        off.words()
    );
    let measure = |what, figures, goal| Measure { what, unit: "ms", figures, goal };
    Table {
        name: "security",
        rows: vec![Comparison {
            what: "kill -9 of the primary, everything on over everything off",
            unit: "ms",
            ours: ("everything on", on.gaps.clone()),
            base: ("everything off", off.gaps.clone()),
            goal: ("none", |_| true),
        }],
        measures: vec![
            measure(
                "a kill with everything on, less the one beside it with everything off",
                more,
                ("<= 5", |ms| ms <= 5.0),
            ),
            measure("gap with everything on", on.gaps, ("<= 20", |ms| ms <= 20.0)),
            measure("gap with everything off", off.gaps, ("<= 15", |ms| ms <= 15.0)),
        ],
        loads,
        stolen,
        conditions,
    }
}
