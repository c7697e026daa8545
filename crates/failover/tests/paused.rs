//! A group that an operator has paused: nothing new begins, what is published is finished, and the set is kept true.

mod common;

use common::{Scene, at, detached, ms, primary, record, replica};
use failover::view::Fault;
use failover::{Event, Fence, Observation, Outcome, Reason, Request};

/// A monitor that leads a paused group.
fn paused() -> Scene {
    let mut scene = Scene::leading(record());
    scene.ordered("a", Outcome::Done(None));
    scene.all_answer();
    scene.did();
    scene.event(Event::Paused(true));
    scene
}

/// The primary dies, and its replicas say so.
fn dies(scene: &mut Scene) {
    scene.kill("a");
    scene.pass(1);
    for name in ["b", "c"] {
        scene.seen(name, replica(name, "a", false, 100));
    }
}

#[test]
fn nobody_takes_over_before_it_is_resumed() {
    let mut scene = paused();
    assert_eq!(*scene.group.because(), Reason::Paused(None));
    dies(&mut scene);
    scene.pass(2000);
    assert_eq!(scene.acts(), Vec::<String>::new());
    assert_eq!(*scene.group.because(), Reason::Paused(Some(Fault::Gone)));
    scene.event(Event::Paused(false));
    for name in ["b", "c"] {
        scene.seen(name, replica(name, "a", false, 100));
    }
    assert_eq!(scene.acts(), ["publish on 5: 4 promoting b [\"c\"]"]);
}

#[test]
fn what_is_published_is_finished() {
    let mut scene = Scene::leading(record());
    dies(&mut scene);
    assert_eq!(scene.acts(), ["publish on 5: 4 promoting b [\"c\"]"]);
    scene.event(Event::Paused(true));
    scene.stands(6);
    assert_eq!(scene.acts(), ["promote (R4 by 3) b [4]"]);
    // Also where the one that was to take over dies: the group has no primary at all then.
    scene.ordered("b", Outcome::Lost);
    scene.kill("b");
    scene.pass(1);
    scene.seen("c", replica("c", "a", false, 99));
    assert_eq!(scene.acts(), ["publish on 6: 5 promoting c []"]);
}

/// A replica that is serviced leaves the set, so that no write waits for it, and enters again; where it stands in between
/// is its operator's business.
#[test]
fn the_set_is_kept_true_and_nobody_is_told_whom_to_follow() {
    let mut scene = paused();
    scene.kill("c");
    assert_eq!(scene.acts(), ["publish on 5: 4 serving a [\"b\"]"]);
    scene.stands(6);
    assert_eq!(scene.acts(), ["stamp a [4]"]);
    let at_four = |seen: Observation| Observation { fence: Fence::At(4), ..seen };
    let only_b = failover::Role::Primary { replicas: vec![("b:1".into(), 100)] };
    scene.ordered("a", Outcome::Done(Some(Observation { role: only_b, ..at_four(primary("a", 100)) })));
    scene.event(Event::Opened(at("c")));
    scene.pass(1);
    scene.seen("c", detached("c"));
    scene.pass(3000);
    assert!(!scene.acts().iter().any(|act| act.starts_with("attach")), "not while it is paused");
    assert_eq!(scene.group.view().backends[&at("c")].ordered, None);
    for offset in [110, 120] {
        scene.pass(1);
        scene.seen("a", at_four(primary("a", offset)));
        scene.seen("b", at_four(replica("b", "a", true, offset)));
        scene.seen("c", at_four(replica("c", "a", true, offset)));
    }
    assert!(scene.acts().contains(&"publish on 6: 5 serving a [\"b\", \"c\"]".into()));
}

#[test]
fn what_would_move_the_primary_is_refused() {
    let refused = "answer 1: the service is paused; `monitor resume` ends that";
    let failover = Request::Failover { to: None, accept_loss: true };
    for request in [Request::Switchover { to: None }, failover.clone()] {
        let mut scene = paused();
        scene.event(Event::Asked(1, request));
        assert_eq!(scene.acts(), [refused]);
    }
    let mut scene = paused();
    dies(&mut scene);
    scene.did();
    scene.event(Event::Asked(1, failover));
    assert_eq!(scene.acts(), [refused], "also where the primary is lost");
    let mut scene = paused();
    scene.event(Event::Asked(1, Request::Remove { addr: at("c") }));
    assert_eq!(scene.acts(), ["publish on 5: 4 serving a [\"b\"]"], "members come and go");
}

/// Whether it is paused may have changed while another monitor led.
#[test]
fn a_new_reign_begins_nothing_before_it_has_read_whether_it_is_paused() {
    let mut scene = Scene::passive(record());
    scene.event(Event::Paused(false));
    dies(&mut scene);
    scene.event(Event::Reign(Some(7)));
    scene.now += ms(1);
    for name in ["b", "c"] {
        scene.seen(name, replica(name, "a", false, 100));
    }
    scene.pass(1);
    assert!(!scene.acts().iter().any(|act| act.starts_with("publish")));
    assert_eq!(*scene.group.because(), Reason::Unread);
    scene.event(Event::Paused(false));
    assert_eq!(scene.acts(), ["publish on 5: 4 promoting b [\"c\"]"]);
}

/// What was published just before the pause may stand, and is carried out then: nobody is told that it was refused.
#[test]
fn what_may_have_been_published_is_not_refused() {
    for asked in [Request::Failover { to: None, accept_loss: false }, Request::Switchover { to: None }] {
        let mut scene = Scene::leading(record());
        scene.ordered("a", Outcome::Done(None));
        scene.all_answer();
        scene.did();
        scene.event(Event::Asked(1, asked.clone()));
        scene.all_answer();
        if let Request::Switchover { .. } = asked {
            scene.pass(3);
            scene.ordered("a", Outcome::Done(Some(primary("a", 100))));
            scene.pass(2);
            scene.seen("b", replica("b", "a", true, 100));
        }
        let acts = scene.acts();
        assert!(acts.iter().any(|act| act.starts_with("publish on 5: 4 promoting b")), "{acts:?}");
        scene.event(Event::Paused(true));
        scene.fails();
        let acts = scene.acts();
        assert!(!acts.iter().any(|act| act.starts_with("answer")), "{acts:?}");
        scene.read_again();
        let acts = scene.acts();
        let refused = "answer 1: the service is paused; `monitor resume` ends that".to_owned();
        assert!(acts.contains(&refused), "it does not stand: {acts:?}");
    }
}

/// Also not that nobody is eligible, when the one who was chosen dies before it is known that he was.
#[test]
fn a_failover_that_may_have_been_published_is_not_declined() {
    let mut scene = Scene::leading(record());
    scene.ordered("a", Outcome::Done(None));
    scene.all_answer();
    scene.did();
    scene.event(Event::Asked(1, Request::Failover { to: Some(at("b")), accept_loss: false }));
    scene.all_answer();
    assert_eq!(scene.acts().last().map(String::as_str), Some("publish on 5: 4 promoting b [\"c\"]"));
    scene.kill("b");
    scene.pass(1);
    assert!(!scene.acts().iter().any(|act| act.starts_with("answer")));
}
