//! What is said of the death of a primary is what comes of it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Scene, at, entry, ms, promoting, record, replica, syncing};
use failover::risk::{Heir, Nobody};
use failover::witness::Observer;
use failover::{Event, Limits, Observation, PeerOpinion, Risk, Role, risk, witnesses};
use topology::State;

fn risk_of(scene: &Scene) -> Risk {
    risk(scene.group.view(), scene.now).unwrap()
}

/// Who is to be promoted once the primary has died and the others have said so.
fn comes_of_it(scene: &mut Scene) -> Option<String> {
    if scene.published_last().is_some() {
        scene.stands(6); // somebody leaves the set
    }
    let group = scene.group.view().clone();
    let primary = group.state().unwrap().primary.addr.clone();
    let others = ["a", "b", "c"].into_iter().filter(|name| *name != primary.host());
    let living = others.filter(|name| group.health(&at(name), scene.now).gone_since().is_none());
    let living: Vec<&str> = living.collect();
    scene.kill(primary.host());
    // Longer than min_interval_ms, which a failover right after another one waits for.
    for _ in 0..60 {
        scene.pass(20);
        for name in &living {
            let Some(said) = group.backends[&at(name)].seen.as_ref().map(|seen| seen.observation.clone())
            else {
                continue;
            };
            let role = match said.role.clone() {
                syncing @ Role::Replica { syncing: true, .. } => syncing,
                Role::Primary { .. } | Role::Replica { .. } => replica(name, primary.host(), false, 0).role,
            };
            scene.seen(name, Observation { role, ..Observation::clone(&said) });
        }
        if let Some(next) = scene.published_last() {
            return Some(next.primary.addr.host().to_owned());
        }
    }
    None
}

#[test]
fn what_is_said_is_what_comes_of_it() {
    type Change = fn(&mut Scene);
    let rows: [(&str, State, Change); 8] = [
        ("all well", record(), |_| {}),
        ("c is ahead", record(), |scene| scene.seen("c", replica("c", "a", true, 200))),
        ("b is dead", record(), |scene| scene.kill("b")),
        ("b is out", State { in_sync: vec![entry("c", 3)], ..record() }, |_| {}),
        ("nobody is in", State { in_sync: Vec::new(), ..record() }, |_| {}),
        ("b restarted, c is syncing", record(), |scene| {
            let other = Observation { run_id: "b1".into(), ..replica("b", "a", true, 100) };
            scene.seen("b", other);
            scene.seen("c", syncing(replica("c", "a", true, 100)));
        }),
        ("in the middle of a promotion", promoting(), Scene::fails),
        ("right after a promotion", promoting(), |scene| scene.stands(6)),
    ];
    for (what, state, change) in rows {
        let mut scene = Scene::leading(state);
        change(&mut scene);
        let said = risk_of(&scene).then.ok().map(|heir| heir.addr.host().to_owned());
        assert_eq!(said, comes_of_it(&mut scene), "{what}");
    }
}

#[test]
fn in_words() {
    let mut scene = Scene::leading(record());
    assert_eq!(risk_of(&scene).to_string(), "if a:1 dies now: b:1 takes over, 0 bytes behind");
    scene.seen("b", replica("b", "a", true, 40));
    scene.seen("c", replica("c", "a", true, 60));
    assert_eq!(risk_of(&scene).then, Ok(Heir { addr: at("c"), lag_bytes: Some(40) }));
    scene.event(Event::Store(false));
    assert_eq!(risk_of(&scene).then, Err(Nobody::StoreAway));
    let words = risk_of(&scene).to_string();
    assert!(words.starts_with("if a:1 dies now, NOBODY can take over, because ZooKeeper"), "{words}");
    scene.event(Event::Store(true));
    scene.event(Event::Paused(true));
    assert_eq!(risk_of(&scene).then, Err(Nobody::Paused));
    scene.event(Event::Paused(false));
    scene.kill("b");
    scene.kill("c");
    let nobody = "if a:1 dies now, NOBODY can take over, because b:1: does not answer, c:1: does not answer";
    assert_eq!(risk_of(&scene).to_string(), nobody);
    scene.kill("a");
    scene.pass(1);
    let lost = "a:1 is lost, and NOBODY can take over, because b:1: does not answer, c:1: does not answer";
    assert_eq!(risk_of(&scene).to_string(), lost);
}

#[test]
fn who_is_not_in_sync_is_said_to_be_so_with_its_reason() {
    let mut scene = Scene::leading(State { in_sync: Vec::new(), ..record() });
    scene.seen("b", replica("b", "a", false, 100));
    let words = risk_of(&scene).to_string();
    assert!(words.contains("b:1: not in sync: its link to the primary is not up"), "{words}");
}

#[test]
fn one_that_is_alone() {
    let alone = State { members: vec![at("a")], in_sync: Vec::new(), ..record() };
    let words = risk_of(&Scene::leading(alone)).to_string();
    assert_eq!(words, "if a:1 dies now, NOBODY can take over, because there is no other server");
    let unborn = Scene::empty();
    assert_eq!(risk(unborn.group.view(), unborn.now), None);
}

#[test]
fn a_passive_monitor_says_the_same() {
    let scene = Scene::passive(record());
    assert_eq!(risk_of(&scene).to_string(), "if a:1 dies now: b:1 takes over, 0 bytes behind");
    let never = Limits { priority: [(at("b"), 0)].into(), ..Limits::default() };
    assert_eq!(risk_of(&Scene::leading_with(never, record())).then.unwrap().addr, at("c"));
}

#[test]
fn what_each_observer_saw_goes_with_the_decision() {
    let mut scene = Scene::leading(record());
    scene.event(Event::Peer(PeerOpinion::CannotReach([at("a")].into())));
    scene.kill("a");
    scene.pass(3);
    scene.seen("b", replica("b", "a", false, 70));
    let saw = witnesses(scene.group.view(), &at("a"), scene.now + ms(2));
    let words = |who: &Observer| saw.iter().find(|one| one.who == *who).unwrap().saw.clone();
    assert_eq!(words(&Observer::Monitor("me".into())), "refuses connections for 5 ms");
    assert_eq!(words(&Observer::Peer), "cannot reach it");
    assert_eq!(words(&Observer::Replica(at("b"))), "has lost it, asked 2 ms before");
    assert_eq!(words(&Observer::Replica(at("c"))), "link up, asked 5 ms before");
    assert_eq!(saw.iter().find(|one| one.who == Observer::Replica(at("b"))).unwrap().offset, Some(70));
}
