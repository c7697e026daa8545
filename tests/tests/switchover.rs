//! R15 with real servers: the primary moves under load, and neither a request fails nor a write is lost, not even of those
//! who wait for no copies; what cannot be done without that changes nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use world::group::Group;
use world::{programs, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// `monitor switchover FILE posts ...`: its exit code and what it printed.
fn switchover(group: &Group, words: &[&str]) -> (i32, String) {
    let file = group.monitors[0].file().display().to_string();
    let words = [&["switchover", file.as_str(), "posts"], words].concat();
    programs::run("monitor", &words, LIMIT)
}

#[track_caller]
fn switched(group: &mut Group, words: &[&str]) {
    let before = group.settled();
    let file = group.monitors[0].file().display().to_string();
    let words = [&["switchover", file.as_str(), "posts"], words].concat();
    let said = programs::run_well("monitor", &words, LIMIT);
    assert!(said.contains(&format!("is primary instead of {}", before.primary.addr)), "{said}");
    let after = group.settled();
    assert_ne!(after.primary.addr, before.primary.addr);
    assert_eq!((after.promoted, after.from), (before.epoch + 1, None));
}

fn moves_under_load(durability: &str) {
    let mut group = Group::of(2).patient().api_key("api", "durability", durability).start();
    group.settled();
    let load = group.load();
    load.wait_for_writes(100, LIMIT);
    for _ in 0..5 {
        let before = group.state();
        switched(&mut group, &[]);
        load.wait_for_epoch_above(before.epoch, LIMIT);
        load.wait_for_writes(50, LIMIT);
    }
    // To the one that is asked for; and a failover right afterwards does not wait.
    let before = group.settled();
    let to = before.in_sync[0].addr.to_string();
    let (code, said) = switchover(&group, &["--to", &to]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(group.state().primary.addr.to_string(), to);
    assert_eq!(group.history()[0]["what"], "switchover");
    assert_eq!(group.history()[0]["lost_bytes_seen"], 0);
    load.wait_for_writes(50, LIMIT);
    load.stop().assert_clean();
}

#[test]
fn no_request_fails_with_sync() {
    moves_under_load("sync");
}

#[test]
fn no_request_fails_and_nothing_is_lost_with_async() {
    moves_under_load("async");
}

/// A client of Redis itself, on one connection, that waits for no copy: what it was told is there afterwards, and the old
/// primary closes its connection.
#[test]
fn a_plain_client_is_cut_off_and_loses_nothing() {
    let mut group = Group::of(2).patient().start();
    for _ in 0..5 {
        let before = group.settled();
        let old = group.primary();
        group.redis[old].cmd(&["SET", "plain", "0"]);
        let mut client = TcpStream::connect(before.primary.addr.to_string()).expect("a connection");
        client.set_read_timeout(Some(LIMIT)).expect("a time limit");
        let stop = AtomicBool::new(false);
        let told = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut told = 0_u64;
                while !stop.load(Ordering::Acquire) {
                    let mut answer = [0; 64];
                    if write!(client, "SET plain {}\r\n", told + 1).is_err() {
                        return told;
                    }
                    match client.read(&mut answer) {
                        Ok(length) if answer[..length] == *b"+OK\r\n" => told += 1,
                        // It was held, and is told so before it is closed.
                        Ok(length) if answer[..length].starts_with(b"-READONLY") => {}
                        Ok(0) | Err(_) => return told,
                        Ok(length) => panic!("{}", String::from_utf8_lossy(&answer[..length])),
                    }
                }
                panic!("the connection stays open after {told} writes")
            });
            wait::until("some writes", LIMIT, || {
                let value = group.redis[old].cmd(&["GET", "plain"]).text().to_owned();
                wait::holds(value.parse::<u64>().is_ok_and(|value| value > 100), || value)
            });
            switched(&mut group, &[]);
            wait::until("the end of the connection", LIMIT, || {
                wait::holds(writer.is_finished(), || "it still writes".to_owned())
            });
            stop.store(true, Ordering::Release);
            writer.join().expect("an orderly end")
        });
        let new = group.primary();
        let value: u64 = group.redis[new].cmd(&["GET", "plain"]).text().parse().expect("a number");
        assert!(value >= told, "{told} writes were answered, and {value} are there");
    }
}

/// One that stands still is waited for as long as the budget lasts; then all is as before, and writes went on.
#[test]
fn a_replica_that_stands_still_changes_nothing() {
    let mut group = Group::of(2).monitor_key("detector", "down_after_ms", 5000).start();
    let before = group.settled();
    let to = before.in_sync[0].addr.clone();
    let number = group.number_of(&to);
    let load = group.load();
    load.wait_for_writes(50, LIMIT);
    group.redis[number].pause();
    let (code, said) = switchover(&group, &["--to", &to.to_string()]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains(&to.to_string()), "{said}");
    let after = group.state();
    assert_eq!((after.primary, after.promoted, after.from), (before.primary, before.promoted, None));
    group.redis[number].resume();
    load.wait_for_writes(50, LIMIT);
    group.settled();
    load.stop().assert_clean();
}

#[test]
fn what_is_refused() {
    let mut group = Group::of(1).start();
    let before = group.settled();
    let (code, said) = switchover(&group, &["--to", &before.primary.addr.to_string()]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("is the primary already"), "{said}");
    let (code, said) = switchover(&group, &["--to", "127.0.0.1:1"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("127.0.0.1:1 is no member"), "{said}");
    let replica = 1 - group.primary();
    group.redis[replica].kill();
    let (code, said) = switchover(&group, &[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("nobody may be promoted"), "{said}");
    assert_eq!(group.state().promoted, before.promoted);
}

/// The monitor that switches stops or dies before each step. The other one goes on from there, or all is as it was, and
/// nobody waits for the end of a pause.
#[track_caller]
fn fails_before(step: &str, how: &str) {
    let mut group = Group::of(2).start();
    let peer = group.wait_for_active();
    let faulty = 1 - peer;
    // Only the switchover is to meet the fault: so it is armed in the passive one, which then leads.
    group.monitors[faulty].process().terminate(LIMIT);
    group.monitors[faulty].set_env(&[("ALBIREO_TEST_FAULT", &format!("{how}:{step}"))]);
    group.monitors[faulty].restart();
    group.ready();
    group.monitors[peer].process().terminate(LIMIT);
    group.wait_until_leading(faulty);
    group.monitors[peer].restart();
    group.ready();
    let before = group.settled();
    let load = group.load();
    load.wait_for_writes(50, LIMIT);
    let (code, said) = thread::scope(|scope| {
        let file = group.monitors[peer].file().display().to_string();
        let verb = scope.spawn(move || programs::run("monitor", &["switchover", &file, "posts"], LIMIT));
        let process = group.monitors[faulty].process();
        match how {
            "stop" => process.wait_until_stopped(LIMIT),
            _ => _ = process.wait_for_end(LIMIT),
        }
        group.wait_until_leading(peer);
        if how == "stop" {
            group.monitors[faulty].process().resume();
        }
        verb.join().expect("an answer")
    });
    let after = group.settled();
    let moved = after.primary.addr != before.primary.addr;
    assert_eq!(moved, step != "publish", "{how}:{step}: {before:?} {after:?}");
    // One that stood still may see, when it goes on, that it was done.
    assert!(code == 1 || (code, how, moved) == (0, "stop", true), "{how}:{step}: {code} {said}");
    let promoted = if moved { before.epoch + 1 } else { before.promoted };
    assert_eq!((after.promoted, after.from), (promoted, None), "{how}:{step}");
    load.wait_for_writes(50, LIMIT);
    load.stop().assert_clean();
}

const STEPS: [&str; 4] = ["publish", "detach", "promote", "announce"];

#[test]
fn the_monitor_dies_before_each_step() {
    for step in STEPS {
        println!("kill before {step}");
        fails_before(step, "kill");
    }
}

#[test]
fn the_monitor_stands_still_before_each_step() {
    for step in STEPS {
        println!("stop before {step}");
        fails_before(step, "stop");
    }
}

/// Another primary is written into `<path>`, as the programs of the original did: it is moved there, under load, or put back.
#[test]
fn another_primary_in_the_path_is_a_request() {
    let mut group = Group::of(2).start();
    let before = group.settled();
    let load = group.load();
    load.wait_for_writes(100, LIMIT);
    let (old, new) = (before.primary.addr.to_string(), before.in_sync[1].addr.to_string());
    let third = before.in_sync[0].addr.to_string();
    let path = group.path();
    let edit = |group: &Group, primary: &str, others: [&str; 2]| {
        let text = format!(r#"{{"primary": "{primary}", "secondary": ["{}", "{}"]}}"#, others[0], others[1]);
        group.zookeeper.set(path.as_str(), &text);
    };
    let active = group.wait_for_active();
    let (done, put_back) =
        (format!("switchover to {new}, asked for in the path, is done"), format!("primary {new}, asked"));
    // A machine with other work may not get two servers level within the budget. Then nothing has changed, and it is asked
    // for again.
    for asked in 1.. {
        assert!(asked <= 5, "it was put back each time");
        edit(&group, &new, [&old, &third]);
        let count = |log: &str, text: &str| log.lines().filter(|line| line.contains(text)).count();
        let is_done = wait::until("an end", LIMIT, || {
            let log = group.monitors[active].process().log();
            let ended = (count(&log, &done), count(&log, &put_back));
            wait::holds(ended.0 == 1 || ended.1 == asked, || log).map(|()| ended.0 == 1)
        });
        if is_done {
            break;
        }
        let after = group.settled();
        assert_eq!((after.primary.addr, after.promoted), (before.primary.addr.clone(), before.promoted));
    }
    let after = group.settled();
    assert_eq!(after.primary.addr.to_string(), new);
    assert!(after.promoted > before.epoch, "{after:?}");
    assert_eq!(group.announced().map(|topology| topology.primary.to_string()), Ok(new.clone()));
    load.wait_for_epoch_above(before.epoch, LIMIT);

    edit(&group, "127.0.0.1:1", [&new, &third]);
    let refused = "primary 127.0.0.1:1, asked for in the path, is put back: 127.0.0.1:1 is no member";
    group.monitors[active].process().wait_for_line(refused, LIMIT);
    assert_eq!(group.settled().primary, after.primary);
    load.wait_for_writes(50, LIMIT);
    load.stop().assert_clean();
}
