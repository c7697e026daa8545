//! What `make demo` runs: a whole group on loopback, `kill -9` of the primary under load, the timeline, the return of
//! the old primary. `DEMO_ONCE=1` exits afterwards, non-zero if anything failed; `DEMO_KILLS=20` kills as often and
//! shows the median and the worst gap.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use world::group::Group;
use world::load::{Load, Report};
use world::{stop_everything, wait};

/// For everything that takes milliseconds when all is well.
const LIMIT: Duration = Duration::from_secs(30);
/// Longer than `failover.min_interval_ms` (1000): a further failover is not held back by the one before.
const BETWEEN_KILLS: Duration = Duration::from_millis(1500);
const DAY_MS: f64 = 86_400_000.0;
/// The phases of a failover in the history's record, in their order, and what they mean.
const PHASES: [(&str, &str); 5] = [
    ("detected_ms", "detected: the primary is down for certain"),
    ("decided_ms", "decided: who takes over"),
    ("published_ms", "published: the decision stands in ZooKeeper"),
    ("promoted_ms", "promoted: the replica is primary"),
    ("announced_ms", "announced: the topology names it"),
];

/// One `kill -9` and what followed.
struct Kill {
    at: Instant,
    /// Milliseconds of the day, to be compared with the times in the logs.
    clock_ms: f64,
    old: String,
    new: String,
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        eprintln!("demo: {}", text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("failed"));
    }));
    stop_on_signal();
    let kills = std::env::var("DEMO_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_usize).max(1);
    let once = std::env::var("DEMO_ONCE").is_ok_and(|value| value != "0" && !value.is_empty());
    let result = std::panic::catch_unwind(|| show(kills, once));
    stop_everything();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// The whole demo; whether all went well.
fn show(kills: usize, once: bool) -> bool {
    println!(
        "Starting ZooKeeper, three Redis servers, two monitors and the API (building them first if need be) ..."
    );
    world::programs::path_of("monitor");
    let started = Instant::now();
    let mut group = Group::of(2).start();
    println!("Ready after {:.1} s.\n", started.elapsed().as_secs_f64());
    show_places(&group);
    println!(
        "\nLoad: 4 connections to the API, one request at a time on each, write then read back, no retries."
    );
    let load = group.load();
    let mut done: Vec<Kill> = Vec::new();
    for number in 1..=kills {
        let kill = kill_primary(&mut group, &load);
        if kills == 1 {
            show_return(&mut group, &kill);
        } else {
            println!("  kill {number:>3}: {} -> {}", kill.old, kill.new);
            restart_old(&mut group, &kill);
        }
        done.push(kill);
        std::thread::sleep(BETWEEN_KILLS);
    }
    let report = load.stop();
    let good = if let [kill] = done.as_slice() {
        show_timeline(&mut group, kill, &report)
    } else {
        show_gaps(&done, &report)
    };
    let good = show_verdict(&report) && good;
    if !once {
        stay(&group);
    }
    good
}

fn show_places(group: &Group) {
    println!("  ZooKeeper   {}", group.zookeeper.addr());
    let roles = ["primary", "replica", "replica"];
    for (redis, role) in group.redis.iter().zip(roles) {
        println!("  Redis       {} ({role})", redis.addr());
    }
    for monitor in &group.monitors {
        println!("  {}   http://{}/services", monitor.name(), monitor.http());
    }
    for api in &group.apis {
        println!("  API         http://{}/api/v1/topology", api.http());
    }
}

/// `kill -9`, and waits for the first write that the new primary acknowledged.
fn kill_primary(group: &mut Group, load: &Load) -> Kill {
    let number = group.primary();
    let old = group.redis[number].addr().to_string();
    let epoch = load.epoch();
    let (at, clock_ms) = (Instant::now(), clock_ms());
    group.redis[number].kill();
    load.wait_for_epoch_above(epoch, LIMIT);
    let new = group.state().primary.addr.to_string();
    Kill { at, clock_ms, old, new }
}

fn restart_old(group: &mut Group, kill: &Kill) {
    let old = group.redis.iter_mut().find(|redis| redis.addr().to_string() == kill.old);
    if let Some(old) = old {
        old.restart();
    }
    group.settled();
}

fn show_return(group: &mut Group, kill: &Kill) {
    println!("\nkill -9 {}: the primary is gone, {} has taken over.", kill.old, kill.new);
    println!("Starting the old primary again, empty:");
    let restarted = Instant::now();
    restart_old(group, kill);
    let text = format!("set {} as replica of {}", kill.old, kill.new);
    let said = wait::within(LIMIT, || {
        let logs = group.monitors.iter_mut().map(|monitor| monitor.process().log());
        logs.flat_map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>())
            .find(|line| line.contains(&text))
            .ok_or(())
    });
    match said {
        Ok(line) => println!("  {line}"),
        Err(()) => panic!("no monitor has said `{text}`"),
    }
    println!("  in sync again {:.0} ms after its start", millis(restarted.elapsed()));
}

/// The one kill, step by step; whether all of it could be told.
fn show_timeline(group: &mut Group, kill: &Kill, report: &Report) -> bool {
    let record = group.history().into_iter().find(|record| record["to"].as_str() == Some(&kill.new));
    let gap = report.gap(kill.at);
    let mut steps = vec![(0.0, format!("kill -9 {}", kill.old))];
    steps.extend(gap.map(|gap| (millis(gap), "first acknowledged write under the new epoch".to_owned())));
    steps.extend(record.iter().flat_map(|record| phases(record, group, kill)));
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    println!("\nTimeline, in ms:");
    for (ms, meaning) in &steps {
        println!("  {ms:>7.1}  {meaning}");
    }
    gap.is_some() && steps.len() == PHASES.len() + 2
}

/// The phases, in milliseconds after the kill. The record counts from the moment at which the monitor lost the primary;
/// the log's line about the end of the failover tells when that was on the clock that the kill was read from, too.
fn phases(record: &Value, group: &mut Group, kill: &Kill) -> Vec<(f64, String)> {
    let phases = &record["phases"];
    let text = format!("failover from {} to {} is complete", kill.old, kill.new);
    let line = group.monitors.iter_mut().find_map(|monitor| {
        monitor.process().log().lines().find(|line| line.contains(&text)).map(str::to_owned)
    });
    let ended = line.as_deref().and_then(clock_of_line);
    let Some((ended, whole)) = ended.zip(phases["announced_ms"].as_f64()) else { return Vec::new() };
    let lost = (ended - kill.clock_ms).rem_euclid(DAY_MS) - whole;
    let step = |(key, meaning): (&str, &str)| Some((lost + phases[key].as_f64()?, meaning.to_owned()));
    PHASES.into_iter().filter_map(step).collect()
}

fn show_gaps(kills: &[Kill], report: &Report) -> bool {
    let mut gaps: Vec<f64> = kills.iter().filter_map(|kill| report.gap(kill.at)).map(millis).collect();
    gaps.sort_by(f64::total_cmp);
    let shown: Vec<String> = gaps.iter().map(|gap| format!("{gap:.1}")).collect();
    println!("\nGaps of {} kills, in ms, sorted: {}", kills.len(), shown.join(" "));
    if let (Some(median), Some(worst)) = (gaps.get(gaps.len() / 2), gaps.last()) {
        println!("  median {median:.1} ms, worst {worst:.1} ms");
    }
    println!(
        "  A gap runs from just before kill() to the first 200 with a higher x-albireo-epoch; the load is a closed"
    );
    println!(
        "  loop of 4 connections that never retries. Redis holds little data here, without persistence."
    );
    gaps.len() == kills.len()
}

fn show_verdict(report: &Report) -> bool {
    let (failed, lost, two) = (report.failed(), report.lost(), report.epochs_with_two_primaries());
    println!("\n  requests  {:>7}   failed {}", report.samples.len(), failed.len());
    println!("  acknowledged writes {:>7}   lost {}", report.acknowledged().len(), lost.len());
    for sample in failed.iter().take(5) {
        println!("  failed: {:?} {}: {}", sample.kind, sample.key, sample.wrong.as_deref().unwrap_or(""));
    }
    if !two.is_empty() {
        println!("  epochs with two primaries: {two:?}");
    }
    failed.is_empty() && lost.is_empty() && two.is_empty()
}

fn stay(group: &Group) {
    let api = group.apis[0].http();
    println!("\nEverything stays up. Try:");
    println!("  curl 'http://{api}/api/v1/write/100?value=user100'");
    println!("  curl -i http://{api}/api/v1/get/100");
    println!("  curl http://{api}/api/v1/topology");
    for monitor in &group.monitors {
        println!("  curl http://{}/services      ({})", monitor.http(), monitor.name());
    }
    println!("  redis-cli -p {} info replication", group.redis[group.primary()].addr().port());
    println!("Ctrl-C ends all of it.");
    loop {
        std::thread::park();
    }
}

/// Ctrl-C and SIGTERM end everything at any time.
fn stop_on_signal() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut term) = signal(SignalKind::terminate()) else { return };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = term.recv() => {}
            }
            println!("\nStopping.");
            stop_everything();
            std::process::exit(0);
        });
    });
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
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
