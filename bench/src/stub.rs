//! Redis servers that are played, for more services than memory has room for: each has an address of its own in 127/8,
//! listens there, and answers what a monitor asks and orders as redis-server 7.0 does. [`crate::services`] checks it
//! against real servers.
//!
//! What is true of real ones is true here: roles, run ids, offsets, replication ids, the fence and who may replicate. A
//! replica's link is up while its primary lives, is a primary, and lets it in; what is written reaches it at once. What
//! no monitor can see is left out: there are no data. Services come in pairs: servers 2n and 2n + 1 belong together.
//!
//! One process plays them all, in one thread, told what to do by lines on its standard input; it ends with that.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

/// With this as its first argument the program is a stub.
pub(crate) const WORD: &str = "stub";

pub(crate) const FENCE: &str = "albireo:fence";
const TICK: &str = "albireo:tick";
/// What a stamp adds to the stream, about.
const STAMP_BYTES: u64 = 100;

/// The address of a server: its number within 127/8, below the part that this stub was given.
pub(crate) fn address(part: u8, port: u16, server: usize) -> SocketAddrV4 {
    let (high, low) = (server / 250, server % 250 + 1);
    let byte = |number: usize| u8::try_from(number).expect("fewer than 62,500 servers");
    SocketAddrV4::new(Ipv4Addr::new(127, part, byte(high), byte(low)), port)
}

/// One server.
struct Server {
    addr: SocketAddrV4,
    run_id: String,
    /// Whom it follows; `None`: it is a primary.
    source: Option<SocketAddrV4>,
    replid: String,
    /// The history that its own continues, up to that offset.
    before: Option<(String, u64)>,
    offset: u64,
    fence: Option<String>,
    /// How often the fence was written, for WATCH.
    fence_writes: u64,
    tick: Option<u64>,
    masteruser: String,
    masterauth: String,
    /// Password of each ACL user, and whether it may replicate.
    users: BTreeMap<String, (String, bool)>,
    hung: bool,
    dead: bool,
    tasks: Vec<JoinHandle<()>>,
    /// The reply to `INFO replication`, as long as nothing changes.
    info: Option<Vec<u8>>,
    /// The last questions and the answer to them, as long as nothing changes: real servers answer in parallel, and this one
    /// process answers for all of them.
    said: Option<(Vec<u8>, Vec<u8>)>,
}

impl Server {
    fn new(addr: SocketAddrV4) -> Self {
        Self {
            addr,
            run_id: random_id(),
            source: None,
            replid: random_id(),
            before: None,
            offset: 0,
            fence: None,
            fence_writes: 0,
            tick: None,
            masteruser: String::new(),
            masterauth: String::new(),
            users: BTreeMap::from([("default".to_owned(), (String::new(), true))]),
            hung: false,
            dead: false,
            tasks: Vec::new(),
            info: None,
            said: None,
        }
    }

    /// Whether a replica that logs in like this is let in.
    fn lets_in(&self, user: &str, password: &str) -> bool {
        let user = if user.is_empty() { "default" } else { user };
        self.users.get(user).is_some_and(|(known, may)| *may && (known.is_empty() || known == password))
    }

    fn keys(&self) -> usize {
        usize::from(self.fence.is_some()) + usize::from(self.tick.is_some())
    }
}

/// 40 hex digits that nobody has had before.
fn random_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    let part = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}{:08x}", part(), part(), part() & 0xffff_ffff)
}

/// All servers of this process.
struct Servers {
    all: Vec<Server>,
    by_addr: BTreeMap<SocketAddrV4, usize>,
    begun: Instant,
    /// What happened: microseconds, the server, what.
    events: Vec<(u128, usize, &'static str)>,
}

type Shared = Rc<RefCell<Servers>>;

impl Servers {
    fn happened(&mut self, server: usize, what: &'static str) {
        self.events.push((self.begun.elapsed().as_micros(), server, what));
    }

    /// Its primary, if it is a replica whose link there is up.
    fn linked(&self, server: usize) -> Option<usize> {
        let replica = &self.all[server];
        let source = *self.by_addr.get(&replica.source?)?;
        let primary = &self.all[source];
        let up = !primary.dead
            && primary.source.is_none()
            && primary.lets_in(&replica.masteruser, &replica.masterauth);
        // A link that is up stays up while its primary is silent, for `repl-timeout`; a new one does not come up.
        (up && (!primary.hung || replica.replid == primary.replid)).then_some(source)
    }

    /// After any change: streams reach those who follow, and what was said is said anew.
    fn settle(&mut self, server: usize) {
        for one in [server, server ^ 1] {
            (self.all[one].info, self.all[one].said) = (None, None);
            if let Some(source) = self.linked(one) {
                let Server { replid, offset, fence, fence_writes, tick, .. } = &self.all[source];
                let stream = (replid.clone(), *offset, fence.clone(), *fence_writes, *tick);
                let replica = &mut self.all[one];
                (replica.replid, replica.offset, replica.fence, replica.fence_writes, replica.tick) = stream;
            }
        }
    }

    /// The reply to `INFO replication`.
    fn info(&mut self, server: usize) -> &[u8] {
        if self.all[server].info.is_none() {
            let text = self.render_info(server);
            self.all[server].info = Some(bulk(&text));
        }
        self.all[server].info.as_deref().unwrap_or_default()
    }

    fn render_info(&self, server: usize) -> String {
        let own = &self.all[server];
        let mut text = String::from("# Replication\r\n");
        let offset = own.offset;
        match own.source {
            None => {
                let replicas = [server ^ 1]
                    .into_iter()
                    .filter(|other| !self.all[*other].dead && self.linked(*other) == Some(server));
                let replicas: Vec<SocketAddrV4> = replicas.map(|other| self.all[other].addr).collect();
                let _ = write!(text, "role:master\r\nconnected_slaves:{}\r\n", replicas.len());
                for (number, addr) in replicas.iter().enumerate() {
                    let (ip, port) = (addr.ip(), addr.port());
                    let _ = write!(
                        text,
                        "slave{number}:ip={ip},port={port},state=online,offset={offset},lag=0\r\n"
                    );
                }
            }
            Some(source) => {
                let link = if self.linked(server).is_some() { "up" } else { "down" };
                let (ip, port) = (source.ip(), source.port());
                let _ = write!(
                    text,
                    "role:slave\r\nmaster_host:{ip}\r\nmaster_port:{port}\r\nmaster_link_status:{link}\r\n\
                     master_last_io_seconds_ago:0\r\nmaster_sync_in_progress:0\r\nslave_read_repl_offset:{offset}\r\n\
                     slave_repl_offset:{offset}\r\nslave_priority:100\r\nslave_read_only:1\r\n\
                     replica_announced:1\r\nconnected_slaves:0\r\n"
                );
            }
        }
        let (second, second_offset) =
            own.before.as_ref().map_or(("0".repeat(40), -1), |(id, at)| (id.clone(), *at as i64));
        let _ = write!(
            text,
            "master_failover_state:no-failover\r\nmaster_replid:{}\r\nmaster_replid2:{second}\r\n\
             master_repl_offset:{offset}\r\nsecond_repl_offset:{second_offset}\r\nrepl_backlog_active:1\r\n\
             repl_backlog_size:1048576\r\nrepl_backlog_first_byte_offset:1\r\nrepl_backlog_histlen:{offset}\r\n",
            own.replid
        );
        text
    }

    fn replica_of(&mut self, server: usize, host: &str, port: &str) {
        if host.eq_ignore_ascii_case("no") {
            if self.all[server].source.take().is_some() {
                let own = &mut self.all[server];
                own.before = Some((std::mem::replace(&mut own.replid, random_id()), own.offset + 1));
                self.happened(server, "promoted");
            }
            return;
        }
        if let (Ok(ip), Ok(port)) = (host.parse(), port.parse()) {
            self.all[server].source = Some(SocketAddrV4::new(ip, port));
        }
    }

    /// Answers one command outside of a transaction, or one of a transaction.
    fn answer(&mut self, server: usize, args: &[&str], out: &mut Vec<u8>) {
        let word = |at: usize| args.get(at).copied().unwrap_or_default();
        let is = |at: usize, text: &str| word(at).eq_ignore_ascii_case(text);
        let own = &mut self.all[server];
        let before = out.len();
        match args.len() {
            2 if is(0, "INFO") && is(1, "replication") => out.extend_from_slice(self.info(server)),
            2 if is(0, "GET") && word(1) == FENCE => optional(out, own.fence.as_deref()),
            2 if is(0, "GET") && word(1) == TICK => {
                optional(out, own.tick.map(|tick| tick.to_string()).as_deref());
            }
            2 if is(0, "INFO") && is(1, "keyspace") => {
                let keys = own.keys();
                let db = if keys > 0 { format!("db0:keys={keys},expires=0,avg_ttl=0\r\n") } else { String::new() };
                out.extend(bulk(&format!("# Keyspace\r\n{db}")));
            }
            3 if is(0, "CONFIG") && is(1, "GET") => match word(2) {
                "masteruser" => list(out, &["masteruser", &own.masteruser]),
                "maxmemory" => list(out, &["maxmemory", "0"]),
                "replica-announce-*" => {
                    list(out, &["replica-announce-ip", "", "replica-announce-port", "0"]);
                }
                _ => out.extend_from_slice(b"*0\r\n"),
            },
            2 if is(0, "INFO") && is(1, "persistence") => out.extend_from_slice(&bulk(
                "# Persistence\r\nloading:0\r\nasync_loading:0\r\ncurrent_cow_peak:0\r\ncurrent_cow_size:0\r\n\
                 current_fork_perc:0.00\r\ncurrent_save_keys_processed:0\r\ncurrent_save_keys_total:0\r\n\
                 rdb_changes_since_last_save:2\r\nrdb_bgsave_in_progress:0\r\nrdb_last_save_time:1700000000\r\n\
                 rdb_last_bgsave_status:ok\r\nrdb_last_bgsave_time_sec:0\r\nrdb_current_bgsave_time_sec:-1\r\n\
                 rdb_saves:0\r\nrdb_last_cow_size:0\r\naof_enabled:0\r\naof_rewrite_in_progress:0\r\n\
                 aof_rewrite_scheduled:0\r\naof_last_rewrite_time_sec:-1\r\naof_last_bgrewrite_status:ok\r\n\
                 aof_last_write_status:ok\r\naof_last_cow_size:0\r\n",
            )),
            2 if is(0, "INFO") && is(1, "memory") => out.extend_from_slice(&bulk(
                "# Memory\r\nused_memory:1400000\r\nused_memory_human:1.34M\r\nused_memory_rss:9000000\r\n\
                 used_memory_peak:1500000\r\nused_memory_overhead:1200000\r\nused_memory_startup:860000\r\n\
                 total_system_memory:25000000000\r\nmaxmemory:0\r\nmaxmemory_human:0B\r\n\
                 maxmemory_policy:noeviction\r\nmem_fragmentation_ratio:6.5\r\n",
            )),
            2 if is(0, "INFO") && is(1, "server") => out.extend(bulk(&format!(
                "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\narch_bits:64\r\nprocess_id:1\r\n\
                 run_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:1\r\nhz:10\r\n",
                own.run_id,
                own.addr.port()
            ))),
            2 if is(0, "ACL") && is(1, "USERS") => {
                list(out, &own.users.keys().map(String::as_str).collect::<Vec<_>>());
            }
            _ if is(0, "SCAN") => {
                let mut keys = Vec::new();
                keys.extend(own.fence.as_ref().map(|_| FENCE));
                keys.extend(own.tick.map(|_| TICK));
                out.extend_from_slice(b"*2\r\n$1\r\n0\r\n");
                list(out, &keys);
            }
            _ => {
                self.change(server, args, out);
                self.settle(server);
            }
        }
        debug_assert!(out.len() > before, "an answer to {args:?}");
    }

    /// What changes something.
    fn change(&mut self, server: usize, args: &[&str], out: &mut Vec<u8>) {
        let word = |at: usize| args.get(at).copied().unwrap_or_default();
        let own = &mut self.all[server];
        match word(0).to_ascii_uppercase().as_str() {
            "EVAL" | "SET" | "INCR" if own.source.is_some() => {
                return out.extend_from_slice(b"-READONLY You can't write against a read only replica.\r\n");
            }
            "EVAL" => {
                own.fence = Some(word(4).to_owned());
                own.fence_writes += 1;
                own.offset += STAMP_BYTES;
            }
            "SET" => (own.tick, own.offset) = (word(2).parse().ok(), own.offset + STAMP_BYTES),
            "INCR" => (own.tick, own.offset) = (own.tick.map(|tick| tick + 1), own.offset + STAMP_BYTES),
            "REPLICAOF" => self.replica_of(server, word(1), word(2)),
            "CONFIG" => match word(2) {
                "masteruser" => own.masteruser = word(3).to_owned(),
                "masterauth" => own.masterauth = word(3).to_owned(),
                _ => {}
            },
            "ACL" => {
                let user = own.users.entry(word(2).to_owned()).or_default();
                for rule in &args[3..] {
                    match *rule {
                        "reset" => *user = (String::new(), false),
                        "+psync" => user.1 = true,
                        "-psync" => user.1 = false,
                        rule => user.0 = rule.strip_prefix('>').unwrap_or(&user.0).to_owned(),
                    }
                }
            }
            "PING" => return out.extend_from_slice(b"+PONG\r\n"),
            "AUTH" | "CLIENT" => {}
            other => {
                let error = format!("-ERR the stub does not know {other}\r\n");
                return out.extend_from_slice(error.as_bytes());
            }
        }
        out.extend_from_slice(b"+OK\r\n");
    }
}

fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

fn optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => out.extend(bulk(text)),
        None => out.extend_from_slice(b"$-1\r\n"),
    }
}

fn list(out: &mut Vec<u8>, words: &[&str]) {
    out.extend(format!("*{}\r\n", words.len()).into_bytes());
    words.iter().for_each(|word| out.extend(bulk(word)));
}

/// The next command in the buffer and where it ends.
fn take(buffer: &[u8]) -> Option<(Vec<&str>, usize)> {
    let line = |from: usize| {
        let end = from + buffer.get(from..)?.windows(2).position(|two| two == b"\r\n")?;
        let number: usize = std::str::from_utf8(buffer.get(from + 1..end)?).ok()?.parse().ok()?;
        Some((number, end + 2))
    };
    let (count, mut at) = line(0)?;
    let mut args = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, begin) = line(at)?;
        args.push(std::str::from_utf8(buffer.get(begin..begin + length)?).ok()?);
        at = begin + length + 2;
    }
    (buffer.len() >= at).then_some((args, at))
}

/// What belongs to one connection.
#[derive(Default)]
struct Client {
    watched: Option<u64>,
    queued: Option<Vec<Vec<String>>>,
}

fn handle(servers: &mut Servers, server: usize, client: &mut Client, args: &[&str], out: &mut Vec<u8>) {
    let name = args.first().copied().unwrap_or_default();
    match name {
        "EXEC" => {
            let queued = client.queued.take().unwrap_or_default();
            let untouched = client.watched.take().is_none_or(|seen| seen == servers.all[server].fence_writes);
            if !untouched {
                return out.extend_from_slice(b"*-1\r\n");
            }
            out.extend(format!("*{}\r\n", queued.len()).into_bytes());
            for command in queued {
                let args: Vec<&str> = command.iter().map(String::as_str).collect();
                servers.answer(server, &args, out);
            }
        }
        "MULTI" => {
            client.queued = Some(Vec::new());
            out.extend_from_slice(b"+OK\r\n");
        }
        "WATCH" => {
            client.watched = Some(servers.all[server].fence_writes);
            out.extend_from_slice(b"+OK\r\n");
        }
        "UNWATCH" => {
            client.watched = None;
            out.extend_from_slice(b"+OK\r\n");
        }
        _ => match &mut client.queued {
            Some(queued) => {
                queued.push(args.iter().map(|arg| (*arg).to_owned()).collect());
                out.extend_from_slice(b"+QUEUED\r\n");
            }
            None => servers.answer(server, args, out),
        },
    }
}

async fn serve(servers: Shared, server: usize, mut stream: TcpStream) {
    let (mut buffer, mut out, mut client) = (Vec::with_capacity(512), Vec::new(), Client::default());
    loop {
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if servers.borrow().all[server].hung {
            return std::future::pending().await; // until it is killed
        }
        out.clear();
        repeat(&mut servers.borrow_mut().all[server], &mut buffer, &mut out);
        let mut taken = 0;
        while let Some((args, length)) = take(&buffer[taken..]) {
            handle(&mut servers.borrow_mut(), server, &mut client, &args, &mut out);
            taken += length;
        }
        if buffer.starts_with(QUESTIONS) && taken == buffer.len() {
            servers.borrow_mut().all[server].said = Some((buffer.clone(), out.clone()));
        }
        buffer.drain(..taken);
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// How the questions of a probe begin, which change nothing.
const QUESTIONS: &[u8] = b"*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n";

/// Where the same is asked as the last time and nothing has changed, the same is said.
fn repeat(own: &mut Server, buffer: &mut Vec<u8>, out: &mut Vec<u8>) {
    if let Some((_, answer)) = own.said.as_ref().filter(|(questions, _)| *questions == *buffer) {
        out.extend_from_slice(answer);
        buffer.clear();
    }
}

fn listen(servers: &Shared, server: usize) {
    let addr = servers.borrow().all[server].addr;
    let listener = std::net::TcpListener::bind(addr).unwrap_or_else(|e| panic!("{addr}: {e}"));
    listener.set_nonblocking(true).expect("a socket");
    let listener = TcpListener::from_std(listener).expect("a runtime");
    let shared = servers.clone();
    let task = spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let task = spawn_local(serve(shared.clone(), server, stream));
            let tasks = &mut shared.borrow_mut().all[server].tasks;
            tasks.retain(|task| !task.is_finished());
            tasks.push(task);
        }
    });
    servers.borrow_mut().all[server].tasks.insert(0, task);
}

/// One line of what to do.
async fn obey(servers: &Shared, line: &str) -> String {
    let mut words = line.split(' ');
    let verb = words.next().unwrap_or_default().to_owned();
    let numbers: Vec<usize> = words.filter_map(|word| word.parse().ok()).collect();
    if verb == "events" {
        let events = std::mem::take(&mut servers.borrow_mut().events);
        let one = |(at, server, what): &(u128, usize, &str)| format!("{at} {server} {what}");
        return events.iter().map(one).collect::<Vec<_>>().join(",");
    }
    let mut ended = Vec::new();
    for server in numbers {
        let mut all = servers.borrow_mut();
        let own = &mut all.all[server];
        match verb.as_str() {
            "kill" => {
                own.dead = true;
                ended.append(&mut own.tasks);
                all.happened(server, "killed");
            }
            "hang" => {
                own.hung = true;
                all.happened(server, "hung");
            }
            // Another process, and empty.
            "revive" => {
                all.all[server] = Server::new(all.all[server].addr);
                drop(all);
                listen(servers, server);
                all = servers.borrow_mut();
            }
            _ => return format!("unknown: {verb}"),
        }
        all.settle(server);
    }
    ended.iter().for_each(JoinHandle::abort);
    for task in ended {
        let _ = task.await; // its socket is closed then
    }
    "done".to_owned()
}

/// Plays so many servers until standard input ends. `arguments`: the part of 127/8, the port, how many.
pub(crate) fn run(arguments: &[String]) {
    let [part, port, count] = arguments else { panic!("expected: stub PART PORT COUNT") };
    let (part, port) = (part.parse().expect("a part"), port.parse().expect("a port"));
    let count: usize = count.parse().expect("a number");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async move {
        let all: Vec<Server> = (0..count).map(|server| Server::new(address(part, port, server))).collect();
        let by_addr = all.iter().enumerate().map(|(number, server)| (server.addr, number)).collect();
        let servers = Servers { all, by_addr, begun: Instant::now(), events: Vec::new() };
        let servers = Rc::new(RefCell::new(servers));
        (0..count).for_each(|server| listen(&servers, server));
        let (lines, mut inbox) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        println!("ready");
        while let Some(line) = inbox.recv().await {
            println!("{}", obey(&servers, &line).await);
        }
    });
}
