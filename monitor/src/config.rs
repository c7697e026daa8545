//! From the INI file to a checked [`Config`]: every key of the monitor, its default, its bounds, and what must hold
//! between keys. Behind it nobody checks again.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use failover::{ColdStart, Limits, MinInSync};
use settings::{
    Ini, Key, LOG, LogSettings, Problem, Problems, REDIS, REDIS_MEMBER, ReadFile, Reader, RedisSettings,
    Schema, Secret, Section, SectionReader, ZOOKEEPER, ZookeeperSettings,
};
use topology::Endpoint;
use topology::zookeeper::Options;

use crate::dns;
use crate::hooks::HookSettings;
use crate::sentinel::Login;
use crate::webhook::Webhook;

#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;

const BINARY_STAR: Section = Section::new(
    "binary_star",
    &[
        Key::plain("name"),
        Key::plain("role"),
        Key::plain("bind"),
        Key::plain("peer"),
        Key::plain("voter"),
        Key::plain("heartbeat_ms"),
        Key::plain("key_file"),
    ],
);

const DETECTOR: Section = Section::new(
    "detector",
    &[
        Key::plain("ping_interval_ms"),
        Key::plain("down_after_ms"),
        Key::plain("connect_timeout_ms"),
        Key::plain("refused_grace_ms"),
    ],
);

const FAILOVER: Section = Section::new(
    "failover",
    &[
        Key::plain("min_in_sync"),
        Key::plain("attach_timeout_ms"),
        Key::plain("max_lag_bytes"),
        Key::per_address("priority"),
        Key::plain("restart_guard"),
        Key::plain("switchover_budget_ms"),
        Key::plain("mass_failure_percent"),
        Key::plain("cold_start"),
        Key::plain("cold_wait_ms"),
        Key::plain("min_interval_ms"),
    ],
);

const ADMIN: Section =
    Section::new("admin", &[Key::plain("listen"), Key::plain("announce"), Key::secret("token")]);

const SENTINEL: Section = Section::new(
    "sentinel",
    &[Key::plain("listen"), Key::secret("password"), Key::plain("username"), Key::plain("announce")],
);

const DNS: Section = Section::new("dns", &[Key::plain("listen"), Key::plain("zone"), Key::plain("ttl")]);

const HOOKS: Section = Section::new(
    "hooks",
    &[
        Key::plain("on_failover"),
        Key::plain("on_role_change"),
        Key::plain("on_down"),
        Key::plain("timeout_ms"),
        // Who knows the URL may often post there.
        Key::secret("webhook"),
        Key::plain("tls_ca"),
    ],
);

/// Every section and key of the monitor.
pub(crate) const SCHEMA: Schema = Schema::new(&[
    ZOOKEEPER,
    BINARY_STAR,
    DETECTOR,
    FAILOVER,
    REDIS,
    REDIS_MEMBER,
    ADMIN,
    SENTINEL,
    DNS,
    HOOKS,
    LOG,
]);

/// A whole configuration, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// At least one of `path` and `discover` is given.
    pub(crate) zookeeper: ZookeeperSettings,
    pub(crate) binary_star: BinaryStar,
    pub(crate) detector: Detector,
    pub(crate) failover: Failover,
    pub(crate) redis: RedisSettings,
    pub(crate) admin: Admin,
    pub(crate) hooks: HookSettings,
    /// None: not served.
    pub(crate) sentinel: Option<Sentinel>,
    /// None: not served.
    pub(crate) dns: Option<dns::Settings>,
    pub(crate) log: LogSettings,
    /// What is allowed but worth a line in the log.
    pub(crate) warnings: Vec<String>,
    /// Where all this stands.
    pub(crate) file: PathBuf,
    /// As it stands there, to tell what was changed since.
    pub(crate) source: Ini,
}

/// The pair.
#[derive(Debug, Clone)]
pub(crate) struct BinaryStar {
    /// Under which this monitor is known in ZooKeeper.
    pub(crate) name: String,
    /// None: it observes, and is none of the pair.
    pub(crate) role: Option<binary_star::Role>,
    /// Where heartbeats are published.
    pub(crate) bind: String,
    /// Where the peer publishes its own; without one the monitor is alone and binds nothing.
    pub(crate) peer: Option<String>,
    /// Where clients of the guide's protocol ask.
    pub(crate) voter: String,
    pub(crate) heartbeat: Duration,
    /// The secret that both share.
    pub(crate) key: Option<binary_star::Key>,
}

/// When a server counts as gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Detector {
    pub(crate) ping_interval: Duration,
    /// At least two ping intervals.
    pub(crate) down_after: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) refused_grace: Duration,
}

/// How failovers are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failover {
    pub(crate) min_in_sync: MinInSync,
    pub(crate) attach_timeout: Duration,
    pub(crate) max_lag_bytes: u64,
    /// Lower goes first, 0 never; 100 where nothing is said.
    pub(crate) priority: BTreeMap<Endpoint, u32>,
    pub(crate) restart_guard: bool,
    pub(crate) switchover_budget: Duration,
    pub(crate) mass_failure_percent: u32,
    pub(crate) cold_start: ColdStart,
    pub(crate) cold_wait: Duration,
    pub(crate) min_interval: Duration,
}

/// The HTTP interface for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admin {
    pub(crate) listen: Endpoint,
    /// How others reach it.
    pub(crate) announce: Endpoint,
    pub(crate) token: Option<Arc<Secret>>,
}

/// The endpoint for clients of Redis Sentinel.
#[derive(Debug, Clone)]
pub(crate) struct Sentinel {
    pub(crate) listen: Endpoint,
    /// How clients reach it; never an address that only says where to listen.
    pub(crate) announce: Endpoint,
    pub(crate) login: Option<Login>,
}

impl Config {
    /// Reads a file and the environment. Paths in the file (`file:PATH`, `key_file`) are relative to its folder.
    pub(crate) fn load(path: impl AsRef<Path>) -> Result<Self, Problems> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let text = fs::read(path).map_err(|e| Problem::file(&name, format!("cannot be read: {e}")))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let read_file = |file: &str| fs::read(folder.join(file)).map_err(|e| e.to_string());
        // A variable that is not Unicode is none of ours.
        let environment = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        Self::parse(&text, &name, environment, &read_file)
    }

    /// Checks a file's text; `name` stands for it in messages.
    pub(crate) fn parse(
        text: &[u8],
        name: &str,
        environment: impl IntoIterator<Item = (String, String)>,
        read_file: &ReadFile<'_>,
    ) -> Result<Self, Problems> {
        let ini = Ini::parse(text, name, environment, &SCHEMA);
        let mut reader = Reader::new(&ini, read_file);
        let zookeeper = ZookeeperSettings::read(&mut reader);
        ZookeeperSettings::needs_a_service(&mut reader);
        let binary_star = BinaryStar::read(&mut reader.section(BINARY_STAR.name()));
        let detector = Detector::read(&mut reader.section(DETECTOR.name()));
        let failover = Failover::read(&mut reader.section(FAILOVER.name()));
        let redis = RedisSettings::read(&mut reader);
        let admin = Admin::read(&mut reader.section(ADMIN.name()));
        let log = LogSettings::read(&mut reader);
        let hooks = read_hooks(&mut reader.section(HOOKS.name()));
        let sentinel = Sentinel::read(&mut reader.section(SENTINEL.name()));
        let announce = sentinel.as_ref().map(|sentinel| &sentinel.announce);
        let announce = announce.or(admin.as_ref().map(|admin| &admin.announce));
        let dns = read_dns(&mut reader.section(DNS.name()), announce);
        reader.finish()?;
        // Without a mistake there is a value.
        let (Some(zookeeper), Some(admin)) = (zookeeper, admin) else {
            return Err(Problem::file(name, "[zookeeper] or [admin] cannot be read").into());
        };
        let warnings = warnings(&ini, &binary_star, &admin);
        Ok(Self {
            zookeeper,
            binary_star,
            detector,
            failover,
            redis,
            admin,
            hooks,
            sentinel,
            dns,
            log,
            warnings,
            file: PathBuf::from(name),
            source: ini,
        })
    }

    /// This monitor's name.
    pub(crate) fn name(&self) -> &str {
        &self.binary_star.name
    }

    /// This monitor's role as it stands in the file.
    pub(crate) fn role_word(&self) -> &'static str {
        role_word(self.binary_star.role)
    }

    /// It leads never and decides nothing; it only tells who is primary.
    pub(crate) fn observes(&self) -> bool {
        self.binary_star.role.is_none()
    }

    /// How to reach ZooKeeper.
    pub(crate) fn store_options(&self) -> Options {
        let zookeeper = &self.zookeeper;
        Options {
            session_timeout: zookeeper.session_timeout,
            auth: zookeeper.auth.as_ref().map(|(user, password)| (user.clone(), password.text().to_owned())),
            tls: zookeeper.tls.clone(),
            private: Some(zookeeper.state_root.clone()),
            ..Options::new(zookeeper.hosts.clone())
        }
    }

    /// How to log in at this server.
    pub(crate) fn login(&self, server: &Endpoint) -> wire::Login {
        let credentials = self.redis.credentials(server);
        let password = credentials.password.map(|password| password.text().to_owned());
        wire::Login { username: credentials.username, password, tls: credentials.tls.flatten() }
    }

    /// What the decision core needs to know.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            ping_interval: self.detector.ping_interval,
            down_after: self.detector.down_after,
            refused_grace: self.detector.refused_grace,
            attach_timeout: self.failover.attach_timeout,
            max_lag_bytes: self.failover.max_lag_bytes,
            min_in_sync: self.failover.min_in_sync,
            priority: self.failover.priority.clone(),
            restart_guard: self.failover.restart_guard,
            min_interval: self.failover.min_interval,
            switchover_budget: self.failover.switchover_budget,
            cold_start: self.failover.cold_start,
            cold_wait: self.failover.cold_wait,
            ..Limits::default()
        }
    }
}

impl BinaryStar {
    fn read(section: &mut SectionReader<'_, '_>) -> Self {
        let role = Self::role(section);
        if role.is_none() {
            for key in ["peer", "bind", "voter", "key_file"] {
                if section.has(key) {
                    section.refuse(key, "an observer is none of the pair, and has no use for it");
                }
            }
            if !section.has("name") {
                section.refuse("role", "an observer needs a name of its own: set name");
            }
        }
        let peer = section.parsed::<PeerAddress>("peer").map(|address| address.0);
        let bind = address(section, "bind", "tcp://127.0.0.1:5003");
        let voter = address(section, "voter", "tcp://127.0.0.1:5001");
        if bind == voter {
            section.refuse_together(&["bind", "voter"], &format!("bind and voter are both {bind}"));
        }
        if peer.as_ref() == Some(&bind) {
            section.refuse_together(
                &["bind", "peer"],
                &format!("peer and bind are both {bind}: that is this monitor"),
            );
        }
        let name = section.parsed::<Name>("name").map_or_else(|| role_word(role).to_owned(), |name| name.0);
        let heartbeat = section.millis("heartbeat_ms", 250, 10..=60_000);
        let key =
            section.secret_file("key_file").and_then(|secret| binary_star::Key::new(secret.expose()).ok());
        Self { name, role, bind, peer, voter, heartbeat, key }
    }

    /// A monitor that is alone is the primary unless it says otherwise; of two each has to say which it is.
    fn role(section: &mut SectionReader<'_, '_>) -> Option<binary_star::Role> {
        use binary_star::Role::{Backup, Primary};
        let words = [("primary", Some(Primary)), ("backup", Some(Backup)), ("observer", None)];
        match section.choice("role", &words) {
            Some(role) => role,
            None => {
                if section.has("peer") && !section.has("role") {
                    section.refuse(
                        "role",
                        "missing; with `peer` say which of the two this is, primary or backup",
                    );
                }
                Some(Primary)
            }
        }
    }
}

fn role_word(role: Option<binary_star::Role>) -> &'static str {
    match role {
        Some(binary_star::Role::Primary) => "primary",
        Some(binary_star::Role::Backup) => "backup",
        None => "observer",
    }
}

impl Detector {
    fn read(section: &mut SectionReader<'_, '_>) -> Self {
        let read = Self {
            ping_interval: section.millis("ping_interval_ms", 100, 10..=60_000),
            down_after: section.millis("down_after_ms", 500, 20..=600_000),
            connect_timeout: section.millis("connect_timeout_ms", 200, 10..=60_000),
            refused_grace: section.millis("refused_grace_ms", 0, 0..=60_000),
        };
        let (ping, down) = (read.ping_interval.as_millis(), read.down_after.as_millis());
        if down < 2 * ping {
            let why = format!("down_after_ms = {down} is less than twice ping_interval_ms = {ping}");
            section.refuse_together(&["ping_interval_ms", "down_after_ms"], &why);
        }
        read
    }
}

impl Failover {
    fn read(section: &mut SectionReader<'_, '_>) -> Self {
        let cold_start = [("operator", ColdStart::Operator), ("best", ColdStart::Best)];
        Self {
            min_in_sync: min_in_sync(section),
            attach_timeout: section.millis("attach_timeout_ms", 300, 10..=600_000),
            max_lag_bytes: section.integer("max_lag_bytes", 1 << 20, 0..=1 << 40, "bytes"),
            priority: priority(section),
            restart_guard: section.switch("restart_guard", true),
            switchover_budget: section.millis("switchover_budget_ms", 1000, 10..=600_000),
            mass_failure_percent: section.integer("mass_failure_percent", 30, 1..=100, "percent"),
            cold_start: section.choice("cold_start", &cold_start).unwrap_or(ColdStart::Best),
            cold_wait: section.millis("cold_wait_ms", 5000, 0..=3_600_000),
            min_interval: section.millis("min_interval_ms", 1000, 0..=3_600_000),
        }
    }
}

/// `auto`, or how many replicas have to be in sync.
fn min_in_sync(section: &mut SectionReader<'_, '_>) -> MinInSync {
    let numeral = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match section.text("min_in_sync") {
        None => MinInSync::Auto,
        Some(text) if text == "auto" => MinInSync::Auto,
        Some(text) if numeral(&text) => {
            MinInSync::Fixed(section.integer("min_in_sync", 0, 0..=64, "replicas"))
        }
        Some(_) => {
            section.refuse("min_in_sync", "expected auto or a whole number from 0 to 64");
            MinInSync::Auto
        }
    }
}

fn priority(section: &mut SectionReader<'_, '_>) -> BTreeMap<Endpoint, u32> {
    let mut priorities = BTreeMap::new();
    for (address, key) in section.addresses("priority") {
        let value = section.integer(&key, 100, 0..=1_000_000, "");
        if priorities.insert(address, value).is_some() {
            section.refuse(&key, "the same server has another priority");
        }
    }
    priorities
}

impl Admin {
    fn read(section: &mut SectionReader<'_, '_>) -> Option<Self> {
        let listen = match section.parsed::<Endpoint>("listen") {
            Some(listen) => Some(listen),
            None => "127.0.0.1:8001".parse().ok(),
        };
        let announce = section.parsed::<Endpoint>("announce");
        let token = section.secret("token").map(Arc::new);
        Some(Self { announce: announce.or_else(|| listen.clone())?, listen: listen?, token })
    }
}

fn read_hooks(section: &mut SectionReader<'_, '_>) -> HookSettings {
    HookSettings {
        on_failover: section.text("on_failover"),
        on_role_change: section.text("on_role_change"),
        on_down: section.text("on_down"),
        timeout: section.millis("timeout_ms", 60_000, 1..=3_600_000),
        webhook: Webhook::read(section),
    }
}

impl Sentinel {
    fn read(section: &mut SectionReader<'_, '_>) -> Option<Self> {
        let listen = section.parsed::<Endpoint>("listen");
        let announce = section.parsed::<Endpoint>("announce");
        let username = section.text("username");
        let password = section.secret("password");
        for key in ["announce", "username", "password"] {
            if section.has(key) && !section.has("listen") {
                section.refuse(key, "has no effect without [sentinel] listen");
            }
        }
        if username.is_some() && !section.has("password") {
            section.refuse("username", "a username needs a password");
        }
        let unreachable = |at: &Endpoint| at.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        let named = announce.as_ref().or(listen.as_ref());
        if named.is_some_and(unreachable) {
            let key = if announce.is_some() { "announce" } else { "listen" };
            section.refuse(key, "clients are told this address and cannot reach it; set announce");
        }
        let listen = listen?;
        let login = password
            .map(|password| Login { username: username.unwrap_or_else(|| "default".to_owned()), password });
        Some(Self { announce: announce.unwrap_or_else(|| listen.clone()), listen, login })
    }
}

/// `announce`: under which others reach this monitor in other ways.
fn read_dns(section: &mut SectionReader<'_, '_>, announce: Option<&Endpoint>) -> Option<dns::Settings> {
    let listen = section.parsed::<Endpoint>("listen");
    let zone = section.parsed::<dns::ZoneName>("zone").or_else(|| "albireo.internal".parse().ok());
    let ttl = section.integer("ttl", 0, 0..=dns::TTL_MAX, "seconds");
    for key in ["zone", "ttl"] {
        if section.has(key) && !section.has("listen") {
            section.refuse(key, "has no effect without [dns] listen");
        }
    }
    let listen = listen?;
    let anywhere = listen.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    let reached = announce.filter(|_| anywhere).unwrap_or(&listen);
    Some(dns::Settings { zone: zone?, ttl, host: dns::Host::of(reached)?, listen })
}

fn warnings(ini: &Ini, star: &BinaryStar, admin: &Admin) -> Vec<String> {
    let ignored = ini.ignored_variables().iter().map(|variable| {
        format!("the environment variable {variable} matches no key of the monitor and is ignored")
    });
    let mut warnings: Vec<String> = ignored.collect();
    if star.peer.is_some() && star.key.is_none() && !is_loopback(&star.bind) {
        let why =
            "heartbeats on {} are not authentic: anybody who reaches that port can forge them; set key_file";
        warnings.push(why.replace("{}", &star.bind));
    }
    let unreachable = admin.announce.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    if unreachable {
        warnings.push(format!("nobody can reach {}: set [admin] announce", admin.announce));
    }
    warnings
}

fn is_loopback(address: &str) -> bool {
    let host = address.strip_prefix("tcp://").and_then(|address| address.parse::<Endpoint>().ok());
    host.is_some_and(|at| {
        at.host() == "localhost" || at.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// A monitor's name: part of a znode path, and shown everywhere.
struct Name(String);

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.len() > 64 || !text.chars().all(plain) || text == "." || text == ".." {
            return Err("a name is at most 64 letters, digits, `-`, `_` and `.`");
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where a ZeroMQ socket connects: `tcp://HOST:PORT`.
struct PeerAddress(String);

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.strip_prefix("tcp://").ok_or_else(|| "expected tcp://HOST:PORT".to_owned())?;
        let endpoint: Endpoint = address.parse().map_err(|e| format!("expected tcp://HOST:PORT; {e}"))?;
        Ok(Self(format!("tcp://{endpoint}")))
    }
}

/// Where a ZeroMQ socket binds: the same, or `tcp://*:PORT` for every interface.
struct BindAddress(String);

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let every =
            text.strip_prefix("tcp://*:").and_then(|port| format!("a:{port}").parse::<Endpoint>().ok());
        match every {
            Some(endpoint) => Ok(Self(format!("tcp://*:{}", endpoint.port()))),
            None => text.parse().map(|PeerAddress(address)| Self(address)),
        }
    }
}

fn address(section: &mut SectionReader<'_, '_>, key: &str, default: &str) -> String {
    section.parsed::<BindAddress>(key).map_or_else(|| default.to_owned(), |address| address.0)
}
