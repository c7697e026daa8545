//! Links are cut between hosts in network namespaces. Needs root; says so where it cannot run.

use std::time::Duration;

use world::group::{Group, Places};
use world::netns::{Cut, Hosts};
use world::{skip, wait};

const LIMIT: Duration = Duration::from_secs(20);
/// Six times `down_after_ms`, twelve heartbeats.
const LONG_ENOUGH: Duration = Duration::from_secs(3);

/// The members on `r0` to `r2`, the monitors on `m0` and `m1`, ZooKeeper on `zk`, API and clients on `api`.
fn group_on_hosts(test: &str) -> Option<(Group, Hosts)> {
    if let Err(why) = Hosts::available() {
        skip::skip(test, &why);
        return None;
    }
    let hosts = Hosts::new(&["zk", "r0", "r1", "r2", "m0", "m1", "api"]);
    let places = Places {
        zookeeper: hosts.host("zk"),
        redis: ["r0", "r1", "r2"].map(|name| hosts.host(name)).into(),
        monitors: ["m0", "m1"].map(|name| hosts.host(name)).into(),
        api: hosts.host("api"),
    };
    Some((Group::of(2).places(places).start(), hosts))
}

/// The primary and the promotion stay what they are for long enough.
#[track_caller]
fn nothing_is_promoted(group: &Group, what: &str) {
    let before = group.state();
    wait::never(what, LONG_ENOUGH, || {
        let now = group.try_state()?;
        let same = (now.promoted, &now.primary.addr) == (before.promoted, &before.primary.addr);
        wait::holds(same, || format!("before {before:?}, now {now:?}"))
    });
}

#[test]
fn monitors_are_cut_from_each_other_only() {
    let Some((mut group, hosts)) = group_on_hosts("monitors_are_cut_from_each_other_only") else { return };
    let before = group.state();
    let load = group.load();
    let active = group.wait_for_active();
    let passive = 1 - active;
    let leader = group.zookeeper.get("/albireo/leader");
    for how in [Cut::Drop, Cut::Reset] {
        hosts.cut("m0", "m1", how);
        group.monitors[passive].process().wait_for_line("silent for two heartbeats", LIMIT);
        nothing_is_promoted(&group, "a failover because of the monitors' link");
        assert_eq!(group.zookeeper.get("/albireo/leader"), leader, "the lead was taken");
        group.wait_until_active(active);
        hosts.heal();
    }
    // The pair is still able to act.
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    group.redis[old].restart();
    group.settled();
    load.stop().assert_clean();
}

#[test]
fn primary_is_unreachable_for_one_monitor_only() {
    let Some((mut group, hosts)) = group_on_hosts("primary_is_unreachable_for_one_monitor_only") else {
        return;
    };
    let before = group.state();
    let load = group.load();
    let active = group.wait_for_active();
    for how in [Cut::Drop, Cut::Reset] {
        for monitor in [active, 1 - active] {
            hosts.cut(&format!("m{monitor}"), "r0", how);
            nothing_is_promoted(
                &group,
                &format!("a failover because monitor {monitor} is cut off ({how:?})"),
            );
            hosts.heal();
        }
    }
    let after = group.settled();
    assert_eq!((after.promoted, &after.primary), (before.promoted, &before.primary));
    load.stop().assert_clean();
}

/// Clients write and replicas follow: whoever cannot reach the primary is wrong.
#[test]
fn primary_is_unreachable_for_both_monitors_while_it_serves() {
    let Some((mut group, hosts)) = group_on_hosts("primary_is_unreachable_for_both_monitors_while_it_serves")
    else {
        return;
    };
    let before = group.state();
    let load = group.load();
    for how in [Cut::Drop, Cut::Reset] {
        hosts.cut("m0", "r0", how);
        hosts.cut("m1", "r0", how);
        nothing_is_promoted(&group, &format!("a failover of a primary that serves ({how:?})"));
        load.wait_for_writes(100, LIMIT);
        hosts.heal();
        group.settled();
    }
    let after = group.settled();
    assert_eq!((after.promoted, &after.primary), (before.promoted, &before.primary));
    load.stop().assert_clean();
}

/// The primary's host is gone from the network: replaced; demoted when it is back.
#[test]
fn primary_is_cut_from_everybody() {
    let Some((mut group, hosts)) = group_on_hosts("primary_is_cut_from_everybody") else { return };
    let before = group.state();
    assert_eq!(group.primary(), 0);
    let load = group.load();
    hosts.isolate(&["r0"], Cut::Drop);
    load.wait_for_epoch_above(before.epoch, LIMIT);
    let after = group.state();
    assert_ne!(after.primary.addr, before.primary.addr);
    hosts.heal();
    let last = group.settled();
    assert_eq!((last.promoted, &last.primary.addr), (after.promoted, &after.primary.addr));
    load.wait_for_writes(50, LIMIT);
    load.stop().assert_clean();
}

/// A replica that nobody reaches leaves the set; nobody is promoted and no request fails.
#[test]
fn replica_is_cut_from_everybody() {
    let Some((mut group, hosts)) = group_on_hosts("replica_is_cut_from_everybody") else { return };
    let before = group.state();
    let load = group.load();
    let addr = group.redis[1].endpoint();
    hosts.isolate(&["r1"], Cut::Drop);
    wait::until("the replica has left the set", LIMIT, || {
        let state = group.try_state()?;
        wait::holds(state.in_sync(&addr).is_none(), || format!("{state:?}"))
    });
    hosts.heal();
    let after = group.settled();
    assert_eq!((after.promoted, &after.primary), (before.promoted, &before.primary));
    load.stop().assert_clean();
}
