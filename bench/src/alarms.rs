//! False alarms on a busy machine: a group with `down_after_ms` 200 beside two loops that never rest. Nobody dies, so every
//! failover is one, and whatever else is recorded comes of the machine alone. Every other minute the group is under its usual load,
//! and in between it is idle: then its replicas receive nothing that would show that their primary lives.

use std::process::Command;
use std::thread;
use std::time::Duration;

use world::Process;
use world::group::Group;

use crate::figures::{Clockwork, Measure, Series, Table, load};

const DOWN_AFTER_MS: u32 = 200;
const LOOPS: usize = 2;
const MINUTE: Duration = Duration::from_secs(60);

/// What was counted since the monitors started.
struct Counted {
    failovers: f64,
    epochs: f64,
    reigns: f64,
    called_down: f64,
    stalls: f64,
}

impl Counted {
    fn now(group: &mut Group) -> Self {
        let metrics: Vec<String> =
            group.monitors.iter().map(|monitor| monitor.get("/metrics").text()).collect();
        let sum = |name: &str| -> f64 {
            let lines = metrics.iter().flat_map(|text| text.lines());
            let samples = lines.filter(|line| line.split(['{', ' ']).next() == Some(name));
            samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        let leader = group.layout().leader();
        let logs = group.monitors.iter_mut().map(|monitor| monitor.process().log());
        let called_down: usize =
            logs.map(|log| log.lines().filter(|line| line.contains(" is down: ")).count()).sum();
        Self {
            failovers: sum("albireo_failovers_total"),
            epochs: group.state().epoch as f64,
            reigns: f64::from(group.zookeeper.get(&leader).map_or(-1, |found| found.version)),
            called_down: called_down as f64,
            stalls: sum("albireo_stalls_total"),
        }
    }
}

pub(crate) fn run() -> Table {
    let minutes = std::env::var("BENCH_MINUTES").ok();
    let minutes: usize = minutes.map_or(10, |text| text.parse().expect("BENCH_MINUTES is a number")).max(2);
    let mut group = Group::of(2).monitor_key("detector", "down_after_ms", DOWN_AFTER_MS).start();
    group.settled();
    let before = Counted::now(&mut group);
    let (mut loads, mut stolen) = (Series::default(), Series::default());
    let (mut requests, mut failed, mut acknowledged, mut lost) = (0, 0, 0, 0);
    let mut slowest = Duration::ZERO;
    let busy = (0..LOOPS).map(|number| {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        Process::of(&format!("loop-{number}"), command)
    });
    let busy: Vec<Process> = busy.collect();
    for minute in 0..minutes {
        loads.add(load());
        let began = Clockwork::now();
        let traffic = (minute % 2 == 0).then(|| group.load());
        thread::sleep(MINUTE);
        if let Some(report) = traffic.map(world::load::Load::stop) {
            requests += report.samples.len();
            failed += report.failed().len();
            acknowledged += report.acknowledged().len();
            lost += report.lost().len();
            let took = report.samples.iter().map(|sample| sample.end - sample.start);
            slowest = took.max().unwrap_or_default().max(slowest);
        }
        stolen.add(Clockwork::now().stolen_since(began));
    }
    drop(busy);
    let after = Counted::now(&mut group);
    let order = group.order().map_or_else(|why| format!("NOT in order: {why}"), |_| "in order".to_owned());
    let none: (&str, fn(f64) -> bool) = ("0", |number| number == 0.0);
    let any: (&str, fn(f64) -> bool) = ("none", |_| true);
    let counted = |what, unit, of: fn(&Counted) -> f64, goal| {
        let mut figures = Series::default();
        figures.add(of(&after) - of(&before));
        Measure { what, unit, figures, goal }
    };
    Table {
        name: "alarms",
        rows: Vec::new(),
        measures: vec![
            counted("failovers", "times", |counted| counted.failovers, none),
            counted(
                "records written: a failover, or a replica that left the set or came back",
                "epochs",
                |c| c.epochs,
                any,
            ),
            counted("the lead was taken", "times", |counted| counted.reigns, any),
            counted(
                "a server was silent at a heartbeat",
                "lines of the logs, at most one in 30 s",
                |c| c.called_down,
                any,
            ),
            counted("a monitor noticed that it stood still", "times", |counted| counted.stalls, any),
        ],
        loads,
        stolen,
        conditions: format!(
            "{minutes} minutes, two replicas, loopback, sync, `down_after_ms` {DOWN_AFTER_MS}, beside {LOOPS} busy loops, every \
             other minute under load and {order} at the end; {failed} of {requests} requests failed, {lost} of {acknowledged} \
             acknowledged writes lost, the slowest answer took {} ms",
            slowest.as_millis()
        ),
    }
}
