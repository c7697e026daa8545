//! The ACL rules of README.md, "Passwords and rights", read from there: nothing that monitors, APIs and replicas do is refused
//! under them, and none of them is idle.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use world::group::{Builder, Group, SETTLE_LIMIT};
use world::http::{Connection, Request};
use world::redis::{Redis, Settings};
use world::resp::Reply;
use world::rights::{API, MONITOR, REPLICA};
use world::{Host, programs, wait};

const LIMIT: Duration = Duration::from_secs(20);
/// The test's own user.
const ASKER: (&str, &str) = ("asker", "asks");
/// So many refusals are kept: all of them.
const LOG_LENGTH: &str = "acllog-max-len 10000";

fn password_of(user: &str) -> String {
    format!("password-of-{user}")
}

/// What a monitor and an API may do.
fn rules() -> [String; 2] {
    [MONITOR, API].map(|user| user.rule(&password_of(user.name)))
}

/// A group in which nobody but these users and the test gets in.
fn closed(replicas: usize, rules: &[String; 2]) -> Builder {
    let builder = Group::of(replicas).redis_closed(ASKER.0, ASKER.1).redis_line(LOG_LENGTH);
    let builder = rules.iter().fold(builder, |builder, rule| builder.redis_line(rule));
    let [monitor, api] = [MONITOR.name, API.name];
    builder
        .monitor_key("redis", "username", monitor)
        .monitor_key("redis", "password", password_of(monitor))
        .api_key("redis", "username", api)
        .api_key("redis", "password", password_of(api))
}

/// What a server has refused to our users, in words: `albireo-api may not `config|set` (command, toplevel)`.
fn refused(redis: &Redis) -> BTreeSet<String> {
    let Ok(Reply::List(entries)) = redis.try_cmd(&["ACL", "LOG", "10000"]) else { return BTreeSet::new() };
    let field = |entry: &Reply, name: &str| {
        let at = entry.list().iter().position(|item| matches!(item, Reply::Text(text) if text == name));
        at.map_or_else(String::new, |at| entry.list()[at + 1].text().to_owned())
    };
    let ours = entries.iter().filter(|entry| {
        let (user, reason) = (field(entry, "username"), field(entry, "reason"));
        // A credential of an earlier promotion is refused by design; a command never is.
        user.starts_with("albireo-") && !(user.starts_with("albireo-repl-") && reason == "auth")
    });
    let words = |entry: &Reply| {
        let [user, object, reason, context] =
            ["username", "object", "reason", "context"].map(|name| field(entry, name));
        format!("{user} may not `{object}` ({reason}, {context}) at {}", redis.endpoint())
    };
    ours.map(words).collect()
}

/// What was refused and what was called, on servers that live and on those that died meanwhile.
#[derive(Default)]
struct Seen {
    refused: BTreeSet<String>,
    called: BTreeSet<String>,
}

impl Seen {
    fn look(&mut self, redis: &Redis) {
        self.refused.append(&mut refused(redis));
        if let Ok(Reply::Text(stats)) = redis.try_cmd(&["INFO", "commandstats"]) {
            let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':'));
            self.called.extend(lines.map(|(name, _)| name.to_owned()));
        }
    }

    fn look_at_all(&mut self, group: &Group) {
        group.redis.iter().for_each(|redis| self.look(redis));
    }
}

/// Runs it; what was refused is told first, for it is why all else fails.
#[track_caller]
fn judged(group: &mut Group, seen: &mut Seen, scene: impl FnOnce(&mut Group, &mut Seen)) {
    let ended = catch_unwind(AssertUnwindSafe(|| scene(group, seen)));
    seen.look_at_all(group);
    assert!(seen.refused.is_empty(), "the rules of README.md do not suffice: {:#?}", seen.refused);
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
}

#[track_caller]
fn verb(group: &Group, verb: &str, words: &[&str]) {
    let file = group.monitors[0].file().display().to_string();
    let words = [&[verb, file.as_str()], words].concat();
    let (code, said) = programs::run("monitor", &words, LIMIT);
    assert_eq!(code, 0, "{words:?}: {said}");
}

/// Kills the primary under load and starts it again.
fn kill_the_primary(group: &mut Group, seen: &mut Seen) {
    let before = group.settled();
    let load = group.load();
    let old = group.primary();
    seen.look(&group.redis[old]);
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    group.redis[old].restart();
    let after = group.settled();
    assert_ne!(after.primary.addr, before.primary.addr);
    load.wait_for_writes(100, LIMIT);
    load.stop().assert_clean();
}

/// The requests of the API that the load does not make.
fn all_kinds_of_requests(group: &Group) {
    let mut api = Connection::open(&Host::local(), group.apis[0].http(), LIMIT).expect("a connection");
    for request in [
        Request::put("/api/v1/write/other?ttl_ms=60000", b"1"),
        Request::get("/api/v1/get/other"),
        Request::get("/api/v1/get/other?consistency=strong"),
        Request::get("/api/v1/get/other?from=secondary"),
    ] {
        let answer = api.call(request).expect("an answer");
        assert_eq!(answer.status, 200, "{}: {}", request.path, answer.text());
    }
}

fn everything(group: &mut Group, seen: &mut Seen) {
    group.seed();
    // An API alone routes by the announcement, before there is a record.
    group.add_api();
    wait::until("a write without a record", LIMIT, || {
        let answer =
            group.apis[0].call(Request::put("/api/v1/write/early", b"1")).map_err(|e| e.to_string())?;
        wait::holds(answer.status == 200, || answer.text())
    });
    let early = group.redis[0].user_keys();
    assert_eq!(early, 1);
    group.add_monitor();
    group.add_monitor();
    group.settled();
    group.ready();
    verb(group, "check", &[]);
    all_kinds_of_requests(group);
    kill_the_primary(group, seen);

    let load = group.load();
    verb(group, "switchover", &["posts"]);
    group.settled();
    verb(group, "failover", &["posts"]);
    group.settled();
    verb(group, "pause", &["posts"]);
    verb(group, "resume", &["posts"]);
    let more = rules().iter().fold(Settings::default(), |settings, rule| settings.line(rule));
    group.redis.push(more.line(LOG_LENGTH).closed(ASKER.0, ASKER.1).start());
    let newcomer = group.redis[3].endpoint().to_string();
    // An order that is given up after a look: UNWATCH.
    group.redis[3].cmd(&["SET", "precious", "1"]);
    verb(group, "add", &["posts", &newcomer]);
    wait::until("the new server is looked at", LIMIT, || {
        seen.look(&group.redis[3]);
        wait::holds(seen.called.contains("unwatch"), || "no UNWATCH".to_owned())
    });
    verb(group, "add", &["posts", &newcomer, "--overwrite"]);
    group.settled();
    verb(group, "remove", &["posts", &newcomer]);
    let gone = group.redis.remove(3);
    group.settled();
    seen.look(&gone);
    load.wait_for_writes(100, LIMIT);
    load.stop().assert_clean();
}

#[test]
fn the_rules_of_the_readme_suffice_and_none_is_idle() {
    let rules = rules();
    let mut group = closed(2, &rules).servers();
    let mut seen = Seen::default();
    judged(&mut group, &mut seen, everything);
    for rule in &rules {
        let allowed = rule.split_whitespace().filter_map(|word| word.strip_prefix('+'));
        let idle: Vec<_> = allowed.filter(|command| !seen.called.contains(*command)).collect();
        assert!(idle.is_empty(), "{idle:?} were never called: {rule}");
    }
}

/// With `restart_guard = off` there is no credential of a promotion, but the operator's own.
#[test]
fn the_rules_without_the_restart_guard_suffice() {
    let user = REPLICA.name;
    let mut group = closed(1, &rules())
        .redis_line(&REPLICA.rule(&password_of(user)))
        .redis_line(&format!("masteruser {user}"))
        .redis_line(&format!("masterauth {}", password_of(user)))
        .monitor_key("failover", "restart_guard", "off")
        .servers();
    judged(&mut group, &mut Seen::default(), |group, seen| {
        group.seed();
        group.add_monitor();
        group.add_monitor();
        group.add_api();
        group.settled();
        group.ready();
        kill_the_primary(group, seen);
    });
}

/// The check of this file itself: a rule that is missing is named.
#[test]
fn a_right_that_is_missing_is_named() {
    let [monitor, api] = rules();
    let poor = monitor.replace(" +config|set", "");
    assert_ne!(poor, monitor);
    let mut group = closed(1, &[poor, api]).servers();
    group.seed();
    group.add_monitor();
    let addr = group.redis[0].endpoint();
    wait::until("a refusal is told", SETTLE_LIMIT, || {
        let told: BTreeSet<String> = group.redis.iter().flat_map(refused).collect();
        let named = told.iter().any(|line| line.starts_with("albireo-monitor may not `config|set` (command"));
        wait::holds(named, || format!("{addr}: {told:?}"))
    });
}
