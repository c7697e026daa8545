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
