//! What an operator asks for: members more or less (R16), a failover, and what is given up only when he says so (R4).

mod common;

use common::{Scene, at, detached, entry, ms, primary, record, replica};
use failover::{
    Event, Fence, Limits, MinInSync, Observation, Outcome, PeerOpinion, Reason, Refused, Request, decide,
};
use topology::{Phase, State};

fn ask(scene: &mut Scene, request: Request) {
    scene.event(Event::Asked(1, request));
}

fn remove(name: &str) -> Request {
    Request::Remove { addr: at(name) }
}

fn add(name: &str, overwrite: bool) -> Request {
    Request::Add { addr: at(name), overwrite }
}

fn failover(to: Option<&str>, accept_loss: bool) -> Request {
    Request::Failover { to: to.map(at), accept_loss }
}

/// A monitor that leads, with nothing under way.
fn calm(state: State) -> Scene {
    calm_with(Limits::default(), state)
}

fn calm_with(limits: Limits, state: State) -> Scene {
    let mut scene = Scene::leading_with(limits, state);
    stamped(&mut scene);
    scene.did();
    scene.pass(1);
    scene
}

/// The primary is stamped, and everybody says what he would under the recorded epoch.
fn stamped(scene: &mut Scene) {
    scene.ordered("a", Outcome::Done(None));
    scene.all_answer();
}

#[test]
fn a_new_member_changes_no_epoch_and_is_announced() {
    let two = State { members: vec![at("a"), at("b")], in_sync: vec![entry("b", 2)], ..record() };
    let mut scene = calm(State { min_in_sync: 0, adopted: vec![at("a"), at("b")], ..two });
    ask(&mut scene, add("c", false));
    assert_eq!(scene.acts(), ["publish on 5: 3 serving a [\"b\"], announce"]);
    let next = scene.wanted();
    assert_eq!((next.members, next.min_in_sync), (vec![at("a"), at("b"), at("c")], 0), "it is of this epoch");
    assert_eq!(next.adopted, [at("a"), at("b")], "what it holds is its own");
    scene.stands(6);
    assert!(scene.acts().contains(&"answer 1: c added".into()));
    // It enters as everybody does, and with it the group is one of three.
    scene.event(Event::Opened(at("c")));
    scene.seen("c", replica("c", "a", true, 90));
    assert_eq!(scene.published_last().map(|next| next.adopted.len()), Some(3), "now its data are ours");
    scene.stands(7);
    scene.all_answer();
    let grown = scene.published_last().expect("a publication");
    assert_eq!((grown.epoch, grown.in_sync.len(), grown.min_in_sync), (4, 2, 1));
}

/// Found by the simulation (seeds 31 and 579): the set was left with fewer than the number that the epoch asked for.
#[test]
fn an_eviction_does_not_count_one_that_was_only_just_added() {
    let two = State { members: vec![at("a"), at("b")], in_sync: vec![entry("b", 2)], ..record() };
    let mut scene = calm(State { min_in_sync: 0, ..two });
    ask(&mut scene, add("c", false));
    scene.did();
    scene.stands(6);
    scene.did();
    scene.kill("b");
    let next = scene.published_last().expect("a publication");
    assert_eq!((next.epoch, next.in_sync.len(), next.members.len(), next.min_in_sync), (4, 0, 3, 0));
}

#[test]
fn a_member_already_and_one_that_may_be_overwritten() {
    let mut scene = calm(record());
    ask(&mut scene, add("c", false));
    assert_eq!(scene.acts(), ["answer 1: c added"]);
    let mut scene = calm(record());
    ask(&mut scene, add("d", true));
    let next = scene.published_last().expect("a publication");
    assert!(next.members.contains(&at("d")) && next.adopted.contains(&at("d")), "{next:?}");
}

#[test]
fn a_member_leaves_the_set_then_the_group_then_its_primary() {
    let mut scene = calm(record());
    ask(&mut scene, remove("c"));
    assert_eq!(scene.acts(), ["publish on 5: 4 serving a [\"b\"]"]);
    assert_eq!(scene.wanted().min_in_sync, 0, "resolved for the two that stay");
    scene.stands(6);
    assert_eq!(scene.acts(), ["stamp a [4]"]);
    scene.pass(400);
    assert_eq!(scene.acts(), [""; 0], "it does not enter again, and stays a member until the stamp is there");
    stamped(&mut scene);
    assert_eq!(scene.acts(), ["publish on 6: 4 serving a [\"b\"], announce"]);
    let next = scene.wanted();
    assert_eq!((next.members, next.adopted), (vec![at("a"), at("b")], vec![at("a"), at("b")]));
    scene.stands(7);
    assert_eq!(scene.acts(), ["release c [4]"]);
    scene.ordered("c", Outcome::Done(None));
    assert_eq!(scene.acts(), ["answer 1: c removed, released true"]);
    assert_eq!(scene.group.members().count(), 2);
}

#[test]
fn one_that_is_dead_leaves_without_being_told() {
    let mut scene = calm(State { in_sync: vec![entry("b", 2)], ..record() });
    scene.kill("c");
    ask(&mut scene, remove("c"));
    assert_eq!(scene.acts(), ["publish on 5: 4 serving a [\"b\"]"], "for the new min_in_sync");
    scene.stands(6);
    stamped(&mut scene);
    scene.kill("c");
    scene.did();
    scene.stands(7);
    assert!(scene.acts().contains(&"answer 1: c removed, released false".into()));
    // One that hangs is not waited for either.
    let mut scene = calm(State { in_sync: vec![entry("b", 2)], min_in_sync: 0, ..record() });
    ask(&mut scene, remove("c"));
    scene.did();
    scene.stands(6);
    scene.did();
    for _ in 0..25 {
        scene.ordered("c", Outcome::Lost);
        scene.seen("c", replica("c", "a", true, 100));
        scene.all_answer();
        scene.pass(100);
    }
    assert!(scene.acts().contains(&"answer 1: c removed, released false".into()));
}

#[test]
fn what_is_refused() {
    let mut scene = calm(record());
    ask(&mut scene, remove("a"));
    assert_eq!(scene.acts(), ["answer 1: a:1 is the primary; let another one take over first"]);
    ask(&mut scene, remove("d"));
    assert_eq!(scene.acts(), ["answer 1: d:1 is no member"]);
    let limits = Limits { min_in_sync: MinInSync::Fixed(1), ..Limits::default() };
    let mut scene = calm_with(limits, State { in_sync: vec![entry("b", 2)], ..record() });
    ask(&mut scene, remove("b"));
    let why = "answer 1: only 0 proven replicas would stay in sync, and 1 have to: \
               bring another one into sync first";
    assert_eq!(scene.acts(), [why]);
    let mut scene = calm(State { in_sync: vec![entry("b", 2)], min_in_sync: 0, ..record() });
    ask(&mut scene, remove("b"));
    assert_eq!(scene.acts(), [why], "c is not in sync yet");
    let mut scene = Scene::passive(record());
    ask(&mut scene, remove("b"));
    assert_eq!(scene.acts(), ["answer 1: this monitor does not lead"]);
}

#[test]
fn one_at_a_time_and_not_for_ever() {
    let mut scene = calm(record());
    scene.event(Event::Store(false));
    ask(&mut scene, remove("c"));
    scene.event(Event::Asked(2, remove("b")));
    assert_eq!(scene.acts(), ["answer 2: another request for this service is under way"]);
    scene.pass(9_900);
    assert_eq!(scene.acts(), [""; 0]);
    scene.pass(200);
    let acts = scene.acts();
    assert!(acts.len() == 1 && acts[0].starts_with("answer 1: not done within 10000 ms: "), "{acts:?}");
    ask(&mut scene, remove("c"));
    scene.event(Event::Reign(None));
    assert!(scene.acts().contains(&"answer 1: this monitor does not lead".into()));
}

/// R5 with a primary that lives: nobody has to die for it.
#[test]
fn a_failover_while_all_is_well() {
    for (to, expected) in [(None, "b"), (Some("c"), "c")] {
        let mut scene = calm(record());
        ask(&mut scene, failover(to, false));
        assert!(scene.published_last().is_none(), "the replicas are asked first");
        scene.all_answer();
        let next = scene.published_last().expect("a publication");
        assert_eq!((next.epoch, next.phase, &next.primary.addr), (4, Phase::Promoting, &at(expected)));
        scene.stands(6);
        scene.did();
        let seen = primary(expected, 100);
        scene.ordered(expected, Outcome::Done(Some(Observation { fence: Fence::At(4), ..seen })));
        assert!(scene.acts().contains(&"attach a [4]".into()));
        scene.stands(7);
        let acts = scene.acts();
        assert!(acts.contains(&format!("answer 1: failed over to {expected}")), "{acts:?}");
    }
}

#[test]
fn a_failover_to_one_that_lacks_something_is_refused() {
    let mut scene = calm(State { in_sync: vec![entry("b", 2)], ..record() });
    ask(&mut scene, failover(Some("c"), true));
    scene.all_answer();
    let why = "answer 1: nobody may be promoted without losing acknowledged writes: b:1 (eligible) c:1 (not in sync)";
    assert!(scene.acts().contains(&why.to_owned()), "also with accept_loss: the primary has everything");
    assert_eq!(scene.published_last(), None);
}

fn lost(in_sync: &[&str]) -> Scene {
    let in_sync = in_sync.iter().map(|name| entry(name, 2)).collect();
    let mut scene = calm(State { in_sync, ..record() });
    scene.event(Event::Peer(PeerOpinion::Gone));
    scene.pass(100);
    scene.kill("a");
    scene.pass(1);
    for name in ["b", "c"] {
        scene
            .seen(name, Observation { fence: Fence::At(3), tick: Some(7), ..replica(name, "a", false, 100) });
    }
    scene
}

#[test]
fn a_loss_is_accepted_only_by_name() {
    let mut scene = lost(&[]);
    assert!(matches!(decide(scene.group.view(), scene.now).because, Reason::NobodyEligible(_)));
    scene.did();
    ask(&mut scene, failover(None, false));
    let acts = scene.acts();
    assert!(acts[0].starts_with("answer 1: nobody may be promoted"), "{acts:?}");
    // The others are detached first, so that an old primary that returns empties nobody.
    ask(&mut scene, failover(Some("c"), true));
    assert_eq!(scene.acts(), ["detach b [3]", "detach c [3]"]);
    for name in ["b", "c"] {
        scene.ordered(name, Outcome::Done(Some(detached(name))));
    }
    let next = scene.published_last().expect("a publication");
    assert_eq!((next.epoch, next.promoted, &next.primary.addr, next.cold), (4, 4, &at("c"), true));
    assert!(next.in_sync.is_empty());
    assert!(next.reason.starts_with("loss accepted by an operator: a:1 (no answer), b:1 (fence 3, tick 9)"));
}

/// Somebody who holds everything is there: nothing has to be given up.
#[test]
fn nothing_is_given_up_while_one_is_eligible() {
    let mut scene = lost(&["b"]);
    ask(&mut scene, failover(Some("c"), true));
    assert_eq!(scene.published_last().map(|next| next.primary.addr), Some(at("b")));
}

/// ZooKeeper lost its data: the record is below what the servers carry.
#[test]
fn a_record_below_the_servers_epoch_is_lifted_above_it() {
    let mut scene = calm(State { in_sync: vec![], ..record() });
    for name in ["a", "b", "c"] {
        let seen = if name == "a" { primary("a", 100) } else { replica(name, "a", true, 100) };
        scene.pass(1);
        scene.seen(name, Observation { fence: Fence::At(9), ..seen });
    }
    assert_eq!(decide(scene.group.view(), scene.now).because, Reason::Deposed(9));
    scene.did();
    ask(&mut scene, failover(Some("a"), true));
    let next = scene.published_last().expect("a publication");
    assert_eq!((next.epoch, next.promoted, next.primary.addr), (10, 10, at("a")));
}

/// A fence that is none of ours must not end in an epoch that is none.
#[test]
fn a_fence_above_every_epoch_is_no_epoch() {
    let mut scene = calm(State { in_sync: vec![], ..record() });
    for name in ["a", "b", "c"] {
        let seen = if name == "a" { primary("a", 100) } else { replica(name, "a", true, 100) };
        scene.pass(1);
        scene.seen(name, Observation { fence: Fence::At(u64::MAX), ..seen });
    }
    scene.did();
    ask(&mut scene, failover(Some("a"), true));
    let why =
        "answer 1: a:1 cannot take over: its key albireo:fence is above every epoch: delete it there first";
    assert_eq!(scene.acts(), [why]);
    scene.pass(1);
    for (name, fence) in [("b", 7), ("c", u64::MAX)] {
        scene.seen(name, Observation { fence: Fence::At(fence), ..detached(name) });
    }
    scene.did();
    ask(&mut scene, failover(Some("b"), true));
    assert_eq!(scene.published_last().map(|next| next.epoch), Some(8));
}

/// The primary is stamped while a failover that was asked for has to wait: for ZooKeeper, or for the last one to be past.
#[test]
fn an_asked_failover_that_waits_keeps_nothing_waiting() {
    let unstamped = |scene: &mut Scene, name: &str| {
        scene.seen(name, Observation { fence: Fence::Absent, ..primary(name, 100) });
        scene.acts()
    };
    let mut scene = calm(record());
    scene.event(Event::Store(false));
    ask(&mut scene, failover(None, false));
    assert_eq!(unstamped(&mut scene, "a"), ["stamp a [3]"]);

    let mut scene = calm(record());
    ask(&mut scene, failover(None, false));
    scene.all_answer();
    scene.did();
    scene.stands(6);
    scene.did();
    let done = Observation { fence: Fence::At(4), ..primary("b", 100) };
    scene.ordered("b", Outcome::Done(Some(done)));
    scene.did();
    scene.stands(7);
    assert!(scene.acts().contains(&"answer 1: failed over to b".into()));
    scene.pass(100);
    ask(&mut scene, failover(None, false));
    assert_eq!(*scene.group.because(), Reason::TooSoon(failover::view::Fault::Asked));
    assert_eq!(unstamped(&mut scene, "b"), ["stamp b [4]"]);
}

/// The primary under a second address must not be made its own replica.
#[test]
fn one_process_is_one_member() {
    let order = common::order("c", failover::Deed::Attach, State { in_sync: vec![], ..record() });
    let look = failover::Look {
        seen: Observation { run_id: "a0".into(), ..primary("c", 100) },
        holds_data: false,
        guarded: false,
    };
    assert_eq!(order.check(&look), failover::Verdict::Refused(Refused::SameProcess));
    let mut scene = calm(State { in_sync: vec![entry("b", 2)], ..record() });
    scene.pass(100);
    scene.seen("c", replica("c", "a", false, 50));
    scene.seen("c", Observation { run_id: "b0".into(), ..replica("c", "a", true, 50) });
    scene.seen("c", Observation { run_id: "b0".into(), ..replica("c", "a", true, 100) });
    scene.seen("a", primary("a", 100));
    assert_eq!(scene.published_last(), None);
    scene.seen("c", replica("c", "a", true, 100));
    scene.seen("c", replica("c", "a", true, 110));
    assert_eq!(scene.published_last().map(|next| next.in_sync.len()), Some(2), "it is one of its own");
}

/// An answer that waited while the monitor stood still says nothing about now; and a member that is being told whom to follow
/// may have another history in a moment.
#[test]
fn a_failover_waits_for_what_was_ordered_before() {
    let mut scene = Scene::leading(record());
    scene.ordered("a", Outcome::Done(None));
    scene.all_answer();
    scene.seen("b", detached("b"));
    assert!(scene.acts().contains(&"attach b [3]".into()));
    scene.pass(5);
    scene.event(Event::Asked(1, Request::Failover { to: Some(at("c")), accept_loss: false }));
    scene.all_answer();
    assert!(!scene.acts().iter().any(|act| act.starts_with("publish")), "b is being attached");
    let before = scene.now - ms(300);
    let attached = Outcome::Done(Some(replica("b", "a", true, 90)));
    scene.event(Event::Ordered(at("b"), before, attached));
    let seen = |scene: &Scene, name: &str| scene.group.view().backends[&at(name)].seen.clone();
    assert!(seen(&scene, "b").is_some_and(|seen| seen.asked == before), "as old as the question");
    scene.all_answer();
    assert_eq!(scene.acts().first().map(String::as_str), Some("publish on 5: 4 promoting c [\"b\"]"));
}
