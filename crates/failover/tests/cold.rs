//! R14: everything was restarted. Who is chosen, what is waited for, and that nobody is emptied meanwhile.

mod common;

use common::{Scene, at, primary, record, replica};
use failover::cold::Wait;
use failover::{ColdStart, Event, Fence, Limits, Observation, Outcome, Reason, Role, Trouble, decide};
use topology::Phase;

/// What a server says that was restarted and follows nobody.
fn back(name: &str, fence: u64, tick: u64) -> Observation {
    Observation {
        run_id: format!("{name}1"),
        fence: Fence::At(fence),
        tick: Some(tick),
        credential: None,
        role: Role::Primary { replicas: Vec::new() },
        ..primary(name, 0)
    }
}

fn empty(name: &str) -> Observation {
    Observation { fence: Fence::Absent, tick: None, empty: true, ..back(name, 0, 0) }
}

/// Everybody died; these are back and have said so for that long.
fn scene(limits: Limits, said: &[(&str, Observation)], millis: u64) -> Scene {
    let mut scene = Scene::leading_with(limits, record());
    scene.pass(100);
    for name in ["a", "b", "c"] {
        scene.kill(name);
    }
    scene.pass(100);
    for (name, _) in said {
        scene.event(Event::Opened(at(name)));
    }
    say(&mut scene, said, millis);
    scene
}

fn say(scene: &mut Scene, said: &[(&str, Observation)], millis: u64) {
    for _ in 0..=millis / 100 {
        for (name, seen) in said {
            scene.seen(name, seen.clone());
        }
        scene.pass(100);
    }
}

fn reason(scene: &Scene) -> Reason {
    decide(scene.group.view(), scene.now).because
}

#[test]
fn the_one_that_was_told_last_takes_over() {
    let rows: [(&str, [Observation; 3], &str); 5] = [
        ("the highest fence", [back("a", 3, 7), back("b", 2, 7), back("c", 2, 5)], "a"),
        ("then the highest tick", [back("a", 3, 7), back("b", 3, 8), back("c", 3, 5)], "b"),
        ("then the recorded primary", [back("a", 3, 7), back("b", 3, 7), back("c", 3, 7)], "a"),
        ("then the address", [back("a", 3, 6), back("b", 3, 7), back("c", 3, 7)], "b"),
        ("nothing is left to lose", [empty("a"), empty("b"), empty("c")], "a"),
    ];
    for (what, said, expected) in rows {
        let said = ["a", "b", "c"].into_iter().zip(said).collect::<Vec<_>>();
        let mut scene = scene(Limits::default(), &said, 4500);
        assert_eq!(reason(&scene), Reason::ColdStartWaits(Wait::Settling), "{what}");
        say(&mut scene, &said, 1000);
        assert_eq!(reason(&scene), Reason::ColdStart(at(expected)), "{what}");
        let next = scene.published_last().expect("a publication");
        assert_eq!((next.primary.addr.clone(), next.primary.run_id), (at(expected), format!("{expected}1")));
        assert_eq!((next.epoch, next.promoted, next.phase, next.cold), (4, 4, Phase::Promoting, true));
        assert!(next.in_sync.is_empty(), "{what}");
        assert!(next.reason.starts_with("cold start, loss possible: a:1 (fence "), "{}", next.reason);
    }
}

/// Between two messages of one connection: what is recorded must not be changed by what the dead process said.
#[test]
fn a_new_connection_does_not_speak_for_the_old_process() {
    let mut scene = scene(Limits::default(), &[("b", back("b", 3, 7)), ("c", back("c", 3, 7))], 0);
    scene.did();
    // The monitor itself stood still: silence is measured anew.
    scene.event(Event::Stalled);
    scene.event(Event::Opened(at("a")));
    scene.event(Event::Tick);
    assert_eq!(scene.published_last().map(|next| next.reason), None);
    scene.event(Event::Greeted(at("a"), "a1".into()));
    scene.pass(100);
    assert!(matches!(reason(&scene), Reason::ColdStartWaits(_)), "{:?}", reason(&scene));
}

#[test]
fn what_is_waited_for() {
    let all = || [back("a", 3, 7), back("b", 3, 6), back("c", 3, 5)];
    let best = Limits::default;
    type Row = (&'static str, Limits, Vec<(&'static str, Observation)>, Wait);
    let rows: [Row; 6] = [
        (
            "one that was in sync",
            best(),
            vec![("a", back("a", 3, 7)), ("c", back("c", 3, 7))],
            Wait::MayLive(vec![at("b")]),
        ),
        (
            "an operator",
            Limits { cold_start: ColdStart::Operator, ..best() },
            ["a", "b", "c"].into_iter().zip(all()).collect(),
            Wait::Operator,
        ),
        (
            "no tick",
            best(),
            vec![
                ("a", Observation { tick: None, ..back("a", 3, 7) }),
                ("b", back("b", 2, 6)),
                ("c", back("c", 2, 5)),
            ],
            Wait::NoProof(at("a")),
        ),
        (
            "no fence anywhere, and not empty",
            best(),
            ["a", "b", "c"].map(|name| (name, Observation { empty: false, ..empty(name) })).to_vec(),
            Wait::NoProof(at("a")),
        ),
        (
            "older than the set",
            best(),
            vec![("a", back("a", 1, 7)), ("b", back("b", 1, 6)), ("c", back("c", 1, 5))],
            Wait::TooOld(at("a")),
        ),
        (
            "two orders that contradict each other",
            best(),
            vec![("a", back("a", 3, 7)), ("b", back("b", 2, 9)), ("c", back("c", 2, 5))],
            Wait::Contradiction(at("a"), at("b")),
        ),
    ];
    for (what, limits, said, expected) in rows {
        let mut scene = scene(limits, &said, 6000);
        assert_eq!(reason(&scene), Reason::ColdStartWaits(expected), "{what}");
        assert!(scene.published_last().is_none(), "{what}");
    }
}

#[test]
fn one_that_loads_is_waited_for() {
    let mut scene = scene(Limits::default(), &[("a", back("a", 3, 7)), ("b", back("b", 3, 7))], 0);
    scene.event(Event::Opened(at("c")));
    scene.event(Event::Greeted(at("c"), "c1".into()));
    scene.event(Event::Troubled(at("c"), Trouble::Loading));
    assert_eq!(reason(&scene), Reason::ColdStartWaits(Wait::Loading(vec![at("c")])));
}

#[test]
fn one_that_still_runs_as_recorded_is_no_cold_start() {
    let c = Observation { fence: Fence::At(2), ..replica("c", "a", false, 100) };
    let said = [("a", back("a", 3, 7)), ("b", back("b", 3, 7)), ("c", c)];
    let scene = scene(Limits::default(), &said, 6000);
    assert!(matches!(reason(&scene), Reason::NobodyEligible(_)), "{:?}", reason(&scene));
}

/// A file with a `replicaof` line makes a restarted server follow one that may be empty.
#[test]
fn whoever_follows_another_is_detached_first() {
    let c = Observation { run_id: "c1".into(), credential: None, ..replica("c", "a", false, 0) };
    let mut scene = scene(Limits::default(), &[("a", empty("a"))], 0);
    scene.acts();
    scene.event(Event::Opened(at("c")));
    scene.seen("c", c);
    assert_eq!(scene.acts(), ["detach c [3]"], "at once, whoever else is missing");
    let alone = Observation {
        role: Role::Replica { source: None, link_up: false, syncing: false },
        ..replica("c", "a", false, 0)
    };
    scene.ordered("c", Outcome::Done(Some(Observation { run_id: "c1".into(), ..alone })));
    assert_eq!(scene.acts(), [""; 0]);
    assert_eq!(reason(&scene), Reason::ColdStartWaits(Wait::MayLive(vec![at("b")])));
}

#[test]
fn the_chosen_one_is_promoted_also_without_a_fence() {
    let said = ["a", "b", "c"].map(|name| (name, empty(name)));
    let mut scene = scene(Limits::default(), &said, 6000);
    let next = scene.published_last().expect("a publication");
    let order = failover::Order {
        backend: at("a"),
        deed: failover::Deed::Promote { basis: None },
        record: next,
        version: 6,
        reign: 7,
        restart_guard: true,
    };
    let seen =
        Observation { role: Role::Replica { source: None, link_up: false, syncing: false }, ..empty("a") };
    let look = failover::Look { seen, holds_data: false, guarded: false };
    assert!(matches!(order.check(&look), failover::Verdict::AskStore(_)), "{:?}", order.check(&look));
}

/// The primary was alone, and somebody may only have started it in the wrong directory.
#[test]
fn nobody_older_than_a_primary_that_was_alone() {
    let alone = topology::State { in_sync: Vec::new(), ..record() };
    let said = [("a", empty("a")), ("b", back("b", 2, 9)), ("c", back("c", 2, 9))];
    let mut scene = Scene::leading_with(Limits::default(), alone);
    scene.pass(100);
    for (name, _) in &said {
        scene.kill(name);
        scene.event(Event::Opened(at(name)));
    }
    say(&mut scene, &said, 6000);
    assert_eq!(reason(&scene), Reason::ColdStartWaits(Wait::TooOld(at("b"))));
}

/// The last one in sync was to take over and died before it did: nothing was acknowledged under the new epoch, and the old
/// primary lives and has everything.
#[test]
fn a_promotion_that_came_to_nothing() {
    let said = [
        ("a", Observation { run_id: "a0".into(), ..back("a", 2, 9) }),
        ("b", empty("b")),
        ("c", back("c", 1, 5)),
    ];
    for (min_in_sync, expected) in
        [(1, Reason::ColdStart(at("a"))), (0, Reason::ColdStartWaits(Wait::TooOld(at("a"))))]
    {
        let limits = Limits { min_in_sync: failover::MinInSync::Fixed(min_in_sync), ..Limits::default() };
        let before = topology::State { in_sync: vec![common::entry("b", 2)], min_in_sync, ..record() };
        let mut scene = Scene::leading_with(limits, before);
        scene.pass(100);
        scene.seen("b", replica("b", "a", true, 100));
        scene.kill("a");
        scene.pass(1);
        scene.seen("b", replica("b", "a", false, 100));
        scene.seen("c", replica("c", "a", false, 100));
        scene.pass(25);
        let next = scene.published_last().expect("a publication");
        assert_eq!(
            (next.primary.addr, next.in_sync.len(), next.floor),
            (at("b"), 0, (min_in_sync == 1).then_some(2))
        );
        scene.stands(6);
        for name in ["a", "b", "c"] {
            scene.kill(name);
            scene.event(Event::Opened(at(name)));
        }
        say(&mut scene, &said, 6000);
        assert_eq!(reason(&scene), expected, "min_in_sync {min_in_sync}");
    }
}

/// Before the primary itself is back, empty perhaps.
#[test]
fn also_while_the_primary_is_away() {
    let c = Observation { run_id: "c1".into(), credential: None, ..replica("c", "a", false, 0) };
    let mut scene = scene(Limits::default(), &[], 0);
    scene.acts();
    scene.event(Event::Opened(at("c")));
    scene.seen("c", c);
    assert_eq!(scene.acts(), ["detach c [3]"]);
    assert_eq!(reason(&scene), Reason::ColdStartWaits(Wait::MayLive(vec![at("a"), at("b")])));
}

/// It may have been in the set, and be a replica by its file: the record before knows it as another process.
#[test]
fn one_that_was_in_sync_is_promoted_as_the_process_that_it_is_now() {
    let replica_again = |name: &str, tick| Observation {
        role: Role::Replica { source: None, link_up: false, syncing: false },
        ..back(name, 3, tick)
    };
    let said = [("a", back("a", 3, 5)), ("b", replica_again("b", 7)), ("c", back("c", 3, 5))];
    let mut scene = scene(Limits::default(), &said, 6000);
    let next = scene.published_last().expect("a publication");
    let order = failover::Order {
        backend: at("b"),
        deed: failover::Deed::Promote { basis: Some(record()) },
        record: next,
        version: 6,
        reign: 7,
        restart_guard: true,
    };
    let look = failover::Look { seen: replica_again("b", 7), holds_data: false, guarded: false };
    assert!(matches!(order.check(&look), failover::Verdict::Exec(_)), "{:?}", order.check(&look));
}

#[test]
fn a_busy_primary_is_counted_up_once_a_second() {
    let mut scene = Scene::leading(record());
    scene.ordered("a", Outcome::Done(Some(primary("a", 100))));
    let mut ticks = Vec::new();
    for step in 0..40 {
        scene.pass(100);
        // Nothing is written in the last two seconds.
        let offset = 1000 + 300 * step.min(20);
        for name in ["b", "c"] {
            scene.seen(name, replica(name, "a", true, offset));
        }
        let a = primary("a", offset);
        scene.seen("a", a.clone());
        for act in scene.acts() {
            if act.starts_with("tick") {
                ticks.push(step);
            }
            if !act.starts_with("publish") {
                scene.ordered("a", Outcome::Done(Some(a.clone())));
            }
        }
    }
    assert_eq!(ticks.len(), 4, "{ticks:?}");
}
