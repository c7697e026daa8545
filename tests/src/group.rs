//! A whole group: ZooKeeper, a primary and its replicas, the seed, monitors and APIs, ready for traffic.
//!
//! The members start as a person would start them by hand: the first a primary, the others replicas of it by their
//! files. [`Builder::servers`] stops there; the tests of a birth go on by themselves.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use topology::{Endpoint, Layout, Phase, State, Topology, ZnodePath};

use crate::certificates::Certificates;
use crate::load::{Load, Options};
use crate::programs::{self, Ini, Launch, Program};
use crate::redis::{Redis, Settings};
use crate::resp::Reply;
use crate::zookeeper::ZooKeeper;
use crate::{Host, WorkDir, wait};

/// How long everything together may take to be ready, and to be in order again after a fault.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(45);
const SEED_LIMIT: Duration = Duration::from_secs(20);

/// Where the parts of a group run.
#[derive(Debug, Clone)]
pub struct Places {
    /// The ZooKeeper server.
    pub zookeeper: Host,
    /// One per Redis server; the last one serves for all further ones.
    pub redis: Vec<Host>,
    /// One per monitor, likewise.
    pub monitors: Vec<Host>,
    /// The APIs and the clients.
    pub api: Host,
}

impl Default for Places {
    fn default() -> Self {
        let local = Host::local;
        Self { zookeeper: local(), redis: vec![local()], monitors: vec![local()], api: local() }
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Builder {
    replicas: usize,
    monitors: usize,
    apis: usize,
    path: String,
    places: Places,
    zookeepers: usize,
    redis_lines: Vec<String>,
    tls: Option<Certificates>,
    redis_login: Option<(String, String)>,
    zookeeper_tls: Option<Certificates>,
    monitor_ini: Ini,
    api_ini: Ini,
    sentinel: bool,
    dns: bool,
    one_port: bool,
    env: Vec<(usize, String, String)>,
}

/// The parts; each may be hurt and restarted on its own.
#[derive(Debug)]
pub struct Group {
    /// What publishes and watches.
    pub monitors: Vec<Program>,
    /// What clients talk to.
    pub apis: Vec<Program>,
    /// The members, in the order in which they were seeded.
    pub redis: Vec<Redis>,
    /// The store.
    pub zookeeper: ZooKeeper,
    built: Builder,
    ports: Vec<MonitorPorts>,
}

#[derive(Debug, Clone, Copy)]
struct MonitorPorts {
    pair: u16,
    voter: u16,
    admin: u16,
    sentinel: u16,
    dns: u16,
}

impl Group {
    /// A group with so many replicas, two monitors and one API.
    pub fn of(replicas: usize) -> Builder {
        Builder {
            replicas,
            monitors: 2,
            apis: 1,
            path: "/the_red/storage/posts".to_owned(),
            places: Places::default(),
            zookeepers: 1,
            redis_lines: Vec::new(),
            tls: None,
            redis_login: None,
            zookeeper_tls: None,
            monitor_ini: Ini::new(),
            api_ini: Ini::new(),
            sentinel: false,
            dns: false,
            one_port: false,
            env: Vec::new(),
        }
    }
}

impl Builder {
    /// One monitor has no peer in its file.
    #[must_use]
    pub fn monitors(mut self, number: usize) -> Self {
        self.monitors = number;
        self
    }

    /// How many APIs.
    #[must_use]
    pub fn apis(mut self, number: usize) -> Self {
        self.apis = number;
        self
    }

    /// Where each part runs.
    #[must_use]
    pub fn places(mut self, places: Places) -> Self {
        self.places = places;
        self
    }

    /// How many ZooKeeper servers; from three on one may fail.
    #[must_use]
    pub fn zookeepers(mut self, number: usize) -> Self {
        self.zookeepers = number;
        self
    }

    /// A further line in every Redis file.
    #[must_use]
    pub fn redis_line(mut self, line: &str) -> Self {
        self.redis_lines.push(line.to_owned());
        self
    }

    /// The servers let in nobody but their users: see [`Settings::closed`].
    #[must_use]
    pub fn redis_closed(mut self, user: &str, password: &str) -> Self {
        self.redis_login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Everybody speaks TLS with the Redis servers, and they with each other.
    #[must_use]
    pub fn tls(mut self, certificates: &Certificates) -> Self {
        self.tls = Some(certificates.clone());
        self.keys_of_tls("redis", certificates)
    }

    /// Every program speaks TLS with the one ZooKeeper server.
    #[must_use]
    pub fn zookeeper_tls(mut self, certificates: &Certificates) -> Self {
        self.zookeeper_tls = Some(certificates.clone());
        self.keys_of_tls("zookeeper", certificates)
    }

    fn keys_of_tls(mut self, section: &str, certificates: &Certificates) -> Self {
        let files = [("tls_ca", "ca.pem"), ("tls_cert", "client.pem"), ("tls_key", "client.key")];
        let on = Ini::new().set(section, "tls", "on");
        let ini = files.iter().fold(on, |ini, (key, file)| ini.set(section, key, certificates.text(file)));
        self.monitor_ini = self.monitor_ini.and(&ini);
        self.api_ini = self.api_ini.and(&ini);
        self
    }

    /// All servers on the same port, each on a host of its own.
    #[must_use]
    pub fn one_redis_port(mut self) -> Self {
        self.one_port = true;
        self
    }

    /// A further key in every monitor's file.
    #[must_use]
    pub fn monitor_key(mut self, section: &str, key: &str, value: impl ToString) -> Self {
        self.monitor_ini = self.monitor_ini.set(section, key, value);
        self
    }

    /// Silence counts after ten seconds: for tests that count epochs. Where the machine stands still, a replica may leave the set
    /// and come back, and that is right.
    #[must_use]
    pub fn patient(self) -> Self {
        self.monitor_key("detector", "down_after_ms", 10_000)
    }

    /// Every monitor serves clients of Redis Sentinel, at [`Group::sentinel_address`].
    #[must_use]
    pub fn sentinel(mut self) -> Self {
        self.sentinel = true;
        self
    }

    /// Every monitor serves DNS, at [`Group::dns_address`].
    #[must_use]
    pub fn dns(mut self) -> Self {
        self.dns = true;
        self
    }

    /// A further key in every API's file.
    #[must_use]
    pub fn api_key(mut self, section: &str, key: &str, value: impl ToString) -> Self {
        self.api_ini = self.api_ini.set(section, key, value);
        self
    }

    /// An environment variable of one monitor (0: the primary of the pair).
    #[must_use]
    pub fn monitor_env(mut self, monitor: usize, name: &str, value: &str) -> Self {
        self.env.push((monitor, name.to_owned(), value.to_owned()));
        self
    }

    /// ZooKeeper and Redis only: nothing is seeded, nobody watches.
    #[track_caller]
    pub fn servers(self) -> Group {
        let mut zookeeper = match (&self.zookeeper_tls, self.zookeepers) {
            (Some(certificates), _) => ZooKeeper::start_secure(certificates),
            (None, 1) => ZooKeeper::start_on(&self.places.zookeeper),
            (None, number) => ZooKeeper::start_ensemble(&self.places.zookeeper, number),
        };
        zookeeper.log_in(self.zookeeper_auth().as_deref());
        let mut redis: Vec<Redis> = Vec::new();
        for number in 0..=self.replicas {
            let mut settings = Settings::on(at(&self.places.redis, number));
            for line in &self.redis_lines {
                settings = settings.line(line);
            }
            if let Some(certificates) = &self.tls {
                settings = settings.tls(certificates);
            }
            if let Some((user, password)) = &self.redis_login {
                settings = settings.closed(user, password);
            }
            if let Some(primary) = redis.first() {
                settings = settings.replica_of(primary.known_as());
                if self.one_port {
                    settings = settings.port(primary.addr().port());
                }
            }
            redis.push(settings.start());
        }
        let port = || crate::ports::free();
        let ports = (0..2)
            .map(|_| MonitorPorts {
                pair: port(),
                voter: port(),
                admin: port(),
                sentinel: port(),
                dns: port(),
            })
            .collect();
        Group { monitors: Vec::new(), apis: Vec::new(), redis, zookeeper, built: self, ports }
    }

    /// `[zookeeper] auth` of the monitors, if the value stands in their files.
    fn zookeeper_auth(&self) -> Option<String> {
        let value = self.monitor_ini.get("zookeeper", "auth")?;
        Some(match value.strip_prefix("file:") {
            Some(file) => {
                std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}")).trim().to_owned()
            }
            None => value.to_owned(),
        })
    }

    /// Everything, and waits until it is in order and ready.
    #[track_caller]
    pub fn start(self) -> Group {
        let mut group = self.servers();
        group.seed();
        for _ in 0..group.built.monitors {
            group.add_monitor();
        }
        for _ in 0..group.built.apis {
            group.add_api();
        }
        group.settled();
        group.ready();
        group
    }
}

fn at(hosts: &[Host], number: usize) -> &Host {
    hosts.get(number).or(hosts.last()).unwrap_or_else(|| panic!("a place has no host"))
}

impl Group {
    /// The znode of the announcement.
    pub fn path(&self) -> ZnodePath {
        self.built.path.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    /// Where the records are.
    pub fn layout(&self) -> Layout {
        Layout::new("/albireo".parse().unwrap_or_else(|e| panic!("{e}")))
    }

    /// The members' addresses, in the order in which they were seeded.
    pub fn members(&self) -> Vec<Endpoint> {
        self.redis.iter().map(Redis::endpoint).collect()
    }

    /// Runs `zoo-setup` for all members.
    #[track_caller]
    pub fn seed(&self) {
        let (hosts, path) = (self.zookeeper.hosts(), &self.built.path);
        let members: Vec<String> = self.members().iter().map(ToString::to_string).collect();
        let dir = WorkDir::new("seed");
        let file = dir.join("monitor.ini");
        std::fs::write(&file, self.monitor_ini(0).text())
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let file = file.display().to_string();
        // Only a file tells it how to log in and to speak TLS.
        let by_file = self.built.zookeeper_auth().is_some() || self.built.zookeeper_tls.is_some();
        let mut arguments =
            if by_file { vec!["--config", &file] } else { vec!["--hosts", &hosts, "--path", path] };
        arguments.extend(["--primary", &members[0], "--secondary"]);
        arguments.extend(members[1..].iter().map(String::as_str));
        let place = &self.built.places.api;
        let (code, printed) = programs::run_on(place, "zoo-setup", &arguments, &[], SEED_LIMIT);
        assert_eq!(code, 0, "zoo-setup {arguments:?}: {printed}");
    }

    /// The file of a monitor (0 or 1), with a peer only if the group has two.
    pub fn monitor_ini(&self, number: usize) -> Ini {
        let mut ini = Ini::new().set("zookeeper", "hosts", self.zookeeper.hosts()).set(
            "zookeeper",
            "path",
            &self.built.path,
        );
        let host = at(&self.built.places.monitors, number);
        let ports = self.ports[number];
        let tcp = |host: &Host, port: u16| format!("tcp://{}", host.at(port));
        ini = ini.set("admin", "listen", host.at(ports.admin));
        if self.built.sentinel {
            ini = ini.set("sentinel", "listen", host.at(ports.sentinel));
        }
        if self.built.dns {
            ini = ini.set("dns", "listen", host.at(ports.dns));
        }
        ini = ini.set("binary_star", "role", if number == 0 { "primary" } else { "backup" });
        if self.built.monitors > 1 {
            // Also where the peer is never started.
            let other = at(&self.built.places.monitors, 1 - number);
            ini = ini
                .set("binary_star", "bind", tcp(host, ports.pair))
                .set("binary_star", "voter", tcp(host, ports.voter))
                .set("binary_star", "peer", tcp(other, self.ports[1 - number].pair));
        }
        ini.and(&self.built.monitor_ini)
    }

    /// Where a monitor (0 or 1) serves clients of Redis Sentinel, if they do.
    pub fn sentinel_address(&self, number: usize) -> SocketAddr {
        at(&self.built.places.monitors, number).at(self.ports[number].sentinel)
    }

    /// Where a monitor (0 or 1) serves DNS, if they do.
    pub fn dns_address(&self, number: usize) -> SocketAddr {
        at(&self.built.places.monitors, number).at(self.ports[number].dns)
    }

    /// Starts the next monitor.
    #[track_caller]
    pub fn add_monitor(&mut self) {
        let number = self.monitors.len();
        let ini = self.monitor_ini(number);
        self.monitors.push(self.start_monitor(number, &format!("monitor-{number}"), &ini));
    }

    /// Starts a monitor from any file, outside of the group's list.
    #[track_caller]
    pub fn start_monitor(&self, number: usize, name: &str, ini: &Ini) -> Program {
        let host = at(&self.built.places.monitors, number);
        let env = self.built.env.iter().filter(|(of, ..)| *of == number);
        let env: Vec<_> = env.map(|(_, key, value)| (key.clone(), value.clone())).collect();
        let listen = ini.get("admin", "listen").and_then(|text| text.parse().ok());
        let http = listen.unwrap_or_else(|| host.at(8001));
        Program::start(&Launch { kind: "monitor", name, host, ini, env: &env, http })
    }

    /// Starts a further API.
    #[track_caller]
    pub fn add_api(&mut self) {
        let host = &self.built.places.api;
        let listen = host.at(host.free_port());
        let ini = Ini::new()
            .set("zookeeper", "hosts", self.zookeeper.hosts())
            .set("zookeeper", "path", &self.built.path)
            .set("api", "listen", listen)
            .and(&self.built.api_ini);
        let name = format!("api-{}", self.apis.len());
        let launch = Launch { kind: "api", name: &name, host, ini: &ini, env: &[], http: listen };
        self.apis.push(Program::start(&launch));
    }

    /// Waits until every program says that it is ready.
    #[track_caller]
    pub fn ready(&mut self) {
        for program in self.monitors.iter_mut().chain(&mut self.apis) {
            program.wait_until_ready(SETTLE_LIMIT);
        }
    }

    /// The addresses of the APIs.
    pub fn api_addresses(&self) -> Vec<SocketAddr> {
        self.apis.iter().map(Program::http).collect()
    }

    /// The usual load on all APIs, with the token that they want.
    pub fn load_options(&self) -> Options {
        let token = self.built.api_ini.get("api", "token").map(str::to_owned);
        Options { token, ..Options::new(&self.built.places.api, self.api_addresses()) }
    }

    /// Starts it and waits until it flows.
    #[track_caller]
    pub fn load(&self) -> Load {
        let load = self.load_options().start();
        load.wait_for_writes(50, SETTLE_LIMIT);
        load
    }

    /// The decision in force. A disk that is slow to sync may keep ZooKeeper from answering for seconds.
    #[track_caller]
    pub fn state(&self) -> State {
        wait::until("the state record", SEED_LIMIT, || self.try_state())
    }

    /// The same, or why there is none.
    pub fn try_state(&self) -> Result<State, String> {
        let path = self.layout().state(&self.path());
        let znode = self.zookeeper.try_get(&path).map_err(|e| e.to_string())?;
        State::from_json(&znode.ok_or("not there")?.data).map_err(|e| e.to_string())
    }

    /// What is announced.
    pub fn announced(&self) -> Result<Topology, String> {
        let znode = self.zookeeper.try_get(&self.built.path).map_err(|e| e.to_string())?;
        Topology::from_json(&znode.ok_or("not there")?.data).map_err(|e| e.to_string())
    }

    /// The newest decisions first.
    #[track_caller]
    pub fn history(&self) -> Vec<Value> {
        let znode = self.zookeeper.get(&self.layout().history(&self.path()));
        znode.and_then(|znode| znode.json().as_array().cloned()).unwrap_or_default()
    }

    /// Which member the record names as primary.
    #[track_caller]
    pub fn primary(&self) -> usize {
        let addr = self.state().primary.addr;
        self.number_of(&addr)
    }

    /// The number of the member at this address.
    #[track_caller]
    pub fn number_of(&self, addr: &Endpoint) -> usize {
        let found = self.redis.iter().position(|redis| redis.endpoint() == *addr);
        found.unwrap_or_else(|| panic!("{addr} is no member"))
    }

    /// Which monitor says that it is active, if exactly one does.
    pub fn active_monitor(&self) -> Option<usize> {
        let active = |monitor: &Program| monitor.metric("albireo_active") == Some(1.0);
        let all: Vec<usize> = (0..self.monitors.len()).filter(|n| active(&self.monitors[*n])).collect();
        (all.len() == 1).then(|| all[0])
    }

    /// Waits for exactly one active monitor.
    #[track_caller]
    pub fn wait_for_active(&self) -> usize {
        wait::until("one active monitor", SETTLE_LIMIT, || self.active_monitor().ok_or("none, or two"))
    }

    /// Waits until this monitor says that it is active and no other one does.
    #[track_caller]
    pub fn wait_until_active(&self, number: usize) {
        wait::until("the only active monitor", SETTLE_LIMIT, || {
            let active = self.active_monitor();
            wait::holds(active == Some(number), || format!("{active:?} instead of {number}"))
        });
    }

    /// Waits until this monitor says that it is active, whatever a paused or dead one would say.
    #[track_caller]
    pub fn wait_until_leading(&self, number: usize) {
        wait::until(&format!("monitor {number} leads"), SETTLE_LIMIT, || {
            let active = self.monitors[number].metric("albireo_active");
            wait::holds(active == Some(1.0), || format!("albireo_active {active:?}"))
        });
    }

    /// Waits until all members are in order: see [`Group::order`].
    #[track_caller]
    pub fn settled(&mut self) -> State {
        wait::until("the group in order", SETTLE_LIMIT, || self.order())
    }

    /// The record, if record, announcement and servers agree: every running member but the primary is in sync and
    /// follows it, it carries the epoch as its fence, and the others are in nobody's set.
    pub fn order(&mut self) -> Result<State, String> {
        let state = self.try_state()?;
        wait::holds(state.phase == Phase::Serving, || "still promoting".to_owned())?;
        let announced = self.announced()?;
        wait::holds(announced.primary == state.primary.addr, || format!("announced: {announced:?}"))?;
        let mut named: Vec<_> = announced.members().cloned().collect();
        let mut members = self.members();
        named.sort();
        members.sort();
        wait::holds(named == members, || format!("announced: {announced:?}"))?;
        for redis in &mut self.redis {
            let addr = redis.endpoint();
            let in_sync = state.in_sync(&addr);
            if !redis.process().is_running() {
                wait::holds(in_sync.is_none(), || format!("{addr} is down and counted as in sync"))?;
            } else if addr == state.primary.addr {
                serves(redis, &state)?;
            } else {
                let entry = in_sync.ok_or_else(|| format!("{addr} is not in sync"))?;
                let run_id = redis.try_info("run_id").map_err(|e| e.to_string())?;
                wait::holds(entry.run_id == run_id, || format!("{addr} has another run_id"))?;
                let follows = redis.follows();
                let right = follows.as_ref() == Some(&state.primary.addr.to_string());
                wait::holds(right, || format!("{addr} follows {follows:?}"))?;
            }
        }
        Ok(state)
    }
}

fn serves(redis: &Redis, state: &State) -> Result<(), String> {
    let addr = redis.endpoint();
    let run_id = redis.try_info("run_id").map_err(|e| e.to_string())?;
    wait::holds(state.primary.run_id == run_id, || format!("{addr}, the primary, has another run_id"))?;
    wait::holds(redis.is_primary(), || format!("{addr} is no primary"))?;
    let fence = redis.try_cmd(&["GET", "albireo:fence"]).map_err(|e| e.to_string())?;
    wait::holds(fence == Reply::Text(state.epoch.to_string()), || {
        format!("the fence is {fence:?}, the epoch {}", state.epoch)
    })
}
