//! Who is primary, over HTTP at each monitor: answers and long polls across real failovers, and HAProxy, which asks there,
//! with the file of `conf/`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use topology::Endpoint;
use world::group::Group;
use world::http::{self, Answer, Request};
use world::resp::{Connection, Reply};
use world::skip::skip;
use world::{Host, Process, WorkDir, ports, wait};

const LIMIT: Duration = Duration::from_secs(20);
const PAGE: &str = "/services/posts/primary";

/// Primary and epoch, or the code why there is none.
fn told(answer: &Answer) -> Result<(String, u64), String> {
    let body = answer.json();
    match answer.status {
        200 => {
            let text = |name: &str| body[name].as_str().expect("a text").to_owned();
            assert_eq!(answer.header("x-albireo-primary"), Some(text("primary").as_str()));
            Ok((text("primary"), body["epoch"].as_u64().expect("an epoch")))
        }
        _ => Err(format!("{} {}", answer.status, body["error"]["code"].as_str().unwrap_or("?"))),
    }
}

fn poll(at: SocketAddr, epoch: u64) -> JoinHandle<Answer> {
    std::thread::spawn(move || {
        let path = format!("{PAGE}?after_epoch={epoch}&wait_ms=60000");
        http::call(&Host::local(), at, Request::get(&path), Duration::from_secs(60)).expect("an answer")
    })
}

#[track_caller]
fn answer_of(poll: JoinHandle<Answer>) -> Answer {
    wait::until("an answer to the long poll", LIMIT, || {
        wait::holds(poll.is_finished(), || "none".to_owned())
    });
    poll.join().expect("an answer")
}

/// The codes of a server's two pages at a monitor.
fn roles(group: &Group, monitor: usize, node: &str) -> (u16, u16) {
    let status = |role: &str| group.monitors[monitor].get(&format!("/nodes/{node}/{role}")).status;
    (status("primary"), status("replica"))
}

#[track_caller]
fn wait_until_told(group: &Group, state: &topology::State) {
    let nodes: Vec<(String, (u16, u16))> = group
        .members()
        .iter()
        .map(|addr| (addr.to_string(), if *addr == state.primary.addr { (200, 503) } else { (503, 200) }))
        .collect();
    for (number, monitor) in group.monitors.iter().enumerate() {
        wait::until("both monitors name the primary", LIMIT, || {
            let told = told(&monitor.get(PAGE));
            let right = told == Ok((state.primary.addr.to_string(), state.epoch));
            wait::holds(right, || format!("{told:?}"))?;
            let secondary = monitor.get(PAGE).json()["secondary"].as_array().map_or(0, Vec::len);
            wait::holds(secondary + 1 == nodes.len(), || format!("{secondary} replicas"))?;
            let roles: Vec<_> =
                nodes.iter().map(|(node, _)| (node.clone(), roles(group, number, node))).collect();
            wait::holds(roles == nodes, || format!("{roles:?}"))
        });
    }
}

#[test]
fn a_failover_answers_the_long_polls_at_each_monitor() {
    let mut group = Group::of(2).apis(0).start();
    let state = group.settled();
    wait_until_told(&group, &state);
    let old = state.primary.addr.clone();
    let endpoints = [group.monitors[0].http(), group.monitors[1].http()];
    let json = group.monitors[0].get(PAGE).json();
    assert_eq!((&json["service"], &json["up"]), (&json!("posts"), &json!(true)));
    for (page, expected) in [("/services/others/primary", 404), ("/nodes/127.0.0.1:1/primary", 404)] {
        assert_eq!(group.monitors[0].get(page).status, expected, "{page}");
    }
    let epoch = state.epoch;
    let polls = endpoints.map(|at| poll(at, epoch));
    // One with the epoch before is answered at once: what is behind it is no news.
    for at in endpoints {
        assert_eq!(told(&answer_of(poll(at, epoch - 1))), Ok((old.to_string(), epoch)));
    }
    assert!(polls.iter().all(|poll| !poll.is_finished()));
    let killed = group.number_of(&old);
    group.redis[killed].kill();
    for poll in polls {
        let (new, later) = told(&answer_of(poll)).expect("a primary");
        let new: Endpoint = new.parse().expect("an address");
        assert!(new != old && later > epoch, "{new} {later}");
        // Named only once it is true.
        let server = &group.redis[group.number_of(&new)];
        assert!(server.is_primary());
        assert_eq!(server.cmd(&["SET", "k", "v"]), Reply::Text("OK".to_owned()));
    }
    let state = group.settled();
    let replicas = |json: &Value| json["secondary"].as_array().map_or(0, Vec::len);
    for monitor in &group.monitors {
        wait::until("the dead one is of no use", LIMIT, || {
            let json = monitor.get(PAGE).json();
            wait::holds(replicas(&json) == 1, || json.to_string())
        });
        let dead = |role: &str| monitor.get(&format!("/nodes/{old}/{role}")).status;
        assert_eq!((dead("primary"), dead("replica")), (503, 503));
    }
    group.redis[killed].restart();
    let state = Group::settled(&mut group).epoch.max(state.epoch);
    let now = group.state();
    assert_eq!(now.epoch, state);
    wait_until_told(&group, &now);

    // Nothing is certain without ZooKeeper, and who waits goes on waiting.
    let waiting = endpoints.map(|at| poll(at, now.epoch));
    group.zookeeper.pause();
    for monitor in &group.monitors {
        wait::until("nobody is named", LIMIT, || {
            let told = told(&monitor.get(PAGE));
            wait::holds(told == Err("503 not_certain".to_owned()), || format!("{told:?}"))
        });
        assert_eq!(monitor.get(&format!("/nodes/{}/primary", now.primary.addr)).status, 503);
    }
    group.zookeeper.resume();
    wait_until_told(&group, &now);
    assert!(waiting.iter().all(|poll| !poll.is_finished()), "no higher epoch was served in between");
    let active = group.wait_for_active();
    let body = json!({}).to_string();
    let headers = [("content-type", "application/json")];
    let failover = Request {
        method: "POST",
        path: "/services/posts/failover",
        headers: &headers,
        body: body.as_bytes(),
    };
    let answer = group.monitors[active].call(failover).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    for poll in waiting {
        let (new, later) = told(&answer_of(poll)).expect("a primary");
        assert!(new != now.primary.addr.to_string() && later > now.epoch, "{new} {later}");
    }
}

/// The file of `conf/` with these addresses instead of its own.
fn configuration(group: &Group, primary: u16, replica: u16) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/haproxy.cfg");
    let mut text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let servers = group.redis.iter().zip([6379, 6380, 6381]);
    let monitors = group.monitors.iter().zip([8001, 8002]);
    let moved = servers
        .map(|(redis, port)| (format!("127.0.0.1:{port}"), redis.endpoint().to_string()))
        .chain(monitors.map(|(monitor, port)| {
            (format!("addr 127.0.0.1 port {port}"), format!("addr 127.0.0.1 port {}", monitor.http().port()))
        }))
        .chain(
            [(6400, primary), (6401, replica)]
                .map(|(from, to)| (format!("bind 127.0.0.1:{from}"), format!("bind 127.0.0.1:{to}"))),
        );
    for (number, (from, _)) in moved.clone().enumerate() {
        assert!(text.contains(&from), "{} has no {from}", file.display());
        text = text.replace(&from, &format!("@{number}@"));
    }
    for (number, (_, to)) in moved.enumerate() {
        text = text.replace(&format!("@{number}@"), &to);
    }
    text
}

/// An acknowledged write: when it was acknowledged, and by which server.
#[derive(Debug, Clone, Copy)]
struct Acked {
    at: Instant,
    number: u64,
    port: u16,
}

/// One client that writes numbers, connects anew after an error, and remembers what was acknowledged.
struct Writer {
    acked: Arc<Mutex<Vec<Acked>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(to: SocketAddr) -> Self {
        let (acked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (list, end) = (acked.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            let mut connection = None;
            while !end.load(Ordering::Relaxed) {
                number += 1;
                let written = write(&mut connection, to, number);
                match written {
                    Ok(port) => {
                        list.lock().expect("no panic").push(Acked { at: Instant::now(), number, port })
                    }
                    Err(_) => connection = None,
                }
                sleep(Duration::from_millis(2));
            }
        });
        Self { acked, stop, thread: Some(thread) }
    }

    fn acked(&self) -> Vec<Acked> {
        self.acked.lock().expect("no panic").clone()
    }

    /// Waits for a write that was acknowledged by this server after now, and gives it.
    #[track_caller]
    fn wait_for(&self, port: u16) -> Acked {
        let begun = Instant::now();
        wait::until(&format!("a write acknowledged by {port}"), LIMIT, || {
            let acked = self.acked();
            acked
                .iter()
                .copied()
                .find(|ack| ack.at > begun && ack.port == port)
                .ok_or(format!("{:?}", acked.last()))
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Writes, and learns in the same transaction which server it was.
fn write(connection: &mut Option<Connection>, to: SocketAddr, number: u64) -> std::io::Result<u16> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::open(&Host::local(), to, Duration::from_secs(5))?),
    };
    let number = number.to_string();
    for words in [&["MULTI"][..], &["SET", "n", &number], &["CONFIG", "GET", "port"], &["EXEC"]] {
        connection.send(words)?;
    }
    for _ in 0..3 {
        connection.receive()?;
    }
    match connection.receive()? {
        Reply::List(replies) if replies[0] == Reply::Text("OK".to_owned()) => {
            Ok(u16::try_from(replies[1].list()[1].number()).expect("a port"))
        }
        other @ (Reply::List(_) | Reply::Text(_) | Reply::Number(_) | Reply::Error(_) | Reply::Nil) => {
            Err(std::io::Error::other(format!("{other:?}")))
        }
    }
}

fn has_haproxy() -> bool {
    let mut haproxy = Command::new("haproxy");
    haproxy
        .arg("-v")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// No server acknowledges anything after another one has begun to, but by being made primary again.
#[track_caller]
fn each_took_over_once(acked: &[Acked], primaries: &[u16]) {
    let mut seen: Vec<u16> = acked.iter().map(|ack| ack.port).collect();
    seen.dedup();
    assert_eq!(seen, primaries, "the servers that acknowledged, one after the other");
    assert!(acked.is_sorted_by_key(|ack| ack.number));
}

#[test]
fn haproxy_sends_everybody_to_the_primary() {
    if !has_haproxy() {
        skip("haproxy_sends_everybody_to_the_primary", "haproxy is not installed");
        return;
    }
    let mut group = Group::of(2).apis(0).start();
    let mut state = group.settled();
    wait_until_told(&group, &state);
    let (primary_port, replica_port) = (ports::free(), ports::free());
    let dir = WorkDir::new("haproxy-file");
    let file = dir.join("haproxy.cfg");
    fs::write(&file, configuration(&group, primary_port, replica_port)).expect("a file");
    let mut command = Command::new("haproxy");
    command.arg("-f").arg(&file).arg("-db");
    let mut haproxy = Process::of("haproxy", command);
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let writer = Writer::start(at(primary_port));
    let mut primaries = vec![state.primary.addr.port()];
    writer.wait_for(primaries[0]);

    let role_read = || {
        let mut connection =
            Connection::open(&Host::local(), at(replica_port), LIMIT).map_err(|e| e.to_string())?;
        let role = connection.call(&["ROLE"]).map_err(|e| e.to_string())?;
        Ok::<_, String>(role.list()[0].text().to_owned())
    };
    wait::until("reads go to replicas", LIMIT, || {
        let roles: Vec<String> = (0..4).map(|_| role_read()).collect::<Result<_, _>>()?;
        wait::holds(roles.iter().all(|role| role == "slave"), || format!("{roles:?}"))
    });

    // Killed.
    let mut next = |group: &mut Group, act: &dyn Fn(&mut Group, usize)| {
        let old = group.number_of(&state.primary.addr);
        act(group, old);
        wait::until("another primary", LIMIT, || {
            let now = group.try_state()?;
            let done = now.primary.addr != state.primary.addr && now.phase == topology::Phase::Serving;
            wait::holds(done, || format!("{now:?}"))
        });
        state = group.state();
        let port = state.primary.addr.port();
        let first = writer.wait_for(port);
        primaries.push(port);
        (old, first)
    };
    let (old, first) = next(&mut group, &|group, old| group.redis[old].kill());
    let read = group.redis[group.primary()].cmd(&["GET", "n"]).number();
    assert!(
        u64::try_from(read).expect("a number") >= first.number,
        "the new primary holds what it acknowledged"
    );
    group.redis[old].restart();
    group.settled();

    // Paused, with a write on its way there; awake again when another one has taken over.
    let late = Connection::open(&Host::local(), at(primary_port), LIMIT).expect("a connection");
    let late = RefCell::new(late);
    assert_eq!(late.borrow_mut().call(&["PING"]).expect("a reply"), Reply::Text("PONG".to_owned()));
    let (old, _) = next(&mut group, &|group, old| {
        group.redis[old].pause();
        late.borrow_mut().send(&["SET", "late", "1"]).expect("sent");
    });
    let answer = late.borrow_mut().receive().expect_err("it was cut off while the old primary slept");
    assert!(matches!(answer.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{answer}");
    group.redis[old].resume();
    group.settled();

    // Asked for, while everything lives.
    let active = group.wait_for_active();
    next(&mut group, &|group, _| {
        let headers = [("content-type", "application/json")];
        let failover =
            Request { method: "POST", path: "/services/posts/failover", headers: &headers, body: b"{}" };
        let answer = group.monitors[active].call(failover).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    });
    let state = group.settled();

    // The first monitor, which HAProxy asks first, is gone: the second one is believed.
    group.monitors[0].process().kill();
    let port = state.primary.addr.port();
    haproxy.wait_for_line("backend primary_by_monitor_1 has no server available", LIMIT);
    writer.wait_for(port);
    wait::until("reads go to replicas", LIMIT, || {
        let role = role_read()?;
        wait::holds(role == "slave", || role)
    });

    // Nobody knows: nobody is sent anywhere.
    group.monitors[1].process().kill();
    wait::until("no connection is taken", LIMIT, || {
        let mut connection = None;
        let written = write(&mut connection, at(primary_port), u64::MAX);
        wait::holds(written.is_err(), || format!("{written:?}"))
    });
    each_took_over_once(&writer.acked(), &primaries);
    let mut per_server: BTreeMap<u16, usize> = BTreeMap::new();
    writer.acked().iter().for_each(|ack| *per_server.entry(ack.port).or_default() += 1);
    println!("writes acknowledged by each server: {per_server:?}");
    assert!(haproxy.is_running());
}
