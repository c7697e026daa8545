//! Many primaries are lost at once: where a failover begins all the same.

mod common;

use common::{Scene, at, ms, record, replica};
use failover::mass::ALONE_WAIT;
use failover::view::Fault;
use failover::{Event, PeerOpinion, Reason, decide};

fn reason(scene: &Scene) -> Reason {
    decide(scene.group.view(), scene.now).because
}

/// a is refused, b and c have not said anything since.
fn braked(peer: PeerOpinion) -> Scene {
    let mut scene = Scene::leading(record());
    scene.event(Event::Peer(peer));
    scene.event(Event::Brake(true));
    scene.pass(1);
    scene.kill("a");
    scene
}

fn heard(scene: &mut Scene, link_up: bool) {
    for name in ["b", "c"] {
        scene.seen(name, replica(name, "a", link_up, 100));
    }
}

#[test]
fn a_death_that_a_replica_has_seen_is_certain() {
    let mut scene = braked(PeerOpinion::CannotReach([].into()));
    scene.pass(1);
    heard(&mut scene, false);
    assert_eq!(reason(&scene), Reason::Failover(Fault::Gone, at("b")));
}

#[test]
fn what_nobody_else_has_seen_waits_for_the_other_monitor() {
    let mut scene = braked(PeerOpinion::CannotReach([].into()));
    scene.pass(30); // the replicas say nothing, which is enough otherwise
    assert_eq!(reason(&scene), Reason::Braked(Fault::Gone));
    scene.pass(60_000);
    assert!(!matches!(reason(&scene), Reason::Failover(..)), "he reaches it");
}

#[test]
fn silence_that_the_other_monitor_sees_is_no_own_network() {
    let mut scene = Scene::leading(record());
    scene.event(Event::Peer(PeerOpinion::Gone));
    scene.event(Event::Brake(true));
    let pass = |scene: &mut Scene, times: u32| {
        for _ in 0..times {
            scene.pass(100);
            heard(scene, true);
        }
    };
    pass(&mut scene, 8);
    assert_eq!(reason(&scene), Reason::Braked(Fault::Silent));
    scene.event(Event::Peer(PeerOpinion::CannotReach([at("a")].into())));
    pass(&mut scene, 1);
    assert_eq!(reason(&scene), Reason::Failover(Fault::Silent, at("b")));
}

#[test]
fn without_anybody_to_ask_the_loss_has_to_last() {
    let mut scene = Scene::leading(record());
    scene.event(Event::Brake(true));
    let mut waited = ms(0);
    while !matches!(reason(&scene), Reason::Failover(..)) {
        assert!(waited < ALONE_WAIT + ms(1000), "{:?}", reason(&scene));
        scene.pass(100);
        waited += ms(100);
        heard(&mut scene, true);
    }
    assert!(waited >= ALONE_WAIT, "{waited:?}");
}

#[test]
fn without_the_brake_none_of_it_waits() {
    let mut scene = braked(PeerOpinion::CannotReach([].into()));
    scene.event(Event::Brake(false));
    scene.pass(30);
    assert!(!matches!(reason(&scene), Reason::Braked(_)));
}

#[test]
fn an_operator_who_asks_for_a_failover_is_not_braked() {
    let mut scene = Scene::leading(record());
    scene.event(Event::Peer(PeerOpinion::Gone));
    scene.event(Event::Brake(true));
    for _ in 0..8 {
        scene.pass(100);
        heard(&mut scene, true);
    }
    assert_eq!(reason(&scene), Reason::Braked(Fault::Silent));
    // docs/operations.md: "If you know that a primary is gone: `monitor failover FILE SERVICE` is not braked."
    scene.event(Event::Asked(1, failover::Request::Failover { to: None, accept_loss: false }));
    scene.pass(30);
    heard(&mut scene, true);
    assert_eq!(reason(&scene), Reason::Failover(Fault::Silent, at("b")));
}
