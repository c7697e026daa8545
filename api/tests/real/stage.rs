//! A service with its servers and an API, and what a monitor would do to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use world::http::{Answer, Connection, Request};
use world::programs::{Ini, Launch, Program};
use world::redis::{Redis, Settings};
use world::resp::Reply;
use world::zookeeper::ZooKeeper;
use world::{Host, wait};

use crate::proxy::Proxy;

/// Longer than anything here takes on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// One ZooKeeper for all tests; each has its own path and state root. The kernel stops it with this process.
pub(crate) fn zookeeper() -> &'static ZooKeeper {
    static ZOOKEEPER: OnceLock<ZooKeeper> = OnceLock::new();
    ZOOKEEPER.get_or_init(ZooKeeper::start)
}

/// Names for one more service.
pub(crate) struct Names {
    pub(crate) path: String,
    pub(crate) state_root: String,
}

impl Names {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { path: format!("/red{number}/posts"), state_root: format!("/albireo{number}") }
    }

    pub(crate) fn state(&self) -> String {
        format!("{}{}/state", self.state_root, self.path)
    }

    pub(crate) fn ini(&self) -> Ini {
        Ini::new()
            .set("zookeeper", "hosts", zookeeper().hosts())
            .set("zookeeper", "path", &self.path)
            .set("zookeeper", "state_root", &self.state_root)
            .set("log", "level", "debug")
    }
}

/// An API process on a free port.
pub(crate) struct Api(pub(crate) Program);

impl Api {
    pub(crate) fn start(ini: Ini) -> Self {
        let host = Host::local();
        let http = host.at(host.free_port());
        let ini = ini.set("api", "listen", http);
        Self(Program::start(&Launch { kind: "api", name: "api", host: &host, ini: &ini, env: &[], http }))
    }

    pub(crate) fn call(&self, request: Request<'_>) -> Answer {
        self.0.call(request).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.0.get(path)
    }

    pub(crate) fn put(&self, key: &str, value: &str) -> Answer {
        self.call(Request::put(&format!("/api/v1/write/{key}"), value.as_bytes()))
    }

    pub(crate) fn connect(&self) -> Connection {
        connect(self.0.http())
    }

    pub(crate) fn wait_until_healthy(&self) {
        wait::until("the API listens", LONG, || self.0.call(Request::get("/healthz")).map(drop));
    }

    pub(crate) fn metric(&self, begin: &str) -> f64 {
        self.0.metric(begin).unwrap_or(0.0)
    }
}

/// A group with its record, behind proxies that can hold and cut what passes.
pub(crate) struct Stage {
    pub(crate) names: Names,
    pub(crate) redis: Vec<Redis>,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) epoch: u64,
    pub(crate) promoted: u64,
    pub(crate) primary: usize,
    pub(crate) in_sync: Vec<usize>,
    pub(crate) min_in_sync: u32,
    /// As they were when the record was written; a restarted server has another one.
    run_ids: BTreeMap<usize, String>,
    recorded: bool,
    api: Option<Api>,
}

impl Stage {
    /// So many servers, all replicas attached and in sync, epoch 1, and an API that is ready.
    pub(crate) fn new(servers: usize) -> Self {
        Self::with(servers, |ini| ini)
    }

    pub(crate) fn with(servers: usize, change: impl FnOnce(Ini) -> Ini) -> Self {
        let mut stage = Self::without_api(servers);
        stage.stamp(0);
        stage.publish("serving");
        // Only then are the replicas in sync, as the record says.
        stage.wait_everywhere("albireo:fence", "1");
        stage.start_api(change);
        stage
    }

    /// The same without a record, a stamp or an API: only the announcement is there.
    pub(crate) fn without_api(servers: usize) -> Self {
        let first = Redis::start();
        let mut redis = vec![first];
        for _ in 1..servers {
            redis.push(Settings::default().replica_of(redis[0].addr()).start());
        }
        let proxies: Vec<_> = redis.iter().map(|redis| Proxy::start(redis.addr())).collect();
        let run_ids = redis.iter().map(|redis| redis.info("run_id")).enumerate().collect();
        let in_sync = (1..servers).collect();
        let names = Names::new();
        let stage = Self {
            names,
            redis,
            proxies,
            epoch: 1,
            promoted: 1,
            primary: 0,
            in_sync,
            min_in_sync: 0,
            run_ids,
            recorded: false,
            api: None,
        };
        stage.wait_attached();
        zookeeper().create(&stage.names.path, &stage.announcement());
        stage
    }

    pub(crate) fn start_api(&mut self, change: impl FnOnce(Ini) -> Ini) {
        let mut api = Api::start(change(self.names.ini()));
        api.0.wait_until_ready(LONG);
        self.api = Some(api);
    }

    pub(crate) fn api(&self) -> &Api {
        self.api.as_ref().unwrap()
    }

    pub(crate) fn program(&mut self) -> &mut Program {
        &mut self.api.as_mut().unwrap().0
    }

    /// The address under which the API knows a server.
    pub(crate) fn addr(&self, server: usize) -> SocketAddr {
        self.proxies[server].addr()
    }

    pub(crate) fn announcement(&self) -> String {
        let others: Vec<_> =
            (0..self.redis.len()).filter(|at| *at != self.primary).map(|at| self.addr(at)).collect();
        json!({ "primary": self.addr(self.primary), "secondary": others }).to_string()
    }

    pub(crate) fn record(&self, phase: &str) -> Value {
        let entry = |at: &usize| {
            let redis = &self.redis[*at];
            json!({ "addr": self.addr(*at), "seen_as": redis.addr(), "run_id": self.run_ids[at], "since": 1,
                    "replid": "" })
        };
        json!({
            "epoch": self.epoch,
            "promoted": self.promoted,
            "primary": { "addr": self.addr(self.primary), "run_id": self.run_ids[&self.primary], "replid": "" },
            "in_sync": self.in_sync.iter().map(entry).collect::<Vec<_>>(),
            "min_in_sync": self.min_in_sync,
            "members": (0..self.redis.len()).map(|at| self.addr(at)).collect::<Vec<_>>(),
            "path_version": 0,
            "phase": phase,
            "leader": "test",
            "reason": "test",
        })
    }

    /// Writes the record as it stands in this struct.
    pub(crate) fn publish(&mut self, phase: &str) {
        let text = self.record(phase).to_string();
        if std::mem::replace(&mut self.recorded, true) {
            zookeeper().set(&self.names.state(), &text);
        } else {
            zookeeper().create(&self.names.state(), &text);
        }
    }

    /// Stamps a server with the present epoch.
    pub(crate) fn stamp(&self, server: usize) {
        let epoch = self.epoch.to_string();
        assert_eq!(self.redis[server].cmd(&["SET", "albireo:fence", &epoch]).text(), "OK");
    }

    /// Records that `server` is primary from now on, of those in sync that are named.
    pub(crate) fn decide(&mut self, server: usize, in_sync: &[usize]) {
        self.epoch += 1;
        self.promoted = self.epoch;
        self.primary = server;
        self.in_sync = in_sync.to_vec();
        self.publish("promoting");
    }

    /// Promotes and stamps the recorded primary in one step, as R5 does.
    pub(crate) fn promote(&self) {
        let redis = &self.redis[self.primary];
        let epoch = self.epoch.to_string();
        let mut link = redis.connect().unwrap();
        for words in [
            &["CONFIG", "SET", "replica-read-only", "no"][..],
            &["MULTI"],
            &["REPLICAOF", "NO", "ONE"],
            &["SET", "albireo:fence", &epoch],
            &["CONFIG", "SET", "replica-read-only", "yes"],
            &["EXEC"],
        ] {
            let reply = link.call(words).unwrap();
            assert!(!reply.is_error("ERR") && !reply.is_error("EXECABORT"), "{words:?}: {reply:?}");
        }
    }

    /// The same, and lets the others follow.
    pub(crate) fn carry_out(&mut self) {
        self.promote();
        for at in self.in_sync.clone() {
            self.attach(at, Some(self.primary));
        }
        self.publish("serving");
    }

    /// A new epoch with another set and the same primary.
    pub(crate) fn change_set(&mut self, in_sync: &[usize]) {
        self.epoch += 1;
        self.in_sync = in_sync.to_vec();
        self.publish("serving");
    }

    /// Changes the set, and stamps the primary.
    pub(crate) fn change_set_and_stamp(&mut self, in_sync: &[usize]) {
        self.change_set(in_sync);
        self.stamp(self.primary);
    }

    /// Lets a server follow the primary, or nobody.
    pub(crate) fn attach(&self, server: usize, to: Option<usize>) {
        let addr = to.map(|to| self.redis[to].addr());
        let (host, port) = match addr {
            Some(addr) => (addr.ip().to_string(), addr.port().to_string()),
            None => ("NO".to_owned(), "ONE".to_owned()),
        };
        assert_eq!(self.redis[server].cmd(&["REPLICAOF", &host, &port]).text(), "OK");
    }

    /// Waits until the primary shows so many replicas.
    pub(crate) fn wait_replicas(&self, wanted: usize) {
        wait::until(&format!("{wanted} replicas"), LONG, || {
            let role = self.redis[self.primary].cmd(&["ROLE"]);
            let attached = role.list().get(2).map_or(0, |list| list.list().len());
            wait::holds(attached == wanted, || format!("{role:?}"))
        });
    }

    pub(crate) fn wait_attached(&self) {
        self.wait_replicas(self.in_sync.len());
    }

    /// The value of a key in one server, whatever its role.
    pub(crate) fn stored(&self, server: usize, key: &str) -> Option<String> {
        match self.redis[server].cmd(&["GET", &format!("k:{key}")]) {
            Reply::Text(text) => Some(text),
            Reply::Error(_) | Reply::Number(_) | Reply::Nil | Reply::List(_) => None,
        }
    }

    fn wait_everywhere(&self, key: &str, value: &str) {
        wait::until(key, LONG, || {
            let replies: Vec<_> = self.redis.iter().map(|redis| redis.cmd(&["GET", key])).collect();
            wait::holds(replies.iter().all(|reply| *reply == Reply::Text(value.into())), || {
                format!("{replies:?}")
            })
        });
    }

    /// Waits until the markers of the API's connections to the primary have reached every server.
    pub(crate) fn wait_markers(&self) {
        // One per connection: two for what is answered at once, one for what waits for replicas.
        wait::until("three markers everywhere", LONG, || {
            let keys = |redis: &Redis| redis.cmd(&["KEYS", "albireo:api:*"]).list().len();
            let counts: Vec<_> = self.redis.iter().map(keys).collect();
            wait::holds(counts.iter().all(|count| *count == 3), || format!("{counts:?}"))
        });
    }

    pub(crate) fn wait_stored(&self, server: usize, key: &str, value: &str) {
        wait::until(&format!("{key} = {value}"), LONG, || {
            let stored = self.stored(server, key);
            wait::holds(stored.as_deref() == Some(value), || format!("{stored:?}"))
        });
    }
}

/// One more client.
pub(crate) fn connect(api: SocketAddr) -> Connection {
    Connection::open(&Host::local(), api, LONG).unwrap()
}

/// The pair under which an answer was given.
pub(crate) fn pair(answer: &Answer) -> (String, u64) {
    let header = |name| answer.header(name).unwrap_or_else(|| panic!("no {name}: {answer:?}"));
    (header("x-albireo-primary").to_owned(), header("x-albireo-epoch").parse().unwrap())
}
