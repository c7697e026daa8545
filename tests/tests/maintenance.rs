//! What is done to a running group with real servers. A paused service: nobody takes over and nobody is pointed elsewhere, whichever monitor leads,
//! while a replica can be serviced without a write being stopped.

use std::time::Duration;

use world::group::Group;
use world::redis::Redis;
use world::{Signal, programs, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// `monitor VERB FILE posts ...`: its exit code and what it printed.
fn verb(group: &Group, verb: &str, words: &[&str]) -> (i32, String) {
    let file = group.monitors[0].file().display().to_string();
    let words = [&[verb, file.as_str(), "posts"], words].concat();
    programs::run("monitor", &words, LIMIT)
}

#[track_caller]
fn done(group: &Group, name: &str, says: &str) {
    let (code, said) = verb(group, name, &[]);
    assert_eq!((code, said.contains(says)), (0, true), "{said}");
}

/// What the active monitor says of the service.
fn because(group: &Group) -> String {
    let active = group.wait_for_active();
    group.monitors[active].services()[0]["because"].to_string()
}

fn paused_znode(group: &Group) -> Option<String> {
    group.zookeeper.get(&group.layout().paused(&group.path())).map(|found| found.text())
}

/// Pings of both monitors that were sent before the fault are over, and more than every limit of a failover has passed.
fn wait_for_the_verdict(group: &Group, fault: &str) {
    wait::until("the reason", LIMIT, || {
        let because = because(group);
        wait::holds(because.contains(fault) && because.contains("paused"), || because)
    });
}

#[test]
fn nobody_takes_over_while_it_is_paused() {
    let mut group = Group::of(2).start();
    let before = group.settled();
    done(&group, "pause", "posts is paused");
    assert!(paused_znode(&group).is_some_and(|text| text.contains("since_ms")), "it stands in ZooKeeper");
    done(&group, "pause", "was paused already");
    for monitor in &group.monitors {
        wait::until("the status of both", LIMIT, || {
            let paused = monitor.services()[0]["paused"].clone();
            wait::holds(paused["by"] == "127.0.0.1", || paused.to_string())
        });
    }
    let (code, said) = verb(&group, "switchover", &[]);
    assert_eq!(
        (code, said.contains("the service is paused; `monitor resume` ends that")),
        (3, true),
        "{said}"
    );

    let old = group.primary();
    group.redis[old].kill();
    wait_for_the_verdict(&group, "primary gone");
    let (code, said) = verb(&group, "failover", &["--accept-loss"]);
    assert_eq!((code, said.contains("the service is paused")), (3, true), "{said}");
    // The other monitor holds to it as well.
    let active = group.wait_for_active();
    group.monitors[active].process().kill();
    group.wait_until_leading(1 - active);
    wait_for_the_verdict(&group, "primary gone");
    let still = group.state();
    assert_eq!((still.promoted, still.primary), (before.promoted, before.primary.clone()));

    group.monitors[active].restart();
    done(&group, "resume", "is not paused any more");
    assert_eq!(paused_znode(&group), None);
    group.redis[old].restart();
    let after = group.settled();
    assert_ne!(after.primary.run_id, before.primary.run_id);
    done(&group, "resume", "was not paused");
}

#[test]
fn a_replica_is_serviced_and_no_write_waits() {
    let mut group = Group::of(2).start();
    let before = group.settled();
    let load = group.load();
    load.wait_for_writes(100, LIMIT);
    done(&group, "pause", "posts is paused");
    let serviced = group.number_of(&before.in_sync[0].addr);
    group.redis[serviced].kill();
    wait::until("it is out of the set", LIMIT, || {
        let state = group.state();
        wait::holds(state.in_sync.len() == 1, || format!("{state:?}"))
    });
    load.wait_for_writes(100, LIMIT);
    group.redis[serviced].restart();
    let addr = group.redis[serviced].endpoint().to_string();
    wait::until("it answers", LIMIT, || {
        let active = group.wait_for_active();
        let services = group.monitors[active].services();
        let members = services[0]["members"].as_array().cloned().unwrap_or_default();
        let member = members.into_iter().find(|member| member["addr"] == addr).unwrap_or_default();
        wait::holds(member["up"] == true, || member.to_string())
    });
    // Some rounds of probes later it still stands where its operator left it.
    load.wait_for_writes(500, LIMIT);
    assert_eq!(group.redis[serviced].follows(), None, "nobody told it whom to follow");
    done(&group, "resume", "is not paused any more");
    let after = group.settled();
    assert_eq!(after.primary, before.primary);
    load.wait_for_writes(100, LIMIT);
    load.stop().assert_clean();
}

/// SIGHUP: what can be changed is, at once and with a line each; the rest is named; a file that is not right changes nothing.
#[test]
fn a_configuration_is_reloaded() {
    let mut group = Group::of(2).start();
    let before = group.settled();
    let active = group.wait_for_active();
    let text = std::fs::read_to_string(group.monitors[active].file()).expect("the file");
    let (never, other) = (before.in_sync[0].addr.clone(), before.in_sync[1].addr.clone());
    let reload = |group: &mut Group, text: &str, line: &str| {
        group.monitors[active].write_file(text);
        group.monitors[active].process().signal(Signal::Hup);
        group.monitors[active].process().wait_for_line(line, LIMIT)
    };
    reload(&mut group, &format!("{text}\n[failover]\npriority.{never} = many\n"), "nothing was reloaded");
    assert!(group.monitors[active].process().log().contains(&format!("priority.{never} = many: ")));
    let sections = format!(
        "[failover]\npriority.{never} = 0\n[detector]\nping_interval_ms = 90\n[log]\nlevel = trace\nformat = json\n"
    );
    let new = format!("{text}\n{sections}");
    reload(&mut group, &new, "not reloaded [log] format: not set -> json (restart the monitor)");
    let log = group.monitors[active].process().log();
    for line in [
        format!("reloaded [failover] priority.{never}: not set -> 0"),
        "reloaded [log] level: not set -> trace".into(),
        "reloaded [detector] ping_interval_ms: not set -> 90".into(),
    ] {
        assert!(log.contains(&line), "{line}: {log}");
    }
    group.monitors[active].process().wait_for_line("TRACE", LIMIT);
    reload(&mut group, &new, "not reloaded [log] format: not set -> json");

    let old = group.primary();
    group.redis[old].kill();
    group.redis[old].restart();
    let after = group.settled();
    assert_eq!(after.primary.addr, other, "{never} is never promoted now");
}

/// SIGHUP: a path more is watched at once, and one that is not in the file any more is left alone; the others go on.
#[test]
fn services_come_and_go_by_a_reload() {
    let mut group = Group::of(1).start();
    group.settled();
    let load = group.load();
    load.wait_for_writes(50, LIMIT);
    let (first, hosts) = (Redis::start(), group.zookeeper.hosts());
    let (second, path) = (Redis::start(), "/the_red/storage/users");
    let (primary, secondary) = (first.endpoint().to_string(), second.endpoint().to_string());
    let seed = ["--hosts", &hosts, "--path", path, "--primary", &primary, "--secondary", &secondary];
    let (code, said) = programs::run("zoo-setup", &seed, LIMIT);
    assert_eq!(code, 0, "{said}");
    let both = format!("{},{path}", group.path());
    let shown = |group: &Group, monitor: usize, service: &str| {
        let services = group.monitors[monitor].services();
        services.into_iter().find(|one| one["service"] == service)
    };
    let texts: Vec<_> =
        group.monitors.iter().map(|one| std::fs::read_to_string(one.file()).expect("a file")).collect();
    for (monitor, text) in texts.iter().enumerate() {
        let text = text.replace(&format!("path = {}\n", group.path()), &format!("path = {both}\n"));
        group.monitors[monitor].write_file(&text);
        group.monitors[monitor].process().signal(Signal::Hup);
        group.monitors[monitor].process().wait_for_line("reloaded [zookeeper] path: ", LIMIT);
    }
    let active = group.wait_for_active();
    wait::until("users is served", LIMIT, || {
        let users = shown(&group, active, "users").ok_or("not shown")?;
        let served = users["phase"] == "serving" && users["primary"] == primary.as_str();
        wait::holds(served && users["in_sync"] == serde_json::json!([secondary]), || users.to_string())
    });
    for (monitor, text) in texts.iter().enumerate() {
        group.monitors[monitor].write_file(text);
        group.monitors[monitor].process().signal(Signal::Hup);
        group.monitors[monitor].process().wait_for_line("not watched any more", LIMIT);
        assert_eq!(shown(&group, monitor, "users"), None);
    }
    // Nor has anybody an opinion of it, which would pass for the present.
    let opinions = ["primary", "backup"].map(|name| group.layout().view(name, "users").expect("a path"));
    for opinion in opinions {
        wait::until("the opinion is withdrawn", LIMIT, || {
            wait::holds(group.zookeeper.get(&opinion).is_none(), || opinion.clone())
        });
    }
    // What is not watched is left as it is.
    assert!(first.is_primary() && !second.is_primary());
    load.wait_for_writes(50, LIMIT);
    group.settled();
    load.stop().assert_clean();
}
