//! R4, row by row.

mod common;

use common::{Scene, at, entry, primary, promoting, record, replica, syncing};
use failover::candidate::{best, disqualified, refusal};
use failover::{Disqualified, Event, Fence, Observation};

#[test]
fn who_may_be_promoted_and_why_not() {
    let b = || replica("b", "a", false, 100);
    let rows: [(&str, Observation, Option<Disqualified>); 12] = [
        ("attached or not", b(), None),
        ("its primary is detached", replica("b", "c", false, 0), None),
        ("restarted", Observation { run_id: "b1".into(), ..b() }, Some(Disqualified::Restarted)),
        ("primary", primary("b", 100), Some(Disqualified::IsPrimary)),
        ("syncing", syncing(b()), Some(Disqualified::Syncing)),
        ("no fence", Observation { fence: Fence::Absent, ..b() }, Some(Disqualified::NoFence)),
        ("unreadable", Observation { fence: Fence::Unreadable, ..b() }, Some(Disqualified::NoFence)),
        (
            "the stamp of its entry has not come",
            Observation { fence: Fence::At(1), ..b() },
            Some(Disqualified::FenceTooOld { fence: 1, since: 2 }),
        ),
        ("the stamp of its entry, no later one", Observation { fence: Fence::At(2), ..b() }, None),
        ("a later stamp", Observation { fence: Fence::At(9), ..b() }, None),
        ("other history", Observation { replid: "h9".into(), ..b() }, Some(Disqualified::OtherHistory)),
        (
            "restarted counts first",
            Observation { run_id: "x".into(), ..primary("b", 1) },
            Some(Disqualified::Restarted),
        ),
    ];
    for (what, seen, expected) in rows {
        assert_eq!(refusal(&record(), &entry("b", 2), &seen), expected, "{what}");
    }
}

#[test]
fn a_history_is_known_by_the_record_or_by_the_entry_or_by_the_stamp_of_a_promotion() {
    let mut state = record();
    state.primary.replid = "h2".into();
    let seen = |replid: &str, fence| Observation {
        replid: replid.into(),
        fence: Fence::At(fence),
        ..replica("c", "a", true, 5)
    };
    let c = entry("c", 3);
    assert_eq!(refusal(&state, &c, &seen("h2", 3)), None, "the primary's recorded one");
    assert_eq!(refusal(&state, &c, &seen("h1", 3)), None, "its own entry's");
    assert_eq!(refusal(&state, &c, &seen("h3", 3)), Some(Disqualified::OtherHistory));

    let state = promoting(); // the new primary's is not recorded yet
    assert_eq!(refusal(&state, &c, &seen("h3", 3)), Some(Disqualified::OtherHistory));
    assert_eq!(refusal(&state, &c, &seen("h3", 4)), None, "the promotion's stamp reached it");
    assert_eq!(
        refusal(&state, &c, &seen("", 3)),
        Some(Disqualified::OtherHistory),
        "no id is not the empty id"
    );
}

#[test]
fn what_the_view_adds() {
    let scene = Scene::leading(record());
    let verdict =
        |scene: &Scene, name: &str| disqualified(scene.group.view(), &record(), &at(name), scene.now);
    assert_eq!(verdict(&scene, "b"), None);
    assert_eq!(verdict(&scene, "x"), Some(Disqualified::NotInSync));

    let mut scene = Scene::leading(record());
    scene.kill("b");
    assert_eq!(verdict(&scene, "b"), Some(Disqualified::Unheard));

    let mut view = Scene::leading(record()).group.view().clone();
    view.limits.priority.insert(at("b"), 0);
    assert_eq!(disqualified(&view, &record(), &at("b"), scene.now), Some(Disqualified::Never));
}

#[test]
fn the_best_has_the_highest_offset_then_priority_then_address() {
    #[allow(clippy::type_complexity)] // one table, read once
    type Row = (u64, u64, &'static [(&'static str, u32)], Option<&'static str>);
    let rows: [Row; 6] = [
        (100, 100, &[], Some("b")),
        (100, 101, &[], Some("c")),
        (100, 100, &[("b", 200)], Some("c")),
        (100, 101, &[("b", 1)], Some("c")),
        (100, 99, &[("b", 0)], Some("c")),
        (100, 99, &[("b", 0), ("c", 0)], None),
    ];
    for (b, c, priorities, expected) in rows {
        let mut scene = Scene::leading(record());
        let lost = scene.now;
        scene.pass(1);
        scene.seen("b", replica("b", "a", false, b));
        scene.seen("c", replica("c", "a", false, c));
        let mut view = scene.group.view().clone();
        view.limits.priority = priorities.iter().map(|(name, value)| (at(name), *value)).collect();
        let chosen = best(&view, &record(), lost, scene.now);
        assert_eq!(chosen, expected.map(at), "offsets {b} {c}, priorities {priorities:?}");
    }
}

#[test]
fn an_offset_counts_only_if_it_was_asked_for_after_the_loss() {
    let mut scene = Scene::leading(record());
    let asked = scene.now;
    scene.pass(5);
    let lost = scene.now;
    scene.event(Event::Seen(at("b"), asked, replica("b", "a", true, 999).into()));
    assert_eq!(best(scene.group.view(), &record(), lost, scene.now), None);
    scene.pass(1);
    scene.seen("b", replica("b", "a", true, 999));
    assert_eq!(best(scene.group.view(), &record(), lost, scene.now), Some(at("b")));
}

/// What c said last was said before it followed two further primaries, or may have: none of them is forgotten for that.
#[test]
fn an_old_answer_makes_no_history_forgotten_that_came_after_it() {
    let mut state = record();
    state.primary.replid = "h3".into();
    state.in_sync[1].later = vec!["h2".into()];
    let mut scene = Scene::leading(state);
    scene.pass(1);
    scene.seen("c", replica("c", "a", false, 90)); // h1
    scene.event(Event::Closed(at("c")));
    scene.pass(300);
    scene.seen("b", Observation { replid: "h3".into(), ..replica("b", "a", true, 100) });
    scene.kill("a");
    scene.pass(1);
    scene.seen("b", Observation { replid: "h3".into(), ..replica("b", "a", false, 100) });
    scene.pass(30);
    let next = scene.published_last().expect("b takes over");
    let c = next.in_sync(&at("c")).expect("it is silent for less than down_after").clone();
    assert_eq!((c.replid.as_str(), c.later), ("h1", vec!["h2".to_owned(), "h3".to_owned()]));
}

/// c followed a (h2) before it fell silent, and nobody saw it there: its entry still says h1. It holds all that was confirmed.
#[test]
fn one_that_nobody_heard_may_stand_at_the_history_of_any_primary_since() {
    let mut state = record();
    state.primary.replid = "h2".into();
    let mut scene = Scene::leading(state.clone());
    scene.pass(1);
    scene.event(Event::Closed(at("c"))); // silent from here on
    scene.pass(600);
    scene.kill("a");
    scene.pass(1);
    scene.seen("b", Observation { replid: "h2".into(), ..replica("b", "a", false, 100) });
    let next = scene.published_last().expect("b takes over");
    assert_eq!((next.epoch, &next.primary.addr), (4, &at("b")));
    let c = next.in_sync(&at("c")).expect("min_in_sync keeps it").clone();
    assert_eq!((c.replid.as_str(), c.later.as_slice()), ("h1", &["h2".to_owned()][..]));

    // b dies before c is heard; the record may or may not have its replication id.
    for recorded in ["", "h3"] {
        let mut state = next.clone();
        state.primary.replid = recorded.into();
        let seen = |replid: &str| Observation { replid: replid.into(), ..replica("c", "a", false, 100) };
        for known in ["h1", "h2"] {
            assert_eq!(refusal(&state, &c, &seen(known)), None, "{known}");
        }
        assert_eq!(refusal(&state, &c, &seen("h9")), Some(Disqualified::OtherHistory));
    }
    // Once heard, it stands where it was seen, or at the primary that is replaced.
    let heard = topology::InSync { replid: "h2".into(), later: Vec::new(), ..c };
    assert_eq!(heard.clone().after("h2"), heard);
    assert_eq!(heard.clone().after(""), heard);
    let many = (0..20).fold(heard, |entry, at| entry.after(&format!("p{at}")));
    assert_eq!(many.later.len(), topology::LATER_MAX);
    assert!(many.may_stand_at("p0") && !many.may_stand_at("p19"), "the earliest stay");
}
