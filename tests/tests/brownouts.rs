//! A primary that answers, but not with what was asked for, is not dead.

use std::time::Duration;

use serde_json::Value;
use world::group::Group;
use world::wait;

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
