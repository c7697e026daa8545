//! How the core's words are written in Redis: a question and its answer, the commands of an order.
//!
//! What the monitor changes on a server is all here: `REPLICAOF`, the key `albireo:fence`, the ACL user
//! `albireo-repl-N` (in memory only), `masteruser` and `masterauth`, `replica-read-only`, `repl-backlog-ttl`, the pause
//! of a primary's writers during a switchover, and the connections of clients of a demoted primary.

use std::net::SocketAddr;
use std::sync::Arc;

use failover::{Command as Deed, Fence, Observation, Role, Trouble};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use topology::Endpoint;
use wire::{Command, InfoReply, Login, Reply, cmd};

#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod fuzz;

/// How our connections are called on the server.
pub(crate) const CLIENT_NAME: &str = "albireo-monitor";
/// The key that holds the epoch last stamped.
const FENCE: &str = "albireo:fence";
/// Sets it. Inside of MULTI, and unlike SET, also where REPLICAOF NO ONE stands before it.
const STAMP: &str = "return redis.call('SET', KEYS[1], ARGV[1])";
/// The key that counts batches of writes, and seconds of a busy primary.
const TICK: &str = "albireo:tick";
/// The ACL user of the replicas, followed by the epoch of the promotion.
const CREDENTIAL: &str = "albireo-repl-";

/// What the replication password of a group is made from, so that both monitors make the same one and none has to
/// be stored: it is as secret as the password with which the monitors log in.
#[derive(Clone)]
pub(crate) struct Secret {
    pub(crate) password: String,
    pub(crate) path: String,
    /// How to log in at a server, for replicas without a credential.
    pub(crate) login: Arc<dyn Fn(&Endpoint) -> Login + Send + Sync>,
}

impl Secret {
    fn password(&self, promoted: u64, run_id: &str) -> String {
        // An HMAC takes a key of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.password.as_bytes()) else {
            return String::new();
        };
        mac.update(format!("{}\n{promoted}\n{run_id}", self.path).as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Why a server's answer is no observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoAnswer(pub(crate) Trouble, pub(crate) String);

/// The questions of a probe.
pub(crate) fn questions() -> [Command; 6] {
    [
        cmd!["INFO", "replication"],
        cmd!["GET", FENCE],
        cmd!["GET", TICK],
        cmd!["INFO", "keyspace"],
        cmd!["CONFIG", "GET", "masteruser"],
        cmd!["CONFIG", "GET", "replica-announce-*"],
    ]
}

/// The questions after the state of disk and memory, which a probe adds now and then.
pub(crate) fn room_questions() -> [Command; 2] {
    [cmd!["INFO", "persistence"], cmd!["INFO", "memory"]]
}

/// A server that answers, and has no room: it refuses writes, or is about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BrownOut {
    /// The word by which Redis refuses such writes, in small letters: `misconf` or `oom`.
    pub(crate) kind: &'static str,
    /// In words.
    pub(crate) words: String,
}

/// What the answers to [`room_questions`] tell; nothing where a server does not let us ask.
pub(crate) fn brown_out(answers: &[Reply]) -> Option<BrownOut> {
    let mut infos = answers.iter().filter_map(InfoReply::from_reply);
    let (persistence, memory) = (infos.next()?, infos.next()?);
    let failed = |field| persistence.field(field) == Some("err");
    let misconf = |words: &str| BrownOut { kind: "misconf", words: words.to_owned() };
    if failed("aof_last_write_status") {
        return Some(misconf(
            "its last write to the append-only file failed (disk full?); it refuses writes",
        ));
    }
    if failed("rdb_last_bgsave_status") {
        return Some(misconf(
            "its last snapshot failed (disk full?); it refuses writes unless stop-writes-on-bgsave-error is off",
        ));
    }
    let (used, limit) = (memory.number("used_memory")?, memory.number("maxmemory")?);
    let full = limit > 0 && used >= limit && memory.field("maxmemory_policy") == Some("noeviction");
    full.then(|| BrownOut {
        kind: "oom",
        words: format!("its memory is full ({used} of {limit} bytes, noeviction); it refuses writes"),
    })
}

/// The further questions before a server is attached: does it hold anything but our own keys?
pub(crate) fn data_questions() -> [Command; 2] {
    [cmd!["INFO", "keyspace"], cmd!["SCAN", "0", "COUNT", "1000"]]
}

/// The answer to `CONFIG GET maxmemory`: the limit that the operator set, in bytes.
pub(crate) fn memory_limit(answer: &Reply) -> Option<String> {
    setting(answer, "maxmemory").filter(|limit| limit.parse::<u64>().is_ok()).map(str::to_owned)
}

/// The further question before a server is stamped: who could replicate from it?
pub(crate) fn users_question() -> Command {
    cmd!["ACL", "USERS"]
}

/// The answer to it; without the right to ask, at least the user that everybody is.
pub(crate) fn users(answer: Option<&Reply>) -> Vec<String> {
    let names = answer
        .and_then(Reply::array)
        .map(|names| names.iter().filter_map(Reply::text).map(str::to_owned).collect());
    names.unwrap_or_else(|| vec!["default".to_owned()])
}

/// Whether one of them is a replication credential.
pub(crate) fn is_guarded(users: &[String]) -> bool {
    users.iter().any(|user| user.starts_with(CREDENTIAL))
}

/// The WATCH of an order.
pub(crate) fn watch() -> Command {
    cmd!["WATCH", FENCE]
}

/// Reads the answers to [`questions`]. `peer` is where the server was reached.
pub(crate) fn observation(
    answers: &[Reply],
    run_id: &str,
    peer: SocketAddr,
) -> Result<Observation, NoAnswer> {
    let [info, fence, tick, keyspace, credential, announced] = answers else {
        return Err(strange("an answer is missing"));
    };
    for reply in [info, fence] {
        if let Some(trouble) = reply.error().and_then(trouble) {
            return Err(trouble);
        }
    }
    let Some(info) = InfoReply::from_reply(info) else { return Err(strange("INFO was not answered")) };
    let missing = || strange("INFO replication lacks a field");
    let role = match info.field("role").ok_or_else(missing)? {
        "master" => Role::Primary { replicas: replicas(&info) },
        "slave" => Role::Replica {
            source: source(&info),
            link_up: info.field("master_link_status") == Some("up"),
            syncing: info.flag("master_sync_in_progress"),
        },
        _ => return Err(missing()),
    };
    let offset = match role {
        Role::Primary { .. } => info.number("master_repl_offset"),
        Role::Replica { .. } => info.number("slave_repl_offset"),
    };
    Ok(Observation {
        run_id: run_id.to_owned(),
        read_only: matches!(role, Role::Replica { .. }) && info.flag("slave_read_only"),
        role,
        replid: info.field("master_replid").ok_or_else(missing)?.to_owned(),
        offset: offset.unwrap_or(0),
        fence: read_fence(fence),
        shows_as: shown_as(announced, peer),
        credential: credential_epoch(credential),
        // One that cannot be counted up is none.
        tick: tick.text().and_then(|text| text.parse().ok()).filter(|tick| *tick < i64::MAX as u64),
        empty: InfoReply::from_reply(keyspace).is_some_and(|info| info.section("Keyspace").next().is_none()),
    })
}

/// What kind of trouble an error reply tells of; none if it is about this one question only.
pub(crate) fn trouble(error: &str) -> Option<NoAnswer> {
    let kind = match error.split_whitespace().next().unwrap_or_default() {
        "LOADING" => Trouble::Loading,
        "BUSY" => Trouble::Busy,
        "NOAUTH" | "WRONGPASS" | "NOPERM" => Trouble::Login,
        _ => return None,
    };
    Some(NoAnswer(kind, error.to_owned()))
}

fn strange(why: &str) -> NoAnswer {
    NoAnswer(Trouble::Strange, why.to_owned())
}

/// `slave0:ip=127.0.0.1,port=6380,state=online,offset=14,lag=0`
fn replicas(info: &InfoReply<'_>) -> Vec<(String, u64)> {
    let one = |entry: &str| {
        let part = |name: &str| entry.split(',').find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
        (part("state") == Some("online"))
            .then_some(())
            .and_then(|()| Some((seen_as(part("ip")?, part("port")?), part("offset")?.parse().ok()?)))
    };
    info.numbered("slave").filter_map(one).collect()
}

fn source(info: &InfoReply<'_>) -> Option<Endpoint> {
    let (host, port) = (info.field("master_host")?, info.field("master_port")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("{host}:{port}").parse().ok()
}

/// As the API writes what ROLE shows: an IPv6 address in brackets.
fn seen_as(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// How a primary shows this server: under the address that it announces, else the one from which it connects, which is
/// taken to be the one where it was reached.
fn shown_as(announced: &Reply, peer: SocketAddr) -> String {
    let set = |name: &str| {
        let value = setting(announced, name)?;
        (!value.is_empty() && value != "0").then(|| value.to_owned())
    };
    let ip = set("replica-announce-ip").unwrap_or_else(|| peer.ip().to_string());
    let port = set("replica-announce-port").unwrap_or_else(|| peer.port().to_string());
    seen_as(&ip, &port)
}

/// One parameter in the answer to `CONFIG GET`.
fn setting<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let pairs = reply.array()?.chunks_exact(2);
    pairs.filter(|pair| pair[0].text() == Some(name)).find_map(|pair| pair[1].text())
}

fn read_fence(reply: &Reply) -> Fence {
    if matches!(reply, Reply::Nil) {
        return Fence::Absent;
    }
    reply.text().and_then(|text| text.parse().ok()).map_or(Fence::Unreadable, Fence::At)
}

fn credential_epoch(reply: &Reply) -> Option<u64> {
    setting(reply, "masteruser")?.strip_prefix(CREDENTIAL)?.parse().ok()
}

/// Whether the answers to [`data_questions`] show anything but our own keys; in doubt, yes.
pub(crate) fn holds_data(answers: &[Reply]) -> bool {
    let [keyspace, scan] = answers else { return true };
    let Some(info) = InfoReply::from_reply(keyspace) else { return true };
    if info.section("Keyspace").any(|(name, _)| name != "db0") {
        return true;
    }
    match scan.array() {
        Some([cursor, keys]) if cursor.text() == Some("0") => !keys
            .array()
            .unwrap_or_default()
            .iter()
            .all(|key| key.bytes().is_some_and(|k| k.starts_with(b"albireo:"))),
        _ => true,
    }
}

/// The commands that carry out one deed.
///
/// `users` are the ACL users of the server.
pub(crate) fn render(deed: &Deed, secret: &Secret, users: &[String]) -> Vec<Command> {
    let others = || users.iter().filter(|user| !user.starts_with(CREDENTIAL));
    let allow =
        |psync: &str, sync: &str| others().map(|user| cmd!["ACL", "SETUSER", user, psync, sync]).collect();
    match deed {
        Deed::ReadOnly => vec![cmd!["CONFIG", "SET", "replica-read-only", "yes"]],
        Deed::CreateCredential { promoted, run_id } => {
            let user = format!("{CREDENTIAL}{promoted}");
            let password = format!(">{}", secret.password(*promoted, run_id));
            let create =
                cmd!["ACL", "SETUSER", user, "reset", "on", password, "+psync", "+replconf", "+ping"];
            let shut: Vec<Command> = allow("-psync", "-sync");
            std::iter::once(create).chain(shut).collect()
        }
        Deed::OpenToReplicas => allow("+psync", "+sync"),
        Deed::UseCredential { promoted, run_id } => vec![
            cmd!["CONFIG", "SET", "masteruser", format!("{CREDENTIAL}{promoted}")],
            cmd!["CONFIG", "SET", "masterauth", secret.password(*promoted, run_id)],
        ],
        Deed::UseLogin(primary) => {
            let Login { username, password, .. } = (secret.login)(primary);
            vec![
                cmd!["CONFIG", "SET", "masteruser", username.unwrap_or_default()],
                cmd!["CONFIG", "SET", "masterauth", password.unwrap_or_default()],
            ]
        }
        Deed::KeepBacklog => vec![cmd!["CONFIG", "SET", "repl-backlog-ttl", "0"]],
        Deed::Detach => vec![cmd!["REPLICAOF", "127.0.0.1", "0"]],
        Deed::Tick { anew: false } => vec![cmd!["INCR", TICK]],
        Deed::Tick { anew: true } => vec![cmd!["SET", TICK, "1"]],
        Deed::BecomePrimary => vec![cmd!["REPLICAOF", "NO", "ONE"]],
        Deed::Follow(to) => vec![cmd!["REPLICAOF", to.host(), to.port().to_string()]],
        Deed::Stamp(epoch) => vec![cmd!["EVAL", STAMP, "1", FENCE, epoch.to_string()]],
        Deed::Pause(millis) => vec![cmd!["CLIENT", "PAUSE", millis.to_string(), "WRITE"]],
        Deed::Unpause => vec![cmd!["CLIENT", "UNPAUSE"]],
        Deed::CutClients => {
            vec![cmd!["CLIENT", "KILL", "TYPE", "normal"], cmd!["CLIENT", "KILL", "TYPE", "pubsub"]]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.to_owned().into())
    }

    fn db0() -> Reply {
        bulk("# Keyspace\r\ndb0:keys=2,expires=0,avg_ttl=0\r\n")
    }

    fn peer() -> SocketAddr {
        "127.0.0.1:6380".parse().unwrap()
    }

    #[test]
    fn a_primary_and_a_replica() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\nslave0:ip=127.0.0.1,port=6380,state=online,\
                    offset=14,lag=0\r\nslave1:ip=::1,port=6381,state=wait_bgsave,offset=0,lag=0\r\n\
                    master_replid:abc\r\nmaster_repl_offset:20\r\n";
        let credential = Reply::Array(vec![bulk("masteruser"), bulk("albireo-repl-7")]);
        let nothing = || Reply::Array(vec![]);
        let seen =
            observation(&[bulk(info), bulk("5"), bulk("8"), db0(), credential, nothing()], "r", peer())
                .unwrap();
        assert_eq!(seen.role, Role::Primary { replicas: vec![("127.0.0.1:6380".into(), 14)] });
        assert_eq!((seen.offset, seen.fence, seen.credential), (20, Fence::At(5), Some(7)));
        assert_eq!((seen.tick, seen.empty), (Some(8), false));

        let info = "role:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:0\r\nmaster_link_status:down\r\n\
                    master_sync_in_progress:1\r\nslave_repl_offset:7\r\nslave_read_only:1\r\nmaster_replid:abc\r\n";
        let seen = observation(
            &[bulk(info), Reply::Nil, Reply::Nil, bulk("# Keyspace\r\n"), nothing(), nothing()],
            "r",
            peer(),
        )
        .unwrap();
        assert_eq!(seen.role, Role::Replica { source: None, link_up: false, syncing: true });
        assert_eq!(
            (seen.offset, seen.fence, seen.read_only, seen.shows_as.as_str()),
            (7, Fence::Absent, true, "127.0.0.1:6380")
        );
        assert_eq!((seen.tick, seen.empty), (None, true));
    }

    #[test]
    fn a_server_that_claims_any_number_of_replicas_delays_nobody() {
        let info = bulk("role:master\r\nconnected_slaves:18446744073709551615\r\nmaster_replid:abc\r\n");
        let nothing = || Reply::Array(vec![]);
        let seen = observation(&[info, Reply::Nil, Reply::Nil, db0(), nothing(), nothing()], "r", peer());
        assert_eq!(seen.unwrap().role, Role::Primary { replicas: vec![] });
    }

    #[test]
    fn errors_are_sorted() {
        let info = bulk("role:master\r\nmaster_replid:abc\r\nmaster_repl_offset:20\r\n");
        let nothing = Reply::Array(vec![]);
        let answers =
            |info: &Reply, fence| [info.clone(), fence, Reply::Nil, db0(), nothing.clone(), nothing.clone()];
        let answer = |fence: Reply| observation(&answers(&info, fence), "r", peer());
        for (text, trouble) in [
            ("LOADING Redis is loading", Trouble::Loading),
            ("BUSY Redis is busy running a script", Trouble::Busy),
            ("NOPERM this user has no permissions", Trouble::Login),
        ] {
            assert_eq!(answer(Reply::Error(text.into())), Err(NoAnswer(trouble, text.into())));
        }
        for unreadable in
            [Reply::Error("WRONGTYPE".into()), Reply::Error("MASTERDOWN".into()), bulk("x"), bulk("-1")]
        {
            assert_eq!(answer(unreadable).unwrap().fence, Fence::Unreadable);
        }
        assert!(observation(&answers(&bulk("hello"), Reply::Nil), "r", peer()).is_err());
    }

    /// A replica that restarted knows no credential; without the last two it would come in by the front door.
    #[test]
    fn who_may_replicate() {
        let login: Arc<dyn Fn(&Endpoint) -> Login + Send + Sync> = Arc::new(|_| Login::default());
        let secret = Secret { password: String::new(), path: "/a".into(), login };
        let answer = Reply::Array(["default", "albireo-repl-3", "ops"].into_iter().map(bulk).collect());
        let users = users(Some(&answer));
        assert!(is_guarded(&users) && !is_guarded(&super::users(Some(&Reply::Error("NOPERM".into())))));
        let words = |deed: &Deed| -> Vec<String> {
            let commands = render(deed, &secret, &users);
            commands.iter().map(|c| String::from_utf8_lossy(&c.to_bytes()).replace("\r\n", " ")).collect()
        };
        let shut = words(&Deed::CreateCredential { promoted: 4, run_id: "r".into() });
        assert_eq!(shut.len(), 3);
        assert!(shut[0].contains("albireo-repl-4") && shut[0].contains("+psync"), "{shut:?}");
        for (command, user) in shut[1..].iter().zip(["default", "ops"]) {
            assert!(
                command.contains(user) && command.contains("-psync") && command.contains("-sync"),
                "{command}"
            );
        }
        let open = words(&Deed::OpenToReplicas);
        assert!(
            open.len() == 2 && open.iter().all(|c| c.contains("+psync") && c.contains("+sync")),
            "{open:?}"
        );
    }

    #[test]
    fn a_server_is_shown_as_it_announces_itself() {
        let announced = |ip: &str, port: &str| {
            let words =
                ["replica-announced", "yes", "replica-announce-ip", ip, "replica-announce-port", port];
            Reply::Array(words.into_iter().map(bulk).collect())
        };
        for (ip, port, shown) in [
            ("", "0", "127.0.0.1:6380"),
            ("10.0.0.9", "0", "10.0.0.9:6380"),
            ("", "7000", "127.0.0.1:7000"),
            ("::1", "7000", "[::1]:7000"),
            ("redis-1.internal", "7000", "redis-1.internal:7000"),
        ] {
            assert_eq!(shown_as(&announced(ip, port), peer()), shown);
        }
        assert_eq!(shown_as(&Reply::Error("NOPERM".into()), peer()), "127.0.0.1:6380");
    }

    #[test]
    fn only_our_own_keys_are_no_data() {
        let scan = |cursor: &str, keys: &[&str]| {
            Reply::Array(vec![bulk(cursor), Reply::Array(keys.iter().map(|key| bulk(key)).collect())])
        };
        assert!(!holds_data(&[bulk("# Keyspace\r\n"), scan("0", &[])]));
        assert!(!holds_data(&[db0(), scan("0", &["albireo:fence", "albireo:tick"])]));
        assert!(holds_data(&[db0(), scan("0", &["albireo:fence", "a"])]));
        assert!(holds_data(&[db0(), scan("17", &["albireo:fence"])]));
        assert!(holds_data(&[bulk("# Keyspace\r\ndb1:keys=1\r\n"), scan("0", &[])]));
    }

    #[test]
    fn the_password_depends_on_all_that_makes_it() {
        let login: Arc<dyn Fn(&Endpoint) -> Login + Send + Sync> = Arc::new(|_| Login::default());
        let secret =
            |password: &str| Secret { password: password.into(), path: "/a".into(), login: login.clone() };
        let one = secret("x").password(5, "r");
        assert_eq!(one.len(), 64);
        for other in
            [secret("y").password(5, "r"), secret("x").password(6, "r"), secret("x").password(5, "s")]
        {
            assert_ne!(one, other);
        }
    }
}
