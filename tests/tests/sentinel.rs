//! The monitors' own endpoint for clients of Redis Sentinel: real servers, real monitors, plain sockets and `redis-cli`.
//! Client libraries: `clients.rs`.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use topology::Endpoint;
use world::group::{Builder, Group};
use world::resp::{Connection, Reply};

use world::{Host, WorkDir, wait};

const LIMIT: Duration = Duration::from_secs(20);

fn served() -> Builder {
    Group::of(2).apis(0).sentinel()
}

fn connect(to: SocketAddr) -> Connection {
    Connection::open(&Host::local(), to, LIMIT).expect("a connection")
}

/// One command on a connection of its own.
fn ask(to: SocketAddr, words: &[&str]) -> Reply {
    connect(to).call(words).expect("a reply")
}

fn named(to: SocketAddr) -> Option<String> {
    match ask(to, &["SENTINEL", "get-master-addr-by-name", "posts"]) {
        Reply::Nil => None,
        Reply::List(words) => Some(format!("{}:{}", words[0].text(), words[1].text())),
        other @ (Reply::Text(_) | Reply::Number(_) | Reply::Error(_)) => panic!("{other:?}"),
    }
}

#[track_caller]
fn wait_until_named(to: SocketAddr, expected: &Endpoint) {
    wait::until("the endpoint names the primary", LIMIT, || {
        let named = named(to);
        wait::holds(named.as_deref() == Some(&expected.to_string()), || format!("{named:?}"))
    });
}

/// One field of a field list.
#[track_caller]
fn field(list: &Reply, name: &str) -> String {
    let words: Vec<&str> = list.list().iter().map(Reply::text).collect();
    let found = words.chunks(2).find(|pair| pair[0] == name);
    found.unwrap_or_else(|| panic!("no {name} in {words:?}"))[1].to_owned()
}

fn flags(to: SocketAddr) -> String {
    match ask(to, &["SENTINEL", "master", "posts"]) {
        list @ Reply::List(_) => field(&list, "flags"),
        other @ (Reply::Text(_) | Reply::Number(_) | Reply::Error(_) | Reply::Nil) => format!("{other:?}"),
    }
}

/// Waits until the endpoint names this primary, two usable replicas and the other endpoint: there is no news to come.
#[track_caller]
fn wait_until_well(endpoint: SocketAddr, primary: &Endpoint) {
    wait_until_named(endpoint, primary);
    wait::until("all is well", LIMIT, || {
        let flags = flags(endpoint);
        let replicas = ask(endpoint, &["SENTINEL", "replicas", "posts"]);
        let well = |one: &&Reply| field(one, "flags") == "slave" && field(one, "master-link-status") == "ok";
        let usable = replicas.list().iter().filter(well).count();
        let masters = ask(endpoint, &["SENTINEL", "masters"]);
        let others = field(&masters.list()[0], "num-other-sentinels");
        let well = (flags.as_str(), usable, others.as_str()) == ("master", 2, "1");
        wait::holds(well, || format!("{flags} {usable} {others}"))
    });
}

/// A connection that hears everything.
fn subscribed(to: SocketAddr) -> Connection {
    let mut connection = connect(to);
    let confirmed = connection.call(&["PSUBSCRIBE", "*"]).expect("a confirmation");
    assert_eq!(confirmed.list()[0].text(), "psubscribe");
    connection
}

/// `CHANNEL PAYLOAD` of the next message.
#[track_caller]
fn hear(connection: &mut Connection) -> String {
    let message = connection.receive().unwrap_or_else(|e| panic!("no further message: {e}"));
    let words = message.list();
    assert_eq!(words[0].text(), "pmessage");
    format!("{} {}", words[2].text(), words[3].text())
}

/// Everything up to a message that begins so.
#[track_caller]
fn hear_until(connection: &mut Connection, begin: &str) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        heard.push(hear(connection));
        if heard.last().is_some_and(|last| last.starts_with(begin)) {
            return heard;
        }
        assert!(heard.len() < 500, "{heard:?}");
    }
}

fn words(addr: &Endpoint) -> String {
    format!("{} {}", addr.host(), addr.port())
}

fn redis_cli(at: SocketAddr, words: &[&str]) -> String {
    let (host, port) = (at.ip().to_string(), at.port().to_string());
    let out =
        Command::new("redis-cli").args(["-h", &host, "-p", &port]).args(words).output().expect("redis-cli");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn a_kill_is_announced_once_by_each_monitor_and_in_order() {
    let mut group = served().start();
    let endpoints = [group.sentinel_address(0), group.sentinel_address(1)];
    let before = group.settled();
    let old = before.primary.addr.clone();
    for endpoint in endpoints {
        wait_until_well(endpoint, &old);
        let cli = redis_cli(endpoint, &["SENTINEL", "get-master-addr-by-name", "posts"]);
        assert_eq!(cli, format!("{}\n{}\n", old.host(), old.port()));
        let cli = redis_cli(endpoint, &["-3", "SENTINEL", "masters"]);
        assert!(cli.contains("posts") && cli.contains("flags"), "{cli}");
        let roles = ask(endpoint, &["ROLE"]);
        assert_eq!((roles.list()[0].text(), roles.list()[1].list()[0].text()), ("sentinel", "posts"));
        let info = ask(endpoint, &["INFO"]).text().to_owned();
        let line = format!("master0:name=posts,status=ok,address={old},slaves=2,sentinels=2");
        assert!(info.contains(&line), "{info}");
    }
    let ids = endpoints.map(|endpoint| ask(endpoint, &["SENTINEL", "myid"]).text().to_owned());
    assert_ne!(ids[0], ids[1]);
    for endpoint in endpoints {
        let list = ask(endpoint, &["SENTINEL", "sentinels", "posts"]);
        let mut listed: Vec<(String, String)> =
            list.list().iter().map(|one| (field(one, "name"), field(one, "port"))).collect();
        listed.sort();
        let mut all = [0, 1].map(|n| (ids[n].clone(), endpoints[n].port().to_string()));
        all.sort();
        assert_eq!(listed, all, "both list both");
    }

    let mut subscribers = endpoints.map(subscribed);
    let killed = group.number_of(&old);
    group.redis[killed].kill();
    let mut heard: Vec<Vec<String>> = Vec::new();
    for (subscriber, endpoint) in subscribers.iter_mut().zip(endpoints) {
        let until_switch = hear_until(subscriber, "+switch-master");
        let now = named(endpoint).expect("an announced primary is named");
        let new: Endpoint = now.parse().unwrap();
        assert_ne!(new, old);
        let switch = format!("+switch-master posts {} {}", words(&old), words(&new));
        assert_eq!(until_switch.last(), Some(&switch));
        let server = &group.redis[group.number_of(&new)];
        assert!(server.is_primary());
        assert_eq!(server.cmd(&["SET", "k", "v"]), Reply::Text("OK".to_owned()));
        heard.push(until_switch);
    }
    let new = group.settled().primary.addr;
    assert_eq!(endpoints.map(named), [Some(new.to_string()), Some(new.to_string())]);
    // The old one is listed as what it is, never as something to be used.
    let listed = ask(endpoints[0], &["SENTINEL", "slaves", "posts"]);
    let dead = listed.list().iter().find(|one| field(one, "name") == old.to_string()).unwrap();
    assert_eq!(field(dead, "flags"), "slave,s_down,disconnected");
    assert!(listed.list().iter().all(|one| field(one, "name") != new.to_string()));

    // It comes back and follows: the last thing that is told of all this.
    group.redis[killed].restart();
    let follows = format!("+replica-reconf-done slave {old} {} @ posts {}", words(&old), words(&new));
    for (subscriber, heard) in subscribers.iter_mut().zip(&mut heard) {
        heard.extend(hear_until(subscriber, &follows));
        let at = |begin: &str| {
            let found: Vec<usize> = (0..heard.len()).filter(|line| heard[*line].starts_with(begin)).collect();
            assert_eq!(found.len(), 1, "{begin}: {heard:#?}");
            found[0]
        };
        // It may be down and up more than once on its way: it starts as a primary, then it is filled anew.
        let first = |begin: &str| {
            let found = heard.iter().position(|line| line.starts_with(begin));
            found.unwrap_or_else(|| panic!("{begin}: {heard:#?}"))
        };
        let order = [
            at(&format!("+sdown master posts {}", words(&old))),
            at(&format!("+odown master posts {}", words(&old))),
            at("+switch-master"),
            at(&format!("+slave slave {old} ")),
            first(&format!("+sdown slave {old} ")),
            first(&format!("-sdown slave {old} ")),
            at(&follows),
        ];
        assert!(order.is_sorted(), "{order:?}: {heard:#?}");
    }
    for endpoint in endpoints {
        assert_eq!(flags(endpoint), "master");
    }

    // A planned one, asked for at the monitor that leads.
    let active = group.wait_for_active();
    let failover = |number: usize| ask(endpoints[number], &["SENTINEL", "failover", "posts"]);
    assert!(failover(1 - active).is_error("ERR this monitor does not lead"));
    group.settled();
    assert_eq!(failover(active), Reply::Text("OK".to_owned()));
    for subscriber in &mut subscribers {
        let switch = hear_until(subscriber, "+switch-master").pop().unwrap();
        assert!(switch.starts_with(&format!("+switch-master posts {} ", words(&new))), "{switch}");
    }
    let last = group.settled().primary.addr;
    for endpoint in endpoints {
        wait_until_named(endpoint, &last);
    }

    // One monitor down: the other one lists itself beside the dead one, and still answers.
    group.monitors[1 - active].process().kill();
    wait::until("the dead endpoint is flagged", LIMIT, || {
        let list = ask(endpoints[active], &["SENTINEL", "sentinels", "posts"]);
        let mut all: Vec<String> = list.list().iter().map(|one| field(one, "flags")).collect();
        all.sort();
        wait::holds(all == ["sentinel", "sentinel,s_down,disconnected"], || format!("{all:?}"))
    });
    assert_eq!(named(endpoints[active]), Some(last.to_string()));
}

#[test]
fn nobody_is_named_while_zookeeper_is_away() {
    let mut group = served().start();
    let endpoints = [group.sentinel_address(0), group.sentinel_address(1)];
    let primary = group.settled().primary.addr;
    for endpoint in endpoints {
        wait_until_well(endpoint, &primary);
    }
    let mut subscribers = endpoints.map(subscribed);
    group.zookeeper.pause();
    for endpoint in endpoints {
        wait::until("nobody is named", LIMIT, || {
            let named = named(endpoint);
            wait::holds(named.is_none(), || format!("{named:?}"))
        });
        assert_eq!(ask(endpoint, &["SENTINEL", "masters"]), Reply::List(Vec::new()));
        assert!(ask(endpoint, &["SENTINEL", "master", "posts"]).is_error("ERR No such master"));
        assert!(ask(endpoint, &["SENTINEL", "ckquorum", "posts"]).is_error("NOQUORUM"));
    }
    group.zookeeper.resume();
    for (endpoint, subscriber) in endpoints.into_iter().zip(&mut subscribers) {
        wait_until_named(endpoint, &primary);
        let heard = subscriber.call(&["PING"]).unwrap();
        assert_eq!(heard.list()[0].text(), "pong", "no news in between: {heard:?}");
    }
}

/// With a key, heartbeats say which records each side knows. That and the primary's own word are enough while ZooKeeper is
/// away, for both alike.
#[test]
fn monitors_that_agree_name_the_primary_without_zookeeper() {
    let folder = WorkDir::new("key");
    let key = folder.join("monitors.key");
    std::fs::write(&key, "a secret of both").expect("a key");
    let mut group = served().monitor_key("binary_star", "key_file", key.display()).start();
    let endpoints = [group.sentinel_address(0), group.sentinel_address(1)];
    let primary = group.settled().primary.addr;
    for endpoint in endpoints {
        wait_until_well(endpoint, &primary);
    }
    let mut subscribers = endpoints.map(|endpoint| {
        let mut connection = connect(endpoint);
        connection.call(&["SUBSCRIBE", "+switch-master"]).expect("a confirmation");
        connection
    });
    group.zookeeper.pause();
    for number in [0, 1] {
        wait::until("it knows that ZooKeeper is away", LIMIT, || {
            let ready = group.monitors[number].get("/readyz").text();
            wait::holds(ready.contains("ZooKeeper does not answer"), || ready)
        });
    }
    for endpoint in endpoints {
        wait_until_named(endpoint, &primary);
        assert!(
            ask(endpoint, &["SENTINEL", "ckquorum", "posts"]).is_error("NOQUORUM"),
            "nobody could take over"
        );
    }
    // One side alone knows less.
    group.monitors[0].process().pause();
    wait::until("nobody is named", LIMIT, || {
        let named = named(endpoints[1]);
        wait::holds(named.is_none(), || format!("{named:?}"))
    });
    group.monitors[0].process().resume();
    // A monitor that stood still would have to read the record once more, and cannot.
    wait::until("nobody is named there either", LIMIT, || {
        let named = named(endpoints[0]);
        wait::holds(named.is_none(), || format!("{named:?}"))
    });
    wait_until_named(endpoints[1], &primary);
    group.zookeeper.resume();
    for (endpoint, subscriber) in endpoints.into_iter().zip(&mut subscribers) {
        wait_until_named(endpoint, &primary);
        let heard = subscriber.call(&["PING"]).unwrap();
        assert_eq!(heard.list()[0].text(), "pong", "the primary stayed: {heard:?}");
    }
}

#[test]
fn a_monitor_that_stood_still_names_no_primary_of_the_past() {
    let mut group = served().start();
    let old = group.settled().primary.addr;
    let passive = 1 - group.wait_for_active();
    let endpoint = group.sentinel_address(passive);
    wait_until_named(endpoint, &old);
    let mut subscriber = subscribed(endpoint);
    group.monitors[passive].process().pause();
    let killed = group.number_of(&old);
    group.redis[killed].kill();
    wait::until("another primary", LIMIT, || {
        let state = group.try_state()?;
        let done = state.primary.addr != old && state.phase == topology::Phase::Serving;
        wait::holds(done, || format!("{state:?}"))
    });
    let new = group.state().primary.addr;
    // Shorter than this it is no standing still, only a slow answer.
    std::thread::sleep(Duration::from_secs(1));
    // The kernel takes the question; the monitor answers it as its first act.
    let mut waiting = connect(endpoint);
    waiting.send(&["SENTINEL", "get-master-addr-by-name", "posts"]).unwrap();
    group.monitors[passive].process().resume();
    let first = waiting.receive().unwrap();
    let of_new = Reply::List(vec![Reply::Text(new.host().into()), Reply::Text(new.port().to_string())]);
    assert!(first == Reply::Nil || first == of_new, "{first:?}");
    let deadline = Instant::now() + LIMIT;
    loop {
        match named(endpoint) {
            None => assert!(Instant::now() < deadline, "it names nobody any more"),
            Some(named) => {
                assert_eq!(named, new.to_string());
                break;
            }
        }
    }
    let heard = hear_until(&mut subscriber, "+switch-master");
    assert_eq!(heard.last(), Some(&format!("+switch-master posts {} {}", words(&old), words(&new))));
}

/// What comes back for raw bytes until the other side closes or has nothing more to say.
fn raw(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = std::net::TcpStream::connect(to).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("not zero");
    stream.set_write_timeout(Some(LIMIT)).expect("not zero");
    // It may be closed before all of it is sent.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

/// What commands are made of, and what they are not.
const JUNK: &[u8] = b"*$\r\n0123-:_PINGsentinel\0\xff";

#[test]
fn passwords_junk_and_bounds() {
    let mut group = served().monitors(1).monitor_key("sentinel", "password", "secret").start();
    let endpoint = group.sentinel_address(0);
    let mut client = connect(endpoint);
    for refused in [&["PING"][..], &["HELLO", "3"], &["SENTINEL", "masters"], &["SUBSCRIBE", "x"]] {
        assert!(client.call(refused).unwrap().is_error("NOAUTH"), "{refused:?}");
    }
    assert!(client.call(&["AUTH", "wrong"]).unwrap().is_error("WRONGPASS"));
    assert!(client.call(&["AUTH", "someone", "secret"]).unwrap().is_error("WRONGPASS"));
    assert!(client.call(&["PING"]).unwrap().is_error("NOAUTH"));
    assert_eq!(client.call(&["AUTH", "secret"]).unwrap(), Reply::Text("OK".into()));
    for (command, expected) in [
        ("master", Some("ERR No such master with that name")),
        ("get-master-addr-by-name", None),
        ("replicas", Some("ERR No such master with that name")),
    ] {
        let reply = client.call(&["SENTINEL", command, "unknown"]).unwrap();
        match expected {
            Some(error) => assert_eq!(reply, Reply::Error(error.into())),
            None => assert_eq!(reply, Reply::Nil),
        }
    }
    let greeting = "AUTH secret\r\n";
    let said = raw(endpoint, format!("{greeting}SENTINEL get-master-addr-by-name unknown\r\n").as_bytes());
    assert_eq!(said, "+OK\r\n*-1\r\n", "a null array, not a null text");
    let said = raw(endpoint, format!("{greeting}PI").as_bytes());
    assert_eq!(said, "+OK\r\n", "half a command");
    // A whole greeting at once: an error in it disturbs nothing.
    let said =
        raw(endpoint, format!("{greeting}CLIENT NONSENSE x\r\n\r\nPING\r\nQUIT\r\nPING\r\n").as_bytes());
    assert_eq!(said, "+OK\r\n-ERR unknown subcommand 'NONSENSE'\r\n+PONG\r\n+OK\r\n");
    for (junk, answer) in [
        ("*2000\r\n".to_owned(), "-ERR Protocol error"),
        ("*1\r\n$2000000\r\n".to_owned(), "-ERR Protocol error"),
        ("*1\r\n:5\r\n".to_owned(), "-ERR Protocol error"),
        ("x".repeat(3 << 20), "-ERR Protocol error"),
        (format!("*2\r\n$700000\r\n{}\r\n$700000\r\n", "x".repeat(700_000)), "-ERR Protocol error"),
        ("\0\u{1}\u{2}\r\n".to_owned(), "-NOAUTH"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "-NOAUTH"),
    ] {
        let said = raw(endpoint, junk.as_bytes());
        assert!(said.starts_with(answer), "{:.40}: {said}", junk);
    }
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..200 {
        let junk: Vec<u8> = (0..300)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                JUNK[(random >> 33) as usize % JUNK.len()]
            })
            .collect();
        raw(endpoint, &junk);
    }
    assert_eq!(group.monitors[0].get("/healthz").status, 200);
    let primary = group.settled().primary.addr;
    let reply = client.call(&["SENTINEL", "get-master-addr-by-name", "posts"]).unwrap();
    assert_eq!(reply.list()[1].text(), primary.port().to_string());
}

/// Lets this process and what it starts open as many files, if the system allows it; how many it may open then.
#[allow(unsafe_code)]
fn allow_files(wanted: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls read and write nothing but the structs that they are given.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 || limit.rlim_cur >= wanted {
            return limit.rlim_cur;
        }
        // Only root may have more than the hard limit.
        let most = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max.max(wanted) };
        let hard = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        for more in [most, hard] {
            if libc::setrlimit(libc::RLIMIT_NOFILE, &more) == 0 {
                return more.rlim_cur;
            }
        }
    }
    limit.rlim_cur
}

/// What of a process is in memory, in KiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn ten_thousand_idle_clients_and_deaf_subscribers_change_nothing() {
    const WANTED: usize = 10_000;
    // The monitor gives half of its files to clients, and inherits how many it may open from here.
    let files = usize::try_from(allow_files(4 * WANTED as u64)).unwrap_or(usize::MAX);
    let clients = WANTED.min(files / 2 - 100);
    // Two kills in a row, with no pause between the failovers.
    let mut group = served().monitor_key("failover", "min_interval_ms", 0).start();
    let first = group.settled().primary.addr;
    let active = group.wait_for_active();
    let (crowded, other) = (group.sentinel_address(active), group.sentinel_address(1 - active));
    [crowded, other].into_iter().for_each(|endpoint| wait_until_well(endpoint, &first));
    let process = group.monitors[active].process().id();
    let before = resident(process);
    // Every tenth is subscribed to everything and never reads.
    let crowd: Vec<Connection> = (0..clients)
        .map(|number| {
            let mut client = connect(crowded);
            match number % 10 {
                0 => client.send(&["PSUBSCRIBE", "*"]).expect("sent"),
                _ => assert_eq!(client.call(&["PING"]).expect("a reply"), Reply::Text("PONG".into())),
            }
            client
        })
        .collect();
    let each = (resident(process) - before) as f64 / clients as f64;
    println!("{clients} clients of one monitor: {each:.1} KiB of its memory each");
    assert!(each < 64.0, "{each} KiB per idle client");

    let mut old = first;
    for _ in 0..2 {
        let mut subscribers = [crowded, other].map(subscribed);
        let killed = group.number_of(&old);
        let begun = Instant::now();
        group.redis[killed].kill();
        let told = subscribers.each_mut().map(|subscriber| {
            let switch = hear_until(subscriber, "+switch-master").pop().expect("a message");
            assert!(switch.starts_with(&format!("+switch-master posts {} ", words(&old))), "{switch}");
            begun.elapsed().as_millis()
        });
        println!(
            "killed and announced to one of {clients} clients after {} ms, elsewhere {} ms",
            told[0], told[1]
        );
        let now = named(crowded).expect("an announced primary is named");
        assert_eq!(named(other), Some(now.clone()));
        group.redis[killed].restart();
        old = group.settled().primary.addr;
        assert_eq!(old.to_string(), now);
    }
    // Nobody of the crowd was dropped: a few messages fit into any buffer.
    for (number, mut client) in crowd.into_iter().enumerate().step_by(97) {
        match number % 10 {
            0 => assert_eq!(client.receive().expect("its confirmation").list()[0].text(), "psubscribe"),
            _ => assert_eq!(client.call(&["PING"]).expect("a reply"), Reply::Text("PONG".into())),
        }
    }
}
