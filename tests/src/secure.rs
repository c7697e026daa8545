//! A group with every security option on: TLS with client certificates and ACL users at Redis, ACLs at ZooKeeper, keyed
//! heartbeats, tokens, a Sentinel password. Its secrets are unmistakable, so that they can be looked for everywhere.

use std::fs;

use crate::WorkDir;
use crate::certificates::Certificates;
use crate::group::{Builder, Group};
use crate::rights;

/// Guards what changes anything at a monitor.
pub const ADMIN_TOKEN: &str = "planted-Yae4Oov7-admin-token";
/// Guards reads and writes of keys.
pub const API_TOKEN: &str = "planted-ieSh8ohb-api-token";
/// For clients of Redis Sentinel.
pub const SENTINEL_PASSWORD: &str = "planted-Thoo5aiv-sentinel-password";
/// The user of that password.
pub const SENTINEL_USER: &str = "watcher";
/// `user:password` at ZooKeeper.
pub const ZOOKEEPER_AUTH: &str = "albireo:planted-Ahb9eepo-zookeeper-password";
const MONITOR_PASSWORD: &str = "planted-ek3Ohquu-redis-password-of-monitors";
const API_PASSWORD: &str = "planted-Wei6aeng-redis-password-of-apis";
const PAIR_KEY: &str = "planted-Oofie4ah-key-of-the-pair";
/// The test's own user at the Redis servers.
const ASKER: (&str, &str) = ("asker", "asks");

/// The secrets in their files, and the certificates.
#[derive(Debug)]
pub struct Secure {
    dir: WorkDir,
    certificates: Certificates,
}

impl Secure {
    /// Writes the files.
    #[track_caller]
    pub fn new() -> Self {
        let made = Self { dir: WorkDir::new("secure"), certificates: Certificates::new() };
        for (name, content) in [
            ("redis.password", MONITOR_PASSWORD),
            ("zookeeper.auth", ZOOKEEPER_AUTH),
            ("pair.key", PAIR_KEY),
            ("admin.token", ADMIN_TOKEN),
            ("sentinel.password", SENTINEL_PASSWORD),
        ] {
            let file = made.dir.join(name);
            fs::write(&file, format!("{content}\n")).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
        made
    }

    /// A group with so many replicas and everything on. What may stand in a file of its own does for the monitors; the
    /// APIs have it in their configuration.
    pub fn group(&self, replicas: usize) -> Builder {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let from = |name: &str| format!("file:{}", file(name));
        Group::of(replicas)
            .tls(&self.certificates)
            .redis_closed(ASKER.0, ASKER.1)
            .redis_line(&rights::MONITOR.rule(MONITOR_PASSWORD))
            .redis_line(&rights::API.rule(API_PASSWORD))
            .monitor_key("redis", "username", rights::MONITOR.name)
            .monitor_key("redis", "password", from("redis.password"))
            .monitor_key("zookeeper", "auth", from("zookeeper.auth"))
            .monitor_key("binary_star", "key_file", file("pair.key"))
            .monitor_key("admin", "token", from("admin.token"))
            .sentinel()
            .monitor_key("sentinel", "username", SENTINEL_USER)
            .monitor_key("sentinel", "password", from("sentinel.password"))
            .api_key("redis", "username", rights::API.name)
            .api_key("redis", "password", API_PASSWORD)
            .api_key("zookeeper", "auth", ZOOKEEPER_AUTH)
            .api_key("api", "token", API_TOKEN)
    }

    /// The same, and TLS with ZooKeeper where the programs have that (feature `zookeeper-tls`).
    pub fn group_with_all(&self, replicas: usize) -> Builder {
        let group = self.group(replicas);
        match cfg!(feature = "zookeeper-tls") {
            true => group.zookeeper_tls(&self.certificates),
            false => group,
        }
    }

    /// Who signed whom.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Every secret, with a name for messages. A private key is its lines of base64.
    #[track_caller]
    pub fn secrets(&self) -> Vec<(String, String)> {
        let (_, zookeeper) = ZOOKEEPER_AUTH.split_once(':').unwrap_or_default();
        let mut all: Vec<(String, String)> = [
            ("[admin] token", ADMIN_TOKEN),
            ("[api] token", API_TOKEN),
            ("[sentinel] password", SENTINEL_PASSWORD),
            ("[zookeeper] auth", zookeeper),
            ("[redis] password of the monitors", MONITOR_PASSWORD),
            ("[redis] password of the APIs", API_PASSWORD),
            ("[binary_star] key_file", PAIR_KEY),
        ]
        .map(|(name, secret)| (name.to_owned(), secret.to_owned()))
        .to_vec();
        let key = self.certificates.file("client.key");
        let text = fs::read_to_string(&key).unwrap_or_else(|e| panic!("{}: {e}", key.display()));
        let lines = text.lines().filter(|line| !line.starts_with("-----"));
        all.extend(lines.map(|line| ("[redis] tls_key".to_owned(), line.to_owned())));
        all
    }
}

impl Default for Secure {
    fn default() -> Self {
        Self::new()
    }
}
