//! The first record of a service, the two-key file of the first implementation, services found at run time.

use std::time::Duration;

use world::group::{Group, SETTLE_LIMIT};
use world::programs::{self, Ini, Launch, Program};
use world::redis::{Redis, Settings};
use world::zookeeper::ZooKeeper;
use world::{Host, ports, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// All members start as masters without data: the one that is named becomes the primary, the others its replicas.
#[test]
fn fresh_servers_become_a_group() {
    let mut group = Group::of(2).patient().servers();
    for replica in &group.redis[1..] {
        assert_eq!(replica.cmd(&["REPLICAOF", "NO", "ONE"]).text(), "OK");
    }
    group.seed();
    assert!(group.try_state().is_err(), "zoo-setup writes no record");
    group.add_monitor();
    group.add_monitor();
    let state = group.settled();
    assert_eq!(state.primary.addr, group.members()[0]);
    assert_eq!(state.epoch, 3, "one for the birth, one for each replica that came in");
    assert_eq!(state.members, group.members());
}

/// A secondary that is a master and holds data may be somebody's only copy.
#[test]
fn a_secondary_with_data_of_its_own_is_left_alone() {
    let mut group = Group::of(2).servers();
    let stranger = 2;
    assert_eq!(group.redis[stranger].cmd(&["REPLICAOF", "NO", "ONE"]).text(), "OK");
    assert_eq!(group.redis[stranger].cmd(&["SET", "mine", "1"]).text(), "OK");
    group.seed();
    group.add_monitor();
    group.add_monitor();
    let first = group.redis[1].endpoint();
    wait::until("the other secondary is in sync", SETTLE_LIMIT, || {
        let state = group.try_state()?;
        wait::holds(state.in_sync(&first).is_some(), || format!("{state:?}"))
    });
    wait::never("the stranger is touched", Duration::from_secs(2), || {
        let server = &group.redis[stranger];
        wait::holds(server.is_primary() && server.user_keys() == 1, || "it is".to_owned())
    });
    let active = group.wait_for_active();
    let services = group.monitors[active].services();
    let addr = group.redis[stranger].addr().to_string();
    let members = services[0]["members"].as_array().cloned().unwrap_or_default();
    let shown = members.iter().find(|member| member["addr"] == addr.as_str());
    let why = shown.and_then(|member| member["why"].as_str()).unwrap_or_default();
    assert!(!why.is_empty(), "the status does not say why {addr} is left alone: {services:?}");

    // Emptied by its owner, it is taken in.
    assert_eq!(group.redis[stranger].cmd(&["FLUSHALL"]).text(), "OK");
    group.settled();
}

/// Nobody else is chosen in its place.
#[test]
fn the_named_primary_is_waited_for() {
    let mut group = Group::of(1).servers();
    group.redis[0].kill();
    group.seed();
    group.add_monitor();
    group.add_monitor();
    group.wait_for_active();
    wait::never("a record without the named primary", Duration::from_secs(2), || match group.try_state() {
        Ok(state) => Err(format!("{state:?}")),
        Err(_) => Ok(()),
    });
    group.redis[0].restart();
    let state = group.settled();
    assert_eq!(state.primary.addr, group.redis[0].endpoint());
}

/// The original's file: two keys. Ports other than the default ones come from the environment.
#[test]
fn the_two_key_file_is_enough() {
    let mut group = Group::of(1).servers();
    group.seed();
    let text = format!("[zookeeper]\nhosts = {}\npath = {}\n", group.zookeeper.hosts(), group.path());
    let ini = Ini::new();
    let admin = Host::local().at(ports::free());
    let env = [("ALBIREO_ADMIN_LISTEN".to_owned(), admin.to_string())];
    let host = Host::local();
    let launch = Launch { kind: "monitor", name: "two-keys", host: &host, ini: &ini, env: &env, http: admin };
    let mut monitor = Program::start(&launch);
    monitor.write_file(&text);
    monitor.restart();
    monitor.wait_until_ready(SETTLE_LIMIT);
    let before = group.settled();
    assert_eq!(monitor.metric("albireo_active"), Some(1.0));
    let log = monitor.process().log();
    assert!(log.contains("alone") || log.contains("no peer"), "it does not say that it has no peer: {log}");
    group.add_api();
    group.ready();
    let load = group.load();
    group.redis[0].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    group.redis[0].restart();
    group.settled();
    load.stop().assert_clean();
}

/// `discover`: a child of a parent is a service as soon as it is seeded, and no longer when it is gone.
#[test]
fn a_service_seeded_at_run_time_is_found() {
    let zookeeper = ZooKeeper::start();
    let host = Host::local();
    let admin = host.at(ports::free());
    let ini = Ini::new()
        .set("zookeeper", "hosts", zookeeper.hosts())
        .set("zookeeper", "discover", "/services")
        .set("admin", "listen", admin);
    let launch =
        Launch { kind: "monitor", name: "discovering", host: &host, ini: &ini, env: &[], http: admin };
    let mut monitor = Program::start(&launch);
    let pairs: Vec<(Redis, Redis)> = ["users", "posts"]
        .map(|name| {
            let (primary, replica) = (Redis::start(), Settings::default().start());
            let (hosts, path) = (zookeeper.hosts(), format!("/services/{name}"));
            let (first, second) = (primary.addr().to_string(), replica.addr().to_string());
            let arguments = ["--hosts", &hosts, "--path", &path, "--primary", &first, "--secondary", &second];
            let (code, printed) = programs::run("zoo-setup", &arguments, LIMIT);
            assert_eq!(code, 0, "{printed}");
            wait::until(&format!("{name} is watched"), SETTLE_LIMIT, || {
                let follows = replica.follows();
                wait::holds(follows.as_ref() == Some(&first), || format!("{follows:?}"))
            });
            (primary, replica)
        })
        .into();
    monitor.wait_until_ready(SETTLE_LIMIT);
    let named = |monitor: &Program| {
        let mut names: Vec<String> =
            monitor.services().iter().map(|s| s["service"].as_str().unwrap_or("?").to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(named(&monitor), ["posts", "users"]);

    zookeeper.delete("/services/users");
    wait::until("the service is forgotten", LIMIT, || {
        let names = named(&monitor);
        wait::holds(names == ["posts"], || format!("{names:?}"))
    });
    drop(pairs);
}
