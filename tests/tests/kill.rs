//! The primary or a replica dies, stops, or comes back empty, while clients write.

use std::time::{Duration, Instant};

use world::group::{Group, SETTLE_LIMIT};
use world::wait;

const LIMIT: Duration = Duration::from_secs(20);
/// Generous: what the figure is worth is measured by the demo and the benchmarks, on a quiet machine.
const GAP_BOUND: Duration = Duration::from_secs(3);

/// Kills the primary under load: no request fails, nothing is lost, the old primary comes back as replica.
#[track_caller]
fn kill_the_primary_of(replicas: usize) {
    let mut group = Group::of(replicas).start();
    let before = group.state();
    let load = group.load();
    let old = group.primary();
    let at = Instant::now();
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    let after = group.settled();
    assert_ne!(after.primary.addr, before.primary.addr);
    assert!(before.in_sync(&after.primary.addr).is_some(), "{after:?} was not in sync: {before:?}");

    group.redis[old].restart_empty();
    let last = group.settled();
    assert_eq!((last.promoted, &last.primary), (after.promoted, &after.primary), "one failover, not two");
    let line = format!("set {} as replica of {}", before.primary.addr, after.primary.addr);
    let active = group.wait_for_active();
    group.monitors[active].process().wait_for_line(&line, LIMIT);

    load.wait_for_writes(100, LIMIT);
    let report = load.stop();
    report.assert_clean();
    let gap = report.gap(at).expect("a write under the new epoch");
    println!("{replicas} replicas: gap {gap:?}");
    wait::took("the gap", GAP_BOUND, at, gap);
}

#[test]
fn primary_of_one_replica_is_killed() {
    kill_the_primary_of(1);
}

#[test]
fn primary_of_two_replicas_is_killed() {
    kill_the_primary_of(2);
}

#[test]
fn primary_of_three_replicas_is_killed() {
    kill_the_primary_of(3);
}

/// Every client is still connected to the paused primary when it wakes up.
#[test]
fn a_paused_primary_is_replaced_and_demoted_when_it_wakes_up() {
    let mut group = Group::of(2).start();
    let before = group.state();
    let load = group.load();
    let old = group.primary();
    group.redis[old].pause();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    assert_ne!(group.state().primary.addr, before.primary.addr);
    group.redis[old].resume();
    let after = group.settled();
    assert_ne!(after.primary.addr, before.primary.addr, "one failover, not back again");
    load.wait_for_writes(100, LIMIT);
    load.stop().assert_clean();
}

/// Far below `down_after_ms`.
#[test]
fn a_short_pause_of_the_primary_is_no_failover() {
    let mut group = Group::of(2).start();
    let before = group.state();
    let load = group.load();
    let primary = group.primary();
    for _ in 0..5 {
        group.redis[primary].pause();
        std::thread::sleep(Duration::from_millis(100));
        group.redis[primary].resume();
        load.wait_for_writes(50, LIMIT);
    }
    let after = group.settled();
    assert_eq!((after.promoted, after.primary), (before.promoted, before.primary));
    load.stop().assert_clean();
}

/// A restarted primary is another process and empty; it must not empty its replicas.
#[test]
fn a_primary_that_returns_empty_at_once_empties_nobody() {
    for pause in [15, 100, 1000].map(Duration::from_millis) {
        let mut group = Group::of(2).start();
        let before = group.state();
        let load = group.load();
        let old = group.primary();
        group.redis[old].kill();
        std::thread::sleep(pause);
        group.redis[old].restart();
        load.wait_for_epoch_above(before.epoch, LIMIT);
        let after = group.settled();
        assert_ne!(after.primary.addr, before.primary.addr, "after {pause:?}");
        load.wait_for_writes(50, LIMIT);
        load.stop().assert_clean();
    }
}

/// A replica leaves the set and comes back; clients do not notice, nobody is promoted.
#[test]
fn a_replica_is_killed_and_paused() {
    let mut group = Group::of(2).start();
    let before = group.state();
    let load = group.load();
    let replica = (group.primary() + 1) % 3;
    let addr = group.redis[replica].endpoint();
    let leaves = |group: &Group| {
        wait::until("the replica has left the set", SETTLE_LIMIT, || {
            let state = group.try_state()?;
            wait::holds(state.in_sync(&addr).is_none(), || format!("{state:?}"))
        });
    };

    group.redis[replica].kill();
    leaves(&group);
    group.redis[replica].restart();
    group.settled();

    group.redis[replica].pause();
    leaves(&group);
    group.redis[replica].resume();
    let after = group.settled();

    assert_eq!((after.promoted, &after.primary), (before.promoted, &before.primary), "no failover");
    assert!(
        after.epoch >= before.epoch + 4,
        "left twice and came back twice: {} {}",
        before.epoch,
        after.epoch
    );
    load.wait_for_writes(50, LIMIT);
    load.stop().assert_clean();
}

/// What is not in sync is not promoted, even if it is the only one that answers.
#[test]
fn a_replica_that_was_away_is_not_promoted() {
    let mut group = Group::of(2).start();
    let before = group.state();
    let load = group.load();
    let primary = group.primary();
    let (away, other) = ((primary + 1) % 3, (primary + 2) % 3);
    group.redis[away].kill();
    let addr = group.redis[away].endpoint();
    wait::until("the replica has left the set", SETTLE_LIMIT, || {
        let state = group.try_state()?;
        wait::holds(state.in_sync(&addr).is_none(), || format!("{state:?}"))
    });
    load.wait_for_writes(100, LIMIT);
    group.redis[other].pause();
    group.redis[primary].kill();
    group.redis[away].restart();
    wait::never("the replica that was away is promoted", Duration::from_secs(3), || {
        let state = group.try_state()?;
        wait::holds(state.primary.addr == before.primary.addr, || format!("{state:?}"))?;
        wait::holds(!group.redis[away].is_primary(), || "it says that it is a master".to_owned())
    });
    group.redis[other].resume();
    let after = group.settled();
    assert_eq!(after.primary.addr, group.redis[other].endpoint());
    load.wait_for_writes(50, LIMIT);
    load.stop().assert_nothing_lost();
}

/// The replicas carry the credential of a promotion, and the next primary does not make one.
#[test]
fn the_restart_guard_is_switched_off() {
    let mut group = Group::of(2).start();
    let before = group.state();
    let user = |group: &Group, number: usize| {
        let reply = group.redis[number].cmd(&["CONFIG", "GET", "masteruser"]);
        reply.list()[1].text().to_owned()
    };
    let old = group.primary();
    let replica = (0..group.redis.len()).find(|number| *number != old).expect("a replica");
    assert_eq!(user(&group, replica), format!("albireo-repl-{}", before.promoted));
    for monitor in &mut group.monitors {
        monitor.set_env(&[("ALBIREO_FAILOVER_RESTART_GUARD", "off")]);
        monitor.process().terminate(LIMIT);
        monitor.restart();
    }
    group.redis[old].kill();
    wait::until("a failover", LIMIT, || {
        let now = group.try_state()?;
        wait::holds(now.promoted > before.promoted, || format!("{now:?}"))
    });
    let after = group.settled();
    assert!(!after.in_sync.is_empty(), "{after:?}");
    for number in (0..group.redis.len()).filter(|number| *number != old && *number != group.primary()) {
        assert_eq!(user(&group, number), "", "{}", group.redis[number].endpoint());
    }
}

/// Who comes without the credential of the promotion gets no data: not a stranger, and not a replica that restarted
/// before it was looked at. Its address alone would make it seem to hold what the process before it held (R3).
#[test]
fn nobody_replicates_without_the_credential() {
    let group = Group::of(1).start();
    let primary = group.primary();
    let addr = group.redis[primary].addr();
    let stranger = world::redis::Settings::default().replica_of(addr).start();
    // Redis tries again every second.
    wait::never("a stranger is let in", Duration::from_secs(3), || {
        let link = stranger.try_info("master_link_status").map_err(|e| e.to_string())?;
        wait::holds(link == "down", || format!("master_link_status is {link}"))
    });
    assert_eq!(stranger.cmd(&["GET", "albireo:fence"]), world::resp::Reply::Nil);
    let mut group = group;
    group.redis[1 - primary].restart();
    group.settled();
}

/// Somebody changes its password behind our back, and the primary cuts it off: it is told the right one again.
#[test]
fn a_replica_with_a_wrong_password_comes_back() {
    let mut group = Group::of(1).start();
    let (primary, before) = (group.primary(), group.settled());
    group.redis[1 - primary].cmd(&["CONFIG", "SET", "masterauth", "wrong"]);
    group.redis[primary].cmd(&["CLIENT", "KILL", "TYPE", "replica"]);
    wait::until("it is not in sync any more", LIMIT, || {
        let now = group.try_state()?;
        wait::holds(now.in_sync.is_empty(), || format!("{now:?}"))
    });
    let after = group.settled();
    assert_eq!((after.promoted, after.in_sync.len()), (before.promoted, 1));
}
