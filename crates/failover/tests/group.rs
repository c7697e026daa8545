//! One group through whole stories: what is asked for, in which order, and how a story goes on when its teller dies.

mod common;

use common::{Scene, at, entry, ms, primary, promoting, record, refused, replica, run};
use failover::view::Announced;
use failover::{
    Action, Disqualified, Event, Fence, Health, Limits, Observation, Outcome, Reason, Role, Stored, Time,
    Timeline,
};
use topology::{Phase, State};

const NOTHING: [&str; 0] = [];

/// b as it answers right after its promotion.
fn promoted() -> Observation {
    Observation {
        replid: "h2".into(),
        fence: Fence::At(4),
        role: Role::Primary { replicas: Vec::new() },
        ..primary("b", 101)
    }
}

/// a is gone and both replicas have said so.
fn kill_the_primary(scene: &mut Scene) {
    scene.kill("a");
    scene.pass(1);
    scene.seen("b", replica("b", "a", false, 100));
    scene.seen("c", replica("c", "a", false, 99));
}

/// The failover that was completed, among all that is asked for.
fn completed(scene: &mut Scene) -> Option<Timeline> {
    let mut actions = std::iter::from_fn(|| scene.group.poll_action());
    actions.find_map(|action| if let Action::Completed(timeline) = action { Some(timeline) } else { None })
}

#[test]
fn kill_look_publish_promote_announce() {
    let mut scene = Scene::leading(record());
    scene.pass(10);
    scene.event(Event::Closed(at("a")));
    assert_eq!(scene.did(), ["look b", "look c", "look a"], "the replicas' word is wanted at once");
    scene.event(Event::ConnectionRefused(at("a")));
    scene.seen("b", replica("b", "a", false, 100));
    assert_eq!(scene.acts(), NOTHING);
    scene.seen("c", replica("c", "a", false, 99));
    assert_eq!(scene.did(), ["publish on 5: 4 promoting b [\"c\"]"]);
    let wanted = scene.wanted();
    assert_eq!((wanted.promoted, wanted.primary.run_id.as_str()), (4, "b0"));
    assert_eq!((wanted.in_sync[0].since, wanted.min_in_sync), (3, 1), "a promotion leaves since alone");

    scene.stands(6);
    assert_eq!(scene.acts(), ["promote (R4 by 3) b [4]"]);
    scene.pass(1);
    scene.ordered("b", Outcome::Done(Some(promoted())));
    assert_eq!(scene.acts(), ["publish on 6: 4 serving b [\"c\"], announce", "attach c [4]"]);
    assert_eq!(scene.wanted().primary.replid, "h2");
    scene.stands(7);
    assert_eq!(scene.acts(), ["completed 4"], "the promotion stamped it");
    assert_eq!(scene.group.view().state().map(|s| s.phase), Some(Phase::Serving));
    assert_eq!(scene.group.view().last_failover, Some(scene.now));
}

/// A new monitor that finds this record, and servers in these roles, goes on from there.
#[test]
fn a_crash_between_any_two_steps_needs_no_recovery() {
    let b_waits = || Observation { fence: Fence::At(3), ..replica("b", "a", false, 100) };
    let c_waits = || replica("c", "a", false, 99);
    let serving = || State {
        phase: Phase::Serving,
        primary: topology::PrimaryRef { replid: "h2".into(), ..promoting().primary },
        ..promoting()
    };
    let rows: [(&str, State, Observation, &[&str]); 4] = [
        ("before the publication", record(), b_waits(), &["publish on 5: 4 promoting b [\"c\"]"]),
        ("before the promotion", promoting(), b_waits(), &["promote b [4]"]),
        (
            "before the announcement",
            promoting(),
            promoted(),
            // The order finds it done, the look does so sooner.
            &["promote b [4]", "publish on 5: 4 serving b [\"c\"], announce", "attach c [4]"],
        ),
        // Whether the other one had stamped is not known; c does not follow yet.
        ("after the announcement", serving(), promoted(), &["stamp b [4]", "attach c [4]"]),
    ];
    for (what, state, b, expected) in rows {
        let mut scene = Scene::passive(state);
        scene.pass(1);
        scene.kill("a");
        scene.event(Event::Reign(Some(8)));
        scene.event(Event::Paused(false));
        scene.read_again();
        scene.pass(1);
        scene.seen("b", b);
        scene.seen("c", c_waits());
        assert_eq!(scene.acts()[1..], *expected, "{what}");
    }
}

/// Whoever ends it counts it, also when another monitor began it.
#[test]
fn a_failover_that_another_monitor_began_is_completed_once() {
    let mut scene = Scene::passive(record());
    scene.event(Event::State(Stored::Is(promoting()), 6));
    scene.event(Event::Reign(Some(8)));
    scene.event(Event::Paused(false));
    scene.read_again();
    scene.pass(1);
    scene.ordered("b", Outcome::Done(Some(promoted())));
    scene.acts();
    scene.stands(7);
    let timeline = completed(&mut scene).unwrap();
    assert_eq!((timeline.from, timeline.to, timeline.epoch), (Some(at("a")), at("b"), 4));
    assert_eq!((timeline.begun, timeline.announced), (None, Some(scene.now)));
    assert!(timeline.promoted.is_some());

    // One that only reads of it does not.
    let mut scene = Scene::passive(record());
    scene.event(Event::State(Stored::Is(promoting()), 6));
    scene.event(Event::State(Stored::Is(State { phase: Phase::Serving, ..promoting() }), 7));
    assert_eq!(scene.acts(), NOTHING);
}

/// A server that dies in its first synchronisation comes back with our data, and must not pass for a stranger (R0).
#[test]
fn a_member_belongs_to_the_group_from_its_first_attachment_on() {
    let state = State { in_sync: vec![entry("b", 2)], adopted: vec![at("a"), at("b")], ..record() };
    let syncing = || common::syncing(replica("c", "a", false, 0));
    let mut scene = Scene::passive(state);
    scene.pass(1);
    // Not under our credential yet.
    scene.seen("c", Observation { credential: None, ..syncing() });
    scene.event(Event::Reign(Some(7)));
    scene.event(Event::Paused(false));
    scene.read_again();
    scene.seen("a", primary("a", 100));
    scene.seen("b", replica("b", "a", true, 100));
    assert_eq!(scene.acts(), ["reread", "stamp a [3]", "attach c [3]"]);
    scene.ordered("a", Outcome::Done(Some(primary("a", 100))));
    scene.pass(1);
    scene.ordered("c", Outcome::Done(Some(syncing())));
    assert_eq!(scene.acts(), ["publish on 5: 3 serving a [\"b\"]"]);
    assert_eq!(scene.wanted().adopted, [at("a"), at("b"), at("c")]);
    scene.stands(6);
    scene.pass(1);
    scene.seen("c", syncing());
    assert_eq!(scene.acts(), NOTHING);
}

#[test]
fn a_publication_of_unknown_outcome_that_stands() {
    let mut scene = Scene::leading(record());
    kill_the_primary(&mut scene);
    scene.did();
    scene.fails();
    assert_eq!(scene.did(), ["reread"], "nothing is tried before the record was read again");
    let wanted = scene.wanted();
    scene.event(Event::State(Stored::Is(wanted), 6));
    // It may have been published by anybody, so the record before it is not known; the order itself looks at b.
    assert_eq!(scene.acts(), ["promote b [4]"]);
}

#[test]
fn a_publication_of_unknown_outcome_that_does_not_stand() {
    let mut scene = Scene::leading(record());
    kill_the_primary(&mut scene);
    scene.did();
    scene.fails();
    scene.event(Event::State(Stored::Is(record()), 5));
    assert_eq!(scene.acts(), ["reread"]);
    scene.pass(50);
    assert_eq!(scene.acts(), ["publish on 5: 4 promoting b [\"c\"]"], "again, after a rest");
}

#[test]
fn our_own_publication_is_read_back_before_its_answer() {
    let mut scene = Scene::leading(record());
    kill_the_primary(&mut scene);
    scene.did();
    scene.event(Event::State(Stored::Is(scene.wanted()), 6));
    assert_eq!(scene.acts(), ["promote (R4 by 3) b [4]"], "it is ours, with all that is known of it");
    scene.stands(6);
    assert_eq!(scene.acts(), NOTHING);
    assert_eq!(scene.group.view().record.as_ref().map(|(_, version)| *version), Some(6));
}

/// The record looks like the one that is being published, but it is that of an attempt before.
#[test]
fn what_is_announced_is_believed_from_the_answer_only() {
    let mut scene = Scene::leading(record());
    for _ in 0..2 {
        scene.event(Event::Announced(Announced::Missing, -1));
    }
    assert_eq!(scene.acts(), ["reread", "publish on 5: 3 serving a [\"b\", \"c\"], announce"]);
    let wanted = scene.wanted();
    scene.fails();
    scene.pass(50);
    assert_eq!(scene.acts(), ["reread", "publish on 5: 3 serving a [\"b\", \"c\"], announce"]);
    scene.event(Event::State(Stored::Is(wanted), 6));
    assert_eq!(scene.group.view().announced, (Announced::Missing, -1));
    scene.fails();
    scene.pass(50);
    assert_eq!(scene.acts(), ["reread", "publish on 6: 3 serving a [\"b\", \"c\"], announce"]);
}

#[test]
fn a_newer_record_wins_and_an_older_answer_changes_nothing() {
    let mut scene = Scene::leading(record());
    scene.event(Event::State(Stored::Is(promoting()), 9));
    assert_eq!(scene.group.view().state(), Some(&promoting()));
    scene.event(Event::State(Stored::Is(record()), 5));
    assert_eq!(scene.group.view().state(), Some(&promoting()), "a late answer");
    assert_eq!(scene.acts(), ["promote b [4]", "reread"]);
    scene.event(Event::State(Stored::Is(promoting()), 9));
    assert_eq!(scene.group.view().record_damaged, None);
}

#[test]
fn a_destroyed_record_is_put_back_by_who_knows_it() {
    for stored in [Stored::Damaged("junk".into()), Stored::Is(State { epoch: 2, ..record() })] {
        let mut scene = Scene::leading(record());
        scene.event(Event::State(stored, 6));
        assert_eq!(*scene.group.because(), Reason::RecordRestored);
        assert_eq!(scene.acts(), ["publish on 6: 3 serving a [\"b\", \"c\"]"]);
        scene.stands(7);
        assert_eq!(scene.group.view().record_damaged, None);
    }
    let mut scene = Scene::leading(record());
    scene.event(Event::State(Stored::Absent, -1));
    assert_eq!(scene.acts(), ["reread"], "a late answer perhaps");
    scene.event(Event::State(Stored::Absent, -1));
    assert_eq!(scene.acts(), ["publish on new: 3 serving a [\"b\", \"c\"]"]);
}

/// A record that was read before this reign need not be the last one.
#[test]
fn a_destroyed_record_is_not_put_back_by_who_may_know_an_older_one() {
    let taken_over = |version| {
        let mut scene = Scene::passive(record());
        scene.event(Event::State(Stored::Damaged("junk".into()), version));
        scene.event(Event::Reign(Some(8)));
        scene.event(Event::Paused(false));
        scene.all_answer();
        scene
    };
    let mut scene = taken_over(7);
    assert_eq!(*scene.group.because(), Reason::RecordDamaged);
    assert_eq!(scene.acts(), ["reread"]);
    // Only one write lies between: that one destroyed it.
    let mut scene = taken_over(6);
    assert_eq!(*scene.group.because(), Reason::RecordRestored);
    assert_eq!(scene.acts(), ["reread", "publish on 6: 3 serving a [\"b\", \"c\"]"]);

    // Our own publication of unknown outcome may have been the last one.
    let mut scene = Scene::leading(record());
    scene.kill("c");
    assert_eq!(scene.acts(), ["publish on 5: 4 serving a [\"b\"]"]);
    scene.fails();
    scene.event(Event::State(Stored::Damaged("junk".into()), 7));
    assert_eq!(*scene.group.because(), Reason::RecordDamaged);
}

#[test]
fn no_record_and_none_known_is_for_an_operator() {
    let mut scene = Scene::empty();
    scene.event(Event::Reign(Some(7)));
    scene.event(Event::Paused(false));
    scene.event(Event::State(Stored::Damaged("junk".into()), 3));
    assert_eq!(*scene.group.because(), Reason::RecordDamaged);
    assert_eq!(scene.acts(), ["reread"]);
}

#[test]
fn what_is_no_topology_in_the_path_is_put_back() {
    let mut scene = Scene::leading(record());
    scene.event(Event::Announced(Announced::Broken("junk".into()), 1));
    assert!(matches!(scene.group.because(), Reason::AnnouncementRestored(_)));
    assert_eq!(scene.acts(), ["publish on 5: 3 serving a [\"b\", \"c\"], announce"]);
    assert_eq!(scene.wanted().path_version, 2);
    assert_eq!(scene.group.view().state(), Some(&record()), "no traffic moves");
}

/// A znode that was deleted and made anew between two reads begins at version 0 again.
#[test]
fn the_path_made_anew_is_noticed() {
    let mut scene = Scene::leading(record());
    scene.event(Event::Announced(Announced::Is(record().topology()), 4));
    scene.did();
    scene.event(Event::Announced(Announced::Broken("junk".into()), 0));
    assert_eq!(scene.acts(), ["reread"]);
    scene.event(Event::Announced(Announced::Broken("junk".into()), 0));
    assert_eq!(scene.acts(), ["publish on 5: 3 serving a [\"b\", \"c\"], announce"]);
    assert_eq!(scene.wanted().path_version, 1);
}

#[test]
fn a_promotion_that_r4_refuses_goes_to_another_one() {
    let mut scene = Scene::leading(record());
    kill_the_primary(&mut scene);
    scene.did();
    scene.stands(6);
    scene.did();
    scene.pass(1);
    scene.ordered("b", refused_order());
    scene.pass(1);
    scene.seen("b", replica("b", "a", false, 100));
    scene.seen("c", replica("c", "a", false, 99));
    assert_eq!(scene.acts(), ["publish on 6: 5 promoting c []"]);

    // Nobody else: b is tried again, and its order looks at R4 each time.
    let mut scene = Scene::leading(record());
    kill_the_primary(&mut scene);
    scene.did();
    scene.stands(6);
    scene.did();
    scene.kill("c");
    scene.pass(1);
    scene.ordered("b", refused_order());
    scene.pass(60);
    scene.seen("b", replica("b", "a", false, 100));
    assert_eq!(scene.acts(), ["promote (R4 by 3) b [4]"]);
}

fn refused_order() -> Outcome {
    refused(Disqualified::Syncing)
}

#[test]
fn the_chosen_one_dies_before_its_promotion() {
    let mut scene = Scene::leading(record());
    kill_the_primary(&mut scene);
    scene.did();
    scene.stands(6);
    assert_eq!(scene.acts(), ["promote (R4 by 3) b [4]"]);
    scene.ordered("b", Outcome::Lost);
    scene.kill("b");
    scene.pass(1);
    scene.seen("c", replica("c", "a", false, 99));
    assert_eq!(scene.acts(), ["publish on 6: 5 promoting c []"]);
}

#[test]
fn a_monitor_without_the_lead_asks_for_nothing() {
    let mut scene = Scene::passive(record());
    kill_the_primary(&mut scene);
    scene.pass(1000);
    assert_eq!(scene.acts(), NOTHING);

    let mut scene = Scene::leading(record());
    scene.event(Event::Reign(None));
    kill_the_primary(&mut scene);
    scene.pass(1000);
    assert_eq!(scene.acts(), NOTHING);
    assert_eq!(*scene.group.because(), Reason::Passive(Some(failover::view::Fault::Gone)));
}

#[test]
fn one_order_per_server_and_one_publication_at_a_time() {
    let mut scene = Scene::leading(record());
    scene.pass(1);
    scene.seen("b", replica("b", "c", false, 100));
    assert_eq!(scene.acts(), ["attach b [3]"]);
    scene.pass(1);
    scene.seen("b", replica("b", "c", false, 100));
    assert_eq!(scene.acts(), NOTHING);
    scene.ordered("b", Outcome::Lost);
    scene.pass(1);
    scene.seen("b", replica("b", "c", false, 100));
    assert_eq!(scene.acts(), NOTHING, "it rests");
    scene.pass(50);
    assert_eq!(scene.acts(), ["attach b [3]"]);

    let mut scene = Scene::leading(record());
    scene.kill("c");
    assert_eq!(scene.acts(), ["publish on 5: 4 serving a [\"b\"]"]);
    scene.pass(1);
    scene.seen("b", replica("b", "a", true, 100));
    assert_eq!(scene.acts(), NOTHING);
}

#[test]
fn a_returned_primary_is_demoted_and_a_writable_replica_protected() {
    let serving = State {
        epoch: 4,
        promoted: 4,
        primary: topology::PrimaryRef { addr: at("b"), run_id: run("b"), replid: "h2".into() },
        in_sync: vec![common::entry("c", 3)],
        ..record()
    };
    let mut scene = Scene::passive(serving);
    scene.pass(1);
    scene.event(Event::Reign(Some(7)));
    scene.event(Event::Paused(false));
    scene.read_again();
    scene.pass(1);
    let table = Role::Primary { replicas: vec![("c:1".into(), 100)] };
    scene.seen("b", Observation { role: table, ..promoted() });
    scene.seen("a", Observation { run_id: "a1".into(), ..primary("a", 7) });
    let c = Observation {
        credential: Some(4),
        read_only: false,
        replid: "h2".into(),
        ..replica("c", "b", true, 100)
    };
    scene.seen("c", c);
    assert_eq!(scene.acts(), ["reread", "stamp b [4]", "attach a [4]", "protect c [4]"]);
}

#[test]
fn the_fence_is_stamped_again_when_it_is_missing_or_low() {
    for fence in [Fence::Absent, Fence::At(2)] {
        let mut scene = Scene::leading(record());
        scene.ordered("a", Outcome::Done(Some(primary("a", 100))));
        scene.did();
        scene.pass(100);
        scene.seen("a", Observation { fence, ..primary("a", 100) });
        assert_eq!(scene.acts(), ["stamp a [3]"], "{fence:?}");
    }
}

/// An answer of a probe that was asked before an order ended does not hide what the order saw.
#[test]
fn an_older_answer_does_not_hide_what_an_order_saw() {
    let mut scene = Scene::leading(record());
    kill_the_primary(&mut scene);
    scene.did();
    scene.stands(6);
    scene.did();
    let asked = scene.now;
    scene.pass(1);
    scene.ordered("b", Outcome::Done(Some(promoted())));
    scene.did();
    scene.event(Event::Seen(at("b"), asked, replica("b", "a", false, 100).into()));
    assert_eq!(scene.group.view().current(&at("b"), scene.now), Some(&promoted()));
}

#[test]
fn a_server_without_rights_for_the_credential_is_run_without_it() {
    let mut scene = Scene::leading(record());
    scene.pass(1);
    scene.seen("b", replica("b", "c", false, 100));
    assert_eq!(scene.acts(), ["attach b [3]"]);
    scene.ordered("b", Outcome::NoCredential("NOPERM".into()));
    assert!(!scene.group.view().limits.restart_guard);
    assert_eq!(scene.now, ms(1003));
}

/// When the failover that is under way, and whose publication is asked for, says that the primary was lost.
fn told_loss(scene: &mut Scene) -> Time {
    scene.acts();
    scene.stands(6);
    scene.acts();
    scene.ordered("b", Outcome::Done(Some(promoted())));
    scene.acts();
    scene.stands(7);
    completed(scene).and_then(|timeline| timeline.begun).expect("a failover").lost
}

fn replicas_answer(scene: &mut Scene) {
    scene.seen("b", replica("b", "a", true, 100));
    scene.seen("c", replica("c", "a", true, 99));
}

/// The connection was closed once, long ago; what counts is when the primary was lost.
#[test]
fn a_failover_is_measured_from_the_loss_that_it_follows() {
    let mut scene = Scene::leading(record());
    scene.pass(10);
    scene.event(Event::Closed(at("a")));
    scene.event(Event::Opened(at("a")));
    scene.seen("a", primary("a", 100));
    for _ in 0..50 {
        scene.pass(100);
        scene.all_answer();
    }
    let lost = scene.now;
    for _ in 0..6 {
        scene.pass(100);
        replicas_answer(&mut scene);
    }
    assert_eq!(told_loss(&mut scene), lost);
}

/// What was measured anew decides when to act, not since when clients waited.
#[test]
fn silence_that_was_measured_anew_changes_nothing_of_the_loss() {
    let mut scene = Scene::leading(record());
    scene.pass(10);
    scene.all_answer();
    let last_byte = scene.now;
    scene.pass(400);
    scene.event(Event::Unheard(vec![at("a")]));
    scene.pass(110);
    scene.event(Event::Unanswered(at("a")));
    for _ in 0..6 {
        replicas_answer(&mut scene);
        scene.pass(100);
    }
    assert_eq!(told_loss(&mut scene), last_byte);
}

/// Whoever asks in vain gives its connection up in the end; the primary was lost before.
#[test]
fn a_connection_that_is_given_up_over_silence_is_not_the_loss() {
    let limits = Limits::default();
    for silent in [limits.down_after, limits.down_after - ms(1)] {
        let mut scene = Scene::leading(record());
        scene.pass(10);
        scene.all_answer();
        let last_byte = scene.now;
        scene.now += silent;
        scene.event(Event::Closed(at("a")));
        let closed = scene.now;
        scene.event(Event::ConnectionRefused(at("a")));
        scene.seen("b", replica("b", "a", false, 100));
        scene.seen("c", replica("c", "a", false, 99));
        let expected = if silent < limits.down_after { closed } else { last_byte };
        assert_eq!(told_loss(&mut scene), expected, "closed after {silent:?}");
    }
}

/// One epoch means one primary and one set; whoever writes another under it is not one of us.
#[test]
fn a_record_that_contradicts_the_known_one_is_not_taken_over() {
    let other_set = State { in_sync: vec![entry("b", 2)], ..record() };
    let other_primary =
        State { promoted: 3, primary: promoting().primary, in_sync: vec![entry("c", 3)], ..record() };
    for foreign in [other_set, other_primary] {
        let mut scene = Scene::passive(record());
        scene.event(Event::State(Stored::Is(foreign), 6));
        assert_eq!(scene.group.view().state(), Some(&record()));
        assert_eq!(scene.group.view().record_damaged, Some(6));
    }
}

/// A probe that was sent after an order may have been answered before it took effect, and is told sooner or later.
#[test]
fn an_order_has_the_last_word_over_probes_that_were_under_way() {
    let promoted = Observation { fence: Fence::At(4), ..primary("b", 100) };
    let not_yet = replica("b", "a", false, 100);
    for probe_first in [true, false] {
        let mut scene = Scene::leading(record());
        kill_the_primary(&mut scene);
        scene.did();
        scene.stands(6);
        assert_eq!(scene.acts(), ["promote (R4 by 3) b [4]"]);
        let sent = scene.now + ms(1);
        scene.pass(3);
        let probe = Event::Seen(at("b"), sent + ms(1), not_yet.clone().into());
        let order = Event::Ordered(at("b"), sent, Outcome::Done(Some(promoted.clone())));
        let both = if probe_first { [probe, order] } else { [order, probe] };
        both.into_iter().for_each(|event| scene.event(event));
        assert!(scene.acts().contains(&"publish on 6: 4 serving b [\"c\"], announce".into()));
        assert_eq!(
            scene.group.view().backends[&at("b")].seen.as_ref().unwrap().observation,
            promoted.clone().into()
        );
    }
}

/// An answer that says what was said before is taken in without a decision, be it in time or so late that its server was
/// suspected. A decision would have found nothing to do, and left the same behind.
#[test]
fn an_answer_without_news_leaves_what_a_decision_would_leave() {
    let limits = Limits::default();
    for late in [limits.ping_interval, 3 * limits.ping_interval, limits.down_after - ms(1)] {
        let story = |decides: bool| {
            let mut scene = Scene::leading(State { in_sync: vec![entry("b", 3), entry("c", 3)], ..record() });
            scene.now += late;
            let mut health = Vec::new();
            for name in ["a", "b", "c"] {
                health.push(scene.group.view().health(&at(name), scene.now));
                let seen = scene.group.view().backends[&at(name)].seen.as_ref();
                scene.seen(name, Observation::clone(&seen.expect("all have answered").observation));
                health.push(scene.group.view().health(&at(name), scene.now));
                if decides {
                    scene.pass(0);
                }
            }
            (health, scene.did(), scene.group.because().clone(), format!("{:#?}", scene.group.view()))
        };
        let told = story(false);
        let before = if late > 2 * limits.ping_interval { Health::Suspect } else { Health::Up };
        assert_eq!(told.0, [before, Health::Up].repeat(3));
        assert_eq!((told.1.as_slice(), &told.2), (NOTHING.map(str::to_owned).as_slice(), &Reason::Healthy));
        assert_eq!(told, story(true), "after {late:?}");
    }
}
