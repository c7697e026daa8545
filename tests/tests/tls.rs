//! TLS between everybody and the Redis servers, with an own CA and client certificates: the kill test passes as without, and what
//! does not fit is told in words.

use std::time::Duration;

use world::certificates::Certificates;
use world::group::Group;
use world::redis::Settings;
use world::{programs, wait};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn the_primary_dies_and_nothing_is_lost() {
    let certificates = Certificates::new();
    let mut group = Group::of(2).tls(&certificates).start();
    let before = group.settled();
    for redis in &group.redis {
        let encrypted = redis
            .cmd(&["CLIENT", "LIST"])
            .text()
            .lines()
            .filter(|line| line.contains("name=albireo"))
            .count();
        let port = format!("laddr={}", redis.known_as());
        let over_tls =
            redis.cmd(&["CLIENT", "LIST"]).text().lines().filter(|line| line.contains(&port)).count();
        assert!(encrypted >= 4 && over_tls >= encrypted, "{encrypted} of ours, {over_tls} by TLS");
    }
    let load = group.load();
    load.wait_for_writes(200, LIMIT);
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    load.wait_for_writes(200, LIMIT);
    group.redis[old].restart();
    group.settled();
    // Planned, and back.
    let file = group.monitors[0].file().display().to_string();
    wait::until("a switchover", LIMIT, || {
        let (code, said) = programs::run("monitor", &["switchover", &file, "posts"], LIMIT);
        wait::holds(code == 0, || said)
    });
    group.settled();
    load.wait_for_writes(100, LIMIT);
    load.stop().assert_clean();
    let (code, said) = programs::run("monitor", &["check", &file], LIMIT);
    assert_eq!(code, 0, "{said}");
}

/// `monitor check` with these keys of `[redis]` against one server.
#[track_caller]
fn check(group: &Group, keys: &[(&str, String)]) -> (i32, String) {
    let ini = keys.iter().fold(group.monitor_ini(0), |ini, (key, value)| ini.set("redis", key, value));
    let dir = world::WorkDir::new("check");
    let file = dir.join("monitor.ini");
    std::fs::write(&file, ini.text()).expect("a file");
    programs::run("monitor", &["check", &file.display().to_string()], LIMIT)
}

#[test]
fn what_does_not_fit_is_told() {
    let certificates = Certificates::new();
    let mut group = Group::of(0).monitors(0).apis(0).tls(&certificates).servers();
    group.seed();
    let addr = group.redis[0].endpoint().to_string();
    let file = |name: &str| certificates.text(name);
    let full =
        [("tls_ca", file("ca.pem")), ("tls_cert", file("client.pem")), ("tls_key", file("client.key"))];
    let with = |key: &'static str, value: String| [&full[..], &[(key, value)]].concat();

    let (code, said) = check(&group, &full);
    assert_eq!(code, 0, "{said}");
    let (code, said) = check(&group, &with("tls_ca", file("other-ca.pem")));
    assert!(
        code == 1 && said.contains(&addr) && said.contains("TLS: invalid peer certificate"),
        "{code}: {said}"
    );
    let (code, said) = check(&group, &with("tls", "off".to_owned()));
    assert!(code == 1 && said.contains(&addr), "{code}: {said}");
    // Signed by nobody whom the server knows.
    let stranger = [("tls_cert", file("other-ca.pem")), ("tls_key", file("other-ca.key"))];
    let (code, said) = check(&group, &[&full[..1], &stranger[..]].concat());
    assert!(code == 1 && said.contains("TLS: received fatal alert: UnknownCA"), "{code}: {said}");
    // The key of another certificate, and a file that is none.
    let (code, said) = check(&group, &with("tls_key", file("server.key")));
    assert!(code == 2 && said.contains("[redis] tls_key"), "{code}: {said}");
    let (code, said) = check(&group, &with("tls_ca", file("ca.key")));
    assert!(
        code == 2 && said.contains("[redis] tls_ca") && said.contains("no certificate in PEM"),
        "{code}: {said}"
    );
    // What speaks no TLS at all.
    let plain = Settings::default().start();
    group.redis[0] = plain;
    let path = group.path();
    let announced = format!(r#"{{"primary": "{}", "secondary": []}}"#, group.redis[0].endpoint());
    group.zookeeper.set(path.as_str(), &announced);
    let (code, said) = check(&group, &full);
    assert!(code == 1 && said.contains("does that port speak TLS?"), "{code}: {said}");
}
