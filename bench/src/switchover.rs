//! A planned switchover under load: the longest time around it in which no client had a write acknowledged, requests that
//! failed, and acknowledged writes that were gone afterwards, with both kinds of durability.

use std::thread;
use std::time::{Duration, Instant};

use world::group::Group;
use world::load::{Kind, Options, Sample};
use world::{Host, programs};

use crate::figures::{Clockwork, Measure, Series, Table, load};

const MOVES: usize = 20;
const CLIENTS: usize = 64;
const PACE: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(20);
/// After each move; its gap is looked for from its begin to the end of this.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) fn run() -> Table {
    let (mut loads, mut stolen) = (Series::default(), Series::default());
    let mut measures = Vec::new();
    let mut seen = Vec::new();
    for (durability, what) in [("sync", "gap of writes, sync"), ("async", "gap of writes, async")] {
        let (gaps, counted) = moves(durability, &mut loads, &mut stolen);
        measures.push(Measure { what, unit: "ms", figures: gaps, goal: ("<= 20", |median| median <= 20.0) });
        seen.push(format!("{durability}: {counted}"));
    }
    Table {
        name: "switchover",
        rows: Vec::new(),
        measures,
        loads,
        stolen,
        conditions: format!(
            "two replicas, loopback, {MOVES} moves with each durability, one API, {CLIENTS} clients that write one request at \
             a time and rest {} ms (threads of this program); {}",
            PACE.as_millis(),
            seen.join("; ")
        ),
    }
}

/// The gap of each move in milliseconds, and in words what came of all requests.
fn moves(durability: &str, loads: &mut Series, stolen: &mut Series) -> (Series, String) {
    let mut group = Group::of(2).api_key("api", "durability", durability).start();
    group.settled();
    let options = Options::new(&Host::local(), group.api_addresses());
    let load_of_clients = Options { workers: CLIENTS, pace: PACE, reads: false, ..options }.start();
    load_of_clients.wait_for_writes(1000, LIMIT);
    let mut moved = Vec::new();
    for _ in 0..MOVES {
        group.settled();
        loads.add(load());
        let began = Clockwork::now();
        let begin = Instant::now();
        let file = group.monitors[0].file().display().to_string();
        let (code, said) = programs::run("monitor", &["switchover", &file, "posts"], LIMIT);
        assert_eq!(code, 0, "{said}");
        thread::sleep(PAUSE);
        moved.push((begin, Instant::now()));
        stolen.add(Clockwork::now().stolen_since(began));
    }
    let report = load_of_clients.stop();
    let writes: Vec<&Sample> =
        report.samples.iter().filter(|s| s.kind == Kind::Write && s.wrong.is_none()).collect();
    let mut gaps = Series::default();
    moved.iter().for_each(|(from, to)| gaps.add(longest_gap(&writes, *from, *to).as_secs_f64() * 1e3));
    let (failed, lost) = (report.failed().len(), report.lost().len());
    let counted = format!(
        "{failed} of {} requests failed, {lost} of {} acknowledged writes lost",
        report.samples.len(),
        writes.len()
    );
    (gaps, counted)
}

/// The longest time between two acknowledgements, whosever they are; `writes` are in the order of their answers.
fn longest_gap(writes: &[&Sample], from: Instant, to: Instant) -> Duration {
    let within = writes.iter().map(|sample| sample.end).filter(|end| *end >= from && *end <= to);
    let ends: Vec<Instant> = std::iter::once(from).chain(within).chain([to]).collect();
    ends.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().unwrap_or_default()
}
