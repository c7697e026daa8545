//! TLS between all programs and ZooKeeper, with an own CA and client certificates: the kill test passes as without, what does
//! not fit is told in words, and nothing ever goes out unencrypted.

use std::io::Read;
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use world::certificates::Certificates;
use world::group::Group;
use world::programs::{self, Ini};
use world::{Host, WorkDir, skip, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// A file with these keys of `[zookeeper]`.
fn file(dir: &WorkDir, name: &str, keys: &[(&str, String)]) -> String {
    let ini = keys.iter().fold(Ini::new(), |ini, (key, value)| ini.set("zookeeper", key, value));
    let file = dir.join(name);
    std::fs::write(&file, ini.text()).expect("a file");
    file.display().to_string()
}

/// Whether the programs were built with TLS; without it they say so, whatever else is wrong.
fn is_built(test: &str) -> bool {
    let dir = WorkDir::new("built");
    let keys = [("hosts", "127.0.0.1:1".to_owned()), ("path", "/x".to_owned()), ("tls", "on".to_owned())];
    let (code, said) = programs::run("monitor", &["check", &file(&dir, "monitor.ini", &keys)], LIMIT);
    assert_eq!(code, 2, "{said}");
    let can = !said.contains("this build has no TLS with ZooKeeper");
    if !can {
        assert!(
            said.contains("[zookeeper] tls = on: ") && said.contains("--features zookeeper-tls"),
            "{said}"
        );
        skip::skip(test, "the programs were built without the feature zookeeper-tls");
    }
    can
}

#[test]
fn the_primary_and_zookeeper_die_and_nothing_is_lost() {
    if !is_built("the_primary_and_zookeeper_die_and_nothing_is_lost") {
        return;
    }
    let certificates = Certificates::new();
    let mut group = Group::of(2).zookeeper_tls(&certificates).start();
    let before = group.settled();
    // At the port that is not encrypted there is nobody but who asks.
    let there = group.zookeeper.word("cons").expect("an answer");
    assert_eq!(there.lines().filter(|line| line.contains("sid=")).count(), 0, "{there}");
    let load = group.load();
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    load.wait_for_writes(200, LIMIT);
    group.redis[old].restart();
    let before = group.settled();
    // Sessions go on over new connections.
    group.zookeeper.restart();
    group.settled();
    group.ready();
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    load.wait_for_writes(100, LIMIT);
    load.stop().assert_clean();
    let monitor = group.monitors[0].file().display().to_string();
    group.redis[old].restart();
    group.settled();
    let (code, said) = programs::run("monitor", &["check", &monitor], LIMIT);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn what_does_not_fit_is_told() {
    if !is_built("what_does_not_fit_is_told") {
        return;
    }
    let certificates = Certificates::new();
    let text = |name: &str| certificates.text(name);
    let mut group = Group::of(0).monitors(0).apis(0).zookeeper_tls(&certificates).servers();
    group.seed();
    let dir = WorkDir::new("keys");
    let full = [
        ("hosts", group.zookeeper.hosts()),
        ("path", group.path().to_string()),
        ("tls", "on".to_owned()),
        ("tls_ca", text("ca.pem")),
        ("tls_cert", text("client.pem")),
        ("tls_key", text("client.key")),
    ];
    let check =
        |keys: &[(&str, String)]| programs::run("monitor", &["check", &file(&dir, "m.ini", keys)], LIMIT);
    let with = |key: &str, value: String| {
        let mut keys = full.clone();
        keys.iter_mut().filter(|(name, _)| *name == key).for_each(|(_, old)| old.clone_from(&value));
        keys
    };
    let (code, said) = check(&full);
    assert_eq!(code, 0, "{said}");
    let unknown = "TLS: invalid peer certificate: UnknownIssuer";
    let other_ca = with("tls_ca", text("other-ca.pem"));
    let (code, said) = check(&other_ca);
    assert!(code == 1 && said.contains(unknown) && said.contains(&full[0].1), "{code}: {said}");
    // Nobody, and a stranger.
    let (code, said) = check(&full[..4]);
    assert!(code == 1 && said.contains("TLS: received fatal alert"), "{code}: {said}");
    let (code, said) = check(
        &[&full[..4], &[("tls_cert", text("other-ca.pem")), ("tls_key", text("other-ca.key"))]].concat(),
    );
    assert!(code == 1 && said.contains("TLS: received fatal alert"), "{code}: {said}");
    // A certificate for another name, a port that speaks no TLS, and a host that no certificate can name.
    let port = full[0].1.rsplit_once(':').expect("an address").1;
    let (code, said) = check(&with("hosts", format!("127.0.0.2:{port}")));
    assert_eq!(code, 1, "{said}");
    let (code, said) = check(&with("hosts", group.zookeeper.addr().to_string()));
    assert!(code == 1 && said.contains("TLS: "), "{code}: {said}");
    let (code, said) = check(&with("tls_ca", text("client.key")));
    assert!(
        code == 2 && said.contains("[zookeeper] tls_ca") && said.contains("no certificate"),
        "{code}: {said}"
    );

    // `zoo-setup` says it as well, and so do programs that go on.
    let broken = file(&dir, "other.ini", &other_ca);
    let (code, said) = programs::run("zoo-setup", &["--config", &broken], LIMIT);
    assert!(code == 1 && said.contains(unknown), "{code}: {said}");
    let ini =
        other_ca.iter().fold(group.monitor_ini(0), |ini, (key, value)| ini.set("zookeeper", key, value));
    let mut monitor = group.start_monitor(0, "monitor", &ini);
    wait::until("the monitor says why", LIMIT, || {
        let log = monitor.process().log();
        wait::holds(log.contains(unknown), || log.clone())
    });
    let api = Ini::new().set("api", "listen", Host::local().at(Host::local().free_port()));
    let api = other_ca.iter().fold(api, |ini, (key, value)| ini.set("zookeeper", key, value));
    let api_file = dir.join("api.ini");
    std::fs::write(&api_file, api.text()).expect("a file");
    let mut command = std::process::Command::new(programs::path_of("api"));
    command.arg(&api_file);
    let api = world::Process::of("api", command);
    wait::until("the API says why", LIMIT, || {
        let log = api.log();
        wait::holds(log.contains(unknown), || log.clone())
    });
    group.redis[0].kill();
}

/// Whatever answers or does not, the first byte on each connection is that of a TLS handshake.
#[test]
fn nothing_goes_out_unencrypted() {
    if !is_built("nothing_goes_out_unencrypted") {
        return;
    }
    let certificates = Certificates::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (first, firsts) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let first = first.clone();
            thread::spawn(move || {
                let mut byte = [0];
                let read = { &stream }.read(&mut byte);
                let _ = first.send(matches!(read, Ok(1)).then_some(byte[0]));
            });
        }
    });
    let dir = WorkDir::new("mute");
    let keys = [
        ("hosts", addr.to_string()),
        ("path", "/the_red/storage/posts".to_owned()),
        ("tls", "on".to_owned()),
        ("tls_ca", certificates.text("ca.pem")),
    ];
    let file = file(&dir, "monitor.ini", &keys);
    for (program, arguments) in [
        ("zoo-setup", vec!["--config", &file]),
        ("monitor", vec!["check", &file]),
        ("monitor", vec!["history", &file, "posts"]),
    ] {
        let (code, said) = programs::run(program, &arguments, LIMIT);
        assert_eq!(code, 1, "{program}: {said}");
        let mut seen: Vec<_> = firsts.try_iter().collect();
        if seen.is_empty() {
            seen.push(firsts.recv_timeout(LIMIT).expect("a connection"));
        }
        // None: closed without a word.
        assert!(seen.iter().all(|byte| matches!(byte, Some(0x16) | None)), "{program}: {seen:?}");
        assert!(seen.contains(&Some(0x16)), "{program}: {seen:?}");
    }
}
