//! A primary that answers, but not with what was asked for, is not dead.

use std::time::Duration;

use serde_json::Value;
use world::group::Group;
use world::{programs, wait};

const LIMIT: Duration = Duration::from_secs(20);
/// Four times `down_after_ms`.
const TROUBLE: Duration = Duration::from_secs(2);

/// What the active monitor says of the recorded primary.
#[track_caller]
fn shown_primary(group: &Group) -> Value {
    let active = group.wait_for_active();
    let services = group.monitors[active].services();
    let members = services[0]["members"].as_array().cloned().unwrap_or_default();
    let primary = services[0]["primary"].clone();
    let found = members.into_iter().find(|member| member["addr"] == primary);
    found.unwrap_or_else(|| panic!("the primary is not among the members: {services:?}"))
}

#[track_caller]
fn not_replaced(group: &Group, time: Duration, what: &str) {
    let before = group.state();
    wait::never(what, time, || {
        let now = group.try_state()?;
        let same = (now.promoted, &now.primary) == (before.promoted, &before.primary);
        wait::holds(same, || format!("before {before:?}, now {now:?}"))
    });
}

/// The server answers BUSY to everything while a script runs.
#[test]
fn a_long_script_is_not_down() {
    let mut group = Group::of(1).redis_line("lua-time-limit 100").start();
    let before = group.state();
    let load = group.load();
    let primary = group.primary();
    let mut connection = group.redis[primary].connect().expect("a connection");
    let script = "local t = redis.call('TIME'); local till = t[1] * 1000 + t[2] / 1000 + 2000; \
                  repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > till; return 1";
    connection.send(&["EVAL", script, "0"]).expect("sent");
    not_replaced(&group, TROUBLE, "a failover because of a script");
    assert_eq!(connection.receive().expect("the script's result").number(), 1);
    load.wait_for_writes(50, LIMIT);
    let after = group.settled();
    assert_eq!((after.promoted, after.primary), (before.promoted, before.primary));
    load.stop().assert_clean();
}

/// The server answers LOADING to everything while it reads its data again.
#[test]
fn loading_is_not_down() {
    let mut group = Group::of(1)
        .redis_line("enable-debug-command yes")
        .redis_line("loading-process-events-interval-bytes 1024")
        .start();
    let before = group.state();
    let primary = group.primary();
    let server = &group.redis[primary];
    assert_eq!(server.cmd(&["DEBUG", "POPULATE", "1000", "bulk", "100"]).text(), "OK");
    // 1000 keys at 2 ms each.
    assert_eq!(server.cmd(&["CONFIG", "SET", "key-load-delay", "2000"]).text(), "OK");
    group.settled();
    let load = group.load();
    let mut connection = group.redis[primary].connect().expect("a connection");
    connection.send(&["DEBUG", "RELOAD"]).expect("sent");
    wait::until("LOADING", LIMIT, || {
        let reply = group.redis[primary].try_cmd(&["GET", "a"]).map_err(|e| e.to_string())?;
        wait::holds(reply.is_error("LOADING"), || format!("{reply:?}"))
    });
    not_replaced(&group, Duration::from_secs(1), "a failover because of LOADING");
    assert_eq!(connection.receive().expect("reloaded").text(), "OK");
    load.wait_for_writes(50, LIMIT);
    let after = group.settled();
    assert_eq!((after.promoted, after.primary), (before.promoted, before.primary));
    load.stop().assert_nothing_lost();
}

/// A monitor that is not let in says so; it does not take the server for dead.
#[test]
fn a_wrong_password_is_not_down() {
    let mut group = Group::of(1).start();
    let before = group.state();
    let load = group.load();
    let primary = group.primary();
    let mut connection = group.redis[primary].connect().expect("a connection");
    assert_eq!(connection.call(&["CONFIG", "SET", "requirepass", "secret"]).expect("set").text(), "OK");
    // Connections that are open stay as they are; new ones are refused.
    for number in 0..2 {
        group.monitors[number].process().terminate(LIMIT);
        group.monitors[number].restart();
    }
    wait::until("the monitor tells about the password", LIMIT, || {
        let shown = shown_primary(&group);
        let told = shown["why"].as_str().is_some_and(|why| why.contains("NOAUTH"));
        wait::holds(told, || shown.to_string())
    });
    not_replaced(&group, TROUBLE, "a failover because of a password");
    assert_eq!(connection.call(&["CONFIG", "SET", "requirepass", ""]).expect("set").text(), "OK");
    let after = group.settled();
    assert_eq!((after.promoted, after.primary), (before.promoted, before.primary));
    load.stop().assert_clean();
}

/// A replica that answers nothing but BUSY holds no copy: it leaves the set, and no failover follows.
#[test]
fn a_busy_replica_leaves_the_set() {
    let mut group = Group::of(2).redis_line("lua-time-limit 100").start();
    let before = group.state();
    let load = group.load();
    let primary = group.primary();
    let replica = (0..group.redis.len()).find(|number| *number != primary).expect("a replica");
    let addr = group.redis[replica].endpoint();
    let mut connection = group.redis[replica].connect().expect("a connection");
    let script = "local t = redis.call('TIME'); local till = t[1] * 1000 + t[2] / 1000 + 3000; \
                  repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > till; return 1";
    connection.send(&["EVAL_RO", script, "0"]).expect("sent");
    wait::until("it leaves the set", LIMIT, || {
        let now = group.try_state()?;
        wait::holds(now.in_sync(&addr).is_none(), || format!("{now:?}"))
    });
    load.wait_for_writes(50, LIMIT);
    assert_eq!(connection.receive().expect("the script's result").number(), 1);
    let after = group.settled();
    assert_eq!((after.promoted, after.primary), (before.promoted, before.primary));
    load.stop().assert_clean();
}

/// A server whose memory is full refuses every transaction. It is stamped all the same, so that newcomers get in, and
/// demoted when it comes back as a former primary; its limit stays.
#[test]
fn a_full_primary_is_stamped_and_demoted() {
    let mut group = Group::of(1).start();
    let primary = group.primary();
    let replica = 1 - primary;
    let addr = group.redis[replica].endpoint();
    group.redis[replica].kill();
    wait::until("it leaves the set", LIMIT, || {
        let now = group.try_state()?;
        wait::holds(now.in_sync(&addr).is_none(), || format!("{now:?}"))
    });
    let limit = |group: &Group| {
        let reply = group.redis[primary].cmd(&["CONFIG", "GET", "maxmemory"]);
        reply.list()[1].text().to_owned()
    };
    assert_eq!(group.redis[primary].cmd(&["CONFIG", "SET", "maxmemory", "1000"]).text(), "OK");
    let refused = group.redis[primary].cmd(&["SET", "a", "b"]);
    assert!(refused.is_error("OOM"), "{refused:?}");
    group.redis[replica].restart();
    let state = group.settled();
    assert!(state.in_sync(&addr).is_some(), "{state:?}");
    assert_eq!(limit(&group), "1000");

    group.redis[primary].pause();
    wait::until("a failover", LIMIT, || {
        let now = group.try_state()?;
        wait::holds(now.primary.addr == addr, || format!("{now:?}"))
    });
    group.redis[primary].resume();
    group.settled();
    assert_eq!(limit(&group), "1000");
}

/// A primary that answers and has no room for writes is shown as such everywhere, keeps its role, and is itself again later.
#[test]
fn a_primary_without_room_is_shown() {
    let mut group = Group::of(1).start();
    group.settled();
    let primary = group.primary();
    let addr = group.redis[primary].endpoint();
    let shown = |group: &Group, health: &str| {
        wait::until(&format!("the state {health}"), LIMIT, || {
            let member = shown_primary(group);
            wait::holds(member["health"] == health, || member.to_string())
        });
        let active = group.wait_for_active();
        let series = format!("albireo_backend_brown_out{{service=\"posts\",backend=\"{addr}\"}}");
        group.monitors[active].metric(&series)
    };
    assert_eq!(shown(&group, "up"), Some(0.0));
    assert_eq!(group.redis[primary].cmd(&["CONFIG", "SET", "maxmemory", "1000"]).text(), "OK");
    assert_eq!(shown(&group, "oom"), Some(1.0));
    assert!(shown_primary(&group)["why"].to_string().contains("memory is full"));
    not_replaced(&group, TROUBLE, "a failover because of a full memory");
    assert_eq!(group.redis[primary].cmd(&["CONFIG", "SET", "maxmemory", "0"]).text(), "OK");
    assert_eq!(shown(&group, "up"), Some(0.0));

    // A directory stands where the snapshot is to go.
    let folder = group.redis[primary].cmd(&["CONFIG", "GET", "dir"]).list()[1].text().to_owned();
    let dump = std::path::Path::new(&folder).join("dump.rdb");
    std::fs::create_dir(&dump).expect("a directory");
    group.redis[primary].cmd(&["BGSAVE"]);
    assert_eq!(shown(&group, "misconf"), Some(1.0));
    let active = group.wait_for_active();
    group.monitors[active].process().wait_for_line("its last snapshot failed", LIMIT);
    not_replaced(&group, TROUBLE, "a failover because of a full disk");
    std::fs::remove_dir(&dump).expect("the directory is removed");
    group.redis[primary].cmd(&["BGSAVE"]);
    assert_eq!(shown(&group, "up"), Some(0.0));
    group.monitors[active].process().wait_for_line("has room for writes again", LIMIT);
}

/// It is the monitor that was away, not the servers: nobody is taken for dead, and whoever looks is told.
#[test]
fn a_monitor_that_stood_still_says_so() {
    let mut group = Group::of(1).apis(0).start();
    let before = group.settled();
    let active = group.wait_for_active();
    let stalls = |group: &Group| group.monitors[active].metric("albireo_stalls_total").expect("a metric");
    let counted = stalls(&group);
    group.monitors[active].process().pause();
    // The driver turns once a heartbeat of 250 ms, and calls it a stall when that is late by a quarter of 500 ms: 375 ms
    // at most. The other one takes the lead after two heartbeats.
    std::thread::sleep(Duration::from_millis(430));
    group.monitors[active].process().resume();
    wait::until("the stall is counted", LIMIT, || {
        wait::holds(stalls(&group) > counted, || "not counted".to_owned())
    });
    let shown = group.monitors[active].get("/services").json()["monitors"][0]["stood_still"].clone();
    assert!(shown["ms"].as_u64().is_some_and(|ms| ms >= 50), "{shown}");
    let file = group.monitors[active].file().display().to_string();
    let (_, said) = programs::run("monitor", &["status", &file], LIMIT);
    // The lead may have moved, for a machine with other work may stop a process longer than was asked for.
    if group.wait_for_active() == active {
        assert!(said.contains("IT STOOD STILL for "), "{said}");
    }
    let after = group.settled();
    assert_eq!((after.promoted, after.primary), (before.promoted, before.primary));
}
