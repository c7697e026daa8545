//! Everything was restarted (R14): what is chosen, what is waited for, and that nobody is emptied meanwhile.

use std::time::Duration;

use world::group::{Builder, Group};
use world::wait;

const LIMIT: Duration = Duration::from_secs(20);

fn group() -> Builder {
    Group::of(2).monitor_key("failover", "cold_wait_ms", 500)
}

/// Under load, then everything is saved and dies. The replicas' files do not name a primary any more.
fn all_die(group: &mut Group) -> world::load::Report {
    let load = group.load();
    load.wait_for_writes(200, LIMIT);
    let report = load.stop();
    report.assert_clean();
    for redis in &mut group.redis {
        assert_eq!(redis.cmd(&["SAVE"]).text(), "OK");
        redis.change(world::redis::Settings::replica_of_nobody);
    }
    kill_at_once(group);
    report
}

/// The monitors stand still meanwhile: else they would promote the next one after each death.
fn kill_at_once(group: &mut Group) {
    group.monitors.iter_mut().for_each(|monitor| monitor.process().pause());
    group.redis.iter_mut().for_each(world::redis::Redis::kill);
    group.monitors.iter_mut().for_each(|monitor| monitor.process().resume());
}

#[test]
fn everything_is_restarted_with_its_data() {
    let mut group = group().start();
    let before = group.settled();
    let report = all_die(&mut group);
    group.redis.iter_mut().for_each(world::redis::Redis::restart);
    let after = group.settled();
    assert_eq!(after.primary.addr, before.primary.addr, "all hold the same");
    assert_eq!(report.lost(), Vec::<String>::new());
    let history = group.history();
    let later: Vec<_> = history.iter().filter(|entry| entry["epoch"].as_u64() > Some(before.epoch)).collect();
    let why = later.iter().map(|entry| entry["why"].as_str().unwrap_or_default()).collect::<Vec<_>>();
    assert!(why.len() == 1 && why[0].starts_with("cold start, loss possible"), "{history:?}");
    assert_eq!(later[0]["epoch"].as_u64(), Some(after.promoted));
}

/// What the chosen one lacks is lost; what it has must be what was acknowledged last.
#[test]
fn the_primary_comes_back_with_an_old_copy() {
    let mut group = group().start();
    let before = group.settled();
    let primary = group.primary();
    // The primary's file is from before the writes.
    assert_eq!(group.redis[primary].cmd(&["SAVE"]).text(), "OK");
    let load = group.load();
    load.wait_for_writes(200, LIMIT);
    let report = load.stop();
    for (number, redis) in group.redis.iter_mut().enumerate() {
        if number != primary {
            assert_eq!(redis.cmd(&["SAVE"]).text(), "OK");
        }
        redis.change(world::redis::Settings::replica_of_nobody);
    }
    kill_at_once(&mut group);
    group.redis.iter_mut().for_each(world::redis::Redis::restart);
    let after = group.settled();
    assert_ne!(after.primary.addr, before.primary.addr);
    assert_eq!(report.lost(), Vec::<String>::new());
}

/// Nothing is left to lose: the recorded primary begins anew.
#[test]
fn nothing_is_left_anywhere() {
    let mut group = group().start();
    let before = group.settled();
    kill_at_once(&mut group);
    group.redis.iter_mut().for_each(world::redis::Redis::restart_empty);
    let after = group.settled();
    assert_eq!((after.epoch > before.epoch, &after.primary.addr), (true, &before.primary.addr));
    let load = group.load();
    load.wait_for_writes(50, LIMIT);
    load.stop().assert_clean();
}

/// The replicas' files still name the primary: they are detached before it comes back, so that it cannot empty them.
#[test]
fn the_primary_comes_back_empty_after_its_replicas() {
    let mut group = group().start();
    let before = group.settled();
    let primary = group.primary();
    let load = group.load();
    load.wait_for_writes(200, LIMIT);
    let report = load.stop();
    for (number, redis) in group.redis.iter().enumerate() {
        if number != primary {
            assert_eq!(redis.cmd(&["SAVE"]).text(), "OK");
        }
    }
    kill_at_once(&mut group);
    for (number, redis) in group.redis.iter_mut().enumerate() {
        if number != primary {
            redis.restart();
        }
    }
    for (number, redis) in group.redis.iter().enumerate() {
        if number != primary {
            wait::until("it follows nobody", LIMIT, || {
                let port = redis.try_info("master_port").map_err(|e| e.to_string())?;
                wait::holds(port == "0", || format!("master_port is {port}"))
            });
        }
    }
    group.redis[primary].restart_empty();
    let after = group.settled();
    assert_ne!(after.primary.addr, before.primary.addr);
    assert_eq!(report.lost(), Vec::<String>::new());
}

/// A server of the set that has not come back may hold what the others lack.
#[test]
fn a_missing_server_is_waited_for() {
    let mut group = group().start();
    let before = group.settled();
    let report = all_die(&mut group);
    let primary = group.primary();
    let missing = (0..3).find(|number| *number != primary).expect("a replica");
    let addr = group.redis[missing].endpoint();
    for (number, redis) in group.redis.iter_mut().enumerate() {
        if number != missing {
            redis.restart();
        }
    }
    let active = group.wait_for_active();
    wait::until("the status names it", LIMIT, || {
        let service = group.monitors[active].services().remove(0);
        let because = service["because"].as_str().unwrap_or_default().to_owned();
        wait::holds(because.contains(&format!("waiting for {addr}")), || because.clone())
    });
    // Ten times cold_wait_ms.
    wait::never("a cold start without it", Duration::from_secs(5), || {
        let now = group.try_state()?;
        wait::holds(now.promoted == before.promoted, || format!("{now:?}"))
    });
    group.redis[missing].restart();
    let after = group.settled();
    assert!(after.promoted > before.promoted, "{after:?}");
    assert_eq!(report.lost(), Vec::<String>::new());
}
