//! DNS at the monitors: real servers, real monitors, `dig`, and plain sockets for what `dig` does not send.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use topology::Endpoint;
use world::group::{Builder, Group};
use world::programs::{self, Ini, Launch, Program};
use world::resp::{Connection, Reply};
use world::skip::skip;
use world::{Host, Signal, WorkDir, machine, ports, wait};

const LIMIT: Duration = Duration::from_secs(20);
const PRIMARY: &str = "primary.posts.albireo.internal.";
const REPLICA: &str = "replica.posts.albireo.internal.";

fn served() -> Builder {
    Group::of(2).apis(0).dns()
}

// With `dig`.

/// Whether there is a `dig`; else the test says that it is skipped.
fn dig_is_here(test: &str) -> bool {
    let found =
        Command::new("dig").arg("-v").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !found {
        skip(test, "no dig (package bind9-dnsutils)");
    }
    found
}

/// What `dig` prints of an answer: `STATUS`, the flags, and the records of each section, with one blank between fields.
#[derive(Debug, Default)]
struct Dug {
    status: String,
    flags: String,
    answer: Vec<String>,
    authority: Vec<String>,
    additional: Vec<String>,
}

/// `words`: options, name, type.
#[track_caller]
fn dig(server: SocketAddr, words: &str) -> Dug {
    let port = server.port().to_string();
    let mut command = Command::new("dig");
    command.arg(format!("@{}", server.ip())).args(["-p", &port, "+tries=1", "+time=10"]);
    let out = command.args(words.split(' ')).output().expect("dig");
    let printed = String::from_utf8_lossy(&out.stdout);
    let mut dug = Dug::default();
    let mut section = None;
    for line in printed.lines() {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let between = |from: &str, to: &str| Some(line.split_once(from)?.1.split_once(to)?.0.to_owned());
        dug.status = between("status: ", ",").unwrap_or(dug.status);
        dug.flags = between(";; flags: ", ";").unwrap_or(dug.flags);
        match line.as_str() {
            ";; ANSWER SECTION:" => section = Some(&mut dug.answer),
            ";; AUTHORITY SECTION:" => section = Some(&mut dug.authority),
            ";; ADDITIONAL SECTION:" => section = Some(&mut dug.additional),
            "" => section = None,
            record if !record.starts_with(';') => {
                if let Some(section) = &mut section {
                    section.push(record.to_owned());
                }
            }
            _ => {}
        }
    }
    assert!(!dug.status.is_empty(), "dig {words}: {printed}");
    dug
}

/// `+short`, in order.
fn short(server: SocketAddr, words: &str) -> Vec<String> {
    data(dig(server, words))
}

fn data(dug: Dug) -> Vec<String> {
    let mut data: Vec<String> =
        dug.answer.iter().filter_map(|record| Some(record.splitn(5, ' ').nth(4)?.to_owned())).collect();
    data.sort();
    data
}

fn location(addr: &Endpoint) -> String {
    format!("0 1 {} 127-0-0-1.ip.albireo.internal.", addr.port())
}

#[track_caller]
fn wait_until_dug(server: SocketAddr, words: &str, expected: &[String]) {
    let mut expected = expected.to_vec();
    expected.sort();
    wait::until(&format!("dig {words}"), LIMIT, || {
        let found = short(server, words);
        wait::holds(found == expected, || format!("{found:?} instead of {expected:?}"))
    });
}

// With plain sockets.

fn question(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_vec().expect("a message")
}

/// A client over UDP; its questions have numbers, so that a late answer is not taken for the next one.
struct Client {
    socket: UdpSocket,
    id: u16,
}

impl Client {
    fn of(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(server).expect("an address");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("not zero");
        Self { socket, id: 0 }
    }

    fn send(&mut self, name: &str, kind: RecordType) {
        self.id = self.id.wrapping_add(1);
        self.socket.send(&question(self.id, name, kind)).expect("sent");
    }

    /// The answer to the last question. A packet may be lost, and so is asked again by whoever needs to.
    fn receive(&self) -> Option<Message> {
        let mut packet = [0; 4096];
        loop {
            let length = self.socket.recv(&mut packet).ok()?;
            let message = Message::from_vec(&packet[..length]).expect("a message");
            if message.metadata.id == self.id {
                return Some(message);
            }
        }
    }

    #[track_caller]
    fn ask(&mut self, name: &str, kind: RecordType) -> Message {
        wait::until("an answer", LIMIT, || {
            self.send(name, kind);
            self.receive().ok_or("none")
        })
    }

    fn code(&mut self, name: &str) -> ResponseCode {
        self.ask(name, RecordType::SRV).metadata.response_code
    }
}

/// The port of the first location, if there is one; SERVFAIL gives none, and nothing else may come.
fn port(message: &Message) -> Option<u16> {
    match message.answers.first().map(|record| &record.data) {
        Some(RData::SRV(srv)) => Some(srv.port),
        Some(other) => panic!("{other:?}"),
        None => {
            assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
            None
        }
    }
}

/// `epoch=E` and `primary=HOST:PORT` of a TXT record.
fn epoch_and_port(message: &Message) -> Option<(u64, u16)> {
    let Some(RData::TXT(text)) = message.answers.first().map(|record| &record.data) else {
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
        return None;
    };
    let text: Vec<String> =
        text.txt_data.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    let field = |name: &str| text.iter().find_map(|part| part.strip_prefix(name)).map(str::to_owned);
    let primary: Endpoint = field("primary=")?.parse().ok()?;
    Some((field("epoch=")?.parse().ok()?, primary.port()))
}

/// Asks one monitor all the time, and judges what it says.
struct Asker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u16>>,
}

impl Asker {
    /// Begins, and waits for the first answer.
    #[track_caller]
    fn of(server: SocketAddr) -> Self {
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (asked, first) = (stop.clone(), begun.clone());
        let thread = std::thread::spawn(move || {
            let (mut client, mut said) = (Client::of(server), Said::default());
            while !asked.load(Ordering::Relaxed) {
                said.primary(port(&client.ask(PRIMARY, RecordType::SRV)));
                said.epoch(epoch_and_port(&client.ask(PRIMARY, RecordType::TXT)));
                first.store(!said.primaries.is_empty(), Ordering::Relaxed);
            }
            said.primaries
        });
        wait::until("a primary is named", LIMIT, || {
            wait::holds(begun.load(Ordering::Relaxed), || "none so far".to_owned())
        });
        Self { stop, thread }
    }

    /// The primaries that were named, one after the other.
    fn end(self) -> Vec<u16> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(primaries) => primaries,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

#[derive(Default)]
struct Said {
    primaries: Vec<u16>,
    epochs: BTreeMap<u64, u16>,
}

impl Said {
    /// A primary that is named for the first time says so itself; one that was replaced is not named again.
    fn primary(&mut self, port: Option<u16>) {
        let Some(port) = port.filter(|port| self.primaries.last() != Some(port)) else { return };
        assert!(!self.primaries.contains(&port), "{port} after {:?}", self.primaries);
        if !self.primaries.is_empty() {
            let addr = SocketAddr::from(([127, 0, 0, 1], port));
            let mut server = Connection::open(&Host::local(), addr, LIMIT).expect("the new primary lives");
            let role = server.call(&["ROLE"]).expect("it answers");
            assert_eq!(role.list()[0], Reply::Text("master".into()));
        }
        self.primaries.push(port);
    }

    fn epoch(&mut self, pair: Option<(u64, u16)>) {
        let Some((epoch, port)) = pair else { return };
        self.primary(Some(port));
        let last = self.epochs.last_key_value().map_or(epoch, |(last, _)| *last);
        assert!(epoch >= last, "epoch {epoch} after {last}");
        assert_eq!(*self.epochs.entry(epoch).or_insert(port), port, "two primaries in epoch {epoch}");
    }
}

#[test]
fn a_kill_and_a_failover_seen_by_dig() {
    if !dig_is_here("a_kill_and_a_failover_seen_by_dig") {
        return;
    }
    let mut group = served().start();
    let servers = [group.dns_address(0), group.dns_address(1)];
    let old = group.settled().primary.addr;
    let replicas: Vec<String> = group.members().iter().filter(|addr| **addr != old).map(location).collect();
    for server in servers {
        wait_until_dug(server, "primary.posts.albireo.internal SRV", &[location(&old)]);
        wait_until_dug(server, "replica.posts.albireo.internal SRV", &replicas);
        what_dig_says(server, &old);
    }

    let askers = servers.map(Asker::of);
    let killed = group.number_of(&old);
    group.redis[killed].kill();
    let new = new_primary(&group, &old);
    let other = group.members().into_iter().find(|addr| *addr != old && *addr != new).expect("a third one");
    for server in servers {
        for how in ["+notcp", "+tcp"] {
            wait_until_dug(server, &format!("{how} primary.posts.albireo.internal SRV"), &[location(&new)]);
        }
        wait_until_dug(server, "_redis._tcp.primary.posts.albireo.internal SRV", &[location(&new)]);
        wait_until_dug(server, "replica.posts.albireo.internal SRV", &[location(&other)]);
    }
    for asker in askers {
        assert_eq!(asker.end(), [old.port(), new.port()]);
    }

    // The old one comes back as a replica.
    group.redis[killed].restart();
    for server in servers {
        wait_until_dug(server, "replica.posts.albireo.internal SRV", &[location(&old), location(&other)]);
    }

    // A failover to it, with everybody alive.
    group.settled();
    let askers = servers.map(Asker::of);
    let file = group.monitors[0].file().display().to_string();
    let (code, said) =
        programs::run("monitor", &["failover", &file, "posts", "--to", &old.to_string()], LIMIT);
    assert_eq!(code, 0, "{said}");
    for server in servers {
        wait_until_dug(server, "primary.posts.albireo.internal SRV", &[location(&old)]);
    }
    for asker in askers {
        assert_eq!(asker.end(), [new.port(), old.port()]);
    }
}

#[track_caller]
fn new_primary(group: &Group, old: &Endpoint) -> Endpoint {
    wait::until("another primary", LIMIT, || {
        let state = group.try_state()?;
        let done = state.primary.addr != *old && state.phase == topology::Phase::Serving;
        wait::holds(done, || format!("{state:?}")).map(|()| state.primary.addr)
    })
}

/// Everything that can be asked of one server while all is well.
#[track_caller]
fn what_dig_says(server: SocketAddr, primary: &Endpoint) {
    let begun = Instant::now();
    let dig = |server, words: &str| {
        let dug = dig(server, words);
        // A monitor that stood still is certain of nothing.
        let excuse = || machine::excuse(begun, Instant::now());
        assert_ne!(dug.status, "SERVFAIL", "{words}{}", excuse());
        dug
    };
    let short = |server, words: &str| data(dig(server, words));
    for how in ["+notcp", "+tcp", "+noedns", "+norecurse +nocookie"] {
        let dug = dig(server, &format!("{how} PRIMARY.posts.albireo.internal A"));
        assert_eq!(dug.status, "NOERROR");
        assert!(["qr aa rd", "qr aa"].contains(&dug.flags.as_str()), "{}", dug.flags);
        assert_eq!(dug.answer, ["PRIMARY.posts.albireo.internal. 0 IN A 127.0.0.1"]);
        let dug = dig(server, &format!("{how} primary.posts.albireo.internal SRV"));
        let srv = format!("primary.posts.albireo.internal. 0 IN SRV {}", location(primary));
        assert_eq!(dug.answer, [srv]);
        assert_eq!(dug.additional, ["127-0-0-1.ip.albireo.internal. 0 IN A 127.0.0.1"]);
    }
    assert_eq!(short(server, "replica.posts.albireo.internal A"), ["127.0.0.1"]);
    assert_eq!(short(server, "127-0-0-1.ip.albireo.internal A"), ["127.0.0.1"]);
    assert_eq!(short(server, "albireo.internal NS"), ["127-0-0-1.ip.albireo.internal."]);
    let soa = "127-0-0-1.ip.albireo.internal. hostmaster.albireo.internal. 1 3600 600 86400 0";
    assert_eq!(short(server, "albireo.internal SOA"), [soa]);
    for (words, status) in [
        ("primary.posts.albireo.internal AAAA", "NOERROR"),
        ("primary.posts.albireo.internal MX", "NOERROR"),
        ("posts.albireo.internal A", "NOERROR"),
        ("primary.users.albireo.internal A", "NXDOMAIN"),
        ("nothing.albireo.internal ANY", "NXDOMAIN"),
    ] {
        let dug = dig(server, words);
        assert_eq!((dug.status.as_str(), dug.answer.len()), (status, 0), "{words}");
        assert_eq!(dug.authority, [format!("albireo.internal. 0 IN SOA {soa}")], "{words}");
        assert!(dug.flags.starts_with("qr aa"), "{words}: {}", dug.flags);
    }
    for (words, status) in [
        ("primary.posts.example A", "REFUSED"),
        ("version.bind CH TXT", "REFUSED"),
        ("+opcode=2 primary.posts.albireo.internal", "NOTIMP"),
        ("+edns=1 +noednsnegotiation primary.posts.albireo.internal", "BADVERS"),
    ] {
        let dug = dig(server, words);
        assert_eq!((dug.status.as_str(), dug.answer.len(), dug.authority.len()), (status, 0, 0), "{words}");
    }
    assert_eq!(short(server, "+notcp primary.posts.albireo.internal ANY"), ["\"RFC8482\" \"\""]);
}

#[test]
fn nobody_is_named_while_zookeeper_is_away() {
    let mut group = served().start();
    let primary = group.settled().primary.addr;
    let mut clients = [0, 1].map(|number| Client::of(group.dns_address(number)));
    let wait_for = |client: &mut Client, expected: Option<u16>| {
        wait::until("who is named", LIMIT, || {
            let named = port(&client.ask(PRIMARY, RecordType::SRV));
            wait::holds(named == expected, || format!("{named:?} instead of {expected:?}"))
        });
    };
    clients.iter_mut().for_each(|client| wait_for(client, Some(primary.port())));
    group.zookeeper.pause();
    for client in &mut clients {
        wait_for(client, None);
        assert_eq!(client.code(REPLICA), ResponseCode::ServFail);
        assert_eq!(client.code("posts.albireo.internal."), ResponseCode::NoError, "it exists all the same");
        assert_eq!(client.code("primary.users.albireo.internal."), ResponseCode::NXDomain);
    }
    group.zookeeper.resume();
    clients.iter_mut().for_each(|client| wait_for(client, Some(primary.port())));
}

#[test]
fn a_monitor_that_stood_still_names_no_primary_of_the_past() {
    let mut group = served().start();
    let old = group.settled().primary.addr;
    let passive = 1 - group.wait_for_active();
    let server = group.dns_address(passive);
    let mut client = Client::of(server);
    wait::until("the primary is named", LIMIT, || {
        let named = port(&client.ask(PRIMARY, RecordType::SRV));
        wait::holds(named == Some(old.port()), || format!("{named:?}"))
    });
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    group.monitors[passive].process().pause();
    let killed = group.number_of(&old);
    group.redis[killed].kill();
    let new = new_primary(&group, &old);
    // Shorter than this it is no standing still, only a slow answer.
    std::thread::sleep(Duration::from_secs(1));
    // The kernel takes the questions; the monitor answers them as its first act.
    client.socket.set_read_timeout(Some(LIMIT)).unwrap();
    client.send(PRIMARY, RecordType::SRV);
    stream.write_all(&framed(&question(7, PRIMARY, RecordType::SRV))).unwrap();
    group.monitors[passive].process().resume();
    let over_udp = port(&client.receive().expect("an answer over UDP"));
    let over_tcp = port(&receive(&mut stream).expect("an answer over TCP"));
    for named in [over_udp, over_tcp].into_iter().flatten() {
        assert_eq!(named, new.port());
    }
    wait::until("the new primary is named", LIMIT, || {
        let named = port(&client.ask(PRIMARY, RecordType::SRV));
        assert_ne!(named, Some(old.port()));
        named.ok_or("nobody")
    });
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).expect("short").to_be_bytes(), message].concat()
}

/// The next reply; none if the connection was closed.
fn receive(stream: &mut TcpStream) -> Option<Message> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).ok()?;
    Some(Message::from_vec(&reply).expect("a message"))
}

#[test]
fn junk_halves_and_floods_change_nothing() {
    let mut group = served().monitors(1).monitor_key("zookeeper", "discover", "/the_red/storage").start();
    let server = group.dns_address(0);
    let mut client = Client::of(server);
    let primary = group.settled().primary.addr;
    let lines = group.monitors[0].process().log().lines().count();
    let mut random = fastrand::Rng::with_seed(4711);
    for round in 0..50 {
        let bytes = |random: &mut fastrand::Rng, most| -> Vec<u8> {
            (0..random.usize(..most)).map(|_| random.u8(..)).collect()
        };
        for _ in 0..50 {
            client.socket.send(&bytes(&mut random, 600)).unwrap();
        }
        client.socket.send(&vec![round; 65_000]).unwrap();
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        let whole = framed(&question(u16::from(round), PRIMARY, RecordType::SRV));
        let sent = match round % 5 {
            0 => bytes(&mut random, 70_000),
            1 => framed(&bytes(&mut random, 60_000)),
            2 => whole[..random.usize(..whole.len())].to_vec(),
            3 => vec![0xff; 65_537],
            _ => [&whole[..], &framed(b"no question"), &whole].concat(),
        };
        // It may be closed before all of it is sent.
        let _ = stream.write_all(&sent).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        if round % 5 == 4 {
            assert_eq!(receive(&mut stream).map(|reply| port(&reply)), Some(Some(primary.port())));
            assert_eq!(receive(&mut stream), None, "closed after what is no question");
        } else {
            let _ = stream.read_to_end(&mut Vec::new());
        }
        assert_eq!(port(&client.ask(PRIMARY, RecordType::SRV)), Some(primary.port()), "round {round}");
    }
    let monitor = &mut group.monitors[0];
    let log = monitor.process().log();
    assert_eq!(log.lines().count(), lines, "no line for any of it: {log}");
    let counted = |code: &str| monitor.metric(&format!("albireo_dns_queries_total{{rcode=\"{code}\"}}"));
    assert!(counted("NOERROR") >= Some(50.0), "{:?}", counted("NOERROR"));
    assert!(counted("FORMERR") >= Some(50.0), "{:?}", counted("FORMERR"));

    // Two services that DNS cannot tell from each other.
    let topology = format!(r#"{{"primary": "{primary}", "secondary": []}}"#);
    group.zookeeper.create("/the_red/storage/POSTS", &topology);
    wait::until("neither is named", LIMIT, || {
        let code = client.code(PRIMARY);
        wait::holds(code == ResponseCode::ServFail, || format!("{code:?}"))
    });
    client.code(PRIMARY);
    let log = group.monitors[0].process().log();
    assert_eq!(log.matches("several services are called so").count(), 1, "{log}");
}

/// A monitor whose ZooKeeper is not there, with these keys in `[zookeeper]`.
fn without_zookeeper(keys: &[(&str, &str)], dns: SocketAddr) -> Program {
    let (admin, host) = (Host::local().at(ports::free()), Host::local());
    let nowhere = host.at(ports::free());
    let mut ini =
        Ini::new().set("zookeeper", "hosts", nowhere).set("admin", "listen", admin).set("dns", "listen", dns);
    for (key, value) in keys {
        ini = ini.set("zookeeper", key, value);
    }
    let mut program = Program::start(&Launch {
        kind: "monitor",
        name: "alone",
        host: &host,
        ini: &ini,
        env: &[],
        http: admin,
    });
    program.process().wait_for_line("monitor `primary` starts", LIMIT);
    program
}

#[test]
fn before_anything_is_known() {
    let at = || Host::local().at(ports::free());
    let (listed, discovering) = (at(), at());
    let _listed = without_zookeeper(&[("path", "/a/posts")], listed);
    let mut discovering_monitor = without_zookeeper(&[("discover", "/a"), ("path", "/b/users")], discovering);
    let mut client = Client::of(listed);
    assert_eq!(client.code(PRIMARY), ResponseCode::ServFail);
    wait::until("its own services are known", LIMIT, || {
        let code = client.code("primary.other.albireo.internal.");
        wait::holds(code == ResponseCode::NXDomain, || format!("{code:?}"))
    });
    let mut client = Client::of(discovering);
    wait::until("the one that stands in the file is known", LIMIT, || {
        let code = client.code("users.albireo.internal.");
        wait::holds(code == ResponseCode::NoError, || format!("{code:?}"))
    });
    for name in [PRIMARY, "primary.users.albireo.internal.", "posts.albireo.internal."] {
        assert_eq!(client.code(name), ResponseCode::ServFail, "{name}");
    }
    assert_eq!(client.code("nothing.here.albireo.internal."), ResponseCode::NXDomain);

    // A path more is known at once, and what is below `discover` as little as before.
    let text = std::fs::read_to_string(discovering_monitor.file()).expect("a file");
    discovering_monitor.write_file(&text.replace("path = /b/users\n", "path = /b/users,/b/likes\n"));
    discovering_monitor.process().signal(Signal::Hup);
    wait::until("the new one is known", LIMIT, || {
        let code = client.code("likes.albireo.internal.");
        wait::holds(code == ResponseCode::NoError, || format!("{code:?}"))
    });
    for name in [PRIMARY, "posts.albireo.internal."] {
        assert_eq!(client.code(name), ResponseCode::ServFail, "{name}");
    }
}

#[test]
fn a_port_that_is_taken() {
    let dir = WorkDir::new("dns-port");
    let file = dir.join("monitor.ini");
    let file_name = file.display().to_string();
    let (udp, tcp) = (Host::local().at(ports::free()), Host::local().at(ports::free()));
    let _udp = UdpSocket::bind(udp).unwrap();
    let _tcp = std::net::TcpListener::bind(tcp).unwrap();
    let nowhere = Host::local().at(ports::free());
    for (listen, which) in [(udp, "UDP"), (tcp, "TCP")] {
        let ini = Ini::new()
            .set("zookeeper", "hosts", nowhere)
            .set("zookeeper", "path", "/a/posts")
            .set("admin", "listen", Host::local().at(ports::free()))
            .set("dns", "listen", listen);
        std::fs::write(&file, ini.text()).unwrap();
        let (code, said) = programs::run("monitor", &[&file_name], LIMIT);
        assert_eq!(code, 1, "{said}");
        assert!(
            said.contains(&format!("[dns] listen = {listen}: {which}: Address already in use")),
            "{said}"
        );
        let (_, said) = programs::run("monitor", &["check", &file_name], LIMIT);
        assert!(said.contains(&format!("DNS {listen}: note: {which}: Address already in use")), "{said}");
    }
    // An address of somebody else's (TEST-NET-1).
    let ini = Ini::new().set("zookeeper", "hosts", nowhere).set("zookeeper", "path", "/a").set(
        "dns",
        "listen",
        "192.0.2.1:53",
    );
    std::fs::write(&file, ini.text()).unwrap();
    let begun = Instant::now();
    let (code, said) = programs::run("monitor", &["check", &file_name], LIMIT);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("DNS 192.0.2.1:53: FAILED: UDP: "), "{said} after {:?}", begun.elapsed());
}
