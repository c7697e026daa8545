//! The pair of monitors: one dies, stops at any step, is restarted, or finds its name taken.

use std::time::Duration;

use world::group::{Group, SETTLE_LIMIT};
use world::load::Load;
use world::wait;

const LIMIT: Duration = Duration::from_secs(20);
const FAULT: &str = "ALBIREO_TEST_FAULT";
/// Every step of a failover and of the old primary's return.
const STEPS: [&str; 6] = ["publish", "promote", "announce", "repoint", "stamp", "demote"];

fn passive_of(active: usize) -> usize {
    1 - active
}

fn kill_primary(group: &mut Group, load: &Load) -> usize {
    let (epoch, primary) = (load.epoch(), group.primary());
    group.redis[primary].kill();
    load.wait_for_epoch_above(epoch, LIMIT);
    primary
}

#[test]
fn the_active_monitor_is_killed_then_the_primary() {
    let mut group = Group::of(2).start();
    let load = group.load();
    let active = group.wait_for_active();
    group.monitors[active].process().kill();
    let peer = passive_of(active);
    group.wait_until_leading(peer);
    let old = kill_primary(&mut group, &load);
    group.redis[old].restart();
    group.settled();

    group.monitors[active].restart();
    group.monitors[active].wait_until_ready(SETTLE_LIMIT);
    group.wait_until_active(peer);
    let old = kill_primary(&mut group, &load);
    group.redis[old].restart();
    group.settled();
    load.stop().assert_clean();
}

#[test]
fn the_active_monitor_and_the_primary_are_killed_at_once() {
    let mut group = Group::of(2).start();
    let load = group.load();
    let active = group.wait_for_active();
    group.monitors[active].process().kill();
    let old = kill_primary(&mut group, &load);
    group.redis[old].restart();
    group.settled();
    group.monitors[active].restart();
    group.ready();
    group.wait_until_active(passive_of(active));
    load.stop().assert_clean();
}

/// SIGTERM gives the lead up; SIGSTOP is taken over like a death, and the one that wakes up finds itself deposed.
#[test]
fn the_lead_changes_hands() {
    let mut group = Group::of(1).patient().start();
    let before = group.state();
    let load = group.load();
    let first = group.wait_for_active();
    let second = passive_of(first);
    let ended = group.monitors[first].process().terminate(LIMIT);
    assert_eq!(ended.and_then(|status| status.code()), Some(0), "a clean end");
    group.wait_until_leading(second);
    group.monitors[first].restart();
    group.ready();

    group.monitors[second].process().pause();
    group.wait_until_leading(first);
    group.monitors[second].process().resume();
    group.wait_until_active(first);
    group.ready();

    let after = group.settled();
    assert_eq!((after.epoch, after.promoted), (before.epoch, before.promoted), "a new reign is no new epoch");
    load.stop().assert_clean();
}

/// The active monitor stops or dies right before a step of a failover; the peer finishes, and whoever wakes up later
/// changes nothing.
#[track_caller]
fn fails_before(step: &str, how: &str) {
    let mut group = Group::of(2).patient().start();
    let peer = group.wait_for_active();
    let faulty = passive_of(peer);
    // Only the failover is to meet the fault, not the birth: so it is armed in the passive one, which then leads.
    group.monitors[faulty].process().terminate(LIMIT);
    group.monitors[faulty].set_env(&[(FAULT, &format!("{how}:{step}"))]);
    group.monitors[faulty].restart();
    group.ready();
    group.monitors[peer].process().terminate(LIMIT);
    // A new leader stamps the primary first of all: there `stamp` is met already.
    wait::until("the faulty monitor leads", LIMIT, || {
        let process = group.monitors[faulty].process();
        let met = !process.is_running() || process.state() == Some('T');
        let active = if met { None } else { group.monitors[faulty].metric("albireo_active") };
        wait::holds(met || active == Some(1.0), || format!("{active:?}"))
    });
    group.monitors[peer].restart();
    group.monitors[peer].wait_until_ready(SETTLE_LIMIT);
    let before = group.settled();

    let load = group.load();
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    group.redis[old].restart();
    let process = group.monitors[faulty].process();
    match how {
        "stop" => process.wait_until_stopped(LIMIT),
        _ => _ = process.wait_for_end(LIMIT),
    }
    let settled = group.settled();
    assert_ne!(settled.primary.addr, before.primary.addr, "{how}:{step}");
    assert_eq!(settled.promoted, before.epoch + 1, "{how}:{step}: one promotion");
    let leader = settled.leader.clone();

    match how {
        "stop" => group.monitors[faulty].process().resume(),
        _ => {
            group.monitors[faulty].set_env(&[]);
            group.monitors[faulty].restart();
        }
    }
    group.ready();
    let last = group.settled();
    assert_eq!((last.epoch, &last.primary), (settled.epoch, &settled.primary), "{how}:{step}");
    assert_eq!(last.leader, leader, "{how}:{step}: the deposed monitor has published");
    group.wait_until_active(peer);
    load.wait_for_writes(50, LIMIT);
    load.stop().assert_clean();
}

#[test]
fn stopped_before_each_step() {
    for step in STEPS {
        println!("stop before {step}");
        fails_before(step, "stop");
    }
}

#[test]
fn killed_before_each_step() {
    for step in STEPS {
        println!("kill before {step}");
        fails_before(step, "kill");
    }
}

/// A backup whose primary was never started leads all the same.
#[test]
fn a_lone_backup_leads() {
    let mut group = Group::of(1).patient().servers();
    group.seed();
    let ini = group.monitor_ini(1);
    let mut backup = group.start_monitor(1, "backup", &ini);
    backup.wait_until_ready(SETTLE_LIMIT);
    let before = group.settled();
    group.add_api();
    group.ready();
    let load = group.load();
    kill_primary(&mut group, &load);
    assert_eq!(group.state().promoted, before.epoch + 1);
    load.stop().assert_clean();
}

/// The second process of the same name waits, then is refused with the name and host of the first.
#[test]
fn two_monitors_of_the_same_name() {
    let mut group = Group::of(1).patient().start();
    let before = group.state();
    let twin = group.monitor_ini(0);
    let free = |section: &str, key: &str, scheme: &str, ini: world::programs::Ini| {
        ini.set(section, key, format!("{scheme}127.0.0.1:{}", world::ports::free()))
    };
    let twin = free("admin", "listen", "", twin);
    let twin = free("binary_star", "bind", "tcp://", twin);
    let twin = free("binary_star", "voter", "tcp://", twin);
    let mut second = group.start_monitor(0, "twin", &twin);
    let ended = second.process().wait_for_end(Duration::from_secs(30));
    assert_eq!(ended.code(), Some(2), "{}", second.process().log());
    let log = second.process().log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("primary"), "the name is not in: {last}");
    group.ready();
    assert_eq!(group.settled().epoch, before.epoch);
}

/// After kill -9 the old sessions hold the names for 20 s yet; but the processes are known to be gone.
#[test]
fn both_monitors_come_back_after_kill() {
    let mut group = Group::of(1).monitor_key("zookeeper", "session_timeout_ms", 20_000).start();
    let before = group.settled();
    group.monitors.iter_mut().for_each(|monitor| monitor.process().kill());
    let primary = group.primary();
    group.redis[primary].kill();
    group.monitors.iter_mut().for_each(world::programs::Program::restart);
    let killed = std::time::Instant::now();
    wait::until("another primary", LIMIT, || {
        let now = group.try_state()?;
        wait::holds(now.promoted > before.promoted, || format!("{now:?}"))
    });
    // They do not wait for the end of their sessions.
    wait::took("both are back and have promoted", Duration::from_secs(15), killed, killed.elapsed());
    group.redis[primary].restart();
    group.ready();
    group.settled();
}

/// Every process is restarted once, each while the others serve; then all of them at once.
#[test]
fn every_process_is_restarted() {
    let mut group = Group::of(2).redis_line("appendonly yes").start();
    let load = group.load();
    for number in 0..2 {
        group.monitors[number].process().terminate(LIMIT);
        group.monitors[number].restart();
        group.ready();
    }
    group.zookeeper.restart();
    group.settled();
    group.ready();
    for number in 0..3 {
        group.redis[number].restart();
        group.settled();
        load.wait_for_writes(50, LIMIT);
    }
    let report = load.stop();
    report.assert_clean();
    group.apis[0].process().terminate(LIMIT);
    group.apis[0].restart();
    group.ready();
    assert_eq!(report.lost(), Vec::<String>::new());
}
