//! What operators see without a browser: `monitor status` and `monitor history`, the history and `/events` of the admin
//! port, and what each says when somebody does not answer.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use world::group::Group;
use world::{Host, http, programs, wait};

const LIMIT: Duration = Duration::from_secs(20);

fn file(group: &Group, monitor: usize) -> String {
    group.monitors[monitor].file().display().to_string()
}

fn run(words: &[&str]) -> (i32, String) {
    programs::run("monitor", words, LIMIT)
}

#[track_caller]
fn json(words: &[&str], code: i32) -> Value {
    let (ended, said) = run(words);
    assert_eq!(ended, code, "{words:?}: {said}");
    serde_json::from_str(&said).unwrap_or_else(|e| panic!("{words:?}: {e}: {said}"))
}

#[test]
fn the_status_says_who_is_primary_and_what_is_at_risk() {
    let mut group = Group::of(2).start();
    let state = group.settled();
    let primary = state.primary.addr.to_string();
    // The file of either monitor does.
    for monitor in [0, 1] {
        let said = wait::until("a status without lag, of a pair that has found its roles", LIMIT, || {
            let (code, said) = run(&["status", &file(&group, monitor)]);
            let all_well = said.contains("takes over, 0 bytes behind") && said.contains("PASSIVE");
            wait::holds(code == 0 && all_well, || said.clone())?;
            Ok::<_, String>(said)
        });
        assert!(
            said.contains(&format!("posts  primary {primary}  epoch {}  serving", state.epoch)),
            "{said}"
        );
        assert!(said.contains(&format!("risk   if {primary} dies now: ")), "{said}");
        assert!(said.contains("leads"), "{said}");
    }
    let status = json(&["status", &file(&group, 1), "--json"], 0);
    let service = &status["services"][0];
    assert_eq!(service["primary"], primary);
    assert_eq!((&service["phase"], &service["epoch"]), (&"serving".into(), &state.epoch.into()));
    for key in ["name", "role", "state", "active", "version"] {
        assert!(status["monitors"][0].get(key).is_some(), "{key}: {status}");
    }
    for key in ["addr", "role", "lag_bytes", "up", "eligible", "why"] {
        assert!(service["members"][0].get(key).is_some(), "{key}: {status}");
    }
    let heir = service["risk"]["takes_over"].as_str().expect("somebody takes over").to_owned();
    assert_eq!(service["risk"]["dies"], primary);
    // What was said comes true, unless the other one got a byte more by then.
    let old = group.primary();
    group.redis[old].kill();
    let after = group.settled();
    let heirs: Vec<String> = state.in_sync.iter().map(|entry| entry.addr.to_string()).collect();
    assert!(heirs.contains(&heir) && heirs.contains(&after.primary.addr.to_string()));

    // One is left, and then none: nobody can take over.
    let last = group.number_of(&after.in_sync[0].addr);
    group.redis[last].kill();
    wait::until("the risk", LIMIT, || {
        let (code, said) = run(&["status", &file(&group, 0)]);
        let loud = "RISK   if ";
        let nobody = "NOBODY can take over, because";
        wait::holds(code == 0 && said.contains(loud) && said.contains(nobody), || format!("{code}: {said}"))
    });
}

#[test]
fn the_status_is_told_by_whoever_is_left() {
    let mut group = Group::of(1).apis(0).start();
    let state = group.settled();
    let primary = state.primary.addr.to_string();
    // ZooKeeper is silent: the monitor of this file is asked, and says for how long.
    group.zookeeper.pause();
    wait::until("the monitor knows", LIMIT, || {
        let (code, said) = run(&["status", &file(&group, 0)]);
        let right = code == 1
            && said.contains("NOT ANSWERED BY A MONITOR THAT LEADS: ZooKeeper at")
            && said.contains(&format!("posts  primary {primary}"))
            && said.contains("STALE  ZooKeeper has not answered for");
        wait::holds(right, || format!("{code}: {said}"))
    });
    group.zookeeper.resume();
    let active = group.wait_for_active();
    // The one that leads stands still, and nobody takes over from it.
    group.monitors[1 - active].process().kill();
    group.monitors[active].process().pause();
    let (code, said) = run(&["status", &file(&group, 0)]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("did not answer in time") || said.contains("is not there"), "{said}");
    assert!(said.contains("led last") && said.contains(&format!("posts  primary {primary}")), "{said}");
    // No monitor is there: ZooKeeper still knows who was primary.
    group.monitors.iter_mut().for_each(|monitor| monitor.process().kill());
    let (code, said) = run(&["status", &file(&group, 0)]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("NOT ANSWERED BY A MONITOR THAT LEADS"), "{said}");
    assert!(said.contains("What follows is what ZooKeeper holds"), "{said}");
    assert!(said.contains(&format!("posts  primary {primary}")), "{said}");
    assert!(said.contains("perhaps NOBODY takes over"), "{said}");
    let status = json(&["status", &file(&group, 0), "--json"], 1);
    assert_eq!(status["services"][0]["primary"], primary);
    assert!(!status["error"].is_null(), "{status}");
    for words in
        [&["status"][..], &["status", &file(&group, 0), "posts"], &["check", &file(&group, 0), "--json"]]
    {
        assert_eq!(run(words).0, 2, "{words:?}");
    }
}

#[test]
fn the_history_holds_what_was_decided_and_what_was_refused() {
    let mut group = Group::of(2).start();
    let before = group.settled();
    let (old, active) = (group.primary(), group.wait_for_active());
    group.redis[old].kill();
    let after = group.settled();
    let (code, said) = run(&["failover", &file(&group, 0), "posts", "--to", "127.0.0.1:1"]);
    assert_eq!(code, 3, "{said}");
    let (code, _) = run(&["failover", &file(&group, 0), "posts", "--to", "127.0.0.1:1"]);
    assert_eq!(code, 3);
    let page = "/services/posts/history";
    let history = wait::until("both records", LIMIT, || {
        let history = group.monitors[active].get(page).json();
        let times = history[0]["times"].as_u64();
        wait::holds(times == Some(2), || history.to_string())?;
        Ok::<_, String>(history)
    });
    let all = history.as_array().expect("a list");
    let what: Vec<&str> = all.iter().filter_map(|record| record["what"].as_str()).collect();
    assert_eq!(what, ["failover refused", "failover"], "{history}");
    let (refusal, failover) = (&all[0], &all[1]);
    assert!(refusal["why"].to_string().contains("nobody may be promoted"), "{refusal}");
    assert_eq!(refusal["to"], "127.0.0.1:1");
    assert_eq!(failover["from"], before.primary.addr.to_string());
    assert_eq!(failover["to"], after.primary.addr.to_string());
    assert_eq!(failover["lost_bytes_seen"], 0);
    let saw = failover["saw"].as_array().expect("what was seen");
    assert_eq!(saw.len(), 4, "this monitor, its peer, two replicas: {failover}");
    assert!(saw[0]["saw"].to_string().contains("refuses connections"), "{failover}");
    assert_eq!(failover["candidates"].as_array().map(Vec::len), Some(2));
    for phase in ["detected_ms", "decided_ms", "published_ms", "promoted_ms", "announced_ms"] {
        assert!(failover["phases"][phase].as_f64().is_some(), "{phase}: {failover}");
    }
    assert!(all.iter().all(|record| record.to_string().len() <= 2048), "{history}");
    let log = group.monitors[active].process().log();
    let line = format!("failover from {} to {} is complete, ", before.primary.addr, after.primary.addr);
    assert!(log.contains(&line) && log.contains(" ms after the loss"), "{log}");
    assert_eq!(group.monitors[active].get("/services/none/history").status, 404);

    // Also with every monitor dead.
    group.monitors.iter_mut().for_each(|monitor| monitor.process().kill());
    assert_eq!(json(&["history", &file(&group, 1), "posts", "--json"], 0), history);
    let (code, said) = run(&["history", &file(&group, 1), "posts"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("failover refused (2 times)"), "{said}");
    assert!(said.contains("primary gone: connection closed"), "{said}");
    let (code, said) = run(&["history", &file(&group, 1), "none"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no service is called `none`"), "{said}");
    assert_eq!(run(&["history", &file(&group, 1)]).0, 2);
}

/// A primary is lost and nobody may take over: that is a decision, too.
#[test]
fn a_failover_that_does_not_happen_is_remembered() {
    let mut group = Group::of(1).apis(0).start();
    group.settled();
    let old = group.primary();
    let active = group.wait_for_active();
    group.redis[1 - old].kill();
    wait::until("it leaves the set", LIMIT, || {
        let in_sync = group.state().in_sync.len();
        wait::holds(in_sync == 0, || in_sync.to_string())
    });
    group.redis[old].kill();
    let record = wait::until("the record", LIMIT, || group.history().first().cloned().ok_or("none yet"));
    assert_eq!(record["what"], "no failover");
    assert!(record["why"].to_string().contains("nobody may be promoted"), "{record}");
    assert_eq!(record["candidates"][0]["why"], "not in sync");
    assert!(group.monitors[active].process().log().contains("nobody may be promoted"));
}

/// One stream of events.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(addr: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(addr).expect("a connection");
        stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
        stream.write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request");
        Self(BufReader::new(stream))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).expect("a line");
        assert!(read > 0, "the stream ended");
        line.trim_end().to_owned()
    }

    /// The data of the next event of this kind.
    fn next(&mut self, kind: &str) -> Value {
        loop {
            if self.line() == format!("event: {kind}") {
                let data = self.line();
                let data = data.strip_prefix("data: ").expect("data").to_owned();
                return serde_json::from_str(&data).unwrap_or_else(|e| panic!("{kind}: {e}: {data}"));
            }
        }
    }
}

#[test]
fn events_tell_of_every_change() {
    let mut group = Group::of(2).apis(0).start();
    let before = group.settled();
    let (active, old) = (group.wait_for_active(), group.primary());
    let mut events = Events::open(group.monitors[active].http());
    let first = events.next("status");
    assert_eq!(first["services"][0]["primary"], before.primary.addr.to_string());
    let _ = events.next("alive");
    let peers = events.next("peers");
    assert_eq!(peers["peers"][0]["status"]["services"][0]["primary"], before.primary.addr.to_string());
    let asked = group.monitors[active].get("/peer/services").json();
    assert_eq!(asked["peers"][0]["name"], peers["peers"][0]["name"]);
    group.redis[old].kill();
    let decision = events.next("decision");
    assert_eq!((&decision["service"], &decision["what"]), (&"posts".into(), &"failover".into()));
    loop {
        let status = events.next("status");
        if status["services"][0]["primary"] == decision["to"] {
            break;
        }
    }
    // The peer is gone: that is said, and nothing waits for it.
    group.monitors[1 - active].process().kill();
    wait::until("the peer is not heard", LIMIT, || {
        let asked = group.monitors[active].get("/peer/services").json();
        let error = &asked["peers"][0]["error"];
        wait::holds(error.is_string() || asked["peers"] == Value::Array(Vec::new()), || asked.to_string())
    });
}

/// Streams that nobody reads: there are so many and no more, and no failover waits for them.
#[test]
fn streams_that_nobody_reads_hold_up_nothing() {
    let mut group = Group::of(1).apis(0).start();
    let before = group.settled();
    let active = group.wait_for_active();
    let addr = group.monitors[active].http();
    let mut deaf: Vec<Events> = (0..64).map(|_| Events::open(addr)).collect();
    deaf.iter_mut().for_each(|events| assert_eq!(events.line(), "HTTP/1.1 200 OK"));
    let one_more = http::call(&Host::local(), addr, http::Request::get("/events"), LIMIT).expect("an answer");
    assert_eq!(one_more.status, 503);
    assert_eq!(one_more.json()["error"]["code"], "overloaded");
    let old = group.primary();
    group.redis[old].kill();
    let after = group.settled();
    assert!(after.promoted > before.promoted);
    let record = wait::until("the record", LIMIT, || group.history().first().cloned().ok_or("none yet"));
    println!("with 64 deaf streams: {}", record["phases"]);
    assert_eq!(group.monitors[active].get("/services").status, 200);
    // A place is free again once a stream ends.
    deaf.pop();
    wait::until("a place", LIMIT, || {
        let mut events = Events::open(addr);
        let line = events.line();
        wait::holds(line == "HTTP/1.1 200 OK", || line)
    });
}
