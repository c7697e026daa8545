//! ZooKeeper is restarted, stopped for a while, or away when the primary dies.

use std::time::Duration;

use world::group::{Group, SETTLE_LIMIT};
use world::zookeeper::Error;
use world::{WorkDir, programs, wait};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_restart_is_no_failover_and_stops_no_traffic() {
    let mut group = Group::of(2).start();
    let before = group.state();
    let load = group.load();
    group.zookeeper.restart();
    load.wait_for_writes(200, LIMIT);
    group.ready();
    let after = group.settled();
    assert_eq!((after.promoted, after.primary), (before.promoted, before.primary));
    load.stop().assert_clean();
}

/// Long enough for every session to be lost.
#[test]
fn an_outage_is_no_failover_and_stops_no_traffic() {
    let mut group = Group::of(2).start();
    let before = group.state();
    let load = group.load();
    group.zookeeper.kill();
    std::thread::sleep(Duration::from_secs(10));
    load.wait_for_writes(200, LIMIT);
    for monitor in &group.monitors {
        assert_eq!(monitor.get("/healthz").status, 200);
        assert_eq!(monitor.get("/readyz").status, 503, "it has no session");
    }
    group.zookeeper.restart();
    group.ready();
    let after = group.settled();
    assert_eq!((after.promoted, after.primary), (before.promoted, before.primary));
    load.stop().assert_clean();
}

/// Nothing can be decided without the store; it is, as soon as the store is back.
#[test]
fn a_primary_that_dies_meanwhile_is_replaced_when_it_is_back() {
    let mut group = Group::of(2).patient().start();
    let before = group.state();
    let load = group.load();
    group.zookeeper.kill();
    let old = group.number_of(&before.primary.addr);
    group.redis[old].kill();
    wait::never("a promotion without a record", Duration::from_secs(2), || {
        let promoted = group.redis.iter().find(|redis| redis.is_primary());
        wait::holds(promoted.is_none(), || format!("{promoted:?}"))
    });
    group.zookeeper.restart();
    load.wait_for_epoch_above(before.epoch, SETTLE_LIMIT);
    group.redis[old].restart();
    let after = group.settled();
    assert_eq!(after.promoted, before.epoch + 1);
    load.wait_for_writes(50, LIMIT);
    load.stop().assert_nothing_lost();
}

/// A paused server keeps its connections and answers nothing.
#[test]
fn a_hung_server_is_no_failover() {
    let mut group = Group::of(1).start();
    let before = group.state();
    let load = group.load();
    group.zookeeper.pause();
    std::thread::sleep(Duration::from_secs(5));
    load.wait_for_writes(200, LIMIT);
    group.zookeeper.resume();
    group.ready();
    let after = group.settled();
    assert_eq!((after.promoted, after.primary), (before.promoted, before.primary));
    load.stop().assert_clean();
}

/// With `auth` anybody may read who is primary, only we may say so, and what the monitors agree on is nobody else's affair.
#[test]
fn with_auth_the_records_are_ours_alone() {
    const LOGIN: &str = "albireo:s3cret";
    let mut group =
        Group::of(1).monitor_key("zookeeper", "auth", LOGIN).api_key("zookeeper", "auth", LOGIN).servers();
    let dir = WorkDir::new("auth");
    let file = dir.join("monitor.ini");
    std::fs::write(&file, group.monitor_ini(0).text()).expect("a file");
    let members: Vec<String> = group.members().iter().map(ToString::to_string).collect();
    let file = file.display().to_string();
    let seed = ["--config", &file, "--primary", &members[0], "--secondary", &members[1]];
    let (code, said) = programs::run("zoo-setup", &seed, LIMIT);
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("s3cret"), "{said}");
    group.add_monitor();
    group.add_monitor();
    group.add_api();
    group.zookeeper.log_in(Some(LOGIN));
    let before = group.settled();
    group.ready();

    let (path, layout) = (group.path(), group.layout());
    let ours = [layout.leader(), layout.state(&path), layout.monitors(), "/albireo".to_owned()];
    for stranger in [None, Some("albireo:wrong")] {
        group.zookeeper.log_in(stranger);
        assert!(group.zookeeper.get(path.as_str()).is_some(), "anybody may read who is primary");
        let written = group.zookeeper.try_set(path.as_str(), "{}");
        assert!(matches!(written, Err(Error::NoAuth)), "{written:?}");
        for znode in &ours {
            let read = group.zookeeper.try_get(znode);
            assert!(matches!(read, Err(Error::NoAuth)), "{znode}: {read:?}");
            let written = group.zookeeper.try_set(znode, "{}");
            assert!(matches!(written, Err(Error::NoAuth)), "{znode}: {written:?}");
        }
    }
    group.zookeeper.log_in(Some(LOGIN));
    let load = group.load();
    load.wait_for_writes(50, LIMIT);
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    load.wait_for_writes(50, LIMIT);
    group.redis[old].restart();
    group.settled();
    load.stop().assert_clean();
}
