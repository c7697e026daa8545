//! From facts to replies: everything that does not depend on who asks. The fields of a reply, their order and their
//! words are those of Redis Sentinel, on which clients rely.

use std::time::Duration;

use failover::Time;
use topology::Endpoint;

use super::glob;
use super::protocol::Reply;
use crate::discovery::facts::{Facts, Fellow, Master, Replica, Service};

/// The version of Redis whose commands these are.
pub(super) const VERSION: &str = "7.0.15";
/// A failover needs one monitor, and ZooKeeper.
const QUORUM: usize = 1;

/// How long a question waits for certainty. Most promotions take some ten milliseconds, and clients that wait for a tenth of a
/// second only are not rare.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);

/// What a command of Sentinel comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Reply(Reply),
    /// `SENTINEL failover`: this service shall have another primary.
    Failover(String),
}

/// What clients may be told of a name. A driver that stands still knows nothing certain.
fn service<'a>(facts: &'a Facts, name: &[u8], now: Time) -> Option<(&'a str, &'a Service, &'a Master)> {
    let name = str::from_utf8(name).ok()?;
    let (name, service) = facts.services.get_key_value(name).filter(|_| facts.are_fresh(now))?;
    Some((name, service, service.shown()?))
}

fn is_a_name(facts: &Facts, name: &[u8]) -> bool {
    str::from_utf8(name).is_ok_and(|name| facts.services.contains_key(name))
}

fn no_such_master() -> Reply {
    Reply::error("ERR No such master with that name")
}

/// Whether what is asked for may be certain in a moment: this monitor stands still (for how long, it will not know before it goes
/// on), or it is in doubt only just now, as when another server is becoming primary. Older doubts are not waited for.
pub(super) fn is_in_doubt(facts: &Facts, arguments: &[Vec<u8>], now: Time) -> bool {
    let Some((subcommand, rest)) = arguments.split_first() else { return false };
    let young = |service: &Service| service.doubted.is_some_and(|since| now.saturating_sub(since) < PATIENCE);
    let watched = |name: &[u8]| facts.services.get(str::from_utf8(name).ok()?);
    match (quoted(subcommand).to_ascii_lowercase().as_str(), rest) {
        ("get-master-addr-by-name" | "master", [name]) => {
            watched(name).is_some_and(|service| !facts.are_fresh(now) || young(service))
        }
        ("replicas" | "slaves", [name]) => watched(name)
            .is_some_and(|service| !facts.are_fresh(now) || (service.shown().is_none() && young(service))),
        ("masters", []) => !facts.are_fresh(now) || facts.services.values().any(|service| young(service)),
        _ => false,
    }
}

/// `wrong number of arguments`, as clients look for it.
pub(super) fn wrong_number(command: &str) -> Reply {
    Reply::error(format!("ERR wrong number of arguments for '{command}' command"))
}

/// A word of a client, as it is shown in an error.
pub(super) fn quoted(word: &[u8]) -> String {
    String::from_utf8_lossy(&word[..word.len().min(128)]).into_owned()
}

/// `SENTINEL ...`
pub(super) fn sentinel(facts: &Facts, arguments: &[Vec<u8>], now: Time) -> Answer {
    let Some((subcommand, rest)) = arguments.split_first() else {
        return Answer::Reply(wrong_number("sentinel"));
    };
    let word = quoted(subcommand).to_ascii_lowercase();
    let reply = match (word.as_str(), rest) {
        ("get-master-addr-by-name", [name]) => get_master_addr(facts, name, now),
        ("masters", []) => masters(facts, now),
        ("master", [name]) => match service(facts, name, now) {
            Some((name, service, master)) => master_fields(facts, name, service, master, now),
            None => no_such_master(),
        },
        ("replicas" | "slaves", [name]) => match service(facts, name, now) {
            Some((_, service, _)) => {
                Reply::Array(service.replicas.iter().map(|r| replica_fields(facts, r, now)).collect())
            }
            None => no_such_master(),
        },
        ("sentinels", [name]) if is_a_name(facts, name) => {
            let all = facts.fellows.iter().chain([&facts.own]);
            Reply::Array(all.map(|fellow| fellow_fields(facts, fellow, now)).collect())
        }
        ("ckquorum", [name]) if is_a_name(facts, name) => quorum(facts, name, now),
        ("failover", [name]) if is_a_name(facts, name) => {
            return match service(facts, name, now) {
                Some((_, _, master)) if master.in_progress => Answer::Reply(in_progress()),
                Some((name, ..)) => Answer::Failover(name.to_owned()),
                None => Answer::Reply(Reply::error(
                    "NOGOODSLAVE this monitor does not know the primary for certain",
                )),
            };
        }
        ("sentinels" | "ckquorum" | "failover", [_]) => no_such_master(),
        ("myid", []) => Reply::bulk(facts.own.id.as_str()),
        ("reset", [pattern]) => {
            let matching = facts.services.keys().filter(|name| glob::matches(pattern, name.as_bytes()));
            Reply::Integer(matching.count() as i64)
        }
        ("is-master-down-by-addr", [ip, port, epoch, _]) => is_down(facts, ip, port, epoch, now),
        (
            "get-master-addr-by-name"
            | "masters"
            | "master"
            | "replicas"
            | "slaves"
            | "sentinels"
            | "ckquorum"
            | "failover"
            | "myid"
            | "reset"
            | "is-master-down-by-addr",
            _,
        ) => wrong_number(&format!("sentinel|{word}")),
        _ => Reply::error(format!("ERR unknown subcommand '{}'", quoted(subcommand))),
    };
    Answer::Reply(reply)
}

/// Another one is becoming primary already.
pub(super) fn in_progress() -> Reply {
    Reply::error("INPROG Failover already in progress")
}

fn get_master_addr(facts: &Facts, name: &[u8], now: Time) -> Reply {
    let named = service(facts, name, now).and_then(|(_, service, _)| service.primary());
    match named.map(|master| &master.addr) {
        Some(addr) => Reply::Array(vec![Reply::bulk(addr.host()), Reply::bulk(addr.port().to_string())]),
        None => Reply::NoArray,
    }
}

/// One that is not certain is left out: who looks for it goes on to the next endpoint.
fn masters(facts: &Facts, now: Time) -> Reply {
    let shown = facts.services.keys().filter_map(|name| service(facts, name.as_bytes(), now));
    Reply::Array(
        shown.map(|(name, service, master)| master_fields(facts, name, service, master, now)).collect(),
    )
}

fn quorum(facts: &Facts, name: &[u8], now: Time) -> Reply {
    let usable = 1 + facts.fellows.iter().filter(|fellow| fellow.up).count();
    match service(facts, name, now) {
        Some((_, service, _)) if service.store_answers => Reply::Simple(format!(
            "OK {usable} usable Sentinels. Quorum and failover authorization can be reached"
        )),
        Some(_) | None => Reply::error(format!(
            "NOQUORUM {usable} usable Sentinels. ZooKeeper does not answer, or has no record of this name"
        )),
    }
}

fn is_down(facts: &Facts, ip: &[u8], port: &[u8], epoch: &[u8], now: Time) -> Reply {
    let number = |word: &[u8]| str::from_utf8(word).ok().and_then(|word| word.parse::<i64>().ok());
    let (Some(port), Some(_)) = (number(port), number(epoch)) else {
        return Reply::error("ERR value is not an integer or out of range");
    };
    let down = facts
        .services
        .values()
        .filter(|_| facts.are_fresh(now))
        .filter_map(|service| service.shown())
        .any(|m| m.s_down && m.addr.host().as_bytes() == ip && i64::from(m.addr.port()) == port);
    Reply::Array(vec![Reply::Integer(i64::from(down)), Reply::bulk("*"), Reply::Integer(0)])
}

/// `ROLE`
pub(super) fn role(facts: &Facts) -> Reply {
    let names = facts.services.keys().map(|name| Reply::bulk(name.as_str())).collect();
    Reply::Array(vec![Reply::bulk("sentinel"), Reply::Array(names)])
}

/// `INFO`, of these sections or of all.
pub(super) fn info(facts: &Facts, sections: &[Vec<u8>], now: Time) -> Reply {
    let wanted = |section: &str| {
        let all = ["all", "default", "everything"];
        let is = |word: &Vec<u8>, name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        sections.is_empty()
            || sections.iter().any(|word| is(word, section) || all.iter().any(|all| is(word, all)))
    };
    let mut text = String::new();
    if wanted("server") {
        text += &format!(
            "# Server\r\nredis_version:{VERSION}\r\nredis_mode:sentinel\r\nalbireo_version:{}\r\nrun_id:{}\r\n\
             tcp_port:{}\r\nuptime_in_seconds:{}\r\n",
            env!("CARGO_PKG_VERSION"),
            facts.own.id,
            facts.own.addr.port(),
            now.as_secs()
        );
    }
    if wanted("sentinel") {
        text += if text.is_empty() { "" } else { "\r\n" };
        text += &info_sentinel(facts, now);
    }
    Reply::bulk(text)
}

fn info_sentinel(facts: &Facts, now: Time) -> String {
    let mut text = format!(
        "# Sentinel\r\nsentinel_masters:{}\r\nsentinel_tilt:0\r\nsentinel_running_scripts:0\r\n",
        facts.services.len()
    );
    let sentinels = 1 + facts.fellows.len();
    for (number, name) in facts.services.keys().enumerate() {
        let (status, address, slaves) = match service(facts, name.as_bytes(), now) {
            Some((_, service, master)) => {
                let status = match (master.o_down, master.s_down) {
                    (true, _) => "odown",
                    (false, true) => "sdown",
                    (false, false) => "ok",
                };
                (status, master.addr.to_string(), service.replicas.len())
            }
            None => ("unknown", ":0".to_owned(), 0),
        };
        text += &format!(
            "master{number}:name={name},status={status},address={address},slaves={slaves},sentinels={sentinels}\r\n"
        );
    }
    text
}

/// A field list as it grows.
struct Fields(Vec<(Reply, Reply)>);

impl Fields {
    /// The first five, which some clients read by their position.
    fn begin(name: &str, addr: &Endpoint, run_id: &str, flags: &str) -> Self {
        let mut fields = Self(Vec::new());
        fields.add("name", name);
        fields.add("ip", addr.host());
        fields.add("port", addr.port());
        fields.add("runid", run_id);
        fields.add("flags", flags);
        fields
    }

    fn add(&mut self, name: &str, value: impl ToString) {
        self.0.push((Reply::bulk(name), Reply::bulk(value.to_string())));
    }

    /// What is known of the connection there. A ping is under way while the server is down.
    fn link(&mut self, facts: &Facts, heard: Duration, down: bool) {
        self.add("link-pending-commands", u8::from(down));
        self.add("link-refcount", 1);
        self.add("last-ping-sent", if down { heard.as_millis() } else { 0 });
        self.add("last-ok-ping-reply", heard.as_millis());
        self.add("last-ping-reply", heard.as_millis());
        self.add("down-after-milliseconds", facts.down_after.as_millis());
    }
}

fn flags(first: &str, further: &[(bool, &str)]) -> String {
    let further = further.iter().filter(|(set, _)| *set).map(|(_, word)| *word);
    [first].into_iter().chain(further).collect::<Vec<_>>().join(",")
}

fn master_fields(facts: &Facts, name: &str, service: &Service, master: &Master, now: Time) -> Reply {
    let since = |at: Time| now.saturating_sub(at);
    let flags = flags(
        "master",
        &[
            (master.s_down, "s_down"),
            (master.o_down, "o_down"),
            (master.disconnected, "disconnected"),
            (master.in_progress, "failover_in_progress"),
        ],
    );
    let mut fields = Fields::begin(name, &master.addr, &master.run_id, &flags);
    fields.link(facts, since(master.times.heard), master.s_down);
    fields.add("info-refresh", since(master.times.looked).as_millis());
    fields.add("role-reported", "master");
    fields.add("role-reported-time", since(master.times.role).as_millis());
    fields.add("config-epoch", service.epoch);
    fields.add("num-slaves", service.replicas.len());
    fields.add("num-other-sentinels", facts.fellows.len());
    fields.add("quorum", QUORUM);
    fields.add("failover-timeout", failover::request::LIMIT.as_millis());
    fields.add("parallel-syncs", service.replicas.len().max(1));
    Reply::Map(fields.0)
}

fn replica_fields(facts: &Facts, replica: &Replica, now: Time) -> Reply {
    let since = |at: Time| now.saturating_sub(at);
    let flags = flags("slave", &[(!replica.usable, "s_down"), (replica.disconnected, "disconnected")]);
    let mut fields = Fields::begin(&replica.addr.to_string(), &replica.addr, &replica.run_id, &flags);
    fields.link(facts, since(replica.times.heard), replica.disconnected);
    fields.add("info-refresh", since(replica.times.looked).as_millis());
    fields.add("role-reported", if replica.is_primary { "master" } else { "slave" });
    fields.add("role-reported-time", since(replica.times.role).as_millis());
    let down_time = replica.link_down_since.filter(|_| !replica.link_up).map(since).unwrap_or_default();
    fields.add("master-link-down-time", down_time.as_millis());
    fields.add("master-link-status", if replica.link_up { "ok" } else { "err" });
    fields.add("master-host", replica.source.as_ref().map_or("?", Endpoint::host));
    fields.add("master-port", replica.source.as_ref().map_or(0, Endpoint::port));
    fields.add("slave-priority", replica.priority);
    fields.add("slave-repl-offset", replica.offset);
    fields.add("replica-announced", 1);
    Reply::Map(fields.0)
}

fn fellow_fields(facts: &Facts, fellow: &Fellow, now: Time) -> Reply {
    let heard = if fellow.up { Duration::ZERO } else { now.saturating_sub(fellow.heard) };
    let flags = flags("sentinel", &[(!fellow.up, "s_down"), (!fellow.up, "disconnected")]);
    let mut fields = Fields::begin(&fellow.id, &fellow.addr, &fellow.id, &flags);
    fields.link(facts, heard, !fellow.up);
    fields.add("last-hello-message", heard.as_millis());
    fields.add("voted-leader", "?");
    fields.add("voted-leader-epoch", 0);
    Reply::Map(fields.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::facts::examples::{changed, facts, fellow};

    const NOW: Time = Time::from_secs(10);

    fn ask(facts: &Facts, words: &str) -> Reply {
        let words: Vec<Vec<u8>> = words.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        match sentinel(facts, &words, NOW) {
            Answer::Reply(reply) => reply,
            Answer::Failover(name) => Reply::Simple(format!("failover of {name}")),
        }
    }

    /// `name=value ...` of a field list.
    fn shown(reply: &Reply) -> String {
        let Reply::Map(fields) = reply else { panic!("{reply:?}") };
        let text = |reply: &Reply| {
            let Reply::Bulk(bytes) = reply else { panic!("{reply:?}") };
            String::from_utf8(bytes.clone()).unwrap()
        };
        fields.iter().map(|(name, value)| text(name) + "=" + &text(value)).collect::<Vec<_>>().join(" ")
    }

    fn list(reply: &Reply) -> Vec<String> {
        let Reply::Array(list) = reply else { panic!("{reply:?}") };
        list.iter().map(shown).collect()
    }

    const MASTER: &str = "name=posts ip=10.0.0.1 port=6379 runid=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa flags=master \
        link-pending-commands=0 link-refcount=1 last-ping-sent=0 last-ok-ping-reply=10 last-ping-reply=10 \
        down-after-milliseconds=500 info-refresh=100 role-reported=master role-reported-time=9000 config-epoch=7 \
        num-slaves=2 num-other-sentinels=1 quorum=1 failover-timeout=10000 parallel-syncs=2";

    #[test]
    fn the_master_field_by_field() {
        assert_eq!(shown(&ask(&facts(), "master posts")), MASTER);
        assert_eq!(list(&ask(&facts(), "MASTERS")), [MASTER]);
    }

    #[test]
    fn replicas_field_by_field() {
        let mut facts = facts();
        let replicas = &mut changed(&mut facts, "posts").replicas;
        let dead = &mut replicas[1];
        (dead.usable, dead.disconnected, dead.link_up, dead.source) = (false, true, false, None);
        dead.link_down_since = Some(Time::from_secs(4));
        let common =
            "down-after-milliseconds=500 info-refresh=100 role-reported=slave role-reported-time=8000";
        let first = format!(
            "name=10.0.0.1:6380 ip=10.0.0.1 port=6380 runid={} flags=slave link-pending-commands=0 link-refcount=1 \
             last-ping-sent=0 last-ok-ping-reply=10 last-ping-reply=10 {common} master-link-down-time=0 \
             master-link-status=ok master-host=10.0.0.1 master-port=6379 slave-priority=100 slave-repl-offset=4711 \
             replica-announced=1",
            "b".repeat(40)
        );
        let second = format!(
            "name=10.0.0.1:6381 ip=10.0.0.1 port=6381 runid={} flags=slave,s_down,disconnected \
             link-pending-commands=1 link-refcount=1 last-ping-sent=10 last-ok-ping-reply=10 last-ping-reply=10 \
             {common} master-link-down-time=6000 master-link-status=err master-host=? master-port=0 \
             slave-priority=100 slave-repl-offset=4711 replica-announced=1",
            "b".repeat(40)
        );
        assert_eq!(list(&ask(&facts, "replicas posts")), [first, second]);
        assert_eq!(ask(&facts, "slaves posts"), ask(&facts, "replicas posts"));
    }

    #[test]
    fn endpoints_field_by_field_this_one_among_them() {
        let mut facts = facts();
        let line = |number: u16, flags: &str, down: u8, age: u16| {
            let id = format!("{number:040x}");
            format!(
                "name={id} ip=10.0.0.1 port={} runid={id} flags={flags} link-pending-commands={down} link-refcount=1 \
                 last-ping-sent={age} last-ok-ping-reply={age} last-ping-reply={age} down-after-milliseconds=500 \
                 last-hello-message={age} voted-leader=? voted-leader-epoch=0",
                26000 + number
            )
        };
        let own = line(1, "sentinel", 0, 0);
        assert_eq!(list(&ask(&facts, "sentinels posts")), [line(2, "sentinel", 0, 0), own.clone()]);
        facts.fellows = vec![fellow(2, false)];
        let dead = line(2, "sentinel,s_down,disconnected", 1, 1000);
        assert_eq!(list(&ask(&facts, "sentinels posts")), [dead, own]);
    }

    #[test]
    fn flags_of_the_master() {
        let change = |change: fn(&mut Master)| {
            let mut facts = facts();
            change(changed(&mut facts, "posts").master.as_mut().unwrap());
            let shown = shown(&ask(&facts, "master posts"));
            let flags = shown.split(' ').find_map(|field| field.strip_prefix("flags=")).unwrap().to_owned();
            (flags, ask(&facts, "get-master-addr-by-name posts") == Reply::NoArray)
        };
        let flags = |text: &str, nobody| (text.to_owned(), nobody);
        assert_eq!(change(|m| m.s_down = true), flags("master,s_down", false));
        let lost = |m: &mut Master| (m.s_down, m.o_down, m.disconnected) = (true, true, true);
        assert_eq!(change(lost), flags("master,s_down,o_down,disconnected", false));
        let promoting = |m: &mut Master| (m.s_down, m.o_down, m.in_progress) = (true, true, true);
        assert_eq!(change(promoting), flags("master,s_down,o_down,failover_in_progress", true));
        let other = |m: &mut Master| (m.s_down, m.contradicted) = (true, true);
        assert_eq!(change(other), flags("master,s_down", true));
    }

    #[test]
    fn where_the_primary_is() {
        let here = Reply::Array(vec![Reply::bulk("10.0.0.1"), Reply::bulk("6379")]);
        assert_eq!(ask(&facts(), "Get-Master-Addr-By-Name posts"), here);
        for name in ["other", "Posts", "posts2", ""] {
            assert_eq!(ask(&facts(), &format!("get-master-addr-by-name {name}")), Reply::NoArray, "{name}");
        }
    }

    #[test]
    fn one_that_is_not_certain_names_nobody() {
        let mut uncertain = facts();
        changed(&mut uncertain, "posts").known = false;
        let mut stale = facts();
        stale.turned = Time::from_secs(9);
        for facts in [uncertain, stale] {
            assert_eq!(ask(&facts, "get-master-addr-by-name posts"), Reply::NoArray);
            assert_eq!(ask(&facts, "masters"), Reply::Array(Vec::new()));
            for command in ["master posts", "replicas posts", "slaves posts"] {
                assert_eq!(ask(&facts, command), no_such_master(), "{command}");
            }
            assert_eq!(list(&ask(&facts, "sentinels posts")).len(), 2);
            let errors = ["ckquorum posts", "failover posts"].map(|command| ask(&facts, command));
            assert!(matches!(&errors[0], Reply::Error(text) if text.starts_with("NOQUORUM")));
            assert!(matches!(&errors[1], Reply::Error(text) if text.starts_with("NOGOODSLAVE")));
            let Reply::Bulk(text) = info(&facts, &[], NOW) else { panic!() };
            assert!(!String::from_utf8(text).unwrap().contains("6379"));
        }
    }

    /// Only what may be certain in a moment is worth waiting for.
    #[test]
    fn what_is_in_doubt() {
        let waits = |facts: &Facts, words: &str| {
            let words: Vec<Vec<u8>> = words.split(' ').map(|word| word.as_bytes().to_vec()).collect();
            is_in_doubt(facts, &words, NOW)
        };
        let with = |change: fn(&mut Service), since: Time| {
            let mut facts = facts();
            let service = changed(&mut facts, "posts");
            change(service);
            service.doubted = Some(since);
            facts
        };
        let unknown = |service: &mut Service| service.known = false;
        let promoting = |service: &mut Service| service.master.as_mut().unwrap().in_progress = true;
        let (just_now, for_long) = (Time::from_millis(9975), Time::from_millis(9950));
        let mut stale = facts();
        stale.turned = Time::from_secs(9);
        let all = [facts(), stale, with(unknown, just_now), with(promoting, just_now)];
        let old = [with(unknown, for_long), with(promoting, for_long)];
        for (words, expected) in [
            // When all is well, it stood still, nothing is certain, another one is becoming primary.
            ("get-master-addr-by-name posts", [false, true, true, true]),
            ("Master posts", [false, true, true, true]),
            ("replicas posts", [false, true, true, false]),
            ("slaves posts", [false, true, true, false]),
            ("masters", [false, true, true, true]),
            ("get-master-addr-by-name other", [false; 4]),
            ("replicas other", [false; 4]),
            ("get-master-addr-by-name", [false; 4]),
            ("sentinels posts", [false; 4]),
            ("failover posts", [false; 4]),
        ] {
            assert_eq!(all.each_ref().map(|facts| waits(facts, words)), expected, "{words}");
            assert!(!old.iter().any(|facts| waits(facts, words)), "{words}");
        }
    }

    #[test]
    fn unknown_names() {
        for command in ["master", "replicas", "slaves", "sentinels", "ckquorum", "failover"] {
            for name in ["other", "POSTS"] {
                let reply = ask(&facts(), &format!("{command} {name}"));
                assert_eq!(reply, Reply::error("ERR No such master with that name"), "{command} {name}");
            }
        }
    }

    #[test]
    fn the_rest_of_the_commands() {
        let text = |reply: Reply| {
            let mut out = Vec::new();
            reply.write(false, &mut out);
            String::from_utf8(out).unwrap().trim_end().to_owned()
        };
        for (words, expected) in [
            ("ckquorum posts", "+OK 2 usable Sentinels. Quorum and failover authorization can be reached"),
            ("myid", "$40\r\n0000000000000000000000000000000000000001"),
            ("reset *", ":1"),
            ("reset p?sts", ":1"),
            ("reset x*", ":0"),
            ("failover posts", "+failover of posts"),
            ("is-master-down-by-addr 10.0.0.1 x 0 *", "-ERR value is not an integer or out of range"),
            ("nonsense", "-ERR unknown subcommand 'nonsense'"),
            ("nonsense with words", "-ERR unknown subcommand 'nonsense'"),
            ("master", "-ERR wrong number of arguments for 'sentinel|master' command"),
            ("MASTERS x", "-ERR wrong number of arguments for 'sentinel|masters' command"),
            (
                "get-master-addr-by-name a b",
                "-ERR wrong number of arguments for 'sentinel|get-master-addr-by-name' command",
            ),
            ("myid x", "-ERR wrong number of arguments for 'sentinel|myid' command"),
        ] {
            assert_eq!(text(ask(&facts(), words)), expected, "{words}");
        }
        assert_eq!(sentinel(&facts(), &[], NOW), Answer::Reply(wrong_number("sentinel")));
        let down = |down| Reply::Array(vec![Reply::Integer(down), Reply::bulk("*"), Reply::Integer(0)]);
        let mut facts = facts();
        assert_eq!(ask(&facts, "is-master-down-by-addr 10.0.0.1 6379 0 *"), down(0));
        let master = changed(&mut facts, "posts").master.as_mut().unwrap();
        (master.s_down, master.in_progress) = (true, true);
        assert_eq!(ask(&facts, "is-master-down-by-addr 10.0.0.1 6379 0 *"), down(1));
        assert_eq!(ask(&facts, "is-master-down-by-addr 10.0.0.1 6380 0 *"), down(0));
        assert_eq!(ask(&facts, "failover posts"), in_progress());
    }

    #[test]
    fn role_and_info() {
        let names = Reply::Array(vec![Reply::bulk("posts")]);
        assert_eq!(role(&facts()), Reply::Array(vec![Reply::bulk("sentinel"), names]));
        let text = |sections: &[&str]| {
            let sections: Vec<Vec<u8>> = sections.iter().map(|section| section.as_bytes().to_vec()).collect();
            let Reply::Bulk(text) = info(&facts(), &sections, NOW) else { panic!() };
            String::from_utf8(text).unwrap()
        };
        let master = "master0:name=posts,status=ok,address=10.0.0.1:6379,slaves=2,sentinels=2\r\n";
        let sentinel = text(&["SENTINEL"]);
        assert!(
            sentinel.starts_with("# Sentinel\r\nsentinel_masters:1\r\n") && sentinel.ends_with(master),
            "{sentinel}"
        );
        let server = text(&["server"]);
        assert!(
            server.contains("redis_version:7") && server.contains("\r\nredis_mode:sentinel\r\n"),
            "{server}"
        );
        assert!(!server.contains("master0"));
        assert_eq!(text(&[]), format!("{server}\r\n{sentinel}"));
        assert_eq!(text(&["all"]), text(&[]));
        assert_eq!(text(&["keyspace"]), "");
    }
}
