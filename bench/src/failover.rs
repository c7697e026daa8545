//! From a fault to the first acknowledged write under a higher epoch, beside Redis Sentinel: `kill -9` of the primary, a
//! pause of it (SIGSTOP), and `kill -9` of primary and active monitor together; and how long each phase takes.
//!
//! Both groups have three Redis servers and the same load: four closed loops that write, read back and never retry.
//! They take turns in small portions, and only one is under load at a time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use world::group::Group;
use world::load::Load;
use world::wait;

use crate::figures::{Clockwork, Comparison, Measure, Series, Table, load};
use crate::sentinel;

const LIMIT: Duration = Duration::from_secs(30);
/// Longer than `min_interval_ms`, within which no second failover would follow.
const PAUSE: Duration = Duration::from_millis(1200);
/// How long a paused primary stays so after somebody else serves.
const STAYS_PAUSED: Duration = Duration::from_millis(300);
/// The znode whose writes are timed.
const SCRATCH: &str = "/bench";
/// Its writes after each fault.
const TIMED: usize = 3;
/// What a record of a failover counts, each from the loss of the primary on, in their order.
const PHASES: [&str; 5] = ["detected_ms", "decided_ms", "published_ms", "promoted_ms", "announced_ms"];
const DAY_MS: f64 = 86_400_000.0;

/// How often each fault happens.
struct Counts {
    kills: usize,
    /// To Sentinel at a `down-after-milliseconds` of 1000, and of 5000.
    tuned: usize,
    slow: usize,
    pauses: usize,
    sentinel_pauses: usize,
    both: usize,
}

impl Counts {
    /// `BENCH_KILLS`, 100 unless set; all else in proportion.
    fn read() -> Self {
        let kills =
            std::env::var("BENCH_KILLS").ok().map(|text| text.parse().expect("BENCH_KILLS is a number"));
        let kills: usize = kills.unwrap_or(100).max(5);
        let share = |of: usize| (kills / of).max(1);
        Self {
            kills,
            tuned: share(5),
            slow: share(20),
            pauses: share(5),
            sentinel_pauses: share(20),
            both: share(10),
        }
    }
}

/// What was asked of all requests.
#[derive(Default)]
struct Tally {
    requests: usize,
    failed: usize,
    acknowledged: usize,
    lost: usize,
}

impl Tally {
    fn words(&self) -> String {
        let Self { requests, failed, acknowledged, lost } = self;
        format!("{failed} of {requests} requests failed, {lost} of {acknowledged} acknowledged writes lost")
    }
}

/// What is measured of ours.
#[derive(Default)]
struct Ours {
    kills: Series,
    pauses: Series,
    both: Series,
    /// From `kill()` to the loss as the monitor sees it, then each phase for itself, then the first acknowledged write.
    phases: [Series; 6],
    announced: Series,
    zookeeper: Series,
    tally: Tally,
}

/// What is measured of Sentinel.
#[derive(Default)]
struct Theirs {
    tuned: Series,
    slow: Series,
    pauses: Series,
    in_kills: Tally,
    in_pauses: Tally,
}

pub(crate) fn run() -> Table {
    let counts = Counts::read();
    let mut group = Group::of(2).start();
    group.zookeeper.create(SCRATCH, "");
    let mut sentinels = sentinel::Group::start();
    let (mut ours, mut theirs) = (Ours::default(), Theirs::default());
    let (mut loads, mut stolen) = (Series::default(), Series::default());
    let mut round = |work: &mut dyn FnMut()| {
        loads.add(load());
        let began = Clockwork::now();
        work();
        stolen.add(Clockwork::now().stolen_since(began));
    };
    // The rarer faults are spread over the portions.
    let portions = counts.tuned;
    let due = |of: usize, portion: usize| of * (portion + 1) / portions - of * portion / portions;
    for portion in 0..portions {
        round(&mut || kills(&mut group, &mut ours, due(counts.kills, portion)));
        round(&mut || {
            theirs_killed(&mut sentinels, 1000, &mut theirs);
            for _ in 0..due(counts.slow, portion) {
                theirs_killed(&mut sentinels, 5000, &mut theirs);
            }
        });
        round(&mut || pauses(&mut group, &mut ours, due(counts.pauses, portion)));
        for _ in 0..due(counts.sentinel_pauses, portion) {
            round(&mut || theirs_paused(&mut sentinels, &mut theirs));
        }
        for _ in 0..due(counts.both, portion) {
            round(&mut || monitor_too(&mut group, &mut ours));
        }
    }
    table(&ours, &theirs, loads, stolen)
}

/// So many kills of the primary under one load.
fn kills(group: &mut Group, ours: &mut Ours, number: usize) {
    let load = group.load();
    let mut faults = Vec::new();
    for _ in 0..number {
        let killed = ready(group);
        let (old, epoch) = (group.redis[killed].addr(), load.epoch());
        let (fault, clock) = (Instant::now(), clock_ms());
        group.redis[killed].kill();
        load.wait_for_epoch_above(epoch, LIMIT);
        faults.push((fault, phases(group, old.to_string(), clock)));
        group.redis[killed].restart();
        time_store(group, ours);
    }
    for (gap, phases) in ended(group, load, faults, ours) {
        ours.kills.add(gap);
        if let Some([seen, detected, decided, published, promoted, announced]) = phases {
            let ends = [seen, detected, decided, published, promoted, gap];
            let begins = [0.0, seen, detected, decided, published, promoted];
            ours.phases.iter_mut().zip(ends.iter().zip(begins)).for_each(|(series, (end, begin))| {
                series.add(end - begin);
            });
            ours.announced.add(announced);
        }
    }
}

/// So many pauses of the primary under one load.
fn pauses(group: &mut Group, ours: &mut Ours, number: usize) {
    let load = group.load();
    let mut faults = Vec::new();
    for _ in 0..number {
        let paused = ready(group);
        let epoch = load.epoch();
        faults.push((Instant::now(), ()));
        group.redis[paused].pause();
        load.wait_for_epoch_above(epoch, LIMIT);
        std::thread::sleep(STAYS_PAUSED);
        group.redis[paused].resume();
    }
    ended(group, load, faults, ours).into_iter().for_each(|(gap, ())| ours.pauses.add(gap));
}

/// The primary and the active monitor die together.
fn monitor_too(group: &mut Group, ours: &mut Ours) {
    let load = group.load();
    let killed = ready(group);
    let (active, epoch) = (group.wait_for_active(), load.epoch());
    let faults = vec![(Instant::now(), ())];
    group.monitors[active].process().kill();
    group.redis[killed].kill();
    load.wait_for_epoch_above(epoch, LIMIT);
    group.redis[killed].restart();
    group.monitors[active].restart();
    ended(group, load, faults, ours).into_iter().for_each(|(gap, ())| ours.both.add(gap));
    group.ready();
}

/// Waits until the next fault may come; the primary.
fn ready(group: &mut Group) -> usize {
    let primary = group.settled().primary.addr;
    std::thread::sleep(PAUSE);
    group.number_of(&primary)
}

/// Ends a load: the gap of each fault in milliseconds, with what was noted of it.
fn ended<T>(group: &mut Group, load: Load, faults: Vec<(Instant, T)>, ours: &mut Ours) -> Vec<(f64, T)> {
    group.settled();
    let report = load.stop();
    ours.tally.requests += report.samples.len();
    ours.tally.failed += report.failed().len();
    ours.tally.acknowledged += report.acknowledged().len();
    ours.tally.lost += report.lost().len();
    let gap = |fault| report.gap(fault).expect("a write under a higher epoch").as_secs_f64() * 1e3;
    faults.into_iter().map(|(fault, noted)| (gap(fault), noted)).collect()
}

fn time_store(group: &Group, ours: &mut Ours) {
    for took in group.zookeeper.timed_writes(SCRATCH, TIMED) {
        ours.zookeeper.add(took.as_secs_f64() * 1e3);
    }
}

/// When the loss was seen and when each phase ended, in milliseconds after the kill. The record counts from the loss on;
/// the log's line about the end of the failover tells when that was on the clock that the kill was read from, too. None
/// if this failover was another monitor's to finish.
fn phases(group: &mut Group, old: String, killed_ms: f64) -> Option<[f64; 6]> {
    let record = wait::until("the record of the failover", LIMIT, || {
        let newest = group.history().into_iter().find(|record| !record["to"].is_null());
        newest.filter(|record| record["from"].as_str() == Some(&old)).ok_or("not there")
    });
    let text = format!("failover from {old} to {} is complete", record["to"].as_str().unwrap_or_default());
    let lines = group.monitors.iter_mut().filter_map(|monitor| {
        monitor
            .process()
            .log()
            .lines()
            .filter(|line| line.contains(&text))
            .filter_map(clock_of_line)
            .next_back()
    });
    // The same two servers may have changed places before: the last time counts.
    let ended = lines.map(|ended| (ended - killed_ms).rem_euclid(DAY_MS)).min_by(f64::total_cmp)?;
    let of = |phase: &str| record["phases"][phase].as_f64();
    let seen = ended - of("announced_ms")?;
    let mut ends = [seen; 6];
    for (end, phase) in ends[1..].iter_mut().zip(PHASES) {
        *end += of(phase)?;
    }
    Some(ends)
}

/// The time of the day by the wall clock (UTC), in milliseconds.
fn clock_ms() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs_f64() * 1e3).rem_euclid(DAY_MS)
}

/// The time of the day at the beginning of a log line, `2026-01-31T12:34:56.789012Z`, in milliseconds.
fn clock_of_line(line: &str) -> Option<f64> {
    let stamp = line.split_whitespace().find(|word| word.contains('T') && word.ends_with('Z'))?;
    let clock = stamp.split_once('T')?.1.strip_suffix('Z')?;
    let mut parts = clock.split(':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    Some((hours * 3600.0 + minutes * 60.0 + seconds) * 1e3)
}

/// One kill of Sentinel's primary.
fn theirs_killed(group: &mut sentinel::Group, down_after: u64, theirs: &mut Theirs) {
    group.set_down_after(down_after);
    let (load, killed) = (group.load(), group.settled());
    let old = group.redis[killed].addr();
    let fault = Instant::now();
    group.redis[killed].kill();
    let gap = (load.served_elsewhere(old) - fault).as_secs_f64() * 1e3;
    let heir = group.heir(old);
    // As the replica that Sentinel would make of it after some seconds anyway; nothing of this is timed.
    group.redis[killed].change(|settings| settings.replica_of(heir));
    group.redis[killed].restart();
    theirs_ended(group, load, &mut theirs.in_kills);
    if down_after == 1000 { theirs.tuned.add(gap) } else { theirs.slow.add(gap) }
}

/// One pause of Sentinel's primary.
fn theirs_paused(group: &mut sentinel::Group, theirs: &mut Theirs) {
    group.set_down_after(1000);
    let (load, paused) = (group.load(), group.settled());
    let old = group.redis[paused].addr();
    let fault = Instant::now();
    group.redis[paused].pause();
    let gap = (load.served_elsewhere(old) - fault).as_secs_f64() * 1e3;
    std::thread::sleep(STAYS_PAUSED);
    group.redis[paused].resume();
    theirs_ended(group, load, &mut theirs.in_pauses);
    theirs.pauses.add(gap);
}

fn theirs_ended(group: &sentinel::Group, load: sentinel::Load, tally: &mut Tally) {
    let primary = group.settled();
    let seen = load.stop();
    tally.requests += seen.requests;
    tally.failed += seen.failed;
    tally.acknowledged += seen.acknowledged.len();
    tally.lost += seen.lost(&group.redis[primary]);
}

fn table(ours: &Ours, theirs: &Theirs, loads: Series, stolen: Series) -> Table {
    let zookeeper = ours.zookeeper.median();
    let row = |what: String, base: &Series, sentinel: &Series, goal| Comparison {
        // Once per run of this program.
        what: what.leak(),
        unit: "ms",
        ours: ("Sentinel", sentinel.clone()),
        base: ("Albireo", base.clone()),
        goal,
    };
    let kill = |down_after: u64, sentinel: &Series, goal| {
        let (n, m) = (ours.kills.len(), sentinel.len());
        let what = format!(
            "kill -9 of the primary, Sentinel's down-after {down_after} ({m} runs) over ours ({n}; one write of ZooKeeper \
             takes {zookeeper:.1} ms)"
        );
        row(what, &ours.kills, sentinel, goal)
    };
    let paused = format!(
        "pause of the primary, Sentinel's down-after 1000 ({} runs) over our down_after_ms 500 ({})",
        theirs.pauses.len(),
        ours.pauses.len()
    );
    Table {
        name: "failover",
        rows: vec![
            kill(1000, &theirs.tuned, (">= 100", |ratio| ratio >= 100.0)),
            kill(5000, &theirs.slow, ("none", |_| true)),
            row(paused, &ours.pauses, &theirs.pauses, ("none", |_| true)),
        ],
        measures: measures(ours),
        loads,
        stolen,
        conditions: format!(
            "one ZooKeeper server, dataDir on {}, forceSync at its default; on each side three Redis servers, loopback, \
             four clients that write, read back and never retry; ours with default settings, sync durability; Sentinel with \
             three sentinels, quorum 2. Albireo, all faults together: {}. Sentinel, kills: {}; pauses: {}",
            disk(),
            ours.tally.words(),
            theirs.in_kills.words(),
            theirs.in_pauses.words()
        ),
    }
}

fn measures(ours: &Ours) -> Vec<Measure> {
    let measure = |what, figures: &Series, goal| Measure { what, unit: "ms", figures: figures.clone(), goal };
    let none: (&str, fn(f64) -> bool) = ("none", |_| true);
    let mut p99 = Series::default();
    p99.add(ours.kills.quantile(0.99));
    let [seen, detected, decided, published, promoted, acknowledged] = &ours.phases;
    vec![
        measure("kill -9 of the primary", &ours.kills, ("<= 15", |median| median <= 15.0)),
        measure("the same, 99 of 100", &p99, ("<= 50", |p99| p99 <= 50.0)),
        measure(
            "pause of the primary, down_after_ms 500",
            &ours.pauses,
            ("<= 550", |median| median <= 550.0),
        ),
        measure("kill -9 of primary and active monitor", &ours.both, ("<= 1000", |median| median <= 1000.0)),
        measure("phase: kill until the closed socket is seen", seen, none),
        measure("phase: until that is confirmed", detected, none),
        measure("phase: until it is decided who takes over", decided, none),
        measure("phase: until the decision stands in ZooKeeper", published, none),
        measure("phase: until the replica is primary", promoted, none),
        measure("phase: until the API has routed and a client has its 200", acknowledged, none),
        measure("kill until announced, beside that", &ours.announced, none),
        measure("one write of ZooKeeper", &ours.zookeeper, none),
    ]
}

/// The kind of file system below the working directories.
fn disk() -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = world::target_dir();
    let dir = dir.canonicalize().unwrap_or(dir);
    let mounted = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let under = mounted.filter(|(at, _)| dir.starts_with(at)).max_by_key(|(at, _)| at.len());
    let kind = under.map_or("an unknown file system", |(_, kind)| kind);
    assert_ne!(kind, "tmpfs", "ZooKeeper has to write to a disk: let the target directory be on one");
    kind.to_owned()
}
