//! R1, row by row: every deed with every fence, and what is sent.

mod common;

use common::{at, look, order, primary, promoting, record, replica, run, syncing, words};
use failover::{Command, Deed, Disqualified, Fence, Look, Observation, Order, Refused, Verdict};

fn with(fence: Fence, seen: Observation) -> Look {
    look(Observation { fence, ..seen })
}

fn word(verdict: Verdict) -> String {
    match verdict {
        Verdict::Exec(commands) => words(&commands),
        Verdict::AskStore(commands) => format!("ask the store: {}", words(&commands)),
        Verdict::Nothing => "nothing".into(),
        Verdict::Deposed(fence) => format!("deposed by {fence}"),
        Verdict::Refused(why) => format!("{why:?}"),
    }
}

fn promote() -> Order {
    order("b", Deed::Promote { basis: Some(record()) }, promoting())
}

const STAMP_4: &str = "stamp 4, keep backlog, read-only, create user 4 b0";

#[test]
fn every_deed_with_every_fence() {
    let b = || replica("b", "a", false, 100);
    let c = || replica("c", "a", false, 100);
    let attach = "use user 4 b0, follow b, read-only";
    let rows: [(&str, Order, Observation, [String; 5]); 4] = [
        (
            "promote",
            promote(),
            b(),
            [
                "deposed by 5".into(),
                format!("become primary, {STAMP_4}"),
                format!("become primary, {STAMP_4}"),
                "Candidate(NoFence)".into(),
                "FenceUnreadable".into(),
            ],
        ),
        (
            "stamp",
            order("b", Deed::Stamp, promoting()),
            primary("b", 100),
            [
                "deposed by 5".into(),
                STAMP_4.into(),
                STAMP_4.into(),
                format!("ask the store: {STAMP_4}"),
                "FenceUnreadable".into(),
            ],
        ),
        (
            "attach",
            order("c", Deed::Attach, promoting()),
            c(),
            [
                "deposed by 5".into(),
                attach.into(),
                attach.into(),
                format!("ask the store: {attach}"),
                "FenceUnreadable".into(),
            ],
        ),
        (
            "protect",
            order("c", Deed::Protect, promoting()),
            c(),
            [
                "deposed by 5".into(),
                "read-only".into(),
                "read-only".into(),
                "ask the store: read-only".into(),
                "FenceUnreadable".into(),
            ],
        ),
    ];
    let fences = [Fence::At(5), Fence::At(4), Fence::At(3), Fence::Absent, Fence::Unreadable];
    for (what, order, seen, expected) in rows {
        for (fence, expected) in fences.into_iter().zip(expected) {
            // A replica that carries the promotion's own stamp is promoted like any other.
            let expected =
                if expected == "Candidate(x)" { format!("become primary, {STAMP_4}") } else { expected };
            assert_eq!(word(order.check(&with(fence, seen.clone()))), expected, "{what}, {fence:?}");
        }
    }
}

#[test]
fn the_process_must_be_the_recorded_one() {
    let other = |seen: Observation| look(Observation { run_id: "other".into(), ..seen });
    let refused = Verdict::Refused(Refused::OtherProcess);
    assert_eq!(promote().check(&other(replica("b", "a", false, 1))), refused);
    assert_eq!(order("a", Deed::Stamp, record()).check(&other(primary("a", 1))), refused);
    assert_eq!(order("c", Deed::Attach, record()).check(&other(replica("c", "b", true, 1))), refused);
    // Whoever is not recorded may be any process: a returned primary, a newcomer.
    let attach = order("a", Deed::Attach, promoting());
    assert_eq!(attach.expected_run_id(), None);
    assert!(matches!(attach.check(&other(primary("a", 1))), Verdict::Exec(_)));
    assert_eq!(promote().expected_run_id(), Some(run("b").as_str()));
}

#[test]
fn a_promotion_looks_at_r4_again_under_the_record_before() {
    let b = || Observation { fence: Fence::At(3), ..replica("b", "a", false, 100) };
    let rows = [
        (b(), None),
        (syncing(b()), Some(Disqualified::Syncing)),
        (Observation { fence: Fence::At(1), ..b() }, Some(Disqualified::FenceTooOld { fence: 1, since: 2 })),
        (Observation { replid: "h9".into(), ..b() }, Some(Disqualified::OtherHistory)),
    ];
    for (seen, expected) in rows {
        let verdict = promote().check(&look(seen.clone()));
        match expected {
            Some(why) => assert_eq!(verdict, Verdict::Refused(Refused::Candidate(why)), "{seen:?}"),
            None => assert_eq!(word(verdict), format!("become primary, {STAMP_4}")),
        }
    }
    // A record that was found promoting: what is certain without the record before.
    let found = order("b", Deed::Promote { basis: None }, promoting());
    assert_eq!(found.check(&look(syncing(b()))), Verdict::Refused(Refused::Candidate(Disqualified::Syncing)));
    assert!(matches!(found.check(&look(b())), Verdict::Exec(_)));
}

#[test]
fn promotion_and_stamp_are_one_step() {
    let Verdict::Exec(commands) = promote().check(&with(Fence::At(3), replica("b", "a", false, 100))) else {
        panic!("not carried out");
    };
    let place = |wanted: &Command| commands.iter().position(|c| c == wanted);
    assert!(place(&Command::BecomePrimary) < place(&Command::Stamp(4)));
    assert!(commands.contains(&Command::ReadOnly));
    assert_eq!(promote().prepare(), Some(Command::Unpause));
    // Somebody promoted it already: prepared in vain, and still read-only at the end.
    let again = promote().check(&with(Fence::At(4), primary("b", 100)));
    assert_eq!(word(again), STAMP_4);
    for deed in [Deed::Attach, Deed::Protect, Deed::Pause] {
        assert_eq!(order("c", deed, record()).prepare(), None);
    }
}

#[test]
fn a_deed_needs_its_role() {
    let role = Verdict::Refused(Refused::OtherRole);
    let rows = [
        ("stamp a replica", order("a", Deed::Stamp, record()), replica("a", "b", true, 1)),
        ("stamp another server", order("c", Deed::Stamp, record()), primary("c", 1)),
        (
            "promote another server",
            order("c", Deed::Promote { basis: None }, record()),
            replica("c", "a", true, 1),
        ),
        ("attach the primary", order("a", Deed::Attach, record()), replica("a", "b", true, 1)),
        ("protect the primary", order("a", Deed::Protect, record()), replica("a", "b", true, 1)),
        ("protect a primary", order("c", Deed::Protect, record()), primary("c", 1)),
    ];
    for (what, order, seen) in rows {
        assert_eq!(order.check(&look(seen)), role, "{what}");
    }
}

#[test]
fn a_stranger_with_data_is_not_overwritten() {
    let mut state = record();
    state.adopted = vec![at("a"), at("b")];
    state.in_sync.pop();
    let attach = order("c", Deed::Attach, state.clone());
    let seen = |holds_data| Look { seen: primary("c", 10), holds_data, guarded: false };
    assert_eq!(attach.check(&seen(true)), Verdict::Refused(Refused::HoldsData));
    let attached = "use user 1 a0, follow a, read-only, cut clients, unpause";
    assert_eq!(word(attach.check(&seen(false))), attached);
    state.adopted.push(at("c"));
    assert_eq!(word(order("c", Deed::Attach, state).check(&seen(true))), attached, "it belonged to us once");
    // A replica's data came from its primary.
    let replica = Look { seen: replica("c", "b", true, 10), holds_data: true, guarded: false };
    assert_eq!(word(attach.check(&replica)), "use user 1 a0, follow a, read-only");
    let unguarded = Order { restart_guard: false, ..attach };
    // The guard was on once: a user that no primary knows any more would keep the replica out for ever.
    assert_eq!(word(unguarded.check(&replica)), "use login of a, follow a, read-only");
    let plain = Look { seen: Observation { credential: None, ..replica.seen.clone() }, ..replica };
    assert_eq!(word(unguarded.check(&plain)), "follow a, read-only");
}

/// A primary that knows a credential lets in nobody else; when the guard is switched off, it has to again.
#[test]
fn the_door_is_opened_where_the_guard_is_off() {
    let stamp = Order { restart_guard: false, ..order("b", Deed::Stamp, promoting()) };
    for (guarded, expected) in [
        (true, "stamp 4, keep backlog, read-only, open to replicas"),
        (false, "stamp 4, keep backlog, read-only"),
    ] {
        assert_eq!(word(stamp.check(&Look { guarded, ..look(primary("b", 100)) })), expected);
    }
}

#[test]
fn a_tick_that_is_no_number_begins_anew() {
    let tick = order("b", Deed::Tick, promoting());
    for (seen, expected) in [(Some(9), "tick"), (None, "first tick")] {
        assert_eq!(word(tick.check(&look(Observation { tick: seen, ..primary("b", 100) }))), expected);
    }
}

#[test]
fn whoever_is_calling_the_primary_already_begins_anew() {
    let attach = order("c", Deed::Attach, promoting());
    for (source, link_up, expected) in [
        ("b", false, "use user 4 b0, detach, follow b, read-only"),
        ("b", true, "use user 4 b0, follow b, read-only"),
        ("a", false, "use user 4 b0, follow b, read-only"),
    ] {
        assert_eq!(word(attach.check(&look(replica("c", source, link_up, 100)))), expected);
    }
}
