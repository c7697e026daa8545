//! What is decided, and why: R10, R6, and the reasons above the steps.

mod common;

use std::time::Duration;

use common::{Scene, at, entry, ms, primary, promoting, record, replica};
use failover::Outcome;
use failover::view::{Announced, Fault};
use failover::{
    Event, Fence, Health, Limits, MinInSync, Observation, Outside, PeerOpinion, Reason, Role, Step, Stored,
    Trouble, Unfit, decide,
};
use topology::{State, Topology};

fn reason(scene: &Scene) -> Reason {
    decide(scene.group.view(), scene.now).because
}

fn fault(scene: &Scene) -> Option<Fault> {
    scene.group.view().primary_fault(scene.now).map(|(fault, _)| fault)
}

/// Only b and c answer; a was last heard when this began.
fn silence(scene: &mut Scene, millis: u64, of: &str, offset: u64) {
    for _ in 0..millis / 100 {
        scene.pass(100);
        for name in ["b", "c"] {
            scene.seen(name, replica(name, of, true, offset));
        }
    }
}

// -- R10 --------------------------------------------------------------------------------------------------------

#[test]
fn closed_refused_and_lost_by_its_replicas_is_gone_at_once() {
    let mut scene = Scene::leading(record());
    scene.pass(1);
    scene.event(Event::Closed(at("a")));
    assert_eq!((fault(&scene), reason(&scene)), (None, Reason::PrimaryTroubled(Health::Suspect)));
    scene.event(Event::ConnectionRefused(at("a")));
    assert_eq!(
        (fault(&scene), reason(&scene)),
        (None, Reason::PrimaryUnreachable),
        "the replicas were not asked"
    );
    scene.pass(1);
    scene.seen("b", replica("b", "a", false, 100));
    assert_eq!(fault(&scene), None, "c has not answered");
    scene.seen("c", replica("c", "a", false, 100));
    assert_eq!(fault(&scene), Some(Fault::Gone));
    assert_eq!(reason(&scene), Reason::Failover(Fault::Gone, at("b")));
}

#[test]
fn a_replica_that_still_receives_holds_the_failover_back() {
    let mut scene = Scene::leading(record());
    scene.pass(1);
    scene.kill("a");
    scene.pass(1);
    scene.seen("b", replica("b", "a", true, 100));
    scene.seen("c", replica("c", "a", false, 100));
    for _ in 0..20 {
        scene.pass(1);
        assert_eq!((fault(&scene), reason(&scene)), (None, Reason::PrimaryUnreachable));
    }
}

#[test]
fn a_replica_that_does_not_answer_is_waited_for_briefly() {
    let mut scene = Scene::leading(record());
    scene.pass(1);
    scene.kill("a");
    scene.pass(1);
    scene.seen("b", replica("b", "a", false, 100));
    assert_eq!(fault(&scene), None);
    scene.pass(20);
    assert_eq!(fault(&scene), Some(Fault::Gone));
}

#[test]
fn paused_with_a_peer_that_agrees_or_not() {
    let cannot_reach = |names: &[&str]| PeerOpinion::CannotReach(names.iter().map(|name| at(name)).collect());
    // The fault after down_after, and after twice as long.
    let rows: [(PeerOpinion, [bool; 2]); 5] = [
        (PeerOpinion::Gone, [true, true]),
        (PeerOpinion::Mute, [false, true]),
        (cannot_reach(&["a"]), [true, true]),
        (cannot_reach(&["b"]), [false, false]),
        (cannot_reach(&[]), [false, false]),
    ];
    for (peer, expected) in rows {
        let mut scene = Scene::leading(record());
        scene.event(Event::Peer(peer.clone()));
        silence(&mut scene, 400, "a", 100);
        assert_eq!(fault(&scene), None, "{peer:?}");
        for expected in expected {
            silence(&mut scene, 200, "a", 100);
            assert_eq!(fault(&scene), expected.then_some(Fault::Silent), "{peer:?}");
            if !expected {
                assert_eq!(reason(&scene), Reason::PrimaryUnreachable, "{peer:?}");
            }
            silence(&mut scene, 300, "a", 100);
        }
    }
}

/// Who leads is told before he needs it: our word goes through ZooKeeper, and our last answer may be younger than his.
#[test]
fn an_opinion_is_ready_one_ping_interval_before_the_verdict() {
    let mut scene = Scene::passive(record());
    let last = scene.group.view().backends[&at("a")].detector.last_byte();
    silence(&mut scene, 300, "a", 100);
    scene.pass(90);
    let view = scene.group.view();
    assert!(view.unreachable(scene.now).is_empty());
    let due = scene.group.poll_timeout().unwrap();
    assert_eq!((due, view.unreachable(due)), (last + ms(400), [at("a")].into()));
    assert_eq!((view.health(&at("a"), due), view.primary_fault(due)), (Health::Suspect, None));
    for (ping_interval, down_after, opinion_after) in [(100, 500, 400), (100, 200, 160), (500, 5000, 4500)] {
        let limits =
            Limits { ping_interval: ms(ping_interval), down_after: ms(down_after), ..Limits::default() };
        assert_eq!(limits.opinion_after(), ms(opinion_after));
    }
}

#[test]
fn a_mute_peer_is_waited_for_without_a_further_event() {
    let mut scene = Scene::leading(record());
    scene.event(Event::Peer(PeerOpinion::Mute));
    silence(&mut scene, 600, "a", 100);
    let last = scene.group.view().backends[&at("a")].detector.last_byte();
    assert_eq!(scene.group.poll_timeout(), Some(last + 2 * scene.group.view().limits.down_after));
}

#[test]
fn a_stream_that_advances_shows_that_the_primary_lives() {
    let mut scene = Scene::leading(record());
    for step in 0..20 {
        silence(&mut scene, 100, "a", 101 + step);
        assert_eq!(fault(&scene), None, "step {step}");
    }
    assert_eq!(reason(&scene), Reason::PrimaryUnreachable);
    silence(&mut scene, 600, "a", 120);
    assert_eq!(fault(&scene), Some(Fault::Silent), "it has stood still for down_after");
}

#[test]
fn what_was_in_flight_when_the_primary_stopped_is_no_sign_of_life() {
    let mut scene = Scene::leading(record());
    silence(&mut scene, 100, "a", 130);
    silence(&mut scene, 500, "a", 130);
    assert_eq!(fault(&scene), Some(Fault::Silent));
}

#[test]
fn an_error_is_no_death() {
    for trouble in [Trouble::Loading, Trouble::Busy, Trouble::Login, Trouble::Strange] {
        let mut scene = Scene::leading(record());
        for _ in 0..20 {
            scene.pass(100);
            scene.event(Event::Troubled(at("a"), trouble));
            silence(&mut scene, 0, "a", 100);
        }
        assert_eq!(fault(&scene), None, "{trouble:?}");
        assert_eq!(reason(&scene), Reason::PrimaryTroubled(Health::Troubled(trouble)));
    }
}

#[test]
fn a_stall_of_our_own_is_no_silence() {
    let mut scene = Scene::leading(record());
    scene.now += ms(5000);
    scene.event(Event::Stalled);
    assert_eq!(fault(&scene), None);
    scene.pass(499);
    assert_eq!(fault(&scene), None);
}

#[test]
fn restarted_and_demoted() {
    let mut scene = Scene::leading(record());
    scene.pass(100);
    scene.seen("a", Observation { run_id: "a1".into(), ..primary("a", 0) });
    assert_eq!(fault(&scene), Some(Fault::Restarted));
    assert_eq!(reason(&scene), Reason::Confirming(Fault::Restarted));

    let mut scene = Scene::leading(record());
    scene.pass(100);
    scene.seen("a", replica("a", "b", true, 100));
    assert_eq!(fault(&scene), Some(Fault::Demoted));

    // One that is to be promoted is a replica still.
    let mut scene = Scene::leading(promoting());
    scene.pass(1);
    scene.seen("b", replica("b", "a", true, 100));
    assert_eq!(fault(&scene), None);
}

/// Answers that take longer than the probe interval are all older than the last sight of the restarted primary.
#[test]
fn a_restart_is_dated_from_its_beginning() {
    let mut scene = Scene::leading(record());
    scene.pass(100);
    let restarted = Observation { run_id: "a1".into(), ..primary("a", 0) };
    scene.seen("a", restarted.clone());
    let asked = scene.now;
    scene.pass(80);
    scene.seen("a", restarted.clone());
    scene.pass(80);
    scene.seen("a", restarted);
    scene.event(Event::Seen(at("b"), asked, replica("b", "a", false, 100).into()));
    assert_eq!(reason(&scene), Reason::Failover(Fault::Restarted, at("b")));
}

// -- R6 ---------------------------------------------------------------------------------------------------------

/// What a scene wants to publish as the next set.
fn set(scene: &Scene) -> Option<(Vec<String>, Reason)> {
    let decision = decide(scene.group.view(), scene.now);
    decision.steps.iter().find_map(|step| match step {
        Step::Publish { next, .. } if next.epoch == record().epoch + 1 => {
            let set = next.in_sync.iter().map(|e| format!("{} since {}", e.addr.host(), e.since));
            Some((set.collect(), decision.because.clone()))
        }
        Step::Publish { .. } | Step::Order { .. } | Step::Look(_) | Step::Answer(_) => None,
    })
}

fn shrinks(out: &[(&str, Unfit)], stay: &[&str]) -> Option<(Vec<String>, Reason)> {
    let out = out.iter().map(|(name, why)| (at(name), *why)).collect();
    Some((stay.iter().map(|s| s.to_string()).collect(), Reason::Shrinking(out)))
}

#[test]
fn a_member_that_is_gone_leaves_at_once_while_enough_proven_ones_stay() {
    let mut scene = Scene::leading(record());
    scene.kill("c");
    assert_eq!(set(&scene), shrinks(&[("c", Unfit::Gone)], &["b since 2"]));
    // The floor: with min_in_sync 1 the last one stays, for evicting it would not let one write through.
    scene.kill("b");
    assert_eq!(set(&scene), None);
}

#[test]
fn who_counts_for_the_floor_is_proven() {
    let rows: [(&str, Observation, bool); 5] = [
        ("attached, with the stamp of its entry", replica("b", "a", true, 100), true),
        ("not attached", replica("b", "a", false, 100), false),
        ("attached elsewhere", replica("b", "c", true, 100), false),
        (
            "without the stamp of its entry",
            Observation { fence: Fence::At(1), ..replica("b", "a", true, 100) },
            false,
        ),
        ("without a fence", Observation { fence: Fence::Absent, ..replica("b", "a", true, 100) }, false),
    ];
    for (what, b, leaves) in rows {
        let mut scene = Scene::leading(record());
        scene.pass(1);
        scene.seen("b", b);
        scene.kill("c");
        assert_eq!(set(&scene).is_some(), leaves, "{what}");
    }
}

#[test]
fn a_restarted_member_leaves_whatever_the_floor() {
    let mut scene = Scene::leading(record());
    scene.pass(1);
    scene.kill("b");
    scene.seen("c", Observation { run_id: "c1".into(), ..replica("c", "a", false, 0) });
    let (set, because) = set(&scene).unwrap();
    assert_eq!(
        (set, because),
        (vec!["b since 2".to_string()], Reason::Shrinking(vec![(at("c"), Unfit::Restarted)]))
    );
}

/// A monitor begins, and has not come to c among its thousands of servers.
#[test]
fn who_was_never_tried_stays_in_the_set() {
    let mut scene = Scene::empty();
    let state = State { min_in_sync: 0, ..record() };
    for event in [
        Event::Reign(Some(7)),
        Event::Paused(false),
        Event::State(Stored::Is(state.clone()), 5),
        Event::Announced(Announced::Is(state.topology()), 0),
        Event::State(Stored::Is(state), 5),
    ] {
        scene.event(event);
    }
    scene.pass(2000);
    for name in ["a", "b"] {
        scene.event(Event::Tried(at(name)));
        scene.event(Event::Opened(at(name)));
    }
    let answer = |scene: &mut Scene| {
        scene.pass(100);
        scene.seen("a", primary("a", 100));
        scene.seen("b", replica("b", "a", true, 100));
    };
    (0..5).for_each(|_| answer(&mut scene));
    assert_eq!(set(&scene), None, "{:?}", reason(&scene));
    scene.event(Event::Tried(at("c")));
    (0..4).for_each(|_| answer(&mut scene));
    assert_eq!(set(&scene), None);
    answer(&mut scene);
    assert_eq!(set(&scene), shrinks(&[("c", Unfit::Gone)], &["b since 2"]));
}

#[test]
fn who_does_not_attach_or_stands_still_or_is_renamed_leaves_after_its_limit() {
    let mut scene = Scene::leading(record());
    scene.pass(1);
    scene.seen("c", replica("c", "a", false, 100));
    for step in 0..3 {
        assert_eq!(set(&scene), None, "{step}");
        scene.pass(100);
        scene.seen("b", replica("b", "a", true, 100));
        scene.seen("a", primary("a", 100));
    }
    assert_eq!(set(&scene), shrinks(&[("c", Unfit::Unattached)], &["b since 2"]));

    let mut scene = Scene::leading(record());
    for step in 0..6 {
        scene.pass(100);
        scene.seen("a", primary("a", 200 + step));
        scene.seen("b", replica("b", "a", true, 200 + step));
        scene.seen("c", replica("c", "a", true, 100));
        assert_eq!(set(&scene).is_some(), step == 5, "{step}");
    }
    assert_eq!(set(&scene), shrinks(&[("c", Unfit::Stuck)], &["b since 2"]));

    // With errors only, it leaves when somebody would have to wait for it.
    let mut scene = Scene::leading(record());
    for step in 0..12 {
        scene.pass(100);
        scene.seen("a", primary("a", if step > 8 { 200 } else { 100 }));
        scene.seen("b", replica("b", "a", true, 200));
        scene.event(Event::Troubled(at("c"), Trouble::Busy));
        assert_eq!(set(&scene).is_some(), step > 8, "{step}");
    }
    assert_eq!(set(&scene), shrinks(&[("c", Unfit::Troubled)], &["b since 2"]));

    let mut scene = Scene::leading(record());
    scene.pass(1);
    scene.seen("c", Observation { shows_as: "10.9.9.9:1".into(), ..replica("c", "a", true, 100) });
    assert_eq!(set(&scene), shrinks(&[("c", Unfit::Renamed)], &["b since 2"]));
}

#[test]
fn who_enters_is_attached_near_and_known_to_the_primary() {
    let alone = || State { in_sync: vec![entry("b", 2)], ..record() };
    let c = || replica("c", "a", true, 100);
    let table = |names: &[&str], offset| Observation {
        role: Role::Primary { replicas: names.iter().map(|n| (format!("{n}:1"), offset)).collect() },
        ..primary("a", 100)
    };
    let rows: [(Option<Outside>, Observation, Observation); 10] = [
        (None, primary("a", 100), c()),
        (Some(Outside::NoLink), primary("a", 100), replica("c", "a", false, 100)),
        (Some(Outside::NotFollowing), primary("a", 100), replica("c", "b", true, 100)),
        (Some(Outside::NotListed("c:1".into())), table(&["b"], 100), c()),
        (None, table(&["b", "c"], 0), c()),
        (Some(Outside::NotStreaming), primary("a", 100), replica("c", "a", true, 50)),
        (Some(Outside::OtherHistory), primary("a", 100), Observation { replid: "h9".into(), ..c() }),
        (Some(Outside::OtherCredential), primary("a", 100), Observation { credential: None, ..c() }),
        (Some(Outside::OtherCredential), primary("a", 100), Observation { credential: Some(0), ..c() }),
        (Some(Outside::Behind(1 << 21)), primary("a", 100 + (1 << 21)), replica("c", "a", true, 100)),
    ];
    for (outside, a, c) in rows {
        let far = matches!(outside, Some(Outside::Behind(_)));
        let mut scene = Scene::leading(alone());
        scene.pass(1000);
        let a = match a.role {
            Role::Primary { .. } if far => Observation {
                role: Role::Primary { replicas: vec![("c:1".into(), 100), ("b:1".into(), 100)] },
                ..a
            },
            Role::Primary { .. } | Role::Replica { .. } => a,
        };
        scene.seen("b", replica("b", "a", true, 100));
        // It was attached with 50 bytes less.
        scene.seen("c", replica("c", "a", false, 50));
        scene.seen("c", replica("c", "a", true, 50));
        scene.seen("c", c);
        scene.seen("a", a);
        let expected = outside.is_none().then(|| {
            (vec!["b since 2".to_string(), "c since 4".to_string()], Reason::Growing(vec![at("c")]))
        });
        assert_eq!(set(&scene), expected, "{outside:?}");
        let view = scene.group.view();
        let entry = failover::set::entering(view, &alone(), &at("c"), scene.now);
        assert_eq!(entry.err(), outside);
    }
}

/// Somebody changed its password behind our back: the primary does not let it in, and nothing else would ever tell it anew.
#[test]
fn a_replica_that_calls_in_vain_is_told_again_but_not_all_the_time() {
    let mut scene = Scene::leading(State { in_sync: vec![entry("b", 2)], ..record() });
    scene.ordered("a", Outcome::Done(None));
    let mut attached = 0;
    for _ in 0..80 {
        scene.pass(100);
        scene.seen("a", primary("a", 100));
        scene.seen("b", replica("b", "a", true, 100));
        scene.seen("c", replica("c", "a", false, 100));
        let orders = scene.did().into_iter().filter(|what| what.starts_with("attach c"));
        for _ in orders {
            attached += 1;
            scene.ordered("c", Outcome::Done(Some(replica("c", "a", false, 100))));
        }
    }
    assert_eq!(attached, 2, "after three seconds, and after six");
    let syncing = common::syncing(replica("c", "a", false, 100));
    for _ in 0..80 {
        scene.pass(100);
        scene.seen("a", primary("a", 100));
        scene.seen("b", replica("b", "a", true, 100));
        scene.seen("c", syncing.clone());
        assert!(!scene.did().contains(&"attach c [3]".to_owned()), "it is on its way");
    }
}

/// The offsets of its last stream say nothing about this one.
#[test]
fn a_replica_that_began_a_new_stream_between_two_probes_enters_when_that_one_grows() {
    for (run_id, replid) in [("c1", "h0"), ("c0", "h9")] {
        let seen = |offset| Observation {
            run_id: run_id.into(),
            replid: replid.into(),
            ..replica("c", "a", true, offset)
        };
        let a = |offset| Observation { replid: replid.into(), ..primary("a", offset) };
        let mut scene = Scene::leading(State { in_sync: vec![entry("b", 2)], ..record() });
        scene.pass(1000);
        scene.seen("b", Observation { replid: replid.into(), ..replica("b", "a", true, 60) });
        scene.seen("a", a(40));
        scene.seen("c", seen(40));
        assert_eq!(set(&scene), None, "{run_id} {replid}: not streaming");
        scene.seen("a", a(60));
        scene.seen("c", seen(60));
        let (members, because) = set(&scene).expect("a change of the set");
        assert_eq!((members.len(), because), (2, Reason::Growing(vec![at("c")])));
    }
}

/// Redis pings its replicas every ten seconds; nobody waits so long for a group that nobody uses yet.
#[test]
fn a_stream_without_a_byte_is_given_one() {
    let alone = State { in_sync: Vec::new(), ..record() };
    let a = |offset| Observation {
        role: Role::Primary { replicas: vec![("b:1".into(), 0), ("c:1".into(), 0)] },
        ..primary("a", offset)
    };
    for (offset, stamps) in [(0, true), (14, false)] {
        let mut scene = Scene::leading(alone.clone());
        scene.pass(1000);
        for name in ["b", "c"] {
            scene.seen(name, replica(name, "a", false, 0));
            scene.seen(name, replica(name, "a", true, 0));
        }
        scene.ordered("a", failover::Outcome::Done(Some(a(0))));
        scene.pass(400);
        scene.seen("a", a(offset));
        for name in ["b", "c"] {
            scene.seen(name, replica(name, "a", true, offset));
        }
        let decision = decide(scene.group.view(), scene.now);
        let stamp = Step::Order { backend: at("a"), deed: failover::Deed::Stamp };
        assert_eq!(decision.steps.contains(&stamp), stamps, "{offset}");
    }
}

/// Whoever erased the primary's users (ACL LOAD) keeps the replicas out; a stamp makes the credential anew.
#[test]
fn replicas_that_are_kept_out_get_their_credential_again() {
    let mut scene = Scene::leading(record());
    scene.ordered("a", failover::Outcome::Done(Some(primary("a", 100))));
    for step in 0..8 {
        scene.pass(100);
        scene.seen("a", primary("a", 100));
        for name in ["b", "c"] {
            scene.seen(name, replica(name, "a", false, 100));
        }
        let decision = decide(scene.group.view(), scene.now);
        let stamp = Step::Order { backend: at("a"), deed: failover::Deed::Stamp };
        assert_eq!(decision.steps.contains(&stamp), step >= 5, "{step}");
    }
    let waits = vec![(at("b"), Unfit::Unattached), (at("c"), Unfit::Unattached)];
    assert_eq!(reason(&scene), Reason::WritesWait(waits), "the floor keeps both");
}

#[test]
fn min_in_sync_is_resolved_by_whoever_publishes() {
    for (fixed, members, expected) in [
        (MinInSync::Auto, 1, 0),
        (MinInSync::Auto, 2, 0),
        (MinInSync::Auto, 3, 1),
        (MinInSync::Auto, 4, 1),
        (MinInSync::Fixed(2), 3, 2),
        (MinInSync::Fixed(0), 4, 0),
    ] {
        let limits = failover::Limits { min_in_sync: fixed, ..failover::Limits::default() };
        assert_eq!(limits.min_in_sync(members), expected, "{fixed:?} of {members}");
    }
}

// -- the other reasons --------------------------------------------------------------------------------------------

#[test]
fn why_nothing_is_done() {
    let mut scene = Scene::empty();
    assert_eq!(reason(&scene), Reason::Passive(None));
    scene.event(Event::Reign(Some(7)));
    scene.event(Event::Paused(false));
    assert_eq!(reason(&scene), Reason::Unread);
    scene.event(Event::State(Stored::Absent, -1));
    assert_eq!(reason(&scene), Reason::Unread, "the path has not been read");
    scene.event(Event::Announced(Announced::Missing, -1));
    assert!(matches!(reason(&scene), Reason::NoTopology(_)));
    scene.event(Event::Announced(Announced::Broken("junk".into()), 1));
    assert_eq!(reason(&scene), Reason::NoTopology("junk".into()));

    let scene = Scene::leading(record());
    assert_eq!(reason(&scene), Reason::Healthy);
    let scene = Scene::passive(record());
    assert_eq!(reason(&scene), Reason::Passive(None));
}

#[test]
fn birth_waits_for_the_named_primary() {
    let born = |seen: Option<Observation>| {
        let mut scene = Scene::empty();
        scene.event(Event::Reign(Some(7)));
        scene.event(Event::Paused(false));
        scene.event(Event::State(Stored::Absent, -1));
        let seed = Topology::new(at("a"), vec![at("b"), at("c")]).unwrap();
        scene.event(Event::Announced(Announced::Is(seed), 0));
        scene.event(Event::Opened(at("a")));
        if let Some(seen) = seen {
            scene.seen("a", seen);
        }
        scene
    };
    assert_eq!(reason(&born(None)), Reason::Looking(at("a")));
    let mut loading = born(None);
    loading.event(Event::Troubled(at("a"), Trouble::Loading));
    assert_eq!(reason(&loading), Reason::BirthWaits(at("a"), "it is loading its data"));
    assert!(matches!(reason(&born(Some(replica("a", "b", true, 1)))), Reason::BirthWaits(..)));
    let mut away = born(None);
    away.kill("a");
    assert_eq!(reason(&away), Reason::BirthWaits(at("a"), "refused"));
    let stamped = born(Some(primary("a", 1)));
    assert!(matches!(reason(&stamped), Reason::BirthWaits(..)), "it carries the epoch of an earlier record");
    let mut scene = born(Some(Observation { fence: Fence::Absent, ..primary("a", 1) }));
    assert_eq!(reason(&scene), Reason::Birth);
    assert_eq!(scene.acts(), ["reread", "publish on new: 1 serving a []"]);
    let first = scene.wanted();
    assert_eq!((first.min_in_sync, first.members.len(), first.promoted), (1, 3, 1));
    assert_eq!(first.primary.run_id, "a0");
}

#[test]
fn a_newer_fence_at_the_primary_means_that_the_record_is_old() {
    let mut scene = Scene::leading(record());
    scene.pass(1);
    scene.seen("a", Observation { fence: Fence::At(9), ..primary("a", 100) });
    assert_eq!(
        decide(scene.group.view(), scene.now),
        failover::Decision { steps: vec![], because: Reason::Deposed(9) }
    );
}

#[test]
fn nobody_eligible_and_too_soon() {
    let mut scene = Scene::leading(State { in_sync: Vec::new(), min_in_sync: 0, ..record() });
    scene.pass(1);
    scene.kill("a");
    scene.pass(20);
    assert_eq!(reason(&scene), Reason::NobodyEligible(Fault::Gone));

    let mut scene = Scene::leading(record());
    scene.pass(100);
    scene.seen("a", Observation { run_id: "a1".into(), ..primary("a", 0) });
    scene.pass(1);
    scene.seen("b", replica("b", "a", false, 100));
    scene.seen("c", replica("c", "a", false, 100));
    let mut view = scene.group.view().clone();
    view.last_failover = Some(scene.now - Duration::from_millis(900));
    assert_eq!(decide(&view, scene.now).because, Reason::TooSoon(Fault::Restarted));
    assert_eq!(decide(&view, scene.now + ms(100)).because, Reason::Failover(Fault::Restarted, at("b")));
}

#[test]
fn while_zookeeper_is_away_nothing_is_published() {
    let mut scene = Scene::leading(record());
    scene.event(Event::Store(false));
    assert_eq!(reason(&scene), Reason::StoreAway(None));
    scene.kill("a");
    scene.pass(1);
    scene.seen("b", replica("b", "a", false, 100));
    scene.seen("c", replica("c", "a", false, 100));
    assert_eq!(reason(&scene), Reason::StoreAway(Some(Fault::Gone)));
    assert_eq!(scene.acts(), Vec::<String>::new());
    scene.event(Event::Store(true));
    assert_eq!(reason(&scene), Reason::Failover(Fault::Gone, at("b")));
}
