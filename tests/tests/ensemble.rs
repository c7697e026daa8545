//! ZooKeeper as it is run in production: three servers that agree with each other, of which one may fail at any moment.

use std::time::Duration;

use world::group::Group;
use world::wait;

const LIMIT: Duration = Duration::from_secs(30);

/// The programs say of ZooKeeper whether it answers them.
#[track_caller]
fn wait_for_answers(group: &Group, wanted: f64) {
    let told = || {
        let monitors = group.monitors.iter().map(|one| one.metric("albireo_zookeeper_connected"));
        let apis = group.apis.iter().map(|one| one.metric("albireo_api_zookeeper_connected"));
        monitors.chain(apis).collect::<Vec<_>>()
    };
    wait::until("all say whether ZooKeeper answers", LIMIT, || {
        let told = told();
        wait::holds(told.iter().all(|one| *one == Some(wanted)), || format!("{told:?}"))
    });
}

/// Each server dies once, the one that leads the ensemble among them: no request notices, no monitor moves anything. Then the
/// primary dies while two of three are left.
#[test]
fn any_one_server_may_die() {
    let mut group = Group::of(2).zookeepers(3).start();
    let before = group.settled();
    let load = group.load();
    load.wait_for_writes(100, LIMIT);
    let leader = group.zookeeper.leader();
    for turn in 0..group.zookeeper.servers() {
        let number = (leader + turn) % group.zookeeper.servers();
        group.zookeeper.server(number).kill();
        wait_for_answers(&group, 1.0);
        load.wait_for_writes(100, LIMIT);
        group.zookeeper.server(number).restart();
    }
    wait_for_answers(&group, 1.0);
    let after = group.settled();
    assert_eq!((after.promoted, &after.primary), (before.promoted, &before.primary), "nothing moved");

    let leader = group.zookeeper.leader();
    group.zookeeper.server(leader).kill();
    wait_for_answers(&group, 1.0);
    group.ready();
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(after.epoch, LIMIT);
    load.wait_for_writes(100, LIMIT);
    group.zookeeper.server(leader).restart();
    group.redis[old].restart();
    group.settled();
    load.stop().assert_clean();
}

/// Two of three are gone: nothing can be published, so traffic goes on and nobody moves. When they are back, so is failover.
#[test]
fn without_a_quorum_traffic_goes_on() {
    let mut group = Group::of(2).zookeepers(3).start();
    let before = group.settled();
    let load = group.load();
    load.wait_for_writes(100, LIMIT);
    let leader = group.zookeeper.leader();
    let lost = [leader, (leader + 1) % 3];
    for number in lost {
        group.zookeeper.server(number).kill();
    }
    wait_for_answers(&group, 0.0);
    load.wait_for_writes(300, LIMIT);
    for number in lost {
        group.zookeeper.server(number).restart();
    }
    wait_for_answers(&group, 1.0);
    group.ready();
    let after = group.settled();
    assert_eq!((after.promoted, &after.primary), (before.promoted, &before.primary), "nothing moved");
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(after.epoch, LIMIT);
    load.wait_for_writes(100, LIMIT);
    group.redis[old].restart();
    group.settled();
    load.stop().assert_clean();
}
