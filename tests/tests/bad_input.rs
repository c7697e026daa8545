//! Wrong files, wrong arguments, an unreachable store, and znodes that hold something else: a clear message each, the
//! exit codes of the contract, and the last good topology stays.

use std::fs;
use std::time::Duration;

use world::group::{Group, SETTLE_LIMIT};
use world::http::Request;
use world::programs::{self, Ini, Launch, Program};
use world::zookeeper::ZooKeeper;
use world::{Host, WorkDir, ports, wait};

const LIMIT: Duration = Duration::from_secs(20);
/// What makes a file complete but for the key in question.
const STORE: &str = "[zookeeper]\nhosts = 127.0.0.1:1\npath = /a\n";

/// Runs a program on a file with this text: exit code and output.
fn run_with(program: &str, text: &str) -> (i32, String) {
    let dir = WorkDir::new("bad-input");
    let file = dir.join("bad.ini");
    fs::write(&file, text).expect("written");
    let file = file.display().to_string();
    programs::run(program, &[&file], LIMIT)
}

/// Every key that has a form, with a value that has it not; the line number is that of the key.
const WRONG_VALUES: [(&str, &str, &str); 39] = [
    ("zookeeper", "hosts", "nowhere:port"),
    ("zookeeper", "hosts", "nowhere"),
    ("zookeeper", "path", "no/slash"),
    ("zookeeper", "discover", "/"),
    ("zookeeper", "state_root", "relative"),
    ("zookeeper", "session_timeout_ms", "soon"),
    ("zookeeper", "auth", "nocolon"),
    ("binary_star", "role", "leader"),
    ("binary_star", "bind", "127.0.0.1:5003"),
    ("binary_star", "peer", "tcp://nowhere"),
    ("binary_star", "voter", "udp://127.0.0.1:1"),
    ("binary_star", "heartbeat_ms", "0"),
    ("binary_star", "key_file", "/nowhere/key"),
    ("detector", "ping_interval_ms", "-1"),
    ("detector", "down_after_ms", "0"),
    ("detector", "connect_timeout_ms", "fast"),
    ("detector", "refused_grace_ms", "1.5"),
    ("failover", "min_in_sync", "many"),
    ("failover", "attach_timeout_ms", "x"),
    ("failover", "max_lag_bytes", "1MB"),
    ("failover", "priority.127.0.0.1:1", "high"),
    ("failover", "priority.nowhere", "1"),
    ("failover", "restart_guard", "perhaps"),
    ("failover", "switchover_budget_ms", "x"),
    ("failover", "mass_failure_percent", "101"),
    ("failover", "cold_start", "guess"),
    ("failover", "cold_wait_ms", "x"),
    ("failover", "min_interval_ms", "x"),
    ("redis", "password", "file:/nowhere/password"),
    ("admin", "listen", "8001"),
    ("admin", "announce", "nowhere"),
    ("admin", "token", "file:/nowhere/token"),
    ("sentinel", "listen", "x"),
    ("dns", "listen", "x"),
    ("dns", "ttl", "x"),
    ("hooks", "timeout_ms", "x"),
    ("hooks", "webhook", "nowhere"),
    ("log", "level", "loud"),
    ("log", "format", "xml"),
];

#[test]
fn a_wrong_value_is_named_with_file_line_section_and_key() {
    for (section, key, value) in WRONG_VALUES {
        let text = match section {
            "zookeeper" => format!("\n[zookeeper]\n{key} = {value}\n{}", rest_of_store(key)),
            "binary_star" if key == "peer" => {
                format!("\n[{section}]\n{key} = {value}\nrole = primary\n{STORE}")
            }
            _ => format!("\n[{section}]\n{key} = {value}\n{STORE}"),
        };
        let (code, printed) = run_with("monitor", &text);
        assert_eq!(code, 2, "[{section}] {key} = {value}: {printed}");
        let expected = format!("bad.ini:3: [{section}] {key} = {}", shown(key, value));
        assert!(printed.contains(&expected), "`{expected}` is not in: {printed}");
        assert_eq!(printed.lines().count(), 1, "one line: {printed}");
    }
}

/// A secret is not repeated.
fn shown<'a>(key: &str, value: &'a str) -> &'a str {
    if matches!(key, "auth" | "password" | "token" | "webhook") { "***" } else { value }
}

fn rest_of_store(but: &str) -> String {
    let lines = [("hosts", "127.0.0.1:1"), ("path", "/a")];
    lines.iter().filter(|(key, _)| *key != but).map(|(key, value)| format!("{key} = {value}\n")).collect()
}

#[test]
fn a_wrong_value_of_the_api_is_named() {
    for (section, key, value) in [
        ("api", "listen", "7001"),
        ("api", "durability", "perhaps"),
        ("api", "deadline_ms", "0"),
        ("api", "max_value_bytes", "1MB"),
        ("api", "max_in_flight", "many"),
        ("log", "level", "loud"),
    ] {
        let (code, printed) = run_with("api", &format!("\n[{section}]\n{key} = {value}\n{STORE}"));
        assert_eq!(code, 2, "[{section}] {key} = {value}: {printed}");
        let expected = format!("bad.ini:3: [{section}] {key} = {value}");
        assert!(printed.contains(&expected), "`{expected}` is not in: {printed}");
    }
}

#[test]
fn unknown_and_double_and_missing_things_are_named() {
    for (text, expected) in [
        (format!("{STORE}[nowhere]\n"), "bad.ini:4: [nowhere]"),
        (format!("{STORE}[detector]\nping_ms = 1\n"), "bad.ini:5: [detector] ping_ms = 1"),
        (format!("{STORE}path = /b\n"), "bad.ini:4: [zookeeper] path = /b"),
        (format!("{STORE}no key\n"), "bad.ini:4:"),
        ("hosts = 127.0.0.1:1\n".to_owned(), "bad.ini:1:"),
        ("[zookeeper]\nhosts = 127.0.0.1:1\n".to_owned(), "path"),
    ] {
        for program in ["monitor", "api"] {
            let (code, printed) = run_with(program, &text);
            assert_eq!(code, 2, "{program}: {text}: {printed}");
            assert!(printed.contains(expected), "{program}: `{expected}` is not in: {printed}");
        }
    }
}

#[test]
fn a_missing_file_and_wrong_arguments_are_usage() {
    for program in ["monitor", "api"] {
        let (code, printed) = programs::run(program, &["/nowhere/at/all.ini"], LIMIT);
        assert_eq!(code, 2, "{program}: {printed}");
        assert!(printed.contains("/nowhere/at/all.ini"), "{printed}");
    }
    for program in ["monitor", "api", "zoo-setup"] {
        let (code, printed) = programs::run(program, &["--nonsense"], LIMIT);
        assert_eq!(code, 2, "{program}: {printed}");
        for flag in ["--help", "--version"] {
            let (code, printed) = programs::run(program, &[flag], LIMIT);
            assert_eq!(code, 0, "{program} {flag}: {printed}");
            assert!(!printed.is_empty());
        }
    }
}

/// Programs that serve wait; what is run by hand gives up.
#[test]
fn an_unreachable_zookeeper_is_waited_for_by_servers_only() {
    let nowhere = Host::local().at(ports::free());
    let (code, printed) = programs::run("zoo-setup", &["--hosts", &nowhere.to_string()], LIMIT);
    assert_eq!(code, 1, "{printed}");
    assert!(printed.contains(&nowhere.to_string()), "{printed}");

    let host = Host::local();
    for kind in ["monitor", "api"] {
        let listen = host.at(ports::free());
        let section = if kind == "monitor" { "admin" } else { "api" };
        let ini = Ini::new()
            .set("zookeeper", "hosts", nowhere)
            .set("zookeeper", "path", "/a")
            .set(section, "listen", listen);
        let launch = Launch { kind, name: kind, host: &host, ini: &ini, env: &[], http: listen };
        let mut program = Program::start(&launch);
        wait::until("liveness", LIMIT, || {
            let answer = program.call(Request::get("/healthz")).map_err(|e| e.to_string())?;
            wait::holds(answer.status == 200, || answer.text())
        });
        let ready = program.get("/readyz");
        assert_eq!(ready.status, 503, "{}", ready.text());
        assert!(program.process().is_running());
        let ended = program.process().terminate(LIMIT);
        assert_eq!(ended.and_then(|status| status.code()), Some(0), "{kind} does not end on SIGTERM");
    }
}

/// What stands in `<path>` before anybody seeded it is waited for, and never taken for an order.
#[test]
fn a_znode_that_is_missing_empty_or_foreign_is_waited_for() {
    let mut group = Group::of(1).servers();
    let path = group.path().to_string();
    group.add_monitor();
    group.add_monitor();
    group.wait_for_active();
    let quiet = |group: &Group, what: &str| {
        wait::never(what, Duration::from_secs(1), || match group.try_state() {
            Ok(state) => Err(format!("{state:?}")),
            Err(_) => Ok(()),
        });
    };
    quiet(&group, "a birth without a seed");
    group.zookeeper.create(&path, "");
    quiet(&group, "a birth from an empty znode");
    for content in ["not json", "[]", r#"{"primary": "nowhere", "secondary": []}"#, r#"{"leader": 1}"#] {
        group.zookeeper.set(&path, content);
        let active = group.wait_for_active();
        group.monitors[active].process().wait_for_line("WARN", LIMIT);
        quiet(&group, content);
    }
    let members = group.members();
    let good = format!(r#"{{"primary": "{}", "secondary": ["{}"]}}"#, members[0], members[1]);
    group.zookeeper.set(&path, &good);
    group.settled();
}

/// The last good topology stays in force; the content is told about.
#[test]
fn a_broken_announcement_moves_no_traffic() {
    let mut group = Group::of(1).start();
    let before = group.state();
    let path = group.path().to_string();
    let load = group.load();
    for content in ["", "not json", r#"{"primary": "x"}"#, "\u{0}\u{1}"] {
        group.zookeeper.set(&path, content);
        load.wait_for_writes(100, LIMIT);
        let now = group.state();
        assert_eq!((now.promoted, &now.primary), (before.promoted, &before.primary), "{content:?}");
    }
    group.zookeeper.delete(&path);
    load.wait_for_writes(100, LIMIT);
    let now = group.state();
    assert_eq!((now.promoted, &now.primary), (before.promoted, &before.primary), "deleted");
    let active = group.wait_for_active();
    group.monitors[active].process().wait_for_line("last good", LIMIT);
    load.stop().assert_clean();
}

/// The same for the record itself: a foreign one is no order to anybody.
#[test]
fn a_broken_record_moves_no_traffic() {
    let mut group = Group::of(1).start();
    let before = group.state();
    let path = group.layout().state(&group.path());
    let load = group.load();
    for content in ["", "not json", "{}"] {
        group.zookeeper.set(&path, content);
        load.wait_for_writes(100, LIMIT);
    }
    let active = group.wait_for_active();
    group.monitors[active].process().wait_for_line("last good", LIMIT);
    group.zookeeper.set(&path, &before.to_json());
    let after = group.settled();
    assert_eq!((after.promoted, &after.primary), (before.promoted, &before.primary));
    load.stop().assert_clean();
}

/// A hand edit that only reorders or drops replicas is put back; the primary is not touched.
#[test]
fn replicas_edited_by_hand_are_put_back() {
    let mut group = Group::of(2).start();
    let before = group.state();
    let load = group.load();
    let path = group.path().to_string();
    group.zookeeper.set(&path, &format!(r#"{{"primary": "{}", "secondary": []}}"#, before.primary.addr));
    let after = group.settled();
    assert_eq!((after.promoted, &after.primary), (before.promoted, &before.primary));
    let active = group.wait_for_active();
    group.monitors[active].process().wait_for_line("monitor add", SETTLE_LIMIT);
    load.stop().assert_clean();
}

/// `zoo-setup`: the same content again is fine, other content is refused unless forced.
#[test]
fn zoo_setup_overwrites_nothing_by_itself() {
    let zookeeper = ZooKeeper::start();
    let hosts = zookeeper.hosts();
    let run = |more: &[&str]| {
        let mut arguments = vec!["--hosts", &hosts, "--path", "/a/b"];
        arguments.extend(more);
        programs::run("zoo-setup", &arguments, LIMIT)
    };
    let (first, other) = (["--primary", "127.0.0.1:1"], ["--primary", "127.0.0.1:2"]);
    assert_eq!(run(&first).0, 0);
    let content = zookeeper.get("/a/b").map(|znode| znode.text());
    let expected = r#"{"primary": "127.0.0.1:1", "secondary": ["127.0.0.1:6380"]}"#;
    assert_eq!(content.as_deref(), Some(expected));
    assert_eq!(run(&first).0, 0);
    let (code, printed) = run(&other);
    assert_eq!(code, 3, "{printed}");
    assert!(printed.contains("127.0.0.1:1"), "it does not print what is there: {printed}");
    assert_eq!(zookeeper.get("/a/b").map(|znode| znode.text()), content);
    assert_eq!(run(&[&other[..], &["--force", "--secondary"]].concat()).0, 0);
    let forced = zookeeper.get("/a/b").map(|znode| znode.text());
    assert_eq!(forced.as_deref(), Some(r#"{"primary": "127.0.0.1:2", "secondary": []}"#));
    assert_eq!(zookeeper.children("/albireo"), Vec::<String>::new(), "no record");
}
