//! From the INI file to a checked [`Config`]: every key of the API, its default, its bounds, and what must hold
//! between keys. Behind it nobody checks again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use failover::confirm::Durability;
use settings::{
    Ini, Key, LOG, LogSettings, Problem, Problems, REDIS, REDIS_MEMBER, ReadFile, Reader, RedisSettings,
    Schema, Secret, Section, SectionReader, ZOOKEEPER, ZookeeperSettings,
};
use topology::zookeeper::Options;
use topology::{Endpoint, ZnodePath};

#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;

const API: Section = Section::new(
    "api",
    &[
        Key::plain("listen"),
        Key::plain("service"),
        Key::plain("durability"),
        Key::plain("key_prefix"),
        Key::plain("deadline_ms"),
        Key::plain("drain_ms"),
        Key::plain("max_value_bytes"),
        Key::plain("max_in_flight"),
        Key::secret("token"),
    ],
);

/// Every section and key of the API.
pub(crate) const SCHEMA: Schema = Schema::new(&[ZOOKEEPER, API, REDIS, REDIS_MEMBER, LOG]);

/// The monitors' own keys in each Redis; no client may write there.
const RESERVED: &str = "albireo:";

/// A whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// At least one of `path` and `discover` is given.
    pub(crate) zookeeper: ZookeeperSettings,
    pub(crate) api: Api,
    pub(crate) redis: RedisSettings,
    pub(crate) log: LogSettings,
    /// What is allowed but worth a line in the log.
    pub(crate) warnings: Vec<String>,
}

/// What the HTTP front does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Api {
    pub(crate) listen: Endpoint,
    /// The name of the service whose keys stand directly below `/api/v1`.
    pub(crate) service: String,
    /// The announcement of that service.
    pub(crate) service_path: ZnodePath,
    /// What an acknowledged write means, where there is a record.
    pub(crate) durability: Durability,
    /// Put before every key.
    pub(crate) key_prefix: String,
    /// The longest that a request may take, a failover included.
    pub(crate) deadline: Duration,
    /// From SIGTERM, when `/readyz` begins to refuse, to the end of listening.
    pub(crate) drain: Duration,
    pub(crate) max_value_bytes: usize,
    /// Requests beyond this many at once are turned away with 503.
    pub(crate) max_in_flight: usize,
    /// Guards reads and writes of keys.
    pub(crate) token: Option<Secret>,
}

impl Config {
    /// Reads a file and the environment. Paths in the file (`file:PATH`) are relative to its folder.
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
        let api = Api::read(&mut reader.section(API.name()), zookeeper.as_ref());
        let redis = RedisSettings::read(&mut reader);
        let log = LogSettings::read(&mut reader);
        reader.finish()?;
        // Without a mistake there is a value.
        let (Some(zookeeper), Some(api)) = (zookeeper, api) else {
            return Err(Problem::file(name, "[zookeeper] or [api] cannot be read").into());
        };
        let ignored = ini.ignored_variables().iter().map(|variable| {
            format!("the environment variable {variable} matches no key of the API and is ignored")
        });
        Ok(Self { zookeeper, api, redis, log, warnings: ignored.collect() })
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
}

impl Api {
    /// Reads `[api]`; `None` after a mistake from which there is no default.
    fn read(section: &mut SectionReader<'_, '_>, zookeeper: Option<&ZookeeperSettings>) -> Option<Self> {
        let listen = match section.parsed::<Endpoint>("listen") {
            Some(listen) => Some(listen),
            None => "127.0.0.1:7001".parse().ok(),
        };
        let service_path = zookeeper.and_then(|zookeeper| service_path(section, zookeeper));
        let read = Self {
            durability: durability(section),
            key_prefix: key_prefix(section),
            deadline: section.millis("deadline_ms", 3000, 10..=600_000),
            drain: section.millis("drain_ms", 2000, 0..=600_000),
            // Redis takes no larger value than 512 MiB.
            max_value_bytes: section.integer("max_value_bytes", 1 << 20, 1..=512 << 20, "bytes"),
            max_in_flight: section.integer("max_in_flight", 4096, 1..=1_000_000, "requests"),
            token: section.secret("token"),
            listen: listen?,
            service: service_path.as_ref()?.name().to_owned(),
            service_path: service_path?,
        };
        Some(read)
    }
}

/// The configured path of that name, or a child of `discover`; without `service` the only path.
fn service_path(section: &mut SectionReader<'_, '_>, zookeeper: &ZookeeperSettings) -> Option<ZnodePath> {
    let Some(name) = section.text("service") else {
        return match zookeeper.path.as_slice() {
            [only] => Some(only.clone()),
            several => {
                // Without any path there is `discover`, or that is the mistake that is reported.
                if !several.is_empty() || zookeeper.discover.is_some() {
                    section
                        .refuse("service", "missing; say which service /api/v1/get and /api/v1/write mean");
                }
                None
            }
        };
    };
    if let Some(path) = zookeeper.path.iter().find(|path| path.name() == name) {
        return Some(path.clone());
    }
    let Some(parent) = &zookeeper.discover else {
        let known: Vec<&str> = zookeeper.path.iter().map(ZnodePath::name).collect();
        if !known.is_empty() {
            section.refuse(
                "service",
                &format!("no path in [zookeeper] ends in it; there is {}", known.join(", ")),
            );
        }
        return None;
    };
    if name.contains('/') {
        section.refuse("service", "a service is called by the last part of its path");
        return None;
    }
    match parent.child(&name) {
        Ok(path) => Some(path),
        Err(error) => {
            section.refuse("service", &error.to_string());
            None
        }
    }
}

fn durability(section: &mut SectionReader<'_, '_>) -> Durability {
    let words = [Durability::Sync, Durability::Async].map(|durability| (durability.as_str(), durability));
    section.choice("durability", &words).unwrap_or(Durability::Sync)
}

fn key_prefix(section: &mut SectionReader<'_, '_>) -> String {
    let Some(prefix) = section.text_or_empty("key_prefix") else { return "k:".to_owned() };
    if prefix.len() > 64 || prefix.chars().any(char::is_control) {
        section.refuse("key_prefix", "at most 64 bytes, none of them a control character");
    } else if prefix.starts_with(RESERVED) {
        section.refuse("key_prefix", &format!("{RESERVED} is reserved for Albireo's own keys"));
    }
    prefix
}
