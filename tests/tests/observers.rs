//! `role = observer`: it tells who is primary as the pair does, leads never, and nothing that it sees decides anything.

use std::time::Duration;

use world::group::Group;
use world::programs::Program;
use world::{programs, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// A further monitor beside the pair, of this name.
fn observer(group: &Group, name: &str, sentinel: u16) -> Program {
    let free = |kind: &str| format!("{kind}127.0.0.1:{}", world::ports::free());
    let ini = group
        .monitor_ini(0)
        .set("binary_star", "role", "observer")
        .set("binary_star", "name", name)
        .without("binary_star", "bind")
        .without("binary_star", "peer")
        .without("binary_star", "voter")
        .set("admin", "listen", free(""))
        .set("sentinel", "listen", format!("127.0.0.1:{sentinel}"));
    let mut program = group.start_monitor(0, name, &ini);
    program.wait_until_ready(LIMIT);
    program
}

/// What `redis-cli` gets from the Sentinel endpoint at this port.
fn ask(port: u16, words: &[&str]) -> String {
    let output = std::process::Command::new("redis-cli")
        .args(["-p", &port.to_string(), "SENTINEL"])
        .args(words)
        .output()
        .expect("redis-cli");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[track_caller]
fn wait_for_primary(port: u16, addr: &topology::Endpoint) {
    let expected = format!("{}\n{}", addr.host(), addr.port());
    wait::until("the primary's address", LIMIT, || {
        let said = ask(port, &["get-master-addr-by-name", "posts"]);
        wait::holds(said == expected, || said)
    });
}

#[test]
fn an_observer_tells_and_never_leads() {
    let mut group = Group::of(2).sentinel().start();
    let before = group.settled();
    let ports = [world::ports::free(), world::ports::free()];
    let mut observers = [observer(&group, "east", ports[0]), observer(&group, "west", ports[1])];
    for port in ports {
        wait_for_primary(port, &before.primary.addr);
        // Everybody is there: the pair and both observers.
        wait::until("all endpoints", LIMIT, || {
            let said = ask(port, &["sentinels", "posts"]);
            let ids = said.lines().filter(|line| *line == "runid").count();
            wait::holds(ids == 4, || format!("{ids}: {said}"))
        });
    }
    wait::until("the pair knows the observers", LIMIT, || {
        let said = ask(group.sentinel_address(0).port(), &["sentinels", "posts"]);
        let ids = said.lines().filter(|line| *line == "runid").count();
        wait::holds(ids == 4, || format!("{ids}: {said}"))
    });
    let status = observers[0].call(world::http::Request::get("/services")).expect("an answer").json();
    assert_eq!(status["monitors"][0]["state"], "OBSERVER", "{status}");
    assert_eq!(observers[0].metric("albireo_active"), Some(0.0));

    let old = group.primary();
    group.redis[old].kill();
    let load = group.load();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    let after = group.state();
    ports.iter().for_each(|port| wait_for_primary(*port, &after.primary.addr));
    group.redis[old].restart();
    group.settled();
    load.stop().assert_clean();

    // With both monitors gone nobody leads, and what was decided is still told.
    group.monitors.iter_mut().for_each(|monitor| monitor.process().kill());
    let primary = group.primary();
    group.redis[primary].kill();
    std::thread::sleep(Duration::from_secs(2)); // what must not happen has some time to happen
    assert_eq!(group.state().primary.addr, after.primary.addr, "an observer decided something");
    let said = ask(ports[0], &["failover", "posts"]);
    assert!(said.contains("does not lead"), "{said}");
    let file = observers[0].file().display().to_string();
    let (code, said) = programs::run("monitor", &["failover", &file, "posts"], LIMIT);
    assert_eq!(code, 1, "{said}");
    group.monitors.iter_mut().for_each(Program::restart);
    group.ready();
    observers.iter_mut().for_each(|program| assert!(program.process().is_running()));
}

/// Two of one name: the second one waits, and ends with that word.
#[test]
fn two_observers_of_one_name() {
    let group = Group::of(1).sentinel().start();
    let _first = observer(&group, "east", world::ports::free());
    let free = || format!("127.0.0.1:{}", world::ports::free());
    let ini = group
        .monitor_ini(0)
        .set("binary_star", "role", "observer")
        .set("binary_star", "name", "east")
        .without("binary_star", "bind")
        .without("binary_star", "peer")
        .without("binary_star", "voter")
        .set("admin", "listen", free())
        .set("sentinel", "listen", free());
    let mut second = group.start_monitor(0, "second", &ini);
    let ended = second.process().wait_for_end(Duration::from_secs(30));
    assert_eq!(ended.code(), Some(2), "{}", second.process().log());
    assert!(second.process().log().contains("the name `east` is held by another monitor"));
}
