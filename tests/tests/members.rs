//! What an operator asks for by the verbs of `monitor`: members more or less (R16), a failover, and a loss accepted.

use std::time::Duration;

use world::group::Group;
use world::http::Request;
use world::redis::Redis;
use world::{Host, programs, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// `monitor VERB FILE posts ...`: its exit code and what it printed.
fn verb(group: &Group, verb: &str, words: &[&str]) -> (i32, String) {
    let file = group.monitors[0].file().display().to_string();
    programs::run("monitor", &[&[verb, &file, "posts"], words].concat(), LIMIT)
}

#[track_caller]
fn done(group: &Group, verb: &str, words: &[&str]) -> String {
    let file = group.monitors[0].file().display().to_string();
    programs::run_well("monitor", &[&[verb, &file, "posts"], words].concat(), LIMIT)
}

/// The active monitor hears the member, and says this of it.
#[track_caller]
fn wait_for_word(group: &Group, addr: &str, word: &str) {
    let active = group.wait_for_active();
    wait::until("the status says why", LIMIT, || {
        let services = group.monitors[active].services();
        let members = services[0]["members"].as_array().cloned().unwrap_or_default();
        let member = members.into_iter().find(|member| member["addr"] == addr).unwrap_or_default();
        wait::holds(member["up"] == true && member["why"].to_string().contains(word), || member.to_string())
    });
}

#[test]
fn a_server_is_added_and_another_removed_under_load() {
    let mut group = Group::of(1).patient().start();
    let before = group.settled();
    assert_eq!(before.min_in_sync, 0);
    let load = group.load();
    load.wait_for_writes(100, LIMIT);
    group.redis.push(Redis::start());
    let newcomer = group.redis[2].endpoint().to_string();
    let said = done(&group, "add", &[&newcomer]);
    assert!(said.contains(&format!("{newcomer} is a member")), "{said}");
    let with = group.settled();
    assert_eq!((with.min_in_sync, with.members.len()), (1, 3));
    load.wait_for_writes(100, LIMIT);

    let leaving = 1 - group.primary();
    let addr = group.redis[leaving].endpoint().to_string();
    let said = done(&group, "remove", &[&addr]);
    assert!(said.contains("is no member any more, and follows nobody"), "{said}");
    let gone = group.redis.remove(leaving);
    let after = group.settled();
    assert_eq!((after.min_in_sync, after.members.len()), (0, 2));
    assert_eq!(gone.info("master_port"), "0");
    assert_eq!(gone.cmd(&["CONFIG", "GET", "masteruser"]).list()[1].text(), "");
    load.wait_for_writes(100, LIMIT);

    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(after.epoch, LIMIT);
    load.wait_for_writes(100, LIMIT);
    assert_eq!(group.state().primary.addr.to_string(), newcomer);
    load.stop().assert_clean();
    let what = |entry: &serde_json::Value| entry["what"].as_str().map(str::to_owned);
    let history: Vec<_> = group.history().iter().filter_map(what).collect();
    assert_eq!(history, ["failover", "member removed", "member added"]);
}

/// The second of two failovers waits for `min_interval_ms`, and says so meanwhile.
#[test]
fn long_work_says_what_it_waits_for() {
    let mut group = Group::of(1).apis(0).monitor_key("failover", "min_interval_ms", 4000).start();
    group.settled();
    done(&group, "failover", &[]);
    group.settled();
    let file = group.monitors[0].file().display().to_string();
    let mut again = programs::spawn(&Host::local(), "failover", "monitor", &["failover", &file, "posts"]);
    let said = again.wait_for_line(" s: ", LIMIT);
    assert!(said.starts_with("monitor failover: ") && said.contains("min_interval_ms"), "{said}");
    assert_eq!(again.wait_for_end(LIMIT).code(), Some(0), "{}", again.log());
    assert!(again.log().contains("is primary instead of"), "{}", again.log());
}

#[test]
fn a_failover_is_asked_for_under_load() {
    let mut group = Group::of(2).patient().start();
    let before = group.settled();
    let load = group.load();
    load.wait_for_writes(100, LIMIT);
    let to = before.in_sync[1].addr.to_string();
    let said = done(&group, "failover", &["--to", &to]);
    assert!(said.contains(&format!("{to} is primary instead of {}", before.primary.addr)), "{said}");
    assert!(said.contains("announced"), "the phases: {said}");
    load.wait_for_epoch_above(before.epoch, LIMIT);
    load.wait_for_writes(100, LIMIT);
    let after = group.settled();
    assert_eq!(after.primary.addr.to_string(), to);
    load.stop().assert_clean();

    let (code, said) = verb(&group, "failover", &["--to", "127.0.0.1:1"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("nobody may be promoted") && said.contains("(eligible)"), "{said}");
    let (code, said) = verb(&group, "remove", &[&to]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("is the primary"), "{said}");
    assert_eq!(group.state().epoch, after.epoch, "what is refused changes nothing");
}

/// The only replica was away when the last writes came; then the primary dies for good.
#[test]
fn a_loss_is_accepted_only_when_an_operator_says_so() {
    let mut group = Group::of(1).start();
    let before = group.settled();
    let old = group.primary();
    let load = group.load();
    load.wait_for_writes(50, LIMIT);
    group.redis[1 - old].cmd(&["SAVE"]);
    group.redis[1 - old].change(world::redis::Settings::replica_of_nobody);
    group.redis[1 - old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    load.wait_for_writes(50, LIMIT);
    load.stop().assert_clean();
    group.redis[old].kill();
    group.redis[1 - old].restart();
    group.redis[1 - old].wait_until_up();
    let stays = group.redis[1 - old].endpoint();
    wait_for_word(&group, &stays.to_string(), "not in sync");

    let (code, said) = verb(&group, "failover", &[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains(&format!("{stays} (not in sync)")), "{said}");
    let said = done(&group, "failover", &["--accept-loss"]);
    assert!(said.contains(&format!("{stays} is primary instead of")), "{said}");
    assert_eq!(group.state().primary.addr, stays);
    let load = group.load();
    load.wait_for_writes(50, LIMIT);
    load.stop().assert_clean();
    let why = group.history()[0]["why"].to_string();
    assert!(why.contains("loss accepted by an operator"), "{why}");
    // The dead one comes back with what was given up: it is a replica now.
    group.redis[old].restart();
    assert_eq!(group.settled().primary.addr, stays);
}

#[test]
fn a_server_with_data_of_its_own_is_added_only_to_be_overwritten() {
    let mut group = Group::of(1).start();
    group.settled();
    group.redis.push(Redis::start());
    group.redis[2].cmd(&["SET", "precious", "1"]);
    let addr = group.redis[2].endpoint().to_string();
    done(&group, "add", &[&addr]);
    wait_for_word(&group, &addr, "data of its own");
    assert_eq!(group.redis[2].cmd(&["GET", "precious"]).text(), "1");
    done(&group, "add", &[&addr, "--overwrite"]);
    group.settled();
    assert_eq!(group.redis[2].cmd(&["EXISTS", "precious"]).number(), 0);
}

#[test]
fn who_is_asked_and_who_may_ask() {
    let mut group = Group::of(1).monitor_key("admin", "token", "s3cret-token").start();
    group.settled();
    let active = group.wait_for_active();
    let ask = |monitor: usize, page: &str, token: Option<&str>| {
        let bearer = format!("Bearer {}", token.unwrap_or_default());
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(token.map(|_| ("authorization", bearer.as_str())));
        let request = Request { headers: &headers, ..Request::post(page, b"{}") };
        let answer = group.monitors[monitor].call(request).expect("an answer");
        (answer.status, answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let page = "/services/posts/failover";
    assert_eq!(ask(active, page, None), (401, "unauthorized".into()));
    assert_eq!(ask(active, page, Some("other")), (401, "unauthorized".into()));
    assert_eq!(ask(1 - active, page, Some("s3cret-token")), (409, "not_leading".into()));
    assert_eq!(ask(active, "/services/none/failover", Some("s3cret-token")), (404, "unknown_service".into()));
    assert_eq!(ask(active, "/services/posts/explode", Some("s3cret-token")), (404, "not_found".into()));
    // The verb reads the token from the file, and finds the one that leads from either.
    let file = group.monitors[1 - active].file().display().to_string();
    let (code, said) = programs::run("monitor", &["failover", &file, "posts"], LIMIT);
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("s3cret"), "{said}");
    let (code, said) = programs::run("monitor", &["failover", &file, "none"], LIMIT);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no service is called `none`"), "{said}");
    for words in [&["failover", &file][..], &["add", &file, "posts"], &["add", &file, "posts", "nonsense"]] {
        let (code, said) = programs::run("monitor", words, LIMIT);
        assert_eq!(code, 2, "{words:?}: {said}");
    }
    group.monitors.iter_mut().for_each(|monitor| monitor.process().kill());
    wait::until("nobody is there to be asked", LIMIT, || {
        let (code, said) = programs::run("monitor", &["failover", &file, "posts"], LIMIT);
        wait::holds(code == 1 && said.contains("is not there"), || format!("{code}: {said}"))
    });
}
