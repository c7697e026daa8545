//! `[detector]` is reloaded with shorter limits: what passed under the old ones is no silence.

mod common;

use common::{Scene, at, ms, record, replica};
use failover::view::Limits;
use failover::{Event, PeerOpinion};

#[test]
fn shorter_limits_make_no_silence_of_an_answer_that_was_in_time() {
    let calm = Limits { ping_interval: ms(1000), down_after: ms(3000), ..Limits::default() };
    let mut scene = Scene::leading_with(calm.clone(), record());
    scene.event(Event::Peer(PeerOpinion::Gone));
    scene.all_answer();
    scene.did();
    // The next question is due 1000 ms after the last one, and so is the answer.
    scene.pass(900);
    scene.event(Event::Limits(Limits { ping_interval: ms(100), down_after: ms(500), ..calm }));
    scene.pass(1);
    assert_eq!(scene.published_last(), None, "nobody has failed to answer");
    // All servers of a service are asked at the same moment; the replica's answer is the first to arrive.
    scene.seen("b", replica("b", "a", true, 100));
    assert_eq!(
        scene.published_last().map(|next| next.primary.addr),
        None,
        "a failover from {}, which has answered every question",
        at("a")
    );
}

/// Other limits that change leave the silence of a server as long as it is.
#[test]
fn what_has_nothing_to_do_with_silence_does_not_end_it() {
    let mut scene = Scene::leading(record());
    scene.event(Event::Peer(PeerOpinion::Gone));
    scene.all_answer();
    scene.did();
    for step in 0..6 {
        scene.pass(100);
        if step == 3 {
            scene.event(Event::Limits(Limits { max_lag_bytes: 7, ..Limits::default() }));
        }
        ["b", "c"].into_iter().for_each(|name| scene.seen(name, replica(name, "a", true, 100)));
    }
    let next = scene.published_last().expect("a was silent for down_after_ms");
    assert_eq!(next.primary.addr, at("b"));
}
