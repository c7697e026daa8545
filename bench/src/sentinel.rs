//! Redis Sentinel, to compare with: three servers, three sentinels with a quorum of two, and clients that do what
//! clients of Sentinel do.
//!
//! A client asks a sentinel for the primary, makes sure with ROLE, and writes there, one request at a time. A write
//! counts as acknowledged when that server has said OK. When its connection breaks, or no answer comes within
//! [`ANSWER_LIMIT`], the request has failed and the next one asks again; nothing is retried.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use world::redis::{Redis, Settings};
use world::resp::{Connection, Reply};
use world::{Host, Process, WorkDir, wait};

/// As many as the load on Albireo has, at the same pace.
const CLIENTS: usize = 4;
const PACE: Duration = Duration::from_millis(2);
/// How long a client waits for a server or a sentinel.
const ANSWER_LIMIT: Duration = Duration::from_millis(100);
/// How long a failover, and everything after it, may take.
const LIMIT: Duration = Duration::from_secs(90);

/// The servers and their sentinels.
pub(crate) struct Group {
    pub(crate) redis: Vec<Redis>,
    sentinels: Vec<(SocketAddr, Process)>,
}

impl Group {
    /// Everything up, and every sentinel knows the replicas and the other sentinels.
    pub(crate) fn start() -> Self {
        let primary = Redis::start();
        let replica = || Settings::default().replica_of(primary.addr()).start();
        let (first, second) = (replica(), replica());
        let sentinels = (0..3).map(|number| start(number, primary.addr())).collect();
        let group = Self { redis: vec![primary, first, second], sentinels };
        group.settled();
        group
    }

    /// After how long without an answer a server is down.
    pub(crate) fn set_down_after(&self, millis: u64) {
        for (addr, _) in &self.sentinels {
            let words = ["SENTINEL", "SET", "main", "down-after-milliseconds", &millis.to_string()];
            let said = Connection::open(&Host::local(), *addr, LIMIT).and_then(|mut c| c.call(&words));
            assert_eq!(said.expect("an answer of a sentinel"), Reply::Text("OK".to_owned()));
        }
    }

    /// Waits until everybody agrees and all replicas are in order; the number of the primary.
    pub(crate) fn settled(&self) -> usize {
        wait::until("Sentinel's servers in order", LIMIT, || self.order())
    }

    /// Whom all sentinels name in place of `old`.
    pub(crate) fn heir(&self, old: SocketAddr) -> SocketAddr {
        wait::until("an heir", LIMIT, || {
            let mut named = Vec::new();
            for (addr, _) in &self.sentinels {
                let mut connection =
                    Connection::open(&Host::local(), *addr, LIMIT).map_err(|e| e.to_string())?;
                named.push(asked(&mut connection).map_err(|e| e.to_string())?);
            }
            let agreed = named.iter().all(|addr| *addr == named[0] && *addr != old);
            wait::holds(agreed, || format!("{named:?}")).map(|()| named[0])
        })
    }

    fn order(&self) -> Result<usize, String> {
        let mut named = Vec::new();
        for (addr, _) in &self.sentinels {
            let mut connection = Connection::open(&Host::local(), *addr, LIMIT).map_err(|e| e.to_string())?;
            let shown = connection.call(&["SENTINEL", "MASTER", "main"]).map_err(|e| e.to_string())?;
            let shown = fields(&shown);
            let has = |name: &str, value: &str| shown.get(name).is_some_and(|found| found == value);
            let all = has("num-slaves", "2") && has("num-other-sentinels", "2") && has("flags", "master");
            wait::holds(all, || format!("{shown:?}"))?;
            let replicas = connection.call(&["SENTINEL", "REPLICAS", "main"]).map_err(|e| e.to_string())?;
            for replica in replicas.list().iter().map(fields) {
                let good = replica.get("flags").is_some_and(|flags| flags == "slave")
                    && replica.get("master-link-status").is_some_and(|link| link == "ok");
                wait::holds(good, || format!("{replica:?}"))?;
            }
            named.push(asked(&mut connection).map_err(|e| e.to_string())?);
        }
        wait::holds(named.iter().all(|addr| *addr == named[0]), || format!("{named:?}"))?;
        let primary = self.redis.iter().position(|redis| redis.addr() == named[0]);
        let primary = primary.ok_or_else(|| format!("{} is no server of ours", named[0]))?;
        let addr = self.redis[primary].addr().to_string();
        for redis in self.redis.iter().filter(|redis| redis.addr() != named[0]) {
            let follows = redis.follows();
            wait::holds(follows.as_ref() == Some(&addr), || format!("{} follows {follows:?}", redis.addr()))?;
        }
        Ok(primary)
    }

    /// Starts the clients and waits until all of them write.
    pub(crate) fn load(&self) -> Load {
        let sentinels: Vec<SocketAddr> = self.sentinels.iter().map(|(addr, _)| *addr).collect();
        let shared = Arc::new(Shared::default());
        let clients = (0..CLIENTS).map(|number| {
            let client = Client {
                number,
                sentinels: sentinels.clone(),
                shared: shared.clone(),
                sentinel: None,
                server: None,
                seen: Seen::default(),
            };
            thread::spawn(move || client.run())
        });
        let load = Load { clients: clients.collect(), shared };
        wait::until("writes of all clients", LIMIT, || {
            let writing = load.shared.locked().values().map(|first| first.writes).sum::<usize>();
            wait::holds(writing > 50 * CLIENTS, || format!("{writing} so far"))
        });
        load
    }
}

fn start(number: usize, primary: SocketAddr) -> (SocketAddr, Process) {
    let name = format!("sentinel-{number}");
    let addr = Host::local().at(Host::local().free_port());
    let dir = WorkDir::new(&name);
    let file = dir.join("sentinel.conf");
    let text = format!(
        "bind {}\nport {}\nsentinel monitor main {} {} 2\nsentinel down-after-milliseconds main 1000\n",
        addr.ip(),
        addr.port(),
        primary.ip(),
        primary.port()
    );
    std::fs::write(&file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let binary = std::env::var_os("TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
    let mut command = Command::new(binary);
    command.arg(&file).arg("--sentinel");
    (addr, Process::within(&name, command, &dir))
}

/// What stands in a list of names and values.
fn fields(shown: &Reply) -> BTreeMap<String, String> {
    let text = |reply: &Reply| match reply {
        Reply::Text(text) => text.clone(),
        Reply::Error(_) | Reply::Number(_) | Reply::Nil | Reply::List(_) => String::new(),
    };
    let Reply::List(list) = shown else { return BTreeMap::new() };
    list.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

/// Whom a sentinel takes for the primary.
fn asked(sentinel: &mut Connection) -> io::Result<SocketAddr> {
    let named = sentinel.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"])?;
    let parsed = match &named {
        Reply::List(pair) => match pair.as_slice() {
            [Reply::Text(ip), Reply::Text(port)] => format!("{ip}:{port}").parse().ok(),
            _ => None,
        },
        Reply::Text(_) | Reply::Error(_) | Reply::Number(_) | Reply::Nil => None,
    };
    parsed.ok_or_else(|| io::Error::other(format!("{named:?}")))
}

/// Clients that write until they are stopped.
pub(crate) struct Load {
    clients: Vec<JoinHandle<Seen>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Per server that acknowledged a write.
    served: Mutex<BTreeMap<SocketAddr, Served>>,
}

#[derive(Clone, Copy)]
struct Served {
    first: Instant,
    writes: usize,
}

impl Shared {
    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<SocketAddr, Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client, or all of them, saw.
#[derive(Default)]
pub(crate) struct Seen {
    /// The keys of the acknowledged writes; each holds itself.
    pub(crate) acknowledged: Vec<String>,
    /// Reads and writes.
    pub(crate) requests: usize,
    /// Those that were not answered as they should be.
    pub(crate) failed: usize,
}

impl Load {
    /// Waits for the first write that a server other than `old` acknowledges: when that was.
    pub(crate) fn served_elsewhere(&self, old: SocketAddr) -> Instant {
        wait::until("a write at another server", LIMIT, || {
            let first = self.shared.locked().iter().find(|(addr, _)| **addr != old).map(|(_, s)| s.first);
            first.ok_or("none yet")
        })
    }

    /// Ends the load.
    pub(crate) fn stop(self) -> Seen {
        self.shared.stop.store(true, Ordering::Release);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.join().expect("a client");
            all.acknowledged.extend(seen.acknowledged);
            all.requests += seen.requests;
            all.failed += seen.failed;
        }
        all
    }
}

impl Seen {
    /// How many acknowledged writes this server does not hold.
    pub(crate) fn lost(&self, primary: &Redis) -> usize {
        let mut connection = primary.connect().expect("a connection");
        let mut holds = |key: &String| {
            let found = connection.call(&["GET", key]).expect("an answer");
            found == Reply::Text(key.clone())
        };
        self.acknowledged.iter().filter(|key| !holds(key)).count()
    }
}

struct Client {
    number: usize,
    sentinels: Vec<SocketAddr>,
    shared: Arc<Shared>,
    /// Kept open, as libraries do.
    sentinel: Option<Connection>,
    server: Option<(SocketAddr, Connection)>,
    seen: Seen,
}

impl Client {
    fn run(mut self) -> Seen {
        let mut count = 0_u64;
        while !self.shared.stop.load(Ordering::Acquire) {
            let key = format!("c{}-{count}", self.number);
            count += 1;
            let written = self.write(&key);
            if self.succeeded(written) {
                self.seen.acknowledged.push(key.clone());
                thread::sleep(PACE);
                let read = self.read(&key);
                self.succeeded(read);
            }
            thread::sleep(PACE);
        }
        self.seen
    }

    fn succeeded(&mut self, request: io::Result<()>) -> bool {
        self.seen.requests += 1;
        if request.is_err() {
            self.seen.failed += 1;
            self.server = None;
        }
        request.is_ok()
    }

    fn write(&mut self, key: &str) -> io::Result<()> {
        let (addr, connection) = self.connected()?;
        let reply = connection.call(&["SET", key, key])?;
        let now = Instant::now();
        if reply != Reply::Text("OK".to_owned()) {
            return Err(io::Error::other(format!("{reply:?}")));
        }
        let mut served = self.shared.locked();
        served.entry(addr).or_insert(Served { first: now, writes: 0 }).writes += 1;
        Ok(())
    }

    fn read(&mut self, key: &str) -> io::Result<()> {
        let reply = self.connected()?.1.call(&["GET", key])?;
        let right = reply == Reply::Text(key.to_owned());
        if right { Ok(()) } else { Err(io::Error::other(format!("{reply:?}"))) }
    }

    /// The server in use, or the one that a sentinel names and that says itself that it is the primary.
    fn connected(&mut self) -> io::Result<(SocketAddr, &mut Connection)> {
        if self.server.is_none() {
            let addr = self.ask()?;
            let mut connection = Connection::open(&Host::local(), addr, ANSWER_LIMIT)?;
            connection.set_limit(ANSWER_LIMIT)?;
            let role = connection.call(&["ROLE"])?;
            let primary =
                matches!(&role, Reply::List(f) if f.first() == Some(&Reply::Text("master".to_owned())));
            if !primary {
                return Err(io::Error::other(format!("{addr}: {role:?}")));
            }
            self.server = Some((addr, connection));
        }
        let (addr, connection) = self.server.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok((*addr, connection))
    }

    fn ask(&mut self) -> io::Result<SocketAddr> {
        let mut sentinel = match self.sentinel.take() {
            Some(sentinel) => sentinel,
            None => {
                let at = self.sentinels[self.number % self.sentinels.len()];
                let sentinel = Connection::open(&Host::local(), at, ANSWER_LIMIT)?;
                sentinel.set_limit(ANSWER_LIMIT)?;
                sentinel
            }
        };
        let named = asked(&mut sentinel)?;
        self.sentinel = Some(sentinel);
        Ok(named)
    }
}
