//! The sections that all programs share.

use std::collections::BTreeMap;
use std::time::Duration;

use tls::{Identity, Part, Tls, TlsError};
use topology::{Endpoint, ZnodePath};

use crate::ensemble::Ensemble;
use crate::reader::{Reader, Secret, SectionReader};
use crate::schema::{Key, Section};

/// `[zookeeper]`
pub const ZOOKEEPER: Section = Section::new(
    "zookeeper",
    &[
        Key::plain("hosts"),
        Key::plain("path"),
        Key::plain("discover"),
        Key::plain("state_root"),
        Key::plain("session_timeout_ms"),
        Key::secret("auth"),
        Key::plain("tls"),
        Key::plain("tls_ca"),
        Key::plain("tls_cert"),
        Key::plain("tls_key"),
    ],
);

const REDIS_KEYS: &[Key] = &[
    Key::plain("username"),
    Key::secret("password"),
    Key::plain("tls"),
    Key::plain("tls_ca"),
    Key::plain("tls_cert"),
    Key::plain("tls_key"),
];

/// `[redis]`
pub const REDIS: Section = Section::new("redis", REDIS_KEYS);

/// `[redis:HOST:PORT]`
pub const REDIS_MEMBER: Section = Section::per_address("redis", REDIS_KEYS);

/// `[log]`
pub const LOG: Section = Section::new("log", &[Key::plain("level"), Key::plain("format")]);

/// How to reach ZooKeeper, and what to look at there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZookeeperSettings {
    /// `host:port,host:port/chroot`
    pub hosts: String,
    /// The announcement of each service; their last parts differ.
    pub path: Vec<ZnodePath>,
    /// A znode each of whose children is a service.
    pub discover: Option<ZnodePath>,
    /// Below it lives what the monitors agree on.
    pub state_root: ZnodePath,
    /// The session timeout to ask for.
    pub session_timeout: Duration,
    /// User and password (scheme `digest`).
    pub auth: Option<(String, Secret)>,
    /// TLS with every server.
    pub tls: Option<Tls>,
}

/// The parts of a path that would mix with records directly below the state root.
const TAKEN: [&str; 4] = ["leader", "monitors", "views", "vips"];

impl ZookeeperSettings {
    /// Reads `[zookeeper]`. Whether `path` or `discover` is needed is up to the program
    /// ([`ZookeeperSettings::needs_a_service`]).
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut section = reader.section(ZOOKEEPER.name());
        let hosts = section.required::<Ensemble>("hosts", "127.0.0.1:2181");
        let path = section.list::<ZnodePath>("path");
        let discover = section.parsed::<ZnodePath>("discover");
        let state_root = match section.parsed("state_root") {
            Some(root) => Some(root),
            None => "/albireo".parse().ok(),
        };
        let session_timeout = section.millis("session_timeout_ms", 6000, 400..=600_000);
        let auth = auth(&mut section);
        let (tls, keys) = TlsKeys::read(&mut section, &TlsKeys::default());
        if keys.on == Some(true) {
            can_be_encrypted(&mut section, hosts.as_ref());
        }
        different_names(&mut section, &path);
        if let Some(root) = &state_root {
            apart_from_root(&mut section, root, &path, discover.as_ref());
        }
        let (hosts, state_root) = (hosts?.to_string(), state_root?);
        Some(Self { hosts, path, discover, state_root, session_timeout, auth, tls: tls.flatten() })
    }

    /// Refuses a file that names no service at all.
    pub fn needs_a_service(reader: &mut Reader<'_>) {
        let mut section = reader.section(ZOOKEEPER.name());
        if !section.has("path") && !section.has("discover") {
            section.refuse("path", "missing; for example /the_red/storage/posts (or `discover`, or both)");
        }
    }
}

/// TLS needs a build that can, and servers that a certificate can name.
fn can_be_encrypted(section: &mut SectionReader<'_, '_>, hosts: Option<&Ensemble>) {
    if !topology::ZOOKEEPER_TLS {
        section.refuse(
            "tls",
            "this build has no TLS with ZooKeeper: use the Debian package (`make deb`), or build with --features zookeeper-tls",
        );
    }
    let unnamed = |host: &&Endpoint| Tls::server_name(host.host()).is_none();
    if let Some(host) = hosts.and_then(|hosts| hosts.hosts().iter().find(unnamed)) {
        section.refuse("hosts", &format!("no certificate can name {host}, which `tls = on` needs"));
    }
}

/// `user:password`, or `file:PATH` of a file that holds that.
fn auth(section: &mut SectionReader<'_, '_>) -> Option<(String, Secret)> {
    let secret = section.secret("auth")?;
    let text = str::from_utf8(secret.expose()).ok();
    match text.and_then(|text| text.split_once(':')) {
        Some((user, password)) if !user.is_empty() && !password.is_empty() => {
            Some((user.to_string(), Secret::new(password)))
        }
        _ => {
            section.refuse("auth", "expected user:password, or file:PATH of a file that holds that");
            None
        }
    }
}

/// A service is called by the last part of its path.
fn different_names(section: &mut SectionReader<'_, '_>, paths: &[ZnodePath]) {
    for (at, path) in paths.iter().enumerate() {
        if let Some(first) = paths[..at].iter().find(|first| first.name() == path.name()) {
            let why = format!("{first} and {path} would both be called `{}`", path.name());
            section.refuse("path", &why);
        }
    }
}

/// Announcements and the monitors' own records must not mix.
fn apart_from_root(
    section: &mut SectionReader<'_, '_>,
    root: &ZnodePath,
    paths: &[ZnodePath],
    discover: Option<&ZnodePath>,
) {
    let named = paths.iter().map(|path| ("path", path)).chain(discover.map(|path| ("discover", path)));
    for (key, path) in named {
        if let Some(why) = misplaced(path, root) {
            section.refuse(key, &why);
        }
    }
}

/// Why an announcement cannot stand at `path` when the monitors' records lie below `root`.
pub fn misplaced(path: &ZnodePath, root: &ZnodePath) -> Option<String> {
    if is_within(path, root) {
        return Some(format!("{path} lies in the state root {root}; move one of them"));
    }
    let first = path.as_str()[1..].split('/').next().unwrap_or_default();
    TAKEN
        .contains(&first)
        .then(|| format!("{path} cannot begin with /{first}: {root}/{first} is a record of its own"))
}

fn is_within(path: &ZnodePath, folder: &ZnodePath) -> bool {
    path == folder || path.ancestors().any(|ancestor| ancestor == folder.as_str())
}

/// How to log in at the Redis servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisSettings {
    /// What is used where no section of a server says otherwise.
    pub shared: Credentials,
    /// What `[redis:HOST:PORT]` says; every key overrides the shared one by itself.
    pub members: BTreeMap<Endpoint, Credentials>,
}

/// A user and a password for Redis; without a password nothing is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user; `None` is Redis's default user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// `tls`: `Some(None)` is `off`.
    pub tls: Option<Option<Tls>>,
}

impl RedisSettings {
    /// Reads `[redis]` and every `[redis:HOST:PORT]`.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let nothing = TlsKeys::default();
        let (mut shared, tls) = Credentials::read(&mut reader.section(REDIS.name()), false, &nothing);
        // Here `off` is what is meant anyway.
        shared.tls = shared.tls.flatten().map(Some);
        let mut members = BTreeMap::new();
        for (address, name) in reader.addresses(REDIS_MEMBER.name()) {
            let (own, _) = Credentials::read(&mut reader.section(&name), shared.password.is_some(), &tls);
            if members.insert(address, own).is_some() {
                reader.section(&name).refuse_section("the same server has another section");
            }
        }
        Self { shared, members }
    }

    /// What to send to this server.
    pub fn credentials(&self, server: &Endpoint) -> Credentials {
        let own = self.members.get(server);
        Credentials {
            username: own.and_then(|own| own.username.clone()).or_else(|| self.shared.username.clone()),
            password: own.and_then(|own| own.password.clone()).or_else(|| self.shared.password.clone()),
            tls: own.and_then(|own| own.tls.clone()).or_else(|| self.shared.tls.clone()),
        }
    }
}

impl Credentials {
    /// With `inherits` a shared password stands in for a missing one, and every key of TLS for a missing one.
    fn read(section: &mut SectionReader<'_, '_>, inherits: bool, shared: &TlsKeys) -> (Self, TlsKeys) {
        let (username, password) = (section.text("username"), section.secret("password"));
        if username.is_some() && !inherits && !section.has("password") {
            section.refuse("username", "a username needs a password");
        }
        let (tls, keys) = TlsKeys::read(section, shared);
        (Self { username, password, tls }, keys)
    }
}

/// The keys of TLS as they stand in a section, or in the one above it.
#[derive(Debug, Clone, Default)]
struct TlsKeys {
    on: Option<bool>,
    ca: Option<Secret>,
    certificate: Option<Secret>,
    key: Option<Secret>,
}

impl TlsKeys {
    /// What the section says about TLS, if anything, and the keys for the sections below it.
    fn read(section: &mut SectionReader<'_, '_>, above: &Self) -> (Option<Option<Tls>>, Self) {
        let on = section.choice("tls", &[("on", true), ("off", false)]);
        let own = Self {
            on,
            ca: section.secret_file("tls_ca"),
            certificate: section.secret_file("tls_cert"),
            key: section.secret_file("tls_key"),
        };
        let says = ["tls", "tls_ca", "tls_cert", "tls_key"].iter().any(|key| section.has(key));
        let keys = Self {
            on: own.on.or(above.on),
            ca: own.ca.or_else(|| above.ca.clone()),
            certificate: own.certificate.or_else(|| above.certificate.clone()),
            key: own.key.or_else(|| above.key.clone()),
        };
        let tls = says.then(|| keys.make(section));
        (tls, keys)
    }

    fn make(&self, section: &mut SectionReader<'_, '_>) -> Option<Tls> {
        if self.on != Some(true) {
            let needless = ["tls_ca", "tls_cert", "tls_key"].into_iter().find(|key| section.has(key));
            if let Some(key) = needless.filter(|_| self.on.is_none()) {
                section.refuse(key, "has no effect without tls = on");
            }
            return None;
        }
        let Some(ca) = &self.ca else {
            if !section.has("tls_ca") {
                section
                    .refuse("tls", "needs tls_ca, the file with the certificate of who signed the servers'");
            }
            return None;
        };
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                Some(Identity { certificate: certificate.expose(), key: key.expose() })
            }
            (None, None) => None,
            (Some(_), None) if section.has("tls_key") => return None, // said already
            (None, Some(_)) if section.has("tls_cert") => return None,
            (Some(_), None) => {
                section.refuse("tls_cert", "needs tls_key");
                return None;
            }
            (None, Some(_)) => {
                section.refuse("tls_key", "needs tls_cert");
                return None;
            }
        };
        let made = Tls::new(ca.expose(), identity);
        let wrong = |error: &TlsError| match error.part {
            Part::Ca => "tls_ca",
            Part::Certificate => "tls_cert",
            Part::Key => "tls_key",
        };
        made.map_err(|error| section.refuse(wrong(&error), &error.to_string())).ok()
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// The least important lines that are still written.
    pub level: LogLevel,
    /// For people or for machines.
    pub format: LogFormat,
}

/// How important a line must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What does not work.
    Error,
    /// And what somebody should look at.
    Warn,
    /// And every change of a role or of the published topology.
    #[default]
    Info,
    /// And every deviation.
    Debug,
    /// And every probe.
    Trace,
}

impl LogLevel {
    /// The word that stands in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

impl LogSettings {
    /// Reads `[log]`.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section(LOG.name());
        let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
        let level = section.choice("level", &levels.map(|level| (level.as_str(), level)));
        let format = section.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
        Self { level: level.unwrap_or_default(), format: format.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ini, Schema};

    const SCHEMA: Schema = Schema::new(&[ZOOKEEPER, REDIS, REDIS_MEMBER, LOG]);

    fn read<T>(text: &str, read: impl FnOnce(&mut Reader<'_>) -> T) -> (T, Vec<String>) {
        let ini = Ini::parse(text.as_bytes(), "f", [], &SCHEMA);
        let files = |path: &str| match path {
            "auth" => Ok(b"bob:x:y\n".to_vec()),
            "good" => Ok(b"anything\n".to_vec()),
            _ => Err("gone".to_string()),
        };
        let mut reader = Reader::new(&ini, &files);
        let value = read(&mut reader);
        let problems = reader.finish().err();
        (value, problems.iter().flat_map(|p| p.iter().map(ToString::to_string)).collect())
    }

    #[test]
    fn zookeeper_defaults_and_values() {
        let (minimal, problems) = read("[zookeeper]\nhosts = 127.0.0.1:2181", ZookeeperSettings::read);
        let minimal = minimal.unwrap();
        assert_eq!(problems, [""; 0]);
        assert_eq!(minimal.hosts, "127.0.0.1:2181");
        assert_eq!((minimal.state_root.as_str(), minimal.session_timeout.as_secs()), ("/albireo", 6));
        let text = "[zookeeper]\nhosts = a:1,b:2/x\npath = /r/posts, /r/users\ndiscover = /all\nstate_root = /st\n\
                    session_timeout_ms = 10000\nauth = file:auth\ntls = off";
        let (full, problems) = read(text, ZookeeperSettings::read);
        let full = full.unwrap();
        assert_eq!(problems, [""; 0]);
        assert_eq!(full.path.iter().map(ZnodePath::name).collect::<Vec<_>>(), ["posts", "users"]);
        assert_eq!(full.auth, Some(("bob".to_string(), Secret::new("x:y"))));
        assert!(!format!("{full:?}").contains("x:y"));
    }

    #[test]
    fn zookeeper_mistakes() {
        for (lines, problem) in [
            ("", "f:1: [zookeeper] hosts = : missing; for example 127.0.0.1:2181"),
            (
                "hosts = a:0",
                "f:2: [zookeeper] hosts = a:0: expected host:port,host:port,... and perhaps a /chroot; `a:0` is not",
            ),
            (
                "hosts = nowhere",
                "f:2: [zookeeper] hosts = nowhere: expected host:port,host:port,... and perhaps a /chroot; `nowhere`",
            ),
            (
                "hosts = a:1\npath = /a/x,/b/x",
                "f:3: [zookeeper] path = /a/x,/b/x: /a/x and /b/x would both be",
            ),
            (
                "hosts = a:1\npath = x",
                "f:3: [zookeeper] path = x: `x` is no znode path: it does not begin with `/`",
            ),
            (
                "hosts = a:1\npath = /albireo/x",
                "f:3: [zookeeper] path = /albireo/x: /albireo/x lies in the state",
            ),
            (
                "hosts = a:1\npath = /monitors/x",
                "f:3: [zookeeper] path = /monitors/x: /monitors/x cannot begin with",
            ),
            ("hosts = a:1\ndiscover = /", "f:3: [zookeeper] discover = /: `/` is no znode path"),
            ("hosts = a:1\nstate_root = a", "f:3: [zookeeper] state_root = a: `a` is no znode path"),
            ("hosts = a:1\nauth = bob", "f:3: [zookeeper] auth = ***: expected user:password"),
            (
                "hosts = a:1\nauth = file:none",
                "f:3: [zookeeper] auth = ***: the file none cannot be read: gone",
            ),
            (
                "hosts = a:1\nsession_timeout_ms = 1",
                "f:3: [zookeeper] session_timeout_ms = 1: not between 400 and",
            ),
            ("hosts = a:1\ntls_ca = good", "f:3: [zookeeper] tls_ca = good: has no effect without tls = on"),
            ("hosts = a:1\ntls = yes", "f:3: [zookeeper] tls = yes: expected on or off"),
        ] {
            let (_, problems) = read(&format!("[zookeeper]\n{lines}"), ZookeeperSettings::read);
            assert_eq!(problems.len(), 1, "{lines}: {problems:?}");
            assert!(problems[0].starts_with(problem), "{lines}: {problems:?}");
        }
        let (_, problems) = read("[zookeeper]\nhosts = a", ZookeeperSettings::needs_a_service);
        assert!(problems[0].starts_with("f:1: [zookeeper] path = : missing"), "{problems:?}");
    }

    #[test]
    fn tls_with_zookeeper_needs_a_build_that_can() {
        let (_, problems) = read("[zookeeper]\nhosts = a:1\ntls = on", ZookeeperSettings::read);
        let said = problems.join("\n");
        assert!(said.starts_with("f:3: [zookeeper] tls = on: needs tls_ca, the file"), "{said}");
        assert_eq!(said.contains("--features zookeeper-tls"), !topology::ZOOKEEPER_TLS, "{said}");
    }

    #[test]
    fn redis_members_override_key_by_key() {
        let text =
            "[redis]\nusername = u\npassword = p\n[redis:a:1]\npassword = q\n[redis:b:1]\nusername = v";
        let (redis, problems) = read(text, RedisSettings::read);
        assert_eq!(problems, [""; 0]);
        let at = |text: &str| redis.credentials(&text.parse().unwrap());
        let creds = |user: &str, pass: &str| Credentials {
            username: Some(user.to_string()),
            password: Some(Secret::new(pass)),
            tls: None,
        };
        assert_eq!(at("a:1"), creds("u", "q"));
        assert_eq!(at("b:1"), creds("v", "p"));
        assert_eq!(at("c:1"), creds("u", "p"));
    }

    #[test]
    fn redis_mistakes() {
        for (text, problem) in [
            ("[redis]\nusername = u", "f:2: [redis] username = u: a username needs a password"),
            ("[redis:a:1]\nusername = u", "f:2: [redis:a:1] username = u: a username needs a password"),
            ("[redis:a:1]\ntls_ca = good", "f:2: [redis:a:1] tls_ca = good: has no effect without tls = on"),
            ("[redis]\ntls = yes", "f:2: [redis] tls = yes: expected on or off"),
            ("[redis]\ntls = on", "f:2: [redis] tls = on: needs tls_ca"),
            ("[redis]\ntls = on\ntls_ca = none", "f:3: [redis] tls_ca = none: the file none cannot be read"),
            ("[redis]\ntls = on\ntls_ca = good", "f:3: [redis] tls_ca = good: no certificate in PEM"),
            (
                "[redis]\ntls = on\ntls_ca = good\ntls_cert = good",
                "f:4: [redis] tls_cert = good: needs tls_key",
            ),
            (
                "[redis]\ntls = on\ntls_ca = good\ntls_key = good",
                "f:4: [redis] tls_key = good: needs tls_cert",
            ),
            ("[redis]\ntls = off\n[redis:a:1]\ntls = on", "f:4: [redis:a:1] tls = on: needs tls_ca"),
            ("[redis:A:1]\n[redis:a:1]", "f:2: [redis:a:1]: the same server has another section"),
            ("[redis]\npassword =", "f:2: [redis] password = ***: empty"),
        ] {
            let (_, problems) = read(text, RedisSettings::read);
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].starts_with(problem), "{text}: {problems:?}");
        }
        let (redis, problems) = read("[redis:LOCALHOST:1]\npassword = p", RedisSettings::read);
        assert_eq!(problems, [""; 0]);
        assert!(redis.credentials(&"localhost:1".parse().unwrap()).password.is_some());
    }

    #[test]
    fn log() {
        let (log, problems) = read("[log]\nlevel = debug\nformat = json", LogSettings::read);
        assert_eq!((log.level, log.format, problems.len()), (LogLevel::Debug, LogFormat::Json, 0));
        let (log, problems) = read("[log]\nlevel = loud\nformat = xml", LogSettings::read);
        assert_eq!(log, LogSettings::default());
        assert_eq!(
            problems,
            [
                "f:2: [log] level = loud: expected error or warn or info or debug or trace",
                "f:3: [log] format = xml: expected text or json"
            ]
        );
    }
}
