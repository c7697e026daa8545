//! R15: a planned switchover step by step, what makes it be given up, and where another monitor goes on.

mod common;

use common::{Scene, at, detached, entry, look, ms, order, primary, record, replica, run, words};
use failover::view::Announced;
use failover::{Command, Deed, Event, Fence, Limits, Observation, Outcome, Request, Stored, Verdict};
use topology::{InSync, Phase, PrimaryRef, State, Topology};

/// A monitor that leads, with nothing under way, and is asked for a switchover.
fn asked(to: Option<&str>) -> Scene {
    let mut scene = Scene::leading(record());
    scene.ordered("a", Outcome::Done(None));
    scene.all_answer();
    scene.pass(1);
    scene.did();
    scene.event(Event::Asked(1, Request::Switchover { to: to.map(at) }));
    scene
}

/// The writers of a are held, which held so many bytes then.
fn paused(scene: &mut Scene, offset: u64) {
    scene.pass(3);
    scene.ordered("a", Outcome::Done(Some(primary("a", offset))));
}

fn says(scene: &mut Scene, name: &str, offset: u64) {
    scene.pass(2);
    scene.seen(name, replica(name, "a", true, offset));
}

/// The record while b takes over from a.
fn handing_over() -> State {
    State {
        epoch: 4,
        promoted: 4,
        primary: PrimaryRef { addr: at("b"), run_id: run("b"), replid: String::new() },
        from: Some(PrimaryRef { addr: at("a"), run_id: run("a"), replid: "h1".into() }),
        in_sync: vec![entry("c", 3), entry("a", 3)],
        phase: Phase::Promoting,
        ..record()
    }
}

/// Asked for, published and detached at this offset, which b had at that one.
fn published(scene: &mut Scene) {
    scene.all_answer();
    scene.did();
    paused(scene, 100);
    says(scene, "b", 100);
    scene.did();
    scene.stands(6);
}

fn promoted(name: &str, epoch: u64, offset: u64) -> Observation {
    Observation { fence: Fence::At(epoch), ..primary(name, offset) }
}

#[test]
fn step_by_step() {
    let mut scene = asked(None);
    assert_eq!(scene.acts(), Vec::<String>::new(), "nobody has answered since it was asked for");
    scene.all_answer();
    assert_eq!(scene.acts(), ["pause a [3]"]);
    paused(&mut scene, 120);
    assert!(scene.did().contains(&"look b".into()));
    says(&mut scene, "b", 110);
    assert_eq!(scene.acts(), Vec::<String>::new(), "ten bytes are under way");
    says(&mut scene, "b", 120);
    assert_eq!(scene.acts(), ["publish on 5: 4 promoting b [\"c\", \"a\"]"]);
    let next = scene.wanted();
    assert_eq!(next.from, handing_over().from);
    assert_eq!(next.in_sync, [entry("c", 3), entry("a", 3)], "a since its fence, under its replication id");
    scene.stands(6);
    assert_eq!(scene.acts(), ["leave a [4]"], "first of all: it can take no write any more");
    scene.pass(1);
    scene.ordered("a", Outcome::Done(Some(Observation { offset: 120, ..detached("a") })));
    assert_eq!(scene.acts(), Vec::<String>::new(), "what b holds is asked for once more");
    says(&mut scene, "b", 120);
    assert_eq!(scene.acts(), ["promote (R4 by 3) b [4]"]);
    scene.ordered("b", Outcome::Done(Some(promoted("b", 4, 130))));
    let acts = scene.acts();
    assert!(acts.contains(&"publish on 6: 4 serving b [\"c\", \"a\"], announce".into()), "{acts:?}");
    assert!(acts.contains(&"attach a [4]".into()) && acts.contains(&"attach c [4]".into()), "{acts:?}");
    assert_eq!(scene.wanted().from, None);
    scene.stands(7);
    assert!(scene.acts().contains(&"answer 1: failed over to b".into()));
    assert_eq!(scene.group.view().last_failover, None, "a failover right afterwards does not wait");
}

#[test]
fn what_is_declined_changes_nothing() {
    for (to, why) in [("a", "answer 1: a:1 is the primary already"), ("x", "answer 1: x:1 is no member")] {
        assert_eq!(asked(Some(to)).acts(), [why]);
    }
}

/// What is missing may come, and is waited for as long as the budget lasts. Meanwhile the group is tended.
#[test]
fn what_is_missing_is_waited_for() {
    let say = |scene: &mut Scene, b_up: bool, c_up: bool, epoch: u64| {
        scene.pass(50);
        let fence = Fence::At(epoch);
        scene.seen("c", Observation { fence, ..replica("c", "a", c_up, 100) });
        scene.seen("a", Observation { fence, ..primary("a", 100) });
        scene.seen("b", Observation { fence, ..replica("b", "a", b_up, 100) });
        scene.acts()
    };
    let mut scene = asked(Some("b"));
    let acts: Vec<String> = (0..7).flat_map(|_| say(&mut scene, false, true, 3)).collect();
    assert_eq!(acts, ["publish on 5: 4 serving a [\"c\"]"], "R6 goes on");
    scene.stands(6);
    scene.did();
    scene.ordered("a", Outcome::Done(Some(Observation { fence: Fence::At(4), ..primary("a", 100) })));
    let acts: Vec<String> = (0..15).flat_map(|_| say(&mut scene, false, true, 4)).collect();
    let why = "answer 1: nobody may be promoted without losing acknowledged writes: b:1 (not in sync) c:1 (eligible)";
    assert!(acts.contains(&why.into()), "{acts:?}");
    assert!(!acts.iter().any(|act| act.starts_with("pause")), "{acts:?}");

    let mut scene = asked(Some("b"));
    let acts: Vec<String> = (0..7).flat_map(|_| say(&mut scene, true, false, 3)).collect();
    assert_eq!(acts, ["publish on 5: 4 serving a [\"b\"]"], "first the one that is not fit leaves the set");
    scene.stands(6);
    assert_eq!(scene.acts(), ["stamp a [4]"]);
    scene.ordered("a", Outcome::Done(Some(Observation { fence: Fence::At(4), ..primary("a", 100) })));
    assert_eq!(say(&mut scene, true, false, 4).last().map(String::as_str), Some("pause a [4]"));
}

#[test]
fn a_replica_that_lags_gives_it_up() {
    let mut scene = asked(Some("b"));
    scene.all_answer();
    scene.did();
    paused(&mut scene, 120);
    says(&mut scene, "b", 110);
    scene.pass(49);
    let acts = scene.acts();
    let why = "answer 1: nothing was changed: b:1 lacks 10 bytes and did not catch up in time";
    assert_eq!(acts, [why, "unpause a [3]"]);
    scene.ordered("a", Outcome::Done(Some(primary("a", 120))));
    scene.all_answer();
    assert_eq!(scene.acts(), Vec::<String>::new(), "all is as before");
    let mut far = asked(Some("b"));
    far.pass(2);
    far.seen("a", primary("a", 2 << 20));
    far.seen("c", replica("c", "a", true, 2 << 20));
    far.seen("b", replica("b", "a", true, 100));
    assert_eq!(far.acts(), ["tick a [3]"], "writers are not held for one that is far behind");
}

/// Whatever became of the pause, writers go on.
#[test]
fn a_pause_of_which_nothing_is_known_is_ended() {
    for outcome in [Outcome::Lost, Outcome::Raced, Outcome::Rejected("BUSY".into())] {
        let mut scene = asked(Some("b"));
        scene.all_answer();
        scene.did();
        scene.ordered("a", outcome.clone());
        scene.now += Limits::default().switchover_budget;
        scene.all_answer();
        scene.pass(1);
        scene.all_answer();
        let acts = scene.acts();
        assert!(acts.iter().any(|act| act.starts_with("answer 1: ")), "{outcome:?}: {acts:?}");
        assert!(acts.contains(&"unpause a [3]".into()), "{outcome:?}: {acts:?}");
    }
}

#[test]
fn a_byte_that_did_not_arrive_gives_it_back() {
    let mut scene = asked(Some("b"));
    published(&mut scene);
    scene.did();
    scene.pass(1);
    scene.ordered("a", Outcome::Done(Some(Observation { offset: 114, ..detached("a") })));
    scene.pass(2);
    scene.seen("b", replica("b", "a", true, 100));
    assert_eq!(scene.acts(), Vec::<String>::new(), "it may be on its way");
    scene.pass(2);
    scene.seen("b", replica("b", "a", false, 100));
    assert_eq!(
        scene.acts(),
        ["publish on 6: 5 promoting a [\"c\", \"b\"]"],
        "the link is down, nothing comes any more"
    );
    let next = scene.wanted();
    assert_eq!((next.promoted, next.from), (5, None));
    let b = InSync { since: 3, ..entry("b", 3) };
    assert_eq!(next.in_sync, [entry("c", 3), b], "b since its fence");
    scene.stands(7);
    assert_eq!(scene.acts(), ["promote (R4 by 4) a [5]"]);
    scene.ordered("a", Outcome::Done(Some(promoted("a", 5, 120))));
    scene.did();
    scene.stands(8);
    let acts = scene.acts();
    let why =
        "answer 1: not every byte had arrived at the new primary; a:1 is primary again, and nothing is lost";
    assert!(acts.contains(&why.into()), "{acts:?}");
}

/// One that says nothing for too long is as good as one that lacks something.
#[test]
fn a_new_primary_that_does_not_answer_gives_it_back() {
    let mut scene = asked(Some("b"));
    published(&mut scene);
    scene.did();
    scene.pass(1);
    scene.ordered("a", Outcome::Done(Some(detached("a"))));
    scene.did();
    scene.pass(50);
    assert_eq!(scene.acts(), ["publish on 6: 5 promoting a [\"c\", \"b\"]"]);
    assert_eq!(scene.wanted().in_sync[1], entry("b", 3), "by what it said last");
}

/// The monitor that switches dies; this one has read its record and takes the lead.
fn found_by_another() -> Scene {
    let mut scene = Scene::passive(record());
    scene.pass(1);
    scene.event(Event::State(Stored::Is(handing_over()), 6));
    scene.event(Event::Reign(Some(8)));
    scene.event(Event::Paused(false));
    scene.read_again();
    scene.pass(3);
    scene.did();
    scene
}

/// A record with `from` as another monitor finds it: what it does depends on what it sees of the two.
#[test]
fn where_another_monitor_goes_on() {
    let found = |a: Option<Observation>, b: Observation| {
        let mut scene = found_by_another();
        match a {
            Some(a) => scene.seen("a", a),
            None => scene.kill("a"),
        }
        scene.seen("b", b);
        scene.seen("c", replica("c", "a", true, 100));
        scene.acts()
    };
    let b = || replica("b", "a", true, 100);
    assert_eq!(found(Some(primary("a", 100)), b()), ["pause a [4]"], "(2)");
    let restarted = Observation { run_id: "a1".into(), ..primary("a", 0) };
    for (what, a) in [("gone", None), ("another process", Some(restarted))] {
        assert_eq!(found(a, b()), ["promote b [4]"], "(7), {what}");
    }
    let strange = Observation { replid: "h9".into(), ..detached("a") };
    assert_eq!(found(Some(strange), b()), ["promote b [4]"], "what it holds is another history");
    let done = found(Some(detached("a")), promoted("b", 4, 130));
    assert!(done[0].starts_with("publish on 6: 4 serving b"), "(8): {done:?}");
    // (6): detached already; b answered before that was seen, and is asked again.
    let mut scene = found_by_another();
    scene.seen("b", replica("b", "a", false, 100));
    scene.pass(1);
    scene.seen("a", detached("a"));
    assert_eq!(scene.acts(), Vec::<String>::new());
    scene.pass(2);
    scene.seen("b", replica("b", "a", false, 100));
    assert_eq!(scene.acts(), ["promote b [4]"]);
}

/// R5 in the middle of it: the old primary is the best there is, once it takes no writes.
#[test]
fn the_new_primary_dies_before_it_is_promoted() {
    let mut scene = asked(Some("b"));
    published(&mut scene);
    scene.kill("b");
    assert_eq!(scene.acts(), ["leave a [4]"]);
    scene.pass(1);
    scene.ordered("a", Outcome::Done(Some(Observation { offset: 110, ..detached("a") })));
    scene.pass(3);
    scene.seen("a", Observation { offset: 110, ..detached("a") });
    scene.seen("c", replica("c", "a", false, 100));
    scene.pass(25);
    let next = scene.published_last().expect("a publication");
    assert_eq!((next.epoch, next.primary.addr, next.from), (5, at("a"), None));
}

#[test]
fn the_old_primary_dies_before_it_is_published() {
    let mut scene = asked(Some("c"));
    scene.all_answer();
    scene.did();
    scene.kill("a");
    scene.pass(3);
    for name in ["b", "c"] {
        scene.seen(name, replica(name, "a", false, 100));
    }
    scene.did();
    let next = scene.wanted();
    assert_eq!(
        (next.epoch, next.primary.addr.clone(), next.from),
        (4, at("b"), None),
        "R5, whoever was asked for"
    );
    scene.stands(6);
    scene.ordered("b", Outcome::Done(Some(promoted("b", 4, 130))));
    scene.did();
    scene.stands(7);
    assert!(scene.acts().contains(&"answer 1: b:1 became primary meanwhile".into()));
}

/// R1 at the old primary: its process, its role, and that nobody newer was there.
#[test]
fn what_the_guard_lets_through() {
    let check = |deed, record: State, seen| match order("a", deed, record).check(&look(seen)) {
        Verdict::Exec(commands) => words(&commands),
        other @ (Verdict::AskStore(_) | Verdict::Nothing | Verdict::Deposed(_) | Verdict::Refused(_)) => {
            format!("{other:?}")
        }
    };
    let a = || primary("a", 100);
    assert_eq!(check(Deed::Pause, record(), a()), "pause 5000");
    assert_eq!(check(Deed::Pause, handing_over(), a()), "pause 5000");
    assert_eq!(check(Deed::Leave, handing_over(), a()), "detach");
    assert_eq!(check(Deed::Leave, record(), a()), "Refused(OtherRole)", "nobody leaves it");
    assert_eq!(check(Deed::Pause, handing_over(), detached("a")), "Refused(OtherRole)");
    let other = Observation { run_id: "a1".into(), ..a() };
    for deed in [Deed::Pause, Deed::Leave] {
        assert_eq!(check(deed.clone(), handing_over(), other.clone()), "Refused(OtherProcess)");
        let newer = Observation { fence: Fence::At(5), ..a() };
        assert_eq!(check(deed, handing_over(), newer), "Deposed(5)");
    }
    // A cold start in the middle of it (R14): whatever process it is by then.
    assert_eq!(check(Deed::Detach, handing_over(), detached("a")), "detach");
    let restarted = Observation { run_id: "a1".into(), ..detached("a") };
    assert_eq!(check(Deed::Detach, handing_over(), restarted), "detach");
    let attach = check(Deed::Attach, State { phase: Phase::Serving, ..handing_over() }, detached("a"));
    assert_eq!(attach, "use user 4 b0, follow b, read-only, cut clients, unpause");
    let stamp = order("a", Deed::Stamp, record()).prepare();
    assert_eq!(stamp, Some(Command::Unpause), "no stamp is held");
    assert!(ms(5000) > failover::switchover::LEVEL_WAIT);
}

fn a_second_passes(scene: &mut Scene) {
    for _ in 0..5 {
        scene.pass(210);
        scene.all_answer();
    }
}

/// The publication may stand although nobody said so. Nothing is answered before that is known, and nobody is held for longer
/// than is agreed.
#[test]
fn an_outcome_that_is_not_known_is_waited_for() {
    let mut scene = asked(None);
    scene.all_answer();
    paused(&mut scene, 120);
    says(&mut scene, "b", 120);
    scene.did();
    a_second_passes(&mut scene);
    assert_eq!(scene.acts(), ["unpause a [3]"], "its budget is used up, and ZooKeeper does not answer");
    scene.ordered("a", Outcome::Done(None));
    scene.fails();
    scene.all_answer();
    assert_eq!(scene.acts(), ["reread"], "no answer before it is read");
    scene.event(Event::State(Stored::Is(handing_over()), 6));
    scene.all_answer();
    assert!(scene.acts().contains(&"pause a [4]".into()), "it stands, and is carried out");

    let mut scene = asked(None);
    scene.all_answer();
    paused(&mut scene, 120);
    says(&mut scene, "b", 120);
    scene.did();
    a_second_passes(&mut scene);
    scene.ordered("a", Outcome::Done(None));
    scene.fails();
    scene.did();
    scene.read_again();
    scene.all_answer();
    assert!(scene.acts().iter().any(|act| act.starts_with("answer 1: ")), "it does not stand");
}

/// Somebody writes this primary into `<path>`.
fn edited(scene: &mut Scene, to: &str, version: i32) {
    let others = ["a", "b", "c"].into_iter().filter(|other| *other != to).map(at).collect();
    let topology = Topology::new(at(to), others).expect("a topology");
    scene.event(Event::Announced(Announced::Is(topology), version));
}

const PUT_BACK: &str = "publish on 5: 3 serving a [\"b\", \"c\"], announce";

/// What stands in the path stays there until the switchover has made it true.
#[test]
fn another_primary_in_the_path_is_asked_for() {
    let mut scene = Scene::leading(record());
    scene.ordered("a", Outcome::Done(None));
    scene.all_answer();
    scene.did();
    edited(&mut scene, "b", 1);
    assert_eq!(scene.acts(), ["edited b", "pause a [3]"]);
    paused(&mut scene, 100);
    says(&mut scene, "b", 100);
    scene.did();
    scene.stands(6);
    assert_eq!(scene.acts(), ["leave a [4]"]);
    scene.pass(1);
    scene.ordered("a", Outcome::Done(Some(detached("a"))));
    says(&mut scene, "b", 100);
    scene.ordered("b", Outcome::Done(Some(promoted("b", 4, 130))));
    assert!(scene.acts().contains(&"publish on 6: 4 serving b [\"c\", \"a\"], announce".into()));
    assert_eq!(scene.wanted().path_version, 2, "over the version that was edited");
    scene.stands(7);
    assert!(scene.acts().contains(&"edited b: failed over to b".into()));
}

#[test]
fn what_cannot_be_asked_for_in_the_path_is_put_back() {
    let mut scene = Scene::leading(record());
    scene.event(Event::Paused(true));
    edited(&mut scene, "b", 1);
    let acts = scene.acts();
    let refused = "edited b: the service is paused; `monitor resume` ends that";
    assert_eq!(acts, ["edited b", refused]);
    scene.pass(1);
    assert_eq!(scene.acts(), [PUT_BACK]);
    scene.event(Event::Paused(false));
    scene.fails();
    scene.read_again();
    scene.pass(50);
    assert_eq!(scene.acts(), ["reread", PUT_BACK], "it is asked for once");

    let mut scene = Scene::leading(record());
    let stranger = Topology::new(at("x"), vec![at("a"), at("b"), at("c")]).unwrap();
    scene.event(Event::Announced(Announced::Is(stranger), 1));
    assert_eq!(scene.acts(), ["edited x", "edited x: x:1 is no member"]);
    scene.pass(1);
    assert_eq!(scene.acts(), [PUT_BACK]);
}

/// What this monitor or an earlier one wrote itself is nobody's request.
#[test]
fn an_old_path_asks_for_nothing() {
    let mut scene = Scene::leading(State { path_version: 4, ..record() });
    edited(&mut scene, "b", 4);
    assert_eq!(scene.acts(), [PUT_BACK]);

    let mut scene = Scene::passive(record());
    edited(&mut scene, "b", 1);
    assert_eq!(scene.acts(), Vec::<String>::new(), "who does not lead does nothing");
    scene.event(Event::Reign(Some(7)));
    scene.event(Event::Paused(false));
    scene.did();
    scene.pass(1);
    assert_eq!(scene.acts(), Vec::<String>::new(), "the record may be an old one");
    scene.read_again();
    assert_eq!(scene.acts(), ["edited b"]);
}

/// It may be edited while a primary dies. The failover has its way, and whoever wrote there is told.
#[test]
fn an_edit_that_came_too_late_is_not_forgotten_in_silence() {
    let mut scene = Scene::leading(record());
    scene.kill("a");
    scene.pass(1);
    for name in ["b", "c"] {
        scene.seen(name, replica(name, "a", false, 100));
    }
    assert_eq!(scene.acts(), ["publish on 5: 4 promoting b [\"c\"]"]);
    edited(&mut scene, "c", 1);
    scene.stands(6);
    scene.ordered("b", Outcome::Done(Some(promoted("b", 4, 130))));
    let acts = scene.acts();
    assert!(acts.contains(&"edited c: another request for this service is under way".into()), "{acts:?}");
}
