//! False alarms on a busy machine: a group with `down_after_ms` 200, under its usual load, beside two loops that never rest.
//! Nobody dies, so whatever is promoted, or called down, is one.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use world::group::Group;

use crate::figures::{Clockwork, Measure, Series, Table, load};

const DOWN_AFTER_MS: u32 = 200;
const LOOPS: usize = 2;
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn run() -> Table {
    let minutes = std::env::var("BENCH_MINUTES").ok();
    let minutes: usize = minutes.map_or(10, |text| text.parse().expect("BENCH_MINUTES is a number")).max(1);
    let mut group = Group::of(2).monitor_key("detector", "down_after_ms", DOWN_AFTER_MS).start();
    let before = group.settled();
    let (mut loads, mut stolen) = (Series::default(), Series::default());
    let traffic = group.load();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..LOOPS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    spin_loop();
                }
            });
        }
        for _ in 0..minutes {
            loads.add(load());
            let began = Clockwork::now();
            thread::sleep(MINUTE);
            stolen.add(Clockwork::now().stolen_since(began));
        }
        over.store(true, Ordering::Relaxed);
    });
    let report = traffic.stop();
    let promotions = group.settled().promoted - before.promoted;
    let called = group.monitors.iter_mut().map(|monitor| {
        let log = monitor.process().log();
        log.lines().filter(|line| line.contains(" is down: ")).count()
    });
    let called: usize = called.sum();
    let stalls: f64 =
        group.monitors.iter().map(|monitor| monitor.metric("albireo_stalls_total").unwrap_or(f64::NAN)).sum();
    let measure = |what, unit, figure: f64, goal| {
        let mut figures = Series::default();
        figures.add(figure);
        Measure { what, unit, figures, goal }
    };
    let none: (&str, fn(f64) -> bool) = ("0", |number| number == 0.0);
    Table {
        name: "alarms",
        rows: Vec::new(),
        measures: vec![
            measure("promotions, of nobody who died", "epochs", promotions as f64, none),
            measure("servers that a monitor called down", "lines of its log", called as f64, none),
            measure("standstills that a monitor noticed of itself", "times", stalls, ("none", |_| true)),
        ],
        loads,
        stolen,
        conditions: format!(
            "{minutes} minutes, two replicas, loopback, sync, `down_after_ms` {DOWN_AFTER_MS}, beside {LOOPS} busy loops; \
             {} of {} requests failed, {} of {} acknowledged writes lost, the longest took {:.0} ms",
            report.failed().len(),
            report.samples.len(),
            report.lost().len(),
            report.acknowledged().len(),
            report
                .samples
                .iter()
                .map(|sample| (sample.end - sample.start).as_secs_f64() * 1e3)
                .fold(0.0, f64::max)
        ),
    }
}
